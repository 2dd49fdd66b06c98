"""Runs of all methods on the simulated skies: each kept when it is done, then scored together.

answers = run_methods(task, methods(epochs=50), n_seeds=5, folder=run.path("answers"), workers=2)
rows = score_rows(task, answers, profile="quick", sky="independent templates")
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.simulated_methods import Method
from astro_utils.kcorrections.simulated_task import Task
from astro_utils.metrics import bootstrap, summarise
from astro_utils.results import atomic, metric_row

__all__ = ["REDSHIFT_EDGES", "Answers", "bias_rows", "gain_rows", "run_methods", "score_rows"]

#: Bins in which bias and coverage are given.
REDSHIFT_EDGES = np.arange(0.0, 0.41, 0.05)

#: (track, method) to K of the test galaxies for each seed, (S, M) mag, NaN where a method failed.
Answers = Mapping[tuple[str, str], np.ndarray]


def _digest(task: Task, method: Method, seed: int) -> str:
    """Digest of all that decides an answer: galaxies, embeddings, split, method and code."""
    package = Path(__file__).parents[1]
    code = [*sorted((package / "kcorrections").glob("*.py")), package / "models" / "kcorrection_heads.py"]
    digest = hashlib.sha256(f"{method.track} {method.name} {seed}".encode())
    keywords = getattr(method.predict, "keywords", {})
    digest.update(repr(sorted((k, v) for k, v in keywords.items() if not callable(v))).encode())
    for path in code:
        digest.update(path.read_bytes())
    for array in (task.k, task.images, task.spectra, task.features.values, task.train, task.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:20]


def _run(task: Task, method: Method, seed: int, path: Path, threads: int) -> np.ndarray:
    torch.set_num_threads(threads)
    if not path.is_file():
        answer = np.asarray(method.predict(task, seed), dtype=float)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, answer, allow_pickle=False)
    return np.load(path, allow_pickle=False)


def run_methods(
    task: Task, chosen: Sequence[Method], *, n_seeds: int, folder: Path, workers: int = 1
) -> Answers:
    """Ask every method for the test galaxies.

    Parameters
    ----------
    task : Task
    chosen : sequence of Method
    n_seeds : int
        Repetitions of methods that depend on one.
    folder : path
        Where answers are kept: a killed run goes on, and what has not changed is not computed again.
    workers : int
        Processes, of one thread each; with one, torch takes the threads that it wants.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if workers > 1 else torch.get_num_threads()
    jobs = [(method, seed) for method in chosen for seed in range(n_seeds if method.random else 1)]
    # Networks first: they take longest.
    jobs.sort(key=lambda job: "MLP" not in job[0].name and "attention" not in job[0].name)
    calls = [
        joblib.delayed(_run)(task, method, seed, folder / f"{_digest(task, method, seed)}.npy", threads)
        for method, seed in jobs
    ]
    done = joblib.Parallel(n_jobs=workers)(calls)
    out: dict[tuple[str, str], list[np.ndarray]] = {}
    for (method, _), answer in zip(jobs, done, strict=True):
        out.setdefault((method.track, method.name), []).append(answer)
    order = [(method.track, method.name) for method in chosen]
    return {key: np.stack(out[key]) for key in order}


def filled(answers: np.ndarray, task: Task) -> np.ndarray:
    """Answers with the mean of the training set where a method failed: nobody is left out of a score."""
    return np.where(np.isfinite(answers), answers, task.k[task.train].mean())


def score_rows(task: Task, answers: Answers, *, profile: str, sky: str, n_bootstrap: int = 500) -> list[dict]:
    """Scores of every method, with intervals by resampling parts of the sky.

    Parameters
    ----------
    task : Task
    answers : mapping
        From :func:`run_methods`.
    profile : str
        Of the run.
    sky : str
        Which galaxies; the rows' experiment is ``"<sky>, <track>"``.
    n_bootstrap : int

    Returns
    -------
    list of dict
        Rows with the scores of :func:`astro_utils.kcorrections.scores.k_scores` and ``failures``.
    """
    true, groups, rows = task.k[task.test], task.galaxies.pixels[task.test], []
    for (track, name), seeds in answers.items():
        whole = filled(seeds, task)
        scores = [lambda rows, p=p: k_scores(p[rows], true[rows]) for p in whole]
        metrics = summarise(scores, groups, n_bootstrap)
        metrics["failures"] = float((~np.isfinite(seeds)).sum(1).mean())
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=f"{sky}, {track}",
                model=name,
                n_train=len(task.train),
                n_test=len(task.test),
                seeds=len(seeds),
                metrics=metrics,
            )
        )
    return rows


def gain_rows(
    task: Task, answers: Answers, *, profile: str, sky: str, ours: str = "ours", n_bootstrap: int = 500
) -> list[dict]:
    """Paired comparison of ours with every other method: RMSE of the other over that of ours.

    Above 1 with its interval, ours is better on these galaxies beyond what their number leaves open.
    """
    true, groups, rows = task.k[task.test], task.galaxies.pixels[task.test], []
    for (track, name), seeds in answers.items():
        if name == ours:
            continue
        mine, other = (
            np.square(filled(answers[key], task) - true).mean(0) for key in ((track, ours), (track, name))
        )

        def ratio(rows: np.ndarray, a: np.ndarray = other, b: np.ndarray = mine) -> dict[str, float]:
            return {"rmse_ratio": float(np.sqrt(a[rows].mean() / b[rows].mean()))}

        (lo, hi) = bootstrap(ratio, groups, n_bootstrap)["rmse_ratio"]
        value = ratio(np.arange(len(true)))["rmse_ratio"]
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=f"{sky}, {track}, against ours",
                model=name,
                n_train=len(task.train),
                n_test=len(task.test),
                seeds=len(seeds),
                metrics={"rmse_ratio": {"value": value, "lo": lo, "hi": hi}},
            )
        )
    return rows


def bias_rows(task: Task, answers: Answers, chosen: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Mean error of some methods in bins of true redshift, with its standard error.

    Parameters
    ----------
    task : Task
    answers : mapping
    chosen : sequence of (track, name)

    Returns
    -------
    pandas.DataFrame
        ``track``, ``method``, ``z`` (middle of the bin), ``n``, ``bias``, ``error`` (mag each).
    """
    z, true, lines = task.galaxies.z[task.test], task.k[task.test], []
    which = np.digitize(z, REDSHIFT_EDGES) - 1
    for key in chosen:
        error = filled(answers[key], task).mean(0) - true
        for b in np.unique(which):
            inside = error[which == b]
            if len(inside) > 1:
                middle = REDSHIFT_EDGES[b : b + 2].mean()
                spread = inside.std(ddof=1) / np.sqrt(len(inside))
                lines.append((*key, middle, len(inside), inside.mean(), spread))
    return pd.DataFrame(lines, columns=["track", "method", "z", "n", "bias", "error"])
