"""Figures that more than one page draws, in one style, and the line under each that says what made it.

Colours are those of Okabe & Ito (2008), which people with any common colour vision tell apart; series differ
in marker or line style too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.paths import project_root
from astro_utils.results import Run, atomic

__all__ = [
    "COLOURS",
    "confusion",
    "coverage_against",
    "density_plot",
    "pit_histogram",
    "publish",
    "running",
    "scores_against_size",
    "table",
    "use_style",
]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SCREEN_DPI = 100
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def use_style() -> None:
    """Set the style of every figure of the book; call it once at the top of a notebook."""
    mpl.rcParams.update(
        {
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "font.size": 10.5,
            "legend.frameon": False,
            "savefig.dpi": 160,
            "image.cmap": "cividis",
        }
    )


def _made_by(run: Run) -> str:
    profile = run.parameters.get("profile_name", "smoke")
    return f"Made by `notebooks/{run.notebook}.ipynb` in `make book PROFILE={profile}`"


def _link(run: Run, name: str, text: str) -> str:
    """Markdown link to a result file from the folder of the executed notebook, ``book/<study>``."""
    page = project_root() / "book" / os.path.dirname(run.notebook)
    return f"[{text}]({os.path.relpath(run.path(name), page)})"


def publish(run: Run, figure: Figure, name: str, caption: str) -> None:
    """Save `figure` as PNG and PDF, show it, and print its caption with downloads and what made it.

    The alternative text for readers who do not see the figure stands in the metadata of the notebook's cell
    (``mystnb: {image: {alt: ...}}``), where the book takes it from.
    """
    from IPython.display import Image, Markdown, display

    for suffix in ("png", "pdf"):
        # A PDF records when it was made unless told not to; equal figures should be equal files.
        metadata = {"CreationDate": None} if suffix == "pdf" else {"Software": None}
        with atomic(run.path(f"figures/{name}.{suffix}")) as temporary:
            figure.savefig(temporary, metadata=metadata)
    width = round(figure.get_figwidth() * SCREEN_DPI)  # the file has more pixels, for sharp screens and print
    plt.close(figure)
    display(Image(filename=run.path(f"figures/{name}.png"), width=width))
    links = " · ".join(_link(run, f"figures/{name}.{s}", s.upper()) for s in ("png", "pdf"))
    display(Markdown(f"**Figure.** {caption} *{_made_by(run)}* · {links}"))


def _lay_out(cell: object) -> object:
    """Put the interval of a score below its value, neither of them broken, to keep tables narrow."""
    if not isinstance(cell, str) or " [" not in cell:
        return cell
    return cell.replace(" [", "<br>[").replace(" ", "\u00a0")


def table(run: Run, frame: pd.DataFrame, name: str, caption: str) -> None:
    """Save `frame` as CSV, show it, and print its caption with the download and what made it."""
    from IPython.display import HTML, Markdown, display

    run.write_table(f"tables/{name}.csv", frame)
    shown = frame.map(_lay_out).rename_axis(index=[None] * frame.index.nlevels)
    html = shown.to_html(border=0, classes="table", na_rep="–", escape=False)
    # Wide tables scroll inside the page instead of pushing it apart.
    display(HTML(f'<div style="overflow-x: auto">{html}</div>'))
    display(Markdown(f"**Table.** {caption} *{_made_by(run)}* · {_link(run, f'tables/{name}.csv', 'CSV')}"))


def density_plot(truth: np.ndarray, estimate: np.ndarray, limits: tuple[float, float], title: str) -> Figure:
    """Estimated against true redshift as a density on a logarithmic scale, with the residual below."""
    figure, (upper, lower) = plt.subplots(
        2, 1, figsize=(5.6, 6.4), height_ratios=(3, 1), sharex=True, layout="constrained"
    )
    image = upper.hexbin(
        truth, estimate, gridsize=90, extent=(*limits, *limits), bins="log", mincnt=1, linewidths=0
    )
    upper.plot(limits, limits, color=COLOURS[1], lw=1)
    for sign in (-1, 1):
        z = np.array(limits)
        upper.plot(z, z + sign * 0.05 * (1 + z), color=COLOURS[1], lw=0.8, ls="--")
    upper.set(xlim=limits, ylim=limits, ylabel="photometric redshift", title=title)
    figure.colorbar(image, ax=upper, label="galaxies in a cell", shrink=0.8)
    dz = (estimate - truth) / (1 + truth)
    lower.plot(truth, dz, ".", ms=1.5, alpha=0.25, color=COLOURS[0], rasterized=True)
    lower.axhline(0, color=COLOURS[1], lw=1)
    lower.set(xlabel="spectroscopic redshift", ylabel="$\\Delta z/(1+z)$", ylim=(-0.1, 0.1))
    return figure


def running(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    edges: np.ndarray,
    label: str,
    index: int = 0,
    statistic=np.median,
    n_bootstrap: int = 200,
) -> None:
    """Draw a statistic of `y` in bins of `x` with 95 % bootstrap intervals; bins under 20 are not drawn."""
    rng = np.random.default_rng(0)
    which = np.digitize(x, edges) - 1
    points = []
    for b in range(len(edges) - 1):
        values = y[which == b]
        if len(values) >= 20:
            draws = [statistic(rng.choice(values, len(values))) for _ in range(n_bootstrap)]
            points.append(
                (0.5 * (edges[b] + edges[b + 1]), statistic(values), *np.percentile(draws, [2.5, 97.5]))
            )
    middle, value, lo, hi = np.array(points).T
    axes.plot(middle, value, marker=MARKERS[index], ms=4, color=COLOURS[index], label=label)
    axes.fill_between(middle, lo, hi, color=COLOURS[index], alpha=0.18, lw=0)


def pit_histogram(axes: Axes, values: Mapping[str, np.ndarray], bins: int = 20) -> None:
    """Draw histograms of PIT values with the 95 % band that a calibrated density would keep to."""
    n = len(next(iter(values.values())))
    expected = n / bins
    half = 1.96 * np.sqrt(expected * (1 - 1 / bins))
    axes.axhspan(
        (expected - half) / expected, (expected + half) / expected, color="0.85", label="calibrated, 95 %"
    )
    for i, (name, pit) in enumerate(values.items()):
        counts, edges = np.histogram(pit, bins=bins, range=(0, 1))
        axes.stairs(
            counts / (len(pit) / bins),
            edges,
            color=COLOURS[i],
            ls=("-", "--", ":", "-.")[i],
            lw=1.6,
            label=name,
        )
    axes.set(xlabel="PIT", ylabel="density", xlim=(0, 1), ylim=(0, None))
    axes.legend(fontsize=8)


def scores_against_size(axes: Axes, rows: pd.DataFrame, metric: str, models: Sequence[str]) -> None:
    """Draw a metric of `rows` (from ``metrics.json``) against the number of training galaxies."""
    for i, model in enumerate(models):
        part = rows[rows["model"] == model].sort_values("n_train")
        errors = np.abs(part[[f"{metric}_lo", f"{metric}_hi"]].T.to_numpy() - part[metric].to_numpy())
        axes.errorbar(part["n_train"], part[metric], errors, marker=MARKERS[i], ms=5, capsize=2, label=model)
    axes.set(xscale="log", xlabel="training galaxies")
    sizes = sorted(rows["n_train"].unique())
    axes.set_xticks(sizes, [f"{size:,.0f}" for size in sizes])
    axes.minorticks_off()
    axes.legend(fontsize=8)


def coverage_against(axes: Axes, rows: pd.DataFrame, label: str, index: int) -> None:
    """Draw coverage in bins, a table with the columns ``lo, hi, coverage, coverage_lo, coverage_hi``."""
    middle = 0.5 * (rows["lo"] + rows["hi"]) + 0.03 * (index - 0.5)
    errors = np.abs(rows[["coverage_lo", "coverage_hi"]].T.to_numpy() - rows["coverage"].to_numpy())
    axes.errorbar(
        middle, rows["coverage"], errors, marker=MARKERS[index], color=COLOURS[index], capsize=2, label=label
    )


def confusion(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Confusion matrix with rows true, normalised by true class, and the count in each cell."""
    share = counts / counts.sum(1, keepdims=True)
    size = 1.6 + 1.1 * len(classes)
    figure, axes = plt.subplots(figsize=(size, size))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (t, p), value in np.ndenumerate(share):
        axes.text(
            p,
            t,
            f"{value:.1%}\n{counts[t, p]:,d}",
            ha="center",
            va="center",
            color="white" if value > 0.6 else "black",
        )
    axes.set_xticks(range(len(classes)), classes)
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="true")
    axes.grid(visible=False)
    return figure
