"""Simulated fields to learn from: their stars, and PSFs fitted to some of them, kept on disk.

>>> seen = simulated_fields(exposures(12, 350, 0, "pickles", first_seed=101), 50, "fits")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.psf_fits import OURS, FitBudget, FittedPsf, read_fit
from astro_utils.starsed.psf_jobs import PsfJob, known_stars, run_jobs
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_samples import read_stars

__all__ = ["SimulatedField", "simulated_fields"]


@dataclass(frozen=True, eq=False)
class SimulatedField:
    """A simulated field to learn from: a fit, labelled stars that it did not see, templates (C, bins)."""

    fitted: FittedPsf
    stars: StarSet
    templates: np.ndarray


def simulated_fields(
    exposures: Sequence[Exposure],
    n_psf: int,
    folder: str | Path,
    *,
    budget: FitBudget | None = None,
    workers: int = 1,
) -> list[SimulatedField]:
    """Simulate fields and fit the PSF of each to its first stars.

    Parameters
    ----------
    exposures : sequence of Exposure
        Of seeds that no field to classify has. Their training stars after the first `n_psf` are learned from.
    n_psf : int
        Stars of a fit, as many as in the fields to classify.
    folder : path
        Where samples and fits are kept; a killed run goes on where it stopped.
    budget : FitBudget, optional
        Of the fits, as in the fields to classify; by default blocks of 4 samples and one start.
    workers : int
        Fits at a time.

    Raises
    ------
    ValueError
        If an exposure has no other stars than those.
    """
    budget, folder = budget or FitBudget(coarse=4, starts=1), Path(folder)
    jobs, stars = {}, {}
    for exposure in exposures:
        name, n = f"{exposure.field_seed}", exposure.stars.n_train
        if not 0 < n_psf < n:
            raise ValueError(f"field {name} has {n} training stars; expected more than {n_psf}, of the PSF")
        path = exposure.write(folder / f"simulated_{name}_{n}.h5", progress=False)
        stars[name] = read_stars(path, slice(0, n))
        jobs[name] = PsfJob(OURS, known_stars(stars[name].rows(slice(0, n_psf)), exposure), exposure, budget)
    found = {name: result.path for _, name, result in run_jobs(jobs, folder, workers)}
    return [
        SimulatedField(
            read_fit(found[name], exposure.optics),
            stars[name].rows(slice(n_psf, None)),
            exposure.templates.weights,
        )
        for name, exposure in zip(jobs, exposures, strict=True)
    ]
