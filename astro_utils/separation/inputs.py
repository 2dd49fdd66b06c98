"""What our networks read of a source: ratios beside raw numbers, and stamps that keep their flux.

Magnitudes enter as colours and as signal over noise, radii in units of the point-spread function: a network
that has learned from bright objects then meets, in faint ones, values that it knows. Where training and test
are alike, the raw magnitudes and radii stand beside them.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from astro_utils.models.stamp_net import scaled_stamps
from astro_utils.photometry import SDSS_BANDS

__all__ = ["FEATURES", "Inputs", "features"]

#: Ratios alone, or ratios and what they were made of.
FEATURES = ("ratios", "ratios and magnitudes")

#: Extinctions below this are not told apart, magnitudes; radii below this share of the FWHM are points.
_DUST, _POINT = 0.01, 0.05
_PIXEL = 0.396  # arcsec


def features(table: pd.DataFrame, kind: str = FEATURES[1]) -> pd.DataFrame:
    """Features made of MargNet's 24 and of the noise of the sky.

    Parameters
    ----------
    table : pandas.DataFrame
        The 24 features and ``sigma_u`` to ``sigma_z``.
    kind : str
        One of :data:`FEATURES`.

    Returns
    -------
    pandas.DataFrame
        (N, 20 or 30) float32. Ratios: per band, asinh of half the signal over noise of the model flux (under
        the noise of the sky in a PSF's area), logarithm of the radius over FWHM of the PSF, and the FWHM
        (arcsec); the dereddened colours; the logarithm of the extinction in r (its ratios between bands are
        fixed). The others: per band, the dereddened magnitude and the radius (arcsec).
    """
    if kind not in FEATURES:
        raise ValueError(f"features {kind!r}; expected one of {', '.join(FEATURES)}")
    out = {}
    for b in SDSS_BANDS:
        fwhm = table[f"psffwhm_{b}"]
        flux = 10 ** (0.4 * (22.5 - table[f"dered_{b}"] - table[f"extinction_{b}"]))
        # The effective number of pixels of a Gaussian PSF is 4 pi sigma^2.
        noise = table[f"sigma_{b}"] * np.sqrt(4 * np.pi) * fwhm / 2.3548 / _PIXEL
        out[f"signal_{b}"] = np.arcsinh(flux / noise / 2)
        out[f"size_{b}"] = np.log(table[f"radius_{b}"] / fwhm + _POINT)
        out[f"fwhm_{b}"] = fwhm
        if kind == FEATURES[1]:
            out[f"dered_{b}"], out[f"radius_{b}"] = table[f"dered_{b}"], table[f"radius_{b}"]
    for blue, red in pairwise(SDSS_BANDS):
        out[f"{blue}-{red}"] = table[f"dered_{blue}"] - table[f"dered_{red}"]
    out["dust"] = np.log(table["extinction_r"] + _DUST)
    return pd.DataFrame(out).astype(np.float32)


class Inputs:
    """What turns a catalogue and its stamps into what our networks read; fitted to a training set.

    Features get zero mean and unit variance, and far outliers are cut. Stamps become asinh of flux over one
    noise for each band, the median of the training set: a noise of its own for each field would take the flux
    out of them.

    Parameters
    ----------
    mean, std : numpy.ndarray
        (F,) of the features.
    noise : numpy.ndarray
        (bands,) nanomaggies per pixel.
    kind : str
        One of :data:`FEATURES`.
    """

    #: In standard deviations: one absurd magnitude must not fly off along a linear layer.
    LIMIT = 8.0

    def __init__(self, mean: np.ndarray, std: np.ndarray, noise: np.ndarray, kind: str) -> None:
        self.mean, self.std, self.noise, self.kind = mean, std, noise, kind

    @classmethod
    def of(cls, table: pd.DataFrame, kind: str = FEATURES[1]) -> Inputs:
        """Fit to the catalogue of a training set.

        Raises
        ------
        ValueError
            When a noise of the sky is not above zero.
        """
        noise = table[[f"sigma_{b}" for b in SDSS_BANDS]].to_numpy(np.float32)
        if not (noise > 0).all():
            row = int(np.flatnonzero(~(noise > 0).all(1))[0])
            raise ValueError(
                f"sigma_u to sigma_z of row {row} are {noise[row].tolist()}; expected above zero"
            )
        values = features(table, kind).to_numpy()
        return cls(values.mean(0), values.std(0) + np.float32(1e-6), np.median(noise, 0), kind)

    def features(self, table: pd.DataFrame) -> Tensor:
        """Return standardised features (N, F)."""
        scaled = (features(table, self.kind).to_numpy() - self.mean) / self.std
        return torch.from_numpy(np.clip(scaled, -self.LIMIT, self.LIMIT))

    def stamps(self, images: np.ndarray) -> Tensor:
        """Scale stamps (N, bands, ny, nx) of nanomaggies."""
        return scaled_stamps(torch.tensor(np.asarray(images, np.float32)), torch.tensor(self.noise))

    def tensors(self) -> dict[str, Tensor]:
        """Return all that was fitted, to be kept beside the weights of a network."""
        return {f"inputs.{k}": torch.from_numpy(getattr(self, k)) for k in ("mean", "std", "noise")}
