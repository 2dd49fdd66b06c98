"""Photometry and shapes measured on stamps, by the same estimators for every class and for real pixels.

The quantities follow the definitions of the SDSS pipeline (Lupton et al. 2001, ASP 238, 269; Stoughton et
al. 2002, AJ 123, 485, section 4.4): PSF fluxes, de Vaucouleurs and exponential fits in each band, model
fluxes with the shape of the better fit in the reference band, Petrosian fluxes in circular apertures of the
reference band, adaptive moments. Errors come from the noise of the pixels and, for model fluxes, from that of
the fitted size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft2, rfft2

from astro_utils.sky.apertures import adaptive_moments, petrosian
from astro_utils.sky.profile_bank import SHAPES, ProfileBank
from astro_utils.sky.profile_fits import best_fit, model_fluxes, project, psf_fluxes
from astro_utils.sky.surveys import Survey

__all__ = ["Conditions", "measure"]


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
        project(
            centred[:, b],
            bank.templates(survey, conditions.fwhm[b], conditions.e1, conditions.e2),
            conditions.sigma[b],
            conditions.gain[b],
        )
        for b in range(n_bands)
    ]
    out = {"x": x, "y": y, "blank": blank.any(1)}
    radii = [best_fit(fit, kind=0) for fit in fits]
    # The templates' radii are geometric means of the axes; the survey quotes the major axis.
    stretch = 1 / np.sqrt(np.array([q for q, _ in SHAPES]))
    out["deVRad"] = np.stack([best.radius * stretch[best.shape] for best in radii], 1)
    out["deVRad_err"] = np.stack([best.radius_error * stretch[best.shape] for best in radii], 1)
    out |= psf_fluxes(fits)
    out |= model_fluxes(fits, reference)
    out |= petrosian(centred, survey.index, survey.pixel_scale, bank.size, conditions.sigma, conditions.gain)
    out |= adaptive_moments(images[:, reference], x, y, survey.pixel_scale)
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
