"""Zernike polynomials on the pupil."""

from __future__ import annotations

import numpy as np
from galsim.zernike import zernikeBasis

from astro_utils.psf.optics import Optics

__all__ = ["zernike_basis"]


def zernike_basis(optics: Optics) -> np.ndarray:
    """Evaluate the Zernike polynomials on the samples of the pupil.

    Parameters
    ----------
    optics : Optics

    Returns
    -------
    numpy.ndarray
        (modes, pupil_size, pupil_size) in [mode, y, x]: Noll's order from piston, unit RMS over the disc
        [1]_, and 0 outside of it. The outermost samples lie on the edge of the disc.

    References
    ----------
    .. [1] Noll, R. J., 1976, Journal of the Optical Society of America, 66, 207.
    """
    axis = np.linspace(-1, 1, optics.pupil_size)
    x, y = np.meshgrid(axis, axis)
    disc = np.hypot(x, y) <= 1
    basis = np.zeros((optics.modes, *disc.shape))
    basis[:, disc] = zernikeBasis(optics.modes, x[disc], y[disc])[1:]  # its element 0 means nothing
    return basis
