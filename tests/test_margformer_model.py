"""Our MargFormer: it starts from photometry, patches attend to one another, and flux is kept."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn

from astro_utils.models.margformer import READS, Apertures, MargFormer
from astro_utils.models.margformer_published import PublishedMargFormer
from astro_utils.training import seeded

N_FEATURES = 7


def inputs(n=6, size=32):
    generator = torch.Generator().manual_seed(0)
    flux = 3 * torch.randn(n, 5, size, size, generator=generator)
    return torch.asinh(flux), torch.randn(n, N_FEATURES, generator=generator)


def network(seed=1, **arguments):
    arguments = {"n_outputs": 3, "n_features": N_FEATURES} | arguments
    return seeded(seed, lambda: MargFormer(**arguments)).eval()


def trained(**arguments):
    """A network as training might leave it: weights and running means of any size, none of them zero."""
    model = network(**arguments)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean += 0.1 * torch.randn(module.running_mean.shape, generator=generator)
    return model


def given(module, call):
    """What `module` is given while `call` runs."""
    seen = []
    with module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        call()
    return seen[0]


# ----------------------------------------------------------------------------------------- what it answers


@pytest.mark.parametrize("reads", READS)
@pytest.mark.parametrize("n_outputs", [2, 5])
def test_whatever_it_reads_it_answers_for_each_object(reads, n_outputs):
    model, (stamps, features) = trained(reads=reads, n_outputs=n_outputs), inputs()
    with torch.no_grad():
        answer, *parts = model(stamps, features, parts=True)
        assert torch.equal(model(stamps, features), answer)
        torch.testing.assert_close(model(stamps[2:4], features[2:4]), answer[2:4])
    assert answer.shape == (6, n_outputs) and answer.isfinite().all() and answer.std(0).gt(0).all()
    assert len(parts) == {"fusion": 2, "photometry": 0, "images": 1, "concatenation": 1}[reads]
    assert all(part.shape == (6, n_outputs) for part in parts)


@pytest.mark.parametrize("reads", READS)
def test_it_reads_what_its_name_says_and_nothing_else(reads):
    model, (stamps, features) = trained(reads=reads), inputs()
    with torch.no_grad():
        answer = model(stamps, features)
        moved = [
            (model(*other) - answer).abs().max() for other in ((stamps + 1, features), (stamps, -features))
        ]
    assert [float(m) > 1e-3 for m in moved] == [reads != "photometry", reads != "images"]
    assert [float(m) == 0 for m in moved] == [reads == "photometry", reads == "images"]


def test_parts_are_those_of_the_images_and_then_of_the_photometry():
    model, (stamps, features) = trained(), inputs()
    with torch.no_grad():
        _, images, photometry = model(stamps, features, parts=True)
        _, same_images, other_photometry = model(stamps, -features, parts=True)
        _, other_images, same_photometry = model(-stamps, features, parts=True)
    assert torch.equal(images, same_images) and torch.equal(photometry, same_photometry)
    assert (images - other_images).abs().max() > 1e-3 < (photometry - other_photometry).abs().max()


@pytest.mark.parametrize("reads", READS)
def test_all_that_is_used_is_trained_by_the_answer_and_its_parts(reads):
    model, (stamps, features) = trained(reads=reads), inputs()
    sum(part.square().sum() for part in model(stamps, features, parts=True)).backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    # Patches that ask one another have no other context to normalise, and what is merely joined has no
    # answer of the photometry's own.
    unused = r"among_patches.\d.norm_context.*" + ("|photometry_head.*" if reads == "concatenation" else "")
    assert [name for name in still if not re.fullmatch(unused, name)] == []


def test_fusion_starts_exactly_as_photometry():
    model, (stamps, features) = network(), inputs()
    with torch.no_grad():
        answer, images, photometry = model(stamps, features, parts=True)
        assert torch.equal(answer, photometry) and not torch.equal(answer, images)
        assert torch.equal(model(-stamps, features), answer)
    model.zero_grad()
    model(stamps, features).square().sum().backward()
    assert model.head.weight.grad.abs().sum() > 0, "and the image finds its voice at the first step"


def test_the_gate_lets_the_answer_of_the_image_through_in_part():
    model, (stamps, features) = trained(), inputs()
    with torch.no_grad():
        _, _, without = model(stamps, features, parts=True)
        nn.init.zeros_(model.gate.weight)
        shares = []
        for bias in (-100.0, 0.0, 100.0):
            model.gate.bias.fill_(bias)
            shares.append(model(stamps, features) - without)
    assert shares[0].abs().max() < 1e-6
    torch.testing.assert_close(shares[1], shares[2] / 2, rtol=1e-4, atol=1e-5)
    assert shares[2].abs().max() > 1e-2


# ----------------------------------------------------------------------- what the published one does not do


def far_tokens(model, stamps, block=0):
    """Tokens of patches (B, 8, 8, dim) after the first layer, and the same of what goes into it."""
    before = given(model.among_patches[block].norm, lambda: model._patches(stamps))
    after = model.among_patches[block](before)[0]
    return [x[:, :64].unflatten(1, (8, 8)) for x in (before, after)]


def test_patches_attend_to_one_another():
    """A change in one corner moves the tokens of the other corner, each in its own way.

    In a layer of the published network they would move by one and the same vector, whatever they are. The
    apertures, which see the whole stamp, are blinded.
    """
    model, (stamps, _) = trained(), inputs(2)
    with torch.no_grad():
        model.apertures.embed.weight.zero_()
        changed = stamps.clone()
        changed[:, :, :4, :4] += 3
        before, after = (far_tokens(model, x) for x in (stamps, changed))
        far = slice(5, 8)
        assert torch.equal(before[0][:, far, far], after[0][:, far, far]), "convolutions do not reach so far"
        moved = (after[1] - before[1])[:, far, far].flatten(1, 2)
        assert moved.abs().amax(2).min() > 1e-5
        spread = (moved - moved.mean(1, keepdim=True)).norm(dim=2) / moved.norm(dim=2)
        assert spread.mean() > 0.02

        published = seeded(1, lambda: PublishedMargFormer(n_classes=3)).eval().double().layers[0]
        tokens = torch.randn(2, 65, 64, generator=torch.Generator().manual_seed(3)).double()
        other = tokens.clone()
        other[:, 1] = -tokens[:, 1]
        there = [given(published.feed_norm, lambda x=x: published(x)) for x in (tokens, other)]
        theirs = (there[1] - there[0])[:, 2:]
        assert theirs.abs().amax(2).min() > 1e-5
        spread = (theirs - theirs.mean(1, keepdim=True)).norm(dim=2) / theirs.norm(dim=2)
        assert spread.max() < 1e-9


def test_without_attention_far_patches_would_not_know_of_one_another():
    model, (stamps, _) = trained(depth=1), inputs(2)
    with torch.no_grad():
        model.among_patches[0].attention.out.weight.zero_()
        changed = stamps.clone()
        changed[:, :, :4, :4] += 3
        tokens = [model._patches(x)[:, :64].unflatten(1, (8, 8)) for x in (stamps, changed)]
    assert torch.equal(tokens[0][:, 5:, 5:], tokens[1][:, 5:, 5:])
    assert not torch.equal(tokens[0][:, :1, :1], tokens[1][:, :1, :1])


@pytest.mark.parametrize("reads", ["fusion", "images", "concatenation"])
def test_twice_the_light_is_another_answer(reads):
    model, (stamps, features) = trained(reads=reads), inputs()
    flux = torch.sinh(stamps)
    with torch.no_grad():
        assert (model(torch.asinh(2 * flux), features) - model(stamps, features)).abs().max() > 0.01
        published = seeded(1, lambda: PublishedMargFormer(n_classes=3)).eval()
        theirs = [published(scale * flux, torch.zeros(6, 24)) for scale in (1, 2)]
    assert (theirs[1] - theirs[0]).abs().max() < 1e-4, "the published network does not see it"


# --------------------------------------------------------------------------------------------- where it looks


@pytest.mark.parametrize("size", [32, 20])
def test_attention_on_patches_and_apertures_sums_to_one(size):
    model, (stamps, features) = trained(size=size), inputs(size=size)
    with torch.no_grad():
        patches, apertures = model.attention(stamps, features)
    assert patches.shape == (6, 6, size // 4, size // 4) and apertures.shape == (6, 6, 5)
    torch.testing.assert_close(patches.sum((2, 3)) + apertures.sum(2), torch.ones(6, 6))
    assert (patches > 0).all() and (apertures > 0).all()


def test_attention_asks_with_the_photometry_of_the_object():
    (stamps, features), model = inputs(), trained()
    with torch.no_grad():
        there, other = (model.attention(stamps, x)[0] for x in (features, -features))
        assert (there - other).abs().max() > 1e-4
        alone = trained(reads="images")
        assert torch.equal(alone.attention(stamps, features)[0], alone.attention(stamps, -features)[0])


def test_attention_maps_are_upright():
    """Values are of no matter here: keys are the position alone, and one patch is made to be asked for."""
    model, (stamps, features) = network(tokens=1, depth=0), inputs(1)
    with torch.no_grad():
        marked = given(model.ask.norm_context, lambda: model(stamps, features))
        row, column = 2, 5
        model.ask.norm_context.register_forward_hook(
            lambda *_: (
                nn.functional.one_hot(torch.tensor([8 * row + column]), marked.shape[1])[..., None]
                * torch.ones(64)
            )
        )
        nn.init.constant_(model.ask.attention.key_value.weight, 1.0)
        nn.init.zeros_(model.ask.attention.query.weight)
        nn.init.ones_(model.ask.attention.query.bias)
        patches, apertures = model.attention(stamps, features)
    assert divmod(int(patches[0, 0].argmax()), 8) == (row, column)
    assert patches.max() > 0.99 and apertures.max() < 1e-6


# ------------------------------------------------------------------------------------------------- apertures


def gaussian(flux, sigma, size=32):
    """Stamps (B, 1, size, size) of centred Gaussian sources."""
    grid = np.arange(size) - (size - 1) / 2
    line = np.exp(-0.5 * (grid / sigma) ** 2) / np.sqrt(2 * np.pi) / sigma
    return torch.tensor(np.asarray(flux)[..., None, None] * np.outer(line, line))


def seen(apertures, flux):
    """Aperture magnitudes and colours (B, widths, 2 bands - 1) of fluxes over noise."""
    stamps = torch.asinh(flux).float()
    return given(apertures.norm, lambda: apertures(stamps)).unflatten(1, (5, -1)).double()


@pytest.mark.parametrize("sigma", [1.2, 2.0])
def test_apertures_hold_the_flux_of_a_gaussian_source(sigma):
    """Under weights exp(-r^2 / 2w^2), of unit noise, a Gaussian of flux F gives F w / sqrt(pi) / (s^2 + w^2).

    The integral of the product is F w^2 / (s^2 + w^2), and the noise under the weights sqrt(pi) w.
    """
    apertures = Apertures(n_bands=1, size=32, dim=8).eval()
    flux = np.array([0.5, 5.0, 500.0, 5e4])
    w = np.array(Apertures.WIDTHS)
    expected = flux[:, None] * w / np.sqrt(np.pi) / (sigma**2 + w**2)
    found = 2 * np.sinh(seen(apertures, gaussian(flux[:, None], sigma))[..., 0].numpy())
    # The widest weights are cut off by the edge of the stamp, at 2.3 of their standard deviations.
    np.testing.assert_allclose(found[:, :4], expected[:, :4], rtol=1e-3)
    np.testing.assert_allclose(found[:, 4], expected[:, 4], rtol=3e-3)


def test_the_noise_under_an_aperture_is_one():
    noise = torch.randn(2000, 1, 32, 32, generator=torch.Generator().manual_seed(4))
    light = 2 * torch.sinh(seen(Apertures(n_bands=1, size=32, dim=8).eval(), noise)[..., 0])
    torch.testing.assert_close(light.std(0), torch.ones(5).double(), rtol=0.06, atol=0)
    assert light.mean(0).abs().max() < 0.1


@pytest.mark.parametrize("autocast", [False, True])
def test_colours_are_exact_also_where_networks_compute_in_bfloat16(autocast):
    """Bright sources of one shape: a colour is the difference of magnitudes, the same in all apertures."""
    apertures = Apertures(n_bands=3, size=32, dim=8).eval()
    magnitudes = np.array([[0.0, 0.3, -0.8], [0.0, 0.301, -0.8]])
    flux = 1e5 * 10 ** (-0.4 * magnitudes)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        known = seen(apertures, gaussian(flux, 1.5))
    assert known.shape == (2, 5, 5)
    colours = -2.5 / np.log(10) * known[..., 3:].numpy()
    expected = np.diff(magnitudes, axis=1)[:, None].repeat(5, 1)
    np.testing.assert_allclose(colours, expected, atol=1e-4)
    lowered = torch.tensor(expected).bfloat16().double().numpy()
    assert np.abs(lowered - expected).max() > 1e-3, "bfloat16 would not tell these"


# ------------------------------------------------------------------------------------------- seeds, bad input


def test_the_seed_decides_the_weights_and_dropout_is_off_when_it_answers():
    first, again, other = network(1), network(1), network(2)
    assert all(map(torch.equal, first.parameters(), again.parameters()))
    assert not all(map(torch.equal, first.parameters(), other.parameters()))
    stamps, features = inputs()
    assert torch.equal(first(stamps, features), first(stamps, features))
    first.train()
    assert not torch.equal(first(stamps, features), first(stamps, features))


def test_a_copy_from_its_state_gives_the_same_answers():
    model, other = trained(), network(seed=5)
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(model(*inputs()), other(*inputs()))


def test_autocast_gives_close_answers_and_gradients():
    model, (stamps, features) = trained(), inputs(16)
    single = model(stamps, features)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = model(stamps, features)
    assert 0 < (lowered - single).abs().max() < 0.05 * single.std() + 0.05


@pytest.mark.parametrize("size", [30, 33])
def test_stamps_that_are_no_multiple_of_four_are_refused(size):
    with pytest.raises(ValueError, match=f"stamps of {size} x {size} pixels; expected a multiple of 4"):
        network(size=size)


def test_reading_something_else_is_refused():
    with pytest.raises(ValueError, match="reads is 'spectra'; expected one of fusion, photometry, images"):
        network(reads="spectra")
