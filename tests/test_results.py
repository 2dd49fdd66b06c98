"""Result files: whole or not there, one schema, and numbers that say where they come from."""

import json
import os
import re

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from astro_utils.margnet import CLASSES
from astro_utils.metrics import classification_scores, density_scores, redshift_scores
from astro_utils.results import (
    KEYS,
    SKIES,
    Run,
    anchors,
    atomic,
    format_scores,
    metric_row,
    read_metrics,
    select,
    write_json,
    write_metrics,
)
from astro_utils.separation.sets import TASKS
from astro_utils.starsed.templates import CLASSES as STELLAR


def row(model="boosting", metrics=None, **keys):
    given = {"profile": "smoke", "sky": "real", "experiment": "main", "n_train": 80, "n_test": 20, "seeds": 2}
    metrics = {"rmse": {"value": 0.02, "lo": 0.01, "hi": 0.03, "sd": 0.002}} if metrics is None else metrics
    return metric_row(**{**given, **keys}, model=model, metrics=metrics)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["table.csv"]


def test_a_write_appears_whole_and_readable_with_its_folder(tmp_path):
    path = tmp_path / "new" / "figure.tar.png"
    with atomic(path) as temporary:
        assert temporary.suffix == ".png" and temporary.parent == path.parent
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and names(path.parent) == ["figure.tar.png"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "content", [{"a": float("nan")}, [np.float64("inf")], {"a": np.array([1.0, np.nan])}, {"a": object()}]
)
def test_what_json_cannot_hold_is_refused_and_the_old_file_kept(tmp_path, content):
    path = write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises((ValueError, TypeError), match="JSON"):
        write_json(path, content)
    assert json.loads(path.read_text()) == {"a": 1} and names(tmp_path) == ["a.json"]


def test_json_of_numpy_and_paths_is_plain(tmp_path):
    content = {"n": np.int64(3), "x": np.float32(0.5), "v": np.arange(2), "p": tmp_path, "t": (1, True)}
    read = json.loads(write_json(tmp_path / "a.json", content).read_text())
    assert read == {"n": 3, "x": 0.5, "v": [0, 1], "p": os.fspath(tmp_path), "t": [1, True]}


# ---------------------------------------------------------------------------------------------- metrics


def test_a_row_is_flat_with_its_bounds_and_its_spread():
    made = row(metrics={"rmse": {"value": 1, "lo": 0.5}, "bias": np.float32(0.25), "sd_only": {"value": 2}})
    assert tuple(made)[: len(KEYS)] == KEYS
    assert (made["rmse"], made["rmse_lo"], made["rmse_hi"], made["rmse_sd"]) == (1.0, 0.5, None, None)
    assert made["bias"] == 0.25 and type(made["bias"]) is float


def test_a_number_that_is_not_finite_is_absent():
    made = row(metrics={"auc": {"value": np.nan, "sd": np.nan, "hi": np.inf}})
    assert [made[f"auc{suffix}"] for suffix in ("", "_sd", "_hi")] == [None, None, None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sky": "sdss"}, r"sky is 'sdss'; expected one of \('real', 'simulated'\)"),
        ({"metrics": {"seeds": 3}}, "metric 'seeds' has the name of a key column"),
        (
            {"metrics": {"rmse": {"lo": 1, "hi": 2}}},
            r"metric 'rmse' has fields \['hi', 'lo'\]; expected value",
        ),
        ({"metrics": {"rmse": {"value": 1, "std": 2}}}, r"metric 'rmse' has fields \['std', 'value'\]"),
    ],
)
def test_a_row_that_breaks_the_schema_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        row(**arguments)


def test_metrics_read_back_as_written(tmp_path):
    path = write_metrics(tmp_path / "metrics.json", [row(), row("trivial", {"auc": 0.5})])
    table = read_metrics(path)
    assert table["model"].tolist() == ["boosting", "trivial"]
    assert table["rmse_sd"].tolist()[0] == 0.002 and np.isnan(table["rmse"][1])
    assert table.dtypes[["rmse", "auc", "auc_lo"]].eq(float).all()
    assert table["n_test"].tolist() == [20, 20]


def test_writing_metrics_needs_rows_that_are_whole_and_distinct(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(ValueError, match=r"metrics\.json: no metric rows to write"):
        write_metrics(path, [])
    short = row()
    del short["sky"]
    with pytest.raises(ValueError, match=r"row 1 lacks \['sky'\]"):
        write_metrics(path, [row("other"), short])
    with pytest.raises(ValueError, match=r"rows with the same key .*'boosting'"):
        write_metrics(path, [row(), row("other"), row(metrics={"auc": 1.0})])
    assert not path.exists()
    write_metrics(path, [row(), row(sky="simulated"), row(seeds=3), row(n_train=0), row(profile="full")])
    assert len(read_metrics(path)) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"profile": "smoke"', "not valid JSON"),
        ('{"profile": "smoke"}', "expected a list of rows with the keys"),
        ('[{"profile": "smoke", "rmse": 1}]', "expected a list of rows with the keys"),
        ("[3]", "expected a list of rows with the keys"),
    ],
)
def test_a_damaged_metrics_file_is_named(tmp_path, text, message):
    path = tmp_path / "metrics.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"metrics.json: {message}"):
        read_metrics(path)


def test_an_absent_metrics_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"audit\.json: no metrics here; run the notebook"):
        read_metrics(tmp_path / "audit.json")


def test_one_row_is_selected_or_the_choice_is_shown(tmp_path):
    rows = [row(), row("trivial"), row(experiment="size: 500", n_train=500)]
    table = read_metrics(write_metrics(tmp_path / "metrics.json", rows))
    assert select(table, experiment="size: 500")["n_train"] == 500
    assert select(table, experiment="main", model="trivial")["model"] == "trivial"
    with pytest.raises(KeyError, match=r"2 rows match .*'main'.*\('main', 'trivial'\)"):
        select(table, experiment="main")
    with pytest.raises(KeyError, match=r"0 rows match .*'forest'.*\('size: 500', 'boosting'\)"):
        select(table, model="forest")


PUBLISHED = sorted((ROOT / "data" / "published").glob("*/*.json"))
PUBLISHED = [path for path in PUBLISHED if path.parent.name != "bench"]  # speeds have a table of their own


def refuse(constant):
    raise ValueError(f"{constant} is not JSON")


def standard_names():
    """Metric names of the package's own scores, and of the counts and shares of the audit."""
    rng = np.random.default_rng(0)
    u, labels = rng.uniform(0.1, 0.9, 50), rng.integers(2, size=50)
    names = {*redshift_scores(u, u[::-1]), *density_scores(u, u, u)}
    names |= {*classification_scores(labels, np.stack([u, 1 - u], axis=1)), "accuracy_gain"}
    names |= {f"true_{t}_as_{p}" for t in CLASSES for p in CLASSES}
    leaks = ("", "_share", "_galaxies", "_galaxy_share", "_with_validation", "_star_galaxy_task")
    names |= {"measured", "passed", "offset", "scatter"}  # fidelity gates; stars of a real field
    # Separation: classes apart, paired differences, cost, conformal sets.
    names |= {f"true_{t}_as_{p}" for t in TASKS["SGQ"] for p in TASKS["SGQ"]}
    names |= {f"recall_{name}" for name in TASKS["SGQ"]}
    names |= {"accuracy_gain", "nll_gain", "auc_gain", "p_value", "sigma_mad_ratio", "crps_ratio"}
    names |= {"parameters", "seconds", "epochs", "best_epoch"}
    names |= {f"{what}_{level}" for what in ("coverage", "mean_size", "empty") for level in (68, 90, 95, 99)}
    # Stellar types: ordered classes, errors of PSFs in per cent, labels of added stars.
    names |= {"within_one", "top_two", "rps", "label_accuracy"} | {f"recall_{name}" for name in STELLAR}
    names |= {f"relative_error{part}" for part in ("", "_fine", "_mono", "_scatter")}
    names |= {"opd_error", "e1_rmse", "e2_rmse", "size_rmse"}
    # Its audit: what scores lose, spreads of reshuffles and fields, signal-to-noise ratios, stars counted.
    names |= {
        "accuracy_loss",
        "within_less_top",
        "relative",
        "relative_std",
        "share",
        "trained",
        "matched_sn",
    }
    names |= {"standard_error", "standard_error_mean", "reshuffles_spread", "fields_spread", "field_scatter"}
    names |= {"lowest", "highest", "snr_lowest", "snr_highest", "matched_lowest", "matched_highest"}
    names |= {"matched_squared_by_snr"}
    # K-corrections: scores, comparison, cost, embeddings, intervals.
    names |= {"r2", "mae", "rmse", "sigma_mad", "bias", "failures", "rmse_ratio", "mean_width", "threads"}
    names |= {"galaxies_per_second", "top_1", "top_10", "median_rank"}
    # Its audit: printed errors, all pairs, band switches, epochs, failures, handicaps, splits, noise.
    names |= {"printed", "printed_mse", "implied", "variance", "variance_bound", "mismatch", "jump"}
    names |= {"broadcast_mae", "broadcast_by_spread", "steepest", "colour_offset", "switch_redshift"}
    names |= {"enters", "leaves", "optimism", "r2_gain", "mae_ratio", "rmse_kept", "misfits"}
    kinds = ("photometry", "redshift", "solver", "empty", "limit", "singular", "share")
    names |= {"failed"} | {f"failed_{kind}" for kind in kinds} | {"sentinel", "magnitude_offset"}
    names |= {f"{what}{part}" for what in ("missing", "logged", "silent") for part in ("", "_share")}
    # Spectra from images: shape, lines and redshifts, photometry, retrieval, comparison, cost.
    kinds = ("", "_continuum", "_level", "_continuum_level", "_aligned")
    names |= {f"r2{kind}{free}" for kind in kinds for free in ("", "_free")} | {"chi2", "rank"}
    indices = ("d4000", "ew_ha", "ew_oiii", "photometry")
    names |= {f"{name}_{what}" for name in indices for what in ("bias", "mad")}
    names |= {f"z_{name}" for name in ("sigma_mad", "bias", "eta_05")} | {"train_seconds"}
    names |= {"error_ratio", "c_error_ratio", "r2_loss", "r2_continuum_loss"}
    names |= {f"{name}{free}" for name in ("explained", "above_90") for free in ("", "_free")}
    names |= {"ece_by_chance"}  # spectral types
    # Its audit: tokens, stretches, targets, validation, attention, weights.
    names |= {"correlation_same", "correlation_other", "found_share", "likeness_share", "chance"}
    names |= {"sky_range", "outskirts_range", "core_range", "shift_first", "shift_middle", "shift_last"}
    names |= {"elements", "line_share", "noise_share", "spike_share", "raised", "scale_share", "test_loss"}
    names |= {"test_loss_ratio", "loss_ratio", "raised_share", "tokens", "positions", "distinct"}
    names |= {"equal_tokens", "order_change", "bands", "never_trained", "candidates"}
    return names | {f"leaked{part}" for part in leaks}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_published_metrics_obey_the_schema(path):
    rows = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    identities = [tuple(r[key] for key in KEYS) for r in rows]
    assert len(set(identities)) == len(identities) > 0
    for r in rows:
        assert tuple(r)[: len(KEYS)] == KEYS
        assert r["profile"] in ("smoke", "quick", "cpu", "full", "published") and r["sky"] in SKIES
        assert r["n_train"] >= 0 and r["n_test"] > 0 and r["seeds"] >= 1
        metrics = [name for name in r if name not in KEYS and not re.search("_(lo|hi|sd)$", name)]
        assert set(r) == {*KEYS, *(m + suffix for m in metrics for suffix in ("", "_lo", "_hi", "_sd"))}
        assert set(metrics) <= standard_names(), f"{set(metrics) - standard_names()} in {path.name}"
        for name in metrics:
            lo, hi, sd = (r[name + suffix] for suffix in ("_lo", "_hi", "_sd"))
            assert (lo is None) == (hi is None) and (lo is None or lo <= hi)
            assert sd is None or sd >= 0
            if re.match("eta|coverage|accuracy$|precision|recall|f1|auc$|ece|pit_ks", name):
                assert all(-1e-12 <= v <= 1 for v in (r[name], lo, hi) if v is not None), (name, r["model"])


# ------------------------------------------------------------------------------------------- run, stamp


def test_a_run_makes_its_folders_and_asks_for_what_it_needs(tmp_path):
    run = Run(str(tmp_path / "results" / "photoz"), "photoz/3_results", {})
    assert run.path("figures/a.png").parent.is_dir()
    with pytest.raises(
        FileNotFoundError, match=r"sample\.parquet: not there yet; run notebooks/photoz/1_data\.ipynb first"
    ):
        run.need("sample.parquet", "photoz/1_data")
    run.write_table("sample.parquet", pd.DataFrame({"z": [0.1, 0.2]}))
    assert pd.read_parquet(run.need("sample.parquet", "photoz/1_data"))["z"].tolist() == [0.1, 0.2]


def test_relative_results_are_below_the_project_wherever_the_notebook_starts(tmp_path, monkeypatch):
    for name in ("_config.yml", "data/registry.toml", "notebooks/photoz/x.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folders = set()
    for start in (tmp_path, tmp_path / "notebooks" / "photoz"):
        monkeypatch.chdir(start)
        folders.add(Run("results/smoke/photoz", "photoz/x", {}).folder)
    assert folders == {tmp_path / "results" / "smoke" / "photoz"}


def test_tables_are_written_by_suffix(tmp_path):
    run = Run(str(tmp_path), "photoz/3_results", {})
    table = pd.DataFrame({"a": [1.5]}, index=["boosting"])
    assert run.write_table("a.csv", table).read_text() == ",a\nboosting,1.5\n"
    with pytest.raises(
        ValueError, match=r"a\.xlsx: expected a name that ends in one of \['.csv', '.parquet'\]"
    ):
        run.write_table("a.xlsx", table)


def test_the_stamp_says_what_made_the_results(tmp_path):
    run = Run(str(tmp_path), "photoz/2_train", {"epochs": 3}, {"a.fits": "ab" * 32})
    run.write_metrics([row()])
    run.finish()
    stamp = json.loads((tmp_path / "provenance" / "2_train.json").read_text())
    assert set(stamp) == {
        *("notebook", "parameters", "commit", "versions"),
        *("datasets", "device", "wall_time_s", "finished"),
    }
    assert (stamp["notebook"], stamp["parameters"]) == ("photoz/2_train", {"epochs": 3})
    assert stamp["datasets"] == {"a.fits": "ab" * 32}
    assert 0 <= stamp["wall_time_s"] < 60
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stamp["finished"])
    assert stamp["versions"]["numpy"] == np.__version__ and stamp["device"]
    assert re.fullmatch(r"[0-9a-f]{12}(\+changes)?|not a git checkout", stamp["commit"])


def test_the_commit_says_whether_tracked_files_were_changed(tmp_path, monkeypatch):
    import subprocess

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    (tmp_path / "data").mkdir()
    for name in ("_config.yml", "data/registry.toml"):
        (tmp_path / name).write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    # Inside another checkout, git would find that one.
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def commit():
        run = Run("results", "a", {})
        run.finish()
        return json.loads(run.path("provenance/a.json").read_text())["commit"]

    stamps = [commit()]
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    stamps.append(commit())
    (tmp_path / "_config.yml").write_text("a: 2\n")
    stamps.append(commit())
    head = git("rev-parse", "HEAD")[:12]
    assert stamps == ["not a git checkout", head, f"{head}+changes"]
    # A long run is of the commit at which it began.
    git("commit", "-q", "-a", "-m", "second")
    run = Run("results", "a", {})
    (tmp_path / "_config.yml").write_text("a: 3\n")
    run.finish()
    stamp = json.loads(run.path("provenance/a.json").read_text())
    assert stamp["commit"] == git("rev-parse", "HEAD")[:12] != head


# -------------------------------------------------------------------------------------------- the book


def test_scores_are_formatted_with_spread_and_interval_where_there_are_any():
    rows = pd.DataFrame(
        [
            row("boosting", {"eta_05": {"value": 0.0123, "sd": 0.001, "lo": 0.011, "hi": 0.0135}}),
            row("trivial", {"eta_05": {"value": 0.5, "lo": 0.4, "hi": 0.6}}),
            row("one seed", {"eta_05": 0.25}),
            row("none", {"eta_05": np.nan}),
        ]
    ).astype({f"eta_05{suffix}": float for suffix in ("", "_lo", "_hi", "_sd")})
    shown = format_scores(rows, {"eta_05": ("η [%]", 100, 2), "auc": ("AUC", 1, 3)})
    assert shown["η [%]"].to_dict() == {
        "boosting": "1.23 ± 0.10 [1.10, 1.35]",
        "trivial": "50.00 [40.00, 60.00]",
        "one seed": "25.00",
        "none": "–",
    }
    assert set(shown["AUC"]) == {"–"}


def test_anchors_name_what_there_is():
    assert anchors("photoz").set_index("cite").loc["pasquet2019", "sigma_mad"] == 0.0091
    with pytest.raises(KeyError, match=r"nothing for study 'photo-z'; there is \[.*'photoz'"):
        anchors("photo-z")
