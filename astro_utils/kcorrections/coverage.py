"""How often intervals hold the truth, in bins of redshift, and how often perfect ones would seem to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import binom

from astro_utils.metrics import wilson_interval

__all__ = ["chance_inside", "coverage_by_bin", "increasing"]


def increasing(edges: Sequence[float]) -> np.ndarray:
    """Return edges of bins (B + 1,) as an array; ValueError where they are not finite and increasing."""
    edges = np.asarray(edges, dtype=float)
    if edges.ndim != 1 or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"edges must be increasing numbers, not {edges.tolist()}")
    return edges


def coverage_by_bin(
    low: np.ndarray, high: np.ndarray, k: np.ndarray, values: np.ndarray, edges: Sequence[float]
) -> pd.DataFrame:
    """Coverage and width of intervals in bins of some quantity, such as the true redshift.

    Parameters
    ----------
    low, high, k : numpy.ndarray
        (N,) interval and true K, mag.
    values : numpy.ndarray
        (N,) the quantity. What lies outside the edges is left out; a bin holds its lower edge.
    edges : sequence of float
        Increasing.

    Returns
    -------
    pandas.DataFrame
        One row for each bin with galaxies: lo, hi, n, coverage, coverage_lo, coverage_hi (95 % Wilson
        interval) and mean_width, mag.
    """
    arrays = [np.asarray(a, dtype=float) for a in (low, high, k, values)]
    if len({a.shape for a in arrays}) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"shapes {[a.shape for a in arrays]}; expected one shape (N,)")
    low, high, k, values = arrays
    edges = increasing(edges)
    covered, rows = (low <= k) & (k <= high), []
    for lo, hi in pairwise(edges):
        inside = (values >= lo) & (values < hi)
        n = int(inside.sum())
        if n:
            share = wilson_interval(int(covered[inside].sum()), n)
            width = float((high - low)[inside].mean())
            rows.append((lo, hi, n, float(covered[inside].mean()), *share, width))
    return pd.DataFrame(
        rows, columns=["lo", "hi", "n", "coverage", "coverage_lo", "coverage_hi", "mean_width"]
    )


def chance_inside(n: np.ndarray, level: float = 0.9, tolerance: float = 0.02) -> np.ndarray:
    """Chance that a perfect interval is seen to cover its level within a tolerance, in bins of n galaxies.

    Parameters
    ----------
    n : numpy.ndarray
        (B,) galaxies in each bin.
    level : float
        Share of galaxies that each interval holds, independently of the others.
    tolerance : float

    Returns
    -------
    numpy.ndarray
        (B,) probabilities. Their sum is the number of bins that one may expect to find inside.

    Raises
    ------
    ValueError
        When a number of galaxies is below 1, or level and tolerance leave (0, 1).

    Examples
    --------
    >>> chance_inside(np.array([234, 3000])).round(2)
    array([0.67, 1.  ])
    """
    n = np.asarray(n)
    if (n < 1).any() or not 0 < level - tolerance <= level + tolerance < 1:
        raise ValueError(
            f"bins of {n.tolist()}, {level} within {tolerance}; expected 1 or more, inside (0, 1)"
        )
    rounding = 1e-9  # so that 88 % of 50 galaxies is 44 of them
    most = np.floor((level + tolerance) * n + rounding)
    least = np.ceil((level - tolerance) * n - rounding)
    return binom.cdf(most, n, level) - binom.cdf(least - 1, n, level)
