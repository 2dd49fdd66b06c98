"""Stars as a camera takes them: of unknown flux, between pixels, with photon noise and spectra of their own.

    known, unseen = realistic_exposures(1, n_train=12_000, n_test=1_000)
    psf = ShiftedPsf.of(known)
    training, test = observed_part(known, psf, "train"), observed_part(unseen, psf, "test")

Training stars have the spectra of their classes, test stars those of other stars of the same classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.shifted_psf import CHUNK, ShiftedPsf
from astro_utils.starsed.stamps import StarSet, join, observe
from astro_utils.starsed.stars import Detector, StarConfig, draw_catalogue

__all__ = ["FLUX_LIMITS", "REALISTIC", "observed_part", "realistic_exposures"]

REALISTIC = "realistic"
#: Total electrons of the faintest and the brightest star.
FLUX_LIMITS = (2e4, 2e5)


def realistic_exposures(
    field_seed: int, *, n_train: int, n_test: int, spectra: str = "stelib"
) -> tuple[Exposure, Exposure]:
    """Return the exposure that has the training stars and that of the test stars, of one optical field.

    Parameters
    ----------
    field_seed : int
        Of the wavefronts and of the stars.
    n_train, n_test : int
        Stars of each part.
    spectra : {"stelib", "pickles"}
        Training stars have the templates of the library, test stars its unseen spectra.

    Returns
    -------
    tuple of Exposure
        For the rows ``train`` of the first and the rows ``test`` of the second.
    """
    stars = StarConfig(
        seed=field_seed,
        n_train=n_train,
        n_test=n_test,
        flux_limits=FLUX_LIMITS,
        max_shift=0.5,
        detector=Detector(),
    )
    known = Exposure(field_seed, stars, spectra)
    return known, replace(known, unseen=True)


def observed_part(exposure: Exposure, psf: ShiftedPsf, part: str) -> StarSet:
    """Observe a part of an exposure; noiseless stamps are not kept."""
    spectra = exposure.star_spectra
    catalogue = draw_catalogue(exposure.stars, spectra.classes)
    rows = np.arange(len(catalogue))[exposure.rows(part)]
    pieces = np.split(rows, np.arange(CHUNK, len(rows), CHUNK))
    stars = join([observe(catalogue, exposure.stars, psf, spectra, rows=piece) for piece in pieces])
    return replace(stars, noiseless=None)
