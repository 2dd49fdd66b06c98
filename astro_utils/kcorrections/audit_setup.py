"""What the audit of published k-corrections rests on: printed numbers, settings, real galaxies, scores."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from astro_utils.kcorrections.features import photometric_features
from astro_utils.kcorrections.real_sample import OPTICAL, Photometry, wheel_photometry
from astro_utils.kcorrections.truth import pseudo_truth
from astro_utils.photometry import asinh_magnitudes
from astro_utils.results import metric_row

__all__ = [
    "MAX_Z",
    "PRINTED",
    "AuditGalaxies",
    "AuditSettings",
    "audit_galaxies",
    "audit_row",
    "three_numbers",
    "weighted_scores",
    "with_interval",
]

#: End of the sample of most published scores.
MAX_Z = 0.37

#: Numbers that deep-KCorrect prints (repository jere1882/deep-KCorrect, notebooks and README).
PRINTED = {
    # Pairs that its tables give for one and the same prediction; its text calls the first of them MSE.
    "errors": {
        "kNN k = 64, z <= 0.37": (0.0427, 0.0018),
        "kcorrect, z < 0.37, training and test": (0.0462, 0.0021),
        "kcorrect, z < 0.37, test": (0.0456, 0.0021),
        "kcorrect r, all z, one band": (0.3957, 0.1566),
        "kcorrect r, all z": (0.0579, 0.0034),
        "kcorrect g, all z": (0.0599, 0.0036),
        "kcorrect z, all z": (0.0974, 0.0095),
    },
    "r2": 0.8564,  # kNN k = 64 on image embeddings, z <= 0.37
    "rmse": 0.0427,
    "mae": 0.0303,
    "kcorrect_test_rmse": 0.0456,  # kcorrect on the test sample alone
    "kcorrect_test_mae": 0.0287,
    "few_shot_mae": (0.10, 0.12),  # lowest and highest of the networks whose R2 is that of kNN
    "counts": {
        "galaxies": 197_976,
        "scored": 133_649,
        "iteration limit": 12_716,
        "singular": 87,
        "redshift": 76,
    },
    "absmag_g": {"mse": 710.0, "r2": -377.8},
    "switches": {
        ("BASS/MzLS", "r"): (0.3886,),
        ("DECam", "r"): (0.3884,),
        ("BASS/MzLS", "g"): (0.3033, 0.8144),
        ("DECam", "g"): (0.3156, 0.8143),
    },
}


@dataclass(frozen=True)
class AuditSettings:
    """Size of the experiments.

    Parameters
    ----------
    n_galaxies : int
        Real galaxies, at most 10,000; drawn by the seed.
    n_folds : int
        Parts of the sky.
    n_bootstrap : int
        Resamples of sky pixels for 95 % intervals.
    n_repeats : int
        Repetitions, two or more, of the experiment on model choice.
    n_noise : int
        Draws of noisy redshifts.
    n_solver : int
        Galaxies that an older solver is tried on.
    n_curves : int
        Galaxies that are moved in redshift.
    n_epochs : int
        Of the network in the experiment on model choice.
    seed : int

    Raises
    ------
    ValueError
        When a number is too small.
    """

    n_galaxies: int = 10_000
    n_folds: int = 5
    n_bootstrap: int = 300
    n_repeats: int = 6
    n_noise: int = 2
    n_solver: int = 300
    n_curves: int = 1000
    n_epochs: int = 50
    seed: int = 0

    def __post_init__(self):
        lowest = {"n_galaxies": 200, "n_folds": 2, "n_bootstrap": 20, "n_repeats": 2}
        for name in ("n_noise", "n_solver", "n_curves", "n_epochs"):
            lowest[name] = 1
        for name, number in lowest.items():
            if getattr(self, name) < number:
                raise ValueError(f"{name} is {getattr(self, name)}; expected {number} or more")


@dataclass(frozen=True, eq=False)
class AuditGalaxies:
    """Real galaxies with a pseudo-true K up to redshift :data:`MAX_Z`.

    Attributes
    ----------
    photometry : Photometry
        ugriz.
    features : numpy.ndarray
        (N, F) all features of grz of :func:`astro_utils.kcorrections.features.photometric_features`.
    k : numpy.ndarray
        (N,) K of r to r at band shift 0.1 by the ugriz fit, mag.
    coefficients : numpy.ndarray
        (N, T) templates of that fit.
    pixels : numpy.ndarray
        (N,) sky pixels.
    """

    photometry: Photometry
    features: np.ndarray
    k: np.ndarray
    coefficients: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.k)

    @property
    def z(self) -> np.ndarray:
        """Spectroscopic redshifts, (N,)."""
        return self.photometry.z

    @cached_property
    def three(self) -> np.ndarray:
        """Magnitude r and colours g - r, r - z, (N, 3)."""
        return three_numbers(self.photometry)


def audit_galaxies(settings: AuditSettings) -> AuditGalaxies:
    """Read the real galaxies, fit their K and keep those whose fit is sound, up to :data:`MAX_Z`."""
    photometry, sample = wheel_photometry()
    rng = np.random.default_rng(settings.seed)
    rows = np.sort(rng.permutation(len(photometry))[: settings.n_galaxies])
    photometry, sample = photometry.only(OPTICAL).select(rows), sample.iloc[rows]
    truth = pseudo_truth(photometry)
    keep = np.flatnonzero(truth.sound & (photometry.z > 0) & (photometry.z <= MAX_Z))
    return AuditGalaxies(
        photometry.select(keep),
        photometric_features(sample.iloc[keep], "grz").values,
        truth.k[keep],
        truth.fit.coefficients[keep],
        sample["pixel"].to_numpy()[keep],
    )


def three_numbers(photometry: Photometry) -> np.ndarray:
    """Dereddened magnitude r and colours g - r, r - z of ugriz photometry, (N, 3)."""
    _, g, r, _, z = asinh_magnitudes(*photometry.only(OPTICAL).dereddened())[0].T
    return np.stack([r, g - r, r - z], 1)


def weighted_scores(predicted: np.ndarray, true: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Scores under every row of weights.

    Parameters
    ----------
    predicted, true : numpy.ndarray
        (N,) finite, mag.
    weights : numpy.ndarray
        (R, N) of :func:`astro_utils.class_bootstrap.resample_weights`.

    Returns
    -------
    dict
        ``r2``, ``mae``, ``rmse`` and ``variance`` of the truth, (R,) each.
    """
    if predicted.shape != true.shape or weights.shape[1:] != true.shape:
        raise ValueError(
            f"predicted {predicted.shape}, true {true.shape}, weights {weights.shape}; "
            "expected (N,), (N,), (R, N)"
        )
    error, centred = predicted - true, true - true.mean()
    columns = np.stack([np.square(error), np.abs(error), centred, np.square(centred)], 1)
    squared, absolute, mean, power = (weights @ columns / weights.sum(1, dtype=float)[:, None]).T
    variance = power - mean**2
    return {"r2": 1 - squared / variance, "mae": absolute, "rmse": np.sqrt(squared), "variance": variance}


def with_interval(draws: np.ndarray) -> dict[str, float]:
    """Value (the first) and 95 % interval (of the others) of draws (R,)."""
    lo, hi = np.percentile(draws[1:], [2.5, 97.5])
    return {"value": float(draws[0]), "lo": float(lo), "hi": float(hi)}


def audit_row(
    profile: str, experiment: str, model: str, n_test: int, metrics: dict, n_train: int = 0, seeds: int = 1
) -> dict[str, Any]:
    """One row of metrics on real galaxies."""
    return metric_row(
        profile=profile,
        sky="real",
        experiment=experiment,
        model=model,
        n_train=int(n_train),
        n_test=int(n_test),
        seeds=int(seeds),
        metrics=metrics,
    )
