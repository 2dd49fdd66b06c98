"""A pytest plugin for nbval: a kernel that does not come up is started again.

``python -m pytest -p workflow.kernels --nbval-lax notebooks/sky``. A kernel that dies or stays silent at
its start (seen once, cause unknown) fails its whole notebook, and those that read its results.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

import nbval.plugin

ATTEMPTS = 3


def persistent(start: Callable, attempts: int = ATTEMPTS) -> Callable:
    """Return `start`, called again when it raises RuntimeError, `attempts` times in all."""

    @functools.wraps(start, updated=())
    def started(*args: object, **kwargs: object) -> object:
        for attempt in range(1, attempts):
            try:
                return start(*args, **kwargs)
            except RuntimeError as error:
                print(f"kernel not started ({error}); attempt {attempt} of {attempts}", file=sys.stderr)
        return start(*args, **kwargs)

    return started


def pytest_configure() -> None:
    """Let nbval start kernels persistently."""
    nbval.plugin.RunningKernel = persistent(nbval.plugin.RunningKernel)


def pytest_unconfigure() -> None:
    """Take it back."""
    nbval.plugin.RunningKernel = nbval.plugin.RunningKernel.__wrapped__
