"""Run directories, metrics and the numbers that the book prints.

Every notebook opens one :class:`Run`, writes its files through it and closes it, which leaves a provenance
stamp beside the results::

    run = Run("results/smoke/photoz", notebook="photoz/2_train", parameters={"n_seeds": 2})
    run.write_metrics(rows)
    run.finish()

Nothing is half-written: each file appears under a temporary name and is renamed when it is whole.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.paths import project_root
from astro_utils.provenance import commit_of, provenance

__all__ = [
    "KEYS",
    "Run",
    "anchors",
    "atomic",
    "format_scores",
    "glue",
    "metric_row",
    "published",
    "read_metrics",
    "select",
    "write_json",
    "write_metrics",
]

#: What identifies a row of ``metrics.json``, in this order, for every study.
KEYS = ("profile", "sky", "experiment", "model", "n_train", "n_test", "seeds")
SKIES = ("real", "simulated")


@contextmanager
def atomic(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path` that replaces it only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays: writers such as matplotlib and pandas choose the format by it.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes private files; a result is meant to be read
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: NumPy scalars and arrays, paths and tuples unwrapped."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} to JSON: {value!r}")


def write_json(path: str | os.PathLike, content: Any) -> Path:
    """Write `content` as indented JSON, atomically; NaN is refused, because JSON has none."""
    text = json.dumps(content, indent=1, default=_plain, allow_nan=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return Path(path)


# ---------------------------------------------------------------------------------------------- metrics


def metric_row(
    *,
    profile: str,
    sky: str,
    experiment: str,
    model: str,
    n_train: int,
    n_test: int,
    seeds: int,
    metrics: Mapping[str, float | Mapping[str, float]],
) -> dict[str, Any]:
    """Make one row of ``metrics.json``.

    Parameters
    ----------
    profile : str
        ``smoke``, ``quick``, ``full``, or ``published`` for a number that another work printed.
    sky : {"real", "simulated"}
        Where the objects come from.
    experiment, model : str
        What was asked, and what answered.
    n_train, n_test, seeds : int
        Objects in training and test, and the number of repetitions with other seeds.
    metrics : mapping
        Standard name to a number, or to a mapping with ``value`` and any of ``lo``, ``hi`` (bounds of a 95 %
        interval) and ``sd`` (standard deviation over seeds).

    Returns
    -------
    dict
        Flat: each metric under its name, its bounds under ``<name>_lo`` and ``<name>_hi`` and its spread
        under ``<name>_sd``; absent ones are None.
    """
    if sky not in SKIES:
        raise ValueError(f"sky is {sky!r}; expected one of {SKIES}")
    row: dict[str, Any] = dict(
        zip(KEYS, (profile, sky, experiment, model, n_train, n_test, seeds), strict=True)
    )
    for name, entry in metrics.items():
        if name in KEYS:
            raise ValueError(f"metric {name!r} has the name of a key column {KEYS}")
        entry = entry if isinstance(entry, Mapping) else {"value": entry}
        unknown = set(entry) - {"value", "lo", "hi", "sd"}
        if "value" not in entry or unknown:
            raise ValueError(
                f"metric {name!r} has fields {sorted(entry)}; expected value and any of lo, hi, sd"
            )
        for suffix, part in (("", "value"), ("_lo", "lo"), ("_hi", "hi"), ("_sd", "sd")):
            number = entry.get(part)
            row[name + suffix] = None if number is None or not np.isfinite(number) else float(number)
    return row


def write_metrics(path: str | os.PathLike, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows made by :func:`metric_row` as one tidy list; a duplicated key is an error."""
    if not rows:
        raise ValueError(f"{path}: no metric rows to write")
    for number, row in enumerate(rows):
        missing = [key for key in KEYS if key not in row]
        if missing:
            raise ValueError(f"{path}: row {number} lacks {missing}; every row needs {KEYS}")
    identities = [tuple(row[key] for key in KEYS) for row in rows]
    twice = {identity for identity in identities if identities.count(identity) > 1}
    if twice:
        raise ValueError(f"{path}: rows with the same key {sorted(twice)[0]}")
    return write_json(path, list(rows))


def read_metrics(path: str | os.PathLike) -> pd.DataFrame:
    """Read a ``metrics.json`` into a table, one line per row; absent numbers are NaN.

    Raises
    ------
    FileNotFoundError, ValueError
        With the file's name, when it is absent or is not a list of rows with the key columns.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no metrics here; run the notebook that writes them first")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(KEYS) <= set(row) for row in rows):
        raise ValueError(f"{path}: expected a list of rows with the keys {KEYS}")
    table = pd.DataFrame(rows)
    numbers = [column for column in table if column not in ("profile", "sky", "experiment", "model")]
    return table.astype({column: float for column in numbers if column not in KEYS})


def select(metrics: pd.DataFrame, **keys: Any) -> pd.Series:
    """Return the one row whose key columns equal `keys`.

    Raises
    ------
    KeyError
        When none or several rows match; the message lists the experiments and models at hand.
    """
    chosen = metrics
    for key, value in keys.items():
        chosen = chosen[chosen[key] == value]
    if len(chosen) != 1:
        present = metrics[["experiment", "model"]].drop_duplicates().to_records(index=False).tolist()
        raise KeyError(f"{len(chosen)} rows match {keys}; (experiment, model) present: {present}")
    return chosen.iloc[0]


def published(study: str, name: str = "metrics.json") -> Path:
    """Path of a file of the published run of `study`, kept with the repository."""
    return project_root() / "data" / "published" / study / name


# -------------------------------------------------------------------------------------------------- runs


@dataclass
class Run:
    """One execution of one notebook: where its files go, and the stamp that it leaves.

    Parameters
    ----------
    results_dir : str
        Folder of the study's results for one profile; relative paths count from the project's root, so
        that papermill, nbval and Jupyter, which start in different folders, mean the same place.
    notebook : str
        Path below ``notebooks/`` without the suffix.
    parameters : mapping
        The notebook's parameters, for the stamp.
    datasets : mapping, optional
        File name to SHA-256 of the inputs.
    """

    results_dir: str
    notebook: str
    parameters: Mapping[str, Any]
    datasets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = project_root() / self.results_dir
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start = time.monotonic()
        self._commit = commit_of(project_root())  # now: a long run may end after the next commit

    def path(self, name: str) -> Path:
        """Path of the file `name` in the run directory; its folder is made."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def need(self, name: str, made_by: str) -> Path:
        """Path of a file that an earlier notebook wrote.

        Raises
        ------
        FileNotFoundError
            Naming the file and the notebook that makes it.
        """
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there yet; run notebooks/{made_by}.ipynb first")
        return path

    def write_table(self, name: str, table: pd.DataFrame) -> Path:
        """Write `table` as Parquet or CSV, by the suffix of `name`."""
        path = self.path(name)
        writers = {
            ".parquet": lambda p: table.to_parquet(p, index=False, compression="zstd", compression_level=9),
            ".csv": lambda p: table.to_csv(p),
        }
        if path.suffix not in writers:
            raise ValueError(f"{name}: expected a name that ends in one of {sorted(writers)}")
        with atomic(path) as temporary:
            writers[path.suffix](temporary)
        return path

    def write_metrics(self, rows: Iterable[Mapping[str, Any]], name: str = "metrics.json") -> Path:
        """Write metric rows to the run directory."""
        return write_metrics(self.path(name), list(rows))

    def finish(self) -> None:
        """Write the provenance stamp, ``provenance/<notebook's name>.json``."""
        seconds = time.monotonic() - self._start
        stamp = provenance(self.notebook, self.parameters, self.datasets, self._commit, seconds)
        write_json(self.path(f"provenance/{Path(self.notebook).name}.json"), stamp)


# ----------------------------------------------------------------------------------------- for the book


def format_scores(
    rows: pd.DataFrame, columns: Mapping[str, tuple[str, float, int]], name: str = "model"
) -> pd.DataFrame:
    """Format metric rows for a page: mean ± spread over seeds, and the bootstrap interval.

    Parameters
    ----------
    rows : pandas.DataFrame
        From :func:`read_metrics`, in the order to print.
    columns : mapping
        Metric name to (heading, factor, decimals).
    name : str
        The column that names a row.

    Returns
    -------
    pandas.DataFrame
        Strings, indexed by `name`. A row with one seed has no spread, one without interval has none.
    """
    out = pd.DataFrame(index=pd.Index(rows[name], name=name))
    for metric, (heading, factor, decimals) in columns.items():
        cells = []
        for _, row in rows.iterrows():
            value, sd, lo, hi = (row.get(metric + suffix, np.nan) for suffix in ("", "_sd", "_lo", "_hi"))
            text = "–" if pd.isna(value) else f"{value * factor:.{decimals}f}"
            text += "" if pd.isna(sd) else f" ± {sd * factor:.{decimals}f}"
            text += "" if pd.isna(lo) else f" [{lo * factor:.{decimals}f}, {hi * factor:.{decimals}f}]"
            cells.append(text)
        out[heading] = cells
    return out


def anchors(study: str) -> pd.DataFrame:
    """Numbers that other works printed for `study`, from ``data/anchors.toml``, one line per claim."""
    path = project_root() / "data" / "anchors.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    if study not in content:
        raise KeyError(f"{path}: nothing for study {study!r}; there is {sorted(content)}")
    return pd.DataFrame(content[study])


def glue(**numbers: float) -> None:
    """Make numbers available to the book's prose under their names, as ``{glue:text}`path::key:.2f```.

    They are glued as plain floats: a NumPy scalar would be rendered as nothing.
    """
    from myst_nb import glue as myst_glue  # the book's tools are not needed to compute

    for key, value in numbers.items():
        myst_glue(key, float(value), display=False)
