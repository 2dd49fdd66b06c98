"""Conformal intervals of K: where each kind covers, how wide it is, and what it refuses."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from astro_utils.kcorrections.coverage import chance_inside, coverage_by_bin
from astro_utils.kcorrections.intervals import IntervalModel


@cache
def sky(n=6000, seed=0):
    """Galaxies whose K is seen through noise, small or large, and predicted as well as it can be."""
    rng = np.random.default_rng(seed)
    k, noisy = rng.normal(0, 1, n), rng.integers(2, size=n)
    sigma = np.where(noisy, 0.6, 0.3)
    predicted = (k + sigma * rng.normal(size=n)) / (1 + sigma**2)  # the mean of K given what is seen
    return noisy[:, None].astype(float), k, predicted, rng.integers(60, size=n)


@cache
def fitted(given):
    return IntervalModel(given=given).fit(*sky())


@cache
def intervals(given, level=0.9):
    features, _, predicted, _ = sky(seed=1)
    return fitted(given).predict(features, predicted, level)


def coverage(low, high, rows=slice(None)):
    k = sky(seed=1)[1]
    return ((low <= k) & (k <= high))[rows].mean()


@pytest.mark.parametrize("given", ["nothing", "prediction", "truth"])
@pytest.mark.parametrize("level", [0.68, 0.9, 0.95])
def test_intervals_cover_as_they_say(given, level):
    assert abs(coverage(*intervals(given, level)) - level) < 0.02


def test_only_intervals_given_the_truth_cover_where_galaxies_are_rare():
    k = sky(seed=1)[1]
    rare = np.abs(k) > 1.8
    assert coverage(*intervals("nothing"), rare) < 0.82
    assert coverage(*intervals("prediction"), rare) < 0.82
    assert abs(coverage(*intervals("truth"), rare) - 0.9) < 0.04
    table = coverage_by_bin(*intervals("truth"), k, k, np.arange(-2, 2.1, 0.5))
    assert len(table) == 8 and (table["coverage"] - 0.9).abs().max() < 0.04
    widths = [np.mean(high - low) for low, high in map(intervals, ("truth", "prediction"))]
    assert 1 < widths[0] / widths[1] < 1.5  # what it costs


def test_predictions_that_are_alike_are_covered_alike():
    features, k, predicted, groups = sky()
    crooked = predicted + 0.5 * (predicted > 1)  # wrong where little is predicted
    features2, k2, predicted2, _ = sky(seed=1)
    crooked2 = predicted2 + 0.5 * (predicted2 > 1)
    inside, width, rows = {}, {}, crooked2 > 1.5
    for given in ("nothing", "prediction"):
        model = IntervalModel(given=given).fit(features, k, crooked, groups)
        low, high = model.predict(features2, crooked2)
        inside[given], width[given] = ((low <= k2) & (k2 <= high))[rows].mean(), (high - low)[rows].mean()
    # The scale alone widens them to both sides; given the prediction they lie where K is.
    assert abs(inside["prediction"] - 0.9) < 0.04
    assert width["prediction"] < 0.85 * width["nothing"]


def test_intervals_are_wide_where_residuals_are():
    low, high = intervals("truth")
    noisy = sky(seed=1)[0][:, 0] > 0
    # Residuals scatter by sigma / sqrt(1 + sigma^2).
    wanted = (0.6 / np.hypot(1, 0.6)) / (0.3 / np.hypot(1, 0.3))
    assert (high - low)[noisy].mean() / (high - low)[~noisy].mean() == pytest.approx(wanted, rel=0.15)


def test_higher_levels_hold_lower_ones():
    ends = [intervals("truth", level) for level in (0.68, 0.9, 0.95)]
    for (low, high), (lower, higher) in pairwise(ends):
        assert (lower <= low).all() and (high <= higher).all() and (higher - lower > high - low).any()


def test_a_known_quantity_is_calibrated_bin_by_bin():
    features, k, predicted, groups = sky()
    z = np.random.default_rng(2).uniform(size=len(k))
    wrong = predicted + np.where(z > 0.8, 1.0, 0.0)  # which the features do not show
    model = IntervalModel(given="known", edges=[0.4, 0.8]).fit(features, k, wrong, groups, z)
    low, high = model.predict(features, wrong, 0.9, z)
    table = coverage_by_bin(low, high, k, z, [0, 0.4, 0.8, 1])
    # On the galaxies of the calibration itself coverage is the level, up to the scale's own fit.
    np.testing.assert_allclose(table["coverage"], 0.9, atol=0.02)
    plain = IntervalModel(given="nothing").fit(features, k, wrong, groups).predict(features, wrong)
    assert coverage_by_bin(*plain, k, z, [0.8, 1])["coverage"].item() < 0.8


def test_the_belt_holds_every_value_that_is_accepted():
    features, _, predicted, _ = sky(seed=1)
    model = fitted("truth")
    low, high = model.predict(features[:40], predicted[:40])
    scale = model._scale.predict(np.column_stack([features, predicted])[:40])
    values = np.linspace(-5, 5, 4001)
    cell = np.searchsorted(model._inner, values, side="right")
    skip = [int((len(s) + 1) * 0.05) for s in model._scores]
    ends = np.array([(s[n - 1], s[-n]) for s, n in zip(model._scores, skip, strict=True)])[cell]
    scores = (values - predicted[:40, None]) / scale[:, None]
    accepted = (scores >= ends[:, 0]) & (scores <= ends[:, 1])
    for row in range(40):
        found = values[accepted[row]]
        assert low[row] == pytest.approx(found.min(), abs=0.003)
        assert high[row] == pytest.approx(found.max(), abs=0.003)


def uneven(n, seed):
    """Galaxies that are predicted well, badly and well again along K, which no feature shows."""
    rng = np.random.default_rng(seed)
    k = rng.uniform(0, 1, n)
    predicted = k + rng.normal(size=n) * (0.02 + 0.25 * np.sin(2 * np.pi * k) ** 2)
    return np.ones((n, 1)), k, predicted, rng.integers(40, size=n)


@cache
def fitted_uneven():
    return IntervalModel().fit(*uneven(3000, 2))


def one_bin(k):
    return np.zeros(len(k), dtype=int)


def test_the_nominal_level_makes_up_for_what_a_belt_covers_too_much():
    model = fitted_uneven()
    features, k, predicted, _ = uneven(6000, 3)
    for level in (0.68, 0.9):
        nominal = model.nominal(level, one_bin(uneven(3000, 2)[1]))
        assert np.ptp(nominal) == 0 and level - 0.1 < nominal[0] < level - 0.03
        asked, wanted = (model.predict(features, predicted, number) for number in (level, nominal))
        covered = [((low <= k) & (k <= high)).mean() for low, high in (asked, wanted)]
        assert covered[0] > level + 0.045
        assert abs(covered[1] - level) < 0.03
        assert (wanted[1] - wanted[0]).mean() < 0.95 * (asked[1] - asked[0]).mean()


def test_nominal_levels_by_bin_hold_where_one_for_all_does_not():
    """Bins of a quantity that goes with K, as redshift does; belts of others hold the middle one anyhow."""

    def bins_of(k, seed):
        return np.clip((5 * (k + 0.05 * np.random.default_rng(seed).normal(size=len(k)))).astype(int), 0, 4)

    seen, new = uneven(20_000, 2), uneven(20_000, 3)
    model, old_bins, new_bins = IntervalModel().fit(*seen), bins_of(seen[1], 4), bins_of(new[1], 5)

    def held(levels):
        low, high = model.predict(new[0], new[2], levels)
        return np.bincount(new_bins, (low <= new[1]) & (new[1] <= high)) / np.bincount(new_bins)

    alike, by_bin = model.nominal(0.9, one_bin(old_bins)), model.nominal(0.9, old_bins)
    assert held(alike)[[0, 1, 3, 4]].max() < 0.895 and held(alike)[2] > 0.95
    assert np.abs(held(by_bin)[[0, 1, 3, 4]] - 0.9).max() < 0.013 and held(by_bin)[2] > 0.95
    assert by_bin.min() > 0.8 and np.ptp(alike) == 0  # none is asked for less than 0.9^2


def test_without_a_belt_the_nominal_level_is_the_wanted_one():
    features, k, predicted, groups = sky()
    z = np.random.default_rng(2).uniform(size=len(k))
    known = IntervalModel(given="known", edges=[0.4, 0.8]).fit(features, k, predicted, groups, z)
    for model in (fitted("nothing"), known):
        for level in (0.68, 0.9):
            nominal = model.nominal(level, one_bin(k))
            assert np.abs(nominal - level).max() < 0.004
    beyond = IntervalModel(given="known", edges=[0.4, 1.8]).fit(features, k, predicted, groups, z)
    assert beyond.nominal(0.9, one_bin(k))[2] == 0.9  # where there is nobody


def test_far_from_all_calibration_an_interval_is_still_one():
    features, _, _, _ = sky()
    model = fitted("truth")
    low, high = model.predict(features[:2], np.array([-40.0, 40.0]))
    assert np.isfinite([low, high]).all() and (low < high).all()


def test_a_level_that_the_numbers_cannot_bear_leaves_the_interval_open():
    few = [part[:150] for part in sky()]
    features, _, predicted, _ = sky(seed=1)
    low, high = IntervalModel(given="nothing").fit(*few).predict(features, predicted, 0.99)
    assert np.isneginf(low).all() and np.isposinf(high).all()
    low, high = IntervalModel(given="nothing").fit(*few).predict(features, predicted, 0.98)
    assert np.isfinite(low).all() and np.isfinite(high).all()


def test_coverage_by_bin():
    table = coverage_by_bin(
        np.zeros(4),
        np.array([1.0, 2, 3, 4]),
        np.array([0.5, 2.5, 3, -1]),
        np.array([0.1, 0.2, 0.5, 0.9]),
        [0.1, 0.5, 0.7, 0.8],
    )
    assert table[["lo", "n", "coverage", "mean_width"]].to_numpy().tolist() == [
        [0.1, 2, 0.5, 1.5],
        [0.5, 1, 1, 3],
    ]
    assert (table["coverage_lo"] < table["coverage"]).all()
    with pytest.raises(ValueError, match=r"expected one shape \(N,\)"):
        coverage_by_bin(np.zeros(3), np.ones(3), np.ones(3), np.ones(4), [0, 1])
    with pytest.raises(ValueError, match=r"edges must be increasing numbers, not \[1\.0, 0\.0\]"):
        coverage_by_bin(np.zeros(3), np.ones(3), np.ones(3), np.ones(3), [1, 0])


def test_what_is_refused():
    features, k, predicted, groups = (part[:300] for part in sky())
    with pytest.raises(ValueError, match="given 'faith'; expected one of nothing, prediction, known, truth"):
        IntervalModel(given="faith")
    with pytest.raises(ValueError, match="expected them with 'known', and only then"):
        IntervalModel(given="known")
    with pytest.raises(ValueError, match="expected them with 'known', and only then"):
        IntervalModel(given="truth", edges=[0.1])
    with pytest.raises(ValueError, match="known is absent with given='known'"):
        IntervalModel(given="known", edges=[0.1]).fit(features, k, predicted, groups)
    with pytest.raises(ValueError, match="known is given with given='truth'"):
        IntervalModel().fit(features, k, predicted, groups, k)
    with pytest.raises(ValueError, match="99 galaxies to calibrate; expected 100 or more"):
        IntervalModel().fit(features[:99], k[:99], predicted[:99], groups[:99])
    with pytest.raises(ValueError, match="k must be 300 finite numbers"):
        IntervalModel().fit(features, np.where(k == k[3], np.nan, k), predicted, groups)
    with pytest.raises(ValueError, match="predicted must be 300 finite numbers"):
        IntervalModel().fit(features, k, np.where(k == k[3], np.nan, predicted), groups)
    with pytest.raises(ValueError, match=r"features \(300,\) and predictions \(300,\); expected \(N, F\)"):
        IntervalModel().fit(features[:, 0], k, predicted, groups)
    model = IntervalModel().fit(features, k, predicted, groups)
    with pytest.raises(ValueError, match="level must be between 0 and 1, not 90"):
        model.predict(features, predicted, 90)
    with pytest.raises(ValueError, match="level must be between 0 and 1, not 90"):
        model.nominal(90, one_bin(k))
    with pytest.raises(ValueError, match=r"bins of shape \(299,\), int64; expected 300 integers from 0"):
        model.nominal(0.9, one_bin(k)[1:])


def test_the_chance_of_a_perfect_interval_is_that_of_a_binomial():
    n, rng = np.array([50, 234, 500, 3000]), np.random.default_rng(0)
    seen = rng.binomial(n, 0.9, (200_000, 4)) / n
    # With a margin for rounding: 44 of 50 are 88 %.
    expected = ((seen > 0.88 - 1e-9) & (seen < 0.92 + 1e-9)).mean(0)
    np.testing.assert_allclose(chance_inside(n), expected, atol=0.005)
    assert chance_inside(n, tolerance=0.05)[1] > chance_inside(n)[1]
    with pytest.raises(ValueError, match=r"bins of \[0\], 0.9 within 0.02; expected 1 or more"):
        chance_inside(np.array([0]))
    with pytest.raises(ValueError, match="expected 1 or more, inside"):
        chance_inside(n, level=0.99)
