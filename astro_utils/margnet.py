"""Audit of MargNet and MargFormer on the real Experiment 3 table: 19,022 stars and galaxies of SDSS DR16.

The table and the authors' trained photometry networks are the datasets ``margnet_tables`` and
``margnet_networks``; the works are Chaini et al. (2023, MNRAS 518, 3123) and MargFormer. Every function here
returns rows of ``metrics.json``, so that a page can be drawn from a fresh run or from the published copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from astro_utils import catalogs, conformal, registry
from astro_utils.legacy import read_keras_dense, read_pickled_npy
from astro_utils.metrics import classification_scores, summarise
from astro_utils.photometry import SDSS_BANDS
from astro_utils.results import metric_row
from astro_utils.splits import hold_out

__all__ = [
    "CLASSES",
    "FEATURE_GROUPS",
    "R_EDGES",
    "Audit",
    "binomial_table",
    "conformal_rows",
    "feature_rows",
    "leak_row",
    "load",
    "magnitude_rows",
    "network_rows",
]

CLASSES = ("GALAXY", "STAR")
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


@dataclass(frozen=True)
class Audit:
    """What the audit is of.

    Parameters
    ----------
    table : pandas.DataFrame
        (N, 30) features, ``label``, ``model_r``, ``objid`` and SDSS field, of the Experiment 3 table.
    star : numpy.ndarray
        (N,) 1 for a star, 0 for a galaxy.
    field : numpy.ndarray
        (N,) number of the SDSS field: what is resampled and split by.
    bright, faint : numpy.ndarray
        (N, 2) probabilities of galaxy and star by the released photometry networks of Experiment 1 (compact
        sources) and Experiment 2 (faint and compact sources).
    files : mapping
        File name to path of ``margnet_tables``.
    """

    table: pd.DataFrame
    star: np.ndarray
    field: np.ndarray
    bright: np.ndarray
    faint: np.ndarray
    files: Mapping[str, Path]


def load(download: bool) -> Audit:
    """Read the table and apply the released networks.

    Raises
    ------
    astro_utils.registry.DatasetError
        When the data are not at hand, and `download` is false or fails.
    """
    files = registry.fetch("margnet_tables", download=download)
    networks = registry.fetch("margnet_networks", download=download)
    table = catalogs.read_margnet(files)
    # The networks were trained in float32, on features as they stand; float64 rounds less on the way.
    features = torch.tensor(table[list(catalogs.MARGNET_FEATURES)].to_numpy(), dtype=torch.float64)
    answers = []
    for experiment in ("exp1", "exp2"):
        network = read_keras_dense(networks[f"margnet/DNNClassifier_sg_{experiment}.h5"]).double().eval()
        with torch.no_grad():
            answers.append(network(features).numpy())
    star = (table["label"] == "STAR").to_numpy().astype(int)
    field = table.groupby(["run", "camcol", "field"]).ngroup().to_numpy()
    return Audit(table, star, field, *answers, files)


def training_ids(objids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Object ids of MargNet's Experiment 1 training and validation sets, in the authors' split.

    One eighth is the test set, 14.28 % of the rest the validation set, both by scikit-learn with seed 42;
    the sizes of the three sets equal the published ones, 180,011, 29,988 and 30,000.
    """
    rest, _ = train_test_split(objids, test_size=0.125, random_state=42)
    train, validation = train_test_split(rest, test_size=0.1428, random_state=42)
    return train, validation


def leak_row(audit: Audit, profile: str) -> dict[str, Any]:
    """Count objects of the Experiment 3 star-galaxy-quasar test set that Experiment 1 trained on."""
    train, validation = training_ids(np.load(audit.files["margnet/objlist_exp1.npy"], allow_pickle=False))
    test = np.load(audit.files["margnet/objlist_sgq_exp3.npy"], allow_pickle=False)
    galaxy = np.load(audit.files["margnet/y_sgq_exp3.npy"], allow_pickle=False).argmax(1) == 0
    leaked = np.isin(test, train)
    # The star-galaxy set has its own split, of the same list without quasars.
    labels = read_pickled_npy(audit.files["margnet/y_exp1.npy"])
    compact = np.load(audit.files["margnet/objlist_exp1.npy"], allow_pickle=False)
    two_class = np.concatenate(training_ids(compact[labels != "QSO"]))
    return metric_row(
        profile=profile,
        sky="real",
        experiment="Experiment 3 leak",
        model="object ids",
        n_train=len(train),
        n_test=len(test),
        seeds=1,
        metrics={
            "leaked": int(leaked.sum()),
            "leaked_share": leaked.mean(),
            "leaked_galaxies": int(leaked[galaxy].sum()),
            "leaked_galaxy_share": leaked[galaxy].mean(),
            "leaked_with_validation": int((leaked | np.isin(test, validation)).sum()),
            "leaked_star_galaxy_task": int(np.isin(audit.table["objid"], two_class).sum()),
        },
    )


def _adapted_prior(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Re-estimate the class prior on unlabelled objects (EM; Saerens et al. 2002) and apply it, (N, 2)."""
    new = prior
    for _ in range(1000):
        adapted = probabilities * new / prior
        adapted /= adapted.sum(1, keepdims=True)
        step, new = np.abs(adapted.mean(0) - new).max(), adapted.mean(0)
        if step < 1e-8:
            break
    return adapted


def network_rows(audit: Audit, profile: str, n_bootstrap: int) -> list[dict[str, Any]]:
    """Score the released networks: as released, with the prior re-estimated, and with a moved threshold.

    The moved threshold calls as many objects stars as there are known to be, one half. It uses the mix of the
    test set, so its result is *transductive*; in each bootstrap resample the threshold is set again.
    """
    star, bright = audit.star, audit.bright

    def released(index: np.ndarray) -> dict[str, float]:
        return classification_scores(star[index], bright[index])

    def faint(index: np.ndarray) -> dict[str, float]:
        return classification_scores(star[index], audit.faint[index])

    adapted = _adapted_prior(bright, np.array([0.5, 0.5]))

    def prior(index: np.ndarray) -> dict[str, float]:
        return classification_scores(star[index], adapted[index])

    def moved(index: np.ndarray) -> dict[str, float]:
        decision = (bright[index, 1] > np.median(bright[index, 1])).astype(int)
        scores = classification_scores(star[index], bright[index], decision)
        return scores | {"accuracy_gain": scores["accuracy"] - released(index)["accuracy"]}

    rows = []
    cases = {
        "released, threshold 0.5": (released, 120_007),
        "released, prior by EM": (prior, 120_007),
        "released, threshold from the known mix (transductive)": (moved, 120_007),
        "released network of Experiment 2 (trained on faint objects)": (faint, 79_996),
    }
    for model, (score, n_train) in cases.items():
        metrics = summarise([score], audit.field, n_bootstrap)
        if model == "released, threshold 0.5":
            predicted = bright.argmax(1)
            metrics |= {
                f"true_{CLASSES[t]}_as_{CLASSES[p]}": {"value": int(((star == t) & (predicted == p)).sum())}
                for t in (0, 1)
                for p in (0, 1)
            }
        keys = {"profile": profile, "sky": "real", "experiment": "Experiment 3, star-galaxy", "seeds": 1}
        rows.append(metric_row(**keys, model=model, n_train=n_train, n_test=len(star), metrics=metrics))
    return rows


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


def binomial_table(confusions: pd.DataFrame) -> pd.DataFrame:
    """Compare printed accuracies with what the size of their test sets alone allows.

    Parameters
    ----------
    confusions : pandas.DataFrame
        Columns ``model``, ``task``, ``matrix``, from ``results.anchors("margformer_confusions")``.

    Returns
    -------
    pandas.DataFrame
        By task: test objects, accuracies in per cent of both published variants of MargFormer and of MargNet,
        the binomial standard error of the first, and how many standard errors MargFormer's gain over MargNet
        and the difference between its two variants are (test sets taken as independent).
    """
    out = {}
    for task, part in confusions.groupby("task", sort=False):
        matrices = {row.model: np.array(row.matrix) for row in part.itertuples()}
        n = {model: matrix.sum() for model, matrix in matrices.items()}
        accuracy = {model: np.trace(matrix) / n[model] for model, matrix in matrices.items()}
        error = {model: np.sqrt(a * (1 - a) / n[model]) for model, a in accuracy.items()}
        ours, rerun, margnet = "MargFormer, k = 128", "MargFormer, k = 64", "MargNet, ensemble"

        def in_errors(a: str, b: str, accuracy=accuracy, error=error) -> float:
            return (accuracy[a] - accuracy[b]) / np.hypot(error[a], error[b])

        out[task] = {
            "test objects": n[ours],
            "MargFormer k = 128 [%]": 100 * accuracy[ours],
            "MargFormer k = 64 [%]": 100 * accuracy[rerun],
            "MargNet ensemble [%]": 100 * accuracy[margnet],
            "binomial error [%]": 100 * error[ours],
            "k = 128 minus MargNet [errors]": in_errors(ours, margnet),
            "k = 128 minus k = 64 [errors]": in_errors(ours, rerun),
        }
    return pd.DataFrame(out).T
