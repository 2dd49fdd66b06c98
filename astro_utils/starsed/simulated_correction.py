"""What was learned on simulated fields: networks that correct how sure likelihoods are, saved and loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.special import log_softmax
from torch import Tensor, nn

from astro_utils.results import atomic
from astro_utils.starsed.psf_fits import FittedPsf
from astro_utils.starsed.relinearised import N_FEATURES, Relinearised, relinearised_likelihoods
from astro_utils.starsed.stamps import StarSet
from astro_utils.training import predict

__all__ = ["METHODS", "CorrectionNetwork", "SimulatedCorrection", "correction_network", "network_inputs"]

#: Names of the methods, by what is known of the flux: nothing, or that it is one.
METHODS = {
    "free": "ours, learned on simulated fields",
    "unit": "ours, learned on simulated fields, unit flux",
}


class CorrectionNetwork(nn.Module):
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
            inputs = network_inputs(seen, flux, self.mean, self.sd)
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
        networks = {flux: [correction_network(facts) for _ in range(facts["folds"])] for flux in METHODS}
        for flux, members in networks.items():
            for i, network in enumerate(members):
                start = f"{flux}.{i}."
                network.load_state_dict(
                    {name.removeprefix(start): v for name, v in tensors.items() if name.startswith(start)}
                )
                network.eval()
        return cls(facts, tensors["mean"], tensors["sd"], networks)


def correction_network(facts: dict) -> nn.Module:
    """Make a network at its initial weights, of the size in the facts of a correction."""
    return CorrectionNetwork(N_FEATURES, facts["classes"], facts["hidden"])


def network_inputs(seen: Relinearised, flux: str, mean: Tensor, sd: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-posteriors (N, C) before the correction and standardised features (N, F), float32."""
    # Far from all that it has seen, a network knows nothing.
    features = ((torch.tensor(seen.features) - mean) / sd).clamp(-4, 4)
    return torch.tensor(log_softmax(seen.log_likelihood[flux], axis=1)).float(), features.float()
