"""Figures of the simulated sky; each takes what was computed and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.cutouts import rgb
from astro_utils.figures import COLOURS
from astro_utils.samples import Spectra
from astro_utils.sky.population import CLASSES

__all__ = [
    "colour_redshift",
    "magnitude_errors",
    "number_counts",
    "spectra_examples",
    "stamp_gallery",
    "stellar_locus",
    "tracks",
]

#: One colour for each class, everywhere on the page.
CLASS_COLOURS = dict(zip(CLASSES, COLOURS, strict=False))


def stamp_gallery(
    images: np.ndarray, bands: Sequence[str], titles: Sequence[str], columns: int = 8, **options
) -> Figure:
    """Colour composites of stamps (N, bands, ny, nx) in rows, a short title above each.

    `options` go to :func:`astro_utils.cutouts.rgb`.
    """
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(1.25 * columns, 1.45 * rows), squeeze=False)
    for ax in axes.ravel():
        ax.axis("off")
    for ax, image, title in zip(axes.ravel(), images, titles, strict=False):
        ax.imshow(rgb(image, bands, **options), origin="lower", interpolation="nearest")
        ax.set_title(title, fontsize=7.5, pad=2)
    return figure


def _band(axes: Axes, x: np.ndarray, y: np.ndarray, edges: np.ndarray, colour: str, label: str) -> None:
    """Median line and central 68 % band of y in bins of x with at least ten objects."""
    index = np.digitize(x, edges) - 1
    rows = []
    for k in range(len(edges) - 1):
        values = y[index == k]
        values = values[np.isfinite(values)]
        if len(values) >= 10:
            rows.append(((edges[k] + edges[k + 1]) / 2, *np.percentile(values, [16, 50, 84])))
    if rows:
        centre, low, middle, high = np.array(rows).T
        axes.fill_between(centre, low, high, color=colour, alpha=0.2, lw=0)
        axes.plot(centre, middle, color=colour, label=label, marker="o", ms=3)


def colour_redshift(simulated: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Four colours against redshift, simulated and real: medians and the central 68 %.

    Both tables have the sample columns of :func:`astro_utils.galaxies.galaxy_sample`.
    """
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
    edges = np.arange(0.0, 0.36, 0.03)
    for ax, (blue, red) in zip(axes, ("ug", "gr", "ri", "iz"), strict=True):
        for table, colour, label in ((real, COLOURS[6], "real"), (simulated, COLOURS[0], "simulated")):
            y = (table[f"model_mag_{blue}"] - table[f"model_mag_{red}"]).to_numpy()
            _band(ax, table["z"].to_numpy(), y, edges, colour, label)
        ax.set(xlabel="redshift", ylabel=f"${blue}-{red}$ [mag]")
    axes[0].legend()
    return figure


def stellar_locus(stars: pd.DataFrame, loci: Mapping[str, pd.DataFrame]) -> Figure:
    """Colours of stars against g - i, with published or measured loci as lines.

    Parameters
    ----------
    stars : pandas.DataFrame
        ``g_i``, ``u_g``, ``g_r``, ``r_i``, ``i_z``.
    loci : mapping
        Name to a table with the same columns.
    """
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
    for ax, colour in zip(axes, ("u_g", "g_r", "r_i", "i_z"), strict=True):
        ax.plot(stars["g_i"], stars[colour], ".", ms=2, alpha=0.35, color=COLOURS[0], rasterized=True)
        for (name, locus), line in zip(loci.items(), ("-", "--"), strict=False):
            ax.plot(locus["g_i"], locus[colour], line, color=COLOURS[1], label=name, lw=1.6)
        low, high = np.nanpercentile(stars[colour], [0.5, 99.5])
        name = colour.replace("_", "-")
        ax.set(xlabel="$g-i$ [mag]", ylabel=f"${name}$ [mag]", xlim=(-1.2, 3.6), ylim=(low - 0.3, high + 0.3))
    axes[0].legend(fontsize=8)
    return figure


def tracks(quasars: pd.DataFrame, observed: pd.DataFrame) -> Figure:
    """Colours of quasars against redshift beside the observed track (median and percentiles per bin)."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2))
    for ax, colour in zip(axes, ("u_g", "g_r", "r_i", "i_z"), strict=True):
        for suffix, style in (("", "-"), ("_16", ":"), ("_84", ":")):
            label = {"": "observed median", "_16": "observed 16, 84 %"}.get(suffix)
            ax.plot(
                observed["z"], observed[f"{colour}{suffix}"], style, color=COLOURS[6], lw=1.2, label=label
            )
        _band(
            ax,
            quasars["redshift"].to_numpy(),
            quasars[colour].to_numpy(),
            np.arange(0.2, 3.61, 0.2),
            COLOURS[0],
            "simulated",
        )
        ax.set(xlabel="redshift", ylabel=f"${colour.replace('_', '-')}$ [mag]", xlim=(0, 3.6))
    axes[0].legend(fontsize=8)
    return figure


def spectra_examples(catalogue: pd.DataFrame, spectra: Mapping[str, Spectra], rows: Sequence[int]) -> Figure:
    """Spectra of some objects (one panel each) by every spectrograph, smoothed over 5 pixels.

    Parameters
    ----------
    catalogue : pandas.DataFrame
        ``class``, ``z`` and ``r_mag`` of the objects.
    spectra : mapping
        Spectrograph to the spectra of these objects.
    rows : sequence of int
        Which to draw.
    """
    figure, axes = plt.subplots(len(rows), 1, figsize=(10, 2.1 * len(rows)), sharex=True)
    for ax, row in zip(axes, rows, strict=True):
        for (name, taken), colour, width in zip(spectra.items(), COLOURS, (0.7, 1.3), strict=False):
            flux, ivar = taken.flux[row], taken.ivar[row]
            kernel = np.ones(5)
            with np.errstate(invalid="ignore", divide="ignore"):
                smooth = np.convolve(flux * ivar, kernel, "same") / np.convolve(ivar, kernel, "same")
            ax.plot(taken.wavelength, smooth, lw=width, color=colour, label=name, alpha=0.8)
        low, high = np.nanpercentile(smooth, [1, 99])
        about = catalogue.iloc[row]
        ax.set(ylim=(min(low, 0) - 0.2 * high, 1.4 * high))
        title = f"{about['class'].lower()}, $z$ = {about['z']:.3f}, $r$ = {about['r_mag']:.1f}"
        ax.set_title(title, fontsize=9, loc="left")
    axes[0].legend(fontsize=8, ncols=2, loc="upper right")
    axes[-1].set(xlabel="wavelength [Å, vacuum]")
    figure.supylabel("$F_\\lambda$ [10$^{-17}$ erg s$^{-1}$ cm$^{-2}$ Å$^{-1}$]", fontsize=10)
    return figure


def number_counts(catalogue: pd.DataFrame) -> Figure:
    """Objects by class: against true r magnitude, redshift, and measured compactness."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    panels = (
        ("r_mag", np.arange(14, 23.3, 0.25), "true $r$ [mag]"),
        ("z", np.arange(0, 5.01, 0.1), "redshift"),
        ("compactness", np.arange(0, 2.01, 0.05), "mean of de Vaucouleurs radius / FWHM"),
    )
    for ax, (column, bins, label) in zip(axes, panels, strict=True):
        for name in CLASSES:
            values = catalogue.loc[catalogue["class"] == name, column]
            if column != "z" or name != "STAR":
                ax.hist(values, bins=bins, histtype="step", lw=1.6, color=CLASS_COLOURS[name], label=name)
        ax.set(xlabel=label, ylabel="objects", yscale="log")
    axes[2].axvline(0.5, color=COLOURS[6], ls="--", lw=1)
    axes[2].legend(loc="upper right")
    return figure


def magnitude_errors(catalogue: pd.DataFrame, band: str = "r") -> Figure:
    """Measured minus true against true magnitude: PSF fluxes of points, model fluxes of galaxies."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
    true = 22.5 - 2.5 * np.log10(catalogue[f"true_flux_{band}"].to_numpy())
    galaxy = (catalogue["class"] == "GALAXY").to_numpy()
    panels = ((~galaxy, "psf", "stars and quasars, PSF flux"), (galaxy, "model", "galaxies, model flux"))
    for ax, (chosen, kind, title) in zip(axes, panels, strict=True):
        part = catalogue[chosen]
        with np.errstate(invalid="ignore", divide="ignore"):
            offset = -2.5 * np.log10(part[f"{kind}_flux_{band}"] / part[f"true_flux_{band}"]).to_numpy()
        error = 1.0857 / np.sqrt(part[f"{kind}_flux_ivar_{band}"]) / part[f"true_flux_{band}"]
        edges = np.arange(15.0, 23.3, 0.5)
        _band(ax, true[chosen], offset, edges, COLOURS[0], "measured: median and 68 %")
        claimed = pd.Series(error.to_numpy()).groupby(np.digitize(true[chosen], edges)).median()
        claimed = claimed[(claimed.index > 0) & (claimed.index < len(edges))]
        centre = edges[claimed.index - 1] + 0.25
        for sign in (-1, 1):
            ax.plot(
                centre, sign * claimed, "--", color=COLOURS[1], label="claimed error" if sign > 0 else None
            )
        ax.set(xlabel=f"true ${band}$ [mag]", ylabel="measured − true [mag]", title=title, ylim=(-0.4, 0.4))
        ax.legend(fontsize=8)
    return figure
