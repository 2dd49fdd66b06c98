"""Scores of redshifts from images: galaxy by galaxy, and against another method on the same galaxies."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from astro_utils import densities, photoz
from astro_utils.metrics import redshift_scores, summarise
from astro_utils.photoz_images import (
    BOTH,
    CATALOGUE,
    CEILING,
    CEILING_TOTAL,
    IMAGES,
    MEASURED,
    PHOTOMETRY,
    PHOTOMETRY_ENCODER,
    Task,
)
from astro_utils.photoz_sky import Galaxies
from astro_utils.results import metric_row

__all__ = ["ENSEMBLE", "MODELS", "PHOTOMETRY_ENSEMBLE", "TRIVIAL", "gain_rows", "predictions"]

TRIVIAL = photoz.TRIVIAL
ENSEMBLE = "images and catalogue, encoder + perceptron"
PHOTOMETRY_ENSEMBLE = "photometry alone, encoder + perceptron"

#: Mean densities of two methods: of the best with images, and, to be fair, of the best without.
_MEANS = {PHOTOMETRY_ENSEMBLE: (PHOTOMETRY_ENCODER, PHOTOMETRY), ENSEMBLE: (BOTH, MEASURED)}

#: All that are scored, in the order of tables.
MODELS = (
    *(TRIVIAL, PHOTOMETRY, PHOTOMETRY_ENCODER, PHOTOMETRY_ENSEMBLE, CATALOGUE),
    *(IMAGES, BOTH, MEASURED, ENSEMBLE, CEILING_TOTAL, CEILING),
)

_SCORES = {"pit": densities.pit, "crps": densities.crps, "cde": densities.cde_loss}


def predictions(answers: Mapping[Task, np.ndarray], galaxies: Galaxies) -> pd.DataFrame:
    """Score densities galaxy by galaxy, and add the trivial baseline and ensembles.

    Parameters
    ----------
    answers : mapping of Task to numpy.ndarray
        What :func:`run_tasks` yields.
    galaxies : Galaxies

    Returns
    -------
    pandas.DataFrame
        One row for each experiment, model, seed and galaxy of the test set, with the columns that
        :func:`astro_utils.photoz.metric_rows` reads. The models :data:`ENSEMBLE` and
        :data:`PHOTOMETRY_ENSEMBLE` are mean densities of an encoder and a perceptron, where both are there.
    """
    z = galaxies.sample["z"].to_numpy()
    cells: dict[tuple[str, int, int], dict[str, np.ndarray]] = {}
    for task, cdf in answers.items():
        cells.setdefault((task.experiment, task.seed, task.n_folds), {})[task.method] = cdf
    tables = []
    for (experiment, seed, n_folds), cdfs in sorted(cells.items()):
        train, test, _ = photoz.split(galaxies.sample, 0, 0, n_folds)
        flat = np.searchsorted(np.sort(z[train]), photoz.GRID, side="right") / len(train)
        named = cdfs | {TRIVIAL: np.broadcast_to(flat, (len(test), len(flat)))}
        for name, (one, other) in _MEANS.items():
            if one in cdfs and other in cdfs:
                named[name] = 0.5 * (cdfs[one] + cdfs[other])
        for model in (m for m in MODELS if m in named):
            cdf = named[model]
            out = pd.DataFrame({"row": test, "z_spec": z[test], "model": model})
            out[list(photoz.QUANTILE_COLUMNS)] = densities.quantiles(cdf, photoz.GRID, photoz.QUANTILES)
            for name, score in _SCORES.items():
                out[name] = score(cdf, photoz.GRID, z[test])
            tables.append(out.assign(experiment=experiment, seed=seed, fold=0, n_train=len(train)))
    return pd.concat(tables, ignore_index=True)


def gain_rows(
    table: pd.DataFrame, sample: pd.DataFrame, reference: str, profile: str, n_bootstrap: int
) -> list[dict[str, Any]]:
    """Compare every model with `reference` on the same galaxies and resamples.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`predictions`.
    sample : pandas.DataFrame
        The galaxies, with the column ``pixel``.
    reference : str
        A model; experiments without it are left out.
    profile : str
    n_bootstrap : int
        Resamples of sky pixels.

    Returns
    -------
    list of dict
        Metric rows with ``sigma_mad_ratio`` and ``crps_ratio``, model over reference.
    """
    rows = []
    for experiment, part in table.groupby("experiment", sort=False):
        seeds = {
            (seed, model): one.sort_values("row") for (seed, model), one in part.groupby(["seed", "model"])
        }
        if reference not in set(part["model"]):
            continue
        numbers = sorted(part["seed"].unique())
        for model in part["model"].unique():
            if model in (reference, TRIVIAL):
                continue
            pairs = [(seeds[s, model], seeds[s, reference]) for s in numbers]
            first = pairs[0][0]
            rows.append(
                metric_row(
                    profile=profile,
                    sky="simulated",
                    experiment=f"{experiment}: against {reference}",
                    model=model,
                    n_train=int(first["n_train"].iloc[0]),
                    n_test=len(first),
                    seeds=len(pairs),
                    metrics=summarise(
                        [partial(_ratios, *(_columns(one) for one in pair)) for pair in pairs],
                        sample["pixel"].to_numpy()[first["row"]],
                        n_bootstrap,
                    ),
                )
            )
    return rows


def _columns(table: pd.DataFrame) -> tuple[np.ndarray, ...]:
    return tuple(table[name].to_numpy() for name in ("q500", "z_spec", "crps"))


def _ratios(one: tuple, other: tuple, index: np.ndarray) -> dict[str, float]:
    sigma = [redshift_scores(q[index], z[index])["sigma_mad"] for q, z, _ in (one, other)]
    return {
        "sigma_mad_ratio": sigma[0] / sigma[1],
        "crps_ratio": float(one[2][index].mean() / other[2][index].mean()),
    }
