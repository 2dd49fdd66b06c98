"""Keep a run with the repository: copy what its notebooks put under ``publish/`` and their provenance.

``make publish PROFILE=full`` fills ``data/published/<study>/``, from where every copy of the book shows it.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from astro_utils.results import atomic

LIMIT = 5_000_000  # bytes a file; the repository stays small


def publish(results: Path, target: Path) -> list[Path]:
    """Copy the published files of every study below `results` to `target` and return the copies.

    Raises
    ------
    ValueError
        When there is nothing to publish, a file is too large, or a stamp names uncommitted changes.
    """
    copies = []
    for folder in sorted(results.glob("*/publish")):
        study = folder.parent
        stamps = sorted(study.glob("provenance/*.json"))
        for stamp in stamps:
            commit = json.loads(stamp.read_text(encoding="utf-8"))["commit"]
            if commit.endswith("+changes"):
                raise ValueError(f"{stamp}: made at {commit}; commit first, so that the run can be repeated")
        for source in [*sorted(folder.iterdir()), *stamps]:
            if source.stat().st_size > LIMIT:
                raise ValueError(
                    f"{source}: {source.stat().st_size:,} bytes; published files stay below {LIMIT:,}"
                )
            place = target / study.name / ("provenance" if source in stamps else "") / source.name
            with atomic(place) as temporary:
                shutil.copyfile(source, temporary)
            copies.append(place)
    if not copies:
        raise ValueError(
            f"{results}: no folder publish/ in any study; run `make book` with this profile first"
        )
    return copies


def main() -> None:
    """Publish the results of the profile named on the command line."""
    root = Path(__file__).resolve().parents[1]
    for copy in publish(root / "results" / sys.argv[1], root / "data" / "published"):
        print(copy.relative_to(root))


if __name__ == "__main__":
    main()
