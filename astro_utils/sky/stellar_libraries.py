"""Observed stellar spectra that come with the package ``sdss-mangadap``, on one vacuum grid.

- STELIB (Le Borgne et al. 2003, A&A 402, 433), version 3.2: 255 stars, 3200 to 9860 Angstrom at most, air.
- MILES (Sanchez-Blazquez et al. 2006, MNRAS 371, 703; parameters of Cenarro et al. 2007, MNRAS 374, 664),
  version 9.1: 984 stars, 3540 to 7410 Angstrom, air.
- MaStarHC: means of clusters of alike spectra of the MaNGA Stellar Library (Yan et al. 2019, ApJ 883, 175),
  in three versions, 3622 to 10350 Angstrom, vacuum.

All three are in the rest frame and corrected for interstellar extinction by their authors. For STELIB the
header says so (``interstellar extinction applied. value: Av=ISEXTINC``), and the spectra agree: synthetic B-V
minus the B-V in the header falls with ISEXTINC. Where a pixel is not positive, it is bad. STELIB still has
the oxygen and water bands of our atmosphere: the strong ones are taken as not observed.
"""

from __future__ import annotations

import re
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from astropy.io import fits
from astropy.io.fits.verify import VerifyWarning

__all__ = ["GRID", "air_to_vacuum", "parse_spectral_type", "read_mastar", "read_miles", "read_stelib"]

#: Wavelengths of every stellar spectrum, vacuum Angstrom.
GRID = np.arange(2900.0, 11200.0, 1.0)

# Oxygen B and A band and the water band, vacuum Angstrom: there, STELIB is 5 to 60 % below stars alike.
_TELLURIC = ((6855.0, 6945.0), (7580.0, 7710.0), (9290.0, np.inf))

_COLUMNS = ["name", "library", "spectral_type", "teff", "logg", "feh"]
# Letter and subtype; some of the tables spell O with a zero. "sd", also with a colon, marks a subdwarf.
_TYPE = re.compile(r"(?:sd:?)?(0(?=[789])|[OBAFGKM])(\d(?:\.\d+)?)?")
_LUMINOSITY = re.compile(r"VI|IV|V|III|II|I")


def air_to_vacuum(wavelength: np.ndarray) -> np.ndarray:
    """Convert wavelengths in standard air to vacuum, Angstrom (Ciddor 1996, Appl. Opt. 35, 1566, eq. 1)."""
    air = np.asarray(wavelength, dtype=float)
    vacuum = air
    for _ in range(3):  # the formula wants the vacuum wavelength; each round gains three digits
        wavenumber2 = (1e4 / vacuum) ** 2  # per square micrometre
        vacuum = air * (1 + 0.05792105 / (238.0185 - wavenumber2) + 0.00167917 / (57.362 - wavenumber2))
    return vacuum


def parse_spectral_type(text: str) -> tuple[str, float, str]:
    """Take a spectral type apart.

    Parameters
    ----------
    text : str
        Such as ``G8III``, ``F6V-VI``, ``sdF5``, ``DA:``, ``WN`` or nothing.

    Returns
    -------
    letter : str
        One of O B A F G K M; ``WD`` for a white dwarf, ``WR`` for a Wolf-Rayet star; empty where neither.
    subtype : float
        0 to 9.9, NaN where there is none. Of ``G8/K0III`` the first counts.
    luminosity : str
        I, II, III, IV, V, VI or ``sd``, empty where there is none. Of ``IV-V`` the first counts. III for the
        branches of evolved stars that MILES gives for members of clusters (``GB``, ``AGB``, ``HB``).
    """
    text = text.strip()
    if re.match(r"D[ABCOQZ]", text):
        return "WD", np.nan, ""
    if re.match(r"W[CNO]", text):
        return "WR", np.nan, ""
    if text in ("GB", "AGB", "HB"):  # branches of a cluster's diagram, which MILES gives in place of a type
        return "", np.nan, "III"
    luminosity = _LUMINOSITY.search(text)
    kind = "sd" if text.startswith("sd") else luminosity.group() if luminosity else ""
    match = _TYPE.match(text)
    if not match:
        return "", np.nan, kind
    return match[1].replace("0", "O"), float(match[2] or np.nan), kind


def _folder(library: str) -> Path:
    """Folder of a library inside the package, found without importing any of it."""
    spec = find_spec("mangadap")
    places = list(spec.submodule_search_locations or []) if spec else []
    folder = Path(places[0] if places else "mangadap") / "data" / "spectral_templates" / library
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no spectra here; install the package sdss-mangadap")
    return folder


def _number(value: object) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


def _open(path: Path) -> tuple[fits.Header, np.ndarray, np.ndarray]:
    """Header, pixel coordinates along the wavelength axis and flux of a one-dimensional spectrum."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", VerifyWarning)  # a card APNUM1 of STELIB is not a proper FITS value
        with fits.open(path) as hdus:
            header, flux = hdus[0].header, np.asarray(hdus[0].data, dtype=float).ravel()
            for key in ("CRVAL1", "CDELT1", "CRPIX1"):
                if key not in header:
                    raise ValueError(f"{path}: no {key} in the header; expected a spectrum")
            pixel = header["CRVAL1"] + header["CDELT1"] * (np.arange(1.0, len(flux) + 1) - header["CRPIX1"])
            if len(hdus) > 1:  # MaStarHC tells its bad pixels by an inverse variance of zero
                flux = np.where(hdus["IVAR"].data > 0, flux, np.nan)
    return header, pixel, flux


def _on_grid(wavelength: np.ndarray, flux: np.ndarray) -> np.ndarray:
    """Interpolate onto the grid; NaN outside, and beside bad pixels."""
    return np.interp(GRID, wavelength, np.where(flux > 0, flux, np.nan), left=np.nan, right=np.nan)


def _table(rows: list[dict], extra: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=[*_COLUMNS, *extra])
    parts = [parse_spectral_type(text) for text in table["spectral_type"]]
    letter, subtype, luminosity = zip(*parts, strict=True)
    return table.assign(letter=letter, subtype=subtype, luminosity=luminosity)


def read_stelib() -> tuple[pd.DataFrame, np.ndarray]:
    """Read STELIB.

    Returns
    -------
    table : pandas.DataFrame
        One row per star: name, library, spectral_type as in the header, its letter, subtype and luminosity
        class, teff in K, logg, feh, and the A_V that the authors have corrected for.
    flux : numpy.ndarray
        (N, L) float64 F_lambda on :data:`GRID`, NaN where there is none.
    """
    rows, spectra = [], []
    clear = ~np.any([(low < GRID) & (high > GRID) for low, high in _TELLURIC], axis=0)
    for path in sorted(_folder("stelib").glob("*.fits")):
        header, wavelength, flux = _open(path)
        spectra.append(np.where(clear, _on_grid(air_to_vacuum(wavelength), flux), np.nan))
        name = path.stem.removeprefix("STELIB_v3.2_")
        row = {"name": name, "library": "STELIB", "spectral_type": header["SPECTYPE"].strip()}
        parameters = {"teff": "TEFF", "logg": "LOG_G", "feh": "FE_H", "a_v": "ISEXTINC"}
        rows.append(row | {column: _number(header.get(key)) for column, key in parameters.items()})
    return _table(rows, ["a_v"]), np.array(spectra)


def read_miles() -> tuple[pd.DataFrame, np.ndarray]:
    """Read MILES; as :func:`read_stelib`, without A_V. Stars without an entry in its table are left out."""
    folder = _folder("miles")
    entries = {}
    for line in (folder / "paramsMILES_v9.1.txt").read_text(encoding="ascii").splitlines():
        if number := re.match(r".{23}(\d{4}) ", line):
            name = line[:23].removesuffix("Cl   ").strip().replace("HD ", "HD")  # as elsewhere in the table
            columns = slice(35, 51), slice(51, 58), slice(58, 66), slice(66, 74)
            entries[number[1]] = [name, *(line[column].strip() for column in columns)]
    rows, spectra = [], []
    for path in sorted(folder.glob("*.fits")):
        number = path.stem.removesuffix("V")[-4:]
        if number in entries:
            _, wavelength, flux = _open(path)
            spectra.append(_on_grid(air_to_vacuum(wavelength), flux))
            name, kind, *parameters = entries[number]
            rows.append(dict(zip(_COLUMNS, [name, "MILES", kind, *map(_number, parameters)], strict=True)))
    return _table(rows, []), np.array(spectra)


def read_mastar() -> tuple[pd.DataFrame, np.ndarray]:
    """Read the three versions of MaStarHC; as :func:`read_stelib`, with no types and no parameters."""
    rows, spectra = [], []
    for version in ("mastarhc", "mastarhc_v2", "mastarhc_v2_noism"):
        for path in sorted(_folder(version).glob("*.fits*")):
            _, log_wavelength, flux = _open(path)
            spectra.append(_on_grid(10**log_wavelength, flux))
            cluster = re.match(r"MaStarHC_(\d+)", path.name)[1]
            rows.append({"name": f"{version} {cluster}", "library": "MaStarHC", "spectral_type": ""})
    return _table(rows, []), np.array(spectra)
