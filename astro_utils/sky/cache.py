"""Arrays that take seconds to make and follow from code and packages alone: made once, then read.

The name of a cached file holds a hash of the code that made it and of the versions of the packages that it
read, so a change of either makes it anew, and no file is ever stale.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np

from astro_utils.paths import project_root
from astro_utils.results import atomic

__all__ = ["cache_key", "cached"]


def cache_key(sources: Sequence[ModuleType | str | Path], packages: Sequence[str] = ()) -> str:
    """Hash code and package versions.

    Parameters
    ----------
    sources : sequence of module, str or Path
        Modules, or files, on whose content the arrays depend.
    packages : sequence of str
        Installed distributions on whose version they depend, such as ``speclite``.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    FileNotFoundError
        When a source file is not there.
    importlib.metadata.PackageNotFoundError
        When a package is not installed.
    """
    digest = hashlib.sha256()
    for source in sources:
        path = Path(source.__file__ if isinstance(source, ModuleType) else source)
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    for package in packages:
        digest.update(f"{package} {version(package)}\n".encode())
    return digest.hexdigest()[:16]


def cached(
    name: str,
    sources: Sequence[ModuleType | str | Path],
    make: Callable[[], Mapping[str, np.ndarray]],
    packages: Sequence[str] = (),
    folder: str | Path | None = None,
) -> dict[str, np.ndarray]:
    """Return what `make` returns, from a file if an equal call has made it before.

    Parameters
    ----------
    name : str
        Name of the file, without suffix: letters, digits, ``_``, ``-``.
    sources, packages
        What the arrays depend on; see :func:`cache_key`.
    make : callable
        Returns arrays by name; numbers, truth values or strings of fixed length, not Python objects.
    folder : str or Path, optional
        Where the file goes; by default ``data/cache/sky`` of the project.

    Returns
    -------
    dict of str to numpy.ndarray

    Raises
    ------
    ValueError
        When `name` is no plain file name, or `make` returns an array of Python objects, which it names.

    Notes
    -----
    A file that cannot be read is made again. Files of the same name with other keys are removed.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"{name!r} cannot name a cached file; expected letters, digits, _ and - only")
    folder = Path(folder) if folder else project_root() / "data" / "cache" / "sky"
    path = folder / f"{name}-{cache_key(sources, packages)}.npz"
    if path.is_file():
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                return {key: content[key] for key in content.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            pass  # damaged by something else than this module, which writes whole files only
    arrays = {key: np.asarray(array) for key, array in make().items()}
    for key, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name}: array {key!r} holds Python objects; expected numbers or strings")
    with atomic(path) as temporary:
        np.savez(temporary, **arrays)
    for other in folder.glob(f"{name}-*.npz"):
        if other != path and re.fullmatch(rf"{name}-[0-9a-f]{{16}}\.npz", other.name):
            other.unlink(missing_ok=True)
    return arrays
