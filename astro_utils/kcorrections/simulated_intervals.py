"""Conformal intervals of our predictions on the simulated skies, and how often they hold the truth.

Residuals are of galaxies of their own, whom no predictor has seen. With the redshift known, intervals are
calibrated in bins of it. Without, they are calibrated given the true K (a belt; see
:mod:`astro_utils.kcorrections.intervals`), so that coverage holds nearly at every redshift, though none is
known. A belt covers more than it was asked for; what to ask for is found on the same galaxies, so that the
share in each bin of their true redshifts is the wanted one.

    asked = ask_others(task, clip, read_blocks("intervals_single_age.h5"))
    interval, judged, judged_interval = conformal(task, asked, NONE, predicted)
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from astro_utils.kcorrections.coverage import coverage_by_bin
from astro_utils.kcorrections.intervals import IntervalModel
from astro_utils.kcorrections.simulated_methods import SPECTROSCOPIC, methods
from astro_utils.kcorrections.simulated_runs import task_row
from astro_utils.kcorrections.simulated_task import Task
from astro_utils.metrics import wilson_interval
from astro_utils.sample_writer import one_thread
from astro_utils.splits import hold_out

__all__ = ["REDSHIFT_EDGES", "conformal", "coverage_rows"]

#: Bins of true redshift in which coverage is given.
REDSHIFT_EDGES = np.arange(0.0, 0.41, 0.05)


@one_thread()
def conformal(
    task: Task, asked: Task, track: str, predicted: np.ndarray, *, level: float = 0.9, seed: int = 0
) -> tuple[np.ndarray, Task, np.ndarray]:
    """Draw intervals around our predictions.

    Parameters
    ----------
    task : Task
    asked : Task
        With the same training galaxies, and many others to ask for: those of half of their sky calibrate,
        those of the other half are there to judge.
    track : str
    predicted : numpy.ndarray
        (M,) ours of the test galaxies of `task`, mag.
    level : float
        Share of galaxies whose true K is to lie within.
    seed : int

    Returns
    -------
    interval : numpy.ndarray
        (M, 2) low and high end for the test galaxies of `task`, mag.
    judged : Task
        With the galaxies that judge as its test.
    judged_interval : numpy.ndarray
        (J, 2) of those, mag.
    """
    method = next(m for m in methods(1) if (m.track, m.name) == (track, "ours"))
    others, pixels = method.predict(asked, seed), asked.galaxies.pixels
    judge = hold_out(pixels[asked.test], 0.5, seed)
    rows = asked.test[~judge]
    known = track == SPECTROSCOPIC

    def told(of: Task, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        z = of.galaxies.z[rows]
        values = of.features.values[rows]
        return (np.column_stack([values, z]), z) if known else (values, None)

    features, z = told(asked, rows)
    edges = REDSHIFT_EDGES[1:-1] if known else None
    model = IntervalModel(given="known" if known else "truth", edges=edges, seed=seed)
    model.fit(features, asked.k[rows], others[~judge], pixels[rows], z)
    nominal = level
    if not known:
        bins = np.searchsorted(REDSHIFT_EDGES[1:-1], asked.galaxies.z[rows], side="right")
        nominal = model.nominal(level, bins)
    judged, out = replace(asked, test=asked.test[judge]), []
    for of, answers in ((task, predicted), (judged, others[judge])):
        features, z = told(of, of.test)
        out.append(np.stack(model.predict(features, answers, nominal, z), 1))
    return out[0], judged, out[1]


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
