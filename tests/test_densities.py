"""Scores of redshift densities against the closed forms of Gaussian and uniform densities."""

import numpy as np
import pytest
from scipy import stats

from astro_utils.densities import cde_loss, central_coverage, crps, pit, pit_ks, quantiles, to_qp

GRID = np.linspace(0, 2, 4001)
SIGMA = np.array([0.02, 0.05, 0.1])
MEAN = np.array([1.0, 0.9, 1.1])


def gaussians(mean=MEAN, sigma=SIGMA, grid=GRID):
    return stats.norm.cdf(grid, np.asarray(mean)[:, None], np.asarray(sigma)[:, None])


@pytest.mark.parametrize("offset", [-3.0, -0.7, 0.0, 0.4, 2.5])
def test_crps_of_a_gaussian(offset):
    """Gneiting & Raftery (2007), eq. 21."""
    got = crps(gaussians(), GRID, MEAN + offset * SIGMA)
    phi, cumulative = stats.norm.pdf(offset), stats.norm.cdf(offset)
    expected = SIGMA * (offset * (2 * cumulative - 1) + 2 * phi - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(got, expected, rtol=1e-3)
    if offset == 0:
        np.testing.assert_allclose(got, SIGMA * (np.sqrt(2) - 1) / np.sqrt(np.pi), rtol=1e-3)


@pytest.mark.parametrize("z", [-0.5, 0.0, 0.13, 0.5, 0.99, 1.0, 1.7])
@pytest.mark.parametrize("points", [2, 3, 11])
def test_crps_of_a_uniform_density_is_exact_on_any_grid(z, points):
    """A linear F needs no fine grid: the score is y^3/3 + (1-y)^3/3, and grows by the distance outside."""
    grid = np.linspace(0, 1, points)
    inside = np.clip(z, 0, 1)
    expected = (inside**3 + (1 - inside) ** 3) / 3 + abs(z - inside)
    assert crps(grid[None], grid, np.array([z]))[0] == pytest.approx(expected, rel=1e-12)


def test_crps_of_certainty_is_the_absolute_error():
    """Of a density in one narrow cell, as an estimator without an uncertainty would give."""
    truth = np.array([0.3, 1.0, 1.6])
    certain = np.repeat((GRID >= 1.0)[None].astype(float), 3, axis=0)
    np.testing.assert_allclose(crps(certain, GRID, truth), np.abs(truth - 1.0), atol=1e-3)


def test_crps_does_not_depend_on_an_uneven_grid():
    uneven = np.unique(np.concatenate([np.linspace(0, 2, 300), np.linspace(0.6, 1.4, 4000)]))
    z = np.array([0.97, 0.93, 1.4])
    np.testing.assert_allclose(crps(gaussians(grid=uneven), uneven, z), crps(gaussians(), GRID, z), rtol=1e-3)


@pytest.mark.parametrize("offset", [-2.0, 0.0, 1.3])
def test_cde_loss_of_a_gaussian(offset):
    width = GRID[1] - GRID[0]
    z = (
        np.floor((MEAN + offset * SIGMA) / width) + 0.5
    ) * width  # p is one number from grid point to grid point
    expected = 1 / (2 * SIGMA * np.sqrt(np.pi)) - 2 * stats.norm.pdf(z, MEAN, SIGMA)
    np.testing.assert_allclose(cde_loss(gaussians(), GRID, z), expected, rtol=1e-3)


@pytest.mark.parametrize("score", [crps, cde_loss])
def test_scores_are_proper(score):
    """On the average over the truth, no other mean or width scores better than the true density."""
    grid = np.linspace(0.5, 1.5, 401)
    z = np.random.default_rng(0).normal(1.0, 0.05, 4000)

    def average(mean, sigma):
        cdf = np.broadcast_to(gaussians([mean], [sigma], grid), (len(z), len(grid)))
        return score(cdf, grid, z).mean()

    best = average(1.0, 0.05)
    assert best < min(average(1.02, 0.05), average(1.0, 0.035), average(1.0, 0.07))


def test_truth_outside_the_grid():
    z = np.array([-0.3, 2.4, 1.1])
    cdf = gaussians()
    np.testing.assert_array_equal(pit(cdf, GRID, z)[:2], [0.0, 1.0])
    density_squared = 1 / (2 * SIGMA * np.sqrt(np.pi))  # nothing is won where the density is zero
    np.testing.assert_allclose(cde_loss(cdf, GRID, z)[:2], density_squared[:2], rtol=1e-3)
    expected = np.abs(z - MEAN) - SIGMA / np.sqrt(np.pi)  # E|X - y| - E|X - X'| / 2, far away
    np.testing.assert_allclose(crps(cdf, GRID, z)[:2], expected[:2], rtol=1e-4)


def test_pit_is_the_cdf_at_the_truth():
    z = np.array([0.99, 1.0, 1.25])
    np.testing.assert_allclose(pit(gaussians(), GRID, z), stats.norm.cdf((z - MEAN) / SIGMA), atol=1e-5)


def many(rng, n, stretch):
    """PIT values of n Gaussians whose true widths are `stretch` times the claimed ones."""
    mean, sigma = rng.uniform(0.6, 1.4, n), rng.uniform(0.02, 0.1, n)
    grid = np.linspace(0, 2, 801)
    return pit(gaussians(mean, sigma, grid), grid, rng.normal(mean, stretch * sigma))


def test_calibrated_densities_have_uniform_pit_and_nominal_coverage():
    n = 3000
    values = many(np.random.default_rng(1), n, stretch=1.0)
    assert pit_ks(values) < 1.63 / np.sqrt(n)  # the 1 % point of the distance
    for level in (0.68, 0.9, 0.95):
        assert abs(central_coverage(values, level) - level) < 3.5 * np.sqrt(level * (1 - level) / n)


@pytest.mark.parametrize(("stretch", "expected"), [(2.0, 0.3830), (0.5, 0.9523)])
def test_wrong_widths_show_in_the_coverage(stretch, expected):
    """Errors twice too small leave 38 % in the 68 % interval, errors twice too large 95 %."""
    values = many(np.random.default_rng(2), 3000, stretch)
    assert central_coverage(values, 0.6827) == pytest.approx(expected, abs=0.03)
    assert pit_ks(values) > 0.1


def test_distance_from_uniform_is_that_of_scipy():
    rng = np.random.default_rng(3)
    for values in (rng.uniform(size=50), rng.beta(2, 1, 200), np.array([0.2]), np.zeros(5), np.ones(4)):
        assert pit_ks(values) == pytest.approx(stats.kstest(values, "uniform").statistic, abs=1e-12)


def test_quantiles_of_a_gaussian_and_of_the_cdf_agree():
    levels = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
    q = quantiles(gaussians(), GRID, levels)
    np.testing.assert_allclose(q, stats.norm.ppf(levels, MEAN[:, None], SIGMA[:, None]), atol=1e-4)
    for column, level in enumerate(levels):
        np.testing.assert_allclose(pit(gaussians(), GRID, q[:, column]), level, atol=1e-9)


def test_quantiles_stay_on_the_grid_where_the_density_does_not():
    grid = np.linspace(0, 0.7, 71)
    low, high = gaussians([-0.05, 0.75], [0.1, 0.1], grid)
    assert quantiles(low[None], grid, np.array([0.3]))[0, 0] == 0.0  # 69 % of it lies below zero
    assert quantiles(high[None], grid, np.array([0.7]))[0, 0] == 0.7


def test_quantile_in_a_gap_between_two_peaks_is_between_them():
    two = 0.5 * (gaussians([0.5], [0.01]) + gaussians([1.5], [0.01]))
    q = quantiles(two, GRID, np.array([0.25, 0.5, 0.75]))[0]
    np.testing.assert_allclose(q[[0, 2]], [0.5, 1.5], atol=1e-3)
    assert 0.5 < q[1] < 1.5


@pytest.mark.parametrize("score", [pit, crps, cde_loss])
def test_shapes_that_do_not_fit_are_named(score):
    with pytest.raises(ValueError, match=r"cdf has shape \(3, 4001\); expected \(N, 4000\)"):
        score(gaussians(), GRID[:-1], MEAN)
    with pytest.raises(ValueError, match="3 densities but 2 redshifts"):
        score(gaussians(), GRID, MEAN[:2])


def test_densities_survive_the_way_through_qp(tmp_path):
    qp = pytest.importorskip("qp", reason="qp-prob is not installed")
    grid = np.linspace(0, 0.7, 701)
    mean, sigma = np.array([0.1, 0.3, 0.45]), np.array([0.01, 0.02, 0.04])
    cdf = gaussians(mean, sigma, grid)
    to_qp(cdf, grid).write_to(str(tmp_path / "densities.hdf5"))
    ensemble = qp.read(str(tmp_path / "densities.hdf5"))
    np.testing.assert_allclose(ensemble.cdf(grid), cdf, atol=2e-3)
    np.testing.assert_allclose(np.ravel(ensemble.mean()), mean, atol=1e-3)
    middle = quantiles(cdf, grid, np.array([0.16, 0.5, 0.84]))
    np.testing.assert_allclose(ensemble.ppf([0.16, 0.5, 0.84]), middle, atol=1e-3)
