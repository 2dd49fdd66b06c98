"""Outside checks: k-corrections that two surveys published as polynomials, beside the truths of this study.

Neither survey's polynomials know anything of the truths used here: where they agree, a truth is not an
artefact of its making. Tables in ``data/kcorrection`` hold the coefficients, with where they come from.
"""

from __future__ import annotations

import numpy as np
from astropy.table import Table

from astro_utils.kcorrections.polynomials import ColourPolynomials
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.simulated import BAND_SHIFT, Galaxies
from astro_utils.kcorrections.templates import Bandpasses, rest_frame_colour
from astro_utils.kcorrections.truth import RESPONSES, KTruth
from astro_utils.metrics import summarise
from astro_utils.paths import project_root
from astro_utils.results import metric_row
from astro_utils.sky.seds import load_seds

__all__ = ["SURVEYS", "outside_k", "outside_row", "polynomials", "real_colour", "simulated_colour"]

#: Tables, and the observed band that they start from.
SURVEYS = {"gama": "SDSS r", "desi_bgs_south": "DECam r", "desi_bgs_north": "BASS r"}


def polynomials(survey: str) -> ColourPolynomials:
    """Read the polynomials of a survey, a name in :data:`SURVEYS`."""
    if survey not in SURVEYS:
        raise ValueError(f"survey {survey!r}; expected one of {', '.join(SURVEYS)}")
    table = Table.read(project_root() / "data" / "kcorrection" / f"{survey}.ecsv")
    powers = sorted((name for name in table.colnames if name.startswith("a")), reverse=True)
    coefficients = np.stack([np.asarray(table[name], dtype=float) for name in powers], 1)
    return ColourPolynomials(np.asarray(table["colour"], dtype=float), coefficients)


def real_colour(truth: KTruth) -> np.ndarray:
    """Rest-frame ^0.1(g - r) of the template fits behind a truth, (N,) mag; NaN without a fit."""
    observed = tuple(RESPONSES[band] for band in truth.bands)
    pairs = tuple((RESPONSES[band], RESPONSES[band]) for band in ("g", "r"))
    return rest_frame_colour(Bandpasses(observed, pairs), truth.fit.coefficients, band_shift=truth.band_shift)


def simulated_colour(galaxies: Galaxies) -> np.ndarray:
    """Rest-frame ^0.1(g - r) of simulated galaxies from their spectra, (N,) mag."""
    out = np.empty(len(galaxies))
    for family in np.unique(galaxies.family):
        mine = galaxies.family == family
        mixtures = galaxies.catalogue.loc[mine, [f"c{t}" for t in range(5)]].to_numpy(float)
        bands = load_seds(str(family)).galaxy_bands("sdss2010-g", "sdss2010-r")(BAND_SHIFT)  # (T, 2)
        flux = mixtures @ bands
        out[mine] = -2.5 * np.log10(flux[:, 0] / flux[:, 1])
    return out


def outside_k(survey: str, z: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """K by the polynomials of a survey, (N,) mag; NaN beyond their redshifts."""
    fitted = polynomials(survey)
    inside = (z >= 0) & (z <= fitted.MAX_REDSHIFT) & np.isfinite(colour)
    out = np.full(len(z), np.nan)
    out[inside] = fitted(z[inside], colour[inside])
    return out


def outside_row(
    k: np.ndarray,
    truth: np.ndarray,
    groups: np.ndarray,
    *,
    profile: str,
    sky: str,
    model: str,
    n_bootstrap: int,
) -> dict:
    """Score the polynomials of a survey against a truth, with intervals by resampling parts of the sky."""
    good = np.isfinite(k) & np.isfinite(truth)
    k, truth, groups = k[good], truth[good], groups[good]
    return metric_row(
        profile=profile,
        sky=sky,
        experiment="outside check",
        model=model,
        n_train=0,
        n_test=int(good.sum()),
        seeds=1,
        metrics=summarise([lambda rows: k_scores(k[rows], truth[rows])], groups, n_bootstrap),
    )
