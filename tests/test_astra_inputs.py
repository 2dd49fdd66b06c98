"""What ASTRA sees and is asked for: scalings of images, targets and back, folders of galaxies."""

import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from astro_utils.astra.folders import (
    INPUTS_V1,
    INPUTS_V2,
    SDSS_PIXELS,
    AstraInputs,
    extract_galaxies,
    training_tensors,
    write_galaxies,
)
from astro_utils.astra.normalisation import arcsin_scaling, arcsinh_scaling, bilateral_filter, noise_scaling
from astro_utils.astra.targets import (
    FIXED_GRID,
    fixed_grid,
    flux_density,
    log_grid,
    own_grid,
    spectrum_loss,
)
from astro_utils.models.astra import ASTRA_V1_SMALL, Astra
from astro_utils.samples import Block, Spectra, open_sample, validate
from astro_utils.sky.bandpasses import band_weights


def galaxies(n=3, size=24, seed=0):
    """Round galaxies of unlike colours on noisy sky, (N, 5, size, size)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size / 2
    light = np.exp(-np.hypot(x, y) / 3)
    flux = rng.uniform(1, 20, (n, 5, 1, 1))
    return flux * light + rng.normal(0, 0.05, (n, 5, size, size))


# ---------------------------------------------------------------------------------------- normalisation


def test_arcsin_of_pixels_between_their_extremes():
    images = galaxies()
    one = images[1, 2]
    unit = 2 * (one - one.min()) / (one.max() - one.min()) - 1
    found = arcsin_scaling(images)
    np.testing.assert_allclose(found[1, 2], np.arcsin(unit) / (np.pi / 2), atol=1e-6)
    assert found.dtype == np.float32 and found.min() == -1 and found.max() == 1
    together = arcsin_scaling(images, "galaxy")
    unit = 2 * (images[1] - images[1].min()) / (images[1].max() - images[1].min()) - 1
    np.testing.assert_allclose(together[1], np.arcsin(unit) / (np.pi / 2), atol=1e-6)


def test_bilateral_filter_by_its_definition():
    image = np.random.default_rng(2).normal(0, 1, (7, 6))
    found = bilateral_filter(image[None], 2, 0.5, 5.0)[0]
    mirrored = np.pad(image, 2, mode="reflect")
    for y, x in ((3, 3), (0, 0), (6, 2), (1, 5)):
        total = weights = 0.0
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                if dy**2 + dx**2 <= 4:
                    there = mirrored[y + 2 + dy, x + 2 + dx]
                    weight = np.exp(-((there - image[y, x]) ** 2) / 0.5 - (dy**2 + dx**2) / 50)
                    total, weights = total + weight * there, weights + weight
        assert found[y, x] == pytest.approx(total / weights)


@pytest.mark.parametrize("scale", ["band", "galaxy"])
def test_arcsinh_step_by_step(scale):
    images = galaxies(18)  # more than are scaled at a time
    bands = []
    for band in images[17] + 0.01:
        mirrored = np.pad(band, 1, mode="symmetric")
        median = np.median(
            [mirrored[dy : dy + 24, dx : dx + 24] for dy in range(3) for dx in range(3)], axis=0
        )
        bands.append(bilateral_filter(median, 2, 0.5, 5.0))
    bands = np.array(bands)
    axes = (1, 2) if scale == "band" else (0, 1, 2)
    low, high = np.percentile(bands, [1, 99], axis=axes, keepdims=True)
    stretched = np.arcsinh(np.clip(bands, low, high))
    low, high = np.arcsinh(low), np.arcsinh(high)
    expected = (stretched - low) / (high - low)
    expected[expected < 0.01] = 0
    found = arcsinh_scaling(images, scale)
    np.testing.assert_allclose(found[17], expected, atol=1e-6)
    assert found.dtype == np.float32 and found.max() == 1
    assert 0 < ((found > 0) & (found < 0.02)).mean() and ((found > 0) & (found < 0.0099)).sum() == 0


@pytest.mark.parametrize("scaling", [arcsin_scaling, arcsinh_scaling])
def test_per_band_scaling_hides_colours_and_common_scaling_does_not(scaling):
    images = galaxies()
    redder = images * np.array([0.5, 1, 1, 1, 2])[:, None, None]
    change = {
        s: np.abs(scaling(redder, s) - scaling(images, s)).mean((0, 2, 3))[[0, 4]] for s in ("band", "galaxy")
    }
    if scaling is arcsin_scaling:
        assert change["band"].max() < 1e-6
    # With arcsinh something of the flux is left in the shape of a profile.
    assert (change["galaxy"] > 1.5 * change["band"]).all()
    assert change["galaxy"].max() > 0.02


@pytest.mark.parametrize("scaling", [arcsin_scaling, arcsinh_scaling])
def test_planes_without_contrast_become_zero_and_bad_images_are_named(scaling):
    images = galaxies()
    images[1, 3] = 7.0
    scaled = scaling(images)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[1, 3], 0.5 if scaling is arcsinh_scaling else 0)
    with pytest.raises(ValueError, match=r"scale is 'pixel'; expected one of \('band', 'galaxy'\)"):
        scaling(images, "pixel")
    with pytest.raises(ValueError, match=r"images have shape \(5, 24, 24\); expected \(N, bands, y, x\)"):
        scaling(images[0])
    images[2, 0, 3, 3] = np.nan
    with pytest.raises(ValueError, match=r"image 2 has pixels that are not finite \(1 such images\)"):
        scaling(images)


def test_noise_scaling_keeps_fluxes():
    images = galaxies()
    found = noise_scaling(images, 0.05)
    np.testing.assert_allclose(0.05 * np.sinh(found.astype(float)), images, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="softening is 0; expected nanomaggies above 0"):
        noise_scaling(images, 0)


# ---------------------------------------------------------------------------------------------- targets


def spectra(n=4, seed=0, wavelength=SDSS_PIXELS, noise=0.3):
    """Noisy spectra with a line: the first begins late, the second ends early, the third has a gap."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(2, 6, (n, 1))
    truth = level * (1 + 0.2 * np.sin(wavelength / 700)) + 5 * np.exp(-0.5 * ((wavelength - 6600) / 6) ** 2)
    sigma = noise * (1 + 0.5 * np.cos(wavelength / 500)) * np.ones((n, 1))
    ivar = sigma**-2
    ivar[0, wavelength < 3900], ivar[1, wavelength > 9000] = 0, 0
    ivar[2, (wavelength > 5000) & (wavelength < 5100)] = 0
    flux = np.where(ivar > 0, truth + sigma * rng.normal(size=sigma.shape), 0)
    return Spectra(wavelength, flux, ivar), truth


def test_version_1_asks_for_flux_on_each_own_range():
    given, _ = spectra()
    target = own_grid(given, 1, 500)
    assert target.values.shape == (4, 500) and target.values.dtype == np.float32
    for row in range(4):
        good = given.ivar[row] > 0
        own = given.wavelength[good]
        grid = np.linspace(own[0], own[-1], 500)
        np.testing.assert_allclose(target.wavelength()[row], grid)
        np.testing.assert_allclose(target.values[row], np.interp(grid, own, given.flux[row, good]), rtol=1e-5)
    np.testing.assert_array_equal(target.flux(target.values), target.values)
    # The same element of two targets is another wavelength.
    assert target.wavelength()[0, 0] - target.wavelength()[3, 0] > 300
    assert np.ptp(target.wavelength()[:, 400]) > 1000


def test_version_2_scales_by_each_spectrums_own_extremes():
    given, _ = spectra()
    given.flux[3, 100:110] = -2.0
    target, raw = own_grid(given, 2, 500), own_grid(given, 1, 500).values
    log = np.log1p(np.maximum(raw.astype(float), 1e-6))
    low, high = log.min(1, keepdims=True), log.max(1, keepdims=True)
    np.testing.assert_allclose(target.values, 2 * (log - low) / (high - low + 1e-6) - 1, atol=1e-5)
    np.testing.assert_allclose(target.values.min(1), -1, atol=1e-6)
    np.testing.assert_allclose(target.values.max(1), 1, atol=2e-5)
    back = target.flux(target.values)
    np.testing.assert_allclose(back, np.maximum(raw, 1e-6), rtol=1e-4, atol=1e-5)
    assert (raw < 0).any() and (back > 0).all(), "what was clipped does not come back"


def test_a_spike_sets_the_scale_of_version_2():
    given, _ = spectra(noise=0.01)
    spiked = Spectra(given.wavelength, given.flux.copy(), given.ivar)
    spiked.flux[3, 2000:2003] = 300.0
    before, after = own_grid(given, 2, 4000), own_grid(spiked, 2, 4000)
    assert np.ptp(before.values[3, :1000]) > 4 * np.ptp(after.values[3, :1000])
    np.testing.assert_array_equal(before.values[0], after.values[0])


def test_own_targets_go_to_any_grid_within_their_range():
    given, truth = spectra(noise=1e-3)
    for version in (1, 2):
        target = own_grid(given, version)
        at = np.array([3700.0, 4500.0, 6610.0, 9100.0])
        flux = target.flux_at(target.values, at)
        np.testing.assert_array_equal(
            np.isnan(flux), [[True, False, False, False], [False] * 3 + [True]] + 2 * [[False] * 4]
        )
        expected = np.stack([np.interp(at, given.wavelength, row) for row in truth])
        np.testing.assert_allclose(flux[:, 1:3], expected[:, 1:3], rtol=0.02)


def test_fixed_targets_are_flux_in_units_of_the_norm_with_its_errors():
    given, truth = spectra(200, seed=1)
    norm = np.linspace(0.5, 8, 200)
    target = fixed_grid(given, norm)
    assert target.values.shape == (200, 4000)
    np.testing.assert_allclose(target.grid[[0, -1]], [3800, 9200])
    np.testing.assert_allclose(target.grid, FIXED_GRID.wavelength)
    covered = np.interp(target.grid, given.wavelength, (given.ivar[2] > 0).astype(float)) > 0.99
    np.testing.assert_array_equal((target.ivar[2] > 0)[covered], True)
    assert (target.ivar[0, target.grid < 3899] == 0).all() and (
        target.values[0, target.grid < 3899] == 0
    ).all()
    assert (target.ivar[2, (target.grid > 5003) & (target.grid < 5097)] == 0).all()
    right = np.stack([np.interp(target.grid, given.wavelength, row) for row in truth])
    pull = (target.flux(target.values) - right) * np.sqrt(target.ivar) / norm[:, None]
    scatter = pull[target.ivar > 0].std()
    # Where two pixels are joined the weight is that of one, so that chi2 is never more than one a pixel.
    assert 0.75 < scatter < 1.0
    total = (
        (target.ivar[3:] / norm[3:, None] ** 2).sum(1),
        given.ivar[3:, (given.wavelength > 3800) & (given.wavelength < 9200)].sum(1),
    )
    np.testing.assert_allclose(*total, rtol=2e-3)  # what is known of the flux does not grow or shrink


def test_fixed_targets_on_the_grid_of_the_spectra_are_the_spectra():
    grid = log_grid(1000)
    given, _ = spectra(wavelength=grid.wavelength)
    norm = np.array([1.0, 2.0, 3.0, 0.1])
    target = fixed_grid(given, norm, grid)
    np.testing.assert_allclose(target.flux(target.values), given.flux, rtol=1e-6)
    np.testing.assert_allclose(target.ivar, given.ivar * norm[:, None] ** 2, rtol=1e-6)
    # Brightness is in the norm alone.
    brighter = Spectra(given.wavelength, 7 * given.flux, given.ivar / 49)
    again = fixed_grid(brighter, 7 * norm, grid)
    np.testing.assert_allclose(again.values, target.values, rtol=1e-6)
    np.testing.assert_allclose(again.ivar, target.ivar, rtol=1e-6)
    np.testing.assert_array_equal(target.weights(), target.ivar)
    good = target.ivar > 0
    floored = target.weights(0.2)
    np.testing.assert_allclose(1 / floored[good], 1 / target.ivar[good] + 0.04, rtol=1e-5)
    assert (floored[~good] == 0).all()


def test_wrong_spectra_and_norms_are_named():
    given, _ = spectra()
    with pytest.raises(ValueError, match="version is 3; expected 1 or 2"):
        own_grid(given, 3)
    nothing = Spectra(given.wavelength, given.flux, given.ivar * np.array([1, 1, 0, 1])[:, None])
    with pytest.raises(ValueError, match=r"spectrum 2 has fewer than two measured pixels \(1 such spectra\)"):
        own_grid(nothing, 1)
    flux = given.flux.copy()
    flux[1, 50] = np.nan
    for make in (lambda s: own_grid(s, 1), lambda s: fixed_grid(s, np.ones(4))):
        with pytest.raises(ValueError, match="spectrum 1 has a weight where its flux is not finite"):
            make(Spectra(given.wavelength, flux, given.ivar))
    with pytest.raises(ValueError, match=r"norm has shape \(3,\); expected \(4,\)"):
        fixed_grid(given, np.ones(3))
    with pytest.raises(ValueError, match=r"norm of spectrum 1 is -2.0; expected above 0 \(2 are not\)"):
        fixed_grid(given, np.array([1, -2, 1, np.nan]))
    for target in (own_grid(given, 2, 100), fixed_grid(given, np.ones(4), log_grid(100))):
        with pytest.raises(ValueError, match=r"values have shape \(4, 99\); expected \(4, 100\)"):
            target.flux(np.zeros((4, 99)))
    with pytest.raises(ValueError, match="error_floor is -1; expected 0 or more"):
        target.weights(-1)


def test_flux_density_is_that_of_a_constant_f_nu():
    wavelength = np.arange(3500.0, 9500.0, 5)
    flux = np.array([flux_density(3.0, at) for at in wavelength])
    assert flux @ band_weights(["sdss2010-r"], wavelength) == pytest.approx(3.0, rel=1e-6)


def test_loss_is_the_weighted_mean_square_of_pixels_that_count():
    rng = np.random.default_rng(0)
    predicted, target = (torch.from_numpy(rng.normal(size=(3, 6))) for _ in range(2))
    weight = torch.from_numpy(rng.uniform(1, 4, (3, 6)))
    weight[0, 2:], weight[1] = 0, 0

    def model(images):
        return predicted

    found = spectrum_loss(model, (None, target, weight))
    square = (predicted - target) ** 2
    expected = torch.stack([(weight * square)[0, :2].mean(), torch.tensor(0.0), (weight * square)[2].mean()])
    torch.testing.assert_close(found, expected, check_dtype=False)
    ones = spectrum_loss(model, (None, target, torch.ones_like(target)))
    torch.testing.assert_close(ones, square.mean(1))
    with pytest.raises(ValueError, match=r"weights have shape \(3, 5\); the model makes \(3, 6\)"):
        spectrum_loss(model, (None, target, weight[:, :5]))
    with pytest.raises(ValueError, match=r"targets have shape \(6,\); the model makes \(3, 6\)"):
        spectrum_loss(model, (None, target[0], weight))


# ---------------------------------------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three galaxies as ASTROPIXEL has them, with 64 px; the second spectrum covers less."""
    folder = tmp_path_factory.mktemp("astropixel")
    images = 100 * galaxies(3, 64)
    given, _ = spectra(3)
    header = fits.Header({"EXPTIME": 50.0})
    for k in range(3):
        home = folder / f"Galaxy_{594512843009714176 + k}"
        for name in ("images", "spectrum"):
            (home / name).mkdir(parents=True)
        for band, image in zip("grizy", images[k], strict=True):
            fits.PrimaryHDU(image.astype(np.float32), header).writeto(home / "images" / f"stack_{band}.fits")
        part = slice(300, 4100 - 200 * k)
        table = {"wavelength": given.wavelength[part], "flux": given.flux[k, part]}
        pd.DataFrame(table).to_csv(home / "spectrum" / "spec.csv", index=False)
    return folder, images, given


def test_pixels_come_as_stored_and_spectra_as_observed(folder):
    path, images, given = folder
    blocks = list(extract_galaxies(path, block_size=2))
    assert [len(block) for block in blocks] == [2, 1]
    np.testing.assert_allclose(np.concatenate([block.images for block in blocks]), images, rtol=1e-6)
    found = blocks[1].spectra
    measured = found.ivar[0] > 0
    np.testing.assert_array_equal(np.flatnonzero(measured), np.arange(300, 3700))
    np.testing.assert_allclose(found.flux[0, measured], given.flux[2, 300:3700], rtol=1e-6)


def test_the_sample_of_a_folder_is_calibrated(folder, tmp_path):
    path, images, _ = folder
    sample = write_galaxies(path, tmp_path / "sample.h5")
    assert validate(sample) == []
    with open_sample(sample) as opened:
        assert opened.info.bands == tuple("grizy")
        # A count per second is magnitude 25.
        np.testing.assert_allclose(opened.images(slice(None)), images / 50 / 10, rtol=1e-5)
        block = opened.block()
    targets = training_tensors(block, AstraInputs(points=200))[1]
    assert targets.shape == (3, 200)
    doubled = write_galaxies(path, tmp_path / "doubled.h5", nanomaggies_per_unit=2.0)
    with open_sample(doubled) as opened:
        np.testing.assert_allclose(opened.images(slice(None)), 2 * images, rtol=1e-5)


def test_training_tensors_are_those_of_the_parts(folder):
    (block,) = extract_galaxies(folder[0])
    expected = {
        INPUTS_V1: (arcsin_scaling(block.images), own_grid(block.spectra, 1).values),
        INPUTS_V2: (arcsinh_scaling(block.images), own_grid(block.spectra, 2).values),
        AstraInputs(scale="galaxy", points=300): (
            arcsin_scaling(block.images, "galaxy"),
            own_grid(block.spectra, 1, 300).values,
        ),
    }
    for inputs, parts in expected.items():
        *found, weights = training_tensors(block, inputs)
        for tensor, part in zip(found, parts, strict=True):
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), part)
        assert weights.shape == found[1].shape and (weights == 1).all()
    norm = np.array([2.0, 3.0, 4.0])
    inputs = AstraInputs("noise", softening=5.0, target="fixed", points=1000, error_floor=0.1)
    found, values, weights = training_tensors(block, inputs, norm)
    target = fixed_grid(block.spectra, norm, log_grid(1000))
    np.testing.assert_array_equal(found.numpy(), noise_scaling(block.images, 5.0))
    np.testing.assert_array_equal(values.numpy(), target.values)
    np.testing.assert_array_equal(weights.numpy(), target.weights(0.1))
    loss = spectrum_loss(Astra(ASTRA_V1_SMALL), (found, values, weights))
    assert loss.shape == (3,) and torch.isfinite(loss).all()


def test_wrong_inputs_are_named(folder):
    for change, message in (
        ({"normalisation": "asinh"}, "normalisation is 'asinh'; expected one of"),
        ({"scale": "image"}, "scale is 'image'; expected one of"),
        ({"target": "own"}, "target is 'own'; expected one of"),
        ({"normalisation": "noise"}, "softening is None and normalisation 'noise'"),
        ({"softening": 1.0}, "softening is 1.0 and normalisation 'arcsin'; expected a softening for 'noise'"),
    ):
        with pytest.raises(ValueError, match=message):
            AstraInputs(**change)
    (block,) = extract_galaxies(folder[0])
    with pytest.raises(ValueError, match="target is 'fixed'; expected a norm for 'fixed' targets"):
        training_tensors(block, AstraInputs(target="fixed"))
    with pytest.raises(
        ValueError, match="target is 'own 1'; expected a norm for 'fixed' targets and for these"
    ):
        training_tensors(block, INPUTS_V1, np.ones(3))
    with pytest.raises(ValueError, match="the block has no images and spectra"):
        training_tensors(Block(block.catalogue, block.columns), INPUTS_V1)
    with pytest.raises(FileNotFoundError, match="no folders Galaxy_<specObjID>"):
        next(extract_galaxies(folder[0] / "images"))
