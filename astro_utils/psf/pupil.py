"""From the wavefront in a telescope's pupil to the images of stars, as a torch module.

model = PupilModel(Optics())
opd = model.opd(coefficients)                # (B, 45) micrometres -> (B, 256, 256)
stamps = model.monochromatic(opd)            # (B, 8, 32, 32), each of unit sum
stars = model.polychromatic(opd, weights)    # (B, 32, 32)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.psf.diffraction import dft_matrices, diffract, fold
from astro_utils.psf.optics import Optics, aperture
from astro_utils.psf.zernike import zernike_basis

__all__ = ["PupilModel", "mix"]


class PupilModel(nn.Module):
    """Point spread functions of a telescope from the optical path differences (OPD) over its pupil.

    Everything is differentiable, once, and runs on the device to which the module is moved.

    Parameters
    ----------
    optics : Optics
    coarse : int
        Side, in samples, of the blocks over which the pupil is averaged for speed; it must divide half of
        the pupil. 1 is exact.
    dtype : torch.dtype
        Of the buffers, and of what is computed with them. They are computed in float64.

    Raises
    ------
    ValueError
        If `coarse` does not fit.

    Attributes
    ----------
    size : int
        Samples across the pupil, ``optics.pupil_size / coarse``.
    amplitude : torch.Tensor
        (size, size) transmission of the aperture.
    basis : torch.Tensor
        (modes, size, size) Zernike polynomials.

    Notes
    -----
    In float32 stamps agree with a float64 transform to 3e-7 of their maximum. Training keeps the field of
    every wavelength for the backward pass: some 300 MB for 32 stars with the default optics.

    The mean of a field over blocks of m samples lowers its Fourier transform at frequency u by the Dirichlet
    kernel sin(pi m u) / (m sin(pi u)) along each axis, by which patterns are divided. What remains, for the
    wavefronts of :func:`astro_utils.psf.wavefront.random_field`, is a relative error (L2) of monochromatic
    stamps of 0.02 % with blocks of 2 samples and of 0.1 % with blocks of 4; without the division it would be
    0.12 % and 0.6 %.
    """

    def __init__(self, optics: Optics, *, coarse: int = 1, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        if coarse < 1 or optics.pupil_size % (2 * coarse):
            raise ValueError(
                f"coarse must be 1 or divide {optics.pupil_size // 2}, half of the pupil's samples, "
                f"but is {coarse}"
            )
        self.optics, self.coarse, self.size = optics, coarse, optics.pupil_size // coarse
        fine = torch.from_numpy(aperture(optics))
        amplitude = _block_mean(fine, coarse)
        basis = _weighted_mean(torch.from_numpy(zernike_basis(optics)), fine, amplitude, coarse)
        matrices, envelope = self._transform(optics.oversampling, optics.oversampling * optics.stamp)
        buffers = {"fine_amplitude": fine, "amplitude": amplitude, "basis": basis}
        buffers |= {"matrices": matrices, "envelope": envelope}  # (bins, 2, K, size / 2), (bins, samples)
        for name, value in buffers.items():  # they follow from the optics: no need to save them
            self.register_buffer(name, value.to(dtype), persistent=False)

    def opd(self, coefficients: Tensor) -> Tensor:
        """Sum Zernike modes.

        Parameters
        ----------
        coefficients : torch.Tensor
            (B, modes) micrometres, in Noll's order from piston.

        Returns
        -------
        torch.Tensor
            (B, size, size) optical path differences, micrometres; 0 outside of the unit disc.

        Raises
        ------
        ValueError
            If there are more or fewer modes.
        """
        if coefficients.ndim != 2 or coefficients.shape[1] != len(self.basis):
            raise ValueError(
                f"coefficients have shape {tuple(coefficients.shape)}; expected (B, {len(self.basis)})"
            )
        return torch.tensordot(coefficients.to(self.basis), self.basis, 1)

    def block_mean(self, opd: Tensor) -> Tensor:
        """Average a full-size wavefront over the blocks of this model, weighted by the transmission.

        Parameters
        ----------
        opd : torch.Tensor
            (..., pupil_size, pupil_size).

        Returns
        -------
        torch.Tensor
            (..., size, size); 0 where nothing passes.

        Raises
        ------
        ValueError
            If the wavefront has another size.
        """
        self._check_planes(opd, self.optics.pupil_size, "")
        return _weighted_mean(opd, self.fine_amplitude, self.amplitude, self.coarse)

    def monochromatic(self, opd: Tensor) -> Tensor:
        """Compute the stamps of a star at the wavelengths of all bins.

        Parameters
        ----------
        opd : torch.Tensor
            (B, size, size) micrometres.

        Returns
        -------
        torch.Tensor
            (B, bins, stamp, stamp) in [y, x], each of unit sum. Flat wavefronts are centred on the middle of
            the first of the samples (3 x 3) of pixel stamp / 2, as in the original.

        Raises
        ------
        ValueError
            If the wavefront has another size.
        """
        patterns = self._patterns(opd, self.matrices, self.envelope)
        return _unit_sum(F.avg_pool2d(patterns, self.optics.oversampling))

    def polychromatic(self, opd: Tensor, sed: Tensor) -> Tensor:
        """Compute the stamps of stars with given spectra.

        Parameters
        ----------
        opd : torch.Tensor
            (B, size, size) micrometres.
        sed : torch.Tensor
            (B, bins) weights of the wavelengths, of unit sum.

        Returns
        -------
        torch.Tensor
            (B, stamp, stamp), each of unit sum.

        Raises
        ------
        ValueError
            If shapes disagree or weights do not sum to 1.
        """
        return mix(self.monochromatic(opd), sed)

    def super_resolved(self, opd: Tensor, sed: Tensor, *, factor: float = 3, size: int = 64) -> Tensor:
        """Compute images on a finer grid than that of the detector, without its pixels' area.

        Parameters
        ----------
        opd : torch.Tensor
            (B, size, size) micrometres.
        sed : torch.Tensor
            (B, bins) weights of unit sum.
        factor : float
            Samples across a detector pixel. Those of the default, with the default optics, are what
            detector pixels are means of.
        size : int
            Side of the image in samples; even.

        Returns
        -------
        torch.Tensor
            (B, size, size), each of unit sum. A flat wavefront is centred on [size / 2, size / 2].

        Raises
        ------
        ValueError
            As :meth:`polychromatic`, or if the image is larger than the period of the sampled pupil.
        """
        if size < 2 or size % 2 or not factor > 0:
            raise ValueError(f"size must be even and factor above 0, but they are {size} and {factor}")
        matrices, envelope = (part.to(self.basis) for part in self._transform(factor, size))
        return mix(_unit_sum(self._patterns(opd, matrices, envelope)), sed)

    def _transform(self, factor: float, size: int) -> tuple[Tensor, Tensor]:
        """Matrices of the transform, and the kernel of the block mean, for a grid of samples."""
        periods = torch.from_numpy(self.optics.periods) * factor / self.optics.oversampling
        if size > periods.min():
            raise ValueError(
                f"an image of {size} samples exceeds {periods.min():.0f}, after which it repeats itself"
            )
        index = torch.arange(-size // 2, size // 2 + 1, dtype=torch.float64)
        frequencies = index / periods[:, None]  # (bins, size + 1) cycles per sample of the full pupil
        envelope = torch.sinc(self.coarse * frequencies) / torch.sinc(frequencies)
        matrices = dft_matrices(self.coarse * frequencies[:, size // 2 :], self.size)
        return matrices, envelope[:, :-1]

    def _patterns(self, opd: Tensor, matrices: Tensor, envelope: Tensor) -> Tensor:
        """Diffraction patterns of all bins, (B, bins, samples, samples)."""
        self._check_planes(opd, self.size, "B" if opd.ndim != 3 else "")
        folded, amplitude = fold(opd.to(self.basis)), fold(self.amplitude[None])
        patterns = [
            diffract(folded, amplitude, 2 * math.pi / wavelength, matrix)
            for wavelength, matrix in zip(self.optics.wavelengths_um, matrices, strict=True)
        ]
        patterns = torch.stack(patterns).permute(2, 0, 1, 3)  # (B, bins, y, x)
        if self.coarse > 1:
            patterns = patterns / (envelope[:, :, None] * envelope[:, None]).square()
        return patterns

    def _check_planes(self, opd: Tensor, size: int, batch: str) -> None:
        if batch or opd.shape[-2:] != (size, size):
            raise ValueError(
                f"opd has shape {tuple(opd.shape)}; expected (B, {size}, {size})"
                + (" (block_mean makes it of a larger one)" if size < self.optics.pupil_size else "")
            )


def mix(stamps: Tensor, sed: Tensor) -> Tensor:
    """Sum monochromatic images to polychromatic ones.

    Parameters
    ----------
    stamps : torch.Tensor
        (B, bins, n, n).
    sed : torch.Tensor
        (B, bins) weights of unit sum.

    Returns
    -------
    torch.Tensor
        (B, n, n).

    Raises
    ------
    ValueError
        If shapes disagree or weights do not sum to 1 within 0.001.
    """
    if sed.shape != stamps.shape[:2]:
        raise ValueError(f"sed has shape {tuple(sed.shape)}; expected {tuple(stamps.shape[:2])}, (B, bins)")
    sums = sed.detach().sum(1)
    wrong = ~((sums - 1).abs() < 1e-3)
    if wrong.any():
        row = int(wrong.int().argmax())
        raise ValueError(f"sed sums to {sums[row]:g} in row {row}; expected 1")
    return torch.einsum("bk,bkyx->byx", sed.to(stamps), stamps)


def _unit_sum(stamps: Tensor) -> Tensor:
    return stamps / stamps.sum((-2, -1), keepdim=True)


def _block_mean(plane: Tensor, side: int) -> Tensor:
    *batch, n, _ = plane.shape
    return plane.reshape(*batch, n // side, side, n // side, side).mean((-3, -1))


def _weighted_mean(plane: Tensor, weights: Tensor, mean_weights: Tensor, side: int) -> Tensor:
    """Mean over blocks, 0 where all weights are; planes themselves for blocks of one sample."""
    if side == 1:
        return plane
    safe = torch.where(mean_weights > 0, mean_weights, 1)
    return _block_mean(plane * weights, side) / safe
