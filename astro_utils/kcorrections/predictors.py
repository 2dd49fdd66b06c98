"""Our predictors of K, one for each amount of knowledge: no redshift, a density p(z), the redshift itself.

Each is fitted to galaxies with a true K and asked for others.

- :class:`WithoutRedshift` learns K from photometry alone.
- :class:`WithDensity` averages over p(z) the K that templates give a galaxy at each redshift, and takes the
  mean with what is learned directly.
- :class:`WithRedshift` is the median of three ways to learn K at a known redshift, one of them from the error
  of kcorrect: templates know how light is redshifted, the galaxies know what the templates get wrong.
- :class:`TemplateDensity` learns nothing but n(z): p(z) and K are the templates'.
- :class:`AtMedianRedshift` is kcorrect at a photometric redshift, as it is commonly used.

Kernels and trees are combined throughout: the one is smooth and sees combinations of colours, the other
follows edges, and their errors are not the same.
"""

from __future__ import annotations

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kernel import MetricKernel
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.polynomials import box_powers, fit_polynomial
from astro_utils.kcorrections.redshift_density import RedshiftDensity

__all__ = [
    "AtMedianRedshift",
    "Boosting",
    "TemplateDensity",
    "WithDensity",
    "WithRedshift",
    "WithoutRedshift",
]


class Boosting:
    """Gradient-boosted trees with options for some thousand galaxies and about twenty features.

    Parameters
    ----------
    seed : int
        Of the features that each split may choose from.
    iterations : int
        Trees.
    """

    def __init__(self, *, seed: int = 0, iterations: int = 400) -> None:
        self._trees = HistGradientBoostingRegressor(
            max_iter=iterations,
            learning_rate=0.04,
            max_leaf_nodes=12,
            min_samples_leaf=15,
            l2_regularization=1.0,
            max_features=0.4,
            early_stopping=False,
            random_state=seed,
        )

    def fit(self, features: np.ndarray, target: np.ndarray) -> Boosting:
        """Fit to features (N, F) and a target (N,)."""
        self._trees.fit(features, target)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Predict (N,)."""
        return self._trees.predict(features)


class WithoutRedshift:
    """K from photometry alone: nine parts of kernel regression and one of boosting, each a mean over seeds.

    Parameters
    ----------
    members : int
        Kernels, with other centres, and boosted ensembles, with other draws of features.
    seed : int
        Of the first member.
    """

    KERNEL_SHARE = 0.9

    def __init__(self, *, members: int = 1, seed: int = 0) -> None:
        self._seeds = range(members * seed, members * (seed + 1))

    def fit(self, known: Knowledge, k: np.ndarray) -> WithoutRedshift:
        """Fit to galaxies with true K (N,)."""
        values = known.features.values
        self._kernels = [MetricKernel(seed=seed).fit(values, k) for seed in self._seeds]
        self._trees = [Boosting(seed=seed).fit(values, k) for seed in self._seeds]
        return self

    def predict(self, known: Knowledge) -> np.ndarray:
        """K of other galaxies, (N,) mag."""
        kernel, trees = (
            np.mean([model.predict(known.features.values) for model in models], axis=0)
            for models in (self._kernels, self._trees)
        )
        return self.KERNEL_SHARE * kernel + (1 - self.KERNEL_SHARE) * trees


class WithDensity:
    """K averaged over p(z) and templates, three parts in ten, and K learned directly, seven.

    Parameters
    ----------
    max_redshift : float
        Where p(z) ends.
    seed : int

    Attributes
    ----------
    direct : WithoutRedshift
    density : RedshiftDensity
    """

    DENSITY_SHARE = 0.3

    def __init__(self, *, max_redshift: float = 0.45, seed: int = 0) -> None:
        self.direct = WithoutRedshift(seed=seed)
        self.density = RedshiftDensity(max_redshift=max_redshift, seed=seed)

    def fit(self, known: Knowledge, k: np.ndarray) -> WithDensity:
        """Fit p(z) to the redshifts of the training galaxies, and the direct part to their K (N,)."""
        known.need("z")
        self.density.fit(known.features, known.z, known.groups)
        self.direct.fit(known, k)
        return self

    def average(self, known: Knowledge) -> tuple[np.ndarray, np.ndarray]:
        """Mean and spread of K over p(z) and templates alone, (N,) mag each; NaN where no template fits."""
        known.need("grid")
        return known.grid.average(self.density.quantiles(known.features))

    def predict(self, known: Knowledge) -> np.ndarray:
        """K of other galaxies, (N,) mag."""
        direct, mean = self.direct.predict(known), self.average(known)[0]
        mean = np.where(known.grid.trusted & np.isfinite(mean), mean, direct)
        return self.DENSITY_SHARE * mean + (1 - self.DENSITY_SHARE) * direct


class AtMedianRedshift:
    """The templates' K at the median of p(z): kcorrect with photometric redshifts.

    Parameters
    ----------
    max_redshift : float
        Where p(z) ends.
    seed : int
    """

    def __init__(self, *, max_redshift: float = 0.45, seed: int = 0) -> None:
        self._density = RedshiftDensity(max_redshift=max_redshift, seed=seed)

    def fit(self, known: Knowledge, k: np.ndarray) -> AtMedianRedshift:
        """Fit p(z) to the redshifts of the training galaxies; their K is not used."""
        known.need("z")
        self._density.fit(known.features, known.z, known.groups)
        return self

    def predict(self, known: Knowledge) -> np.ndarray:
        """K of other galaxies, (N,) mag; NaN where no template fits."""
        known.need("grid")
        return known.grid.at(np.median(self._density.quantiles(known.features), axis=1)[:, None])[:, 0]


class TemplateDensity:
    """K averaged over a p(z) that templates give: n(z) of the training set times exp(-chi2 / 2).

    Parameters
    ----------
    max_redshift : float
    """

    #: Standard deviation by which n(z) is smoothed.
    SMOOTHING = 0.01

    def __init__(self, *, max_redshift: float = 0.45) -> None:
        self._grid = np.linspace(0.005, max_redshift, 179)

    def fit(self, known: Knowledge, k: np.ndarray) -> TemplateDensity:
        """Take n(z) from the training galaxies; their K is not used."""
        known.need("z")
        gaps = (self._grid[:, None] - known.z[None, :]) / self.SMOOTHING
        self._prior = np.exp(-0.5 * gaps**2).mean(1) + 1e-6
        return self

    def predict(self, known: Knowledge) -> np.ndarray:
        """K of other galaxies, (N,) mag; NaN where no template fits."""
        known.need("grid")
        density = self._prior * known.grid.likelihood(self._grid)
        total = density.sum(1, keepdims=True)
        fitted = total > 0
        uniform = np.full(density.shape, 1 / density.shape[1])  # of these K is NaN at each redshift
        return known.grid.average(
            self._grid, np.where(fitted, density / np.where(fitted, total, 1), uniform)
        )[0]


class WithRedshift:
    """K at a known redshift: the median of three predictions, or the first alone without templates.

    A kernel learns what K is beyond the mean at the redshift from model colours, the r magnitude and the
    redshift, which all but fix it; far from all that it has seen it returns to that mean. Another is told
    kcorrect's K too, learns the error of that and goes where kcorrect goes. Trees learn K itself from the
    same. A galaxy with a broken band sends them apart, and the median leaves the one that is furthest astray;
    where kcorrect failed, the first answers alone.

    Parameters
    ----------
    templates : bool
        Whether ``k_templates`` is used.
    seed : int
    """

    #: Degree of the polynomial in redshift that is the mean of K.
    DEGREE = 7
    #: Length scales of the two kernels: K turns slowly with a colour, the error of kcorrect less so.
    REACHES = (4.5, 3.0)

    def __init__(self, *, templates: bool = True, seed: int = 0) -> None:
        self.templates, self.seed = templates, seed

    def _kernel(self, reach: float) -> MetricKernel:
        return MetricKernel(reach=reach, n_centres=1200, noise=0.008, seed=self.seed)

    def _without(self, known: Knowledge) -> tuple[np.ndarray, Features]:
        """Mean of K at the redshift (N,), and what all parts see."""
        known.need("z", *["k_templates"] * self.templates)
        features = known.features.of("colour", "magnitude").join("redshift", known.z)
        return self._mean(known.z[:, None]), features

    def _with(self, known: Knowledge) -> tuple[np.ndarray, np.ndarray]:
        """K by kcorrect (N,), the mean where it failed, and what the parts that know it see (N, F)."""
        mean, features = self._without(known)
        base = np.where(np.isfinite(known.k_templates), known.k_templates, mean)
        return base, features.join("template", base - mean).values

    def fit(self, known: Knowledge, k: np.ndarray) -> WithRedshift:
        """Fit to galaxies with true K (N,)."""
        known.need("z")
        self._mean = fit_polynomial(known.z[:, None], k, box_powers(self.DEGREE))
        mean, features = self._without(known)
        self._plain = self._kernel(self.REACHES[0]).fit(features.values, k - mean)
        if self.templates:
            base, values = self._with(known)
            self._correction = self._kernel(self.REACHES[1]).fit(values, k - base)
            self._trees = Boosting(seed=self.seed).fit(values, k)
        return self

    def predict(self, known: Knowledge) -> np.ndarray:
        """K of other galaxies, (N,) mag."""
        mean, features = self._without(known)
        plain = mean + self._plain.predict(features.values)
        if not self.templates:
            return plain
        base, values = self._with(known)
        answers = [plain, base + self._correction.predict(values), self._trees.predict(values)]
        return np.where(np.isfinite(known.k_templates), np.median(answers, axis=0), plain)
