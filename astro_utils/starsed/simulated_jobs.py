"""The classifier that learns on simulated fields as jobs that run side by side and are kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch

from astro_utils.results import atomic
from astro_utils.starsed.exposures import Exposure, exposures
from astro_utils.starsed.psf_fits import OURS, FitBudget, read_fit
from astro_utils.starsed.simulated_answers import simulated_answers
from astro_utils.starsed.simulated_fields import simulated_fields
from astro_utils.starsed.simulated_training import SimulatedConfig, fit_simulated
from astro_utils.starsed.stars import SUBSETS

__all__ = ["FIRST_SEED", "SimulatedJob", "run_simulated", "simulated_plan"]

#: Of the first field to learn from; those to classify are numbered from one.
FIRST_SEED = 101


@dataclass(frozen=True)
class SimulatedJob:
    """Learning for PSFs of one number of stars, and the fields that are asked about.

    Parameters
    ----------
    n_psf : int
        Stars of a PSF.
    budget : FitBudget
        Of the PSFs, in the fields to learn from as in those to classify.
    learned : tuple of Exposure
        Fields to learn from.
    asked : tuple of (Exposure, str, str)
        Fields to classify, their samples, and files of their fitted PSFs.
    config : SimulatedConfig
    """

    n_psf: int
    budget: FitBudget
    learned: tuple[Exposure, ...]
    asked: tuple[tuple[Exposure, str, str], ...]
    config: SimulatedConfig = field(default_factory=SimulatedConfig)

    def __post_init__(self) -> None:
        both = {e.field_seed for e in self.learned} & {e.field_seed for e, _, _ in self.asked}
        if both:
            raise ValueError(f"fields {sorted(both)} are both learned from and classified; expected others")

    def digest(self) -> str:
        """Digest of settings and code; the files of fits are named after what they are made of."""
        names = ("relinearised", "simulated_answers", "simulated_correction", "simulated_fields")
        names += ("simulated_training",)
        code = "".join(Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8") for name in names)
        asked = [(exposure, Path(fit).name) for exposure, _, fit in self.asked]
        key = f"{self.n_psf} {self.budget!r} {self.learned!r} {asked!r} {self.config!r}"
        return hashlib.sha256((key + code).encode()).hexdigest()[:20]


def simulated_plan(
    fields: Sequence[Exposure],
    fits: Sequence[Mapping[str, Any]],
    folder: Path,
    sets: Sequence[str],
    *,
    n_fields: int,
    n_stars: int,
) -> list[SimulatedJob]:
    """List the jobs: one for each set of stars that PSFs of ours were fitted to.

    Parameters
    ----------
    fields : sequence of Exposure
        To classify, all of one kind.
    fits : sequence of mapping
        With ``method``, ``set``, ``field`` (its seed), ``file``, from `folder`, and ``budget``.
    folder : path
        Of the samples, ``field_<seed>.h5``, and of the fits.
    sets : sequence of str
        Of :data:`astro_utils.starsed.stars.SUBSETS`.
    n_fields, n_stars : int
        To learn from, and stars in each.

    Raises
    ------
    ValueError
        If no PSF of ours was fitted to a set.
    """
    jobs = []
    for name in sets:
        found = {fit["field"]: fit for fit in fits if (fit["method"], fit["set"]) == (OURS, name)}
        asked = tuple(
            (e, str(folder / f"field_{e.field_seed}.h5"), str(folder / found[e.field_seed]["file"]))
            for e in fields
            if e.field_seed in found
        )
        if not asked:
            raise ValueError(f"no PSF of ours was fitted to {name!r}; expected one in a field or more")
        n_psf = SUBSETS[name].stop
        budget = FitBudget(**next(iter(found.values()))["budget"])
        learned = exposures(
            n_fields, n_psf + n_stars, 0, fields[0].spectra, first_seed=FIRST_SEED, nodes=fields[0].nodes
        )
        jobs.append(SimulatedJob(n_psf, budget, tuple(learned), asked))
    return jobs


def _answers(job: SimulatedJob, folder: Path) -> pd.DataFrame:
    seen = simulated_fields(job.learned, job.n_psf, folder, budget=job.budget)
    correction = fit_simulated(seen, job.config)
    tables = [
        simulated_answers(exposure, stars, read_fit(fit, exposure.optics), correction)
        for exposure, stars, fit in job.asked
    ]
    return pd.concat(tables, ignore_index=True)


def _cached(job: SimulatedJob, folder: Path, path: Path, threads: int) -> Path:
    if not path.is_file():
        torch.set_num_threads(threads)
        table = _answers(job, folder)
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return path


def run_simulated(jobs: Sequence[SimulatedJob], folder: Path, workers: int) -> Iterator[tuple[int, Path]]:
    """Run jobs in parallel processes of one thread each and yield (jobs done, file of answers).

    Samples, fits and answers are kept in `folder`; a killed run goes on with what is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if workers > 1 else torch.get_num_threads()
    calls = [
        joblib.delayed(_cached)(job, folder, folder / f"simulated_{job.digest()}.parquet", threads)
        for job in jobs
    ]
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    yield from enumerate(finished, start=1)
