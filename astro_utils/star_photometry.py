"""Photometry of stars on SDSS frames: the frame's own PSF, fitted at given positions.

The PSF is the mean of the bright, isolated point sources that the frame itself shows, scaled to hold one unit
of flux within 7.43 arcsec, the radius to which the survey corrects its PSF magnitudes (Stoughton et al. 2002,
AJ 123, 485, sect. 4.4.5). Frames are in nanomaggies, so no catalogue enters the zero point: a comparison with
the survey's own magnitudes tests reader, calibration, noise and PSF together.

    flux, ivar, flags = star_photometry(read_frame(path), ra, dec)
    table = compare_stars(frames, read_calibobj("calibObj-004510-4-star.fits.gz", field=30))
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import ndimage

from astro_utils.frames import SDSS_PIXEL_SCALE, Frame, load_fits
from astro_utils.photometry import SDSS_BANDS, SDSS_SOFTENING, asinh_magnitudes

__all__ = [
    "APERTURE_RADIUS",
    "PhotometryFlag",
    "compare_stars",
    "frame_psf",
    "read_calibobj",
    "star_photometry",
]

#: Radius in arcseconds within which a star's flux is counted as whole.
APERTURE_RADIUS = 7.43

# All in pixels.
_HALF = 20  # from the centre of the PSF's stamp to its edge: the aperture and a margin for sub-pixel shifts
_ANNULUS = (23, 33)  # where the local sky is measured
_FIT_RADIUS = 6  # 2.4 arcsec: beyond it the noise of the sky outweighs the star
_FIT_HALF = 8

# Bits of the survey's object flags, and its type of point sources (https://www.sdss4.org/dr17/algorithms/flags/).
_EDGE, _BLENDED, _CHILD, _SATURATED = 1 << 2, 1 << 3, 1 << 4, 1 << 18
_STAR = 6

_PSF_COUNTS = (150, 25_000)  # peaks of PSF stars above the sky: below, noise; above, near saturation
_MIN_PSF_STARS = 3


class PhotometryFlag(enum.IntFlag):
    """What is, or may be, wrong with a star's flux."""

    __iter__ = None  # pandas would take a flag for a list of its bits
    OUTSIDE = 1  #: the position is off the frame or within 8 px of its edge: no flux
    BAD_PIXELS = 2  #: pixels that are not finite are near the star: no flux
    FORCED = 4  #: not centred, being faint or the fit having moved by over 1 px: flux at the position given
    POOR_FIT = 8  #: aperture (4 px) and fit differ by over 10 % and 5 sigma: saturated, blended or extended


def _distance(half: int, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Pixels from each pixel of a stamp to (x, y), counted from the stamp's centre."""
    steps = np.arange(-half, half + 1)
    return np.hypot(steps[None, :] - x, steps[:, None] - y)


def _aperture(half: int, radius: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
    """Share of each pixel that lies in a circle; to first order in the pixels at its edge."""
    return np.clip(radius + 0.5 - _distance(half, x, y), 0, 1)


def _stamp(image: np.ndarray, column: int, row: int, half: int) -> np.ndarray:
    return image[row - half : row + half + 1, column - half : column + half + 1]


def _local_sky(image: np.ndarray, column: int, row: int) -> float:
    """Mean in an annulus, without what is over 3 sigma from the median: neighbours, mostly."""
    reach = _ANNULUS[1]
    top, left = max(row - reach, 0), max(column - reach, 0)
    part = image[top : row + reach + 1, left : column + reach + 1]
    y, x = np.indices(part.shape)
    distance = np.hypot(x + left - column, y + top - row)
    values = part[(distance >= _ANNULUS[0]) & (distance <= reach) & np.isfinite(part)]
    for _ in range(5):
        centre = np.median(values)
        sigma = 1.4826 * np.median(np.abs(values - centre))
        values = values[np.abs(values - centre) <= 3 * sigma]
    return float(values.mean())


def _centroid(stamp: np.ndarray, sigma: float = 1.3) -> tuple[float, float]:
    """Centre of a source relative to that of its stamp, by iterated moments under a Gaussian window."""
    steps = np.arange(len(stamp)) - len(stamp) // 2
    x = y = 0.0
    for _ in range(10):
        weighted = stamp * np.exp(-0.5 * (_distance(len(stamp) // 2, x, y) / sigma) ** 2)
        # A window as wide as the source draws the moment half-way back to its own centre: hence the factor 2.
        x, y = (
            x + 2 * (weighted.sum(0) @ (steps - x)) / weighted.sum(),
            y + 2 * (weighted.sum(1) @ (steps - y)) / weighted.sum(),
        )
    return float(x), float(y)


def _isolated_peaks(frame: Frame) -> list[tuple[int, int]]:
    """Columns and rows of bright, unsaturated peaks without a neighbour that matters."""
    low, high = _PSF_COUNTS
    image, counts = np.nan_to_num(frame.image), np.broadcast_to(frame.calibration, frame.image.shape)
    rows, columns = np.nonzero(
        (image == ndimage.maximum_filter(image, size=5)) & (image > 0.05 * low * counts)
    )
    height, one, (ny, nx) = image[rows, columns], counts[rows, columns], image.shape
    margin = _ANNULUS[1]
    inside = (rows >= margin) & (rows < ny - margin) & (columns >= margin) & (columns < nx - margin)
    chosen = []
    for k in np.flatnonzero(inside & (height > low * one) & (height < high * one)):
        distance = np.hypot(rows - rows[k], columns - columns[k])
        close = (distance > 0) & (distance < _ANNULUS[0])
        # The wings of a much brighter star reach far beyond the aperture.
        if not (height[close] > 0.05 * height[k]).any() and not (height[distance < 60] > 4 * height[k]).any():
            chosen.append((int(columns[k]), int(rows[k])))
    return chosen


def frame_psf(frame: Frame) -> np.ndarray:
    """PSF of a frame, from its own bright and isolated stars; constant over the frame.

    Stars are those peaks whose flux within 2 px, relative to that within 5 px, is within 6 % of the frame's
    usual value: galaxies are less concentrated, and the cores of saturated stars are filled in.

    Returns
    -------
    numpy.ndarray
        (41, 41), centred; 1 within :data:`APERTURE_RADIUS`.

    Raises
    ------
    ValueError
        When there are fewer than three such stars.
    """
    stamps, core, total = [], [], []
    for column, row in _isolated_peaks(frame):
        stamp = _stamp(frame.image, column, row, _HALF + 2) - _local_sky(frame.image, column, row)
        if not np.isfinite(stamp).all():
            continue
        x, y = _centroid(stamp)
        if np.hypot(x, y) < 1:
            stamps.append(ndimage.shift(stamp, (-y, -x), order=3)[2:-2, 2:-2])
            core.append((stamps[-1] * _aperture(_HALF, 2)).sum())
            total.append((stamps[-1] * _aperture(_HALF, 5)).sum())
    concentration = np.array(core) / np.array(total)
    usual = np.median(concentration) if stamps else np.nan
    for _ in range(5):
        is_star = np.abs(concentration / usual - 1) < 0.06
        usual = np.median(concentration[is_star]) if is_star.any() else np.nan
    if is_star.sum() < _MIN_PSF_STARS:
        raise ValueError(
            f"frame {frame.band} of run {frame.run}, camcol {frame.camcol}, field {frame.field}: "
            f"{is_star.sum()} stars for the PSF; expected at least {_MIN_PSF_STARS}"
        )
    flux = np.array(total)[is_star, None, None]
    scaled = np.array(stamps)[is_star] / flux
    middle = np.sort(scaled, axis=0)[
        len(scaled) // 2
    ]  # one of the stars, so that no pixel is left without any
    # Noise of a scaled pixel: the sky's, and a tenth of the profile for its change over the frame.
    sky_noise = 1.4826 * np.nanmedian(np.abs(frame.image - np.nanmedian(frame.image)))
    noise = np.hypot(sky_noise / flux, 0.1 * np.abs(middle))
    # Noise of the flux in the aperture, likewise, sets the weight of a star as a whole.
    weight = 1 / (0.01**2 + (sky_noise * np.sqrt(np.pi) * APERTURE_RADIUS / SDSS_PIXEL_SCALE / flux) ** 2)
    weight = weight * (np.abs(scaled - middle) < 4 * noise)
    psf = (weight * scaled).sum(axis=0) / weight.sum(axis=0)
    return psf / (psf * _aperture(_HALF, APERTURE_RADIUS / SDSS_PIXEL_SCALE)).sum()


class _Model:
    """The PSF at any sub-pixel position of a small stamp."""

    def __init__(self, psf: np.ndarray):
        self._spline = ndimage.spline_filter(psf, order=3)
        self._rows, self._columns = np.indices((2 * _FIT_HALF + 1,) * 2) - _FIT_HALF + len(psf) // 2

    def at(self, x: float, y: float) -> np.ndarray:
        return ndimage.map_coordinates(
            self._spline, [self._rows - y, self._columns - x], order=3, prefilter=False
        )

    def centre(self, stamp: np.ndarray, x: float, y: float) -> tuple[float, float]:
        """Improve a centre by linear least squares in flux and shift, five times."""
        step = 0.05
        for _ in range(5):
            use = _distance(_FIT_HALF, x, y) < _FIT_RADIUS
            along_x = (self.at(x + step, y) - self.at(x - step, y)) / (2 * step)
            along_y = (self.at(x, y + step) - self.at(x, y - step)) / (2 * step)
            terms = np.stack([self.at(x, y)[use], along_x[use], along_y[use]], axis=1)
            flux, by_x, by_y = np.linalg.lstsq(terms, stamp[use], rcond=None)[0]
            if flux <= 0:
                return np.nan, np.nan
            x, y = x + np.clip(by_x / flux, -0.5, 0.5), y + np.clip(by_y / flux, -0.5, 0.5)
        return float(x), float(y)


def star_photometry(
    frame: Frame, ra: np.ndarray, dec: np.ndarray, psf: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fit the PSF to a frame at each position.

    The flux is the least-squares amplitude sum(P d) / sum(P^2) of the PSF P in the pixels d within 6 px,
    after subtraction of the local sky; its variance is sum(P^2 v) / sum(P^2)^2 with the variance v of each
    pixel. Stars above ten sigma are centred first: the coordinates of a frame are good to about 0.2 px.
    Neighbours are not fitted at the same time.

    Parameters
    ----------
    frame : Frame
        The image.
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    psf : numpy.ndarray, optional
        (41, 41) as :func:`frame_psf` gives it; by default, that of `frame`.

    Returns
    -------
    flux : numpy.ndarray
        (N,) nanomaggies on the scale of 7.43 arcsec; NaN where there is none.
    ivar : numpy.ndarray
        (N,) nanomaggies^-2; 0 where there is no flux.
    flags : numpy.ndarray
        (N,) integers, the bits of :class:`PhotometryFlag`.
    """
    model = _Model(frame_psf(frame) if psf is None else psf)
    pixel_ivar = frame.ivar()
    positions = np.stack(frame.wcs.all_world2pix(np.atleast_1d(ra), np.atleast_1d(dec), 0), axis=1)
    flux, ivar = np.full(len(positions), np.nan), np.zeros(len(positions))
    flags = np.zeros(len(positions), dtype=np.int64)
    for i, position in enumerate(positions):
        flux[i], ivar[i], flags[i] = _fit_star(frame.image, pixel_ivar, model, *position)
    return flux, ivar, flags


def _fit_star(
    image: np.ndarray, pixel_ivar: np.ndarray, model: _Model, x: float, y: float
) -> tuple[float, float, PhotometryFlag]:
    ny, nx = image.shape
    inside = _FIT_HALF <= x < nx - 1 - _FIT_HALF and _FIT_HALF <= y < ny - 1 - _FIT_HALF
    if not inside:  # as NaN is not, either
        return np.nan, 0.0, PhotometryFlag.OUTSIDE
    column, row = round(x), round(y)
    stamp, weight = (_stamp(array, column, row, _FIT_HALF) for array in (image, pixel_ivar))
    if not (np.isfinite(stamp) & (weight > 0)).all():
        return np.nan, 0.0, PhotometryFlag.BAD_PIXELS
    stamp = stamp - _local_sky(image, column, row)
    given, flags = (x - column, y - row), PhotometryFlag(0)
    flux, variance, _ = _amplitude(stamp, weight, model, *given)
    centre = model.centre(stamp, *given) if flux > 10 * np.sqrt(variance) else (np.nan, np.nan)
    if not np.hypot(centre[0] - given[0], centre[1] - given[1]) <= 1:
        centre, flags = given, PhotometryFlag.FORCED
    flux, variance, aperture_flux = _amplitude(stamp, weight, model, *centre)
    if abs(aperture_flux - flux) > max(0.1 * abs(flux), 5 * np.sqrt(variance)):
        flags |= PhotometryFlag.POOR_FIT
    return flux, 1 / variance, flags


def _amplitude(
    stamp: np.ndarray, weight: np.ndarray, model: _Model, x: float, y: float
) -> tuple[float, float, float]:
    """Fitted flux, its variance, and the flux within 4 px corrected by the PSF."""
    psf, aperture = model.at(x, y), _aperture(_FIT_HALF, 4, x, y)
    profile = psf * (_distance(_FIT_HALF, x, y) < _FIT_RADIUS)
    norm = (profile**2).sum()
    flux = (profile * stamp).sum() / norm
    return flux, (profile**2 / weight).sum() / norm**2, (aperture * stamp).sum() / (aperture * psf).sum()


def read_calibobj(path: str | Path, field: int) -> pd.DataFrame:
    """Read the stars of one field from a ``calibObj-<run>-<camcol>-star.fits.gz``.

    Returns
    -------
    pandas.DataFrame
        ``id`` within the field; ``ra``, ``dec`` (degrees); per band ``psf_flux_*`` (nanomaggies),
        ``psf_flux_ivar_*`` and ``saturated_*``; ``isolated``: a star that the survey neither found blended
        (BLENDED, CHILD) nor at an edge (EDGE).

    Raises
    ------
    ValueError
        With the file's name: it is damaged, lacks a column or has no such field.
    """
    hdus = load_fits(path)
    names = hdus[1].columns.names if len(hdus) > 1 and hasattr(hdus[1], "columns") else []
    needed = ("FIELD", "ID", "RA", "DEC", "OBJC_TYPE", "OBJC_FLAGS", "FLAGS", "PSFFLUX", "PSFFLUX_IVAR")
    if missing := [name for name in needed if name not in names]:
        raise ValueError(f"{path}: no column {', '.join(missing)}; expected a calibObj table in HDU 1")
    rows = hdus[1].data[hdus[1].data["FIELD"] == field]
    if not len(rows):
        present = np.unique(hdus[1].data["FIELD"])
        raise ValueError(
            f"{path}: no stars of field {field}; it has fields {present.min()} to {present.max()}"
        )
    columns = {
        name.lower(): rows[name].astype(float if name != "ID" else int) for name in ("ID", "RA", "DEC")
    }
    columns["isolated"] = (rows["OBJC_TYPE"] == _STAR) & (
        rows["OBJC_FLAGS"] & (_EDGE | _BLENDED | _CHILD) == 0
    )
    for k, band in enumerate(SDSS_BANDS):
        columns[f"psf_flux_{band}"] = rows["PSFFLUX"][:, k].astype(float)
        columns[f"psf_flux_ivar_{band}"] = rows["PSFFLUX_IVAR"][:, k].astype(float)
        columns[f"saturated_{band}"] = rows["FLAGS"][:, k] & _SATURATED != 0
    return pd.DataFrame(columns)


def compare_stars(frames: Mapping[str, Frame], catalogue: pd.DataFrame) -> pd.DataFrame:
    """Measure the stars of :func:`read_calibobj` and set the result beside the survey's.

    Returns
    -------
    pandas.DataFrame
        One row per star and band: ``id``, ``band``, ``isolated``, ``saturated``; ``r`` and ``magnitude``, the
        survey's PSF magnitudes in r and in this band; ``offset``, measured minus the survey's; ``error`` of
        the measured magnitude; ``flags`` (:class:`PhotometryFlag`). Magnitudes are asinh, as observed.
    """
    fluxes = catalogue[[f"psf_flux_{band}" for band in SDSS_BANDS]].to_numpy()
    magnitudes, _ = asinh_magnitudes(fluxes, np.ones_like(fluxes))
    tables = []
    for band, frame in frames.items():
        k = SDSS_BANDS.index(band)
        flux, ivar, flags = star_photometry(frame, catalogue["ra"], catalogue["dec"])
        measured, error = asinh_magnitudes(flux, ivar, SDSS_SOFTENING[k])
        columns = {"id": catalogue["id"], "band": band, "isolated": catalogue["isolated"]}
        columns |= {"saturated": catalogue[f"saturated_{band}"], "r": magnitudes[:, SDSS_BANDS.index("r")]}
        columns |= {"magnitude": magnitudes[:, k], "offset": measured - magnitudes[:, k], "error": error}
        tables.append(pd.DataFrame(columns | {"flags": flags}))
    return pd.concat(tables, ignore_index=True)
