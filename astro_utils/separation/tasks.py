"""Trainings as tasks that run side by side, are kept on disk, and are not repeated after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from astro_utils.results import atomic
from astro_utils.separation.methods import (
    BOOSTING,
    DENSE,
    ENSEMBLE,
    METHODS,
    OURS,
    PHOTOMETRY,
    PUBLISHED,
    PUBLISHED_64,
    ROBUST,
    Budget,
    Objects,
    run_method,
)
from astro_utils.separation.protocol import partition
from astro_utils.separation.sets import TASKS, Pool

__all__ = ["CALIBRATED", "CALIBRATION", "DEGRADED", "Task", "children", "plan", "run_tasks"]

#: Sets that the models of the compact set answer for beside the tests of their experiments: objects kept for
#: calibration (the validation set, where there are none), and degraded forms of the validation set.
CALIBRATION, DEGRADED = "calibration", "degraded validation"
#: Whose answers are turned into conformal sets, and are asked for these.
CALIBRATED = (OURS, PUBLISHED)


@dataclass(frozen=True)
class Task:
    """One training.

    Parameters
    ----------
    method : str
        One of :data:`astro_utils.separation.methods.METHODS`.
    trained : {"compact", "faint"}
        The set it is trained on.
    task : {"SG", "SGQ"}
        The classes.
    seed : int
        Of the validation set, of weights and of batches.
    split : {"field", "object"}
        See :func:`astro_utils.separation.protocol.partition`.
    budget : Budget
    """

    method: str
    trained: str
    task: str
    seed: int
    split: str
    budget: Budget


def plan(
    *,
    both_tasks: str,
    three_classes: str,
    few_seeds: str,
    n_seeds: int,
    n_few: int,
    split: str,
    budget: Budget,
) -> list[Task]:
    """List the trainings, the longest first, so that no process is left with one at the end.

    Parameters
    ----------
    both_tasks, three_classes, few_seeds : str
        Methods, separated by vertical bars: those of both tasks, those of the task with quasars alone, and
        which of either are run for the first `n_few` seeds only.
    n_seeds, n_few : int
    split, budget
        See :class:`Task`.

    Raises
    ------
    ValueError
        When a method is not known.
    """
    wanted = {"SG": _names(both_tasks), "SGQ": _names(both_tasks) + _names(three_classes)}
    few = _names(few_seeds)

    def runs(method: str, trained: str, task: str, seed: int) -> bool:
        if method == ROBUST and trained == "faint":  # bright objects are none of the faint set
            return False
        if method == DENSE and ENSEMBLE in wanted[task] and runs(ENSEMBLE, trained, task, seed):
            return False  # the ensemble brings it along
        return seed < n_few or method not in few

    tasks = [
        Task(method, trained, task, seed, split, budget)
        for seed in range(n_seeds)
        for trained in ("compact", "faint")
        for task, methods in wanted.items()
        for method in methods
        if runs(method, trained, task, seed)
    ]
    weight = {ENSEMBLE: 0, PUBLISHED: 1, PUBLISHED_64: 1, BOOSTING: 3, DENSE: 3, PHOTOMETRY: 3}
    return sorted(tasks, key=lambda t: (weight.get(t.method, 2), t.seed, t.trained != "compact"))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split("|") if name.strip()]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise ValueError(f"no method {unknown[0]!r}; expected some of {' | '.join(METHODS)}")
    return names


def _objects(pool: Pool, rows: np.ndarray, task: str) -> Objects:
    return Objects(pool.table.iloc[rows].reset_index(drop=True), pool.images[rows], pool.labels(rows, task))


def children(pool: Pool, degraded: Objects | None, rows: np.ndarray, task: str) -> Objects | None:
    """Degraded forms of the objects in `rows`, with class numbers of `task`; None where there are none."""
    if degraded is None:
        return None
    table = degraded.table
    mine = table["object_id"].isin(pool.table["object_id"].to_numpy()[rows]) & table["class"].isin(
        TASKS[task]
    )
    index = np.flatnonzero(mine)
    if not len(index):
        return None
    labels = pd.Categorical(table["class"].iloc[index], TASKS[task]).codes.astype(np.int64)
    return Objects(table.iloc[index].reset_index(drop=True), degraded.images[index], labels)


def _joined(one: Objects, other: Objects) -> Objects:
    common = [name for name in one.table if name in other.table]
    return Objects(
        pd.concat([one.table[common], other.table[common]], ignore_index=True),
        np.concatenate([one.images, other.images]),
        np.concatenate([one.labels, other.labels]),
    )


def _run(task: Task, pool: Pool, degraded: Objects | None) -> tuple[pd.DataFrame, dict[str, torch.Tensor]]:
    """Run one task; one row for each method, set and object, and the weights of our network."""
    parts = partition(pool, task.trained, task.task, task.seed, task.split)
    train, validation = (_objects(pool, rows, task.task) for rows in (parts.train, parts.validation))
    held = children(pool, degraded, parts.validation, task.task) if task.trained == "compact" else None
    if task.method == ROBUST:
        added = children(pool, degraded, parts.train, task.task)
        if added is None or held is None:
            raise ValueError(
                f"{ROBUST!r}: there are no degraded forms of the objects of set {task.trained!r}"
            )
        train, validation = _joined(train, added), _joined(validation, held)
    rows = dict(parts.tests)
    if task.trained == "compact" and task.method in CALIBRATED:
        spare = pool.calibration[pool.table["class"].isin(TASKS[task.task]).to_numpy()[pool.calibration]]
        rows[CALIBRATION] = spare if len(spare) else parts.validation
    asked = {name: _objects(pool, index, task.task) for name, index in rows.items()}
    if held is not None and task.method in CALIBRATED:
        asked[DEGRADED] = held
        rows[DEGRADED] = np.full(len(held.labels), -1)  # no rows of the pool
    classes = TASKS[task.task]
    tables, weights = [], {}
    for method, answers in run_method(
        task.method, train, validation, asked, len(classes), task.seed, task.budget
    ).items():
        if method == OURS:
            weights = dict(answers.weights)
        for name, p in answers.probabilities.items():
            table = pd.DataFrame(p.astype(np.float32), columns=[f"p_{c}" for c in classes])
            table.insert(0, "label", asked[name].labels.astype(np.int8))
            table.insert(0, "r", asked[name].table["model_r"].to_numpy(np.float32))
            table.insert(0, "row", rows[name].astype(np.int32))
            tables.append(table.assign(set=name, method=method, **_cost(answers, len(train.labels))))
    keys = {"trained": task.trained, "task": task.task, "seed": task.seed}
    out = pd.concat(tables, ignore_index=True).assign(**keys)
    return out.astype({name: "category" for name in ("set", "method", "trained", "task")}), weights


def _cost(answers, n_train: int) -> dict[str, float]:
    return {
        "parameters": answers.parameters,
        "seconds": answers.seconds,
        "epochs": answers.epochs,
        "best_epoch": answers.best_epoch,
        "n_train": n_train,
    }


def _cached(task: Task, pool: Pool, degraded: Objects | None, path: Path, threads: int) -> tuple[Task, Path]:
    if not path.is_file():
        torch.set_num_threads(threads)
        table, weights = _run(task, pool, degraded)
        if weights:
            with atomic(path.with_suffix(".safetensors")) as temporary:
                save_file(weights, temporary)
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return task, path


def _digest(task: Task, data: str, code: str) -> str:
    return hashlib.sha256(f"{task!r} {data} {code}".encode()).hexdigest()[:20]


def _data_digest(pool: Pool, degraded: Objects | None) -> str:
    """Digest of the catalogues, which the images go with, and of the sets."""
    digest = hashlib.sha256()
    for table in (pool.table, None if degraded is None else degraded.table):
        if table is not None:
            digest.update(pd.util.hash_pandas_object(table).to_numpy().tobytes())
    for rows in (
        pool.compact,
        pool.faint,
        *pool.published_test.values(),
        *pool.clean_test.values(),
        *pool.more_tests.values(),
        pool.calibration,
    ):
        digest.update(np.asarray(rows).tobytes())
    return digest.hexdigest()


def run_tasks(
    tasks: Sequence[Task], pool: Pool, degraded: Objects | None, folder: Path, workers: int
) -> Iterator[tuple[int, Task, Path]]:
    """Run tasks in parallel processes and yield (tasks done, task, file of the answers).

    Beside the answers of our network (``.parquet``) stand its weights (``.safetensors``).

    Each result is kept in `folder` under a digest of the task, the data and the code, so that a killed run
    goes on where it stopped, and changed code or data start anew.

    Parameters
    ----------
    tasks : sequence of Task
    pool : Pool
    degraded : Objects or None
        Degraded forms of objects of the compact set, with the ``object_id`` of their originals.
    folder : path
    workers : int
        Processes, of one thread each: torch's threads wait for one another where cores are shared. With one
        process, torch takes the threads that it wants.
    """
    package, here = Path(__file__).parents[1], Path(__file__).parent
    needed = [package / f"{name}.py" for name in ("training", "augment", "splits")]
    # What decides an answer; scores and figures do not.
    needed += [here / f"{name}.py" for name in ("inputs", "methods", "protocol", "tasks")]
    models = ("boosted_classes", "fast_dropout", "margformer", "margformer_published", "margnet")
    needed += [package / "models" / f"{name}.py" for name in models]
    code = "".join(path.read_text(encoding="utf-8") for path in needed)
    data = _data_digest(pool, degraded)
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if workers > 1 else torch.get_num_threads()
    calls = [
        joblib.delayed(_cached)(
            task, pool, degraded, folder / f"{_digest(task, data, code)}.parquet", threads
        )
        for task in tasks
    ]
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    for done, (task, path) in enumerate(finished, start=1):
        yield done, task, path
