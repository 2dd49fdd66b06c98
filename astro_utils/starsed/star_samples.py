"""Simulated stars as samples, in HDF5 files of the project's format that a killed run goes on to write.

    write_stars("stars.h5", config, psf, templates(), psf_key={"field_seed": 3})
    stars = read_stars("stars.h5", subset("S3", config))

The format (:mod:`astro_utils.sample_format`) is one of sources on the sky with fluxes. Stars of this study
are mapped to it so:

- the band ``vis`` holds the noisy stamps, the band ``vis_noiseless`` the same without noise, where known;
- the unit of the stamps, whatever it is, is stored as nanomaggies, of which the provenance says so;
- ``x`` and ``y`` are the position in the field; ``ra`` and ``dec`` are 0 for every star, since no star has a
  place on the sky, and a split by sky position fails;
- ``object_id`` is the row in the catalogue; the gain is in the provenance.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from astro_utils.sample_format import Block, Column, SampleError, SampleInfo
from astro_utils.sample_reader import Rows, open_sample
from astro_utils.sample_writer import write_sharded
from astro_utils.samples import write_sample
from astro_utils.starsed.stamps import Psf, StarSet, observe
from astro_utils.starsed.stars import Catalogue, StarConfig, draw_catalogue
from astro_utils.starsed.templates import Templates

__all__ = ["PIXEL_ARCSEC", "read_stars", "save_stars", "write_stars"]

#: Of the simulated telescope: 12 um at a focal length of 24.5 m.
PIXEL_ARCSEC = 0.101
_SHARD = 512
_SURVEY = "starsed"
_COLUMNS = {
    "object_id": Column("", "row in the catalogue"),
    "ra": Column("deg", "0: the star has no position on the sky"),
    "dec": Column("deg", "0: the star has no position on the sky"),
    "x": Column("", "position in the field"),
    "y": Column("", "position in the field"),
    "label": Column("", "class, 0 (O5) to 12 (M5); -1 where it is not known"),
    "spectrum": Column("", "row of the templates; -1 where it is not known"),
    "snr": Column("", "mean square of the noiseless stamp over that of the noise"),
    "flux": Column("", "total flux in the unit of the stamps"),
    "sigma": Column("", "standard deviation of the noise that is alike in all pixels"),
}


def _block(stars: StarSet, first: int) -> Block:
    n = len(stars)
    values = {
        "object_id": np.arange(first, first + n),
        "ra": np.zeros(n),
        "dec": np.zeros(n),
        "x": stars.positions[:, 0],
        "y": stars.positions[:, 1],
        "label": stars.labels,
        "spectrum": stars.spectra,
        "snr": stars.snr,
        "flux": stars.flux,
        "sigma": stars.sigma,
    }
    layers = [stars.stamps] if stars.noiseless is None else [stars.stamps, stars.noiseless]
    return Block(pd.DataFrame(values), _COLUMNS, np.stack(layers, axis=1))


def _info(
    noiseless: bool, gain: float, seed: int | None, provenance: Mapping[str, Any], sky: str = "simulated"
) -> SampleInfo:
    bands = ("vis", "vis_noiseless") if noiseless else ("vis",)
    unit = "stamps are in the unit of their flux, not in nanomaggies"
    # JSON has no infinity: white noise is written as no gain.
    facts = {"unit": unit, "gain": gain if np.isfinite(gain) else None} | dict(provenance)
    return SampleInfo(_SURVEY, sky, bands, PIXEL_ARCSEC, seed, facts)


@dataclass(frozen=True)
class _Maker:
    """Makes one shard."""

    catalogue: Catalogue
    config: StarConfig
    psf: Psf
    templates: Templates

    def __call__(self, shard: int) -> Block:
        rows = slice(shard * _SHARD, (shard + 1) * _SHARD)
        return _block(observe(self.catalogue, self.config, self.psf, self.templates, rows), rows.start)


def write_stars(
    path: str | Path,
    config: StarConfig,
    psf: Psf,
    templates: Templates,
    *,
    psf_key: Mapping[str, Any],
    workers: int = 1,
    progress: bool = True,
    overwrite: bool = False,
) -> Path:
    """Draw a catalogue, observe all of its stars and write them.

    Parameters
    ----------
    path : str or Path
        The sample. The same call after an interruption goes on where it stopped; after completion it returns
        at once.
    config : StarConfig
    psf : Psf
        With more than one worker it can be pickled.
    templates : Templates
    psf_key : mapping
        All that the PSF depends on, for JSON: its optics and the seed of its field. A file that was made with
        another key is never taken for this one.
    workers, progress, overwrite
        As for :func:`astro_utils.sample_writer.write_sharded`.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    astro_utils.sample_format.SampleError
        When another file is at `path`, or a shard cannot be made.
    """
    weights = hashlib.sha256(np.ascontiguousarray(templates.weights, dtype="<f8").tobytes()).hexdigest()
    described = {"source": templates.source, "names": list(templates.names), "weights_sha256": weights}
    provenance = {"config": asdict(config), "templates": described, "psf": dict(psf_key)}
    catalogue = draw_catalogue(config, templates.classes)
    return write_sharded(
        path,
        _Maker(catalogue, config, psf, templates),
        -(-len(catalogue) // _SHARD),
        _info(True, config.detector.gain if config.detector else np.inf, config.seed, provenance),
        workers=workers,
        progress=progress,
        overwrite=overwrite,
    )


def save_stars(
    path: str | Path, stars: StarSet, provenance: Mapping[str, Any], *, sky: str = "simulated"
) -> Path:
    """Write stars that are in memory, such as those of a published file.

    `provenance` says whence they are, and `sky` whether they are ``simulated`` or ``real``.
    """
    info = _info(stars.noiseless is not None, stars.gain, None, provenance, sky)
    return write_sample(path, [_block(stars, 0)], info)


def read_stars(path: str | Path, rows: Rows = None) -> StarSet:
    """Read stars from a sample.

    Parameters
    ----------
    path : str or Path
        Of :func:`write_stars` or :func:`save_stars`.
    rows : slice, row numbers or mask, optional
        By default all.

    Returns
    -------
    StarSet

    Raises
    ------
    astro_utils.sample_format.SampleError
        When the file is no sample, or one of something else.
    """
    with open_sample(path) as sample:
        missing = [name for name in _COLUMNS if name not in sample.columns]
        if sample.info.survey != _SURVEY or missing or sample.info.bands[:1] != ("vis",):
            raise SampleError(
                f"{path}: not stars of this study: survey is {sample.info.survey!r}, expected {_SURVEY!r}; "
                f"columns missing: {', '.join(missing) or 'none'}"
            )
        table, images = sample.catalogue(rows=rows), sample.images(rows)
        gain = sample.info.provenance.get("gain")
    column = {name: table[name].to_numpy() for name in table}
    return StarSet(
        positions=np.column_stack([column["x"], column["y"]]),
        labels=column["label"],
        spectra=column["spectrum"],
        snr=column["snr"],
        flux=column["flux"],
        sigma=column["sigma"],
        gain=np.inf if gain is None else float(gain),
        stamps=images[:, 0],
        noiseless=images[:, 1] if images.shape[1] > 1 else None,
    )
