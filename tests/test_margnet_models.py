"""The networks of MargNet: published sizes and wiring, and the released network with its published answer."""

import math
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from astro_utils import registry
from astro_utils.legacy import KerasDense, read_keras_dense
from astro_utils.models.margnet import MargNetConvolutional, MargNetDense, MargNetEnsemble

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with margnet_tables and margnet_networks",
)


def parameters(model):
    return sum(weight.numel() for weight in model.parameters())


def seeded(build, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build()


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def raw_features(n=64):
    """Five magnitudes near 20 and other features near zero."""
    features = normal(n, 24)
    features[:, :5] += 20
    return features


# ------------------------------------------------------------------------------------------------- sizes


@pytest.fixture(scope="module")
def published():
    """Return the network of stamps in its published size, 32 x 32 pixels in five bands, three classes."""
    return seeded(lambda: MargNetConvolutional(n_classes=3)).eval()


def test_parameters_are_as_many_as_published(published):
    assert parameters(published) == 25_543_783
    assert parameters(MargNetDense(n_classes=2)) == 331_298
    assert parameters(MargNetDense(n_classes=3)) == 331_331
    assert parameters(MargNetEnsemble(n_classes=3)) == 103
    parts = (published, MargNetDense(n_classes=3), MargNetEnsemble(n_classes=3))
    assert sum(map(parameters, parts)) == 25_875_217


def test_the_head_reads_22272_numbers(published):
    with torch.no_grad():
        assert published.flattened(normal(1, 5, 32, 32)).shape == (1, 22_272)
    assert 22_272 == 8 * 8 * 348


def test_counted_operations_are_those_of_torch(published):
    for model, images in (
        (published, normal(2, 5, 32, 32)),
        (MargNetConvolutional(n_classes=2, n_bands=3, size=12), normal(5, 3, 12, 12)),
    ):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(images)
        assert model.matmul_flops(len(images)) == counter.get_total_flops()


# ------------------------------------------------------------------------------------ network of stamps


@pytest.fixture(scope="module")
def small():
    return seeded(lambda: MargNetConvolutional(n_classes=3, n_bands=2, size=8)).double().eval()


def inceptions(model):
    return [block for block in model.blocks if not isinstance(block, nn.AvgPool2d)]


def literal(model, images):
    """Return the logits layer by layer as in the released code, each convolution and pooling on its own."""

    def convolved(x, layer, part=None):
        weight, bias = layer.weight, layer.bias
        if part is not None:
            weight, bias = (whole.split(block.parts)[part] for whole in (weight, bias))
        return F.relu(F.conv2d(x, weight, bias, padding="same"))

    x = convolved(images, model.first)
    for number, block in enumerate(inceptions(model)):
        a, b, c = (convolved(x, block.inputs, part) for part in range(3))
        if number < 4:
            read = [convolved(a, block.one), convolved(a, block.three), convolved(b, block.five)]
            x = torch.cat([*read, F.avg_pool2d(c, 1)], 1)
        else:
            x = torch.cat([c, convolved(a, block.three), F.avg_pool2d(b, 1)], 1)
        if number in (1, 3):
            x = F.avg_pool2d(x, 2)
    channels_last = torch.stack([torch.stack(list(row.unbind(-1)), 1) for row in x.unbind(2)], 1)
    y = channels_last.reshape(len(images), -1)
    for layer in (model.dense[0], model.dense[1], model.logits):
        y = y @ layer.weight.T + layer.bias
    return y


def test_wiring_is_that_of_the_released_code(small):
    images = normal(3, 2, 8, 8).double()
    with torch.no_grad():
        torch.testing.assert_close(small(images), literal(small, images))
    assert [block.n_out for block in inceptions(small)] == [240, 340, 476, 476, 348]


def test_the_head_is_linear_and_what_comes_before_is_not(small):
    with torch.no_grad():
        a, b = normal(2, 4, 348 * 4).double()
        zero = small.head(torch.zeros(1, 348 * 4).double())
        torch.testing.assert_close(
            small.head(2 * a - 3 * b) - zero, 2 * (small.head(a) - zero) - 3 * (small.head(b) - zero)
        )
        a, b = normal(2, 4, 2, 8, 8).double()
        zero = small(torch.zeros(1, 2, 8, 8).double())
        assert not torch.allclose(
            small(2 * a - 3 * b) - zero, 2 * (small(a) - zero) - 3 * (small(b) - zero), rtol=0.1
        )


def test_the_order_of_memory_changes_nothing(small):
    images = normal(3, 2, 8, 8).double()
    with torch.no_grad():
        torch.testing.assert_close(small(images.contiguous(memory_format=torch.channels_last)), small(images))
        torch.testing.assert_close(small(images[1:2]), small(images)[1:2])


def test_every_weight_of_the_network_of_stamps_is_trained(small):
    small.zero_grad()
    F.cross_entropy(small(normal(6, 2, 8, 8).double()), torch.arange(6) % 3).backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in small.parameters())


def test_bfloat16_keeps_the_answer_and_gives_logits_in_single_precision(published):
    images = normal(4, 5, 32, 32)
    with torch.no_grad():
        plain = published(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = published(images)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, plain)
    assert (rounded - plain).abs().max() < 0.05 * plain.std()


def test_stamps_keep_their_flux(small):
    """Unlike where every patch is normalised, the same source twice as bright is another input."""
    images = normal(3, 2, 8, 8).double()
    with torch.no_grad():
        assert not torch.allclose(small(2 * images), small(images), rtol=0.1)


def test_it_learns_the_colour_of_a_source():
    labels = torch.arange(48) % 3
    images = 0.3 * normal(48, 2, 8, 8)
    source = torch.exp(-0.5 * (torch.arange(8) - 3.5) ** 2 / 1.5**2)
    colour = torch.tensor([[1.0, 0.3], [0.6, 0.6], [0.3, 1.0]])[labels]
    images += 2 * colour[:, :, None, None] * source[:, None] * source
    model = seeded(lambda: MargNetConvolutional(n_classes=3, n_bands=2, size=8))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-4)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimiser.step()
    with torch.no_grad():
        assert (model(images).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize("size", [2, 6, 33])
def test_stamps_that_do_not_halve_twice_are_refused(size):
    with pytest.raises(ValueError, match=f"stamps of {size} x {size} pixels; expected a multiple of 4"):
        MargNetConvolutional(n_classes=2, size=size)


@pytest.mark.parametrize("shape", [(3, 5, 8, 8), (3, 2, 8, 12), (2, 8, 8)])
def test_stamps_of_another_shape_are_refused(small, shape):
    with pytest.raises(ValueError, match=r"images of shape .*; expected \(B, 2, 8, 8\)"):
        small(torch.zeros(shape).double())


# --------------------------------------------------------------------------------- network of photometry


def released(widths=(24, 1024, 256, 128, 64, 32, 2), hidden=nn.Sigmoid, last=nn.Softmax, seed=3):
    """Return a network as read from a Keras file, with random weights."""

    def build():
        layers = []
        for n_in, n_out in pairwise(widths[:-1]):
            layers += [nn.Linear(n_in, n_out), hidden(), nn.Dropout(0.25)]
        return KerasDense([*layers, nn.Linear(*widths[-2:]), last(dim=1)]).eval()

    return seeded(build, seed)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_released_network_is_copied(n_classes):
    original = released((24, 1024, 256, 128, 64, 32, n_classes)).double()
    state = torch.random.get_rng_state()
    copy = MargNetDense.from_keras(original)
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are left alone"
    assert not copy.training and parameters(copy) == parameters(original)
    features = raw_features().double()
    with torch.no_grad():
        torch.testing.assert_close(copy(features).softmax(1), original(features))
        answer = original(features)
        for weight in copy.parameters():
            assert weight.requires_grad
            weight.zero_()
        torch.testing.assert_close(original(features), answer)


@pytest.mark.parametrize(
    "other",
    [
        {"widths": (24, 512, 256, 128, 64, 32, 2)},
        {"widths": (24, 1024, 256, 128, 64, 2)},
        {"hidden": nn.ReLU},
        {"last": nn.LogSoftmax},
    ],
)
def test_a_network_of_other_layers_is_refused(other):
    with pytest.raises(
        ValueError, match=r"the released network is 24-.*; expected 24-1024, Sigmoid, 1024-256"
    ):
        MargNetDense.from_keras(released(**other))


def test_a_network_without_dense_layers_is_refused():
    with pytest.raises(ValueError, match="no dense layer"):
        MargNetDense.from_keras(KerasDense([nn.ReLU()]))


@needs_data
def test_the_released_network_gives_the_published_accuracy():
    networks = registry.fetch("margnet_networks", download=False)
    tables = registry.fetch("margnet_tables", download=False)
    network = read_keras_dense(networks["margnet/DNNClassifier_sg_exp1.h5"])
    features = np.load(tables["margnet/dnnx_sg_exp3.npy"], allow_pickle=False)
    true = np.load(tables["margnet/y_sg_exp3.npy"], allow_pickle=False).argmax(1)
    for precision in (torch.float32, torch.float64):
        ours = MargNetDense.from_keras(network.to(precision))
        with torch.no_grad():
            predicted = ours(torch.tensor(features, dtype=precision)).argmax(1).numpy()
        matrix = [[int(((true == t) & (predicted == p)).sum()) for p in (0, 1)] for t in (0, 1)]
        assert matrix == [[9370, 141], [1460, 8051]]
        assert (predicted == true).mean() == pytest.approx(0.9158342971, abs=5e-11)


def test_weights_start_as_in_keras(small):
    """Uniform within the bound of Glorot & Bengio, for each convolution of the released code on its own."""
    pieces = []
    for model in (seeded(lambda: MargNetDense(n_classes=3)), small):
        layers = [layer for layer in model.modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
        assert not any(layer.bias.any() for layer in layers)
        parts = {block.inputs: block.parts for block in inceptions(model)} if model is small else {}
        for layer in layers:
            pieces += layer.weight.detach().split(parts.get(layer, len(layer.weight)))
    assert len(pieces) == 6 + 1 + 4 * 6 + 4 + 3
    for piece in pieces:
        n_out, n_in, *kernel = piece.shape
        bound = math.sqrt(6 / (math.prod(kernel) * (n_in + n_out)))
        assert 0.95 * bound < piece.abs().max() <= bound * (1 + 1e-6)
        assert piece.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_objects_differ_more_at_the_start_than_with_the_weights_of_torch():
    ours, torchs = seeded(lambda: MargNetDense(n_classes=3)), seeded(lambda: MargNetDense(n_classes=3))
    seeded(lambda: [layer.reset_parameters() for layer in torchs.layers if isinstance(layer, nn.Linear)])
    with torch.no_grad():
        spread, theirs = (model.eval()(raw_features()).std(0).mean() for model in (ours, torchs))
    assert 1e-5 < 10 * theirs < spread < 1e-3


def test_dropout_acts_in_training_only():
    model = seeded(lambda: MargNetDense(n_classes=3))
    features = raw_features(8)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        assert not torch.equal(model(features), model(features))
        model.eval()
        assert torch.equal(model(features), model(features))


def test_photometry_is_never_rounded_to_bfloat16():
    model, features = seeded(lambda: MargNetDense(n_classes=3)).eval(), raw_features()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = model(features)
    with torch.no_grad():
        assert torch.equal(rounded, model(features))


def test_features_of_another_number_are_refused():
    with pytest.raises(ValueError, match=r"features of shape \(4, 23\); expected \(B, 24\)"):
        MargNetDense(n_classes=2)(torch.zeros(4, 23))
    with pytest.raises(ValueError, match=r"features of shape \(24,\); expected \(B, 24\)"):
        MargNetDense(n_classes=2)(torch.zeros(24))


# ----------------------------------------------------------------------------------------------- ensemble


def test_the_ensemble_weighs_stamps_first_then_photometry():
    model = seeded(lambda: MargNetEnsemble(n_classes=3))
    assert parameters(MargNetEnsemble(n_classes=2)) == 72
    cnn, dnn = normal(2, 5, 3).softmax(2)
    first, _, last = model.layers
    with torch.no_grad():
        hidden = (torch.cat([cnn, dnn], 1) @ first.weight.T + first.bias).clamp(min=0)
        torch.testing.assert_close(model(cnn, dnn), hidden @ last.weight.T + last.bias)
        assert not torch.allclose(model(cnn, dnn), model(dnn, cnn))


def test_the_ensemble_learns_whom_to_trust():
    labels = torch.arange(300) % 3
    right = (3 * F.one_hot(labels, 3) + normal(300, 3)).softmax(1)
    noise = (3 * normal(300, 3, seed=2)).softmax(1)
    model = seeded(lambda: MargNetEnsemble(n_classes=3))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        F.cross_entropy(model(noise, right), labels).backward()
        optimiser.step()
    with torch.no_grad():
        predicted = model(noise, right).argmax(1)
    assert (predicted == labels).float().mean() > 0.95
    assert (noise.argmax(1) == labels).float().mean() < 0.5


@pytest.mark.parametrize(
    ("shapes", "match"),
    [
        (((4, 3), (5, 3)), r"dnn_probabilities of shape \(5, 3\)"),
        (((4, 2), (4, 3)), r"cnn_probabilities of shape \(4, 2\); expected \(4, 3\)"),
    ],
)
def test_probabilities_of_other_shapes_are_refused(shapes, match):
    with pytest.raises(ValueError, match=match):
        MargNetEnsemble(n_classes=3)(*(torch.zeros(shape) for shape in shapes))
