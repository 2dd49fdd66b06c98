"""Photometry of a reader's own galaxies: CSV, Parquet, FITS or samples, checked as it is read.

photometry = read_photometry("mine.csv", "grz", "DECam")
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from kcorrect.utils import sdss_ab_correct

from astro_utils.desi_photometry import LEGACY_EXTINCTION
from astro_utils.frames import load_fits
from astro_utils.kcorrections.kcorrect_fit import SYSTEM_RESPONSES
from astro_utils.kcorrections.real_sample import OPTICAL, Photometry, wheel_photometry
from astro_utils.photometry import SDSS_BANDS, SDSS_SOFTENING, asinh_to_flux
from astro_utils.results import atomic
from astro_utils.samples import open_sample

__all__ = [
    "BRIGHTNESS_COLUMNS",
    "DUST_COLUMNS",
    "REDDENING",
    "example_catalogue",
    "example_rows",
    "read_photometry",
]

#: A / E(B-V), with E(B-V) of Schlegel, Finkbeiner & Davis (1998): SDSS from Schlafly & Finkbeiner (2011, ApJ
#: 737, 103, table 6), the Legacy Surveys as in their catalogues.
REDDENING = {
    "SDSS": dict(zip(SDSS_BANDS, (4.239, 3.303, 2.285, 1.698, 1.263), strict=True)),
    "BASS/MzLS": LEGACY_EXTINCTION,
    "DECam": {**LEGACY_EXTINCTION, "i": 1.592},
}

#: Columns of a catalogue that tell how bright galaxies are, band by band, and what they hold; the first pair
#: of which all bands are there is read.
BRIGHTNESS_COLUMNS = {
    ("dered_flux", "dered_flux_ivar"): "nanomaggies and nanomaggies^-2, corrected for Galactic extinction",
    ("flux", "flux_ivar"): "nanomaggies and nanomaggies^-2, as observed",
    ("mag", "err"): "AB magnitudes and their errors, as observed; SDSS's own asinh magnitudes for SDSS",
}

#: Columns that tell the extinction of what was observed; the first of which all are there is read.
DUST_COLUMNS = {
    "extinction": "mag, one column for each band",
    "mw_transmission": "share of light that Galactic dust transmits, one column for each band",
    "ebv": "E(B-V) in mag, one column; multiplied by :data:`REDDENING`",
}


# ------------------------------------------------------------------------------------------------ reading


def read_photometry(
    path: str | Path, bands: str | Sequence[str], system: str, *, dereddened: bool = False
) -> Photometry:
    """Read a reader's own galaxies from CSV, Parquet, FITS or a sample (HDF5).

    Parameters
    ----------
    path : str or Path
        A table with :data:`BRIGHTNESS_COLUMNS` and :data:`DUST_COLUMNS`, followed by ``_`` and the band, such
        as ``flux_g``; and, if it is known, the redshift ``z``, empty or NaN where it is not. Capitals do not
        matter: catalogues of the Legacy Surveys can be read as they are.
    bands : sequence of str
        From blue to red.
    system : str
        A name in :data:`astro_utils.kcorrections.kcorrect_fit.SYSTEM_RESPONSES`. Numbers of SDSS are taken as
        the survey gives them, and moved to the AB system as `kcorrect` does.
    dereddened : bool
        Whether ``flux_*`` or ``mag_*`` are corrected for Galactic extinction; then no column of dust is read.

    Returns
    -------
    Photometry
        In the order of the file; redshifts NaN where not known. A band with an inverse variance of 0 is not
        measured, and its flux 0.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Naming the file, the column, how many rows are wrong and the first of them (counted from 0): system or
        band not known, no rows, a column missing, text for a number, numbers that are not finite, sentinels
        such as -9999, or magnitudes or fluxes in another unit.
    """
    path, bands = Path(path), tuple(bands)
    if system not in SYSTEM_RESPONSES:
        raise ValueError(f"system {system!r}; expected one of {', '.join(SYSTEM_RESPONSES)}")
    if unknown := [band for band in bands if band not in REDDENING[system]]:
        raise ValueError(
            f"{system} has no band {unknown[0]!r}; expected some of {', '.join(REDDENING[system])}"
        )
    table = _read_table(path)
    if table.empty:
        raise ValueError(f"{path}: no rows")
    kind = _brightness(table, bands, path)
    # A flux may be absent where its inverse variance is 0.
    first, second = (
        np.stack([_numbers(path, f"{part}_{b}", table, empty="flux" in part) for b in bands], 1)
        for part in kind
    )
    if kind[0] == "mag":
        flux, ivar = _from_magnitudes(path, first, second, bands, system)
    else:
        flux, ivar = _checked_flux(path, first, second, bands, kind)
    if system == "SDSS":
        ones = np.ones((1, len(OPTICAL)))
        factor = sdss_ab_correct(maggies=ones, ivar=ones)[0][0, [OPTICAL.index(band) for band in bands]]
        flux, ivar = flux * factor, ivar / factor**2
    known = kind[0] == "dered_flux" or dereddened
    extinction = np.zeros(flux.shape) if known else _extinction(table, bands, system, path)
    return Photometry(bands, flux, ivar, extinction, _redshifts(path, table))


def _read_table(path: Path) -> pd.DataFrame:
    """Read the columns with one number a row; names in small letters."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such catalogue")
    readers = {
        ".csv": lambda: pd.read_csv(path, comment="#"),
        ".parquet": lambda: pd.read_parquet(path),
        ".fits": lambda: _read_fits(path),
        ".h5": lambda: _read_sample(path),
        ".hdf5": lambda: _read_sample(path),
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: expected a name that ends in one of {', '.join(readers)}")
    try:
        table = readers[path.suffix]()
    except (ValueError, OSError) as error:  # what the libraries raise at a foreign or empty file
        raise ValueError(f"{path}: not a readable {path.suffix} table ({error})") from error
    names = [str(name).strip().lower() for name in table]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path}: more than one column {twice[0]}, capitals or not")
    return table.set_axis(names, axis=1).reset_index(drop=True)


def _read_fits(path: Path) -> pd.DataFrame:
    rows = next((hdu.data for hdu in load_fits(path) if isinstance(hdu, fits.BinTableHDU)), None)
    if rows is None:
        raise ValueError("no table")
    columns = {name: np.asarray(rows[name]) for name in rows.names}
    return pd.DataFrame({k: v.astype(v.dtype.newbyteorder("=")) for k, v in columns.items() if v.ndim == 1})


def _read_sample(path: Path) -> pd.DataFrame:
    with open_sample(path) as sample:
        return sample.catalogue()


def _brightness(table: pd.DataFrame, bands: tuple[str, ...], path: Path) -> tuple[str, str]:
    """Which pair of columns is there in all bands."""
    lacking = {
        pair: [name for band in bands for part in pair if (name := f"{part}_{band}") not in table]
        for pair in BRIGHTNESS_COLUMNS
    }
    nearest = min(lacking, key=lambda pair: len(lacking[pair]))
    if lacking[nearest]:
        expected = "; or ".join(f"{a}_* and {b}_* ({what})" for (a, b), what in BRIGHTNESS_COLUMNS.items())
        raise ValueError(
            f"{path}: no column {', '.join(lacking[nearest])}; expected for each of {', '.join(bands)} "
            f"{expected}"
        )
    return next(pair for pair, names in lacking.items() if not names)


def _refuse(path: Path, name: str, values: np.ndarray, bad: np.ndarray, why: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{path}: column {name}, row {row} is {values[row]:g}: {why} "
            f"({int(bad.sum())} of {len(bad)} rows)"
        )


def _numbers(path: Path, name: str, table: pd.DataFrame, *, empty: bool = False) -> np.ndarray:
    """Finite numbers of a column, (N,); NaN where it is empty and may be."""
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
    text = np.isnan(values) & table[name].notna().to_numpy()
    if text.any():
        row = int(text.argmax())
        raise ValueError(
            f"{path}: column {name}, row {row} is {table[name].iloc[row]!r}: not a number "
            f"({int(text.sum())} of {len(text)} rows)"
        )
    bad = np.isinf(values) if empty else ~np.isfinite(values)
    _refuse(path, name, values, bad, "not finite; drop such rows before")
    return values


def _checked_flux(
    path: Path, flux: np.ndarray, ivar: np.ndarray, bands: tuple[str, ...], kind: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    for k, band in enumerate(bands):
        _refuse(path, f"{kind[1]}_{band}", ivar[:, k], ivar[:, k] < 0, "an inverse variance is not negative")
        measured = ivar[:, k] != 0
        for values, name in ((flux, kind[0]), (ivar, kind[1])):
            lost = measured & np.isnan(values[:, k])
            _refuse(path, f"{name}_{band}", values[:, k], lost, "not finite; drop such rows before")
        sentinel = measured & (flux[:, k] <= -99)
        _refuse(path, f"{kind[0]}_{band}", flux[:, k], sentinel, "a sentinel for 'not measured'")
        middle = np.median(flux[measured, k]) if measured.any() else 1.0
        if not 1e-4 < middle < 1e7 and middle > 0:  # magnitudes 5 to 32.5
            raise ValueError(
                f"{path}: column {kind[0]}_{band} has a median of {middle:.3g}; expected nanomaggies "
                "(22.5 mag is 1). Is it in maggies, Jansky, counts or erg/s/cm2?"
            )
    return np.where(ivar > 0, flux, 0.0), ivar


def _from_magnitudes(
    path: Path, magnitude: np.ndarray, error: np.ndarray, bands: tuple[str, ...], system: str
) -> tuple[np.ndarray, np.ndarray]:
    for k, band in enumerate(bands):
        odd = (magnitude[:, k] < 5) | (magnitude[:, k] > 35)
        why = "not an AB magnitude between 5 and 35; is it a flux, or a sentinel?"
        _refuse(path, f"mag_{band}", magnitude[:, k], odd, why)
        odd = (error[:, k] <= 0) | (error[:, k] > 100)
        _refuse(path, f"err_{band}", error[:, k], odd, "not an error in magnitudes, above 0 and below 100")
    if system == "SDSS":
        return asinh_to_flux(magnitude, error, SDSS_SOFTENING[[SDSS_BANDS.index(band) for band in bands]])
    flux = 10 ** (0.4 * (22.5 - magnitude))
    return flux, 1 / (flux * error * np.log(10) / 2.5) ** 2


def _extinction(table: pd.DataFrame, bands: tuple[str, ...], system: str, path: Path) -> np.ndarray:
    """Galactic extinction (N, B), mag."""
    for part in ("extinction", "mw_transmission"):
        names = [f"{part}_{band}" for band in bands]
        if all(name in table for name in names):
            values = np.stack([_numbers(path, name, table) for name in names], 1)
            low, high = (0, 20) if part == "extinction" else (1e-8, 1)
            for k, name in enumerate(names):
                odd = (values[:, k] < low) | (values[:, k] > high)
                _refuse(path, name, values[:, k], odd, f"outside {low:g} to {high:g}, {DUST_COLUMNS[part]}")
            return values if part == "extinction" else -2.5 * np.log10(values)
    if "ebv" not in table:
        expected = "; or ".join(f"{name} ({what})" for name, what in DUST_COLUMNS.items())
        raise ValueError(
            f"{path}: no columns of Galactic extinction in {', '.join(bands)}; expected {expected}; or say "
            "that the photometry is corrected for it (dereddened)"
        )
    ebv = _numbers(path, "ebv", table)
    _refuse(path, "ebv", ebv, (ebv < 0) | (ebv > 10), "outside 0 to 10 mag")
    return ebv[:, None] * [REDDENING[system][band] for band in bands]


def _redshifts(path: Path, table: pd.DataFrame) -> np.ndarray:
    if "z" not in table:
        return np.full(len(table), np.nan)
    z = _numbers(path, "z", table, empty=True)
    _refuse(path, "z", z, (z <= -1) | (z > 20), "not a redshift; leave it empty where it is not known")
    return z


# ------------------------------------------------------------------------------------------- the example


def example_rows(n_galaxies: int, n: int = 200, seed: int = 0) -> np.ndarray:
    """Rows, among all galaxies of the package `kcorrect`, of :func:`example_catalogue`, increasing."""
    return np.sort(np.random.default_rng(seed).permutation(n_galaxies)[:n])


def example_catalogue(path: str | Path, n: int = 200, *, seed: int = 0) -> Path:
    """Write real SDSS galaxies as a reader's own catalogue (CSV), to show the format.

    Parameters
    ----------
    path : str or Path
        Ends in ``.csv``.
    n : int
        Galaxies, drawn from the 10,000 of the package `kcorrect`.
    seed : int
        Of the draw.

    Returns
    -------
    pathlib.Path
        Of a table with ``source_row``, by which these can be left out of a training set, ``ra``, ``dec``,
        ``z``, and ``flux_*``, ``flux_ivar_*`` and ``extinction_*`` in u, g, r, i, z, as observed.
    """
    photometry, sample = wheel_photometry(ab_correct=False)
    rows = example_rows(len(photometry), n, seed)
    chosen, columns = photometry.only(OPTICAL).select(rows), {"source_row": rows}
    columns |= {name: sample[name].to_numpy()[rows] for name in ("ra", "dec", "z")}
    for part, values in (
        ("flux", chosen.flux),
        ("flux_ivar", chosen.ivar),
        ("extinction", chosen.extinction),
    ):
        columns |= {f"{part}_{band}": values[:, i] for i, band in enumerate(OPTICAL)}
    with atomic(path) as temporary:
        pd.DataFrame(columns).to_csv(temporary, index=False)
    return Path(path)
