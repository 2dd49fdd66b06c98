"""Measure the simulated sky: objects a second for each survey, and memory against the number of objects.

``make bench`` writes ``data/published/bench/sky.json``, from which the book shows a table. Every case runs in
a process of its own, so that memory is that case's alone; speeds are medians of three runs.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from astro_utils.paths import project_root
from astro_utils.results import write_json

SPEED_OBJECTS, REPEATS = 20_000, 3
MEMORY_OBJECTS = (5_000, 20_000, 100_000)
SURVEYS = ("sdss", "legacy", "panstarrs")


def case(survey: str, n_objects: int, workers: int) -> None:
    """Simulate in this process and print seconds and the peak memory (MB) of it and of its largest worker."""
    from astro_utils.sky.seds import load_seds
    from astro_utils.sky.simulate import Simulation, simulate

    load_seds()  # spectra are read once a session, not once an object
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        path = simulate(
            Path(folder, "sample.h5"), Simulation(n_objects=n_objects, survey=survey), workers=workers
        )
        seconds = time.perf_counter() - start
        size = path.stat().st_size / 1e6
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"seconds": seconds, "peak_mb": peak / 1024, "file_mb": size}))


def run(survey: str, n_objects: int, workers: int) -> dict[str, float]:
    """Run one case in a new process."""
    command = [sys.executable, __file__, survey, str(n_objects), str(workers)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout.strip().splitlines()[-1])


def machine() -> dict[str, str | int]:
    """Describe what the numbers were measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":", 1)[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "scipy", "GalSim", "h5py")},
    }


def main() -> None:
    """Run every case and write the table."""
    workers = os.cpu_count() or 1
    speed, memory = [], []
    for survey in SURVEYS:
        runs = [run(survey, SPEED_OBJECTS, workers) for _ in range(REPEATS)]
        seconds = statistics.median(one["seconds"] for one in runs)
        speed.append(
            {
                "survey": survey,
                "objects": SPEED_OBJECTS,
                "processes": workers,
                "seconds": round(seconds, 1),
                "objects_per_second": round(SPEED_OBJECTS / seconds),
                "file_mb": round(runs[0]["file_mb"]),
            }
        )
        print(speed[-1], flush=True)
    for n_objects in MEMORY_OBJECTS:
        one = run("sdss", n_objects, 1)
        memory.append({"objects": n_objects, "processes": 1, "peak_mb": round(one["peak_mb"])})
        print(memory[-1], flush=True)
    target = project_root() / "data" / "published" / "bench" / "sky.json"
    write_json(target, {"machine": machine(), "speed": speed, "memory": memory})
    print(target.relative_to(project_root()))


if __name__ == "__main__":
    if len(sys.argv) == 4:
        case(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
