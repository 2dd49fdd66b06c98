"""Galaxy templates, the mixtures that real galaxies have, and how they part into bulge and disc."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from scipy.integrate import quad

from astro_utils.galaxies import sdss_galaxies
from astro_utils.photometry import deredden
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.galaxies import (
    COSMOLOGY,
    GalaxyTemplates,
    distance_modulus,
    fit_coefficients,
    real_galaxies,
)
from astro_utils.sky.second_family import POPULATIONS, attenuation, single_age_templates
from astro_utils.sky.seds import (
    Seds,
    bulge_mixtures,
    component_fluxes,
    load_seds,
    perturbation,
    source_spectra,
)
from astro_utils.sky.surveys import LEGACY, PANSTARRS, SDSS, SURVEYS

Z_EDGES = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
FINE = np.arange(2900.0, 11300.0, 0.25)
OUTSIDE = (FINE >= 2900.0) & (FINE < 11200.0)


@pytest.fixture(scope="module")
def templates():
    return GalaxyTemplates.load()


@pytest.fixture(scope="module")
def second():
    return single_age_templates()


@pytest.fixture(scope="module")
def families(templates, second):
    return {"kcorrect": templates, "single_age": second}


@pytest.fixture(scope="module")
def real(families):
    return {name: real_galaxies(family) for name, family in families.items()}


both = pytest.mark.parametrize("family", ["kcorrect", "single_age"])

# ------------------------------------------------------------------------------------------------ templates


@both
def test_templates_have_one_nanomaggy_in_r(families, family):
    spectra = families[family].spectra(FINE, np.zeros(5), np.eye(5))
    np.testing.assert_allclose(spectra @ band_weights(["sdss2010-r"], FINE), 1, rtol=1e-3)


@both
@pytest.mark.parametrize("z", [0.0, 0.0523, 0.31, 0.7771, 1.1])
def test_table_of_fluxes_is_the_integral_of_the_spectra(families, family, z):
    """At redshifts between those of the table, on a grid eight times finer, in all bands of all surveys."""
    filters = [name for survey in SURVEYS.values() for name in survey.filters]
    spectra = families[family].spectra(FINE[OUTSIDE], np.full(5, z), np.eye(5))
    expected = spectra @ band_weights(filters, FINE[OUTSIDE])
    np.testing.assert_allclose(families[family].band_table(filters)(z), expected, rtol=5e-3)


def test_redshift_stretches_a_line_and_keeps_its_energy():
    """A line at 5,000 Angstrom of unit flux: (1 + z) longer, (1 + z) lower, the same integral."""
    wavelength = np.arange(3000.0, 9000.0, 0.5)
    line = np.exp(-0.5 * ((wavelength - 5000) / 10) ** 2) / (10 * np.sqrt(2 * np.pi))
    one = GalaxyTemplates(wavelength, line[None])
    grid = np.arange(4000.0, 8000.0, 0.5)
    observed = one.spectra(grid, np.array([0.0, 0.2, 0.5]), np.ones((3, 1)))
    np.testing.assert_allclose(grid[observed.argmax(1)], [5000, 6000, 7500])
    np.testing.assert_allclose(observed.sum(1) * 0.5, 1, rtol=1e-6)
    np.testing.assert_allclose(observed.max(1) * [1, 1.2, 1.5], observed[0].max(), rtol=1e-3)


def test_spectra_are_sums_of_templates(templates):
    rng = np.random.default_rng(0)
    mixtures = rng.exponential(size=(3, 5))
    z = np.array([0.1, 0.1, 0.4])
    expected = [
        m @ templates.spectra(FINE[::40], np.full(5, v), np.eye(5)) for m, v in zip(mixtures, z, strict=True)
    ]
    np.testing.assert_allclose(templates.spectra(FINE[::40], z, mixtures), expected, rtol=1e-9)


def test_no_flux_beyond_the_redshifts_of_the_table(templates):
    table = templates.band_table(SDSS.filters)
    assert np.isfinite(table([0.0, 1.6])).all() and np.isnan(table([-0.01, 1.61])).all()


def test_a_young_template_is_blue_and_an_old_one_red(templates, second):
    assert templates.redness.max() > 0.7 and templates.redness.min() < 0.1
    # The oldest of the single-age populations, 10 Gyr and rich in metals, is as red as a giant elliptical.
    assert second.redness.argmin() == [age for _, age, _ in POPULATIONS].index(0.025)
    assert 0.7 < second.redness[0] < 1.0


def test_distances_of_the_concordance_cosmology():
    """Hubble's law where it holds, and the integral of the expansion beyond."""
    hubble = 5 * np.log10(0.001 * 299_792.458 / 70) + 25
    assert distance_modulus(np.array([0.001]))[0] == pytest.approx(hubble, abs=0.003)
    comoving = quad(lambda z: 299_792.458 / 70 / np.sqrt(0.3 * (1 + z) ** 3 + 0.7), 0, 0.7)[0]
    assert distance_modulus(0.7) == pytest.approx(5 * np.log10(1.7 * comoving) + 25, abs=1e-3)


# ----------------------------------------------------------------------------------------------------- fits


@both
def test_coefficients_of_synthetic_fluxes_are_recovered(families, family):
    family = families[family]
    rng = np.random.default_rng(1)
    z = rng.uniform(0.02, 0.4, 50)
    mixtures = rng.exponential(size=(50, 5)) * (rng.random((50, 5)) < 0.6)
    flux = np.einsum("nt,ntb->nb", mixtures, family.band_table(SDSS.filters)(z))
    flux = flux / 10 ** (0.4 * np.array(SDSS.zero_point))
    fitted = fit_coefficients(family, z, flux, (1e4 / np.maximum(flux, 1e-3)) ** 2)
    assert (fitted >= 0).all()
    np.testing.assert_allclose(fitted, mixtures, atol=0.02 * mixtures.sum(1).max())
    brightness = np.einsum("nt,ntb->nb", fitted, family.band_table(SDSS.filters)(z))
    np.testing.assert_allclose(brightness / 10 ** (0.4 * np.array(SDSS.zero_point)), flux, rtol=1e-4)


def test_a_band_without_inverse_variance_is_left_aside(templates):
    z, mixture = np.array([0.1]), np.array([[0.0, 0.3, 0.0, 1.0, 0.0]])
    to_survey = 10 ** (-0.4 * np.array(SDSS.zero_point))
    flux = np.einsum("nt,ntb->nb", mixture, templates.band_table(SDSS.filters)(z)) * to_survey
    ivar = 1e6 / flux**2
    flux[0, 0], ivar[0, 0] = 50 * flux[0, 0], 0.0
    fitted = np.einsum(
        "nt,ntb->nb", fit_coefficients(templates, z, flux, ivar), templates.band_table(SDSS.filters)(z)
    )
    np.testing.assert_allclose((fitted * to_survey)[0, 1:], flux[0, 1:], rtol=0.02)


def test_main_family_follows_the_real_galaxies_in_gri(real):
    table = real["kcorrect"]
    assert len(table) > 9800
    for low, high in pairwise(Z_EDGES):
        part = table[(table["z"] > low) & (table["z"] <= high)]
        assert len(part) > 300
        assert (part[["fit_g", "fit_r", "fit_i"]].median().abs() < 0.03).all(), (low, high)


def test_second_family_follows_the_real_galaxies_in_r(real):
    table = real["single_age"]
    assert len(table) > 9800
    for low, high in pairwise(Z_EDGES):
        part = table[(table["z"] > low) & (table["z"] <= high)]
        assert part["fit_r"].abs().median() < 0.03 and part["fit_g"].abs().median() < 0.05, (low, high)


def test_residuals_are_observed_minus_fitted(real, templates):
    """From the file itself, with SDSS's own offset from AB in u."""
    table = real["kcorrect"].iloc[::500]
    with fits.open(sdss_galaxies()) as hdus:
        data = hdus[1].data
        row = [int(np.flatnonzero(np.asarray(data["Z"], dtype=float) == z)[0]) for z in table["z"]]
        flux, ivar = deredden(*(data[n][row] for n in ("MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION")))
    assert (ivar > 0).all()
    coefficients = table[[f"c{t}" for t in range(5)]].to_numpy()
    for z, mixture, observed, galaxy in zip(table["z"], coefficients, flux, table.itertuples(), strict=True):
        model = templates.spectra(FINE, np.array([z]), mixture[None]) @ band_weights(SDSS.filters, FINE)
        residual = -2.5 * np.log10(observed / model[0]) - np.array(SDSS.zero_point)
        expected = [galaxy.fit_u, galaxy.fit_g, galaxy.fit_r, galaxy.fit_i, galaxy.fit_z]
        np.testing.assert_allclose(residual, expected, atol=0.003)


def test_real_galaxies_have_the_luminosities_and_colours_of_the_main_sample(real):
    """M* in r is -21.2 for h = 0.7 (Blanton et al. 2003, ApJ 592, 819); those of r = 16.7 are brighter."""
    table = real["kcorrect"]
    assert -22.2 < table["abs_mag"].median() < -21.3
    early, late = table[table["rest_gr"] > 0.66], table[table["rest_gr"] < 0.6]
    assert early["rest_gr"].median() == pytest.approx(0.77, abs=0.05)
    assert late["rest_gr"].median() == pytest.approx(0.45, abs=0.1)
    assert early["abs_mag"].median() < late["abs_mag"].median() - 0.3


@both
def test_luminosity_is_what_the_coefficients_say(real, families, family):
    """The flux at 10 parsec without redshift, from the definition."""
    table = real[family].iloc[::1000]
    coefficients = table[[f"c{t}" for t in range(5)]].to_numpy()
    r_flux = families[family].spectra(FINE, np.zeros(len(table)), coefficients) @ band_weights(
        ["sdss2010-r"], FINE
    )
    distance = COSMOLOGY.luminosity_distance(table["z"].to_numpy()).to_value("pc")
    expected = 22.5 - 2.5 * np.log10(r_flux[:, 0] * (distance / 10) ** 2)
    np.testing.assert_allclose(table["abs_mag"], expected, atol=0.002)


# ------------------------------------------------------------------------------------------- second family


@pytest.mark.parametrize("end", [3327.0, 9294.0])
def test_spectra_of_the_second_family_are_continuous_at_the_joins(second, end):
    """The mean of 100 Angstrom on either side differs no more than neighbouring 100 Angstrom do within."""

    def jump(at, row):
        sides = [(second.wavelength > a) & (second.wavelength < a + 100) for a in (at - 100, at)]
        low, high = (row[side].mean() for side in sides)
        return abs(high / low - 1)

    for row in second.flux:
        within = max(jump(end + sign * step, row) for sign in (-1, 1) for step in (150, 250))
        assert jump(end, row) < within + 0.06


def test_second_family_keeps_the_model_spectra_in_vacuum(second):
    """The H and K lines and the sodium doublet of the oldest population at their vacuum wavelengths."""
    for line, half in ((3969.59, 10.0), (3934.78, 10.0), (5894.57, 12.0)):
        inside = np.abs(second.wavelength - line) < half
        x, y = second.wavelength[inside], second.flux[0, inside]
        depth = 1 - y / np.interp(x, [x[0], x[-1]], [y[0], y[-1]])
        assert np.average(x, weights=depth) == pytest.approx(line, abs=1.0)


def test_attenuation_is_that_of_calzetti():
    """k(V) = 4.05 by definition, to the accuracy of the polynomial; E(B-V) = A(B) - A(V)."""
    v, b = attenuation(np.array([5500.0, 4400.0]))
    assert v == pytest.approx(1, abs=0.01) and (b - v) * 4.05 == pytest.approx(1, abs=0.05)
    assert (np.diff(attenuation(np.arange(1200.0, 20000.0, 10.0))) < 0.01).all()
    assert (attenuation(np.array([500.0, 1e5])) >= 0).all()
    # The two halves of the curve meet at 6,300 Angstrom.
    assert attenuation(np.array([6299.9]))[0] == pytest.approx(attenuation(np.array([6300.1]))[0], rel=0.02)


# --------------------------------------------------------------------------------------------- bulge, disc


def mixtures_of(real, n=2000):
    table = real["kcorrect"].iloc[:: len(real["kcorrect"]) // n][:n]
    return table[[f"c{t}" for t in range(5)]].to_numpy()


def test_bulge_has_its_share_of_the_light_where_it_can(real, templates):
    coefficients = mixtures_of(real)
    fraction = np.random.default_rng(2).uniform(0, 1, len(coefficients))
    inner = bulge_mixtures(coefficients, fraction, templates.redness)
    assert (inner >= 0).all() and (inner <= coefficients * (1 + 1e-12)).all()
    share = inner.sum(1) / coefficients.sum(1)
    red = coefficients[:, templates.redness > 0.5].sum(1) / coefficients.sum(1)
    # All red light and three tenths of its share of the blue: more cannot be in a bulge.
    possible = fraction * (1 - 0.3 * (1 - red)) <= red
    assert 0.5 < possible.mean() < 1
    np.testing.assert_allclose(share[possible], fraction[possible], rtol=1e-9)
    assert (share[~possible] < fraction[~possible]).all()


def test_no_bulge_and_nothing_but_a_bulge():
    redness = np.array([0.8, 0.1])
    np.testing.assert_allclose(bulge_mixtures(np.array([[2.0, 1.0]]), np.zeros(1), redness), 0)
    np.testing.assert_allclose(bulge_mixtures(np.array([[3.0, 0.0]]), np.ones(1), redness), [[3.0, 0.0]])
    blue = bulge_mixtures(np.array([[0.0, 2.0]]), np.array([0.5]), redness)
    assert np.isfinite(blue).all() and blue[0, 0] == 0


@pytest.fixture(scope="module")
def seds():
    return load_seds()


@pytest.fixture(scope="module")
def galaxies(seds):
    rng = np.random.default_rng(3)
    table = seds.real.iloc[rng.choice(len(seds.real), 300)].reset_index(drop=True)
    return table.assign(**{"class": "GALAXY", "bulge_fraction": rng.uniform(0.05, 0.95, 300)})


@pytest.fixture(scope="module")
def stars(seds):
    rng = np.random.default_rng(4)
    rows = rng.choice(len(seds.stars), 40)
    return pd.DataFrame(
        {"class": "STAR", "z": 0.0, "r_mag": rng.uniform(15, 22, 40), "star": rows, "tilt": 0.0, "curve": 0.0}
    )


@pytest.mark.parametrize("survey", SURVEYS.values(), ids=SURVEYS)
def test_bulge_and_disc_add_up_to_the_whole_spectrum(seds, galaxies, survey):
    point, bulge, disc = component_fluxes(galaxies, survey, seds, np.zeros(len(galaxies)))
    assert not point.any() and (bulge >= 0).all() and (disc >= 0).all()
    grid = FINE[OUTSIDE][::4]
    whole = source_spectra(galaxies, grid, seds) @ band_weights(survey.filters, grid)
    total = (bulge + disc) * 10 ** (0.4 * np.array(survey.zero_point))
    np.testing.assert_allclose(total, whole, rtol=3e-3)


def test_most_bulges_are_redder_than_their_discs(seds, galaxies):
    _, bulge, disc = component_fluxes(galaxies, SDSS, seds, np.zeros(len(galaxies)))
    both = (bulge[:, 2] > 0) & (disc[:, 2] > 0)
    inner, outer = (-2.5 * np.log10(part[both, 1] / part[both, 2]) for part in (bulge, disc))
    # A galaxy of red templates alone has no gradient.
    assert (inner - outer > -1e-6).mean() > 0.9 and (inner - outer > 0.01).mean() > 0.7
    assert 0.02 < np.median(inner - outer) < 0.5


def test_dust_and_zero_points_dim_every_component_as_stated(seds, galaxies, stars):
    table = pd.concat([galaxies.iloc[:20], stars], ignore_index=True)
    ebv = np.linspace(0, 0.3, len(table))
    clear = component_fluxes(table, SDSS, seds, np.zeros(len(table)))
    behind = component_fluxes(table, SDSS, seds, ebv)
    for above, below in zip(clear, behind, strict=True):
        lit = above > 0
        magnitudes = -2.5 * np.log10(below[lit] / above[lit])
        np.testing.assert_allclose(magnitudes, (ebv[:, None] * SDSS.extinction)[lit], rtol=1e-9, atol=1e-12)
    # Of an AB source the u magnitude of SDSS is 0.04 fainter: the survey's own flux is lower.
    grid = np.arange(2900.0, 11200.0, 1.0)
    ab = source_spectra(stars, grid, seds) @ band_weights(SDSS.filters, grid)
    offset = -2.5 * np.log10(clear[0][20:] / ab)
    np.testing.assert_allclose(offset, np.broadcast_to([0.04, 0, 0, 0, -0.02], offset.shape), atol=1e-3)


def test_objects_have_the_r_magnitude_that_the_table_says(seds, stars):
    point, bulge, disc = component_fluxes(stars, SDSS, seds, np.zeros(len(stars)))
    assert not bulge.any() and not disc.any()
    np.testing.assert_allclose(22.5 - 2.5 * np.log10(point[:, 2]), stars["r_mag"], atol=2e-3)


def test_one_star_is_the_same_star_in_every_survey(seds, stars):
    """Bands of nearly the same wavelength agree; the rest follows from one spectrum."""
    ebv = np.zeros(len(stars))
    fluxes = {survey.name: component_fluxes(stars, survey, seds, ebv)[0] for survey in SURVEYS.values()}
    bluer_than_m = -2.5 * np.log10(fluxes["sdss"][:, 1] / fluxes["sdss"][:, 2]) < 1.0
    assert bluer_than_m.sum() > 5
    for name, band in (("legacy", LEGACY.index), ("panstarrs", PANSTARRS.index)):
        difference = -2.5 * np.log10(fluxes[name][:, band] / fluxes["sdss"][:, 2])
        assert np.abs(difference[bluer_than_m]).max() < 0.12


def test_no_two_stars_are_alike_and_r_stays():
    tilt, curve = np.random.default_rng(5).standard_normal((2, 4000))
    factors = perturbation(np.array([4700.0, 6200.0, 7500.0]), tilt, curve)
    np.testing.assert_allclose(factors[:, 1], 1)
    g_i = -2.5 * np.log10(factors[:, 0] / factors[:, 2])
    assert g_i.std() == pytest.approx(0.02, rel=0.1), "the width of the stellar locus in g - i"


def test_tilted_stars_have_tilted_fluxes(seds, stars):
    """Photometry takes the tilt at the middle of a band, spectra at every wavelength."""
    table = stars.assign(tilt=2.0, curve=-1.5)
    grid = np.arange(2900.0, 11200.0, 1.0)
    expected = source_spectra(table, grid, seds) @ band_weights(SDSS.filters, grid)
    expected /= 10 ** (0.4 * np.array(SDSS.zero_point))
    point = component_fluxes(table, SDSS, seds, np.zeros(len(table)))[0]
    np.testing.assert_allclose(point, expected, rtol=0.02)


def test_families_differ_in_their_templates_alone(seds):
    other = load_seds("single_age")
    assert isinstance(other, Seds) and len(other.stars) == len(seds.stars)
    assert not np.allclose(other.templates.flux, seds.templates.flux)
    np.testing.assert_array_equal(other.templates.wavelength, seds.templates.wavelength)
