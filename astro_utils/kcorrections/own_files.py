"""A reader's DESI and AstroCLIP files: spectra joined with photometry, images embedded with weights."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from astro_utils import registry
from astro_utils.astroclip_files import write_astroclip
from astro_utils.astroclip_inputs import image_inputs
from astro_utils.astroclip_weights import published_astroclip
from astro_utils.datasets import DatasetError
from astro_utils.desi_photometry import desi_with_photometry
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.results import atomic
from astro_utils.samples import open_sample

__all__ = ["desi_example", "embed_astroclip_file"]

_BANDS = ("g", "r", "z")


def desi_example(allow_download: bool) -> pd.DataFrame | None:
    """Join DESI's example coadds with their photometry, and take K by kcorrect where it has any.

    Parameters
    ----------
    allow_download : bool
        Whether files that are not at hand are fetched.

    Returns
    -------
    pandas.DataFrame or None
        One line a target: ``targetid``, ``z``, ``photometry`` (where it comes from), ``system``, dereddened
        fluxes (nanomaggies) and ``k_r`` (mag, to SDSS r at band shift 0.1); None where the files are not at
        hand.
    """
    try:
        if not (allow_download or registry.available("desi_coadds")):
            return None
        files = {Path(name).name: path for name, path in registry.fetch("desi_coadds").items()}
    except DatasetError:
        return None
    tractor = next((path for name, path in files.items() if name.startswith("tractor-")), None)
    tables = []
    for name, coadd in sorted(files.items()):
        redrock = files.get(name.replace("coadd-", "redrock-"))
        if name.startswith("coadd-") and redrock is not None:
            tables.append(desi_with_photometry(coadd, redrock, tractor).catalogue)
    table = pd.concat(tables, ignore_index=True)
    flux, ivar = (
        table[[f"{part}_{b}" for b in _BANDS]].to_numpy(float) for part in ("dered_flux", "dered_flux_ivar")
    )
    k = np.full(len(table), np.nan)
    for system in table["system"].unique():
        rows = np.flatnonzero((table["system"] == system) & (ivar > 0).all(1))
        if len(rows):
            none = np.zeros((len(rows), 3))
            photometry = Photometry(_BANDS, flux[rows], ivar[rows], none, table["z"].to_numpy(float)[rows])
            k[rows] = run_kcorrect(photometry, KcorrectOptions("grz", str(system))).k
    columns = ["targetid", "z", "photometry", "system", *(f"dered_flux_{b}" for b in _BANDS)]
    return table[columns].assign(k_r=k)


def embed_astroclip_file(source: str | Path, sample: Path, weights: str | Path = "") -> dict[str, int]:
    """Read AstroCLIP's data into a sample and, with the published weights, embed its images.

    Parameters
    ----------
    source : path
        As for :func:`astro_utils.astroclip_files.write_astroclip`.
    sample : pathlib.Path
        To write. Embeddings go beside it, as ``<name>_embeddings.h5`` with ``object_id`` (N,) and ``image``
        (N, 1024) float32.
    weights : path
        ``astroclip.ckpt``; empty to embed nothing.

    Returns
    -------
    dict of str to int
        Counts of :func:`astro_utils.astroclip_files.write_astroclip`, and ``embedded``.
    """
    counts = write_astroclip(source, sample) | {"embedded": 0}
    if not weights:
        return counts
    model = published_astroclip(weights)
    with (
        open_sample(sample) as galaxies,
        atomic(sample.with_name(f"{sample.stem}_embeddings.h5")) as temporary,
    ):
        with h5py.File(temporary, "w") as file:
            file["object_id"] = galaxies.catalogue(["object_id"])["object_id"].to_numpy()
            out = file.create_dataset("image", (len(galaxies), model.dim), np.float32)
            for block in galaxies.blocks(64):
                start, stop = counts["embedded"], counts["embedded"] + len(block.images)
                out[start:stop] = model.embed_images(block.images, prepare=image_inputs).numpy()
                counts["embedded"] = stop
    return counts
