"""Tables and examples of the results page, drawn from ``metrics.json`` or from kept weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from astro_utils.models.margformer import MargFormer
from astro_utils.results import format_scores
from astro_utils.separation.inputs import FEATURES, Inputs
from astro_utils.separation.methods import (
    CONVOLUTIONAL,
    DENSE,
    ENSEMBLE,
    METHODS,
    OURS,
    PHOTOMETRY,
    PUBLISHED,
    PUBLISHED_64,
    TRIVIAL,
)
from astro_utils.separation.scores import Cell, confusion_counts, experiment_name
from astro_utils.separation.sets import TASKS, Pool

__all__ = [
    "ablation_table",
    "accuracy_table",
    "attention_example",
    "confusion_matrices",
    "cost_table",
    "difference_table",
    "image_gain",
    "image_gain_table",
    "load_ours",
    "sizes",
]

_CELLS = [(e, task) for e in ("1", "2", "3") for task in TASKS]
#: Names under which ``data/anchors.toml`` keeps what was printed.
_PRINTED = {
    PUBLISHED: "MargFormer, k = 128",
    PUBLISHED_64: "MargFormer, k = 64",
    ENSEMBLE: "MargNet, ensemble",
    DENSE: "MargNet, photometry network",
    CONVOLUTIONAL: "MargNet, image network",
}


def _models(metrics: pd.DataFrame) -> list[str]:
    """Methods of a run in the order of the study, seeds averaged after their own."""
    found = metrics.loc[metrics["experiment"].isin([experiment_name(*c) for c in _CELLS]), "model"].unique()
    order = [TRIVIAL, *(m for m in (*METHODS[:2], CONVOLUTIONAL, *METHODS[2:]))]
    return sorted(
        found, key=lambda m: (order.index(m.removesuffix(", seeds averaged")), m.endswith("averaged"))
    )


def sizes(metrics: pd.DataFrame) -> str:
    """Say how many objects and seeds a run had."""
    main = metrics[metrics["experiment"].isin([experiment_name(*c) for c in _CELLS])]
    train, test = main.loc[main["n_train"] > 0, "n_train"], main["n_test"]
    return (
        f"{train.min():,d} to {train.max():,d} training and {test.min():,d} to {test.max():,d} test objects, "
        f"{main['seeds'].min()} to {main['seeds'].max()} seeds"
    )


def accuracy_table(metrics: pd.DataFrame, printed: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every method in the six cells, and what was printed beside each.

    Parameters
    ----------
    metrics : pandas.DataFrame
        From :func:`astro_utils.results.read_metrics`.
    printed : pandas.DataFrame
        ``anchors("margformer")``.
    """
    known = printed.set_index("model")
    columns = {}
    for experiment, task in _CELLS:
        part = metrics[metrics["experiment"] == experiment_name(experiment, task)]
        shown = format_scores(part, {"accuracy": ("a", 100, 1)})["a"]
        columns[f"{experiment} {task}"] = shown
        anchor = {
            m: known.loc[n, f"ex{experiment}_{task.lower()}"] for m, n in _PRINTED.items() if n in known.index
        }
        columns[f"{experiment} {task}, printed"] = pd.Series(anchor).map("{:.1f}".format)
    return pd.DataFrame(columns).reindex(_models(metrics)).fillna("–")


def difference_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of ours less that of the others in the six cells, with paired intervals; bold beyond zero."""
    columns = {}
    for experiment, task in _CELLS:
        name = f"{experiment_name(experiment, task)}: difference"
        part = metrics[metrics["experiment"] == name].set_index("model")
        cells = {}
        for model, row in part.iterrows():
            low, high = row.accuracy_gain_lo, row.accuracy_gain_hi
            text = f"{100 * row.accuracy_gain:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
            beyond = low > 0 or high < 0
            cells[model.split(" − ", 1)[1]] = f"<b>{text}</b>" if beyond else text
        columns[f"{experiment} {task}"] = pd.Series(cells, dtype=object)
    order = [m for m in _models(metrics) if any(m in column.index for column in columns.values())]
    return pd.DataFrame(columns).reindex(order).fillna("–")


def confusion_matrices(cells: Iterable[Cell], task: str, method: str) -> dict[str, np.ndarray]:
    """Count calls of the first seed of a method in the clean experiments of one task."""
    return {
        f"Experiment {cell.experiment}": confusion_counts(
            cell.labels, cell.answers[method][0], len(TASKS[task])
        )
        for cell in cells
        if cell.task == task and cell.experiment in ("1", "2", "3")
    }


def image_gain(metrics: pd.DataFrame, experiment: str, task: str) -> pd.Series:
    """Scores of fusion less those of photometry alone in one cell, with paired intervals."""
    part = metrics[metrics["experiment"] == f"{experiment_name(experiment, task)}: difference"]
    return part[part["model"] == f"{OURS} − {PHOTOMETRY}"].iloc[0]


def image_gain_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Gain in accuracy, AUC and NLL by the image in the six cells; bold beyond zero."""
    columns = {
        "accuracy [points]": ("accuracy_gain", 100, 2),
        "AUC": ("auc_gain", 1, 4),
        "NLL (less is better)": ("nll_gain", 1, 4),
    }
    lines = {}
    for experiment, task in _CELLS:
        row = image_gain(metrics, experiment, task)
        cells = {"test objects": f"{row['n_test']:,d}"}
        for column, (name, scale, digits) in columns.items():
            value, low, high = (scale * row[key] for key in (name, f"{name}_lo", f"{name}_hi"))
            text = f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
            cells[column] = f"<b>{text}</b>" if low > 0 or high < 0 else text
        lines[f"Experiment {experiment}, {task}"] = cells
    return pd.DataFrame(lines).T


def ablation_table(metrics: pd.DataFrame, models: Sequence[str]) -> pd.DataFrame:
    """Accuracy and NLL of some methods in the three clean experiments with quasars."""
    columns = {}
    for experiment in ("1", "2", "3"):
        part = metrics[metrics["experiment"] == experiment_name(experiment, "SGQ")]
        shown = format_scores(part, {"accuracy": ("accuracy", 100, 1), "nll": ("NLL", 1, 3)})
        columns |= {f"{experiment}: {name}": shown[name] for name in shown}
    table = pd.DataFrame(columns)
    return table.reindex([m for m in models if m in table.index]).fillna("–")


def cost_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Parameters, epochs and training time with quasars."""
    part = metrics[metrics["experiment"] == "cost, SGQ"].set_index("model")
    part = part.reindex([m for m in _models(metrics) if m in part.index])
    return pd.DataFrame(
        {
            "parameters": part["parameters"].map("{:,.0f}".format),
            "training objects": part["n_train"].map("{:,.0f}".format),
            "epochs": part["epochs"].map("{:.0f}".format),
            "kept epoch": part["best_epoch"].map("{:.1f}".format),
            "seconds": part["seconds"].map("{:,.0f}".format),
            "objects trained per second": (part["n_train"] * part["epochs"] / part["seconds"]).map(
                "{:,.0f}".format
            ),
        }
    )


def load_ours(path: str | Path, n_classes: int) -> tuple[MargFormer, Inputs]:
    """Read the network, and what scales its inputs, that a training of ours kept."""
    kept = load_file(path)
    read = Inputs(*(kept.pop(f"inputs.{k}").numpy() for k in ("mean", "std", "noise")), FEATURES[1])
    model = MargFormer(n_outputs=n_classes, n_features=len(read.mean))
    model.load_state_dict(kept)
    return model.eval(), read


def attention_example(
    path: str | Path, pool: Pool, cell: Cell, per_class: int = 2
) -> tuple[np.ndarray, np.ndarray, list[str], list[int]]:
    """Images, attention and titles of test objects of each class that the kept network calls rightly.

    Returns
    -------
    images : numpy.ndarray
        (N, 5, ny, nx).
    maps : numpy.ndarray
        (N, tokens, 8, 8).
    titles : list of str
    tokens : list of int
        The two whose maps differ most from object to object.
    """
    classes = TASKS[cell.task]
    model, read = load_ours(path, len(classes))
    with torch.no_grad():
        stamps, known = read.stamps(pool.images[cell.rows]), read.features(pool.table.iloc[cell.rows])
        p = torch.cat([model(*b).softmax(1) for b in zip(stamps.split(512), known.split(512), strict=True)])
        right = p.argmax(1).numpy() == cell.labels
        chosen = []
        for label in range(len(classes)):
            mine = np.flatnonzero((cell.labels == label) & right)
            mine = mine if len(mine) >= per_class else np.flatnonzero(cell.labels == label)
            mine = mine[np.argsort(cell.r[mine])]
            # One bright, one faint: at a fifth and at four fifths of the way.
            chosen += [mine[round(share * (len(mine) - 1))] for share in np.linspace(0.2, 0.8, per_class)]
        index = np.array(chosen)
        maps = model.attention(stamps[index], known[index])[0].numpy()
    tokens = np.argsort(maps.std(0).mean((1, 2)))[-2:][::-1].tolist()
    titles = [f"{classes[cell.labels[i]]}, r = {cell.r[i]:.1f}" for i in chosen]
    return pool.images[cell.rows[index]], maps, titles, tokens
