"""A mixture-density network: photometry in, a mixture of Gaussians in redshift out (Bishop 1994).

Trained on the continuous ranked probability score, which a Gaussian mixture has in closed form (Grimit et al.
2006, QJRMS 132, 2925, eq. 5); unlike the likelihood it is not ruled by the few objects with wrong redshifts.

Run it with ``papermill notebooks/photoz/2_train.ipynb out.ipynb``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MixtureDensityNetwork", "RedshiftEnsemble", "crps_loss", "mixture_cdf"]


def _expected_distance(mean: Tensor, sigma: Tensor) -> Tensor:
    """E|X| of X ~ N(mean, sigma^2), elementwise."""
    ratio = mean / sigma
    return sigma * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio**2) + mean * torch.erf(
        ratio / math.sqrt(2)
    )


def crps_loss(weights: Tensor, means: Tensor, sigmas: Tensor, target: Tensor) -> Tensor:
    """Continuous ranked probability score of Gaussian mixtures, E|X - y| - E|X - X'| / 2.

    Parameters
    ----------
    weights, means, sigmas : torch.Tensor
        (B, K) each; weights sum to one.
    target : torch.Tensor
        (B,) observed values, in the units of the means.

    Returns
    -------
    torch.Tensor
        (B,) scores in the units of the target; zero is perfect.
    """
    to_target = (weights * _expected_distance(target[:, None] - means, sigmas)).sum(1)
    pair_mean = means[:, :, None] - means[:, None, :]  # (B, K, K)
    pair_sigma = torch.sqrt(sigmas[:, :, None] ** 2 + sigmas[:, None, :] ** 2)
    pair_weight = weights[:, :, None] * weights[:, None, :]
    return to_target - 0.5 * (pair_weight * _expected_distance(pair_mean, pair_sigma)).sum((1, 2))


def mixture_cdf(weights: Tensor, means: Tensor, sigmas: Tensor, grid: Tensor) -> Tensor:
    """Cumulative distribution of Gaussian mixtures (B, K) at `grid` (G,), as (B, G)."""
    scaled = (grid[None, None, :] - means[..., None]) / sigmas[..., None]  # (B, K, G)
    return (weights[..., None] * torch.special.ndtr(scaled)).sum(1)


class MixtureDensityNetwork(nn.Module):
    """A perceptron whose last layer gives the weights, means and widths of `components` Gaussians.

    Parameters
    ----------
    n_features : int
        Length of the (standardised) input vector.
    hidden : int
        Width of the three hidden layers.
    components : int
        Gaussians in the mixture.
    dropout : float
        After the first two hidden layers.
    center, scale : float
        Mean and standard deviation of the training redshifts: the network works in (z - center) / scale.
    """

    #: Narrowest component in units of `scale`: no data here support a line in p(z), and widths that shrink to
    #: zero make a likelihood, though not the CRPS, infinite.
    FLOOR = 0.01

    def __init__(
        self,
        *,
        n_features: int,
        hidden: int = 256,
        components: int = 5,
        dropout: float = 0.1,
        center: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(n_features, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, 3 * components),
        )
        self.register_buffer("center", torch.tensor(float(center)))
        self.register_buffer("scale", torch.tensor(float(scale)))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map features (B, n_features) to weights, means and sigmas, (B, K) each, in redshift."""
        logits, means, widths = self.layers(features).chunk(3, dim=1)
        sigmas = 0.5 * F.softplus(widths) + self.FLOOR
        return logits.softmax(1), self.center + self.scale * means, self.scale * sigmas

    def loss(self, features: Tensor, redshift: Tensor) -> Tensor:
        """CRPS per object (B,), in units of the training redshifts' standard deviation."""
        return crps_loss(*self(features), redshift) / self.scale

    def cdf(self, features: Tensor, grid: Tensor) -> Tensor:
        """Cumulative distributions (B, G) on a grid of redshifts (G,)."""
        return mixture_cdf(*self(features), grid)


class RedshiftEnsemble(nn.Module):
    """Mixture-density networks whose densities are averaged, with the standardisation of their features.

    Parameters
    ----------
    members : sequence of MixtureDensityNetwork
        Trained alike from other seeds and validation sets.
    mean, std : torch.Tensor
        (n_features,) of the training features, over the measured ones.
    """

    #: Standardised features are cut here, so that one absurd magnitude cannot fly off along a linear layer.
    LIMIT = 8.0

    def __init__(self, members: Sequence[MixtureDensityNetwork], mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def standardise(self, features: Tensor) -> Tensor:
        """Map raw features (N, F), NaN where not measured, to zero mean, unit variance and zero for NaN."""
        return torch.nan_to_num((features - self.mean) / self.std).clamp(-self.LIMIT, self.LIMIT)

    def cdf(self, features: Tensor, grid: Tensor) -> Tensor:
        """Cumulative distributions (N, G) of the averaged density for raw features (N, F)."""
        standardised = self.standardise(features)
        return torch.stack([member.cdf(standardised, grid) for member in self.members]).mean(0)
