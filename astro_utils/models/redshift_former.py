"""Redshift densities from the encoder of our MargFormer: photometry asks, pixels answer, a mixture comes out.

The encoder is :class:`astro_utils.models.margformer.MargFormer` as it stands; its outputs are the weights,
means and widths of Gaussians in redshift. What a catalogue or a sum over pixels knows better than patches do,
the colours to a per cent, goes in as features: they ask the questions, and they give the answer from which
the patches' answer is a departure.

Run it with ``papermill notebooks/photoz/5_images.ipynb out.ipynb``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.models.margformer import MargFormer
from astro_utils.models.mdn import crps_loss, mixture_cdf

__all__ = ["READS", "RedshiftFormer"]

#: What the network reads: features and stamps, or features alone.
READS = ("fusion", "photometry")


class _Float32(nn.Module):
    """A layer that computes in float32 under autocast too: bfloat16 would round colours to a per cent."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self.layer(x.float())


class RedshiftFormer(nn.Module):
    """Stamps and features of a galaxy to a mixture of Gaussians in redshift.

    Parameters
    ----------
    n_features : int
        Length of the standardised feature vector.
    reads : str
        One of :data:`READS`.
    n_bands, size : int
        Of the stamps.
    components : int
        Gaussians in the mixture.
    dim, depth : int
        Width of the tokens and layers of self-attention among patches.
    dropout : float
    center, scale : float
        Mean and standard deviation of the training redshifts: the network works in (z - center) / scale.

    Raises
    ------
    ValueError
        When it is to read something else.

    Notes
    -----
    Training has two stages. Features come first, alone (:meth:`loss_of_features`): that takes seconds, and
    the patches then start from the best that is known without them (:meth:`loss`).
    """

    #: Narrowest component in units of `scale`, as in :class:`astro_utils.models.mdn.MixtureDensityNetwork`.
    FLOOR = 0.01

    def __init__(
        self,
        *,
        n_features: int,
        reads: str = "fusion",
        n_bands: int = 5,
        size: int = 32,
        components: int = 5,
        dim: int = 64,
        depth: int = 2,
        dropout: float = 0.1,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if reads not in READS:
            raise ValueError(f"reads is {reads!r}; expected one of {', '.join(READS)}")
        self.encoder = MargFormer(
            n_outputs=3 * components,
            n_features=n_features,
            n_bands=n_bands,
            size=size,
            reads=reads,
            dim=dim,
            depth=depth,
            dropout=dropout,
        )
        for name in ("photometry", "photometry_head", "joint", "head"):
            if hasattr(self.encoder, name):
                setattr(self.encoder, name, _Float32(getattr(self.encoder, name)))
        self.register_buffer("center", torch.tensor(float(center)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, stamps: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map stamps and features to a mixture.

        Parameters
        ----------
        stamps : torch.Tensor
            (B, bands, size, size), asinh of flux over a noise that is the same for all stamps; of any shape
            where features are read alone.
        features : torch.Tensor
            (B, n_features), standardised.

        Returns
        -------
        weights, means, sigmas : torch.Tensor
            (B, components) each, in redshift.
        """
        return self._mixture(self.encoder(stamps, features))

    def loss(self, stamps: Tensor, features: Tensor, redshift: Tensor) -> Tensor:
        """CRPS of each galaxy (B,) over `scale`; while training, plus half of that of each part alone."""
        if not self.training:
            return self._crps(self.encoder(stamps, features), redshift)
        whole, *parts = self.encoder(stamps, features, parts=True)
        return self._crps(whole, redshift) + sum(0.5 * self._crps(part, redshift) for part in parts)

    def loss_of_features(self, features: Tensor, redshift: Tensor) -> Tensor:
        """CRPS (B,) over `scale` of the answer that features give alone."""
        answer = self.encoder.photometry_head(self.encoder.photometry(features))
        return self._crps(answer, redshift)

    def cdf(self, stamps: Tensor, features: Tensor, grid: Tensor, views: int = 1) -> Tensor:
        """Cumulative distributions (B, G) at `grid` (G,), the mean over turns and mirrors of the stamps.

        Parameters
        ----------
        views : int
            How many of the eight turns by quarters and mirrors; 1 is the stamp as it stands.
        """
        if not 1 <= views <= 8:
            raise ValueError(f"views is {views}; a square has 1 to 8")
        total = torch.zeros(len(features), len(grid), device=features.device)
        for view in range(views):
            turned = stamps
            if view:
                turned = torch.rot90(stamps, view % 4, (2, 3))
                turned = turned.flip(3) if view >= 4 else turned
            total += mixture_cdf(*self(turned, features), grid)
        return total / views

    def _mixture(self, answer: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, means, widths = answer.float().chunk(3, dim=1)
        sigmas = 0.5 * F.softplus(widths) + self.FLOOR
        return logits.softmax(1), self.center + self.scale * means, self.scale * sigmas

    def _crps(self, answer: Tensor, redshift: Tensor) -> Tensor:
        return crps_loss(*self._mixture(answer), redshift) / self.scale
