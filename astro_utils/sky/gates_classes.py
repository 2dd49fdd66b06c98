"""Gate 3: stars against galaxies by their measured features, as in the real table of MargNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from astro_utils.margnet_probes import FEATURE_GROUPS, R_EDGES
from astro_utils.sky.gates import Gate
from astro_utils.sky.selections import compact, faint, matched_in_r, model_r
from astro_utils.splits import hold_out

__all__ = ["bright_to_faint", "experiment_three", "separation"]


def _trees(seed: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(max_iter=300, learning_rate=0.08, random_state=seed)


def experiment_three(catalogue: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Cut the star-galaxy test set of MargNet's Experiment 3: compact, faint in r, classes matched in r."""
    kind = catalogue["class"].isin(["GALAXY", "STAR"])
    chosen = catalogue[kind & compact(catalogue) & (model_r(catalogue) > 20)].reset_index(drop=True)
    return chosen.iloc[matched_in_r(chosen, ("GALAXY", "STAR"), np.random.default_rng(seed))].reset_index(
        drop=True
    )


def _held_out(table: pd.DataFrame, columns: Sequence[str], seeds: Sequence[int]) -> pd.DataFrame:
    """Boosted trees on 80 % of the fields, answers for the others: row, truth, probability of a star."""
    x, y = table[list(columns)].to_numpy(), (table["class"] == "STAR").to_numpy()
    parts = []
    for seed in seeds:
        test = hold_out(table["field"].to_numpy(), 0.2, seed)
        answer = _trees(seed).fit(x[~test], y[~test]).predict_proba(x[test])[:, 1]
        parts.append(pd.DataFrame({"row": np.flatnonzero(test), "star": y[test], "p": answer}))
    return pd.concat(parts, ignore_index=True)


def separation(catalogue: pd.DataFrame, seeds: Sequence[int]) -> tuple[list[Gate], pd.Series, pd.DataFrame]:
    """Star-galaxy separation from the 24 features on the faint compact set.

    Parameters
    ----------
    catalogue : pandas.DataFrame
        Measured catalogue of the population ``spectroscopic``.
    seeds : sequence of int
        Splits by field.

    Returns
    -------
    gates : list of Gate
    accuracy : pandas.Series
        Accuracy with each group of features.
    by_magnitude : pandas.DataFrame
        ``r``, ``n`` and ``accuracy`` in bins of model r, all features.
    """
    table = experiment_three(catalogue)
    answers = {name: _held_out(table, columns, seeds) for name, columns in FEATURE_GROUPS.items()}
    accuracy = pd.Series({name: float(((a["p"] > 0.5) == a["star"]).mean()) for name, a in answers.items()})
    best = answers["all 24 features"]
    r = model_r(table).to_numpy()[best["row"]]
    right = ((best["p"] > 0.5) == best["star"]).to_numpy()
    bins = [(low, high, (r > low) & (r <= high)) for low, high in pairwise(R_EDGES)]
    by_magnitude = pd.DataFrame(
        [
            {"r": (low + high) / 2, "n": int(inside.sum()), "accuracy": float(right[inside].mean())}
            for low, high, inside in bins
            if inside.sum() >= 30
        ]
    )
    inner = by_magnitude["accuracy"].to_numpy()
    dip = int(np.argmin(inner))
    n = len(table)
    gates = [
        Gate(
            3,
            "stars and galaxies: boosted trees, 24 features, faint compact set, accuracy",
            0.92,
            0.97,
            float(accuracy["all 24 features"]),
            n,
        ),
        Gate(
            3,
            "stars and galaxies: accuracy with radii alone less with colours alone",
            0.0,
            np.inf,
            float(accuracy["radii"] - accuracy["colours"]),
            n,
        ),
        Gate(
            3,
            "stars and galaxies: fall of accuracy from the brightest bin to the dip in r",
            0.0,
            np.inf,
            float(inner[0] - inner[dip]),
            n,
        ),
        Gate(
            3,
            "stars and galaxies: rise of accuracy from the dip to the faintest bin",
            0.0,
            np.inf,
            float(inner[-1] - inner[dip]),
            n,
        ),
    ]
    return gates, accuracy, by_magnitude


def bright_to_faint(catalogue: pd.DataFrame, seeds: Sequence[int]) -> list[Gate]:
    """Train on bright compact stars and galaxies, test on faint ones, beside training on faint ones."""
    columns = list(FEATURE_GROUPS["all 24 features"])
    kind = catalogue[catalogue["class"].isin(["GALAXY", "STAR"]) & compact(catalogue)]
    bright = kind[~faint(kind)]
    table = experiment_three(catalogue)
    truth = (table["class"] == "STAR").to_numpy()
    shifted, auc = [], []
    for seed in seeds:
        model = _trees(seed).fit(bright[columns].to_numpy(), bright["class"] == "STAR")
        p = model.predict_proba(table[columns].to_numpy())[:, 1]
        shifted.append(((p > 0.5) == truth).mean())
        auc.append(roc_auc_score(truth, p))
    home = _held_out(table, columns, seeds)
    at_home = ((home["p"] > 0.5) == home["star"]).mean()
    return [
        Gate(
            3,
            "stars and galaxies: accuracy lost by training on bright objects",
            0.0,
            np.inf,
            float(at_home - np.mean(shifted)),
            len(table),
        ),
        Gate(
            3,
            "stars and galaxies: AUC on faint objects after training on bright ones",
            0.97,
            1.0,
            float(np.mean(auc)),
            len(table),
        ),
    ]
