"""Tables of the results of the stellar study, beside what the original prints."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd

from astro_utils.metrics import wilson_interval
from astro_utils.results import format_scores
from astro_utils.starsed.classify import CNN, OTHER, PCA, SAME, SVM, TRUE
from astro_utils.starsed.likelihoods import LIKELIHOOD, LIKELIHOOD_UNIT, OURS, OURS_UNIT
from astro_utils.starsed.psf_scores import EXPERIMENT
from astro_utils.starsed.realistic_stars import REALISTIC
from astro_utils.starsed.scores import TRIVIAL, model_name, paired_gain, per_star
from astro_utils.starsed.simulated_correction import METHODS as LEARNED
from astro_utils.starsed.templates import CLASSES

__all__ = [
    "calibration_table",
    "class_table",
    "error_lines",
    "exposure_table",
    "fewest_stars",
    "field_table",
    "method_table",
    "printed_lines",
    "psf_table",
    "published_table",
    "realistic_table",
    "snr_table",
]

_COLUMNS = {
    "f1": ("F1", 1, 3),
    "accuracy": ("accuracy", 1, 3),
    "within_one": ("within one", 1, 3),
    "top_two": ("top two", 1, 3),
}


def _chosen(metrics: pd.DataFrame, experiment: str, models: list[str]) -> pd.DataFrame:
    part = metrics[metrics["experiment"] == experiment].set_index("model")
    return part.loc[[m for m in models if m in part.index]].reset_index()


def _published_models(metrics: pd.DataFrame) -> list[str]:
    names = [m for m in metrics["model"].unique() if m.startswith(f"{SVM}, PSF WaveDiff S")]
    return [TRIVIAL, PCA, CNN, *sorted(names), model_name(SVM, TRUE)]


def published_table(metrics: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Reproduce every row of the published table, with what it prints."""
    part = _chosen(metrics, SAME, _published_models(metrics))
    table = format_scores(part, _COLUMNS)
    known = printed.dropna(subset="accuracy").set_index("model")
    for name, heading in (("f1", "F1"), ("accuracy", "accuracy"), ("within_one", "within one")):
        table[f"printed {heading}"] = [
            f"{known.loc[m, name]:.3f}" if m in known.index and np.isfinite(known.loc[m, name]) else ""
            for m in part["model"]
        ]
    table.insert(0, "fields", part["seeds"].astype(int).to_numpy())
    return table


def method_table(metrics: pd.DataFrame, psf: str = TRUE) -> pd.DataFrame:
    """Compare every method with one PSF, with calibration."""
    methods = [TRIVIAL, PCA, CNN, *(model_name(m, psf) for m in (SVM, LIKELIHOOD, OURS))]
    methods += [model_name(m, psf) for m in (LIKELIHOOD_UNIT, OURS_UNIT)]
    part = _chosen(metrics, SAME, methods)
    return format_scores(part, _COLUMNS | {"nll": ("NLL", 1, 3), "rps": ("RPS", 1, 3), "ece": ("ECE", 1, 3)})


def psf_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the methods that read a PSF, one column each, against the PSF."""
    part = metrics[metrics["experiment"] == SAME]
    rows: dict[str, dict[str, str]] = {}
    for method in (SVM, LIKELIHOOD, OURS, LEARNED["free"], LIKELIHOOD_UNIT, OURS_UNIT, LEARNED["unit"]):
        for _, row in part.iterrows():
            name, _, psf = row["model"].partition(", PSF ")
            if name == method:
                sd = "" if pd.isna(row["accuracy_sd"]) else f" ± {row['accuracy_sd']:.3f}"
                interval = f" [{row['accuracy_lo']:.3f}, {row['accuracy_hi']:.3f}]"
                rows.setdefault(psf, {"fields": str(int(row["seeds"]))})[method] = (
                    f"{row['accuracy']:.3f}{sd}{interval}"
                )
    table = pd.DataFrame(rows).T
    order = sorted(table.index, key=lambda psf: (psf == TRUE, psf.rsplit(" ", 1)[0], psf[-2:]))
    return table.loc[order]


def exposure_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy in the field of the training stars and in another exposure."""
    models = [PCA, CNN, *sorted(m for m in metrics["model"].unique() if m.startswith(SVM))]
    both = {
        name: format_scores(
            _chosen(metrics, name, models), {k: _COLUMNS[k] for k in ("accuracy", "within_one")}
        )
        for name in (SAME, OTHER)
    }
    table = pd.concat(both, axis=1)
    return table.dropna()


def realistic_table(metrics: pd.DataFrame, answers: pd.DataFrame) -> pd.DataFrame:
    """Compare methods on realistic stars, each with ours on the same stars."""
    part = metrics[metrics["experiment"] == REALISTIC].sort_values("accuracy")
    table = format_scores(part, _COLUMNS | {"nll": ("NLL", 1, 3), "ece": ("ECE", 1, 3)})
    stars = answers[answers["test"] == REALISTIC]
    ours, gains = stars[stars["method"] == OURS], []
    for model in part["model"]:
        gain = paired_gain(ours, stars[stars["method"] == model.removesuffix(f", PSF {TRUE}")])
        gains.append(f"{100 * gain['value']:+.1f} [{100 * gain['lo']:.1f}, {100 * gain['hi']:.1f}]")
    table["ours less this [points]"] = gains
    return table


def field_table(answers: pd.DataFrame, names: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Accuracy by field (rows) of methods with PSFs, given as name to (method, psf)."""
    same = answers[answers["test"] == SAME]
    columns = {}
    for name, (method, psf) in names.items():
        part = same[(same["method"] == method) & (same["psf"] == psf)]
        columns[name] = (part["predicted"] == part["label"]).groupby(part["field"]).mean()
    return pd.DataFrame(columns)


def class_table(answers: pd.DataFrame, method: str, psf: str) -> pd.Series:
    """Accuracy of each class, over all fields."""
    part = answers[(answers["test"] == SAME) & (answers["method"] == method) & (answers["psf"] == psf)]
    right = (part["predicted"] == part["label"]).groupby(part["label"]).mean()
    return right.reindex(range(len(CLASSES))).set_axis(CLASSES)


def snr_table(answers: pd.DataFrame, method: str, psf: str, edges: tuple[float, ...]) -> pd.DataFrame:
    """Accuracy and its Wilson interval in bins of SNR, over all fields."""
    part = answers[(answers["test"] == SAME) & (answers["method"] == method) & (answers["psf"] == psf)]
    rows = []
    for low, high in itertools.pairwise(edges):
        right = per_star(part[(part["snr"] >= low) & (part["snr"] < high)])["accuracy"]
        lo, hi = wilson_interval(int(right.sum()), len(right))
        rows.append({"snr": (low + high) / 2, "n": len(right), "accuracy": right.mean(), "lo": lo, "hi": hi})
    return pd.DataFrame(rows)


def error_lines(metrics: pd.DataFrame, psfs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of each method with each fitted PSF, beside the error of that PSF.

    Returns
    -------
    pandas.DataFrame
        ``name`` ("method, PSF model"), ``relative_error`` in per cent and ``accuracy``.
    """
    errors = psfs[psfs["experiment"] == EXPERIMENT].set_index("model")["relative_error"]
    rows = []
    for _, row in metrics[metrics["experiment"] == SAME].iterrows():
        method, _, psf = row["model"].partition(", PSF ")
        model, _, stars = psf.rpartition(" ")
        found = [name for name in errors.index if name.replace(" as published", "") == f"{model}, {stars}"]
        if found and method in (SVM, OURS, OURS_UNIT, *LEARNED.values()):
            line = f"{method}, PSF {model}"
            rows.append({"name": line, "relative_error": errors[found[0]], "accuracy": row["accuracy"]})
    return pd.DataFrame(rows, columns=["name", "relative_error", "accuracy"]).sort_values("name")


def printed_lines(printed: pd.DataFrame) -> pd.DataFrame:
    """Return the printed accuracy of SVM against the printed error of WaveDiff."""
    by_model = printed.set_index("model")
    names = [f"WaveDiff S{i}" for i in range(1, 7)]
    return pd.DataFrame(
        {
            "relative_error": [by_model.loc[name, "relative_error"] for name in names],
            "accuracy": [by_model.loc[f"{SVM}, PSF {name}", "accuracy"] for name in names],
        }
    )


def calibration_table(metrics: pd.DataFrame, psf: str) -> pd.DataFrame:
    """Compare how far the probabilities of all methods can be believed, with one fitted PSF."""
    names = (LIKELIHOOD, OURS, LEARNED["free"], LIKELIHOOD_UNIT, OURS_UNIT, LEARNED["unit"])
    part = _chosen(metrics, SAME, [TRIVIAL, *(model_name(m, psf) for m in (SVM, *names))])
    columns = {name: _COLUMNS[name] for name in ("accuracy", "within_one")} | {"nll": ("NLL", 1, 3)}
    scores = {"rps": ("RPS", 1, 3), "ece": ("ECE", 1, 3), "ece_by_chance": ("ECE by chance", 1, 3)}
    return format_scores(part, columns | scores)


def fewest_stars(answers: pd.DataFrame) -> str:
    """Name of the PSF of ours that was fitted to the fewest stars."""
    return min(answers.loc[answers["method"] == OURS, "psf"].unique(), key=lambda psf: (psf == TRUE, psf))
