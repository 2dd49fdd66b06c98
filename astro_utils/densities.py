"""Probability densities of redshift on a grid, as cumulative distributions, and their scores.

A density is a row of a matrix ``cdf`` (N, G): the cumulative distribution at the G points of a common grid.
Every estimator answers in this form, so that one set of scores serves all.
"""

from __future__ import annotations

import numpy as np

__all__ = ["cde_loss", "central_coverage", "crps", "pit", "pit_ks", "quantiles", "to_qp"]


def _check(cdf: np.ndarray, grid: np.ndarray, z: np.ndarray | None = None) -> None:
    if cdf.ndim != 2 or cdf.shape[1] != len(grid):
        raise ValueError(f"cdf has shape {cdf.shape}; expected (N, {len(grid)}), the grid's length last")
    if z is not None and len(z) != len(cdf):
        raise ValueError(f"{len(cdf)} densities but {len(z)} redshifts")


def _at(cdf: np.ndarray, grid: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Interpolate each row of `cdf` at its own `z`, linearly; 0 below and 1 above the grid."""
    right = np.clip(np.searchsorted(grid, z), 1, len(grid) - 1)
    rows = np.arange(len(z))
    weight = np.clip((z - grid[right - 1]) / (grid[right] - grid[right - 1]), 0, 1)
    value = (1 - weight) * cdf[rows, right - 1] + weight * cdf[rows, right]
    return np.where(z < grid[0], 0.0, np.where(z > grid[-1], 1.0, value))


def pit(cdf: np.ndarray, grid: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Probability integral transform F_i(z_i): uniform on [0, 1] if the densities are calibrated.

    Parameters
    ----------
    cdf : numpy.ndarray
        (N, G) cumulative distributions.
    grid : numpy.ndarray
        (G,) redshifts, increasing.
    z : numpy.ndarray
        (N,) true redshifts.

    Returns
    -------
    numpy.ndarray
        (N,) in [0, 1].
    """
    _check(cdf, grid, z)
    return _at(cdf, grid, z)


def pit_ks(values: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance of PIT values (N,) from the uniform distribution."""
    ordered = np.sort(values)
    n = len(ordered)
    upper = np.arange(1, n + 1) / n
    return float(max((upper - ordered).max(), (ordered - (upper - 1 / n)).max()))


def crps(cdf: np.ndarray, grid: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Continuous ranked probability score, the integral of (F(x) - [x >= z])^2, per object (N,), in redshift.

    Integrated exactly for the piecewise linear F between grid points, with the cell that holds z cut there
    (Gneiting & Raftery 2007, JASA 102, 359, eq. 20).
    """
    _check(cdf, grid, z)
    width = np.diff(grid)

    def integral(a: np.ndarray, b: np.ndarray, length: np.ndarray) -> np.ndarray:
        return length * (a * a + a * b + b * b) / 3  # of the square of a line from a to b

    left, right = cdf[:, :-1], cdf[:, 1:]
    inside = np.clip(z, grid[0], grid[-1])
    value = _at(cdf, grid, inside)[:, None]
    cut = np.clip((inside[:, None] - grid[None, :-1]) / width, 0, 1)  # share of each cell below z
    at_cut = np.where((cut > 0) & (cut < 1), value, np.where(cut >= 1, right, left))
    below = integral(left, at_cut, cut * width)
    above = integral(1 - at_cut, 1 - right, (1 - cut) * width)
    return (below + above).sum(1) + np.abs(z - inside)


def cde_loss(cdf: np.ndarray, grid: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Conditional density loss per object (N,), the integral of p^2 minus twice p(z) (Izbicki & Lee 2017).

    Lower is better; up to a constant that no model changes it is the mean squared error of the density.
    """
    _check(cdf, grid, z)
    density = np.diff(cdf, axis=1) / np.diff(grid)
    cell = np.clip(np.searchsorted(grid, z) - 1, 0, len(grid) - 2)
    at_truth = np.where((z >= grid[0]) & (z <= grid[-1]), density[np.arange(len(z)), cell], 0.0)
    return (density**2 * np.diff(grid)).sum(1) - 2 * at_truth


def central_coverage(values: np.ndarray, level: float) -> float:
    """Share of objects inside their central `level` interval, from PIT values (N,)."""
    tail = (1 - level) / 2
    return float(((values >= tail) & (values <= 1 - tail)).mean())


def quantiles(cdf: np.ndarray, grid: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles (N, L) of densities (N, G) at `levels` (L,), by linear interpolation of the inverse."""
    _check(cdf, grid)
    out = np.empty((len(cdf), len(levels)))
    rows = np.arange(len(cdf))
    for column, level in enumerate(levels):
        right = np.clip((cdf < level).sum(1), 1, len(grid) - 1)
        low, high = cdf[rows, right - 1], cdf[rows, right]
        step = np.clip((level - low) / np.maximum(high - low, 1e-12), 0, 1)
        out[:, column] = grid[right - 1] + step * (grid[right] - grid[right - 1])
    return out


def to_qp(cdf: np.ndarray, grid: np.ndarray):
    """Return the densities as a `qp.Ensemble` of interpolated densities, the format that RAIL reads.

    Raises
    ------
    ImportError
        Without the package `qp-prob` (``pip install .[qp]``).
    """
    import qp  # an optional dependency

    _check(cdf, grid)
    # Rounding in float32 can make a flat part of a cdf fall by 1e-8; a density must not be negative.
    density = np.maximum(np.diff(cdf.astype(float), axis=1), 0.0) / np.diff(grid)
    middle = 0.5 * (grid[1:] + grid[:-1])
    return qp.Ensemble(qp.interp, data={"xvals": middle, "yvals": density})
