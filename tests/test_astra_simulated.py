"""Simulated SDSS galaxies for ASTRA: what is kept, physics of the spectra, and no field in two parts."""

import dataclasses

import astropy.units as u
import numpy as np
import pytest
from astra_sample import FIELD, SIZE, N, galaxies, sample_file
from dust_extinction.parameter_averages import F99
from speclite.filters import load_filter

from astro_utils.astra.grid import SDSS_GRID
from astro_utils.astra.simulated import (
    FILTERS,
    MAGNITUDE_LIMIT,
    MAX_REDSHIFT,
    read_galaxies,
    simulation,
    split,
)
from astro_utils.samples import Spectra, open_sample, write_sample
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.surveys import SDSS


def rewritten(path, edit):
    """Write the sample again with an edited block."""
    with open_sample(sample_file()) as sample:
        return write_sample(path, [edit(sample.block())], sample.info)


def by_id(some):
    return set(some.catalogue["object_id"])


def band_flux(wavelength, flux, name):
    """Photons counted in a band, nanomaggies, on a fine grid."""
    band = load_filter(name)
    fine = np.arange(band.wavelength[0], band.wavelength[-1], 1.0)
    response = np.interp(fine, band.wavelength, band.response)
    light = np.interp(fine, wavelength, flux) * 1e-17
    reference = 3.631e-29 * 2.99792458e18 / fine**2  # of one nanomaggy
    return np.trapezoid(light * response * fine, fine) / np.trapezoid(reference * response * fine, fine)


# --------------------------------------------------------------------------------------------------- reading


def test_the_simulation_is_of_sdss_images_and_spectra():
    made = simulation(640, 7)
    assert (made.survey, made.spectrograph, made.population) == ("sdss", "sdss", "main_galaxies")
    assert (made.n_objects, made.seed, made.size) == (640, 7, 64)
    assert simulation(640, 7, 32).size == 32


def test_what_is_read_is_what_was_written():
    found = galaxies()
    with open_sample(sample_file()) as sample:
        block = sample.block()
    rows = block.catalogue["object_id"].isin(by_id(found)).to_numpy()
    assert 0.9 * N < len(found) == rows.sum() < N
    np.testing.assert_array_equal(found.images, block.images[rows])
    assert found.images.shape[1:] == (5, SIZE, SIZE)
    np.testing.assert_array_equal(found.z, block.catalogue["z"][rows])
    np.testing.assert_array_equal(found.fields, block.catalogue["field"][rows])
    # An SDSS spectrum is on the study's grid as it is.
    np.testing.assert_allclose(found.raw.wavelength, SDSS_GRID.wavelength, rtol=1e-8)
    np.testing.assert_allclose(found.raw.flux, block.spectra.flux[rows], rtol=1e-6)
    np.testing.assert_allclose(found.raw.ivar, block.spectra.ivar[rows], rtol=1e-6)


def test_what_is_kept_is_the_main_sample_and_nothing_else(tmp_path):
    with open_sample(sample_file()) as sample:
        all_r = 22.5 - 2.5 * np.log10(sample.block().catalogue["petro_flux_r"])
    found = galaxies()
    assert (found.r < MAGNITUDE_LIMIT).all() and (found.z < MAX_REDSHIFT).all()
    ids = found.catalogue["object_id"].to_numpy()
    edits = {
        ids[0]: {"z": MAX_REDSHIFT},
        ids[1]: {"blank": True},
        ids[2]: {"petro_flux_r": 10 ** (0.4 * (22.5 - MAGNITUDE_LIMIT - 0.2)), "extinction_r": 0.15},
        ids[3]: {"petro_flux_r": 0.0},
        ids[4]: {"petro_flux_r": -3.0},
        ids[5]: {"model_flux_g": 0.0},
        ids[6]: {"model_flux_r": -1.0},
        ids[7]: {"model_flux_i": 0.0},
        # These stay: bright enough above the dust, within the redshifts, in a band that is not asked for.
        ids[10]: {"petro_flux_r": 10 ** (0.4 * (22.5 - MAGNITUDE_LIMIT - 0.1)), "extinction_r": 0.15},
        ids[11]: {"z": MAX_REDSHIFT - 1e-6},
        ids[12]: {"model_flux_u": -1.0},
        ids[13]: {"model_flux_z": -1.0},
    }

    def edit(block):
        table = block.catalogue.copy()
        for name, columns in edits.items():
            for column, value in columns.items():
                table.loc[table["object_id"] == name, column] = value
        ivar = block.spectra.ivar.copy()
        ivar[(table["object_id"] == ids[8]).to_numpy()] = 0
        spectra = Spectra(block.spectra.wavelength, block.spectra.flux, ivar)
        return dataclasses.replace(block, catalogue=table, spectra=spectra)

    again = read_galaxies(rewritten(tmp_path / "edited.h5", edit))
    assert by_id(found) - by_id(again) == set(ids[:9])
    assert by_id(again) < by_id(found)
    assert np.isfinite(again.photometry.features.values).all()
    assert (all_r > MAGNITUDE_LIMIT).any()  # there was something to leave out


def test_other_samples_are_refused_by_name(tmp_path):
    some = slice(0, 4)
    for name, made in {
        "other.h5": None,
        "legacy.h5": {"survey": "legacy"},
        "desi.h5": {"spectrograph": "desi"},
        "bare.h5": {"spectrograph": None},
    }.items():
        with open_sample(sample_file()) as sample:
            info, block = sample.info, sample.block(some)
        told = {"note": "observed"} if made is None else {"simulation": info.provenance["simulation"] | made}
        path = write_sample(tmp_path / name, [block], dataclasses.replace(info, provenance=told))
        expected = rf"{name}: expected a simulated sample of SDSS images with SDSS spectra"
        with pytest.raises(ValueError, match=expected):
            read_galaxies(path)


def test_rows_stay_together_under_selection():
    one = galaxies()
    rows = np.random.default_rng(0).permutation(len(one))[:40]
    some, masked = one.select(rows), one.select(np.isin(np.arange(len(one)), rows))
    assert len(some) == len(masked) == 40
    np.testing.assert_array_equal(masked.z, one.z[np.sort(rows)])
    for name in ("z", "r", "is_red", "fields", "images"):
        np.testing.assert_array_equal(getattr(some, name), getattr(one, name)[rows])
    for name in ("raw", "spectra"):
        np.testing.assert_array_equal(getattr(some, name).flux, getattr(one, name).flux[rows])
        np.testing.assert_array_equal(getattr(some, name).ivar, getattr(one, name).ivar[rows])
    np.testing.assert_array_equal(some.photometry.flux, one.photometry.flux[rows])
    np.testing.assert_array_equal(some.photometry.features.values, one.photometry.features.values[rows])
    for a, b in zip(some.ugriz, one.ugriz, strict=True):
        np.testing.assert_array_equal(a, b[rows])


# --------------------------------------------------------------------------------------------------- spectra


def test_spectra_have_one_nanomaggy_in_r():
    one = galaxies()
    found = [band_flux(one.spectra.wavelength, flux, "sdss2010-r") for flux in one.spectra.flux[:20]]
    np.testing.assert_allclose(found, 1, rtol=2e-3)


def test_dust_is_taken_off_the_spectra():
    one = galaxies()
    ebv = one.catalogue["extinction_r"].to_numpy() / 2.285  # as dust maps say, which err
    wavelength = one.raw.wavelength
    curve = F99(Rv=3.1)(wavelength[[100, 3700]] * u.AA)  # A(lambda) / A(V)
    expected = 10 ** (0.4 * 3.1 * 0.86 * ebv * (curve[0] - curve[1]))
    above, behind = (s.flux[:, 100].astype(float) / s.flux[:, 3700] for s in (one.spectra, one.raw))
    assert ebv.max() > 0.05 and (expected > 1.005).all()  # bluer without dust
    np.testing.assert_allclose(above / behind, expected, rtol=2e-3)


def test_noise_grows_with_the_flux():
    """Signal to noise of a pixel stays what it was."""
    one = galaxies()
    np.testing.assert_allclose(
        one.spectra.flux * np.sqrt(one.spectra.ivar), one.raw.flux * np.sqrt(one.raw.ivar), rtol=1e-4
    )


def test_spectra_have_the_colours_of_the_images():
    one = galaxies()
    for column, name in ((0, FILTERS[0]), (2, FILTERS[2])):
        synthetic = [band_flux(one.spectra.wavelength, flux, name) for flux in one.spectra.flux]
        catalogue = one.photometry.flux[:, column] / one.photometry.flux[:, 1]
        assert np.median(synthetic / catalogue) == pytest.approx(1, abs=0.02)


# ------------------------------------------------------------------------------------------------ photometry


def test_fluxes_are_above_the_dust_and_on_the_ab_system():
    """True fluxes, which have no noise, become those of the templates of each galaxy."""
    one = galaxies()
    table = one.catalogue.copy()
    for band in SDSS.bands:
        table[f"model_flux_{band}"] = table[f"true_flux_{band}"]
    flux, _ = dataclasses.replace(one, catalogue=table).ugriz
    c = table[[f"c{i}" for i in range(5)]].to_numpy()
    ab = np.einsum("nt,ntb->nb", c, GalaxyTemplates.load().band_table(SDSS.filters)(one.z))
    np.testing.assert_allclose(np.median(flux / ab, axis=0), 1, atol=0.006)


def test_errors_are_scaled_with_the_fluxes():
    one = galaxies()
    flux, error = one.ugriz
    for i, band in enumerate(SDSS.bands):
        signal = one.catalogue[f"model_flux_{band}"] * np.sqrt(one.catalogue[f"model_flux_ivar_{band}"])
        np.testing.assert_allclose(flux[:, i] / error[:, i], signal, rtol=1e-5)
    assert one.photometry.filters == FILTERS
    np.testing.assert_array_equal(one.photometry.flux, flux[:, 1:4])
    np.testing.assert_array_equal(one.photometry.error, error[:, 1:4])


def test_magnitudes_and_types():
    one = galaxies()
    table = one.catalogue
    np.testing.assert_allclose(
        one.r, 22.5 - 2.5 * np.log10(table["petro_flux_r"]) - table["extinction_r"], rtol=1e-6
    )
    np.testing.assert_array_equal(one.is_red, table["dered_u"] - table["dered_r"] >= 2.22)
    assert 0.1 < one.is_red.mean() < 0.95


# -------------------------------------------------------------------------------------------------- features


def test_features_are_made_of_measurements_alone(tmp_path):
    truth = [f"true_flux_{b}" for b in SDSS.bands] + [f"c{i}" for i in range(5)]
    truth += ["z", "r_mag", "abs_mag", "rest_gr", "radius", "bulge_fraction", "ra", "dec", "ebv"]

    def edit(block):
        table, rng = block.catalogue.copy(), np.random.default_rng(1)
        for name in truth:
            table[name] = rng.permutation(table[name].to_numpy())
        flux = block.spectra.flux[::-1].copy()
        spectra = Spectra(block.spectra.wavelength, flux, block.spectra.ivar[::-1].copy())
        return dataclasses.replace(block, catalogue=table, spectra=spectra)

    one, again = galaxies(), read_galaxies(rewritten(tmp_path / "shuffled.h5", edit))
    both = sorted(by_id(one) & by_id(again))
    assert len(both) > 150  # one galaxy beyond the redshifts is now another
    a, b = (some.catalogue.set_index("object_id").index.get_indexer(both) for some in (one, again))
    assert (one.z[a] != again.z[b]).mean() > 0.9
    np.testing.assert_array_equal(one.photometry.features.values[a], again.photometry.features.values[b])
    np.testing.assert_array_equal(one.photometry.flux[a], again.photometry.flux[b])


def test_the_light_in_the_pixels_is_of_the_own_image(tmp_path):
    one = galaxies()
    changed = one.catalogue["object_id"].to_numpy()[:5]

    def edit(block):
        images = block.images.copy()
        rows = block.catalogue["object_id"].isin(changed).to_numpy()
        images[rows] *= np.linspace(1.5, 3, 5, dtype=np.float32)[:, None, None]
        return dataclasses.replace(block, images=images)

    again = read_galaxies(rewritten(tmp_path / "bright.h5", edit))
    before, after = one.photometry.features, again.photometry.features
    pixels = np.array([kind == "embedding" for kind in before.kinds])
    assert pixels.sum() > 20
    np.testing.assert_array_equal(after.values[:, ~pixels], before.values[:, ~pixels])
    np.testing.assert_array_equal(after.values[5:], before.values[5:])
    assert (np.abs(after.values - before.values)[:5][:, pixels].max(1) > 0.1).all()


def test_features_say_something_of_every_kind():
    found = galaxies().photometry.features
    assert np.isfinite(found.values).all()
    assert {"magnitude", "colour", "petrosian colour", "shape", "embedding"} <= set(found.kinds)
    assert (found.values.std(0) > 0).mean() > 0.95


# ----------------------------------------------------------------------------------------------------- split


def test_no_field_is_in_two_parts():
    one = galaxies()
    parts = split(one)
    everything = np.concatenate([parts.train, parts.calibration, parts.test])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(one)))
    train, calibration, test = (
        set(one.fields[rows]) for rows in (parts.train, parts.calibration, parts.test)
    )
    assert not train & test and not calibration & test and not train & calibration
    n = N // FIELD
    assert (len(test), len(calibration), len(train)) == (round(n / 5), round(0.8 * n / 6), 7)


def test_the_split_depends_on_the_seed_alone():
    one = galaxies()
    for name in ("train", "calibration", "test"):
        np.testing.assert_array_equal(getattr(split(one), name), getattr(split(one, 0), name))
    assert any(not np.array_equal(split(one).test, split(one, seed).test) for seed in (1, 2))
    # Neither redshifts nor spectra decide.
    other = dataclasses.replace(one, catalogue=one.catalogue.assign(z=0.1), spectra=one.raw)
    np.testing.assert_array_equal(split(other, 3).test, split(one, 3).test)


def test_one_field_cannot_be_split():
    one = galaxies()
    with pytest.raises(ValueError, match="one group cannot be on both sides of a split"):
        split(one.select(one.fields == one.fields[0]))
