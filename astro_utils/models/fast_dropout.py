"""Dropout whose random numbers are cheap on a CPU.

Torch draws one Bernoulli variate for each element. Here one 64-bit integer of torch's own generator decides
on four elements, 16 bits each.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

__all__ = ["FastDropout", "GELUDropoutLinear"]

_LEVELS = 1 << 16
_PIECE = 1 << 21


def _lanes(shape: torch.Size) -> Tensor:
    """16-bit integers, uniform from -32768 to 32767, from torch's generator of the CPU."""
    n = math.prod(shape)
    # The explicit lower end is what makes random_ use all 64 bits: by default it leaves the sign bit zero.
    words = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return words.view(torch.int16)[:n].view(shape)


def _zero_dropped(x: Tensor, lanes: Tensor, dropped: int, out: Tensor) -> Tensor:
    """Write `x` into `out`, which may be `x`, with zeros where a lane is among the lowest `dropped`."""
    # The gradient of a threshold is this selection in one pass, without a mask that has to be converted.
    select, highest = torch.ops.aten.threshold_backward.grad_input, dropped - _LEVELS // 2 - 1
    if x.element_size() == 2:
        # As integers: lanes rounded to bfloat16 would cross the threshold.
        select(x.view(torch.int16), lanes, highest, grad_input=out.view(torch.int16))
        return out
    # In pieces: torch first converts the lanes to the type of `x`, and so does it in the same memory.
    flat = [torch.atleast_1d(t) for t in (x, lanes, out)]
    rows = max(1, _PIECE * len(flat[0]) // max(1, x.numel()))
    for x_piece, lanes_piece, out_piece in zip(*(t.split(rows) for t in flat), strict=True):
        select(x_piece, lanes_piece, highest, grad_input=out_piece)
    return out


def _scale(dropped: int) -> float:
    return _LEVELS / (_LEVELS - dropped)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, lanes: Tensor, dropped: int) -> Tensor:
        ctx.save_for_backward(lanes)
        ctx.dropped = dropped
        return _zero_dropped(x, lanes, dropped, torch.empty_like(x)).mul_(_scale(dropped))

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        return _Dropout.apply(grad, *ctx.saved_tensors, ctx.dropped), None, None


class _UnscaledGELUDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, lanes: Tensor, dropped: int) -> Tensor:
        ctx.save_for_backward(x, lanes)
        ctx.dropped = dropped
        out = F.gelu(x)
        return _zero_dropped(out, lanes, dropped, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, lanes = ctx.saved_tensors
        out = torch.ops.aten.gelu_backward(grad, x)
        return _zero_dropped(out, lanes, ctx.dropped, out), None, None


class FastDropout(nn.Module):
    """Zero each element with probability `p` and divide the others by 1 - p, in training only.

    On the CPU `p` is rounded to a whole number of 65536ths and the others are divided by what that leaves, so
    that the mean is kept. On hidden activations of a transformer it takes less than half the time of
    `torch.nn.Dropout`; together with the gradient, in single precision, about half. Torch's seed
    (``torch.manual_seed``, ``torch.random.fork_rng``) decides what is dropped, but not the same elements as
    `torch.nn.Dropout` drops. On other devices it is that one.

    Parameters
    ----------
    p : float
        Probability to be dropped, from 0 to below 1.

    Raises
    ------
    ValueError
        When `p` is not in that range, or nearer to 1 than a 65536th.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p <= 1 - 1 / _LEVELS:
            raise ValueError(f"dropout with probability {p}; expected 0 or more and less than 1")
        self.p = p
        self.dropped = round(p * _LEVELS)

    def extra_repr(self) -> str:
        """Give the probability for printing."""
        return f"p={self.p}"

    def is_fast(self, x: Tensor) -> bool:
        """Tell whether elements of `x` are to be dropped now, and on the CPU."""
        return x.device.type == "cpu" and self.training and self.dropped > 0

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of `x`, of any shape and any floating-point type."""
        if self.is_fast(x):
            return _Dropout.apply(x, _lanes(x.shape), self.dropped)
        return F.dropout(x, self.p, self.training)


class GELUDropoutLinear(nn.Linear):
    """A linear layer after GELU (by the error function) and dropout: the end of a feed-forward network.

    Together they pass less often over the wide input than apart: on the CPU nothing is kept between GELU and
    dropout, and the weights rather than the activations are divided by 1 - p.

    Parameters
    ----------
    n_in, n_out : int
        Widths of the input and the output.
    p : float
        Probability of the dropout, as in `FastDropout`.
    """

    def __init__(self, n_in: int, n_out: int, p: float) -> None:
        super().__init__(n_in, n_out)
        self.dropout = FastDropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) before the GELU to (..., n_out)."""
        if not self.dropout.is_fast(x):
            return super().forward(self.dropout(F.gelu(x)))
        dropped = self.dropout.dropped
        hidden = _UnscaledGELUDropout.apply(x, _lanes(x.shape), dropped)
        return F.linear(hidden, self.weight * _scale(dropped), self.bias)
