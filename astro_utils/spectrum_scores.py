"""Scores of predicted galaxy spectra against observed ones with errors.

All spectra are on one wavelength grid. Every galaxy counts alike: its pixels are weighted by inverse variance
over their mean in that galaxy. A pixel without a measurement has inverse variance 0 and counts nowhere.

R2 over all pixels rewards blur where the redshift is uncertain, and a line in the wrong place costs twice.
R2 of the continuum, R2 after alignment and the redshift that a prediction shows tell these apart. Noise
bounds R2 below 1; the scores called ``free`` are those against spectra without noise, estimated by taking
the known noise variance off both sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from astro_utils.metrics import redshift_scores
from astro_utils.samples import Spectra

__all__ = [
    "INDICES",
    "aligned",
    "chi2_per_pixel",
    "continuum",
    "index_scores",
    "indices",
    "interval_coverage",
    "photometry_scores",
    "r2",
    "ranks",
    "recovered_redshift_scores",
    "retrieval",
    "spectrum_scores",
    "squares",
]

#: Bands in the rest frame, vacuum Angstrom: line, blue and red side (bands of the MaNGA data analysis
#: pipeline, Belfiore et al. 2019, AJ 158, 160).
INDICES = {
    "ew_ha": ((6557.6, 6571.6), (6483.0, 6513.0), (6623.0, 6653.0)),
    "ew_oiii": ((4998.2, 5018.2), (4978.2, 4998.2), (5028.2, 5048.2)),
}
#: The narrow break at 4,000 Angstrom (Balogh et al. 1999, ApJ 527, 54).
_BREAK = ((3850.0, 3950.0), (4000.0, 4100.0))


def _check(truth: Spectra, prediction: np.ndarray) -> np.ndarray:
    prediction = np.asarray(prediction)
    if prediction.shape != truth.flux.shape:
        raise ValueError(f"predictions of shape {prediction.shape}; expected {truth.flux.shape}")
    if not np.isfinite(prediction).all():
        raise ValueError(f"prediction {int(np.argmin(np.isfinite(prediction).all(1)))} is not finite")
    if not (truth.ivar > 0).any(1).all():
        raise ValueError(f"spectrum {int(np.argmin((truth.ivar > 0).any(1)))} has no measured pixel")
    return prediction


def chi2_per_pixel(truth: Spectra, prediction: np.ndarray) -> np.ndarray:
    """Mean of ivar (flux - prediction)^2 over the measured pixels of each galaxy, (N,)."""
    prediction = _check(truth, prediction)
    chi2 = (truth.ivar * np.square(truth.flux - prediction)).sum(1, dtype=float)
    return chi2 / (truth.ivar > 0).sum(1)


def r2(truth: Spectra, prediction: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Share of the variance about a reference that predictions explain.

    Parameters
    ----------
    truth : Spectra
    prediction : numpy.ndarray
        (N, L).
    reference : numpy.ndarray
        (L,) such as the mean training spectrum, which scores 0; or (N, L).

    Returns
    -------
    r2, free : float
        Against the noisy spectra, and estimated for spectra without noise.
    """
    error, noise = (values.sum() for values in squares(truth, _check(truth, prediction)))
    total = squares(truth, reference)[0].sum()
    return float(1 - error / total), float(1 - (error - noise) / (total - noise))


def squares(truth: Spectra, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the sums of which R2 is made, for each galaxy.

    Parameters
    ----------
    truth : Spectra
    other : numpy.ndarray
        (N, L) or (L,).

    Returns
    -------
    square, noise : numpy.ndarray
        (N,) sum over pixels of ivar (flux - other)^2, and the part of it that noise makes, both over the mean
        inverse variance of the galaxy.
    """
    scale = 1 / truth.ivar.mean(1, dtype=float)
    square = (truth.ivar * np.square(truth.flux - other)).sum(1, dtype=float)
    return scale * square, scale * (truth.ivar > 0).sum(1)


def continuum(truth: Spectra, prediction: np.ndarray, width: float = 100.0) -> tuple[Spectra, np.ndarray]:
    """Smooth spectra and predictions alike with a running mean weighted by inverse variance.

    Parameters
    ----------
    truth : Spectra
    prediction : numpy.ndarray
        (N, L) or (L,).
    width : float
        Of the window, Angstrom.

    Returns
    -------
    truth : Spectra
        With the inverse variance of the means, whose errors are related within a window.
    prediction : numpy.ndarray
        (N, L), 0 where nothing was measured.
    """
    wave = np.asarray(truth.wavelength, dtype=float)
    low = np.searchsorted(wave, wave - width / 2)
    high = np.searchsorted(wave, wave + width / 2, side="right")

    def window(values: np.ndarray) -> np.ndarray:
        total = np.pad(np.cumsum(values, axis=1, dtype=float), ((0, 0), (1, 0)))
        return total[:, high] - total[:, low]

    weight = window(truth.ivar)
    weight = np.where(weight > 1e-9 * weight.max(1, keepdims=True), weight, 0)
    safe = np.where(weight > 0, weight, 1)
    flux, smooth = (
        np.where(weight > 0, window(truth.ivar * values) / safe, 0) for values in (truth.flux, prediction)
    )
    return Spectra(wave, flux, weight), smooth


def aligned(
    truth: Spectra, prediction: np.ndarray, reference: np.ndarray, max_shift: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """Shift predictions to where they agree best, as if their redshift were right.

    Parameters
    ----------
    truth : Spectra
        On a grid of equal steps in log wavelength.
    prediction : numpy.ndarray
        (N, L).
    reference : numpy.ndarray
        (L,) which stands where a shifted prediction has no pixels.
    max_shift : float
        Largest shift, in ln(1 + z).

    Returns
    -------
    prediction : numpy.ndarray
        (N, L).
    shift : numpy.ndarray
        (N,) in ln(1 + z), by which each was moved redwards, whole pixels.
    """
    prediction = _check(truth, prediction)
    step = np.diff(np.log(truth.wavelength)).mean()
    reach = int(max_shift / step)
    n, length = prediction.shape
    out, shift = np.empty_like(prediction), np.empty(n, dtype=int)
    for i in range(n):
        # Padded by its own end values, so that all shifts are judged on the same pixels.
        views = sliding_window_view(np.pad(prediction[i], reach, mode="edge"), length)  # (2 reach + 1, L)
        w = truth.ivar[i]
        # sum w (f - p)^2 without the term that is the same for all shifts.
        squares = np.correlate(np.pad(np.square(prediction[i]), reach, mode="edge"), w, "valid")
        cross = np.correlate(np.pad(prediction[i], reach, mode="edge"), w * truth.flux[i], "valid")
        best = int(np.argmin(squares - 2 * cross))
        shift[i] = reach - best
        out[i] = views[best]
    at = np.arange(length) - shift[:, None]
    return np.where((at >= 0) & (at < length), out, reference), shift * step


def indices(wavelength: np.ndarray, flux: np.ndarray, z: np.ndarray) -> pd.DataFrame:
    """Break at 4,000 Angstrom and equivalent widths of lines.

    Parameters
    ----------
    wavelength : numpy.ndarray
        (L,) Angstrom, observed.
    flux : numpy.ndarray
        (N, L) F_lambda.
    z : numpy.ndarray
        (N,) redshifts.

    Returns
    -------
    pandas.DataFrame
        ``d4000``, the ratio of mean F_nu on the red and the blue side; ``ew_ha`` and ``ew_oiii``, rest-frame
        Angstrom, positive in emission, over a straight continuum between two sides. NaN where a band is not
        within the grid.
    """
    edges = np.sqrt(wavelength[1:] * wavelength[:-1])
    edges = np.concatenate([[wavelength[0] ** 2 / edges[0]], edges, [wavelength[-1] ** 2 / edges[-1]]])
    width = np.diff(edges)
    z = np.asarray(z, dtype=float)

    def integral(values: np.ndarray, band: tuple[float, float]) -> np.ndarray:
        """Integral over a rest-frame band of observed wavelengths, parts of pixels included."""
        total = np.pad(np.cumsum(values * width, axis=1, dtype=float), ((0, 0), (1, 0)))
        ends = np.array(band) * (1 + z[:, None])  # (N, 2)
        at = np.clip(np.searchsorted(edges, ends) - 1, 0, len(width) - 1)
        part = (ends - edges[at]) / width[at]
        rows = np.arange(len(values))[:, None]
        value = total[rows, at] * (1 - part) + total[rows, at + 1] * part
        inside = (ends[:, 0] >= edges[0]) & (ends[:, 1] <= edges[-1])
        return np.where(inside, value[:, 1] - value[:, 0], np.nan)

    def mean(values: np.ndarray, band: tuple[float, float]) -> np.ndarray:
        return integral(values, band) / ((band[1] - band[0]) * (1 + z))

    per_frequency = flux * wavelength**2
    blue, red = (mean(per_frequency, band) for band in _BREAK)
    with np.errstate(divide="ignore", invalid="ignore"):
        out = {"d4000": np.where(blue > 0, red / blue, np.nan)}
        for name, (line, *sides) in INDICES.items():
            (x0, y0), (x1, y1) = ((np.mean(side), mean(flux, side)) for side in sides)
            level = y0 + (np.mean(line) - x0) / (x1 - x0) * (y1 - y0)
            excess = mean(flux, line) / level - 1
            out[name] = np.where(level > 0, excess * (line[1] - line[0]), np.nan)
    return pd.DataFrame(out)


def index_scores(true: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, float]:
    """Errors of indices: ``<name>_bias`` (median) and ``<name>_mad`` (1.4826 median |error - median|)."""
    scores = {}
    for name in true:
        error = (predicted[name] - true[name]).to_numpy()
        error = error[np.isfinite(error)]
        middle = np.median(error) if len(error) else np.nan
        scores[f"{name}_bias"] = float(middle)
        scores[f"{name}_mad"] = float(1.4826 * np.median(np.abs(error - middle))) if len(error) else np.nan
    return scores


def recovered_redshift_scores(recovered: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """Scores of the redshifts that predictions show: ``z_sigma_mad``, ``z_bias``, ``z_eta_05``."""
    scores = redshift_scores(recovered, z)
    return {f"z_{name}": scores[name] for name in ("sigma_mad", "bias", "eta_05")}


def photometry_scores(synthetic: np.ndarray, flux: np.ndarray) -> dict[str, float]:
    """Residuals of synthetic photometry: (synthetic - flux) / flux.

    Parameters
    ----------
    synthetic, flux : numpy.ndarray
        (N, bands), of the prediction and of the catalogue in one unit, without the band of calibration.

    Returns
    -------
    dict
        ``photometry_mad``, 1.4826 median |residual| over galaxies and bands, and ``photometry_bias``, the
        band median that is farthest from 0.
    """
    residual = (np.asarray(synthetic) - flux) / flux
    medians = np.median(residual, 0)
    return {
        "photometry_mad": float(1.4826 * np.median(np.abs(residual))),
        "photometry_bias": float(medians[np.abs(medians).argmax()]),
    }


def retrieval(truth: Spectra, prediction: np.ndarray, ks: Sequence[int] = (1, 10)) -> dict[str, float]:
    """Find the prediction of each observed spectrum among the predictions of all galaxies.

    Predictions are ranked by the chi2 that they have with the observed spectrum. Its noise is then the same
    for all of them, which it is not if observed spectra are ranked for a prediction.

    Returns
    -------
    dict
        ``top_<k>``, shares of galaxies whose own prediction is among the k nearest, and ``rank``, the median
        rank from 1.
    """
    rank = ranks(truth, prediction)
    return {f"top_{k}": float((rank <= k).mean()) for k in ks} | {"rank": float(np.median(rank))}


def ranks(truth: Spectra, prediction: np.ndarray) -> np.ndarray:
    """Rank every galaxy's own prediction for its observed spectrum among all predictions.

    Predictions that are as near share the mean of their ranks: one prediction for all galaxies finds nobody.

    Returns
    -------
    numpy.ndarray
        (N,) from 1.
    """
    prediction = _check(truth, prediction).astype(float)
    ivar = np.asarray(truth.ivar, dtype=float)
    weighted = ivar * np.where(ivar > 0, truth.flux, 0)
    distance = ivar @ np.square(prediction).T - 2 * weighted @ prediction.T  # (observed, predicted)
    own = np.diag(distance)[:, None]
    alike = np.abs(distance - own) <= 1e-9 * np.abs(distance).max(1, keepdims=True)
    return 0.5 + ((distance < own) & ~alike).sum(1) + 0.5 * alike.sum(1)


def interval_coverage(truth: Spectra, lower: np.ndarray, upper: np.ndarray) -> float:
    """Share of measured pixels inside their interval (N, L), every galaxy counting alike."""
    measured = truth.ivar > 0
    inside = (truth.flux >= lower) & (truth.flux <= upper) & measured
    return float((inside.sum(1) / measured.sum(1)).mean())


def spectrum_scores(truth: Spectra, prediction: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Scores that need nothing but spectra.

    Parameters
    ----------
    truth : Spectra
    prediction : numpy.ndarray
        (N, L).
    reference : numpy.ndarray
        (L,) the mean training spectrum.

    Returns
    -------
    dict
        ``chi2``, the median over galaxies of the mean per pixel; ``r2``, ``r2_continuum``, ``r2_aligned`` and
        the same with ``_free``; and what :func:`retrieval` returns.
    """
    scores = {"chi2": float(np.median(chi2_per_pixel(truth, prediction)))}
    smooth, smooth_prediction = continuum(truth, prediction)
    _, smooth_reference = continuum(truth, np.broadcast_to(reference, prediction.shape))
    moved, _ = aligned(truth, prediction, reference)
    for name, cases in {
        "r2": (truth, prediction, reference),
        "r2_continuum": (smooth, smooth_prediction, smooth_reference),
        "r2_aligned": (truth, moved, reference),
    }.items():
        scores[name], scores[f"{name}_free"] = r2(*cases)
    return scores | retrieval(truth, prediction)
