"""kcorrect as the benchmark: fitted as it should be, and as a published comparison fitted it.

deep-KCorrect compared its networks with kcorrect on DESI galaxies of the Legacy Surveys. Its kcorrect got
redshifts rounded to three digits, inverse variances that were not corrected for Galactic extinction beside
fluxes that were, no error floors, and the responses of the northern telescopes for the southern sky too. Each
is an option here, so that each can be measured alone.

    right = run_kcorrect(photometry, KcorrectOptions("grz", "DECam"))
    theirs = run_kcorrect(photometry, published_options("DECam"))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from astro_utils.kcorrections.real_sample import Photometry, with_error_floors
from astro_utils.kcorrections.templates import (
    MAX_CHI2,
    Bandpasses,
    TemplateFit,
    fit_templates,
    k_correction,
)

__all__ = [
    "MISTAKES",
    "SYSTEM_RESPONSES",
    "KcorrectOptions",
    "KcorrectRun",
    "published_options",
    "run_kcorrect",
]

#: Responses of kcorrect by photometric system and band.
SYSTEM_RESPONSES = {
    "SDSS": {b: f"sdss_{b}0" for b in "ugriz"},
    "BASS/MzLS": {"g": "bass_g", "r": "bass_r", "z": "mzls_z"},
    "DECam": {b: f"decam_{b}" for b in "griz"},
}

#: Options that repeat each of the published choices, one at a time.
MISTAKES = {
    "rounded redshift": {"redshift_decimals": 3},
    "inverse variances not dereddened": {"deredden_ivar": False},
    "no error floors": {"error_floors": False},
    "northern responses": {"system": "BASS/MzLS"},
}


@dataclass(frozen=True)
class KcorrectOptions:
    """How kcorrect is run.

    Parameters
    ----------
    bands : str or tuple of str
        Bands that are fitted, such as ``"grz"``.
    system : str
        Whose responses kcorrect takes the bands for, a name in :data:`SYSTEM_RESPONSES`.
    observed : str
        Band that K starts from.
    output : str
        Response that K leads to, before the band shift.
    band_shift : float
        Of the output.
    redshift_decimals : int, optional
        Round redshifts to so many decimals; None leaves them.
    deredden_ivar : bool
        Whether inverse variances are corrected for Galactic extinction with the fluxes.
    error_floors : bool
        Whether relative error floors are added.

    Raises
    ------
    ValueError
        When the system or a band is not known, or K starts from a band that is not fitted.
    """

    bands: str | tuple[str, ...]
    system: str = "SDSS"
    observed: str = "r"
    output: str = "sdss_r0"
    band_shift: float = 0.1
    redshift_decimals: int | None = None
    deredden_ivar: bool = True
    error_floors: bool = True

    def __post_init__(self):
        if self.system not in SYSTEM_RESPONSES:
            raise ValueError(f"system {self.system!r}; expected one of {', '.join(SYSTEM_RESPONSES)}")
        for band in self.bands:
            if band not in SYSTEM_RESPONSES[self.system]:
                raise ValueError(
                    f"{self.system} has no band {band!r}; expected some of "
                    f"{', '.join(SYSTEM_RESPONSES[self.system])}"
                )
        if self.observed not in self.bands:
            raise ValueError(f"K starts from band {self.observed!r}, which is not fitted: {self.bands}")

    @property
    def bandpasses(self) -> Bandpasses:
        """Responses to fit and to map."""
        responses = SYSTEM_RESPONSES[self.system]
        return Bandpasses(tuple(responses[b] for b in self.bands), ((responses[self.observed], self.output),))


def published_options(system: str = "DECam") -> KcorrectOptions:
    """Options of the published comparison on galaxies of `system`; see :data:`MISTAKES`."""
    return replace(
        KcorrectOptions("grz", system), **{k: v for change in MISTAKES.values() for k, v in change.items()}
    )


@dataclass(frozen=True, eq=False)
class KcorrectRun:
    """K-corrections by kcorrect.

    Attributes
    ----------
    k : numpy.ndarray
        (N,) mag, NaN where the fit failed.
    fit : TemplateFit
        Coefficients, and which galaxies failed and why.
    options : KcorrectOptions
    """

    k: np.ndarray
    fit: TemplateFit
    options: KcorrectOptions

    @property
    def trusted(self) -> np.ndarray:
        """K with NaN also where the templates are far from the photometry, chi2 above ``MAX_CHI2``, (N,)."""
        return np.where(self.fit.chi2 < MAX_CHI2, self.k, np.nan)


def run_kcorrect(
    photometry: Photometry, options: KcorrectOptions, z: np.ndarray | None = None
) -> KcorrectRun:
    """Fit kcorrect to galaxies and take their k-corrections.

    Parameters
    ----------
    photometry : Photometry
        With at least the bands of the options.
    options : KcorrectOptions
    z : numpy.ndarray, optional
        (N,) redshifts to take instead of the spectroscopic ones, such as photometric redshifts.

    Returns
    -------
    KcorrectRun
    """
    chosen = photometry.only(tuple(options.bands))
    z = np.asarray(photometry.z if z is None else z, dtype=float)
    if z.shape != (len(photometry),):
        raise ValueError(f"{z.shape} redshifts for {len(photometry)} galaxies")
    if options.redshift_decimals is not None:
        z = np.round(z, options.redshift_decimals)
    flux, ivar = chosen.dereddened()
    if not options.deredden_ivar:
        ivar = chosen.ivar
    if options.error_floors:
        ivar = with_error_floors(flux, ivar, chosen.bands)
    fit = fit_templates(options.bandpasses, flux, ivar, z)
    return KcorrectRun(
        k_correction(options.bandpasses, fit.coefficients, z, options.band_shift)[:, 0], fit, options
    )
