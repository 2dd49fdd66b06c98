"""Conformal sets of classes: what they promise, and what they keep where objects are fainter.

Mondrian sets by class are what MargFormer's authors built. Their promise holds for objects that are drawn
like the calibration objects. Experiment 3 draws others: fainter, and in another mix. What class and magnitude
an object has decides how hard it is, so sets that are calibrated by class *and* magnitude keep their promise
under any change of the shares of classes and magnitudes, without a look at the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from astro_utils import conformal
from astro_utils.results import metric_row
from astro_utils.separation.scores import Cell, experiment_name
from astro_utils.separation.sets import TASKS
from astro_utils.separation.tasks import CALIBRATION, DEGRADED

__all__ = [
    "LEVELS",
    "METHODS",
    "N_BINS",
    "conformal_sets",
    "coverage_rows",
    "equal_edges",
    "nearest_of_each_class",
]

LEVELS = (0.68, 0.90, 0.95, 0.99)
#: Bins in model r in which coverage is judged, as many objects in each, so that each can decide.
N_BINS = 6

BY_CLASS = "by class, as published"
WEIGHTED = "by class, weighted by magnitude"
ON_DEGRADED = "by class, on degraded bright objects"
BY_BOTH = "by class and magnitude"
#: Magnitudes over which test objects share their calibration objects.
STEP = 0.1
#: Ways to calibrate.
METHODS = (BY_CLASS, WEIGHTED, ON_DEGRADED, BY_BOTH)


def nearest_of_each_class(r: np.ndarray, labels: np.ndarray, magnitude: float, nearest: int) -> np.ndarray:
    """Calibration objects that are nearest in magnitude.

    Parameters
    ----------
    r, labels : numpy.ndarray
        (N,) of the calibration objects.
    magnitude : float
    nearest : int
        Objects of each class; all of a class that has fewer.

    Returns
    -------
    numpy.ndarray
        Their indices, class by class.
    """
    parts = []
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        parts.append(mine[np.argsort(np.abs(r[mine] - magnitude), kind="stable")[:nearest]])
    return np.concatenate(parts)


def equal_edges(r: np.ndarray, n_bins: int = N_BINS) -> np.ndarray:
    """Edges (n_bins + 1,), to a hundredth of a magnitude, of bins that hold as many of r (N,) each.

    Fewer where objects are so few that two edges fall together.
    """
    edges = np.round(np.quantile(r, np.linspace(0, 1, n_bins + 1)), 2)
    edges[0], edges[-1] = np.floor(100 * r.min()) / 100, np.ceil(100 * r.max()) / 100
    return np.unique(edges)


def _density_ratio(
    r: np.ndarray, calibration: np.ndarray, test: np.ndarray, width: float = 0.25
) -> np.ndarray:
    """Density of test over that of calibration objects at magnitudes r; needs no labels."""
    edges = np.arange(np.floor(min(calibration.min(), test.min())), 25.0, width)
    shares = [
        (np.histogram(one, edges)[0] + 0.5) / (len(one) + 0.5 * len(edges)) for one in (test, calibration)
    ]
    index = np.clip(np.digitize(r, edges) - 1, 0, len(edges) - 2)
    return (shares[0] / shares[1])[index]


def conformal_sets(
    method: str,
    level: float,
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray],
    degraded: tuple[np.ndarray, np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    nearest: int = 150,
) -> np.ndarray:
    """Prediction sets of test objects.

    Parameters
    ----------
    method : str
        One of :data:`METHODS`.
    level : float
    calibration, degraded : tuple of numpy.ndarray
        Probabilities (N, K), classes (N,) and model r (N,) of objects drawn like the training set, and of
        bright ones that were made faint.
    test : tuple of numpy.ndarray
        Probabilities (M, K) and model r (M,).
    nearest : int
        Calibration objects of every class, nearest in magnitude, by which sets of :data:`BY_BOTH` are drawn.

    Returns
    -------
    numpy.ndarray
        (M, K) bool.
    """
    p, labels, r = degraded if method == ON_DEGRADED else calibration
    p_test, r_test = test
    if method in (BY_CLASS, ON_DEGRADED):
        return conformal.prediction_sets(p_test, conformal.calibrate(p, labels, level, by_class=True))
    if method == WEIGHTED:
        weights = _density_ratio(r, r, r_test)
        thresholds = conformal.calibrate(p, labels, level, by_class=True, weights=weights)
        return conformal.prediction_sets(p_test, thresholds)
    if method != BY_BOTH:
        raise ValueError(f"no way to calibrate {method!r}; expected one of {', '.join(METHODS)}")
    cell = np.floor(r_test / STEP).astype(int)
    sets = np.zeros(p_test.shape, dtype=bool)
    for index in np.unique(cell):
        near = nearest_of_each_class(r, labels, (index + 0.5) * STEP, nearest)
        thresholds = conformal.calibrate(p[near], labels[near], level, by_class=True)
        sets[cell == index] = conformal.prediction_sets(p_test[cell == index], thresholds)
    return sets


def _stored(answers: pd.DataFrame, which: str, task: str, method: str, seed: int):
    part = answers[
        (answers["set"] == which)
        & (answers["task"] == task)
        & (answers["method"] == method)
        & (answers["seed"] == seed)
        & (answers["trained"] == "compact")
    ]
    p = part[[f"p_{c}" for c in TASKS[task]]].to_numpy(float)
    return p / p.sum(1, keepdims=True), part["label"].to_numpy(int), part["r"].to_numpy(float)


def coverage_rows(
    answers: pd.DataFrame, cells: Sequence[Cell], model: str, sky: str, profile: str, nearest: int = 150
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Coverage and size of the sets of one model, in Experiments 1 and 3, whole and by magnitude.

    Parameters
    ----------
    answers : pandas.DataFrame
        From :func:`astro_utils.separation.scores.read_answers`.
    cells : sequence of Cell
    model : str
        Whose probabilities.
    sky, profile : str
        For the rows.
    nearest : int
        See :func:`conformal_sets`.

    Returns
    -------
    list of dict
        Rows of ``metrics.json``, mean over seeds.
    pandas.DataFrame
        By bin of magnitude: level, way, experiment, task, edges, number, coverage (mean over seeds), its
        standard error (binomial, of one seed) and mean size.
    """
    rows, tables = [], []
    seeds = sorted(answers.loc[answers["method"] == model, "seed"].unique())
    for cell in (c for c in cells if c.experiment in ("1", "3")):
        edges = equal_edges(cell.r)
        for method in METHODS:
            found: dict[float, list[Mapping[str, float]]] = {level: [] for level in LEVELS}
            for seed, p in zip(seeds, cell.answers[model], strict=True):
                calibration = _stored(answers, CALIBRATION, cell.task, model, seed)
                degraded = _stored(answers, DEGRADED, cell.task, model, seed)
                for level in LEVELS:
                    sets = conformal_sets(method, level, calibration, degraded, (p, cell.r), nearest)
                    binned = conformal.coverage_by(sets, cell.labels, cell.r, edges)
                    sizes = conformal.set_sizes(sets)
                    found[level].append(
                        {
                            "coverage": conformal.coverage(sets, cell.labels),
                            "mean_size": sizes.mean(),
                            "empty": (sizes == 0).mean(),
                        }
                    )
                    keys = {"seed": seed, "level": level, "way": method, "model": model}
                    keys |= {"experiment": cell.experiment, "task": cell.task}
                    tables.append(binned.assign(**keys))
            metrics = {}
            for level, per_seed in found.items():
                for name in per_seed[0]:
                    metrics[f"{name}_{100 * level:.0f}"] = float(np.mean([one[name] for one in per_seed]))
            rows.append(
                metric_row(
                    profile=profile,
                    sky=sky,
                    experiment=f"conformal, {experiment_name(cell.experiment, cell.task)}, {method}",
                    model=model,
                    n_train=cell.n_train[model],
                    n_test=len(cell.labels),
                    seeds=len(seeds),
                    metrics=metrics,
                )
            )
    table = pd.concat(tables, ignore_index=True)
    keys = ["model", "way", "experiment", "task", "level", "lo", "hi", "n"]
    table = table.groupby(keys, sort=False)[["coverage", "mean_size", "empty"]].mean().reset_index()
    share = table["coverage"].clip(0.01, 0.99)
    table["error"] = np.sqrt(share * (1 - share) / table["n"].clip(lower=1))
    return rows, table
