"""ASTRA on a reader's own galaxies: train, keep, load, predict, score, write.

inputs = own_inputs(galaxies, parts, version=2, mended=True, points=1000)
model, history = train_own(galaxies, parts, own_network("small", 2, True, 64, 1000), inputs, training)
save_astra("own.safetensors", model, inputs)
flux = predict_own(model, inputs, galaxies)                    # (N, points), 1e-17 erg / (s cm2 Angstrom)
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from astro_utils.astra.folders import INPUTS_V1, INPUTS_V2, AstraInputs, training_tensors
from astro_utils.astra.grid import rebin
from astro_utils.astra.networks import ARCHITECTURES
from astro_utils.astra.own_folders import OwnGalaxies
from astro_utils.astra.simulated import Parts
from astro_utils.astra.targets import log_grid, own_grid, spectrum_loss
from astro_utils.models.astra import Astra, AstraConfig, without_quirks
from astro_utils.results import atomic
from astro_utils.samples import Spectra
from astro_utils.sky.degrade import border_noise
from astro_utils.spectrum_scores import spectrum_scores
from astro_utils.training import History, TrainingConfig, fit, predict, seeded

__all__ = [
    "load_astra",
    "own_inputs",
    "own_network",
    "own_scores",
    "predict_own",
    "save_astra",
    "train_own",
    "write_spectra",
]

#: Errors of targets are at least this share of the norm, or the brightest galaxies decide alone.
_FLOOR = 0.05


def own_network(architecture: str, version: int, mended: bool, size: int, points: int) -> AstraConfig:
    """Make the configuration of a network.

    Raises
    ------
    ValueError
        When there is no such architecture or version, or `size` is not a multiple of 16.
    """
    if architecture not in ARCHITECTURES or version not in (1, 2):
        raise ValueError(
            f"architecture is {architecture!r}, version {version}; expected one of "
            f"{', '.join(ARCHITECTURES)} and 1 or 2"
        )
    config = replace(ARCHITECTURES[architecture][version - 1], size=size, points=points)
    return without_quirks(config) if mended else config


def own_inputs(galaxies: OwnGalaxies, parts: Parts, version: int, mended: bool, points: int) -> AstraInputs:
    """Choose what a network sees and is asked for: as published, or flux over noise and flux on one grid.

    The noise is that of the borders of the training images, the median over galaxies and bands.
    """
    if not mended:
        return replace(INPUTS_V1 if version == 1 else INPUTS_V2, points=points)
    noise = float(np.nanmedian(border_noise(galaxies.block.images[parts.train])))
    return AstraInputs("noise", softening=noise, target="fixed", points=points, error_floor=_FLOOR)


def _tensors(galaxies: OwnGalaxies, inputs: AstraInputs) -> tuple[torch.Tensor, ...]:
    if inputs.target == "fixed":
        return training_tensors(galaxies.block, inputs, galaxies.norm)
    return training_tensors(replace(galaxies.block, images=galaxies.pixels), inputs)


def train_own(
    galaxies: OwnGalaxies,
    parts: Parts,
    config: AstraConfig,
    inputs: AstraInputs,
    training: TrainingConfig,
    checkpoint: str | Path | None = None,
) -> tuple[Astra, History]:
    """Train a network and stop on galaxies that it does not train on.

    Returns
    -------
    model : Astra
        On the CPU, in evaluation mode.
    history : History
    """
    model = seeded(training.seed, lambda: Astra(config))
    train, stop = (_tensors(galaxies.select(rows), inputs) for rows in (parts.train, parts.calibration))
    history = fit(model, spectrum_loss, train, stop, training, checkpoint)
    return model.cpu(), history


def save_astra(path: str | Path, model: Astra, inputs: AstraInputs) -> Path:
    """Write weights as safetensors, with the configuration in the header."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = json.dumps({"network": asdict(model.config), "inputs": asdict(inputs)})
    with atomic(path) as temporary:
        save_file(weights, temporary, metadata={"astra": header})
    return Path(path)


def load_astra(path: str | Path) -> tuple[Astra, AstraInputs]:
    """Read what :func:`save_astra` wrote; in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Naming the file, when it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file of weights")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["astra"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        model, inputs = Astra(AstraConfig(**header["network"])), AstraInputs(**header["inputs"])
        model.load_state_dict(weights)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of an ASTRA of this page ({error})") from error
    return model.eval(), inputs


# ------------------------------------------------------------------------------------------- predictions


def predict_own(model: Astra, inputs: AstraInputs, galaxies: OwnGalaxies, seed: int = 0) -> np.ndarray:
    """Predict spectra on :func:`astro_utils.astra.targets.log_grid` of `inputs.points`.

    Parameters
    ----------
    model : Astra
    inputs : AstraInputs
        With which it was trained.
    galaxies : OwnGalaxies
    seed : int
        Of patch CNNs that are drawn anew for each galaxy, as published.

    Returns
    -------
    numpy.ndarray
        (N, points) 1e-17 erg / (s cm2 Angstrom). Published targets do not say at which wavelengths and of
        what brightness a spectrum is: they are given those of the *true* one, and NaN beyond its ends.
    """
    images = _tensors(galaxies, inputs)[0]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        values = predict(model, images, batch_size=64).numpy()
    if inputs.target == "fixed":
        return values * galaxies.norm[:, None]
    target = own_grid(galaxies.block.spectra, int(inputs.target[-1]), inputs.points)
    return target.flux_at(values, log_grid(inputs.points).wavelength)


def own_scores(galaxies: OwnGalaxies, parts: Parts, flux: np.ndarray) -> pd.DataFrame:
    """Score predictions (n, points) of the test galaxies beside the mean training spectrum.

    All spectra are divided by the r flux of their images, so that galaxies count alike. The mean spectrum is
    thus given the brightness of each galaxy, and has an R2 of 0.
    """
    grid = log_grid(flux.shape[1])
    norm = galaxies.norm[:, None]
    binned = rebin(galaxies.block.spectra, grid)
    unit = Spectra(grid.wavelength, binned.flux / norm, binned.ivar * norm**2)
    train, test = (Spectra(unit.wavelength, unit.flux[r], unit.ivar[r]) for r in (parts.train, parts.test))
    weight = train.ivar.sum(0)
    known = weight > 0  # pixels that no training spectrum has are not asked for
    mean = np.where(known, (train.ivar * train.flux).sum(0) / np.where(known, weight, 1), 1)
    measured = (test.ivar > 0) & np.isfinite(flux) & known
    test = Spectra(test.wavelength, test.flux, np.where(measured, test.ivar, 0))
    answers = {"ASTRA": np.where(measured, flux / norm[parts.test], mean)}
    answers["mean spectrum"] = np.tile(mean, (len(flux), 1))
    return pd.DataFrame({name: spectrum_scores(test, answer, mean) for name, answer in answers.items()}).T


def write_spectra(path: str | Path, names: list[str], flux: np.ndarray) -> Path:
    """Write predicted spectra (N, points), 1e-17 erg / (s cm2 Angstrom), as HDF5 or CSV by the suffix.

    HDF5 has ``object_id`` (unsigned), ``wavelength`` (Angstrom, vacuum) and ``flux``; CSV a row for each
    galaxy, with the wavelengths as names of columns.

    Raises
    ------
    ValueError
        When the name has another suffix.
    """
    path, wavelength = Path(path), log_grid(flux.shape[1]).wavelength
    if path.suffix not in (".csv", ".h5", ".hdf5"):
        raise ValueError(f"{path}: expected a name that ends in .csv, .h5 or .hdf5")
    with atomic(path) as temporary:
        if path.suffix == ".csv":
            table = pd.DataFrame(flux, columns=[f"{w:.3f}" for w in wavelength])
            table.insert(0, "object_id", names)
            table.to_csv(temporary, index=False, float_format="%.6g")
        else:
            with h5py.File(temporary, "w") as file:
                file["object_id"] = np.array([int(name) for name in names], dtype=np.uint64)
                file["wavelength"] = wavelength
                file["wavelength"].attrs["unit"] = "Angstrom"
                file["flux"] = flux.astype(np.float32)
                file["flux"].attrs["unit"] = "1e-17 erg / (s cm2 Angstrom)"
    return path
