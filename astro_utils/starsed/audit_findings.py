"""What the audit of the published stellar study expected, what it found, and whether that is confirmed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from astro_utils.results import select
from astro_utils.starsed import audit
from astro_utils.starsed.audit import LIKELIHOOD, LIKELIHOOD_FREE, OTHER_FIELD, SVM
from astro_utils.starsed.audit_rows import SNR_EDGES, printed, printed_svm

__all__ = ["findings"]


def _per_cent(row: pd.Series, name: str, digits: int = 1) -> str:
    lo, hi = row.get(f"{name}_lo", np.nan), row.get(f"{name}_hi", np.nan)
    interval = "" if pd.isna(lo) else f" [{100 * lo:.{digits}f}, {100 * hi:.{digits}f}]"
    return f"{100 * row[name]:.{digits}f}{interval}"


def _top_two_findings(metrics: pd.DataFrame) -> list[tuple]:
    out, printed = [], printed_svm("within_one")
    for model, expected in ((SVM, "89 to 91 within one; top two lower"), (LIKELIHOOD, "the same")):
        one = select(metrics, experiment="top two", model=model)
        nearer = abs(printed - one["within_one"]) < abs(printed - one["top_two"])
        found = f"within one {_per_cent(one, 'within_one')}, top two {_per_cent(one, 'top_two')}"
        claim = f"The published “top-two” of {100 * printed:.1f} is the share within one class ({model})"
        out.append((1, claim, expected, found, nearer and one["within_less_top_lo"] > 0))
    return out


def _flux_findings(metrics: pd.DataFrame) -> list[tuple]:
    cases = (
        (audit.SVM_MATCHED, "The SVM loses where flux is measured by a matched filter", "9 points"),
        (audit.SVM_SUM, "The SVM loses where flux is the sum of the pixels", "9 points or more"),
        (LIKELIHOOD_FREE, "The template likelihood loses where flux is free", "some points"),
    )
    out = []
    for model, claim, expected in cases:
        one = select(metrics, experiment="flux", model=model)
        found = f"{_per_cent(one, 'accuracy_loss')} points"
        out.append((2, claim, expected, found, one["accuracy_loss_lo"] > 0))
    return out


def _pupil_findings(metrics: pd.DataFrame) -> list[tuple]:
    cases = (
        ("edge not cut", (0.27, 0.60)),
        ("edge not cut, smoothed over 3 samples", (0.38, 0.86)),
        ("exact wavelengths for snapped ones", (0.014, 0.028)),
        ("wavelengths snapped once, not twice", (0.014, 0.028)),
    )
    out = []
    for case, (lo, hi) in cases:
        one = select(metrics, experiment="pupil", model=case)
        found = f"{one['relative']:.3f} % ({one['lowest']:.3f} to {one['highest']:.3f})"
        claim = f"A perfect wavefront has a pixel error: {case}"
        out.append((3, claim, f"{lo:g} to {hi:g} %", found, lo <= one["relative"] <= hi))
    return out


def _label_findings(metrics: pd.DataFrame) -> list[tuple]:
    fifty, other, likelihood, full = (
        select(metrics, experiment="labels", model=model)
        for model in (audit.labelled(50), OTHER_FIELD, LIKELIHOOD, SVM)
    )
    published = float(printed().loc["SVM+PSF, PSF WaveDiff S1", "accuracy"])
    return [
        (
            4,
            "50 labelled stars do not give the accuracy published for 50 stars",
            f"below {100 * published:.1f}, though the PSF is the true one",
            _per_cent(fifty, "accuracy"),
            fifty["accuracy_hi"] < published,
        ),
        (
            4,
            "The template likelihood, without labels, is within 2 points of the SVM with all",
            "1 point better",
            f"{_per_cent(likelihood, 'accuracy')} against {_per_cent(full, 'accuracy')}",
            likelihood["accuracy_loss_hi"] < 0.02,
        ),
        (
            4,
            "An SVM with labels of another simulated field loses less than 3 points",
            "0 to 2.5 points",
            f"loses {_per_cent(other, 'accuracy_loss')} points",
            other["accuracy_loss_hi"] < 0.03,
        ),
    ]


def _field_findings(metrics: pd.DataFrame) -> list[tuple]:
    one = select(metrics, experiment="reshuffles", model="SVM, all fields")
    ratio = one["reshuffles_spread"] / one["standard_error"]
    return [
        (
            5,
            "Reshuffles of one field spread as the number of test stars makes them, to 30 %",
            "ratio near 1",
            f"{_per_cent(one, 'reshuffles_spread', 2)} against {_per_cent(one, 'standard_error', 2)}",
            abs(ratio - 1) < 0.3,
        ),
        (
            5,
            "Fields differ by more than the error of a mean over reshuffles (p < 0.05)",
            "fields from 52.4 to 55.6",
            f"spread {_per_cent(one, 'fields_spread', 2)} "
            f"against {_per_cent(one, 'standard_error_mean', 2)}, p = {one['p_value']:.2g}",
            one["p_value"] < 0.05,
        ),
    ]


def _protocol_findings(metrics: pd.DataFrame) -> list[tuple]:
    stars = select(metrics, experiment="protocol", model="signal-to-noise")
    cnn = select(metrics, experiment="protocol", model="CNN")
    low, high = (
        select(metrics, experiment="SNR", model=f"{SVM}, SNR {lo}-{hi}")
        for lo, hi in (SNR_EDGES[:2], SNR_EDGES[-2:])
    )
    return [
        (
            6,
            "An SNR of 20 to 110 is a power ratio: a matched filter has 143 to 336",
            "matched² = 1024 SNR",
            f"{stars['matched_lowest']:.0f} to {stars['matched_highest']:.0f}, "
            f"matched² = {stars['matched_squared_by_snr']:.1f} SNR",
            abs(stars["matched_squared_by_snr"] - 1024) < 1,
        ),
        (
            6,
            "Accuracy rises with the signal-to-noise ratio",
            "46 to 60",
            f"{_per_cent(low, 'accuracy')} to {_per_cent(high, 'accuracy')}",
            low["accuracy_hi"] < high["accuracy_lo"],
        ),
        (
            6,
            "The CNN learns from 6,154 of 10,000 training stars",
            "6,154",
            f"{cnn['trained']:,.0f}",
            cnn["trained"] == 6154,
        ),
    ]


def findings(metrics: pd.DataFrame) -> pd.DataFrame:
    """Judge metrics of all checks against what was expected before they were run.

    Parameters
    ----------
    metrics : pandas.DataFrame
        Of all rows of this module, with a machine of 50 labels among them.

    Returns
    -------
    pandas.DataFrame
        Columns ``check`` (1 to 6), ``claim``, ``expected``, ``found``, ``confirmed`` (bool). Accuracies are
        in per cent, with 95 % intervals.

    Raises
    ------
    KeyError
        If a row is missing.
    """
    parts = (
        _top_two_findings,
        _flux_findings,
        _pupil_findings,
        _label_findings,
        _field_findings,
        _protocol_findings,
    )
    rows = [row for part in parts for row in part(metrics)]
    out = pd.DataFrame(rows, columns=["check", "claim", "expected", "found", "confirmed"])
    return out.astype({"confirmed": bool})
