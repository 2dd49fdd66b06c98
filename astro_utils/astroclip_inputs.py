"""What AstroCLIP's networks are given: images in the Legacy viewer's colours, spectra in windows.

The constants and formulas are those of the published code, which the published weights were trained with
(Parker et al. 2024, AstroCLIP, MNRAS, 531, 4990).

    images = image_inputs(nanomaggies)  # (N, 3, 152, 152), bands g, r, z -> (N, 3, 144, 144)
    tokens = spectrum_tokens(spectra)  # (N, 7781) -> (N, 778, 22)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "center_crop",
    "count_windows",
    "draw_masks",
    "file_images",
    "image_inputs",
    "spectrum_tokens",
    "to_rgb",
]

#: Plane of the colour image (0 red, 1 green, 2 blue) that a band goes to, and its scale, per nanomaggy.
RGB_PLANES = {"u": (2, 1.5), "g": (2, 6.0), "r": (1, 3.4), "i": (0, 1.0), "z": (0, 2.2)}

#: What is added to scaled fluxes, so that the noise of the sky is grey and not black.
SKY_LEVEL = 0.03

#: Softening of the stretch: linear below 1 / 20, logarithmic above. The published code ignores its own
#: argument for it, and so there is none here.
SOFTENING = 20.0


def to_rgb(images: Tensor | np.ndarray, *, bands: Sequence[str] = ("g", "r", "z")) -> Tensor:
    """Colour images as the Legacy Survey viewer makes them.

    Parameters
    ----------
    images : torch.Tensor or numpy.ndarray
        (N, 3, y, x), nanomaggies.
    bands : sequence of str
        Their bands in order, one for each colour: of u and g, of i and z, and r.

    Returns
    -------
    torch.Tensor
        (N, 3, y, x), float32 from 0 to 1; the planes are red, green and blue, hence z, r, g by default.

    Raises
    ------
    ValueError
        If the bands are not one for each colour, or the images have another shape.

    Notes
    -----
    With h = scale x flux + 0.03 in each band and I the mean over bands of max(0, h), a plane is
    h arcsinh(20 I) / (sqrt(20) I), cut at 0 and 1. The idea is that of [1]_: the stretch depends on the
    intensity alone, so that colours are kept.

    References
    ----------
    .. [1] Lupton, R., et al., 2004, Preparing red-green-blue images from CCD data, PASP, 116, 133.
    """
    planes = [RGB_PLANES[band][0] for band in bands if band in RGB_PLANES]
    if sorted(planes) != [0, 1, 2] or len(bands) != 3:
        raise ValueError(f"bands are {tuple(bands)}; expected one of u, g, then r, and one of i, z")
    images = torch.as_tensor(images).float()
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, 3, y, x)")
    scales = images.new_tensor([RGB_PLANES[band][1] for band in bands]).view(3, 1, 1)
    scaled = images * scales + SKY_LEVEL  # (N, 3, y, x)
    intensity = scaled.clamp(min=0).mean(1, keepdim=True)  # (N, 1, y, x)
    stretch = torch.asinh(SOFTENING * intensity) / SOFTENING**0.5
    stretch = stretch / torch.where(intensity == 0, 1.0, intensity)  # where it is 0, so is the stretch
    order = [planes.index(plane) for plane in range(3)]
    return (scaled * stretch).clamp(0, 1)[:, order]


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the central `size` x `size` pixels out of images (..., y, x).

    Parameters
    ----------
    images : torch.Tensor
        (..., y, x).
    size : int
        Pixels. The margin above and to the left is half of what is cut, a half pixel rounded to even, as in
        torchvision's CenterCrop.

    Returns
    -------
    torch.Tensor
        (..., size, size), a view.

    Raises
    ------
    ValueError
        If the images are smaller. (The published code would pad them with black.)
    """
    y, x = images.shape[-2:]
    if min(y, x) < size:
        raise ValueError(f"images of {y} x {x} pixels; expected at least {size} x {size}")
    top, left = round((y - size) / 2), round((x - size) / 2)
    return images[..., top : top + size, left : left + size]


def image_inputs(
    images: Tensor | np.ndarray, *, bands: Sequence[str] = ("g", "r", "z"), size: int = 144
) -> Tensor:
    """Make the published network's inputs from fluxes.

    Parameters
    ----------
    images : torch.Tensor or numpy.ndarray
        (N, 3, y, x), nanomaggies, at 0.262 arcsec a pixel; the published ones have 152 x 152.
    bands : sequence of str
        See :func:`to_rgb`.
    size : int
        Side of the inputs, pixels.

    Returns
    -------
    torch.Tensor
        (N, 3, size, size), float32 from 0 to 1.
    """
    return center_crop(to_rgb(images, bands=bands), size)


def file_images(images: Tensor | np.ndarray) -> Tensor:
    """Bring images of the published data files into the order of this project.

    Parameters
    ----------
    images : torch.Tensor or numpy.ndarray
        (N, x, y, 3): the files have their axes reversed, with bands last.

    Returns
    -------
    torch.Tensor
        (N, 3, y, x), for :func:`image_inputs`.

    Raises
    ------
    ValueError
        If the bands do not come last.
    """
    images = torch.as_tensor(images)
    if images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, x, y, 3)")
    return images.permute(0, 3, 2, 1)


def count_windows(pixels: int, *, window: int = 20, stride: int = 10) -> int:
    """Count the windows that a spectrum is cut into.

    Parameters
    ----------
    pixels : int
        Length of the spectrum.
    window, stride : int
        Length of a window, and of a step from one to the next; pixels.

    Returns
    -------
    int
        One less than are begun: the last is dropped, even if it is full. 777 for 7781 pixels.

    Raises
    ------
    ValueError
        If the stride leaves gaps, or no window is left.
    """
    if not 1 <= stride <= window:
        raise ValueError(f"windows of {window} pixels, {stride} apart; expected 1 <= stride <= window")
    begun = -(-(pixels - (window - stride)) // stride)
    if begun < 2:
        raise ValueError(f"a spectrum of {pixels} pixels; expected more than {window}")
    return begun - 1


def spectrum_tokens(spectra: Tensor | np.ndarray, *, window: int = 20, stride: int = 10) -> Tensor:
    """Cut spectra into the tokens that SpecFormer reads.

    Parameters
    ----------
    spectra : torch.Tensor or numpy.ndarray
        (N, pixels), or (N, pixels, 1) as in the published files. Flux density, in 1e-17 erg/s/cm2/A, since
        mean and spread are told to the network as they are; the published weights know DESI's 7781 pixels,
        3600 to 9824 A in steps of 0.8 A.
    window, stride : int
        Pixels.

    Returns
    -------
    torch.Tensor
        (N, windows + 1, window + 2), on the device of the spectra and in their dtype. Windows follow one
        another with two zeros before the pixels of each; ahead of them stands a token of which the first two
        numbers are (mean - 2) / 2 and (spread - 2) / 8, and the others 0.

    Raises
    ------
    ValueError
        If the shape is another one, or the spectrum is too short (:func:`count_windows`).

    Notes
    -----
    Mean and standard deviation (of a sample: n - 1) are those of the whole spectrum, and the deviation is
    at least 0.2, before the spectrum is divided by it and in the token.
    """
    spectra = torch.as_tensor(spectra)
    if spectra.ndim == 3 and spectra.shape[2] == 1:
        spectra = spectra.squeeze(2)
    if spectra.ndim != 2:
        raise ValueError(f"spectra have shape {tuple(spectra.shape)}; expected (N, pixels) or (N, pixels, 1)")
    n = count_windows(spectra.shape[1], window=window, stride=stride)
    mean = spectra.mean(1, keepdim=True)  # (N, 1)
    spread = spectra.std(1, keepdim=True).clamp(min=0.2)
    windows = ((spectra - mean) / spread).unfold(1, window, stride)[:, :n]  # (N, n, window)
    tokens = F.pad(windows, (2, 0, 1, 0))
    tokens[:, 0, 0] = (mean[:, 0] - 2) / 2
    tokens[:, 0, 1] = (spread[:, 0] - 2) / 8
    return tokens


def draw_masks(
    n: int, tokens: int, *, chunks: int = 6, width: int = 50, generator: torch.Generator | None = None
) -> Tensor:
    """Draw which tokens of each spectrum are hidden when SpecFormer is trained.

    Parameters
    ----------
    n, tokens : int
        Number of spectra, and of tokens in each (the one of mean and spread included; it may be hidden).
    chunks, width : int
        Runs of hidden tokens, and tokens in each.
    generator : torch.Generator, optional
        Of the random numbers; without one, torch's own.

    Returns
    -------
    torch.Tensor
        (n, tokens) bool, on the CPU. Each of `chunks` equal parts of the sequence has one run; the last
        place at which it would still end within its part is never drawn, as in the published code.

    Raises
    ------
    ValueError
        If the sequence is too short for the runs and as much again between them.
    """
    needed = max((2 * chunks - 1) * width, chunks * (width + 1))
    if tokens < needed:
        raise ValueError(f"{tokens} tokens; expected at least {needed} for {chunks} masks of {width} tokens")
    starts = torch.arange(chunks) * tokens // chunks  # (chunks,)
    starts = starts + torch.randint(tokens // chunks - width, (n, chunks), generator=generator)
    after = torch.arange(tokens) - starts[..., None]  # (n, chunks, tokens)
    return ((after >= 0) & (after < width)).any(1)
