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

#: :func:`real_auc` of the 19,022 real objects, which a download holds; a test computes it anew.
REAL_AUC = 0.9582


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
            if inside.sum() >= 10
        ]
    )
    if len(by_magnitude) < 3:
        raise ValueError(
            f"{len(table)} faint compact stars and galaxies fill {len(by_magnitude)} bins of r; expected at "
            "least 3 bins with 10 tested objects; simulate more"
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
    """Train on other objects than those of Experiment 3: on bright ones, and on Experiment 1.

    Three questions, each on fields that were not trained on: what bright compact objects teach of faint ones;
    what Experiment 1 teaches, with compact objects of all magnitudes (the published network has an AUC of
    0.983 there); and the same trees trained below r = 20.7 and tested above, which the real table can answer
    too (:data:`REAL_AUC`).
    """
    columns = list(FEATURE_GROUPS["all 24 features"])
    kind = catalogue[catalogue["class"].isin(["GALAXY", "STAR"]) & compact(catalogue)]
    table = experiment_three(catalogue)
    scores: dict[str, list[tuple[float, float]]] = {}
    for seed in seeds:
        held = hold_out(catalogue["field"].to_numpy(), 0.2, seed)
        fields = np.unique(catalogue["field"].to_numpy()[held])
        train, test = kind[~kind["field"].isin(fields)], table[table["field"].isin(fields)]
        r = model_r(table)
        cases = {
            "bright": (train[~faint(train)], test),
            "experiment 1": (train, test),
            "experiment 3": (table[~table["field"].isin(fields)], test),
            "r below 20.7": (table[r < 20.7], table[r > 20.7]),
        }
        for name, (known, asked) in cases.items():
            model = _trees(seed).fit(known[columns].to_numpy(), known["class"] == "STAR")
            p, truth = model.predict_proba(asked[columns].to_numpy())[:, 1], asked["class"] == "STAR"
            scores.setdefault(name, []).append((((p > 0.5) == truth).mean(), roc_auc_score(truth, p)))
    accuracy = {name: float(np.mean([a for a, _ in values])) for name, values in scores.items()}
    auc = {name: float(np.mean([b for _, b in values])) for name, values in scores.items()}
    text, n = "stars and galaxies: ", len(table)
    return [
        Gate(
            3,
            text + "accuracy lost by training on bright objects instead of faint ones",
            0.0,
            np.inf,
            accuracy["experiment 3"] - accuracy["bright"],
            n,
        ),
        Gate(
            3, text + "AUC on faint objects after training on Experiment 1", 0.97, 1.0, auc["experiment 1"], n
        ),
        Gate(
            3, text + "AUC on faint objects after training on bright ones alone", 0.97, 1.0, auc["bright"], n
        ),
        Gate(
            3,
            text + "AUC, trained below r = 20.7 and tested above, less that of the real table",
            -0.03,
            0.03,
            auc["r below 20.7"] - REAL_AUC,
            n,
        ),
    ]


def real_auc(table: pd.DataFrame) -> float:
    """AUC of trees trained on the real Experiment 3 table below r = 20.7 and tested above (:data:`REAL_AUC`).

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`astro_utils.catalogs.read_margnet`, with the column ``class``.
    """
    columns, r = list(FEATURE_GROUPS["all 24 features"]), model_r(table)
    known, asked = table[r < 20.7], table[r > 20.7]
    model = _trees(0).fit(known[columns].to_numpy(), known["class"] == "STAR")
    return float(
        roc_auc_score(asked["class"] == "STAR", model.predict_proba(asked[columns].to_numpy())[:, 1])
    )
