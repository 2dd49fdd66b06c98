"""The networks that deep-KCorrect puts on a galaxy's embedding to predict its k-correction.

Layers, widths and dropout are those of the repository ``jere1882/deep-KCorrect`` (``models/models.py`` and
``config/model``). All map embeddings (B, n_inputs) to k-corrections (B,), never (B, 1): the published scores
subtracted targets (N,) from predictions (N, 1), which makes a table of all N^2 differences, and its mean
error is that of guessing.

:class:`astro_utils.kcorrections.heads.PublishedHead` trains them.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["AttentionHead", "MLPHead", "ResidualHead"]


def _widths(widths: Sequence[int], at_least: int = 1) -> tuple[int, ...]:
    widths = tuple(widths)
    if len(widths) < at_least or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(f"hidden widths {list(widths)}; expected at least {at_least}, integers above 0")
    return widths


class MLPHead(nn.Module):
    """Linear, ReLU and dropout for each hidden width, and a linear layer to one number.

    Parameters
    ----------
    n_inputs : int
        Length of an embedding: 1024 as published, 1025 with the redshift.
    hidden : sequence of int
        Widths of the hidden layers.
    dropout : float
        After each hidden layer.

    Raises
    ------
    ValueError
        When there is no hidden width, or one is not an integer above 0.
    """

    def __init__(
        self, *, n_inputs: int, hidden: Sequence[int] = (1024, 512, 512, 256), dropout: float = 0.2
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in _widths(hidden):
            layers += [nn.Linear(n_inputs, width), nn.ReLU(), nn.Dropout(dropout)]
            n_inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(n_inputs, 1))

    @classmethod
    def early(cls, *, n_inputs: int) -> MLPHead:
        """Build the network of the first version of deep-KCorrect: two widths of 64, dropout 0.1."""
        return cls(n_inputs=n_inputs, hidden=(64, 64), dropout=0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_inputs) to (B,)."""
        return self.layers(x).squeeze(1)


class _ResidualBlock(nn.Module):
    """x + BN(W2 dropout(ReLU(BN(W1 x)))), and no ReLU after the sum."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.BatchNorm1d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width) to the same shape."""
        return x + self.layers(x)


class ResidualHead(nn.Module):
    """One residual block for each hidden width, each after linear, batch norm and ReLU.

    Batch norm needs at least two galaxies in each batch of a training.

    Parameters
    ----------
    n_inputs : int
        Length of an embedding.
    hidden : sequence of int
        Widths of the blocks.
    dropout : float
        Within each block.

    Raises
    ------
    ValueError
        When there is no hidden width, or one is not an integer above 0.
    """

    def __init__(self, *, n_inputs: int, hidden: Sequence[int] = (16, 16, 16), dropout: float = 0.2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in _widths(hidden):
            layers += [nn.Linear(n_inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            layers += [_ResidualBlock(width, dropout)]
            n_inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(n_inputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_inputs) to (B,)."""
        return self.layers(x).squeeze(1)


class AttentionHead(nn.Module):
    """Self-attention between the sixteen pieces of one hidden layer, then a perceptron.

    The attention has neither a residual connection nor a layer norm, and the pieces have no positions. Its
    dropout is also on the attention weights.

    Parameters
    ----------
    n_inputs : int
        Length of an embedding.
    hidden : sequence of int
        Widths of the layer before the attention and of the one after it. The published configuration names
        a third, 128, which its network ignores; so does this one, with any after it.
    dropout : float
        After both layers and on the attention weights.

    Raises
    ------
    ValueError
        When there are fewer than two widths, or one is not an integer above 0, or the first cannot be cut
        into sixteen tokens of eight heads. Two of the published sweep's entries, [16] and [1024], are such.
    """

    TOKENS = 16
    HEADS = 8

    def __init__(
        self, *, n_inputs: int, hidden: Sequence[int] = (512, 256, 128), dropout: float = 0.1
    ) -> None:
        super().__init__()
        before, after = _widths(hidden, at_least=2)[:2]
        dim, left = divmod(before, self.TOKENS)
        if left:
            raise ValueError(f"hidden width {before} is not divisible by {self.TOKENS} tokens")
        if dim % self.HEADS:
            raise ValueError(
                f"hidden width {before} makes tokens of {dim}, not divisible by {self.HEADS} heads"
            )
        self.first = nn.Sequential(nn.Linear(n_inputs, before), nn.ReLU(), nn.Dropout(dropout))
        self.attention = nn.MultiheadAttention(dim, self.HEADS, dropout=dropout, batch_first=True)
        self.last = nn.Sequential(
            nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout), nn.Linear(after, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n_inputs) to (B,)."""
        tokens = self.first(x).unflatten(1, (self.TOKENS, -1))  # (B, tokens, dim)
        mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]  # (B, tokens, dim)
        return self.last(mixed.flatten(1)).squeeze(1)
