"""A reader's own folders ``Galaxy_<specObjID>``, as ASTRA's ``python main.py`` takes them: read and split.

galaxies = read_own("Dataset", "own.h5", size=64)
parts, how = split_own(galaxies.block.catalogue)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.wcs import WCS

from astro_utils.astra.folders import write_galaxies
from astro_utils.astra.grid import rebin
from astro_utils.astra.simulated import Parts
from astro_utils.astra.targets import flux_density, log_grid
from astro_utils.astropixel import PANSTARRS
from astro_utils.cutouts import Flag
from astro_utils.results import atomic
from astro_utils.samples import Block, Spectra, open_sample
from astro_utils.sky.simulate import Simulation
from astro_utils.splits import check_disjoint, hold_out, sky_pixels

__all__ = ["OwnGalaxies", "aperture_norm", "example_folders", "read_own", "split_own"]

#: Radius of SDSS's fibres, arcsec, and effective wavelength of Pan-STARRS r, Angstrom (Tonry et al. 2012, ApJ
#: 750, 99): what an image says of the level of a spectrum.
_FIBRE, _R_WAVELENGTH = 1.5, 6170.0
_SCALE = PANSTARRS.pixel_scale  # arcsec
#: A spectrum is used if so much of the grid was measured.
_MEASURED = 0.5
_LEAST = 5


@dataclass(frozen=True, eq=False)
class OwnGalaxies:
    """Galaxies with images of the size that a network takes.

    Attributes
    ----------
    block : Block
        Images (N, 5, size, size) in nanomaggies, spectra as observed, and the catalogue.
    pixels : numpy.ndarray
        (N, 5, size, size) as the files have them.
    norm : numpy.ndarray
        (N,) flux in r within a fibre, from the image, 1e-17 erg / (s cm2 Angstrom).
    left_out : pandas.DataFrame
        ``object_id`` of galaxies that cannot be used, and ``why``.
    """

    block: Block
    pixels: np.ndarray
    norm: np.ndarray
    left_out: pd.DataFrame

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.norm)

    def select(self, rows: np.ndarray) -> OwnGalaxies:
        """Keep some galaxies: a mask or indices."""
        return OwnGalaxies(_rows(self.block, rows), self.pixels[rows], self.norm[rows], self.left_out)

    @property
    def names(self) -> list[str]:
        """Identifiers (specObjID) as the folders have them."""
        return [str(int(one) % (1 << 64)) for one in self.block.catalogue["object_id"]]


def _rows(block: Block, rows: np.ndarray) -> Block:
    s = block.spectra
    spectra = Spectra(s.wavelength, s.flux[rows], s.ivar[rows])
    return Block(
        block.catalogue.iloc[rows].reset_index(drop=True), block.columns, block.images[rows], spectra
    )


def aperture_norm(images: np.ndarray, pixel_scale: float = _SCALE) -> np.ndarray:
    """Flux in r (N,) within a fibre about the middle of images (N, 5, y, x) nanomaggies, as F_lambda."""
    y, x = (np.arange(side) - (side - 1) / 2 for side in images.shape[-2:])
    inside = np.hypot(y[:, None], x) * pixel_scale <= _FIBRE
    r = images[:, PANSTARRS.bands.index("r")]
    return flux_density(r[:, inside].sum(1, dtype=float), _R_WAVELENGTH)


def _middle(images: np.ndarray, size: int, folder: str | Path) -> np.ndarray:
    ny, nx = images.shape[-2:]
    if min(ny, nx) < size:
        raise ValueError(f"{folder}: images of {nx} x {ny} px; expected at least size, {size} x {size} px")
    y, x = (ny - size) // 2, (nx - size) // 2
    return images[..., y : y + size, x : x + size]


def read_own(folder: str | Path, sample: str | Path, size: int) -> OwnGalaxies:
    """Read folders ``Galaxy_<specObjID>`` and write them as a sample of this project.

    Parameters
    ----------
    folder : str or Path
        Holds the folders.
    sample : str or Path
        File of the sample, with whole images in nanomaggies, that replaces what is there.
    size : int
        Pixels on a side, in the middle of each image, that are kept.

    Returns
    -------
    OwnGalaxies

    Raises
    ------
    FileNotFoundError, ValueError
        With the file or folder and what was expected (see
        :func:`astro_utils.astropixel.astropixel_blocks`); when images are smaller than `size`, or fewer than
        five galaxies can be used.
    """
    sample, images, pixels, catalogue, flux, ivar = Path(sample), [], [], [], [], []
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected one that holds Galaxy_<specObjID>")
    write_galaxies(folder, sample)
    stored = sample.with_name(f".{sample.stem}-stored{sample.suffix}")  # with the numbers of the files
    try:
        write_galaxies(folder, stored, nanomaggies_per_unit=1.0)
        with open_sample(sample) as calibrated, open_sample(stored) as raw:
            for block, other in zip(calibrated.blocks(64), raw.blocks(64), strict=True):
                images.append(_middle(block.images, size, folder))
                pixels.append(_middle(other.images, size, folder))
                catalogue.append(block.catalogue)
                flux.append(block.spectra.flux)
                ivar.append(block.spectra.ivar)
    finally:
        stored.unlink(missing_ok=True)
    spectra = Spectra(block.spectra.wavelength, np.concatenate(flux), np.concatenate(ivar))
    whole = Block(pd.concat(catalogue, ignore_index=True), block.columns, np.concatenate(images), spectra)
    norm = aperture_norm(whole.images)
    why = np.full(len(norm), "", dtype=object)
    why[~(norm > 0)] = "no light in the middle of the r image"
    why[(rebin(spectra, log_grid(1000)).ivar > 0).mean(1) < _MEASURED] = "less than half of the spectrum"
    why[(whole.catalogue["flags"] & (Flag.MISSING_BAND | Flag.ALL_ZERO)) > 0] = "no image in a band"
    left_out = pd.DataFrame({"object_id": whole.catalogue["object_id"], "why": why})[why != ""]
    rows = np.flatnonzero(why == "")
    if len(rows) < _LEAST:
        raise ValueError(
            f"{folder}: {len(rows)} galaxies that can be used; expected at least {_LEAST}. "
            f"Left out: {left_out['why'].value_counts().to_dict()}"
        )
    return OwnGalaxies(_rows(whole, rows), np.concatenate(pixels)[rows], norm[rows], left_out)


def split_own(catalogue: pd.DataFrame, seed: int = 0) -> tuple[Parts, str]:
    """Part galaxies by position on the sky where positions are known, else by object.

    A fifth is for the test, and a fifth of the rest says when training stops.

    Parameters
    ----------
    catalogue : pandas.DataFrame
        With ``object_id``, ``ra`` and ``dec``.
    seed : int

    Returns
    -------
    parts : Parts
        In ``calibration`` those on which training stops.
    how : str
        What was parted.

    Raises
    ------
    ValueError
        When all galaxies are within two arcminutes.
    """
    groups, how = catalogue["object_id"].to_numpy(), "objects (no positions in the headers)"
    if catalogue[["ra", "dec"]].notna().all(axis=None):
        nside = 8
        while True:  # pixels as wide as there are enough of them, so that neighbours stay together
            groups = sky_pixels(catalogue["ra"].to_numpy(), catalogue["dec"].to_numpy(), nside)
            if len(np.unique(groups)) >= _LEAST:
                break
            nside *= 2
            if nside > 2048:
                raise ValueError(f"all galaxies lie in {len(np.unique(groups))} places; expected {_LEAST}")
        how = (
            f"{len(np.unique(groups))} pixels of the sky of {np.degrees(np.sqrt(np.pi / 3)) / nside:.2g} deg"
        )
    test = hold_out(groups, 0.2, seed)
    stop = ~test
    stop[stop] = hold_out(groups[~test], 0.2, seed + 1)
    parts = Parts(*(np.flatnonzero(mask) for mask in (~test & ~stop, stop, test)))
    for one, other in ((parts.train, parts.test), (parts.calibration, parts.test), (parts.train, stop)):
        check_disjoint(groups[one], groups[other], "groups")
    return parts, how


def example_folders(folder: str | Path, n: int, seed: int = 0, size: int = 64) -> Path:
    """Write simulated galaxies as ASTROPIXEL has real ones.

    Images are stacks of Pan-STARRS with the headers that calibrate them, as arcsinh of counts; spectra are
    those of SDSS.

    Parameters
    ----------
    folder : str or Path
        Gets ``Galaxy_<specObjID>/images/*.fits`` and ``Galaxy_<specObjID>/spectrum/*.csv``.
    n : int
        Galaxies, two in each field of the sky.
    seed, size : int
        Of the simulation; pixels on a side.

    Returns
    -------
    Path
        `folder`.
    """
    made = Simulation(
        n_objects=n,
        survey="panstarrs",
        population="main_galaxies",
        seed=seed,
        size=size,
        spectrograph="sdss",
        objects_per_field=2,
        objects_per_shard=2 * n,
    )(0)
    for i, row in made.catalogue.iterrows():
        # Plate 1, fibre i + 1 and date 53000 + seed, of reduction 26.
        home = Path(folder) / f"Galaxy_{1 << 50 | (i + 1) << 38 | (3000 + seed) << 24 | 26 << 10}"
        header = WCS(naxis=2)
        header.wcs.ctype, header.wcs.cdelt = ("RA---TAN", "DEC--TAN"), np.array([-1, 1]) * _SCALE / 3600
        header.wcs.crval, header.wcs.crpix = (row["ra"], row["dec"]), [(size + 1) / 2] * 2
        header = header.to_header()
        header.update({"EXPTIME": 900.0, "BOFFSET": 0.0, "BSOFTEN": 100.0})
        for band, image in zip(PANSTARRS.bands, made.images[i].astype(float), strict=True):
            counts = image * header["EXPTIME"] * 10 ** (0.4 * (25 - 22.5))
            stored = 2.5 / np.log(10) * np.arcsinh((counts - header["BOFFSET"]) / (2 * header["BSOFTEN"]))
            with atomic(home / "images" / f"stack.{band}.unconv.fits") as temporary:
                fits.PrimaryHDU(stored.astype(np.float32), header).writeto(temporary, overwrite=True)
        known = made.spectra.ivar[i] > 0
        columns = {"wavelength": made.spectra.wavelength[known], "flux": made.spectra.flux[i, known]}
        with atomic(home / "spectrum" / "spec.csv") as temporary:
            pd.DataFrame(columns).to_csv(temporary, index=False, float_format="%.7g")
    return Path(folder)
