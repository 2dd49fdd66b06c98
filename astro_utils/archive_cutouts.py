"""Cut-outs from the viewer of the Legacy Surveys (Dey et al. 2019, AJ, 157, 168)."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning

from astro_utils.archive_client import fetch_file

__all__ = ["fetch_legacy_cutouts", "legacy_cutout_url"]

LEGACY_VIEWER = "https://www.legacysurvey.org/viewer/fits-cutout"
MAX_CUTOUT = 3000  # pixels: the viewer silently returns no more


def legacy_cutout_url(
    ra: float,
    dec: float,
    size: int = 256,
    pixel_scale: float = 0.262,
    layer: str = "ls-dr9",
    bands: str = "grz",
) -> str:
    """Address of a FITS cut-out of the Legacy Surveys (Dey et al. 2019, AJ, 157, 168).

    Parameters
    ----------
    ra, dec : float
        Centre, ICRS degrees.
    size : int
        Pixels on a side, up to 3000.
    pixel_scale : float
        Arcsec; 0.262 is that of the survey's images.
    layer : str
        Data release in the viewer's spelling.
    bands : str
        One letter each.

    Raises
    ------
    ValueError
        If the position is not on the sphere, or the size out of bounds.
    """
    if not (0 <= ra < 360 and -90 <= dec <= 90):
        raise ValueError(f"position is ({ra}, {dec}); expected degrees from 0 to 360 and from -90 to 90")
    if not (1 <= size <= MAX_CUTOUT and pixel_scale > 0):
        raise ValueError(f"got {size} pixels of {pixel_scale} arcsec; expected 1 to {MAX_CUTOUT}, above 0")
    parts = {"ra": f"{ra:.7f}", "dec": f"{dec:.7f}", "size": size, "layer": layer, "pixscale": pixel_scale}
    return f"{LEGACY_VIEWER}?{urlencode(parts | {'bands': bands})}"


def _read_cutout(path: Path, size: int, bands: str) -> np.ndarray:
    """Return the image (n_bands, size, size); raise ValueError if the file holds none of this shape."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "File may have been truncated", AstropyWarning)
            with path.open("rb") as file:  # which astropy would leave open after such an error
                image = fits.getdata(file, memmap=False)
    except (OSError, TypeError, ValueError, IndexError, AstropyWarning) as error:
        raise ValueError(f"not a whole FITS image: {error}") from None
    image = image.reshape(-1, *image.shape[-2:])  # one band comes without the first axis
    if image.shape != (len(bands), size, size):
        raise ValueError(f"the image is of shape {image.shape}; expected {(len(bands), size, size)}")
    return image


def fetch_legacy_cutouts(
    ra: np.ndarray,
    dec: np.ndarray,
    folder: str | Path,
    size: int = 256,
    pixel_scale: float = 0.262,
    layer: str = "ls-dr9",
    bands: str = "grz",
) -> list[Path | None]:
    """Download cut-outs of the Legacy Surveys; good ones that are there are kept.

    Parameters
    ----------
    ra, dec : numpy.ndarray
        (N,) ICRS degrees.
    folder : str or Path
        Where they go.
    size, pixel_scale, layer, bands
        As for :func:`legacy_cutout_url`.

    Returns
    -------
    list of Path or None
        One FITS file each, (n_bands, size, size) in nanomaggies. None where the image is zero throughout: so
        the viewer is believed to answer outside of the survey, but it was not tried.

    Raises
    ------
    ArchiveError
        If a cut-out cannot be had; those before it are kept.
    """
    paths: list[Path | None] = []
    check = partial(_read_cutout, size=size, bands=bands)
    for place in zip(np.atleast_1d(ra), np.atleast_1d(dec), strict=True):
        url = legacy_cutout_url(*place, size, pixel_scale, layer, bands)
        name = f"{layer}-{place[0]:.6f}{place[1]:+.6f}-{bands}-{size}-{pixel_scale}.fits"
        path = fetch_file(url, Path(folder) / name, check)
        paths.append(path if np.nan_to_num(check(path)).any() else None)
    return paths
