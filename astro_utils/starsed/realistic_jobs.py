"""Realistic mode field by field, in parallel processes, kept on disk and not repeated after a kill."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import joblib
import torch

from astro_utils.results import atomic
from astro_utils.starsed.classify import ClassifyBudget
from astro_utils.starsed.realistic_methods import realistic_answers

__all__ = ["run_realistic"]


def _cached(seed: int, sizes: dict[str, int], budget: ClassifyBudget, path: Path, threads: int) -> Path:
    if not path.is_file():
        torch.set_num_threads(threads)
        table = realistic_answers(seed, **sizes, budget=budget)
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return path


def run_realistic(
    seeds: Sequence[int], folder: Path, budget: ClassifyBudget, *, n_train: int, n_test: int, workers: int
) -> Iterator[tuple[int, Path]]:
    """Ask every method about realistic stars of some fields; yield (fields done, file of answers).

    Parameters
    ----------
    seeds : sequence of int
        Of the optical fields.
    folder : path
    budget, n_train, n_test
        As for :func:`astro_utils.starsed.realistic_methods.realistic_answers`.
    workers : int
        Processes, of one thread each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    package = Path(__file__).parents[1]
    own = ("realistic_methods", "realistic_likelihoods", "realistic_stars", "class_scatter")
    names = [f"starsed/{name}.py" for name in (*own, "star_places", "shifted_psf")]
    names += ["models/star_classifiers.py", "models/star_committee.py"]
    names += ["models/star_likelihood.py", "models/star_nuisances.py"]
    code = "".join((package / name).read_text(encoding="utf-8") for name in names)
    sizes = {"n_train": n_train, "n_test": n_test}
    calls = []
    for seed in seeds:
        digest = hashlib.sha256(f"{seed} {sizes} {budget!r} {code}".encode()).hexdigest()[:20]
        path = folder / f"realistic_{digest}.parquet"
        threads = 1 if workers > 1 else torch.get_num_threads()
        calls.append(joblib.delayed(_cached)(seed, sizes, budget, path, threads))
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    yield from enumerate(finished, start=1)
