"""Photometry of galaxies as features, each with the kind that it is of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd

__all__ = ["KINDS", "Features", "photometric_features"]

#: Model colours and r magnitude; Petrosian colours, and the model minus the Petrosian r magnitude, which
#: tells how concentrated the light is; logarithms of the errors of both; radii, axis ratio and what a point
#: source would have, of surveys that measure them; what an embedding of the image says of redshift and K.
KINDS = (
    "colour",
    "magnitude",
    "petrosian colour",
    "concentration",
    "error",
    "petrosian error",
    "shape",
    "embedding",
    "redshift",
    "template",
)


@dataclass(frozen=True, eq=False)
class Features:
    """Features of N galaxies.

    Attributes
    ----------
    values : numpy.ndarray
        (N, F).
    kinds : tuple of str
        (F,) names in :data:`KINDS`.
    """

    values: np.ndarray
    kinds: tuple[str, ...]

    def __post_init__(self):
        if self.values.ndim != 2 or self.values.shape[1] != len(self.kinds):
            raise ValueError(f"values of shape {self.values.shape} for {len(self.kinds)} kinds")
        unknown = set(self.kinds) - set(KINDS)
        if unknown:
            raise ValueError(f"kind {unknown.pop()!r}; expected some of {', '.join(KINDS)}")

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.values)

    def select(self, rows: np.ndarray) -> Features:
        """Keep some galaxies."""
        return Features(self.values[rows], self.kinds)

    def join(self, kind: str, values: np.ndarray) -> Features:
        """Append one feature (N,) of some kind."""
        return Features(np.column_stack([self.values, values]), (*self.kinds, kind))

    def of(self, *kinds: str) -> Features:
        """Keep the features of some kinds."""
        columns = [i for i, kind in enumerate(self.kinds) if kind in kinds]
        return Features(self.values[:, columns], tuple(self.kinds[i] for i in columns))

    def lengths(self, by_kind: Mapping[str, float]) -> np.ndarray:
        """Length scale of each feature for a kernel, (F,); infinite, to leave it out, where none is given."""
        return np.array([by_kind.get(kind, np.inf) for kind in self.kinds])


def photometric_features(sample: pd.DataFrame, bands: Sequence[str], *, full: bool = True) -> Features:
    """Features of galaxies in some bands.

    Parameters
    ----------
    sample : pandas.DataFrame
        Columns of :func:`astro_utils.galaxies.galaxy_sample`.
    bands : sequence of str
        Two or more of ugriz, from blue to red, with r.
    full : bool
        Whether all kinds are taken, or model colours and the r magnitude alone.

    Returns
    -------
    Features
    """
    bands = tuple(bands)
    if len(bands) < 2 or "r" not in bands:
        raise ValueError(f"bands {bands}; expected two or more with r among them")
    columns = [("magnitude", sample["model_mag_r"])]
    columns += [("colour", sample[f"model_mag_{a}"] - sample[f"model_mag_{b}"]) for a, b in pairwise(bands)]
    if full:
        columns += [
            ("petrosian colour", sample[f"petro_mag_{a}"] - sample[f"petro_mag_{b}"])
            for a, b in pairwise(bands)
        ]
        columns += [("concentration", sample["model_mag_r"] - sample["petro_mag_r"])]
        columns += [("error", np.log(sample[f"model_err_{b}"])) for b in bands]
        columns += [("petrosian error", np.log(sample[f"petro_err_{b}"])) for b in bands]
    return Features(
        np.stack([values.to_numpy(float) for _, values in columns], 1), tuple(kind for kind, _ in columns)
    )
