"""Every method of the study under one call: trained on a partition, it answers for validation and tests.

Recipes are the published ones for published models (optimiser, rate, augmentation), with two differences: the
validation set is never augmented, and the best weights are truly restored.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.augment import Augmentation
from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.models.boosted_classes import BoostedClasses
from astro_utils.models.margformer import MargFormer
from astro_utils.models.margformer_published import PublishedMargFormer
from astro_utils.models.margnet import MargNetConvolutional, MargNetDense, MargNetEnsemble
from astro_utils.separation.inputs import FEATURES, Inputs
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = [
    "ABLATIONS",
    "BOOSTING",
    "CONVOLUTIONAL",
    "DENSE",
    "ENSEMBLE",
    "IMAGES",
    "JOINED",
    "METHODS",
    "OURS",
    "PHOTOMETRY",
    "PUBLISHED",
    "PUBLISHED_64",
    "ROBUST",
    "TRIVIAL",
    "Answers",
    "Budget",
    "Objects",
    "run_method",
]

TRIVIAL = "most frequent class"
BOOSTING = "gradient boosting, 24 features"
DENSE, CONVOLUTIONAL, ENSEMBLE = "MargNet DNN", "MargNet CNN", "MargNet ensemble"
PUBLISHED, PUBLISHED_64 = "MargFormer as published, k = 128", "MargFormer as published, k = 64"
PHOTOMETRY, IMAGES, JOINED = "ours, photometry alone", "ours, images alone", "ours, joined end to end"
OURS, ROBUST = "ours", "ours, degraded objects added"
ABLATIONS = {PHOTOMETRY: "photometry", IMAGES: "images", JOINED: "concatenation", OURS: "fusion"}
#: What can be asked of :func:`run_method`; MargNet's ensemble brings its parts along.
METHODS = (BOOSTING, DENSE, ENSEMBLE, PUBLISHED, PUBLISHED_64, PHOTOMETRY, IMAGES, JOINED, OURS, ROBUST)

#: Rotations by any angle, mirrors, and shifts of a tenth of the side: the published augmentation.
PUBLISHED_AUGMENTATION = Augmentation(rotation="any", flips=True, shift=3.2)


@dataclass(frozen=True)
class Budget:
    """Passes over the training set at most, by family of models.

    Parameters
    ----------
    ours, photometry, published, dense, convolutional : int
        Epochs of our networks with images, of ours with photometry alone, of MargFormer as published (300
        there), of MargNet's DNN (4,000) and of its CNN (300).
    batch_size : int
        Objects in a step; published: 512 (DNN: 2,048).
    views : int
        Turns and mirrors of a stamp over which our networks average their answers, 1 to 8.
    """

    ours: int = 10
    photometry: int = 20
    published: int = 20
    dense: int = 60
    convolutional: int = 4
    batch_size: int = 128
    views: int = 8


@dataclass(frozen=True)
class Objects:
    """Sources of known class: catalogue, images (N, 5, ny, nx) in nanomaggies and class numbers (N,)."""

    table: pd.DataFrame
    images: np.ndarray
    labels: np.ndarray

    def published_features(self) -> np.ndarray:
        """MargNet's 24 features as they stand, (N, 24) float32."""
        return self.table[list(MARGNET_FEATURES)].to_numpy(np.float32)


@dataclass(frozen=True)
class Answers:
    """What a trained method says of each set, and what it cost.

    Attributes
    ----------
    probabilities : mapping of str to numpy.ndarray
        Name of the set to (N, K).
    parameters : int
        Trainable ones; trees for boosting.
    seconds : float
        Wall time of the training.
    epochs, best_epoch : int
        Passes made, and the one whose weights are kept (from 1); iterations for boosting.
    weights : mapping of str to torch.Tensor
        Of a network, and of what scales its inputs.
    """

    probabilities: Mapping[str, np.ndarray]
    parameters: int
    seconds: float
    epochs: int
    best_epoch: int
    weights: Mapping[str, Tensor] = field(default_factory=dict)


def run_method(
    method: str,
    train: Objects,
    validation: Objects,
    asked: Mapping[str, Objects],
    n_classes: int,
    seed: int,
    budget: Budget,
) -> dict[str, Answers]:
    """Train one method and have it answer.

    Parameters
    ----------
    method : str
        One of :data:`METHODS`. :data:`ROBUST` differs from :data:`OURS` in its features, ratios alone; the
        degraded objects are the caller's to add.
    train, validation : Objects
        The second to stop on, and to train MargNet's ensemble on, as published.
    asked : mapping
        Sets to answer for.
    n_classes : int
    seed : int
        Of weights, batches and augmentation.
    budget : Budget

    Returns
    -------
    dict
        Method to its answers: the one that was asked for; MargNet's ensemble with its two parts.

    Raises
    ------
    ValueError
        When there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"no method {method!r}; expected one of {', '.join(METHODS)}")
    job = _Job(train, validation, asked, n_classes, seed, budget)
    if method == BOOSTING:
        return {method: job.boosting()}
    if method == DENSE:
        return {method: job.dense()}
    if method == ENSEMBLE:
        return job.ensemble()
    if method in (PUBLISHED, PUBLISHED_64):
        return {method: job.published(k=128 if method == PUBLISHED else 64)}
    if method == ROBUST:
        return {method: job.ours("fusion", FEATURES[0])}
    return {method: job.ours(ABLATIONS[method], FEATURES[1])}


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    *inputs, labels = batch
    return F.cross_entropy(model(*inputs), labels, reduction="none")


def _with_parts(model: MargFormer, batch: tuple[Tensor, ...]) -> Tensor:
    """Cross-entropy of the whole and, while it trains, half of that of each of its parts."""
    stamps_, known, labels = batch
    if not model.training:
        return F.cross_entropy(model(stamps_, known), labels, reduction="none")
    joint, *parts = model(stamps_, known, parts=True)
    loss = F.cross_entropy(joint, labels, reduction="none")
    return loss + sum(0.5 * F.cross_entropy(part, labels, reduction="none") for part in parts)


@dataclass(frozen=True)
class _Job:
    train: Objects
    validation: Objects
    asked: Mapping[str, Objects]
    n_classes: int
    seed: int
    budget: Budget

    def boosting(self) -> Answers:
        start = time.perf_counter()
        model = BoostedClasses(n_classes=self.n_classes, seed=self.seed)
        sets = [a for o in (self.train, self.validation) for a in (o.published_features(), o.labels)]
        model.fit(*sets)
        seconds = time.perf_counter() - start
        answers = {name: model.predict_proba(o.published_features()) for name, o in self.asked.items()}
        trees = model.n_iterations * (1 if self.n_classes == 2 else self.n_classes)
        return Answers(answers, trees, seconds, len(model.validation_losses), model.n_iterations)

    def dense(self) -> Answers:
        config = self._as_published(self.budget.dense)
        return self._network(
            partial(MargNetDense, n_classes=self.n_classes),
            lambda o: (torch.tensor(o.published_features()),),
            replace(config, batch_size=2 * config.batch_size, patience=100, bfloat16=False),
        )

    def convolutional(self) -> Answers:
        return self._network(
            partial(MargNetConvolutional, n_classes=self.n_classes),
            lambda o: (_images(o),),
            self._as_published(self.budget.convolutional),
            augment=PUBLISHED_AUGMENTATION.of_batch,
        )

    def ensemble(self) -> dict[str, Answers]:
        """MargNet whole: the ensemble is trained on the validation set and kept as training left it."""
        everything = {**self.asked, "_validation": self.validation}
        asked = replace(self, asked=everything)
        parts = {CONVOLUTIONAL: asked.convolutional(), DENSE: asked.dense()}

        def joined(name: str) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(part.probabilities[name]).float() for part in parts.values())

        start = time.perf_counter()
        model = seeded(self.seed, partial(MargNetEnsemble, n_classes=self.n_classes))
        known = (*joined("_validation"), torch.from_numpy(self.validation.labels))
        history = fit(model, _cross_entropy, known, known, self._as_published(100))
        seconds = time.perf_counter() - start + sum(part.seconds for part in parts.values())
        answers = {name: _softmax(model, joined(name)) for name in self.asked}
        size = _size(model) + sum(part.parameters for part in parts.values())
        ended = Answers(answers, size, seconds, len(history.train_loss), history.best_epoch + 1)
        for part in parts.values():
            part.probabilities.pop("_validation")
        return parts | {ENSEMBLE: ended}

    def published(self, k: int) -> Answers:
        return self._network(
            partial(PublishedMargFormer, n_classes=self.n_classes, k=k),
            lambda o: (_images(o), torch.tensor(o.published_features())),
            self._as_published(self.budget.published),
            augment=PUBLISHED_AUGMENTATION.of_batch,
        )

    def ours(self, reads: str, kind: str) -> Answers:
        read = Inputs.of(self.train.table, kind)

        def inputs(o: Objects) -> tuple[Tensor, ...]:
            known = read.features(o.table)
            # Photometry alone reads no stamps, and is not made to carry them.
            return (known[:, :0] if reads == "photometry" else read.stamps(o.images), known)

        alone = reads == "photometry"
        config = TrainingConfig(
            epochs=self.budget.photometry if alone else self.budget.ours,
            batch_size=self.budget.batch_size,
            learning_rate=2e-3,
            weight_decay=0.01,
            patience=self.budget.photometry,
            bfloat16=True,
            seed=self.seed,
        )
        answers = self._network(
            partial(MargFormer, n_outputs=self.n_classes, n_features=len(read.mean), reads=reads),
            inputs,
            config,
            loss=_with_parts,
            augment=None if alone else Augmentation(rotation="quarter", flips=True).of_batch,
            views=1 if alone else self.budget.views,
        )
        return replace(answers, weights={**answers.weights, **read.tensors()})

    def _as_published(self, epochs: int) -> TrainingConfig:
        """Adam at a constant 1e-3, patience 30."""
        return TrainingConfig(
            epochs=epochs,
            batch_size=self.budget.batch_size,
            learning_rate=1e-3,
            weight_decay=0.0,
            schedule="constant",
            patience=30,
            bfloat16=True,
            seed=self.seed,
        )

    def _network(
        self,
        build: Callable[[], nn.Module],
        inputs: Callable[[Objects], tuple[Tensor, ...]],
        config: TrainingConfig,
        *,
        loss: Callable = _cross_entropy,
        augment: Callable | None = None,
        views: int = 1,
    ) -> Answers:
        start = time.perf_counter()
        model = seeded(self.seed, build)
        sets = [(*inputs(o), torch.tensor(o.labels)) for o in (self.train, self.validation)]
        history = fit(model, loss, *sets, config, augment=augment)
        seconds = time.perf_counter() - start
        answers = {name: _softmax(model, inputs(o), views) for name, o in self.asked.items()}
        passes = len(history.train_loss), history.best_epoch + 1
        weights = {name: tensor.cpu().contiguous() for name, tensor in model.state_dict().items()}
        return Answers(answers, _size(model), seconds, *passes, weights)


def _images(o: Objects) -> Tensor:
    return torch.tensor(np.asarray(o.images, np.float32))  # a copy: what another process lends is read-only


def _size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _softmax(model: nn.Module, inputs: tuple[Tensor, ...], views: int = 1) -> np.ndarray:
    """Probabilities (N, K), averaged over the first `views` of the eight turns and mirrors of the stamps."""
    device = next(model.parameters()).device

    def answer(*batch: Tensor) -> Tensor:
        batch = tuple(t.to(device) for t in batch)
        total = 0.0
        for view in range(views):
            turned = batch
            if views > 1:
                stamp = torch.rot90(batch[0], view % 4, (2, 3))
                turned = (stamp.flip(3) if view >= 4 else stamp, *batch[1:])
            total = total + model(*turned).softmax(1)
        return total / views

    return predict(answer, *inputs, batch_size=1024).double().numpy()
