"""The stellar locus: where stars lie in SDSS colours, published and measured, and how far spectra are off.

Colours are those of the SDSS system, corrected for Galactic extinction, in columns ``u_g``, ``g_r``, ``r_i``,
``i_z`` and ``g_i``. Synthetic AB colours are brought into it by :func:`in_sdss_system`.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table

from astro_utils.paths import project_root
from astro_utils.results import atomic
from astro_utils.sky.surveys import SDSS

__all__ = [
    "LOCUS_COLOURS",
    "catalogue_colours",
    "covey_locus",
    "in_sdss_system",
    "juric_g_r",
    "locus_file",
    "locus_offsets",
    "measured_locus",
    "principal_colours",
    "running_locus",
    "write_measured_locus",
]

LOCUS_COLOURS = ("u_g", "g_r", "r_i", "i_z")

# Bits of OBJC_FLAGS and OBJC_FLAGS2 that mark unreliable photometry (Stoughton et al. 2002, AJ 123, 485).
_BAD = {
    "OBJC_FLAGS": {"BRIGHT": 1, "EDGE": 2, "BLENDED": 3, "NODEBLEND": 6, "SATURATED": 18},
    "OBJC_FLAGS2": {"INTERP_CENTER": 12, "PSF_FLUX_INTERP": 15},
}

# Ivezic et al. 2004, AN 325, 583: coefficients of ugriz and constant of the colour across the locus, the same
# of the colour along it, and the range of the latter.
_PRINCIPAL = {
    "s": ([-0.249, 0.794, -0.555, 0, 0, 0.234], [0.910, -0.495, -0.415, 0, 0, -1.280], (-0.2, 0.8)),
    "w": ([0, -0.227, 0.792, -0.567, 0, 0.050], [0, 0.928, -0.556, -0.372, 0, -0.425], (-0.2, 0.6)),
    "x": ([0, 0.707, -0.707, 0, 0, -0.988], [0, 0, 1, -1, 0, 0], (0.8, 1.6)),
    "y": ([0, 0, -0.270, 0.800, -0.534, 0.054], [0, 0, 0.895, -0.448, -0.447, -0.600], (0.1, 1.2)),
}


def in_sdss_system(colours: pd.DataFrame) -> pd.DataFrame:
    """Turn AB colours into those of SDSS: 0.04 mag fainter than AB in u, 0.02 mag brighter in z."""
    u, g, r, i, z = SDSS.zero_point
    shift = {"u_g": u - g, "g_r": g - r, "r_i": r - i, "i_z": i - z, "g_i": g - i}
    return pd.DataFrame({name: colours[name] + shift[name] for name in shift})


def locus_file(name: str) -> Path:
    """Path of a table of the locus, ``covey2007_locus`` or ``stellar_locus``."""
    return project_root() / "data" / "sky" / f"{name}.ecsv"


def _read(path: Path) -> pd.DataFrame:
    return Table.read(path, format="ascii.ecsv").to_pandas()


def covey_locus() -> pd.DataFrame:
    """Medians and dispersions (``u_g_width``...) in bins of g - i of Covey et al. (2007, AJ 134, 2398)."""
    return _read(locus_file("covey2007_locus"))


def measured_locus() -> pd.DataFrame:
    """Median colours of one SDSS camera column in bins of g - i; see :func:`write_measured_locus`."""
    return _read(locus_file("stellar_locus"))


def juric_g_r(r_i: np.ndarray) -> np.ndarray:
    """Mean g - r of dwarfs at a given r - i (Juric et al. 2008, ApJ 673, 864, eq. 4)."""
    r_i = np.asarray(r_i, dtype=float)
    return 1.39 * (1 - np.exp(-4.9 * r_i**3 - 2.45 * r_i**2 - 1.68 * r_i - 0.050))


def principal_colours(magnitudes: np.ndarray) -> pd.DataFrame:
    """Distances s, w, x, y from the locus across its straight parts, whose medians are 0 for SDSS stars.

    Parameters
    ----------
    magnitudes : numpy.ndarray
        (N, 5) ugriz of the SDSS system, corrected for extinction. The coefficients of s sum to -0.010, not 0:
        use magnitudes that survey stars have, such as r = 18.

    Returns
    -------
    pandas.DataFrame
        (N) rows, mag; NaN where a star is not in the range along the locus for which a colour is defined
        (Ivezic et al. 2004, AN 325, 583).
    """
    terms = np.column_stack([magnitudes, np.ones(len(magnitudes))])
    out = {}
    for name, (across, along, (low, high)) in _PRINCIPAL.items():
        position = terms @ along
        out[name] = np.where((position > low) & (position < high), terms @ across, np.nan)
    return pd.DataFrame(out)


def catalogue_colours(path: str | Path, r_limits: tuple[float, float] = (15.0, 19.5)) -> pd.DataFrame:
    """Colours of well-measured point sources in an SDSS ``calibObj-*-star`` table.

    Parameters
    ----------
    path : str or Path
        The FITS file: PSFFLUX in nanomaggies, EXTINCTION in magnitudes.
    r_limits : tuple of float
        Range of the PSF magnitude in r, not corrected for extinction.

    Returns
    -------
    pandas.DataFrame
        Colours, and ``u`` to ``z`` corrected for extinction. Kept are unresolved, unsaturated, not blended
        sources with a positive flux in g, r, i, z; in u, where red stars are at the noise, a flux that is
        not positive becomes magnitude 30, so that medians are right.

    Raises
    ------
    KeyError
        When a column is missing; the message names the file.
    """
    catalogue = Table.read(path)
    needed = {"PSFFLUX", "EXTINCTION", "OBJC_TYPE", *_BAD}
    if missing := needed - set(catalogue.colnames):
        raise KeyError(f"{path}: no columns {sorted(missing)}; expected a calibObj table of stars")
    flux = np.asarray(catalogue["PSFFLUX"], dtype=float)
    good = np.asarray(catalogue["OBJC_TYPE"] == 6) & (flux[:, 1:] > 0).all(1)
    for column, bits in _BAD.items():
        mask = sum(1 << bit for bit in bits.values())
        good &= (np.asarray(catalogue[column]) & mask) == 0
    observed = 22.5 - 2.5 * np.log10(np.maximum(flux[good], 1e-3))
    inside = (observed[:, 2] > r_limits[0]) & (observed[:, 2] < r_limits[1])
    magnitudes = (observed - np.asarray(catalogue["EXTINCTION"], dtype=float)[good])[inside]
    u, g, r, i, z = magnitudes.T
    table = pd.DataFrame({"u_g": u - g, "g_r": g - r, "r_i": r - i, "i_z": i - z, "g_i": g - i})
    return table.assign(**dict(zip("ugriz", magnitudes.T, strict=True)))


def running_locus(
    colours: pd.DataFrame, low: float = 0.2, high: float = 3.2, width: float = 0.2, n_least: int = 10
) -> pd.DataFrame:
    """Medians and percentiles of colours in bins of g - i.

    Parameters
    ----------
    colours : pandas.DataFrame
        Columns ``g_i`` and :data:`LOCUS_COLOURS`.
    low, high, width : float
        Bins.
    n_least : int
        Bins with fewer stars are left out.

    Returns
    -------
    pandas.DataFrame
        Per bin, ``g_i`` (its median), ``number``, and for each colour the median, ``<colour>_16`` and
        ``<colour>_84``.
    """
    number = np.floor((colours["g_i"] - low) / width)
    rows = []
    for k in range(round((high - low) / width)):
        here = colours[number == k]
        if len(here) >= n_least:
            row = {"g_i": here["g_i"].median(), "number": len(here)}
            for name in LOCUS_COLOURS:
                row[name], row[f"{name}_16"], row[f"{name}_84"] = np.percentile(here[name], [50, 16, 84])
            rows.append(row)
    return pd.DataFrame(rows)


def locus_offsets(
    colours: pd.DataFrame, locus: pd.DataFrame, edges: np.ndarray, n_least: int = 1
) -> pd.DataFrame:
    """Offsets of stars from a locus, at their own g - i.

    Parameters
    ----------
    colours : pandas.DataFrame
        Columns ``g_i`` and :data:`LOCUS_COLOURS`, in the system of the locus.
    locus : pandas.DataFrame
        The same columns, by increasing ``g_i``; interpolated linearly.
    edges : numpy.ndarray
        Bins of g - i.
    n_least : int
        Bins with fewer stars are left out.

    Returns
    -------
    pandas.DataFrame
        Per bin, ``low`` and ``high``, ``number``, and for each colour the median of star minus locus and half
        the range of its central 68 %, ``<colour>_width``.

    Raises
    ------
    ValueError
        When the bins reach beyond the locus.
    """
    known = locus["g_i"].min(), locus["g_i"].max()
    if edges[0] < known[0] or edges[-1] > known[1]:
        raise ValueError(
            f"bins of g - i from {edges[0]} to {edges[-1]}; "
            f"the locus is known from {known[0]:.2f} to {known[1]:.2f}"
        )
    g_i, rows = colours["g_i"].to_numpy(), []
    offset = {c: colours[c].to_numpy() - np.interp(g_i, locus["g_i"], locus[c]) for c in LOCUS_COLOURS}
    for low, high in pairwise(edges):
        here = (g_i >= low) & (g_i < high)
        if here.sum() >= n_least:
            row = {"low": low, "high": high, "number": here.sum()}
            for name in LOCUS_COLOURS:
                lower, row[name], upper = np.percentile(offset[name][here], [16, 50, 84])
                row[f"{name}_width"] = (upper - lower) / 2
            rows.append(row)
    return pd.DataFrame(rows)


def write_measured_locus(catalogue: str | Path, path: str | Path) -> Path:
    """Make ``data/sky/stellar_locus.ecsv`` from a table of stars; see :func:`catalogue_colours`.

    Parameters
    ----------
    catalogue : str or Path
        ``sdss_frames/calibObj-004510-4-star.fits.gz`` of the registry.
    path : str or Path
        The file to write.

    Returns
    -------
    Path
    """
    table = Table.from_pandas(running_locus(catalogue_colours(catalogue)).round(4))
    table.meta = {
        "contents": "The stellar locus: medians and 16 and 84 percentiles of SDSS PSF colours (mag) of point "
        "sources with r from 15 to 19.5, corrected for extinction, in bins of 0.2 mag in g-i.",
        "citation": "SDSS DR17, Abdurro'uf et al. 2022, ApJS 259, 35, doi:10.3847/1538-4365/ac4414",
        "source": f"{Path(catalogue).name}, by astro_utils.sky.stellar_locus.write_measured_locus",
    }
    with atomic(path) as temporary:
        table.write(temporary, format="ascii.ecsv", delimiter=",", overwrite=True)
    return Path(path)
