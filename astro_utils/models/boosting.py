"""Gradient-boosted trees with a density: a location, a scale and the shape that the residuals really have.

The density of a galaxy is its predicted redshift plus its predicted scale times the empirical distribution of
cross-validated, scaled residuals: a conformal predictive distribution (Vovk et al. 2019) with a local scale.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold, cross_val_predict

__all__ = ["BoostedRedshift"]


class BoostedRedshift:
    """Histogram gradient boosting of redshift (scikit-learn), with densities.

    Parameters
    ----------
    iterations : int
        Trees of the location model.
    learning_rate : float
        Shrinkage.
    seed : int
        Of the trees.
    """

    #: Scales are held above this share of their median, or a few confident leaves would carry the density.
    FLOOR = 0.3
    LEVELS = np.linspace(0, 1, 201)

    def __init__(self, *, iterations: int = 300, learning_rate: float = 0.05, seed: int = 0) -> None:
        self._location = self._trees("squared_error", iterations, learning_rate, seed)
        self._scale = self._trees("absolute_error", iterations // 4, learning_rate, seed + 1)

    @staticmethod
    def _trees(loss: str, iterations: int, rate: float, seed: int) -> HistGradientBoostingRegressor:
        return HistGradientBoostingRegressor(
            loss=loss,
            max_iter=iterations,
            learning_rate=rate,
            max_leaf_nodes=24,
            l2_regularization=1.0,
            random_state=seed,
        )

    def fit(self, features: np.ndarray, z: np.ndarray, groups: np.ndarray) -> BoostedRedshift:
        """Fit to features (N, F; NaN means not measured), redshifts (N,) and groups (N,).

        The residuals and the scales that set the shape come from five-fold cross-validation by group: those
        of the fit itself are too small, and a scale fitted to a residual knows it.
        """
        folds = GroupKFold(5)
        residual = z - cross_val_predict(self._location, features, z, groups=groups, cv=folds)
        target = np.log(np.maximum(np.abs(residual), 1e-5))
        scale = np.exp(cross_val_predict(self._scale, features, target, groups=groups, cv=folds))
        self._floor = self.FLOOR * float(np.median(scale))
        # 200 quantiles, not every residual: the density is the slope between them, and must not be noise.
        self._shape = np.quantile(residual / np.maximum(scale, self._floor), self.LEVELS)
        self._scale.fit(features, target)
        self._location.fit(features, z)
        return self

    def _sigma(self, features: np.ndarray) -> np.ndarray:
        return np.maximum(np.exp(self._scale.predict(features)), self._floor)

    def cdf(self, features: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Cumulative distributions (N, G) on a grid of redshifts (G,)."""
        location, sigma = self._location.predict(features), self._sigma(features)
        scaled = (grid[None, :] - location[:, None]) / sigma[:, None]
        out = np.interp(scaled.ravel(), self._shape, self.LEVELS, left=0.0, right=1.0)
        return out.reshape(scaled.shape).astype(np.float32)
