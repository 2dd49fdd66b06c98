"""Scores under their standard names, and the intervals that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from sklearn import metrics as sk

from astro_utils import densities

__all__ = [
    "bootstrap",
    "classification_scores",
    "density_scores",
    "redshift_error",
    "redshift_scores",
    "summarise",
    "wilson_interval",
]


def redshift_error(z_phot: np.ndarray, z_spec: np.ndarray) -> np.ndarray:
    """Normalised redshift error dz = (z_phot - z_spec) / (1 + z_spec), (N,)."""
    return (np.asarray(z_phot) - z_spec) / (1 + np.asarray(z_spec))


def redshift_scores(z_phot: np.ndarray, z_spec: np.ndarray) -> dict[str, float]:
    """Scores of point estimates, in the conventions of the field (for example Pasquet et al. 2019).

    Parameters
    ----------
    z_phot, z_spec : numpy.ndarray
        (N,) estimated and spectroscopic redshifts.

    Returns
    -------
    dict
        ``sigma_mad`` = 1.4826 median |dz - median dz|; ``bias`` and ``bias_median``, mean and median of dz;
        ``eta_05`` and ``eta_15``, shares (0 to 1) with |dz| above 0.05 and 0.15; ``rmse`` of dz; ``r2`` of z.
    """
    dz = redshift_error(z_phot, z_spec)
    return {
        "sigma_mad": float(1.4826 * np.median(np.abs(dz - np.median(dz)))),
        "bias": float(dz.mean()),
        "bias_median": float(np.median(dz)),
        "eta_05": float((np.abs(dz) > 0.05).mean()),
        "eta_15": float((np.abs(dz) > 0.15).mean()),
        "rmse": float(np.sqrt(np.square(dz).mean())),
        "r2": float(1 - np.square(z_phot - z_spec).sum() / np.square(z_spec - np.mean(z_spec)).sum()),
    }


def density_scores(pit: np.ndarray, crps: np.ndarray, cde: np.ndarray) -> dict[str, float]:
    """Scores of redshift densities from their per-object values (N,), made by :mod:`astro_utils.densities`.

    Returns
    -------
    dict
        ``crps`` and ``cde_loss``, means; ``pit_ks``; ``coverage_68``, ``_90``, ``_95`` of central intervals.
    """
    levels = {f"coverage_{level}": densities.central_coverage(pit, level / 100) for level in (68, 90, 95)}
    return {
        "crps": float(np.mean(crps)),
        "cde_loss": float(np.mean(cde)),
        "pit_ks": densities.pit_ks(pit),
        **levels,
    }


def classification_scores(
    labels: np.ndarray, probabilities: np.ndarray, predicted: np.ndarray | None = None
) -> dict[str, float]:
    """Scores of a classifier.

    Parameters
    ----------
    labels : numpy.ndarray
        (N,) true classes, integers from 0.
    probabilities : numpy.ndarray
        (N, K) predicted probabilities.
    predicted : numpy.ndarray, optional
        (N,) decisions, where they are not the most probable class (a moved threshold).

    Returns
    -------
    dict
        ``accuracy``; ``precision``, ``recall`` and ``f1`` averaged over classes (macro); ``auc`` (of class 1
        for two classes, else one against the rest, macro); ``nll``, mean negative log-likelihood in nats;
        ``ece``, expected calibration error of the top probability in 15 equal bins (Guo et al. 2017).
    """
    n_classes = probabilities.shape[1]
    if probabilities.shape[0] != len(labels):
        raise ValueError(f"{len(labels)} labels but probabilities of shape {probabilities.shape}")
    predicted = probabilities.argmax(1) if predicted is None else predicted
    counts = np.bincount(n_classes * labels + predicted, minlength=n_classes**2).reshape(n_classes, -1)
    right, called, true = np.diag(counts), counts.sum(0), counts.sum(1)
    precision, recall = right / np.maximum(called, 1), right / np.maximum(true, 1)
    f1 = 2 * right / np.maximum(called + true, 1)
    score = probabilities[:, 1] if n_classes == 2 else probabilities
    top, correct = probabilities.max(1), probabilities.argmax(1) == labels
    bins = np.minimum((top * 15).astype(int), 14)
    gap = np.bincount(bins, top - correct, minlength=15)
    return {
        "accuracy": float((predicted == labels).mean()),
        "precision": float(precision.mean()),
        "recall": float(recall.mean()),
        "f1": float(f1.mean()),
        "auc": float(sk.roc_auc_score(labels, score, multi_class="ovr", labels=range(n_classes))),
        "nll": float(-np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)).mean()),
        "ece": float(np.abs(gap).sum() / len(labels)),
    }


def bootstrap(
    score: Callable[[np.ndarray], Mapping[str, float]],
    groups: np.ndarray,
    n_resamples: int = 500,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of scores by resampling whole groups with replacement.

    Parameters
    ----------
    score : callable
        From row indices (N',) to a mapping of names to numbers.
    groups : numpy.ndarray
        (N,) group of each object: sky pixel or field, so that objects which share a systematic error stay
        together; ``numpy.arange(N)`` resamples objects.
    n_resamples, seed : int
        Number of resamples and seed of the generator.

    Returns
    -------
    dict
        Name to (lower, upper).
    """
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    members = np.split(order, starts[1:])
    rng = np.random.default_rng(seed)
    draws = [
        score(np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))]))
        for _ in range(n_resamples)
    ]
    return {
        name: tuple(float(q) for q in np.percentile([draw[name] for draw in draws], [2.5, 97.5]))
        for name in draws[0]
    }


def summarise(
    per_seed: Sequence[Callable[[np.ndarray], Mapping[str, float]]],
    groups: np.ndarray,
    n_resamples: int = 500,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Mean over seeds, spread over seeds and bootstrap interval of every score, ready for ``metric_row``.

    Parameters
    ----------
    per_seed : sequence of callables
        One for each seed, from row indices to scores; all over the same objects.
    groups : numpy.ndarray
        (N,) as for :func:`bootstrap`.
    n_resamples, seed : int
        As for :func:`bootstrap`.

    Returns
    -------
    dict
        Name to ``value`` (mean over seeds), ``sd`` (over seeds, ddof 1; NaN for one seed), ``lo``, ``hi``.
        The interval is of the mean over seeds under resampling of objects; the spread over seeds is apart.
    """

    def mean(index: np.ndarray) -> dict[str, float]:
        scores = [score(index) for score in per_seed]
        return {name: float(np.mean([s[name] for s in scores])) for name in scores[0]}

    everything = np.arange(len(groups))
    single = [score(everything) for score in per_seed]
    interval = bootstrap(mean, groups, n_resamples, seed)
    summary = {}
    for name, (lo, hi) in interval.items():
        values = np.array([s[name] for s in single])
        sd = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        summary[name] = {"value": float(values.mean()), "sd": sd, "lo": lo, "hi": hi}
    return summary


def wilson_interval(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); 95 % with the default `z`."""
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes of {trials} trials is not a proportion")
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2))
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))  # rounding can pass the ends
