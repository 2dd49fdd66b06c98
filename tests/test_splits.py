"""Splits by sky pixel: what is near stays together, and nothing is on both sides."""

import numpy as np
import pytest

from astro_utils.splits import check_disjoint, group_folds, hold_out, sky_pixels


def sphere(rng, n):
    """Positions spread evenly over the sky, in degrees."""
    return rng.uniform(0, 360, n), np.degrees(np.arcsin(rng.uniform(-1, 1, n)))


def crowded_groups(rng, n_groups=150):
    """Group of each object where groups differ a hundredfold in size, in no order."""
    sizes = np.maximum(1, rng.lognormal(3, 1, n_groups)).astype(int)
    return rng.permutation(np.repeat(rng.permutation(10 * n_groups)[:n_groups], sizes))


@pytest.mark.parametrize("nside", [1, 4, 8])
def test_pixels_tile_the_sky_in_equal_areas(nside):
    n = 100 * 12 * nside**2
    counts = np.bincount(sky_pixels(*sphere(np.random.default_rng(0), n), nside))
    assert len(counts) == 12 * nside**2
    assert np.abs(counts - 100).max() < 60, "each holds 100 positions within six Poisson errors"


def test_pixels_are_in_ring_order_and_right_ascension_is_periodic():
    ra, dec = np.array([10.0, 100.0, 190.0, 280.0]), np.full(4, 90.0)
    assert set(sky_pixels(ra, dec)) <= {0, 1, 2, 3}
    assert set(sky_pixels(ra, -dec)) <= {764, 765, 766, 767}
    np.testing.assert_array_equal(sky_pixels(ra - 360, dec - 70), sky_pixels(ra, dec - 70))


def test_neighbours_on_the_sky_share_a_pixel_and_far_positions_do_not():
    rng = np.random.default_rng(1)
    ra, dec = sphere(rng, 20_000)
    ra, dec = ra[np.abs(dec) < 80], dec[np.abs(dec) < 80]
    angle, arcsec = rng.uniform(0, 2 * np.pi, len(ra)), 1 / 3600
    beside = ra + arcsec * np.cos(angle) / np.cos(np.radians(dec)), dec + arcsec * np.sin(angle)
    here = sky_pixels(ra, dec)
    # An edge of a 7.3 degree pixel passes between two positions in about one case of 7.3 * 3600 / 2.5.
    assert (sky_pixels(*beside) == here).mean() > 0.999
    assert (sky_pixels(ra + 180, -dec) != here).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_no_group_is_in_two_folds_and_folds_are_even(seed, n_folds):
    groups = crowded_groups(np.random.default_rng(100 + seed))
    folds = group_folds(groups, n_folds, seed)
    assert folds.shape == groups.shape
    assert all(len(set(folds[groups == group])) == 1 for group in np.unique(groups))
    sizes = np.bincount(folds)
    assert len(sizes) == n_folds
    assert sizes.max() < 1.1 * len(groups) / n_folds and sizes.min() > 0.9 * len(groups) / n_folds


def test_folds_depend_on_the_seed_and_on_nothing_else():
    rng = np.random.default_rng(2)
    groups = crowded_groups(rng)
    folds = group_folds(groups, 5, seed=0)
    np.testing.assert_array_equal(folds, group_folds(groups, 5, seed=0))
    order = rng.permutation(len(groups))
    np.testing.assert_array_equal(folds[order], group_folds(groups[order], 5, seed=0))
    # Which objects are tested together, whatever the fold is called, must change with the seed.
    together = [folds == folds[0], (other := group_folds(groups, 5, seed=1)) == other[0]]
    assert (together[0] & together[1]).sum() < 0.7 * together[0].sum()


def test_folds_of_equal_groups_hold_equally_many():
    folds = group_folds(np.repeat(np.arange(20), 7), 5, seed=3)
    assert np.bincount(folds).tolist() == [28] * 5


def test_fewer_groups_than_folds_is_refused():
    assert set(group_folds(np.array([7, 7, 8, 9]), 3, seed=0)) == {0, 1, 2}
    with pytest.raises(ValueError, match="3 groups cannot fill 4 folds"):
        group_folds(np.array([7, 7, 8, 9]), 4, seed=0)


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 1), (0.1, 5), (0.5, 25), (1.0, 49)])
def test_held_out_groups_are_whole_and_as_many_as_asked(fraction, expected):
    rng = np.random.default_rng(4)
    groups = rng.permutation(np.repeat(np.arange(50), rng.integers(1, 30, 50)))
    held = hold_out(groups, fraction, seed=0)
    assert held.dtype == bool and held.any() and not held.all()
    assert len(set(groups[held])) == expected
    assert not set(groups[held]) & set(groups[~held])


def test_another_seed_holds_out_other_groups():
    groups = np.arange(200) // 2
    held = [frozenset(groups[hold_out(groups, 0.1, seed)]) for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_one_group_cannot_be_held_out():
    assert hold_out(np.array([3, 3, 5]), 0.1, seed=0).sum() in (1, 2)
    with pytest.raises(ValueError, match="one group cannot be on both sides"):
        hold_out(np.array([3, 3, 3]), 0.1, seed=0)


def test_a_leak_is_counted_and_named():
    check_disjoint(np.array([1, 2, 3]), np.array([4, 5]), "sky pixels")
    with pytest.raises(ValueError, match=r"2 sky pixels .*\(75\.0% of the test rows\), such as \[2, 3\]"):
        check_disjoint(np.array([1, 2, 3, 3]), np.array([3, 2, 3, 9]), "sky pixels")
