"""A small simulated sky for tests of k-corrections, made once in a session and not to be changed."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from astro_utils.kcorrections.simulated import Galaxies, read_galaxies, simulation
from astro_utils.kcorrections.simulated_task import Task, prepare
from astro_utils.kcorrections.small_astroclip import SmallAstroClip
from astro_utils.models.astroclip import AstroCLIP
from astro_utils.sky.simulate import simulate
from astro_utils.training import seeded

SIZE, FACTOR = 24, 32
#: Galaxies of each family.
N = {"kcorrect": 192, "single_age": 384}

#: Of stamps and spectra of these sizes.
CONFIG = SmallAstroClip(
    size=SIZE,
    patch=8,
    vision_dim=16,
    vision_depth=1,
    vision_heads=2,
    pixels=7781 // FACTOR,
    spectrum_dim=16,
    spectrum_depth=1,
    spectrum_heads=2,
    dim=16,
    heads=2,
)


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="kcorrection_sample_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def sample_file(family: str = "single_age") -> Path:
    """Sample of galaxies of one family in fields of 32."""
    return simulate(_folder() / f"{family}.h5", simulation(N[family], family, 1, SIZE))


@cache
def galaxies(family: str = "single_age") -> Galaxies:
    """Galaxies of :func:`sample_file`."""
    return read_galaxies(sample_file(family), factor=FACTOR)


@cache
def untrained_clip() -> AstroCLIP:
    """Network with random weights: its embeddings are random features of images and spectra."""
    return seeded(0, CONFIG.build).eval()


@cache
def task() -> Task:
    """Independent templates, ready for predictors: some 160 galaxies to learn from, 110 to test on."""
    return prepare(galaxies(), untrained_clip())
