"""Errors of a PSF model as published: of pixels, of the wavefront, and of shapes (Liaudat et al. 2023).

errors = evaluate(model, field, Optics(), positions, sed)
errors["relative"]              # per cent, of the stars' images
"""

from __future__ import annotations

from typing import Protocol

import galsim
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from astro_utils.psf import Optics, PupilModel, WavefrontField
from astro_utils.psf.pupil import mix

__all__ = ["PsfModel", "evaluate", "opd_errors", "relative_pixel_error", "shape_errors", "shapes"]


class PsfModel(Protocol):
    """What can be evaluated.

    A model may also have ``super_resolved(positions, sed)``, (B, 64, 64). Otherwise its wavefronts pass
    through the true pupil for them.
    """

    def monochromatic(self, positions: Tensor) -> Tensor:
        """Compute stamps (B, bins, stamp, stamp) at positions (B, 2), each of unit sum."""

    def opd(self, positions: Tensor) -> Tensor:
        """Compute optical path differences (B, size, size), micrometres, at positions (B, 2)."""


def relative_pixel_error(model_stamps: ArrayLike | Tensor, true_stamps: ArrayLike | Tensor) -> dict:
    """Compare images pixel by pixel.

    Parameters
    ----------
    model_stamps, true_stamps : array_like or torch.Tensor
        (N, ny, nx); the true ones without noise.

    Returns
    -------
    dict of float
        ``relative`` and ``relative_std``, per cent: mean and standard deviation over the stars of the norm of
        a star's residuals over the norm of the star. ``rmse`` and ``rmse_std``: of a star's root mean
        squared residual.

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.
    """
    model, true = _pair(model_stamps, true_stamps, "stamps")
    residual = np.sqrt(np.mean((model - true) ** 2, axis=(1, 2)))
    relative = 100 * residual / np.sqrt(np.mean(true**2, axis=(1, 2)))
    return {
        "relative": float(relative.mean()),
        "relative_std": float(relative.std()),
        "rmse": float(residual.mean()),
        "rmse_std": float(residual.std()),
    }


def opd_errors(model_opd: ArrayLike | Tensor, true_opd: ArrayLike | Tensor, amplitude: ArrayLike) -> dict:
    """Compare wavefronts where the aperture is open.

    Parameters
    ----------
    model_opd, true_opd : array_like or torch.Tensor
        (N, n, n) micrometres.
    amplitude : array_like
        (n, n) transmission of the true aperture, with which wavefronts are multiplied.

    Returns
    -------
    dict of float
        ``opd_rmse`` (micrometres) and ``opd_relative`` (per cent of the true one's root mean square), with
        their standard deviations ``..._std`` over the stars: as published, where the mean over the whole
        square is subtracted, of which piston leaves a fifth. ``opd_relative_no_piston``: with the mean over
        the aperture subtracted.

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.
    """
    model, true = _pair(model_opd, true_opd, "opd")
    amplitude = np.asarray(amplitude, float)
    if amplitude.shape != model.shape[1:]:
        raise ValueError(f"amplitude has shape {amplitude.shape}; expected {model.shape[1:]}")
    is_open = amplitude > 0

    def errors(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        centred = [
            a - np.average(a.reshape(len(a), -1), axis=1, weights=weights.ravel())[:, None, None]
            for a in (model, true)
        ]
        model_open, true_open = ((a * amplitude)[:, is_open] for a in centred)
        rmse = np.sqrt(np.mean((model_open - true_open) ** 2, axis=1))
        return rmse, 100 * rmse / np.sqrt(np.mean(true_open**2, axis=1))

    rmse, relative = errors(np.ones_like(amplitude))
    _, no_piston = errors(amplitude)
    return {
        "opd_rmse": float(rmse.mean()),
        "opd_rmse_std": float(rmse.std()),
        "opd_relative": float(relative.mean()),
        "opd_relative_std": float(relative.std()),
        "opd_relative_no_piston": float(no_piston.mean()),
    }


def shapes(stamps: ArrayLike | Tensor) -> np.ndarray:
    """Measure ellipticities and sizes from adaptive moments [1]_.

    Parameters
    ----------
    stamps : array_like or torch.Tensor
        (N, ny, nx).

    Returns
    -------
    numpy.ndarray
        (N, 3): e1 and e2, which are (a - b) / (a + b) of an ellipse along x or along the diagonal, and
        R2 = 2 sigma^2 in squared samples. NaN where the moments do not converge.

    References
    ----------
    .. [1] Hirata, C., & Seljak, U., 2003, MNRAS, 343, 459.
    """
    out = np.full((len(stamps), 3), np.nan)
    for row, stamp in zip(out, np.asarray(stamps, float), strict=True):
        moments = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(stamp)), strict=False)
        if moments.moments_status == 0:
            shape = moments.observed_shape
            row[:] = shape.g1, shape.g2, 2 * moments.moments_sigma**2
    return out


def shape_errors(model_stamps: ArrayLike | Tensor, true_stamps: ArrayLike | Tensor) -> dict:
    """Compare the shapes of images.

    Parameters
    ----------
    model_stamps, true_stamps : array_like or torch.Tensor
        (N, ny, nx).

    Returns
    -------
    dict
        ``e1`` and ``e2``: root mean squared errors. ``r2``: that of R2 over the mean true R2.
        ``shape_failures``: the number of stars of which a shape could not be measured, in either image, and
        which do not count. Errors are NaN if none could be.

    Raises
    ------
    ValueError
        If shapes disagree or a value is not finite.
    """
    model, true = (shapes(stamps) for stamps in _pair(model_stamps, true_stamps, "stamps"))
    measured = np.isfinite(model).all(1) & np.isfinite(true).all(1)
    out = {"e1": np.nan, "e2": np.nan, "r2": np.nan, "shape_failures": int((~measured).sum())}
    if measured.any():
        e1, e2, r2 = np.sqrt(np.mean((model - true)[measured] ** 2, axis=0))
        out |= {"e1": float(e1), "e2": float(e2), "r2": float(r2 / true[measured, 2].mean())}
    return out


@torch.no_grad()
def evaluate(
    model: PsfModel,
    field: WavefrontField,
    optics: Optics,
    positions: ArrayLike | Tensor,
    sed: ArrayLike | Tensor,
    *,
    batch_size: int = 16,
) -> dict:
    """Measure all errors of a PSF model at given positions.

    Parameters
    ----------
    model : PsfModel
        On the CPU.
    field : WavefrontField
        The true wavefronts.
    optics : Optics
        The true optics.
    positions : array_like or torch.Tensor
        (N, 2) in the field.
    sed : array_like or torch.Tensor
        (N, bins) weights of unit sum.
    batch_size : int
        Stars at a time: bounds memory.

    Returns
    -------
    dict
        Of :func:`relative_pixel_error` for the stamps; the same with prefix ``super_`` for images of 64 x 64
        samples, three to a pixel; ``wavelengths_um`` and the lists ``mono_relative`` and ``mono_rmse`` for
        monochromatic stamps; of :func:`opd_errors`, on the model's samples of the pupil (where these are
        blocks, those at the edge average over another area if only one aperture has ``mask_edge``); of
        :func:`shape_errors` for the super-resolved images; and ``n``.

    Raises
    ------
    ValueError
        If the model has other wavelengths or another size, or the arrays disagree in length.
    """
    positions, sed = torch.as_tensor(positions), torch.as_tensor(sed)
    if len(positions) != len(sed) or not len(sed):
        raise ValueError(f"{len(positions)} positions and {len(sed)} spectra; expected as many, at least 1")
    true = PupilModel(optics)
    size = model.opd(positions[:1]).shape[-1]
    if size < 1 or optics.pupil_size % size:
        raise ValueError(
            f"the model's wavefronts have {size} samples; expected a part of {optics.pupil_size}"
        )
    blocks = true if size == true.size else PupilModel(optics, coarse=optics.pupil_size // size)
    names = ("mono", "star", "super", "opd")
    pairs: dict[str, tuple[list, list]] = {name: ([], []) for name in names}
    for where, spectra in zip(positions.split(batch_size), sed.split(batch_size), strict=True):
        of_model, of_truth = model.opd(where), true.opd(field(where))
        mono = model.monochromatic(where), true.monochromatic(of_truth)
        if mono[0].shape != mono[1].shape:
            raise ValueError(
                f"monochromatic stamps have shape {tuple(mono[0].shape)}; expected {tuple(mono[1].shape)}"
            )
        finer = getattr(model, "super_resolved", None)
        fine = finer(where, spectra) if finer else blocks.super_resolved(of_model, spectra)
        both = (
            mono,
            tuple(mix(stamps, spectra) for stamps in mono),
            (fine, true.super_resolved(of_truth, spectra)),
            (of_model, blocks.block_mean(of_truth)),
        )
        for name, pair in zip(names, both, strict=True):
            for kept, value in zip(pairs[name], pair, strict=True):
                kept.append(value)
    done = {name: [torch.cat(parts) for parts in pair] for name, pair in pairs.items()}
    by_wavelength = [
        relative_pixel_error(*stamps) for stamps in zip(*(m.unbind(1) for m in done["mono"]), strict=True)
    ]
    fine = relative_pixel_error(*done["super"])
    return {
        "n": len(sed),
        **relative_pixel_error(*done["star"]),
        **{f"super_{name}": value for name, value in fine.items()},
        "wavelengths_um": optics.wavelengths_um.tolist(),
        "mono_relative": [errors["relative"] for errors in by_wavelength],
        "mono_rmse": [errors["rmse"] for errors in by_wavelength],
        **opd_errors(*done["opd"], blocks.amplitude),
        **shape_errors(*done["super"]),
    }


def _pair(model: ArrayLike | Tensor, true: ArrayLike | Tensor, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Two stacks of images in float64."""
    model, true = np.asarray(model, float), np.asarray(true, float)
    if model.ndim != 3 or model.shape != true.shape or not len(model):
        raise ValueError(
            f"{name} of the model have shape {model.shape}, true ones {true.shape}; "
            "expected (N, ny, nx) of both"
        )
    for which, values in (("model", model), ("truth", true)):
        if not np.isfinite(values).all():
            row = int((~np.isfinite(values)).any((1, 2)).argmax())
            raise ValueError(f"{name} {row} of the {which} is not finite")
    return model, true
