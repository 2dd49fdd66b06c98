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

from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.simulated_methods import Method
from astro_utils.kcorrections.simulated_task import Task
from astro_utils.metrics import bootstrap, summarise
from astro_utils.results import atomic, metric_row
from astro_utils.sample_writer import one_thread

__all__ = ["Answers", "gain_rows", "prediction_table", "run_methods", "score_rows", "task_row"]

#: (track, method) to K of the test galaxies for each seed, (S, M) mag, NaN where a method failed.
Answers = Mapping[tuple[str, str], np.ndarray]


#: Modules that decide an answer, by the source of the method.
_CODE = {
    "published": ("simulated_methods", "heads", "../models/kcorrection_heads", "../training", "../splits"),
    "ours": (
        *("simulated_methods", "simulated_features", "predictors", "kernel", "redshift_density", "features"),
        *("polynomials", "kcorrect_fit", "templates", "template_grid", "../splits"),
    ),
}


def _digest(task: Task, method: Method, seed: int) -> str:
    """Digest of all that decides an answer: galaxies, embeddings, split, method and code."""
    here = Path(__file__).parent
    code = [here / f"{name}.py" for name in _CODE.get(method.source, _CODE["ours"])]
    digest = hashlib.sha256(f"{method.track} {method.name} {seed}".encode())
    keywords = getattr(method.predict, "keywords", {})
    digest.update(repr(sorted((k, v) for k, v in keywords.items() if not callable(v))).encode())
    for path in code:
        digest.update(path.read_bytes())
    known, photometry = task.known, task.galaxies.photometry
    arrays = [task.k, task.images, task.spectra, task.z_phot, task.train, task.test]
    arrays += [known.features.values, known.groups, known.z, known.k_templates, known.grid.z, known.grid.k]
    arrays += [known.grid.chi2, photometry.flux, photometry.ivar, photometry.extinction]
    digest.update(repr((known.features.kinds, task.band, task.max_redshift)).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:20]


@one_thread()  # these samples are too small to share: threads would wait for one another
def _run(task: Task, method: Method, seed: int, path: Path) -> np.ndarray:
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
        Processes, of one thread each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(method, seed) for method in chosen for seed in range(n_seeds if method.random else 1)]
    # Networks first: they take longest.
    jobs.sort(key=lambda job: "MLP" not in job[0].name and "attention" not in job[0].name)
    calls = [
        joblib.delayed(_run)(task, method, seed, folder / f"{_digest(task, method, seed)}.npy")
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


def task_row(
    task: Task,
    metrics: Mapping,
    *,
    profile: str,
    experiment: str,
    model: str,
    n_test: int | None = None,
    seeds: int = 1,
) -> dict:
    """Make a metric row of simulated galaxies; all of the test unless `n_test` says how many."""
    return metric_row(
        profile=profile,
        sky="simulated",
        experiment=experiment,
        model=model,
        n_train=len(task.train),
        n_test=len(task.test) if n_test is None else n_test,
        seeds=seeds,
        metrics=metrics,
    )


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
            task_row(
                task,
                metrics,
                profile=profile,
                experiment=f"{sky}, {track}",
                model=name,
                seeds=len(seeds),
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
            task_row(
                task,
                {"rmse_ratio": {"value": value, "lo": lo, "hi": hi}},
                profile=profile,
                experiment=f"{sky}, {track}, against ours",
                model=name,
                seeds=len(seeds),
            )
        )
    return rows


#: Methods whose answers are kept for figures, in each track where they are.
KEPT = ("ours", "kcorrect", "nearest neighbours, image embedding", "MLP, image embedding", "three numbers")


def prediction_table(
    tasks: Mapping[str, Task],
    answers: Mapping[str, Answers],
    intervals: Mapping[str, Mapping[str, np.ndarray]],
) -> pd.DataFrame:
    """Answers of the first seed for the test galaxies, one line for galaxy, track and method.

    Parameters
    ----------
    tasks, answers : mapping
        Name of the sky to its task and its answers.
    intervals : mapping
        Name of the sky and track to the 90 % intervals (M, 2) of ours, mag.

    Returns
    -------
    pandas.DataFrame
        ``sky``, ``track``, ``method``, ``z``, ``r``, ``g_r`` (mag), ``true``, ``predicted``,
        ``low`` and ``high`` (mag; the last two NaN but for ours), in single precision.
    """
    parts = []
    for sky, task in tasks.items():
        numbers = {
            "z": task.galaxies.z[task.test],
            "r": task.features.values[task.test, 0],
            "g_r": task.features.values[task.test, 1],
            "true": task.k[task.test],
        }
        for (track, name), seeds in answers[sky].items():
            if name in KEPT:
                own = intervals[sky][track] if name == "ours" else np.full((len(task.test), 2), np.nan)
                columns = numbers | {"predicted": filled(seeds[0], task), "low": own[:, 0], "high": own[:, 1]}
                part = pd.DataFrame({key: np.asarray(v, np.float32) for key, v in columns.items()})
                parts.append(part.assign(sky=sky, track=track, method=name))
    table = pd.concat(parts, ignore_index=True)
    return table.astype(dict.fromkeys(("sky", "track", "method"), "category"))
