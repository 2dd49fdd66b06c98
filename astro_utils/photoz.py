"""Photometric redshifts: features of a galaxy sample, and every estimator under one sky-split protocol.

The protocol: galaxies are put into folds by HEALPix pixel; each estimator is trained on all folds but one
and answers for that one, so that every galaxy is tested once a seed, far from what the estimator has seen.
Another seed means other folds, other initial weights and other batch orders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch

from astro_utils import densities
from astro_utils.metrics import density_scores, redshift_scores, summarise
from astro_utils.models.boosting import BoostedRedshift
from astro_utils.models.mdn import MixtureDensityNetwork, RedshiftEnsemble
from astro_utils.models.neighbours import NeighbourRedshift
from astro_utils.photometry import SDSS_BANDS
from astro_utils.results import atomic, metric_row
from astro_utils.splits import check_disjoint, group_folds, hold_out, sky_pixels
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = [
    "BOOSTING",
    "ENSEMBLE",
    "FEATURE_SETS",
    "GRID",
    "MODELS",
    "NETWORK",
    "OPTICAL",
    "QUANTILES",
    "QUANTILE_COLUMNS",
    "TRIVIAL",
    "Task",
    "features",
    "fit_ensemble",
    "metric_rows",
    "run_tasks",
    "scores",
    "split",
]

#: Redshifts at which densities are tabulated; the sample ends at 0.583.
GRID = np.linspace(0.0, 0.7, 701)
#: Quantiles kept for every galaxy: 95 and 68 % central intervals and the median, the point estimate.
QUANTILES = np.array([0.025, 0.16, 0.5, 0.84, 0.975])
QUANTILE_COLUMNS = ("q025", "q160", "q500", "q840", "q975")

TRIVIAL = "training-set distribution"
NEIGHBOURS = "nearest neighbours"
BOOSTING = "gradient boosting"
NETWORK = "one mixture density network"
ENSEMBLE = "ensemble of mixture density networks"
POOL = "ensemble + boosting"
#: Every estimator, from the trivial baseline on.
MODELS = (TRIVIAL, NEIGHBOURS, BOOSTING, NETWORK, ENSEMBLE, POOL)

_MODEL = [f"model_mag_{b}" for b in SDSS_BANDS]
_PETRO = [f"petro_mag_{b}" for b in SDSS_BANDS]
_ERRORS = [f"{kind}_err_{b}" for kind in ("model", "petro") for b in SDSS_BANDS]
_INFRARED = ["j_mag", "h_mag", "k_mag"]
_COLOURS = list(pairwise(SDSS_BANDS))

#: What each feature set adds to the one before it.
FEATURE_SETS = ("model", "model+petrosian", "model+petrosian+errors", "model+petrosian+errors+2mass")
#: The set of the main comparison: all that SDSS itself measures, so that no other survey is needed.
OPTICAL = FEATURE_SETS[2]


def features(sample: pd.DataFrame, feature_set: str) -> pd.DataFrame:
    """Features of galaxies: magnitudes as colours and one magnitude, errors as logarithms.

    Parameters
    ----------
    sample : pandas.DataFrame
        Columns of :func:`astro_utils.galaxies.galaxy_sample`.
    feature_set : str
        One of :data:`FEATURE_SETS`.

    Returns
    -------
    pandas.DataFrame
        (N, F) float32; NaN where 2MASS did not measure.
    """
    if feature_set not in FEATURE_SETS:
        raise ValueError(f"feature set {feature_set!r}; expected one of {FEATURE_SETS}")
    out = sample[_MODEL].copy()
    for a, b in _COLOURS:
        out[f"model_{a}-{b}"] = sample[f"model_mag_{a}"] - sample[f"model_mag_{b}"]
    if "petrosian" in feature_set:
        out["r_model-petro"] = sample["model_mag_r"] - sample["petro_mag_r"]
        for a, b in _COLOURS:
            out[f"petro_{a}-{b}"] = sample[f"petro_mag_{a}"] - sample[f"petro_mag_{b}"]
    if "errors" in feature_set:
        for name in _ERRORS:
            out[f"log_{name}"] = np.log(sample[name])
    if "2mass" in feature_set:
        for a, b in (("model_mag_z", "j_mag"), ("j_mag", "h_mag"), ("h_mag", "k_mag")):
            out[f"{a}-{b}"] = sample[a] - sample[b]
    return out.astype(np.float32)


@dataclass(frozen=True)
class Task:
    """Some estimators on one fold of one seed.

    Parameters
    ----------
    experiment : str
        What is asked; the name under which the scores are kept.
    models : tuple of str
        Among :data:`MODELS`.
    feature_set : str
        Among :data:`FEATURE_SETS`; nearest neighbours always use model magnitudes.
    seed, fold, n_folds : int
        Which galaxies are tested.
    nside : int
        HEALPix resolution of the sky split (0: split by galaxy).
    n_train : int
        Training galaxies at most (0: all of the other folds).
    members, epochs : int
        Networks in the ensemble, and passes over the training set of each.
    """

    experiment: str
    models: tuple[str, ...]
    feature_set: str
    seed: int
    fold: int
    n_folds: int
    nside: int = 8
    n_train: int = 0
    members: int = 5
    epochs: int = 60


def fit_ensemble(
    x: np.ndarray, z: np.ndarray, groups: np.ndarray, members: int, epochs: int, seed: int
) -> RedshiftEnsemble:
    """Train `members` networks on features (N, F), redshifts (N,) and groups (N,), such as sky pixels.

    Each member holds out its own tenth of the groups to stop on, so that the ensemble as a whole has seen
    every galaxy, and no member stops on a galaxy it was trained on.
    """
    mean, std = np.nanmean(x, 0), np.maximum(np.nanstd(x, 0), 1e-6)
    blank = RedshiftEnsemble([], torch.from_numpy(mean), torch.from_numpy(std))
    inputs, target = blank.standardise(torch.from_numpy(x)), torch.from_numpy(z.astype(np.float32))
    build = partial(
        MixtureDensityNetwork, n_features=x.shape[1], center=float(z.mean()), scale=float(z.std())
    )
    networks = []
    for member in range(members):
        member_seed = 1000 * seed + member
        held = hold_out(groups, 0.1, member_seed)
        network = seeded(member_seed, build)
        fit(
            network,
            lambda model, batch: model.loss(*batch),
            (inputs[~held], target[~held]),
            (inputs[held], target[held]),
            TrainingConfig(epochs=epochs, batch_size=512, learning_rate=3e-3, seed=member_seed),
        )
        networks.append(network.cpu())
    return RedshiftEnsemble(networks, blank.mean, blank.std).eval()


def _answers(task: Task, x, z, groups, x_test, neighbour_columns: int) -> dict[str, np.ndarray]:
    """Fit what `task` asks for and return a cdf (N_test, G) for each of its models."""
    cdfs: dict[str, np.ndarray] = {}
    if TRIVIAL in task.models:
        cdf = np.searchsorted(np.sort(z), GRID, side="right") / len(z)
        cdfs[TRIVIAL] = np.broadcast_to(cdf, (len(x_test), len(GRID)))
    if NEIGHBOURS in task.models:
        estimator = NeighbourRedshift().fit(x[:, :neighbour_columns], z)
        cdfs[NEIGHBOURS] = estimator.cdf(x_test[:, :neighbour_columns], GRID)
    if {BOOSTING, POOL} & set(task.models):
        cdfs[BOOSTING] = BoostedRedshift(seed=task.seed).fit(x, z, groups).cdf(x_test, GRID)
    if {NETWORK, ENSEMBLE, POOL} & set(task.models):
        ensemble = fit_ensemble(x, z, groups, task.members, task.epochs, task.seed)
        one = RedshiftEnsemble(list(ensemble.members[:1]), ensemble.mean, ensemble.std)
        for name, model in ((NETWORK, one), (ENSEMBLE, ensemble)):
            cdfs[name] = predict(partial(model.cdf, grid=_grid()), torch.from_numpy(x_test)).numpy()
    if POOL in task.models:
        # Averaged, because the errors of trees and networks are not the same.
        cdfs[POOL] = 0.5 * (cdfs[ENSEMBLE] + cdfs[BOOSTING])
    return {name: cdfs[name] for name in task.models}


def _grid() -> torch.Tensor:
    return torch.from_numpy(GRID.astype(np.float32))


def split(
    sample: pd.DataFrame, seed: int, fold: int, n_folds: int, nside: int = 8
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row numbers of training and test galaxies, which share no group, and the group of every galaxy.

    Groups are HEALPix pixels of resolution `nside`, or single galaxies where `nside` is 0.
    """
    groups = sky_pixels(sample["ra"], sample["dec"], nside) if nside else np.arange(len(sample))
    folds = group_folds(groups, n_folds, seed)
    train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
    check_disjoint(groups[train], groups[test], "groups of the split")
    return train, test, groups


def _run(task: Task, sample: pd.DataFrame) -> pd.DataFrame:
    """Run one task; one row for each model and galaxy tested."""
    train, test, groups = split(sample, task.seed, task.fold, task.n_folds, task.nside)
    if task.n_train:
        train = np.random.default_rng(task.seed).permutation(train)[: task.n_train]
    x, z = features(sample, task.feature_set).to_numpy(), sample["z"].to_numpy()
    answers = _answers(task, x[train], z[train], groups[train], x[test], len(_MODEL) + len(_COLOURS))
    tables = []
    for model, cdf in answers.items():
        out = pd.DataFrame({"row": test, "z_spec": z[test], "model": model})
        for name, column in zip(QUANTILE_COLUMNS, densities.quantiles(cdf, GRID, QUANTILES).T, strict=True):
            out[name] = column
        out["pit"] = densities.pit(cdf, GRID, z[test])
        out["crps"] = densities.crps(cdf, GRID, z[test])
        out["cde"] = densities.cde_loss(cdf, GRID, z[test])
        tables.append(out)
    keys = {"experiment": task.experiment, "seed": task.seed, "fold": task.fold, "n_train": len(train)}
    return pd.concat(tables, ignore_index=True).assign(**keys)


def _digest(task: Task, sample: pd.DataFrame, code: str) -> str:
    digest = hashlib.sha256(repr(task).encode() + code.encode())
    digest.update(pd.util.hash_pandas_object(sample).to_numpy().tobytes())
    return digest.hexdigest()[:20]


def _cached(task: Task, sample: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Run `task` or read the result that an earlier, perhaps killed, run of the same code left."""
    if not path.is_file():
        # Two workers on two cores: a second thread in each would only take turns.
        torch.set_num_threads(1)
        with atomic(path) as temporary:
            _run(task, sample).to_parquet(temporary, index=False)
    return pd.read_parquet(path)


def run_tasks(
    tasks: Sequence[Task], sample: pd.DataFrame, folder: Path, workers: int
) -> Iterator[tuple[int, pd.DataFrame]]:
    """Run tasks in parallel processes and yield (tasks done, predictions) as they finish.

    Each result is kept in `folder` under a digest of the task, the sample and the code, so that a killed run
    goes on where it stopped, and changed code or data start anew.
    """
    package = Path(__file__).parent
    needed = [package / f"{name}.py" for name in ("photoz", "training", "densities", "splits")]
    code = "".join(path.read_text() for path in [*needed, *sorted((package / "models").glob("*.py"))])
    folder.mkdir(parents=True, exist_ok=True)
    calls = [
        joblib.delayed(_cached)(task, sample, folder / f"{_digest(task, sample, code)}.parquet")
        for task in tasks
    ]
    yield from enumerate(joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls), start=1)


def metric_rows(
    predictions: pd.DataFrame, sample: pd.DataFrame, profile: str, n_bootstrap: int, sky: str = "real"
) -> list[dict[str, Any]]:
    """Score every experiment and model: mean and spread over seeds, bootstrap over sky pixels.

    Parameters
    ----------
    predictions : pandas.DataFrame
        All tables that :func:`run_tasks` yielded, one below the other.
    sample : pandas.DataFrame
        The sample that they are of.
    profile : str
        For the rows.
    n_bootstrap : int
        Resamples.
    sky : {"real", "simulated"}
        Where the galaxies come from.

    Returns
    -------
    list of dict
        Made by :func:`astro_utils.results.metric_row`.
    """
    rows = []
    for (experiment, model), part in predictions.groupby(["experiment", "model"], sort=False):
        seeds = [one.sort_values("row") for _, one in part.groupby("seed")]
        if any(not np.array_equal(one["row"], seeds[0]["row"]) for one in seeds):
            raise ValueError(
                f"{experiment}, {model}: seeds tested different galaxies; run every fold of each"
            )
        pixels = sample["pixel"].to_numpy()[seeds[0]["row"]]
        columns = [{c: one[c].to_numpy() for c in ("z_spec", "q500", "pit", "crps", "cde")} for one in seeds]
        rows.append(
            metric_row(
                profile=profile,
                sky=sky,
                experiment=experiment,
                model=model,
                n_train=round(part["n_train"].mean()),
                n_test=len(pixels),
                seeds=len(seeds),
                metrics=summarise([partial(scores, c) for c in columns], pixels, n_bootstrap),
            )
        )
    return rows


def scores(columns: Mapping[str, np.ndarray], index: np.ndarray | None = None) -> dict[str, float]:
    """All scores, point and density, of predictions (optionally of the rows `index` alone)."""
    z, q, pit, crps, cde = (columns[c] for c in ("z_spec", "q500", "pit", "crps", "cde"))
    if index is not None:
        z, q, pit, crps, cde = z[index], q[index], pit[index], crps[index], cde[index]
    return redshift_scores(q, z) | density_scores(pit, crps, cde)
