"""Scores as weighted sums: those of scikit-learn, of repeated samples, and intervals that hold the truth."""

import numpy as np
import pytest

from astro_utils.class_bootstrap import class_scores, paired_difference, resample_weights, summarise_classes
from astro_utils.metrics import bootstrap, classification_scores


def made_up(k, n=600, seed=0, digits=None):
    """Labels and probabilities that know something of them; few digits make ties."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    logits = 1.2 * np.eye(k)[labels] + rng.normal(0, 1, (n, k))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if digits is not None:
        p = np.round(p, digits) + 10.0 ** -(digits + 1)
        p /= p.sum(1, keepdims=True)
    return labels, p


def in_turn(n):
    """Labels (n,) of two classes in turn."""
    return np.arange(n) % 2


def answers(right, confidence=0.8):
    """Probabilities (N, 2) of calls that are right of labels in turn, or wrong."""
    called = np.where(right, in_turn(len(right)), 1 - in_turn(len(right)))
    return np.where(called[:, None] == [0, 1], confidence, 1 - confidence)


# -------------------------------------------------------------------------------------------------- scores


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("digits", [None, 1], ids=["all differ", "ties"])
def test_weights_of_one_give_the_scores_of_the_package(k, digits):
    labels, p = made_up(k, digits=digits)
    assert (len(np.unique(p[:, 1])) == len(p)) == (digits is None)
    scores = class_scores(labels, p, np.ones((1, len(labels)), np.float32))
    expected = classification_scores(labels, p)
    assert set(scores) == {*expected, *(f"recall_{c}" for c in range(k))}
    for name, value in expected.items():
        assert scores[name].shape == (1,)
        assert scores[name][0] == pytest.approx(value, abs=1e-6), name
    for c in range(k):
        assert scores[f"recall_{c}"][0] == pytest.approx((p.argmax(1) == c)[labels == c].mean())


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("digits", [None, 1], ids=["all differ", "ties"])
def test_whole_weights_are_a_sample_with_repeated_objects(k, digits):
    labels, p = made_up(k, n=200, digits=digits)
    weights = np.random.default_rng(1).integers(0, 4, (3, 200)).astype(np.float32)
    scores = class_scores(labels, p, weights)
    for row, counts in enumerate(weights.astype(int)):
        index = np.repeat(np.arange(200), counts)
        for name, value in classification_scores(labels[index], p[index]).items():
            assert scores[name][row] == pytest.approx(value, abs=1e-6), name


def test_ties_count_half_in_the_area_under_the_curve():
    """Of 2 x 2 pairs: one right, one wrong, two tied; then with the tied pairs drawn three times."""
    labels = np.array([0, 1, 0, 1])
    p = np.array([0.3, 0.3, 0.5, 0.5])
    stacked = np.stack([1 - p, p], 1)
    # (0.3, 0.3): half; (0.3 against 0.5): right; (0.5 against 0.3): wrong; (0.5, 0.5): half.
    assert class_scores(labels, stacked, np.ones((1, 4)))["auc"] == pytest.approx([0.5])
    # Galaxies 1 and 1, stars 3 and 1: (3 / 2 + 1 + 0 + 1 / 2) of 8 pairs.
    assert class_scores(labels, stacked, np.array([[1.0, 3, 1, 1]]))["auc"] == pytest.approx([3 / 8])
    assert class_scores(labels, np.full((4, 2), 0.5), np.ones((1, 4)))["auc"] == pytest.approx([0.5])


def test_a_resample_without_a_class_has_no_area_and_leaves_the_interval_alone():
    labels, p = made_up(2, n=40)
    weights = np.ones((3, 40))
    weights[1] = labels == 0
    assert np.isnan(class_scores(labels, p, weights)["auc"][1])
    found = summarise_classes(labels, [p], weights)["auc"]
    assert found["lo"] == pytest.approx(found["value"]) == found["hi"]


# ------------------------------------------------------------------------------------------------- weights


def test_whole_groups_are_drawn_together_and_as_many_as_there_are():
    groups = np.random.default_rng(2).permutation(np.repeat([7, 3, 9, 12], [1, 5, 10, 20]))
    weights = resample_weights(groups, 50, seed=4)
    assert weights.shape == (51, 36) and weights.dtype == np.float32
    assert (weights[0] == 1).all(), "the first is the sample itself"
    drawn = np.stack([weights[:, groups == name].mean(1) for name in (7, 3, 9, 12)], 1)
    for i, name in enumerate((7, 3, 9, 12)):
        assert (weights[:, groups == name] == drawn[:, i : i + 1]).all(), "an object goes with its group"
    assert (drawn.sum(1) == 4).all()
    assert (drawn[1:] != 1).any(1).mean() > 0.8


def test_the_seed_decides_the_resamples():
    groups = np.arange(30)
    first, again, other = (resample_weights(groups, 5, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert resample_weights(groups, 0).shape == (1, 30)


# ----------------------------------------------------------------------------------------------- intervals


def test_intervals_hold_a_known_accuracy_as_often_as_they_say():
    """150 samples of 300 objects, each called rightly with a probability of 0.8."""
    held = 0
    for seed in range(150):
        right = np.random.default_rng(seed).random(300) < 0.8
        weights = resample_weights(np.arange(300), 200, seed)
        found = summarise_classes(in_turn(300), [answers(right)], weights)["accuracy"]
        held += found["lo"] <= 0.8 <= found["hi"]
    # Binomial: 0.95 +- 0.018; percentile intervals are a little short.
    assert 0.89 < held / 150 < 0.99


def test_objects_of_one_field_that_err_together_make_wider_intervals():
    rng = np.random.default_rng(3)
    field = np.repeat(np.arange(40), 25)
    right = (rng.random(40) < 0.8)[field]
    widths = []
    for groups in (np.arange(1000), field):
        found = summarise_classes(in_turn(1000), [answers(right)], resample_weights(groups, 400))
        widths.append(found["accuracy"]["hi"] - found["accuracy"]["lo"])
    assert widths[1] == pytest.approx(5 * widths[0], rel=0.3), "25 objects count for one"


def test_intervals_are_those_of_the_slow_bootstrap():
    labels, p = made_up(2, n=400)
    groups = np.arange(400) // 4
    slow = bootstrap(lambda index: classification_scores(labels[index], p[index]), groups, 150)
    fast = summarise_classes(labels, [p], resample_weights(groups, 1000))
    for name, (low, high) in slow.items():
        width = high - low
        assert fast[name]["lo"] == pytest.approx(low, abs=0.2 * width), name
        assert fast[name]["hi"] == pytest.approx(high, abs=0.2 * width), name


def test_the_mean_over_seeds_stands_beside_their_spread():
    labels = in_turn(100)
    seeds = [answers(np.arange(100) < count) for count in (70, 80, 90)]
    found = summarise_classes(labels, seeds, resample_weights(np.arange(100), 50))["accuracy"]
    assert found["value"] == pytest.approx(0.8) and found["sd"] == pytest.approx(0.1)
    one = summarise_classes(labels, seeds[:1], resample_weights(np.arange(100), 0))["accuracy"]
    assert one["value"] == pytest.approx(0.7) and np.isnan([one["sd"], one["lo"], one["hi"]]).all()


# --------------------------------------------------------------------------------------------- differences


def test_a_method_does_not_differ_from_itself():
    labels, p = made_up(3)
    found = paired_difference(labels, [p], [p, p], resample_weights(np.arange(600), 200))
    assert found.pop("p_value") == {"value": 1.0}
    for name, one in found.items():
        assert one == {"value": 0.0, "lo": 0.0, "hi": 0.0}, name


def test_a_method_that_is_right_more_often_is_above_zero_though_the_intervals_of_both_overlap():
    """The same objects are hard for both; the pair knows, two intervals do not."""
    rng = np.random.default_rng(5)
    right = rng.random(500) < 0.8
    better = right | (rng.random(500) < 0.1)
    labels, weights = in_turn(500), resample_weights(np.arange(500), 400)
    found = paired_difference(labels, [answers(better)], [answers(right)], weights)
    gain = found["accuracy"]
    assert gain["value"] == pytest.approx(better.mean() - right.mean()) and gain["lo"] > 0
    assert found["p_value"]["value"] == pytest.approx(1 / 400), "as small as 400 resamples can tell"
    assert found["nll"]["hi"] < 0, "a smaller surprise is a negative difference"
    first, second = (summarise_classes(labels, [answers(x)], weights)["accuracy"] for x in (better, right))
    assert first["lo"] < second["hi"]
    other = paired_difference(labels, [answers(right)], [answers(better)], weights)
    assert other["accuracy"]["hi"] == pytest.approx(-gain["lo"])


def test_equally_good_methods_are_not_told_apart():
    rng = np.random.default_rng(6)
    one, two = (answers(rng.random(400) < 0.8) for _ in range(2))
    found = paired_difference(in_turn(400), [one], [two], resample_weights(np.arange(400), 400))
    assert found["accuracy"]["lo"] < 0 < found["accuracy"]["hi"]
    assert found["p_value"]["value"] > 0.05


def test_without_resamples_there_is_a_difference_and_no_interval():
    labels, p = made_up(2)
    found = paired_difference(labels, [p], [p[:, ::-1]], resample_weights(np.arange(600), 0))
    assert found["accuracy"]["value"] > 0.2
    assert np.isnan([found["accuracy"]["lo"], found["p_value"]["value"]]).all()
