"""The image backbone of AstroCLIP: a DINOv2 vision transformer whose tokens do not know where they are.

Parameters have the names of the published checkpoint (AstroDINO, a ViT-L with patches of 12 pixels), which
``load_weights`` of :mod:`astro_utils.astroclip_weights` reads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VisionTransformer", "attend"]


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of queries, keys and values that one linear layer made, (B, T, 3 dim) -> (B, T, dim)."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, d) each
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class _Attention(nn.Module):
    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attend(self.qkv(x), self.heads))


class _LayerScale(nn.Module):
    def __init__(self, *, dim: int, value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), value))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class _Perceptron(nn.Module):
    def __init__(self, *, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    """Pre-norm transformer block, each half of which starts with next to no say (LayerScale)."""

    def __init__(self, *, dim: int, heads: int, layer_scale: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = _Attention(dim=dim, heads=heads)
        self.ls1 = _LayerScale(dim=dim, value=layer_scale)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = _Perceptron(dim=dim)
        self.ls2 = _LayerScale(dim=dim, value=layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class _PatchEmbedding(nn.Module):
    def __init__(self, *, bands: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(bands, dim, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)  # (B, P, dim), row by row


class VisionTransformer(nn.Module):
    """Images to tokens, one for each patch [1]_. The defaults are those of AstroCLIP's image backbone [2]_.

    Parameters
    ----------
    size, patch, bands : int
        Side of the images and of a patch, pixels; planes of an image.
    dim, depth, heads : int
        Width of the tokens, blocks, and heads of attention.
    chunks : int
        Groups of blocks. They matter to the names of the parameters alone: block i is
        ``blocks.{group}.{i}``, where i goes on counting from group to group.
    layer_scale : float
        What the output of each half of a block is multiplied by before training [3]_.
    positions : bool
        Whether a class token goes ahead of the patches, and tokens are told their position, as DINOv2
        trains them. AstroCLIP leaves out both: its tokens come as a set, and the patches of an image in
        another order give the same embedding. The parameters exist either way, as in the checkpoint.

    Raises
    ------
    ValueError
        When sizes do not divide.

    References
    ----------
    .. [1] Oquab, M., et al., 2023, DINOv2: learning robust visual features without supervision,
       arXiv:2304.07193.
    .. [2] Parker, L., et al., 2024, AstroCLIP: a cross-modal foundation model for galaxies, MNRAS, 531, 4990.
    .. [3] Touvron, H., et al., 2021, Going deeper with image transformers, arXiv:2103.17239.
    """

    def __init__(
        self,
        *,
        size: int = 144,
        patch: int = 12,
        bands: int = 3,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        chunks: int = 4,
        layer_scale: float = 1e-5,
        positions: bool = False,
    ) -> None:
        super().__init__()
        for name, whole, part in (("size", size, patch), ("dim", dim, heads), ("depth", depth, chunks)):
            if whole % part:
                raise ValueError(f"{name} is {whole}; expected a multiple of {part}")
        self.size, self.patch, self.bands, self.dim, self.positions = size, patch, bands, dim, positions
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (size // patch) ** 2, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # hides patches when DINOv2 is trained
        self.patch_embed = _PatchEmbedding(bands=bands, dim=dim, patch=patch)
        length = depth // chunks
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    str(i): _Block(dim=dim, heads=heads, layer_scale=layer_scale)
                    for i in range(start, start + length)
                }
            )
            for start in range(0, depth, length)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._initialise()

    def _initialise(self) -> None:
        # Not normal_: on the device "meta" it loads the whole compiler of torch, which takes seconds.
        nn.init.trunc_normal_(self.cls_token, std=1e-6)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to normalised tokens.

        Parameters
        ----------
        images : torch.Tensor
            (B, bands, y, x). The sides are multiples of the patch; with positions, they are `size`.

        Returns
        -------
        torch.Tensor
            (B, P, dim), patches row by row; with positions (B, 1 + P, dim), the class token first.

        Raises
        ------
        ValueError
            For images of another shape.
        """
        _check(images, self.bands, self.size if self.positions else None, self.patch)
        x = self.patch_embed(images)  # (B, P, dim)
        if self.positions:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for group in self.blocks:
            for block in group.values():
                x = block(x)
        return self.norm(x)


def _check(images: Tensor, bands: int, size: int | None, patch: int) -> None:
    """See that images have the bands, and the size, or where that is None, sides that patches divide."""
    if images.ndim == 4 and images.shape[1] == bands:
        if all(side == size if size else side and side % patch == 0 for side in images.shape[2:]):
            return
    sides = size or f"multiples of {patch}"
    raise ValueError(
        f"images have shape {tuple(images.shape)}; expected (B, {bands}, y, x), with y and x {sides}"
    )
