"""Photometry and shapes measured on stamps, by the same estimators for every class and for real pixels.

The quantities follow the definitions of the SDSS pipeline (Lupton et al. 2001, ASP 238, 269; Stoughton et al.
2002,
AJ 123, 485, section 4.4): PSF fluxes, de Vaucouleurs and exponential fits in each band, model fluxes with the
shape
of the better fit in the reference band, Petrosian fluxes in circular apertures of the reference band,
adaptive
moments. Errors come from the noise of the pixels and, for model fluxes, from that of the fitted size.
"""

from __future__ import annotations

from dataclasses import dataclass

import galsim
import numpy as np
from scipy.fft import irfft2, rfft2

from astro_utils.sky.profile_bank import RADII, SHAPES, ProfileBank
from astro_utils.sky.surveys import Survey

__all__ = ["Conditions", "measure"]

#: Largest error of a fitted radius, in steps of the radius grid: a fit that says nothing says this.
_MAX_STEP_VARIANCE = 4.0


@dataclass(frozen=True)
class Conditions:
    """What a pipeline knows of one field.

    Attributes
    ----------
    fwhm : numpy.ndarray
        (bands,) of the point-spread function, arcsec.
    sigma : numpy.ndarray
        (bands,) noise of the sky, nanomaggies per pixel.
    gain : numpy.ndarray
        (bands,) photo-electrons per nanomaggy.
    e1, e2 : float
        Shear of the point-spread function.
    """

    fwhm: np.ndarray
    sigma: np.ndarray
    gain: np.ndarray
    e1: float = 0.0
    e2: float = 0.0


def measure(
    images: np.ndarray, survey: Survey, conditions: Conditions, bank: ProfileBank
) -> dict[str, np.ndarray]:
    """Measure the stamps of one field.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, size, size) nanomaggies, the object near the middle.
    survey : Survey
    conditions : Conditions
    bank : ProfileBank
        Templates for the survey's pixels and this size of stamp.

    Returns
    -------
    dict of numpy.ndarray
        Per band, (N, bands): ``psf_flux``, ``model_flux``, ``petro_flux`` (nanomaggies) and their ``_ivar``;
        ``deVRad`` and ``deVRad_err`` (arcsec, half-light, major axis). Per object, (N,): ``x``, ``y``
        (centroid, pixels from the centre of the stamp), ``model_kind`` (0 de Vaucouleurs, 1 exponential),
        ``model_radius``, ``model_q``, ``petro_radius``, ``petro_r50``, ``petro_r90`` (arcsec),
        ``moment_size`` (arcsec), ``moment_e1``, ``moment_e2`` (adaptive moments, with the PSF in them; NaN
        where they do not converge), ``blank`` (stamps with no signal at all in some band, of which nothing
        can be measured: fluxes are 0 with no inverse variance there).

    Raises
    ------
    ValueError
        When the stamps have the wrong number of bands or the wrong size, or hold NaN.
    """
    n, n_bands, size, _ = images.shape
    if n_bands != len(survey.bands):
        raise ValueError(
            f"stamps have {n_bands} bands; {survey.name} has {len(survey.bands)} ({', '.join(survey.bands)})"
        )
    if images.shape[2:] != (bank.size, bank.size):
        raise ValueError(
            f"stamps have {images.shape[2]} x {images.shape[3]} pixels; the templates "
            f"{bank.size} x {bank.size}"
        )
    bad = ~np.isfinite(images).all(axis=(1, 2, 3))
    if bad.any():
        raise ValueError(
            f"stamp {int(np.flatnonzero(bad)[0])} holds NaN or infinite pixels; set them to 0 and flag it"
        )
    reference = survey.index
    blank = ~images.any(axis=(2, 3))
    x, y = centroids(images, conditions, survey)
    centred = recentre(images, x, y).reshape(n, n_bands, size * size)
    fits = [
        _project(
            centred[:, b],
            bank.templates(survey, conditions.fwhm[b], conditions.e1, conditions.e2),
            conditions.sigma[b],
            conditions.gain[b],
        )
        for b in range(n_bands)
    ]
    out = {"x": x, "y": y, "blank": blank.any(1)}
    radii = [_best(fit, kind=0) for fit in fits]
    # The templates' radii are geometric means of the axes; the survey quotes the major axis.
    stretch = 1 / np.sqrt(np.array([q for q, _ in SHAPES]))
    out["deVRad"] = np.stack([best.radius * stretch[best.shape] for best in radii], 1)
    out["deVRad_err"] = np.stack([best.radius_error * stretch[best.shape] for best in radii], 1)
    out |= _psf_fluxes(fits)
    out |= _model_fluxes(fits, reference)
    out |= _petrosian(centred, survey, conditions, bank.size)
    out |= _moments(images[:, reference], x, y, survey.pixel_scale)
    for name in ("psf_flux", "model_flux", "petro_flux"):
        out[name][blank] = 0.0
        out[f"{name}_ivar"][blank] = 0.0
    return out


# ------------------------------------------------------------------------------------------------ positions


def centroids(images: np.ndarray, conditions: Conditions, survey: Survey) -> tuple[np.ndarray, np.ndarray]:
    """Positions under a Gaussian weight of the width of the PSF, on the bands added by signal to noise.

    Returns
    -------
    x, y : numpy.ndarray
        (N,) pixels from the centre of the stamp, at most one pixel.
    """
    stacked = np.einsum("nbyx,b->nyx", images, (1 / conditions.sigma).astype(np.float32))
    size = images.shape[-1]
    grid = np.arange(size) - (size - 1) / 2
    width = float(np.mean(conditions.fwhm)) / 2.3548 / survey.pixel_scale
    x, y = np.zeros((2, len(images)))
    for _ in range(6):
        weight_x = np.exp(-0.5 * ((grid - x[:, None]) / width) ** 2)
        weight_y = np.exp(-0.5 * ((grid - y[:, None]) / width) ** 2)
        rows = np.einsum("nyx,ny->nx", stacked, weight_y)
        columns = np.einsum("nyx,nx->ny", stacked, weight_x)
        total = np.einsum("nx,nx->n", rows, weight_x)
        safe = np.where(total > 0, total, np.inf)
        # A Gaussian source under a weight of its own width shows half its displacement, hence the factor.
        x = np.clip(x + 2 * np.einsum("nx,nx->n", rows, weight_x * (grid - x[:, None])) / safe, -1, 1)
        y = np.clip(y + 2 * np.einsum("ny,ny->n", columns, weight_y * (grid - y[:, None])) / safe, -1, 1)
    return x, y


def recentre(images: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Shift stamps by a Fourier phase so that (x, y) comes to the centre; white noise stays white."""
    ny, nx = images.shape[-2:]
    phase_y = np.exp(2j * np.pi * np.fft.fftfreq(ny) * y[:, None])
    phase_x = np.exp(2j * np.pi * np.fft.rfftfreq(nx) * x[:, None])
    phase = (phase_y[:, :, None] * phase_x[:, None, :]).astype(np.complex64)
    return irfft2(rfft2(images, axes=(-2, -1)) * phase[:, None], s=(ny, nx), axes=(-2, -1))


# ------------------------------------------------------------------------------------------- profile fitting


@dataclass(frozen=True)
class _Projection:
    """Stamps of one band against every template: (N, kinds, radii, shapes)."""

    product: np.ndarray
    gram: np.ndarray  # (3, kinds, radii, shapes): products of a template with those 0, 1 and 2 radii on
    gain_in_chi2: np.ndarray  # chi2 of an empty sky less that of the template, with the sky's noise
    variance: np.ndarray  # of the amplitude, with the object's own Poisson noise
    inflation: np.ndarray  # variance of a fitted radius with the object's Poisson noise over that without
    sigma: float


def _project(stamps: np.ndarray, templates: np.ndarray, sigma: float, gain: float) -> _Projection:
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
    return _Projection(
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
    fit: _Projection, kind: int, middle: np.ndarray, shape: np.ndarray, offset: np.ndarray
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


def _best(fit: _Projection, kind: int) -> _Best:
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


def _psf_fluxes(fits: list[_Projection]) -> dict[str, np.ndarray]:
    flux = [fit.product[:, 0, 0, 0] / fit.gram[0, 0, 0, 0] for fit in fits]
    return {
        "psf_flux": np.stack(flux, 1).astype(float),
        "psf_flux_ivar": 1 / np.stack([fit.variance[:, 0, 0, 0] for fit in fits], 1).astype(float),
    }


def _model_fluxes(fits: list[_Projection], reference: int) -> dict[str, np.ndarray]:
    """Fluxes in all bands with the shape that fits the reference band best."""
    best = [_best(fits[reference], kind) for kind in (0, 1)]
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


def _amplitude_at(fit: _Projection, kind: int, best: _Best) -> np.ndarray:
    """Flux of one kind of profile at the best radius, and its variance, (2, N)."""
    product, norm = _interpolated(
        fit, kind, best.middle, best.shape, best.offset[:, None] + np.array([-0.05, 0.0, 0.05])
    )
    low, flux, high = (product / norm).T
    noise = fit.variance[np.arange(len(flux)), kind, best.middle, best.shape]
    return np.array([flux, noise + ((high - low) / 0.1) ** 2 * best.variance])


# ------------------------------------------------------------------------------------ apertures and moments


def _apertures(size: int, pixel_scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Circular apertures about the centre: radii (arcsec), weights (pixels, A) and areas (pixels)."""
    largest = size / 2 * pixel_scale
    step = np.sqrt(1.25)  # so that 0.8 r and 1.25 r of the Petrosian ratio are apertures too
    count = int(np.floor(np.log(largest / 0.35) / np.log(step))) + 1
    radii = largest * step ** np.arange(-count + 1, 1.0)
    fine = (np.arange(size * 5) - (size * 5 - 1) / 2) / 5 * pixel_scale
    distance = np.hypot(fine[:, None], fine[None, :])
    weights = np.stack(
        [(distance <= radius).reshape(size, 5, size, 5).mean(axis=(1, 3)).ravel() for radius in radii], 1
    )
    return radii, weights.astype(np.float32), weights.sum(0)


def _petrosian(
    stamps: np.ndarray, survey: Survey, conditions: Conditions, size: int
) -> dict[str, np.ndarray]:
    """Petrosian radius, fluxes within twice that radius, and the radii of 50 and 90 % of the light.

    The Petrosian ratio is the surface brightness in an annulus of 0.8 r to 1.25 r over that within r; the
    radius is where it falls to 0.2 (Blanton et al. 2001, AJ 121, 2358, eq. 1).
    """
    radii, weights, areas = _apertures(size, survey.pixel_scale)
    inside = stamps @ weights  # (N, bands, A)
    curve = inside[:, survey.index]
    n, count = curve.shape
    mean = np.maximum(curve / areas, 1e-9)
    ratio = np.full((n, count), 1.0)
    ratio[:, 2:-2] = (curve[:, 4:] - curve[:, :-4]) / (areas[4:] - areas[:-4]) / mean[:, 2:-2]
    crossing = ratio[:, 2:-2] < 0.2
    found = crossing.any(1)
    first = np.where(found, crossing.argmax(1) + 2, count - 3)
    rows = np.arange(n)
    above, below = ratio[rows, first - 1], ratio[rows, first]
    part = np.clip((above - 0.2) / np.where(above > below, above - below, 1.0), 0, 1)
    part = np.where(found, part, 1.0)
    radius = np.exp(np.log(radii[first - 1]) + part * np.log(radii[first] / radii[first - 1]))
    aperture = np.minimum(2 * radius, radii[-1])
    flux = np.stack([_interpolate(inside[:, b], radii, aperture) for b in range(inside.shape[1])], 1)
    area = np.interp(aperture, radii, areas)[:, None]
    variance = area * conditions.sigma**2 + np.maximum(flux, 0) / conditions.gain
    total = flux[:, survey.index]
    out = {
        "petro_flux": flux.astype(float),
        "petro_flux_ivar": (1 / variance).astype(float),
        "petro_radius": radius,
    }
    for name, share in (("petro_r50", 0.5), ("petro_r90", 0.9)):
        reached = np.maximum.accumulate(curve, axis=1) >= share * total[:, None]
        index = np.where(reached.any(1), reached.argmax(1), count - 1)
        lower = np.where(index > 0, curve[rows, index - 1], 0.0)
        inner = np.where(index > 0, radii[index - 1], 0.0)
        rise = np.where(curve[rows, index] > lower, curve[rows, index] - lower, 1.0)
        out[name] = inner + np.clip((share * total - lower) / rise, 0, 1) * (radii[index] - inner)
    return out


def _interpolate(values: np.ndarray, grid: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Linear interpolation of each row of `values` (N, A) on `grid` at one place per row."""
    index = np.clip(np.searchsorted(grid, at) - 1, 0, len(grid) - 2)
    part = (at - grid[index]) / (grid[index + 1] - grid[index])
    rows = np.arange(len(values))
    return values[rows, index] * (1 - part) + values[rows, index + 1] * part


def _moments(stamps: np.ndarray, x: np.ndarray, y: np.ndarray, pixel_scale: float) -> dict[str, np.ndarray]:
    """Adaptive second moments (Hirata & Seljak 2003, MNRAS 343, 459) by GalSim's HSM module."""
    out = np.full((len(stamps), 3), np.nan)
    size = stamps.shape[-1]
    for i, stamp in enumerate(stamps):
        image = galsim.Image(np.ascontiguousarray(stamp), scale=1.0)
        guess = galsim.PositionD(x[i] + (size + 1) / 2, y[i] + (size + 1) / 2)
        result = galsim.hsm.FindAdaptiveMom(image, guess_centroid=guess, guess_sig=2.0, strict=False)
        if result.error_message == "":
            out[i] = result.moments_sigma * pixel_scale, result.observed_shape.e1, result.observed_shape.e2
    return {"moment_size": out[:, 0], "moment_e1": out[:, 1], "moment_e2": out[:, 2]}
