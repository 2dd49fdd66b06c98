"""Figures of the study ``margformer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.cutouts import rgb
from astro_utils.figures import COLOURS, MARKERS
from astro_utils.separation.protocol import Partition
from astro_utils.separation.sets import TASKS, Pool

__all__ = [
    "accuracy_against_r",
    "attention_maps",
    "confusions",
    "gallery",
    "magnitudes_of_sets",
    "reliability",
]

_CLASSES = TASKS["SGQ"]


def magnitudes_of_sets(pool: Pool, parts: Partition) -> Figure:
    """Histograms of model r by class: compact set, faint set, test of Experiment 3."""
    sets = {
        "compact": pool.compact,
        "faint and compact": pool.faint,
        "test of Experiment 3": parts.tests["3"],
    }
    r, names = pool.table["model_r"].to_numpy(), pool.table["class"].to_numpy()
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), sharex=True)
    for ax, (title, rows) in zip(axes, sets.items(), strict=True):
        for i, name in enumerate(_CLASSES):
            counts, edges = np.histogram(r[rows][names[rows] == name], np.arange(15.0, 23.6, 0.25))
            ax.stairs(counts, edges, color=COLOURS[i], ls=("-", "--", ":")[i], lw=1.6, label=name)
        ax.set(title=title, xlabel="model $r$ [mag]")
    axes[0].set_ylabel("objects in 0.25 mag")
    axes[0].legend(fontsize=8)
    return figure


def gallery(pool: Pool, rows: np.ndarray, columns: int = 8) -> Figure:
    """Objects of each class from bright (left) to faint (right) as colour images."""
    r, names = pool.table["model_r"].to_numpy(), pool.table["class"].to_numpy()
    figure, axes = plt.subplots(len(_CLASSES), columns, figsize=(1.25 * columns, 1.4 * len(_CLASSES)))
    for line, name in zip(axes, _CLASSES, strict=True):
        mine = rows[names[rows] == name]
        mine = mine[np.argsort(r[mine])]
        for ax, index in zip(line, np.linspace(0, len(mine) - 1, columns).round().astype(int), strict=True):
            row = mine[index]
            ax.imshow(rgb(pool.images[row], bands="ugriz"), origin="lower", interpolation="nearest")
            ax.set_title(f"$r$ = {r[row]:.1f}", fontsize=7)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=8)
    return figure


def confusions(counts: Mapping[str, np.ndarray], classes: Sequence[str]) -> Figure:
    """Confusion matrices side by side: rows true, normalised by true class, counts in the cells."""
    figure, axes = plt.subplots(1, len(counts), figsize=(3.1 * len(counts), 3.2))
    for ax, (title, matrix) in zip(np.atleast_1d(axes), counts.items(), strict=True):
        share = matrix / matrix.sum(1, keepdims=True)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (t, p), value in np.ndenumerate(share):
            text = f"{value:.1%}\n{matrix[t, p]:,d}"
            ax.text(
                p, t, text, ha="center", va="center", fontsize=8, color="white" if value > 0.6 else "black"
            )
        ax.set_xticks(range(len(classes)), classes, fontsize=8)
        ax.set_yticks(range(len(classes)), classes, fontsize=8, rotation=90, va="center")
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("called")
        ax.grid(visible=False)
    np.atleast_1d(axes)[0].set_ylabel("true")
    return figure


def accuracy_against_r(tables: Mapping[str, pd.DataFrame], methods: Sequence[str]) -> Figure:
    """Accuracy in bins of r with Wilson intervals, a panel for each table."""
    figure, axes = plt.subplots(1, len(tables), figsize=(3.6 * len(tables), 3.5), sharey=True)
    for ax, (title, table) in zip(np.atleast_1d(axes), tables.items(), strict=True):
        for i, method in enumerate(methods):
            part = table[(table["method"] == method) & (table["n"] >= 20)]
            if part.empty:
                continue
            middle = 0.5 * (part["lo"] + part["hi"]) + 0.04 * (i - len(methods) / 2)
            errors = np.abs(part[["accuracy_lo", "accuracy_hi"]].T.to_numpy() - part["accuracy"].to_numpy())
            ax.errorbar(
                middle,
                part["accuracy"],
                errors,
                marker=MARKERS[i],
                color=COLOURS[i],
                ms=4,
                lw=1,
                capsize=2,
                label=method,
            )
        ax.set(title=title, xlabel="model $r$ [mag]")
    np.atleast_1d(axes)[0].set_ylabel("accuracy")
    np.atleast_1d(axes)[0].legend(fontsize=7)
    return figure


def reliability(answers: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, bins: int = 12) -> Figure:
    """Accuracy against confidence, and how often each confidence occurs.

    Parameters
    ----------
    answers : mapping
        Method to labels (N,) and probabilities (N, K).
    title : str
    bins : int
    """
    figure, (top, low) = plt.subplots(
        2, 1, figsize=(4.6, 5.0), sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    edges = np.linspace(1 / 3, 1, bins + 1)
    for i, (method, (labels, p)) in enumerate(answers.items()):
        confidence, right = p.max(1), p.argmax(1) == labels
        index = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
        n = np.bincount(index, minlength=bins)
        kept = n >= 10
        mean, share = (np.bincount(index, v, bins)[kept] / n[kept] for v in (confidence, right))
        error = np.sqrt(share * (1 - share) / n[kept])
        top.errorbar(
            mean, share, error, marker=MARKERS[i], color=COLOURS[i], ms=4, lw=1, capsize=2, label=method
        )
        low.stairs(n / n.sum(), edges, color=COLOURS[i], lw=1.4)
    top.plot([1 / 3, 1], [1 / 3, 1], color="0.4", lw=0.8, ls="--")
    top.set(ylabel="accuracy", title=title)
    top.legend(fontsize=7)
    low.set(xlabel="probability of the called class", ylabel="share")
    return figure


def attention_maps(
    images: np.ndarray, maps: np.ndarray, titles: Sequence[str], tokens: Sequence[int]
) -> Figure:
    """Colour images above the attention that some tokens of photometry pay to their patches.

    Parameters
    ----------
    images : numpy.ndarray
        (N, 5, ny, nx) nanomaggies.
    maps : numpy.ndarray
        (N, tokens, 8, 8).
    titles : sequence of str
    tokens : sequence of int
        Which to show, one line each.
    """
    figure, axes = plt.subplots(
        1 + len(tokens), len(images), figsize=(1.5 * len(images), 1.6 * (1 + len(tokens)))
    )
    for column, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes[0, column].imshow(rgb(image, bands="ugriz"), origin="lower", interpolation="nearest")
        axes[0, column].set_title(title, fontsize=8)
        for line, token in enumerate(tokens, start=1):
            axes[line, column].imshow(maps[column, token], origin="lower", cmap="magma", vmin=0)
            if column == 0:
                axes[line, 0].set_ylabel(f"token {token + 1}", fontsize=8)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure
