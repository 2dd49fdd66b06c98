"""Fluxes and magnitudes: known zero points, limits, errors that propagate, and extinction."""

import numpy as np
import pytest

from astro_utils.photometry import SDSS_SOFTENING, asinh_magnitudes, asinh_to_flux, deredden

BANDS = 5


def fluxes(rng, n=200):
    """Fluxes (N, 5) in nanomaggies from far below to far above zero, and their inverse variances."""
    flux = rng.choice([-1, 1], (n, BANDS)) * 10 ** rng.uniform(-3, 4, (n, BANDS))
    flux[0] = 0.0
    return flux, 10 ** rng.uniform(-4, 4, (n, BANDS))


def test_bright_sources_have_ab_magnitudes():
    flux = np.geomspace(1e2, 1e6, 30)[:, None] * np.ones(BANDS)
    ivar = np.full_like(flux, 25.0)
    magnitude, error = asinh_magnitudes(flux, ivar)
    np.testing.assert_allclose(magnitude, 22.5 - 2.5 * np.log10(flux), atol=1e-4)
    np.testing.assert_allclose(error, 2.5 / np.log(10) * 0.2 / flux, rtol=1e-3)


def test_zero_flux_and_ten_times_the_softening_have_the_tabulated_magnitudes():
    """Stoughton et al. (2002), table 21: magnitudes at zero flux and at f / f0 = 10 b."""
    flux = np.stack([np.zeros(BANDS), 10 * SDSS_SOFTENING * 1e9])
    magnitude, _ = asinh_magnitudes(flux, np.ones_like(flux))
    np.testing.assert_allclose(magnitude[0], -2.5 * np.log10(SDSS_SOFTENING), rtol=1e-12)
    np.testing.assert_allclose(magnitude[0], [24.63, 25.11, 24.80, 24.36, 22.83], atol=0.006)
    np.testing.assert_allclose(magnitude[1], [22.12, 22.60, 22.29, 21.85, 20.32], atol=0.006)


def test_brighter_is_always_a_smaller_magnitude():
    flux = np.linspace(-50, 1000, 5001)[:, None] * np.ones(BANDS)
    magnitude, _ = asinh_magnitudes(flux, np.ones_like(flux))
    assert np.isfinite(magnitude).all()
    assert (np.diff(magnitude, axis=0) < 0).all()


def test_error_is_the_derivative_times_the_flux_error():
    flux, ivar = fluxes(np.random.default_rng(0))
    step = 1e-4 * (np.abs(flux) + 2e9 * SDSS_SOFTENING)
    brighter, _ = asinh_magnitudes(flux + step, ivar)
    fainter, _ = asinh_magnitudes(flux - step, ivar)
    _, error = asinh_magnitudes(flux, ivar)
    np.testing.assert_allclose(error, (fainter - brighter) / (2 * step) / np.sqrt(ivar), rtol=1e-5)


def test_bands_have_their_own_softening():
    flux, ivar = np.full((3, BANDS), 0.2), np.ones((3, BANDS))
    alone = [asinh_magnitudes(flux[:, [i]], ivar[:, [i]], SDSS_SOFTENING[[i]])[0] for i in range(BANDS)]
    together, _ = asinh_magnitudes(flux, ivar)
    np.testing.assert_array_equal(together, np.concatenate(alone, axis=1))
    assert len(set(together[0])) == BANDS


@pytest.mark.parametrize("bad", [0.0, -1.0, -9999.0])
def test_error_of_an_unmeasured_flux_is_nan_and_the_magnitude_is_not(bad):
    flux, ivar = np.full((2, BANDS), 100.0), np.ones((2, BANDS))
    ivar[1, 2] = bad
    magnitude, error = asinh_magnitudes(flux, ivar)
    assert np.isfinite(magnitude).all()
    assert np.isnan(error[1, 2]) and np.isnan(error).sum() == 1


def test_magnitudes_and_errors_turn_back_into_fluxes():
    flux, ivar = fluxes(np.random.default_rng(1))
    back = asinh_to_flux(*asinh_magnitudes(flux, ivar))
    np.testing.assert_allclose(back[0], flux, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(back[1], ivar, rtol=1e-9)


def test_dereddening_scales_flux_and_variance():
    """2.5 mag of extinction is a factor of ten in flux, of a hundred in variance, in that band alone."""
    flux, ivar = fluxes(np.random.default_rng(2), 20)
    extinction = np.zeros_like(flux)
    extinction[:, 1] = 2.5
    corrected, weight = deredden(flux, ivar, extinction)
    np.testing.assert_allclose(corrected[:, 1], 10 * flux[:, 1])
    np.testing.assert_allclose(weight[:, 1], ivar[:, 1] / 100)
    others = [0, 2, 3, 4]
    np.testing.assert_array_equal(corrected[:, others], flux[:, others])
    np.testing.assert_array_equal(weight[:, others], ivar[:, others])


def test_dereddened_magnitude_is_brighter_by_the_extinction():
    rng = np.random.default_rng(3)
    flux, ivar = 10 ** rng.uniform(2.5, 4, (50, BANDS)), np.ones((50, BANDS))
    extinction = rng.uniform(0, 1, (50, BANDS))
    before, before_error = asinh_magnitudes(flux, ivar)
    after, after_error = asinh_magnitudes(*deredden(flux, ivar, extinction))
    np.testing.assert_allclose(after, before - extinction, atol=1e-4)
    np.testing.assert_allclose(after_error, before_error, rtol=1e-3)


def test_dereddening_leaves_the_signal_to_noise_ratio_alone():
    rng = np.random.default_rng(4)
    flux, ivar = fluxes(rng)
    corrected, weight = deredden(flux, ivar, rng.uniform(0, 3, flux.shape))
    np.testing.assert_allclose(corrected * np.sqrt(weight), flux * np.sqrt(ivar), rtol=1e-12)
    assert (np.abs(corrected) >= np.abs(flux)).all(), "dust only dims"
