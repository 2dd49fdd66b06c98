"""The published convolutional network and support vector machine for stellar types, with their quirks named.

The third published classifier, PCA with a committee, is in :mod:`astro_utils.models.star_committee`. All take
and give alike: ``fit(train, validation)``, ``predict(stars)`` and ``predict_probabilities(stars)`` of
:class:`astro_utils.models.star_features.StarSet`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F

from astro_utils.models.star_features import N_CLASSES, StarSet, central_crop, similarity_features
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = [
    "CNNClassifier",
    "SimilaritySVM",
    "StarCNN",
    "class_cross_entropy",
    "couple_pairs",
    "keras_initialise",
]


def class_cross_entropy(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Negative log-likelihoods (B,) of the labels, the last tensor of a batch, given all the others."""
    return F.cross_entropy(model(*batch[:-1]), batch[-1], reduction="none")


def keras_initialise(model: nn.Module) -> nn.Module:
    """Set weights by Glorot's uniform rule and biases to zero, the defaults of the published networks."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


class StarCNN(nn.Module):
    """Convolutions of a 12 x 12 crop down to one pixel, then a perceptron: 43,981 weights for 13 classes.

    Parameters
    ----------
    n_classes : int

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, arXiv:2501.16151.
    """

    size = 12

    def __init__(self, *, n_classes: int = N_CLASSES) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for n_in in (1, 32, 32, 32, 32):  # 12 -> 10, 8, 6, 4, 2 pixels a side
            layers += [nn.Conv2d(n_in, 32, 3), nn.ReLU()]
        layers += [nn.Conv2d(32, 32, 2), nn.ReLU(), nn.Flatten()]  # (B, 32)
        layers += [nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, n_classes)]
        self.layers = nn.Sequential(*layers)
        keras_initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) from scaled crops (B, 12, 12)."""
        return self.layers(x[:, None])


class CNNClassifier:
    """The published network and how it was trained.

    Parameters
    ----------
    train_share : float
        Share of the training set that is trained on, at random. The published code split 3,846 stars of
        10,000 off as a validation set that it never used; 1 trains on all.
    test_statistics : bool
        Whether crops are scaled, (crop - mean crop) / (largest pixel of the mean crop), by the mean of the
        set they are in: as published, stars are classified by what else is classified with them. False
        takes the mean of the training set, always.
    early_stopping : bool
        Whether to stop by the validation set and keep the best weights. As published, no: all epochs are
        run and the last weights kept.
    epochs, batch_size : int
    learning_rate : float
        Of Adam.
    half : bool
        Whether convolutions are computed in bfloat16, with weights and steps in float32: faster on recent
        processors.
    n_classes : int
    seed : int
    """

    def __init__(
        self,
        *,
        train_share: float = 8 / 13,
        test_statistics: bool = True,
        early_stopping: bool = False,
        epochs: int = 2000,
        batch_size: int = 512,
        learning_rate: float = 1e-4,
        half: bool = False,
        n_classes: int = N_CLASSES,
        seed: int = 0,
    ) -> None:
        if not 0 < train_share <= 1:
            raise ValueError(f"train_share is {train_share}; expected above 0 and at most 1")
        self.train_share, self.test_statistics = train_share, test_statistics
        self.early_stopping, self.half = early_stopping, half
        self.n_classes, self.seed = n_classes, seed
        self._config = TrainingConfig(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=0.0,
            schedule="constant",
            clip_norm=math.inf,
            seed=seed,
        )

    def _inputs(self, stars: StarSet, *, training: bool = False) -> Tensor:
        crops = central_crop(stars.stamps, StarCNN.size)
        if training or self.test_statistics:
            mean = crops.mean(0, dtype=float)
        else:
            mean = self._mean
        if training:
            self._mean = mean
        return torch.as_tensor((crops - mean) / mean.max(), dtype=torch.float32)

    def fit(self, train: StarSet, validation: StarSet | None = None) -> CNNClassifier:
        """Fit to stamps and labels; the validation set is read for early stopping only."""
        labels = train.need_labels("CNNClassifier", self.n_classes)
        x, y = self._inputs(train, training=True), torch.as_tensor(labels).long()
        order = np.random.default_rng(self.seed).permutation(len(x))
        chosen = torch.as_tensor(np.sort(order[: round(self.train_share * len(x))]))
        data = x[chosen], y[chosen]
        self.model = seeded(self.seed, lambda: StarCNN(n_classes=self.n_classes))
        if not self.early_stopping:
            self._fit_all_epochs(*data)
            return self
        if validation is None:
            raise ValueError("CNNClassifier needs a validation set for early stopping")
        held = torch.as_tensor(validation.need_labels("CNNClassifier", self.n_classes)).long()
        fit(self.model, class_cross_entropy, data, (self._inputs(validation), held), self._config)
        return self

    def _fit_all_epochs(self, x: Tensor, y: Tensor) -> None:
        """Adam at a constant rate for all epochs; ``training.fit`` would return to the best of them."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # Only in bfloat16 are the convolutions faster with channels last.
        layout = torch.channels_last if self.half else torch.contiguous_format
        model = self.model.to(device, memory_format=layout)
        x, y = x.to(device), y.to(device)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=self._config.learning_rate, eps=1e-7, fused=device.type == "cuda"
        )
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self._config.epochs):
            order = torch.randperm(len(x), generator=generator).to(device)
            for index in order.split(self._config.batch_size):
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
                    logits = model(x[index])
                F.cross_entropy(logits.float(), y[index]).backward()
                optimizer.step()
        model.eval()

    def predict_probabilities(self, stars: StarSet) -> np.ndarray:
        """Probabilities (N, classes), by the network's softmax."""
        x = self._inputs(stars).to(next(self.model.parameters()).device)
        return predict(lambda batch: self.model(batch).double().softmax(1), x).numpy()

    def predict(self, stars: StarSet) -> np.ndarray:
        """Most probable classes (N,)."""
        return self.predict_probabilities(stars).argmax(1)


def couple_pairs(decisions: np.ndarray, n_classes: int, slope: float) -> np.ndarray:
    """Class probabilities from the decision values of all pairs of classes.

    Parameters
    ----------
    decisions : numpy.ndarray
        (N, K (K - 1) / 2) for the pairs (0, 1), (0, 2), ..., (1, 2), ...; positive for the first.
    n_classes : int
        K.
    slope : float
        Log-odds of a pair for one unit of its decision value.

    Returns
    -------
    numpy.ndarray
        (N, K): p_k proportional to 1 / (1 + sum_j exp(-slope d_kj)), which is the coupling of Price et al.
        (1994, NIPS 7, 975) for pair probabilities 1 / (1 + exp(-slope d_kj)), and a softmax where
        d_kj = s_k - s_j.
    """
    first, second = np.triu_indices(n_classes, 1)
    if decisions.shape[1:] != first.shape:
        raise ValueError(f"decisions of shape {decisions.shape} for {len(first)} pairs of classes")
    odds = np.zeros((len(decisions), n_classes, n_classes))  # against class k, by j
    scaled = np.clip(slope * decisions, -500, 500)
    odds[:, first, second], odds[:, second, first] = np.exp(-scaled), np.exp(scaled)
    p = 1 / (1 + odds.sum(2))
    return p / p.sum(1, keepdims=True)


class SimilaritySVM:
    """Support vector machine on the likeness of a star to the monochromatic PSFs at its position.

    As published: standardised features, radial kernel with C = 1 and gamma = 1 / bins, one against one.

    Parameters
    ----------
    flux : {"unit", "sum", "matched"}
        As published, "unit": see :func:`astro_utils.models.star_features.similarity_features`.
    n_classes : int
    folds : int
        Of the cross-validation that calibrates the probabilities.
    seed : int
        Of the folds.

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, arXiv:2501.16151.
    """

    def __init__(
        self, *, flux: str = "unit", n_classes: int = N_CLASSES, folds: int = 3, seed: int = 0
    ) -> None:
        self.flux, self.n_classes, self.folds, self.seed = flux, n_classes, folds, seed

    @staticmethod
    def _machine() -> Pipeline:
        return make_pipeline(
            StandardScaler(), SVC(kernel="rbf", C=1.0, gamma="auto", decision_function_shape="ovo")
        )

    def _features(self, stars: StarSet) -> np.ndarray:
        (psfs,) = stars.need("SimilaritySVM", "psfs")
        return similarity_features(stars.stamps, psfs, flux=self.flux)

    def fit(self, train: StarSet, validation: StarSet | None = None) -> SimilaritySVM:
        """Fit to stamps, PSFs and labels of the training set; the validation set is not read.

        The slope of the probabilities has the greatest likelihood of the training stars, each judged by a
        machine that was not trained on it.
        """
        features, labels = self._features(train), train.need_labels("SimilaritySVM", self.n_classes)
        counts = np.bincount(labels, minlength=self.n_classes)
        if counts.min() < self.folds:
            raise ValueError(
                f"class {int(counts.argmin())} has {counts.min()} stars; expected {self.folds} or more"
            )
        self._svm = self._machine().fit(features, labels)
        decisions = np.empty((len(labels), self.n_classes * (self.n_classes - 1) // 2))
        folds = StratifiedKFold(self.folds, shuffle=True, random_state=self.seed)
        for inside, outside in folds.split(features, labels):
            machine = self._machine().fit(features[inside], labels[inside])
            decisions[outside] = machine.decision_function(features[outside])

        def surprise(log_slope: float) -> float:
            p = couple_pairs(decisions, self.n_classes, math.exp(log_slope))
            return -np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-300)).mean()

        self.slope = math.exp(minimize_scalar(surprise, bounds=(-4, 5)).x)
        return self

    def predict(self, stars: StarSet) -> np.ndarray:
        """Classes (N,) by the votes of the pairs, as published; the first class of a tie."""
        return self._svm.predict(self._features(stars))

    def predict_probabilities(self, stars: StarSet) -> np.ndarray:
        """Probabilities (N, classes); now and then the most probable class is not that of the votes."""
        return couple_pairs(self._svm.decision_function(self._features(stars)), self.n_classes, self.slope)
