"""Stars by the thousand in one field: stamps are smooth in position, so a few hundred tell all others."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from astro_utils.psf.optics import Optics
from astro_utils.psf.pupil import PupilModel, mix
from astro_utils.psf.wavefront import WavefrontField, scaled_positions

__all__ = ["FieldInterpolator", "FieldPsf", "PositionPsf"]

#: Wavefronts propagated at a time, and stars interpolated at a time: bounds of memory.
_WAVEFRONTS, _STARS = 16, 256


class PositionPsf(Protocol):
    """A PSF that depends on the position in the field alone, such as :class:`FieldPsf` or WaveDiff."""

    optics: Optics

    def opd(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute optical path differences (B, size, size), micrometres, at positions (B, 2)."""

    def monochromatic(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute stamps (B, bins, stamp, stamp) at positions (B, 2), each of unit sum."""


class FieldPsf(nn.Module):
    """A pupil with a field of Zernike wavefronts: from positions to stamps.

    Parameters
    ----------
    model : PupilModel
    field : WavefrontField
        Of the modes of `model`.
    """

    def __init__(self, model: PupilModel, field: WavefrontField) -> None:
        super().__init__()
        self.model, self.field = model, field

    @property
    def optics(self) -> Optics:
        """Those of the pupil."""
        return self.model.optics

    def opd(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute optical path differences (B, size, size), micrometres, at positions (B, 2)."""
        return self.model.opd(self.field(positions))

    def monochromatic(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute stamps (B, bins, stamp, stamp) at positions (B, 2), each of unit sum."""
        return self.model.monochromatic(self.opd(positions))


class FieldInterpolator(nn.Module):
    """Monochromatic stamps over a fixed field, by Chebyshev interpolation from a grid of positions.

    Parameters
    ----------
    psf : PositionPsf
        What is interpolated, over the field of its optics.
    nodes : int
        Chebyshev points along each axis. Stamps at all nodes are computed here.

    Raises
    ------
    ValueError
        If there are no nodes.

    Notes
    -----
    The interpolating polynomial of degree nodes - 1 through the roots x_j of the Chebyshev polynomial of
    degree n = nodes is sum_j f(x_j) L_j(x) with L_j(x) = (1 + 2 sum_{k=1}^{n-1} T_k(x_j) T_k(x)) / n
    (Trefethen 2019, Approximation Theory and Approximation Practice), here along each axis in turn. The sum
    of a stamp stays 1. :meth:`errors` measures what interpolation loses.
    """

    def __init__(self, psf: PositionPsf, nodes: int = 22) -> None:
        super().__init__()
        if nodes < 1:
            raise ValueError(f"nodes must be at least 1, not {nodes}")
        self.psf, self.nodes = psf, nodes
        roots = torch.cos(math.pi * (torch.arange(nodes, dtype=torch.float64) + 0.5) / nodes)
        low, high = psf.optics.field_limits
        axis = low + (high - low) * (roots + 1) / 2
        stamps = self._exact(torch.cartesian_prod(axis, axis))
        self.register_buffer("stamps", stamps, persistent=False)  # (nodes nodes, bins, stamp, stamp)
        self.register_buffer("at_roots", _chebyshev(roots, nodes), persistent=False)  # (nodes, nodes)

    def monochromatic(self, positions: ArrayLike | Tensor) -> Tensor:
        """Interpolate stamps, (N, bins, stamp, stamp) of unit sum, at positions (N, 2) in the field.

        Raises
        ------
        ValueError
            If a position is not in the field.
        """
        weights = self._weights(positions)
        out = self.stamps.new_empty(len(weights), *self.stamps.shape[1:])
        flat = self.stamps.flatten(1)
        for rows in torch.arange(len(weights)).split(_STARS):
            out[rows] = (weights[rows] @ flat).unflatten(1, self.stamps.shape[1:])
        return out

    def polychromatic(self, positions: ArrayLike | Tensor, sed: ArrayLike | Tensor) -> Tensor:
        """Interpolate images of stars, (N, stamp, stamp) of unit sum.

        Parameters
        ----------
        positions : array_like or torch.Tensor
            (N, 2) in the field.
        sed : array_like or torch.Tensor
            (N, bins) weights of unit sum.

        Raises
        ------
        ValueError
            If a position is not in the field, there are more or fewer spectra than positions, or weights do
            not sum to 1.
        """
        weights = self._weights(positions)
        sed = torch.as_tensor(sed).to(self.stamps)
        if len(sed) != len(weights):
            raise ValueError(f"sed has {len(sed)} rows; expected {len(weights)}, one for each position")
        out = self.stamps.new_empty(len(weights), *self.stamps.shape[2:])
        flat = self.stamps.flatten(1)
        for rows in torch.arange(len(weights)).split(_STARS):
            stamps = (weights[rows] @ flat).unflatten(1, self.stamps.shape[1:])
            out[rows] = mix(stamps, sed[rows])
        return out

    def errors(self, n: int = 64, seed: int = 0) -> Tensor:
        """Measure the interpolation at random positions, against the same model evaluated there.

        Parameters
        ----------
        n : int
            Number of positions, uniform over the field.
        seed : int

        Returns
        -------
        torch.Tensor
            (n, bins) relative errors of monochromatic stamps: norm of the difference over norm.
        """
        positions = np.random.default_rng(seed).uniform(*self.psf.optics.field_limits, (n, 2))
        exact = self._exact(torch.from_numpy(positions))
        difference = self.monochromatic(positions) - exact
        return difference.flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)

    @torch.no_grad()
    def _exact(self, positions: Tensor) -> Tensor:
        return torch.cat([self.psf.monochromatic(part) for part in positions.split(_WAVEFRONTS)])

    def _weights(self, positions: ArrayLike | Tensor) -> Tensor:
        """Lagrange polynomials of all nodes at (N, 2) positions: (N, nodes nodes)."""
        scaled = scaled_positions(positions, self.psf.optics.field_limits).to(self.at_roots)
        x, y = (_chebyshev(axis, self.nodes) @ self.at_roots.T for axis in scaled.unbind(1))  # (N, nodes)
        return (x[:, :, None] * y[:, None, :]).flatten(1).to(self.stamps)


def _chebyshev(x: Tensor, n: int) -> Tensor:
    """T_k(x) for k = 0 ... n - 1, (N, n), so scaled that products over k sum to Lagrange polynomials."""
    k = torch.arange(n, dtype=x.dtype, device=x.device)
    terms = torch.cos(k * torch.acos(x.clamp(-1, 1))[:, None]) * math.sqrt(2 / n)
    return torch.where(k == 0, math.sqrt(0.5) * terms, terms)
