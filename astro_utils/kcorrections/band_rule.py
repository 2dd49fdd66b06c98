"""Which observed band a k-correction starts from: the nearest one, or always the same.

FastSpecFit takes, for each rest-frame band, the observed band whose effective wavelength is nearest to that
of the rest-frame band at the redshift of the galaxy (Moustakas et al. 2023, ASCL 2308.005). At the redshift
in the middle between two bands the choice switches, and the k-correction jumps by the colour of the galaxy. A
fixed pair of bands has no jump, and K is smooth in redshift.

    rule = NearestBand("r", "DECam")
    rule.switches()                       # ((0.0068, "g", "r"), (0.3884, "r", "z"))
    rule.pick(z, k_from_each_band)        # (N,)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from astro_utils.sky.bandpasses import effective_wavelength

__all__ = ["OBSERVED_FILTERS", "OUTPUT_FILTERS", "FixedBand", "NearestBand"]

#: Filters in `speclite` of the two halves of the Legacy Surveys: BASS and MzLS north, DECam south (Dey et al.
#: 2019, AJ 157, 168).
OBSERVED_FILTERS = {
    "BASS/MzLS": {"g": "BASS-g", "r": "BASS-r", "z": "MzLS-z"},
    "DECam": {"g": "decam2014-g", "r": "decam2014-r", "z": "decam2014-z"},
    "SDSS": {b: f"sdss2010-{b}" for b in "ugriz"},
}

#: Rest-frame bands, before the band shift.
OUTPUT_FILTERS = {b: f"sdss2010-{b}" for b in "ugriz"}


@dataclass(frozen=True)
class NearestBand:
    """The observed band nearest to the redshifted rest-frame band.

    Parameters
    ----------
    output : str
        Rest-frame SDSS band, a name in :data:`OUTPUT_FILTERS`.
    system : str
        Observed bands, a name in :data:`OBSERVED_FILTERS`.
    band_shift : float
        The rest-frame band is blueshifted by this redshift: ``0.1`` for K to ^0.1 r.

    Raises
    ------
    ValueError
        When band or system is not known, or the band shift is not above -1.
    """

    output: str
    system: str
    band_shift: float = 0.1

    def __post_init__(self):
        _known("output band", self.output, OUTPUT_FILTERS)
        _known("system", self.system, OBSERVED_FILTERS)
        if not self.band_shift > -1:
            raise ValueError(f"band_shift must be above -1, not {self.band_shift}")

    @property
    def bands(self) -> tuple[str, ...]:
        """Observed bands, from blue to red."""
        return tuple(OBSERVED_FILTERS[self.system])

    def _wavelengths(self) -> tuple[np.ndarray, float]:
        """Effective wavelengths of the observed bands (B,) and of the shifted rest-frame band, Angstrom."""
        observed = [effective_wavelength(name) for name in OBSERVED_FILTERS[self.system].values()]
        return np.array(observed), effective_wavelength(OUTPUT_FILTERS[self.output]) / (1 + self.band_shift)

    def index(self, z: np.ndarray) -> np.ndarray:
        """Position in :attr:`bands` of the band that each redshift takes, (N,) int.

        Raises
        ------
        ValueError
            At a redshift that is not finite or not above -1.
        """
        z = _redshifts(z)
        observed, rest = self._wavelengths()
        return np.abs(observed[None, :] - rest * (1 + z[:, None])).argmin(1)

    def switches(self) -> tuple[tuple[float, str, str], ...]:
        """Redshifts above 0 at which the band switches, with the band below and the band above."""
        observed, rest = self._wavelengths()
        at = (observed[:-1] + observed[1:]) / 2 / rest - 1
        steps = zip(at.tolist(), self.bands[:-1], self.bands[1:], strict=True)
        return tuple(step for step in steps if step[0] > 0)

    def pick(self, z: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Take the k-correction from the right band.

        Parameters
        ----------
        z : numpy.ndarray
            (N,) redshifts.
        k : numpy.ndarray
            (N, B) K from each of :attr:`bands` to the output band, mag.

        Returns
        -------
        numpy.ndarray
            (N,) mag.
        """
        return _pick(self.index(z), k, self.bands)


@dataclass(frozen=True)
class FixedBand:
    """One observed band at every redshift, by default the one with the name of the output band.

    Parameters
    ----------
    output, system : str
        As for :class:`NearestBand`.
    observed : str, optional
        The observed band.

    Raises
    ------
    ValueError
        When band or system is not known.
    """

    output: str
    system: str
    observed: str | None = None

    def __post_init__(self):
        _known("output band", self.output, OUTPUT_FILTERS)
        _known("system", self.system, OBSERVED_FILTERS)
        _known(f"band of {self.system}", self.observed or self.output, OBSERVED_FILTERS[self.system])

    @property
    def bands(self) -> tuple[str, ...]:
        """Observed bands, from blue to red."""
        return tuple(OBSERVED_FILTERS[self.system])

    def index(self, z: np.ndarray) -> np.ndarray:
        """Position in :attr:`bands`, the same at each redshift (N,)."""
        return np.full(len(_redshifts(z)), self.bands.index(self.observed or self.output))

    def switches(self) -> tuple[tuple[float, str, str], ...]:
        """No redshift at all."""
        return ()

    def pick(self, z: np.ndarray, k: np.ndarray) -> np.ndarray:
        """Take the k-correction from the fixed band; see :meth:`NearestBand.pick`."""
        return _pick(self.index(z), k, self.bands)


def _known(what: str, name: str, names: dict) -> None:
    if name not in names:
        raise ValueError(f"{what} {name!r}; expected one of {', '.join(names)}")


def _redshifts(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, dtype=float)
    bad = ~(z > -1) | ~np.isfinite(z)
    if z.ndim != 1 or bad.any():
        what = f"{z[bad][0]}" if z.ndim == 1 else f"shape {z.shape}"
        raise ValueError(f"redshifts must be (N,) finite numbers above -1; found {what}")
    return z


def _pick(index: np.ndarray, k: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    k = np.asarray(k, dtype=float)
    if k.shape != (len(index), len(bands)):
        raise ValueError(
            f"k has shape {k.shape}; expected {(len(index), len(bands))}, bands {', '.join(bands)}"
        )
    return k[np.arange(len(index)), index]
