"""Simulated galaxies of the SDSS main sample: stamps, catalogue, and what an ideal measurement would find.

    path = main_sample("main.h5", n_parent=4096, seed=5)
    galaxies = read_galaxies(path)

The ideal measurement knows the true profile of each galaxy and lacks its fluxes alone. It fits them to the
pixels by weighted least squares, which no unbiased measurement of the same pixels does better (Cramer and
Rao): once with one amplitude a band, the matched filter of the whole galaxy, and once with one for the bulge
and one for the disc.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils import photoz_light
from astro_utils.photometry import SDSS_BANDS
from astro_utils.sample_writer import write_sharded
from astro_utils.samples import Block, Column, SampleInfo, open_sample
from astro_utils.sky.cache import cache_key
from astro_utils.sky.images import field_psf, render
from astro_utils.sky.seds import component_fluxes, load_seds
from astro_utils.sky.selections import photoz_sample
from astro_utils.sky.simulate import Simulation, code_digest, field_conditions, per_band
from astro_utils.sky.surveys import SDSS

__all__ = ["R_LIMIT", "Galaxies", "MainSky", "ideal_fluxes", "light_names", "main_sample", "read_galaxies"]

#: Petrosian r magnitude, corrected for extinction, at which the main sample ends (Strauss et al. 2002, AJ
#: 124, 1810).
R_LIMIT = 17.77

#: Columns that are kept of a galaxy, and of each of its bands.
_OBJECT = (
    *("object_id", "ra", "dec", "field", "z", "blank"),
    *("radius", "bulge_fraction", "bulge_radius", "disc_radius", "bulge_q", "disc_q"),
    *("model_kind", "model_radius", "model_q", "petro_radius", "petro_r50", "petro_r90"),
    *("moment_size", "moment_e1", "moment_e2"),
)
_BAND = (
    *("model_flux", "model_flux_ivar", "petro_flux", "petro_flux_ivar", "psf_flux", "psf_flux_ivar"),
    *("radius", "psffwhm", "extinction"),
)
_IDEAL = {
    "ideal_flux": "flux of the whole galaxy as the matched filter finds it",
    "ideal_error": "error of that flux",
    "ideal_bulge": "flux of the bulge in the best fit of bulge and disc of known profiles",
    "ideal_bulge_error": "error of that flux",
    "ideal_disc": "flux of the disc in the same fit",
    "ideal_disc_error": "error of that flux",
}


@dataclass(frozen=True)
class Galaxies:
    """Galaxies with stamps.

    Attributes
    ----------
    table : pandas.DataFrame
        Columns of :func:`main_sample`, N rows.
    sample : pandas.DataFrame
        The same galaxies in the columns of :func:`astro_utils.galaxies.galaxy_sample`.
    images : numpy.ndarray
        (N, 5, n, n) float32 nanomaggies per pixel.
    """

    table: pd.DataFrame
    sample: pd.DataFrame
    images: np.ndarray

    def columns(self, name: str) -> np.ndarray:
        """Values of the columns ``<name>_u`` to ``<name>_z``, (N, 5)."""
        return self.table[[f"{name}_{b}" for b in SDSS_BANDS]].to_numpy(float)

    def light(self) -> np.ndarray:
        """Return the light under the elliptical weights, (N, scales, 5) nanomaggies."""
        return self.table[light_names()].to_numpy(float).reshape(len(self.table), -1, len(SDSS_BANDS))


def light_names() -> list[str]:
    """Names of the columns of light, weight by weight and in each of these band by band."""
    return [f"light{w}_{b}" for w in range(len(photoz_light.SCALES)) for b in SDSS_BANDS]


def ideal_fluxes(
    table: pd.DataFrame, simulation: Simulation, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Fluxes as an ideal measurement finds them, with its noise.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of a simulated catalogue, with the true parameters of spectra and shapes.
    simulation : Simulation
        The one that made them, of SDSS.
    rng : numpy.random.Generator
        Of the noise, which is not that of the stamps.

    Returns
    -------
    dict of numpy.ndarray
        (N, 5) nanomaggies under the names ``ideal_flux``, ``ideal_bulge``, ``ideal_disc`` and each of these
        with ``_error``; as observed, behind the dust.
    """
    seds = load_seds(simulation.family)
    _, bulge, disc = component_fluxes(table, SDSS, seds, table["ebv"].to_numpy())
    shapes = table.assign(x=0.0, y=0.0)
    single, pair = np.empty(bulge.shape), np.empty((*bulge.shape, 2, 2))
    for field, rows in table.groupby("field").indices.items():
        conditions = field_conditions(SDSS, simulation.seed, int(field))
        psf = field_psf(SDSS, conditions, simulation.size)
        one = np.ones((len(rows), len(SDSS_BANDS)))
        parts = np.stack(
            [
                render(shapes.iloc[rows], 0 * one, b * one, d * one, psf, SDSS, simulation.size)
                for b, d in ((1, 0), (0, 1))
            ]
        ).reshape(2, len(rows), len(SDSS_BANDS), -1)  # of unit flux
        fluxes = np.stack([bulge[rows], disc[rows]])
        seen = np.einsum("kgbp,kgb->gbp", parts, fluxes)
        variance = per_band(conditions, "sigma", SDSS)[:, None] ** 2
        weight = 1 / (variance + np.maximum(seen, 0) / np.array(SDSS.gain)[:, None])
        total = fluxes.sum(0)
        single[rows] = total**2 / np.einsum("gbp,gbp,gbp->gb", weight, seen, seen)
        fisher = np.einsum("gbp,kgbp,lgbp->gbkl", weight, parts, parts)
        # Where bulge and disc look the same only their sum is known; a tiny prior keeps the inverse finite.
        pair[rows] = np.linalg.inv(
            fisher + 1e-6 * np.eye(2) * fisher.trace(axis1=2, axis2=3)[..., None, None]
        )
    root = np.linalg.cholesky(pair)
    parts = np.stack([bulge, disc], -1)
    parts = parts + np.einsum("gbkl,gbl->gbk", root, rng.standard_normal(parts.shape))
    return {
        "ideal_flux": bulge + disc + np.sqrt(single) * rng.standard_normal(single.shape),
        "ideal_error": np.sqrt(single),
        "ideal_bulge": parts[..., 0],
        "ideal_bulge_error": np.sqrt(pair[..., 0, 0]),
        "ideal_disc": parts[..., 1],
        "ideal_disc_error": np.sqrt(pair[..., 1, 1]),
    }


@dataclass(frozen=True)
class MainSky:
    """The galaxies of a simulation that belong to the main sample; calling it with a number makes a shard.

    Attributes
    ----------
    simulation : Simulation
        Of SDSS, with the population ``main_galaxies``.
    """

    simulation: Simulation

    def __post_init__(self) -> None:
        if (self.simulation.survey, self.simulation.population) != ("sdss", "main_galaxies"):
            raise ValueError(
                f"survey {self.simulation.survey!r}, population {self.simulation.population!r}; expected "
                "'sdss' and 'main_galaxies'"
            )

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return self.simulation.n_shards

    @property
    def info(self) -> SampleInfo:
        """What the sample says of itself."""
        selection = f"Petrosian r of at most {R_LIMIT:g}, corrected for extinction; not blank"
        return replace(
            self.simulation.info,
            provenance={"simulation": asdict(self.simulation), "selection": selection},
        )

    def __call__(self, shard: int) -> Block:
        """Make one shard."""
        block = self.simulation(shard)
        bright = np.zeros(len(block.catalogue), bool)
        seen = ~block.catalogue["blank"].to_numpy(bool)
        bright[seen] = photoz_sample(block.catalogue)["petro_mag_r"] <= R_LIMIT
        table, images = block.catalogue[bright].reset_index(drop=True), block.images[bright]
        names = [*_OBJECT, *(f"{name}_{b}" for name in _BAND for b in SDSS_BANDS)]
        out, columns = table[names].copy(), {name: block.columns[name] for name in names}
        light, shapes = photoz_light.elliptical_light(images, SDSS)
        added = dict(zip(light_names(), light.reshape(len(light), -1).T, strict=True))
        columns |= {name: Column("nanomaggy", "light under a Gaussian weight") for name in added}
        added |= {"light_size": shapes.size, "light_ellipticity": shapes.ellipticity}
        columns["light_size"] = Column("pixel", "standard deviation of the adaptive Gaussian, all bands")
        columns["light_ellipticity"] = Column("", "ellipticity of the adaptive Gaussian, in squares of axes")
        rng = np.random.default_rng([self.simulation.seed, shard, 1])
        for name, values in ideal_fluxes(table, self.simulation, rng).items():
            added |= {f"{name}_{b}": values[:, i] for i, b in enumerate(SDSS_BANDS)}
            columns |= {f"{name}_{b}": Column("nanomaggy", f"{_IDEAL[name]}, {b}") for b in SDSS_BANDS}
        out = pd.concat([out, pd.DataFrame(added).astype(np.float32)], axis=1)
        return Block(out, columns, images)


def main_sample(
    path: str | Path, n_parent: int, seed: int, workers: int = 1, overwrite: bool = False
) -> Path:
    """Write a simulated main sample with stamps.

    A run that was killed goes on where it stopped; see :func:`astro_utils.sample_writer.write_sharded`.

    Parameters
    ----------
    path : str or Path
    n_parent : int
        Galaxies to simulate; nineteen of twenty are bright enough.
    seed : int
    workers : int
        Processes.
    overwrite : bool
        Whether another sample at `path` is replaced; otherwise it is an error.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    sky = MainSky(Simulation(n_objects=n_parent, population="main_galaxies", seed=seed, objects_per_field=64))
    load_seds(sky.simulation.family)  # build the cache once, before workers would each do it
    here = cache_key([__file__, photoz_light.__file__])
    return write_sharded(
        path,
        sky,
        sky.n_shards,
        sky.info,
        workers=workers,
        key={"code": code_digest() + here},
        overwrite=overwrite,
    )


def read_galaxies(path: str | Path) -> Galaxies:
    """Read a sample that :func:`main_sample` wrote."""
    with open_sample(path) as stored:
        table, images = stored.catalogue(), stored.images(slice(None))
    return Galaxies(table, photoz_sample(table), images)
