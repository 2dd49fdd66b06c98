"""Figures of the audit of ASTRA; simulated galaxies."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.astra.audit_inputs import QUANTITIES, SCALINGS, STRETCHES, stretched
from astro_utils.astra.audit_networks import correlations
from astro_utils.astra.audit_validation import RATIO
from astro_utils.figures import COLOURS, MARKERS

__all__ = ["colour_figure", "cost_figure", "stretch_figure", "token_figure", "validation_figure"]


def _errors(part: pd.DataFrame, metric: str) -> np.ndarray:
    return np.abs(part[[f"{metric}_lo", f"{metric}_hi"]].T.to_numpy(float) - part[metric].to_numpy(float))


def _above(ax: Axes, columns: int = 1) -> None:
    ax.legend(fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns)


def token_figure(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Correlations of the tokens of galaxies in one epoch with those in the next.

    Parameters
    ----------
    pairs : dict
        Title to tokens of both epochs, of :func:`astro_utils.astra.audit_networks.token_pairs`.
    """
    figure, panels = plt.subplots(
        1, len(pairs), figsize=(3.6 * len(pairs) + 0.8, 3.7), sharey=True, squeeze=False
    )
    for ax, (title, tokens) in zip(panels[0], pairs.items(), strict=True):
        n = len(tokens[0])
        # Edges between whole numbers, so that ticks are galaxies.
        shown = ax.imshow(
            correlations(*tokens), vmin=-1, vmax=1, cmap="RdBu_r", extent=(0.5, n + 0.5, n + 0.5, 0.5)
        )
        ax.set(title=title, xlabel="galaxy in the next epoch")
        ax.grid(visible=False)
    panels[0, 0].set_ylabel("galaxy in one epoch")
    figure.colorbar(shown, ax=panels[0].tolist(), label="correlation of tokens", shrink=0.85)
    return figure


def colour_figure(metrics: pd.DataFrame) -> Figure:
    """R2 of colour, redshift and brightness after each scaling."""
    names = list(SCALINGS)
    figure, panels = plt.subplots(1, len(QUANTITIES), figsize=(10, 2.9), sharey=True)
    at = np.arange(len(names))
    styles = {"each band alone": 1, "one scale per galaxy": 0, "arcsinh of flux over noise": 2}
    for ax, quantity in zip(panels, QUANTITIES, strict=True):
        part = metrics[metrics["experiment"] == f"from images: {quantity}"].set_index("model").loc[names]
        for ending, index in styles.items():
            chosen = np.array([name.endswith(ending) for name in names])
            ax.errorbar(
                part.loc[chosen, "r2"],
                at[chosen],
                xerr=_errors(part[chosen], "r2"),
                fmt=MARKERS[index],
                color=COLOURS[index],
                capsize=3,
            )
        ax.set(title=quantity, xlabel="R² on other fields")
    panels[0].set_yticks(at, names)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure


def stretch_figure(image: np.ndarray, noise: float) -> Figure:
    """Share of the range of a scaled image against flux, for one galaxy.

    Parameters
    ----------
    image : numpy.ndarray
        (y, x) nanomaggies, r.
    noise : float
        Of the sky in a pixel, nanomaggies.
    """
    peak = float(image.max()) / noise
    flux = np.concatenate([np.linspace(-3, 3, 121), np.geomspace(3.02, peak, 300)])
    figure, ax = plt.subplots(figsize=(6.6, 3.8))
    values = stretched(image[None], flux[None] * noise)
    for i, (name, style) in enumerate(zip(STRETCHES, (":", "-", "--", "-."), strict=True)):
        label = {"arcsin": "arcsin (v1)", "arcsinh": "arcsinh after filters (v2)"}.get(name, name)
        colour = "0.3" if name == "linear" else COLOURS[i - 1]
        ax.plot(flux, values[name][0], style, color=colour, lw=1.8, label=label)
    for low, high, name in ((-2, 2, "sky"), (2, 20, "outskirts"), (peak / 2, peak, "core")):
        ax.axvspan(low, high, color="0.5", alpha=0.28 if name == "outskirts" else 0.14, lw=0)
        middle = 0.5 * (low + high) if name == "sky" else np.sqrt(low * high)
        ax.text(middle, 1.03, name, ha="center", fontsize=9)
    ax.set_xscale("symlog", linthresh=2, linscale=0.7)
    ticks = [t for t in (-2, 0, 2, 5, 10, 20, 50, 100, 200, 500) if t <= peak]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.minorticks_off()
    ax.set(xlabel="flux of a pixel over the noise of the sky", ylabel="share of the range below it")
    ax.set(xlim=(-3, peak), ylim=(-0.02, 1.1))
    ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0.0, 0.97))
    return figure


def validation_figure(curves: pd.DataFrame, metrics: pd.DataFrame) -> Figure:
    """Losses by epoch on the training set and on other galaxies, with the epochs chosen by each.

    Parameters
    ----------
    curves : pandas.DataFrame
        Of :func:`astro_utils.astra.audit_validation.validation_rows`.
    metrics : pandas.DataFrame
        With the experiment ``validation``.
    """
    figure, ax = plt.subplots(figsize=(6.6, 3.6))
    best = metrics[metrics["experiment"] == "validation"].set_index("model")["best_epoch"]
    labels = {
        "training": "training loss, with dropout",
        "training set": "validation on the training set, as published",
        "other galaxies": "validation on other galaxies",
    }
    for i, (name, label) in enumerate(labels.items()):
        style = ("-", "--", "-.")[i]
        ax.plot(curves.index, curves[name], style, color=COLOURS[i], lw=1.6, label=label)
        if name in best:
            at = int(best[name])
            ax.plot(at, curves.loc[at, name], MARKERS[i], color=COLOURS[i], ms=8, label=f"chosen: epoch {at}")
    ax.plot(
        curves.index,
        RATIO * curves["training"],
        color="0.5",
        lw=1,
        ls=":",
        label="above it dropout is raised",
    )
    ax.set(yscale="log", xlabel="epoch", ylabel="mean square error")
    ax.xaxis.get_major_locator().set_params(integer=True)
    _above(ax, 2)
    return figure


def cost_figure(costs: pd.DataFrame) -> Figure:
    """Loss of continuum R2 by each finding, in networks trained with and without it."""
    figure, ax = plt.subplots(figsize=(8.6, 1.0 + 0.42 * len(costs)))
    at = np.arange(len(costs))
    for i, (score, label) in enumerate((("r2_continuum", "continuum"), ("r2", "all pixels"))):
        column = f"{score}_loss"
        ax.errorbar(
            costs[column],
            at + 0.18 * (2 * i - 1),
            xerr=np.nan_to_num(_errors(costs, column)),
            fmt=MARKERS[i],
            color=COLOURS[i],
            capsize=3,
            label=label,
        )
    ax.axvline(0, color="0.2", lw=1)
    names = [
        f"{row.finding}. {row.model.split(' but ')[-1]}  |  {row.whole.split(' but ')[-1]}"
        for row in costs.itertuples()
    ]
    ax.set_yticks(at, names, fontsize=9)
    ax.set(
        xlabel="R² lost by the first network against the second",
        ylim=(len(costs) - 0.5, -0.5),
    )
    _above(ax, 2)
    return figure
