"""Kernel regression on photometry.

On the ten or twenty smooth, correlated features of a galaxy's photometry a kernel does better than trees,
which see one colour at a time: K turns with combinations of colours. It takes a second where a network takes
minutes.

    model = KernelRegression(lengths=lengths).fit(features, k)  # lengths that someone has found
    model = MetricKernel().fit(features, k)  # lengths that the training set shows
    model.predict(new)
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import solve

__all__ = ["KernelRegression", "MetricKernel"]


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
        features, target = _pair(features, target)
        n_features = features.shape[1]
        lengths = np.full(n_features, np.sqrt(n_features)) if self.lengths is None else np.array(self.lengths)
        if lengths.shape != (n_features,) or not (lengths > 0).all():
            raise ValueError(
                f"lengths {lengths.tolist()}; expected {n_features} numbers above 0, one for each feature"
            )
        self._middle, self._spread = _location(features)
        self._lengths = lengths
        scaled = self._scale(features)
        chosen = np.random.default_rng(self.seed).permutation(len(features))[: self.n_centres]
        self._centres = scaled[chosen]
        self._mean = target.mean(0)
        self._weights = _weights(
            _gaussian, scaled, self._centres, target - self._mean, len(features) * self.ridge, self.BLOCK
        )
        return self

    def _scale(self, features: np.ndarray) -> np.ndarray:
        scaled = np.clip((features - self._middle) / self._spread, -self.LIMIT, self.LIMIT)
        return scaled / self._lengths

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict (N,) or (N, D) for features (N, F)."""
        scaled = self._scale(_same_width(features, self._middle))
        return _sum_of_kernels(_gaussian, scaled, self._centres, self._weights, self.BLOCK) + self._mean


class MetricKernel:
    """Kernel ridge regression that learns which directions among the features matter.

    A recursive feature machine (Radhakrishnan, Beaglehole, Pandit & Belkin 2024, Science 383, 1461): fit,
    take the mean outer product of the gradients of the fitted function, measure distances by it, fit again.
    Distances are measured by the square root of that matrix, which learns more cautiously than the matrix
    itself. The kernel is a Matern one (nu = 3/2), on a random subset of the training set as in
    :class:`KernelRegression`.

    Parameters
    ----------
    reach : float
        Length scale, in units of the distance of two typical training objects divided by the square root
        of 2.
    n_centres : int
        Training objects on which kernels are put.
    noise : float
        Variance of the noise in units of that of the function, as for a Gaussian process: the weight of the
        norm is this number divided by the number of galaxies.
    rounds : int
        How often the metric is learned anew; 0 leaves all features alike.
    seed : int
        Of the choice of centres.
    """

    #: As for :class:`KernelRegression`.
    LIMIT, BLOCK = 5.0, 4096
    #: Centres while the metric is learned, and objects at which gradients are taken.
    METRIC_CENTRES, GRADIENTS = 500, 2000
    #: Least eigenvalue of the mean outer product in units of the largest: no direction is lost.
    LEAST = 1e-4

    def __init__(
        self,
        *,
        reach: float = 2.0,
        n_centres: int = 2000,
        noise: float = 0.024,
        rounds: int = 2,
        seed: int = 0,
    ) -> None:
        if not (reach > 0 and noise > 0 and n_centres > 0 and rounds >= 0):
            raise ValueError(
                f"reach {reach}, noise {noise}, {n_centres} centres, {rounds} rounds; expected numbers above "
                "0, and 0 rounds or more"
            )
        self.reach, self.n_centres, self.noise = reach, n_centres, noise
        self.rounds, self.seed = rounds, seed

    def fit(self, features: np.ndarray, target: np.ndarray) -> MetricKernel:
        """Fit to features (N, F) and targets (N,).

        Raises
        ------
        ValueError
            When a number is not finite or the shapes do not fit.
        """
        features, target = _pair(features, target)
        if target.ndim != 1:
            raise ValueError(f"target of shape {target.shape}; expected (N,)")
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(features))
        at = rng.permutation(len(features))[: self.GRADIENTS]
        self._middle, self._spread = _location(features)
        plain, self._mean = self._standard(features), target.mean()
        self._metric = self._normalise(np.eye(features.shape[1]), plain[at])
        for _ in range(self.rounds):
            scaled = plain @ self._metric
            centres = scaled[order[: self.METRIC_CENTRES]]
            weights = _weights(_matern, scaled, centres, target - self._mean, self.noise, self.BLOCK)
            # Of a Matern kernel with nu = 3/2 the gradient is -3 exp(-sqrt(3) d) (a - b).
            pull = 3 * np.exp(-np.sqrt(3) * _distance(scaled[at], centres)) * weights  # (n, M)
            gradients = (pull @ centres - pull.sum(1)[:, None] * scaled[at]) @ self._metric.T  # (n, F)
            values, vectors = np.linalg.eigh(gradients.T @ gradients)
            values = np.maximum(values, self.LEAST * values[-1]) ** 0.25  # two distances make a square root
            self._metric = self._normalise((vectors * values) @ vectors.T, plain[at])
        scaled = plain @ self._metric
        self._centres = scaled[order[: self.n_centres]]
        self._weights = _weights(_matern, scaled, self._centres, target - self._mean, self.noise, self.BLOCK)
        return self

    def _standard(self, features: np.ndarray) -> np.ndarray:
        return np.clip((features - self._middle) / self._spread, -self.LIMIT, self.LIMIT)

    def _normalise(self, metric: np.ndarray, objects: np.ndarray) -> np.ndarray:
        gaps = (objects - objects[::-1]) @ metric
        typical = np.sqrt(np.square(gaps).sum(1).mean() / 2)
        return metric / (self.reach * max(typical, 1e-12))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict (N,) for features (N, F)."""
        scaled = self._standard(_same_width(features, self._middle)) @ self._metric
        return _sum_of_kernels(_matern, scaled, self._centres, self._weights, self.BLOCK) + self._mean


def _weights(kernel, scaled, centres, target, penalty: float, block: int) -> np.ndarray:
    """Weights of the kernels on the centres (M,) or (M, D)."""
    # The small multiple of the unit matrix is for two centres with the same features.
    matrix = penalty * kernel(centres, centres) + 1e-9 * len(scaled) * np.eye(len(centres))
    right = 0.0
    for start in range(0, len(scaled), block):
        values = kernel(scaled[start : start + block], centres)
        matrix += values.T @ values
        right += values.T @ target[start : start + block]
    return solve(matrix, right, assume_a="pos")


def _sum_of_kernels(kernel, scaled, centres, weights, block: int) -> np.ndarray:
    out = np.empty((len(scaled), *weights.shape[1:]))
    for start in range(0, len(scaled), block):
        part = slice(start, start + block)
        out[part] = kernel(scaled[part], centres) @ weights
    return out


def _gaussian(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel exp(-|a - b|^2 / 2) of scaled features (N, F) and (M, F), (N, M)."""
    return np.exp(-0.5 * _squared_distance(a, b))


def _matern(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Kernel (1 + sqrt(3) d) exp(-sqrt(3) d), d = |a - b|, of scaled features, (N, M)."""
    distance = np.sqrt(3) * _distance(a, b)
    return (1 + distance) * np.exp(-distance)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(_squared_distance(a, b))


def _squared_distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2 * a @ b.T, 0.0)


def _location(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread of each feature, (F,) each."""
    middle = np.median(features, 0)
    spread = 1.4826 * np.median(np.abs(features - middle), 0)
    return middle, np.where(spread > 0, spread, np.maximum(features.std(0), 1e-12))


def _pair(features: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, target = _finite(features), np.asarray(target, dtype=float)
    if len(target) != len(features) or not np.isfinite(target).all():
        raise ValueError(f"target of shape {target.shape}; expected {len(features)} rows of finite numbers")
    return features, target


def _same_width(features: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    features = _finite(features)
    if features.shape[1] != len(fitted):
        raise ValueError(f"{features.shape[1]} features; fitted to {len(fitted)}")
    return features


def _finite(features: np.ndarray) -> np.ndarray:
    features = np.asarray(features, dtype=float)
    if features.ndim != 2:
        raise ValueError(f"features of shape {features.shape}; expected (N, F)")
    bad = ~np.isfinite(features).all(1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"features of galaxy {row} are not all finite: {features[row].tolist()}")
    return features
