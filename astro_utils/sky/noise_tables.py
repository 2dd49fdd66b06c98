"""How ``data/sky/*_noise.ecsv`` were made: noise and resolution of the spectrographs in real spectra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from scipy.ndimage import gaussian_filter1d, median_filter

from astro_utils.frames import load_fits
from astro_utils.results import atomic
from astro_utils.sky.spectra import Spectrograph
from astro_utils.spectra_files import SDSS_MASK

__all__ = ["noise_table", "write_noise_table"]

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
        "source": f"{', '.join(Path(path).name for path in paths)}, "
        "by astro_utils.sky.noise_tables.noise_table",
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
