"""A classifier of stars that learns on simulated fields alone, for PSFs that were fitted to few stars.

How sure to be of likelihoods about the wavefront that each star prefers
(:mod:`astro_utils.starsed.relinearised`) is learned on other fields, simulated, each with its own wavefronts,
stars and fit. No star of the field to classify is needed, and no label of it.

>>> seen = simulated_fields(exposures(12, 350, 0, "pickles", first_seed=101), 50, "fits")  # doctest: +SKIP
>>> correction = fit_simulated(seen)                                                       # doctest: +SKIP
>>> simulated_answers(exposure, "field_1.h5", fitted, correction)                          # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.special import log_softmax
from torch import nn

from astro_utils.models.star_classifiers import class_cross_entropy
from astro_utils.models.star_likelihood import fit_temperature
from astro_utils.starsed.relinearised import relinearised_likelihoods
from astro_utils.starsed.simulated_correction import (
    METHODS,
    SimulatedCorrection,
    correction_network,
    network_inputs,
)
from astro_utils.starsed.simulated_fields import SimulatedField
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = ["SimulatedConfig", "fit_simulated"]


@dataclass(frozen=True)
class SimulatedConfig:
    """How to learn.

    Parameters
    ----------
    steps : int
        Of :func:`astro_utils.starsed.relinearised.relinearised_likelihoods`.
    folds : int
        Networks, whose answers are averaged; fields that stop one are training fields of the others.
    hidden : int
        Units in each of two hidden layers.
    training : TrainingConfig
    """

    steps: int = 3
    folds: int = 4
    hidden: int = 32
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=40, batch_size=128, learning_rate=2e-3, weight_decay=1e-2
        )
    )


def fit_simulated(
    fields: Sequence[SimulatedField], config: SimulatedConfig | None = None
) -> SimulatedCorrection:
    """Learn from simulated fields how sure the likelihoods of stars may be.

    Parameters
    ----------
    fields : sequence of SimulatedField
        Two or more: some train a network, others stop it, in turn.
    config : SimulatedConfig, optional

    Returns
    -------
    SimulatedCorrection

    Raises
    ------
    ValueError
        For a single field.
    """
    config = config or SimulatedConfig()
    if len(fields) < 2:
        raise ValueError(f"{len(fields)} simulated fields; expected two or more, some of which stop training")
    labels = [torch.tensor(one.stars.labels).long() for one in fields]
    seen = [
        relinearised_likelihoods(one.stars, one.fitted, one.templates, steps=config.steps) for one in fields
    ]
    features = torch.tensor(np.concatenate([one.features for one in seen]))
    mean, sd = features.mean(0), features.std(0).clamp_min(1e-6)
    folds = min(config.folds, len(fields))
    sizes = [one.fitted.fit["n_stars"] for one in fields]
    facts = {"steps": config.steps, "hidden": config.hidden, "folds": folds}
    facts |= {"classes": len(fields[0].templates), "n_psf": [min(sizes), max(sizes)]}
    facts |= {"fields": len(fields), "stars": len(features), "temperature": {}, "nll": {}}
    networks: dict[str, list[nn.Module]] = {}
    for flux in METHODS:
        inputs = [(*network_inputs(one, flux, mean, sd), y) for one, y in zip(seen, labels, strict=True)]
        networks[flux], logits, held = [], [], []
        for fold in range(folds):
            parts = [
                tuple(torch.cat(x) for x in zip(*chosen, strict=True))
                for chosen in (
                    [x for i, x in enumerate(inputs) if i % folds != fold],
                    inputs[fold::folds],
                )
            ]
            network = seeded(config.training.seed + fold, lambda: correction_network(facts))
            fit(network, class_cross_entropy, *parts, config.training)
            network = network.cpu()
            networks[flux].append(network)
            logits.append(predict(network, *parts[1][:2]).double().numpy())
            held.append(parts[1][2].numpy())
        logits, truth = np.concatenate(logits), np.concatenate(held)
        facts["temperature"][flux] = t = fit_temperature(logits, truth)
        facts["nll"][flux] = _nll(logits / t, truth)
    return SimulatedCorrection(facts, mean, sd, networks)


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
