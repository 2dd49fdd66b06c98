"""Redshifts from images: light in pixels, ideal measurements, features, tasks and scores."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from astro_utils import photoz
from astro_utils import photoz_images as methods
from astro_utils.photometry import SDSS_BANDS
from astro_utils.photoz_features import SETS, ZERO_POINT_ERRORS, features, with_zero_points
from astro_utils.photoz_images import (
    BOTH,
    CEILING,
    IMAGES,
    MEASURED,
    PHOTOMETRY,
    PHOTOMETRY_ENCODER,
    Budget,
    Task,
    run_tasks,
)
from astro_utils.photoz_light import MAIN, SCALES, adaptive_shapes, elliptical_light, light_features
from astro_utils.photoz_scores import ENSEMBLE, TRIVIAL, gain_rows, predictions
from astro_utils.photoz_sky import R_LIMIT, Galaxies, MainSky, light_names, main_sample, read_galaxies
from astro_utils.sky.images import field_psf, render, with_noise
from astro_utils.sky.seds import component_fluxes, load_seds
from astro_utils.sky.simulate import Simulation, field_conditions, per_band
from astro_utils.sky.surveys import SDSS

SIMULATION = Simulation(n_objects=256, population="main_galaxies", seed=4, objects_per_field=64)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def spots(xx, yy, xy, x=0.0, y=0.0, side=32):
    """Elliptical Gaussians of unit flux, one a row."""
    xx, yy, xy, x, y = (np.atleast_1d(np.asarray(v, float))[:, None, None] for v in (xx, yy, xy, x, y))
    grid = np.arange(side) - (side - 1) / 2
    dx, dy, determinant = grid - x, grid[:, None] - y, xx * yy - xy**2
    form = (yy * dx**2 + xx * dy**2 - 2 * xy * dx * dy) / determinant
    return np.exp(-0.5 * form) / (2 * np.pi * np.sqrt(determinant))


# --------------------------------------------------------------------------------------- light in pixels


def test_shapes_of_elliptical_gaussians_are_found():
    xx, yy, xy = np.array([6.0, 9.0, 4.0]), np.array([4.0, 5.0, 8.0]), np.array([0.0, 2.0, -1.5])
    x, y = np.array([0.4, -0.5, 0.0]), np.array([-0.3, 0.2, 0.6])
    found = adaptive_shapes(100 * spots(xx, yy, xy, x, y))
    for name, expected in (("x", x), ("y", y), ("xx", xx), ("yy", yy), ("xy", xy)):
        np.testing.assert_allclose(getattr(found, name), expected, atol=0.02)
    np.testing.assert_allclose(found.size, np.sqrt((xx + yy) / 2), atol=0.01)
    np.testing.assert_allclose(found.ellipticity, np.hypot(xx - yy, 2 * xy) / (xx + yy), atol=0.01)


def test_a_weight_stays_between_a_pixel_and_the_stamp_and_near_its_middle():
    empty, point, flat = np.zeros((32, 32)), np.zeros((32, 32)), np.ones((32, 32))
    point[16, 16] = 1.0
    corner = np.roll(spots(4, 4, 0)[0], 9, axis=1)
    found = adaptive_shapes(np.stack([empty, -flat, point, flat, corner]))
    axes = np.stack([found.size**2 * (1 - found.ellipticity), found.size**2 * (1 + found.ellipticity)])
    assert np.isfinite(axes).all() and (axes > 0.99).all() and (axes < 36.01).all()
    assert (np.abs([found.x, found.y]) <= 1.5).all()
    assert found.size[3] == pytest.approx(6.0) and found.size[2] == pytest.approx(1.0)


def test_light_is_the_sum_of_pixels_under_its_weight():
    stamp = 50 * spots(6, 4, 1, 0.3, -0.2)[0]
    images = np.stack([stamp * f for f in (0.2, 0.8, 1.0, 1.1, 1.3)])[None].astype(np.float32)
    light, shapes = elliptical_light(images, SDSS)
    assert light.shape == (1, len(SCALES), 5)
    for scale, row in zip(SCALES, light[0], strict=True):
        s2 = scale**2
        weight = spots(s2 * shapes.xx, s2 * shapes.yy, s2 * shapes.xy, shapes.x, shapes.y)[0]
        weight /= np.sqrt((weight**2).sum())
        np.testing.assert_allclose(row, (images[0] * weight).sum((1, 2)), rtol=1e-4)


def test_the_noise_of_light_is_that_of_a_pixel():
    rng = np.random.default_rng(0)
    galaxy = 300 * spots(6, 4, 1).astype(np.float32)
    noise = (SDSS.sky_sigma[:, None, None] * rng.standard_normal((600, 5, 32, 32))).astype(np.float32)
    light, _ = elliptical_light(galaxy[:, None] + noise, SDSS)
    np.testing.assert_allclose(light.std(0) / SDSS.sky_sigma, 1.0, atol=0.13)


def test_turning_a_stamp_changes_no_light():
    rng = np.random.default_rng(1)
    images = rng.normal(0, 0.02, (4, 5, 32, 32)) + 80 * spots([5, 6, 7, 8], 4, 1, 0.3, 0.1)[:, None]
    light, shapes = elliptical_light(images, SDSS)
    for turned in (np.rot90(images, 1, (2, 3)), images[..., ::-1]):
        again, other = elliptical_light(np.ascontiguousarray(turned), SDSS)
        np.testing.assert_allclose(again, light, rtol=2e-3)
        np.testing.assert_allclose(other.size, shapes.size, rtol=1e-3)


def test_stamps_of_other_bands_or_forms_are_refused():
    with pytest.raises(ValueError, match=r"stamps of shape \(3, 32, 32\); expected 5 bands of square stamps"):
        elliptical_light(np.zeros((2, 3, 32, 32)), SDSS)
    with pytest.raises(ValueError, match=r"\(5, 32, 30\); expected 5 bands of square"):
        elliptical_light(np.zeros((2, 5, 32, 30)), SDSS)


def test_features_of_light_are_a_magnitude_colours_and_their_changes():
    rng = np.random.default_rng(2)
    light = 1e4 * SDSS.sky_sigma * rng.uniform(1, 3, (7, len(SCALES), 5))
    dust = np.full((7, 5), 0.1)
    known = light_features(light, dust, SDSS)
    assert known.shape == (7, 9 + 5 * (len(SCALES) - 1)) and known.dtype == np.float32
    magnitude = -2.5 * np.log10(light * 10 ** (0.4 * dust[:, None]) / SDSS.sky_sigma)
    np.testing.assert_allclose(known[:, :5], magnitude[:, MAIN], atol=1e-4)
    np.testing.assert_allclose(known[:, 5:9], -np.diff(magnitude[:, MAIN]), atol=1e-4)
    np.testing.assert_allclose(known[:, 9:14], np.diff(magnitude[:, :, 2], axis=1), atol=1e-4)
    change = np.diff(-np.diff(magnitude, axis=2), axis=1).reshape(7, -1)
    np.testing.assert_allclose(known[:, 14:], change, atol=1e-4)
    brighter = light_features(light * 10**0.4, dust, SDSS) - known
    np.testing.assert_allclose(brighter[:, :5], -1.0, atol=1e-4)
    np.testing.assert_allclose(brighter[:, 5:], 0.0, atol=1e-4)
    moved = np.full((7, 5), [0.2, 0.1, 0.1, 0.1, 0.1])  # in u: a magnitude and a colour change
    difference = light_features(light, moved, SDSS) - known
    expected = np.zeros(known.shape[1])
    expected[[0, 5]] = -0.1
    np.testing.assert_allclose(difference, np.broadcast_to(expected, known.shape), atol=1e-4)


# -------------------------------------------------------------------------------------------- the sample


@pytest.fixture(scope="module")
def parent():
    return SIMULATION(0)


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory):
    path = tmp_path_factory.mktemp("main") / "main.h5"
    return read_galaxies(main_sample(path, 256, seed=4))


def test_galaxies_of_the_main_sample_are_kept_and_no_others(parent, galaxies):
    petro = 22.5 - 2.5 * np.log10(parent.catalogue["petro_flux_r"]) - parent.catalogue["extinction_r"]
    chosen = (petro <= R_LIMIT).to_numpy()
    assert 0.85 < chosen.mean() < 1.0
    np.testing.assert_array_equal(galaxies.images, parent.images[chosen])
    expected = parent.catalogue[chosen].reset_index(drop=True)
    for name in ("object_id", "z", "model_flux_u", "psffwhm_r", "petro_r50"):
        np.testing.assert_array_equal(galaxies.table[name], expected[name])
    np.testing.assert_allclose(galaxies.sample["petro_mag_r"], petro[chosen], atol=1e-3)
    np.testing.assert_array_equal(galaxies.sample["z"], galaxies.table["z"])
    assert galaxies.table["field"].nunique() == 4
    light, _ = elliptical_light(galaxies.images, SDSS)
    np.testing.assert_allclose(galaxies.light(), light, rtol=1e-5)


def test_no_truth_but_shapes_and_ideal_fluxes_is_kept(galaxies):
    assert not set(galaxies.table) & {"abs_mag", "rest_gr", "r_mag", "parent", "ebv", "true_flux_r", "c0"}


def test_ideal_fluxes_scatter_about_the_truth_by_their_errors(parent, galaxies):
    rows = parent.catalogue["object_id"].isin(galaxies.table["object_id"]).to_numpy()
    truth = parent.catalogue[rows].reset_index(drop=True)
    _, bulge, disc = component_fluxes(truth, SDSS, load_seds("kcorrect"), truth["ebv"].to_numpy())
    for name, flux in (("ideal_flux", bulge + disc), ("ideal_bulge", bulge), ("ideal_disc", disc)):
        error = galaxies.columns(name.replace("flux", "error") if name == "ideal_flux" else f"{name}_error")
        pull = (galaxies.columns(name) - flux) / error
        np.testing.assert_allclose(pull.std(0), 1.0, atol=0.15)
        np.testing.assert_allclose(pull.mean(0), 0.0, atol=0.22)
    # With the ratio of bulge and disc unknown, their sum is known less well than by the matched filter.
    together = galaxies.columns("ideal_bulge") + galaxies.columns("ideal_disc") - bulge - disc
    assert (together / galaxies.columns("ideal_error")).std() > 1.05


def test_ideal_errors_are_those_of_a_fit_to_noisy_pixels(parent, galaxies):
    """Known profiles are fitted to many noisy stamps of one galaxy, band by band."""
    row = int(np.flatnonzero(galaxies.table["radius"].between(1.5, 2.5))[0])
    truth = parent.catalogue[parent.catalogue["object_id"] == galaxies.table["object_id"][row]]
    _, bulge, disc = component_fluxes(truth, SDSS, load_seds("kcorrect"), truth["ebv"].to_numpy())
    conditions = field_conditions(SDSS, SIMULATION.seed, int(truth["field"].iloc[0]))
    psf, shape = field_psf(SDSS, conditions, 32), truth.assign(x=0.0, y=0.0)
    sigma, gain = per_band(conditions, "sigma", SDSS), np.array(SDSS.gain)
    zero, one = np.zeros((1, 5)), np.ones((1, 5))
    clean = render(shape, zero, bulge, disc, psf, SDSS, 32)
    parts = [render(shape, zero, b, d, psf, SDSS, 32)[0] for b, d in ((one, zero), (zero, one))]
    many = np.repeat(clean, 500, axis=0)
    noisy = with_noise(many, sigma, gain, np.random.default_rng(0))
    for b in range(5):
        weight = 1 / np.sqrt(sigma[b] ** 2 + np.maximum(clean[0, b], 0) / gain[b]).ravel()
        data = (noisy[:, b].reshape(500, -1) * weight).T
        single = clean[0, b].ravel()[:, None] / (bulge + disc)[0, b]
        for templates, names in (
            (single, ["ideal_error"]),
            (np.stack([part[b].ravel() for part in parts], 1), ["ideal_bulge_error", "ideal_disc_error"]),
        ):
            fluxes, *_ = np.linalg.lstsq(templates * weight[:, None], data, rcond=None)
            expected = [galaxies.columns(name)[row, b] for name in names]
            np.testing.assert_allclose(fluxes.std(1), expected, rtol=0.12)


def test_other_surveys_and_populations_are_refused():
    for wrong in (replace(SIMULATION, population="spectroscopic"), replace(SIMULATION, survey="legacy")):
        with pytest.raises(ValueError, match="expected 'sdss' and 'main_galaxies'"):
            MainSky(wrong)


# ---------------------------------------------------------------------------------------------- features


def test_sets_of_features_are_joined_in_order(galaxies):
    single = [features(galaxies.table, galaxies.sample, (name,)) for name in SETS]
    joined = features(galaxies.table, galaxies.sample, tuple(SETS))
    np.testing.assert_array_equal(joined, np.concatenate(single, 1))
    assert joined.dtype == np.float32 and len(joined) == len(galaxies.table)
    study = photoz.features(galaxies.sample, photoz.OPTICAL)
    np.testing.assert_allclose(single[0], study, rtol=1e-6)
    assert np.isfinite(joined).mean() > 0.999


def test_an_unknown_set_is_refused(galaxies):
    with pytest.raises(ValueError, match="feature set 'pixels'; expected some of photometry, shapes"):
        features(galaxies.table, galaxies.sample, ("photometry", "pixels"))


def test_methods_without_pixels_read_none_and_no_method_reads_the_ideal(galaxies):
    """A feature set reads the columns that it says, and the ceilings alone read what is ideal."""
    hidden = galaxies.table.copy()
    truth = [c for c in hidden if c.startswith("ideal")]
    truth += ["radius", "bulge_fraction", "bulge_radius", "disc_radius", "bulge_q", "disc_q"]
    hidden[truth] = np.nan
    no_pixels = galaxies.table.copy()
    no_pixels[[*light_names(), "light_size", "light_ellipticity"]] = np.nan
    for name, method in methods.METHODS.items():
        expected = features(galaxies.table, galaxies.sample, method.features)
        same = np.array_equal(features(hidden, galaxies.sample, method.features), expected, equal_nan=True)
        assert same == ("ceiling" not in name), name
        same = np.array_equal(features(no_pixels, galaxies.sample, method.features), expected, equal_nan=True)
        assert same == ("light" not in method.features), name


def test_errors_of_zero_points_are_shared_by_all_that_a_field_shows(galaxies):
    table, sample = with_zero_points(galaxies.table)
    shift = {b: sample[f"model_mag_{b}"] - galaxies.sample[f"model_mag_{b}"] for b in SDSS_BANDS}
    for i, b in enumerate(SDSS_BANDS):
        factor = table[f"model_flux_{b}"] / galaxies.table[f"model_flux_{b}"]
        per_field = factor.groupby(galaxies.table["field"])
        np.testing.assert_allclose(per_field.max(), per_field.min(), rtol=1e-6)
        assert per_field.first().nunique() == 4
        for name in (
            "petro_flux",
            "psf_flux",
            "ideal_flux",
            "ideal_disc",
            "ideal_bulge_error",
            "light0",
            "light5",
        ):
            np.testing.assert_allclose(
                table[f"{name}_{b}"] / galaxies.table[f"{name}_{b}"], factor, rtol=1e-5
            )
        before, after = (
            t[f"petro_flux_{b}"] * t[f"petro_flux_ivar_{b}"] ** 0.5 for t in (galaxies.table, table)
        )
        np.testing.assert_allclose(after, before, rtol=1e-5)  # signal over noise stays
        assert shift[b].abs().max() < 4 * ZERO_POINT_ERRORS[i]
    many = pd.concat([galaxies.table.assign(field=galaxies.table["field"] + 4 * k) for k in range(60)])
    moved, _ = with_zero_points(many.reset_index(drop=True))
    factor = moved["model_flux_u"].to_numpy() / many["model_flux_u"].to_numpy()
    by_field = pd.Series(-2.5 * np.log10(factor)).groupby(many["field"].to_numpy()).first()
    assert by_field.std() == pytest.approx(0.02, rel=0.2)


# ------------------------------------------------------------------------------------------------- tasks

BUDGET = Budget(epochs=4, image_epochs=1, views=2)


def task(method, seed=0, **more):
    return Task("main", method, seed, BUDGET, 2, **more)


def run(todo, galaxies, folder):
    return {one: cdf for _, one, cdf in run_tasks(todo, galaxies, folder, workers=1)}


@pytest.fixture(scope="module")
def answers(galaxies, tmp_path_factory):
    todo = [task(m, seed) for m in (PHOTOMETRY, MEASURED, BOTH, IMAGES) for seed in (0, 1)]
    return run(todo, galaxies, tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def table(answers, galaxies):
    return predictions(answers, galaxies)


def test_answers_are_distributions_of_the_test_set(answers, galaxies):
    _, test, _ = photoz.split(galaxies.sample, 0, 0, 2)
    assert len(answers) == 8
    for cdf in answers.values():
        assert cdf.shape == (len(test), len(photoz.GRID)) and cdf.dtype == np.float32
        assert (np.diff(cdf, axis=1) > -1e-6).all() and cdf.min() >= 0 and cdf.max() < 1 + 1e-5
    flat = list(answers.values())
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(flat) for b in flat[:i])


def test_what_is_done_is_read_and_what_is_new_is_run(galaxies, tmp_path):
    first = run([task(PHOTOMETRY)], galaxies, tmp_path)
    (path,) = tmp_path.iterdir()
    before = path.stat().st_mtime_ns
    again = run([task(PHOTOMETRY)], galaxies, tmp_path)
    np.testing.assert_array_equal(*(a[task(PHOTOMETRY)] for a in (first, again)))
    assert path.stat().st_mtime_ns == before
    run([task(PHOTOMETRY, zero_points=True)], galaxies, tmp_path)
    longer = Task("main", PHOTOMETRY, 0, replace(BUDGET, epochs=2), 2)
    run([longer], galaxies, tmp_path)
    moved = Galaxies(galaxies.table.assign(z=galaxies.table["z"] + 1e-6), galaxies.sample, galaxies.images)
    run([task(PHOTOMETRY)], moved, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_images_alone_read_no_catalogue_fluxes(galaxies, answers, tmp_path):
    spoilt = galaxies.table.copy()
    names = [f"{kind}_flux_{b}" for kind in ("model", "petro", "psf") for b in SDSS_BANDS]
    spoilt[names] = spoilt[names].to_numpy()[::-1]
    other = Galaxies(spoilt, galaxies.sample, galaxies.images)
    cdf = run([task(IMAGES)], other, tmp_path)[task(IMAGES)]
    np.testing.assert_array_equal(cdf, answers[task(IMAGES)])


@pytest.mark.parametrize("method", [PHOTOMETRY, BOTH])
def test_redshifts_of_the_test_set_are_not_learnt_from(galaxies, answers, tmp_path, method):
    _, test, _ = photoz.split(galaxies.sample, 0, 0, 2)
    z = galaxies.sample["z"].to_numpy().copy()
    z[test] = 0.4
    other = Galaxies(galaxies.table.assign(z=z), galaxies.sample.assign(z=z), galaxies.images)
    for seed in (0, 1):
        cdf = run([task(method, seed)], other, tmp_path)[task(method, seed)]
        np.testing.assert_array_equal(cdf, answers[task(method, seed)])


def test_members_are_averaged(galaxies, tmp_path):
    todo = [
        Task("main", PHOTOMETRY_ENCODER, 0, replace(BUDGET, members=n, image_members=3), 2) for n in (1, 2)
    ]
    one, two = run(todo, galaxies, tmp_path).values()
    assert two.max() < 1 + 1e-5 and two[:, -1].min() > 0.99
    assert np.abs(2 * two - one).max() < 1 + 1e-5 and np.abs(two - one).max() > 1e-3


def test_the_stamps_are_read(galaxies, answers, tmp_path):
    """The same catalogue and light with stamps of other galaxies is another answer."""
    other = Galaxies(galaxies.table, galaxies.sample, galaxies.images[::-1].copy())
    cdf = run([task(BOTH)], other, tmp_path)[task(BOTH)]
    assert np.abs(cdf - answers[task(BOTH)]).max() > 1e-4


def test_tasks_that_cannot_be_run_are_refused():
    with pytest.raises(ValueError, match="no method 'guessing'; expected one of photometry alone"):
        task("guessing")
    with pytest.raises(ValueError, match="zero points are moved in catalogues, not in stamps"):
        task(BOTH, zero_points=True)


# ------------------------------------------------------------------------------------------------ scores


def test_predictions_score_every_galaxy_of_the_test_set_once(table, galaxies):
    train, test, _ = photoz.split(galaxies.sample, 0, 0, 2)
    assert set(table["model"]) == {TRIVIAL, PHOTOMETRY, MEASURED, BOTH, IMAGES, ENSEMBLE}
    for _, part in table.groupby(["model", "seed"]):
        np.testing.assert_array_equal(part["row"], test)
        np.testing.assert_array_equal(part["z_spec"], galaxies.sample["z"].to_numpy()[test])
    assert set(table["n_train"]) == {len(train)}
    trivial = table[table["model"] == TRIVIAL]
    assert trivial["q500"].iloc[0] == pytest.approx(galaxies.sample["z"].iloc[train].median(), abs=5e-3)


def test_the_ensemble_is_the_mean_density(answers, table, galaxies):
    mean = 0.5 * (answers[task(BOTH)] + answers[task(MEASURED)])
    part = table[(table["model"] == ENSEMBLE) & (table["seed"] == 0)]
    median = np.array([np.interp(0.5, c, photoz.GRID) for c in mean])
    np.testing.assert_allclose(part["q500"], median, atol=1e-4)


def test_gains_are_ratios_on_the_same_galaxies(table, galaxies):
    scores = {r["model"]: r for r in photoz.metric_rows(table, galaxies.sample, "smoke", 5, sky="simulated")}
    rows = {r["model"]: r for r in gain_rows(table, galaxies.sample, PHOTOMETRY, "smoke", 40)}
    assert set(rows) == {MEASURED, BOTH, IMAGES, ENSEMBLE}
    assert gain_rows(table, galaxies.sample, CEILING, "smoke", 5) == []
    for model, row in rows.items():
        assert row["experiment"] == f"main: against {PHOTOMETRY}" and row["sky"] == "simulated"
        parts = [table[(table["model"] == m) & (table["seed"] == 0)] for m in (model, PHOTOMETRY)]
        dz = [((p["q500"] - p["z_spec"]) / (1 + p["z_spec"])).to_numpy() for p in parts]
        mad = [np.median(np.abs(d - np.median(d))) for d in dz]
        crps = [p["crps"].mean() for p in parts]
        sd = row["sigma_mad_ratio_sd"] / np.sqrt(2)  # of two seeds, half their distance is sd / sqrt(2)
        assert abs(row["sigma_mad_ratio"] - mad[0] / mad[1]) == pytest.approx(sd, abs=1e-9)
        sd = row["crps_ratio_sd"] / np.sqrt(2)
        assert abs(row["crps_ratio"] - crps[0] / crps[1]) == pytest.approx(sd, abs=1e-9)
        assert row["crps_ratio_lo"] <= row["crps_ratio"] <= row["crps_ratio_hi"]
        assert scores[model]["seeds"] == row["seeds"] == 2


def test_with_shuffled_redshifts_nothing_is_learnt(galaxies, tmp_path):
    """Whatever beats the trivial baseline here has seen the answers."""
    z = np.random.default_rng(0).permutation(galaxies.sample["z"])
    shuffled = Galaxies(galaxies.table.assign(z=z), galaxies.sample.assign(z=z), galaxies.images)
    todo = [Task("main", m, 0, replace(BUDGET, epochs=20), 2) for m in (MEASURED, CEILING)]
    table = predictions(run(todo, shuffled, tmp_path), shuffled)
    crps = table.groupby("model")["crps"].mean()
    assert crps[MEASURED] > 0.95 * crps[TRIVIAL] and crps[CEILING] > 0.95 * crps[TRIVIAL]
    for _, part in table[table["model"] != TRIVIAL].groupby("model"):
        assert abs(np.corrcoef(part["q500"], part["z_spec"])[0, 1]) < 0.3
