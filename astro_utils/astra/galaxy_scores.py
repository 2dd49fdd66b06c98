"""Scores of predicted spectra galaxy by galaxy, and what they are together, with intervals by field.

R2 is a ratio of two sums over galaxies, and all other scores are medians or shares of galaxies: one table
with a line for each galaxy holds what any score of any part of them needs.

    table = galaxy_table(galaxies, prediction, reference, finder)
    scores(table)["r2_continuum"]
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from astro_utils.astra.grid import synthetic_flux
from astro_utils.astra.redshift_template import RedshiftFinder
from astro_utils.astra.simulated import Galaxies
from astro_utils.metrics import redshift_scores
from astro_utils.samples import Spectra
from astro_utils.spectrum_scores import (
    aligned,
    chi2_per_pixel,
    continuum,
    indices,
    ranks,
    squares,
)

__all__ = ["galaxy_table", "scores", "shape_table"]

_INDICES = ("d4000", "ew_ha", "ew_oiii")


def shape_table(truth: Spectra, prediction: np.ndarray, reference: np.ndarray) -> pd.DataFrame:
    """Give the sums of which R2 is made, for each galaxy.

    Parameters
    ----------
    truth : Spectra
        N observed spectra at unit r.
    prediction : numpy.ndarray
        (N, L).
    reference : numpy.ndarray
        (L,) the mean training spectrum.

    Returns
    -------
    pandas.DataFrame
        ``chi2`` per pixel; ``error``, ``total`` (about `reference`), ``level`` (about the galaxy's own mean)
        and ``noise`` as :func:`astro_utils.spectrum_scores.squares` has them; the same with ``c_`` of the
        continuum.
    """
    columns: dict[str, np.ndarray] = {"chi2": chi2_per_pixel(truth, prediction)}
    own = (truth.ivar * truth.flux).sum(1, keepdims=True) / truth.ivar.sum(1, keepdims=True)
    smooth, smooth_prediction = continuum(truth, prediction)
    columns["error"], columns["noise"] = squares(truth, prediction)
    columns["c_error"], columns["c_noise"] = squares(smooth, smooth_prediction)
    for name, other in (("total", reference[None]), ("level", own)):
        other = np.broadcast_to(other, prediction.shape)
        columns[name] = squares(truth, other)[0]
        columns[f"c_{name}"] = squares(smooth, continuum(truth, other)[1])[0]
    return pd.DataFrame(columns)


def galaxy_table(
    galaxies: Galaxies, prediction: np.ndarray, reference: np.ndarray, finder: RedshiftFinder
) -> pd.DataFrame:
    """All that is scored, for each galaxy.

    Parameters
    ----------
    galaxies : Galaxies
    prediction : numpy.ndarray
        (N, L) at unit r.
    reference : numpy.ndarray
        (L,) the mean training spectrum.
    finder : RedshiftFinder
        Finds the redshifts that predictions show.

    Returns
    -------
    pandas.DataFrame
        Columns of :func:`shape_table`; ``a_error``, the error after the best shift; ``z`` and
        ``z_recovered``; errors of ``d4000``, ``ew_ha`` and ``ew_oiii`` (Angstrom; NaN where a band is beyond
        the spectrum), each measured at the redshift that its spectrum shows; relative errors of synthetic
        photometry ``photometry_g`` and ``photometry_i``; ``rank`` in retrieval; ``r`` and ``red``.
    """
    truth = galaxies.spectra
    table = shape_table(truth, prediction, reference)
    table["a_error"] = squares(truth, aligned(truth, prediction, reference)[0])[0]
    table["z"], table["z_recovered"] = galaxies.z, finder(prediction)
    observed = indices(truth.wavelength, truth.flux, galaxies.z)
    shown = indices(truth.wavelength, prediction, np.maximum(table["z_recovered"], 0))
    for name in _INDICES:
        table[name] = shown[name] - observed[name]
    photometry = galaxies.photometry
    flat = Spectra(truth.wavelength, prediction, np.ones_like(prediction))
    synthetic = synthetic_flux(flat, photometry.filters)
    r = photometry.filters.index("sdss2010-r")
    for i, band in enumerate(photometry.filters):
        if i != r:
            wanted = photometry.flux[:, i] / photometry.flux[:, r]
            table[f"photometry_{band[-1]}"] = synthetic[:, i] / synthetic[:, r] / wanted - 1
    table["rank"] = ranks(truth, prediction)
    table["r"], table["red"] = galaxies.r, galaxies.is_red
    return table


def _mad(values: np.ndarray) -> tuple[float, float]:
    """Median and 1.4826 times the median absolute deviation from it."""
    values = values[np.isfinite(values)]
    if not len(values):
        return np.nan, np.nan
    middle = np.median(values)
    return float(middle), float(1.4826 * np.median(np.abs(values - middle)))


def scores(table: pd.DataFrame, rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
    """Scores of some galaxies, from whichever columns a table has.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`galaxy_table` or :func:`shape_table`.
    rows : numpy.ndarray or slice
        Line numbers, perhaps several times the same.

    Returns
    -------
    dict
        ``r2`` and ``r2_continuum`` about the mean training spectrum, with ``_level`` about each galaxy's own
        mean, and with ``_free`` against spectra without noise; ``r2_aligned`` and ``r2_aligned_free``; the
        median ``chi2``; ``z_sigma_mad``, ``z_bias``, ``z_eta_05``; ``<index>_bias`` and ``<index>_mad``;
        ``photometry_mad`` and ``photometry_bias``; ``top_1``, ``top_10`` and the median ``rank``.
    """
    columns = {name: table[name].to_numpy()[rows] for name in table if table[name].dtype.kind in "fib"}
    total = {name: values.sum() for name, values in columns.items() if name.endswith(_SUMS)}
    out = {"chi2": float(np.median(columns["chi2"]))}
    for score, error, noise, kinds in _R2:
        for suffix, about in kinds:
            if error in total:
                name = score + suffix
                out[name] = float(1 - total[error] / total[about])
                out[f"{name}_free"] = float(1 - (total[error] - total[noise]) / (total[about] - total[noise]))
    if "z_recovered" in columns:
        found = redshift_scores(columns["z_recovered"], columns["z"])
        out |= {f"z_{name}": found[name] for name in ("sigma_mad", "bias", "eta_05")}
    for name in _INDICES:
        if name in columns:
            out[f"{name}_bias"], out[f"{name}_mad"] = _mad(columns[name])
    if residuals := [columns[name] for name in columns if name.startswith("photometry_")]:
        medians = [float(np.median(values)) for values in residuals]
        out["photometry_mad"] = float(1.4826 * np.median(np.abs(np.concatenate(residuals))))
        out["photometry_bias"] = max(medians, key=abs)
    if "rank" in columns:
        out |= {f"top_{k}": float((columns["rank"] <= k).mean()) for k in (1, 10)}
        out["rank"] = float(np.median(columns["rank"]))
    return out


_SUMS = ("error", "total", "level", "noise")
#: Score, sum of the error, sum of the noise, and what variance is about.
_R2 = (
    ("r2", "error", "noise", (("", "total"), ("_level", "level"))),
    ("r2_continuum", "c_error", "c_noise", (("", "c_total"), ("_level", "c_level"))),
    ("r2_aligned", "a_error", "noise", (("", "total"),)),
)
