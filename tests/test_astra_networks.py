"""ASTRA's networks in the study: what differs between recipes, what they answer, and nothing that leaks."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from astra_sample import SIZE, poisoned, task
from torch import nn

from astro_utils.astra import networks
from astro_utils.astra.baselines import at_unit_r
from astro_utils.astra.folders import INPUTS_V1, INPUTS_V2, training_tensors
from astro_utils.astra.grid import SDSS_GRID, synthetic_flux
from astro_utils.astra.networks import ARCHITECTURES, Budget, answer, recipes
from astro_utils.astra.normalisation import arcsinh_scaling, noise_scaling
from astro_utils.astra.targets import log_grid, own_grid
from astro_utils.models.astra import ASTRA_V1, ASTRA_V2, without_quirks
from astro_utils.samples import Block, Spectra
from astro_utils.sky.surveys import SDSS

ALL = recipes("small", SIZE)
WAVELENGTH = SDSS_GRID.wavelength
BUDGET = Budget(epochs=2, batch_size=32)
POINTS = 200


def tiny(name):
    """Recipe of a name at a size that is trained at once."""
    recipe = ALL[name]
    config = dataclasses.replace(
        recipe.config, dim=16, depth=1, heads=2, hidden=16, rank=4, points=POINTS, dropout=0.1
    )
    return dataclasses.replace(
        recipe, config=config, inputs=dataclasses.replace(recipe.inputs, points=POINTS)
    )


def differences(one, other):
    """Names of the fields in which two recipes differ."""
    found = {"stops_on_training"} if one.stops_on_training != other.stops_on_training else set()
    for part in ("config", "inputs"):
        a, b = (dataclasses.asdict(getattr(recipe, part)) for recipe in (one, other))
        found |= {f"{part}.{name}" for name in a if a[name] != b[name]}
    return found


def told(monkeypatch, values):
    """Have networks say `values`, untrained; return what they were given to learn from."""
    seen = SimpleNamespace()

    def fit(model, loss, learn, stop, config, augment=None):
        seen.model, seen.loss, seen.learn, seen.stop = model, loss, learn, stop
        seen.config, seen.augment = config, augment

    def predict(model, images, batch_size):
        seen.images = images
        return torch.as_tensor(np.asarray(values, dtype=np.float32))

    monkeypatch.setattr(networks, "fit", fit)
    monkeypatch.setattr(networks, "predict", predict)
    return seen


# --------------------------------------------------------------------------------------------------- recipes


#: The fields in which each recipe differs from its whole; softening goes with the scaling that it is of, and
#: so does the floor of errors with targets that have errors.
SCALING, TARGET = {"inputs.normalisation", "inputs.softening"}, {"inputs.target", "inputs.error_floor"}
BROKEN = {
    "v1, mended but patch CNN redrawn": {"config.patch_weights"},
    "v1, mended but patch CNN frozen": {"config.patch_weights"},
    "v1, mended but pixels and bands mixed up": {"config.mixed_pixels"},
    "v1, mended but odd residuals": {"config.odd_residuals"},
    "v1, mended but each band scaled alone, arcsin": SCALING,
    "v1, mended but each band scaled alone, arcsinh": SCALING,
    "v1, mended but one scale per galaxy, arcsinh": SCALING | {"inputs.scale"},
    "v1, mended but targets of v1": TARGET,
    "v1, mended but targets of v2": TARGET,
    "v1, mended but stopped on the training set": {"stops_on_training"},
    "v2, mended but attention among frequencies": {"config.fourier"},
}


def test_each_recipe_differs_from_its_whole_in_one_thing():
    assert {name for name in ALL if " but " in name} == set(BROKEN)
    for name, expected in BROKEN.items():
        assert differences(ALL[name], ALL[name.partition(" but ")[0]]) == expected, name
    arcsinh = [f"v1, mended but {how}, arcsinh" for how in ("each band scaled alone", "one scale per galaxy")]
    assert differences(*(ALL[name] for name in arcsinh)) == {"inputs.scale"}


def test_what_is_broken_is_what_the_name_says():
    def of(name):
        return ALL[f"v1, mended but {name}"]

    assert of("patch CNN redrawn").config.patch_weights == "redrawn"
    assert of("patch CNN frozen").config.patch_weights == "frozen"
    assert of("pixels and bands mixed up").config.mixed_pixels
    assert of("odd residuals").config.odd_residuals
    for name in ("arcsin", "arcsinh"):
        inputs = of(f"each band scaled alone, {name}").inputs
        assert (inputs.normalisation, inputs.scale) == (name, "band")
    assert of("one scale per galaxy, arcsinh").inputs.normalisation == "arcsinh"
    assert of("one scale per galaxy, arcsinh").inputs.scale == "galaxy"
    assert of("targets of v1").inputs.target == "own 1"
    assert of("targets of v2").inputs.target == "own 2"
    assert of("stopped on the training set").stops_on_training
    assert ALL["v2, mended but attention among frequencies"].config.fourier
    assert len(set(ALL.values())) == len(ALL)  # no two are the same


@pytest.mark.parametrize(("architecture", "points"), [("small", 1000), ("published", 4000)])
def test_published_recipes_are_as_published(architecture, points):
    made = recipes(architecture, 64)
    for name, inputs, config in zip(
        ("v1, as published", "v2, as published"),
        (INPUTS_V1, INPUTS_V2),
        ARCHITECTURES[architecture],
        strict=True,
    ):
        assert made[name].inputs == dataclasses.replace(inputs, points=points)
        assert made[name].config == dataclasses.replace(config, size=64)
        assert made[name].stops_on_training
    assert (INPUTS_V1.points, INPUTS_V2.target, INPUTS_V1.normalisation) == (4000, "own 2", "arcsin")
    assert ARCHITECTURES["published"] == (ASTRA_V1, ASTRA_V2)


def test_mended_recipes_have_no_quirk():
    for version, name in ((1, "v1, mended"), (2, "v2, mended")):
        recipe = ALL[name]
        assert recipe.config == without_quirks(recipe.config)
        assert recipe.config.version == version and recipe.config.patch_weights == "trained"
        assert not recipe.stops_on_training
        assert (recipe.inputs.normalisation, recipe.inputs.target) == ("noise", "fixed")
        assert recipe.inputs.softening == pytest.approx(np.median(SDSS.sky_sigma))
        assert recipe.inputs.error_floor == 0.05
        published = ALL[f"v{version}, as published"]
        assert without_quirks(published.config) == recipe.config
    assert differences(ALL["v1, mended"], ALL["v2, mended"]) >= {"config.version", "config.depth"}


def test_sizes_and_names():
    assert {recipe.config.size for recipe in ALL.values()} == {SIZE}
    assert all(recipe.config.points == recipe.inputs.points for recipe in ALL.values())
    with pytest.raises(ValueError, match="architecture 'large'; expected one of small, published"):
        recipes("large", 64)
    with pytest.raises(ValueError, match="size is 40; expected a multiple of 16"):
        recipes("small", 40)


# --------------------------------------------------------------------------------------------------- answers


def curve(wavelength):
    return 1 + 0.3 * np.sin(wavelength / 400) + (wavelength / 9000) ** 2


def test_what_is_said_on_the_fixed_grid_becomes_spectra_at_unit_r(monkeypatch):
    n = len(task().test)
    said = np.linspace(0.2, 9, n)[:, None] * curve(log_grid(POINTS).wavelength)
    said[:, -1] = 1e3  # beyond all spectra: never asked for, so anything may stand there
    told(monkeypatch, said)
    found = answer(tiny("v1, mended"), task().galaxies, task().parts, BUDGET, 0)
    assert found.shape == (n, len(WAVELENGTH)) and found.dtype == np.float32
    flat = Spectra(WAVELENGTH, found, np.ones_like(found))
    np.testing.assert_allclose(synthetic_flux(flat, ["sdss2010-r"])[:, 0], 1, rtol=1e-5)
    expected = at_unit_r(WAVELENGTH, curve(WAVELENGTH)[None])
    np.testing.assert_allclose(found, np.tile(expected, (n, 1)), rtol=1e-2)
    np.testing.assert_allclose(found[:, :-15], np.tile(expected[:, :-15], (n, 1)), rtol=2e-3)


def with_raw(flux):
    """Return the galaxies as if all had been observed with one spectrum."""
    one = task().galaxies
    raw = Spectra(one.raw.wavelength, np.tile(flux, (len(one), 1)).astype(np.float32), one.raw.ivar)
    return dataclasses.replace(one, raw=raw)


@pytest.mark.parametrize("version", [1, 2])
def test_published_targets_are_undone_where_a_spectrum_is_the_median_one(monkeypatch, version):
    """Of a set of equal spectra the median extremes are those of each."""
    some = with_raw(curve(task().galaxies.raw.wavelength))
    recipe = tiny(f"v1, mended but targets of v{version}")
    target = own_grid(some.select(task().parts.test).raw, version, POINTS)
    told(monkeypatch, target.values)
    found = answer(recipe, some, task().parts, BUDGET, 0)
    expected = at_unit_r(WAVELENGTH, target.flux_at(target.values, WAVELENGTH).astype(np.float32))
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(found, at_unit_r(WAVELENGTH, curve(WAVELENGTH)[None])[[0] * len(found)], 2e-3)


def test_extremes_are_those_of_the_median_training_galaxy(monkeypatch):
    """Version 2 says how far between the extremes; whose they are, the training set decides."""
    one = task().galaxies
    values = np.tile(np.linspace(-1, 1, POINTS), (len(task().test), 1))
    told(monkeypatch, values)
    found = answer(tiny("v1, mended but targets of v2"), one, task().parts, BUDGET, 0)
    target = own_grid(task().train.raw, 2, POINTS)
    low, high = np.median(target.low), np.median(target.high)
    at = np.linspace(np.median(target.first), np.median(target.last), POINTS)
    flux = np.expm1((values[0] + 1) / 2 * (high - low) + low)
    expected = at_unit_r(WAVELENGTH, np.interp(WAVELENGTH, at, flux)[None].astype(np.float32))
    np.testing.assert_allclose(found, np.repeat(expected, len(found), 0), rtol=1e-4)


def test_a_network_that_puts_no_light_into_r_is_scored_as_a_flat_spectrum(monkeypatch):
    said = np.tile(curve(log_grid(POINTS).wavelength), (len(task().test), 1))
    expected = at_unit_r(WAVELENGTH, curve(WAVELENGTH)[None])[0]
    said[3], said[8] = -said[3], 0
    told(monkeypatch, said)
    found = answer(tiny("v1, mended"), task().galaxies, task().parts, BUDGET, 0)
    dark = np.isin(np.arange(len(found)), [3, 8])
    np.testing.assert_allclose(found[dark] * WAVELENGTH**2, 2.99792458e18 * 3.631e-29 * 1e17, rtol=1e-3)
    assert (np.ptp(found[dark] * WAVELENGTH**2, axis=1) < 1e-4 * found[3, 0] * WAVELENGTH[0] ** 2).all()
    np.testing.assert_allclose(found[~dark], np.tile(expected, (len(found) - 2, 1)), rtol=1e-2)


# ---------------------------------------------------------------------------------------------- what is seen


def test_training_stops_on_galaxies_of_other_fields_or_as_published(monkeypatch):
    one = task()
    seen = told(monkeypatch, np.ones((len(one.test), POINTS)))
    recipe = tiny("v1, mended")
    answer(recipe, one.galaxies, one.parts, BUDGET, 5)
    unit = np.full(len(one.calibration), 2.99792458e18 * 3.631e-29 * 1e17 / 6166.0**2)

    def tensors(some):
        block = Block(catalogue=some.catalogue, columns={}, images=some.images, spectra=some.spectra)
        return training_tensors(block, recipe.inputs, np.full(len(some), unit[0]))

    for found, some in ((seen.learn, one.train), (seen.stop, one.calibration)):
        for a, b in zip(found, tensors(some), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert 0.5 < float(seen.learn[1].mean()) < 2  # targets in units of the r flux
    assert seen.loss is networks.spectrum_loss
    assert (seen.config.epochs, seen.config.batch_size, seen.config.learning_rate) == (
        2,
        32,
        recipe.learning_rate,
    )
    assert (seen.config.seed, seen.config.patience) == (5, 2)
    turned = seen.augment(tuple(t[:20] for t in seen.learn))
    assert not torch.equal(turned[0], seen.learn[0][:20]) and torch.equal(turned[1], seen.learn[1][:20])

    for name in ("v1, as published", "v2, as published", "v1, mended but stopped on the training set"):
        answer(tiny(name), one.galaxies, one.parts, BUDGET, 5)
        assert seen.stop is seen.learn, name
        assert len(seen.learn[0]) == len(one.train)


def test_published_targets_are_of_spectra_as_observed(monkeypatch):
    one = task()
    seen = told(monkeypatch, np.zeros((len(one.test), POINTS)))
    for version in (1, 2):
        answer(tiny(f"v{version}, as published"), one.galaxies, one.parts, BUDGET, 0)
        np.testing.assert_array_equal(seen.learn[1].numpy(), own_grid(one.train.raw, version, POINTS).values)
        assert (seen.learn[2] == 1).all()


# ----------------------------------------------------------------------------------------- tiny, but trained


@pytest.fixture(scope="module")
def found():
    """Answer of a tiny mended network."""
    return answer(tiny("v1, mended"), task().galaxies, task().parts, BUDGET, 3)


def again(some, name="v1, mended", seed=3):
    return answer(tiny(name), some, task().parts, BUDGET, seed)


def test_no_redshift_and_no_spectrum_of_a_test_galaxy_is_used(found):
    one = task()
    wrong = poisoned(one.galaxies, one.parts.test, "redshift", "spectrum")
    assert (wrong.z != one.galaxies.z).sum() > 20
    np.testing.assert_allclose(again(wrong), found, atol=1e-6)


@pytest.mark.parametrize("name", ["v1, mended but targets of v2", "v2, as published"])
def test_nor_are_they_where_targets_are_undone(name):
    one = task()
    wrong = poisoned(one.galaxies, one.parts.test, "redshift", "spectrum")
    np.testing.assert_allclose(again(wrong, name), again(one.galaxies, name), atol=1e-6)


def test_every_test_galaxy_is_answered_from_its_own_image(found):
    one, row = task(), 4
    wrong = poisoned(one.galaxies, one.parts.test[[row]], "images")
    changed = np.abs(again(wrong) - found).max(1)
    assert changed[row] > 1e-3
    np.testing.assert_allclose(np.delete(changed, row), 0, atol=1e-6)


def test_training_galaxies_decide(found):
    one = task()
    for what in ("spectrum", "images"):
        assert np.abs(again(poisoned(one.galaxies, one.parts.train[:5], what)) - found).max() > 1e-4
    # Redshifts are of no use to a network, and calibration galaxies decide when to stop and nothing else.
    np.testing.assert_array_equal(again(poisoned(one.galaxies, one.parts.train, "redshift")), found)
    wrong = poisoned(one.galaxies, one.parts.calibration, "spectrum", "images", "redshift")
    name = "v1, mended but stopped on the training set"
    np.testing.assert_array_equal(again(wrong, name), again(one.galaxies, name))


@pytest.mark.parametrize("name", ["v1, mended", "v1, as published"])
def test_the_seed_decides_and_nothing_else_is_drawn(name):
    torch.manual_seed(11)
    np.random.seed(11)  # noqa: NPY002
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one = again(task().galaxies, name)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    torch.manual_seed(12)
    np.testing.assert_array_equal(again(task().galaxies, name), one)
    assert np.abs(again(task().galaxies, name, seed=4) - one).max() > 1e-4


def test_a_trained_network_is_nearer_than_an_untrained_one():
    """The loop learns: more epochs leave less error on galaxies of other fields."""
    truth, n = task().test.spectra, {}
    for epochs in (1, 25):
        shown = answer(tiny("v1, mended"), task().galaxies, task().parts, Budget(epochs, 16), 0)
        n[epochs] = (truth.ivar * (truth.flux - shown) ** 2).mean()
    assert n[25] < 0.8 * n[1]


def test_the_network_of_the_recipe_sees_the_test_images(monkeypatch):
    seen = told(monkeypatch, np.ones((len(task().test), POINTS)))
    answer(tiny("v2, mended"), task().galaxies, task().parts, BUDGET, 0)
    assert isinstance(seen.model, nn.Module) and seen.model.config == tiny("v2, mended").config
    softening = float(np.median(SDSS.sky_sigma))
    np.testing.assert_allclose(seen.images.numpy(), noise_scaling(task().test.images, softening))
    answer(tiny("v2, as published"), task().galaxies, task().parts, BUDGET, 0)
    np.testing.assert_allclose(seen.images.numpy(), arcsinh_scaling(task().test.images))
