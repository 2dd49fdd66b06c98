"""Scores of k-corrections, and predictions for galaxies on sky that the predictor has not seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.splits import check_disjoint, group_folds

__all__ = ["cross_predict", "k_scores"]


def k_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Score predicted k-corrections.

    Parameters
    ----------
    predicted, true : numpy.ndarray
        (N,) each, mag.

    Returns
    -------
    dict
        ``r2``; ``mae`` and ``rmse``, mag: two scores, of which the first is never the larger; ``sigma_mad`` =
        1.4826 median |e - median e|; ``bias``, the mean error.

    Raises
    ------
    ValueError
        When the shapes are not one and the same (N,), or a number is not finite. A (N, 1) beside a (N,) would
        become an N by N table of differences, whose mean error is that of guessing.
    """
    predicted, true = np.asarray(predicted, dtype=float), np.asarray(true, dtype=float)
    if predicted.ndim != 1 or predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape}; expected one shape (N,)")
    lost = int((~np.isfinite(predicted)).sum())
    if lost or not np.isfinite(true).all():
        raise ValueError(
            f"{lost} of {len(true)} predictions are not finite; score the others, and say how many"
        )
    error = predicted - true
    return {
        "r2": float(1 - np.square(error).sum() / np.square(true - true.mean()).sum()),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.square(error).mean())),
        "sigma_mad": float(1.4826 * np.median(np.abs(error - np.median(error)))),
        "bias": float(error.mean()),
    }


def cross_predict(
    make: Callable[[], object],
    known: Knowledge,
    k: np.ndarray,
    groups: np.ndarray,
    *,
    n_folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Predict K of every galaxy from galaxies on other parts of the sky.

    Parameters
    ----------
    make : callable
        Makes a predictor with ``fit(known, k)`` and ``predict(known)``.
    known : Knowledge
        Of all galaxies.
    k : numpy.ndarray
        (N,) true K, mag.
    groups : numpy.ndarray
        (N,) sky pixel of each galaxy; a pixel is never in training and test set at once.
    n_folds, seed : int
        Of :func:`astro_utils.splits.group_folds`.

    Returns
    -------
    numpy.ndarray
        (N,) mag.
    """
    folds = group_folds(groups, n_folds, seed)
    out = np.empty(len(k))
    for fold in range(n_folds):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        check_disjoint(groups[train], groups[test], "sky pixels")
        out[test] = make().fit(known.select(train), k[train]).predict(known.select(test))
    return out
