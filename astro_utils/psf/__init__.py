"""The point spread function of a space telescope: pupil, wavefront, diffraction, and its field of view.

The optics are those of the simulated Euclid-like stars of Centofanti et al. 2025 (arXiv:2501.16151), which
were made with the simulator of WaveDiff (Liaudat et al. 2023)::

    optics = Optics()
    model, field = PupilModel(optics), random_field(optics, seed=1)
    coefficients = field(positions)                                           # (N, 45) micrometres
    stars = model.polychromatic(model.opd(coefficients), weights)             # (N, 32, 32)
    psf = FieldInterpolator(FieldPsf(model, field))
    stars = psf.polychromatic(positions, weights)                             # the same, by the thousand
"""

from astro_utils.psf.field import FieldInterpolator, FieldPsf
from astro_utils.psf.optics import Optics, Spider, aperture
from astro_utils.psf.pupil import PupilModel
from astro_utils.psf.wavefront import WavefrontField, monomials, random_field
from astro_utils.psf.zernike import zernike_basis

__all__ = [
    "FieldInterpolator",
    "FieldPsf",
    "Optics",
    "PupilModel",
    "Spider",
    "WavefrontField",
    "aperture",
    "monomials",
    "random_field",
    "zernike_basis",
]
