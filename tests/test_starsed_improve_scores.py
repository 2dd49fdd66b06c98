"""Extended PSFs over fields: rows of metrics and tables."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from astro_utils.starsed import improve_scores
from astro_utils.starsed.improve import NONE, SVM, check_fits
from astro_utils.starsed.psf_fits import JOINT, OURS, WAVEDIFF
from astro_utils.starsed.psf_jobs import PsfResult


def result(error):
    errors = {"relative": error, "relative_std": 0.1, "super_relative": 1.0, "seconds": 1.0}
    return PsfResult(Path("x"), errors | {"n_stars": 70, "n": 400})


def extras(share):
    return {"S1": SimpleNamespace(base=range(50), accuracy=lambda source: share if source == SVM else np.nan)}


def test_rows_average_fields_and_tables_tell_how_many():
    key, joint = ("S1", OURS, SVM, 20), ("S1", JOINT, NONE, -20)
    results = {(1, *key): result(1.0), (2, *key): result(2.0), (1, *joint): result(0.5)}
    scores = {(1, *key): {"accuracy": 0.5}}
    rows = improve_scores.improvement_rows(results, {1: extras(0.4), 2: extras(0.6)}, scores, "smoke")
    one, none = rows
    assert one["model"] == "ours, 50 labels + 20 SVM" and none["model"].endswith("no labels + 20 none at all")
    assert (one["seeds"], one["relative_error"], one["label_accuracy"], one["accuracy"]) == (2, 1.5, 0.5, 0.5)
    assert one["relative_error_sd"] == pytest.approx(np.sqrt(0.5))
    assert none["seeds"] == 1 and none["relative_error_sd"] is None
    printed = pd.DataFrame({"model": ["WaveDiff 50 + 20"], "relative_error": [1.7]})
    table = improve_scores.improvement_table(pd.DataFrame(rows), printed)
    assert table[20].tolist() == ["1.700", "0.500", "1.500 ± 0.707 (2)"]


def test_a_missing_fit_is_named():
    sizes = {1: {("S1", OURS, SVM): [20]}, 2: {("S1", OURS, SVM): [20]}}
    fits = {(method, "S1", 1): "x" for method in (OURS, WAVEDIFF)} | {(OURS, "S1", 2): "x"}
    with pytest.raises(ValueError, match="no fit of 'WaveDiff as published' to S1 in field 2"):
        check_fits(fits, sizes)
    check_fits(fits | {(WAVEDIFF, "S1", 2): "x"}, sizes)


def test_printed_errors_stand_above_by_base():
    rows = [
        {
            "experiment": improve_scores.EXPERIMENT,
            "model": f"ours, {base} + {n} true",
            "relative_error": 1 / n,
            "relative_error_sd": np.nan,
            "seeds": 1,
        }
        for n in (50, 100)
        for base in ("100 labels", "50 labels", "no labels")
    ]
    printed = pd.DataFrame(
        {"model": ["WaveDiff 50 + 50", "WaveDiff 100 + 100"], "relative_error": [1.665, 1.263]}
    )
    table = improve_scores.improvement_table(pd.DataFrame(rows), printed)
    fifty, hundred = (f"WaveDiff, printed: {n} labels, SVM" for n in (50, 100))
    assert list(table.index[:2]) == [fifty, hundred] and len(table) == 5
    assert table.loc[fifty, 50] == "1.665" and table.loc[fifty, 100] == ""
    assert table.loc[hundred, 100] == "1.263" and table.loc["ours: no labels, true", 100] == "0.010"
