"""Training of WaveDiff as published: two cycles, in each the parametric part and then the maps.

model = WaveDiff(optics=Optics(mask_edge=False), coarse=2, seed=1)
history = train(model, positions, sed, stamps, Schedule.published(len(stamps)), seed=1, checkpoint="run.pt")
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from astro_utils.checkpoints import fingerprint, restore_checkpoint, save_checkpoint
from astro_utils.models.wavediff import WaveDiff

__all__ = ["PUBLISHED_EPOCHS", "Phase", "RectifiedAdam", "Schedule", "noise_weights", "train"]

#: By number of stars (sets S1 to S6): epochs of the parametric part, and of the maps, in cycles 1 and 2 [1]_.
#:
#: .. [1] Centofanti, E., et al., 2025, A&A, 694, A228: the configuration files of its software.
PUBLISHED_EPOCHS = {
    50: ((50, 50), (600, 400)),
    100: ((45, 45), (600, 300)),
    200: ((45, 45), (500, 300)),
    500: ((45, 45), (400, 200)),
    1000: ((30, 30), (200, 100)),
    2000: ((20, 20), (120, 100)),
}


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one optimizer: ``part`` is "parametric" or "maps"."""

    cycle: int
    part: str
    epochs: int
    learning_rate: float


@dataclass(frozen=True)
class Schedule:
    """How long and how fast each part is trained, cycle by cycle.

    Parameters
    ----------
    parametric_epochs, map_epochs : tuple of int
        One number a cycle. In a cycle the parametric part comes first; the other part is frozen. Maps are
        off until they are trained, so without any epochs for them the model stays parametric.
    parametric_rates, map_rates : tuple of float
        Learning rates, one a cycle.
    batch_size : int

    Raises
    ------
    ValueError
        If the numbers of cycles differ or a value is out of range.
    """

    parametric_epochs: tuple[int, ...]
    map_epochs: tuple[int, ...]
    parametric_rates: tuple[float, ...] = (1e-2, 1e-2)
    map_rates: tuple[float, ...] = (1e-1, 1e-1)
    batch_size: int = 32

    def __post_init__(self) -> None:
        columns = (self.parametric_epochs, self.map_epochs, self.parametric_rates, self.map_rates)
        if len({len(column) for column in columns}) != 1:
            raise ValueError(f"epochs and rates must have one value a cycle, but are {columns}")
        if any(epochs < 0 for epochs in (*self.parametric_epochs, *self.map_epochs)):
            raise ValueError(f"epochs must not be negative, but are {columns[:2]}")
        if not all(rate > 0 for rate in (*self.parametric_rates, *self.map_rates)):
            raise ValueError(f"learning rates must be above 0, but are {columns[2:]}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")

    @classmethod
    def published(cls, n_stars: int, *, maps: bool = True) -> Schedule:
        """Return the schedule of the largest published training set with at most `n_stars` stars.

        Parameters
        ----------
        n_stars : int
            At least 50. Extended sets (50 + 1,000 stars) were trained as the largest set within (1,000).
        maps : bool
            False for the parametric part alone, with its epochs.

        Raises
        ------
        ValueError
            If there are fewer stars than in any published set.
        """
        sizes = [size for size in PUBLISHED_EPOCHS if size <= n_stars]
        if not sizes:
            raise ValueError(f"no schedule was published for {n_stars} stars; expected at least 50")
        parametric, of_maps = PUBLISHED_EPOCHS[max(sizes)]
        return cls(parametric, of_maps if maps else (0,) * len(of_maps))

    @property
    def phases(self) -> list[Phase]:
        """All phases in their order, without those of no epochs."""
        phases = []
        for cycle in range(len(self.parametric_epochs)):
            first = Phase(
                cycle + 1, "parametric", self.parametric_epochs[cycle], self.parametric_rates[cycle]
            )
            second = Phase(cycle + 1, "maps", self.map_epochs[cycle], self.map_rates[cycle])
            phases += [phase for phase in (first, second) if phase.epochs]
        return phases

    def passes(self, n_stars: int) -> int:
        """Count the stars for which a gradient is computed."""
        return n_stars * sum(phase.epochs for phase in self.phases)


class RectifiedAdam(torch.optim.Optimizer):
    """Rectified Adam [1]_ with the constants, and the place of epsilon, of TensorFlow Addons.

    Gradients of images of unit sum are so small (1e-9 for a sample of a map) that epsilon, not their own
    size, scales most steps. :class:`torch.optim.RAdam` has it elsewhere and takes other steps.

    Parameters
    ----------
    parameters : iterable
    lr, epsilon : float
        Both can differ between groups.

    References
    ----------
    .. [1] Liu, L., et al., 2020, International Conference on Learning Representations, arXiv:1908.03265.
    """

    def __init__(self, parameters: Iterable, lr: float, epsilon: float = 1e-7) -> None:
        super().__init__(parameters, {"lr": lr, "epsilon": epsilon, "betas": (0.9, 0.999)})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step along the gradients at hand."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            longest = 2 / (1 - beta2) - 1
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
                state["step"] += 1
                decay1, decay2 = beta1 ** state["step"], beta2 ** state["step"]
                mean = state["mean"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                square = state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                rate = group["lr"] / (1 - decay1)
                length = longest - 2 * state["step"] * decay2 / (1 - decay2)  # of the averaging of squares
                if length < 5:  # too few for the variance of the squares
                    p.add_(mean, alpha=-rate)
                    continue
                ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
                scale = (square / (1 - decay2)).sqrt_().add_(group["epsilon"])
                p.addcdiv_(mean, scale, value=-rate * math.sqrt(ratio))


def noise_weights(stamps: ArrayLike | Tensor) -> np.ndarray:
    """Weigh stars by the inverse variance of their noise.

    Parameters
    ----------
    stamps : array_like or torch.Tensor
        (N, n, n).

    Returns
    -------
    numpy.ndarray
        (N,) 1 / sigma^2 over its median, with 1.4826 times the median absolute deviation of the pixels
        farther than ceil(n / 3.33) from pixel [n / 2, n / 2] for sigma.

    Raises
    ------
    ValueError
        If a stamp is constant there, or not finite.
    """
    stamps = np.asarray(stamps, float)
    if not np.isfinite(stamps).all():
        raise ValueError(f"stamp {int((~np.isfinite(stamps)).any((1, 2)).argmax())} is not finite")
    n = stamps.shape[-1]
    y, x = np.mgrid[:n, :n] - n / 2
    sky = stamps[:, np.hypot(x, y) > math.ceil(n / 3.33)]
    sigma = 1.4826 * np.median(np.abs(sky - np.median(sky, axis=1, keepdims=True)), axis=1)
    if not (sigma > 0).all():
        raise ValueError(f"stamp {int((~(sigma > 0)).argmax())} has no noise far from its middle")
    return sigma**-2 / np.median(sigma**-2)


def train(
    model: WaveDiff,
    positions: ArrayLike,
    sed: ArrayLike,
    stamps: ArrayLike,
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: str | Path | None = None,
    every: int = 5,
    report: Callable[[dict], None] | None = None,
) -> list[dict]:
    """Train a model in place on observed stars.

    The loss is the mean over a batch of each star's mean squared residual times its weight
    (:func:`noise_weights`).

    Parameters
    ----------
    model : WaveDiff
        On any device.
    positions, sed, stamps : array_like
        (N, 2) in the field, (N, bins) weights of unit sum, (N, stamp, stamp) observed images.
    schedule : Schedule
    seed : int
        Of the order of the stars.
    checkpoint : path, optional
        File from which a run that was killed goes on, to the same weights as if it had not been. One of
        another run is replaced.
    every : int
        Epochs between two writings of it.
    report : callable, optional
        Called with each row of the history when its epoch is over.

    Returns
    -------
    list of dict
        By epoch: ``cycle``, ``part``, ``epoch`` (from 0, in its phase) and ``loss``, the mean over the epoch.

    Raises
    ------
    ValueError
        If arrays disagree in length or shape, or as :func:`noise_weights`.
    FloatingPointError
        If the loss is not finite.
    """
    device, side, bins = model.coefficients.device, model.optics.stamp, model.optics.bins
    if np.ndim(stamps) != 3 or np.shape(stamps)[1:] != (side, side):
        raise ValueError(f"stamps has shape {np.shape(stamps)}; expected (N, {side}, {side})")
    weights = noise_weights(stamps)
    data = [torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (sed, stamps, weights)]
    data = [torch.as_tensor(np.asarray(positions), dtype=torch.float64), *data]
    for name, value, columns in (("positions", data[0], 2), ("sed", data[1], bins)):
        if value.shape != (len(weights), columns):
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {(len(weights), columns)}")
    how = inspect.getsource(sys.modules[__name__]), torch.__version__, device.type, schedule, seed
    mark = fingerprint(*how, model, model.optics, model.pupil.coarse, *data) if checkpoint else ""
    data = [value.to(device) for value in data]
    order, history = torch.Generator().manual_seed(seed), []
    phases, start, done = schedule.phases, 0, 0

    model.set_maps(False)
    with torch.random.fork_rng(devices=[]):  # reading a checkpoint sets torch's generator, which nothing uses
        state = restore_checkpoint(checkpoint, mark, {"model": model}, order, device) if checkpoint else None
    if state is not None:
        history, start, done = state["history"], state["phase"], state["epoch"]
    for index in range(start, len(phases)):
        phase = phases[index]
        if phase.part == "maps" and not done and not model.maps:
            model.set_maps(True)
        optimizer = _optimizer(model, phase)
        if done:
            optimizer.load_state_dict(state["optimizer"])
        for epoch in range(done, phase.epochs):
            loss = _epoch(model, data, schedule.batch_size, optimizer, order)
            if not math.isfinite(loss):
                raise FloatingPointError(f"loss is {loss} in epoch {epoch} of {phase}; lower its rate?")
            history.append({"cycle": phase.cycle, "part": phase.part, "epoch": epoch, "loss": loss})
            last = epoch + 1 == phase.epochs
            if checkpoint and (last or (epoch + 1) % every == 0):
                parts = {"model": model} if last else {"model": model, "optimizer": optimizer}
                place = {"phase": index + last, "epoch": 0 if last else epoch + 1}
                save_checkpoint(checkpoint, mark, parts, order, history=history, **place)
            if report:
                report(history[-1])
        done = 0
    model.requires_grad_(True)
    return history


def _optimizer(model: WaveDiff, phase: Phase) -> RectifiedAdam:
    """Freeze the other part, so that no gradients are computed for it, and make the optimizer of this one."""
    of_maps = phase.part == "maps"
    model.coefficients.requires_grad_(not of_maps)
    for parameter in (model.features, model.mixing):
        parameter.requires_grad_(of_maps)
    model.zero_grad()
    if not of_maps:
        return RectifiedAdam([model.coefficients], phase.learning_rate)
    # A sample that stands for a block has the gradient of them all; with epsilon for a block, the steps of
    # the wavefront are those of the full pupil.
    block = {"params": [model.features], "epsilon": 1e-7 * model.pupil.coarse**2}
    return RectifiedAdam([block, {"params": [model.mixing]}], phase.learning_rate)


def _epoch(
    model: WaveDiff, data: list[Tensor], batch_size: int, optimizer: RectifiedAdam, order: torch.Generator
) -> float:
    """Go once through all stars, (positions, sed, stamps, weights), in a new order."""
    total = 0.0
    for rows in torch.randperm(len(data[0]), generator=order).split(batch_size):
        positions, sed, stamps, weights = (value[rows.to(value.device)] for value in data)
        residuals = model(positions, sed) - stamps  # (B, n, n)
        loss = (residuals.square().mean((1, 2)) * weights).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(rows)
    return total / len(data[0])
