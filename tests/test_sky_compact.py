"""Compact samples: who is kept, in what numbers, and that nothing but the numbers of the classes changed."""

import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.sample_writer import write_sharded
from astro_utils.samples import SampleError, open_sample, validate
from astro_utils.sky.compact import CompactSky, compact_sample, kept_columns, main
from astro_utils.sky.degrade import degrade
from astro_utils.sky.population import CLASSES, COMPACT_PARENT, SPECTROSCOPIC
from astro_utils.sky.selections import compact, model_r
from astro_utils.sky.simulate import Simulation
from astro_utils.sky.surveys import LEGACY, SDSS

N = 2304
SIMULATION = Simulation(n_objects=N, population="compact_parent", seed=21)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return compact_sample(tmp_path_factory.mktemp("compact") / "sky.h5", N, seed=21)


@pytest.fixture(scope="module")
def kept(path):
    with open_sample(path) as sample:
        return sample.block(slice(None))


@pytest.fixture(scope="module")
def parent():
    """All objects of the last shard, compact or not."""
    return SIMULATION(2)


@pytest.fixture(scope="module")
def spectroscopic():
    """Of the same seed: what is compact, and how red it is, depends on the few fields that are drawn."""
    table = Simulation(n_objects=N, objects_per_shard=N, seed=21)(0).catalogue
    return table[compact(table)]


# -------------------------------------------------------------------------------------------- who is kept


def test_compact_objects_are_kept_and_no_others(parent, kept):
    table = parent.catalogue
    chosen = (compact(table) & ~table["blank"]).to_numpy()
    assert len(table) == 256 and 0.35 < chosen.mean() < 0.65
    last = kept.catalogue["object_id"] >= table["object_id"].iloc[0]
    np.testing.assert_array_equal(kept.images[last], parent.images[chosen])
    expected, found = table.loc[chosen, list(kept.catalogue)], kept.catalogue[last]
    pd.testing.assert_frame_equal(
        *(part.reset_index(drop=True) for part in (expected, found)), check_dtype=False
    )
    assert compact(kept.catalogue).all() and 0.4 < len(kept) / N < 0.6 and kept.spectra is None


def test_blank_stamps_are_not_kept(monkeypatch, parent):
    blank = parent.catalogue.assign(blank=np.arange(256) % 2 == 0)
    monkeypatch.setattr(Simulation, "__call__", lambda *_: replace(parent, catalogue=blank))
    block = CompactSky(SIMULATION)(2)
    assert (block.catalogue["object_id"] % 2 == 1).all() and not block.catalogue["blank"].any()
    assert len(block.images) == len(block) > 40


def test_columns_are_those_of_the_constant_and_described(kept):
    assert set(kept.catalogue) == kept_columns(SDSS) == set(kept.columns)
    assert set(MARGNET_FEATURES) < set(kept.catalogue)
    assert {"object_id", "parent", "z", "r_mag", "sigma_u", "psf_flux_ivar_z"} < set(kept.catalogue)
    assert "petro_flux_r" not in kept.catalogue and "true_flux_r" not in kept.catalogue


def test_other_surveys_keep_what_is_compact_in_their_own_images():
    simulation = replace(SIMULATION, n_objects=128, survey="legacy")
    block, parent = CompactSky(simulation)(0), simulation(0).catalogue
    assert set(block.catalogue) == kept_columns(LEGACY) and block.images.shape[1] == 3
    mean = np.mean([parent[f"radius_{b}"] / parent[f"psffwhm_{b}"] for b in "grz"], axis=0)
    np.testing.assert_array_equal(block.catalogue["object_id"], parent["object_id"][mean <= 0.5])


def test_compact_objects_can_be_dimmed(kept):
    table = kept.catalogue[:20]
    _, dimmed = degrade(kept.images[:20], table, SDSS, model_r(table) + 0.5, np.random.default_rng(0), 21)
    assert (model_r(dimmed) - model_r(table)).median() == pytest.approx(0.5, abs=0.1)


# -------------------------------------------------------------------------------------- in what numbers


def test_classes_are_equal_in_number(kept):
    shares = kept.catalogue["class"].value_counts(normalize=True)
    assert set(shares.index) == set(CLASSES)
    np.testing.assert_allclose(shares, 1 / 3, atol=3 * np.sqrt(2 / 9 / len(kept)))


def test_programmes_keep_their_shares_within_a_class():
    assert set(COMPACT_PARENT.shares) == set(SPECTROSCOPIC.shares)
    for members in (
        ("intermediate", "luminous_red", "faint_blue"),
        ("bright_stars", "blue_stars", "red_stars"),
    ):
        first, second = (
            np.array([population.shares[name] for name in members])
            for population in (COMPACT_PARENT, SPECTROSCOPIC)
        )
        np.testing.assert_allclose(first / first.sum(), second / second.sum())
    assert COMPACT_PARENT.r_limits == SPECTROSCOPIC.r_limits
    assert COMPACT_PARENT.max_size == SPECTROSCOPIC.max_size
    assert sum(COMPACT_PARENT.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", CLASSES)
def test_within_a_class_objects_are_those_of_the_spectroscopic_sky(kept, spectroscopic, kind):
    mine, theirs = (
        table[table["class"] == kind].assign(model_r=model_r) for table in (kept.catalogue, spectroscopic)
    )
    assert min(len(mine), len(theirs)) > 150
    for name in ("model_r", "u_g", "g_r", "r_i", "i_z", "radius_r", "z"):
        assert ks_2samp(mine[name], theirs[name]).pvalue > 2e-3, name
    first, second = (table["programme"].value_counts(normalize=True) for table in (mine, theirs))
    np.testing.assert_allclose(first[second.index], second, atol=0.08)


# ---------------------------------------------------------------------------------------------- samples


def test_a_sample_says_what_it_is_and_is_made_once(path):
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        simulation = sample.info.provenance["simulation"]
        assert (simulation["population"], simulation["n_objects"]) == ("compact_parent", N)
        assert "at most 0.5" in sample.info.provenance["selection"]
        assert (sample.info.seed, sample.info.survey, sample.info.bands) == (21, "sdss", SDSS.bands)
    before = path.stat().st_mtime_ns
    assert compact_sample(path, N, seed=21) == path and path.stat().st_mtime_ns == before
    with pytest.raises(SampleError, match="is not the sample asked for"):
        compact_sample(path, N, seed=22)


def test_a_sample_has_the_same_bytes_for_any_number_of_workers(tmp_path):
    sky = CompactSky(replace(SIMULATION, n_objects=90, objects_per_shard=32, objects_per_field=32))
    one, two = (
        write_sharded(tmp_path / f"{workers}.h5", sky, sky.n_shards, sky.info, workers=workers)
        for workers in (1, 2)
    )
    assert one.read_bytes() == two.read_bytes()


def test_shards_without_a_compact_object_leave_nothing(tmp_path):
    """Shards of one or two objects, of which about half are kept."""
    sky = CompactSky(replace(SIMULATION, n_objects=9, objects_per_shard=2, objects_per_field=1))
    lengths = [len(sky(i)) for i in range(sky.n_shards)]
    assert 0 in lengths and max(lengths) == 2
    path = write_sharded(tmp_path / "sky.h5", sky, sky.n_shards, sky.info)
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        assert len(sample) == sum(lengths) and sample.images().shape == (sum(lengths), 5, 32, 32)


def test_command_line_makes_the_sample(tmp_path, monkeypatch):
    path = tmp_path / "sky.h5"
    monkeypatch.setattr(
        sys, "argv", ["compact", str(path), "--n-parent", "24", "--seed", "3", "--survey", "legacy"]
    )
    main()
    with open_sample(path) as sample:
        expected = CompactSky(Simulation(n_objects=24, survey="legacy", population="compact_parent", seed=3))(
            0
        )
        np.testing.assert_array_equal(sample.images(), expected.images)


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="n_objects is 0"):
        compact_sample(tmp_path / "sky.h5", 0, seed=0)
    with pytest.raises(ValueError, match="no survey 'vista'"):
        compact_sample(tmp_path / "sky.h5", 10, seed=0, survey="vista")
    assert not list(tmp_path.iterdir())
