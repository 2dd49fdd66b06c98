"""Scores against known answers and scikit-learn's own, and intervals against what they promise."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from astro_utils.metrics import (
    bootstrap,
    classification_scores,
    density_scores,
    redshift_error,
    redshift_scores,
    summarise,
    wilson_interval,
)


def answers(rng, n, n_classes):
    """Labels, of unequal frequency, and probabilities that know something of them."""
    labels = rng.choice(n_classes, n, p=np.arange(1, n_classes + 1) / np.arange(1, n_classes + 1).sum())
    logits = rng.normal(0, 1, (n, n_classes)) + 1.2 * np.eye(n_classes)[labels]
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True)


def test_redshift_scores_of_errors_that_are_known():
    z = np.full(10, 1.0)  # 1 + z = 2
    dz = np.array([0.0, 0.0, 0.01, -0.01, 0.02, -0.02, 0.04, 0.06, 0.2, -0.16])
    scores = redshift_scores(z + 2 * dz, z + 1e-9 * np.arange(10))
    assert scores["bias"] == pytest.approx(0.014, abs=1e-7)
    assert scores["bias_median"] == pytest.approx(0.005, abs=1e-7)
    # Distances from the median 0.005 in order: 5, 5, 5, 15, 15, 25, 35, 55, 165, 195 thousandths.
    assert scores["sigma_mad"] == pytest.approx(1.4826 * 0.020, abs=1e-7)
    assert scores["eta_05"] == pytest.approx(0.3) and scores["eta_15"] == pytest.approx(0.2)
    assert scores["rmse"] == pytest.approx(np.sqrt((dz**2).mean()), abs=1e-7)


def test_sigma_mad_estimates_the_width_of_a_gaussian_in_spite_of_outliers():
    rng = np.random.default_rng(0)
    z = rng.uniform(0.05, 0.5, 40_000)
    estimate = z + (1 + z) * rng.normal(0.003, 0.013, len(z))
    estimate[:200] += 3.0
    scores = redshift_scores(estimate, z)
    assert scores["sigma_mad"] == pytest.approx(0.013, rel=0.03)
    assert scores["bias_median"] == pytest.approx(0.003, abs=3e-4)
    assert scores["eta_15"] == pytest.approx(200 / len(z), abs=1e-9)
    assert scores["rmse"] > 10 * scores["sigma_mad"]


def test_redshift_error_is_relative_to_the_spectroscopic_redshift():
    assert redshift_error(np.array([0.5, 2.0]), np.array([1.0, 1.0])).tolist() == [-0.25, 0.5]


def test_r2_is_that_of_sklearn_and_zero_for_the_mean():
    rng = np.random.default_rng(1)
    z = rng.uniform(0, 1, 500)
    estimate = z + rng.normal(0, 0.1, 500)
    assert redshift_scores(estimate, z)["r2"] == pytest.approx(sk.r2_score(z, estimate))
    assert redshift_scores(np.full(500, z.mean()), z)["r2"] == pytest.approx(0, abs=1e-12)


def test_density_scores_are_named_for_their_levels():
    pit = np.linspace(0, 1, 1001)
    scores = density_scores(pit, np.array([1.0, 3.0]), np.array([-2.0, -4.0]))
    assert (scores["crps"], scores["cde_loss"]) == (2.0, -3.0)
    assert scores["pit_ks"] < 0.002
    for level in (68, 90, 95):
        assert scores[f"coverage_{level}"] == pytest.approx(level / 100, abs=0.002)


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_classification_scores_are_those_of_sklearn(n_classes):
    labels, p = answers(np.random.default_rng(n_classes), 2000, n_classes)
    predicted = p.argmax(1)
    scores = classification_scores(labels, p)
    macro = {"average": "macro"}
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert scores["precision"] == pytest.approx(sk.precision_score(labels, predicted, **macro))
    assert scores["recall"] == pytest.approx(sk.recall_score(labels, predicted, **macro))
    assert scores["f1"] == pytest.approx(sk.f1_score(labels, predicted, **macro))
    assert scores["nll"] == pytest.approx(sk.log_loss(labels, p))
    if n_classes == 2:
        assert scores["auc"] == pytest.approx(sk.roc_auc_score(labels, p[:, 1]))
    else:
        one_by_one = [sk.roc_auc_score(labels == k, p[:, k]) for k in range(n_classes)]
        assert scores["auc"] == pytest.approx(np.mean(one_by_one))


def test_auc_is_of_class_one():
    """The probability that a member of class 1 has the larger probability of class 1."""
    p = np.array([0.1, 0.4, 0.35, 0.8])
    scores = classification_scores(np.array([0, 0, 1, 1]), np.stack([1 - p, p], axis=1))
    assert scores["auc"] == pytest.approx(0.75)


def test_a_class_that_is_never_predicted_has_no_precision_and_no_warning():
    labels = np.array([0, 0, 1, 2])
    p = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.2, 0.2]])
    scores = classification_scores(labels, p)
    expected = sk.precision_score(labels, p.argmax(1), average="macro", zero_division=0)
    assert scores["precision"] == pytest.approx(expected) == pytest.approx((2 / 3 + 1) / 3)


def test_calibration_error_of_a_known_case():
    """Told 80 %, right 60 %; told 95 %, always right: 0.2 and 0.05, by their shares."""
    p = np.repeat([[0.2, 0.8], [0.05, 0.95]], [100, 300], axis=0)
    labels = np.ones(400, dtype=int)
    labels[:40] = 0
    assert classification_scores(labels, p)["ece"] == pytest.approx(0.25 * 0.2 + 0.75 * 0.05)
    # In one bin, too much and too little confidence cancel.
    p = np.repeat([[0.19, 0.81], [0.15, 0.85]], 100, axis=0)
    labels = np.ones(200, dtype=int)
    labels[:29] = labels[100:105] = 0
    assert classification_scores(labels, p)["ece"] == pytest.approx(0, abs=1e-12)


def test_calibration_error_has_fifteen_equal_bins():
    labels, p = answers(np.random.default_rng(5), 3000, 3)
    top, right = p.max(1), p.argmax(1) == labels
    expected = 0.0
    for k in range(15):
        inside = (top >= k / 15) & (top < (k + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(top[inside].mean() - right[inside].mean())
    assert classification_scores(labels, p)["ece"] == pytest.approx(expected)
    assert expected > 0.01, "the case is miscalibrated enough to tell bins apart"


def test_certain_and_right_is_perfect_and_certain_and_wrong_is_finite():
    labels = np.array([0, 1, 0, 1])
    p = np.eye(2)[labels]
    scores = classification_scores(labels, p)
    assert (scores["accuracy"], scores["ece"], scores["auc"]) == (1.0, 0.0, 1.0)
    assert scores["nll"] == pytest.approx(0, abs=1e-9)
    wrong = classification_scores(labels, p[:, ::-1])
    assert (wrong["accuracy"], wrong["ece"], wrong["auc"]) == (0.0, 1.0, 0.0)
    assert 20 < wrong["nll"] < 30


def test_a_moved_decision_changes_decisions_alone():
    labels, p = answers(np.random.default_rng(7), 1000, 2)
    moved = (p[:, 1] > 0.8).astype(int)
    scores, plain = classification_scores(labels, p, moved), classification_scores(labels, p)
    assert scores["accuracy"] == pytest.approx(sk.accuracy_score(labels, moved)) != plain["accuracy"]
    assert scores["recall"] == pytest.approx(sk.recall_score(labels, moved, average="macro"))
    assert [scores[k] for k in ("auc", "nll", "ece")] == [plain[k] for k in ("auc", "nll", "ece")]


def test_labels_and_probabilities_must_be_of_the_same_objects():
    with pytest.raises(ValueError, match=r"3 labels but probabilities of shape \(4, 2\)"):
        classification_scores(np.zeros(3, dtype=int), np.full((4, 2), 0.5))


def grouped(rng, n_groups=30, members=8, spread=1.0):
    """Values that share the offset of their group, about a mean of 5; group of each."""
    groups = np.repeat(np.arange(n_groups), members)
    return 5 + spread * rng.normal(size=n_groups)[groups] + 0.5 * rng.normal(size=len(groups)), groups


def mean_interval(values, groups, n_resamples=150):
    return bootstrap(lambda index: {"mean": values[index].mean()}, groups, n_resamples)["mean"]


def test_bootstrap_by_group_covers_the_mean_where_bootstrap_by_object_does_not():
    rng = np.random.default_rng(8)
    covered = np.zeros(2)
    for _ in range(100):
        values, groups = grouped(rng)
        for i, unit in enumerate((groups, np.arange(len(values)))):
            lo, hi = mean_interval(values, unit)
            covered[i] += lo <= 5 <= hi
    by_group, by_object = covered / 100
    assert by_group > 0.87, "nominally 0.95, a little less for 30 groups"
    assert by_object < 0.75


def test_width_of_the_bootstrap_interval_is_the_standard_error():
    values, groups = grouped(np.random.default_rng(9), n_groups=100, members=5)
    lo, hi = mean_interval(values, groups, 2000)
    of_groups = values.reshape(100, 5).mean(1).std(ddof=1) / 10
    assert (hi - lo) / (2 * 1.96) == pytest.approx(of_groups, rel=0.1)
    lo, hi = mean_interval(values, np.arange(500), 2000)
    assert (hi - lo) / (2 * 1.96) == pytest.approx(values.std(ddof=1) / np.sqrt(500), rel=0.1)
    assert of_groups > 1.8 * values.std(ddof=1) / np.sqrt(500)


def test_bootstrap_draws_whole_groups_as_many_as_there_are():
    groups = np.array([4, 9, 4, 7, 9, 4])
    drawn = []

    def score(index):
        counts = {g: np.bincount(index[groups[index] == g], minlength=6)[groups == g] for g in (4, 7, 9)}
        assert all(len(set(c)) == 1 for c in counts.values()), "members of a group come together"
        drawn.append({g: int(c[0]) for g, c in counts.items()})
        return {"n": len(index)}

    bootstrap(score, groups, n_resamples=200)
    assert {sum(d.values()) for d in drawn} == {3}
    for group in (4, 7, 9):
        assert np.mean([d[group] for d in drawn]) == pytest.approx(1, abs=0.25)


def test_bootstrap_is_repeatable():
    values, groups = grouped(np.random.default_rng(10))
    score = {"score": lambda index: {"mean": values[index].mean()}, "groups": groups, "n_resamples": 50}
    assert bootstrap(**score, seed=1) == bootstrap(**score, seed=1) != bootstrap(**score, seed=2)


def test_summary_keeps_the_spread_over_seeds_apart_from_the_interval():
    offsets = np.array([-0.3, 0.0, 0.6])
    values, groups = grouped(np.random.default_rng(11))
    per_seed = [lambda index, o=o: {"mean": (values[index] + o).mean()} for o in offsets]
    summary = summarise(per_seed, groups, n_resamples=300)["mean"]
    assert summary["value"] == pytest.approx(values.mean() + 0.1)
    assert summary["sd"] == pytest.approx(offsets.std(ddof=1))
    lo, hi = mean_interval(values + 0.1, groups, 300)
    assert (summary["lo"], summary["hi"]) == pytest.approx((lo, hi))
    assert np.isnan(summarise(per_seed[:1], groups, n_resamples=5)["mean"]["sd"])


CASES = [(0, 5), (0, 10), (1, 10), (3, 10), (10, 10), (500, 1000), (17_421, 19_022)]


@pytest.mark.parametrize(("successes", "trials"), CASES)
def test_wilson_interval_is_that_of_scipy(successes, trials):
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    got = wilson_interval(successes, trials, z=stats.norm.ppf(0.975))
    assert got == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson_interval(successes, trials) == pytest.approx(got, abs=1e-4)


def test_wilson_interval_is_within_zero_and_one():
    for trials in (1, 5, 10, 1000):
        assert wilson_interval(0, trials)[0] >= 0
        assert wilson_interval(trials, trials)[1] <= 1


@pytest.mark.parametrize(("successes", "trials"), [(-1, 5), (6, 5), (0, 0)])
def test_wilson_interval_of_no_proportion_is_refused(successes, trials):
    with pytest.raises(ValueError, match=f"{successes} successes of {trials} trials is not a proportion"):
        wilson_interval(successes, trials)
