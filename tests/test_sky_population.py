"""Who lives in the simulated sky: shares, limits, luminosities and sizes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.galaxies import COSMOLOGY, distance_modulus
from astro_utils.sky.population import (
    CLASSES,
    MAIN_GALAXIES,
    POPULATIONS,
    SPECTROSCOPIC,
    TRUTH,
    Population,
    draw_population,
    sizes,
)
from astro_utils.sky.seds import load_seds, source_spectra

N = 6000
GALAXY_ONLY = (
    "abs_mag",
    "rest_gr",
    "radius",
    "bulge_fraction",
    "bulge_radius",
    "disc_radius",
    "bulge_q",
    "c0",
)


@pytest.fixture(scope="module")
def seds():
    return load_seds()


@pytest.fixture(scope="module")
def sky(seds):
    return draw_population(SPECTROSCOPIC, N, np.random.default_rng(0), seds)


@pytest.fixture(scope="module")
def bright(seds):
    return draw_population(MAIN_GALAXIES, N, np.random.default_rng(1), seds)


def test_programmes_have_their_shares(sky):
    counts = sky["programme"].value_counts()
    assert set(counts.index) == set(SPECTROSCOPIC.shares)
    for name, share in SPECTROSCOPIC.shares.items():
        assert counts[name] == pytest.approx(N * share, abs=5 * np.sqrt(N * share * (1 - share))), name


def test_classes_are_a_third_each_and_mixed_at_random(sky):
    kind = sky["class"]
    assert set(kind) == set(CLASSES)
    for name in CLASSES:
        assert (kind == name).mean() == pytest.approx(1 / 3, abs=5 * np.sqrt(2 / 9 / N))
        # A run of one class would show as a trend with the row.
        halves = [(part == name).mean() for part in np.split(kind.to_numpy(), 2)]
        assert abs(halves[0] - halves[1]) < 5 * np.sqrt(2 / 9 * 4 / N)


@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_objects_are_within_the_limits(seds, population):
    table = draw_population(population, 500, np.random.default_rng(2), seds)
    assert table["r_mag"].between(*population.r_limits).all()
    assert not (table["radius"] > population.max_size).any()
    narrow = replace(population, r_limits=(18.0, 18.5), max_size=0.6)
    table = draw_population(narrow, 60, np.random.default_rng(2), seds)
    assert len(table) == 60 and table["r_mag"].between(18.0, 18.5).all() and not (table["radius"] > 0.6).any()


def test_limits_that_nothing_meets_are_refused(seds):
    empty = replace(MAIN_GALAXIES, r_limits=(3.0, 4.0))
    with pytest.raises(ValueError, match=r"main makes no object with r_mag between 3 and 4 and a radius"):
        draw_population(empty, 2, np.random.default_rng(0), seds)


def test_the_seed_and_nothing_else_decides(seds, sky):
    pd.testing.assert_frame_equal(sky, draw_population(SPECTROSCOPIC, N, np.random.default_rng(0), seds))
    other = draw_population(SPECTROSCOPIC, 50, np.random.default_rng(5), seds)
    assert not np.isclose(np.sort(other["r_mag"]), np.sort(sky["r_mag"][:50])).any()


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("population", POPULATIONS.values(), ids=POPULATIONS)
def test_every_block_has_the_same_columns(seds, sky, population, n):
    for seed in range(3):
        table = draw_population(population, n, np.random.default_rng(seed), seds)
        assert tuple(table) == TRUTH and len(table) == n
        for name in ("class", "programme", "r_mag", "z", "star", "parent"):
            assert table[name].dtype == sky[name].dtype and table[name].notna().all()


def test_parameters_belong_to_their_class(sky):
    kind = sky["class"].to_numpy()
    for name in GALAXY_ONLY:
        np.testing.assert_array_equal(sky[name].notna(), kind == "GALAXY")
    np.testing.assert_array_equal(sky["parent"] >= 0, kind == "GALAXY")
    np.testing.assert_array_equal(sky["star"] >= 0, kind == "STAR")
    np.testing.assert_array_equal(sky["tilt"].notna(), kind == "STAR")
    assert (sky["z"][kind == "STAR"] == 0).all() and (sky["z"][kind != "STAR"] > 0).all()
    galaxies = sky[kind == "GALAXY"]
    assert galaxies[["bulge_fraction", "bulge_q", "disc_q"]].apply(lambda c: c.between(0, 1)).all(axis=None)
    assert (galaxies[["radius", "bulge_radius", "disc_radius"]] > 0).all(axis=None)
    assert (galaxies[[f"c{t}" for t in range(5)]] >= 0).all(axis=None)
    assert galaxies["angle"].between(0, np.pi).all()


def test_discs_are_at_random_inclination(bright):
    """Axis ratio against cos i of a disc of thickness 0.2: cos^2 i is even in its square root."""
    cos_i = np.sqrt((bright["disc_q"] ** 2 - 0.04) / 0.96)
    counts = np.histogram(cos_i, bins=5, range=(0, 1))[0]
    assert np.abs(counts - N / 5).max() < 5 * np.sqrt(N / 5)


@pytest.mark.parametrize("programme", ["main", "intermediate", "luminous_red", "faint_blue"])
def test_magnitude_luminosity_and_colour_are_those_of_the_spectrum(seds, programme):
    """Integrals of the spectra at the redshift and at rest, against the columns."""
    only = Population("one", {programme: 1.0}, r_limits=(13.0, 23.5))
    table = draw_population(only, 60, np.random.default_rng(3), seds)
    grid = np.arange(2900.0, 11200.0, 1.0)
    weights = band_weights(["sdss2010-g", "sdss2010-r"], grid)
    observed = source_spectra(table, grid, seds) @ weights
    np.testing.assert_allclose(22.5 - 2.5 * np.log10(observed[:, 1]), table["r_mag"], atol=3e-3)
    rest = source_spectra(table.assign(z=0.0), grid, seds) @ weights
    magnitude = 22.5 - 2.5 * np.log10(rest)
    np.testing.assert_allclose(magnitude[:, 1] - distance_modulus(table["z"]), table["abs_mag"], atol=3e-3)
    np.testing.assert_allclose(magnitude[:, 0] - magnitude[:, 1], table["rest_gr"], atol=3e-3)


def test_bright_galaxies_are_like_their_parents(seds, bright):
    parent = seds.real.iloc[bright["parent"]].reset_index(drop=True)
    assert (bright["rest_gr"] - parent["rest_gr"]).abs().median() < 0.03
    assert (bright["z"] - parent["z"]).abs().median() < 0.005
    assert (bright["abs_mag"] - parent["abs_mag"]).std() == pytest.approx(0.1, rel=0.1)
    # A mixture of one template alone cannot be varied; redshift and luminosity still are.
    assert (np.abs(bright["rest_gr"] - parent["rest_gr"]) < 1e-9).mean() < 0.01
    assert not bright.duplicated(["z", "abs_mag"]).any(), "none is drawn twice"


def test_no_galaxy_is_brighter_than_the_brightest_that_exist(sky, bright):
    """Brightest cluster galaxies reach -25 in r (h = 0.7); younger ones at higher redshift a bit more."""
    for table in (sky, bright):
        assert table["abs_mag"].min() > -25.8 and (table["abs_mag"] < -24.7).mean() < 0.01


def test_red_galaxies_are_mostly_bulge(bright):
    red, blue = bright[bright["rest_gr"] > 0.75], bright[bright["rest_gr"] < 0.55]
    assert red["bulge_fraction"].mean() > 0.6 > 0.3 > blue["bulge_fraction"].mean()


# ---------------------------------------------------------------------------------------------------- sizes


def median_size(abs_mag, z, early, n=4000):
    size = sizes(np.full(n, abs_mag), np.full(n, z), np.full(n, early), np.random.default_rng(4))
    assert (size > 0).all()
    return np.median(size)


@pytest.mark.parametrize("early", [True, False])
def test_sizes_fall_with_distance_and_grow_with_luminosity(early):
    by_redshift = [median_size(-21.5, z, early) for z in (0.02, 0.1, 0.3, 0.6, 1.0)]
    assert (np.diff(by_redshift) < 0).all()
    by_luminosity = [median_size(m, 0.1, early) for m in (-19, -20, -21, -22, -23)]
    assert (np.diff(by_luminosity) > 0).all()


def test_sizes_are_those_of_shen_et_al():
    """Equations 14 and 15 of Shen et al. (2003) at M_r = -21.5, a galaxy like the Milky Way."""
    kpc_per_arcsec = COSMOLOGY.kpc_proper_per_arcmin(0.01).value / 60
    late = 10 ** (0.4 * 0.26 * 21.5 + (0.51 - 0.26) * np.log10(1 + 10 ** (0.4 * (21.5 - 20.91))) - 1.71)
    assert median_size(-21.5, 0.01, False) * kpc_per_arcsec == pytest.approx(late * 1.01**-0.75, rel=0.03)
    early = 10 ** (0.4 * 0.60 * 21.5 - 4.63)
    assert median_size(-21.5, 0.01, True) * kpc_per_arcsec == pytest.approx(early * 1.01**-1.1, rel=0.03)
    assert 3.5 < late < 5.5 and 2.5 < early < 4.5


@pytest.mark.parametrize(("early", "power"), [(True, -1.1), (False, -0.75)])
def test_galaxies_of_one_luminosity_were_smaller_in_the_past(early, power):
    kpc = [median_size(-22.0, z, early) * COSMOLOGY.kpc_proper_per_arcmin(z).value / 60 for z in (0.05, 0.9)]
    assert np.log(kpc[1] / kpc[0]) / np.log(1.9 / 1.05) == pytest.approx(power, abs=0.05)


def test_scatter_of_sizes_is_larger_for_faint_galaxies():
    spread = {}
    for abs_mag in (-18.0, -24.0):
        size = sizes(
            np.full(4000, abs_mag), np.full(4000, 0.1), np.zeros(4000, bool), np.random.default_rng(6)
        )
        spread[abs_mag] = np.log(size).std()
    assert spread[-24.0] == pytest.approx(0.27, abs=0.02) and spread[-18.0] == pytest.approx(0.45, abs=0.02)


def test_bright_galaxies_are_resolved_and_shrink_with_redshift(bright):
    near, far = bright[bright["z"].between(0.03, 0.06)], bright[bright["z"].between(0.15, 0.2)]
    # At the same apparent magnitude a farther galaxy is more luminous and larger, but not by as much.
    assert near["radius"].median() > 1.3 * far["radius"].median() > 1.3
    luminous = [
        part["radius"].median()
        for _, part in bright[bright["z"].between(0.08, 0.12)].groupby(
            pd.cut(bright["abs_mag"], [-23.5, -22.5, -21.5, -20.5]), observed=True
        )
    ]
    assert len(luminous) == 3 and (np.diff(luminous) < 0).all()


# ---------------------------------------------------------------------------------------------------- errors


def test_unknown_programme_is_named_with_what_there_is():
    with pytest.raises(ValueError, match="no programme comets; expected main, intermediate, luminous_red"):
        Population("odd", {"main": 0.5, "comets": 0.5}, r_limits=(14, 20))


def test_shares_must_sum_to_one():
    with pytest.raises(ValueError, match=r"population odd: shares sum to 0\.9, not to 1"):
        Population("odd", {"main": 0.5, "quasars": 0.4}, r_limits=(14, 20))
    thirds = Population(
        "thirds", dict.fromkeys(("main", "quasars", "blue_stars"), 0.333333), r_limits=(14, 22)
    )
    assert len(draw_population(thirds, 5, np.random.default_rng(0), load_seds())) == 5
