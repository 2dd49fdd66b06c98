"""What makes a training run that run, and the file from which it goes on after it was killed."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from astro_utils.results import atomic

__all__ = ["fingerprint", "restore_checkpoint", "save_checkpoint"]


def fingerprint(*things: object) -> str:
    """Digest of code and data that decide an outcome, the same in every process.

    Functions count with their source and with the values that they are bound to, close over or find among
    the globals of their module; networks with the source of their layers and their weights; tensors and
    arrays with their content; other objects with what ``repr`` says of them.

    Parameters
    ----------
    *things : object
        For example a network, a loss, its data and the options of the loop.

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    digest, seen = hashlib.sha256(), set()
    for thing in things:
        _feed(digest, thing, seen)
    return digest.hexdigest()


def _feed(digest, thing: object, seen: set[int]) -> None:
    """Add `thing` to `digest`; functions in `seen` were added before, as one that calls itself."""
    if isinstance(thing, Tensor):
        digest.update(f"{tuple(thing.shape)} {thing.dtype}".encode())
        digest.update(thing.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    elif isinstance(thing, np.ndarray):
        digest.update(f"{thing.shape} {thing.dtype}".encode() + thing.tobytes())
    elif isinstance(thing, nn.Module):
        layers = {type(layer) for layer in thing.modules() if not type(layer).__module__.startswith("torch.")}
        sources = sorted({_source(inspect.getmodule(layer)) for layer in layers})
        parts = (*sources, repr(thing), list(thing.state_dict().values()))
        _feed(digest, parts, seen)
    elif isinstance(thing, dict):
        _feed(digest, list(thing.items()), seen)
    elif isinstance(thing, list | tuple):
        digest.update(f"{type(thing).__name__} of {len(thing)}".encode())
        for part in thing:
            _feed(digest, part, seen)
    elif isinstance(thing, set | frozenset):
        digest.update(repr(sorted(map(repr, thing))).encode())  # their own order changes between processes
    elif isinstance(thing, functools.partial):
        _feed(digest, (thing.func, thing.args, thing.keywords), seen)
    elif inspect.ismethod(thing):
        _feed(digest, (thing.__func__, thing.__self__), seen)
    elif inspect.isfunction(thing):
        if id(thing) not in seen:
            seen.add(id(thing))
            _feed(digest, (_source(thing), thing.__defaults__, thing.__kwdefaults__, _found(thing)), seen)
    elif inspect.ismodule(thing) or inspect.isbuiltin(thing):
        digest.update(thing.__name__.encode())
    elif inspect.isclass(thing):
        digest.update((thing.__qualname__ + _source(thing)).encode())
    else:
        # An address says where an object lies in this process, not what it is.
        digest.update((_source(type(thing)) + re.sub(r" at 0x[0-9a-fA-F]+", "", repr(thing))).encode())


def _found(function: object) -> dict[str, object]:
    """Values of the names that a function does not define itself; of other functions, their source only."""
    names = inspect.getclosurevars(function)
    outside = {k: _source(v) if inspect.isfunction(v) else v for k, v in names.globals.items()}
    return dict(sorted({**names.nonlocals, **outside}.items()))


def _source(thing: object) -> str:
    """Source of a function, class or module; empty where there is none, as for one typed at a prompt."""
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):
        return ""


def save_checkpoint(
    path: str | Path, mark: str, parts: Mapping[str, Any], order: torch.Generator, **more: object
) -> None:
    """Write the state of a loop, tensors and plain containers only, atomically.

    Parameters
    ----------
    path : path
    mark : str
        Fingerprint of the run.
    parts : mapping
        Name to anything with a ``state_dict``: the network, its optimizer.
    order : torch.Generator
        Of the order of the batches. The states of torch's global generators are written, too.
    **more : object
        What else to keep, under its name.
    """
    state = {
        "fingerprint": mark,
        **{name: part.state_dict() for name, part in parts.items()},
        "order": order.get_state(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all(),  # empty without a GPU
        **more,
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def restore_checkpoint(
    path: str | Path, mark: str, parts: Mapping[str, Any], order: torch.Generator, device: torch.device
) -> dict[str, Any] | None:
    """Put the state of the run whose fingerprint is `mark` back into `parts`, `order` and torch's generators.

    Returns
    -------
    dict or None
        All that was saved; None, with nothing changed, where there is no file or one of another run.

    Raises
    ------
    ValueError
        When the file is no checkpoint at all, and should not be replaced by one.
    """
    if not Path(path).is_file():
        return None
    if not zipfile.is_zipfile(path):  # torch would look for older formats of its own
        raise ValueError(f"{path}: expected a checkpoint of training; it is no zip archive")
    state = torch.load(path, map_location=device, weights_only=True)
    if not isinstance(state, dict) or "fingerprint" not in state:
        raise ValueError(f"{path}: expected a checkpoint of training; it has no fingerprint")
    if state["fingerprint"] != mark:
        return None
    for name, part in parts.items():
        part.load_state_dict(state[name])
    order.set_state(state["order"].cpu())
    torch.set_rng_state(state["random"].cpu())
    torch.cuda.set_rng_state_all([one.cpu() for one in state["random_cuda"]])
    return state
