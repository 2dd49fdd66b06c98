"""Augmented stamps: the same sky seen in another orientation, each object in its own."""

import doctest
import math

import pytest
import torch

from astro_utils import augment
from astro_utils.augment import ROTATIONS, Augmentation, permute_stamps, rotate_stamps

MODES = [Augmentation("any", shift=3.2), Augmentation("quarter", shift=3), Augmentation("none", shift=3)]


def noise(n=6, bands=5, size=32, seed=0):
    return torch.randn(n, bands, size, size, generator=torch.Generator().manual_seed(seed))


def gaussian(sigma_y, sigma_x, size=33, y=0.0, x=0.0):
    """A stamp (1, 1, size, size) with a source of unit peak at (y, x) pixels from the centre."""
    side = torch.arange(size) - (size - 1) / 2
    return torch.exp(-0.5 * (((side[:, None] - y) / sigma_y) ** 2 + ((side - x) / sigma_x) ** 2))[None, None]


def centroid(image):
    """Mean (row, column) of one stamp, in pixels from its centre."""
    side = torch.arange(image.shape[-1]) - (image.shape[-1] - 1) / 2
    flux = image.sum()
    return (image.sum(-1) * side).sum() / flux, (image.sum(-2) * side).sum() / flux


def dihedral(image):
    """Return the eight orientations of a stamp, by torch's own flips and turns."""
    return [torch.rot90(start, k, (-2, -1)) for start in (image, image.flip(-1)) for k in range(4)]


def numbers(*values):
    return torch.tensor(values)


NO_SHIFT = torch.zeros(1, 2)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_no_turn_and_no_shift_change_no_bit(size):
    images = noise(size=size)
    none = torch.zeros(6, dtype=torch.long)
    assert torch.equal(rotate_stamps(images, torch.zeros(6), none, torch.zeros(6, 2)), images)
    assert torch.equal(permute_stamps(images, none, none), images)
    assert torch.equal(permute_stamps(images, none, none, none[:, None].expand(-1, 2)), images)
    assert torch.equal(Augmentation("none", flips=False)(images), images)


def test_sizes_that_are_no_power_of_two_are_kept_to_rounding():
    images = noise(size=33)
    same = rotate_stamps(images, torch.zeros(6), torch.zeros(6), torch.zeros(6, 2))
    torch.testing.assert_close(same, images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [0, 1])
def test_quarter_turns_are_those_of_torch_with_and_without_interpolation(turns, mirror):
    images = noise(n=1)
    expected = dihedral(images)[4 * mirror + turns]
    assert torch.equal(permute_stamps(images, numbers(turns), numbers(mirror)), expected)
    turned = rotate_stamps(images, numbers(turns * math.pi / 2), numbers(mirror), NO_SHIFT)
    torch.testing.assert_close(turned, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirror", [0, 1])
def test_an_eighth_of_a_turn_goes_the_same_way_as_a_quarter(mirror):
    start, mirror = gaussian(1.5, 1.5, y=8.0), numbers(mirror)
    y, x = centroid(rotate_stamps(start, numbers(math.pi / 4), mirror, NO_SHIFT))
    ahead = centroid(permute_stamps(start, numbers(1), mirror))
    assert ahead == (pytest.approx(0.0, abs=1e-3), pytest.approx(8.0, abs=1e-2))
    assert (y, x) == (pytest.approx(8 / math.sqrt(2), abs=0.01), pytest.approx(8 / math.sqrt(2), abs=0.01))


def test_shifts_are_along_rows_and_columns_after_the_turn():
    start = gaussian(1.5, 1.5, y=5.0)
    for function, angle, scale in ((rotate_stamps, math.pi / 2, 1.25), (permute_stamps, 1, 1)):
        shift = torch.tensor([[3, -4]]) * scale
        moved = function(start, numbers(angle), numbers(0), shift if scale != 1 else shift.long())
        assert centroid(moved[0, 0]) == (
            pytest.approx(3 * scale, abs=0.01),
            pytest.approx(5 - 4 * scale, abs=0.01),
        )


def test_what_comes_from_beyond_the_edge_is_zero_even_where_pixels_are_not_numbers():
    images = torch.ones(1, 2, 8, 8)
    images[:, :, 0] = math.nan
    moved = permute_stamps(images, numbers(0), numbers(0), torch.tensor([[2, 3]]))
    expected = torch.zeros(1, 2, 8, 8)
    expected[:, :, 2, 3:] = math.nan
    expected[:, :, 3:, 3:] = 1.0
    torch.testing.assert_close(moved, expected, equal_nan=True, atol=0, rtol=0)
    ones = rotate_stamps(torch.ones(1, 1, 8, 8), torch.zeros(1), torch.zeros(1), torch.tensor([[2.0, 0.0]]))
    assert ones[0, 0, :, 0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_rearranging_conserves_flux_and_every_pixel_value():
    images = noise(n=64)
    turned = Augmentation("quarter")(images)
    assert not torch.equal(turned, images)
    assert torch.equal(turned.flatten(2).sort(2).values, images.flatten(2).sort(2).values)


@pytest.mark.parametrize("degrees", [-170.0, -45.0, 10.0, 33.0, 91.0])
def test_rotation_conserves_the_flux_and_turns_the_shape_of_a_galaxy(degrees):
    start = gaussian(4.0, 2.0, size=48)
    turned = rotate_stamps(start, numbers(math.radians(degrees)), numbers(0), NO_SHIFT)
    assert turned.sum().item() == pytest.approx(start.sum().item(), rel=2e-3)
    side = torch.arange(48) - 23.5
    cross = (turned[0, 0] * side[:, None] * side).sum() / turned.sum()
    # Second moments rotate: the cross term is half the difference of variances times sin of twice the angle.
    assert cross.item() == pytest.approx(
        0.5 * (4.0**2 - 2.0**2) * math.sin(math.radians(2 * degrees)), abs=0.1
    )


def test_interpolation_leaves_four_ninths_of_the_variance_of_noise():
    """Bilinear weights (1 - f, f) square to 1 - 2 f + 2 f^2 on each axis, 2/3 on average over f."""
    torch.manual_seed(0)
    images = noise(n=200, bands=1)
    turned = Augmentation("any", shift=1.0)(images)[:, :, 8:24, 8:24]
    assert turned.var().item() == pytest.approx(4 / 9, abs=0.015)
    assert Augmentation("quarter")(images).var().item() == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("rotation", "flips", "expected"),
    [
        ("quarter", True, range(8)),
        ("quarter", False, range(4)),
        ("none", True, (0, 2, 4, 6)),
        ("none", False, (0,)),
    ],
)
def test_every_orientation_occurs_equally_often(rotation, flips, expected):
    torch.manual_seed(1)
    n, one = 1600, noise(n=1, bands=2, size=8)
    turned = Augmentation(rotation, flips)(one.expand(n, -1, -1, -1))
    counts = [(turned == orientation).flatten(1).all(1).sum().item() for orientation in dihedral(one)]
    assert sum(counts) == n, "nothing but exact orientations"
    assert {i for i, count in enumerate(counts) if count} == set(expected)
    even = n / len(expected)
    assert all(abs(counts[i] - even) <= 5 * math.sqrt(even) for i in expected)


def test_angles_and_shifts_fill_their_ranges():
    torch.manual_seed(2)
    n = 2000
    at = torch.stack([torch.stack(centroid(s[0])) for s in Augmentation("any")(_off_centre(n))])
    angles = torch.atan2(at[:, 0], at[:, 1])
    assert torch.histc(angles, 8, -math.pi, math.pi).min() > n / 8 - 5 * math.sqrt(n / 8)
    most = 3.2
    moved = Augmentation("any", shift=most)(gaussian(1.0, 1.0).expand(n, -1, -1, -1))
    at = torch.stack([torch.stack(centroid(s[0])) for s in moved])
    assert at.abs().max().item() == pytest.approx(most, abs=0.05)
    assert torch.histc(at, 8, -most, most).min() > n / 4 - 5 * math.sqrt(n / 4)
    moved = Augmentation("none", flips=False, shift=2)(gaussian(1.0, 1.0).expand(n, -1, -1, -1))
    at = torch.stack([torch.stack(centroid(s[0])) for s in moved])
    assert torch.histc(at, 5, -2.5, 2.5).min() > 2 * n / 5 - 5 * math.sqrt(2 * n / 5)
    torch.testing.assert_close(at, at.round(), atol=1e-3, rtol=0)


def _off_centre(n):
    return gaussian(1.0, 1.0, y=3.0, x=1.0).expand(n, -1, -1, -1)


@pytest.mark.parametrize("augmentation", MODES, ids=lambda a: a.rotation)
def test_objects_are_moved_independently_and_their_bands_together(augmentation):
    torch.manual_seed(3)
    one = noise(n=1, bands=1)
    turned = augmentation(one.expand(40, 3, -1, -1))
    assert torch.equal(turned[:, 0], turned[:, 1]) and torch.equal(turned[:, 0], turned[:, 2])
    assert len({tuple(stamp.flatten().tolist()) for stamp in turned[:, 0]}) > 30


@pytest.mark.parametrize("augmentation", MODES, ids=lambda a: a.rotation)
def test_a_seed_repeats_the_augmentation_of_either_generator(augmentation):
    images, outcomes = noise(), []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        outcomes.append(augmentation(images))
    assert torch.equal(*outcomes[:2]) and not torch.equal(*outcomes[1:])
    state = torch.get_rng_state()
    own = [augmentation(images, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5)]
    assert torch.equal(*own[:2]) and not torch.equal(*own[1:])
    assert torch.equal(torch.get_rng_state(), state), "a generator of one's own leaves torch's alone"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("augmentation", MODES, ids=lambda a: a.rotation)
def test_type_shape_and_input_are_kept(augmentation, dtype):
    images = noise().to(dtype)
    before = images.clone()
    turned = augmentation(images)
    assert turned.dtype == dtype and turned.shape == images.shape
    assert torch.equal(images, before)


def test_angles_keep_their_precision_where_the_network_does_not():
    images, angle = noise(), torch.full((6,), 1.234)
    exact = rotate_stamps(images, angle, torch.zeros(6), torch.zeros(6, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate_stamps(images, angle, torch.zeros(6), torch.zeros(6, 2)), exact)
    coarse = rotate_stamps(images.bfloat16(), angle, torch.zeros(6), torch.zeros(6, 2))
    torch.testing.assert_close(coarse.float(), exact, atol=0.03, rtol=0)


def test_only_the_stamps_of_a_batch_are_augmented():
    batch = noise(), torch.rand(6, 24), torch.arange(6)
    images, features, labels = Augmentation("quarter").of_batch(batch)
    assert not torch.equal(images, batch[0])
    assert features is batch[1] and labels is batch[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rotation": "half"}, r"rotation is 'half'; expected one of \('any', 'quarter', 'none'\)"),
        ({"shift": -1}, "shift is -1 pixels; expected zero or more"),
        ({"shift": math.nan}, "shift is nan pixels"),
        ({"shift": math.inf}, "shift is inf pixels"),
        (
            {"rotation": "quarter", "shift": 0.5},
            "shift is 0.5 pixels; rotation 'quarter' does not interpolate",
        ),
    ],
)
def test_options_that_make_no_sense_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("shape", [(2, 5, 32, 30), (5, 32, 32)])
def test_stamps_that_are_not_square_are_refused(rotation, shape):
    with pytest.raises(ValueError, match=rf"stamps of shape \({', '.join(map(str, shape))}\); expected"):
        Augmentation(rotation)(torch.zeros(shape))


def test_the_example_of_the_module_runs():
    outcome = doctest.testmod(augment)
    assert outcome.failed == 0 and outcome.attempted > 2
