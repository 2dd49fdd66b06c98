"""Reconstructions of real spectra by decoders, templates and curves whose answers are known."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from astro_utils.astra import real_pages
from astro_utils.astra.decoder import RestFrameDecoder
from astro_utils.astra.grid import SDSS_GRID, normalise, rebin
from astro_utils.astra.real_spectra import RealGalaxies, explained, held_out, real_galaxies
from astro_utils.samples import Spectra
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.spectra import SDSS, Projector

WAVE = SDSS_GRID.wavelength


@pytest.fixture(scope="module")
def good():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ASTRO_UTILS_DATA", raising=False)
        galaxies = real_galaxies()
    packaged = ["SDSS, spec" not in name and "DESI" not in name for name in galaxies.name]
    galaxies = galaxies.select(np.array(packaged))
    return galaxies.select(galaxies.signal_to_noise > 10)


@pytest.fixture(scope="module")
def templates():
    return GalaxyTemplates.load()


@pytest.fixture(scope="module")
def extra(templates):
    """Mixtures of templates with noise, at redshifts to 0.15."""
    rng = np.random.default_rng(0)
    z, mixture = rng.uniform(0.0, 0.15, 40), rng.exponential(1, (40, 5))
    clean = mixtures(templates, z, mixture)
    sigma = 0.03 * clean.flux.mean(1, keepdims=True)
    noisy = clean.flux + sigma * rng.normal(size=clean.flux.shape)
    return Spectra(WAVE, noisy.astype(np.float32), np.broadcast_to(sigma**-2, noisy.shape)), z


def mixtures(templates, z, mixture):
    fine = np.arange(np.floor(SDSS.edges[0]) - 30.0, SDSS.edges[-1] + 30.0, 1.0)
    pixels = Projector(fine, SDSS)(templates.spectra(fine, z, mixture))
    return normalise(rebin(Spectra(SDSS.wavelength, pixels, np.ones_like(pixels)), SDSS_GRID))[0]


def toy(n=6, seed=0):
    """Level spectra of unit noise, two of one galaxy, the first with a gap of wrong values."""
    rng = np.random.default_rng(seed)
    flux = np.linspace(10, 20, n)[:, None] + rng.normal(size=(n, len(WAVE)))
    ivar = np.ones_like(flux)
    flux[0, 100:110], ivar[0, 100:110] = 1e3, 0
    galaxy = np.array([0, *range(n - 1)])
    return RealGalaxies(
        Spectra(WAVE, flux, ivar), np.linspace(0.02, 0.05, n), np.array([f"s{i}" for i in range(n)]), galaxy
    )


def test_gaps_are_bridged_by_straight_lines():
    spectra = toy().spectra
    flux = real_pages.bridged(spectra)
    ends = flux[0, [99, 110]]
    np.testing.assert_allclose(flux[0, 100:110], np.interp(WAVE[100:110], WAVE[[99, 110]], ends), rtol=1e-6)
    np.testing.assert_allclose(flux[1:], spectra.flux[1:], rtol=1e-6)
    assert spectra.flux[0, 105] == 1e3, "the input is left as it was"


def test_reconstructions_are_those_of_held_out(good, extra):
    some = good.select(np.arange(3))
    pair = real_pages.decode_held_out(some, 2)
    for lines, model in zip((False, True), pair, strict=True):
        expected = held_out(some, some, 2, None, lines)["explained"]
        np.testing.assert_allclose(explained(some.spectra, model)[0], expected, atol=1e-5)
    expected = held_out(some, some, 2, extra, lines=True)["explained"]
    model = real_pages.decode_held_out(some, 2, extra)[1]
    np.testing.assert_allclose(explained(some.spectra, model)[0], expected, atol=1e-5)
    assert explained(some.spectra, pair[1])[0].mean() > explained(some.spectra, pair[0])[0].mean()


def test_no_spectrum_of_the_same_galaxy_is_learned_from(good, extra, monkeypatch):
    seen = []
    fit = RestFrameDecoder.fit

    def spy(spectra, z, n_components):
        seen.append(np.asarray(z))
        return fit(spectra, z, n_components)

    monkeypatch.setattr(real_pages.RestFrameDecoder, "fit", spy)
    some = good.select(np.arange(4))
    same = RealGalaxies(some.spectra, some.z, some.name, np.array([0, 1, 1, 2]))
    real_pages.decode_held_out(same, 1)
    assert [z.tolist() for z in seen] == [
        some.z[[1, 2, 3]].tolist(),
        some.z[[0, 3]].tolist(),
        some.z[:3].tolist(),
    ]
    seen.clear()
    real_pages.decode_held_out(same, 2, extra, real=False)
    assert [z.tolist() for z in seen] == [extra[1].tolist()]
    with pytest.raises(ValueError, match="nothing to learn from: expected real spectra or extra ones"):
        real_pages.decode_held_out(same, 1, real=False)


def test_the_mean_is_of_other_galaxies():
    galaxies = toy()
    mean = real_pages.mean_of_others(galaxies)
    # Levels are 10, 12, ... 20; the first two spectra are of one galaxy.
    np.testing.assert_allclose(mean.mean(1), [17, 17, 15.2, 14.8, 14.4, 14.0], atol=0.05)


def test_polynomials_are_found_and_gaps_do_not_count():
    x = np.linspace(-1, 1, len(WAVE))
    truth = np.array([3 + x - 2 * x**2, 5 - 4 * x])
    ivar = np.ones_like(truth)
    flux = truth.copy()
    flux[0, 500:600], ivar[0, 500:600] = 99, 0
    np.testing.assert_allclose(
        real_pages.polynomials(Spectra(WAVE, flux, ivar), 3), truth, rtol=1e-6, atol=1e-9
    )
    line = real_pages.polynomials(Spectra(WAVE, flux, ivar), 2)
    assert np.abs(line[0] - truth[0]).max() > 0.5
    np.testing.assert_allclose(line[1], truth[1], rtol=1e-6)


def test_mixtures_of_templates_are_found_and_lines_with_them(templates, extra):
    z = np.array([0.03, 0.11])
    clean = mixtures(templates, z, np.array([[1.0, 0, 2, 0, 0], [0, 1, 0, 0, 3]]))
    ivar = np.full(clean.flux.shape, 1e6)
    flux = clean.flux.copy()
    np.testing.assert_allclose(
        real_pages.template_fits(Spectra(WAVE, flux, ivar), z, templates), flux, rtol=2e-3
    )
    at = 5008.24 * (1 + z[0])
    flux[0] += 0.5 * np.exp(-0.5 * ((np.log(WAVE / at)) / (100 / 299_792.458)) ** 2)
    spectra = Spectra(WAVE, flux, ivar)
    lines = real_pages._lines_alone(RestFrameDecoder.fit(*extra, 3))
    peak = np.abs(WAVE - at).argmin()
    without = real_pages.template_fits(spectra, z, templates)
    within = real_pages.template_fits(spectra, z, templates, lines)
    assert flux[0, peak] - without[0, peak] > 0.3 and abs(flux[0, peak] - within[0, peak]) < 0.01
    dark = Spectra(WAVE, 2 * clean.flux - flux, ivar)  # the line in absorption
    assert abs(dark.flux[0, peak] - real_pages.template_fits(dark, z, templates, lines)[0, peak]) < 0.01
    # Lines beyond the measured pixels stay at 0 by their prior.
    cut = Spectra(WAVE, np.where(WAVE < 6000, flux, 0), np.where(WAVE < 6000, ivar, 0))
    far = real_pages.template_fits(cut, z, templates, lines)[:, WAVE > 6100]
    np.testing.assert_allclose(far, flux[:, WAVE > 6100], rtol=0.1)


def test_templates_have_no_negative_share(templates):
    z = np.array([0.05])
    one = mixtures(templates, z, np.eye(5)[:1])
    fit = real_pages.template_fits(Spectra(WAVE, -one.flux, np.ones_like(one.flux)), z, templates)
    np.testing.assert_array_equal(fit, 0)


def test_templates_of_photometry_do_not_need_every_band(templates):
    z = np.array([0.08, 0.08])
    clean = mixtures(templates, z, np.array([[1.0, 0, 0, 0, 1], [1, 0, 0, 0, 1]]))
    ivar = np.ones_like(clean.flux)
    ivar[1, WAVE < 5000] = 0  # no g
    model = real_pages._template_photometry(Spectra(WAVE, clean.flux, ivar), z, templates)
    assert np.isfinite(model).all()
    red = WAVE > 5600
    np.testing.assert_allclose(model[:, red], clean.flux[:, red], rtol=0.35)


def test_all_models_are_there_and_the_decoder_is_better_than_the_mean(good, extra):
    some = good.select(np.array([0, 3, 4]))
    models = real_pages.reconstructions(some, 2, extra)
    assert list(models)[:2] == ["mean of other galaxies", "polynomial, 2 coefficients"] and len(models) == 11
    score = {name: np.median(explained(some.spectra, model)[0]) for name, model in models.items()}
    assert score["decoder: both, lines"] > max(
        score["mean of other galaxies"], score["polynomial, 2 coefficients"]
    )
    assert score["kcorrect: spectrum"] > score["kcorrect: photometry"]
    np.testing.assert_array_equal(models["decoder: real"], real_pages.decode_held_out(some, 2)[0])


def test_scores_have_known_values():
    galaxies = toy(10)
    clean = np.linspace(10, 20, 10)[:, None] + 0 * WAVE
    reference = np.full(clean.shape, 15.0)
    galaxies.spectra.flux[:, 2000:] += 10
    model = clean + 10 * (np.arange(len(WAVE)) >= 2000)
    model[:3] -= 4 * (np.arange(len(WAVE)) >= 2000)  # of three spectra 0.69 is explained
    shown = galaxies.z + np.array([0.1] + [0] * 9)
    scores = real_pages.model_scores(galaxies, model, reference, shown)
    assert (
        scores["above_90"]["value"] == 0.7
        and 0.39 < scores["above_90"]["lo"] < scores["above_90"]["hi"] < 0.9
    )
    total = 25 * 4 * (2000 / 3840) * (1 - 2000 / 3840)
    assert scores["explained"]["value"] == pytest.approx(1 - 1 / (1 + total), abs=2e-3)
    assert scores["explained_free"]["value"] == pytest.approx(1, abs=2e-3)
    assert scores["chi2"] == pytest.approx(1, abs=0.05) and scores["z_eta_05"] == pytest.approx(0.1)
    itself = real_pages.model_scores(galaxies, reference, reference, shown)
    assert itself["r2"] == 0 == itself["r2_continuum"] and scores["r2"] > 0.4 > itself["r2"]
    assert {"d4000_bias", "d4000_mad", "ew_ha_mad", "r2_free", "r2_continuum_free", "z_sigma_mad"} <= set(
        scores
    )


def test_simulated_components_find_redshifts_of_real_spectra(good, extra):
    some = good.select(np.arange(4))
    found = real_pages.redshift_finder(some.spectra, extra, 3, z_max=0.15)(real_pages.bridged(some.spectra))
    assert (np.abs(found - some.z) < 1e-3).all()
    table = real_pages.spectrum_table(some, some.spectra.flux, some.z + 0.001 * (1 + some.z))
    assert (
        table["redshift error [km/s]"].tolist() == ["+300"] * 4
        and table["explained"].tolist() == ["1.000"] * 4
    )


def test_figures_show_what_they_are_given(good):
    figure = real_pages.reconstruction_figure(good, good.spectra.flux, [2, 0])
    assert len(figure.axes) == 4 and "100.0% explained" in figure.axes[0].get_title(loc="left")
    lower = figure.axes[1].lines[0].get_ydata()
    assert np.nanmax(np.abs(lower)) == 0
    names = {text.get_text() for text in figure.axes[0].texts}
    assert {"Hα", "[O III]"} <= names
    dots = real_pages.redshift_figure(good, good.z + 0.001 * (1 + good.z)).axes[0].lines
    assert sum(len(line.get_ydata()) for line in dots) == len(good)
    np.testing.assert_allclose(dots[0].get_ydata(), 299.792458)
    plt.close("all")
