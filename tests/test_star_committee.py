"""The committee of perceptrons: trained at once as if one by one, and read by the published rules."""

import copy

import numpy as np
import pytest
import torch
from star_sample import brighter, star_field
from torch import nn

from astro_utils.models.star_committee import (
    CommitteeClassifier,
    PerceptronCommittee,
    class_of_value,
    value_of_class,
)
from astro_utils.ordinal import ordinal_scores


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def keras_like(parameters):
    """One network of the committee, from its row of parameters."""
    net = nn.Sequential(nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 1))
    start = 0
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            n = layer.weight.numel()
            layer.weight.copy_(parameters[start : start + n].view(layer.in_features, -1).T)
            layer.bias.copy_(parameters[start + n : start + n + len(layer.bias)])
            start += n + len(layer.bias)
    return net


def train_alone(net, orders, data, patience):
    """Train one network on batches of `orders` (epochs, N); return it at its best, and its epochs."""
    x, y, validation_x, validation_y = data
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, eps=1e-7)
    best, kept, wait = np.inf, None, 0
    for epoch, order in enumerate(orders):  # noqa: B007
        for index in order.split(16):
            optimizer.zero_grad()
            (net(x[index])[:, 0] - y[index]).square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            loss = (net(validation_x)[:, 0] - validation_y).square().mean().item()
        wait += 1
        if loss < best:
            best, kept, wait = loss, copy.deepcopy(net), 0
        if wait >= patience:
            break
    return kept, epoch + 1


def test_committee_equals_networks_trained_one_by_one():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(70, 5, generator=generator)
    y = x[:, 0] - x[:, 1] * x[:, 2] + 0.5 * torch.randn(70, generator=generator)
    data = x[:50], y[:50], x[50:], y[50:]
    members, epochs, patience = 6, 12, 3
    committee = PerceptronCommittee(n_inputs=5, members=members, hidden=4, seed=3)
    start, state = committee.parameters.clone(), committee._generator.get_state()
    committee.fit(*data, epochs=epochs, batch_size=16, patience=patience)

    drawn = torch.Generator()
    drawn.set_state(state)
    orders = torch.stack([torch.rand(members, 50, generator=drawn).argsort(1) for _ in range(epochs)])
    assert not torch.equal(orders[0, 0], orders[0, 1])  # each its own batches
    stopped = []
    for member in range(members):
        net, stop = train_alone(keras_like(start[member]), orders[:, member], data, patience)
        stopped.append(stop)
        with torch.no_grad():
            np.testing.assert_allclose(committee.values(x)[member], net(x)[:, 0], atol=2e-3)
    assert committee.epochs_run.tolist() == stopped
    assert len(set(stopped)) > 1  # they stop apart


def test_initial_weights_are_those_of_keras():
    start = PerceptronCommittee(members=200, seed=0).parameters
    first, bias = start[:, : 24 * 26], start[:, 24 * 26 : 25 * 26]
    assert (bias == 0).all()
    assert first.std().item() == pytest.approx(np.sqrt(2 / 50), rel=0.01)
    assert first.abs().max().item() == pytest.approx(2 * np.sqrt(2 / 50) / 0.87962566, rel=0.01)  # cut


def test_anomalies():
    value = np.array([1.39, 1.41, 1.5, 1.76, 4.74, 7.59, 7.61, 4.5, 4.5])
    variance = np.array([0, 0, 0, 0, 0, 0, 0, 0.99, 1.01])
    assert class_of_value(value, variance).tolist() == [13, 0, 0, 1, 6, 12, 13, 6, 13]
    labels = np.arange(13)
    np.testing.assert_array_equal(class_of_value(value_of_class(labels), np.zeros(13)), labels)


def test_committee_as_a_classifier():
    fields = (star_field(seed, n, blur=1e-3) for seed, n in ((31, 500), (32, 300), (33, 300)))
    # Networks read unscaled components: of bright stars, they learn in few steps.
    train, validation, test = (brighter(stars, np.full(len(stars), 30.0)) for stars in fields)
    classifier = CommitteeClassifier(members=6, epochs=12, seed=1).fit(train, validation)
    p, found = classifier.predict_probabilities(test), classifier.predict(test)
    known = found < 13
    assert known.any()
    np.testing.assert_array_equal(p.argmax(1)[known], found[known])
    scores = ordinal_scores(test.labels, p)
    assert scores["within_one"] > 5 / 13
    again = CommitteeClassifier(members=6, epochs=12, seed=1).fit(train, validation)
    np.testing.assert_array_equal(again.predict_probabilities(test), p)
