"""How the archives are asked: again where that may help, with errors that say which query or address failed.

The SkyServer is asked through astroquery (Ginsburg et al. 2019, AJ, 157, 98), files are downloaded directly.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests
from astropy.utils.exceptions import AstropyWarning
from astroquery import cache_conf
from astroquery.exceptions import RemoteServiceError
from astroquery.sdss import SDSSClass, conf

from astro_utils.download import ATTEMPTS
from astro_utils.results import atomic

__all__ = ["ArchiveError", "fetch_file", "query_table"]

QUERY_TIMEOUT = 600.0  # seconds: the SkyServer's own limit for one query
FILE_TIMEOUT = 60.0  # seconds without an answer or a byte
RETRY_WAIT = 2.0  # seconds, times the number of attempts made


class ArchiveError(RuntimeError):
    """An archive cannot be reached or answers wrongly; the message says which query or address, and why."""


class _Fault(Exception):
    """What an archive answers in place of what was asked for; `again` says whether to try again."""

    def __init__(self, problem: str, again: bool):
        super().__init__(problem)
        self.again = again


def _reason(error: requests.RequestException) -> str:
    """Return the cause alone: the full message repeats the whole query."""
    if not isinstance(error, requests.ConnectionError | requests.Timeout):
        return f"breaks off its answer ({type(error).__name__})"
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return f"cannot be reached ({str(cause).rpartition(': ')[2]})"


def _excerpt(text: str) -> str:
    """Return the beginning of what a page says, without its tags."""
    plain = re.sub(r"(?s)<(script|style)\b.*?</\1>|<[^>]*>", " ", text)
    return " ".join(plain.split())[:300] or "nothing"


def _persist(once: Callable[[], Any], address: str) -> Any:
    """Return what `once` returns, called again where that may help."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return once()
        except requests.RequestException as error:
            problem, again = _reason(error), True
        except _Fault as fault:
            problem, again = str(fault), fault.again
        if not again or attempt == ATTEMPTS:
            break
        time.sleep(RETRY_WAIT * attempt)
    advice = "try again later or go on without it, as the studies use the simulated sky by default"
    raise ArchiveError(f"{address} {problem}: {advice}")


def _require_success(response: requests.Response) -> None:
    status = response.status_code
    if status != 200:
        problem = f"answers {status} {response.reason} ({_excerpt(response.text)})"
        raise _Fault(problem, again=status >= 500 or status == 429)


# ---------------------------------------------------------------------------------------- tables, by a query


def _answer(ask: Callable[..., requests.Response]) -> requests.Response:
    """Ask the SkyServer once."""
    # astroquery would keep answers, also wrong ones, as pickles in the reader's home.
    with cache_conf.set_temp("cache_active", False):
        response = ask(timeout=QUERY_TIMEOUT, cache=False)
    _require_success(response)
    return response


def _parse(client: SDSSClass, response: requests.Response, what: str) -> pd.DataFrame:
    """Read an answer with astroquery; an answer without rows is an empty table."""
    text = response.text.strip()
    if text.startswith("No objects have been found"):
        return pd.DataFrame()
    # astroquery takes a page for a table with odd columns, and a text of one line for the name of a file.
    if text[:1] in ("<", "{", "[") or "\n" not in text:
        raise ArchiveError(f"{what}: the SkyServer sent no table but: {_excerpt(text)}")
    try:
        with warnings.catch_warnings():
            # An identifier above 2^63 is read as text first, and made a whole number by astroquery then.
            warnings.filterwarnings("ignore", "OverflowError converting to IntType", AstropyWarning)
            table = client._parse_result(response)
    except (RemoteServiceError, TypeError, ValueError) as error:
        raise ArchiveError(f"{what}: the SkyServer sent no table: {_excerpt(str(error))}") from None
    return pd.DataFrame() if table is None else table.to_pandas()


def _checked(table: pd.DataFrame, dtypes: dict[str, str], what: str) -> pd.DataFrame:
    """Return the columns that were asked for, in their types."""
    if missing := [name for name in dtypes if name not in table]:
        raise ArchiveError(f"{what}: column {missing[0]} is missing; the answer has {', '.join(table)}")
    for name in (name for name, dtype in dtypes.items() if dtype != "str"):
        numbers = pd.to_numeric(table[name], errors="coerce").to_numpy(float, na_value=np.nan)
        wrong = ~(numbers > -9999)  # also what is no number
        if wrong.any():
            value, row = table[name][wrong].iloc[0], int(np.argmax(wrong))
            raise ArchiveError(f"{what}: column {name} is {value} in row {row}, not a measured value")
    return table[list(dtypes)].astype(dtypes)


def query_table(
    client: SDSSClass, ask: Callable[..., requests.Response], dtypes: dict[str, str], what: str
) -> pd.DataFrame:
    """Ask the SkyServer for a table.

    Parameters
    ----------
    client : astroquery.sdss.SDSSClass
        What reads the answer.
    ask : callable
        Sends the query, as the methods of `client` do that end in ``_async``; called with timeout and cache.
    dtypes : dict
        Name to type of the columns.
    what : str
        Names the query in messages.

    Returns
    -------
    pandas.DataFrame
        The columns of `dtypes` in this order and type; empty where the answer has no rows.

    Raises
    ------
    ArchiveError
        If the server cannot be reached or refuses, or the answer is no table, lacks a column or has a value
        that is not measured.
    """
    response = _persist(partial(_answer, ask), f"{what}: {conf.skyserver_baseurl}")
    table = _parse(client, response, what)
    return table if table.empty else _checked(table, dtypes, what)


# -------------------------------------------------------------------------------------- files, by an address


def _transfer(url: str, path: Path, check: Callable[[Path], object]) -> None:
    """Download once."""
    with requests.get(url, stream=True, timeout=FILE_TIMEOUT) as response:
        _require_success(response)
        with atomic(path) as temporary:
            with temporary.open("wb") as file:
                for chunk in response.iter_content(2**16):
                    file.write(chunk)
            try:
                check(temporary)
            except ValueError as error:
                raise _Fault(f"sent a wrong file ({error})", again=True) from None


def fetch_file(url: str, path: Path, check: Callable[[Path], object]) -> Path:
    """Return the local file, downloading it unless it is there and passes `check`.

    Parameters
    ----------
    url : str
        Where the file comes from.
    path : Path
        Where it goes; it appears there only when it is whole and passes `check`.
    check : callable
        Called with a path; raises ValueError if the file is absent or wrong.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ArchiveError
        If the file cannot be had.
    """
    try:
        check(path)
        return path
    except ValueError:
        pass  # absent or wrong: in both cases it is downloaded
    _persist(partial(_transfer, url, path, check), url)
    return path
