"""Two ways up a log-posterior: damped steps from afar, then quasi-Newton steps to the top.

The loss is what falls: minus the log-posterior. Its matrix of second derivatives is approximate and dear. Far
from the top steps need a new one each time, and damping. Near it one matrix serves as the metric in which the
gradients of a few steps tell the rest.
"""

from __future__ import annotations

import time
from typing import Protocol

import torch
from torch import Tensor

from astro_utils.psf.field_likelihood import Evaluation

__all__ = ["Posterior", "damped_steps", "quasi_newton_steps"]

#: Steps that the quasi-Newton matrix remembers.
_MEMORY = 30


class Posterior(Protocol):
    """What is climbed, as a function of parameters (P,)."""

    pixels: int

    def __call__(self, z: Tensor, temperature: float) -> tuple[float, Tensor, Evaluation]:
        """Compute loss, gradient (P,) and what the stars say, with the noise's variance times temperature."""

    def curvature(self, z: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
        """Approximate the second derivatives (P, P); positive definite."""


def damped_steps(
    posterior: Posterior, z: Tensor, *, steps: int, enough: float, history: list[dict], stage: str
) -> tuple[Tensor, float, Evaluation]:
    """Take Levenberg-Marquardt steps, with the noise raised to the residuals as long as these exceed it.

    So long, the prior holds back what the first, wrong derivatives would make of the data.

    Parameters
    ----------
    posterior : Posterior
    z : torch.Tensor
        (P,) where to start.
    steps : int
        At most.
    enough : float
        Steps end where the noise is that of the data and an undamped step is expected to gain less than this.
    history : list of dict
        A row is added for each step.
    stage : str
        Name of these steps in the history.

    Returns
    -------
    tuple
        The best point, and the loss and the values there, at temperature 1.
    """
    started, damping, curvature, anneal, temperature = time.perf_counter(), 1.0, None, True, 1.0
    loss, gradient, value = posterior(z, 1.0)
    for iteration in range(steps):
        reduced = float(value.chi2.sum()) / posterior.pixels
        wanted = reduced if anneal and reduced > 1.1 else 1.0
        if iteration == 0 or wanted < 0.9 * temperature or (wanted == 1 and temperature > 1):
            if wanted != temperature:
                loss, gradient, value = posterior(z, wanted)
            temperature, curvature = wanted, None
        if curvature is None:
            curvature = posterior.curvature(z, value.probabilities, temperature)
        if _step(gradient, curvature, 0.0)[1] < enough:
            if temperature == 1:
                break
            anneal = False
        step, expected = _step(gradient, curvature, damping)
        new = posterior(z + step, temperature)
        ratio = (loss - new[0]) / expected
        if new[0] < loss:
            z, (loss, gradient, value) = z + step, new
        damping *= 0.2 if ratio > 0.7 else 1.0 if ratio > 0.3 else 4.0
        _note(history, stage, loss, temperature, value, posterior, started)
        if not 0.8 < ratio < 1.25 and new[0] <= loss:
            curvature = None  # where steps do what is expected of them, an old matrix serves
    if temperature > 1:
        loss, _, value = posterior(z, 1.0)
    return z, loss, value


def quasi_newton_steps(
    posterior: Posterior, z: Tensor, *, steps: int, tolerance: float, history: list[dict], stage: str
) -> tuple[Tensor, float, Evaluation]:
    """Take steps of the limited-memory BFGS method, in the metric of one approximate curvature.

    Noise makes the true curvature differ from that of Gauss and Newton, most where images hardly depend on
    the parameters. The steps learn the difference from gradients alone (Nocedal & Wright 2006, Numerical
    Optimization, algorithm 7.4).

    Parameters
    ----------
    posterior, z, steps, history, stage
        As for :func:`damped_steps`.
    tolerance : float
        Expected gain below which steps end.

    Returns
    -------
    tuple
        The best point, and the loss and the values there.
    """
    started = time.perf_counter()
    loss, gradient, value = posterior(z, 1.0)
    curvature = posterior.curvature(z, value.probabilities, 1.0)
    factor = torch.linalg.cholesky(curvature + torch.eye(len(curvature)).to(curvature))
    pairs: list[tuple[Tensor, Tensor]] = []  # of changes of the point and of the gradient
    for _ in range(steps):
        step = -_inverse_times(gradient, pairs, factor)
        slope, length = float(gradient @ step), 1.0
        if -slope / 2 < tolerance:
            break
        new = posterior(z + step, 1.0)
        while new[0] > loss + 1e-4 * length * slope and length > 1e-3:
            best = -slope * length**2 / (2 * (new[0] - loss - slope * length))  # of the parabola through both
            length = min(max(best, 0.1 * length), 0.5 * length)
            new = posterior(z + length * step, 1.0)
        if new[0] >= loss:
            break
        pairs = [*pairs, (length * step, new[1] - gradient)][-_MEMORY:]
        if float(pairs[-1][0] @ pairs[-1][1]) <= 0:
            pairs.pop()
        z, (loss, gradient, value) = z + length * step, new
        _note(history, stage, loss, 1.0, value, posterior, started)
    return z, loss, value


def _inverse_times(vector: Tensor, pairs: list[tuple[Tensor, Tensor]], factor: Tensor) -> Tensor:
    """Multiply with the inverse curvature: the two loops of the limited-memory BFGS method."""
    out, factors = vector, []
    for s, y in reversed(pairs):
        factors.append((s @ out) / (s @ y))
        out = out - factors[-1] * y
    out = torch.cholesky_solve(out[:, None], factor)[:, 0]
    for (s, y), a in zip(pairs, reversed(factors), strict=True):
        out = out + s * (a - (y @ out) / (s @ y))
    return out


def _note(
    history: list[dict],
    stage: str,
    loss: float,
    temperature: float,
    value: Evaluation,
    posterior: Posterior,
    started: float,
) -> None:
    row = {"stage": stage, "iteration": sum(row["stage"] == stage for row in history), "loss": loss}
    row |= {"temperature": temperature, "reduced_chi2": float(value.chi2.sum()) / posterior.pixels}
    history.append(row | {"seconds": time.perf_counter() - started})


def _step(gradient: Tensor, curvature: Tensor, damping: float) -> tuple[Tensor, float]:
    """Step of Levenberg and Marquardt, and the fall of the loss that is expected of it."""
    damped = curvature + damping * torch.eye(len(curvature)).to(curvature)
    step = -torch.cholesky_solve(gradient[:, None], torch.linalg.cholesky(damped))[:, 0]
    return step, -float(gradient @ step + 0.5 * step @ (curvature @ step))
