"""What stands for the true k-correction of a real galaxy: a template fit to all the photometry that it has.

No survey measures K. Five bands around the one that K is of pin the spectrum between them, ten bands from
0.15 to 2.2 micrometres more so; the fit is kcorrect's either way. Two things follow, and every table says so:

- *Circular*: a method that fits kcorrect's templates to the same bands repeats the truth, whatever the truth
  is worth. K by kcorrect from ugriz at the spectroscopic redshift has R2 = 1 against the ugriz truth, and
  means nothing.
- *Favoured*: a method that fits the same templates to fewer bands shares their errors; its scores are upper
  bounds. Only a method that learns from the truth of other galaxies, or takes other templates, is free of
  that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.kcorrections.real_sample import OPTICAL, Photometry, with_error_floors
from astro_utils.kcorrections.templates import (
    MAX_CHI2,
    Bandpasses,
    TemplateFit,
    fit_templates,
    k_correction,
)

__all__ = ["RESPONSES", "KTruth", "circularity", "circularity_of", "pseudo_truth"]

#: Responses of kcorrect for the bands of :data:`astro_utils.kcorrections.real_sample.ALL_BANDS`.
RESPONSES = {
    "FUV": "galex_FUV",
    "NUV": "galex_NUV",
    **{b: f"sdss_{b}0" for b in OPTICAL},
    "J": "twomass_J",
    "H": "twomass_H",
    "Ks": "twomass_Ks",
}


@dataclass(frozen=True, eq=False)
class KTruth:
    """Pseudo-true k-corrections.

    Attributes
    ----------
    k : numpy.ndarray
        (N,) K from the observed band to the same band at `band_shift`, mag; NaN where there is none.
    fit : TemplateFit
        Coefficients, and which galaxies failed and why.
    bands : tuple of str
        What was fitted.
    band, band_shift : str, float
        What K is of.
    """

    k: np.ndarray
    fit: TemplateFit
    bands: tuple[str, ...]
    band: str
    band_shift: float

    @property
    def good(self) -> np.ndarray:
        """Mask of galaxies with a truth, (N,)."""
        return np.isfinite(self.k)

    @property
    def sound(self) -> np.ndarray:
        """Mask of galaxies whose truth follows the photometry, chi2 below ``MAX_CHI2``, (N,)."""
        return self.good & (self.fit.chi2 < MAX_CHI2)


def pseudo_truth(
    photometry: Photometry,
    bands: tuple[str, ...] = OPTICAL,
    *,
    band: str = "r",
    band_shift: float = 0.1,
    error_floors: bool = True,
) -> KTruth:
    """Fit kcorrect's templates to `bands` and take K of the fit.

    Parameters
    ----------
    photometry : Photometry
    bands : tuple of str
        ``OPTICAL`` for the truth of all galaxies, ``ALL_BANDS`` for the few that have all ten. Galaxies that
        lack one of them fail as "photometry".
    band : str
        Band of the k-correction, among `bands`.
    band_shift : float
        Of the output band.
    error_floors : bool
        Whether errors get the floors of :data:`astro_utils.kcorrections.real_sample.ERROR_FLOORS`.

    Returns
    -------
    KTruth
    """
    if band not in bands:
        raise ValueError(f"K of band {band!r}, which is not among those fitted: {', '.join(bands)}")
    chosen = photometry.only(bands)
    flux, ivar = chosen.dereddened()
    complete = (chosen.ivar > 0).all(1)
    if error_floors:
        ivar = with_error_floors(flux, ivar, chosen.bands)
    ivar = np.where(complete[:, None], ivar, np.nan)
    setup = Bandpasses(tuple(RESPONSES[b] for b in bands), ((RESPONSES[band], RESPONSES[band]),))
    fit = fit_templates(setup, flux, ivar, photometry.z)
    return KTruth(
        k_correction(setup, fit.coefficients, photometry.z, band_shift)[:, 0], fit, bands, band, band_shift
    )


def circularity(truth: KTruth, bands: tuple[str, ...], *, templates: bool, knows_redshift: bool) -> str:
    """Say how independent of a truth a method is; see :func:`circularity_of`."""
    return circularity_of(truth.bands, bands, templates=templates, knows_redshift=knows_redshift)


def circularity_of(
    truth_bands: tuple[str, ...], bands: tuple[str, ...], *, templates: bool, knows_redshift: bool
) -> str:
    """Say how independent of the truth a method is that sees some bands.

    Parameters
    ----------
    truth_bands : tuple of str
        What the truth was fitted to.
    bands : tuple of str
        What the method sees.
    templates : bool
        Whether it fits the templates of the truth.
    knows_redshift : bool
        Whether it is given the redshift that the truth was fitted at.

    Returns
    -------
    str
        ``"circular"``: the same fit to the same bands at the same redshift, or one that can repeat it;
        ``"repeatable"``: no templates, but everything that the truth was made of, so that the truth is a
        function of the inputs, and learning it is learning kcorrect; ``"favoured"``: the same templates, on
        less; ``"independent"`` otherwise.
    """
    everything = knows_redshift and set(truth_bands) <= set(bands)
    if everything:
        return "circular" if templates else "repeatable"
    return "favoured" if templates else "independent"
