"""Cuts of measured catalogues: just inside and just outside, and classes matched in magnitude."""

import numpy as np
import pandas as pd
import pytest

from astro_utils.catalogs import compactness
from astro_utils.galaxies import galaxy_sample
from astro_utils.photometry import SDSS_BANDS, asinh_magnitudes, deredden
from astro_utils.sky.selections import compact, faint, matched_in_r, model_r, photoz_sample
from astro_utils.splits import sky_pixels


def catalogue(n=1, **columns):
    """Objects of magnitude 20 in all bands, with a radius of half the seeing."""
    table = {f"{name}_{b}": np.full(n, value) for name, value in MEDIAN.items() for b in SDSS_BANDS}
    return pd.DataFrame(table | {"class": np.full(n, "STAR"), "blank": False}).assign(**columns)


MEDIAN = {"dered": 19.9, "extinction": 0.1, "radius": 0.7, "psffwhm": 1.4}


def test_model_r_is_the_magnitude_as_observed():
    assert model_r(catalogue(dered_r=18.25, extinction_r=0.5)).tolist() == [18.75]


@pytest.mark.parametrize(("radius", "expected"), [(0.69, True), (0.7, True), (0.71, False)])
def test_compact_objects_are_half_the_seeing_at_most(radius, expected):
    table = catalogue(**{f"radius_{b}": radius for b in SDSS_BANDS})
    assert compact(table).tolist() == [expected]
    assert compactness(table).iloc[0] == pytest.approx(radius / 1.4)


def test_compactness_is_the_mean_of_the_bands():
    """One band may be above the limit when others are below."""
    assert compact(catalogue(radius_u=1.3, radius_z=0.09)).tolist() == [True]
    assert compact(catalogue(radius_u=1.3, radius_z=0.11)).tolist() == [False]
    assert compact(catalogue(psffwhm_u=1.3)).tolist() == [False], "a radius counts by the seeing of its band"
    assert compact(catalogue(), limit=0.49).tolist() == [False]


@pytest.mark.parametrize(("change", "expected"), [(-0.01, False), (0.0, False), (0.01, True)])
def test_faint_objects_are_so_in_the_mean_of_the_bands_as_observed(change, expected):
    table = catalogue(**{f"dered_{b}": 19.875 + change for b in SDSS_BANDS})
    table = table.assign(**{f"extinction_{b}": 0.125 for b in SDSS_BANDS})
    assert faint(table).tolist() == [expected]


def test_faintness_is_that_of_five_bands():
    assert faint(catalogue(dered_u=20.1)).tolist() == [True] and faint(catalogue(dered_u=19.7)).tolist() == [
        False
    ]
    assert faint(catalogue(dered_u=20.1), limit=20.1).tolist() == [False]


# -------------------------------------------------------------------------------------------------- matching


@pytest.fixture(scope="module")
def crowd():
    """Stars that are brighter than galaxies, and few quasars."""
    rng = np.random.default_rng(0)
    kinds = np.repeat(["STAR", "GALAXY", "QSO"], [3000, 2000, 500])
    r = np.concatenate([rng.normal(20, 1, 3000), rng.normal(21, 1, 2000), rng.uniform(19, 22, 500)])
    order = rng.permutation(5500)
    return catalogue(5500, **{"class": kinds[order], "dered_r": r[order] - 0.1})


@pytest.mark.parametrize("classes", [("STAR", "GALAXY"), ("STAR", "GALAXY", "QSO")])
@pytest.mark.parametrize("width", [0.1, 0.25])
def test_matched_samples_have_as_many_of_each_class_in_every_bin(crowd, classes, width):
    rows = matched_in_r(crowd, classes, np.random.default_rng(1), width)
    assert (np.diff(rows) > 0).all(), "sorted, and no row twice"
    chosen = crowd.iloc[rows]
    bins = np.floor(model_r(chosen) / width).astype(int)
    counts = pd.crosstab(bins, chosen["class"])
    assert set(counts) == set(classes) and (counts.nunique(axis=1) == 1).all()
    # As many as the rarest class allows.
    everything = pd.crosstab(np.floor(model_r(crowd) / width).astype(int), crowd["class"])[list(classes)]
    assert len(rows) == len(classes) * everything.min(axis=1).sum() > 800


def test_matched_samples_tell_nothing_by_magnitude(crowd):
    chosen = crowd.iloc[matched_in_r(crowd, ("STAR", "GALAXY"), np.random.default_rng(1))]
    means = chosen.groupby("class")["dered_r"].mean()
    assert (
        abs(means["STAR"] - means["GALAXY"])
        < 0.005
        < 0.9
        < crowd.groupby("class")["dered_r"].mean()["GALAXY"] - 20
    )


def test_the_generator_decides_who_is_chosen(crowd):
    first, again, other = (
        matched_in_r(crowd, ("STAR", "GALAXY"), np.random.default_rng(s)) for s in (2, 2, 3)
    )
    np.testing.assert_array_equal(first, again)
    assert len(other) == len(first) and len(np.intersect1d(first, other)) < 0.95 * len(first)


def test_a_class_that_is_not_there_cannot_be_matched(crowd):
    with pytest.raises(ValueError, match="no objects of class COMET, METEOR to match"):
        matched_in_r(crowd, ("STAR", "COMET", "METEOR"), np.random.default_rng(0))


# ------------------------------------------------------------------------------------- photometric redshifts


@pytest.fixture(scope="module")
def galaxies():
    rng = np.random.default_rng(4)
    columns = {
        "ra": rng.uniform(0, 360, 50),
        "dec": rng.uniform(-10, 60, 50),
        "z": rng.uniform(0.01, 0.4, 50),
    }
    for b in SDSS_BANDS:
        columns |= {f"{kind}_flux_{b}": rng.uniform(1, 100, 50) for kind in ("model", "petro")}
        columns |= {f"{kind}_flux_ivar_{b}": rng.uniform(1, 100, 50) for kind in ("model", "petro")}
        columns |= {f"extinction_{b}": rng.uniform(0, 0.3, 50)}
    return pd.DataFrame(columns).assign(blank=False)


def test_photoz_sample_has_the_columns_of_the_real_galaxies(galaxies):
    real, mine = galaxy_sample(), photoz_sample(galaxies)
    assert sorted(real) == sorted(mine)
    for name in real:
        assert mine[name].dtype.kind == real[name].dtype.kind, name


def test_photoz_sample_is_dereddened_and_its_errors_too(galaxies):
    sample = photoz_sample(galaxies)
    for kind in ("model", "petro"):
        parts = (
            galaxies[[f"{n}_{b}" for b in SDSS_BANDS]].to_numpy()
            for n in (f"{kind}_flux", f"{kind}_flux_ivar")
        )
        extinction = galaxies[[f"extinction_{b}" for b in SDSS_BANDS]].to_numpy()
        magnitude, error = asinh_magnitudes(*deredden(*parts, extinction))
        np.testing.assert_allclose(sample[[f"{kind}_mag_{b}" for b in SDSS_BANDS]], magnitude)
        np.testing.assert_allclose(sample[[f"{kind}_err_{b}" for b in SDSS_BANDS]], error)
    np.testing.assert_array_equal(sample["extinction_r"], galaxies["extinction_r"])


def test_photoz_sample_leaves_blank_stamps_out_and_says_where_it_looked(galaxies):
    table = galaxies.assign(blank=np.arange(50) % 10 == 0)
    sample = photoz_sample(table, nside=4)
    assert len(sample) == 45 and list(sample.index) == list(range(45))
    kept = galaxies[~table["blank"]]
    np.testing.assert_array_equal(sample["z"], kept["z"])
    np.testing.assert_array_equal(sample["pixel"], sky_pixels(kept["ra"], kept["dec"], 4))
    assert (sample["n_bad"] == 0).all() and sample["j_mag"].isna().all()
