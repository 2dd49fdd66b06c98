"""Gates 2, 4 and 6: methods on the simulated and on the real sky, as rows of ``metrics.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astro_utils import photoz
from astro_utils.margnet_probes import FEATURE_GROUPS, R_EDGES
from astro_utils.metrics import classification_scores, summarise
from astro_utils.results import anchors, metric_row, published, read_metrics
from astro_utils.sky.gates import Gate, rank_gate
from astro_utils.sky.orderings import READERS
from astro_utils.sky.population import CLASSES
from astro_utils.sky.selections import photoz_sample

__all__ = [
    "beside_published",
    "gate_rows",
    "photoz_gates",
    "photoz_on_both",
    "published_separation",
    "reader_rows",
    "reader_table",
]

_EXPERIMENT = "photometric redshifts on both skies"


def photoz_on_both(
    main: pd.DataFrame,
    real: pd.DataFrame,
    *,
    n: int,
    n_folds: int,
    members: int,
    epochs: int,
    folder: Path,
    workers: int,
    profile: str,
    n_bootstrap: int,
) -> list[dict[str, Any]]:
    """Run every estimator of :mod:`astro_utils.photoz` alike on as many galaxies of either sky.

    Parameters
    ----------
    main : pandas.DataFrame
        Measured catalogue of the population ``main_galaxies``.
    real : pandas.DataFrame
        From :func:`astro_utils.galaxies.galaxy_sample`.
    n : int
        Galaxies of each sky (0: as many as both have).
    n_folds, members, epochs : int
        See :class:`astro_utils.photoz.Task`.
    folder : path
        Where finished parts are kept.
    workers : int
        Processes.
    profile : str
        For the rows.
    n_bootstrap : int
        Resamples.

    Returns
    -------
    list of dict
        Rows of ``metrics.json``, ``sky`` telling them apart.
    """
    skies = {"simulated": photoz_sample(main), "real": real}
    n = n or min(map(len, skies.values()))
    rows = []
    for sky, sample in skies.items():
        chosen = np.random.default_rng(0).permutation(len(sample))[:n]
        sample = sample.iloc[np.sort(chosen)].reset_index(drop=True)
        tasks = [
            photoz.Task(
                experiment=_EXPERIMENT,
                models=photoz.MODELS,
                feature_set=photoz.OPTICAL,
                seed=0,
                fold=fold,
                n_folds=n_folds,
                members=members,
                epochs=epochs,
            )
            for fold in range(n_folds)
        ]
        parts = [part for _, part in photoz.run_tasks(tasks, sample, Path(folder), workers)]
        predictions = pd.concat(parts).sort_values(["model", "row"]).reset_index(drop=True)
        rows += photoz.metric_rows(predictions, sample, profile, n_bootstrap, sky)
    return rows


def photoz_gates(rows: list[dict[str, Any]]) -> list[Gate]:
    """Compare the scatter of boosting on the two skies, and the ranking of the estimators."""
    table = pd.DataFrame(rows)
    scatter = table.pivot(index="model", columns="sky", values="sigma_mad")
    ratio = scatter.loc[photoz.BOOSTING, "simulated"] / scatter.loc[photoz.BOOSTING, "real"]
    name = "photometric redshifts, boosting: scatter on the simulated over that on the real sky"
    return [
        Gate(2, name, 0.7, 1.4, float(ratio), int(table["n_test"].max())),
        rank_gate("estimators of photometric redshift", scatter["real"], scatter["simulated"]),
    ]


def published_separation() -> dict[str, pd.Series]:
    """Accuracies of boosted trees on the real Experiment 3 table, from the published run of that study.

    Returns
    -------
    dict
        ``accuracy`` by group of features, ``by_magnitude`` by centre of the bin of model r.
    """
    table = pd.DataFrame(read_metrics(published("margformer", "audit.json")))
    groups = table[table["experiment"] == "feature groups, in domain"].set_index("model")["accuracy"]
    by_r = table[table["model"].str.startswith("boosting in domain, r ")]
    low = by_r["model"].str.extract(r"r ([\d.]+)-")[0].astype(float)
    centre = low + (R_EDGES[1] - R_EDGES[0]) / 2
    return {
        "accuracy": groups[list(FEATURE_GROUPS)],
        "by_magnitude": pd.Series(by_r["accuracy"].to_numpy(), index=centre.to_numpy()),
    }


def reader_rows(
    answers: pd.DataFrame, table: pd.DataFrame, profile: str, n_bootstrap: int
) -> list[dict[str, Any]]:
    """Scores of the readers of :func:`astro_utils.sky.orderings.photometry_images_fusion`.

    The trivial baseline is the most frequent class of the sample.
    """
    columns = [f"p_{name}" for name in CLASSES]
    fields = table["field"].to_numpy()
    n_seeds = answers["seed"].nunique()
    rows = []
    shares = np.bincount(answers["label"], minlength=len(CLASSES)) / len(answers)
    for name in ("most frequent class", *READERS):
        part = answers[answers["reader"] == (name if name in READERS else "photometry")]
        p = part[columns].to_numpy() if name in READERS else np.tile(shares, (len(part), 1))
        labels, groups = part["label"].to_numpy(), fields[part["row"].to_numpy()]

        def score(index=None, p=p, labels=labels):
            chosen = slice(None) if index is None else index
            return classification_scores(labels[chosen], p[chosen])

        rows.append(
            metric_row(
                profile=profile,
                sky="simulated",
                experiment="photometry, images, fusion",
                model=name,
                n_train=round(0.6 * len(table)),
                n_test=len(part) // n_seeds,
                seeds=n_seeds,
                metrics=summarise([score], groups, n_bootstrap),
            )
        )
    return rows


def reader_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Accuracies of :func:`reader_rows` in percent with intervals, the published ones beside."""
    printed = anchors("margformer").set_index("model")["ex1_sgq"]
    names = {"photometry": "photometry network", "images": "image network", "fusion": "ensemble"}
    known = {reader: printed[f"MargNet, {name}"] for reader, name in names.items()}
    return pd.DataFrame(
        {
            row["model"]: {
                "accuracy (simulated), %": f"{100 * row['accuracy']:.2f} "
                f"[{100 * row['accuracy_lo']:.2f}, {100 * row['accuracy_hi']:.2f}]",
                "NLL": f"{row['nll']:.3f}",
                "ECE": f"{row['ece']:.3f}",
                "published (real SDSS), %": f"{known[row['model']]:.2f}" if row["model"] in known else "–",
            }
            for row in rows
        }
    ).T


def gate_rows(gates: list[Gate], profile: str) -> list[dict[str, Any]]:
    """Gates as rows of ``metrics.json``."""
    return [
        metric_row(
            profile=profile,
            sky="simulated",
            experiment=f"gate {gate.number}",
            model=gate.name,
            n_train=0,
            n_test=gate.n,
            seeds=1,
            metrics={"measured": gate.measured, "passed": float(gate.passed)},
        )
        for gate in gates
    ]


def beside_published(summary: pd.DataFrame) -> pd.DataFrame:
    """Gates of this run with those of the published larger run beside, where there is one."""
    shown = summary.assign(measured=summary["measured"].map("{:.3f}".format))
    path = published("sky", "gates.csv")
    if path.is_file():
        kept = pd.read_csv(path).set_index("what")
        shown["published run: n"] = shown["what"].map(kept["n"])
        shown["published run: measured"] = shown["what"].map(kept["measured"].map("{:.3f}".format))
        shown["published run: passed"] = shown["what"].map(kept["passed"])
    return shown.set_index("gate")
