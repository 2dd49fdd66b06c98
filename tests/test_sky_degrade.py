"""Bright objects made faint: the noise, the fluxes and the features of objects that were faint all along."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.sky.degrade import border_noise, degrade, dim, remeasure, sky_noise
from astro_utils.sky.images import field_psf, render, with_noise
from astro_utils.sky.population import POPULATIONS, Population
from astro_utils.sky.profile_bank import profile_bank
from astro_utils.sky.seds import component_fluxes, load_seds
from astro_utils.sky.simulate import Simulation, field_conditions
from astro_utils.sky.surveys import LEGACY, SDSS, SURVEYS

SEED = 8
GAIN, SIGMA = np.array(SDSS.gain), SDSS.sky_sigma
BANDS = SDSS.bands


def per_band(table, name):
    return table[[f"{name}_{band}" for band in BANDS]].to_numpy(float)


def model_r(table):
    return (table["dered_r"] + table["extinction_r"]).to_numpy()


def simulated(programme, n, **limits):
    """Stamps and catalogue of one programme."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(POPULATIONS, "one", Population("one", {programme: 1.0}, **limits))
        block = Simulation(n_objects=n, population="one", seed=SEED)(0)
    return block.images, block.catalogue


def simulated_anew(table, seed):
    """Stamps of the objects as the table describes them, with other noise, and what is measured on them."""
    rng, seds = np.random.default_rng(seed), load_seds("kcorrect")
    images = np.empty((len(table), 5, 32, 32), np.float32)
    for field, rows in table.groupby("field").indices.items():
        drawn = field_conditions(SDSS, SEED, int(field))
        objects = table.iloc[rows].assign(x=rng.uniform(-0.5, 0.5, len(rows)), y=0.1)
        fluxes = component_fluxes(objects, SDSS, seds, objects["ebv"].to_numpy())
        clean = render(objects, *fluxes, field_psf(SDSS, drawn, 32), SDSS, 32)
        images[rows] = with_noise(clean, per_band(objects, "sigma")[0], GAIN, rng)
    return remeasure(images, table, SDSS, SEED)


@pytest.fixture(scope="module")
def stars():
    return simulated("blue_stars", 512, r_limits=(18.0, 19.5))


@pytest.fixture(scope="module")
def faint_stars(stars):
    """The stars at r of 21 to 22: dimmed, and simulated there."""
    images, table = stars
    r_new = np.random.default_rng(1).uniform(21, 22, len(table))
    _, dimmed = degrade(images, table, SDSS, r_new, np.random.default_rng(2), SEED)
    return dimmed, simulated_anew(dimmed, 3), r_new


@pytest.fixture(scope="module")
def galaxies():
    return simulated("intermediate", 384, r_limits=(17.5, 19.0), max_size=0.8)


# ------------------------------------------------------------------------------------------------- the noise


@pytest.mark.parametrize("factor", [0.03, 0.5, 0.9])
def test_dimmed_sky_has_the_noise_of_the_sky(factor):
    """In u, where a photo-electron counts most, clipping noisy signals would add 1.5 % of variance."""
    rng = np.random.default_rng(0)
    sky = np.float32(SIGMA)[:, None, None] * rng.standard_normal((250, 5, 32, 32), dtype=np.float32)
    dimmed = dim(sky, np.full(250, factor), np.tile(SIGMA, (250, 1)), GAIN, rng)
    np.testing.assert_allclose(dimmed.var((0, 2, 3)) / SIGMA**2, 1, atol=0.008)
    np.testing.assert_array_less(np.abs(dimmed.mean((0, 2, 3)) / SIGMA), 0.008)
    clipped = 0.25 / np.sqrt(2 * np.pi) / (SIGMA * GAIN)
    assert clipped[0] == pytest.approx(0.015, abs=0.001)


@pytest.mark.parametrize("factor", [0.02, 0.3, 0.8])
def test_dimmed_pixels_have_the_noise_of_faint_ones(factor):
    """Each pixel of a star of r = 17, from its core to the sky."""
    point = profile_bank(SDSS.pixel_scale, 16).point(SDSS, 1.3).reshape(16, 16)
    star, n = np.tile(160 * point, (5, 1, 1)), 2000
    rng = np.random.default_rng(1)
    noisy = with_noise(np.tile(star, (n, 1, 1, 1)), SIGMA, GAIN, rng)
    dimmed = dim(noisy, np.full(n, factor), np.tile(SIGMA, (n, 1)), GAIN, rng)
    variance = SIGMA[:, None, None] ** 2 + factor * star / GAIN[:, None, None]
    assert variance[0].max() > (1.1 if factor < 0.1 else 2) * variance[0].min()
    ratio = dimmed.var(0) / variance
    np.testing.assert_allclose(ratio, 1, atol=6 * np.sqrt(2 / n))
    core = star[0] > 0.2 * star[0].max()
    np.testing.assert_allclose([band[core].mean() for band in ratio], 1, atol=6 * np.sqrt(2 / n / core.sum()))
    deviate = (dimmed.mean(0) - factor * star) / np.sqrt(variance / n)
    assert np.abs(deviate).max() < 5 and deviate.std() == pytest.approx(1, abs=0.1)


def test_each_stamp_is_dimmed_by_its_own_factor_and_those_of_factor_one_not_at_all(stars):
    images, table = stars[0][:40], stars[1][:40]
    factors = np.linspace(0.05, 1, 40)
    dimmed = dim(images, factors, per_band(table, "sigma"), GAIN, np.random.default_rng(0))
    assert dimmed.dtype == np.float32
    np.testing.assert_array_equal(dimmed[-1], images[-1])
    light = [part[:, 2, 12:20, 12:20].sum((1, 2)) for part in (images, dimmed)]
    np.testing.assert_allclose(light[1] / light[0], factors, atol=0.05)


def test_missing_pixels_stay_missing(stars):
    images = stars[0][:3].copy()
    images[0, 4], images[1, :, :5] = 0, 0
    dimmed = dim(images, np.full(3, 0.1), np.tile(SIGMA, (3, 1)), GAIN, np.random.default_rng(0))
    np.testing.assert_array_equal(dimmed == 0, images == 0)


def test_the_generator_decides_the_noise(stars):
    first, again, other = (
        dim(stars[0][:2], np.full(2, 0.1), np.tile(SIGMA, (2, 1)), GAIN, np.random.default_rng(seed))
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.corrcoef((first - 0.1 * stars[0][:2]).ravel(), (other - 0.1 * stars[0][:2]).ravel())[0, 1] < 0.1


# ---------------------------------------------------------------------------------------------- dimmed stars


def test_psf_fluxes_of_dimmed_stars_are_the_true_ones_within_their_errors(faint_stars):
    dimmed, _, _ = faint_stars
    pull = (per_band(dimmed, "psf_flux") - per_band(dimmed, "true_flux")) * np.sqrt(
        per_band(dimmed, "psf_flux_ivar")
    )
    np.testing.assert_array_less(np.abs(pull.mean(0)), 4.5 / np.sqrt(len(pull)))
    np.testing.assert_allclose(pull.std(0), 1, atol=0.1)


@pytest.mark.parametrize("name", ["psf_flux_ivar", "model_flux_ivar", "petro_flux_ivar"])
def test_errors_of_dimmed_stars_are_those_of_faint_ones(faint_stars, name):
    dimmed, anew, _ = faint_stars
    ratio = np.median(per_band(dimmed, name), 0) / np.median(per_band(anew, name), 0)
    np.testing.assert_allclose(ratio, 1, atol=0.01 if name == "psf_flux_ivar" else 0.06)


def test_dimmed_stars_have_the_magnitudes_asked_for(faint_stars):
    dimmed, _, r_new = faint_stars
    sigma = 2.5 / np.log(10) / (dimmed["model_flux_r"] * np.sqrt(dimmed["model_flux_ivar_r"]))
    pull = (model_r(dimmed) - r_new) / sigma
    assert abs(pull.median()) < 0.3 and pull.std() == pytest.approx(1, abs=0.25)


def colour_errors(table):
    """Measured minus true colours."""
    true = 22.5 - 2.5 * np.log10(per_band(table, "true_flux"))
    return table[["u_g", "g_r", "r_i", "i_z"]].to_numpy() + np.diff(true, axis=1)


def test_dimmed_stars_scatter_in_colour_as_faint_stars_do(faint_stars):
    dimmed, anew, _ = faint_stars
    first, second = (np.percentile(colour_errors(table), [16, 50, 84], axis=0) for table in (dimmed, anew))
    width = (second[2] - second[0]) / 2
    np.testing.assert_array_less(np.abs(first[1] - second[1]), 0.2 * width)
    np.testing.assert_allclose((first[2] - first[0]) / 2 / width, 1, atol=0.2)
    for dimmed_band, anew_band in zip(colour_errors(dimmed).T, colour_errors(anew).T, strict=True):
        assert ks_2samp(dimmed_band, anew_band).pvalue > 1e-3


@pytest.mark.parametrize("band", ["g", "r", "i"])
def test_dimmed_stars_are_as_compact_as_faint_stars(stars, faint_stars, band):
    """Fitted radii of faint stars scatter far more than those of bright ones."""
    bright, dimmed, anew = (
        table[f"radius_{band}"] / table[f"psffwhm_{band}"] for table in (stars[1], *faint_stars[:2])
    )
    assert ks_2samp(dimmed, anew).pvalue > 1e-3 > ks_2samp(dimmed, bright).pvalue
    np.testing.assert_allclose(dimmed.quantile([0.5, 0.84]), anew.quantile([0.5, 0.84]), atol=0.04)


def test_true_brightness_is_dimmed_with_the_pixels_and_nothing_else_that_is_true(stars, faint_stars):
    table, (dimmed, _, r_new) = stars[1], faint_stars
    np.testing.assert_allclose(dimmed["r_mag"] - table["r_mag"], r_new - model_r(table), atol=8e-3)
    ratio = per_band(dimmed, "true_flux") / per_band(table, "true_flux")
    np.testing.assert_allclose(
        -2.5 * np.log10(ratio), (dimmed["r_mag"] - table["r_mag"]).to_numpy()[:, None] * [[1] * 5]
    )
    kept = ["object_id", "class", "programme", "star", "tilt", "field", "ebv", "ra", "z"]
    kept += [f"{name}_{band}" for name in ("psffwhm", "sigma", "extinction") for band in BANDS]
    pd.testing.assert_frame_equal(dimmed[kept], table[kept])
    assert list(dimmed) == list(table) and (dimmed.dtypes == table.dtypes).all()


# ------------------------------------------------------------------------------------------- dimmed galaxies


def test_dimmed_galaxies_keep_their_angular_size(galaxies):
    images, table = galaxies
    resolved = (table["radius"] > 0.4).to_numpy()
    images, table = images[resolved], table[resolved].reset_index(drop=True)
    _, dimmed = degrade(images, table, SDSS, model_r(table) + 1.5, np.random.default_rng(4), SEED)
    anew = simulated_anew(dimmed, 5)
    for name, tolerance in (
        ("radius_r", 0.06),
        ("radius_i", 0.06),
        ("petro_r50", 0.03),
        ("moment_size", 0.03),
    ):
        before, after, there = (part[name].median() for part in (table, dimmed, anew))
        assert after / before == pytest.approx(1, abs=tolerance), name
        assert after / there == pytest.approx(1, abs=tolerance), name
    np.testing.assert_allclose(dimmed["abs_mag"] - table["abs_mag"], 1.5, atol=1e-3)
    np.testing.assert_allclose(dimmed["c2"], table["c2"] * 10 ** (-0.4 * 1.5), rtol=1e-3)


# ---------------------------------------------------------------------------------------------- measured anew


def test_measuring_again_is_exact_where_the_seed_is_known(galaxies):
    images, table = galaxies
    pd.testing.assert_frame_equal(remeasure(images, table, SDSS, SEED), table, check_exact=True)
    same, again = degrade(images, table, SDSS, model_r(table), np.random.default_rng(0), SEED)
    np.testing.assert_array_equal(same, images)
    pd.testing.assert_frame_equal(again, table, check_exact=True)


@pytest.mark.parametrize("survey", ["legacy", "panstarrs"])
def test_other_surveys_are_measured_again_as_well(survey):
    block = Simulation(n_objects=24, survey=survey, seed=SEED, size=24)(0)
    again = remeasure(block.images, block.catalogue, SURVEYS[survey], SEED)
    pd.testing.assert_frame_equal(again, block.catalogue, check_exact=True)


def test_rows_in_any_order_and_fields_of_one_object_are_measured_alike(galaxies):
    rows = np.random.default_rng(0).permutation(384)[:30]
    images, table = galaxies[0][rows], galaxies[1].iloc[rows]
    some = remeasure(images, table, SDSS, SEED)
    assert list(some.index) == list(rows)
    for name in (*MARGNET_FEATURES, "psf_flux_g", "petro_r50"):
        np.testing.assert_allclose(some[name], table[name], atol=2e-3, rtol=1e-4, err_msg=name)
    one = remeasure(images[7:8], table.iloc[7:8], SDSS, SEED)
    np.testing.assert_allclose(
        one[list(MARGNET_FEATURES)], table[list(MARGNET_FEATURES)].iloc[7:8], atol=2e-3
    )


def test_without_the_seed_the_psf_is_round_which_changes_little(stars):
    images, table = stars
    blind = remeasure(images, table, SDSS)
    assert (blind["dered_r"] - table["dered_r"]).abs().quantile(0.95) < 0.007
    assert (blind["g_r"] - table["g_r"]).abs().quantile(0.95) < 0.002
    assert (blind["radius_r"] - table["radius_r"]).abs().quantile(0.95) < 0.03
    # PSF fluxes lack a factor that is one for each field.
    ratio = (table["psf_flux_r"] / blind["psf_flux_r"]).groupby(table["field"])
    assert ratio.std().max() < 1e-3 < 0.01 < ratio.mean().std()


def test_tables_with_nothing_but_the_features_are_enough(stars):
    """As published ones are: no noise of the sky, no seed, a field for every few objects."""
    images, table = stars[0][:60], stars[1][:60]
    table = table[["object_id", "class", *MARGNET_FEATURES]].astype(
        dict.fromkeys(MARGNET_FEATURES, np.float32)
    )
    table["model_r"] = model_r(table)
    again = remeasure(images, table, SDSS)
    assert list(again) == list(table) and (again.dtypes == table.dtypes).all()
    np.testing.assert_allclose(again[list(MARGNET_FEATURES)], table[list(MARGNET_FEATURES)], atol=0.1)
    fainter, dimmed = degrade(images, table, SDSS, model_r(table) + 2, np.random.default_rng(0))
    assert list(dimmed) == list(table) and np.isfinite(fainter).all()
    np.testing.assert_allclose(dimmed["model_r"], model_r(dimmed), atol=1e-5)
    assert (dimmed["model_r"] - table["model_r"]).median() == pytest.approx(2, abs=0.02)
    np.testing.assert_array_equal(dimmed["psffwhm_z"], table["psffwhm_z"])


def test_features_that_are_not_there_are_added(stars):
    conditions = [f"{name}_{band}" for name in ("psffwhm", "extinction") for band in BANDS]
    again = remeasure(stars[0][:20], stars[1][:20][conditions], SDSS)
    assert set(again) == set(MARGNET_FEATURES) and np.isfinite(again).all(axis=None)


def test_blank_bands_are_flagged_after_dimming_too(stars):
    images, table = stars[0][:20].copy(), stars[1][:20]
    images[5, 4] = 0
    _, dimmed = degrade(images, table, SDSS, model_r(table) + 1, np.random.default_rng(0), SEED)
    assert dimmed["blank"].tolist() == [row == 5 for row in range(20)]
    assert dimmed["psf_flux_ivar_z"][5] == 0 < dimmed["psf_flux_ivar_z"][6]


# ------------------------------------------------------------------------------------------ noise of the sky


def test_border_noise_is_that_of_the_sky_whatever_is_in_the_middle(stars, galaxies):
    for images, table in (stars, galaxies):
        ratio = border_noise(images) / per_band(table, "sigma")
        np.testing.assert_allclose(np.median(ratio, 0), 1, atol=0.015)
        np.testing.assert_allclose(ratio.std(0), 0.062, atol=0.012)


def test_border_noise_is_read_from_the_border_alone():
    images = np.zeros((1, 2, 12, 12), np.float32)
    images[0, 0] = 5 + np.where(np.arange(144).reshape(12, 12) % 2, 2.0, -2.0)
    images[:, :, 3:9, 3:9] = 1e4
    images[0, 0, :2] = 0  # missing
    noise = border_noise(images)
    assert noise[0, 0] == pytest.approx(1.4826 * 2) and np.isnan(noise[0, 1])


def test_noise_of_a_field_is_the_median_of_its_objects(stars):
    images, table = stars[0][:256].copy(), stars[1][:256].drop(columns=[f"sigma_{b}" for b in BANDS])
    images[3], images[:128, 1] = 0, 0
    noise = sky_noise(images, table, SDSS)
    true = per_band(stars[1][:256], "sigma")
    np.testing.assert_allclose(noise[:, [0, 2, 3, 4]], true[:, [0, 2, 3, 4]], rtol=0.03)
    assert (noise[:128] == noise[0]).all() and (noise[128:] == noise[128]).all()
    assert (noise[:128, 1] == SDSS.sky_sigma[1]).all(), "no pixel to tell"
    np.testing.assert_array_equal(sky_noise(images, stars[1][:256], SDSS), true)


# ------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (-0.1, r"row 1: r_new is .*; expected a magnitude from .*, that of now"),
        (np.nan, "row 1: r_new is nan"),
        (9.0, r"row 1: r_new is 2\d\.\d+; .* to that of zero flux"),
    ],
)
def test_magnitudes_that_dimming_cannot_reach_are_named(stars, change, message):
    r_new = model_r(stars[1][:4]) + np.array([0.5, change, change, 1.0])
    with pytest.raises(ValueError, match=message):
        degrade(stars[0][:4], stars[1][:4], SDSS, r_new, np.random.default_rng(0))


def test_one_magnitude_for_all_is_refused(stars):
    with pytest.raises(ValueError, match=r"r_new has shape \(1,\); expected \(4,\)"):
        degrade(stars[0][:4], stars[1][:4], SDSS, [22.0], np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factors": np.array([0.5, 1.01])}, r"factor 1\.01 of row 1 is not above 0 and at most 1"),
        ({"factors": np.array([0.0, 0.5])}, "factor 0 of row 0"),
        ({"factors": np.array([0.5, np.nan])}, "factor nan of row 1"),
        ({"factors": np.array([0.5])}, r"factors \(1,\), .* expected \(N, bands, ny, nx\), \(N,\)"),
        ({"sigma": SIGMA}, r"sigma \(5,\)"),
        ({"gain": GAIN[:4]}, r"gain has shape \(4,\); expected \(5,\)"),
    ],
)
def test_bad_factors_and_shapes_are_named(stars, changes, message):
    good = {"factors": np.full(2, 0.5), "sigma": np.tile(SIGMA, (2, 1)), "gain": GAIN}
    with pytest.raises(ValueError, match=message):
        dim(stars[0][:2], **(good | changes), rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "seed", "message"),
    [
        (
            lambda t: t.drop(columns=["psffwhm_g", "psffwhm_z"]),
            None,
            "lacks psffwhm_g, psffwhm_z, of the cond",
        ),
        (lambda t: t.drop(columns="extinction_u"), None, "lacks extinction_u"),
        (
            lambda t: t.assign(psffwhm_i=[1.0, 0.0, 1.0]),
            None,
            "column psffwhm_i is 0 in row 1; expected more than",
        ),
        (lambda t: t.assign(extinction_i=[1.0, 0.0, np.nan]), None, "column extinction_i is nan in row 2"),
        (lambda t: t.assign(sigma_u=-1.0), None, "column sigma_u is -1 in row 0"),
        (lambda t: t.drop(columns="field"), SEED, "the table lacks field"),
        (lambda t: t, SEED + 1, r"field 0 has psffwhm_u = .*, but seed 9 drew .* another seed"),
        (lambda t: t[:2], None, "3 stamps and 2 rows; expected as many of each"),
    ],
)
def test_bad_tables_are_named(stars, change, seed, message):
    with pytest.raises(ValueError, match=message):
        remeasure(stars[0][:3], change(stars[1][:3]), SDSS, seed)


def test_nothing_and_other_bands_are_refused(stars):
    with pytest.raises(ValueError, match="0 stamps and 0 rows"):
        remeasure(stars[0][:0], stars[1][:0], SDSS)
    with pytest.raises(ValueError, match=r"images have shape \(3, 5, 32, 32\); expected 3 bands of legacy"):
        remeasure(stars[0][:3], stars[1][:3], LEGACY)
    with pytest.raises(ValueError, match=r"shape \(2, 5, 6, 6\); expected .* 8 pixels or more"):
        border_noise(np.ones((2, 5, 6, 6)))
