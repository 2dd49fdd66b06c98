"""Template likelihoods of stars from a detector, whose flux, place and exact spectrum are not known.

There is no training: the flux and the place of each star are found, the PSF is rendered there, and the
spectrum is taken for a draw from those of its class
(:class:`astro_utils.starsed.class_scatter.SpectralScatter`).
"""

from __future__ import annotations

import numpy as np

from astro_utils.models.star_likelihood import template_log_likelihood
from astro_utils.models.star_nuisances import WavefrontErrors, pixel_noise
from astro_utils.starsed.class_scatter import SpectralScatter
from astro_utils.starsed.likelihoods import LIKELIHOOD, OURS
from astro_utils.starsed.shifted_psf import ShiftedPsf, chunks
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_places import place_stars

__all__ = ["LIKELIHOOD_SHIFTED", "realistic_log_likelihoods"]

LIKELIHOOD_SHIFTED = "template likelihood, shift fitted"
#: Standard deviation of offsets that are uniform within a pixel; the prior of what the fit leaves of them.
_SHIFT_SD = 12**-0.5


def realistic_log_likelihoods(
    psf: ShiftedPsf, stars: StarSet, templates: np.ndarray, scatter: SpectralScatter
) -> dict[str, np.ndarray]:
    """Log-likelihoods of the classes of stars from a detector, of free flux, by name of the method.

    Parameters
    ----------
    psf : ShiftedPsf
    stars : StarSet
        Of finite gain.
    templates : numpy.ndarray
        (C, bins).
    scatter : SpectralScatter

    Returns
    -------
    dict
        Name to (N, C) float64: with stars in the middle of a pixel and spectra that are the templates; with
        their places fitted (and what the fit leaves integrated out); and with scattered spectra, too, which
        is :data:`astro_utils.starsed.likelihoods.OURS`.
    """
    if not np.isfinite(stars.gain) or np.ptp(stars.sigma) > 0:
        raise ValueError("the stars' noise is not that of a detector: the gain is infinite, or sigmas differ")
    out: dict[str, list[np.ndarray]] = {LIKELIHOOD: [], LIKELIHOOD_SHIFTED: [], OURS: []}
    for some in chunks(stars):
        middle = psf(some.positions)
        placed = place_stars(psf, some, templates.mean(0))
        offset = WavefrontErrors(placed.slopes, _SHIFT_SD**2 * np.eye(2))
        cases = [(LIKELIHOOD, middle, []), (LIKELIHOOD_SHIFTED, placed.psfs, [offset])]
        for name, psfs, unknown in [*cases, (OURS, placed.psfs, [offset, scatter])]:
            noise = pixel_noise(some.stamps, psfs, templates, some.gain, some.sigma[0])
            found = template_log_likelihood(some.stamps, psfs, templates, noise, nuisances=unknown)
            out[name].append(found)
    return {name: np.concatenate(parts) for name, parts in out.items()}
