"""Runs of the study on simulated galaxies: answers that are kept, and rows of scores.

Networks take long: each answer is kept when it is done, under a digest of all that decides it, so that a run
that was killed goes on and what has not changed is not computed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from astro_utils.astra.galaxy_scores import scores
from astro_utils.astra.methods import Task
from astro_utils.astra.networks import Budget, Recipe, answer
from astro_utils.metrics import bootstrap, summarise
from astro_utils.models.astra import parameter_counts
from astro_utils.results import atomic, metric_row

__all__ = ["gain_rows", "loss_rows", "network_cost", "run_networks", "score_rows"]

_CODE = (
    *("astra/networks.py", "astra/folders.py", "astra/normalisation.py", "astra/targets.py", "astra/grid.py"),
    *("astra/baselines.py", "cutouts.py", "sky/bandpasses.py", "sky/surveys.py"),
    *("models/astra.py", "models/astra_parts.py", "training.py", "augment.py", "splits.py"),
)


def _digest(recipe: Recipe, task: Task, budget: Budget, seed: int) -> str:
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(repr((recipe, budget, seed, torch.__version__)).encode())
    for path in _CODE:
        digest.update((package / path).read_bytes())
    galaxies, parts = task.galaxies, task.parts
    arrays = (galaxies.images, galaxies.raw.flux, galaxies.spectra.flux, galaxies.spectra.ivar)
    for array in (*arrays, parts.train, parts.calibration, parts.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:20]


def _run(
    recipe: Recipe, task: Task, budget: Budget, seed: int, path: Path, threads: int
) -> tuple[np.ndarray, float]:
    if not path.is_file():
        torch.set_num_threads(threads)
        start = time.perf_counter()
        flux = answer(recipe, task.galaxies, task.parts, budget, seed)
        seconds = time.perf_counter() - start
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, flux=flux, seconds=np.float64(seconds))
    with np.load(path, allow_pickle=False) as kept:
        return kept["flux"], float(kept["seconds"])


def run_networks(
    recipes: Mapping[str, Recipe],
    task: Task,
    budget: Budget,
    *,
    n_seeds: int,
    folder: Path,
    workers: int = 1,
) -> dict[str, list[tuple[np.ndarray, float]]]:
    """Train every network with every seed.

    Parameters
    ----------
    recipes : mapping
        Name to recipe.
    task : Task
    budget : Budget
    n_seeds : int
    folder : path
        Where answers are kept.
    workers : int
        Processes of one thread each; with one, torch takes the threads that it has.

    Returns
    -------
    dict
        Name to one (spectra (M, L), seconds) for each seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(name, seed) for seed in range(n_seeds) for name in recipes]
    threads = 1 if workers > 1 else torch.get_num_threads()
    calls = [
        joblib.delayed(_run)(
            recipes[name],
            task,
            budget,
            seed,
            folder / f"{_digest(recipes[name], task, budget, seed)}.npz",
            threads,
        )
        for name, seed in jobs
    ]
    done = joblib.Parallel(n_jobs=workers)(calls)
    out: dict[str, list[tuple[np.ndarray, float]]] = {name: [] for name in recipes}
    for (name, _), one in zip(jobs, done, strict=True):
        out[name].append(one)
    return out


def score_rows(
    task: Task,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    *,
    profile: str,
    experiment: str,
    n_bootstrap: int,
    extra: Mapping[str, Mapping[str, float]] | None = None,
) -> list[dict]:
    """Scores of methods, each with one table of galaxies for each seed; intervals by resampling fields.

    Parameters
    ----------
    task : Task
    tables : mapping
        Name of the method to its tables, from :mod:`astro_utils.astra.galaxy_scores`.
    profile, experiment : str
    n_bootstrap : int
    extra : mapping, optional
        Name to further metrics, such as seconds.
    """
    rows = []
    for name, seeds in tables.items():
        of_seeds = [lambda rows, one=one: scores(one, rows) for one in seeds]
        metrics = summarise(of_seeds, task.test.fields, n_bootstrap)
        metrics |= (extra or {}).get(name, {})
        rows.append(_row(task, metrics, profile, experiment, name, len(seeds)))
    return rows


def gain_rows(
    task: Task,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    *,
    profile: str,
    experiment: str,
    n_bootstrap: int,
    ours: str = "ours",
) -> list[dict]:
    """Paired comparison with ours: errors of each other method over ours, all pixels and continuum.

    Above 1 with its interval, ours is better on these galaxies beyond what their number leaves open.
    """
    rows = []
    mine = _mean(tables[ours])
    for name, seeds in tables.items():
        if name == ours:
            continue
        other = _mean(seeds)

        def ratios(rows: np.ndarray | slice, other: pd.DataFrame = other) -> dict[str, float]:
            return {
                f"{column}_ratio": float(
                    other[column].to_numpy()[rows].sum() / mine[column].to_numpy()[rows].sum()
                )
                for column in ("error", "c_error")
            }

        rows.append(
            _row(
                task,
                _with_intervals(task, ratios, n_bootstrap),
                profile,
                f"{experiment}, against ours",
                name,
                len(seeds),
            )
        )
    return rows


def loss_rows(
    task: Task,
    tables: Mapping[str, Sequence[pd.DataFrame]],
    *,
    profile: str,
    experiment: str,
    n_bootstrap: int,
) -> list[dict]:
    """Say what each thing that was not mended costs in R2: the whole network less the other, paired.

    A network's whole is the one named before its " but "; those without are left out.
    """
    rows = []
    for name, seeds in tables.items():
        whole, broken, _ = name.partition(" but ")
        if not broken:
            continue
        one, other = _mean(tables[whole]), _mean(seeds)

        def losses(
            rows: np.ndarray | slice, one: pd.DataFrame = one, other: pd.DataFrame = other
        ) -> dict[str, float]:
            a, b = scores(one, rows), scores(other, rows)
            return {f"{key}_loss": a[key] - b[key] for key in ("r2", "r2_continuum")}

        rows.append(
            _row(
                task,
                _with_intervals(task, losses, n_bootstrap),
                profile,
                f"{experiment}, against whole",
                name,
                len(seeds),
            )
        )
    return rows


def _mean(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Mean over seeds of what is summed."""
    names = [name for name in tables[0] if name.endswith(("error", "total", "level", "noise", "chi2"))]
    return sum(table[names] for table in tables) / len(tables)


def _with_intervals(task: Task, function, n_bootstrap: int) -> dict[str, dict[str, float]]:
    bounds = bootstrap(function, task.test.fields, n_bootstrap)
    return {
        name: {"value": value, "lo": bounds[name][0], "hi": bounds[name][1]}
        for name, value in function(slice(None)).items()
    }


def _row(task: Task, metrics: Mapping, profile: str, experiment: str, model: str, seeds: int) -> dict:
    return metric_row(
        profile=profile,
        sky="simulated",
        experiment=experiment,
        model=model,
        n_train=len(task.train),
        n_test=len(task.test),
        seeds=seeds,
        metrics=metrics,
    )


def network_cost(recipe: Recipe, answers: Sequence[tuple[np.ndarray, float]]) -> dict[str, float]:
    """Weights that are trained, and the mean seconds of training with asking."""
    counts = parameter_counts(recipe.config)
    return {
        "parameters": float(counts["trained"]),
        "train_seconds": float(np.mean([seconds for _, seconds in answers])),
    }
