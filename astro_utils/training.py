"""One fit/predict loop for every torch model: seeded, resumable, with early stopping that restores the best.

The loop asks little: a model, a ``loss(model, batch) -> (B,)`` and the training set as a tuple of tensors of
equal length, of which a batch is a slice. The tensors are moved to the device once, and a step neither waits
for the device nor looks at single objects.

>>> import torch
>>> x = torch.linspace(-1, 1, 64)[:, None]
>>> model = seeded(3, lambda: torch.nn.Linear(1, 1))
>>> history = fit(model, lambda m, b: (m(b[0]) - b[1]).square().mean(1), (x, 2 * x), (x, 2 * x),
...               TrainingConfig(epochs=60, batch_size=16, learning_rate=0.1))
>>> history.best_loss < 1e-3
True
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from astro_utils.checkpoints import fingerprint, restore_checkpoint, save_checkpoint

__all__ = ["SCHEDULES", "History", "TrainingConfig", "fit", "predict", "seeded"]

Batch = tuple[Tensor, ...]
Loss = Callable[[nn.Module, Batch], Tensor]
Augment = Callable[[Batch], Batch]

SCHEDULES = ("cosine", "constant")


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
        Of AdamW, which without decay is Adam.
    schedule : {"cosine", "constant"}
        The rate warms up over a tenth of the steps and falls to zero along a cosine, or it stays as it is.
    patience : int
        Epochs without a better validation loss before the loop stops.
    clip_norm : float
        Gradients are scaled down to this norm.
    bfloat16 : bool
        Whether networks compute in bfloat16 where torch's autocast knows how, in training and in validation.
        Weights stay in float32, and so do what ``model(...)`` returns and the loss of it; what a loss gets
        from other methods of the model is as autocast leaves it. No loss scaling is needed.
    compile : bool
        Whether training steps run the loss, and with it the model, through ``torch.compile`` where there is
        a GPU; on a CPU that needs a compiler, and made a small transformer twice as slow.
    seed : int
        Of the batch order, of augmentation and of dropout. Weights are seeded where the model is built, by
        :func:`seeded`.

    Raises
    ------
    ValueError
        For a schedule of another name.
    """

    epochs: int = 80
    batch_size: int = 256
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    schedule: str = "cosine"
    patience: int = 20
    clip_norm: float = 5.0
    bfloat16: bool = False
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; expected one of {SCHEDULES}")


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


def _rate(config: TrainingConfig, steps: int) -> Callable[[int], float]:
    """Factor on the learning rate by step: one, or a linear warm-up and then half a cosine to zero."""
    warm_up = max(1, steps // 10)

    def factor(step: int) -> float:
        if config.schedule == "constant":
            return 1.0
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))

    return factor


def _check(name: str, batch: Batch) -> None:
    lengths = {len(tensor) for tensor in batch}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"{name} set: tensors of lengths {sorted(lengths)}; expected one length above zero")


def _float32(model: nn.Module, inputs: Batch, answer: object) -> object:
    """Forward hook that has a model answer in float32, whatever its layers compute in."""
    if isinstance(answer, dict):
        return {name: _float32(model, inputs, one) for name, one in answer.items()}
    if isinstance(answer, tuple):
        return tuple(_float32(model, inputs, one) for one in answer)
    return answer.float() if isinstance(answer, Tensor) and answer.dtype == torch.bfloat16 else answer


def _losses(model: nn.Module, loss: Loss, batch: Batch, config: TrainingConfig) -> Tensor:
    """Loss of each object of a batch."""
    with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=config.bfloat16):
        return loss(model, batch)


@torch.no_grad()
def _mean_loss(model: nn.Module, loss: Loss, data: Batch, config: TrainingConfig) -> float:
    """Mean loss over the objects of `data`, with nothing random."""
    model.eval()
    total = torch.zeros((), dtype=torch.float64, device=data[0].device)
    for batch in zip(*(t.split(config.batch_size) for t in data), strict=True):
        total += _losses(model, loss, batch, config).double().sum()
    return total.item() / len(data[0])


def _train_epoch(model, loss, data: Batch, order: Tensor, augment, config, optimizer, scheduler) -> float:
    """Step once for each batch of `order`; the mean loss is read from the device only at the end."""
    model.train()
    total = torch.zeros((), dtype=torch.float64, device=order.device)
    for index in order.split(config.batch_size):
        batch = tuple(t.index_select(0, index) for t in data)
        if augment is not None:
            batch = augment(batch)
        losses = _losses(model, loss, batch, config)
        optimizer.zero_grad(set_to_none=True)
        losses.mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        scheduler.step()
        total += losses.detach().double().sum()
    return total.item() / len(order)


def fit(
    model: nn.Module,
    loss: Loss,
    train: Batch,
    validation: Batch,
    config: TrainingConfig,
    checkpoint: str | Path | None = None,
    augment: Augment | None = None,
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
    augment : callable, optional
        ``augment(batch) -> batch`` of the same tensors changed at random, on their device; for example
        :meth:`astro_utils.augment.Augmentation.of_batch`. Batches of the training set pass through it, those
        of the validation set never do.

    Returns
    -------
    History

    Raises
    ------
    ValueError
        When tensors disagree in length, or the file at `checkpoint` is something else.
    FloatingPointError
        When the training or the validation loss is not finite.
    """
    _check("training", train)
    _check("validation", validation)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    how = inspect.getsource(sys.modules[__name__]), torch.__version__, device.type, config
    mark = fingerprint(*how, model, loss, augment, train, validation) if checkpoint else ""
    train, validation = (tuple(t.to(device) for t in data) for data in (train, validation))

    model = model.to(device)
    # With the loss, because that may call any method of the model.
    step_loss = torch.compile(loss) if config.compile and device.type == "cuda" else loss
    # One kernel for all weights saves launches on a GPU; on a CPU it saves little and rounds differently.
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
    steps = config.epochs * math.ceil(len(train[0]) / config.batch_size)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(config, steps))
    order = torch.Generator().manual_seed(config.seed)
    history, best = History(), _copy(model)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    answers = model.register_forward_hook(_float32) if config.bfloat16 else nullcontext()

    with answers, torch.random.fork_rng():
        torch.manual_seed(config.seed)
        state = restore_checkpoint(checkpoint, mark, parts, order, device) if checkpoint else None
        if state is not None:
            history, best = History(**state["history"]), state["best"]

        for epoch in range(len(history.train_loss), config.epochs):
            if epoch - 1 - history.best_epoch >= config.patience:
                break
            shuffled = torch.randperm(len(train[0]), generator=order).to(device)
            history.train_loss.append(
                _train_epoch(model, step_loss, train, shuffled, augment, config, optimizer, scheduler)
            )
            history.validation_loss.append(_mean_loss(model, loss, validation, config))
            for name, losses in (("training", history.train_loss), ("validation", history.validation_loss)):
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(
                        f"{name} loss is {losses[-1]} in epoch {epoch}; lower the learning rate?"
                    )
            if history.validation_loss[-1] < history.best_loss:
                history.best_loss, history.best_epoch = history.validation_loss[-1], epoch
                best = _copy(model)
            if checkpoint:
                save_checkpoint(checkpoint, mark, parts, order, history=asdict(history), best=best)

    model.load_state_dict(best)
    model.eval()
    return history


def _copy(model: nn.Module) -> dict[str, Tensor]:
    """Weights as they are now: ``state_dict()`` alone is a live view, and restoring it restores nothing."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@torch.no_grad()
def predict(
    function: Callable[..., Tensor], *inputs: Tensor, batch_size: int = 4096, bfloat16: bool = False
) -> Tensor:
    """Apply `function` (a model in eval mode, or one of its methods) to `inputs` in batches, on their device.

    Parameters
    ----------
    function : callable
        From a batch of each input to a tensor of as many rows.
    *inputs : torch.Tensor
        Of equal length.
    batch_size : int
        Objects at a time.
    bfloat16 : bool
        Whether to compute in bfloat16 where torch's autocast knows how.

    Returns
    -------
    torch.Tensor
        Outputs in the order of the inputs, on the CPU, and in float32 if computed in bfloat16.
    """
    pieces = []
    for batch in zip(*(t.split(batch_size) for t in inputs), strict=True):
        with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bfloat16):
            piece = function(*batch)
        pieces.append(piece.cpu())
    return torch.cat(pieces).float() if bfloat16 else torch.cat(pieces)
