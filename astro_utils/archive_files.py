"""Files of the SDSS at the Science Archive Server: the frames that hold objects, and spectra of objects."""

from __future__ import annotations

import bz2
from functools import partial
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord, search_around_sky
from astroquery.sdss import SDSSClass, conf

from astro_utils.archive_client import fetch_file, query_table
from astro_utils.photometry import SDSS_BANDS

__all__ = ["crossmatch_spectra", "fetch_frames", "frame_urls", "spectrum_urls"]

FRAME_MB = 3.2  # mean size of a packed frame, of the five of run 4510, camera column 4, field 30
MAX_POSITIONS = 1000  # positions in one cross-match


def _require(table: pd.DataFrame, columns: tuple[str, ...]) -> None:
    if missing := [name for name in columns if name not in table]:
        raise ValueError(f"the table lacks column {missing[0]}; expected {', '.join(columns)}")


# ---------------------------------------------------------------------------------------------------- frames


def frame_urls(table: pd.DataFrame, bands: str = "ugriz") -> list[str]:
    """List the addresses of the frames (images of one field in one band) that hold objects, each one once.

    Parameters
    ----------
    table : pandas.DataFrame
        With columns run, camcol and field; rerun is 301, as since data release 8, where it is absent.
    bands : str
        Some of u, g, r, i, z.

    Returns
    -------
    list of str
        By field, and for each field in the order of `bands`; the place is that of data release 17.

    Raises
    ------
    ValueError
        If a column is missing or a band unknown.
    """
    _require(table, ("run", "camcol", "field"))
    if not bands or set(bands) - set(SDSS_BANDS):
        raise ValueError(f"bands are {bands!r}; expected some of {''.join(SDSS_BANDS)}")
    fields = table if "rerun" in table else table.assign(rerun=301)
    fields = fields[["run", "camcol", "field", "rerun"]].astype("int64").drop_duplicates()
    fields = fields.sort_values(["run", "camcol", "field"])
    place = {"base": conf.sas_baseurl, "dr": 17, "instrument": "eboss"}
    return [
        SDSSClass.IMAGING_URL_SUFFIX.format(**place, band=band, **field)
        for field in fields.to_dict("records")
        for band in bands
    ]


def _check_packed_fits(path: Path) -> None:
    """Unpack all of a ``.fits.bz2``; raise ValueError if it is cut off, damaged or something else."""
    try:
        with bz2.open(path) as file:
            start = file.read(9)
            while file.read(2**20):
                pass
    except (OSError, EOFError) as error:
        raise ValueError(f"not a whole bz2 file: {error}") from None
    if start != b"SIMPLE  =":
        raise ValueError(f"not a FITS file: it begins with {start!r}")


def fetch_frames(table: pd.DataFrame, folder: str | Path, bands: str = "ugriz") -> list[Path]:
    """Download the frames that hold objects; good ones that are there are kept.

    Prints the expected size first. A frame appears under its name only when all of it could be unpacked.

    Parameters
    ----------
    table, bands
        As for :func:`frame_urls`.
    folder : str or Path
        Where they go.

    Returns
    -------
    list of Path
        In the order of :func:`frame_urls`.

    Raises
    ------
    ArchiveError
        If a frame cannot be had; those before it are kept.
    """
    urls = frame_urls(table, bands)
    paths = [Path(folder) / url.rsplit("/", 1)[1] for url in urls]
    absent = sum(not path.is_file() for path in paths)
    size = FRAME_MB * absent / 1000
    print(f"{absent} of {len(paths)} frames are to be fetched, about {size:.2f} GB", flush=True)
    return [fetch_file(url, path, _check_packed_fits) for url, path in zip(urls, paths, strict=True)]


# --------------------------------------------------------------------------------------------------- spectra

_SPECTRUM = {"plate": "int64", "mjd": "int64", "fiberID": "int64", "run2d": "str", "class": "str"}
_SPECTRUM |= {"z": "float64", "zWarning": "int64", "sciencePrimary": "int64"}


def crossmatch_spectra(
    ra: np.ndarray,
    dec: np.ndarray,
    *,
    radius: float = 2.0,
    data_release: int = 16,
    client: SDSSClass | None = None,
) -> pd.DataFrame:
    """Find the best optical spectrum of the SDSS at each position.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    radius : float
        Largest distance, arcsec, to the primary photometric object.
    data_release, client
        As for :func:`astro_utils.archive_objects.fetch_objects`.

    Returns
    -------
    pandas.DataFrame
        A row for each position that has a spectrum, in their order: position (0 to N - 1), separation
        (arcsec), plate, mjd, fiberID, run2d, class, z, zWarning.

    Raises
    ------
    ArchiveError
        If the server cannot be reached, or an answer is no table, lacks a column or has a value that is not
        measured.
    """
    wanted, client = SkyCoord(np.atleast_1d(ra), np.atleast_1d(dec), unit="deg"), client or SDSSClass()
    fields = {"photoobj_fields": ["ra", "dec"], "specobj_fields": list(_SPECTRUM), "spectro": True}
    options = {"radius": radius * u.arcsec, "data_release": data_release}
    dtypes, found = {"ra": "float64", "dec": "float64"} | _SPECTRUM, []
    for start in range(0, len(wanted), MAX_POSITIONS):
        part = wanted[start : start + MAX_POSITIONS]
        what = f"cross-match of positions {start} to {start + len(part) - 1}"
        ask = partial(client.query_crossid_async, part, **fields, **options)
        table = query_table(client, ask, dtypes, what)
        if not table.empty:
            found.append(table)
    columns = ["position", "separation", *_SPECTRUM]
    if not found:
        return pd.DataFrame(columns=columns).drop(columns="sciencePrimary")
    spectra = pd.concat(found, ignore_index=True).query("sciencePrimary == 1")
    places = SkyCoord(spectra["ra"].to_numpy(), spectra["dec"].to_numpy(), unit="deg")
    position, row, separation, _ = search_around_sky(wanted, places, radius * u.arcsec)
    spectra = spectra.iloc[row].assign(position=position, separation=separation.to_value(u.arcsec))
    nearest = spectra.sort_values(["position", "separation"]).drop_duplicates("position")
    return nearest[columns].drop(columns="sciencePrimary").reset_index(drop=True)


def spectrum_urls(table: pd.DataFrame, data_release: int = 16) -> list[str]:
    """List the addresses of optical spectra (``spec-<plate>-<mjd>-<fiber>.fits``).

    Parameters
    ----------
    table : pandas.DataFrame
        With columns plate, mjd, fiberID and run2d.
    data_release : {16, 17}
        That of the table: the two name their reductions (run2d) differently.

    Returns
    -------
    list of str
        One for each row.

    Raises
    ------
    ValueError
        If a column is missing or the data release another one.
    """
    _require(table, ("plate", "mjd", "fiberID", "run2d"))
    if data_release not in (16, 17):
        raise ValueError(f"data_release is {data_release}; expected 16 or 17")
    place = {"base": conf.sas_baseurl, "dr": data_release, "redux_path": "sdss/spectro/redux"}
    spectra = table[["plate", "mjd", "fiberID", "run2d"]].rename(columns={"fiberID": "fiber"})
    spectra = spectra.to_dict("records")
    for spectrum in spectra:
        # The reductions of SDSS-I/II and SEGUE have no shortened spectra beside the full ones.
        old = str(spectrum["run2d"]) in ("26", "103", "104")
        spectrum["spectra_path"] = "spectra" if old else "spectra/full"
    return [SDSSClass.SPECTRA_URL_SUFFIX.format(**place, **spectrum) for spectrum in spectra]
