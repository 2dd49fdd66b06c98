"""AstroCLIP: the published names, formulas and oddities, and readers that run nothing that a file holds."""

import hashlib
import io
import math
import os
import pickle
import re
import struct
import zipfile
from ast import literal_eval
from collections import OrderedDict
from typing import ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy.special import ndtr
from torch import nn

from astro_utils import astroclip_inputs
from astro_utils.astroclip_inputs import (
    center_crop,
    count_windows,
    draw_masks,
    file_images,
    image_inputs,
    spectrum_tokens,
    to_rgb,
)
from astro_utils.astroclip_weights import load_weights, published_astroclip, read_weights
from astro_utils.legacy import UnsafePickleError
from astro_utils.models.astroclip import AstroCLIP, contrastive_loss
from astro_utils.models.astroclip_vit import VisionTransformer
from astro_utils.models.specformer import SpecFormer
from astro_utils.paths import project_root
from astro_utils.training import TrainingConfig, fit, seeded

REAL_DATA = os.environ.get("ASTRO_UTILS_DATA")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small(positions=False, **arguments):
    """A network with all the parts of the published one, and weights of any size, none of them zero."""

    def build():
        vision = VisionTransformer(
            size=24, patch=6, dim=16, depth=4, heads=2, chunks=2, layer_scale=0.7, positions=positions
        )
        specformer = SpecFormer(dim=12, depth=2, heads=3, max_tokens=40)
        return AstroCLIP(vision=vision, specformer=specformer, dim=8, heads=2, **arguments)

    model, g = seeded(1, build), generator(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2 * torch.randn(p.shape, generator=g)
    return model.eval()


def images_and_spectra(n=5, dtype=torch.float64):
    g = generator(3)
    images = torch.rand(n, 3, 24, 24, generator=g, dtype=dtype)
    return images, 3 + 2 * torch.randn(n, 131, generator=g, dtype=dtype)


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return AstroCLIP()


# ----------------------------------------------------------------------------------- names, shapes and counts


def test_names_and_shapes_are_the_published_ones(published):
    found = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    assert len(found) == 446
    lines = "\n".join(f"{name}\t{found[name]}" for name in sorted(found))
    digest = "e930c7806f21297bf42803436420fdba8e360b57760f4de8cc7b3b1ed50e882e"
    assert hashlib.sha256(lines.encode()).hexdigest() == digest, "of the published list, sorted"


def test_names_and_shapes_are_those_of_the_published_list(published):
    if not REAL_DATA:
        pytest.skip("ASTRO_UTILS_DATA names no folder with the list of the published tensors")
    path = project_root() / REAL_DATA / "astroclip" / "state_dict_keys.txt"
    listed = dict(line.split("\t") for line in path.read_text().splitlines())
    found = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    assert found == {name: literal_eval(shape) for name, shape in listed.items()}


def test_there_are_as_many_parameters_as_published(published):
    def count(module):
        return sum(p.numel() for p in module.parameters())

    image, spectrum = published.image_encoder, published.spectrum_encoder
    assert count(published) == 370_798_358
    assert count(image.backbone) == 302_954_496
    assert count(image) - count(image.backbone) == 12_595_200
    assert count(spectrum.backbone) == 43_177_750
    assert count(spectrum) - count(spectrum.backbone) == 12_070_912


def test_a_network_starts_as_published():
    model = seeded(0, lambda: SpecFormer(dim=96, depth=3))
    deviations = {
        "data_embed": 96**-0.5,
        "position_embed": 96**-0.5,
        "blocks.2.attention.attention": (2 * 3 * 96) ** -0.5,
        "blocks.0.mlp.decoder": (2 * 3 * 4 * 96) ** -0.5,
        "head": 96**-0.5,
    }
    for name, deviation in deviations.items():
        weight = model.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(0.987 * deviation, rel=0.05), name  # cut at 3 sigma
        assert weight.abs().max() < 3 * deviation, name
    vision = seeded(0, lambda: VisionTransformer(dim=96, depth=4, heads=4))
    assert vision.blocks[3]["3"].ls2.gamma.unique().tolist() == [pytest.approx(1e-5)]
    assert vision.blocks[1]["1"].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert vision.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)


# ----------------------------------------------------------------- the published formulas, once more in NumPy


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def norm(x, state, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def perceptron(x, state, first, second):
    hidden = linear(x, state, first)
    return linear(hidden * ndtr(hidden), state, second)


def attention(q, k, v, heads):
    """Of one object: (Q, d) on (T, d)."""
    answers = []
    for one_q, one_k, one_v in zip(*(np.split(x, heads, axis=1) for x in (q, k, v)), strict=True):
        weights = np.exp(one_q @ one_k.T / math.sqrt(one_q.shape[1]))
        answers.append(weights / weights.sum(1, keepdims=True) @ one_v)
    return np.concatenate(answers, 1)


def self_attention(x, state, first, second, heads):
    return linear(attention(*np.split(linear(x, state, first), 3, axis=1), heads), state, second)


def image_tokens(image, state, heads=2, patch=6, positions=False):
    kernel = state["patch_embed.proj.weight"]
    rows, columns = (side // patch for side in image.shape[1:])
    cut = [
        image[:, patch * r : patch * (r + 1), patch * c : patch * (c + 1)]
        for r in range(rows)
        for c in range(columns)
    ]
    x = np.stack([(kernel * one).sum((1, 2, 3)) + state["patch_embed.proj.bias"] for one in cut])
    if positions:
        x = np.concatenate([state["cls_token"][0], x]) + state["pos_embed"][0]
    for block in ("blocks.0.0", "blocks.0.1", "blocks.1.2", "blocks.1.3"):
        normed = norm(x, state, f"{block}.norm1", 1e-6)
        answer = self_attention(normed, state, f"{block}.attn.qkv", f"{block}.attn.proj", heads)
        x = x + state[f"{block}.ls1.gamma"] * answer
        normed = norm(x, state, f"{block}.norm2", 1e-6)
        answer = perceptron(normed, state, f"{block}.mlp.fc1", f"{block}.mlp.fc2")
        x = x + state[f"{block}.ls2.gamma"] * answer
    return norm(x, state, "norm", 1e-6)


def tokens_of(spectrum, window=20, stride=10):
    """Windows of one spectrum as the published code cuts them: begun ones, of which the last is dropped."""
    mean, spread = spectrum.mean(), max(spectrum.std(ddof=1), 0.2)
    starts = range(0, len(spectrum) - (window - stride), stride)
    cut = [(spectrum[start : start + window] - mean) / spread for start in starts][:-1]
    tokens = np.zeros((len(cut) + 1, window + 2))
    tokens[1:, 2:] = cut
    tokens[0, :2] = (mean - 2) / 2, (spread - 2) / 8
    return tokens


def encoded(tokens, state, heads=3, depth=2):
    x = linear(tokens, state, "data_embed") + state["position_embed.weight"][: len(tokens)]
    for block in (f"blocks.{i}" for i in range(depth)):
        normed = norm(x, state, f"{block}.layernorm1", 1e-5)
        names = f"{block}.attention.attention", f"{block}.attention.projection"
        x = x + self_attention(normed, state, *names, heads)
        normed = norm(x, state, f"{block}.layernorm2", 1e-5)
        x = x + perceptron(normed, state, f"{block}.mlp.encoder", f"{block}.mlp.decoder")
    return norm(x, state, "final_layernorm", 1e-5)


def asked(tokens, state, heads=2):
    """The answer to the question of a head, from tokens (T, d) of one object."""
    name = "cross_attention.multihead_attn"
    if f"{name}.in_proj_weight" in state:
        kernels = np.split(state[f"{name}.in_proj_weight"], 3)
    else:
        kernels = [state[f"{name}.{x}_proj_weight"] for x in "qkv"]
    inputs = state["cross_attention.query"][0], tokens, tokens
    biases = np.split(state[f"{name}.in_proj_bias"], 3)
    q, k, v = (x @ w.T + b for x, w, b in zip(inputs, kernels, biases, strict=True))
    answer = linear(attention(q, k, v, heads), state, f"{name}.out_proj")
    return norm(answer, state, "cross_attention.layernorm", 1e-5)[0]


def numpy_state(module):
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("positions", [False, True])
def test_images_are_embedded_by_the_published_formula(positions):
    model, (images, _) = small(positions).double(), images_and_spectra()
    state, backbone = numpy_state(model.image_encoder), numpy_state(model.image_encoder.backbone)
    with torch.no_grad():
        tokens, found = model.image_encoder.backbone(images).numpy(), model.image_encoder(images).numpy()
    for i, image in enumerate(images.numpy()):
        expected = image_tokens(image, backbone, positions=positions)
        np.testing.assert_allclose(tokens[i], expected, rtol=1e-9, atol=1e-12)
        answer = asked(expected, state)
        expected = perceptron(answer, state, "mlp.encoder", "mlp.decoder")  # and not answer + ...
        np.testing.assert_allclose(found[i], expected, rtol=1e-9, atol=1e-12)


def test_spectra_are_embedded_by_the_published_formula():
    model, (_, spectra) = small().double(), images_and_spectra()
    state, backbone = numpy_state(model.spectrum_encoder), numpy_state(model.spectrum_encoder.backbone)
    with torch.no_grad():
        tokens, found = model.spectrum_encoder.backbone(spectra).numpy(), model.spectrum_encoder(spectra)
    for i, spectrum in enumerate(spectra.numpy()):
        expected = encoded(tokens_of(spectrum), backbone)
        np.testing.assert_allclose(tokens[i], expected, rtol=1e-9, atol=1e-12)
        answer = asked(expected, state)
        expected = answer + perceptron(answer, state, "mlp.encoder", "mlp.decoder")
        np.testing.assert_allclose(found[i].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_heads_of_equal_widths_project_with_one_matrix_and_others_with_three():
    names = small().state_dict()
    assert "spectrum_encoder.cross_attention.multihead_attn.k_proj_weight" in names  # 12 and 8 wide
    vision = VisionTransformer(size=24, patch=6, dim=8, depth=1, heads=2, chunks=1)
    model = AstroCLIP(vision=vision, specformer=SpecFormer(dim=12, depth=1), dim=8, heads=2)
    name = "cross_attention.multihead_attn.in_proj_weight"
    assert [hasattr(e, "get_parameter") and name in dict(e.named_parameters()) for e in model.children()] == [
        True,
        False,
    ]
    state, images = numpy_state(model.double().eval().image_encoder), images_and_spectra(1)[0]
    with torch.no_grad():
        tokens, found = model.image_encoder.backbone(images)[0].numpy(), model.image_encoder(images)[0]
    expected = perceptron(asked(tokens, state), state, "mlp.encoder", "mlp.decoder")
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_image_head_has_no_residual_and_the_spectrum_head_has_one():
    model, (images, spectra) = small(), images_and_spectra(dtype=torch.float32)
    with torch.no_grad():
        for encoder in model.children():
            nn.init.zeros_(encoder.mlp.decoder.weight)
            nn.init.zeros_(encoder.mlp.decoder.bias)
        of_images, of_spectra = model(images, spectra)
        answer = model.spectrum_encoder.cross_attention(model.spectrum_encoder.backbone(spectra))
    assert of_images.abs().max() == 0
    assert torch.equal(of_spectra, answer) and answer.abs().min() > 0


def test_a_batch_of_one_is_a_batch():
    model, (images, spectra) = small().double(), images_and_spectra()
    with torch.no_grad():
        together, alone = model(images, spectra), model(images[:1], spectra[:1])
    for several, one in zip(together, alone, strict=True):
        assert one.shape == (1, 8)
        torch.testing.assert_close(one, several[:1])


# ----------------------------------------------------------------------------------- images: order of patches


def shuffled(images, patch, seed=4):
    """Images with their patches in another order, and that order."""
    patches = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (B, C, rows, columns, p, p)
    rows, columns = patches.shape[2:4]
    order = torch.randperm(rows * columns, generator=generator(seed))
    moved = patches.flatten(2, 3)[:, :, order].unflatten(2, (rows, columns))
    return moved.permute(0, 1, 2, 4, 3, 5).reshape(images.shape), order


@pytest.mark.parametrize("positions", [False, True])
def test_patches_in_another_order_give_the_same_embedding_without_positions(positions):
    model, (images, _) = small(positions).double(), images_and_spectra()
    other, order = shuffled(images, 6)
    assert not torch.equal(other, images)
    with torch.no_grad():
        there, here = model.image_encoder(other), model.image_encoder(images)
        tokens = [model.image_encoder.backbone(x) for x in (images, other)]
    if positions:
        assert tokens[0].shape[1] == 17 and (there - here).abs().max() > 1e-3
    else:
        torch.testing.assert_close(there, here)
        torch.testing.assert_close(tokens[1], tokens[0][:, order])


def test_class_token_and_positions_are_stored_and_not_used():
    model, (images, _) = small(), images_and_spectra(dtype=torch.float32)
    backbone = model.image_encoder.backbone
    with torch.no_grad():
        expected = model.image_encoder(images)
        for unused in (backbone.cls_token, backbone.pos_embed, backbone.mask_token):
            unused.fill_(torch.nan)
        assert torch.equal(model.image_encoder(images), expected)
        assert backbone(images[:, :, :12, :18]).shape == (5, 6, 16), "so that crops may be of any size"


def test_images_of_other_shapes_are_refused():
    for shape in ((2, 4, 24, 24), (2, 3, 24, 25), (2, 3, 0, 24), (3, 24, 24)):
        with pytest.raises(ValueError, match=re.escape(f"{shape}; expected (B, 3, y, x), with y and x mult")):
            small().image_encoder(torch.zeros(shape))
    with pytest.raises(ValueError, match="with y and x 24"):
        small(positions=True).image_encoder(torch.zeros(1, 3, 18, 24))
    for name, arguments in {"size": {"patch": 7}, "dim": {"heads": 7}, "depth": {"chunks": 5}}.items():
        with pytest.raises(ValueError, match=f"{name} is .* multiple of"):
            VisionTransformer(**arguments)


# ------------------------------------------------------------------------------------------ spectra: windows


@pytest.mark.parametrize(("window", "stride"), [(20, 10), (20, 7), (5, 5), (6, 1)])
@pytest.mark.parametrize("pixels", [7781, 61, 60, 59, 51])
def test_tokens_are_the_windows_of_the_published_code(pixels, window, stride):
    spectra = 2 + 3 * torch.randn(3, pixels, generator=generator(), dtype=torch.float64)
    expected = [tokens_of(one, window, stride) for one in spectra.numpy()]
    found = spectrum_tokens(spectra, window=window, stride=stride)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)
    assert found.shape[1] == count_windows(pixels, window=window, stride=stride) + 1
    assert torch.equal(spectrum_tokens(spectra[..., None].numpy(), window=window, stride=stride), found)


def test_the_last_window_is_dropped_even_if_it_is_full():
    # 40 pixels have three full windows, and one more pixel begins a fourth.
    assert [count_windows(n) for n in (21, 30, 31, 40, 41, 7781, 7790, 7791)] == [
        1,
        1,
        2,
        2,
        3,
        777,
        777,
        778,
    ]
    spectra = torch.randn(1, 40, generator=generator())
    assert spectrum_tokens(spectra).shape == (1, 3, 22)
    assert spectrum_tokens(torch.zeros(2, 7781)).shape == (2, 778, 22)


def test_mean_and_spread_go_ahead_and_flat_spectra_are_not_blown_up():
    spectra = torch.full((2, 7781), 5.0)
    spectra[:, ::2] += 0.01
    spectra[1] *= 100
    tokens = spectrum_tokens(spectra)
    mean, spread = spectra.mean(1), spectra.std(1)
    assert spread[0] < 0.2 < spread[1]
    torch.testing.assert_close(tokens[:, 0, 0], (mean - 2) / 2)
    torch.testing.assert_close(tokens[:, 0, 1], torch.stack([torch.tensor(-1.8 / 8), (spread[1] - 2) / 8]))
    assert tokens[0, 1:].abs().max() < 0.03 and tokens[1, 1:].abs().max() > 0.9
    assert tokens[:, 0, 2:].abs().max() == 0 == tokens[:, 1:, :2].abs().max()


def test_spectra_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a spectrum of 20 pixels; expected more than 20"):
        spectrum_tokens(torch.zeros(1, 20))
    with pytest.raises(ValueError, match=r"windows of 20 pixels, 21 apart"):
        spectrum_tokens(torch.zeros(1, 100), stride=21)
    for shape in ((100,), (2, 100, 2)):
        with pytest.raises(ValueError, match=re.escape(f"shape {shape}; expected (N, pixels)")):
            spectrum_tokens(torch.zeros(shape))
    with pytest.raises(ValueError, match="spectra of 41 tokens; expected at most 40"):
        small().spectrum_encoder(torch.zeros(1, 411))
    assert small().spectrum_encoder(torch.zeros(1, 410)).shape == (1, 8)
    with pytest.raises(ValueError, match="dim is 10; expected a multiple of 4"):
        SpecFormer(dim=10, heads=4)


# -------------------------------------------------------------------------------------------- spectra: masks


def test_masks_are_six_runs_of_fifty_each_in_its_part():
    masked = draw_masks(4000, 778, generator=generator())
    assert masked.shape == (4000, 778) and (masked.sum(1) == 300).all()
    begins = masked & ~torch.nn.functional.pad(masked, (1, 0))[:, :-1]
    at = torch.arange(778).expand(4000, -1)[begins].view(4000, 6)  # so there are six in each
    starts = torch.tensor([0, 129, 259, 389, 518, 648])
    places = at - starts
    assert places.min(0).values.tolist() == 6 * [0]
    assert places.max(0).values.tolist() == 6 * [78], "129 - 50 - 1"
    assert places.double().mean().item() == pytest.approx(39, abs=0.5)
    assert torch.equal(draw_masks(4000, 778, generator=generator()), masked)
    assert not torch.equal(draw_masks(4000, 778, generator=generator(1)), masked)


def test_sequences_too_short_for_masks_are_refused():
    with pytest.raises(ValueError, match="549 tokens; expected at least 550 for 6 masks of 50 tokens"):
        draw_masks(1, 549)
    assert draw_masks(1, 550).sum() == 300
    with pytest.raises(ValueError, match="10 tokens; expected at least 11"):
        draw_masks(1, 10, chunks=1, width=10)


def test_masked_loss_is_the_published_one():
    model, (_, spectra) = small().double().spectrum_encoder.backbone, images_and_spectra()
    masked = draw_masks(5, 13, chunks=2, width=3, generator=generator(5))
    masked[0, 0], masked[1] = True, False  # the statistics are hidden in one, and nothing in another
    state = numpy_state(model)
    true = np.stack([tokens_of(one) for one in spectra.numpy()])
    given = np.where(masked.numpy()[..., None], 0, true)
    out = np.stack([linear(encoded(one, state), state, "head") for one in given])
    m = (given != true).astype(float)
    assert m[0, 0].tolist() == [1, 1] + 20 * [0] and m[:, 1:, :2].max() == 0, "zeros do not count"
    expected = np.mean((out * m - true * m) ** 2) / m.mean()
    found = model.masked_loss(spectra, masked)
    assert found.shape == (5,)
    assert found.mean().item() == pytest.approx(expected, rel=1e-9)
    errors = ((out - true) ** 2 * m).sum((1, 2))
    np.testing.assert_allclose(found.detach(), errors / m.sum((1, 2)).mean(), rtol=1e-9)
    assert found[1] == 0


@pytest.mark.parametrize("masked", [torch.zeros(5, 12, dtype=torch.bool), torch.zeros(5, 13)])
def test_masks_that_do_not_fit_are_refused(masked):
    model, (_, spectra) = small().spectrum_encoder.backbone, images_and_spectra(dtype=torch.float32)
    with pytest.raises(
        ValueError, match=r"masked is torch\.\w+ of shape .* expected torch\.bool of shape \(5, 13\)"
    ):
        model.masked_loss(spectra, masked)


# ---------------------------------------------------------------------------------------- loss and training


def test_contrastive_loss_is_the_published_one():
    g = generator(6)
    a, b = (torch.randn(7, 5, generator=g, dtype=torch.float64) for _ in range(2))
    a[0] *= 1e-4 / a[0].norm()  # below the least norm
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-3) for v in (a.numpy(), b.numpy()))
    logits = 15.5 * x @ y.T

    def entropy(logits):
        return np.log(np.exp(logits).sum(1)) - np.diag(logits)

    found = contrastive_loss(a, b)
    np.testing.assert_allclose(found, (entropy(logits) + entropy(logits.T)) / 2, rtol=1e-10)
    published = (entropy(logits).mean() + entropy(logits.T).mean()) / 2
    assert found.mean().item() == pytest.approx(published, rel=1e-10)
    other = contrastive_loss(a, b, scale=1.0)
    np.testing.assert_allclose(other, (entropy(x @ y.T) + entropy((x @ y.T).T)) / 2, rtol=1e-10)


def test_contrastive_loss_knows_skill():
    same = torch.eye(8)
    assert contrastive_loss(same, same).mean() < 1e-4
    torch.testing.assert_close(
        contrastive_loss(torch.ones(8, 3), torch.ones(8, 3)), torch.full((8,), math.log(8))
    )
    with pytest.raises(ValueError, match=r"shapes \(8, 3\) and \(8, 4\); expected \(B, dim\) twice"):
        contrastive_loss(torch.ones(8, 3), torch.ones(8, 4))


def galaxies(n, seed):
    """Toy galaxies: the redder the image, the longer the wavelength of the line."""
    g = generator(seed)
    kind = torch.rand(n, generator=g)
    colours = torch.stack([kind, 0.5 + 0 * kind, 1 - kind], 1)
    images = colours[..., None, None] + 0.1 * torch.randn(n, 3, 24, 24, generator=g)
    line = torch.exp(-((torch.linspace(0, 1, 131) - kind[:, None]) ** 2) / 0.01)
    return images, 3 + 10 * line + 0.1 * torch.randn(n, 131, generator=g)


def untrained():
    vision = VisionTransformer(size=24, patch=12, dim=32, depth=2, heads=2, chunks=1, layer_scale=1.0)
    specformer = SpecFormer(dim=24, depth=1, heads=2, max_tokens=20)
    return AstroCLIP(vision=vision, specformer=specformer, dim=32, heads=2)


def test_training_brings_images_and_spectra_of_a_galaxy_together():
    model = seeded(0, untrained)
    config = TrainingConfig(epochs=8, batch_size=32, learning_rate=3e-3)
    held_out = galaxies(32, 1)
    history = fit(model, lambda m, batch: contrastive_loss(*m(*batch)), galaxies(256, 0), held_out, config)
    assert history.best_loss < 0.75 * math.log(32), "which is the loss without skill"
    embeddings = model.embed_images(held_out[0]), model.embed_spectra(held_out[1])
    loss = contrastive_loss(*embeddings).mean().item()
    assert loss == pytest.approx(history.best_loss, rel=1e-4), "and embeddings are those of the best epoch"


def test_training_fills_gaps_in_spectra():
    model = seeded(0, untrained).spectrum_encoder.backbone
    (_, spectra), (_, held_out) = galaxies(256, 0), galaxies(64, 1)
    masks = [draw_masks(n, 13, chunks=2, width=2, generator=generator(n)) for n in (256, 64)]
    config = TrainingConfig(epochs=16, batch_size=32, learning_rate=3e-3)
    data = (spectra, masks[0]), (held_out, masks[1])
    history = fit(model, lambda m, batch: m.masked_loss(*batch), *data, config)
    tokens = model.tokens(held_out)
    nothing = (tokens * masks[1][..., None]).square().sum() / (masks[1][..., None] & (tokens != 0)).sum()
    assert history.best_loss < 0.75 * nothing, "the loss of a guess of the mean of the spectrum"


def test_frozen_backbones_stay_as_they_are():
    model, (images, spectra) = small(), images_and_spectra(dtype=torch.float32)
    model.freeze_backbones()
    contrastive_loss(*model(images, spectra)).mean().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if ".backbone." not in name}


# ---------------------------------------------------------------------------------------------- embeddings


class OnDisk:
    """What of an h5py.Dataset is used."""

    def __init__(self, array):
        self.array, self.read = array, []

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        self.read.append((rows.start, rows.stop))
        return self.array[rows]


def test_embeddings_are_deterministic_and_leave_no_trace():
    model, (images, spectra) = small(dropout=0.5), images_and_spectra()
    with torch.no_grad():
        expected = model(images.float(), spectra.float())
    model.train()
    model.spectrum_encoder.backbone.eval()
    for name, inputs, right in zip(("images", "spectra"), (images, spectra), expected, strict=True):
        embed = getattr(model, f"embed_{name}")
        for given in (inputs, inputs.numpy(), inputs.numpy().astype(">f4"[1:])):
            for batch_size in (64, 2):
                found = embed(given, batch_size=batch_size)
                assert found.dtype == torch.float32 and not found.requires_grad
                torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-5)
    modes = {name: part.training for name, part in model.named_modules()}
    assert [name for name, mode in modes.items() if not mode] == [
        name for name in modes if name.startswith("spectrum_encoder.backbone")
    ]
    with torch.no_grad():
        assert (model(images.float(), spectra.float())[0] - expected[0]).abs().max() > 0.1, "dropout is back"


def test_embeddings_are_read_in_batches_and_prepared():
    model, (images, _) = small(), images_and_spectra()
    rows = OnDisk(np.moveaxis(np.pad(images.numpy(), ((0, 0), (0, 0), (4, 4), (4, 4))), 1, 3))
    prepared = model.embed_images(
        rows, batch_size=2, prepare=lambda x: center_crop(x.permute(0, 3, 1, 2), 24)
    )
    assert rows.read == [(0, 2), (2, 4), (4, 6)]
    torch.testing.assert_close(prepared, model.embed_images(images))
    assert model.embed_images(images[:0]).shape == (0, 8)
    assert model.bfloat16().embed_images(images).dtype == torch.float32


def test_embeddings_of_bad_inputs_are_refused(published):
    model, (images, spectra) = small(), images_and_spectra()
    images[3, 1, 2, 3], spectra[4, 7] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="image 3 has values that are not finite"):
        model.train().embed_images(images, batch_size=2)
    assert model.training and model.image_encoder.mlp.training, "as it was"
    with pytest.raises(ValueError, match="spectrum 4 has values that are not finite"):
        model.embed_spectra(spectra)
    with pytest.raises(ValueError, match="the model has no weights yet"):
        published.embed_images(images)


# --------------------------------------------------------------------------------------- images: the colours


def coloured(flux):
    """One pixel of g, r, z fluxes to red, green, blue, by the formula of the viewer."""
    h = [f * scale + 0.03 for f, scale in zip(flux, (6.0, 3.4, 2.2), strict=True)]
    mean = sum(max(0.0, x) for x in h) / 3
    stretch = math.asinh(20 * mean) / math.sqrt(20) / mean if mean else 0.0
    return [min(1.0, max(0.0, x * stretch)) for x in reversed(h)]


def test_colours_are_those_of_the_viewer():
    flux = [(0, 0, 0), (0.01, 0.02, 0.05), (-0.01, -0.05, 0.2), (-1, -1, -1), (5, 7, 9), (0.3, 0.0, -0.2)]
    images = torch.tensor(flux, dtype=torch.float64).T.reshape(1, 3, 2, 3)
    expected = np.array([coloured(f) for f in flux]).T.reshape(1, 3, 2, 3)
    found = to_rgb(images)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert to_rgb(images.numpy()).equal(found)
    # Without sources the sky is grey, of 0.03 times asinh(0.6) / sqrt(20) / 0.03.
    np.testing.assert_allclose(found[0, :, 0, 0], math.asinh(0.6) / math.sqrt(20), rtol=1e-6)
    assert found[0, :, 1, 0].tolist() == [0, 0, 0] and found[0, :, 1, 1].tolist() == [1, 1, 1]


def test_planes_follow_the_bands():
    images = 0.1 * torch.rand(2, 3, 4, 4, generator=generator())
    found = to_rgb(images)
    other = to_rgb(images[:, [2, 0, 1]], bands=("z", "g", "r"))
    torch.testing.assert_close(other, found)
    scales = torch.tensor([1.5, 3.4, 1.0]).view(3, 1, 1)
    h = images * scales + astroclip_inputs.SKY_LEVEL
    mean = h.mean(1, keepdim=True)
    expected = (h * torch.asinh(20 * mean) / mean / 20**0.5).clamp(0, 1).flip(1)
    torch.testing.assert_close(to_rgb(images, bands=("u", "r", "i")), expected)


@pytest.mark.parametrize("bands", [("g", "r"), ("g", "r", "y"), ("g", "u", "z"), ("g", "r", "i", "z")])
def test_bands_without_a_colour_are_refused(bands):
    with pytest.raises(ValueError, match=re.escape(f"bands are {bands}; expected one of u, g")):
        to_rgb(torch.zeros(1, len(bands), 4, 4), bands=bands)


def test_inputs_are_central_pixels_upright():
    flux = 0.05 * torch.rand(2, 3, 152, 152, generator=generator())
    found = image_inputs(flux)
    assert found.shape == (2, 3, 144, 144)
    torch.testing.assert_close(found, to_rgb(flux[:, :, 4:148, 4:148]))
    in_file = flux.numpy().transpose(0, 3, 2, 1)  # each image .T, as exported
    assert torch.equal(image_inputs(file_images(in_file)), found)
    with pytest.raises(ValueError, match=r"shape \(2, 3, 152, 152\); expected \(N, x, y, 3\)"):
        file_images(flux)
    with pytest.raises(ValueError, match=r"shape \(3, 152, 152\); expected \(N, 3, y, x\)"):
        image_inputs(flux[0])


@pytest.mark.parametrize(("size", "first"), [(12, 0), (11, 0), (10, 1), (9, 2), (8, 2), (7, 2)])
def test_uneven_margins(size, first):
    image = torch.arange(12.0).expand(1, 1, 12, 12)
    cut = center_crop(image, size)
    assert cut.shape == (1, 1, size, size) and cut[0, 0, 0, 0] == first
    assert center_crop(image.transpose(2, 3), size)[0, 0, 0, 0] == first
    with pytest.raises(ValueError, match="images of 12 x 12 pixels; expected at least 13 x 13"):
        center_crop(image, 13)


# ------------------------------------------------------------------------------------------------- weights


class Foreign(nn.Module):
    """A class of the authors' code, with all that a pickle could run when an object of it comes back."""

    ran: ClassVar[list[str]] = []

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.options = {"a": [1, 2.5, (3,)], ("a", 1): {1, 2}, "frozen": frozenset("ab"), 7: b"x"}

    def __new__(cls):
        cls.ran.append("__new__")
        return super().__new__(cls)

    def __setstate__(self, state):
        self.ran.append("__setstate__")


class Run:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


def lightning(weights, **hyper_parameters):
    return {
        "epoch": 3,
        "state_dict": OrderedDict(weights),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "hyper_parameters": {"lr": 1e-4, **hyper_parameters},
    }


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_the_published_checkpoint_is_read_at_full_size(tmp_path, published):
    """All tensors in their full shapes, each filled with its own number, which is stored once."""
    numbers = {name: i + 1.0 for i, name in enumerate(published.state_dict())}
    weights = {
        name: torch.tensor(numbers[name]).expand(tensor.shape)
        for name, tensor in published.state_dict().items()
    }
    path = tmp_path / "astroclip.ckpt"
    torch.save(lightning(weights, image_encoder=Foreign(), spectrum_encoder=Foreign()), path)
    with pytest.raises(pickle.UnpicklingError, match="Foreign"):
        torch.load(path, weights_only=True)
    Foreign.ran.clear()
    model = published_astroclip(path)
    assert Foreign.ran == [] and not model.training
    assert sum(p.numel() for p in model.parameters()) == 370_798_358
    for name, p in model.named_parameters():
        assert p.device.type == "cpu" and p.requires_grad and p.is_leaf
        assert (p.flatten()[0], p.flatten()[-1]) == (numbers[name], numbers[name]), name


def any_tensors():
    g = generator()
    base = torch.randn(6, 5, generator=g)
    marked = torch.randn(4, generator=g)
    marked.note = "an attribute"  # with which a tensor is stored as one of a type of its own
    whole = {str(t): torch.arange(5, dtype=t) for t in (torch.uint8, torch.int8, torch.int16, torch.int32)}
    return {
        "marked": marked,
        **whole,
        "plain": base.clone(),
        "parameter": nn.Parameter(torch.randn(3, generator=g)),
        "transposed": base.T,
        "part of the same storage": base[2:4, 1:],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "whole numbers": torch.arange(5),
        "truths": torch.tensor([True, False]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "repeated": torch.tensor(2.0).expand(3, 4),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_are_those_that_torch_reads(tmp_path, protocol):
    path, tensors = tmp_path / "a.ckpt", any_tensors()
    torch.save(tensors, path, pickle_protocol=protocol)
    found = read_weights(path)
    assert_same(found, tensors)
    if protocol == 2:
        assert_same(found, torch.load(path, weights_only=True))
    assert found["transposed"].data_ptr() == found["part of the same storage"].data_ptr() - 4 * (2 * 5 + 1)


def test_layouts_of_the_three_checkpoints(tmp_path):
    model = small()
    whole = model.state_dict()
    vision, specformer = model.image_encoder.backbone, model.spectrum_encoder.backbone
    torch.save(lightning(whole, encoder=Foreign()), tmp_path / "astroclip.ckpt")
    torch.save(lightning(specformer.state_dict(), dim=12), tmp_path / "specformer.ckpt")
    teacher = {f"backbone.{name}": tensor for name, tensor in vision.state_dict().items()}
    teacher |= {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.last.weight": torch.zeros(2)}
    torch.save({"teacher": teacher}, tmp_path / "astrodino.ckpt")
    parallel = {f"module.{name}": tensor for name, tensor in teacher.items()}
    torch.save({"teacher": parallel, "student": Foreign()}, tmp_path / "parallel.pth")
    torch.save(whole, tmp_path / "plain.pt")
    safetensors.torch.save_file(whole, tmp_path / "astroclip.safetensors")
    for name, expected in {
        "astroclip.ckpt": whole,
        "specformer.ckpt": specformer.state_dict(),
        "astrodino.ckpt": vision.state_dict(),
        "parallel.pth": vision.state_dict(),
        "plain.pt": whole,
        "astroclip.safetensors": {name: whole[name] for name in sorted(whole)},
    }.items():
        found = read_weights(tmp_path / name)
        assert_same({key: found[key] for key in expected}, expected)
        assert len(found) == len(expected)

    fresh = seeded(9, small)
    with torch.no_grad():
        for p in fresh.parameters():
            p.fill_(7)
    load_weights(fresh.image_encoder.backbone, tmp_path / "astrodino.ckpt")
    load_weights(fresh.spectrum_encoder.backbone, tmp_path / "specformer.ckpt")
    assert (fresh.image_encoder.mlp.encoder.weight == 7).all()
    assert_same(fresh.image_encoder.backbone.state_dict(), vision.state_dict())
    assert_same(fresh.spectrum_encoder.backbone.state_dict(), specformer.state_dict())


@pytest.mark.parametrize("meta", [False, True])
@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_loaded_networks_give_the_embeddings_of_the_saved_one(tmp_path, meta, suffix):
    model, (images, spectra) = small(), images_and_spectra()
    path = tmp_path / f"a.{suffix}"
    half = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    torch.save(lightning(half), path) if suffix == "ckpt" else safetensors.torch.save_file(half, path)
    fresh = small(dropout=0.3)
    with torch.no_grad():
        for p in fresh.parameters():
            p.zero_()
    fresh = fresh.to("meta") if meta else fresh
    fresh.image_encoder.mlp.encoder.weight.requires_grad_(False)
    assert load_weights(fresh.train(), path) is fresh and not fresh.training
    assert {p.dtype for p in fresh.parameters()} == {torch.float32}
    assert [name for name, p in fresh.named_parameters() if not p.requires_grad] == [
        "image_encoder.mlp.encoder.weight"
    ]
    model.load_state_dict(half)
    assert torch.equal(fresh.embed_images(images), model.embed_images(images))
    assert torch.equal(fresh.embed_spectra(spectra), model.embed_spectra(spectra))


def test_weights_that_do_not_fit_are_named(tmp_path):
    model, path = small(), tmp_path / "a.ckpt"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights = {name: torch.zeros_like(tensor) for name, tensor in before.items()}
    del weights["image_encoder.mlp.decoder.weight"], weights["spectrum_encoder.mlp.decoder.bias"]
    weights["logit_scale"] = torch.tensor(2.7)
    weights["image_encoder.backbone.norm.bias"] = torch.zeros(17)
    torch.save(lightning(weights), path)
    message = (
        f"{path}: weights do not fit the network: "
        "2 missing, first image_encoder.mlp.decoder.weight (8, 32); 1 unexpected, first logit_scale (); "
        "1 of another shape, first image_encoder.backbone.norm.bias (17,), expected (16,)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_weights(model, path)
    torch.save(before | {"image_encoder.backbone.norm.bias": torch.zeros(16, dtype=torch.int64)}, path)
    with pytest.raises(
        ValueError, match=r"a\.ckpt: image_.*norm\.bias is of torch\.int64; expected floating"
    ):
        load_weights(model, path)
    assert_same(model.state_dict(), before)
    with pytest.raises(
        ValueError, match=r"a\.ckpt: weights do not fit .* missing, first cls_token \(1, 1, 16\)"
    ):
        load_weights(model.image_encoder.backbone, path)


# --------------------------------------------------------------------------------------- hostile checkpoints


def forged(path, payload, **entries):
    """A checkpoint of torch of which the pickle is `payload`, with other entries of the archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("a/data.pkl", payload)
        for name, data in {"byteorder": b"little", "data__0": bytes(16), **entries}.items():
            archive.writestr(f"a/{name.replace('__', '/')}", data)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def storage(length=4, kind="FloatStorage", key="0"):
    return b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + b"K%ctQ" % length


def tensor(offset=0, shape=b"K\x04\x85", stride=b"K\x01\x85", of=None):
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + (of or storage()) + b"K%c" % offset + shape + stride + b"\x89}tR"


def weights(value, more=b""):
    return b"\x80\x02}(" + text("w") + value + more + b"u."


def test_forged_archives_are_read_where_they_are_sound(tmp_path):
    path = forged(tmp_path / "a.ckpt", weights(tensor()), data__0=struct.pack("<4f", 1, 2, 3, 4))
    assert read_weights(path)["w"].tolist() == [1, 2, 3, 4]


def test_functions_in_a_checkpoint_do_not_run(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "a.ckpt"
    hostile = Run(os.mkdir, str(marker))
    torch.save(lightning({"w": torch.ones(2)}, scheduler=hostile, code=Run(eval, "1 / 0")), path)
    assert_same(read_weights(path), {"w": torch.ones(2)})
    torch.save(lightning({"v": torch.ones(2), "w": hostile}), path)
    with pytest.raises(ValueError, match=r"a\.ckpt: .*w is (posix|nt)\.mkdir; expected a tensor"):
        read_weights(path)
    torch.save(hostile, path)
    with pytest.raises(ValueError, match=r"a\.ckpt: .*expected a dictionary of weights"):
        read_weights(path)
    assert not marker.exists()
    with pytest.raises(ZeroDivisionError):  # as it would be with a reader that believes what it reads
        torch.save(lightning({}, code=Run(eval, "1 / 0")), path)
        torch.load(path, weights_only=False)


MARKER = text("MARKER")
MKDIR = b"cos\nmkdir\n" + MARKER + b"\x85R"
FORGED = {
    "call": (weights(MKDIR), "w is os.mkdir; expected a tensor"),
    "call of what a call returned": (weights(MKDIR + b")R"), r"w is os\.mkdir"),
    "protocol 4": (weights(text("os") + text("mkdir") + b"\x93" + MARKER + b"\x85R"), r"w is os\.mkdir"),
    "call, then state": (weights(MKDIR + b"}b"), r"w is os\.mkdir"),
    "call in the shape": (weights(tensor(shape=MKDIR)), "shape that is not of whole numbers"),
    "call in the storage": (weights(tensor(of=MKDIR)), r"w is os\.mkdir"),
    "call as an id": (weights(MKDIR + b"Q"), "other than the storage"),
    "call of a tensor": (weights(tensor() + b")R"), "calls a _Stored"),
    "call of a list": (weights(b"])R"), "calls a list"),
    "call of a type of numbers": (weights(b"ctorch\nFloatStorage\n)R"), "calls a dtype"),
    "type of tensor": (
        weights(b"ctorch._tensor\n_rebuild_from_type_v2\n(cos\nmkdir\ncos\nmkdir\n" + MARKER + b"\x85}tR"),
        "w is a tensor of another type",
    ),
    "object of a list": (weights(b"])\x81"), "makes an object of a list"),
    "INST": (weights(b"(" + MARKER + b"ios\nmkdir\n"), "INST"),
    "OBJ": (weights(b"(cos\nmkdir\n" + MARKER + b"o"), "OBJ"),
    "EXT1": (weights(b"\x82\xf0"), "EXT1"),
    "text id": (weights(b"Pstorage\n"), "PERSID"),
    "buffer": (weights(b"\x97"), "NEXT_BUFFER"),
    "items of a list": (weights(b"]" + text("a") + b"Ns"), "sets items of a list"),
    "items of a tensor": (weights(tensor() + b"(NNe"), "appends to a _Stored"),
    "negative shape": (weights(tensor(shape=b"J\xff\xff\xff\xff\x85")), "not of whole numbers"),
    "shape of truths": (weights(tensor(shape=b"\x88\x85")), "not of whole numbers"),
    "strides too few": (weights(tensor(stride=b")")), "not of whole numbers"),
    "past the end": (weights(tensor(shape=b"K\x05\x85")), r"w of shape \(5,\) reaches past the end"),
    "offset past the end": (weights(tensor(offset=1)), "reaches past the end"),
    "stride past the end": (weights(tensor(stride=b"K\x02\x85")), "reaches past the end"),
    "storage too long": (
        weights(tensor(of=storage(5), shape=b"K\x05\x85")),
        "data/0 has 16 bytes; expected 20",
    ),
    "storage too short": (weights(tensor(of=storage(4, "HalfStorage"))), "has 16 bytes; expected 8"),
    "no such storage": (weights(tensor(of=storage(key="../../etc/passwd"))), "no item named"),
    "unknown storage": (weights(tensor(of=storage(kind="QInt8Storage"))), r"w is torch\.QInt8Storage"),
    "number": (weights(b"K\x01"), "w is a int; expected a tensor"),
    "nothing": (b"\x80\x02}.", "expected a dictionary of weights"),
    "list": (b"\x80\x02].", "expected a dictionary of weights"),
    "no weights": (b"\x80\x02}" + text("state_dict") + b"]s.", "expected a dictionary of weights"),
    "no backbone": (b"\x80\x02}" + text("teacher") + b"}" + text("head.w") + tensor() + b"ss.", "backbone"),
    "deep key": (b"\x80\x02})" + 100_000 * b"\x85" + b"Ns.", "expected a dictionary of weights"),
    "deep value": (weights(b")" + 10_000 * b"\x85"), "w is a tuple"),
    "end": (weights(tensor())[:-1], "not a readable checkpoint"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_pickles_do_not_run(tmp_path, name):
    payload, message = FORGED[name]
    marker = tmp_path / "marker"
    path = forged(tmp_path / "a.ckpt", payload.replace(MARKER, text(str(marker))))
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: .*{message}"):
        read_weights(path)
    assert not marker.exists()


def test_what_only_the_code_of_others_knows_is_left_out(tmp_path):
    """Sets, byte strings, keys that are no names, and objects made in each of the ways of a pickle."""
    other = text("hyper_parameters") + b"cos\nmkdir\n" + MARKER + b"\x85\x81}b"
    other += b"(NNe" + text("a") + b"Ns" + text("b") + b"a"
    assert read_weights(forged(tmp_path / "a.ckpt", weights(tensor())))["w"].shape == (4,)
    inner = b"}" + text("w") + tensor() + b"s"
    payload = b"\x80\x04}(" + text("state_dict") + inner + other
    payload += b"K\x07N" + b")\x8f(NN\x90" + text("c") + b"(NN\x91" + b"u."
    assert list(read_weights(forged(tmp_path / "a.ckpt", payload))) == ["w"]


def test_archives_that_torch_does_not_write_are_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    with pytest.raises(FileNotFoundError, match="absent"):
        read_weights(tmp_path / "absent.ckpt")
    path.write_bytes(pickle.dumps({"w": 1}))
    with pytest.raises(ValueError, match=r"a\.ckpt: not a readable checkpoint: expected a zip archive"):
        read_weights(path)
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="expected a zip archive"):
        read_weights(path)
    with pytest.raises(ValueError, match=r"a\.ckpt: .*expected little-endian"):
        read_weights(forged(path, weights(tensor()), byteorder=b"big"))
    with pytest.raises(ValueError, match=r"expected one data\.pkl"):
        read_weights(forged(path, weights(tensor()), **{"b__data.pkl": b""}) and forged_twice(path))
    for name in ("a/data.pkl", "a/data/0"):
        with zipfile.ZipFile(path, "w") as archive:
            for entry, data in {"a/data.pkl": weights(tensor()), "a/data/0": bytes(16)}.items():
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED if entry == name else zipfile.ZIP_STORED)
        with pytest.raises(ValueError, match=f"{name} is compressed"):
            read_weights(path)
    (tmp_path / "a.safetensors").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"a\.safetensors: not a readable checkpoint"):
        read_weights(tmp_path / "a.safetensors")


def forged_twice(path):
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", b"")
    return path


def test_damaged_checkpoints_raise_nothing_else(tmp_path):
    path, rng = tmp_path / "a.ckpt", np.random.default_rng(1)
    buffer = io.BytesIO()
    torch.save(lightning({"w": torch.ones(2), "v": nn.Parameter(torch.ones(3))}, encoder=Foreign()), buffer)
    with zipfile.ZipFile(buffer) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        payload = archive.read(name)
    refused = 0
    for _ in range(300):
        damaged = bytearray(payload)
        for place in rng.integers(2, len(payload), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        try:
            read_weights(forged(path, bytes(damaged), data__1=bytes(12)))
        except ValueError as error:
            assert str(path) in str(error)
            refused += isinstance(error, UnsafePickleError)
    assert refused > 15
    whole = buffer.getvalue()
    for length in range(0, len(whole), 301):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.ckpt: not a readable checkpoint"):
            read_weights(path)
