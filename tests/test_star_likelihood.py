"""Template likelihoods: equal to dense Gaussians, the information limit, robust with PSF errors in them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from star_sample import N_BINS, SIZE, brighter, gaussian_psfs, spectra, star_field

from astro_utils.models import star_likelihood
from astro_utils.models.star_features import StarSet
from astro_utils.models.star_likelihood import (
    TemplateClassifier,
    class_log_posterior,
    fit_temperature,
    template_log_likelihood,
)
from astro_utils.models.star_nuisances import Shift, SpectralNoise, WavefrontErrors, pixel_noise
from astro_utils.ordinal import ordinal_scores

TEMPLATES = spectra()
ERROR = np.array([0.005, 0.02, 0.1])


def covariance_matrix(seed=0):
    a = np.random.default_rng(seed).normal(size=(3, 3))
    return 1e-3 * (a @ a.T)


@pytest.fixture(scope="module")
def few():
    """Three stars with derivatives, and pixels of unequal noise."""
    stars = star_field(5, 3, error=ERROR)
    factor = np.random.default_rng(6).uniform(0.7, 1.5, stars.stamps.shape)
    return replace(stars, sigma=stars.sigma[:, None, None] * factor)


def dense_covariances(stars, templates, star, k):
    """Covariance of the pixels of unit-flux star `star` of class k, by full matrices."""
    images = stars.derivatives[star].reshape(N_BINS, 3, -1)
    change = np.einsum("b,bmp->mp", templates[k], images)
    psfs = stars.psfs[star].reshape(N_BINS, -1) * templates[k][:, None]
    noise = np.diag(stars.sigma[star].ravel() ** 2)
    return noise, change.T @ covariance_matrix() @ change + 0.1**2 * psfs.T @ psfs


def nuisances_of(stars):
    return [WavefrontErrors(stars.derivatives, covariance_matrix()), SpectralNoise(0.1, N_BINS)]


def test_woodbury_equals_the_dense_covariance(few):
    found = template_log_likelihood(
        few.stamps, few.psfs, TEMPLATES, few.sigma, flux="unit", nuisances=nuisances_of(few)
    )
    for star in range(len(few)):
        for k in (0, 5, 12):
            noise, extra = dense_covariances(few, TEMPLATES, star, k)
            mean = TEMPLATES[k] @ few.psfs[star].reshape(N_BINS, -1)
            expected = multivariate_normal.logpdf(few.stamps[star].ravel(), mean, noise + extra)
            assert found[star, k] == pytest.approx(expected, abs=1e-5)


def test_free_flux_with_nuisances_equals_the_dense_integral(few):
    found = template_log_likelihood(few.stamps, few.psfs, TEMPLATES, few.sigma, nuisances=nuisances_of(few))
    star, k = 1, 7
    noise, extra = dense_covariances(few, TEMPLATES, star, k)
    mean, data = TEMPLATES[k] @ few.psfs[star].reshape(N_BINS, -1), few.stamps[star].ravel()
    weighted = np.linalg.solve(noise, mean)
    best = (weighted @ data) / (weighted @ mean)
    flux = best + np.linspace(-0.6, 0.6, 601)
    density = multivariate_normal(np.zeros(SIZE**2), noise + best**2 * extra)
    log_l = density.logpdf(data - flux[:, None] * mean)
    assert abs(log_l.argmax() - 300) < 290  # the peak is inside
    expected = logsumexp(log_l) + np.log(flux[1] - flux[0])
    assert found[star, k] == pytest.approx(expected, abs=1e-4)


def test_chunks_and_functions_of_rows_change_nothing(few, monkeypatch):
    expected = template_log_likelihood(
        few.stamps, few.psfs, TEMPLATES, few.sigma, nuisances=nuisances_of(few)
    )
    monkeypatch.setattr(star_likelihood, "MEMORY", 1)  # one star at a time
    lazy = [WavefrontErrors(lambda rows: few.derivatives[rows], covariance_matrix()), SpectralNoise(0.1)]
    found = template_log_likelihood(few.stamps, few.psfs, TEMPLATES, few.sigma, nuisances=lazy)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    factors = np.array([1.0, 4.0, 0.2])
    varying = WavefrontErrors(few.derivatives, factors[:, None, None] * covariance_matrix())
    found = template_log_likelihood(few.stamps, few.psfs, TEMPLATES, few.sigma, nuisances=[varying])
    for star, factor in enumerate(factors):
        one = few.take(slice(star, star + 1))
        alone = WavefrontErrors(one.derivatives, factor * covariance_matrix())
        expected = template_log_likelihood(one.stamps, one.psfs, TEMPLATES, one.sigma, nuisances=[alone])
        np.testing.assert_allclose(found[star], expected[0], rtol=1e-12)


def test_a_basis_common_to_all_classes(few):
    same = np.tile(TEMPLATES[4], (13, 1))  # all classes alike: their derivatives are one basis
    basis = np.einsum("b,nbmyx->nmyx", TEMPLATES[4], few.derivatives)
    both = [
        template_log_likelihood(
            few.stamps, few.psfs, same, few.sigma, nuisances=[WavefrontErrors(given, covariance_matrix())]
        )
        for given in (few.derivatives, basis)
    ]
    np.testing.assert_allclose(*both, rtol=1e-12)


def test_without_variance_nuisances_change_nothing(few):
    plain = template_log_likelihood(few.stamps, few.psfs, TEMPLATES, few.sigma)
    none = [WavefrontErrors(few.derivatives, np.zeros((3, 3))), Shift(0.0), SpectralNoise(0.0)]
    found = template_log_likelihood(few.stamps, few.psfs, TEMPLATES, few.sigma, nuisances=none)
    np.testing.assert_allclose(found, plain, rtol=1e-12)


def test_free_flux_does_not_see_the_unit_of_flux():
    stars = star_field(7, 40, error=ERROR)
    bright = brighter(stars, np.random.default_rng(8).uniform(0.01, 1000, 40))
    for options in ({}, {"covariance": np.diag(ERROR**2), "shift_sd": 0.1, "spectral_sd": 0.05}):
        posteriors = [TemplateClassifier(TEMPLATES, **options).log_posterior(s) for s in (stars, bright)]
        np.testing.assert_allclose(*posteriors, atol=1e-6)
    unit = TemplateClassifier(TEMPLATES, flux="unit")
    assert np.abs(unit.log_posterior(bright) - unit.log_posterior(stars)).max() > 10


def test_shift_is_the_derivative_of_the_image_with_position():
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    psf = np.stack([np.exp(-0.5 * (x**2 + y**2) / s**2) for s in (1.4, 1.6)])
    psf /= psf.sum((1, 2), keepdims=True)
    moved = np.stack([np.exp(-0.5 * ((x - 0.3) ** 2 + (y + 0.2) ** 2) / s**2) for s in (1.4, 1.6)])
    moved /= moved.sum((1, 2), keepdims=True)
    sigma = 2e-4
    noise = np.random.default_rng(1).normal(0, sigma, moved.shape)
    stamps, psfs = moved + noise, np.stack([psf, psf])
    plain = template_log_likelihood(stamps, psfs, np.eye(2), sigma)
    shifted = template_log_likelihood(stamps, psfs, np.eye(2), sigma, nuisances=[Shift(0.3)])
    # Without it, centred models fail; with it, what remains is the second order of the shift.
    right = np.arange(2)
    assert (shifted[right, right] - plain[right, right] > 300).all()
    small = np.stack([np.exp(-0.5 * ((x - 0.02) ** 2 + y**2) / s**2) for s in (1.4, 1.6)])
    small /= small.sum((1, 2), keepdims=True)
    columns = Shift(1.0).columns(slice(0, 2), None, torch.as_tensor(psf)[None], None)[0, :, 0]
    np.testing.assert_allclose(psf + 0.02 * columns.numpy(), small, atol=2e-5)


@pytest.fixture(scope="module")
def perturbed():
    return star_field(11, 300, error=ERROR), star_field(12, 500, error=ERROR)


def test_marginalisation_repairs_a_wrong_psf(perturbed):
    calibration, test = perturbed
    scores = {}
    for name, options in {"plain": {}, "marginal": {"covariance": np.diag(ERROR**2)}}.items():
        classifier = TemplateClassifier(TEMPLATES, **options)
        raw = ordinal_scores(test.labels, np.exp(classifier.log_posterior(test)))
        classifier.fit(None, calibration)
        fitted = ordinal_scores(test.labels, classifier.predict_probabilities(test))
        scores[name] = {"raw": raw, "fitted": fitted, "temperature": classifier.temperature}
    plain, marginal = scores["plain"], scores["marginal"]
    error = np.sqrt(0.5 / len(test))  # of a difference of two shares, at most
    assert marginal["raw"]["accuracy"] > plain["raw"]["accuracy"] + 2 * error
    assert marginal["raw"]["nll"] < plain["fitted"]["nll"] - 0.1 < plain["raw"]["nll"] - 0.3
    assert 0.8 < marginal["temperature"] < 1.3 < 1.5 < plain["temperature"]
    assert marginal["raw"]["ece"] < 0.07 < plain["raw"]["ece"]
    assert plain["fitted"]["ece"] < plain["raw"]["ece"] / 2


def test_evidence_finds_the_scale_of_the_errors(perturbed):
    calibration, _ = perturbed
    for wrong in (0.25, 1, 4):
        covariance = np.diag(ERROR**2) / wrong**2
        classifier = TemplateClassifier(TEMPLATES, covariance=covariance, scales=(0.25, 1, 4))
        assert classifier.fit(None, calibration).scale == wrong


def test_spectral_noise_widens_what_no_template_fits():
    rng = np.random.default_rng(3)
    labels = rng.integers(13, size=400)
    own = TEMPLATES[labels] * (1 + 0.3 * rng.normal(size=(400, N_BINS)))
    own = np.maximum(own, 0) / np.maximum(own, 0).sum(1, keepdims=True)
    drawn = star_field(4, 400, templates=own, labels=np.arange(400))
    stars = replace(drawn, labels=labels)
    plain = TemplateClassifier(TEMPLATES).log_posterior(stars)
    wide = TemplateClassifier(TEMPLATES, spectral_sd=0.3).log_posterior(stars)
    surprise = [-p[np.arange(400), labels].mean() for p in (plain, wide)]
    assert surprise[1] < surprise[0] - 0.1


def test_temperature_is_the_factor_of_the_variance():
    stars = star_field(21, 500)
    log_p = [
        class_log_posterior(
            template_log_likelihood(stars.stamps, stars.psfs, TEMPLATES, stars.sigma * factor)
        )
        for factor in (1, 0.5)
    ]
    assert 0.8 < fit_temperature(log_p[0], stars.labels) < 1.25
    ratio = fit_temperature(log_p[1], stars.labels) / fit_temperature(log_p[0], stars.labels)
    assert ratio == pytest.approx(4, rel=0.02)
    raw = ordinal_scores(stars.labels, np.exp(log_p[1]))
    other = star_field(22, 500)
    weak = replace(other, sigma=other.sigma * 0.5)
    classifier = TemplateClassifier(TEMPLATES).fit(None, weak)
    repaired = ordinal_scores(stars.labels, np.exp(class_log_posterior(log_p[1] / classifier.temperature)))
    assert repaired["ece"] < 0.05 < raw["ece"]
    assert repaired["accuracy"] == raw["accuracy"]


def test_prior_moves_the_posterior():
    log_l = np.log(np.array([[0.2, 0.6], [0.5, 0.5]]))
    prior = np.array([0.9, 0.1])
    expected = np.array([[0.18, 0.06], [0.45, 0.05]])
    found = np.exp(class_log_posterior(log_l, prior))
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True))
    np.testing.assert_allclose(np.exp(class_log_posterior(log_l)), [[0.25, 0.75], [0.5, 0.5]])
    with pytest.raises(ValueError, match="prior must be 2 positive numbers that sum to one"):
        class_log_posterior(log_l, np.array([0.5, 0.6]))


def test_pixel_noise_is_that_of_photons_and_read_out():
    shapes = np.tile([1.0, 0, 0], (2000, 1))
    psfs = np.broadcast_to(gaussian_psfs(shapes[:1]), (2000, N_BINS, SIZE, SIZE))
    mean = TEMPLATES.mean(0) @ psfs[0].reshape(N_BINS, -1)
    rng = np.random.default_rng(0)
    gain, read_noise, flux = 500.0, 0.01, 3.0
    stamps = rng.poisson(flux * gain * mean, (2000, SIZE**2)) / gain + rng.normal(0, 0.01, (2000, SIZE**2))
    found = pixel_noise(stamps.reshape(-1, SIZE, SIZE), psfs, TEMPLATES, gain, read_noise)
    spread = stamps.std(0).reshape(SIZE, SIZE)
    np.testing.assert_allclose(found.mean(0), spread, rtol=0.08)  # 5 standard errors of a spread
    assert found.min() >= read_noise
    with pytest.raises(ValueError, match="gain 0 and read noise"):
        pixel_noise(stamps, psfs, TEMPLATES, 0, read_noise)


def good():
    psfs = gaussian_psfs(np.tile([1.0, 0, 0], (2, 1)))
    return {"stamps": psfs[:, 0], "psfs": psfs, "templates": TEMPLATES, "sigma": np.ones(2)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux": "any"}, r"flux is 'any'; expected one of \('free', 'unit'\)"),
        ({"psfs": good()["psfs"][:1]}, r"psfs of shape \(1, 8, 16, 16\) with stamps of shape \(2, 16, 16\)"),
        ({"templates": TEMPLATES[:, :5]}, r"templates of shape \(13, 5\) for PSFs in 8 bins"),
        ({"templates": TEMPLATES * (1 + np.eye(13)[4, :, None])}, "template 4 sums to 2.0000; expected one"),
        ({"sigma": np.zeros(2)}, "sigma must be positive"),
        ({"sigma": np.ones(3)}, "sigma must be positive"),
        ({"nuisances": [SpectralNoise(0.1, 5)]}, "SpectralNoise is for 5 bins, and the PSFs have 8"),
        (
            {"nuisances": [WavefrontErrors(np.ones((2, 8, 2, 16, 16)), np.eye(3))]},
            r"derivatives of shape \(2, 8, 2, 16, 16\) for these stars; expected \(2, 8, 3, 16, 16\)",
        ),
    ],
)
def test_wrong_input(changes, message):
    with pytest.raises(ValueError, match=message):
        template_log_likelihood(**(good() | changes))


def test_wrong_covariances_scales_and_stars():
    with pytest.raises(ValueError, match=r"covariance is of shape \(3,\)"):
        WavefrontErrors(np.ones((2, 8, 3, 16, 16)), np.ones(3))
    with pytest.raises(ValueError, match="covariance is not symmetric"):
        WavefrontErrors(np.ones((2, 8, 2, 16, 16)), np.array([[1, 0.5], [0, 1]]))
    with pytest.raises(ValueError, match="covariance has the negative eigenvalue -1"):
        WavefrontErrors(np.ones((2, 8, 2, 16, 16)), np.diag([1.0, -1.0]))
    with pytest.raises(ValueError, match="scales are"):
        TemplateClassifier(TEMPLATES, scales=(-1.0,))
    stars = StarSet(np.ones((2, 16, 16)))
    with pytest.raises(ValueError, match="TemplateClassifier needs psfs, which these stars do not have"):
        TemplateClassifier(TEMPLATES).predict(stars)
    full = star_field(1, 5)
    with pytest.raises(ValueError, match="with a covariance needs derivatives"):
        TemplateClassifier(TEMPLATES, covariance=np.eye(2)).predict(full)
    with pytest.raises(ValueError, match="knows classes 0 to 3, and a label is 12"):
        TemplateClassifier(TEMPLATES[:4]).fit(None, replace(full, labels=np.full(5, 12)))
