"""What a sample is: the layout of the file, and its parts in memory.

A sample is one HDF5 file. Attributes of the root say what it is (:class:`SampleInfo`); one row of every
dataset below is one object:

``/images``
    (N, bands, ny, nx) float32, nanomaggies: an AB magnitude of 22.5 is 1 nanomaggy. Optional.
``/catalogue/<column>``
    (N,) floats, integers, booleans or UTF-8 strings, with the attributes ``unit`` and ``description``.
    ``object_id`` (64-bit integers, which degraded copies of an object share), ``ra`` and ``dec`` (ICRS
    degrees) are always there.
``/spectra/flux`` and ``/spectra/ivar``
    (N, L) float32 on the one grid ``/spectra/wavelength``, (L,) float64, vacuum Angstrom. Optional.

The same objects in the same blocks make the same bytes: there are no times in the file, and the versions of
HDF5 structures are fixed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import h5py
import numpy as np
import pandas as pd

__all__ = [
    "FORMAT",
    "IMAGE_UNIT",
    "REQUIRED",
    "SKIES",
    "SPECTRA_UNITS",
    "VERSION",
    "Block",
    "Column",
    "SampleError",
    "SampleInfo",
    "Spectra",
    "image_problem",
    "read_info",
    "unit_problem",
    "write_info",
]

FORMAT, VERSION = "astro_utils sample", 1
SKIES = ("real", "simulated")
IMAGE_UNIT = "nanomaggy"
SPECTRA_UNITS = {
    "wavelength": "Angstrom",
    "flux": "1e-17 erg / (s cm2 Angstrom)",
    "ivar": "1e34 s2 cm4 Angstrom2 / erg2",
}
#: The columns of every catalogue, and what they hold.
REQUIRED = {"object_id": np.int64, "ra": np.floating, "dec": np.floating}


class SampleError(ValueError):
    """A sample, or what should become one, is not as it must be."""


@dataclass(frozen=True)
class SampleInfo:
    """What a sample says of itself.

    Attributes
    ----------
    survey : str
        Such as ``sdss``.
    sky : {"real", "simulated"}
        Where the objects come from.
    bands : tuple of str
        In the order of the images; empty when there are none.
    pixel_scale : float, optional
        Arcsec per pixel; None when there are no images.
    seed : int, optional
        Of the simulation; None for real data.
    provenance : mapping
        Anything that JSON can hold. A time in it would make every file differ from the last.

    Raises
    ------
    SampleError
        When one of them is not as described.
    """

    survey: str
    sky: str
    bands: tuple[str, ...] = ()
    pixel_scale: float | None = None
    seed: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bands", tuple(self.bands))
        if not isinstance(self.survey, str) or not self.survey:
            raise SampleError(f"survey is {self.survey!r}; expected a name")
        if self.sky not in SKIES:
            raise SampleError(f"sky is {self.sky!r}; expected one of {SKIES}")
        if len(set(self.bands)) != len(self.bands) or not all(isinstance(b, str) and b for b in self.bands):
            raise SampleError(f"bands are {self.bands}; expected names that differ")
        if bool(self.bands) != (self.pixel_scale is not None):
            raise SampleError(
                f"bands are {self.bands} and pixel_scale is {self.pixel_scale}; expected both or neither"
            )
        if self.pixel_scale is not None and not 0 < self.pixel_scale < np.inf:
            raise SampleError(f"pixel_scale is {self.pixel_scale}; expected arcsec per pixel")
        if self.seed is not None and not isinstance(self.seed, int | np.integer):
            raise SampleError(f"seed is {self.seed!r}; expected an integer or None")
        try:
            text = json.dumps(dict(self.provenance), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SampleError(f"provenance cannot be written as JSON: {error}") from error
        # As it will be read again: tuples are lists in JSON.
        object.__setattr__(self, "provenance", json.loads(text))


@dataclass(frozen=True)
class Column:
    """What a column of a catalogue is: its unit for astropy ("" where it has none) and its meaning."""

    unit: str
    description: str


@dataclass(frozen=True)
class Spectra:
    """Spectra on one grid of wavelengths.

    Attributes
    ----------
    wavelength : numpy.ndarray
        (L,) float64, vacuum Angstrom, increasing.
    flux : numpy.ndarray
        (N, L) float32, 1e-17 erg / (s cm2 Angstrom).
    ivar : numpy.ndarray
        (N, L) float32, inverse variance of `flux`; 0 where there is no measurement.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    ivar: np.ndarray


@dataclass(frozen=True)
class Block:
    """Some consecutive objects of a sample in memory.

    Attributes
    ----------
    catalogue : pandas.DataFrame
        (N,) rows; the index is ignored.
    columns : mapping of str to Column
        One for each column of `catalogue`.
    images : numpy.ndarray, optional
        (N, bands, ny, nx) float32, nanomaggies. No pixel is NaN: a missing one is 0, and flagged in a column.
    spectra : Spectra, optional
        Of the same N objects.
    """

    catalogue: pd.DataFrame
    columns: Mapping[str, Column]
    images: np.ndarray | None = None
    spectra: Spectra | None = None

    def __len__(self) -> int:
        return len(self.catalogue)


def unit_problem(unit: str) -> str | None:
    """Say what is wrong with a unit, or None."""
    try:
        u.Unit(unit)
    except (ValueError, TypeError) as error:
        return f"unit {unit!r} is not one that astropy knows ({str(error).splitlines()[0]})"
    return None


def image_problem(shape: tuple[int, ...], dtype: np.dtype, bands: tuple[str, ...]) -> str | None:
    """Say what is wrong with images of this shape and dtype, or None."""
    if len(shape) != 4:
        return f"images have shape {shape}; expected 4 dimensions (object, band, y, x)"
    if shape[1] != len(bands):
        return f"images have {shape[1]} bands, expected {len(bands)} ({', '.join(bands)})"
    if dtype != np.float32:
        return f"images are {dtype}; expected float32"
    return None


def write_info(file: h5py.File, info: SampleInfo) -> None:
    """Write the attributes of the root."""
    file.attrs["format"] = FORMAT
    file.attrs["version"] = VERSION
    file.attrs["survey"] = info.survey
    file.attrs["sky"] = info.sky
    file.attrs["bands"] = np.array(info.bands, dtype=h5py.string_dtype())
    file.attrs["provenance"] = json.dumps(info.provenance, sort_keys=True)
    if info.pixel_scale is not None:
        file.attrs["pixel_scale"] = float(info.pixel_scale)
    if info.seed is not None:
        file.attrs["seed"] = int(info.seed)


def read_info(file: h5py.File) -> SampleInfo:
    """Read the attributes of the root of a file that :mod:`astro_utils.sample_check` found valid."""
    scale, seed = file.attrs.get("pixel_scale"), file.attrs.get("seed")
    return SampleInfo(
        survey=file.attrs["survey"],
        sky=file.attrs["sky"],
        bands=tuple(file.attrs["bands"]),
        pixel_scale=None if scale is None else float(scale),
        seed=None if seed is None else int(seed),
        provenance=json.loads(file.attrs["provenance"]),
    )
