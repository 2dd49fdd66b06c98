"""Conformal intervals of our predictions on the simulated skies, and how often they hold the truth.

Errors come from training galaxies whose part of the sky was left out. They are divided by a size of error
that is learned from what is known of a galaxy, and their quantile is taken apart in bins of what a method
believes of the redshift: the redshift itself, a photometric one, or its K. Where the bins are of the true
redshift, coverage holds in each of them; where they are not, nothing promises it, and it is measured.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from astro_utils.kcorrections.simulated_methods import NONE, PHOTOMETRIC, SPECTROSCOPIC, methods
from astro_utils.kcorrections.simulated_task import Task
from astro_utils.metrics import wilson_interval
from astro_utils.results import metric_row
from astro_utils.sample_writer import one_thread
from astro_utils.splits import group_folds

__all__ = ["REDSHIFT_EDGES", "conformal", "coverage_rows"]

#: Bins of true redshift in which coverage is given.
REDSHIFT_EDGES = np.arange(0.0, 0.41, 0.05)
#: Galaxies at least in a bin of belief.
_PER_BIN = 150
#: Least size of an error, mag: so that none is divided by nearly nothing.
_FLOOR = 5e-4


def _belief(task: Task, track: str, predicted: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Take what a method believes of the redshift of some galaxies; its K, where it knows none."""
    return {NONE: predicted, PHOTOMETRIC: task.z_phot[rows], SPECTROSCOPIC: task.galaxies.z[rows]}[track]


def _size_model(seed: int) -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(
        max_iter=80, learning_rate=0.06, max_leaf_nodes=8, min_samples_leaf=40, random_state=seed
    )


@one_thread()
def conformal(
    task: Task, track: str, predicted: np.ndarray, *, level: float = 0.9, n_folds: int = 4, seed: int = 0
) -> np.ndarray:
    """Half-widths of intervals around our predictions.

    Parameters
    ----------
    task : Task
    track : str
    predicted : numpy.ndarray
        (M,) ours of the test galaxies, mag.
    level : float
        Share of galaxies whose true K is to lie within.
    n_folds : int
        Parts of the training sky that are left out in turn.
    seed : int

    Returns
    -------
    numpy.ndarray
        (M,) mag.
    """
    method = next(m for m in methods(1) if (m.track, m.name) == (track, "ours"))
    folds = group_folds(task.galaxies.pixels[task.train], n_folds, seed)
    outside_k = np.empty(len(task.train))
    for fold in range(n_folds):
        part = replace(task, train=task.train[folds != fold], test=task.train[folds == fold])
        outside_k[folds == fold] = method.predict(part, seed)
    error = np.abs(outside_k - task.k[task.train])
    belief = _belief(task, track, outside_k, task.train)
    inputs = np.column_stack([task.features.values[task.train], belief])
    size = np.empty(len(error))
    target = np.log(error + _FLOOR)
    for fold in range(n_folds):
        inside, left = folds != fold, folds == fold
        size[left] = np.exp(_size_model(seed).fit(inputs[inside], target[inside]).predict(inputs[left]))
    there = _belief(task, track, predicted, task.test)
    test_inputs = np.column_stack([task.features.values[task.test], there])
    test_size = np.exp(_size_model(seed).fit(inputs, target).predict(test_inputs))

    n_bins = max(1, min(8, len(error) // _PER_BIN))
    edges = np.quantile(belief, np.linspace(0, 1, n_bins + 1))[1:-1]
    here_bin, test_bin = np.digitize(belief, edges), np.digitize(there, edges)
    scaled, out = error / size, np.empty(len(task.test))
    for b in range(n_bins):
        inside = np.sort(scaled[here_bin == b])
        rank = min(int(np.ceil((len(inside) + 1) * level)), len(inside))  # finite-sample quantile
        out[test_bin == b] = inside[rank - 1] * test_size[test_bin == b]
    return out


def coverage_rows(
    task: Task, track: str, predicted: np.ndarray, half_width: np.ndarray, *, profile: str, sky: str
) -> list[dict]:
    """Coverage of the intervals in all galaxies and in bins of true redshift, with Wilson intervals."""
    z = task.galaxies.z[task.test]
    covered = np.abs(predicted - task.k[task.test]) <= half_width
    parts = {"all": np.ones(len(z), bool)}
    for low, high in pairwise(REDSHIFT_EDGES):
        parts[f"{low:.2f} to {high:.2f}"] = (z >= low) & (z < high)
    rows = []
    for name, inside in parts.items():
        n = int(inside.sum())
        if n == 0:
            continue
        lo, hi = wilson_interval(int(covered[inside].sum()), n)
        metrics = {
            "coverage_90": {"value": float(covered[inside].mean()), "lo": lo, "hi": hi},
            "mean_width": float(half_width[inside].mean()),
        }
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=f"{sky}, {track}, coverage",
                model=name,
                n_train=len(task.train),
                n_test=n,
                seeds=1,
                metrics=metrics,
            )
        )
    return rows
