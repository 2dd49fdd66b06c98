"""Scalings of images that ASTRA learns from: the two published ones and that of flux over noise.

The published scalings give each band the range of its own pixels, so that the ratio of the fluxes in two
bands, a galaxy's colour, is gone; with ``scale="galaxy"`` the bands of a galaxy share one range, and nothing
else changes. :func:`noise_scaling` keeps the brightness of galaxies, too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import median_filter

from astro_utils.cutouts import asinh_stretch

__all__ = ["SCALES", "arcsin_scaling", "arcsinh_scaling", "bilateral_filter", "noise_scaling"]

SCALES = ("band", "galaxy")


def arcsin_scaling(images: np.ndarray, scale: str = "band") -> np.ndarray:
    """Scale pixels to -1 ... 1 by their extremes and take the arcsine (``stack_clean`` of version 1).

    Between the extremes the arcsine is nearly a straight line; it is steepest at the brightest and at the
    faintest pixel, where a stretch for galaxies is flattest or ends.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, y, x), any unit.
    scale : {"band", "galaxy"}
        Whether each band has its own extremes, as published, or all bands of a galaxy have the same.

    Returns
    -------
    numpy.ndarray
        (N, bands, y, x) float32, -1 to 1. Where all pixels are the same, 0; the original has NaN there.

    Raises
    ------
    ValueError
        When images do not have four dimensions, pixels are not finite or the scale is unknown.
    """
    axes = _axes(images, scale)

    def scaled(some: np.ndarray) -> np.ndarray:
        return np.arcsin(2 * _min_max(some, axes) - 1) / np.arcsin(1.0)

    return _in_parts(scaled, images)


def arcsinh_scaling(images: np.ndarray, scale: str = "band") -> np.ndarray:
    """Filter, clip, take the arcsinh and scale to 0 ... 1 (``stack_clean`` of version 2).

    Step by step: 0.01 is added (in ``extract_images``); a median over 3 x 3 pixels; a bilateral filter over
    5 pixels with widths of 0.5 in value and of 5 pixels; percentiles 1 and 99 as limits; arcsinh; the
    extremes become 0 and 1; what is below 0.01 becomes 0.

    There is no noise in it by which the flux would be divided, so what it does depends on the unit: far below
    1 the arcsinh changes nothing and the bilateral filter is a blur, far above 1 the filter does nothing.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, y, x), at least 3 pixels on a side. The original takes pixels as its files have them.
    scale : {"band", "galaxy"}
        Whether each band has its own percentiles and extremes, as published, or all bands of a galaxy have
        the same.

    Returns
    -------
    numpy.ndarray
        (N, bands, y, x) float32, 0 to 1. Where all pixels are the same, 0; the original has NaN there.

    Raises
    ------
    ValueError
        When images do not have four dimensions, pixels are not finite or the scale is unknown.
    """
    axes = _axes(images, scale)

    def scaled(some: np.ndarray) -> np.ndarray:
        out = median_filter(some + 0.01, size=(1, 1, 3, 3))
        out = bilateral_filter(out, radius=2, sigma_value=0.5, sigma_pixels=5.0)
        out = np.clip(out, *np.percentile(out, [1, 99], axis=axes, keepdims=True))
        out = _min_max(np.arcsinh(out), axes)
        return np.where(out < 0.01, 0, out)

    return _in_parts(scaled, images)


def noise_scaling(images: np.ndarray, softening: float) -> np.ndarray:
    """Take the arcsinh of flux over noise, with one noise for all bands and galaxies.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, y, x) nanomaggies.
    softening : float
        The noise of a pixel, nanomaggies, for example the median over the training set of what
        :func:`astro_utils.sky.degrade.border_noise` measures.

    Returns
    -------
    numpy.ndarray
        (N, bands, y, x) float32; colours and fluxes can be read from it.

    Raises
    ------
    ValueError
        When images do not have four dimensions, pixels are not finite or the softening is not above 0.
    """
    _axes(images, "galaxy")
    if not 0 < softening < np.inf:
        raise ValueError(f"softening is {softening}; expected nanomaggies above 0")
    return asinh_stretch(images, softening).astype(np.float32)


def bilateral_filter(images: np.ndarray, radius: int, sigma_value: float, sigma_pixels: float) -> np.ndarray:
    """Average each pixel with its neighbours, the less the farther they are and the more they differ.

    Tomasi & Manduchi (1998, Proc. ICCV, 839, eq. 5) with Gaussians in distance and value over the pixels
    within a circle, as in OpenCV, by which the original filters; pixels beyond the edge are those inside,
    mirrored about the outermost pixel.

    Parameters
    ----------
    images : numpy.ndarray
        (..., y, x), more pixels than `radius` on a side.
    radius : int
        Of the circle, pixels.
    sigma_value, sigma_pixels : float
        Widths of the Gaussians, in the unit of the images and in pixels.

    Returns
    -------
    numpy.ndarray
        As `images`.
    """
    ny, nx = images.shape[-2:]
    padded = np.pad(images, [(0, 0)] * (images.ndim - 2) + [(radius, radius)] * 2, mode="reflect")
    total, weights = np.zeros_like(images), np.zeros_like(images)
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            if (distance := np.hypot(dy, dx)) > radius:
                continue
            there = padded[..., radius + dy : radius + dy + ny, radius + dx : radius + dx + nx]
            weight = np.exp(
                -0.5 * ((there - images) / sigma_value) ** 2 - 0.5 * (distance / sigma_pixels) ** 2
            )
            total += weight * there
            weights += weight
    return total / weights


def _axes(images: np.ndarray, scale: str) -> tuple[int, ...]:
    """Axes over which pixels share one range."""
    if scale not in SCALES:
        raise ValueError(f"scale is {scale!r}; expected one of {SCALES}")
    if images.ndim != 4:
        raise ValueError(f"images have shape {images.shape}; expected (N, bands, y, x)")
    if bad := np.flatnonzero(~np.isfinite(images).all((1, 2, 3))).tolist():
        raise ValueError(f"image {bad[0]} has pixels that are not finite ({len(bad)} such images)")
    return (2, 3) if scale == "band" else (1, 2, 3)


def _in_parts(scaled: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> np.ndarray:
    """Apply `scaled` to 16 galaxies at a time, in double precision, without a copy of all."""
    out = np.empty(images.shape, np.float32)
    for start in range(0, len(images), 16):
        out[start : start + 16] = scaled(images[start : start + 16].astype(float))
    return out


def _min_max(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Scale to 0 ... 1; to 0.5 where all values are the same."""
    low, high = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    width = high - low
    return np.where(width > 0, (values - low) / np.where(width > 0, width, 1), 0.5)
