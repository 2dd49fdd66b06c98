"""Queries to public archives: SDSS objects, frames and spectra, and Legacy Survey cut-outs.

Nothing here is needed to run the studies, which use the simulated sky by default; it is for a reader with
network access who wants real objects of the star/galaxy/quasar study::

    python -m astro_utils.archive objects --kind compact --per-class 1000 --folder sdss
    python -m astro_utils.archive frames --table sdss/compact-dr16-1000.parquet --folder sdss/frames

Catalogue queries go through astroquery (Ginsburg et al. 2019, AJ, 157, 98) to the SkyServer, files come from
the Science Archive Server and from the viewer of the Legacy Surveys. The tests use no network: they replay
answers that were *constructed* in the formats of these services, not captured from them.
"""

from __future__ import annotations

import argparse
import sys

import pandas as pd

from astro_utils.archive_client import ArchiveError
from astro_utils.archive_cutouts import fetch_legacy_cutouts, legacy_cutout_url
from astro_utils.archive_files import crossmatch_spectra, fetch_frames, frame_urls, spectrum_urls
from astro_utils.archive_objects import CLASSES, KEY_MODULUS, KINDS, compact_query, fetch_objects

__all__ = [
    "CLASSES",
    "KEY_MODULUS",
    "KINDS",
    "ArchiveError",
    "compact_query",
    "crossmatch_spectra",
    "fetch_frames",
    "fetch_legacy_cutouts",
    "fetch_objects",
    "frame_urls",
    "legacy_cutout_url",
    "spectrum_urls",
]


def _read_table(path: str) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ArchiveError(f"{path}: cannot be read as a Parquet table ({error})") from None


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m astro_utils.archive", description=__doc__.split(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    objects = commands.add_parser("objects", help="fetch a table of compact galaxies, quasars and stars")
    objects.add_argument("--kind", choices=KINDS, required=True)
    objects.add_argument("--per-class", type=int, required=True, metavar="N")
    objects.add_argument("--data-release", type=int, default=16, metavar="N")
    frames = commands.add_parser("frames", help="fetch the images that hold the objects of a table")
    frames.add_argument("--table", required=True, metavar="FILE", help="Parquet, with run, camcol and field")
    frames.add_argument("--bands", default="ugriz")
    for command in commands.choices.values():
        command.add_argument("--folder", required=True)
    chosen = parser.parse_args(argv)
    try:
        if chosen.command == "objects":
            release = {"data_release": chosen.data_release}
            done = [fetch_objects(chosen.kind, chosen.per_class, chosen.folder, **release)]
        else:
            done = fetch_frames(_read_table(chosen.table), chosen.folder, chosen.bands)
    except (ArchiveError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    print("\n".join(map(str, done)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
