"""From ASTROPIXEL folders, or any sample with images and spectra, to what ASTRA is trained on.

write_galaxies("Dataset", "astropixel.h5")                     # calibrated, with a catalogue
block = next(extract_galaxies("Dataset"))                      # pixels as the files have them
images, targets, weights = training_tensors(block, INPUTS_V2)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from astro_utils.astra.normalisation import SCALES, arcsin_scaling, arcsinh_scaling, noise_scaling
from astro_utils.astra.targets import fixed_grid, log_grid, own_grid
from astro_utils.astropixel import PANSTARRS, astropixel_blocks
from astro_utils.samples import Block, write_sample

__all__ = [
    "INPUTS_V1",
    "INPUTS_V2",
    "NORMALISATIONS",
    "SDSS_PIXELS",
    "TARGETS",
    "AstraInputs",
    "extract_galaxies",
    "training_tensors",
    "write_galaxies",
]

NORMALISATIONS = ("arcsin", "arcsinh", "noise")
TARGETS = ("own 1", "own 2", "fixed")

#: The pixels of SDSS spectra, vacuum Angstrom, from 3,548 to 10,399: spectra are on them without resampling.
SDSS_PIXELS = 10 ** (1e-4 * np.arange(35_500, 40_171))


def extract_galaxies(folder: str | Path, block_size: int = 64) -> Iterator[Block]:
    """Read folders ``Galaxy_<specObjID>`` with pixels as in the files (``extract_images``, ``get_spectrum``).

    The original takes pixels as they are stored, in whatever unit, and bands in the order in which the
    system lists the files; here bands are g, r, i, z, y.

    Parameters
    ----------
    folder : str or Path
        Holds the folders.
    block_size : int
        Galaxies in a block.

    Yields
    ------
    Block
        As :func:`astro_utils.astropixel.astropixel_blocks`, whose errors it raises; images are not in
        nanomaggies. Spectra are on the part of ``SDSS_PIXELS`` that they cover; of their outermost pixels
        one may be missing, if the file rounds its wavelength.
    """
    return astropixel_blocks(folder, SDSS_PIXELS, nanomaggies_per_unit=1.0, block_size=block_size)


def write_galaxies(folder: str | Path, out: str | Path, nanomaggies_per_unit: float | None = None) -> Path:
    """Write folders ``Galaxy_<specObjID>`` as one sample, with images in nanomaggies.

    Parameters
    ----------
    folder : str or Path
        Holds the folders.
    out : str or Path
        The sample, which replaces what is there.
    nanomaggies_per_unit : float, optional
        What one unit of the images is; by default each header tells.

    Returns
    -------
    Path
        `out`; errors are those of :func:`astro_utils.astropixel.astropixel_blocks`.
    """
    return write_sample(out, astropixel_blocks(folder, SDSS_PIXELS, nanomaggies_per_unit), PANSTARRS)


@dataclass(frozen=True)
class AstraInputs:
    """What a network sees and what it is asked for. The defaults are those of version 1 as published.

    Parameters
    ----------
    normalisation : {"arcsin", "arcsinh", "noise"}
        See :mod:`astro_utils.astra.normalisation`.
    scale : {"band", "galaxy"}
        Of the first two.
    softening : float
        Of ``"noise"``, nanomaggies.
    target : {"own 1", "own 2", "fixed"}
        The targets of the two versions, on each spectrum's own grid, or flux on one grid; see
        :mod:`astro_utils.astra.targets`.
    points : int
        Length of a target; the fixed grid is :func:`astro_utils.astra.targets.log_grid` of it.
    error_floor : float
        Of ``"fixed"``, in units of the norm.

    Raises
    ------
    ValueError
        When a name is none of these, or ``"noise"`` has no softening.
    """

    normalisation: str = "arcsin"
    scale: str = "band"
    softening: float | None = None
    target: str = "own 1"
    points: int = 4000
    error_floor: float = 0.0

    def __post_init__(self) -> None:
        choices = {"normalisation": NORMALISATIONS, "scale": SCALES, "target": TARGETS}
        for name, allowed in choices.items():
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {value!r}; expected one of {allowed}")
        if (self.normalisation == "noise") != (self.softening is not None):
            raise ValueError(
                f"softening is {self.softening} and normalisation {self.normalisation!r}; expected a "
                "softening for 'noise' and for it alone"
            )


#: As published.
INPUTS_V1 = AstraInputs()
INPUTS_V2 = AstraInputs(normalisation="arcsinh", target="own 2")


def training_tensors(
    block: Block, inputs: AstraInputs, norm: np.ndarray | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Make images, targets and weights of a block (``GalaxyDataset``).

    The original hands out tokens instead of images; these are made in :meth:`astro_utils.models.astra.Astra.
    tokens`. It also does all this anew for each galaxy in each epoch.

    Parameters
    ----------
    block : Block
        With images and spectra, of folders or of a sample.
    inputs : AstraInputs
        What to make.
    norm : numpy.ndarray, optional
        (N,) flux by which the ``"fixed"`` targets are divided, 1e-17 erg / (s cm2 Angstrom).

    Returns
    -------
    images : torch.Tensor
        (N, bands, y, x) float32.
    targets, weights : torch.Tensor
        (N, points) float32; the published targets have weights of 1.

    Raises
    ------
    ValueError
        When the block has no images or no spectra, `norm` is missing or not asked for, or as the functions
        of :mod:`astro_utils.astra.normalisation` and :mod:`astro_utils.astra.targets` say.
    """
    if block.images is None or block.spectra is None:
        lacks = " and ".join(name for name in ("images", "spectra") if getattr(block, name) is None)
        raise ValueError(f"the block has no {lacks}")
    if (inputs.target == "fixed") != (norm is not None):
        raise ValueError(
            f"target is {inputs.target!r}; expected a norm for 'fixed' targets and for these alone"
        )
    if inputs.normalisation == "noise":
        images = noise_scaling(block.images, inputs.softening)
    else:
        scaling = {"arcsin": arcsin_scaling, "arcsinh": arcsinh_scaling}[inputs.normalisation]
        images = scaling(block.images, inputs.scale)
    if norm is None:
        values = own_grid(block.spectra, int(inputs.target[-1]), inputs.points).values
        weights = np.ones_like(values)
    else:
        target = fixed_grid(block.spectra, norm, log_grid(inputs.points))
        values, weights = target.values, target.weights(inputs.error_floor)
    return tuple(torch.from_numpy(array) for array in (images, values, weights))
