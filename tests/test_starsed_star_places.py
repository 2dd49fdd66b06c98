"""Flux and place of stars, and the PSF there."""

from dataclasses import replace

import numpy as np
import pytest
from realistic_star_sample import field

from astro_utils.starsed.star_places import place_stars


def test_flux_and_place_are_exact_without_noise():
    known, psf, (stars, shifts), _ = field()
    weights = known.templates.weights
    for label in (0, 12):  # the bluest and the reddest, each with its own spectrum
        rows = np.flatnonzero(stars.labels == label)[:4]
        some = replace(stars.rows(rows), stamps=stars.noiseless[rows])
        placed = place_stars(psf, some, weights[label])
        np.testing.assert_allclose(placed.shifts, shifts[rows], atol=2e-4)
        np.testing.assert_allclose(placed.flux, some.flux, rtol=1e-3)


def test_place_of_noisy_stars_is_as_uncertain_as_their_noise_says():
    known, psf, (stars, shifts), _ = field()
    weights = known.templates.weights
    pulls = []
    for label in range(13):
        rows = np.flatnonzero(stars.labels == label)
        if not len(rows):
            continue
        some = stars.rows(rows)
        placed = place_stars(psf, some, weights[label])
        slopes = placed.flux[:, None, None, None] * np.einsum("b,nbkyx->nkyx", weights[label], placed.slopes)
        fisher = (slopes**2 / some.variance(some.noiseless)[:, None]).sum((2, 3))
        pulls.append((placed.shifts - shifts[rows]) * np.sqrt(fisher))
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.35 and 0.8 < pulls.std() < 1.25


def test_the_place_is_where_the_weighted_squares_are_least():
    known, psf, (stars, _), _ = field()
    some, spectrum = stars.rows(slice(0, 30)), known.templates.weights.mean(0)
    placed = place_stars(psf, some, spectrum)
    model = placed.flux[:, None, None] * np.einsum("b,nbyx->nyx", spectrum, placed.psfs)
    slopes = placed.flux[:, None, None, None] * np.einsum("b,nbkyx->nkyx", spectrum, placed.slopes)
    variance = some.variance(model)[:, None]
    score = (slopes * (some.stamps - model)[:, None] / variance).sum((2, 3))
    assert np.abs(score / np.sqrt((slopes**2 / variance).sum((2, 3)))).max() < 0.01


def test_slopes_are_derivatives():
    _, psf, (stars, _), _ = field()
    placed = place_stars(psf, stars.rows(slice(0, 3)), np.full(8, 1 / 8))
    for axis in (0, 1):
        step = np.zeros((3, 2))
        step[:, axis] = 0.02
        ends = [psf(stars.positions[:3], placed.shifts + sign * step).astype(float) for sign in (1, -1)]
        numerical = (ends[0] - ends[1]) / 0.04
        np.testing.assert_allclose(placed.slopes[:, :, axis], numerical, atol=2e-3 * np.abs(numerical).max())
    np.testing.assert_allclose(placed.psfs, psf(stars.positions[:3], placed.shifts), atol=1e-7)


def test_a_star_without_light_is_refused():
    _, psf, (stars, _), _ = field()
    dark = replace(stars.rows(slice(0, 2)), stamps=-stars.stamps[:2])
    with pytest.raises(ValueError, match=r"the pixels of the star at \(.*\) sum to -.*; expected above 0"):
        place_stars(psf, dark, np.full(8, 1 / 8))
