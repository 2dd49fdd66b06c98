"""Synthetic photometry: from spectra to fluxes through a survey's filters.

Spectra are F_lambda in 1e-17 erg / (s cm2 Angstrom) over vacuum wavelengths in Angstrom, fluxes are
nanomaggies (AB: 1 nanomaggy is magnitude 22.5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from speclite.filters import load_filter

__all__ = ["band_weights", "effective_wavelength"]

#: F_lambda of an AB source of one nanomaggy is this over lambda^2, in 1e-17 erg / (s cm2 Angstrom) with
#: lambda
#: in Angstrom: 3.631e-29 erg / (s cm2 Hz) times the speed of light, 2.99792458e18 Angstrom / s.
NANOMAGGY = 3.631e-29 * 2.99792458e18 / 1e-17


@cache
def _response(name: str) -> tuple[np.ndarray, np.ndarray]:
    band = load_filter(name)
    return np.asarray(band.wavelength, dtype=float), np.asarray(band.response, dtype=float)


def band_weights(filters: Sequence[str], wavelength: np.ndarray, coverage: float = 0.99) -> np.ndarray:
    """Matrix that turns spectra on a wavelength grid into fluxes.

    The flux is the photon-weighted mean over the band (Fukugita et al. 1996, AJ 111, 1748, eq. 1),
    f = integral(F lambda R) / integral(F_AB lambda R), so that ``flux_density @ band_weights(...)`` is in
    nanomaggies.

    Parameters
    ----------
    filters : sequence of str
        Names in `speclite`, such as ``sdss2010-r``.
    wavelength : numpy.ndarray
        (L,) Angstrom, increasing; steps of 20 Angstrom or less are fine for broad bands.
    coverage : float
        Share of each filter's lambda R that the grid must cover.

    Returns
    -------
    numpy.ndarray
        (L, bands) float64.

    Raises
    ------
    ValueError
        When the grid does not increase or leaves out too much of a filter, which it names.
    """
    wavelength = np.asarray(wavelength, dtype=float)
    if not (np.diff(wavelength) > 0).all():
        raise ValueError("the wavelength grid does not increase")
    step = np.gradient(wavelength)
    weights = np.empty((len(wavelength), len(filters)))
    for i, name in enumerate(filters):
        grid, response = _response(name)
        photons = response * grid
        inside = (grid >= wavelength[0]) & (grid <= wavelength[-1])
        share = np.trapezoid(np.where(inside, photons, 0.0), grid) / np.trapezoid(photons, grid)
        if share < coverage:
            raise ValueError(
                f"spectra from {wavelength[0]:.0f} to {wavelength[-1]:.0f} Angstrom hold {share:.1%} of "
                f"filter {name} ({grid[0]:.0f} to {grid[-1]:.0f}); expected at least {coverage:.0%}"
            )
        sampled = np.interp(wavelength, grid, response, left=0.0, right=0.0) * wavelength * step
        weights[:, i] = sampled / np.sum(sampled * NANOMAGGY / wavelength**2)
    return weights


def effective_wavelength(name: str) -> float:
    """Mean wavelength of the photons that a filter detects of a flat F_lambda, Angstrom."""
    grid, response = _response(name)
    photons = response * grid
    return float(np.trapezoid(grid * photons, grid) / np.trapezoid(photons, grid))
