"""The published errors of PSF models, on cases of which the answer is known."""

import dataclasses

import numpy as np
import pytest
import torch

from astro_utils.models.wavediff import WaveDiff
from astro_utils.psf import Optics, PupilModel, random_field
from astro_utils.psf.metrics import evaluate, opd_errors, relative_pixel_error, shape_errors, shapes

OPTICS = Optics(pupil_size=64, stamp=16, bins=3, modes=10, field_degree=2, field_grid=4)
FIELD = random_field(OPTICS, seed=1)
RNG = np.random.default_rng(0)
POSITIONS, SED = RNG.uniform(0, 1000, (5, 2)), RNG.dirichlet(np.ones(3), 5)


def gaussian(sigma: float, g1: float = 0.0, g2: float = 0.0, x0: float = 0.0, y0: float = 0.0) -> np.ndarray:
    """A Gaussian of 64 x 64 samples with axis ratio (1 - g) / (1 + g) and the area of a round one."""
    g, angle = np.hypot(g1, g2), 0.5 * np.arctan2(g2, g1)
    y, x = np.mgrid[:64, :64] - 31.5
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    ratio = (1 + g) / (1 - g)
    image = np.exp(-0.5 * (along**2 / ratio + across**2 * ratio) / sigma**2)
    return image / image.sum()


class Truth:
    """A model that knows the truth, scaled."""

    def __init__(self, optics: Optics = OPTICS, scale: float = 1.0, coarse: int = 1) -> None:
        self.pupil, self.scale = PupilModel(optics, coarse=coarse), scale

    def opd(self, positions):
        return self.scale * self.pupil.opd(FIELD(positions))

    def monochromatic(self, positions):
        return self.pupil.monochromatic(self.opd(positions))


def test_pixel_error_is_the_mean_over_stars():
    true = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 100.0)])
    errors = relative_pixel_error(true * np.array([1.01, 1.03])[:, None, None], true)
    assert errors == pytest.approx({"relative": 2, "relative_std": 1, "rmse": 1.51, "rmse_std": 1.49})
    one_pixel = np.zeros((1, 4, 4))
    one_pixel[0, 1, 2] = 4
    off = one_pixel.copy()
    off[0, 0, 0] = 1
    assert relative_pixel_error(off, one_pixel) == pytest.approx(
        {"relative": 25, "relative_std": 0, "rmse": 0.25, "rmse_std": 0}
    )


def test_shapes_of_gaussians():
    cases = [(3.0, 0.1, 0.0, 0.3, -0.2), (4.0, 0.0, -0.2, 0.0, 0.0), (2.5, 0.05, 0.12, 1.0, 0.5)]
    measured = shapes(np.stack([gaussian(*case) for case in cases]))
    expected = [(g1, g2, 2 * sigma**2) for sigma, g1, g2, *_ in cases]
    np.testing.assert_allclose(measured, expected, rtol=2e-3, atol=1e-4)


def test_shape_errors_and_failures():
    true = np.stack([gaussian(3, 0.1), gaussian(4, 0, 0.1), gaussian(3)])
    model = np.stack([gaussian(3, 0.13), gaussian(4, 0.04, 0.1), gaussian(3.1, 0, 0.01)])
    expected = {
        "e1": np.sqrt((0.03**2 + 0.04**2) / 3),
        "e2": 0.01 / np.sqrt(3),
        "r2": 2 * (3.1**2 - 9) / np.sqrt(3) / (2 * (9 + 16 + 9) / 3),
        "shape_failures": 0,
    }
    assert shape_errors(model, true) == pytest.approx(expected, rel=0.01)
    for broken in (model, true):
        with_failure = broken.copy()
        with_failure[2] = 0
        pair = (with_failure, true) if broken is model else (model, with_failure)
        errors = shape_errors(*pair)
        assert errors["shape_failures"] == 1 and errors["e2"] < 1e-4
        assert errors["e1"] == pytest.approx(0.05 / np.sqrt(2), rel=0.01)
    errors = shape_errors(np.zeros((2, 64, 64)), true[:2])
    assert errors["shape_failures"] == 2 and np.isnan([errors[name] for name in ("e1", "e2", "r2")]).all()


def test_wavefront_errors():
    amplitude = PupilModel(OPTICS).amplitude.numpy()
    y, x = np.mgrid[:64, :64] / 32 - 1
    true = np.stack([x, 2 * x * y]) * (np.hypot(x, y) <= 1)
    is_open = amplitude > 0
    errors = opd_errors(1.1 * true, true, amplitude)
    assert errors["opd_relative"] == pytest.approx(10) == errors["opd_relative_no_piston"]
    assert errors["opd_relative_std"] == pytest.approx(0, abs=1e-9)
    centred = (true - true.mean((1, 2))[:, None, None]) * amplitude
    rms = np.sqrt((centred[:, is_open] ** 2).mean(1))
    assert errors["opd_rmse"] == pytest.approx(0.1 * rms.mean()) and errors["opd_rmse_std"] > 0
    hidden = true + 5 * (~is_open - (~is_open).mean())  # of mean 0 over the square
    shifted = 5 * (~is_open).mean() * np.sqrt((amplitude[is_open] ** 2).mean())
    assert opd_errors(hidden, true, amplitude)["opd_rmse"] == pytest.approx(shifted)
    assert opd_errors(hidden, true, amplitude)["opd_relative_no_piston"] == pytest.approx(0, abs=1e-9)


def test_piston_does_not_count_and_a_fifth_of_it_as_published():
    amplitude = PupilModel(dataclasses.replace(OPTICS, filter_length=1)).amplitude.numpy()  # 0 or 1
    y, x = np.mgrid[:64, :64] / 31.5 - 1
    disc = np.hypot(x, y) <= 1
    true = (x * disc)[None]
    errors = opd_errors(true + disc, true, amplitude)
    assert errors["opd_rmse"] == pytest.approx(1 - disc.mean()) == pytest.approx(1 - np.pi / 4, abs=0.03)
    assert errors["opd_relative_no_piston"] == pytest.approx(0, abs=1e-9)


@pytest.fixture(scope="module")
def of_truth() -> dict:
    return evaluate(Truth(), FIELD, OPTICS, POSITIONS, SED, batch_size=2)


def test_the_truth_has_no_errors(of_truth):
    assert of_truth["n"] == 5 and of_truth["shape_failures"] == 0
    np.testing.assert_allclose(of_truth["wavelengths_um"], OPTICS.wavelengths_um)
    for name, value in of_truth.items():
        if name not in ("n", "wavelengths_um", "shape_failures"):
            assert np.max(np.abs(value)) < 1e-4, name


def test_evaluation_is_the_sum_of_its_parts(of_truth):
    model, pupil = Truth(scale=1.3), PupilModel(OPTICS)
    errors = evaluate(model, FIELD, OPTICS, POSITIONS, SED, batch_size=2)
    assert errors.keys() == of_truth.keys()
    opd, sed = pupil.opd(FIELD(POSITIONS)), torch.from_numpy(SED)
    expected = relative_pixel_error(pupil.polychromatic(1.3 * opd, sed), pupil.polychromatic(opd, sed))
    fine = pupil.super_resolved(1.3 * opd, sed), pupil.super_resolved(opd, sed)
    expected |= {f"super_{name}": value for name, value in relative_pixel_error(*fine).items()}
    expected |= shape_errors(*fine)
    expected |= opd_errors(1.3 * opd, opd, pupil.amplitude)
    assert {name: errors[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert errors["opd_relative"] == pytest.approx(30, rel=1e-4) and errors["relative"] > 1
    mono = pupil.monochromatic(1.3 * opd), pupil.monochromatic(opd)
    for bin_, (relative, rmse) in enumerate(zip(errors["mono_relative"], errors["mono_rmse"], strict=True)):
        of_bin = relative_pixel_error(mono[0][:, bin_], mono[1][:, bin_])
        assert (relative, rmse) == pytest.approx((of_bin["relative"], of_bin["rmse"]), rel=1e-4)


def test_coarse_models_and_their_own_fine_images():
    coarse = evaluate(Truth(coarse=2), FIELD, OPTICS, POSITIONS, SED)
    assert coarse["opd_relative"] < 1e-3 and 1e-4 < coarse["super_relative"] < 0.5

    class Own(Truth):
        def super_resolved(self, positions, sed):
            return torch.ones(len(positions), 64, 64)

    assert evaluate(Own(), FIELD, OPTICS, POSITIONS, SED)["super_relative"] > 1e4
    without_mask = dataclasses.replace(OPTICS, mask_edge=False)
    for coarse, limit in ((1, 1e-4), (2, 8)):  # blocks at the edge average over the ring, too
        model = WaveDiff(optics=without_mask, modes=10, degree=2, coarse=coarse, maps=False)
        with torch.no_grad():
            model.coefficients.copy_(FIELD.coefficients)
        errors = evaluate(model, FIELD, OPTICS, POSITIONS, SED)
        assert errors["opd_relative"] < limit and 0.3 < errors["relative"] < 10  # only the pupil differs


@pytest.mark.parametrize(
    ("model", "true", "match"),
    [
        (np.ones((2, 4, 4)), np.ones((3, 4, 4)), r"stamps of the model have shape \(2, 4, 4\), true ones"),
        (np.ones((4, 4)), np.ones((4, 4)), r"expected \(N, ny, nx\) of both"),
        (np.ones((2, 4, 4)), np.full((2, 4, 4), np.nan), "stamps 0 of the truth is not finite"),
    ],
)
def test_bad_stamps(model, true, match):
    for function in (relative_pixel_error, shape_errors):
        with pytest.raises(ValueError, match=match):
            function(model, true)


def test_bad_evaluations():
    with pytest.raises(ValueError, match="5 positions and 4 spectra"):
        evaluate(Truth(), FIELD, OPTICS, POSITIONS, SED[:4])
    other = dataclasses.replace(OPTICS, bins=4)
    with pytest.raises(ValueError, match=r"have shape \(5, 4, 16, 16\); expected \(5, 3, 16, 16\)"):
        evaluate(Truth(other), FIELD, OPTICS, POSITIONS, SED)
    small = dataclasses.replace(OPTICS, pupil_size=60)
    with pytest.raises(ValueError, match="wavefronts have 60 samples; expected a part of 64"):
        evaluate(Truth(small), FIELD, OPTICS, POSITIONS, SED)
    with pytest.raises(ValueError, match=r"amplitude has shape \(3, 3\); expected \(4, 4\)"):
        opd_errors(np.ones((1, 4, 4)), np.ones((1, 4, 4)), np.ones((3, 3)))
