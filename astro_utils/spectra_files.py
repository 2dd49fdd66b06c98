"""Spectra of real surveys on one wavelength grid: SDSS spectra, DESI coadds, and Tractor photometry.

Wavelengths are in vacuum, in Angstrom; fluxes in 1e-17 erg / (s cm2 Angstrom). A pixel that a spectrum does
not cover, or that is masked, has inverse variance 0 and flux 0.

    block = sdss_spectra_block(sorted(folder.glob("spec-*.fits")))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from astro_utils.cutouts import SKY_COLUMNS
from astro_utils.frames import load_fits
from astro_utils.samples import Block, Column, Spectra

__all__ = [
    "DESI_WAVELENGTH",
    "SDSS_MASK",
    "decode_sdss_specobjid",
    "desi_block",
    "read_tractor",
    "sdss_spectra_block",
]

#: Bits of ``and_mask`` by which a pixel is dropped: FULLREJECT, NOSKY, BRIGHTSKY, NODATA, COMBINEREJ and
#: REDMONSTER (https://www.sdss4.org/dr17/algorithms/bitmasks/#SPPIXMASK). The others warn of an exposure or
#: of a column of the detector, and are set for up to half of the pixels of good spectra.
SDSS_MASK = sum(1 << bit for bit in (18, 22, 23, 24, 25, 28))

#: The grid of DESI coadds when the arms are joined: 7,781 pixels of 0.8 Angstrom.
DESI_WAVELENGTH = 3600.0 + 0.8 * np.arange(7781)

# Parts of an SDSS spectroscopic identifier: first bit, counted from the lowest, and number of bits.
_SPECOBJID_PARTS = {"plate": (50, 14), "fiberid": (38, 12), "mjd": (24, 14), "run2d": (10, 14)}


def _table(hdus: fits.HDUList, names: Sequence[str], columns: Sequence[str], path: str | Path) -> np.ndarray:
    """Rows of the first HDU called one of `names` that is a table with `columns`."""
    for hdu in hdus:
        if hdu.name in names and isinstance(hdu, fits.BinTableHDU):
            present = {name.upper() for name in hdu.columns.names}
            if missing := [name for name in columns if name.upper() not in present]:
                raise ValueError(f"{path}: table {hdu.name} lacks {', '.join(missing)}")
            return hdu.data
    raise ValueError(f"{path}: no table {' or '.join(names)}")


# ----------------------------------------------------------------------------------------- SDSS spectra


def decode_sdss_specobjid(identifier: Sequence[int]) -> pd.DataFrame:
    """Take SDSS spectroscopic identifiers (``specObjID``) apart into plate, date and fibre.

    Parameters
    ----------
    identifier : sequence of int
        (N,) identifiers. Those of plates above 8191 exceed int64, and may be given as the negative numbers
        that they become there.

    Returns
    -------
    pandas.DataFrame
        Columns plate, mjd and fiberid (int64).

    Notes
    -----
    Bits 50-63 hold the plate, 38-49 the fibre, 24-37 the date less 50000 and 10-23 the version of the
    reduction (https://www.sdss4.org/dr17/help/glossary/#S).
    """
    bits = [int(one) % (1 << 64) for one in identifier]
    parts = {
        name: [one >> first & (1 << size) - 1 for one in bits]
        for name, (first, size) in _SPECOBJID_PARTS.items()
    }
    table = pd.DataFrame(parts, dtype=np.int64)
    table["mjd"] += 50_000
    return table[["plate", "mjd", "fiberid"]]


def _specobjid(plate: int, mjd: int, fiberid: int, run2d: str) -> int:
    """Put a specObjID together, as int64; the reduction is a number, or v5_M_P for 100 M + P."""
    version = [int(part) for part in run2d.strip().lstrip("v").split("_")]
    number = version[0] if len(version) == 1 else 10_000 * (version[0] - 5) + 100 * version[1] + version[2]
    parts = {"plate": plate, "fiberid": fiberid, "mjd": mjd - 50_000, "run2d": number}
    bits = sum(parts[name] << first for name, (first, _) in _SPECOBJID_PARTS.items())
    return bits - (1 << 64) if bits >= 1 << 63 else bits


def _pixel_numbers(loglam: np.ndarray, path: str | Path) -> np.ndarray:
    """Return the numbers of pixels on the grid of all SDSS spectra, 1e4 log10(wavelength)."""
    position = 1e4 * np.asarray(loglam, dtype=float)
    number = np.rint(position).astype(int)
    # Stored in single precision, they are off by up to 0.0013 of a pixel.
    if (np.abs(position - number) > 0.01).any() or (np.diff(number) != 1).any():
        raise ValueError(f"{path}: loglam is not on the common grid of 1e-4 in log10 wavelength")
    return number


def sdss_spectra_block(
    paths: Sequence[str | Path], wavelength_range: tuple[float, float] | None = None
) -> Block:
    """Read ``spec-PLATE-MJD-FIBER.fits`` onto one logarithmic grid.

    The pixels of all SDSS spectra lie on one grid (steps of 1e-4 in log10 of the vacuum wavelength), which
    is checked: pixels are moved as they are, and nothing is interpolated.

    Parameters
    ----------
    paths : sequence of path
        The files, plain or compressed.
    wavelength_range : tuple of float, optional
        Bounds of the grid in Angstrom; by default, all that any of the spectra covers.

    Returns
    -------
    Block
        Without images; with ``plate``, ``mjd``, ``fiberid``, ``z``, ``z_err``, ``zwarning``, ``class``,
        ``subclass`` and ``sn_median``. ``object_id`` has the bits of ``specObjID``.

    Raises
    ------
    ValueError
        With the file's name: damaged, without the tables or columns needed, or on another grid.
    """
    if not len(paths):
        raise ValueError("no files of spectra are given")
    spectra, rows = [], []
    for path in paths:
        hdus = load_fits(path)
        coadd = _table(hdus, ("COADD",), ("flux", "loglam", "ivar", "and_mask"), path)
        number = _pixel_numbers(coadd["loglam"], path)
        flux, ivar = (coadd[name].astype(float) for name in ("flux", "ivar"))
        used = (coadd["and_mask"] & SDSS_MASK == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        spectra.append((number, np.where(used, flux, 0), np.where(used, ivar, 0)))
        rows.append(_sdss_row(hdus, path))
    if wavelength_range is None:
        first, last = min(number[0] for number, _, _ in spectra), max(number[-1] for number, _, _ in spectra)
    else:
        low, high = 1e4 * np.log10(wavelength_range)
        first, last = int(np.ceil(low)), int(np.floor(high))
    flux, ivar = np.zeros((2, len(spectra), last - first + 1), dtype=np.float32)
    for i, (number, one_flux, one_ivar) in enumerate(spectra):
        inside = (number >= first) & (number <= last)
        flux[i, number[inside] - first], ivar[i, number[inside] - first] = one_flux[inside], one_ivar[inside]
    wavelength = 10 ** (1e-4 * np.arange(first, last + 1))
    return Block(pd.DataFrame(rows), _SDSS_COLUMNS, None, Spectra(wavelength, flux, ivar))


_SDSS_COLUMNS = {
    "object_id": Column("", "SDSS specObjID; those above 2^63 appear as negative numbers"),
    **SKY_COLUMNS,
    "plate": Column("", "spectroscopic plate"),
    "mjd": Column("d", "Modified Julian Date of the observation"),
    "fiberid": Column("", "fibre on the plate"),
    "z": Column("", "redshift"),
    "z_err": Column("", "error of the redshift; negative if the fit failed"),
    "zwarning": Column("", "bits of warnings about the redshift; 0 is good"),
    "class": Column("", "spectroscopic class: GALAXY, QSO or STAR"),
    "subclass": Column("", "spectroscopic subclass"),
    "sn_median": Column("", "median signal-to-noise ratio of all pixels"),
}


def _sdss_row(hdus: fits.HDUList, path: str | Path) -> dict:
    numbers, texts = ("PLATE", "MJD", "FIBERID", "ZWARNING"), ("CLASS", "SUBCLASS")
    names = (*numbers, *texts, "RUN2D", "PLUG_RA", "PLUG_DEC", "Z", "Z_ERR", "SN_MEDIAN_ALL")
    entry = _table(hdus, ("SPECOBJ", "SPALL"), names, path)[0]
    row = {name.lower(): int(entry[name]) for name in numbers}
    row |= {name.lower(): str(entry[name]).strip() for name in texts}
    try:
        row["object_id"] = _specobjid(row["plate"], row["mjd"], row["fiberid"], str(entry["RUN2D"]))
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path}: RUN2D is {entry['RUN2D']!r}; expected a number or v5_M_P") from error
    row |= {"ra": float(entry["PLUG_RA"]), "dec": float(entry["PLUG_DEC"])}
    row |= {
        "z": float(entry["Z"]),
        "z_err": float(entry["Z_ERR"]),
        "sn_median": float(entry["SN_MEDIAN_ALL"]),
    }
    return {name: row[name] for name in _SDSS_COLUMNS}


# ---------------------------------------------------------------------------------------------- DESI

_DESI_COLUMNS = {
    "object_id": Column("", "DESI TARGETID"),
    **SKY_COLUMNS,
    "targetid": Column("", "DESI TARGETID"),
    "z": Column("", "redshift by redrock"),
    "z_err": Column("", "error of the redshift"),
    "zwarning": Column("", "bits of warnings about the redshift; 0 is good"),
    "spectype": Column("", "spectral type by redrock: GALAXY, QSO or STAR"),
}


def desi_block(coadd: str | Path, redrock: str | Path) -> Block:
    """Read a DESI coadd with its redshifts, the three arms joined.

    The arms b, r and z share the grid :data:`DESI_WAVELENGTH`. Where two overlap, their mean weighted by
    inverse variance is taken, and the inverse variances add. Masked pixels count as not measured.

    Parameters
    ----------
    coadd : str or Path
        ``coadd-*.fits`` with wavelength, flux, inverse variance and mask of each arm, and FIBERMAP.
    redrock : str or Path
        ``redrock-*.fits`` with the redshifts of the same targets, in any order.

    Returns
    -------
    Block
        Without images; with ``targetid``, ``z``, ``z_err``, ``zwarning`` and ``spectype``. One row for each
        target of the coadd.

    Raises
    ------
    ValueError
        With the file's name: damaged, an extension or column is missing or of another shape, wavelengths
        are off the grid, or a target has no redshift.
    """
    hdus = load_fits(coadd)
    fibermap = _table(hdus, ("FIBERMAP",), ("TARGETID", "TARGET_RA", "TARGET_DEC"), coadd)
    needed = ("TARGETID", "Z", "ZERR", "ZWARN", "SPECTYPE")
    redshifts = _table(load_fits(redrock), ("REDSHIFTS",), needed, redrock)
    row_of = {int(target): row for row, target in enumerate(redshifts["TARGETID"])}
    targets = fibermap["TARGETID"].astype(np.int64)
    if missing := [int(target) for target in targets if int(target) not in row_of]:
        raise ValueError(f"{redrock}: no redshift of target {missing[0]}, which is in {Path(coadd).name}")
    redshifts = redshifts[[row_of[int(target)] for target in targets]]
    columns = {"object_id": targets, "targetid": targets}
    columns |= {name: fibermap[f"TARGET_{name.upper()}"].astype(float) for name in ("ra", "dec")}
    columns |= {"z": redshifts["Z"].astype(float), "z_err": redshifts["ZERR"].astype(float)}
    columns["zwarning"] = redshifts["ZWARN"].astype(np.int64)
    columns["spectype"] = np.char.strip(redshifts["SPECTYPE"].astype(str))
    catalogue = pd.DataFrame({name: columns[name] for name in _DESI_COLUMNS})
    flux, ivar = _join_arms(hdus, len(targets), coadd)
    return Block(catalogue, _DESI_COLUMNS, None, Spectra(DESI_WAVELENGTH, flux, ivar))


def _join_arms(hdus: fits.HDUList, n: int, path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    weighted, total = np.zeros((2, n, len(DESI_WAVELENGTH)))
    for arm in "BRZ":
        names = [f"{arm}_{part}" for part in ("WAVELENGTH", "FLUX", "IVAR", "MASK")]
        if missing := [name for name in names if name not in hdus]:
            raise ValueError(f"{path}: no extension {', '.join(missing)}")
        wavelength, flux, ivar, mask = (hdus[name].data for name in names)
        position = (wavelength - DESI_WAVELENGTH[0]) / 0.8
        pixel = np.rint(position).astype(int)
        if (np.abs(position - pixel) > 0.01).any() or pixel.min() < 0 or pixel.max() >= len(DESI_WAVELENGTH):
            raise ValueError(
                f"{path}: wavelengths of {arm} are not on the grid of 3600 to 9824 by 0.8 Angstrom"
            )
        if not flux.shape == ivar.shape == mask.shape == (n, len(pixel)):
            shapes = ", ".join(str(array.shape) for array in (flux, ivar, mask))
            raise ValueError(
                f"{path}: flux, ivar and mask of {arm} are {shapes}; expected ({n}, {len(pixel)})"
            )
        used = (mask == 0) & np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0)
        weight = np.where(used, ivar, 0).astype(float)
        weighted[:, pixel] += weight * np.where(used, flux, 0)
        total[:, pixel] += weight
    flux = np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)
    return flux.astype(np.float32), total.astype(np.float32)


_TRACTOR_BANDS = "grz"


def read_tractor(path: str | Path) -> tuple[pd.DataFrame, dict[str, Column]]:
    """Read the photometry of a Legacy Survey ``tractor-*.fits``.

    Returns
    -------
    table : pandas.DataFrame
        One row per source: ``object_id``, which is the DESI TARGETID; ``ra``, ``dec``; in g, r, z
        ``flux_*`` and ``flux_ivar_*`` (not corrected for extinction) and ``mw_transmission_*``;
        ``morphology``, ``sersic``, ``shape_r``, ``shape_e1``, ``shape_e2``.
    columns : dict of str to Column
        What these are.

    Raises
    ------
    ValueError
        With the file's name: damaged, or a column is missing.
    """
    columns = {"object_id": Column("", "DESI TARGETID of the source"), **SKY_COLUMNS}
    for band in _TRACTOR_BANDS:
        columns[f"flux_{band}"] = Column("nanomaggy", f"model flux, not corrected for extinction, {band}")
        columns[f"flux_ivar_{band}"] = Column("nanomaggy-2", f"inverse variance of the model flux, {band}")
        columns[f"mw_transmission_{band}"] = Column(
            "", f"share of light that Galactic dust transmits, {band}"
        )
    columns["morphology"] = Column("", "type of the model: PSF, REX, EXP, DEV or SER")
    columns["sersic"] = Column("", "Sersic index")
    columns["shape_r"] = Column("arcsec", "half-light radius of the model; 0 for a point source")
    columns |= {f"shape_e{k}": Column("", f"ellipticity component {k} of the model") for k in (1, 2)}
    upstream = {
        name: {"morphology": "TYPE"}.get(name, name.upper()) for name in columns if name != "object_id"
    }
    hdus = load_fits(path)
    if len(hdus) > 1 and not hdus[1].name:
        hdus[1].name = "TRACTOR"  # the survey's own files leave it without a name
    needed = ("RELEASE", "BRICKID", "OBJID", *upstream.values())
    rows = _table(hdus, ("TRACTOR",), needed, path)
    release, brick, source = (rows[name].astype(np.int64) for name in ("RELEASE", "BRICKID", "OBJID"))
    table = {"object_id": release << 42 | brick << 22 | source}
    for name, source_name in upstream.items():
        values = rows[source_name]
        table[name] = np.char.strip(values.astype(str)) if name == "morphology" else values.astype(float)
    return pd.DataFrame(table), columns
