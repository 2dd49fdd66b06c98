"""The small network on stamps, features or both: shapes, what it reads, and that it learns."""

import pytest
import torch

from astro_utils.models.stamp_net import StampNet, scaled_stamps


def inputs(n=6, bands=5, features=24, size=32):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, bands, size, size, generator=generator),
        torch.randn(n, features, generator=generator),
    )


def network(**arguments):
    torch.manual_seed(1)
    return StampNet(**{"n_classes": 3, "width": 8} | arguments)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(("bands", "size"), [(5, 32), (3, 64), (1, 16), (5, 8)])
def test_logits_have_one_number_for_each_class(n_classes, bands, size):
    images, features = inputs(bands=bands, size=size)
    branches = {"n_bands": bands, "size": size}
    assert network(n_classes=n_classes, **branches)(images).shape == (6, n_classes)
    assert network(n_classes=n_classes, n_features=24)(features).shape == (6, n_classes)
    assert network(n_classes=n_classes, n_features=24, **branches)(images, features).shape == (6, n_classes)


def test_each_branch_is_read():
    images, features = inputs()
    joint = network(n_bands=5, n_features=24).eval()
    with torch.no_grad():
        base = joint(images, features)
        assert not torch.allclose(base, joint(images + 1, features))
        assert not torch.allclose(base, joint(images, features + 1))


def test_objects_are_judged_each_on_its_own():
    images, features = inputs()
    joint = network(n_bands=5, n_features=24).eval()
    with torch.no_grad():
        torch.testing.assert_close(joint(images, features)[2:4], joint(images[2:4], features[2:4]))


def test_every_parameter_is_trained():
    joint = network(n_bands=5, n_features=24)
    torch.nn.functional.cross_entropy(joint(*inputs()), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in joint.parameters())


@pytest.mark.parametrize("hidden", ["stamps", "features"])
def test_it_learns_what_only_one_branch_shows(hidden):
    """Classes differ in the brightness of the middle of the stamp, or in one feature."""
    generator = torch.Generator().manual_seed(2)
    label = torch.arange(64) % 2
    images, features = (
        torch.randn(64, 2, 16, 16, generator=generator),
        torch.randn(64, 4, generator=generator),
    )
    if hidden == "stamps":
        images[:, :, 6:10, 6:10] += 2.0 * label[:, None, None, None]
    else:
        features[:, 2] += 4.0 * label
    model = network(n_classes=2, n_bands=2, n_features=4, size=16)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images, features), label).backward()
        optimiser.step()
    model.eval()
    with torch.no_grad():
        assert (model(images, features).argmax(1) == label).float().mean() > 0.95


def test_the_seed_decides_the_weights():
    first, second = network(n_features=24), network(n_features=24)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_scaled_stamps_keep_sign_and_order_and_bound_bright_pixels():
    images = torch.tensor([-1e3, -0.1, 0.0, 0.1, 1e3]).reshape(1, 1, 1, 5)
    scaled = scaled_stamps(images, torch.tensor([0.1])).flatten()
    assert (scaled.diff() > 0).all() and scaled[2] == 0
    torch.testing.assert_close(scaled, -scaled.flip(0))
    # Linear below the noise, logarithmic above.
    assert scaled[3].item() == pytest.approx(0.8814, abs=1e-3) and 9 < scaled[4].item() < 10.5


def test_noise_is_that_of_the_survey_or_of_each_object():
    images = inputs(n=4, bands=3)[0]
    per_band = torch.tensor([0.1, 0.2, 0.4])
    torch.testing.assert_close(scaled_stamps(images, per_band), scaled_stamps(images, per_band.expand(4, 3)))
    expected = torch.asinh(images[1, 2] / 0.4)
    torch.testing.assert_close(scaled_stamps(images, per_band)[1, 2], expected)


def test_nothing_to_read_is_an_error():
    with pytest.raises(ValueError, match="neither bands nor features"):
        StampNet(n_classes=2)


@pytest.mark.parametrize("size", [4, 20, 33])
def test_stamps_that_do_not_halve_three_times_are_refused(size):
    with pytest.raises(ValueError, match=f"stamps of {size} x {size} pixels; expected a multiple of 8"):
        StampNet(n_classes=2, n_bands=5, size=size)


def test_inputs_must_be_as_many_as_branches():
    images, features = inputs()
    with pytest.raises(ValueError, match="1 inputs for 2 branches"):
        network(n_bands=5, n_features=24)(images)
    with pytest.raises(ValueError, match="2 inputs for 1 branches"):
        network(n_features=24)(images, features)
