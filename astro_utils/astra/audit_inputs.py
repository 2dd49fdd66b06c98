"""Checks of what ASTRA sees: colours that are left in scaled images, and where a stretch spends its range.

rows = [*colour_rows(galaxies, settings, "quick"), *stretch_rows(galaxies, settings, "quick")]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.ndimage import median_filter
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_utils.astra.audit_setup import AuditSettings, audit_row, interval, mean_with_interval
from astro_utils.astra.grid import synthetic_flux
from astro_utils.astra.normalisation import arcsin_scaling, arcsinh_scaling, bilateral_filter, noise_scaling
from astro_utils.astra.simulated import Galaxies
from astro_utils.kcorrections.audit_setup import weighted_scores
from astro_utils.sky.degrade import border_noise
from astro_utils.sky.surveys import SDSS

__all__ = [
    "QUANTITIES",
    "SCALINGS",
    "SOFTENING",
    "STRETCHES",
    "annulus_means",
    "colour_rows",
    "out_of_fold",
    "quantities",
    "stretch_rows",
    "stretched",
]

#: Noise of a pixel, nanomaggies: the median over the bands of SDSS.
SOFTENING = float(np.median(SDSS.sky_sigma))

#: Published scalings, each beside the same with one scale per galaxy, and the usual one.
SCALINGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "arcsin, each band alone": arcsin_scaling,
    "arcsin, one scale per galaxy": lambda images: arcsin_scaling(images, "galaxy"),
    "arcsinh, each band alone": arcsinh_scaling,
    "arcsinh, one scale per galaxy": lambda images: arcsinh_scaling(images, "galaxy"),
    "arcsinh of flux over noise": lambda images: noise_scaling(images, SOFTENING),
}
QUANTITIES = ("g - r", "redshift", "brightness")
STRETCHES = ("linear", "arcsin", "arcsinh", "arcsinh of flux over noise")

#: Outer radii of rings, in half sides of an image, of equal steps in the square root.
_RINGS = (np.arange(2, 9) / 8) ** 2
_COMPONENTS = 200  # of the kernel
_ALPHAS = 10.0 ** np.arange(-6, 2)
_R = SDSS.bands.index("r")


def annulus_means(images: np.ndarray) -> np.ndarray:
    """Mean of each band in rings about the centre.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, size, size), 32 pixels or more on a side.

    Returns
    -------
    numpy.ndarray
        (N, bands * rings), rings of a band together.
    """
    size = images.shape[-1]
    y, x = np.indices((size, size)) - (size - 1) / 2
    radius = np.hypot(y, x) / (size / 2)
    ring = np.digitize(radius, _RINGS)  # the corners, beyond the last, are left out
    masks = np.stack([(ring == k) / (ring == k).sum() for k in range(len(_RINGS))])
    return np.einsum("nbyx,kyx->nbk", images, masks).reshape(len(images), -1)


def quantities(galaxies: Galaxies) -> dict[str, np.ndarray]:
    """Return what is asked of scaled images, (N,) each.

    Returns
    -------
    dict
        Dereddened colour ``g - r``, mag; ``redshift``; ``brightness``, log10 of the r flux under the raw
        spectrum, by which a published target differs from its shape.
    """
    flux = galaxies.photometry.flux
    return {
        "g - r": -2.5 * np.log10(flux[:, 0] / flux[:, 1]),
        "redshift": galaxies.z,
        "brightness": np.log10(synthetic_flux(galaxies.raw, ["sdss2010-r"])[:, 0]),
    }


def out_of_fold(
    features: np.ndarray, targets: np.ndarray, fields: np.ndarray, n_folds: int, seed: int = 0
) -> np.ndarray:
    """Predict each galaxy by kernel ridge regression from galaxies of other fields.

    The kernel is a Gaussian of standardised features; penalties are chosen among the training galaxies.

    Parameters
    ----------
    features : numpy.ndarray
        (N, F).
    targets : numpy.ndarray
        (N, K).
    fields : numpy.ndarray
        (N,).
    n_folds, seed : int

    Returns
    -------
    numpy.ndarray
        (N, K).

    Raises
    ------
    ValueError
        When there are fewer fields than folds.
    """
    if (n_fields := len(np.unique(fields))) < n_folds:
        raise ValueError(f"{n_fields} fields for {n_folds} folds; expected at least as many fields")
    out = np.empty(targets.shape)
    for train, test in GroupKFold(n_folds).split(features, groups=fields):
        kernel = Nystroem(
            gamma=0.5 / features.shape[1], n_components=min(_COMPONENTS, len(train)), random_state=seed
        )
        model = make_pipeline(StandardScaler(), kernel, RidgeCV(_ALPHAS, alpha_per_target=True))
        found = model.fit(features[train], targets[train]).predict(features[test])
        out[test] = found.reshape(len(test), -1)  # of a single target RidgeCV makes one dimension
    return out


def colour_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask what is left of colour, redshift and brightness after a scaling; experiments ``from images: ...``.

    The same regression sees nothing but ring means of the scaled images; ``mean`` predicts that of the
    training galaxies. Metrics are ``r2``, and for a scaling of each band alone ``r2_loss`` against the same
    with one scale per galaxy, on the same galaxies and resamples.
    """
    weights, fields = settings.weights(galaxies.fields), galaxies.fields
    features = {name: annulus_means(scaling(galaxies.images)) for name, scaling in SCALINGS.items()}
    features["mean"] = np.zeros((len(galaxies), 1))
    asked = quantities(galaxies)
    targets = np.stack(list(asked.values()), 1)
    found = {
        name: out_of_fold(values, targets, fields, settings.n_folds, settings.seed)
        for name, values in features.items()
    }
    rows, n_train = [], len(galaxies) * (settings.n_folds - 1) // settings.n_folds
    for k, quantity in enumerate(asked):
        draws = {name: weighted_scores(f[:, k], targets[:, k], weights)["r2"] for name, f in found.items()}
        for name, r2 in draws.items():
            metrics = {"r2": interval(r2)}
            whole = name.replace("each band alone", "one scale per galaxy")
            if whole != name:
                metrics["r2_loss"] = interval(draws[whole] - r2)
            experiment = f"from images: {quantity}"
            rows.append(audit_row(profile, experiment, name, len(galaxies), metrics, n_train))
    return rows


def stretched(images: np.ndarray, flux: np.ndarray) -> dict[str, np.ndarray]:
    """Where fluxes come to lie between the lowest (0) and the highest (1) value of a scaled image.

    Parameters
    ----------
    images : numpy.ndarray
        (N, y, x) nanomaggies, one band.
    flux : numpy.ndarray
        (N, K) nanomaggies; beyond the range of an image its ends are taken.

    Returns
    -------
    dict of numpy.ndarray
        (N, K) for each of :data:`STRETCHES`. The first has the range of the image and no stretch; that of
        version 2 has percentiles of its filtered image as ends.
    """
    images, flux = np.asarray(images, dtype=float), np.asarray(flux, dtype=float)
    low, high = (function((1, 2))[:, None] for function in (images.min, images.max))
    linear = np.clip((flux - low) / (high - low), 0, 1)
    filtered = [
        bilateral_filter(median_filter(image + 0.01, 3), radius=2, sigma_value=0.5, sigma_pixels=5.0)
        for image in images
    ]
    first, last = np.percentile(filtered, [1, 99], axis=(1, 2))[..., None]
    return {
        "linear": linear,
        "arcsin": 0.5 + np.arcsin(2 * linear - 1) / np.pi,
        "arcsinh": _share(np.arcsinh(flux + 0.01), np.arcsinh(first), np.arcsinh(last)),
        "arcsinh of flux over noise": _share(
            *(np.arcsinh(values / SOFTENING) for values in (flux, low, high))
        ),
    }


def _share(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.clip((values - low) / (high - low), 0, 1)


def stretch_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask where the range of a scaled r image goes; experiment ``stretch``.

    Shares of the range, means over galaxies: ``sky_range`` from -2 to 2 times the noise of the sky in a
    pixel, ``outskirts_range`` from 2 to 20 times it, and ``core_range`` from half the brightest pixel to it.
    """
    noise = border_noise(galaxies.images)[:, _R]
    images = galaxies.images[:, _R]
    peak = images.max((1, 2)).astype(float)
    at = np.stack([-2 * noise, 2 * noise, 20 * noise, peak / 2, peak], 1)
    weights, rows = settings.weights(galaxies.fields), []
    for name, value in stretched(images, at).items():
        parts = {
            "sky_range": value[:, 1] - value[:, 0],
            "outskirts_range": value[:, 2] - value[:, 1],
            "core_range": value[:, 4] - value[:, 3],
        }
        metrics = {key: mean_with_interval(part, weights) for key, part in parts.items()}
        rows.append(audit_row(profile, "stretch", name, len(galaxies), metrics))
    return rows
