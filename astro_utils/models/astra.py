"""ASTRA: the spectrum of a galaxy from its images, by a transformer over patches, as it was published.

Two versions of it are public (notPhani/ASTRA, ``main_v1.py`` and ``main_v2.py``), without any trained weights
or scores. Both are here, with what is unusual in them; :class:`AstraConfig` has a switch for each such thing.

>>> import torch
>>> model = Astra(ASTRA_V1_SMALL)
>>> model(torch.zeros(2, 5, 64, 64)).shape
torch.Size([2, 1000])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.models.astra_parts import (
    FirstBlock,
    FourierAttention,
    PatchCNN,
    PatchEmbedding,
    SecondBlock,
    SeparablePatchCNN,
    make_patches,
    sinusoidal_positions,
)

__all__ = [
    "ASTRA_V1",
    "ASTRA_V1_SMALL",
    "ASTRA_V2",
    "ASTRA_V2_SMALL",
    "PATCH_WEIGHTS",
    "Astra",
    "AstraConfig",
    "parameter_counts",
    "without_quirks",
]

PATCH_WEIGHTS = ("redrawn", "frozen", "trained")


@dataclass(frozen=True)
class AstraConfig:
    """Version, sizes and quirks of ASTRA. The defaults are those of version 1 as published.

    Parameters
    ----------
    version : {1, 2}
        Version 1: patch CNN with two full convolutions, dummy token last, attention with full-width queries,
        LayerNorm after each part, decoder with one hidden layer. Version 2: separable patch CNN, a linear
        layer, LayerNorm and GELU on the tokens, dummy token first, attention through a bottleneck, LayerNorm
        ahead of each part, decoder that stretches the token.
    size, patch, bands : int
        Side of the images and of a patch, pixels; bands.
    dim, depth, heads, ratio : int
        Width of tokens, blocks, heads, width of the perceptrons in units of `dim`.
    rank : int
        Bottleneck of queries, keys and values (version 2).
    hidden : int
        Hidden layer of the decoder (version 1).
    points : int
        Points of a spectrum.
    dropout : float
    patch_weights : {"redrawn", "frozen", "trained"}
        Of the patch CNN; published is ``"redrawn"``, see :class:`PatchEmbedding`.
    mixed_pixels : bool
        Whether the patch CNN of version 1 reads pixels and bands mixed up, see :class:`PatchCNN`.
    scaled_tokens : bool
        Whether the tokens of each galaxy, positions included, are scaled to -1 ... 1 by their own extremes
        (version 2).
    odd_residuals : bool
        Whether blocks add what they add in the original, see :class:`FirstBlock` and :class:`SecondBlock`.
    fourier : bool
        Whether attention is between frequencies (version 2), see :class:`FourierAttention`.
    pruned : float
        Share of the decoder's weights that is zero from the start (version 2).

    Raises
    ------
    ValueError
        When a value is not one of those expected, sizes do not divide, or a switch is not of this version.
    """

    version: int = 1
    size: int = 288
    patch: int = 16
    bands: int = 5
    dim: int = 1280
    depth: int = 6
    heads: int = 8
    ratio: int = 4
    rank: int = 325
    hidden: int = 2048
    points: int = 4000
    dropout: float = 0.1
    patch_weights: str = "redrawn"
    mixed_pixels: bool = True
    scaled_tokens: bool = False
    odd_residuals: bool = True
    fourier: bool = False
    pruned: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in (("version", (1, 2)), ("patch_weights", PATCH_WEIGHTS)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {allowed}")
        for name, whole, part in (
            ("size", self.size, self.patch),
            ("dim", self.dim, self.heads),
            ("dim", self.dim, 2),
        ):
            if whole < 1 or whole % part:
                raise ValueError(f"{name} is {whole}; expected a multiple of {part}")
        for name, high in (("dropout", self.dropout), ("pruned", self.pruned)):
            if not 0 <= high < 1:
                raise ValueError(f"{name} is {high}; expected 0 or more and less than 1")
        others = {1: ("scaled_tokens", "fourier", "pruned"), 2: ("mixed_pixels",)}[self.version]
        if set_here := [name for name in others if getattr(self, name)]:
            raise ValueError(f"{', '.join(set_here)}: version {self.version} has no such thing")


#: As published.
ASTRA_V1 = AstraConfig()
ASTRA_V2 = AstraConfig(version=2, depth=8, mixed_pixels=False, scaled_tokens=True, fourier=True, pruned=0.1)

_SMALL = {"size": 64, "dim": 64, "heads": 4, "rank": 16, "hidden": 128, "points": 1000}
#: The same at a size for laptops: 16 patches of the published size, half as many blocks.
ASTRA_V1_SMALL = replace(ASTRA_V1, depth=3, **_SMALL)
ASTRA_V2_SMALL = replace(ASTRA_V2, depth=4, **_SMALL)


def without_quirks(config: AstraConfig) -> AstraConfig:
    """Return `config` with a trained patch CNN that knows its bands, residuals, attention and all weights."""
    return replace(
        config,
        patch_weights="trained",
        mixed_pixels=False,
        scaled_tokens=False,
        odd_residuals=False,
        fourier=False,
        pruned=0.0,
    )


class SpectrumDecoder(nn.Sequential):
    """Tokens (B, dim) to spectra (B, points) by one hidden layer (version 1, ``SpectrumDecoder``)."""

    def __init__(self, *, dim: int, hidden: int, points: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, points))


class SpectraUpscaler(nn.Module):
    """One token (B, dim) to a spectrum (B, points), stretched (``SpectraUpscaler``, version 2).

    The numbers of the token are taken for a curve and interpolated linearly to `points`, which one linear
    layer then mixes. Of its weights the share `pruned` that is smallest when they are drawn is zero and stays
    zero.

    Parameters
    ----------
    dim, points : int
        Width of the token; points of the spectrum.
    pruned : float
        Share of the weights, 0 to 1.
    """

    def __init__(self, *, dim: int, points: int, pruned: float) -> None:
        super().__init__()
        self.projection = nn.Linear(dim, dim)  # ``final_linear`` of the original's encoder
        self.linear = nn.Linear(points, points)
        kept = torch.ones(points, points, dtype=torch.bool)
        if n := round(pruned * kept.numel()):
            kept = (
                self.linear.weight.detach().abs() > self.linear.weight.detach().abs().flatten().kthvalue(n)[0]
            )
        self.register_buffer("kept", kept)

    def forward(self, token: Tensor) -> Tensor:
        """Map tokens (B, dim) to spectra (B, points)."""
        curve = F.interpolate(self.projection(token)[:, None], len(self.kept), mode="linear")[:, 0]
        return F.linear(curve, self.linear.weight * self.kept, self.linear.bias)


class Astra(nn.Module):
    """ASTRA, either version: normalised images to spectra.

    Patches become tokens (``StaticPatchCNN`` and ``final_encoding``; here, and not in the data set, so that
    the patch CNN can be trained), a dummy token without a position joins them, a transformer mixes all
    (``TransformerEncoder``), and the dummy token alone is decoded.

    As published, version 1 has 128,885,408 trained parameters beside 10,488,864 of the patch CNN that are
    never trained, version 2 has 157,332,640 beside 42,452.

    Parameters
    ----------
    config : AstraConfig
        The four named configurations are ``ASTRA_V1``, ``ASTRA_V2`` and, for laptops, ``ASTRA_V1_SMALL`` and
        ``ASTRA_V2_SMALL``.
    """

    def __init__(self, config: AstraConfig = ASTRA_V1) -> None:
        super().__init__()
        self.config = config
        dim, dropout = config.dim, config.dropout
        self.embedding = PatchEmbedding(_patch_cnn(config), config.patch_weights)
        self.register_buffer("positions", sinusoidal_positions((config.size // config.patch) ** 2, dim))
        self.dummy_token = nn.Parameter(torch.randn(1, 1, dim))
        if config.version == 1:
            self.input_projection = nn.Identity()
            self.decoder = SpectrumDecoder(dim=dim, hidden=config.hidden, points=config.points)
        else:
            self.input_projection = nn.Sequential(
                nn.Linear(dim, dim), nn.LayerNorm(dim), nn.GELU(), nn.Dropout(dropout / 2)
            )
            self.decoder = SpectraUpscaler(dim=dim, points=config.points, pruned=config.pruned)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        if config.version == 2:
            self._initialise()

    def _initialise(self) -> None:
        """Initialise as version 2: Xavier with a gain of 0.1, and no biases.

        The weights of the decoder's last layer keep torch's own. The original means to set them, too, but
        sets a copy, because pruning computes the weights anew in each pass.
        """
        for part in (self.input_projection, self.blocks, self.decoder):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    if layer is not self.decoder.linear:
                        nn.init.xavier_uniform_(layer.weight, gain=0.1)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)

    def extra_repr(self) -> str:
        """Return the configuration, by which checkpoints tell networks of equal layers apart."""
        return repr(self.config)

    def tokens(self, images: Tensor) -> Tensor:
        """Map images (B, bands, size, size) to tokens with positions (B, P, dim).

        This is what the original's data set (``GalaxyDataset``) hands out.

        Raises
        ------
        ValueError
            When images have another shape.
        """
        config = self.config
        if images.ndim != 4 or images.shape[1:] != (config.bands, config.size, config.size):
            raise ValueError(
                f"images have shape {tuple(images.shape)}; expected "
                f"(B, {config.bands}, {config.size}, {config.size})"
            )
        x = self.embedding(make_patches(images, config.patch)) + self.positions  # (B, P, dim)
        if config.scaled_tokens:
            low, high = x.amin((1, 2), keepdim=True), x.amax((1, 2), keepdim=True)
            x = 2 * (x - low) / (high - low + 1e-6) - 1
        return x

    def encode(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, P, dim) to those after the last block (B, 1 + P, dim), the dummy token first."""
        dummy = self.dummy_token.expand(len(tokens), -1, -1)
        # First, as in version 2. In version 1 it is last: to plain attention that is the same.
        x = torch.cat([dummy, self.input_projection(tokens)], 1)
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, bands, size, size) to spectra (B, points)."""
        return self.decoder(self.encode(self.tokens(images))[:, 0])


def _patch_cnn(config: AstraConfig) -> nn.Module:
    if config.version == 2:
        return SeparablePatchCNN(bands=config.bands, dim=config.dim)
    return PatchCNN(bands=config.bands, pixels=config.patch**2, dim=config.dim, mixed=config.mixed_pixels)


def _block(config: AstraConfig) -> nn.Module:
    sizes = {"dim": config.dim, "ratio": config.ratio, "dropout": config.dropout}
    if config.version == 1:
        return FirstBlock(heads=config.heads, own_residual=config.odd_residuals, **sizes)
    attention = FourierAttention(
        dim=config.dim, heads=config.heads, rank=config.rank, dropout=config.dropout, fourier=config.fourier
    )
    return SecondBlock(attention, added_norms=config.odd_residuals, **sizes)


def parameter_counts(config: AstraConfig) -> dict[str, int]:
    """Count weights without making them.

    Returns
    -------
    dict of str to int
        ``patch_cnn``, ``input_projection``, ``encoder`` (blocks and dummy token), ``decoder`` (pruned weights
        included), and ``trained``, the sum of those that training changes.
    """
    with torch.device("meta"):
        model, cnn = Astra(config), _patch_cnn(config)

    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    return {
        "patch_cnn": count(cnn),
        "input_projection": count(model.input_projection),
        "encoder": count(model.blocks) + model.dummy_token.numel(),
        "decoder": count(model.decoder),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
