"""Runs of ASTRA's study: answers that are kept as long as nothing changes, and rows of scores."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astra_sample import SIZE, poisoned, predicted, task

from astro_utils.astra import runs
from astro_utils.astra.galaxy_scores import scores, shape_table
from astro_utils.astra.methods import Task
from astro_utils.astra.networks import Budget, recipes
from astro_utils.astra.runs import gain_rows, loss_rows, network_cost, run_networks, score_rows
from astro_utils.astra.simulated import Parts
from astro_utils.models.astra import Astra
from astro_utils.results import read_metrics, write_metrics

ALL = recipes("small", SIZE)
SOME = {name: ALL[name] for name in ("v1, mended", "v2, mended")}
BUDGET = Budget(epochs=1)
ROWS = {"profile": "smoke", "experiment": "networks", "n_bootstrap": 40}


@pytest.fixture
def asked(monkeypatch):
    """Put a quick answer in the place of networks, which notes for what it was asked."""
    calls = []

    def answer(recipe, galaxies, parts, budget, seed):
        calls.append((recipe, seed))
        return np.full((len(parts.test), 4), 10 * recipe.config.version + seed, dtype=np.float32)

    monkeypatch.setattr(runs, "answer", answer)
    return calls


def run(folder, some=SOME, one=None, budget=BUDGET, n_seeds=1):
    return run_networks(some, one or task(), budget, n_seeds=n_seeds, folder=folder)


# ---------------------------------------------------------------------------------------------- kept answers


def test_answers_are_given_by_name_and_seed(asked, tmp_path):
    found = run(tmp_path / "new" / "folder", n_seeds=2)
    assert list(found) == list(SOME) and len(asked) == 4
    for version, name in ((1, "v1, mended"), (2, "v2, mended")):
        assert [flux[0, 0] for flux, _ in found[name]] == [10 * version, 10 * version + 1]
        assert all(seconds >= 0 for _, seconds in found[name])
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 4


def test_nothing_is_computed_twice(asked, tmp_path):
    before = run(tmp_path, n_seeds=2)
    asked.clear()
    again = run(tmp_path, n_seeds=2)
    assert not asked
    for name in SOME:
        for (a, t), (b, u) in zip(before[name], again[name], strict=True):
            np.testing.assert_array_equal(a, b)
            assert t == u  # seconds are those of training, not of reading
    # Another name of the same recipe is the same network.
    run(tmp_path, {"renamed": SOME["v1, mended"]})
    assert not asked


def test_more_seeds_and_more_recipes_are_added(asked, tmp_path):
    run(tmp_path)
    asked.clear()
    run(tmp_path, n_seeds=2)
    assert [seed for _, seed in asked] == [1, 1]
    asked.clear()
    name = "v1, mended but odd residuals"
    run(tmp_path, SOME | {name: ALL[name]}, n_seeds=2)
    assert asked == [(ALL[name], 0), (ALL[name], 1)]


@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_another_budget_is_another_answer(asked, tmp_path, name):
    run(tmp_path)
    asked.clear()
    run(tmp_path, budget=dataclasses.replace(BUDGET, **{name: 7}))
    assert len(asked) == 2
    run(tmp_path)
    assert len(asked) == 2  # the former ones are still there


def test_another_recipe_is_another_answer(asked, tmp_path):
    recipe = SOME["v1, mended"]
    for changed in (
        recipe,
        dataclasses.replace(recipe, stops_on_training=True),
        dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, depth=1)),
        dataclasses.replace(recipe, inputs=dataclasses.replace(recipe.inputs, error_floor=0.01)),
        dataclasses.replace(recipe, inputs=dataclasses.replace(recipe.inputs, softening=0.01)),
    ):
        asked.clear()
        run(tmp_path, {"v1, mended": changed})
        assert asked == [(changed, 0)]


@pytest.mark.parametrize("what", ["images", "spectrum", "parts"])
def test_other_galaxies_are_another_answer(asked, tmp_path, what):
    run(tmp_path)
    asked.clear()
    one, parts = task(), task().parts
    if what == "parts":
        other = Task(one.galaxies, Parts(parts.train[1:], parts.calibration, parts.test))
    else:
        other = Task(poisoned(one.galaxies, np.array([50]), what), parts)
    run(tmp_path, one=other)
    assert len(asked) == 2


def test_other_code_is_another_answer(asked, tmp_path, monkeypatch):
    package, copy = Path(runs.__file__).parents[1], tmp_path / "package"
    for name in runs._CODE:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(package / name, copy / name)
    run(tmp_path / "kept")
    asked.clear()
    monkeypatch.setattr(runs, "__file__", str(copy / "astra" / "runs.py"))
    run(tmp_path / "kept")
    assert not asked  # the same code elsewhere
    for name in ("astra/networks.py", "astra/targets.py", "models/astra.py", "training.py", "splits.py"):
        with (copy / name).open("a") as file:
            file.write("# changed\n")
        run(tmp_path / "kept")
        assert len(asked) == 2, name
        asked.clear()


def test_a_run_that_was_killed_goes_on(asked, tmp_path, monkeypatch):
    quick = runs.answer

    def fails(recipe, *arguments):
        if recipe.config.version == 2:
            raise KeyboardInterrupt
        return quick(recipe, *arguments)

    monkeypatch.setattr(runs, "answer", fails)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # what was done, and nothing half done
    monkeypatch.setattr(runs, "answer", quick)
    asked.clear()
    found = run(tmp_path)
    assert asked == [(SOME["v2, mended"], 0)]
    assert [found[name][0][0][0, 0] for name in SOME] == [10, 20]


def test_an_answer_that_could_not_be_written_is_not_kept(asked, tmp_path, monkeypatch):
    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", broken)
        with pytest.raises(OSError, match="disk full"):
            run(tmp_path)
    assert not list(tmp_path.iterdir())
    asked.clear()
    run(tmp_path)
    assert len(asked) == 2


def test_a_real_network_is_kept_as_it_answered(tmp_path):
    recipe = SOME["v1, mended"]
    config = dataclasses.replace(recipe.config, dim=16, depth=1, heads=2, hidden=16, points=200)
    recipe = dataclasses.replace(recipe, config=config, inputs=dataclasses.replace(recipe.inputs, points=200))
    first, second = (run(tmp_path, {"tiny": recipe})["tiny"][0] for _ in range(2))
    assert first[0].shape == task().test.spectra.flux.shape and first[1] > 0
    np.testing.assert_array_equal(first[0], second[0])
    with np.load(next(tmp_path.iterdir()), allow_pickle=False) as file:
        assert set(file.files) == {"flux", "seconds"}


# -------------------------------------------------------------------------------------------- rows of scores


def table(prediction):
    return shape_table(task().test.spectra, prediction, task().reference)


@pytest.fixture(scope="module")
def tables():
    """Ours; networks that are a little and much worse, with two seeds."""
    ours, reference = predicted().mean, task().reference
    truth = predicted().at_truth
    return {
        "ours": [table(ours)],
        "v1, mended": [table(truth), table(0.98 * truth)],
        "v1, mended but odd residuals": [table(0.5 * (ours + reference)), table(0.9 * ours)],
        "v1, mended but nothing": [table(truth), table(0.98 * truth)],
        "v2, mended": [table(0.8 * ours), table(0.7 * ours)],
        "v2, mended but attention among frequencies": [table(ours), table(0.99 * ours)],
    }


def test_rows_of_scores_are_rows_of_metrics(tables, tmp_path):
    cost = {"ours": {"seconds": 4.0}}
    rows = score_rows(task(), tables, extra=cost, **ROWS)
    assert [row["model"] for row in rows] == list(tables)
    written = read_metrics(write_metrics(tmp_path / "metrics.json", rows))
    assert len(written) == len(tables)
    for row in rows:
        seeds = tables[row["model"]]
        assert (row["profile"], row["sky"], row["experiment"]) == ("smoke", "simulated", "networks")
        assert (row["n_train"], row["n_test"], row["seeds"]) == (
            len(task().train),
            len(task().test),
            len(seeds),
        )
        for name in ("r2", "r2_continuum_free", "chi2"):
            values = [scores(one)[name] for one in seeds]
            assert row[name] == pytest.approx(np.mean(values))
            if len(seeds) > 1:
                assert row[f"{name}_sd"] == pytest.approx(np.std(values, ddof=1))
            else:
                assert row[f"{name}_sd"] is None
        assert row["r2_lo"] <= row["r2"] <= row["r2_hi"] and row["r2_lo"] < row["r2_hi"]
    assert rows[0]["seconds"] == 4.0 and "seconds" not in rows[1]


def test_intervals_are_by_field(tables):
    """With one field, every resample is that field."""
    one = task().test.fields[0]
    mask = task().test.fields == one
    single = Task(
        task().galaxies, Parts(task().parts.train, task().parts.calibration, task().parts.test[mask])
    )
    some = {"ours": [tables["ours"][0][mask].reset_index(drop=True)]}
    (row,) = score_rows(single, some, **ROWS)
    assert row["r2_lo"] == pytest.approx(row["r2"]) == row["r2_hi"]


def test_losses_are_those_of_the_whole_less_those_of_the_other(tables, tmp_path):
    rows = {row["model"]: row for row in loss_rows(task(), tables, **ROWS)}
    assert set(rows) == {name for name in tables if " but " in name}
    write_metrics(tmp_path / "metrics.json", list(rows.values()))

    def mean(name, score):
        return np.mean([scores(one)[score] for one in tables[name]])

    for name, row in rows.items():
        whole = name.split(" but ")[0]
        assert row["experiment"] == "networks, against whole" and row["seeds"] == 2
        for score in ("r2", "r2_continuum"):
            expected = mean(whole, score) - mean(name, score)
            assert row[f"{score}_loss"] == pytest.approx(expected, abs=1e-9)
            assert row[f"{score}_loss_lo"] <= row[f"{score}_loss"] <= row[f"{score}_loss_hi"]
    assert rows["v1, mended but odd residuals"]["r2_loss_lo"] > 0  # it costs something
    assert rows["v2, mended but attention among frequencies"]["r2_loss_hi"] < 0  # it helps
    nothing = rows["v1, mended but nothing"]
    assert nothing["r2_loss"] == nothing["r2_loss_lo"] == nothing["r2_loss_hi"] == 0


def test_gains_are_ratios_of_errors_to_ours(tables, tmp_path):
    rows = {row["model"]: row for row in gain_rows(task(), tables, **ROWS)}
    assert set(rows) == set(tables) - {"ours"}
    write_metrics(tmp_path / "metrics.json", list(rows.values()))
    for name, row in rows.items():
        assert row["experiment"] == "networks, against ours"
        for column in ("error", "c_error"):
            other = np.mean([one[column].sum() for one in tables[name]])
            expected = other / tables["ours"][0][column].sum()
            assert row[f"{column}_ratio"] == pytest.approx(expected)
            assert row[f"{column}_ratio_lo"] <= expected <= row[f"{column}_ratio_hi"]
    assert rows["v2, mended"]["error_ratio_lo"] > 1  # ours is better
    assert rows["v1, mended"]["error_ratio"] < 1  # told the redshift, it is better than ours
    turned = gain_rows(task(), tables, ours="v1, mended", **ROWS)
    (row,) = [row for row in turned if row["model"] == "ours"]
    assert row["error_ratio"] == pytest.approx(1 / rows["v1, mended"]["error_ratio"])


def test_pairs_are_compared_on_the_same_galaxies(tables):
    """Errors that are twice ours in every galaxy are twice ours in every resample."""
    twice = tables["ours"][0].copy()
    twice[["error", "c_error"]] *= 2
    (row,) = gain_rows(task(), {"ours": tables["ours"], "other": [twice]}, **ROWS)
    for column in ("error", "c_error"):
        for suffix in ("", "_lo", "_hi"):
            assert row[f"{column}_ratio{suffix}"] == pytest.approx(2)


def test_costs_are_weights_and_seconds():
    recipe = ALL["v1, mended but patch CNN frozen"]
    found = network_cost(recipe, [(np.zeros(1), 3.0), (np.zeros(1), 5.0)])
    model = Astra(recipe.config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == {"parameters": trained, "train_seconds": 4.0}
    assert found["parameters"] < network_cost(ALL["v1, mended"], [(np.zeros(1), 1.0)])["parameters"]


def test_tables_are_left_as_they_are(tables):
    before = {name: [one.copy() for one in seeds] for name, seeds in tables.items()}
    score_rows(task(), tables, **ROWS)
    loss_rows(task(), tables, **ROWS)
    for name, seeds in tables.items():
        for a, b in zip(seeds, before[name], strict=True):
            pd.testing.assert_frame_equal(a, b)
