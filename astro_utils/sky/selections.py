"""Samples that are cut from a measured catalogue: compact, faint, matched in magnitude.

The cuts are those of MargNet (Chaini et al. 2023, MNRAS 518, 3123) as its published tables show them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from astro_utils.catalogs import compactness
from astro_utils.galaxies import sample_columns
from astro_utils.photometry import SDSS_BANDS
from astro_utils.splits import sky_pixels

__all__ = ["compact", "faint", "matched_in_r", "model_r", "photoz_sample"]


def model_r(table: pd.DataFrame) -> pd.Series:
    """Model r magnitude, not corrected for extinction."""
    return table["dered_r"] + table["extinction_r"]


def compact(table: pd.DataFrame, limit: float = 0.5) -> pd.Series:
    """Mask of compact objects: the mean over bands of deV radius over FWHM is at most `limit`."""
    return compactness(table) <= limit


def faint(table: pd.DataFrame, limit: float = 20.0) -> pd.Series:
    """Mask of faint objects: the mean model magnitude over ugriz is above `limit`."""
    observed = [table[f"dered_{b}"] + table[f"extinction_{b}"] for b in SDSS_BANDS]
    return sum(observed) / len(observed) > limit


def matched_in_r(
    table: pd.DataFrame, classes: Sequence[str], rng: np.random.Generator, width: float = 0.1
) -> np.ndarray:
    """Row numbers of a subset with equally many objects of every class in each bin of model r.

    MargNet's Experiment 3 is matched in this way, in bins of 0.1 mag; without it a classifier can use the
    magnitudes at which each class was looked for.

    Raises
    ------
    ValueError
        When a class has no objects.
    """
    labels = table["class"].to_numpy()
    absent = [name for name in classes if not (labels == name).any()]
    if absent:
        raise ValueError(f"no objects of class {', '.join(absent)} to match")
    bins = np.floor(model_r(table).to_numpy() / width).astype(int)
    chosen = []
    for index in np.unique(bins):
        members = [np.flatnonzero((bins == index) & (labels == name)) for name in classes]
        count = min(map(len, members))
        chosen += [rng.permutation(rows)[:count] for rows in members]
    return np.sort(np.concatenate(chosen))


def photoz_sample(table: pd.DataFrame, nside: int = 8) -> pd.DataFrame:
    """Sample columns of the photometric-redshift study from a measured SDSS catalogue of galaxies.

    Parameters
    ----------
    table : pandas.DataFrame
        Catalogue of a simulated sample; blank stamps are left out.
    nside : int
        HEALPix resolution of the column ``pixel``.

    Returns
    -------
    pandas.DataFrame
        As :func:`astro_utils.galaxies.galaxy_sample`, without 2MASS.
    """
    table = table[~table["blank"].astype(bool)].reset_index(drop=True)
    stacked = {
        name: table[[f"{name}_{b}" for b in SDSS_BANDS]].to_numpy(float)
        for name in ("model_flux", "model_flux_ivar", "petro_flux", "petro_flux_ivar", "extinction")
    }
    flux = {kind: stacked[f"{kind}_flux"] for kind in ("model", "petro")}
    ivar = {kind: stacked[f"{kind}_flux_ivar"] for kind in ("model", "petro")}
    columns = sample_columns(flux, ivar, stacked["extinction"])
    columns |= {name: np.full(len(table), np.nan) for name in ("j_mag", "h_mag", "k_mag")}
    columns |= {name: table[name].to_numpy() for name in ("ra", "dec", "z")}
    columns["source_row"] = np.arange(len(table))
    columns["pixel"] = sky_pixels(table["ra"], table["dec"], nside)
    columns["n_bad"] = np.zeros(len(table), dtype=int)
    return pd.DataFrame(columns)
