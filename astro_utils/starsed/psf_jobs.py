"""Fits of PSFs as jobs that run side by side, are kept on disk, and are not repeated after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from astro_utils.psf.metrics import evaluate
from astro_utils.results import write_json
from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.psf_fits import PARAMETRIC, TRAINED, FitBudget, PsfStars, fit_psf, read_fit
from astro_utils.starsed.stamps import StarSet

__all__ = ["PsfJob", "PsfResult", "known_stars", "run_jobs"]


def known_stars(stars: StarSet, exposure: Exposure) -> PsfStars:
    """Take stars with the template of their class as spectrum; labels of -1 leave it open."""
    weights = exposure.templates.weights
    sed = np.where(stars.labels[:, None] < 0, np.nan, weights[stars.labels])
    return PsfStars(stars.positions, stars.stamps, stars.sigma, sed, weights)


@dataclass(frozen=True, eq=False)
class PsfJob:
    """One fit.

    Parameters
    ----------
    method : str
        One of :data:`astro_utils.starsed.psf_fits.METHODS`.
    stars : PsfStars
    exposure : Exposure
        For the telescope, and for the truth that the fit is compared with.
    budget : FitBudget
    test : PsfStars, optional
        Stars at whose places and with whose spectra the fit is compared with the truth; by default it is not.
    seed : int
    """

    method: str
    stars: PsfStars
    exposure: Exposure
    budget: FitBudget
    test: PsfStars | None = None
    seed: int = 0

    @property
    def work(self) -> float:
        """Rough cost, to start the longest jobs first."""
        if self.method in TRAINED:
            n = len(self.stars.stamps)
            return self.budget.schedule(n, maps=self.method != PARAMETRIC).passes(n)
        return 50 * len(self.stars.stamps)

    def digest(self) -> str:
        """Digest of all that decides the result: stars, settings, and the code of the model."""
        package = Path(__file__).parents[1]
        names = [f"psf/{name}.py" for name in ("optics", "pupil", "diffraction", "zernike", "wavefront")]
        if self.method in TRAINED:
            names += ["models/wavediff.py", "psf/wavediff_training.py"]
            settings = self.budget.epochs_share, self.budget.coarse
        else:
            names += [f"psf/{name}.py" for name in ("fit", "climb", "field_likelihood", "linearise", "joint")]
            settings = (self.budget.starts, self.budget.iterations, self.budget.rounds, self.budget.coarse)
        digest = hashlib.sha256(f"{self.method} {self.exposure.optics!r} {settings} {self.seed}".encode())
        for name in names:
            digest.update((package / name).read_bytes())
        for array in vars(self.stars).values():
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()[:20]


@dataclass(frozen=True, eq=False)
class PsfResult:
    """A fit: the file of its tensors, and its errors of :func:`astro_utils.psf.metrics.evaluate`."""

    path: Path
    errors: dict


def _run(name: str, job: PsfJob, path: Path, threads: int) -> tuple[str, PsfResult]:
    torch.set_num_threads(threads)
    optics = job.exposure.optics
    if path.is_file():
        fitted = read_fit(path, optics)
    else:
        fitted = fit_psf(job.method, job.stars, optics, job.budget, path, seed=job.seed)
    if job.test is None:
        return name, PsfResult(path, {})
    record = path.with_suffix(f".{len(job.test.sed)}.json")  # the first so many test stars of the field
    if not record.is_file():
        errors = evaluate(
            fitted.psf, job.exposure.wavefronts, optics, job.test.positions, job.test.sed.astype(np.float32)
        )
        write_json(record, errors | {"seconds": fitted.fit["seconds"], "n_stars": fitted.fit["n_stars"]})
    return name, PsfResult(path, json.loads(record.read_text(encoding="utf-8")))


def run_jobs(jobs: Mapping[str, PsfJob], folder: Path, workers: int) -> Iterator[tuple[int, str, PsfResult]]:
    """Run jobs in parallel processes and yield (jobs done, name, result).

    Parameters
    ----------
    jobs : mapping
        Name to job.
    folder : path
        Fits are kept here under their digests; a killed run goes on where it stopped.
    workers : int
        Processes, of one thread each; with one process torch takes the threads that it wants.
    """
    folder.mkdir(parents=True, exist_ok=True)
    threads = 1 if workers > 1 else torch.get_num_threads()
    order: Sequence[str] = sorted(jobs, key=lambda name: -jobs[name].work)
    calls = [
        joblib.delayed(_run)(name, jobs[name], folder / f"{jobs[name].digest()}.safetensors", threads)
        for name in order
    ]
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    for done, (name, result) in enumerate(finished, start=1):
        yield done, name, result
