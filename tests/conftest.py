"""What more than one test file needs."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Folders of results in which notebooks keep answers by a digest of all that decides them.
KEPT = ("answers", "classify", "clip", "photoz_parts", "psf", "tasks")


def copy_checkout(target: Path) -> Path:
    """Copy the files that git tracks, and new ones that it does not ignore, to `target`."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source = ROOT / name
        if source.is_file():
            place = target / name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, place)
    return target


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run the workflow of the checkout in `folder` at the profile smoke."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/workstation"]
    command += ["--cores", "2", "--config", "profile=smoke", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=800, check=False)


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """Return a checkout whose book was built at the profile smoke, by the workflow.

    Every notebook is executed. What nbval has left of the same computations, where it ran before, is not done
    a second time: that is how a run that was killed goes on.
    """
    folder = copy_checkout(tmp_path_factory.mktemp("checkout"))
    for kept in ROOT.glob("results/smoke/*/*"):
        if kept.name in KEPT:
            shutil.copytree(kept, folder / kept.relative_to(ROOT))
    done = snakemake(folder)
    assert done.returncode == 0, f"the book was not built:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}"
    return folder
