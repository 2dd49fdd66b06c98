"""The measurement of training: what is compared must be the same work, and the table must hold numbers."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

SCRIPT = ROOT / "workflow" / "bench_training.py"


@pytest.fixture(scope="module")
def bench():
    """Return the script as a module; its neighbour bench.py is found as when it is run."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import bench_training
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return bench_training


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "training.json"
    command = [sys.executable, "-W", "error", str(SCRIPT), "--quick", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_table_says_what_was_measured_on_what(content, bench):
    assert set(content) == {"machine", "batches", "loops", "published"}
    assert content["machine"]["torch"] == torch.__version__ and content["machine"]["threads"] >= 1
    assert [row["model"] for row in content["loops"]] == list(bench.MODELS)
    for row in [content["batches"], *content["loops"], *content["published"]["steps"]]:
        assert all(value > 0 for value in row.values() if not isinstance(value, str))


def test_ratios_are_those_of_the_rates(content):
    for row in content["loops"]:
        for ours in ("fit", "fit_bfloat16"):
            for theirs in ("loader", "loader_2_workers"):
                assert row[f"{ours}_over_{theirs}"] == pytest.approx(row[ours] / row[theirs], abs=0.02)


def test_shares_of_the_machine_follow_from_work_time_and_rate(content):
    published = content["published"]
    work = published["gflop_per_step"]
    assert work["executed"] < work["published"]
    assert [row["type"] for row in published["steps"]] == ["float32", "bfloat16"]
    for row in published["steps"]:
        for kind, gflop in work.items():
            for shape in ("square", "layer"):
                share = gflop / (row["seconds_per_step"] * row[f"{shape}_gflops"])
                assert row[f"{kind}_over_{shape}"] == pytest.approx(share, rel=0.1)


def test_objects_one_by_one_are_those_of_the_set_turned_and_moved(bench, monkeypatch):
    data = bench.survey(5)
    objects = bench.Objects(data)
    assert not torch.equal(objects[3][0], data[0][3])
    assert torch.equal(torch.from_numpy(objects.stamps), data[0]), "the data themselves are left as they are"
    monkeypatch.setattr(bench.random, "uniform", lambda low, high: 0.0)
    monkeypatch.setattr(bench.random, "random", lambda: 0.9)
    stamp, features, label = objects[3]
    torch.testing.assert_close(stamp, data[0][3], rtol=0, atol=1e-5)
    assert torch.equal(features, data[1][3]) and label == data[2][3]
    monkeypatch.setattr(bench.random, "random", lambda: 0.1)
    torch.testing.assert_close(objects[3][0], data[0][3].flip(1, 2), rtol=0, atol=1e-5)


def test_a_rate_is_work_over_time(bench, monkeypatch):
    """A product of (4, 8) and (8, 2) is 2 * 4 * 8 * 2 operations; say that it takes a quarter of a second."""
    monkeypatch.setattr(
        bench, "seconds_of", lambda action, repeats: 0.25 if action().shape == (4, 2) else None
    )
    assert bench.matmul_rate(4, 8, 2, torch.float32, 1) == 128 / 0.25


def test_the_time_of_a_call_does_not_depend_on_how_many_are_timed(bench, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[0])
    calls = []

    def action():
        calls.append(1)
        clock[0] += 0.03

    assert bench.seconds_of(action, repeats=3) == pytest.approx(0.03)
    assert len(calls) == 1 + 1 + 2 + 4 + 3 * 8, "one to warm up, then twice as many until they last 0.2 s"


def test_the_loop_that_is_compared_learns_like_ours(bench):
    """One step of plain gradient on the same batch leaves both with the same weights."""
    config = bench.TrainingConfig(epochs=1, batch_size=16, schedule="constant")
    data = bench.survey(16)
    build = bench.partial(torch.nn.Linear, bench.FEATURES, bench.CLASSES)

    class Photometry(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = build()

        def forward(self, stamps, features):
            return self.layer(features)

    ours, theirs = (bench.seeded(0, Photometry) for _ in range(2))
    bench.fit(ours, bench.loss, data, data, config)
    device = next(ours.parameters()).device
    theirs.to(device)
    batch = tuple(t.to(device) for t in data)
    mean = bench.one_step(theirs, batch, bench.adam(theirs, config), config)
    assert math.isfinite(mean.item())
    np.testing.assert_allclose(
        ours.layer.weight.detach().cpu(), theirs.layer.weight.detach().cpu(), rtol=1e-5, atol=1e-7
    )
