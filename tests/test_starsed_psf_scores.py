"""Errors of fitted PSFs over fields: two pupils, the same stars; printed errors among those of fields."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from astro_utils.starsed.psf_fits import MENDED, OURS, PARAMETRIC, WAVEDIFF
from astro_utils.starsed.psf_jobs import PsfResult
from astro_utils.starsed.psf_scores import (
    EXPERIMENT,
    PUPIL,
    another_field,
    common_fits,
    psf_rows,
    pupil_table,
)


def test_pupils_are_compared_on_the_same_stars():
    def errors(value):
        flat = {"super_relative": 1.0, "opd_relative_no_piston": 1.0, "e1": 0.0, "e2": 0.0, "r2": 0.0}
        return flat | {"relative": value, "relative_std": 0.1, "mono_relative": [value], "seconds": 1.0} | N

    N = {"n_stars": 200, "n": 400}
    results = {
        (WAVEDIFF, "S3", 1): PsfResult(Path("a"), errors(1.2)),
        (WAVEDIFF, "S3", 2): PsfResult(Path("b"), errors(9.0)),  # a field that the other is not fitted to
        (WAVEDIFF, "S6", 1): PsfResult(Path("c"), errors(0.7)),
        (MENDED, "S3", 1): PsfResult(Path("d"), errors(1.5)),
        (PARAMETRIC, "S3", 1): PsfResult(Path("e"), errors(5.0)),
    }
    common = common_fits(results, (WAVEDIFF, MENDED))
    assert set(common) == {(WAVEDIFF, "S3", 1), (MENDED, "S3", 1)}
    table = pupil_table(pd.DataFrame(psf_rows(common, "smoke", PUPIL) + psf_rows(results, "smoke")))
    assert table.loc[200].to_dict() == {WAVEDIFF: 1.2, MENDED: 1.5, "ratio": 1.25, "fields": 1}


def test_one_more_field_of_the_published_model():
    def row(name, sd, fields):
        return {"experiment": EXPERIMENT, "model": name, "n_train": 50, "seeds": fields} | {
            "relative_error": 2.5,
            "relative_error_sd": sd,
        }

    metrics = pd.DataFrame([row(f"{WAVEDIFF}, S1", 0.1, 4), row(f"{OURS}, S1", 0.1, 4)])
    for value, inside in ((2.2, True), (2.1, False)):  # half the interval: 3.182 · 0.1 · sqrt(5 / 4) = 0.356
        table = another_field(metrics, pd.DataFrame([{"model": "WaveDiff S1", "relative_error": value}]))
        (found,) = table.to_dict("records")
        assert found["hi"] - 2.5 == pytest.approx(0.3558, abs=1e-3) and found["within"] == inside
        assert found["ratio"] == pytest.approx(2.5 / value)
    one = pd.DataFrame([row(f"{WAVEDIFF}, S1", np.nan, 1)])
    assert another_field(one, pd.DataFrame([{"model": "WaveDiff S1", "relative_error": 2.4}])).empty
