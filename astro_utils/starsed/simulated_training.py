"""A classifier of stars that learns on simulated fields alone, for PSFs that were fitted to few stars.

A PSF that was fitted to 50 stars errs by more than what is linear in the wavefront, and the covariance of the
fit is that of one place in a valley of the posterior that is curved. Two steps answer that:

1. The errors of the wavefront are integrated out about the wavefront that the star itself prefers, found by
   iteration, not about the fitted one (:func:`relinearised_likelihoods`).
2. How sure to be after that is learned on other fields, simulated, each with its own wavefronts, stars and
   fit (:func:`fit_simulated`). No star of the field to classify is needed, and no label of it.

>>> seen = simulated_fields(exposures(12, 350, 0, "pickles", first_seed=101), 50, "fits")  # doctest: +SKIP
>>> correction = fit_simulated(seen)                                                       # doctest: +SKIP
>>> simulated_answers(exposure, "field_1.h5", fitted, correction)                          # doctest: +SKIP
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.special import log_softmax
from torch import Tensor, nn

from astro_utils.models.star_classifiers import class_cross_entropy
from astro_utils.models.star_likelihood import fit_temperature
from astro_utils.psf import PupilModel
from astro_utils.psf.linearise import zernike_derivatives
from astro_utils.results import atomic
from astro_utils.starsed.classify import SAME
from astro_utils.starsed.exposures import Exposure, classifier_stars
from astro_utils.starsed.psf_fits import OURS, FitBudget, FittedPsf, read_fit
from astro_utils.starsed.psf_jobs import PsfJob, known_stars, run_jobs
from astro_utils.starsed.stamps import StarSet
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.stars import SUBSETS
from astro_utils.starsed.templates import CLASSES
from astro_utils.training import TrainingConfig, fit, predict, seeded

__all__ = [
    "METHODS",
    "Relinearised",
    "SimulatedConfig",
    "SimulatedCorrection",
    "SimulatedField",
    "fit_simulated",
    "relinearised_likelihoods",
    "simulated_answers",
    "simulated_fields",
]

#: Names of the methods, by what is known of the flux: nothing, or that it is one.
METHODS = {
    "free": "ours, learned on simulated fields",
    "unit": "ours, learned on simulated fields, unit flux",
}
_CHUNK = 25  # stars at a time: 13 classes x 44 modes x 400 pixels of 8 bytes are 1.8 MB each
_FEATURES = 4


# ------------------------------------------------------------------------------------- likelihoods


@dataclass(frozen=True, eq=False)
class Relinearised:
    """What the stars of a field say under a PSF that errs.

    Attributes
    ----------
    log_likelihood : dict
        ``free`` and ``unit`` (what is known of the flux) to (N, C).
    features : numpy.ndarray
        (N, 4): logarithms of the expected relative error of the star's image before the star is seen, and of
        its signal-to-noise ratio; by how many standard deviations chi^2 of the best class exceeds the number
        of pixels; and the mean square of the wavefront's change from the fit, in its standard deviations.
    """

    log_likelihood: dict[str, np.ndarray]
    features: np.ndarray


def relinearised_likelihoods(
    stars: StarSet, fitted: FittedPsf, templates: np.ndarray, *, steps: int = 3
) -> Relinearised:
    """Integrate out the errors of a fitted wavefront about the wavefront that each star prefers.

    Parameters
    ----------
    stars : StarSet
    fitted : FittedPsf
        With a covariance.
    templates : numpy.ndarray
        (C, bins), rows sum to one.
    steps : int
        Linearisations; with one, about the fit, only.

    Returns
    -------
    Relinearised

    Raises
    ------
    ValueError
        If the PSF has no errors, or there is no step.

    Notes
    -----
    With c the coefficients at the star, of prior mean c_0 (the fit) and covariance S, each step expands the
    images about c_i, m(c) = m(c_i) + J (c - c_i), takes the linear model's likelihood of each class and mean
    of c, and averages the means over the classes by their probabilities with free flux, for the next c_i:
    the iterated Kalman filter, which is a Gauss-Newton search (Bell & Cathey 1993, IEEE Trans. Autom. Control
    38, 294). Images m are those of the fitted model; J is of a coarser one, with half of the bins and the
    inner 20 x 20 pixels, and errs by 3 %, which matters little where c_i is close to c.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected 1 or more")
    covariance = fitted.coefficient_covariance(stars.positions)  # (N, J, J)
    values, vectors = torch.linalg.eigh(torch.as_tensor(covariance, dtype=torch.float64))
    factor = vectors * values.clamp_min(0).sqrt()[:, None]
    centre = fitted.psf.field(stars.positions).double()
    sigma = torch.tensor(classifier_stars(stars).sigma, dtype=torch.float64)
    sigma = sigma.view(len(stars), *([1, 1] if sigma.ndim == 1 else sigma.shape[1:]))
    stamps, weights = torch.tensor(stars.stamps, dtype=torch.float64), torch.tensor(templates).double()
    sketch = _sketch(fitted.psf.model)
    parts = []
    for start in range(0, len(stars), _CHUNK):
        rows = slice(start, start + _CHUNK)
        one = _Chunk(stamps[rows], sigma[rows], centre[rows], factor[rows], weights, fitted.psf.model, sketch)
        parts.append(one.run(steps))
    free, unit, features = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Relinearised({"free": free, "unit": unit}, features)


def _sketch(model: PupilModel) -> PupilModel:
    """Make the coarse model of the derivatives: 32 samples across the pupil, half the bins, the core."""
    optics = model.optics
    smaller = replace(
        optics, bins=optics.bins // 2 if optics.bins % 2 == 0 else optics.bins, stamp=min(20, optics.stamp)
    )
    coarse = max(model.coarse, math.gcd(optics.pupil_size // 2, max(1, optics.pupil_size // 32)))
    return PupilModel(smaller, coarse=coarse, dtype=model.basis.dtype).to(model.basis.device)


@dataclass(frozen=True, eq=False)
class _Chunk:
    """Some stars: stamps (n, ny, nx), noise, coefficients and factors S = F F^T, and the models."""

    stamps: Tensor
    sigma: Tensor
    centre: Tensor
    factor: Tensor
    weights: Tensor
    model: PupilModel
    sketch: PupilModel

    @cached_property
    def core(self) -> Tensor:
        """Pixels of a stamp, numbered along its rows, in which the coarse model gives derivatives."""
        side, core = self.stamps.shape[1], self.sketch.optics.stamp
        inner = torch.arange(core) + (side - core) // 2
        return (side * inner[:, None] + inner).flatten()

    @torch.no_grad()
    def run(self, steps: int) -> tuple[Tensor, Tensor, Tensor]:
        """Iterate, and return log-likelihoods with free and with unit flux, and the features."""
        n, size = self.stamps.shape[0], self.factor.shape[2]
        moved, expected = self.centre.new_zeros(n, size), None  # in standard deviations
        data = (self.stamps / self.sigma).flatten(1)[:, None]  # (n, 1, pixels)
        for _ in range(steps):
            images, changes = self._expand(moved)  # (n, C, pixels), (n, C, J, core)
            power = images.square().sum(2)
            flux = (images * data).sum(2) / power  # (n, C)
            if expected is None:
                expected = (changes.square().sum((2, 3)) / power).mean(1).sqrt()
            images[..., self.core] -= (moved[:, None, None] @ changes)[:, :, 0]  # what they were with none
            gram = changes @ changes.mT
            on_data = (changes @ data[..., self.core, None])[..., 0]  # (n, C, J)
            on_image = (changes @ images[..., self.core, None])[..., 0]
            unit, _, _, _ = _marginal(data, images, gram, on_data, on_image, None)
            free, chi2, mean, power = _marginal(data, images, gram, on_data, on_image, flux)
            probability = free.softmax(1)
            moved = (probability[..., None] * mean).sum(1)
        pixels = data.shape[2]
        best = chi2.min(1).values
        features = [expected.log(), 0.5 * power.mean(1).log(), (best - pixels) / (2 * pixels) ** 0.5]
        return free, unit, torch.stack([*features, moved.square().mean(1)], 1)

    def _expand(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Images of the classes in units of the noise, and their changes per standard deviation."""
        coefficients = self.centre.clone()
        coefficients[:, 1:] += (self.factor @ moved[..., None])[..., 0]
        psfs = self.model.monochromatic(self.model.opd(coefficients)).double()  # (n, bins, ny, nx)
        images = (self.weights @ psfs.flatten(2)).unflatten(2, psfs.shape[2:]) / self.sigma[:, None]
        coarse = self.weights.view(len(self.weights), self.sketch.optics.bins, -1).sum(2)
        changes = zernike_derivatives(self.sketch, coefficients).double().flatten(3)
        changes = self.factor.mT[:, None] @ changes  # (n, bins, J, core)
        noise = self.sigma.expand(self.stamps.shape).flatten(1)[:, None, None, self.core]
        changes = (coarse @ changes.flatten(2)).unflatten(2, (-1, len(self.core))) / noise
        return images.flatten(2), changes


def _marginal(
    data: Tensor, images: Tensor, gram: Tensor, on_data: Tensor, on_image: Tensor, flux: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Integrate u ~ N(0, 1) out of data = f (images + u changes) + noise, with f one or flat.

    Returns log-likelihoods up to a constant, chi^2, means of u, and the power of the images that is left.
    """
    scale = torch.ones_like(on_data[..., 0]) if flux is None else flux
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    lower = torch.linalg.cholesky(eye + scale[..., None, None] ** 2 * gram)
    both = scale[..., None, None] * torch.stack([on_data, on_image], 3)  # (n, C, J, 2)
    u, w = torch.linalg.solve_triangular(lower, both, upper=False).unbind(3)
    dd = data.square().sum(2) - u.square().sum(2)
    md = (images * data).sum(2) - (u * w).sum(2)
    mm = images.square().sum(2) - w.square().sum(2)
    best = torch.ones_like(mm) if flux is None else md / mm
    chi2 = dd - 2 * best * md + best**2 * mm
    log_l = -0.5 * chi2 - lower.diagonal(dim1=2, dim2=3).log().sum(2)
    if flux is not None:
        log_l = log_l - 0.5 * mm.log()
    mean = torch.linalg.solve_triangular(lower.mT, (u - best[..., None] * w)[..., None], upper=True)[..., 0]
    return log_l, chi2, mean, mm


# ------------------------------------------------------------------------------------- learning


@dataclass(frozen=True, eq=False)
class SimulatedField:
    """A simulated field to learn from: a fit, labelled stars that it did not see, templates (C, bins)."""

    fitted: FittedPsf
    stars: StarSet
    templates: np.ndarray


def simulated_fields(
    exposures: Sequence[Exposure],
    n_psf: int,
    folder: str | Path,
    *,
    budget: FitBudget | None = None,
    workers: int = 1,
) -> list[SimulatedField]:
    """Simulate fields and fit the PSF of each to its first stars.

    Parameters
    ----------
    exposures : sequence of Exposure
        Of seeds that no field to classify has. Their training stars after the first `n_psf` are learned from.
    n_psf : int
        Stars of a fit, as many as in the fields to classify.
    folder : path
        Where samples and fits are kept; a killed run goes on where it stopped.
    budget : FitBudget, optional
        Of the fits, as in the fields to classify; by default blocks of 4 samples and one start.
    workers : int
        Fits at a time.

    Raises
    ------
    ValueError
        If an exposure has no other stars than those.
    """
    budget, folder = budget or FitBudget(coarse=4, starts=1), Path(folder)
    jobs, stars = {}, {}
    for exposure in exposures:
        name, n = f"{exposure.field_seed}", exposure.stars.n_train
        if not 0 < n_psf < n:
            raise ValueError(f"field {name} has {n} training stars; expected more than {n_psf}, of the PSF")
        path = exposure.write(folder / f"simulated_{name}_{n}.h5", progress=False)
        stars[name] = read_stars(path, slice(0, n))
        jobs[name] = PsfJob(OURS, known_stars(stars[name].rows(slice(0, n_psf)), exposure), exposure, budget)
    found = {name: result.path for _, name, result in run_jobs(jobs, folder, workers)}
    return [
        SimulatedField(
            read_fit(found[name], exposure.optics),
            stars[name].rows(slice(n_psf, None)),
            exposure.templates.weights,
        )
        for name, exposure in zip(jobs, exposures, strict=True)
    ]


@dataclass(frozen=True)
class SimulatedConfig:
    """How to learn.

    Parameters
    ----------
    steps : int
        Of :func:`relinearised_likelihoods`.
    folds : int
        Networks, whose answers are averaged; fields that stop one are training fields of the others.
    hidden : int
        Units in each of two hidden layers.
    training : TrainingConfig
    """

    steps: int = 3
    folds: int = 4
    hidden: int = 32
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=40, batch_size=128, learning_rate=2e-3, weight_decay=1e-2
        )
    )


class _Correction(nn.Module):
    """Log-posteriors times a factor that depends on the features, plus a correction; at first as they are."""

    def __init__(self, n_features: int, n_classes: int, hidden: int) -> None:
        super().__init__()
        self.factor = nn.Linear(n_features, 1)
        self.correction = nn.Sequential(
            nn.Linear(n_features + n_classes, hidden),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, n_classes),
        )
        for layer in (self.factor, self.correction[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, log_posterior: Tensor, features: Tensor) -> Tensor:
        """Logits (B, C) from log-posteriors (B, C) and features (B, F)."""
        # Below some -10 a class is out, however far.
        read = torch.cat([features, log_posterior.clamp_min(-10) / 5], 1)
        return self.factor(features).exp() * log_posterior + self.correction(read)


@dataclass(frozen=True, eq=False)
class SimulatedCorrection:
    """What was learned on simulated fields.

    Attributes
    ----------
    facts : dict
        ``steps`` of the likelihoods, ``hidden``, ``folds`` and ``classes`` of the networks,
        ``n_psf`` (least and greatest number of stars of the fits), ``fields``, ``stars``, and by what is
        known of the flux ``temperature`` and ``nll`` (of stars of fields that did not train a network).
    mean, sd : torch.Tensor
        (4,) of the features.
    networks : dict
        ``free`` and ``unit`` to the networks of the folds.
    """

    facts: dict
    mean: Tensor
    sd: Tensor
    networks: dict[str, list[nn.Module]]

    def log_posterior(
        self, stars: StarSet, fitted: FittedPsf, templates: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Classify stars of a field that was not learned from.

        Parameters
        ----------
        stars : StarSet
        fitted : FittedPsf
            Of their field.
        templates : numpy.ndarray
            (C, bins).

        Returns
        -------
        dict
            ``free`` and ``unit`` (what is known of the flux) to log-posteriors (N, C).

        Raises
        ------
        ValueError
            If the PSF has no errors, or was fitted to more or fewer stars than those learned from.
        """
        least, most = self.facts["n_psf"]
        if not least <= fitted.fit["n_stars"] <= most:
            raise ValueError(
                f"the PSF was fitted to {fitted.fit['n_stars']} stars; expected {least} to {most}, "
                "as in the simulated fields"
            )
        if len(templates) != self.facts["classes"]:
            raise ValueError(f"{len(templates)} templates; expected {self.facts['classes']}, as learned from")
        seen = relinearised_likelihoods(stars, fitted, templates, steps=self.facts["steps"])
        out = {}
        for flux, networks in self.networks.items():
            inputs = _inputs(seen, flux, self.mean, self.sd)
            logits = torch.stack([predict(network, *inputs) for network in networks]).mean(0)
            scaled = logits.double().numpy() / self.facts["temperature"][flux]
            out[flux] = log_softmax(scaled, axis=1)
        return out

    def save(self, path: str | Path) -> Path:
        """Write tensors and facts as safetensors."""
        tensors = {"mean": self.mean, "sd": self.sd}
        for flux, networks in self.networks.items():
            for i, network in enumerate(networks):
                tensors |= {f"{flux}.{i}.{name}": value for name, value in network.state_dict().items()}
        with atomic(path) as temporary:
            save_file(
                {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
                temporary,
                metadata={"kind": type(self).__name__, "facts": json.dumps(self.facts)},
            )
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> SimulatedCorrection:
        """Read what :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError, ValueError
            When there is no file, or it is of something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: nothing learned on simulated fields here")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except SafetensorError as error:
            raise ValueError(f"{path}: not in safetensors format ({error})") from error
        if metadata.get("kind") != cls.__name__:
            raise ValueError(f"{path}: holds {metadata.get('kind')!r}; expected {cls.__name__!r}")
        facts = json.loads(metadata["facts"])
        networks = {flux: [_network(facts) for _ in range(facts["folds"])] for flux in METHODS}
        for flux, members in networks.items():
            for i, network in enumerate(members):
                start = f"{flux}.{i}."
                network.load_state_dict(
                    {name.removeprefix(start): v for name, v in tensors.items() if name.startswith(start)}
                )
                network.eval()
        return cls(facts, tensors["mean"], tensors["sd"], networks)


def _network(facts: dict) -> nn.Module:
    return _Correction(_FEATURES, facts["classes"], facts["hidden"])


def _inputs(seen: Relinearised, flux: str, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    # Far from all that it has seen, a network knows nothing.
    features = ((torch.tensor(seen.features) - mean) / sd).clamp(-4, 4)
    return torch.tensor(log_softmax(seen.log_likelihood[flux], axis=1)).float(), features.float()


def fit_simulated(
    fields: Sequence[SimulatedField], config: SimulatedConfig | None = None
) -> SimulatedCorrection:
    """Learn from simulated fields how sure the likelihoods of stars may be.

    Parameters
    ----------
    fields : sequence of SimulatedField
        Two or more: some train a network, others stop it, in turn.
    config : SimulatedConfig, optional

    Returns
    -------
    SimulatedCorrection

    Raises
    ------
    ValueError
        For a single field.
    """
    config = config or SimulatedConfig()
    if len(fields) < 2:
        raise ValueError(f"{len(fields)} simulated fields; expected two or more, some of which stop training")
    labels = [torch.tensor(one.stars.labels).long() for one in fields]
    seen = [
        relinearised_likelihoods(one.stars, one.fitted, one.templates, steps=config.steps) for one in fields
    ]
    features = torch.tensor(np.concatenate([one.features for one in seen]))
    mean, sd = features.mean(0), features.std(0).clamp_min(1e-6)
    folds = min(config.folds, len(fields))
    sizes = [one.fitted.fit["n_stars"] for one in fields]
    facts = {"steps": config.steps, "hidden": config.hidden, "folds": folds}
    facts |= {"classes": len(fields[0].templates), "n_psf": [min(sizes), max(sizes)]}
    facts |= {"fields": len(fields), "stars": len(features), "temperature": {}, "nll": {}}
    networks: dict[str, list[nn.Module]] = {}
    for flux in METHODS:
        inputs = [(*_inputs(one, flux, mean, sd), y) for one, y in zip(seen, labels, strict=True)]
        networks[flux], logits, held = [], [], []
        for fold in range(folds):
            parts = [
                tuple(torch.cat(x) for x in zip(*chosen, strict=True))
                for chosen in (
                    [x for i, x in enumerate(inputs) if i % folds != fold],
                    inputs[fold::folds],
                )
            ]
            network = seeded(config.training.seed + fold, lambda: _network(facts))
            fit(network, class_cross_entropy, *parts, config.training)
            network = network.cpu()
            networks[flux].append(network)
            logits.append(predict(network, *parts[1][:2]).double().numpy())
            held.append(parts[1][2].numpy())
        logits, truth = np.concatenate(logits), np.concatenate(held)
        facts["temperature"][flux] = t = fit_temperature(logits, truth)
        facts["nll"][flux] = _nll(logits / t, truth)
    return SimulatedCorrection(facts, mean, sd, networks)


def _nll(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())


# ------------------------------------------------------------------------------------- answers


def simulated_answers(
    exposure: Exposure,
    stars: str | Path | StarSet,
    fitted: FittedPsf,
    correction: SimulatedCorrection,
    *,
    psf: str | None = None,
) -> pd.DataFrame:
    """Answer as :mod:`astro_utils.starsed.classify` does, one row for each star and method.

    Parameters
    ----------
    exposure : Exposure
        The field of the stars.
    stars : path or StarSet
        A sample, of which the test stars are classified, or stars.
    fitted : FittedPsf
        Of that field.
    correction : SimulatedCorrection
    psf : str, optional
        Name of the PSF; by default that of :func:`astro_utils.starsed.classify.plan`, such as ``ours S1``.

    Returns
    -------
    pandas.DataFrame
        ``label, snr, predicted, p_O5 ... p_M5, field, test, psf, method``, the latter of :data:`METHODS`.
    """
    if not isinstance(stars, StarSet):
        stars = read_stars(stars, exposure.rows("test"))
    if psf is None:
        n = fitted.fit["n_stars"]
        names = [name for name, rows in SUBSETS.items() if rows == slice(0, n)]
        psf = f"{fitted.method} {names[0] if names else n}"
    tables = []
    posteriors = correction.log_posterior(stars, fitted, exposure.templates.weights)
    for flux, log_p in posteriors.items():
        table = pd.DataFrame(np.exp(log_p).astype(np.float32), columns=[f"p_{name}" for name in CLASSES])
        table.insert(0, "predicted", log_p.argmax(1).astype(np.int8))
        table.insert(0, "snr", stars.snr.astype(np.float32))
        table.insert(0, "label", stars.labels.astype(np.int8))
        tables.append(table.assign(field=exposure.field_seed, test=SAME, psf=psf, method=METHODS[flux]))
    return pd.concat(tables, ignore_index=True)
