"""Figures of the results page, from kept predictions and metric rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.astra.result_tables import CORRIDOR, coverage_rows, noise_free_r2
from astro_utils.cutouts import rgb
from astro_utils.figures import COLOURS, MARKERS
from astro_utils.metrics import redshift_scores

__all__ = [
    "ABSORPTION",
    "EMISSION",
    "chi2_figure",
    "coverage_figure",
    "gallery_figure",
    "redshift_figure",
    "residual_figure",
    "trend_figure",
]

#: Lines to mark, vacuum Angstrom in the rest frame.
EMISSION = {"[O II]": 3728.5, "H$\\beta$": 4862.7, "[O III]": 5008.2, "H$\\alpha$": 6564.6}
ABSORPTION = {"K": 3934.8, "H": 3969.6, "Mg b": 5176.0, "Na D": 5894.6}
#: Galaxies that a bin must have, and bins at most.
_FEWEST, _BINS = 30, 8
_STYLES = ("-", "--", "-.", ":")
_SUMS = {"continuum": ("c_error", "c_total", "c_noise"), "all pixels": ("error", "total", "noise")}
_FLUX = "$F_\\lambda$ at $r$ = 1 nanomaggy [10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$]"


def _parts(table: pd.DataFrame, methods: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Lines of each method."""
    if len(methods) > len(COLOURS):
        raise ValueError(f"{len(methods)} methods; expected at most {len(COLOURS)}, one a colour")
    parts = {method: table[table["method"] == method] for method in methods}
    if missing := [method for method, part in parts.items() if part.empty]:
        raise ValueError(f"no method {missing[0]!r}; there are {sorted(set(table['method']))}")
    return parts


def _mark_lines(axes: Axes, z: float, labels: bool = True) -> None:
    """Mark the lines within a panel by ticks: emission at the top, absorption at the bottom."""
    low, high = axes.get_xlim()
    sides = ((EMISSION, 0.98, (0.78, 0.86), "top"), (ABSORPTION, 0.02, (0.14, 0.22), "bottom"))
    for lines, y, tick, va in sides:
        for name, rest in lines.items():
            at = rest * (1 + z)
            if not low < at < high:
                continue
            axes.axvline(at, *tick, color="black", lw=1)
            if labels:
                # Names are wider than the room between neighbours.
                ha = {"[O II]": "left", "K": "right", "H": "left", "[O III]": "left", "H$\\alpha$": "left"}
                place = {"ha": ha.get(name, "center"), "va": va, "transform": axes.get_xaxis_transform()}
                axes.text(at, y, name, fontsize=7, color="0.2", **place)


def _smooth(flux: np.ndarray, ivar: np.ndarray, pixels: int = 7) -> np.ndarray:
    """Take a running mean weighted by inverse variance; NaN where nothing was measured."""
    kernel = np.ones(pixels)
    weight = np.convolve(ivar, kernel, "same")
    total = np.convolve(np.where(ivar > 0, flux, 0) * ivar, kernel, "same")
    measured = np.convolve(ivar > 0, kernel, "same") > 0.5  # the sums of a convolution are not exact
    return np.where(measured, total / np.where(measured, weight, 1), np.nan)


def _spectrum_panels(upper: Axes, lower: Axes, gallery: Mapping[str, np.ndarray], row: int) -> None:
    """Draw the posterior mean with its bands, and below it one draw and ASTRA, over the observed spectrum."""
    wave, z = gallery["wavelength"], float(gallery["z"][row])
    observed = _smooth(gallery["flux"][row], gallery["ivar"][row])
    mean, sharp, astra = (gallery[name][row] for name in ("mean", "sharp", "astra"))
    for level, alpha in ((95, 0.15), (68, 0.3)):
        low, high = gallery[f"low{level}"][row], gallery[f"high{level}"][row]
        upper.fill_between(wave, low, high, color=COLOURS[0], alpha=alpha, lw=0, label=f"{level} %")
    for ax, shown in ((upper, (observed, mean)), (lower, (observed, sharp, astra))):
        ax.plot(wave, observed, color="0.55", lw=0.7, label="observed, smoothed")
        # With room for the names of lines; single pixels at the ends may be all noise.
        low, high = np.nanpercentile(np.concatenate(shown), [0.2, 99.9])
        ax.set_ylim(min(low, 0) - 0.15 * (high - low), high + 0.3 * (high - low))
        ax.set_xlim(wave[0], wave[-1])
        ax.tick_params(labelsize=8, labelbottom=False)
        ax.set_ylabel("$F_\\lambda$", fontsize=9)
        _mark_lines(ax, z, labels=ax is upper)
    upper.plot(wave, mean, color=COLOURS[0], lw=1.1, label="posterior mean")
    lower.plot(wave, astra, color=COLOURS[4], lw=1.1, ls="--", label="ASTRA, mended")
    lower.plot(wave, sharp, color=COLOURS[1], lw=0.8, label="one draw")
    about = f"$z$ = {z:.3f}, median of $p(z)$ {gallery['z_phot'][row]:.3f}, $r$ = {gallery['r'][row]:.2f}"
    upper.set_title(about, fontsize=9, loc="left")


def gallery_figure(
    gallery: Mapping[str, np.ndarray], rows: Sequence[int], title: str | None = None
) -> Figure:
    """Image, observed spectrum and predictions of some galaxies, one a row.

    Parameters
    ----------
    gallery : mapping
        ``wavelength`` (L,); ``images`` (G, 5, y, x) nanomaggies in ugriz; ``flux, ivar, mean, sharp, low68,
        high68, low95, high95, astra`` (G, L); ``z, r, z_phot, label`` (G,).
    rows : sequence of int
        Which to draw.
    title : str, optional
        Above the figure.
    """
    figure = plt.figure(figsize=(10.0, 2.75 * len(rows) + 0.7), layout="constrained")
    grid = figure.add_gridspec(2 * len(rows), 2, width_ratios=(1, 4.4), height_ratios=(1.7, 1) * len(rows))
    upper, entries = None, {}
    for number, row in enumerate(rows):
        picture = figure.add_subplot(grid[2 * number : 2 * number + 2, 0])
        image = rgb(gallery["images"][row], "ugriz", scale=(0.8, 1.0, 1.7), stretch=0.6)
        picture.imshow(image, origin="lower")
        picture.set(xticks=[], yticks=[])
        picture.set_title(str(gallery["label"][row]), fontsize=9)
        upper = figure.add_subplot(grid[2 * number, 1], sharex=upper)
        lower = figure.add_subplot(grid[2 * number + 1, 1], sharex=upper)
        _spectrum_panels(upper, lower, gallery, row)
        lower.tick_params(labelbottom=number == len(rows) - 1)
    lower.set_xlabel("observed wavelength [Å, vacuum]")
    for ax in (upper, lower):  # the observed spectrum is in both
        handles, labels = ax.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    heading = _FLUX if title is None else f"{title}\n{_FLUX}"
    style = {"loc": "outside upper center", "ncols": 6, "fontsize": 8, "title_fontsize": 9}
    legend = figure.legend(entries.values(), entries.keys(), title=heading, **style)
    legend.get_title().set_multialignment("center")
    return figure


def _group_points(part: pd.DataFrame, x: str, groups: np.ndarray, pixels: str) -> np.ndarray:
    """Median of `x`, R2 and its bounds of each group with enough galaxies, (points, 4)."""
    points = [
        (one[x].median(), *noise_free_r2(one[list(_SUMS[pixels])].to_numpy()))
        for _, one in part.groupby(groups)
        if len(one) >= _FEWEST
    ]
    return np.array(points).reshape(-1, 4)


def trend_figure(galaxies: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Noise-free R2 of the continuum and of all pixels against r, redshift and colour.

    Bins have equal numbers of galaxies, at least 30; bars are 95 % bootstrap intervals over galaxies. What is
    below -0.5 is cut off.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        ``method, z, r, red, error, total, noise, c_error, c_total, c_noise``, one line for each galaxy,
        method and seed; lines of a method with the same z and r are one galaxy.
    methods : sequence of str
    """
    figure, axes = plt.subplots(
        2, 3, figsize=(10.5, 6.2), sharey="row", width_ratios=(3, 3, 1.5), layout="constrained"
    )
    sums = [name for names in _SUMS.values() for name in names]
    for i, (method, part) in enumerate(_parts(galaxies, methods).items()):
        part = part.groupby(["z", "r"], as_index=False).agg({"red": "first"} | dict.fromkeys(sums, "sum"))
        part["red"] = part["red"].astype(float)
        shift = 0.07 * (i - (len(methods) - 1) / 2)
        style = {"color": COLOURS[i], "marker": MARKERS[i], "ms": 4, "lw": 1.2, "capsize": 2, "label": method}
        for row, pixels in zip(axes, _SUMS, strict=True):
            for ax, x in zip(row, ("r", "z", "red"), strict=True):
                values = part[x].to_numpy()
                bins = np.clip(len(values) // _FEWEST, 1, _BINS)
                edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
                groups = values if x == "red" else np.digitize(values, edges)
                at, value, low, high = _group_points(part, x, groups, pixels).T
                at = at + shift if x == "red" else at
                # A resampled interval need not hold the value in a small bin.
                errors = np.clip([value - low, high - value], 0, None)
                ax.errorbar(at, value, errors, **style | {"ls": "none" if x == "red" else "-"})
    for row, pixels in zip(axes, _SUMS, strict=True):
        bottom = min(ax.dataLim.y0 for ax in row)
        row[0].set(ylabel=f"noise-free $R^2$, {pixels}", ylim=(max(-0.5, bottom - 0.05), 1.02))
        row[2].set_xticks((0, 1), ("blue", "red"))
        row[2].set_xlim(-0.5, 1.5)
    for ax, label in zip(axes[1], ("$r$ [mag]", "redshift", "colour"), strict=True):
        ax.set_xlabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=8)
    return figure


def redshift_figure(galaxies: pd.DataFrame, method: str, photoz: str = "photometric redshift") -> Figure:
    """Redshift that a predicted spectrum shows, beside the photometric one, against the truth.

    Parameters
    ----------
    galaxies : pandas.DataFrame
        ``method, seed, z, red, z_recovered, z_phot``.
    method : str
        Whose lines to draw.
    photoz : str
        Title of the panel of ``z_phot``.
    """
    part = _parts(galaxies, [method])[method]
    top = np.ceil(20 * part["z"].max()) / 20
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 4.7), sharex=True, sharey=True)
    titles = {"z_recovered": f"from the spectrum of “{method}”", "z_phot": photoz}
    for ax, (column, title) in zip(axes, titles.items(), strict=True):
        known = part[part[column].notna()]
        for i, name in ((1, "red"), (0, "blue")):
            some = known[known["red"] == (name == "red")]
            style = {"marker": MARKERS[i], "color": COLOURS[i], "alpha": 0.45, "label": name}
            ax.plot(some["z"], some[column], ls="none", ms=3, mew=0, rasterized=True, **style)
        line = np.array([0, top])
        ax.plot(line, line, color="black", lw=1)
        for sign in (-1, 1):
            label = "±0.05 (1 + $z$)" if sign > 0 else None
            ax.plot(line, line + sign * 0.05 * (1 + line), color="0.4", lw=0.9, ls="--", label=label)
        # As in the tables: the mean over seeds.
        by_seed = [redshift_scores(one[column], one["z"])["sigma_mad"] for _, one in known.groupby("seed")]
        beyond = int((~known[column].between(0, top)).sum())
        note = f"\n{beyond:,d} of {len(known):,d} outside the panel" if beyond else ""
        text = f"$\\sigma_\\mathrm{{MAD}}$ = {np.mean(by_seed):.4f}{note}"
        ax.text(0.03, 0.97, text, transform=ax.transAxes, va="top", fontsize=9)
        ax.set(title=title, xlabel="true redshift", xlim=(0, top), ylim=(0, top), aspect="equal")
        ax.title.set_fontsize(10)
    axes[0].set_ylabel("estimated redshift")
    axes[1].legend(loc="lower right", fontsize=8)
    return figure


def chi2_figure(galaxies: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Distribution of chi2 per pixel of each method over galaxies, with the median, mean over seeds.

    The outermost bins hold what is beyond them, too.
    """
    parts = _parts(galaxies, methods)
    values = np.concatenate([part["chi2"] for part in parts.values()])
    low, high = np.percentile(values, [0.2, 99.8])
    edges = np.geomspace(min(low, 0.8), max(high, 1.25), 49)
    figure, ax = plt.subplots(figsize=(7.2, 4.0))
    for i, (method, part) in enumerate(parts.items()):
        shares = 100 * np.histogram(np.clip(part["chi2"], edges[0], edges[-1]), edges)[0] / len(part)
        label = f"{method} ({part.groupby('seed')['chi2'].median().mean():.2f})"
        ax.stairs(shares, edges, color=COLOURS[i], ls=_STYLES[i % 4], lw=1.5, label=label)
    ax.axvline(1, color="0.4", lw=0.9)
    ax.set(xscale="log", xlabel="$\\chi^2$ per pixel", ylabel="galaxies [%]", ylim=(0, None))
    ax.legend(fontsize=8, title="median", title_fontsize=8)
    return figure


def residual_figure(residual: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Mean and central 68 % of (observed - predicted) over the mean flux, in the rest frame.

    Parameters
    ----------
    residual : pandas.DataFrame
        ``method, wavelength`` (rest-frame Angstrom), ``mean, low, high`` (16th and 84th percentile).
    methods : sequence of str
        One panel each.
    """
    parts = _parts(residual, methods)
    figure, axes = plt.subplots(
        len(methods), 1, figsize=(10.0, 1.0 + 1.75 * len(methods)), sharex=True, sharey=True, squeeze=False
    )
    all_parts = pd.concat(parts.values())
    low, high = np.nanpercentile(all_parts["low"], 1), np.nanpercentile(all_parts["high"], 99)
    ylim = (low - 0.25 * (high - low), high + 0.25 * (high - low))
    for i, (ax, (method, part)) in enumerate(zip(axes[:, 0], parts.items(), strict=True)):
        part = part.sort_values("wavelength")
        wave = part["wavelength"]
        ax.fill_between(wave, part["low"], part["high"], color=COLOURS[i], alpha=0.25, lw=0)
        ax.plot(wave, part["mean"], color=COLOURS[i], lw=1)
        ax.axhline(0, color="0.3", lw=0.8)
        ax.set_title(method, fontsize=9, loc="left")
        ax.set(xlim=(all_parts["wavelength"].min(), all_parts["wavelength"].max()), ylim=ylim)
        _mark_lines(ax, 0.0, labels=i == 0)
    axes[-1, 0].set_xlabel("rest-frame wavelength [Å, vacuum]")
    figure.supylabel("(observed − predicted) / mean flux", fontsize=10)
    return figure


def coverage_figure(metrics: pd.DataFrame) -> Figure:
    """Measured coverage of the 68 % and 95 % intervals in parts of the spectrum, and the corridor."""
    rows = coverage_rows(metrics)
    figure, axes = plt.subplots(1, 2, figsize=(9.0, 1.3 + 0.3 * len(rows)), sharey=True)
    places = np.arange(len(rows))[::-1]
    for i, (ax, level) in enumerate(zip(axes, (68, 95), strict=True)):
        name, nominal = f"coverage_{level}", float(level)
        value, low, high = (100 * rows[name + suffix].to_numpy() for suffix in ("", "_lo", "_hi"))
        ax.axvspan(nominal - 100 * CORRIDOR, nominal + 100 * CORRIDOR, color="0.9", lw=0)
        ax.axvline(nominal, color="0.4", lw=0.9, ls="--")
        errors = np.clip([value - low, high - value], 0, None)
        ax.errorbar(value, places, xerr=errors, fmt=MARKERS[i], color=COLOURS[i], ms=5, capsize=2)
        ax.set(xlabel="measured [%]", title=f"{level} % intervals")
        ax.title.set_fontsize(10)
    axes[0].set_yticks(places, rows.index)
    return figure
