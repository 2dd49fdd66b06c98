"""What becomes of light on its way to a spectrograph: the dust of the Galaxy, and what misses the fibre."""

from __future__ import annotations

from functools import lru_cache

import astropy.units as u
import numpy as np
from dust_extinction.parameter_averages import F99
from scipy.optimize import nnls
from scipy.special import gammainc, gammaincinv

__all__ = ["SFD_SCALE", "fibre_share", "transmission"]

#: Reddening in the scale of Schlegel, Finkbeiner & Davis (1998), in which the surveys' coefficients and the
#: column ``ebv`` are, over true reddening (Schlafly & Finkbeiner 2011, ApJ 737, 103, section 4.3).
SFD_SCALE = 0.86


def transmission(wavelength: np.ndarray, ebv: np.ndarray) -> np.ndarray:
    """Share of the light that the Galactic dust lets through (Fitzpatrick 1999, PASP 111, 63, R_V = 3.1).

    Parameters
    ----------
    wavelength : numpy.ndarray
        (L,) Angstrom, 1,000 to 33,000.
    ebv : numpy.ndarray
        (N,) E(B-V), mag.

    Returns
    -------
    numpy.ndarray
        (N, L).

    Raises
    ------
    ValueError
        When E(B-V) is negative or not a number.
    """
    ebv = np.asarray(ebv, dtype=float)
    if not (ebv >= 0).all():
        raise ValueError(f"ebv is {ebv[~(ebv >= 0)][0]}; expected 0 or more")
    curve = 3.1 * F99(Rv=3.1)(np.asarray(wavelength, dtype=float) * u.AA)
    return 10 ** (-0.4 * ebv[:, None] * curve)


_SERSIC = {"exponential": 1, "de Vaucouleurs": 4}
_MOFFAT_BETA = 3.5  # as in the images


@lru_cache(maxsize=4)
def _gaussians(profile: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and variances of Gaussians whose sum grows with radius as the light of a profile does.

    Lengths are half-light radii of a galaxy and FWHM of the point-spread function. The sums follow the share
    of the light within a radius to 0.0002 (after Hogg & Lang 2013, PASP 125, 719).
    """
    radius, sigma = np.geomspace(1e-3, 200, 400), np.geomspace(2e-3, 100, 28)
    if profile == "Moffat":
        scale = 0.5 / np.sqrt(2 ** (1 / _MOFFAT_BETA) - 1)
        growth = 1 - (1 + (radius / scale) ** 2) ** (1 - _MOFFAT_BETA)
    else:
        n = _SERSIC[profile]
        growth = gammainc(2 * n, gammaincinv(2 * n, 0.5) * radius ** (1 / n))
    weight = nnls(1 - np.exp(-0.5 * (radius[:, None] / sigma) ** 2), growth)[0]
    return weight[weight > 0] / weight.sum(), sigma[weight > 0] ** 2


def fibre_share(
    radius: np.ndarray, fibre: float, profile: str = "exponential", seeing: float = 1.3
) -> np.ndarray:
    """Share of the light of round sources at the centre of a fibre that goes into it.

    Parameters
    ----------
    radius : numpy.ndarray
        (N,) half-light radii, arcsec; 0 is a point source.
    fibre : float
        Diameter, arcsec.
    profile : {"exponential", "de Vaucouleurs"}
    seeing : float
        FWHM of a Moffat profile, arcsec.

    Returns
    -------
    numpy.ndarray
        (N,).

    Raises
    ------
    ValueError
        When the profile is unknown, or a radius is negative or not a number.
    """
    radius = np.asarray(radius, dtype=float)
    if profile not in _SERSIC:
        raise ValueError(f"no profile {profile!r}; expected one of {', '.join(_SERSIC)}")
    if not (radius >= 0).all():
        raise ValueError(f"a radius is {radius[~(radius >= 0)][0]}; expected 0 or more")
    (weight, variance), (psf_weight, psf_variance) = _gaussians(profile), _gaussians("Moffat")
    total = radius[:, None, None] ** 2 * variance[:, None] + seeing**2 * psf_variance
    return (1 - np.exp(-0.125 * fibre**2 / total)) @ psf_weight @ weight
