"""ASTROPIXEL: folders of Pan-STARRS cut-outs with an SDSS spectrum each, the data of ASTRA.

One folder per galaxy: ``Galaxy_<specObjID>/images/*.fits``, one cut-out per filter, and
``Galaxy_<specObjID>/spectrum/*.csv`` with the columns ``wavelength`` and ``flux``.

    for block in astropixel_blocks(folder): ...
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits

from astro_utils.cutouts import FLAGS_COLUMN, SKY_COLUMNS, Flag, flag_images
from astro_utils.frames import celestial_wcs, load_fits
from astro_utils.samples import Block, Column, SampleInfo, Spectra
from astro_utils.spectra_files import decode_sdss_specobjid

__all__ = ["PANSTARRS", "astropixel_blocks", "panstarrs_nanomaggies"]

#: The sample of :func:`astropixel_blocks`.
PANSTARRS = SampleInfo(
    survey="panstarrs",
    sky="real",
    bands="grizy",
    pixel_scale=0.25,
    provenance={
        "source": "ASTROPIXEL (Kaggle, sneakyrat): Pan-STARRS1 images, SDSS DR16 spectra",
        "assumed": "inverse variances of spectra from the scatter between pixels: upstream has none",
    },
)

_COLUMNS = {
    "object_id": Column("", "SDSS specObjID of the folder; those above 2^63 appear as negative numbers"),
    **{
        name: Column(c.unit, c.description + " of the centre of the images")
        for name, c in SKY_COLUMNS.items()
    },
    "plate": Column("", "spectroscopic plate"),
    "mjd": Column("d", "Modified Julian Date of the spectrum"),
    "fiberid": Column("", "fibre on the plate"),
    "flags": FLAGS_COLUMN,
}


def panstarrs_nanomaggies(image: np.ndarray, header: fits.Header, path: str | Path) -> np.ndarray:
    """Take a Pan-STARRS stack image to nanomaggies, as its header says.

    Stacks are stored as v = a arcsinh((c - BOFFSET) / (2 BSOFTEN)) with a = 2.5 / ln 10, where c are counts
    in the exposure time EXPTIME with a zero point of 25 AB magnitudes for one count per second (Waters et
    al. 2020, ApJS 251, 4; Magnier et al. 2020, ApJS 251, 6).

    Raises
    ------
    ValueError
        With the file's name, if the header has no exposure time.
    """
    if "BSOFTEN" in header:
        scaled = image * (np.log(10) / 2.5)
        image = header.get("BOFFSET", 0.0) + 2 * header["BSOFTEN"] * np.sinh(scaled)
    if not header.get("EXPTIME", 0) > 0:
        raise ValueError(
            f"{path}: no EXPTIME in the header, so counts cannot be calibrated; "
            "give nanomaggies_per_unit for images of another unit"
        )
    return image / header["EXPTIME"] * 10 ** (-0.4 * (25 - 22.5))


def astropixel_blocks(
    folder: str | Path,
    wavelength: np.ndarray | None = None,
    nanomaggies_per_unit: float | None = None,
    block_size: int = 64,
) -> Iterator[Block]:
    """Read galaxies with images in g, r, i, z, y and spectra, block by block.

    Parameters
    ----------
    folder : str or Path
        Holds the folders ``Galaxy_<specObjID>``.
    wavelength : numpy.ndarray, optional
        (L,) Angstrom in vacuum, increasing: the grid of all spectra; by default that of the first spectrum.
    nanomaggies_per_unit : float, optional
        What one unit of the images is; by default each header tells (:func:`panstarrs_nanomaggies`).
    block_size : int
        Galaxies in a block.

    Yields
    ------
    Block
        With images and spectra. A galaxy without an image in a band has zeros there, and a flag. Spectra are
        interpolated linearly; where one has no data its inverse variance is 0, elsewhere it is that of the
        noise between neighbouring pixels (Stoehr et al. 2008, ASPC 394, 505), one number for the spectrum.

    Raises
    ------
    FileNotFoundError, ValueError
        With the name of the file or folder, and what is missing or wrong.
    """
    homes = sorted(home for home in Path(folder).glob("Galaxy_*") if home.is_dir())
    if not homes:
        raise FileNotFoundError(f"{folder}: no folders Galaxy_<specObjID>")
    shape = None
    for start in range(0, len(homes), block_size):
        rows, images, flux, ivar = [], [], [], []
        for home in homes[start : start + block_size]:
            row, image = _read_images(home, nanomaggies_per_unit, shape)
            measured = _read_spectrum(home)
            wavelength = measured[0] if wavelength is None else np.asarray(wavelength, dtype=float)
            shape = image.shape[1:]
            rows.append(row)
            images.append(image)
            for collected, values in zip((flux, ivar), _on_grid(*measured, wavelength), strict=True):
                collected.append(values)
        stamps, found = flag_images(np.stack(images))
        catalogue = pd.DataFrame(rows)
        catalogue["flags"] |= found
        catalogue = catalogue.join(decode_sdss_specobjid(catalogue["object_id"]))[list(_COLUMNS)]
        spectra = Spectra(wavelength, *(np.stack(part).astype(np.float32) for part in (flux, ivar)))
        yield Block(catalogue, _COLUMNS, stamps, spectra)


def _band_of(path: Path) -> str:
    """Find the filter in a file's name: the one part of it that is a band's letter."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", path.stem.lower()) if part in set(PANSTARRS.bands)]
    if len(parts) != 1:
        raise ValueError(f"{path}: {len(parts)} filters in the name; expected one of g, r, i, z, y as a word")
    return parts[0]


def _read_images(
    home: Path, nanomaggies_per_unit: float | None, shape: tuple[int, int] | None
) -> tuple[dict, np.ndarray]:
    identifier = home.name.removeprefix("Galaxy_")
    if not identifier.isdecimal():
        raise ValueError(f"{home}: the name is not Galaxy_<specObjID>")
    number = int(identifier)
    row = {"object_id": number - (1 << 64) if number >= 1 << 63 else number, "ra": np.nan, "dec": np.nan}
    planes: dict[str, np.ndarray] = {}
    for path in sorted((home / "images").glob("*.fits")):
        band = _band_of(path)
        if band in planes:
            raise ValueError(f"{path}: a second image in {band}")
        hdu = next((hdu for hdu in load_fits(path) if hdu.data is not None and hdu.is_image), None)
        if hdu is None or hdu.data.ndim != 2:
            raise ValueError(f"{path}: no two-dimensional image")
        shape = shape or hdu.data.shape
        if hdu.data.shape != shape:
            raise ValueError(f"{path}: {hdu.data.shape} px; the images before have {shape} px")
        image = hdu.data.astype(float)
        planes[band] = (
            panstarrs_nanomaggies(image, hdu.header, path)
            if nanomaggies_per_unit is None
            else image * nanomaggies_per_unit
        )
        if "CTYPE1" in hdu.header:
            centre = (shape[1] - 1) / 2, (shape[0] - 1) / 2
            row["ra"], row["dec"] = map(float, celestial_wcs(hdu.header, path).all_pix2world(*centre, 0))
    if not planes:
        raise FileNotFoundError(f"{home / 'images'}: no images")
    row["flags"] = 0 if len(planes) == len(PANSTARRS.bands) else Flag.MISSING_BAND
    return row, np.stack([planes.get(band, np.zeros(shape)) for band in PANSTARRS.bands])


def _read_spectrum(home: Path) -> tuple[np.ndarray, np.ndarray]:
    paths = sorted((home / "spectrum").glob("*.csv"))
    if len(paths) != 1:
        raise ValueError(f"{home / 'spectrum'}: {len(paths)} spectra; expected one")
    try:
        table = pd.read_csv(paths[0])
        wavelength, flux = table["wavelength"].to_numpy(float), table["flux"].to_numpy(float)
    except (KeyError, ValueError) as error:  # pandas: an empty or ragged file is a ValueError, too
        raise ValueError(f"{paths[0]}: expected numbers in the columns wavelength, flux ({error})") from error
    if len(wavelength) < 5 or not (np.diff(wavelength) > 0).all():
        raise ValueError(f"{paths[0]}: expected at least five wavelengths, increasing")
    return wavelength, flux


def _on_grid(measured: np.ndarray, flux: np.ndarray, wavelength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    good = np.isfinite(flux)
    second = flux[2:-2] - (flux[:-4] + flux[4:]) / 2
    noise = 1.4826 * np.nanmedian(np.abs(second)) / np.sqrt(1.5) if np.isfinite(second).any() else 0.0
    # Pixels of the grid beside one without a value have none either: its weight would be above zero.
    covered = np.interp(wavelength, measured, good.astype(float), left=0, right=0) == 1
    values = np.interp(wavelength, measured, np.where(good, flux, 0))
    ivar = 1 / noise**2 if noise > 0 else 0.0
    return np.where(covered, values, 0), np.where(covered, ivar, 0)
