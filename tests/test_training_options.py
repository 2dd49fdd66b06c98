"""The loop's options: augmentation, the course of the learning rate, bfloat16 and compilation."""

import math

import pytest
import torch
from torch import nn

from astro_utils.augment import Augmentation
from astro_utils.training import SCHEDULES, TrainingConfig, fit, predict, seeded

GPU = torch.cuda.is_available()


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def line(seed, n=70):
    x = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    return x, x.sum(1, keepdim=True)


TRAIN, VALIDATION = line(1), line(2, 37)


def network():
    return nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 1))


def trained(augment=None, loss=squares, **options):
    model = seeded(0, network)
    history = fit(model, loss, TRAIN, VALIDATION, TrainingConfig(batch_size=16, **options), augment=augment)
    return torch.cat([p.detach().cpu().ravel() for p in model.parameters()]), history


# ------------------------------------------------------------------------------------------ augmentation


def test_augmentation_reaches_every_training_batch_and_no_validation_batch():
    seen, before = [], [t.clone() for t in (*TRAIN, *VALIDATION)]

    def marked(batch):
        return torch.full_like(batch[0], 7.0), batch[1]

    def watched(model, batch):
        seen.append((model.training, (batch[0] == 7.0).all().item(), (batch[0] == 7.0).any().item()))
        return squares(model, batch)

    trained(marked, watched, epochs=2)
    assert seen == 2 * (5 * [(True, True, True)] + 3 * [(False, False, False)])
    assert all(torch.equal(one, other) for one, other in zip((*TRAIN, *VALIDATION), before, strict=True))


def test_objects_keep_their_labels_and_are_augmented_anew_in_every_epoch():
    seen, ones = [], torch.ones(64, 1)

    def jittered(batch):
        seen.append(batch[0] + 0.1 * torch.rand_like(batch[0]))
        return seen[-1], batch[1]

    def checked(model, batch):
        assert torch.equal(batch[0][:, 0].floor(), batch[1][:, 0])
        return model(batch[0]).square().mean(1)

    numbers = torch.arange(64.0)[:, None]
    config = TrainingConfig(epochs=2, batch_size=16)
    fit(seeded(0, lambda: nn.Linear(1, 1)), checked, (numbers, numbers), (ones, ones), config, None, jittered)
    first, second = (torch.cat(seen[i : i + 4]).flatten().sort().values for i in (0, 4))
    assert torch.equal(first.floor(), second.floor()) and not torch.equal(first, second)


def test_augmented_runs_repeat_and_depend_on_the_seed_of_the_loop():
    def jittered(batch):
        return batch[0] + 0.1 * torch.randn_like(batch[0]), batch[1]

    outcomes = [trained(jittered, epochs=2, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(*outcomes[:2]) and not torch.equal(*outcomes[1:])
    assert not torch.equal(outcomes[0], trained(epochs=2)[0])


def test_a_network_learns_that_orientation_does_not_matter():
    """Stars are in the left column in training and in the top row in validation."""
    stamps = 0.1 * torch.randn(256, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = (torch.arange(256) % 2)[:, None].float()
    stamps[labels[:, 0] == 1, 0, :, 0] += 1
    turned = torch.rot90(stamps, -1, (2, 3))
    config = TrainingConfig(epochs=8, batch_size=32, learning_rate=0.01)
    loss = {}
    for name, augment in (("plain", None), ("augmented", Augmentation("quarter").of_batch)):
        model = seeded(0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
        loss[name] = fit(
            model, squares, (stamps, labels), (turned, labels), config, None, augment
        ).validation_loss[-1]
    assert loss["augmented"] < 0.5 * loss["plain"]


# ----------------------------------------------------------------------------------------- learning rate


def travelled(schedule, epochs=10):
    """Distance of a weight under a gradient that never changes: Adam steps by the learning rate each time."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    config = TrainingConfig(
        epochs=epochs, batch_size=16, learning_rate=0.01, weight_decay=0.0, schedule=schedule, patience=100
    )
    ones = torch.ones(64, 1)
    fit(model, lambda m, b: -m(b[0])[:, 0], (ones,), (ones,), config)
    return model.weight.item()


def test_a_constant_rate_stays_and_the_cosine_warms_up_and_ends_at_zero():
    steps = 40
    assert travelled("constant") == pytest.approx(0.01 * steps, rel=1e-4)
    warm_up = [(i + 1) / 4 for i in range(4)]
    fall = [0.5 * (1 + math.cos(math.pi * i / 36)) for i in range(36)]
    assert travelled("cosine") == pytest.approx(0.01 * sum(warm_up + fall), rel=1e-4)


def test_another_schedule_is_refused():
    with pytest.raises(ValueError, match=r"schedule is 'linear'; expected one of \('cosine', 'constant'\)"):
        TrainingConfig(schedule="linear")
    assert TrainingConfig().schedule in SCHEDULES


# ---------------------------------------------------------------------------------------------- bfloat16


class Watched(nn.Module):
    """Several answers, and a record of the type that the last layer computed in."""

    def __init__(self):
        super().__init__()
        self.layers, self.seen = network(), set()

    def forward(self, x):
        answer = self.layers(x)
        self.seen.add((self.training, answer.dtype))
        return answer, {"twice": 2 * answer, "where": answer > 0, "what": "a line"}


def test_bfloat16_is_for_layers_in_training_and_validation_and_not_for_losses():
    model, answers = seeded(0, Watched), set()

    def loss(model, batch):
        one, more = model(batch[0])
        answers.update((one.dtype, more["twice"].dtype))
        assert more["where"].dtype == torch.bool and more["what"] == "a line"
        return (one + more["twice"] - 3 * batch[1]).square().mean(1)

    fit(model, loss, TRAIN, VALIDATION, TrainingConfig(epochs=1, batch_size=16, bfloat16=True))
    assert model.seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
    assert answers == {torch.float32}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad(), torch.autocast("cuda" if GPU else "cpu", torch.bfloat16):
        x = VALIDATION[0].to(next(model.parameters()).device)
        assert model(x)[0].dtype == torch.bfloat16, "the model is left without the loop's hook"


def test_the_mean_of_a_loss_in_bfloat16_is_not_rounded():
    """Of 1 and 1 + 1/128 bfloat16 would make a mean of 1."""
    values = torch.tensor([[1.0], [1.0 + 1 / 128]] * 20).bfloat16()

    def loss(model, batch):
        return batch[0][:, 0] + 0 * model(batch[1])[:, 0].bfloat16()

    data, config = (values, torch.ones(40, 3)), TrainingConfig(epochs=1, batch_size=40, bfloat16=True)
    history = fit(seeded(0, network), loss, data, data, config)
    assert history.train_loss == history.validation_loss == [1.0 + 1 / 256]


def test_the_hook_goes_also_when_training_fails():
    model = seeded(0, network)
    with pytest.raises(FloatingPointError, match="training loss"):
        fit(model, lambda m, b: m(b[0])[:, 0] * math.nan, TRAIN, VALIDATION, TrainingConfig(bfloat16=True))
    assert not model._forward_hooks


def test_bfloat16_trains_as_well():
    options = {"epochs": 20, "learning_rate": 0.03}
    (exact, history), (coarse, coarse_history) = trained(**options), trained(**options, bfloat16=True)
    assert not torch.equal(exact, coarse)
    assert coarse_history.best_loss < 0.1, "of a variance of 3"
    assert coarse_history.best_loss < 2 * history.best_loss + 0.01


def test_prediction_in_bfloat16_is_close_and_comes_as_float32():
    model = seeded(0, network).eval()
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(3))
    exact, coarse = (predict(model, x, batch_size=16, bfloat16=flag) for flag in (False, True))
    assert exact.dtype == coarse.dtype == torch.float32
    assert not torch.equal(exact, coarse)
    torch.testing.assert_close(coarse, exact, atol=0.03, rtol=0.03)


# ------------------------------------------------------------------------------------------- compilation


@pytest.mark.skipif(GPU, reason="there is a GPU, for which models are compiled")
def test_without_a_gpu_nothing_is_compiled(monkeypatch):
    plain = trained(epochs=1)
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("needs a compiler on a CPU"))
    assert torch.equal(trained(epochs=1, compile=True)[0], plain[0])


@pytest.mark.skipif(not GPU, reason="models are compiled for a GPU, and there is none")
def test_a_compiled_model_learns_the_same():
    plain, compiled = trained(epochs=3), trained(epochs=3, compile=True)
    torch.testing.assert_close(plain[0], compiled[0], atol=1e-3, rtol=1e-3)
