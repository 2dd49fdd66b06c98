"""What is wrong with a file that should be a sample, in plain words.

The quick check reads attributes, shapes and the grid of the spectra; the deep one reads every number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from astro_utils.sample_blocks import read_rows
from astro_utils.sample_format import (
    FORMAT,
    IMAGE_UNIT,
    REQUIRED,
    SKIES,
    SPECTRA_UNITS,
    VERSION,
    SampleError,
    image_problem,
    unit_problem,
)

__all__ = ["layout_problems", "require_valid", "validate"]

_DATA = ("images", "spectra/wavelength", "spectra/flux", "spectra/ivar")


def validate(path: str | Path, deep: bool = False) -> list[str]:
    """List what is wrong with a sample.

    Parameters
    ----------
    path : str or Path
        The file.
    deep : bool
        Whether to read every number too: pixels that are not finite, stamps of zeros, impossible inverse
        variances, positions off the sky, damaged chunks.

    Returns
    -------
    list of str
        Empty when all is well.
    """
    path = Path(path)
    if not path.is_file():
        return ["no such file"]
    if not h5py.is_hdf5(path):
        return ["not an HDF5 file"]
    try:
        with h5py.File(path) as file:
            found = layout_problems(file)
            return found if found or not deep else list(_content_problems(file))
    except (OSError, RuntimeError, KeyError) as error:  # h5py raises all three for damaged structures
        kind = "truncated" if "truncated" in str(error) else "damaged"
        return [f"{kind} HDF5 file ({error})"]


def require_valid(path: str | Path, deep: bool = False) -> None:
    """Raise SampleError with everything that :func:`validate` finds."""
    if problems := validate(path, deep):
        raise SampleError(f"{path}: " + "; ".join(problems))


# ------------------------------------------------------------------------------------------------- layout


def layout_problems(file: h5py.File) -> list[str]:
    """List what is wrong with attributes, names, dtypes and shapes of an open file."""
    name = file.attrs.get("format")
    if not isinstance(name, str) or name != FORMAT:
        return [f"not an {FORMAT}: attribute format is {name!r}; expected {FORMAT!r}"]
    version = file.attrs.get("version")
    if not isinstance(version, np.integer):
        return [f"attribute version is {version!r}; expected an integer"]
    if version > VERSION:
        return [f"version {version} is newer than {VERSION}, the newest that this astro_utils reads"]
    catalogue = file.get("catalogue")
    if not isinstance(catalogue, h5py.Group):
        return ["missing group catalogue"]
    paths = [f"catalogue/{name}" for name in catalogue] + [path for path in _DATA if path in file]
    unreadable = [path for path in paths if not _is_own_dataset(file, path)]
    if unreadable:
        return [f"{path} is not a dataset stored in this file" for path in unreadable]
    return [
        *_attribute_problems(file),
        *_catalogue_problems(catalogue),
        *_image_problems(file),
        *_spectra_problems(file),
        *_length_problems(file, paths),
    ]


def _is_own_dataset(file: h5py.File, path: str) -> bool:
    # What is linked or stored outside of the file may be a private file of the reader's.
    found = file[path]
    return isinstance(found, h5py.Dataset) and found.file == file and not (found.is_virtual or found.external)


def _attribute_problems(file: h5py.File) -> Iterator[str]:
    attributes = {name: file.attrs.get(name) for name in ("survey", "sky", "bands", "provenance", "seed")}
    yield from (
        f"missing attribute {name}" for name, value in attributes.items() if value is None and name != "seed"
    )
    survey, sky, bands, provenance, seed = attributes.values()
    if survey is not None and not (isinstance(survey, str) and survey):
        yield f"attribute survey is {survey!r}; expected a name"
    if sky is not None and not (isinstance(sky, str) and sky in SKIES):
        yield f"attribute sky is {sky!r}; expected one of {SKIES}"
    names = _bands(file)
    if bands is not None and not (
        all(isinstance(b, str) and b for b in names) and len(set(names)) == len(names)
    ):
        yield f"attribute bands is {bands!r}; expected a list of names that differ"
    if seed is not None and not isinstance(seed, np.integer):
        yield f"attribute seed is {seed!r}; expected an integer"
    if provenance is not None:
        try:
            good = isinstance(json.loads(provenance), dict)
        except (TypeError, ValueError):
            good = False
        if not good:
            yield "attribute provenance is not a JSON object"


def _bands(file: h5py.File) -> tuple[str, ...]:
    return tuple(np.ravel(file.attrs.get("bands", ())).tolist())


def _catalogue_problems(catalogue: h5py.Group) -> Iterator[str]:
    for name, expected in REQUIRED.items():
        if name not in catalogue:
            yield f"missing dataset catalogue/{name}"
        elif not np.issubdtype(catalogue[name].dtype, expected):
            yield f"catalogue/{name} is {catalogue[name].dtype}; expected {expected.__name__}"
    for name, dataset in catalogue.items():
        if dataset.dtype.kind not in "biuf" and h5py.check_string_dtype(dataset.dtype) is None:
            yield f"catalogue/{name} is {dataset.dtype}; expected float, int, bool or UTF-8 string"
        if dataset.ndim != 1:
            yield f"catalogue/{name} has shape {dataset.shape}; expected one dimension"
        for attribute in ("unit", "description"):
            if not isinstance(dataset.attrs.get(attribute), str):
                yield f"catalogue/{name}: missing {attribute}"
        if isinstance(unit := dataset.attrs.get("unit"), str) and (problem := unit_problem(unit)):
            yield f"catalogue/{name}: {problem}"


def _image_problems(file: h5py.File) -> Iterator[str]:
    bands, scale = _bands(file), file.attrs.get("pixel_scale")
    if "images" not in file:
        if bands:
            yield f"missing dataset images, though bands are {', '.join(map(str, bands))}"
        return
    images = file["images"]
    if problem := image_problem(images.shape, images.dtype, tuple(map(str, bands))):
        yield problem
    if not isinstance(scale, np.floating) or not 0 < scale < np.inf:
        yield f"attribute pixel_scale is {scale!r}; expected arcsec per pixel"
    yield from _unit_problem(images, IMAGE_UNIT)


def _unit_problem(dataset: h5py.Dataset, expected: str) -> Iterator[str]:
    unit = dataset.attrs.get("unit")
    if not isinstance(unit, str):
        yield f"{dataset.name[1:]}: missing unit"
    elif unit != expected:
        yield f"{dataset.name[1:]}: unit is {unit!r}; expected {expected!r}"


def _spectra_problems(file: h5py.File) -> Iterator[str]:
    if "spectra" not in file:
        return
    missing = [name for name in SPECTRA_UNITS if f"spectra/{name}" not in file]
    if missing:
        yield from (f"missing dataset spectra/{name}" for name in missing)
        return
    wavelength = file["spectra/wavelength"]
    for name, unit in SPECTRA_UNITS.items():
        dataset, dtype = file["spectra"][name], np.float64 if name == "wavelength" else np.float32
        if dataset.dtype != dtype:
            yield f"spectra/{name} is {dataset.dtype}; expected {np.dtype(dtype)}"
        if dataset.ndim != (1 if name == "wavelength" else 2) or dataset.shape[-1:] != wavelength.shape:
            yield f"spectra/{name} has shape {dataset.shape}, the wavelengths {wavelength.shape}"
        yield from _unit_problem(dataset, unit)
    if not (np.diff(wavelength[()]) > 0).all() or not np.isfinite(wavelength[()]).all():
        yield "spectra/wavelength does not increase throughout"


def _length_problems(file: h5py.File, paths: list[str]) -> Iterator[str]:
    lengths = {
        path: file[path].shape[0] for path in paths if path != "spectra/wavelength" and file[path].shape
    }
    expected = lengths.get("catalogue/object_id")
    for path, length in lengths.items():
        if expected is not None and length != expected:
            yield f"lengths disagree: {path} has {length} rows, catalogue/object_id {expected}"


# ------------------------------------------------------------------------------------------------ content


def _content_problems(file: h5py.File) -> Iterator[str]:
    bands, names = _bands(file), [f"catalogue/{name}" for name in file["catalogue"]]
    for path in names + [path for path in ("images", "spectra/flux", "spectra/ivar") if path in file]:
        dataset, found = file[path], {}
        step = dataset.chunks[0] if dataset.chunks else 1024
        for start in range(0, len(dataset), step):
            try:
                array = read_rows(dataset, start, start + step)
            except (OSError, UnicodeDecodeError) as error:
                stop = min(start + step, len(dataset))
                yield f"{path}: rows {start} to {stop - 1} are damaged ({error})"
                continue
            for words, bad in _bad_rows(path, array, bands).items():
                found.setdefault(words, []).extend((start + np.flatnonzero(bad)).tolist())
        for words, rows in found.items():
            if rows:
                yield f"object {_listed(rows)}: {words}"


def _bad_rows(path: str, array: np.ndarray, bands: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Masks of the rows of one dataset that hold what they must not, by what that is."""
    match path:
        case "catalogue/ra":
            return {"ra is not between 0 and 360": ~((array >= 0) & (array <= 360))}
        case "catalogue/dec":
            return {"dec is not between -90 and 90": ~(np.abs(array) <= 90)}
        case "images":
            finite, zero = np.isfinite(array).all((2, 3)), (array == 0).all((2, 3))
            masks = {f"pixels that are not finite in band {b}": ~finite[:, i] for i, b in enumerate(bands)}
            return masks | {f"all pixels zero in band {b}": zero[:, i] for i, b in enumerate(bands)}
        case "spectra/flux":
            return {"spectrum has flux that is not finite": ~np.isfinite(array).all(1)}
        case "spectra/ivar":
            return {
                "spectrum has ivar that is negative or not finite": ~((array >= 0) & np.isfinite(array)).all(
                    1
                )
            }
    return {}


def _listed(rows: list[int]) -> str:
    text = ", ".join(map(str, rows[:10])) + (f", ... ({len(rows)} in all)" if len(rows) > 10 else "")
    return f"row {text}" if len(rows) == 1 else f"rows {text}"
