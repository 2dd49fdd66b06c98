"""Units and meanings of the columns of simulated samples."""

from __future__ import annotations

import pandas as pd

from astro_utils.samples import Column
from astro_utils.sky.quasars import QUASAR_COLUMNS
from astro_utils.sky.surveys import Survey

__all__ = ["describe"]

_OBJECT = {
    "object_id": ("", "identifier"),
    "ra": ("deg", "right ascension, ICRS"),
    "dec": ("deg", "declination, ICRS"),
    "field": ("", "number of the field; objects of one field share PSF, sky noise and Galactic dust"),
    "class": ("", "true class: GALAXY, QSO or STAR"),
    "programme": ("", "programme of the population that the object belongs to"),
    "parent": ("", "row of the real galaxy whose template mixture was varied, -1 for stars and quasars"),
    "z": ("", "true redshift"),
    "r_mag": ("mag", "true AB magnitude in SDSS r, above the Galactic dust"),
    "abs_mag": ("mag", "true absolute magnitude in rest-frame SDSS r, h = 0.7"),
    "rest_gr": ("mag", "true rest-frame g - r"),
    "radius": ("arcsec", "true half-light radius"),
    "bulge_fraction": ("", "true share of the bulge in rest-frame r"),
    "bulge_radius": ("arcsec", "true half-light radius of the bulge (de Vaucouleurs)"),
    "disc_radius": ("arcsec", "true half-light radius of the disc (exponential)"),
    "bulge_q": ("", "true axis ratio of the bulge"),
    "disc_q": ("", "true axis ratio of the disc"),
    "angle": ("rad", "true position angle, from +x to +y"),
    "star": ("", "row of the spectrum in the stellar library, -1 where there is none"),
    "tilt": ("", "slope by which the stellar spectrum was varied, unit normal"),
    "curve": ("", "curvature by which the stellar spectrum was varied, unit normal"),
    "ebv": ("mag", "true E(B-V) of the Galaxy"),
    "neighbour_distance": ("arcsec", "distance of the second object in the stamp"),
    "blank": ("", "a band of the stamp holds no signal at all"),
    "centroid_x": ("pixel", "measured position from the centre of the stamp"),
    "centroid_y": ("pixel", "measured position from the centre of the stamp"),
    "model_kind": ("", "better model in the reference band: 0 de Vaucouleurs, 1 exponential"),
    "model_radius": ("arcsec", "half-light radius of the better model"),
    "model_q": ("", "axis ratio of the better model"),
    "petro_radius": ("arcsec", "Petrosian radius in the reference band"),
    "petro_r50": ("arcsec", "radius of half of the Petrosian flux"),
    "petro_r90": ("arcsec", "radius of 90 % of the Petrosian flux"),
    "moment_size": ("arcsec", "sigma of the adaptive moments in the reference band, PSF included"),
    "moment_e1": ("", "ellipticity of the adaptive moments, PSF included"),
    "moment_e2": ("", "ellipticity of the adaptive moments, PSF included"),
    **{f"c{t}": ("nanomaggy", f"coefficient of galaxy template {t}: r flux at redshift 0") for t in range(5)},
}

_BAND = {
    "true_flux": ("nanomaggy", "true flux as it reaches the telescope, survey system"),
    "dered": ("mag", "model magnitude (asinh), corrected for Galactic extinction"),
    "radius": ("arcsec", "de Vaucouleurs half-light radius, fitted in this band"),
    "deVRad_err": ("arcsec", "error of the de Vaucouleurs radius"),
    "psffwhm": ("arcsec", "FWHM of the PSF as the pipeline estimates it"),
    "extinction": ("mag", "Galactic extinction of the dust map"),
    "sigma": ("nanomaggy", "noise of the sky in one pixel"),
    "psf_flux": ("nanomaggy", "PSF flux, not corrected for extinction"),
    "model_flux": ("nanomaggy", "model flux, not corrected for extinction"),
    "petro_flux": ("nanomaggy", "Petrosian flux, not corrected for extinction"),
    "psf_flux_ivar": ("nanomaggy-2", "inverse variance of the PSF flux"),
    "model_flux_ivar": ("nanomaggy-2", "inverse variance of the model flux"),
    "petro_flux_ivar": ("nanomaggy-2", "inverse variance of the Petrosian flux"),
}


def describe(table: pd.DataFrame, survey: Survey) -> dict[str, Column]:
    """Columns of a table with unit and meaning.

    Raises
    ------
    KeyError
        When a column has no description.
    """
    known = _OBJECT | QUASAR_COLUMNS
    for band in survey.bands:
        known |= {f"{name}_{band}": (unit, f"{text}, {band}") for name, (unit, text) in _BAND.items()}
    for blue, red in zip(survey.bands, survey.bands[1:], strict=False):
        known[f"{blue}_{red}"] = (
            "mag",
            f"colour {blue} - {red} of model magnitudes, not corrected for extinction",
        )
    unknown = [name for name in table if name not in known]
    if unknown:
        raise KeyError(f"no description of column {', '.join(unknown)}")
    return {name: Column(*known[name]) for name in table}
