"""The transfer of one file of a dataset into the cache.

A file is downloaded under a temporary name beside its final one and takes that only when its SHA-256 is the
registered one, so the final name is always right, also after an interruption. A failure of the network or
the server is retried; temporary files that a killed process left are swept by the next download.
"""

import contextlib
import glob
import os
import sys
import time
import uuid
from pathlib import Path

from astro_utils.datasets import DatasetError, RemoteFile

__all__ = ["ATTEMPTS", "RETRY_WAIT", "STALE_AFTER", "TIMEOUT", "ProgressLine", "download_file"]

TIMEOUT = 30.0  # seconds without an answer or a byte
ATTEMPTS = 3
RETRY_WAIT = 0.5  # seconds, times the number of attempts made
STALE_AFTER = 600.0  # seconds without a write: far above TIMEOUT, so no running download owns the file


class ProgressLine:
    """A progress bar as pooch wants it, on one line of the terminal.

    Parameters
    ----------
    file : RemoteFile
        The file that is downloaded.
    """

    def __init__(self, file: RemoteFile):
        self.file, self.total, self.done = file, file.bytes, 0

    def update(self, step: int) -> None:
        """Count the bytes that came and write the line again.

        Parameters
        ----------
        step : int
            The number of bytes since the last call.
        """
        self.done = min(self.done + step, self.file.bytes)  # pooch adds whole chunks, also for the last one
        line = f"\r{self.done / 1e6:9.2f} of {self.file.bytes / 1e6:.2f} MB  {self.file.path}"
        print(line, end="", file=sys.stderr, flush=True)

    def reset(self) -> None:
        """Do nothing: pooch only ever resets a bar to fill it."""

    def close(self) -> None:
        """Do nothing: pooch closes no bar of a failed download, so `_transfer` ends the line."""


def _keep_as_stored(response, **_) -> None:
    """Stop requests from unpacking a .gz file that a server announces as a content encoding."""
    response.raw.headers.pop("Content-Encoding", None)


def _transfer(file: RemoteFile, part: Path, progress: bool) -> tuple[str, bool]:
    """Download into ``part`` once; return what went wrong, if anything, and whether to try again."""
    import pooch  # here, so that `list` starts fast
    import requests

    bar = ProgressLine(file) if progress and sys.stderr.isatty() else False
    options = {"headers": {"Accept-Encoding": "identity"}, "hooks": {"response": _keep_as_stored}}
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=2**13, timeout=TIMEOUT, **options)
    problem = ""
    try:
        downloader(file.url, str(part), None)
    except requests.HTTPError as error:
        status = error.response.status_code
        return f"the server answered {status} {error.response.reason}", status >= 500 or status == 429
    except requests.RequestException as error:
        # The reason is the cause without urllib3's wrapping.
        reason = getattr(error.args[0], "reason", error) if error.args else error
        problem = f"the server does not answer ({reason})"
    finally:
        if bar:
            print(file=sys.stderr)
    received = part.stat().st_size
    if received < file.bytes and (received > 0 or not problem):
        return f"the download was cut off: got {received} of {file.bytes} bytes", True
    if problem:
        return problem, True
    fault = file.fault(part)
    return fault and f"wrong checksum: what came {fault}", False


def _sweep(target: Path) -> None:
    """Remove the temporary files of a target that no running download owns any more."""
    for stale in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        with contextlib.suppress(FileNotFoundError):  # another process may clean up, too
            if time.time() - stale.stat().st_mtime > STALE_AFTER:
                stale.unlink()


def _attempts(file: RemoteFile, part: Path, progress: bool) -> str:
    """Download into ``part``, again where that may help; return what went wrong at last, if anything."""
    for attempt in range(1, ATTEMPTS + 1):
        problem, again = _transfer(file, part, progress)
        if not (problem and again) or attempt == ATTEMPTS:
            break
        time.sleep(RETRY_WAIT * attempt)
    return problem


def download_file(dataset: str, file: RemoteFile, cache: Path, progress: bool = False) -> Path:
    """Download one file into the cache, unless it is there and right.

    Parameters
    ----------
    dataset : str
        The dataset's name, for messages.
    file : RemoteFile
        The file to have.
    cache : Path
        The folder below which the file goes; it is made where it is absent.
    progress : bool
        Show the progress on stderr, where that is a terminal.

    Returns
    -------
    Path
        The local file, which has the registered size and SHA-256.

    Raises
    ------
    DatasetError
        The file cannot be had or written; the message names the address and a remedy. Nothing wrong is left
        in the cache.
    """
    target = cache / file.path
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    remedy = f"try again later, or put the file there by hand: {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        if target.is_file():
            if not file.fault(target):
                return target  # another process has fetched it in the meantime
            target.unlink()
        problem = _attempts(file, part, progress)
        if not problem:
            os.replace(part, target)
            return target
    except OSError as error:
        problem = f"cannot write into {target.parent} ({error})"
        remedy = "name another cache folder, or point ASTRO_UTILS_DATA to a folder that has the file"
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is left
            part.unlink(missing_ok=True)
    message = f"dataset '{dataset}', file {file.path}: {problem}"
    raise DatasetError(f"{message}\n  address: {file.url}\n  remedy: {remedy}")
