"""Spectra of the 13 classes: the published ones to the last digit, and those that come with the packages."""

import os

import numpy as np
import pytest

from astro_utils import registry
from astro_utils.sky.stars import stellar_library
from astro_utils.starsed import templates as module
from astro_utils.starsed.class_stars import MEMBERS, UNSEEN
from astro_utils.starsed.templates import (
    CLASSES,
    WAVELENGTH_NM,
    StellarSpectra,
    bin_centres,
    bin_weights,
    nearest_class,
    pickles_spectra,
    stelib_spectra,
    templates,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with wf_psf"
)


def published():
    files = registry.fetch("wf_psf_seds", download=False)
    return tuple(np.load(files[f"wf_psf/{name}.npy"], allow_pickle=False) for name in ("SEDs", "lambdas"))


def mean_bin(weights):
    return weights @ np.arange(weights.shape[1])


# ----------------------------------------------------------------------------------------------- binning


def test_a_flat_spectrum_is_even_over_the_bins_and_photons_rise_with_wavelength():
    flat = np.ones(350)
    np.testing.assert_allclose(bin_weights(flat, 8), 1 / 8, rtol=1e-14)
    np.testing.assert_allclose(
        bin_weights(flat, 8, photons=True), bin_centres(8) / bin_centres(8).sum(), 1e-5
    )
    np.testing.assert_allclose(bin_centres(8)[[0, -1]], [571.875, 878.125])


def test_a_line_goes_to_its_bin_and_one_on_an_edge_is_divided_in_proportion():
    # The first edge of eight bins is at 593.75 nm: three quarters of the sample 593-594 nm are below it.
    spectra = np.zeros((2, 350))
    spectra[0, WAVELENGTH_NM == 700.5], spectra[1, WAVELENGTH_NM == 593.5] = 3, 5
    weights = bin_weights(spectra, 8)
    np.testing.assert_allclose(weights[0], np.arange(8) == 3, atol=1e-14)
    np.testing.assert_allclose(weights[1, :2], [0.75, 0.25], rtol=1e-12)
    assert bin_weights(spectra[None], 35).shape == (1, 2, 35)


def test_bins_of_ten_nanometres_add_up_to_wider_ones():
    flux = np.random.default_rng(0).uniform(1, 2, (4, 350))
    np.testing.assert_allclose(bin_weights(flux, 35).reshape(4, 7, 5).sum(2), bin_weights(flux, 7))


def test_shares_are_read_at_other_wavelengths_as_a_cubic_runs_through_them():
    # The integral of this spectrum is a fourth power of wavelength, so shares of equal bins are on a cubic.
    # Seven bins have edges between samples.
    flux, shares = (np.diff(((np.linspace(550, 900, n + 1) - 500) / 100) ** 4) for n in (350, 7))
    centres = bin_centres(7)
    at = centres - np.linspace(0.3, 2, 7)
    wanted = np.polyval(np.polyfit(centres - 725, shares, 3), at - 725)
    np.testing.assert_allclose(bin_weights(flux, 7, at_nm=at), wanted / wanted.sum(), rtol=1e-8)
    np.testing.assert_allclose(bin_weights(flux, 7, at_nm=centres), shares / shares.sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flux": np.ones(349)}, r"flux of shape \(349,\) and wavelength_nm \(350,\) do not fit"),
        ({"flux": -np.ones(350)}, "negative or not finite"),
        ({"flux": np.full(350, np.nan)}, "negative or not finite"),
        ({"flux": np.zeros(350)}, "no flux between 550 and 900 nm"),
        ({"wavelength_nm": WAVELENGTH_NM + 1}, "covers 551 to 901 nm; expected all of 550 to 900"),
        ({"wavelength_nm": WAVELENGTH_NM**1.001}, "not evenly spaced"),
        ({"n_bins": 0}, "n_bins must be at least 1, not 0"),
        ({"at_nm": bin_centres(7)}, "at_nm must be 8 wavelengths"),
        ({"at_nm": bin_centres(8) / 1000}, "at_nm must be 8 wavelengths in nm"),
    ],
)
def test_bad_spectra_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        bin_weights(**{"flux": np.ones(350), "n_bins": 8} | change)


# ------------------------------------------------------------------------------------------ the published


@needs_data
def test_pickles_spectra_are_the_published_ones_to_the_last_digit():
    seds, wavelengths = published()
    spectra = pickles_spectra()
    assert spectra.names == CLASSES
    np.testing.assert_array_equal(wavelengths, WAVELENGTH_NM)
    np.testing.assert_allclose(spectra.flux, seds, rtol=0, atol=1e-15)


@needs_data
def test_neighbouring_classes_are_as_far_apart_as_was_measured():
    distance = 1e3 * np.linalg.norm(np.diff(pickles_spectra().flux, axis=0), axis=1)
    known = [1.06, 4.55, 1.88, 2.82, 3.86, 2.55, 3.34, 1.34, 2.07, 7.0, 8.0, 29]
    np.testing.assert_allclose(distance, known, rtol=0.01)


@needs_data
def test_the_unused_giants_are_unseen_stars_of_their_type():
    unseen = templates("pickles", unseen=True)
    assert unseen.names == ("A5III", "B5II", "B5III", "F5I", "F5III", "F5IV")
    assert [CLASSES[k] for k in unseen.classes] == ["A5", "B5", "B5", "F5", "F5", "F5"]
    known = templates("pickles")
    distance = np.linalg.norm(unseen.weights[:, None] - known.weights, axis=2)
    # A supergiant is redder than a dwarf of its type; none is more than a class off.
    assert (abs(distance.argmin(1) - unseen.classes) <= 1).all() and distance.min() > 1e-4


@needs_data
def test_weights_at_the_wavelengths_of_the_original_differ_by_percent():
    # Of the padded arrays of the original, for the wavelengths at which it reads the spectra.
    at = np.array([746, 804, 860, 918, 974, 1032, 1090, 1146]) / (3 * 256 * 24.5 / (1.2 * 12)) * 1000
    plain, snapped = templates("pickles"), templates("pickles", at_nm=at)
    np.testing.assert_array_equal(snapped.wavelengths_nm, at)
    change = abs(snapped.weights / plain.weights - 1).max()
    assert 0.01 < change < 0.05
    np.testing.assert_allclose(snapped.weights.sum(1), 1)


# ------------------------------------------------------------------------------- what the packages bring


def test_stelib_classes_run_from_blue_to_red():
    for options in ({}, {"n_bins": 35}, {"photons": True}):
        found = templates("stelib", **options)
        assert found.names == CLASSES and (found.classes == np.arange(13)).all()
        np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
        assert (found.weights > 0).all() and (np.diff(mean_bin(found.weights)) > 0).all()
        np.testing.assert_array_equal(found.wavelengths_nm, bin_centres(options.get("n_bins", 8)))
    assert (mean_bin(templates(photons=True).weights) > mean_bin(templates().weights)).all()


def test_the_members_of_a_class_are_what_the_table_says():
    table = stellar_library().table.set_index(["library", "name"])
    number = {letter: 10 * k for k, letter in enumerate("OBAFGKM")}
    for stars, reach in ((MEMBERS, 2), (UNSEEN, 2)):
        assert tuple(stars) == CLASSES
        for name in CLASSES:
            for star, origin in stars[name]:
                row = table.loc[(origin, star)]
                assert row["kind"] != "giant", star
                if row["spectral_type"]:
                    away = number[row["letter"]] + row["subtype"] - number[name[0]] - int(name[1])
                    assert abs(away) <= reach, f"{star} of {name} is {row['spectral_type']}"
                if stars is MEMBERS and name not in ("O5", "M5"):
                    assert row["luminosity"] in ("V", "IV") and not row["feh"] < -0.5, star
    for name in CLASSES:
        assert not set(MEMBERS[name]) & set(UNSEEN[name])
    every = [star for stars in UNSEEN.values() for star in stars]
    assert len(every) == len(set(every)) == len(stelib_spectra(unseen=True).names)


def test_a_class_is_the_mean_of_its_members_and_hydrogen_shows():
    library, spectra = stellar_library(), stelib_spectra()
    np.testing.assert_allclose(spectra.flux.sum(1), 1)
    alone = [module._on_nm(library, *star) for star in MEMBERS["A0"]]
    np.testing.assert_allclose(spectra.flux[3], np.mean(alone, 0))
    # H alpha, 656.5 nm in vacuum, is strongest in A stars.
    at, beside = (
        abs(WAVELENGTH_NM - 656.5) < 0.1,
        (abs(WAVELENGTH_NM - 656.5) > 5) & (abs(WAVELENGTH_NM - 656.5) < 8),
    )
    depth = 1 - spectra.flux[:, at].mean(1) / spectra.flux[:, beside].mean(1)
    assert depth[3] > 0.3 and depth[3] > depth[0] + 0.2 and depth[3] > depth[10] + 0.2


def test_unseen_stars_scatter_about_their_class_less_than_the_classes_span():
    known, unseen = templates(), templates(unseen=True)
    assert set(unseen.classes) == set(range(13))
    offset = np.linalg.norm(unseen.weights - known.weights[unseen.classes], axis=1)
    assert offset.min() > 1e-3, "an unseen star is not the template"
    nearest = np.linalg.norm(unseen.weights[:, None] - known.weights, axis=2).argmin(1)
    assert (abs(nearest - unseen.classes) <= 1).mean() > 0.9
    # Spectral types are not that exact: nearest neighbours in colour are often of the next class.
    assert 0.3 < (nearest == unseen.classes).mean() < 0.95


@needs_data
def test_stelib_and_pickles_agree_on_the_classes():
    ours, theirs = templates("stelib").weights, templates("pickles").weights
    distance = np.linalg.norm(ours[:, None] - theirs, axis=2)
    assert (abs(distance.argmin(1) - np.arange(13)) <= 1).all()
    assert (np.diag(distance)[:-1] < 0.015).all() and distance[12, 12] < 0.03


def test_unknown_sources_and_stars_are_named():
    with pytest.raises(ValueError, match="source is 'kurucz'; expected one of"):
        templates("kurucz")
    with pytest.raises(ValueError, match="0 spectra of Vega of STELIB in the stellar library; expected 1"):
        module._on_nm(stellar_library(), "Vega", "STELIB")


def test_missing_pickles_files_are_said_how_to_get(monkeypatch, tmp_path):
    monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path))
    if registry.available("wf_psf_pickles"):
        pytest.skip("the files are in the project's cache")
    with pytest.raises(registry.DatasetError, match="registry fetch wf_psf_pickles"):
        pickles_spectra()


def test_the_nearest_class_is_found_on_another_grid():
    steps = np.exp(np.linspace(-1, 1, 4)[:, None] * (WAVELENGTH_NM - 725) / 175)
    spectra = StellarSpectra(("a", "b", "c", "d"), np.array([3, 5, 5, 9]), steps, "stelib")
    width = 350 / 352
    grid = 550 + width * (np.arange(352) + 0.5)
    flux = np.array([7 * np.interp(grid, WAVELENGTH_NM, steps[k]) for k in (3, 0, 2)])
    assert nearest_class(flux, grid, spectra).tolist() == [9, 3, 5]
    with pytest.raises(ValueError, match="do not fit"):
        nearest_class(flux, grid[:-1], spectra)
