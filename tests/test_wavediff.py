"""WaveDiff: the model, the published training, and the difference between its pupil and the truth's."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch

from astro_utils.models.wavediff import WaveDiff
from astro_utils.psf import Optics, PupilModel, WavefrontField, random_field
from astro_utils.psf.metrics import relative_pixel_error
from astro_utils.psf.wavediff_training import (
    PUBLISHED_EPOCHS,
    RectifiedAdam,
    Schedule,
    noise_weights,
    train,
)

#: A telescope of the real size on a coarser grid: a forward pass of a star takes a tenth of a millisecond.
SMALL = Optics(pupil_size=64, stamp=16, bins=3, modes=10, field_degree=2, field_grid=4)
MODEL = dataclasses.replace(SMALL, mask_edge=False)
SMALL_MODEL = {"optics": MODEL, "modes": 10, "degree": 2, "map_degree": 3}


def stars(n: int, seed: int = 0, snr: float = 1e4) -> dict:
    """Positions, spectra, noisy and true stamps of a small telescope, with true wavefronts."""
    rng = np.random.default_rng(seed)
    positions, sed = rng.uniform(0, 1000, (n, 2)), rng.dirichlet(np.ones(3), n)
    pupil, field = PupilModel(SMALL), random_field(SMALL, seed=1)
    truth = pupil.polychromatic(pupil.opd(field(positions)), torch.from_numpy(sed)).numpy()
    sigma = np.sqrt((truth**2).sum((1, 2)) / snr / 256)[:, None, None]
    noisy = truth + rng.standard_normal(truth.shape) * sigma
    return {"positions": positions, "sed": sed, "stamps": noisy, "truth": truth}


STARS = stars(40)
DATA = {name: STARS[name] for name in ("positions", "sed", "stamps")}
SHORT = Schedule((3, 3), (4, 4), batch_size=16)


@pytest.fixture(scope="module")
def published() -> WaveDiff:
    return WaveDiff(optics=Optics(mask_edge=False), seed=1)


def test_parameters_are_those_of_the_paper(published):
    shapes = {name: tuple(value.shape) for name, value in published.named_parameters()}
    assert shapes == {"coefficients": (45, 15), "features": (21, 256, 256), "mixing": (21, 21)}
    assert published.state_dict().keys() == shapes.keys()
    assert 0.0095 < published.coefficients.abs().max() <= 0.01
    assert 0.00099 < published.features.abs().max() <= 0.001
    assert abs(published.coefficients.mean()) < 0.001 and abs(published.features.mean()) < 1e-5
    assert torch.equal(published.mixing, torch.eye(21)) and published.maps


def test_maps_have_the_size_of_the_averaged_pupil():
    model = WaveDiff(**SMALL_MODEL, coarse=2)
    assert model.features.shape == (10, 32, 32)
    assert model.opd([[1.0, 2.0]]).shape == (1, 32, 32)
    assert model.monochromatic([[1.0, 2.0]]).shape == (1, 3, 16, 16)


def test_the_seed_decides_the_start():
    one, same, other = (WaveDiff(**SMALL_MODEL, seed=seed) for seed in (1, 1, 2))
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert c is other.mixing or not torch.equal(a, c)


def test_the_wavefront_is_the_published_sum():
    model = WaveDiff(**SMALL_MODEL, coarse=2, seed=3)
    with torch.no_grad():
        model.mixing.copy_(torch.randn(10, 10, generator=torch.Generator().manual_seed(0)))
    positions = DATA["positions"][:4]
    c, s, alpha, z = (v.detach().double() for v in (*model.parameters(), model.pupil.basis))
    for i, opd in enumerate(model.opd(positions)):
        x, y = positions[i] / 500 - 1
        terms = torch.tensor([1, x, y, x**2, x * y, y**2, x**3, x**2 * y, x * y**2, y**3])
        expected = sum((c[k] @ terms[:6]) * z[k] for k in range(10))
        expected = expected + sum((terms @ alpha[:, j]) * s[j] for j in range(10))
        torch.testing.assert_close(opd.double(), expected, atol=1e-7, rtol=1e-5)


def test_without_maps_it_is_a_field_of_zernike_polynomials():
    model = WaveDiff(**SMALL_MODEL, maps=False, seed=2)
    assert not model.maps
    field = WavefrontField(model.coefficients.detach())
    pupil, sed = PupilModel(MODEL), torch.from_numpy(DATA["sed"])
    with torch.no_grad():
        stamps = model(DATA["positions"], sed)
        expected = pupil.polychromatic(pupil.opd(field(DATA["positions"])), sed)
        assert (stamps - expected).abs().max() <= 1e-6 * expected.max()
        fine = model.super_resolved(DATA["positions"], sed)
        expected_fine = pupil.super_resolved(pupil.opd(field(DATA["positions"])), sed)
        assert (fine - expected_fine).abs().max() <= 1e-6 * expected_fine.max()
        model.set_maps(True)
        assert model.maps and torch.equal(model.mixing, torch.eye(10))
        assert (model(DATA["positions"], sed) - expected).abs().max() > 1e-4 * expected.max()


def test_only_the_part_in_training_changes():
    model = WaveDiff(**SMALL_MODEL, coarse=2, seed=1)
    states = [{name: value.clone() for name, value in model.state_dict().items()}]
    gradients = []

    def report(row):
        gradients.append({name for name, p in model.named_parameters() if p.requires_grad})
        if row["epoch"] == (2 if row["part"] == "parametric" else 3):
            states.append({name: value.clone() for name, value in model.state_dict().items()})

    history = train(model, **DATA, schedule=SHORT, seed=0, report=report)
    assert [(row["cycle"], row["part"], row["epoch"]) for row in history] == [
        (cycle, part, epoch)
        for cycle in (1, 2)
        for part, n in (("parametric", 3), ("maps", 4))
        for epoch in range(n)
    ]
    maps = {"features", "mixing"}
    for index, (before, after) in enumerate(itertools.pairwise(states)):
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        if index == 0:
            assert changed == {"coefficients", "mixing"} and not after["mixing"].any()  # alpha is set to 0
        else:
            assert changed == ({"coefficients"} if index == 2 else maps)
    assert gradients == 2 * (3 * [{"coefficients"}] + 4 * [maps])
    assert all(p.requires_grad for p in model.parameters())


def test_without_epochs_for_maps_the_model_stays_parametric():
    model = WaveDiff(**SMALL_MODEL, coarse=2)
    before = model.features.detach().clone()
    history = train(model, **DATA, schedule=Schedule((2, 1), (0, 0)), seed=0)
    assert {row["part"] for row in history} == {"parametric"} and len(history) == 3
    assert not model.maps and torch.equal(model.features, before)


def test_training_lowers_the_error():
    model = WaveDiff(**SMALL_MODEL, coarse=2, seed=1)
    sed = torch.from_numpy(STARS["sed"])

    def error():
        with torch.no_grad():
            return relative_pixel_error(model(STARS["positions"], sed), STARS["truth"])["relative"]

    start, after = error(), {}

    def report(row):
        after[row["cycle"], row["part"]] = row["loss"]

    history = train(
        model, **DATA, schedule=Schedule((40, 20), (60, 30), batch_size=16), seed=0, report=report
    )
    assert error() < start / 5
    assert history[-1]["loss"] < history[0]["loss"] / 25
    assert after[1, "maps"] < after[1, "parametric"]  # maps fit what Zernike polynomials leave


def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole = WaveDiff(**SMALL_MODEL, coarse=2, seed=1)
    history = train(whole, **DATA, schedule=SHORT, seed=5)

    class Killed(Exception):
        pass

    def kill(cycle, part, epoch):
        def report(row):
            if (row["cycle"], row["part"], row["epoch"]) == (cycle, part, epoch):
                raise Killed

        return report

    path = tmp_path / "run.pt"
    for when in ((1, "parametric", 1), (1, "maps", 0), (1, "maps", 2), (2, "parametric", 2), (2, "maps", 2)):
        with pytest.raises(Killed):
            train(
                WaveDiff(**SMALL_MODEL, coarse=2, seed=1),
                **DATA,
                schedule=SHORT,
                seed=5,
                checkpoint=path,
                every=2,
                report=kill(*when),
            )
    before, rows = torch.get_rng_state(), []
    parts = WaveDiff(**SMALL_MODEL, coarse=2, seed=1)
    again = train(parts, **DATA, schedule=SHORT, seed=5, checkpoint=path, every=2, report=rows.append)
    assert len(rows) == 2  # from epoch 2 of the last phase
    assert again == history
    for name, value in whole.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value), name
    assert torch.equal(torch.get_rng_state(), before)
    assert list(tmp_path.iterdir()) == [path]

    finished = WaveDiff(**SMALL_MODEL, coarse=2, seed=1)
    assert train(finished, **DATA, schedule=SHORT, seed=5, checkpoint=path, report=rows.append) == history
    assert len(rows) == 2 and torch.equal(finished.features, whole.features)
    train(finished, **DATA, schedule=Schedule((1,), (0,), (1e-2,), (1e-1,)), seed=5, checkpoint=path)
    assert not torch.equal(finished.coefficients, whole.coefficients)  # another run does not go on from it


def test_the_order_of_stars_follows_the_seed():
    def losses(seed):
        return train(WaveDiff(**SMALL_MODEL, coarse=2), **DATA, schedule=SHORT, seed=seed)[-1]["loss"]

    assert losses(1) == losses(1) != losses(2)


def test_published_schedule():
    total = sum(Schedule.published(n).passes(n) for n in PUBLISHED_EPOCHS)
    assert total == 1_557_000 and Schedule.published(2000).passes(2000) == 520_000
    first = Schedule.published(50)
    assert [(p.cycle, p.part, p.epochs, p.learning_rate) for p in first.phases] == [
        (1, "parametric", 50, 0.01),
        (1, "maps", 600, 0.1),
        (2, "parametric", 50, 0.01),
        (2, "maps", 400, 0.1),
    ]
    assert first.batch_size == 32
    assert Schedule.published(1050) == Schedule.published(1000) != Schedule.published(2000)
    alone = Schedule.published(200, maps=False)
    assert [(p.part, p.epochs) for p in alone.phases] == [("parametric", 45), ("parametric", 45)]


def gradients(n: int, scale: float) -> torch.Tensor:
    return scale * (1 + torch.randn(n, 5, generator=torch.Generator().manual_seed(0)))


def steps(optimizer_of, gradients: torch.Tensor) -> torch.Tensor:
    parameter = torch.nn.Parameter(torch.zeros(gradients.shape[1]))
    optimizer, path = optimizer_of([parameter]), []
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
        path.append(parameter.detach().clone())
    return torch.stack(path)


def test_optimizer_is_rectified_adam():
    large = gradients(60, 1.0)
    ours = steps(lambda p: RectifiedAdam(p, lr=0.01), large)
    torch.testing.assert_close(ours, steps(lambda p: torch.optim.RAdam(p, lr=0.01), large))


def test_small_gradients_are_divided_by_epsilon():
    small = torch.full((60, 1), 1e-11)
    path = steps(lambda p: RectifiedAdam(p, lr=0.1), small)
    n = 60
    length = 1999 - 2 * n * 0.999**n / (1 - 0.999**n)
    ratio = math.sqrt((length - 4) * (length - 2) * 1999 / (1995 * 1997 * length))
    last = (path[-2] - path[-1]).item()
    assert last == pytest.approx(0.1 * ratio * 1e-11 / (1e-7 + 1e-11), rel=1e-3)
    other = steps(lambda p: torch.optim.RAdam(p, lr=0.1, eps=1e-7), small)
    assert (other[-2] - other[-1]).item() < last / 3  # divides by epsilon another time


def test_maps_of_blocks_learn_as_fast_as_those_of_samples():
    changes = {}
    for coarse in (1, 2):
        model = WaveDiff(**SMALL_MODEL, coarse=coarse, maps=False)
        field = random_field(SMALL, seed=1)
        with torch.no_grad():
            model.coefficients.copy_(field.coefficients * 0.8)
            model.features.zero_()
        schedule = Schedule((0,), (12,), (1e-2,), (1e-1,), batch_size=40)
        train(model, **DATA, schedule=schedule, seed=0)
        changes[coarse] = model.features.detach()
    blocks = changes[1].unflatten(2, (32, 2)).unflatten(1, (32, 2)).mean((2, 4))
    open_blocks = PupilModel(MODEL, coarse=2).amplitude > 0.99
    one, other = blocks[:, open_blocks], changes[2][:, open_blocks]
    assert (one - other).norm() < 0.05 * one.norm()


def test_weights_follow_the_noise_and_not_the_star():
    rng = np.random.default_rng(0)
    stamps = rng.standard_normal((300, 32, 32)) * np.repeat([0.5, 1, 2], 100)[:, None, None]
    weights = noise_weights(stamps)
    assert np.median(weights) == pytest.approx(1)
    means = weights.reshape(3, 100).mean(1)
    assert means[0] / means[1] == pytest.approx(4, rel=0.1) and means[1] / means[2] == pytest.approx(
        4, rel=0.1
    )
    y, x = np.mgrid[:32, :32] - 16
    with_stars = stamps + 100 * (np.hypot(x, y) <= 10)
    np.testing.assert_array_equal(noise_weights(with_stars), weights)
    assert not np.allclose(noise_weights(stamps + 100 * (np.hypot(x, y) <= 11)), weights)


def test_the_published_pupil_mismatch(published):
    true, field, rng = PupilModel(Optics()), random_field(Optics(), seed=0), np.random.default_rng(0)
    positions, sed = rng.uniform(0, 1000, (6, 2)), torch.from_numpy(rng.dirichlet(np.ones(8), 6))
    opd = true.opd(field(positions))
    stamps, expected = published.pupil.polychromatic(opd, sed), true.polychromatic(opd, sed)
    each = [relative_pixel_error(stamps[i : i + 1], expected[i : i + 1])["relative"] for i in range(6)]
    assert 0.27 <= np.mean(each) <= 0.60 and 0.2 < min(each) and max(each) < 0.7, each  # 0.25 to 0.48


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"degree": -1}, "degree must not be negative, but is -1"),
        ({"map_degree": -2}, "map_degree must not be negative, but is -2"),
        ({"modes": 0}, "modes must be above 0, not 0"),
        ({"coarse": 3}, "coarse must be 1 or divide 32"),
    ],
)
def test_bad_models(change, match):
    with pytest.raises(ValueError, match=match):
        WaveDiff(**(SMALL_MODEL | change))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (((1, 1), (1,)), "one value a cycle"),
        (((1, -1), (1, 1)), "epochs must not be negative"),
        (((1,), (1,), (0.0,), (0.1,)), "learning rates must be above 0"),
        (((1,), (1,), (0.1,), (0.1,), 0), "batch_size must be at least 1, not 0"),
    ],
)
def test_bad_schedules(arguments, match):
    with pytest.raises(ValueError, match=match):
        Schedule(*arguments)
    with pytest.raises(ValueError, match="no schedule was published for 49 stars; expected at least 50"):
        Schedule.published(49)


def test_bad_training_data(tmp_path):
    def run(**change):
        return train(WaveDiff(**SMALL_MODEL, coarse=2), **(DATA | {"schedule": SHORT, "seed": 0} | change))

    with pytest.raises(ValueError, match=r"sed has shape \(40, 2\); expected \(40, 3\)"):
        run(sed=DATA["sed"][:, :2])
    with pytest.raises(ValueError, match=r"positions has shape \(39, 2\); expected \(40, 2\)"):
        run(positions=DATA["positions"][:39])
    with pytest.raises(ValueError, match=r"stamps has shape \(40, 15, 16\); expected \(N, 16, 16\)"):
        run(stamps=DATA["stamps"][:, 1:])
    broken = DATA["stamps"].copy()
    broken[7, 0, 0] = np.nan
    with pytest.raises(ValueError, match="stamp 7 is not finite"):
        run(stamps=broken)
    broken[7] = 0
    with pytest.raises(ValueError, match="stamp 7 has no noise far from its middle"):
        run(stamps=broken)
    with pytest.raises(ValueError, match=r"position 0 is .* expected values from 0 to 1000"):
        run(positions=DATA["positions"] + 1000)
    broken = WaveDiff(**SMALL_MODEL, coarse=2)
    broken.coefficients.data[3, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"loss is nan in epoch 0 of Phase\(cycle=1, part='param"):
        train(broken, **DATA, schedule=SHORT, seed=0)
    (tmp_path / "run.pt").write_text("no checkpoint")
    with pytest.raises(ValueError, match="expected a checkpoint of training"):
        run(checkpoint=tmp_path / "run.pt")
