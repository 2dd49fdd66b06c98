"""Figures of the results page, from kept predictions and metric rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS, running, scores_against_size
from astro_utils.kcorrections.simulated_methods import NONE, PHOTOMETRIC, SPECTROSCOPIC

__all__ = [
    "bias_figure",
    "confidence_figure",
    "error_figure",
    "error_histogram",
    "neighbour_figure",
    "r2_figure",
    "size_figure",
]

_TRACKS = (NONE, PHOTOMETRIC, SPECTROSCOPIC)


def _part(table: pd.DataFrame, sky: str, track: str, method: str) -> pd.DataFrame:
    rows = (table["sky"] == sky) & (table["track"] == track) & (table["method"] == method)
    return table[rows]


def r2_figure(table: pd.DataFrame, sky: str, methods: Sequence[tuple[str, str]]) -> Figure:
    """Predicted against true K as a density, one panel for each (track, method), with its R2."""
    fig, axes = plt.subplots(
        2, -(-len(methods) // 2), figsize=(10.5, 7.2), sharex=True, sharey=True, layout="constrained"
    )
    limits = (-0.42, 0.45)
    for ax, (track, method) in zip(axes.ravel(), methods, strict=False):
        part = _part(table, sky, track, method)
        true, predicted = part["true"].to_numpy(float), part["predicted"].to_numpy(float)
        ax.hexbin(true, predicted, gridsize=60, extent=(*limits, *limits), bins="log", mincnt=1, linewidths=0)
        ax.plot(limits, limits, color=COLOURS[1], lw=1)
        r2 = 1 - np.square(predicted - true).sum() / np.square(true - true.mean()).sum()
        ax.set(xlim=limits, ylim=limits)
        ax.set_title(f"{method}\n{track}: $R^2$ = {r2:.3f}", fontsize=9)
    fig.supxlabel("true $K$ [mag]", fontsize=10)
    fig.supylabel("predicted $K$ [mag]", fontsize=10)
    return fig


def error_histogram(table: pd.DataFrame, sky: str, methods: Sequence[str]) -> Figure:
    """Distribution of errors of some methods, one panel a track."""
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), sharey=False)
    for ax, track, limit in zip(axes, _TRACKS, (0.15, 0.15, 0.05), strict=True):
        edges = np.linspace(-limit, limit, 61)
        for i, method in enumerate(methods):
            part = _part(table, sky, track, method)
            if len(part):
                error = np.clip(part["predicted"] - part["true"], -limit, limit)
                ax.hist(error, edges, histtype="step", density=True, color=COLOURS[i], label=method, lw=1.2)
        ax.axvline(0, color="0.6", lw=0.7)
        ax.set(title=track, xlabel="error of $K$ [mag]", yticks=[])
    axes[1].legend(fontsize=7, loc="upper left")  # the first track has no kcorrect
    return fig


def error_figure(table: pd.DataFrame, sky: str, track: str, methods: Sequence[str]) -> Figure:
    """RMSE of some methods of a track against redshift, colour and magnitude, with bootstrap bands."""

    def rmse(error: np.ndarray) -> float:
        return float(np.sqrt(np.mean(error**2)))

    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.4), sharey=True)
    columns = (("z", "redshift"), ("g_r", "$g - r$ [mag]"), ("r", "$r$ [mag]"))
    for ax, (column, label) in zip(axes, columns, strict=True):
        for i, method in enumerate(methods):
            part = _part(table, sky, track, method)
            x = part[column].to_numpy(float)
            edges = np.unique(np.quantile(x, np.linspace(0.005, 0.995, 9)))
            running(ax, x, (part["predicted"] - part["true"]).to_numpy(float), edges, method, i, rmse)
        ax.set(xlabel=label, yscale="log")
    axes[0].set_ylabel("RMSE [mag]")
    axes[0].legend(fontsize=7)
    return fig


def bias_figure(table: pd.DataFrame, sky: str, methods: Sequence[str], edges: np.ndarray) -> Figure:
    """Mean error in bins of redshift with bootstrap bands, one panel a track."""
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.3), sharey=True)
    for ax, track in zip(axes, _TRACKS, strict=True):
        for i, method in enumerate(methods):
            part = _part(table, sky, track, method)
            if len(part):
                error = (part["predicted"] - part["true"]).to_numpy(float)
                running(ax, part["z"].to_numpy(float), error, edges, method, i, np.mean)
        ax.axhline(0, color="0.5", lw=0.8)
        ax.set(title=track, xlabel="redshift")
    axes[0].set_ylabel("mean error of $K$ [mag]")
    axes[1].legend(fontsize=7)
    return fig


def neighbour_figure(metrics: pd.DataFrame, sky: str, printed: dict[int, float]) -> Figure:
    """MAE and R2 against the number of neighbours, with the published MAE on real galaxies beside."""
    rows = metrics[metrics["experiment"] == f"{sky}, neighbours"].copy()
    rows["k"] = rows["model"].astype(int)
    rows = rows.sort_values("k")
    fig, axes = plt.subplots(1, 2, figsize=(9.0, 3.3))
    for ax, name, label in zip(axes, ("mae", "r2"), ("MAE [mag]", "$R^2$"), strict=True):
        errors = np.abs(rows[[f"{name}_lo", f"{name}_hi"]].T.to_numpy() - rows[name].to_numpy())
        ax.errorbar(rows["k"], rows[name], errors, marker=MARKERS[0], capsize=2, label="simulated, here")
        ax.set(xscale="log", xlabel="neighbours", ylabel=label)
    axes[0].plot(list(printed), list(printed.values()), "x:", color="0.5", label="real, printed (z ≤ 0.35)")
    axes[0].legend(fontsize=8)
    return fig


def confidence_figure(table: pd.DataFrame) -> Figure:
    """Size of the error against what a method says of it, in ten equal parts, one line a method."""
    fig, ax = plt.subplots(figsize=(5.8, 3.8))
    for i, (method, part) in enumerate(table.groupby("method", observed=True, sort=False)):
        tenth = pd.qcut(part["doubt"].rank(method="first"), 10, labels=False)
        means = part.groupby(tenth)[["doubt", "error"]].mean()
        share = np.arange(5, 100, 10)
        ax.plot(share, means["error"], marker=MARKERS[i], color=COLOURS[i], label=method)
        ax.axhline(part["error"].mean(), color=COLOURS[i], lw=0.8, ls=":")
    ax.set(
        xlabel="galaxies, from the most to the least confident [%]",
        ylabel="mean |error| [mag]",
        ylim=(0, None),
    )
    ax.legend(fontsize=8)
    return fig


def size_figure(metrics: pd.DataFrame, sky: str, models: Sequence[str]) -> Figure:
    """RMSE against the number of training galaxies."""
    rows = metrics[metrics["experiment"].isin((f"{sky}, sizes, {NONE}", f"{sky}, {NONE}"))]
    fig, ax = plt.subplots(figsize=(6.0, 3.8))
    scores_against_size(ax, rows[rows["model"].isin(models)], "rmse", models)
    ax.set(ylabel="RMSE without redshift [mag]")
    return fig
