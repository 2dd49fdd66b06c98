"""Simulated spectra: light is conserved, lines are as wide as stated, noise is what the ivar says."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from astro_utils.frames import load_fits
from astro_utils.registry import locate
from astro_utils.sky import noise_tables
from astro_utils.sky.fibres import SFD_SCALE, fibre_share, transmission
from astro_utils.sky.noise_tables import noise_table
from astro_utils.sky.population import SPECTROSCOPIC, draw_population
from astro_utils.sky.seds import load_seds, source_spectra
from astro_utils.sky.spectra import DESI, SDSS, SPECTROGRAPHS, Projector, observe, observe_objects
from astro_utils.spectra_files import DESI_WAVELENGTH, sdss_spectra_block

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with desi and sdss_spectra",
)
COADDS = ["desi/coadd-4-80613-thru20210324.fits", "desi/coadd-special-dark-27247.fits"]
SPECS = [
    f"sdss_spectra/spec-{name}.fits"
    for name in (
        "0528-52022-0137",
        "1039-52707-0207",
        "2095-53474-0355",
        "2515-54180-0377",
        "2618-54506-0310",
    )
]
GRID = np.arange(3500.0, 10000.0, 1.0)
both = pytest.mark.parametrize("spectrograph", SPECTROGRAPHS.values(), ids=list(SPECTROGRAPHS))


@pytest.fixture(scope="module")
def seds():
    return load_seds()


@pytest.fixture(scope="module")
def objects(seds):
    table = draw_population(SPECTROSCOPIC, 300, np.random.default_rng(5), seds)
    return table.assign(ebv=0.05)


# --------------------------------------------------------------------------------------------------- pixels


def test_desi_has_the_pixels_of_the_survey():
    assert len(DESI.wavelength) == 7781
    np.testing.assert_allclose(DESI.wavelength, DESI_WAVELENGTH, rtol=1e-13)
    assert DESI.wavelength[-1] == pytest.approx(9824.0)
    np.testing.assert_allclose(np.diff(DESI.edges), 0.8, rtol=1e-9)


def test_sdss_has_all_pixels_of_the_survey_between_its_limits():
    number = (np.log10(SDSS.wavelength) - 3.5) / 1e-4
    np.testing.assert_allclose(number, np.rint(number), atol=1e-6)
    assert (np.diff(np.rint(number)) == 1).all()
    first, last = SDSS.wavelength[[0, -1]]
    assert first >= 3800 > first / 10**1e-4 and last <= 9200 < last * 10**1e-4


@both
def test_tables_are_of_the_pixels(spectrograph):
    table = spectrograph.properties
    assert (table[["noise", "sigma", "counts"]] > 0).all().all()
    # Resolving powers: DESI 2,000 to 5,500, SDSS 1,500 to 2,500 (both for the FWHM).
    power = table["wavelength"] / (2.3548 * np.hypot(table["sigma"], np.diff(spectrograph.edges) / 12**0.5))
    low, high = {"desi": (2000, 5600), "sdss": (1200, 3000)}[spectrograph.name]
    assert power.between(low, high).all()
    assert spectrograph.table_path.stat().st_size < 300_000
    other = replace(spectrograph, n_pixels=spectrograph.n_pixels - 1)
    with pytest.raises(ValueError, match=f"{spectrograph.name}_noise.ecsv.*rows; expected the"):
        _ = other.properties


# ----------------------------------------------------------------------------------------------- projection


@both
@pytest.mark.parametrize("centre", [4000.0, 5777.0, 6563.0, 9000.0])
def test_light_of_a_line_is_conserved_and_its_width_is_as_stated(spectrograph, centre):
    line = np.where(GRID == centre, 100.0, 0.0)
    out = Projector(GRID, spectrograph)(line[None])[0]
    pixel, wavelength = np.diff(spectrograph.edges), spectrograph.wavelength
    light = out * pixel
    assert light.sum() == pytest.approx(100.0, rel=1e-4)
    mean = (light * wavelength).sum() / light.sum()
    assert mean == pytest.approx(centre, abs=0.01)
    variance = (light * (wavelength - mean) ** 2).sum() / light.sum()
    table = spectrograph.properties
    sigma = np.interp(centre, table["wavelength"], table["sigma"])
    step = np.interp(centre, wavelength, pixel)
    assert variance == pytest.approx(sigma**2 + step**2 / 12, rel=0.005)


@both
def test_a_broad_line_gains_the_variance_of_the_instrument(spectrograph):
    line = np.exp(-0.5 * ((GRID - 7000.3) / 4.0) ** 2)
    out = Projector(GRID, spectrograph)(line[None])[0]
    light = out * np.diff(spectrograph.edges)
    assert light.sum() == pytest.approx(line.sum(), rel=1e-4)
    mean = (light * spectrograph.wavelength).sum() / light.sum()
    variance = (light * (spectrograph.wavelength - mean) ** 2).sum() / light.sum()
    sigma = np.interp(7000.3, *spectrograph.properties[["wavelength", "sigma"]].to_numpy().T)
    step = np.interp(7000.3, spectrograph.wavelength, np.diff(spectrograph.edges))
    assert variance == pytest.approx(16 + sigma**2 + step**2 / 12, rel=0.002)


@both
def test_flat_and_straight_spectra_stay_as_they_are(spectrograph):
    out = Projector(GRID, spectrograph)(np.array([np.ones_like(GRID), GRID]))
    for deviation in (out[0] - 1, out[1] / spectrograph.wavelength - 1):
        # The resolution changes along the spectrum, at the ends of the table most abruptly.
        assert np.abs(deviation).max() < 1.5e-3
        assert np.percentile(np.abs(deviation), 99) < 1e-4


def test_projection_works_on_logarithmic_grids():
    grid = np.geomspace(3500.0, 10000.0, 12_000)
    out = Projector(grid, DESI)(np.ones((1, len(grid))))
    np.testing.assert_allclose(out, 1.0, atol=1e-3)


def test_grids_that_cannot_serve_are_refused():
    with pytest.raises(ValueError, match=r"covers 3799.5 to .*desi needs 3595.* to 98"):
        Projector(np.arange(3800.0, 10000.0), DESI)
    with pytest.raises(ValueError, match="sdss needs"):
        Projector(np.arange(3500.0, 9200.0), SDSS)
    with pytest.raises(ValueError, match=r"steps of 4.00 Angstrom at .*expected at most"):
        Projector(np.arange(3500.0, 10000.0, 4.0), DESI)
    with pytest.raises(ValueError, match="does not increase"):
        Projector(GRID[::-1], DESI)
    with pytest.raises(ValueError, match=r"shape \(6500,\); expected \(N, 6500\)"):
        Projector(GRID, DESI)(np.ones_like(GRID))
    bad = np.ones((3, len(GRID)))
    bad[1, 7] = np.nan
    with pytest.raises(ValueError, match="spectrum 1 has values that are not finite"):
        Projector(GRID, DESI)(bad)


# ---------------------------------------------------------------------------------------------------- noise


@both
@pytest.mark.parametrize("level", [0.0, 50.0])
def test_pulls_are_unit_normal(spectrograph, level):
    flux = np.full((20, len(GRID)), level)
    taken = observe(GRID, flux, spectrograph, np.random.default_rng(1), np.linspace(0.5, 2, 20))
    assert taken.flux.dtype == taken.ivar.dtype == np.float32 and taken.flux.shape == taken.ivar.shape
    expected = Projector(GRID, spectrograph)(flux)
    pull = (taken.flux - expected) * np.sqrt(taken.ivar)
    assert abs(pull.mean()) < 0.05 and abs(pull.std() - 1) < 0.05
    assert (abs(pull.std(axis=1) - 1) < 0.05).all()


def test_variance_is_of_sky_and_source_and_falls_with_exposure():
    flux = np.repeat([[0.0], [0.0], [30.0]], len(GRID), axis=1)
    taken = observe(GRID, flux, DESI, np.random.default_rng(2), np.array([1.0, 4.0, 1.0]))
    sky = DESI.properties["noise"].to_numpy() ** 2
    np.testing.assert_allclose(1 / taken.ivar[0], sky, rtol=1e-5)
    np.testing.assert_allclose(taken.ivar[1], 4 * taken.ivar[0], rtol=1e-5)
    source = 30.0 / DESI.properties["counts"]
    np.testing.assert_allclose(1 / taken.ivar[2], sky + source, rtol=1e-3)
    for exposure in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"exposure is .*expected more than 0"):
            observe(GRID, flux, DESI, np.random.default_rng(2), exposure)


# --------------------------------------------------------------------------------------------- dust and fibre


def test_extinction_is_that_of_the_published_curve():
    wavelength = np.array([4000.0, 5500.0, 9000.0])
    magnitudes = -2.5 * np.log10(transmission(wavelength, np.array([0.0, 0.1, 0.3])))
    np.testing.assert_allclose(magnitudes[0], 0.0)
    np.testing.assert_allclose(magnitudes[2], 3 * magnitudes[1])
    # R_V is the ratio for the whole V band; at 5,500 Angstrom the curve is 2.2 % lower.
    assert magnitudes[1, 1] == pytest.approx(0.31, rel=0.025)
    # Fitzpatrick 1999, table 3.
    table = -2.5 * np.log10(transmission(np.array([4110.0, 4670.0, 5470.0, 12200.0]), np.ones(1)))[0]
    np.testing.assert_allclose(table, [4.315, 3.806, 3.055, 0.829], rtol=1e-3)
    with pytest.raises(ValueError, match=r"ebv is -0\.1; expected 0 or more"):
        transmission(wavelength, np.array([0.1, -0.1]))


def test_light_of_points_in_a_fibre_is_that_of_the_seeing():
    scale = 0.65 / np.sqrt(2 ** (1 / 3.5) - 1)
    for fibre in (1.5, 3.0):
        exact = 1 - (1 + (fibre / 2 / scale) ** 2) ** -2.5
        assert fibre_share(np.zeros(1), fibre)[0] == pytest.approx(exact, abs=0.003)


@pytest.mark.parametrize(("profile", "n", "b"), [("exponential", 1, 1.67835), ("de Vaucouleurs", 4, 7.66925)])
def test_light_of_galaxies_in_a_fibre_is_that_of_their_profile(profile, n, b):
    radius = np.array([0.5, 1.0, 3.0])
    assert fibre_share(radius, 2.0, profile, seeing=1e-3)[1] == pytest.approx(0.5, abs=0.003)
    share = fibre_share(radius, 3.0, profile)
    assert (np.diff(share) < 0).all()
    # By drawing photons: a radius from the profile, a Gaussian offset from a Moffat's mixture.
    rng = np.random.default_rng(3)
    r = 1.0 * (rng.gamma(2 * n, 1, 200_000) / b) ** n
    scale = 0.65 / np.sqrt(2 ** (1 / 3.5) - 1)
    s = scale * np.sqrt((1 - rng.random(200_000)) ** (-1 / 2.5) - 1)
    angle = rng.uniform(0, 2 * np.pi, 200_000)
    inside = r**2 + s**2 + 2 * r * s * np.cos(angle) < 1.5**2
    assert share[1] == pytest.approx(inside.mean(), abs=0.005)


def test_impossible_sources_are_refused():
    with pytest.raises(ValueError, match="no profile 'disc'; expected one of exponential, de Vaucouleurs"):
        fibre_share(np.ones(1), 3.0, "disc")
    with pytest.raises(ValueError, match="radius is nan"):
        fibre_share(np.array([1.0, np.nan]), 3.0)


# -------------------------------------------------------------------------------------------------- objects


def test_the_same_seed_gives_the_same_bytes_whatever_the_chunk(objects, seds):
    def take(seed, chunk=256):
        return observe_objects(objects[:40], "sdss", seds, np.random.default_rng(seed), chunk)

    first, again, chunked, other = take(1), take(1), take(1, 7), take(2)
    assert first.flux.tobytes() == again.flux.tobytes() and first.ivar.tobytes() == again.ivar.tobytes()
    np.testing.assert_allclose(chunked.flux, first.flux, rtol=1e-5, atol=1e-4)
    assert (first.flux != other.flux).mean() > 0.99
    assert first.flux.shape == (40, 3840) and np.isfinite(first.flux).all() and (first.ivar > 0).all()


def test_spectra_are_dimmed_by_dust_and_by_the_fibre(objects, seds):
    table = objects[objects["class"] == "GALAXY"].nsmallest(20, "r_mag").reset_index(drop=True)
    red = (DESI.wavelength > 6000) & (DESI.wavelength < 7000)

    def light(rows):
        taken = observe_objects(rows, "desi", seds, np.random.default_rng(4))
        return taken.flux[:, red].mean(1)

    clear = light(table.assign(ebv=0.0))
    middle = np.array([6500.0])
    dimming = transmission(middle, np.array([SFD_SCALE * 0.3]))[0, 0]
    np.testing.assert_allclose(light(table.assign(ebv=0.3)) / clear, dimming, rtol=0.03)
    small = light(table.assign(ebv=0.0, bulge_radius=0.0, disc_radius=0.0))
    full = source_spectra(table, DESI.wavelength[red], seds).mean(1)
    np.testing.assert_allclose(small, full, rtol=0.03)  # on the scale of points
    assert (clear < small).all()


def test_exposures_scatter_by_a_fifth(objects, seds):
    stars = pd.concat([objects[objects["class"] == "STAR"].nlargest(1, "r_mag")] * 200, ignore_index=True)
    taken = observe_objects(stars, "sdss", seds, np.random.default_rng(6))
    assert np.log(taken.ivar[:, 1000]).std() == pytest.approx(0.2, abs=0.03)


def bright(objects, n, by):
    """Galaxies of the smallest values of a column, each a hundred times brighter."""
    table = objects[(objects["class"] == "GALAXY") & objects["z"].between(0.03, 0.38)]
    table = table.nsmallest(n, by).copy()
    table[[f"c{t}" for t in range(5)]] *= 100
    return table


def test_lines_show_where_the_redshift_says(objects, seds):
    table = bright(objects, 20, "rest_gr")
    taken = observe_objects(table, "sdss", seds, np.random.default_rng(7))
    n_lines = 0
    for row, (flux, ivar, z) in enumerate(zip(taken.flux, taken.ivar, table["z"], strict=True)):
        true = source_spectra(table.iloc[[row]], 6563 * (1 + z) + np.arange(-80.0, 80.0), seds)[0]
        if true.max() < 2 * np.median(true):
            continue  # its mixture has no young stars
        n_lines += 1
        rest = SDSS.wavelength / (1 + z)
        window = abs(rest - 6563) < 60
        excess = ((flux - np.median(flux[window])) * np.sqrt(ivar))[window]
        assert abs(rest[window][np.argmax(excess)] - 6563.5) < 4.0
    assert n_lines >= 5


def test_breaks_show_where_the_redshift_says(objects, seds):
    table = bright(objects.assign(blueness=-objects["rest_gr"]), 10, "blueness")
    taken = observe_objects(table, "desi", seds, np.random.default_rng(8))
    shifts = np.linspace(-0.06, 0.06, 25)
    for flux, z in zip(taken.flux, table["z"], strict=True):
        # The break at 4,000 Angstrom: mean flux above over mean flux below, after Balogh et al. 1999.
        steps = []
        for shift in shifts:
            rest = DESI.wavelength / (1 + z) / (1 + shift)
            above, below = ((rest > low) & (rest < low + 100) for low in (4000, 3850))
            steps.append(flux[above].mean() / flux[below].mean())
        assert max(steps) > 1.3
        assert abs(shifts[np.argmax(steps)]) < 0.012


def test_bad_calls_are_refused(objects, seds):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no spectrograph 'boss'; expected one of desi, sdss"):
        observe_objects(objects, "boss", seds, rng)
    with pytest.raises(ValueError, match="lacks ebv, disc_radius"):
        observe_objects(objects.drop(columns=["ebv", "disc_radius"]), "desi", seds, rng)


# ------------------------------------------------------------------------------------------ real spectra


@needs_data
@pytest.mark.parametrize(("spectrograph", "files"), [(DESI, COADDS), (SDSS, SPECS)], ids=["desi", "sdss"])
def test_committed_tables_are_those_of_the_real_spectra(spectrograph, files):
    made = noise_table(spectrograph, [locate(file) for file in files])
    table = Table.read(spectrograph.table_path, format="ascii.ecsv")
    assert made.colnames == table.colnames and dict(made.meta) == dict(table.meta)
    for name in table.colnames:
        np.testing.assert_allclose(made[name], table[name], rtol=2e-3)


@needs_data
@pytest.mark.parametrize("file", COADDS)
def test_noise_is_that_of_real_desi_spectra(file):
    hdus = load_fits(locate(file))
    flux, ivar = np.zeros((2, 7781))
    for arm in "ZRB":
        pixel = np.rint((hdus[f"{arm}_WAVELENGTH"].data - 3600) / 0.8).astype(int)
        flux[pixel], ivar[pixel] = hdus[f"{arm}_FLUX"].data[0], hdus[f"{arm}_IVAR"].data[0]
    smooth = np.interp(GRID, DESI.wavelength, pd.Series(flux).rolling(101, 1, center=True).median())
    exposure = 12.15 * hdus["SCORES"].data["TSNR2_LRG"][0] / 1000
    taken = observe(GRID, smooth[None], DESI, np.random.default_rng(8), exposure)
    assert 0.5 < np.median(taken.ivar[0] / ivar) < 2


@needs_data
@pytest.mark.parametrize("file", SPECS)
def test_noise_is_that_of_real_sdss_spectra(file):
    path = locate(file)
    real = sdss_spectra_block([path], (3800, 9200)).spectra
    np.testing.assert_allclose(real.wavelength, SDSS.wavelength, rtol=1e-12)
    smooth = np.interp(GRID, SDSS.wavelength, pd.Series(real.flux[0]).rolling(101, 1, center=True).median())
    exposure = fits.getheader(path)["EXPTIME"] / 2700
    taken = observe(GRID, smooth[None], SDSS, np.random.default_rng(9), exposure)
    good = real.ivar[0] > 0
    ratio = np.median(taken.ivar[0][good] / real.ivar[0][good])
    assert 0.5 < ratio < 2


def test_sources_of_tables_are_checked(tmp_path):
    path = tmp_path / "coadd.fits"
    fits.HDUList([fits.PrimaryHDU()]).writeto(path)
    with pytest.raises(ValueError, match=r"coadd\.fits: no extension B_WAVELENGTH"):
        noise_table(DESI, [path])
    with pytest.raises(ValueError, match=r"coadd\.fits: no extension COADD"):
        noise_table(SDSS, [path])
    columns = [fits.Column("flux", "E", array=np.ones(3))]
    hdu = fits.BinTableHDU.from_columns(columns, name="COADD")
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(path, overwrite=True)
    with pytest.raises(ValueError, match="lacks and_mask, ivar, loglam, sky, wdisp"):
        noise_table(SDSS, [path])


def test_files_that_miss_a_pixel_are_refused():
    values = np.ones((2, SDSS.n_pixels))
    values[:, 5] = np.nan
    with pytest.raises(ValueError, match=r"no file has a good pixel at 3804.* one of 1 pixels of sdss"):
        noise_tables._covered(values, SDSS)
