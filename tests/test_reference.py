"""Reference metrics: what the published runs must hold, and what a fresh run must come close to."""

import pandas as pd
import pytest
from conftest import ROOT

from astro_utils import photoz
from astro_utils.results import read_metrics, select
from astro_utils.separation.coverage import BY_BOTH
from astro_utils.separation.methods import OURS, PHOTOMETRY
from astro_utils.separation.methods import PUBLISHED as ARCHITECTURE

PUBLISHED = ROOT / "data" / "published"


@pytest.fixture(scope="module")
def photoz_metrics():
    return read_metrics(PUBLISHED / "photoz" / "metrics.json")


@pytest.fixture(scope="module")
def audit_metrics():
    return read_metrics(PUBLISHED / "margformer" / "audit.json")


def test_published_photoz_meets_its_targets_on_five_seeds(photoz_metrics):
    row = select(photoz_metrics, experiment="main", model=photoz.ENSEMBLE)
    assert (row["profile"], row["sky"], row["seeds"]) == ("full", "real", 5)
    assert row["n_test"] == 9_999
    assert row["sigma_mad"] <= 0.0128
    assert row["eta_05"] <= 0.015
    assert row["pit_ks"] <= 0.03
    assert row["sigma_mad_lo"] < row["sigma_mad"] < row["sigma_mad_hi"]


def test_published_boosting_agrees_with_the_independent_reference(photoz_metrics):
    """Boosting in sky-split folds gave 0.0131 and 1.57 % elsewhere, with model and Petrosian magnitudes."""
    row = select(photoz_metrics, experiment="main", model=photoz.BOOSTING)
    assert row["sigma_mad"] == pytest.approx(0.0131, abs=0.0004)
    assert row["eta_05"] == pytest.approx(0.0157, abs=0.004)


def test_every_estimator_halves_the_score_of_the_trivial_baseline(photoz_metrics):
    trivial = select(photoz_metrics, experiment="main", model=photoz.TRIVIAL)
    others = photoz_metrics.query("experiment == 'main' and model != @photoz.TRIVIAL")
    assert (others["crps"] < trivial["crps"] / 2).all()


def test_neighbours_do_not_leak(photoz_metrics):
    """A split by galaxy is no better than one by sky beyond the interval of either."""
    by_sky = select(photoz_metrics, experiment="main", model=photoz.ENSEMBLE)
    by_galaxy = select(photoz_metrics, experiment="split: by galaxy", model=photoz.ENSEMBLE)
    assert by_galaxy["sigma_mad_hi"] > by_sky["sigma_mad_lo"]


def test_published_images_lower_the_scatter_of_photometry_by_the_target():
    metrics = read_metrics(PUBLISHED / "photoz" / "images.json")
    reference = "photometry alone, encoder + perceptron"
    best = select(
        metrics,
        experiment=f"main: against {reference}",
        model="images and catalogue, encoder + perceptron",
    )
    assert best["sigma_mad_ratio"] <= 0.85 and best["sigma_mad_ratio_hi"] < 0.87
    main = metrics[metrics["experiment"] == "main"].set_index("model")["sigma_mad"]
    assert main["ceiling, bulges and discs"] < main.drop("ceiling, bulges and discs").min()
    assert (metrics["sky"] == "simulated").all()


@pytest.mark.parametrize("task", ["SG", "SGQ"])
@pytest.mark.parametrize("experiment", ["1", "2", "3"])
def test_published_ours_is_above_the_published_architecture_in_every_cell(experiment, task):
    metrics = read_metrics(PUBLISHED / "margformer" / "metrics.json")
    name = f"Experiment {experiment}, {task}: difference"
    gain = select(metrics, experiment=name, model=f"{OURS} − {ARCHITECTURE}")
    assert gain["accuracy_gain_lo"] > 0 and gain["nll_gain_hi"] < 0 and gain["n_test"] > 9000
    image = select(metrics, experiment=name, model=f"{OURS} − {PHOTOMETRY}")
    assert image["nll_gain_hi"] < 0, "images add to photometry"


def test_published_conformal_sets_by_class_and_magnitude_keep_near_their_promise():
    table = pd.read_csv(PUBLISHED / "margformer" / "coverage.csv")
    part = table[(table["model"] == OURS) & (table["level"] == 0.9) & (table["way"] == BY_BOTH)]
    miss = (part["coverage"] - 0.9).abs()
    assert len(part) == 24 and part["n"].min() > 1500
    assert (miss <= 0.02).sum() >= 23 and (miss < 3.5 * part["error"]).all()


def test_published_audit_holds_the_anchors(audit_metrics):
    released = select(audit_metrics, model="released, threshold 0.5")
    assert f"{100 * released['accuracy']:.8f}" == "91.58342971"
    assert released["true_GALAXY_as_STAR"] == 141 and released["true_STAR_as_GALAXY"] == 1460
    leak = select(audit_metrics, experiment="Experiment 3 leak")
    assert (leak["leaked"], leak["leaked_galaxies"], leak["leaked_star_galaxy_task"]) == (7728, 6536, 0)
    groups = audit_metrics[audit_metrics["experiment"] == "feature groups, in domain"].set_index("model")
    assert groups.loc["all 24 features", "accuracy"] == pytest.approx(0.947, abs=0.005)
    assert groups.loc["radii", "accuracy"] > groups.loc["colours", "accuracy"]
    assert (groups["seeds"] >= 3).all()


@pytest.mark.timeout(900)
def test_fresh_smoke_run_is_close_to_its_reference(built):
    fresh = read_metrics(built / "results" / "smoke" / "photoz" / "metrics.json")
    boosting = select(fresh, experiment="main", model=photoz.BOOSTING)
    assert boosting["n_test"] == 1_200
    assert boosting["sigma_mad"] == pytest.approx(0.0160, abs=0.0006)
    trivial = select(fresh, experiment="main", model=photoz.TRIVIAL)
    assert trivial["sigma_mad"] == pytest.approx(0.0495, abs=0.0005)
    network = select(fresh, experiment="main", model=photoz.NETWORK)
    assert network["sigma_mad"] == pytest.approx(0.0203, abs=0.003), "fifteen epochs on 600 galaxies"


@pytest.mark.timeout(900)
def test_fresh_audit_equals_the_published_one_where_nothing_is_random(built, audit_metrics):
    fresh = read_metrics(built / "results" / "smoke" / "margformer" / "audit" / "metrics.json")
    for model in ("released, threshold 0.5", "released, threshold from the known mix (transductive)"):
        ours, theirs = (select(m, model=model)["accuracy"] for m in (fresh, audit_metrics))
        assert ours == pytest.approx(theirs, abs=1e-9)
