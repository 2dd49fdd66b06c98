"""The stellar locus: published, measured again from real stars, and where the library lies beside it."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.table import Table

from astro_utils.registry import locate
from astro_utils.sky.stars import nearest_in_gi, stellar_library
from astro_utils.sky.stellar_locus import (
    LOCUS_COLOURS,
    catalogue_colours,
    covey_locus,
    in_sdss_system,
    juric_g_r,
    locus_offsets,
    measured_locus,
    principal_colours,
    running_locus,
    write_measured_locus,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with sdss_frames and sdss_dr17",
)
CALIBOBJ = "sdss_frames/calibObj-004510-4-star.fits.gz"


@pytest.fixture(scope="module")
def library():
    return stellar_library()


@pytest.fixture(scope="module")
def dwarfs(library):
    return library.table[library.table["kind"] == "dwarf"]


def test_covey_medians_agree_with_the_fits_in_the_same_paper():
    locus = covey_locus()
    assert len(locus) == 201 and locus["g_i"].is_monotonic_increasing
    assert (abs(locus["g_r"] + locus["r_i"] - locus["g_i"]) < 0.045).all()
    fits_of_paper = {  # Covey et al. 2007, table 4: polynomials in g - i
        "u_g": [1.0636113, -1.6267818, 4.9389572, -3.2809081, 0.8725109, -0.0828035],
        "g_r": [0.4290263, -0.8852323, 2.0740616, -1.1091553, 0.2397461, -0.0183195],
        "r_i": [-0.4113500, 1.8229991, -1.9989772, 1.0662075, -0.2284455, 0.0172212],
        "i_z": [-0.2270331, 0.7794558, -0.7350749, 0.3727802, -0.0735412, 0.0049808],
    }
    middle = locus[locus["g_i"].between(0.4, 3.0)]
    for name, coefficients in fits_of_paper.items():
        fit = np.polynomial.Polynomial(coefficients)(middle["g_i"])
        assert np.std(middle[name] - fit) < 0.025 and abs(np.mean(middle[name] - fit)) < 0.01


def test_dwarfs_lie_on_the_published_locus(dwarfs):
    edges = np.array([0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7, 3.0])
    offsets = locus_offsets(in_sdss_system(dwarfs), covey_locus(), edges)
    assert (offsets["number"] >= 10).all()
    for name in ("g_r", "r_i", "i_z"):
        assert offsets[name].abs().max() < 0.05, name
    blue = offsets["high"] <= 1.5
    assert offsets["u_g"][blue].abs().max() < 0.1 and offsets["u_g"].abs().max() < 0.21


def test_metallicity_explains_the_offset_from_the_locus(dwarfs):
    edges = np.array([0.3, 0.5, 0.7, 0.9])
    poor, rich = (
        locus_offsets(in_sdss_system(dwarfs[selected]), covey_locus(), edges)
        for selected in (dwarfs["feh"] < -0.5, dwarfs["feh"] > -0.3)
    )
    assert poor["g_r"].abs().max() < 0.015 and rich["g_r"].min() > 0.015
    assert poor["u_g"].max() < -0.05 and rich["u_g"].min() > 0.03, "as line blanketing demands"
    r_i = in_sdss_system(dwarfs[dwarfs["feh"] < -0.5])["r_i"]
    near = r_i.between(0.05, 0.4)
    residual = dwarfs["g_r"][r_i.index[near]] - juric_g_r(r_i[near])
    assert abs(residual.median()) < 0.02


def test_principal_colours_of_a_drawn_population_are_near_zero(library):
    rng = np.random.default_rng(1)
    rows = nearest_in_gi(library, rng.uniform(0.3, 2.6, 4000), rng, feh=rng.normal(-0.6, 0.3, 4000))
    colours, r = in_sdss_system(library.table.iloc[rows]), np.full(4000, 18.0)
    g, i = r + colours["g_r"], r - colours["r_i"]
    medians = principal_colours(np.column_stack([g + colours["u_g"], g, r, i, i - colours["i_z"]])).median()
    assert (medians.abs() < 0.03).all(), medians


def test_juric_relation_has_its_known_limits():
    assert juric_g_r(0.0) == pytest.approx(1.39 * (1 - np.exp(-0.05)))
    assert juric_g_r(3.0) == pytest.approx(1.39)


def test_principal_colours_are_defined_on_their_range_only():
    # On the blue part of the locus s and w exist, on the red part x and y.
    blue, red = [19.5, 18.3, 18.0, 17.88, 17.84], [21.9, 19.4, 18.0, 16.9, 16.3]
    known = principal_colours(np.array([blue, red])).notna()
    assert known.iloc[0].tolist() == [True, True, False, False]
    assert known.iloc[1].tolist() == [False, False, True, True]


def test_running_locus_finds_the_medians_that_were_put_in():
    rng = np.random.default_rng(2)
    g_i = rng.uniform(0.2, 1.2, 5000)
    colours = pd.DataFrame({name: 0.5 * g_i + rng.normal(0, 0.05, 5000) for name in LOCUS_COLOURS})
    locus = running_locus(colours.assign(g_i=g_i), 0.2, 1.4, 0.1)
    assert locus["number"].sum() == 5000 and len(locus) == 10
    np.testing.assert_allclose(locus["u_g"], 0.5 * locus["g_i"], atol=0.01)
    np.testing.assert_allclose(locus["r_i_84"] - locus["r_i_16"], 0.11, atol=0.02)
    shifted = locus_offsets(colours.assign(g_i=g_i) + 0.02, locus, np.array([0.3, 0.7, 1.1]))
    np.testing.assert_allclose(shifted["i_z"], 0.02 - 0.01, atol=0.004)  # g - i moved, too
    with pytest.raises(ValueError, match=r"bins of g - i from 0\.0 to 1\.0; the locus is known from 0\.2"):
        locus_offsets(colours.assign(g_i=g_i), locus, np.array([0.0, 1.0]))


def test_a_table_that_is_no_star_catalogue_is_named(tmp_path):
    path = tmp_path / "calibObj.fits"
    Table({"PSFFLUX": np.ones((2, 5)), "OBJC_TYPE": [6, 6]}).write(path)
    with pytest.raises(KeyError, match=r"calibObj\.fits: no columns \['EXTINCTION', 'OBJC_FLAGS'"):
        catalogue_colours(path)


@needs_data
def test_the_measured_locus_is_remade_from_the_catalogue(tmp_path):
    path = write_measured_locus(locate(CALIBOBJ, download=False), tmp_path / "locus.ecsv")
    remade = Table.read(path, format="ascii.ecsv")
    kept = measured_locus()
    assert remade.colnames == list(kept.columns)
    np.testing.assert_allclose(remade.to_pandas().to_numpy(), kept.to_numpy(), atol=2e-4)
    assert "doi:10.3847/1538-4365/ac4414" in remade.meta["citation"]


@needs_data
def test_principal_colours_of_real_stars_have_median_zero():
    real = catalogue_colours(locate(CALIBOBJ, download=False))
    medians = principal_colours(real[list("ugriz")].to_numpy()).median()
    assert len(real) > 700 and (medians.abs() < 0.012).all(), medians


def test_dwarfs_lie_on_the_measured_locus(dwarfs):
    edges = np.array([0.35, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1, 2.3, 2.5, 2.7])
    offsets = locus_offsets(in_sdss_system(dwarfs), measured_locus(), edges)
    for name in ("g_r", "r_i", "i_z"):
        assert offsets[name].abs().max() < 0.05, name
    assert offsets["u_g"].abs().max() < 0.15


@needs_data
def test_spectroscopic_stars_have_the_colours_of_metal_poor_dwarfs(dwarfs):
    path = Path(os.environ["ASTRO_UTILS_DATA"]) / "sdss_dr17" / "star_classification_dr17_first30k.csv"
    table = pd.read_csv(path)
    stars = table[(table["class"] == "STAR") & (table["r"] < 20) & (table[["u", "g", "z"]] > 0).all(axis=1)]
    # The table has no extinction; 0.03 is the median E(B-V) of the high-latitude sky (Schlegel et al. 1998).
    reddening = dict(zip("ugriz", 0.03 * np.array([4.239, 3.303, 2.285, 1.698, 1.263]), strict=True))
    u, g, r, i, z = (stars[band] - reddening[band] for band in "ugriz")
    real = running_locus(pd.DataFrame({"u_g": u - g, "g_r": g - r, "r_i": r - i, "i_z": i - z, "g_i": g - i}))
    poor = in_sdss_system(dwarfs[dwarfs["feh"] < -0.5])
    offsets = locus_offsets(poor, real, np.array([0.35, 0.5, 0.7, 0.9, 1.2]))
    for name, most in (("u_g", 0.08), ("g_r", 0.03), ("r_i", 0.03), ("i_z", 0.03)):
        assert offsets[name].abs().max() < most, (name, offsets[name].tolist())
