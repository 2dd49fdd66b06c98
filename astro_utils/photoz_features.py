"""What redshifts of simulated galaxies are estimated from: catalogue, light in pixels, ideal measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from astro_utils import photoz
from astro_utils.photometry import SDSS_BANDS
from astro_utils.photoz_light import light_features
from astro_utils.photoz_sky import light_names
from astro_utils.sky.selections import photoz_sample
from astro_utils.sky.surveys import SDSS

__all__ = ["SETS", "ZERO_POINT_ERRORS", "features", "with_zero_points"]

#: Standard deviations of the calibration of a field of SDSS, u to z, magnitudes (Padmanabhan et al. 2008, ApJ
#: 674, 1217).
ZERO_POINT_ERRORS = (0.02, 0.01, 0.01, 0.01, 0.01)

_FLUXES = ("model_flux", "petro_flux", "psf_flux", "ideal_flux", "ideal_bulge", "ideal_disc")
_ERRORS = ("ideal_error", "ideal_bulge_error", "ideal_disc_error")


def _bands(table: pd.DataFrame, name: str) -> np.ndarray:
    return table[[f"{name}_{b}" for b in SDSS_BANDS]].to_numpy(float)


def _magnitudes(flux: np.ndarray, softening: np.ndarray | float) -> np.ndarray:
    """Asinh magnitudes and colours of fluxes (N, 5), as (N, 9)."""
    magnitude = -2.5 / np.log(10) * np.arcsinh(flux / softening / 2)
    return np.concatenate([magnitude, magnitude[:, :-1] - magnitude[:, 1:]], 1)


def _photometry(table: pd.DataFrame, sample: pd.DataFrame) -> np.ndarray:
    return photoz.features(sample, photoz.OPTICAL).to_numpy(float)


def _shapes(table: pd.DataFrame, sample: pd.DataFrame) -> np.ndarray:
    """PSF magnitudes, width of the PSF, sizes and shapes: what else a catalogue measures in the pixels."""
    bright = _bands(table, "psf_flux") * 10 ** (0.4 * _bands(table, "extinction"))
    sizes = table[["petro_radius", "petro_r50", "petro_r90", "moment_size", "model_radius"]].to_numpy(float)
    radii = np.log(np.concatenate([sizes, _bands(table, "radius")], 1) + 0.05)
    shape = table[["moment_e1", "moment_e2", "model_q", "model_kind", "extinction_r"]].to_numpy(float)
    point = _magnitudes(bright, 10 * SDSS.sky_sigma)  # the noise of a PSF flux is several pixels'
    return np.concatenate([point, _bands(table, "psffwhm"), radii, shape], 1)


def _light(table: pd.DataFrame, sample: pd.DataFrame) -> np.ndarray:
    """Light under elliptical weights, their size and shape, and the width of the PSF."""
    light = table[light_names()].to_numpy(float).reshape(len(table), -1, len(SDSS_BANDS))
    known = light_features(light, _bands(table, "extinction"), SDSS)
    shape = np.stack([np.log(table["light_size"]), table["light_ellipticity"]], 1)
    return np.concatenate([known, shape, _bands(table, "psffwhm")], 1)


def _ideal(table: pd.DataFrame, sample: pd.DataFrame) -> np.ndarray:
    """Fluxes of the matched filter with their errors, and the true size and shape."""
    dust = 10 ** (0.4 * _bands(table, "extinction"))
    flux, error = _bands(table, "ideal_flux") * dust, _bands(table, "ideal_error") * dust
    size = np.log(table[["radius"]].to_numpy(float))
    shape = table[["bulge_q", "disc_q"]].to_numpy(float)
    return np.concatenate([_magnitudes(flux, 10 * SDSS.sky_sigma), np.log(error), size, shape], 1)


def _ideal_parts(table: pd.DataFrame, sample: pd.DataFrame) -> np.ndarray:
    """Fluxes of bulge and disc, their shares of the light in r, errors, and the true sizes."""
    dust, softening = 10 ** (0.4 * _bands(table, "extinction")), 10 * SDSS.sky_sigma
    parts = []
    for name in ("ideal_bulge", "ideal_disc"):
        flux = _bands(table, name) * dust
        share = flux / np.maximum(flux[:, 2:3], 0.5)  # of what the part has in r
        parts += [_magnitudes(flux, softening), np.clip(share, -3, 3)]
        parts.append(np.log(_bands(table, f"{name}_error") * dust))
    parts.append(np.log(table[["bulge_radius", "disc_radius"]].to_numpy(float)))
    return np.concatenate([*parts, table[["bulge_fraction"]].to_numpy(float)], 1)


#: Name of a set to the function that makes it of a catalogue and its sample columns.
SETS: Mapping[str, Callable[[pd.DataFrame, pd.DataFrame], np.ndarray]] = {
    "photometry": _photometry,
    "shapes": _shapes,
    "light": _light,
    "ideal": _ideal,
    "ideal parts": _ideal_parts,
}


def features(table: pd.DataFrame, sample: pd.DataFrame, sets: Sequence[str]) -> np.ndarray:
    """Join sets of features.

    Parameters
    ----------
    table : pandas.DataFrame
        Catalogue of :func:`astro_utils.photoz_sky.main_sample`.
    sample : pandas.DataFrame
        The same galaxies in the columns of :func:`astro_utils.galaxies.galaxy_sample`.
    sets : sequence of str
        Names in :data:`SETS`.

    Returns
    -------
    numpy.ndarray
        (N, F) float32; NaN where moments did not converge.

    Raises
    ------
    ValueError
        When a set is not known.
    """
    for name in sets:
        if name not in SETS:
            raise ValueError(f"feature set {name!r}; expected some of {', '.join(SETS)}")
    return np.concatenate([SETS[name](table, sample) for name in sets], 1).astype(np.float32)


def with_zero_points(table: pd.DataFrame, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give every field and band an error of calibration, the same for everything measured in it.

    Parameters
    ----------
    table : pandas.DataFrame
        Catalogue of :func:`astro_utils.photoz_sky.main_sample`.
    seed : int

    Returns
    -------
    table, sample : pandas.DataFrame
        The catalogue, and its sample columns.
    """
    _, field = np.unique(table["field"], return_inverse=True)
    errors = np.random.default_rng([seed, 2008]).standard_normal((field.max() + 1, len(SDSS_BANDS)))
    factor = 10 ** (-0.4 * errors * np.array(ZERO_POINT_ERRORS))[field]
    out = table.copy()
    scaled = [*_FLUXES, *_ERRORS, *(name.removesuffix("_u") for name in light_names() if name.endswith("_u"))]
    for i, b in enumerate(SDSS_BANDS):
        for name in scaled:
            out[f"{name}_{b}"] = table[f"{name}_{b}"] * factor[:, i]
        for name in ("model_flux", "petro_flux", "psf_flux"):
            out[f"{name}_ivar_{b}"] = table[f"{name}_ivar_{b}"] / factor[:, i] ** 2
    return out, photoz_sample(out)
