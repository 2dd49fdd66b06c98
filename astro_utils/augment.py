"""Stamps turned, mirrored and moved, each object of a batch in its own way: a sky has no up.

Turns by a quarter, mirrors and shifts by whole pixels only rearrange pixels, so noise stays white. A turn by
any angle interpolates: it averages neighbouring pixels, which leaves about 4/9 of the variance of white
noise, and it empties corners, so that a model is trained on softer stamps than it is then asked about.

>>> import torch
>>> stamps = torch.rand(6, 5, 32, 32)
>>> Augmentation(rotation="any", shift=3.2)(stamps).shape
torch.Size([6, 5, 32, 32])
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ROTATIONS", "Augmentation", "permute_stamps", "rotate_stamps"]

ROTATIONS = ("any", "quarter", "none")


@dataclass(frozen=True)
class Augmentation:
    """Random turns, mirrors and shifts.

    Parameters
    ----------
    rotation : {"any", "quarter", "none"}
        Angles from -180 to 180 degrees with bilinear interpolation, multiples of 90 degrees, or none.
    flips : bool
        Whether half of the objects are mirrored. Without rotation both axes are mirrored independently.
    shift : float
        Largest shift along either axis, in pixels. With ``rotation="any"`` it is any real number within it,
        otherwise a whole one. Pixels from beyond the edge are zero.

    Raises
    ------
    ValueError
        For a rotation of another name, and a shift that is negative, or not whole without interpolation.
    """

    rotation: str = "quarter"
    flips: bool = True
    shift: float = 0.0

    def __post_init__(self) -> None:
        if self.rotation not in ROTATIONS:
            raise ValueError(f"rotation is {self.rotation!r}; expected one of {ROTATIONS}")
        if not 0 <= self.shift < math.inf:
            raise ValueError(f"shift is {self.shift} pixels; expected zero or more")
        if self.rotation != "any" and self.shift != int(self.shift):
            raise ValueError(
                f"shift is {self.shift} pixels; rotation {self.rotation!r} does not interpolate and expects "
                "a whole number"
            )

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment each stamp by itself, on the device it is on.

        Parameters
        ----------
        images : torch.Tensor
            (B, bands, n, n).
        generator : torch.Generator, optional
            On the device of the images; torch's global one if None.

        Returns
        -------
        torch.Tensor
            Of the same shape and type; the bands of an object are moved together.

        Raises
        ------
        ValueError
            When the stamps are not square.
        """
        n, options = len(images), {"device": images.device, "generator": generator}
        mirror = torch.randint(2 if self.flips else 1, (n,), **options)
        if self.rotation == "any":
            angle = (2 * torch.rand(n, **options) - 1) * math.pi
            return rotate_stamps(images, angle, mirror, (2 * torch.rand(n, 2, **options) - 1) * self.shift)
        if self.rotation == "quarter":
            turns = torch.randint(4, (n,), **options)
        else:  # half a turn and a mirror are a mirror of the other axis
            turns = 2 * torch.randint(2 if self.flips else 1, (n,), **options)
        if not self.shift:
            return permute_stamps(images, turns, mirror)
        most = int(self.shift)
        return permute_stamps(images, turns, mirror, torch.randint(-most, most + 1, (n, 2), **options))

    def of_batch(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Augment the first tensor of a batch, the stamps, and leave the others: for ``fit(augment=...)``."""
        return self(batch[0]), *batch[1:]


def _side(images: Tensor) -> int:
    if images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise ValueError(f"stamps of shape {tuple(images.shape)}; expected (B, bands, n, n)")
    return images.shape[2]


def rotate_stamps(images: Tensor, angle: Tensor, mirror: Tensor, shift: Tensor) -> Tensor:
    """Mirror, turn about the centre and shift stamps with bilinear interpolation; zero outside.

    Parameters
    ----------
    images : torch.Tensor
        (B, bands, n, n).
    angle : torch.Tensor
        (B,) radians, from rows to columns as :func:`torch.rot90` turns.
    mirror : torch.Tensor
        (B,) 1 where columns are first reversed, else 0.
    shift : torch.Tensor
        (B, 2) pixels along rows and columns.

    Returns
    -------
    torch.Tensor
        Of the same shape and type. Where `n` is a power of two, no turn and no shift change no bit.
    """
    size, dtype = _side(images), torch.promote_types(images.dtype, torch.float32)
    centred = torch.arange(size, device=images.device, dtype=dtype) - (size - 1) / 2
    y, x = (centred - one[:, None].to(dtype) for one in shift.unbind(1))  # (B, n): where pixels come from
    # Written out, not by affine_grid: its pixel centres are rounded, and autocast would round the angles.
    cos, sin = (2 / size * f(angle.to(dtype))[:, None] for f in (torch.cos, torch.sin))
    hand = 1 - 2 * mirror[:, None].to(dtype)
    columns = (hand * cos * x)[:, None, :] - (hand * sin * y)[:, :, None]
    rows = (sin * x)[:, None, :] + (cos * y)[:, :, None]
    grid = torch.stack([columns, rows], -1)  # from -1 to 1 between the outer edges of the outer pixels
    turned = F.grid_sample(images.to(dtype), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return turned.to(images.dtype)


def permute_stamps(images: Tensor, turns: Tensor, mirror: Tensor, shift: Tensor | None = None) -> Tensor:
    """Mirror, turn by quarters and shift stamps by whole pixels, which only moves pixels; zero outside.

    Parameters
    ----------
    images : torch.Tensor
        (B, bands, n, n).
    turns : torch.Tensor
        (B,) quarters from 0 to 3, in the sense of :func:`torch.rot90`.
    mirror : torch.Tensor
        (B,) 1 where columns are first reversed, else 0.
    shift : torch.Tensor, optional
        (B, 2) whole pixels along rows and columns.

    Returns
    -------
    torch.Tensor
        Of the same shape and type.
    """
    size = _side(images)
    pixel = torch.arange(size * size, device=images.device).view(size, size)
    elements = [torch.rot90(start, k) for start in (pixel, pixel.flip(1)) for k in range(4)]
    source = torch.stack(elements).flatten(1).index_select(0, 4 * mirror + turns)  # (B, n * n)
    if shift is not None:
        side = torch.arange(size, device=images.device)
        y, x = (side - one[:, None] for one in shift.unbind(1))  # (B, n): where pixels come from
        inside = ((y >= 0) & (y < size))[:, :, None] & ((x >= 0) & (x < size))[:, None, :]
        before = y.clamp(0, size - 1)[:, :, None] * size + x.clamp(0, size - 1)[:, None, :]
        source = source.gather(1, before.flatten(1))
    found = images.flatten(2).gather(2, source[:, None].expand(-1, images.shape[1], -1)).view(images.shape)
    return found if shift is None else found.masked_fill_(~inside[:, None], 0)
