"""The stamp that says where results come from: parameters, code, versions, data, device and time."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["commit_of", "provenance"]

PACKAGES = ("astro_utils", "astropy", "kcorrect", "numpy", "pandas", "scikit-learn", "torch")


def commit_of(root: Path) -> str:
    """Return the commit of the repository at `root`, with ``+changes`` where tracked files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a git checkout"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _device() -> str:
    """Name the accelerator, or the processor where there is none."""
    import torch  # slow to import, and a page that only reads metrics does without

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return f"CPU, {os.cpu_count()} cores ({model})"


def provenance(
    notebook: str,
    parameters: Mapping[str, Any],
    datasets: Mapping[str, str],
    commit: str,
    wall_time_s: float,
) -> dict[str, Any]:
    """Describe a run: what ran, with which parameters, code, versions, data, on what, for how long.

    Parameters
    ----------
    notebook : str
        Its path below ``notebooks/``, without the suffix, such as ``photoz/2_train``.
    parameters : mapping
        The notebook's parameters.
    datasets : mapping
        File name to SHA-256 of every input file.
    commit : str
        Of the code, when the run began.
    wall_time_s : float
        Seconds from start to finish.
    """
    return {
        "notebook": notebook,
        "parameters": dict(parameters),
        "commit": commit,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "datasets": dict(datasets),
        "device": _device(),
        "wall_time_s": round(wall_time_s, 1),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
