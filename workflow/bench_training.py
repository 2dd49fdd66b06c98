"""Measure training: steps a second against a data loader, and the published network against the processor.

``make bench`` writes ``data/published/bench/training.json``, from which the book shows tables. Run by itself
with ``OMP_WAIT_POLICY=passive``, as the Makefile does: threads that spin distort times on a busy machine.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from bench import machine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate

from astro_utils.augment import Augmentation
from astro_utils.models.margformer import MargFormer
from astro_utils.models.margformer_published import PublishedMargFormer
from astro_utils.models.stamp_net import StampNet
from astro_utils.paths import project_root
from astro_utils.results import write_json
from astro_utils.training import TrainingConfig, fit, seeded

CLASSES, BANDS, SIZE, FEATURES = 3, 5, 32, 24
PUBLISHED = "published MargFormer"
#: Name to (what builds the network, the share of the objects that it is given: it may be slow).
MODELS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "MargFormer": (partial(MargFormer, n_outputs=CLASSES, n_features=FEATURES), 1.0),
    "StampNet": (partial(StampNet, n_classes=CLASSES, n_bands=BANDS, n_features=FEATURES), 1.0),
    PUBLISHED: (partial(PublishedMargFormer, n_classes=CLASSES, n_features=FEATURES, k=128), 0.5),
}
#: The published one: any angle, shifts to a tenth of the side, mirrors.
AUGMENTATION = Augmentation("any", flips=True, shift=0.1 * SIZE)

Data = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is measured: objects and batch of the loops, batch of the published network, repetitions."""

    objects: int = 4096
    batch: int = 256
    published_batch: int = 512
    square: int = 2048
    repeats: int = 3


QUICK = Sizes(objects=32, batch=8, published_batch=4, square=64, repeats=1)


def survey(n: int) -> Data:
    """Noise in the shape of `n` objects: stamps (n, 5, 32, 32), features (n, 24) and classes (n,)."""
    generator = torch.Generator().manual_seed(0)
    stamps = torch.randn(n, BANDS, SIZE, SIZE, generator=generator)
    features = torch.randn(n, FEATURES, generator=generator)
    return stamps, features, torch.randint(CLASSES, (n,), generator=generator)


def turned_and_moved(stamp: Tensor) -> Tensor:
    """Augment one stamp (bands, n, n) as chained transforms do: turn, then move, then mirror it."""
    angle = math.radians(random.uniform(-180, 180))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = (2 / SIZE * random.uniform(-AUGMENTATION.shift, AUGMENTATION.shift) for _ in range(2))
    stamp = stamp[None]
    for matrix in ([[cos, -sin, 0.0], [sin, cos, 0.0]], [[1.0, 0.0, x], [0.0, 1.0, y]]):
        grid = F.affine_grid(torch.tensor([matrix]), list(stamp.shape), align_corners=False)
        stamp = F.grid_sample(stamp, grid, align_corners=False)
    for axis in (2, 3):
        if random.random() < 0.5:
            stamp = stamp.flip(axis)
    return stamp[0]


class Objects(Dataset):
    """Objects one by one, each augmented when it is read: how training is often written, and was here."""

    def __init__(self, data: Data) -> None:
        self.stamps, self.features, self.classes = (t.numpy() for t in data)

    def __len__(self) -> int:
        return len(self.stamps)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor, int]:
        stamp = turned_and_moved(torch.from_numpy(self.stamps[i]))
        return stamp, torch.from_numpy(self.features[i]), int(self.classes[i])


def loss(model: nn.Module, batch: Data) -> Tensor:
    stamps, features, classes = batch
    return F.cross_entropy(model(stamps, features), classes, reduction="none")


def adam(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def one_step(model: nn.Module, batch: Data, optimizer, config: TrainingConfig) -> Tensor:
    """Take a training step, as :func:`astro_utils.training.fit` does."""
    with torch.autocast(batch[0].device.type, torch.bfloat16, enabled=config.bfloat16):
        mean = loss(model, batch).mean()
    optimizer.zero_grad()
    mean.backward()
    nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    return mean.detach()


def rate_of_loader(build: Callable[[], nn.Module], data: Data, config: TrainingConfig, workers: int) -> float:
    """Time the usual loop, in steps a second; workers start, and memory is found, in a step before."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = seeded(0, build).to(device).train()
    optimizer = adam(model, config)
    loader = DataLoader(
        Objects(data), config.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    for steps in (1, len(loader)):
        start, total = time.perf_counter(), 0.0
        for batch in islice(loader, steps):
            total += one_step(model, tuple(t.to(device) for t in batch), optimizer, config).item()
        seconds = time.perf_counter() - start
    return len(loader) / seconds


def rate_of_fit(build: Callable[[], nn.Module], data: Data, config: TrainingConfig) -> float:
    """Time the project's loop, in steps a second, with all that it does besides (one validation batch)."""
    for part in (config.batch_size, len(data[0])):  # the first finds memory
        train, few = (tuple(t[:n] for t in data) for n in (part, min(8, part)))
        model = seeded(0, build)
        start = time.perf_counter()
        fit(model, loss, train, few, config, augment=AUGMENTATION.of_batch)
        seconds = time.perf_counter() - start
    return -(-len(data[0]) // config.batch_size) / seconds


def compare_loops(name: str, sizes: Sizes) -> dict[str, str | int | float]:
    """Return medians of the rates of all loops for one network, measured in turns on a changing machine."""
    build, share = MODELS[name]
    data = survey(round(share * sizes.objects))
    options = {"epochs": 1, "batch_size": sizes.batch, "schedule": "constant"}
    exact, coarse = TrainingConfig(**options), TrainingConfig(**options, bfloat16=True)
    loops = {
        "fit": lambda: rate_of_fit(build, data, exact),
        "fit_bfloat16": lambda: rate_of_fit(build, data, coarse),
        "loader": lambda: rate_of_loader(build, data, exact, 0),
        "loader_2_workers": lambda: rate_of_loader(build, data, exact, 2),
    }
    runs = [{key: run() for key, run in loops.items()} for _ in range(sizes.repeats)]
    rates = {key: statistics.median(run[key] for run in runs) for key in loops}
    row = {"model": name, "parameters": sum(p.numel() for p in build().parameters())}
    row |= {"batch": sizes.batch, "objects": len(data[0]), "repeats": sizes.repeats}
    row |= {key: round(rate, 3) for key, rate in rates.items()}
    for ours in ("fit", "fit_bfloat16"):
        row |= {
            f"{ours}_over_{key}": round(rates[ours] / rates[key], 2) for key in ("loader", "loader_2_workers")
        }
    return row


def seconds_of(action: Callable[[], object], repeats: int, at_least: float = 0.2) -> float:
    """Return the median time of `action` over measurements of as many calls as last `at_least` seconds."""
    action()
    calls, times = 1, []
    while len(times) < repeats:
        start = time.perf_counter()
        for _ in range(calls):
            action()
        _finish()
        seconds = time.perf_counter() - start
        if seconds < at_least:
            calls *= 2
        else:
            times.append(seconds / calls)
    return statistics.median(times)


def _finish() -> None:
    """Wait for a GPU, which is asked for work faster than it does it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def matmul_rate(n: int, inner: int, m: int, dtype: torch.dtype, repeats: int) -> float:
    """Floating-point operations a second of (n, inner) @ (inner, m)."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = (torch.randn(*shape, device=device).to(dtype) for shape in ((n, inner), (inner, m)))
    return 2 * n * inner * m / seconds_of(lambda: a @ b, repeats)


def prepare_batches(sizes: Sizes) -> dict[str, int | float]:
    """Time what a step needs before the network: a batch picked and augmented as one or by object."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data, order = survey(sizes.objects), torch.randperm(sizes.objects)[: sizes.batch]
    objects, resident, index = Objects(data), tuple(t.to(device) for t in data), order.to(device)
    ways = {
        "fit": lambda: AUGMENTATION.of_batch(tuple(t.index_select(0, index) for t in resident)),
        "loader": lambda: default_collate([objects[i] for i in order.tolist()]),
    }
    seconds = {key: seconds_of(way, sizes.repeats) for key, way in ways.items()}
    row = {f"{key}_ms": round(1000 * value, 3) for key, value in seconds.items()}
    return {"batch": sizes.batch, **row, "ratio": round(seconds["loader"] / seconds["fit"], 2)}


def published_network(sizes: Sizes) -> dict[str, object]:
    """Time a training step of the published network, as a share of the machine's rate of matrix products.

    A step is counted as three forward passes: backward, each product has one for either factor.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = seeded(0, MODELS[PUBLISHED][0]).to(device).train()
    batch = tuple(t.to(device) for t in survey(sizes.published_batch))
    flops = {kind: 3 * count for kind, count in model.matmul_flops(sizes.published_batch).items()}
    tokens, width = model.position.shape
    layer = (sizes.published_batch * tokens, width, model.layers[0].expand.out_features)
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        config = TrainingConfig(bfloat16=dtype == torch.bfloat16)
        optimizer = adam(model, config)
        seconds = seconds_of(partial(one_step, model, batch, optimizer, config), sizes.repeats)
        row = {"type": str(dtype).removeprefix("torch."), "seconds_per_step": round(seconds, 4)}
        for name, shape in (("square", 3 * (sizes.square,)), ("layer", layer)):
            rate = matmul_rate(*shape, dtype, sizes.repeats)
            row[f"{name}_gflops"] = round(rate / 1e9, 1)
            row |= {f"{kind}_over_{name}": round(flops[kind] / (seconds * rate), 4) for kind in flops}
        rows.append(row)
    return {
        "model": PUBLISHED,
        "batch": sizes.published_batch,
        "repeats": sizes.repeats,
        "gflop_per_step": {kind: round(count / 1e9, 2) for kind, count in flops.items()},
        "square": 3 * [sizes.square],
        "layer": list(layer),
        "steps": rows,
    }


def main(argv: list[str] | None = None) -> None:
    """Measure all networks and write the tables."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument(
        "--out", type=Path, default=project_root() / "data" / "published" / "bench" / "training.json"
    )
    options = parser.parse_args(argv)
    sizes = QUICK if options.quick else Sizes()
    batches, loops = prepare_batches(sizes), []
    print(batches, flush=True)
    for name in MODELS:
        loops.append(compare_loops(name, sizes))
        print(loops[-1], flush=True)
    published = published_network(sizes)
    print(published, flush=True)
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    kind = {**machine(), "torch": torch.__version__, "threads": torch.get_num_threads(), "device": on}
    content = {"machine": kind, "batches": batches, "loops": loops, "published": published}
    print(write_json(options.out, content))


if __name__ == "__main__":
    main()
