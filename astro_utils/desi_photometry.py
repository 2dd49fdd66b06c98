"""DESI spectra joined with the photometry of the Legacy Surveys: by target, by position, or the coadd's own.

block = desi_with_photometry("coadd-x.fits", "redrock-x.fits", "tractor-y.fits")
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from astropy.coordinates import SkyCoord

from astro_utils.frames import load_fits
from astro_utils.photometry import deredden
from astro_utils.samples import Block, Column
from astro_utils.spectra_files import desi_block, read_tractor

__all__ = ["LEGACY_EXTINCTION", "desi_with_photometry"]

#: A / E(B-V) of the Legacy Surveys' g, r, z. Their catalogues take the numbers of DECam for the north too
#: (https://www.legacysurvey.org/dr9/catalogs/#galactic-extinction-coefficients).
LEGACY_EXTINCTION = {"g": 3.214, "r": 2.165, "z": 1.211}

#: Telescopes by the letter of ``PHOTSYS``.
_SYSTEMS = {"N": "BASS/MzLS", "S": "DECam"}
_MATCH_ARCSEC = 1.0

_PHOTOMETRY_COLUMNS = {
    "photometry": Column("", "where the fluxes are from: tractor, fibermap, or none"),
    "system": Column("", "BASS/MzLS or DECam; empty where the fibermap does not say"),
}
for _band in LEGACY_EXTINCTION:
    _PHOTOMETRY_COLUMNS |= {
        f"dered_flux_{_band}": Column(
            "nanomaggy", f"model flux, corrected for Galactic extinction, {_band}; NaN where not measured"
        ),
        f"dered_flux_ivar_{_band}": Column(
            "nanomaggy-2", f"its inverse variance; 0 where not measured, {_band}"
        ),
        f"mw_transmission_{_band}": Column("", f"share of light that Galactic dust transmits, {_band}"),
    }


def desi_with_photometry(coadd: str | Path, redrock: str | Path, tractor: str | Path | None = None) -> Block:
    """Read a DESI coadd with its redshifts and the g, r, z photometry of its targets.

    Parameters
    ----------
    coadd, redrock : str or Path
        As for :func:`astro_utils.spectra_files.desi_block`.
    tractor : str or Path, optional
        ``tractor-*.fits`` of the Legacy Surveys. A target takes the row with its TARGETID, else the nearest
        within 1 arcsec, else the fluxes that the coadd's FIBERMAP has of it.

    Returns
    -------
    Block
        That of ``desi_block``, without images; with ``photometry`` (tractor, fibermap or none), ``system``,
        and in each band ``dered_flux_*`` and ``dered_flux_ivar_*``, corrected for Galactic extinction, and
        ``mw_transmission_*``, by which they were. A band with no inverse variance is not measured, and its
        flux NaN: targets from outside the Legacy Surveys have zeros in FIBERMAP.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file: as ``desi_block`` and ``read_tractor``, or FIBERMAP lacks the fluxes where no Tractor
        file is given, or dust transmits a share of light that is not above 0 and at most 1.
    """
    block = desi_block(coadd, redrock)
    flux, ivar, share, system = _fibermap_photometry(coadd, needed=tractor is None)
    source = np.where((ivar > 0).any(1), "fibermap", "none").astype("U8")
    if tractor is not None:
        rows, _ = read_tractor(tractor)
        match = _match(block.catalogue, rows)
        found = match >= 0
        for values, name in ((flux, "flux"), (ivar, "flux_ivar"), (share, "mw_transmission")):
            values[found] = rows[[f"{name}_{band}" for band in LEGACY_EXTINCTION]].to_numpy()[match[found]]
        if (wrong := ~((share[found] > 0) & (share[found] <= 1))).any():
            raise ValueError(
                f"{tractor}: mw_transmission is {share[found][wrong][0]}; expected above 0, up to 1"
            )
        source[found] = "tractor"
    flux, ivar = deredden(flux, ivar, -2.5 * np.log10(share))
    table = block.catalogue.assign(photometry=source, system=system)
    for k, band in enumerate(LEGACY_EXTINCTION):
        table[f"dered_flux_{band}"] = np.where(ivar[:, k] > 0, flux[:, k], np.nan)
        table[f"dered_flux_ivar_{band}"] = ivar[:, k]
        table[f"mw_transmission_{band}"] = share[:, k]
    return Block(table, {**block.columns, **_PHOTOMETRY_COLUMNS}, None, block.spectra)


def _fibermap_photometry(
    coadd: str | Path, *, needed: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fluxes, inverse variances and dust transmissions (N, 3) of FIBERMAP, and the system (N,)."""
    fibermap = load_fits(coadd)["FIBERMAP"].data
    present = set(fibermap.names)
    bands = [band.upper() for band in LEGACY_EXTINCTION]
    names = [f"FLUX_{band}" for band in bands] + [f"FLUX_IVAR_{band}" for band in bands] + ["EBV"]
    missing = [name for name in names if name not in present]
    if missing and needed:
        raise ValueError(f"{coadd}: FIBERMAP lacks {', '.join(missing)}, and no Tractor file is given")
    n = len(fibermap)
    flux, ivar, share = np.zeros((n, 3)), np.zeros((n, 3)), np.ones((n, 3))
    if not missing:
        flux, ivar = (np.stack([fibermap[f"{part}_{b}"] for b in bands], 1) for part in ("FLUX", "FLUX_IVAR"))
        flux, ivar = flux.astype(float), np.maximum(ivar.astype(float), 0)
        reddening = np.asarray(fibermap["EBV"], float)[:, None] * list(LEGACY_EXTINCTION.values())
        share = 10 ** (-0.4 * np.maximum(reddening, 0))
    letters = fibermap["PHOTSYS"].astype(str) if "PHOTSYS" in present else np.full(n, "")
    system = np.array([_SYSTEMS.get(letter.strip(), "") for letter in letters], dtype=object)
    return flux, ivar, share, system


def _match(targets: pd.DataFrame, rows: pd.DataFrame) -> np.ndarray:
    """Find the row of each target, by its identifier or its position; -1 without one."""
    row_of = {target: row for row, target in enumerate(rows["object_id"].tolist())}
    match = np.array([row_of.get(target, -1) for target in targets["object_id"].tolist()], dtype=int)
    lost = np.flatnonzero(match < 0)
    if len(lost) and len(rows):
        places = SkyCoord(*rows[["ra", "dec"]].to_numpy().T, unit="deg")
        nearest, distance, _ = SkyCoord(
            *targets[["ra", "dec"]].to_numpy()[lost].T, unit="deg"
        ).match_to_catalog_sky(places)
        near = distance.arcsec < _MATCH_ARCSEC
        match[lost[near]] = nearest[near]
    return match
