"""Redshift estimators: closed forms against integration, symmetries, and calibration on a made-up sky."""

import numpy as np
import pytest
import torch
from scipy import stats
from threadpoolctl import threadpool_limits

from astro_utils.densities import crps as crps_on_grid
from astro_utils.densities import pit, pit_ks, quantiles
from astro_utils.models.boosting import BoostedRedshift
from astro_utils.models.mdn import MixtureDensityNetwork, RedshiftEnsemble, crps_loss, mixture_cdf
from astro_utils.models.neighbours import NeighbourRedshift
from astro_utils.photoz import fit_ensemble


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine, threads that wait for one another make small fits fifty times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


def mixtures(n=12, components=4):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(n, components, generator=generator, dtype=torch.float64) ** 3 + 1e-3
    means = torch.rand(n, components, generator=generator, dtype=torch.float64)
    sigmas = 0.01 + 0.2 * torch.rand(n, components, generator=generator, dtype=torch.float64)
    return weights / weights.sum(1, keepdim=True), means, sigmas


def member(seed=0, center=0.0, scale=1.0, n_features=6):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MixtureDensityNetwork(
            n_features=n_features, hidden=16, components=3, center=center, scale=scale
        )
    return network.eval()


def inputs(n=20, n_features=6):
    return 0.5 * torch.randn(n, n_features, generator=torch.Generator().manual_seed(1))


def test_crps_of_one_gaussian_is_the_closed_form():
    """Gneiting & Raftery (2007), eq. 21; a mixture of equal components is one Gaussian."""
    offset = torch.tensor([-2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    mean, sigma = torch.full((4, 3), 0.3).double(), torch.full((4, 3), 0.04).double()
    weights = torch.tensor([[0.2, 0.5, 0.3]]).double().expand(4, 3)
    got = crps_loss(weights, mean, sigma, 0.3 + 0.04 * offset)
    z = offset.numpy()
    expected = 0.04 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_crps_of_a_mixture_is_the_integral_over_its_cdf():
    weights, means, sigmas = mixtures()
    target = torch.linspace(-0.3, 1.3, len(means), dtype=torch.float64)
    grid = torch.linspace(-2, 3, 20_001, dtype=torch.float64)
    cdf = mixture_cdf(weights, means, sigmas, grid)
    above = (grid[None, :] >= target[:, None]).double()
    integral = torch.trapezoid((cdf - above) ** 2, grid, dim=1)
    got = crps_loss(weights, means, sigmas, target)
    np.testing.assert_allclose(got, integral, atol=2e-4)
    # The score on a grid, by which the estimators are compared, is the score that the network trains on.
    np.testing.assert_allclose(got, crps_on_grid(cdf.numpy(), grid.numpy(), target.numpy()), atol=1e-6)


def test_mixture_cdf_is_the_sum_of_normal_cdfs():
    weights, means, sigmas = mixtures()
    grid = torch.linspace(-2, 3, 501, dtype=torch.float64)
    cdf = mixture_cdf(weights, means, sigmas, grid).numpy()
    parts = stats.norm.cdf(grid.numpy(), means.numpy()[..., None], sigmas.numpy()[..., None])
    np.testing.assert_allclose(cdf, (weights.numpy()[..., None] * parts).sum(1), atol=1e-12)
    assert (np.diff(cdf, axis=1) >= 0).all()
    np.testing.assert_allclose(cdf[:, [0, -1]], [[0, 1]] * len(cdf), atol=1e-9)


def test_crps_loss_has_the_right_gradient():
    weights, means, sigmas = (t.requires_grad_() for t in mixtures(3, 2))
    target = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda m, s: crps_loss(weights.detach(), m, s, target), (means, sigmas))


def test_network_works_in_units_of_the_training_redshifts():
    """Another centre and scale move and stretch the density, and leave the loss alone."""
    unit, moved = member(), member(center=0.1, scale=0.05)
    x, z = inputs(), torch.linspace(-2, 2, 20)
    torch.testing.assert_close(moved.loss(x, 0.1 + 0.05 * z), unit.loss(x, z), rtol=1e-4, atol=1e-5)
    grid = torch.linspace(-3, 3, 101)
    torch.testing.assert_close(moved.cdf(x, 0.1 + 0.05 * grid), unit.cdf(x, grid), rtol=1e-4, atol=1e-5)


def test_no_component_is_narrower_than_the_floor():
    network = member(scale=0.05)
    with torch.no_grad():
        network.layers[-1].bias[-3:] = -50.0  # as if trained towards a line
        weights, _, sigmas = network(inputs())
    assert (sigmas >= 0.05 * network.FLOOR * 0.999).all() and sigmas.min() < 0.05 * network.FLOOR * 1.1
    torch.testing.assert_close(weights.sum(1), torch.ones(20))


def ensemble(members=3):
    mean, std = torch.linspace(-1, 1, 6), torch.linspace(0.5, 2, 6)
    return RedshiftEnsemble([member(seed) for seed in range(members)], mean, std).eval()


@torch.no_grad()
def test_density_of_the_ensemble_is_the_mean_of_its_members():
    whole, grid, x = ensemble(), torch.linspace(-3, 3, 50), inputs()
    standardised = (x - whole.mean) / whole.std
    parts = [m.cdf(standardised, grid) for m in whole.members]
    torch.testing.assert_close(whole.cdf(x, grid), sum(parts) / 3)
    assert not torch.allclose(parts[0], parts[1])


@torch.no_grad()
def test_an_unmeasured_feature_counts_as_the_mean_of_the_training_set():
    whole, grid, x = ensemble(), torch.linspace(-3, 3, 50), inputs()
    x[4, 2] = torch.nan
    filled = x.clone()
    filled[4, 2] = whole.mean[2]
    cdf = whole.cdf(x, grid)
    assert torch.isfinite(cdf).all()
    torch.testing.assert_close(cdf, whole.cdf(filled, grid))


@torch.no_grad()
def test_an_absurd_feature_is_cut():
    whole, x = ensemble(), inputs(2)
    x[0, 1] = torch.tensor(1e30)
    x[1, 1] = torch.inf
    assert whole.standardise(x)[:, 1].tolist() == [whole.LIMIT] * 2


@torch.no_grad()
def test_a_galaxy_is_answered_alike_in_any_company():
    whole, grid, x = ensemble(), torch.linspace(-3, 3, 50), inputs()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(whole.cdf(x, grid)[order], whole.cdf(x[order], grid))
    torch.testing.assert_close(whole.cdf(x, grid)[7:8], whole.cdf(x[7:8], grid))


GRID = np.linspace(0, 0.7, 351)


def made_up_sky(rng, n):
    """Redshift from two informative features, with an error that grows with a third; and sky pixels."""
    x = rng.uniform(-1, 1, (n, 4))
    sigma = 0.01 + 0.02 * (x[:, 2] + 1) / 2
    z = 0.3 + 0.1 * x[:, 0] + 0.05 * np.sin(2 * x[:, 1]) + sigma * rng.normal(size=n)
    return x.astype(np.float32), z, rng.integers(40, size=n)


@pytest.fixture(scope="module")
def sky():
    rng = np.random.default_rng(0)
    return made_up_sky(rng, 1200), made_up_sky(rng, 800)


def boosted(train):
    return BoostedRedshift(iterations=80, learning_rate=0.1).fit(*train)


def networks(train):
    return fit_ensemble(*train, members=2, epochs=25, seed=0)


def near(train):
    return NeighbourRedshift(width=0.015).fit(*train[:2])


@pytest.mark.parametrize(
    ("build", "scatter", "distance"), [(boosted, 0.024, 0.06), (networks, 0.024, 0.08), (near, 0.03, 0.15)]
)
def test_estimators_are_sharp_and_calibrated(sky, build, scatter, distance):
    train, (x, z, _) = sky
    estimator = build(train)
    if build is networks:
        with torch.no_grad():
            cdf = estimator.cdf(torch.from_numpy(x), torch.from_numpy(GRID.astype(np.float32))).numpy()
    else:
        cdf = estimator.cdf(x, GRID)
    assert cdf.shape == (800, 351)
    assert (np.diff(cdf, axis=1) > -1e-6).all() and cdf.min() >= 0 and cdf.max() <= 1 + 1e-6
    assert (cdf[:, 0] < 1e-3).all() and (cdf[:, -1] > 0.999).all()
    median = quantiles(cdf, GRID, np.array([0.5]))[:, 0]
    assert np.sqrt(np.mean((median - z) ** 2)) < scatter, "the noise alone is 0.021, the whole range 0.07"
    assert pit_ks(pit(cdf, GRID, z)) < distance


def test_boosting_knows_where_it_is_uncertain(sky):
    train, (x, _, _) = sky
    low, high = quantiles(boosted(train).cdf(x, GRID), GRID, np.array([0.16, 0.84])).T
    width = (high - low) / 2
    noisy, clean = width[x[:, 2] > 0.6].mean(), width[x[:, 2] < -0.6].mean()
    assert noisy > 1.5 * clean, "the true errors are 0.028 and 0.012"


def test_boosting_takes_unmeasured_features(sky):
    (x, z, pixels), (x_test, z_test, _) = sky
    rng = np.random.default_rng(3)
    x, x_test = x.copy(), x_test.copy()
    x[rng.random(x.shape) < 0.1] = np.nan
    x_test[:, 3] = np.nan  # the feature that carries nothing
    cdf = BoostedRedshift(iterations=80, learning_rate=0.1).fit(x, z, pixels).cdf(x_test, GRID)
    assert np.isfinite(cdf).all()
    assert pit_ks(pit(cdf, GRID, z_test)) < 0.15


def test_boosting_depends_on_its_seed_alone(sky):
    (x, z, pixels), (x_test, _, _) = sky
    cdfs = [BoostedRedshift(iterations=8, seed=4).fit(x, z, pixels).cdf(x_test[:50], GRID) for _ in range(2)]
    np.testing.assert_array_equal(*cdfs)


def test_neighbours_recover_a_galaxy_that_is_in_the_training_set(sky):
    (x, z, _), _ = sky
    cdf = NeighbourRedshift().fit(x, z).cdf(x[:100], GRID)
    np.testing.assert_allclose(quantiles(cdf, GRID, np.array([0.5]))[:, 0], z[:100], atol=5e-4)


def test_neighbours_see_features_in_units_of_their_spread(sky):
    (x, z, _), (x_test, _, _) = sky
    unit = NeighbourRedshift().fit(x, z).cdf(x_test[:50], GRID)
    factor = np.array([1, 100, 0.01, 3])
    other = NeighbourRedshift().fit(x * factor + 7, z).cdf(x_test[:50] * factor + 7, GRID)
    np.testing.assert_allclose(other, unit, atol=1e-3)


def test_density_of_neighbours_with_one_redshift_has_the_width_of_the_smoothing():
    rng = np.random.default_rng(5)
    estimator = NeighbourRedshift(k=10, width=0.02).fit(rng.normal(size=(50, 2)), np.full(50, 0.3))
    cdf = estimator.cdf(rng.normal(size=(5, 2)), GRID)
    np.testing.assert_allclose(cdf, np.tile(stats.norm.cdf(GRID, 0.3, 0.02), (5, 1)), atol=1e-5)
