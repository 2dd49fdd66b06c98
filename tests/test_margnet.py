"""The audit of MargNet: numbers that its authors printed, and what their predictions say beside."""

import os

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from astro_utils import margnet, margnet_probes
from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.margnet import Audit, binomial_table, network_rows, training_ids
from astro_utils.margnet_probes import FEATURE_GROUPS, R_EDGES, conformal_rows
from astro_utils.results import anchors

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with margnet_tables and margnet_networks",
)


def values(rows, name):
    return np.array([row[name] for row in rows])


def only(rows, model):
    (row,) = (row for row in rows if row["model"].startswith(model))
    return row


# ---------------------------------------------------------------------------------------- without the data


@pytest.fixture(scope="module")
def binomial():
    return binomial_table(anchors("margformer_confusions"))


def test_feature_groups_part_the_24_features():
    groups = {name: set(columns) for name, columns in FEATURE_GROUPS.items()}
    everything = groups["all 24 features"]
    assert everything == set(MARGNET_FEATURES) and len(everything) == 24
    assert all(len(columns) == len(groups[name]) for name, columns in FEATURE_GROUPS.items())
    parts = [groups[name] for name in ("magnitudes", "radii", "colours", "PSF and extinction")]
    assert sum(map(len, parts)) == 24 and set.union(*parts) == everything
    for without, alone in (("without radii", "radii"), ("without PSF and extinction", "PSF and extinction")):
        assert groups[without] == everything - groups[alone]


def test_printed_matrices_and_printed_accuracies_agree():
    printed = anchors("margformer").set_index("model")
    confusions = anchors("margformer_confusions")
    assert len(confusions) == 18
    for row in confusions.itertuples():
        matrix = np.array(row.matrix)
        experiment, classes = row.task.removeprefix("Experiment ").split(", ")
        column = f"ex{experiment}_{'sgq' if 'quasar' in classes else 'sg'}"
        assert matrix.shape == (2, 2) if "quasar" not in classes else (3, 3)
        accuracy = 100 * np.trace(matrix) / matrix.sum()
        assert accuracy == pytest.approx(printed.loc[row.model, column], abs=0.01), (row.model, row.task)


def test_binomial_errors_of_known_test_sets(binomial):
    assert len(binomial) == 6
    row = binomial.loc["Experiment 3, star-galaxy"]
    assert row["test objects"] == 19_022
    assert row["MargFormer k = 128 [%]"] == pytest.approx(100 * 17_637 / 19_022)
    assert row["MargFormer k = 64 [%]"] == pytest.approx(100 * 17_731 / 19_022)
    assert row["MargNet ensemble [%]"] == pytest.approx(100 * 17_491 / 19_022)
    share = 17_637 / 19_022
    assert row["binomial error [%]"] == pytest.approx(100 * np.sqrt(share * (1 - share) / 19_022))
    # The gain of 0.77 points is 2.8 joint errors of 0.27 points; the other variant gains more.
    assert row["k = 128 minus MargNet [errors]"] == pytest.approx(2.82, abs=0.03)
    assert row["k = 128 minus k = 64 [errors]"] == pytest.approx(-1.88, abs=0.03)


def test_binomial_error_halves_with_four_times_the_objects(binomial):
    table = anchors("margformer_confusions")
    table["matrix"] = [(4 * np.array(matrix)).tolist() for matrix in table["matrix"]]
    larger = binomial_table(table)
    np.testing.assert_allclose(larger["binomial error [%]"], binomial["binomial error [%]"] / 2)
    for column in ("k = 128 minus MargNet [errors]", "k = 128 minus k = 64 [errors]"):
        np.testing.assert_allclose(larger[column], 2 * binomial[column])


def test_split_of_experiment_1_has_the_published_sizes():
    ids = np.arange(239_999) + 10**18
    train, validation = training_ids(ids)
    assert (len(train), len(validation)) == (180_011, 29_988)
    assert len(np.union1d(train, validation)) == 209_999, "and 30,000 are left for the test"


def made_up(n=8000, shift=0.0):
    """Return an audit of a sky where the class is harder to tell at fainter magnitudes."""
    rng = np.random.default_rng(0)
    star = rng.permutation(np.arange(n) % 2)
    r = rng.uniform(20, 23, n)
    logit = (23.5 - r) * (2 * star - 1) + rng.normal(0, 1, n) + shift
    p = 1 / (1 + np.exp(-logit))
    probabilities = np.stack([1 - p, p], axis=1)
    field = rng.integers(200, size=n)
    return Audit(pd.DataFrame({"model_r": r}), star, field, probabilities, probabilities, {})


def test_a_shifted_network_is_mended_by_its_threshold():
    rows = network_rows(made_up(shift=-2.0), "smoke", n_bootstrap=20)
    released, moved = only(rows, "released, threshold 0.5"), only(rows, "released, threshold from")
    plain = only(network_rows(made_up(), "smoke", n_bootstrap=2), "released, threshold 0.5")
    assert released["accuracy"] < plain["accuracy"] - 0.05
    assert moved["accuracy"] == pytest.approx(plain["accuracy"], abs=0.01)
    assert moved["auc"] == released["auc"] == pytest.approx(plain["auc"], abs=1e-9)
    assert moved["accuracy_gain"] == pytest.approx(moved["accuracy"] - released["accuracy"])
    assert 0 < moved["accuracy_gain_lo"] < moved["accuracy_gain"] < moved["accuracy_gain_hi"]
    counts = [released[f"true_{t}_as_{p}"] for t in margnet.CLASSES for p in margnet.CLASSES]
    assert sum(counts) == 8000 and (counts[0] + counts[3]) / 8000 == pytest.approx(released["accuracy"])
    assert counts[2] > counts[1], "a network that is shy of stars calls stars galaxies"


def test_prior_by_em_finds_the_mix_of_a_calibrated_network():
    """One star for nine galaxies, judged by a network that was calibrated on equal parts."""
    rng = np.random.default_rng(1)
    n = 20_000
    star = (rng.random(n) < 0.1).astype(int)
    feature = rng.normal(2 * star - 1, 1)
    p = 1 / (1 + np.exp(-2 * feature))  # the posterior for equal parts
    probabilities = np.stack([1 - p, p], axis=1)
    audit = Audit(pd.DataFrame(), star, np.arange(n) % 50, probabilities, probabilities, {})
    rows = network_rows(audit, "smoke", n_bootstrap=2)
    released, adapted = only(rows, "released, threshold 0.5"), only(rows, "released, prior by EM")
    # Of two unit Gaussians at -1 and 1: cut half-way, and where the posteriors with the true mix are equal.
    assert released["accuracy"] == pytest.approx(stats.norm.cdf(1), abs=0.01)
    cut = np.log(9) / 2
    best = 0.9 * stats.norm.cdf(cut + 1) + 0.1 * stats.norm.sf(cut - 1)
    assert adapted["accuracy"] == pytest.approx(best, abs=0.007)
    assert adapted["nll"] < 0.6 * released["nll"] and adapted["ece"] < 0.01


def test_coverage_of_another_objects_magnitude_is_flat():
    rows = conformal_rows(made_up(), "smoke", n_seeds=2)
    aligned, misaligned = (
        [row for row in rows if row["model"].startswith(name)] for name in ("aligned", "misaligned")
    )
    assert len(aligned) == len(misaligned) == len(R_EDGES) - 1
    assert np.ptp(values(aligned, "coverage_90")) > 0.15 and np.ptp(values(misaligned, "coverage_90")) < 0.05
    assert aligned[0]["coverage_90"] > 0.95 > 0.87 > aligned[-1]["coverage_90"]
    for part in (aligned, misaligned):
        n = values(part, "n_test")
        assert (n * values(part, "coverage_90")).sum() / n.sum() == pytest.approx(0.9, abs=0.015)


# ------------------------------------------------------------------------------------------- with the data


@pytest.fixture(scope="module")
def audit():
    return margnet.load(download=False)


@needs_data
def test_released_network_is_reproduced_to_the_last_digit(audit):
    row = only(network_rows(audit, "smoke", n_bootstrap=2), "released, threshold 0.5")
    assert row["accuracy"] == pytest.approx(0.9158342971, abs=5e-11)
    counts = [row[f"true_{t}_as_{p}"] for t in margnet.CLASSES for p in margnet.CLASSES]
    assert counts == [9370, 141, 1460, 8051], "as printed: [[9370, 141], [1460, 8051]]"
    assert row["n_test"] == 19_022 and (audit.star == 1).sum() == 9511
    printed = anchors("margformer").set_index("model").loc["MargNet, photometry network", "ex3_sg"]
    assert 100 * row["accuracy"] == pytest.approx(printed, abs=0.005)


@needs_data
def test_moved_threshold_wins_most_of_the_loss_back(audit):
    rows = network_rows(audit, "smoke", n_bootstrap=5)
    moved, released = only(rows, "released, threshold from"), only(rows, "released, threshold 0.5")
    assert 100 * moved["accuracy"] == pytest.approx(94.37, abs=0.005)
    assert moved["auc"] == released["auc"] > 0.97
    assert moved["accuracy_gain_lo"] > 0.02
    assert only(rows, "released, prior by EM")["accuracy"] < released["accuracy"]


@needs_data
def test_leak_between_the_experiments_is_counted(audit):
    row = margnet.leak_row(audit, "smoke")
    assert (row["n_train"], row["n_test"]) == (180_011, 28_532)
    assert row["leaked"] == 7728 and row["leaked_galaxies"] == 6536
    assert row["leaked_with_validation"] == 8995
    assert row["leaked_star_galaxy_task"] == 0
    assert row["leaked_share"] == pytest.approx(7728 / 28_532)
    assert row["leaked_galaxy_share"] == pytest.approx(6536 / 9511)


@needs_data
def test_conformal_coverage_sinks_where_objects_are_hard(audit):
    rows = conformal_rows(audit, "smoke", n_seeds=1)
    aligned = values([row for row in rows if row["model"].startswith("aligned")], "coverage_90")
    misaligned = values([row for row in rows if row["model"].startswith("misaligned")], "coverage_90")
    np.testing.assert_allclose(aligned, [0.952, 0.932, 0.882, 0.866, 0.872, 0.979], atol=0.002)
    # The last bin holds 145 objects, so that its coverage strays by 0.025 of itself.
    assert np.ptp(misaligned[:5]) < 0.03 < 0.08 < np.ptp(aligned[:5])


@needs_data
def test_fields_are_not_shared_by_training_and_test(audit):
    """Objects of a field share its seeing and its dust, which are features."""
    rows, seeds, p = margnet_probes._held_out(
        audit, FEATURE_GROUPS["colours"], lambda seed: Constant(), n_seeds=2
    )
    for seed in (0, 1):
        test = rows[seeds == seed]
        rest = np.setdiff1d(np.arange(len(audit.star)), test)
        assert not set(audit.field[test]) & set(audit.field[rest])
        assert len(test) == pytest.approx(0.2 * len(audit.star), rel=0.1)
    assert p.shape == (len(rows), 2)


class Constant:
    """An estimator that has learnt nothing."""

    def fit(self, x, y):
        return self

    def predict_proba(self, x):
        return np.full((len(x), 2), 0.5)
