"""Fraunhofer diffraction by a matrix Fourier transform in real arithmetic.

Of the Fourier transform of a pupil only the lowest frequencies fall on a stamp. The product E W E^T with a
matrix of complex exponentials gives just those, for any wavelength, without padding the pupil (Soummer et
al. 2007). About the pupil's centre, cosines are even and sines odd in position and in frequency: half of the
positions and half of the frequencies suffice, a quarter of the arithmetic.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["dft_matrices", "diffract", "fold"]


def dft_matrices(frequencies: Tensor, n: int) -> Tensor:
    """Cosines and sines of a Fourier transform of `n` samples about their centre.

    Parameters
    ----------
    frequencies : torch.Tensor
        (bins, K) from 0 up, cycles per sample.
    n : int
        Number of samples; even.

    Returns
    -------
    torch.Tensor
        (bins, 2, K, n / 2): cosines and sines at the first half of the samples.
    """
    positions = torch.arange(n // 2, dtype=frequencies.dtype, device=frequencies.device) - (n - 1) / 2
    angle = 2 * math.pi * frequencies[..., None] * positions  # (bins, K, n / 2)
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def fold(plane: Tensor) -> Tensor:
    """Bring pupil planes (B, n, n) to (n, B, n) with the second half of rows and of columns reversed.

    A sample and its mirror image about the centre are then half a side apart.
    """
    half = plane.shape[-1] // 2
    plane = torch.cat([plane[..., :half], plane[..., half:].flip(-1)], -1).transpose(0, 1)
    return torch.cat([plane[:half], plane[half:].flip(0)])


class _EvenOddField(torch.autograd.Function):
    """The field A exp(i k OPD) of folded pupils as even and odd parts along y: (2, 2, n / 2, B, n).

    The first axis is even, odd; the second real, imaginary. Written out because the field is its own
    derivative: backward needs no sine or cosine.
    """

    @staticmethod
    def forward(opd: Tensor, amplitude: Tensor, wavenumber: float) -> tuple[Tensor, Tensor, Tensor]:
        half = len(opd) // 2
        phase = opd * wavenumber
        real, imaginary = phase.cos().mul_(amplitude), phase.sin_().mul_(amplitude)
        out = opd.new_empty(2, 2, half, *opd.shape[1:])
        for i, part in enumerate((real, imaginary)):
            torch.add(part[:half], part[half:], out=out[0, i])
            torch.sub(part[:half], part[half:], out=out[1, i])
        return out, real, imaginary

    @staticmethod
    def setup_context(ctx, inputs: tuple, output: tuple) -> None:
        ctx.wavenumber = inputs[2]
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor | None, *_) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        real, imaginary = ctx.saved_tensors
        half = len(real) // 2
        of_opd = torch.empty_like(real)
        for part, combine in ((slice(half), torch.add), (slice(half, None), torch.sub)):
            of_real, of_imaginary = combine(*grad)
            torch.mul(of_imaginary, real[part], out=of_opd[part])
            of_opd[part].addcmul_(of_real, imaginary[part], value=-1)
        return of_opd.mul_(ctx.wavenumber), None, None


def diffract(opd: Tensor, amplitude: Tensor, wavenumber: float, matrices: Tensor) -> Tensor:
    """Intensity of the diffraction pattern of pupils at one wavelength.

    Parameters
    ----------
    opd : torch.Tensor
        (n, B, n) optical path difference, folded by :func:`fold`.
    amplitude : torch.Tensor
        (n, 1, n) transmission of the pupil, folded too.
    wavenumber : float
        2 pi / wavelength, in the inverse unit of `opd`.
    matrices : torch.Tensor
        (2, K, n / 2) of :func:`dft_matrices` for this wavelength, of frequencies 0, f, 2 f, ... (K - 1) f.

    Returns
    -------
    torch.Tensor
        (2 K - 2, B, 2 K - 2): |sum A exp(i k OPD - 2 pi i u x)|^2 at the frequencies -(K - 1) f ... (K - 2) f
        along both axes.
    """
    n, batch, _ = opd.shape
    half, k = n // 2, matrices.shape[1]
    rows, *_ = _EvenOddField.apply(opd, amplitude, wavenumber)
    cos, sin = matrices
    left = torch.stack([cos, cos, sin, sin])  # (4, K, n / 2)
    x = torch.bmm(left, rows.view(4, half, batch * n)).view(4 * k * batch, 2, half)
    first, second = x.unbind(1)
    even, odd = first + second, first - second
    # By row and column factors, cos or sin; r of the real, i of the imaginary part of the field.
    ccr, cci, scr, sci = (even @ cos.T).view(4, k, batch, k)
    csr, csi, ssr, ssi = (odd @ sin.T).view(4, k, batch, k)
    a, b, c, d = ccr - ssr, sci + csi, cci - ssi, scr + csr
    same = (a + b).square() + (c - d).square(), (a - b).square() + (c + d).square()
    a, b, c, d = ccr + ssr, sci - csi, cci + ssi, scr - csr
    unlike = (a + b).square() + (c - d).square(), (a - b).square() + (c + d).square()
    plus, minus = slice(0, k - 1), slice(1, k)
    low = torch.cat([same[1][minus, :, minus].flip(2), unlike[1][minus, :, plus]], 2).flip(0)
    high = torch.cat([unlike[0][plus, :, minus].flip(2), same[0][plus, :, plus]], 2)
    return torch.cat([low, high])
