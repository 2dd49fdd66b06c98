"""Figures of the study ``starsed``: stars, spectra and PSFs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS
from astro_utils.psf import PupilModel, aperture
from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.templates import CLASSES, WAVELENGTH_NM, StellarSpectra

__all__ = ["against_stars", "optics_figure", "psf_residuals", "spectra_figure", "stamp_gallery"]


def _class_colours() -> np.ndarray:
    """(13, 4) colours of the classes, blue to red."""
    return plt.get_cmap("turbo")(np.linspace(0.08, 0.95, len(CLASSES)))


def spectra_figure(spectra: StellarSpectra, weights: np.ndarray, wavelengths_nm: np.ndarray) -> Figure:
    """Spectra of the classes and, as points, their shares in the bins of the band."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.0, 3.6))
    for name, row, colour in zip(spectra.names, spectra.flux, _class_colours(), strict=True):
        left.plot(WAVELENGTH_NM, 350 * row, color=colour, lw=0.9, label=name)
    for row, colour in zip(weights, _class_colours(), strict=True):
        right.plot(wavelengths_nm, row, color=colour, marker="o", ms=3, lw=0.9)
    left.set(xlabel="wavelength [nm]", ylabel="$F_\\lambda$ over its mean", title="spectra")
    left.legend(fontsize=7, ncols=3)
    right.set(xlabel="wavelength [nm]", ylabel="share of the flux", title="shares in the bins")
    return figure


def optics_figure(exposure: Exposure) -> Figure:
    """Pupil, wavefront at three places in the field, and PSFs at the ends of the band, finely sampled."""
    optics = exposure.optics
    model = PupilModel(optics)
    places = np.array([[100.0, 900.0], [500.0, 500.0], [900.0, 100.0]])
    ends = (0, optics.bins - 1)
    with torch.no_grad():
        opd = model.opd(exposure.wavefronts(places))
        sed = torch.eye(optics.bins).to(opd)
        fine = [model.super_resolved(opd, sed[[band] * len(opd)], size=48).numpy() for band in ends]
    figure, axes = plt.subplots(3, 4, figsize=(8.6, 6.2), height_ratios=(1.1, 1, 1))
    for line in axes[:, 0]:
        line.axis("off")
    axes[0, 0].axis("on")
    axes[0, 0].imshow(aperture(optics), origin="lower", cmap="gray")
    axes[0, 0].set_title("pupil", fontsize=8)
    mask = np.where(aperture(optics) > 0, 1.0, np.nan)
    limit = 1000 * float((opd * model.amplitude).abs().max())
    for column, (where, wave) in enumerate(zip(places, opd.numpy(), strict=True), start=1):
        image = axes[0, column].imshow(
            1000 * wave * mask, origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit
        )
        axes[0, column].set_title(f"x, y = {where[0]:.0f}, {where[1]:.0f}", fontsize=8)
        for row, (band, stamps) in enumerate(zip(ends, fine, strict=True), start=1):
            axes[row, column].imshow(stamps[column - 1] ** 0.35, origin="lower")
            if column == 1:
                axes[row, 1].set_ylabel(f"{1000 * optics.wavelengths_um[band]:.0f} nm", fontsize=8)
    figure.colorbar(image, ax=axes[0, 1:], label="wavefront [nm]", fraction=0.03)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    return figure


def stamp_gallery(stars: StarSet, columns: Sequence[int] = (0, 3, 5, 7, 9, 11, 12)) -> Figure:
    """One star of some classes: as observed above, without noise below; inner 16 x 16 pixels."""
    figure, axes = plt.subplots(2, len(columns), figsize=(1.35 * len(columns), 3.1))
    middle = slice(stars.stamps.shape[1] // 2 - 8, stars.stamps.shape[1] // 2 + 8)
    for column, label in zip(axes.T, columns, strict=True):
        row = np.flatnonzero(stars.labels == label)[0]
        for ax, image in zip(column, (stars.stamps[row], stars.noiseless[row]), strict=True):
            ax.imshow(np.clip(image[middle, middle], 0, None) ** 0.5, origin="lower")
            ax.set(xticks=[], yticks=[])
            ax.grid(visible=False)
        column[0].set_title(f"{CLASSES[label]}\nSNR {stars.snr[row]:.0f}", fontsize=8)
    axes[0, 0].set_ylabel("observed", fontsize=8)
    axes[1, 0].set_ylabel("noiseless", fontsize=8)
    return figure


def against_stars(
    axes: Axes, table: pd.DataFrame, value: str, *, by: str = "method", ceiling: float | None = None
) -> None:
    """Draw a score against the number of stars that a PSF was fitted to, a line for each `by`.

    Columns ``n_stars`` and `value`, and where there are any `value` + ``_sd``, as bars.
    """
    for i, (name, part) in enumerate(table.groupby(by, sort=False)):
        part = part.sort_values("n_stars")
        bars = part.get(f"{value}_sd")
        axes.errorbar(
            part["n_stars"],
            part[value],
            None if bars is None else bars.fillna(0),
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            ls="--" if i >= len(COLOURS) else "-",  # when colours begin anew
            mfc="w" if i >= len(COLOURS) else None,
            ms=5,
            lw=1.2,
            capsize=2,
            label=name,
        )
    if ceiling is not None:
        axes.axhline(ceiling, color="0.3", ls="--", lw=1, label="likelihood with the true PSF")
    axes.set_xscale("log")
    axes.set_xlabel("stars that the PSF was fitted to")
    axes.legend(fontsize=7)


def psf_residuals(truth: np.ndarray, fitted: Mapping[str, np.ndarray]) -> Figure:
    """Show a star, and what fitted PSFs make of it less the truth, in per cent of its peak."""
    figure, axes = plt.subplots(1, 1 + len(fitted), figsize=(2.1 * (1 + len(fitted)), 2.5))
    middle = slice(len(truth) // 2 - 8, len(truth) // 2 + 8)
    axes[0].imshow(truth[middle, middle] ** 0.5, origin="lower")
    axes[0].set_title("truth", fontsize=8)
    for ax, (name, image) in zip(axes[1:], fitted.items(), strict=True):
        shown = ax.imshow(
            100 * (image - truth)[middle, middle] / truth.max(),
            origin="lower",
            cmap="RdBu_r",
            vmin=-3,
            vmax=3,
        )
        ax.set_title(name, fontsize=8)
    figure.colorbar(shown, ax=axes[1:], label="% of the peak", fraction=0.04)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.grid(visible=False)
    return figure
