"""Fidelity gates: whether the simulated sky behaves like SDSS where a study depends on it.

Each function compares a simulated catalogue with something known of the real sky and returns :class:`Gate`
rows: what
was asked, the range that passes, what was measured. The page prints them and the tests assert them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

__all__ = ["Gate", "gate_table", "noise_gates", "rank_gate"]


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


def rank_gate(name: str, real: pd.Series, simulated: pd.Series, low: float = 0.0) -> Gate:
    """Kendall's tau between the rankings of methods on the two skies; both are indexed by method."""
    methods = real.index.intersection(simulated.index)
    tau = kendalltau(real[methods], simulated[methods]).statistic
    return Gate(6, f"{name}: Kendall tau of the ranking of methods", low, 1.0, float(tau), len(methods))


def noise_gates(catalogue: pd.DataFrame, bands: Iterable[str]) -> tuple[list[Gate], pd.DataFrame]:
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
