"""What may differ between a star and the image of its class: the wavefront, a shift, the spectrum, the noise.

Each enters a template likelihood to first order, as columns by which the pixels change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

__all__ = ["Nuisance", "Shift", "SpectralNoise", "WavefrontErrors", "pixel_noise"]


class Nuisance(Protocol):
    """A linear, Gaussian unknown of a star's image."""

    @property
    def size(self) -> int:
        """Number of directions, for the memory."""

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """Compute changes of the unit-flux images for one standard deviation along each direction.

        Takes the stars' rows, PSFs (n, bins, ny, nx), images of the classes (n, C, ny, nx) and templates
        (C, bins); returns (n, C, size, ny, nx), or (n, 1, size, ny, nx) where all classes change alike.
        """


@dataclass(frozen=True, eq=False)
class WavefrontErrors:
    """Errors of the PSF along the derivatives with respect to its parameters.

    Parameters
    ----------
    derivatives : numpy.ndarray or callable
        (N, bins, M, ny, nx) of the monochromatic PSFs; or (N, M, ny, nx), the same for all classes, such as
        the main components of a PSF model's errors; or a function from a slice of rows to those of the rows,
        for what does not fit into memory (8 bins and 45 modes of 32 x 32 pixels are 1.5 MB a star).
    covariance : numpy.ndarray
        (M, M) of the parameters, or (N, M, M) where it varies over the field. It may be singular.
    """

    derivatives: np.ndarray | Callable[[slice], np.ndarray]
    covariance: np.ndarray

    def __post_init__(self) -> None:
        covariance = np.asarray(self.covariance)
        if covariance.ndim not in (2, 3) or covariance.shape[-1] != covariance.shape[-2]:
            raise ValueError(f"covariance is of shape {covariance.shape}; expected (M, M) or (N, M, M)")
        if not np.allclose(covariance, covariance.swapaxes(-1, -2)):
            raise ValueError("covariance is not symmetric")
        values, vectors = np.linalg.eigh(covariance)
        if (values < -1e-9 * np.abs(values).max()).any():
            raise ValueError(f"covariance has the negative eigenvalue {values.min():.3g}")
        object.__setattr__(self, "_factor", vectors * np.sqrt(np.maximum(values, 0))[..., None, :])

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.covariance.shape[-1]

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """See :class:`Nuisance`."""
        given = self.derivatives(rows) if callable(self.derivatives) else self.derivatives[rows]
        expected = (*psfs.shape[:2], self.size, *psfs.shape[2:])
        if np.shape(given) not in (expected, (expected[0], *expected[2:])):
            raise ValueError(
                f"derivatives of shape {np.shape(given)} for these stars; expected {expected}, or the same "
                "without the bins"
            )
        factor = torch.as_tensor(self._factor[rows] if self._factor.ndim == 3 else self._factor[None])
        factor = factor.to(psfs.device)
        given = torch.as_tensor(given, dtype=torch.float64, device=psfs.device)
        if given.ndim == 4:
            return (factor.mT @ given.flatten(2)).unflatten(2, psfs.shape[2:])[:, None]
        scaled = factor.mT[:, None] @ given.flatten(3)  # (n, bins, M, pixels)
        return (templates @ scaled.flatten(2)).unflatten(2, expected[2:])


@dataclass(frozen=True)
class Shift:
    """An unknown offset of the star from the centre of its PSF, to first order.

    Derivatives are those of the band-limited interpolation of the stamp. Stamps of undersampled PSFs are
    aliased, and for them the derivatives of the wavefront's tip and tilt are exact where these are not.

    Parameters
    ----------
    sd : float
        Standard deviation along each axis, in pixels.
    """

    sd: float
    size = 2

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """See :class:`Nuisance`."""
        spectrum = torch.fft.fft2(models)
        changes = []
        for axis in (-1, -2):
            n = models.shape[axis]
            frequency = torch.fft.fftfreq(n, dtype=torch.float64, device=models.device)
            frequency[n // 2] *= n % 2  # the derivative at the Nyquist frequency of an even side is zero
            wave = 2j * math.pi * frequency.reshape((n, 1) if axis == -2 else (1, n))
            changes.append(-self.sd * torch.fft.ifft2(spectrum * wave).real)
        return torch.stack(changes, 2)  # (n, C, 2, ny, nx)


@dataclass(frozen=True)
class SpectralNoise:
    """Spectra that differ from the template of their class: each bin's share, independently.

    Parameters
    ----------
    sd : float
        Standard deviation of a bin's share, relative to the template's. What all bins have in common is a
        change of flux.
    bins : int
        Number of bins.
    """

    sd: float
    bins: int = 8

    @property
    def size(self) -> int:
        """Number of bins."""
        return self.bins

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """See :class:`Nuisance`."""
        if psfs.shape[1] != self.bins:
            raise ValueError(f"SpectralNoise is for {self.bins} bins, and the PSFs have {psfs.shape[1]}")
        return self.sd * templates[None, :, :, None, None] * psfs[:, None]


def pixel_noise(
    stamps: np.ndarray, psfs: np.ndarray, templates: np.ndarray, gain: float, read_noise: float
) -> np.ndarray:
    """Noise of each pixel, from photons and read-out, without taking noise for signal.

    The expected image is that of the mean template with the star's flux: from the pixels themselves, low
    ones would get too much weight, and with each class's own image the classes would differ in noise.

    Parameters
    ----------
    stamps, psfs, templates : numpy.ndarray
        (N, ny, nx), (N, bins, ny, nx) and (C, bins).
    gain : float
        Electrons for a unit of the stamps.
    read_noise : float
        Standard deviation in a pixel of everything but the star's photons, in the unit of the stamps.

    Returns
    -------
    numpy.ndarray
        (N, ny, nx), in the unit of the stamps.
    """
    if not (gain > 0 and read_noise > 0):
        raise ValueError(f"gain {gain} and read noise {read_noise} must be above zero")
    mean = np.einsum("b,nbyx->nyx", templates.mean(0), psfs)
    flux = (stamps * mean).sum((1, 2)) / (mean**2).sum((1, 2))
    return np.sqrt(np.maximum(flux[:, None, None] * mean, 0) / gain + read_noise**2)
