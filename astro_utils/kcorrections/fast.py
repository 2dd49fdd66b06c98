"""A predictor of K for hundreds of millions of galaxies: a small network that repeats a slower one.

Our predictors weigh a thousand kernels and some hundred trees for each galaxy. A network of two hidden layers
learns their answers on the training galaxies and on mixtures of neighbouring ones, and gives a million a
second.

    fast = FastPredictor.distil(features, slow.predict, seed=0)
    fast.predict(new)                         # (N,) mag
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from astro_utils.splits import hold_out
from astro_utils.training import TrainingConfig, fit, seeded

__all__ = ["FastPredictor"]

#: Features are cut at so many standard deviations, as the slower predictors cut them.
_LIMIT = 5.0


class FastPredictor(nn.Module):
    """Two hidden layers on standardised features.

    Parameters
    ----------
    n_features : int
    width : int
        Of the hidden layers.
    """

    #: Galaxies at a time: their hidden layers stay in a processor's cache.
    BATCH = 4096

    def __init__(self, *, n_features: int, width: int = 48) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.layers = nn.Sequential(
            nn.Linear(n_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map features (B, F), as they are measured, to K (B,)."""
        scaled = ((features - self.mean) / self.scale).clamp(-_LIMIT, _LIMIT)
        return self.layers(scaled).squeeze(1)

    @torch.inference_mode()
    def predict(self, features: np.ndarray) -> np.ndarray:
        """K of galaxies with features (N, F), (N,) float32 mag."""
        features = torch.from_numpy(np.ascontiguousarray(features, dtype=np.float32))
        if features.shape[1] != len(self.mean):
            raise ValueError(f"{features.shape[1]} features; trained on {len(self.mean)}")
        return torch.cat([self(part) for part in features.split(self.BATCH)]).numpy()

    @classmethod
    def distil(
        cls,
        features: np.ndarray,
        teacher: Callable[[np.ndarray], np.ndarray],
        groups: np.ndarray,
        *,
        copies: int = 8,
        epochs: int = 60,
        seed: int = 0,
    ) -> FastPredictor:
        """Learn a predictor's answers.

        Parameters
        ----------
        features : numpy.ndarray
            (N, F) of training galaxies.
        teacher : callable
            From features (M, F) to K (M,).
        groups : numpy.ndarray
            (N,) parts of the sky; a tenth says which epoch is kept.
        copies : int
            Points that are asked for each training galaxy: itself, and points between it and others. Labels
            cost nothing, so that the network need not guess between galaxies.
        epochs, seed : int
        """
        rng = np.random.default_rng(seed)
        held = np.tile(hold_out(groups, 0.1, seed), copies)
        asked = [features]
        for _ in range(copies - 1):
            other = _partners(held[: len(features)], rng)
            share = rng.uniform(0, 0.5, (len(features), 1))
            asked.append(features + share * (features[other] - features))
        points = np.concatenate(asked)
        labels = np.concatenate([teacher(part) for part in asked])
        model = seeded(seed, lambda: cls(n_features=features.shape[1]))
        model.mean += torch.from_numpy(features.mean(0)).float()
        model.scale *= torch.from_numpy(np.maximum(features.std(0), 1e-6)).float()
        data = tuple(torch.from_numpy(x.astype(np.float32)) for x in (points, labels))
        config = TrainingConfig(epochs=epochs, patience=epochs, weight_decay=0.0, seed=seed)
        train, validation = (tuple(t[rows] for t in data) for rows in (~held, held))
        fit(model, lambda m, batch: (m(batch[0]) - batch[1]).square(), train, validation, config)
        return model.cpu()


def _partners(held: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another galaxy for each, on the same side of the split."""
    out = np.empty(len(held), dtype=int)
    for side in (held, ~held):
        rows = np.flatnonzero(side)
        out[rows] = rng.permutation(rows)
    return out
