"""deep-KCorrect's regressions of K on embeddings, trained as its last version trains them.

    head = PublishedHead("MLP", seed=0).fit(embeddings, k, groups)
    head.predict(new)
    mean, sd = head.confidence(new)

Of the published protocol one thing is changed: the epoch that is kept was chosen by the test set; here it is
chosen by groups of the training set that are held out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from astro_utils.models.kcorrection_heads import AttentionHead, MLPHead, ResidualHead
from astro_utils.splits import hold_out
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = ["KINDS", "PublishedHead", "neighbour_sweep"]

_NETWORKS = {
    "MLP": MLPHead,
    "MLP 64": MLPHead.early,
    "residual MLP": ResidualHead,
    "self-attention": AttentionHead,
}

#: Names of the regressions, the networks first.
KINDS = (*_NETWORKS, "gradient boosting", "nearest neighbours")


def _squared_error(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Squared error (B,) of each galaxy."""
    features, target = batch
    return (model(features) - target).square()


class PublishedHead:
    """One of the published regressions of K on standardised embeddings.

    - The networks "MLP", "MLP 64" (of the first version), "residual MLP" and "self-attention" minimise the
      mean squared error with Adam at a constant rate of 1e-3 in batches of 64, and keep the weights of the
      epoch with the lowest loss on held-out groups.
    - "gradient boosting" has the options of their XGBoost: 100 trees of depth 3, rate 0.1, leaves of one
      galaxy, all galaxies in each tree and XGBoost's own default, a ridge of 1 on leaves. The trees are
      scikit-learn's, on histograms like XGBoost's; only the edges of bins differ.
    - "nearest neighbours" is the mean of the nearest galaxies' K, weighted by inverse Euclidean distance.

    All standardise features with mean and spread of the galaxies given to :meth:`fit`; theirs were of the
    training set before its cut in redshift.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    epochs : int
        Of networks; the first version trained for 10.
    neighbours : int
        Of "nearest neighbours".
    standardise_target : bool
        Whether networks learn (k - mean) / spread of the training set, as in the first version, rather than
        k itself. Trees and neighbours predict the same either way.
    seed : int
        Of weights, order, dropout and the held-out groups.

    Attributes
    ----------
    validation : numpy.ndarray
        (N,) mask of the galaxies that chose a network's epoch and were not trained on; none for the others.
    history : astro_utils.training.History
        Losses by epoch, of networks only.

    Raises
    ------
    ValueError
        For another kind.

    References
    ----------
    .. [1] ``jere1882/deep-KCorrect``: ``train_few_shot.py``, ``utils/train_utils.py``, ``config/``; the first
       version is commit 7c17d5b.
    """

    #: Share of the groups that chooses the epoch.
    VALIDATION_SHARE = 0.15
    BATCH_SIZE = 64
    LEARNING_RATE = 1e-3

    def __init__(
        self,
        kind: str,
        *,
        epochs: int = 50,
        neighbours: int = 64,
        standardise_target: bool = False,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {KINDS}")
        self.kind, self.epochs, self.neighbours = kind, epochs, neighbours
        self.standardise_target, self.seed = standardise_target, seed

    def fit(self, x: np.ndarray, k: np.ndarray, groups: np.ndarray) -> PublishedHead:
        """Fit to embeddings and true K.

        Parameters
        ----------
        x : numpy.ndarray
            (N, F) embeddings, with or without a column for the redshift.
        k : numpy.ndarray
            (N,) k-corrections, mag.
        groups : numpy.ndarray
            (N,) for example sky pixels; a group is never in training and validation at once.

        Raises
        ------
        ValueError
            When a number is not finite, shapes disagree, there is only one group, or fewer galaxies than
            neighbours.
        """
        x, k = _features(x), _target(k, len(x))
        groups = np.asarray(groups)
        if groups.shape != k.shape:
            raise ValueError(f"groups of shape {groups.shape}; expected ({len(x)},), one for each galaxy")
        self._scaler = StandardScaler().fit(x)
        scaled = self._scaler.transform(x)
        self.validation = np.zeros(len(x), dtype=bool)
        if self.kind in _NETWORKS:
            self.validation = hold_out(groups, self.VALIDATION_SHARE, self.seed)
            self._fit_network(scaled, k)
        elif self.kind == "gradient boosting":
            # XGBoost's min_child_weight bounds the sum of second derivatives, with squared errors a count.
            self._regressor = HistGradientBoostingRegressor(
                max_iter=100,
                learning_rate=0.1,
                max_depth=3,
                max_leaf_nodes=None,
                min_samples_leaf=1,
                l2_regularization=1.0,
                early_stopping=False,
                random_state=self.seed,
            ).fit(scaled, k)
        else:
            _enough([self.neighbours], len(x))
            self._regressor = KNeighborsRegressor(self.neighbours, weights="distance").fit(scaled, k)
        return self

    def _fit_network(self, scaled: np.ndarray, k: np.ndarray) -> None:
        self._center, self._scale = 0.0, 1.0
        if self.standardise_target:
            self._center, self._scale = float(k.mean()), float(k.std())
            if self._scale == 0:
                raise ValueError(f"k is {self._center} for all galaxies; it cannot be standardised")
        target = (k - self._center) / self._scale
        train, held = np.flatnonzero(~self.validation), np.flatnonzero(self.validation)
        if len(train) % self.BATCH_SIZE == 1:
            train = train[:-1]  # batch norm cannot train on a last batch of one galaxy
        config = TrainingConfig(
            epochs=self.epochs,
            batch_size=self.BATCH_SIZE,
            learning_rate=self.LEARNING_RATE,
            weight_decay=0.0,
            schedule="constant",
            patience=self.epochs,
            clip_norm=math.inf,
            seed=self.seed,
        )
        sets = [
            tuple(torch.as_tensor(values[part], dtype=torch.float32) for values in (scaled, target))
            for part in (train, held)
        ]
        self._network = seeded(self.seed, lambda: _NETWORKS[self.kind](n_inputs=scaled.shape[1]))
        self.history = fit(self._network, _squared_error, *sets, config)

    def _apply_network(self, x: np.ndarray) -> np.ndarray:
        inputs = torch.as_tensor(self._standardised(x), dtype=torch.float32)
        inputs = inputs.to(next(self._network.parameters()).device)
        return self._center + self._scale * predict(self._network, inputs).numpy().astype(float)

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        x = _features(x)
        if x.shape[1] != self._scaler.n_features_in_:
            raise ValueError(f"{x.shape[1]} features; fitted to {self._scaler.n_features_in_}")
        return self._scaler.transform(x)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Predict K (N,), mag, for embeddings (N, F); nothing is random."""
        if self.kind in _NETWORKS:
            return self._apply_network(x)
        return self._regressor.predict(self._standardised(x)).astype(float)

    def confidence(self, x: np.ndarray, passes: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of predictions with dropout on (Gal & Ghahramani 2016, ICML).

        Only dropout is random. The original put the whole network into training mode, in which batch norm
        takes its mean and variance from whichever test galaxies share a batch, and learns from them. It also
        called confident what had a deviation below 0.2 of a standardised target: here deviations are in mag.

        Parameters
        ----------
        x : numpy.ndarray
            (N, F) embeddings.
        passes : int
            Draws of dropout, at least two.

        Returns
        -------
        mean, sd : numpy.ndarray
            (N,) each, mag; the same at each call.

        Raises
        ------
        ValueError
            For trees and neighbours, which have no dropout, or for fewer than two passes.
        """
        if self.kind not in _NETWORKS:
            raise ValueError(f"{self.kind} has no dropout; expected one of {tuple(_NETWORKS)}")
        if passes < 2:
            raise ValueError(f"{passes} passes; expected at least 2 for a standard deviation")
        for module in self._network.modules():
            # The attention drops its weights by itself, in no layer of its own.
            module.training = isinstance(module, nn.Dropout | nn.MultiheadAttention)
        try:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                draws = np.stack([self._apply_network(x) for _ in range(passes)])  # (passes, N)
        finally:
            self._network.eval()
        return draws.mean(0), draws.std(0)


#: Test galaxies of which the neighbours are in memory at once.
_BLOCK = 2048


def neighbour_sweep(
    train_x: np.ndarray, train_k: np.ndarray, test_x: np.ndarray, ks: Sequence[int]
) -> np.ndarray:
    """Predictions of "nearest neighbours" for many numbers of neighbours, which are looked for once.

    Parameters
    ----------
    train_x, test_x : numpy.ndarray
        (M, F) and (N, F) embeddings, standardised here with mean and spread of the first.
    train_k : numpy.ndarray
        (M,) k-corrections, mag.
    ks : sequence of int
        Numbers of neighbours, in any order.

    Returns
    -------
    numpy.ndarray
        (len(ks), N) mag.

    Raises
    ------
    ValueError
        When a number is not finite, shapes disagree, or an entry of `ks` is not from 1 to M.
    """
    train_x, test_x = _features(train_x), _features(test_x)
    train_k = _target(train_k, len(train_x))
    if test_x.shape[1] != train_x.shape[1]:
        raise ValueError(f"{test_x.shape[1]} features of test galaxies; expected {train_x.shape[1]}")
    _enough(ks, len(train_x))
    scaler = StandardScaler().fit(train_x)
    index = NearestNeighbors(n_neighbors=max(ks)).fit(scaler.transform(train_x))
    last = np.array(ks) - 1
    out = np.empty((len(ks), len(test_x)))
    for start in range(0, len(test_x), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance, nearest = index.kneighbors(scaler.transform(test_x[part]))  # (block, max(ks)), sorted
        # Beside a training galaxy at no distance all others count for nothing.
        same = distance == 0
        weight = np.where(same[:, :1], same, 1 / np.where(same, 1.0, distance))
        sums = np.cumsum(weight * train_k[nearest], 1)[:, last] / np.cumsum(weight, 1)[:, last]
        out[:, part] = sums.T
    return out


def _features(x: np.ndarray) -> np.ndarray:
    """Embeddings as floats; those of single precision stay so, since they can be large."""
    x = np.asarray(x)
    x = x if x.dtype == np.float32 else x.astype(float)
    if x.ndim != 2 or not x.size:
        raise ValueError(f"embeddings of shape {x.shape}; expected (N, F)")
    bad = ~np.isfinite(x).all(1)
    if bad.any():
        raise ValueError(f"the embedding of galaxy {int(bad.argmax())} is not all finite")
    return x


def _target(k: np.ndarray, n: int) -> np.ndarray:
    k = np.asarray(k, dtype=float)
    if k.shape != (n,):
        raise ValueError(f"k of shape {k.shape}; expected ({n},), one for each embedding")
    if not np.isfinite(k).all():
        bad = int((~np.isfinite(k)).argmax())
        raise ValueError(f"k of galaxy {bad} is {k[bad]}; expected finite numbers")
    return k


def _enough(ks: Sequence[int], n: int) -> None:
    for k in ks:
        if not 1 <= k <= n:
            raise ValueError(f"{k} neighbours; expected from 1 to {n}, the number of training galaxies")
    if not len(ks):
        raise ValueError("no numbers of neighbours")
