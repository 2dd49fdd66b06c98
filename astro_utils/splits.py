"""Splits that keep neighbours together: by HEALPix pixel on the sky, or by any other group.

Galaxies near one another share a calibration, a dust estimate and often a redshift; a split by object lets
that leak from training into test.
"""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy_healpix import HEALPix

__all__ = ["check_disjoint", "group_folds", "hold_out", "sky_pixels"]


def sky_pixels(ra: np.ndarray, dec: np.ndarray, nside: int = 8) -> np.ndarray:
    """HEALPix pixel (ring order) of each position.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    nside : int
        Resolution; 8 makes pixels of 7.3 degrees.

    Returns
    -------
    numpy.ndarray
        (N,) integers.
    """
    return HEALPix(nside=nside, order="ring").lonlat_to_healpix(
        np.asarray(ra) * u.deg, np.asarray(dec) * u.deg
    )


def group_folds(groups: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Assign each object a fold from 0 to `n_folds` - 1 such that no group is in two folds.

    Groups are shuffled by `seed` and then, largest first, put into the fold with the fewest objects, so that
    folds differ with the seed and are nearly equal in size.

    Raises
    ------
    ValueError
        When there are fewer groups than folds.
    """
    names, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < n_folds:
        raise ValueError(f"{len(names)} groups cannot fill {n_folds} folds")
    shuffled = np.random.default_rng(seed).permutation(len(names))
    # Stable sort of coarse sizes: groups of similar size keep their shuffled order, so seeds matter.
    size_class = np.floor(np.log2(counts[shuffled]))
    fold_of_group = np.empty(len(names), dtype=int)
    load = np.zeros(n_folds, dtype=int)
    for group in shuffled[np.argsort(-size_class, kind="stable")]:
        fold_of_group[group] = np.argmin(load)
        load[fold_of_group[group]] += counts[group]
    return fold_of_group[inverse]


def hold_out(groups: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Mask of objects whose whole groups are held out, about `fraction` of the groups, at least one.

    Raises
    ------
    ValueError
        When there are not two groups, one for each side.
    """
    names = np.unique(groups)
    if len(names) < 2:
        raise ValueError("one group cannot be on both sides of a split; expected at least two")
    n_held = min(max(1, round(fraction * len(names))), len(names) - 1)
    return np.isin(groups, np.random.default_rng(seed).choice(names, n_held, replace=False))


def check_disjoint(train: np.ndarray, test: np.ndarray, what: str) -> None:
    """Raise ValueError if any identifier `what` is in both `train` and `test`."""
    shared = np.intersect1d(train, test)
    if len(shared):
        share = np.isin(test, shared).mean()
        raise ValueError(
            f"{len(shared)} {what} are in both training and test set ({share:.1%} of the test rows), "
            f"such as {shared[:3].tolist()}"
        )
