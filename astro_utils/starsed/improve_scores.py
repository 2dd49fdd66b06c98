"""Errors of extended PSFs over fields, and scores of classes under them, as metric rows and as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.results import metric_row
from astro_utils.starsed.improve import SVM, Extras
from astro_utils.starsed.psf_jobs import PsfResult
from astro_utils.starsed.psf_scores import over_fields

__all__ = [
    "EXPERIMENT",
    "class_score_table",
    "improvement_rows",
    "improvement_table",
    "lines",
    "printed_errors",
]

EXPERIMENT = "PSF improvement"
#: Name in ``metrics.json``, name in :func:`astro_utils.psf.metrics.evaluate`.
_ERRORS = {
    "relative_error": "relative",
    "relative_error_scatter": "relative_std",
    "relative_error_fine": "super_relative",
    "seconds": "seconds",
}


def improvement_rows(
    results: Mapping[tuple[int, str, str, str, int], PsfResult],
    extras: Mapping[int, Mapping[str, Extras]],
    scores: Mapping[tuple[int, str, str, str, int], Mapping[str, float]],
    profile: str,
) -> list[dict[str, Any]]:
    """Metric rows: errors of each PSF, accuracy of the labels, and of test stars under that PSF.

    Parameters
    ----------
    results : mapping
        (field, and key of :func:`astro_utils.starsed.improve.extension_jobs`) to a result with errors.
    extras : mapping
        Field to the added stars by base.
    scores : mapping
        Keys of `results` to scores of classes; not all need have them.
    profile : str

    Returns
    -------
    list of dict
        Means over fields; ``sd`` is the standard deviation between them.
    """
    groups: dict[tuple[str, str, str, int], list[int]] = {}
    for field, *key in results:
        groups.setdefault(tuple(key), []).append(field)
    rows = []
    for key, fields in groups.items():
        base, method, source, n = key
        first, errors = extras[fields[0]][base], [results[(field, *key)].errors for field in fields]
        values = {name: [e[of] for e in errors] for name, of in _ERRORS.items()}
        values["label_accuracy"] = [extras[field][base].accuracy(source) for field in fields]
        scored = [scores[(field, *key)] for field in fields if (field, *key) in scores]
        values |= {name: [one[name] for one in scored] for name in (scored[0] if scored else ())}
        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment=EXPERIMENT,
                model=f"{method}, {'no' if n < 0 else len(first.base)} labels + {abs(n)} {source}",
                n_train=errors[0]["n_stars"],
                n_test=errors[0]["n"],
                seeds=len(fields),
                metrics=over_fields(values),
            )
        )
    return rows


def lines(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of this experiment with ``name`` (method, base, source), ``base`` and ``n_stars`` (added)."""
    part = metrics[metrics["experiment"] == EXPERIMENT].reset_index(drop=True)
    split = part["model"].str.extract(r"^(?P<method>.+), (?P<base>\w+ labels) \+ (?P<n>\d+) (?P<source>.+)$")
    name = split["method"] + ": " + split["base"] + ", " + split["source"]
    part = part.assign(name=name, base=split["base"], n_stars=split["n"].astype(int))
    return part.sort_values(["name", "n_stars"])


def printed_errors(printed: pd.DataFrame, base: str, numbers: Iterable[int]) -> list[float]:
    """Errors that the original prints for so many stars added to a base ("50 labels"); NaN for others."""
    known = printed.set_index("model")["relative_error"]
    return [known.get(f"WaveDiff {base.split()[0]} + {n}", np.nan) for n in numbers]


def improvement_table(metrics: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Errors of extended fits, a row for each method, base and source, a column for each number of stars.

    Where there are several fields, with the standard deviation between them and, in brackets, their number.
    """
    found = lines(metrics)
    text = [
        f"{row.relative_error:.3f}" + ("" if np.isnan(row.sd) else f" ± {row.sd:.3f} ({row.seeds})")
        for row in found.assign(sd=found["relative_error_sd"]).itertuples()
    ]
    table = found.assign(text=text).pivot(index="name", columns="n_stars", values="text")
    bases = sorted(set(found["base"]) - {"no labels"}, key=lambda base: int(base.split()[0]))
    values = [printed_errors(printed, base, table.columns) for base in bases]
    known = pd.DataFrame(
        [["" if np.isnan(value) else f"{value:.3f}" for value in row] for row in values],
        index=[f"WaveDiff, printed: {base}, {SVM}" for base in bases],
        columns=table.columns,
    )
    return pd.concat([known, table]).fillna("").rename_axis(index=None, columns="stars added")


def class_score_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Scores of test stars with each of our PSFs."""
    table = lines(metrics).dropna(subset="accuracy").set_index(["name", "n_stars"])
    columns = ["relative_error", "label_accuracy", "accuracy", "within_one", "top_two", "nll", "ece"]
    return table[columns].round(3).rename_axis(["PSF", "stars added"])
