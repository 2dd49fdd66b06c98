"""Flux and place of single stars, found by weighted least squares.

    placed = place_stars(psf, stars, templates.mean(0))
    placed.shifts  # (N, 2) pixels

The PSF is rendered at those places, with its derivatives, for what the fit leaves of their errors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.starsed.exposures import mono_stamps
from astro_utils.starsed.shifted_psf import ShiftedPsf, shifted_images
from astro_utils.starsed.stamps import StarSet

__all__ = ["PlacedStars", "pixel_sums", "place_stars"]

#: Gauss-Newton steps; after 4 of them offsets are within 1e-4 pixels of where they end.
_STEPS = 8


@dataclass(frozen=True, eq=False)
class PlacedStars:
    """Flux and place of stars, and the PSF rendered there.

    Attributes
    ----------
    flux : numpy.ndarray
        (N,) in the unit of the stamps.
    shifts : numpy.ndarray
        (N, 2) offsets in x and y from where the PSF is centred, pixels.
    psfs : numpy.ndarray
        (N, bins, ny, nx) monochromatic stamps with these offsets.
    slopes : numpy.ndarray
        (N, bins, 2, ny, nx) their derivatives along x and y, per pixel.
    """

    flux: np.ndarray
    shifts: np.ndarray
    psfs: np.ndarray
    slopes: np.ndarray


def place_stars(psf: ShiftedPsf, stars: StarSet, spectrum: np.ndarray) -> PlacedStars:
    """Find flux and offset of stars by weighted least squares, with one spectrum for all.

    Parameters
    ----------
    psf : ShiftedPsf
    stars : StarSet
        A few hundred at most: their PSFs are held in memory.
    spectrum : numpy.ndarray
        (bins,) of sum 1, such as the mean of all templates.

    Returns
    -------
    PlacedStars

    Notes
    -----
    Gauss-Newton steps in flux and offset from the sum of the pixels and the middle. A pixel's variance is
    that of the background and of the fitted image. Offsets stay within a pixel.
    """
    fine = mono_stamps(psf.fine, stars.positions)
    grey = np.einsum("b,nbyx->nyx", spectrum.astype(np.float32), fine)
    stamps = stars.stamps.astype(float)
    flux, shifts = pixel_sums(stars), np.zeros((len(stars), 2))
    for _ in range(_STEPS):
        image, slopes = shifted_images(grey, shifts, psf.factor)
        model = flux[:, None, None] * image
        columns = np.concatenate([image[:, None], flux[:, None, None, None] * slopes], 1)
        columns = columns.reshape(len(flux), 3, -1).astype(float)
        weighted = columns / stars.variance(model).reshape(len(flux), 1, -1)
        residual = (stamps - model).reshape(len(flux), -1, 1)
        step = np.linalg.solve(weighted @ columns.swapaxes(1, 2), weighted @ residual)[..., 0]  # (n, 3)
        flux = np.maximum(flux + step[:, 0], 0.1 * flux)
        shifts = np.clip(shifts + np.clip(step[:, 1:], -0.3, 0.3), -1, 1)
    psfs, slopes = shifted_images(fine, shifts, psf.factor)
    return PlacedStars(flux, shifts, psfs, slopes)


def pixel_sums(stars: StarSet) -> np.ndarray:
    """Flux (N,) of stars as the sum of their pixels, from which the background is subtracted.

    Raises
    ------
    ValueError
        If the pixels of a star do not sum to more than zero.
    """
    flux = stars.stamps.sum((1, 2), dtype=float)
    if not (flux > 0).all():
        row = int((flux <= 0).argmax())
        place = ", ".join(f"{value:.1f}" for value in stars.positions[row])
        raise ValueError(f"the pixels of the star at ({place}) sum to {flux[row]:.3g}; expected above 0")
    return flux
