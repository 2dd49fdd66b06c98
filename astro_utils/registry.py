"""Named datasets: from a dataset's name to verified files on this machine.

``data/registry.toml`` lists every dataset with its licence, its citation and, for each file, the public
address, the size and the SHA-256. A file is looked for in the folder that the environment variable
``ASTRO_UTILS_DATA`` names (a relative name counts from the project's root), then in the cache
(``data/cache``), then at its address. Only a file with the registered SHA-256 is ever handed out.

Run ``python -m astro_utils.registry list``, ``fetch NAME...`` or ``verify [NAME...]``.
"""

import argparse
import difflib
import os
import sys
import warnings
from pathlib import Path

from astro_utils.datasets import Dataset, DatasetError, RemoteFile, file_sha256, load_dataset, load_registry
from astro_utils.download import download_file
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


def _folders(cache: str | Path | None) -> dict[str, Path]:
    """Return the folders that may hold a file, by the name that messages use, in the order of the search."""
    root, folders = project_root(), {}
    if named := os.environ.get("ASTRO_UTILS_DATA"):
        folders["data folder"] = root / Path(named).expanduser()  # an absolute name replaces the root
    return folders | {"cache": Path(cache) if cache else root / "data" / "cache"}


def _copies(file: RemoteFile, folders: dict[str, Path]) -> dict[str, Path]:
    places = {label: folder / file.path for label, folder in folders.items()}
    return {label: place for label, place in places.items() if place.is_file()}


def _search(file: RemoteFile, folders: dict[str, Path]) -> tuple[Path | None, list[str]]:
    """Return the first right local copy of a file, if any, and what is wrong with those before it."""
    faults = []
    for label, copy in _copies(file, folders).items():
        fault = file.fault(copy)
        if not fault:
            return copy, faults
        faults.append(f"{copy} ({label}) is ignored: it {fault}")
    return None, faults


def _obtain(dataset: str, file: RemoteFile, folders: dict, download: bool, progress: bool) -> Path:
    local, faults = _search(file, folders)
    for fault in faults:
        warnings.warn(f"dataset '{dataset}': {fault}", stacklevel=3)
    if local:
        return local
    if download:
        return download_file(dataset, file, folders["cache"], progress)
    message = f"dataset '{dataset}', file {file.path}: not in {' or '.join(map(str, folders.values()))}"
    raise DatasetError(f"{message}\n  remedy: python -m astro_utils.registry fetch {dataset}")


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
    dataset, folders = load_dataset(name), _folders(cache)
    if dataset.on_request:
        return dataset.placed(folders)
    return {file.path: _obtain(name, file, folders, download, progress) for file in dataset.files}


def locate(filename: str, *, cache: str | Path | None = None, download: bool = True) -> Path:
    """Return one verified local file, downloading it where it is not here.

    Parameters
    ----------
    filename : str
        The registered path of the file, such as ``margnet/dnnx_sg_exp3.npy``.
    cache, download
        As for `fetch`, of which the errors and the warning are, too.

    Returns
    -------
    Path
        The local file. That of an on-request dataset is not verified.
    """
    datasets, folders = load_registry(), _folders(cache)
    for dataset in datasets.values():
        for file in dataset.files:
            if file.path == filename:
                return _obtain(dataset.name, file, folders, download, progress=False)
        if dataset.on_request and filename.startswith(f"{dataset.name}/"):
            placed = dataset.placed(folders)
            if filename in placed:
                return placed[filename]
    close = difflib.get_close_matches(filename, [file.path for d in datasets.values() for file in d.files])
    raise DatasetError(f"no dataset has a file '{filename}'; similar: {', '.join(close) or 'none'}")


def available(name: str, *, cache: str | Path | None = None) -> bool:
    """Tell whether all files of a dataset are here and right, without network or warning.

    Parameters
    ----------
    name, cache
        As for `fetch`.

    Returns
    -------
    bool
        True where `fetch` would need no download. An on-request dataset has to have its whole layout.

    Raises
    ------
    DatasetError
        The dataset is unknown.
    """
    dataset, folders = load_dataset(name), _folders(cache)
    if dataset.on_request:
        return dataset.home(folders) is not None
    return all(_search(file, folders)[0] for file in dataset.files)


def checksums(name: str, *, cache: str | Path | None = None) -> dict[str, str]:
    """Return the SHA-256 of each file of a dataset, for provenance.

    They are the registered ones, which `fetch` enforces. An on-request dataset has none, so its local files
    are read and hashed.

    Parameters
    ----------
    name, cache
        As for `fetch`.

    Returns
    -------
    dict of str to str
        The sums in hexadecimal digits, by the paths that `fetch` returns.

    Raises
    ------
    DatasetError
        The dataset is unknown, or has to be placed by hand.
    """
    dataset = load_dataset(name)
    if dataset.on_request:
        return {path: file_sha256(place) for path, place in dataset.placed(_folders(cache)).items()}
    return {file.path: file.sha256 for file in dataset.files}


def _whereabouts(dataset: Dataset, folders: dict[str, Path]) -> str:
    """Say where the files of a dataset are, by name and size alone."""
    if dataset.on_request:
        home = dataset.home(folders)
        return next(
            (label for label, folder in folders.items() if folder / dataset.name == home), "on request"
        )
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
        home = dataset.home(folders)
        state = f"layout complete in {home}" if home else f"{dataset.name}: absent, or not whole"
        print(f"on request {state} (no checksum is published, so contents are not checked)")
        return home is not None or not must_be_here
    well = True
    for file in dataset.files:
        copies = _copies(file, folders).values()
        faults = [file.fault(copy) for copy in copies]
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


def _run(chosen: argparse.Namespace) -> bool:
    """Do what the command line asks; return whether all went well."""
    datasets, folders, well = load_registry(), _folders(chosen.cache), True
    if chosen.command == "list":
        _list(datasets, folders)
        return True
    for name in chosen.names or datasets:
        try:
            if chosen.command == "verify":
                well = _verify(load_dataset(name), folders, must_be_here=name in chosen.names) and well
            else:
                for place in fetch(name, cache=chosen.cache, progress=True).values():
                    print(f"ok         {place}")
        except DatasetError as error:  # the other names are still done
            print(f"error: {error}", file=sys.stderr)
            well = False
    return well


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        The arguments; by default those of the process.

    Returns
    -------
    int
        0 where all went well, 1 after an error, 130 after Ctrl-C, 141 where the reader of the output has left
        (as in ``list | head -1``).
    """
    try:
        try:
            return 0 if _run(_parse(argv)) else 1
        except (DatasetError, FileNotFoundError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted; no partial file is left", file=sys.stderr)
            return 130
        finally:
            print(end="", flush=True)  # a closed pipe shows here, and not when Python ends
    except BrokenPipeError:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            try:
                stream.flush()
            except BrokenPipeError:  # what it still holds goes nowhere, so that Python can end quietly
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
