"""Measure the PSF: stars a second, exact and coarse, a catalogue of one field, and fits to noisy stars.

``make bench`` writes ``data/published/bench/psf.json``, from which the book shows a table. It wants a machine
of its own and ``OMP_WAIT_POLICY=active``: two threads that sleep while they wait for one another are slower
here than one alone, and threads that spin beside other work are slower still.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench import machine
from torch import Tensor

from astro_utils.models.wavediff import WaveDiff
from astro_utils.paths import project_root
from astro_utils.psf import (
    FieldInterpolator,
    FieldPsf,
    Optics,
    PupilModel,
    WavefrontField,
    aperture,
    random_field,
)
from astro_utils.psf.metrics import relative_pixel_error
from astro_utils.psf.pupil import mix
from astro_utils.psf.wavediff_training import Schedule, train
from astro_utils.results import write_json
from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.psf_fits import JOINT, OURS, WAVEDIFF, FitBudget, fit_psf
from astro_utils.starsed.psf_jobs import known_stars
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.stars import StarConfig


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Stars of a batch and batches, stars of the catalogue and of the errors, nodes, repetitions; stars of fits,
    with known spectra (`fits`) and without (`joint`), steps of a fit at most, and for WaveDiff the stars and
    the epochs of each phase. Spectra are those of the original, which need its data, or of a package.
    """

    batch: int = 8  # faster than 32 on the machines tried
    batches: int = 16
    catalogue: int = 13_000
    nodes: tuple[int, ...] = (12, 16, 22)
    errors: int = 64
    repeats: int = 9
    fits: tuple[int, ...] = (50, 200, 2000)
    joint: int = 2050
    starts: int = 3
    iterations: int = 40
    tests: int = 300
    wavediff: int = 64
    epochs: int = 2
    spectra: str = "pickles"
    exposure_nodes: int = 22


QUICK = Sizes(
    batch=2,
    batches=1,
    catalogue=300,
    nodes=(4,),
    errors=2,
    repeats=1,
    fits=(4,),
    joint=4,
    starts=1,
    iterations=1,
    tests=4,
    wavediff=32,
    spectra="stelib",
    exposure_nodes=2,
)


def stars(optics: Optics, n: int, seed: int = 0) -> tuple[np.ndarray, Tensor]:
    """Draw positions (n, 2) over the field, and spectra (n, bins) of unit sum."""
    rng = np.random.default_rng(seed)
    return rng.uniform(*optics.field_limits, (n, 2)), torch.from_numpy(rng.dirichlet(np.ones(optics.bins), n))


def seconds_of(action: Callable[[], object], repeats: int) -> float:
    """Return the median time of `action` after a first call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def relative_errors(images: Tensor, expected: Tensor) -> dict[str, float]:
    """Return the largest and the mean norm of differences of images (..., n, n), over the norm."""
    errors = (images.double() - expected).flatten(-2).norm(dim=-1) / expected.flatten(-2).norm(dim=-1)
    return {"max_error": float(errors.max()), "mean_error": float(errors.mean())}


def reference(model: PupilModel, opd: Tensor) -> Tensor:
    """Monochromatic stamps of wavefronts (B, n, n) by a plain complex matrix product in float64."""
    optics, q = model.optics, model.optics.oversampling
    side = q * optics.stamp
    k, x = (torch.arange(*ends, dtype=torch.float64) for ends in ((-side // 2, side // 2), (model.size,)))
    amplitude, stamps = torch.from_numpy(aperture(optics)), []
    for wavelength, period in zip(optics.wavelengths_um, optics.periods, strict=True):
        rows = torch.polar(torch.ones(1, dtype=torch.float64), -2 * math.pi * k[:, None] * x / period)
        field = amplitude * torch.polar(torch.ones(1, dtype=torch.float64), 2 * math.pi * opd / wavelength)
        pattern = (rows @ field @ rows.T).abs().square()  # (B, side, side)
        stamp = torch.nn.functional.avg_pool2d(pattern, q)
        stamps.append(stamp / stamp.sum((1, 2), keepdim=True))
    return torch.stack(stamps, 1)


def measure_model(optics: Optics, field: WavefrontField, coarse: int, sizes: Sizes) -> dict:
    """Time polychromatic stars of one pupil size, forward, and forward and backward to the coefficients."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = PupilModel(optics, coarse=coarse).to(device)
    n = sizes.batch * sizes.batches
    positions, sed = stars(optics, n)
    of_stars = field(positions).float().to(device), sed.float().to(device)
    batches = list(zip(*(part.split(sizes.batch) for part in of_stars), strict=True))

    def forward() -> None:
        with torch.no_grad():
            for coefficients, weights in batches:
                model.polychromatic(model.opd(coefficients), weights)

    def backward() -> None:
        for coefficients, weights in batches:
            leaf = coefficients.clone().requires_grad_()
            model.polychromatic(model.opd(leaf), weights).square().sum().backward()

    row = {"pupil": model.size, "batch": sizes.batch, "stars": n, "repeats": sizes.repeats}
    row["stars_per_second"] = round(n / seconds_of(forward, sizes.repeats), 1)
    row["stars_per_second_with_gradient"] = round(n / seconds_of(backward, sizes.repeats), 1)
    return row


def measure_errors(optics: Optics, field: WavefrontField, coarse: int, n: int) -> dict[str, float]:
    """Compare stars of a coarse pupil, or of float32, with a plain transform in float64."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, plain = PupilModel(optics, coarse=coarse).to(device), PupilModel(optics, dtype=torch.float64)
    positions, sed = stars(optics, n, seed=1)
    row: dict[str, list[Tensor]] = {"monochromatic": [], "polychromatic": []}
    expected: dict[str, list[Tensor]] = {name: [] for name in row}
    for z, weights in zip(field(positions).split(4), sed.split(4), strict=True):
        stamps = model.monochromatic(model.opd(z.to(device))).cpu()
        exact = reference(plain, plain.opd(z))
        for name, part, of in (
            ("monochromatic", stamps, exact),
            ("polychromatic", *_mixed(stamps, exact, weights)),
        ):
            row[name].append(part)
            expected[name].append(of)
    return {
        f"{name}_{key}": float(f"{value:.2e}")
        for name in row
        for key, value in relative_errors(torch.cat(row[name]), torch.cat(expected[name])).items()
    }


def _mixed(stamps: Tensor, exact: Tensor, sed: Tensor) -> tuple[Tensor, Tensor]:
    return mix(stamps, sed), mix(exact, sed)


def measure_catalogue(optics: Optics, field: WavefrontField, nodes: int, sizes: Sizes) -> dict:
    """Time a catalogue from an exact pupil, with the grid of nodes and without, and the error."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = PupilModel(optics).to(device)
    positions, sed = stars(optics, sizes.catalogue)
    start = time.perf_counter()
    interpolator = FieldInterpolator(FieldPsf(model, field), nodes)
    grid = time.perf_counter() - start
    interpolate = seconds_of(lambda: interpolator.polychromatic(positions, sed), sizes.repeats)
    errors = interpolator.errors(sizes.errors, seed=2)
    return {
        "nodes": nodes,
        "stars": sizes.catalogue,
        "seconds_of_grid": round(grid, 2),
        "seconds_of_stars": round(interpolate, 2),
        "seconds": round(grid + interpolate, 2),
        "max_error": float(f"{errors.max():.2e}"),
        "mean_error": float(f"{errors.mean():.2e}"),
    }


def observe(sizes: Sizes) -> tuple[Exposure, StarSet]:
    """Draw and observe the published recipe's stars: all that are fitted, then the tests."""
    config = StarConfig(seed=1, n_train=max(*sizes.fits, sizes.joint, sizes.wavediff), n_test=sizes.tests)
    exposure = Exposure(1, config, sizes.spectra, nodes=sizes.exposure_nodes)
    with tempfile.TemporaryDirectory() as folder:
        path = exposure.write(Path(folder, "stars.h5"), progress=False)
        return exposure, read_stars(path, slice(None))


def measure_fit(exposure: Exposure, observed: StarSet, n: int, method: str, sizes: Sizes) -> dict:
    """Time a fit to the first n stars, and compare test stars without noise with those of the telescope."""
    labels = np.full(n, -1) if method == JOINT else observed.labels[:n]
    fitted_to = known_stars(replace(observed.rows(slice(n)), labels=labels), exposure)
    budget = FitBudget(coarse=4, starts=sizes.starts, iterations=sizes.iterations)
    with tempfile.TemporaryDirectory() as folder:
        start, process = time.perf_counter(), time.process_time()
        fitted = fit_psf(method, fitted_to, exposure.optics, budget, Path(folder, "psf.safetensors"))
        seconds, process = time.perf_counter() - start, time.process_time() - process
    tests = observed.rows(exposure.rows("test"))
    positions, sed = (
        torch.from_numpy(a) for a in (tests.positions, exposure.templates.weights[tests.labels])
    )
    with torch.no_grad():
        pairs = zip(positions.split(16), sed.split(16), strict=True)
        images = torch.cat([mix(fitted.psf.monochromatic(where), weights) for where, weights in pairs])
    errors = relative_pixel_error(images, tests.noiseless)
    row = {"method": method, "stars": n, "coarse": budget.coarse, "steps": fitted.fit["steps"]}
    row |= {"seconds": round(seconds, 1), "process_seconds": round(process, 1)}
    row |= {"relative_error": round(errors["relative"], 3), "tests": len(sed)}
    if method == JOINT:
        found = fitted.fit["probabilities"].argmax(1).numpy()
        row["class_accuracy"] = round(float((found == observed.labels[:n]).mean()), 3)
    return row


def measure_wavediff(exposure: Exposure, observed: StarSet, coarse: int, sizes: Sizes) -> dict:
    """Time some hundred passes of WaveDiff, and extrapolate to the published schedule for 2,000 stars."""
    n, few, published = 2000, sizes.wavediff, Schedule.published(2000)
    some = known_stars(observed.rows(slice(few)), exposure)
    each = (sizes.epochs,) * len(published.map_epochs)
    short = replace(published, parametric_epochs=each, map_epochs=each)
    model = WaveDiff(optics=replace(exposure.optics, mask_edge=False), coarse=coarse, seed=1)
    ends = [time.perf_counter()]
    data = some.positions, some.sed, some.stamps
    train(model, *data, short, seed=1, report=lambda row: ends.append(time.perf_counter()))
    epochs = np.diff(ends).reshape(len(short.phases), sizes.epochs)[:, 1:].mean(1)  # without the first ones
    seconds = [n * phase.epochs * one / few for phase, one in zip(published.phases, epochs, strict=True)]
    return {
        "method": WAVEDIFF,
        "stars": n,
        "coarse": coarse,
        "passes_measured": short.passes(few),
        "passes_published": published.passes(n),
        "milliseconds_per_pass": [round(1000 * float(one) / few, 2) for one in epochs],
        "seconds_extrapolated": round(float(sum(seconds))),
    }


def main(argv: list[str] | None = None) -> None:
    """Measure all cases and write the tables; with ``--quick`` write nothing unless ``--out`` is given."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works")
    parser.add_argument("--out", type=Path, help="file to write")
    options = parser.parse_args(argv)
    sizes, optics = (QUICK if options.quick else Sizes()), Optics()
    field = random_field(optics, seed=1)
    models, catalogues = [], []
    for coarse in (1, 2, 4):
        row = measure_model(optics, field, coarse, sizes)
        models.append(row | measure_errors(optics, field, coarse, sizes.errors))
        print(models[-1], flush=True)
    for nodes in sizes.nodes:
        catalogues.append(measure_catalogue(optics, field, nodes, sizes))
        print(catalogues[-1], flush=True)
    exposure, observed = observe(sizes)
    cases = [(n, OURS) for n in sizes.fits] + [(sizes.joint, JOINT)]
    fits = []
    for n, method in cases:
        fits.append(measure_fit(exposure, observed, n, method, sizes))
        print(fits[-1], flush=True)
    for coarse in (4, 2):
        fits.append(measure_wavediff(exposure, observed, coarse, sizes))
        print(fits[-1], flush=True)
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    kind = {**machine(), "torch": torch.__version__, "threads": torch.get_num_threads(), "device": on}
    kind["waiting_threads"] = os.environ.get("OMP_WAIT_POLICY", "as torch chooses").lower()
    out = options.out
    if out is None and not options.quick:
        out = project_root() / "data" / "published" / "bench" / "psf.json"
    if out is not None:
        print(write_json(out, {"machine": kind, "models": models, "catalogues": catalogues, "fits": fits}))


if __name__ == "__main__":
    main()
