"""ASTRA: sizes as published, every part by its formula, and each quirk on and off."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from astro_utils.astra.targets import spectrum_loss
from astro_utils.checkpoints import fingerprint
from astro_utils.models import astra_parts
from astro_utils.models.astra import (
    ASTRA_V1,
    ASTRA_V1_SMALL,
    ASTRA_V2,
    ASTRA_V2_SMALL,
    Astra,
    AstraConfig,
    SpectraUpscaler,
    parameter_counts,
    without_quirks,
)
from astro_utils.models.astra_parts import (
    FirstBlock,
    FourierAttention,
    PatchCNN,
    PatchEmbedding,
    SecondBlock,
    SeparablePatchCNN,
    make_patches,
    sinusoidal_positions,
)
from astro_utils.training import TrainingConfig, fit, seeded

TINY = {"size": 16, "patch": 4, "dim": 16, "depth": 2, "heads": 2, "rank": 4, "hidden": 12, "points": 40}
TINY_V1, TINY_V2 = replace(ASTRA_V1, **TINY), replace(ASTRA_V2, **TINY)
BOTH = pytest.mark.parametrize("config", [TINY_V1, TINY_V2], ids=["v1", "v2"])


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def built(config, seed=1):
    """A model in evaluation mode whose weights are all of order one, so that no part is too small to see."""
    model = seeded(seed, lambda: Astra(config)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "dummy" not in name:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    return model


# ------------------------------------------------------------------------------------------------ sizes


def test_published_parameter_counts():
    d, mlp = 1280, 1280 * 5120 + 5120 + 5120 * 1280 + 1280
    first = parameter_counts(ASTRA_V1)
    assert first["patch_cnn"] == (5 * 3 * 16 + 16) + (16 * 3 * 32 + 32) + (32 * 256 * d + d) == 10_488_864
    assert first["encoder"] == 6 * (4 * (d * d + d) + mlp + 2 * 2 * d) + d
    assert first["decoder"] == d * 2048 + 2048 + 2048 * 4000 + 4000
    assert first["trained"] == 128_885_408
    second = parameter_counts(ASTRA_V2)
    assert second["patch_cnn"] == (5 * 3 + 5) + (5 * 32 + 32) + (32 * d + d) == 42_452
    attention = 2 * d + d * 3 * 325 + 3 * 325 * d + d * d
    assert second["encoder"] == 8 * (attention + mlp + 2 * 2 * d) + d
    assert second["input_projection"] == d * d + d + 2 * d
    assert second["decoder"] == d * d + d + 4000 * 4000 + 4000
    assert second["trained"] == 157_332_640
    trained = parameter_counts(without_quirks(ASTRA_V2))
    assert trained["trained"] == second["trained"] + second["patch_cnn"]


@pytest.mark.parametrize("config", [ASTRA_V1_SMALL, ASTRA_V2_SMALL, without_quirks(ASTRA_V1_SMALL)])
def test_counts_are_those_of_the_network(config):
    model = Astra(config)
    counts = parameter_counts(config)
    assert counts["trained"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in model.blocks.parameters()) + config.dim == counts["encoder"]
    assert model(torch.zeros(2, 5, 64, 64)).shape == (2, 1000)


@pytest.mark.parametrize("config", [ASTRA_V1, ASTRA_V2], ids=["v1", "v2"])
def test_published_shapes(config):
    with torch.device("meta"):
        model = Astra(replace(config, patch_weights="frozen")).eval()
        tokens = model.tokens(torch.empty(2, 5, 288, 288))
        assert make_patches(torch.empty(2, 5, 288, 288), 16).shape == (2, 324, 256, 5)
        assert tokens.shape == (2, 324, 1280)
        assert model.encode(tokens).shape == (2, 325, 1280)
        assert model(torch.empty(2, 5, 288, 288)).shape == (2, 4000)


def test_wrong_configurations_and_images_are_named():
    for change, message in (
        ({"version": 3}, r"version is 3; expected one of \(1, 2\)"),
        ({"patch_weights": "static"}, "patch_weights is 'static'; expected one of"),
        ({"patch": 7}, "size is 288; expected a multiple of 7"),
        ({"heads": 6}, "dim is 1280; expected a multiple of 6"),
        ({"dim": 9, "heads": 3}, "dim is 9; expected a multiple of 2"),
        ({"dropout": 1.0}, "dropout is 1.0; expected 0 or more and less than 1"),
        ({"fourier": True, "pruned": 0.1}, "fourier, pruned: version 1 has no such thing"),
        ({"version": 2}, "mixed_pixels: version 2 has no such thing"),
    ):
        with pytest.raises(ValueError, match=message):
            AstraConfig(**change)
    model = Astra(TINY_V1)
    for shape in ((2, 5, 20, 16), (2, 4, 16, 16), (5, 16, 16)):
        with pytest.raises(ValueError, match=r"images have shape .* expected \(B, 5, 16, 16\)"):
            model(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"expected \(B, bands, y, x\) with sides that are multiples of 4"):
        make_patches(torch.zeros(1, 5, 16, 18), 4)


# ------------------------------------------------------------------------------------- patches, positions


def test_patches_are_cut_row_by_row():
    images = rand(2, 5, 12, 8)
    patches = make_patches(images, 4)
    assert patches.shape == (2, 6, 16, 5)
    for p in range(6):
        y, x = 4 * (p // 2), 4 * (p % 2)
        for pixel in range(16):
            expected = images[:, :, y + pixel // 4, x + pixel % 4]
            assert torch.equal(patches[:, p, pixel], expected)


def test_positions_are_sines_and_cosines():
    table = sinusoidal_positions(50, 12).double().numpy()
    for n in (0, 1, 49):
        for i in range(6):
            angle = n / 10_000 ** (2 * i / 12)
            np.testing.assert_allclose(table[n, 2 * i : 2 * i + 2], [np.sin(angle), np.cos(angle)], atol=1e-5)


@pytest.mark.parametrize("mixed", [True, False])
def test_patch_cnn_reads_bands_or_fifths_of_the_patch(mixed):
    cnn = seeded(0, lambda: PatchCNN(bands=5, pixels=16, dim=3, mixed=mixed))
    patch = rand(1, 16, 5)
    flat = patch.flatten()
    channels = [flat[16 * c : 16 * (c + 1)] if mixed else patch[0, :, c] for c in range(5)]
    x = F.relu(F.conv1d(torch.stack(channels)[None], cnn.conv1.weight, cnn.conv1.bias, padding=1))
    x = F.relu(F.conv1d(x, cnn.conv2.weight, cnn.conv2.bias, padding=1))
    torch.testing.assert_close(cnn(patch), x.reshape(1, -1) @ cnn.fc.weight.T + cnn.fc.bias)


def test_separable_patch_cnn_by_its_formula():
    cnn = seeded(0, lambda: SeparablePatchCNN(bands=5, dim=3))
    patch = rand(1, 16, 5)
    kernel = np.exp([-0.5, 0, -0.5]) / np.exp([-0.5, 0, -0.5]).sum()
    weights = {name: value.detach().double().numpy() for name, value in cnn.state_dict().items()}
    bands = []
    for b in range(5):
        smooth = np.correlate(patch[0, :, b].double().numpy(), kernel, "same")
        deep = np.correlate(smooth, weights["depthwise.weight"][b, 0], "same") + weights["depthwise.bias"][b]
        bands.append(np.maximum(deep, 0))
    mixed = weights["pointwise.weight"][:, :, 0] @ np.array(bands) + weights["pointwise.bias"][:, None]
    expected = weights["fc.weight"] @ np.maximum(mixed, 0).mean(1) + weights["fc.bias"]
    np.testing.assert_allclose(cnn(patch)[0].detach().numpy(), expected, atol=1e-6)


# ----------------------------------------------------------------------------- the untrained patch CNN


@BOTH
def test_a_redrawn_patch_cnn_is_another_for_each_galaxy_and_each_time(config):
    model = Astra(config).eval()
    assert not [name for name, _ in model.named_parameters() if name.startswith("embedding")]
    images = rand(1, 5, 16, 16).expand(2, -1, -1, -1)  # the same galaxy twice
    torch.manual_seed(3)
    first = model.tokens(images)
    assert (first[0] - first[1]).abs().mean() > 0.05  # positions alone would differ by nothing
    assert (model.tokens(images) - first).abs().mean() > 0.05
    torch.manual_seed(3)
    assert torch.equal(model.tokens(images), first)
    for weights in ("frozen", "trained"):
        model = Astra(replace(config, patch_weights=weights)).eval()
        tokens = model.tokens(images)
        torch.testing.assert_close(tokens[0], tokens[1])
        assert torch.equal(model.tokens(images), tokens)


@pytest.mark.parametrize("at_once", [1, 10**9])
def test_redrawn_weights_are_used_galaxy_by_galaxy(monkeypatch, at_once):
    monkeypatch.setattr(astra_parts, "_DRAWN_AT_ONCE", at_once)
    cnn = PatchCNN(bands=5, pixels=16, dim=8, mixed=True)
    embedding = PatchEmbedding(cnn, "redrawn")
    patches = rand(3, 4, 16, 5)
    torch.manual_seed(5)
    found = embedding(patches)
    torch.manual_seed(5)
    for start in range(0, 3, 1 if at_once == 1 else 3):
        drawn = astra_parts._draw(cnn, 1 if at_once == 1 else 3, patches.device)
        for k, part in enumerate(patches[start : start + len(drawn["fc.bias"])]):
            own = {name: value[k] for name, value in drawn.items()}
            torch.testing.assert_close(found[start + k], torch.func.functional_call(cnn, own, (part,)))


def test_redrawn_weights_are_distributed_as_those_of_new_layers():
    cnn = PatchCNN(bands=5, pixels=64, dim=32, mixed=True)
    torch.manual_seed(0)
    drawn = astra_parts._draw(cnn, 200, torch.device("cpu"))
    assert set(drawn) == set(cnn.state_dict())
    many = [PatchCNN(bands=5, pixels=64, dim=32, mixed=True).state_dict() for _ in range(200)]
    for name, values in drawn.items():
        new = torch.stack([state[name] for state in many])
        assert values.shape == new.shape
        assert values.std() == pytest.approx(new.std().item(), rel=0.04), name
        assert values.abs().max() == pytest.approx(new.abs().max().item(), rel=0.01), name


@pytest.mark.parametrize("weights", ["redrawn", "frozen", "trained"])
def test_what_training_changes(weights):
    config = replace(without_quirks(TINY_V1), patch_weights=weights, dropout=0.0)
    model = seeded(0, lambda: Astra(config))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = rand(32, 5, 16, 16)
    target = images.mean((2, 3)) @ rand(5, 40, seed=1)
    data = images, target, torch.ones(32, 40)
    history = fit(model, spectrum_loss, data, data, TrainingConfig(epochs=6, batch_size=8))
    assert history.best_loss < history.validation_loss[0]
    changed = {
        name.split(".")[0] for name, value in model.state_dict().items() if (value != before[name]).any()
    }
    expected = {"dummy_token", "blocks", "decoder"} | ({"embedding"} if weights == "trained" else set())
    assert changed == expected


# ---------------------------------------------------------------------------------------- transformers


def attention(fourier, dim=12, heads=3):
    layer = seeded(2, lambda: FourierAttention(dim=dim, heads=heads, rank=5, dropout=0.1, fourier=fourier))
    with torch.no_grad():
        for parameter in (layer.qkv.weight, layer.q.weight, layer.k.weight, layer.v.weight):
            parameter.mul_(3)  # so that attention is far from uniform
    return layer.eval()


def queries_keys_values(layer, x):
    """Of one galaxy, (T, dim) each, in double precision."""
    weights = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}
    x = x.double().numpy()
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    low = np.split(normed @ weights["qkv.weight"].T, 3, axis=1)
    return [part @ weights[f"{name}.weight"].T for part, name in zip(low, "qkv", strict=True)], weights[
        "out.weight"
    ]


def softmax(scores):
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    return scores / scores.sum(-1, keepdims=True)


def test_attention_among_frequencies_by_its_formula():
    layer, x = attention(True), rand(2, 11, 12)
    for galaxy in range(2):
        (q, k, v), out = queries_keys_values(layer, x[galaxy])
        padded = (np.pad(part, [(0, 16 - 11), (0, 0)]) for part in (q, k, v))
        q, k, v = (np.fft.fft(part, axis=0).real for part in padded)
        weights = softmax(np.abs(q @ k.T) / np.sqrt(4))
        assert weights.max() > 0.5
        expected = np.fft.ifft(weights @ v, axis=0).real[:11] @ out.T
        np.testing.assert_allclose(layer(x)[galaxy].detach().numpy(), expected, rtol=1e-3, atol=1e-4)


def test_attention_among_frequencies_cannot_tell_tokens_that_mirror_each_other():
    layer, x = attention(True), rand(1, 13, 12)
    read = layer(x)[0]
    torch.testing.assert_close(read[4:13], read[4:13].flip(0), rtol=1e-3, atol=1e-5)  # t and 16 - t
    assert (read[1:4] - read[4:7]).abs().max() > 0.1
    plain = attention(False)(x)[0]
    assert (plain[4:13] - plain[4:13].flip(0)).abs().max() > 0.1


def test_plain_attention_by_its_formula():
    layer, x = attention(False), rand(1, 11, 12)
    (q, k, v), out = queries_keys_values(layer, x[0])
    heads = [
        softmax(q[:, h] @ k[:, h].T / np.sqrt(4)) @ v[:, h] for h in (slice(0, 4), slice(4, 8), slice(8, 12))
    ]
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), np.concatenate(heads, 1) @ out.T, atol=1e-4)


def first_block(own):
    return seeded(0, lambda: FirstBlock(dim=8, heads=2, ratio=4, dropout=0.1, own_residual=own)).eval()


def test_first_block_loses_its_input_as_published_and_keeps_it_otherwise():
    published, standard = first_block(True), first_block(False)
    standard.load_state_dict(published.state_dict())
    x = rand(2, 5, 8)
    y = published.norm1(2 * published.attention(x))
    torch.testing.assert_close(published(x), published.norm2(2 * published.mlp(y)))
    y = standard.norm1(x + standard.attention(x))
    torch.testing.assert_close(standard(x), standard.norm2(y + standard.mlp(y)))
    # Attention that reads every token alike leaves tokens alike, unless they are kept beside it.
    with torch.no_grad():
        for block in (published, standard):
            block.attention.q.weight.zero_()
            block.attention.q.bias.zero_()
    spread = [block(x).std(1).max().item() for block in (published, standard)]
    assert spread[0] < 1e-4 and spread[1] > 0.5


def test_first_block_drops_out_of_what_it_adds():
    block = first_block(True).train()
    torch.manual_seed(0)
    assert not torch.equal(block(rand(2, 5, 8)), block(rand(2, 5, 8)))


def test_first_attention_by_its_formula():
    layer = first_block(True).attention
    x = rand(1, 5, 8)
    q, k, v = (part(x)[0] for part in (layer.q, layer.k, layer.v))
    heads = [(q[:, h] @ k[:, h].T / 2).softmax(1) @ v[:, h] for h in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(layer(x)[0], layer.out(torch.cat(heads, 1)))


@pytest.mark.parametrize("added", [True, False])
def test_second_block_adds_its_norms_as_published(added):
    block = seeded(
        0, lambda: SecondBlock(attention(True), dim=12, ratio=4, dropout=0.1, added_norms=added)
    ).eval()
    x = rand(2, 11, 12)
    normed = block.norm1(x)
    y = x + block.attention(normed) + added * normed
    normed = block.norm2(y)
    expected = y + block.mlp.fc2(F.gelu(block.mlp.fc1(normed))) + added * normed
    torch.testing.assert_close(block(x), expected)


def test_the_order_of_patches_matters_by_their_positions_or_by_frequencies_only():
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    for config, blind in ((TINY_V1, True), (TINY_V2, False), (replace(TINY_V2, fourier=False), True)):
        model = built(replace(config, patch_weights="frozen", scaled_tokens=False))
        images = rand(2, 5, 16, 16)
        seen = make_patches(images, 4)[:, order]
        shuffled = (
            seen.unflatten(2, (4, 4)).unflatten(1, (4, 4)).permute(0, 5, 1, 3, 2, 4).reshape(2, 5, 16, 16)
        )
        assert torch.equal(make_patches(shuffled, 4), seen)
        assert (model(images) - model(shuffled)).abs().max() > 1e-3, "positions are seen"
        model.positions.zero_()
        torch.testing.assert_close(model.tokens(images)[:, order], model.tokens(shuffled))
        change = (model(images) - model(shuffled)).abs().max()
        assert change < 1e-4 if blind else change > 1e-3


def test_tokens_of_version_2_fill_the_range_and_carry_no_scale():
    model = seeded(0, lambda: Astra(replace(TINY_V2, patch_weights="frozen")))
    tokens = model.tokens(rand(3, 5, 16, 16) * torch.tensor([1.0, 5.0, 0.1])[:, None, None, None])
    torch.testing.assert_close(tokens.amin((1, 2)), -torch.ones(3))
    torch.testing.assert_close(tokens.amax((1, 2)), torch.ones(3))
    plain = replace(TINY_V2, patch_weights="frozen", scaled_tokens=False)
    model = seeded(0, lambda: Astra(plain))
    expected = model.embedding(make_patches(rand(3, 5, 16, 16), 4)) + sinusoidal_positions(16, 16)
    torch.testing.assert_close(model.tokens(rand(3, 5, 16, 16)), expected)


# ----------------------------------------------------------------------------------------------- decoders


def test_upscaler_stretches_prunes_and_mixes():
    decoder = seeded(0, lambda: SpectraUpscaler(dim=10, points=40, pruned=0.1))
    weight, kept = decoder.linear.weight.detach(), decoder.kept
    assert (~kept).sum() == 160
    assert weight[~kept].abs().max() < weight[kept].abs().min()
    token = rand(2, 10)
    found = decoder(token)
    curves = decoder.projection(token).detach().numpy()
    at = (np.arange(40) + 0.5) / 4 - 0.5
    stretched = np.stack([np.interp(at, np.arange(10), curve) for curve in curves])
    expected = stretched @ (weight * kept).numpy().T + decoder.linear.bias.detach().numpy()
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
    found.square().sum().backward()
    assert (decoder.linear.weight.grad[~kept] == 0).all() and (decoder.linear.weight.grad[kept] != 0).all()
    assert seeded(0, lambda: SpectraUpscaler(dim=10, points=40, pruned=0.0)).kept.all()


@BOTH
def test_the_spectrum_comes_from_the_dummy_token_alone(config):
    model = built(replace(config, patch_weights="frozen"))
    images = rand(2, 5, 16, 16)
    tokens = model.encode(model.tokens(images))
    torch.testing.assert_close(model(images), model.decoder(tokens[:, 0]))
    if config.version == 1:  # by hand, with the dummy token last as published
        x = torch.cat([model.tokens(images), model.dummy_token.expand(2, -1, -1)], 1)
        for block in model.blocks:
            x = block(x)
        hidden, _, last = model.decoder
        torch.testing.assert_close(model(images), last(F.relu(hidden(x[:, -1]))), rtol=1e-4, atol=1e-5)


def test_version_2_starts_small_but_for_its_last_layer():
    model = seeded(0, lambda: Astra(ASTRA_V2_SMALL))
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in linear.items():
        assert layer.bias is None or (layer.bias == 0).all(), name
        bound = layer.in_features**-0.5
        if name != "decoder.linear":
            bound = 0.1 * np.sqrt(6 / (layer.in_features + layer.out_features))
        assert layer.weight.abs().max().item() == pytest.approx(bound, rel=0.01), name


# ------------------------------------------------------------------------------------------ as a whole


@BOTH
def test_each_quirk_changes_the_answer(config):
    images = rand(2, 5, 16, 16)
    base = replace(config, patch_weights="frozen")
    model = built(base)
    answer = model(images)
    changes = {
        1: [{"mixed_pixels": False}, {"odd_residuals": False}],
        2: [{"scaled_tokens": False}, {"odd_residuals": False}, {"fourier": False}],
    }[config.version]
    for change in changes:
        other = built(replace(base, **change))
        other.load_state_dict(model.state_dict())  # the same weights
        assert (other(images) - answer).abs().max() > 1e-3, change
        assert fingerprint(other) != fingerprint(model), "a checkpoint of one is none of the other"


@BOTH
def test_without_quirks_keeps_sizes(config):
    plain = without_quirks(config)
    assert plain.patch_weights == "trained"
    assert not (
        plain.mixed_pixels or plain.scaled_tokens or plain.odd_residuals or plain.fourier or plain.pruned
    )
    for name in ("version", "size", "dim", "depth", "rank", "points", "dropout"):
        assert getattr(plain, name) == getattr(config, name)
    assert parameter_counts(plain)["encoder"] == parameter_counts(config)["encoder"]


@BOTH
@pytest.mark.parametrize("plain", [True, False])
def test_networks_learn_in_bfloat16_too(config, plain):
    config = without_quirks(config) if plain else config
    images, target = rand(8, 5, 16, 16), rand(8, 40, seed=1)
    data = images, target, torch.ones_like(target)
    for bfloat16 in (False, True):
        model = seeded(0, lambda: Astra(config))
        how = TrainingConfig(epochs=8, batch_size=8, learning_rate=5e-3, bfloat16=bfloat16)
        history = fit(model, spectrum_loss, data, data, how)
        assert history.best_loss < 0.99 * history.validation_loss[0]
