"""Dropout from 16-bit lanes: how many, which, by what factor, and the same in the gradient."""

import pytest
import torch
from torch.nn import functional as F

from astro_utils.models import fast_dropout
from astro_utils.models.fast_dropout import FastDropout, GELUDropoutLinear

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def every_lane(monkeypatch):
    """Each of the 65536 values of a lane once, in place of random ones."""
    lanes = torch.arange(-(1 << 15), 1 << 15).to(torch.int16)
    monkeypatch.setattr(fast_dropout, "_lanes", lambda shape: lanes.view(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("p", "dropped"), [(0.1, 6554), (0.25, 16384), (0.5, 32768), (1e-5, 1), (1 - 2**-16, 65535)]
)
def test_lanes_are_dropped_from_the_lowest_and_exactly_as_many_as_the_probability(
    every_lane, dtype, p, dropped
):
    out = FastDropout(p)(torch.ones(1 << 16, dtype=dtype))
    kept = torch.arange(1 << 16) >= dropped
    torch.testing.assert_close(out, kept.to(dtype) * (65536 / (65536 - dropped)))
    assert out.dtype == dtype and (out != 0).equal(kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.25, 0.6])
def test_a_fraction_p_is_dropped_and_the_mean_is_kept(dtype, p):
    torch.manual_seed(0)
    n = 400_000
    out = FastDropout(p)(torch.full((n // 100, 100), 3.0, dtype=dtype))
    sigma = (p * (1 - p) / n) ** 0.5
    assert abs((out == 0).double().mean().item() - p) < 5 * sigma
    torch.testing.assert_close(out[out != 0], torch.full_like(out[out != 0], 3 / (1 - p)), rtol=1e-2, atol=0)


def test_all_four_lanes_of_a_word_are_random_and_neighbours_are_independent():
    torch.manual_seed(1)
    n = 200_000
    dropped = (FastDropout(0.25)(torch.ones(n, 4)) == 0).double()
    assert (dropped.mean(0) - 0.25).abs().max() < 5 * (0.25 * 0.75 / n) ** 0.5
    correlation = torch.corrcoef(torch.cat([dropped[:-1], dropped[1:]], 1).t())
    assert (correlation - torch.eye(8)).abs().max() < 5 / n**0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_is_dropped_where_the_value_is(dtype):
    torch.manual_seed(2)
    x = torch.ones(50, 7, dtype=dtype, requires_grad=True)
    out = FastDropout(0.3)(x)
    weight = torch.rand_like(out)
    out.backward(weight)
    torch.testing.assert_close(x.grad, out.detach() * weight)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_first_and_second_derivatives_are_those_of_a_fixed_mask():
    dropout = FastDropout(0.3)

    def cubed(x):
        torch.manual_seed(3)
        return dropout(x) ** 3

    x = torch.rand(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(cubed, x) and torch.autograd.gradgradcheck(cubed, x)


def test_torchs_seed_decides_and_a_forked_generator_is_left_alone():
    dropout, x = FastDropout(0.5), torch.ones(1000)
    torch.manual_seed(4)
    first, second = dropout(x), dropout(x)
    torch.manual_seed(4)
    with torch.random.fork_rng():
        assert torch.equal(dropout(x), first)
    assert torch.equal(dropout(x), first)
    assert torch.equal(dropout(x), second) and not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (5,), (3, 7, 11)])
def test_any_shape_is_taken(shape):
    assert FastDropout(0.5)(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_do_not_matter(dtype):
    torch.manual_seed(5)
    x = (1 + torch.rand(6, 8, 10)).to(dtype).requires_grad_()
    turned = x.permute(2, 0, 1)[::2]
    out = FastDropout(0.5)(turned)
    expected = torch.where(out == 0, out, 2 * turned)
    torch.testing.assert_close(out, expected)
    out.sum().backward()  # a gradient of stride zero
    torch.testing.assert_close(x.grad.permute(2, 0, 1)[::2], 2 * (out != 0).to(dtype))


@pytest.mark.parametrize("dropout", [FastDropout(0.5).eval(), FastDropout(0.0)])
def test_nothing_is_dropped_in_evaluation_or_with_probability_zero(dropout):
    x = torch.randn(100)
    state = torch.get_rng_state()
    assert torch.equal(dropout(x), x) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(10, 37), (37, 10), (1, 370), (370,)])
def test_pieces_are_dropped_as_the_whole(monkeypatch, shape):
    x = torch.rand(shape)
    outcomes = []
    for piece in (1 << 21, 100, 1):
        monkeypatch.setattr(fast_dropout, "_PIECE", piece)
        torch.manual_seed(10)
        outcomes.append(FastDropout(0.3)(x))
    assert torch.equal(outcomes[0], outcomes[1]) and torch.equal(outcomes[0], outcomes[2])
    assert outcomes[0].count_nonzero() < 0.8 * x.numel()


def test_the_input_is_left_as_it_was():
    x = torch.randn(100)
    before = x.clone()
    FastDropout(0.5)(x)
    assert torch.equal(x, before)


def test_another_device_gets_torchs_dropout(monkeypatch):
    calls = []
    monkeypatch.setattr(F, "dropout", lambda x, p, training: calls.append((p, training)) or x)
    x = torch.ones(4, 8, device="meta")
    assert FastDropout(0.2)(x).shape == (4, 8)
    assert GELUDropoutLinear(8, 3, 0.1).to("meta").eval()(x).shape == (4, 3)
    assert calls == [(0.2, True), (0.1, False)]


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, 1 - 1e-6, float("nan")])
def test_a_number_that_is_no_probability_below_one_is_refused(p):
    with pytest.raises(ValueError, match=f"dropout with probability {p}; expected 0 or more and less than 1"):
        FastDropout(p)


def linear(p=0.4, dtype=torch.float32):
    torch.manual_seed(6)
    return GELUDropoutLinear(16, 5, p).to(dtype), torch.randn(30, 4, 16, dtype=dtype)


@pytest.mark.parametrize("training", [True, False])
def test_gelu_dropout_and_linear_layer_are_those_of_torch_in_turn(training):
    layer, x = linear(dtype=torch.float64)
    layer.train(training)

    def outcome(function):
        x.grad, leaf = None, x.clone().requires_grad_()
        torch.manual_seed(7)
        layer.zero_grad()
        out = function(leaf)
        (out**2).sum().backward()
        return out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad

    in_turn = outcome(lambda x: F.linear(layer.dropout(F.gelu(x)), layer.weight, layer.bias))
    for together, apart in zip(outcome(layer), in_turn, strict=True):
        torch.testing.assert_close(together, apart)


def test_gelu_is_the_exact_one():
    layer, x = linear(p=0.0)
    exact = 0.5 * x * (1 + torch.erf(x / 2**0.5))
    torch.testing.assert_close(layer(x), F.linear(exact, layer.weight, layer.bias))


def test_gelu_dropout_and_linear_layer_have_the_right_derivative():
    layer, x = linear(dtype=torch.float64)

    def seeded(x):
        torch.manual_seed(8)
        return layer(x)

    assert torch.autograd.gradcheck(seeded, x[:3].requires_grad_())


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_autocast_lowers_the_product_and_keeps_the_gradient_of_the_weights_single(p):
    layer, x = linear(p)
    torch.manual_seed(9)
    single = layer(x)
    torch.manual_seed(9)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = layer(x.bfloat16())
    assert lowered.dtype == torch.bfloat16
    torch.testing.assert_close(lowered.float(), single, rtol=0.05, atol=0.05)
    lowered.sum().backward()
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.isfinite().all()


def test_a_linear_layer_has_the_parameters_of_one():
    layer, _ = linear()
    assert {name: tuple(t.shape) for name, t in layer.state_dict().items()} == {
        "weight": (5, 16),
        "bias": (5,),
    }
