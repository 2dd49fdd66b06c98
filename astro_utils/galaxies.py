"""Galaxy samples for photometric redshifts: 10,000 real SDSS galaxies, or a reader's own catalogue.

Both end in the same columns, the *sample columns*: ``model_mag_u`` ... ``model_mag_z`` and ``petro_mag_*``,
asinh AB magnitudes corrected for Galactic extinction; ``model_err_*`` and ``petro_err_*``, their errors in
magnitudes; ``extinction_r`` in magnitudes.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.table import Table

from astro_utils.photometry import SDSS_BANDS, asinh_magnitudes, asinh_to_flux, deredden
from astro_utils.splits import sky_pixels

__all__ = [
    "CATALOGUE_COLUMNS",
    "as_catalogue",
    "galaxy_sample",
    "read_catalogue",
    "sample_columns",
    "sdss_checksum",
    "sdss_galaxies",
    "spectroscopic_redshifts",
]

_INFRARED = {"j_mag": "J_M_EXT", "h_mag": "H_M_EXT", "k_mag": "K_M_EXT"}

#: Columns of a reader's catalogue, named as in the SDSS table PhotoObj, and their unit.
CATALOGUE_COLUMNS = {
    **{f"modelMag_{b}": "mag, SDSS asinh AB, as observed" for b in SDSS_BANDS},
    **{f"modelMagErr_{b}": "mag" for b in SDSS_BANDS},
    **{f"petroMag_{b}": "mag, SDSS asinh AB, as observed" for b in SDSS_BANDS},
    **{f"petroMagErr_{b}": "mag" for b in SDSS_BANDS},
    **{f"extinction_{b}": "mag" for b in SDSS_BANDS},
}


def sample_columns(flux: dict, ivar: dict, extinction: np.ndarray) -> dict[str, np.ndarray]:
    """Sample columns from observed fluxes and inverse variances per kind, (N, 5) each."""
    columns = {}
    for kind in ("model", "petro"):
        magnitude, error = asinh_magnitudes(*deredden(flux[kind], ivar[kind], extinction))
        columns |= {f"{kind}_mag_{b}": magnitude[:, i] for i, b in enumerate(SDSS_BANDS)}
        columns |= {f"{kind}_err_{b}": error[:, i] for i, b in enumerate(SDSS_BANDS)}
    return columns | {"extinction_r": extinction[:, SDSS_BANDS.index("r")]}


def sdss_galaxies() -> Path:
    """Path of the table of 10,000 real SDSS galaxies that the package `kcorrect` ships."""
    return Path(str(resources.files("kcorrect") / "data" / "test" / "gst_tests_small.fits"))


def sdss_checksum() -> dict[str, str]:
    """Name and SHA-256 of the file of :func:`sdss_galaxies`, for provenance stamps."""
    path = sdss_galaxies()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def galaxy_sample(nside: int = 8) -> pd.DataFrame:
    """Read the real galaxies, deredden them and take asinh magnitudes.

    Parameters
    ----------
    nside : int
        HEALPix resolution of the column ``pixel``, by which the sky is split.

    Returns
    -------
    pandas.DataFrame
        The sample columns; ``j_mag``, ``h_mag``, ``k_mag``, 2MASS extended-source Vega magnitudes, NaN where
        not measured; ``ra``, ``dec`` (degrees), ``z`` (spectroscopic), ``pixel``, ``source_row`` in
        the file, and ``n_bad``, the number of bands without a positive inverse variance. No row is dropped.
    """
    table = _wheel_table()
    flux = {"model": table["MODELFLUX"], "petro": table["PETROFLUX"]}
    ivar = {"model": table["MODELFLUX_IVAR"], "petro": table["PETROFLUX_IVAR"]}
    columns = {"ra": table["RA"], "dec": table["DEC"], "z": table["Z"]}
    columns |= sample_columns(flux, ivar, table["EXTINCTION"])
    for name, source in _INFRARED.items():
        columns[name] = np.where(table[source] > 0, table[source], np.nan)  # 0 marks "not in 2MASS"
    columns["source_row"] = np.arange(len(table["Z"]))
    columns["pixel"] = sky_pixels(table["RA"], table["DEC"], nside)
    columns["n_bad"] = sum((ivar[kind] <= 0).sum(1) for kind in ivar)
    return pd.DataFrame(columns)


def _wheel_table() -> dict[str, np.ndarray]:
    with fits.open(sdss_galaxies()) as hdus:
        return {name: np.asarray(hdus[1].data[name], dtype=float) for name in hdus[1].columns.names}


def as_catalogue(rows: np.ndarray) -> pd.DataFrame:
    """Write rows of the real galaxies as a reader's catalogue: observed magnitudes under SDSS's own names.

    Parameters
    ----------
    rows : numpy.ndarray
        Row numbers in the file (``source_row``).

    Returns
    -------
    pandas.DataFrame
        The columns of :data:`CATALOGUE_COLUMNS`, and ``z_spec``.
    """
    table = {name: values[rows] for name, values in _wheel_table().items()}
    columns = {}
    for kind in ("model", "petro"):
        flux, ivar = table[f"{kind.upper()}FLUX"], table[f"{kind.upper()}FLUX_IVAR"]
        for name, values in zip(("Mag", "MagErr"), asinh_magnitudes(flux, ivar), strict=True):
            columns |= {f"{kind}{name}_{b}": values[:, i] for i, b in enumerate(SDSS_BANDS)}
    columns |= {f"extinction_{b}": table["EXTINCTION"][:, i] for i, b in enumerate(SDSS_BANDS)}
    return pd.DataFrame(columns | {"z_spec": table["Z"]})


def read_catalogue(path: str | Path) -> pd.DataFrame:
    """Read a reader's own galaxies from CSV, Parquet or FITS into the sample columns.

    Parameters
    ----------
    path : path
        A table with the columns :data:`CATALOGUE_COLUMNS`; others are left aside.

    Returns
    -------
    pandas.DataFrame
        Sample columns, in the order of the file.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Naming the file, the column and the first bad row (counted from 0): a missing column, no rows, text
        for a number, NaN, a sentinel such as -9999, fluxes where magnitudes are expected, or an error that is
        not positive.
    """
    path = Path(path)
    table = _read_table(path)
    missing = [name for name in CATALOGUE_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected {', '.join(CATALOGUE_COLUMNS)}")
    if table.empty:
        raise ValueError(f"{path}: no rows")
    for name in CATALOGUE_COLUMNS:
        _check_column(path, name, table[name])
    stacked = {
        name: table[[f"{name}_{b}" for b in SDSS_BANDS]].to_numpy(float)
        for name in ("modelMag", "modelMagErr", "petroMag", "petroMagErr", "extinction")
    }
    flux, ivar = {}, {}
    for kind in ("model", "petro"):
        flux[kind], ivar[kind] = asinh_to_flux(stacked[f"{kind}Mag"], stacked[f"{kind}MagErr"])
    return pd.DataFrame(sample_columns(flux, ivar, stacked["extinction"]))


def _read_table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such catalogue")
    readers = {
        ".csv": lambda: pd.read_csv(path, comment="#"),
        ".parquet": lambda: pd.read_parquet(path),
        ".fits": lambda: Table.read(path, format="fits").to_pandas(),
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(readers)}")
    try:
        return readers[path.suffix]()
    except (ValueError, OSError) as error:  # what the three libraries raise at a foreign or empty file
        raise ValueError(f"{path}: not a readable {path.suffix} table ({error})") from error


def _check_column(path: Path, name: str, values: pd.Series) -> None:
    """Raise ValueError at the first value that cannot be what the column's name says."""

    def refuse(bad: pd.Series, why: str) -> None:
        if bad.any():
            row = int(np.flatnonzero(bad.to_numpy())[0])
            value = values.iloc[row]
            value = value.item() if isinstance(value, np.generic) else value
            raise ValueError(f"{path}: column {name}, row {row} is {value!r}: {why}")

    # Nullable columns would answer "unknown" to every question below; NaN answers it.
    plain = pd.to_numeric(values, errors="coerce").to_numpy(float, na_value=np.nan)
    numbers = pd.Series(plain, index=values.index)
    refuse(numbers.isna() & values.notna(), "not a number")
    refuse(~np.isfinite(numbers), "NaN or infinite; drop such rows, or fill them, before")
    refuse(numbers <= -99, "a sentinel for 'not measured'; drop such rows before")
    unit = CATALOGUE_COLUMNS[name].split(",")[0]
    if "Err" in name:
        refuse(numbers <= 0, f"an error must be above zero ({unit})")
        refuse(numbers > 100, f"too large for an error in {unit}; is it in flux units?")
    elif name.startswith("extinction"):
        refuse((numbers < 0) | (numbers > 20), f"outside 0 to 20 {unit}")
    else:
        refuse(
            (numbers < 5) | (numbers > 35),
            "not an asinh AB magnitude between 5 and 35; is it a flux? (m = 22.5 - 2.5 log10 f for f in "
            "nanomaggies well above the noise; astro_utils.photometry.asinh_magnitudes has the full formula)",
        )


def spectroscopic_redshifts(path: str | Path) -> np.ndarray | None:
    """Return the column ``z_spec`` of a reader's catalogue, or None where it has none."""
    table = _read_table(Path(path))
    if "z_spec" not in table:
        return None
    values = pd.to_numeric(table["z_spec"], errors="coerce").to_numpy(float, na_value=np.nan)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ValueError(f"{path}: column z_spec, row {row} is {table['z_spec'].iloc[row]!r}: not a redshift")
    return values
