"""The diffraction PSF: agreement with plain transforms in float64, and what physics asks of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from astro_utils.psf import Optics, PupilModel, aperture, zernike_basis
from astro_utils.psf.diffraction import dft_matrices, diffract, fold

FULL = Optics()
SMALL = Optics(pupil_size=64, stamp=16, bins=3, modes=15)
CLEAR = replace(SMALL, spiders=(), obscuration_mm=0.0, filter_length=1)


@pytest.fixture(scope="module")
def small():
    return PupilModel(SMALL, dtype=torch.float64)


def wavefront_errors(optics, n, seed=0, rms=0.04):
    """Coefficients (n, modes) in micrometres whose squares sum to rms^2."""
    z = np.random.default_rng(seed).standard_normal((n, optics.modes))
    return torch.from_numpy(rms * z / np.linalg.norm(z, axis=1, keepdims=True))


def only(optics, mode, value):
    """One wavefront of a single Noll mode, counted from 1."""
    z = torch.zeros(1, optics.modes, dtype=torch.float64)
    z[0, mode - 1] = value
    return z


def plain_stamps(optics, opd):
    """Stamps of one wavefront (n, n) by a complex matrix product, (bins, stamp, stamp)."""
    q, side = optics.oversampling, optics.oversampling * optics.stamp
    k, x = np.arange(-side // 2, side // 2), np.arange(optics.pupil_size)
    stamps = []
    for wavelength, period in zip(optics.wavelengths_um, optics.periods, strict=True):
        e = np.exp(-2j * np.pi * np.outer(k, x) / period)
        field = aperture(optics) * np.exp(2j * np.pi * opd / wavelength)
        intensity = np.abs(e @ field @ e.T) ** 2
        stamp = intensity.reshape(optics.stamp, q, optics.stamp, q).mean((1, 3))
        stamps.append(stamp / stamp.sum())
    return np.array(stamps)


def padded_stamp(optics, opd, i):
    """The recipe of the original for bin `i`: zero padding, a fast Fourier transform, crop and mean."""
    q, side, n = optics.oversampling, optics.oversampling * optics.stamp, int(optics.periods[i])
    field = np.zeros((n, n), complex)
    inside = slice(n // 2 - optics.pupil_size // 2, n // 2 + optics.pupil_size // 2)
    field[inside, inside] = aperture(optics) * np.exp(2j * np.pi * opd / optics.wavelengths_um[i])
    intensity = np.abs(np.fft.fftshift(np.fft.fft2(field))) ** 2
    crop = slice(n // 2 - side // 2, n // 2 + side // 2)
    stamp = intensity[crop, crop].reshape(optics.stamp, q, optics.stamp, q).mean((1, 3))
    return stamp / stamp.sum()


def moments(stamp):
    """Centroid (x, y) and second moments (xx, yy, xy) of images (..., n, n), samples, around it."""
    axis = torch.arange(stamp.shape[-1], dtype=stamp.dtype)
    flux = stamp.sum((-2, -1))
    x, y = (stamp.sum(-2) @ axis) / flux, (stamp.sum(-1) @ axis) / flux
    dx, dy = axis - x[..., None], axis - y[..., None]
    xx, yy = ((stamp.sum(-1 - i) * d**2).sum(-1) / flux for i, d in ((1, dx), (0, dy)))
    xy = torch.einsum("...yx,...y,...x->...", stamp, dy, dx) / flux
    return x, y, xx, yy, xy


# ------------------------------------------------------------------------------------------------ references


@pytest.mark.parametrize("wavelengths", ["exact", "wf-psf"])
def test_full_size_stamps_agree_with_float64(wavelengths):
    optics = replace(FULL, wavelengths=wavelengths)
    z = wavefront_errors(optics, 1)
    expected = plain_stamps(optics, np.tensordot(z[0].numpy(), zernike_basis(optics), 1))
    model = PupilModel(optics)
    stamps = model.monochromatic(model.opd(z))
    assert stamps.shape == (1, 8, 32, 32) and stamps.dtype == torch.float32
    np.testing.assert_allclose(stamps[0], expected, rtol=0, atol=1e-6 * expected.max())


def test_float64_agrees_to_rounding(small):
    opd = small.opd(wavefront_errors(SMALL, 2, rms=0.2))
    stamps = small.monochromatic(opd)
    for one, expected in zip(stamps, map(lambda w: plain_stamps(SMALL, w), opd.numpy()), strict=True):
        np.testing.assert_allclose(one, expected, rtol=0, atol=1e-14)


def test_the_recipe_of_the_original():
    optics = replace(FULL, wavelengths="wf-psf")
    assert optics.periods.tolist() == [746, 804, 860, 916, 974, 1032, 1090, 1146]
    # Snapped once, bin 3 is 0.70255 um; rounding then takes it down another step.
    assert optics.spectrum_wavelengths_um[3] == pytest.approx(0.70255, abs=5e-6)
    assert optics.wavelengths_um[3] == pytest.approx(0.70102, abs=5e-6)
    z = wavefront_errors(optics, 1, seed=3)
    model = PupilModel(optics)
    stamps = model.monochromatic(model.opd(z))
    opd = np.tensordot(z[0].numpy(), zernike_basis(optics), 1)
    for i in (0, 3):
        expected = padded_stamp(optics, opd, i)
        np.testing.assert_allclose(stamps[0, i], expected, rtol=0, atol=1e-6 * expected.max())


def test_exact_wavelengths():
    snapped = replace(FULL, wavelengths="wf-psf").wavelengths_um
    exact = FULL.wavelengths_um
    np.testing.assert_allclose(exact, 0.55 + 0.04375 * (np.arange(8) + 0.5))
    np.testing.assert_array_equal(FULL.spectrum_wavelengths_um, exact)
    # Snapped ones are shorter, by up to 0.3 % (bin 3).
    assert np.all(snapped < exact) and np.argmin(snapped / exact) == 3
    # One period is wavelength / (diameter sampling): 3 samples in 12 um / 24.5 m on the sky.
    np.testing.assert_allclose(FULL.periods, 256 * exact * 1e-6 / 1.2 * 24.5 / (12e-6 / 3))
    assert FULL.pixel_arcsec == pytest.approx(0.101, abs=5e-4)


@pytest.mark.parametrize("coarse, bound", [(2, 4e-4), (4, 1.7e-3)])
def test_error_of_coarse_pupils(coarse, bound):
    optics = replace(FULL, bins=2)
    z = wavefront_errors(optics, 2, seed=1)
    exact, model = PupilModel(optics), PupilModel(optics, coarse=coarse)
    expected = exact.monochromatic(exact.opd(z)).flatten(2)
    error = (model.monochromatic(model.opd(z)).flatten(2) - expected).norm(dim=2) / expected.norm(dim=2)
    assert error.max() < bound
    # What is averaged is the wavefront that passes: the mean of the whole gives the same modes.
    torch.testing.assert_close(model.block_mean(exact.opd(z)), model.opd(z), rtol=0, atol=1e-6)
    model.envelope.fill_(1)
    undivided = model.monochromatic(model.opd(z)).flatten(2)
    assert ((undivided - expected).norm(dim=2) / expected.norm(dim=2)).min() > 2 * error.max()


def test_super_resolved_samples_are_those_that_pixels_average(small):
    opd, sed = small.opd(wavefront_errors(SMALL, 2)), torch.full((2, 3), 1 / 3, dtype=torch.float64)
    fine = small.super_resolved(opd, torch.eye(3, dtype=torch.float64)[:2], factor=3, size=48)
    assert fine.shape == (2, 48, 48)
    pixels = 9 * torch.nn.functional.avg_pool2d(fine, 3)
    for i in range(2):
        torch.testing.assert_close(pixels[i], small.monochromatic(opd)[i, i])
    # A finer grid over the same area holds the same image.
    twice = small.super_resolved(opd, sed, factor=6, size=96)
    torch.testing.assert_close(
        4 * twice[:, ::2, ::2], small.super_resolved(opd, sed, size=48), rtol=0.02, atol=0
    )
    middle = PupilModel(CLEAR, dtype=torch.float64)
    image = middle.super_resolved(torch.zeros(1, 64, 64), sed[:1], size=32)[0]
    assert image.argmax() == 16 * 32 + 16


# --------------------------------------------------------------------------------------------------- physics


def test_flux_is_one(small):
    opd = small.opd(wavefront_errors(SMALL, 4))
    sed = torch.rand(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sed /= sed.sum(1, keepdim=True)
    mono, stars = small.monochromatic(opd), small.polychromatic(opd, sed)
    torch.testing.assert_close(mono.sum((2, 3)), torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(stars.sum((1, 2)), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(stars, (sed[:, :, None, None] * mono).sum(1))
    assert mono.min() >= 0


def test_parseval():
    # Over its whole period the pattern holds the power of the pupil: sum |F|^2 = n^2 sum |A|^2.
    n, period = 32, 64
    rng = np.random.default_rng(0)
    amplitude, opd = torch.from_numpy(rng.random((n, n))), torch.from_numpy(rng.normal(0, 0.3, (1, n, n)))
    frequencies = torch.arange(period // 2 + 1, dtype=torch.float64)[None] / period
    matrices = dft_matrices(frequencies, n)[0]
    pattern = diffract(fold(opd), fold(amplitude[None]), 2 * math.pi / 0.7, matrices)
    assert pattern.shape == (period, 1, period)
    torch.testing.assert_close(pattern.sum(), period**2 * amplitude.square().sum())


@pytest.mark.parametrize("mode, axis", [(2, 0), (3, 1)])
def test_tip_and_tilt_move_the_centroid(mode, axis):
    model = PupilModel(CLEAR, dtype=torch.float64)
    sed = torch.full((1, 3), 1 / 3, dtype=torch.float64)

    def centroid(value):
        image = model.super_resolved(model.opd(only(CLEAR, mode, value)), sed, size=80)[
            :, 1:, 1:
        ]  # even about the centre
        return torch.stack(moments(image)[:2])[:, 0]

    # Noll's tilts have a slope of 2 coefficients per radius, so the image moves by 4 z / D, here in samples
    # of a third of a pixel; the sampled disc is 63 steps wide, its transform takes 64 for the diameter.
    shift = centroid(0.2) - centroid(0.0)
    expected = 4 * 0.2e-6 / 1.2 * 24.5 / (12e-6 / 3) * 64 / 63
    assert shift[axis] == pytest.approx(expected, rel=0.02)
    assert abs(shift[1 - axis]) < 1e-6


def test_size_is_proportional_to_wavelength():
    model = PupilModel(replace(CLEAR, bins=2), dtype=torch.float64)
    profile = [
        model.super_resolved(torch.zeros(1, 64, 64), sed, factor=24, size=160)[0, 80]
        for sed in torch.eye(2, dtype=torch.float64)[:, None]
    ]
    # Full width at half maximum along x: 1.03 wavelength / diameter for a clear disc, of 63 samples in 64.
    widths = []
    for row, wavelength in zip(profile, model.optics.wavelengths_um, strict=True):
        half = row.max() / 2
        last = int((row > half).nonzero()[-1])
        edge = last + (row[last] - half) / (row[last] - row[last + 1])
        widths.append(2 * float(edge - 80) / 24 * 12 / (24.5 / 1.2) / wavelength)
    assert widths[0] == pytest.approx(widths[1], rel=2e-3)
    assert widths[0] == pytest.approx(1.029 * 64 / 63, rel=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_astigmatism_makes_ellipticity_that_defocus_turns(sign):
    model = PupilModel(CLEAR, dtype=torch.float64)
    sed = torch.full((1, 3), 1 / 3, dtype=torch.float64)

    def shape(**modes):
        z = sum(only(CLEAR, int(name[1:]), value) for name, value in modes.items())
        _, _, xx, yy, xy = moments(model.super_resolved(model.opd(z), sed, size=60)[:, 1:, 1:])
        return torch.stack([xx - yy, 2 * xy]) / (xx + yy)

    # Noll 4 is 2 r^2 - 1, 6 is r^2 cos 2 theta: of one sign, their curvatures add up along x.
    along_x = shape(z4=sign * 0.06, z6=sign * 0.06)
    assert along_x[0] > 0.05 and abs(along_x[1]) < 1e-6
    along_y = shape(z4=sign * 0.06, z6=-sign * 0.06)
    assert along_y[0] < -0.05
    diagonal = shape(z4=sign * 0.06, z5=sign * 0.06)  # r^2 sin 2 theta
    assert diagonal[1] > 0.05 and abs(diagonal[0]) < 1e-6
    assert shape(z6=sign * 0.06).abs().max() < 0.02  # without defocus it is a cross


def test_piston_does_nothing_and_a_reversed_wavefront_turns_the_image(small):
    z = wavefront_errors(SMALL, 1)
    lifted = small.opd(z + only(SMALL, 1, 0.3))
    torch.testing.assert_close(small.monochromatic(lifted), small.monochromatic(small.opd(z)))
    # The transform of a conjugate field is the conjugate at the opposite frequency, for any aperture.
    sed = torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64)
    one, other = (small.super_resolved(sign * small.opd(z), sed)[:, 1:, 1:] for sign in (1, -1))
    other = other.flip(1, 2)
    assert not torch.allclose(one, one.flip(1, 2), rtol=0.1)
    torch.testing.assert_close(one / one.sum(), other / other.sum())


# ------------------------------------------------------------------------------- aperture and polynomials


def test_zernike_polynomials_are_orthonormal_in_noll_order():
    basis = zernike_basis(FULL)
    disc = basis[0] > 0
    inside = basis[:, disc]
    np.testing.assert_allclose(inside @ inside.T / disc.sum(), np.eye(45), atol=0.03)
    assert not basis[:, ~disc].any()
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    r2 = x**2 + y**2
    for noll, expected in {
        2: 2 * x,
        3: 2 * y,
        4: math.sqrt(3) * (2 * r2 - 1),
        5: math.sqrt(6) * 2 * x * y,
        6: math.sqrt(6) * (x**2 - y**2),
        7: math.sqrt(8) * (3 * r2 - 2) * y,
        11: math.sqrt(5) * (6 * r2**2 - 6 * r2 + 1),
    }.items():
        np.testing.assert_allclose(basis[noll - 1][disc], expected[disc], atol=1e-12)


def test_aperture():
    plane = aperture(FULL)
    raw = aperture(replace(FULL, filter_length=1))
    assert set(np.unique(raw)) == {0, 1} and set(np.unique(plane)) == {0, 0.25, 0.5, 0.75, 1}
    cell = (1200 / 255) ** 2
    no_spiders = aperture(replace(FULL, filter_length=1, spiders=()))
    assert no_spiders.sum() * cell == pytest.approx(math.pi * (600**2 - 197.5**2), rel=3e-3)
    # Arms from the stop's edge to the obscuration, 12 mm wide: about 300 to 450 mm long each.
    assert 3 * 300 < (no_spiders - raw).sum() * cell / 12 < 3 * 450
    hidden = np.argwhere(
        aperture(replace(FULL, spiders=(), obscuration_mm=0.0, filter_length=1)) > no_spiders
    )
    y, x = (hidden.mean(0) - 127.5) * 1200 / 255
    assert x == pytest.approx(0, abs=0.5) and y == pytest.approx(51, abs=0.5)


def test_without_the_mask_light_passes_beyond_the_disc():
    disc = zernike_basis(FULL)[0] > 0
    masked, whole = aperture(FULL), aperture(replace(FULL, mask_edge=False))
    assert not masked[~disc].any() and (whole[~disc] > 0).sum() > 300
    np.testing.assert_array_equal(masked[disc], whole[disc])


# ------------------------------------------------------------------------------------------------ derivatives


def test_gradients():
    optics = Optics(pupil_size=16, stamp=4, bins=2, modes=6)
    model = PupilModel(optics, dtype=torch.float64)
    rng = np.random.default_rng(0)
    opd = torch.from_numpy(rng.normal(0, 0.1, (2, 16, 16))).requires_grad_()
    sed = torch.tensor([[0.3, 0.7], [0.6, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model.polychromatic, (opd, sed), fast_mode=True, eps=1e-6)
    z = wavefront_errors(optics, 2).requires_grad_()
    coarse = PupilModel(optics, coarse=2, dtype=torch.float64)
    for one in (model, coarse):
        assert torch.autograd.gradcheck(lambda v, one=one: one.monochromatic(one.opd(v)), z, fast_mode=True)


def test_a_second_derivative_is_refused():
    model = PupilModel(Optics(pupil_size=16, stamp=4, bins=1, modes=6))
    opd = torch.zeros(1, 16, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(model.monochromatic(opd).square().sum(), opd, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "change, message",
    [
        ({"diameter_m": 0.0}, "diameter_m must be above 0"),
        ({"focal_length_m": math.nan}, "focal_length_m must be finite"),
        ({"pupil_size": 255}, "pupil_size must be even"),
        ({"pupil_size": 256.0}, "pupil_size must be a whole number"),
        ({"stamp": 31}, "stamp must be even"),
        ({"bins": 0}, "bins must be above 0"),
        ({"band_nm": (900.0, 550.0)}, "band_nm must rise"),
        ({"band_nm": (-1.0, 550.0)}, "band_nm must lie above 0"),
        ({"field_limits": (3.0, 3.0)}, "field_limits must rise"),
        ({"field_degree": -1}, "field_degree must not be negative"),
        ({"field_grid": 4}, "field_grid must exceed field_degree, 4"),
        ({"obscuration_mm": 1200.0}, "less than the diameter, 1200 mm"),
        ({"spider_width_mm": -1.0}, "spider_width_mm must not be negative"),
        ({"wavelengths": "nearest"}, "wavelengths must be one of"),
        ({"pupil_size": 32}, "a stamp of 32 x 3 samples is larger than the 93"),
    ],
)
def test_bad_optics(change, message):
    with pytest.raises(ValueError, match=message):
        Optics(**change)


def test_bad_calls(small):
    opd, sed = torch.zeros(2, 64, 64), torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match=r"expected \(B, 15\)"):
        small.opd(torch.zeros(2, 45))
    with pytest.raises(ValueError, match=r"opd has shape \(2, 32, 32\); expected \(B, 64, 64\)"):
        small.monochromatic(torch.zeros(2, 32, 32))
    with pytest.raises(ValueError, match=r"expected \(B, 64, 64\)"):
        small.monochromatic(torch.zeros(64, 64))
    with pytest.raises(ValueError, match=r"expected \(B, 32, 32\) \(block_mean"):
        PupilModel(SMALL, coarse=2).monochromatic(opd)
    with pytest.raises(ValueError, match=r"sed has shape \(2, 4\); expected \(2, 3\)"):
        small.polychromatic(opd, torch.full((2, 4), 0.25))
    sed[1] = 0.5
    with pytest.raises(ValueError, match=r"sed sums to 1.5 in row 1; expected 1"):
        small.polychromatic(opd, sed)
    with pytest.raises(ValueError, match="size must be even"):
        small.super_resolved(opd, sed, size=33)
    with pytest.raises(ValueError, match="an image of 400 samples exceeds"):
        small.super_resolved(opd, sed, size=400)
    with pytest.raises(ValueError, match="coarse must be 1 or divide 32"):
        PupilModel(SMALL, coarse=3)
