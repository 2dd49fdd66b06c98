"""Spectra from photometry: a redshift density times a decoder in the rest frame.

p(spectrum | photometry) is the mean over p(z | photometry) of a Gaussian of the decoder's coefficients given
photometry and z. Its mean is the best guess pixel by pixel, and blurs lines over the redshifts that are
possible; a draw is sharp, with all lines at one redshift. Both have the colours that were measured.

    model = PhotometricDecoder().fit(photometry, spectra, z, groups)
    mean, variance = model.moments(photometry)
    sharp = model.sample(photometry, rng)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from astro_utils.astra.decoder import RestFrameDecoder, grid_of, move
from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.kernel import KernelRegression
from astro_utils.kcorrections.redshift_density import RedshiftDensity
from astro_utils.samples import Spectra
from astro_utils.sky.bandpasses import band_weights
from astro_utils.splits import group_folds

__all__ = ["ConformalBand", "PhotometricDecoder", "Photometry"]


@dataclass(frozen=True, eq=False)
class Photometry:
    """What is known of N galaxies without a spectrum.

    Attributes
    ----------
    features : Features
        (N, F) that redshift and coefficients are estimated from.
    flux, error : numpy.ndarray
        (N, bands) nanomaggies (AB), corrected for the dust of the Galaxy.
    filters : tuple of str
        (bands,) names in `speclite`, all within the spectra and with ``sdss2010-r`` among them.
    """

    features: Features
    flux: np.ndarray
    error: np.ndarray
    filters: tuple[str, ...]

    def __post_init__(self) -> None:
        shape = len(self.features), len(self.filters)
        if self.flux.shape != shape or self.error.shape != shape:
            raise ValueError(
                f"fluxes of shape {self.flux.shape}, errors {self.error.shape}; expected {shape}"
            )
        if not ((self.flux > 0) & np.isfinite(self.flux) & (self.error > 0)).all():
            bad = ~((self.flux > 0) & np.isfinite(self.flux) & (self.error > 0)).all(1)
            raise ValueError(f"galaxy {int(bad.argmax())} has a flux or an error that is not above 0")
        if "sdss2010-r" not in self.filters:
            raise ValueError(f"filters {self.filters}; expected sdss2010-r among them")

    def select(self, rows: np.ndarray) -> Photometry:
        """Keep some galaxies."""
        return Photometry(self.features.select(rows), self.flux[rows], self.error[rows], self.filters)


class PhotometricDecoder:
    """Densities of spectra given photometry.

    Parameters
    ----------
    n_components : int
        Of the decoder.
    n_quantiles : int
        Redshifts by which p(z) is given.
    max_redshift : float
    consistent : bool
        Whether coefficients are corrected so that synthetic colours are the measured ones.
    kinds : tuple of str
        Of the features that coefficients are estimated from, names in
        :data:`astro_utils.kcorrections.features.KINDS`. Redshifts are estimated from all.
    seed : int
    """

    #: Relative error of photometry that is added to the catalogue's.
    FLOOR = 0.01
    #: Folds by which residuals of coefficients are taken of galaxies that the regression has not seen.
    FOLDS = 3

    def __init__(
        self,
        *,
        n_components: int = 10,
        n_quantiles: int = 24,
        max_redshift: float = 0.45,
        consistent: bool = True,
        kinds: tuple[str, ...] = ("colour", "magnitude", "petrosian colour"),
        seed: int = 0,
    ) -> None:
        self.n_components, self.consistent = n_components, consistent
        self.kinds, self.seed = tuple(kinds), seed
        self.density = RedshiftDensity(max_redshift=max_redshift, n_quantiles=n_quantiles, seed=seed)

    def fit(
        self, photometry: Photometry, spectra: Spectra, z: np.ndarray, groups: np.ndarray
    ) -> PhotometricDecoder:
        """Fit to galaxies with spectra.

        Parameters
        ----------
        photometry : Photometry
        spectra : Spectra
            Normalised, on a logarithmic grid.
        z : numpy.ndarray
            (N,) redshifts.
        groups : numpy.ndarray
            (N,) such as sky pixels, that are not torn apart where residuals are taken.
        """
        if not len(photometry.features) == len(spectra.flux) == len(z) == len(groups):
            raise ValueError(
                f"{len(photometry.features)} galaxies with photometry, {len(spectra.flux)} spectra, {len(z)} "
                f"redshifts, {len(groups)} groups; expected as many of each"
            )
        self.grid = grid_of(spectra.wavelength)
        self.density.fit(photometry.features, z, groups)
        self.decoder = RestFrameDecoder.fit(spectra, z, self.n_components)
        trial = np.arange(-0.002, self.density.max_redshift + 0.004, 0.002)
        weights = band_weights(photometry.filters, self.grid.wavelength)
        bands = np.concatenate(
            [self.decoder.components_at(trial[[i]], self.grid) @ weights for i in range(len(trial))]
        )
        self._bands = CubicSpline(trial, bands)  # (N,) -> (N, K, bands)
        self._r = photometry.filters.index("sdss2010-r")
        target = self._unit_r(self.decoder.encode(spectra, z)[0], z)
        features = self._with_redshift(photometry, z)
        folds, residual = group_folds(groups, self.FOLDS, self.seed), np.empty_like(target)
        for fold in range(self.FOLDS):
            held = folds == fold
            model = self._regression().fit(features[~held], target[~held])
            residual[held] = target[held] - model.predict(features[held])
        self._coefficients = self._regression().fit(features, target)
        limit = np.percentile(np.abs(residual), 99.5, axis=0)  # a failed encoding must not widen all
        self._spread = np.cov(np.clip(residual, -limit, limit).T)
        return self

    def _regression(self) -> KernelRegression:
        return KernelRegression(seed=self.seed)

    def _with_redshift(self, photometry: Photometry, z: np.ndarray) -> np.ndarray:
        return np.column_stack([photometry.features.of(*self.kinds).values, z])

    def _unit_r(self, coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
        r = np.einsum("nk,nk->n", coefficients, self._bands(z)[..., self._r])
        return coefficients / r[:, None]

    def _gaussian(self, photometry: Photometry, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean (N, K) and covariance (N, K, K) of coefficients at redshifts (N,)."""
        mean = self._coefficients.predict(self._with_redshift(photometry, z))
        spread = np.broadcast_to(self._spread, (len(z), *self._spread.shape))
        if not self.consistent:
            return self._unit_r(mean, z), spread
        # A colour is linear: f_b - (F_b / F_r) f_r = 0, with the error that the catalogue gives F_b / F_r.
        others = [i for i in range(len(photometry.filters)) if i != self._r]
        ratio = photometry.flux[:, others] / photometry.flux[:, [self._r]]
        relative = (photometry.error / photometry.flux) ** 2 + self.FLOOR**2
        noise = ratio**2 * (relative[:, others] + relative[:, [self._r]])  # (N, B)
        bands = self._bands(z)
        rows = bands[..., others] - ratio[:, None] * bands[..., [self._r]]  # (N, K, B)
        rows = np.concatenate([rows, bands[..., [self._r]]], axis=2)  # and f_r = 1
        wanted = np.append(np.zeros(len(others)), 1.0)
        noise = np.concatenate([noise, np.full((len(z), 1), 1e-6)], axis=1)
        cross = spread @ rows  # (N, K, B)
        total = rows.transpose(0, 2, 1) @ cross + noise[:, :, None] * np.eye(noise.shape[1])
        gain = np.linalg.solve(total, cross.transpose(0, 2, 1)).transpose(0, 2, 1)
        miss = wanted - np.einsum("nk,nkb->nb", mean, rows)
        mean = mean + np.einsum("nkb,nb->nk", gain, miss)
        return self._unit_r(mean, z), spread - gain @ cross.transpose(0, 2, 1)

    def moments(self, photometry: Photometry, chunk: int = 256) -> tuple[np.ndarray, np.ndarray]:
        """Posterior mean and variance of every pixel, without noise, (N, L) each, float32."""
        parts = [
            self._moments(photometry.select(np.arange(start, min(start + chunk, len(photometry.features)))))
            for start in range(0, len(photometry.features), chunk)
        ]
        return tuple(np.concatenate(values) for values in zip(*parts, strict=True))

    def _moments(self, photometry: Photometry) -> tuple[np.ndarray, np.ndarray]:
        redshifts = self.density.quantiles(photometry.features)  # (N, Q)
        first, second = np.zeros((2, len(redshifts), self.grid.n_pixels), dtype=np.float32)
        basis = self.decoder.basis
        outer = (basis[:, None] * basis[None]).reshape(len(basis) ** 2, -1)
        for z in redshifts.T:
            mean, covariance = self._gaussian(photometry, z)
            flux = self.decoder.decode(mean, z, self.grid)
            rest = covariance.reshape(len(z), -1).astype(np.float32) @ outer  # (N, rest pixels)
            first += flux
            second += flux**2 + move(rest, self.decoder.grid, self.grid, z, to_rest=False)
        n = redshifts.shape[1]
        return first / n, np.maximum(second / n - (first / n) ** 2, 0)

    def at_redshift(self, photometry: Photometry, z: np.ndarray) -> np.ndarray:
        """Mean spectra (N, L) at given redshifts (N,), with sharp lines."""
        z = np.asarray(z, dtype=float)
        return self.decoder.decode(self._gaussian(photometry, z)[0], z, self.grid)

    def sample(self, photometry: Photometry, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw one spectrum of each galaxy.

        Returns
        -------
        flux : numpy.ndarray
            (N, L), without noise, sharp.
        z : numpy.ndarray
            (N,) its redshift.
        """
        redshifts = self.density.quantiles(photometry.features)
        position = rng.uniform(0, redshifts.shape[1] - 1, len(redshifts))
        low = np.minimum(position.astype(int), redshifts.shape[1] - 2)
        rows, part = np.arange(len(redshifts)), position - low
        z = redshifts[rows, low] * (1 - part) + redshifts[rows, low + 1] * part
        mean, covariance = self._gaussian(photometry, z)
        draw = np.einsum("nkl,nl->nk", _root(covariance), rng.standard_normal(mean.shape))
        return self.decoder.decode(self._unit_r(mean + draw, z), z, self.grid), z


def _root(covariance: np.ndarray) -> np.ndarray:
    """Matrices whose square is the covariance, which may be singular: (N, K, K)."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None]


class ConformalBand:
    """Intervals of pixels whose coverage is right on galaxies like those of calibration.

    The score of a pixel is its residual in units of the root of predicted variance plus noise variance. In
    each part of the wavelength range its quantile, every galaxy counting alike, is the half width
    (split-conformal intervals, Angelopoulos & Bates 2021, arXiv:2107.07511). Coverage holds on average over
    galaxies and over the pixels of a part.

    Parameters
    ----------
    levels : sequence of float
        Wanted coverages.
    n_parts : int
        Parts of the wavelength range.
    """

    def __init__(self, levels: tuple[float, ...] = (0.68, 0.95), n_parts: int = 16) -> None:
        if not all(0 < level < 1 for level in levels) or n_parts < 1:
            raise ValueError(f"levels {levels}, {n_parts} parts; expected between 0 and 1, and at least 1")
        self.levels, self.n_parts = tuple(levels), n_parts

    def fit(self, truth: Spectra, mean: np.ndarray, variance: np.ndarray) -> ConformalBand:
        """Calibrate on observed spectra with predicted means and variances (N, L)."""
        measured = truth.ivar > 0
        noise = np.divide(1, truth.ivar, out=np.zeros(measured.shape), where=measured)
        score = np.abs(truth.flux - mean) / np.sqrt(np.maximum(variance + noise, 1e-30))
        self._part = np.arange(len(truth.wavelength)) * self.n_parts // len(truth.wavelength)
        self._half: Mapping[float, np.ndarray] = {
            level: np.full(self.n_parts, np.inf) for level in self.levels
        }
        for part in range(self.n_parts):
            inside = measured & (self._part == part)
            weight = inside / np.maximum(inside.sum(1, keepdims=True), 1)
            values, weights = score[inside], weight[inside]
            order = np.argsort(values)
            total = np.cumsum(weights[order])  # one for each galaxy
            for level in self.levels:
                at = np.searchsorted(total, level * (inside.any(1).sum() + 1) * (1 - 1e-12))
                if at < len(values):
                    self._half[level][part] = values[order][at]
        return self

    def interval(
        self, mean: np.ndarray, variance: np.ndarray, ivar: np.ndarray, level: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends (N, L) for pixels that are measured with `ivar` (infinite: without noise)."""
        if level not in self._half:
            raise ValueError(f"level {level}; calibrated for {', '.join(map(str, self.levels))}")
        noise = np.divide(1, ivar, out=np.zeros(np.shape(mean)), where=np.asarray(ivar) > 0)
        width = self._half[level][self._part] * np.sqrt(variance + noise)
        return mean - width, mean + width
