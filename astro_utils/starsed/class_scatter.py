"""How the spectra of stars of one class differ, found from the stars behind the templates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from astro_utils.sky.stars import stellar_library
from astro_utils.starsed.class_stars import MEMBERS
from astro_utils.starsed.templates import CLASSES, bin_weights

__all__ = ["SpectralScatter", "member_shares", "spectral_scatter"]


@dataclass(frozen=True, eq=False)
class SpectralScatter:
    """Spectra of one class that differ as those of its members do: a nuisance of a template likelihood.

    Parameters
    ----------
    directions : numpy.ndarray
        (C, J, bins) relative change of the shares of each class, for one standard deviation along each of J
        directions. Its products summed over directions are the covariance of the relative changes.
    """

    directions: np.ndarray

    @property
    def size(self) -> int:
        """Number of directions."""
        return self.directions.shape[1]

    def columns(self, rows: slice, psfs: Tensor, models: Tensor, templates: Tensor) -> Tensor:
        """See :class:`astro_utils.models.star_nuisances.Nuisance`."""
        expected = (len(templates), self.size, psfs.shape[1])
        if self.directions.shape != expected:
            raise ValueError(f"directions are of shape {self.directions.shape}; expected {expected}")
        changes = torch.as_tensor(self.directions).to(templates) * templates[:, None]  # (C, J, bins)
        images = changes.flatten(0, 1) @ psfs.flatten(2)  # (n, C J, pixels)
        return images.unflatten(1, expected[:2]).unflatten(3, psfs.shape[2:])


def member_shares(n_bins: int, at_nm: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return shares (M, bins) of the stars whose means are the templates ``stelib``, and their classes (M,).

    Unseen stars are not among them. Arguments are those of
    :func:`astro_utils.starsed.templates.bin_weights`.
    """
    library = stellar_library()
    names, origins = (np.asarray(library.table[column]).astype(str) for column in ("name", "library"))
    rows, classes = [], []
    for label, name in enumerate(CLASSES):
        for star, origin in MEMBERS[name]:
            (row,) = np.flatnonzero((names == star) & (origins == origin))
            rows.append(row)
            classes.append(label)
    wavelength = library.wavelength / 10
    shares = bin_weights(library.flux[rows], n_bins, wavelength_nm=wavelength, at_nm=at_nm)
    return shares, np.array(classes)


def spectral_scatter(shares: np.ndarray, classes: np.ndarray) -> SpectralScatter:
    """Estimate how another star of a class differs from the mean of the members of the class.

    Parameters
    ----------
    shares : numpy.ndarray
        (M, bins) of members, rows of sum one.
    classes : numpy.ndarray
        (M,) int.

    Returns
    -------
    SpectralScatter
        The covariance of relative deviations from the mean of a class, pooled over classes, with as many
        degrees of freedom as there are members beyond the first of each class. For a class of n members it is
        (1 + 1/n) times as large: their mean is as uncertain as a star divided by n.

    Raises
    ------
    ValueError
        If no class has two members, or one has none.
    """
    counts = np.bincount(classes, minlength=len(CLASSES))
    if counts.min() < 1 or counts.max() < 2:
        raise ValueError(f"classes have {counts.tolist()} members; expected one or more of each, of some two")
    means = np.array([shares[classes == label].mean(0) for label in range(len(counts))])
    relative = shares / means[classes] - 1  # (M, bins)
    covariance = relative.T @ relative / (len(shares) - len(counts))
    values, vectors = np.linalg.eigh(covariance)
    directions = (np.sqrt(np.maximum(values, 0)) * vectors).T[::-1]  # (bins, bins), the largest first
    return SpectralScatter(np.sqrt(1 + 1 / counts)[:, None, None] * directions)
