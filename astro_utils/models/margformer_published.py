"""MargFormer as it was published: photometry as the token that asks, patches of a stamp as what is asked.

The network of the public repository srinadh99/AstroFormer in its two variants: that of its README projects
65 tokens to k = 128 positions, that of its later conformal study (``MargFormerCP``) to k = 64. Its parts are
the vision transformer of Dosovitskiy et al. (2021, arXiv:2010.11929) and the attention whose keys and values
are projected along the sequence of Wang et al. (2020, arXiv:2006.04768, Linformer, eq. 7).
"""

from __future__ import annotations

from itertools import chain, pairwise

import torch
from torch import Tensor, nn

from astro_utils.models.fast_dropout import FastDropout, GELUDropoutLinear

__all__ = ["LinformerCrossAttention", "PublishedMargFormer"]

#: Hidden layers of the photometry's perceptron and the dropout after each.
PHOTOMETRY_WIDTHS = (1024, 512, 256)
PHOTOMETRY_DROPOUT = 0.25


class LinformerCrossAttention(nn.Module):
    """Token 0 asks all tokens, whose keys and values are first mixed along the sequence, 65 into k.

    With tokens X (N, dim), the key and value weights W_K, W_V of a head and the projections E, F (N, k), the
    published order is K = E^T (X W_K), V = F^T (X W_V), softmax(q K^T / sqrt(dim_head)) V. As one token asks,
    the same numbers follow from q K^T = ((q W_K^T) X^T) E and a V = ((a F^T) X) W_V, where no token's key or
    value is ever formed: that is `forward`; the published order is `literal`.

    Parameters
    ----------
    dim, n_tokens, k, heads, dim_head : int
        Width and number of tokens, projected positions, heads and their width.
    dropout : float
        Of the attention weights.
    """

    def __init__(self, dim: int, n_tokens: int, k: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = dim_head**-0.5
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_k = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_v = nn.Linear(dim, heads * dim_head, bias=False)
        self.proj_k = nn.Parameter(torch.empty(n_tokens, k).uniform_(-(k**-0.5), k**-0.5))
        self.proj_v = nn.Parameter(torch.empty(n_tokens, k).uniform_(-(k**-0.5), k**-0.5))
        self.dropout = FastDropout(dropout)
        self.to_out = nn.Linear(heads * dim_head, dim)

    def _query(self, tokens: Tensor) -> Tensor:
        """Scaled queries (B, heads, dim_head) of token 0."""
        return self.scale * self.to_q(tokens[:, 0]).unflatten(1, (self.heads, -1))

    def weights(self, tokens: Tensor) -> Tensor:
        """Attention weights (B, heads, k) of tokens (B, N, dim): sums of one over the projected positions."""
        key = self.to_k.weight.unflatten(0, (self.heads, -1))  # (heads, dim_head, dim)
        asked = torch.einsum("bhd,hde->bhe", self._query(tokens), key)
        similar = torch.bmm(tokens, asked.transpose(1, 2))  # (B, N, heads)
        return (similar.transpose(1, 2) @ self.proj_k).softmax(2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, dim) to what token 0 reads, (B, 1, dim)."""
        mixed = self.dropout(self.weights(tokens)) @ self.proj_v.t()  # (B, heads, N)
        read = torch.bmm(mixed, tokens)  # (B, heads, dim)
        value = self.to_v.weight.unflatten(0, (self.heads, -1))
        return self.to_out(torch.einsum("bhe,hde->bhd", read, value).flatten(1))[:, None]

    def literal(self, tokens: Tensor) -> Tensor:
        """Return the same in the published order of multiplications."""
        keys = torch.einsum("bnd,nk->bkd", self.to_k(tokens), self.proj_k).unflatten(2, (self.heads, -1))
        values = torch.einsum("bnd,nk->bkd", self.to_v(tokens), self.proj_v).unflatten(2, (self.heads, -1))
        weights = torch.einsum("bhd,bkhd->bhk", self._query(tokens), keys).softmax(2)
        return self.to_out(torch.einsum("bhk,bkhd->bhd", self.dropout(weights), values).flatten(1))[:, None]


class _Layer(nn.Module):
    """Cross-attention and feed-forward network, each after a LayerNorm and added to what came in."""

    def __init__(self, attention: LinformerCrossAttention, dim: int, mlp: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.feed_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, mlp)
        self.contract = GELUDropoutLinear(mlp, dim, dropout)

    def feed(self, tokens: Tensor) -> Tensor:
        """Feed-forward network with its residual."""
        return tokens + self.contract(self.expand(self.feed_norm(tokens)))

    def attended(self, tokens: Tensor) -> Tensor:
        """Return what token 0 reads, (B, 1, dim), of tokens (B, N, dim)."""
        normed = self.attention_norm(tokens)
        if torch.is_autocast_enabled(normed.device.type):
            # Once here, not by autocast in each of the products that read these tokens.
            normed = normed.to(torch.get_autocast_dtype(normed.device.type))
        return self.attention(normed)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, N, dim) to tokens (B, N, dim)."""
        return self.feed(tokens + self.attended(tokens))

    def first(self, tokens: Tensor) -> Tensor:
        """Token 0 of `forward`, (B, 1, dim), without the others' feed-forward network."""
        return self.feed(tokens[:, :1] + self.attended(tokens))

    def literal(self, tokens: Tensor) -> Tensor:
        """Return `forward` in the published order of multiplications."""
        return self.feed(tokens + self.attention.literal(self.attention_norm(tokens)))


class PublishedMargFormer(nn.Module):
    """The published MargFormer, which fuses the photometry and the stamp of an object into a class.

    The defaults are those of the README variant; ``k=64`` is that of the conformal study. With 2 and 3
    classes the network has 1,505,250 and 1,505,315 parameters (``k=64``: 1,405,410 and 1,405,475), as
    published. Dropout is where the released code has it: on the attention weights, after the GELU, and, of
    0.25, in the photometry's perceptron; there is none on the embedded tokens.

    What is unusual in it is kept:

    - **Broadcast residual.** The attention's answer, to token 0 alone, is added to all 65 tokens. Patches
      never attend to each other: within a layer, all that one learns of the others is this vector, which is
      the same for all.
    - **No flux in the image branch.** The LayerNorm of each patch removes its mean and its scale: an image
      times 1000 gives the same logits, if the variance in each patch is far above the norm's epsilon, 1e-5.
    - **A projection that expands.** Linformer saves work by a k far below the number of tokens; here 128
      positions stand for 65 tokens (and 64 with ``k=64``), so nothing is saved.
    - **Raw features.** Magnitudes near 20 stand beside extinctions near 0.05, unscaled.

    Equal to the published order (`literal`) up to rounding, `forward` multiplies less: see
    `LinformerCrossAttention`; and of the last layer's feed-forward network only token 0 is computed, as the
    head reads no other. Under autocast the photometry's perceptron and the head stay in single precision: in
    bfloat16 magnitudes near 20 are multiples of 0.125.

    Parameters
    ----------
    n_classes, n_features : int
        Classes and photometric features.
    k : int
        Positions to which keys and values are projected along the sequence.
    size, n_bands, patch : int
        Pixels on a side of a stamp, its bands, and pixels on a side of a patch.
    depth, dim, heads, dim_head, mlp : int
        Layers, width of a token, heads and their width, width of the feed-forward networks' hidden layer.
    dropout : float
        In the layers.

    Raises
    ------
    ValueError
        When the stamp cannot be cut into whole patches.
    """

    def __init__(
        self,
        *,
        n_classes: int,
        n_features: int = 24,
        k: int = 128,
        size: int = 32,
        n_bands: int = 5,
        patch: int = 4,
        depth: int = 12,
        dim: int = 64,
        heads: int = 8,
        dim_head: int = 8,
        mlp: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if size % patch:
            raise ValueError(f"stamps of {size} x {size} pixels are not whole patches of {patch} x {patch}")
        self.stamp = (n_bands, size, size)
        self.patch = patch
        n_tokens = (size // patch) ** 2 + 1
        self.patches = nn.Sequential(
            nn.LayerNorm(n_bands * patch**2), nn.Linear(n_bands * patch**2, dim), nn.LayerNorm(dim)
        )
        widths = (n_features, *PHOTOMETRY_WIDTHS)
        hidden = [
            (nn.Linear(n_in, n_out), nn.ReLU(), FastDropout(PHOTOMETRY_DROPOUT))
            for n_in, n_out in pairwise(widths)
        ]
        self.photometry = nn.Sequential(*chain(*hidden), nn.Linear(widths[-1], dim))
        self.position = nn.Parameter(torch.randn(n_tokens, dim))
        self.layers = nn.ModuleList(
            _Layer(LinformerCrossAttention(dim, n_tokens, k, heads, dim_head, dropout), dim, mlp, dropout)
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, n_classes))

    def _tokens(self, images: Tensor, features: Tensor) -> Tensor:
        """Embedded tokens (B, 1 + patches, dim), the photometry first."""
        if images.shape[1:] != self.stamp:
            expected = ", ".join(map(str, self.stamp))
            raise ValueError(f"images of shape {tuple(images.shape)}; expected (B, {expected})")
        if features.shape != (len(images), n_features := self.photometry[0].in_features):
            raise ValueError(
                f"features of shape {tuple(features.shape)}; expected ({len(images)}, {n_features}), "
                f"one row for each of {len(images)} images"
            )
        side = (-1, self.patch)
        cut = images.unflatten(3, side).unflatten(2, side)  # (B, bands, rows, patch, columns, patch)
        patches = self.patches(cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2))
        with torch.autocast(features.device.type, enabled=False):
            photometry = self.photometry(features)
        return torch.cat([photometry[:, None], patches], 1) + self.position

    def _logits(self, token: Tensor) -> Tensor:
        with torch.autocast(token.device.type, enabled=False):
            return self.head(token)

    def forward(self, images: Tensor, features: Tensor) -> Tensor:
        """Map stamps (B, bands, size, size) and raw features (B, n_features) to logits (B, n_classes).

        Raises
        ------
        ValueError
            When an input has another shape.
        """
        tokens = self._tokens(images, features)
        for layer in self.layers[:-1]:
            tokens = layer(tokens)
        return self._logits(self.layers[-1].first(tokens)[:, 0])

    def literal(self, images: Tensor, features: Tensor) -> Tensor:
        """Return `forward` in the published order of multiplications, with no step left out."""
        tokens = self._tokens(images, features)
        for layer in self.layers:
            tokens = layer.literal(tokens)
        return self._logits(tokens[:, 0])

    @torch.no_grad()
    def attention(self, images: Tensor, features: Tensor) -> Tensor:
        """Attention weights (B, depth, heads, k) over the projected positions, in evaluation mode.

        They are no maps of patches: each position is a learned mixture of all 65 tokens, with weights of
        either sign, and the mixtures of the keys are not those of the values. From the second layer on,
        moreover, each patch's token holds what token 0 has read of all the others.
        """
        tokens, weights = self._tokens(images, features), []
        for layer in self.layers:
            weights.append(layer.attention.weights(layer.attention_norm(tokens)))
            tokens = layer(tokens)
        return torch.stack(weights, 1)

    def matmul_flops(self, batch: int) -> dict[str, int]:
        """Floating-point operations of the matrix products of one forward pass, a multiply-add as two.

        With N tokens of width D, H heads of width d, feed-forward width M, the multiply-adds are, by object,

        - embedding: the weights of the photometry's perceptron and N - 1 times those of the patches' layer;
        - attention of a layer, published: queries and output 2 D H d, keys and values 2 N D H d, their
          projections 2 N k H d, scores and their use 2 k H d;
        - attention of a layer, executed: queries and output 2 D H d, key and value weights 2 D H d, tokens
          2 N D H, projections 2 N k H;
        - feed-forward network of a layer: 2 N D M; executed in the last one 2 D M;
        - head: D times the number of classes.

        Parameters
        ----------
        batch : int
            Objects.

        Returns
        -------
        dict of str to int
            ``published`` (as `literal` multiplies) and ``executed`` (as `forward` does).
        """
        n, d = self.position.shape
        attention = self.layers[0].attention
        k, heads, inner = attention.proj_k.shape[1], attention.heads, attention.to_q.out_features
        mlp, depth = self.layers[0].expand.out_features, len(self.layers)
        ends = (n - 1) * self.patches[1].weight.numel() + self.head[1].weight.numel()
        ends += sum(layer.weight.numel() for layer in self.photometry if isinstance(layer, nn.Linear))
        published = 2 * d * inner + 2 * n * d * inner + 2 * n * k * inner + 2 * k * inner
        executed = 4 * d * inner + 2 * n * d * heads + 2 * n * k * heads
        return {
            "published": 2 * batch * (ends + depth * (published + 2 * n * d * mlp)),
            "executed": 2 * batch * (ends + depth * executed + ((depth - 1) * n + 1) * 2 * d * mlp),
        }
