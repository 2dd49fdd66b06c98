"""Likelihoods of stars under a fitted PSF that errs, integrated about the wavefront that each star prefers.

A PSF that was fitted to 50 stars errs by more than what is linear in the wavefront, and the covariance of the
fit is that of one place in a valley of the posterior that is curved. Here the errors of the wavefront are
integrated out about the wavefront that the star itself prefers, found by iteration, not about the fitted one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from astro_utils.psf import PupilModel
from astro_utils.psf.linearise import zernike_derivatives
from astro_utils.starsed.exposures import classifier_stars
from astro_utils.starsed.psf_fits import FittedPsf
from astro_utils.starsed.stamps import StarSet

__all__ = ["N_FEATURES", "Relinearised", "relinearised_likelihoods"]

N_FEATURES = 4
_CHUNK = 25  # stars at a time: 13 classes x 44 modes x 400 pixels of 8 bytes are 1.8 MB each


@dataclass(frozen=True, eq=False)
class Relinearised:
    """What the stars of a field say under a PSF that errs.

    Attributes
    ----------
    log_likelihood : dict
        ``free`` and ``unit`` (what is known of the flux) to (N, C).
    features : numpy.ndarray
        (N, 4): logarithms of the expected relative error of the star's image before the star is seen, and of
        its signal-to-noise ratio; by how many standard deviations chi^2 of the best class exceeds the number
        of pixels; and the mean square of the wavefront's change from the fit, in its standard deviations.
    """

    log_likelihood: dict[str, np.ndarray]
    features: np.ndarray


def relinearised_likelihoods(
    stars: StarSet, fitted: FittedPsf, templates: np.ndarray, *, steps: int = 3
) -> Relinearised:
    """Integrate out the errors of a fitted wavefront about the wavefront that each star prefers.

    Parameters
    ----------
    stars : StarSet
    fitted : FittedPsf
        With a covariance.
    templates : numpy.ndarray
        (C, bins), rows sum to one.
    steps : int
        Linearisations; with one, about the fit, only.

    Returns
    -------
    Relinearised

    Raises
    ------
    ValueError
        If the PSF has no errors, or there is no step.

    Notes
    -----
    With c the coefficients at the star, of prior mean c_0 (the fit) and covariance S, each step expands the
    images about c_i, m(c) = m(c_i) + J (c - c_i), takes the linear model's likelihood of each class and mean
    of c, and averages the means over the classes by their probabilities with free flux, for the next c_i:
    the iterated Kalman filter, which is a Gauss-Newton search (Bell & Cathey 1993, IEEE Trans. Autom. Control
    38, 294). Images m are those of the fitted model; J is of a coarser one, with half of the bins and the
    inner 20 x 20 pixels, and errs by 3 %, which matters little where c_i is close to c.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")
    covariance = fitted.coefficient_covariance(stars.positions)  # (N, J, J)
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance, dtype=torch.float64))
    factor = vectors * values.clamp_min(0).sqrt()[:, None]
    centre = fitted.psf.field(stars.positions).double()
    sigma = torch.tensor(classifier_stars(stars).sigma, dtype=torch.float64)
    sigma = sigma.view(len(stars), *([1, 1] if sigma.ndim == 1 else sigma.shape[1:]))
    stamps, weights = torch.tensor(stars.stamps, dtype=torch.float64), torch.tensor(templates).double()
    sketch = _sketch(fitted.psf.model)
    parts = []
    for start in range(0, len(stars), _CHUNK):
        rows = slice(start, start + _CHUNK)
        one = _Chunk(stamps[rows], sigma[rows], centre[rows], factor[rows], weights, fitted.psf.model, sketch)
        parts.append(one.run(steps))
    free, unit, features = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Relinearised({"free": free, "unit": unit}, features)


def _sketch(model: PupilModel) -> PupilModel:
    """Make the coarse model of the derivatives: 32 samples across the pupil, half the bins, the core."""
    optics = model.optics
    smaller = replace(
        optics, bins=optics.bins // 2 if optics.bins % 2 == 0 else optics.bins, stamp=min(20, optics.stamp)
    )
    coarse = max(model.coarse, math.gcd(optics.pupil_size // 2, max(1, optics.pupil_size // 32)))
    return PupilModel(smaller, coarse=coarse, dtype=model.basis.dtype).to(model.basis.device)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some stars: stamps (n, ny, nx), noise, coefficients and factors S = F F^T, and the models."""

    stamps: Tensor
    sigma: Tensor
    centre: Tensor
    factor: Tensor
    weights: Tensor
    model: PupilModel
    sketch: PupilModel

    @cached_property
    def core(self) -> Tensor:
        """Pixels of a stamp, numbered along its rows, in which the coarse model gives derivatives."""
        side, core = self.stamps.shape[1], self.sketch.optics.stamp
        inner = torch.arange(core) + (side - core) // 2
        return (side * inner[:, None] + inner).flatten()

    @torch.no_grad()
    def run(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate, and return log-likelihoods with free and with unit flux, and the features."""
        n, size = self.stamps.shape[0], self.factor.shape[2]
        moved, expected = self.centre.new_zeros(n, size), None  # in standard deviations
        data = (self.stamps / self.sigma).flatten(1)[:, None]  # (n, 1, pixels)
        for _ in range(steps):
            images, changes = self._expand(moved)  # (n, C, pixels), (n, C, J, core)
            power = images.square().sum(2)
            flux = (images * data).sum(2) / power  # (n, C)
            if expected is None:
                expected = (changes.square().sum((2, 3)) / power).mean(1).sqrt()
            images[..., self.core] -= (moved[:, None, None] @ changes)[:, :, 0]  # what they were with none
            gram = changes @ changes.mT
            on_data = (changes @ data[..., self.core, None])[..., 0]  # (n, C, J)
            on_image = (changes @ images[..., self.core, None])[..., 0]
            unit, _, _, _ = _marginal(data, images, gram, on_data, on_image, None)
            free, chi2, mean, power = _marginal(data, images, gram, on_data, on_image, flux)
            probability = free.softmax(1)
            moved = (probability[..., None] * mean).sum(1)
        pixels = data.shape[2]
        best = chi2.min(1).values
        features = [expected.log(), 0.5 * power.mean(1).log(), (best - pixels) / (2 * pixels) ** 0.5]
        return free, unit, torch.stack([*features, moved.square().mean(1)], 1)

    def _expand(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Images of the classes in units of the noise, and their changes per standard deviation."""
        coefficients = self.centre.clone()
        coefficients[:, 1:] += (self.factor @ moved[..., None])[..., 0]
        psfs = self.model.monochromatic(self.model.opd(coefficients)).double()  # (n, bins, ny, nx)
        images = (self.weights @ psfs.flatten(2)).unflatten(2, psfs.shape[2:]) / self.sigma[:, None]
        coarse = self.weights.view(len(self.weights), self.sketch.optics.bins, -1).sum(2)
        changes = zernike_derivatives(self.sketch, coefficients).double().flatten(3)
        changes = self.factor.mT[:, None] @ changes  # (n, bins, J, core)
        noise = self.sigma.expand(self.stamps.shape).flatten(1)[:, None, None, self.core]
        changes = (coarse @ changes.flatten(2)).unflatten(2, (-1, len(self.core))) / noise
        return images.flatten(2), changes


def _marginal(
    data: Tensor, images: Tensor, gram: Tensor, on_data: Tensor, on_image: Tensor, flux: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integrate u ~ N(0, 1) out of data = f (images + u changes) + noise, with f one or flat.

    Returns log-likelihoods up to a constant, chi^2, means of u, and the power of the images that is left.
    """
    scale = torch.ones_like(on_data[..., 0]) if flux is None else flux
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    lower = torch.linalg.cholesky(eye + scale[..., None, None] ** 2 * gram)
    both = scale[..., None, None] * torch.stack([on_data, on_image], 3)  # (n, C, J, 2)
    u, w = torch.linalg.solve_triangular(lower, both, upper=False).unbind(3)
    dd = data.square().sum(2) - u.square().sum(2)
    md = (images * data).sum(2) - (u * w).sum(2)
    mm = images.square().sum(2) - w.square().sum(2)
    best = torch.ones_like(mm) if flux is None else md / mm
    chi2 = dd - 2 * best * md + best**2 * mm
    log_l = -0.5 * chi2 - lower.diagonal(dim1=2, dim2=3).log().sum(2)
    if flux is not None:
        log_l = log_l - 0.5 * mm.log()
    mean = torch.linalg.solve_triangular(lower.mT, (u - best[..., None] * w)[..., None], upper=True)[..., 0]
    return log_l, chi2, mean, mm
