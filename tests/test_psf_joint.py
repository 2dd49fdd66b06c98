"""The wavefront's field and the stars' spectra together, without labels and with few."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from astro_utils.psf import Optics, PupilModel, random_field
from astro_utils.psf.field_likelihood import FieldLikelihood, StarImages
from astro_utils.psf.fit import FitSettings, field_prior, fit_field
from astro_utils.psf.joint import candidate_stars, class_probabilities, fit_field_and_spectra

OPTICS = Optics(pupil_size=32, stamp=12, bins=3, modes=11, field_degree=2, field_grid=3)
TEMPLATES = np.array([[0.7, 0.2, 0.1], [0.45, 0.3, 0.25], [0.25, 0.3, 0.45], [0.05, 0.15, 0.8]])
SETTINGS = FitSettings(starts=2, subset=100, nodes=8)


@pytest.fixture(scope="module")
def model():
    return PupilModel(OPTICS)


@pytest.fixture(scope="module")
def prior():
    return field_prior(OPTICS, fields=100)


@torch.no_grad()
def render(model, field, positions, seds):
    return model.polychromatic(model.opd(field(positions)), torch.tensor(seds)).double().numpy()


def sky(model, n, seed, *, power=60.0):
    """Field, and stamps, positions, noise and classes of stars."""
    rng = np.random.default_rng(seed)
    field = random_field(model.optics, seed)
    positions = rng.uniform(*model.optics.field_limits, (n, 2))
    classes = rng.integers(len(TEMPLATES), size=n)
    images = render(model, field, positions, TEMPLATES[classes])
    sigma = np.sqrt((images**2).sum((1, 2)) / (power * model.optics.stamp**2))
    noisy = images + rng.normal(size=images.shape) * sigma[:, None, None]
    return field, noisy, positions, sigma, classes


def relative_error(model, fitted, truth):
    rng = np.random.default_rng(99)
    positions = rng.uniform(*model.optics.field_limits, (100, 2))
    seds = TEMPLATES[rng.integers(len(TEMPLATES), size=100)]
    images = render(model, truth, positions, seds)
    difference = render(model, fitted, positions, seds) - images
    return (np.linalg.norm(difference, axis=(1, 2)) / np.linalg.norm(images, axis=(1, 2))).mean()


@pytest.mark.parametrize("flux", ["unit", "free"])
def test_likelihood_is_summed_over_the_templates(flux):
    model = PupilModel(OPTICS, dtype=torch.float64)
    field, noisy, positions, sigma, classes = sky(model, 12, 1)
    class_prior = np.array([0.1, 0.2, 0.3, 0.4])
    labels = np.where(np.arange(12) < 4, classes, -1)
    stars = candidate_stars(
        noisy, positions, TEMPLATES, sigma, labels=labels, class_prior=class_prior, flux=flux
    )
    value = FieldLikelihood(model, stars)(field.coefficients[1:])
    log_joint = np.full((12, 4), -np.inf)
    for star in range(12):
        for k in range(4):
            if labels[star] in (-1, k):
                image = render(model, field, positions[star : star + 1], TEMPLATES[[k]])[0]
                power = (image**2).sum()
                best = 1.0 if flux == "unit" else (image * noisy[star]).sum() / power
                log_joint[star, k] = -((noisy[star] - best * image) ** 2).sum() / (2 * sigma[star] ** 2)
                log_joint[star, k] += np.log(class_prior[k]) if labels[star] < 0 else 0
                log_joint[star, k] -= np.log(power) / 2 if flux == "free" else 0
    assert value.loss == pytest.approx(-logsumexp(log_joint, axis=1).sum(), rel=1e-9)
    expected = np.exp(log_joint - logsumexp(log_joint, axis=1)[:, None])
    assert np.allclose(value.probabilities, expected, atol=1e-8)

    likelihood, at = FieldLikelihood(model, stars, nodes=8), 0.7 * field.coefficients[1:]
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=at.shape)) / 1e6
    difference = likelihood(at + direction).loss - likelihood(at - direction).loss
    slope = float((likelihood(at).gradient * direction).sum())
    assert slope == pytest.approx(difference / 2, rel=1e-4)


def test_no_labels_are_needed(model, prior):
    ratios, gains = [], []
    for seed in (1, 2):
        field, noisy, positions, sigma, classes = sky(model, 400, seed)
        blind = candidate_stars(noisy, positions, TEMPLATES, sigma)
        fit = fit_field_and_spectra(model, blind, settings=SETTINGS, prior=prior)
        assert abs(fit.excess) < 4
        known = StarImages.known(noisy, positions, TEMPLATES[classes], sigma)
        oracle = fit_field(model, known, settings=SETTINGS, prior=prior)
        mean = StarImages.known(noisy, positions, np.tile(TEMPLATES.mean(0), (400, 1)), sigma)
        crude = fit_field(model, mean, settings=SETTINGS, prior=prior)
        error = relative_error(model, fit.field, field)
        ratios.append(error / relative_error(model, oracle.field, field))
        gains.append(relative_error(model, crude.field, field) / error)
        with_truth = FieldLikelihood(model, blind)(field.coefficients[1:]).probabilities.argmax(1).numpy()
        reached = (fit.probabilities.argmax(1).numpy() == classes).mean()
        assert reached > (with_truth == classes).mean() - 0.04
        assert reached > 0.5
    assert np.mean(ratios) < 1.6
    assert np.mean(gains) > 1.5


def test_stars_without_labels_help_few_with_them(model, prior):
    field, noisy, positions, sigma, classes = sky(model, 340, 3)
    labels = np.where(np.arange(340) < 40, classes, -1)
    stars = candidate_stars(noisy, positions, TEMPLATES, sigma, labels=labels)
    both = fit_field_and_spectra(model, stars, settings=SETTINGS, prior=prior)
    few = fit_field(model, stars.take(slice(40)), settings=SETTINGS, prior=prior)
    assert relative_error(model, both.field, field) < 0.6 * relative_error(model, few.field, field)
    assert (both.probabilities[:40].argmax(1).numpy() == classes[:40]).all()


@pytest.mark.parametrize("flux", ["unit", "free"])
def test_errors_of_the_wavefront_make_classes_less_certain(model, prior, flux):
    _, noisy, positions, sigma, classes = sky(model, 620, 4)
    few = StarImages.known(noisy[:20], positions[:20], TEMPLATES[classes[:20]], sigma[:20])
    fit = fit_field(model, few, prior=prior)
    others = candidate_stars(noisy[20:], positions[20:], TEMPLATES, sigma[20:], flux=flux)
    at_best = FieldLikelihood(model, others)(fit.field.coefficients[1:]).probabilities.numpy()
    allowing = class_probabilities(model, fit, others)

    def surprise(p):
        return -np.log(p[np.arange(600), classes[20:]]).mean()

    assert allowing.max(1).mean() < at_best.max(1).mean()
    assert surprise(allowing) < surprise(at_best)
    assert (allowing.argmax(1) == classes[20:]).mean() > (at_best.argmax(1) == classes[20:]).mean() - 0.03
    assert abs(allowing.max(1).mean() - (allowing.argmax(1) == classes[20:]).mean()) < 0.06


def test_bad_input(model, prior):
    _, noisy, positions, sigma, _ = sky(model, 5, 1)
    for labels in (np.array([0, 1, 2, 3, 4]), np.zeros(4, int), np.zeros(5)):
        with pytest.raises(ValueError, match=r"labels must be 5 whole numbers from -1 \(unknown\) to 3"):
            candidate_stars(noisy, positions, TEMPLATES, sigma, labels=labels)
    with pytest.raises(ValueError, match="class_prior must be 4 positive numbers"):
        candidate_stars(noisy, positions, TEMPLATES, sigma, class_prior=np.array([0.5, 0.5, 0, 0]))
    with pytest.raises(ValueError, match="expected spectra that sum to one"):
        candidate_stars(noisy, positions, 2 * TEMPLATES, sigma)
    fit = fit_field(model, candidate_stars(noisy, positions, TEMPLATES, sigma), prior=prior)
    known = StarImages.known(noisy, positions, TEMPLATES[[0, 1, 2, 3, 0]], sigma)
    with pytest.raises(ValueError, match="different candidates"):
        class_probabilities(model, fit, known)
