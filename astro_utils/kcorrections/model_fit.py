"""Fit a model of k-corrections for catalogues, with conformal intervals; :mod:`~.model_file` keeps it."""

from __future__ import annotations

import numpy as np

from astro_utils.kcorrections.kcorrect_fit import SYSTEM_RESPONSES
from astro_utils.kcorrections.kernel import KernelRegression
from astro_utils.kcorrections.model_file import (
    SOFTENING,
    TRACKS,
    KModel,
    catalogue_features,
    check_bands,
    predict_k,
)
from astro_utils.kcorrections.polynomials import KPolynomial, box_powers, fit_polynomial
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.splits import group_folds

__all__ = ["fit_k_model", "half_widths"]

#: :mod:`astro_utils.kcorrections.predictors`, for few features.
_LENGTHS = {
    "no redshift": {"colour": 1.55, "magnitude": 2.8, "error": 4.5},
    "redshift": {"colour": 1.75, "magnitude": 1.75, "error": 8.75, "redshift": 1.2},
}
_DEGREE = 7


def _fit(
    values: np.ndarray, k: np.ndarray, lengths: np.ndarray, track: str, seeds: range
) -> tuple[tuple[KernelRegression, ...], KPolynomial | None]:
    mean = fit_polynomial(values[:, -1:], k, box_powers(_DEGREE)) if track == "redshift" else None
    rest = k if mean is None else k - mean(values[:, -1:])
    ridge = 3e-6 if mean is None else 1e-6
    return tuple(
        KernelRegression(lengths=lengths, ridge=ridge, seed=s).fit(values, rest) for s in seeds
    ), mean


def fit_k_model(
    photometry: Photometry,
    k: np.ndarray,
    groups: np.ndarray,
    *,
    system: str,
    track: str,
    truth: str,
    sky: str,
    band: str = "r",
    band_shift: float = 0.1,
    errors: bool = False,
    level: float = 0.9,
    n_bins: int = 8,
    n_folds: int = 5,
    members: int = 3,
    seed: int = 0,
) -> KModel:
    """Fit a model, and find from galaxies that each fit has not seen how wrong it is.

    Parameters
    ----------
    photometry : Photometry
        All its bands are used; with redshifts above 0 for that track.
    k : numpy.ndarray
        (N,) true K, mag.
    groups : numpy.ndarray
        (N,) such as sky pixels, which are never on both sides of a fit whose errors are measured.
    system, track, truth, sky, band, band_shift, errors, level
        As in :class:`KModel`.
    n_bins : int
        Bins of equally many galaxies in which errors are measured.
    n_folds, members, seed : int
        Parts of the training set; kernels with other centres; of folds and of the first kernel.

    Returns
    -------
    KModel

    Raises
    ------
    ValueError
        When system or track is not known, a feature or K is not finite, or a bin has too few galaxies.
    """
    if system not in SOFTENING:
        raise ValueError(f"system {system!r}; expected one of {', '.join(SYSTEM_RESPONSES)}")
    if track not in TRACKS:
        raise ValueError(f"track {track!r}; expected one of {', '.join(TRACKS)}")
    bands, k = tuple(photometry.bands), np.asarray(k, dtype=float)
    check_bands(bands, system, band)
    features, names = catalogue_features(photometry, system, bands, errors=errors)
    if track == "redshift":
        features, names = features.join("redshift", photometry.z), (*names, "redshift")
    values, lengths = features.values, features.lengths(_LENGTHS[track])
    seeds = range(members * seed, members * (seed + 1))
    folds, held = group_folds(groups, n_folds, seed), np.empty(len(k))
    for fold in range(n_folds):
        train = folds != fold
        held[~train] = predict_k(*_fit(values[train], k[train], lengths, track, seeds), values[~train])
    by = photometry.z if track == "redshift" else held
    edges, widths = half_widths(np.abs(held - k), by, n_bins, level)
    kernels, mean = _fit(values, k, lengths, track, seeds)
    return KModel(
        system, bands, track, band, band_shift, errors, names, kernels, mean,
        values.min(0), values.max(0), level, edges, widths, truth, sky, len(k),
    )  # fmt: skip


def half_widths(
    error: np.ndarray, by: np.ndarray, n_bins: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Half widths of conformal intervals, bin by bin.

    Parameters
    ----------
    error : numpy.ndarray
        (N,) absolute errors of galaxies that the predictor has not seen.
    by : numpy.ndarray
        (N,) what the bins are in.
    n_bins : int
        Bins, with equally many galaxies each.
    level : float
        Wanted coverage.

    Returns
    -------
    edges : numpy.ndarray
        (B - 1,) between the bins; the outer ones have no end.
    widths : numpy.ndarray
        (B,) the ceil((n + 1) level)-th smallest error of the n in each bin (Vovk 2012, PMLR 25, 475). Errors
        from several folds belong to slightly worse predictors than the one fitted to all: the intervals are
        approximate, and rather too wide.

    Raises
    ------
    ValueError
        When there are too few galaxies in a bin for the level.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    edges = np.quantile(by, np.arange(1, n_bins) / n_bins)
    place, widths = np.searchsorted(edges, by, side="right"), np.empty(n_bins)
    for number in range(n_bins):
        inside = np.sort(error[place == number])
        rank = int(np.ceil((len(inside) + 1) * level * (1 - 1e-12)))
        if rank > len(inside):
            raise ValueError(
                f"{len(inside)} galaxies in bin {number} of {n_bins}: too few for intervals of {level:.0%}"
            )
        widths[number] = inside[rank - 1]
    return edges, widths
