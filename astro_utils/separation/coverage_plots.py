"""Table and figure of the coverage of conformal sets."""

from __future__ import annotations

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.figures import coverage_against
from astro_utils.separation.coverage import BY_BOTH, BY_CLASS, LEVELS, METHODS
from astro_utils.separation.scores import experiment_name
from astro_utils.separation.sets import TASKS

__all__ = ["coverage_by_r", "coverage_table"]


def coverage_table(metrics: pd.DataFrame, task: str) -> pd.DataFrame:
    """Coverage at each level and mean size at 90 %, for every way to calibrate, in Experiments 1 and 3."""
    lines = {}
    for experiment in ("1", "3"):
        for way in METHODS:
            name = f"conformal, {experiment_name(experiment, task)}, {way}"
            for _, row in metrics[metrics["experiment"] == name].iterrows():
                cells = {f"{100 * v:.0f} %": f"{100 * row[f'coverage_{100 * v:.0f}']:.1f}" for v in LEVELS}
                size = {"mean size at 90 %": f"{row['mean_size_90']:.2f}"}
                empty = {"empty at 90 % [%]": f"{100 * row['empty_90']:.1f}"}
                lines[experiment, row["model"], way] = cells | size | empty
    return pd.DataFrame(lines).T.rename_axis(["Experiment", "probabilities of", "calibrated"])


def coverage_by_r(binned: pd.DataFrame, model: str, level: float = 0.9, smallest: int = 200) -> Figure:
    """Coverage against r in Experiment 3, both tasks, for two ways to calibrate."""
    figure, axes = plt.subplots(1, len(TASKS), figsize=(9.0, 3.6), sharey=True)
    for ax, task in zip(axes, TASKS, strict=True):
        part = binned[
            (binned["model"] == model)
            & (binned["experiment"].astype(str) == "3")
            & (binned["task"] == task)
            & (binned["level"] == level)
            & (binned["n"] > smallest)
        ]
        ax.axhspan(level - 0.02, level + 0.02, color="0.9")
        ax.axhline(level, color="0.4", lw=0.8)
        for i, way in enumerate((BY_CLASS, BY_BOTH)):
            one = part[part["way"] == way]
            bars = one.assign(
                coverage_lo=one["coverage"] - one["error"], coverage_hi=one["coverage"] + one["error"]
            )
            if len(bars):
                coverage_against(ax, bars, way, i)
        ax.set(title=task, xlabel="model $r$ [mag]")
    axes[0].set_ylabel(f"coverage of {100 * level:.0f} % sets")
    axes[0].legend(fontsize=8)
    return figure
