"""What makes a run that run: code and data, not the process it happens in; and files that are none."""

import functools
import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from astro_utils.augment import Augmentation
from astro_utils.checkpoints import fingerprint
from astro_utils.training import TrainingConfig, fit, seeded

WEIGHT = 1.0


def weighted(model, batch):
    return WEIGHT * squares(model, batch)


def squares(model, batch):
    return (model(batch[0]) - batch[1]).square().mean(1)


def closing_over(value):
    def loss(model, batch):
        return value * squares(model, batch)

    return loss


def calling_itself():
    def inner(n):
        return inner(n - 1) if n else 0

    return inner


class Linear(nn.Linear):
    """A layer whose source is here, not in torch."""


def layers(n=3, seed=0):
    return seeded(seed, lambda: nn.Sequential(Linear(3, n), nn.Linear(n, 1)))


NETWORK, WEIGHTS = layers(), torch.arange(2000.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(6), torch.zeros(2, 3)),
        (torch.zeros(3), torch.tensor([0.0, 0.0, 1e-30])),
        (torch.zeros(3).bfloat16(), torch.ones(3).bfloat16()),
        (np.zeros(3), np.array([0, 0, 1e-30])),
        ([torch.zeros(3), torch.ones(3)], [torch.ones(3), torch.zeros(3)]),
        (([1], [2, 3]), ([1, 2], [3])),
        ({"a": 1}, {"a": 2}),
        ({"a", "b"}, {"a", "c"}),
        (layers(), layers(seed=1)),
        (layers(), layers(n=4)),
        (squares, weighted),
        (closing_over(1.0), closing_over(2.0)),
        (closing_over(WEIGHTS), closing_over(WEIGHTS.index_fill(0, torch.tensor([1000]), -1))),
        (closing_over(closing_over(1)), closing_over(closing_over(2))),
        (functools.partial(squares, 1), functools.partial(squares, 2)),
        (functools.partial(squares, 1), functools.partial(weighted, 1)),
        (Augmentation("any").of_batch, Augmentation("quarter").of_batch),
        (Augmentation("any").of_batch, Augmentation("any").__call__),
        (Augmentation("any"), Augmentation("any", shift=1)),
        (TrainingConfig(), TrainingConfig(seed=1)),
        (TrainingConfig, Augmentation),
        (None, 0),
    ],
)
def test_what_differs_has_another_fingerprint(one, other):
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


def test_equal_content_has_one_fingerprint_wherever_it_lies():
    assert fingerprint(layers()) == fingerprint(layers())
    assert fingerprint(closing_over(object())) == fingerprint(closing_over(object()))
    strided = torch.arange(10.0)[::2]
    assert fingerprint(strided) == fingerprint(strided.contiguous())
    assert fingerprint(calling_itself()) == fingerprint(calling_itself())


def test_a_global_that_a_loss_reads_counts(monkeypatch):
    before, unrelated = fingerprint(weighted), fingerprint(squares)
    monkeypatch.setitem(globals(), "WEIGHT", 2.0)
    assert fingerprint(weighted) != before and fingerprint(squares) == unrelated


def test_the_source_of_the_layers_counts_also_of_inner_ones(monkeypatch):
    before, source = fingerprint(NETWORK), inspect.getsource
    here = inspect.getmodule(Linear)
    monkeypatch.setattr(inspect, "getsource", lambda thing: "# new" if thing is here else source(thing))
    assert fingerprint(NETWORK) != before


def test_another_process_finds_the_same():
    """Sets are iterated in another order there, and objects lie at other addresses."""
    code = """
import torch
from astro_utils.augment import Augmentation
from astro_utils.checkpoints import fingerprint
from astro_utils.training import fit
print(fingerprint(Augmentation("any").of_batch, fit, object(), set("abcdef"), torch.ones(3)))
"""
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = fingerprint(Augmentation("any").of_batch, fit, object(), set("abcdef"), torch.ones(3))
    assert there.strip() == here


@pytest.mark.parametrize("content", [b"", b"results of last year", {"weights": torch.ones(3)}, [1, 2]])
def test_a_file_that_is_no_checkpoint_is_named_and_kept(tmp_path, content):
    path = tmp_path / "results.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    before, data = path.read_bytes(), (torch.ones(4, 3), torch.ones(4, 1))
    with pytest.raises(ValueError, match=r"results\.pt: expected a checkpoint of training"):
        fit(layers(), squares, data, data, TrainingConfig(epochs=1), path)
    assert path.read_bytes() == before
