"""Check of the jump of K near redshift 0.38: a change of the observed band, not a break of the spectrum.

The real galaxies end before the jump, so that the template mixtures of their fits are moved in redshift.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from speclite.filters import load_filter

from astro_utils.class_bootstrap import resample_weights
from astro_utils.kcorrections.audit_setup import (
    PRINTED,
    AuditGalaxies,
    AuditSettings,
    audit_row,
    with_interval,
)
from astro_utils.kcorrections.band_rule import OBSERVED_FILTERS, FixedBand, NearestBand
from astro_utils.kcorrections.kcorrect_fit import SYSTEM_RESPONSES
from astro_utils.kcorrections.templates import Bandpasses, k_correction

__all__ = ["BREAKS", "SYSTEM", "filter_edges", "k_curves", "k_moved", "switch_rows"]

#: Whose r band has the jump that is measured.
SYSTEM = "DECam"
#: Breaks of galaxy spectra, Angstrom: the Balmer jump, and the break of old stars.
BREAKS = {"Balmer jump, 3646 A": 3646.0, "break at 4000 A": 4000.0}
#: Width in redshift, on each side of the jump, over which K is extrapolated to it.
_REACH = 0.04
_BANDPASSES = Bandpasses(
    tuple(SYSTEM_RESPONSES[SYSTEM][b] for b in "grz"),
    tuple((SYSTEM_RESPONSES[SYSTEM][b], "sdss_r0") for b in "grz"),
    n_redshift=300,
    max_redshift=0.7,
)


def filter_edges(name: str) -> tuple[float, float]:
    """First and last wavelength at which a filter of `speclite` passes half of its maximum, Angstrom."""
    band = load_filter(name)
    wavelength, response = (np.asarray(values, dtype=float) for values in (band.wavelength, band.response))
    above = np.flatnonzero(response >= response.max() / 2)
    edges = []
    for inside, outside in ((above[0], above[0] - 1), (above[-1], above[-1] + 1)):
        share = (response.max() / 2 - response[outside]) / (response[inside] - response[outside])
        edges.append(wavelength[outside] + share * (wavelength[inside] - wavelength[outside]))
    return edges[0], edges[1]


def _chosen(galaxies: AuditGalaxies, settings: AuditSettings) -> np.ndarray:
    rng = np.random.default_rng(settings.seed)
    return np.sort(rng.permutation(len(galaxies))[: settings.n_curves])


def k_moved(coefficients: np.ndarray, z: np.ndarray) -> np.ndarray:
    """K of template mixtures (N, T) at redshifts (Z,) from DECam g, r, z to ^0.1 r, (N, Z, 3) mag."""
    each = np.tile(z, len(coefficients))
    k = k_correction(_BANDPASSES, np.repeat(coefficients, len(z), axis=0), each)
    return k.reshape(len(coefficients), len(z), 3)


def _by(rule: NearestBand | FixedBand, z: np.ndarray, k: np.ndarray) -> np.ndarray:
    """K (N, Z) of the bands that a rule takes."""
    return k[:, np.arange(len(z)), rule.index(z)]


def k_curves(galaxies: AuditGalaxies, settings: AuditSettings) -> pd.DataFrame:
    """K against redshift of galaxies that are moved in redshift.

    Returns
    -------
    pandas.DataFrame
        Columns ``z``, ``rule`` (``nearest band``, ``fixed band``), ``low``, ``median``, ``high``: 16th, 50th
        and 84th percentile, mag.
    """
    z = np.round(np.arange(0.02, 0.601, 0.004), 4)
    k = k_moved(galaxies.coefficients[_chosen(galaxies, settings)], z)
    frames = []
    for name, rule in (("nearest band", NearestBand("r", SYSTEM)), ("fixed band", FixedBand("r", SYSTEM))):
        low, median, high = np.percentile(_by(rule, z, k), [16, 50, 84], axis=0)
        frames.append(pd.DataFrame({"z": z, "rule": name, "low": low, "median": median, "high": high}))
    return pd.concat(frames, ignore_index=True)


def _jumps(k: np.ndarray, z: np.ndarray, at: float) -> np.ndarray:
    """K just above less K just below a redshift, (N,), by parabolas on each side."""
    ends = []
    for side in (z < at, z > at):
        terms = np.linalg.lstsq(np.vander(z[side] - at, 3), k[:, side].T, rcond=None)[0]  # (3, N)
        ends.append(terms[-1])
    return ends[1] - ends[0]


def switch_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Measure the jump and what could make it; experiments ``jump``, ``switches`` and ``breaks``.

    ``jump``: median of K just above less K just below the switch. ``colour_offset``: median magnitude in the
    band above less that in the band below, of the observed spectrum at the switch, and ``mismatch`` the rms
    difference of the two over galaxies. ``steepest``: largest change of the median K with the fixed band over
    0.01 in redshift. ``switch_redshift``: where the rule changes band. ``enters``, ``leaves``: redshifts at
    which a break passes the half-power edges of a band.
    """
    rule, rows = NearestBand("r", SYSTEM), []
    at = next(where for where, _, above in rule.switches() if above == "z")
    chosen = _chosen(galaxies, settings)
    coefficients = galaxies.coefficients[chosen]
    counts = resample_weights(np.arange(len(chosen)), settings.n_bootstrap, settings.seed)
    seen = _BANDPASSES.fitter().reconstruct(redshift=np.full(len(chosen), at), coeffs=coefficients)
    offset = -2.5 * np.log10(seen[:, 2] / seen[:, 1])
    z = at + np.concatenate([np.linspace(-_REACH, -0.001, 20), np.linspace(0.001, _REACH, 20)])
    k, wide = k_moved(coefficients, z), np.arange(0.02, 0.6, 0.01)
    steepest = np.abs(np.diff(np.median(k_moved(coefficients, wide)[:, :, 1], axis=0))).max()
    for model, one in (("nearest band", rule), ("fixed band", FixedBand("r", SYSTEM))):
        jump = _jumps(_by(one, z, k), z, at)
        metrics: dict = {"jump": with_interval(_medians(jump, counts)), "steepest": steepest}
        if model == "nearest band":
            metrics["colour_offset"] = with_interval(_medians(offset, counts))
            metrics["mismatch"] = np.sqrt(np.square(jump - offset).mean())
        rows.append(audit_row(profile, "jump", model, len(chosen), metrics))
    for system, band in PRINTED["switches"]:
        steps = [step for step in NearestBand(band, system).switches() if step[0] > 0.1]
        for where, below, above in steps:
            model = f"{system} {band}, {below} to {above}"
            rows.append(audit_row(profile, "switches", model, len(galaxies), {"switch_redshift": where}))
    for system in ("BASS/MzLS", "DECam"):
        blue, red = filter_edges(OBSERVED_FILTERS[system]["r"])
        for name, wavelength in BREAKS.items():
            metrics = {"enters": blue / wavelength - 1, "leaves": red / wavelength - 1}
            rows.append(audit_row(profile, "breaks", f"{name}, {system} r", len(galaxies), metrics))
    return rows


def _medians(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Median under every row of counts, (R,)."""
    return np.array([np.median(np.repeat(values, row.astype(int))) for row in counts])
