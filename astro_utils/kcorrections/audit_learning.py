"""Checks of the published k-corrections that learn K from real galaxies.

- :func:`baseline_rows`: what three catalogue numbers give, and redshift, colours and the mean.
- :func:`broadcast_rows`: the mean absolute error that a (N, 1) beside a (N,) makes.
- :func:`choice_rows`: what it is worth to choose the epoch of a network on the test set.
- :func:`split_rows`: random splits, splits by sky pixel, and objects that stand in the table twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import t as student
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_utils.class_bootstrap import resample_weights
from astro_utils.kcorrections.audit_setup import (
    AuditGalaxies,
    AuditSettings,
    audit_row,
    three_numbers,
    weighted_scores,
    with_interval,
)
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.splits import check_disjoint, group_folds

__all__ = [
    "BASELINES",
    "DUPLICATED",
    "baseline_rows",
    "broadcast_mae",
    "broadcast_rows",
    "choice_rows",
    "out_of_fold",
    "redrawn",
    "split_rows",
]

#: Share of the galaxies that get a second row.
DUPLICATED = 0.2
_SCORES = ("r2", "mae", "rmse")


def _neighbours(k: int):
    return make_pipeline(StandardScaler(), KNeighborsRegressor(k, weights="distance"))


def _trees():
    return HistGradientBoostingRegressor(
        max_iter=150, learning_rate=0.08, max_leaf_nodes=12, min_samples_leaf=15, early_stopping=False
    )


#: Inputs and method of each baseline.
BASELINES = {
    "mean": ("three", DummyRegressor),
    "g - r, r - z: kNN k = 30": ("colours", lambda: _neighbours(30)),
    "r, g - r, r - z: kNN k = 30": ("three", lambda: _neighbours(30)),
    "r, g - r, r - z: boosting": ("three", _trees),
    "redshift: boosting": ("redshift", _trees),
}


def out_of_fold(
    make: Callable[[], Any], features: np.ndarray, k: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Predict each fold from the others.

    Parameters
    ----------
    make : callable
        Makes a regressor.
    features : numpy.ndarray
        (N, F).
    k, folds : numpy.ndarray
        (N,) target, and fold of each row.

    Returns
    -------
    numpy.ndarray
        (N,).
    """
    out = np.empty(len(k))
    for fold in np.unique(folds):
        test = folds == fold
        out[test] = make().fit(features[~test], k[~test]).predict(features[test])
    return out


def _scored(predicted: np.ndarray, k: np.ndarray, weights: np.ndarray) -> dict[str, dict[str, float]]:
    scores = weighted_scores(predicted, k, weights)
    return {name: with_interval(scores[name]) for name in _SCORES}


def _learned(galaxies: AuditGalaxies, settings: AuditSettings) -> int:
    return round(len(galaxies) * (1 - 1 / settings.n_folds))


def baseline_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Score the :data:`BASELINES` on sky that they have not seen; experiment ``baselines``."""
    inputs = {"three": galaxies.three, "colours": galaxies.three[:, 1:], "redshift": galaxies.z[:, None]}
    folds = group_folds(galaxies.pixels, settings.n_folds, settings.seed)
    weights = resample_weights(galaxies.pixels, settings.n_bootstrap, settings.seed)
    rows = []
    for model, (name, make) in BASELINES.items():
        scores = _scored(out_of_fold(make, inputs[name], galaxies.k, folds), galaxies.k, weights)
        n_train = _learned(galaxies, settings)
        rows.append(audit_row(profile, "baselines", model, len(galaxies), scores, n_train))
    return rows


# --------------------------------------------------------------------------------------------- broadcast


def broadcast_mae(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Mean of |p_i - t_j| over all pairs, which is what ``abs(p[:, None] - t).mean()`` would give.

    Sums of sorted truths take the place of the N by N table.

    Parameters
    ----------
    predicted, true : numpy.ndarray
        (N,).
    weights : numpy.ndarray, optional
        (N,) how often each galaxy counts.

    Returns
    -------
    float
    """
    weights = np.ones(len(true)) if weights is None else np.asarray(weights, dtype=float)
    order = np.argsort(true)
    count = np.concatenate([[0.0], np.cumsum(weights[order])])
    total = np.concatenate([[0.0], np.cumsum((weights * true)[order])])
    below = np.searchsorted(true[order], predicted)
    gaps = predicted * (2 * count[below] - count[-1]) - (2 * total[below] - total[-1])
    return float(weights @ gaps / count[-1] ** 2)


def broadcast_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Score kNN with k = 64 as it should be and by all pairs; experiment ``broadcast``.

    ``broadcast_mae`` is the mean over all pairs, ``broadcast_by_spread`` the same in units of the standard
    deviation of K, which carries over to a sample with another spread.
    """
    folds = group_folds(galaxies.pixels, settings.n_folds, settings.seed)
    weights = resample_weights(galaxies.pixels, settings.n_bootstrap, settings.seed)
    predicted = out_of_fold(lambda: _neighbours(64), galaxies.three, galaxies.k, folds)
    pairs = np.array([broadcast_mae(predicted, galaxies.k, row) for row in weights])
    spread = np.sqrt(weighted_scores(predicted, galaxies.k, weights)["variance"])
    metrics = _scored(predicted, galaxies.k, weights) | {
        "broadcast_mae": with_interval(pairs),
        "broadcast_by_spread": with_interval(pairs / spread),
    }
    n_train = _learned(galaxies, settings)
    return [audit_row(profile, "broadcast", "kNN k = 64", len(galaxies), metrics, n_train)]


# ------------------------------------------------------------------------------------------ model choice


def _epochs(features: np.ndarray, k: np.ndarray, sets: list[np.ndarray], n_epochs: int, seed: int):
    """RMSE of a network after each epoch on the second and third of three sets of rows, (E, 2)."""
    train, *others = sets
    scaler, target = StandardScaler().fit(features[train]), (k[train] - k[train].mean()) / k[train].std()
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64), batch_size=64, learning_rate_init=1e-3, random_state=seed
    )
    inputs = [np.clip(scaler.transform(features[rows]), -5, 5) for rows in sets]
    out = np.empty((n_epochs, 2))
    for epoch in range(n_epochs):
        network.partial_fit(inputs[0], target)
        for i, rows in enumerate(others):
            predicted = network.predict(inputs[i + 1]) * k[train].std() + k[train].mean()
            out[epoch, i] = np.sqrt(np.square(predicted - k[rows]).mean())
    return out


def _own_and_other(rmse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RMSE (2,) of two sets at the epoch that each would choose, and at that which the other would choose."""
    best = rmse.argmin(0)
    return rmse[best, [0, 1]], rmse[best[::-1], [0, 1]]


def choice_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Choose the epoch of a network on the test set, and on another set; experiment ``model choice``.

    As published: two layers of 64, Adam at 1e-3, batches of 64, the epoch with the lowest test error. In each
    repetition three fifths of the sky train, and the other two take turns as the test set and the other set.
    ``optimism``: by which share the chosen epoch's RMSE on the test set is too low; the interval is
    Student's over repetitions, whose skies overlap.
    """
    own, other = np.empty((2, settings.n_repeats, 2))
    for repeat in range(settings.n_repeats):
        seed = settings.seed + repeat
        folds = group_folds(galaxies.pixels, 5, seed)
        sets = [np.flatnonzero(np.isin(folds, which)) for which in ((0, 1, 2), (3,), (4,))]
        for a, b in ((0, 1), (0, 2), (1, 2)):
            check_disjoint(galaxies.pixels[sets[a]], galaxies.pixels[sets[b]], "sky pixels")
        rmse = _epochs(galaxies.features, galaxies.k, sets, settings.n_epochs, seed)
        own[repeat], other[repeat] = _own_and_other(rmse)
    optimism = (other / own - 1).mean(1)
    half = student.ppf(0.975, len(optimism) - 1) * optimism.std(ddof=1) / np.sqrt(len(optimism))
    gain = {"value": optimism.mean(), "lo": optimism.mean() - half, "hi": optimism.mean() + half}
    rows = []
    for model, rmse in (("epoch chosen on the test set", own), ("epoch chosen on another set", other)):
        metrics: dict = {"rmse": {"value": rmse.mean(), "sd": rmse.mean(1).std(ddof=1)}}
        if model.endswith("the test set"):
            metrics["optimism"] = gain
        n = len(galaxies)
        rows.append(
            audit_row(
                profile, "model choice", model, n // 5, metrics, n_train=3 * n // 5, seeds=settings.n_repeats
            )
        )
    return rows


# ------------------------------------------------------------------------------------------------ splits


def redrawn(photometry: Photometry, seed: int) -> Photometry:
    """Observe galaxies once more: the fluxes get their own noise a second time."""
    noise = np.random.default_rng(seed).standard_normal(photometry.flux.shape)
    flux = photometry.flux + noise / np.sqrt(photometry.ivar)
    return Photometry(photometry.bands, flux, photometry.ivar, photometry.extinction, photometry.z)


def split_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Split at random and by group, with and without galaxies that stand twice; experiment ``splits``.

    A share :data:`DUPLICATED` of the galaxies gets a second row with redrawn photometry and the same K.
    ``r2_gain``: R2 of the random split less that of the split by sky pixel, or by object, on the same rows.
    """
    n, rng = len(galaxies), np.random.default_rng(settings.seed)
    twice = np.sort(rng.permutation(n)[: round(DUPLICATED * n)])
    again = three_numbers(redrawn(galaxies.photometry.select(twice), settings.seed))
    objects = np.concatenate([np.arange(n), twice])
    features = np.vstack([galaxies.three, again])
    rows = []
    for name, apart, which, groups in (
        ("", "split by sky pixel", np.arange(n), galaxies.pixels),
        (", duplicates", "split by object", np.arange(len(objects)), objects),
    ):
        of = objects[which]
        random = rng.permutation(len(which)) % settings.n_folds
        grouped = group_folds(groups, settings.n_folds, settings.seed)
        weights = resample_weights(galaxies.pixels[of], settings.n_bootstrap, settings.seed)
        for k in (1, 30):
            draws = {}
            for kind, folds in (("random split", random), (apart, grouped)):
                predicted = out_of_fold(lambda k=k: _neighbours(k), features[which], galaxies.k[of], folds)
                draws[kind] = weighted_scores(predicted, galaxies.k[of], weights)
            gain = with_interval(draws["random split"]["r2"] - draws[apart]["r2"])
            for kind, scores in draws.items():
                metrics = {s: with_interval(scores[s]) for s in _SCORES}
                if kind == "random split":
                    metrics["r2_gain"] = gain
                n_train = round(len(which) * (1 - 1 / settings.n_folds))
                model = f"kNN k = {k}, {kind}{name}"
                rows.append(audit_row(profile, "splits", model, len(which), metrics, n_train))
    return rows
