"""Polynomial k-corrections: exact on polynomials, bounded outside, and the tables of two surveys."""

import os
from pathlib import Path

import numpy as np
import pytest

from astro_utils.kcorrections.polynomials import (
    box_powers,
    fit_polynomial,
    read_colour_polynomials,
    total_powers,
)

SHIFT = -2.5 * np.log10(1.1)


def galaxies(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.uniform(0.01, 0.4, n), rng.normal(0.8, 0.3, n)], axis=1)


def test_powers():
    assert box_powers(2, 1).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0], [2, 1]]
    assert total_powers(2, 2).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0]]


def test_a_polynomial_in_redshift_and_colour_is_found_again():
    x, new = galaxies(), galaxies(seed=1)

    def truth(v):
        z, colour = v.T
        return -0.2 + z * colour - 3 * z**3 * colour**2 + 0.5 * z**5

    fitted = fit_polynomial(x, truth(x), box_powers(5, 2))
    inside = ((new >= x.min(0)) & (new <= x.max(0))).all(1)
    np.testing.assert_allclose(fitted(new[inside]), truth(new[inside]), atol=1e-10)
    lower = fit_polynomial(x, truth(x), box_powers(5, 1))  # one degree short in colour
    assert np.abs(lower(x) - truth(x)).max() > 1e-3


def test_degree_zero_is_the_mean():
    x = galaxies()
    k = np.arange(len(x), dtype=float)
    np.testing.assert_allclose(fit_polynomial(x, k, total_powers(2, 0))(x[:5]), k.mean())


def test_outside_the_training_range_k_is_that_of_the_edge():
    x = galaxies()
    fitted = fit_polynomial(x, x[:, 0] ** 2, box_powers(7, 3))
    far = fitted(np.array([[5.0, 40.0], [-1.0, -9.0]]))
    np.testing.assert_allclose(far, [x[:, 0].max() ** 2, x[:, 0].min() ** 2], atol=1e-8)


def test_wrong_variables():
    x, k = galaxies(), np.zeros(400)
    fitted = fit_polynomial(x, k, box_powers(1, 1))
    with pytest.raises(ValueError, match=r"variables of shape \(400, 1\); the polynomial has 2"):
        fitted(x[:, :1])
    with pytest.raises(ValueError, match="variable 1 of galaxy 3 is nan"):
        fitted(np.where(np.arange(800).reshape(400, 2) == 7, np.nan, x))
    with pytest.raises(ValueError, match="expected \\(N, V\\), \\(N,\\), \\(P, V\\)"):
        fit_polynomial(x, k[1:], box_powers(1, 1))
    with pytest.raises(ValueError, match="leave failed galaxies out"):
        fit_polynomial(x, np.where(k == 0, np.nan, k), box_powers(1, 1))
    with pytest.raises(ValueError, match="5 galaxies cannot fix 32 terms"):
        fit_polynomial(x[:5], k[:5], box_powers(7, 3))


def table(tmp_path, rows):
    path = tmp_path / "k_corr.dat"
    path.write_text("# comment\n" + "\n".join(" ".join(map(str, row)) for row in rows))
    return path


def test_tables_of_colour_bins(tmp_path):
    k = read_colour_polynomials(table(tmp_path, [(-100, 0.5, 2, 1, -0.1, 0.4), (0.5, 100, 0, 3, -0.1, 0.8)]))
    z = np.array([0.1, 0.3, 0.3, 0.3, 0.3, 0.3])
    colour = np.array([0.7, 0.4, 0.8, 0.5, -5, 5])
    blue, red = 2 * 0.2**2 + 0.2 - 0.1, 3 * 0.2 - 0.1
    expected = [-0.1, blue, red, 0.75 * blue + 0.25 * red, blue, red]
    np.testing.assert_allclose(k(z, colour), expected)
    with pytest.raises(ValueError, match=r"redshift 0\.6; the polynomials hold from 0 to 0\.5"):
        k(np.array([0.6]), np.array([0.5]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 1, 2, 3, 0.5)], r"shape \(1, 5\); expected two colour bins"),
        ([(0, 1, 0.5), (1, 2, 1.5)], r"shape \(2, 3\)"),
        ([(0, 1, 2, 3, 0.5), (1, 2, 2, 3, 0.7)], "row 1: median colours"),
        ([(0, 1, 2, 3, 0.5), (0, 1, 2, 3, 0.4)], "median colours must increase"),
        ([(0, 1, 2, "x", 0.5)], "not a table of numbers"),
    ],
)
def test_a_file_that_is_no_table_of_colour_bins(tmp_path, rows, message):
    path = table(tmp_path, rows)
    with pytest.raises(ValueError, match=message) as caught:
        read_colour_polynomials(path)
    assert "k_corr.dat" in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"absent\.dat: no such table"):
        read_colour_polynomials(tmp_path / "absent.dat")


def published(name):
    path = Path(os.environ.get("ASTRO_UTILS_DATA", "absent")) / "hodpy_kcorr" / name
    if not path.is_file():
        pytest.skip("the k-corrections of hodpy are not in the folder that ASTRO_UTILS_DATA names")
    return read_colour_polynomials(path)


def test_the_polynomials_of_gama():
    gama = published("k_corr_rband_z01.dat")
    colours = np.linspace(0.1, 1.1, 9)
    np.testing.assert_allclose(gama(np.full(9, 0.1), colours), SHIFT, atol=2e-4)  # whatever the spectrum
    late, early = (gama(np.array([0.35]), np.array([c]))[0] for c in (0.3, 1.0))
    assert early > late + 0.1  # red galaxies fall towards the blue


def test_the_polynomials_of_desi():
    south = published("jmext_kcorr_S_rband_z01.dat")
    k = south(np.full(3, 0.1), np.array([0.3, 0.7, 0.92]))
    # DECam's r is redder than that of SDSS, and the more so for a red galaxy.
    assert ((SHIFT - 0.25 < k) & (k < SHIFT - 0.1)).all()
    assert k[2] < k[0]
