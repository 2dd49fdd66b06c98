"""A trained redshift ensemble as one file: weights, the features that it wants, and the range it knows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from astro_utils.densities import quantiles
from astro_utils.models.mdn import MixtureDensityNetwork, RedshiftEnsemble
from astro_utils.photoz import GRID, QUANTILE_COLUMNS, QUANTILES, features
from astro_utils.results import atomic
from astro_utils.training import predict

__all__ = ["Predictor"]


@dataclass(frozen=True)
class Predictor:
    """A :class:`RedshiftEnsemble` and what must be known to apply it.

    Parameters
    ----------
    ensemble : RedshiftEnsemble
        Trained.
    feature_set : str
        One of :data:`astro_utils.photoz.FEATURE_SETS`.
    low, high : numpy.ndarray
        (F,) smallest and largest value of each feature in training.
    """

    ensemble: RedshiftEnsemble
    feature_set: str
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, ensemble: RedshiftEnsemble, feature_set: str, x: np.ndarray) -> Predictor:
        """Wrap `ensemble`, trained on features `x` (N, F)."""
        return cls(ensemble, feature_set, np.nanmin(x, axis=0), np.nanmax(x, axis=0))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with the description in its header."""
        tensors = {f"ensemble.{k}": v.contiguous() for k, v in self.ensemble.state_dict().items()}
        tensors |= {"low": torch.from_numpy(self.low.copy()), "high": torch.from_numpy(self.high.copy())}
        header = {"feature_set": self.feature_set, "members": len(self.ensemble.members)}
        with atomic(path) as temporary:
            save_file(tensors, temporary, metadata={"predictor": json.dumps(header)})

    @classmethod
    def load(cls, path: str | Path) -> Predictor:
        """Read a file written by :meth:`save`.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file, when it is absent or is not such a file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such weights; notebooks/photoz/2_train.ipynb makes them")
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {})["predictor"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a redshift predictor in safetensors format ({error!r})") from error
        state = {k.removeprefix("ensemble."): v for k, v in tensors.items() if k.startswith("ensemble.")}
        try:
            hidden, n_features = state["members.0.layers.0.weight"].shape
            components = len(state["members.0.layers.8.bias"]) // 3
            members = [
                MixtureDensityNetwork(n_features=n_features, hidden=hidden, components=components)
                for _ in range(header["members"])
            ]
            ensemble = RedshiftEnsemble(members, state["mean"], state["std"])
            ensemble.load_state_dict(state, strict=True)
            low, high = tensors["low"].numpy(), tensors["high"].numpy()
            return cls(ensemble.eval(), header["feature_set"], low, high)
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{path}: a redshift predictor with parts missing or misshapen ({error})"
            ) from error

    def cdf(self, sample: pd.DataFrame) -> np.ndarray:
        """Cumulative distributions (N, G) on :data:`astro_utils.photoz.GRID` for rows of sample columns."""
        x = torch.from_numpy(features(sample, self.feature_set).to_numpy())
        grid = torch.from_numpy(GRID.astype(np.float32))
        return predict(lambda batch: self.ensemble.cdf(batch, grid), x).numpy()

    def outside(self, sample: pd.DataFrame) -> pd.Series:
        """Names of the features of each row that lie outside the training range, joined by commas."""
        x = features(sample, self.feature_set)
        off = (x.lt(self.low) | x.gt(self.high)).to_numpy()  # NaN, not measured, is neither
        names = x.columns.to_numpy()
        return pd.Series([", ".join(names[row]) for row in off], index=sample.index)

    def predict(self, sample: pd.DataFrame) -> pd.DataFrame:
        """Redshift of every row: ``z_phot`` (median), its quantiles, and ``outside_training_range``."""
        q = quantiles(self.cdf(sample), GRID, QUANTILES)
        out = pd.DataFrame(q, columns=QUANTILE_COLUMNS, index=sample.index)
        out.insert(0, "z_phot", out["q500"])
        return out.assign(outside_training_range=self.outside(sample))
