"""The final PSF: stars without known spectra are added to some that have one, under several labels.

The original classifies the stars that it adds by a support vector machine, and takes the spectra of the
called classes for true. Here that is done again, with the controls that say what the labels are worth: true,
random, and the mean spectrum for all; labels of a likelihood that never saw one; and a fit of the PSF and of
the spectra together, which needs none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from astro_utils.models.star_classifiers import SimilaritySVM
from astro_utils.models.star_likelihood import class_log_posterior
from astro_utils.ordinal import ordinal_scores
from astro_utils.psf import FieldInterpolator
from astro_utils.starsed.exposures import Exposure, classifier_stars
from astro_utils.starsed.likelihoods import OURS_UNIT, log_likelihoods
from astro_utils.starsed.psf_fits import JOINT, OURS, WAVEDIFF, FitBudget, FittedPsf, PsfStars, read_fit
from astro_utils.starsed.psf_jobs import PsfJob, known_stars
from astro_utils.starsed.stamps import StarSet, join

__all__ = [
    "LABELS",
    "NONE",
    "SVM",
    "Extras",
    "check_fits",
    "class_scores",
    "extension_jobs",
    "extra_stars",
    "sizes_of",
]

SVM, LIKELIHOOD, TRUE, RANDOM, MEAN = "SVM", "likelihood", "true", "random", "mean"
NONE = "none at all"
#: Where the spectra of added stars come from.
LABELS = {
    SVM: "called by the SVM, trained on true labels of other stars of this exposure (as published)",
    LIKELIHOOD: "called by the likelihood with ours of the stars of known spectrum",
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


def check_fits(
    fits: Mapping[tuple[str, str, int], Any], sizes: Mapping[int, Mapping[tuple[str, str, str], list[int]]]
) -> None:
    """Check that bases have fits of WaveDiff and of ours: (method, set, field) in `fits`, `sizes` by field.

    Raises
    ------
    ValueError
        Naming the first fit that is missing.
    """
    wanted = ((m, base, field) for field, of in sizes.items() for base, *_ in of for m in (WAVEDIFF, OURS))
    missing = [key for key in wanted if key not in fits]
    if missing:
        method, name, field = missing[0]
        raise ValueError(
            f"no fit of {method!r} to {name} in field {field}; starsed/2_psf makes those it is asked for"
        )


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
    extras: Mapping[str, Extras],
    sizes: Mapping[tuple[str, str, str], list[int]],
    budget: FitBudget,
    test: PsfStars,
) -> dict[tuple[str, str, str, int], PsfJob]:
    """List the fits: (base, method, source, number of stars added) to a job.

    Parameters
    ----------
    exposure : Exposure
    extras : mapping
        By base, the name of the set of stars of known spectrum.
    sizes : mapping
        (base, method, source) to numbers of stars. :data:`NONE` is for the joint fit alone, in which the
        added stars have no label; there, -n drops the labels of the base as well.
    budget : FitBudget
    test : PsfStars
    """
    jobs = {}
    for (base, method, source), numbers in sizes.items():
        for n in numbers:
            stars = _extended(exposure, extras[base], source, abs(n))
            if n < 0:
                stars = replace(stars, sed=np.full_like(stars.sed, np.nan))
            jobs[base, method, source, n] = PsfJob(method, stars, exposure, budget, test)
    return jobs


def sizes_of(
    bases: str, published: str, ours: str, controls: str, joint: str, others: str = ""
) -> dict[tuple[str, str, str], list[int]]:
    """Read the numbers of stars of a page's parameters, separated by commas.

    Parameters
    ----------
    bases : str
        Sets of stars of known spectrum. What follows is for the first, but for `others`.
    published : str
        Of WaveDiff with labels of the machine.
    ours : str
        Of ours with labels of the machine, of the likelihood, and true ones.
    controls : str
        Of ours with random labels and with the mean. WaveDiff with true labels is that of the set S6.
    joint : str
        Of the joint fit, with the labels of the base and with none.
    others : str
        Of WaveDiff and ours with labels of the machine, for the other bases.
    """

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part.strip()]

    base, *further = (name.strip() for name in bases.split(","))
    sizes = {(base, WAVEDIFF, SVM): numbers(published)}
    sizes |= {(base, OURS, source): numbers(ours) for source in (SVM, LIKELIHOOD, TRUE)}
    sizes |= {(base, OURS, source): numbers(controls) for source in (RANDOM, MEAN)}
    sizes[base, JOINT, NONE] = [n for size in numbers(joint) for n in (size, -size)]
    return sizes | {(name, method, SVM): numbers(others) for name in further for method in (WAVEDIFF, OURS)}


def class_scores(
    exposure: Exposure, test: StarSet, fits: Mapping[Any, Path], workers: int = 1
) -> dict[Any, dict[str, float]]:
    """Score the likelihood of test stars, flux known, under fitted PSFs of ours, errors integrated out.

    Parameters
    ----------
    exposure : Exposure
    test : StarSet
    fits : mapping
        Any key to the file of a fit (:func:`astro_utils.starsed.psf_fits.fit_psf`).
    workers : int
        Processes.
    """
    calls = [joblib.delayed(_with_psf)(exposure, test, path) for path in fits.values()]
    # Without memory maps, which cannot be written to and of which torch would warn.
    done = joblib.Parallel(n_jobs=workers, max_nbytes=None)(calls)
    return dict(zip(fits, done, strict=True))


def _with_psf(exposure: Exposure, test: StarSet, path: Path) -> dict[str, float]:
    fitted = read_fit(path, exposure.optics)
    psf = FieldInterpolator(fitted.psf, exposure.nodes)
    log_l = log_likelihoods(test, psf, exposure.templates.weights, fitted)
    scores = ordinal_scores(np.array(test.labels), np.exp(class_log_posterior(log_l[OURS_UNIT])))
    return {name: scores[name] for name in ("accuracy", "within_one", "top_two", "nll", "ece")}
