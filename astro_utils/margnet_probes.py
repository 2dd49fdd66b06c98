"""Probes of the real Experiment 3 table: what each group of features carries, and what depends on magnitude.

All return rows of ``metrics.json``; the table and the released network's answers are an
:class:`astro_utils.margnet.Audit`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_utils import conformal
from astro_utils.margnet import Audit
from astro_utils.metrics import classification_scores, summarise
from astro_utils.photometry import SDSS_BANDS
from astro_utils.results import metric_row
from astro_utils.splits import hold_out

__all__ = ["FEATURE_GROUPS", "R_EDGES", "conformal_rows", "feature_rows", "magnitude_rows"]

#: Edges in model r magnitude at which coverage and accuracy are shown.
R_EDGES = np.arange(20.0, 23.01, 0.5)


def _columns(*kinds: str) -> tuple[str, ...]:
    return tuple(f"{kind}_{band}" for kind in kinds for band in SDSS_BANDS)


_MAGNITUDES = _columns("dered")
_RADII = _columns("radius")
_SITE = _columns("psffwhm", "extinction")
_COLOURS = ("u_g", "g_r", "r_i", "i_z")
#: Groups of MargNet's 24 photometric features.
FEATURE_GROUPS = {
    "all 24 features": (*_MAGNITUDES, *_RADII, *_SITE, *_COLOURS),
    "without PSF and extinction": (*_MAGNITUDES, *_RADII, *_COLOURS),
    "radii": _RADII,
    "without radii": (*_MAGNITUDES, *_SITE, *_COLOURS),
    "magnitudes": _MAGNITUDES,
    "colours": _COLOURS,
    "PSF and extinction": _SITE,
}


def _held_out(audit: Audit, columns: tuple[str, ...], estimator, n_seeds: int) -> tuple[np.ndarray, ...]:
    """Train on 80 % of the SDSS fields and answer for the others; row, seed and probabilities, stacked."""
    x = audit.table[list(columns)].to_numpy()
    rows, seeds, answers = [], [], []
    for seed in range(n_seeds):
        test = hold_out(audit.field, 0.2, seed)
        fitted = estimator(seed).fit(x[~test], audit.star[~test])
        rows.append(np.flatnonzero(test))
        seeds.append(np.full(test.sum(), seed))
        answers.append(fitted.predict_proba(x[test]))
    return np.concatenate(rows), np.concatenate(seeds), np.concatenate(answers)


def _trees(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=200, learning_rate=0.1, random_state=seed)


def _logistic(seed: int):
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def feature_rows(audit: Audit, profile: str, n_seeds: int, n_bootstrap: int) -> list[dict[str, Any]]:
    """Score each group of features: boosting trained on 80 % of the fields, tested on the others."""
    cases = {name: (columns, _trees) for name, columns in FEATURE_GROUPS.items()}
    cases["all 24 features, logistic regression"] = (FEATURE_GROUPS["all 24 features"], _logistic)
    out = []
    for model, (columns, estimator) in cases.items():
        rows, seeds, p = _held_out(audit, columns, estimator, n_seeds)

        def score(index: np.ndarray, seed: int, rows=rows, seeds=seeds, p=p) -> dict[str, float]:
            mine = index[seeds[index] == seed]
            return classification_scores(audit.star[rows[mine]], p[mine])

        per_seed = [lambda index, seed=seed, score=score: score(index, seed) for seed in range(n_seeds)]
        n_test = len(rows) // n_seeds
        out.append(
            metric_row(
                profile=profile,
                sky="real",
                experiment="feature groups, in domain",
                model=model,
                n_train=len(audit.star) - n_test,
                n_test=n_test,
                seeds=n_seeds,
                metrics=summarise(per_seed, audit.field[rows], n_bootstrap),
            )
        )
    return out


def magnitude_rows(audit: Audit, profile: str) -> list[dict[str, Any]]:
    """Accuracy in bins of model r magnitude: the released network, its moved threshold, and boosting.

    One seed: pooling repetitions would count an object more than once in the Wilson interval.
    """
    rows, _, p = _held_out(audit, FEATURE_GROUPS["all 24 features"], _trees, n_seeds=1)
    r = audit.table["model_r"].to_numpy()
    moved = audit.bright[:, 1] > np.median(audit.bright[:, 1])
    cases = {
        "released, threshold 0.5": (r, audit.bright.argmax(1) == audit.star),
        "released, threshold from the known mix (transductive)": (r, moved == audit.star),
        "boosting in domain": (r[rows], p.argmax(1) == audit.star[rows]),
    }
    out = []
    for model, (magnitude, correct) in cases.items():
        sets = np.stack([correct, ~correct], axis=1)  # coverage of class 0 is accuracy
        table = conformal.coverage_by(sets, np.zeros(len(correct), dtype=int), magnitude, R_EDGES)
        out += _bin_rows(table, profile, "accuracy by r", model, "accuracy", seeds=1)
    return out


def _bin_rows(
    table: pd.DataFrame, profile: str, experiment: str, model: str, metric: str, seeds: int
) -> list[dict[str, Any]]:
    """One metric row for each bin of a table made by :func:`astro_utils.conformal.coverage_by`."""
    return [
        metric_row(
            profile=profile,
            sky="real",
            experiment=experiment,
            model=f"{model}, r {row.lo:.1f}-{row.hi:.1f}",
            n_train=0,
            n_test=int(row.n),
            seeds=seeds,
            metrics={metric: {"value": row.coverage, "lo": row.coverage_lo, "hi": row.coverage_hi}},
        )
        for row in table.itertuples()
        if row.n > 0
    ]


def conformal_rows(audit: Audit, profile: str, n_seeds: int, level: float = 0.9) -> list[dict[str, Any]]:
    """Coverage of class-conditional conformal sets in bins of r: magnitudes aligned, and as in the original.

    Half of the objects calibrate, the other half is evaluated, `n_seeds` times; coverage and its Wilson
    bounds are means over the repetitions. The original joined its predictions to magnitudes by row number
    after a shuffle, which gives each prediction the magnitude of some other object.
    """
    r = audit.table["model_r"].to_numpy()
    tables: dict[str, list[pd.DataFrame]] = {"aligned": [], "misaligned": []}
    for seed in range(n_seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(r))
        calibration, test = order[: len(r) // 2], order[len(r) // 2 :]
        thresholds = conformal.calibrate(
            audit.bright[calibration], audit.star[calibration], level, by_class=True
        )
        sets = conformal.prediction_sets(audit.bright[test], thresholds)
        for name, magnitude in (("aligned", r[test]), ("misaligned", rng.permutation(r[test]))):
            tables[name].append(conformal.coverage_by(sets, audit.star[test], magnitude, R_EDGES))
    out = []
    for name, parts in tables.items():
        stacked = pd.concat(parts).groupby("lo", as_index=False)
        out += _bin_rows(
            stacked.mean(), profile, f"conformal {level:.0%}", name, f"coverage_{level:.0%}"[:-1], n_seeds
        )
    return out
