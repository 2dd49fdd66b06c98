"""One exposure of the study: an optical field, the stars in it, and the PSFs at their places.

exposure = Exposure(field_seed=1, stars=StarConfig(seed=1), spectra="pickles")
exposure.write("results/quick/starsed/field_1.h5")
stars = read_stars("results/quick/starsed/field_1.h5", exposure.rows("test"))
psfs = mono_stamps(exposure.true_psf(), stars.positions)          # (N, 8, 32, 32)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from astro_utils.models.star_features import StarSet as ClassifierStars
from astro_utils.psf import FieldInterpolator, FieldPsf, Optics, PupilModel, WavefrontField, random_field
from astro_utils.starsed.stamps import FourierShifted, StarSet
from astro_utils.starsed.star_samples import write_stars
from astro_utils.starsed.stars import StarConfig, subset
from astro_utils.starsed.templates import Templates, templates

__all__ = ["Exposure", "classifier_stars", "exposures", "mono_stamps"]


def mono_stamps(psf: FieldInterpolator, positions: np.ndarray) -> np.ndarray:
    """Monochromatic stamps (N, bins, ny, nx), float32, at positions (N, 2), from an interpolated field."""
    with torch.no_grad():
        return psf.monochromatic(positions).float().cpu().numpy()


@dataclass(frozen=True)
class _Stamps:
    """An interpolated field as what :func:`astro_utils.starsed.stamps.observe` takes."""

    psf: FieldInterpolator

    def __call__(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        return mono_stamps(self.psf, positions)


class _Oversampled(FieldPsf):
    """A field of which the stamps are not summed in pixels: the samples of the diffraction patterns."""

    @torch.no_grad()
    def monochromatic(self, positions):
        optics = self.optics
        opd = self.opd(positions)
        sed = torch.eye(optics.bins).to(opd)
        side = optics.oversampling * optics.stamp
        fine = [
            self.model.super_resolved(opd, one.expand(len(opd), -1), factor=optics.oversampling, size=side)
            for one in sed
        ]
        return torch.stack(fine, 1)  # (B, bins, side, side)


@dataclass(frozen=True)
class Exposure:
    """What an exposure is made of; all else follows from it.

    Parameters
    ----------
    field_seed : int
        Of the wavefronts over the field.
    stars : StarConfig
        Where stars are, of which class and how bright.
    spectra : {"pickles", "stelib"}
        Library of :func:`astro_utils.starsed.templates.templates`.
    unseen : bool
        Whether stars have spectra that are not the templates of their classes.
    optics : Optics
        Of the true telescope.
    nodes : int
        Chebyshev points along each axis of the field, from which stamps are interpolated: an error of 1e-5
        with 22.
    """

    field_seed: int
    stars: StarConfig = field(default_factory=StarConfig)
    spectra: str = "stelib"
    unseen: bool = False
    optics: Optics = field(default_factory=Optics)
    nodes: int = 22

    @property
    def key(self) -> Mapping[str, Any]:
        """Return all that the PSF depends on, for JSON."""
        return {"field_seed": self.field_seed, "nodes": self.nodes, "optics": asdict(self.optics)}

    @cached_property
    def wavefronts(self) -> WavefrontField:
        """Return the true wavefronts."""
        return random_field(self.optics, self.field_seed)

    @cached_property
    def templates(self) -> Templates:
        """Return the spectra of the 13 classes, which classifiers and PSF models know."""
        return templates(self.spectra, self.optics.bins, at_nm=1000 * self.optics.spectrum_wavelengths_um)

    @property
    def star_spectra(self) -> Templates:
        """Return the spectra that the stars have."""
        if not self.unseen:
            return self.templates
        at_nm = 1000 * self.optics.spectrum_wavelengths_um
        return templates(self.spectra, self.optics.bins, unseen=True, at_nm=at_nm)

    def true_psf(self) -> FieldInterpolator:
        """Interpolate the PSF with which the stars are made (computing its nodes takes some seconds)."""
        return FieldInterpolator(FieldPsf(PupilModel(self.optics), self.wavefronts), self.nodes)

    def rows(self, name: str) -> slice:
        """Rows of a set of stars (:func:`astro_utils.starsed.stars.subset`)."""
        return subset(name, self.stars)

    def write(
        self, path: str | Path, *, workers: int = 1, progress: bool = True, overwrite: bool = False
    ) -> Path:
        """Draw the stars, observe them and write them as a sample, or find that they are there.

        Raises
        ------
        astro_utils.sample_format.SampleError
            When another sample is at `path`, unless it may be overwritten.
        """
        psf: Any = _Stamps(self.true_psf())
        if self.stars.max_shift:
            oversampled = _Oversampled(PupilModel(self.optics), self.wavefronts)
            fine = FieldInterpolator(oversampled, self.nodes)
            psf = FourierShifted(lambda positions: mono_stamps(fine, positions), self.optics.oversampling)
        return write_stars(
            path,
            self.stars,
            psf,
            self.star_spectra,
            psf_key=self.key,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
        )


def exposures(
    n_fields: int, n_train: int, n_test: int, spectra: str, *, first_seed: int = 1, nodes: int = 22
) -> list[Exposure]:
    """Independent fields: each with its own wavefronts, stars and noise, under one seed for all three.

    The other arguments are those of :class:`Exposure`.

    Raises
    ------
    ValueError
        For fewer than two: the next field is the complementary exposure of each.
    """
    if n_fields < 2:
        raise ValueError(f"n_fields is {n_fields}; expected 2 or more, each the other exposure of another")
    return [
        Exposure(seed, StarConfig(seed=seed, n_train=n_train, n_test=n_test), spectra, nodes=nodes)
        for seed in range(first_seed, first_seed + n_fields)
    ]


def classifier_stars(stars: StarSet, psf: FieldInterpolator | None = None) -> ClassifierStars:
    """Hand stars to a classifier, with the stamps of a PSF, true or fitted, at their places.

    Noise is that of the background and, where stars have Poisson noise of their own, of their light as
    observed.
    """
    sigma = stars.sigma
    if np.isfinite(stars.gain):
        sigma = np.sqrt(stars.variance(stars.stamps))  # (N, ny, nx)
    psfs = None if psf is None else mono_stamps(psf, stars.positions)
    labels = np.array(stars.labels) if (stars.labels >= 0).all() else None
    return ClassifierStars(stars.stamps, labels, psfs, sigma)
