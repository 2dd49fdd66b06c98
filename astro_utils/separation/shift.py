"""Experiment 3 done right: what to do about faint objects when one has learned from brighter ones.

Two things change between training and test: how often each class occurs at a given magnitude, and how noisy
the objects are. The first is a matter of the prior, and needs no retraining. *Inductive* results use the
training set alone; *transductive* ones also look at the test set, at its features or at its known mix, and
stand apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.photometry import SDSS_BANDS
from astro_utils.samples import Block, Column, SampleInfo, open_sample, write_sample
from astro_utils.separation.methods import Objects
from astro_utils.separation.sets import TASKS, Pool
from astro_utils.sky.degrade import degrade
from astro_utils.sky.surveys import SDSS

__all__ = [
    "MagnitudePrior",
    "degraded_objects",
    "known_mix",
    "read_degraded",
    "write_degraded",
]


@dataclass(frozen=True)
class MagnitudePrior:
    """Class shares of a training set as a function of r magnitude.

    Attributes
    ----------
    centres : numpy.ndarray
        (B,) centres of the bins in model r.
    shares : numpy.ndarray
        (B, K), rows sum to one.
    """

    centres: np.ndarray
    shares: np.ndarray

    @classmethod
    def of(cls, r: np.ndarray, labels: np.ndarray, n_classes: int, width: float = 0.25) -> MagnitudePrior:
        """Count classes in bins of `width`, with five objects of an even mix added to each."""
        index = np.floor((r - r.min()) / width).astype(int)
        counts = np.zeros((index.max() + 1, n_classes))
        np.add.at(counts, (index, labels), 1)
        counts += 5 / n_classes
        centres = r.min() + width * (np.arange(len(counts)) + 0.5)
        return cls(centres, counts / counts.sum(1, keepdims=True))

    def __call__(self, r: np.ndarray) -> np.ndarray:
        """Shares (N, K) at r (N,), linear between the centres and constant beyond them."""
        return np.stack([np.interp(r, self.centres, share) for share in self.shares.T], axis=1)

    def flatten(self, probabilities: np.ndarray, r: np.ndarray) -> np.ndarray:
        """Replace this prior by an even one at every magnitude: Bayes's rule, no retraining.

        An even prior is the choice that no mix of the test set can punish much; that set is not looked at.

        Parameters
        ----------
        probabilities : numpy.ndarray
            (N, K), calibrated under this prior.
        r : numpy.ndarray
            (N,) model r magnitudes.

        Returns
        -------
        numpy.ndarray
            (N, K).
        """
        weighted = probabilities / self(r)
        return weighted / weighted.sum(1, keepdims=True)


def known_mix(probabilities: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """Scale each class until the test set is called in its known mix: transductive.

    Parameters
    ----------
    probabilities : numpy.ndarray
        (N, K).
    mix : numpy.ndarray
        (K,) true shares of the test set.

    Returns
    -------
    numpy.ndarray
        (N, K) whose most probable classes occur nearly as often as `mix` says.
    """
    scale = np.zeros(probabilities.shape[1])
    log_p = np.log(np.clip(probabilities, 1e-12, 1))
    best, best_gap = scale, np.inf
    for step in 0.5 * 0.97 ** np.arange(200):
        called = np.bincount((log_p + scale).argmax(1), minlength=len(mix)) / len(log_p)
        gap = np.abs(called - mix).sum()
        if gap < best_gap:
            best, best_gap = scale, gap
        scale = scale + step * np.sign(mix - called)
    moved = np.exp(log_p + best)
    return moved / moved.sum(1, keepdims=True)


def degraded_objects(
    pool: Pool, *, per_class: int, seed: int, bright: float = 20.0, faint: float = 22.8
) -> Objects:
    """Bright objects of the compact set made faint in their pixels, and measured anew.

    Equally many of each class, with new magnitudes spread evenly between `bright` and `faint`.

    Parameters
    ----------
    pool : Pool
    per_class : int
        Objects of each class at most; an object is used once.
    seed : int
    bright, faint : float
        Originals are brighter than the first, and become model r magnitudes between the two.

    Returns
    -------
    Objects
        With the ``object_id`` of the originals, by which they follow them into training or validation.

    Raises
    ------
    ValueError
        When a class has no bright object.
    """
    rng = np.random.default_rng(seed)
    classes = TASKS["SGQ"]
    rows = pool.compact[pool.table["model_r"].to_numpy()[pool.compact] < bright]
    names = pool.table["class"].to_numpy()[rows]
    members = [rows[names == name] for name in classes]
    # No more of one class than of another: the faint end is to have no prior of its own.
    count = min(per_class, *map(len, members))
    if count == 0:
        raise ValueError(f"a class has no object brighter than r = {bright} to degrade")
    chosen = np.sort(np.concatenate([rng.permutation(one)[:count] for one in members]))
    r_new = rng.uniform(bright, faint, len(chosen))
    images, table = degrade(
        pool.images[chosen], pool.table.iloc[chosen].reset_index(drop=True), SDSS, r_new, rng
    )
    table = table.assign(model_r=table["dered_r"] + table["extinction_r"])
    measured = np.isfinite(table[[f"{k}_{b}" for k in ("dered", "radius") for b in SDSS_BANDS]]).all(axis=1)
    kept = np.flatnonzero(measured)
    table = table.iloc[kept].reset_index(drop=True)
    labels = pd.Categorical(table["class"], classes).codes.astype(np.int64)
    return Objects(table, images[kept], labels)


#: Columns of degraded objects that the networks read, or that say where an object came from.
_WRITTEN = ("object_id", "class", "model_r")


def write_degraded(path: str | Path, degraded: Objects, sky: str) -> Path:
    """Write degraded objects as a sample."""
    measured = [*MARGNET_FEATURES, *(f"sigma_{b}" for b in SDSS_BANDS)]
    table = degraded.table[[*_WRITTEN, *measured]].assign(ra=np.nan, dec=np.nan)
    columns = {name: Column("", f"{name}, measured on the dimmed stamp") for name in measured}
    columns |= {
        "object_id": Column("", "identifier of the original"),
        "class": Column("", "class of the original"),
        "model_r": Column("mag", "model r magnitude, not corrected for extinction, of the dimmed stamp"),
        "ra": Column("deg", "not kept"),
        "dec": Column("deg", "not kept"),
    }
    info = SampleInfo(
        "sdss",
        sky,
        SDSS_BANDS,
        SDSS.pixel_scale,
        provenance={"source": "objects of the compact set, dimmed in their pixels and measured again"},
    )
    return write_sample(path, [Block(table, columns, degraded.images.astype(np.float32))], info)


def read_degraded(path: str | Path) -> Objects:
    """Read what :func:`write_degraded` wrote."""
    with open_sample(path) as sample:
        table, images = sample.catalogue(), sample.images()
    labels = pd.Categorical(table["class"], TASKS["SGQ"]).codes.astype(np.int64)
    return Objects(table, images, labels)
