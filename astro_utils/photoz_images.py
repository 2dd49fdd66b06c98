"""Redshifts from images and photometry against either alone: methods and tasks on simulated galaxies.

One part of the sky is the test set of every seed; a seed sets what training stops on, initial weights and
batch orders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor

from astro_utils import photoz
from astro_utils.augment import Augmentation
from astro_utils.models.redshift_former import RedshiftFormer
from astro_utils.models.stamp_net import scaled_stamps
from astro_utils.photoz_features import features, with_zero_points
from astro_utils.photoz_sky import Galaxies
from astro_utils.results import atomic
from astro_utils.sky.surveys import SDSS
from astro_utils.splits import hold_out
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = [
    "BOTH",
    "CATALOGUE",
    "CEILING",
    "CEILING_TOTAL",
    "IMAGES",
    "MEASURED",
    "METHODS",
    "PHOTOMETRY",
    "PHOTOMETRY_ENCODER",
    "Budget",
    "Task",
    "run_tasks",
]

PHOTOMETRY, PHOTOMETRY_ENCODER = "photometry alone, perceptron", "photometry alone, encoder"
CATALOGUE = "whole catalogue, perceptron"
IMAGES, BOTH = "images alone, encoder", "images and catalogue, encoder"
MEASURED = "light in pixels and catalogue, perceptron"
CEILING_TOTAL, CEILING = "ceiling, whole galaxies", "ceiling, bulges and discs"


@dataclass(frozen=True)
class Method:
    """What a method reads and with what.

    Attributes
    ----------
    features : tuple of str
        Names in :data:`astro_utils.photoz_features.SETS`.
    network : {"perceptron", "photometry", "fusion"}
        The mixture density network of the study, or our encoder without and with stamps.
    """

    features: tuple[str, ...]
    network: str = "perceptron"


#: Every method that is trained.
METHODS: Mapping[str, Method] = {
    PHOTOMETRY: Method(("photometry",)),
    PHOTOMETRY_ENCODER: Method(("photometry",), "photometry"),
    CATALOGUE: Method(("photometry", "shapes")),
    IMAGES: Method(("light",), "fusion"),
    BOTH: Method(("photometry", "shapes", "light"), "fusion"),
    MEASURED: Method(("photometry", "shapes", "light")),
    CEILING_TOTAL: Method(("ideal",)),
    CEILING: Method(("ideal", "ideal parts")),
}


@dataclass(frozen=True)
class Budget:
    """How long to train.

    Parameters
    ----------
    members : int
        Networks whose densities are averaged, without stamps.
    image_members : int
        Encoders with stamps whose densities are averaged.
    epochs : int
        Passes of perceptrons, and of the encoder over features alone.
    image_epochs : int
        Passes of the encoder with stamps.
    batch_size : int
        Galaxies in a step with stamps.
    views : int
        Turns and mirrors of a stamp over which answers are averaged, 1 to 8.
    """

    members: int = 1
    image_members: int = 1
    epochs: int = 40
    image_epochs: int = 8
    batch_size: int = 256
    views: int = 4


@dataclass(frozen=True)
class Task:
    """One method trained with one seed.

    Parameters
    ----------
    experiment : str
        What is asked.
    method : str
        Among :data:`METHODS`.
    seed : int
    budget : Budget
    n_folds : int
        The sky is parted in so many; the first part is the test set.
    zero_points : bool
        Whether each field has errors of calibration that stamps and catalogue share.
    """

    experiment: str
    method: str
    seed: int
    budget: Budget
    n_folds: int
    zero_points: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"no method {self.method!r}; expected one of {', '.join(METHODS)}")
        if self.zero_points and METHODS[self.method].network == "fusion":
            raise ValueError(f"{self.method!r}: zero points are moved in catalogues, not in stamps")


def _answer(task: Task, galaxies: Galaxies) -> np.ndarray:
    """Train and return cumulative distributions of the test set, (N, G) float32."""
    method = METHODS[task.method]
    table, sample = galaxies.table, galaxies.sample
    if task.zero_points:
        table, sample = with_zero_points(table)
    x, z = features(table, sample, method.features), sample["z"].to_numpy()
    train, test, groups = photoz.split(sample, 0, 0, task.n_folds)
    if method.network == "perceptron":
        ensemble = photoz.fit_ensemble(
            x[train], z[train], groups[train], task.budget.members, task.budget.epochs, task.seed
        )
        return predict(partial(ensemble.cdf, grid=_grid()), torch.from_numpy(x[test])).numpy()
    mean, std = np.nanmean(x[train], 0), np.maximum(np.nanstd(x[train], 0), 1e-6)
    known = torch.from_numpy(np.clip(np.nan_to_num((x - mean) / std), -8.0, 8.0))
    if method.network == "fusion":
        stamps = _stamps(galaxies)
    else:
        stamps = known[:, :0]  # features alone carry no stamps
    data = (stamps, known, torch.from_numpy(z.astype(np.float32)))
    total = np.zeros((len(test), len(photoz.GRID)), np.float32)
    members = task.budget.image_members if method.network == "fusion" else task.budget.members
    for member in range(members):
        seed = 1000 * task.seed + member
        model = _encoder(method.network, data, train, groups, task.budget, seed)
        views = task.budget.views if method.network == "fusion" else 1
        device = next(model.parameters()).device
        answer = partial(model.cdf, grid=_grid().to(device), views=views)
        inputs = (t[torch.from_numpy(test)].to(device) for t in data[:2])
        total += predict(answer, *inputs, batch_size=512).numpy()
    return total / members


def _grid() -> Tensor:
    return torch.from_numpy(photoz.GRID.astype(np.float32))


def _stamps(galaxies: Galaxies) -> Tensor:
    """Stamps as the encoder reads them, corrected for the dust of the Galaxy as magnitudes are."""
    bright = np.float32(10 ** (0.4 * galaxies.columns("extinction")))[:, :, None, None]
    noise = torch.tensor(SDSS.sky_sigma, dtype=torch.float32)
    return scaled_stamps(torch.from_numpy(galaxies.images * bright), noise)


def _encoder(
    reads: str, data: tuple[Tensor, ...], train: np.ndarray, groups: np.ndarray, budget: Budget, seed: int
) -> RedshiftFormer:
    """Train on features, then with stamps; a tenth of the groups of the training set is held out to stop."""
    held = hold_out(groups[train], 0.1, seed)
    learn, stop = (tuple(t[torch.from_numpy(train[mask])] for t in data) for mask in (~held, held))
    build = partial(
        RedshiftFormer,
        n_features=data[1].shape[1],
        reads=reads,
        center=float(learn[2].mean()),
        scale=float(learn[2].std()),
    )
    model = seeded(seed, build)
    fit(
        model,
        lambda m, batch: m.loss_of_features(*batch),
        learn[1:],
        stop[1:],
        TrainingConfig(epochs=budget.epochs, batch_size=512, learning_rate=3e-3, seed=seed),
    )
    if reads == "fusion":
        config = TrainingConfig(
            epochs=budget.image_epochs,
            batch_size=budget.batch_size,
            learning_rate=1e-3,
            weight_decay=0.01,
            patience=budget.image_epochs,
            bfloat16=True,
            seed=seed,
        )
        fit(model, lambda m, batch: m.loss(*batch), learn, stop, config, augment=Augmentation().of_batch)
    return model


# --------------------------------------------------------------------------------------------------- tasks


def _cached(task: Task, galaxies: Galaxies, path: Path) -> tuple[Task, Path]:
    if not path.is_file():
        torch.set_num_threads(1)
        with atomic(path) as temporary:
            np.save(temporary, _answer(task, galaxies), allow_pickle=False)
    return task, path


def run_tasks(
    tasks: Sequence[Task], galaxies: Galaxies, folder: Path, workers: int
) -> Iterator[tuple[int, Task, np.ndarray]]:
    """Run tasks in parallel processes and yield (tasks done, task, densities) as they finish.

    Densities are cumulative distributions (N_test, G) on :data:`astro_utils.photoz.GRID`. Each is kept in
    `folder` under a digest of task, galaxies and code, so that a killed run goes on where it stopped.
    """
    package = Path(__file__).parent
    names = ("photoz_images", "photoz_features", "photoz_light", "photoz", "training", "augment", "splits")
    needed = [package / f"{name}.py" for name in names]
    needed += [package / "models" / f"{name}.py" for name in ("redshift_former", "margformer", "mdn")]
    digest = hashlib.sha256("".join(path.read_text(encoding="utf-8") for path in needed).encode())
    # The catalogue, which holds the light of the stamps, tells the galaxies.
    digest.update(pd.util.hash_pandas_object(galaxies.table).to_numpy().tobytes())
    folder.mkdir(parents=True, exist_ok=True)

    def place(task: Task) -> Path:
        own = digest.copy()
        own.update(repr(task).encode())
        return folder / f"{own.hexdigest()[:20]}.npy"

    calls = [joblib.delayed(_cached)(task, galaxies, place(task)) for task in tasks]
    finished = joblib.Parallel(n_jobs=workers, return_as="generator_unordered")(calls)
    for done, (task, path) in enumerate(finished, start=1):
        yield done, task, np.load(path, allow_pickle=False)
