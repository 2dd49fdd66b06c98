"""Methods from images or photometry to spectra, as the study compares them: baselines, ASTRA and ours.

task = prepare(read_galaxies("galaxies.h5"))
model = fit_ours(task)
found = ours(task, model)                     # name to spectra (M, L) of the test galaxies
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from astro_utils.astra.baselines import (
    ColourNeighbours,
    PhotometryRegression,
    TemplateAtRedshift,
    mean_spectrum,
)
from astro_utils.astra.photometric_decoder import PhotometricDecoder
from astro_utils.astra.redshift_template import RedshiftFinder
from astro_utils.astra.simulated import MAX_REDSHIFT, Galaxies, Parts, split
from astro_utils.kcorrections.features import KINDS
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.surveys import SDSS

__all__ = ["CATALOGUE", "CEILINGS", "KINDS", "OURS", "Task", "baselines", "fit_ours", "ours", "prepare"]

#: Kinds of features that a catalogue has; ours also reads the light in the pixels.
CATALOGUE = tuple(kind for kind in KINDS if kind != "embedding")
OURS = "ours"
#: Methods that are told the true redshift.
CEILINGS = ("template, true redshift (ceiling)", "ours, true redshift (ceiling)")
#: Redshift densities end a little beyond the sample.
_LAST = MAX_REDSHIFT + 0.05
_DRAWS = 8


@dataclass(frozen=True, eq=False)
class Task:
    """Galaxies, their split, and what all methods share."""

    galaxies: Galaxies
    parts: Parts

    @cached_property
    def train(self) -> Galaxies:
        """Galaxies to learn from."""
        return self.galaxies.select(self.parts.train)

    @cached_property
    def test(self) -> Galaxies:
        """Galaxies of other fields."""
        return self.galaxies.select(self.parts.test)

    @cached_property
    def calibration(self) -> Galaxies:
        """Galaxies of yet other fields, for intervals and for when to stop."""
        return self.galaxies.select(self.parts.calibration)

    @cached_property
    def reference(self) -> np.ndarray:
        """Mean training spectrum (L,)."""
        return mean_spectrum(self.train.spectra)


def prepare(galaxies: Galaxies, seed: int = 0) -> Task:
    """Split galaxies by field."""
    return Task(galaxies, split(galaxies, seed))


def fit_ours(
    task: Task, *, n_components: int, kinds: tuple[str, ...] = KINDS, seed: int = 0
) -> PhotometricDecoder:
    """Fit our model to the training galaxies, with features of some kinds."""
    photometry = _told(task.train, kinds)
    model = PhotometricDecoder(n_components=n_components, max_redshift=_LAST, seed=seed)
    return model.fit(photometry, task.train.spectra, task.train.z, task.train.fields)


def _told(galaxies: Galaxies, kinds: tuple[str, ...]):
    photometry = galaxies.photometry
    return type(photometry)(
        photometry.features.of(*kinds), photometry.flux, photometry.error, photometry.filters
    )


def finder(task: Task, model: PhotometricDecoder) -> RedshiftFinder:
    """Finder of redshifts in predicted spectra, with the components of our decoder as templates."""
    weight = np.median(task.test.spectra.ivar, axis=0)
    return RedshiftFinder(model.decoder, model.grid, weight, z_max=_LAST)


def baselines(task: Task, redshifts: np.ndarray) -> dict[str, np.ndarray]:
    """Predict test spectra without a network.

    Parameters
    ----------
    task : Task
    redshifts : numpy.ndarray
        (M, Q) equally probable redshifts of the test galaxies.

    Returns
    -------
    dict
        Name to spectra (M, L).
    """
    train, test = task.train, task.test
    known, asked = (one.photometry.features for one in (train, test))
    spectra, n = train.spectra, len(test)
    flux, error = test.ugriz
    template = TemplateAtRedshift(GalaxyTemplates.load(), SDSS.filters, spectra.wavelength)
    some = redshifts[:, np.linspace(0, redshifts.shape[1] - 1, _DRAWS).round().astype(int)]
    neighbours = ColourNeighbours(min(20, len(train))).fit(known.of("colour").values, spectra)
    regression = PhotometryRegression().fit(known.of(*CATALOGUE).values, spectra)
    return {
        "mean spectrum": np.tile(task.reference, (n, 1)).astype(np.float32),
        "neighbours in colour": neighbours.predict(asked.of("colour").values),
        "regression on photometry": regression.predict(asked.of(*CATALOGUE).values),
        "template at photo-z": template.predict(flux, error, np.median(redshifts, axis=1)),
        "template over p(z)": template.predict(flux, error, some),
        CEILINGS[0]: template.predict(flux, error, test.z),
    }


@dataclass(frozen=True, eq=False)
class Predicted:
    """Our answers for M galaxies.

    Attributes
    ----------
    mean, variance : numpy.ndarray
        (M, L) posterior mean and variance of every pixel, without noise.
    draw, at_median, at_truth : numpy.ndarray
        (M, L) a sharp draw; the mean at the median of p(z), and at the true redshift.
    draw_z : numpy.ndarray
        (M,) redshift of the draw.
    redshifts : numpy.ndarray
        (M, Q) equally probable redshifts.
    """

    mean: np.ndarray
    variance: np.ndarray
    draw: np.ndarray
    at_median: np.ndarray
    at_truth: np.ndarray
    draw_z: np.ndarray
    redshifts: np.ndarray


def ours(
    galaxies: Galaxies, model: PhotometricDecoder, kinds: tuple[str, ...] = KINDS, seed: int = 0
) -> Predicted:
    """Ask our model for spectra of galaxies."""
    photometry = _told(galaxies, kinds)
    redshifts = model.density.quantiles(photometry.features)
    mean, variance = model.moments(photometry)
    draw, draw_z = model.sample(photometry, np.random.default_rng(seed))
    at_median = model.at_redshift(photometry, np.median(redshifts, axis=1))
    at_truth = model.at_redshift(photometry, galaxies.z)
    return Predicted(mean, variance, draw, at_median, at_truth, draw_z, redshifts)
