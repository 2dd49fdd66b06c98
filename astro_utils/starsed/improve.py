"""The final PSF: stars without known spectra are added to fifty that have one, under several labels.

The original classifies the stars that it adds by a support vector machine, and takes the spectra of the
called classes for true. Here that is done again, with the controls that say what the labels are worth: true,
random, and the mean spectrum for all; labels of a likelihood that never saw one; and a fit of the PSF and of
the spectra together, which needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.models.star_classifiers import SimilaritySVM
from astro_utils.models.star_likelihood import class_log_posterior
from astro_utils.ordinal import ordinal_scores
from astro_utils.psf import FieldInterpolator
from astro_utils.results import metric_row
from astro_utils.starsed.exposures import Exposure, classifier_stars
from astro_utils.starsed.likelihoods import OURS_UNIT, log_likelihoods
from astro_utils.starsed.psf_fits import JOINT, OURS, WAVEDIFF, FitBudget, FittedPsf, PsfStars
from astro_utils.starsed.psf_jobs import PsfJob, PsfResult, known_stars
from astro_utils.starsed.stamps import StarSet, join

__all__ = [
    "BASE",
    "EXPERIMENT",
    "LABELS",
    "NONE",
    "Extras",
    "class_score_table",
    "extension_jobs",
    "extra_stars",
    "improvement_rows",
    "improvement_table",
    "lines",
    "sizes_of",
    "with_psf",
]

#: Name of the set of stars of known spectrum, of the stars that are added, and of the test.
BASE, EXPERIMENT = "S1", "PSF improvement"
SVM, LIKELIHOOD, TRUE, RANDOM, MEAN = "SVM", "likelihood", "true", "random", "mean"
NONE = "none at all"
#: Where the spectra of added stars come from.
LABELS = {
    SVM: "called by the SVM, trained on true labels of other stars of this exposure (as published)",
    LIKELIHOOD: "called by the likelihood with ours of 50 stars",
    TRUE: "true",
    RANDOM: "drawn at random",
    MEAN: "the mean of the 13 for every star",
}


@dataclass(frozen=True, eq=False)
class Extras:
    """Stars that are added, and what they are called.

    Attributes
    ----------
    base, stars : StarSet
        Stars of known spectrum; stars to add.
    labels : mapping
        Source (a key of :data:`LABELS`, without the mean) to (N,) classes of the stars to add.
    """

    base: StarSet
    stars: StarSet
    labels: Mapping[str, np.ndarray]

    def accuracy(self, source: str) -> float:
        """Share of the added stars whose label from a source is true."""
        return float((self.labels[source] == self.stars.labels).mean()) if source in self.labels else np.nan


def extra_stars(
    exposure: Exposure,
    base: StarSet,
    extra: StarSet,
    training: StarSet,
    published_psf: FittedPsf,
    our_psf: FittedPsf,
) -> Extras:
    """Label stars by every source.

    Parameters
    ----------
    exposure : Exposure
    base, extra, training : StarSet
        Stars of known spectrum; stars to add; stars with labels from which the support vector machine learns,
        none of the former.
    published_psf, our_psf : FittedPsf
        Fitted to `base`: what the machine reads, and what the likelihood takes.
    """
    psf = FieldInterpolator(published_psf.psf, exposure.nodes)
    machine = SimilaritySVM().fit(classifier_stars(training, psf))
    called = machine.predict(classifier_stars(extra, psf))
    psf = FieldInterpolator(our_psf.psf, exposure.nodes)
    log_l = log_likelihoods(extra, psf, exposure.templates.weights, our_psf)[OURS_UNIT]
    labels = {
        SVM: called,
        LIKELIHOOD: class_log_posterior(log_l).argmax(1),
        TRUE: np.array(extra.labels),
        RANDOM: np.random.default_rng(exposure.field_seed).integers(13, size=len(extra)),
    }
    return Extras(base, extra, labels)


def _extended(exposure: Exposure, extras: Extras, source: str, n: int) -> PsfStars:
    """Put the base and the first n of the others together, with the spectra of a source."""
    added = extras.stars.rows(slice(0, n))
    if source in extras.labels:
        added = replace(added, labels=extras.labels[source][:n])
    elif source == NONE:
        added = replace(added, labels=np.full(n, -1))
    stars = known_stars(join([extras.base, added]), exposure)
    if source == MEAN:
        sed = stars.sed.copy()
        sed[len(extras.base) :] = stars.templates.mean(0)
        stars = replace(stars, sed=sed)
    return stars


def extension_jobs(
    exposure: Exposure,
    extras: Extras,
    sizes: Mapping[tuple[str, str], list[int]],
    budget: FitBudget,
    test: PsfStars,
) -> dict[tuple[str, str, int], PsfJob]:
    """List the fits: (method, source, number of stars added) to a job.

    Parameters
    ----------
    exposure : Exposure
    extras : Extras
    sizes : mapping
        (method, source) to numbers of stars. :data:`NONE` is for the joint fit alone, in which the added
        stars have no label; there, -n drops the labels of the base as well.
    budget : FitBudget
    test : PsfStars
    """
    jobs = {}
    for (method, source), numbers in sizes.items():
        for n in numbers:
            stars = _extended(exposure, extras, source, abs(n))
            if n < 0:
                stars = replace(stars, sed=np.full_like(stars.sed, np.nan))
            jobs[method, source, n] = PsfJob(method, stars, exposure, budget, test)
    return jobs


def sizes_of(published: str, ours: str, controls: str, joint: str) -> dict[tuple[str, str], list[int]]:
    """Read the numbers of stars of a page's parameters, separated by commas.

    Parameters
    ----------
    published : str
        Of WaveDiff with labels of the machine.
    ours : str
        Of ours with labels of the machine, of the likelihood, and true ones.
    controls : str
        Of ours with random labels and with the mean. WaveDiff with true labels is that of the set S6.
    joint : str
        Of the joint fit, with 50 labels and with none.
    """

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part.strip()]

    sizes = {(WAVEDIFF, SVM): numbers(published)}
    sizes |= {(OURS, source): numbers(ours) for source in (SVM, LIKELIHOOD, TRUE)}
    sizes |= {(OURS, source): numbers(controls) for source in (RANDOM, MEAN)}
    sizes[JOINT, NONE] = [n for size in numbers(joint) for n in (size, -size)]
    return sizes


def with_psf(exposure: Exposure, test: StarSet, fitted: FittedPsf) -> dict[str, float]:
    """Score the likelihood of test stars, flux known, under a fitted PSF of ours, errors integrated out."""
    psf = FieldInterpolator(fitted.psf, exposure.nodes)
    log_l = log_likelihoods(test, psf, exposure.templates.weights, fitted)
    scores = ordinal_scores(np.array(test.labels), np.exp(class_log_posterior(log_l[OURS_UNIT])))
    return {name: scores[name] for name in ("accuracy", "within_one", "top_two", "nll", "ece")}


def improvement_rows(
    results: Mapping[tuple[str, str, int], PsfResult],
    extras: Extras,
    scores: Mapping[tuple[str, str, int], Mapping[str, float]],
    profile: str,
) -> list[dict[str, Any]]:
    """Metric rows: errors of each PSF, accuracy of the labels, and of test stars under that PSF."""
    rows = []
    for (method, source, n), result in results.items():
        labels = f"{'no' if n < 0 else len(extras.base)} labels"
        errors = result.errors
        metrics = {
            "relative_error": errors["relative"],
            "relative_error_scatter": errors["relative_std"],
            "relative_error_fine": errors["super_relative"],
            "seconds": errors["seconds"],
            "label_accuracy": extras.accuracy(source),
        }
        metrics |= scores.get((method, source, n), {})
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=EXPERIMENT,
                model=f"{method}, {labels} + {abs(n)} {source}",
                n_train=errors["n_stars"],
                n_test=errors["n"],
                seeds=1,
                metrics=metrics,
            )
        )
    return rows


def lines(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of this experiment with the columns ``name`` (method, base, source) and ``n_stars`` (added)."""
    part = metrics[metrics["experiment"] == EXPERIMENT].reset_index(drop=True)
    split = part["model"].str.extract(r"^(?P<method>.+), (?P<base>\w+ labels) \+ (?P<n>\d+) (?P<source>.+)$")
    name = split["method"] + ": " + split["base"] + ", " + split["source"]
    return part.assign(name=name, n_stars=split["n"].astype(int)).sort_values(["name", "n_stars"])


def improvement_table(metrics: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Errors of extended fits against the number of added stars, a column for each method and source."""
    table = lines(metrics).round({"relative_error": 3})
    table = table.pivot(index="n_stars", columns="name", values="relative_error")
    known = printed.set_index("model")["relative_error"]
    table.insert(0, "WaveDiff, printed", [known.get(f"WaveDiff 50 + {n}") for n in table.index])
    return table.rename_axis(index="stars added", columns=None)


def class_score_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Scores of test stars with each of our PSFs."""
    table = lines(metrics).dropna(subset="accuracy").set_index(["name", "n_stars"])
    columns = ["relative_error", "label_accuracy", "accuracy", "within_one", "top_two", "nll", "ece"]
    return table[columns].round(3).rename_axis(["PSF", "stars added"])
