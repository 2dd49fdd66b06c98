"""Template likelihoods of stars: each class predicts a stamp, and what is unknown besides is integrated out.

A class with spectrum T_b predicts the image m = sum_b T_b P_b from the monochromatic PSFs P_b at the star's
position. Where the PSF is known, no classifier of the stamp does better than these likelihoods. What else may
differ (errors of the wavefront, a shift, the star's own spectrum) enters linearly with a Gaussian prior.

>>> import numpy as np
>>> psfs = np.zeros((1, 2, 4, 4)); psfs[0, 0, 1, 1] = 1; psfs[0, 1, 1:3, 1:3] = 0.25
>>> log_l = template_log_likelihood(3 * psfs[:, 0], psfs, np.eye(2), np.array([0.5]))
>>> class_log_posterior(log_l).argmax(1)
array([0])
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from astro_utils.models.star_features import StarSet
from astro_utils.models.star_nuisances import Nuisance, Shift, SpectralNoise, WavefrontErrors

__all__ = [
    "FLUXES",
    "TemplateClassifier",
    "class_log_posterior",
    "fit_temperature",
    "template_log_likelihood",
]

FLUXES = ("free", "unit")
MEMORY = 2**27  # bytes of the largest array at a time


def _check(stamps, psfs, templates, sigma, flux: str) -> None:
    if flux not in FLUXES:
        raise ValueError(f"flux is {flux!r}; expected one of {FLUXES}")
    if stamps.ndim != 3 or psfs.ndim != 4 or psfs.shape != (len(stamps), psfs.shape[1], *stamps.shape[1:]):
        raise ValueError(f"psfs of shape {psfs.shape} with stamps of shape {stamps.shape}")
    if templates.ndim != 2 or templates.shape[1] != psfs.shape[1]:
        raise ValueError(f"templates of shape {templates.shape} for PSFs in {psfs.shape[1]} bins")
    if not np.allclose(templates.sum(1), 1, atol=1e-3):
        row = int(np.abs(templates.sum(1) - 1).argmax())
        raise ValueError(f"template {row} sums to {templates[row].sum():.4f}; expected one")
    if sigma.shape not in ((), stamps.shape[:1], stamps.shape) or not (sigma > 0).all():
        raise ValueError(f"sigma must be positive: one number, {stamps.shape[:1]} or {stamps.shape}")


def template_log_likelihood(
    stamps: np.ndarray,
    psfs: np.ndarray,
    templates: np.ndarray,
    sigma: np.ndarray | float,
    *,
    flux: str = "free",
    nuisances: Sequence[Nuisance] = (),
) -> np.ndarray:
    """Log-likelihood of every class for each star.

    Parameters
    ----------
    stamps : numpy.ndarray
        (N, ny, nx).
    psfs : numpy.ndarray
        (N, bins, ny, nx) monochromatic PSFs at the stars' positions, unit sum.
    templates : numpy.ndarray
        (C, bins) shares of each class's flux in the bins; rows sum to one.
    sigma : numpy.ndarray or float
        Noise of a pixel: for all stars, (N,), or (N, ny, nx).
    flux : {"free", "unit"}
        Free flux is integrated out over a flat prior, or every star has flux one, as simulated stars have.
    nuisances : sequence
        Of :class:`WavefrontErrors`, :class:`Shift` and :class:`SpectralNoise`, integrated out over their
        priors. Their changes are scaled by the flux that fits each class best without them.

    Returns
    -------
    numpy.ndarray
        (N, C) float64, natural logarithms.

    Raises
    ------
    ValueError
        When shapes disagree, templates do not sum to one or noise is not positive.

    Notes
    -----
    The images of one class are Gaussian with covariance V + D D^T, V the noise and D (pixels, J) the changes
    for a standard deviation of each nuisance. With K = 1 + D^T V^-1 D, Woodbury's identity leaves matrices of
    J x J: x^T (V + D D^T)^-1 y = x^T V^-1 y - (D^T V^-1 x)^T K^-1 (D^T V^-1 y), and the determinant is
    |V| |K|. A free flux f with flat prior adds ln(2 pi / m^T (V + D D^T)^-1 m) / 2 to the likelihood at its
    best fit. All in float64: chi^2 of bright stars is some 1e5, and differences below one decide.

    Memory beside the inputs is some multiple of 128 MB: stars are taken as many at a time as fit, 8 bytes
    x C x J x pixels each (4.8 MB with 13 classes and 45 modes of the wavefront).
    """
    stamps, psfs, templates = (np.asarray(a) for a in (stamps, psfs, templates))
    sigma = np.asarray(sigma, dtype=float)
    _check(stamps, psfs, templates, sigma, flux)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def tensor(array: np.ndarray) -> Tensor:
        return torch.as_tensor(array, dtype=torch.float64, device=device)

    n, _, ny, nx = psfs.shape
    sigma = np.array(np.broadcast_to(sigma[:, None, None] if sigma.ndim == 1 else sigma, stamps.shape))
    per_star = 8 * ny * nx * max(psfs.shape[1], len(templates) * sum(part.size for part in nuisances))
    chunk = max(1, MEMORY // per_star)
    out = []
    for start in range(0, n, chunk):
        rows = slice(start, min(start + chunk, n))
        psf, weights = tensor(psfs[rows]), tensor(templates)
        models = (weights @ psf.flatten(2)).unflatten(2, (ny, nx))  # (n, C, ny, nx)
        changes = [part.columns(rows, psf, models, weights) for part in nuisances]
        out.append(_log_likelihood(tensor(stamps[rows]), models, tensor(sigma[rows]), changes, flux).cpu())
    return torch.cat(out).numpy()


def _log_likelihood(stamps: Tensor, models: Tensor, sigma: Tensor, changes: list[Tensor], flux: str):
    """(n, C) from stamps and noise (n, ny, nx), unit-flux images (n, C, ny, nx) and changes of them."""
    d = (stamps / sigma).flatten(1)[:, None]  # (n, 1, pixels), in units of the noise
    m = (models / sigma[:, None]).flatten(2)  # (n, C, pixels)
    dd, md, mm = d.square().sum(2), (m * d).sum(2), m.square().sum(2)  # (n, 1), (n, C), (n, C)
    log_det = 2 * sigma.log().sum((1, 2))[:, None]
    if changes:
        shape = (*models.shape[:2], -1, *models.shape[2:])
        columns = torch.cat([c.expand(shape) for c in changes], 2)  # (n, C, J, ny, nx)
        scale = 1.0 if flux == "unit" else (md / mm)[:, :, None, None]
        columns = (columns / sigma[:, None, None]).flatten(3) * scale  # (n, C, J, pixels)
        k = torch.eye(columns.shape[2], dtype=d.dtype, device=d.device) + columns @ columns.mT
        lower = torch.linalg.cholesky(k)  # (n, C, J, J)
        both = columns @ torch.stack([d.expand_as(m), m], 3)  # (n, C, J, 2)
        u, w = torch.linalg.solve_triangular(lower, both, upper=False).unbind(3)  # (n, C, J)
        dd, md, mm = dd - u.square().sum(2), md - (u * w).sum(2), mm - w.square().sum(2)
        log_det = log_det + 2 * lower.diagonal(dim1=2, dim2=3).log().sum(2)
    constant = -0.5 * (log_det + d.shape[2] * math.log(2 * math.pi))
    if flux == "unit":
        return constant - 0.5 * (dd - 2 * md + mm)
    return constant - 0.5 * (dd - md**2 / mm) + 0.5 * (math.log(2 * math.pi) - mm.log())


def class_log_posterior(log_likelihood: np.ndarray, prior: np.ndarray | None = None) -> np.ndarray:
    """Logarithms of the classes' probabilities (N, C), from likelihoods (N, C) and a prior (C,), uniform."""
    if prior is None:
        return log_softmax(log_likelihood, axis=1)
    prior = np.asarray(prior, dtype=float)
    if prior.shape != log_likelihood.shape[1:] or not ((prior > 0).all() and np.isclose(prior.sum(), 1)):
        raise ValueError(f"prior must be {log_likelihood.shape[1]} positive numbers that sum to one")
    return log_softmax(log_likelihood + np.log(prior), axis=1)


def fit_temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T whose softmax(log_probabilities / T) gives the labels the greatest likelihood.

    For likelihoods with white noise alone, T is the factor by which the variance of the noise is too small.

    Parameters
    ----------
    log_probabilities : numpy.ndarray
        (N, C) of calibration stars.
    labels : numpy.ndarray
        (N,) their classes.

    Returns
    -------
    float
        Between 0.01 and 100 (Guo et al. 2017, arXiv:1706.04599).
    """

    def surprise(log_t: float) -> float:
        scaled = log_softmax(log_probabilities / math.exp(log_t), axis=1)
        return -scaled[np.arange(len(labels)), labels].mean()

    return float(math.exp(minimize_scalar(surprise, bounds=(-math.log(100), math.log(100))).x))


class TemplateClassifier:
    """Template likelihoods as a classifier: nothing to train but two numbers, on calibration stars.

    Parameters
    ----------
    templates : numpy.ndarray
        (C, bins), rows sum to one.
    flux : {"free", "unit"}
        See :func:`template_log_likelihood`.
    covariance : numpy.ndarray, optional
        (M, M) of the parameters that the stars' `derivatives` belong to; without it they are not read.
    shift_sd : float
        Pixels; 0: stars are where their PSFs are.
    spectral_sd : float
        Relative standard deviation of a bin; 0: spectra are the templates.
    scales : sequence of float
        Factors on the standard deviations of `covariance` to choose from.
    prior : numpy.ndarray, optional
        (C,) of the classes; uniform without it.

    Attributes
    ----------
    scale : float
        The factor in use, 1 before `fit`. It has the greatest evidence: the product over calibration stars
        of the likelihood summed over the classes, for which no label is needed.
    temperature : float
        Divisor of the log-posterior, from the labels of the calibration stars; 1 before `fit`.
    """

    def __init__(
        self,
        templates: np.ndarray,
        *,
        flux: str = "free",
        covariance: np.ndarray | None = None,
        shift_sd: float = 0.0,
        spectral_sd: float = 0.0,
        scales: Sequence[float] = (1.0,),
        prior: np.ndarray | None = None,
    ) -> None:
        self.templates, self.flux, self.covariance, self.prior = templates, flux, covariance, prior
        self._fixed = [Shift(shift_sd)] * (shift_sd > 0)
        self._fixed += [SpectralNoise(spectral_sd, templates.shape[1])] * (spectral_sd > 0)
        self._scales = tuple(scales)
        if not self._scales or min(self._scales) < 0:
            raise ValueError(f"scales are {self._scales}; expected one or more, none negative")
        self.scale, self.temperature = 1.0, 1.0

    def log_likelihood(self, stars: StarSet, scale: float | None = None) -> np.ndarray:
        """Log-likelihoods (N, C), with errors of the wavefront scaled by `scale` or by the one in use."""
        psfs, sigma = stars.need("TemplateClassifier", "psfs", "sigma")
        nuisances: list[Nuisance] = list(self._fixed)
        if self.covariance is not None:
            (derivatives,) = stars.need("TemplateClassifier with a covariance", "derivatives")
            factor = (self.scale if scale is None else scale) ** 2
            nuisances.append(WavefrontErrors(derivatives, factor * np.asarray(self.covariance)))
        return template_log_likelihood(
            stars.stamps, psfs, self.templates, sigma, flux=self.flux, nuisances=nuisances
        )

    def fit(self, train: StarSet | None, validation: StarSet) -> TemplateClassifier:
        """Choose the scale and the temperature on the validation set; the training set is not read."""
        labels = validation.need_labels("TemplateClassifier.fit", len(self.templates))
        tried = {scale: self.log_likelihood(validation, scale) for scale in self._scales}
        self.scale = max(tried, key=lambda scale: logsumexp(tried[scale], axis=1).mean())
        self.temperature = fit_temperature(class_log_posterior(tried[self.scale], self.prior), labels)
        return self

    def log_posterior(self, stars: StarSet) -> np.ndarray:
        """Logarithms of the classes' calibrated probabilities (N, C)."""
        posterior = class_log_posterior(self.log_likelihood(stars), self.prior)
        return log_softmax(posterior / self.temperature, axis=1)

    def predict_probabilities(self, stars: StarSet) -> np.ndarray:
        """Calibrated probabilities (N, C)."""
        return np.exp(self.log_posterior(stars))

    def predict(self, stars: StarSet) -> np.ndarray:
        """Most probable classes (N,)."""
        return self.log_posterior(stars).argmax(1)
