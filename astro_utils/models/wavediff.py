"""WaveDiff: a PSF model in the wavefront, parametric plus data-driven (Liaudat et al. 2023).

model = WaveDiff(optics=Optics(mask_edge=False), coarse=2, seed=1)
stamps = model(positions, sed)         # (B, 2), (B, 8) -> (B, 32, 32)
opd = model.opd(positions)             # (B, 128, 128) micrometres

:mod:`astro_utils.psf.wavediff_training` trains it as published.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from astro_utils.psf import Optics, PupilModel, monomials

__all__ = ["WaveDiff"]


class WaveDiff(nn.Module):
    r"""Wavefronts over the field of view whose PSFs are those of the observed stars.

    The optical path difference (OPD) at field position (x, y) is [1]_

    .. math:: \sum_k [C \pi_d(x, y)]_k Z_k + \pi_{d'}(x, y)^T \alpha S,

    a *parametric part* of Zernike polynomials Z and a *data-driven part* of free maps S, both with
    polynomials in position, of which the vectors of monomials are pi.

    Parameters
    ----------
    optics : Optics
        Of the model. Of the published one ``Optics(mask_edge=False)``, which differs from the optics with
        which the published stars were simulated.
    modes : int
        Zernike modes from piston in Noll's order. 45 in [2]_, 15 in [1]_.
    degree : int
        Of the parametric polynomials: 4 in [2]_, 2 in [1]_.
    map_degree : int
        Of the data-driven polynomials.
    coarse : int
        Samples of the pupil that are averaged along each side, for speed
        (see :class:`astro_utils.psf.pupil.PupilModel`). Maps have the size of the averaged pupil.
    maps : bool
        Whether the data-driven part is switched on from the start: alpha is the identity, and 0 otherwise.
    seed : int
        Of the initial C, uniform from -0.01 to 0.01, and S, uniform from -0.001 to 0.001 micrometres.

    Raises
    ------
    ValueError
        If a degree is negative, or as :class:`astro_utils.psf.optics.Optics` and
        :class:`astro_utils.psf.pupil.PupilModel`.

    Attributes
    ----------
    coefficients : torch.nn.Parameter
        C, (modes, M) micrometres, with the M = (degree + 1) (degree + 2) / 2 monomials.
    features : torch.nn.Parameter
        S, (M', size, size) micrometres, with the M' monomials of `map_degree`.
    mixing : torch.nn.Parameter
        alpha, (M', M').

    References
    ----------
    .. [1] Liaudat, T., et al., 2023, Inverse Problems, 39, 035008, doi:10.1088/1361-6420/acb664.
    .. [2] Centofanti, E., et al., 2025, A&A, 694, A228, arXiv:2501.16151.
    """

    def __init__(
        self,
        *,
        optics: Optics,
        modes: int = 45,
        degree: int = 4,
        map_degree: int = 5,
        coarse: int = 1,
        maps: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("degree", degree), ("map_degree", map_degree)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, but is {value}")
        self.degree, self.map_degree = degree, map_degree
        self.pupil = PupilModel(replace(optics, modes=modes), coarse=coarse)
        size, terms = self.pupil.size, _n_monomials(map_degree)
        generator = torch.Generator().manual_seed(seed)

        def uniform(limit: float, *shape: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(*shape, generator=generator) - 1) * limit)

        self.coefficients = uniform(0.01, modes, _n_monomials(degree))
        self.features = uniform(0.001, terms, size, size)
        self.mixing = nn.Parameter(torch.eye(terms) * maps)

    @property
    def optics(self) -> Optics:
        """The optics of the model, with its number of modes."""
        return self.pupil.optics

    @property
    def maps(self) -> bool:
        """Whether the data-driven part is on: whether alpha is anything but 0."""
        return bool(self.mixing.detach().any())

    def set_maps(self, on: bool) -> None:
        """Set alpha to the identity, or to 0, which switches the data-driven part off."""
        with torch.no_grad():
            self.mixing.copy_(torch.eye(len(self.mixing)) * on)

    def zernike_coefficients(self, positions: ArrayLike | Tensor) -> Tensor:
        """Evaluate the parametric part, (B, modes) micrometres, at positions (B, 2)."""
        return self._terms(positions, self.degree) @ self.coefficients.T

    def opd(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute optical path differences, (B, size, size) micrometres, at positions (B, 2) in the field."""
        parametric = self.zernike_coefficients(positions) @ self.pupil.basis.flatten(1)
        weights = self._terms(positions, self.map_degree) @ self.mixing  # (B, M')
        opd = torch.addmm(parametric, weights, self.features.flatten(1))  # (B, size size)
        return opd.unflatten(1, self.features.shape[1:])

    def monochromatic(self, positions: ArrayLike | Tensor) -> Tensor:
        """Compute stamps at all wavelengths, (B, bins, stamp, stamp), each of unit sum."""
        return self.pupil.monochromatic(self.opd(positions))

    def forward(self, positions: ArrayLike | Tensor, sed: Tensor) -> Tensor:
        """Compute images of stars.

        Parameters
        ----------
        positions : array_like or torch.Tensor
            (B, 2) in ``optics.field_limits``.
        sed : torch.Tensor
            (B, bins) weights of unit sum (see :func:`astro_utils.psf.spectra.sed_weights`).

        Returns
        -------
        torch.Tensor
            (B, stamp, stamp), each of unit sum.

        Raises
        ------
        ValueError
            If a position is not in the field, or as
            :meth:`astro_utils.psf.pupil.PupilModel.polychromatic`.
        """
        return self.pupil.polychromatic(self.opd(positions), sed)

    def super_resolved(
        self, positions: ArrayLike | Tensor, sed: Tensor, *, factor: float = 3, size: int = 64
    ) -> Tensor:
        """Compute images on a finer grid (see :meth:`astro_utils.psf.pupil.PupilModel.super_resolved`)."""
        return self.pupil.super_resolved(self.opd(positions), sed, factor=factor, size=size)

    def _terms(self, positions: ArrayLike | Tensor, degree: int) -> Tensor:
        return monomials(positions, degree, self.optics.field_limits).to(self.coefficients)


def _n_monomials(degree: int) -> int:
    return (degree + 1) * (degree + 2) // 2
