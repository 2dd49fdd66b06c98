"""Fibre spectra of the simulated sky, as the spectrographs of SDSS and DESI would take them.

A spectrum is dimmed by the Galactic dust, loses what misses the fibre, is spread by the spectrograph,
integrated over its pixels and given noise: that of the sky, and that of the source's own photons. Flux is on
the scale of the surveys, which calibrate with stars: a point source has its total flux, and an extended one
the total flux times the share of its light in the fibre over that of a point source.

Noise and resolution are columns of ``data/sky/<name>_noise.ecsv``, made from real spectra by
:mod:`astro_utils.sky.spectra` itself (:func:`noise_table`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import astropy.units as u
import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.table import Table
from dust_extinction.parameter_averages import F99
from scipy.ndimage import gaussian_filter1d, median_filter
from scipy.optimize import nnls
from scipy.sparse import csr_array
from scipy.special import gammainc, gammaincinv, ndtr

from astro_utils.frames import load_fits
from astro_utils.paths import project_root
from astro_utils.results import atomic
from astro_utils.samples import Spectra
from astro_utils.sky.seds import Seds, source_spectra
from astro_utils.spectra_files import SDSS_MASK

__all__ = [
    "DESI",
    "SDSS",
    "SPECTROGRAPHS",
    "Projector",
    "Spectrograph",
    "fibre_share",
    "noise_table",
    "observe",
    "observe_objects",
    "transmission",
    "write_noise_table",
]

#: Standard deviation of ln(exposure) from spectrum to spectrum: weather, and where the fibre was.
_EXPOSURE_SCATTER = 0.2
#: Line profiles end here, in sigma; 2e-9 of the light is beyond.
_REACH = 6.0


@dataclass(frozen=True)
class Spectrograph:
    """A fibre spectrograph.

    Attributes
    ----------
    name : str
    first, step : float
        Centre of the first pixel and width of the pixels, in Angstrom or, if `logarithmic`, in log10 of it.
    n_pixels : int
    logarithmic : bool
    fibre : float
        Diameter, arcsec.
    unit_exposure : str
        What an exposure of 1 is.
    """

    name: str
    first: float
    step: float
    n_pixels: int
    logarithmic: bool
    fibre: float
    unit_exposure: str

    def _grid(self, offset: float, n: int) -> np.ndarray:
        numbers = self.first + self.step * (np.arange(n) + offset)
        return 10**numbers if self.logarithmic else numbers

    @property
    def wavelength(self) -> np.ndarray:
        """Centres of the pixels, (pixels,) vacuum Angstrom."""
        return self._grid(0.0, self.n_pixels)

    @property
    def edges(self) -> np.ndarray:
        """Edges of the pixels, (pixels + 1,) Angstrom."""
        return self._grid(-0.5, self.n_pixels + 1)

    @property
    def table_path(self) -> Path:
        """The committed table of noise and resolution."""
        return project_root() / "data" / "sky" / f"{self.name}_noise.ecsv"

    @property
    def properties(self) -> pd.DataFrame:
        """Per pixel, ``wavelength``, ``noise`` of the sky, ``sigma`` and ``counts``; see `noise_table`."""
        return _properties(self)


#: 7,781 pixels of 0.8 Angstrom (DESI Collaboration 2022, AJ 164, 207; Guy et al. 2023, AJ 165, 144).
DESI = Spectrograph("desi", 3600.0, 0.8, 7781, False, 1.5, "1,000 s of effective time in the dark")

#: York et al. 2000, AJ 120, 1579; the pixels k of log10(wavelength) = 3.5 + 1e-4 k that all SDSS spectra
#: share, from 3,800 to 9,200 Angstrom.
SDSS = Spectrograph("sdss", 3.5798, 1e-4, 3840, True, 3.0, "2,700 s")

SPECTROGRAPHS = {spectrograph.name: spectrograph for spectrograph in (DESI, SDSS)}


@lru_cache(maxsize=4)
def _properties(spectrograph: Spectrograph) -> pd.DataFrame:
    path = spectrograph.table_path
    table = Table.read(path, format="ascii.ecsv").to_pandas()
    wavelength = spectrograph.wavelength
    if len(table) != len(wavelength) or np.abs(table["wavelength"] - wavelength).max() > 0.01:
        raise ValueError(
            f"{path}: {len(table)} rows; expected the {len(wavelength)} pixels of {spectrograph.name}"
        )
    return table


# --------------------------------------------------------------------------------- from the sky to the pixels


class Projector:
    """What a spectrograph does to a spectrum on one grid of wavelengths: spread it, and sum it over pixels.

    Input is taken as constant over the cell about each wavelength. The light of a cell is spread by a
    Gaussian that is narrower than the stated one by the variance of the cell itself, so that a line of one
    cell comes out with the stated sigma, in pixels that then add their own width. Light is conserved. Steps
    should be equal or change slowly: where they jump, a flat spectrum gets a ripple of about a percent.

    Parameters
    ----------
    wavelength : numpy.ndarray
        (L,) Angstrom, increasing.
    spectrograph : Spectrograph

    Raises
    ------
    ValueError
        When the grid does not increase, is too coarse for the resolution or does not cover the pixels and
        six sigma beyond.
    """

    def __init__(self, wavelength: np.ndarray, spectrograph: Spectrograph):
        wavelength = np.asarray(wavelength, dtype=float)
        if wavelength.ndim != 1 or len(wavelength) < 2 or not (np.diff(wavelength) > 0).all():
            raise ValueError("the wavelength grid of the input does not increase")
        middle = (wavelength[1:] + wavelength[:-1]) / 2
        cells = np.concatenate([[2 * wavelength[0] - middle[0]], middle, [2 * wavelength[-1] - middle[-1]]])
        properties, edges = spectrograph.properties, spectrograph.edges
        sigma = np.interp(wavelength, properties["wavelength"], properties["sigma"])
        width = np.diff(cells)
        low, high = edges[0] - _REACH * sigma[0], edges[-1] + _REACH * sigma[-1]
        if cells[0] > low or cells[-1] < high:
            raise ValueError(
                f"the input covers {cells[0]:.1f} to {cells[-1]:.1f} Angstrom; "
                f"spectrograph {spectrograph.name} needs {low:.1f} to {high:.1f}"
            )
        used = np.flatnonzero((cells[1:] > low) & (cells[:-1] < high))
        if (coarse := width[used] ** 2 / 12 > sigma[used] ** 2 / 2).any():
            worst = used[np.argmax(coarse)]
            raise ValueError(
                f"the input has steps of {width[worst]:.2f} Angstrom at {wavelength[worst]:.0f}; "
                f"expected at most {np.sqrt(6) * sigma[worst]:.2f} for spectrograph {spectrograph.name}"
            )
        spread = np.sqrt(sigma[used] ** 2 - width[used] ** 2 / 12)[:, None]
        reach = _REACH * sigma[used]
        first = np.searchsorted(edges, cells[used] - reach) - 1
        last = np.searchsorted(edges, cells[used + 1] + reach)
        pixel = first[:, None] + np.arange((last - first).max() + 1)
        below = _share_below(edges[np.clip(pixel, 0, len(edges) - 1)], cells[used], cells[used + 1], spread)
        share = np.diff(below, axis=1)
        pixel = pixel[:, :-1]
        inside = (pixel >= 0) & (pixel < spectrograph.n_pixels) & (share > 0)
        row, column = pixel[inside], np.broadcast_to(used[:, None], pixel.shape)[inside]
        values = share[inside] * width[column] / np.diff(edges)[row]
        shape = spectrograph.n_pixels, len(wavelength)
        self.wavelength, self.spectrograph = wavelength, spectrograph
        self.matrix = csr_array((values, (row, column)), shape=shape)

    def __call__(self, flux: np.ndarray) -> np.ndarray:
        """Spectra of the pixels, (N, pixels), of spectra (N, L), in the same unit.

        Raises
        ------
        ValueError
            When the shape is another, or a value is not finite.
        """
        flux = np.asarray(flux)
        if flux.ndim != 2 or flux.shape[1] != len(self.wavelength):
            raise ValueError(f"spectra have shape {flux.shape}; expected (N, {len(self.wavelength)})")
        if not np.isfinite(flux).all():
            row = int(np.flatnonzero(~np.isfinite(flux).all(1))[0])
            raise ValueError(f"spectrum {row} has values that are not finite")
        return (self.matrix @ flux.T).T


def _share_below(edge: np.ndarray, low: np.ndarray, high: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Share of a uniform cell from `low` to `high`, spread by a Gaussian, that lies below each edge."""

    def integral(x):  # of the cumulative normal distribution of width sigma
        return x * ndtr(x / sigma) + sigma * np.exp(-0.5 * (x / sigma) ** 2) / np.sqrt(2 * np.pi)

    low, high = low[:, None], high[:, None]
    return (integral(edge - low) - integral(edge - high)) / (high - low)


@lru_cache(maxsize=4)
def _projector(spectrograph: Spectrograph, grid: bytes) -> Projector:
    return Projector(np.frombuffer(grid), spectrograph)


def observe(
    wavelength_in: np.ndarray,
    flux_in: np.ndarray,
    spectrograph: Spectrograph,
    rng: np.random.Generator,
    exposure: float | np.ndarray = 1.0,
) -> Spectra:
    """Take spectra.

    The variance of a pixel is (sky noise^2 + flux / counts) / exposure, where `counts` are the
    photo-electrons per unit of flux in an exposure of 1.

    Parameters
    ----------
    wavelength_in : numpy.ndarray
        (L,) vacuum Angstrom.
    flux_in : numpy.ndarray
        (N, L) 1e-17 erg / (s cm2 Angstrom).
    spectrograph : Spectrograph
    rng : numpy.random.Generator
    exposure : float or numpy.ndarray
        In units of the spectrograph's ``unit_exposure``; one, or (N,).

    Returns
    -------
    Spectra
        On the spectrograph's pixels, with the true inverse variance.

    Raises
    ------
    ValueError
        When the input does not cover the pixels or is no array of finite spectra, or an exposure is not
        above 0.
    """
    grid = np.ascontiguousarray(wavelength_in, dtype=float)
    flux = _projector(spectrograph, grid.tobytes())(flux_in)
    exposure = np.broadcast_to(np.asarray(exposure, dtype=float), len(flux))
    if not (exposure > 0).all():
        raise ValueError(f"an exposure is {exposure[~(exposure > 0)][0]}; expected more than 0")
    properties = spectrograph.properties
    noise, counts = (properties[name].to_numpy() for name in ("noise", "counts"))
    variance = (noise**2 + np.maximum(flux, 0) / counts) / exposure[:, None]
    flux += np.sqrt(variance) * rng.standard_normal(flux.shape, dtype=np.float32)
    return Spectra(spectrograph.wavelength, flux.astype(np.float32), (1 / variance).astype(np.float32))


# ------------------------------------------------------------------------------------ dust, fibre and objects


#: Reddening in the scale of Schlegel, Finkbeiner & Davis (1998), in which the surveys' coefficients and the
#: column ``ebv`` are, over true reddening (Schlafly & Finkbeiner 2011, ApJ 737, 103, section 4.3).
SFD_SCALE = 0.86


def transmission(wavelength: np.ndarray, ebv: np.ndarray) -> np.ndarray:
    """Share of the light that the Galactic dust lets through (Fitzpatrick 1999, PASP 111, 63, R_V = 3.1).

    Parameters
    ----------
    wavelength : numpy.ndarray
        (L,) Angstrom, 1,000 to 33,000.
    ebv : numpy.ndarray
        (N,) E(B-V), mag.

    Returns
    -------
    numpy.ndarray
        (N, L).

    Raises
    ------
    ValueError
        When E(B-V) is negative or not a number.
    """
    ebv = np.asarray(ebv, dtype=float)
    if not (ebv >= 0).all():
        raise ValueError(f"ebv is {ebv[~(ebv >= 0)][0]}; expected 0 or more")
    curve = 3.1 * F99(Rv=3.1)(np.asarray(wavelength, dtype=float) * u.AA)
    return 10 ** (-0.4 * ebv[:, None] * curve)


_SERSIC = {"exponential": 1, "de Vaucouleurs": 4}
_MOFFAT_BETA = 3.5  # as in the images


@lru_cache(maxsize=4)
def _gaussians(profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and variances of Gaussians whose sum grows with radius as the light of a profile does.

    Lengths are half-light radii of a galaxy and FWHM of the point-spread function. The sums follow the share
    of the light within a radius to 0.0002 (after Hogg & Lang 2013, PASP 125, 719).
    """
    radius, sigma = np.geomspace(1e-3, 200, 400), np.geomspace(2e-3, 100, 28)
    if profile == "Moffat":
        scale = 0.5 / np.sqrt(2 ** (1 / _MOFFAT_BETA) - 1)
        growth = 1 - (1 + (radius / scale) ** 2) ** (1 - _MOFFAT_BETA)
    else:
        n = _SERSIC[profile]
        growth = gammainc(2 * n, gammaincinv(2 * n, 0.5) * radius ** (1 / n))
    weight = nnls(1 - np.exp(-0.5 * (radius[:, None] / sigma) ** 2), growth)[0]
    return weight[weight > 0] / weight.sum(), sigma[weight > 0] ** 2


def fibre_share(
    radius: np.ndarray, fibre: float, profile: str = "exponential", seeing: float = 1.3
) -> np.ndarray:
    """Share of the light of round sources at the centre of a fibre that goes into it.

    Parameters
    ----------
    radius : numpy.ndarray
        (N,) half-light radii, arcsec; 0 is a point source.
    fibre : float
        Diameter, arcsec.
    profile : {"exponential", "de Vaucouleurs"}
    seeing : float
        FWHM of a Moffat profile, arcsec.

    Returns
    -------
    numpy.ndarray
        (N,).

    Raises
    ------
    ValueError
        When the profile is unknown, or a radius is negative or not a number.
    """
    radius = np.asarray(radius, dtype=float)
    if profile not in _SERSIC:
        raise ValueError(f"no profile {profile!r}; expected one of {', '.join(_SERSIC)}")
    if not (radius >= 0).all():
        raise ValueError(f"a radius is {radius[~(radius >= 0)][0]}; expected 0 or more")
    (weight, variance), (psf_weight, psf_variance) = _gaussians(profile), _gaussians("Moffat")
    total = radius[:, None, None] ** 2 * variance[:, None] + seeing**2 * psf_variance
    return (1 - np.exp(-0.125 * fibre**2 / total)) @ psf_weight @ weight


def _calibrated_share(table: pd.DataFrame, fibre: float) -> np.ndarray:
    """Share of each object's light in the fibre, over the share of a point source."""
    share = np.ones(len(table))
    galaxy = (table["class"] == "GALAXY").to_numpy()
    rows = table[galaxy]
    bulge = rows["bulge_fraction"].to_numpy(float)
    share[galaxy] = bulge * fibre_share(rows["bulge_radius"], fibre, "de Vaucouleurs")
    share[galaxy] += (1 - bulge) * fibre_share(rows["disc_radius"], fibre)
    share[galaxy] /= fibre_share(np.zeros(1), fibre)
    return share


def observe_objects(
    table: pd.DataFrame, name: str, seds: Seds, rng: np.random.Generator, chunk: int = 256
) -> Spectra:
    """Take spectra of the objects of a catalogue.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`astro_utils.sky.population.draw_population` with ``ebv``.
    name : str
        A name in :data:`SPECTROGRAPHS`.
    seds : Seds
    rng : numpy.random.Generator
    chunk : int
        Objects at a time, which bounds the memory; results do not depend on it.

    Returns
    -------
    Spectra

    Raises
    ------
    ValueError
        When the name is unknown, or a column is missing or holds impossible values.
    """
    if name not in SPECTROGRAPHS:
        raise ValueError(f"no spectrograph {name!r}; expected one of {', '.join(SPECTROGRAPHS)}")
    needed = ("class", "ebv", "bulge_fraction", "bulge_radius", "disc_radius")
    if missing := [column for column in needed if column not in table]:
        raise ValueError(f"the table of objects lacks {', '.join(missing)}")
    spectrograph = SPECTROGRAPHS[name]
    edges = spectrograph.edges
    grid = np.arange(np.floor(edges[0]) - 30.0, edges[-1] + 30.0, 1.0)
    exposure = np.exp(_EXPOSURE_SCATTER * rng.standard_normal(len(table)))
    share = _calibrated_share(table, spectrograph.fibre)
    flux, ivar = np.empty((2, len(table), spectrograph.n_pixels), dtype=np.float32)
    for start in range(0, len(table), chunk):
        rows = slice(start, start + chunk)
        light = source_spectra(table.iloc[rows], grid, seds) * share[rows, None]
        light *= transmission(grid, SFD_SCALE * table["ebv"].to_numpy(float)[rows])
        observed = observe(grid, light, spectrograph, rng, exposure[rows])
        flux[rows], ivar[rows] = observed.flux, observed.ivar
    return Spectra(spectrograph.wavelength, flux, ivar)


# ----------------------------------------------------------------------- where the committed tables come from

#: Photons that reach the mirror per unit of flux, pixel and 1,000 s, over wavelength in Angstrom: 8.68 m2
#: (desimodel's GEOMAREA), 0.8 Angstrom, 1e-17 erg / (s cm2 Angstrom).
_DESI_PHOTONS = 1e-17 * 86_787 * 0.8 * 1000 / (6.62607015e-27 * 2.99792458e18)
#: Share of these that is counted, an assumption: a third (telescope, fibre, detector) of 0.6 (in the fibre).
_DESI_EFFICIENCY = 0.2
#: Effective seconds in the dark per unit of TSNR2_LRG (Guy et al. 2023, AJ 165, 144).
_DESI_SECONDS = 12.15


def noise_table(spectrograph: Spectrograph, paths: Sequence[str | Path]) -> Table:
    """Measure noise and resolution of a spectrograph in real spectra.

    Parameters
    ----------
    spectrograph : Spectrograph
        :data:`DESI` or :data:`SDSS`.
    paths : sequence of path
        DESI coadds of one target each, or ``spec-*.fits`` of SDSS.

    Returns
    -------
    astropy.table.Table
        Per pixel ``wavelength``; ``noise`` of the sky in an exposure of 1, 1e-17 erg / (s cm2 Angstrom);
        ``sigma`` of the Gaussian line spread before the integration over pixels, Angstrom, smoothed;
        ``counts``, effective photo-electrons per unit of flux and pixel in an exposure of 1.

    Raises
    ------
    ValueError
        With the file's name, when an extension or a column is missing, or the pixels are others.

    Notes
    -----
    DESI: the variance times the effective exposure, less that of the source's photons, is the sky's; the
    geometric mean of the files is taken. The sigma is the second moment of the resolution matrix. Counts are
    photons on the mirror times 0.2, because the faint targets at hand do not show their own photons.

    SDSS: where photons make the noise, (flux + sky) / variance is the number of counts per unit of flux; the
    smoothed median of the files is taken. The sky's part of the variance is sky / (flux + sky).
    """
    measure = _measure_desi if spectrograph.name == "desi" else _measure_sdss
    noise, variance, counts = measure(spectrograph, paths)
    pixel = np.diff(spectrograph.edges)
    columns = {
        "wavelength": np.round(spectrograph.wavelength, 2),
        "noise": _rounded(np.sqrt(noise), 4),
        "sigma": np.round(np.sqrt(_smooth(variance) - pixel**2 / 12), 4),
        "counts": _rounded(counts, 4),
    }
    meta = {
        "contents": f"Per pixel of spectrograph {spectrograph.name}: vacuum wavelength (Angstrom); noise of "
        f"the sky (1e-17 erg / (s cm2 Angstrom)) in an exposure of {spectrograph.unit_exposure}; sigma of "
        "the Gaussian line spread (Angstrom), without the pixel; effective photo-electrons per unit of flux.",
        "citation": _CITATIONS[spectrograph.name],
        "source": f"{', '.join(Path(path).name for path in paths)}, by astro_utils.sky.spectra.noise_table",
    }
    return Table(columns, meta=meta)


_CITATIONS = {
    "desi": "DESI Collaboration 2024, AJ 168, 58, doi:10.3847/1538-3881/ad3217 (early data release)",
    "sdss": "SDSS DR17, Abdurro'uf et al. 2022, ApJS 259, 35, doi:10.3847/1538-4365/ac4414",
}


def write_noise_table(spectrograph: Spectrograph, paths: Sequence[str | Path], path: str | Path) -> Path:
    """Write :func:`noise_table` as ECSV."""
    with atomic(path) as temporary:
        noise_table(spectrograph, paths).write(temporary, format="ascii.ecsv", delimiter=",", overwrite=True)
    return Path(path)


def _rounded(values: np.ndarray, digits: int) -> np.ndarray:
    return np.array([float(f"{value:.{digits}g}") for value in values])


def _filled(values: np.ndarray) -> np.ndarray:
    """Values with those that are not finite interpolated."""
    number, good = np.arange(len(values)), np.isfinite(values)
    return np.interp(number, number[good], values[good])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Values without what changes over fewer than a hundred pixels."""
    return gaussian_filter1d(median_filter(_filled(values), 201, mode="nearest"), 50, mode="nearest")


def _covered(values: Sequence[np.ndarray], spectrograph: Spectrograph) -> np.ndarray:
    """Values (files, pixels), if each pixel has one of some file."""
    values = np.asarray(values)
    if (empty := ~np.isfinite(values).any(0)).any():
        raise ValueError(
            f"no file has a good pixel at {spectrograph.wavelength[empty][0]:.1f} Angstrom, "
            f"one of {empty.sum()} pixels of {spectrograph.name}"
        )
    return values


def _part(hdus: fits.HDUList, name: str, path: str | Path) -> np.ndarray:
    if name not in hdus:
        raise ValueError(f"{path}: no extension {name}")
    return hdus[name].data


def _columns(rows: fits.FITS_rec, names: set[str], path: str | Path) -> fits.FITS_rec:
    if missing := names - set(rows.names):
        raise ValueError(f"{path}: a table lacks {', '.join(sorted(missing))}")
    return rows


def _measure_desi(
    spectrograph: Spectrograph, paths: Sequence[str | Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of the sky and of the line spread (files, pixels), and counts (pixels)."""
    counts = _DESI_EFFICIENCY * _DESI_PHOTONS * spectrograph.wavelength
    sky, spread = [], []
    for path in paths:
        hdus = load_fits(path)
        ivar, flux, moment = np.zeros((3, spectrograph.n_pixels))
        for arm in "BRZ":
            parts = ("WAVELENGTH", "FLUX", "IVAR", "MASK", "RESOLUTION")
            wavelength, *rest = (_part(hdus, f"{arm}_{part}", path) for part in parts)
            one_flux, one_ivar, mask, resolution = (array[0].astype(float) for array in rest)
            pixel = np.rint((wavelength - spectrograph.first) / spectrograph.step).astype(int)
            weight = np.where(mask == 0, one_ivar, 0.0)
            ivar[pixel] += weight
            flux[pixel] += weight * one_flux
            moment[pixel] += weight * _second_moment(resolution) * spectrograph.step**2
        with np.errstate(divide="ignore", invalid="ignore"):  # pixels that nothing covers become NaN
            source = np.maximum(_smooth(flux / ivar), 0) / counts
            scores = _columns(_part(hdus, "SCORES", path), {"TSNR2_LRG"}, path)
            exposure = _DESI_SECONDS * float(scores["TSNR2_LRG"][0]) / 1000
            sky.append(np.log(np.where(ivar > 0, exposure / ivar, np.nan) - source))
            spread.append(moment / ivar)
    sky, spread = (_covered(values, spectrograph) for values in (sky, spread))
    return np.exp(np.nanmean(sky, axis=0)), np.nanmean(spread, axis=0), counts


def _second_moment(resolution: np.ndarray) -> np.ndarray:
    """Variance across the diagonals (diagonals, pixels) of a resolution matrix, pixels squared."""
    offset = np.arange(len(resolution))[:, None] - len(resolution) // 2
    total = resolution.sum(0)
    return (resolution * offset**2).sum(0) / total - ((resolution * offset).sum(0) / total) ** 2


_SDSS_COLUMNS = {"flux", "ivar", "sky", "wdisp", "and_mask", "loglam"}


def _measure_sdss(
    spectrograph: Spectrograph, paths: Sequence[str | Path]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Variance of the sky and of the line spread (files, pixels), and counts (pixels)."""
    first = round(spectrograph.first / spectrograph.step)
    sky, counts, spread = np.full((3, len(paths), spectrograph.n_pixels), np.nan)
    for i, path in enumerate(paths):
        hdus = load_fits(path)
        coadd = _columns(_part(hdus, "COADD", path), _SDSS_COLUMNS, path)
        exposure = float(hdus[0].header["EXPTIME"]) / 2700
        pixel = np.rint(1e4 * coadd["loglam"].astype(float)).astype(int) - first
        good = (coadd["ivar"] > 0) & (coadd["and_mask"] & SDSS_MASK == 0) & (coadd["wdisp"] > 0)
        good &= (pixel >= 0) & (pixel < spectrograph.n_pixels) & (coadd["sky"] > 0) & (coadd["flux"] > 0)
        pixel, coadd = pixel[good], coadd[good]
        flux, light = coadd["flux"].astype(float), coadd["sky"].astype(float)
        variance = exposure / coadd["ivar"].astype(float)
        counts[i, pixel] = (flux + light) / variance
        sky[i, pixel] = variance * light / (flux + light)
        spread[i, pixel] = (coadd["wdisp"].astype(float) * np.diff(spectrograph.edges)[pixel]) ** 2
    sky, spread, counts = (
        np.nanmedian(_covered(values, spectrograph), axis=0) for values in (sky, spread, counts)
    )
    return sky, spread, _smooth(counts)
