"""Scores of the classifiers of stars: over fields, with intervals, as metric rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.ordinal import class_accuracy, ranked_probability_score, top_two, within_one
from astro_utils.results import metric_row
from astro_utils.starsed.classify import CNN, PCA, SAME, TRAINED, TRUE
from astro_utils.starsed.likelihoods import LIKELIHOOD
from astro_utils.starsed.templates import CLASSES

__all__ = [
    "TRIVIAL",
    "compact_answers",
    "model_name",
    "paired_gain",
    "per_star",
    "probabilities",
    "read_answers",
    "restored_answers",
    "score_rows",
]

TRIVIAL = "one class for all"
N_CLASSES = len(CLASSES)
_P = [f"p_{name}" for name in CLASSES]
_ECE_BINS = 15


def read_answers(paths: Iterable[Path]) -> pd.DataFrame:
    """Put the answers of all jobs together."""
    return pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)


def model_name(method: str, psf: str, pixel_only: Sequence[str] = (PCA, CNN)) -> str:
    """Name of a method with a PSF in tables."""
    return method if method in pixel_only else f"{method}, PSF {psf}"


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """(N, 13) probabilities of the stars of a table of answers, rows of sum one."""
    p = table[_P].to_numpy(dtype=float)
    return p / p.sum(1, keepdims=True)


def per_star(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Scores of each star: whether called rightly, within one class, in the top two; NLL and RPS."""
    labels, called = (table[name].to_numpy().astype(int) for name in ("label", "predicted"))
    p = probabilities(table)
    return {
        "accuracy": (called == labels).astype(float),
        "within_one": within_one(labels, called, N_CLASSES).astype(float),
        "top_two": top_two(labels, p).astype(float),
        "nll": -np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-12)),
        "rps": ranked_probability_score(labels, p),
    }


def _weights(fields: np.ndarray, n_bootstrap: int, seed: int = 0) -> np.ndarray:
    """Weights (1 + R, N): the stars as they are, then drawn with replacement within each field."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((1 + n_bootstrap, len(fields)))
    weights[0] = 1
    for field in np.unique(fields):
        rows = np.flatnonzero(fields == field)
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), n_bootstrap)
    return weights


def _f1(labels: np.ndarray, called: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Macro F1 (R,) under weights (R, N)."""

    def count(rows: np.ndarray, classes: np.ndarray) -> np.ndarray:
        one_hot = (classes[:, None] == np.arange(N_CLASSES)) * rows[:, None]
        return weights @ one_hot  # (R, 13)

    everything = np.ones(len(labels))
    right = count((labels == called).astype(float), labels)
    both = count(everything, labels) + count(everything, called)
    return (2 * right / np.maximum(both, 1e-12)).mean(1)


def _ece(labels: np.ndarray, p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the expected calibration error (R,) in bins of equal width of the largest probability."""
    confidence, right = p.max(1), p.argmax(1) == labels
    index = np.minimum((confidence * _ECE_BINS).astype(int), _ECE_BINS - 1)
    gap = (index[:, None] == np.arange(_ECE_BINS)) * (right - confidence)[:, None]  # (N, bins)
    return np.abs(weights @ gap).sum(1) / weights.sum(1)


def _ece_by_chance(p: np.ndarray, draws: int = 200, seed: int = 0) -> float:
    """Mean ECE of a classifier of probabilities (N, 13) that are exactly right, on as many objects."""
    confidence = p.max(1)
    index = np.minimum((confidence * _ECE_BINS).astype(int), _ECE_BINS - 1)
    right = np.random.default_rng(seed).random((draws, len(p))) < confidence
    gap = (right - confidence) @ (index[:, None] == np.arange(_ECE_BINS))  # (draws, bins)
    return float(np.abs(gap).sum(1).mean() / len(p))


def _values(table: pd.DataFrame, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Every score (R,) under weights (R, N)."""
    labels, called = (table[name].to_numpy().astype(int) for name in ("label", "predicted"))
    total = weights.sum(1)
    values = {name: weights @ value / total for name, value in per_star(table).items()}
    values["f1"] = _f1(labels, called, weights)
    values["ece"] = _ece(labels, probabilities(table), weights)
    return values


def summarise(table: pd.DataFrame, n_bootstrap: int) -> dict[str, dict[str, float]]:
    """Score one method over all fields.

    Parameters
    ----------
    table : pandas.DataFrame
        Answers of one method with one PSF for one test, of one field or more.
    n_bootstrap : int
        Resamples of stars within their fields.

    Returns
    -------
    dict
        Name to ``value``, ``lo`` and ``hi`` (95 % interval over stars) and ``sd`` (between fields). The error
        of calibration, ``ece``, of a finite sample is above zero however good the probabilities are;
        ``ece_by_chance`` is what it would be on average if they were exactly right.
    """
    fields = table["field"].to_numpy()
    values = _values(table, _weights(fields, n_bootstrap))
    by_field = [
        _values(table[fields == field], np.ones((1, int((fields == field).sum()))))
        for field in np.unique(fields)
    ]
    out = {}
    for name, drawn in values.items():
        each = np.array([one[name][0] for one in by_field])
        out[name] = {"value": drawn[0], "sd": each.std(ddof=1) if len(each) > 1 else np.nan}
        # The error of calibration of resamples is biased upwards by their noise.
        if n_bootstrap and name != "ece":
            out[name] |= dict(zip(("lo", "hi"), np.percentile(drawn[1:], [2.5, 97.5]), strict=True))
    out["ece_by_chance"] = {"value": _ece_by_chance(probabilities(table))}
    labels, called = (table[name].to_numpy().astype(int) for name in ("label", "predicted"))
    recalls = class_accuracy(labels, called, N_CLASSES)
    return out | {f"recall_{name}": {"value": v} for name, v in zip(CLASSES, recalls, strict=True)}


def compact_answers(answers: pd.DataFrame) -> pd.DataFrame:
    """Return answers in few bytes: probabilities in steps of 0.0025, text as categories."""
    out = answers.copy()
    out[_P] = np.round(400 * answers[_P].to_numpy(dtype=float)).clip(0, 400).astype(np.uint16)
    return out.astype({name: "category" for name in ("test", "method", "psf")} | {"field": np.int16})


def restored_answers(compact: pd.DataFrame) -> pd.DataFrame:
    """Return answers that :func:`compact_answers` made small, with probabilities of sum one."""
    out = compact.astype({name: str for name in ("test", "method", "psf")})
    p = compact[_P].to_numpy(dtype=float) + 1e-3
    out[_P] = p / p.sum(1, keepdims=True)
    return out


def _trivial(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(predicted=np.int8(6), **dict.fromkeys(_P, 1 / N_CLASSES))


def score_rows(answers: pd.DataFrame, profile: str, n_train: int, n_bootstrap: int) -> list[dict[str, Any]]:
    """Score every method with every PSF for every test, and the trivial one.

    Parameters
    ----------
    answers : pandas.DataFrame
        Of :func:`read_answers`.
    profile : str
    n_train : int
        Labelled stars that trained classifiers learn from.
    n_bootstrap : int
    """
    rows = []
    for (test, method, psf), table in answers.groupby(["test", "method", "psf"], sort=False):
        fields = table["field"].nunique()
        common = {"profile": profile, "sky": "simulated", "experiment": test, "seeds": fields}
        trained = n_train if method.startswith(TRAINED) else 0
        rows.append(
            metric_row(
                **common,
                model=model_name(method, psf),
                n_train=trained,
                n_test=len(table),
                metrics=summarise(table, n_bootstrap),
            )
        )
        if test == SAME and method == LIKELIHOOD and psf == TRUE:
            rows.append(
                metric_row(
                    **common,
                    model=TRIVIAL,
                    n_train=0,
                    n_test=len(table),
                    metrics=summarise(_trivial(table), n_bootstrap),
                )
            )
    return rows


def paired_gain(
    one: pd.DataFrame, other: pd.DataFrame, n_bootstrap: int = 1000, score: str = "accuracy"
) -> dict[str, float]:
    """Score of :func:`per_star` of one method less that of another on the same stars, with a 95 % interval.

    Raises
    ------
    ValueError
        When the stars are not the same.
    """
    keys = ["field", "label", "snr"]
    if not one[keys].reset_index(drop=True).equals(other[keys].reset_index(drop=True)):
        raise ValueError("the two methods were not asked about the same stars in the same order")
    difference = per_star(one)[score] - per_star(other)[score]
    drawn = _weights(one["field"].to_numpy(), n_bootstrap) @ difference / len(difference)
    lo, hi = np.percentile(drawn[1:], [2.5, 97.5])
    return {"value": float(drawn[0]), "lo": float(lo), "hi": float(hi)}
