"""Sets of classes under a shift: what calibration by class loses, and what calibration by both keeps."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
from matplotlib import pyplot as plt

from astro_utils import conformal
from astro_utils.results import read_metrics, write_metrics
from astro_utils.separation.coverage import (
    BY_BOTH,
    BY_CLASS,
    LEVELS,
    METHODS,
    N_BINS,
    ON_DEGRADED,
    WEIGHTED,
    conformal_sets,
    coverage_rows,
    equal_edges,
    nearest_of_each_class,
)
from astro_utils.separation.coverage_plots import coverage_by_r, coverage_table
from astro_utils.separation.methods import OURS
from astro_utils.separation.scores import cells
from astro_utils.separation.sets import simulated_pool


def toy(n, r, mix, seed):
    """Probabilities, classes and magnitudes of objects that are the harder to tell the fainter they are.

    Quasars are shied away from, so that they are harder than the others.
    """
    rng = np.random.default_rng(seed)
    labels = np.searchsorted(np.cumsum(mix)[:-1], rng.random(n))
    p = made.probabilities(labels, 4.0 - 0.55 * (r - 17), 3, rng) * (1, 0.5, 1)
    return p / p.sum(1, keepdims=True), labels, r


@pytest.fixture(scope="module")
def calibration():
    """Mostly bright, as many of each class."""
    r = 17 + 6 * np.random.default_rng(0).beta(2, 2, 160_000)
    return toy(160_000, r, (1 / 3, 1 / 3, 1 / 3), 1)


@pytest.fixture(scope="module")
def degraded():
    """Bright ones made faint: as many at every magnitude above 20."""
    return toy(6000, np.random.default_rng(2).uniform(20, 23, 6000), (1 / 3, 1 / 3, 1 / 3), 3)


@pytest.fixture(scope="module")
def test_set():
    """Faint, mostly galaxies."""
    return toy(60_000, np.random.default_rng(4).uniform(20, 22.75, 60_000), (0.6, 0.1, 0.3), 5)


@pytest.fixture(scope="module")
def sets(calibration, degraded, test_set):
    p, _, r = test_set
    return {
        (method, level): conformal_sets(method, level, calibration, degraded, (p, r))
        for method in METHODS
        for level in (LEVELS if method == BY_BOTH else (0.9,))
    }


def binned(sets, test_set, width=0.25):
    return conformal.coverage_by(sets, test_set[1], test_set[2], np.arange(20, 22.76, width))["coverage"]


def test_probabilities_that_are_made_up_are_calibrated():
    rng = np.random.default_rng(6)
    labels = rng.integers(3, size=20_000)
    p = made.probabilities(labels, rng.uniform(1, 3, 20_000), 3, rng)
    for low in (0.2, 0.5, 0.8):
        inside = (p[:, 1] >= low) & (p[:, 1] < low + 0.1)
        share = (labels[inside] == 1).mean()
        assert share == pytest.approx(p[inside, 1].mean(), abs=4 * np.sqrt(0.25 / inside.sum()))


def test_where_objects_are_drawn_alike_every_way_keeps_its_promise(calibration, degraded):
    first = tuple(x[:80_000] for x in calibration)
    p, labels, r = (x[80_000:] for x in calibration)
    for method in (BY_CLASS, WEIGHTED, BY_BOTH):
        found = conformal_sets(method, 0.9, first, degraded, (p, r))
        for k in range(3):
            assert conformal.coverage(found[labels == k], labels[labels == k]) == pytest.approx(
                0.9, abs=0.015
            )


def test_by_class_falls_short_among_faint_objects(sets, test_set):
    shares = binned(sets[BY_CLASS, 0.9], test_set)
    assert conformal.coverage(sets[BY_CLASS, 0.9], test_set[1]) < 0.87
    assert shares.iloc[-1] < 0.8 and (np.diff(shares) < 0.01).all(), "the fainter, the worse"


def test_by_class_and_magnitude_keeps_the_promise_in_every_bin(sets, test_set):
    found = sets[BY_BOTH, 0.9]
    assert np.abs(binned(found, test_set) - 0.9).max() < 0.02
    _, labels, r = test_set
    for k in range(3):  # in each class too, and so under any mix
        mine = labels == k
        part = conformal.coverage_by(found[mine], labels[mine], r[mine], np.arange(20, 22.76, 0.5))[
            "coverage"
        ]
        assert np.abs(part - 0.9).max() < 0.04


def test_weights_mend_a_part_and_degraded_objects_the_mean(sets, test_set):
    whole = {m: conformal.coverage(sets[m, 0.9], test_set[1]) for m in METHODS}
    assert whole[BY_CLASS] + 0.02 < whole[WEIGHTED]
    assert whole[ON_DEGRADED] == pytest.approx(0.9, abs=0.015)
    for method in (WEIGHTED, ON_DEGRADED):
        assert (
            np.ptp(binned(sets[method, 0.9], test_set)) > 0.04 > np.ptp(binned(sets[BY_BOTH, 0.9], test_set))
        )


def test_a_higher_level_has_larger_sets_that_hold_the_smaller_ones(sets, test_set):
    found = [sets[BY_BOTH, level] for level in LEVELS]
    for level, one in zip(LEVELS, found, strict=True):
        assert conformal.coverage(one, test_set[1]) == pytest.approx(level, abs=0.015)
    for smaller, larger in pairwise(found):
        assert (larger | ~smaller).all() and larger.sum() > smaller.sum()


# ----------------------------------------------------------------------------------------------- neighbours


@pytest.mark.parametrize("nearest", [1, 150, 1000])
def test_the_nearest_of_every_class_are_taken(calibration, nearest):
    _, labels, r = calibration
    for magnitude in (15.0, 20.3, 21.7, 30.0):
        near = nearest_of_each_class(r, labels, magnitude, nearest)
        assert np.bincount(labels[near], minlength=3).tolist() == [nearest] * 3
        left = np.setdiff1d(np.arange(len(r)), near)
        for k in range(3):
            far = np.abs(r[near[labels[near] == k]] - magnitude).max()
            assert far <= np.abs(r[left[labels[left] == k]] - magnitude).min()


def test_of_a_rare_class_all_are_taken(calibration):
    _, labels, r = calibration
    few = np.sort(np.append(np.flatnonzero(labels != 2), np.flatnonzero(labels == 2)[:100]))
    near = nearest_of_each_class(r[few], labels[few], 21.0, 150)
    assert np.bincount(labels[few][near]).tolist() == [150, 150, 100]


def test_few_that_are_near_follow_what_changes_with_magnitude_and_many_do_not(
    calibration, degraded, test_set
):
    p, _, r = test_set
    spread = {}
    for nearest in (300, 30_000):
        found = conformal_sets(BY_BOTH, 0.9, calibration, degraded, (p, r), nearest)
        spread[nearest] = np.abs(binned(found, test_set) - 0.9).max()
    assert spread[300] < 0.02 < spread[30_000]


def test_objects_beyond_the_calibration_are_in_the_last_bins(calibration, degraded):
    p = np.tile([[0.6, 0.3, 0.1]], (3, 1))
    found = conformal_sets(BY_BOTH, 0.9, calibration, degraded, (p, np.array([10.0, 23.0, 30.0])))
    assert (found[1] == found[2]).all() and found.shape == (3, 3)


def test_another_way_is_refused(calibration, degraded, test_set):
    p, _, r = test_set
    with pytest.raises(ValueError, match="no way to calibrate 'by luck'; expected one of by class, as publ"):
        conformal_sets("by luck", 0.9, calibration, degraded, (p, r))


# --------------------------------------------------------------------------------------------- of a study


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    path = made.made_up(tmp_path_factory.mktemp("coverage") / "compact.h5", 4000, 8)
    return simulated_pool(path, reserve=0.5)


@pytest.fixture(scope="module")
def answers(pool):
    """Answers of two seeds, the second of which is far less sure of itself."""
    out = made.answers(pool, {OURS: 2.0}, n_degraded=900)
    names = ["p_GALAXY", "p_QSO", "p_STAR"]
    shy = (out["seed"] == 1).to_numpy()
    out.loc[shy, names] = out.loc[shy, names] ** 0.3
    out[names] = out[names].div(out[names].sum(axis=1), axis=0)
    return out


def rows_of(answers, pool):
    return coverage_rows(answers, list(cells(answers, pool)), OURS, "simulated", "smoke", nearest=30)


@pytest.fixture(scope="module")
def study(answers, pool):
    return rows_of(answers, pool)


def test_each_way_is_scored_in_experiments_1_and_3(study, tmp_path):
    rows, _ = study
    metrics = read_metrics(write_metrics(tmp_path / "conformal.json", rows))
    wanted = {f"conformal, Experiment {e}, {t}, {m}" for e in "13" for t in ("SG", "SGQ") for m in METHODS}
    assert set(metrics["experiment"]) == wanted and (metrics["seeds"] == 2).all()
    names = [f"{what}_{level}" for what in ("coverage", "mean_size", "empty") for level in (68, 90, 95, 99)]
    assert metrics[names].notna().all(axis=None)
    # Made-up answers are as hard everywhere, so that all ways cover; the test sets hold some 200 objects.
    np.testing.assert_allclose(metrics["coverage_90"], 0.9, atol=0.08)
    assert (metrics["coverage_68"] < metrics["coverage_90"]).all()
    assert (metrics["mean_size_90"] < metrics["mean_size_99"]).all()


def test_each_seed_is_calibrated_on_its_own_answers(study, answers, pool):
    """Calibrated on those of the other seed, sets would be too small or too large."""
    singles = [rows_of(answers[answers["seed"] == seed], pool)[0] for seed in (0, 1)]
    for row, *alone in zip(study[0], *singles, strict=True):
        for name in ("coverage_68", "coverage_90", "mean_size_90", "empty_68"):
            assert row[name] == pytest.approx(np.mean([one[name] for one in alone])), name


def test_the_order_of_the_answers_is_of_no_matter(study, answers, pool):
    rows, table = study
    found, binned = rows_of(answers.sample(frac=1, random_state=0), pool)
    for mine, theirs in zip(found, rows, strict=True):
        assert mine == pytest.approx(theirs)
    pd.testing.assert_frame_equal(binned, table)


def test_bins_of_magnitude_add_up_to_the_whole(study, answers, pool):
    rows, table = study
    by_name = {cell.name: cell for cell in cells(answers, pool)}
    part = table[(table["way"] == BY_BOTH) & (table["experiment"] == "3") & (table["task"] == "SGQ")]
    cell = by_name["Experiment 3, SGQ"]
    (row,) = (r for r in rows if r["experiment"] == f"conformal, Experiment 3, SGQ, {BY_BOTH}")
    for level in LEVELS:
        one = part[part["level"] == level]
        assert one["n"].sum() == len(cell.labels) and one["n"].min() > 0.9 * len(cell.labels) / N_BINS
        covered = (one["n"] * one["coverage"]).sum()
        assert covered == pytest.approx(row[f"coverage_{100 * level:.0f}"] * len(cell.labels))
        share = one["coverage"].clip(0.01, 0.99)
        np.testing.assert_allclose(one["error"], np.sqrt(share * (1 - share) / one["n"]))


def test_bins_in_which_coverage_is_judged_hold_as_many_each():
    r = np.random.default_rng(8).beta(4, 1, 6000) * 6 + 17
    edges = equal_edges(r)
    counts = np.histogram(r, edges)[0]
    assert len(counts) == N_BINS and counts.sum() == len(r) and np.abs(counts - 1000).max() < 60
    assert np.allclose(100 * edges, np.round(100 * edges))
    assert equal_edges(np.full(5, 20.005)).tolist() == [20.0, 20.01], "all in one"


def test_the_table_and_the_figure_show_every_way(study, tmp_path):
    rows, table = study
    metrics = read_metrics(write_metrics(tmp_path / "conformal.json", rows))
    shown = coverage_table(metrics, "SGQ")
    assert shown.index.tolist() == [(e, OURS, way) for e in "13" for way in METHODS]
    first = metrics[metrics["experiment"] == f"conformal, Experiment 1, SGQ, {BY_CLASS}"].iloc[0]
    assert shown.iloc[0]["90 %"] == f"{100 * first['coverage_90']:.1f}"
    figure = coverage_by_r(table, OURS, smallest=10)
    plt.close(figure)
    assert [ax.get_title() for ax in figure.axes] == ["SG", "SGQ"]
    assert figure.axes[0].get_legend_handles_labels()[1] == [BY_CLASS, BY_BOTH]
