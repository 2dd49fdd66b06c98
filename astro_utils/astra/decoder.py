"""A decoder of galaxy spectra in the rest frame: principal components of noisy spectra with gaps.

A spectrum at redshift z is a sum of a few components, which are learned in the rest frame, moved to z. Its
coefficients have a Gaussian prior, so that a spectrum of which little was measured is completed by what
others are like.

    decoder = RestFrameDecoder.fit(spectra, z, n_components=10)
    coefficients, covariance = decoder.encode(spectra, z)
    model = decoder.decode(coefficients, z, SDSS_GRID)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.utils.extmath import randomized_svd

from astro_utils.astra.grid import LogGrid
from astro_utils.samples import Spectra

__all__ = ["LINES", "RestFrameDecoder", "grid_of", "move", "weighted_components"]

#: Errors of training spectra are at least this share of the mean flux: a few bright galaxies do not decide.
_FLOOR = 0.02
#: A pixel of a component is learned from at least so many galaxies per component, and else continued.
_LEAST = 3


def grid_of(wavelength: np.ndarray) -> LogGrid:
    """Return the grid with these centres.

    Raises
    ------
    ValueError
        When the wavelengths are not equal steps in their logarithm.
    """
    position = np.log10(np.asarray(wavelength, dtype=float))
    step = (position[-1] - position[0]) / (len(position) - 1)
    if not step > 0 or np.abs(np.diff(position) - step).max() > 1e-3 * step:
        raise ValueError("wavelengths are not equal steps in log10; rebin the spectra first")
    return LogGrid(float(position[0]), float(step), len(position))


def move(flux: np.ndarray, grid: LogGrid, new: LogGrid, z: np.ndarray, to_rest: bool) -> np.ndarray:
    """Move spectra between the observed and the rest frame by cubic interpolation in log wavelength.

    Parameters
    ----------
    flux : numpy.ndarray
        (N, L) on `grid`, or (N, K, L).
    grid, new : LogGrid
        Of the same step.
    z : numpy.ndarray
        (N,) redshifts.
    to_rest : bool
        Whether `new` is in the rest frame, or `grid` is.

    Returns
    -------
    numpy.ndarray
        (N, ..., new.n_pixels); beyond the ends of `grid`, the value there. F_lambda is not multiplied by
        1 + z: the scale of a spectrum is kept.
    """
    if abs(new.step - grid.step) > 1e-9 * grid.step:
        raise ValueError(f"grids have steps of {grid.step:g} and {new.step:g}; expected the same")
    sign = 1 if to_rest else -1
    shift = (new.first - grid.first + sign * np.log10(1 + np.asarray(z, dtype=float))) / grid.step
    whole = np.floor(shift).astype(int)
    t = (shift - whole).astype(flux.dtype)
    # Lagrange's weights of the pixels at -1, 0, 1 and 2.
    weights = (
        -t * (t - 1) * (t - 2) / 6,
        (t + 1) * (t - 1) * (t - 2) / 2,
        -(t + 1) * t * (t - 2) / 2,
        (t + 1) * t * (t - 1) / 6,
    )
    out = np.zeros((*flux.shape[:-1], new.n_pixels), dtype=flux.dtype)
    shape = (len(t),) + (1,) * (flux.ndim - 1)
    pixel = np.arange(new.n_pixels)
    for tap, weight in zip((-1, 0, 1, 2), weights, strict=True):
        at = np.clip(whole[:, None] + pixel + tap, 0, grid.n_pixels - 1)
        at = at.reshape(len(t), *(1,) * (flux.ndim - 2), -1)
        out += weight.reshape(shape) * np.take_along_axis(flux, at, axis=-1)
    return out


def _move_ivar(ivar: np.ndarray, grid: LogGrid, new: LogGrid, z: np.ndarray) -> np.ndarray:
    """Inverse variances of the nearest pixels; 0 beside a gap and beyond the ends."""
    shift = (new.first - grid.first + np.log10(1 + np.asarray(z, dtype=float))) / grid.step
    at = np.rint(shift).astype(int)[:, None] + np.arange(new.n_pixels)
    inside = (at > 0) & (at < grid.n_pixels - 1)
    whole = (ivar[:, :-2] > 0) & (ivar[:, 2:] > 0)
    padded = np.pad(np.where(whole, ivar[:, 1:-1], 0), ((0, 0), (1, 1)))
    return np.where(inside, np.take_along_axis(padded, np.clip(at, 0, grid.n_pixels - 1), 1), 0)


def _filled(flux: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Bridge gaps with straight lines, or interpolation would spread what is in them."""
    flux, pixel = np.array(flux), np.arange(flux.shape[1])
    for i in np.flatnonzero(~measured.all(1) & measured.any(1)):
        known = measured[i]
        flux[i, ~known] = np.interp(pixel[~known], pixel[known], flux[i, known])
    return flux


def _solve(
    flux: np.ndarray, ivar: np.ndarray, basis: np.ndarray, mean: np.ndarray, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean (N, K) and covariance (N, K, K) of coefficients of each row."""
    k = len(basis)
    outer = (basis[:, None] * basis[None]).reshape(k * k, -1)  # (K K, L)
    normal = (ivar @ outer.T).reshape(-1, k, k).astype(float) + precision
    right = ((ivar * flux) @ basis.T).astype(float) + precision @ mean
    covariance = np.linalg.inv(normal)
    return np.einsum("nkl,nl->nk", covariance, right), covariance


def weighted_components(
    flux: np.ndarray, ivar: np.ndarray, n_components: int, n_iterations: int = 20
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Principal components of rows with errors and gaps, by expectation maximisation.

    The mean is not taken off: the first component is nearly it, and the scale of a row is free. Coefficients
    of a row have the Gaussian prior of all rows; a component's pixel is the weighted least-squares solution
    over rows (Tipping & Bishop 1999, J. R. Stat. Soc. B 61, 611; with weights, Bailey 2012, PASP 124, 1015).

    Parameters
    ----------
    flux, ivar : numpy.ndarray
        (N, L); a pixel without a measurement has ivar 0.
    n_components, n_iterations : int

    Returns
    -------
    basis : numpy.ndarray
        (K, L) orthonormal, with decreasing power. Pixels that too few rows have measured continue the nearest
        that are known.
    mean : numpy.ndarray
        (K,) mean of the coefficients.
    covariance : numpy.ndarray
        (K, K) of the coefficients from row to row.

    Raises
    ------
    ValueError
        When there are fewer rows than components, or a row has no measurement.
    """
    n, length = flux.shape
    if not 1 <= n_components <= n:
        raise ValueError(f"{n_components} components of {n} spectra; expected 1 to {n}")
    if not (ivar > 0).any(1).all():
        raise ValueError(f"spectrum {int(np.argmin((ivar > 0).any(1)))} has no measured pixel")
    flux = np.where(ivar > 0, flux, 0).astype(np.float32)
    level = np.abs((flux * (ivar > 0)).sum(1) / (ivar > 0).sum(1))
    error2 = (_FLOOR * level[:, None]) ** 2
    weight = (ivar / (1 + ivar * error2)).astype(np.float32)
    total = weight.sum(0)
    average = np.divide((weight * flux).sum(0), total, out=np.zeros(length, np.float32), where=total > 0)
    known = (ivar > 0).sum(0) >= min(_LEAST * n_components, max(1, n // 2))
    if not known.any():
        raise ValueError("no pixel is measured in enough spectra")
    start = np.where(weight > 0, flux, average)[:, known]
    basis = np.zeros((n_components, length), np.float32)
    basis[:, known] = randomized_svd(start, n_components, random_state=0)[2]
    mean, precision = np.zeros(n_components), 1e-6 * np.eye(n_components)
    for _ in range(n_iterations):
        c, spread = _solve(flux, weight, basis, mean, precision)
        second = (c[:, :, None] * c[:, None] + spread).reshape(n, -1).astype(np.float32)
        normal = (weight.T @ second).reshape(length, n_components, n_components).astype(float)
        right = ((weight * flux).T @ c.astype(np.float32)).astype(float)
        size = np.trace(normal, axis1=1, axis2=2)[:, None, None] / n_components
        normal += np.where(size > 0, 1e-6 * size, 1.0) * np.eye(n_components)
        basis = np.linalg.solve(normal, right[..., None])[..., 0].T
        basis[:, ~known] = 0
        # Orthonormal, along the axes of the second moments of the coefficients.
        q, r = np.linalg.qr(basis.T)
        moment = r @ second.mean(0).reshape(n_components, -1) @ r.T
        turn = np.linalg.eigh(moment)[1][:, ::-1]
        turn *= np.where(q.sum(0) @ turn < 0, -1, 1)
        basis = np.ascontiguousarray((q @ turn).T, dtype=np.float32)
        c, spread = c @ (turn.T @ r).T, (turn.T @ r) @ spread @ (turn.T @ r).T
        mean = c.mean(0)
        covariance = (c - mean).T @ (c - mean) / n + spread.mean(0)
        precision = np.linalg.inv(covariance + 1e-9 * np.trace(covariance) * np.eye(n_components))
    at = np.arange(length)
    nearest = np.flatnonzero(known)
    nearest = nearest[np.clip(np.searchsorted(nearest, at), 0, len(nearest) - 1)]
    return basis[:, nearest], mean, covariance


#: Strong emission lines, vacuum Angstrom: [O II], [Ne III], H delta to alpha, [O III], He I, [O I], [N II],
#: [S II] (NIST Atomic Spectra Database).
LINES = (
    *(3727.09, 3729.88, 3869.86, 4102.89, 4341.69, 4862.69, 4960.30, 5008.24, 5877.24, 6302.05),
    *(6549.86, 6564.63, 6585.27, 6718.29, 6732.67),
)
_LIGHT = 299_792.458  # km / s


@dataclass(frozen=True, eq=False)
class RestFrameDecoder:
    """Components of galaxy spectra in the rest frame.

    Attributes
    ----------
    grid : LogGrid
        Of the rest frame.
    basis : numpy.ndarray
        (K, grid.n_pixels).
    mean, covariance : numpy.ndarray
        (K,) and (K, K), the prior of the coefficients.
    """

    grid: LogGrid
    basis: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def fit(
        cls, spectra: Spectra, z: np.ndarray, n_components: int = 10, n_iterations: int = 20
    ) -> RestFrameDecoder:
        """Learn the components.

        Parameters
        ----------
        spectra : Spectra
            N spectra on a logarithmic grid, of comparable scale, such as divided by their r flux.
        z : numpy.ndarray
            (N,) redshifts.
        n_components, n_iterations : int

        Raises
        ------
        ValueError
            When the grid is not logarithmic or redshifts are not above -1 and finite, and as for
            :func:`weighted_components`.
        """
        z = np.asarray(z, dtype=float)
        if z.shape != (len(spectra.flux),) or not (np.isfinite(z) & (z > -1)).all():
            raise ValueError(f"expected {len(spectra.flux)} redshifts above -1; got {z.shape}")
        observed = grid_of(spectra.wavelength)
        start = int(np.floor(np.log10(1 + z.max()) / observed.step))
        end = int(np.ceil(-np.log10(1 + z.min()) / observed.step))
        rest = LogGrid(observed.first - start * observed.step, observed.step, observed.n_pixels + start + end)
        flux, ivar = to_rest(spectra, z, rest)
        return cls(rest, *weighted_components(flux, ivar, n_components, n_iterations))

    def with_lines(
        self, widths: Sequence[float] = (100.0, 300.0), amplitude: float = 1.0
    ) -> RestFrameDecoder:
        """Add a component for each emission line of :data:`LINES` and each width.

        Ratios of lines vary more than a few components of a few galaxies can hold. The narrowest profile also
        gets a component that shifts it, because gas need not move as the stars do.

        Parameters
        ----------
        widths : sequence of float
            Standard deviations, km/s, increasing.
        amplitude : float
            Prior standard deviation of a line's peak, in units of the mean level of a typical spectrum.
        """
        log_lambda = np.log(self.grid.wavelength)
        profiles = []
        for line in LINES:
            if not self.grid.wavelength[0] < line < self.grid.wavelength[-1]:
                continue
            for i, width in enumerate(widths):
                x = (log_lambda - np.log(line)) / (width / _LIGHT)
                profiles.append(np.exp(-0.5 * x**2))
                if i == 0:
                    profiles.append(x * np.exp(0.5 - 0.5 * x**2))
        level = np.abs(self.mean @ self.basis).mean()
        k, extra = len(self.basis), len(profiles)
        covariance = np.zeros((k + extra, k + extra))
        covariance[:k, :k] = self.covariance
        covariance[range(k, k + extra), range(k, k + extra)] = (amplitude * level) ** 2
        basis = np.concatenate([self.basis, np.array(profiles, dtype=np.float32).reshape(extra, -1)])
        return RestFrameDecoder(self.grid, basis, np.append(self.mean, np.zeros(extra)), covariance)

    def encode(self, spectra: Spectra, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the coefficients of spectra, with the prior.

        Returns
        -------
        coefficients : numpy.ndarray
            (N, K).
        covariance : numpy.ndarray
            (N, K, K).
        """
        flux, ivar = to_rest(spectra, z, self.grid)
        scale = 1e-9 * np.trace(self.covariance) * np.eye(len(self.mean))
        return _solve(flux, ivar, self.basis, self.mean, np.linalg.inv(self.covariance + scale))

    def decode(self, coefficients: np.ndarray, z: np.ndarray, grid: LogGrid) -> np.ndarray:
        """Spectra (N, L) on an observed grid, of coefficients (N, K) at redshifts (N,)."""
        rest = coefficients.astype(np.float32) @ self.basis
        return move(rest, self.grid, grid, z, to_rest=False)

    def components_at(self, z: np.ndarray, grid: LogGrid) -> np.ndarray:
        """Return the components (N, K, L) on an observed grid at redshifts (N,)."""
        tiled = np.broadcast_to(self.basis, (len(z), *self.basis.shape))
        return move(tiled, self.grid, grid, z, to_rest=False)


def to_rest(spectra: Spectra, z: np.ndarray, rest: LogGrid) -> tuple[np.ndarray, np.ndarray]:
    """Flux and inverse variance (N, rest.n_pixels) of spectra in the rest frame, float32."""
    observed, ivar = grid_of(spectra.wavelength), np.asarray(spectra.ivar, dtype=np.float32)
    flux = _filled(np.asarray(spectra.flux, dtype=np.float32), ivar > 0)
    return move(flux, observed, rest, z, to_rest=True), _move_ivar(ivar, observed, rest, z)
