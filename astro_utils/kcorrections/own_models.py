"""The models of k-corrections that come with the repository for a reader's own SDSS galaxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.kcorrections.model_file import save_k_model
from astro_utils.kcorrections.model_fit import fit_k_model
from astro_utils.kcorrections.own_catalogue import example_rows
from astro_utils.kcorrections.real_sample import OPTICAL, Photometry
from astro_utils.kcorrections.truth import KTruth

__all__ = ["sdss_models"]

#: Redshift to which they are trained.
_MAX_REDSHIFT = 0.45


def sdss_models(photometry: Photometry, truth: KTruth, sample: pd.DataFrame, folder: Path) -> dict[str, Path]:
    """Fit models without and with redshift to all real galaxies but those of the example, and write them.

    Parameters
    ----------
    photometry : Photometry
        Of :func:`astro_utils.kcorrections.real_sample.wheel_photometry`, as is `sample`.
    truth : KTruth
        From ugriz.
    sample : pandas.DataFrame
        With ``pixel``.
    folder : pathlib.Path

    Returns
    -------
    dict of str to pathlib.Path
        Track to the file, ``sdss_<track>.safetensors``.
    """
    usable = truth.sound & (photometry.z < _MAX_REDSHIFT)
    rows = np.setdiff1d(np.flatnonzero(usable), example_rows(len(photometry)))
    files = {}
    for track in ("no redshift", "redshift"):
        model = fit_k_model(
            photometry.only(OPTICAL).select(rows),
            truth.k[rows],
            sample["pixel"].to_numpy()[rows],
            system="SDSS",
            track=track,
            truth="kcorrect's templates fitted to ugriz",
            sky="real",
        )
        files[track] = folder / f"sdss_{track.replace(' ', '_')}.safetensors"
        save_k_model(files[track], model)
    return files
