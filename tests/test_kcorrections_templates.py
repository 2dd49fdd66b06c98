"""Template fits with kcorrect: what K must be whatever the spectrum, and failures that are counted."""

import numpy as np
import pytest

from astro_utils.kcorrections.templates import Bandpasses, fit_templates, k_correction, rest_frame_colour

UGRIZ = tuple(f"sdss_{b}0" for b in "ugriz")
BANDS = Bandpasses(UGRIZ, tuple((name, name) for name in UGRIZ), n_redshift=31, max_redshift=0.6)
#: The galaxy of kcorrect's documentation, nanomaggies.
FLUX = np.array([[27.26, 73.98, 132.56, 198.52, 238.05]])
IVAR = np.array([[1.528, 5.23, 2.429, 1.042, 0.1653]])


def many(n, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.02, 0.5, n)
    flux = 10 ** rng.uniform(0, 1, (n, 1)) * np.array([1, 3, 6, 9, 11]) * rng.lognormal(0, 0.1, (n, 5))
    return flux, 1 / (0.05 * flux) ** 2, z


def test_at_the_band_shift_k_is_the_same_for_every_spectrum():
    mixtures = np.random.default_rng(0).lognormal(0, 3, (50, 5))
    k = k_correction(BANDS, mixtures, np.full(50, 0.1), 0.1)
    np.testing.assert_allclose(k, -2.5 * np.log10(1.1), atol=1e-5)
    np.testing.assert_allclose(k_correction(BANDS, mixtures, np.zeros(50), 0.0), 0, atol=1e-6)


def test_the_example_of_the_documentation():
    fine = Bandpasses(UGRIZ, BANDS.pairs, n_redshift=400, max_redshift=0.6)
    fit = fit_templates(fine, FLUX, IVAR, np.array([0.0826]))
    k = k_correction(fine, fit.coefficients, fit.z, 0.1)
    np.testing.assert_allclose(k[0], [-0.1182, -0.1449, -0.1182, -0.1204, -0.1106], atol=3e-4)


def test_k_does_not_depend_on_brightness_and_composes_over_band_shifts():
    flux, ivar, z = many(40)
    fit, bright = fit_templates(BANDS, flux, ivar, z), fit_templates(BANDS, 100 * flux, ivar / 1e4, z)
    assert fit.failures() == {}
    k = k_correction(BANDS, fit.coefficients, z)
    np.testing.assert_allclose(k, k_correction(BANDS, bright.coefficients, z), atol=2e-3)
    # K(z, 0.1) - K(0, 0.1) is K(z, 0): both lead to the same band at rest.
    at_rest = k_correction(BANDS, fit.coefficients, np.zeros(40))
    np.testing.assert_allclose(k - at_rest, k_correction(BANDS, fit.coefficients, z, 0.0), atol=1e-5)


def test_a_fit_of_exact_template_photometry_returns_its_k():
    z = np.linspace(0.05, 0.45, 9)
    mixtures = np.random.default_rng(1).uniform(0.2, 1, (9, 5)) * 1e3
    flux = BANDS.fitter().reconstruct(redshift=z, coeffs=mixtures) * 1e9
    fit = fit_templates(BANDS, flux, 1 / (0.01 * flux) ** 2, z)
    found, true = (k_correction(BANDS, c, z) for c in (fit.coefficients, mixtures))
    np.testing.assert_allclose(found, true, atol=3e-3)
    # K to another band is K to the own band plus the rest-frame colour of the two.
    cross = Bandpasses(UGRIZ, (("sdss_g0", "sdss_g0"), ("sdss_g0", "sdss_r0")), 31, 0.6)
    k = k_correction(cross, mixtures, z)
    np.testing.assert_allclose(k[:, 1] - k[:, 0], rest_frame_colour(cross, mixtures), atol=1e-5)


def test_failures_are_named_and_counted_and_k_is_nan():
    flux, ivar, z = (np.array(values) for values in many(8))
    flux[0, 2] = np.nan
    ivar[1, :4] = 0  # one band is left
    ivar[2, 0] = -1
    z[3], z[4], z[5] = -0.001, 0.6, np.nan
    flux[6] = -flux[6]
    fit = fit_templates(BANDS, flux, ivar, z)
    assert fit.failure.tolist() == [*["photometry"] * 3, *["redshift"] * 3, "empty", ""]
    assert fit.failures() == {"photometry": 3, "redshift": 3, "empty": 1}
    k = k_correction(BANDS, fit.coefficients, np.where(np.isfinite(z) & (z > 0), z, 0.1))
    assert np.isnan(k[:7]).all()
    assert np.isfinite(k[7]).all()


def test_one_galaxy_that_the_solver_cannot_do_does_not_stop_the_others(monkeypatch):
    flux, ivar, z = many(6)
    fitter, expected = BANDS.fitter(), fit_templates(BANDS, flux, ivar, z)
    inner = fitter._fit_coeffs

    def fails_at_a_redshift(redshift, **arguments):
        if np.isclose(redshift, z[2]):
            raise RuntimeError("Maximum number of iterations reached.")
        return inner(redshift=redshift, **arguments)

    monkeypatch.setattr(fitter, "_fit_coeffs", fails_at_a_redshift)
    fit = fit_templates(BANDS, flux, ivar, z)
    assert fit.failures() == {"solver": 1}
    assert fit.failure[2] == "solver"
    np.testing.assert_allclose(fit.coefficients[fit.good], expected.coefficients[fit.good], rtol=1e-5)


def test_wrong_shapes_and_responses():
    flux, ivar, z = many(3)
    with pytest.raises(ValueError, match=r"flux \(3, 4\) and ivar \(3, 5\); expected \(3, 5\)"):
        fit_templates(BANDS, flux[:, :4], ivar, z)
    with pytest.raises(ValueError, match="K from bass_r, which is not among the responses"):
        Bandpasses(UGRIZ, (("bass_r", "sdss_r0"),))


def test_no_galaxies_at_all():
    fit = fit_templates(BANDS, np.empty((0, 5)), np.empty((0, 5)), np.empty(0))
    assert fit.coefficients.shape == (0, 5)
    assert k_correction(BANDS, fit.coefficients, fit.z).shape == (0, 5)
