"""Model galaxies of many sizes and shapes as a field sees them: the templates that stamps are fitted with.

The bank holds GalSim's Fourier transforms of de Vaucouleurs and exponential profiles, which do not depend on
the field; a field's point-spread function is multiplied in when the field is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import galsim
import numpy as np
from scipy.fft import irfft2

from astro_utils.sky.images import de_vaucouleurs, draw_fourier, exponential, fourier_size, psf_profile
from astro_utils.sky.surveys import Survey

__all__ = ["KINDS", "RADII", "SHAPES", "ProfileBank", "profile_bank"]

KINDS = ("dev", "exp")
#: Half-light radii of the templates, arcsec; the first is a point source.
RADII = np.array([0.0, 0.08, 0.16, 0.28, 0.45, 0.7, 1.05, 1.6, 2.4, 3.6, 5.5])
#: Axis ratio and position angle (degrees) of the templates.
SHAPES = ((1.0, 0.0), *((q, angle) for q in (0.7, 0.45) for angle in (0.0, 45.0, 90.0, 135.0)))


@dataclass(frozen=True, eq=False)
class ProfileBank:
    """Fourier transforms of unit-flux profiles on the half plane.

    Attributes
    ----------
    transforms : numpy.ndarray
        (kinds, radii, shapes, n, n // 2 + 1) float32: the profiles are symmetric, so nothing is imaginary.
    pixel_scale : float
        Arcsec.
    size : int
        Pixels on a side of the stamps.
    """

    transforms: np.ndarray
    pixel_scale: float
    size: int

    def templates(self, survey: Survey, fwhm: float, e1: float = 0.0, e2: float = 0.0) -> np.ndarray:
        """Profiles seen through a PSF and the pixel, centred on the stamp.

        Parameters
        ----------
        survey : Survey
        fwhm : float
            Arcsec.
        e1, e2 : float
            Shear of the PSF.

        Returns
        -------
        numpy.ndarray
            (kinds, radii, shapes, size * size) float32; each has unit flux before the stamp's edge cuts it.
        """
        return self._seen(self.transforms, survey, fwhm, e1, e2)

    def point(self, survey: Survey, fwhm: float, e1: float = 0.0, e2: float = 0.0) -> np.ndarray:
        """Point source of unit flux at the centre of the stamp, (size * size,) float32; see `templates`."""
        return self._seen(self.transforms[0, 0, 0], survey, fwhm, e1, e2)

    def _seen(self, transforms: np.ndarray, survey: Survey, fwhm: float, e1: float, e2: float) -> np.ndarray:
        n, size = transforms.shape[-2], self.size
        psf = galsim.Convolve(psf_profile(survey, fwhm, e1, e2), galsim.Pixel(self.pixel_scale))
        middle = (size - 1) / 2  # between pixels
        centre = np.exp(-2j * np.pi * middle * (np.fft.fftfreq(n)[:, None] + np.fft.rfftfreq(n)))
        kernel = (draw_fourier(psf, n, self.pixel_scale) * centre).astype(np.complex64)
        images = irfft2(transforms * kernel, s=(n, n), axes=(-2, -1))[..., :size, :size]
        return np.ascontiguousarray(images).reshape(*images.shape[:-2], size * size)


@lru_cache(maxsize=4)
def profile_bank(pixel_scale: float, size: int) -> ProfileBank:
    """Draw the bank; a tenth of a second, then remembered."""
    n = fourier_size(size)
    shape = (len(KINDS), len(RADII), len(SHAPES), n, n // 2 + 1)
    transforms = np.ones(shape, dtype=np.float32)  # the transform of a point source is 1
    for k, kind in enumerate((de_vaucouleurs, exponential)):
        for r, radius in enumerate(RADII[1:], start=1):
            for s, (q, angle) in enumerate(SHAPES):
                profile = kind(radius).shear(galsim.Shear(q=q, beta=angle * galsim.degrees))
                transforms[k, r, s] = draw_fourier(profile, n, pixel_scale).real
    return ProfileBank(transforms, pixel_scale, size)
