"""Conformal classification: sets of classes that hold the true one with a stated probability.

The score of a class is 1 minus its probability. A set takes every class whose score is at most a threshold,
and the threshold is a quantile of the scores of the true classes of calibration objects, which the
classifier has not seen in training.

    thresholds = calibrate(probabilities[calibration], labels[calibration], level=0.9, by_class=True)
    sets = prediction_sets(probabilities[test], thresholds)
    coverage(sets, labels[test])
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from astro_utils.metrics import wilson_interval

__all__ = ["calibrate", "coverage", "coverage_by", "prediction_sets", "set_sizes"]


def calibrate(
    probabilities: np.ndarray,
    labels: np.ndarray,
    level: float,
    *,
    by_class: bool = False,
    weights: np.ndarray | None = None,
    test_weights: np.ndarray | None = None,
) -> np.ndarray:
    """Find the score thresholds at which prediction sets cover the true class with probability `level`.

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, K) class probabilities of the calibration objects.
    labels : numpy.ndarray
        (N,) their true classes, from 0 to K - 1.
    level : float
        Wanted coverage, between 0 and 1.
    by_class : bool
        Whether to calibrate each class on its own members (Mondrian), so that each is covered at `level`.
        Otherwise coverage holds on average over the classes.
    weights : numpy.ndarray, optional
        (N,) density ratios of test to calibration objects, dP_test / dP_calibration at each calibration
        object up to a common factor, for tests on objects that are distributed otherwise.
    test_weights : numpy.ndarray, optional
        (M,) the same ratios at the test objects. Without them every test object is given the largest of
        `weights`: one threshold serves all objects whose ratio is no larger, and the sets are wider.

    Returns
    -------
    numpy.ndarray
        (K,) thresholds, or (M, K) where `test_weights` are given. A threshold is infinite (the class is in
        every set) where there are too few calibration objects for the level.

    Raises
    ------
    ValueError
        If shapes disagree, `level` is not inside (0, 1), probabilities do not sum to 1, labels are not
        classes, weights are negative, or `by_class` meets a class without a calibration object.

    Notes
    -----
    Without weights the threshold is the ceil((n + 1) level)-th smallest score [2]_, and coverage is at least
    `level` and less than level + 1 / (n + 1) for distinct scores, if calibration and test objects are
    exchangeable; within each class, if `by_class` [1]_. Weighted scores are equation 7 of [3]_: the test
    object stands among them with its own weight and an infinite score. The guarantee then takes the ratios
    to be known; with estimated ratios it is approximate.

    References
    ----------
    .. [1] Vovk, V., 2012, Conditional validity of inductive conformal predictors, PMLR, 25, 475.
    .. [2] Angelopoulos, A. N., Bates, S., 2021, A gentle introduction to conformal prediction and
       distribution-free uncertainty quantification, arXiv:2107.07511.
    .. [3] Tibshirani, R. J., Barber, R. F., Candes, E. J., Ramdas, A., 2019, Conformal prediction under
       covariate shift, NeurIPS, 32, arXiv:1904.06019.
    """
    probabilities = _check_probabilities(probabilities)
    labels = _check_labels(labels, *probabilities.shape)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    if weights is None and test_weights is not None:
        raise ValueError("test_weights are given without the weights of the calibration objects")
    weights = np.ones(len(labels)) if weights is None else _check_weights("weights", weights, len(labels))
    if test_weights is not None:
        test_weights = _check_weights("test_weights", test_weights, len(test_weights))

    n_classes = probabilities.shape[1]
    scores = 1 - probabilities[np.arange(len(labels)), labels]  # (N,)
    if not by_class:
        threshold = _weighted_quantile(scores, weights, test_weights, level)  # () or (M,)
        return np.stack(n_classes * [threshold], axis=-1)
    absent = np.setdiff1d(np.arange(n_classes), labels)
    if absent.size:
        raise ValueError(f"class {absent[0]} has no calibration object, so by_class cannot calibrate it")
    thresholds = [
        _weighted_quantile(scores[labels == k], weights[labels == k], test_weights, level)
        for k in range(n_classes)
    ]
    return np.stack(thresholds, axis=-1)


def _weighted_quantile(
    scores: np.ndarray, weights: np.ndarray, test_weights: np.ndarray | None, level: float
) -> np.ndarray:
    order = np.argsort(scores)
    cumulative = np.cumsum(weights[order])  # (n,)
    if cumulative[-1] == 0:
        raise ValueError("all calibration objects, or all of one class, have weight 0")
    test_weights = weights.max() if test_weights is None else test_weights
    # With unit weights: the first k with k >= (n + 1) level. The factor is for rounding: 0.07 * 100 > 7.
    wanted = level * (cumulative[-1] + test_weights) * (1 - 1e-12)
    return np.append(scores[order], np.inf)[np.searchsorted(cumulative, wanted)]


def prediction_sets(probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Tell which classes are in the prediction set of each object.

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, K) class probabilities.
    thresholds : numpy.ndarray
        (K,) or (N, K), from :func:`calibrate`.

    Returns
    -------
    numpy.ndarray
        (N, K) bool. A set may be empty: no class is then as probable as the true one commonly is.
    """
    probabilities = _check_probabilities(probabilities)
    thresholds = np.asarray(thresholds, dtype=float)
    if thresholds.shape not in (probabilities.shape, probabilities.shape[1:]):
        shapes = f"{thresholds.shape} and {probabilities.shape}"
        raise ValueError(f"thresholds and probabilities of shapes {shapes} do not fit together")
    return 1 - probabilities <= thresholds


def set_sizes(sets: np.ndarray) -> np.ndarray:
    """Count the classes in each set.

    Parameters
    ----------
    sets : numpy.ndarray
        (N, K) bool, from :func:`prediction_sets`.

    Returns
    -------
    numpy.ndarray
        (N,) int, from 0 to K.
    """
    return _check_sets(sets).sum(1)


def coverage(sets: np.ndarray, labels: np.ndarray) -> float:
    """Share of objects whose set holds their true class.

    Parameters
    ----------
    sets : numpy.ndarray
        (N, K) bool, from :func:`prediction_sets`.
    labels : numpy.ndarray
        (N,) true classes, from 0 to K - 1.

    Returns
    -------
    float
        From 0 to 1.
    """
    return float(_covered(sets, labels).mean())


def coverage_by(sets: np.ndarray, labels: np.ndarray, values: np.ndarray, edges: np.ndarray) -> pd.DataFrame:
    """Coverage and size of prediction sets in bins of a quantity, such as magnitude.

    Parameters
    ----------
    sets : numpy.ndarray
        (N, K) bool, from :func:`prediction_sets`.
    labels : numpy.ndarray
        (N,) true classes.
    values : numpy.ndarray
        (N,) the quantity, of the same objects in the same order. Objects outside the edges are left out.
    edges : numpy.ndarray
        (B + 1,) increasing. A bin holds its lower edge, and the last also its upper.

    Returns
    -------
    pandas.DataFrame
        B rows: lo and hi (the edges), n, coverage, coverage_lo and coverage_hi (95 % Wilson interval),
        mean_size, and empty, the share of empty sets. All but the first three are NaN for a bin without
        objects.
    """
    covered = _covered(sets, labels)
    sizes = set_sizes(sets)
    values, edges = np.asarray(values, dtype=float), np.asarray(edges, dtype=float)
    if values.shape != covered.shape or not np.isfinite(values).all():
        raise ValueError(f"values must be {len(covered)} finite numbers, one for each set")
    if edges.ndim != 1 or edges.size < 2 or not (np.diff(edges) > 0).all():
        raise ValueError(f"edges must be two or more increasing numbers, not {edges.tolist()}")
    rows = []
    for lo, hi in pairwise(edges):
        inside = (values >= lo) & ((values < hi) | ((values == hi) & (hi == edges[-1])))
        row = {"lo": lo, "hi": hi, "n": int(inside.sum())}
        if inside.any():
            row["coverage"] = covered[inside].mean()
            row["coverage_lo"], row["coverage_hi"] = wilson_interval(int(covered[inside].sum()), row["n"])
            row["mean_size"] = sizes[inside].mean()
            row["empty"] = (sizes[inside] == 0).mean()
        rows.append(row)
    columns = ["lo", "hi", "n", "coverage", "coverage_lo", "coverage_hi", "mean_size", "empty"]
    return pd.DataFrame(rows, columns=columns)


def _covered(sets: np.ndarray, labels: np.ndarray) -> np.ndarray:
    sets = _check_sets(sets)
    return sets[np.arange(len(sets)), _check_labels(labels, *sets.shape)]


def _check_sets(sets: np.ndarray) -> np.ndarray:
    sets = np.asarray(sets)
    if sets.ndim != 2 or sets.dtype != bool or len(sets) == 0:
        raise ValueError(f"sets must be (N, K) bool, not {sets.dtype} of shape {sets.shape}")
    return sets


def _check_probabilities(probabilities: np.ndarray) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 2 or 0 in probabilities.shape:
        raise ValueError(f"probabilities must be (N, K), not of shape {probabilities.shape}")
    wrong = ~((np.abs(probabilities.sum(1) - 1) < 1e-3) & (probabilities >= 0).all(1))  # NaN is wrong too
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(f"probabilities in row {row} do not sum to 1: {probabilities[row].tolist()}")
    return probabilities


def _check_labels(labels: np.ndarray, n: int, n_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (n,) or labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be {n} integers, not {labels.dtype} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, not within 0 to {n_classes - 1}")
    return labels


def _check_weights(name: str, weights: np.ndarray, n: int) -> np.ndarray:
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (n,) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(f"{name} must be {n} numbers, finite and not negative")
    return weights
