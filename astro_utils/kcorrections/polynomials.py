"""Polynomial k-corrections: in redshift, in redshift and one colour, in colours; and those of two surveys.

Chilingarian, Melchior & Zolotukhin (2010, MNRAS 405, 1409) write K as a polynomial in redshift and one
observed colour. Theirs goes to filters at redshift 0, where K vanishes at z = 0; to a band-shifted filter it
does not, so the terms without z stay.

    k = fit_polynomial(np.stack([z, g_r], 1), truth, box_powers(7, 3))
    k(np.stack([z_new, g_r_new], 1))
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

__all__ = [
    "ColourPolynomials",
    "KPolynomial",
    "box_powers",
    "fit_polynomial",
    "read_colour_polynomials",
    "total_powers",
]


def box_powers(*degrees: int) -> np.ndarray:
    """Powers of all terms with at most the given degree in each variable, (P, V)."""
    return np.array(list(product(*(range(degree + 1) for degree in degrees))), dtype=int)


def total_powers(n_variables: int, degree: int) -> np.ndarray:
    """Powers of all terms with at most the given total degree, (P, V); degree 0 is the mean."""
    powers = box_powers(*[degree] * n_variables)
    return powers[powers.sum(1) <= degree]


@dataclass(frozen=True, eq=False)
class KPolynomial:
    """A fitted polynomial.

    Attributes
    ----------
    powers : numpy.ndarray
        (P, V) int, of each variable in each term.
    coefficients : numpy.ndarray
        (P,) mag, of terms in the standardised variables.
    low, high : numpy.ndarray
        (V,) range of the training set. Variables outside are moved to its edge: beyond, a polynomial of high
        degree is nothing.
    """

    powers: np.ndarray
    coefficients: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __call__(self, variables: np.ndarray) -> np.ndarray:
        """K of galaxies with variables (N, V), (N,) mag."""
        variables = np.asarray(variables, dtype=float)
        if variables.ndim != 2 or variables.shape[1] != self.powers.shape[1]:
            raise ValueError(
                f"variables of shape {variables.shape}; the polynomial has {self.powers.shape[1]} of them"
            )
        if not np.isfinite(variables).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(variables))[0])
            raise ValueError(f"variable {column} of galaxy {row} is {variables[row, column]}")
        return _terms(variables, self.powers, self.low, self.high) @ self.coefficients


def _terms(variables: np.ndarray, powers: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Values of the terms, (N, P), with variables mapped to [-1, 1], where powers are well conditioned."""
    width = np.where(high > low, high - low, 1.0)
    scaled = 2 * (np.clip(variables, low, high) - low) / width - 1
    ladder = scaled[:, :, None] ** np.arange(powers.max(initial=0) + 1)  # (N, V, degree + 1)
    return np.prod(ladder[:, np.arange(powers.shape[1]), powers], axis=2)  # (N, P)


def fit_polynomial(variables: np.ndarray, k: np.ndarray, powers: np.ndarray) -> KPolynomial:
    """Fit a polynomial by least squares.

    Parameters
    ----------
    variables : numpy.ndarray
        (N, V), such as redshift and g - r.
    k : numpy.ndarray
        (N,) true k-corrections, mag.
    powers : numpy.ndarray
        (P, V) from :func:`box_powers` or :func:`total_powers`.

    Returns
    -------
    KPolynomial

    Raises
    ------
    ValueError
        When shapes disagree, a number is not finite, or there are fewer galaxies than terms.
    """
    variables, k, powers = np.asarray(variables, float), np.asarray(k, float), np.asarray(powers, int)
    if variables.ndim != 2 or k.shape != variables.shape[:1] or powers.shape[1:] != variables.shape[1:]:
        raise ValueError(
            f"variables {variables.shape}, k {k.shape}, powers {powers.shape}; expected (N, V), (N,), (P, V)"
        )
    if not (np.isfinite(variables).all() and np.isfinite(k).all()):
        raise ValueError("variables and k must be finite; leave failed galaxies out, and count them")
    if len(k) < len(powers):
        raise ValueError(f"{len(k)} galaxies cannot fix {len(powers)} terms")
    low, high = variables.min(0), variables.max(0)
    coefficients = np.linalg.lstsq(_terms(variables, powers, low, high), k, rcond=None)[0]
    return KPolynomial(powers, coefficients, low, high)


@dataclass(frozen=True, eq=False)
class ColourPolynomials:
    """Polynomials in redshift for bins of the rest-frame colour ^0.1(g - r), as surveys publish them.

    Attributes
    ----------
    colour : numpy.ndarray
        (C,) median colour of each bin, mag, increasing.
    coefficients : numpy.ndarray
        (C, D + 1), highest power of (z - 0.1) first, mag.
    """

    colour: np.ndarray
    coefficients: np.ndarray

    #: Where the polynomials hold; beyond, those who made them go on with straight lines.
    MAX_REDSHIFT = 0.5

    def __call__(self, z: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """K to r at band shift 0.1, linear in colour between bins and constant beyond the end bins.

        Parameters
        ----------
        z : numpy.ndarray
            (N,) redshifts, 0 to :attr:`MAX_REDSHIFT`.
        colour : numpy.ndarray
            (N,) rest-frame ^0.1(g - r), mag.

        Returns
        -------
        numpy.ndarray
            (N,) mag.

        Raises
        ------
        ValueError
            At a redshift out of range.
        """
        z, colour = np.asarray(z, dtype=float), np.asarray(colour, dtype=float)
        bad = ~((z >= 0) & (z <= self.MAX_REDSHIFT))
        if bad.any():
            raise ValueError(f"redshift {z[bad][0]}; the polynomials hold from 0 to {self.MAX_REDSHIFT}")
        powers = np.vander(z - 0.1, self.coefficients.shape[1])  # (N, D + 1)
        per_bin = powers @ self.coefficients.T  # (N, C)
        position = np.interp(colour, self.colour, np.arange(len(self.colour)))
        below = np.minimum(position.astype(int), len(self.colour) - 2)
        rows, share = np.arange(len(z)), position - below
        return (1 - share) * per_bin[rows, below] + share * per_bin[rows, below + 1]


def read_colour_polynomials(path: str | Path) -> ColourPolynomials:
    """Read a table of `hodpy` (BSD licence): lower and upper colour, coefficients, median colour.

    ``k_corr_rband_z01.dat`` is of GAMA, SDSS r to ^0.1 r (McNaught-Roberts et al. 2014, MNRAS 445, 2125, as
    used by Smith et al. 2017, MNRAS 470, 4646); ``jmext_kcorr_N_rband_z01.dat`` and ``..._S_...`` are of the
    DESI Bright Galaxy Survey, BASS or DECam r to SDSS ^0.1 r.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Naming the file, when it is not such a table.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such table of k-corrections")
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise ValueError(f"{path}: not a table of numbers ({error})") from error
    if table.shape[0] < 2 or table.shape[1] < 5 or not np.isfinite(table).all():
        raise ValueError(
            f"{path}: a table of shape {table.shape}; expected two colour bins or more with lower and upper "
            "colour, two coefficients or more, and median colour"
        )
    low, high, median = table[:, 0], table[:, 1], table[:, -1]
    bad = ~((low < median) & (median < high))
    if bad.any() or (np.diff(median) <= 0).any():
        raise ValueError(
            f"{path}: row {int(bad.argmax())}: median colours must increase and lie in their bins"
        )
    return ColourPolynomials(median, table[:, 2:-1])
