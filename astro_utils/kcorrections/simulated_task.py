"""One sky of simulated galaxies made ready for predictors: split, photometric redshifts, embeddings.

Training and test galaxies lie on different parts of the sky. What a method is told of a training galaxy is
made without its part of the sky, where it is learned (photometric redshifts), so that training looks like the
test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.real_sample import MAX_REDSHIFT
from astro_utils.kcorrections.redshift_density import RedshiftDensity
from astro_utils.kcorrections.simulated import OUTPUT_BANDS, Galaxies, join
from astro_utils.kcorrections.simulated_features import catalogue_features
from astro_utils.kcorrections.small_astroclip import small_images
from astro_utils.kcorrections.template_grid import k_over_redshift, redshift_steps
from astro_utils.models.astroclip import AstroCLIP
from astro_utils.splits import check_disjoint, group_folds, hold_out

__all__ = ["OPTIONS", "TEST_SHARE", "Task", "ask_others", "prepare", "split"]

#: kcorrect as it should be run on the simulated Legacy Surveys, for each band whose K is wanted.
OPTIONS = {
    band: KcorrectOptions("grz", "DECam", observed=band, output=f"sdss_{band}0") for band in OUTPUT_BANDS
}
#: Share of the sky that is kept for the test.
TEST_SHARE = 0.4
_MARGIN = 0.06


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
    band : str
        Whose K is wanted.
    max_redshift : float
        Where the sample ends.
    """

    galaxies: Galaxies
    known: Knowledge
    images: np.ndarray
    spectra: np.ndarray
    z_phot: np.ndarray
    train: np.ndarray
    test: np.ndarray
    band: str = "r"
    max_redshift: float = MAX_REDSHIFT

    @property
    def k(self) -> np.ndarray:
        """True K of the band (N,), mag."""
        return self.galaxies.k[self.band]

    @property
    def last_redshift(self) -> float:
        """Where densities of photometric redshifts end: a little beyond the sample."""
        return self.max_redshift + _MARGIN

    @property
    def features(self) -> Features:
        """Catalogue features."""
        return self.known.features

    def fewer(self, n_train: int, seed: int = 0) -> Task:
        """Train on so many galaxies; the test stays as it is."""
        chosen = np.random.default_rng(seed).permutation(self.train)[:n_train]
        return replace(self, train=np.sort(chosen))

    def of_band(self, band: str) -> Task:
        """Ask for K of another band of the same galaxies."""
        known = _templates(self.known, self.galaxies, band, self.max_redshift)
        return replace(self, band=band, known=known)


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
    known = Knowledge(catalogue_features(galaxies), groups=galaxies.pixels, z=galaxies.z)
    known = _templates(known, galaxies, "r", max_redshift)
    z_phot = _photometric_redshifts(known, train, test, n_folds, max_redshift + _MARGIN, seed)
    arrays = (*(e.numpy() for e in embeddings), z_phot, train, test)
    return Task(galaxies, known, *arrays, max_redshift=max_redshift)


def ask_others(task: Task, clip: AstroCLIP, parts: Iterable[Galaxies], *, seed: int = 0) -> Task:
    """Put other galaxies in place of the test; the training galaxies and what is told of them stay.

    Parameters
    ----------
    task : Task
    clip : AstroCLIP
        As for :func:`prepare`.
    parts : iterable of Galaxies
        Of other parts of the sky than the training galaxies; those beyond the redshift limit are left out.
        Their images are embedded part by part and not kept.
    seed : int

    Returns
    -------
    Task
        Embeddings of spectra are NaN for the others.

    Raises
    ------
    ValueError
        When the others share a part of the sky with the training galaxies.
    """
    kept, embedded = [task.galaxies.select(task.train).light()], [task.images[task.train]]
    for part in parts:
        part = part.select(part.z <= task.max_redshift)
        embedded.append(clip.embed_images(part.images, batch_size=256, prepare=small_images).numpy())
        kept.append(part.light())
    galaxies, n_train = join(*kept), len(task.train)
    train, test = np.arange(n_train), np.arange(n_train, len(galaxies))
    check_disjoint(galaxies.pixels[train], galaxies.pixels[test], "sky pixels")
    known = Knowledge(catalogue_features(galaxies), groups=galaxies.pixels, z=galaxies.z)
    known = _templates(known, galaxies, task.band, task.max_redshift)
    z_phot = np.concatenate([task.z_phot[task.train], np.empty(len(test))])
    z_phot[test] = _median_redshifts(known, train, test, task.last_redshift, seed)
    spectra = np.full((len(galaxies), task.spectra.shape[1]), np.nan, np.float32)
    spectra[train] = task.spectra[task.train]
    arrays = (np.concatenate(embedded), spectra, z_phot, train, test)
    return Task(galaxies, known, *arrays, band=task.band, max_redshift=task.max_redshift)


def _templates(known: Knowledge, galaxies: Galaxies, band: str, max_redshift: float) -> Knowledge:
    """Add kcorrect's K of a band, at the redshifts and at all redshifts."""
    photometry, steps = galaxies.photometry, redshift_steps(max_redshift + _MARGIN + 0.02)
    return replace(
        known,
        k_templates=run_kcorrect(photometry, OPTIONS[band]).trusted,
        grid=k_over_redshift(photometry, OPTIONS[band], steps),
    )


def _photometric_redshifts(
    known: Knowledge, train: np.ndarray, test: np.ndarray, n_folds: int, last: float, seed: int
) -> np.ndarray:
    """Medians of p(z): of training galaxies out of fold, of the test from all of them; (N,)."""
    folds = group_folds(known.groups[train], n_folds, seed)
    out = np.empty(len(known))
    pairs = [(train[folds != fold], train[folds == fold]) for fold in range(n_folds)]
    for inside, outside in [*pairs, (train, test)]:
        out[outside] = _median_redshifts(known, inside, outside, last, seed)
    return out


def _median_redshifts(
    known: Knowledge, inside: np.ndarray, outside: np.ndarray, last: float, seed: int
) -> np.ndarray:
    """Medians of p(z), learned from some galaxies, of others; (M,)."""
    density = RedshiftDensity(max_redshift=last, seed=seed).fit(
        known.features.select(inside), known.z[inside], known.groups[inside]
    )
    return np.median(density.quantiles(known.features.select(outside)), axis=1)
