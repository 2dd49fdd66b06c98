"""Non-negative template fits with kcorrect 5, in which no failure stops the run and none is lost.

kcorrect gives K = 0 to a galaxy that it could not fit and stops at the first one that its solver cannot do.
Here each galaxy gets its coefficients or the name of what went wrong, and K is NaN where there are none.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
from astropy.io import fits
from kcorrect.kcorrect import Kcorrect
from kcorrect.template import SED

__all__ = [
    "FAILURES",
    "MAX_CHI2",
    "Bandpasses",
    "TemplateFit",
    "fit_templates",
    "k_correction",
    "rest_frame_colour",
]

#: What can go wrong, in the order in which it is looked for: a flux or an error that is not a number, or no
#: two measured bands; a redshift off the grid; the solver of the non-negative least squares; no template
#: above 0.
FAILURES = ("photometry", "redshift", "solver", "empty")

#: Misfit above which photometry is broken in some band, or not a galaxy's: half a percent of the real ones.
MAX_CHI2 = 50.0


@dataclass(frozen=True)
class Bandpasses:
    """Which responses kcorrect is fitted to and gives K for.

    Parameters
    ----------
    responses : tuple of str
        Names in kcorrect of the observed bands, such as ``sdss_r0``, ``bass_r``, ``decam_r``.
    pairs : tuple of (str, str)
        From which observed response to which output response, for each K.
    n_redshift : int
        Points of the grid on which kcorrect integrates the templates; it interpolates between. Its own
        default, 4,000, takes half a minute to set up and changes K by 5e-5 mag (rms).
    max_redshift : float
        End of the grid.
    """

    responses: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = (("sdss_r0", "sdss_r0"),)
    n_redshift: int = 400
    max_redshift: float = 1.2

    def __post_init__(self):
        for source, _ in self.pairs:
            if source not in self.responses:
                raise ValueError(f"K from {source}, which is not among the responses {self.responses}")

    def fitter(self) -> Kcorrect:
        """Make kcorrect's object, once."""
        return _fitter(self)


@lru_cache(maxsize=1)
def _default_templates() -> SED:
    """Read the five templates of kcorrect v4; its own reader leaves the file open."""
    path = resources.files("kcorrect") / "data" / "templates" / "kcorrect-default-v4.fits"
    with resources.as_file(path) as local, fits.open(local) as hdus:
        row = hdus["FLUX"].data[0]
        return SED(wave=np.array(row["wave"]), flux=np.array(row["flux"]))


@lru_cache(maxsize=16)
def _fitter(bands: Bandpasses) -> Kcorrect:
    with warnings.catch_warnings():
        # kcorrect leaves the files with the spectra of the Sun and Vega open.
        warnings.simplefilter("ignore", ResourceWarning)
        return Kcorrect(
            templates=_default_templates(),
            responses=list(bands.responses),
            responses_map=[source for source, _ in bands.pairs],
            responses_out=[output for _, output in bands.pairs],
            redshift_range=[0.0, bands.max_redshift],
            nredshift=bands.n_redshift,
        )


@dataclass(frozen=True, eq=False)
class TemplateFit:
    """Result for N galaxies.

    Attributes
    ----------
    coefficients : numpy.ndarray
        (N, T), 0 where the fit failed.
    failure : numpy.ndarray
        (N,) str, empty or one of :data:`FAILURES`.
    z : numpy.ndarray
        (N,) the redshifts of the fit.
    chi2 : numpy.ndarray
        (N,) misfit, infinite where the fit failed.
    """

    coefficients: np.ndarray
    failure: np.ndarray
    z: np.ndarray
    chi2: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Mask of galaxies that were fitted, (N,)."""
        return self.failure == ""

    def failures(self) -> dict[str, int]:
        """Count the failures of each kind."""
        return dict(Counter(self.failure[~self.good].tolist()))


def fit_templates(bands: Bandpasses, flux: np.ndarray, ivar: np.ndarray, z: np.ndarray) -> TemplateFit:
    """Fit kcorrect's templates to dereddened AB photometry.

    Parameters
    ----------
    bands : Bandpasses
    flux, ivar : numpy.ndarray
        (N, B) nanomaggies and nanomaggies^-2 in the order of ``bands.responses``; ivar 0 where not measured.
    z : numpy.ndarray
        (N,) redshifts.

    Returns
    -------
    TemplateFit

    Raises
    ------
    ValueError
        When shapes disagree.
    """
    flux, ivar, z = (np.asarray(values, dtype=float) for values in (flux, ivar, z))
    shape = (len(z), len(bands.responses))
    if flux.shape != shape or ivar.shape != shape:
        raise ValueError(f"flux {flux.shape} and ivar {ivar.shape}; expected {shape}: {bands.responses}")
    fitter = bands.fitter()
    measured = (np.isfinite(flux) & np.isfinite(ivar) & (ivar >= 0)).all(1) & ((ivar > 0).sum(1) >= 2)
    # kcorrect keeps redshifts in single precision, so the last point of the grid may lie above the range.
    in_range = np.isfinite(z) & (z > 0) & (z < bands.max_redshift)
    failure = np.where(measured, np.where(in_range, "", "redshift"), "photometry").astype("U10")
    coefficients = np.zeros((len(z), fitter.templates.nsed))
    rows = np.flatnonzero(failure == "")
    maggies, inverse = flux * 1e-9, ivar * 1e18
    try:
        if len(rows):
            coefficients[rows] = fitter.fit_coeffs(
                redshift=z[rows], maggies=maggies[rows], ivar=inverse[rows]
            )
    except (RuntimeError, np.linalg.LinAlgError):
        _one_by_one(fitter, z, maggies, inverse, rows, coefficients, failure)
    failure[rows[(coefficients[rows].sum(1) <= 0) & (failure[rows] == "")]] = "empty"
    chi2, rows = np.full(len(z), np.inf), np.flatnonzero(failure == "")
    if len(rows):
        model = fitter.reconstruct(redshift=z[rows], coeffs=coefficients[rows]) * 1e9
        chi2[rows] = ((flux[rows] - model) ** 2 * ivar[rows]).sum(1)
    return TemplateFit(coefficients, failure, z, chi2)


def _one_by_one(fitter: Kcorrect, z, maggies, inverse, rows, coefficients, failure) -> None:
    """Fit galaxy by galaxy, where the solver cannot do all of them, and note which."""
    for row in rows:
        try:
            coefficients[row] = fitter.fit_coeffs(redshift=z[row], maggies=maggies[row], ivar=inverse[row])
        except (RuntimeError, np.linalg.LinAlgError):
            failure[row] = "solver"


def k_correction(
    bands: Bandpasses, coefficients: np.ndarray, z: np.ndarray, band_shift: float = 0.1
) -> np.ndarray:
    """K of template mixtures, m_observed = M_output + distance modulus + K.

    Parameters
    ----------
    bands : Bandpasses
    coefficients : numpy.ndarray
        (N, T).
    z : numpy.ndarray
        (N,) redshifts, 0 to ``bands.max_redshift``.
    band_shift : float
        The output band is blueshifted by this redshift. At z = band_shift the K of a band to itself is
        -2.5 log10(1 + band_shift) for every spectrum (Blanton & Roweis 2007, AJ 133, 734, section 2).

    Returns
    -------
    numpy.ndarray
        (N, pairs) mag, NaN for a galaxy with no coefficient above 0.
    """
    coefficients, z = np.asarray(coefficients, dtype=float), np.asarray(z, dtype=float)
    out = np.full((len(z), len(bands.pairs)), np.nan)
    rows = np.flatnonzero(coefficients.sum(1) > 0)
    if len(rows):
        out[rows] = bands.fitter().kcorrect(
            redshift=z[rows], coeffs=coefficients[rows], band_shift=band_shift
        )
    return out


def rest_frame_colour(
    bands: Bandpasses, coefficients: np.ndarray, outputs: Sequence[int] = (0, 1), band_shift: float = 0.1
) -> np.ndarray:
    """Colour of template mixtures in two output bands at redshift 0, (N,) mag; NaN without coefficients.

    Parameters
    ----------
    bands : Bandpasses
    coefficients : numpy.ndarray
        (N, T).
    outputs : sequence of int
        Which of ``bands.pairs`` give the first and the second band.
    band_shift : float
        Of both bands; the factors 1 / (1 + band_shift) cancel.
    """
    coefficients = np.asarray(coefficients, dtype=float)
    out = np.full(len(coefficients), np.nan)
    rows = np.flatnonzero(coefficients.sum(1) > 0)
    if len(rows):
        flux = bands.fitter().reconstruct_out(
            redshift=np.zeros(len(rows)), coeffs=coefficients[rows], band_shift=band_shift
        )
        out[rows] = -2.5 * np.log10(flux[:, outputs[0]] / flux[:, outputs[1]])
    return out
