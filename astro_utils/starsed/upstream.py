"""Readers of star files: those of the original study and of WaveDiff, and a user's own.

Published files are pickled dictionaries of arrays (``train_Euclid_res_200stars.npy`` and the like), opened by
:func:`astro_utils.legacy.read_pickled_npy`, which runs nothing that they hold. Their keys, with n stars:

================  ======================  ========================================================
key               shape                   holds
================  ======================  ========================================================
``stars``         (n, 32, 32)             stamps without noise, of sum 1
``noisy_stars``   (n, 32, 32)             with noise; optional, like all below but ``positions``
``positions``     (n, 2)                  x and y in the field, 0 to 1000
``SNR``           (n,) or longer          power ratio; of too many stars in the published training
                                          sets, where the first n count
``SED_ids``       (n,)                    class, 0 (O5) to 12 (M5)
``SEDs``          (n, L, 2)               wavelength (nm) and flux of sum 1
``mono_psfs``     (n, bins, 32, 32)       monochromatic stamps
``zernike_coef``  (n, 45) or (n, 45, 1)   Zernike coefficients, um
``C_poly``        (45, k)                 polynomials in position that they follow
``parameters``    dictionary              of the simulation
================  ======================  ========================================================

A user's own stars come in an ``.npz`` or HDF5 file with arrays of these names; see :func:`read_own_stars`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from astro_utils.legacy import read_pickled_npy
from astro_utils.starsed.stamps import StarSet, noise_sigma
from astro_utils.starsed.templates import CLASSES, StellarSpectra, nearest_class

__all__ = ["StarFile", "read_own_stars", "read_upstream_stars"]

_OWN = ("stamps", "positions", "sigma", "labels", "mono", "flux", "gain")


@dataclass(frozen=True, eq=False)
class StarFile:
    """What a file of stars holds; None where it does not.

    Attributes
    ----------
    stars : StarSet
    mono : numpy.ndarray or None
        (N, bins, ny, nx) float32 monochromatic stamps of unit sum at the stars' positions.
    wavelength_nm, seds : numpy.ndarray or None
        (L,) nm and (N, L) flux.
    zernikes, coefficients : numpy.ndarray or None
        (N, 45) Zernike coefficients, um, and (45, k) those of their polynomials.
    parameters : mapping
        Of the simulation.
    """

    stars: StarSet
    mono: np.ndarray | None = None
    wavelength_nm: np.ndarray | None = None
    seds: np.ndarray | None = None
    zernikes: np.ndarray | None = None
    coefficients: np.ndarray | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Arrays:
    """Arrays of a file by name, taken out with checks of shape and content."""

    path: Path
    content: Mapping[str, Any]

    def take(self, key: str, *shape: int | None, required: bool = False) -> np.ndarray | None:
        """Return float64 numbers; `shape` has None where any size will do."""
        if key not in self.content:
            if required:
                known = ", ".join(map(str, self.content)) or "none"
                raise ValueError(f"{self.path}: no key {key!r}; the file has {known}")
            return None
        array = np.asarray(self.content[key])
        if array.dtype.kind not in "iuf":
            raise ValueError(f"{self.path}: key {key!r} holds {array.dtype}; expected numbers")
        fits = array.ndim == len(shape) and all(
            want in (None, size) for want, size in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = str(shape).replace("None", "any")
            raise ValueError(f"{self.path}: key {key!r} has shape {array.shape}; expected {wanted}")
        array = array.astype(float, copy=False)
        if not np.isfinite(array).all():
            raise ValueError(f"{self.path}: key {key!r} has values that are not finite")
        return array

    def labels(self, key: str, n: int) -> np.ndarray | None:
        labels = self.take(key, n)
        if labels is not None:
            wrong = ~np.isin(labels, np.arange(-1, len(CLASSES)))
            if wrong.any():
                value = labels[wrong.argmax()]
                raise ValueError(f"{self.path}: key {key!r} has {value:g}; expected classes 0 to 12, or -1")
            labels = labels.astype(np.int64)
        return labels

    def mono(self, key: str, shape: tuple[int, ...]) -> np.ndarray | None:
        mono = self.take(key, shape[0], None, *shape[1:])
        return None if mono is None else mono.astype(np.float32)


def read_upstream_stars(path: str | Path, spectra: StellarSpectra | None = None) -> StarFile:
    """Read a published file of simulated stars.

    Parameters
    ----------
    path : str or Path
        A ``.npy`` file of a pickled dictionary with the keys above.
    spectra : StellarSpectra, optional
        :func:`astro_utils.starsed.templates.pickles_spectra`. With them, stars of a file without ``SED_ids``
        get the class of the spectrum that is most like their own.

    Returns
    -------
    StarFile
        Noise is white. Its `sigma` follows from ``SNR``; without that key, it is the rms of the difference of
        the noisy and the noiseless stamp, and the power ratio follows from it. Stars of a file without
        ``noisy_stars`` have no noise and an infinite ratio. The field `spectra` of the stars is -1.

    Raises
    ------
    astro_utils.legacy.UnsafePickleError
        If the pickle asks for anything but data.
    ValueError
        If the file is malformed, or a key is missing, of a wrong shape or not finite. The message names the
        file and the key.
    """
    path = Path(path)
    content = read_pickled_npy(path)
    content = content.item() if content.shape == () and content.dtype == object else content
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}; expected a pickled dictionary of arrays")
    arrays = _Arrays(path, content)
    clean = arrays.take("stars", None, None, None, required=True)
    n = len(clean)
    positions = arrays.take("positions", n, 2, required=True)
    noisy = arrays.take("noisy_stars", *clean.shape)
    if noisy is None:
        noisy, sigma, snr = clean, np.zeros(n), np.full(n, np.inf)
    else:
        sigma, snr = _noise(arrays, clean, noisy)
    seds, labels = arrays.take("SEDs", n, None, 2), arrays.labels("SED_ids", n)
    if seds is not None and (seds[..., 0] != seds[0, :, 0]).any():
        raise ValueError(f"{path}: key 'SEDs' has stars on several grids of wavelengths; expected one")
    if labels is None:
        unknown = seds is None or spectra is None
        labels = np.full(n, -1) if unknown else nearest_class(seds[..., 1], seds[0, :, 0], spectra)
    zernikes = content.get("zernike_coef")
    if zernikes is not None:
        zernikes = arrays.take("zernike_coef", n, None, *([1] if np.ndim(zernikes) == 3 else []))
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        kind = type(parameters).__name__
        raise ValueError(f"{path}: key 'parameters' holds {kind}; expected a dictionary")
    stars = StarSet(
        positions=positions,
        labels=labels,
        spectra=np.full(n, -1),
        snr=snr,
        flux=clean.sum((1, 2)),
        sigma=sigma,
        gain=np.inf,
        stamps=noisy.astype(np.float32),
        noiseless=clean.astype(np.float32),
    )
    return StarFile(
        stars=stars,
        mono=arrays.mono("mono_psfs", clean.shape),
        wavelength_nm=None if seds is None else seds[0, :, 0],
        seds=None if seds is None else seds[..., 1],
        zernikes=None if zernikes is None else zernikes.reshape(n, -1),
        coefficients=arrays.take("C_poly", None, None),
        parameters=parameters,
    )


def _noise(arrays: _Arrays, clean: np.ndarray, noisy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the standard deviation of the noise and the power ratio of each star."""
    snr = arrays.take("SNR", None)
    if snr is None:
        sigma = np.sqrt(((noisy - clean) ** 2).mean((1, 2)))
        if not (sigma > 0).all():
            star = int((sigma == 0).argmax())
            raise ValueError(
                f"{arrays.path}: key 'noisy_stars' has no noise in star {star}, nor is there SNR"
            )
        # The definition of the ratio, solved for it.
        return sigma, (noise_sigma(clean, np.ones(len(clean))) / sigma) ** 2
    if len(snr) < len(clean):
        raise ValueError(f"{arrays.path}: key 'SNR' has {len(snr)} values for {len(clean)} stars")
    snr = snr[: len(clean)]
    if not (snr > 0).all():
        raise ValueError(f"{arrays.path}: key 'SNR' has {snr.min():g}; expected ratios above 0")
    return noise_sigma(clean, snr), snr


def read_own_stars(path: str | Path) -> StarFile:
    """Read a user's own stars, with the PSF at their positions or without.

    Parameters
    ----------
    path : str or Path
        An ``.npz`` file (``numpy.savez``), or an HDF5 file with datasets at its root. Arrays, of numbers:

        - ``stamps`` (N, ny, nx): background subtracted, any unit. Required.
        - ``sigma`` (N,) or (): standard deviation of the background noise, in that unit. Required.
        - ``mono`` (N, bins, ny, nx): monochromatic PSFs at the stars' positions, equal bins of 550-900 nm,
          each of sum 1; and ``positions`` (N, 2): x and y in the field. At least one of the two is required.
        - ``labels`` (N,): class, 0 (O5) to 12 (M5), or -1. Optional.
        - ``flux`` (N,): total flux in the unit of the stamps. Optional.
        - ``gain`` (): electrons per unit of the stamps, by which a star's own light adds noise. Optional.

    Returns
    -------
    StarFile
        Its stars have no noiseless stamps; labels are -1, fluxes and ratios NaN where they are not known.

    Raises
    ------
    ValueError
        If the file is neither, holds Python objects, or an array is missing, unknown, of a wrong shape or
        without sense. The message names the file and the key.
    """
    path = Path(path)
    arrays = _Arrays(path, _read_hdf5(path) if h5py.is_hdf5(path) else _read_npz(path))
    if unknown := sorted(set(arrays.content) - set(_OWN)):
        raise ValueError(f"{path}: key {unknown[0]!r} is not known; expected {', '.join(_OWN)}")
    stamps = arrays.take("stamps", None, None, None, required=True)
    n = len(stamps)
    if n == 0:
        raise ValueError(f"{path}: key 'stamps' holds no star")
    sigma = arrays.take("sigma", *np.shape(arrays.content.get("sigma", ()))[:1], required=True)
    if sigma.shape not in ((), (n,)):
        raise ValueError(f"{path}: key 'sigma' has shape {sigma.shape}; expected ({n},) or ()")
    gain = arrays.take("gain")
    for key, values in (("sigma", sigma), ("gain", gain)):
        if values is not None and not (values > 0).all():
            raise ValueError(f"{path}: key {key!r} has {values.min():g}; expected numbers above 0")
    mono, positions = arrays.mono("mono", stamps.shape), arrays.take("positions", n, 2)
    if mono is None and positions is None:
        raise ValueError(f"{path}: neither key 'mono' nor 'positions'; expected at least one")
    if mono is not None and not (abs(mono.sum((2, 3)) - 1) < 0.05).all():
        worst = mono.sum((2, 3)).ravel()[np.abs(mono.sum((2, 3)).ravel() - 1).argmax()]
        raise ValueError(f"{path}: key 'mono' has a stamp of sum {worst:g}; expected 1")
    labels, flux = arrays.labels("labels", n), arrays.take("flux", n)
    stars = StarSet(
        positions=np.full((n, 2), np.nan) if positions is None else positions,
        labels=np.full(n, -1) if labels is None else labels,
        spectra=np.full(n, -1),
        snr=np.full(n, np.nan),
        flux=np.full(n, np.nan) if flux is None else flux,
        sigma=np.broadcast_to(sigma, n).copy(),
        gain=np.inf if gain is None else float(gain),
        stamps=stamps.astype(np.float32),
    )
    return StarFile(stars=stars, mono=mono)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array")
        with file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not a readable .npz or HDF5 file of arrays of numbers: {error}") from error


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        content = {}
        for key in file:
            # What is linked or stored outside of the file may be a private file of the reader's.
            hard = isinstance(file.get(key, getlink=True), h5py.HardLink)
            dataset = file[key] if hard else None
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise ValueError(f"{path}: key {key!r} is not a dataset stored in this file")
            content[key] = dataset[()]
    return content
