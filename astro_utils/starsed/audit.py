"""Checks of the published study of stellar types from one wide-band image, on simulated fields.

    fields = observe_fields(exposures(2, 10_000, 1_000, "pickles"))
    table = answer_table(fields, sizes=(50, 500))
    runs = reshuffle_table(fields, n_reshuffles=10)
    errors = pupil_errors((1, 2), "pickles", n_stars=40)

:mod:`astro_utils.starsed.audit_plots` turns these tables into metrics, findings and figures. As in the
study [1]_, every star is simulated: of unit flux, centred, of one of 13 exact spectra, with white noise.
Classifiers are given the true PSF at each star, which is the most favourable case.

References
----------
.. [1] Centofanti, E., et al., 2025, A&A, 694, A228, arXiv:2501.16151.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from astro_utils.models.star_features import N_CLASSES, SIMILARITY_FLUXES, similarity_features
from astro_utils.models.star_features import StarSet as ClassifierStars
from astro_utils.models.star_likelihood import FLUXES, TemplateClassifier
from astro_utils.ordinal import top_two, within_one
from astro_utils.psf import Optics, PupilModel, random_field
from astro_utils.psf.metrics import relative_pixel_error
from astro_utils.starsed.exposures import Exposure, mono_stamps
from astro_utils.starsed.stamps import observe
from astro_utils.starsed.stars import draw_catalogue
from astro_utils.starsed.templates import templates

__all__ = [
    "JUDGED",
    "LIKELIHOOD",
    "LIKELIHOOD_FREE",
    "OTHER_FIELD",
    "PUPIL_CASES",
    "SVM",
    "SVM_MATCHED",
    "SVM_SUM",
    "AuditField",
    "answer_table",
    "labelled",
    "observe_field",
    "observe_fields",
    "published_machine",
    "pupil_errors",
    "reshuffle_table",
]

SVM, SVM_MATCHED, SVM_SUM = "SVM, unit flux", "SVM, matched flux", "SVM, sum of the pixels"
LIKELIHOOD, LIKELIHOOD_FREE = "template likelihood, unit flux", "template likelihood, free flux"
OTHER_FIELD = "SVM, labels of another field"
#: What is told of every answer.
JUDGED = ("accuracy", "within_one", "top_two")
#: Stars at a time: no more than those whose PSFs are asked for at once when stars are observed.
_CHUNK = 256


def labelled(n: int) -> str:
    """Name of the machine that learns from so many stars of the field."""
    return f"SVM, {n:,d} labels"


# ------------------------------------------------------------------------------------------------ fields


@dataclass(frozen=True, eq=False)
class AuditField:
    """Stars of one simulated field, reduced to what the checks read; training stars come first.

    Attributes
    ----------
    labels : numpy.ndarray
        (N,) classes.
    n_train : int
        Training stars.
    snr, matched_sn : numpy.ndarray
        (N,) power ratio of the study, and the signal-to-noise ratio of a matched filter of the true image.
    features : mapping
        Flux (:data:`astro_utils.models.star_features.SIMILARITY_FLUXES`) to the (N, bins) similarities.
    log_likelihood : mapping
        Flux (:data:`astro_utils.models.star_likelihood.FLUXES`) to (test stars, 13).
    """

    labels: np.ndarray
    n_train: int
    snr: np.ndarray
    matched_sn: np.ndarray
    features: Mapping[str, np.ndarray]
    log_likelihood: Mapping[str, np.ndarray]


def observe_field(exposure: Exposure) -> AuditField:
    """Draw and observe the stars of an exposure, a few at a time, and compute what the checks read.

    Raises
    ------
    ValueError
        If stars differ in flux or are shifted, as those of the study are not, or there is no test star.
    """
    config = exposure.stars
    if config.flux_limits is not None or config.max_shift:
        raise ValueError("the audit is of stars of unit flux in the middle of their stamps, as published")
    if not config.n_test:
        raise ValueError("n_test is 0; expected at least one test star")
    psf, spectra = exposure.true_psf(), exposure.star_spectra
    likelihoods = {flux: TemplateClassifier(exposure.templates.weights, flux=flux) for flux in FLUXES}
    catalogue = draw_catalogue(config, spectra.classes)
    matched_sn: list[np.ndarray] = []
    features: dict[str, list[np.ndarray]] = {flux: [] for flux in SIMILARITY_FLUXES}
    log_likelihood: dict[str, list[np.ndarray]] = {flux: [] for flux in FLUXES}
    for first in range(0, len(catalogue), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(catalogue)))
        mono = mono_stamps(psf, catalogue.positions[rows])
        stars = observe(catalogue, config, lambda positions, shifts=None, m=mono: m, spectra, rows)
        power = np.square(stars.noiseless, dtype=float).sum((1, 2))
        matched_sn.append(np.sqrt(power) / stars.sigma)
        for flux, found in features.items():
            found.append(similarity_features(stars.stamps, mono, flux=flux))
        test = rows >= config.n_train
        if test.any():
            asked = ClassifierStars(stars.stamps, stars.labels, mono, stars.sigma).take(test)
            for flux, found in log_likelihood.items():
                found.append(likelihoods[flux].log_likelihood(asked))
    return AuditField(
        labels=catalogue.labels,
        n_train=config.n_train,
        snr=catalogue.snr,
        matched_sn=np.concatenate(matched_sn),
        features={flux: np.concatenate(parts) for flux, parts in features.items()},
        log_likelihood={flux: np.concatenate(parts) for flux, parts in log_likelihood.items()},
    )


def observe_fields(exposed: Sequence[Exposure], workers: int = 1) -> list[AuditField]:
    """:func:`observe_field` of each, in parallel processes of one thread each."""
    return joblib.Parallel(n_jobs=workers)(joblib.delayed(observe_field)(one) for one in exposed)


# ----------------------------------------------------------------------------------------------- answers


def published_machine() -> Pipeline:
    """Return the machine of :class:`~astro_utils.models.star_classifiers.SimilaritySVM`, not calibrated.

    Calibration needs stars of every class, of which there are too few among 50.
    """
    return make_pipeline(StandardScaler(), SVC(kernel="rbf", C=1.0, gamma="auto"))


def _fit(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    n_classes = len(np.unique(labels))
    if n_classes < 3:
        raise ValueError(f"{len(labels)} labelled stars are of {n_classes} classes; expected three or more")
    return published_machine().fit(features, labels)


def _judge(labels: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Right, within one class, among the two most probable: (N, 3)."""
    return np.column_stack(
        [predicted == labels, within_one(labels, predicted, N_CLASSES), top_two(labels, probabilities)]
    ).astype(float)


def _ask(machine: Pipeline, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Answers of a machine, (N, 3); classes are ranked by the votes of pairs, then by their confidence."""
    scores = np.zeros((len(labels), N_CLASSES))
    scores[:, machine.classes_] = softmax(machine.decision_function(features), axis=1)  # only ranks are used
    return _judge(labels, machine.predict(features), scores)


def answer_table(
    fields: Sequence[AuditField], sizes: Sequence[int] = (50, 100, 200, 500, 1000), n_draws: int = 5
) -> pd.DataFrame:
    """Ask every method about every test star.

    Parameters
    ----------
    fields : sequence of AuditField
        Two or more. "Another field" is the next one, and the first for the last.
    sizes : sequence of int
        Labelled stars that a machine has instead of all; those above the training stars are left out.
    n_draws : int
        Disjoint sets of each size, at most; answers are averaged over them.

    Returns
    -------
    pandas.DataFrame
        Columns ``field``, ``star``, ``snr``, ``matched_sn``, ``model``, ``n_train``, and ``accuracy``,
        ``within_one``, ``top_two`` of the star.

    Raises
    ------
    ValueError
        For fewer than two fields, or labelled stars of fewer than three classes.
    """
    if len(fields) < 2:
        raise ValueError(f"there are {len(fields)} fields; expected two or more")
    machines = [_fit(f.features["unit"][: f.n_train], f.labels[: f.n_train]) for f in fields]
    frames = []
    for number, field in enumerate(fields):
        n, x = field.n_train, field.features
        labels, known = field.labels[n:], field.labels[:n]
        answers = {(SVM, n): _ask(machines[number], x["unit"][n:], labels)}
        for model, flux in ((SVM_MATCHED, "matched"), (SVM_SUM, "sum")):
            answers[model, n] = _ask(_fit(x[flux][:n], known), x[flux][n:], labels)
        other = (number + 1) % len(fields)
        answers[OTHER_FIELD, fields[other].n_train] = _ask(machines[other], x["unit"][n:], labels)
        for size in (s for s in sizes if s < n):
            sets = [slice(k * size, (k + 1) * size) for k in range(min(n_draws, n // size))]
            drawn = [_ask(_fit(x["unit"][s], known[s]), x["unit"][n:], labels) for s in sets]
            answers[labelled(size), size] = np.mean(drawn, axis=0)
        for model, flux in ((LIKELIHOOD, "unit"), (LIKELIHOOD_FREE, "free")):
            posterior = softmax(field.log_likelihood[flux], axis=1)  # classes are equally frequent
            answers[model, 0] = _judge(labels, posterior.argmax(1), posterior)
        for (model, n_train), judged in answers.items():
            frame = pd.DataFrame(judged, columns=list(JUDGED))
            keys = {"field": number, "star": np.arange(len(labels)), "model": model, "n_train": n_train}
            frames.append(frame.assign(snr=field.snr[n:], matched_sn=field.matched_sn[n:], **keys))
    return pd.concat(frames, ignore_index=True)


# -------------------------------------------------------------------------------------------- reshuffles


def _reshuffles(field: AuditField, n_reshuffles: int, seed: int) -> tuple[np.ndarray, float]:
    """Accuracies (n_reshuffles,), and the number of independent test stars that their mean is worth."""
    rng, x, n = np.random.default_rng(seed), field.features["unit"], field.n_train
    tested, accuracies = np.zeros(len(field.labels)), []
    for _ in range(n_reshuffles):
        train, test = np.split(rng.permutation(len(x)), [n])
        predicted = _fit(x[train], field.labels[train]).predict(x[test])
        accuracies.append((predicted == field.labels[test]).mean())
        tested[test] += 1
    return np.array(accuracies), float(tested.sum() ** 2 / np.square(tested).sum())


def reshuffle_table(
    fields: Sequence[AuditField], n_reshuffles: int = 10, *, seed: int = 0, workers: int = 1
) -> pd.DataFrame:
    """Repeat the published protocol: the same stars of a field are shuffled into training and test anew.

    Parameters
    ----------
    fields : sequence of AuditField
    n_reshuffles : int
        Of each field, 10 in the study; two or more.
    seed, workers : int
        Seed of the first field, one more for each other; parallel processes.

    Returns
    -------
    pandas.DataFrame
        Columns ``field``, ``reshuffle``, ``accuracy``, ``n_train``, ``n_test``, and ``n_effective``: mean
        accuracies of the field err as those of so many test stars, since stars are tested again and again.
    """
    if n_reshuffles < 2:
        raise ValueError(f"n_reshuffles is {n_reshuffles}; expected two or more, to have a spread")
    call = joblib.delayed(_reshuffles)
    done = joblib.Parallel(n_jobs=workers)(
        call(field, n_reshuffles, seed + k) for k, field in enumerate(fields)
    )
    frames = [
        pd.DataFrame({"reshuffle": np.arange(n_reshuffles), "accuracy": accuracies}).assign(
            field=number, n_train=field.n_train, n_test=len(field.labels) - field.n_train, n_effective=n
        )
        for number, (field, (accuracies, n)) in enumerate(zip(fields, done, strict=True))
    ]
    return pd.concat(frames, ignore_index=True)


# ------------------------------------------------------------------------------------------------ pupils


class _SnappedOnce(Optics):
    """Images at the wavelengths of the spectra, which the original snaps a second time."""

    @property
    def wavelengths_um(self) -> np.ndarray:
        return self.spectrum_wavelengths_um


_PUPILS: dict[str, tuple[type[Optics], dict[str, Any]]] = {
    "plain": (Optics, {}),
    "uncut": (Optics, {"mask_edge": False}),
    "smoother": (Optics, {"filter_length": 3}),
    "uncut and smoother": (Optics, {"mask_edge": False, "filter_length": 3}),
    "snapped": (Optics, {"wavelengths": "wf-psf"}),
    "snapped once": (_SnappedOnce, {"wavelengths": "wf-psf"}),
}
#: Case to the optics of the model and those of the truth.
PUPIL_CASES = {
    "edge not cut": ("uncut", "plain"),
    "smoothed over 3 samples": ("smoother", "plain"),
    "edge not cut, smoothed over 3 samples": ("uncut and smoother", "plain"),
    "exact wavelengths for snapped ones": ("plain", "snapped"),
    "wavelengths snapped once, not twice": ("snapped once", "snapped"),
    "edge not cut, exact wavelengths": ("uncut", "snapped"),
}


def pupil_errors(
    field_seeds: Sequence[int], spectra: str, n_stars: int, optics: Optics | None = None
) -> pd.DataFrame:
    """Pixel errors of a PSF model that knows the true wavefronts but has another pupil or other wavelengths.

    Parameters
    ----------
    field_seeds : sequence of int
        Of the wavefronts, and of where stars are and of which class.
    spectra : {"pickles", "stelib"}
    n_stars : int
        In each field.
    optics : Optics, optional
        Of the telescope.

    Returns
    -------
    pandas.DataFrame
        Columns ``case``, of :data:`PUPIL_CASES`; ``field``; ``relative``, per cent of the star's image.
    """
    optics = optics or Optics()
    coefficients, labels = [], []
    for seed in field_seeds:
        rng = np.random.default_rng(seed)
        positions = rng.uniform(*optics.field_limits, (n_stars, 2))
        labels.append(rng.integers(N_CLASSES, size=n_stars))
        coefficients.append(random_field(optics, seed)(positions))

    @torch.no_grad()
    def images(kind: type[Optics], changes: Mapping[str, Any]) -> np.ndarray:
        changed = kind(**{**vars(optics), **changes})
        model = PupilModel(changed)
        known = templates(spectra, changed.bins, at_nm=1000 * changed.spectrum_wavelengths_um).weights
        sed = torch.as_tensor(known[np.concatenate(labels)])
        pairs = zip(torch.cat(coefficients).split(16), sed.split(16), strict=True)
        return torch.cat([model.polychromatic(model.opd(c), weights) for c, weights in pairs]).numpy()

    made = {name: images(*pupil) for name, pupil in _PUPILS.items()}
    frames = []
    for case, (model, truth) in PUPIL_CASES.items():
        pairs = zip(made[model], made[truth], strict=True)
        relative = [relative_pixel_error(one[None], other[None])["relative"] for one, other in pairs]
        of = np.repeat(list(field_seeds), n_stars)
        frames.append(pd.DataFrame({"case": case, "field": of, "relative": relative}))
    return pd.concat(frames, ignore_index=True)
