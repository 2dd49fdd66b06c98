"""PSFs fitted to stars of known or supposed spectra: the published model, its parametric part, and ours.

    fitted = fit_psf(OURS, images, exposure.optics, FitBudget(), path="psf.safetensors")
    fitted.psf.monochromatic(positions)

A fit is kept in one file of tensors, from which :func:`read_fit` brings it back.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from astro_utils.models.wavediff import WaveDiff
from astro_utils.psf import FieldPsf, Optics, PupilModel, WavefrontField
from astro_utils.psf.field import PositionPsf
from astro_utils.psf.field_likelihood import StarImages
from astro_utils.psf.fit import FieldFit, FitSettings, fit_field
from astro_utils.psf.joint import candidate_stars, fit_field_and_spectra
from astro_utils.psf.wavediff_training import Schedule, train
from astro_utils.results import atomic

__all__ = [
    "JOINT",
    "MENDED",
    "METHODS",
    "OURS",
    "PARAMETRIC",
    "TRAINED",
    "WAVEDIFF",
    "FitBudget",
    "FittedPsf",
    "PsfStars",
    "fit_psf",
    "read_fit",
]

WAVEDIFF = "WaveDiff as published"
MENDED = "WaveDiff with the true pupil"
PARAMETRIC = "WaveDiff without maps"
OURS = "ours"
JOINT = "ours, spectra fitted too"
#: Trained by stochastic gradients, on the published schedule.
TRAINED = (WAVEDIFF, MENDED, PARAMETRIC)
METHODS = (*TRAINED, OURS, JOINT)


@dataclass(frozen=True)
class FitBudget:
    """How long and how finely PSFs are fitted.

    Parameters
    ----------
    epochs_share : float
        Share of the published epochs that WaveDiff is trained for; 1 is the published schedule.
    coarse : int
        Blocks of the pupil over which fitted models average (see :class:`astro_utils.psf.pupil.PupilModel`).
    starts, iterations, rounds : int
        Of ours; see :class:`astro_utils.psf.fit.FitSettings`.
    """

    epochs_share: float = 1.0
    coarse: int = 4
    starts: int = 3
    iterations: int = 40
    rounds: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.epochs_share <= 1:
            raise ValueError(f"epochs_share is {self.epochs_share}; expected above 0, at most 1")

    def schedule(self, n_stars: int, *, maps: bool) -> Schedule:
        """Return the published schedule for so many stars, or its share."""
        whole = Schedule.published(max(n_stars, 50), maps=maps)
        shorter = {
            name: tuple(e and max(1, round(self.epochs_share * e)) for e in getattr(whole, name))
            for name in ("parametric_epochs", "map_epochs")
        }
        return replace(whole, **shorter)


@dataclass(frozen=True, eq=False)
class PsfStars:
    """Stars to fit a PSF to.

    Parameters
    ----------
    positions, stamps, sigma : numpy.ndarray
        (N, 2) in the field, (N, ny, nx) of unit flux but for noise, and (N,) its standard deviation.
    sed : numpy.ndarray
        (N, bins) spectra, true or supposed; rows sum to one. NaN rows for :data:`JOINT`: not known.
    templates : numpy.ndarray
        (C, bins) what spectra may be, for :data:`JOINT`.
    """

    positions: np.ndarray
    stamps: np.ndarray
    sigma: np.ndarray
    sed: np.ndarray
    templates: np.ndarray

    def take(self, rows: slice | np.ndarray) -> PsfStars:
        """Return the stars of some rows."""
        arrays = ("positions", "stamps", "sigma", "sed")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


@dataclass(frozen=True, eq=False)
class FittedPsf:
    """A fitted PSF.

    Attributes
    ----------
    method : str
        One of :data:`METHODS`.
    psf : PositionPsf
    fit : dict
        ``n_stars``, ``seconds``, and what else a method tells of itself.
    covariance : torch.Tensor or None
        (modes - 1, M, modes - 1, M) of the polynomials of the modes, where the method gives errors.
    """

    method: str
    psf: PositionPsf
    fit: dict
    covariance: torch.Tensor | None = None

    def coefficient_covariance(self, positions: np.ndarray) -> np.ndarray:
        """Covariance (N, modes - 1, modes - 1) of the coefficients at positions (N, 2), micrometres^2."""
        if self.covariance is None:
            raise ValueError(f"a PSF of {self.method!r} has no errors")
        fit = FieldFit(self.psf.field, self.covariance, 0.0, (), None, 0.0, None, [], 0.0)
        return fit.coefficient_covariance(positions).numpy()


def fit_psf(
    method: str,
    stars: PsfStars,
    optics: Optics,
    budget: FitBudget,
    path: str | Path,
    *,
    seed: int = 0,
) -> FittedPsf:
    """Fit a PSF and keep it at `path`.

    Parameters
    ----------
    method : str
        One of :data:`METHODS`. The published model has a pupil whose smoothed edge is not cut
        (``mask_edge=False``), as in its software; ours, and :data:`MENDED`, have that of the telescope.
    stars : PsfStars
    optics : Optics
        Of the telescope.
    budget : FitBudget
    path : path
        File of tensors. Trainings of WaveDiff keep a checkpoint beside it, from which a killed one goes on.
    seed : int
        Of initial weights, of the order of stars and of starts.

    Returns
    -------
    FittedPsf

    Raises
    ------
    ValueError
        If the method is not known, or stars are not what it needs.
    """
    if method not in METHODS:
        raise ValueError(f"no PSF model {method!r}; expected one of {' | '.join(METHODS)}")
    path = Path(path)
    started = time.perf_counter()
    facts = {"n_stars": len(stars.stamps), "coarse": budget.coarse, "seed": seed}
    if method in TRAINED:
        maps = method != PARAMETRIC
        schedule = budget.schedule(len(stars.stamps), maps=maps)
        model = WaveDiff(optics=_trained_optics(method, optics), coarse=budget.coarse, maps=maps, seed=seed)
        checkpoint = path.with_suffix(".checkpoint.pt")
        history = train(
            model, stars.positions, stars.sed, stars.stamps, schedule, seed=seed, checkpoint=checkpoint
        )
        facts |= {"passes": schedule.passes(len(stars.stamps)), "last_loss": history[-1]["loss"]}
        tensors = {name: value.detach() for name, value in model.named_parameters()}
        checkpoint.unlink(missing_ok=True)
    else:
        found = _fit_ours(method, stars, optics, budget, seed)
        facts |= {"excess": found.excess, "log_posterior": found.log_posterior, "steps": len(found.history)}
        tensors = {"coefficients": found.field.coefficients, "covariance": found.covariance}
        if method == JOINT:
            tensors["probabilities"] = found.probabilities
    facts["seconds"] = time.perf_counter() - started
    with atomic(path) as temporary:
        save_file(
            {name: value.contiguous() for name, value in tensors.items()},
            temporary,
            metadata={"method": method, "facts": json.dumps(facts)},
        )
    return read_fit(path, optics)


def _trained_optics(method: str, optics: Optics) -> Optics:
    return optics if method == MENDED else replace(optics, mask_edge=False)


def _fit_ours(method: str, stars: PsfStars, optics: Optics, budget: FitBudget, seed: int) -> FieldFit:
    model = PupilModel(optics, coarse=budget.coarse)
    effort = {"starts": budget.starts, "iterations": budget.iterations, "rounds": budget.rounds}
    settings = FitSettings(**effort, seed=seed)
    if method == OURS:
        images = StarImages.known(stars.stamps, stars.positions, stars.sed, stars.sigma)
        return fit_field(model, images, settings=settings)
    labels = np.full(len(stars.stamps), -1)
    known = np.isfinite(stars.sed).all(1)
    if known.any():
        distance = np.abs(stars.sed[known, None] - stars.templates).sum(2)  # (n, C)
        labels[known] = distance.argmin(1)
    images = candidate_stars(stars.stamps, stars.positions, stars.templates, stars.sigma, labels=labels)
    return fit_field_and_spectra(model, images, settings=settings)


def read_fit(path: str | Path, optics: Optics) -> FittedPsf:
    """Read a fitted PSF.

    Parameters
    ----------
    path : path
        Of :func:`fit_psf`.
    optics : Optics
        Of the telescope.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no file, or it is not one of a fitted PSF.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no fitted PSF here")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata.get("method") not in METHODS:
        raise ValueError(f"{path}: method is {metadata.get('method')!r}; expected one of {METHODS}")
    method, facts = metadata["method"], json.loads(metadata["facts"])
    if method in TRAINED:
        optics, coarse = _trained_optics(method, optics), facts["coarse"]
        psf = WaveDiff(optics=optics, coarse=coarse, maps=method != PARAMETRIC)
        psf.load_state_dict(tensors, strict=False)
        psf.requires_grad_(False)
        return FittedPsf(method, psf, facts)
    pupil = PupilModel(optics, coarse=facts["coarse"])
    field = WavefrontField(tensors["coefficients"], optics.field_limits)
    facts["probabilities"] = tensors.get("probabilities")
    return FittedPsf(method, FieldPsf(pupil, field), facts, tensors["covariance"])
