"""A small star field for tests: PSFs of two Gaussians that widen with wavelength, and 13 smooth spectra."""

from dataclasses import replace

import numpy as np

from astro_utils.models.star_features import N_CLASSES, StarSet

N_BINS, SIZE = 8, 16
WAVELENGTHS = np.linspace(0.57, 0.88, N_BINS)  # um


def spectra(contrast: float = 1.0) -> np.ndarray:
    """Templates (13, 8), from blue to red; `contrast` 0 makes all the same."""
    slopes = contrast * np.linspace(-3, 9, N_CLASSES)[:, None]
    flux = np.exp(slopes * (WAVELENGTHS - WAVELENGTHS.mean()))
    return flux / flux.sum(1, keepdims=True)


def gaussian_psfs(shapes: np.ndarray) -> np.ndarray:
    """Monochromatic PSFs (N, 8, 16, 16) from relative size, stretch and share of wide wings (N, 3)."""
    y, x = np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2
    size, stretch, wings = (shapes[:, k, None, None, None] for k in range(3))
    width = 1.5 * size * (WAVELENGTHS / WAVELENGTHS.mean())[:, None, None]  # (N, 8, 1, 1)
    square = (x**2 * (1 + stretch) + y**2 * (1 - stretch)) / width**2
    psfs = (1 - wings) * np.exp(-0.5 * square) + wings * np.exp(-0.5 * square / 1.6**2) / 1.6**2
    return psfs / psfs.sum((2, 3), keepdims=True)


def shape_derivatives(shapes: np.ndarray) -> np.ndarray:
    """Derivatives (N, 8, 3, 16, 16) of the PSFs with respect to the shapes."""
    step = 1e-4
    changes = [
        (gaussian_psfs(shapes + step * unit) - gaussian_psfs(shapes - step * unit)) / (2 * step)
        for unit in np.eye(3)
    ]
    return np.stack(changes, 2)


def star_field(
    seed: int,
    n: int,
    *,
    templates: np.ndarray | None = None,
    error: np.ndarray | None = None,
    blur: float = 0.1,
    scale: float = 1.0,
    labels: np.ndarray | None = None,
) -> StarSet:
    """Stars of unit flux with white noise, of which the PSF is known or, with `error` (3,), nearly so.

    Sizes vary over the field by a standard deviation `blur` about `scale`. The stated PSFs and derivatives
    are those of the shapes from which the stars' own differ by Gaussian errors of standard deviation `error`.
    """
    rng = np.random.default_rng(seed)
    templates = spectra() if templates is None else templates
    labels = rng.integers(len(templates), size=n) if labels is None else labels
    shapes = np.array([scale, 0, 0.2]) + rng.normal(size=(n, 3)) * np.array([blur, 0.05, 0.02])
    stated, derivatives = gaussian_psfs(shapes), None
    true = stated
    if error is not None:
        true = gaussian_psfs(shapes + rng.normal(size=(n, 3)) * error)
        derivatives = shape_derivatives(shapes)
    clean = np.einsum("nb,nbyx->nyx", templates[labels], true)
    ratio = rng.uniform(20, 110, n)  # of power
    sigma = np.sqrt((clean**2).sum((1, 2)) / (ratio * SIZE**2))
    stamps = clean + rng.normal(size=clean.shape) * sigma[:, None, None]
    return StarSet(stamps, labels, stated, sigma, derivatives)


def brighter(stars: StarSet, factors: np.ndarray) -> StarSet:
    """Return the same stars, with their noise, in other fluxes."""
    return replace(stars, stamps=stars.stamps * factors[:, None, None], sigma=stars.sigma * factors)
