"""The published ASTRA code under executable checks, and what each finding costs by training.

    rows, curves = audit_rows(galaxies, AuditSettings(), "quick")
    costs = ablation_costs(read_metrics("ablation.json"))

:mod:`astro_utils.astra.audit_networks`, :mod:`astro_utils.astra.audit_inputs`,
:mod:`astro_utils.astra.audit_targets` and :mod:`astro_utils.astra.audit_validation` have the checks, this
module all of them in order; :mod:`astro_utils.astra.audit_findings` says what came of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from astro_utils.astra.audit_inputs import colour_rows, stretch_rows
from astro_utils.astra.audit_networks import attention_rows, parameter_rows, reading_rows, token_rows
from astro_utils.astra.audit_setup import AuditSettings
from astro_utils.astra.audit_targets import scale_rows, spike_rows, wavelength_rows
from astro_utils.astra.audit_validation import validation_rows
from astro_utils.astra.simulated import Galaxies

__all__ = ["COSTS", "V1", "V2", "ablation_costs", "audit_rows"]

#: The whole networks.
V1, V2 = "v1, mended", "v2, mended"
#: Finding, variant that has it, and the same without it.
COSTS = (
    (1, f"{V1} but patch CNN redrawn", V1),
    (1, f"{V1} but patch CNN frozen", V1),
    (2, f"{V1} but each band scaled alone, arcsinh", f"{V1} but one scale per galaxy, arcsinh"),
    (2, f"{V1} but each band scaled alone, arcsinh", V1),
    (3, f"{V1} but each band scaled alone, arcsin", V1),
    (3, f"{V1} but each band scaled alone, arcsin", f"{V1} but each band scaled alone, arcsinh"),
    (4, f"{V1} but targets of v1", V1),
    (4, f"{V1} but targets of v2", V1),
    (5, f"{V1} but stopped on the training set", V1),
    (6, f"{V2} but attention among frequencies", V2),
    (7, "v1, as published", V1),
    (7, "v2, as published", V2),
    (7, "mean spectrum", V1),
)
_SCORES = ("r2_continuum", "r2")


def audit_rows(
    galaxies: Galaxies, settings: AuditSettings, profile: str
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Run all checks.

    Parameters
    ----------
    galaxies : Galaxies
        Simulated, with a multiple of 16 pixels on a side, 48 or more.
    settings : AuditSettings
    profile : str
        Name of the profile for the rows.

    Returns
    -------
    rows : list of dict
        Of :func:`astro_utils.results.metric_row`.
    curves : pandas.DataFrame
        Of :func:`astro_utils.astra.audit_validation.validation_rows`.
    """
    galaxies = settings.sample(galaxies)
    of_sample = (token_rows, colour_rows, stretch_rows, spike_rows, scale_rows, attention_rows)
    rows = [row for part in of_sample for row in part(galaxies, settings, profile)]
    validation, curves = validation_rows(galaxies, settings, profile)
    fixed = (wavelength_rows, reading_rows, parameter_rows)
    return [*rows, *validation, *(row for part in fixed for row in part(profile))], curves


def _one(metrics: pd.DataFrame, experiment: str, model: str) -> pd.Series | None:
    rows = metrics[(metrics["experiment"] == experiment) & (metrics["model"] == model)]
    if len(rows) > 1:
        raise ValueError(f"{len(rows)} rows of experiment {experiment!r} and model {model!r}; expected one")
    return None if rows.empty else rows.iloc[0]


def ablation_costs(metrics: pd.DataFrame) -> pd.DataFrame:
    """Say for each finding what it costs a trained network.

    Parameters
    ----------
    metrics : pandas.DataFrame
        Rows of experiment ``ablation`` with ``r2`` and ``r2_continuum``, and of ``ablation, against whole``
        with ``r2_loss`` and ``r2_continuum_loss`` against the whole network and their intervals, from
        predictions for the same galaxies. Variants may be missing.

    Returns
    -------
    pandas.DataFrame
        A row for each pair of :data:`COSTS` of which both are there: ``finding``, ``model``, ``whole``, and
        the loss of both scores against it under ``r2_continuum_loss`` and ``r2_loss`` with ``_lo``, ``_hi``
        (NaN where no paired interval is known).

    Raises
    ------
    ValueError
        When no pair is there, or a variant stands twice.
    """
    rows = []
    for finding, broken, whole in COSTS:
        one, other = (_one(metrics, "ablation", name) for name in (broken, whole))
        if one is None or other is None:
            continue
        row = {"finding": finding, "model": broken, "whole": whole}
        # Paired intervals are against the whole networks alone.
        paired = _one(metrics, "ablation, against whole", broken) if whole in (V1, V2) else None
        for score in _SCORES:
            given = pd.Series(dtype=float) if paired is None else paired
            row[f"{score}_loss"] = given.get(f"{score}_loss", other[score] - one[score])
            row |= {f"{score}_loss_{end}": given.get(f"{score}_loss_{end}", np.nan) for end in ("lo", "hi")}
        rows.append(row)
    if not rows:
        present = sorted(metrics.loc[metrics["experiment"] == "ablation", "model"])
        raise ValueError(f"no finding has both its variants; models of experiment 'ablation': {present}")
    return pd.DataFrame(rows)
