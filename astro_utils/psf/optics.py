"""A Euclid-like telescope in numbers: aperture, detector, band, and the wavefront errors that it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from scipy.signal import convolve2d

__all__ = ["Optics", "Spider", "aperture"]

WAVELENGTHS = ("exact", "wf-psf")


@dataclass(frozen=True)
class Spider:
    """One arm that holds the secondary mirror: middle (mm, from the pupil's centre) and direction.

    The angle (degrees) is from the x axis towards the y axis.
    """

    x_mm: float
    y_mm: float
    angle_deg: float


@dataclass(frozen=True)
class Optics:
    """All numbers of the simulated telescope, its camera and its field.

    The defaults are those with which the star images of [1]_ were made by the simulator of [2]_.

    Parameters
    ----------
    diameter_m, focal_length_m : float
        Of the telescope.
    pixel_um : float
        Side of a detector pixel.
    pupil_size : int
        Samples across the pupil's diameter; even.
    oversampling : int
        Samples of the diffraction pattern across a detector pixel. Their mean is the pixel's value.
    stamp : int
        Side of a stamp in detector pixels; even.
    band_nm : tuple of float
        Lower and upper end of the band.
    bins : int
        Wavelengths of a polychromatic image: the centres of equal bins of the band.
    modes : int
        Zernike modes of the wavefront, in Noll's order from piston.
    field_degree : int
        Degree of the polynomials in field position that the coefficients of the modes follow.
    field_limits : tuple of float
        Lower and upper end of both coordinates of the field.
    mean_wavefront_error_nm : float
        Root of the summed squares of the coefficients, averaged over a grid in the field.
    field_grid : int
        Points of that grid along each axis.
    obscuration_mm : float
        Diameter of the central obscuration.
    obscuration_centre_mm : tuple of float
        Its centre (x, y).
    spiders : tuple of Spider
    spider_length_mm, spider_width_mm : float
    filter_length : int
        Samples along each side of the top-hat with which the aperture is smoothed.
    wavelengths : {"exact", "wf-psf"}
        Whether to use the bins' centres, or the wavelengths to which the original snaps them so that its
        fast Fourier transforms have an even number of samples.
    mask_edge : bool
        Whether nothing passes outside of the unit disc, as in the simulator. Without it the smoothed edge
        extends past the disc, where the wavefront is flat, as in the trainable PSF model of [2]_.

    Raises
    ------
    ValueError
        If a value makes no sense.

    References
    ----------
    .. [1] Centofanti, E., et al., 2025, arXiv:2501.16151.
    .. [2] Liaudat, T., et al., 2023, Inverse Problems, 39, 035008, doi:10.1088/1361-6420/acb664.
    """

    diameter_m: float = 1.2
    focal_length_m: float = 24.5
    pixel_um: float = 12.0
    pupil_size: int = 256
    oversampling: int = 3
    stamp: int = 32
    band_nm: tuple[float, float] = (550.0, 900.0)
    bins: int = 8
    modes: int = 45
    field_degree: int = 4
    field_limits: tuple[float, float] = (0.0, 1000.0)
    mean_wavefront_error_nm: float = 40.0
    field_grid: int = 5
    obscuration_mm: float = 395.0
    obscuration_centre_mm: tuple[float, float] = (0.0, 51.0)
    spiders: tuple[Spider, ...] = (
        Spider(260.0, 240.0, 16.78),
        Spider(-330.0, 130.0, -39.89),
        Spider(70.0, -330.0, -100.76),
    )
    spider_length_mm: float = 700.0
    spider_width_mm: float = 12.0
    filter_length: int = 2
    wavelengths: str = "exact"
    mask_edge: bool = True

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                raise ValueError(f"{field.name} must be finite, not {value}")
        positive = ("diameter_m", "focal_length_m", "pixel_um", "mean_wavefront_error_nm")
        whole = ("pupil_size", "oversampling", "stamp", "bins", "modes", "filter_length")
        for name in (*positive, *whole):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in (*whole, "field_degree", "field_grid"):
            if not isinstance(getattr(self, name), int):
                raise ValueError(f"{name} must be a whole number, not {getattr(self, name)!r}")
        for name in ("obscuration_mm", "spider_length_mm", "spider_width_mm", "field_degree"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, but is {getattr(self, name)}")
        for name in ("pupil_size", "stamp"):
            if getattr(self, name) % 2:
                raise ValueError(f"{name} must be even, not {getattr(self, name)}")
        for name in ("band_nm", "field_limits"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} must rise, but is {getattr(self, name)}")
        if self.band_nm[0] <= 0:
            raise ValueError(f"band_nm must lie above 0, but is {self.band_nm}")
        if self.obscuration_mm >= 1000 * self.diameter_m:
            raise ValueError(
                f"obscuration_mm is {self.obscuration_mm:g}; expected less than the diameter, "
                f"{1000 * self.diameter_m:g} mm"
            )
        if self.field_grid <= self.field_degree:
            raise ValueError(
                f"field_grid must exceed field_degree, {self.field_degree}, but is {self.field_grid}"
            )
        if self.wavelengths not in WAVELENGTHS:
            raise ValueError(f"wavelengths must be one of {WAVELENGTHS}, not {self.wavelengths!r}")
        # Outside of its central period a sampled pupil repeats its image.
        needed, shortest = self.stamp * self.oversampling, self.periods.min()
        if needed > shortest:
            raise ValueError(
                f"a stamp of {self.stamp} x {self.oversampling} samples is larger than the {shortest:.0f} "
                f"that a pupil of {self.pupil_size} samples gives; expected a larger pupil_size"
            )

    @property
    def pixel_arcsec(self) -> float:
        """Side of a detector pixel on the sky, arcsec."""
        return math.degrees(self.pixel_um / (1e6 * self.focal_length_m)) * 3600

    @property
    def bin_edges_nm(self) -> np.ndarray:
        """Edges of the wavelength bins, (bins + 1,) nm."""
        return np.linspace(*self.band_nm, self.bins + 1)

    @property
    def wavelengths_um(self) -> np.ndarray:
        """Wavelengths at which monochromatic images are computed, (bins,) micrometres."""
        if self.wavelengths == "exact":
            return (self.bin_edges_nm[:-1] + self.bin_edges_nm[1:]) / 2000
        # Once more than for the spectrum. For a wavelength that is a multiple already, rounding decides.
        return _snap(self, self.spectrum_wavelengths_um)

    @property
    def spectrum_wavelengths_um(self) -> np.ndarray:
        """Wavelengths at which spectra are read, (bins,) micrometres: differ in few bins of ``wf-psf``."""
        centres = (self.bin_edges_nm[:-1] + self.bin_edges_nm[1:]) / 2000
        return centres if self.wavelengths == "exact" else _snap(self, centres)

    @property
    def periods(self) -> np.ndarray:
        """Samples of the diffraction pattern after which it repeats itself, (bins,).

        The number to which a fast Fourier transform would pad the pupil: even in ``wf-psf``, any in
        ``exact``.
        """
        periods = _period(self, self.wavelengths_um)
        return periods if self.wavelengths == "exact" else np.rint(periods)


def _period(optics: Optics, wavelength_um: np.ndarray) -> np.ndarray:
    # The order of the operations is the original's: its rounding decides between two even numbers.
    product = optics.oversampling * optics.pupil_size * wavelength_um * optics.focal_length_m
    return product / (optics.diameter_m * optics.pixel_um)


def _snap(optics: Optics, wavelength_um: np.ndarray) -> np.ndarray:
    """Round wavelengths down to those whose period is even."""
    even = 2 * (_period(optics, wavelength_um) // 2)
    return (even * optics.diameter_m * optics.pixel_um) / (
        optics.pupil_size * optics.oversampling * optics.focal_length_m
    )


def aperture(optics: Optics) -> np.ndarray:
    """Draw the aperture: the stop, the central obscuration and the spiders, smoothed by a top-hat.

    Parameters
    ----------
    optics : Optics

    Returns
    -------
    numpy.ndarray
        (pupil_size, pupil_size) transmission from 0 to 1 in [y, x]. The outermost samples lie on the edge of
        the stop, as in the original. A top-hat of even length moves the picture by half a sample.
    """
    radius = 500 * optics.diameter_m
    axis = np.linspace(-radius, radius, optics.pupil_size)
    x, y = np.meshgrid(axis, axis)
    disc = np.hypot(x, y) <= radius
    x0, y0 = optics.obscuration_centre_mm
    plane = disc & (np.hypot(x - x0, y - y0) > optics.obscuration_mm / 2)
    for spider in optics.spiders:
        dx, dy, angle = x - spider.x_mm, y - spider.y_mm, math.radians(spider.angle_deg)
        across = np.abs(dy * math.cos(angle) - dx * math.sin(angle))
        plane &= ~((across < optics.spider_width_mm / 2) & (np.hypot(dx, dy) <= optics.spider_length_mm / 2))
    top_hat = np.full(2 * (optics.filter_length,), optics.filter_length**-2.0)
    smooth = convolve2d(plane.astype(float), top_hat, mode="same")
    return smooth * disc if optics.mask_edge else smooth
