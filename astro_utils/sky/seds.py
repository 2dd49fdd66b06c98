"""The spectra of the simulated sky in one place: read once, handed to every step that needs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from astro_utils.sky.bandpasses import band_weights, effective_wavelength
from astro_utils.sky.galaxies import GalaxyTemplates, real_galaxies
from astro_utils.sky.quasars import quasar_spectra
from astro_utils.sky.second_family import single_age_templates
from astro_utils.sky.stars import StellarLibrary, stellar_library
from astro_utils.sky.surveys import Survey

__all__ = ["FAMILIES", "Seds", "component_fluxes", "load_seds", "source_spectra"]

#: Wavelengths on which quasars are integrated through filters, Angstrom: their lines are broader than this.
_COARSE = np.arange(2900.0, 11200.0, 10.0)


@dataclass(frozen=True, eq=False)
class Seds:
    """Spectra of every class.

    Attributes
    ----------
    templates : GalaxyTemplates
        Galaxy templates.
    real : pandas.DataFrame
        Mixtures of real galaxies, from :func:`astro_utils.sky.galaxies.real_galaxies`.
    stars : StellarLibrary
        Stellar spectra.
    """

    templates: GalaxyTemplates
    real: pd.DataFrame
    stars: StellarLibrary

    def galaxy_bands(self, *filters: str) -> CubicSpline:
        """Flux of each galaxy template in bands against redshift; see :meth:`GalaxyTemplates.band_table`."""
        return _band_table(self.templates, filters)


@lru_cache(maxsize=8)
def _band_table(templates: GalaxyTemplates, filters: tuple[str, ...]) -> CubicSpline:
    return templates.band_table(filters)


#: Families of galaxy spectra.
FAMILIES = {"kcorrect": GalaxyTemplates.load, "single_age": single_age_templates}


@lru_cache(maxsize=2)
def load_seds(family: str = "kcorrect") -> Seds:
    """Read the spectra from the installed packages; some seconds the first time, then from the cache.

    Parameters
    ----------
    family : str
        Galaxy spectra, a name in :data:`FAMILIES`.
    """
    templates = FAMILIES[family]()
    return Seds(templates, real_galaxies(templates), stellar_library())


def bulge_mixtures(coefficients: np.ndarray, fraction: np.ndarray, redness: np.ndarray) -> np.ndarray:
    """Part of each template that is in the bulge.

    The bulge holds a given share of the light in rest-frame r, and of the red templates more than of the blue
    ones, so that galaxies have colour gradients while their total spectrum stays what it was.

    Parameters
    ----------
    coefficients : numpy.ndarray
        (N, T) of the whole galaxy.
    fraction : numpy.ndarray
        (N,) share of the bulge.
    redness : numpy.ndarray
        (T,) rest-frame g - r of the templates.

    Returns
    -------
    numpy.ndarray
        (N, T), between 0 and `coefficients`.
    """
    red = redness > 0.5
    red_share = coefficients[:, red].sum(1) / coefficients.sum(1)
    in_blue = 0.3 * fraction
    with np.errstate(divide="ignore", invalid="ignore"):
        in_red = np.where(red_share > 0, (fraction - in_blue * (1 - red_share)) / red_share, fraction)
    in_red = np.minimum(in_red, 1.0)
    return coefficients * np.where(red, in_red[:, None], in_blue[:, None])


def component_fluxes(
    table: pd.DataFrame, survey: Survey, seds: Seds, ebv: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fluxes of point source, bulge and disc of each object, as they reach the telescope.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`astro_utils.sky.population.draw_population`.
    survey : Survey
    seds : Seds
    ebv : numpy.ndarray
        (N,) Galactic reddening.

    Returns
    -------
    point, bulge, disc : numpy.ndarray
        (N, bands) nanomaggies in the survey's photometric system, behind the Galactic dust. Quasars and stars
        are points; what an object has not is 0.
    """
    point, bulge, disc = np.zeros((3, len(table), len(survey.bands)))
    kind = table["class"].to_numpy()
    galaxy, star, quasar = (np.flatnonzero(kind == name) for name in ("GALAXY", "STAR", "QSO"))
    if len(galaxy):
        rows = table.iloc[galaxy]
        coefficients = _coefficients(rows)
        per_template = seds.galaxy_bands(*survey.filters)(rows["z"].to_numpy())  # (N, T, bands)
        inner = bulge_mixtures(coefficients, rows["bulge_fraction"].to_numpy(), seds.templates.redness)
        bulge[galaxy] = np.einsum("nt,ntb->nb", inner, per_template)
        disc[galaxy] = np.einsum("nt,ntb->nb", coefficients - inner, per_template)
    if len(star):
        rows = table.iloc[star]
        library = seds.stars.flux[rows["star"].to_numpy(int)] @ band_weights(
            survey.filters, seds.stars.wavelength
        )
        centres = np.array([effective_wavelength(name) for name in survey.filters])
        library *= perturbation(centres, rows["tilt"].to_numpy(), rows["curve"].to_numpy())
        point[star] = library * 10 ** (0.4 * (22.5 - rows["r_mag"].to_numpy()))[:, None]
    if len(quasar):
        rows = table.iloc[quasar]
        point[quasar] = _quasar_flux(rows, _COARSE) @ band_weights(survey.filters, _COARSE)
    dimming = 10 ** (-0.4 * (ebv[:, None] * np.array(survey.extinction) + np.array(survey.zero_point)))
    return point * dimming, bulge * dimming, disc * dimming


def source_spectra(table: pd.DataFrame, wavelength: np.ndarray, seds: Seds) -> np.ndarray:
    """Spectra of the objects above the Galactic dust.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of :func:`astro_utils.sky.population.draw_population`.
    wavelength : numpy.ndarray
        (L,) observed, Angstrom, within 2,900 to 11,200.
    seds : Seds

    Returns
    -------
    numpy.ndarray
        (N, L) F_lambda, 1e-17 erg / (s cm2 Angstrom), of the whole object (no fibre losses).
    """
    out = np.empty((len(table), len(wavelength)), dtype=np.float32)
    kind = table["class"].to_numpy()
    galaxy, star, quasar = (np.flatnonzero(kind == name) for name in ("GALAXY", "STAR", "QSO"))
    if len(galaxy):
        rows = table.iloc[galaxy]
        out[galaxy] = seds.templates.spectra(wavelength, rows["z"].to_numpy(), _coefficients(rows))
    for i in star:
        row = table.iloc[i]
        flux = np.interp(wavelength, seds.stars.wavelength, seds.stars.flux[int(row["star"])])
        scale = perturbation(wavelength, np.array([row["tilt"]]), np.array([row["curve"]]))[0]
        out[i] = flux * scale * 10 ** (0.4 * (22.5 - row["r_mag"]))
    if len(quasar):
        out[quasar] = _quasar_flux(table.iloc[quasar], wavelength)
    return out


def perturbation(wavelength: np.ndarray, tilt: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Smooth change of a stellar spectrum, so that no two stars are alike.

    A slope and a curvature in ln(wavelength / 6,200 Angstrom) of unit normal `tilt` and `curve`: 0.02 mag rms
    between g and i, which is the width of the stellar locus (Ivezic et al. 2004, AN 325, 583).

    Returns
    -------
    numpy.ndarray
        (N, L) factors, 1 at 6,200 Angstrom.
    """
    x = np.log(wavelength / 6200.0)
    return np.exp(0.04 * tilt[:, None] * x + 0.06 * curve[:, None] * x**2)


def _coefficients(rows: pd.DataFrame) -> np.ndarray:
    return rows[[f"c{t}" for t in range(5)]].to_numpy(float)


def _quasar_flux(rows: pd.DataFrame, wavelength: np.ndarray) -> np.ndarray:
    """Quasar spectra scaled to their r magnitude, (N, L)."""
    coarse = quasar_spectra(rows, _COARSE)
    r_flux = coarse @ band_weights(["sdss2010-r"], _COARSE)[:, 0]
    spectra = coarse if wavelength is _COARSE else quasar_spectra(rows, wavelength)
    return spectra * (10 ** (0.4 * (22.5 - rows["r_mag"].to_numpy())) / r_flux)[:, None]
