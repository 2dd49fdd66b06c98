"""What surrounds the main comparison: neighbours, confidence, sizes of training sets, other bands, cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from astro_utils.kcorrections.fast import FastPredictor
from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.heads import PublishedHead, neighbour_sweep
from astro_utils.kcorrections.kcorrect_fit import run_kcorrect
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.predictors import WithoutRedshift
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.simulated_methods import NONE, Method
from astro_utils.kcorrections.simulated_runs import filled, task_row
from astro_utils.kcorrections.simulated_task import OPTIONS, Task
from astro_utils.kcorrections.small_astroclip import small_images
from astro_utils.metrics import summarise
from astro_utils.models.astroclip import AstroCLIP

__all__ = [
    "NEIGHBOURS",
    "confidence_rows",
    "cost_rows",
    "learning_rows",
    "neighbour_rows",
]

#: Numbers of neighbours.
NEIGHBOURS = (1, 3, 10, 30, 64, 100, 300, 1000)


def _scores(task: Task, k: np.ndarray, rows: np.ndarray | slice, n_bootstrap: int) -> dict:
    true, groups = task.k[task.test][rows], task.galaxies.pixels[task.test][rows]
    k = k[rows]
    return summarise([lambda some: k_scores(k[some], true[some])], groups, n_bootstrap)


def neighbour_rows(task: Task, profile: str, sky: str, n_bootstrap: int = 200) -> list[dict]:
    """Zero-shot predictions from image embeddings by 1 to 1,000 neighbours."""
    ks = [k for k in NEIGHBOURS if k <= len(task.train)]
    mean, scale = task.images[task.train].mean(0), task.images[task.train].std(0)
    scaled = (task.images - mean) / scale
    answers = neighbour_sweep(scaled[task.train], task.k[task.train], scaled[task.test], ks)
    return [
        task_row(
            task,
            _scores(task, answer, slice(None), n_bootstrap),
            profile=profile,
            experiment=f"{sky}, neighbours",
            model=str(k),
        )
        for k, answer in zip(ks, answers, strict=True)
    ]


def confidence_rows(
    task: Task,
    half_width: np.ndarray,
    ours: np.ndarray,
    profile: str,
    sky: str,
    epochs: int,
    n_bootstrap: int = 200,
) -> tuple[list[dict], dict[str, np.ndarray]]:
    """Keep the most confident 90 %: by Monte Carlo dropout of the published network, and by our intervals.

    Parameters
    ----------
    task : Task
    half_width : numpy.ndarray
        (M,) of our intervals, mag.
    ours : numpy.ndarray
        (M,) our K of the test galaxies, mag.
    profile, sky : str
    epochs : int
        Of the network.
    n_bootstrap : int

    Returns
    -------
    rows : list of dict
        Scores of all, and of the most confident nine tenths, for each.
    spreads : dict
        Name to (M, 2), what each says of the error and the error itself, mag.
    """
    pixels = task.galaxies.pixels[task.train]
    head = PublishedHead("MLP", epochs=epochs).fit(task.images[task.train], task.k[task.train], pixels)
    mean, spread = head.confidence(task.images[task.test], passes=10)
    rows, spreads = [], {}
    for name, k, doubt in (("MLP, dropout", mean, spread), ("ours, interval", ours, half_width)):
        kept = doubt <= np.quantile(doubt, 0.9)
        common = {"profile": profile, "experiment": f"{sky}, confidence"}
        rows.append(
            task_row(task, _scores(task, k, slice(None), n_bootstrap), model=f"{name}: all", **common)
        )
        scores = _scores(task, k, kept, n_bootstrap)
        rows.append(
            task_row(task, scores, model=f"{name}: most confident 90 %", n_test=int(kept.sum()), **common)
        )
        spreads[name] = np.stack([doubt, np.abs(k - task.k[task.test])], 1)
    return rows, spreads


def learning_rows(
    task: Task, chosen: Sequence[Method], sizes: Sequence[int], profile: str, sky: str, n_bootstrap: int = 200
) -> list[dict]:
    """Scores of some methods on fewer training galaxies, the test as it is."""
    rows = []
    for size in sizes:
        if size >= len(task.train):
            continue
        smaller = task.fewer(size)
        for method in chosen:
            k = filled(method.predict(smaller, 0), smaller)
            scores = _scores(task, k, slice(None), n_bootstrap)
            rows.append(
                task_row(
                    smaller,
                    scores,
                    profile=profile,
                    experiment=f"{sky}, sizes, {method.track}",
                    model=method.name,
                )
            )
    return rows


def cost_rows(task: Task, clip: AstroCLIP, profile: str, n_timed: int = 1_000_000) -> list[dict]:
    """Galaxies a second of each step: kcorrect, the embedding, our predictor and the network that repeats it.

    The test galaxies are repeated where a step is too fast to be timed on them. Times are those of the
    threads that torch is given; what is slower than some thousand a second is timed on fewer galaxies.
    """
    threads, features = torch.get_num_threads(), task.features
    slow = WithoutRedshift().fit(task.known.select(task.train), task.k[task.train])

    def ask(values: np.ndarray) -> np.ndarray:
        return slow.predict(Knowledge(Features(values, features.kinds), np.zeros(len(values))))

    train = features.values[task.train]
    fast = FastPredictor.distil(train, ask, task.known.groups[task.train])
    many = np.resize(features.values, (n_timed, features.values.shape[1])).astype(np.float32)
    photometry = task.galaxies.photometry
    repeated = photometry.select(np.resize(np.arange(len(photometry)), 20_000))
    few = task.galaxies.images[:512]
    steps: dict[str, tuple[int, Callable[[], object]]] = {
        "kcorrect, redshift known": (20_000, lambda: run_kcorrect(repeated, OPTIONS[task.band])),
        "image embedding": (len(few), lambda: clip.embed_images(few, batch_size=256, prepare=small_images)),
        "ours, from the catalogue": (4096, lambda: ask(many[:4096])),
        "ours, repeated by a network": (n_timed, lambda: fast.predict(many)),
    }
    rows = []
    for name, (n, step) in steps.items():
        step()  # what is made once is not timed
        seconds = min(_timed(step) for _ in range(3))
        metrics = {"galaxies_per_second": n / seconds, "threads": float(threads)}
        if name == "ours, repeated by a network":
            metrics |= _scores(task, fast.predict(features.values[task.test]), slice(None), 100)
        rows.append(task_row(task, metrics, profile=profile, experiment="cost", model=name, n_test=n))
    return rows


def _timed(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def single_seed(methods: Sequence[Method]) -> list[Method]:
    """Methods without repetition."""
    return [replace(method, random=False) for method in methods]


def of_names(methods: Sequence[Method], names: Sequence[str], track: str = NONE) -> list[Method]:
    """Those of a track with some names, in the order of the names."""
    by_name = {method.name: method for method in methods if method.track == track}
    return [by_name[name] for name in names]
