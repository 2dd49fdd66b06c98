"""Simulated samples of compact objects alone, as MargNet's are, without storing the others.

    python -m astro_utils.sky.compact compact.h5 --n-parent 20000 --seed 1 --workers 2

Objects are drawn from the population ``compact_parent``, half of which are compact in SDSS and these in equal
numbers of each class; only those are kept, with the columns that a classifier or
:func:`astro_utils.sky.degrade.degrade` needs.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from astro_utils.sample_writer import write_sharded
from astro_utils.samples import Block, SampleInfo
from astro_utils.sky.seds import load_seds
from astro_utils.sky.simulate import Simulation, code_digest
from astro_utils.sky.surveys import SURVEYS, Survey

__all__ = ["BAND_COLUMNS", "LIMIT", "OBJECT_COLUMNS", "CompactSky", "compact_sample", "kept_columns"]

#: The cut of MargNet (Chaini et al. 2023, MNRAS 518, 3123) in radius over FWHM, averaged over the bands.
LIMIT = 0.5

#: Columns that are kept of an object, and of each of its bands; the colours of neighbouring bands are too.
OBJECT_COLUMNS = (
    *("object_id", "ra", "dec", "field", "class", "programme"),
    *("parent", "z", "r_mag", "blank"),
)
BAND_COLUMNS = (
    *("dered", "radius", "psffwhm", "extinction", "sigma"),
    *("psf_flux", "psf_flux_ivar", "model_flux", "model_flux_ivar"),
)


def kept_columns(survey: Survey) -> set[str]:
    """Names of the columns of a compact sample."""
    colours = {f"{blue}_{red}" for blue, red in zip(survey.bands, survey.bands[1:], strict=False)}
    return {*OBJECT_COLUMNS, *(f"{name}_{band}" for name in BAND_COLUMNS for band in survey.bands), *colours}


def _is_compact(table: pd.DataFrame, survey: Survey) -> pd.Series:
    """As :func:`astro_utils.sky.selections.compact`, in the bands of any survey."""
    ratios = [table[f"radius_{band}"] / table[f"psffwhm_{band}"] for band in survey.bands]
    return sum(ratios) / len(ratios) <= LIMIT


@dataclass(frozen=True)
class CompactSky:
    """The compact objects of a simulated sample; calling it with a shard's number makes that shard.

    Shards differ in the number of their rows.

    Attributes
    ----------
    simulation : Simulation
        Where the objects come from.
    """

    simulation: Simulation

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return self.simulation.n_shards

    @property
    def info(self) -> SampleInfo:
        """What the sample says of itself."""
        selection = f"radius over FWHM, averaged over the bands, of at most {LIMIT:g}; not blank"
        return replace(
            self.simulation.info,
            provenance={"simulation": asdict(self.simulation), "selection": selection},
        )

    def __call__(self, shard: int) -> Block:
        """Make one shard and keep the compact objects that are not blank, some columns of them."""
        block, survey = self.simulation(shard), SURVEYS[self.simulation.survey]
        keep = (_is_compact(block.catalogue, survey) & ~block.catalogue["blank"]).to_numpy()
        wanted = kept_columns(survey)
        names = [name for name in block.catalogue if name in wanted]
        return Block(
            block.catalogue.loc[keep, names].reset_index(drop=True),
            {name: block.columns[name] for name in names},
            block.images[keep],
        )


def compact_sample(
    path: str | Path,
    n_parent: int,
    seed: int,
    workers: int = 1,
    survey: str = "sdss",
    progress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a sample of compact objects.

    A run that was killed goes on where it stopped; see :func:`astro_utils.sample_writer.write_sharded`.

    Parameters
    ----------
    path : str or Path
    n_parent : int
        Objects to simulate; in SDSS, half of them are kept.
    seed : int
    workers : int
        Processes.
    survey : str
        A name in :data:`astro_utils.sky.surveys.SURVEYS`. Compact is what is compact in its own images, and
        the classes are equal in number in SDSS alone.
    progress : bool
        Whether to show a bar.
    overwrite : bool
        Whether another sample at `path` is replaced; otherwise it is an error.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    sky = CompactSky(Simulation(n_objects=n_parent, survey=survey, population="compact_parent", seed=seed))
    load_seds(sky.simulation.family)  # build the cache once, before workers would each do it
    return write_sharded(
        path,
        sky,
        sky.n_shards,
        sky.info,
        workers=workers,
        key={"code": code_digest()},
        progress=progress,
        overwrite=overwrite,
    )


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--n-parent", type=int, required=True, help="objects to simulate")
    parser.add_argument("--survey", default="sdss", choices=SURVEYS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    compact_sample(
        options.path, options.n_parent, options.seed, options.workers, options.survey, progress=True
    )


if __name__ == "__main__":
    main()
