"""A second family of galaxy spectra, to ask what depends on the choice of templates.

Five mixtures of single-age populations of Bruzual & Charlot (2003, MNRAS 344, 1000), as chosen by Tremonti et
al. (2004, ApJ 613, 898) and shipped by `sdss-mangadap` with ages of 5 Myr to 10 Gyr, without nebular lines.
They cover 3,326 to 9,294 Angstrom in air; beyond, each is continued by the kcorrect mixture that fits it
best, scaled to join.
"""

from __future__ import annotations

from importlib import resources

import numpy as np
from astropy.io import fits
from scipy.optimize import nnls

from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.galaxies import GalaxyTemplates
from astro_utils.sky.stellar_libraries import air_to_vacuum

__all__ = ["single_age_templates"]

#: Metallicity (Z), age (Gyr) and attenuation in V (mag) of the templates.
POPULATIONS = (
    (0.050, 10.0, 0.0),
    (0.020, 5.0, 0.3),
    (0.008, 1.434, 0.0),
    (0.008, 0.025, 0.0),
    (0.020, 0.101, 1.2),
)

_OVERLAP = 300.0  # Angstrom at each end in which the continuation is scaled to the spectrum


def attenuation(wavelength: np.ndarray) -> np.ndarray:
    """A(lambda) / A(V) of starburst galaxies (Calzetti et al. 2000, ApJ 533, 682, eq. 4, R_V = 4.05)."""
    x = 1e4 / np.clip(wavelength, 1200.0, 22000.0)
    blue = 2.659 * (-2.156 + 1.509 * x - 0.198 * x**2 + 0.011 * x**3)
    red = 2.659 * (-1.857 + 1.040 * x)
    return np.maximum(np.where(wavelength < 6300.0, blue, red) + 4.05, 0.0) / 4.05


def single_age_templates() -> GalaxyTemplates:
    """Read, redden and continue the five populations.

    Returns
    -------
    GalaxyTemplates
        On the wavelengths of the kcorrect templates, one nanomaggy in SDSS r each.
    """
    main = GalaxyTemplates.load()
    folder = resources.files("mangadap") / "data" / "spectral_templates" / "bc03_mpajhu"
    flux = np.empty((len(POPULATIONS), len(main.wavelength)))
    for row, (metals, age, dust) in enumerate(POPULATIONS):
        with (
            resources.as_file(folder / f"BC03_z{metals:.3f}_a{age:06.3f}.fits") as path,
            fits.open(path) as hdus,
        ):
            header, values = hdus[0].header, np.asarray(hdus[0].data, dtype=float)
        grid = air_to_vacuum(header["CRVAL1"] + header["CDELT1"] * np.arange(len(values)))
        values = values * 10 ** (-0.4 * dust * attenuation(grid))
        flux[row] = _continued(grid, values, main)
    wavelength = np.arange(2900.0, 11300.0, 2.0)
    r_flux = np.array([np.interp(wavelength, main.wavelength, f) for f in flux]) @ band_weights(
        ["sdss2010-r"], wavelength
    )
    return GalaxyTemplates(main.wavelength, flux / r_flux)


def _continued(grid: np.ndarray, values: np.ndarray, main: GalaxyTemplates) -> np.ndarray:
    """Keep the spectrum where it is known; elsewhere take the best mixture of `main`, scaled to join."""
    inside = (main.wavelength >= grid[0]) & (main.wavelength <= grid[-1])
    target = np.interp(main.wavelength[inside], grid, values)
    weight = 1 / target  # relative residuals, or the brightest wavelengths alone would count
    mixture = nnls((main.flux[:, inside] * weight).T, np.ones(inside.sum()))[0]
    out = mixture @ main.flux
    ends = (
        (main.wavelength < grid[0], (main.wavelength >= grid[0]) & (main.wavelength < grid[0] + _OVERLAP)),
        (main.wavelength > grid[-1], (main.wavelength <= grid[-1]) & (main.wavelength > grid[-1] - _OVERLAP)),
    )
    for beyond, overlap in ends:
        known = np.interp(main.wavelength[overlap], grid, values)
        out[beyond] *= np.mean(known / out[overlap])
    out[inside] = target
    return out
