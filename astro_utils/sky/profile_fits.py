"""Profile fits to stamps: amplitudes of templates, the best radius between them, PSF and model fluxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.sky.profile_bank import RADII, SHAPES

__all__ = ["Projection", "best_fit", "model_fluxes", "project", "psf_fluxes"]

#: Largest error of a fitted radius, in steps of the radius grid: a fit that says nothing says this.
_MAX_STEP_VARIANCE = 4.0


@dataclass(frozen=True)
class Projection:
    """Stamps of one band against every template: (N, kinds, radii, shapes)."""

    product: np.ndarray
    gram: np.ndarray  # (3, kinds, radii, shapes): products of a template with those 0, 1 and 2 radii on
    gain_in_chi2: np.ndarray  # chi2 of an empty sky less that of the template, with the sky's noise
    variance: np.ndarray  # of the amplitude, with the object's own Poisson noise
    inflation: np.ndarray  # variance of a fitted radius with the object's Poisson noise over that without
    sigma: float


def project(stamps: np.ndarray, templates: np.ndarray, sigma: float, gain: float) -> Projection:
    """Multiply stamps (N, pixels) of one band with templates (kinds, radii, shapes, pixels).

    `sigma` is the noise of the sky in one pixel (nanomaggies), `gain` in photo-electrons per nanomaggy.
    """
    kinds, radii, shapes, _ = templates.shape
    flat = templates.reshape(-1, templates.shape[-1])
    gram = np.zeros((3, kinds, radii, shapes))
    for lag in range(3):
        gram[lag, :, : radii - lag] = np.einsum(
            "krsp,krsp->krs", templates[:, : radii - lag], templates[:, lag:]
        )
    norm = gram[0]
    product = (stamps @ flat.T).reshape(len(stamps), kinds, radii, shapes)
    bright = np.maximum(product / norm, 0) / gain
    cubes = np.einsum("jp,jp,jp->j", flat, flat, flat).reshape(norm.shape)
    # A radius is felt where the template changes with it, other than in its amplitude.
    change = np.gradient(templates, axis=1)
    overlap = np.einsum("krsp,krsp->krs", change, templates) / norm
    change = (change - overlap[..., None].astype(np.float32) * templates).reshape(flat.shape)
    square = change**2
    felt = (np.einsum("jp,jp->j", square, flat) / square.sum(1)).reshape(norm.shape)
    return Projection(
        product=product,
        gram=gram,
        gain_in_chi2=product * np.abs(product) / norm / sigma**2,
        variance=sigma**2 / norm + bright * cubes / norm**2,
        inflation=1 + bright * felt / sigma**2,
        sigma=sigma,
    )


def _parabola(offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the values at -1, 0 and 1 in the parabola through them, at `offset`."""
    return offset * (offset - 1) / 2, 1 - offset**2, offset * (offset + 1) / 2


def _interpolated(
    fit: Projection, kind: int, middle: np.ndarray, shape: np.ndarray, offset: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Product with the stamps, and norm, of templates between radii of the grid.

    Templates are interpolated, not their chi2: that of bright objects is no parabola over a step in radius.

    Parameters
    ----------
    middle, shape : numpy.ndarray
        (N, ...) positions on the grids of radii and shapes.
    offset : numpy.ndarray
        (N, ..., F), or what broadcasts to it: steps from the `middle` radius, -1 to 1.

    Returns
    -------
    product, norm : numpy.ndarray
        (N, ..., F).
    """
    rows = np.arange(len(middle)).reshape(-1, *[1] * (middle.ndim - 1))
    weights = dict(zip((-1, 0, 1), _parabola(offset), strict=True))
    product = sum(w * fit.product[rows, kind, middle + d, shape][..., None] for d, w in weights.items())
    norm = sum(
        # Each pair of different radii counts twice.
        (2 - (lag == 0)) * weights[d] * weights[d + lag] * fit.gram[lag, kind, middle + d, shape][..., None]
        for lag in (0, 1, 2)
        for d in range(-1, 2 - lag)
    )
    return product, norm


@dataclass(frozen=True)
class _Best:
    """The best radius, (N,) each: `offset` from a `middle` radius of the grid, with its variance."""

    middle: np.ndarray
    offset: np.ndarray
    variance: np.ndarray
    shape: np.ndarray
    gain_in_chi2: np.ndarray

    @property
    def radius(self) -> np.ndarray:
        """Arcsec."""
        weights = zip(_parabola(self.offset), (-1, 0, 1), strict=True)
        return sum(weight * RADII[self.middle + step] for weight, step in weights)

    @property
    def radius_error(self) -> np.ndarray:
        """Arcsec."""
        low, mid, high = (RADII[self.middle + step] for step in (-1, 0, 1))
        return np.sqrt(self.variance) * ((high - low) / 2 + (high + low - 2 * mid) * self.offset)


def best_fit(fit: Projection, kind: int) -> _Best:
    """Maximise the likelihood over radius and shape, between the radii of the grid too."""
    n, _, radii, shapes = fit.product.shape
    rows = np.arange(n)

    def gain_in_chi2(middle: np.ndarray, shape: np.ndarray, offset: np.ndarray) -> np.ndarray:
        product, norm = _interpolated(fit, kind, middle, shape, offset)
        return product * np.abs(product) / norm / fit.sigma**2

    # Every shape at its best radius: at those of the grid a wrong shape may be better than the right one.
    every, scan = np.arange(shapes), np.linspace(-1.0, 1.0, 21)
    middles = np.clip(fit.gain_in_chi2[:, kind].argmax(1), 1, radii - 2)
    best = gain_in_chi2(middles, every, scan).reshape(n, -1).argmax(1)
    shape, at = best // len(scan), scan[np.clip(best % len(scan), 1, len(scan) - 2)]
    middle = middles[rows, shape]

    def peak(at: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parabola through `at` and its neighbours: place and height of its top, curvature."""
        low, mid, high = gain_in_chi2(middle, shape, at[:, None] + width * np.array([-1, 0, 1])).T
        slope, curvature = (high - low) / 2, low + high - 2 * mid
        concave = curvature < 0
        top = np.where(concave, -slope / np.where(concave, curvature, -1.0), np.sign(slope))
        top = np.clip(top, -1.0, 1.0)
        return at + width * top, mid + slope * top + curvature * top**2 / 2, curvature / width**2

    offset, value, _ = peak(at, scan[1] - scan[0])
    # chi2 falls by one at one sigma: the variance of the step is -2 / curvature. Where a point source is as
    # good the top is sharp or flat by chance, so the curvature is that of half a step to either side.
    _, _, curvature = peak(np.clip(at, -0.5, 0.5), 0.5)
    inflation = fit.inflation[rows, kind, middle, shape]
    concave = curvature < -1e-6
    variance = np.where(concave, -2 * inflation / np.where(concave, curvature, -1.0), _MAX_STEP_VARIANCE)
    return _Best(middle, offset, np.minimum(variance, _MAX_STEP_VARIANCE), shape, value)


def psf_fluxes(fits: list[Projection]) -> dict[str, np.ndarray]:
    """Fluxes of the best point source in every band, and their inverse variances."""
    flux = [fit.product[:, 0, 0, 0] / fit.gram[0, 0, 0, 0] for fit in fits]
    return {
        "psf_flux": np.stack(flux, 1).astype(float),
        "psf_flux_ivar": 1 / np.stack([fit.variance[:, 0, 0, 0] for fit in fits], 1).astype(float),
    }


def model_fluxes(fits: list[Projection], reference: int) -> dict[str, np.ndarray]:
    """Fluxes in all bands with the shape that fits the reference band best."""
    best = [best_fit(fits[reference], kind) for kind in (0, 1)]
    difference = best[1].gain_in_chi2 - best[0].gain_in_chi2
    kind = (difference > 0).astype(int)
    doubt = 0.25 / np.cosh(np.clip(difference / 4, -50, 50)) ** 2  # p (1 - p) of the two kinds
    flux, variance = [], []
    for fit in fits:
        # (2, N): the flux and its variance under either kind
        both = np.array([_amplitude_at(fit, k, best[k]) for k in (0, 1)])
        chosen = np.where(kind == 1, both[1], both[0])
        flux.append(chosen[0])
        variance.append(chosen[1] + doubt * (both[1, 0] - both[0, 0]) ** 2)
    radius, shape = (
        np.where(kind == 1, getattr(best[1], n), getattr(best[0], n)) for n in ("radius", "shape")
    )
    return {
        "model_flux": np.stack(flux, 1).astype(float),
        "model_flux_ivar": 1 / np.stack(variance, 1).astype(float),
        "model_kind": kind,
        "model_radius": radius,
        "model_q": np.array([q for q, _ in SHAPES])[shape],
    }


def _amplitude_at(fit: Projection, kind: int, best: _Best) -> np.ndarray:
    """Flux of one kind of profile at the best radius, and its variance, (2, N)."""
    product, norm = _interpolated(
        fit, kind, best.middle, best.shape, best.offset[:, None] + np.array([-0.05, 0.0, 0.05])
    )
    low, flux, high = (product / norm).T
    noise = fit.variance[np.arange(len(flux)), kind, best.middle, best.shape]
    return np.array([flux, noise + ((high - low) / 0.1) ** 2 * best.variance])
