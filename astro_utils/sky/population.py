"""Who lives in the simulated sky: classes, magnitudes, redshifts, spectra and sizes, before any survey looks.

A population is a mixture of *programmes*, the ways in which objects come to have a spectrum in SDSS: a bright
galaxy sample, luminous red galaxies, faint blue galaxies, stars and quasars. Bright and faint objects differ
because the programmes that reach them differ, as in the real survey, and not because a shift was put in.

The table of a population has one row per object, with columns that do not depend on a survey (:data:`TRUTH`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from astro_utils.sky.galaxies import COSMOLOGY, distance_modulus
from astro_utils.sky.quasars import QUASAR_COLUMNS, draw_quasars
from astro_utils.sky.seds import Seds
from astro_utils.sky.stars import nearest_in_gi

__all__ = [
    "BRIGHT_AND_RED",
    "CLASSES",
    "COMPACT_PARENT",
    "MAIN_GALAXIES",
    "POPULATIONS",
    "SPECTROSCOPIC",
    "TRUTH",
    "Population",
    "draw_population",
]

CLASSES = ("GALAXY", "QSO", "STAR")

#: Columns of a population.
TRUTH = (
    *("class", "programme", "z", "r_mag", "abs_mag", "rest_gr", "radius", "bulge_fraction"),
    *("bulge_radius", "disc_radius", "bulge_q", "disc_q", "angle", "c0", "c1", "c2", "c3", "c4", "parent"),
    *("star", "tilt", "curve", *QUASAR_COLUMNS),
)


@dataclass(frozen=True)
class Population:
    """A mixture of programmes.

    Attributes
    ----------
    name : str
    shares : mapping
        Programme to its share of the objects; shares sum to one.
    r_limits : tuple of float
        AB magnitude in r above the atmosphere and above Galactic dust; objects outside are drawn anew.
    max_size : float
        Largest half-light radius in arcsec; galaxies above it are drawn anew. A sample of compact galaxies
        needs no others.
    """

    name: str
    shares: Mapping[str, float]
    r_limits: tuple[float, float]
    max_size: float = np.inf

    def __post_init__(self):
        unknown = set(self.shares) - set(_PROGRAMMES)
        if unknown:
            raise ValueError(f"no programme {', '.join(sorted(unknown))}; expected {', '.join(_PROGRAMMES)}")
        if not np.isclose(sum(self.shares.values()), 1.0):
            raise ValueError(f"population {self.name}: shares sum to {sum(self.shares.values()):g}, not to 1")


def draw_population(population: Population, n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Draw `n` objects.

    Parameters
    ----------
    population : Population
    n : int
    rng : numpy.random.Generator
    seds : Seds
        The spectra to draw from.

    Returns
    -------
    pandas.DataFrame
        ``class``, ``programme``, ``z``, ``r_mag`` (AB), and the parameters of spectrum and shape; NaN (or -1)
        where a class has no such parameter. Classes are mixed at random.

    Raises
    ------
    ValueError
        When a programme makes nothing within the limits.
    """
    names = list(population.shares)
    shares = np.array(list(population.shares.values()))
    which = rng.choice(len(names), size=n, p=shares / shares.sum())
    parts = []
    for i, name in enumerate(names):
        wanted, found, in_vain = int((which == i).sum()), [], 0
        while wanted > 0:
            drawn = _PROGRAMMES[name](2 * wanted + 20 * 2**in_vain, rng, seds)
            keep = drawn["r_mag"].between(*population.r_limits)
            if "radius" in drawn:
                keep &= drawn["radius"] <= population.max_size
            found.append(drawn[keep].iloc[:wanted].assign(programme=name))
            wanted -= len(found[-1])
            in_vain = 0 if len(found[-1]) else in_vain + 1
            if in_vain == 12:  # of the last 40,000 not one
                raise ValueError(
                    f"population {population.name}: programme {name} makes no object with r_mag between "
                    f"{population.r_limits[0]:g} and {population.r_limits[1]:g} and a radius of at most "
                    f"{population.max_size:g} arcsec"
                )
        parts += found
    # A block without quasars has their columns too: every block of a sample has the same.
    table = pd.concat(parts, ignore_index=True).reindex(columns=TRUTH)
    for name in ("star", "parent"):
        table[name] = table[name].fillna(-1).astype(int)
    return table.iloc[rng.permutation(n)].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- galaxies


def _galaxies(z, mixtures, r_mag, rng, seds: Seds) -> pd.DataFrame:
    """Galaxies of given mixture shapes, scaled to r magnitudes; sizes follow from luminosity and colour."""
    table = seds.galaxy_bands("sdss2010-g", "sdss2010-r")
    unscaled = np.einsum("nt,nt->n", mixtures, table(z)[..., 1])
    coefficients = mixtures * (10 ** (0.4 * (22.5 - r_mag)) / unscaled)[:, None]
    rest = np.einsum("nt,tb->nb", coefficients, table(0.0))
    rest_gr = -2.5 * np.log10(rest[:, 0] / rest[:, 1])
    abs_mag = 22.5 - 2.5 * np.log10(rest[:, 1]) - distance_modulus(z)
    # Red galaxies are mostly bulge: the mean share of the bulge rises through the green valley.
    early = 1 / (1 + np.exp(-(rest_gr - 0.66) / 0.04))
    mean = 0.12 + 0.66 * early
    bulge = rng.beta(4 * mean, 4 * (1 - mean))
    size = sizes(abs_mag, z, rng.random(len(z)) < early, rng)
    # One galaxy in eight has most of its light in a dense core or an active nucleus.
    size = size * np.where(rng.random(len(z)) < 1 / 8, rng.uniform(0.2, 0.7, len(z)), 1.0)
    cos_i = rng.random(len(z))
    columns = {
        "class": "GALAXY",
        "z": z,
        "r_mag": r_mag,
        "abs_mag": abs_mag,
        "rest_gr": rest_gr,
        "radius": size,
        "bulge_fraction": bulge,
        # Bulges are smaller than the discs around them; a pure bulge has the size of the galaxy.
        "bulge_radius": size * (0.6 + 0.4 * bulge),
        "disc_radius": size * (1 + 0.2 * bulge),
        "bulge_q": np.clip(rng.normal(0.75, 0.15, len(z)), 0.3, 1.0),
        "disc_q": np.sqrt(
            cos_i**2 + 0.2**2 * (1 - cos_i**2)
        ),  # a disc of thickness 0.2 at random inclination
        "angle": rng.uniform(0, np.pi, len(z)),
        **{f"c{t}": coefficients[:, t] for t in range(coefficients.shape[1])},
    }
    return pd.DataFrame(columns)


def sizes(abs_mag: np.ndarray, z: np.ndarray, early: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half-light radii from luminosity, type and redshift.

    Shen et al. (2003, MNRAS 343, 978, eqs. 14, 15 and 17 with table 1): log-normal in size, with the local
    relations for early and late types; with redshift sizes fall as (1 + z)^-1.48 and (1 + z)^-0.75 (van der
    Wel et al. 2014, ApJ 788, 28).

    Parameters
    ----------
    abs_mag : numpy.ndarray
        (N,) rest-frame r.
    z : numpy.ndarray
        (N,) redshifts.
    early : numpy.ndarray
        (N,) bool.
    rng : numpy.random.Generator

    Returns
    -------
    numpy.ndarray
        (N,) arcsec.
    """
    alpha, beta, gamma, m0, sigma_bright, sigma_faint = 0.26, 0.51, -1.71, -20.91, 0.27, 0.45
    bright = np.log10(1 + 10 ** (-0.4 * (abs_mag - m0)))
    late_kpc = -0.4 * alpha * abs_mag + (beta - alpha) * bright + gamma
    early_kpc = -0.4 * 0.60 * abs_mag - 4.63
    scatter = sigma_bright + (sigma_faint - sigma_bright) / (1 + 10 ** (-0.8 * (abs_mag - m0)))
    log_kpc = np.where(early, early_kpc - 1.1 * np.log10(1 + z), late_kpc - 0.75 * np.log10(1 + z))
    kpc = 10**log_kpc * np.exp(scatter * rng.standard_normal(len(z)))
    return kpc / (COSMOLOGY.kpc_proper_per_arcmin(z).value / 60)


def _mixtures(seds: Seds, rows: np.ndarray) -> np.ndarray:
    """Template mixtures of real galaxies, each normalised to one nanomaggy in rest-frame r."""
    mixtures = seds.real[[f"c{t}" for t in range(5)]].to_numpy()[rows]
    return mixtures / mixtures.sum(1, keepdims=True)


def _varied(mixtures: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mixtures with every coefficient changed by about 10 %, so that no galaxy is drawn twice."""
    mixtures = mixtures * np.exp(0.1 * rng.standard_normal(mixtures.shape))
    return mixtures / mixtures.sum(1, keepdims=True)


def _main(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Draw bright galaxies: redshift, mixture and luminosity close to those of a real one."""
    rows = rng.integers(len(seds.real), size=n)
    real = seds.real.iloc[rows]
    z = np.clip(real["z"].to_numpy() + 0.005 * rng.standard_normal(n), 0.008, 0.6)
    abs_mag = real["abs_mag"].to_numpy() + 0.1 * rng.standard_normal(n)
    mixtures = _varied(_mixtures(seds, rows), rng)
    return _galaxies(z, mixtures, _apparent(abs_mag, z, mixtures, seds), rng, seds).assign(parent=rows)


def _apparent(abs_mag: np.ndarray, z: np.ndarray, mixtures: np.ndarray, seds: Seds) -> np.ndarray:
    """Observed r magnitude of mixtures (one nanomaggy in rest-frame r) of given luminosity and redshift."""
    observed = np.einsum("nt,nt->n", mixtures, seds.galaxy_bands("sdss2010-g", "sdss2010-r")(z)[..., 1])
    return abs_mag + distance_modulus(z) - 2.5 * np.log10(observed)


def _intermediate(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Galaxies of all types between the bright sample and the faint ones."""
    rows = rng.integers(len(seds.real), size=n)
    z = np.clip(rng.gamma(4.0, 0.06, n), 0.02, 0.6)
    r_mag = 20.0 - rng.gamma(2.0, 0.55, n)
    mixtures = _varied(_mixtures(seds, rows), rng)
    return _galaxies(z, mixtures, r_mag, rng, seds).assign(parent=rows)


def _luminous_red(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Luminous red galaxies to redshift 0.95, brighter in the past by 1.2 mag per unit redshift."""
    red = np.flatnonzero((seds.real["rest_gr"] > 0.74) & (seds.real["abs_mag"] < -21.5))
    rows = rng.choice(red, n)
    z = np.clip(rng.normal(0.53, 0.16, n), 0.15, 0.95)
    abs_mag = rng.normal(-22.7, 0.45, n) - 1.2 * z
    mixtures = _varied(_mixtures(seds, rows), rng)
    return _galaxies(z, mixtures, _apparent(abs_mag, z, mixtures, seds), rng, seds).assign(parent=rows)


def _faint_blue(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Star-forming galaxies to redshift 1.1: emission-line targets, and quasar candidates that failed."""
    blue = np.flatnonzero(seds.real["rest_gr"] < 0.70)
    rows = rng.choice(blue, n)
    r_mag = 22.9 - rng.gamma(2.2, 0.65, n)
    high = rng.random(n) < np.interp(r_mag, [19.5, 22.0], [0.0, 0.75])
    z = np.where(high, rng.normal(0.78, 0.12, n), rng.gamma(4.0, 0.08, n))
    z = np.clip(z, 0.03, 1.1)
    mixtures = _varied(_mixtures(seds, rows), rng)
    young = int(np.argmin(seds.templates.redness))
    # The targets were chosen for their blue light: add young light to today's mixtures.
    mixtures[:, young] += np.where(high, rng.uniform(0.0, 0.25, n) * z, rng.uniform(0.0, 0.5, n))
    return _galaxies(z, mixtures, r_mag, rng, seds).assign(parent=rows)


# --------------------------------------------------------------------------------------- stars and quasars


def _stars(
    g_i: np.ndarray, r_mag: np.ndarray, rng: np.random.Generator, seds: Seds, feh: np.ndarray | None = None
) -> pd.DataFrame:
    row = nearest_in_gi(seds.stars, g_i, rng, feh)
    return pd.DataFrame(
        {
            "class": "STAR",
            "z": 0.0,
            "r_mag": r_mag,
            "star": row,
            "tilt": rng.standard_normal(len(row)),
            "curve": rng.standard_normal(len(row)),
        }
    )


def _bright_stars(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Disc and halo stars of all colours."""
    g_i = np.where(rng.random(n) < 0.65, rng.normal(0.65, 0.35, n), rng.uniform(0.8, 3.0, n))
    # Stars of the disc are bright and metal-rich, those of the halo faint and metal-poor.
    r_mag = 20.5 - rng.gamma(2.0, 1.3, n)
    metals = rng.normal(np.interp(r_mag, [16.0, 19.0], [-0.3, -0.7]), 0.35, n)
    return _stars(g_i, r_mag, rng, seds, metals)


def _blue_stars(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Halo turn-off stars, K dwarfs and blue horizontal-branch stars: quasar candidates."""
    kind = rng.random(n)
    g_i = np.where(kind < 0.6, rng.normal(0.45, 0.22, n), rng.uniform(0.6, 2.2, n))
    g_i = np.where(kind > 0.82, rng.normal(-0.45, 0.3, n), g_i)
    metals = rng.normal(-0.6, 0.4, n)  # those of the halo and the thick disc
    return _stars(g_i, 22.0 - rng.gamma(2.2, 0.65, n), rng, seds, metals)


def _red_stars(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """M dwarfs taken for luminous red galaxies: limited in i, so that the faintest in r are the reddest."""
    g_i = rng.normal(2.75, 0.5, n)
    i_mag = 21.2 - rng.gamma(1.8, 0.4, n)
    r_i = np.interp(g_i, [1.5, 2.0, 2.5, 3.0, 3.5], [0.45, 0.75, 1.12, 1.55, 1.95])
    return _stars(g_i, i_mag + r_i, rng, seds)


def _quasars(n: int, rng: np.random.Generator, seds: Seds) -> pd.DataFrame:
    """Quasars: a bright ultraviolet-excess sample to redshift 2.2, and a faint one about 2.5."""
    bright = rng.random(n) < 0.5
    z = np.where(bright, 2.4 * rng.beta(2.2, 2.0, n) + 0.1, rng.normal(2.45, 0.45, n))
    r_mag = np.where(bright, 20.6 - rng.gamma(2.0, 0.55, n), 22.2 - rng.gamma(2.0, 0.5, n))
    z = np.maximum(z + np.where(rng.random(n) < 0.06, rng.exponential(0.8, n), 0.0), 0.08)
    z = np.where(z > 5.0, 2.5, z)  # a handful; the composite's numbers do not reach further
    return draw_quasars(rng, z).assign(**{"class": "QSO", "z": z, "r_mag": r_mag})


_PROGRAMMES = {
    "main": _main,
    "intermediate": _intermediate,
    "luminous_red": _luminous_red,
    "faint_blue": _faint_blue,
    "bright_stars": _bright_stars,
    "blue_stars": _blue_stars,
    "red_stars": _red_stars,
    "quasars": _quasars,
}

#: The bright galaxies alone, to compare with the 10,000 real ones.
MAIN_GALAXIES = Population("main_galaxies", {"main": 1.0}, r_limits=(13.5, 21.0))

#: A third of each class, with small galaxies only.
SPECTROSCOPIC = Population(
    "spectroscopic",
    {
        "intermediate": 0.09,
        "luminous_red": 0.13,
        "faint_blue": 0.1133333,
        "bright_stars": 0.19,
        "blue_stars": 0.085,
        "red_stars": 0.0583333,
        "quasars": 0.3333334,
    },
    r_limits=(15.0, 23.0),
    max_size=0.8,
)

#: Shares of the classes of SPECTROSCOPIC that are compact where SDSS measures them, of 24,576 objects; the
#: programmes of each class.
_COMPACT = {"GALAXY": 0.271, "QSO": 0.868, "STAR": 0.813}
_MEMBERS = {
    "GALAXY": ("intermediate", "luminous_red", "faint_blue"),
    "QSO": ("quasars",),
    "STAR": ("bright_stars", "blue_stars", "red_stars"),
}


def _compact_parent() -> Population:
    weights = {
        name: SPECTROSCOPIC.shares[name] / _COMPACT[kind]
        for kind, members in _MEMBERS.items()
        for name in members
    }
    total = sum(weights.values())
    shares = {name: weight / total for name, weight in weights.items()}
    return Population("compact_parent", shares, SPECTROSCOPIC.r_limits, SPECTROSCOPIC.max_size)


#: As many of each class after the cut at compact objects: within a class, the objects of SPECTROSCOPIC.
COMPACT_PARENT = _compact_parent()

#: What a spectroscopic survey takes of the Legacy Surveys: bright galaxies to r of about 20, and luminous red
#: ones beyond. The bulk lies below redshift 0.6, as in DESI's early release (DESI Collaboration 2024, AJ 168,
#: 58).
BRIGHT_AND_RED = Population(
    "bright_and_red",
    {"main": 0.2, "intermediate": 0.5, "luminous_red": 0.3},
    r_limits=(14.5, 21.5),
    max_size=4.0,
)

POPULATIONS = {
    population.name: population
    for population in (MAIN_GALAXIES, SPECTROSCOPIC, COMPACT_PARENT, BRIGHT_AND_RED)
}
