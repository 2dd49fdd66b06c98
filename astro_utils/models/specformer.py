"""The spectrum backbone of AstroCLIP: a transformer that learns to fill gaps in spectra.

Parameters have the names of the published checkpoint (SpecFormer), which ``load_weights`` of
:mod:`astro_utils.astroclip_weights` reads. To train one afresh:

    model = seeded(0, SpecFormer)
    loss = lambda model, batch: model.masked_loss(*batch)  # batches of spectra and masks
    redraw = lambda batch: (batch[0], draw_masks(len(batch[0]), 778, generator=generator))
    fit(model, loss, (spectra, masks), (held_out, their_masks), config, augment=redraw)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.astroclip_inputs import spectrum_tokens
from astro_utils.models.astroclip_vit import attend

__all__ = ["Perceptron", "SpecFormer"]


class Perceptron(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside; dropout at the end."""

    def __init__(self, *, dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., dim) to (..., dim)."""
        return self.dropout(self.decoder(F.gelu(self.encoder(x))))


class _Attention(nn.Module):
    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention, self.projection = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.projection(attend(self.attention(x), self.heads))


class _Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.layernorm1, self.layernorm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = _Attention(dim=dim, heads=heads)
        self.mlp = Perceptron(dim=dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm1(x))
        return x + self.mlp(self.layernorm2(x))


class SpecFormer(nn.Module):
    """Spectra to tokens, one for each window and one for mean and spread [1]_.

    Parameters
    ----------
    dim, depth, heads : int
        Width of the tokens, blocks, and heads of attention.
    max_tokens : int
        Positions that are learned: a spectrum may have so many tokens at most.
    window, stride : int
        Of :func:`astro_utils.astroclip_inputs.spectrum_tokens`, pixels.

    Raises
    ------
    ValueError
        When the heads do not divide the width.

    Notes
    -----
    The published one has no dropout, and neither has this. Weights start as published: normal, cut at three
    deviations, of deviation dim^(-1/2) for what embeds pixels and positions, (2 depth n_in)^(-1/2) for
    layers of the blocks and n_in^(-1/2) for the head.

    References
    ----------
    .. [1] Parker, L., et al., 2024, AstroCLIP: a cross-modal foundation model for galaxies, MNRAS, 531, 4990.
    """

    def __init__(
        self,
        *,
        dim: int = 768,
        depth: int = 6,
        heads: int = 6,
        max_tokens: int = 800,
        window: int = 20,
        stride: int = 10,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim is {dim}; expected a multiple of {heads}")
        self.dim, self.max_tokens, self.window, self.stride = dim, max_tokens, window, stride
        self.data_embed = nn.Linear(window + 2, dim)
        # Drawn below; what nn.Embedding draws itself would, on "meta", load the whole compiler of torch.
        self.position_embed = nn.Embedding.from_pretrained(torch.empty(max_tokens, dim), freeze=False)
        self.blocks = nn.ModuleList(_Block(dim=dim, heads=heads) for _ in range(depth))
        self.final_layernorm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, window + 2)

        for layer in (self.data_embed, self.position_embed):
            _initialise(layer.weight, dim**-0.5)
        for layer in (self.head, *self.blocks.modules()):
            if isinstance(layer, nn.Linear):
                share = 1 if layer is self.head else 2 * depth
                _initialise(layer.weight, (share * layer.in_features) ** -0.5)
                nn.init.zeros_(layer.bias)

    def forward(self, spectra: Tensor) -> Tensor:
        """Map spectra (B, pixels) or (B, pixels, 1), flux density, to normalised tokens (B, T, dim)."""
        return self.encode(self.tokens(spectra))

    def tokens(self, spectra: Tensor) -> Tensor:
        """Cut spectra (B, pixels) or (B, pixels, 1) into tokens (B, T, window + 2), as yet untouched."""
        return spectrum_tokens(spectra, window=self.window, stride=self.stride)

    def encode(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, window + 2), some of them perhaps hidden, to normalised tokens (B, T, dim).

        Raises
        ------
        ValueError
            If there are more tokens than positions.
        """
        n = tokens.shape[1]
        if n > self.max_tokens:
            raise ValueError(f"spectra of {n} tokens; expected at most {self.max_tokens}")
        x = self.data_embed(tokens) + self.position_embed.weight[:n]  # (B, T, dim)
        for block in self.blocks:
            x = block(x)
        return self.final_layernorm(x)

    def masked_loss(self, spectra: Tensor, masked: Tensor) -> Tensor:
        """Error with which hidden tokens are guessed from the others.

        Parameters
        ----------
        spectra : torch.Tensor
            (B, pixels) or (B, pixels, 1), flux density.
        masked : torch.Tensor
            (B, T) bool, the tokens to hide, for example from :func:`astro_utils.astroclip_inputs.draw_masks`.

        Returns
        -------
        torch.Tensor
            (B,). The mean over the batch is the published loss, mse(out m, true m) / mean(m), where m is 1
            for the numbers that hiding changes: those that are 0 anyway do not count.

        Raises
        ------
        ValueError
            If `masked` does not fit the spectra.
        """
        tokens = self.tokens(spectra)  # (B, T, window + 2)
        if masked.shape != tokens.shape[:2] or masked.dtype != torch.bool:
            raise ValueError(
                f"masked is {masked.dtype} of shape {tuple(masked.shape)}; "
                f"expected torch.bool of shape {tuple(tokens.shape[:2])}"
            )
        guess = self.head(self.encode(tokens.masked_fill(masked[..., None], 0)))
        counts = masked[..., None] & (tokens != 0)
        errors = ((guess - tokens) * counts).square().sum((1, 2))
        return errors / counts.sum((1, 2), dtype=errors.dtype).mean()


def _initialise(weight: Tensor, deviation: float) -> None:
    nn.init.trunc_normal_(weight, std=deviation, a=-3 * deviation, b=3 * deviation)
