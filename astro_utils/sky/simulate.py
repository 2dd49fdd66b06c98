"""The simulated sky as samples: objects drawn, observed and measured, shard by shard.

    python -m astro_utils.sky.simulate sample.h5 --n 20000 --survey sdss --population spectroscopic --seed 1

The same seed draws the same objects for every survey, so that samples of several surveys show one sky.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from astro_utils.paths import project_root
from astro_utils.photometry import asinh_magnitudes
from astro_utils.sample_writer import one_thread, write_sharded
from astro_utils.samples import Block, SampleInfo
from astro_utils.sky.cache import cache_key
from astro_utils.sky.columns import describe
from astro_utils.sky.images import field_psf, render, with_noise
from astro_utils.sky.measure import Conditions, measure
from astro_utils.sky.population import POPULATIONS, draw_population
from astro_utils.sky.profile_bank import ProfileBank, profile_bank
from astro_utils.sky.seds import FAMILIES, component_fluxes, load_seds
from astro_utils.sky.spectra import SPECTROGRAPHS, observe_objects
from astro_utils.sky.surveys import SURVEYS, Survey, draw_fields

__all__ = [
    "Simulation",
    "aperture_correction",
    "code_digest",
    "field_conditions",
    "measured_columns",
    "per_band",
    "simulate",
]

#: Half the width of a field in degrees: objects of one field are this close to its centre.
_FIELD = 0.1


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A simulated sample; calling it with a shard's number makes that shard.

    Attributes
    ----------
    n_objects : int
    survey : str
        A name in :data:`astro_utils.sky.surveys.SURVEYS`.
    population : str
        A name in :data:`astro_utils.sky.population.POPULATIONS`.
    family : str
        Galaxy spectra, a name in :data:`astro_utils.sky.seds.FAMILIES`.
    seed : int
    size : int
        Pixels on a side of the stamps.
    neighbours : float
        Share of the stamps with a second object 2 to 7 arcsec away.
    spectrograph : str or None
        A name in :data:`astro_utils.sky.spectra.SPECTROGRAPHS`, to observe spectra of the same objects.
    objects_per_shard, objects_per_field : int
    """

    n_objects: int
    survey: str = "sdss"
    population: str = "spectroscopic"
    family: str = "kcorrect"
    seed: int = 0
    size: int = 32
    neighbours: float = 0.0
    spectrograph: str | None = None
    objects_per_shard: int = 1024
    objects_per_field: int = 128

    def __post_init__(self):
        for name, known in (("survey", SURVEYS), ("population", POPULATIONS), ("family", FAMILIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"no {name} {getattr(self, name)!r}; expected one of {', '.join(known)}")
        if self.spectrograph is not None and self.spectrograph not in SPECTROGRAPHS:
            raise ValueError(
                f"no spectrograph {self.spectrograph!r}; expected one of {', '.join(SPECTROGRAPHS)}, or None"
            )
        if self.n_objects < 1 or self.size < 8 or self.size % 2 or not 0 <= self.neighbours <= 1:
            raise ValueError(
                f"n_objects is {self.n_objects}, size {self.size}, neighbours {self.neighbours}; expected at "
                "least one object, an even size of at least 8 pixels and a share between 0 and 1"
            )
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")
        per_shard, per_field = self.objects_per_shard, self.objects_per_field
        if per_field < 1 or per_shard < 1 or per_shard % per_field:
            raise ValueError(
                f"objects_per_shard ({per_shard}) is not a multiple of objects_per_field ({per_field}); a "
                "field cannot be in two shards"
            )

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_objects // self.objects_per_shard)

    @property
    def info(self) -> SampleInfo:
        """What the sample says of itself."""
        survey = SURVEYS[self.survey]
        return SampleInfo(
            survey=survey.name,
            sky="simulated",
            bands=survey.bands,
            pixel_scale=survey.pixel_scale,
            seed=self.seed,
            provenance={"simulation": asdict(self)},
        )

    @one_thread()  # so that a shard is the same wherever it is made
    def __call__(self, shard: int) -> Block:
        """Make one shard."""
        if not 0 <= shard < self.n_shards:
            raise ValueError(f"no shard {shard}; expected 0 to {self.n_shards - 1}")
        survey, seds = SURVEYS[self.survey], load_seds(self.family)
        start = shard * self.objects_per_shard
        n = min(self.objects_per_shard, self.n_objects - start)
        # One stream for each purpose: the objects do not change with the survey, nor the noise with a
        # spectrum.
        people, places, noise, light = (
            np.random.default_rng(s) for s in np.random.SeedSequence([self.seed, shard]).spawn(4)
        )
        table = draw_population(POPULATIONS[self.population], n, people, seds)
        table["object_id"] = self.seed * 1_000_000_000 + start + np.arange(n)
        table["field"] = start // self.objects_per_field + np.arange(n) // self.objects_per_field
        table[["x", "y"]] = people.uniform(-0.5, 0.5, (n, 2))
        offsets = people.uniform(-_FIELD, _FIELD, (n, 2))
        neighbour = people.random(n) < self.neighbours
        images = np.empty((n, len(survey.bands), self.size, self.size), dtype=np.float32)
        parts = []
        for field, rows in table.groupby("field").indices.items():
            conditions = field_conditions(survey, self.seed, int(field))
            objects = _placed(table.iloc[rows], conditions, offsets[rows])
            images[rows], objects = _observe(
                objects, conditions, survey, seds, self.size, neighbour[rows], places, noise
            )
            parts.append(objects)
        table = pd.concat(parts).reset_index(drop=True)
        spectra = None
        if self.spectrograph is not None:
            spectra = observe_objects(table, self.spectrograph, seds, light)
        table = table.drop(columns=["x", "y"])
        return Block(table, describe(table, survey), images, spectra)


def field_conditions(survey: Survey, seed: int, field: int) -> pd.Series:
    """Conditions of one field of a simulated sample, as :func:`astro_utils.sky.surveys.draw_fields` has them.

    They follow from the seed and the field's number alone.
    """
    return draw_fields(survey, 1, np.random.default_rng([seed, field])).iloc[0]


def _placed(table: pd.DataFrame, conditions: pd.Series, offsets: np.ndarray) -> pd.DataFrame:
    """Positions on the sky, and what the field is like."""
    table = table.copy()
    dec = conditions["dec"] + offsets[:, 1]
    table["ra"] = (conditions["ra"] + offsets[:, 0] / np.cos(np.radians(dec))) % 360
    table["dec"] = np.clip(dec, -90, 90)
    table["ebv"] = conditions["ebv"]
    return table


def _observe(
    table: pd.DataFrame,
    conditions: pd.Series,
    survey: Survey,
    seds,
    size: int,
    neighbour: np.ndarray,
    places: np.random.Generator,
    noise: np.random.Generator,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Images of the objects of one field, and the objects with what was measured."""
    point, bulge, disc = component_fluxes(table, survey, seds, table["ebv"].to_numpy())
    psf = field_psf(survey, conditions, size)
    images = render(table, point, bulge, disc, psf, survey, size)
    table["neighbour_distance"] = np.nan
    if neighbour.any() and len(table) > 1:  # the other object is one of the field
        host = np.flatnonzero(neighbour)
        guest = (host + places.integers(1, len(table), len(host))) % len(table)
        distance, angle = places.uniform(2.0, 7.0, len(host)), places.uniform(0, 2 * np.pi, len(host))
        shapes = table.iloc[guest].assign(
            x=table["x"].to_numpy()[host] + distance * np.cos(angle) / survey.pixel_scale,
            y=table["y"].to_numpy()[host] + distance * np.sin(angle) / survey.pixel_scale,
        )
        images[host] += render(shapes, point[guest], bulge[guest], disc[guest], psf, survey, size)
        table.iloc[host, table.columns.get_loc("neighbour_distance")] = distance
    sigma, gain = per_band(conditions, "sigma", survey), np.array(survey.gain)
    images = with_noise(images, sigma, gain, noise)
    known = Conditions(
        per_band(conditions, "psffwhm", survey), sigma, gain, conditions["e1"], conditions["e2"]
    )
    extinction = conditions["ebv_map"] * np.array(survey.extinction)
    correction = aperture_correction(survey, conditions, known, profile_bank(survey.pixel_scale, size))
    total = point + bulge + disc
    columns = {f"true_flux_{b}": total[:, i] for i, b in enumerate(survey.bands)}
    columns |= measured_columns(images, survey, known, extinction, correction)
    return images, pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)


def aperture_correction(
    survey: Survey, conditions: pd.Series, known: Conditions, bank: ProfileBank
) -> np.ndarray:
    """Compute the factor that brings PSF fluxes to the scale of large apertures.

    A pipeline's model of the PSF is a little wrong, and it corrects for that with the bright stars of the
    field; here the factor is computed from the true PSF and the estimated one.

    Parameters
    ----------
    survey : Survey
    conditions : pandas.Series
        The field as it is, from :func:`field_conditions`.
    known : Conditions
        The field as the pipeline knows it.
    bank : ProfileBank

    Returns
    -------
    numpy.ndarray
        (bands,)
    """
    factors = []
    for i, band in enumerate(survey.bands):
        assumed = bank.point(survey, known.fwhm[i], known.e1, known.e2)
        true = bank.point(survey, conditions[f"fwhm_{band}"], conditions["e1"], conditions["e2"])
        factors.append(float(assumed @ assumed) / float(assumed @ true))
    return np.array(factors)


def per_band(row: pd.Series, name: str, survey: Survey) -> np.ndarray:
    """Values of the columns ``<name>_<band>``, (bands,)."""
    return row[[f"{name}_{band}" for band in survey.bands]].to_numpy(float)


def measured_columns(
    images: np.ndarray,
    survey: Survey,
    known: Conditions,
    extinction: np.ndarray,
    correction: np.ndarray | float = 1.0,
) -> dict[str, np.ndarray]:
    """Measure the stamps of one field: columns of the catalogue, those that MargNet uses among them.

    Chaini et al. (2023, MNRAS 518, 3123): dereddened model magnitude, de Vaucouleurs radius, FWHM of the PSF
    and extinction per band; colours of model magnitudes that are *not* dereddened.

    Parameters
    ----------
    images : numpy.ndarray
        (N, bands, size, size) nanomaggies.
    survey : Survey
    known : Conditions
        The field as the pipeline knows it.
    extinction : numpy.ndarray
        (bands,) or (N, bands) magnitudes, of the dust map.
    correction : numpy.ndarray or float
        (bands,) factor of the PSF fluxes, from :func:`aperture_correction`.

    Returns
    -------
    dict of numpy.ndarray
        (N,) each.
    """
    measured = measure(images, survey, known, profile_bank(survey.pixel_scale, images.shape[-1]))
    measured["psf_flux"] *= correction
    measured["psf_flux_ivar"] /= correction**2
    n = len(images)
    extinction = np.broadcast_to(extinction, (n, len(survey.bands)))
    magnitude, _ = asinh_magnitudes(
        measured["model_flux"], measured["model_flux_ivar"], np.array(survey.softening)
    )
    out = {}
    for i, band in enumerate(survey.bands):
        out |= {
            f"dered_{band}": magnitude[:, i] - extinction[:, i],
            f"radius_{band}": measured["deVRad"][:, i],
            f"psffwhm_{band}": np.full(n, known.fwhm[i]),
            f"extinction_{band}": extinction[:, i],
        }
    for i, (blue, red) in enumerate(zip(survey.bands, survey.bands[1:], strict=False)):
        out[f"{blue}_{red}"] = magnitude[:, i] - magnitude[:, i + 1]
    for name, values in measured.items():
        if values.ndim == 1:
            out[{"x": "centroid_x", "y": "centroid_y"}.get(name, name)] = values
        elif name != "deVRad":
            out |= {f"{name}_{band}": values[:, i] for i, band in enumerate(survey.bands)}
    for i, band in enumerate(survey.bands):
        out[f"sigma_{band}"] = np.full(n, known.sigma[i])
    return out


def code_digest() -> str:
    """Digest of all that a shard depends on: a sample of other code is another sample."""
    folder = Path(__file__).parent
    tables = sorted((project_root() / "data" / "sky").glob("*.ecsv"))
    beside = [folder.parent / name for name in ("photometry.py", "galaxies.py")]
    return cache_key(
        [*sorted(folder.glob("*.py")), *beside, *tables], ("GalSim", "kcorrect", "sdss-mangadap", "speclite")
    )


def simulate(
    path: str | Path,
    simulation: Simulation,
    *,
    workers: int = 1,
    progress: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a simulated sample.

    A run that was killed goes on where it stopped; see :func:`astro_utils.sample_writer.write_sharded`.

    Returns
    -------
    pathlib.Path
        `path`.
    """
    load_seds(simulation.family)  # build the cache once, before workers would each do it
    write_sharded(
        path,
        simulation,
        simulation.n_shards,
        simulation.info,
        workers=workers,
        key={"code": code_digest()},
        progress=progress,
        overwrite=overwrite,
    )
    return Path(path)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--n", type=int, required=True, help="objects")
    parser.add_argument("--survey", default="sdss", choices=SURVEYS)
    parser.add_argument("--population", default="spectroscopic", choices=POPULATIONS)
    parser.add_argument("--spectrograph", default=None, choices=SPECTROGRAPHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=32, help="pixels on a side")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    simulation = Simulation(
        n_objects=options.n,
        survey=options.survey,
        population=options.population,
        seed=options.seed,
        size=options.size,
        spectrograph=options.spectrograph,
    )
    simulate(options.path, simulation, workers=options.workers, progress=True)
    print(f"{options.path}: {options.n} objects")


if __name__ == "__main__":
    main()
