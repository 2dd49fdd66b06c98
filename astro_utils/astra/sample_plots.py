"""Figures of the simulated galaxies: examples, redshifts by part of the sky, mean spectra."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from astro_utils.astra.simulated import Galaxies
from astro_utils.cutouts import rgb
from astro_utils.figures import COLOURS
from astro_utils.sky.surveys import SDSS

__all__ = ["examples_figure", "mean_figure", "parts_figure"]

#: Vacuum Angstrom.
_LINES = {"[O II]": 3728.5, "H, K": 3952.0, "[O III]": 5008.2, "Mg b": 5176.6, "Na D": 5893.6, "Hα": 6564.6}
_UNIT = r"$f_\lambda$ at $r$ = 1 nanomaggy"


def _mark(ax: plt.Axes, z: float) -> None:
    for name, wavelength in _LINES.items():
        at = wavelength * (1 + z)
        if ax.get_xlim()[0] < at < ax.get_xlim()[1]:
            ax.axvline(at, color="0.75", lw=0.7, zorder=0)
            ax.annotate(
                name, (at, 1.0), xycoords=("data", "axes fraction"), fontsize=6, ha="center", va="bottom"
            )


def examples_figure(galaxies: Galaxies, rows: np.ndarray) -> Figure:
    """Image in g, r, i and spectrum of a few galaxies, one a line."""
    fig, axes = plt.subplots(
        len(rows), 2, figsize=(9, 1.9 * len(rows)), width_ratios=(1, 5), squeeze=False, layout="constrained"
    )
    spectra = galaxies.spectra
    for (left, right), row in zip(axes, rows, strict=True):
        left.imshow(rgb(galaxies.images[row], SDSS.bands), origin="lower")
        left.set(xticks=[], yticks=[])
        measured = spectra.ivar[row] > 0
        right.plot(
            spectra.wavelength, np.where(measured, spectra.flux[row], np.nan), lw=0.5, color=COLOURS[0]
        )
        high = np.percentile(spectra.flux[row][measured], 99.7)
        right.set(xlim=spectra.wavelength[[0, -1]], ylim=(0, 1.25 * high))
        kind = "red" if galaxies.is_red[row] else "blue"
        right.text(
            0.01,
            0.93,
            f"z = {galaxies.z[row]:.3f}, r = {galaxies.r[row]:.1f}, {kind}",
            transform=right.transAxes,
            fontsize=8,
            va="top",
        )
        _mark(right, galaxies.z[row])
    axes[-1, 1].set_xlabel("observed wavelength [Å]")
    axes[len(rows) // 2, 1].set_ylabel(_UNIT, fontsize=9)
    return fig


def parts_figure(parts: Mapping[str, Galaxies]) -> Figure:
    """Redshifts and magnitudes of each part of the sky."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4))
    for i, (name, galaxies) in enumerate(parts.items()):
        label = f"{name} ({len(galaxies):,d})"
        options = {"density": True, "histtype": "step", "color": COLOURS[i], "lw": 1.3}
        left.hist(galaxies.z, np.linspace(0, 0.35, 29), label=label, **options)
        right.hist(galaxies.r, np.linspace(14, 17.8, 30), **options)
    left.set(xlabel="redshift", ylabel="density")
    right.set(xlabel="Petrosian $r$, dereddened [mag]", ylabel="density")
    left.legend(fontsize=8)
    return fig


def mean_figure(galaxies: Galaxies) -> Figure:
    """Mean spectrum of red and of blue galaxies as observed, and where half of them lie."""
    fig, ax = plt.subplots(figsize=(9, 3.4))
    spectra = galaxies.spectra
    for name, mine, colour in (("red", galaxies.is_red, COLOURS[1]), ("blue", ~galaxies.is_red, COLOURS[0])):
        if mine.any():
            flux = np.where(spectra.ivar[mine] > 0, spectra.flux[mine], np.nan)
            low, middle, high = np.nanpercentile(flux, [25, 50, 75], axis=0)
            ax.plot(spectra.wavelength, middle, lw=0.9, color=colour, label=f"{name} ({mine.sum():,d})")
            ax.fill_between(spectra.wavelength, low, high, color=colour, alpha=0.2, lw=0)
    ax.set(xlabel="observed wavelength [Å]", ylabel=_UNIT, xlim=spectra.wavelength[[0, -1]])
    ax.legend(fontsize=8)
    return fig
