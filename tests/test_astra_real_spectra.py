"""Real galaxy spectra, those of packages and of the data folder, and what a decoder holds of them."""

import os

import numpy as np
import pytest
from astropy.io import fits

from astro_utils.astra.grid import SDSS_GRID, synthetic_flux
from astro_utils.astra.real_spectra import RealGalaxies, explained, held_out, manga_spectra, real_galaxies
from astro_utils.samples import Spectra

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with sdss_spectra and desi",
)


@pytest.fixture(scope="module")
def packaged():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ASTRO_UTILS_DATA", raising=False)
        galaxies = real_galaxies()
    return galaxies.select(
        np.array(["SDSS, spec" not in name and "DESI" not in name for name in galaxies.name])
    )


def test_packages_hold_real_galaxies(packaged):
    assert len(packaged) == 11 and (packaged.signal_to_noise > 10).sum() == 10
    np.testing.assert_allclose(synthetic_flux(packaged.spectra, ["sdss2010-r"]), 1, rtol=1e-4)
    np.testing.assert_array_equal(packaged.spectra.wavelength, SDSS_GRID.wavelength)
    assert len(set(packaged.galaxy)) == 11 and 0.003 < packaged.z.min() and packaged.z.max() < 0.14


def test_sodium_and_magnesium_are_where_the_redshift_says(packaged):
    """Absorption at 5,176 (Mg b) and 5,894 Angstrom (Na D), which no reader put there."""
    old = packaged.select(packaged.signal_to_noise > 50)
    rest = SDSS_GRID.wavelength / (1 + old.z[:, None])
    for line in (5176.0, 5894.0):
        inside = np.abs(rest - line) < 12
        beside = (np.abs(rest - line) > 25) & (np.abs(rest - line) < 60)
        depth = [
            np.median(f[i]) / np.median(f[b])
            for f, i, b in zip(old.spectra.flux, inside, beside, strict=True)
        ]
        assert np.median(depth) < 0.95


def test_a_spectrum_that_was_not_seen_is_represented(packaged):
    good = packaged.select(packaged.signal_to_noise > 10)
    table = held_out(good, good.select(np.array([0, 1, 4])), n_components=3, lines=True)
    assert (table["explained"] > 0.9).all() and (table["explained_free"] >= table["explained"]).all()
    poor = held_out(good, good.select(np.array([4])), n_components=1)
    assert poor["explained"][0] < table["explained"][2] and poor["chi2"][0] > table["chi2"][2]


def test_the_tested_galaxy_is_left_out_of_the_fit(packaged, monkeypatch):
    from astro_utils.astra import real_spectra

    seen = []

    class Spy:
        @staticmethod
        def fit(spectra, z, n_components):
            seen.append(z)
            return original(spectra, z, n_components)

    original = real_spectra.RestFrameDecoder.fit
    monkeypatch.setattr(real_spectra, "RestFrameDecoder", Spy)
    good = packaged.select(packaged.signal_to_noise > 10)
    twice = RealGalaxies(
        good.spectra, good.z, good.name, np.where(np.arange(10) == 3, good.galaxy[2], good.galaxy)
    )
    held_out(twice, twice.select(np.array([2])), n_components=2)
    assert len(seen) == 1 and len(seen[0]) == 8 and not np.isin(twice.z[2:4], seen[0]).any()


def test_explained_variance_has_known_values():
    rng = np.random.default_rng(0)
    clean = np.sin(np.linspace(0, 20, 4000))[None].repeat(2, 0)
    sigma = 0.5
    spectra = Spectra(
        SDSS_GRID.wavelength, clean + sigma * rng.normal(size=clean.shape), np.full(clean.shape, 4.0)
    )
    raw, free = explained(spectra, clean)
    np.testing.assert_allclose(free, 1, atol=0.03)
    np.testing.assert_allclose(raw, 1 - 0.25 / 0.75, atol=0.03)
    np.testing.assert_allclose(explained(spectra, 0 * clean)[0], 0, atol=0.01)


def test_damaged_files_are_named(tmp_path):
    wave, flux = np.arange(3, dtype=float) + 4000, np.ones((2, 3), np.float32)

    def save(name, **arrays):
        hdus = [fits.ImageHDU(array, name=key) for key, array in arrays.items()]
        fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / name)
        return tmp_path / name

    whole = {
        "WAVE": wave,
        "FLUX": flux,
        "IVAR": flux,
        "MASK": np.array([[0, 1, 0], [0, 0, 0]]),
        "Z": np.ones(2),
    }
    spectra, z = manga_spectra(save("good.fits", **whole))
    np.testing.assert_array_equal(spectra.ivar, [[1, 0, 1], [1, 1, 1]])
    assert z.tolist() == [1, 1]
    with pytest.raises(ValueError, match=r"no_z\.fits: no extension Z"):
        manga_spectra(save("no_z.fits", **{key: array for key, array in whole.items() if key != "Z"}))
    with pytest.raises(ValueError, match=r"short\.fits: FLUX, IVAR, MASK are .*expected \(2, 3\)"):
        manga_spectra(save("short.fits", **(whole | {"IVAR": flux[:, :2]})))


@needs_data
def test_held_out_galaxies_of_three_surveys_are_represented():
    galaxies = real_galaxies()
    assert len(galaxies) == 18 and sum("SDSS" in name for name in galaxies.name) == 6
    good = galaxies.select(galaxies.signal_to_noise > 10)
    table = held_out(good, good.select(np.arange(0, 15, 3)), n_components=4, lines=True)
    assert len(good) == 15 and len(table) == 5 and (table["explained_free"] > 0.9).sum() >= 4
    assert table["explained"].median() > 0.97
