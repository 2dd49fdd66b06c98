"""Figures of the simulated galaxies: images beside spectra, redshifts, and the target."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.astroclip_inputs import to_rgb
from astro_utils.figures import COLOURS
from astro_utils.kcorrections.band_rule import FixedBand, NearestBand
from astro_utils.kcorrections.simulated import FAMILIES, Galaxies, true_k
from astro_utils.spectra_files import DESI_WAVELENGTH

__all__ = ["band_rule_figure", "examples_figure", "redshift_figure", "target_figure"]

#: Rest-frame wavelengths of lines to mark, Angstrom (vacuum).
_LINES = {"[O II]": 3728.5, "H β": 4862.7, "[O III]": 5008.2, "Na D": 5895.0, "H α": 6564.6}


def examples_figure(galaxies: Galaxies, rows: np.ndarray) -> Figure:
    """Image and spectrum of a few galaxies, one a line."""
    rgb = to_rgb(galaxies.images[rows]).numpy()
    factor = len(DESI_WAVELENGTH) // galaxies.spectra.shape[1]
    wavelength = DESI_WAVELENGTH[: galaxies.spectra.shape[1] * factor].reshape(-1, factor).mean(1)
    fig, axes = plt.subplots(
        len(rows), 2, figsize=(9, 1.9 * len(rows)), width_ratios=(1, 5), squeeze=False, layout="constrained"
    )
    for (left, right), row, image in zip(axes, rows, rgb, strict=True):
        left.imshow(image.transpose(1, 2, 0), origin="lower")
        left.set(xticks=[], yticks=[])
        z, k = galaxies.z[row], galaxies.k["r"][row]
        right.plot(wavelength, galaxies.spectra[row], lw=0.6, color=COLOURS[0])
        top = np.percentile(galaxies.spectra[row], 99.5)
        right.set(ylim=(min(0, -0.1 * top), 1.25 * top), xlim=(3600, 9824))
        right.set_title(f"$z$ = {z:.3f}, $K$ = {k:+.3f} mag", fontsize=9, loc="left")
        for name, rest in _LINES.items():
            if 3650 < rest * (1 + z) < 9700:
                right.axvline(rest * (1 + z), color="0.7", lw=0.6, zorder=0)
                right.text(rest * (1 + z), 1.12 * top, name, fontsize=6, color="0.4", ha="center")
        right.set_ylabel("$F_\\lambda$", fontsize=8)
    axes[-1, 1].set_xlabel("observed wavelength [Å]")
    return fig


def redshift_figure(parts: Mapping[str, np.ndarray]) -> Figure:
    """Densities of redshift of each part of the data."""
    fig, ax = plt.subplots(figsize=(6.2, 3.6))
    edges = np.linspace(0, 0.95, 39)
    for i, (name, z) in enumerate(parts.items()):
        label = f"{name} ({len(z):,d})"
        ax.hist(z, edges, density=True, histtype="step", color=COLOURS[i], label=label, lw=1.3)
    ax.set(xlabel="redshift", ylabel="density")
    ax.legend(fontsize=8)
    return fig


def target_figure(galaxies: Galaxies, limit: float) -> Figure:
    """K against redshift for each family, and its distribution in bins of redshift."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
    for i, (family, name) in enumerate(FAMILIES.items()):
        mine = galaxies.family == family
        left.plot(galaxies.z[mine], galaxies.k["r"][mine], ".", ms=1.5, alpha=0.5, color=COLOURS[i])
        left.plot([], [], ".", color=COLOURS[i], label=name)
    left.axvline(limit, color="0.4", ls=":", lw=1)
    left.set(xlabel="redshift", ylabel="$K$, DECam $r$ to SDSS $^{0.1}r$ [mag]", ylim=(-0.6, 1.8))
    left.legend(fontsize=8)
    edges = np.linspace(-0.45, 0.55, 41)
    for i, (low, high) in enumerate(((0.0, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, limit))):
        inside = (galaxies.z >= low) & (galaxies.z < high)
        right.hist(
            galaxies.k["r"][inside],
            edges,
            histtype="step",
            density=True,
            color=COLOURS[i],
            label=f"{low:.1f} to {high:g}",
        )
    right.set(xlabel="$K$ [mag]", ylabel="density")
    right.legend(title="redshift", fontsize=8)
    return fig


def band_rule_figure(galaxies: Galaxies, family: str) -> Figure:
    """K to one output band by the nearest observed band and by a fixed one, the same galaxies in redshift."""
    some = galaxies.select(np.flatnonzero(galaxies.family == family)[:60])
    grid = np.linspace(0.01, 0.8, 160)
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
    curves = {
        band: np.stack([true_k(some.catalogue, family, np.full(len(some), z), band) for z in grid], 1)
        for band in "grz"
    }  # (n, G) each
    rules = (NearestBand("r", "DECam"), FixedBand("r", "DECam"))
    titles = ("nearest band (FastSpecFit)", "always r")
    for ax, rule, title in zip(axes, rules, titles, strict=True):
        picked = np.stack(
            [rule.pick(grid, np.stack([curves[band][i] for band in rule.bands], 1)) for i in range(len(some))]
        )
        ax.plot(grid, picked.T, color=COLOURS[0], lw=0.5, alpha=0.6)
        for z, below, above in rule.switches():
            if z > grid[0]:
                ax.axvline(z, color="0.4", ls=":", lw=1)
                ax.text(z + 0.01, 2.0, f"{below} to {above}\n$z$ = {z:.4f}", fontsize=8)
        ax.set(xlabel="redshift", title=title, ylim=(-1.6, 2.5))
    axes[0].set_ylabel("$K$ to SDSS $^{0.1}r$ [mag]")
    return fig
