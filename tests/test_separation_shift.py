"""Experiment 3 done right: priors that are taken out or put in, and bright objects made faint."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
from matplotlib import pyplot as plt
from scipy import stats

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.metrics import classification_scores
from astro_utils.photometry import SDSS_BANDS
from astro_utils.priors import re_estimated_prior
from astro_utils.results import read_metrics, write_metrics
from astro_utils.samples import validate
from astro_utils.separation import scores, tasks
from astro_utils.separation.methods import BOOSTING, OURS, ROBUST, Answers, Budget, Objects
from astro_utils.separation.protocol import SPLITS, partition
from astro_utils.separation.sets import TASKS, simulated_pool
from astro_utils.separation.shift import (
    MagnitudePrior,
    degraded_objects,
    known_mix,
    read_degraded,
    write_degraded,
)
from astro_utils.separation.shift_rows import (
    AS_TRAINED,
    COMMITTEE,
    CORRECTIONS,
    EM,
    EVEN,
    MIX,
    accuracy_figure,
    best_inductive,
    corrected,
    leak_table,
    shift_rows,
    shift_table,
    training_priors,
)
from astro_utils.separation.tasks import DEGRADED, Task, children, run_tasks

# ------------------------------------------------------------------------------------- a prior by magnitude


def share_of_class_1(r):
    """What the surveys of a toy sky have chosen: few of class 1 among bright, many among faint objects."""
    return 1 / (1 + np.exp(-2.5 * (r - 20.5)))


def toy(n, seed, matched=False):
    """Labels, r, true evidence x of unit Gaussians at -1 and 1, and the posterior under the survey's mix."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(18, 23, n)
    prior = share_of_class_1(r)
    labels = (rng.random(n) < (0.5 if matched else prior)).astype(int)
    x = rng.normal(2 * labels - 1, 1)
    odds = prior / (1 - prior) * np.exp(2 * x)
    p = np.stack([1 / (1 + odds), odds / (1 + odds)], 1)
    return labels, r, x, p


def test_flattening_gives_the_answer_of_bayes_for_an_even_mix():
    train_labels, train_r, *_ = toy(50_000, 0)
    prior = MagnitudePrior.of(train_r, train_labels, 2)
    np.testing.assert_allclose(prior(np.array([19.0, 20.5, 22.0]))[:, 1], [0.023, 0.5, 0.977], atol=0.02)
    labels, r, x, p = toy(20_000, 1, matched=True)
    flat = prior.flatten(p, r)
    np.testing.assert_allclose(flat.sum(1), 1)
    bayes = 1 / (1 + np.exp(-2 * x))
    assert np.abs(flat[:, 1] - bayes).mean() < 0.02 < 0.1 < np.abs(p[:, 1] - bayes).mean()
    before, after = (classification_scores(labels, q) for q in (p, flat))
    assert after["accuracy"] == pytest.approx(stats.norm.cdf(1), abs=0.01), "the best there can be"
    assert before["accuracy"] < after["accuracy"] - 0.08 and after["nll"] < 0.6 * before["nll"]
    assert after["ece"] < 0.02 < before["ece"]


def test_a_classifier_that_never_saw_a_prior_is_left_alone():
    labels, r, x, _ = toy(20_000, 2, matched=True)
    p = np.stack([1 - stats.logistic.cdf(2 * x), stats.logistic.cdf(2 * x)], 1)
    flat = MagnitudePrior.of(r, labels, 2).flatten(p, r)
    assert np.abs(flat - p).mean() < 0.01


def test_shares_are_counted_in_bins_and_constant_beyond_them():
    r = np.repeat([20.0, 20.1, 20.3, 21.1], [95, 1, 45, 5])
    labels = np.repeat([0, 1, 2, 0], [95, 1, 45, 5])
    prior = MagnitudePrior.of(r, labels, 3)
    np.testing.assert_allclose(prior.centres, 20.125 + 0.25 * np.arange(5))
    even = 5 / 3
    counts = [
        [95 + even, 1 + even, even],
        [even, even, 45 + even],
        [even] * 3,
        [even] * 3,
        [5 + even, even, even],
    ]
    np.testing.assert_allclose(prior.shares, np.array(counts) / np.sum(counts, 1, keepdims=True))
    np.testing.assert_allclose(prior.shares.sum(1), 1)
    np.testing.assert_array_equal(prior(np.array([10.0, 20.125, 30.0])), prior.shares[[0, 0, 4]])
    np.testing.assert_allclose(prior(np.array([20.25]))[0], prior.shares[:2].mean(0))


# ---------------------------------------------------------------------------------------------- transductive


@pytest.mark.parametrize("mix", [(0.8, 0.2), (0.5, 0.5), (0.7, 0.05, 0.25)])
def test_a_known_mix_is_reached(mix):
    rng = np.random.default_rng(3)
    labels = np.searchsorted(np.cumsum(mix)[:-1], rng.random(4000))
    p = made.probabilities(labels, 1.5, len(mix), rng)
    true = np.bincount(labels) / 4000
    moved = known_mix(p, true)
    called = [np.bincount(q.argmax(1), minlength=len(mix)) / 4000 for q in (p, moved)]
    assert np.abs(called[1] - true).sum() < 0.01
    if max(mix) > 0.5:
        assert np.abs(called[0] - true).sum() > 0.05, "as they were, they called an even mix"
        assert (moved.argmax(1) == labels).mean() > (p.argmax(1) == labels).mean()
    np.testing.assert_allclose(moved.sum(1), 1)
    # One factor for each class: odds of two classes keep their order.
    factor = np.log(moved[:, 1] / moved[:, 0]) - np.log(p[:, 1] / p[:, 0])
    np.testing.assert_allclose(factor, factor[0], atol=1e-6)


@pytest.mark.parametrize("mix", [(0.85, 0.15), (0.7, 0.05, 0.25)])
def test_a_shifted_prior_is_found_from_calibrated_answers(mix):
    rng = np.random.default_rng(4)
    k = len(mix)
    labels = np.searchsorted(np.cumsum(mix)[:-1], rng.random(20_000))
    p = made.probabilities(labels, 2.0, k, rng)
    adapted = re_estimated_prior(p, np.full(k, 1 / k))
    np.testing.assert_allclose(adapted.mean(0), np.bincount(labels) / len(labels), atol=0.015)
    bayes = p * mix
    bayes /= bayes.sum(1, keepdims=True)
    assert np.abs(adapted - bayes).mean() < 0.01
    before, after = (classification_scores(labels, q) for q in (p, adapted))
    assert after["accuracy"] > before["accuracy"] and after["nll"] < before["nll"]


def test_answers_under_an_uneven_prior_are_adapted_from_it():
    """Trained where nine in ten are of class 0, tested where one in four is."""
    rng = np.random.default_rng(8)
    labels = (rng.random(20_000) < 0.75).astype(int)
    trained, mix = np.array([0.9, 0.1]), np.array([0.25, 0.75])
    even = made.probabilities(labels, 2.0, 2, rng)
    p, bayes = (even * share / (even * share).sum(1, keepdims=True) for share in (trained, mix))
    adapted = re_estimated_prior(p, trained)
    np.testing.assert_allclose(adapted.mean(0), mix, atol=0.015)
    assert np.abs(adapted - bayes).mean() < 0.01 < 0.1 < np.abs(p - bayes).mean()


def test_a_prior_that_holds_is_kept():
    rng = np.random.default_rng(5)
    labels = rng.integers(3, size=20_000)
    p = made.probabilities(labels, 2.0, 3, rng)
    assert np.abs(re_estimated_prior(p, np.full(3, 1 / 3)) - p).mean() < 0.01


# ------------------------------------------------------------------------------------- bright objects, dimmed


@pytest.fixture(scope="module")
def sky(tmp_path_factory):
    return simulated_pool(made.simulated(tmp_path_factory))


@pytest.fixture(scope="module")
def dimmed(sky):
    return degraded_objects(sky, per_class=40, seed=2)


def originals(pool, degraded):
    return pool.table.set_index("object_id").loc[degraded.table["object_id"]]


def test_dimmed_objects_are_faint_forms_of_bright_ones_of_the_compact_set(sky, dimmed):
    table, before = dimmed.table, originals(sky, dimmed)
    assert table["object_id"].is_unique
    assert set(table["object_id"]) <= set(sky.table["object_id"].iloc[sky.compact])
    assert (before["model_r"] < 20).all()
    np.testing.assert_array_equal(before["class"], table["class"])
    np.testing.assert_array_equal(dimmed.labels, [TASKS["SGQ"].index(name) for name in table["class"]])
    counts = np.bincount(dimmed.labels)
    assert counts.max() <= 40 and counts.min() >= 36, "a few may be too faint to be measured"
    assert dimmed.images.shape == (len(table), 5, 32, 32)


def test_dimmed_objects_are_spread_evenly_over_the_faint_magnitudes(dimmed):
    r = dimmed.table["model_r"].to_numpy()
    np.testing.assert_allclose(r, dimmed.table["dered_r"] + dimmed.table["extinction_r"], atol=1e-5)
    assert 19.7 < r.min() and r.max() < 24 and ((r > 20) & (r < 22.8)).mean() > 0.9
    assert stats.kstest(r, stats.uniform(20, 2.8).cdf).pvalue > 1e-3
    for name in TASKS["SGQ"]:
        mine = r[(dimmed.table["class"] == name).to_numpy()]
        assert np.mean(mine) == pytest.approx(21.4, abs=4 * 0.81 / np.sqrt(len(mine)))


def test_pixels_are_dimmed_as_the_magnitudes_and_the_sky_stays_as_noisy(sky, dimmed):
    before = originals(sky, dimmed)
    rows = pd.Series(np.arange(len(sky.table)), sky.table["object_id"]).loc[dimmed.table["object_id"]]
    light = [
        images[:, 2, 12:20, 12:20].sum((1, 2)) for images in (sky.images[rows.to_numpy()], dimmed.images)
    ]
    bright = (dimmed.table["model_r"] < 21).to_numpy()
    change = -2.5 * np.log10(light[1] / light[0])[bright]
    asked = (dimmed.table["model_r"].to_numpy() - before["model_r"].to_numpy())[bright]
    assert bright.sum() > 20 and np.abs(np.median(change - asked)) < 0.03
    assert np.abs(change - asked).max() < 0.6
    noise = [f"sigma_{b}" for b in SDSS_BANDS]
    np.testing.assert_allclose(dimmed.table[noise], before[noise], rtol=1e-6)
    corner = dimmed.images[:, :, :6, :6].std((0, 2, 3))
    np.testing.assert_allclose(corner, dimmed.table[noise].mean(), rtol=0.1)


def test_the_seed_and_the_number_decide_who_is_dimmed(sky, dimmed):
    again = degraded_objects(sky, per_class=5, seed=2)
    other = degraded_objects(sky, per_class=5, seed=3)
    assert np.bincount(again.labels).max() <= 5
    assert set(again.table["object_id"]) != set(other.table["object_id"])
    pd.testing.assert_frame_equal(again.table, degraded_objects(sky, per_class=5, seed=2).table)


def test_without_bright_objects_there_is_nothing_to_dim(sky):
    with pytest.raises(ValueError, match=r"a class has no object brighter than r = 12\.0 to degrade"):
        degraded_objects(sky, per_class=5, seed=0, bright=12.0)


def test_dimmed_objects_come_back_as_they_were_written(dimmed, tmp_path):
    path = write_degraded(tmp_path / "degraded.h5", dimmed, "simulated")
    assert validate(path) == []
    again = read_degraded(path)
    columns = ["object_id", "class", "model_r", *MARGNET_FEATURES, *(f"sigma_{b}" for b in SDSS_BANDS)]
    pd.testing.assert_frame_equal(again.table[columns], dimmed.table[columns], check_dtype=False)
    np.testing.assert_array_equal(again.images, dimmed.images)
    np.testing.assert_array_equal(again.labels, dimmed.labels)
    assert again.labels.dtype == np.int64 and again.table["object_id"].dtype == np.int64


# --------------------------------------------------------------------------------------------- whose children


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    return simulated_pool(made.made_up(tmp_path_factory.mktemp("shift") / "compact.h5", 3000, 8))


@pytest.fixture(scope="module")
def degraded(pool):
    """Faint forms of half of the bright objects of the compact set, with magnitudes of their own."""
    rows = pool.compact[pool.table["model_r"].to_numpy()[pool.compact] < 20][::2]
    table = pool.table.iloc[rows].reset_index(drop=True)
    magnitudes = [f"dered_{b}" for b in SDSS_BANDS]
    table[magnitudes] += 2.5
    table["model_r"] += 2.5
    return Objects(table, made.stamps(table, 8), pool.labels(rows, "SGQ"))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("task", TASKS)
def test_children_follow_their_parents_and_are_never_tested(pool, degraded, task, split):
    parts = partition(pool, "compact", task, 0, split)
    ids = pool.table["object_id"].to_numpy()
    found = {name: children(pool, degraded, getattr(parts, name), task) for name in ("train", "validation")}
    for name, mine in found.items():
        parents = set(ids[getattr(parts, name)])
        assert len(mine.labels) == len(mine.table) == len(mine.images) > 10
        assert set(mine.table["object_id"]) == parents & set(degraded.table["object_id"])
        np.testing.assert_array_equal(mine.labels, [TASKS[task].index(c) for c in mine.table["class"]])
    for test in parts.tests.values():
        theirs = children(pool, degraded, np.setdiff1d(test, np.union1d(parts.train, parts.validation)), task)
        if theirs is not None:
            for mine in found.values():
                assert not set(mine.table["object_id"]) & set(theirs.table["object_id"])
    assert children(pool, None, parts.train, task) is None
    assert children(pool, degraded, parts.tests["3"], task) is None


def test_what_a_training_is_given_holds_no_form_of_a_test_object(pool, degraded, tmp_path, monkeypatch):
    """The objects that reach the method, and the sets that it is asked about."""
    seen = {}

    def look(method, train, validation, asked, n_classes, seed, budget):
        seen.update(train=train, validation=validation, asked=asked)
        even = {name: np.full((len(o.labels), n_classes), 1 / n_classes) for name, o in asked.items()}
        return {method: Answers(even, 0, 0.0, 1, 1)}

    monkeypatch.setattr(tasks, "run_method", look)
    for split in SPLITS:
        task = Task(ROBUST, "compact", "SGQ", 0, split, Budget())
        list(run_tasks([task], pool, degraded, tmp_path, workers=1))
        parts = partition(pool, "compact", "SGQ", 0, split)
        ids = pool.table["object_id"].to_numpy()
        for name in ("train", "validation"):
            mine, rows = seen[name], getattr(parts, name)
            assert set(mine.table["object_id"]) == set(ids[rows])
            repeated = mine.table["object_id"].isin(degraded.table["object_id"]).sum() // 2
            assert len(mine.labels) == len(rows) + repeated and repeated > 10
            assert len(mine.images) == len(mine.table) == len(mine.labels)
        learned = {*seen["train"].table["object_id"], *seen["validation"].table["object_id"]}
        for experiment in ("1", "3"):
            test = seen["asked"][experiment]
            assert not learned & set(test.table["object_id"])
            as_observed = pool.table["model_r"].to_numpy()[parts.tests[experiment]]
            np.testing.assert_allclose(test.table["model_r"], as_observed)
        list(run_tasks([replace(task, method=OURS)], pool, degraded, tmp_path, workers=1))
        held = seen["asked"][DEGRADED].table["object_id"]
        assert set(held) <= set(ids[parts.validation])


# ----------------------------------------------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def answers(pool):
    return made.answers(pool, {BOOSTING: 1.5, OURS: 2.0, ROBUST: 2.2})


@pytest.fixture(scope="module")
def cells(answers, pool):
    return {cell.name: cell for cell in scores.cells(answers, pool)}


@pytest.fixture(scope="module")
def metrics(cells, pool, degraded, tmp_path_factory):
    rows = []
    for name in ("Experiment 3, SG", "Experiment 3, SGQ"):
        rows += shift_rows(cells[name], pool, degraded, "field", "simulated", "smoke", 20)
    return read_metrics(write_metrics(tmp_path_factory.mktemp("shift") / "shift.json", rows))


def test_every_correction_is_inductive_or_transductive(metrics):
    methods = [BOOSTING, OURS, COMMITTEE, scores.seeds_averaged(OURS), ROBUST, scores.seeds_averaged(ROBUST)]
    for task in TASKS:
        for kind in ("inductive", "transductive"):
            part = metrics[metrics["experiment"] == f"Experiment 3, {task}: {kind}"]
            names = [name for name, what in CORRECTIONS.items() if what == kind]
            assert set(part["model"]) == {f"{m}, {name}" for m in methods for name in names}
    assert {name for name, kind in CORRECTIONS.items() if kind == "transductive"} == {MIX, EM}


def test_as_trained_is_what_the_main_table_has(metrics, cells):
    for name in ("Experiment 3, SG", "Experiment 3, SGQ"):
        main = {row["model"]: row for row in scores.score_rows(cells[name], "simulated", "smoke", 20)}
        part = metrics[metrics["experiment"] == f"{name}: inductive"].set_index("model")
        for method in (BOOSTING, OURS, scores.seeds_averaged(OURS)):
            row = part.loc[f"{method}, {AS_TRAINED}"]
            for score in ("accuracy", "accuracy_lo", "nll", "ece", "recall_STAR"):
                assert row[score] == pytest.approx(main[method][score]), (method, score)


def test_the_committee_is_the_mean_of_ours_and_boosting_after_the_correction(metrics, cells):
    cell = cells["Experiment 3, SGQ"]
    both = [np.mean(cell.answers[method], axis=0) for method in (OURS, BOOSTING)]
    expected = classification_scores(cell.labels, (both[0] + both[1]) / 2)
    part = metrics[metrics["experiment"] == "Experiment 3, SGQ: inductive"].set_index("model")
    for name in ("accuracy", "nll"):
        assert part.loc[f"{COMMITTEE}, {AS_TRAINED}", name] == pytest.approx(expected[name])
    assert part.loc[f"{COMMITTEE}, {EVEN}", "nll"] != part.loc[f"{COMMITTEE}, {AS_TRAINED}", "nll"]


def test_priors_are_those_of_each_seeds_training_set(pool, degraded, cells):
    cell = cells["Experiment 3, SGQ"]
    plain, added = (training_priors(pool, "SGQ", "field", 2, d) for d in (None, degraded))
    assert len(plain) == 2 and not np.array_equal(plain[0].shares, plain[1].shares)
    for seed, prior in enumerate(plain):
        train = partition(pool, "compact", "SGQ", seed).train
        r, labels = pool.table["model_r"].to_numpy()[train], pool.labels(train, "SGQ")
        np.testing.assert_array_equal(prior.shares, MagnitudePrior.of(r, labels, 3).shares)
        mine = children(pool, degraded, train, "SGQ")
        both = np.append(r, mine.table["model_r"]), np.append(labels, mine.labels)
        np.testing.assert_array_equal(added[seed].shares, MagnitudePrior.of(*both, 3).shares)
    for p, flat, prior in zip(cell.answers[OURS], corrected(cell, OURS, EVEN, plain), plain, strict=True):
        np.testing.assert_allclose(flat, prior.flatten(p, cell.r))


def test_a_prior_of_the_training_set_is_taken_out_of_its_answers(pool, cells):
    """Answers under another mix at each magnitude, corrected: those of an even mix come back."""
    cell = cells["Experiment 3, SGQ"]
    r = np.random.default_rng(6).uniform(19.8, 23, 30_000)
    shares = np.stack([1 / (1 + np.exp(-3 * (r - 21.4))), np.full(len(r), 0.3)], 1)
    shares = np.column_stack([shares, np.ones(len(r))])
    shares /= shares.sum(1, keepdims=True)
    labels = (np.random.default_rng(7).random(len(r))[:, None] > shares.cumsum(1)).sum(1)
    prior = MagnitudePrior.of(r, labels, 3)
    wrong = [p * prior(cell.r) for p in cell.answers[OURS]]
    wrong = [p / p.sum(1, keepdims=True) for p in wrong]
    cell.answers["wrong"] = wrong
    try:
        mended = corrected(cell, "wrong", EVEN, [prior, prior])
    finally:
        del cell.answers["wrong"]
    for p, back in zip(cell.answers[OURS], mended, strict=True):
        np.testing.assert_allclose(back, p, atol=1e-9)


def test_the_tables_and_the_figure_are_drawn_from_the_rows(metrics, cells, pool, degraded):
    shown = shift_table(metrics, "SGQ")
    assert list(shown) == ["accuracy [%]", "NLL", "ECE [%]"]
    assert shown.index.get_level_values("kind").unique().tolist() == ["inductive", "transductive"]
    part = metrics[metrics["experiment"] == "Experiment 3, SGQ: inductive"]
    best = best_inductive(metrics)
    assert best.startswith(OURS)
    of_ours = part[part["model"].str.startswith(OURS)]
    assert of_ours.set_index("model").loc[best, "accuracy"] == of_ours["accuracy"].max()
    main = pd.DataFrame([r for c in cells.values() for r in scores.score_rows(c, "simulated", "smoke", 3)])
    leak = leak_table(main)
    assert list(leak) == ["Experiment 3", "Experiment 3, as published"] and OURS in leak.index
    figure = accuracy_figure(cells["Experiment 3, SGQ"], pool, degraded, "field")
    plt.close(figure)
    names = figure.axes[0].get_legend_handles_labels()[1]
    assert set(names) <= {OURS, f"{ROBUST}, {EVEN}"} and names
