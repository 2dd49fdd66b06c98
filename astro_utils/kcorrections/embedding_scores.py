"""How good embeddings are before any k-correction: retrieval, and redshifts without training (zero-shot).

AstroCLIP reports both for its embeddings (Parker et al. 2024, MNRAS 531, 4990): galaxies found again by the
other kind of data, and R2 of the redshift by nearest neighbours in the embedding.
"""

from __future__ import annotations

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

from astro_utils.kcorrections.scores import k_scores
from astro_utils.metrics import bootstrap

__all__ = ["normalised", "redshift_scores_of", "retrieval_ranks", "retrieval_scores"]


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """Embeddings (N, D) of length one."""
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def retrieval_ranks(queries: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Rank of the right galaxy among all of the library, by cosine similarity; 1 is the best.

    Parameters
    ----------
    queries, library : numpy.ndarray
        (N, D) embeddings of the same galaxies in the same order, such as images and spectra.

    Returns
    -------
    numpy.ndarray
        (N,) int. Of galaxies as similar as the right one, half count as better.
    """
    if queries.shape != library.shape:
        raise ValueError(f"queries {queries.shape} and library {library.shape}; expected the same galaxies")
    similarity = normalised(queries.astype(float)) @ normalised(library.astype(float)).T  # (N, N)
    gap = similarity - np.diag(similarity)[:, None]
    ties = (np.abs(gap) <= 1e-9).sum(1) - 1
    return 1 + (gap > 1e-9).sum(1) + ties // 2


def retrieval_scores(ranks: np.ndarray, groups: np.ndarray, n_bootstrap: int = 500) -> dict[str, dict]:
    """Shares of galaxies found first and among the first ten, and the median rank, with intervals.

    Parameters
    ----------
    ranks : numpy.ndarray
        (N,) from :func:`retrieval_ranks`.
    groups : numpy.ndarray
        (N,) parts of the sky.
    n_bootstrap : int
    """

    def score(rows: np.ndarray) -> dict[str, float]:
        some = ranks[rows]
        return {
            "top_1": float((some <= 1).mean()),
            "top_10": float((some <= 10).mean()),
            "median_rank": float(np.median(some)),
        }

    value, interval = score(np.arange(len(ranks))), bootstrap(score, groups, n_bootstrap)
    return {name: {"value": value[name], "lo": lo, "hi": hi} for name, (lo, hi) in interval.items()}


def redshift_scores_of(
    library: np.ndarray,
    z_library: np.ndarray,
    queries: np.ndarray,
    z: np.ndarray,
    groups: np.ndarray,
    *,
    k: int = 16,
    n_bootstrap: int = 500,
) -> dict[str, dict]:
    """R2 and errors of redshifts by nearest neighbours, weighted by inverse distance.

    Parameters
    ----------
    library, queries : numpy.ndarray
        (N, D) and (M, D) embeddings, or a few numbers in units of their spread.
    z_library, z : numpy.ndarray
        (N,) and (M,) redshifts.
    groups : numpy.ndarray
        (M,) parts of the sky.
    k : int
        Neighbours.
    n_bootstrap : int
    """
    predicted = KNeighborsRegressor(k, weights="distance").fit(library, z_library).predict(queries)

    def score(rows: np.ndarray) -> dict[str, float]:
        return k_scores(predicted[rows], z[rows])

    value, interval = score(np.arange(len(z))), bootstrap(score, groups, n_bootstrap)
    return {name: {"value": value[name], "lo": lo, "hi": hi} for name, (lo, hi) in interval.items()}
