"""The committed notebooks as sources: parameters that document themselves, alternative text, small cells."""

import json
import re

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*/*.ipynb"))


def code_cells(path):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]


def tags(cell):
    return cell["metadata"].get("tags", [])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: f"{p.parent.name}/{p.stem}")
class TestNotebook:
    def test_parameters_are_typed_commented_and_no_magics(self, path):
        cells = [c for c in code_cells(path) if "parameters" in tags(c)]
        assert len(cells) == 1
        names = set()
        for line in "".join(cells[0]["source"]).splitlines():
            assert re.fullmatch(r"\w+: (int|str|float|bool) = \S.*  # .+", line), line
            names.add(line.split(":")[0])
        assert {"profile_name", "results_dir"} <= names
        assert not names & {"run", "time", "who", "store", "macro", "load", "save", "edit", "config", "env"}

    def test_every_published_figure_has_alternative_text(self, path):
        for cell in code_cells(path):
            if "figures.publish(" in "".join(cell["source"]):
                alt = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
                assert len(alt) > 60, f"describe what the figure shows: {''.join(cell['source'])[:80]}"

    def test_no_long_cells_and_no_kept_errors_or_pictures(self, path):
        for cell in code_cells(path):
            assert "".join(cell["source"]).count("\n") <= 40
            for output in cell["outputs"]:
                assert output["output_type"] != "error"
                assert "image/png" not in output.get("data", {})

    def test_checked_cells_have_a_reference(self, path):
        checked = [c for c in code_cells(path) if "nbval-check-output" in tags(c)]
        assert checked, "a notebook without a checked output can change unnoticed"
        assert all(c["outputs"] and c["execution_count"] for c in checked)

    def test_finishes_its_run(self, path):
        assert "run.finish()" in "".join("".join(c["source"]) for c in code_cells(path))
