"""A small simulated sky for tests of ASTRA, made once in a session and not to be changed."""

import atexit
import dataclasses
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from astro_utils.astra.methods import Predicted, Task, fit_ours, ours, prepare
from astro_utils.astra.photometric_decoder import PhotometricDecoder
from astro_utils.astra.simulated import Galaxies, read_galaxies, simulation
from astro_utils.samples import Spectra
from astro_utils.sky.simulate import simulate

#: Galaxies, in how large fields, and pixels on a side.
N, FIELD, SIZE = 160, 16, 32
#: Components of our decoder.
COMPONENTS = 5


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="astra_sample_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def sample_file() -> Path:
    """Sample of galaxies in ten fields, enough for three parts."""
    request = dataclasses.replace(simulation(N, seed=1, size=SIZE), objects_per_field=FIELD)
    return simulate(_folder() / "galaxies.h5", request)


@cache
def galaxies() -> Galaxies:
    """Galaxies of :func:`sample_file`."""
    return read_galaxies(sample_file())


@cache
def task() -> Task:
    """Split by field: some 110 galaxies to learn from, 30 to test on."""
    return prepare(galaxies())


@cache
def model() -> PhotometricDecoder:
    """Our model of the training galaxies."""
    return fit_ours(task(), n_components=COMPONENTS)


@cache
def predicted() -> Predicted:
    """Our answers for the test galaxies."""
    return ours(task().test, model())


def poisoned(some: Galaxies, rows: np.ndarray, *what: str) -> Galaxies:
    """Copy galaxies with nonsense at some rows: the ``"redshift"``, ``"spectrum"`` or ``"images"``."""
    rng = np.random.default_rng(9)
    catalogue, images = some.catalogue.copy(), some.images.copy()
    raw, spectra = some.raw, some.spectra
    if "redshift" in what:
        z = some.z.copy()
        z[rows] = rng.permutation(0.34 - z[rows])
        catalogue["z"] = z
    if "images" in what:
        images[rows] = images[rows][..., ::-1, :] * rng.uniform(1, 9, (len(rows), 5, 1, 1)).astype(np.float32)
    if "spectrum" in what:
        turned = []
        for one in (raw, spectra):
            flux, ivar = one.flux.copy(), one.ivar.copy()
            flux[rows] = 1.4 * flux[rows][:, ::-1]
            ivar[rows] = 2 * ivar[rows][:, ::-1]
            turned.append(Spectra(one.wavelength, flux, ivar))
        raw, spectra = turned
    return Galaxies(catalogue, images, raw, spectra, some.photometry)
