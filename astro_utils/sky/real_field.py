"""One real SDSS field, read and measured: what the page of real pixels shows.

Where the field's files are not at hand, the stars and stamps of the published run stand in, and say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from astro_utils import registry
from astro_utils.cutouts import Flag, cut_out
from astro_utils.datasets import DatasetError
from astro_utils.figures import COLOURS
from astro_utils.frames import read_frame
from astro_utils.photometry import SDSS_BANDS
from astro_utils.results import atomic, published
from astro_utils.star_photometry import PhotometryFlag, compare_stars, read_calibobj

__all__ = ["RealField", "figure", "read_field", "summary"]

_FIELD = 30
#: Brighter than this in r, the survey's errors are far below the scatter that is asked about.
R_LIMIT = 20.0


@dataclass(frozen=True)
class RealField:
    """Stars and stamps of the field.

    Attributes
    ----------
    stars : pandas.DataFrame
        From :func:`astro_utils.star_photometry.compare_stars`.
    images : numpy.ndarray
        (N, 5, 32, 32) nanomaggies, stamps of the brightest unsaturated stars.
    r : numpy.ndarray
        (N,) their r magnitudes.
    flagged : int
        Of all stars of the catalogue in the field, stamps with a flag.
    measured_here : bool
        False where the numbers are those of the published run.
    """

    stars: pd.DataFrame
    images: np.ndarray
    r: np.ndarray
    flagged: int
    measured_here: bool

    def save(self, stars: Path, stamps: Path) -> None:
        """Write what the repository keeps of this field."""
        with atomic(stars) as temporary:
            self.stars.round(4).to_csv(temporary, index=False)
        with atomic(stamps) as temporary:
            np.savez_compressed(temporary, images=self.images, r=self.r, flagged=self.flagged)


def read_field(allow_download: bool, n_stamps: int = 16) -> RealField:
    """Measure the field's stars and cut stamps, or read those of the published run.

    Parameters
    ----------
    allow_download : bool
        Fetch the field (18 MB) where it is not at hand.
    n_stamps : int
        Stars to show.

    Returns
    -------
    RealField
    """
    try:
        if not (allow_download or registry.available("sdss_frames")):
            raise DatasetError("not at hand")
        files = registry.fetch("sdss_frames")
    except DatasetError:
        return _published()
    by_name = {Path(path).name: Path(path) for path in files.values()}
    frames = {b: read_frame(by_name[f"frame-{b}-004510-4-{_FIELD:04d}.fits.bz2"]) for b in SDSS_BANDS}
    catalogue = read_calibobj(by_name["calibObj-004510-4-star.fits.gz"], _FIELD)
    stars = compare_stars(frames, catalogue)
    images, table = cut_out(frames, catalogue["ra"].to_numpy(), catalogue["dec"].to_numpy())
    r = 22.5 - 2.5 * np.log10(np.maximum(catalogue["psf_flux_r"].to_numpy(), 1e-3))
    saturated = catalogue[[f"saturated_{b}" for b in SDSS_BANDS]].any(axis=1).to_numpy()
    whole = (table["flags"].to_numpy() == 0) & ~saturated
    shown = np.flatnonzero(whole)[np.argsort(r[whole])][:n_stamps]
    flagged = int((table["flags"].to_numpy() & int(Flag.EDGE | Flag.OUTSIDE) != 0).sum())
    return RealField(stars, images[shown], r[shown], flagged, True)


def _published() -> RealField:
    with np.load(published("sky", "real_stamps.npz"), allow_pickle=False) as kept:
        images, r, flagged = kept["images"], kept["r"], int(kept["flagged"])
    return RealField(pd.read_csv(published("sky", "real_stars.csv")), images, r, flagged, False)


def _chosen(stars: pd.DataFrame) -> pd.DataFrame:
    bad = int(PhotometryFlag.OUTSIDE | PhotometryFlag.BAD_PIXELS)
    return stars[stars["isolated"] & ~stars["saturated"] & (stars["flags"] & bad == 0)]


def summary(stars: pd.DataFrame) -> pd.DataFrame:
    """Median and scatter of measured minus catalogue magnitude, unblended stars with r < 20.

    Returns
    -------
    pandas.DataFrame
        Per band ``n``, ``median``, ``scatter`` (1.4826 MAD) and ``largest`` (absolute), mag.
    """
    bright = _chosen(stars)
    bright = bright[bright["r"] < R_LIMIT]
    rows = {}
    for band in SDSS_BANDS:
        offset = bright.loc[bright["band"] == band, "offset"].to_numpy()
        median = float(np.median(offset))
        rows[band] = {
            "n": len(offset),
            "median": median,
            "scatter": float(1.4826 * np.median(np.abs(offset - median))),
            "largest": float(np.abs(offset).max()),
        }
    return pd.DataFrame(rows).T.rename_axis("band").astype({"n": int})


def figure(stars: pd.DataFrame) -> Figure:
    """Measured minus catalogue magnitude against catalogue magnitude, a panel per band."""
    drawn, axes = plt.subplots(1, 5, figsize=(12.5, 3.0), sharey=True)
    good = _chosen(stars)
    for ax, band, colour in zip(axes, SDSS_BANDS, COLOURS, strict=False):
        part = good[good["band"] == band]
        ax.errorbar(part["magnitude"], part["offset"], part["error"], fmt="o", ms=3, lw=0.8, color=colour)
        ax.axhline(0, color=COLOURS[6], lw=0.8)
        ax.set(xlabel=f"catalogue ${band}$ [mag]", ylim=(-0.4, 0.4))
    axes[0].set(ylabel="measured − catalogue [mag]")
    return drawn
