"""The loop: repeatable, killable, and left with the weights of its best epoch."""

import doctest
import math
from functools import partial

import pytest
import torch
from torch import nn

from astro_utils import training
from astro_utils.training import TrainingConfig, fit, predict, seeded

CONFIG = TrainingConfig(epochs=5, batch_size=16, learning_rate=0.01)


def network(dropout=0.2):
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Dropout(dropout), nn.Linear(8, 1))


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def data(seed, n=70):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return x, x.sum(1, keepdim=True) + 0.3 * torch.randn(n, 1, generator=generator)


TRAIN, VALIDATION = data(1), data(2, 37)


def weights(model):
    return torch.cat([p.detach().cpu().ravel() for p in model.parameters()])


def trained(
    config=CONFIG, loss=squares, checkpoint=None, train=TRAIN, weight_seed=0, dropout=0.2, augment=None
):
    model = seeded(weight_seed, lambda: network(dropout))
    history = fit(model, loss, train, VALIDATION, config, checkpoint, augment)
    return model.cpu(), history


def noisy(batch, sigma=0.1):
    return batch[0] + sigma * torch.randn_like(batch[0]), batch[1]


def same(one, other):
    return torch.equal(weights(one[0]), weights(other[0])) and one[1] == other[1]


class Killed:
    """A loss that is interrupted, as by Ctrl-C, when it is called for the n-th time."""

    def __init__(self, after=math.inf):
        self.calls, self.after = 0, after

    def __call__(self, model, batch):
        self.calls += 1
        if self.calls > self.after:
            raise KeyboardInterrupt
        return squares(model, batch)


def test_the_same_seeds_give_the_same_weights():
    assert same(trained(), trained())


def test_initial_weights_and_batches_have_seeds_of_their_own():
    reference = trained()
    assert not same(reference, trained(weight_seed=1))
    assert not same(reference, trained(TrainingConfig(**{**vars(CONFIG), "seed": 1})))
    # Without dropout the seed still decides the order of the batches.
    plain = [trained(TrainingConfig(**{**vars(CONFIG), "seed": s}), dropout=0.0) for s in (0, 1)]
    assert not same(*plain)


def test_the_loop_learns_a_line_and_the_learning_rate_ends_at_zero():
    config = TrainingConfig(epochs=40, batch_size=16, learning_rate=0.03, patience=40)
    _, history = trained(config, dropout=0.0)
    assert history.best_loss < 0.2, "noise of 0.3 leaves 0.09; the variance of the target is 3"
    assert len(history.train_loss) == len(history.validation_loss) == 40
    late, early = (abs(history.train_loss[i] - history.train_loss[i - 1]) for i in (-1, 2))
    assert late < 0.05 * early


def passing_by():
    """Validate on a line half as steep as the one to learn, so that the best epoch comes early."""
    x = TRAIN[0]
    slope = seeded(0, lambda: nn.Linear(3, 1, bias=False))
    nn.init.zeros_(slope.weight)
    return slope, (x, x.sum(1, keepdim=True)), (x[:30], 0.5 * x[:30].sum(1, keepdim=True))


def test_weights_of_the_best_epoch_are_restored_not_those_of_the_last(tmp_path):
    model, train, validation = passing_by()
    config = TrainingConfig(epochs=60, batch_size=16, learning_rate=0.02, patience=7)
    path = tmp_path / "checkpoint.pt"
    history = fit(model, squares, train, validation, config, path)
    losses, model = history.validation_loss, model.cpu()
    assert history.best_loss == min(losses) == losses[history.best_epoch]
    assert 0 < history.best_epoch < len(losses) - 1 and losses[-1] > 3 * history.best_loss
    assert len(losses) == history.best_epoch + 1 + config.patience, "stops when patience is over"
    with torch.no_grad():
        assert squares(model, validation).mean().item() == pytest.approx(history.best_loss, rel=1e-6)
    last = torch.load(path, map_location="cpu", weights_only=True)["model"]["weight"]
    assert not torch.equal(model.weight, last)
    assert not model.training


def test_validation_loss_is_the_mean_over_objects_not_over_batches():
    """37 objects in batches of 16 leave a last batch of 5, which must not count as much as the others."""
    model, history = trained()
    with torch.no_grad():
        assert squares(model, VALIDATION).mean().item() == pytest.approx(history.best_loss, rel=1e-5)


def test_dropout_is_on_in_training_and_off_in_validation():
    seen = []

    def watched(model, batch):
        seen.append((model.training, len(batch[0])))
        return squares(model, batch)

    trained(TrainingConfig(epochs=2, batch_size=32), watched)
    assert seen == 2 * [(True, 32), (True, 32), (True, 6), (False, 32), (False, 5)]


# An epoch has five training and three validation batches: kills come before the first checkpoint, in the
# middle of an epoch, in validation, and one call before the end.
@pytest.mark.parametrize("augment", [None, noisy], ids=["plain", "augmented"])
@pytest.mark.parametrize("after", [3, 12, 22, 39])
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path, after, augment):
    whole, path = trained(augment=augment), tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(loss=Killed(after), checkpoint=path, augment=augment)
    rest = Killed()
    assert same(trained(loss=rest, checkpoint=path, augment=augment), whole)
    assert rest.calls == 40 - 8 * (after // 8), "whole epochs are not repeated"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_run_killed_twice_and_one_that_had_ended(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for after in (10, 10):
        with pytest.raises(KeyboardInterrupt):
            trained(loss=Killed(after), checkpoint=path)
    finished = trained(loss=Killed(), checkpoint=path)
    assert same(finished, trained())
    again = Killed(after=0)
    assert same(trained(loss=again, checkpoint=path), finished) and again.calls == 0


def test_patience_is_kept_across_a_kill(tmp_path):
    config = TrainingConfig(epochs=60, batch_size=16, learning_rate=0.02, patience=7)
    outcomes = []
    for path, after in ((None, math.inf), (tmp_path / "checkpoint.pt", 40)):
        model, train, validation = passing_by()
        if path:
            with pytest.raises(KeyboardInterrupt):
                fit(model, Killed(after), train, validation, config, path)
            model, _, _ = passing_by()
        outcomes.append((model, fit(model, Killed(), train, validation, config, path)))
    assert same(*outcomes)


def noisier():
    return (TRAIN[0], TRAIN[1] + 0.1)


@pytest.mark.parametrize(
    "change",
    [
        {"config": TrainingConfig(epochs=5, batch_size=16, learning_rate=0.02)},
        {"config": TrainingConfig(epochs=5, batch_size=16, learning_rate=0.01, seed=1)},
        {"config": TrainingConfig(epochs=6, batch_size=16, learning_rate=0.01)},
        {"train": noisier()},
        {"weight_seed": 1},
        {"dropout": 0.6},
        {"augment": noisy},
        {"augment": partial(noisy, sigma=0.2)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_checkpoint_of_another_run_is_not_used(tmp_path, change):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(loss=Killed(20), checkpoint=path)
    fresh = Killed()
    assert same(trained(**change, loss=fresh, checkpoint=path), trained(**change))


def absolute(model, batch):
    return squares(model, batch).sqrt()


def test_a_checkpoint_of_another_loss_is_not_used(tmp_path):
    path = tmp_path / "checkpoint.pt"
    trained(checkpoint=path)
    assert same(trained(loss=absolute, checkpoint=path), trained(loss=absolute))


def test_checkpoint_holds_only_what_is_safe_to_load(tmp_path):
    path = tmp_path / "checkpoint.pt"
    model, history = trained(checkpoint=path)
    state = torch.load(
        path, map_location="cpu", weights_only=True
    )  # refuses anything but tensors and plain containers
    assert state["history"]["best_epoch"] == history.best_epoch
    assert torch.equal(state["best"]["0.weight"], model[0].weight)


def test_global_generator_is_left_as_it_was(tmp_path):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    model = seeded(5, network)
    fit(model, squares, TRAIN, VALIDATION, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        trained(loss=Killed(9), checkpoint=tmp_path / "checkpoint.pt")
    assert torch.equal(torch.rand(3), expected)


def test_weights_do_not_depend_on_the_global_generator():
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        models.append(trained())
    assert same(*models)


@pytest.mark.parametrize(
    ("train", "validation", "message"),
    [
        ((TRAIN[0], TRAIN[1][:-1]), VALIDATION, r"training set: tensors of lengths \[69, 70\]"),
        (TRAIN, (VALIDATION[0][:5], VALIDATION[1]), r"validation set: tensors of lengths \[5, 37\]"),
        (TRAIN, (VALIDATION[0][:0], VALIDATION[1][:0]), r"validation set: tensors of lengths \[0\]"),
    ],
)
def test_tensors_that_do_not_fit_together_are_named(train, validation, message):
    with pytest.raises(ValueError, match=message):
        fit(network(), squares, train, validation, CONFIG)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_training_loss_that_is_not_finite_stops_the_loop(value):
    def broken(model, batch):
        return squares(model, batch) * (value if model.training else 1.0)

    with pytest.raises(
        FloatingPointError, match=r"training loss is (nan|inf) in epoch 0; lower the learning"
    ):
        trained(loss=broken)


def test_a_validation_loss_that_is_never_finite_is_an_error():
    broken = (VALIDATION[0], VALIDATION[1].index_fill(0, torch.tensor([3]), math.nan))
    with pytest.raises(FloatingPointError, match="validation loss"):
        fit(seeded(0, network), squares, TRAIN, broken, CONFIG)


@pytest.mark.parametrize("batch_size", [1, 7, 50, 4096])
def test_prediction_in_batches_is_prediction_at_once(batch_size):
    model = seeded(3, network).eval()
    x, shift = data(4, 50)

    def function(x, shift):
        return model(x) + shift

    with torch.no_grad():
        direct = function(x, shift)
    got = predict(function, x, shift, batch_size=batch_size)
    torch.testing.assert_close(got, direct)
    assert not got.requires_grad


def test_the_example_of_the_module_runs():
    outcome = doctest.testmod(training)
    assert outcome.failed == 0 and outcome.attempted > 3
