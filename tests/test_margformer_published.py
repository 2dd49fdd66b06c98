"""The published MargFormer: its size, its order of operations, its quirks, and the cheaper order used."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from astro_utils.models.fast_dropout import FastDropout
from astro_utils.models.margformer_published import LinformerCrossAttention, PublishedMargFormer


def inputs(n=6):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 5, 32, 32, generator=generator), torch.randn(n, 24, generator=generator)


def network(**arguments):
    torch.manual_seed(1)
    return PublishedMargFormer(**{"n_classes": 3} | arguments)


def attention(n_tokens=65, k=128, dropout=0.0, dtype=torch.float64):
    torch.manual_seed(2)
    layer = LinformerCrossAttention(64, n_tokens, k, heads=8, dim_head=8, dropout=dropout).to(dtype)
    return layer, torch.randn(7, n_tokens, 64, dtype=dtype)


def first_input(module, call):
    """What `module` is given while `call` runs."""
    seen = []
    with module.register_forward_pre_hook(lambda _, given: seen.append(given[0])):
        call()
    return seen[0]


def gradients(module, outcome):
    module.zero_grad()
    outcome.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters()}


def assert_same(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(
            first[name], second[name], msg=lambda text, n=name: f"{n}: {text}", **tolerance
        )


# The published network


@pytest.mark.parametrize(
    ("k", "n_classes", "published"),
    [(128, 2, 1_505_250), (128, 3, 1_505_315), (64, 2, 1_405_410), (64, 3, 1_405_475)],
)
def test_both_variants_have_the_published_number_of_parameters(k, n_classes, published):
    model = network(k=k, n_classes=n_classes)
    assert sum(p.numel() for p in model.parameters()) == published
    assert sum(p.numel() for p in model.photometry.parameters()) == 698_176
    assert len(list(model.buffers())) == 0


def test_patches_are_read_row_by_row_and_bands_run_fastest():
    """Each pixel holds its own number, so that a patch shows what is in it and in which order."""
    model = network(n_classes=2, depth=1)
    images = torch.arange(2 * 5 * 32 * 32, dtype=torch.float32).view(2, 5, 32, 32)
    patches = first_input(model.patches, lambda: model(images, torch.zeros(2, 24)))
    assert patches.shape == (2, 64, 80)
    for b, row, column in [(0, 0, 0), (1, 0, 7), (0, 3, 5), (1, 7, 0)]:
        expected = [
            images[b, band, 4 * row + y, 4 * column + x]
            for y in range(4)
            for x in range(4)
            for band in range(5)
        ]
        assert patches[b, 8 * row + column].tolist() == [value.item() for value in expected]


def test_the_photometry_is_the_first_token_and_every_token_has_its_position():
    model, (images, features) = network(depth=1).eval(), inputs()
    tokens = first_input(model.layers[0].attention_norm, lambda: model(images, features))
    embedded = tokens - model.position
    torch.testing.assert_close(embedded[:, 0], model.photometry(features))
    swapped = first_input(model.layers[0].attention_norm, lambda: model(images.flip(0), features))
    torch.testing.assert_close((swapped - model.position)[:, 1:], embedded.flip(0)[:, 1:])
    torch.testing.assert_close(swapped[:, 0], tokens[:, 0])


def test_dropout_is_where_the_released_code_has_it():
    model = network(dropout=0.1)
    found = {name: m.p for name, m in model.named_modules() if isinstance(m, (nn.Dropout, FastDropout))}
    assert sorted(found.values()) == [0.1] * 24 + [0.25] * 3
    assert [name for name, p in found.items() if p == 0.25] == [
        "photometry.2",
        "photometry.5",
        "photometry.8",
    ]


def test_with_as_many_positions_as_tokens_it_can_be_plain_attention():
    """Identity projections undo Linformer; torch's attention of one query must follow."""
    layer, tokens = attention(n_tokens=17, k=17)
    with torch.no_grad():
        layer.proj_k.copy_(torch.eye(17))
        layer.proj_v.copy_(torch.eye(17))
    q, k, v = (to(tokens).unflatten(2, (8, 8)).transpose(1, 2) for to in (layer.to_q, layer.to_k, layer.to_v))
    plain = F.scaled_dot_product_attention(q[:, :, :1], k, v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer.literal(tokens), layer.to_out(plain))


# The order used, against the published one


@pytest.mark.parametrize("k", [128, 64, 1])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, {"rtol": 1e-10, "atol": 1e-12}), (torch.float32, {"rtol": 1e-4, "atol": 1e-5})],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_attention_is_the_same_in_both_orders_and_so_are_its_gradients(k, dtype, tolerance, dropout):
    layer, tokens = attention(k=k, dropout=dropout, dtype=dtype)
    weight = torch.randn(7, 1, 64, dtype=dtype)

    def outcome(order):
        leaf = tokens.clone().requires_grad_()
        torch.manual_seed(3)  # the same positions are dropped
        out = order(leaf)
        found = gradients(layer, (out * weight).sum())
        return found | {"tokens": leaf.grad, "out": out.detach()}

    assert_same(outcome(layer), outcome(layer.literal), **tolerance)


@pytest.mark.parametrize("k", [128, 64])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, {"rtol": 1e-8, "atol": 1e-11}), (torch.float32, {"rtol": 1e-4, "atol": 1e-5})],
)
def test_logits_and_gradients_are_the_same_in_both_orders(k, dtype, tolerance):
    model = network(k=k).eval().to(dtype)
    images, features = (x.to(dtype) for x in inputs())
    label = torch.arange(6) % 3

    def outcome(order):
        logits = order(images, features)
        return gradients(model, F.cross_entropy(logits, label)) | {"logits": logits.detach()}

    used = outcome(model)
    assert_same(used, outcome(model.literal), **tolerance)
    assert all(gradient.abs().sum() > 0 for gradient in used.values()), "every parameter is trained"


@pytest.mark.parametrize("k", [128, 64])
@pytest.mark.parametrize(
    "arguments", [{}, {"depth": 2, "dim": 32, "heads": 4, "dim_head": 16, "size": 16, "mlp": 40}]
)
def test_multiplications_are_those_that_torch_counts(k, arguments):
    model = network(k=k, **arguments).eval()
    images = torch.zeros(3, *model.stamp)
    counted = {}
    for name, order in {"published": model.literal, "executed": model}.items():
        with FlopCounterMode(display=False) as counter:
            order(images, torch.zeros(3, 24))
        counted[name] = counter.get_total_flops()
    assert model.matmul_flops(3) == counted
    assert model.matmul_flops(512) == {name: 512 * flops // 3 for name, flops in counted.items()}


def test_attention_weights_are_those_of_the_published_keys():
    model, (images, features) = network(depth=2).eval(), inputs()
    weights = model.attention(images, features)
    assert weights.shape == (6, 2, 8, 128) and not weights.requires_grad
    torch.testing.assert_close(weights.sum(3), torch.ones(6, 2, 8))
    tokens = first_input(model.layers[1].attention_norm, lambda: model(images, features))
    layer, normed = model.layers[1].attention, model.layers[1].attention_norm(tokens)
    keys = torch.einsum("nk,bnd->bkd", layer.proj_k, layer.to_k(normed)).unflatten(2, (8, 8))
    scores = torch.einsum("bhd,bkhd->bhk", layer.to_q(normed[:, 0]).unflatten(1, (8, 8)), keys) / 8**0.5
    torch.testing.assert_close(weights[:, 1], scores.softmax(2))


# The quirks


def test_quirk_the_answer_to_one_token_is_added_to_all():
    """A changed patch moves all other tokens by one and the same vector: that which token 0 has read."""
    layer = network().eval().layers[0]
    torch.manual_seed(4)
    tokens = torch.randn(2, 65, 64)
    changed = tokens.clone()
    changed[:, 9] = torch.randn(2, 64)
    before, after = (first_input(layer.feed_norm, lambda x=x: layer(x)) for x in (tokens, changed))
    answer = (before - tokens)[:, :1]
    torch.testing.assert_close(before, tokens + answer.expand(2, 65, 64))
    shift = torch.cat([(after - before)[:, :9], (after - before)[:, 10:]], 1)
    assert shift[:, 0].abs().min(1).values.gt(0).all()
    torch.testing.assert_close(shift, shift[:, :1].expand(2, 64, 64), rtol=1e-4, atol=1e-5)


def test_quirk_patches_never_attend_to_each_other():
    """Given the answer to token 0, a token depends on itself alone."""
    layer = network().eval().layers[0]
    torch.manual_seed(5)
    tokens = torch.randn(2, 65, 64)
    answer = layer.attended(tokens)
    alone = torch.cat([layer.feed(tokens[:, i : i + 1] + answer) for i in range(65)], 1)
    torch.testing.assert_close(layer(tokens), alone)
    torch.testing.assert_close(layer.first(tokens), alone[:, :1])


def test_quirk_the_image_branch_does_not_see_flux():
    model, (images, features) = network().eval(), inputs()
    with torch.no_grad():
        logits = model(images, features)
        assert (model(1000 * images, features) - logits).abs().max() < 1e-4
        assert (model(images + 50, features) - logits).abs().max() < 1e-4, "nor a sky left in every band"
        in_one_patch = images.clone()
        in_one_patch[:, :, :4, :4] *= 1000
        assert (model(in_one_patch, features) - logits).abs().max() < 1e-4, (
            "nor which patch is the bright one"
        )
        assert (model(images.flip(3), features) - logits).abs().max() > 1e-3, "but it sees a shape"
        # Pixels whose variance is below epsilon do lose contrast.
        assert (model(1e-3 * images, features) - logits).abs().max() > 1e-3


def test_quirk_the_projection_saves_nothing():
    """Asking 65 tokens directly takes fewer multiplications than asking 128, or 64, mixtures of them."""
    for k in (128, 64):
        layer, tokens = attention(k=k)
        with FlopCounterMode(display=False) as projected:
            layer.literal(tokens)
        with FlopCounterMode(display=False) as direct:
            keys, values = (to(tokens).unflatten(2, (8, 8)) for to in (layer.to_k, layer.to_v))
            query = layer.to_q(tokens[:, 0]).unflatten(1, (8, 8))
            weights = torch.einsum("bhd,bnhd->bhn", query, keys).softmax(2)
            layer.to_out(torch.einsum("bhn,bnhd->bhd", weights, values).flatten(1))
        assert layer.proj_k.shape == layer.proj_v.shape == (65, k)
        assert projected.get_total_flops() > 1.9 * direct.get_total_flops()


def test_quirk_features_enter_raw_and_in_single_precision():
    model, (images, _) = network().eval(), inputs(2)
    magnitudes = torch.full((2, 24), 20.0)
    magnitudes[1] += 0.01  # below the spacing of bfloat16 at 20, 0.125
    with torch.autocast("cpu", torch.bfloat16):
        seen = first_input(model.photometry[0], lambda: model(images, magnitudes))
        token = model.photometry[0](seen)
        tokens = first_input(model.layers[0].attention_norm, lambda: model(images, magnitudes))
    assert seen.dtype == torch.float32 and torch.equal(seen, magnitudes)
    assert token.dtype == torch.bfloat16, "autocast would lower them"
    assert not torch.equal(tokens[0, 0], tokens[1, 0])


# Training


def test_autocast_gives_close_logits_in_single_precision_and_gradients():
    model, (images, features) = network().eval(), inputs()
    single = model(images, features)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images, features)
    assert logits.dtype == torch.float32
    assert 0 < (logits - single).abs().max() < 0.05 * single.std()
    label = torch.arange(6) % 3
    exact, lowered = (gradients(model, F.cross_entropy(x, label)) for x in (single, logits))
    for name in exact:
        cosine = F.cosine_similarity(exact[name].flatten(), lowered[name].flatten(), 0)
        assert cosine > 0.97, f"{name}: {cosine}"


def test_objects_are_judged_each_on_its_own():
    model, (images, features) = network().eval(), inputs()
    torch.testing.assert_close(model(images, features)[2:4], model(images[2:4], features[2:4]))


def test_dropout_is_on_in_training_and_the_seed_decides():
    model, (images, features) = network(depth=2), inputs()
    torch.manual_seed(6)
    first, second = model(images, features), model(images, features)
    torch.manual_seed(6)
    assert torch.equal(model(images, features), first) and not torch.equal(first, second)
    assert all(map(torch.equal, network().parameters(), network().parameters()))


@pytest.mark.parametrize("hidden", ["images", "features"])
def test_it_learns_what_only_one_input_shows(hidden):
    """Classes differ in whether all patches fade to the right or to the left, or in one feature."""
    model, label = network(n_classes=2, depth=2, n_bands=1, size=8), torch.arange(128) % 2
    generator = torch.Generator().manual_seed(7)
    images = torch.randn(128, 1, 8, 8, generator=generator)
    features = torch.randn(128, 24, generator=generator)
    if hidden == "images":
        images += torch.linspace(-6, 6, 4).repeat(2) * (2 * label - 1)[:, None, None, None]
    else:
        features[:, 2] += 8.0 * label
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(model(images[:64], features[:64]), label[:64]).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        assert (model(images, features).argmax(1) == label)[64:].float().mean() > 0.9


def test_a_copy_from_its_state_gives_the_same_logits():
    model, other = network().eval(), PublishedMargFormer(n_classes=3).eval()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(model(*inputs()), other(*inputs()))


# Bad input


@pytest.mark.parametrize("shape", [(6, 32, 32, 5), (6, 5, 32), (6, 5, 31, 32), (6, 3, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images of shape \(6, .*\); expected \(B, 5, 32, 32\)"):
        network(depth=1)(torch.zeros(shape), torch.zeros(6, 24))


@pytest.mark.parametrize("shape", [(6, 23), (5, 24), (24,), (6, 24, 1)])
def test_features_of_another_shape_are_refused(shape):
    with pytest.raises(
        ValueError, match=r"features of shape .*; expected \(6, 24\), one row for each of 6 images"
    ):
        network(depth=1)(inputs()[0], torch.zeros(shape))


def test_a_stamp_that_is_no_whole_number_of_patches_is_refused():
    with pytest.raises(ValueError, match="stamps of 30 x 30 pixels are not whole patches of 4 x 4"):
        network(size=30)
