"""The imaging surveys that the simulated sky is observed with, as small frozen configurations.

Depths and seeing are the published medians; each field scatters about them (:func:`draw_fields`). The
spectrographs are in :mod:`astro_utils.sky.spectra`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

__all__ = ["LEGACY", "PANSTARRS", "SDSS", "SURVEYS", "Survey", "draw_fields"]


@dataclass(frozen=True)
class Survey:
    """One imaging survey.

    Attributes
    ----------
    name : str
    bands : tuple of str
        From blue to red.
    filters : tuple of str
        Their names in `speclite`.
    pixel_scale : float
        Arcsec per pixel.
    seeing : tuple of float
        Median FWHM of the point-spread function, arcsec.
    depth : tuple of float
        Magnitude of a point source with a signal of 5 sigma in median seeing.
    gain : tuple of float
        Photo-electrons per nanomaggy, which sets the Poisson noise of the objects themselves.
    extinction : tuple of float
        A_band / E(B-V) of Schlegel, Finkbeiner & Davis (1998), as recalibrated by Schlafly & Finkbeiner
        (2011, ApJ 737, 103, table 6, R_V = 3.1).
    zero_point : tuple of float
        Survey magnitude minus AB magnitude.
    softening : tuple of float
        b of asinh magnitudes, maggies.
    reference : str
        The band in which positions and shapes are measured.
    moffat_beta : float
        Exponent of the wings of the point-spread function.
    seeing_scatter : float
        Standard deviation of ln FWHM from field to field, shared by the bands of a field.
    """

    name: str
    bands: tuple[str, ...]
    filters: tuple[str, ...]
    pixel_scale: float
    seeing: tuple[float, ...]
    depth: tuple[float, ...]
    gain: tuple[float, ...]
    extinction: tuple[float, ...]
    zero_point: tuple[float, ...]
    softening: tuple[float, ...]
    reference: str = "r"
    moffat_beta: float = 3.5
    seeing_scatter: float = 0.11

    def __post_init__(self):
        for name in ("filters", "seeing", "depth", "gain", "extinction", "zero_point", "softening"):
            if len(getattr(self, name)) != len(self.bands):
                raise ValueError(
                    f"survey {self.name}: {name} has {len(getattr(self, name))} values "
                    f"for {len(self.bands)} bands"
                )

    @property
    def index(self) -> int:
        """Position of the reference band."""
        return self.bands.index(self.reference)

    @property
    def sky_sigma(self) -> np.ndarray:
        """Noise of one pixel of a median field's sky, (bands,) nanomaggies.

        The flux of a point source fitted with its profile P has sigma = sigma_pixel sqrt(n), n = 1 / sum P^2
        pixels; a Moffat profile has n = pi FWHM^2 (2 beta - 1) / (4 (beta - 1)^2 (2^(1/beta) - 1)).
        """
        beta = self.moffat_beta
        fwhm = np.array(self.seeing) / self.pixel_scale
        n_pixels = np.pi * fwhm**2 * (2 * beta - 1) / (4 * (beta - 1) ** 2 * (2 ** (1 / beta) - 1))
        return 10 ** (0.4 * (22.5 - np.array(self.depth))) / 5 / np.sqrt(n_pixels)


#: Depths, seeing and pixels: York et al. 2000, AJ 120, 1579; Abazajian et al. 2009, ApJS 182, 543. Gain over
#: nanomaggies per count of typical corrected frames. u is 0.04 mag fainter and z 0.02 mag brighter than AB
#: (SDSS photometric flux calibration, DR13 and later). Softening: Stoughton et al. 2002, table 21.
SDSS = Survey(
    name="sdss",
    bands=("u", "g", "r", "i", "z"),
    filters=tuple(f"sdss2010-{b}" for b in "ugriz"),
    pixel_scale=0.396,
    seeing=(1.5, 1.4, 1.3, 1.2, 1.2),
    depth=(22.15, 23.13, 22.70, 22.20, 20.71),
    gain=(165.0, 1050.0, 920.0, 760.0, 130.0),
    extinction=(4.239, 3.303, 2.285, 1.698, 1.263),
    zero_point=(0.04, 0.0, 0.0, 0.0, -0.02),
    softening=(1.4e-10, 0.9e-10, 1.2e-10, 1.8e-10, 7.4e-10),
)

#: Dey et al. 2019, AJ 157, 168 (table 4 and section 4): DECam, coadded. Gains from DECam's zero points and
#: about 150 s in g, 120 s in r and 200 s in z. Softening: one sigma of a point source.
LEGACY = Survey(
    name="legacy",
    bands=("g", "r", "z"),
    filters=("decamDR1-g", "decamDR1-r", "decamDR1-z"),
    pixel_scale=0.262,
    seeing=(1.29, 1.18, 1.11),
    depth=(24.7, 23.9, 23.0),
    gain=(7000.0, 6500.0, 6000.0),
    extinction=(3.214, 2.165, 1.211),
    zero_point=(0.0, 0.0, 0.0),
    softening=(2.6e-11, 5.5e-11, 1.3e-10),
)

#: Chambers et al. 2016, arXiv:1612.05560 (table 11 and 14): 3 pi stacks. Gains from the zero points and 12
#: exposures of 43, 40, 45, 30, 30 s. Softening: one sigma of a point source.
PANSTARRS = Survey(
    name="panstarrs",
    bands=("g", "r", "i", "z", "y"),
    filters=tuple(f"panstarrs-{b}" for b in "grizy"),
    pixel_scale=0.25,
    seeing=(1.31, 1.19, 1.11, 1.07, 1.02),
    depth=(23.3, 23.2, 23.1, 22.3, 21.4),
    gain=(3450.0, 3840.0, 4250.0, 1940.0, 770.0),
    extinction=(3.172, 2.271, 1.682, 1.322, 1.087),
    zero_point=(0.0, 0.0, 0.0, 0.0, 0.0),
    softening=(9.6e-11, 1.05e-10, 1.15e-10, 2.4e-10, 5.5e-10),
)

SURVEYS = {survey.name: survey for survey in (SDSS, LEGACY, PANSTARRS)}

#: Median and scatter of ln E(B-V) towards the high-latitude sky: those of the 19,022 objects of MargNet's
#: table, whose r extinction has a median of 0.07 mag and quartiles of 0.04 and 0.11.
_EBV_MEDIAN, _EBV_SCATTER, _EBV_MAX = 0.030, 0.70, 0.5


def draw_fields(survey: Survey, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Draw the conditions of `n` fields.

    Parameters
    ----------
    survey : Survey
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    pandas.DataFrame
        ``ra``, ``dec`` of the centre (degrees), uniform over the sky at Galactic latitudes beyond 25 degrees;
        ``ebv``, and ``ebv_map``, what the dust map says (10 % off); and for each band ``fwhm_*`` (arcsec,
        true), ``psffwhm_*`` (arcsec, as the pipeline estimates it, 2.3 % off), ``sigma_*`` (nanomaggies per
        pixel), ``e1``, ``e2`` (shear of the PSF).
    """
    ra, dec = _high_latitude(n, rng)
    fields = {"ra": ra, "dec": dec}
    fields["ebv"] = np.minimum(_EBV_MEDIAN * np.exp(_EBV_SCATTER * rng.standard_normal(n)), _EBV_MAX)
    fields["ebv_map"] = fields["ebv"] * np.exp(0.1 * rng.standard_normal(n))
    shared = survey.seeing_scatter * rng.standard_normal(n)
    sky = 0.12 * rng.standard_normal(n)
    for band, seeing, sigma in zip(survey.bands, survey.seeing, survey.sky_sigma, strict=True):
        log_fwhm = shared + 0.03 * rng.standard_normal(n)
        # A pixel-limited seeing would alias: two pixels is where the Nyquist limit stands.
        fields[f"fwhm_{band}"] = np.maximum(seeing * np.exp(log_fwhm), 2.1 * survey.pixel_scale)
        fields[f"psffwhm_{band}"] = fields[f"fwhm_{band}"] * np.exp(0.023 * rng.standard_normal(n))
        fields[f"sigma_{band}"] = sigma * np.exp(sky + 0.05 * rng.standard_normal(n))
    fields["e1"], fields["e2"] = 0.02 * rng.standard_normal((2, n))
    return pd.DataFrame(fields)


def _high_latitude(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions uniform over the sphere where |b| > 25 degrees and the declination is above -15 degrees."""
    pole_ra, pole_dec = np.radians([192.85948, 27.12825])  # North Galactic pole, J2000
    ra, dec = np.empty(0), np.empty(0)
    while len(ra) < n:
        new_ra = rng.uniform(0, 2 * np.pi, 3 * n + 10)
        new_dec = np.arcsin(rng.uniform(np.sin(np.radians(-15)), 1, 3 * n + 10))
        sin_b = np.sin(new_dec) * np.sin(pole_dec) + np.cos(new_dec) * np.cos(pole_dec) * np.cos(
            new_ra - pole_ra
        )
        keep = np.abs(sin_b) > np.sin(np.radians(25))
        ra, dec = np.append(ra, new_ra[keep]), np.append(dec, new_dec[keep])
    return np.degrees(ra[:n]), np.degrees(dec[:n])
