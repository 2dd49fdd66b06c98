"""Kernel regression and redshift densities: known functions found, honest widths, clear refusals."""

import numpy as np
import pytest

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kernel import KernelRegression, MetricKernel
from astro_utils.kcorrections.redshift_density import RedshiftDensity


def curve(n, seed=0):
    """Three features, of which the third means nothing, and a smooth target."""
    x = np.random.default_rng(seed).normal(size=(n, 3)) * [1, 10, 0.1] + [5, 0, -3]
    return x, np.sin(x[:, 0]) + 0.1 * x[:, 1] * np.cos(x[:, 0])


def r2(predicted, true):
    return 1 - np.square(predicted - true).sum() / np.square(true - true.mean()).sum()


def test_a_smooth_function_is_found_whatever_the_units():
    (x, y), (new, true) = curve(1500), curve(500, seed=1)
    lengths = np.array([2.0, 2.0, np.inf])
    model = KernelRegression(lengths=lengths, n_centres=400).fit(x, y)
    assert r2(model.predict(new), true) > 0.99
    units = np.array([1e-3, 50.0, 7.0])
    scaled = KernelRegression(lengths=lengths, n_centres=400).fit(x * units + 9, y)
    np.testing.assert_allclose(scaled.predict(new * units + 9), model.predict(new), atol=1e-4)


def test_an_infinite_length_leaves_a_feature_out():
    x, y = curve(300)
    model = KernelRegression(lengths=np.array([2.0, 2.0, np.inf]), n_centres=100).fit(x, y)
    moved = x + np.array([0, 0, 100])
    np.testing.assert_array_equal(model.predict(moved), model.predict(x))
    default = KernelRegression(n_centres=100).fit(x, y)
    assert np.abs(default.predict(moved) - default.predict(x)).max() > 0.1


def test_far_from_everything_a_kernel_returns_to_the_mean():
    x, y = curve(500)
    model = KernelRegression(lengths=np.full(3, 0.5), n_centres=300).fit(x, y)
    far = x.mean(0) + 1e3 * x.std(0)
    assert model.predict(far[None])[0] == pytest.approx(y.mean(), abs=1e-3)
    # Beyond five spreads a feature is cut: nothing changes further out.
    np.testing.assert_array_equal(model.predict(far[None]), model.predict(10 * far[None]))


def test_many_targets_at_once_are_each_alone():
    x, y = curve(400)
    both = KernelRegression(n_centres=150).fit(x, np.stack([y, x[:, 1]], 1)).predict(x)
    np.testing.assert_allclose(both[:, 0], KernelRegression(n_centres=150).fit(x, y).predict(x), atol=1e-8)
    assert both.shape == (400, 2)


def test_more_rows_than_a_block(monkeypatch):
    x, y = curve(1000)
    whole = KernelRegression(n_centres=100).fit(x, y).predict(x)
    monkeypatch.setattr(KernelRegression, "BLOCK", 300)
    np.testing.assert_allclose(KernelRegression(n_centres=100).fit(x, y).predict(x), whole, atol=1e-6)


def test_the_same_galaxy_twice_among_the_centres():
    x, y = curve(100)
    twice = KernelRegression(n_centres=200).fit(np.concatenate([x, x]), np.concatenate([y, y]))
    assert r2(twice.predict(x), y) > 0.9


def test_wrong_input_of_a_kernel():
    x, y = curve(50)
    model = KernelRegression(n_centres=20).fit(x, y)
    with pytest.raises(ValueError, match=r"features of shape \(50,\); expected \(N, F\)"):
        model.predict(x[:, 0])
    with pytest.raises(ValueError, match="2 features; fitted to 3"):
        model.predict(x[:, :2])
    with pytest.raises(ValueError, match="features of galaxy 4 are not all finite"):
        model.predict(np.where(np.arange(50)[:, None] == 4, np.nan, x))
    with pytest.raises(ValueError, match="expected 50 rows of finite numbers"):
        KernelRegression().fit(x, y[1:])
    with pytest.raises(ValueError, match="expected 50 rows of finite numbers"):
        KernelRegression().fit(x, np.full(50, np.nan))
    with pytest.raises(ValueError, match="expected 3 numbers above 0"):
        KernelRegression(lengths=np.array([1.0, 2.0])).fit(x, y)
    with pytest.raises(ValueError, match="expected 3 numbers above 0"):
        KernelRegression(lengths=np.array([1.0, 2.0, 0.0])).fit(x, y)


def hidden_direction(n, seed=0):
    """Twelve features of which one sum decides, beside noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 12))
    truth = np.sin(1.5 * (x[:, 0] - x[:, 1]))
    return x, truth + 0.1 * rng.normal(size=n), truth


def test_a_learned_metric_finds_the_direction_that_matters():
    (x, y, _), (new, _, truth) = hidden_direction(900), hidden_direction(500, seed=1)
    scores = {}
    for rounds in (0, 2):
        model = MetricKernel(rounds=rounds, n_centres=400).fit(x, y)
        scores[rounds] = r2(model.predict(new), truth)
    assert scores[0] < 0.7 and scores[2] > 0.9
    lengths = np.linalg.norm(model._metric, axis=1)  # what a step along a feature is worth
    assert lengths[:2].min() > 2.5 * lengths[2:].max()


def test_a_learned_metric_does_not_mind_units():
    x, y, _ = hidden_direction(400)
    units = np.geomspace(1e-3, 1e3, 12)
    plain, scaled = (MetricKernel(n_centres=200).fit(x * u, y).predict(x * u) for u in (1.0, units))
    np.testing.assert_allclose(plain, scaled, atol=1e-5)


def test_noise_decides_how_closely_the_training_set_is_followed():
    x, y, _ = hidden_direction(400)
    close, far = (MetricKernel(noise=noise, n_centres=400).fit(x, y).predict(x) for noise in (1e-3, 1.0))
    assert np.abs(close - y).mean() < 0.2 * np.abs(far - y).mean()
    nothing = MetricKernel(noise=1e6).fit(x, y)
    np.testing.assert_allclose(nothing.predict(x), y.mean(), atol=0.01)


def test_a_metric_kernel_far_from_everything_returns_to_the_mean():
    x, y = curve(400)
    model = MetricKernel(reach=0.3, n_centres=200, rounds=0).fit(x, y)
    far = x.mean(0) + 1e3 * x.std(0)
    assert model.predict(far[None])[0] == pytest.approx(y.mean(), abs=1e-3)


def test_a_feature_that_never_changes_and_rows_beyond_a_block(monkeypatch):
    x, y, _ = hidden_direction(500)
    x = np.column_stack([x, np.full(500, 3.0)])
    whole = MetricKernel(n_centres=100).fit(x, y).predict(x)
    monkeypatch.setattr(MetricKernel, "BLOCK", 150)
    np.testing.assert_allclose(MetricKernel(n_centres=100).fit(x, y).predict(x), whole, atol=1e-6)


def test_wrong_input_of_a_metric_kernel():
    x, y, _ = hidden_direction(50)
    with pytest.raises(ValueError, match=r"reach 0, noise 0\.024, 2000 centres, 2 rounds; expected"):
        MetricKernel(reach=0)
    with pytest.raises(ValueError, match=r"target of shape \(50, 2\); expected \(N,\)"):
        MetricKernel().fit(x, np.stack([y, y], 1))
    with pytest.raises(ValueError, match="features of galaxy 4 are not all finite"):
        MetricKernel().fit(np.where(np.arange(50)[:, None] == 4, np.nan, x), y)
    with pytest.raises(ValueError, match="3 features; fitted to 12"):
        MetricKernel().fit(x, y).predict(x[:, :3])


def noisy_sky(n, seed):
    """Colours that follow the redshift, with noise that differs from galaxy to galaxy."""
    rng = np.random.default_rng(seed)
    z, error = rng.uniform(0.05, 0.4, n), rng.uniform(0.005, 0.05, n)
    colours = np.stack([3 * z, 1 - 2 * z, z], 1) + 3 * error[:, None] * rng.normal(size=(n, 3))
    values = np.column_stack([colours, np.log(error), np.log(error), rng.normal(size=n)])
    kinds = ("colour", "colour", "colour", "error", "error", "magnitude")
    return Features(values, kinds), z, error, rng.integers(60, size=n)


def test_redshift_densities_cover_as_they_say():
    features, z, _, groups = noisy_sky(2500, 0)
    new, true, error, _ = noisy_sky(2500, 1)
    density = RedshiftDensity(n_quantiles=40).fit(features, z, groups)
    quantiles = density.quantiles(new)
    assert quantiles.shape == (2500, 40)
    assert (np.diff(quantiles, axis=1) >= 0).all()
    for level in (0.1, 0.5, 0.9):
        edge = np.array([np.interp(level, density.levels, q) for q in quantiles])
        assert abs((true < edge).mean() - level) < 0.03
    assert abs((z < density.out_of_fold).mean() - 0.5) < 0.03
    own = np.median(density.quantiles(features), axis=1)
    assert np.abs(z - density.out_of_fold).mean() > np.abs(z - own).mean()
    width = quantiles[:, 35] - quantiles[:, 4]
    noisy = error > np.median(error)
    assert np.median(width[noisy]) > 1.3 * np.median(width[~noisy])


def test_kinds_of_features():
    with pytest.raises(ValueError, match=r"values of shape \(4, 2\) for 1 kinds"):
        Features(np.zeros((4, 2)), ("colour",))
    with pytest.raises(ValueError, match="kind 'hue'; expected some of colour, magnitude"):
        Features(np.zeros((4, 1)), ("hue",))
    joined = Features(np.zeros((4, 1)), ("colour",)).join("redshift", np.arange(4.0))
    np.testing.assert_array_equal(joined.lengths({"redshift": 2.0}), [np.inf, 2.0])
    np.testing.assert_array_equal(joined.select(np.array([3, 1])).values, [[0, 3], [0, 1]])
    assert len(joined) == 4
    kept = joined.join("error", np.arange(4.0) + 9).of("error", "colour")
    assert kept.kinds == ("colour", "error")
    np.testing.assert_array_equal(kept.values[:, 1], [9, 10, 11, 12])
