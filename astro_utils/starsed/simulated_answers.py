"""Answers of the classifier that learned on simulated fields, in the form of those of all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.starsed.classify import SAME
from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.psf_fits import FittedPsf
from astro_utils.starsed.simulated_correction import METHODS, SimulatedCorrection
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.stars import SUBSETS
from astro_utils.starsed.templates import CLASSES

__all__ = ["simulated_answers"]


def simulated_answers(
    exposure: Exposure,
    stars: str | Path | StarSet,
    fitted: FittedPsf,
    correction: SimulatedCorrection,
    *,
    psf: str | None = None,
) -> pd.DataFrame:
    """Answer as :mod:`astro_utils.starsed.classify` does, one row for each star and method.

    Parameters
    ----------
    exposure : Exposure
        The field of the stars.
    stars : path or StarSet
        A sample, of which the test stars are classified, or stars.
    fitted : FittedPsf
        Of that field.
    correction : SimulatedCorrection
    psf : str, optional
        Name of the PSF; by default that of :func:`astro_utils.starsed.classify.plan`, such as ``ours S1``.

    Returns
    -------
    pandas.DataFrame
        ``label, snr, predicted, p_O5 ... p_M5, field, test, psf, method``, the latter of :data:`METHODS`.
    """
    if not isinstance(stars, StarSet):
        stars = read_stars(stars, exposure.rows("test"))
    if psf is None:
        n = fitted.fit["n_stars"]
        names = [name for name, rows in SUBSETS.items() if rows == slice(0, n)]
        psf = f"{fitted.method} {names[0] if names else n}"
    tables = []
    posteriors = correction.log_posterior(stars, fitted, exposure.templates.weights)
    for flux, log_p in posteriors.items():
        table = pd.DataFrame(np.exp(log_p).astype(np.float32), columns=[f"p_{name}" for name in CLASSES])
        table.insert(0, "predicted", log_p.argmax(1).astype(np.int8))
        table.insert(0, "snr", stars.snr.astype(np.float32))
        table.insert(0, "label", stars.labels.astype(np.int8))
        tables.append(table.assign(field=exposure.field_seed, test=SAME, psf=psf, method=METHODS[flux]))
    return pd.concat(tables, ignore_index=True)
