"""Synthetic photometry and the surveys: fluxes of known spectra, depths that are what they are called."""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from speclite.filters import load_filter

from astro_utils.sky.bandpasses import band_weights, effective_wavelength
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.images import field_psf, render
from astro_utils.sky.surveys import SDSS, SURVEYS, draw_fields

GRID = np.arange(2900.0, 11200.0, 1.0)
every_survey = pytest.mark.parametrize("survey", SURVEYS.values(), ids=SURVEYS)


def one_nanomaggy(wavelength):
    """F_lambda of a source of 3.631e-6 Jy, in 1e-17 erg / (s cm2 Angstrom), by way of astropy's units."""
    flux = (3.631e-6 * u.Jy).to(u.erg / u.s / u.cm**2 / u.AA, u.spectral_density(wavelength * u.AA))
    return flux.value / 1e-17


# ----------------------------------------------------------------------------------------------- bandpasses


@every_survey
@pytest.mark.parametrize("step", [1.0, 2.0, 10.0])
def test_source_of_one_nanomaggy_has_one_nanomaggy_in_every_band(survey, step):
    grid = np.arange(2900.0, 11200.0, step)
    np.testing.assert_allclose(one_nanomaggy(grid) @ band_weights(survey.filters, grid), 1, rtol=1e-6)


@every_survey
def test_magnitudes_are_those_of_speclite(survey):
    """An old, a young and a flat spectrum; speclite integrates on the union of both grids."""
    templates = GalaxyTemplates.load()
    spectra = templates.spectra(GRID, np.full(5, 0.13), np.eye(5))
    spectra = np.concatenate([spectra, np.ones((1, len(GRID)))])
    mine = 22.5 - 2.5 * np.log10(spectra @ band_weights(survey.filters, GRID))
    unit = 1e-17 * u.erg / (u.s * u.cm**2 * u.AA)
    for i, name in enumerate(survey.filters):
        band = load_filter(name)
        padded, grid = band.pad_spectrum(spectra * unit, GRID * u.AA, method="edge")
        np.testing.assert_allclose(mine[:, i], band.get_ab_magnitude(padded, grid), atol=0.002)


def test_fluxes_do_not_depend_on_the_grid():
    """A steep spectrum with an edge, on three grids; the steps of the last grow eightfold."""
    grids = GRID, np.arange(2900.0, 11200.0, 5.0), 2900 + 8299 * np.linspace(0.125, 1, 20_000) ** 2
    fluxes = [
        ((grid / 6000) ** 6 * np.where(grid < 5500, 2, 1)) @ band_weights(SDSS.filters, grid)
        for grid in grids
    ]
    np.testing.assert_allclose(fluxes[1:], [fluxes[0]] * 2, rtol=2e-3)


def test_weights_count_photons():
    """A line of the same energy makes more detected photons where it is redder, where R is flat."""
    weights = band_weights(SDSS.filters, GRID)
    assert weights.shape == (len(GRID), 5) and (weights >= 0).all()
    band = load_filter("sdss2010-r")
    response = np.interp(GRID, band.wavelength, band.response)
    inside = response > 0.5 * response.max()
    ratio = weights[inside, 2] / (response * GRID)[inside]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-9)


@pytest.mark.parametrize("name", ["sdss2010-u", "sdss2010-r", "decamDR1-z", "panstarrs-y"])
def test_effective_wavelength_is_that_of_speclite(name):
    expected = load_filter(name).effective_wavelength.to_value(u.AA)
    assert effective_wavelength(name) == pytest.approx(expected, rel=1e-6)


def test_filter_that_the_spectra_do_not_cover_is_named():
    with pytest.raises(ValueError, match=r"from 4000 to 11199 Angstrom hold .*% of filter sdss2010-u \(2"):
        band_weights(SDSS.filters, GRID[GRID >= 4000])
    with pytest.raises(ValueError, match=r"filter panstarrs-y .* expected at least 99%"):
        band_weights(["panstarrs-g", "panstarrs-y"], GRID[GRID < 9500])
    assert band_weights(["sdss2010-u"], GRID[GRID > 3500], coverage=0.3).shape == (7699, 1)


@pytest.mark.parametrize("grid", [GRID[::-1], np.append(GRID, GRID[-1]), np.append(GRID, np.nan)])
def test_grid_that_does_not_increase_is_refused(grid):
    with pytest.raises(ValueError, match="does not increase"):
        band_weights(["sdss2010-r"], grid)


# -------------------------------------------------------------------------------------------------- surveys


def test_survey_with_a_value_missing_is_refused():
    with pytest.raises(ValueError, match="survey sdss: depth has 4 values for 5 bands"):
        dataclasses.replace(SDSS, depth=SDSS.depth[:4])


@every_survey
def test_depth_is_the_magnitude_of_a_point_source_at_five_sigma(survey):
    """By the pixels themselves: sigma of a fitted flux is sigma_pixel / sqrt(sum P^2)."""
    fields = draw_fields(survey, 1, np.random.default_rng(0))
    for band, seeing in zip(survey.bands, survey.seeing, strict=True):
        fields[f"fwhm_{band}"] = seeing
    psf = field_psf(survey, fields.iloc[0], 64)
    point = np.ones((1, len(survey.bands)))
    profile = render(fields.assign(x=0.0, y=0.0), point, 0 * point, 0 * point, psf, survey, 64)[0]
    sigma = survey.sky_sigma / np.sqrt((profile**2).sum(axis=(1, 2)))
    # The pixel widens the profile a little: a few per cent of the flux error.
    np.testing.assert_allclose(22.5 - 2.5 * np.log10(5 * sigma), survey.depth, atol=0.12)


@every_survey
def test_fields_scatter_about_the_published_medians(survey):
    fields = draw_fields(survey, 4000, np.random.default_rng(1))
    assert np.isfinite(fields).all(axis=None)
    for band, seeing, sigma in zip(survey.bands, survey.seeing, survey.sky_sigma, strict=True):
        assert fields[f"fwhm_{band}"].median() == pytest.approx(seeing, rel=0.02)
        assert fields[f"sigma_{band}"].median() == pytest.approx(sigma, rel=0.02)
        error = np.log(fields[f"psffwhm_{band}"] / fields[f"fwhm_{band}"])
        assert abs(error.median()) < 0.003 and 0.01 < error.std() < 0.04, "estimates are a little wrong"
    first, last = (np.log(fields[f"fwhm_{band}"]) for band in (survey.bands[0], survey.bands[-1]))
    assert np.corrcoef(first, last)[0, 1] > 0.8, "bands of a field share its seeing"
    assert 0.02 < fields["ebv"].median() < 0.04 and fields["ebv"].max() <= 0.5
    assert np.std(np.log(fields["ebv_map"] / fields["ebv"])) == pytest.approx(0.1, rel=0.1)


def test_fields_avoid_the_galactic_plane_and_fill_the_rest_evenly():
    fields = draw_fields(SDSS, 4000, np.random.default_rng(2))
    sky = SkyCoord(fields["ra"].to_numpy(), fields["dec"].to_numpy(), unit="deg")
    latitude = sky.galactic.b.deg
    assert np.abs(latitude).min() > 24.99 and fields["dec"].min() >= -15
    north = fields["dec"][latitude > 60]
    assert len(north) / len(fields) == pytest.approx(share_of_sky(lambda b, dec: b > 60), abs=0.02)


def share_of_sky(inside):
    """Share of the allowed sky where `inside` holds, by counting positions."""
    rng = np.random.default_rng(3)
    dec = np.degrees(np.arcsin(rng.uniform(-1, 1, 40_000)))
    b = SkyCoord(rng.uniform(0, 360, 40_000), dec, unit="deg").galactic.b.deg
    allowed = (np.abs(b) > 25) & (dec > -15)
    return (allowed & inside(b, dec)).sum() / allowed.sum()


def test_one_field_has_the_same_place_and_dust_in_every_survey():
    places = [
        draw_fields(survey, 3, np.random.default_rng(4))[["ra", "dec", "ebv", "ebv_map"]]
        for survey in SURVEYS.values()
    ]
    assert places[0].equals(places[1]) and places[0].equals(places[2])
