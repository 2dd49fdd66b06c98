"""Every method under one call, trainings that are not repeated, and the whole study on MargNet's arrays."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
import torch
from conftest import ROOT

from astro_utils.results import read_metrics
from astro_utils.separation import scores, tasks
from astro_utils.separation.methods import (
    BOOSTING,
    CONVOLUTIONAL,
    DENSE,
    ENSEMBLE,
    METHODS,
    OURS,
    PHOTOMETRY,
    PUBLISHED,
    PUBLISHED_64,
    ROBUST,
    TRIVIAL,
    Budget,
    Objects,
    run_method,
)
from astro_utils.separation.protocol import LEAKY, partition
from astro_utils.separation.sets import TASKS, read_pool, simulated_pool
from astro_utils.separation.tables import load_ours
from astro_utils.separation.tasks import CALIBRATED, CALIBRATION, DEGRADED, Task, plan, run_tasks

BUDGET = Budget(ours=1, photometry=1, published=1, dense=1, convolutional=1, batch_size=32, views=1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return simulated_pool(made.made_up(tmp_path_factory.mktemp("tasks") / "compact.h5", 900))


@pytest.fixture(scope="module")
def degraded(pool):
    """Faint forms of the bright objects of the compact set."""
    rows = pool.compact[pool.table["model_r"].to_numpy()[pool.compact] < 19]
    table = pool.table.iloc[rows].reset_index(drop=True)
    table[[f"dered_{b}" for b in "ugriz"]] += 3.0
    table["model_r"] += 3.0
    return Objects(table, made.stamps(table), pool.labels(rows, "SGQ"))


def some(pool, rows, task="SGQ"):
    return tasks._objects(pool, rows, task)


@pytest.fixture(scope="module")
def sets(pool):
    """40 objects to train on, 21 to stop on, and two sets to answer for."""
    parts = partition(pool, "compact", "SGQ", 0)
    asked = {"bright": some(pool, parts.tests["1"][:12]), "faint": some(pool, parts.tests["3"][:5])}
    return some(pool, parts.train[:40]), some(pool, parts.validation[:21]), asked


# -------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_answers_for_every_set(sets, method):
    train, validation, asked = sets
    found = run_method(method, train, validation, asked, 3, 0, BUDGET)
    assert set(found) == ({CONVOLUTIONAL, DENSE, ENSEMBLE} if method == ENSEMBLE else {method})
    for name, answers in found.items():
        assert {k: p.shape for k, p in answers.probabilities.items()} == {"bright": (12, 3), "faint": (5, 3)}
        for p in answers.probabilities.values():
            np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
            assert (p >= 0).all() and np.isfinite(p).all()
        assert answers.seconds > 0 and 1 <= answers.best_epoch <= answers.epochs
        expected = {BOOSTING: 300, ENSEMBLE: answers.epochs}.get(name, 1)
        assert answers.epochs == expected
        published = {DENSE: 331_331, CONVOLUTIONAL: 25_543_783, ENSEMBLE: 25_875_217}
        published |= {PUBLISHED: 1_505_315, PUBLISHED_64: 1_405_475}
        assert answers.parameters == published.get(name, answers.parameters) > 0


def test_the_star_galaxy_task_has_two_classes(pool):
    parts = partition(pool, "compact", "SG", 0)
    train, validation = some(pool, parts.train[:40], "SG"), some(pool, parts.validation[:20], "SG")
    for method in (BOOSTING, PHOTOMETRY):
        found = run_method(method, train, validation, {"1": validation}, 2, 0, BUDGET)
        assert found[method].probabilities["1"].shape == (20, 2)


def test_another_method_is_refused(sets):
    with pytest.raises(ValueError, match="no method 'random forest'; expected one of gradient boosting"):
        run_method("random forest", *sets, 3, 0, BUDGET)
    with pytest.raises(ValueError, match="no method 'MargNet CNN'"):
        run_method(CONVOLUTIONAL, *sets, 3, 0, BUDGET)


@pytest.mark.parametrize("method", [BOOSTING, PHOTOMETRY])
def test_photometry_tells_the_made_up_classes_apart(pool, method):
    parts = partition(pool, "compact", "SGQ", 0)
    asked = some(pool, parts.tests["1"])
    budget = replace(BUDGET, photometry=15)
    train, validation = some(pool, parts.train), some(pool, parts.validation)
    p = run_method(method, train, validation, {"1": asked}, 3, 0, budget)[method].probabilities["1"]
    assert (p.argmax(1) == asked.labels).mean() > 0.8


def test_photometry_alone_reads_no_stamps(sets):
    train, validation, asked = sets
    dark = [replace(o, images=np.zeros_like(o.images)) for o in (train, validation, asked["bright"])]
    first = run_method(PHOTOMETRY, train, validation, asked, 3, 0, BUDGET)[PHOTOMETRY]
    second = run_method(PHOTOMETRY, *dark[:2], {"bright": dark[2]}, 3, 0, BUDGET)[PHOTOMETRY]
    np.testing.assert_array_equal(first.probabilities["bright"], second.probabilities["bright"])


@pytest.mark.parametrize("method", [PHOTOMETRY, OURS])
def test_the_seed_decides(sets, method):
    first, again, other = (
        run_method(method, *sets, 3, seed, BUDGET)[method].probabilities["bright"] for seed in (0, 0, 1)
    )
    np.testing.assert_allclose(first, again, atol=1e-6)
    assert np.abs(first - other).max() > 1e-3


def test_answers_over_all_views_do_not_know_which_way_a_stamp_was_turned(sets):
    """Eight views are the whole group of turns and mirrors; one view is not."""
    train, validation, asked = sets
    there = asked["bright"]
    asked = {
        "as it is": there,
        "turned": replace(there, images=np.rot90(there.images, 1, (2, 3)).copy()),
        "mirrored": replace(there, images=there.images[..., ::-1].copy()),
    }
    for views in (8, 1):
        budget = replace(BUDGET, views=views)
        p = run_method("ours, images alone", train, validation, asked, 3, 0, budget)
        p = p["ours, images alone"].probabilities
        moved = max(np.abs(p[name] - p["as it is"]).max() for name in ("turned", "mirrored"))
        assert moved < 1e-5 if views == 8 else moved > 1e-4


# ----------------------------------------------------------------------------------------------------- plans


def planned(**changes):
    arguments = {"both_tasks": f"{BOOSTING} | {OURS}", "three_classes": "", "few_seeds": "", "n_seeds": 2}
    arguments |= {"n_few": 1, "split": "field", "budget": BUDGET}
    return plan(**arguments | changes)


def test_a_plan_holds_every_combination_once():
    found = planned(three_classes=f" {PUBLISHED} |")
    keys = [(t.method, t.trained, t.task, t.seed) for t in found]
    both = {
        (m, s, t, i) for m in (BOOSTING, OURS) for s in ("compact", "faint") for t in TASKS for i in (0, 1)
    }
    assert len(set(keys)) == len(keys) == 20
    assert set(keys) == both | {(PUBLISHED, s, "SGQ", i) for s in ("compact", "faint") for i in (0, 1)}
    assert all(t.split == "field" and t.budget == BUDGET for t in found)
    order = [t.method for t in found]
    assert order == [PUBLISHED] * 4 + [OURS] * 8 + [BOOSTING] * 8, "the longest first"


def test_few_seeds_are_few():
    found = planned(both_tasks=f"{BOOSTING} | {OURS}", few_seeds=OURS, n_seeds=3, n_few=2)
    seeds = {m: {t.seed for t in found if t.method == m} for m in (BOOSTING, OURS)}
    assert seeds == {BOOSTING: {0, 1, 2}, OURS: {0, 1}}


def test_the_ensemble_brings_its_dense_network_along():
    found = planned(both_tasks=f"{DENSE}", three_classes=ENSEMBLE)
    assert {t.task for t in found if t.method == DENSE} == {"SG"}
    assert {t.task for t in found if t.method == ENSEMBLE} == {"SGQ"}
    # Where the ensemble is run for few seeds, the others are the dense network's own.
    found = planned(both_tasks=f"{DENSE}", three_classes=ENSEMBLE, few_seeds=ENSEMBLE)
    assert {t.seed for t in found if t.method == DENSE and t.task == "SGQ"} == {1}


def test_degraded_objects_are_added_to_the_compact_set_alone():
    found = planned(both_tasks="", three_classes=ROBUST)
    assert {(t.trained, t.task) for t in found} == {("compact", "SGQ")}


@pytest.mark.parametrize("which", ["both_tasks", "three_classes", "few_seeds"])
def test_a_plan_of_another_method_is_refused(which):
    with pytest.raises(ValueError, match="no method 'MargNet CNN'; expected some of gradient boosting, 24 f"):
        planned(**{which: f"{BOOSTING} | {CONVOLUTIONAL}"})


# ------------------------------------------------------------------------------------------------------ runs


def task(method, trained="compact", of="SGQ", seed=0, split="field", budget=BUDGET):
    return Task(method, trained, of, seed, split, budget)


def run(wanted, pool, degraded, folder, workers=1):
    """Answers by (method, set, task)."""
    found = {}
    for count, (done, which, path) in enumerate(run_tasks(wanted, pool, degraded, folder, workers), start=1):
        assert done == count
        found[which.method, which.trained, which.task] = path
    return found


@pytest.fixture(scope="module")
def kept(pool, degraded, tmp_path_factory):
    """Folder and files of some trainings."""
    wanted = [task(PHOTOMETRY), task(BOOSTING, "faint", "SG"), task(OURS), task(ROBUST)]
    folder = tmp_path_factory.mktemp("kept")
    return folder, wanted, run(wanted, pool, degraded, folder)


def test_answers_are_of_the_tests_and_of_what_is_calibrated_on(kept, pool, degraded):
    _, wanted, files = kept
    for one in wanted:
        table = pd.read_parquet(files[one.method, one.trained, one.task])
        parts = partition(pool, one.trained, one.task, 0)
        sets = {"1", "3", LEAKY} if one.trained == "compact" else {"2"}
        if one.trained == "compact" and one.method in CALIBRATED:
            sets |= {CALIBRATION, DEGRADED}
        assert set(table["set"]) == sets and set(table["method"]) == {one.method}
        assert (table[["trained", "task", "seed"]].astype(str) == [one.trained, one.task, "0"]).all(axis=None)
        for name, part in table.groupby("set", observed=True):
            rows = part["row"].to_numpy()
            if name == DEGRADED:
                assert (rows == -1).all() and part["r"].min() > 19.5
                continue
            expected = pool.calibration if name == CALIBRATION else parts.tests[name]
            np.testing.assert_array_equal(rows, expected)
            np.testing.assert_array_equal(part["label"], pool.labels(rows, one.task))
            np.testing.assert_allclose(part["r"], pool.table["model_r"].to_numpy()[rows], rtol=1e-6)
        p = table[[f"p_{c}" for c in TASKS[one.task]]]
        np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-5)
        assert table["n_train"].nunique() == 1
        assert table["n_train"].iloc[0] >= len(parts.train) and (
            table["n_train"].iloc[0] > len(parts.train)
        ) == (one.method == ROBUST)


def test_a_second_run_trains_nothing_again(kept, pool, degraded, monkeypatch):
    folder, wanted, files = kept
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    monkeypatch.setattr(tasks, "run_method", lambda *_: pytest.fail("trained again"))
    assert run(wanted, pool, degraded, folder) == files
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert not [name for name in before if name.startswith(".")], "nothing is left half-written"


@pytest.mark.parametrize("what", ["seed", "budget", "data", "degraded"])
def test_what_is_changed_is_trained_anew(kept, pool, degraded, what, monkeypatch):
    folder, _, _ = kept
    one = task(PHOTOMETRY)
    if what == "seed":
        one = replace(one, seed=1)
    elif what == "budget":
        one = replace(one, budget=replace(BUDGET, photometry=2))
    elif what == "data":
        pool = replace(pool, table=pool.table.assign(dered_u=pool.table["dered_u"] + 0.01))
    else:
        degraded = replace(degraded, table=degraded.table.iloc[::-1])

    def called(*_):
        raise InterruptedError("trained")

    monkeypatch.setattr(tasks, "run_method", called)
    count = len(list(folder.iterdir()))
    with pytest.raises(InterruptedError, match="trained"):
        run([one], pool, degraded, folder)
    assert len(list(folder.iterdir())) == count, "and a run that was killed leaves nothing"


def test_one_process_and_two_give_the_same_answers(pool, tmp_path):
    wanted = [task(PHOTOMETRY, of=of) for of in TASKS] + [task(BOOSTING, "faint", "SG")]
    alone, together = (run(wanted, pool, None, tmp_path / str(n), n) for n in (1, 2))
    assert set(alone) == set(together)
    for key, path in alone.items():
        first, second = pd.read_parquet(path), pd.read_parquet(together[key])
        assert path.name == together[key].name
        timeless = [name for name in first if name != "seconds"]
        pd.testing.assert_frame_equal(first[timeless], second[timeless], atol=1e-3)


@pytest.mark.parametrize("method", [OURS, ROBUST])
def test_weights_of_ours_are_kept_and_give_the_stored_answers_again(kept, pool, method):
    _, _, files = kept
    path = files[method, "compact", "SGQ"]
    stored = pd.read_parquet(path)
    stored = stored[stored["set"] == "1"]
    assert path.with_suffix(".safetensors").is_file() == (method == OURS)
    if method == OURS:
        model, read = load_ours(path.with_suffix(".safetensors"), 3)
        rows = stored["row"].to_numpy()
        with torch.no_grad():
            p = model(read.stamps(pool.images[rows]), read.features(pool.table.iloc[rows])).softmax(1)
        np.testing.assert_allclose(p, stored[["p_GALAXY", "p_QSO", "p_STAR"]], atol=1e-3)


def test_without_degraded_objects_there_are_none_to_add(pool, tmp_path):
    message = "'ours, degraded objects added': there are no degraded forms of the objects of set 'compact'"
    with pytest.raises(ValueError, match=message):
        run([task(ROBUST)], pool, None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_pool_with_none_to_spare_is_calibrated_on_the_validation_set(pool, tmp_path):
    bare = replace(pool, calibration=np.array([], dtype=int))
    table = pd.read_parquet(run([task(OURS)], bare, None, tmp_path)[OURS, "compact", "SGQ"])
    rows = table[table["set"] == CALIBRATION]["row"]
    np.testing.assert_array_equal(rows, partition(pool, "compact", "SGQ", 0).validation)
    assert DEGRADED not in set(table["set"])


# -------------------------------------------------------------- the study on arrays as MargNet publishes them


@pytest.fixture(scope="module")
def margnet(tmp_path_factory):
    return made.margnet(tmp_path_factory.mktemp("margnet"), 600, 32)[0]


def test_margnets_arrays_are_learned_from_and_answered_for(margnet, tmp_path):
    pool = read_pool("margnet", margnet)
    wanted = plan(
        both_tasks=f"{BOOSTING} | {OURS}",
        three_classes="",
        few_seeds="",
        n_seeds=1,
        n_few=1,
        split="object",
        budget=BUDGET,
    )
    answers = scores.read_answers(list(run(wanted, pool, None, tmp_path).values()))
    found = {cell.name: cell for cell in scores.cells(answers, pool)}
    names = [f"Experiment {e}, {of}" for e in "123" for of in TASKS]
    assert set(found) == {*names, f"Experiment {LEAKY}, SGQ"}
    published = np.load(margnet / "objlist_sgq_exp3.npy")
    ids = pool.table["object_id"].to_numpy()
    assert set(ids[found[f"Experiment {LEAKY}, SGQ"].rows]) == set(published)
    parts = partition(pool, "compact", "SGQ", 0, "object")
    learned = {*ids[parts.train], *ids[parts.validation]}
    assert learned & set(published) and not learned & set(ids[found["Experiment 3, SGQ"].rows])
    for cell in found.values():
        rows = {row["model"]: row for row in scores.score_rows(cell, pool.sky, "smoke", 5)}
        assert set(rows) == {TRIVIAL, BOOSTING, OURS} and rows[OURS]["sky"] == "real"
        np.testing.assert_array_equal(cell.labels, pool.labels(cell.rows, cell.task))
    first = found["Experiment 1, SGQ"]
    assert (first.answers[BOOSTING][0].argmax(1) == first.labels).mean() > 0.7


def papermill(notebook, out, parameters):
    """Run a notebook as its reader would."""
    command = [sys.executable, "-m", "papermill", f"notebooks/margformer/{notebook}.ipynb"]
    command += [str(out / f"{notebook}.ipynb")]
    for name, value in parameters.items():
        command += ["-p", name, str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_the_notebooks_run_on_margnets_arrays(margnet, tmp_path):
    """Sets and training, as ``papermill ... -p source margnet -p folder ...``; the slowest test here."""
    results = tmp_path / "results"
    common = {"results_dir": results, "source": "margnet", "folder": margnet, "split": "object"}
    papermill("1_sets", tmp_path, common | {"n_degraded": 3})
    methods = {"both_tasks": f"{BOOSTING} | {OURS}", "three_classes": ROBUST}
    papermill("2_train", tmp_path, common | methods | {"views": 1, "n_bootstrap": 5, "workers": 1})
    metrics = read_metrics(results / "metrics.json")
    assert (metrics["sky"] == "real").all()
    whole = metrics[metrics["experiment"] == f"Experiment {LEAKY}, SGQ"].set_index("model")
    assert set(whole.index) == {TRIVIAL, BOOSTING, OURS, ROBUST}
    assert (whole["n_test"] == len(np.load(margnet / "objlist_sgq_exp3.npy"))).all()
    assert (results / "ours.safetensors").is_file()
    kept = pd.read_parquet(results / "publish" / "answers.parquet")
    assert set(kept["set"]) == {"1", "2", "3", LEAKY}
