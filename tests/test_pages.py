"""Generated pages: every number comes from a file, and a number that is not there is never made up."""

import json
import os
import re

import pytest
from conftest import ROOT

from astro_utils import pages
from astro_utils.results import metric_row, write_json, write_metrics

SCOREBOARD = """
[columns]
study = "study"
original = "the original reports"
beats = "what beats it"

[[study]]
title = "photoz"
page = "photoz/intro.md"
[study.original]
text = "no number {{cite}}`margformer`"
[study.beats]
text = "σ_MAD = {0:.4f}, η.05 = {1:.2f} % ({2:.0f} seeds)"
numbers = [
  { file = "photoz/metrics.json", experiment = "main", model = "network", metric = "sigma_mad" },
  { file = "photoz/metrics.json", experiment = "main", model = "network", metric = "eta_05", scale = 100 },
  { file = "photoz/metrics.json", experiment = "main", model = "network", metric = "seeds" },
]

[[study]]
title = "astra"
[study.original]
text = "nothing"
"""


def row(model="network", metrics=None, **keys):
    given = {"profile": "full", "sky": "real", "experiment": "main", "n_train": 8, "n_test": 2, "seeds": 5}
    return metric_row(
        **{**given, **keys}, model=model, metrics=metrics or {"sigma_mad": 0.0119638, "eta_05": 0.01034}
    )


@pytest.fixture
def tree(tmp_path):
    """Return a project with a scoreboard and the published metrics of one study."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "scoreboard.toml").write_text(SCOREBOARD, encoding="utf-8")
    write_metrics(tmp_path / "data" / "published" / "photoz" / "metrics.json", [row(), row("boosting")])
    return tmp_path


def cells(markdown, title):
    line = next(line for line in markdown.splitlines() if title in line)
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def edit(tree, old, new):
    path = tree / "book" / "scoreboard.toml"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_numbers_are_looked_up_scaled_and_formatted(tree):
    assert cells(pages.scoreboard(tree), "photoz") == [
        "[**photoz**](photoz/intro.md)",
        "no number {cite}`margformer`",
        "σ_MAD = 0.0120, η.05 = 1.03 % (5 seeds)",
    ]


def test_the_table_has_a_cell_for_every_column(tree):
    lines = [line for line in pages.scoreboard(tree).splitlines() if line.startswith("|")]
    assert lines[0] == "| study | the original reports | what beats it |"
    assert lines[1] == "| --- | --- | --- |"
    assert len(lines) == 4


def test_what_is_not_described_or_not_published_is_not_yet(tree):
    assert cells(pages.scoreboard(tree), "astra") == ["**astra**", "nothing", "not yet"]
    (tree / "data" / "published" / "photoz" / "metrics.json").unlink()
    assert cells(pages.scoreboard(tree), "photoz")[1:] == ["no number {cite}`margformer`", "not yet"]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('model = "network"', 'model = "netwrok"', "0 rows match .*netwrok.*'network'"),
        ('experiment = "main", model = "network"', 'experiment = "main"', "2 rows match"),
        ('metric = "sigma_mad"', 'metric = "sigma"', "no sigma in the row"),
        ("{1:.2f}", "{3:.2f}", "index 3 out of range"),
        ("{1:.2f}", "{1:.2q}", "format"),
    ],
)
def test_a_wrong_query_is_an_error_that_names_study_and_column(tree, old, new, why):
    edit(tree, old, new)
    with pytest.raises(ValueError, match=rf"book/scoreboard\.toml, photoz, beats: .*{why}"):
        pages.scoreboard(tree)


def test_a_published_number_that_is_absent_is_an_error_not_a_nan(tree):
    rows = [row(metrics={"sigma_mad": float("nan"), "eta_05": 0.01})]
    write_metrics(tree / "data" / "published" / "photoz" / "metrics.json", rows)
    with pytest.raises(ValueError, match=r"photoz, beats: .*no sigma_mad in the row"):
        pages.scoreboard(tree)


def test_real_and_simulated_skies_are_told_apart(tree):
    path = tree / "data" / "published" / "photoz" / "metrics.json"
    write_metrics(path, [row(), row(sky="simulated", metrics={"sigma_mad": 0.5, "eta_05": 0.5})])
    with pytest.raises(ValueError, match=r"photoz, beats: .*2 rows match"):
        pages.scoreboard(tree)
    text = (tree / "book" / "scoreboard.toml").read_text(encoding="utf-8")
    text = text.replace('model = "network"', 'model = "network", sky = "real"')
    (tree / "book" / "scoreboard.toml").write_text(text, encoding="utf-8")
    assert "σ_MAD = 0.0120" in pages.scoreboard(tree)


def test_the_scoreboard_of_the_book_is_answered_by_the_published_metrics():
    table = pages.scoreboard(ROOT)
    assert cells(table, "photoz/intro.md")[-1].startswith("ensemble")
    assert "91.58342971 %" in table and "not yet" not in table
    assert not re.search(r"nan|\{\d|None", table)


def stamp(notebook="photoz/2_train", seconds=30.0, **more):
    return {
        "notebook": notebook,
        "parameters": {"profile_name": "quick"},
        "commit": "0123456789ab",
        "versions": {"python": "3.11.0", "numpy": "2.4.6"},
        "datasets": {},
        "device": "CPU, 2 cores (some model)",
        "wall_time_s": seconds,
        "finished": "2025-01-02T03:04:05Z",
        **more,
    }


@pytest.fixture
def stamped(tmp_path):
    here, kept = tmp_path / "results" / "quick" / "photoz", tmp_path / "data" / "published" / "photoz"
    write_json(here / "provenance" / "2_train.json", stamp())
    write_json(here / "provenance" / "1_data.json", stamp("photoz/1_data", 119.4))
    write_json(kept / "provenance" / "2_train.json", stamp(seconds=5400, parameters={"profile_name": "full"}))
    write_json(tmp_path / "results" / "smoke" / "photoz" / "provenance" / "x.json", stamp("photoz/x"))
    return tmp_path


def test_status_lists_this_run_and_the_published_one(stamped):
    text = pages.status(stamped, "quick")
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines()[2:5]]
    assert lines == [
        [
            *(f"[photoz/{name}](photoz/{name}.ipynb)", run, profile, time),
            *("`0123456789ab`", "CPU, 2 cores", "2025-01-02 03:04:05"),
        ]
        for name, run, profile, time in (
            ("1_data", "this run (quick)", "quick", "119 s"),
            ("2_train", "this run (quick)", "quick", "30 s"),
            ("2_train", "published run", "full", "90.0 min"),
        )
    ]
    assert "photoz/x" not in text, "a run of another profile is not this run"
    assert text.rstrip().endswith("Versions of this run: python 3.11.0, numpy 2.4.6.")


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def results_of(tree):
    study = tree / "results" / "quick" / "photoz"
    for name in (
        "figures/pit.png",
        "figures/pit.pdf",
        "tables/scores.csv",
        "metrics.json",
        "audit/metrics.json",
    ):
        touch(study / name)
    touch(study / "publish" / "metrics.json")
    (tree / "results" / "quick" / "empty").mkdir()
    touch(tree / "results" / "smoke" / "photoz" / "figures" / "other.png")
    return study


def test_downloads_link_to_what_is_there(tree):
    study, page = results_of(tree), tree / "book"
    text = pages.downloads(tree, "quick", page)
    links = re.findall(r"\[(\w+)\]\(([^)]+)\)", text)
    assert [kind for kind, _ in links] == ["PNG", "PDF", "CSV", "JSON", "JSON"]
    places = [os.path.normpath(page / link) for _, link in links]
    assert places == [
        str(study / name)
        for name in (
            "figures/pit.png",
            "figures/pit.pdf",
            "tables/scores.csv",
            "audit/metrics.json",
            "metrics.json",
        )
    ]
    assert all(not os.path.isabs(link) for _, link in links)
    assert "## photoz" in text and "empty" not in text and "other" not in text


def test_downloads_do_not_depend_on_where_the_project_lies(tmp_path):
    tree = tmp_path / "publish" / "checkout"
    tree.mkdir(parents=True)
    results_of(tree)
    text = pages.downloads(tree, "quick", tree / "book")
    assert "metrics `photoz/metrics.json`" in text and "publish/metrics.json" not in text


def test_the_command_writes_all_pages(tree, monkeypatch):
    touch(tree / "_config.yml")
    touch(tree / "data" / "registry.toml")
    results_of(tree)
    monkeypatch.chdir(tree / "book")
    pages.main(["--profile", "quick", "--out", "_generated"])
    out = tree / "book" / "_generated"
    names = ["bench.md", "bench_psf.md", "bench_training.md", "downloads.md", "scoreboard.md", "status.md"]
    assert sorted(p.name for p in out.iterdir()) == names
    link = re.search(r"\[PNG\]\(([^)]+)\)", (out / "downloads.md").read_text())[1]
    # Pages of the book's own folder include the generated ones, so links start there.
    assert (tree / "book" / link).resolve() == tree / "results" / "quick" / "photoz" / "figures" / "pit.png"


def test_speeds_are_a_table_with_the_machine(tree):
    assert "make bench" in pages.bench(tree)
    content = {
        "machine": {"processor": "Some CPU", "cores": 2, "memory_gb": 24, "numpy": "2.4"},
        "speed": [
            {
                "survey": "sdss",
                "objects": 20000,
                "processes": 2,
                "seconds": 21.5,
                "objects_per_second": 930,
                "file_mb": 366,
            }
        ],
        "memory": [{"objects": 5000, "processes": 1, "peak_mb": 1210}],
    }
    folder = tree / "data" / "published" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sky.json").write_text(json.dumps(content))
    text = pages.bench(tree)
    assert "| sdss | 20,000 | 2 | 21.5 | 930 | 366 |" in text
    assert "| 5,000 | 1,210 |" in text
    assert "Some CPU, 2 cores, 24 GB; numpy 2.4" in text


def test_the_speed_of_training_is_a_table_with_its_ratio_and_the_share_of_the_matmul_rate(tree):
    assert "make bench" in pages.bench(tree, "training")
    folder = tree / "data" / "published" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    kept = ROOT / "data" / "published" / "bench" / "training.json"
    content = json.loads(kept.read_text())
    (folder / "training.json").write_text(kept.read_text())
    text = pages.bench(tree, "training")
    for row in content["loops"]:
        assert f"| {row['model']} | {row['parameters']:,} | {row['batch']} | {row['fit_bfloat16']} |" in text
        assert f"| {row['fit_bfloat16_over_loader']} |" in text
    assert f"{content['published']['gflop_per_step']['published']} GFLOP" in text
