"""The workflow: what reruns when something changes, and what a failed notebook leaves behind."""

import json
import os
import subprocess
import sys
from importlib.metadata import metadata

import pytest
from conftest import ROOT, copy_checkout, snakemake
from packaging.specifiers import SpecifierSet

pytestmark = pytest.mark.timeout(900)


def planned(folder) -> set[str]:
    """Rules that the workflow would run now."""
    done = snakemake(folder, "--dry-run", "--quiet", "host")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (done.stdout + done.stderr).splitlines()
    return {line.split()[1].rstrip(":") for line in lines if line.startswith(("rule ", "localrule "))}


def test_nothing_runs_when_nothing_changed(built):
    assert planned(built) == set()


@pytest.mark.parametrize(
    ("module", "reruns"),
    [
        ("astro_utils/margnet.py", {"margformer_audit", "sky_fidelity", "pages", "book", "all"}),
        ("astro_utils/pages.py", {"pages", "book", "all"}),
        (
            "astro_utils/predictor.py",
            {"photoz_train", "photoz_results", "photoz_predict", "pages", "book", "all"},
        ),
    ],
)
def test_a_changed_module_reruns_only_what_imports_it(built, module, reruns):
    path = built / module
    original = path.read_bytes()
    try:
        path.write_bytes(original + b"\n# changed\n")
        assert planned(built) == reruns
    finally:
        path.write_bytes(original)
    assert planned(built) == set(), "back to the same content, nothing should run"


def test_a_table_of_the_sky_makes_the_sky_anew(built):
    path = built / "data" / "sky" / "quasar_lines.ecsv"
    original = path.read_bytes()
    try:
        path.write_bytes(original + b"\n")
        margformer = {f"margformer_{step}" for step in ("sets", "train", "results", "shift", "conformal")}
        sky = {"sky_samples", "sky_fidelity"}
        steps = ("galaxies", "embedding", "train", "results")
        kcorrection = {f"kcorrection_{step}" for step in steps}
        astra = {f"astra_{step}" for step in ("galaxies", "train", "results", "audit", "real", "own")}
        rest = {"photoz_images", "pages", "book", "all"}
        assert planned(built) == margformer | sky | kcorrection | astra | rest
    finally:
        path.write_bytes(original)


def test_a_module_of_a_module_counts(built):
    """The audit imports conformal only through margnet."""
    path = built / "astro_utils" / "conformal.py"
    original = path.read_bytes()
    try:
        path.write_bytes(original + b"\n# changed\n")
        assert "margformer_audit" in planned(built)
        assert "photoz_train" not in planned(built)
    finally:
        path.write_bytes(original)


def test_a_failed_notebook_is_kept_outside_the_book_and_its_error_shown(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    source = folder / "notebooks" / "photoz" / "1_data.ipynb"
    notebook = json.loads(source.read_text())
    cell = next(
        c for c in notebook["cells"] if c["cell_type"] == "code" and "galaxy_sample" in "".join(c["source"])
    )
    cell["source"] = ["raise RuntimeError('the sky is falling')"]
    source.write_text(json.dumps(notebook))
    # Without the audit, which does not depend on the broken notebook, the test is quicker.
    done = snakemake(folder, "--", "book/photoz/3_results.ipynb", "book/photoz/4_predict.ipynb")
    assert done.returncode != 0
    assert "the sky is falling" in done.stdout + done.stderr
    kept = json.loads((folder / "results" / "smoke" / "failed" / "photoz" / "1_data.ipynb").read_text())
    errors = [o for c in kept["cells"] for o in c.get("outputs", []) if o["output_type"] == "error"]
    assert errors[0]["evalue"] == "the sky is falling"
    assert not list((folder / "book" / "photoz").glob("*.ipynb")), (
        "nothing of the broken branch is in the book"
    )


def test_profile_with_an_unknown_notebook_is_refused(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    path = folder / "workflow" / "parameters" / "smoke.yaml"
    path.write_text("photoz/9_nothing: {n_seeds: 1}\n")
    done = snakemake(folder, "--dry-run")
    assert done.returncode != 0
    assert "notebooks/photoz/9_nothing.ipynb is not there" in done.stdout + done.stderr


def test_every_profile_names_parameters_that_its_notebooks_have():
    import yaml

    for profile in (ROOT / "workflow" / "parameters").glob("*.yaml"):
        for name, given in (yaml.safe_load(profile.read_text()) or {}).items():
            cells = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())["cells"]
            tagged = next(c for c in cells if "parameters" in c["metadata"].get("tags", []))
            known = {line.split(":")[0] for line in "".join(tagged["source"]).splitlines() if ":" in line}
            assert set(given) <= known, f"{profile.name}: {name} has no parameter {set(given) - known}"


def test_every_pinned_package_admits_the_oldest_python():
    pins = [
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    ]
    asked = {name: metadata(name)["Requires-Python"] or "" for name in pins}
    assert {name: rule for name, rule in asked.items() if "3.11.0" not in SpecifierSet(rule)} == {}


def test_publishing_needs_something_to_publish(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "workflow" / "publish.py"), "no-such-profile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and "no folder publish/" in done.stderr


def test_without_the_dataset_the_audit_shows_the_published_copy_and_says_so(tmp_path):
    folder = copy_checkout(tmp_path / "checkout")
    environment = {k: v for k, v in os.environ.items() if k != "ASTRO_UTILS_DATA"}
    command = [sys.executable, "-m", "papermill", "notebooks/margformer/4_audit.ipynb", "out.ipynb"]
    command += ["-p", "allow_download", "False"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    text = (folder / "out.ipynb").read_text()
    assert "this page shows the published copy of the audit" in text
    assert "accuracy 91.58342971 %" in text and "test objects in the training set: 7728 of 28532" in text
    assert "computed in this run" not in json.dumps(
        [o for c in json.loads(text)["cells"] for o in c.get("outputs", [])]
    )
