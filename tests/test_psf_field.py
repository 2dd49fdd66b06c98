"""Wavefronts over a field of view, and stars interpolated in it."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from galsim.zernike import zernikeBasis

from astro_utils.legacy import read_pickled_npy
from astro_utils.psf import (
    FieldInterpolator,
    FieldPsf,
    Optics,
    PupilModel,
    WavefrontField,
    monomials,
    random_field,
)

SMALL = Optics(pupil_size=64, stamp=16, bins=2)

published = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with wf_psf"
)


@pytest.fixture(scope="module")
def interpolator():
    return FieldInterpolator(FieldPsf(PupilModel(SMALL, coarse=2), random_field(SMALL, seed=1)), nodes=18)


def positions(n, seed=0):
    return np.random.default_rng(seed).uniform(0, 1000, (n, 2))


def test_monomials():
    terms = monomials([[500.0, 1000.0], [750.0, 250.0]], 4, (0.0, 1000.0))
    assert terms.shape == (2, 15) and terms.dtype == torch.float64
    x, y = 0.5, -0.5
    expected = [1, x, y, x**2, x * y, y**2, x**3, x**2 * y, x * y**2, y**3]
    expected += [x**4, x**3 * y, x**2 * y**2, x * y**3, y**4]
    np.testing.assert_allclose(terms[1], expected)
    np.testing.assert_allclose(terms[0], [int(i in (0, 2, 5, 9, 14)) for i in range(15)])


def test_random_fields_follow_the_recipe():
    optics = Optics()
    field = random_field(optics, seed=7)
    assert field.coefficients.shape == (45, 15) and field.degree == 4
    axis = np.linspace(0, 1000, 5)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    assert field(grid).norm(dim=1).mean().item() == pytest.approx(0.040)
    again, other = random_field(optics, 7), random_field(optics, 8)
    assert torch.equal(field.coefficients, again.coefficients)
    assert (field.coefficients - other.coefficients).abs().max() > 0.001
    errors = torch.cat([random_field(optics, seed)(positions(500)).norm(dim=1) for seed in range(8)])
    assert 0.029 < errors.mean() < 0.035  # less than at the grid, half of which is on the edge
    assert 0.012 < errors.min() and errors.max() < 0.12
    # Values were brought to one norm for all modes: powers scatter by 0.37 of the mean, by 0.48 otherwise.
    fields = [random_field(optics, seed)(grid).square().mean(0) for seed in range(40)]
    assert 0.33 < torch.stack([power.std() / power.mean() for power in fields]).mean() < 0.42
    # All modes are alike: none decays with its order.
    power = torch.stack(fields).mean(0)
    low, high = power[:15].mean(), power[30:].mean()
    assert abs(low / high - 1) < 0.15


def test_scale_of_a_random_field():
    few = replace(SMALL, modes=6, mean_wavefront_error_nm=10.0, field_degree=1, field_limits=(-1.0, 1.0))
    field = random_field(few, 0)
    assert field.coefficients.shape == (6, 3)
    corners = np.stack(np.meshgrid(np.linspace(-1, 1, 5), np.linspace(-1, 1, 5)), -1).reshape(-1, 2)
    assert field(corners).norm(dim=1).mean().item() == pytest.approx(0.010)


def test_interpolated_stars(interpolator):
    model, field, where = interpolator.psf.model, interpolator.psf.field, positions(300)
    sed = np.random.default_rng(1).dirichlet(np.ones(2), 300)
    mono, stars = interpolator.monochromatic(where), interpolator.polychromatic(where, sed)
    assert mono.shape == (300, 2, 16, 16) and stars.shape == (300, 16, 16)
    torch.testing.assert_close(stars, torch.einsum("nk,nkyx->nyx", torch.tensor(sed).float(), mono))
    torch.testing.assert_close(stars.sum((1, 2)), torch.ones(300), rtol=0, atol=1e-5)
    some = [0, 255, 256, 299]  # either side of a boundary between parts
    exact = model.polychromatic(model.opd(field(where[some])), torch.from_numpy(sed[some]))
    assert ((stars[some] - exact).flatten(1).norm(dim=1) / exact.flatten(1).norm(dim=1)).max() < 1e-3


def test_error_falls_with_nodes(interpolator):
    model, field = interpolator.psf.model, interpolator.psf.field
    errors = [FieldInterpolator(FieldPsf(model, field), nodes).errors(16, seed=2).max() for nodes in (6, 10)]
    errors.append(interpolator.errors(16, seed=2).max())
    assert interpolator.errors(16).shape == (16, 2)
    assert errors[0] > 4 * errors[1] > 40 * errors[2]
    assert errors[2] < 5e-4
    # Chebyshev points reach close to the corners: errors there are like those inside.
    corners = torch.cartesian_prod(*2 * [torch.tensor([0.0, 1000.0], dtype=torch.float64)])
    exact = model.monochromatic(model.opd(field(corners)))
    difference = interpolator.monochromatic(corners) - exact
    assert (difference.flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)).max() < 2e-3


def test_polynomials_are_interpolated_exactly():
    # Stamps that are polynomials of a degree below the number of nodes.
    class Squares(torch.nn.Module):
        optics = SMALL

        def opd(self, coefficients):
            return coefficients

        def monochromatic(self, values):
            x, y = values[:, 1] / 500 - 1, values[:, 2] / 500 - 1
            return torch.stack([x**3 * y**2, 1 - x * y**3], 1)[:, :, None, None]

    plane = WavefrontField(torch.tensor([[1.0, 0, 0], [500, 500, 0], [500, 0, 500]], dtype=torch.float64))
    interpolator, where = FieldInterpolator(FieldPsf(Squares(), plane), nodes=4), positions(50)
    expected = Squares().monochromatic(plane(where))
    torch.testing.assert_close(interpolator.monochromatic(where), expected, rtol=0, atol=1e-13)


@published
@pytest.mark.parametrize("name", ["train_Euclid_res_200stars", "conf_train_Euclid_res_200_stars_dim256"])
def test_coefficients_of_published_stars(name):
    path = Path(os.environ["ASTRO_UTILS_DATA"]) / "wf_psf" / f"{name}.npy"
    stars = read_pickled_npy(path).item()
    field = WavefrontField(stars["C_poly"])
    assert field.degree == stars["parameters"]["d_max"] == 2
    np.testing.assert_allclose(field(stars["positions"]), stars["zernike_coef"][:, :, 0], rtol=0, atol=1e-15)


@published
def test_pixels_of_published_stars():
    # These files are older than the simulator whose recipe the optics follow. Their pixels are reproduced by
    # polynomials that run downwards in y, on a disc of 128 samples in radius, an eighth of a sample off the
    # centre (every fourth sample of a map of 1024). The aperture and all that follows is ours.
    path = Path(os.environ["ASTRO_UTILS_DATA"]) / "wf_psf" / "train_Euclid_res_200stars.npy"
    stars = read_pickled_npy(path).item()
    axis = np.arange(256) - 127.625
    x, y = np.meshgrid(axis / 128, axis / 128)
    disc = np.hypot(x, y) <= 127.5 / 128
    basis = zernikeBasis(45, x, -y)[1:]
    model = PupilModel(Optics(bins=20, wavelengths="wf-psf", mask_edge=False))
    model.amplitude *= torch.from_numpy(disc)
    opd = torch.from_numpy(np.tensordot(stars["zernike_coef"][:3, :, 0], basis, 1))
    for stamps, image in zip(model.monochromatic(opd).double(), stars["stars"], strict=False):
        columns = stamps.flatten(1).T.numpy()
        weights = np.linalg.lstsq(columns, image.ravel(), rcond=None)[0]  # the best spectrum
        assert np.linalg.norm(columns @ weights - image.ravel()) < 4e-4 * np.linalg.norm(image)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda i: WavefrontField(np.zeros((45, 14))), r"\(45, 14\); expected \(modes, M\)"),
        (lambda i: WavefrontField(np.zeros(15)), r"\(15,\); expected \(modes, M\)"),
        (lambda i: i.psf.field(np.zeros(2)), r"positions have shape \(2,\); expected \(N, 2\)"),
        (lambda i: i.psf.field([[0.0, 1.0], [5.0, 1001.0]]), r"position 1 is \(5.0, 1001.0\); expected"),
        (lambda i: i.monochromatic([[np.nan, 1.0]]), "position 0 is"),
        (lambda i: i.polychromatic(np.ones((2, 2)), np.ones((1, 2)) / 2), "sed has 1 rows; expected 2"),
        (lambda i: i.polychromatic(np.ones((1, 2)), np.ones((1, 2))), "sed sums to 2 in row 0"),
        (lambda i: FieldInterpolator(i.psf, 0), "nodes must be at least 1"),
        (
            lambda i: FieldInterpolator(FieldPsf(i.psf.model, WavefrontField(np.zeros((5, 1))))),
            r"expected \(B, 45\)",
        ),
    ],
)
def test_bad_calls(interpolator, call, message):
    with pytest.raises(ValueError, match=message):
        call(interpolator)
