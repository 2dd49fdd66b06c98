"""Likelihoods about the wavefront of each star."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from erring_field_sample import ERROR_NM, erring, made, nll
from scipy.special import log_softmax

from astro_utils.models.star_likelihood import template_log_likelihood
from astro_utils.models.star_nuisances import WavefrontErrors
from astro_utils.psf import FieldInterpolator
from astro_utils.psf.linearise import zernike_derivatives
from astro_utils.starsed import relinearised
from astro_utils.starsed.exposures import mono_stamps
from astro_utils.starsed.psf_fits import WAVEDIFF
from astro_utils.starsed.relinearised import relinearised_likelihoods
from astro_utils.starsed.star_samples import read_stars


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    exposure = made(3, 1, 150)
    path = exposure.write(tmp_path_factory.mktemp("unseen") / "field_3.h5", progress=False)
    return exposure, read_stars(path, exposure.rows("test"))


def plain(exposure, stars, fitted, flux, nuisances=()):
    psfs = mono_stamps(fitted.psf, stars.positions)
    return template_log_likelihood(
        stars.stamps, psfs, exposure.templates.weights, stars.sigma, flux=flux, nuisances=nuisances
    )


@pytest.mark.parametrize("flux", ["free", "unit"])
def test_one_step_is_the_first_order_likelihood(unseen, flux, monkeypatch):
    """With derivatives of the model itself the same numbers; with coarser ones the same but for little."""
    exposure, stars = unseen
    stars, fitted = stars.rows(slice(0, 40)), erring(exposure)
    changes = zernike_derivatives(fitted.psf.model, fitted.psf.field(stars.positions)).numpy()
    errors = WavefrontErrors(changes, fitted.coefficient_covariance(stars.positions))
    expected = log_softmax(plain(exposure, stars, fitted, flux, [errors]), axis=1)

    def found():
        seen = relinearised_likelihoods(stars, fitted, exposure.templates.weights, steps=1)
        return log_softmax(seen.log_likelihood[flux], axis=1)

    likely = expected > -8
    assert np.abs(found() - expected)[likely].mean() < 0.15
    monkeypatch.setattr(relinearised, "_sketch", lambda model: model)
    np.testing.assert_allclose(found()[likely], expected[likely], atol=2e-3)


def test_without_errors_steps_change_nothing(unseen):
    exposure, stars = unseen
    stars, fitted = stars.rows(slice(0, 30)), erring(exposure, 0.0)
    seen = relinearised_likelihoods(stars, fitted, exposure.templates.weights, steps=2)
    for flux, value in seen.log_likelihood.items():
        expected = plain(exposure, stars, fitted, flux)
        difference = value - expected
        np.testing.assert_allclose(difference, difference[:, :1].repeat(13, 1), atol=2e-3)
    assert (seen.features[:, 3] == 0).all(), "the wavefront stays where it is"


def test_steps_gain_what_is_beyond_first_order(unseen):
    """Errors of 8 nm in each mode are beyond first order."""
    exposure, stars = unseen
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
    exposure, stars = unseen
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


def test_bad_input(unseen):
    exposure, stars = unseen
    templates, fitted = exposure.templates.weights, erring(exposure)
    few = stars.rows(slice(0, 3))
    with pytest.raises(ValueError, match="steps is 0; expected 1 or more"):
        relinearised_likelihoods(few, fitted, templates, steps=0)
    with pytest.raises(ValueError, match="'WaveDiff as published' has no errors"):
        relinearised_likelihoods(few, replace(fitted, method=WAVEDIFF, covariance=None), templates)
