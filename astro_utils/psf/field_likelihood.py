"""How likely a field of wavefronts is, from the noisy images of stars whose spectra are known or not.

Each star has a list of candidate spectra and their prior probabilities. With one candidate the spectrum is
known; with several the likelihood is summed over them, so that its gradient is that of the expectation step
of the EM algorithm. The noise is white and Gaussian.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from astro_utils.psf.linearise import polychromatic_derivatives
from astro_utils.psf.optics import Optics
from astro_utils.psf.pupil import PupilModel
from astro_utils.psf.wavefront import monomials, scaled_positions

__all__ = ["FieldLikelihood", "StarImages"]

FLUXES = ("unit", "free")

#: Wavefronts propagated at a time, and stars interpolated at a time: bounds of memory.
_WAVEFRONTS, _STARS = 16, 128


@dataclass(frozen=True, eq=False)
class StarImages:
    """Stamps of stars, where they are, and what their spectra may be.

    Parameters
    ----------
    stamps : numpy.ndarray
        (N, stamp, stamp).
    positions : numpy.ndarray
        (N, 2) in the field.
    candidates : numpy.ndarray
        (C, bins) spectra, rows of unit sum, the same for all stars; or (N, C, bins).
    log_prior : numpy.ndarray
        (N, C) logarithms of their probabilities, -inf for what a star is not.
    sigma : numpy.ndarray
        (N,) noise of a pixel, or one number.
    flux : {"unit", "free"}
        Whether stars have flux one, as simulated ones, or an unknown flux, integrated out over a flat prior.

    Raises
    ------
    ValueError
        If shapes disagree, noise is not positive, stamps are not finite, spectra do not sum to one, or a star
        has no possible spectrum.
    """

    stamps: np.ndarray
    positions: np.ndarray
    candidates: np.ndarray
    log_prior: np.ndarray
    sigma: np.ndarray
    flux: str = "unit"

    def __post_init__(self) -> None:
        stamps, candidates = np.asarray(self.stamps), np.asarray(self.candidates, float)
        if stamps.ndim != 3 or stamps.shape[1] != stamps.shape[2] or not len(stamps):
            raise ValueError(f"stamps have shape {stamps.shape}; expected (N, stamp, stamp)")
        if candidates.ndim == 2:
            candidates = np.tile(candidates, (len(stamps), 1, 1))
        sigma = np.asarray(self.sigma, float)
        sigma = np.full(len(stamps), sigma) if sigma.ndim == 0 else sigma
        values = {
            "stamps": stamps,
            "positions": np.asarray(self.positions, float),
            "candidates": candidates,
            "log_prior": np.asarray(self.log_prior, float),
            "sigma": sigma,
        }
        n, c = len(stamps), candidates.shape[1] if candidates.ndim == 3 else 0
        shapes = {"positions": (n, 2), "candidates": (n, c, *candidates.shape[2:]), "log_prior": (n, c)}
        for name, shape in (shapes | {"sigma": (n,)}).items():
            if values[name].shape != shape or 0 in shape:
                raise ValueError(f"{name} of shape {values[name].shape} with {n} stamps; expected {shape}")
        if self.flux not in FLUXES:
            raise ValueError(f"flux is {self.flux!r}; expected one of {FLUXES}")
        for name, wrong, expected in (
            ("stamps", ~np.isfinite(stamps).all((1, 2)), "finite values"),
            ("sigma", ~((sigma > 0) & np.isfinite(sigma)), "a positive number"),
            ("candidates", ~(np.abs(candidates.sum(2) - 1) < 1e-3).all(1), "spectra that sum to one"),
            ("log_prior", ~np.isfinite(values["log_prior"].max(1)), "a possible spectrum for each star"),
        ):
            if wrong.any():
                raise ValueError(f"{name} of star {int(wrong.argmax())} is wrong; expected {expected}")
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def known(cls, stamps, positions, sed, sigma, flux: str = "unit") -> StarImages:
        """Stars with known spectra `sed`, (N, bins)."""
        sed = np.asarray(sed, float)
        if sed.ndim != 2 or len(sed) != len(stamps):
            raise ValueError(f"sed has shape {sed.shape}; expected ({len(stamps)}, bins)")
        return cls(stamps, positions, sed[:, None], np.zeros((len(sed), 1)), sigma, flux)

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, rows: np.ndarray | slice) -> StarImages:
        """Return the stars of some rows."""
        arrays = ("stamps", "positions", "candidates", "log_prior", "sigma")
        return replace(self, **{name: getattr(self, name)[rows] for name in arrays})


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The likelihood at one field: loss, gradient (modes - 1, M), and by star chi^2 and probabilities."""

    loss: float
    gradient: Tensor
    chi2: Tensor  # (N,)
    probabilities: Tensor  # (N, C)


class FieldLikelihood:
    """Minus the log-likelihood of stars as a function of the Zernike coefficients' polynomials.

    Parameters
    ----------
    model : PupilModel
    stars : StarImages
    nodes : int, optional
        Stamps are interpolated from nodes x nodes Chebyshev points of the field, which saves time where there
        are more stars. By default every star has a wavefront of its own.
    sites : int
        Second derivatives are computed at sites x sites points of the field and interpolated linearly, or at
        the stars where these are fewer.

    Raises
    ------
    ValueError
        If stars and model disagree in stamps or bins, or a position is not in the field.
    """

    def __init__(
        self, model: PupilModel, stars: StarImages, *, nodes: int | None = None, sites: int = 7
    ) -> None:
        optics = model.optics
        expected = optics.stamp, optics.bins
        if (stars.stamps.shape[2], stars.candidates.shape[2]) != expected:
            raise ValueError(
                f"stars have stamps of {stars.stamps.shape[2]} pixels and spectra of "
                f"{stars.candidates.shape[2]} bins; the model has {expected[0]} and {expected[1]}"
            )
        self.model, self.stars, self.flux = model, stars, stars.flux
        self.stamps, self.sigma, self.candidates = (
            torch.tensor(a).to(model.basis) for a in (stars.stamps, stars.sigma, stars.candidates)
        )
        self.log_prior = torch.as_tensor(stars.log_prior, device=model.basis.device)
        self.terms = self._monomials(stars.positions)  # (N, M)
        self.weights = None
        self.site_terms = self.terms
        if nodes is not None:
            roots = np.cos(np.pi * (np.arange(nodes) + 0.5) / nodes)
            self.site_terms = self._monomials(_square(roots, optics))
            inverse = np.linalg.inv(np.polynomial.chebyshev.chebvander(roots, nodes - 1))
            scaled = scaled_positions(stars.positions, optics.field_limits).numpy()
            x, y = (np.polynomial.chebyshev.chebvander(axis, nodes - 1) @ inverse for axis in scaled.T)
            self.weights = torch.from_numpy(_outer(x, y)).to(model.basis)  # (N, nodes nodes)
        # Linear weights are positive, so that what they make of positive definite matrices is so too.
        self.hat_terms, self.hats = self.terms, None
        if sites**2 < len(stars):
            axis = np.linspace(-1, 1, sites)
            self.hat_terms = self._monomials(_square(axis, optics))
            scaled = scaled_positions(stars.positions, optics.field_limits).numpy()
            distance = np.abs(scaled[:, :, None] - axis) * (sites - 1) / 2
            x, y = np.maximum(1 - distance, 0).transpose(1, 0, 2)
            self.hats = torch.from_numpy(_outer(x, y)).to(self.terms)  # (N, sites sites)

    def _monomials(self, positions: np.ndarray) -> Tensor:
        optics = self.model.optics
        return monomials(positions, optics.field_degree, optics.field_limits).to(self.model.basis.device)

    def __call__(self, coefficients: Tensor, temperature: float = 1.0) -> Evaluation:
        """Evaluate loss and gradient.

        Parameters
        ----------
        coefficients : torch.Tensor
            (modes - 1, M) float64 micrometres, without piston.
        temperature : float
            Factor by which the variance of the noise is taken larger.

        Returns
        -------
        Evaluation
            With chi^2 and the loss in units of the noise itself, not that at the temperature.
        """
        parts = []
        gradient = torch.zeros(len(self.site_terms), self.model.optics.modes, dtype=torch.float64)
        gradient = gradient.to(coefficients.device)
        wavefronts = self._wavefronts(coefficients, self.site_terms)
        chunks = torch.arange(len(wavefronts)).split(_WAVEFRONTS)
        if self.weights is None:
            for rows in chunks:
                c = wavefronts[rows].requires_grad_()
                parts.append(self._stars(rows, self.model.monochromatic(self.model.opd(c)), temperature))
                gradient[rows] = torch.autograd.grad(parts[-1][0], c)[0].double()
        else:
            with torch.no_grad():
                nodes = [self.model.monochromatic(self.model.opd(wavefronts[rows])) for rows in chunks]
            nodes = torch.cat(nodes)
            back = torch.zeros_like(nodes).flatten(1)  # d loss / d stamps at the nodes
            for rows in torch.arange(len(self.stamps)).split(_STARS):
                stamps = (self.weights[rows] @ nodes.flatten(1)).unflatten(1, nodes.shape[1:])
                parts.append(self._stars(rows, stamps.requires_grad_(), temperature))
                (change,) = torch.autograd.grad(parts[-1][0], stamps)
                back.addmm_(self.weights[rows].T, change.flatten(1))
            back = back.view_as(nodes)
            for rows in chunks:  # once more: all graphs together would not fit into memory
                c = wavefronts[rows].requires_grad_()
                stamps = self.model.monochromatic(self.model.opd(c))
                gradient[rows] = torch.autograd.grad(stamps, c, back[rows])[0].double()
        loss = sum(float(part[0].detach()) for part in parts)
        chi2, probabilities = (torch.cat([part[i] for part in parts]) for i in (1, 2))
        return Evaluation(loss, gradient[:, 1:].T @ self.site_terms, chi2, probabilities)

    def _wavefronts(self, coefficients: Tensor, terms: Tensor) -> Tensor:
        values = (terms @ coefficients.T).to(self.model.basis)
        return torch.cat([torch.zeros_like(values[:, :1]), values], 1)  # (sites, modes)

    def _stars(self, rows: Tensor, mono: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Loss, and chi^2 and probabilities by star, from monochromatic stamps (n, bins, y, x)."""
        data, noise = self.stamps[rows].flatten(1)[:, None], self.sigma[rows].double()[:, None]
        image = self.candidates[rows] @ mono.flatten(2)  # (n, C, pixels)
        log_prior = self.log_prior[rows]
        if self.flux == "free":
            power = image.square().sum(2, keepdim=True)
            image = image * ((image * data).sum(2, keepdim=True) / power)
            log_prior = log_prior - power[..., 0].double().log() / 2
        chi2 = (data - image).square().sum(2).double() / noise.square()  # (n, C)
        log_joint = log_prior - chi2 / (2 * temperature)
        loss = -torch.logsumexp(log_joint, 1).sum()
        probabilities = log_joint.detach().softmax(1)
        return loss, (probabilities * chi2.detach()).sum(1), probabilities

    def curvature(
        self, coefficients: Tensor, probabilities: Tensor, model: PupilModel | None = None
    ) -> Tensor:
        """Compute the Gauss-Newton matrix of the loss, for stars with the mean of their spectra.

        Parameters
        ----------
        coefficients : torch.Tensor
            (modes - 1, M).
        probabilities : torch.Tensor
            (N, C) of the stars' spectra.
        model : PupilModel, optional
            A cheaper one, with smaller stamps, or fewer bins by a whole factor.

        Returns
        -------
        torch.Tensor
            (modes - 1, M, modes - 1, M) float64.
        """
        model = self.model if model is None else model
        seds = torch.einsum("nc,ncb->nb", probabilities.to(self.candidates), self.candidates)
        seds = seds.unflatten(1, (model.optics.bins, -1)).sum(2)
        precision = self.sigma.double().pow(-2)
        if self.flux == "free":  # a stamp's own flux scales its derivatives
            inside = self.stamps.flatten(1).sum(1).double()
            precision = precision * inside.square()
        wavefronts = self._wavefronts(coefficients, self.hat_terms)
        if self.hats is None:
            terms = (precision[:, None, None] * self.terms[:, :, None] * self.terms[:, None]).flatten(1)
        else:
            hats = precision[:, None] * self.hats  # (N, sites)
            outer = (self.terms[:, :, None] * self.terms[:, None]).flatten(1)
            terms = hats.T @ outer  # (sites, M M)
            total = hats.sum(0)
            used = total > 0
            mean = seds.mean(0, keepdim=True)
            seds = torch.where(used[:, None], hats.T @ seds.double() / total.clamp(min=1e-300)[:, None], mean)
            seds, wavefronts, terms = seds[used].to(mean), wavefronts[used], terms[used]
        n, m = model.optics.modes - 1, self.terms.shape[1]
        grams = []
        for rows in torch.arange(len(wavefronts)).split(_WAVEFRONTS):
            stars, jacobian = polychromatic_derivatives(model, wavefronts[rows], seds[rows])
            jacobian, stars = jacobian.flatten(2), stars.flatten(1)
            if self.flux == "free":
                along = stars / stars.norm(dim=1, keepdim=True)
                jacobian = jacobian - (jacobian @ along[:, :, None]) * along[:, None]
            grams.append((jacobian @ jacobian.mT).flatten(1).double())
        out = torch.cat(grams).T @ terms  # (n n, m m)
        return out.view(n, n, m, m).permute(0, 2, 1, 3)


def cheaper(model: PupilModel, *, stamp: int = 20) -> PupilModel:
    """Build a model with half of the bins and the core of the stamps: for second derivatives."""
    optics = model.optics
    smaller = replace(
        optics, bins=optics.bins // 2 if optics.bins % 2 == 0 else optics.bins, stamp=min(stamp, optics.stamp)
    )
    coarse = max(model.coarse, math.gcd(optics.pupil_size // 2, 4))
    return PupilModel(smaller, coarse=coarse, dtype=model.basis.dtype).to(model.basis.device)


def _square(axis: np.ndarray, optics: Optics) -> np.ndarray:
    """Positions (n n, 2) in the field at all pairs of values from -1 to 1."""
    low, high = optics.field_limits
    axis = np.clip(low + (high - low) * (axis + 1) / 2, low, high)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def _outer(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x[:, :, None] * y[:, None, :]).reshape(len(x), -1)
