"""From answers to rows of ``metrics.json``: every method in every experiment, and paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.class_bootstrap import paired_difference, resample_weights, summarise_classes
from astro_utils.conformal import coverage_by
from astro_utils.results import metric_row
from astro_utils.separation.methods import OURS, PUBLISHED, ROBUST, TRIVIAL
from astro_utils.separation.protocol import EXPERIMENTS, trained_on
from astro_utils.separation.sets import TASKS, Pool

__all__ = [
    "R_EDGES",
    "Cell",
    "cells",
    "compact_answers",
    "confusion_counts",
    "cost_rows",
    "difference_rows",
    "experiment_name",
    "magnitude_table",
    "name_recalls",
    "read_answers",
    "score_rows",
    "seeds_averaged",
]

#: Edges in model r at which accuracy and coverage are shown.
R_EDGES = np.arange(16.0, 24.01, 0.5)


def experiment_name(experiment: str, task: str) -> str:
    """Name of one cell of the published table, as rows of ``metrics.json`` have it."""
    return f"Experiment {experiment}, {task}"


def seeds_averaged(method: str) -> str:
    """Name of the ensemble over seeds of a method."""
    return f"{method}, seeds averaged"


def read_answers(paths: Sequence[Path]) -> pd.DataFrame:
    """Read the files of :func:`astro_utils.separation.tasks.run_tasks` as one table."""
    tables = [pd.read_parquet(path) for path in sorted(paths)]
    names = ("set", "method", "trained", "task")
    return pd.concat([table.astype(dict.fromkeys(names, str)) for table in tables], ignore_index=True)


def compact_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """Answers small enough to be kept with the repository: of ours and of the published architecture.

    Test sets, seeds averaged, half precision: enough for figures that need objects, not for intervals over
    seeds, which are in ``metrics.json``.
    """
    tests = answers[answers["set"].isin(list(EXPERIMENTS)) & answers["method"].isin([OURS, PUBLISHED])]
    keys = ["trained", "task", "set", "method", "row", "label", "r"]
    columns = [name for name in answers if name.startswith("p_")]
    mean = tests.groupby(keys, sort=False, observed=True)[columns].mean().reset_index()
    half = mean.astype(dict.fromkeys([*columns, "r"], "float16"))
    return half.astype(dict.fromkeys(["trained", "task", "set", "method"], "category"))


@dataclass(frozen=True)
class Cell:
    """One test of one task: the same objects, in the same order, for every method and seed.

    Attributes
    ----------
    experiment, task : str
    rows : numpy.ndarray
        (N,) rows of the pool.
    labels, r, groups : numpy.ndarray
        (N,) classes, model r magnitudes, fields.
    shares : numpy.ndarray
        (K,) of the classes in the set that was learned from: what the trivial method answers.
    answers : dict
        Method to a list of (N, K) probabilities, one for each seed.
    n_train : dict
        Method to the mean number of training objects.
    """

    experiment: str
    task: str
    rows: np.ndarray
    labels: np.ndarray
    r: np.ndarray
    groups: np.ndarray
    shares: np.ndarray
    answers: dict[str, list[np.ndarray]]
    n_train: dict[str, int]

    @property
    def name(self) -> str:
        """As rows of ``metrics.json`` have it."""
        return experiment_name(self.experiment, self.task)


def cells(answers: pd.DataFrame, pool: Pool) -> Iterator[Cell]:
    """Arrange answers by experiment and task.

    Raises
    ------
    ValueError
        When seeds of a method were tested on different objects.
    """
    for experiment in EXPERIMENTS:
        for task, classes in TASKS.items():
            part = answers[
                (answers["set"] == experiment)
                & (answers["task"] == task)
                & (answers["trained"] == trained_on(experiment))
            ]
            if part.empty:
                continue
            part = part.sort_values("seed", kind="stable")  # files come in the order of their names
            by_method: dict[str, list[np.ndarray]] = {}
            n_train, reference = {}, None
            for (method, seed), one in part.groupby(["method", "seed"], sort=False):
                one = one.sort_values("row")
                rows = one["row"].to_numpy()
                if reference is None:
                    reference = one
                if not np.array_equal(rows, reference["row"]):
                    raise ValueError(f"{method}, seed {seed}: tested on other objects than another method")
                p = one[[f"p_{c}" for c in classes]].to_numpy(float)
                by_method.setdefault(method, []).append(p / p.sum(1, keepdims=True))
                n_train[method] = round(part.loc[part["method"] == method, "n_train"].mean())
            for method in (OURS, ROBUST):
                if len(by_method.get(method, ())) > 1:
                    name = seeds_averaged(method)
                    by_method[name] = [np.mean(by_method[method], axis=0)]
                    n_train[name] = n_train[method]
            rows = reference["row"].to_numpy()
            yield Cell(
                experiment,
                task,
                rows,
                reference["label"].to_numpy().astype(int),
                reference["r"].to_numpy(float),
                pool.table["field"].to_numpy()[rows],
                _shares(pool, trained_on(experiment), task),
                by_method,
                n_train,
            )


def _shares(pool: Pool, trained: str, task: str) -> np.ndarray:
    rows = {"compact": pool.compact, "faint": pool.faint}[trained]
    counts = pool.table["class"].iloc[rows].value_counts().reindex(list(TASKS[task]), fill_value=0)
    return (counts / counts.sum()).to_numpy()


def score_rows(cell: Cell, sky: str, profile: str, n_bootstrap: int) -> list[dict[str, Any]]:
    """Score every method in one cell, the trivial one first; intervals by resampling fields."""
    k = len(TASKS[cell.task])
    weights = resample_weights(cell.groups, n_bootstrap)
    methods = {TRIVIAL: [np.tile(cell.shares, (len(cell.labels), 1))], **cell.answers}
    rows = []
    for method, per_seed in methods.items():
        metrics = name_recalls(summarise_classes(cell.labels, per_seed, weights), cell.task)
        if method != TRIVIAL:
            metrics |= {
                f"true_{TASKS[cell.task][t]}_as_{TASKS[cell.task][p]}": {"value": int(count)}
                for (t, p), count in np.ndenumerate(confusion_counts(cell.labels, per_seed[0], k))
            }
        rows.append(
            metric_row(
                profile=profile,
                sky=sky,
                experiment=cell.name,
                model=method,
                n_train=cell.n_train.get(method, 0),
                n_test=len(cell.labels),
                seeds=len(per_seed),
                metrics=metrics,
            )
        )
    return rows


def name_recalls(metrics: dict[str, Any], task: str) -> dict[str, Any]:
    """Put the names of classes in the place of their numbers: ``recall_STAR``."""
    names = {f"recall_{i}": f"recall_{name}" for i, name in enumerate(TASKS[task])}
    return {names.get(key, key): value for key, value in metrics.items()}


def confusion_counts(labels: np.ndarray, probabilities: np.ndarray, n_classes: int) -> np.ndarray:
    """Count objects by true class (rows) and called class (columns), (K, K)."""
    pairs = n_classes * labels + probabilities.argmax(1)
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def difference_rows(
    cell: Cell, ours: str, others: Sequence[str], sky: str, profile: str, n_bootstrap: int
) -> list[dict[str, Any]]:
    """Scores of `ours` less those of each other method, on the same resamples of the same objects."""
    weights = resample_weights(cell.groups, n_bootstrap)
    rows = []
    for other in others:
        if other not in cell.answers or other == ours:
            continue
        gained = paired_difference(cell.labels, cell.answers[ours], cell.answers[other], weights)
        rows.append(
            metric_row(
                profile=profile,
                sky=sky,
                experiment=f"{cell.name}: difference",
                model=f"{ours} − {other}",
                n_train=cell.n_train[ours],
                n_test=len(cell.labels),
                seeds=len(cell.answers[ours]),
                metrics={f"{k}_gain": gained[k] for k in ("accuracy", "nll", "auc")}
                | {"p_value": gained["p_value"]},
            )
        )
    return rows


def magnitude_table(cell: Cell, methods: Sequence[str], edges: np.ndarray = R_EDGES) -> pd.DataFrame:
    """Accuracy in bins of model r for the first seed, so that Wilson intervals count each object once."""
    tables = []
    for method in methods:
        if method in cell.answers:
            right = cell.answers[method][0].argmax(1) == cell.labels
            sets = np.stack([right, ~right], axis=1)  # coverage of class 0 is accuracy
            table = coverage_by(sets, np.zeros(len(right), dtype=int), cell.r, edges)
            table = table.rename(columns=lambda name: name.replace("coverage", "accuracy"))
            tables.append(table.drop(columns=["mean_size", "empty"]).assign(method=method))
    return pd.concat(tables, ignore_index=True).assign(experiment=cell.experiment, task=cell.task)


def cost_rows(answers: pd.DataFrame, sky: str, profile: str) -> list[dict[str, Any]]:
    """Parameters and training cost of every method, from the trainings on the compact set."""
    columns = ["parameters", "seconds", "epochs", "best_epoch", "n_train"]
    part = answers[(answers["trained"] == "compact")]
    tested = part[part["set"] == "1"].groupby("task", observed=True)["row"].nunique()
    runs = part.groupby(["task", "method", "seed"], sort=False)[columns].first().reset_index()
    rows = []
    for (task, method), one in runs.groupby(["task", "method"], sort=False):
        mean = one[columns].mean()
        rows.append(
            metric_row(
                profile=profile,
                sky=sky,
                experiment=f"cost, {task}",
                model=method,
                n_train=round(mean["n_train"]),
                n_test=int(tested[task]),
                seeds=len(one),
                metrics={k: float(mean[k]) for k in columns[:-1]},
            )
        )
    return rows
