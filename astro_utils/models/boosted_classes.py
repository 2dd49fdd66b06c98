"""Gradient-boosted trees that classify, with as many trees as a given validation set asks for."""

from __future__ import annotations

from itertools import islice

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils.validation import check_is_fitted

__all__ = ["BoostedClasses"]


class BoostedClasses:
    """Histogram gradient boosting of classes (scikit-learn), stopped where a validation set is best.

    scikit-learn's own early stopping splits the training set at random; objects of one field, or measurements
    of one object, may then be on both sides. Here the validation set is given. All iterations are run, and
    predictions use the first `n_iterations`, those with the least mean negative log-likelihood of it.

    Parameters
    ----------
    n_classes : int
        Labels are 0 to n_classes - 1.
    iterations : int
        Trees of each class (of the one log-odds with two classes) at most.
    learning_rate : float
        Shrinkage.
    seed : int
        Of the sample from which scikit-learn takes the bins of the features, above 200,000 objects.

    Attributes
    ----------
    n_iterations : int
        Iterations in use; if it equals `iterations`, more might have been better.
    validation_losses : numpy.ndarray
        (iterations,) mean negative log-likelihood per object of the validation set, after each iteration.

    Raises
    ------
    ValueError
        When there are fewer than two classes.
    """

    def __init__(
        self, *, n_classes: int, iterations: int = 300, learning_rate: float = 0.06, seed: int = 0
    ) -> None:
        if n_classes < 2:
            raise ValueError(f"{n_classes} classes; expected two or more")
        self._n_classes = n_classes
        self._trees = HistGradientBoostingClassifier(
            max_iter=iterations,
            learning_rate=learning_rate,
            l2_regularization=1.0,
            early_stopping=False,
            random_state=seed,
        )

    def _check(self, name: str, features: np.ndarray, labels: np.ndarray) -> None:
        if features.ndim != 2 or labels.shape != features.shape[:1] or not len(labels):
            raise ValueError(
                f"{name} features of shape {features.shape} with labels of shape {labels.shape}; "
                "expected (N, F) and (N,), N above zero"
            )
        strange = np.setdiff1d(labels, np.arange(self._n_classes))
        if len(strange):
            raise ValueError(f"{name} labels have {strange[0]}; expected 0 to {self._n_classes - 1}")

    def fit(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        validation_features: np.ndarray,
        validation_labels: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> BoostedClasses:
        """Fit to a training set and choose the number of iterations on a validation set.

        Parameters
        ----------
        features, validation_features : numpy.ndarray
            (N, F) and (M, F); NaN means not measured.
        labels, validation_labels : numpy.ndarray
            (N,) and (M,) integers from 0 to n_classes - 1.
        weights : numpy.ndarray, optional
            (N,) of the training objects; those of the validation set count alike.

        Raises
        ------
        ValueError
            When shapes disagree, a label is not a class, or a class has no object to train on.
        """
        self._check("training", features, labels)
        self._check("validation", validation_features, validation_labels)
        missing = np.setdiff1d(np.arange(self._n_classes), labels)
        if len(missing):
            raise ValueError(f"no object of class {missing[0]} to train on")
        self._trees.fit(features, labels, sample_weight=weights)
        true = np.arange(len(validation_labels)), validation_labels.astype(int)
        stages = self._trees.staged_predict_proba(validation_features)
        tiny = np.finfo(float).tiny  # a probability may round to zero, and its logarithm be infinite
        self.validation_losses = np.array([-np.log(np.maximum(p[true], tiny)).mean() for p in stages])
        self.n_iterations = int(self.validation_losses.argmin()) + 1
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities (N, n_classes), in the order of the labels, for features (N, F).

        Raises
        ------
        sklearn.exceptions.NotFittedError
            Before `fit`.
        """
        check_is_fitted(self._trees)
        stages = self._trees.staged_predict_proba(features)
        return next(islice(stages, self.n_iterations - 1, None))
