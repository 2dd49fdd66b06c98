"""Scores of predicted spectra on cases whose answers are known."""

import numpy as np
import pytest

from astro_utils.samples import Spectra
from astro_utils.spectrum_scores import (
    aligned,
    chi2_per_pixel,
    continuum,
    index_scores,
    indices,
    interval_coverage,
    photometry_scores,
    r2,
    ranks,
    recovered_redshift_scores,
    retrieval,
    spectrum_scores,
)

WAVE = 10 ** (3.58 + 2e-4 * np.arange(1900))


def galaxies(n=60, noise=0.1, seed=0):
    """Smooth spectra with a line each, without and with noise that differs from pixel to pixel."""
    rng = np.random.default_rng(seed)
    slope, at = rng.normal(size=(n, 1)), rng.uniform(5000, 8000, (n, 1))
    clean = 3 + 0.5 * slope * np.log(WAVE / 6000) + np.exp(-0.5 * ((WAVE - at) / 20) ** 2)
    sigma = noise * rng.uniform(0.5, 2, (n, 1)) * np.linspace(2, 1, len(WAVE))
    ivar = 1 / sigma**2
    ivar[:, 700:720] = 0
    flux = np.where(ivar > 0, clean + sigma * rng.normal(size=clean.shape), 99.0)
    return clean, Spectra(WAVE, flux, ivar)


def test_chi2_is_one_for_the_truth_and_grows_with_the_square_of_an_offset():
    clean, truth = galaxies()
    assert chi2_per_pixel(truth, clean).mean() == pytest.approx(1, abs=0.01)
    quiet = Spectra(WAVE, clean, np.full(clean.shape, 4.0))
    np.testing.assert_allclose(chi2_per_pixel(quiet, clean + 0.5), 1.0)


def test_r2_is_one_zero_or_known_and_free_of_noise():
    clean, truth = galaxies()
    reference = clean.mean(0)
    raw, free = r2(truth, clean, reference)
    assert free == pytest.approx(1, abs=0.01) and 0.3 < raw < 0.95
    assert r2(truth, np.broadcast_to(reference, clean.shape), reference) == (0, 0)
    # Half way between the reference and the truth, a quarter of the variance is left.
    assert r2(truth, (clean + reference) / 2, reference)[1] == pytest.approx(0.75, abs=0.01)


def test_every_galaxy_counts_alike_in_r2():
    flux = np.array([[1.0, 2.0, 1.0, 2.0]] * 2)
    truth = Spectra(WAVE[:4], flux, np.array([[1.0] * 4, [1e4] * 4]))
    wrong = np.stack([flux[0], np.full(4, 1.5)])
    assert r2(truth, wrong, np.full(4, 1.5))[0] == pytest.approx(0.5)


def test_the_continuum_keeps_slopes_and_loses_lines_and_noise():
    clean, truth = galaxies(noise=0.3)
    smooth, prediction = continuum(truth, clean)
    inner = slice(50, -50)
    error = (smooth.flux - prediction)[:, inner]
    assert (error * np.sqrt(smooth.ivar[:, inner])).std() == pytest.approx(1, abs=0.06)
    line = np.exp(-0.5 * ((WAVE - 6000) / 3) ** 2)[None]
    assert continuum(Spectra(WAVE, line, np.ones_like(line)), line)[1].max() < 0.1
    straight = WAVE[None] / 6000
    linear = continuum(Spectra(WAVE, straight, np.ones_like(straight)), straight)[1]
    np.testing.assert_allclose(linear[:, inner], straight[:, inner], rtol=1e-3)


def test_alignment_undoes_a_shift_of_whole_pixels():
    clean, truth = galaxies()
    moved = np.stack([np.roll(row, k - 30) for k, row in enumerate(clean)])
    back, shift = aligned(truth, moved, clean.mean(0))
    expected = (30 - np.arange(60)) * np.log(10) * 2e-4
    assert np.abs(shift - expected).max() < 3e-3  # noise, and the slope of the continuum
    assert np.median(np.abs(shift - expected)) <= 1.01 * np.log(10) * 2e-4
    inner = slice(60, -60)
    error = np.square(back - clean)[:, inner].mean()
    assert error < 0.1 * np.square(moved - clean)[:, inner].mean()
    assert r2(truth, back, clean.mean(0))[1] > r2(truth, moved, clean.mean(0))[1] + 0.3


@pytest.mark.parametrize("z", [0.02, 0.1, 0.25])
def test_indices_have_the_values_that_were_put_in(z):
    fine = 10 ** (3.55 + 5e-5 * np.arange(8400))
    rest = fine / (1 + z)
    frequency = np.where(rest < 3975, 1.0, 1.7)  # F_nu
    flux = frequency / rest**2 * 1e7
    for centre, width in ((6564.6, 12.0), (5008.2, 7.5)):
        line = np.exp(-0.5 * ((rest - centre) / 2) ** 2) / (2 * np.sqrt(2 * np.pi))
        flux += width * line * 1.7 / centre**2 * 1e7
    table = indices(fine, flux[None], np.array([z]))
    assert table["d4000"][0] == pytest.approx(1.7, abs=0.002)
    assert table["ew_ha"][0] == pytest.approx(12.0, abs=0.05)
    assert table["ew_oiii"][0] == pytest.approx(7.5, abs=0.05)


def test_indices_outside_the_grid_are_not_numbers():
    table = indices(WAVE, np.ones((2, len(WAVE))), np.array([0.0, 0.6]))
    assert np.isnan(table["ew_ha"][1]) and np.isfinite(table["ew_oiii"]).all()
    assert table["ew_ha"][0] == pytest.approx(0, abs=1e-6)


def test_index_scores_are_medians_of_errors():
    true = indices(WAVE, np.ones((5, len(WAVE))), np.full(5, 0.05))
    off = true + np.array([[0.1], [0.2], [0.3], [0.4], [50.0]])
    scores = index_scores(true, off)
    assert scores["ew_ha_bias"] == pytest.approx(0.3) and scores["ew_ha_mad"] == pytest.approx(0.14826)
    assert recovered_redshift_scores(np.full(3, 0.21), np.full(3, 0.1))["z_bias"] == pytest.approx(0.1)


def test_photometry_scores():
    flux = np.full((9, 2), 4.0)
    scores = photometry_scores(flux * np.array([1.02, 0.96]), flux)
    assert scores["photometry_bias"] == pytest.approx(-0.04)
    assert scores["photometry_mad"] == pytest.approx(1.4826 * 0.03)


def test_retrieval_finds_own_spectra_and_chance_finds_one_in_n():
    clean, truth = galaxies(noise=0.05)
    assert retrieval(truth, clean)["top_1"] == 1.0
    chance = retrieval(truth, np.random.default_rng(3).permutation(clean), ks=(1, 30))
    assert chance["top_1"] < 0.12 and 0.3 < chance["top_30"] < 0.7


def test_retrieval_looks_for_the_prediction_of_an_observed_spectrum():
    clean, truth = galaxies(n=40, noise=0.3)
    assert retrieval(truth, clean)["top_1"] > 0.9
    found = retrieval(truth, np.roll(clean, 1, axis=0))
    assert found["top_1"] < 0.1 < found["top_10"] and found["rank"] > 1
    gaps = Spectra(WAVE, np.where(truth.ivar > 0, truth.flux, 1e4), truth.ivar)
    assert retrieval(gaps, clean) == retrieval(truth, clean)


def test_coverage_of_intervals_of_the_right_width():
    clean, truth = galaxies()
    with np.errstate(divide="ignore"):
        sigma = 1 / np.sqrt(truth.ivar)
    for width, level in ((1.0, 0.6827), (1.96, 0.95)):
        assert interval_coverage(truth, clean - width * sigma, clean + width * sigma) == pytest.approx(
            level, abs=0.006
        )


def test_all_scores_at_once():
    clean, truth = galaxies(n=20)
    scores = spectrum_scores(truth, clean, clean.mean(0))
    assert scores["chi2"] == pytest.approx(1, abs=0.03) and scores["rank"] == 1
    assert scores["r2_continuum_free"] == pytest.approx(1, abs=0.01)
    assert scores["r2_aligned_free"] == pytest.approx(1, abs=0.02)


def test_bad_predictions_are_named():
    clean, truth = galaxies(n=3)
    with pytest.raises(ValueError, match=r"predictions of shape \(2, 1900\); expected \(3, 1900\)"):
        chi2_per_pixel(truth, clean[:2])
    clean[1, 5] = np.nan
    with pytest.raises(ValueError, match="prediction 1 is not finite"):
        r2(truth, clean, clean[0])
    blind = Spectra(WAVE, truth.flux, truth.ivar * np.array([[1], [1], [0]]))
    with pytest.raises(ValueError, match="spectrum 2 has no measured pixel"):
        chi2_per_pixel(blind, np.ones_like(clean))


def test_one_prediction_for_all_is_found_as_often_as_by_chance():
    rng = np.random.default_rng(3)
    truth = Spectra(np.linspace(4000.0, 5000.0, 50), rng.normal(1, 0.1, (40, 50)), np.full((40, 50), 100.0))
    same = np.tile(truth.flux.mean(0), (40, 1))
    np.testing.assert_allclose(ranks(truth, same), 20.5)
    assert retrieval(truth, same)["top_1"] == 0
    np.testing.assert_array_equal(ranks(truth, truth.flux), 1)
