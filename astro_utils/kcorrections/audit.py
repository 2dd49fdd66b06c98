"""The published claims about k-corrections as experiments on real galaxies, and sums on printed numbers.

    rows = audit_rows(AuditSettings(), "quick")
    table = findings(read_metrics(write_metrics("audit.json", rows)))

:mod:`astro_utils.kcorrections.audit_learning`, :mod:`astro_utils.kcorrections.audit_fits` and
:mod:`astro_utils.kcorrections.audit_switch` have the experiments, this module the sums and all of it in
order; :mod:`astro_utils.kcorrections.audit_findings` says what came of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from astro_utils.class_bootstrap import resample_weights
from astro_utils.kcorrections.audit_fits import (
    DecamGalaxies,
    decam_galaxies,
    failure_rows,
    handicap_rows,
    noise_rows,
    run_options,
)
from astro_utils.kcorrections.audit_learning import baseline_rows, broadcast_rows, choice_rows, split_rows
from astro_utils.kcorrections.audit_setup import (
    PRINTED,
    AuditGalaxies,
    AuditSettings,
    audit_galaxies,
    audit_row,
    weighted_scores,
    with_interval,
)
from astro_utils.kcorrections.audit_switch import switch_rows
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions

__all__ = ["absmag_rows", "audit_rows", "count_rows", "unit_rows"]

#: Hubble constants of the two works, km / s / Mpc: FastSpecFit, and Planck Collaboration (2020) in astropy.
HUBBLE = (100.0, 67.66)
SENTINEL = -9999.0
#: Absolute magnitude of a galaxy that the sentinel stands beside.
TYPICAL = -20.0


def unit_rows(galaxies: AuditGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Ask which of two printed numbers is the square of the other; experiment ``units``.

    ``printed``: the number that the text calls a mean squared error; ``printed_mse``: that of the tables;
    ``implied``: the square of the first. Then the variance of K that a mean squared error and R2 imply,
    error / (1 - R2), for both readings, beside the ``variance`` of K of the real galaxies and the
    ``variance_bound`` that no sample between their smallest and largest K can exceed (Popoviciu 1935).
    """
    n, rows = PRINTED["counts"]["scored"], []
    for model, (printed, mse) in PRINTED["errors"].items():
        metrics = {"printed": printed, "printed_mse": mse, "implied": printed**2}
        rows.append(audit_row(profile, "units", model, n, metrics))
    for model, mse in (("read as MSE", PRINTED["rmse"]), ("read as RMSE", PRINTED["rmse"] ** 2)):
        rows.append(audit_row(profile, "units", model, n, {"variance": mse / (1 - PRINTED["r2"])}))
    weights = resample_weights(galaxies.pixels, settings.n_bootstrap, settings.seed)
    variance = weighted_scores(galaxies.k, galaxies.k, weights)["variance"]
    bound = np.ptp(galaxies.k) ** 2 / 4
    metrics = {"variance": with_interval(variance), "variance_bound": bound}
    return [*rows, audit_row(profile, "units", "real galaxies", len(galaxies), metrics)]


def count_rows(profile: str) -> list[dict[str, Any]]:
    """Count the galaxies that the printed numbers leave out; experiment ``counts``."""
    counts = PRINTED["counts"]
    logged = counts["iteration limit"] + counts["singular"] + counts["redshift"]
    missing = counts["galaxies"] - counts["scored"]
    metrics = {
        "missing": missing,
        "logged": logged,
        "silent": missing - logged,
        "missing_share": missing / counts["galaxies"],
        "silent_share": (missing - logged) / counts["galaxies"],
        "logged_share": logged / (counts["scored"] + logged),
    }
    return [audit_row(profile, "counts", "kcorrect, as published", counts["galaxies"], metrics)]


def absmag_rows(decam: DecamGalaxies, profile: str) -> list[dict[str, Any]]:
    """Explain the published absolute magnitudes; experiment ``absolute magnitudes``.

    ``sentinel``: what kcorrect gives for a galaxy without positive flux. ``implied``: the mean squared error
    that one of it makes among the published sample. ``variance``: that of the true magnitudes, from the
    printed error and R2. ``magnitude_offset``: 5 log10 of the ratio of the Hubble constants.
    """
    n, printed = PRINTED["counts"]["scored"], PRINTED["absmag_g"]
    fitter = KcorrectOptions("grz", "DECam").bandpasses.fitter()
    z, (flux, ivar) = decam.photometry.z[:1], (v[:1] for v in decam.photometry.dereddened())
    maggies, ivar = flux * 1e-9, ivar * 1e18
    coefficients = fitter.fit_coeffs(redshift=z, maggies=maggies, ivar=ivar)
    maggies[:, decam.photometry.bands.index("r")] *= -1
    sentinel = fitter.absmag(redshift=z, maggies=maggies, ivar=ivar, coeffs=coefficients)
    one = {
        "sentinel": np.squeeze(sentinel),
        "printed_mse": printed["mse"],
        "implied": (SENTINEL - TYPICAL) ** 2 / n,
        "variance": printed["mse"] / (1 - printed["r2"]),
    }
    offset = {"magnitude_offset": 5 * np.log10(HUBBLE[0] / HUBBLE[1])}
    return [
        audit_row(profile, "absolute magnitudes", "one sentinel, g", n, one),
        audit_row(profile, "absolute magnitudes", "Hubble constant", n, offset),
    ]


def audit_rows(settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Run all checks; rows of metrics of :func:`astro_utils.results.metric_row`.

    Parameters
    ----------
    settings : AuditSettings
    profile : str
        Name of the profile for the rows.
    """
    galaxies = audit_galaxies(settings)
    decam = decam_galaxies(galaxies)
    runs = run_options(decam)
    learned = [
        row
        for part in (unit_rows, broadcast_rows, baseline_rows, switch_rows, choice_rows, split_rows)
        for row in part(galaxies, settings, profile)
    ]
    fitted = [row for part in (failure_rows, handicap_rows) for row in part(decam, runs, settings, profile)]
    counted = [*count_rows(profile), *absmag_rows(decam, profile)]
    return [*learned, *fitted, *counted, *noise_rows(decam, settings, profile)]
