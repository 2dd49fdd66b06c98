"""Audit of MargNet and MargFormer on the real Experiment 3 table: 19,022 stars and galaxies of SDSS DR16.

The table and the authors' trained photometry networks are the datasets ``margnet_tables`` and
``margnet_networks``; the works are Chaini et al. (2023, MNRAS 518, 3123) and MargFormer. Functions return
rows of ``metrics.json``, so that a page can be drawn from a fresh run or from the published copy. What is
trained or binned on the table is in :mod:`astro_utils.margnet_probes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split

from astro_utils import catalogs, registry
from astro_utils.legacy import read_keras_dense, read_pickled_npy
from astro_utils.metrics import classification_scores, summarise
from astro_utils.priors import re_estimated_prior
from astro_utils.results import metric_row

__all__ = ["CLASSES", "Audit", "binomial_table", "leak_row", "load", "network_rows", "training_ids"]

CLASSES = ("GALAXY", "STAR")


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

    adapted = re_estimated_prior(bright, np.array([0.5, 0.5]))

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
