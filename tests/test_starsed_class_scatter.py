"""Scatter of the spectra of a class, and what a likelihood makes of it."""

import numpy as np
import pytest
import torch
from realistic_star_sample import known_scatter

from astro_utils.models.star_likelihood import template_log_likelihood
from astro_utils.starsed.class_scatter import SpectralScatter, member_shares, spectral_scatter
from astro_utils.starsed.templates import templates


def test_scatter_of_members_is_found_again():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(8, 3)) * np.array([0.05, 0.02, 0.01])
    counts = np.full(13, 60)
    counts[3] = 1
    classes = np.repeat(np.arange(13), counts)
    means = rng.uniform(0.5, 1.5, (13, 8))
    shares = means[classes] * (1 + rng.normal(size=(len(classes), 3)) @ factor.T)
    directions = spectral_scatter(shares, classes).directions
    covariance = directions.swapaxes(1, 2) @ directions  # (13, 8, 8)
    truth = factor @ factor.T
    assert np.abs(covariance[0] - truth * (1 + 1 / 60)).max() < 0.12 * truth.max()
    # The mean of one star is as uncertain as a star.
    np.testing.assert_allclose(covariance[3], covariance[0] * 2 / (1 + 1 / 60))


def test_scatter_counts_the_freedom_that_the_means_take():
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(200):
        classes = np.repeat(np.arange(13), 2)
        shares = 1 + 0.01 * rng.normal(size=(26, 4))
        directions = spectral_scatter(shares, classes).directions[0] / np.sqrt(1.5)
        drawn.append((directions**2).sum() / 4)
    assert np.mean(drawn) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("classes", [np.arange(13), np.repeat(np.arange(12), 2)])
def test_too_few_members(classes):
    with pytest.raises(ValueError, match="expected one or more of each, of some two"):
        spectral_scatter(np.full((len(classes), 4), 0.25), classes)


def test_members_are_those_of_the_templates_and_no_test_stars():
    shares, classes = member_shares(8)
    means = np.array([shares[classes == label].mean(0) for label in range(13)])
    np.testing.assert_allclose(means, templates("stelib").weights, atol=1e-4)
    unseen = templates("stelib", unseen=True).weights
    assert np.abs(shares[:, None] - unseen).max(2).min() > 1e-4
    # Relative deviations of some per cent: real stars of a class differ.
    spread = np.sqrt((known_scatter().directions ** 2).sum(1))  # (13, bins)
    assert 0.005 < spread.min() and spread.max() < 0.15


def test_scattered_spectra_widen_the_likelihood_as_their_covariance_says():
    rng = np.random.default_rng(2)
    psfs = rng.uniform(size=(1, 3, 4, 4))
    psfs /= psfs.sum((2, 3), keepdims=True)
    spectra = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    directions = 0.3 * rng.normal(size=(2, 2, 3))
    stamp = rng.normal(size=(1, 4, 4))
    log_l = template_log_likelihood(
        stamp, psfs, spectra, 0.5, flux="unit", nuisances=[SpectralScatter(directions)]
    )
    for label in (0, 1):
        image = (spectra[label] @ psfs[0].reshape(3, -1)).ravel()
        changes = (directions[label] * spectra[label]) @ psfs[0].reshape(3, -1)
        covariance = 0.25 * np.eye(16) + changes.T @ changes
        r = stamp.ravel() - image
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        assert log_l[0, label] == pytest.approx(-0.5 * (r @ np.linalg.solve(covariance, r) + log_det))
    with pytest.raises(ValueError, match=r"directions are of shape \(2, 2, 3\); expected \(1, 2, 3\)"):
        SpectralScatter(directions).columns(slice(0, 1), torch.ones(1, 3, 4, 4), None, torch.ones(1, 3))
