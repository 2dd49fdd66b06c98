"""What a predictor of k-corrections may be told of a galaxy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.template_grid import TemplateGrid

__all__ = ["Knowledge"]


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known of N galaxies.

    Attributes
    ----------
    features : Features
        Photometry.
    groups : numpy.ndarray
        (N,) parts of the sky that inner splits keep together, such as HEALPix pixels.
    z : numpy.ndarray, optional
        (N,) spectroscopic redshifts.
    k_templates : numpy.ndarray, optional
        (N,) kcorrect's K at those redshifts, mag; NaN where it failed or is not to be trusted.
    grid : TemplateGrid, optional
        Templates at every redshift.
    """

    features: Features
    groups: np.ndarray
    z: np.ndarray | None = None
    k_templates: np.ndarray | None = None
    grid: TemplateGrid | None = None

    def __len__(self) -> int:
        """Count the galaxies."""
        return len(self.features)

    def select(self, rows: np.ndarray) -> Knowledge:
        """Keep some galaxies."""
        z, k = (None if part is None else part[rows] for part in (self.z, self.k_templates))
        grid = None if self.grid is None else self.grid.select(rows)
        return Knowledge(self.features.select(rows), self.groups[rows], z, k, grid)

    def need(self, *names: str) -> None:
        """Raise ValueError for the first of the named attributes that is absent."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"this predictor needs {name}, which is not given")
