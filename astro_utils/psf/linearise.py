"""First derivatives of the images of stars with respect to the Zernike coefficients of the wavefront.

With the field U = F[A exp(i k OPD)] in the image, the intensity I = |U|^2 has the derivative
dI / dc = 2 Re(conj(U) F[i k Z A exp(i k OPD)]) with respect to the coefficient c of the mode Z. All modes of
a star share U, so that all derivatives together cost little more than as many transforms::

    changes = zernike_derivatives(model, coefficients)                       # (N, bins, modes - 1, 32, 32)
    stars, jacobian = polychromatic_derivatives(model, coefficients, weights)    # (N, modes - 1, 32, 32)
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from astro_utils.psf.pupil import PupilModel

__all__ = ["derivative_bytes", "polychromatic_derivatives", "zernike_derivatives"]


def derivative_bytes(model: PupilModel, n: int) -> int:
    """Memory, in bytes, of what :func:`zernike_derivatives` returns for `n` stars.

    1.4 MB a star with the default optics. What is needed besides, some 40 MB with a pupil of 64 samples and
    110 MB with 256, does not grow with `n`.
    """
    optics = model.optics
    return n * optics.bins * (optics.modes - 1) * optics.stamp**2 * model.basis.element_size()


@torch.no_grad()
def zernike_derivatives(model: PupilModel, coefficients: Tensor) -> Tensor:
    """Differentiate monochromatic stamps of unit sum.

    Parameters
    ----------
    model : PupilModel
    coefficients : torch.Tensor
        (N, modes) micrometres, at which to differentiate.

    Returns
    -------
    torch.Tensor
        (N, bins, modes - 1, stamp, stamp) per micrometre. Piston, which changes nothing, is left out. See
        :func:`derivative_bytes` for the memory.

    Raises
    ------
    ValueError
        If there are more or fewer modes.
    """
    optics = model.optics
    shape = len(coefficients), optics.bins, optics.modes - 1, optics.stamp, optics.stamp
    out = model.basis.new_empty(shape)
    for star, b, _, change in _derivatives(model, coefficients):
        out[star, b] = change
    return out


@torch.no_grad()
def polychromatic_derivatives(model: PupilModel, coefficients: Tensor, sed: Tensor) -> tuple[Tensor, Tensor]:
    """Compute images of stars and their derivatives.

    Parameters
    ----------
    model : PupilModel
    coefficients : torch.Tensor
        (N, modes) micrometres.
    sed : torch.Tensor
        (N, bins) weights of the wavelengths, of unit sum.

    Returns
    -------
    stars : torch.Tensor
        (N, stamp, stamp) of unit sum.
    jacobian : torch.Tensor
        (N, modes - 1, stamp, stamp) per micrometre, without piston.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    optics = model.optics
    if sed.shape != (len(coefficients), optics.bins):
        raise ValueError(
            f"sed has shape {tuple(sed.shape)}; expected {(len(coefficients), optics.bins)}, (N, bins)"
        )
    stars = model.basis.new_zeros(len(sed), optics.stamp, optics.stamp)
    jacobian = model.basis.new_zeros(len(sed), optics.modes - 1, optics.stamp, optics.stamp)
    for star, b, stamp, change in _derivatives(model, coefficients):
        weight = float(sed[star, b])
        stars[star].add_(stamp, alpha=weight)
        jacobian[star].add_(change, alpha=weight)
    return stars, jacobian


def _derivatives(model: PupilModel, coefficients: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Star, bin, stamp (stamp, stamp) and its derivatives (modes - 1, stamp, stamp), for all pairs.

    One at a time: what belongs to one star and bin fits into a processor's cache, more would not.
    """
    optics, n = model.optics, model.size
    modes, samples, side = model.basis[1:], optics.stamp * optics.oversampling, optics.oversampling
    opd = model.opd(coefficients)
    # Sums of real and imaginary parts over the samples of a pixel, along x.
    pool = torch.eye(optics.stamp, dtype=opd.dtype, device=opd.device).repeat_interleave(2 * side, 0)
    for b, (wavelength, transform) in enumerate(zip(optics.wavelengths_um, _transforms(model), strict=True)):
        k, across = 2 * math.pi / wavelength, transform.T.contiguous()
        for star in range(len(opd)):
            pupil = torch.polar(model.amplitude, k * opd[star])
            field = transform @ pupil @ across  # (samples, samples)
            parts = ((modes * pupil).view(-1, n) @ across).view(-1, n, samples)
            parts = torch.view_as_real(transform @ parts)  # (modes - 1, samples, samples, 2)
            # Re(i conj(U) V) is the scalar product of -i U and V as vectors in the plane.
            change = parts.mul_(torch.view_as_real(-2j * k * field)).view(-1, optics.stamp, side, 2 * samples)
            change = change.sum(2) @ pool  # (modes - 1, stamp, stamp)
            stamp = torch.view_as_real(field).square().view(optics.stamp, side, 2 * samples).sum(1) @ pool
            total = stamp.sum()
            stamp = stamp / total
            yield star, b, stamp, (change / total).sub_(change.sum((1, 2), keepdim=True) / total * stamp)


def _transforms(model: PupilModel) -> Iterator[Tensor]:
    """Complex matrices (samples, size) of the model's Fourier transforms, one for each bin.

    The model keeps a quarter of them, by symmetry. They are divided by the kernel of the block mean.
    """
    for (cos, sin), envelope in zip(model.matrices, model.envelope, strict=True):
        half = torch.complex(cos, -sin)  # (K, size / 2)
        full = torch.cat([half, half.conj().flip(1)], 1)
        full = torch.cat([full[1:].conj().flip(0), full[:-1]])  # (samples, size)
        yield full.resolve_conj() / envelope[:, None] if model.coarse > 1 else full.resolve_conj()
