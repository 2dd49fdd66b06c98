"""Named datasets: from a dataset's name to verified files on this machine.

``data/registry.toml`` lists every dataset with its licence, its citation and, for each file, the public
address, the size and the SHA-256. A file is looked for in the folder that the environment variable
``ASTRO_UTILS_DATA`` names (a relative name counts from the project's root), then in the cache
(``data/cache``), then at its address. Only a file with the registered SHA-256 is ever handed out.

Run ``python -m astro_utils.registry list``, ``fetch NAME...`` or ``verify [NAME...]``.
"""

import argparse
import contextlib
import difflib
import glob
import hashlib
import os
import re
import sys
import time
import tomllib
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

from astro_utils.paths import project_root

__all__ = [
    "Dataset",
    "DatasetError",
    "RemoteFile",
    "available",
    "checksums",
    "fetch",
    "load_registry",
    "locate",
]

TIMEOUT = 30.0  # seconds without an answer or a byte
ATTEMPTS = 3
RETRY_WAIT = 0.5  # seconds, times the number of attempts made
STALE_AFTER = 600.0  # seconds without a write: far above TIMEOUT, so no running download owns the file


class DatasetError(RuntimeError):
    """A dataset is unknown, wrongly registered or cannot be had; the message says what to do."""


@dataclass(frozen=True)
class RemoteFile:
    """One file: where it lies below a data folder, its address, its SHA-256 and its size in bytes."""

    path: str
    url: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Dataset:
    """One table of the registry.

    A dataset either lists its ``files``, or is ``on_request``: too large to fetch unasked, and without
    published checksums. The reader places it in ``<data folder or cache>/<name>/`` as ``layout`` says: pairs
    of a path (``*`` stands for any name) and what is there.
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


def _is_text(value) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_below(value) -> bool:
    return isinstance(value, str) and not {"", ".", ".."} & set(value.split("/"))


def _is_url(value) -> bool:
    return isinstance(value, str) and value.startswith(("https://", "http://"))


def _is_layout(value) -> bool:
    return isinstance(value, dict) and value != {} and all(_is_below(p) and _is_text(value[p]) for p in value)


COMMON_KEYS = ("description", "licence", "citation")
FETCHED_KEYS = (*COMMON_KEYS, "files")
ON_REQUEST_KEYS = (*COMMON_KEYS, "on_request", "identifier", "landing_pages", "size", "layout")
FILE_KEYS = ("path", "url", "sha256", "bytes")
TEXT = ("a text that is not empty", _is_text)
KINDS = {  # what a key's value must be, in words and as a test; all other keys are texts
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
        expected, is_valid = KINDS.get(key, TEXT)
        if key not in table:
            raise DatasetError(f"{where}: key '{key}' is missing; expected {expected}")
        if not is_valid(table[key]):
            raise DatasetError(f"{where}: key '{key}' is {table[key]!r}; expected {expected}")
    if unknown := sorted(table.keys() - set(keys)):
        raise DatasetError(f"{where}: unknown key '{unknown[0]}'; expected only {', '.join(keys)}")
    return dict(table)


def load_registry(path: str | Path | None = None) -> dict[str, Dataset]:
    """Read and check the registry: by default ``data/registry.toml`` of the project.

    Returns
    -------
    dict of str to Dataset
        The datasets by name, in the order of the file.

    Raises
    ------
    DatasetError
        The file is absent or malformed; the message names the dataset, the key and what was expected.
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
            table = _checked(where, raw, ON_REQUEST_KEYS)
            table["landing_pages"] = tuple(table["landing_pages"])
            table["layout"] = tuple(table["layout"].items())
        else:
            table = _checked(where, raw, FETCHED_KEYS)
            rows = [_checked(f"{where}, file {i}", row, FILE_KEYS) for i, row in enumerate(table["files"], 1)]
            table["files"] = tuple(RemoteFile(**row) for row in rows)
        datasets[name] = Dataset(name=name, **table)
        for file in datasets[name].files:
            if file.path in owners:
                raise DatasetError(
                    f"{where}: path '{file.path}' is also in '{owners[file.path]}'; expected once"
                )
            owners[file.path] = name
    return datasets


def _dataset(name: str) -> Dataset:
    datasets = load_registry()
    if name not in datasets:
        known = difflib.get_close_matches(name, datasets) or datasets
        raise DatasetError(f"no dataset is called '{name}'; known: {', '.join(known)}")
    return datasets[name]


def _folders(cache: str | Path | None) -> dict[str, Path]:
    """Return the folders that may hold a file, by the name that messages use, in the order of the search."""
    root, folders = project_root(), {}
    if named := os.environ.get("ASTRO_UTILS_DATA"):
        folders["data folder"] = root / Path(named).expanduser()  # an absolute name replaces the root
    return folders | {"cache": Path(cache) if cache else root / "data" / "cache"}


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fault(local: Path, file: RemoteFile) -> str:
    """Say how a local file differs from the registered one; empty where it is the same."""
    try:
        found, size = _sha256(local), local.stat().st_size
    except OSError as error:
        return f"cannot be read ({error})"
    if (found, size) == (file.sha256, file.bytes):
        return ""
    return f"has SHA-256 {found} ({size} bytes), expected {file.sha256} ({file.bytes} bytes)"


def _copies(file: RemoteFile, folders: dict[str, Path]) -> dict[str, Path]:
    places = {label: folder / file.path for label, folder in folders.items()}
    return {label: place for label, place in places.items() if place.is_file()}


def _search(file: RemoteFile, folders: dict[str, Path]) -> tuple[Path | None, list[str]]:
    """Return the first right local copy of a file, if any, and what is wrong with those before it."""
    faults = []
    for label, copy in _copies(file, folders).items():
        fault = _fault(copy, file)
        if not fault:
            return copy, faults
        faults.append(f"{copy} ({label}) is ignored: it {fault}")
    return None, faults


class _ProgressLine:
    """A progress bar as pooch wants it, on one line of the terminal."""

    def __init__(self, file: RemoteFile):
        self.file, self.total, self.done = file, file.bytes, 0

    def update(self, step: int) -> None:
        self.done = min(self.done + step, self.file.bytes)  # pooch adds whole chunks, also for the last one
        line = f"\r{self.done / 1e6:9.2f} of {self.file.bytes / 1e6:.2f} MB  {self.file.path}"
        print(line, end="", file=sys.stderr, flush=True)

    def reset(self) -> None:
        """Do nothing: pooch only ever resets a bar to fill it."""

    def close(self) -> None:
        """Do nothing: pooch closes no bar of a failed download, so `_transfer` ends the line."""


def _keep_as_stored(response, **_) -> None:
    """Stop requests from unpacking a .gz file that a server announces as a content encoding."""
    response.raw.headers.pop("Content-Encoding", None)


def _transfer(file: RemoteFile, part: Path, progress: bool) -> tuple[str, bool]:
    """Download into ``part`` once; return what went wrong, if anything, and whether to try again."""
    import pooch  # here, so that `list` starts fast
    import requests

    bar = _ProgressLine(file) if progress and sys.stderr.isatty() else False
    options = {"headers": {"Accept-Encoding": "identity"}, "hooks": {"response": _keep_as_stored}}
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**13, timeout=TIMEOUT, **options)
    problem = ""
    try:
        downloader(file.url, str(part), None)
    except requests.HTTPError as error:
        status = error.response.status_code
        return f"the server answered {status} {error.response.reason}", status >= 500 or status == 429
    except requests.RequestException as error:
        reason = (
            getattr(error.args[0], "reason", error) if error.args else error
        )  # without urllib3's wrapping
        problem = f"the server does not answer ({reason})"
    finally:
        if bar:
            print(file=sys.stderr)
    received = part.stat().st_size
    if received < file.bytes and (received > 0 or not problem):
        return f"the download was cut off: got {received} of {file.bytes} bytes", True
    if problem:
        return problem, True
    fault = _fault(part, file)
    return fault and f"wrong checksum: what came {fault}", False


def _download(dataset: str, file: RemoteFile, cache: Path, progress: bool) -> Path:
    """Fetch one file into the cache: under a temporary name first, so that the final name is always right."""
    target = cache / file.path
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    remedy = f"try again later, or put the file there by hand: {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
            with contextlib.suppress(FileNotFoundError):  # another process may clean up, too
                if time.time() - stale.stat().st_mtime > STALE_AFTER:
                    stale.unlink()
        if target.is_file():
            if not _fault(target, file):
                return target  # another process has fetched it in the meantime
            target.unlink()
        for attempt in range(1, ATTEMPTS + 1):
            problem, again = _transfer(file, part, progress)
            if not problem:
                os.replace(part, target)
                return target
            if not again or attempt == ATTEMPTS:
                break
            time.sleep(RETRY_WAIT * attempt)
    except OSError as error:
        problem = f"cannot write into {target.parent} ({error})"
        remedy = "name another cache folder, or point ASTRO_UTILS_DATA to a folder that has the file"
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is left
            part.unlink(missing_ok=True)
    message = f"dataset '{dataset}', file {file.path}: {problem}"
    raise DatasetError(f"{message}\n  address: {file.url}\n  remedy: {remedy}")


def _obtain(dataset: str, file: RemoteFile, folders: dict, download: bool, progress: bool) -> Path:
    local, faults = _search(file, folders)
    for fault in faults:
        warnings.warn(f"dataset '{dataset}': {fault}", stacklevel=3)
    if local:
        return local
    if download:
        return _download(dataset, file, folders["cache"], progress)
    message = f"dataset '{dataset}', file {file.path}: not in {' or '.join(map(str, folders.values()))}"
    raise DatasetError(f"{message}\n  remedy: python -m astro_utils.registry fetch {dataset}")


def _home(dataset: Dataset, folders: dict[str, Path]) -> Path | None:
    """Return the folder that has the whole layout of an on-request dataset."""
    homes = (folder / dataset.name for folder in folders.values())
    return next((home for home in homes if all(any(home.glob(path)) for path, _ in dataset.layout)), None)


def _placed(dataset: Dataset, folders: dict[str, Path]) -> dict[str, Path]:
    """Return the files of an on-request dataset, or say where to get it and where to put it."""
    if home := _home(dataset, folders):
        places = {place for path, _ in dataset.layout for place in home.glob(path) if place.is_file()}
        return {place.relative_to(home.parent).as_posix(): place for place in sorted(places)}
    homes = [str(folder / dataset.name) for folder in folders.values()]
    pages = "".join(f"\n    {page}" for page in dataset.landing_pages)
    layout = "".join(f"\n    {path}: {holds}" for path, holds in dataset.layout)
    raise DatasetError(
        f"dataset '{dataset.name}' has to be placed by hand: it is not whole in {' or '.join(homes)}\n"
        f"  size: {dataset.size}; licence: {dataset.licence}\n"
        f"  get it ({dataset.identifier}) from{pages}\n"
        f"  put it into {homes[-1]} or $ASTRO_UTILS_DATA/{dataset.name}, so that these exist:{layout}"
    )


def fetch(
    name: str, *, cache: str | Path | None = None, download: bool = True, progress: bool = False
) -> dict[str, Path]:
    """Return the verified local files of a dataset, downloading what is not here.

    Parameters
    ----------
    name : str
        The dataset's name in the registry.
    cache : str or Path, optional
        The folder to download into; by default ``data/cache`` of the project.
    download : bool
        False: never use the network.
    progress : bool
        Show the progress of each download on stderr.

    Returns
    -------
    dict of str to Path
        The local files by their path below the data folder. Those of an on-request dataset are not verified.

    Raises
    ------
    DatasetError
        The dataset is unknown, a file cannot be had, or the dataset has to be placed by hand.

    Warns
    -----
    UserWarning
        A local file has a wrong checksum; it is ignored.
    """
    dataset, folders = _dataset(name), _folders(cache)
    if dataset.on_request:
        return _placed(dataset, folders)
    return {file.path: _obtain(name, file, folders, download, progress) for file in dataset.files}


def locate(filename: str, *, cache: str | Path | None = None, download: bool = True) -> Path:
    """Return one verified local file by its registered path, such as ``margnet/dnnx_sg_exp3.npy``.

    The other parameters, the errors and the warning are those of `fetch`.
    """
    datasets, folders = load_registry(), _folders(cache)
    for dataset in datasets.values():
        for file in dataset.files:
            if file.path == filename:
                return _obtain(dataset.name, file, folders, download, progress=False)
        if dataset.on_request and filename.startswith(f"{dataset.name}/"):
            placed = _placed(dataset, folders)
            if filename in placed:
                return placed[filename]
    close = difflib.get_close_matches(filename, [file.path for d in datasets.values() for file in d.files])
    raise DatasetError(f"no dataset has a file '{filename}'; similar: {', '.join(close) or 'none'}")


def available(name: str, *, cache: str | Path | None = None) -> bool:
    """Tell whether all files of a dataset are here and right, without network or warning."""
    dataset, folders = _dataset(name), _folders(cache)
    if dataset.on_request:
        return _home(dataset, folders) is not None
    return all(_search(file, folders)[0] for file in dataset.files)


def checksums(name: str, *, cache: str | Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file of a dataset, for provenance.

    They are the registered ones, which `fetch` enforces. An on-request dataset has none, so its local files
    are read and hashed.
    """
    dataset = _dataset(name)
    if dataset.on_request:
        return {path: _sha256(place) for path, place in _placed(dataset, _folders(cache)).items()}
    return {file.path: file.sha256 for file in dataset.files}


def _whereabouts(dataset: Dataset, folders: dict[str, Path]) -> str:
    """Say where the files of a dataset are, by name and size alone."""
    if dataset.on_request:
        home = _home(dataset, folders)
        labels = [label for label, folder in folders.items() if folder / dataset.name == home]
        return labels[0] if labels else "on request"
    found = set()
    for file in dataset.files:
        copies = _copies(file, folders).items()
        found.add(next((label for label, copy in copies if copy.stat().st_size == file.bytes), "not here"))
    return " + ".join(label for label in (*folders, "not here") if label in found)


def _list(datasets: dict[str, Dataset], folders: dict[str, Path]) -> None:
    row = "{:<18} {:>5} {:>8}  {:<44}  {}".format
    print(row("dataset", "files", "MB", "licence", "where"))
    for dataset in datasets.values():
        size = f"{sum(file.bytes for file in dataset.files) / 1e6:.1f}" if dataset.files else "-"
        count = len(dataset.files) or "-"
        print(row(dataset.name, count, size, dataset.licence, _whereabouts(dataset, folders)))
    print("\n" + "\n".join(f"{label}: {folder}" for label, folder in folders.items()))
    print("Found by name and size; `verify` compares the checksums.")


def _verify(dataset: Dataset, folders: dict[str, Path], must_be_here: bool) -> bool:
    """Print a line for each local copy of each file; return whether all is well."""
    if dataset.on_request:
        home = _home(dataset, folders)
        state = f"layout complete in {home}" if home else f"{dataset.name}: absent, or not whole"
        print(f"on request {state} (no checksum is published, so contents are not checked)")
        return home is not None or not must_be_here
    well = True
    for file in dataset.files:
        copies = _copies(file, folders).values()
        faults = [_fault(copy, file) for copy in copies]
        for copy, fault in zip(copies, faults, strict=True):
            print(f"WRONG      {copy}: {fault}" if fault else f"ok         {copy}")
        if not copies:
            print(f"not here   {file.path}")
        well = well and not any(faults) and (bool(copies) or not must_be_here)
    return well


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m astro_utils.registry", description="Named datasets.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="show every dataset, and where it is")
    commands.add_parser("fetch", help="download and verify").add_argument("names", nargs="+", metavar="NAME")
    verify = commands.add_parser("verify", help="read every local file and compare its SHA-256")
    verify.add_argument("names", nargs="*", metavar="NAME", help="by default all; a named one must be here")
    for command in commands.choices.values():
        command.add_argument("--cache", metavar="FOLDER", help="instead of data/cache")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 where all went well, 1 after an error, 130 after Ctrl-C."""
    chosen, well = _parse(argv), True
    try:
        datasets, folders = load_registry(), _folders(chosen.cache)
        if chosen.command == "list":
            _list(datasets, folders)
            return 0
        for name in chosen.names or datasets:
            try:
                if chosen.command == "verify":
                    well = _verify(_dataset(name), folders, must_be_here=name in chosen.names) and well
                else:
                    for place in fetch(name, cache=chosen.cache, progress=True).values():
                        print(f"ok         {place}")
            except DatasetError as error:  # the other names are still done
                print(f"error: {error}", file=sys.stderr)
                well = False
    except (DatasetError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; no partial file is left", file=sys.stderr)
        return 130
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
