"""Learned classifiers of stars that are ours: one without the PSF, and a learned correction of a likelihood.

Both are small perceptrons on standardised features, trained on the cross-entropy of the classes, stopped and
calibrated by a validation set. Simulated fields train them; the field to classify is an unseen one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from scipy.special import log_softmax
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from astro_utils.models.star_classifiers import class_cross_entropy
from astro_utils.models.star_features import N_CLASSES, StarSet
from astro_utils.models.star_likelihood import TemplateClassifier, fit_temperature
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = ["PCAClassifier", "TemplateNetwork", "TemplateNetworkClassifier", "aligned_features"]

PCA_TRAINING = TrainingConfig(epochs=60, batch_size=128, learning_rate=3e-3)
CORRECTION_TRAINING = TrainingConfig(epochs=40, batch_size=128, learning_rate=2e-3)


class FeatureClassifier(ABC):
    """What both share: training, temperature, probabilities. A subclass says what goes in, and into what."""

    n_classes: int
    config: TrainingConfig
    temperature: float = 1.0

    @abstractmethod
    def _prepare(self, train: StarSet) -> tuple[Tensor, ...]:
        """Fit what turns stars into inputs, and return those of the training set."""

    @abstractmethod
    def _inputs(self, stars: StarSet) -> tuple[Tensor, ...]:
        """Make the inputs of the network, (N, ...) float32."""

    @abstractmethod
    def _network(self, inputs: tuple[Tensor, ...]) -> nn.Module:
        """Build the network for such inputs."""

    def fit(self, train: StarSet, validation: StarSet) -> FeatureClassifier:
        """Fit to the training set; the validation set stops the training and sets the temperature."""
        labels = [
            torch.as_tensor(stars.need_labels(type(self).__name__, self.n_classes)).long()
            for stars in (train, validation)
        ]
        inputs, held = self._prepare(train), self._inputs(validation)
        self.model = seeded(self.config.seed, lambda: self._network(inputs))
        self.history = fit(
            self.model, class_cross_entropy, (*inputs, labels[0]), (*held, labels[1]), self.config
        )
        self.temperature = fit_temperature(self._logits(held), labels[1].numpy())
        return self

    def _logits(self, inputs: tuple[Tensor, ...]) -> np.ndarray:
        device = next(self.model.parameters()).device
        return predict(self.model, *(x.to(device) for x in inputs)).double().numpy()

    def predict_probabilities(self, stars: StarSet) -> np.ndarray:
        """Calibrated probabilities (N, classes)."""
        return np.exp(log_softmax(self._logits(self._inputs(stars)) / self.temperature, axis=1))

    def predict(self, stars: StarSet) -> np.ndarray:
        """Most probable classes (N,)."""
        return self.predict_probabilities(stars).argmax(1)


def _perceptron(n_in: int, hidden: int, n_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(n_in, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, n_out),
    )


class PCAClassifier(FeatureClassifier):
    """Standardised PCA of the stamps and a softmax over the classes: the pixel-only baseline, done well.

    Parameters
    ----------
    n_components, hidden : int
        Components of the PCA; units in each of two hidden layers.
    n_classes : int
    config : TrainingConfig
        Its seed is also that of the PCA and of the weights.
    """

    def __init__(
        self,
        *,
        n_components: int = 24,
        hidden: int = 64,
        n_classes: int = N_CLASSES,
        config: TrainingConfig = PCA_TRAINING,
    ) -> None:
        self.hidden, self.n_classes, self.config = hidden, n_classes, config
        self._pca = PCA(n_components, svd_solver="randomized", random_state=config.seed)
        self._scaler = StandardScaler()

    def _prepare(self, train: StarSet) -> tuple[Tensor, ...]:
        self._scaler.fit(self._pca.fit_transform(train.stamps.reshape(len(train), -1)))
        return self._inputs(train)

    def _inputs(self, stars: StarSet) -> tuple[Tensor, ...]:
        components = self._pca.transform(stars.stamps.reshape(len(stars), -1))
        return (torch.as_tensor(self._scaler.transform(components), dtype=torch.float32),)

    def _network(self, inputs: tuple[Tensor, ...]) -> nn.Module:
        return _perceptron(inputs[0].shape[1], self.hidden, self.n_classes, 0.1)


def aligned_features(stars: StarSet, n_basis: int = 4, chunk: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """Stamps in a basis made of the PSFs at each star's own position, and what that basis leaves.

    The basis is the mean of the PSFs over wavelength, then their slope, their curvature and so on, made
    orthogonal: the same quantity for stars whose PSFs differ, where a PCA of stamps mixes class and position.

    Parameters
    ----------
    stars : StarSet
        With psfs and sigma.
    n_basis : int
        Up to the number of bins.
    chunk : int
        Stars at a time.

    Returns
    -------
    coefficients : numpy.ndarray
        (N, n_basis): the logarithm of the signal-to-noise ratio along the first vector, which flux and noise
        rule, and the coefficients of the others relative to that of the first, which do not depend on flux.
    residuals : numpy.ndarray
        (N, ny nx), in units of the mean noise.
    """
    psfs, sigma = stars.need("aligned_features", "psfs", "sigma")
    bins = psfs.shape[1]
    if not 2 <= n_basis <= bins:
        raise ValueError(f"n_basis is {n_basis}; expected 2 to {bins}, the number of bins")
    powers = np.polynomial.legendre.legvander(np.linspace(-1, 1, bins), n_basis - 1)  # (bins, n_basis)
    noise = np.asarray(sigma, dtype=float).reshape(len(stars), -1).mean(1)[:, None]
    coefficients, residuals = [], []
    for start in range(0, len(stars), chunk):
        rows = slice(start, start + chunk)
        star = stars.stamps[rows].reshape(-1, stars.stamps[0].size).astype(float)
        raw = np.asarray(psfs[rows], dtype=float).reshape(len(star), bins, -1).swapaxes(1, 2) @ powers
        basis, upper = np.linalg.qr(raw)  # (n, pixels, n_basis)
        basis *= np.sign(np.diagonal(upper, axis1=1, axis2=2))[:, None]  # QR leaves the signs open
        found = (star[:, None] @ basis)[:, 0]  # (n, n_basis)
        signal = np.maximum(found[:, :1] / noise[rows], 1e-3)
        coefficients.append(np.concatenate([np.log(signal), found[:, 1:] / found[:, :1]], 1))
        residuals.append((star - (basis @ found[:, :, None])[:, :, 0]) / noise[rows])
    return np.concatenate(coefficients), np.concatenate(residuals)


class TemplateNetwork(nn.Module):
    """Logits of a template likelihood, times a learned factor, plus a learned correction that starts at zero.

    Parameters
    ----------
    n_features, n_classes, hidden : int
    dropout : float
    """

    def __init__(self, *, n_features: int, n_classes: int, hidden: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        self.log_factor = nn.Parameter(torch.zeros(()))
        self.correction = _perceptron(n_features, hidden, n_classes, dropout)
        nn.init.zeros_(self.correction[-1].weight)
        nn.init.zeros_(self.correction[-1].bias)

    def forward(self, log_posterior: Tensor, features: Tensor) -> Tensor:
        """Logits (B, classes) from log-posteriors (B, classes) and features (B, n_features)."""
        return self.log_factor.exp() * log_posterior + self.correction(features)


class TemplateNetworkClassifier(FeatureClassifier):
    """A network that corrects a template likelihood where the PSF or the noise is not what it takes them for.

    It reads the calibrated log-posteriors, the stamp's coefficients in the basis of its own PSFs, and the
    main components of the residuals that this basis leaves. All are independent of the unit of flux.

    Parameters
    ----------
    likelihood : TemplateClassifier
        Fitted anew on the validation set of each fit.
    n_basis, n_components : int
        Vectors of the PSF basis, and components of the residuals.
    hidden : int
        Units in each of two hidden layers.
    config : TrainingConfig
        Its seed is also that of the PCA and of the weights.
    """

    def __init__(
        self,
        likelihood: TemplateClassifier,
        *,
        n_basis: int = 4,
        n_components: int = 16,
        hidden: int = 64,
        config: TrainingConfig = CORRECTION_TRAINING,
    ) -> None:
        self.likelihood, self.n_basis, self.hidden, self.config = likelihood, n_basis, hidden, config
        self.n_classes = len(likelihood.templates)
        self._pca = PCA(n_components, svd_solver="randomized", random_state=config.seed)
        self._scaler = StandardScaler()

    def fit(self, train: StarSet, validation: StarSet) -> TemplateNetworkClassifier:
        """Fit to the training set; the validation set calibrates the likelihood, stops and calibrates."""
        self.likelihood.fit(train, validation)
        super().fit(train, validation)
        return self

    def _prepare(self, train: StarSet) -> tuple[Tensor, ...]:
        log_posterior = self.likelihood.log_posterior(train)
        coefficients, residuals = aligned_features(train, self.n_basis)
        self._pca.fit(residuals)
        self._scaler.fit(self._raw(log_posterior, coefficients, residuals))
        return self._scaled(log_posterior, coefficients, residuals)

    def _raw(self, log_posterior: np.ndarray, coefficients: np.ndarray, residuals: np.ndarray) -> np.ndarray:
        # Below some -20 a class is out, however far.
        columns = np.maximum(log_posterior, -20), coefficients, self._pca.transform(residuals)
        return np.concatenate(columns, 1)

    def _scaled(self, log_posterior: np.ndarray, *features: np.ndarray) -> tuple[Tensor, ...]:
        scaled = self._scaler.transform(self._raw(log_posterior, *features))
        return tuple(torch.as_tensor(x, dtype=torch.float32) for x in (log_posterior, scaled))

    def _inputs(self, stars: StarSet) -> tuple[Tensor, ...]:
        return self._scaled(self.likelihood.log_posterior(stars), *aligned_features(stars, self.n_basis))

    def _network(self, inputs: tuple[Tensor, ...]) -> nn.Module:
        return TemplateNetwork(n_features=inputs[1].shape[1], n_classes=self.n_classes, hidden=self.hidden)
