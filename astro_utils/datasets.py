"""What a dataset is: a table of ``data/registry.toml``, and how to tell whether local files are it.

A dataset has a licence, a citation and, for each file, the public address, the size and the SHA-256; one that
the reader has to place by hand has a layout instead. Nothing here uses the network.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from astro_utils.paths import project_root

__all__ = ["Dataset", "DatasetError", "RemoteFile", "file_sha256", "load_dataset", "load_registry"]


class DatasetError(RuntimeError):
    """A dataset is unknown, wrongly registered or cannot be had; the message says what to do."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a local file.

    Parameters
    ----------
    path : Path
        The file to read.

    Returns
    -------
    str
        64 lower-case hexadecimal digits.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True)
class RemoteFile:
    """One file of a dataset, as registered.

    Attributes
    ----------
    path : str
        Where the file lies below a data folder.
    url : str
        Its public address.
    sha256 : str
        Its SHA-256, in lower-case hexadecimal digits.
    bytes : int
        Its size.
    """

    path: str
    url: str
    sha256: str
    bytes: int

    def fault(self, local: Path) -> str:
        """Say how a local file differs from this one.

        Parameters
        ----------
        local : Path
            The file to read and compare.

        Returns
        -------
        str
            The difference, to follow the name of the file in a message; empty where there is none.
        """
        try:
            found, size = file_sha256(local), local.stat().st_size
        except OSError as error:
            return f"cannot be read ({error})"
        if (found, size) == (self.sha256, self.bytes):
            return ""
        return f"has SHA-256 {found} ({size} bytes), expected {self.sha256} ({self.bytes} bytes)"


@dataclass(frozen=True)
class Dataset:
    """One table of the registry.

    A dataset either lists its `files`, or is `on_request`: too large to fetch unasked, and without published
    checksums. The reader places it in ``<data folder or cache>/<name>/`` as `layout` says.

    Attributes
    ----------
    name, description, licence, citation : str
        The name in the registry, and what a reader has to know before using the data.
    files : tuple of RemoteFile
        The files; empty for an on-request dataset, which alone has the attributes below.
    on_request : bool
        Whether the reader has to place the dataset by hand.
    identifier : str
        The published identifier, such as a DOI.
    landing_pages : tuple of str
        The addresses of the pages from which to get it.
    size : str
        The size, in words.
    layout : tuple of pairs of str
        A path below the dataset's folder (``*`` stands for any name), and what is there.
    """

    name: str
    description: str
    licence: str
    citation: str
    files: tuple[RemoteFile, ...] = ()
    on_request: bool = False
    identifier: str = ""
    landing_pages: tuple[str, ...] = ()
    size: str = ""
    layout: tuple[tuple[str, str], ...] = ()

    def home(self, folders: Mapping[str, Path]) -> Path | None:
        """Find the folder that has the whole layout of this on-request dataset.

        Parameters
        ----------
        folders : mapping of str to Path
            The folders to look into, by the name that messages use; the cache is the last.

        Returns
        -------
        Path or None
            The dataset's own folder, which is below one of those.
        """
        homes = (folder / self.name for folder in folders.values())
        return next((home for home in homes if all(any(home.glob(path)) for path, _ in self.layout)), None)

    def placed(self, folders: Mapping[str, Path]) -> dict[str, Path]:
        """Return the files of this on-request dataset, or say where to get it and where to put it.

        Parameters
        ----------
        folders : mapping of str to Path
            As for `home`.

        Returns
        -------
        dict of str to Path
            The files by their path below the folder that was looked into.

        Raises
        ------
        DatasetError
            No folder has the whole layout.
        """
        if home := self.home(folders):
            places = {place for path, _ in self.layout for place in home.glob(path) if place.is_file()}
            return {place.relative_to(home.parent).as_posix(): place for place in sorted(places)}
        homes = [str(folder / self.name) for folder in folders.values()]
        pages = "".join(f"\n    {page}" for page in self.landing_pages)
        layout = "".join(f"\n    {path}: {holds}" for path, holds in self.layout)
        raise DatasetError(
            f"dataset '{self.name}' has to be placed by hand: it is not whole in {' or '.join(homes)}\n"
            f"  size: {self.size}; licence: {self.licence}\n"
            f"  get it ({self.identifier}) from{pages}\n"
            f"  put it into {homes[-1]} or $ASTRO_UTILS_DATA/{self.name}, so that these exist:{layout}"
        )


def _is_text(value) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_below(value) -> bool:
    return isinstance(value, str) and not {"", ".", ".."} & set(value.split("/"))


def _is_url(value) -> bool:
    return isinstance(value, str) and value.startswith(("https://", "http://"))


def _is_layout(value) -> bool:
    return isinstance(value, dict) and value != {} and all(_is_below(p) and _is_text(value[p]) for p in value)


_COMMON_KEYS = ("description", "licence", "citation")
_FETCHED_KEYS = (*_COMMON_KEYS, "files")
_ON_REQUEST_KEYS = (*_COMMON_KEYS, "on_request", "identifier", "landing_pages", "size", "layout")
_FILE_KEYS = ("path", "url", "sha256", "bytes")
_TEXT = ("a text that is not empty", _is_text)
_KINDS = {  # what a key's value must be, in words and as a test; all other keys are texts
    "files": ("one or more tables [[NAME.files]]", lambda v: isinstance(v, list) and v),
    "on_request": ("true, or no such key", lambda v: v is True),
    "landing_pages": ("one or more addresses", lambda v: isinstance(v, list) and v and all(map(_is_url, v))),
    "layout": ("a table of relative paths, each with a text", _is_layout),
    "path": ("a relative path with '/' and without '..'", _is_below),
    "url": ("an address that starts with https:// or http://", _is_url),
    "sha256": ("64 lower-case hexadecimal digits", lambda v: re.fullmatch("[0-9a-f]{64}", str(v))),
    "bytes": ("a whole number above 0", lambda v: type(v) is int and v > 0),
}


def _checked(where: str, table, keys: tuple[str, ...]) -> dict:
    """Return a copy of a TOML table that has exactly the expected keys, each with a valid value."""
    if not isinstance(table, dict):
        raise DatasetError(f"{where}: is {table!r}; expected a table")
    for key in keys:
        expected, is_valid = _KINDS.get(key, _TEXT)
        if key not in table:
            raise DatasetError(f"{where}: key '{key}' is missing; expected {expected}")
        if not is_valid(table[key]):
            raise DatasetError(f"{where}: key '{key}' is {table[key]!r}; expected {expected}")
    if unknown := sorted(table.keys() - set(keys)):
        raise DatasetError(f"{where}: unknown key '{unknown[0]}'; expected only {', '.join(keys)}")
    return dict(table)


def load_registry(path: str | Path | None = None) -> dict[str, Dataset]:
    """Read and check the registry.

    Parameters
    ----------
    path : str or Path, optional
        The file to read; by default ``data/registry.toml`` of the project.

    Returns
    -------
    dict of str to Dataset
        The datasets by name, in the order of the file.

    Raises
    ------
    DatasetError
        The file is absent or malformed; the message names the dataset, the key and what was expected.
    FileNotFoundError
        No path is given, and no project is at or above the working folder.
    """
    path = Path(path) if path else project_root() / "data" / "registry.toml"
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither TOML nor UTF-8
        raise DatasetError(f"{path}: cannot be read as TOML ({error})") from error
    datasets, owners = {}, {}
    for name, raw in tables.items():
        where = f"{path.name}, dataset '{name}'"
        if isinstance(raw, dict) and "on_request" in raw:
            table = _checked(where, raw, _ON_REQUEST_KEYS)
            table["landing_pages"] = tuple(table["landing_pages"])
            table["layout"] = tuple(table["layout"].items())
        else:
            table = _checked(where, raw, _FETCHED_KEYS)
            rows = enumerate(table["files"], 1)
            rows = [_checked(f"{where}, file {i}", row, _FILE_KEYS) for i, row in rows]
            table["files"] = tuple(RemoteFile(**row) for row in rows)
        datasets[name] = Dataset(name=name, **table)
        for file in datasets[name].files:
            if file.path in owners:
                raise DatasetError(
                    f"{where}: path '{file.path}' is also in '{owners[file.path]}'; expected once"
                )
            owners[file.path] = name
    return datasets


def load_dataset(name: str) -> Dataset:
    """Return one dataset of the project's registry; raise as `load_registry`, also for an unknown name.

    Parameters
    ----------
    name : str
        The dataset's name in the registry.

    Returns
    -------
    Dataset
        The dataset.
    """
    datasets = load_registry()
    if name not in datasets:
        known = difflib.get_close_matches(name, datasets) or datasets
        raise DatasetError(f"no dataset is called '{name}'; known: {', '.join(known)}")
    return datasets[name]
