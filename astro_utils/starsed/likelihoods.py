"""Template likelihoods of observed stars under a PSF that is known, or fitted with known errors.

Ours integrates out the errors of the fitted wavefront, to first order in them: a star's images in the 13
spectra are Gaussian with the covariance of the noise and of the PSF's errors at its place.
"""

from __future__ import annotations

import numpy as np

from astro_utils.models.star_likelihood import template_log_likelihood
from astro_utils.models.star_nuisances import WavefrontErrors
from astro_utils.psf import FieldInterpolator
from astro_utils.psf.linearise import zernike_derivatives
from astro_utils.starsed.exposures import classifier_stars
from astro_utils.starsed.psf_fits import FittedPsf
from astro_utils.starsed.stamps import StarSet

__all__ = ["LIKELIHOOD", "LIKELIHOOD_UNIT", "OURS", "OURS_UNIT", "log_likelihoods"]

LIKELIHOOD, LIKELIHOOD_UNIT = "template likelihood", "template likelihood, unit flux"
OURS, OURS_UNIT = "ours", "ours, unit flux"
#: Stars at a time: their derivatives take 1.4 MB each.
_CHUNK = 40


def log_likelihoods(
    stars: StarSet, psf: FieldInterpolator, templates: np.ndarray, fitted: FittedPsf | None = None
) -> dict[str, np.ndarray]:
    """Log-likelihoods of the classes, with the flux known to be one or free, by name of the method.

    Parameters
    ----------
    stars : StarSet
    psf : FieldInterpolator
        Of the stars' field.
    templates : numpy.ndarray
        (C, bins).
    fitted : FittedPsf, optional
        The fit that `psf` interpolates. Where it has a covariance, :data:`OURS` and :data:`OURS_UNIT` are
        there, too.

    Returns
    -------
    dict
        Name to (N, C) float64.
    """
    known = classifier_stars(stars, psf)
    out: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(stars), _CHUNK):
        rows = slice(start, start + _CHUNK)
        some = known.take(rows)
        cases = [(LIKELIHOOD, "free", []), (LIKELIHOOD_UNIT, "unit", [])]
        if fitted is not None and fitted.covariance is not None:
            errors = [_wavefront_errors(fitted, stars.positions[rows])]
            cases += [(OURS, "free", errors), (OURS_UNIT, "unit", errors)]
        for name, flux, errors in cases:
            found = template_log_likelihood(
                some.stamps, some.psfs, templates, some.sigma, flux=flux, nuisances=errors
            )
            out.setdefault(name, []).append(found)
    return {name: np.concatenate(parts) for name, parts in out.items()}


def _wavefront_errors(fitted: FittedPsf, positions: np.ndarray) -> WavefrontErrors:
    """Errors of a fitted field at some places: derivatives of the PSFs, and covariance of the modes."""
    changes = zernike_derivatives(fitted.psf.model, fitted.psf.field(positions))
    return WavefrontErrors(changes.numpy(), fitted.coefficient_covariance(positions))
