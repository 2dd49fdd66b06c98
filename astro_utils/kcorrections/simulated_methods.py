"""Every method that is asked for K on the simulated sky, by what it is told of the redshift.

Baselines, kcorrect and the published heads on image embeddings stand beside ours; ablations say which part of
ours does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from sklearn.neighbors import KNeighborsRegressor

from astro_utils.kcorrections.heads import PublishedHead
from astro_utils.kcorrections.kcorrect_fit import published_options, run_kcorrect
from astro_utils.kcorrections.polynomials import box_powers, fit_polynomial
from astro_utils.kcorrections.predictors import (
    AtMedianRedshift,
    Boosting,
    TemplateDensity,
    WithDensity,
    WithoutRedshift,
    WithRedshift,
)
from astro_utils.kcorrections.simulated_features import EmbeddingSummary, three_numbers
from astro_utils.kcorrections.simulated_task import Task

__all__ = ["HEADS", "NONE", "PHOTOMETRIC", "SPECTROSCOPIC", "TRACKS", "Method", "methods"]

NONE, PHOTOMETRIC, SPECTROSCOPIC = TRACKS = ("no redshift", "photometric redshift", "spectroscopic redshift")

#: Published heads, by the names of :class:`astro_utils.kcorrections.heads.PublishedHead`.
HEADS = (
    "nearest neighbours",
    "MLP 64",
    "MLP",
    "residual MLP",
    "self-attention",
    "gradient boosting",
)

#: What decides nothing at random needs one seed.
_NOT_RANDOM = ("nearest neighbours", "gradient boosting")


@dataclass(frozen=True)
class Method:
    """One method in one track.

    Attributes
    ----------
    track : str
        Among :data:`TRACKS`.
    name : str
    source : {"baseline", "benchmark", "published", "ours", "ablation"}
        Ours are the candidates for the track; ablations are ours with a part left out or another input.
    predict : callable
        From a task and a seed to K of its test galaxies (M,), mag; NaN where the method fails.
    random : bool
        Whether the seed matters.
    """

    track: str
    name: str
    source: str
    predict: Callable[[Task, int], np.ndarray]
    random: bool = False


def methods(epochs: int) -> list[Method]:
    """List all methods; networks train for `epochs`."""
    return [*_baselines(), *_benchmarks(), *_published(epochs), *_ours()]


# -------------------------------------------------------------------------------------------- trivial ones


def _mean(task: Task, seed: int) -> np.ndarray:
    return np.full(len(task.test), task.k[task.train].mean())


def _neighbours(task: Task, seed: int, columns: slice) -> np.ndarray:
    """Mean of the 30 nearest training galaxies in some of the three numbers, each in units of its spread."""
    x = three_numbers(task.features)[:, columns]
    x = x / x[task.train].std(0)
    model = KNeighborsRegressor(30).fit(x[task.train], task.k[task.train])
    return model.predict(x[task.test])


def _redshift(task: Task, track: str) -> np.ndarray:
    return {PHOTOMETRIC: task.z_phot, SPECTROSCOPIC: task.galaxies.z}[track]


def _polynomial(task: Task, seed: int, track: str, colour: bool) -> np.ndarray:
    """K as a polynomial of degree 7 in redshift, and of degree 3 in g - r."""
    columns = [_redshift(task, track)] + [task.features.values[:, 1]] * colour
    x, powers = np.stack(columns, 1), box_powers(*([7, 3] if colour else [7]))
    return fit_polynomial(x[task.train], task.k[task.train], powers)(x[task.test])


def _baselines() -> list[Method]:
    out = []
    for track in TRACKS:
        out += [Method(track, "mean", "baseline", _mean)]
        if track == NONE:
            out += [
                Method(track, "colours", "baseline", partial(_neighbours, columns=slice(1, 3))),
                Method(track, "three numbers", "baseline", partial(_neighbours, columns=slice(0, 3))),
            ]
        else:
            out += [
                Method(track, "redshift", "baseline", partial(_polynomial, track=track, colour=False)),
                Method(track, "redshift, g - r", "baseline", partial(_polynomial, track=track, colour=True)),
            ]
    return out


# ------------------------------------------------------------------------------------------------- kcorrect


def _ours_predictor(task: Task, seed: int, make: Callable[[Task, int], object]) -> np.ndarray:
    """Fit one of :mod:`astro_utils.kcorrections.predictors` and ask it for the test galaxies."""
    model = make(task, seed).fit(task.known.select(task.train), task.k[task.train])
    return model.predict(task.known.select(task.test))


def _kcorrect(task: Task, seed: int) -> np.ndarray:
    return task.known.k_templates[task.test]


def _kcorrect_as_published(task: Task, seed: int) -> np.ndarray:
    photometry = task.galaxies.photometry.select(task.test)
    return run_kcorrect(photometry, published_options("DECam")).k


def _benchmarks() -> list[Method]:
    at_median = partial(
        _ours_predictor, make=lambda task, seed: AtMedianRedshift(max_redshift=task.last_redshift, seed=seed)
    )
    density = partial(
        _ours_predictor, make=lambda task, seed: TemplateDensity(max_redshift=task.last_redshift)
    )
    return [
        Method(NONE, "templates and n(z)", "benchmark", density),
        Method(PHOTOMETRIC, "kcorrect", "benchmark", at_median),
        Method(SPECTROSCOPIC, "kcorrect", "benchmark", _kcorrect),
        Method(SPECTROSCOPIC, "kcorrect as published", "benchmark", _kcorrect_as_published),
    ]


# --------------------------------------------------------------------------------------- heads on embeddings


def head_inputs(task: Task, track: str) -> np.ndarray:
    """Image embeddings (N, D), with the redshift of the track appended (N, D + 1)."""
    if track == NONE:
        return task.images
    return np.column_stack([task.images, _redshift(task, track)])


def _head(task: Task, seed: int, kind: str, track: str, epochs: int) -> np.ndarray:
    x = head_inputs(task, track)
    head = PublishedHead(kind, epochs=epochs, seed=seed)
    return head.fit(x[task.train], task.k[task.train], task.galaxies.pixels[task.train]).predict(x[task.test])


def _of_spectra(task: Task, seed: int) -> np.ndarray:
    head = PublishedHead("nearest neighbours", seed=seed)
    head.fit(task.spectra[task.train], task.k[task.train], task.galaxies.pixels[task.train])
    return head.predict(task.spectra[task.test])


def _published(epochs: int) -> list[Method]:
    out = [
        Method(
            track,
            f"{kind}, image embedding",
            "published",
            partial(_head, kind=kind, track=track, epochs=epochs),
            random=kind not in _NOT_RANDOM,
        )
        for track in TRACKS
        for kind in HEADS
    ]
    return [*out, Method(SPECTROSCOPIC, "nearest neighbours, spectrum embedding", "published", _of_spectra)]


# ----------------------------------------------------------------------------------------------------- ours


def _summarised(task: Task, seed: int, catalogue: bool, redshift: bool) -> Task:
    """Join what the image embedding says to the features, or put it in place of them.

    It says something of K and, where training galaxies have redshifts, of the redshift.
    """
    summary = EmbeddingSummary(seed=seed)
    targets = np.stack([task.k] + [task.galaxies.z] * redshift, 1)
    columns = np.empty(targets.shape)
    train, test = task.train, task.test
    columns[train] = summary.fit_transform(task.images[train], targets[train], task.known.groups[train])
    columns[test] = summary.transform(task.images[test])
    features = task.features
    if not catalogue:
        features = replace(features, values=features.values[:, :0], kinds=())
    for column in columns.T:
        features = features.join("embedding", column)
    return replace(task, known=replace(task.known, features=features))


def _with_embedding(
    task: Task,
    seed: int,
    make: Callable[[Task, int], object],
    catalogue: bool = True,
    redshift: bool = False,
) -> np.ndarray:
    return _ours_predictor(_summarised(task, seed, catalogue, redshift), seed, make)


def _boosting(task: Task, seed: int) -> np.ndarray:
    x = np.column_stack([three_numbers(task.features), task.galaxies.z])
    return Boosting(seed=seed).fit(x[task.train], task.k[task.train]).predict(x[task.test])


def _ours() -> list[Method]:
    without, density, known, plain = (
        partial(_ours_predictor, make=make)
        for make in (
            lambda task, seed: WithoutRedshift(seed=seed),
            lambda task, seed: WithDensity(max_redshift=task.last_redshift, seed=seed),
            lambda task, seed: WithRedshift(seed=seed),
            lambda task, seed: WithRedshift(templates=False, seed=seed),
        )
    )
    joined = partial(_with_embedding, make=lambda task, seed: WithoutRedshift(seed=seed))
    joined_density = partial(
        _with_embedding,
        make=lambda task, seed: WithDensity(max_redshift=task.last_redshift, seed=seed),
        redshift=True,
    )
    return [
        Method(NONE, "ours", "ours", joined, True),
        Method(NONE, "ours, catalogue alone", "ablation", without, True),
        Method(NONE, "ours, embedding alone", "ablation", partial(joined, catalogue=False), True),
        Method(PHOTOMETRIC, "ours", "ours", joined_density, True),
        Method(PHOTOMETRIC, "ours, catalogue alone", "ablation", density, True),
        Method(PHOTOMETRIC, "ours, p(z) left out", "ablation", joined, True),
        Method(SPECTROSCOPIC, "ours", "ours", known, True),
        Method(SPECTROSCOPIC, "ours, kcorrect left out", "ablation", plain, True),
        Method(SPECTROSCOPIC, "boosting, three numbers", "ablation", _boosting, True),
    ]
