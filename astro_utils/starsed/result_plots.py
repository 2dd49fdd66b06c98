"""Figures of the results of the stellar study."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS
from astro_utils.starsed.classify import SAME
from astro_utils.starsed.scores import probabilities
from astro_utils.starsed.templates import CLASSES

__all__ = ["accuracy_against_error", "by_class", "by_field", "by_snr", "confusions", "reliability"]


def confusions(answers: pd.DataFrame, names: Mapping[str, tuple[str, str]]) -> Figure:
    """Confusion matrices side by side: rows true, shares of the true class in per cent."""
    figure, axes = plt.subplots(1, len(names), figsize=(4.9 * len(names), 5.0))
    same = answers[answers["test"] == SAME]
    for ax, (title, (method, psf)) in zip(np.atleast_1d(axes), names.items(), strict=True):
        part = same[(same["method"] == method) & (same["psf"] == psf)]
        counts = np.zeros((len(CLASSES), len(CLASSES) + 1))
        np.add.at(counts, (part["label"].to_numpy().astype(int), part["predicted"].to_numpy().astype(int)), 1)
        share = 100 * counts / counts.sum(1, keepdims=True)
        shown = share[:, : len(CLASSES)]  # anomalies are no class
        ax.imshow(shown, cmap="Blues", vmin=0, vmax=100)
        for (t, p), value in np.ndenumerate(shown):
            if value >= 1:
                ax.text(
                    p,
                    t,
                    f"{value:.0f}",
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="w" if value > 60 else "k",
                )
        ax.set_xticks(range(len(CLASSES)), CLASSES, fontsize=7)
        ax.set_yticks(range(len(CLASSES)), CLASSES, fontsize=7)
        ax.set(title=title, xlabel="called")
        ax.grid(visible=False)
    np.atleast_1d(axes)[0].set_ylabel("true")
    return figure


def by_class(tables: Mapping[str, pd.Series]) -> Figure:
    """Accuracy of each class, a line for each method."""
    figure, ax = plt.subplots(figsize=(7.2, 3.6))
    for i, (name, values) in enumerate(tables.items()):
        ax.plot(CLASSES, values, color=COLOURS[i], marker=MARKERS[i], ms=5, lw=1.2, label=name)
    ax.set(ylabel="accuracy of the class", ylim=(0, 1.02))
    ax.legend(fontsize=7)
    return figure


def by_snr(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against SNR, a line for each method."""
    figure, ax = plt.subplots(figsize=(5.8, 3.8))
    for i, (name, table) in enumerate(tables.items()):
        errors = np.abs(table[["lo", "hi"]].T.to_numpy() - table["accuracy"].to_numpy())
        ax.errorbar(
            table["snr"] + 0.8 * (i - len(tables) / 2),
            table["accuracy"],
            errors,
            color=COLOURS[i],
            marker=MARKERS[i],
            ms=5,
            lw=1.2,
            capsize=2,
            label=name,
        )
    ax.set(xlabel="SNR (ratio of powers)", ylabel="accuracy")
    ax.legend(fontsize=7)
    return figure


def by_field(table: pd.DataFrame, n_test: int) -> Figure:
    """Accuracy of each method in each field, and the standard error of one field's test stars."""
    figure, ax = plt.subplots(figsize=(7.0, 3.6))
    for i, values in enumerate(table[column] for column in table):
        ax.plot(
            np.full(len(values), i) + np.linspace(-0.15, 0.15, len(values)),
            values,
            ls="",
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
        )
        mean = values.mean()
        ax.errorbar(i + 0.3, mean, np.sqrt(mean * (1 - mean) / n_test), color="0.3", marker="_", capsize=3)
    ax.set_xticks(range(table.shape[1]), [c.replace(", ", "\n") for c in table], fontsize=7)
    ax.set(ylabel="accuracy")
    return figure


def reliability(answers: pd.DataFrame, names: Mapping[str, tuple[str, str]], bins: int = 10) -> Figure:
    """Accuracy against the probability of the most probable class."""
    figure, ax = plt.subplots(figsize=(4.8, 4.4))
    same, edges = answers[answers["test"] == SAME], np.linspace(0, 1, bins + 1)
    for i, (name, (method, psf)) in enumerate(names.items()):
        part = same[(same["method"] == method) & (same["psf"] == psf)]
        p, labels = probabilities(part), part["label"].to_numpy()
        confidence, right = p.max(1), p.argmax(1) == labels
        index = np.minimum((confidence * bins).astype(int), bins - 1)
        n = np.bincount(index, minlength=bins)
        kept = n >= 10
        mean, share = (np.bincount(index, v, bins)[kept] / n[kept] for v in (confidence, right))
        error = np.sqrt(share * (1 - share) / n[kept])
        ax.errorbar(
            mean, share, error, marker=MARKERS[i], color=COLOURS[i], ms=4, lw=1, capsize=2, label=name
        )
    ax.plot(edges[[0, -1]], edges[[0, -1]], color="0.4", lw=0.8, ls="--")
    ax.set(xlabel="probability of the most probable class", ylabel="share that is right")
    ax.legend(fontsize=7)
    return figure


def accuracy_against_error(
    table: pd.DataFrame, ceilings: Mapping[str, float], printed: pd.DataFrame | None = None
) -> Figure:
    """Accuracy against the error of the PSF.

    Parameters
    ----------
    table : pandas.DataFrame
        ``name`` of a line, ``relative_error`` in per cent, ``accuracy``.
    ceilings : mapping
        Name to the accuracy with the true PSF.
    printed : pandas.DataFrame, optional
        ``relative_error`` and ``accuracy`` of the original.
    """
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    for i, (name, part) in enumerate(table.groupby("name", sort=False)):
        part = part.sort_values("relative_error")
        ax.plot(
            part["relative_error"],
            part["accuracy"],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            ms=5,
            lw=1,
            label=name,
        )
    for i, (name, value) in enumerate(ceilings.items()):
        ax.axhline(value, color="0.3", lw=1, ls=("--", ":")[i % 2], label=name)
    if printed is not None:
        ax.plot(printed["relative_error"], printed["accuracy"], "x:", color="0.5", label="SVM, printed")
    ax.set(xscale="log", xlabel="relative error of the PSF [%]", ylabel="accuracy")
    ax.legend(fontsize=7)
    return figure
