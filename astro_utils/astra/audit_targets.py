"""Checks of what ASTRA is asked for: wavelengths that move, spikes that set the scale, brightness.

rows = [*wavelength_rows("quick"), *spike_rows(galaxies, settings, "quick")]
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.ndimage import median_filter

from astro_utils import registry
from astro_utils.astra.audit_setup import AuditSettings, audit_row, interval, mean_with_interval
from astro_utils.astra.real_spectra import manga_spectra
from astro_utils.astra.simulated import Galaxies
from astro_utils.astra.targets import own_grid
from astro_utils.samples import Spectra
from astro_utils.spectra_files import sdss_spectra_block

__all__ = [
    "POINTS",
    "maxima",
    "scale_rows",
    "scale_share",
    "spectrum_ranges",
    "spike_rows",
    "wavelength_rows",
]

#: Length of a published target.
POINTS = 4000
#: Strong lines of galaxies, vacuum Angstrom: [O II], H-beta, [O III], H-alpha with [N II], [S II].
LINES = np.array([3728.5, 4862.7, 4960.3, 5008.2, 6549.9, 6564.6, 6585.3, 6718.3, 6732.7])
_LINE_WIDTH = 12.0  # Angstrom in the rest frame, either side
_NEIGHBOURS = 41  # elements of the running median, 55 Angstrom
_ELEMENTS = {"first": 0, "middle": POINTS // 2, "last": POINTS - 1}


def spectrum_ranges() -> pd.DataFrame:
    """Read where real spectra begin and end, as :func:`astro_utils.astra.targets.own_grid` sees it.

    Returns
    -------
    pandas.DataFrame
        Columns ``survey``, ``first``, ``last`` (vacuum Angstrom): spectra of MaNGA and one of SDSS from
        installed packages, and those of SDSS in the data folder, if it has ``sdss_spectra``.
    """
    files = [Path(str(resources.files("ppxf").joinpath("spectra", "NGC4636_SDSS_DR12.fits")))]
    if registry.available("sdss_spectra"):
        local = registry.fetch("sdss_spectra", download=False).values()
        files += sorted(Path(path) for path in local if Path(path).name.startswith("spec-"))
    found = [("SDSS", sdss_spectra_block([path]).spectra) for path in files]
    folder = Path(str(resources.files("mangadap").joinpath("data", "tests")))
    found += [
        ("MaNGA", manga_spectra(path)[0]) for path in sorted(folder.glob("MaNGA_*test_spectra.fits.gz"))
    ]
    rows = []
    for survey, spectra in found:
        measured = (spectra.ivar > 0).sum(1) > 1
        target = own_grid(
            Spectra(spectra.wavelength, spectra.flux[measured], spectra.ivar[measured]), 1, points=2
        )
        rows += [(survey, first, last) for first, last in zip(target.first, target.last, strict=True)]
    return pd.DataFrame(rows, columns=["survey", "first", "last"])


def wavelength_rows(profile: str) -> list[dict[str, Any]]:
    """Ask by how many Angstrom an element of the published target moves; experiment ``own grid``.

    ``shift_first``, ``shift_middle`` and ``shift_last``: largest less smallest wavelength of that element
    among the real spectra of a survey, Angstrom; ``elements``, the largest of them in steps of the target.
    A survey of which only one spectrum is at hand has no row.
    """
    rows = []
    for survey, part in spectrum_ranges().groupby("survey", sort=False):
        if len(part) < 2:
            continue
        at = np.linspace(part["first"], part["last"], POINTS, axis=1)
        metrics = {f"shift_{name}": np.ptp(at[:, k]) for name, k in _ELEMENTS.items()}
        metrics["elements"] = max(metrics.values()) / np.median(np.diff(at, axis=1))
        rows.append(audit_row(profile, "own grid", survey, len(part), metrics, sky="real"))
    return rows


def maxima(galaxies: Galaxies) -> pd.DataFrame:
    """Look at the highest element of each spectrum as the original sees it, at equal steps of wavelength.

    Returns
    -------
    pandas.DataFrame
        Columns ``wavelength`` (observed Angstrom); ``excess``, how far the maximum is above the running
        median of 41 neighbours, in units of the scatter of elements about theirs (1.4826 MAD of 401);
        ``line``, whether a strong emission line is there; ``raised``, the maximum over the highest median of
        40 elements.
    """
    target = own_grid(galaxies.raw, 1, POINTS)
    values = target.values.astype(float)
    rows, top = np.arange(len(values)), values.argmax(1)
    first = np.clip(top - 200, 0, POINTS - 401)  # at the ends of a spectrum the 401 elements are those inside
    near = np.take_along_axis(values, first[:, None] + np.arange(401), 1)
    residual = near - median_filter(near, size=(1, _NEIGHBOURS))
    scatter = 1.4826 * np.median(np.abs(residual - np.median(residual, 1, keepdims=True)), 1)
    wavelength = target.wavelength()[rows, top]
    rest = wavelength / (1 + galaxies.z)
    return pd.DataFrame(
        {
            "wavelength": wavelength,
            "excess": residual[rows, top - first] / scatter,
            "line": np.abs(rest[:, None] - LINES).min(1) < _LINE_WIDTH,
            "raised": values[rows, top] / np.median(values.reshape(len(values), -1, 40), 2).max(1),
        }
    )


def spike_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask what sets the upper end of the range that version 2 scales by; experiment ``maximum``.

    Shares of spectra whose maximum is a ``line``, is elsewhere and more than 3 (``noise_share``) or 5
    (``spike_share``) times the scatter above its neighbours; and ``raised``, the mean ratio of the maximum to
    that of the highest median of 40 elements where it is no line.
    """
    table, weights = maxima(galaxies), settings.weights(galaxies.fields)
    none = ~table["line"].to_numpy()
    metrics = {"line_share": table["line"]}
    for name, level in (("noise_share", 3), ("spike_share", 5)):
        metrics[name] = none & (table["excess"] > level)
    metrics = {name: mean_with_interval(values, weights) for name, values in metrics.items()}
    of_none = weights * none
    metrics["raised"] = interval(of_none @ table["raised"].to_numpy() / np.maximum(of_none.sum(1), 1e-12))
    return [audit_row(profile, "maximum", "spectra of the sample", len(galaxies), metrics)]


def scale_share(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of the variance between galaxies that one factor for each galaxy accounts for.

    Parameters
    ----------
    values : numpy.ndarray
        (N, K) targets.
    weights : numpy.ndarray
        (R, N).

    Returns
    -------
    numpy.ndarray
        (R,) 1 - sum (values - factor * mean spectrum)^2 / sum (values - mean spectrum)^2, with the mean
        spectrum of the resample and the best factor of each galaxy.
    """
    values = np.asarray(values, dtype=float)
    out = []
    for weight in weights:
        mean = weight @ values / weight.sum()  # (K,)
        left = np.square(values).sum(1) - (values @ mean) ** 2 / (mean @ mean)
        out.append(1 - weight @ left / (weight @ np.square(values - mean).sum(1)))
    return np.array(out)


def scale_rows(galaxies: Galaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask how much of a target is brightness; experiment ``scale of the target``, metric ``scale_share``."""
    weights, rows = settings.weights(galaxies.fields), []
    targets = {"v1": own_grid(galaxies.raw, 1, POINTS).values, "flux at r = 1": galaxies.spectra.flux}
    for name, values in targets.items():
        # Means of ten elements: of the brightness they say the same as all.
        coarse = values[:, : values.shape[1] // 10 * 10].reshape(len(values), -1, 10).mean(2)
        metrics = {"scale_share": interval(scale_share(coarse, weights))}
        rows.append(audit_row(profile, "scale of the target", name, len(galaxies), metrics))
    return rows
