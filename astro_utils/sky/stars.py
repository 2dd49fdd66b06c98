"""Stellar spectra of the simulated sky: observed stars, continued to 2900-11200 Angstrom.

MILES and STELIB hold stars of all types, MaStarHC cool dwarfs that they lack
(:mod:`astro_utils.sky.stellar_libraries`). None covers SDSS u and z whole, so a spectrum is continued
(:mod:`astro_utils.sky.stellar_continuation`)

1. to 10,350 Angstrom by the blend of MaStarHC spectra that fits it best;
2. to 3200 Angstrom by the blend of STELIB spectra that fits its bluest 1100 Angstrom best, which preserves
   the Balmer jump;
3. beyond by black bodies, which hold 2 % of the response in u and 1 % in z.

No spectrum is bent onto the stellar locus. STELIB alone is corrected: its flux scale differs from that of
MILES by up to 13 % (near 3800 Angstrom), alike for stars of all types, so each of its spectra is divided by
the median ratio over the stars in common. What is left out, and why, is in
:func:`astro_utils.sky.stellar_assembly.assemble_stars`.

For g - i from 0.3 to 3, the dwarfs are within 0.04 mag of the median locus of SDSS stars in g - r and r - i
(:mod:`astro_utils.sky.stellar_locus`). Where [Fe/H] is known to differ, for g - i below 1.2, it explains the
rest: dwarfs below -0.5, as are many of SDSS, are within 0.015 mag, and those like the Sun, of which libraries
of bright stars have more, redder in g - r by 0.02 to 0.04 mag.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from astro_utils.sky import (
    bandpasses,
    stellar_assembly,
    stellar_continuation,
    stellar_libraries,
    stellar_locus,
    surveys,
)
from astro_utils.sky.cache import cached
from astro_utils.sky.stellar_assembly import assemble_stars
from astro_utils.sky.stellar_libraries import GRID

__all__ = [
    "COLOURS",
    "KINDS",
    "StellarLibrary",
    "build_stellar_library",
    "locus_weights",
    "nearest_in_gi",
    "stellar_library",
]

#: Columns of synthetic SDSS colours, AB.
COLOURS = ("u_g", "g_r", "r_i", "i_z", "g_i")
#: What a star of the library can be. Dwarfs include subgiants.
KINDS = ("dwarf", "giant", "white dwarf", "hot subdwarf", "unknown")

_NAMES = ("name", "library", "spectral_type", "letter", "luminosity", "kind")
_NUMBERS = ("subtype", "teff", "logg", "feh", *COLOURS, "first", "last", "blue_misfit", "red_misfit")


@dataclass(frozen=True, eq=False)
class StellarLibrary:
    """Stellar spectra from 2900 to 11200 Angstrom.

    Attributes
    ----------
    wavelength : numpy.ndarray
        (L,) vacuum Angstrom.
    flux : numpy.ndarray
        (N, L) float32 F_lambda, 1e-17 erg / (s cm2 Angstrom), of one nanomaggy in SDSS r.
    table : pandas.DataFrame
        (N) rows. Numbers that are not known are NaN, names that are not known empty.

        - ``name``; ``library``: MILES, STELIB, MaStarHC, or ``between`` for a mean of two others.
        - ``spectral_type`` as the library gives it; its ``letter`` (O B A F G K M, WD for a white dwarf),
          ``subtype`` and ``luminosity`` (I to VI, sd); ``kind``, one of :data:`KINDS`.
        - ``teff`` (K), ``logg``, ``feh``. MaStarHC clusters have those, and the letter, of the MILES star
          whose spectrum is most like theirs.
        - Synthetic AB colours ``u_g``, ``g_r``, ``r_i``, ``i_z``, ``g_i``.
        - ``first`` and ``last``: observed range, Angstrom. ``blue_misfit`` and ``red_misfit``: relative rms
          by which the blends that continue the star differ from what was observed of it.
    """

    wavelength: np.ndarray
    flux: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.table)


def build_stellar_library() -> StellarLibrary:
    """Make the library from the spectra that come with the package ``sdss-mangadap``; about ten seconds."""
    table, flux = assemble_stars()
    return StellarLibrary(GRID, flux.astype(np.float32), table[[*_NAMES, *_NUMBERS]])


def stellar_library() -> StellarLibrary:
    """Return the library: built the first time, then read from ``data/cache/sky``."""

    def make() -> dict[str, np.ndarray]:
        library = build_stellar_library()
        names = {name: library.table[name].to_numpy(dtype=str) for name in _NAMES}
        numbers = {name: library.table[name].to_numpy(dtype=float) for name in _NUMBERS}
        return names | numbers | {"wavelength": library.wavelength, "flux": library.flux}

    modules = stellar_assembly, stellar_libraries, stellar_continuation, stellar_locus, bandpasses, surveys
    sources = [__file__, *modules, stellar_locus.locus_file("covey2007_locus")]
    content = cached("stellar_library", sources, make, packages=["sdss-mangadap", "speclite"])
    table = pd.DataFrame({name: content[name] for name in (*_NAMES, *_NUMBERS)})
    return StellarLibrary(content["wavelength"], content["flux"], table)


def _rows_of(library: StellarLibrary, kind: str) -> np.ndarray:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {KINDS}")
    return np.flatnonzero(library.table["kind"] == kind)


def locus_weights(library: StellarLibrary, kind: str = "dwarf", width: float = 0.1) -> np.ndarray:
    """Weights under which the stars of one kind are spread evenly over g - i.

    Parameters
    ----------
    library : StellarLibrary
    kind : str
        One of :data:`KINDS`; all others get no weight.
    width : float
        Bin in g - i; each bin with any star gets the same weight, shared equally by its stars.

    Returns
    -------
    numpy.ndarray
        (N,), sum 1. Multiply by a distribution in g - i, at any magnitude, to draw a population.

    Raises
    ------
    ValueError
        When there is no such kind, or no star of it.
    """
    rows = _rows_of(library, kind)
    if not len(rows):
        raise ValueError(f"the library holds no star of kind {kind!r}")
    bins = np.floor(library.table["g_i"].to_numpy()[rows] / width).astype(int)
    _, inverse, counts = np.unique(bins, return_inverse=True, return_counts=True)
    weights = np.zeros(len(library))
    weights[rows] = 1 / (counts[inverse] * len(counts))
    return weights


def nearest_in_gi(
    library: StellarLibrary,
    g_i: np.ndarray,
    rng: np.random.Generator,
    feh: np.ndarray | None = None,
    n_nearest: int = 5,
    kind: str = "dwarf",
) -> np.ndarray:
    """Pick, for each colour, one of the stars nearest to it in g - i, or in g - i and metallicity.

    Parameters
    ----------
    library : StellarLibrary
    g_i : numpy.ndarray
        (M,) AB colours wanted. Beyond the bluest or the reddest star, the last ones are picked.
    rng : numpy.random.Generator
    feh : numpy.ndarray, optional
        (M,) metallicities [Fe/H] wanted; 0.3 dex count as much as 0.05 mag. The dwarfs of the library are
        near the Sun; those of the halo have u - g smaller by 0.1 to 0.2 mag at the same g - i.
    n_nearest : int
        Number of stars to pick from, each as likely.
    kind : str
        One of :data:`KINDS`. Faint stars at high latitude are dwarfs.

    Returns
    -------
    numpy.ndarray
        (M,) rows of the library.

    Raises
    ------
    ValueError
        When a colour or a metallicity is not finite, there is no such kind, or it has fewer than `n_nearest`
        stars (with a known metallicity, where one is wanted).
    """
    scales = {"g_i": 0.05} if feh is None else {"g_i": 0.05, "feh": 0.3}
    wanted = np.column_stack([np.asarray(g_i, dtype=float)] + ([] if feh is None else [feh]))
    if not np.isfinite(wanted).all():
        bad = (~np.isfinite(wanted)).any(1).sum()
        raise ValueError(f"{bad} of {len(wanted)} stars wanted have a g - i or [Fe/H] that is not finite")
    rows = _rows_of(library, kind)
    points = library.table.iloc[rows][list(scales)].to_numpy()
    known = np.isfinite(points).all(1)
    rows, points = rows[known], points[known]
    if not 1 <= n_nearest <= len(rows):
        raise ValueError(f"n_nearest is {n_nearest}; expected 1 to {len(rows)}, the stars of kind {kind!r}")
    unit = np.array(list(scales.values()))
    near = cKDTree(points / unit).query(wanted / unit, k=np.arange(1, n_nearest + 1))[1]
    return rows[near[np.arange(len(wanted)), rng.integers(n_nearest, size=len(wanted))]]
