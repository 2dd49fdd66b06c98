"""Fit the wavefront over the field of view to noisy stars: maximum a posteriori, with its covariance.

The unknowns are the polynomials in field position of all Zernike coefficients, 660 numbers for 44 modes and
15 monomials, in micrometres::

    stars = StarImages.known(stamps, positions, weights, sigma)
    fit = fit_field(PupilModel(Optics(), coarse=4), stars)
    fit.field(positions), fit.coefficient_covariance(positions)
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from astro_utils.psf.climb import damped_steps, quasi_newton_steps
from astro_utils.psf.field_likelihood import Evaluation, FieldLikelihood, StarImages, cheaper
from astro_utils.psf.optics import Optics
from astro_utils.psf.pupil import PupilModel
from astro_utils.psf.wavefront import WavefrontField, monomials, random_field

__all__ = ["FieldFit", "FitSettings", "field_prior", "fit_field"]

#: Excess of chi^2, in standard deviations, beyond which a fit counts as stuck.
_STUCK = 3.0


@dataclass(frozen=True)
class FitSettings:
    """How to search for the best field.

    Parameters
    ----------
    starts : int
        Points to start from at most: a flat wavefront, then random fields as long as no fit has come down to
        the noise (see :attr:`FieldFit.excess`). The best fit is kept.
    subset : int
        With more stars than this, the starts are made with so many of them, and all stars continue the best.
    nodes : int
        With more than twice nodes x nodes stars, stamps are interpolated from nodes x nodes points of the
        field.
    iterations : int
        Steps at most, of each of the two kinds of :mod:`astro_utils.psf.climb`, in a round.
    rounds : int
        Rounds at most of the fit to all stars, each with new second derivatives. Where stars are many, even
        modes of the wavefront lie in long curved valleys, and one round of forty steps is not enough.
    tolerance : float
        Expected gain in log-posterior below which steps end. The noise alone moves it by half the number of
        parameters, so that errors of images no longer change where steps gain less than some units. Starts
        that all stars continue end at ten times this.
    seed : int
        Of the random starts and the subset.

    Raises
    ------
    ValueError
        If a number is not positive.
    """

    starts: int = 3
    subset: int = 100
    nodes: int = 14
    iterations: int = 40
    rounds: int = 3
    tolerance: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("starts", "subset", "nodes", "iterations", "rounds", "tolerance"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class FieldFit:
    """A fitted field.

    Attributes
    ----------
    field : WavefrontField
        Float64, with piston zero.
    covariance : torch.Tensor
        (modes - 1, M, modes - 1, M) of the coefficients without piston, micrometres squared: of the Gaussian
        about the maximum of the posterior.
    log_posterior : float
        At the maximum, up to a constant of the stars and the prior.
    start_log_posteriors : tuple of float
        Of the best fits from the starts that were needed, with the stars that these were made with.
    chi2 : torch.Tensor
        (N,) of the stars, which have stamp^2 pixels each.
    excess : float
        By how many of its standard deviations the sum of chi^2 exceeds what is expected. Some units mean
        that the fit is stuck in a local maximum, or that the noise is larger than was said.
    probabilities : torch.Tensor
        (N, C) of the stars' candidate spectra, with the wavefront at its best.
    history : list of dict
        Steps: stage, iteration, loss, temperature, reduced_chi2, seconds.
    seconds : float
        Wall time.
    """

    field: WavefrontField
    covariance: Tensor
    log_posterior: float
    start_log_posteriors: tuple[float, ...]
    chi2: Tensor
    excess: float
    probabilities: Tensor
    history: list[dict] = field(repr=False)
    seconds: float

    def coefficient_covariance(self, positions: ArrayLike | Tensor) -> Tensor:
        """Covariance of the coefficients, without piston, at positions (N, 2): (N, modes - 1, modes - 1)."""
        terms = monomials(positions, self.field.degree, self.field.limits).to(self.covariance)
        modes, m = self.covariance.shape[:2]
        pairs = self.covariance.permute(1, 3, 0, 2).reshape(m * m, modes * modes)
        outer = (terms[:, :, None] * terms[:, None]).flatten(1)
        return (outer @ pairs).view(-1, modes, modes)


def field_prior(optics: Optics, *, fields: int = 200, seed: int = 2**20) -> Tensor:
    """Covariance of the polynomial's coefficients of a mode, from simulated fields.

    Modes are alike and independent in :func:`astro_utils.psf.wavefront.random_field`; monomials are not.

    Parameters
    ----------
    optics : Optics
    fields : int
        Number of them.
    seed : int
        Of the first one, the others follow. Keep the seeds of the fields that are to be fitted out.

    Returns
    -------
    torch.Tensor
        (M, M) float64, micrometres squared.

    Raises
    ------
    ValueError
        If there are too few fields for a matrix of full rank.
    """
    draws = [random_field(optics, seed + i).coefficients for i in range(fields)]
    draws = torch.cat(draws) if draws else torch.zeros(0, 1)
    if len(draws) < 2 * draws.shape[1]:
        raise ValueError(f"{fields} fields are too few; expected at least {2 * draws.shape[1]} modes in all")
    return draws.T @ draws / len(draws)


def fit_field(
    model: PupilModel,
    stars: StarImages,
    *,
    settings: FitSettings | None = None,
    prior: Tensor | None = None,
    start: WavefrontField | None = None,
) -> FieldFit:
    """Fit the field of wavefronts to stars by maximum posterior probability.

    Parameters
    ----------
    model : PupilModel
        Blocks of 4 samples (``coarse=4``) are accurate to 0.1 %, and enough for some hundred stars.
    stars : StarImages
        With known spectra or with candidates.
    settings : FitSettings, optional
    prior : torch.Tensor, optional
        (M, M) covariance of the polynomial's coefficients of each mode, by default :func:`field_prior`.
    start : WavefrontField, optional
        Where to start with all stars, in place of all other points.

    Returns
    -------
    FieldFit

    Raises
    ------
    ValueError
        If stars and model disagree, or the prior or the start is of the wrong shape.

    Notes
    -----
    Steps are those of :mod:`astro_utils.psf.climb`. Their matrix of second derivatives (Gauss-Newton) is that
    of a cheaper model, for some tens of positions: it sets the direction only. Loss and gradient, and the
    covariance of the result, are those of `model` itself.

    Images do not change to first order with even modes of a symmetric pupil, whose sign they leave open. The
    telescope's is asymmetric enough. What else makes a flat wavefront a poor start is that the first steps
    are far outside of the linear range: they are taken with the noise raised to the residuals.
    """
    started = time.perf_counter()
    settings = settings or FitSettings()
    optics = model.optics
    m = (optics.field_degree + 1) * (optics.field_degree + 2) // 2
    prior = field_prior(optics) if prior is None else prior
    if prior.shape != (m, m):
        raise ValueError(f"prior has shape {tuple(prior.shape)}; expected {(m, m)}")
    if start is not None and start.coefficients.shape != (optics.modes, m):
        raise ValueError(f"start has shape {tuple(start.coefficients.shape)}; expected {(optics.modes, m)}")
    rng = np.random.default_rng(settings.seed)
    few = stars
    if start is None and len(stars) > settings.subset:
        few = stars.take(np.sort(rng.choice(len(stars), settings.subset, replace=False)))
    posterior = _Posterior(_likelihood(model, few, settings), prior)
    zeros = torch.zeros(posterior.shape, dtype=torch.float64, device=model.basis.device)
    if start is None:
        draws = rng.standard_normal((settings.starts - 1, *posterior.shape))
        points = [zeros.flatten(), *torch.from_numpy(draws).to(zeros).flatten(1)]
    else:
        points = [posterior.white(start.coefficients[1:].to(zeros))]
    history, best = [], []
    rough = settings
    if few is not stars:
        rough = replace(settings, tolerance=10 * settings.tolerance, rounds=1)
    for i, z in enumerate(points):
        best.append(_climb(posterior, z, rough, history, f"start {i}"))
        if _excess(best[-1][2], few, optics.stamp**2) < _STUCK:
            break
    losses = tuple(-loss for _, loss, _ in best)
    z, loss, value = min(best, key=lambda result: result[1])
    if few is not stars:
        posterior = _Posterior(_likelihood(model, stars, settings), prior)
        z, loss, value = _climb(posterior, z, settings, history, "all stars")
    inverse = torch.linalg.inv(posterior.curvature(z, value.probabilities, 1.0, exact=True))
    used = len(inverse) - float(inverse.trace())  # parameters that the data determine, not the prior
    excess = _excess(value, stars, optics.stamp**2, used)
    inverse = inverse.view(posterior.shape * 2)
    coefficients = torch.cat([zeros[:1], posterior.coefficients(z)])
    return FieldFit(
        field=WavefrontField(coefficients, optics.field_limits),
        covariance=torch.einsum("apbq,mp,nq->ambn", inverse, posterior.lower, posterior.lower),
        log_posterior=-loss,
        start_log_posteriors=losses,
        chi2=value.chi2,
        excess=excess,
        probabilities=value.probabilities,
        history=history,
        seconds=time.perf_counter() - started,
    )


def _likelihood(model: PupilModel, stars: StarImages, settings: FitSettings) -> FieldLikelihood:
    if len(stars) <= 2 * settings.nodes**2:  # each node is propagated twice, a star of its own once
        return FieldLikelihood(model, stars)
    return FieldLikelihood(model, stars, nodes=settings.nodes, sites=10)


def _excess(value: Evaluation, stars: StarImages, pixels: int, used: float = 0.0) -> float:
    """By how many standard deviations the sum of chi^2 exceeds the pixels less the parameters used."""
    pixels *= len(stars)
    return (float(value.chi2.sum()) - pixels + used) / (2 * pixels) ** 0.5


def _climb(
    posterior: _Posterior, z: Tensor, settings: FitSettings, history: list[dict], stage: str
) -> tuple[Tensor, float, Evaluation]:
    """Take damped steps as long as they gain more than noise does, then quasi-Newton steps to the top."""
    common = {"steps": settings.iterations, "history": history, "stage": stage}
    for _ in range(settings.rounds):
        z, *_ = damped_steps(posterior, z, enough=max(len(z), settings.tolerance), **common)
        before = len(history)
        z, loss, value = quasi_newton_steps(posterior, z, tolerance=settings.tolerance, **common)
        if len(history) - before < settings.iterations:
            break
    return z, loss, value


class _Posterior:
    """Loss, gradient and curvature by white parameters z: coefficients are z L^T, with prior L L^T."""

    def __init__(self, likelihood: FieldLikelihood, prior: Tensor) -> None:
        self.likelihood, self.sketch = likelihood, cheaper(likelihood.model)
        self.lower = torch.linalg.cholesky(prior)
        self.shape = likelihood.model.optics.modes - 1, len(prior)
        self.pixels = likelihood.stamps.numel()

    def coefficients(self, z: Tensor) -> Tensor:
        return z.view(self.shape) @ self.lower.T

    def white(self, coefficients: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(self.lower, coefficients.T, upper=False).T.flatten()

    def __call__(self, z: Tensor, temperature: float) -> tuple[float, Tensor, Evaluation]:
        value = self.likelihood(self.coefficients(z), temperature)
        loss = value.loss + 0.5 * float(z @ z)
        return loss, (value.gradient @ self.lower).flatten() + z, value

    def curvature(
        self, z: Tensor, probabilities: Tensor, temperature: float, *, exact: bool = False
    ) -> Tensor:
        model = None if exact else self.sketch
        h = self.likelihood.curvature(self.coefficients(z), probabilities, model) / temperature
        h = torch.einsum("ambn,mp,nq->apbq", h, self.lower, self.lower).flatten(2).flatten(0, 1)
        return h + torch.eye(len(h), dtype=h.dtype, device=h.device)
