"""One wavelength grid for all spectra of the study, and their calibration by one band.

Spectra of every survey are brought to the same pixels, equal in the logarithm of the vacuum wavelength, and
divided by their synthetic r flux. What is left to predict is the shape of a spectrum; the image has its
brightness. A pixel without a measurement has inverse variance 0.

    spectra = normalise(deredden(rebin(block.spectra, SDSS_GRID), ebv))[0]   # F_lambda at r = 1 nanomaggy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from astro_utils.samples import Spectra
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.fibres import SFD_SCALE, transmission

__all__ = ["SDSS_GRID", "LogGrid", "calibrate", "deredden", "normalise", "rebin", "synthetic_flux"]

#: A band is calibrated if so much of its light falls on measured pixels.
_MEASURED = 0.9


@dataclass(frozen=True)
class LogGrid:
    """Pixels of equal width in log10 of the wavelength.

    Attributes
    ----------
    first, step : float
        Centre of the first pixel, and width, in log10 of vacuum Angstrom.
    n_pixels : int
    """

    first: float
    step: float
    n_pixels: int

    def __post_init__(self) -> None:
        if not (self.step > 0 and self.n_pixels >= 2):
            raise ValueError(
                f"step is {self.step}, n_pixels {self.n_pixels}; expected more than 0 and at least 2"
            )

    @property
    def wavelength(self) -> np.ndarray:
        """Centres of the pixels, (L,) Angstrom."""
        return 10 ** (self.first + self.step * np.arange(self.n_pixels))

    @property
    def edges(self) -> np.ndarray:
        """Edges of the pixels, (L + 1,) Angstrom."""
        return 10 ** (self.first + self.step * (np.arange(self.n_pixels + 1) - 0.5))

    def coarser(self, factor: int) -> LogGrid:
        """Join every `factor` pixels; those left over at the red end are dropped."""
        if factor < 1 or self.n_pixels // factor < 2:
            raise ValueError(f"factor is {factor}; expected 1 to {self.n_pixels // 2}")
        return LogGrid(self.first + (factor - 1) / 2 * self.step, self.step * factor, self.n_pixels // factor)


#: The pixels of SDSS from 3,800 to 9,200 Angstrom, on which an SDSS spectrum is as it was observed.
SDSS_GRID = LogGrid(3.5798, 1e-4, 3840)


def _pixel_edges(wavelength: np.ndarray) -> np.ndarray:
    middle = (wavelength[1:] + wavelength[:-1]) / 2
    return np.concatenate([[2 * wavelength[0] - middle[0]], middle, [2 * wavelength[-1] - middle[-1]]])


def rebin(spectra: Spectra, grid: LogGrid) -> Spectra:
    """Bring spectra to a grid.

    A new pixel is the mean of the old ones that it overlaps, weighted by inverse variance and overlap. The
    inverse variance of an old pixel is shared out among the new ones, so that none is lost or counted twice;
    that the noise of neighbours is then related is not recorded. A new pixel of which less than half was
    measured is masked.

    Parameters
    ----------
    spectra : Spectra
    grid : LogGrid

    Returns
    -------
    Spectra
        (N, L) float32, in the same unit.

    Raises
    ------
    ValueError
        When wavelengths do not increase, or an inverse variance is negative or not finite.
    """
    wavelength = np.asarray(spectra.wavelength, dtype=float)
    if not (np.diff(wavelength) > 0).all():
        raise ValueError("the wavelengths of the spectra do not increase")
    ivar = np.asarray(spectra.ivar, dtype=float)
    if not (np.isfinite(ivar) & (ivar >= 0)).all():
        row = int(np.flatnonzero(~(np.isfinite(ivar) & (ivar >= 0)).all(1))[0])
        raise ValueError(f"spectrum {row} has an inverse variance that is negative or not finite")
    if len(wavelength) == grid.n_pixels and np.allclose(wavelength, grid.wavelength, rtol=1e-8):
        return Spectra(wavelength, np.where(ivar > 0, spectra.flux, 0).astype(np.float32), spectra.ivar)
    old, new = _pixel_edges(wavelength), grid.edges
    first = np.searchsorted(new, old[:-1], side="right") - 1
    reach = int((np.searchsorted(new, old[1:]) - first).max()) + 1
    pixel = first[:, None] + np.arange(reach)  # (old, reach)
    inside = (pixel >= 0) & (pixel < grid.n_pixels)
    at = np.clip(pixel, 0, grid.n_pixels - 1)
    overlap = np.minimum(old[1:, None], new[at + 1]) - np.maximum(old[:-1, None], new[at])
    inside &= overlap > 1e-6 * np.diff(old)[:, None]  # less is rounding, where edges agree
    row = np.broadcast_to(np.arange(len(wavelength))[:, None], pixel.shape)[inside]
    shape = len(wavelength), grid.n_pixels
    length = csr_array((overlap[inside], (row, at[inside])), shape=shape)
    share = csr_array((overlap[inside] / np.diff(old)[row], (row, at[inside])), shape=shape)
    flux = np.where(ivar > 0, spectra.flux, 0)
    total = ivar @ share
    measured = (ivar > 0).astype(float) @ length >= 0.5 * np.diff(new)
    total = np.where(measured, total, 0)
    out = np.divide((ivar * flux) @ share, total, out=np.zeros_like(total), where=total > 0)
    return Spectra(grid.wavelength, out.astype(np.float32), total.astype(np.float32))


def deredden(spectra: Spectra, ebv: np.ndarray) -> Spectra:
    """Correct spectra for the dust of the Galaxy.

    Parameters
    ----------
    spectra : Spectra
        N spectra as observed.
    ebv : numpy.ndarray
        (N,) E(B-V) on the scale of Schlegel, Finkbeiner & Davis (1998), as dust maps and catalogues have it.

    Returns
    -------
    Spectra
        Flux above the dust; errors grow with it.
    """
    share = transmission(spectra.wavelength, SFD_SCALE * np.asarray(ebv, dtype=float))
    if len(share) != len(spectra.flux):
        raise ValueError(f"{len(share)} values of ebv for {len(spectra.flux)} spectra")
    flux, ivar = spectra.flux / share, spectra.ivar * share**2
    return Spectra(spectra.wavelength, flux.astype(np.float32), ivar.astype(np.float32))


def synthetic_flux(spectra: Spectra, filters: Sequence[str]) -> np.ndarray:
    """Fluxes of spectra in bands.

    Gaps are bridged by straight lines.

    Parameters
    ----------
    spectra : Spectra
    filters : sequence of str
        Names in `speclite`.

    Returns
    -------
    numpy.ndarray
        (N, bands) nanomaggies (AB) for spectra in 1e-17 erg / (s cm2 Angstrom); NaN where less than 90 % of
        a band's light falls on measured pixels.
    """
    weights = band_weights(filters, spectra.wavelength)  # (L, bands)
    flux, measured = np.array(spectra.flux, dtype=float), np.asarray(spectra.ivar) > 0
    for i in np.flatnonzero(~measured.all(1) & measured.any(1)):
        known = measured[i]
        gaps = spectra.wavelength[~known]
        flux[i, ~known] = np.interp(gaps, spectra.wavelength[known], flux[i, known])
    share = measured.astype(float) @ weights / weights.sum(0)
    return np.where(share >= _MEASURED, flux @ weights, np.nan)


def calibrate(spectra: Spectra, flux: np.ndarray | float, band: str = "sdss2010-r") -> Spectra:
    """Scale spectra so that their synthetic flux in one band is the catalogue's.

    Parameters
    ----------
    spectra : Spectra
    flux : numpy.ndarray or float
        (N,) nanomaggies (AB).
    band : str
        Name in `speclite`.

    Raises
    ------
    ValueError
        With the row, when a spectrum does not cover the band or has no light in it, or a flux is not above 0.
    """
    flux = np.broadcast_to(np.asarray(flux, dtype=float), len(spectra.flux))
    if not (flux > 0).all():
        row = int(np.argmax(~(flux > 0)))
        raise ValueError(f"flux of galaxy {row} is {flux[row]}; expected more than 0")
    synthetic = synthetic_flux(spectra, [band])[:, 0]
    if not (synthetic > 0).all():
        row = int(np.argmax(~(synthetic > 0)))
        raise ValueError(
            f"spectrum {row} has the synthetic {band} flux {synthetic[row]}; expected more than 0, with "
            f"{_MEASURED:.0%} of the band measured"
        )
    factor = (flux / synthetic)[:, None]
    scaled, ivar = spectra.flux * factor, spectra.ivar / factor**2
    return Spectra(spectra.wavelength, scaled.astype(np.float32), ivar.astype(np.float32))


def normalise(spectra: Spectra, band: str = "sdss2010-r") -> tuple[Spectra, np.ndarray]:
    """Divide spectra by their synthetic flux in a band.

    Returns
    -------
    spectra : Spectra
        As they would be at one nanomaggy in the band.
    flux : numpy.ndarray
        (N,) synthetic flux, nanomaggies.

    Raises
    ------
    ValueError
        As for :func:`calibrate`.
    """
    return calibrate(spectra, 1.0, band), synthetic_flux(spectra, [band])[:, 0]
