"""Conformal intervals of our predictions on the simulated skies, and how often they hold the truth.

Residuals are of training galaxies whose part of the sky was left out. With the redshift known, intervals are
calibrated in bins of it. Without, they are calibrated given the true K (a belt; see
:mod:`astro_utils.kcorrections.intervals`), so that coverage holds nearly at every redshift, though none is
known. A belt covers more than it was asked for; what to ask for is found on the training galaxies.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from astro_utils.kcorrections.intervals import IntervalModel, coverage_by_bin
from astro_utils.kcorrections.simulated_methods import SPECTROSCOPIC, methods
from astro_utils.kcorrections.simulated_runs import task_row
from astro_utils.kcorrections.simulated_task import Task
from astro_utils.metrics import wilson_interval
from astro_utils.sample_writer import one_thread
from astro_utils.splits import group_folds

__all__ = ["REDSHIFT_EDGES", "conformal", "coverage_rows"]

#: Bins of true redshift in which coverage is given.
REDSHIFT_EDGES = np.arange(0.0, 0.41, 0.05)


@one_thread()
def conformal(
    task: Task, track: str, predicted: np.ndarray, *, level: float = 0.9, n_folds: int = 10, seed: int = 0
) -> np.ndarray:
    """Draw intervals around our predictions.

    Parameters
    ----------
    task : Task
    track : str
    predicted : numpy.ndarray
        (M,) ours of the test galaxies, mag.
    level : float
        Share of galaxies whose true K is to lie within.
    n_folds : int
        Parts of the training sky that are left out in turn. With few, residuals are of predictors that
        learned from clearly fewer galaxies than those of the test, and intervals are too wide.
    seed : int

    Returns
    -------
    numpy.ndarray
        (M, 2) low and high end, mag.
    """
    method = next(m for m in methods(1) if (m.track, m.name) == (track, "ours"))
    train, test, pixels = task.train, task.test, task.galaxies.pixels
    folds = group_folds(pixels[train], n_folds, seed)
    left_out = np.empty(len(train))
    for fold in range(n_folds):
        part = replace(task, train=train[folds != fold], test=train[folds == fold])
        left_out[folds == fold] = method.predict(part, seed)
    features, z = task.features.values, task.galaxies.z
    if track == SPECTROSCOPIC:
        model = IntervalModel(given="known", edges=REDSHIFT_EDGES[1:-1], seed=seed)
        features = np.column_stack([features, z])
        model.fit(features[train], task.k[train], left_out, pixels[train], z[train])
        return np.stack(model.predict(features[test], predicted, level, z[test]), 1)
    model = IntervalModel(given="truth", seed=seed)
    model.fit(features[train], task.k[train], left_out, pixels[train])
    return np.stack(model.predict(features[test], predicted, model.nominal(level)), 1)


def coverage_rows(task: Task, track: str, interval: np.ndarray, *, profile: str, sky: str) -> list[dict]:
    """Coverage of intervals (M, 2) in all galaxies and in bins of true redshift, with Wilson intervals."""
    k, (low, high) = task.k[task.test], interval.T
    covered = (low <= k) & (k <= high)
    share = wilson_interval(int(covered.sum()), len(k))
    lines = [("all", len(k), covered.mean(), *share, (high - low).mean())]
    bins = coverage_by_bin(low, high, k, task.galaxies.z[task.test], REDSHIFT_EDGES)
    lines += [
        (f"{b.lo:.2f} to {b.hi:.2f}", b.n, b.coverage, b.coverage_lo, b.coverage_hi, b.mean_width)
        for b in bins.itertuples()
    ]
    return [
        task_row(
            task,
            {"coverage_90": {"value": value, "lo": lo, "hi": hi}, "mean_width": width},
            profile=profile,
            experiment=f"{sky}, {track}, coverage",
            model=name,
            n_test=int(n),
        )
        for name, n, value, lo, hi, width in lines
    ]
