"""Scores of classifiers under many resamples at once: every score as a weighted sum.

:func:`astro_utils.metrics.bootstrap` calls a score for each resample, which takes minutes for areas under
curves. Here a resample is a row of weights, objects are sorted once, and all resamples of a score are one
product of matrices. The scores are those of :func:`astro_utils.metrics.classification_scores`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["class_scores", "paired_difference", "resample_weights", "summarise_classes"]


def resample_weights(groups: np.ndarray, n_resamples: int, seed: int = 0) -> np.ndarray:
    """How often each object is drawn when whole groups are drawn with replacement.

    Parameters
    ----------
    groups : numpy.ndarray
        (N,) group of each object.
    n_resamples, seed : int

    Returns
    -------
    numpy.ndarray
        (n_resamples + 1, N) float32; the first row is the sample itself, all ones.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=n_resamples)
    return np.vstack([np.ones(len(inverse)), counts[:, inverse]]).astype(np.float32)


def class_scores(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores for every row of weights.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) classes from 0.
    probabilities : numpy.ndarray
        (N, K).
    weights : numpy.ndarray
        (R, N), from :func:`resample_weights`.

    Returns
    -------
    dict of numpy.ndarray
        (R,) each: ``accuracy``, ``precision``, ``recall``, ``f1`` (macro), ``auc``, ``nll``, ``ece`` as in
        :func:`astro_utils.metrics.classification_scores`, and ``recall_<k>`` of each class.
    """
    n, k = probabilities.shape
    total = weights.sum(1)
    predicted, true = np.eye(k)[probabilities.argmax(1)], np.eye(k)[labels]
    pairs = (true[:, :, None] * predicted[:, None, :]).reshape(n, k * k)
    confusion = (weights @ pairs.astype(np.float32)).reshape(-1, k, k).astype(float)
    right = np.diagonal(confusion, axis1=1, axis2=2)  # (R, K)
    called, there = confusion.sum(1), confusion.sum(2)
    recall = right / np.maximum(there, 1)
    top = probabilities.max(1)
    bins = np.eye(15, dtype=np.float32)[np.minimum((top * 15).astype(int), 14)]
    gap = weights @ (bins * (top - (probabilities.argmax(1) == labels))[:, None]).astype(np.float32)
    surprise = -np.log(np.clip(probabilities[np.arange(n), labels], 1e-12, 1))
    curves = [1] if k == 2 else range(k)
    return {
        "accuracy": right.sum(1) / total,
        "precision": (right / np.maximum(called, 1)).mean(1),
        "recall": recall.mean(1),
        "f1": (2 * right / np.maximum(called + there, 1)).mean(1),
        "auc": np.mean([_auc(labels == c, probabilities[:, c], weights) for c in curves], axis=0),
        "nll": weights @ surprise.astype(np.float32) / total,
        "ece": np.abs(gap).sum(1) / total,
        **{f"recall_{c}": recall[:, c] for c in range(k)},
    }


def _auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the receiver's curve, (R,): share of pairs in the right order, ties counting half."""
    order = np.argsort(score, kind="stable")
    _, starts = np.unique(score[order], return_index=True)
    ordered = weights[:, order].astype(float)
    up = np.add.reduceat(ordered * positive[order], starts, axis=1)  # (R, distinct scores)
    down = np.add.reduceat(ordered * ~positive[order], starts, axis=1)
    below = np.cumsum(down, axis=1) - down
    pairs = up.sum(1) * down.sum(1)
    return (up * (below + 0.5 * down)).sum(1) / np.where(pairs > 0, pairs, np.nan)


def summarise_classes(
    labels: np.ndarray, per_seed: Sequence[np.ndarray], weights: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean over seeds, spread over seeds and 95 % interval of every score, ready for ``metric_row``.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,).
    per_seed : sequence of numpy.ndarray
        (N, K) probabilities of the same objects, one for each seed.
    weights : numpy.ndarray
        (R, N), from :func:`resample_weights`.

    Returns
    -------
    dict
        Name to ``value``, ``sd`` (over seeds, ddof 1; NaN for one), ``lo`` and ``hi`` (of the mean over
        seeds, under resampling of objects; the spread over seeds is apart).
    """
    scores = [class_scores(labels, p, weights) for p in per_seed]
    out = {}
    for name in scores[0]:
        values = np.stack([one[name] for one in scores])  # (seeds, R)
        out[name] = _interval(values.mean(0)) | {
            "sd": float(values[:, 0].std(ddof=1)) if len(values) > 1 else float("nan")
        }
    return out


def _interval(resamples: np.ndarray) -> dict[str, float]:
    low, high = np.nanpercentile(resamples[1:], [2.5, 97.5]) if len(resamples) > 1 else (np.nan, np.nan)
    return {"value": float(resamples[0]), "lo": float(low), "hi": float(high)}


def paired_difference(
    labels: np.ndarray, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], weights: np.ndarray
) -> dict[str, dict[str, float]]:
    """Scores of one method less those of another, on the same resamples of the same objects.

    Parameters
    ----------
    labels, weights
        As for :func:`summarise_classes`.
    ours, theirs : sequence of numpy.ndarray
        (N, K) probabilities, one for each seed; numbers of seeds may differ.

    Returns
    -------
    dict
        Name to ``value``, ``lo``, ``hi``, for all scores; and ``p_value`` of the accuracy: twice the smaller
        share of resamples on one side of zero, at least 1 / (R - 1).
    """
    means = [
        {name: np.mean([s[name] for s in scores], axis=0) for name in scores[0]}
        for scores in ([class_scores(labels, p, weights) for p in method] for method in (ours, theirs))
    ]
    differences = {name: means[0][name] - means[1][name] for name in means[0]}
    drawn = differences["accuracy"][1:]
    # Ties count on both sides: two methods that never differ are not told apart.
    smaller = min((drawn <= 0).mean(), (drawn >= 0).mean()) if len(drawn) else np.nan
    p_value = min(1.0, max(2 * smaller, 1 / len(drawn))) if len(drawn) else np.nan
    return {name: _interval(values) for name, values in differences.items()} | {
        "p_value": {"value": float(p_value)}
    }
