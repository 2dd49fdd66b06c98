"""The simulated sky as a sample: one seed, one sky, in every survey and however it is cut into shards."""

import sys
from dataclasses import replace

import astropy.units as u
import numpy as np
import pandas as pd
import pytest

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.photometry import SDSS_SOFTENING, asinh_magnitudes
from astro_utils.samples import open_sample, validate
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.columns import describe
from astro_utils.sky.population import TRUTH
from astro_utils.sky.seds import load_seds
from astro_utils.sky.simulate import Simulation, field_conditions, main, per_band, simulate
from astro_utils.sky.surveys import LEGACY, PANSTARRS, SDSS, SURVEYS

SMALL = Simulation(n_objects=600, seed=3, objects_per_shard=256, objects_per_field=64)
PLACE = ["object_id", "field", "ra", "dec", "ebv"]


@pytest.fixture(scope="module")
def shards():
    return [SMALL(i) for i in range(SMALL.n_shards)]


@pytest.fixture(scope="module")
def table(shards):
    return pd.concat([block.catalogue for block in shards], ignore_index=True)


def same(first, second):
    """Whether two blocks hold the same numbers to the last bit, NaN included."""
    pd.testing.assert_frame_equal(first.catalogue, second.catalogue, check_exact=True)
    assert first.images.tobytes() == second.images.tobytes() and first.columns == second.columns


# ------------------------------------------------------------------------------------------------- one seed


def test_a_shard_depends_on_its_number_alone(shards):
    """Made again after others, in another order, or as part of another number of objects."""
    same(SMALL(1), shards[1])
    same(replace(SMALL, n_objects=256)(0), shards[0])
    same(replace(SMALL, n_objects=2048)(1), shards[1])


def test_the_last_shard_holds_what_is_left(shards):
    assert [len(block) for block in shards] == [256, 256, 88]
    assert replace(SMALL, n_objects=512).n_shards == 2 and replace(SMALL, n_objects=513).n_shards == 3


def test_seeds_and_shards_are_different_skies(shards):
    other = replace(SMALL, n_objects=256, seed=4)(0)
    for first, second in ((shards[0], other), (shards[0], shards[1])):
        for name in ("r_mag", "ra", "dec", "psffwhm_r", "dered_r"):
            assert not np.isin(first.catalogue[name], second.catalogue[name]).any(), name
        assert not np.isclose(first.images[:, 2, 16, 16], second.images[:, 2, 16, 16], rtol=1e-6).any()


@pytest.mark.parametrize("survey", ["legacy", "panstarrs"])
def test_another_survey_sees_the_same_objects(shards, survey):
    block = replace(SMALL, n_objects=256, survey=survey)(0)
    objects = [*TRUTH, *PLACE]
    pd.testing.assert_frame_equal(block.catalogue[objects], shards[0].catalogue[objects], check_exact=True)
    assert block.images.shape == (256, len(SURVEYS[survey].bands), 32, 32)
    # In g the surveys' filters are alike, so the sources are: behind the same dust, of nearly the same flux.
    point = block.catalogue["class"] != "GALAXY"
    colour = -2.5 * np.log10(block.catalogue["true_flux_g"] / shards[0].catalogue["true_flux_g"])[point]
    assert np.abs(np.median(colour)) < 0.15


def test_stamps_of_another_size_show_the_same_objects(shards):
    block = replace(SMALL, n_objects=256, size=24)(0)
    names = [*TRUTH, *PLACE, *(f"true_flux_{b}" for b in "ugriz"), "psffwhm_r", "sigma_r"]
    pd.testing.assert_frame_equal(block.catalogue[names], shards[0].catalogue[names], check_exact=True)
    assert block.images.shape[2:] == (24, 24)
    bright = block.catalogue["r_mag"] < 18
    ratio = (block.catalogue["psf_flux_r"] / shards[0].catalogue["psf_flux_r"])[bright]
    np.testing.assert_allclose(ratio, 1, atol=0.05)


@pytest.mark.parametrize("spectrograph", ["sdss", "desi"])
def test_spectra_are_of_the_same_objects_and_change_nothing_else(shards, spectrograph):
    block = replace(SMALL, spectrograph=spectrograph)(2)
    pd.testing.assert_frame_equal(block.catalogue, shards[2].catalogue, check_exact=True)
    assert block.images.tobytes() == shards[2].images.tobytes() and shards[2].spectra is None
    assert len(block.spectra.flux) == 88 and np.isfinite(block.spectra.flux).all()
    # A point source is calibrated to its whole flux, behind the Galactic dust.
    point = ((block.catalogue["class"] == "STAR") & (block.catalogue["r_mag"] < 19)).to_numpy()
    flux = block.spectra.flux @ band_weights(["sdss2010-r"], block.spectra.wavelength)
    assert point.sum() > 5
    np.testing.assert_allclose(flux[point, 0] / block.catalogue["true_flux_r"][point], 1, atol=0.05)


def test_another_family_of_spectra_makes_other_galaxies_of_the_same_kinds(shards):
    first, second = shards[2], replace(SMALL, family="single_age")(2)
    assert second.columns == first.columns
    assert (second.catalogue["programme"].value_counts() == first.catalogue["programme"].value_counts()).all()
    assert not np.isclose(second.catalogue["true_flux_u"], first.catalogue["true_flux_u"]).all()


# ------------------------------------------------------------------------------------------------- the table


def test_features_are_those_of_margnet(table):
    assert set(MARGNET_FEATURES) <= set(table)
    features = table[list(MARGNET_FEATURES)]
    assert np.isfinite(features).all(axis=None)
    observed = {b: features[f"dered_{b}"] + features[f"extinction_{b}"] for b in "ugriz"}
    for blue, red in zip("ugri", "griz", strict=True):
        np.testing.assert_allclose(features[f"{blue}_{red}"], observed[blue] - observed[red], atol=1e-9)
    flux, ivar = (table[[f"model_flux{part}_{b}" for b in "ugriz"]].to_numpy() for part in ("", "_ivar"))
    magnitudes, _ = asinh_magnitudes(flux, ivar, SDSS_SOFTENING)
    np.testing.assert_allclose(np.transpose([observed[b] for b in "ugriz"]), magnitudes, atol=1e-9)
    radii = table[[f"radius_{b}" for b in "ugriz"]]
    assert (radii >= 0).all(axis=None) and (radii <= 8.2).all(
        axis=None
    )  # 5.5 over the root of the smallest axis ratio


def test_extinction_is_that_of_the_dust_map(table):
    """One E(B-V) for a field, ten per cent off the truth, times the coefficients of the bands."""
    ebv = table[[f"extinction_{b}" for b in "ugriz"]].to_numpy() / SDSS.extinction
    np.testing.assert_allclose(ebv, ebv[:, :1].repeat(5, 1))
    assert 0 < np.std(np.log(ebv[:, 0] / table["ebv"])) < 0.3


def test_objects_of_a_field_share_its_conditions_and_no_field_is_in_two_shards(shards, table):
    fields = [set(block.catalogue["field"]) for block in shards]
    assert [len(field) for field in fields] == [4, 4, 2] and len(set.union(*fields)) == 10
    shared = ["ebv", *(f"{name}_{b}" for name in ("psffwhm", "sigma", "extinction") for b in "ugriz")]
    per_field = table.groupby("field")[shared].nunique()
    assert (per_field == 1).all(axis=None) and table[shared].nunique().eq(10).all()
    for _, field in table.groupby("field"):
        assert np.ptp(field["dec"]) < 0.2
        east = (field["ra"] - field["ra"].iloc[0] + 180) % 360 - 180
        assert np.ptp(east * np.cos(np.radians(field["dec"]))) < 0.21
    assert table["ra"].between(0, 360).all() and table["dec"].between(-90, 90).all()


def test_conditions_of_a_field_follow_from_seed_and_number(table):
    for field, rows in table.groupby("field"):
        drawn = field_conditions(SDSS, SMALL.seed, int(field))
        for name in ("psffwhm", "sigma"):
            np.testing.assert_array_equal(per_band(rows.iloc[0], name, SDSS), per_band(drawn, name, SDSS))
        other = field_conditions(SDSS, SMALL.seed + 1, int(field))
        assert rows["ebv"].iloc[0] == drawn["ebv"] != other["ebv"]


def test_every_object_has_its_own_number(table):
    assert table["object_id"].dtype == np.int64
    np.testing.assert_array_equal(table["object_id"], 3_000_000_000 + np.arange(600))


def test_every_column_has_a_unit_and_a_meaning(shards):
    for survey in (SDSS, LEGACY, PANSTARRS):
        block = shards[2] if survey is SDSS else replace(SMALL, n_objects=20, survey=survey.name)(0)
        assert list(block.columns) == list(block.catalogue)
        for name, column in block.columns.items():
            u.Unit(column.unit)
            assert len(column.description) > 4, name
        assert block.catalogue.drop(columns=optional(block.catalogue)).notna().all(axis=None)


def optional(catalogue):
    """Columns that may be NaN: parameters of one class, neighbours, moments that do not converge."""
    return [*TRUTH[4:], "neighbour_distance", "moment_size", "moment_e1", "moment_e2"] + [
        name for name in catalogue if name in ("star", "parent")
    ]


def test_a_column_without_a_meaning_is_an_error(shards):
    with pytest.raises(KeyError, match="no description of column mystery, radius_y"):
        describe(shards[2].catalogue.assign(mystery=1.0, radius_y=0.0), SDSS)


# ------------------------------------------------------------------------------------------ images and fluxes


def test_images_are_finite_float32(shards):
    for block in shards:
        assert block.images.dtype == np.float32 and np.isfinite(block.images).all()
        assert not block.catalogue["blank"].any()


def test_measured_fluxes_of_stars_are_the_true_ones(table):
    """With the pipeline's own idea of the PSF, which is a little wrong."""
    stars = table[table["class"] != "GALAXY"]
    for band, depth in zip(SDSS.bands, SDSS.depth, strict=True):
        true = stars[f"true_flux_{band}"]
        bright = 22.5 - 2.5 * np.log10(true) < depth - 2
        assert bright.sum() > 60
        offset = -2.5 * np.log10((stars[f"psf_flux_{band}"] / true)[bright])
        assert abs(offset.median()) < 0.01, band
        faint = 22.5 - 2.5 * np.log10(true) > depth - 1.5
        pull = ((stars[f"psf_flux_{band}"] - true) * np.sqrt(stars[f"psf_flux_ivar_{band}"]))[faint]
        assert len(pull) > 30 and pull.std() == pytest.approx(1, abs=0.25) and abs(pull.mean()) < 0.4


def test_zero_point_of_each_field_is_corrected_for_the_error_of_its_psf(table):
    """The estimated FWHM is a few per cent off, and so would fluxes fitted with it be."""
    bright = table[(table["class"] != "GALAXY") & (table["r_mag"] < 19.3)]
    offset = bright["psf_flux_r"] / bright["true_flux_r"] - 1
    fields = offset.groupby(bright["field"])
    assert fields.size().min() >= 3 and fields.median().std() < 0.008


def test_noise_of_the_corners_is_that_of_the_sky(shards):
    block = shards[0]
    sigma = block.catalogue[[f"sigma_{b}" for b in "ugriz"]].to_numpy()
    corners = block.images[:, :, :3, :3] / sigma[..., None, None]
    assert np.median(np.abs(corners)) / 0.6745 == pytest.approx(1, abs=0.03)


def test_galaxies_are_larger_than_stars(table):
    bright = table[(table["r_mag"] < 20) & (table["radius"].isna() | (table["radius"] > 0.4))]
    sizes = bright.groupby(bright["class"] == "GALAXY")["radius_r"].median()
    assert sizes[False] < 0.1 and sizes[True] > 0.25


def test_dust_dims_and_dereddening_brightens_again(table):
    stars = table[(table["class"] == "STAR") & (table["r_mag"] < 19)]
    difference = stars["dered_r"] - stars["r_mag"]
    assert abs(difference.median()) < 0.02 and difference.std() < 0.1


# ------------------------------------------------------------------------------------------------ neighbours


@pytest.fixture(scope="module")
def crowded():
    return replace(SMALL, n_objects=256, neighbours=0.3)(0)


def test_neighbours_are_where_they_are_flagged_and_nowhere_else(shards, crowded):
    alone = shards[0]
    assert alone.catalogue["neighbour_distance"].isna().all()
    distance = crowded.catalogue["neighbour_distance"]
    flagged = distance.notna().to_numpy()
    assert flagged.mean() == pytest.approx(0.3, abs=0.1) and distance[flagged].between(2, 7).all()
    np.testing.assert_array_equal(crowded.images[~flagged], alone.images[~flagged])
    names = [*TRUTH, *PLACE, *(f"true_flux_{b}" for b in "ugriz")]
    pd.testing.assert_frame_equal(crowded.catalogue[names], alone.catalogue[names], check_exact=True)


def test_neighbours_add_flux_at_their_distance(shards, crowded):
    """Of bright objects, whose measured centre is the true one."""
    distance = crowded.catalogue["neighbour_distance"].to_numpy()
    added = (crowded.images - shards[0].images)[:, SDSS.index]
    flagged = np.isfinite(distance)
    near = flagged & (distance < 4)
    assert (added[near].sum(axis=(1, 2)) > 0).mean() > 0.95
    grid = np.arange(32) - 15.5
    checked = 0
    for i in np.flatnonzero(near & (shards[0].catalogue["r_mag"] < 20.5)):
        if added[i].max() < 10 * shards[0].catalogue["sigma_r"].iloc[i]:
            continue
        y, x = np.unravel_index(added[i].argmax(), added[i].shape)
        offset = np.hypot(
            grid[x] - shards[0].catalogue["centroid_x"].iloc[i],
            grid[y] - shards[0].catalogue["centroid_y"].iloc[i],
        )
        assert offset * SDSS.pixel_scale == pytest.approx(distance[i], abs=0.45)
        checked += 1
    assert checked > 5


def test_a_field_of_one_object_has_no_neighbour_to_give():
    block = replace(SMALL, n_objects=65, neighbours=1.0)(0)
    distance = block.catalogue["neighbour_distance"]
    assert distance.iloc[:64].notna().all() and np.isnan(distance.iloc[64])


# --------------------------------------------------------------------------------------------------- samples


def test_a_simulated_sample_is_its_shards_in_a_file(tmp_path, shards):
    simulation = replace(SMALL, n_objects=300)
    path = simulate(tmp_path / "sky.h5", simulation)
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        assert len(sample) == 300 and sample.info.provenance["simulation"]["seed"] == 3
        assert (sample.info.survey, sample.info.sky, sample.info.bands) == ("sdss", "simulated", SDSS.bands)
        assert sample.info.pixel_scale == SDSS.pixel_scale and sample.info.seed == 3
        np.testing.assert_array_equal(sample.images(slice(0, 256)), shards[0].images)
        stored = sample.catalogue(rows=slice(0, 256))
        for name in ("r_mag", "class", "dered_u", "object_id", "blank"):
            np.testing.assert_array_equal(stored[name], shards[0].catalogue[name])
    again = simulate(tmp_path / "again.h5", simulation)
    assert again.read_bytes() == path.read_bytes()


def test_command_line_makes_the_sample_it_describes(tmp_path, monkeypatch, capsys):
    path = tmp_path / "sky.h5"
    arguments = ["--n", "12", "--survey", "legacy", "--population", "main_galaxies", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", ["simulate", str(path), *arguments, "--size", "16"])
    main()
    assert "12 objects" in capsys.readouterr().out
    with open_sample(path) as sample:
        assert sample.images().shape == (12, 3, 16, 16) and set(sample.catalogue(["class"])["class"]) == {
            "GALAXY"
        }
        expected = Simulation(n_objects=12, survey="legacy", population="main_galaxies", seed=5, size=16)(0)
        np.testing.assert_array_equal(sample.images(), expected.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"survey": "vista"}, "no survey 'vista'; expected one of sdss, legacy, panstarrs"),
        ({"population": "comets"}, "no population 'comets'; expected one of main_galaxies, spectroscopic"),
        ({"family": "bpass"}, "no family 'bpass'; expected one of kcorrect, single_age"),
        ({"n_objects": 0}, "n_objects is 0"),
        ({"size": 31}, "size 31, .* an even size of at least 8"),
        ({"size": 6}, "size 6"),
        ({"neighbours": 1.5}, r"neighbours 1\.5; expected .* a share between 0 and 1"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        (
            {"objects_per_shard": 100},
            r"objects_per_shard \(100\) is not a multiple of objects_per_field \(64\)",
        ),
        ({"objects_per_field": 0}, r"not a multiple of objects_per_field \(0\)"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize("shard", [-1, 3])
def test_there_is_no_shard_beyond_the_last(shard):
    with pytest.raises(ValueError, match=f"no shard {shard}; expected 0 to 2"):
        SMALL(shard)


def test_spectra_are_read_once():
    assert load_seds("kcorrect") is load_seds("kcorrect")


def test_an_unknown_spectrograph_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match="no spectrograph 'muse'; expected one of desi, sdss"):
        Simulation(n_objects=10, spectrograph="muse")
