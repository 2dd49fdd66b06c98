"""Redshifts of spectra by templates: the redshift at which a few components explain a spectrum best.

It serves to ask what redshift a predicted spectrum shows, whose lines and breaks may be blurred or stand at
the wrong place, and is the usual method of spectroscopic surveys (Bolton et al. 2012, AJ 144, 144). All
spectra have the same weights, so that the fits of all of them are one matrix product per redshift.
"""

from __future__ import annotations

import numpy as np

from astro_utils.astra.decoder import RestFrameDecoder
from astro_utils.astra.grid import LogGrid

__all__ = ["RedshiftFinder"]


class RedshiftFinder:
    """Redshifts of spectra on one grid.

    Parameters
    ----------
    decoder : RestFrameDecoder
        Whose components are the templates.
    grid : LogGrid
        Of the spectra.
    weight : numpy.ndarray
        (L,) of the pixels, such as the median inverse variance of spectra.
    z_max : float
        Redshifts are sought from 0 to here.
    step : float
        Between trial redshifts, in ln(1 + z); the best is refined with a parabola.

    Raises
    ------
    ValueError
        When weights do not fit the grid or are negative, or no redshift is to be tried.
    """

    def __init__(
        self,
        decoder: RestFrameDecoder,
        grid: LogGrid,
        weight: np.ndarray,
        z_max: float = 0.5,
        step: float = 5e-4,
    ) -> None:
        weight = np.asarray(weight, dtype=float)
        if weight.shape != (grid.n_pixels,) or not (weight >= 0).all() or not weight.any():
            raise ValueError(f"weights of shape {weight.shape}; expected {grid.n_pixels} of at least 0")
        if not (z_max > 0 and step > 0):
            raise ValueError(f"z_max is {z_max}, step {step}; expected more than 0")
        self.redshifts = np.expm1(np.arange(0, np.log1p(z_max) + step, step))
        self._decoder, self._grid = decoder, grid
        self._root = np.sqrt(weight / weight.mean()).astype(np.float32)

    def chi2(self, flux: np.ndarray) -> np.ndarray:
        """Weighted squared residual of the best sum of templates at each trial redshift, (N, trials).

        Parameters
        ----------
        flux : numpy.ndarray
            (N, L).
        """
        flux = np.asarray(flux, dtype=np.float32)
        if flux.ndim != 2 or flux.shape[1] != self._grid.n_pixels:
            raise ValueError(f"spectra of shape {flux.shape}; expected (N, {self._grid.n_pixels})")
        if not np.isfinite(flux).all():
            raise ValueError(f"spectrum {int(np.argmin(np.isfinite(flux).all(1)))} is not finite")
        scaled = flux * self._root
        out = np.empty((len(flux), len(self.redshifts)))
        for i, z in enumerate(self.redshifts):
            templates = self._decoder.components_at(np.array([z]), self._grid)[0] * self._root
            axes = np.linalg.qr(templates.T)[0]  # (L, K)
            out[:, i] = np.square(scaled @ axes, dtype=float).sum(1)
        return np.square(scaled, dtype=float).sum(1)[:, None] - out

    def __call__(self, flux: np.ndarray) -> np.ndarray:
        """Redshifts (N,) of spectra (N, L)."""
        chi2 = self.chi2(flux)
        best = chi2.argmin(1)
        inner = np.clip(best, 1, len(self.redshifts) - 2)
        rows = np.arange(len(chi2))
        left, middle, right = (chi2[rows, inner + k] for k in (-1, 0, 1))
        bend = left - 2 * middle + right
        safe = (best == inner) & (bend > 0)
        offset = np.where(safe, (left - right) / (2 * np.where(safe, bend, 1)), best - inner)
        step = np.log1p(self.redshifts[1])
        return np.expm1((inner + offset) * step)
