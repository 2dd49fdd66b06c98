"""Baselines on spectra made of kcorrect's templates, whose answers are known."""

import numpy as np
import pytest

from astro_utils.astra.baselines import (
    ColourNeighbours,
    PhotometryRegression,
    TemplateAtRedshift,
    mean_spectrum,
)
from astro_utils.astra.grid import SDSS_GRID, normalise, rebin, synthetic_flux
from astro_utils.samples import Spectra
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.spectra import SDSS, Projector
from astro_utils.sky.surveys import SDSS as SURVEY
from astro_utils.spectrum_scores import r2

GRID = SDSS_GRID.coarser(4)


@pytest.fixture(scope="module")
def templates():
    return GalaxyTemplates.load()


@pytest.fixture(scope="module")
def sky(templates):
    """Give mixtures of two templates at several redshifts: spectra, fluxes in ugriz, redshifts."""
    rng = np.random.default_rng(0)
    z, share = rng.uniform(0.03, 0.2, 240), rng.uniform(0.05, 0.95, 240)
    coefficients = np.zeros((240, 5))
    coefficients[:, 1], coefficients[:, 3] = 100 * share, 100 * (1 - share)
    fine = np.arange(3700.0, 9300.0, 1.0)
    pixels = Projector(fine, SDSS)(templates.spectra(fine, z, coefficients))
    clean, _ = normalise(rebin(Spectra(SDSS.wavelength, pixels, np.ones_like(pixels)), GRID))
    ivar = np.full(clean.flux.shape, (10 / clean.flux.mean()) ** 2)
    noisy = clean.flux + rng.normal(size=ivar.shape) / np.sqrt(ivar)
    flux = np.einsum("nt,ntb->nb", coefficients, templates.band_table(SURVEY.filters)(z))
    flux *= 1 + 0.005 * rng.normal(size=flux.shape)
    colours = -2.5 * np.log10(flux[:, :4] / flux[:, 1:])
    return clean.flux, Spectra(GRID.wavelength, noisy, ivar), flux, colours, z


def some(spectra, rows):
    return Spectra(spectra.wavelength, spectra.flux[rows], spectra.ivar[rows])


def test_the_mean_spectrum_is_weighted():
    spectra = Spectra(
        GRID.wavelength[:3], np.array([[1.0, 1, 9], [4, 4, 4]]), np.array([[1.0, 2, 0], [1, 1, 5]])
    )
    np.testing.assert_allclose(mean_spectrum(spectra), [2.5, 2, 4])
    with pytest.raises(ValueError, match=r"no spectrum has a measurement at 38\d\d"):
        mean_spectrum(Spectra(spectra.wavelength, spectra.flux, np.array([[1.0, 0, 1], [1, 0, 1]])))


def test_neighbours_in_colour(sky):
    _, spectra, _, colours, _ = sky
    train, test = np.arange(160), np.arange(160, 240)
    reference = mean_spectrum(some(spectra, train))
    model = ColourNeighbours(8).fit(colours[train], some(spectra, train))
    predicted = model.predict(colours[test])
    assert r2(some(spectra, test), predicted, reference)[1] > 0.3
    own = ColourNeighbours(1).fit(colours, spectra).predict(colours[:5])
    np.testing.assert_allclose(own, normalise(some(spectra, np.arange(5)))[0].flux, rtol=1e-4)
    # A neighbour without weight does not count, pixel by pixel.
    pair = some(spectra, np.arange(2))
    ivar = np.where(np.arange(GRID.n_pixels) % 2, [[3.0], [1e-9]], [[1e-9], [1.0]])
    mixed = ColourNeighbours(2).fit(np.array([[0.0], [1.0]]), Spectra(GRID.wavelength, pair.flux, ivar))
    expected = np.where(np.arange(GRID.n_pixels) % 2, pair.flux[0], pair.flux[1])
    ratio = mixed.predict(np.zeros((1, 1)))[0] / expected
    assert ratio.std() < 1e-5 * ratio.mean()
    # Units of a colour do not matter.
    again = ColourNeighbours(8).fit(100 * colours[train] + 3, some(spectra, train))
    np.testing.assert_allclose(again.predict(100 * colours[test] + 3), predicted, rtol=1e-5)
    with pytest.raises(ValueError, match="300 neighbours among 160"):
        ColourNeighbours(300).fit(colours[train], some(spectra, train))
    with pytest.raises(ValueError, match="features of galaxy 2 are not all finite"):
        model.predict(np.where(np.arange(5)[:, None] == 2, np.nan, colours[:5]))


def test_regression_on_components(sky):
    _, spectra, _, colours, _ = sky
    train, test = np.arange(160), np.arange(160, 240)
    reference = mean_spectrum(some(spectra, train))
    scores = [
        r2(
            some(spectra, test),
            PhotometryRegression(k).fit(colours[train], some(spectra, train)).predict(colours[test]),
            reference,
        )[1]
        for k in (1, 8)
    ]
    assert scores[1] > 0.35 and scores[1] > scores[0] + 0.05


def test_templates_recover_the_spectrum_at_the_right_redshift_only(sky, templates):
    _, spectra, flux, _, z = sky
    model = TemplateAtRedshift(templates, SURVEY.filters, GRID.wavelength)
    rows, reference = np.arange(60), mean_spectrum(spectra)
    error = 0.005 * flux[rows]
    right = model.predict(flux[rows], error, z[rows])
    assert r2(some(spectra, rows), right, reference)[1] > 0.98
    np.testing.assert_allclose(
        synthetic_flux(Spectra(GRID.wavelength, right, np.ones_like(right)), ["sdss2010-r"]), 1, rtol=1e-4
    )
    wrong = model.predict(flux[rows], error, z[rows] + 0.02)
    draws = z[rows, None] + 0.02 * np.array([-1.2, -0.5, 0, 0.5, 1.2])
    averaged = model.predict(flux[rows], error, draws)
    scores = [r2(some(spectra, rows), flux_, reference)[1] for flux_ in (wrong, averaged, right)]
    assert scores[0] < scores[1] < scores[2]
    assert (model.coefficients(flux[rows], error, z[rows]) >= 0).all()
    with pytest.raises(ValueError, match=r"redshift -0.1; expected 0 to 1.6"):
        model.predict(flux[rows], error, np.full(60, -0.1))
    with pytest.raises(ValueError, match=r"fluxes of shape \(60, 3\)"):
        model.predict(flux[rows, :3], error, z[rows])
