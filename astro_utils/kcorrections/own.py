"""K-corrections of a reader's own galaxies.

photometry = read_photometry("mine.csv", "grz", "DECam")
table = own_k_corrections(photometry, [load_k_model("k.safetensors")], "DECam")
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.model_file import KModel
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.kcorrections.templates import MAX_CHI2

__all__ = ["output_columns", "own_k_corrections"]


def output_columns(band: str = "r") -> dict[str, str]:
    """Columns of :func:`own_k_corrections`, and what they hold, for K of one band."""
    return {
        f"k_{band}": "mag, K from the observed band to the shifted one, by the model; NaN without an answer",
        f"k_{band}_lo": "mag, lower end of the interval that holds K with the model's probability",
        f"k_{band}_hi": "mag, upper end of it",
        "track": "what the model was told: 'redshift', 'no redshift', or empty where there is no answer",
        "outside_training_range": "features beyond all training galaxies, by commas: the answer is a guess",
        "not_measured": "bands with an inverse variance of 0, by commas: there is no answer",
        f"k_{band}_kcorrect": "mag, K by kcorrect at the redshift; NaN without redshift or fit",
        "kcorrect_failure": "why there is none: 'no redshift', 'photometry', 'redshift' (not above 0, or too "
        "high), 'solver', 'empty'; or 'misfit', where there is one that does not follow the photometry",
    }


def own_k_corrections(photometry: Photometry, models: Sequence[KModel], system: str) -> pd.DataFrame:
    """Predict K of galaxies, with intervals, beside kcorrect's.

    Parameters
    ----------
    photometry : Photometry
        Of :func:`read_photometry`, with redshifts NaN where not known.
    models : sequence of KModel
        At most one of each track. Galaxies with a redshift take the one with redshift if it is there, all
        others the one without.
    system : str
        Of the photometry.

    Returns
    -------
    pandas.DataFrame
        One row a galaxy, with the columns of :func:`output_columns`. Intervals hold for galaxies like those
        of the training set.

    Raises
    ------
    ValueError
        When a model is of another system, wants a band that is not there, or the models are not of different
        tracks for one and the same K.
    """
    first = _check_models(models, photometry, system)
    n, name = len(photometry), f"k_{first.band}"
    k, width, track = np.full(n, np.nan), np.full(n, np.nan), np.full(n, "", dtype=object)
    outside = np.full(n, "", dtype=object)
    measured = photometry.only(first.bands).ivar > 0
    knows_z = np.isfinite(photometry.z)
    for model in sorted(models, key=lambda model: model.track == "redshift"):
        rows = np.flatnonzero(measured.all(1) & (knows_z | (model.track == "no redshift")))
        if len(rows):
            some = photometry.select(rows)
            k[rows] = model.predict(some)
            width[rows], outside[rows], track[rows] = (
                model.half_width(some, k[rows]),
                model.outside(some),
                model.track,
            )
    lost = [", ".join(np.array(first.bands)[~row]) for row in measured]
    fitted, failure = _kcorrect(photometry, first, system)
    values = (k, k - width, k + width, track, outside, lost, fitted, failure)
    table = pd.DataFrame(dict(zip(output_columns(first.band), values, strict=True)))
    table.attrs["units"] = {column: "mag" if column.startswith(name) else "" for column in table}
    return table


def _check_models(models: Sequence[KModel], photometry: Photometry, system: str) -> KModel:
    if not models:
        raise ValueError("no model of k-corrections is given")
    for model in models:
        if model.system != system:
            raise ValueError(
                f"the model is of {model.system}, the photometry of {system}: their bands differ, and so do K"
            )
        if missing := [band for band in model.bands if band not in photometry.bands]:
            raise ValueError(
                f"the model wants {', '.join(model.bands)}; the photometry has no {', '.join(missing)}"
            )
    same = {(model.bands, model.band, model.band_shift) for model in models}
    if len(same) > 1 or len({model.track for model in models}) < len(models):
        what = [(model.track, "".join(model.bands), model.band, model.band_shift) for model in models]
        raise ValueError(f"models of {what}; expected different tracks of the same bands and the same K")
    return models[0]


def _kcorrect(photometry: Photometry, model: KModel, system: str) -> tuple[np.ndarray, np.ndarray]:
    """Find kcorrect's K (N,) from the model's bands, and what went wrong (N,)."""
    k = np.full(len(photometry), np.nan)
    failure = np.full(len(photometry), "no redshift", dtype=object)
    rows = np.flatnonzero(np.isfinite(photometry.z))
    if len(rows):
        options = KcorrectOptions(
            model.bands, system, model.band, f"sdss_{model.band}0", band_shift=model.band_shift
        )
        run = run_kcorrect(photometry.select(rows), options)
        k[rows] = run.k
        misfit = (run.fit.failure == "") & ~(run.fit.chi2 < MAX_CHI2)
        failure[rows] = np.where(misfit, "misfit", run.fit.failure)
    return k, failure
