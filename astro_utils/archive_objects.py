"""Queries for the objects of the star/galaxy/quasar study: compact sources of the SDSS with a spectrum."""

from __future__ import annotations

import hashlib
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pandas as pd
from astroquery.sdss import SDSSClass

from astro_utils.archive_client import ArchiveError, query_table
from astro_utils.photometry import SDSS_BANDS
from astro_utils.results import atomic

__all__ = ["CLASSES", "KEY_MODULUS", "KINDS", "compact_query", "fetch_objects"]

KINDS = ("compact", "faint-compact")
CLASSES = ("GALAXY", "QSO", "STAR")

#: Objects are drawn in the order of ``objID`` modulo this prime, which mixes all parts of the identifier.
KEY_MODULUS = 10_007
N_PAGES = 100  # one query asks for 1 % of all objects, to stay within what the server allows
MAX_ROWS = 500_000  # the SkyServer's own limit for one answer
QUERY_WAIT = 1.0  # seconds between queries: the SkyServer allows 60 in a minute

_INTEGERS = dict.fromkeys(("objID", "run", "rerun", "camcol", "field", "plate", "mjd", "fiberID"), "int64")
_PER_BAND = [f"{name}_{band}" for band in SDSS_BANDS for name in ("dered", "deVRad", "psffwhm", "extinction")]
_COLOURS = {f"{blue}_{red}": f"p.{blue}-p.{red}" for blue, red in pairwise(SDSS_BANDS)}
_FLOATS = dict.fromkeys(("ra", "dec", *_PER_BAND, *_COLOURS, "z", "zErr"), "float64")
_DTYPES = _INTEGERS | _FLOATS | {"specObjID": "uint64", "class": "str", "run2d": "str"}


def compact_query(
    kind: str, label: str, limit: int, *, first_key: int = 0, last_key: int = KEY_MODULUS - 1
) -> str:
    """Write the SQL for compact objects of one spectroscopic class, as in MargNet's Experiments 1 and 2.

    The authors published no query: this is a reconstruction. *Compact* means that the mean over ugriz of de
    Vaucouleurs radius over seeing (FWHM) is at most 0.5; *faint*, that the mean of the five model magnitudes,
    not dereddened, is above 20. The published tables bear the latter out: of the 19,022 objects of Experiment
    3, 13,500 are in the faint sample, all with this mean above 20, and the 12 where it is below are not. The
    dereddened mean fails this test, and so does each band but r, by which Experiment 3 itself is cut. That
    zWarning is 0, and that no other flag is used, is assumed.

    Parameters
    ----------
    kind : {"compact", "faint-compact"}
        Experiment 1 or 2.
    label : {"GALAXY", "QSO", "STAR"}
        Spectroscopic class.
    limit : int
        Most objects, up to the 500,000 rows that the server gives.
    first_key, last_key : int
        The key of an object is objID modulo 10,007. Objects come in the order of keys, so a query always has
        the same answer, and pages with ascending keys make up one sample.

    Returns
    -------
    str
        SQL for the SkyServer: ``PhotoPrimary`` joined to ``SpecObj``, the best spectrum at each place.
        Magnitudes and extinction are in mag, radii and FWHM in arcsec; u_g to i_z are colours of model
        magnitudes, not dereddened.

    Raises
    ------
    ValueError
        If an argument is none of these.

    Notes
    -----
    Columns are named as in the documentation of PhotoObjAll and SpecObjAll of data release 12, which has
    psffwhm in arcsec; that release 16 kept the names is likely, but was not tried. (The table Field has
    psfWidth, the effective width of the PSF at the centre of the field.) What was not measured is -9999 and
    is left out. NULLIF: SQL Server may divide before it looks at another condition. As a web address the
    query must stay below 2048 characters, the usual limit of such servers.

    References
    ----------
    Chaini, S., et al., 2023, MNRAS, 518, 3123, doi:10.1093/mnras/stac3336.
    """
    if kind not in KINDS or label not in CLASSES:
        raise ValueError(f"got kind {kind!r} and class {label!r}; expected one of {KINDS} and of {CLASSES}")
    if not 1 <= limit <= MAX_ROWS:
        raise ValueError(f"limit is {limit}; expected 1 to {MAX_ROWS}, the most rows that the server gives")
    if not 0 <= first_key <= last_key < KEY_MODULUS:
        raise ValueError(f"keys {first_key} to {last_key} are not ascending and from 0 to {KEY_MODULUS - 1}")
    photo = [f"p.{name}" for name in ("objID", "ra", "dec", "run", "rerun", "camcol", "field", *_PER_BAND)]
    colours = [f"{difference} AS {name}" for name, difference in _COLOURS.items()]
    names = ("z", "zErr", "class", "specObjID", "plate", "mjd", "fiberID", "run2d")
    ratios = "+".join(f"p.deVRad_{band}/NULLIF(p.psffwhm_{band},0)" for band in SDSS_BANDS)
    conditions = [
        f"s.class='{label}'",
        "s.zWarning=0",
        # On the smaller table: the server then joins only what is asked for.
        f"s.bestObjID % {KEY_MODULUS} BETWEEN {first_key} AND {last_key}",
        # Near -9999 without a model magnitude, near +9999 without an extinction.
        *(f"p.dered_{band} BETWEEN 0 AND 50" for band in SDSS_BANDS),
        *(f"p.deVRad_{band}>=0 AND p.psffwhm_{band}>0" for band in SDSS_BANDS),
        f"({ratios})/5<=0.5",
    ]
    if kind == "faint-compact":
        conditions.append("(" + "+".join(f"p.{band}" for band in SDSS_BANDS) + ")/5>20")
    return (
        f"SELECT TOP {limit} {','.join(photo + colours)},{','.join(f's.{name}' for name in names)}\n"
        "FROM PhotoPrimary AS p JOIN SpecObj AS s ON s.bestObjID=p.objID\n"
        f"WHERE {' AND '.join(conditions)}\n"
        f"ORDER BY p.objID % {KEY_MODULUS},p.objID,s.specObjID"
    )


def _page(
    client: SDSSClass, query: str, label: str, data_release: int, folder: Path, what: str
) -> pd.DataFrame:
    """Return the answer to one query, from the folder where it is kept, if it was asked before."""
    path = folder / f"{hashlib.sha256(f'{data_release} {query}'.encode()).hexdigest()[:24]}.parquet"
    try:
        page = pd.read_parquet(path)
        if list(page) == list(_DTYPES):
            return page
    except (OSError, ValueError):
        pass  # not asked yet, or damaged: in both cases it is asked for
    time.sleep(QUERY_WAIT)
    ask = partial(client.query_sql_async, query, data_release=data_release)
    page = query_table(client, ask, _DTYPES, what)
    if page.empty:
        raise ArchiveError(
            f"{what}: the answer is empty; expected some objects with any hundredth of the keys"
        )
    if (other := page["class"] != label).any():
        raise ArchiveError(f"{what}: column class is {page['class'][other].iloc[0]}; expected {label} only")
    with atomic(path) as temporary:
        page.to_parquet(temporary, index=False)
    return page


def fetch_objects(
    kind: str,
    n_per_class: int,
    folder: str | Path,
    *,
    data_release: int = 16,
    client: SDSSClass | None = None,
) -> Path:
    """Fetch equally many compact galaxies, quasars and stars, with all features of MargNet's photometry.

    The sample never changes: it is the first objects of each class in the order of :func:`compact_query`. The
    answers are kept in ``<folder>/pages``, so that after an interruption the same call goes on where it was.

    Parameters
    ----------
    kind : {"compact", "faint-compact"}
        The selection.
    n_per_class : int
        Objects of each class.
    folder : str or Path
        Where the table goes.
    data_release : int
        Of the SDSS; the published tables are of 16.
    client : astroquery.sdss.SDSSClass, optional
        What sends the queries and reads the answers.

    Returns
    -------
    Path
        ``<kind>-dr<data_release>-<n_per_class>.parquet`` in `folder`, with the columns of the query. Objects
        with two best spectra are left out, so there may be a few rows less.

    Raises
    ------
    ValueError
        If an argument is none of these.
    ArchiveError
        If the server cannot be reached or has too few objects, or an answer is empty, is no table, lacks a
        column or has a value that is not measured.
    """
    folder, client, pages = Path(folder), client or SDSSClass(), []
    for label in CLASSES:
        missing = n_per_class
        for first, end in pairwise(i * KEY_MODULUS // N_PAGES for i in range(N_PAGES + 1)):
            last = end - 1
            query = compact_query(kind, label, missing, first_key=first, last_key=last)
            what = f"query for {kind} {label} of DR{data_release}, keys {first} to {last}"
            pages.append(_page(client, query, label, data_release, folder / "pages", what))
            missing -= len(pages[-1])
            if missing <= 0:
                break
        else:
            found = n_per_class - missing
            raise ArchiveError(f"DR{data_release} has {found} {kind} {label} objects, not {n_per_class}")
    table = pd.concat(pages, ignore_index=True)
    table = table[~table["objID"].duplicated(keep=False)]
    path = folder / f"{kind}-dr{data_release}-{n_per_class}.parquet"
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)
    return path
