"""Kernel regression on photometry.

On the ten or twenty smooth, correlated features of a galaxy's photometry a kernel does better than trees,
which see one colour at a time: K turns with combinations of colours. It takes a second where a network takes
minutes.

    model = KernelRegression(lengths=lengths).fit(features, k)
    model.predict(new)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

__all__ = ["KernelRegression"]


class KernelRegression:
    """Ridge regression with a Gaussian kernel on a random subset of the training set (the Nystrom method).

    The solution minimises the mean squared error plus ``ridge`` times the squared norm in the space of the
    kernel, among sums of kernels on the centres (Rudi, Camoriano & Rosasco 2015, NeurIPS, arXiv:1507.04717).
    Far from all centres it returns to the mean of the target.

    Parameters
    ----------
    lengths : numpy.ndarray, optional
        (F,) length scale of each feature in units of its spread (1.4826 median absolute deviations); infinite
        leaves a feature out. By default the square root of F for all.
    n_centres : int
        Training objects on which kernels are put.
    ridge : float
        Weight of the norm.
    seed : int
        Of the choice of centres.
    """

    #: Features are cut at so many spreads: one absurd magnitude must not be beyond the reach of all kernels.
    LIMIT = 5.0
    #: Rows for which kernels are held in memory at once.
    BLOCK = 4096

    def __init__(
        self,
        *,
        lengths: np.ndarray | None = None,
        n_centres: int = 1200,
        ridge: float = 3e-6,
        seed: int = 0,
    ) -> None:
        self.lengths, self.n_centres, self.ridge, self.seed = lengths, n_centres, ridge, seed

    def fit(self, features: np.ndarray, target: np.ndarray) -> KernelRegression:
        """Fit to features (N, F) and targets (N,) or (N, D).

        Raises
        ------
        ValueError
            When a number is not finite, or lengths or targets do not fit the features.
        """
        features, target = _finite(features), np.asarray(target, dtype=float)
        if len(target) != len(features) or not np.isfinite(target).all():
            raise ValueError(
                f"target of shape {target.shape}; expected {len(features)} rows of finite numbers"
            )
        n_features = features.shape[1]
        lengths = np.full(n_features, np.sqrt(n_features)) if self.lengths is None else np.array(self.lengths)
        if lengths.shape != (n_features,) or not (lengths > 0).all():
            raise ValueError(
                f"lengths {lengths.tolist()}; expected {n_features} numbers above 0, one for each feature"
            )
        self._middle = np.median(features, 0)
        spread = 1.4826 * np.median(np.abs(features - self._middle), 0)
        self._spread = np.where(spread > 0, spread, np.maximum(features.std(0), 1e-12))
        self._lengths = lengths
        scaled = self._scale(features)
        chosen = np.random.default_rng(self.seed).permutation(len(features))[: self.n_centres]
        self._centres = scaled[chosen]
        self._mean = target.mean(0)
        # The small multiple of the unit matrix is for two centres with the same features.
        matrix = len(features) * (
            self.ridge * _gaussian(self._centres, self._centres) + 1e-9 * np.eye(len(chosen))
        )
        right = 0.0
        for start in range(0, len(features), self.BLOCK):
            kernel = _gaussian(scaled[start : start + self.BLOCK], self._centres)
            matrix += kernel.T @ kernel
            right += kernel.T @ (target[start : start + self.BLOCK] - self._mean)
        self._weights = solve(matrix, right, assume_a="pos")
        return self

    def _scale(self, features: np.ndarray) -> np.ndarray:
        scaled = np.clip((features - self._middle) / self._spread, -self.LIMIT, self.LIMIT)
        return scaled / self._lengths

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict (N,) or (N, D) for features (N, F)."""
        features = _finite(features)
        if features.shape[1] != len(self._middle):
            raise ValueError(f"{features.shape[1]} features; fitted to {len(self._middle)}")
        scaled = self._scale(features)
        out = np.empty((len(features), *self._weights.shape[1:]))
        for start in range(0, len(features), self.BLOCK):
            part = slice(start, start + self.BLOCK)
            out[part] = _gaussian(scaled[part], self._centres) @ self._weights + self._mean
        return out


def _gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel exp(-|a - b|^2 / 2) of scaled features (N, F) and (M, F), (N, M)."""
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T
    return np.exp(-0.5 * np.maximum(squared, 0.0))


def _finite(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=float)
    if features.ndim != 2:
        raise ValueError(f"features of shape {features.shape}; expected (N, F)")
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"features of galaxy {row} are not all finite: {features[row].tolist()}")
    return features
