"""Images of the simulated sky: GalSim profiles seen through each field's point-spread function.

Each source's profiles and each field's PSF are drawn by GalSim (Rowe et al. 2015, A&C 10, 121) in Fourier
space; what is left of the convolution is a product, which is done for all bands of a block at once. The
result equals ``galsim.Convolve(...).drawImage`` to a thousandth of the peak and takes a tenth of its time.
That holds for half-light radii (along the major axis) up to a sixth of the stamp's side; the wings of larger
galaxies wrap round the periodic image and come back into the stamp.
"""

from __future__ import annotations

import galsim
import numpy as np
import pandas as pd
from scipy.fft import irfft2

from astro_utils.sky.surveys import Survey

__all__ = [
    "de_vaucouleurs",
    "exponential",
    "field_psf",
    "fourier_size",
    "psf_profile",
    "render",
    "with_noise",
]


def psf_profile(survey: Survey, fwhm: float, e1: float = 0.0, e2: float = 0.0) -> galsim.GSObject:
    """Point-spread function of unit flux, without the pixel: a sheared Moffat of given FWHM, arcsec."""
    return galsim.Moffat(beta=survey.moffat_beta, fwhm=fwhm).shear(e1=e1, e2=e2)


def de_vaucouleurs(radius: float) -> galsim.GSObject:
    """De Vaucouleurs profile of unit flux and given half-light radius (arcsec), cut at 8 radii as in SDSS."""
    return galsim.DeVaucouleurs(half_light_radius=radius, trunc=8 * radius)


def exponential(radius: float) -> galsim.GSObject:
    """Exponential disc of unit flux and given half-light radius (arcsec)."""
    return galsim.Exponential(half_light_radius=radius)


def fourier_size(size: int) -> int:
    """Pixels on a side of the periodic image: twice the stamp, so that wings do not wrap into it."""
    return max(64, 2 * size)


def _bounds(n: int) -> galsim.BoundsI:
    return galsim.BoundsI(0, n // 2, -(n // 2), n // 2 - 1)


def draw_fourier(profile: galsim.GSObject, n: int, pixel_scale: float) -> np.ndarray:
    """Fourier transform of a profile on the half plane, in the order of `scipy.fft.irfft2`.

    Returns
    -------
    numpy.ndarray
        (n, n // 2 + 1) complex; the value at zero frequency is the flux.
    """
    image = galsim.ImageCD(_bounds(n), scale=2 * np.pi / (n * pixel_scale))
    profile.drawKImage(image=image, recenter=False)
    return np.roll(image.array, n // 2, axis=0)


def render(
    shapes: pd.DataFrame,
    point: np.ndarray,
    bulge: np.ndarray,
    disc: np.ndarray,
    psf: np.ndarray,
    survey: Survey,
    size: int,
) -> np.ndarray:
    """Draw noiseless stamps of objects of one field.

    Parameters
    ----------
    shapes : pandas.DataFrame
        N rows with ``x``, ``y`` (offset from the centre of the stamp, pixels) and, read where the flux of the
        component is above 0, ``bulge_radius``, ``disc_radius`` (half-light, arcsec), ``bulge_q``, ``disc_q``
        (axis ratios) and ``angle`` (radians).
    point, bulge, disc : numpy.ndarray
        (N, bands) nanomaggies.
    psf : numpy.ndarray
        (bands, n, n // 2 + 1) Fourier transforms from :func:`field_psf`.
    survey : Survey
    size : int
        Pixels on a side.

    Returns
    -------
    numpy.ndarray
        (N, bands, size, size) float32 nanomaggies per pixel.
    """
    n = psf.shape[1]
    out = np.empty((len(shapes), len(survey.bands), size, size), dtype=np.float32)
    # The stamp's centre is between its middle pixels.
    phase_y, phase_x = (
        np.exp(-2j * np.pi * frequency * (shapes[axis].to_numpy() + (size - 1) / 2)[:, None]).astype(
            np.complex64
        )
        for axis, frequency in (("y", np.fft.fftfreq(n)), ("x", np.fft.rfftfreq(n)))
    )
    point, bulge, disc = (flux.astype(np.float32)[..., None, None] for flux in (point, bulge, disc))
    columns = {name: shapes[name].to_numpy() for name in shapes}
    for i in range(len(shapes)):
        source = point[i]
        for kind, name, flux in ((de_vaucouleurs, "bulge", bulge[i]), (exponential, "disc", disc[i])):
            if (flux > 0).any():
                source = source + flux * _component(kind, columns, name, i, n, survey.pixel_scale)
        shift = phase_y[i][:, None] * phase_x[i]
        out[i] = irfft2(source * (shift * psf), s=(n, n), axes=(1, 2))[:, :size, :size]
    return out


def _component(kind, columns: dict, name: str, i: int, n: int, pixel_scale: float) -> np.ndarray:
    # A floor of 0.02 arcsec, far below the PSF, keeps GalSim from tables that reach out to huge frequencies.
    profile = kind(max(columns[f"{name}_radius"][i], 0.02))
    shear = galsim.Shear(q=columns[f"{name}_q"][i], beta=columns["angle"][i] * galsim.radians)
    return draw_fourier(profile.shear(shear), n, pixel_scale).real.astype(np.float32)  # symmetric


def field_psf(survey: Survey, field: pd.Series, size: int) -> np.ndarray:
    """Fourier transforms of a field's PSF with the pixel, (bands, n, n // 2 + 1) complex64."""
    n = fourier_size(size)
    pixel = galsim.Pixel(survey.pixel_scale)
    return np.array(
        [
            draw_fourier(
                galsim.Convolve(psf_profile(survey, field[f"fwhm_{band}"], field["e1"], field["e2"]), pixel),
                n,
                survey.pixel_scale,
            )
            for band in survey.bands
        ]
    ).astype(np.complex64)


def with_noise(
    images: np.ndarray, sigma: np.ndarray, gain: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Add the noise of sky and detector and the Poisson noise of the objects, both as normal deviates.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, ny, nx) noiseless, nanomaggies.
    sigma : numpy.ndarray
        (bands,) noise of the sky, nanomaggies per pixel.
    gain : numpy.ndarray
        (bands,) photo-electrons per nanomaggy.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        (N, bands, ny, nx) float32.
    """
    sigma, gain = np.float32(sigma)[:, None, None], np.float32(gain)[:, None, None]
    scatter = np.sqrt(sigma**2 + np.maximum(images, 0) / gain)
    return images + scatter * rng.standard_normal(images.shape, dtype=np.float32)
