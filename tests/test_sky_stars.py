"""The stellar library: whole spectra of known stars, and stars drawn from it by colour and metallicity."""

import numpy as np
import pandas as pd
import pytest

from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.stars import (
    COLOURS,
    KINDS,
    StellarLibrary,
    locus_weights,
    nearest_in_gi,
    stellar_library,
)
from astro_utils.sky.stellar_libraries import GRID, read_miles
from astro_utils.sky.stellar_locus import LOCUS_COLOURS, covey_locus, in_sdss_system

SDSS = [f"sdss2010-{band}" for band in "ugriz"]


@pytest.fixture(scope="module")
def library():
    return stellar_library()


@pytest.fixture(scope="module")
def dwarfs(library):
    return library.table[library.table["kind"] == "dwarf"]


def test_spectra_are_whole_positive_and_of_one_nanomaggy_in_r(library):
    assert library.flux.dtype == np.float32 and library.flux.shape == (len(library), len(GRID))
    np.testing.assert_array_equal(library.wavelength, np.arange(2900.0, 11200.0))
    assert np.isfinite(library.flux).all() and (library.flux > 0).all()
    flux = library.flux @ band_weights(SDSS, library.wavelength)
    np.testing.assert_allclose(flux[:, 2], 1, rtol=1e-5)
    for k, name in enumerate(LOCUS_COLOURS):
        np.testing.assert_allclose(
            library.table[name], -2.5 * np.log10(flux[:, k] / flux[:, k + 1]), atol=1e-4
        )
    np.testing.assert_allclose(library.table["g_i"], library.table["g_r"] + library.table["r_i"])


def test_where_a_star_was_observed_its_spectrum_is_the_observed_one(library):
    table, flux = read_miles()
    rows = library.table.reset_index().merge(table.reset_index(), on=["name", "library"])
    rows = rows[rows["library"] == "MILES"].iloc[::40]
    for ours, theirs in zip(rows["index_x"], rows["index_y"], strict=True):
        good = np.isfinite(flux[theirs])
        ratio = library.flux[ours, good] / flux[theirs, good]
        np.testing.assert_allclose(ratio, np.median(ratio), rtol=1e-5)


def test_the_two_libraries_agree_on_stars_that_both_hold(library):
    miles, stelib = (library.table[library.table["library"] == name] for name in ("MILES", "STELIB"))
    both = miles.merge(stelib, on="name")
    assert len(both) > 100
    for name, most, scatter in (
        ("u_g", 0.05, 0.15),
        ("g_r", 0.02, 0.08),
        ("r_i", 0.02, 0.05),
        ("i_z", 0.02, 0.06),
    ):
        difference = both[f"{name}_y"] - both[f"{name}_x"]
        assert abs(difference.median()) < most, name
        assert np.diff(np.percentile(difference, [16, 84]))[0] / 2 < scatter, name


def test_the_oxygen_band_of_our_atmosphere_is_gone(library):
    band, beside = (
        (library.wavelength > low) & (library.wavelength < high) for low, high in ((7600, 7640), (7720, 7760))
    )
    solar = library.table["letter"].isin(["F", "G"])
    for name in ("MILES", "STELIB"):
        flux = library.flux[(solar & (library.table["library"] == name)).to_numpy()]
        assert np.median(flux[:, band].mean(1) / flux[:, beside].mean(1)) == pytest.approx(1.02, abs=0.03)


def test_the_table_tells_kinds_types_and_libraries(library, dwarfs):
    table = library.table
    assert set(table["kind"]) <= set(KINDS) and not table.duplicated(["library", "name", "g_i"]).any()
    assert set(table["library"]) == {"MILES", "STELIB", "MaStarHC", "between"}
    giants = table[table["kind"] == "giant"]
    assert (dwarfs["logg"].dropna() >= 3.5).all() and (giants["logg"].dropna() < 3.8).all()
    assert set(table.loc[table["kind"] == "white dwarf", "name"]) == {"Feige110", "LTT4364"}
    types = dwarfs[dwarfs["library"] == "STELIB"].groupby("letter").size()
    assert (types[["O", "B", "A", "F", "G", "K", "M"]] > 0).all() and types["F"] > 40
    assert table.set_index("name").loc["HD095735", "spectral_type"].tolist() == ["M2V", "M2V"]


def test_what_cannot_be_continued_or_is_off_the_locus_is_left_out(library, dwarfs):
    table = library.table
    observed = table["library"] != "between"
    assert (table["red_misfit"][observed] < 0.12).all()
    assert (table["blue_misfit"][observed & (table["g_i"] < 0.9)] < 0.12).all()
    redder, locus = in_sdss_system(dwarfs[dwarfs["g_i"] > 0.3]), covey_locus()
    for name in ("g_r", "i_z"):
        assert abs(redder[name] - np.interp(redder["g_i"], locus["g_i"], locus[name])).max() < 0.1
    # A carbon star, a noisy late dwarf, a Wolf-Rayet star.
    assert not table["name"].isin(["HD187216", "G156-031", "HD092809"]).any()
    assert (observed & (table["library"] != "MaStarHC")).sum() > 1190, "out of 1217"


def test_hotter_dwarfs_are_bluer(dwarfs):
    known = dwarfs[dwarfs["teff"].notna() & (dwarfs["library"] != "between")]
    assert known[["teff", "g_i"]].corr("spearman").iloc[0, 1] < -0.95
    sun = known[(abs(known["teff"] - 5772) < 60) & (abs(known["feh"]) < 0.1)]
    # Bilir et al. 2005, Holmberg et al. 2006: the Sun has g - r of 0.44 to 0.45 and r - i of 0.11 to 0.12.
    assert sun["g_r"].median() == pytest.approx(0.45, abs=0.03)
    assert sun["r_i"].median() == pytest.approx(0.115, abs=0.03)


def test_cool_dwarfs_reach_m6_without_a_gap(dwarfs):
    cool = dwarfs[dwarfs["g_i"] > 2]
    assert (cool["library"] != "between").sum() >= 20 and cool["r_i"].max() > 1.9
    colours = np.sort(dwarfs["g_i"][dwarfs["g_i"] > 0])
    assert np.diff(colours).max() < 0.1


# -------------------------------------------------------------------------------------------- to draw from it


def test_weights_are_even_over_colour(library, dwarfs):
    weights = locus_weights(library, width=0.2)
    assert weights.sum() == pytest.approx(1)
    assert (weights[library.table["kind"] != "dwarf"] == 0).all()
    bins = np.floor(library.table["g_i"] / 0.2)[weights > 0]
    shares = pd.Series(weights[weights > 0]).groupby(bins.to_numpy()).sum()
    np.testing.assert_allclose(shares, 1 / len(shares))
    with pytest.raises(ValueError, match="kind is 'star'; expected one of"):
        locus_weights(library, "star")
    with pytest.raises(ValueError, match="no star of kind 'giant'"):
        empty = library.table.iloc[:0]
        locus_weights(StellarLibrary(library.wavelength, library.flux[:0], empty), "giant")


def test_the_nearest_stars_are_drawn_evenly_and_no_other(library):
    rng = np.random.default_rng(3)
    colour = library.table["g_i"].to_numpy()
    is_dwarf = (library.table["kind"] == "dwarf").to_numpy()
    for wanted in (-3.0, -0.4, 0.45, 1.33, 2.9, 9.0):
        distance = np.where(is_dwarf, abs(colour - wanted), np.inf)
        drawn, counts = np.unique(nearest_in_gi(library, np.full(1000, wanted), rng), return_counts=True)
        assert len(drawn) == 5 and counts.min() > 140
        assert distance[drawn].max() <= np.sort(distance)[4]
    g_i = rng.uniform(-0.3, 3.4, 2000)
    rows = nearest_in_gi(library, g_i, rng)
    assert is_dwarf[rows].all() and np.percentile(abs(colour[rows] - g_i), 95) < 0.06


def test_a_wanted_metallicity_is_followed(library):
    rng = np.random.default_rng(4)
    g_i = rng.uniform(0.3, 0.8, 3000)
    poor, rich = (library.table.iloc[nearest_in_gi(library, g_i, rng, np.full(3000, f))] for f in (-1.4, 0.0))
    assert abs(poor["feh"].median() + 1.4) < 0.2 and abs(rich["feh"].median()) < 0.1
    assert abs(poor["g_i"].median() - rich["g_i"].median()) < 0.03
    assert poor["u_g"].median() < rich["u_g"].median() - 0.15
    giant = library.table.iloc[nearest_in_gi(library, g_i, rng, kind="giant")]
    assert (giant["kind"] == "giant").all()


def test_wishes_that_cannot_be_met_are_refused(library):
    rng = np.random.default_rng(5)
    with pytest.raises(ValueError, match="2 of 3 stars wanted have a g - i or"):
        nearest_in_gi(library, np.array([0.5, np.nan, 1.0]), rng, feh=np.array([0.0, 0.0, np.inf]))
    with pytest.raises(ValueError, match="n_nearest is 5; expected 1 to 2, the stars of kind 'white dwarf'"):
        nearest_in_gi(library, np.zeros(3), rng, kind="white dwarf")
    assert len(nearest_in_gi(library, np.zeros(3), rng, n_nearest=2, kind="white dwarf")) == 3


def test_the_columns_of_colours_are_those_announced(library):
    assert set(COLOURS) == {*LOCUS_COLOURS, "g_i"} and set(COLOURS) <= set(library.table.columns)
