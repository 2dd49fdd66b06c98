"""The k-correction of a galaxy as a function of the redshift that it might have.

At each redshift of a grid kcorrect's templates are fitted to the galaxy's photometry. A density p(z) then
gives the mean k-correction and its spread without further approximation: K is averaged, not taken at the mean
redshift, which matters where K bends or p(z) has two peaks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions
from astro_utils.kcorrections.real_sample import Photometry, with_error_floors
from astro_utils.kcorrections.templates import MAX_CHI2, fit_templates, k_correction

__all__ = ["TemplateGrid", "k_over_redshift", "redshift_steps"]


def redshift_steps(max_redshift: float = 0.46, step: float = 0.02) -> np.ndarray:
    """Redshifts of a grid (G,) from 0.005 on, so near to one another that K is as good as linear between."""
    return np.concatenate([[0.005], np.arange(step, max_redshift + 1e-9, step)])


@dataclass(frozen=True, eq=False)
class TemplateGrid:
    """K and the misfit of each galaxy at each redshift.

    Attributes
    ----------
    z : numpy.ndarray
        (G,) redshifts, increasing.
    k : numpy.ndarray
        (N, G) mag; NaN where no template fits.
    chi2 : numpy.ndarray
        (N, G) of the fit, infinite where none fits.
    """

    z: np.ndarray
    k: np.ndarray
    chi2: np.ndarray

    def select(self, rows: np.ndarray) -> TemplateGrid:
        """Keep some galaxies."""
        return TemplateGrid(self.z, self.k[rows], self.chi2[rows])

    def _between(self, values: np.ndarray, redshifts: np.ndarray) -> np.ndarray:
        """Interpolate values (N, G) at redshifts (N, Q) or (Q,); the ends hold beyond the ends."""
        redshifts = np.broadcast_to(redshifts, (len(values), np.shape(redshifts)[-1]))
        position = np.interp(redshifts, self.z, np.arange(len(self.z)))
        below = np.minimum(position.astype(int), len(self.z) - 2)
        share, rows = position - below, np.arange(len(values))[:, None]
        with np.errstate(invalid="ignore"):  # 0 times an infinite neighbour, which is not taken
            mean = values[rows, below] * (1 - share) + values[rows, below + 1] * share
        mean = np.where(share > 0, mean, values[rows, below])
        return np.where(share < 1, mean, values[rows, below + 1])

    @property
    def trusted(self) -> np.ndarray:
        """Mask of galaxies that templates fit at some redshift, chi2 below ``MAX_CHI2``, (N,)."""
        return self.chi2.min(1) < MAX_CHI2

    def at(self, redshifts: np.ndarray) -> np.ndarray:
        """K of each galaxy at redshifts (N, Q), or at the same (Q,) for all; (N, Q) mag."""
        return self._between(self.k, redshifts)

    def likelihood(self, redshifts: np.ndarray) -> np.ndarray:
        """Likelihood exp(-chi2 / 2) at redshifts (N, Q) or (Q,), (N, Q); the largest of a galaxy is 1."""
        chi2 = self._between(self.chi2, redshifts)
        least = chi2.min(1, keepdims=True)
        return np.exp(-0.5 * (chi2 - np.where(np.isfinite(least), least, 0.0)))

    def average(
        self, redshifts: np.ndarray, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Average K over redshift densities.

        Parameters
        ----------
        redshifts : numpy.ndarray
            (N, Q) points of each density, such as quantiles, or one grid (Q,) for all.
        weights : numpy.ndarray, optional
            (N, Q) probability of each point, rows summing to one; equal by default.

        Returns
        -------
        mean, spread : numpy.ndarray
            (N,) mean and standard deviation of K under p(z), mag; NaN where no template fits.

        Raises
        ------
        ValueError
            When a shape is another one or a row of the weights does not sum to one.
        """
        k = self.at(redshifts)
        if weights is None:
            weights = np.full(k.shape, 1 / k.shape[1])
        weights = np.asarray(weights, dtype=float)
        if weights.shape != k.shape:
            raise ValueError(f"weights of shape {weights.shape}; expected {k.shape}")
        if not np.allclose(weights.sum(1), 1, atol=1e-4):
            row = int(np.abs(weights.sum(1) - 1).argmax())
            raise ValueError(f"the weights of galaxy {row} sum to {weights[row].sum():.4g}, not to 1")
        mean = (weights * k).sum(1)
        return mean, np.sqrt((weights * (k - mean[:, None]) ** 2).sum(1))


def k_over_redshift(photometry: Photometry, options: KcorrectOptions, z: np.ndarray) -> TemplateGrid:
    """Fit templates to every galaxy at every redshift; some 20,000 fits a second.

    Parameters
    ----------
    photometry : Photometry
        Its redshifts are not used.
    options : KcorrectOptions
        Bands and responses, and whether errors get floors.
    z : numpy.ndarray
        (G,) redshifts, such as :func:`redshift_steps`.

    Returns
    -------
    TemplateGrid
    """
    chosen, bands = photometry.only(tuple(options.bands)), options.bandpasses
    flux, ivar = chosen.dereddened()
    if options.error_floors:
        ivar = with_error_floors(flux, ivar, chosen.bands)
    k, chi2 = np.empty((2, len(photometry), len(z)))
    for i, redshift in enumerate(z):
        same = np.full(len(photometry), redshift)
        fit = fit_templates(bands, flux, ivar, same)
        k[:, i] = k_correction(bands, fit.coefficients, same, options.band_shift)[:, 0]
        chi2[:, i] = fit.chi2
    return TemplateGrid(np.asarray(z, dtype=float), k, chi2)
