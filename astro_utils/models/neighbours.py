"""Nearest neighbours in colour and magnitude: the redshift density of galaxies that look alike.

The method of the SDSS catalogue (Beck et al. 2016, MNRAS 460, 1371) without its local linear fit.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

__all__ = ["NeighbourRedshift"]


class NeighbourRedshift:
    """Redshift density as the weighted, slightly smoothed redshifts of the `k` nearest training galaxies.

    Parameters
    ----------
    k : int
        Neighbours.
    width : float
        Standard deviation of the Gaussian that smooths each neighbour's redshift.
    """

    def __init__(self, *, k: int = 20, width: float = 0.008) -> None:
        self.k, self.width = k, width

    def fit(self, features: np.ndarray, z: np.ndarray) -> NeighbourRedshift:
        """Store the training set, features (N, F) without NaN and redshifts (N,)."""
        self._scaler = StandardScaler().fit(features)
        self._tree = NearestNeighbors(n_neighbors=self.k).fit(self._scaler.transform(features))
        self._z = np.asarray(z)
        return self

    def cdf(self, features: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Cumulative distributions (N, G) on a grid of redshifts (G,)."""
        distance, index = self._tree.kneighbors(self._scaler.transform(features))
        weight = 1 / np.maximum(distance, 1e-6)
        weight /= weight.sum(1, keepdims=True)
        out = np.zeros((len(features), len(grid)), dtype=np.float32)
        for j in range(self.k):  # one neighbour at a time keeps memory at (N, G)
            out += weight[:, j, None] * ndtr((grid - self._z[index[:, j], None]) / self.width)
        return out
