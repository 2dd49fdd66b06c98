"""How blocks of objects become the datasets of a sample: checked, and in whole chunks.

with sample_file("sample.h5", info) as sample:
    for block in blocks:
        sample.append(block)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from astro_utils.results import atomic
from astro_utils.sample_format import (
    IMAGE_UNIT,
    REQUIRED,
    SPECTRA_UNITS,
    Block,
    SampleError,
    SampleInfo,
    Spectra,
    image_problem,
    unit_problem,
    write_info,
)

__all__ = ["Appender", "read_rows", "sample_file"]

# A chunk of images is about a megabyte; a row of the catalogue is so small that a chunk takes more of them.
_CHUNK, _CATALOGUE_CHUNK = 64, 4096

# Of gzip and LZF on noise images of 5 x 32 x 32 pixels, LZF writes 2.5 times as fast. But even with gzip
# writing takes half as long as simulating the images. Gzip saves twice as much space, is read faster and by
# every HDF5 tool, and keeps a checksum of each chunk. Its bytes repeat, which the LZF that h5py brings does
# not promise: it begins with a table of whatever was in memory.
_FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "track_times": False}


# ------------------------------------------------------------------------------------------------ checks


def _column_values(name: str, series: pd.Series) -> np.ndarray:
    """Values of a column as HDF5 can hold them; strings become Python objects."""
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biuf":
        return series.to_numpy().astype(series.dtype.newbyteorder("="), copy=False)
    values = series.to_numpy(dtype=object)
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise SampleError(
                f"column {name!r} ({series.dtype}) holds {value!r} in row {row}; expected a column of float, "
                "int, bool or strings only"
            )
    return values


def _check_catalogue(block: Block) -> dict[str, np.ndarray]:
    """Values of every column, after checks of names, kinds and units."""
    names = list(block.catalogue)
    if odd := sorted(map(str, set(names) ^ set(block.columns))):
        raise SampleError(f"catalogue and columns do not describe the same: {', '.join(odd)} is in one only")
    if len(names) != len(set(names)):
        raise SampleError(f"the catalogue has columns of the same name: {names}")
    if missing := [name for name in REQUIRED if name not in names]:
        raise SampleError(f"the catalogue lacks {', '.join(missing)}")
    for name, column in block.columns.items():
        if not isinstance(name, str) or name in ("", ".") or "/" in name:
            raise SampleError(f"column {name!r} has a name that HDF5 does not allow")
        if problem := unit_problem(column.unit):
            raise SampleError(f"column {name!r}: {problem}")
    values = {name: _column_values(name, block.catalogue[name]) for name in names}
    for name, expected in REQUIRED.items():
        if not np.issubdtype(values[name].dtype, expected):
            raise SampleError(f"column {name!r} is {values[name].dtype}; expected {expected.__name__}")
    return values


def _check_images(images: np.ndarray, ids: np.ndarray, bands: tuple[str, ...]) -> None:
    if problem := image_problem(images.shape, images.dtype, bands):
        raise SampleError(problem)
    if len(images) != len(ids):
        raise SampleError(f"lengths disagree: {len(images)} images, {len(ids)} rows of the catalogue")
    bad = np.argwhere(~np.isfinite(images).all((2, 3)))
    if len(bad):
        row, band = bad[0]
        raise SampleError(
            f"row {row} of the block (object_id {ids[row]}) has pixels in band {bands[band]} that are not "
            f"finite, as have {len(bad)} images in all; set them to 0 and flag the object in a column"
        )


def _check_spectra(spectra: Spectra, ids: np.ndarray) -> None:
    length = len(spectra.wavelength)
    expected = {"wavelength": (np.float64, (length,)), "flux": (np.float32, (len(ids), length))}
    expected["ivar"] = expected["flux"]
    for name, (dtype, shape) in expected.items():
        array = getattr(spectra, name)
        if array.shape != shape or array.dtype != dtype:
            raise SampleError(
                f"{name} of the spectra is {array.dtype} of shape {array.shape}; "
                f"expected {np.dtype(dtype)} of shape {shape}"
            )
    if not np.isfinite(spectra.wavelength).all() or not (np.diff(spectra.wavelength) > 0).all():
        raise SampleError("wavelength of the spectra does not increase throughout")
    for name, good in (("flux", np.isfinite(spectra.flux)), ("ivar", spectra.ivar >= 0)):
        bad = np.flatnonzero(~(good & np.isfinite(getattr(spectra, name))).all(1))
        if len(bad):
            raise SampleError(
                f"row {bad[0]} of the block (object_id {ids[bad[0]]}) has a spectrum with {name} that is "
                f"NaN, infinite or negative, as have {len(bad)} in all; set both to 0 where not measured"
            )


# ----------------------------------------------------------------------------------------------- datasets


def _is_text(dataset: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(dataset.dtype) is not None


def read_rows(dataset: h5py.Dataset, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Read consecutive rows of a dataset; strings come as Python objects."""
    return (dataset.asstr() if _is_text(dataset) else dataset)[start:stop]


class _Rows:
    """A dataset that grows by whole chunks, so that no chunk is compressed twice."""

    def __init__(self, dataset: h5py.Dataset):
        self.dataset = dataset
        self._length = dataset.chunks[0]
        self._rest: list[np.ndarray] = []  # rows that do not fill a chunk, in one array if any

    def append(self, rows: np.ndarray) -> None:
        rows = np.concatenate([*self._rest, rows])
        whole = len(rows) - len(rows) % self._length
        self._write(rows[:whole])
        # A copy, because a view would keep the whole block in memory.
        self._rest = [rows[whole:].copy()] if whole < len(rows) else []

    def append_dataset(self, source: h5py.Dataset) -> None:
        start = 0
        alike = source.id.get_create_plist().equal(self.dataset.id.get_create_plist())
        # Strings are stored as addresses in their file, which mean nothing in another.
        if alike and not self._rest and not _is_text(source):
            start = self._copy_chunks(source)
        step = 16 * self._length
        for row in range(start, len(source), step):
            self.append(read_rows(source, row, row + step))

    def close(self) -> None:
        for rows in self._rest:
            self._write(rows)

    def _write(self, rows: np.ndarray) -> None:
        if len(rows):
            start = len(self.dataset)
            self.dataset.resize(start + len(rows), axis=0)
            self.dataset[start:] = rows

    def _copy_chunks(self, source: h5py.Dataset) -> int:
        """Append the full chunks of `source`, compressed as they are; return the number of rows."""
        start, whole = len(self.dataset), len(source) - len(source) % self._length
        zeros = (0,) * (source.ndim - 1)
        self.dataset.resize(start + whole, axis=0)
        for row in range(0, whole, self._length):
            filters, chunk = source.id.read_direct_chunk((row, *zeros))
            self.dataset.id.write_direct_chunk((start + row, *zeros), chunk, filters)
        return whole


class Appender:
    """An open sample that takes blocks, one after the other.

    Parameters
    ----------
    file : h5py.File
        Empty and open for writing.
    info : SampleInfo
        Written at once.
    """

    def __init__(self, file: h5py.File, info: SampleInfo):
        self._file, self._info = file, info
        self._rows: dict[str, _Rows] = {}
        self._layout: dict[str, str] = {}
        write_info(file, info)

    def append(self, block: Block) -> None:
        """Check a block and write it after the last one.

        Raises
        ------
        SampleError
            When the block is not as :class:`astro_utils.sample_format.Block` says or unlike the first one.
        """
        values = {f"catalogue/{name}": array for name, array in _check_catalogue(block).items()}
        ids, bands = values["catalogue/object_id"], self._info.bands
        if block.images is not None:
            _check_images(block.images, ids, bands)
            values["images"] = block.images
        elif bands:
            raise SampleError(f"the block has no images, though the sample has the bands {', '.join(bands)}")
        if block.spectra is not None:
            _check_spectra(block.spectra, ids)
            values |= {f"spectra/{name}": getattr(block.spectra, name) for name in ("flux", "ivar")}
        layout = {
            path: f"{'string' if array.dtype == object else array.dtype} {array.shape[1:] or ''}"
            for path, array in values.items()
        }
        for name, column in block.columns.items():
            layout[f"catalogue/{name}"] += f"in {column.unit!r}, {column.description!r}"
        if not self._rows:
            self._create(block, values)
            self._layout = layout
        for path in {**self._layout, **layout}:
            here, first = layout.get(path, "absent"), self._layout.get(path, "absent")
            if here != first:
                raise SampleError(f"{path} is {here} in this block, but {first} in the first one")
        if block.spectra is not None and not np.array_equal(
            block.spectra.wavelength, self._file["spectra/wavelength"][()]
        ):
            raise SampleError("the spectra of this block have another wavelength grid than the first one")
        for path, array in values.items():
            self._rows[path].append(array)

    def _create(self, block: Block, values: dict[str, np.ndarray]) -> None:
        self._file.create_group("catalogue", track_order=True)  # so that columns are read in this order
        for path, array in values.items():
            length = _CATALOGUE_CHUNK if path.startswith("catalogue/") else _CHUNK
            dataset = self._file.create_dataset(
                path,
                shape=(0, *array.shape[1:]),
                maxshape=(None, *array.shape[1:]),
                dtype=h5py.string_dtype() if array.dtype == object else array.dtype,
                chunks=(length, *array.shape[1:]),
                **_FILTERS,
            )
            self._rows[path] = _Rows(dataset)
        for name, column in block.columns.items():
            dataset = self._file["catalogue"][name]
            dataset.attrs["unit"], dataset.attrs["description"] = column.unit, column.description
        if block.images is not None:
            self._file["images"].attrs["unit"] = IMAGE_UNIT
        if block.spectra is not None:
            self._file.create_dataset("spectra/wavelength", data=block.spectra.wavelength, track_times=False)
            for name, unit in SPECTRA_UNITS.items():
                self._file["spectra"][name].attrs["unit"] = unit

    def append_file(self, source: h5py.File, none: Block) -> None:
        """Write all rows of another sample after the last ones, compressed chunks as they are where possible.

        Parameters
        ----------
        source : h5py.File
            The open sample.
        none : Block
            No rows of it, but all columns: it is compared to the first block.
        """
        self.append(none)
        for path, rows in self._rows.items():
            rows.append_dataset(source[path])

    def close(self) -> None:
        """Write the rows that did not fill a chunk."""
        if not self._rows:
            raise SampleError("no block to write")
        for rows in self._rows.values():
            rows.close()


@contextmanager
def sample_file(path: str | Path, info: SampleInfo, request: str | None = None) -> Iterator[Appender]:
    """Open a new sample for writing, which appears at `path` when the code inside succeeds.

    `request` is a digest of what the sample answers, kept as an attribute of the root.
    """
    # A range of one version: the bytes must not depend on what the newest HDF5 would write.
    with atomic(path) as temporary, h5py.File(temporary, "w", libver=("v110", "v110")) as file:
        appender = Appender(file, info)
        if request is not None:
            file.attrs["request"] = request
        yield appender
        appender.close()
