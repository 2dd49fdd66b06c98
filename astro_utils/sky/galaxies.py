"""Galaxy spectra: five templates, with the mixtures that 10,000 real SDSS galaxies have.

The templates are those of kcorrect v4 (Blanton & Roweis 2007, AJ 133, 734): non-negative sums of
stellar-population models with dust and nebular lines, 600 Angstrom to 320 micrometres. A galaxy is a redshift
and five coefficients; its spectrum, its flux in any band and its k-correction follow without error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

import numpy as np
import pandas as pd
from astropy.cosmology import FlatLambdaCDM
from astropy.io import fits
from scipy.interpolate import CubicSpline
from scipy.optimize import nnls

from astro_utils.galaxies import sdss_galaxies
from astro_utils.photometry import deredden
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.surveys import SDSS

__all__ = ["COSMOLOGY", "GalaxyTemplates", "distance_modulus", "real_galaxies"]

#: The cosmology of every simulated distance; h = 0.7.
COSMOLOGY = FlatLambdaCDM(H0=70.0, Om0=0.3)

_Z_GRID = np.linspace(0.0, 1.6, 321)
_WAVELENGTH = np.arange(2900.0, 11300.0, 2.0)
#: Relative errors added to the catalogue's in ugriz: what the templates cannot follow.
_FLOOR = np.array([0.05, 0.02, 0.02, 0.02, 0.03])


def distance_modulus(z: np.ndarray) -> np.ndarray:
    """Distance modulus, mag."""
    return COSMOLOGY.distmod(np.asarray(z)).value


@dataclass(frozen=True, eq=False)
class GalaxyTemplates:
    """Rest-frame template spectra.

    Attributes
    ----------
    wavelength : numpy.ndarray
        (L,) Angstrom, vacuum.
    flux : numpy.ndarray
        (T, L) F_lambda, each with one nanomaggy in SDSS r (AB) at redshift 0.
    """

    wavelength: np.ndarray
    flux: np.ndarray

    @classmethod
    def load(cls, name: str = "kcorrect-default-v4.fits") -> GalaxyTemplates:
        """Read the templates that the package `kcorrect` ships."""
        path = resources.files("kcorrect") / "data" / "templates" / name
        with resources.as_file(path) as local, fits.open(local) as hdus:
            wavelength = np.asarray(hdus["FLUX"].data["wave"][0], dtype=float)
            flux = np.asarray(hdus["FLUX"].data["flux"][0], dtype=float).reshape(-1, len(wavelength))
        weights = band_weights(["sdss2010-r"], _WAVELENGTH)
        r_flux = np.array([np.interp(_WAVELENGTH, wavelength, template) for template in flux]) @ weights
        return cls(wavelength, flux / r_flux)

    def spectra(self, wavelength: np.ndarray, z: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """Observed spectra.

        Parameters
        ----------
        wavelength : numpy.ndarray
            (L,) observed, Angstrom.
        z : numpy.ndarray
            (N,) redshifts.
        coefficients : numpy.ndarray
            (N, T).

        Returns
        -------
        numpy.ndarray
            (N, L) F_lambda, 1e-17 erg / (s cm2 Angstrom).
        """
        out = np.empty((len(z), len(wavelength)))
        for i, (redshift, mixture) in enumerate(zip(z, coefficients, strict=True)):
            rest = wavelength / (1 + redshift)
            out[i] = np.interp(rest, self.wavelength, mixture @ self.flux) / (1 + redshift)
        return out

    def band_table(self, filters: Sequence[str]) -> CubicSpline:
        """Flux of each template in each band as a function of redshift (0 to 1.6): z -> (N, T, bands)."""
        weights = band_weights(filters, _WAVELENGTH)
        table = np.array(
            [
                np.array([np.interp(_WAVELENGTH / (1 + z), self.wavelength, t) for t in self.flux])
                / (1 + z)
                @ weights
                for z in _Z_GRID
            ]
        )
        return CubicSpline(_Z_GRID, table, extrapolate=False)

    @cached_property
    def redness(self) -> np.ndarray:
        """Rest-frame g - r of each template, (T,) mag; old populations are red."""
        g_flux = self.band_table(["sdss2010-g", "sdss2010-r"])(0.0)
        return -2.5 * np.log10(g_flux[:, 0] / g_flux[:, 1])


def fit_coefficients(
    templates: GalaxyTemplates, z: np.ndarray, flux: np.ndarray, ivar: np.ndarray
) -> np.ndarray:
    """Non-negative template coefficients of galaxies with SDSS photometry.

    Parameters
    ----------
    templates : GalaxyTemplates
    z : numpy.ndarray
        (N,) redshifts.
    flux, ivar : numpy.ndarray
        (N, 5) dereddened SDSS fluxes in ugriz, nanomaggies of the survey's own system; inverse variances.

    Returns
    -------
    numpy.ndarray
        (N, T); coefficients are nanomaggies in r at redshift 0 of what each template contributes.
    """
    to_ab = 10 ** (0.4 * np.array(SDSS.zero_point))
    flux, ivar = flux * to_ab, ivar / to_ab**2
    variance = 1 / np.where(ivar > 0, ivar, 1e-6) + (_FLOOR * flux) ** 2
    scale = 1 / np.sqrt(variance)
    model = templates.band_table(SDSS.filters)(z)  # (N, T, bands)
    return np.array([nnls((m * s).T, f * s)[0] for m, f, s in zip(model, flux, scale, strict=True)])


def real_galaxies(templates: GalaxyTemplates) -> pd.DataFrame:
    """Mixtures of the 10,000 real galaxies.

    Returns
    -------
    pandas.DataFrame
        ``z``; ``c0`` ... the coefficients; ``abs_mag``, the absolute magnitude in rest-frame r (AB, h = 0.7);
        ``rest_gr``, the rest-frame g - r; ``fit_u`` ... ``fit_z``, observed minus fitted magnitudes. Galaxies
        that no mixture fits (a red chi-square tail or a flux that is not positive, 1 in 100) are left out.
    """
    with fits.open(sdss_galaxies()) as hdus:
        table = {
            n: np.asarray(hdus[1].data[n], dtype=float)
            for n in ("Z", "MODELFLUX", "MODELFLUX_IVAR", "EXTINCTION")
        }
    z = table["Z"]
    flux, ivar = deredden(table["MODELFLUX"], table["MODELFLUX_IVAR"], table["EXTINCTION"])
    coefficients = fit_coefficients(templates, z, flux, ivar)
    fitted = np.einsum("nt,ntb->nb", coefficients, templates.band_table(SDSS.filters)(z))
    fitted = fitted / 10 ** (0.4 * np.array(SDSS.zero_point))
    with np.errstate(invalid="ignore", divide="ignore"):
        residual = -2.5 * np.log10(flux / fitted)
    good = np.isfinite(residual).all(1) & (np.abs(residual[:, 1:]) < 0.15).all(1) & (coefficients.sum(1) > 0)
    rest = np.einsum("nt,tb->nb", coefficients, templates.band_table(("sdss2010-g", "sdss2010-r"))(0.0))
    columns = {"z": z, **{f"c{i}": c for i, c in enumerate(coefficients.T)}}
    with np.errstate(divide="ignore", invalid="ignore"):
        columns["rest_gr"] = -2.5 * np.log10(rest[:, 0] / rest[:, 1])
        columns["abs_mag"] = 22.5 - 2.5 * np.log10(rest[:, 1]) - distance_modulus(z)
    columns |= {f"fit_{b}": residual[:, i] for i, b in enumerate(SDSS.bands)}
    return pd.DataFrame(columns)[good].reset_index(drop=True)
