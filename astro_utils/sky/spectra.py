"""Fibre spectra of the simulated sky, as the spectrographs of SDSS and DESI would take them.

A spectrum is dimmed by the Galactic dust, loses what misses the fibre, is spread by the spectrograph,
integrated over its pixels and given noise: that of the sky, and that of the source's own photons. Flux is on
the scale of the surveys, which calibrate with stars: a point source has its total flux, and an extended one
the total flux times the share of its light in the fibre over that of a point source.

Noise and resolution are columns of ``data/sky/<name>_noise.ecsv``, made from real spectra by
:mod:`astro_utils.sky.noise_tables`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from scipy.sparse import csr_array
from scipy.special import ndtr

from astro_utils.paths import project_root
from astro_utils.samples import Spectra
from astro_utils.sky.fibres import SFD_SCALE, fibre_share, transmission
from astro_utils.sky.seds import Seds, source_spectra

__all__ = [
    "DESI",
    "SDSS",
    "SPECTROGRAPHS",
    "Projector",
    "Spectrograph",
    "observe",
    "observe_objects",
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
