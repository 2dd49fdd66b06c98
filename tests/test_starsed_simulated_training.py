"""Likelihoods about the wavefront of each star, and what is learned on simulated fields of their worth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.special import log_softmax

from astro_utils.models.star_likelihood import fit_temperature, template_log_likelihood
from astro_utils.models.star_nuisances import WavefrontErrors
from astro_utils.psf import FieldInterpolator, FieldPsf, Optics, PupilModel, WavefrontField
from astro_utils.psf.linearise import zernike_derivatives
from astro_utils.starsed import simulated_training
from astro_utils.starsed.classify import _rows
from astro_utils.starsed.exposures import Exposure, exposures, mono_stamps
from astro_utils.starsed.psf_fits import OURS, WAVEDIFF, FitBudget, FittedPsf
from astro_utils.starsed.simulated_training import (
    METHODS,
    SimulatedConfig,
    SimulatedCorrection,
    SimulatedField,
    fit_simulated,
    relinearised_likelihoods,
    simulated_answers,
    simulated_fields,
)
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.stars import StarConfig
from astro_utils.training import TrainingConfig

OPTICS = Optics(pupil_size=64, stamp=16, modes=15, field_degree=2, field_grid=4, mean_wavefront_error_nm=60)
ERROR_NM = 4.0  # of each mode
QUICK = SimulatedConfig(steps=2, folds=2, hidden=8, training=TrainingConfig(epochs=12, learning_rate=1e-2))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def erring(exposure, error_nm=ERROR_NM, claimed_nm=None, n_stars=50):
    """The true field with the same error everywhere, and a claim of its size: by default the true one."""
    claimed_nm = error_nm if claimed_nm is None else claimed_nm
    true = exposure.wavefronts.coefficients
    drift = torch.zeros_like(true)
    rng = np.random.default_rng(exposure.field_seed)
    drift[1:, 0] = torch.from_numpy(1e-3 * error_nm * rng.standard_normal(len(true) - 1))
    covariance = torch.zeros(len(true) - 1, true.shape[1], len(true) - 1, true.shape[1], dtype=torch.float64)
    covariance[:, 0, :, 0] = (1e-3 * claimed_nm) ** 2 * torch.eye(len(true) - 1)
    psf = FieldPsf(PupilModel(exposure.optics), WavefrontField(true + drift, exposure.optics.field_limits))
    return FittedPsf(OURS, psf, {"n_stars": n_stars}, covariance)


def made(seed, n_train, n_test=0):
    return Exposure(seed, StarConfig(seed=seed, n_train=n_train, n_test=n_test), optics=OPTICS, nodes=5)


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Four fields whose errors are thrice what their fits claim, which makes likelihoods too sure."""
    folder, out = tmp_path_factory.mktemp("fields"), []
    for seed in range(11, 15):
        exposure = made(seed, 80)
        stars = read_stars(exposure.write(folder / f"{seed}.h5", progress=False))
        fitted = erring(exposure, 3 * ERROR_NM, ERROR_NM)
        out.append(SimulatedField(fitted, stars, exposure.templates.weights))
    return out


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    exposure = made(3, 1, 150)
    path = exposure.write(tmp_path_factory.mktemp("unseen") / "field_3.h5", progress=False)
    return exposure, path, read_stars(path, exposure.rows("test"))


@pytest.fixture(scope="module")
def correction(fields):
    return fit_simulated(fields, QUICK)


def nll(log_l, labels):
    return -log_softmax(log_l, axis=1)[np.arange(len(labels)), labels].mean()


# ------------------------------------------------------------------------------------- likelihoods


def plain(exposure, stars, fitted, flux, nuisances=()):
    psfs = mono_stamps(fitted.psf, stars.positions)
    return template_log_likelihood(
        stars.stamps, psfs, exposure.templates.weights, stars.sigma, flux=flux, nuisances=nuisances
    )


@pytest.mark.parametrize("flux", ["free", "unit"])
def test_one_step_is_the_first_order_likelihood(unseen, flux, monkeypatch):
    """With derivatives of the model itself the same numbers; with coarser ones the same but for little."""
    exposure, _, stars = unseen
    stars, fitted = stars.rows(slice(0, 40)), erring(exposure)
    changes = zernike_derivatives(fitted.psf.model, fitted.psf.field(stars.positions)).numpy()
    errors = WavefrontErrors(changes, fitted.coefficient_covariance(stars.positions))
    expected = log_softmax(plain(exposure, stars, fitted, flux, [errors]), axis=1)

    def found():
        seen = relinearised_likelihoods(stars, fitted, exposure.templates.weights, steps=1)
        return log_softmax(seen.log_likelihood[flux], axis=1)

    likely = expected > -8
    assert np.abs(found() - expected)[likely].mean() < 0.15
    monkeypatch.setattr(simulated_training, "_sketch", lambda model: model)
    np.testing.assert_allclose(found()[likely], expected[likely], atol=2e-3)


def test_without_errors_steps_change_nothing(unseen):
    exposure, _, stars = unseen
    stars, fitted = stars.rows(slice(0, 30)), erring(exposure, 0.0)
    seen = relinearised_likelihoods(stars, fitted, exposure.templates.weights, steps=2)
    for flux, value in seen.log_likelihood.items():
        expected = plain(exposure, stars, fitted, flux)
        difference = value - expected
        np.testing.assert_allclose(difference, difference[:, :1].repeat(13, 1), atol=2e-3)
    assert (seen.features[:, 3] == 0).all(), "the wavefront stays where it is"


def test_steps_gain_what_is_beyond_first_order(unseen):
    """Errors of 8 nm in each mode are beyond first order."""
    exposure, _, stars = unseen
    fitted, templates = erring(exposure, 8.0), exposure.templates.weights
    scores = {}
    for steps in (1, 3):
        seen = relinearised_likelihoods(stars, fitted, templates, steps=steps)
        scores[steps] = {flux: nll(value, stars.labels) for flux, value in seen.log_likelihood.items()}
        chi2 = seen.features[:, 2]
    assert scores[3]["free"] < scores[1]["free"] - 0.03
    assert scores[3]["unit"] < scores[1]["unit"] - 0.03
    assert abs(chi2.mean()) < 0.5, "about the star's own wavefront, the errors explain the images"
    assert nll(plain(exposure, stars, fitted, "unit"), stars.labels) > 2 * scores[3]["unit"]


def test_features_tell_the_error_and_the_noise(unseen):
    exposure, _, stars = unseen
    templates = exposure.templates.weights
    small, large = (
        relinearised_likelihoods(stars, erring(exposure, 0.0, claimed), templates, steps=1).features
        for claimed in (1.0, 3.0)
    )
    np.testing.assert_allclose(large[:, 0] - small[:, 0], np.log(3), atol=1e-9)
    slope = np.polyfit(np.log(stars.snr), small[:, 1], 1)[0]
    assert 0.3 < slope < 0.6, "the root of the power ratio"
    psfs = FieldInterpolator(erring(exposure).psf, 5).polychromatic(
        stars.positions, templates[stars.spectra].astype(np.float32)
    )
    truth = FieldInterpolator(erring(exposure, 0.0).psf, 5).polychromatic(
        stars.positions, templates[stars.spectra].astype(np.float32)
    )
    ratio = float((psfs - truth).norm() / truth.norm()) / np.exp(large[:, 0].mean())
    assert 0.4 < ratio * 3 / ERROR_NM < 2.5, "as large as the errors that are made"


# ------------------------------------------------------------------------------------- learning


def test_what_is_learned_elsewhere_makes_likelihoods_honest_here(correction, unseen):
    """In a field that nothing was learned from, likelihoods lose most of what they are too sure."""
    exposure, _, stars = unseen
    fitted, templates = erring(exposure, 3 * ERROR_NM, ERROR_NM), exposure.templates.weights
    found = correction.log_posterior(stars, fitted, templates)
    seen = relinearised_likelihoods(stars, fitted, templates, steps=2)
    assert list(found) == ["free", "unit"]
    for flux, log_p in found.items():
        np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-6)
        before = seen.log_likelihood[flux]
        assert nll(log_p, stars.labels) < nll(before, stars.labels) - 0.05
        too_sure, now = (np.log(fit_temperature(one, stars.labels)) for one in (before, log_p))
        assert too_sure > 0.15 and abs(now) < 0.6 * too_sure


def test_learning_is_repeatable_and_knows_its_facts(correction, fields):
    again = fit_simulated(fields, QUICK)
    assert again.facts == correction.facts
    assert correction.facts["n_psf"] == [50, 50] and correction.facts["stars"] == 320
    for one, two in zip(correction.networks["unit"], again.networks["unit"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    first, second = correction.networks["free"]
    assert not torch.equal(first.factor.weight, second.factor.weight), "folds see other fields"


def test_saved_corrections_come_back(correction, unseen, tmp_path):
    exposure, _, stars = unseen
    stars, fitted = stars.rows(slice(0, 20)), erring(exposure)
    path = correction.save(tmp_path / "learned.safetensors")
    back = SimulatedCorrection.load(path)
    assert back.facts == correction.facts
    templates = exposure.templates.weights
    for flux, log_p in correction.log_posterior(stars, fitted, templates).items():
        np.testing.assert_array_equal(back.log_posterior(stars, fitted, templates)[flux], log_p)


# ------------------------------------------------------------------------------------- whole


def test_from_fields_to_answers(unseen, tmp_path):
    """The whole way with real fits, on a small telescope, and answers as all other classifiers give them."""
    exposure, path, stars = unseen
    training = [replace(one, optics=OPTICS, nodes=5) for one in exposures(2, 40, 0, "stelib", first_seed=101)]
    budget = FitBudget(coarse=1, starts=1, iterations=3)
    seen = simulated_fields(training, 20, tmp_path, budget=budget)
    assert [len(one.stars) for one in seen] == [20, 20] and seen[0].fitted.fit["n_stars"] == 20
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    simulated_fields(training, 20, tmp_path, budget=budget)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == kept, "kept, not repeated"
    learned = fit_simulated(seen, QUICK)
    fitted = replace(seen[0].fitted, psf=erring(exposure).psf)

    answers = simulated_answers(exposure, path, fitted, learned)
    assert len(answers) == 2 * len(stars) and list(answers["method"].unique()) == list(METHODS.values())
    assert set(answers["psf"]) == {"ours 20"} and set(answers["field"]) == {3}
    job = type("Job", (), {"exposure": exposure, "psf": "ours 20"})
    shape = _rows(stars, job, "same field", "any", np.full((len(stars), 13), 1 / 13))
    assert answers.dtypes.to_dict() == shape.dtypes.to_dict()
    np.testing.assert_array_equal(answers["label"][: len(stars)], stars.labels)
    few = simulated_answers(exposure, stars.rows(slice(0, 5)), fitted, learned, psf="mine")
    assert set(few["psf"]) == {"mine"} and len(few) == 10
    pair = few.iloc[:5].filter(like="p_").to_numpy(), answers.iloc[:5].filter(like="p_").to_numpy()
    np.testing.assert_allclose(*pair, atol=1e-6)


def test_names_of_published_sets(unseen, correction):
    exposure, _, stars = unseen
    answers = simulated_answers(exposure, stars.rows(slice(0, 3)), erring(exposure), correction)
    assert set(answers["psf"]) == {"ours S1"}


# ------------------------------------------------------------------------------------- bad input


def test_bad_input(fields, unseen, correction, tmp_path):
    exposure, _, stars = unseen
    templates, fitted = exposure.templates.weights, erring(exposure)
    few = stars.rows(slice(0, 3))
    with pytest.raises(ValueError, match="steps is 0; expected 1 or more"):
        relinearised_likelihoods(few, fitted, templates, steps=0)
    with pytest.raises(ValueError, match="'WaveDiff as published' has no errors"):
        relinearised_likelihoods(few, replace(fitted, method=WAVEDIFF, covariance=None), templates)
    with pytest.raises(ValueError, match="1 simulated fields; expected two or more"):
        fit_simulated(fields[:1], QUICK)
    with pytest.raises(ValueError, match="fitted to 200 stars; expected 50 to 50"):
        correction.log_posterior(few, erring(exposure, n_stars=200), templates)
    with pytest.raises(ValueError, match="12 templates; expected 13"):
        correction.log_posterior(few, fitted, templates[:12])
    with pytest.raises(ValueError, match="field 3 has 1 training stars; expected more than 50"):
        simulated_fields([exposure], 50, tmp_path)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing learned"):
        SimulatedCorrection.load(tmp_path / "no.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match=r"text\.safetensors: not in safetensors format"):
        SimulatedCorrection.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"kind": "other"})
    with pytest.raises(ValueError, match="holds 'other'; expected 'SimulatedCorrection'"):
        SimulatedCorrection.load(tmp_path / "other.safetensors")
