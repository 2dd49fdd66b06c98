"""A small convolutional classifier of stamps, of catalogue features, or of both.

It answers one question about the simulated sky: in which order do photometry, images and their fusion stand?
The
published networks for real stamps are models of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["StampNet", "scaled_stamps"]


def scaled_stamps(images: Tensor, sigma: Tensor) -> Tensor:
    """Scale stamps for a network: asinh of signal over noise keeps flux and bounds bright pixels.

    Parameters
    ----------
    images : torch.Tensor
        (N, bands, ny, nx) nanomaggies.
    sigma : torch.Tensor
        (N, bands) noise of the sky in one pixel, or (bands,) for all.

    Returns
    -------
    torch.Tensor
        (N, bands, ny, nx).
    """
    return torch.asinh(images / sigma[..., None, None])


class StampNet(nn.Module):
    """Convolutions for the stamp, a multilayer perceptron for the features, one head on both.

    Parameters
    ----------
    n_classes : int
    n_bands : int
        0: no stamps are read.
    n_features : int
        0: no features are read.
    size : int
        Pixels on a side of a stamp, a multiple of 8.
    width : int
        Channels of the first convolution.
    """

    def __init__(
        self, *, n_classes: int, n_bands: int = 0, n_features: int = 0, size: int = 32, width: int = 24
    ) -> None:
        super().__init__()
        if not (n_bands or n_features):
            raise ValueError("StampNet has neither bands nor features to read")
        if n_bands and (size < 8 or size % 8):
            raise ValueError(f"stamps of {size} x {size} pixels; expected a multiple of 8")
        self.stamps = self.features = None
        joint = 0
        if n_bands:
            self.stamps = nn.Sequential(
                _block(n_bands, width, 2),  # (B, width, 16, 16) of 32 x 32 pixels
                _block(width, width, 1),
                _block(width, 2 * width, 2),  # (B, 2 width, 8, 8)
                _block(2 * width, 2 * width, 1),
                _block(2 * width, 4 * width, 2),  # (B, 4 width, 4, 4)
                nn.Flatten(),
                nn.Linear(4 * width * (size // 8) ** 2, 64),
                nn.GELU(),
            )
            joint += 64
        if n_features:
            self.features = nn.Sequential(
                nn.Linear(n_features, 128), nn.GELU(), nn.Dropout(0.1), nn.Linear(128, 64), nn.GELU()
            )
            joint += 64
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(joint, 64), nn.GELU(), nn.Linear(64, n_classes))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits (B, classes) from stamps (B, bands, ny, nx), features (B, F), or both in this order."""
        readers = [reader for reader in (self.stamps, self.features) if reader is not None]
        if len(inputs) != len(readers):
            raise ValueError(f"{len(inputs)} inputs for {len(readers)} branches of the network")
        return self.head(torch.cat([reader(x) for reader, x in zip(readers, inputs, strict=True)], 1))


def _block(n_in: int, n_out: int, stride: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.GELU()
    )
