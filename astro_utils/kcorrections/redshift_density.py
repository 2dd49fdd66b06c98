"""Redshift densities from photometry: a kernel's location and scale, and the shape that residuals have.

The density of a galaxy is a set of equally probable redshifts, its predicted redshift plus its predicted
scale times the quantiles of the scaled residuals of galaxies that the location had not seen.
"""

from __future__ import annotations

import numpy as np

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kernel import MetricKernel
from astro_utils.splits import group_folds

__all__ = ["RedshiftDensity"]


class RedshiftDensity:
    """Densities p(z | photometry) as quantiles.

    Parameters
    ----------
    max_redshift : float
        Redshifts are cut here, and at 0.001.
    n_quantiles : int
        Redshifts by which a density is given.
    seed : int
        Of the kernels' centres and of the folds from which residuals come.

    Attributes
    ----------
    out_of_fold : numpy.ndarray
        (N,) median redshifts of the galaxies of the fit, each from galaxies of other groups.
    """

    FOLDS = 3
    #: Centres of the kernels that residuals are taken of, which only have to be nearly as good as the last.
    FOLD_CENTRES = 1200
    #: The logarithm of one residual says little: a scale is a mean over many galaxies.
    SCALE_NOISE = 8.0
    #: Least scale of a residual: beyond a few tens of galaxies none is known better.
    FLOOR = 1e-3

    def __init__(self, *, max_redshift: float = 0.45, n_quantiles: int = 40, seed: int = 0) -> None:
        self.max_redshift, self.seed = max_redshift, seed
        self.levels = (np.arange(n_quantiles) + 0.5) / n_quantiles

    def _kernel(self, n_centres: int = 2000, **options: float) -> MetricKernel:
        return MetricKernel(seed=self.seed, n_centres=n_centres, **options)

    def fit(self, features: Features, z: np.ndarray, groups: np.ndarray) -> RedshiftDensity:
        """Fit to galaxies with redshifts.

        Parameters
        ----------
        features : Features
        z : numpy.ndarray
            (N,) redshifts.
        groups : numpy.ndarray
            (N,) such as sky pixels; residuals are of galaxies whose group was not in the fit.
        """
        folds = group_folds(groups, self.FOLDS, self.seed)
        residual = np.empty(len(z))
        for fold in range(self.FOLDS):
            train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
            model = self._kernel(self.FOLD_CENTRES).fit(features.values[train], z[train])
            residual[test] = z[test] - model.predict(features.values[test])
        target = np.log(np.abs(residual) + self.FLOOR)
        self._scale = self._kernel(400, noise=self.SCALE_NOISE).fit(features.values, target)
        scale = np.exp(self._scale.predict(features.values))
        scaled = residual / scale
        self._shape = np.quantile(scaled, self.levels)
        self._location = self._kernel().fit(features.values, z)
        self.out_of_fold = self._cut(z - residual + scale * np.median(scaled))
        return self

    def _cut(self, z: np.ndarray) -> np.ndarray:
        return np.clip(z, 0.001, self.max_redshift)

    def quantiles(self, features: Features) -> np.ndarray:
        """Equally probable redshifts of each galaxy, (N, n_quantiles), increasing."""
        location = self._location.predict(features.values)
        scale = np.exp(self._scale.predict(features.values))
        return self._cut(location[:, None] + scale[:, None] * self._shape)
