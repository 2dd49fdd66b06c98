"""Predictors of K on a sky that templates make: what each must know, beat and survive."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.predictors import (
    AtMedianRedshift,
    TemplateDensity,
    WithDensity,
    WithoutRedshift,
    WithRedshift,
)
from astro_utils.kcorrections.scores import cross_predict, k_scores
from astro_utils.kcorrections.template_grid import TemplateGrid, redshift_steps


@cache
def sky(n=900):
    """Galaxies whose K is a known function of redshift and of a hue that the colours show with noise."""
    rng = np.random.default_rng(5)
    z, hue = rng.uniform(0.03, 0.38, n), rng.normal(0, 1, n)

    def k_of(redshift, what):
        return -0.2 + redshift * (0.8 + 0.5 * what) + 2 * redshift**2

    colours = np.stack([4 * z + 0.3 * hue, 2 * z - 0.5 * hue], 1) + rng.normal(0, 0.05, (n, 2))
    magnitude = 17.5 - 3 * rng.exponential(0.3, n) + z
    errors = rng.normal(-3, 0.1, (n, 2))
    features = Features(
        np.column_stack([magnitude, colours, errors]), ("magnitude", "colour", "colour", "error", "error")
    )
    steps = redshift_steps()
    # What templates see of the hue at a redshift, and how badly that fits the colours.
    seen = (colours[:, :1] - 4 * steps) / 0.3
    chi2 = ((colours[:, 1:] - (2 * steps - 0.5 * seen)) / 0.1) ** 2
    grid = TemplateGrid(steps, k_of(steps, seen), chi2)
    groups = rng.integers(40, size=n)
    fitted = k_of(z, hue) + 0.02 * hue + rng.normal(0, 0.003, n)  # kcorrect, wrong by what the colours tell
    return Knowledge(features, groups, z, fitted, grid), k_of(z, hue)


def score(make):
    known, k = sky()
    return k_scores(cross_predict(make, known, k, known.groups, n_folds=3), k)


def test_each_step_of_knowledge_helps():
    none, density, redshift = (score(make)["r2"] for make in (WithoutRedshift, WithDensity, WithRedshift))
    assert 0.9 < none < redshift
    assert none - 0.005 < density
    assert redshift > 0.997


def test_what_is_learned_corrects_the_templates():
    known, k = sky()
    templates = k_scores(known.k_templates, k)
    assert score(WithRedshift)["rmse"] < 0.6 * templates["rmse"]


def test_templates_alone_know_the_redshift_where_chi2_does():
    known, k = sky()
    wide = dataclasses.replace(
        known, grid=dataclasses.replace(known.grid, chi2=np.zeros_like(known.grid.chi2))
    )
    alone = k_scores(cross_predict(TemplateDensity, known, k, known.groups, n_folds=3), k)
    blind = k_scores(cross_predict(TemplateDensity, wide, k, known.groups, n_folds=3), k)
    assert alone["r2"] > 0.8
    assert alone["rmse"] < 0.5 * blind["rmse"]


def test_averaging_over_a_density_is_no_worse_than_taking_its_median():
    known, k = sky()
    fitted, train, test = {}, known.select(np.arange(600)), known.select(np.arange(600, 900))
    for make in (AtMedianRedshift, WithDensity):
        fitted[make] = make().fit(train, k[:600])
    mean, spread = fitted[WithDensity].average(test)
    point = fitted[AtMedianRedshift].predict(test)
    assert k_scores(mean, k[600:])["rmse"] < 1.02 * k_scores(point, k[600:])["rmse"]
    assert (spread > 0).all()
    # Of the galaxies whose redshift is least certain K is least certain.
    error, wide = np.abs(mean - k[600:]), spread > np.median(spread)
    assert error[wide].mean() > error[~wide].mean()


def test_a_predictor_does_not_read_what_it_must_not_know():
    known, k = sky()
    train, test = np.arange(0, 600), np.arange(600, 900)
    hidden = dataclasses.replace(known.select(test), z=None, k_templates=None)
    for make in (WithoutRedshift, WithDensity, AtMedianRedshift):
        fitted = make().fit(known.select(train), k[train])
        np.testing.assert_array_equal(fitted.predict(hidden), fitted.predict(known.select(test)))
    fitted = WithRedshift(templates=False).fit(known.select(train), k[train])
    bare = dataclasses.replace(known.select(test), k_templates=None, grid=None)
    np.testing.assert_array_equal(fitted.predict(bare), fitted.predict(known.select(test)))


def test_a_galaxy_that_templates_cannot_fit_still_gets_its_k():
    known, k = sky()
    train, test = known.select(np.arange(600)), known.select(np.arange(600, 900))
    grid = TemplateGrid(test.grid.z, test.grid.k.copy(), test.grid.chi2.copy())
    grid.k[7], grid.chi2[7] = np.nan, np.inf
    lost = dataclasses.replace(
        test, k_templates=np.where(np.arange(300) == 7, np.nan, test.k_templates), grid=grid
    )
    for make in (WithDensity, WithRedshift):
        fitted = make().fit(train, k[:600])
        found = fitted.predict(lost)
        assert np.isfinite(found).all()
        assert abs(found[7] - k[607]) < 0.15
        np.testing.assert_allclose(np.delete(found, 7), np.delete(fitted.predict(test), 7))
    assert np.flatnonzero(np.isnan(TemplateDensity().fit(train, k[:600]).predict(lost))).tolist() == [7]


def test_the_median_leaves_most_of_a_broken_fit_and_all_of_one_that_is_not_trusted():
    known, k = sky()
    train, test = known.select(np.arange(600)), known.select(np.arange(600, 900))
    fitted, one = WithRedshift().fit(train, k[:600]), np.arange(300) == 3
    broken = dataclasses.replace(test, k_templates=test.k_templates + np.where(one, 3.0, 0.0))
    assert abs(fitted.predict(broken)[3] - k[603]) < 1.0
    refused = dataclasses.replace(test, k_templates=np.where(one, np.nan, test.k_templates))
    assert abs(fitted.predict(refused)[3] - k[603]) < 0.1
    plain = WithRedshift(templates=False).fit(train, k[:600]).predict(test)
    assert fitted.predict(refused)[3] == pytest.approx(plain[3])


def test_photometry_that_no_template_follows_is_left_to_what_is_learned():
    known, k = sky()
    train, test = known.select(np.arange(600)), known.select(np.arange(600, 900))
    fitted = WithDensity().fit(train, k[:600])
    grid = TemplateGrid(test.grid.z, test.grid.k + 5, test.grid.chi2 + 51)  # wrong, and it shows
    direct = WithoutRedshift().fit(train, k[:600]).predict(test)
    np.testing.assert_allclose(fitted.predict(dataclasses.replace(test, grid=grid)), direct)


def test_what_is_missing_is_named():
    known, k = sky()
    with pytest.raises(ValueError, match="needs z, which is not given"):
        WithDensity().fit(dataclasses.replace(known, z=None), k)
    with pytest.raises(ValueError, match="needs k_templates"):
        WithRedshift().fit(dataclasses.replace(known, k_templates=None), k)
    fitted = TemplateDensity().fit(known, k)
    with pytest.raises(ValueError, match="needs grid"):
        fitted.predict(dataclasses.replace(known, grid=None))


def test_averages_over_densities():
    grid = TemplateGrid(
        np.array([0.1, 0.2, 0.4]), np.array([[0.0, 1.0, 3.0]] * 2), np.array([[0.0, 2.0, 8.0]] * 2)
    )
    np.testing.assert_allclose(grid.at(np.array([0.05, 0.15, 0.3, 0.9])), [[0, 0.5, 2, 3]] * 2)
    mean, spread = grid.average(np.array([[0.1, 0.2], [0.3, 0.3]]))
    np.testing.assert_allclose(mean, [0.5, 2])
    np.testing.assert_allclose(spread, [0.5, 0], atol=1e-12)
    mean, _ = grid.average(np.array([0.1, 0.4]), np.array([[0.25, 0.75], [1, 0]]))
    np.testing.assert_allclose(mean, [2.25, 0])
    np.testing.assert_allclose(grid.likelihood(np.array([0.2]))[0], 1)
    np.testing.assert_allclose(grid.likelihood(grid.z)[0], np.exp([0, -1, -4]))
    with pytest.raises(ValueError, match=r"weights of shape \(2, 1\); expected \(2, 2\)"):
        grid.average(np.array([0.1, 0.4]), np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"weights of galaxy 1 sum to 1\.5"):
        grid.average(np.array([0.1, 0.4]), np.array([[0.5, 0.5], [1, 0.5]]))


def test_an_infinite_chi2_does_not_spoil_its_neighbour():
    grid = TemplateGrid(np.array([0.1, 0.2]), np.array([[1.0, np.nan]]), np.array([[0.0, np.inf]]))
    np.testing.assert_array_equal(grid.at(np.array([0.1]))[0], [1.0])
    np.testing.assert_array_equal(grid.likelihood(np.array([0.1, 0.15]))[0], [1.0, 0.0])


def test_scores():
    true = np.array([0.0, 0.1, 0.2, 0.3])
    found = k_scores(true + np.array([0.01, -0.01, 0.03, 0.01]), true)
    assert found["bias"] == pytest.approx(0.01)
    assert found["mae"] == pytest.approx(0.015)
    assert found["rmse"] == pytest.approx(np.sqrt(0.0003))
    assert found["sigma_mad"] == pytest.approx(1.4826 * 0.01)
    assert found["r2"] == pytest.approx(1 - 0.0012 / 0.05)
    assert k_scores(np.full(4, true.mean()), true)["r2"] == pytest.approx(0)


def test_scores_refuse_to_broadcast_or_to_drop():
    true = np.linspace(0, 1, 5)
    with pytest.raises(ValueError, match=r"predicted \(5, 1\) and true \(5,\); expected one shape"):
        k_scores(true[:, None], true)
    with pytest.raises(ValueError, match=r"1 of 5 predictions are not finite"):
        k_scores(np.where(true == 1, np.nan, true), true)
