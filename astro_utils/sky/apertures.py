"""Circular apertures and adaptive moments: measurements that assume no model of a galaxy."""

from __future__ import annotations

import galsim
import numpy as np

__all__ = ["adaptive_moments", "petrosian"]


def _apertures(size: int, pixel_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Circular apertures about the centre: radii (arcsec), weights (pixels, A) and areas (pixels)."""
    largest = size / 2 * pixel_scale
    step = np.sqrt(1.25)  # so that 0.8 r and 1.25 r of the Petrosian ratio are apertures too
    count = int(np.floor(np.log(largest / 0.35) / np.log(step))) + 1
    radii = largest * step ** np.arange(-count + 1, 1.0)
    fine = (np.arange(size * 5) - (size * 5 - 1) / 2) / 5 * pixel_scale
    distance = np.hypot(fine[:, None], fine[None, :])
    weights = np.stack(
        [(distance <= radius).reshape(size, 5, size, 5).mean(axis=(1, 3)).ravel() for radius in radii], 1
    )
    return radii, weights.astype(np.float32), weights.sum(0)


def petrosian(
    stamps: np.ndarray, reference: int, pixel_scale: float, size: int, sigma: np.ndarray, gain: np.ndarray
) -> dict[str, np.ndarray]:
    """Petrosian radius, fluxes within twice that radius, and the radii of 50 and 90 % of the light.

    The Petrosian ratio is the surface brightness in an annulus of 0.8 r to 1.25 r over that within r; the
    radius is where it falls to 0.2 (Blanton et al. 2001, AJ 121, 2358, eq. 1).
    """
    radii, weights, areas = _apertures(size, pixel_scale)
    inside = stamps @ weights  # (N, bands, A)
    curve = inside[:, reference]
    n, count = curve.shape
    mean = np.maximum(curve / areas, 1e-9)
    ratio = np.full((n, count), 1.0)
    ratio[:, 2:-2] = (curve[:, 4:] - curve[:, :-4]) / (areas[4:] - areas[:-4]) / mean[:, 2:-2]
    crossing = ratio[:, 2:-2] < 0.2
    found = crossing.any(1)
    first = np.where(found, crossing.argmax(1) + 2, count - 3)
    rows = np.arange(n)
    above, below = ratio[rows, first - 1], ratio[rows, first]
    part = np.clip((above - 0.2) / np.where(above > below, above - below, 1.0), 0, 1)
    part = np.where(found, part, 1.0)
    radius = np.exp(np.log(radii[first - 1]) + part * np.log(radii[first] / radii[first - 1]))
    aperture = np.minimum(2 * radius, radii[-1])
    flux = np.stack([_interpolate(inside[:, b], radii, aperture) for b in range(inside.shape[1])], 1)
    area = np.interp(aperture, radii, areas)[:, None]
    variance = area * sigma**2 + np.maximum(flux, 0) / gain
    total = flux[:, reference]
    out = {
        "petro_flux": flux.astype(float),
        "petro_flux_ivar": (1 / variance).astype(float),
        "petro_radius": radius,
    }
    for name, share in (("petro_r50", 0.5), ("petro_r90", 0.9)):
        reached = np.maximum.accumulate(curve, axis=1) >= share * total[:, None]
        index = np.where(reached.any(1), reached.argmax(1), count - 1)
        lower = np.where(index > 0, curve[rows, index - 1], 0.0)
        inner = np.where(index > 0, radii[index - 1], 0.0)
        rise = np.where(curve[rows, index] > lower, curve[rows, index] - lower, 1.0)
        out[name] = inner + np.clip((share * total - lower) / rise, 0, 1) * (radii[index] - inner)
    return out


def _interpolate(values: np.ndarray, grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of each row of `values` (N, A) on `grid` at one place per row."""
    index = np.clip(np.searchsorted(grid, at) - 1, 0, len(grid) - 2)
    part = (at - grid[index]) / (grid[index + 1] - grid[index])
    rows = np.arange(len(values))
    return values[rows, index] * (1 - part) + values[rows, index + 1] * part


def adaptive_moments(
    stamps: np.ndarray, x: np.ndarray, y: np.ndarray, pixel_scale: float
) -> dict[str, np.ndarray]:
    """Adaptive second moments (Hirata & Seljak 2003, MNRAS 343, 459) by GalSim's HSM module."""
    out = np.full((len(stamps), 3), np.nan)
    size = stamps.shape[-1]
    for i, stamp in enumerate(stamps):
        image = galsim.Image(np.ascontiguousarray(stamp), scale=1.0)
        guess = galsim.PositionD(x[i] + (size + 1) / 2, y[i] + (size + 1) / 2)
        result = galsim.hsm.FindAdaptiveMom(image, guess_centroid=guess, guess_sig=2.0, strict=False)
        if result.error_message == "":
            out[i] = result.moments_sigma * pixel_scale, result.observed_shape.e1, result.observed_shape.e2
    return {"moment_size": out[:, 0], "moment_e1": out[:, 1], "moment_e2": out[:, 2]}
