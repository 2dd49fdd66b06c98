"""Tables of the results page, from metric rows, and the score that its figures bin."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from astro_utils.results import format_scores

__all__ = [
    "CORRIDOR",
    "LINES",
    "NOISE_FREE",
    "SHAPE",
    "USE",
    "coverage_rows",
    "coverage_table",
    "gain_table",
    "is_rival",
    "noise_free_r2",
    "ratio_table",
    "score_table",
]

Columns = Mapping[str, tuple[str, float, int]]

#: The shape of the spectrum, against what was observed. R² is about the mean training spectrum, or about the
#: mean level of each galaxy.
SHAPE: Columns = {
    "r2_continuum": ("R², continuum", 1, 3),
    "r2_continuum_level": ("R², continuum, about its level", 1, 3),
    "r2": ("R², all pixels", 1, 3),
    "r2_level": ("R², all pixels, about its level", 1, 3),
    "r2_aligned": ("R², aligned", 1, 3),
    "chi2": ("χ² per pixel", 1, 2),
}
#: The same, estimated for spectra without noise.
NOISE_FREE: Columns = {
    f"{name}_free": SHAPE[name] for name in ("r2_continuum", "r2_continuum_level", "r2", "r2_level")
}
#: Errors of what is measured in a spectrum: the median, and 1.4826 times the median absolute deviation.
LINES: Columns = {
    "d4000_bias": ("D4000, bias", 1, 3),
    "d4000_mad": ("D4000, σ", 1, 3),
    "ew_ha_bias": ("EW Hα, bias [Å]", 1, 2),
    "ew_ha_mad": ("EW Hα, σ [Å]", 1, 2),
    "ew_oiii_bias": ("EW [O III], bias [Å]", 1, 2),
    "ew_oiii_mad": ("EW [O III], σ [Å]", 1, 2),
    "z_sigma_mad": ("z, σ_MAD", 1, 4),
    "z_bias": ("z, bias", 1, 4),
    "z_eta_05": ("z, |Δz| > 0.05 (1 + z) [%]", 100, 1),
}
#: Synthetic photometry, retrieval among all test galaxies, and cost.
USE: Columns = {
    "photometry_mad": ("photometry, σ [%]", 100, 2),
    "photometry_bias": ("photometry, bias [%]", 100, 2),
    "top_1": ("found first [%]", 100, 1),
    "top_10": ("found in 10 [%]", 100, 1),
    "rank": ("median rank", 1, 0),
    "seconds": ("seconds for 1,000 galaxies", 1, 2),
    "train_seconds": ("seconds of training", 1, 0),
    "parameters": ("parameters [10⁶]", 1e-6, 2),
}

#: How far coverage may be from what was asked.
CORRIDOR = 0.03
#: Errors by which others are compared with ours: name of the metric, and what it is of.
_RATIOS = {"c_error_ratio": "continuum", "error_ratio": "all pixels"}


def _experiment(metrics: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = metrics[metrics["experiment"] == name]
    if rows.empty:
        raise ValueError(f"no rows of experiment {name!r}; there are {sorted(set(metrics['experiment']))}")
    return rows


def score_table(metrics: pd.DataFrame, experiment: str = "main", columns: Columns = SHAPE) -> pd.DataFrame:
    """Scores of every method, ordered by R2 of the continuum.

    Parameters
    ----------
    metrics : pandas.DataFrame
        From :func:`astro_utils.results.read_metrics`.
    experiment : str
    columns : mapping
        :data:`SHAPE`, :data:`NOISE_FREE`, :data:`LINES`, :data:`USE`, or others of this form.

    Returns
    -------
    pandas.DataFrame
        Strings, indexed by model; a method without the score by which rows are ordered comes last.

    Raises
    ------
    ValueError
        When there are no rows of the experiment.
    """
    rows = _experiment(metrics, experiment).sort_values("r2_continuum", ascending=False, kind="stable")
    return format_scores(rows, columns)


def is_rival(models: pd.Series) -> pd.Series:
    """Whether ours is to be compared with a method: not a ceiling, and no version of ours."""
    return ~models.str.contains("(ceiling)", regex=False) & ~models.str.startswith("ours")


def _interval(row: pd.Series, name: str) -> str:
    return f"{row[name]:.3f} [{row[f'{name}_lo']:.3f}, {row[f'{name}_hi']:.3f}]"


def _standing(rows: pd.DataFrame, name: str) -> np.ndarray:
    """Whether ours is ahead of each row beyond the interval, behind it, or level with it."""
    ahead, behind = rows[f"{name}_lo"] > 1, rows[f"{name}_hi"] < 1
    return np.select([ahead, behind], ["ahead", "behind"], "level")


def gain_table(metrics: pd.DataFrame, experiment: str = "main") -> pd.DataFrame:
    """Whom ours beats beyond its interval: how many, the nearest rival, and the verdict.

    Parameters
    ----------
    metrics : pandas.DataFrame
        With rows of ``<experiment>, against ours`` and their ``error_ratio`` and ``c_error_ratio``: the
        squared errors of the other method over those of ours, with their intervals.
    experiment : str

    Returns
    -------
    pandas.DataFrame
        One line for the continuum, one for all pixels. Ours is ahead of a rival where the whole interval of
        the ratio is above 1, behind where it is below, and else level with it.

    Raises
    ------
    ValueError
        When there are no such rows, or no rival among them.
    """
    rows = _experiment(metrics, f"{experiment}, against ours")
    rivals = rows[is_rival(rows["model"])]
    if rivals.empty:
        raise ValueError(f"no rival of ours in experiment {experiment!r}; models {rows['model'].tolist()}")
    lines = {}
    for name, pixels in _RATIOS.items():
        nearest, standing = rivals.loc[rivals[name].idxmin()], _standing(rivals, name)
        open_to = [
            f"{word} {', '.join(rivals['model'][standing == key])}"
            for key, word in (("behind", "behind"), ("level", "level with"))
            if (standing == key).any()
        ]
        lines[pixels] = {
            "beaten beyond the interval": f"{(standing == 'ahead').sum()} of {len(rivals)}",
            "nearest rival": nearest["model"],
            "its error over ours": _interval(nearest, name),
            "verdict": "; ".join(open_to) or "ahead of every rival",
        }
    return pd.DataFrame(lines).T.rename_axis("pixels")


def ratio_table(metrics: pd.DataFrame, experiment: str = "main") -> pd.DataFrame:
    """Squared errors of every method over those of ours, from the nearest on in the continuum.

    Ceilings and versions of ours are marked as such and get no verdict.
    """
    rows = _experiment(metrics, f"{experiment}, against ours").sort_values("c_error_ratio")
    rival = is_rival(rows["model"])
    ceiling = rows["model"].str.contains("(ceiling)", regex=False)
    out = pd.DataFrame(index=pd.Index(rows["model"], name="model"))
    for name, pixels in _RATIOS.items():
        out[f"{pixels}, error over ours"] = [_interval(row, name) for _, row in rows.iterrows()]
        verdict = np.where(rival, _standing(rows, name), np.where(ceiling, "a ceiling", "a version of ours"))
        out[f"{pixels}, ours is"] = verdict
    return out


def noise_free_r2(sums: np.ndarray, n_bootstrap: int = 300, seed: int = 0) -> tuple[float, float, float]:
    """R2 of a group of galaxies for spectra without noise, and its 95 % interval over galaxies.

    Parameters
    ----------
    sums : numpy.ndarray
        (n, 3) sums of squared errors, of squares about the reference, and the part of both that noise makes.
    n_bootstrap, seed : int

    Returns
    -------
    value, low, high : float
        NaN where noise makes all of the squares about the reference.
    """

    def r2(error: np.ndarray, total: np.ndarray, noise: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(total > noise, 1 - (error - noise) / (total - noise), np.nan)

    n = len(sums)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_bootstrap)  # (draws, n)
    draws = r2(*(times @ sums).T)
    draws = draws[np.isfinite(draws)]
    low, high = np.percentile(draws, [2.5, 97.5]) if len(draws) else (np.nan, np.nan)
    return float(r2(*sums.sum(0))), float(low), float(high)


def coverage_rows(metrics: pd.DataFrame) -> pd.DataFrame:
    """Rows of coverage, indexed by a short name of the pixels, in their order.

    Raises
    ------
    ValueError
        When there are none.
    """
    rows = _experiment(metrics, "coverage")
    names = rows["model"].str.replace(r"^wavelength (\d+)-(\d+)$", r"\1–\2 Å", regex=True)
    return rows.set_index(pd.Index(names, name="pixels"))


def coverage_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Coverage of the 68 % and 95 % intervals in parts of the spectrum, and whether it keeps the corridor."""
    rows = coverage_rows(metrics).rename_axis("model").drop(columns="model").reset_index()
    table = format_scores(
        rows, {f"coverage_{level}": (f"{level} % interval covers [%]", 100, 1) for level in (68, 95)}
    )
    off = np.stack([np.abs(rows[f"coverage_{level}"] - level / 100) for level in (68, 95)])
    # A share such as 0.71 is not exact in binary.
    table[f"within {100 * CORRIDOR:.0f} points"] = np.where((off <= CORRIDOR + 1e-9).all(0), "yes", "no")
    return table.rename_axis("pixels")
