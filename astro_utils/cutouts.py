"""Stamps around catalogue positions on calibrated frames, and scalings to show images and to learn from them.

Pixels are cut, never resampled: the noise stays as it is in the frame, and the position of the source within
its central pixel is kept beside the stamp, band by band, because the bands of a survey are not aligned to
each other. What is wrong with a stamp is flagged, and no object is dropped.

    block = frames_to_block(frames, catalogue, size=32)
    good = block.catalogue["flags"] == 0
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from astropy.visualization import make_lupton_rgb
from astropy.wcs import WCS

from astro_utils.frames import Frame
from astro_utils.photometry import SDSS_BANDS, SDSS_SOFTENING, asinh_magnitudes, asinh_to_flux
from astro_utils.samples import Block, Column

__all__ = [
    "FLAGS_COLUMN",
    "SKY_COLUMNS",
    "Flag",
    "asinh_stretch",
    "cut_image",
    "cut_out",
    "flag_images",
    "frames_to_block",
    "luptitudes_to_nanomaggies",
    "nanomaggies_to_luptitudes",
    "rgb",
]


class Flag(enum.IntFlag):
    """What may be wrong with the stamps of one object; a bit is set if it holds in at least one band."""

    __iter__ = (
        None  # pandas would take a flag for a list of its bits, and refuse ``table["flags"] & Flag.EDGE``
    )
    EDGE = 1  #: part of the stamp is off the frame and filled with zeros
    OUTSIDE = 2  #: the whole stamp is off the frame: zeros only
    MISSING_BAND = 4  #: there is no frame in this band: zeros only
    NAN_PIXELS = 8  #: pixels that were not finite are set to zero
    ALL_ZERO = 16  #: no pixel differs from zero


#: Units and descriptions of positions, wherever objects are stored.
SKY_COLUMNS = {"ra": Column("deg", "right ascension, ICRS"), "dec": Column("deg", "declination, ICRS")}

#: How the column ``flags`` is described wherever stamps are stored.
FLAGS_COLUMN = Column(
    "", "bits, each set if it holds in any band: " + ", ".join(f"{flag.value} {flag.name}" for flag in Flag)
)


def flag_images(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Set pixels that are not finite to zero, and flag these and empty stamps.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, ny, nx).

    Returns
    -------
    images : numpy.ndarray
        (N, bands, ny, nx) float32, a copy.
    flags : numpy.ndarray
        (N,) int64, of NAN_PIXELS and ALL_ZERO.
    """
    finite = np.isfinite(images)
    images = np.where(finite, images, 0).astype(np.float32)
    flags = np.where(finite.all((1, 2, 3)), 0, Flag.NAN_PIXELS)
    return images, flags | np.where((images == 0).all((2, 3)).any(1), Flag.ALL_ZERO, 0)


def cut_out(
    frames: Mapping[str, Frame],
    ra: np.ndarray,
    dec: np.ndarray,
    size: int = 32,
    bands: Sequence[str] = SDSS_BANDS,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cut square stamps around positions, each band by its own coordinates.

    The pixel that holds the position becomes pixel ``size // 2`` of the stamp, in rows and in columns.

    Parameters
    ----------
    frames : mapping of str to Frame
        By band; a band of `bands` may be missing.
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    size : int
        Pixels along each side.
    bands : sequence of str
        The bands of the stamps, in order.

    Returns
    -------
    images : numpy.ndarray
        (N, bands, size, size) float32, nanomaggies.
    table : pandas.DataFrame
        Per band ``dx_*`` and ``dy_*``, the position relative to the centre of pixel ``size // 2``, from -0.5
        to 0.5 px, NaN where nothing is cut; ``outside_*``, the share of pixels off the frame; ``flags``, the
        bits of :class:`Flag`.

    Raises
    ------
    ValueError
        A frame is under another band's name or of another field than the others, or the positions are not two
        arrays of one length.
    """
    ra, dec = np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)
    if ra.ndim != 1 or ra.shape != dec.shape:
        raise ValueError(f"ra has shape {ra.shape} and dec {dec.shape}; expected (N,) twice")
    _check_frames(frames)
    images = np.zeros((len(ra), len(bands), size, size), dtype=np.float32)
    columns, flags = {}, np.zeros(len(ra), dtype=np.int64)
    for k, band in enumerate(bands):
        if band in frames:
            images[:, k], outside, dx, dy = cut_image(frames[band].image, frames[band].wcs, ra, dec, size)
            flags |= np.select([outside == 1, outside > 0], [Flag.OUTSIDE, Flag.EDGE], 0)
        else:
            outside, dx, dy = (np.full(len(ra), value) for value in (1.0, np.nan, np.nan))
            flags |= Flag.MISSING_BAND
        columns |= {f"dx_{band}": dx, f"dy_{band}": dy, f"outside_{band}": outside}
    images, found = flag_images(images)
    return images, pd.DataFrame(columns | {"flags": flags | found})


def _check_frames(frames: Mapping[str, Frame]) -> None:
    for band, frame in frames.items():
        if frame.band != band:
            raise ValueError(f"the frame given for band {band!r} is in {frame.band!r}")
    fields = {(frame.run, frame.camcol, frame.field) for frame in frames.values()}
    if len(fields) != 1:
        raise ValueError(f"frames of (run, camcol, field) {sorted(fields)}; expected those of one field")


def cut_image(
    image: np.ndarray, wcs: WCS, ra: np.ndarray, dec: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut one image at positions: stamps (N, size, size), share of pixels off it, ``dx`` and ``dy``."""
    x, y = wcs.all_world2pix(ra, dec, 0)
    ny, nx = image.shape
    # Far away the projection gives NaN, or pixels too distant for integers: both are off the frame.
    x, y = (np.clip(np.nan_to_num(p, nan=-1e6), -1e6, 1e6) for p in (x, y))
    column, row = (np.floor(p + 0.5).astype(int) for p in (x, y))
    columns, rows = (start[:, None] - size // 2 + np.arange(size) for start in (column, row))
    inside = ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]
    stamps = image[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]]
    outside = 1 - inside.mean((1, 2))
    dx, dy = (np.where(outside < 1, offset, np.nan) for offset in (x - column, y - row))
    return np.where(inside, stamps, 0), outside, dx, dy


def frames_to_block(
    frames: Mapping[str, Frame],
    catalogue: pd.DataFrame,
    columns: Mapping[str, Column],
    size: int = 32,
    bands: Sequence[str] = SDSS_BANDS,
) -> Block:
    """Cut the objects of a catalogue out of the frames of one field; every row gets a stamp.

    Parameters
    ----------
    frames, size, bands
        As for :func:`cut_out`.
    catalogue : pandas.DataFrame
        (N,) with at least ``object_id``, ``ra`` and ``dec`` (ICRS degrees).
    columns : mapping of str to Column
        What the columns of `catalogue` are.

    Returns
    -------
    Block
        The catalogue with ``run``, ``camcol``, ``field`` and the columns of :func:`cut_out`, and the stamps.
    """
    images, table = cut_out(frames, catalogue["ra"], catalogue["dec"], size, bands)
    frame = next(iter(frames.values()))
    place = {"run": frame.run, "camcol": frame.camcol, "field": frame.field}
    described = {name: Column("", f"{name} of the SDSS imaging camera") for name in place}
    for band in bands:
        for axis in ("x", "y"):
            described[f"d{axis}_{band}"] = Column(
                "pixel", f"source minus centre of pixel {size // 2} along {axis}"
            )
        described[f"outside_{band}"] = Column("", "share of the stamp's pixels that are off the frame")
    joined = pd.concat([catalogue.reset_index(drop=True).assign(**place), table], axis=1)
    return Block(joined, {**columns, **described, "flags": FLAGS_COLUMN}, images, None)


# ---------------------------------------------------------------------------------------------- scalings


def asinh_stretch(images: np.ndarray, softening: np.ndarray | float) -> np.ndarray:
    """Scale fluxes to arcsinh(flux / softening): linear within the noise, logarithmic above it.

    Parameters
    ----------
    images : numpy.ndarray
        (..., bands, ny, nx) nanomaggies.
    softening : numpy.ndarray or float
        (bands,) or one number, nanomaggies: about the noise of a pixel. One number for all bands keeps their
        colours comparable.

    Returns
    -------
    numpy.ndarray
        As `images`, dimensionless. ``softening * numpy.sinh(...)`` is the inverse.
    """
    return np.arcsinh(images / _per_band(softening))


def _per_band(values: np.ndarray | float) -> np.ndarray:
    values = np.asarray(values)
    return values[..., None, None] if values.ndim else values


def nanomaggies_to_luptitudes(images: np.ndarray, softening: np.ndarray = SDSS_SOFTENING) -> np.ndarray:
    """Asinh magnitudes of the flux in each pixel (Lupton, Gunn & Szalay 1999, AJ 118, 1406).

    Parameters
    ----------
    images : numpy.ndarray
        (..., bands, ny, nx) nanomaggies.
    softening : numpy.ndarray
        (bands,) b in maggies; by default that of SDSS ugriz.

    Returns
    -------
    numpy.ndarray
        As `images`, magnitudes, float64.
    """
    magnitudes, _ = asinh_magnitudes(images, np.zeros(1), _per_band(softening))
    return magnitudes


def luptitudes_to_nanomaggies(images: np.ndarray, softening: np.ndarray = SDSS_SOFTENING) -> np.ndarray:
    """Invert :func:`nanomaggies_to_luptitudes`."""
    flux, _ = asinh_to_flux(images, np.full(1, np.nan), _per_band(softening))
    return flux


def rgb(
    image: np.ndarray,
    bands: Sequence[str],
    channels: Sequence[str] = "irg",
    scale: Sequence[float] = (1.0, 1.0, 1.0),
    stretch: float = 0.5,
    q: float = 8.0,
) -> np.ndarray:
    """Colour composite in which colour does not depend on brightness (Lupton et al. 2004, PASP 116, 133).

    Parameters
    ----------
    image : numpy.ndarray
        (bands, ny, nx) nanomaggies.
    bands : sequence of str
        The bands of `image`, in order.
    channels : sequence of str
        The bands that are shown in red, green and blue.
    scale : sequence of float
        Factors for these three, to balance the colours.
    stretch : float
        Flux in nanomaggies at which the linear part ends.
    q : float
        Strength of the asinh softening.

    Returns
    -------
    numpy.ndarray
        (ny, nx, 3) uint8.

    Raises
    ------
    ValueError
        A channel is not among the bands, or the image has another number of bands.
    """
    bands = list(bands)
    if image.ndim != 3 or len(image) != len(bands):
        raise ValueError(f"image has shape {image.shape}; expected ({len(bands)}, ny, nx) for bands {bands}")
    if missing := [band for band in channels if band not in bands]:
        raise ValueError(f"no band {', '.join(missing)} in the image; it has {', '.join(bands)}")
    planes = [factor * image[bands.index(band)] for band, factor in zip(channels, scale, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):  # astropy divides by the intensity of empty pixels
        return make_lupton_rgb(*planes, minimum=0, stretch=stretch, Q=q)
