"""SDSS corrected frames: one field in one band, calibrated and sky-subtracted, with its noise.

A frame file holds the image in nanomaggies (Blanton et al. 2011, AJ 142, 31), the calibration vector that
turned counts into nanomaggies, and the sky that was subtracted, sampled coarsely. Together with the gain and
the dark variance of the chip these give the variance of each pixel. Format and recipe are those of the
survey's data model, https://data.sdss.org/datamodel/files/BOSS_PHOTOOBJ/frames/RERUN/RUN/CAMCOL/frame.html.

    frames = {band: read_frame(path) for band, path in field_frames(folder, 4510, 4, 30).items()}
"""

from __future__ import annotations

import bz2
import gzip
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, WcsError

from astro_utils.photometry import SDSS_BANDS

__all__ = [
    "SDSS_PIXEL_SCALE",
    "Frame",
    "celestial_wcs",
    "dark_variance",
    "field_frames",
    "gain",
    "load_fits",
    "read_frame",
]

#: Arcseconds per pixel of the SDSS imaging camera (Gunn et al. 1998, AJ 116, 3040).
SDSS_PIXEL_SCALE = 0.396

_COMPRESSED = {b"BZh": bz2.decompress, b"\x1f\x8b": gzip.decompress}  # by the first bytes of a file

# Electrons per count, and dark variance (read noise and dark current, counts squared), of the chips by band,
# for camera columns 1 to 6; from the data model of the frames.
_GAIN = {
    "u": (1.62, 1.825, 1.59, 1.6, 1.47, 2.17),
    "g": (3.32, 3.855, 3.845, 3.995, 4.05, 4.035),
    "r": (4.71, 4.6, 4.72, 4.76, 4.725, 4.895),
    "i": (5.165, 6.565, 4.86, 4.885, 4.64, 4.76),
    "z": (4.745, 5.155, 4.885, 4.775, 3.48, 4.69),
}
_DARK_VARIANCE = {
    "u": (9.61, 12.6025, 8.7025, 12.6025, 9.3025, 7.0225),
    "g": (15.6025, 1.44, 1.3225, 1.96, 1.1025, 1.8225),
    "r": (1.8225, 1.0, 1.3225, 1.3225, 0.81, 0.9025),
    "i": (7.84, 6.25, 4.6225, 7.5625, 7.84, 5.0625),
    "z": (0.81, 1.0, 1.0, 12.6025, 2.1025, 1.21),
}
# Chips whose electronics changed, by band and camera column: last run with the first value, and that value.
_EARLY_GAIN = {("u", 2): (1100, 1.595)}
_EARLY_DARK_VARIANCE = {
    ("i", 2): (1500, 5.76),
    ("i", 4): (1500, 6.25),
    ("z", 4): (1500, 9.61),
    ("z", 5): (1500, 1.8225),
}


def _of_chip(table: dict, early: dict, camcol: int, band: str, run: int) -> float:
    if band not in table or camcol not in range(1, 7):
        raise ValueError(
            f"no chip in camera column {camcol!r}, band {band!r}; expected 1 to 6 and u, g, r, i or z"
        )
    last_run, value = early.get((band, camcol), (-1, np.nan))
    return value if run <= last_run else table[band][camcol - 1]


def gain(camcol: int, band: str, run: int) -> float:
    """Electrons per count of the chip in camera column `camcol` and `band` during `run`."""
    return _of_chip(_GAIN, _EARLY_GAIN, camcol, band, run)


def dark_variance(camcol: int, band: str, run: int) -> float:
    """Variance by read noise and dark current, counts squared, of a chip as for :func:`gain`."""
    return _of_chip(_DARK_VARIANCE, _EARLY_DARK_VARIANCE, camcol, band, run)


@dataclass(frozen=True)
class Frame:
    """One field of the SDSS camera in one band; rows run along the drift, columns across it.

    Parameters
    ----------
    image : numpy.ndarray
        (ny, nx) nanomaggies, sky-subtracted, float32.
    wcs : astropy.wcs.WCS
        Celestial coordinates (ICRS) of the pixels.
    calibration : numpy.ndarray
        (nx,) nanomaggies per count, flat field included.
    sky : numpy.ndarray
        (ny, nx) counts that were subtracted, float32.
    band : str
        One of u, g, r, i, z.
    run, camcol, field : int
        Imaging run, camera column 1-6, field within the run.
    gain : float
        Electrons per count.
    dark_variance : float
        Counts squared.
    """

    image: np.ndarray
    wcs: WCS
    calibration: np.ndarray
    sky: np.ndarray
    band: str
    run: int
    camcol: int
    field: int
    gain: float
    dark_variance: float

    def ivar(self) -> np.ndarray:
        """Inverse variance of each pixel, (ny, nx) nanomaggies^-2, float32.

        The counts before sky subtraction, n = image / calibration + sky, have the variance n / gain plus the
        dark variance; the calibration squared takes it to nanomaggies. Pixels that are not finite have 0.
        """
        light = self.image * self.calibration + self.sky * self.calibration**2
        # Read noise may take the counts of a dark pixel below zero, but there is no negative shot noise.
        variance = np.maximum(light, 0) / self.gain + self.dark_variance * self.calibration**2
        usable = np.isfinite(variance) & (variance > 0)
        return np.divide(1, variance, out=np.zeros_like(variance), where=usable).astype(np.float32)


def load_fits(path: str | Path) -> fits.HDUList:
    """Read a FITS file, plain or compressed by gzip or bzip2, whole into memory: any damage shows at once.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        With the file's name: it is not FITS, or is cut short or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    content = path.read_bytes()
    try:
        # Decompressed before astropy sees it, which would go on reading a bzip2 stream after an error in it:
        # that ends the interpreter.
        for magic, decompress in _COMPRESSED.items():
            content = decompress(content) if content.startswith(magic) else content
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "File may have been truncated")
            hdus = fits.open(io.BytesIO(content))
            for hdu in hdus:
                _ = hdu.data
    except Exception as error:  # a damaged file may fail in any way
        raise ValueError(f"{path}: not a whole FITS file ({error})") from error
    return hdus


def celestial_wcs(header: fits.Header, path: str | Path) -> WCS:
    """Celestial coordinates of an image from the standard keywords of its header, in degrees.

    Only these are read: the headers of surveys carry others that are outdated or contradict one another.

    Raises
    ------
    ValueError
        With the file's name: keywords are missing, or together they give no coordinates.
    """
    keys = [f"{name}{axis}" for name in ("CTYPE", "CRVAL", "CRPIX") for axis in (1, 2)]
    matrix = ["CD1_1", "CD1_2", "CD2_1", "CD2_2"] if "CD1_1" in header else ["CDELT1", "CDELT2"]
    if missing := [key for key in keys + matrix if key not in header]:
        raise ValueError(f"{path}: no WCS, the header lacks {', '.join(missing)}")
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = [header["CTYPE1"], header["CTYPE2"]]
    wcs.wcs.crval = [header["CRVAL1"], header["CRVAL2"]]
    wcs.wcs.crpix = [header["CRPIX1"], header["CRPIX2"]]
    wcs.wcs.cunit = ["deg", "deg"]
    if "CD1_1" in header:
        wcs.wcs.cd = np.reshape([header[key] for key in matrix], (2, 2))
    else:
        scale = np.array([[header["CDELT1"]], [header["CDELT2"]]])
        rotation = [
            [header.get(f"PC{i}_{j}", header.get(f"PC00{i}00{j}", float(i == j))) for j in (1, 2)]
            for i in (1, 2)
        ]
        wcs.wcs.cd = scale * np.array(rotation)
    try:
        wcs.wcs.set()
    except WcsError as error:
        raise ValueError(f"{path}: no valid WCS ({error})") from error
    return wcs


def _bilinear(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Interpolate `table` at all columns `x` and rows `y`; beyond its edges the edge's value holds."""
    for axis, positions in ((0, y), (1, x)):
        last = table.shape[axis] - 1
        positions = np.clip(positions, 0, last)
        low = np.floor(positions).astype(int)
        weight = (positions - low).reshape((-1, 1) if axis == 0 else (1, -1)).astype(table.dtype)
        lower, upper = (np.take(table, index, axis) for index in (low, np.minimum(low + 1, last)))
        table = lower + weight * (upper - lower)
    return table


def _table_column(hdus: fits.HDUList, number: int, name: str, path: Path) -> np.ndarray:
    columns = getattr(hdus[number], "columns", None)
    if columns is None or name not in columns.names or not len(hdus[number].data):
        raise ValueError(f"{path}: HDU {number} is no table with a column {name}")
    return hdus[number].data[name]


def _sky(hdus: fits.HDUList, shape: tuple[int, int], path: Path) -> np.ndarray:
    """Sky in counts at full size, from the coarse table in the third HDU."""
    coarse, x, y = (
        np.asarray(_table_column(hdus, 2, name, path)[0], dtype=np.float32)
        for name in ("ALLSKY", "XINTERP", "YINTERP")
    )
    if coarse.ndim != 2 or (len(y), len(x)) != shape:
        found = f"{coarse.shape} for {(len(y), len(x))} px"
        raise ValueError(f"{path}: the sky table is {found}; expected a table for the image's {shape} px")
    return _bilinear(coarse, x, y)


def read_frame(path: str | Path) -> Frame:
    """Read ``frame-<band>-<run>-<camcol>-<field>.fits``, plain or compressed.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        With the file's name and what is wrong: damaged or no FITS; missing or wrong HDUs, keywords or WCS; a
        unit other than nanomaggies.
    """
    path = Path(path)
    hdus = load_fits(path)
    if len(hdus) < 4:
        raise ValueError(f"{path}: {len(hdus)} HDUs; expected image, calibration, sky and astrometry")
    header, image, calibration = hdus[0].header, hdus[0].data, hdus[1].data
    if image is None or image.ndim != 2:
        raise ValueError(f"{path}: HDU 0 holds no two-dimensional image")
    if calibration is None or calibration.shape != (image.shape[1],):
        found = None if calibration is None else calibration.shape
        raise ValueError(
            f"{path}: HDU 1 has shape {found}; expected one number per column, ({image.shape[1]},)"
        )
    if missing := [key for key in ("FILTER", "RUN", "CAMCOL", "BUNIT") if key not in header]:
        raise ValueError(f"{path}: the header lacks {', '.join(missing)}")
    if header["BUNIT"] not in ("nanomaggy", "nanomaggies"):
        raise ValueError(f"{path}: the image is in {header['BUNIT']!r}; expected 'nanomaggy'")
    band, run, camcol = header["FILTER"].strip(), int(header["RUN"]), int(header["CAMCOL"])
    try:
        chip = {"gain": gain(camcol, band, run), "dark_variance": dark_variance(camcol, band, run)}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Frame(
        image=image.astype(np.float32),
        wcs=celestial_wcs(header, path),
        calibration=calibration.astype(np.float32),
        sky=_sky(hdus, image.shape, path),
        band=band,
        run=run,
        camcol=camcol,
        # Not the header's FRAME, which is the chip's own count: a field reaches the chips one after another.
        field=int(_table_column(hdus, 3, "FIELD", path)[0]),
        **chip,
    )


def field_frames(
    folder: str | Path, run: int, camcol: int, field: int, bands: str = SDSS_BANDS
) -> dict[str, Path]:
    """Locate the frames of one field, by the survey's names, plain or compressed by bzip2.

    Returns
    -------
    dict of str to Path
        By band, in the order of `bands`.

    Raises
    ------
    FileNotFoundError
        With the names of all frames that are missing.
    """
    found, missing = {}, []
    for band in bands:
        name = f"frame-{band}-{run:06d}-{camcol}-{field:04d}.fits"
        places = [Path(folder) / (name + suffix) for suffix in ("", ".bz2")]
        if here := [place for place in places if place.is_file()]:
            found[band] = here[0]
        else:
            missing.append(name + "[.bz2]")
    if missing:
        raise FileNotFoundError(f"{folder}: no {', '.join(missing)}")
    return found
