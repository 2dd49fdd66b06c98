"""PCA and a committee of small perceptrons, as published for stellar types from stamps alone.

The networks of a committee have no part in each other, so that all are trained at once: their weights are the
rows of one matrix, and a layer is one batched product. An epoch of 48 on 10,000 stars takes a second
of one core.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import softmax
from sklearn.decomposition import PCA
from torch import Tensor

from astro_utils.models.star_features import N_CLASSES, StarSet

__all__ = ["CommitteeClassifier", "PerceptronCommittee", "class_of_value", "value_of_class"]


def value_of_class(labels: np.ndarray) -> np.ndarray:
    """Turn classes into the published regression target, C = 0.5 class + 1.5."""
    return 0.5 * labels + 1.5


def class_of_value(value: np.ndarray, variance: np.ndarray, n_classes: int = N_CLASSES) -> np.ndarray:
    """Class (N,) nearest to the committee's mean C, or `n_classes` for an anomaly.

    An anomaly has C more than 0.1 outside the classes (for 13: below 1.4 or above 7.6), or a variance over
    the committee above one.
    """
    low, high = value_of_class(np.array([0, n_classes - 1]))
    strange = (value < low - 0.1) | (value > high + 0.1) | (variance > 1)
    nearest = np.rint((value - 1.5) / 0.5)
    return np.where(strange, n_classes, np.clip(nearest, 0, n_classes - 1)).astype(int)


class PerceptronCommittee:
    """Perceptrons of two hidden layers of sigmoids and one linear output, trained at once on the same stars.

    Each has its own weights, order of batches and early stop, as if it were alone.

    Parameters
    ----------
    n_inputs : int
    members : int
        Networks.
    hidden : int
        Units in each hidden layer.
    seed : int
        Of weights and batches.

    Attributes
    ----------
    parameters : torch.Tensor
        (members, P) with P = 1,379 for 24 inputs and 26 units.
    epochs_run : torch.Tensor
        (members,) epochs until each stopped.
    """

    def __init__(self, *, n_inputs: int = 24, members: int = 48, hidden: int = 26, seed: int = 0) -> None:
        self.shapes = [(n_inputs, hidden), (hidden, hidden), (hidden, 1)]
        self._generator = torch.Generator().manual_seed(seed)
        layers = []
        for n_in, n_out in self.shapes:
            # Glorot's normal initialisation, cut at two standard deviations and widened for the cut (Keras).
            sd = math.sqrt(2 / (n_in + n_out)) / 0.87962566
            weight = torch.empty(members, n_in * n_out)
            torch.nn.init.trunc_normal_(weight, 0, sd, -2 * sd, 2 * sd, generator=self._generator)
            layers += [weight, torch.zeros(members, n_out)]
        self.parameters = torch.cat(layers, 1)
        self.epochs_run = torch.zeros(members, dtype=torch.int64)

    def _forward(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Values (G, B) of G networks for their inputs (G, B, n_inputs)."""
        start = 0
        for layer, (n_in, n_out) in enumerate(self.shapes):
            weight = parameters[:, start : start + n_in * n_out].unflatten(1, (n_in, n_out))
            start += n_in * n_out
            x = torch.baddbmm(parameters[:, None, start : start + n_out], x, weight)  # (G, B, n_out)
            start += n_out
            if layer < len(self.shapes) - 1:
                x = torch.sigmoid(x)
        return x[..., 0]

    @torch.no_grad()
    def values(self, x: Tensor) -> Tensor:
        """Values (members, N) for inputs (N, n_inputs)."""
        x = x.to(self.parameters)
        return self._forward(self.parameters, x.expand(len(self.parameters), *x.shape)).cpu()

    def fit(
        self,
        x: Tensor,
        y: Tensor,
        validation_x: Tensor,
        validation_y: Tensor,
        *,
        epochs: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.1,
        patience: int = 20,
    ) -> PerceptronCommittee:
        """Minimise squared errors with Adam; keep each network's weights of its best validation epoch.

        Parameters
        ----------
        x, validation_x : torch.Tensor
            (N, n_inputs) and (M, n_inputs), float32.
        y, validation_y : torch.Tensor
            (N,) and (M,).
        epochs, batch_size, learning_rate, patience
            A network stops after `patience` epochs without a better validation loss. The defaults are the
            published ones.

        Raises
        ------
        FloatingPointError
            When a network's validation loss is not finite.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        x, y, validation_x, validation_y = (t.to(device) for t in (x, y, validation_x, validation_y))
        now = self.parameters.to(device).requires_grad_()
        members = len(now)
        # Adam works number by number, so that one optimiser of all is one of each. Epsilon is Keras's.
        optimizer = torch.optim.Adam([now], lr=learning_rate, eps=1e-7, fused=True)
        best, best_loss = now.detach().clone(), torch.full((members,), math.inf, device=device)
        best_epoch = torch.zeros(members, dtype=torch.int64, device=device)
        going = torch.ones(members, dtype=torch.bool, device=device)
        for epoch in range(epochs):
            order = torch.rand(members, len(x), generator=self._generator).argsort(1).to(device)
            for index in order.split(batch_size, dim=1):  # (members, B)
                losses = (self._forward(now, x[index]) - y[index]).square().mean(1)
                optimizer.zero_grad(set_to_none=True)
                losses.sum().backward()
                optimizer.step()
            with torch.no_grad():
                found = self._forward(now, validation_x.expand(members, *validation_x.shape))
                loss = (found - validation_y).square().mean(1)  # (members,)
            if not loss.isfinite().all():
                raise FloatingPointError(f"validation loss is not finite in epoch {epoch}")
            better = going & (loss < best_loss)
            best_epoch[better], best_loss[better], best[better] = epoch, loss[better], now.detach()[better]
            self.epochs_run[going.cpu()] = epoch + 1
            going &= epoch - best_epoch < patience
            if not going.any():
                break
        self.parameters = best
        return self


class CommitteeClassifier:
    """PCA of the stamps and a committee that regresses the class, as published.

    As published, and better otherwise: stamps are not scaled before or after the PCA; ordered classes are
    fitted as a number, whose mean is drawn towards the middle, so that the first class is seldom predicted.

    Parameters
    ----------
    n_components, members : int
        Components of the PCA; networks.
    n_classes : int
    epochs : int
        At most.
    seed : int

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, arXiv:2501.16151.
    """

    def __init__(
        self,
        *,
        n_components: int = 24,
        members: int = 48,
        n_classes: int = N_CLASSES,
        epochs: int = 100,
        seed: int = 0,
    ) -> None:
        self.n_classes, self.epochs = n_classes, epochs
        self._pca = PCA(n_components, svd_solver="randomized", random_state=seed)
        self.committee = PerceptronCommittee(n_inputs=n_components, members=members, seed=seed)

    def fit(self, train: StarSet, validation: StarSet) -> CommitteeClassifier:
        """Fit to stamps and labels; the validation set stops the networks and sets the probabilities."""
        labels = [stars.need_labels("CommitteeClassifier", self.n_classes) for stars in (train, validation)]
        self._pca.fit(train.stamps.reshape(len(train), -1))
        targets = [torch.as_tensor(value_of_class(one), dtype=torch.float32) for one in labels]
        x, validation_x = self._inputs(train), self._inputs(validation)
        self.committee.fit(x, targets[0], validation_x, targets[1], epochs=self.epochs)
        values = self.committee.values(validation_x).mean(0)
        self._width = float((values - targets[1]).square().mean().sqrt())
        return self

    def _inputs(self, stars: StarSet) -> Tensor:
        return torch.as_tensor(self._pca.transform(stars.stamps.reshape(len(stars), -1)), dtype=torch.float32)

    def predict(self, stars: StarSet) -> np.ndarray:
        """Classes (N,), with `n_classes` for an anomaly."""
        values = self.committee.values(self._inputs(stars)).double().numpy()
        return class_of_value(values.mean(0), values.var(0), self.n_classes)

    def predict_probabilities(self, stars: StarSet) -> np.ndarray:
        """Probabilities (N, K): a Gaussian about the committee's mean, as wide as the validation errors.

        The published committee gives none. The most probable class is the predicted one, anomalies apart.
        """
        mean = self.committee.values(self._inputs(stars)).double().mean(0).numpy()
        values = value_of_class(np.arange(self.n_classes))
        return softmax(-0.5 * ((mean[:, None] - values) / self._width) ** 2, axis=1)
