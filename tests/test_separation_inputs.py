"""What our networks read: ratios that know no distance, and stamps that keep their flux."""

import numpy as np
import pandas as pd
import pytest
import separation_sample as made
import torch

from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import open_sample
from astro_utils.separation.inputs import FEATURES, Inputs, features

RATIOS, BOTH = FEATURES


@pytest.fixture(scope="module")
def table():
    return made.catalogue(300)


def dimmer(table, factor):
    """The same objects with `factor` of their light under a sky with `factor` of its noise."""
    out = table.copy()
    for b in SDSS_BANDS:
        out[f"dered_{b}"] -= 2.5 * np.log10(factor)
        out[f"sigma_{b}"] *= factor
    return out


# ------------------------------------------------------------------------------------------------- features


def test_features_of_the_simulated_sky_are_finite_and_named(tmp_path_factory):
    with open_sample(made.simulated(tmp_path_factory)) as sample:
        table = sample.catalogue()
    ratios, both = features(table, RATIOS), features(table, BOTH)
    assert ratios.shape == (len(table), 20) and both.shape == (len(table), 30)
    for found in (ratios, both):
        assert (found.dtypes == np.float32).all() and np.isfinite(found).all(axis=None)
    added = {f"{name}_{b}" for name in ("dered", "radius") for b in SDSS_BANDS}
    assert set(both) - set(ratios) == added and list(features(table)) == list(both)
    pd.testing.assert_frame_equal(both[list(ratios)], ratios)
    scaled = Inputs.of(table).features(table)
    assert scaled.isfinite().all() and scaled.dtype == torch.float32 and scaled.abs().max() <= Inputs.LIMIT


@pytest.mark.parametrize("factor", [0.01, 0.5, 3.0])
def test_less_light_under_less_noise_leaves_the_ratios(table, factor):
    there, dimmed = features(table, BOTH), features(dimmer(table, factor), BOTH)
    ratios = list(features(table, RATIOS))
    np.testing.assert_allclose(dimmed[ratios], there[ratios], atol=2e-5)
    magnitudes = [f"dered_{b}" for b in SDSS_BANDS]
    np.testing.assert_allclose(dimmed[magnitudes] - there[magnitudes], -2.5 * np.log10(factor), atol=1e-5)


def test_less_light_under_the_same_sky_is_less_signal(table):
    dimmed = dimmer(table, 0.1).assign(**{f"sigma_{b}": table[f"sigma_{b}"] for b in SDSS_BANDS})
    there, less = features(table, RATIOS), features(dimmed, RATIOS)
    for b in SDSS_BANDS:
        bright = there[f"signal_{b}"] > 5
        assert bright.sum() > 20
        drop = (less - there)[f"signal_{b}"]
        np.testing.assert_allclose(drop[bright], np.log(0.1), atol=0.01)
        assert (drop < 0).all()
    others = [name for name in there if not name.startswith("signal")]
    np.testing.assert_allclose(less[others], there[others], atol=1e-5)


def test_signal_is_that_of_a_fit_of_the_point_spread_function():
    """A point source of 22 mag: flux over its error under white noise is F / sigma * sqrt(sum of psf^2)."""
    table = made.catalogue(3, seed=1)
    grid = np.arange(101) - 50.0
    for b in SDSS_BANDS:
        table[f"dered_{b}"], table[f"extinction_{b}"] = 21.9, 0.1
        width = table[f"psffwhm_{b}"].to_numpy() / (2 * np.sqrt(2 * np.log(2))) / 0.396
        line = np.exp(-0.5 * (grid / width[:, None]) ** 2) / np.sqrt(2 * np.pi) / width[:, None]
        psf = line[:, :, None] * line[:, None, :]
        expected = 10**0.2 / table[f"sigma_{b}"] * np.sqrt(np.square(psf).sum((1, 2)))
        found = 2 * np.sinh(features(table, RATIOS)[f"signal_{b}"])
        np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_dust_dims_what_is_seen_and_reddens_nothing_that_is_dereddened(table):
    dusty = table.copy()
    for b in SDSS_BANDS:
        dusty[f"extinction_{b}"] += 0.3
    clear, there = features(table, BOTH), features(dusty, BOTH)
    colours = ["u-g", "g-r", "r-i", "i-z"]
    np.testing.assert_array_equal(there[colours], clear[colours])
    assert (there["dust"] > clear["dust"]).all()
    for b in SDSS_BANDS:
        assert (there[f"signal_{b}"] < clear[f"signal_{b}"]).all()
        dusty[f"dered_{b}"] -= 0.3  # as bright as before, of which the dust has now taken more
    np.testing.assert_allclose(features(dusty, BOTH)["signal_r"], clear["signal_r"], atol=2e-5)


def test_sizes_are_in_units_of_the_seeing_and_points_are_points(table):
    blurred = table.copy()
    for b in SDSS_BANDS:
        blurred[f"psffwhm_{b}"] *= 1.5
        blurred[f"radius_{b}"] *= 1.5
    there, wider = features(table, BOTH), features(blurred, BOTH)
    for b in SDSS_BANDS:
        np.testing.assert_allclose(wider[f"size_{b}"], there[f"size_{b}"], atol=1e-5)
        np.testing.assert_allclose(wider[f"fwhm_{b}"], 1.5 * there[f"fwhm_{b}"], rtol=1e-5)
        points = features(table.assign(**{f"radius_{b}": 0.0}), RATIOS)[f"size_{b}"]
        np.testing.assert_allclose(points, np.log(0.05), atol=1e-5)


# --------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("kind", FEATURES)
def test_features_of_the_training_set_have_no_mean_and_unit_variance(table, kind):
    scaled = Inputs.of(table, kind).features(table)
    assert scaled.shape == (300, 20 if kind == RATIOS else 30)
    assert scaled.mean(0).abs().max() < 1e-3
    torch.testing.assert_close(scaled.std(0), torch.ones(scaled.shape[1]), atol=0.02, rtol=0)


def test_an_absurd_magnitude_is_cut_off_and_moves_no_other(table):
    read = Inputs.of(table, BOTH)
    wrong = table.copy()
    wrong.loc[4, "dered_u"] = 99.0
    there, cut = read.features(table), read.features(wrong)
    assert cut.abs().max() == Inputs.LIMIT and cut.isfinite().all()
    others = np.arange(300) != 4
    assert torch.equal(cut[others], there[others])
    changed = (cut[4] != there[4]).numpy()
    assert set(features(table).columns[changed]) == {"dered_u", "signal_u", "u-g"}


def test_stamps_of_the_same_flux_are_the_same_under_any_noise(table):
    """Scaled by a noise of its own, a field of more noise would show the same star as a fainter one."""
    images = made.stamps(table.iloc[:2], 8)
    images[1] = images[0]
    noisy = table.iloc[:2].copy()
    noisy.loc[1, [f"sigma_{b}" for b in SDSS_BANDS]] *= 2.0
    read = Inputs.of(table)
    assert read.features(noisy)[0, 0] != read.features(noisy)[1, 0]
    scaled = read.stamps(images)
    assert torch.equal(scaled[0], scaled[1])
    noise = table[[f"sigma_{b}" for b in SDSS_BANDS]].median().to_numpy()
    np.testing.assert_allclose(
        np.sinh(scaled.double().numpy()), images / noise[:, None, None], rtol=1e-4, atol=1e-5
    )


def test_stamps_keep_their_flux(table):
    read, images = Inputs.of(table), made.stamps(table[:20], 12)
    once, twice = (np.sinh(read.stamps(scale * images).double().numpy()) for scale in (1, 2))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-4, atol=1e-5)


def test_stamps_that_another_process_lends_are_read(table):
    images = made.stamps(table[:3], 8)
    images.setflags(write=False)
    scaled = Inputs.of(table).stamps(images)
    scaled += 1
    assert scaled.dtype == torch.float32 and scaled.shape == (3, 5, 8, 8)


@pytest.mark.parametrize("kind", FEATURES)
def test_what_was_fitted_is_kept_whole(table, kind):
    read = Inputs.of(table, kind)
    kept = read.tensors()
    assert set(kept) == {"inputs.mean", "inputs.std", "inputs.noise"}
    again = Inputs(*(kept[f"inputs.{k}"].numpy() for k in ("mean", "std", "noise")), kind)
    other = made.catalogue(20, seed=3)
    assert torch.equal(again.features(other), read.features(other))
    images = made.stamps(other, 8)
    assert torch.equal(again.stamps(images), read.stamps(images))


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("call", [features, Inputs.of])
def test_features_of_another_kind_are_refused(table, call):
    with pytest.raises(ValueError, match="features 'colours'; expected one of ratios, ratios and magnitudes"):
        call(table, "colours")


@pytest.mark.parametrize("value", [0.0, -0.1, np.nan])
def test_noise_that_is_not_above_zero_is_refused(table, value):
    wrong = table.copy()
    wrong.loc[7, "sigma_i"] = value
    with pytest.raises(ValueError, match=r"sigma_u to sigma_z of row 7 are \[.*\]; expected above zero"):
        Inputs.of(wrong)
