"""Tables and figures of the real galaxies, from metric rows and predictions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils.figures import COLOURS, MARKERS
from astro_utils.kcorrections.real_methods import NONE, SPECTROSCOPIC, TRACKS, methods
from astro_utils.kcorrections.real_sample import OPTICAL
from astro_utils.kcorrections.truth import circularity_of
from astro_utils.results import format_scores

__all__ = ["band_sets", "coverage_figure", "coverage_table", "density_figure", "track_table"]

_COLUMNS = {
    "r2": ("R²", 1, 4),
    "mae": ("MAE [mag]", 1, 4),
    "rmse": ("RMSE [mag]", 1, 4),
    "sigma_mad": ("σ_MAD [mag]", 1, 4),
    "bias": ("bias [mag]", 1, 4),
}
_INTERVALS = "ours, intervals given "


def band_sets(metrics: pd.DataFrame) -> list[str]:
    """List the sets of bands that the rows are of."""
    tracks = metrics["experiment"].str.endswith(f", {NONE}")
    return list(dict.fromkeys(metrics.loc[tracks, "experiment"].str.split(",").str[0]))


def _rows(metrics: pd.DataFrame, experiment: str) -> pd.DataFrame:
    part = metrics[metrics["experiment"] == experiment]
    return part[~part["model"].str.startswith(_INTERVALS)].sort_values("rmse")


def track_table(metrics: pd.DataFrame, bands: str, track: str) -> pd.DataFrame:
    """Scores of all methods of a track, best first, with those on untouched sky and by ten bands."""
    part = _rows(metrics, f"{bands}, {track}")
    table = format_scores(part, _COLUMNS)
    table.insert(0, "against the truth", [_circularity(name, bands, track) for name in part["model"]])
    for what, heading in (("untouched sky", "R², untouched sky"), ("ten-band truth", "R², ten bands")):
        other = metrics[metrics["experiment"] == f"{bands}, {track}, {what}"].set_index("model")
        table[heading] = [f"{other['r2'].get(m, np.nan):.3f}" for m in part["model"]]
    if part["failures"].any():
        table["failures"] = part["failures"].map("{:.0f}".format).to_numpy()
    return table


def _circularity(name: str, bands: str, track: str) -> str:
    found = [m for m in methods(bands) if (m.track, m.name) == (track, name)]
    if not found:
        return ""
    one = found[0]
    return circularity_of(OPTICAL, one.bands, templates=one.templates, knows_redshift=one.redshift)


def density_figure(predictions: pd.DataFrame, bands: str) -> Figure:
    """Ours against the truth as densities, one panel a track."""
    fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.7), sharex=True, sharey=True, layout="constrained")
    limits = (-0.35, 0.35)
    for ax, track in zip(axes, TRACKS, strict=True):
        rows = (predictions["bands"] == bands) & (predictions["track"] == track)
        part = predictions[rows & (predictions["model"] == "ours")]
        true, predicted = part["k"].to_numpy(), part["k_predicted"].to_numpy()
        ax.hexbin(true, predicted, gridsize=60, extent=(*limits, *limits), bins="log", mincnt=1, linewidths=0)
        ax.plot(limits, limits, color=COLOURS[1], lw=1)
        r2 = 1 - np.square(predicted - true).sum() / np.square(true - true.mean()).sum()
        ax.set(title=f"{track}: $R^2$ = {r2:.3f}", xlim=limits, ylim=limits, xlabel="truth, $K$ [mag]")
    axes[0].set_ylabel("predicted $K$ [mag]")
    return fig


def _coverage(metrics: pd.DataFrame, bands: str, track: str, given: str) -> pd.DataFrame:
    """Rows of the bins of one kind of interval, with the ends of the bins."""
    named = metrics[metrics["model"] == f"{_INTERVALS}{given}"]
    bins = named["experiment"].str.extract(rf"^{bands}, {track}, z ([\d.]+) to ([\d.]+)$").astype(float)
    return named.assign(lo=bins[0], hi=bins[1]).dropna(subset="lo").sort_values("lo")


def coverage_figure(metrics: pd.DataFrame, bands: str) -> Figure:
    """Coverage of 90 % intervals in bins of redshift: no redshift on the left, known redshift right."""
    fig, axes = plt.subplots(1, 2, figsize=(9.5, 3.6), sharey=True)
    choices = ((NONE, ("nothing", "prediction", "truth")), (SPECTROSCOPIC, ("nothing", "known")))
    for ax, (track, kinds) in zip(axes, choices, strict=True):
        ax.axhspan(0.88, 0.92, color="0.9")
        for i, given in enumerate(kinds):
            part = _coverage(metrics, bands, track, given)
            at = 0.5 * (part["lo"] + part["hi"]) + 0.004 * (i - 1)
            ends = part[["coverage_90_lo", "coverage_90_hi"]].T.to_numpy()
            errors = np.abs(ends - part["coverage_90"].to_numpy())
            ax.errorbar(
                at, part["coverage_90"], errors, marker=MARKERS[i], color=COLOURS[i], capsize=2, label=given
            )
        ax.set(title=track, xlabel="true redshift")
        ax.legend(title="calibrated given", fontsize=8)
    axes[0].set_ylabel("coverage of 90 % intervals")
    return fig


def coverage_table(metrics: pd.DataFrame, bands: str) -> pd.DataFrame:
    """Coverage and mean width in bins of redshift of the chosen intervals of each track."""
    columns = {}
    for track in TRACKS:
        part = _coverage(metrics, bands, track, "known" if track == SPECTROSCOPIC else "truth")
        index = [f"{lo:.2f} to {hi:.2f}" for lo, hi in zip(part["lo"], part["hi"], strict=True)]
        columns.setdefault("galaxies", pd.Series(part["n_test"].to_numpy(int), index=index))
        columns[f"{track} [%]"] = pd.Series(
            [
                f"{100 * r.coverage_90:.1f} [{100 * r.coverage_90_lo:.1f}, {100 * r.coverage_90_hi:.1f}]"
                for r in part.itertuples()
            ],
            index=index,
        )
        columns[f"{track}, width [mag]"] = pd.Series(
            part["mean_width"].map("{:.4f}".format).to_numpy(), index=index
        )
    return pd.DataFrame(columns)
