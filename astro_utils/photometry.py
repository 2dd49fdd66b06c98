"""Fluxes and magnitudes: dereddening and asinh magnitudes with honest errors.

Fluxes are in nanomaggies (AB: 1 nanomaggy is magnitude 22.5), inverse variances in nanomaggies^-2.
"""

from __future__ import annotations

import numpy as np

__all__ = ["SDSS_BANDS", "SDSS_SOFTENING", "asinh_magnitudes", "asinh_to_flux", "deredden"]

SDSS_BANDS = "ugriz"

#: Softening parameter b of SDSS asinh magnitudes in ugriz, in maggies (Stoughton et al. 2002, AJ 123, 485,
#: table 21; given there in units of 1e-10).
SDSS_SOFTENING = np.array([1.4, 0.9, 1.2, 1.8, 7.4]) * 1e-10

_POGSON = 2.5 / np.log(10)


def deredden(flux: np.ndarray, ivar: np.ndarray, extinction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correct fluxes and their inverse variances for Galactic extinction.

    Parameters
    ----------
    flux, ivar : numpy.ndarray
        (N, bands) nanomaggies and nanomaggies^-2.
    extinction : numpy.ndarray
        (N, bands) magnitudes.

    Returns
    -------
    flux, ivar : numpy.ndarray
        Above the atmosphere of the Galaxy. The variance grows with the square of the flux's factor:
        correcting the flux alone would make faint, reddened objects look better measured than they are.
    """
    factor = 10 ** (0.4 * np.asarray(extinction, dtype=float))
    return np.asarray(flux, dtype=float) * factor, np.asarray(ivar, dtype=float) / factor**2


def asinh_magnitudes(
    flux: np.ndarray, ivar: np.ndarray, softening: np.ndarray = SDSS_SOFTENING
) -> tuple[np.ndarray, np.ndarray]:
    """Asinh magnitudes ("luptitudes") and their errors.

    They equal AB magnitudes where the flux is well above the softening and stay finite at and below zero
    (Lupton, Gunn & Szalay 1999, AJ 118, 1406, eq. 3 and 4).

    Parameters
    ----------
    flux, ivar : numpy.ndarray
        (N, bands) nanomaggies and nanomaggies^-2.
    softening : numpy.ndarray
        (bands,) b in maggies.

    Returns
    -------
    magnitude, error : numpy.ndarray
        (N, bands) magnitudes; the error is NaN where the inverse variance is not above zero.
    """
    flux = np.asarray(flux, dtype=float) * 1e-9  # maggies
    ivar = np.asarray(ivar, dtype=float)
    sigma = np.where(ivar > 0, 1e-9 / np.sqrt(np.where(ivar > 0, ivar, 1.0)), np.nan)
    magnitude = -_POGSON * (np.arcsinh(flux / (2 * softening)) + np.log(softening))
    return magnitude, _POGSON * sigma / np.sqrt(flux**2 + 4 * softening**2)


def asinh_to_flux(
    magnitude: np.ndarray, error: np.ndarray, softening: np.ndarray = SDSS_SOFTENING
) -> tuple[np.ndarray, np.ndarray]:
    """Invert :func:`asinh_magnitudes`: fluxes in nanomaggies and inverse variances, (N, bands) each."""
    magnitude, error = np.asarray(magnitude, dtype=float), np.asarray(error, dtype=float)
    flux = 2 * softening * np.sinh(-magnitude / _POGSON - np.log(softening))  # maggies
    sigma = error / _POGSON * np.sqrt(flux**2 + 4 * softening**2)
    return flux * 1e9, 1e-18 / sigma**2
