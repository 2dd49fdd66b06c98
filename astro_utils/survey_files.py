"""Stamps of real surveys, as others publish them: SDSS arrays and Legacy Survey cut-outs.

Each reader gives blocks of the project's sample format: images in nanomaggies, and a table with an
identifier, positions and flags. What upstream leaves open is decided here and recorded as provenance.

    write_sample(path, margnet_blocks(folder, "sg_exp3"), margnet_info())
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from astro_utils.catalogs import MARGNET_FEATURES, decode_sdss_objid
from astro_utils.cutouts import (
    FLAGS_COLUMN,
    SKY_COLUMNS,
    Flag,
    cut_image,
    flag_images,
    luptitudes_to_nanomaggies,
)
from astro_utils.frames import SDSS_PIXEL_SCALE, celestial_wcs, load_fits
from astro_utils.legacy import read_pickled_npy
from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import Block, Column, SampleInfo

__all__ = [
    "DL4ASTRO",
    "LEGACY_SURVEY",
    "legacysurvey_block",
    "margnet_blocks",
    "margnet_info",
    "read_dl4astro",
    "read_legacysurvey",
]

_NO_POSITION = "; upstream gives no positions: NaN"

# ------------------------------------------------------------------------------- SDSS stamps of dl4astro

#: The sample of :func:`read_dl4astro`.
DL4ASTRO = SampleInfo(
    survey="sdss",
    sky="real",
    bands=SDSS_BANDS,
    pixel_scale=SDSS_PIXEL_SCALE,
    provenance={
        "source": "test images of dl4astro (Kim & Brunner 2017, MNRAS 464, 4463), SDSS DR12",
        "assumed": "pixels are asinh magnitudes with the softening of SDSS; extinction is left as it is",
    },
)


def read_dl4astro(images: str | Path, labels: str | Path) -> Block:
    """Read the stamps of stars and galaxies that dl4astro publishes as two arrays.

    Parameters
    ----------
    images : str or Path
        (N, 5, ny, nx) asinh magnitudes in u, g, r, i, z.
    labels : str or Path
        (N,) 1 for a star, -1 for a galaxy, by spectroscopy.

    Returns
    -------
    Block
        With ``class``, STAR or GALAXY. ``object_id`` is the row, and positions are NaN: upstream has neither.

    Raises
    ------
    ValueError
        With the file's name: an array has another shape, or a label is neither 1 nor -1.
    """
    stamps, values = read_pickled_npy(images), read_pickled_npy(labels)
    if stamps.ndim != 4 or stamps.shape[1] != len(SDSS_BANDS) or stamps.dtype.kind != "f":
        raise ValueError(f"{images}: {stamps.dtype} of shape {stamps.shape}; expected floats, (N, 5, ny, nx)")
    if values.shape != stamps.shape[:1]:
        raise ValueError(f"{labels}: shape {values.shape}; expected one label per image, ({len(stamps)},)")
    if not np.isin(values, (1, -1)).all():
        wrong = values[~np.isin(values, (1, -1))][0]
        raise ValueError(f"{labels}: label {wrong} is neither 1 (star) nor -1 (galaxy)")
    flux, flags = flag_images(luptitudes_to_nanomaggies(stamps))
    catalogue = pd.DataFrame({"object_id": np.arange(len(stamps)), "ra": np.nan, "dec": np.nan})
    catalogue["class"] = np.where(values == 1, "STAR", "GALAXY")
    catalogue["flags"] = flags
    columns = {"object_id": Column("", "row in the published array"), "flags": FLAGS_COLUMN}
    columns |= {name: Column(c.unit, c.description + _NO_POSITION) for name, c in SKY_COLUMNS.items()}
    columns["class"] = Column("", "spectroscopic class: STAR or GALAXY")
    return Block(catalogue, columns, flux, None)


# ---------------------------------------------------------------------------------- MargNet's whole set

_MARGNET_UNITS = {
    "nanomaggy": lambda images: images,
    "asinh magnitude": luptitudes_to_nanomaggies,
}
_MARGNET_CLASSES = {2: ("GALAXY", "STAR"), 3: ("GALAXY", "QSO", "STAR")}
_MARGNET_COLUMNS = {
    "dered": Column("mag", "model magnitude, corrected for Galactic extinction"),
    "radius": Column("arcsec", "de Vaucouleurs radius"),
    "psffwhm": Column("arcsec", "FWHM of the PSF"),
    "extinction": Column("mag", "Galactic extinction"),
}


def margnet_info(unit: str = "nanomaggy") -> SampleInfo:
    """Describe the sample of :func:`margnet_blocks`, with the unit that is assumed for its pixels."""
    _check_unit(unit)
    provenance = {
        "source": "MargNet (Chaini et al. 2023, MNRAS 518, 3123), SDSS DR16",
        "assumed": f"pixels are in {unit}, at the pixel scale of the SDSS camera: upstream does not say",
    }
    return SampleInfo("sdss", "real", SDSS_BANDS, SDSS_PIXEL_SCALE, provenance=provenance)


def _check_unit(unit: str) -> None:
    if unit not in _MARGNET_UNITS:
        raise ValueError(f"unit is {unit!r}; expected one of {', '.join(map(repr, _MARGNET_UNITS))}")


def margnet_blocks(
    folder: str | Path, experiment: str, unit: str = "nanomaggy", block_size: int = 4096
) -> Iterator[Block]:
    """Read MargNet's images, features and labels, block by block: the images may exceed the memory.

    Parameters
    ----------
    folder : str or Path
        Holds ``X_<experiment>.npy`` (N, 32, 32, 5), ``dnnx_<experiment>.npy`` (N, 24 features),
        ``objlist_<experiment>.npy`` (N,) and ``y_<experiment>.npy``, one-hot or strings.
    experiment : str
        Such as ``exp1`` or ``sg_exp3``.
    unit : {"nanomaggy", "asinh magnitude"}
        What the pixels are taken for; say the same to :func:`margnet_info`.
    block_size : int
        Objects in a block.

    Yields
    ------
    Block
        With the SDSS ``objID`` as ``object_id``, ``run``, ``camcol`` and ``field``, by which to split,
        ``class``, the features (:data:`astro_utils.catalogs.MARGNET_FEATURES`) and ``flags``. Positions are
        NaN: upstream has none.

    Raises
    ------
    ValueError
        With the file's name: an array is damaged or of another shape, or a label or identifier is wrong.
    """
    _check_unit(unit)
    paths = {part: Path(folder) / f"{part}_{experiment}.npy" for part in ("X", "dnnx", "objlist", "y")}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}")
    catalogue, columns = _margnet_catalogue(paths)
    try:
        images = np.load(paths["X"], mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{paths['X']}: not a readable .npy file ({error})") from error
    size = images.shape[1:3]
    if images.shape != (len(catalogue), *size, len(SDSS_BANDS)) or images.dtype.kind not in "fiu":
        expected = f"({len(catalogue)}, ny, nx, {len(SDSS_BANDS)})"
        raise ValueError(f"{paths['X']}: {images.dtype} of shape {images.shape}; expected {expected}")
    for start in range(0, len(catalogue), block_size):
        rows = slice(start, start + block_size)
        stamps = np.moveaxis(np.asarray(images[rows], dtype=np.float32), -1, 1)
        flux, flags = flag_images(_MARGNET_UNITS[unit](stamps))
        yield Block(catalogue[rows].reset_index(drop=True).assign(flags=flags), columns, flux, None)


def _margnet_catalogue(paths: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, Column]]:
    features, objid, labels = (read_pickled_npy(paths[part]) for part in ("dnnx", "objlist", "y"))
    n = len(objid)
    if features.shape != (n, len(MARGNET_FEATURES)) or features.dtype.kind != "f":
        expected = f"({n}, {len(MARGNET_FEATURES)})"
        raise ValueError(f"{paths['dnnx']}: {features.dtype} of shape {features.shape}; expected {expected}")
    if labels.shape[:1] != (n,):
        raise ValueError(f"{paths['y']}: shape {labels.shape}; expected ({n},) or ({n}, classes)")
    try:
        parts = decode_sdss_objid(objid)
    except ValueError as error:
        raise ValueError(f"{paths['objlist']}: {error}") from error
    catalogue = pd.DataFrame({"object_id": objid.astype(np.int64), "ra": np.nan, "dec": np.nan})
    catalogue = catalogue.join(parts[["run", "camcol", "field"]])
    catalogue["class"] = _margnet_classes(labels, paths["y"])
    catalogue = catalogue.join(pd.DataFrame(features, columns=list(MARGNET_FEATURES)))
    columns = {"object_id": Column("", "SDSS objID"), "flags": FLAGS_COLUMN}
    columns |= {name: Column(c.unit, c.description + _NO_POSITION) for name, c in SKY_COLUMNS.items()}
    columns |= {name: Column("", f"{name} of the SDSS imaging camera") for name in ("run", "camcol", "field")}
    columns["class"] = Column("", "spectroscopic class: GALAXY, QSO or STAR")
    for name in MARGNET_FEATURES:
        kind, _, band = name.partition("_")
        known = _MARGNET_COLUMNS.get(kind, Column("mag", "colour, not corrected for Galactic extinction"))
        columns[name] = Column(
            known.unit, f"{known.description}, {band if kind in _MARGNET_COLUMNS else name}"
        )
    return catalogue, columns


def _margnet_classes(labels: np.ndarray, path: Path) -> np.ndarray:
    if labels.ndim == 1:
        names = labels.astype(str)
        if not np.isin(names, _MARGNET_CLASSES[3]).all():
            wrong = str(names[~np.isin(names, _MARGNET_CLASSES[3])][0])
            raise ValueError(f"{path}: label {wrong!r} is none of {', '.join(_MARGNET_CLASSES[3])}")
        return names
    if labels.ndim != 2 or labels.shape[1] not in _MARGNET_CLASSES:
        raise ValueError(f"{path}: shape {labels.shape}; expected (N,) strings or one-hot (N, 2) or (N, 3)")
    onehot = np.isin(labels, (0, 1)).all(1) & (labels.sum(1) == 1)
    if not onehot.all():
        row = int(np.argmin(onehot))
        raise ValueError(f"{path}: row {row} is {labels[row].tolist()}, not one-hot")
    return np.array(_MARGNET_CLASSES[labels.shape[1]])[labels.argmax(1)]


# ------------------------------------------------------------------------------- Legacy Survey cut-outs

#: The sample of :func:`legacysurvey_block`.
LEGACY_SURVEY = SampleInfo(
    survey="legacy",
    sky="real",
    bands="grz",
    pixel_scale=0.262,
    provenance={"source": "cut-outs of the Legacy Survey viewer (Dey et al. 2019, AJ 157, 168)"},
)


def read_legacysurvey(path: str | Path) -> tuple[np.ndarray, np.ndarray | None, WCS]:
    """Read one FITS cut-out of the Legacy Survey viewer, in either of its two forms.

    A cut-out is one cube of all bands (keyword BANDS), with the inverse variance as a second cube if it was
    asked for; a sub-image has one plane per extension (keyword BAND), images and inverse variances in turn.

    Returns
    -------
    image : numpy.ndarray
        (3, ny, nx) g, r, z in nanomaggies, float32.
    ivar : numpy.ndarray or None
        (3, ny, nx) nanomaggies^-2, where the file has it.
    wcs : astropy.wcs.WCS
        Coordinates of the pixels.

    Raises
    ------
    ValueError
        With the file's name: damaged, without coordinates, or not one image in each of g, r, z.
    """
    planes: dict[str, dict[str, np.ndarray]] = {"image": {}, "invvar": {}}
    headers: list[fits.Header] = []
    for hdu in load_fits(path):
        kind = str(hdu.header.get("IMAGETYP", "image")).strip().lower()
        if kind not in planes or getattr(hdu, "data", None) is None or hdu.is_image is False:
            continue
        bands = str(hdu.header.get("BANDS", hdu.header.get("BAND", ""))).strip()
        cube = hdu.data if hdu.data.ndim == 3 else hdu.data[None]
        if len(cube) != len(bands):
            raise ValueError(f"{path}: {len(cube)} planes for the bands {bands!r}")
        if twice := [band for band in bands if band in planes[kind]]:
            raise ValueError(f"{path}: more than one {kind} in {', '.join(twice)}; it spans several bricks")
        planes[kind] |= dict(zip(bands, cube, strict=True))
        headers.append(hdu.header)
    if missing := [band for band in LEGACY_SURVEY.bands if band not in planes["image"]]:
        raise ValueError(f"{path}: no image in {', '.join(missing)}; expected g, r and z")
    image, ivar = (
        np.stack([planes[kind][band] for band in LEGACY_SURVEY.bands]).astype(np.float32)
        if all(band in planes[kind] for band in LEGACY_SURVEY.bands)
        else None
        for kind in ("image", "invvar")
    )
    return image, ivar, celestial_wcs(headers[0], path)


def legacysurvey_block(
    paths: Sequence[str | Path], object_id: np.ndarray, ra: np.ndarray, dec: np.ndarray, size: int
) -> Block:
    """Cut a stamp around each position out of the object's own cut-out.

    Parameters
    ----------
    paths : sequence of path
        (N) files as for :func:`read_legacysurvey`.
    object_id : numpy.ndarray
        (N,) integers.
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    size : int
        Pixels along each side of the stamps.

    Returns
    -------
    Block
        With ``dx``, ``dy`` and ``outside`` as :func:`astro_utils.cutouts.cut_out` has them per band;
        ``ivar_*``, the median inverse variance of a pixel, NaN where the file has none; and ``flags``.
    """
    if not len(paths) == len(object_id) == len(ra) == len(dec):
        counts = len(paths), len(object_id), len(ra), len(dec)
        raise ValueError(f"{counts} files, identifiers, ra and dec; expected as many of each")
    bands = LEGACY_SURVEY.bands
    images, rows = np.zeros((len(paths), len(bands), size, size), np.float32), []
    for i, path in enumerate(paths):
        image, ivar, wcs = read_legacysurvey(path)
        row = {"object_id": object_id[i], "ra": ra[i], "dec": dec[i]}
        for k, band in enumerate(bands):
            images[i, k], row["outside"], row["dx"], row["dy"] = (
                part[0] for part in cut_image(image[k], wcs, np.array([ra[i]]), np.array([dec[i]]), size)
            )
            row[f"ivar_{band}"] = np.nan if ivar is None else np.median(ivar[k])
        rows.append(row)
    images, found = flag_images(images)
    catalogue = pd.DataFrame(rows)
    edge = [catalogue["outside"] == 1, catalogue["outside"] > 0]
    catalogue["flags"] = np.select(edge, [Flag.OUTSIDE, Flag.EDGE], 0) | found
    columns = {"object_id": Column("", "identifier given by the user"), **SKY_COLUMNS, "flags": FLAGS_COLUMN}
    for axis in ("x", "y"):
        columns[f"d{axis}"] = Column("pixel", f"source minus centre of pixel {size // 2} along {axis}")
    columns["outside"] = Column("", "share of the stamp's pixels that are off the cut-out")
    for band in bands:
        columns[f"ivar_{band}"] = Column("nanomaggy-2", f"median inverse variance of a pixel, {band}")
    return Block(catalogue, columns, images, None)
