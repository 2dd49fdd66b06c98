"""The PSF of a field for stars anywhere between pixels, with its derivatives along both axes.

    psf = ShiftedPsf.of(exposure)
    stamps = psf(positions, shifts)  # (N, bins, ny, nx)

Diffraction patterns are interpolated at the samples of their Fourier transforms, moved there, and summed in
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from astro_utils.psf import FieldInterpolator, FieldPsf, PupilModel
from astro_utils.starsed.exposures import Exposure, mono_stamps
from astro_utils.starsed.stamps import StarSet

__all__ = ["CHUNK", "ShiftedPsf", "chunks", "shifted_images"]

#: Stars whose oversampled PSFs (300 kB each) are in memory at one time.
CHUNK = 64


def _shift_matrices(shifts: np.ndarray, samples: int, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrices (n, pixels, samples) that shift samples by `shifts` (n,) pixels and sum them in pixels.

    Also their derivatives with respect to the shifts. The shift is that of
    :func:`astro_utils.starsed.stamps.fourier_shift`; along the two axes in turn it costs two matrix products.
    """
    wave = -2j * np.pi * factor * np.fft.rfftfreq(samples)
    phase = np.exp(wave * shifts[:, None])
    lag = (np.arange(samples)[:, None] - np.arange(samples)) % samples
    both = (np.fft.irfft(one, samples)[:, lag] for one in (phase, wave * phase))  # (n, samples, samples)
    shift, change = (one.reshape(len(shifts), -1, factor, samples).sum(2).astype(np.float32) for one in both)
    return shift, change


def shifted_images(fine: np.ndarray, shifts: np.ndarray, factor: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, ..., ny, nx) and their derivatives (n, ..., 2, ny, nx) along x and y, per pixel.

    `fine` (n, ..., factor ny, factor nx) are oversampled images, `shifts` (n, 2) pixels in x and y.
    """
    more = (slice(None), *[None] * (fine.ndim - 3))
    x, x_change = (
        one[more].swapaxes(-1, -2) for one in _shift_matrices(shifts[:, 0], fine.shape[-1], factor)
    )
    y, y_change = (one[more] for one in _shift_matrices(shifts[:, 1], fine.shape[-2], factor))
    rows = y @ fine
    return rows @ x, np.stack([rows @ x_change, y_change @ fine @ x], -3)


@dataclass(frozen=True)
class ShiftedPsf:
    """The PSF of a field for stars between pixels, as :func:`astro_utils.starsed.stamps.observe` takes it.

    Parameters
    ----------
    fine : FieldInterpolator
        Of diffraction patterns that are not summed in pixels.
    factor : int
        Their samples along the side of a pixel.
    """

    fine: FieldInterpolator
    factor: int

    @classmethod
    def of(cls, exposure: Exposure) -> ShiftedPsf:
        """Interpolate the true PSF of an exposure."""
        optics = exposure.optics
        # A camera whose pixels are the samples; the pattern and its period stay the same.
        factor = optics.oversampling
        samples = replace(
            optics, pixel_um=optics.pixel_um / factor, oversampling=1, stamp=optics.stamp * factor
        )
        psf = FieldPsf(PupilModel(samples), exposure.wavefronts)
        return cls(FieldInterpolator(psf, exposure.nodes), factor)

    def __call__(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        """Return (n, bins, ny, nx) stamps; see :class:`astro_utils.starsed.stamps.Psf`."""
        shifts = np.zeros((len(positions), 2)) if shifts is None else np.asarray(shifts)
        return shifted_images(mono_stamps(self.fine, positions), shifts, self.factor)[0]


def chunks(stars: StarSet) -> Iterator[StarSet]:
    """Yield stars, so many at a time that their oversampled PSFs fit in memory."""
    for start in range(0, len(stars), CHUNK):
        yield stars.rows(slice(start, start + CHUNK))
