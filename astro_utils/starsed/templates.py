"""Spectra of the 13 classes of the study ``starsed``, O5 to M5, and their weights in wavelength bins.

A polychromatic star is a sum of monochromatic images, one for each bin of the band 550-900 nm, with the
star's spectrum as weights::

    known = templates("stelib")                   # 13 classes, weights (13, 8)
    unseen = templates("stelib", unseen=True)     # other stars of the same classes
    truth = templates("stelib", n_bins=35, photons=True)

Two libraries have the classes:

``pickles``
    The spectra of the original study [1]_: one of the Pickles library [2]_ for each class, from the dataset
    ``wf_psf_pickles``. The six more luminous stars of that dataset are its unseen spectra.
``stelib``
    The stars of :mod:`astro_utils.starsed.class_stars`, which come with the package ``sdss-mangadap``:
    STELIB where it has normal dwarfs, else MILES, continued to the red by MaStarHC
    (:mod:`astro_utils.sky.stars`). A class is the mean of its members; stars of the same type that are not in
    the mean are its unseen spectra. No spectrum is bent onto those of Pickles.

References
----------
.. [1] Centofanti, E., et al., 2025, A&A, 694, A228, arXiv:2501.16151.
.. [2] Pickles, A. J., 1998, PASP, 110, 863.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.io import fits
from scipy.interpolate import make_interp_spline

from astro_utils import registry
from astro_utils.sky.stars import StellarLibrary, stellar_library
from astro_utils.starsed.class_stars import MEMBERS, UNSEEN

__all__ = [
    "BAND_NM",
    "CLASSES",
    "SOURCES",
    "WAVELENGTH_NM",
    "StellarSpectra",
    "Templates",
    "bin_centres",
    "bin_weights",
    "nearest_class",
    "pickles_spectra",
    "stelib_spectra",
    "templates",
]

#: From blue to red.
CLASSES = ("O5", "B0", "B5", "A0", "A5", "F0", "F5", "G0", "G5", "K0", "K5", "M0", "M5")
SOURCES = ("stelib", "pickles")
BAND_NM = (550.0, 900.0)
#: Middles of the 350 samples of a spectrum, 1 nm wide, nm.
WAVELENGTH_NM = np.arange(550.5, 900.0)

# A star of type B5 is represented by Pickles' B5-7.
_PICKLES = {name: f"{name.lower()}v" for name in CLASSES} | {"B5": "b57v"}
_PICKLES_UNSEEN = {"a5iii": "A5", "b5ii": "B5", "b5iii": "B5", "f5i": "F5", "f5iii": "F5", "f5iv": "F5"}


@dataclass(frozen=True, eq=False)
class StellarSpectra:
    """Spectra in the band, 1 nm apart.

    Attributes
    ----------
    names : tuple of str
        One for each spectrum: its class, or its star.
    classes : numpy.ndarray
        (M,) int, index into :data:`CLASSES`.
    flux : numpy.ndarray
        (M, 350) float64 F_lambda at :data:`WAVELENGTH_NM`, each with sum 1.
    source : str
        One of :data:`SOURCES`.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    flux: np.ndarray
    source: str


@dataclass(frozen=True, eq=False)
class Templates:
    """Weights of the monochromatic images of which stars are made.

    Attributes
    ----------
    names : tuple of str
        One for each row: its class, or its star.
    classes : numpy.ndarray
        (M,) int, index into :data:`CLASSES`.
    weights : numpy.ndarray
        (M, bins) float64, each row with sum 1.
    wavelengths_nm : numpy.ndarray
        (bins,) nm at which the weights hold.
    source : str
        One of :data:`SOURCES`.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    weights: np.ndarray
    wavelengths_nm: np.ndarray
    source: str


# ----------------------------------------------------------------------------------------------- binning


def bin_centres(n_bins: int) -> np.ndarray:
    """Middles of equal bins of the band, (n_bins,) nm."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, not {n_bins}")
    edges = np.linspace(*BAND_NM, n_bins + 1)
    return (edges[:-1] + edges[1:]) / 2


def bin_weights(
    flux: np.ndarray,
    n_bins: int,
    *,
    wavelength_nm: np.ndarray = WAVELENGTH_NM,
    photons: bool = False,
    at_nm: np.ndarray | None = None,
) -> np.ndarray:
    """Share of a spectrum in each of equal bins of the band.

    A sample that straddles two bins is divided between them in proportion, as `filter_SED` of the WaveDiff
    simulator does. The original then reads the shares by cubic interpolation at the wavelengths of its
    monochromatic images, which are a little shorter than the middles of the bins.

    Parameters
    ----------
    flux : numpy.ndarray
        (..., L) F_lambda, 0 or more.
    n_bins : int
        8 in the original.
    wavelength_nm : numpy.ndarray
        (L,) middles of the samples, evenly spaced and reaching from end to end of the band.
    photons : bool
        Whether to count photons, as a CCD does: each sample is multiplied by its wavelength. The original
        sums energy.
    at_nm : numpy.ndarray, optional
        (n_bins,) wavelengths to interpolate to, such as ``1000 * optics.spectrum_wavelengths_um``. By default
        the shares are those of the bins.

    Returns
    -------
    numpy.ndarray
        (..., n_bins) float64; sums over bins are 1.

    Raises
    ------
    ValueError
        If shapes disagree, wavelengths are uneven or leave part of the band out, fluxes are negative, not
        finite or all 0, or `at_nm` are not one wavelength inside of each bin.
    """
    flux, wavelength = np.asarray(flux, dtype=float), np.asarray(wavelength_nm, dtype=float)
    centres = bin_centres(n_bins)
    _check_spectrum(flux, wavelength)
    step = wavelength[1] - wavelength[0]
    samples = flux * wavelength if photons else flux
    ends = np.append(wavelength - step / 2, wavelength[-1] + step / 2)
    cumulative = np.concatenate([np.zeros((*flux.shape[:-1], 1)), np.cumsum(samples, -1)], axis=-1)
    edges = np.linspace(*BAND_NM, n_bins + 1)
    # Linear between the ends of samples: a sample's flux is spread evenly over its width.
    at_edges = np.apply_along_axis(lambda row: np.interp(edges, ends, row), -1, cumulative)
    shares = np.diff(at_edges, axis=-1)  # (..., n_bins)
    if (shares.sum(-1) <= 0).any():
        raise ValueError("a spectrum has no flux between 550 and 900 nm")
    if at_nm is not None:
        at_nm = np.asarray(at_nm, dtype=float)
        width = centres[0] - BAND_NM[0]
        if at_nm.shape != (n_bins,) or not (np.abs(at_nm - centres) <= width).all():
            raise ValueError(f"at_nm must be {n_bins} wavelengths in nm, one in each bin, not {at_nm}")
        shares = make_interp_spline(centres, shares, k=min(3, n_bins - 1), axis=-1)(at_nm)
    return shares / shares.sum(-1, keepdims=True)


def _check_spectrum(flux: np.ndarray, wavelength: np.ndarray) -> None:
    if wavelength.ndim != 1 or len(wavelength) < 2 or flux.shape[-1:] != wavelength.shape:
        raise ValueError(f"flux of shape {flux.shape} and wavelength_nm {wavelength.shape} do not fit")
    steps = np.diff(wavelength)
    if not (steps > 0).all() or np.ptp(steps) > 1e-6 * steps[0]:
        raise ValueError("wavelength_nm is not evenly spaced and increasing")
    low, high = wavelength[0] - steps[0] / 2, wavelength[-1] + steps[0] / 2
    if low > BAND_NM[0] + 1e-6 or high < BAND_NM[1] - 1e-6:
        raise ValueError(f"wavelength_nm covers {low:g} to {high:g} nm; expected all of 550 to 900")
    if not (np.isfinite(flux) & (flux >= 0)).all():
        raise ValueError("flux has values that are negative or not finite")


# --------------------------------------------------------------------------------------------- libraries


def pickles_spectra(*, unseen: bool = False) -> StellarSpectra:
    """Read the spectra of the original study.

    Parameters
    ----------
    unseen : bool
        Whether to read the six more luminous stars of the types A5, B5 and F5 instead.

    Returns
    -------
    StellarSpectra
        A sample is the sum of the library's two samples, 0.5 nm apart, that end at its middle: the samples at
        550.0 and 550.5 nm make that of 550.5 nm. The published table of 13 spectra was made so.

    Raises
    ------
    astro_utils.registry.DatasetError
        If the files of the dataset ``wf_psf_pickles`` are not on this machine.
    """
    files = registry.fetch("wf_psf_pickles", download=False)
    stems = list(_PICKLES_UNSEEN) if unseen else list(_PICKLES.values())
    classes = [_PICKLES_UNSEEN[stem] for stem in stems] if unseen else list(CLASSES)
    names = [stem.upper() for stem in stems] if unseen else classes
    spectra = []
    for stem in stems:
        path = files[f"wf_psf/Pickles/J_PASP_110_863_{stem}.dat.gz.fits"]
        with fits.open(path) as hdus:
            angstrom, flux = (np.asarray(hdus[1].data[column], float) for column in ("lambda", "nflam"))
        first = int(np.searchsorted(angstrom, 10 * BAND_NM[0]))
        both = flux[first : first + 2 * len(WAVELENGTH_NM)].reshape(-1, 2).sum(1)  # (350,)
        spectra.append(both / both.sum())
    numbers = np.array([CLASSES.index(name) for name in classes])
    return StellarSpectra(tuple(names), numbers, np.array(spectra), "pickles")


def stelib_spectra(*, unseen: bool = False) -> StellarSpectra:
    """Read the mean spectra of the members of each class, or those of unseen stars.

    Parameters
    ----------
    unseen : bool
        Whether to read the stars that are in no mean, each by itself.

    Returns
    -------
    StellarSpectra
        In vacuum wavelengths; a mean is that of spectra of sum 1. The library is built at the first call of
        all, which takes about ten seconds.
    """
    library = stellar_library()
    table = UNSEEN if unseen else MEMBERS
    stars = {name: np.array([_on_nm(library, *star) for star in table[name]]) for name in CLASSES}
    if not unseen:
        flux = np.array([spectra.mean(0) for spectra in stars.values()])
        return StellarSpectra(CLASSES, np.arange(len(CLASSES)), flux, "stelib")
    names = tuple(f"{star} ({origin})" for name in CLASSES for star, origin in table[name])
    numbers = np.repeat(np.arange(len(CLASSES)), [len(stars[name]) for name in CLASSES])
    return StellarSpectra(names, numbers, np.concatenate(list(stars.values())), "stelib")


def _on_nm(library: StellarLibrary, name: str, origin: str) -> np.ndarray:
    """Spectrum of one star in samples of 1 nm, sum 1."""
    table = library.table
    rows = np.flatnonzero((table["name"] == name) & (table["library"] == origin))
    if len(rows) != 1:
        raise ValueError(f"{len(rows)} spectra of {name} of {origin} in the stellar library; expected 1")
    wavelength = library.wavelength / 10
    edges = np.linspace(*BAND_NM, len(WAVELENGTH_NM) + 1)
    step = wavelength[1] - wavelength[0]
    ends = np.append(wavelength - step / 2, wavelength[-1] + step / 2)
    cumulative = np.append(0.0, np.cumsum(library.flux[rows[0]], dtype=float))
    flux = np.diff(np.interp(edges, ends, cumulative))
    return flux / flux.sum()


def templates(
    source: str = "stelib",
    n_bins: int = 8,
    *,
    unseen: bool = False,
    photons: bool = False,
    at_nm: np.ndarray | None = None,
) -> Templates:
    """Return the weights of the 13 classes, or of unseen stars of them.

    Parameters
    ----------
    source : {"stelib", "pickles"}
        Library; see :mod:`astro_utils.starsed.templates`.
    n_bins, photons, at_nm
        As for :func:`bin_weights`. 35 bins serve as the truth in tests of how fine 8 bins are.
    unseen : bool
        Whether to return stars that are not the templates of their class.

    Returns
    -------
    Templates

    Raises
    ------
    ValueError
        If there is no such library, or as for :func:`bin_weights`.
    astro_utils.registry.DatasetError
        If the library's files are not on this machine.
    """
    readers = {"stelib": stelib_spectra, "pickles": pickles_spectra}
    if source not in readers:
        raise ValueError(f"source is {source!r}; expected one of {SOURCES}")
    spectra = readers[source](unseen=unseen)
    weights = bin_weights(spectra.flux, n_bins, photons=photons, at_nm=at_nm)
    wavelengths = bin_centres(n_bins) if at_nm is None else np.asarray(at_nm, dtype=float)
    return Templates(spectra.names, spectra.classes, weights, wavelengths, source)


def nearest_class(flux: np.ndarray, wavelength_nm: np.ndarray, spectra: StellarSpectra) -> np.ndarray:
    """Class of the spectrum that is least different from each of some others.

    Parameters
    ----------
    flux : numpy.ndarray
        (N, L) F_lambda.
    wavelength_nm : numpy.ndarray
        (L,) nm, evenly spaced over the band.
    spectra : StellarSpectra
        The spectra to choose from.

    Returns
    -------
    numpy.ndarray
        (N,) int, index into :data:`CLASSES`.

    Raises
    ------
    ValueError
        As for :func:`bin_weights`.
    """
    flux, wavelength = np.asarray(flux, dtype=float), np.asarray(wavelength_nm, dtype=float)
    _check_spectrum(flux, wavelength)
    known = np.array([np.interp(wavelength, WAVELENGTH_NM, row) for row in spectra.flux])  # (M, L)
    flux, known = (array / array.sum(-1, keepdims=True) for array in (flux, known))
    distance = np.linalg.norm(flux[:, None] - known, axis=-1)  # (N, M)
    return spectra.classes[distance.argmin(1)]
