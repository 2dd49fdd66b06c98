"""Scores, tables and the figure of Experiment 3 done right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from astro_utils.class_bootstrap import resample_weights, summarise_classes
from astro_utils.priors import re_estimated_prior
from astro_utils.results import format_scores, metric_row
from astro_utils.separation.methods import (
    BOOSTING,
    DENSE,
    ENSEMBLE,
    OURS,
    PUBLISHED,
    ROBUST,
    Objects,
)
from astro_utils.separation.plots import accuracy_against_r
from astro_utils.separation.protocol import LEAKY, partition
from astro_utils.separation.scores import (
    Cell,
    experiment_name,
    magnitude_table,
    name_recalls,
    seeds_averaged,
)
from astro_utils.separation.sets import TASKS, Pool
from astro_utils.separation.shift import MagnitudePrior, known_mix
from astro_utils.separation.tasks import children

__all__ = ["COMMITTEE", "accuracy_figure", "best_inductive", "leak_table", "shift_rows", "shift_table"]

_SINGLE = (BOOSTING, DENSE, ENSEMBLE, PUBLISHED, OURS, ROBUST)
#: Mean of the answers of both.
COMMITTEE = "ours and boosting, averaged"
AS_TRAINED, EVEN = "as trained", "even prior at each magnitude"
MIX, EM = "known mix", "re-estimated prior"
#: Name of a correction to whether it looks at the test set.
CORRECTIONS = {AS_TRAINED: "inductive", EVEN: "inductive", MIX: "transductive", EM: "transductive"}


def training_priors(
    pool: Pool, task: str, split: str, n_seeds: int, degraded: Objects | None = None
) -> list[MagnitudePrior]:
    """Class shares against magnitude in each seed's training set, degraded objects with it where added."""
    out = []
    for seed in range(n_seeds):
        train = partition(pool, "compact", task, seed, split).train
        r, labels = pool.table["model_r"].to_numpy()[train], pool.labels(train, task)
        added = children(pool, degraded, train, task)
        if added is not None:
            r = np.concatenate([r, added.table["model_r"].to_numpy()])
            labels = np.concatenate([labels, added.labels])
        out.append(MagnitudePrior.of(r, labels, len(TASKS[task])))
    return out


def corrected(cell: Cell, method: str, correction: str, priors: list[MagnitudePrior]) -> list[np.ndarray]:
    """Correct the probabilities of every seed of a method."""
    k = len(TASKS[cell.task])
    even = np.full(k, 1 / k)
    out = []
    for p, prior in zip(cell.answers[method], priors, strict=False):
        if correction == EVEN:
            p = prior.flatten(p, cell.r)
        elif correction == MIX:
            p = known_mix(p, np.bincount(cell.labels, minlength=k) / len(cell.labels))
        elif correction == EM:
            p = re_estimated_prior(p, even)
        out.append(p)
    return out


def shift_rows(
    cell: Cell, pool: Pool, degraded: Objects, split: str, sky: str, profile: str, n_bootstrap: int
) -> list[dict[str, Any]]:
    """Score methods in Experiment 3 under every correction, and means of answers after it.

    Averaged are the seeds of ours, and ours with boosting, which errs on other objects.
    """
    weights = resample_weights(cell.groups, n_bootstrap)
    rows, means = [], {}
    for method in (m for m in _SINGLE if m in cell.answers):
        added = degraded if method == ROBUST else None
        priors = training_priors(pool, cell.task, split, len(cell.answers[method]), added)
        for correction, kind in CORRECTIONS.items():
            p = corrected(cell, method, correction, priors)
            means[method, correction] = np.mean(p, axis=0)
            variants = {method: p}
            if method == OURS and BOOSTING in cell.answers:
                variants[COMMITTEE] = [(means[BOOSTING, correction] + means[OURS, correction]) / 2]
            if method in (OURS, ROBUST) and len(p) > 1:
                variants[seeds_averaged(method)] = [np.mean(p, axis=0)]
            for name, per_seed in variants.items():
                rows.append(
                    metric_row(
                        profile=profile,
                        sky=sky,
                        experiment=f"{cell.name}: {kind}",
                        model=f"{name}, {correction}",
                        n_train=cell.n_train[method],
                        n_test=len(cell.labels),
                        seeds=len(per_seed),
                        metrics=name_recalls(summarise_classes(cell.labels, per_seed, weights), cell.task),
                    )
                )
    return rows


def shift_table(metrics: pd.DataFrame, task: str) -> pd.DataFrame:
    """Accuracy, NLL and ECE of every method and correction, the inductive ones first."""
    columns = {"accuracy": ("accuracy [%]", 100, 1), "nll": ("NLL", 1, 3), "ece": ("ECE [%]", 100, 1)}
    parts = {
        kind: format_scores(
            metrics[metrics["experiment"] == f"{experiment_name('3', task)}: {kind}"], columns
        )
        for kind in ("inductive", "transductive")
    }
    return pd.concat(parts, names=["kind"])


def best_inductive(metrics: pd.DataFrame, task: str = "SGQ") -> str:
    """Return ours with the highest inductive accuracy."""
    part = metrics[metrics["experiment"] == f"{experiment_name('3', task)}: inductive"]
    part = part[part["model"].str.startswith(OURS)]
    return part.loc[part["accuracy"].idxmax(), "model"]


def leak_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy on the clean test of Experiment 3 with quasars and on the one that holds training objects."""
    columns = {}
    for experiment in ("3", LEAKY):
        part = metrics[metrics["experiment"] == experiment_name(experiment, "SGQ")]
        columns[f"Experiment {experiment}"] = format_scores(part, {"accuracy": ("a", 100, 1)})["a"]
    return pd.DataFrame(columns)


def accuracy_figure(cell: Cell, pool: Pool, degraded: Objects, split: str) -> Figure:
    """Accuracy against r of the published architecture, of ours, and of ours corrected."""
    shown = {m: cell.answers[m] for m in (PUBLISHED, OURS) if m in cell.answers}
    best = ROBUST if ROBUST in cell.answers else OURS
    priors = training_priors(
        pool, cell.task, split, len(cell.answers[best]), degraded if best == ROBUST else None
    )
    name = f"{best}, {EVEN}"
    shown[name] = corrected(cell, best, EVEN, priors)
    changed = Cell(
        cell.experiment,
        cell.task,
        cell.rows,
        cell.labels,
        cell.r,
        cell.groups,
        cell.shares,
        shown,
        dict.fromkeys(shown, 0),
    )
    table = magnitude_table(changed, list(shown), np.arange(20.0, 23.01, 0.5))
    return accuracy_against_r({"Experiment 3, with quasars": table}, list(shown))
