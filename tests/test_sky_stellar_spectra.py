"""Observed stellar spectra: right wavelengths and types, and continuations that recover what was cut off."""

import numpy as np
import pytest
from astropy.io import fits

from astro_utils.sky import stellar_libraries
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.stellar_continuation import (
    add_black_bodies,
    bridge,
    coverage,
    fill,
    matching_blend,
    relative_response,
)
from astro_utils.sky.stellar_libraries import (
    GRID,
    air_to_vacuum,
    parse_spectral_type,
    read_mastar,
    read_miles,
    read_stelib,
)


@pytest.fixture(scope="module")
def stelib():
    return read_stelib()


@pytest.fixture(scope="module")
def mastar():
    return read_mastar()


def planck(temperature):
    return GRID**-5 / np.expm1(1.438776877e8 / (GRID * temperature)) * 1e19


# ------------------------------------------------------------------------------------ what the package ships


@pytest.mark.parametrize(
    ("air", "vacuum"), [(3933.663, 3934.777), (4861.325, 4862.683), (6562.80, 6564.61), (8542.09, 8544.44)]
)
def test_air_wavelengths_of_known_lines_become_those_in_vacuum(air, vacuum):
    assert air_to_vacuum(air) == pytest.approx(vacuum, abs=0.01)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("G8III", ("G", 8, "III")),
        ("O9.5Iae", ("O", 9.5, "I")),
        ("08 Ib", ("O", 8, "I")),
        ("F6V-VI", ("F", 6, "V")),
        ("G8/K0IIIw.", ("G", 8, "III")),
        ("M6 V", ("M", 6, "V")),
        ("G1.5IV-V", ("G", 1.5, "IV")),
        ("sdF5", ("F", 5, "sd")),
        ("sd:F", ("F", None, "sd")),
        ("A2", ("A", 2, "")),
        ("DA:", ("WD", None, "")),
        ("WNs...", ("WR", None, "")),
        ("GB", ("", None, "III")),
        ("", ("", None, "")),
    ],
)
def test_spectral_types_are_taken_apart(text, parts):
    letter, subtype, luminosity = parse_spectral_type(text)
    assert (letter, luminosity) == (parts[0], parts[2])
    assert np.isnan(subtype) if parts[1] is None else subtype == parts[1]


def trough(flux, line):
    """Wavelength of the least flux near a line."""
    near = abs(GRID - line) < 15
    return GRID[near][np.argmin(flux[near])]


def test_the_libraries_are_whole_and_in_vacuum_at_rest(stelib, mastar):
    miles = read_miles()
    assert (len(stelib[0]), len(miles[0]), len(mastar[0])) == (255, 983, 168)
    for table, flux in (stelib, miles):
        hydrogen = table["letter"].isin(["A", "F"]).to_numpy() & (coverage(flux, 4800, 6600) == 1)
        assert hydrogen.sum() > 70
        for line in (4862.68, 6564.61):  # in air, they would be at 4861.3 and 6562.8
            shift = [trough(spectrum, line) - line for spectrum in flux[hydrogen]]
            assert abs(np.median(shift)) < 0.7, "a pixel is 1 Angstrom"
    known = miles[0].set_index("name").loc["HD095735"]  # Lalande 21185
    assert (known["spectral_type"], known["teff"], known["logg"], known["feh"]) == ("M2V", 3551, 4.90, -0.20)


def test_stelib_is_already_corrected_for_extinction(stelib):
    table, flux = stelib
    whole = coverage(flux, 3600, 6840) > 0.999  # up to the oxygen band, which is bridged
    synthetic = np.array([bridge(f) for f in flux[whole]])[:, (GRID > 3500) & (GRID < 7500)]
    weights = band_weights(["bessell-B", "bessell-V"], GRID[(GRID > 3500) & (GRID < 7500)])
    synthetic = -2.5 * np.log10(np.divide(*(synthetic @ weights).T))
    folder = stellar_libraries._folder("stelib")
    headers = [fits.getheader(folder / f"STELIB_v3.2_{name}.fits") for name in table["name"][whole]]
    observed = np.array([h["B"] - h["V"] if h["B"] not in (0, -99) else np.nan for h in headers])
    a_v, difference = table["a_v"].to_numpy()[whole], synthetic - observed
    clear, dusty = (np.nanmedian(difference[k]) for k in (a_v == 0, a_v > 0.5))
    assert dusty - clear < -0.15, "a spectrum that is bluer than its star has been corrected"


def test_a_missing_library_is_named():
    with pytest.raises(FileNotFoundError, match="stelib2: no spectra here; install the package"):
        stellar_libraries._folder("stelib2")


# ------------------------------------------------------------------------------------------ the continuations


def test_a_blend_finds_the_donors_and_their_shares():
    donors = np.array([planck(t) for t in (4000, 5000, 6000, 8000, 12000)])
    truth = 0.3 * donors[1] + 0.7 * donors[2]
    cut = np.where((GRID > 3540) & (GRID < 7410), truth, np.nan)
    blend, rms = matching_blend(cut, donors, 4500, 7410, n_nearest=3)
    np.testing.assert_allclose(blend, truth, rtol=1e-3)
    assert rms < 1e-4
    # Reddened, it still has the blend's shape beyond what was observed, and no step.
    filled = fill(1.7 * cut, blend)
    np.testing.assert_allclose(filled, 1.7 * truth, rtol=1e-3)
    with pytest.raises(ValueError, match="bins from 7400 to 7500 Angstrom to compare"):
        matching_blend(cut, donors, 7400, 7500)


def test_gaps_are_bridged_and_ends_stay_open():
    flux = np.where((GRID < 3000) | (GRID > 9000) | ((GRID > 5000) & (GRID < 5100)), np.nan, GRID)
    whole = bridge(flux)
    np.testing.assert_allclose(whole[(GRID >= 3000) & (GRID <= 9000)], GRID[(GRID >= 3000) & (GRID <= 9000)])
    assert np.isnan(whole[GRID < 3000]).all() and np.isnan(whole[GRID > 9000]).all()
    assert coverage(flux[None], 4950, 5150) == pytest.approx(1 - 99 / 201)


@pytest.mark.parametrize("temperature", [3500, 6000, 30_000])
def test_black_body_ends_continue_a_black_body(temperature):
    truth = planck(temperature)
    ended = add_black_bodies(np.where((GRID > 3200) & (GRID < 10_350), truth, np.nan))
    np.testing.assert_allclose(ended, truth, rtol=0.02)


def test_the_response_of_a_library_is_found_from_common_stars():
    rng = np.random.default_rng(0)
    stars = np.array([planck(t) for t in rng.uniform(4000, 9000, 40)])
    response = 1 - 0.12 * np.exp(-(((GRID - 3800) / 300) ** 2))
    noisy = stars * response * rng.lognormal(0, 0.02, stars.shape) * rng.uniform(0.5, 2, (40, 1))
    noisy[:, GRID > 9000] = np.nan
    found = relative_response(noisy, stars)
    known = (GRID > 3000) & (GRID < 9000)
    np.testing.assert_allclose(found[known], response[known], atol=0.01)
    assert np.ptp(found[GRID > 9100]) == 0, "beyond the common range, the nearest value holds"


def test_u_is_recovered_where_stelib_has_it_and_miles_would_not(stelib):
    flux = stelib[1]
    have = coverage(flux, 3215, 6400) > 0.999
    donors = np.array([bridge(f) for f in flux[have]])
    grid = (GRID > 3215) & (GRID < 4140)
    window = band_weights(["sdss2010-u"], GRID[grid], coverage=0.9)[:, 0]
    errors = []
    for i in range(0, len(donors), 4):
        cut = np.where((GRID > 3542) & (GRID < 7410), donors[i], np.nan)
        blend, _ = matching_blend(cut, np.delete(donors, i, 0), 3542, 4642)
        continued = fill(cut, blend)[grid]
        errors.append(-2.5 * np.log10((continued @ window) / (donors[i][grid] @ window)))
    assert len(errors) > 30
    assert abs(np.median(errors)) < 0.01 and np.percentile(np.abs(errors), 84) < 0.05


def test_i_and_z_are_recovered_where_mastar_has_them_and_miles_would_not(mastar):
    table, flux = mastar
    whole = (coverage(flux, 3645, 10310) > 0.98) & ~table["name"].str.contains("noism")
    donors = np.array([bridge(f) for f in flux[whole]])
    grid = (GRID > 3650) & (GRID < 10310)
    weights = band_weights(["sdss2010-r", "sdss2010-i", "sdss2010-z"], GRID[grid], coverage=0.98)
    version = table["name"][whole].str.split().str[0].to_numpy()
    errors = []
    for i in range(0, len(donors), 3):
        cut = np.where((GRID > 3650) & (GRID < 7410), donors[i], np.nan)
        others = np.delete(donors[version == version[i]], (version[:i] == version[i]).sum(), 0)
        blend, _ = matching_blend(cut, others, 4500, 7410)
        pair = np.array([fill(cut, blend, window=300), donors[i]])[:, grid] @ weights
        errors.append(-2.5 * np.log10(pair[0] / pair[1]))
    errors = np.array(errors)
    assert len(errors) > 30
    assert (abs(np.median(errors, 0)) < [1e-6, 0.01, 0.02]).all(), "r was observed whole"
    assert (np.percentile(np.abs(errors), 84, 0)[1:] < [0.02, 0.06]).all()
