"""PSFs between pixels."""

import numpy as np
from realistic_star_sample import NODES, field

from astro_utils.psf import FieldInterpolator, FieldPsf, PupilModel
from astro_utils.starsed.exposures import mono_stamps
from astro_utils.starsed.stamps import FourierShifted


def test_shifts_are_those_of_a_fourier_transform():
    _, psf, (stars, shifts), _ = field()
    positions = stars.positions[:4]
    exact = FourierShifted(lambda places: mono_stamps(psf.fine, places), psf.factor)
    expected = exact(positions, shifts[:4])
    assert np.abs(psf(positions, shifts[:4]) - expected).max() < 1e-6 * expected.max()
    np.testing.assert_allclose(psf(positions, shifts[:4]).sum((2, 3)), 1, atol=1e-5)
    # Light goes to larger x for a positive first offset, to larger y for the second.
    moved = psf(positions, np.tile([0.5, 0.0], (4, 1))) - psf(positions)
    x, y = (np.arange(32)[None, None, None, :], np.arange(32)[None, None, :, None])
    assert ((moved * x).sum((2, 3)) > 0.3).all() and (np.abs((moved * y).sum((2, 3))) < 0.1).all()


def test_psfs_in_the_middle_of_a_pixel_are_those_of_the_exposure():
    known, psf, *_ = field()
    truth = mono_stamps(
        FieldInterpolator(FieldPsf(PupilModel(known.optics), known.wavefronts), NODES), [[1, 2]]
    )
    assert np.abs(psf(np.array([[1.0, 2.0]])) - truth).max() < 1e-5 * truth.max()
