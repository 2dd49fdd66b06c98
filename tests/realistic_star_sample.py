"""Realistic stars of one field for tests, made once in a session and not to be changed."""

from dataclasses import replace
from functools import cache

from astro_utils.starsed.class_scatter import member_shares, spectral_scatter
from astro_utils.starsed.realistic_stars import realistic_exposures
from astro_utils.starsed.shifted_psf import ShiftedPsf
from astro_utils.starsed.stamps import observe
from astro_utils.starsed.stars import draw_catalogue

# Few nodes: another field than that of 22, and the same for stars and models.
NODES = 4


def exposures_of_few_nodes(field_seed, **options):
    """Exposures of the training and of the test stars."""
    return tuple(replace(one, nodes=NODES) for one in realistic_exposures(field_seed, **options))


@cache
def field(n_train=60, n_test=70):
    """Exposures, PSF and both parts with their catalogues."""
    known, unseen = exposures_of_few_nodes(1, n_train=n_train, n_test=n_test)
    psf = ShiftedPsf.of(known)
    parts = []
    for exposure, part in ((known, "train"), (unseen, "test")):
        catalogue = draw_catalogue(exposure.stars, exposure.star_spectra.classes)
        rows = exposure.rows(part)
        stars = observe(catalogue, exposure.stars, psf, exposure.star_spectra, rows=rows)
        parts.append((stars, catalogue.shifts[rows]))
    return known, psf, *parts


@cache
def known_scatter():
    """How the spectra of the stars behind the templates scatter."""
    return spectral_scatter(*member_shares(8))
