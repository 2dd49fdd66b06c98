"""Tables of the results page, from metric rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from astro_utils.kcorrections.simulated_methods import NONE, PHOTOMETRIC, SPECTROSCOPIC
from astro_utils.results import format_scores

__all__ = [
    "BANDS",
    "cost_table",
    "coverage_table",
    "experiment",
    "gain_table",
    "other_bands_table",
    "plain",
    "track_table",
]

_COLUMNS = {
    "r2": ("R²", 1, 3),
    "mae": ("MAE [mag]", 1, 4),
    "rmse": ("RMSE [mag]", 1, 4),
    "sigma_mad": ("σ_MAD [mag]", 1, 4),
    "bias": ("bias [mag]", 1, 4),
}

#: Output bands, and the sample without a cut in redshift.
BANDS = ("g", "z", "all redshifts")


def experiment(sky: str, track: str) -> str:
    """Name of the rows of one track on one sky."""
    return f"{sky}, {track}"


def track_table(metrics: pd.DataFrame, printed: pd.DataFrame, sky: str, track: str) -> pd.DataFrame:
    """Scores of every method of one track on one sky, ordered by RMSE, with what the original printed.

    Parameters
    ----------
    metrics : pandas.DataFrame
        Rows of :func:`astro_utils.kcorrections.simulated_runs.score_rows`.
    printed : pandas.DataFrame
        Anchors of the study.
    sky, track : str
    """
    part = metrics[metrics["experiment"] == experiment(sky, track)].sort_values("rmse")
    table = format_scores(part, _COLUMNS)
    against = metrics[metrics["experiment"] == f"{experiment(sky, track)}, against ours"].set_index("model")
    table["RMSE over ours"] = [_interval(against, model, "rmse_ratio", 2) for model in part["model"]]
    if part["failures"].any():
        table["failures"] = part["failures"].map("{:.0f}".format).to_numpy()
    known = printed[printed["experiment"] == track].set_index("model")
    if len(known.index.intersection(part["model"])):
        for name, heading in (("r2", "R²"), ("mae", "MAE"), ("rmse", "RMSE")):
            table[f"printed {heading} (real)"] = [
                f"{known.loc[m, name]:g}" if m in known.index else "" for m in part["model"]
            ]
    return table


def _interval(rows: pd.DataFrame, model: str, name: str, decimals: int) -> str:
    if model not in rows.index:
        return ""
    row = rows.loc[model]
    bounds = f"[{row[f'{name}_lo']:.{decimals}f}, {row[f'{name}_hi']:.{decimals}f}]"
    return f"{row[name]:.{decimals}f} {bounds}"


def gain_table(metrics: pd.DataFrame, skies: Sequence[str]) -> pd.DataFrame:
    """Whom ours beats beyond its interval, by track and sky: the nearest rival and the verdict."""
    lines = []
    for sky in skies:
        for track in (NONE, PHOTOMETRIC, SPECTROSCOPIC):
            against = metrics[metrics["experiment"] == f"{experiment(sky, track)}, against ours"]
            rivals = against[~against["model"].str.startswith(("ours", "boosting"))]
            nearest = rivals.loc[rivals["rmse_ratio"].idxmin()]
            beaten = int((rivals["rmse_ratio_lo"] > 1).sum())
            lines.append(
                {
                    "sky": sky,
                    "track": track,
                    "beaten beyond the interval": f"{beaten} of {len(rivals)}",
                    "nearest rival": nearest["model"],
                    "its RMSE over ours": f"{nearest['rmse_ratio']:.3f} "
                    f"[{nearest['rmse_ratio_lo']:.3f}, {nearest['rmse_ratio_hi']:.3f}]",
                }
            )
    return pd.DataFrame(lines).set_index(["sky", "track"])


def other_bands_table(metrics: pd.DataFrame, sky: str) -> pd.DataFrame:
    """R2 and RMSE of simple methods, kcorrect and ours for other bands and for all redshifts."""
    parts = {}
    for band in BANDS:
        for track in (NONE, PHOTOMETRIC, SPECTROSCOPIC):
            part = metrics[metrics["experiment"] == f"{sky}, {band}, {track}"].sort_values("rmse")
            if len(part):
                columns = {name: _COLUMNS[name] for name in ("r2", "mae", "rmse")}
                parts[band, track] = format_scores(part, columns)
    if not parts:
        return pd.DataFrame()
    return pd.concat(parts, names=["band", "track"])


def coverage_table(metrics: pd.DataFrame, sky: str) -> pd.DataFrame:
    """Coverage of our 90 % intervals in bins of true redshift, one column a track."""
    columns = {}
    for track in (NONE, PHOTOMETRIC, SPECTROSCOPIC):
        part = metrics[metrics["experiment"] == f"{experiment(sky, track)}, coverage"]
        cells = [
            f"{100 * r.coverage_90:.1f} [{100 * r.coverage_90_lo:.1f}, {100 * r.coverage_90_hi:.1f}]"
            for r in part.itertuples()
        ]
        columns[f"{track} [%]"] = pd.Series(cells, index=part["model"])
        columns["galaxies"] = pd.Series(part["n_test"].to_numpy(int), index=part["model"])
        width = part["mean_width"].to_numpy()
        columns[f"{track}, width [mag]"] = pd.Series(
            [f"{w:.4f}" if np.isfinite(w) else "" for w in width], index=part["model"]
        )
    return pd.DataFrame(columns)


def plain(rows: pd.DataFrame) -> pd.DataFrame:
    """Scores of some rows as they come."""
    table = format_scores(rows, _COLUMNS)
    table["galaxies"] = rows["n_test"].map("{:,.0f}".format).to_numpy()
    return table


def cost_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Galaxies a second and seconds for a million galaxies of each step, with R2 where it predicts K."""
    table = format_scores(rows, {"r2": ("R²", 1, 3)})
    speed = rows["galaxies_per_second"].to_numpy()
    table.insert(0, "seconds for a million", [f"{1e6 / s:,.1f}" for s in speed])
    table.insert(0, "galaxies a second", [f"{s:,.0f}" for s in speed])
    return table
