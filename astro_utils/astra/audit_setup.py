"""What the checks of ASTRA share: their size, rows of metrics, and intervals over fields of the sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from astro_utils.astra.simulated import Galaxies
from astro_utils.class_bootstrap import resample_weights
from astro_utils.results import metric_row

__all__ = ["AuditSettings", "audit_row", "field_weights", "interval", "mean_with_interval"]


@dataclass(frozen=True)
class AuditSettings:
    """Size of the checks.

    Parameters
    ----------
    n_galaxies : int
        Simulated galaxies that are looked at; 0 takes all.
    n_folds : int
        Parts of the sky that are predicted in turn.
    n_bootstrap : int
        Resamples of fields for 95 % intervals.
    n_tokens : int
        Galaxies whose tokens are compared.
    token_width : int
        Width of their tokens; published is 1280.
    n_train, n_epochs : int
        Galaxies and epochs of the network whose epoch is chosen.
    seed : int

    Raises
    ------
    ValueError
        When a number is too small.
    """

    n_galaxies: int = 0
    n_folds: int = 5
    n_bootstrap: int = 300
    n_tokens: int = 64
    token_width: int = 64
    n_train: int = 48
    n_epochs: int = 60
    seed: int = 0

    def __post_init__(self) -> None:
        lowest = {"n_galaxies": 0, "n_folds": 2, "n_bootstrap": 20, "n_tokens": 4, "token_width": 8}
        for name, low in {**lowest, "n_train": 8, "n_epochs": 2}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {low} or more")

    def sample(self, galaxies: Galaxies) -> Galaxies:
        """Keep the first `n_galaxies`, which are whole fields but for the last."""
        return galaxies.select(np.arange(min(self.n_galaxies or len(galaxies), len(galaxies))))

    def weights(self, fields: np.ndarray) -> np.ndarray:
        """Weights of resampled fields, (R + 1, N), the sample itself first."""
        return field_weights(fields, self.n_bootstrap, self.seed)


def field_weights(fields: np.ndarray, n_bootstrap: int, seed: int) -> np.ndarray:
    """Weights (R + 1, N) of resampled groups, in double precision; the first row is ones."""
    return resample_weights(fields, n_bootstrap, seed).astype(float)


def interval(draws: np.ndarray) -> dict[str, float]:
    """Value (the first) and 95 % interval (of the others) of draws (R,)."""
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5])
    return {"value": float(draws[0]), "lo": float(low), "hi": float(high)}


def mean_with_interval(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Mean of `values` (N,) with the interval under `weights` (R + 1, N)."""
    return interval(weights @ np.asarray(values, dtype=float) / weights.sum(1))


def audit_row(
    profile: str,
    experiment: str,
    model: str,
    n_test: int,
    metrics: dict[str, Any],
    n_train: int = 0,
    sky: str = "simulated",
) -> dict[str, Any]:
    """One row of :func:`astro_utils.results.metric_row`."""
    return metric_row(
        profile=profile,
        sky=sky,
        experiment=experiment,
        model=model,
        n_train=int(n_train),
        n_test=int(n_test),
        seeds=1,
        metrics=metrics,
    )
