"""Scores of ordered classes: what each counts, by hand and by its extremes."""

import numpy as np
import pytest

from astro_utils.class_bootstrap import class_scores, resample_weights
from astro_utils.metrics import classification_scores
from astro_utils.ordinal import (
    class_accuracy,
    ordinal_scores,
    posterior_median,
    ranked_probability_score,
    summarise_ordinal,
    top_two,
    within_one,
)


def random_case(seed=0, n=400, k=5):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(k, 0.5), size=n)
    return np.concatenate([np.arange(k), rng.integers(k, size=n - k)]), probabilities


def test_within_one_counts_neighbours_and_no_anomaly():
    labels = np.array([0, 0, 2, 4, 4, 4, 0])
    predicted = np.array([0, 1, 0, 3, 5, 4, -1])
    np.testing.assert_array_equal(
        within_one(labels, predicted, 5), [True, True, False, True, False, True, False]
    )
    assert within_one(np.array([1]), np.array([0], dtype=np.uint8), 5).all()  # no wrap below zero


def test_top_two_is_not_within_one():
    probabilities = np.array([[0.5, 0.1, 0.4], [0.5, 0.4, 0.1], [0.4, 0.2, 0.4]])
    np.testing.assert_array_equal(top_two(np.array([2, 2, 2]), probabilities), [True, False, True])
    predicted = probabilities.argmax(1)
    assert not within_one(np.array([2, 2, 2]), predicted, 3).any()


def test_top_two_and_within_one_are_at_least_the_accuracy():
    labels, probabilities = random_case()
    scores = ordinal_scores(labels, probabilities)
    assert scores["accuracy"] < scores["top_two"] < 1
    assert scores["accuracy"] < scores["within_one"] < 1
    right = probabilities.argmax(1) == labels
    assert top_two(labels, probabilities)[right].all()


def test_posterior_median_errs_by_the_fewest_classes():
    assert posterior_median(np.array([[0.4, 0.3, 0.3], [0.5, 0.5, 0], [0.2, 0.2, 0.6]])).tolist() == [1, 0, 2]
    _, probabilities = random_case(1)
    classes = np.arange(5)
    expected = np.abs(classes[:, None] - classes) @ probabilities.T  # (guess, N)
    chosen = expected[posterior_median(probabilities), np.arange(len(probabilities))]
    np.testing.assert_allclose(chosen, expected.min(0))
    assert (posterior_median(probabilities) != probabilities.argmax(1)).any()


def test_ranked_probability_score():
    sharp = np.eye(4)
    np.testing.assert_array_equal(ranked_probability_score(np.array([0, 0, 0, 0]), sharp), [0, 1, 2, 3])
    # Proper: stating the truth's own distribution is best on average.
    truth, wrong = np.array([0.5, 0.3, 0.2]), np.array([0.6, 0.2, 0.2])
    score = [truth @ ranked_probability_score(np.arange(3), np.tile(p, (3, 1))) for p in (truth, wrong)]
    assert score[0] < score[1]


def test_scores_are_those_of_classification_and_more():
    labels, probabilities = random_case(2)
    scores = ordinal_scores(labels, probabilities)
    for name, value in classification_scores(labels, probabilities).items():
        assert scores[name] == pytest.approx(value, abs=1e-12), name
    by_class = class_accuracy(labels, probabilities.argmax(1), 5)
    np.testing.assert_allclose([scores[f"recall_{k}"] for k in range(5)], by_class)
    assert by_class.mean() == pytest.approx(scores["recall"])


def test_an_anomaly_is_wrong_and_no_other_class():
    labels = np.array([0, 1, 2, 2])
    probabilities = np.eye(3)[labels]
    scores = ordinal_scores(labels, probabilities, np.array([0, 1, 3, 2]))
    assert scores["accuracy"] == 0.75
    assert scores["within_one"] == 0.75
    assert scores["top_two"] == 1
    assert scores["precision"] == 1  # nothing was called by a wrong class
    assert scores["f1"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert scores["recall_2"] == 0.5


def test_class_accuracy_of_an_absent_class():
    accuracy = class_accuracy(np.array([0, 0, 2]), np.array([0, 1, 2]), 4)
    np.testing.assert_array_equal(accuracy, [0.5, np.nan, 1, np.nan])


def test_summary_over_seeds_and_resamples():
    labels, first = random_case(3)
    _, second = random_case(4)
    weights = resample_weights(np.arange(len(labels)), 200, seed=1)
    summary = summarise_ordinal(labels, [first, second], weights)
    single = [ordinal_scores(labels, p) for p in (first, second)]
    for name in ("accuracy", "f1", "within_one", "top_two", "rps"):
        values = [scores[name] for scores in single]
        assert summary[name]["value"] == pytest.approx(np.mean(values), rel=1e-5), name
        assert summary[name]["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-3), name
        assert summary[name]["lo"] < summary[name]["value"] < summary[name]["hi"]
    one = summarise_ordinal(labels, [first], weights)["within_one"]
    share = one["value"]
    # The bootstrap's interval of a share is that of a binomial.
    assert one["hi"] - one["lo"] == pytest.approx(3.92 * np.sqrt(share * (1 - share) / len(labels)), rel=0.15)
    assert np.isnan(one["sd"])
    assert "recall_4" in class_scores(labels, first, weights)


PAIR, BOTH = np.array([[0.6, 0.4], [0.3, 0.7]]), np.array([0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((BOTH, PAIR[:1]), r"2 labels but probabilities of shape \(1, 2\)"),
        ((BOTH, 2 * PAIR), "probabilities in row 0 do not sum to 1"),
        ((BOTH, PAIR * np.nan), "row 0"),
        ((BOTH / 1, PAIR), r"labels must be \(N,\) integers, not float64"),
        ((BOTH + 1, PAIR), "labels run from 1 to 2, not within 0 to 1"),
        ((BOTH - 1, PAIR), "labels run from -1"),
        ((0 * BOTH, PAIR), "class 1 has no object"),
        ((BOTH, PAIR, np.array([0.0, 1.0])), "predicted classes must be 2 integers"),
        ((BOTH, PAIR, np.array([0])), "predicted classes must be 2 integers"),
    ],
)
def test_wrong_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        ordinal_scores(*arguments)
