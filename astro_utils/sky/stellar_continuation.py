"""Continue spectra where they were not observed: by spectra alike, and by black bodies at the ends.

Every spectrum is an array on :data:`astro_utils.sky.stellar_libraries.GRID`, NaN where it was not observed.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter
from scipy.optimize import nnls

from astro_utils.sky.stellar_libraries import GRID

__all__ = ["add_black_bodies", "bridge", "coverage", "fill", "matching_blend", "relative_response"]

_BIN = 20  # Angstrom: wide enough that differences of resolution do not matter
_TEMPERATURES = np.geomspace(1_500, 80_000, 400)


def _coarse(flux: np.ndarray) -> np.ndarray:
    """Means over bins along the last axis; NaN where any pixel of a bin is."""
    bins = flux.shape[-1] // _BIN
    return flux[..., : bins * _BIN].reshape(*flux.shape[:-1], bins, _BIN).mean(-1)


_CENTRES = _coarse(GRID)


def coverage(flux: np.ndarray, low: float, high: float) -> np.ndarray:
    """Share of the pixels between two wavelengths that were observed, (N,)."""
    return np.isfinite(flux[:, (low <= GRID) & (high >= GRID)]).mean(1)


def bridge(flux: np.ndarray) -> np.ndarray:
    """Interpolate a spectrum (L,) over its gaps; what lies outside the observed range stays NaN."""
    good = np.isfinite(flux)
    return np.interp(GRID, GRID[good], flux[good], left=np.nan, right=np.nan)


def matching_blend(
    flux: np.ndarray, donors: np.ndarray, low: float, high: float, n_nearest: int = 8
) -> tuple[np.ndarray, float]:
    """Blend of the donors that is most like a spectrum between two wavelengths.

    The `n_nearest` donors with the least rms difference in log flux are combined with non-negative weights
    (least squares weighted by the inverse square root of the flux, so that neither the faint nor the bright
    end rules).

    Parameters
    ----------
    flux : numpy.ndarray
        (L,) spectrum to match.
    donors : numpy.ndarray
        (D, L) spectra that have what `flux` lacks.
    low, high : float
        Range of the comparison, Angstrom.

    Returns
    -------
    blend : numpy.ndarray
        (L,), in the units of `flux`.
    rms : float
        Relative difference to `flux` in bins of 20 Angstrom.

    Raises
    ------
    ValueError
        When fewer than ten bins can be compared.
    """
    target, shapes = _coarse(flux), _coarse(donors)
    use = np.isfinite(target) & np.isfinite(shapes).all(0) & (low < _CENTRES) & (high > _CENTRES)
    if use.sum() < 10:
        raise ValueError(f"{use.sum()} bins from {low:.0f} to {high:.0f} Angstrom to compare; expected 10")
    target, shapes = target[use], shapes[:, use]
    difference = np.log(shapes) - np.log(target)
    near = np.argsort(difference.std(1))[:n_nearest]
    weight = 1 / np.sqrt(target)
    share, _ = nnls((shapes[near] * weight).T, target * weight)
    rms = np.sqrt(np.mean((target / (share @ shapes[near]) - 1) ** 2))
    return share @ donors[near], float(rms)


def fill(flux: np.ndarray, blend: np.ndarray, window: float = 200.0) -> np.ndarray:
    """Put a blend where a spectrum was not observed.

    The blend is scaled by the ratio of the two, medians over a `window` in Angstrom: interpolated across
    gaps and constant beyond the ends, so that the spectrum is continuous.
    """
    ratio = _coarse(flux) / _coarse(blend)
    known = np.isfinite(ratio)
    smooth = median_filter(ratio[known], round(window / _BIN) | 1, mode="reflect")
    return np.where(np.isfinite(flux), flux, blend * np.interp(GRID, _CENTRES[known], smooth))


def _black_body(temperature: np.ndarray | float, wavelength: np.ndarray) -> np.ndarray:
    """Planck's law: F_lambda of black bodies in arbitrary units, wavelength in Angstrom."""
    return wavelength**-5 / np.expm1(1.438776877e8 / (wavelength * temperature))  # hc / k in Angstrom K


_LOG_BODIES = np.log(_black_body(_TEMPERATURES[:, None], _CENTRES))


def add_black_bodies(flux: np.ndarray, blue: float = 300.0, red: float = 900.0) -> np.ndarray:
    """Continue a spectrum (L,) to both ends of the grid with black bodies.

    Each has the temperature between 1,500 and 80,000 K whose slope fits the last `blue` or `red` Angstrom
    best, and the median level of the last 100 Angstrom.
    """
    out, binned = flux.copy(), _coarse(flux)
    good = np.flatnonzero(np.isfinite(flux))
    first, last = GRID[good[0]], GRID[good[-1]]
    for gap, window, edge in (
        (first > GRID, _CENTRES < first + blue, (first <= GRID) & (GRID < first + 100)),
        (last < GRID, _CENTRES > last - red, (last >= GRID) & (GRID > last - 100)),
    ):
        fit = window & np.isfinite(binned)
        misfit = (np.log(binned[fit]) - _LOG_BODIES[:, fit]).std(1)
        shape = _black_body(_TEMPERATURES[misfit.argmin()], GRID)
        out[gap] = shape[gap] * np.median(flux[edge] / shape[edge])
    return out


def relative_response(flux: np.ndarray, reference: np.ndarray, window: float = 200.0) -> np.ndarray:
    """Smooth ratio of the flux scales of two libraries from stars that are in both.

    Parameters
    ----------
    flux, reference : numpy.ndarray
        (N, L) the same stars in the two libraries.
    window : float
        Scale of the smoothing, Angstrom.

    Returns
    -------
    numpy.ndarray
        (L,) median over the stars of flux / reference, each star scaled to 1 between 5500 and 6500 Angstrom;
        where no star has both, the nearest value.
    """
    ratio = _coarse(flux) / _coarse(reference)
    middle = (_CENTRES > 5500) & (_CENTRES < 6500)
    ratio /= np.nanmedian(np.where(middle, ratio, np.nan), axis=1)[:, None]
    known = np.isfinite(ratio).sum(0) >= max(1, len(ratio) // 4)
    median = median_filter(np.nanmedian(ratio[:, known], axis=0), round(window / _BIN) | 1, mode="reflect")
    return np.interp(GRID, _CENTRES[known], median)
