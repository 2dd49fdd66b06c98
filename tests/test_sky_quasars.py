"""Simulated quasars: lines where the redshift puts them, none below a Lyman limit, colours of real ones."""

import os

import numpy as np
import pandas as pd
import pytest

from astro_utils.registry import locate
from astro_utils.sky.bandpasses import band_weights
from astro_utils.sky.quasars import (
    QUASAR_COLUMNS,
    continuum,
    draw_quasars,
    fit_composite,
    forest_transmission,
    observed_track,
    quasar_lines,
    quasar_spectra,
    quasar_track,
    read_composite,
)
from astro_utils.sky.surveys import SDSS

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with qso_composites and sdss_dr17",
)
COMPOSITE = "qso_composites/sdss_qso_vandenberk_fitting.txt"
GROUPS = [name for name in QUASAR_COLUMNS if name.startswith("ew_")]
GRID = np.arange(2900.0, 11200.0, 1.0)


def plain(z, **changes):
    """Parameters of quasars that are the composite: no dust, host or absorber of Lyman-continuum light."""
    table = pd.DataFrame({"z": np.atleast_1d(z).astype(float)})
    for name in QUASAR_COLUMNS:
        table[name] = changes.get(name, 1.0 if name in GROUPS else 0.0)
    return table


# --------------------------------------------------------------------------------------------------- lines


def test_lines_have_positive_widths_and_strengths_and_known_groups():
    lines = quasar_lines()
    assert len(lines) > 40 and lines["name"].notna().all()
    assert (lines["sigma"] > 0).all() and (lines["ew"] >= 0).all() and (lines["published_ew"] >= 0).all()
    assert {f"ew_{group}" for group in lines["group"]} == set(GROUPS)
    assert lines["wavelength"].between(900, 9000).all()
    assert not lines.duplicated(["name", "wavelength"]).any()
    published = lines[lines["published_ew"] > 0]
    assert published["wavelength"].is_monotonic_increasing, "the order of the published table"
    strongest = published.nlargest(5, "ew")["name"].tolist()
    assert strongest[:2] == ["H-alpha", "Ly-alpha"] and "C IV" in strongest


def test_continuum_has_the_published_slopes_and_no_steps():
    for low, high, alpha in ((1300.0, 4600.0, -0.44), (950.0, 1210.0, -1.57), (4700.0, 8000.0, -1.65)):
        ends = continuum(np.array([low, high]))
        assert np.log(ends[1] / ends[0]) / np.log(high / low) == pytest.approx(-2 - alpha)
    for edge in (1216.0, 4661.0):
        below, above = continuum(np.array([edge - 1e-6, edge + 1e-6]))
        assert below == pytest.approx(above, rel=1e-6)


@pytest.mark.parametrize("z", [1.9, 2.5, 3.2])
def test_lines_peak_where_the_redshift_puts_them(z):
    flux = quasar_spectra(plain(z), GRID)[0]
    bare = quasar_spectra(plain(z, **dict.fromkeys(GROUPS, 0.0)), GRID)[0]
    # The forest eats the blue side of Lyman-alpha, and neighbours pull a little.
    for wavelength, tolerance in ((1216.0, 5.0), (1549.0, 6.0), (1908.7, 10.0)):
        near = abs(GRID / (1 + z) - wavelength) < 30
        peak = GRID[near][np.argmax((flux / bare)[near])]
        assert peak == pytest.approx(wavelength * (1 + z), abs=tolerance * (1 + z))


@pytest.mark.parametrize(
    ("name", "group", "z"),
    [("Mg II", "ew_magnesium", 1.0), ("H-alpha", "ew_balmer", 0.3), ("H-beta", "ew_balmer", 0.5)],
)
def test_scaling_a_group_scales_the_equivalent_width(name, group, z):
    lines = quasar_lines()
    line = lines[lines["name"] == name].iloc[0]
    rest = GRID / (1 + z)
    reach = 5 * line["sigma"]
    near = abs(rest - line["wavelength"]) < reach
    mine = lines["group"] == line["group"]
    others = lines[mine & (abs(lines["wavelength"] - line["wavelength"]) < reach)]
    bare = quasar_spectra(plain(z, **dict.fromkeys(GROUPS, 0.0)), GRID)[0]
    for strength in (0.5, 1.0, 3.0):
        strengths = dict.fromkeys(GROUPS, 0.0) | {group: strength}
        excess = quasar_spectra(plain(z, **strengths), GRID)[0] / bare - 1
        width = np.trapezoid(excess[near], rest[near])
        assert width == pytest.approx(strength * others["ew"].sum(), rel=0.03)


# ------------------------------------------------------------------------------------------ dust, host, gas


def test_a_deep_absorber_takes_all_light_below_its_limit():
    z, limit = 3.5, 3.3
    flux = quasar_spectra(plain(z, lyman_limit=limit, lyman_depth=50.0), GRID)[0]
    free = quasar_spectra(plain(z), GRID)[0]
    edge = 912 * (1 + limit)
    assert flux[GRID < edge].max() < 1e-6 * flux[GRID >= edge].max()
    np.testing.assert_array_equal(flux[GRID >= edge], free[GRID >= edge])
    thin = quasar_spectra(plain(z, lyman_limit=limit, lyman_depth=0.5), GRID)[0]
    ratio = (thin / free)[GRID < edge]
    assert ratio[-1] == pytest.approx(np.exp(-0.5), rel=1e-3)
    assert (np.diff(ratio) <= 0).all(), "the cross-section falls as the cube of the wavelength to the blue"


def test_forest_deepens_with_redshift_and_spares_the_red_side():
    z = np.array([2.0, 3.0, 4.0, 5.0])
    wavelength = np.arange(3000.0, 10000.0, 2.0)
    share = forest_transmission(wavelength, z)
    assert ((share > 0) & (share <= 1)).all()
    for row, own in zip(share, z, strict=True):
        assert (row[wavelength > 1216 * (1 + own)] == 1).all()
    forest = [row[abs(wavelength / (1 + own) - 1120) < 50].mean() for row, own in zip(share, z, strict=True)]
    assert (np.diff(forest) < 0).all()
    # Mean transmission of the forest: Becker et al. 2013, MNRAS 430, 2067.
    for own in (2.5, 3.0, 4.0):
        at = np.array([1215.67 * (1 + own)])
        expected = np.exp(-(0.751 * ((1 + own) / 4.5) ** 2.9 - 0.132))
        assert forest_transmission(at, np.array([own + 0.3]))[0, 0] == pytest.approx(expected, abs=0.06)


def test_forest_has_the_higher_lyman_lines():
    """Just below Lyman-beta of the quasar, hydrogen there absorbs in that line too, 0.28 times as deep."""
    at = np.array([1025.72 * 4.0])
    share = [forest_transmission(at, np.array([own]))[0, 0] for own in (2.999, 3.001)]
    # Inoue et al. 2014, table 2: 6.536e-4 (1 + z)^3.7 from 1 + z = 2.2 to 5.7.
    assert -np.log(share[1] / share[0]) == pytest.approx(6.536e-4 * 4.0**3.7, rel=2e-3)


def test_absorbers_are_as_many_as_observed():
    """Where none are favoured: 2.8 ((1 + z) / 4.5)^1.94 deeper than 1 per redshift, more above 0.5."""
    n, z, low = 20_000, 2.3, 2.1
    drawn = draw_quasars(np.random.default_rng(5), np.full(n, z))
    steps = np.linspace(low, z, 1001)
    expected = np.trapezoid(2.8 * np.sqrt(2) * ((1 + steps) / 4.5) ** 1.94, steps)
    assert (drawn["lyman_limit"] > low).mean() == pytest.approx(1 - np.exp(-expected), abs=0.015)


def test_slope_dust_and_host_change_the_spectrum_as_stated():
    rest = GRID / 2.0
    plain_flux = quasar_spectra(plain(1.0), GRID)[0]
    ratio = quasar_spectra(plain(1.0, slope=0.3), GRID)[0] / plain_flux
    slope = np.polyfit(np.log(rest), np.log(ratio), 1)[0]
    assert slope == pytest.approx(-0.3), "a bluer alpha_nu makes F_lambda steeper"
    ratio = quasar_spectra(plain(1.0, dust=0.1), GRID)[0] / plain_flux
    extinction = -2.5 * np.log10(ratio)
    np.testing.assert_allclose(extinction, 0.139 * (rest / 1e4) ** -1.2)
    bare = dict.fromkeys(GROUPS, 0.0)
    at = np.array([5100.0 * 1.2])
    host, none = (quasar_spectra(plain(0.2, host=h, **bare), at)[0, 0] for h in (1.0, 0.0))
    assert host == pytest.approx(2 * none), "as much light of the host as of the quasar at 5,100 Angstrom"
    at = 1.2 * np.array([3600.0, 4200.0])
    both, none = (quasar_spectra(plain(0.2, host=h, **bare), at)[0] for h in (1.0, 0.0))
    below, above = (both - none) / forest_transmission(at, np.array([0.2]))[0]
    assert 0.3 < below / above < 0.5, "old stars: light falls by half over the break at 4,000 Angstrom"


# --------------------------------------------------------------------------------------------------- draws


def test_draws_are_those_of_the_seed():
    z = np.random.default_rng(0).uniform(0.2, 4, 300)
    first, again, other = (draw_quasars(np.random.default_rng(seed), z) for seed in (1, 1, 2))
    assert list(first) == list(QUASAR_COLUMNS)
    pd.testing.assert_frame_equal(first, again)
    assert (first["slope"] != other["slope"]).all()


def test_draws_have_the_stated_distributions():
    z = np.full(20_000, 3.0)
    drawn = draw_quasars(np.random.default_rng(3), z)
    assert np.isfinite(drawn).all().all()
    assert drawn["slope"].std() == pytest.approx(0.3, rel=0.03)
    for group in GROUPS:
        assert np.log(drawn[group]).std() == pytest.approx(np.hypot(0.2, 0.28), rel=0.03)
    assert np.corrcoef(np.log(drawn[GROUPS].T))[np.triu_indices(len(GROUPS), 1)].min() > 0.25
    assert drawn["dust"].mean() == pytest.approx(0.1 * 0.12 + 0.9 * 0.012, rel=0.05)
    assert (drawn["host"] == 0).all() and draw_quasars(np.random.default_rng(3), 0 * z + 0.3)[
        "host"
    ].min() > 0
    assert (drawn["lyman_limit"] <= 3.0).all() and drawn["lyman_depth"].between(0.5, 100).all()
    # P(depth > t) falls as the square root of t.
    assert (drawn["lyman_depth"] > 2.0).mean() == pytest.approx(0.5, abs=0.02)


# -------------------------------------------------------------------------------------------- real quasars


COLOURS = ["u_g", "g_r", "r_i", "i_z"]


@pytest.fixture(scope="module")
def offsets():
    """Simulated minus real colours along the track, where at least 30 real quasars are.

    Per bin of redshift 400 quasars without errors of photometry, behind dust of E(B-V) = 0.037, in the SDSS
    system: offset of the medians, ratio of the widths (68 %), and error of the real median.
    """
    coarse = np.arange(2900.0, 11200.0, 10.0)
    weights = band_weights(SDSS.filters, coarse)
    track = quasar_track()
    track = track[track["number"] >= 30].reset_index(drop=True)
    rows = []
    for row in track.itertuples():
        rng = np.random.default_rng(4)
        z = rng.uniform(row.z - 0.1, row.z + 0.1, 400)
        flux = quasar_spectra(draw_quasars(rng, z).assign(z=z), coarse) @ weights
        magnitude = -2.5 * np.log10(flux) + np.array(SDSS.zero_point) + 0.037 * np.array(SDSS.extinction)
        low, middle, high = np.percentile(-np.diff(magnitude, axis=1), [16, 50, 84], axis=0)
        for i, name in enumerate(COLOURS):
            width = getattr(row, f"{name}_84") - getattr(row, f"{name}_16")
            rows.append(
                {
                    "z": row.z,
                    "colour": name,
                    "offset": middle[i] - getattr(row, name),
                    "width": (high[i] - low[i]) / width,
                    "error": 1.25 * width / 2 / np.sqrt(row.number),
                }
            )
    return pd.DataFrame(rows).set_index("colour")


def test_ultraviolet_colour_follows_that_of_real_quasars(offsets):
    """Including the rise beyond redshift 2.5; lower than 0.6 it is the host's, and strays by up to 0.2."""
    rows = offsets.loc["u_g"]
    early, late = rows[rows["z"].between(0.6, 2.2)], rows[rows["z"] > 2.2]
    assert len(early) == 8 and len(late) == 6
    assert early["offset"].abs().max() < 0.10
    # Two of the bins beyond 3 have too few real quasars for a median to 0.15 mag.
    assert (late["offset"].abs() < np.maximum(0.15, 2 * late["error"])).all()
    assert rows[rows["z"] < 0.6]["offset"].abs().max() < 0.20


def test_optical_colours_follow_those_of_real_quasars(offsets):
    """Typically to 0.06 mag; simulated ones are redder in g-r by about that much from redshift 1.5."""
    typical = offsets[offsets["z"] > 0.6]["offset"].abs().groupby("colour").median()
    assert typical["r_i"] < 0.06 and typical["i_z"] < 0.06
    assert typical["g_r"] < 0.08
    assert offsets.loc[["g_r", "r_i", "i_z"], "offset"].abs().max() < 0.20


def test_colours_scatter_less_than_those_of_real_quasars_with_their_errors(offsets):
    rows = offsets[offsets["z"].between(0.6, 2.2)]
    for name in ("u_g", "g_r", "r_i"):
        assert rows.loc[name, "width"].between(0.4, 1.1).all()
    assert rows.loc["i_z", "width"].between(0.25, 1.1).all(), "errors in z are most of the real width"


@pytest.mark.parametrize("z", [-0.1, np.nan, np.inf])
def test_impossible_redshifts_are_refused(z):
    with pytest.raises(ValueError, match=f"a redshift is {z}; expected a finite number, 0 or more"):
        draw_quasars(np.random.default_rng(0), np.array([1.0, z]))
    with pytest.raises(ValueError, match=f"a redshift is {z}; expected"):
        quasar_spectra(plain(z), GRID)


def test_impossible_parameters_are_refused():
    with pytest.raises(ValueError, match="the table of quasars lacks ew_iron, dust"):
        quasar_spectra(plain(1.0).drop(columns=["dust", "ew_iron"]), GRID)
    with pytest.raises(ValueError, match="dust of quasar 0 is not finite"):
        quasar_spectra(plain(1.0, dust=np.nan), GRID)
    with pytest.raises(ValueError, match=r"a wavelength is -5\.0; expected more than 0"):
        quasar_spectra(plain(1.0), np.array([5000.0, -5.0]))


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "composite.txt"
    for text in ("no header\n", "header\n" * 26 + "1300.5 1.0\n", "header\n" * 26 + "a b c\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"composite\.txt: no table of wavelength, flux and error"):
            read_composite(path)
    path = tmp_path / "stars.csv"
    path.write_text("u,g,r,i,class\n1,2,3,4,QSO\n")
    with pytest.raises(ValueError, match=r"stars\.csv: the table of real quasars lacks z, redshift"):
        observed_track(path)


@needs_data
def test_composite_is_fitted_within_three_percent():
    path, lines = locate(COMPOSITE), quasar_lines()
    strength, residual = fit_composite(path, lines)
    assert np.median(np.abs(residual)) < 0.03
    assert strength.shape == (len(lines),) and (strength >= 0).all()
    wavelength, flux, error = read_composite(path)
    assert len(residual) == len(wavelength) and (flux > 0).all() and (error > 0).all()
    # The committed strengths are the fitted ones, but near components that the table says were set otherwise.
    kept = lines["wavelength"].between(2400, 4400) | (lines["wavelength"] > 5100)
    np.testing.assert_allclose(lines["ew"][kept], strength[kept], rtol=0.02, atol=0.02)
    # With all of them, what is not near Lyman-alpha, 4,560 Angstrom or H-beta is the composite still.
    profile = np.exp(
        -0.5 * ((wavelength[:, None] - lines["wavelength"].to_numpy()) / lines["sigma"].to_numpy()) ** 2
    )
    profile /= np.sqrt(2 * np.pi) * lines["sigma"].to_numpy()
    ratio = flux / (continuum(wavelength) * (1 + profile @ lines["ew"].to_numpy()))
    assert np.median(np.abs(ratio / np.median(ratio) - 1)) < 0.03


@needs_data
def test_committed_track_is_that_of_the_real_quasars():
    made = observed_track(locate("sdss_dr17/star_classification_dr17_first30k.csv"))
    pd.testing.assert_frame_equal(made, quasar_track(), atol=1e-4)
