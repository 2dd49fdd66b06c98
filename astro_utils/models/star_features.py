"""What classifiers of stars read: the stars of a set, their crops, and their likeness to monochromatic PSFs.

>>> import numpy as np
>>> psfs = np.zeros((1, 2, 4, 4)); psfs[0, 0, 1, 1] = 1; psfs[0, 1, 1:3, 1:3] = 0.25
>>> similarity_features(psfs[:, 0], psfs).round(3)  # 1 and 1 - 0.75, over their sum
array([[0.8, 0.2]])
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ["N_CLASSES", "SIMILARITY_FLUXES", "StarSet", "central_crop", "similarity_features"]

N_CLASSES = 13
SIMILARITY_FLUXES = ("unit", "sum", "matched")


@dataclass(frozen=True, eq=False)
class StarSet:
    """Stars, and what is known of each; every classifier takes what it needs.

    Parameters
    ----------
    stamps : numpy.ndarray
        (N, ny, nx) observed fluxes.
    labels : numpy.ndarray, optional
        (N,) spectral classes, integers from 0 in order of temperature.
    psfs : numpy.ndarray, optional
        (N, bins, ny, nx) monochromatic PSFs at the stars' positions, of unit sum.
    sigma : numpy.ndarray, optional
        (N,) standard deviation of the noise in a pixel, or (N, ny, nx) of each, in the unit of the stamps.
    derivatives : numpy.ndarray, optional
        (N, bins, M, ny, nx) derivatives of the PSFs with respect to M parameters of the wavefront, or
        (N, M, ny, nx) shapes that a star of any class may have besides.

    Raises
    ------
    ValueError
        When shapes disagree, labels are not integers from 0, a number is not finite, noise is not positive
        or a PSF does not sum to one.
    """

    stamps: np.ndarray
    labels: np.ndarray | None = None
    psfs: np.ndarray | None = None
    sigma: np.ndarray | None = None
    derivatives: np.ndarray | None = None

    def __post_init__(self) -> None:
        stamps, shape = self.stamps, np.shape(self.stamps)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"stamps are of shape {shape}; expected (N, ny, nx)")
        for name in ("stamps", "psfs", "sigma", "derivatives"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value).all():
                raise ValueError(f"{name} hold a number that is not finite")
        if self.labels is not None and (
            np.shape(self.labels) != (len(stamps),) or self.labels.dtype.kind not in "iu"
        ):
            raise ValueError(f"labels must be {len(stamps)} integers, one for each stamp")
        if self.labels is not None and self.labels.min() < 0:
            raise ValueError(f"labels have {self.labels.min()}; expected integers from 0")
        if self.psfs is not None:
            expected = (shape[0], *np.shape(self.psfs)[1:2], *shape[1:])
            if np.shape(self.psfs) != expected or len(expected) != 4:
                raise ValueError(f"psfs of shape {np.shape(self.psfs)} with stamps of shape {shape}")
            sums = self.psfs.sum((2, 3), dtype=float)
            if (np.abs(sums - 1) > 1e-3).any():
                row = int((np.abs(sums - 1) > 1e-3).any(1).argmax())
                raise ValueError(f"psfs of star {row} sum to {sums[row].round(4).tolist()}; expected one")
        if self.sigma is not None and (
            np.shape(self.sigma) not in (shape[:1], shape) or not (self.sigma > 0).all()
        ):
            raise ValueError(f"sigma must be positive, of shape {shape[:1]} or {shape}")
        if self.derivatives is not None:
            got = np.shape(self.derivatives)
            if len(got) not in (4, 5) or got[0] != shape[0] or got[-2:] != shape[1:]:
                raise ValueError(f"derivatives of shape {got} with stamps of shape {shape}")

    def __len__(self) -> int:
        return len(self.stamps)

    def take(self, index: np.ndarray | slice) -> StarSet:
        """Return the stars of an index, a mask or a slice."""
        chosen = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: value[index] for name, value in chosen.items() if value is not None})

    def need(self, who: str, *names: str) -> tuple[np.ndarray, ...]:
        """Return the named arrays, or raise a ValueError that says who needs the one that is absent."""
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(f"{who} needs {name}, which these stars do not have")
        return tuple(getattr(self, name) for name in names)

    def need_labels(self, who: str, n_classes: int) -> np.ndarray:
        """Return the labels, which must lie within 0 to n_classes - 1."""
        (labels,) = self.need(who, "labels")
        if labels.max() >= n_classes:
            raise ValueError(f"{who} knows classes 0 to {n_classes - 1}, and a label is {labels.max()}")
        return labels


def central_crop(stamps: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle (N, size, size) out of stamps (N, ny, nx); their sides must differ by an even number."""
    ny, nx = stamps.shape[1:]
    if size > min(ny, nx) or (ny - size) % 2 or (nx - size) % 2:
        raise ValueError(f"a crop of {size} pixels has no place in the middle of {ny} x {nx}")
    y, x = (ny - size) // 2, (nx - size) // 2
    return stamps[:, y : y + size, x : x + size]


def similarity_features(
    stamps: np.ndarray, psfs: np.ndarray, *, flux: str = "unit", chunk: int = 512
) -> np.ndarray:
    """Likeness of each star to the monochromatic PSFs at its position, as shares that sum to one.

    Parameters
    ----------
    stamps : numpy.ndarray
        (N, ny, nx).
    psfs : numpy.ndarray
        (N, bins, ny, nx), unit sum.
    flux : {"unit", "sum", "matched"}
        Stars are divided by one, as published: simulated stars all have flux one, which no real star tells;
        by the sum of their pixels, noise included; or by the flux that the mean of their PSFs fits best.
    chunk : int
        Stars at a time, which bounds the memory.

    Returns
    -------
    numpy.ndarray
        (N, bins): (1 - d_k) / sum_j (1 - d_j) with d_k the sum over pixels of (PSF_k - star)^2 [1]_.

    Raises
    ------
    ValueError
        For a flux of another name.

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, arXiv:2501.16151.
    """
    if flux not in SIMILARITY_FLUXES:
        raise ValueError(f"flux is {flux!r}; expected one of {SIMILARITY_FLUXES}")
    features = []
    for start in range(0, len(stamps), chunk):
        star = np.asarray(stamps[start : start + chunk], dtype=float)[:, None]  # (n, 1, ny, nx)
        psf = np.asarray(psfs[start : start + chunk], dtype=float)  # (n, bins, ny, nx)
        if flux == "sum":
            star = star / star.sum((2, 3), keepdims=True)
        elif flux == "matched":
            mean = psf.mean(1, keepdims=True)
            star = star * (mean**2).sum((2, 3), keepdims=True) / (star * mean).sum((2, 3), keepdims=True)
        likeness = 1 - ((psf - star) ** 2).sum((2, 3))
        features.append(likeness / likeness.sum(1, keepdims=True))
    return np.concatenate(features)
