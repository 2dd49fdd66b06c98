"""Gate 4: photometry, images and their fusion as classifiers of one simulated sample.

The order is published (Chaini et al. 2023: photometry 92.97, images 91.60, fusion 93.33 % on compact stars,
galaxies and quasars); a sky on which images alone win would teach the wrong lesson.
"""

from __future__ import annotations

import copy
from functools import partial

import numpy as np
import pandas as pd
import torch

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.models.stamp_net import StampNet, scaled_stamps
from astro_utils.samples import open_sample
from astro_utils.sky.gates import Gate
from astro_utils.sky.population import CLASSES
from astro_utils.sky.selections import compact
from astro_utils.splits import group_folds
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = ["READERS", "order_gates", "photometry_images_fusion", "read_compact"]

#: What is compared; fusion is photometry with what a network of stamps adds to it.
READERS = ("photometry", "images", "fusion")


def read_compact(path, n: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Compact objects of a simulated sample, as catalogue and scaled stamps.

    Parameters
    ----------
    path : path
        Sample of the population ``spectroscopic``.
    n : int
        The first `n` of them (0: all).

    Returns
    -------
    table : pandas.DataFrame
    stamps : numpy.ndarray
        (N, bands, ny, nx) float32, asinh of signal over noise.
    """
    with open_sample(path) as sample:
        table = sample.catalogue()
        rows = np.flatnonzero(compact(table))
        rows = rows[:n] if n else rows
        images = torch.tensor(sample.images(rows))
        noise = torch.tensor(table.iloc[rows][[f"sigma_{b}" for b in sample.info.bands]].to_numpy(np.float32))
    return table.iloc[rows].reset_index(drop=True), scaled_stamps(images, noise).numpy()


class Correction(torch.nn.Module):
    """Logits of photometry plus what the stamps add to them; it starts as photometry alone.

    Parameters
    ----------
    images : StampNet
        A trained network of stamps, of which the convolutions are taken.
    n_classes : int
    """

    def __init__(self, images: StampNet, n_classes: int) -> None:
        super().__init__()
        self.stamps = copy.deepcopy(images.stamps)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(64 + n_classes, 64), torch.nn.GELU(), torch.nn.Linear(64, n_classes)
        )
        torch.nn.init.zeros_(self.head[2].weight)
        torch.nn.init.zeros_(self.head[2].bias)

    def forward(self, stamps: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes) from stamps (B, bands, ny, nx) and log-probabilities (B, classes)."""
        return known + self.head(torch.cat([self.stamps(stamps), known], 1))


def _loss(model: torch.nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    *inputs, labels = batch
    if model.training and inputs[0].ndim == 4:  # a sky has no up: mirror and turn the stamps of a batch
        turns, mirror = torch.randint(4, ()).item(), torch.randint(2, ()).item()
        stamps = torch.flip(inputs[0], (3,)) if mirror else inputs[0]
        inputs[0] = torch.rot90(stamps, turns, (2, 3))
    return torch.nn.functional.cross_entropy(model(*inputs), labels, reduction="none")


def photometry_images_fusion(
    table: pd.DataFrame, stamps: np.ndarray, seeds: int, epochs: int
) -> pd.DataFrame:
    """Train networks on features and on stamps of the same objects, combine them, answer for held-out fields.

    Parameters
    ----------
    table : pandas.DataFrame
        Catalogue with ``class``, ``field`` and MargNet's 24 features.
    stamps : numpy.ndarray
        (N, bands, ny, nx) scaled stamps.
    seeds : int
        Splits by field (60 % training, 20 % validation, 20 % test) and initialisations.
    epochs : int

    Returns
    -------
    pandas.DataFrame
        ``seed``, ``row``, ``label``, ``reader`` and the probability of each class.
    """
    labels = torch.tensor(table["class"].map(CLASSES.index).to_numpy(np.int64))
    features = table[list(MARGNET_FEATURES)].to_numpy(np.float32)
    fields = table["field"].to_numpy()
    inputs = {"images": torch.tensor(stamps)}
    builds = {
        "photometry": partial(StampNet, n_classes=len(CLASSES), n_features=features.shape[1]),
        "images": partial(StampNet, n_classes=len(CLASSES), n_bands=stamps.shape[1], size=stamps.shape[-1]),
    }
    answers = []
    for seed in range(seeds):
        fold = group_folds(fields, 5, seed)
        test, validation = fold == 0, fold == 1
        train = ~(test | validation)
        mean, std = features[train].mean(0), features[train].std(0) + 1e-6
        inputs["photometry"] = torch.tensor((features - mean) / std)
        logs, models = {}, {}
        for name, build in builds.items():
            model = seeded(seed, build)
            sets = [(inputs[name][mask], labels[mask]) for mask in (train, validation)]
            config = TrainingConfig(epochs=epochs, batch_size=128, patience=8, seed=seed)
            fit(model, _loss, *sets, config)
            models[name] = model.cpu()
            logs[name] = predict(model, inputs[name], batch_size=1024).log_softmax(1).numpy()
        # Fusion starts as photometry, which stays as it is, and learns what stamps add to its logits.
        known = torch.tensor(logs["photometry"])
        fusion = seeded(seed, partial(Correction, models["images"], len(CLASSES)))
        sets = [(inputs["images"][mask], known[mask], labels[mask]) for mask in (train, validation)]
        config = TrainingConfig(
            epochs=max(1, epochs // 2), batch_size=128, learning_rate=5e-4, patience=4, seed=seed
        )
        fit(fusion, _loss, *sets, config)
        logs["fusion"] = predict(fusion, inputs["images"], known, batch_size=1024).log_softmax(1).numpy()
        for name, log_p in logs.items():
            rows = {"seed": seed, "row": np.flatnonzero(test), "reader": name, "label": labels[test].numpy()}
            p = np.exp(log_p[test])
            answers.append(pd.DataFrame(rows | {f"p_{c}": p[:, i] for i, c in enumerate(CLASSES)}))
    return pd.concat(answers, ignore_index=True)


def order_gates(answers: pd.DataFrame) -> tuple[list[Gate], pd.Series]:
    """Compare the accuracies of the three readers."""
    p = answers[[f"p_{c}" for c in CLASSES]].to_numpy()
    right = p.argmax(1) == answers["label"]
    accuracy = right.groupby(answers["reader"]).mean()[list(READERS)]
    n = int((answers["reader"] == "fusion").sum())
    gates = [
        Gate(
            4,
            "classes: accuracy of photometry less that of images alone",
            0.0,
            np.inf,
            float(accuracy["photometry"] - accuracy["images"]),
            n,
        ),
        Gate(
            4,
            "classes: accuracy of fusion less that of photometry alone",
            0.0,
            np.inf,
            float(accuracy["fusion"] - accuracy["photometry"]),
            n,
        ),
    ]
    return gates, accuracy
