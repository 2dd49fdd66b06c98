"""What the training page hands to the results page: coverage, residuals, examples, lines per galaxy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.astra.decoder import grid_of, move
from astro_utils.astra.grid import LogGrid
from astro_utils.astra.methods import Predicted, Task
from astro_utils.astra.photometric_decoder import ConformalBand
from astro_utils.metrics import bootstrap
from astro_utils.results import atomic, metric_row
from astro_utils.spectrum_scores import recovered_redshift_scores

__all__ = [
    "coverage_rows",
    "examples",
    "galaxy_lines",
    "load_gallery",
    "redshift_row",
    "residual_table",
    "save_gallery",
]

LEVELS = (0.68, 0.95)
#: Parts of the wavelength range in which coverage is given.
_PARTS = 8
#: Pixels of residual spectra in one.
_FACTOR = 4
#: Columns of a galaxy's table that figures use.
_KEPT = ("error", "total", "noise", "c_error", "c_total", "c_noise", "chi2", "z_recovered")


def coverage_rows(
    task: Task, band: ConformalBand, test: Predicted, *, profile: str, n_bootstrap: int
) -> list[dict]:
    """Coverage of our intervals of single pixels, in all and by wavelength, with intervals by field."""
    truth = task.test.spectra
    measured, parts = truth.ivar > 0, np.arange(len(truth.wavelength)) * _PARTS // len(truth.wavelength)
    inside = {}
    for level in LEVELS:
        low, high = band.interval(test.mean, test.variance, truth.ivar, level)
        inside[level] = (truth.flux >= low) & (truth.flux <= high) & measured
    edges = [truth.wavelength[parts == part][[0, -1]] for part in range(_PARTS)]
    names = ["all pixels", *(f"wavelength {low:.0f}-{high:.0f}" for low, high in edges)]
    masks = [np.ones(len(parts), bool), *(parts == part for part in range(_PARTS))]
    rows = []
    for name, mask in zip(names, masks, strict=True):
        seen = measured[:, mask].any(1)
        shares = {
            f"coverage_{100 * level:.0f}": inside[level][:, mask].sum(1)[seen]
            / measured[:, mask].sum(1)[seen]
            for level in LEVELS
        }
        rows.append(_row(task, shares, seen, profile, "coverage", name, n_bootstrap))
    return rows


def _row(
    task: Task,
    shares: Mapping[str, np.ndarray],
    seen: np.ndarray,
    profile: str,
    experiment: str,
    model: str,
    n_bootstrap: int,
) -> dict:
    bounds = bootstrap(
        lambda rows: {key: float(values[rows].mean()) for key, values in shares.items()},
        task.test.fields[seen],
        n_bootstrap,
    )
    return metric_row(
        profile=profile,
        sky="simulated",
        experiment=experiment,
        model=model,
        n_train=len(task.train),
        n_test=int(seen.sum()),
        seeds=1,
        metrics={
            key: {"value": float(values.mean()), "lo": bounds[key][0], "hi": bounds[key][1]}
            for key, values in shares.items()
        },
    )


def redshift_row(task: Task, redshifts: np.ndarray, *, profile: str, n_bootstrap: int) -> dict:
    """Scores of the medians of p(z), (M, Q), with the names that recovered redshifts have."""
    median, z = np.median(redshifts, axis=1), task.test.z

    def score(rows: np.ndarray | slice = slice(None)) -> dict[str, float]:
        return recovered_redshift_scores(median[rows], z[rows])

    bounds = bootstrap(score, task.test.fields, n_bootstrap)
    return metric_row(
        profile=profile,
        sky="simulated",
        experiment="direct photo-z",
        model="median of p(z)",
        n_train=len(task.train),
        n_test=len(z),
        seeds=1,
        metrics={
            name: {"value": value, "lo": bounds[name][0], "hi": bounds[name][1]}
            for name, value in score().items()
        },
    )


def residual_table(task: Task, predictions: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Residual spectra in the rest frame.

    Returns
    -------
    pandas.DataFrame
        ``method``, ``wavelength`` (rest-frame Angstrom), ``mean``, ``low`` and ``high`` (16th and 84th
        percentile over galaxies) of observed less predicted flux over the mean flux of the galaxy; pixels of
        four joined, where at least 50 galaxies were measured, or a fifth of them.
    """
    truth, z = task.test.spectra, task.test.z
    grid = grid_of(truth.wavelength)
    shift = int(np.log10(1 + z.max()) / grid.step) + 1
    rest = LogGrid(grid.first - shift * grid.step, grid.step, grid.n_pixels + shift)
    # Off 1 on either side where interpolation took a pixel without a measurement: some weights are negative.
    weight = move((truth.ivar > 0).astype(np.float32), grid, rest, z, to_rest=True)
    weight = np.abs(weight - 1) < 0.01
    at = rest.first + rest.step * np.arange(rest.n_pixels) + np.log10(1 + z)[:, None]
    weight &= (at >= grid.first) & (at <= grid.first + grid.step * (grid.n_pixels - 1))
    n = rest.n_pixels // _FACTOR
    parts = []
    for name, prediction in predictions.items():
        level = (truth.ivar * truth.flux).sum(1, keepdims=True) / truth.ivar.sum(1, keepdims=True)
        residual = np.where(truth.ivar > 0, (truth.flux - prediction) / level, 0).astype(np.float32)
        moved = np.where(weight, move(residual, grid, rest, z, to_rest=True), np.nan)
        moved = moved[:, : n * _FACTOR].reshape(len(z), n, _FACTOR)
        known = np.isfinite(moved).all(2)
        kept = known.sum(0) >= min(50, max(len(z) // 5, 1))
        values = np.where(known, moved.mean(2), np.nan)[:, kept]
        low, high = np.nanpercentile(values, [16, 84], axis=0)
        wavelength = rest.coarser(_FACTOR).wavelength[kept]
        columns = {"wavelength": wavelength, "mean": np.nanmean(values, 0), "low": low, "high": high}
        parts.append(pd.DataFrame(columns).astype(np.float32).assign(method=name))
    return pd.concat(parts, ignore_index=True).astype({"method": "category"})


def galaxy_lines(
    task: Task, tables: Mapping[str, Sequence[pd.DataFrame]], redshifts: np.ndarray
) -> pd.DataFrame:
    """Join tables of galaxies to one, a line for each galaxy, method and seed, in single precision."""
    parts = []
    common = {"z": task.test.z, "r": task.test.r, "z_phot": np.median(redshifts, axis=1)}
    for name, seeds in tables.items():
        for seed, table in enumerate(seeds):
            part = table[[column for column in _KEPT if column in table]].assign(**common)
            part = part.astype(np.float32).assign(red=task.test.is_red)
            parts.append(part.assign(method=name, seed=np.int8(seed)))
    return pd.concat(parts, ignore_index=True).astype({"method": "category"})


def examples(task: Task, tables: Mapping[str, Sequence[pd.DataFrame]], ours: str = "ours") -> dict[str, int]:
    """Pick test galaxies to show: of each type with a good, a typical and a bad continuum, among the bright.

    Returns
    -------
    dict
        Label to the number of the galaxy in the test set.
    """
    error = tables[ours][0]["c_error"].to_numpy()
    bright = task.test.r <= np.median(task.test.r)
    out = {}
    for name, of_type in (("early type", task.test.is_red), ("late type", ~task.test.is_red)):
        rows = np.flatnonzero(bright & of_type)
        rows = rows[np.argsort(error[rows])]
        for label, share in (("good", 0.05), ("typical", 0.5), ("bad", 0.98)):
            if len(rows):
                out[f"{label}, {name}"] = int(rows[round(share * (len(rows) - 1))])
    return out


def save_gallery(
    path: Path, task: Task, band: ConformalBand, test: Predicted, network: np.ndarray, rows: Mapping[str, int]
) -> Path:
    """Write all that a gallery of some test galaxies shows, as arrays (see :func:`load_gallery`).

    Parameters
    ----------
    path : path
    task : Task
    band : ConformalBand
    test : Predicted
    network : numpy.ndarray
        (M, L) prediction of a network, shown beside ours.
    rows : mapping
        Label to number, from :func:`examples`.
    """
    at = np.array(list(rows.values()))
    some = task.test.select(at)
    without_noise = np.full(test.mean[at].shape, np.inf)
    arrays = {
        "wavelength": some.spectra.wavelength,
        "images": some.images,
        "flux": some.spectra.flux,
        "ivar": some.spectra.ivar,
        "mean": test.mean[at],
        "sharp": test.draw[at],
        "astra": network[at],
        "z": some.z,
        "r": some.r,
        "z_phot": np.median(test.redshifts[at], axis=1),
        "label": np.array(list(rows)),
    }
    for level in LEVELS:
        low, high = band.interval(test.mean[at], test.variance[at], without_noise, level)
        arrays |= {f"low{100 * level:.0f}": low, f"high{100 * level:.0f}": high}
    for name, values in arrays.items():
        if values.dtype.kind == "f" and name != "wavelength":
            arrays[name] = values.astype(np.float32)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return path


def load_gallery(path: Path) -> dict[str, np.ndarray]:
    """Read what :func:`save_gallery` wrote: arrays by name, of galaxies but for the wavelength."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}
