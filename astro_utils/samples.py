"""Samples: images, spectra and a catalogue of the same objects in one file, as every training set is.

The file is described in :mod:`astro_utils.sample_format`, and :mod:`astro_utils.sample_writer` makes large
ones in parallel. Everything else is here::

    info = SampleInfo(survey="sdss", sky="simulated", bands=("u", "g", "r", "i", "z"), pixel_scale=0.396)
    write_sample("sample.h5", blocks, info)
    with open_sample("sample.h5") as sample:
        bright = sample.catalogue(["r_mag"])["r_mag"] < 18
        images = sample.images(bright, bands=["g", "r", "i"])

Files are checked and described from the command line::

    python -m astro_utils.samples check [--deep] FILE...
    python -m astro_utils.samples info FILE
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from astro_utils.sample_blocks import sample_file
from astro_utils.sample_check import require_valid, validate
from astro_utils.sample_format import Block, Column, SampleError, SampleInfo, Spectra
from astro_utils.sample_reader import Rows, Sample, open_sample
from astro_utils.splits import sky_pixels

__all__ = [
    "Block",
    "Column",
    "Sample",
    "SampleError",
    "SampleInfo",
    "Spectra",
    "concat",
    "main",
    "open_sample",
    "require_valid",
    "split",
    "take",
    "validate",
    "write_sample",
]

_BLOCK = 1024


def write_sample(path: str | Path, blocks: Iterable[Block], info: SampleInfo) -> Path:
    """Write blocks, one after the other, as one sample, which replaces what was at `path` when it is whole.

    Raises
    ------
    SampleError
        When a block is not as :class:`Block` says or unlike the first one, or there is none.
    """
    with sample_file(path, info) as sample:
        for block in blocks:
            sample.append(block)
    return Path(path)


# -------------------------------------------------------------------------------------- samples of samples


def _parent(sample: Sample) -> dict[str, Any]:
    """Name a sample in the provenance of another, without the folder it is in."""
    with sample.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "name": sample.path.name,
        "sha256": digest,
        "seed": sample.info.seed,
        "provenance": sample.info.provenance,
    }


def concat(paths: Sequence[str | Path], out: str | Path) -> Path:
    """Write the objects of several samples of one kind, in the order given, as one sample.

    The seed is kept where it is one; the provenance names the parents.

    Raises
    ------
    SampleError
        With the file and what differs: survey, sky, bands, pixel scale, columns, sizes or wavelengths.
    """
    if not paths:
        raise SampleError("no samples to concatenate")
    infos, parents = [], []
    for path in paths:
        with open_sample(path) as sample:
            infos.append(sample.info)
            parents.append(_parent(sample))
    first = infos[0]
    for path, info in zip(paths, infos, strict=True):
        for name in ("survey", "sky", "bands", "pixel_scale"):
            if getattr(info, name) != getattr(first, name):
                raise SampleError(
                    f"{path}: {name} is {getattr(info, name)!r}, but {getattr(first, name)!r} in {paths[0]}"
                )
    seed = first.seed if len({info.seed for info in infos}) == 1 else None
    info = replace(first, seed=seed, provenance={"concat": parents})
    with sample_file(out, info) as joined:
        for path in paths:
            with open_sample(path) as sample:
                try:
                    joined.append_file(sample.file, sample.block(slice(0)))
                except SampleError as error:
                    raise SampleError(f"{path}: {error}") from error
    return Path(out)


def take(path: str | Path, rows: Rows, out: str | Path) -> Path:
    """Write some rows of a sample, in the order given, as a sample of its own.

    The provenance names the parent and holds the SHA-256 of the row numbers (64-bit, little-endian).
    """
    with open_sample(path) as sample:
        chosen = np.arange(len(sample))[sample.row_numbers(rows)]
        digest = hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()
        source = {"parent": _parent(sample), "n_rows": len(chosen), "rows_sha256": digest}
        blocks = (
            sample.block(chosen[start : start + _BLOCK]) for start in range(0, max(len(chosen), 1), _BLOCK)
        )
        return write_sample(out, blocks, replace(sample.info, provenance={"take": source}))


def split(
    path: str | Path,
    fractions: Mapping[str, float],
    *,
    by: Literal["object", "sky"],
    seed: int,
    nside: int = 8,
) -> dict[str, np.ndarray]:
    """Part the rows of a sample at random, keeping together what belongs together.

    Parameters
    ----------
    path : str or Path
        A sample.
    fractions : mapping of str to float
        Name of each part to its share of the rows; rows that are in no part are left out.
    by : {"object", "sky"}
        Rows of one ``object_id``, or of one HEALPix pixel, are in the same part.
    seed : int
        Of the order in which objects or pixels are dealt out.
    nside : int
        Resolution of the pixels; 8 makes pixels of 7.3 degrees.

    Returns
    -------
    dict of str to numpy.ndarray
        Increasing row numbers. Shares are as exact as whole objects or pixels allow.

    Raises
    ------
    SampleError
        When the fractions are not positive or exceed 1 in sum, a position is not on the sky, or a part stays
        empty because there are too few objects or pixels.
    """
    if not fractions or min(fractions.values()) <= 0 or not sum(fractions.values()) <= 1 + 1e-9:
        raise SampleError(f"fractions are {dict(fractions)}; expected positive shares of at most 1 in sum")
    with open_sample(path) as sample:
        if by == "object":
            groups, kind = sample.catalogue(["object_id"])["object_id"].to_numpy(), "objects"
        elif by == "sky":
            ra, dec = sample.catalogue(["ra", "dec"]).to_numpy(float).T
            if bad := np.flatnonzero(~(np.isfinite(ra) & (np.abs(dec) <= 90))).tolist():
                raise SampleError(f"{path}: row {bad[0]} has no position on the sky ({len(bad)} rows in all)")
            groups, kind = sky_pixels(ra, dec, nside), f"sky pixels of nside {nside}"
        else:
            raise SampleError(f"by is {by!r}; expected 'object' or 'sky'")
    names, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    # Laid end to end in random order, each group goes to the part in whose share of the rows its middle lies:
    # whether a group is large or small has no say in where it goes.
    order = np.random.default_rng(seed).permutation(len(names))
    middle = np.cumsum(counts[order]) - counts[order] / 2
    part = np.empty(len(names), dtype=int)
    bounds = np.cumsum(list(fractions.values())) * len(groups)
    part[order] = np.searchsorted(bounds, middle, side="right")
    rows = {name: np.flatnonzero(part[group] == number) for number, name in enumerate(fractions)}
    if empty := [name for name, chosen in rows.items() if not len(chosen)]:
        raise SampleError(
            f"{path}: {len(names)} {kind} are too few to fill {', '.join(fractions)}: {', '.join(empty)} "
            "would be empty"
        )
    return rows


# ------------------------------------------------------------------------------------------- command line


def _describe(sample: Sample) -> Iterator[str]:
    info = sample.info
    yield f"{sample.path}: {len(sample)} objects, {info.sky} sky, survey {info.survey}, seed {info.seed}"
    if info.bands:
        ny, nx = sample.file["images"].shape[2:]
        yield f"images: {', '.join(info.bands)}, {ny} x {nx} pixels of {info.pixel_scale:g} arcsec"
    if sample.wavelength is not None:
        first, *_, last = sample.wavelength
        yield f"spectra: {len(sample.wavelength)} wavelengths, {first:.1f} to {last:.1f} Angstrom"
    for name, column in sample.columns.items():
        yield f"{name} [{column.unit}]: {column.description}"
    yield f"provenance: {json.dumps(info.provenance, sort_keys=True)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check or describe samples; the exit status is 1 when there are problems."""
    parser = argparse.ArgumentParser(prog="python -m astro_utils.samples", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("check", help="list what is wrong with files")
    check.add_argument("--deep", action="store_true", help="read every number too")
    check.add_argument("files", nargs="+", metavar="FILE")
    commands.add_parser("info", help="say what is in a file").add_argument("file", metavar="FILE")
    options = parser.parse_args(arguments)
    if options.command == "info":
        try:
            with open_sample(options.file) as sample:
                print("\n".join(_describe(sample)))
        except SampleError as error:
            print(error)
            return 1
        return 0
    problems = {path: validate(path, options.deep) for path in options.files}
    for path, texts in problems.items():
        print("\n".join(f"{path}: {text}" for text in texts or ["valid"]))
    return int(any(problems.values()))


if __name__ == "__main__":
    sys.exit(main())
