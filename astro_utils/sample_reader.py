"""Reading of samples: only the rows that are asked for, however large the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import pandas as pd

from astro_utils.sample_blocks import read_rows
from astro_utils.sample_check import require_valid
from astro_utils.sample_format import Block, Column, SampleError, Spectra, read_info

__all__ = ["Rows", "Sample", "open_sample"]

#: What selects rows: all of them (None), a slice, row numbers in any order, or a mask.
Rows = slice | Sequence[int] | np.ndarray | pd.Series | None


class Sample:
    """A sample that is open for reading, by :func:`open_sample`; only the rows that are asked for are read.

    Attributes
    ----------
    path : pathlib.Path
    file : h5py.File
    info : SampleInfo
    columns : mapping of str to Column
        In the order in which they were written.
    wavelength : numpy.ndarray or None
        (L,) vacuum Angstrom; None when there are no spectra.
    """

    def __init__(self, path: Path, file: h5py.File):
        self.path, self.file = path, file
        self.info = read_info(file)
        self.columns = MappingProxyType(
            {
                name: Column(dataset.attrs["unit"], dataset.attrs["description"])
                for name, dataset in file["catalogue"].items()
            }
        )
        self.wavelength = file["spectra/wavelength"][()] if "spectra" in file else None

    def __len__(self) -> int:
        return len(self.file["catalogue/object_id"])

    def catalogue(self, names: Sequence[str] | None = None, rows: Rows = None) -> pd.DataFrame:
        """Read columns of the catalogue, all by default; the index counts from 0.

        Raises
        ------
        SampleError
            When there is no such column, or `rows` select none of this sample's rows.
        """
        names = self._known("column", names, tuple(self.columns))
        rows = self.row_numbers(rows)
        values = {name: _gather(self.file["catalogue"][name], rows) for name in names}
        # Without the dtype, strings of no rows would become another kind of column than those of some rows.
        return pd.DataFrame(
            {k: pd.Series(v, dtype=str if v.dtype == object else None) for k, v in values.items()}
        )

    def images(self, rows: Rows = None, bands: Sequence[str] | None = None) -> np.ndarray:
        """Read images, (rows, bands, ny, nx) float32 nanomaggies; `bands` in the order asked for."""
        if "images" not in self.file:
            raise SampleError(f"{self.path}: the sample has no images")
        names = self._known("band", bands, self.info.bands)
        chosen = None if bands is None else [self.info.bands.index(name) for name in names]
        return _gather(self.file["images"], self.row_numbers(rows), chosen)

    def spectra(self, rows: Rows = None) -> Spectra:
        """Read spectra and their wavelengths."""
        if self.wavelength is None:
            raise SampleError(f"{self.path}: the sample has no spectra")
        rows = self.row_numbers(rows)
        flux, ivar = (_gather(self.file["spectra"][name], rows) for name in ("flux", "ivar"))
        return Spectra(self.wavelength, flux, ivar)

    def block(self, rows: Rows = None) -> Block:
        """Read everything about some objects."""
        return Block(
            catalogue=self.catalogue(rows=rows),
            columns=self.columns,
            images=self.images(rows) if "images" in self.file else None,
            spectra=self.spectra(rows) if self.wavelength is not None else None,
        )

    def blocks(self, size: int = 1024) -> Iterator[Block]:
        """Read all objects, `size` at a time."""
        if size < 1:
            raise SampleError(f"a block of {size} objects; expected at least 1")
        for start in range(0, len(self), size):
            yield self.block(slice(start, start + size))

    def _known(self, kind: str, names: Sequence[str] | None, known: tuple[str, ...]) -> Sequence[str]:
        names = known if names is None else [names] if isinstance(names, str) else list(names)
        if unknown := [name for name in names if name not in known]:
            raise SampleError(f"{self.path}: no {kind} {unknown[0]!r}; the sample has {', '.join(known)}")
        return names

    def row_numbers(self, rows: Rows) -> slice | np.ndarray:
        """Check what selects rows, and return a slice of consecutive rows or row numbers."""
        n = len(self)
        if rows is None or isinstance(rows, slice):
            start, stop, step = (rows or slice(None)).indices(n)
            return slice(start, max(start, stop)) if step == 1 else np.arange(start, stop, step)
        rows = np.asarray(rows)
        if rows.dtype == bool and rows.shape == (n,):
            return np.flatnonzero(rows)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise SampleError(
                f"{self.path}: rows are {rows.dtype} of shape {rows.shape}; expected a slice, row numbers or "
                f"a mask of {n}"
            )
        if rows.size and not 0 <= rows.min() <= rows.max() < n:
            raise SampleError(f"{self.path}: rows {rows.min()} to {rows.max()} of a sample of {n} rows")
        return rows.astype(int)


def _gather(dataset: h5py.Dataset, rows: slice | np.ndarray, second: list[int] | None = None) -> np.ndarray:
    """Read rows, and of their second axis the chosen part, each chunk of the file once."""
    if isinstance(rows, slice):
        if second is None:
            return read_rows(dataset, rows.start, rows.stop)
        rows = np.arange(rows.start, rows.stop)
    empty = read_rows(dataset, 0, 0)
    empty = empty if second is None else empty[:, second]
    out = np.empty((len(rows), *empty.shape[1:]), empty.dtype)
    order = np.argsort(rows, kind="stable")
    ends = np.flatnonzero(np.diff(rows[order] // dataset.chunks[0])) + 1
    for places in np.split(order, ends) if len(rows) else []:
        inside = rows[places]
        part = read_rows(dataset, inside[0], inside[-1] + 1)[inside - inside[0]]
        out[places] = part if second is None else part[:, second]
    return out


@contextmanager
def open_sample(path: str | Path) -> Iterator[Sample]:
    """Open a sample for reading.

    Raises
    ------
    SampleError
        With the file's name and all that :func:`validate` finds in its quick check.
    """
    require_valid(path)
    with h5py.File(path) as file:
        yield Sample(Path(path), file)
