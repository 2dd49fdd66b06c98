"""Boosted classes: probabilities in a fixed order, and as many trees as the given validation set asks for."""

import warnings

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import NotFittedError

from astro_utils.models.boosted_classes import BoostedClasses


def overlapping(seed, n, n_classes=3):
    """Features and labels of classes 1.5 sigma apart along two features of four; some values not measured."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n)
    features = rng.normal(size=(n, 4))
    features[:, 1] += 1.5 * labels
    features[:, 2] -= 1.5 * (labels == 1)
    features[rng.random((n, 4)) < 0.1] = np.nan
    return features, labels


def negative_log_likelihood(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


@pytest.fixture(scope="module")
def fitted():
    return BoostedClasses(n_classes=3, iterations=120, learning_rate=0.3, seed=4).fit(
        *overlapping(0, 600), *overlapping(1, 400)
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_are_in_the_order_of_the_labels(n_classes):
    model = BoostedClasses(n_classes=n_classes, iterations=15).fit(
        *overlapping(0, 500, n_classes), *overlapping(1, 200, n_classes)
    )
    features, labels = overlapping(2, 2000, n_classes)
    probabilities = model.predict_proba(features)
    assert probabilities.shape == (2000, n_classes)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    for label in range(n_classes):
        assert probabilities[labels == label].mean(0).argmax() == label
    assert (probabilities.argmax(1) == labels).mean() > 0.6


def test_the_validation_set_decides_where_to_stop(fitted):
    assert fitted.validation_losses.shape == (120,)
    assert fitted.n_iterations == fitted.validation_losses.argmin() + 1
    assert 1 < fitted.n_iterations < 60, "rates of 0.3 overfit 600 objects long before 120 iterations"
    features, labels = overlapping(1, 400)
    loss = negative_log_likelihood(fitted.predict_proba(features), labels)
    assert loss == pytest.approx(fitted.validation_losses.min())
    assert loss < fitted.validation_losses[-1] - 0.2


def test_predictions_are_those_of_a_fit_of_so_many_iterations(fitted):
    short = HistGradientBoostingClassifier(
        max_iter=fitted.n_iterations,
        learning_rate=0.3,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=4,
    ).fit(*overlapping(0, 600))
    features, _ = overlapping(2, 300)
    np.testing.assert_array_equal(fitted.predict_proba(features), short.predict_proba(features))


def test_another_validation_set_stops_elsewhere_but_changes_no_tree(fitted):
    memorised = BoostedClasses(n_classes=3, iterations=120, learning_rate=0.3, seed=4).fit(
        *overlapping(0, 600), *overlapping(0, 600)
    )
    assert memorised.n_iterations == 120, "on the training set itself more is always better"
    features, labels = overlapping(1, 400)
    loss = negative_log_likelihood(memorised.predict_proba(features), labels)
    assert loss == pytest.approx(fitted.validation_losses[-1])


def test_weights_move_the_prior():
    features, labels = overlapping(0, 800, 2)
    validation = overlapping(1, 400, 2)
    plain, weighted = (
        BoostedClasses(n_classes=2, iterations=20)
        .fit(features, labels, *validation, weights=weights)
        .predict_proba(validation[0])[:, 1]
        .mean()
        for weights in (np.ones(800), np.where(labels == 1, 9.0, 1.0))
    )
    assert plain == pytest.approx(0.5, abs=0.05) and weighted > 0.7


def test_features_that_are_not_measured_may_tell_the_class():
    labels = np.arange(400) % 2
    features = np.random.default_rng(0).normal(size=(400, 1))
    features[labels == 1] = np.nan
    model = BoostedClasses(n_classes=2, iterations=60).fit(features, labels, features, labels)
    assert (model.predict_proba(features).argmax(1) == labels).all()


def test_certain_errors_have_a_finite_loss():
    """Probabilities of far too confident trees round to zero."""
    features = np.repeat([0.0, 1.0], 200)[:, None]
    labels = (features[:, 0] > 0).astype(int)
    model = BoostedClasses(n_classes=2, iterations=60, learning_rate=50.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of scikit-learn, where an exponential overflows
        model.fit(features, labels, features, 1 - labels)
    assert np.isfinite(model.validation_losses).all() and model.validation_losses.max() > 20


def test_a_class_without_objects_is_an_error():
    features, labels = overlapping(0, 90)
    model = BoostedClasses(n_classes=3, iterations=5)
    with pytest.raises(ValueError, match="no object of class 1 to train on"):
        model.fit(features, np.where(labels == 1, 2, labels), features, labels)
    # In the validation set a class may be missing.
    model.fit(features, labels, features, np.zeros(90, int))
    assert model.predict_proba(features).shape == (90, 3)


def test_bad_input_is_named():
    features, labels = overlapping(0, 90)
    model = BoostedClasses(n_classes=3, iterations=5)
    with pytest.raises(NotFittedError):
        model.predict_proba(features)
    with pytest.raises(ValueError, match=r"training labels have 3; expected 0 to 2"):
        model.fit(features, np.where(labels == 0, 3, labels), features, labels)
    with pytest.raises(ValueError, match=r"validation labels have -1; expected 0 to 2"):
        model.fit(features, labels, features, labels - 1)
    with pytest.raises(
        ValueError, match=r"validation features of shape \(90, 4\) with labels of shape \(89,\)"
    ):
        model.fit(features, labels, features, labels[1:])
    with pytest.raises(ValueError, match=r"validation features of shape \(0, 4\)"):
        model.fit(features, labels, features[:0], labels[:0])
    with pytest.raises(ValueError, match=r"training features of shape \(90,\)"):
        model.fit(features[:, 0], labels, features, labels)
    with pytest.raises(ValueError, match="1 classes; expected two or more"):
        BoostedClasses(n_classes=1)
