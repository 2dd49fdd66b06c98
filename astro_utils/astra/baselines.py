"""What a method must beat: four ways from photometry to a spectrum that need no network.

Every answer is a spectrum on the study's grid at one nanomaggy in r, as
:func:`astro_utils.astra.grid.normalise` makes them.

    ColourNeighbours().fit(colours[train], spectra).predict(colours[test])
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from astro_utils.astra.decoder import grid_of, weighted_components
from astro_utils.astra.grid import LogGrid, calibrate, rebin
from astro_utils.samples import Spectra
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.spectra import SDSS, Projector

__all__ = ["ColourNeighbours", "PhotometryRegression", "TemplateAtRedshift", "mean_spectrum"]


def at_unit_r(wavelength: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Scale spectra (N, L) to a synthetic flux of one nanomaggy in SDSS r."""
    return calibrate(Spectra(wavelength, flux, np.ones_like(flux)), 1.0).flux


def mean_spectrum(spectra: Spectra) -> np.ndarray:
    """Mean of training spectra (L,), each pixel weighted by inverse variance.

    Raises
    ------
    ValueError
        When a pixel is measured in no spectrum.
    """
    total = np.sum(spectra.ivar, axis=0, dtype=float)
    if not (total > 0).all():
        at = spectra.wavelength[np.argmin(total > 0)]
        raise ValueError(f"no spectrum has a measurement at {at:.1f} Angstrom")
    return np.sum(spectra.ivar * spectra.flux, axis=0, dtype=float) / total


def _features(values: np.ndarray, n: int | None = None) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or (n is not None and len(values) != n):
        raise ValueError(f"features of shape {values.shape}; expected ({'N' if n is None else n}, F)")
    if not np.isfinite(values).all():
        row = int(np.argmin(np.isfinite(values).all(1)))
        raise ValueError(f"features of galaxy {row} are not all finite: {values[row].tolist()}")
    return values


class ColourNeighbours:
    """Mean spectrum of the training galaxies that are nearest in colour.

    Parameters
    ----------
    n_neighbours : int
    """

    def __init__(self, n_neighbours: int = 20) -> None:
        self.n_neighbours = n_neighbours

    def fit(self, features: np.ndarray, spectra: Spectra) -> ColourNeighbours:
        """Keep the training set: features (N, F), whitened by their covariance, and spectra."""
        features = _features(features, len(spectra.flux))
        if self.n_neighbours > len(features):
            raise ValueError(f"{self.n_neighbours} neighbours among {len(features)} galaxies")
        self._middle = features.mean(0)
        covariance = np.atleast_2d(np.cov(features.T))
        self._whiten = np.linalg.cholesky(np.linalg.inv(covariance))
        self._tree = cKDTree((features - self._middle) @ self._whiten)
        self._spectra, self._mean = spectra, mean_spectrum(spectra)
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Spectra (N, L) for features (N, F)."""
        scaled = (_features(features) - self._middle) @ self._whiten
        at = self._tree.query(scaled, k=self.n_neighbours)[1].reshape(len(scaled), -1)
        flux, ivar = self._spectra.flux, self._spectra.ivar
        out = np.empty((len(at), flux.shape[1]), dtype=np.float32)
        for i, rows in enumerate(at):
            total = ivar[rows].sum(0)
            weighted = (ivar[rows] * flux[rows]).sum(0)
            out[i] = np.where(total > 0, weighted / np.where(total > 0, total, 1), self._mean)
        return at_unit_r(self._spectra.wavelength, out)


class PhotometryRegression:
    """Principal components of observed spectra, their coefficients by ridge regression.

    The features enter with their squares and products. Components do not know of redshift: lines are blurred
    over all redshifts that the regression cannot tell apart.

    Parameters
    ----------
    n_components : int
    ridge : float
        Penalty on coefficients of standardised features.
    """

    def __init__(self, n_components: int = 12, ridge: float = 1.0) -> None:
        self.n_components = n_components
        self._expand = PolynomialFeatures(2, include_bias=False)
        self._first, self._second = StandardScaler(), StandardScaler()
        self._ridge = Ridge(alpha=ridge)

    def fit(self, features: np.ndarray, spectra: Spectra) -> PhotometryRegression:
        """Fit to features (N, F) and normalised spectra."""
        scaled = self._first.fit_transform(_features(features, len(spectra.flux)))
        expanded = self._second.fit_transform(self._expand.fit_transform(scaled))
        self._wavelength = spectra.wavelength
        self._basis, mean, covariance = weighted_components(spectra.flux, spectra.ivar, self.n_components)
        precision = np.linalg.inv(covariance + 1e-9 * np.trace(covariance) * np.eye(len(mean)))
        normal = np.einsum("kl,nl,ml->nkm", self._basis, spectra.ivar, self._basis, optimize=True) + precision
        right = (spectra.ivar * spectra.flux) @ self._basis.T + precision @ mean
        self._ridge.fit(expanded, np.linalg.solve(normal, right[..., None])[..., 0])
        return self

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Spectra (N, L) for features (N, F)."""
        expanded = self._second.transform(self._expand.transform(self._first.transform(_features(features))))
        coefficients = self._ridge.predict(expanded).reshape(len(expanded), -1)
        return at_unit_r(self._wavelength, (coefficients @ self._basis).astype(np.float32))


class TemplateAtRedshift:
    """Templates of kcorrect that fit the photometry at given redshifts.

    Where galaxies are simulated from these templates, this baseline knows the truth but for the mixture.

    Parameters
    ----------
    templates : GalaxyTemplates
    filters : sequence of str
        Names in `speclite` of the bands.
    wavelength : numpy.ndarray
        (L,) the study's grid, within that of SDSS.
    """

    #: Relative error of photometry that is added to the catalogue's.
    FLOOR = 0.02

    def __init__(self, templates: GalaxyTemplates, filters: tuple[str, ...], wavelength: np.ndarray) -> None:
        self._templates, self._filters = templates, tuple(filters)
        self._bands = templates.band_table(self._filters)
        self._grid: LogGrid = grid_of(wavelength)
        self._fine = np.arange(np.floor(SDSS.edges[0]) - 30.0, SDSS.edges[-1] + 30.0, 1.0)
        self._projector = Projector(self._fine, SDSS)

    def coefficients(self, flux: np.ndarray, error: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Coefficients (N, T) that are not negative, of fluxes and errors (N, bands) at redshifts (N,)."""
        flux, error, z = (np.asarray(values, dtype=float) for values in (flux, error, z))
        expected = (len(z), len(self._filters))
        if flux.shape != expected or error.shape != expected:
            raise ValueError(f"fluxes of shape {flux.shape}, errors {error.shape}; expected {expected}")
        if not ((z >= 0) & (z <= 1.6)).all():
            raise ValueError(f"redshift {z[~((z >= 0) & (z <= 1.6))][0]}; expected 0 to 1.6")
        scale = 1 / np.sqrt(error**2 + (self.FLOOR * flux) ** 2)
        model = self._bands(z)  # (N, T, bands)
        return np.array([nnls((m * s).T, f * s)[0] for m, f, s in zip(model, flux, scale, strict=True)])

    def predict(self, flux: np.ndarray, error: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Spectra.

        Parameters
        ----------
        flux, error : numpy.ndarray
            (N, bands) nanomaggies (AB), corrected for the dust of the Galaxy.
        z : numpy.ndarray
            (N,) redshifts; or (N, Q) of equal probability, over which spectra are averaged.

        Returns
        -------
        numpy.ndarray
            (N, L).
        """
        z = np.asarray(z, dtype=float)
        z = z[:, None] if z.ndim == 1 else z
        out = np.zeros((len(z), self._grid.n_pixels))
        for at in z.T:
            rest = self._templates.spectra(self._fine, at, self.coefficients(flux, error, at))
            pixels = self._projector(rest)
            spectra = rebin(Spectra(SDSS.wavelength, pixels, np.ones_like(pixels)), self._grid)
            out += at_unit_r(spectra.wavelength, spectra.flux)
        return (out / z.shape[1]).astype(np.float32)
