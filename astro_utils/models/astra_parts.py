"""The parts of ASTRA: patches, the static patch CNN, positions, attention and blocks.

Parts have the names of the public repository notPhani/ASTRA in their docstrings, and so do the two versions
in which it exists (``main_v1.py`` and ``main_v2.py``). :mod:`astro_utils.models.astra` puts them together.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "FirstBlock",
    "FourierAttention",
    "PatchCNN",
    "PatchEmbedding",
    "SecondBlock",
    "SeparablePatchCNN",
    "make_patches",
    "sinusoidal_positions",
]

#: Numbers that are drawn at a time when every galaxy has a patch CNN of its own: 256 MB of them.
_DRAWN_AT_ONCE = 64_000_000


def make_patches(images: Tensor, patch: int) -> Tensor:
    """Cut images (B, bands, y, x) into patches (B, P, patch^2, bands), row by row (``make_patches``).

    Raises
    ------
    ValueError
        When the sides are not whole patches.
    """
    if images.ndim != 4 or images.shape[2] % patch or images.shape[3] % patch:
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (B, bands, y, x) with sides that are "
            f"multiples of {patch}"
        )
    cut = images.unflatten(3, (-1, patch)).unflatten(
        2, (-1, patch)
    )  # (B, bands, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)


def sinusoidal_positions(n: int, dim: int) -> Tensor:
    """Table (n, dim) of sines and cosines of the position, of periods from 2 pi to 10^4 times that.

    As Vaswani et al. (2017, arXiv:1706.03762, section 3.5); ``final_encoding`` in both versions. The position
    is the number of the patch: of rows and columns nothing is said.
    """
    angle = torch.arange(n)[:, None] * 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1)  # sine, cosine, sine, cosine, ...


# ---------------------------------------------------------------------------------------------- patches


class PatchCNN(nn.Module):
    """Patches (P, pixels, bands) to vectors (P, dim), version 1 (``StaticPatchCNN``).

    Two convolutions along the pixels of a patch in their row-by-row order, to 16 and 32 channels.

    Parameters
    ----------
    bands, pixels, dim : int
        Bands, pixels of a patch, width of the vectors.
    mixed : bool
        Whether the array (pixels, bands) is read as if it were (bands, pixels), as published: "channel" 0 is
        then not a band but all bands of the first fifth of the patch, interleaved. If not, it is transposed.
    """

    def __init__(self, *, bands: int, pixels: int, dim: int, mixed: bool) -> None:
        super().__init__()
        self.mixed = mixed
        self.conv1 = nn.Conv1d(bands, 16, 3, padding=1)
        self.conv2 = nn.Conv1d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * pixels, dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (P, pixels, bands) to (P, dim)."""
        n, pixels, bands = patches.shape
        x = patches.reshape(n, bands, pixels) if self.mixed else patches.transpose(1, 2)
        x = F.relu(self.conv2(F.relu(self.conv1(x))))  # (P, 32, pixels)
        return self.fc(x.flatten(1))


class SeparablePatchCNN(nn.Module):
    """Patches (P, pixels, bands) to vectors (P, dim), version 2 (``OptimizedStaticPatchCNN``).

    A fixed Gaussian smooths each band along the pixels; a depthwise and a pointwise convolution follow. What
    is left of a patch is the mean over its pixels, 32 numbers.

    Parameters
    ----------
    bands, dim : int
        Bands, width of the vectors.
    """

    def __init__(self, *, bands: int, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(bands, bands, 3, padding=1, groups=bands)
        self.pointwise = nn.Conv1d(bands, 32, 1)
        self.fc = nn.Linear(32, dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (P, pixels, bands) to (P, dim)."""
        x = patches.transpose(1, 2)  # (P, bands, pixels)
        kernel = torch.exp(-0.5 * torch.arange(-1, 2, device=x.device, dtype=x.dtype) ** 2)
        kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 3)
        x = F.conv1d(x, kernel, padding=1, groups=x.shape[1])
        x = F.relu(self.pointwise(F.relu(self.depthwise(x))))  # (P, 32, pixels)
        return self.fc(x.mean(2))


def _draw(cnn: nn.Module, n: int, device: torch.device) -> dict[str, Tensor]:
    """`n` sets of new weights for `cnn`, distributed as torch initialises convolutions and linear layers."""
    weights = {}
    for name, layer in cnn.named_children():
        bound = (
            layer.weight[0].numel() ** -0.5
        )  # of weights and biases alike: one over the root of the inputs
        for kind in ("weight", "bias"):
            shape = n, *getattr(layer, kind).shape
            weights[f"{name}.{kind}"] = torch.empty(shape, device=device).uniform_(-bound, bound)
    return weights


class PatchEmbedding(nn.Module):
    """Patches of many galaxies to vectors, by a patch CNN that is trained, frozen or never the same.

    Parameters
    ----------
    cnn : torch.nn.Module
        :class:`PatchCNN` or :class:`SeparablePatchCNN`.
    weights : {"redrawn", "frozen", "trained"}
        ``"redrawn"``, as published, gives each galaxy new random weights each time that it is seen, in
        evaluation mode too: the original creates the network in the data set's ``__getitem__``. Torch's
        generator decides, which :func:`astro_utils.training.fit` seeds. ``"frozen"`` keeps the first random
        weights for all galaxies.
    """

    def __init__(self, cnn: nn.Module, weights: str) -> None:
        super().__init__()
        self.weights = weights
        if weights == "redrawn":
            # In a tuple, torch does not see it: nothing of it is a parameter, as nothing of it stays.
            self._template = (cnn.to("meta"),)
        else:
            self.cnn = cnn.requires_grad_(weights == "trained")

    def forward(self, patches: Tensor) -> Tensor:
        """Map patches (B, P, pixels, bands) to (B, P, dim)."""
        if self.weights != "redrawn":
            return self.cnn(patches.flatten(0, 1)).unflatten(0, patches.shape[:2])
        (cnn,) = self._template
        size = sum(parameter.numel() for parameter in cnn.parameters())

        def encode(weights: dict[str, Tensor], of_one: Tensor) -> Tensor:
            return torch.func.functional_call(cnn, weights, (of_one,))

        return torch.cat(
            [
                torch.vmap(encode)(_draw(cnn, len(part), part.device), part)
                for part in patches.split(max(1, _DRAWN_AT_ONCE // size))
            ]
        )


# ------------------------------------------------------------------------------------------- transformers


class _Perceptron(nn.Module):
    """Two linear layers with a GELU between (``MLPBlock``, in version 2 ``SharedMLPWithSkipConnection``)."""

    def __init__(self, *, dim: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)
        self.dropout1, self.dropout2 = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout2(self.fc2(self.dropout1(F.gelu(self.fc1(x)))))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention in `heads` parts of the width, of and to (B, T, dim)."""
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, T, d)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _SelfAttention(nn.Module):
    """Multi-head self-attention (``Attention_block`` of version 1)."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(_attend(self.q(x), self.k(x), self.v(x), self.heads))


class FourierAttention(nn.Module):
    """Attention between frequencies along the sequence of tokens (``RobustAttentionBlock`` of version 2).

    Queries, keys and values go through a bottleneck of `rank` numbers, are filled up with zeros to N
    positions, a power of two, and are Fourier transformed along these. With Q, K, V the real parts, (N, dim)
    each, the published output is the real part of the inverse transform of softmax(|Q K^T| / sqrt(d)) V,
    where d is the width that a head would have: there is one head. The real part of a transform is that of
    the part of the sequence that is even about token 0, so this attention cannot tell token t from token
    N - t: it gives both the same output.

    Of the N rows of Q, K and V, frequencies f and N - f are the same; `forward` keeps N / 2 + 1 of them and
    counts those that stand for two twice, with the published numbers up to rounding.

    Parameters
    ----------
    dim, heads, rank : int
        Width of tokens; heads, of which with ``fourier`` only the scale is left; width of the bottleneck.
    dropout : float
        Of the output.
    fourier : bool
        If not, the same weights make plain attention with `heads` heads between tokens.
    """

    def __init__(self, *, dim: int, heads: int, rank: int, dropout: float, fourier: bool) -> None:
        super().__init__()
        self.heads, self.fourier = heads, fourier
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * rank, bias=False)
        self.q, self.k, self.v = (nn.Linear(rank, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim), without what the block adds to it."""
        q, k, v = self.qkv(self.norm(x)).chunk(3, 2)  # (B, T, rank)
        q, k, v = self.q(q), self.k(k), self.v(v)  # (B, T, dim)
        mixed = self._among_frequencies(q, k, v) if self.fourier else _attend(q, k, v, self.heads)
        return self.dropout(self.out(mixed))

    def _among_frequencies(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n_tokens, dim = q.shape[1:]
        n = 1 << (n_tokens - 1).bit_length()  # 325 tokens: 512
        # In single precision, as torch has no transform of bfloat16.
        q, k, v = (torch.fft.rfft(x.float(), n, dim=1).real for x in (q, k, v))  # (B, n / 2 + 1, dim)
        scores = (q @ k.transpose(1, 2)).abs() * (dim // self.heads) ** -0.5
        frequency = torch.arange(q.shape[1], device=q.device)
        twice = (frequency > 0) & (2 * frequency < n)
        weights = (scores + math.log(2) * twice).softmax(2)
        return torch.fft.irfft(weights @ v, n, dim=1)[:, :n_tokens]


class FirstBlock(nn.Module):
    """Block of version 1 (``TransformerBlock``): attention and perceptron, each followed by a LayerNorm.

    Published, x = f(x) and then x = x + dropout(x): what is added to the output of attention is that output,
    and the tokens that came in are lost. As LayerNorm takes out the factor of two, evaluation is a plain
    chain of attention, LayerNorm, perceptron and LayerNorm, and nothing passes a block unmixed.

    Parameters
    ----------
    dim, heads, ratio : int
        Width, heads, width of the perceptron in units of `dim`.
    dropout : float
    own_residual : bool
        As published; if not, x = x + dropout(f(x)).
    """

    def __init__(self, *, dim: int, heads: int, ratio: int, dropout: float, own_residual: bool) -> None:
        super().__init__()
        self.own_residual = own_residual
        self.attention = _SelfAttention(dim=dim, heads=heads)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = _Perceptron(dim=dim, ratio=ratio, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        for part, norm in ((self.attention, self.norm1), (self.mlp, self.norm2)):
            found = part(x)
            x = norm((found if self.own_residual else x) + self.dropout(found))
        return x


class SecondBlock(nn.Module):
    """Block of version 2 (``TransformerBlock``): LayerNorms ahead of attention and perceptron.

    Published, both the parts and the block add what came in, so that x = x + norm(x) + f(norm(x)).

    Parameters
    ----------
    attention : FourierAttention
    dim, ratio : int
        Width; width of the perceptron in units of it.
    dropout : float
    added_norms : bool
        As published; if not, x = x + f(norm(x)).
    """

    def __init__(
        self, attention: FourierAttention, *, dim: int, ratio: int, dropout: float, added_norms: bool
    ) -> None:
        super().__init__()
        self.added_norms = added_norms
        self.attention = attention
        self.mlp = _Perceptron(dim=dim, ratio=ratio, dropout=dropout)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        for part, norm in ((self.attention, self.norm1), (self.mlp, self.norm2)):
            normed = norm(x)
            x = x + part(normed) + (normed if self.added_norms else 0)
        return x
