"""Baselines and ours: each told what it may know, and no redshift, spectrum or pixel that it may not."""

import dataclasses

import numpy as np
import pytest
from astra_sample import COMPONENTS, galaxies, model, poisoned, predicted, task

from astro_utils.astra.grid import synthetic_flux
from astro_utils.astra.methods import (
    CATALOGUE,
    CEILINGS,
    KINDS,
    OURS,
    Predicted,
    Task,
    baselines,
    finder,
    fit_ours,
    ours,
    prepare,
)
from astro_utils.astra.simulated import MAX_REDSHIFT
from astro_utils.kcorrections.features import Features
from astro_utils.samples import Spectra

#: What Predicted says without being told a redshift.
HONEST = ("mean", "variance", "draw", "at_median", "draw_z", "redshifts")
LEARNED = ("mean spectrum", "neighbours in colour", "regression on photometry")


@pytest.fixture(scope="module")
def found():
    return baselines(task(), predicted().redshifts)


def with_galaxies(some):
    return Task(some, task().parts)


def same(a: Predicted, b: Predicted, names=HONEST):
    for name in names:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-6, err_msg=name)


def with_features(some, change, kind="embedding"):
    """Change the features of one kind."""
    old = some.photometry.features
    mine = np.array([k == kind for k in old.kinds])
    features = Features(np.where(mine, change(old.values), old.values), old.kinds)
    return dataclasses.replace(some, photometry=dataclasses.replace(some.photometry, features=features))


# ------------------------------------------------------------------------------------------------------ task


def test_a_task_is_split_by_field():
    one = task()
    parts = one.train, one.calibration, one.test
    assert sum(map(len, parts)) == len(one.galaxies)
    for part, rows in zip(parts, (one.parts.train, one.parts.calibration, one.parts.test), strict=True):
        np.testing.assert_array_equal(part.z, one.galaxies.z[rows])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert not set(parts[i].fields) & set(parts[j].fields)
    other = prepare(galaxies(), seed=5)
    assert set(other.test.fields) != set(one.test.fields)


def test_the_reference_is_the_mean_training_spectrum():
    spectra = task().train.spectra
    expected = np.average(spectra.flux.astype(float), axis=0, weights=spectra.ivar)
    np.testing.assert_allclose(task().reference, expected, rtol=1e-5)
    wrong = poisoned(galaxies(), np.r_[task().parts.test, task().parts.calibration], "spectrum")
    np.testing.assert_array_equal(with_galaxies(wrong).reference, task().reference)


# ------------------------------------------------------------------------------------------------- baselines


def test_every_baseline_answers_at_unit_r(found):
    assert set(LEARNED) < set(found) and CEILINGS[0] in found and OURS not in found
    n, length = len(task().test), len(task().test.spectra.wavelength)
    for name, flux in found.items():
        assert flux.shape == (n, length) and flux.dtype == np.float32, name
        flat = Spectra(task().test.spectra.wavelength, flux, np.ones_like(flux))
        np.testing.assert_allclose(synthetic_flux(flat, ["sdss2010-r"])[:, 0], 1, rtol=2e-3, err_msg=name)
    np.testing.assert_allclose(found["mean spectrum"], np.tile(task().reference, (n, 1)), rtol=1e-6)


def test_baselines_know_nothing_of_test_spectra_and_only_the_ceiling_their_redshifts(found):
    rows = task().parts.test
    wrong = poisoned(galaxies(), rows, "spectrum", "images")
    again = baselines(with_galaxies(wrong), predicted().redshifts)
    for name, flux in found.items():
        np.testing.assert_allclose(again[name], flux, atol=1e-6, err_msg=name)
    again = baselines(with_galaxies(poisoned(galaxies(), rows, "redshift")), predicted().redshifts)
    for name, flux in found.items():
        if name == CEILINGS[0]:
            assert np.abs(again[name] - flux).max() > 0.05
        else:
            np.testing.assert_allclose(again[name], flux, atol=1e-6, err_msg=name)


def test_baselines_learn_from_training_galaxies_alone(found):
    everything = "spectrum", "images", "redshift"
    wrong = poisoned(galaxies(), task().parts.calibration, *everything)
    again = baselines(with_galaxies(wrong), predicted().redshifts)
    for name, flux in found.items():
        np.testing.assert_allclose(again[name], flux, atol=1e-6, err_msg=name)
    wrong = poisoned(galaxies(), task().parts.train[:3], *everything)
    again = baselines(with_galaxies(wrong), predicted().redshifts)
    for name, flux in found.items():
        changed = np.abs(again[name] - flux).max() > 1e-4
        assert changed == (name in LEARNED), name


def test_baselines_see_the_catalogue_and_not_the_pixels(found):
    assert "embedding" not in CATALOGUE and set(CATALOGUE) | {"embedding"} == set(KINDS)
    wrong = with_features(galaxies(), lambda values: values[::-1])
    again = baselines(with_galaxies(wrong), predicted().redshifts)
    for name, flux in found.items():
        np.testing.assert_array_equal(again[name], flux, err_msg=name)
    wrong = with_features(galaxies(), lambda values: values[::-1], kind="shape")
    again = baselines(with_galaxies(wrong), predicted().redshifts)
    changed = {name for name, flux in found.items() if not np.array_equal(again[name], flux)}
    assert changed == {"regression on photometry"}


def test_templates_stand_at_the_redshifts_that_they_are_given():
    z = task().test.z
    told = baselines(task(), np.repeat(z[:, None], 24, axis=1))
    for name in ("template at photo-z", "template over p(z)"):
        np.testing.assert_allclose(told[name], told[CEILINGS[0]], rtol=1e-5)
    # The median of p(z), and the mean over p(z).
    wide = np.where(np.arange(25) < 12, z[:, None], z[:, None] + 0.05)
    wide[:, 0] = 0.001
    at_median = baselines(task(), wide)
    moved = dataclasses.replace(galaxies(), catalogue=galaxies().catalogue.assign(z=galaxies().z + 0.05))
    above = baselines(with_galaxies(moved), wide)[CEILINGS[0]]
    np.testing.assert_allclose(at_median["template at photo-z"], above, rtol=1e-4)
    lowest = baselines(task(), np.full((len(z), 24), 0.001))["template at photo-z"]
    mixed = (lowest + 3 * told[CEILINGS[0]] + 4 * above) / 8
    np.testing.assert_allclose(at_median["template over p(z)"], mixed, rtol=1e-3, atol=1e-5)


# ------------------------------------------------------------------------------------------------------ ours


def test_neither_test_nor_calibration_galaxies_are_learned_from():
    parts = task().parts
    rows = np.r_[parts.test, parts.calibration]
    wrong = poisoned(galaxies(), rows, "redshift", "spectrum", "images")
    fitted = fit_ours(with_galaxies(wrong), n_components=COMPONENTS)
    same(ours(task().test, fitted), predicted(), (*HONEST, "at_truth"))


@pytest.mark.parametrize("what", ["redshift", "spectrum"])
def test_training_galaxies_are_learned_from(what):
    wrong = poisoned(galaxies(), task().parts.train[:8], what)
    again = ours(task().test, fit_ours(with_galaxies(wrong), n_components=COMPONENTS))
    assert np.abs(again.mean - predicted().mean).max() > 1e-3


def test_the_true_redshift_enters_where_it_is_said_alone():
    some = task().test
    everything = np.arange(len(some))
    again = ours(poisoned(some, everything, "redshift", "spectrum", "images"), model())
    same(again, predicted())
    assert np.abs(again.at_truth - predicted().at_truth).max() > 0.05
    again = ours(poisoned(some, everything, "spectrum", "images"), model())
    same(again, predicted(), (*HONEST, "at_truth"))


def test_every_galaxy_is_answered_alone():
    rows = np.array([7, 2, 11])
    some = ours(task().test.select(rows), model())
    for name in ("mean", "variance", "at_median", "at_truth", "redshifts"):
        np.testing.assert_allclose(
            getattr(some, name), getattr(predicted(), name)[rows], rtol=1e-4, atol=1e-5
        )


def test_answers_are_spectra_at_unit_r_with_redshifts_of_the_sample():
    n, length = len(task().test), len(task().test.spectra.wavelength)
    wavelength = task().test.spectra.wavelength
    for name in ("mean", "draw", "at_median", "at_truth"):
        flux = getattr(predicted(), name)
        assert flux.shape == (n, length)
        flat = Spectra(wavelength, flux, np.ones_like(flux))
        np.testing.assert_allclose(synthetic_flux(flat, ["sdss2010-r"])[:, 0], 1, rtol=5e-3, err_msg=name)
    assert predicted().variance.shape == (n, length) and (predicted().variance >= 0).all()
    z = predicted().redshifts
    assert z.shape[0] == n and (np.diff(z, axis=1) >= 0).all()
    assert z.min() >= 0 and z.max() <= MAX_REDSHIFT + 0.05
    assert ((predicted().draw_z >= z[:, 0]) & (predicted().draw_z <= z[:, -1])).all()
    at_median = model().at_redshift(task().test.photometry, np.median(z, axis=1))
    np.testing.assert_allclose(predicted().at_median, at_median, rtol=1e-5)


def test_the_features_that_are_asked_for_are_those_that_count():
    def answers(some, kinds):
        one = with_galaxies(some)
        return ours(one.test, fit_ours(one, n_components=COMPONENTS, kinds=kinds), kinds)

    wrong = with_features(galaxies(), lambda values: values[::-1])
    same(answers(wrong, CATALOGUE), answers(galaxies(), CATALOGUE), (*HONEST, "at_truth"))
    assert np.abs(answers(wrong, KINDS).redshifts - predicted().redshifts).max() > 1e-3


def test_the_seed_decides_on_draws_alone():
    again, other = (ours(task().test, model(), seed=seed) for seed in (0, 1))
    same(again, predicted())
    same(other, predicted(), ("mean", "variance", "at_median", "at_truth", "redshifts"))
    assert (other.draw_z != predicted().draw_z).mean() > 0.9
    assert np.abs(other.draw - predicted().draw).max() > 0.01


def test_ours_is_better_than_the_mean_and_the_redshift_helps():
    truth = task().test.spectra

    def error(flux):
        return np.median((truth.ivar * (truth.flux - flux) ** 2).mean(1))

    reference = error(np.tile(task().reference, (len(task().test), 1)))
    assert error(predicted().mean) < 0.7 * reference
    assert error(predicted().at_truth) < error(predicted().mean)


# ---------------------------------------------------------------------------------------------------- finder


def test_the_finder_sees_the_redshift_at_which_a_spectrum_was_made():
    seek = finder(task(), model())
    for shown, z in (
        (predicted().at_truth, task().test.z),
        (predicted().at_median, np.median(predicted().redshifts, axis=1)),
        (predicted().draw, predicted().draw_z),
    ):
        assert np.median(np.abs(seek(shown) - z)) < 1e-3
    assert seek.redshifts[0] == 0 and MAX_REDSHIFT < seek.redshifts[-1] < MAX_REDSHIFT + 0.06
