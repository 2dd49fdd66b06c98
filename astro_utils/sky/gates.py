"""Fidelity gates: whether the simulated sky behaves like SDSS where a study depends on it.

Each function compares a simulated catalogue with something known of the real sky and returns :class:`Gate`
rows: what
was asked, the range that passes, what was measured. The page prints them and the tests assert them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import kendalltau
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from astro_utils.galaxies import galaxy_sample
from astro_utils.margnet_probes import FEATURE_GROUPS, R_EDGES
from astro_utils.sky.selections import compact, faint, matched_in_r, model_r, photoz_sample
from astro_utils.splits import hold_out

__all__ = [
    "Gate",
    "bright_to_faint",
    "galaxy_colours",
    "gate_table",
    "rank_gate",
    "separation",
]


@dataclass(frozen=True)
class Gate:
    """One comparison.

    Attributes
    ----------
    number : int
        1 to 6, the group of the gate.
    name : str
        What is compared.
    low, high : float
        The range that passes.
    measured : float
    n : int
        Objects (or bins, or methods) behind the number.
    """

    number: int
    name: str
    low: float
    high: float
    measured: float
    n: int

    @property
    def passed(self) -> bool:
        """Whether the number is in its range."""
        return bool(self.low <= self.measured <= self.high)


def gate_table(gates: Iterable[Gate]) -> pd.DataFrame:
    """Gates as the table of the page: gate, target, measured, passed."""

    def target(gate: Gate) -> str:
        if np.isinf(gate.low):
            return f"at most {gate.high:g}"
        return f"at least {gate.low:g}" if np.isinf(gate.high) else f"{gate.low:g} to {gate.high:g}"

    return pd.DataFrame(
        [
            {
                "gate": g.number,
                "what": g.name,
                "n": g.n,
                "target": target(g),
                "measured": g.measured,
                "passed": "yes" if g.passed else "no",
            }
            for g in gates
        ]
    )


# ----------------------------------------------------------------------------------------------- 1: colours

#: Redshift bins of the galaxies; the real ones beyond 0.3 are too few for a median to 0.05 mag.
Z_EDGES = np.array([0.01, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30])


def galaxy_colours(simulated: pd.DataFrame) -> tuple[list[Gate], pd.DataFrame]:
    """Median colours in bins of redshift against the 10,000 real galaxies.

    Parameters
    ----------
    simulated : pandas.DataFrame
        Measured catalogue of the population ``main_galaxies``.

    Returns
    -------
    gates : list of Gate
    table : pandas.DataFrame
        Per bin and colour: numbers, medians, offset (simulated minus real).
    """
    real, mine = galaxy_sample(), photoz_sample(simulated)
    rows = []
    for low, high in pairwise(Z_EDGES):
        parts = [sample[(sample["z"] > low) & (sample["z"] <= high)] for sample in (mine, real)]
        for blue, red in ("ug", "gr", "ri", "iz"):
            a, b = ((part[f"model_mag_{blue}"] - part[f"model_mag_{red}"]) for part in parts)
            rows.append(
                {
                    "z": (low + high) / 2,
                    "colour": f"{blue}-{red}",
                    "n_simulated": len(a),
                    "n_real": len(b),
                    "simulated": a.median(),
                    "real": b.median(),
                    "offset": a.median() - b.median(),
                }
            )
    table = pd.DataFrame(rows)
    gates = []
    for colour in ("g-r", "r-i"):
        chosen = table[(table["colour"] == colour) & (table["n_simulated"] >= 30)]
        gates.append(
            Gate(
                1,
                f"galaxies: largest offset of the median {colour} in bins of redshift, mag",
                -np.inf,
                0.05,
                float(chosen["offset"].abs().max()),
                int(chosen["n_simulated"].sum()),
            )
        )
    return gates, table


# --------------------------------------------------------------------------- 2 and 6: methods on both skies


def rank_gate(name: str, real: pd.Series, simulated: pd.Series, low: float = 0.0) -> Gate:
    """Kendall's tau between the rankings of methods on the two skies; both are indexed by method."""
    methods = real.index.intersection(simulated.index)
    tau = kendalltau(real[methods], simulated[methods]).statistic
    return Gate(6, f"{name}: Kendall tau of the ranking of methods", low, 1.0, float(tau), len(methods))


# ------------------------------------------------------------------------------------ 3: stars and galaxies


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


# ------------------------------------------------------------------------------------------------- 5: noise


def noise_gates(catalogue: pd.DataFrame, bands: Sequence[str]) -> tuple[list[Gate], pd.DataFrame]:
    """Measured against true PSF fluxes of point sources: pulls and zero points.

    Parameters
    ----------
    catalogue : pandas.DataFrame
        Measured catalogue without neighbours.
    bands : sequence of str

    Returns
    -------
    gates : list of Gate
    table : pandas.DataFrame
        Per band: number, mean and standard deviation of the pull, median magnitude offset of sources with a
        signal-to-noise ratio above 20.
    """
    points = catalogue[catalogue["class"].isin(["STAR", "QSO"])]
    rows = []
    for band in bands:
        flux, true = points[f"psf_flux_{band}"], points[f"true_flux_{band}"]
        root = np.sqrt(points[f"psf_flux_ivar_{band}"])
        pull, bright = (flux - true) * root, true * root > 20
        rows.append(
            {
                "band": band,
                "n": len(points),
                "pull_mean": pull.mean(),
                "pull_width": pull.std(),
                "n_bright": int(bright.sum()),
                "zero_point": float(-2.5 * np.log10(flux[bright] / true[bright]).median()),
            }
        )
    table = pd.DataFrame(rows)
    n = len(points)
    widest = table["pull_width"].iloc[int((table["pull_width"] - 1).abs().argmax())]
    gates = [
        Gate(
            5,
            "noise: largest mean of the pull of PSF fluxes over bands",
            -np.inf,
            0.1,
            float(table["pull_mean"].abs().max()),
            n,
        ),
        Gate(5, "noise: width of the pull of PSF fluxes, worst band", 0.9, 1.1, float(widest), n),
        Gate(
            5,
            "noise: largest offset of the zero point over bands, mag",
            -np.inf,
            0.01,
            float(table["zero_point"].abs().max()),
            int(table["n_bright"].min()),
        ),
    ]
    return gates, table
