"""The encoder with a density head: what it answers, what it starts from, what it learns."""

from functools import partial

import pytest
import torch

from astro_utils.models.mdn import crps_loss, mixture_cdf
from astro_utils.models.redshift_former import RedshiftFormer
from astro_utils.training import TrainingConfig, fit, predict, seeded

CENTER, SCALE = 0.1, 0.05


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model(n_features=4, seed=0, **more):
    build = partial(
        RedshiftFormer, n_features=n_features, size=16, dim=16, center=CENTER, scale=SCALE, **more
    )
    return seeded(seed, build).eval()


def awake(network):
    """The same network with an image that has something to say."""
    generator = torch.Generator().manual_seed(3)
    weight = network.encoder.head.layer.weight
    with torch.no_grad():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return network


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    stamps = torch.asinh(5 * torch.rand(6, 5, 16, 16, generator=generator))
    return stamps, torch.randn(6, 4, generator=generator), 0.1 + 0.05 * torch.rand(6, generator=generator)


@pytest.mark.parametrize("reads", ["fusion", "photometry"])
def test_the_answer_is_a_mixture_in_redshift(batch, reads):
    weights, means, sigmas = model(reads=reads, components=3)(*batch[:2])
    assert weights.shape == means.shape == sigmas.shape == (6, 3)
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights > 0).all() and (sigmas > RedshiftFormer.FLOOR * SCALE).all()
    assert ((means - CENTER).abs() < 3 * SCALE).all()


def test_no_component_is_narrower_than_the_floor(batch):
    network = model(components=5)
    with torch.no_grad():
        network.encoder.photometry_head.layer.bias[10:] -= 100.0
    sigmas = network(*batch[:2])[2]
    torch.testing.assert_close(sigmas, torch.full((6, 5), RedshiftFormer.FLOOR * SCALE))


def test_center_and_scale_are_those_of_the_redshifts(batch):
    network, wide = model(), model()
    wide.center.fill_(0.25), wide.scale.fill_(3 * SCALE)
    (w, m, s), (w_wide, m_wide, s_wide) = network(*batch[:2]), wide(*batch[:2])
    torch.testing.assert_close(w_wide, w)
    torch.testing.assert_close(m_wide - 0.25, 3 * (m - CENTER))
    torch.testing.assert_close(s_wide, 3 * s)


def test_before_training_the_image_has_nothing_to_say(batch):
    stamps, features, z = batch
    network = model()
    torch.testing.assert_close(network.loss(stamps, features, z), network.loss_of_features(features, z))
    torch.testing.assert_close(network(stamps, features), network(0 * stamps, features))


def test_both_stamps_and_features_are_read(batch):
    stamps, features, _ = batch
    network = awake(model())
    means = network(stamps, features)[1]
    assert ((network(stamps.flip(0), features)[1] - means).abs() > 1e-4 * SCALE).any(1).all()
    assert ((network(stamps, features.flip(0))[1] - means).abs() > 1e-4 * SCALE).any(1).all()


def test_the_loss_is_the_crps_in_units_of_the_scale(batch):
    network = awake(model())
    expected = crps_loss(*network(*batch[:2]), batch[2]) / SCALE
    torch.testing.assert_close(network.loss(*batch), expected)


def test_while_it_trains_each_part_counts_half(batch):
    stamps, features, z = batch
    network = awake(model(dropout=0.0)).train()
    whole, *parts = network.encoder(stamps, features, parts=True)
    assert len(parts) == 2
    score = [crps_loss(*network._mixture(a), z) / SCALE for a in (whole, *parts)]
    torch.testing.assert_close(network.loss(*batch), score[0] + 0.5 * score[1] + 0.5 * score[2])


def test_features_are_trained_alone_at_first(batch):
    network = model().train()
    network.loss_of_features(*batch[1:]).mean().backward()
    moved = {name.split(".")[1] for name, p in network.named_parameters() if p.grad is not None}
    assert moved == {"photometry", "photometry_head"}


def test_views_average_over_turns_and_mirrors(batch):
    stamps, features, _ = batch
    network, grid = awake(model()), torch.linspace(0, 0.3, 31)
    one = network.cdf(stamps, features, grid)
    torch.testing.assert_close(one, mixture_cdf(*network(stamps, features), grid))
    turns = [torch.rot90(stamps, k, (2, 3)) for k in range(4)]
    four = network.cdf(stamps, features, grid, views=4)
    torch.testing.assert_close(four, sum(network.cdf(t, features, grid) for t in turns) / 4)
    mirrored = sum(network.cdf(t.flip(3), features, grid) for t in turns) / 4
    eight = network.cdf(stamps, features, grid, views=8)
    torch.testing.assert_close(eight, (four + mirrored) / 2)
    torch.testing.assert_close(eight, network.cdf(turns[1].flip(2), features, grid, views=8))
    assert (eight - one).abs().max() > 1e-4


@pytest.mark.parametrize("views", [0, 9])
def test_a_square_has_eight_views(batch, views):
    with pytest.raises(ValueError, match=f"views is {views}; a square has 1 to 8"):
        model().cdf(*batch[:2], torch.linspace(0, 1, 5), views=views)


def test_features_are_not_rounded_under_autocast(batch):
    _, features, z = batch
    network = model()
    exact = network.loss_of_features(features, z)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(network.loss_of_features(features, z), exact, rtol=1e-6, atol=1e-7)
        assert all(part.dtype == torch.float32 for part in network(*batch[:2]))
    rounded = network.encoder(*batch[:2]).bfloat16()  # as the head of the image alone answers
    assert all(part.dtype == torch.float32 for part in network._mixture(rounded))


def test_something_else_to_read_is_refused():
    with pytest.raises(ValueError, match="reads is 'images'; expected one of fusion, photometry"):
        model(reads="images")


def test_patches_add_to_features_what_only_they_know():
    """Half of the redshift is in a feature, the other half in where the light of a stamp lies."""
    generator = torch.Generator().manual_seed(0)
    n = 768
    known, hidden = torch.rand(2, n, generator=generator)
    z = 0.05 + 0.1 * known + 0.1 * hidden
    y = torch.arange(16) - 7.5
    width = (1.5 + 3 * hidden)[:, None, None]
    spots = 40 / width**2 * torch.exp(-0.5 * (y[:, None] ** 2 + y**2) / width**2)
    stamps = torch.asinh(
        spots[:, None].expand(-1, 5, -1, -1) + 0.1 * torch.randn(n, 5, 16, 16, generator=generator)
    )
    features = torch.stack([known, known**2, torch.zeros(n), torch.ones(n)], 1) * 4 - 2
    train, stop, test = (slice(0, 512), slice(512, 640), slice(640, n))
    network = model(dropout=0.0)
    config = TrainingConfig(epochs=15, batch_size=64, learning_rate=3e-3)
    data = (stamps, features, z)
    learn, held = (tuple(t[part] for t in data) for part in (train, stop))
    fit(network, lambda m, b: m.loss_of_features(*b), learn[1:], held[1:], config)
    before = network.loss_of_features(features[test], z[test]).mean()
    fit(network, lambda m, b: m.loss(*b), learn, held, config)
    after = network.loss(*(t[test] for t in data)).mean()
    assert after < 0.5 * before
    median = predict(lambda *b: network(*b)[1].mean(1), stamps[test], features[test])
    assert torch.corrcoef(torch.stack([median, z[test]]))[0, 1] > 0.9
