"""Figures of the audit of the published stellar study; simulated stars throughout."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS
from astro_utils.models.star_features import N_CLASSES
from astro_utils.starsed import audit
from astro_utils.starsed.audit import JUDGED, LIKELIHOOD, LIKELIHOOD_FREE, OTHER_FIELD, SVM
from astro_utils.starsed.audit_rows import SETS, SNR_EDGES, printed, printed_svm

__all__ = [
    "field_figure",
    "flux_figure",
    "label_figure",
    "pupil_figure",
    "snr_figure",
    "top_two_figure",
]


def _points(ax: Axes, part: pd.DataFrame, metric: str, at: np.ndarray, index: int, label: str) -> None:
    errors = 100 * np.abs(part[[f"{metric}_lo", f"{metric}_hi"]].T.to_numpy() - part[metric].to_numpy())
    colour, marker = COLOURS[index], MARKERS[index]
    ax.errorbar(100 * part[metric], at, xerr=errors, fmt=marker, color=colour, capsize=3, label=label)


def _models(metrics: pd.DataFrame, experiment: str, models: Sequence[str]) -> pd.DataFrame:
    return metrics[metrics["experiment"] == experiment].set_index("model").loc[list(models)]


def top_two_figure(metrics: pd.DataFrame) -> Figure:
    """Accuracy, true top two and share within one class, and the published pair of numbers."""
    models = (SVM, LIKELIHOOD, LIKELIHOOD_FREE)
    part, at = _models(metrics, "top two", models), np.arange(len(models))
    figure, ax = plt.subplots(figsize=(7.2, 2.9))
    for i, (name, label) in enumerate(
        zip(JUDGED, ("accuracy", "within one class", "true top two"), strict=True)
    ):
        _points(ax, part, name, at, i, label)
    for name, style in (("accuracy", "-"), ("within_one", "--")):
        text = "published accuracy" if name == "accuracy" else "published “top-two accuracy”"
        ax.axvline(100 * printed_svm(name), color="0.2", ls=style, lw=1, label=text)
    ax.set_yticks(at, models)
    ax.set(xlabel="test stars [%]", xlim=(0, 100), ylim=(len(models) - 0.5, -0.5))
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.3, 1.0), ncols=3)
    return figure


def flux_figure(metrics: pd.DataFrame) -> Figure:
    """Accuracy by where the flux comes from."""
    models = (SVM, audit.SVM_MATCHED, audit.SVM_SUM, LIKELIHOOD, LIKELIHOOD_FREE)
    part, at = _models(metrics, "flux", models), np.arange(len(models))
    figure, ax = plt.subplots(figsize=(7.2, 2.6))
    _points(ax, part, "accuracy", at, 0, "accuracy")
    _points(ax, part, "within_one", at, 1, "within one class")
    ax.axvline(100 / N_CLASSES, color="0.4", ls=":", lw=1.2, label="accuracy by chance")
    ax.set_yticks(at, models)
    ax.set(xlabel="test stars [%]", xlim=(0, 100), ylim=(len(models) - 0.5, -0.5))
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return figure


def pupil_figure(metrics: pd.DataFrame) -> Figure:
    """Pixel error of models that know the wavefront, beside those of the published fits."""
    part = _models(metrics, "pupil", audit.PUPIL_CASES)
    figure, ax = plt.subplots(figsize=(7.2, 3.2))
    at, mean = np.arange(len(part)), part["relative"].to_numpy()
    reach = np.array([mean - part["lowest"], part["highest"] - mean])
    ax.errorbar(mean, at, xerr=reach, fmt="o", color=COLOURS[0], capsize=3, label="mean and range of stars")
    for name, style in (("S6", "-"), ("S1", "--")):
        error, text = printed().loc[f"WaveDiff {name}", "relative_error"], f"{SETS[name]:,d} stars"
        ax.axvline(error, color=COLOURS[1], ls=style, lw=1.2, label=f"published fit, {text}")
    ax.set_yticks(at, part.index)
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="relative pixel error [%]")
    ticks = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(-0.4, 1.0), ncols=3)
    return figure


def label_figure(metrics: pd.DataFrame) -> Figure:
    """Accuracy against labelled stars of the field, and of methods that need none of them."""
    labels = metrics[metrics["experiment"] == "labels"].set_index("model")
    few = labels[labels.index.str.endswith(" labels") | (labels.index == SVM)].sort_values("n_train")
    figure, ax = plt.subplots(figsize=(6.8, 4.2))
    errors = 100 * np.abs(few[["accuracy_lo", "accuracy_hi"]].T.to_numpy() - few["accuracy"].to_numpy())
    ax.errorbar(
        few["n_train"], 100 * few["accuracy"], errors, marker="o", capsize=3, label="SVM, labels of the field"
    )
    lines = ((LIKELIHOOD, "-"), (LIKELIHOOD_FREE, "--"), (OTHER_FIELD, "-."))
    names = (f"{LIKELIHOOD} (no labels)", f"{LIKELIHOOD_FREE} (no labels)", OTHER_FIELD)
    for i, (model, style) in enumerate(lines):
        one = labels.loc[model]
        ax.axhline(100 * one["accuracy"], color=COLOURS[i + 1], ls=style, label=names[i])
        band = 100 * one["accuracy_lo"], 100 * one["accuracy_hi"]
        ax.axhspan(*band, color=COLOURS[i + 1], alpha=0.12, lw=0)
    known = printed().loc[[f"SVM+PSF, PSF WaveDiff {name}" for name in SETS], "accuracy"]
    text = "published: PSF fitted to so many stars,\nSVM with 10,000 labels"
    ax.plot(list(SETS.values()), 100 * known, "x:", color="0.2", ms=6, label=text)
    ax.axhline(100 / N_CLASSES, color="0.4", ls=":", lw=1.2, label="by chance")
    ax.set(xscale="log", xlabel="stars of known spectrum", ylabel="accuracy [%]", ylim=(0, 62))
    sizes = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
    ax.set_xticks(sizes, [f"{n:,d}" for n in sizes], fontsize=8)
    ax.set_xlim(42, 12_000)
    ax.minorticks_off()
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def field_figure(metrics: pd.DataFrame) -> Figure:
    """Accuracy of each field, with the spread of its reshuffles, and the spreads beside one another."""
    rows = metrics[metrics["experiment"] == "reshuffles"].set_index("model")
    total, fields = rows.loc["SVM, all fields"], rows.drop("SVM, all fields")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    at, mean = np.arange(1, len(fields) + 1), 100 * fields["accuracy"].to_numpy()
    lowest, highest = (100 * fields[name].to_numpy() for name in ("lowest", "highest"))
    left.vlines(at, lowest, highest, color="0.7", lw=5, label="lowest to highest reshuffle")
    error = 100 * total["standard_error_mean"]
    left.errorbar(
        at, mean, error, fmt="o", color=COLOURS[0], capsize=3, label="mean of the field and its error"
    )
    left.axhline(100 * printed_svm("accuracy"), color="0.2", ls="--", lw=1, label="published")
    left.set_xticks(at)
    left.set(xlabel="field", ylabel="accuracy [%]", xlim=(0.5, len(at) + 0.5))
    left.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    names = {
        "reshuffles_spread": "reshuffles of one field",
        "standard_error": "one accuracy, binomial",
        "fields_spread": "means of fields",
        "standard_error_mean": "mean of a field, binomial",
    }
    right.barh(list(names.values()), [100 * total[name] for name in names], color=COLOURS[0], height=0.6)
    right.axvline(100 * printed_svm("accuracy_sd"), color="0.2", ls="--", lw=1, label="published ±")
    right.invert_yaxis()
    right.set(xlabel="standard deviation or error [points]")
    right.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def snr_figure(metrics: pd.DataFrame) -> Figure:
    """Accuracy against the signal-to-noise ratio of a matched filter."""
    figure, ax = plt.subplots(figsize=(6.2, 3.6))
    bins = [f"SNR {lo}-{hi}" for lo, hi in pairwise(SNR_EDGES)]
    for i, model in enumerate((SVM, LIKELIHOOD, LIKELIHOOD_FREE)):
        part = _models(metrics, "SNR", [f"{model}, {name}" for name in bins])
        errors = 100 * np.abs(part[["accuracy_lo", "accuracy_hi"]].T.to_numpy() - part["accuracy"].to_numpy())
        x = part["matched_sn"] + 4 * (i - 1)
        ax.errorbar(x, 100 * part["accuracy"], errors, marker=MARKERS[i], capsize=3, label=model)
    ax.set(xlabel="signal-to-noise ratio of a matched filter", ylabel="accuracy [%]")
    ax.legend(fontsize=8)
    return figure
