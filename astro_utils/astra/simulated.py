"""Simulated SDSS galaxies with images in ugriz and a spectrum of the same light, and their split by sky.

simulate(path, simulation(8192, seed=5))
galaxies = read_galaxies(path)
parts = split(galaxies)                       # training, calibration, test
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.astra.grid import SDSS_GRID, deredden, normalise, rebin
from astro_utils.astra.photometric_decoder import Photometry
from astro_utils.kcorrections.features import Features, photometric_features
from astro_utils.photoz_light import elliptical_light, light_features
from astro_utils.samples import Spectra, open_sample
from astro_utils.sky.selections import photoz_sample
from astro_utils.sky.simulate import Simulation
from astro_utils.sky.surveys import SDSS
from astro_utils.splits import check_disjoint, hold_out

__all__ = [
    "FILTERS",
    "MAGNITUDE_LIMIT",
    "MAX_REDSHIFT",
    "Galaxies",
    "Parts",
    "read_galaxies",
    "simulation",
    "split",
]

#: Bands within the spectra, by which predictions are calibrated and judged.
FILTERS = ("sdss2010-g", "sdss2010-r", "sdss2010-i")
#: The sample: galaxies as the main survey of SDSS took them (Strauss et al. 2002, AJ 124, 1810), Petrosian r
#: corrected for dust, to a redshift beyond which there are hardly any.
MAGNITUDE_LIMIT, MAX_REDSHIFT = 17.77, 0.35
#: Pixels in the middle of a stamp under which light is added up.
_MIDDLE = 32
#: Arcsec, stands for a size that was not found: near the median of those that were.
_NO_MOMENTS = 1.3


def simulation(n: int, seed: int, size: int = 64) -> Simulation:
    """Galaxies of the main survey of SDSS with images in ugriz and SDSS spectra.

    Parameters
    ----------
    n : int
        Galaxies.
    seed : int
    size : int
        Pixels on a side, of 0.396 arcsec.
    """
    return Simulation(
        n_objects=n,
        survey="sdss",
        population="main_galaxies",
        seed=seed,
        size=size,
        spectrograph="sdss",
        objects_per_field=32,
    )


@dataclass(frozen=True, eq=False)
class Galaxies:
    """N galaxies in memory.

    Attributes
    ----------
    catalogue : pandas.DataFrame
        Columns of the simulated sky.
    images : numpy.ndarray
        (N, 5, size, size) float32 nanomaggies in ugriz, as observed.
    raw : Spectra
        1e-17 erg / (s cm2 Angstrom) on :data:`astro_utils.astra.grid.SDSS_GRID`, behind the Galactic dust.
    spectra : Spectra
        The same corrected for dust and at one nanomaggy in r: what is to be predicted.
    photometry : Photometry
        Dereddened fluxes in :data:`FILTERS`; features of the catalogue, and as ``"embedding"`` those of the
        light in the pixels under weights that follow the galaxy.
    """

    catalogue: pd.DataFrame
    images: np.ndarray
    raw: Spectra
    spectra: Spectra
    photometry: Photometry

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.catalogue)

    @property
    def z(self) -> np.ndarray:
        """Redshifts (N,), without error."""
        return self.catalogue["z"].to_numpy(float)

    @property
    def fields(self) -> np.ndarray:
        """Field of the sky of each galaxy, (N,)."""
        return self.catalogue["field"].to_numpy()

    @property
    def r(self) -> np.ndarray:
        """Petrosian r magnitude (N,), corrected for dust."""
        return _petrosian_r(self.catalogue)

    @property
    def is_red(self) -> np.ndarray:
        """Whether u - r, dereddened, is at least 2.22 (Strateva et al. 2001, AJ 122, 1861), (N,)."""
        return (self.catalogue["dered_u"] - self.catalogue["dered_r"]).to_numpy() >= 2.22

    @property
    def ugriz(self) -> tuple[np.ndarray, np.ndarray]:
        """Model fluxes and errors (N, 5), nanomaggies (AB), corrected for dust."""
        return _fluxes(self.catalogue)

    def select(self, rows: np.ndarray) -> Galaxies:
        """Keep some galaxies: a mask or indices."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        raw, spectra = (Spectra(s.wavelength, s.flux[rows], s.ivar[rows]) for s in (self.raw, self.spectra))
        catalogue = self.catalogue.iloc[rows].reset_index(drop=True)
        return Galaxies(catalogue, self.images[rows], raw, spectra, self.photometry.select(rows))


def _petrosian_r(table: pd.DataFrame) -> np.ndarray:
    flux = table["petro_flux_r"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 22.5 - 2.5 * np.log10(flux) - table["extinction_r"].to_numpy(float)


def _columns(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[[f"{name}_{band}" for band in SDSS.bands]].to_numpy(float)


def _fluxes(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    scale = 10 ** (0.4 * (_columns(table, "extinction") + np.array(SDSS.zero_point)))
    ivar = _columns(table, "model_flux_ivar")
    return _columns(table, "model_flux") * scale, np.where(ivar > 0, ivar, np.nan) ** -0.5 * scale


def _features(table: pd.DataFrame, images: np.ndarray) -> Features:
    """Photometry, sizes and shapes of the catalogue; then the light in the pixels."""
    features = photometric_features(photoz_sample(table), "ugriz")
    for name in ("petro_radius", "petro_r50", "petro_r90", "model_radius"):
        features = features.join("shape", np.log(table[name].to_numpy(float) + 0.05))
    for name in ("model_q", "moment_size"):
        values = table[name].to_numpy(float)  # a constant where moments did not converge
        features = features.join("shape", np.nan_to_num(values, nan=_NO_MOMENTS))
    first = (images.shape[-1] - min(_MIDDLE, images.shape[-1])) // 2
    middle = slice(first, images.shape[-1] - first)
    light, shapes = elliptical_light(images[..., middle, middle], SDSS)
    known = light_features(light, _columns(table, "extinction"), SDSS)
    for values in (*known.T, np.log(shapes.size), shapes.ellipticity, *_columns(table, "psffwhm").T):
        features = features.join("embedding", values)
    return features


def read_galaxies(path: str | Path) -> Galaxies:
    """Read a simulated sample and measure what predictors are told.

    Galaxies that are too faint for the sample, beyond its redshifts, blank, or without a positive flux in a
    band of :data:`FILTERS` are left out.

    Raises
    ------
    ValueError
        When the sample is not a simulated one of SDSS images and SDSS spectra.
    """
    with open_sample(path) as sample:
        made = sample.info.provenance.get("simulation")
        if made is None or (made["survey"], made["spectrograph"]) != ("sdss", "sdss"):
            raise ValueError(f"{path}: expected a simulated sample of SDSS images with SDSS spectra")
        parts = []
        for block in sample.blocks():
            table = block.catalogue
            flux = _columns(table, "model_flux")[:, 1:4]
            keep = ~table["blank"].to_numpy(bool) & (table["z"].to_numpy() < MAX_REDSHIFT)
            keep &= (_petrosian_r(table) < MAGNITUDE_LIMIT) & (flux > 0).all(1)
            keep &= (block.spectra.ivar > 0).any(1)
            spectra = block.spectra
            parts.append((table[keep], block.images[keep], spectra.flux[keep], spectra.ivar[keep]))
            wavelength = spectra.wavelength
    table = pd.concat([part[0] for part in parts], ignore_index=True)
    images, flux, ivar = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    raw = rebin(Spectra(wavelength, flux, ivar), SDSS_GRID)
    extinction = _columns(table, "extinction")
    spectra, _ = normalise(deredden(raw, extinction[:, SDSS.index] / SDSS.extinction[SDSS.index]))
    flux, error = _fluxes(table)
    photometry = Photometry(_features(table, images), flux[:, 1:4], error[:, 1:4], FILTERS)
    return Galaxies(table, images, raw, spectra, photometry)


@dataclass(frozen=True)
class Parts:
    """Indices of galaxies of different fields of the sky: (n,) each."""

    train: np.ndarray
    calibration: np.ndarray
    test: np.ndarray


def split(galaxies: Galaxies, seed: int = 0) -> Parts:
    """Part the fields: a fifth for the test, a sixth of the rest for calibration.

    Raises
    ------
    ValueError
        When a field is in two parts.
    """
    test = hold_out(galaxies.fields, 0.2, seed)
    calibration = ~test
    calibration[calibration] = hold_out(galaxies.fields[~test], 1 / 6, seed + 1)
    train = ~test & ~calibration
    rows = Parts(*(np.flatnonzero(mask) for mask in (train, calibration, test)))
    for one, other in (
        (rows.train, rows.test),
        (rows.calibration, rows.test),
        (rows.train, rows.calibration),
    ):
        check_disjoint(galaxies.fields[one], galaxies.fields[other], "fields")
    return rows
