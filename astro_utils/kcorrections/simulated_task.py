"""One sky of simulated galaxies made ready for predictors: split, photometric redshifts, embeddings.

Training and test galaxies lie on different parts of the sky. What a method is told of a training galaxy is
made without its part of the sky, where it is learned (photometric redshifts), so that training looks like the
test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.real_sample import MAX_REDSHIFT
from astro_utils.kcorrections.redshift_density import RedshiftDensity
from astro_utils.kcorrections.simulated import Galaxies
from astro_utils.kcorrections.simulated_features import catalogue_features
from astro_utils.kcorrections.small_astroclip import small_images
from astro_utils.kcorrections.template_grid import k_over_redshift, redshift_steps
from astro_utils.models.astroclip import AstroCLIP
from astro_utils.splits import check_disjoint, group_folds, hold_out

__all__ = ["OPTIONS", "TEST_SHARE", "Task", "prepare", "split"]

#: kcorrect as it should be run on the simulated Legacy Surveys.
OPTIONS = KcorrectOptions("grz", "DECam")
#: Share of the sky that is kept for the test.
TEST_SHARE = 0.4


@dataclass(frozen=True, eq=False)
class Task:
    """N galaxies of one sky below the redshift limit.

    Attributes
    ----------
    galaxies : Galaxies
    known : Knowledge
        Catalogue features, redshifts, kcorrect's K at them and templates at every redshift.
    images, spectra : numpy.ndarray
        (N, D) float32 embeddings.
    z_phot : numpy.ndarray
        (N,) medians of redshift densities from the catalogue.
    train, test : numpy.ndarray
        Indices of galaxies.
    """

    galaxies: Galaxies
    known: Knowledge
    images: np.ndarray
    spectra: np.ndarray
    z_phot: np.ndarray
    train: np.ndarray
    test: np.ndarray

    @property
    def k(self) -> np.ndarray:
        """True K of the r band (N,), mag."""
        return self.galaxies.k["r"]

    @property
    def features(self) -> Features:
        """Catalogue features."""
        return self.known.features

    def fewer(self, n_train: int, seed: int = 0) -> Task:
        """Train on so many galaxies; the test stays as it is."""
        chosen = np.random.default_rng(seed).permutation(self.train)[:n_train]
        return replace(self, train=np.sort(chosen))


def split(galaxies: Galaxies, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Part the sky: indices of training and of test galaxies."""
    held = hold_out(galaxies.pixels, TEST_SHARE, seed)
    train, test = np.flatnonzero(~held), np.flatnonzero(held)
    check_disjoint(galaxies.pixels[train], galaxies.pixels[test], "sky pixels")
    return train, test


def prepare(
    galaxies: Galaxies,
    clip: AstroCLIP,
    *,
    n_folds: int = 3,
    max_redshift: float = MAX_REDSHIFT,
    seed: int = 0,
) -> Task:
    """Cut galaxies at a redshift, split their sky, and compute what predictors are told.

    Parameters
    ----------
    galaxies : Galaxies
        Of one family, that `clip` has not seen.
    clip : AstroCLIP
        Trained on other parts of the sky.
    n_folds : int
        Folds by which photometric redshifts of training galaxies are made.
    max_redshift : float
    seed : int
        Of the split.
    """
    galaxies = galaxies.select(galaxies.z <= max_redshift)
    embeddings = [
        clip.embed_images(galaxies.images, batch_size=256, prepare=small_images),
        clip.embed_spectra(torch.from_numpy(galaxies.spectra), batch_size=256),
    ]
    train, test = split(galaxies, seed)
    photometry = galaxies.photometry
    known = Knowledge(
        features=catalogue_features(galaxies),
        groups=galaxies.pixels,
        z=galaxies.z,
        k_templates=run_kcorrect(photometry, OPTIONS).trusted,
        grid=k_over_redshift(photometry, OPTIONS, redshift_steps()),
    )
    z_phot = _photometric_redshifts(known, train, test, n_folds, seed)
    return Task(galaxies, known, *(e.numpy() for e in embeddings), z_phot, train, test)


def _photometric_redshifts(
    known: Knowledge, train: np.ndarray, test: np.ndarray, n_folds: int, seed: int
) -> np.ndarray:
    """Medians of p(z): of training galaxies out of fold, of the test from all of them; (N,)."""
    folds = group_folds(known.groups[train], n_folds, seed)
    out = np.empty(len(known))
    pairs = [(train[folds != fold], train[folds == fold]) for fold in range(n_folds)]
    for inside, outside in [*pairs, (train, test)]:
        density = RedshiftDensity(seed=seed).fit(
            known.features.select(inside), known.z[inside], known.groups[inside]
        )
        out[outside] = np.median(density.quantiles(known.features.select(outside)), axis=1)
    return out
