"""Checks of the published k-corrections that fit templates to real galaxies.

- :func:`handicap_rows`: what each published choice costs kcorrect.
- :func:`failure_rows`: which fits fail, and what scores of the others hide.
- :func:`noise_rows`: wrong redshifts, scored on samples that end at different redshifts.

The published comparison is on DECam photometry, and these galaxies have SDSS photometry. Each flux is moved
to DECam by the ratio of the two bands in the fit of the galaxy, so that noise and misfit stay real
(:func:`decam_photometry`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from astro_utils.class_bootstrap import resample_weights
from astro_utils.kcorrections.audit_setup import (
    MAX_Z,
    AuditGalaxies,
    AuditSettings,
    audit_row,
    weighted_scores,
    with_interval,
)
from astro_utils.kcorrections.kcorrect_fit import (
    MISTAKES,
    KcorrectOptions,
    KcorrectRun,
    published_options,
    run_kcorrect,
)
from astro_utils.kcorrections.real_sample import Photometry
from astro_utils.kcorrections.templates import FAILURES, MAX_CHI2, Bandpasses, k_correction
from astro_utils.kcorrections.truth import RESPONSES
from astro_utils.metrics import wilson_interval

__all__ = [
    "ALL_MISTAKES",
    "RIGHT",
    "DecamGalaxies",
    "decam_galaxies",
    "failure_rows",
    "handicap_rows",
    "noise_rows",
    "normal_equation_nnls",
    "run_options",
]

RIGHT, ALL_MISTAKES = "none", "all together"
#: Standard deviations of the noise on redshifts, as published.
NOISE = (0.05, 0.1, 0.2)
#: Where the published samples with noisy redshifts end.
ENDS = (0.3, MAX_Z)
_OPTIONS = KcorrectOptions("grz", "DECam")


@dataclass(frozen=True, eq=False)
class DecamGalaxies:
    """The galaxies as DECam would have seen them.

    Attributes
    ----------
    photometry : Photometry
        grz.
    k : numpy.ndarray
        (N,) true K of DECam r to SDSS r at band shift 0.1, mag.
    pixels : numpy.ndarray
        (N,) sky pixels.
    """

    photometry: Photometry
    k: np.ndarray
    pixels: np.ndarray


def decam_galaxies(galaxies: AuditGalaxies) -> DecamGalaxies:
    """Move grz from SDSS to DECam by the ratio of the bands in the fit of each galaxy."""
    sdss = Bandpasses(tuple(RESPONSES[b] for b in galaxies.photometry.bands))
    decam, z = _OPTIONS.bandpasses, galaxies.z
    seen = sdss.fitter().reconstruct(redshift=z, coeffs=galaxies.coefficients)
    seen = seen[:, [galaxies.photometry.bands.index(b) for b in _OPTIONS.bands]]
    ratio = decam.fitter().reconstruct(redshift=z, coeffs=galaxies.coefficients) / seen
    grz = galaxies.photometry.only(_OPTIONS.bands)
    moved = Photometry(grz.bands, grz.flux * ratio, grz.ivar / ratio**2, grz.extinction, z)
    return DecamGalaxies(moved, k_correction(decam, galaxies.coefficients, z)[:, 0], galaxies.pixels)


def run_options(decam: DecamGalaxies) -> dict[str, KcorrectRun]:
    """Run kcorrect as it should be, with each published choice alone, and with all of them."""
    options = {RIGHT: _OPTIONS, **{name: replace(_OPTIONS, **change) for name, change in MISTAKES.items()}}
    options[ALL_MISTAKES] = published_options("DECam")
    return {name: run_kcorrect(decam.photometry, one) for name, one in options.items()}


def handicap_rows(
    decam: DecamGalaxies, runs: dict[str, KcorrectRun], settings: AuditSettings, profile: str
) -> list[dict[str, Any]]:
    """Score the runs of :func:`run_options`; experiment ``handicaps``.

    ``mae_ratio``, ``rmse_ratio``: in units of those of the right options. Galaxies that failed in any run
    are left out.
    """
    good = np.isfinite([run.k for run in runs.values()]).all(0)
    weights = resample_weights(decam.pixels[good], settings.n_bootstrap, settings.seed)
    right = weighted_scores(runs[RIGHT].k[good], decam.k[good], weights)
    rows = []
    for model, run in runs.items():
        scores = weighted_scores(run.k[good], decam.k[good], weights)
        metrics = {name: with_interval(scores[name]) for name in ("r2", "mae", "rmse")}
        metrics |= {f"{name}_ratio": with_interval(scores[name] / right[name]) for name in ("mae", "rmse")}
        metrics["bias"] = float((run.k - decam.k)[good].mean())
        rows.append(audit_row(profile, "handicaps", model, good.sum(), metrics))
    return rows


# ---------------------------------------------------------------------------------------------- failures


def normal_equation_nnls(matrix: np.ndarray, target: np.ndarray, limit: int) -> np.ndarray:
    """Non-negative least squares as SciPy 1.12 to 1.14 solved them, whose failures are those of the solver.

    The active-set method of Bro & de Jong (1997, J. Chemometrics 11, 393) on the normal equations, with a
    tolerance that does not know the scale of the problem: where templates fit as many bands exactly, only
    rounding noise is left of the gradient, which is above the tolerance, and the search never ends.

    Parameters
    ----------
    matrix, target : numpy.ndarray
        (B, T) and (B,), single or double precision.
    limit : int
        Inner iterations.

    Returns
    -------
    numpy.ndarray
        (T,).

    Raises
    ------
    RuntimeError
        At the limit.
    numpy.linalg.LinAlgError
        When the active templates are degenerate.
    """
    n = matrix.shape[1]
    gram, moment = matrix.T @ matrix, target @ matrix
    tolerance = 10 * max(matrix.shape) * np.spacing(1.0)
    solution, active, gradient, used = np.zeros(n), np.zeros(n, bool), moment.astype(float), 0

    def solve() -> np.ndarray:
        out = np.zeros(n)
        out[active] = np.linalg.solve(gram[np.ix_(active, active)], moment[active])
        return out

    while not active.all() and (gradient[~active] > tolerance).any():
        active[np.where(active, -np.inf, gradient).argmax()] = True
        trial = solve()
        while used < limit and trial[active].min(initial=np.inf) <= tolerance:
            low = active & (trial <= tolerance)
            gap = solution[low] - trial[low]
            step = np.divide(solution[low], gap, out=np.zeros_like(gap), where=gap > 0).min()
            solution = solution + step * (trial - solution)
            active &= solution > tolerance
            trial, used = solve(), used + 1
        if used >= limit:
            raise RuntimeError(f"no solution after {limit} iterations")
        solution, gradient = trial, moment - gram @ trial
    return solution


def _older_solver(decam: DecamGalaxies, run: KcorrectRun, n: int, precision: type) -> dict[str, np.ndarray]:
    """Mask (n,) of the galaxies that fail at the limit, and of those with degenerate templates."""
    fitter = run.options.bandpasses.fitter()
    flux, _ = decam.photometry.dereddened()
    inverse = np.sqrt(decam.photometry.ivar * 1e18)
    failed = {"limit": np.zeros(n, bool), "singular": np.zeros(n, bool)}
    for i in range(n):
        matrix = (inverse[i][:, None] * fitter.Amatrix(run.fit.z[i])).astype(precision)
        target = (flux[i] * 1e-9 * inverse[i]).astype(precision)
        try:
            # kcorrect asks once more with so many iterations for each template.
            normal_equation_nnls(matrix, target, 100 * matrix.shape[1])
        except RuntimeError:
            failed["limit"][i] = True
        except np.linalg.LinAlgError:
            failed["singular"][i] = True
    return failed


def failure_rows(
    decam: DecamGalaxies, runs: dict[str, KcorrectRun], settings: AuditSettings, profile: str
) -> list[dict[str, Any]]:
    """Count fits that fail, and score all and those that a strict user would keep; experiment ``failures``.

    For kcorrect with today's solver: failures of each kind, ``misfits`` with chi2 above ``MAX_CHI2``, RMSE of
    all and of the others (``rmse_kept``). For the solver of SciPy 1.12 to 1.14: shares that fail, and the
    RMSE that today's solver gives for all and for those that do not fail.
    """
    rows = []
    for name, model in ((RIGHT, "right options"), (ALL_MISTAKES, "published options")):
        run = runs[name]
        metrics = {f"failed_{kind}": run.fit.failures().get(kind, 0) for kind in FAILURES}
        good, kept = run.fit.good, run.fit.good & (run.fit.chi2 < MAX_CHI2)
        metrics |= {"failed": (~good).sum(), "misfits": (good & ~kept).sum()}
        metrics |= {"rmse": _rmse(run.k - decam.k, good), "rmse_kept": _rmse(run.k - decam.k, kept)}
        rows.append(audit_row(profile, "failures", model, len(good), metrics))
    run, n = runs[ALL_MISTAKES], min(settings.n_solver, len(decam.k))
    for precision in (np.float64, np.float32):
        failed = _older_solver(decam, run, n, precision)
        lost = failed["limit"] | failed["singular"]
        lo, hi = wilson_interval(int(lost.sum()), n)
        metrics = {f"failed_{kind}": mask.sum() for kind, mask in failed.items()}
        metrics["failed_share"] = {"value": lost.mean(), "lo": lo, "hi": hi}
        error, good = (run.k - decam.k)[:n], run.fit.good[:n]
        metrics |= {"rmse": _rmse(error, good), "rmse_kept": _rmse(error, good & ~lost)}
        model = f"SciPy 1.12 to 1.14, {np.dtype(precision).name}"
        rows.append(audit_row(profile, "failures", model, n, metrics))
    return rows


def _rmse(error: np.ndarray, mask: np.ndarray) -> float:
    return float(np.sqrt(np.square(error[mask]).mean())) if mask.any() else np.nan


# ------------------------------------------------------------------------------------------------- noise


def noise_rows(decam: DecamGalaxies, settings: AuditSettings, profile: str) -> list[dict[str, Any]]:
    """Fit kcorrect at wrong redshifts and score the same K on two samples; experiment ``redshift noise``.

    Noise is Gaussian; redshifts are kept above 0.001. ``variance`` is that of the true K of the sample;
    ``r2_gain``, of the wider sample, its R2 less that of the narrower one. Values are means over draws.
    """
    rng = np.random.default_rng(settings.seed)
    samples = [np.flatnonzero(decam.photometry.z < end) for end in ENDS]
    weights = resample_weights(decam.pixels, settings.n_bootstrap, settings.seed)
    rows = []
    for sigma in (0.0, *NOISE):
        draws: list[list[dict]] = [[] for _ in ENDS]
        n_draws = settings.n_noise if sigma else 1
        for _ in range(n_draws):
            z = decam.photometry.z + sigma * rng.standard_normal(len(decam.k))
            k = run_kcorrect(decam.photometry, _OPTIONS, np.clip(z, 0.001, 1.19)).k
            for i, sample in enumerate(samples):
                chosen = sample[np.isfinite(k[sample])]
                draws[i].append(weighted_scores(k[chosen], decam.k[chosen], weights[:, chosen]))
        mean = [{name: np.mean([d[name] for d in one], 0) for name in one[0]} for one in draws]
        for i, (end, scores) in enumerate(zip(ENDS, mean, strict=True)):
            metrics: dict = {name: with_interval(scores[name]) for name in ("r2", "mae", "rmse", "variance")}
            if n_draws > 1:
                metrics["r2"]["sd"] = np.std([d["r2"][0] for d in draws[i]], ddof=1)
            if i:
                metrics["r2_gain"] = with_interval(scores["r2"] - mean[0]["r2"])
            model = f"noise {sigma:g}, z < {end:g}"
            rows.append(audit_row(profile, "redshift noise", model, len(samples[i]), metrics, seeds=n_draws))
    return rows
