"""Figures of the audit of the published k-corrections; real galaxies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS
from astro_utils.kcorrections.audit_fits import RIGHT
from astro_utils.kcorrections.audit_setup import MAX_Z, PRINTED

__all__ = ["baseline_figure", "handicap_figure", "split_figure", "switch_figure"]


def _points(ax: Axes, part: pd.DataFrame, metric: str, at: np.ndarray, index: int, label: str) -> None:
    errors = np.abs(part[[f"{metric}_lo", f"{metric}_hi"]].T.to_numpy() - part[metric].to_numpy())
    colour, marker = COLOURS[index], MARKERS[index]
    ax.errorbar(part[metric], at, xerr=errors, fmt=marker, color=colour, capsize=3, label=label)


def _rows(metrics: pd.DataFrame, experiment: str) -> pd.DataFrame:
    return metrics[metrics["experiment"] == experiment].set_index("model")


def switch_figure(curves: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """K against redshift with the nearest and with a fixed band, and where breaks enter the r band.

    Parameters
    ----------
    curves : pandas.DataFrame
        Of :func:`astro_utils.kcorrections.audit_switch.k_curves`.
    metrics : pandas.DataFrame
        With the experiments ``switches`` and ``breaks``.
    """
    figure, ax = plt.subplots(figsize=(7.4, 4.0))
    at = _rows(metrics, "switches").loc["DECam r, r to z", "switch_redshift"]
    for i, (rule, style) in enumerate((("fixed band", "--"), ("nearest band", "-"))):
        part = curves[curves["rule"] == rule]
        for side in (part[part["z"] < at], part[part["z"] >= at]):
            ax.fill_between(side["z"], side["low"], side["high"], color=COLOURS[i], alpha=0.15, lw=0)
            label = rule if side["z"].iloc[0] < at else None
            ax.plot(side["z"], side["median"], style, color=COLOURS[i], label=label)
    ax.axvline(at, color="0.3", lw=1, ls=":", label=f"switch from r to z, {at:.4f}")
    for i, (name, row) in enumerate(_rows(metrics, "breaks").iterrows()):
        if name.endswith("DECam r"):
            text = f"{name.removesuffix(', DECam r')} enters r"
            ax.axvline(row["enters"], color=COLOURS[i], lw=1.2, ls="-.", label=text)
    ax.axvspan(0, MAX_Z, color="0.93", lw=0, zorder=0, label="redshifts of these galaxies")
    ax.set(xlabel="redshift", ylabel="K to r at band shift 0.1 [mag]", xlim=(0, 0.6))
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure


def baseline_figure(metrics: pd.DataFrame) -> Figure:
    """R2 of baselines, and the error of all pairs beside the MAE and the RMSE."""
    part, pairs = _rows(metrics, "baselines"), _rows(metrics, "broadcast").iloc[0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), width_ratios=(3, 2))
    _points(left, part, "r2", np.arange(len(part)), 0, "real galaxies, other sky")
    left.axvline(PRINTED["r2"], color="0.2", ls="--", lw=1, label="published, image embeddings")
    left.set_yticks(np.arange(len(part)), part.index)
    left.set(xlabel="R²", ylim=(len(part) - 0.5, -0.5))
    names = {"mae": "MAE", "rmse": "RMSE", "broadcast_mae": "all pairs"}
    values = [pairs[name] for name in names]
    errors = np.abs([[pairs[f"{n}_lo"], pairs[f"{n}_hi"]] for n in names] - np.array(values)[:, None]).T
    right.barh(list(names.values()), values, xerr=errors, color=COLOURS[0], capsize=3, label="kNN, k = 64")
    right.axvspan(*PRINTED["few_shot_mae"], color=COLOURS[1], alpha=0.3, label="published “MAE” of networks")
    right.axvline(PRINTED["rmse"], color="0.2", ls="--", lw=1, label="published RMSE")
    right.invert_yaxis()
    right.set(xlabel="error of K [mag]")
    for ax in (left, right):
        ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def handicap_figure(metrics: pd.DataFrame) -> Figure:
    """MAE and RMSE of kcorrect with each published choice, in units of those with the right options."""
    part = _rows(metrics, "handicaps").drop(RIGHT)
    figure, ax = plt.subplots(figsize=(7.2, 2.8))
    at = np.arange(len(part))
    for i, (name, label) in enumerate((("mae", "MAE"), ("rmse", "RMSE"))):
        ratio = part[f"{name}_ratio"]
        errors = np.abs(part[[f"{name}_ratio_lo", f"{name}_ratio_hi"]].T.to_numpy() - ratio.to_numpy())
        place = at + 0.2 * (2 * i - 1)
        ax.barh(
            place, ratio, 0.38, xerr=errors, color=COLOURS[i], hatch=("", "//")[i], capsize=3, label=label
        )
    ax.axvline(1, color="0.2", lw=1, ls="--", label="right options")
    ax.set_yticks(at, part.index)
    ax.invert_yaxis()
    ax.set(xlabel="error in units of that with the right options")
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3)
    return figure


def split_figure(metrics: pd.DataFrame) -> Figure:
    """R2 of random splits and of splits by sky pixel or by object."""
    part = _rows(metrics, "splits")
    figure, ax = plt.subplots(figsize=(7.2, 2.8))
    cases = [(k, name) for k in (1, 30) for name in ("", ", duplicates")]
    for i, kind in enumerate(("random split", "split by")):
        models = [
            next(
                m for m in part.index if m.startswith(f"kNN k = {k}, {kind}") and (", dup" in m) == bool(name)
            )
            for k, name in cases
        ]
        label = ("random split", "split by sky pixel, or by object")[i]
        _points(ax, part.loc[models], "r2", np.arange(len(cases)) + 0.2 * (i - 0.5), i, label)
    ax.set_yticks(np.arange(len(cases)), [f"k = {k}{name}" for k, name in cases])
    ax.set(xlabel="R²", ylim=(len(cases) - 0.5, -0.5))
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    return figure
