"""Spectra as ASTRA is asked for them: the published targets, and flux on one grid with inverse variances.

>>> import numpy as np
>>> from astro_utils.samples import Spectra
>>> spectra = Spectra(np.linspace(3700, 9300, 5000), np.full((1, 5000), 3.0), np.ones((1, 5000)))
>>> target = fixed_grid(spectra, norm=np.array([2.0]))
>>> target.values[0, :2], target.flux(target.values)[0, :2]
(array([1.5, 1.5], dtype=float32), array([3., 3.]))
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn

from astro_utils.astra.grid import LogGrid, rebin
from astro_utils.samples import Spectra
from astro_utils.sky.bandpasses import NANOMAGGY

__all__ = [
    "FIXED_GRID",
    "FixedGridTarget",
    "OwnGridTarget",
    "fixed_grid",
    "flux_density",
    "log_grid",
    "own_grid",
    "spectrum_loss",
]


def log_grid(points: int) -> LogGrid:
    """Return a grid of so many pixels from 3,800 to 9,200 Angstrom, what SDSS spectra cover."""
    first, last = np.log10([3800.0, 9200.0])
    return LogGrid(first, (last - first) / (points - 1), points)


#: As many points as the published spectra have.
FIXED_GRID = log_grid(4000)

_FLOOR = 1e-6  # of version 2: fluxes below it become it, and it keeps the range of a flat spectrum above zero


@dataclass(frozen=True)
class OwnGridTarget:
    """Published targets, and what it takes to undo them: things of each true spectrum, unknown to a network.

    Attributes
    ----------
    version : {1, 2}
    values : numpy.ndarray
        (N, points) float32. Element k stands for another wavelength in each galaxy.
    first, last : numpy.ndarray
        (N,) Angstrom, the range of each spectrum.
    low, high : numpy.ndarray
        (N,) extremes of log(1 + flux), which become -1 and 1 in version 2; NaN in version 1.
    """

    version: int
    values: np.ndarray
    first: np.ndarray
    last: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def wavelength(self) -> np.ndarray:
        """Return the wavelengths of `values`, (N, points) Angstrom."""
        return np.linspace(self.first, self.last, self.values.shape[1], axis=1)

    def flux(self, values: np.ndarray) -> np.ndarray:
        """Take targets or predictions (N, points) to flux on each galaxy's own grid.

        In version 2 a prediction is given the range of the true spectrum, which says how bright the galaxy
        is. Fluxes that were below 1e-6 come back as 1e-6.

        Raises
        ------
        ValueError
            When values have another shape.
        """
        if np.shape(values) != self.values.shape:
            raise ValueError(f"values have shape {np.shape(values)}; expected {self.values.shape}")
        values = np.asarray(values, dtype=float)
        if self.version == 1:
            return values
        low, high = self.low[:, None], self.high[:, None]
        return np.expm1((values + 1) / 2 * (high - low + _FLOOR) + low)

    def flux_at(self, values: np.ndarray, grid: np.ndarray) -> np.ndarray:
        """Return :meth:`flux` at the wavelengths `grid`, (N, len(grid)); NaN outside a spectrum's range."""
        rows = zip(self.wavelength(), self.flux(values), strict=True)
        return np.stack([np.interp(grid, at, flux, left=np.nan, right=np.nan) for at, flux in rows])


def own_grid(spectra: Spectra, version: int, points: int = 4000) -> OwnGridTarget:
    """Make the published targets (``get_spectrum``).

    Each spectrum is interpolated linearly at `points` equal steps between its own first and last wavelength.
    Version 1 asks for that flux; version 2 raises it to 1e-6 where it is below, takes log(1 + flux) and
    scales it to -1 ... 1 by its extremes, one of which may be a spike of noise.

    Parameters
    ----------
    spectra : Spectra
        A spectrum begins and ends with its first and last pixel above 0 in the inverse variance, and pixels
        of 0 between them are interpolated; the originals know no inverse variance.
    version : {1, 2}
    points : int
        Length of a target.

    Returns
    -------
    OwnGridTarget

    Raises
    ------
    ValueError
        When the version is unknown, a flux is not finite where it was measured, or a spectrum has fewer than
        two measured pixels.
    """
    if version not in (1, 2):
        raise ValueError(f"version is {version!r}; expected 1 or 2")
    wavelength, flux, measured = _checked(spectra)
    if bad := np.flatnonzero(measured.sum(1) < 2).tolist():
        raise ValueError(f"spectrum {bad[0]} has fewer than two measured pixels ({len(bad)} such spectra)")
    first = wavelength[measured.argmax(1)]
    last = wavelength[::-1][measured[:, ::-1].argmax(1)]
    values = np.empty((len(flux), points))
    for row, (one, good) in enumerate(zip(flux, measured, strict=True)):
        values[row] = np.interp(np.linspace(first[row], last[row], points), wavelength[good], one[good])
    low = high = np.full(len(flux), np.nan)
    if version == 2:
        values = np.log1p(np.maximum(values, _FLOOR))
        low, high = values.min(1), values.max(1)
        values = 2 * (values - low[:, None]) / (high - low + _FLOOR)[:, None] - 1
    return OwnGridTarget(version, values.astype(np.float32), first, last, low, high)


@dataclass(frozen=True)
class FixedGridTarget:
    """Flux on one grid, in units of a flux that is known from the images.

    Attributes
    ----------
    grid : numpy.ndarray
        (points,) Angstrom.
    values, ivar : numpy.ndarray
        (N, points) float32, flux over `norm` and its inverse variance; 0 and 0 where there is no measurement.
    norm : numpy.ndarray
        (N,) in the unit of flux.
    """

    grid: np.ndarray
    values: np.ndarray
    ivar: np.ndarray
    norm: np.ndarray

    def flux(self, values: np.ndarray) -> np.ndarray:
        """Take targets or predictions (N, points) to flux, 1e-17 erg / (s cm2 Angstrom).

        Raises
        ------
        ValueError
            When values have another shape.
        """
        if np.shape(values) != self.values.shape:
            raise ValueError(f"values have shape {np.shape(values)}; expected {self.values.shape}")
        return np.asarray(values, dtype=float) * self.norm[:, None]

    def weights(self, error_floor: float = 0.0) -> np.ndarray:
        """Return inverse variances (N, points) with an error of `error_floor` norms added in quadrature.

        Without it the brightest galaxies decide what is learned: their pixels can be 100 times their noise.

        Raises
        ------
        ValueError
            When the floor is below 0.
        """
        if not error_floor >= 0:
            raise ValueError(f"error_floor is {error_floor}; expected 0 or more")
        return self.ivar / (1 + self.ivar * np.float32(error_floor) ** 2)


def fixed_grid(spectra: Spectra, norm: np.ndarray, grid: LogGrid = FIXED_GRID) -> FixedGridTarget:
    """Bring spectra to one grid, with their inverse variances, and divide them by `norm`.

    Parameters
    ----------
    spectra : Spectra
        As :func:`astro_utils.astra.grid.rebin` takes them.
    norm : numpy.ndarray
        (N,) flux above 0 in the same unit, for example :func:`flux_density` of one band.
    grid : LogGrid
        Where a spectrum does not reach, its weights are 0.

    Returns
    -------
    FixedGridTarget
        On the grid of the spectra themselves, :meth:`FixedGridTarget.flux` gives back the flux.

    Raises
    ------
    ValueError
        When a flux is not finite where it was measured, or a norm is not above 0.
    """
    _checked(spectra)
    norm = np.asarray(norm, dtype=float)
    if norm.shape != (len(spectra.flux),):
        raise ValueError(
            f"norm has shape {norm.shape}; expected ({len(spectra.flux)},), one for each spectrum"
        )
    if bad := np.flatnonzero(~((norm > 0) & np.isfinite(norm))).tolist():
        raise ValueError(
            f"norm of spectrum {bad[0]} is {norm[bad[0]]}; expected above 0 ({len(bad)} are not)"
        )
    binned = rebin(spectra, grid)
    values = (binned.flux / norm[:, None]).astype(np.float32)
    return FixedGridTarget(
        grid.wavelength, values, (binned.ivar * norm[:, None] ** 2).astype(np.float32), norm
    )


def flux_density(nanomaggies: np.ndarray, wavelength: float) -> np.ndarray:
    """Convert fluxes (N,) nanomaggies in a band of effective `wavelength` (Angstrom) to F_lambda.

    Returns
    -------
    numpy.ndarray
        (N,) 1e-17 erg / (s cm2 Angstrom), of a source of constant F_nu.
    """
    return np.asarray(nanomaggies, dtype=float) * NANOMAGGY / wavelength**2


def spectrum_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Weighted mean square error of each spectrum, a loss for :func:`astro_utils.training.fit`.

    Parameters
    ----------
    model : torch.nn.Module
        From images to spectra (B, points).
    batch : tuple of torch.Tensor
        Images (B, bands, y, x), targets (B, points), weights (B, points). With weights of one this is the
        published loss; with inverse variances it is chi2 per measured pixel.

    Returns
    -------
    torch.Tensor
        (B,). Pixels of weight 0 do not count; a spectrum of such pixels only has the loss 0.

    Raises
    ------
    ValueError
        When targets or weights do not have the shape of the model's spectra.
    """
    images, target, weight = batch
    spectrum = model(images)
    for name, values in (("targets", target), ("weights", weight)):
        if values.shape != spectrum.shape:
            raise ValueError(
                f"{name} have shape {tuple(values.shape)}; the model makes {tuple(spectrum.shape)}"
            )
    square = (weight * (spectrum - target).square()).sum(1)
    return square / (weight > 0).sum(1).clamp(min=1)


def _checked(spectra: Spectra) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return wavelengths, fluxes in float64 and where there is a measurement."""
    flux, measured = np.asarray(spectra.flux, dtype=float), spectra.ivar > 0
    if bad := np.flatnonzero((measured & ~np.isfinite(flux)).any(1)).tolist():
        raise ValueError(
            f"spectrum {bad[0]} has a weight where its flux is not finite ({len(bad)} such spectra)"
        )
    return np.asarray(spectra.wavelength, dtype=float), flux, measured
