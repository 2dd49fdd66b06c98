"""Wavefronts that vary over the field of view: each Zernike coefficient is a polynomial in position."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from astro_utils.psf.optics import Optics

__all__ = ["WavefrontField", "monomials", "random_field", "scaled_positions"]


def scaled_positions(positions: ArrayLike | Tensor, limits: tuple[float, float]) -> Tensor:
    """Scale positions in the field to the square from -1 to 1.

    Parameters
    ----------
    positions : array_like or torch.Tensor
        (N, 2) x and y.
    limits : tuple of float
        Lower and upper end of both.

    Returns
    -------
    torch.Tensor
        (N, 2), float64 unless `positions` is a tensor of another floating type.

    Raises
    ------
    ValueError
        If the shape is another or a position is not in the field.
    """
    if not isinstance(positions, Tensor):
        positions = torch.from_numpy(np.asarray(positions, float))
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"positions have shape {tuple(positions.shape)}; expected (N, 2)")
    low, high = limits
    outside = ~((positions >= low) & (positions <= high)).all(1)
    if outside.any():
        row = int(outside.int().argmax())
        raise ValueError(
            f"position {row} is {tuple(positions[row].tolist())}; expected values from {low:g} to {high:g}"
        )
    return 2 * (positions - low) / (high - low) - 1


def monomials(positions: ArrayLike | Tensor, degree: int, limits: tuple[float, float]) -> Tensor:
    """Evaluate the monomials in field position up to a degree.

    Parameters
    ----------
    positions : array_like or torch.Tensor
        (N, 2) x and y.
    degree : int
    limits : tuple of float
        Ends of the field, which is scaled to the square from -1 to 1.

    Returns
    -------
    torch.Tensor
        (N, (degree + 1) (degree + 2) / 2): 1, x, y, x^2, x y, y^2, x^3, x^2 y, and so on.

    Raises
    ------
    ValueError
        As :func:`scaled_positions`.
    """
    x, y = scaled_positions(positions, limits).unbind(1)
    return torch.stack([x ** (d - p) * y**p for d in range(degree + 1) for p in range(d + 1)], dim=1)


class WavefrontField(nn.Module):
    """Zernike coefficients as polynomials in field position.

    Parameters
    ----------
    coefficients : array_like or torch.Tensor
        (modes, M) micrometres: factors of the M = (d + 1) (d + 2) / 2 :func:`monomials` of degree d.
    limits : tuple of float
        Ends of the field along both axes.

    Raises
    ------
    ValueError
        If M is the number of monomials of no degree.
    """

    def __init__(
        self, coefficients: ArrayLike | Tensor, limits: tuple[float, float] = Optics.field_limits
    ) -> None:
        super().__init__()
        coefficients = torch.as_tensor(coefficients)
        n = coefficients.shape[-1] if coefficients.ndim == 2 else 0
        degree = (math.isqrt(8 * n + 1) - 3) // 2
        if n == 0 or (degree + 1) * (degree + 2) != 2 * n:
            raise ValueError(
                f"coefficients have shape {tuple(coefficients.shape)}; expected (modes, M) with M = 1, 3, 6, "
                "10, 15, ..., the number of monomials of a degree"
            )
        self.degree, self.limits = degree, limits
        self.register_buffer("coefficients", coefficients)

    def forward(self, positions: ArrayLike | Tensor) -> Tensor:
        """Evaluate the coefficients of the modes, (N, modes) micrometres, at positions (N, 2)."""
        terms = monomials(positions, self.degree, self.limits)
        return terms.to(self.coefficients) @ self.coefficients.T


def random_field(optics: Optics, seed: int) -> WavefrontField:
    """Draw a field of wavefronts as the simulator of [1]_ does.

    Normal values on a grid of positions, each moved at random within its cell (and back into the field), are
    divided by their norm over the grid, mode by mode, so that no mode is stronger than another. Polynomials
    are fitted to them, and scaled to the wanted mean of the wavefront error on the regular grid.

    Parameters
    ----------
    optics : Optics
    seed : int

    Returns
    -------
    WavefrontField
        In float64.

    References
    ----------
    .. [1] Liaudat, T., et al., 2023, Inverse Problems, 39, 035008, doi:10.1088/1361-6420/acb664.
    """
    rng = np.random.default_rng(seed)
    low, high = optics.field_limits
    n = optics.field_grid
    axis = np.linspace(low, high, n)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)  # (n n, 2)
    moved = np.clip(grid + rng.uniform(-0.5, 0.5, grid.shape) * (high - low) / n, low, high)
    values = rng.standard_normal((optics.modes, len(grid)))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    terms = monomials(moved, optics.field_degree, optics.field_limits).numpy()
    coefficients = np.linalg.lstsq(terms, values.T, rcond=None)[0].T  # (modes, M)
    on_grid = coefficients @ monomials(grid, optics.field_degree, optics.field_limits).numpy().T
    error = np.linalg.norm(on_grid, axis=0).mean()
    return WavefrontField(coefficients * (optics.mean_wavefront_error_nm / 1000 / error), optics.field_limits)
