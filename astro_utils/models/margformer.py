"""Our MargFormer: photometry asks, pixels answer, and where they have nothing to add photometry stands.

What the published architecture (:mod:`astro_utils.models.margformer_published`) says it does, done: tokens of
photometry query patches of the image by cross-attention, patches attend to one another before they are
asked, and the stamps keep their flux: beside patches, the questions meet the light in Gaussian apertures. The
answer of the image is added through a gate to that of photometry, which it starts from.

Run it with ``papermill notebooks/margformer/2_train.ipynb out.ipynb``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["READS", "MargFormer"]

#: What the network reads: both, by attention; one of the two; or both, merely joined end to end.
READS = ("fusion", "photometry", "images", "concatenation")


class Attention(nn.Module):
    """Multi-head attention of `x` on `context`, or on itself.

    Written out, since torch's fused kernel is slow backwards in bfloat16 on processors.
    """

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Map x (B, T, dim) and context (B, P, dim) to (B, T, dim) and the weights (B, heads, T, P)."""
        b, t, dim = x.shape
        q = self.query(x).view(b, t, self.heads, -1).transpose(1, 2)  # (B, heads, T, d)
        kv = self.key_value(context).view(b, context.shape[1], 2, self.heads, -1)
        k, v = kv.permute(2, 0, 3, 1, 4)  # (B, heads, P, d) each
        with torch.autocast(x.device.type, enabled=False):  # which would copy the weights to float32 and back
            weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
            answer = (weights @ v).transpose(1, 2).reshape(b, t, dim)
        return self.out(answer), weights


class Block(nn.Module):
    """Pre-norm transformer block: attention on a context (or on itself), then a perceptron."""

    def __init__(self, *, dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.norm_context = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = Attention(dim=dim, heads=heads)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map x (B, T, dim) to (B, T, dim) and attention weights (B, heads, T, P)."""
        normed = self.norm(x)
        answer, weights = self.attention(normed, normed if context is None else self.norm_context(context))
        x = x + answer
        return x + self.perceptron(x), weights


class Apertures(nn.Module):
    """Light of a stamp under Gaussian weights about its centre, as one token for each width.

    A network that looks at pixels one by one through an asinh has to learn to add them up to a per cent
    before it knows a colour; here they are added, and the colours of core and outskirts are numbers.

    Parameters
    ----------
    n_bands, size, dim : int
        Of the stamps; width of a token.
    """

    #: Standard deviations of the weights, pixels: from within the point-spread function to most of the stamp.
    WIDTHS = (1.0, 1.6, 2.5, 4.0, 7.0)

    def __init__(self, *, n_bands: int, size: int, dim: int) -> None:
        super().__init__()
        grid = torch.arange(size) - (size - 1) / 2
        weights = torch.stack([torch.exp(-0.5 * (grid / w) ** 2) for w in self.WIDTHS])
        self.register_buffer("weights", weights / weights.square().sum(1, keepdim=True).sqrt())
        n = len(self.WIDTHS)
        self.norm = nn.BatchNorm1d(n * (2 * n_bands - 1))
        self.embed = nn.Linear(2 * n_bands - 1, dim)
        self.place = nn.Parameter(0.02 * torch.randn(n, dim))

    def forward(self, stamps: Tensor) -> Tensor:
        """Map stamps (B, bands, size, size), asinh of flux over a fixed noise, to tokens (B, widths, dim)."""
        with torch.autocast(stamps.device.type, enabled=False):  # bfloat16 would round colours to a per cent
            flux = torch.sinh(stamps.float())
            light = torch.einsum("bcyx,wy,wx->bwc", flux, self.weights, self.weights)  # over noise
            magnitudes = torch.asinh(light / 2)
            known = torch.cat([magnitudes, magnitudes.diff(dim=-1)], -1)  # (B, widths, 2 bands - 1)
            known = self.norm(known.flatten(1)).view_as(known)
        return self.embed(known) + self.place


class MargFormer(nn.Module):
    """Photometry and image of a source to logits, or to any other vector.

    Parameters
    ----------
    n_outputs : int
        Classes; or parameters of a density.
    n_features : int
        Length of the standardised photometric features.
    n_bands, size : int
        Of the stamps; the size is a multiple of 4.
    reads : str
        One of :data:`READS`; all but the first are ablations.
    dim, depth, heads : int
        Width of the tokens, layers of self-attention among patches, heads.
    tokens : int
        Tokens of photometry, each of which puts its own question to the image.
    dropout : float

    Notes
    -----
    A patch is what two strided convolutions make of 4 x 4 pixels and their surroundings: with some thousand
    objects to learn from, patches cut without overlap (a linear embedding) do worse.
    """

    def __init__(
        self,
        *,
        n_outputs: int,
        n_features: int,
        n_bands: int = 5,
        size: int = 32,
        reads: str = "fusion",
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        tokens: int = 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if reads not in READS:
            raise ValueError(f"reads is {reads!r}; expected one of {', '.join(READS)}")
        if size % 4:
            raise ValueError(f"stamps of {size} x {size} pixels; expected a multiple of 4")
        self.reads, self.tokens = reads, tokens
        if reads != "images":
            self.photometry = nn.Sequential(
                nn.Linear(n_features, 256),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(256, 256),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(256, 128),
                nn.GELU(),
            )
            self.photometry_head = nn.Linear(128, n_outputs)
        if reads == "photometry":
            return
        # Blocks of convolutions at half and at a quarter of the resolution.
        self.patches = nn.Sequential(
            *_convolution(n_bands, dim // 2, 2),  # (B, dim / 2, size / 2, size / 2)
            *_convolution(dim // 2, dim // 2, 1),
            *_convolution(dim // 2, dim, 2),  # (B, dim, size / 4, size / 4)
            *_convolution(dim, dim, 1),
        ).to(memory_format=torch.channels_last)
        self.position = nn.Parameter(0.02 * torch.randn((size // 4) ** 2, dim))
        self.apertures = Apertures(n_bands=n_bands, size=size, dim=dim)
        self.among_patches = nn.ModuleList([Block(dim=dim, heads=heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.images_head = nn.Linear(dim, n_outputs)
        if reads in ("fusion", "images"):
            self.question = nn.Parameter(0.02 * torch.randn(tokens, dim))
            self.ask = Block(dim=dim, heads=heads)
        if reads == "fusion":
            self.from_photometry = nn.Linear(128, tokens * dim)
        joint = {"fusion": tokens * dim + 128, "images": tokens * dim, "concatenation": dim + 128}[reads]
        self.joint = nn.Sequential(nn.Linear(joint, 128), nn.GELU(), nn.Dropout(dropout))
        self.head = nn.Linear(128, n_outputs)
        if reads == "fusion":
            self.gate = nn.Linear(128, 1)
            # The image starts with nothing to say.
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(
        self, stamps: Tensor, features: Tensor, *, parts: bool = False
    ) -> Tensor | tuple[Tensor, ...]:
        """Map stamps and features to outputs.

        Parameters
        ----------
        stamps : torch.Tensor
            (B, bands, size, size), asinh of flux over a noise that is the same for all stamps, so that flux
            is kept; not read by photometry alone.
        features : torch.Tensor
            (B, features), standardised; not read by images alone.
        parts : bool
            Whether the outputs of the parts (images, then photometry, where there are such heads) are wanted
            too. They are trained beside the whole, so that neither waits for the other.

        Returns
        -------
        torch.Tensor or tuple of torch.Tensor
            (B, n_outputs) of the whole network; with `parts`, of it and of the parts.
        """
        if self.reads == "photometry":
            answer = self.photometry_head(self.photometry(features))
            return (answer,) if parts else answer
        patches = self._patches(stamps)
        known = self.photometry(features) if self.reads != "images" else None  # (B, 128)
        heard = patches.mean(1) if self.reads == "concatenation" else self._ask(known, patches)[0].flatten(1)
        hidden = self.joint(heard if known is None else torch.cat([heard, known], 1))
        answer = self.head(hidden)
        alone = [self.images_head(patches.mean(1))] if parts else []
        if self.reads == "fusion":
            without = self.photometry_head(known)
            answer = without + torch.sigmoid(self.gate(hidden)) * answer
            alone += [without]
        return (answer, *alone) if parts else answer

    def attention(self, stamps: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Where the questions look, mean over heads.

        Returns
        -------
        torch.Tensor, torch.Tensor
            On patches (B, tokens, size / 4, size / 4) and on apertures (B, tokens, widths), which together
            sum to one.

        Raises
        ------
        ValueError
            When the network asks nothing: it reads photometry alone, or joins without attention.
        """
        if self.reads not in ("fusion", "images"):
            raise ValueError(f"a network that reads {self.reads} asks no questions of the image")
        patches = self._patches(stamps)
        known = self.photometry(features) if self.reads == "fusion" else None
        weights = self._ask(known, patches)[1].mean(1)  # (B, tokens, P + widths)
        side = stamps.shape[-1] // 4
        of_patches = weights[..., : side**2].unflatten(-1, (side, side))
        return of_patches, weights[..., side**2 :]

    def _patches(self, stamps: Tensor) -> Tensor:
        """Tokens of the image (B, P + widths, dim): patches row by row, then apertures."""
        x = self.patches(stamps).flatten(2).transpose(1, 2)  # (B, P, dim)
        x = torch.cat([x + self.position.to(x.dtype), self.apertures(stamps).to(x.dtype)], 1)
        for block in self.among_patches:
            x, _ = block(x)
        return self.norm(x)

    def _ask(self, known: Tensor | None, patches: Tensor) -> tuple[Tensor, Tensor]:
        question = self.question.expand(len(patches), -1, -1)  # (B, tokens, dim)
        if known is not None:
            question = question + self.from_photometry(known).unflatten(1, (self.tokens, -1))
        return self.ask(question, patches)


def _convolution(n_in: int, n_out: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(n_out),
        nn.GELU(),
    )
