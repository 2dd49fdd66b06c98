"""Small fields whose PSFs err by a known amount, for tests."""

import numpy as np
import torch
from scipy.special import log_softmax

from astro_utils.psf import FieldPsf, Optics, PupilModel, WavefrontField
from astro_utils.starsed.exposures import Exposure
from astro_utils.starsed.psf_fits import OURS, FittedPsf
from astro_utils.starsed.stars import StarConfig

OPTICS = Optics(pupil_size=64, stamp=16, modes=15, field_degree=2, field_grid=4, mean_wavefront_error_nm=60)
ERROR_NM = 4.0  # of each mode


def erring(exposure, error_nm=ERROR_NM, claimed_nm=None, n_stars=50):
    """The true field with the same error everywhere, and a claim of its size: by default the true one."""
    claimed_nm = error_nm if claimed_nm is None else claimed_nm
    true = exposure.wavefronts.coefficients
    drift = torch.zeros_like(true)
    rng = np.random.default_rng(exposure.field_seed)
    drift[1:, 0] = torch.from_numpy(1e-3 * error_nm * rng.standard_normal(len(true) - 1))
    covariance = torch.zeros(len(true) - 1, true.shape[1], len(true) - 1, true.shape[1], dtype=torch.float64)
    covariance[:, 0, :, 0] = (1e-3 * claimed_nm) ** 2 * torch.eye(len(true) - 1)
    psf = FieldPsf(PupilModel(exposure.optics), WavefrontField(true + drift, exposure.optics.field_limits))
    return FittedPsf(OURS, psf, {"n_stars": n_stars}, covariance)


def made(seed, n_train, n_test=0):
    """An exposure of a small telescope, of few nodes."""
    return Exposure(seed, StarConfig(seed=seed, n_train=n_train, n_test=n_test), optics=OPTICS, nodes=5)


def nll(log_l, labels):
    """Mean negative log-probability of the labels."""
    return -log_softmax(log_l, axis=1)[np.arange(len(labels)), labels].mean()
