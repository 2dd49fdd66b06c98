"""Spectral types of a reader's own stars: with the reader's PSFs, or with one fitted to the stars."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.models.star_likelihood import class_log_posterior, template_log_likelihood
from astro_utils.models.star_nuisances import pixel_noise
from astro_utils.psf import FieldInterpolator, Optics
from astro_utils.results import atomic
from astro_utils.starsed.likelihoods import OURS, log_likelihoods
from astro_utils.starsed.psf_fits import JOINT, FitBudget, PsfStars, fit_psf
from astro_utils.starsed.templates import CLASSES, Templates, templates
from astro_utils.starsed.upstream import StarFile, read_own_stars, read_upstream_stars

__all__ = ["classify_own", "example_file", "read_stars_file"]


def read_stars_file(path: str | Path) -> StarFile:
    """Read stars of any accepted format: a published ``.npy``, or one's own ``.npz`` or HDF5.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`astro_utils.starsed.upstream.read_upstream_stars` and
        :func:`~astro_utils.starsed.upstream.read_own_stars`, naming the file and the key.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected stars as .npz, HDF5 or a published .npy")
    return read_upstream_stars(path) if path.suffix == ".npy" else read_own_stars(path)


def example_file(path: str | Path, stamps: np.ndarray, positions: np.ndarray, sigma: np.ndarray) -> Path:
    """Write stars as a reader's own file, to show the format."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, stamps=stamps, positions=positions, sigma=sigma)
    return Path(path)


def classify_own(file: StarFile, spectra: str, optics: Optics, fit: Path, budget: FitBudget) -> pd.DataFrame:
    """Classify stars whose flux is not known.

    Parameters
    ----------
    file : StarFile
        With monochromatic PSFs in equal bins of 550-900 nm, which are taken for exact; or with positions in
        the field, and stamps that `optics` can make. Then the PSF is fitted to the stars and to their
        unknown types together, and its errors are integrated out. Known labels are used in this fit.
    spectra : {"stelib", "pickles"}
        Library of the 13 templates.
    optics : Optics
        Of the telescope, for stars without PSFs.
    fit : path
        Where to keep the fitted PSF.
    budget : FitBudget

    Returns
    -------
    pandas.DataFrame
        One line a star: ``x``, ``y``, ``type`` (the most probable), ``probability`` of it, the probability
        of being right within one class, and ``p_<class>``.

    Raises
    ------
    ValueError
        If stars have neither PSFs nor stamps of the size of the telescope's.
    """
    stars = file.stars
    if file.mono is not None:
        known = templates(spectra, file.mono.shape[1])
        noise = _noise(file, known)
        log_l = template_log_likelihood(stars.stamps, file.mono, known.weights, noise)
    else:
        if stars.stamps.shape[1:] != (optics.stamp, optics.stamp):
            raise ValueError(
                f"stamps have {stars.stamps.shape[1:]} pixels and no PSFs; "
                f"a PSF can be fitted to {(optics.stamp, optics.stamp)}"
            )
        known = templates(spectra, optics.bins, at_nm=1000 * optics.spectrum_wavelengths_um)
        log_l = _fit_and_judge(file, known, optics, fit, budget)
    return _catalogue(file, np.exp(class_log_posterior(log_l)))


def _noise(file: StarFile, known: Templates) -> np.ndarray:
    """Noise of each star, or of each of its pixels where photons count."""
    stars = file.stars
    if not np.isfinite(stars.gain):
        return stars.sigma
    rows = [
        pixel_noise(stars.stamps[i : i + 1], file.mono[i : i + 1], known.weights, stars.gain, sigma)
        for i, sigma in enumerate(stars.sigma)
    ]
    return np.concatenate(rows)


def _fit_and_judge(
    file: StarFile, known: Templates, optics: Optics, fit: Path, budget: FitBudget
) -> np.ndarray:
    stars = file.stars
    flux = stars.stamps.sum((1, 2))  # the fit is of images of flux one
    if not (flux > 0).all():
        raise ValueError(f"star {int((flux <= 0).argmax())} has a flux of {flux.min():g}; expected above 0")
    unit = replace(
        stars, stamps=(stars.stamps / flux[:, None, None]).astype(np.float32), sigma=stars.sigma / flux
    )
    sed = np.where(stars.labels[:, None] < 0, np.nan, known.weights[stars.labels])
    given = PsfStars(unit.positions, unit.stamps, unit.sigma, sed, known.weights)
    fitted = fit_psf(JOINT, given, optics, budget, fit)
    psf = FieldInterpolator(fitted.psf)
    return log_likelihoods(unit, psf, known.weights, fitted)[OURS]


def _catalogue(file: StarFile, p: np.ndarray) -> pd.DataFrame:
    best = p.argmax(1)
    near = np.abs(np.arange(p.shape[1]) - best[:, None]) <= 1
    table = pd.DataFrame(
        {
            "x": file.stars.positions[:, 0],
            "y": file.stars.positions[:, 1],
            "type": np.array(CLASSES)[best],
            "probability": p.max(1),
            "probability_within_one": (p * near).sum(1),
        }
    )
    return table.join(pd.DataFrame(p, columns=[f"p_{name}" for name in CLASSES]))
