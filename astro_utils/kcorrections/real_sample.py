"""Photometry of 10,000 real SDSS galaxies for k-corrections, from the far ultraviolet to 2.2 micrometres.

The table ships with `kcorrect` (Blanton & Roweis 2007, AJ 133, 734). It has ugriz of every galaxy, 2MASS of
nearly all and GALEX of a few hundred, redshifts and positions, but no k-correction: what stands for the truth
is fitted, see :mod:`astro_utils.kcorrections.truth`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from astropy.io import fits
from kcorrect.utils import sdss_ab_correct

from astro_utils.galaxies import galaxy_sample, sdss_galaxies
from astro_utils.photometry import SDSS_BANDS, deredden

__all__ = ["ALL_BANDS", "MAX_REDSHIFT", "OPTICAL", "Photometry", "wheel_photometry", "with_error_floors"]

#: Far and near ultraviolet (GALEX), ugriz (SDSS), J, H, Ks (2MASS).
ALL_BANDS = ("FUV", "NUV", *SDSS_BANDS, "J", "H", "Ks")
OPTICAL = tuple(SDSS_BANDS)

#: Relative errors added in quadrature: zero points, and what templates cannot follow. Those of ugriz are the
#: ones that kcorrect took for SDSS by default in its version 4; the others are wider, for other apertures.
ERROR_FLOORS = {
    **dict.fromkeys(("FUV", "NUV"), 0.1),
    **dict(zip(OPTICAL, (0.05, 0.02, 0.02, 0.02, 0.03), strict=True)),
    **dict.fromkeys(("J", "H", "Ks"), 0.05),
}

#: Where FastSpecFit's K to ^0.1 r switches from the r to the z band, and the samples of the comparison end.
MAX_REDSHIFT = 0.3885

#: AB minus Vega magnitudes of 2MASS (Blanton et al. 2005, AJ 129, 2562).
_VEGA_TO_AB = {"J": 0.91, "H": 1.39, "Ks": 1.85}
#: AB magnitude of one count per second of GALEX (Morrissey et al. 2007, ApJS 173, 682).
_GALEX_ZERO_POINT = {"FUV": 18.82, "NUV": 20.08}
#: A / E(B-V): GALEX from Wyder et al. (2007, ApJS 173, 293); SDSS r and 2MASS from Schlegel, Finkbeiner &
#: Davis (1998, ApJ 500, 525, table 6), by which the table's own extinctions were made.
_EXTINCTION = {"FUV": 8.24, "NUV": 8.2, "r": 2.751, "J": 0.902, "H": 0.576, "Ks": 0.367}


@dataclass(frozen=True, eq=False)
class Photometry:
    """Galaxies as they are measured: behind the dust of the Galaxy.

    Attributes
    ----------
    bands : tuple of str
        Names of the columns.
    flux : numpy.ndarray
        (N, B) nanomaggies in the AB system.
    ivar : numpy.ndarray
        (N, B) nanomaggies^-2 of the catalogue, 0 where not measured.
    extinction : numpy.ndarray
        (N, B) magnitudes.
    z : numpy.ndarray
        (N,) spectroscopic redshifts.
    """

    bands: tuple[str, ...]
    flux: np.ndarray
    ivar: np.ndarray
    extinction: np.ndarray
    z: np.ndarray

    def __post_init__(self):
        shape = (len(self.z), len(self.bands))
        for name in ("flux", "ivar", "extinction"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {getattr(self, name).shape}; expected {shape}")

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.z)

    def select(self, rows: np.ndarray | slice) -> Photometry:
        """Keep some galaxies: a mask, indices or a slice."""
        return Photometry(self.bands, self.flux[rows], self.ivar[rows], self.extinction[rows], self.z[rows])

    def only(self, bands: tuple[str, ...] | str) -> Photometry:
        """Keep some bands, in the given order.

        Raises
        ------
        ValueError
            When a band is not here.
        """
        for band in bands:
            if band not in self.bands:
                raise ValueError(f"no band {band!r}; expected some of {', '.join(self.bands)}")
        columns = [self.bands.index(band) for band in bands]
        return Photometry(
            tuple(bands),
            self.flux[:, columns],
            self.ivar[:, columns],
            self.extinction[:, columns],
            self.z,
        )

    def dereddened(self) -> tuple[np.ndarray, np.ndarray]:
        """Fluxes and inverse variances (N, B) corrected for Galactic extinction."""
        return deredden(self.flux, self.ivar, self.extinction)


def with_error_floors(flux: np.ndarray, ivar: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Add the relative errors :data:`ERROR_FLOORS` in quadrature.

    Parameters
    ----------
    flux, ivar : numpy.ndarray
        (N, B) nanomaggies and nanomaggies^-2.
    bands : tuple of str
        (B,) names in :data:`ALL_BANDS`.

    Returns
    -------
    numpy.ndarray
        (N, B) nanomaggies^-2; what is not measured stays 0.
    """
    unknown = [band for band in bands if band not in ERROR_FLOORS]
    if unknown:
        raise ValueError(f"no error floor for band {unknown[0]!r}; expected {', '.join(ERROR_FLOORS)}")
    floor = np.array([ERROR_FLOORS[band] for band in bands])
    measured = ivar > 0
    variance = 1 / np.where(measured, ivar, 1.0) + (floor * flux) ** 2
    return np.where(measured, 1 / variance, 0.0)


def wheel_photometry(*, ab_correct: bool = True) -> tuple[Photometry, pd.DataFrame]:
    """Read the 10,000 galaxies; no row is dropped.

    Parameters
    ----------
    ab_correct : bool
        Whether SDSS fluxes are moved from the survey's own system to AB as `kcorrect` does (-0.036, 0.012,
        0.010, 0.028 and 0.040 mag in ugriz). Without, kcorrect is told of colours that are not AB.

    Returns
    -------
    photometry : Photometry
        Bands :data:`ALL_BANDS`: SDSS model fluxes, 2MASS extended-source and GALEX `FLUX_AUTO` magnitudes.
    sample : pandas.DataFrame
        The same galaxies from :func:`astro_utils.galaxies.galaxy_sample`: features, ``ra``, ``dec``, ``z``
        and ``pixel``, by which the sky is split.
    """
    sample = galaxy_sample()
    with fits.open(sdss_galaxies()) as hdus:
        table = {name: np.asarray(hdus[1].data[name], dtype=float) for name in hdus[1].columns.names}
    optical, optical_ivar = table["MODELFLUX"], table["MODELFLUX_IVAR"]
    if ab_correct:
        optical, optical_ivar = sdss_ab_correct(maggies=optical, ivar=optical_ivar)
    flux = dict(zip(OPTICAL, optical.T, strict=True))
    ivar = dict(zip(OPTICAL, optical_ivar.T, strict=True))
    for band, zero_point in _GALEX_ZERO_POINT.items():
        rate, error = table[f"{band}_FLUX_AUTO"], table[f"{band}_FLUXERR_AUTO"]
        flux[band], ivar[band] = _galex(rate, error, zero_point)
    for band, to_ab in _VEGA_TO_AB.items():
        magnitude, error = table[f"{band[0]}_M_EXT"], table[f"{band[0]}_MSIG_EXT"]
        flux[band], ivar[band] = _twomass(magnitude, error, to_ab)
    extinction = dict(zip(OPTICAL, table["EXTINCTION"].T, strict=True))
    reddening = extinction["r"] / _EXTINCTION["r"]
    extinction |= {band: reddening * _EXTINCTION[band] for band in ALL_BANDS if band not in OPTICAL}
    stacked = (np.stack([values[band] for band in ALL_BANDS], 1) for values in (flux, ivar, extinction))
    return Photometry(ALL_BANDS, *stacked, z=table["Z"]), sample


def _galex(rate: np.ndarray, error: np.ndarray, zero_point: float) -> tuple[np.ndarray, np.ndarray]:
    """Convert counts per second to nanomaggies; -99 marks what is not in the catalogue."""
    scale = 10 ** (0.4 * (22.5 - zero_point))
    measured = (rate > -99) & (error > 0)
    return (
        np.where(measured, rate * scale, 0.0),
        np.where(measured, 1 / np.where(measured, error * scale, 1.0) ** 2, 0.0),
    )


def _twomass(magnitude: np.ndarray, error: np.ndarray, to_ab: float) -> tuple[np.ndarray, np.ndarray]:
    """Convert Vega magnitudes to nanomaggies; 0 marks what is not in the catalogue."""
    measured = (magnitude > 0) & (error > 0)
    flux = np.where(measured, 10 ** (0.4 * (22.5 - magnitude - to_ab)), 0.0)
    sigma = np.where(measured, flux * error * np.log(10) / 2.5, 1.0)
    return flux, np.where(measured, 1 / sigma**2, 0.0)
