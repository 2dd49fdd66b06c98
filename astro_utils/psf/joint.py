"""Fit the wavefront over the field and the spectra of the stars together, with few labels or none.

Spectra are one of a list of templates. The likelihood of a star is summed over the templates, so that each
step is an expectation step, the probabilities of the templates under the present wavefront, and a
maximisation step, of the wavefront::

    stars, fit = fit_field_and_spectra(model, stamps, positions, templates, sigma, labels=labels)
    probabilities = class_probabilities(model, fit, stars)

The wavefront changes the shape of images in other ways than the wavelength does, which scales them: stars
of unknown spectra determine both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from astro_utils.models.star_likelihood import WavefrontErrors, template_log_likelihood
from astro_utils.psf.field_likelihood import StarImages
from astro_utils.psf.fit import FieldFit, FitSettings, field_prior, fit_field
from astro_utils.psf.linearise import polychromatic_derivatives
from astro_utils.psf.pupil import PupilModel

__all__ = ["candidate_stars", "class_probabilities", "fit_field_and_spectra"]


def candidate_stars(
    stamps: np.ndarray,
    positions: np.ndarray,
    templates: np.ndarray,
    sigma: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    class_prior: np.ndarray | None = None,
    flux: str = "unit",
) -> StarImages:
    """Collect stars whose spectra are templates, known for some of them.

    Parameters
    ----------
    stamps, positions, sigma : numpy.ndarray
        (N, stamp, stamp), (N, 2) and (N,) as in :class:`~astro_utils.psf.field_likelihood.StarImages`.
    templates : numpy.ndarray
        (C, bins), rows of unit sum.
    labels : numpy.ndarray, optional
        (N,) rows of `templates`, -1 where unknown. By default all are unknown.
    class_prior : numpy.ndarray, optional
        (C,) frequencies of the templates among stars without label, by default alike.
    flux : {"unit", "free"}

    Returns
    -------
    StarImages

    Raises
    ------
    ValueError
        If labels are no rows of the templates, the prior is no distribution, or the stars are wrong.
    """
    n, c = len(stamps), len(templates)
    labels = np.full(n, -1) if labels is None else np.asarray(labels)
    if labels.shape != (n,) or not ((labels >= -1) & (labels < c)).all() or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {n} whole numbers from -1 (unknown) to {c - 1}")
    prior = np.full(c, 1 / c) if class_prior is None else np.asarray(class_prior, float)
    if prior.shape != (c,) or not ((prior > 0).all() and np.isclose(prior.sum(), 1)):
        raise ValueError(f"class_prior must be {c} positive numbers that sum to one")
    own = np.where(np.arange(c) == labels[:, None], 0.0, -np.inf)
    log_prior = np.where(labels[:, None] < 0, np.log(prior), own)
    return StarImages(stamps, positions, templates, log_prior, sigma, flux)


def fit_field_and_spectra(
    model: PupilModel,
    stars: StarImages,
    *,
    settings: FitSettings | None = None,
    prior: Tensor | None = None,
    labelled_enough: int = 30,
) -> FieldFit:
    """Fit the field and the probabilities of the stars' spectra.

    Parameters
    ----------
    model : PupilModel
    stars : StarImages
        Of :func:`candidate_stars`.
    settings : FitSettings, optional
    prior : torch.Tensor, optional
        As in :func:`~astro_utils.psf.fit.fit_field`.
    labelled_enough : int
        With so many stars of known spectra the first wavefront is fitted to these, else to some of all
        stars, with all their candidates: where the noise is still raised to the residuals, these count alike.

    Returns
    -------
    FieldFit
        Its `probabilities` (N, C) are those of the spectra under the best wavefront. See
        :func:`class_probabilities` for those that allow for its errors.

    Raises
    ------
    ValueError
        As :func:`~astro_utils.psf.fit.fit_field`.
    """
    settings = settings or FitSettings()
    prior = field_prior(model.optics) if prior is None else prior
    weights = softmax(stars.log_prior, axis=1)  # (N, C)
    known = np.flatnonzero(weights.max(1) > 1 - 1e-9)
    if len(known) < labelled_enough:
        return fit_field(model, stars, settings=settings, prior=prior)
    first = fit_field(model, stars.take(known), settings=settings, prior=prior)
    fit = fit_field(model, stars, settings=settings, prior=prior, start=first.field)
    return replace(
        fit,
        start_log_posteriors=first.start_log_posteriors,
        history=first.history + fit.history,
        seconds=first.seconds + fit.seconds,
    )


def class_probabilities(
    model: PupilModel, fit: FieldFit, stars: StarImages, *, chunk: int = 32
) -> np.ndarray:
    """Probabilities of the stars' spectra, with the errors of the fitted wavefront integrated out.

    Parameters
    ----------
    model : PupilModel
    fit : FieldFit
    stars : StarImages
        Those of the fit, or others of the same field. All must have the same candidates.
    chunk : int
        Stars at a time, 0.2 MB each besides what
        :func:`~astro_utils.models.star_likelihood.template_log_likelihood` needs.

    Returns
    -------
    numpy.ndarray
        (N, C).

    Raises
    ------
    ValueError
        If stars have different candidates.

    Notes
    -----
    To first order in the errors of the wavefront, with the derivatives of a star whose spectrum is the mean
    of the candidates. For a star of the fit itself this counts its noise twice, which matters little where
    stars are many.
    """
    templates = stars.candidates[0]
    if not (stars.candidates == templates).all():
        raise ValueError("stars have different candidates; expected the same for all")
    mean = torch.tensor(templates.mean(0)).expand(chunk, -1)
    log_p = []
    for first in range(0, len(stars), chunk):
        some = stars.take(slice(first, first + chunk))
        wavefronts = fit.field(some.positions)
        with torch.no_grad():
            psfs = model.monochromatic(model.opd(wavefronts))
            _, changes = polychromatic_derivatives(model, wavefronts, mean[: len(some)])
        covariance = fit.coefficient_covariance(some.positions)
        log_l = template_log_likelihood(
            some.stamps,
            psfs.numpy(),
            templates,
            some.sigma,
            flux=some.flux,
            nuisances=[WavefrontErrors(changes.numpy(), covariance.numpy())],
        )
        log_p.append(log_l + some.log_prior)
    return softmax(np.concatenate(log_p), axis=1)
