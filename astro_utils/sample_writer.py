"""Large samples, made in parallel and safe against interruption, with the same bytes in any case.

A sample is made in shards, each by one call of a function that depends on nothing but the shard's number::

    write_sharded("sample.h5", make_block, n_shards=1000, info=info, key={"limit": 22.0}, workers=16)

Finished shards are kept in the folder ``sample.h5.shards``, each a sample of its own. The same call after an
interruption makes those that are missing or damaged, joins all in order and removes the folder. One thread
per process makes the numbers: sums over several threads are rounded differently from run to run.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from astro_utils.results import atomic
from astro_utils.sample_blocks import sample_file
from astro_utils.sample_check import validate
from astro_utils.sample_format import VERSION, Block, SampleError, SampleInfo
from astro_utils.sample_reader import open_sample

__all__ = ["one_thread", "write_sharded"]

_KEY_FILE = "request.json"


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit BLAS, OpenMP and torch to one thread; a context, or a decorator as ``@one_thread()``."""
    torch = sys.modules.get("torch")  # not imported here: whoever computes with it has imported it
    before = torch.get_num_threads() if torch else 1
    with threadpool_limits(limits=1):
        try:
            if torch:
                torch.set_num_threads(1)
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def _start_worker() -> None:
    """Prepare a process that makes shards."""
    # For libraries that are loaded later, when a shard is made.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A pool's workers outlive a parent that is killed, and would go on beside the run that is started next.
    threading.Thread(target=end_with_parent, daemon=True).start()


@dataclass(frozen=True)
class _ShardMaker:
    """What a worker does: leave a shard's file in the folder, unless a whole one is there."""

    make_block: Callable[[int], Block]
    folder: Path
    info: SampleInfo
    request: str

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.h5"

    def __call__(self, shard: int) -> None:
        if self._is_whole(self.path(shard)):
            return
        try:
            with one_thread():
                block = self.make_block(shard)
            if not isinstance(block, Block):
                raise SampleError(f"make_block returned a {type(block).__name__}; expected a Block")
            with sample_file(self.path(shard), self.info, self.request) as sample:
                sample.append(block)
        except Exception as error:
            raise SampleError(f"shard {shard}: {type(error).__name__}: {error}") from error

    def _is_whole(self, path: Path) -> bool:
        """Whether a file is an undamaged shard of this request; every number is read."""
        if not path.exists() or _request_of(path) != self.request:
            return False
        try:
            with open_sample(path) as sample:
                for _ in sample.blocks():
                    pass
        except (ValueError, OSError):  # SampleError, bytes that are not text, chunks that cannot be read
            return False
        return True

    def join(self, n_shards: int, out: Path) -> None:
        """Write all shards, in order, as one sample."""
        with sample_file(out, self.info, self.request) as joined:
            for shard in range(n_shards):
                with open_sample(self.path(shard)) as sample:
                    try:
                        joined.append_file(sample.file, sample.block(slice(0)))
                    except SampleError as error:
                        raise SampleError(f"shard {shard} is unlike shard 0: {error}") from error


def _request_of(path: Path) -> str | None:
    """Return the digest of the request that a sample answers; None for any other file."""
    if validate(path):
        return None
    with open_sample(path) as sample:
        return sample.file.attrs.get("request")


def _run(make: _ShardMaker, n_shards: int, workers: int) -> Iterator[int]:
    """Make all shards and yield the number of each that is done."""
    if workers == 1:
        for shard in range(n_shards):
            make(shard)
            yield shard
        return
    # Spawned, not forked: a copy of a process with threads may inherit a lock that nobody opens.
    pool = ProcessPoolExecutor(
        min(workers, n_shards), multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        futures = {pool.submit(make, shard): shard for shard in range(n_shards)}
        for future in as_completed(futures):
            future.result()
            yield futures[future]
    except BrokenProcessPool as error:
        raise SampleError(
            f"{make.folder}: a worker was killed, perhaps for want of memory; the same call goes on from here"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _open_folder(folder: Path, request_text: str) -> None:
    """Make the folder of the shards, empty unless it is that of the same request."""
    key_file = folder / _KEY_FILE
    if key_file.is_file():
        if key_file.read_text(encoding="utf-8") != request_text:
            _remove_folder(folder)
    elif any(folder.glob("[!.]*")):
        raise SampleError(f"{folder}: not a folder of shards, having no {_KEY_FILE}; move it away")
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.*"):  # what was half-written when a run was killed
        leftover.unlink(missing_ok=True)
    with atomic(key_file) as temporary:
        temporary.write_text(request_text, encoding="utf-8")


def _remove_folder(folder: Path) -> None:
    for file in folder.iterdir():
        if file.name != _KEY_FILE:  # the last to go: without it, what a killed removal leaves is not known
            file.unlink()
    shutil.rmtree(folder)


def write_sharded(
    path: str | Path,
    make_block: Callable[[int], Block],
    n_shards: int,
    info: SampleInfo,
    *,
    key: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Make a sample shard by shard in several processes; after an interruption, go on where it stopped.

    The bytes of the file depend on the blocks alone: not on the number of workers, nor on interruptions.
    No more than one shard per process is in memory, and on the disk twice the space of the sample is used
    while shards are joined. One run at a time may write to one path.

    Parameters
    ----------
    path : str or Path
        The sample. ``<path>.shards`` beside it holds the shards until all are made.
    make_block : callable
        Shard number, from 0, to :class:`Block`. It can be pickled, and depends on its number alone: a frozen
        dataclass with ``__call__``, or functools.partial of a function of a module. Modules such as torch
        are imported by the module that defines it, not while it runs. Compressed chunks are joined as they
        are where all shards but the last have a multiple of 64 objects; other sizes take longer.
    n_shards : int
        How many.
    info : SampleInfo
        What the sample says of itself.
    key : mapping, optional
        Whatever else `make_block` depends on, for JSON, such as its parameters and the version of its code.
        Shards made for another key, `info` or `n_shards` are removed and never used.
    workers : int
        Processes; with 1, shards are made in this one.
    progress : bool
        Whether to show a bar.
    overwrite : bool
        Whether to replace a file at `path` that is not the sample asked for.

    Returns
    -------
    pathlib.Path
        `path`; at once if it is already the sample asked for.

    Raises
    ------
    SampleError
        When there is another file at `path`, or, with the shard's number, when a shard cannot be made.
    """
    path = Path(path)
    if n_shards < 1 or workers < 1:
        raise SampleError(f"{path}: n_shards is {n_shards} and workers is {workers}; expected at least 1")
    asked = {"version": VERSION, "info": asdict(info), "n_shards": n_shards, "key": dict(key or {})}
    try:
        request_text = json.dumps(asked, sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SampleError(f"{path}: key cannot be written as JSON: {error}") from error
    request = hashlib.sha256(request_text.encode()).hexdigest()
    folder = path.with_name(path.name + ".shards")
    if path.exists() and _request_of(path) == request:
        if (folder / _KEY_FILE).is_file():  # a run was killed between the last two steps below
            _remove_folder(folder)
        return path
    if path.exists() and not overwrite:
        raise SampleError(
            f"{path}: the file is there, but is not the sample asked for (another request, another file or a "
            "damaged one); move it away, or pass overwrite=True"
        )
    _open_folder(folder, request_text)
    make = _ShardMaker(make_block, folder, info, request)
    with tqdm(total=n_shards, desc=path.name, unit="shard", disable=not progress) as bar:
        for _ in _run(make, n_shards, workers):
            bar.update()
    # Joined inside of the folder: what a run leaves that is killed here is found and removed by the next.
    joined = folder / "joined.h5"
    make.join(n_shards, joined)
    os.replace(joined, path)
    _remove_folder(folder)
    return path
