"""One fit/predict loop for every torch model: seeded, resumable, with early stopping that restores the best.

The loop asks little: a model, a ``loss(model, batch) -> (B,)`` and the training set as a tuple of tensors of
equal length, of which a batch is a slice. The tensors are moved to the device once.

>>> import torch
>>> x = torch.linspace(-1, 1, 64)[:, None]
>>> model = seeded(3, lambda: torch.nn.Linear(1, 1))
>>> history = fit(model, lambda m, b: (m(b[0]) - b[1]).square().mean(1), (x, 2 * x), (x, 2 * x),
...               TrainingConfig(epochs=60, batch_size=16, learning_rate=0.1))
>>> history.best_loss < 1e-3
True
"""

from __future__ import annotations

import hashlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from astro_utils.results import atomic

__all__ = ["History", "TrainingConfig", "fit", "predict", "seeded"]

Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; the same for every model.

    Parameters
    ----------
    epochs : int
        Passes over the training set at most.
    batch_size : int
        Objects per step.
    learning_rate, weight_decay : float
        Of AdamW; the rate warms up over a tenth of the steps and falls to zero along a cosine.
    patience : int
        Epochs without a better validation loss before the loop stops.
    clip_norm : float
        Gradients are scaled down to this norm.
    bfloat16 : bool
        Whether the forward pass is in bfloat16 where torch's autocast knows how; it needs no loss scaling.
    seed : int
        Of the batch order and of dropout. Weights are seeded where the model is built, by :func:`seeded`.
    """

    epochs: int = 80
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    patience: int = 20
    clip_norm: float = 5.0
    bfloat16: bool = False
    seed: int = 0


@dataclass
class History:
    """What happened: mean losses per epoch, and the epoch (from 0) whose weights the model now has."""

    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    best_epoch: int = -1
    best_loss: float = math.inf


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model whose initial weights depend on `seed` alone, leaving torch's generator as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def _source(thing: object) -> str:
    """Source of a function or module; empty where there is none, as for one typed at a prompt."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


def _fingerprint(model: nn.Module, loss: Loss, config: TrainingConfig, sets: Sequence[Batch]) -> str:
    """Digest of all that decides the outcome: code, configuration, layers, initial weights and data."""
    digest = hashlib.sha256(repr((sorted(asdict(config).items()), model)).encode())
    for thing in (sys.modules[__name__], inspect.getmodule(type(model)), loss):
        digest.update(_source(thing).encode())
    for tensor in [*model.state_dict().values(), *(t for batch in sets for t in batch)]:
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _schedule(steps: int) -> Callable[[int], float]:
    """Factor on the learning rate: linear warm-up over a tenth of `steps`, then half a cosine to zero."""
    warm_up = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def _check(name: str, batch: Batch) -> None:
    lengths = {len(tensor) for tensor in batch}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"{name} set: tensors of lengths {sorted(lengths)}; expected one length above zero")


@torch.no_grad()
def _mean_loss(model: nn.Module, loss: Loss, data: Batch, batch_size: int) -> float:
    model.eval()
    total = sum(
        loss(model, tuple(t[i : i + batch_size] for t in data)).double().sum().item()
        for i in range(0, len(data[0]), batch_size)
    )
    return total / len(data[0])


def fit(
    model: nn.Module,
    loss: Loss,
    train: Batch,
    validation: Batch,
    config: TrainingConfig,
    checkpoint: str | Path | None = None,
) -> History:
    """Train `model` in place and leave it, in eval mode, with the weights of its best validation epoch.

    Parameters
    ----------
    model : torch.nn.Module
        Built with :func:`seeded`.
    loss : callable
        ``loss(model, batch) -> (B,)``, one value an object.
    train, validation : tuple of torch.Tensor
        Tensors of equal length; nothing random is applied to the validation set.
    config : TrainingConfig
        How to train.
    checkpoint : path, optional
        Written after every epoch. A run that was killed goes on from it to the same weights as a run that
        was not; a checkpoint of another configuration, model or data set is left unread and replaced.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        When tensors disagree in length.
    FloatingPointError
        When the training or the validation loss is not finite.
    """
    _check("training", train)
    _check("validation", validation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fingerprint = _fingerprint(model, loss, config, (train, validation)) if checkpoint else ""
    train = tuple(t.to(device) for t in train)
    validation = tuple(t.to(device) for t in validation)

    steps_per_epoch = math.ceil(len(train[0]) / config.batch_size)
    model = model.to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _schedule(config.epochs * steps_per_epoch))
    order = torch.Generator().manual_seed(config.seed)
    history, best = History(), {k: v.clone() for k, v in model.state_dict().items()}

    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        state = _load(checkpoint, fingerprint, device)
        if state is not None:
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            scheduler.load_state_dict(state["scheduler"])
            order.set_state(state["order"].cpu())
            torch.set_rng_state(state["dropout"].cpu())
            torch.cuda.set_rng_state_all([one.cpu() for one in state["dropout_cuda"]])
            history, best = History(**state["history"]), state["best"]

        for epoch in range(len(history.train_loss), config.epochs):
            if epoch - 1 - history.best_epoch >= config.patience:
                break
            model.train()
            total = 0.0
            for index in torch.randperm(len(train[0]), generator=order).to(device).split(config.batch_size):
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bfloat16):
                    losses = loss(model, tuple(t[index] for t in train))
                optimizer.zero_grad(set_to_none=True)
                losses.mean().backward()
                nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                scheduler.step()
                total += losses.detach().double().sum().item()
            history.train_loss.append(total / len(train[0]))
            history.validation_loss.append(_mean_loss(model, loss, validation, config.batch_size))
            for name, losses in (("training", history.train_loss), ("validation", history.validation_loss)):
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(
                        f"{name} loss is {losses[-1]} in epoch {epoch}; lower the learning rate?"
                    )
            if history.validation_loss[-1] < history.best_loss:
                history.best_loss, history.best_epoch = history.validation_loss[-1], epoch
                # A copy: state_dict() alone is a live view, and restoring it would restore nothing.
                best = {k: v.clone() for k, v in model.state_dict().items()}
            if checkpoint:
                _save(checkpoint, fingerprint, model, optimizer, scheduler, order, history, best)

    model.load_state_dict(best)
    model.eval()
    return history


def _save(checkpoint, fingerprint, model, optimizer, scheduler, order, history, best) -> None:
    """Write the whole state of the loop, tensors and plain containers only, atomically."""
    state = {
        "fingerprint": fingerprint,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {k: v for k, v in scheduler.state_dict().items() if k != "lr_lambdas"}
        | {"lr_lambdas": [None]},
        "order": order.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_cuda": torch.cuda.get_rng_state_all(),  # empty without a GPU
        "history": asdict(history),
        "best": best,
    }
    with atomic(checkpoint) as temporary:
        torch.save(state, temporary)


def _load(checkpoint: str | Path | None, fingerprint: str, device: torch.device) -> dict | None:
    """Read a checkpoint of this very run, or None."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    state = torch.load(checkpoint, map_location=device, weights_only=True)
    return state if state["fingerprint"] == fingerprint else None


@torch.no_grad()
def predict(function: Callable[..., Tensor], *inputs: Tensor, batch_size: int = 4096) -> Tensor:
    """Apply `function` (a model in eval mode, or one of its methods) to `inputs` in batches, on their device.

    Returns
    -------
    torch.Tensor
        Outputs in the order of the inputs, on the CPU.
    """
    pieces = [
        function(*(t[i : i + batch_size] for t in inputs)).cpu() for i in range(0, len(inputs[0]), batch_size)
    ]
    return torch.cat(pieces)
