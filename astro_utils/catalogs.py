"""Readers of real catalogues: upstream files in, tidy tables with units out.

Every reader checks what it reads and says which file, column and value is wrong. The units of a table are in
``table.attrs["units"]``, column by column.

    table = read_margnet(fetch("margnet_tables"))
    compact = table[compactness(table) < 0.3]
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.legacy import read_pickled_npy
from astro_utils.photometry import SDSS_BANDS

__all__ = ["MARGNET_FEATURES", "compactness", "decode_sdss_objid", "read_margnet"]

# Units, and bounds that no real SDSS source leaves but sentinels, fluxes and exchanged columns do.
_PER_BAND = {
    "dered": ("mag", 5.0, 35.0),
    "radius": ("arcsec", 0.0, 120.0),
    "psffwhm": ("arcsec", 0.3, 10.0),
    "extinction": ("mag", 0.0, 30.0),
}
_COLOURS = {f"{blue}_{red}": ("mag", -15.0, 15.0) for blue, red in pairwise(SDSS_BANDS)}
_MARGNET = {f"{name}_{band}": limits for band in SDSS_BANDS for name, limits in _PER_BAND.items()} | _COLOURS

#: The 24 features of MargNet in the order of its arrays: four for each band, then the colours.
MARGNET_FEATURES = tuple(_MARGNET)

# Parts of an SDSS object identifier: first bit, counted from the lowest, and number of bits.
_OBJID_PARTS = {"run": (32, 16), "rerun": (48, 11), "camcol": (29, 3), "field": (16, 12), "obj": (0, 16)}


def decode_sdss_objid(objid: np.ndarray) -> pd.DataFrame:
    """Take SDSS object identifiers apart into imaging run, camera column, field and object.

    Parameters
    ----------
    objid : array_like of int
        (N,) photometric identifiers (``objID``) of data release 8 or later.

    Returns
    -------
    pandas.DataFrame
        Columns run, rerun, camcol, field and obj (int64), one row for each identifier.

    Raises
    ------
    ValueError
        If the identifiers are not positive integers with a camera column from 1 to 6.

    Notes
    -----
    Bits 0-15 hold the object, 16-27 the field, 28 a flag of the run's first field, 29-31 the camera column,
    32-47 the run, 48-58 the rerun and 59-62 the sky version (https://www.sdss3.org/dr8/glossary.php#ObjID).

    Examples
    --------
    >>> decode_sdss_objid([1237661382772195474]).iloc[0].to_dict()
    {'run': 3704, 'rerun': 301, 'camcol': 3, 'field': 91, 'obj': 146}
    """
    objid = np.asarray(objid)
    if objid.ndim != 1 or objid.dtype.kind not in "iu":  # as floats, identifiers have lost their last digits
        raise ValueError(f"objid must be (N,) integers, not {objid.dtype} of shape {objid.shape}")
    parts = {name: (objid >> bit) & ((1 << size) - 1) for name, (bit, size) in _OBJID_PARTS.items()}
    wrong = (objid <= 0) | (parts["camcol"] < 1) | (parts["camcol"] > 6)
    if wrong.any():
        raise ValueError(f"{objid[wrong][0]} is not an SDSS objid: it has no camera column from 1 to 6")
    return pd.DataFrame(parts).astype(np.int64)


def compactness(table: pd.DataFrame) -> pd.Series:
    """Radius over PSF width, averaged over ugriz: the c by which MargNet's samples are cut at c <= 0.5.

    Parameters
    ----------
    table : pandas.DataFrame
        With the columns radius_u to radius_z and psffwhm_u to psffwhm_z (arcsec).

    Returns
    -------
    pandas.Series
        Dimensionless; one value for each row. Single bands may exceed 0.5.
    """
    ratio = [table[f"radius_{band}"] / table[f"psffwhm_{band}"] for band in SDSS_BANDS]
    return (sum(ratio) / len(SDSS_BANDS)).rename("compactness")


def read_margnet(files: Mapping[str, Path]) -> pd.DataFrame:
    """Read the faint compact stars and galaxies of MargNet's Experiment 3.

    Parameters
    ----------
    files : mapping of str to Path
        The files of data set ``margnet_tables``, by their names in the registry.

    Returns
    -------
    pandas.DataFrame
        One row for each of the 19,022 objects, with their units in ``attrs["units"]``: objid (int64), label
        ("GALAXY" or "STAR", spectroscopic), :data:`MARGNET_FEATURES`, model_r (the magnitude in r as
        observed, by which the sample was cut at 20), run, camcol and field. Per band there are dered
        (dereddened model magnitude), radius, psffwhm and extinction. The colours are not dereddened.

    Raises
    ------
    ValueError
        If a file is missing or damaged. The message names the file, the column and the value.

    Notes
    -----
    Rows are stored in blocks of 0.1 mag in r and class within these: shuffle before any split. The sample is
    matched in class within each block, so r alone says nothing of the class.

    References
    ----------
    Chaini, S., et al., 2023, MNRAS, 518, 3123, doi:10.1093/mnras/stac3336.
    """
    names = [f"margnet/{part}_sg_exp3.npy" for part in ("dnnx", "y", "objlist")]
    if missing := [name for name in names if name not in files]:
        raise ValueError(f"files lacks {', '.join(missing)}: give the files of data set margnet_tables")
    paths = [files[name] for name in names]
    features, onehot, objid = (read_pickled_npy(path) for path in paths)
    n = objid.size
    shapes = ((n, len(MARGNET_FEATURES)), (n, 2), (n,))
    for path, array, shape in zip(paths, (features, onehot, objid), shapes, strict=True):
        if array.shape != shape or array.dtype.kind not in "fi":
            raise ValueError(f"{path}: {array.dtype} of shape {array.shape}, not numbers of shape {shape}")
    is_onehot = np.isin(onehot, (0, 1)).all(1) & (onehot.sum(1) == 1)
    if not is_onehot.all():
        row = int(np.argmin(is_onehot))
        raise ValueError(f"{paths[1]}: row {row} is {onehot[row].tolist()}, not one-hot [GALAXY, STAR]")
    if (repeated := pd.Series(objid).duplicated()).any():
        raise ValueError(f"{paths[2]}: objid {objid[repeated][0]} occurs more than once")

    table = pd.DataFrame(features, columns=list(MARGNET_FEATURES))
    _check_margnet(table, paths[0])
    table.insert(0, "objid", objid)
    table.insert(1, "label", np.where(onehot[:, 0] == 1, "GALAXY", "STAR"))
    table["model_r"] = table["dered_r"] + table["extinction_r"]
    try:
        parts = decode_sdss_objid(objid)
    except ValueError as error:
        raise ValueError(f"{paths[2]}: {error}") from error
    table = table.join(parts[["run", "camcol", "field"]])
    table.attrs["units"] = dict.fromkeys(table, "") | {"model_r": "mag"}
    table.attrs["units"] |= {name: unit for name, (unit, _, _) in _MARGNET.items()}
    return table


def _check_margnet(table: pd.DataFrame, path: Path) -> None:
    for name, (unit, low, high) in _MARGNET.items():
        wrong = ~table[name].between(low, high)  # NaN is between nothing
        if wrong.any():
            row = int(wrong.argmax())
            found = f"column {name} is {table[name].iloc[row]} in row {row}"
            raise ValueError(f"{path}: {found}, outside {low:g} to {high:g} {unit}")
    # The colours repeat other columns: they show whether the columns are what they are taken for.
    observed = {band: table[f"dered_{band}"] + table[f"extinction_{band}"] for band in SDSS_BANDS}
    for name in _COLOURS:
        blue, red = name.split("_")
        colour = observed[blue] - observed[red]
        difference = (table[name] - colour).abs()
        if difference.max() > 1e-3:
            row = int(difference.argmax())
            found = f"column {name} is {table[name].iloc[row]} in row {row}"
            raise ValueError(f"{path}: {found}, but the magnitudes give {colour.iloc[row]:.5f}")
