"""Scores of classes that have an order, such as spectral types along the temperature.

The published "top-two accuracy" of stellar types counts predictions within one class of the truth; here that
is ``within_one``, and ``top_two`` means that the truth is one of the two most probable classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import f1_score, precision_score, recall_score

from astro_utils.class_bootstrap import summarise_classes
from astro_utils.metrics import classification_scores

__all__ = [
    "class_accuracy",
    "ordinal_scores",
    "posterior_median",
    "ranked_probability_score",
    "summarise_ordinal",
    "top_two",
    "within_one",
]


def _check(labels: np.ndarray, n_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
        raise ValueError(f"labels must be (N,) integers, not {labels.dtype} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, not within 0 to {n_classes - 1}")
    return labels


def _check_predicted(predicted: np.ndarray, labels: np.ndarray) -> np.ndarray:
    predicted = np.asarray(predicted)
    if predicted.shape != labels.shape or predicted.dtype.kind not in "iu":
        raise ValueError(f"predicted classes must be {len(labels)} integers, one for each label")
    return predicted


def _check_probabilities(probabilities: np.ndarray, n: int) -> np.ndarray:
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 2 or len(probabilities) != n:
        raise ValueError(f"{n} labels but probabilities of shape {probabilities.shape}; expected ({n}, K)")
    wrong = ~((np.abs(probabilities.sum(1) - 1) < 1e-3) & (probabilities >= 0).all(1))  # NaN is wrong too
    if wrong.any():
        raise ValueError(f"probabilities in row {int(wrong.argmax())} do not sum to 1")
    return probabilities


def within_one(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Tell of each object (N,) whether its predicted class is the true one or a neighbour of it.

    A predicted class outside 0 to n_classes - 1, such as an anomaly, is never near the truth.
    """
    labels = _check(labels, n_classes)
    predicted = _check_predicted(predicted, labels)
    known = (predicted >= 0) & (predicted < n_classes)
    return known & (np.abs(predicted.astype(int) - labels) <= 1)


def top_two(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Tell of each object (N,) whether its class is one of the two most probable; of ties, the first ones."""
    probabilities = _check_probabilities(probabilities, len(labels))
    labels = _check(labels, probabilities.shape[1])
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :2]
    return (best == labels[:, None]).any(1)


def posterior_median(probabilities: np.ndarray) -> np.ndarray:
    """Class (N,) at which the summed probability first reaches a half: it errs by the fewest classes."""
    probabilities = _check_probabilities(probabilities, len(probabilities))
    return (probabilities.cumsum(1) >= 0.5 - 1e-9).argmax(1)


def ranked_probability_score(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Squared distance (N,) of the cumulative probabilities from the truth's step, summed over the classes.

    A proper score that punishes distant errors more (Epstein 1969, J. Appl. Meteorol. 8, 985); in classes,
    not divided by their number.
    """
    probabilities = _check_probabilities(probabilities, len(labels))
    labels = _check(labels, probabilities.shape[1])
    step = np.arange(probabilities.shape[1]) >= labels[:, None]
    return np.square(probabilities.cumsum(1) - step).sum(1)


def class_accuracy(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Share of each class's objects that are given their class, (n_classes,); NaN for a class without any."""
    labels = _check(labels, n_classes)
    predicted = _check_predicted(predicted, labels)
    there = np.bincount(labels, minlength=n_classes)
    right = np.bincount(labels[predicted == labels], minlength=n_classes)
    return np.where(there > 0, right / np.maximum(there, 1), np.nan)


def _values(labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Scores that are means over objects, of each object."""
    return {
        "within_one": within_one(labels, predicted, probabilities.shape[1]),
        "top_two": top_two(labels, probabilities),
        "rps": ranked_probability_score(labels, probabilities),
    }


def ordinal_scores(
    labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray | None = None
) -> dict[str, float]:
    """Scores of a classifier of ordered classes.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) true classes, from 0 to K - 1; each class must be there.
    probabilities : numpy.ndarray
        (N, K).
    predicted : numpy.ndarray, optional
        (N,) decisions, where they are not the most probable class: a posterior median, or a class K for
        anomalies, which is always wrong.

    Returns
    -------
    dict
        Those of :func:`astro_utils.metrics.classification_scores` (``accuracy``, macro ``precision``,
        ``recall`` and ``f1``, ``auc``, ``nll``, ``ece``); ``within_one``; ``top_two``; ``rps``, the mean
        ranked probability score; and ``recall_<k>``, the accuracy of each class.

    Raises
    ------
    ValueError
        When shapes disagree, labels are not classes, a class has no object or probabilities do not sum to 1.
    """
    probabilities = _check_probabilities(probabilities, len(labels))
    n_classes = probabilities.shape[1]
    labels = _check(labels, n_classes)
    absent = np.setdiff1d(np.arange(n_classes), labels)
    if len(absent):
        raise ValueError(f"class {absent[0]} has no object, so that macro scores have no meaning")
    predicted = _check_predicted(probabilities.argmax(1) if predicted is None else predicted, labels)
    scores = classification_scores(labels, probabilities)
    macro = {"labels": np.arange(n_classes), "average": "macro", "zero_division": 0}
    scores |= {
        "accuracy": float((predicted == labels).mean()),
        "precision": float(precision_score(labels, predicted, **macro)),
        "recall": float(recall_score(labels, predicted, **macro)),
        "f1": float(f1_score(labels, predicted, **macro)),
    }
    scores |= {name: float(v.mean()) for name, v in _values(labels, probabilities, predicted).items()}
    return scores | {
        f"recall_{k}": float(v) for k, v in enumerate(class_accuracy(labels, predicted, n_classes))
    }


def summarise_ordinal(
    labels: np.ndarray, per_seed: Sequence[np.ndarray], weights: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean over seeds, spread and 95 % interval of every score of the most probable class.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,).
    per_seed : sequence of numpy.ndarray
        (N, K) probabilities of the same objects, one for each seed.
    weights : numpy.ndarray
        (R, N), from :func:`astro_utils.class_bootstrap.resample_weights`.

    Returns
    -------
    dict
        As :func:`astro_utils.class_bootstrap.summarise_classes`, with ``within_one``, ``top_two``, ``rps``.
    """
    out = summarise_classes(labels, per_seed, weights)
    values = [_values(labels, np.asarray(p, dtype=float), p.argmax(1)) for p in per_seed]
    total = weights.sum(1)
    for name in values[0]:
        by_seed = np.stack([weights @ one[name] / total for one in values])  # (seeds, R)
        drawn = by_seed.mean(0)[1:]
        lo, hi = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
        out[name] = {
            "value": float(by_seed[:, 0].mean()),
            "lo": float(lo),
            "hi": float(hi),
            "sd": float(by_seed[:, 0].std(ddof=1)) if len(values) > 1 else float("nan"),
        }
    return out
