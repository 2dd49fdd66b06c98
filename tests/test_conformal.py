"""Conformal sets: the coverage that theory promises, on data for which its assumptions hold or fail."""

import numpy as np
import pytest

from astro_utils.conformal import calibrate, coverage, coverage_by, prediction_sets, set_sizes

MEANS = np.array([-1.0, 0.5, 1.5])


def sky(rng, n):
    """Probabilities of an overconfident classifier of three classes along one feature, and the labels."""
    x = rng.normal(0, 1.5, n)
    density = np.exp(-0.5 * (x[:, None] - MEANS) ** 2)
    posterior = density / density.sum(1, keepdims=True)
    labels = (rng.random(n)[:, None] > posterior.cumsum(1)[:, :2]).sum(1)
    overconfident = posterior**2
    return overconfident / overconfident.sum(1, keepdims=True), labels


def faint_sky(rng, n, shift):
    """Magnitudes N(shift, 0.5) and two classes that grow alike with them, which the classifier ignores."""
    magnitude = rng.normal(shift, 0.5, n)
    labels = rng.integers(2, size=n)
    feature = rng.normal((2 * labels - 1) * np.exp(-0.5 * magnitude), 1)
    p = 1 / (1 + np.exp(-2 * feature))
    return magnitude, np.stack([1 - p, p], axis=1), labels


def faint_ratio(magnitude, shift):
    """Ratio of the densities N(shift, 0.5) and N(0, 0.5)."""
    return np.exp((magnitude * shift - shift**2 / 2) / 0.5**2)


def repeat(measure, n=300):
    values = np.array([measure(np.random.default_rng(seed)) for seed in range(n)])
    return values.mean(0), values.std(0) / np.sqrt(n)


@pytest.mark.parametrize(("n", "level"), [(19, 0.9), (50, 0.68), (200, 0.95)])
def test_coverage_of_exchangeable_objects(n, level):
    def measure(rng):
        probabilities, labels = sky(rng, n + 500)
        thresholds = calibrate(probabilities[:n], labels[:n], level)
        return coverage(prediction_sets(probabilities[n:], thresholds), labels[n:])

    mean, error = repeat(measure)
    # Over calibration samples, the expected coverage is exactly this (Vovk 2012; scores have no ties).
    expected = np.ceil((n + 1) * level) / (n + 1)
    assert abs(mean - expected) < 4 * error
    assert level <= expected < level + 1 / (n + 1)


def test_each_class_is_covered_by_class():
    level, n = 0.9, 600

    def by_class(rng, *, mondrian):
        probabilities, labels = sky(rng, 2 * n)
        thresholds = calibrate(probabilities[:n], labels[:n], level, by_class=mondrian)
        sets = prediction_sets(probabilities[n:], thresholds)
        return [coverage(sets[labels[n:] == k], labels[n:][labels[n:] == k]) for k in range(3)]

    mean, error = repeat(lambda rng: by_class(rng, mondrian=True))
    assert (mean > level - 4 * error).all()
    assert (mean < level + 0.02).all()  # 1 / (n + 1) with some 100 members in the rarest class, and noise
    mean, error = repeat(lambda rng: by_class(rng, mondrian=False))
    assert mean.min() < level - 10 * error.max()  # on average over classes alone


@pytest.mark.parametrize("by_class", [False, True])
def test_weights_restore_coverage_under_covariate_shift(by_class):
    n, level, shift = 500, 0.9, 0.6

    def measure(rng):
        magnitude, probabilities, labels = faint_sky(rng, n, 0)
        test_magnitude, test, truth = faint_sky(rng, n, shift)
        weights, test_weights = faint_ratio(magnitude, shift), faint_ratio(test_magnitude, shift)
        found = []
        for option in ({}, {"weights": weights, "test_weights": test_weights}, {"weights": weights}):
            thresholds = calibrate(probabilities, labels, level, by_class=by_class, **option)
            found.append(coverage(prediction_sets(test, thresholds), truth))
        return found

    (plain, exact, largest), error = repeat(measure)
    assert plain < level - 0.04
    assert level - 4 * error[1] < exact < level + 0.02
    assert exact <= largest < level + 0.06  # one threshold for all costs wider sets


def test_threshold_is_the_finite_sample_quantile():
    truth = np.linspace(0.05, 0.95, 19)  # scores 0.95 to 0.05
    probabilities, labels = np.stack([truth, 1 - truth], axis=1), np.zeros(19, dtype=int)
    for level, rank in ((0.5, 10), (0.51, 11), (0.9, 18), (0.95, 19)):
        np.testing.assert_allclose(calibrate(probabilities, labels, level), 0.05 * rank)
    assert (calibrate(probabilities, labels, 0.951) == np.inf).all()  # 20 objects would be needed
    equal = calibrate(probabilities, labels, 0.9, weights=np.full(19, 0.3))
    np.testing.assert_array_equal(equal, calibrate(probabilities, labels, 0.9))


@pytest.mark.parametrize("n", [99, 999])
def test_rank_is_not_upset_by_rounding(n):
    scores = np.arange(1, n + 1) / (n + 1)
    probabilities, labels = np.stack([1 - scores, scores], axis=1), np.zeros(n, dtype=int)
    for percent in range(1, 100):  # 0.07 * 100 > 7 in floating point
        np.testing.assert_allclose(calibrate(probabilities, labels, percent / 100), percent / 100)


def test_an_infinite_threshold_takes_the_class_always():
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0]])
    thresholds = calibrate(probabilities, np.array([0, 1]), 0.9, by_class=True)
    assert (thresholds == np.inf).all()
    assert prediction_sets(probabilities, thresholds).all()


def test_weights_choose_among_the_scores():
    truth = np.array([0.9, 0.6, 0.3])
    probabilities, labels = np.stack([truth, 1 - truth], axis=1), np.zeros(3, dtype=int)
    only_the_second = calibrate(
        probabilities, labels, 0.5, weights=np.array([0, 1, 0]), test_weights=np.array([0, 0.5, 1.5])
    )
    np.testing.assert_allclose(only_the_second, [[0.4, 0.4], [0.4, 0.4], [np.inf, np.inf]])
    by_object = prediction_sets(np.full((3, 2), 0.5), only_the_second)
    np.testing.assert_array_equal(by_object, [[False, False], [False, False], [True, True]])


def test_sets_and_their_sizes():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25], [1, 0, 0]])
    sets = prediction_sets(probabilities, np.array([0.5, 0.7, 0.7]))
    np.testing.assert_array_equal(sets, [[True, False, False], [False, True, False], [True, False, False]])
    assert set_sizes(prediction_sets(probabilities, np.array([0.65, 0.7, 0.75]))).tolist() == [1, 3, 1]
    assert set_sizes(prediction_sets(probabilities, np.full(3, -1.0))).tolist() == [0, 0, 0]
    assert coverage(sets, np.array([0, 0, 0])) == pytest.approx(2 / 3)


def test_coverage_in_bins():
    sets = np.array([[1, 0], [1, 0], [0, 0], [1, 1], [0, 1], [1, 0]], dtype=bool)
    labels = np.array([0, 1, 0, 1, 1, 0])
    values = np.array([20.0, 20.4, 20.5, 21.0, 22.0, 30.0])
    table = coverage_by(sets, labels, values, [20, 20.5, 21.5, 21.8, 22])
    assert table["lo"].tolist() == [20, 20.5, 21.5, 21.8]
    assert table["hi"].tolist() == [20.5, 21.5, 21.8, 22]
    assert table["n"].tolist() == [2, 2, 0, 1]  # 22.0 is in the last bin, 30.0 in none
    np.testing.assert_array_equal(table["coverage"], [0.5, 0.5, np.nan, 1])
    np.testing.assert_array_equal(table["mean_size"], [1, 1, np.nan, 1])
    np.testing.assert_array_equal(table["empty"], [0, 0.5, np.nan, 0])
    # Wilson's interval of 1 in 2 at z = 1.96, from its formula
    z2 = 1.96**2
    half = 1.96 * np.sqrt(0.25 / 2 + z2 / 16) / (1 + z2 / 2)
    np.testing.assert_allclose(table.loc[0, "coverage_lo"], 0.5 - half)
    np.testing.assert_allclose(table.loc[0, "coverage_hi"], 0.5 + half)
    assert table.loc[2, ["coverage_lo", "coverage_hi"]].isna().all()


PAIR = np.array([[0.6, 0.4], [0.3, 0.7]])
BOTH = np.array([0, 1])


@pytest.mark.parametrize("level", [0, 1, -0.1, 90, np.nan])
def test_level_is_inside_0_and_1(level):
    with pytest.raises(ValueError, match="level must be between 0 and 1"):
        calibrate(PAIR, BOTH, level)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((PAIR[0], BOTH), {}, r"probabilities must be \(N, K\), not of shape \(2,\)"),
        ((np.empty((0, 2)), np.empty(0, int)), {}, r"not of shape \(0, 2\)"),
        ((2 * PAIR, BOTH), {}, r"probabilities in row 0 do not sum to 1: \[1\.2, 0\.8\]"),
        ((np.array([[0.5, 0.5], [1.5, -0.5]]), BOTH), {}, "row 1"),
        ((np.array([[0.5, 0.5], [np.nan, 1]]), BOTH), {}, "row 1"),
        ((PAIR, BOTH[:1]), {}, r"labels must be 2 integers, not int64 of shape \(1,\)"),
        ((PAIR, PAIR[0]), {}, "labels must be 2 integers, not float64"),
        ((PAIR, np.array(["STAR", "QSO"])), {}, "labels must be 2 integers"),
        ((PAIR, np.array([0, 2])), {}, "labels run from 0 to 2, not within 0 to 1"),
        ((PAIR, np.array([-1, 0])), {}, "labels run from -1"),
        ((PAIR, np.array([1, 1])), {"by_class": True}, "class 0 has no calibration object"),
        ((PAIR, BOTH), {"weights": np.ones(3)}, "weights must be 2 numbers"),
        ((PAIR, BOTH), {"weights": np.array([1, -1])}, "weights must be .* not negative"),
        ((PAIR, BOTH), {"weights": np.array([1, np.inf])}, "weights must be .* finite"),
        ((PAIR, BOTH), {"weights": np.zeros(2)}, "weight 0"),
        ((PAIR, BOTH), {"weights": np.array([1, 0]), "by_class": True}, "weight 0"),
        ((PAIR, BOTH), {"weights": np.ones(2), "test_weights": np.array([np.nan])}, "test_weights must be 1"),
        ((PAIR, BOTH), {"test_weights": np.ones(2)}, "without the weights of the calibration objects"),
    ],
)
def test_wrong_calibration_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        calibrate(*arguments, 0.9, **options)


def test_wrong_sets_and_bins():
    sets = np.ones((2, 2), dtype=bool)
    with pytest.raises(ValueError, match=r"thresholds and probabilities of shapes \(3,\) and \(2, 2\)"):
        prediction_sets(PAIR, np.zeros(3))
    with pytest.raises(ValueError, match=r"sets must be \(N, K\) bool, not int64"):
        set_sizes(sets.astype(int))
    with pytest.raises(ValueError, match="labels must be 2 integers"):
        coverage(sets, np.array([0]))
    with pytest.raises(ValueError, match="values must be 2 finite numbers"):
        coverage_by(sets, BOTH, np.array([1, np.nan]), [0, 1])
    with pytest.raises(ValueError, match="edges must be two or more increasing numbers"):
        coverage_by(sets, BOTH, np.array([1, 2]), [1, 0])


def test_probabilities_in_single_precision_are_accepted():
    logits = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert np.isfinite(calibrate(probabilities, np.arange(100) % 3, 0.9, by_class=True)).all()
