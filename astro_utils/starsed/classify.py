"""Every classifier on every field: as published and ours, with true and with fitted PSFs.

A :class:`ClassifyJob` is one classifier, trained on the stars of one field (or on none) and asked about test
stars of that field and, where it was trained, of another: the *complementary exposure*. Answers are one row
for each test star, kept on disk, so that a killed run goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch

from astro_utils.models.star_classifiers import CNNClassifier, SimilaritySVM
from astro_utils.models.star_committee import CommitteeClassifier
from astro_utils.models.star_features import StarSet as ClassifierStars
from astro_utils.models.star_likelihood import class_log_posterior
from astro_utils.psf import FieldInterpolator
from astro_utils.results import atomic
from astro_utils.starsed.exposures import Exposure, classifier_stars
from astro_utils.starsed.likelihoods import LIKELIHOOD, LIKELIHOOD_UNIT, OURS, OURS_UNIT, log_likelihoods
from astro_utils.starsed.psf_fits import FittedPsf, read_fit
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.templates import CLASSES

__all__ = [
    "CNN",
    "OTHER",
    "PCA",
    "SAME",
    "SVM",
    "TRAINED",
    "TRUE",
    "ClassifyBudget",
    "ClassifyJob",
    "plan",
    "run_classifiers",
    "training_stars",
]

PCA, CNN, SVM = "PCA+MLP", "CNN+MLP", "SVM+PSF"
#: Classifiers that learn from the labels of 10,000 stars; the others know the templates alone.
TRAINED = (PCA, CNN, SVM)
#: Methods of one job: those that need no training come together.
KINDS = (*TRAINED, LIKELIHOOD)
SAME, OTHER = "same field", "complementary exposure"
TRUE = "true"


@dataclass(frozen=True)
class ClassifyBudget:
    """How long classifiers are trained, and on how many stars.

    Parameters
    ----------
    n_train : int
        Stars 2,000 to 12,000 of a field, or the first of them; 0 is all.
    cnn_epochs, committee_epochs : int
        2,000 and 100 as published.
    committee_members : int
        48 as published.
    half : bool
        Whether the convolutions are computed in bfloat16.
    """

    n_train: int = 0
    cnn_epochs: int = 2000
    committee_epochs: int = 100
    committee_members: int = 48
    half: bool = False


@dataclass(frozen=True)
class ClassifyJob:
    """One classifier with one PSF.

    Parameters
    ----------
    kind : str
        One of :data:`KINDS`.
    exposure, other : Exposure
        The field, and the one that stands for the complementary exposure.
    stars, other_stars : str
        Their samples.
    psf : str
        :data:`TRUE`, or a name for the fit in the file `fit`.
    fit, other_fit : str or None
        Files of the PSFs fitted to stars of either field.
    budget : ClassifyBudget
    seed : int
    """

    kind: str
    exposure: Exposure
    other: Exposure
    stars: str
    other_stars: str
    psf: str
    budget: ClassifyBudget
    fit: str | None = None
    other_fit: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no classifier {self.kind!r}; expected one of {' | '.join(KINDS)}")
        if (self.fit is None) != (self.psf == TRUE):
            raise ValueError(f"psf is {self.psf!r} with the fit {self.fit}; a fit for all but {TRUE!r}")

    def digest(self) -> str:
        """Digest of settings, code, and of the fits, whose files are named after what they are made of."""
        package = Path(__file__).parents[1]
        names = {
            PCA: ["models/star_committee.py"],
            CNN: ["models/star_classifiers.py"],
            SVM: ["models/star_classifiers.py", "models/star_features.py"],
            LIKELIHOOD: ["models/star_likelihood.py", "models/star_nuisances.py", "starsed/likelihoods.py"],
        }[self.kind]
        code = "".join((package / name).read_text(encoding="utf-8") for name in names)
        chosen = {
            PCA: ("n_train", "committee_epochs", "committee_members"),
            CNN: ("n_train", "cnn_epochs", "half"),
            SVM: ("n_train",),
            LIKELIHOOD: (),
        }[self.kind]
        settings = [getattr(self.budget, name) for name in chosen]
        files = [Path(file).name if file else None for file in (self.fit, self.other_fit)]
        key = f"{self.kind} {self.exposure!r} {self.other!r} {self.psf} {settings} {files} {self.seed}"
        return hashlib.sha256((key + code).encode()).hexdigest()[:20]

    @property
    def work(self) -> float:
        """Rough cost in seconds, to start the longest jobs first."""
        return {CNN: 0.4 * self.budget.cnn_epochs, PCA: 80, SVM: 30, LIKELIHOOD: 25}[self.kind]


def plan(
    fields: Sequence[Exposure],
    fits: Sequence[Mapping[str, Any]],
    folder: Path,
    budget: ClassifyBudget,
    *,
    cnn_fields: int | None = None,
) -> list[ClassifyJob]:
    """List all jobs: every classifier with the true PSF, and those that read a PSF with each fitted one.

    Parameters
    ----------
    fields : sequence of Exposure
        The next field is the complementary exposure of each, and the first that of the last.
    fits : sequence of mapping
        With ``method``, ``set``, ``field`` (its seed) and ``file``, from `folder`.
    folder : path
        Of the samples, ``field_<seed>.h5``, and of the fits.
    budget : ClassifyBudget
    cnn_fields : int, optional
        Train the convolutional network, which takes the longest, in the first so many fields only.
    """
    others = dict(zip([e.field_seed for e in fields], [*fields[1:], fields[0]], strict=True))
    by_key = {(fit["method"], fit["set"], fit["field"]): str(Path(folder) / fit["file"]) for fit in fits}
    jobs = []
    for exposure in fields:
        other = others[exposure.field_seed]
        samples = [str(Path(folder) / f"field_{e.field_seed}.h5") for e in (exposure, other)]
        kinds = [kind for kind in KINDS if kind != CNN or exposure in fields[:cnn_fields]]
        jobs += [ClassifyJob(kind, exposure, other, *samples, TRUE, budget) for kind in kinds]
        for (method, name, field), fit in by_key.items():
            if field == exposure.field_seed:
                other_fit = by_key.get((method, name, other.field_seed))
                psf = f"{method.replace(' as published', '')} {name}"
                jobs += [
                    ClassifyJob(kind, exposure, other, *samples, psf, budget, fit, other_fit)
                    for kind in (SVM, LIKELIHOOD)
                ]
    return jobs


def training_stars(exposure: Exposure, budget: ClassifyBudget) -> int:
    """Count the labelled stars that classifiers learn from."""
    rows = _training_rows(exposure, budget)
    return rows.stop - rows.start


def _psf(exposure: Exposure, fit: str | None) -> tuple[FieldInterpolator, FittedPsf | None]:
    if fit is None:
        return exposure.true_psf(), None
    fitted = read_fit(fit, exposure.optics)
    return FieldInterpolator(fitted.psf, exposure.nodes), fitted


def _training_rows(exposure: Exposure, budget: ClassifyBudget) -> slice:
    rows = exposure.rows("train")
    start = min(2000, rows.stop // 2)  # as published, where there are enough stars
    stop = rows.stop if not budget.n_train else min(rows.stop, start + budget.n_train)
    return slice(start, stop)


def _answers(job: ClassifyJob) -> pd.DataFrame:
    """Run a job: one row for each test star and method."""
    if job.kind == LIKELIHOOD:
        return _likelihoods(job)
    rows, needs_psf = _training_rows(job.exposure, job.budget), job.kind == SVM
    psf = _psf(job.exposure, job.fit)[0] if needs_psf else None
    train = classifier_stars(read_stars(job.stars, rows), psf)
    test = read_stars(job.stars, job.exposure.rows("test"))
    validation = classifier_stars(read_stars(job.stars, slice(0, rows.start)), None)
    budget = job.budget
    if job.kind == PCA:
        machine = CommitteeClassifier(
            members=budget.committee_members, epochs=budget.committee_epochs, seed=job.seed
        )
    elif job.kind == CNN:
        machine = CNNClassifier(epochs=budget.cnn_epochs, half=budget.half, seed=job.seed)
    else:
        machine = SimilaritySVM(seed=job.seed)
    machine.fit(train, validation)
    tables = [_table(test, job, SAME, job.kind, machine, classifier_stars(test, psf))]
    if not needs_psf or job.fit is None or job.other_fit is not None:
        other = read_stars(job.other_stars, job.other.rows("test"))
        psf = _psf(job.other, job.other_fit)[0] if needs_psf else None
        tables.append(_table(other, job, OTHER, job.kind, machine, classifier_stars(other, psf)))
    return pd.concat(tables, ignore_index=True)


def _table(stars, job: ClassifyJob, test: str, method: str, machine, asked: ClassifierStars) -> pd.DataFrame:
    table = _rows(stars, job, test, method, machine.predict_probabilities(asked))
    return table.assign(predicted=machine.predict(asked).astype(np.int8))


def _rows(stars, job: ClassifyJob, test: str, method: str, p: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(p.astype(np.float32), columns=[f"p_{name}" for name in CLASSES])
    table.insert(0, "predicted", p.argmax(1).astype(np.int8))
    table.insert(0, "snr", stars.snr.astype(np.float32))
    table.insert(0, "label", stars.labels.astype(np.int8))
    return table.assign(field=job.exposure.field_seed, test=test, psf=job.psf, method=method)


def _likelihoods(job: ClassifyJob) -> pd.DataFrame:
    """All likelihoods with one PSF."""
    stars = read_stars(job.stars, job.exposure.rows("test"))
    psf, fitted = _psf(job.exposure, job.fit)
    log_l = log_likelihoods(stars, psf, job.exposure.templates.weights, fitted)
    # With a PSF that is known exactly, ours are the plain likelihoods.
    for ours, plain in ((OURS, LIKELIHOOD), (OURS_UNIT, LIKELIHOOD_UNIT)):
        if job.psf == TRUE:
            log_l[ours] = log_l[plain]
    tables = [
        _rows(stars, job, SAME, name, np.exp(class_log_posterior(value))) for name, value in log_l.items()
    ]
    return pd.concat(tables, ignore_index=True)


def _cached(job: ClassifyJob, path: Path, threads: int) -> Path:
    if not path.is_file():
        torch.set_num_threads(threads)
        table = _answers(job)
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return path


def run_classifiers(jobs: Sequence[ClassifyJob], folder: Path, workers: int) -> Iterator[tuple[int, Path]]:
    """Run jobs in parallel processes of one thread each and yield (jobs done, file of answers)."""
    folder.mkdir(parents=True, exist_ok=True)
    order = sorted(jobs, key=lambda job: -job.work)
    threads = 1 if workers > 1 else torch.get_num_threads()
    calls = [joblib.delayed(_cached)(job, folder / f"{job.digest()}.parquet", threads) for job in order]
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    yield from enumerate(finished, start=1)
