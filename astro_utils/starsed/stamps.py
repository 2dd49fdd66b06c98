"""Stamps of simulated stars: sums of monochromatic images, shifted, pixelised and noisy.

    stars = observe(catalogue, config, psf, templates, rows=subset("test", config))
    stars.stamps, stars.labels, stars.sigma

`psf` gives the monochromatic stamps at positions in the field: a function or an object of any kind with the
signature of :class:`Psf`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np

from astro_utils.starsed.stars import Catalogue, StarConfig, noise_stream
from astro_utils.starsed.templates import Templates

__all__ = ["FourierShifted", "Psf", "StarSet", "fourier_shift", "noise_sigma", "observe", "power_ratio"]

#: Stars whose monochromatic stamps are in memory at one time.
_BATCH = 512


class Psf(Protocol):
    """What gives monochromatic stamps."""

    def __call__(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        """Return the (n, bins, ny, nx) stamps at positions (n, 2) in the field, of unit sum each.

        `shifts` (n, 2) are offsets in x and y, pixels, that apply before light is summed in pixels, for
        example as tip and tilt of the wavefront. None: the star is in the middle of its stamp.
        """
        ...


@dataclass(frozen=True, eq=False)
class StarSet:
    """Observed stars.

    Attributes
    ----------
    positions : numpy.ndarray
        (N, 2) float64 x and y in the field.
    labels : numpy.ndarray
        (N,) int64 class; -1 where it is not known.
    spectra : numpy.ndarray
        (N,) int64 row of the templates; -1 where it is not known.
    snr : numpy.ndarray
        (N,) float64 power ratio of the noiseless stamp; NaN where it is not known.
    flux : numpy.ndarray
        (N,) float64 total flux, in the unit of the stamps; NaN where it is not known.
    sigma : numpy.ndarray
        (N,) float64 standard deviation of the noise that is alike in all pixels of a stamp.
    gain : float
        Electrons per unit of the stamps: the star's own light adds its value / gain to the variance of a
        pixel. Infinite where noise is white.
    stamps : numpy.ndarray
        (N, ny, nx) float32 with noise.
    noiseless : numpy.ndarray or None
        (N, ny, nx) float32 without; None for observed stars.
    """

    positions: np.ndarray
    labels: np.ndarray
    spectra: np.ndarray
    snr: np.ndarray
    flux: np.ndarray
    sigma: np.ndarray
    gain: float
    stamps: np.ndarray
    noiseless: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.stamps)

    def variance(self, model: np.ndarray) -> np.ndarray:
        """Return the variance of each pixel of stars whose noiseless stamps are `model`, (N, ny, nx)."""
        return self.sigma[:, None, None] ** 2 + np.clip(model, 0, None) / self.gain

    def rows(self, rows: slice | np.ndarray) -> StarSet:
        """Return some of the stars."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "gain"}
        return replace(self, **{name: a if a is None else a[rows] for name, a in arrays.items()})


def power_ratio(noiseless: np.ndarray, variance: np.ndarray | float) -> np.ndarray:
    """Signal-to-noise ratio of the original study: mean square of the signal over that of the noise.

    Parameters
    ----------
    noiseless : numpy.ndarray
        (..., ny, nx).
    variance : numpy.ndarray or float
        Of each pixel; of a shape that fits that of `noiseless`.

    Returns
    -------
    numpy.ndarray
        (...). That of a matched filter is sqrt(ny nx) times the root of it, for white noise.
    """
    noiseless = np.asarray(noiseless, dtype=float)
    noise = np.broadcast_to(variance, noiseless.shape)
    return (noiseless**2).mean((-2, -1)) / noise.mean((-2, -1))


def noise_sigma(noiseless: np.ndarray, snr: np.ndarray) -> np.ndarray:
    """Find the standard deviation of the white noise that gives stamps a power ratio.

    sigma^2 = sum I^2 / (SNR ny nx), after `add_noise` of the WaveDiff simulator.

    Parameters
    ----------
    noiseless : numpy.ndarray
        (..., ny, nx) I.
    snr : numpy.ndarray
        (...), above 0.

    Returns
    -------
    numpy.ndarray
        (...).
    """
    return np.sqrt(power_ratio(noiseless, 1.0) / snr)


def fourier_shift(images: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move images by fractions of a sample, exactly for band-limited images that repeat themselves.

    Parameters
    ----------
    images : numpy.ndarray
        (n, bins, ny, nx).
    shifts : numpy.ndarray
        (n, 2) samples in x and y.

    Returns
    -------
    numpy.ndarray
        (n, bins, ny, nx), each with the sum that it had.
    """
    ny, nx = images.shape[-2:]
    x, y = shifts[:, 0, None, None], shifts[:, 1, None, None]
    phase = np.fft.fftfreq(ny)[:, None] * y + np.fft.rfftfreq(nx) * x  # (n, ny, nx // 2 + 1)
    spectrum = np.fft.rfft2(images) * np.exp(-2j * np.pi * phase)[:, None]
    return np.fft.irfft2(spectrum, s=(ny, nx))


@dataclass(frozen=True)
class FourierShifted:
    """A PSF that shifts its stars, made of one that gives oversampled stamps.

    Parameters
    ----------
    oversampled : callable
        Positions (n, 2) to monochromatic stamps (n, bins, factor ny, factor nx) that are not summed in pixels
        yet.
    factor : int
        Samples along the side of a pixel.
    """

    oversampled: Callable[[np.ndarray], np.ndarray]
    factor: int = 3

    def __call__(self, positions: np.ndarray, shifts: np.ndarray | None = None) -> np.ndarray:
        """Return (n, bins, ny, nx) stamps; see :class:`Psf`."""
        fine = np.asarray(self.oversampled(positions))
        if shifts is not None:
            fine = fourier_shift(fine, self.factor * np.asarray(shifts))
        n, bins, ny, nx = fine.shape
        blocks = fine.reshape(n, bins, ny // self.factor, self.factor, nx // self.factor, self.factor)
        return blocks.sum((3, 5))


def observe(
    catalogue: Catalogue,
    config: StarConfig,
    psf: Psf,
    templates: Templates,
    rows: slice | np.ndarray | None = None,
) -> StarSet:
    """Make the stamps of stars of a catalogue.

    Parameters
    ----------
    catalogue : Catalogue
        Of :func:`astro_utils.starsed.stars.draw_catalogue`, with the same `config` and `templates`.
    config : StarConfig
    psf : Psf
        Monochromatic stamps in the bins of the templates. Offsets are passed only where there are any.
    templates : Templates
    rows : slice or numpy.ndarray, optional
        Rows of the catalogue; by default all. The noise of a star is the same whichever others are observed.

    Returns
    -------
    StarSet
        In counts with a detector, else in units of the flux.

    Raises
    ------
    ValueError
        If the catalogue is not that of `config`, no star is asked for, or the PSF's stamps are not of the
        stars and bins asked for or not finite.
    """
    if len(catalogue) != config.n_train + config.n_test:
        n = config.n_train + config.n_test
        raise ValueError(f"the catalogue has {len(catalogue)} stars, its configuration {n}")
    numbers = np.arange(len(catalogue))[slice(None) if rows is None else rows]
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"rows are {rows}; expected at least one of {len(catalogue)} stars")
    batches = np.split(numbers, np.arange(_BATCH, len(numbers), _BATCH))
    return join([_observe_batch(catalogue, config, psf, templates, batch) for batch in batches])


def join(sets: list[StarSet]) -> StarSet:
    """Put sets of one gain behind each other."""
    names = [field.name for field in fields(StarSet) if field.name != "gain"]
    arrays = {name: [getattr(one, name) for one in sets] for name in names}
    return replace(sets[0], **{name: np.concatenate(parts) for name, parts in arrays.items()})


def _observe_batch(
    catalogue: Catalogue, config: StarConfig, psf: Psf, templates: Templates, rows: np.ndarray
) -> StarSet:
    positions, spectra = catalogue.positions[rows], catalogue.spectra[rows]
    # A PSF that cannot shift its stars serves where nothing is shifted.
    mono = np.asarray(psf(positions, catalogue.shifts[rows]) if config.max_shift else psf(positions))
    weights = templates.weights[spectra]  # (n, bins)
    if mono.ndim != 4 or mono.shape[:2] != weights.shape:
        raise ValueError(f"the PSF gives stamps of shape {mono.shape}; expected {weights.shape} and (ny, nx)")
    if not np.isfinite(mono).all():
        raise ValueError("the PSF gives stamps that are not finite")
    unit = np.einsum("nb,nbyx->nyx", weights, mono, dtype=float)
    image = catalogue.flux[rows, None, None] * unit  # (n, ny, nx)
    streams = [noise_stream(config, row) for row in rows]
    detector, gain = config.detector, np.inf
    if detector is None:
        sigma = noise_sigma(image, catalogue.snr[rows])
        stamps = image + sigma[:, None, None] * [rng.standard_normal(image.shape[1:]) for rng in streams]
    else:
        # A shift by Fourier transform leaves slightly negative pixels in the wings.
        light = np.clip(image, 0, None) + detector.sky
        pairs = zip(streams, light, strict=True)
        electrons = [rng.poisson(one) + rng.normal(0, detector.read_noise, one.shape) for rng, one in pairs]
        gain = detector.gain
        stamps, image = (np.array(electrons) - detector.sky) / gain, image / gain
        sigma = np.full(len(rows), np.sqrt(detector.sky + detector.read_noise**2) / gain)
    stars = StarSet(
        positions=positions,
        labels=catalogue.labels[rows],
        spectra=spectra,
        snr=catalogue.snr[rows],
        flux=catalogue.flux[rows] / (1.0 if detector is None else gain),
        sigma=sigma,
        gain=gain,
        stamps=stamps.astype(np.float32),
        noiseless=image.astype(np.float32),
    )
    return stars if detector is None else replace(stars, snr=power_ratio(image, stars.variance(image)))
