"""Quasar spectra from the published numbers of a composite: power laws, emission lines, iron, forest, dust.

The composite is that of Vanden Berk et al. (2001, AJ 122, 549): a continuum alpha_nu = -0.44 below 4661
Angstrom, emission lines with the wavelengths and widths of its table 2, and a pseudo-continuum of iron
and Balmer lines, here a chain of broad components. Strengths were fitted once to the median composite
(:func:`fit_composite`); the sum of those that are used is within 2 % of it typically, and 6 to 13 % below it
from 4250 to 5150 Angstrom, where some were set lower. Beyond 4661 Angstrom it falls as alpha_nu =
-1.65, more slowly than the -2.45 that the authors give for their geometric mean. Each quasar varies
about it.

Five things were set by the colours of real quasars against redshift (:func:`observed_track`), and are
therefore no test of it: the light of hosts below redshift 1, the strength of Lyman-alpha, half of the fitted
pseudo-continuum about 4560 Angstrom, a broad blend about 1660 Angstrom, and the preference for absorbed
quasars beyond redshift 2.6.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.table import Table
from scipy.optimize import nnls

from astro_utils.paths import project_root

__all__ = [
    "QUASAR_COLUMNS",
    "draw_quasars",
    "fit_composite",
    "forest_transmission",
    "observed_track",
    "quasar_spectra",
    "quasar_track",
    "read_composite",
]

#: Parameters of a quasar: unit and meaning.
QUASAR_COLUMNS = {
    "slope": ("", "change of the quasar's alpha_nu"),
    "ew_lyman": ("", "strength of Lyman-alpha and its neighbours over that of the composite"),
    "ew_carbon": (
        "",
        "strength of C IV, C III] and the other high-ionisation lines over that of the composite",
    ),
    "ew_magnesium": ("", "strength of Mg II over that of the composite"),
    "ew_balmer": ("", "strength of the Balmer lines over that of the composite"),
    "ew_narrow": ("", "strength of the narrow lines over that of the composite"),
    "ew_iron": ("", "strength of the iron and Balmer pseudo-continuum over that of the composite"),
    "dust": ("mag", "E(B-V) in the quasar's own galaxy, SMC-like"),
    "host": ("", "light of the host galaxy over the quasar's at 5,100 Angstrom"),
    "lyman_limit": ("", "redshift of the first absorber of Lyman-continuum light with a depth above 0.5"),
    "lyman_depth": ("", "optical depth of that absorber at its Lyman limit"),
}
_GROUPS = tuple(name.removeprefix("ew_") for name in QUASAR_COLUMNS if name.startswith("ew_"))

_BREAK, _LYMAN, _LIMIT = 4661.0, 1216.0, 912.0
_BLUE, _RED, _ULTRAVIOLET = (
    -0.44,
    -1.65,
    -1.57,
)  # alpha_nu; below Lyman-alpha: Telfer et al. 2002, ApJ 565, 773
_REST = np.arange(600.0, 12000.0, 1.0)

#: Lyman series from Lyman-alpha on: coefficients of the forest (Inoue et al. 2014, MNRAS 442, 1805, table 2).
_SERIES = np.array(
    [
        1.690e-2,
        4.692e-3,
        2.239e-3,
        1.319e-3,
        8.707e-4,
        6.178e-4,
        4.609e-4,
        3.569e-4,
        2.843e-4,
        2.318e-4,
        1.923e-4,
        1.622e-4,
        1.385e-4,
        1.196e-4,
        1.043e-4,
    ]
)
_SERIES_WAVELENGTH = 911.753 / (1 - 1 / np.arange(2, 2 + len(_SERIES)) ** 2)


def _table(name: str) -> pd.DataFrame:
    return Table.read(project_root() / "data" / "sky" / f"{name}.ecsv", format="ascii.ecsv").to_pandas()


def quasar_lines() -> pd.DataFrame:
    """Emission components: name, rest wavelength and sigma (Angstrom), equivalent width (Angstrom), group."""
    return _table("quasar_lines")


def continuum(rest: np.ndarray) -> np.ndarray:
    """F_lambda of the composite's continuum at rest wavelengths in Angstrom, 1 at 4661 Angstrom."""
    out = np.where(rest < _BREAK, (rest / _BREAK) ** (-2 - _BLUE), (rest / _BREAK) ** (-2 - _RED))
    return np.where(rest < _LYMAN, out * (rest / _LYMAN) ** (_BLUE - _ULTRAVIOLET), out)


def _profiles(rest: np.ndarray, lines: pd.DataFrame) -> np.ndarray:
    """Gaussians of unit area, (L, lines)."""
    centre, sigma = lines["wavelength"].to_numpy(), lines["sigma"].to_numpy()
    return np.exp(-0.5 * ((rest[:, None] - centre) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma)


@lru_cache(maxsize=1)
def _group_profiles() -> np.ndarray:
    """Line flux over continuum on the rest-frame grid, by group: (groups, L)."""
    lines = quasar_lines()
    profiles = _profiles(_REST, lines) * lines["ew"].to_numpy()
    return np.array([profiles[:, (lines["group"] == group).to_numpy()].sum(1) for group in _GROUPS])


def draw_quasars(rng: np.random.Generator, z: np.ndarray) -> pd.DataFrame:
    """Draw the parameters of quasars.

    Slopes scatter by 0.30, strengths by factors of about 1.4, and one quasar in ten has a reddening tail
    (Richards et al. 2003, AJ 126, 1131; Hopkins et al. 2004, AJ 128, 1112).

    Parameters
    ----------
    rng : numpy.random.Generator
    z : numpy.ndarray
        (N,) redshifts; their number counts here.

    Returns
    -------
    pandas.DataFrame
        The columns of :data:`QUASAR_COLUMNS`.

    Raises
    ------
    ValueError
        When a redshift is negative or not finite.
    """
    z = _redshifts(z)
    n = len(z)
    # The median composite is a little redder than the median quasar: reddened ones and hosts are in it.
    columns = {"slope": 0.06 + 0.30 * rng.standard_normal(n)}
    shared = 0.2 * rng.standard_normal(n)  # strong-lined quasars are strong in all lines
    for group in _GROUPS:
        columns[f"ew_{group}"] = np.exp(shared + 0.28 * rng.standard_normal(n))
    columns["dust"] = rng.exponential(np.where(rng.random(n) < 0.1, 0.12, 0.012))
    host = np.interp(z, [0.1, 0.3, 0.5, 0.7, 0.9, 1.2], [1.2, 1.0, 0.95, 0.25, 0.08, 0.0])
    columns["host"] = host * np.exp(0.9 * rng.standard_normal(n))
    # Absorbers with a depth above 1 per unit redshift: 2.8 ((1 + z) / 4.5)^1.94 (Songaila & Cowie 2010, ApJ
    # 721,
    # 1448, eq. 8); their number above a depth falls as its square root. The path to the first with a depth
    # above
    # 0.5 is exponential in the integral.
    # Beyond redshift 2.6 the survey found quasars by their faint u: absorbed ones are overrepresented
    # (Worseck
    # & Prochaska 2011, ApJ 728, 23), here by a factor in the rate.
    favoured = np.interp(z, [2.4, 2.9, 3.5, 4.0], [1.0, 5.0, 25.0, 6.0])
    path = rng.exponential(1.0, n) * 2.94 / (2.8 * np.sqrt(2) * 4.5 * favoured)
    inner = np.maximum(((1 + z) / 4.5) ** 2.94 - path, 0.0)
    columns["lyman_limit"] = np.maximum(4.5 * inner ** (1 / 2.94) - 1, 0.0)
    columns["lyman_depth"] = np.minimum(0.5 / rng.uniform(0, 1, n) ** 2, 100.0)
    return pd.DataFrame(columns)


def _redshifts(z: np.ndarray) -> np.ndarray:
    """Redshifts as floats, if all are finite and not negative."""
    z = np.asarray(z, dtype=float)
    if not (good := np.isfinite(z) & (z >= 0)).all():
        raise ValueError(f"a redshift is {z[~good][0]}; expected a finite number, 0 or more")
    return z


def forest_transmission(wavelength: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Mean transmission of the Lyman-alpha forest: blanketing by 15 Lyman lines (Inoue et al. 2014, eq. 21).

    Parameters
    ----------
    wavelength : numpy.ndarray
        (L,) observed, Angstrom.
    z : numpy.ndarray
        (N,) redshifts of the quasars.

    Returns
    -------
    numpy.ndarray
        (N, L).
    """
    own = (1 + np.asarray(z))[:, None]
    depth = np.zeros((len(z), len(wavelength)))
    for line, strength in zip(_SERIES_WAVELENGTH, _SERIES, strict=True):
        absorber = wavelength / line  # 1 + z of the hydrogen that absorbs here
        # The three regimes join at 1 + z = 2.2 and 5.7.
        near = strength * absorber**1.2
        middle = strength * 2.2**-2.5 * absorber**3.7
        far = strength * 2.2**-2.5 * 5.7**-1.8 * absorber**5.5
        tau = np.select([absorber < 2.2, absorber < 5.7], [near, middle], far)
        depth += np.where((absorber < own) & (absorber > 1), tau, 0.0)
    return np.exp(-depth)


def quasar_spectra(parameters: pd.DataFrame, wavelength: np.ndarray) -> np.ndarray:
    """Observed spectra above the Galactic dust, in arbitrary units.

    Parameters
    ----------
    parameters : pandas.DataFrame
        N rows with ``z`` and the columns of :data:`QUASAR_COLUMNS`.
    wavelength : numpy.ndarray
        (L,) observed, Angstrom.

    Returns
    -------
    numpy.ndarray
        (N, L) F_lambda.

    Raises
    ------
    ValueError
        When a column is missing or holds a number that is not finite, a redshift is negative, or a wavelength
        is not above 0.
    """
    if missing := [name for name in ("z", *QUASAR_COLUMNS) if name not in parameters]:
        raise ValueError(f"the table of quasars lacks {', '.join(missing)}")
    z = _redshifts(parameters["z"])
    finite = np.isfinite(parameters[list(QUASAR_COLUMNS)].to_numpy(float))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"{list(QUASAR_COLUMNS)[column]} of quasar {row} is not finite")
    if not (wavelength > 0).all():
        raise ValueError(f"a wavelength is {wavelength[~(wavelength > 0)][0]}; expected more than 0 Angstrom")
    rest = wavelength / (1 + z)[:, None]
    position = np.clip(rest - _REST[0], 0, len(_REST) - 1.001)  # the grid has steps of one Angstrom
    lower = position.astype(int)
    part = position - lower
    emission = np.ones_like(rest)
    for group, profile in zip(_GROUPS, _group_profiles(), strict=True):
        strength = parameters[f"ew_{group}"].to_numpy(float)[:, None]
        emission += strength * (profile[lower] * (1 - part) + profile[lower + 1] * part)
    slope, dust = (parameters[name].to_numpy(float)[:, None] for name in ("slope", "dust"))
    tilt = (rest / _BREAK) ** -slope  # a redder alpha_nu is more negative: F_lambda goes as -2 - alpha_nu
    # SMC-like: A(lambda) = 1.39 E(B-V) (lambda / micron)^-1.2 (Hopkins et al. 2004, section 3)
    reddening = 10 ** (-0.4 * 1.39 * dust * (rest / 1e4) ** -1.2)
    nuclear = continuum(rest) * tilt * emission * reddening
    host = parameters["host"].to_numpy(float)[:, None] * continuum(np.array([5100.0])) * _host(rest)
    edge = _LIMIT * (1 + parameters["lyman_limit"].to_numpy(float))[:, None]
    depth = parameters["lyman_depth"].to_numpy(float)[:, None]
    thick = np.where(wavelength < edge, np.exp(-depth * (wavelength / edge) ** 3), 1.0)
    return (nuclear + host) * forest_transmission(wavelength, z) * thick


def _host(rest: np.ndarray) -> np.ndarray:
    """Shape of an early-type host: flat above the 4000 Angstrom break, falling steeply below it."""
    above = np.clip((rest - 3800.0) / 250.0, 0.0, 1.0)
    return above + (1 - above) * 0.55 * (rest / 4000.0) ** 3


# ----------------------------------------------------------------------- where the committed tables come from

#: Lines above the numbers in the table of the composite.
_HEADER = 26


def read_composite(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the published median composite from 1228 Angstrom: rest wavelength, flux, error.

    Raises
    ------
    ValueError
        With the file's name, when it is no such table.
    """
    lines = Path(path).read_text(encoding="utf-8").splitlines()[_HEADER:]
    try:
        wavelength, flux, error = np.array([line.split() for line in lines], dtype=float).T
    except ValueError as problem:
        raise ValueError(
            f"{path}: no table of wavelength, flux and error after {_HEADER} lines of header ({problem})"
        ) from problem
    used = (wavelength > 1228) & (wavelength < 8400) & (error > 0)
    return wavelength[used], flux[used], error[used]


def fit_composite(path: str | Path, lines: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Fit the strengths of emission components to the composite.

    Parameters
    ----------
    path : path
        The composite's published table.
    lines : pandas.DataFrame
        ``wavelength`` and ``sigma`` of the components.

    Returns
    -------
    strength : numpy.ndarray
        (lines,) equivalent widths, Angstrom.
    residual : numpy.ndarray
        Relative residual of the composite at each of its wavelengths.
    """
    wavelength, flux, error = read_composite(path)
    base = continuum(wavelength)
    windows = ((1350, 1370), (1440, 1475), (4190, 4230))  # free of lines, as in Vanden Berk et al.
    free = np.any([(wavelength > low) & (wavelength < high) for low, high in windows], axis=0)
    base = base * np.median((flux / base)[free])
    weight = 1 / np.maximum(error / base, 0.01)
    profiles = _profiles(wavelength, lines)
    strength = nnls(profiles * weight[:, None], (flux / base - 1) * weight)[0]
    model = base * (1 + profiles @ strength)
    return strength, flux / model - 1


def observed_track(path: str | Path) -> pd.DataFrame:
    """Colours of real quasars with i < 20.5 in bins of redshift, from the SDSS DR17 table of the registry.

    Returns
    -------
    pandas.DataFrame
        Per bin of 0.2: ``z`` (centre), ``number``, and the median, 16 and 84 percentile of each colour, not
        corrected for the Galactic dust, of which the table says nothing.

    Raises
    ------
    ValueError
        With the file's name, when a column is missing.
    """
    table = pd.read_csv(path)
    if missing := [name for name in (*"ugriz", "class", "redshift") if name not in table]:
        raise ValueError(f"{path}: the table of real quasars lacks {', '.join(missing)}")
    table = table[(table["class"] == "QSO") & (table["i"] < 20.5) & (table["u"] > 0)]
    rows = []
    for centre in np.arange(0.3, 3.51, 0.2):
        here = table[(table["redshift"] - centre).abs() < 0.1]
        row = {"z": round(centre, 1), "number": len(here)}
        for blue, red in ("ug", "gr", "ri", "iz"):
            values = np.percentile(here[blue] - here[red], [50, 16, 84])
            row |= dict(zip((f"{blue}_{red}", f"{blue}_{red}_16", f"{blue}_{red}_84"), values, strict=True))
        rows.append(row)
    return pd.DataFrame(rows).round(4)


def quasar_track() -> pd.DataFrame:
    """Read the committed table of :func:`observed_track`."""
    return _table("quasar_track")
