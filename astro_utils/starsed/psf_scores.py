"""Errors of fitted PSFs over fields, as metric rows and as tables of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from astro_utils.results import format_scores, metric_row
from astro_utils.starsed.psf_fits import MENDED, WAVEDIFF
from astro_utils.starsed.psf_jobs import PsfResult

__all__ = [
    "EXPERIMENT",
    "PUPIL",
    "another_field",
    "common_fits",
    "error_table",
    "over_fields",
    "psf_rows",
    "pupil_table",
    "size_table",
]

EXPERIMENT = "PSF errors"
#: The published model, and the same with the pupil of the telescope, fitted to the same stars.
PUPIL = "pupil after training"
#: Name in ``metrics.json``, name in :func:`astro_utils.psf.metrics.evaluate`.
_METRICS = {
    "relative_error": "relative",
    "relative_error_fine": "super_relative",
    "opd_error": "opd_relative_no_piston",
    "e1_rmse": "e1",
    "e2_rmse": "e2",
    "size_rmse": "r2",
    "seconds": "seconds",
}


def common_fits(
    results: Mapping[tuple[str, str, int], PsfResult], methods: Sequence[str]
) -> dict[tuple[str, str, int], PsfResult]:
    """Keep the fits of `methods` to the sets and fields that every one of them was fitted to."""
    return {
        key: result
        for key, result in results.items()
        if key[0] in methods and all((method, *key[1:]) in results for method in methods)
    }


def over_fields(values: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Mean of each metric's values, one a field, and the standard deviation between them (NaN for one)."""
    return {
        name: {"value": float(np.mean(v)), "sd": float(np.std(v, ddof=1)) if len(v) > 1 else np.nan}
        for name, v in values.items()
    }


def psf_rows(
    results: Mapping[tuple[str, str, int], PsfResult], profile: str, experiment: str = EXPERIMENT
) -> list[dict[str, Any]]:
    """Average the errors of each method and set of stars over fields.

    Parameters
    ----------
    results : mapping
        (method, set, field) to a result with errors.
    profile, experiment : str

    Returns
    -------
    list of dict
        Rows of :func:`astro_utils.results.metric_row`, ``sd`` being that between fields. Of the stars within
        a field, ``relative_error_scatter`` is the standard deviation. Percentages are per cent.
    """
    groups: dict[tuple[str, str], list[dict]] = {}
    for (method, name, _), result in results.items():
        groups.setdefault((method, name), []).append(result.errors)
    rows = []
    for (method, name), errors in groups.items():
        values = {key: np.array([e[source] for e in errors]) for key, source in _METRICS.items()}
        values["relative_error_mono"] = np.array([np.mean(e["mono_relative"]) for e in errors])
        metrics = over_fields(values)
        metrics["relative_error_scatter"] = {"value": np.mean([e["relative_std"] for e in errors])}
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=experiment,
                model=f"{method}, {name}",
                n_train=errors[0]["n_stars"],
                n_test=errors[0]["n"],
                seeds=len(errors),
                metrics=metrics,
            )
        )
    return rows


def size_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of PSF errors with the columns ``method`` and ``n_stars`` that figures want."""
    part = metrics[metrics["experiment"] == EXPERIMENT]
    return part.assign(method=part["model"].str.rsplit(", ", n=1).str[0], n_stars=part["n_train"].astype(int))


def error_table(metrics: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Errors of every fit, and the relative error that the original prints for its model and set."""
    part = metrics[metrics["experiment"] == EXPERIMENT]
    table = format_scores(
        part,
        {
            "relative_error": ("error, 1 × [%]", 1, 2),
            "relative_error_fine": ("error, 3 × [%]", 1, 2),
            "relative_error_mono": ("monochromatic [%]", 1, 2),
            "opd_error": ("wavefront [%]", 1, 0),
            "e1_rmse": ("e1 [0.001]", 1000, 2),
            "e2_rmse": ("e2 [0.001]", 1000, 2),
            "size_rmse": ("R² [%]", 100, 2),
            "seconds": ("time [s]", 1, 0),
        },
    )
    known = printed.dropna(subset="relative_error").set_index("model")["relative_error"]
    names = part["model"].str.replace("WaveDiff as published, ", "WaveDiff ", regex=False)
    table.insert(0, "fields", part["seeds"].astype(int).to_numpy())
    table.insert(1, "printed [%]", [f"{known[n]:.2f}" if n in known else "" for n in names])
    return table


def pupil_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Errors [%] of the published model with its own pupil and with the telescope's, by number of stars."""
    part = metrics[metrics["experiment"] == PUPIL]
    part = part.assign(method=part["model"].str.rsplit(", ", n=1).str[0], stars=part["n_train"].astype(int))
    table = part.pivot(index="stars", columns="method", values="relative_error")[[WAVEDIFF, MENDED]]
    table["ratio"] = table[MENDED] / table[WAVEDIFF]
    table["fields"] = part.groupby("stars")["seeds"].first().astype(int)
    return table.rename_axis(columns=None)


def another_field(metrics: pd.DataFrame, printed: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Ask whether the printed errors, of one field, are those of one more field like ours.

    Errors of fields are taken as normal: the next lies, with probability `level`, within the mean ± t s
    sqrt(1 + 1 / n), where s is the standard deviation of n fields and t Student's quantile for n - 1.

    Returns
    -------
    pandas.DataFrame
        By number of stars of the published model where it has two fields or more: ``fields``, ``error`` (the
        mean) and ``printed`` in per cent, their ``ratio``, ``lo`` and ``hi`` of the interval, ``within``.
    """
    known = printed.dropna(subset="relative_error").set_index("model")["relative_error"]
    part = size_table(metrics).query("method == @WAVEDIFF and seeds > 1").set_index("n_stars")
    name = part["model"].str.replace(f"{WAVEDIFF}, ", "WaveDiff ", regex=False)
    n, error = part["seeds"].astype(int), part["relative_error"]
    half = stats.t.ppf((1 + level) / 2, n - 1) * part["relative_error_sd"] * np.sqrt(1 + 1 / n)
    table = pd.DataFrame({"fields": n, "error": error, "printed": name.map(known).astype(float)})
    table["ratio"] = table["error"] / table["printed"]
    table["lo"], table["hi"] = error - half, error + half
    table["within"] = table["printed"].between(table["lo"], table["hi"])
    return table.rename_axis("stars")
