"""Photometric redshifts: features, and the protocol that tests every galaxy once, far from its training."""

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from threadpoolctl import threadpool_limits

from astro_utils import photoz
from astro_utils.galaxies import galaxy_sample
from astro_utils.metrics import bootstrap
from astro_utils.photoz import (
    BOOSTING,
    FEATURE_SETS,
    NEIGHBOURS,
    TRIVIAL,
    Task,
    features,
    metric_rows,
    run_tasks,
)
from astro_utils.results import KEYS, write_metrics

MODELS = (TRIVIAL, NEIGHBOURS, BOOSTING)
CHEAP = (TRIVIAL, NEIGHBOURS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine, threads that wait for one another make small fits fifty times slower."""
    threads = torch.get_num_threads()
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)  # the tasks set it, in this process


@pytest.fixture(scope="module")
def sample():
    """Four hundred real galaxies."""
    return galaxy_sample().sample(400, random_state=0).reset_index(drop=True)


def tasks(models=MODELS, seeds=1, feature_set=FEATURE_SETS[1], **more):
    return [
        Task("main", models, feature_set, seed, fold, 2, **more) for seed in range(seeds) for fold in (0, 1)
    ]


def run(todo, sample, folder):
    answers = list(run_tasks(todo, sample, folder, workers=1))
    assert sorted(done for done, _ in answers) == list(range(1, len(todo) + 1))
    return pd.concat([table for _, table in answers], ignore_index=True)


@pytest.fixture(scope="module")
def predictions(sample, tmp_path_factory):
    return run(tasks(), sample, tmp_path_factory.mktemp("tasks"))


# --------------------------------------------------------------------------------------------- features


def test_feature_sets_grow_by_what_their_names_say(sample):
    columns = [list(features(sample, name)) for name in FEATURE_SETS]
    assert [len(c) for c in columns] == [9, 14, 24, 27]
    for smaller, larger in pairwise(columns):
        assert larger[: len(smaller)] == smaller
    assert columns[0] == [
        *[f"model_mag_{b}" for b in "ugriz"],
        *["model_u-g", "model_g-r", "model_r-i", "model_i-z"],
    ]


def test_features_are_colours_and_logarithms(sample):
    x = features(sample, FEATURE_SETS[-1])
    assert (x.dtypes == np.float32).all()
    np.testing.assert_allclose(x["model_g-r"], sample["model_mag_g"] - sample["model_mag_r"], atol=1e-5)
    np.testing.assert_allclose(x["petro_i-z"], sample["petro_mag_i"] - sample["petro_mag_z"], atol=1e-5)
    np.testing.assert_allclose(x["r_model-petro"], sample["model_mag_r"] - sample["petro_mag_r"], atol=1e-5)
    np.testing.assert_allclose(np.exp(x["log_petro_err_u"]), sample["petro_err_u"], rtol=1e-5)
    np.testing.assert_allclose(x["model_mag_z-j_mag"], sample["model_mag_z"] - sample["j_mag"], atol=1e-5)


def test_a_brighter_galaxy_of_the_same_colours_differs_in_magnitudes_alone(sample):
    brighter = sample.copy()
    magnitudes = [c for c in sample if "mag" in c]
    brighter[magnitudes] -= 1.0
    difference = (features(brighter, FEATURE_SETS[-1]) - features(sample, FEATURE_SETS[-1])).mean()
    expected = [
        -1.0 if name.startswith("model_mag") and "-" not in name else 0.0 for name in difference.index
    ]
    np.testing.assert_allclose(difference, expected, atol=1e-5)


def test_unmeasured_2mass_is_nan(sample):
    holes = sample.copy()
    holes.loc[3, "h_mag"] = np.nan
    holes.loc[5, ["j_mag", "h_mag", "k_mag"]] = np.nan
    x = features(holes, FEATURE_SETS[-1])
    infrared = ["model_mag_z-j_mag", "j_mag-h_mag", "h_mag-k_mag"]
    assert x.loc[3, infrared].isna().tolist() == [False, True, True]
    assert x.loc[5, infrared].isna().all()
    assert x.drop(columns=infrared).notna().all(axis=None)
    assert features(holes, FEATURE_SETS[2]).notna().all(axis=None)


def test_an_unknown_feature_set_is_refused(sample):
    with pytest.raises(ValueError, match=r"feature set 'model[+]images'; expected one of .*petrosian"):
        features(sample, "model+images")


# ----------------------------------------------------------------------------------------------- splits


def test_training_and_test_share_no_part_of_the_sky(sample):
    for fold in range(3):
        train, test, groups = photoz.split(sample, seed=0, fold=fold, n_folds=3)
        assert not set(sample["pixel"][train]) & set(sample["pixel"][test])
        assert sorted([*train, *test]) == list(range(len(sample)))
        np.testing.assert_array_equal(groups, sample["pixel"])


def test_split_by_galaxy_parts_galaxies_of_a_pixel(sample):
    train, test, groups = photoz.split(sample, seed=0, fold=0, n_folds=2, nside=0)
    assert len(set(groups)) == len(sample) and abs(len(train) - len(test)) <= 1
    assert set(sample["pixel"][train]) & set(sample["pixel"][test])


# ------------------------------------------------------------------------------------------------ tasks


def test_every_galaxy_is_tested_once_by_every_model(sample, predictions):
    for model in MODELS:
        rows = predictions.loc[predictions["model"] == model, "row"]
        assert sorted(rows) == list(range(len(sample)))
    np.testing.assert_array_equal(predictions["z_spec"], sample["z"].to_numpy()[predictions["row"]])


def test_predictions_are_consistent_with_their_densities(predictions):
    q = predictions[list(photoz.QUANTILE_COLUMNS)].to_numpy()
    assert (np.diff(q, axis=1) >= 0).all() and (q >= 0).all() and (q <= 0.7).all()
    z, pit = predictions["z_spec"].to_numpy(), predictions["pit"].to_numpy()
    np.testing.assert_array_equal(pit < 0.5, z < q[:, 2])
    assert (predictions["crps"] > 0).all() and pit.min() >= 0 and pit.max() <= 1


def test_the_trivial_baseline_is_the_distribution_of_the_training_set(sample, predictions):
    trivial = predictions[predictions["model"] == TRIVIAL]
    for fold, part in trivial.groupby("fold"):
        train, test, _ = photoz.split(sample, seed=0, fold=fold, n_folds=2)
        assert set(part["row"]) == set(test)
        assert part["q500"].nunique() == 1
        assert part["q500"].iloc[0] == pytest.approx(sample["z"][train].median(), abs=2e-3)


def test_estimators_beat_the_trivial_baseline_by_far(predictions):
    crps = predictions.groupby("model")["crps"].mean()
    assert crps[NEIGHBOURS] < 0.6 * crps[TRIVIAL] and crps[BOOSTING] < 0.6 * crps[TRIVIAL]


def test_with_shuffled_redshifts_nothing_is_learnt(sample, tmp_path):
    """Whatever beats the trivial baseline here has seen the answers."""
    shuffled = sample.assign(z=np.random.default_rng(0).permutation(sample["z"]))
    predictions = run(tasks(), shuffled, tmp_path)
    crps = predictions.groupby("model")["crps"].mean()
    assert crps[BOOSTING] > 0.98 * crps[TRIVIAL] and crps[NEIGHBOURS] > 0.98 * crps[TRIVIAL]
    for model in MODELS:
        part = predictions[predictions["model"] == model]
        assert abs(np.corrcoef(part["q500"], part["z_spec"])[0, 1]) < 0.15


def test_a_cached_task_is_read_not_run(sample, tmp_path):
    todo = tasks(CHEAP)
    first = run(todo, sample, tmp_path)
    written = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    assert len(written) == 2
    second = run(todo, sample, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == written
    keys = ["model", "fold", "row"]
    pd.testing.assert_frame_equal(
        *(t.sort_values(keys, ignore_index=True) for t in (first, second)), check_exact=True
    )


def test_another_task_or_sample_is_run_anew(sample, tmp_path):
    one = tasks(CHEAP)[:1]
    variants = [
        (one, sample),
        (tasks(CHEAP, n_train=100)[:1], sample),
        (tasks(CHEAP, nside=0)[:1], sample),
        (tasks(CHEAP, seeds=2)[2:3], sample),
        (one, sample.assign(z=sample["z"] + 1e-6)),
        (one, sample.iloc[:-1]),
    ]
    for n, (todo, galaxies) in enumerate(variants, start=1):
        run(todo, galaxies, tmp_path)
        assert len(list(tmp_path.iterdir())) == n


def test_a_capped_training_set_is_as_large_as_asked(sample, tmp_path):
    table = run(tasks(CHEAP, n_train=100)[:1], sample, tmp_path)
    assert set(table["n_train"]) == {100}
    train, _, _ = photoz.split(sample, seed=0, fold=0, n_folds=2)
    assert len(train) > 150


# ---------------------------------------------------------------------------------------------- metrics


def test_metric_rows_are_means_over_seeds_of_all_galaxies(sample, tmp_path):
    predictions = run(tasks(CHEAP, seeds=2), sample, tmp_path)
    rows = metric_rows(predictions, sample, "smoke", n_bootstrap=20)
    write_metrics(tmp_path / "metrics.json", rows)
    assert json.loads((tmp_path / "metrics.json").read_text())[0]["profile"] == "smoke"
    assert [row["model"] for row in rows] == list(CHEAP)
    for row in rows:
        assert [row[k] for k in ("profile", "sky", "experiment")] == ["smoke", "real", "main"]
        assert (row["n_train"], row["n_test"], row["seeds"]) == (200, 400, 2)
        part = predictions[predictions["model"] == row["model"]]
        dz = (part["q500"] - part["z_spec"]) / (1 + part["z_spec"])
        by_seed = dz.groupby(part["seed"])
        assert row["bias"] == pytest.approx(dz.mean())
        spread = (dz.abs() > 0.05).groupby(part["seed"]).mean()
        assert row["eta_05"] == pytest.approx(spread.mean())
        assert row["eta_05_sd"] == pytest.approx(spread.std())
        mad = by_seed.apply(lambda d: 1.4826 * (d - d.median()).abs().median())
        assert row["sigma_mad"] == pytest.approx(mad.mean())
        assert row["crps"] == pytest.approx(part["crps"].mean())
        assert row["crps_lo"] < row["crps"] < row["crps_hi"]
        metrics = {k for k in row if k not in KEYS and not k.endswith(("_lo", "_hi", "_sd"))}
        assert metrics == {
            *("sigma_mad", "bias", "bias_median", "eta_05", "eta_15", "rmse", "r2"),
            *("crps", "cde_loss", "pit_ks", "coverage_68", "coverage_90", "coverage_95"),
        }


def test_intervals_resample_the_sky_pixels_of_the_galaxies_tested(sample, predictions):
    part = predictions[(predictions["fold"] == 1) & (predictions["model"] == NEIGHBOURS)]
    (row,) = metric_rows(part, sample, "smoke", n_bootstrap=50)
    part = part.sort_values("row")
    crps = part["crps"].to_numpy()
    expected = bootstrap(
        lambda index: {"crps": crps[index].mean()}, sample["pixel"].to_numpy()[part["row"]], 50
    )
    assert (row["crps_lo"], row["crps_hi"]) == pytest.approx(expected["crps"])


def test_the_order_of_the_tasks_does_not_matter(sample, tmp_path):
    predictions = run(tasks(CHEAP, seeds=2), sample, tmp_path)
    mixed = predictions.sample(frac=1, random_state=0)
    one, other = (pd.DataFrame(metric_rows(p, sample, "smoke", 5)) for p in (predictions, mixed))
    order = {"by": "model", "ignore_index": True}
    pd.testing.assert_frame_equal(one.sort_values(**order), other.sort_values(**order))
