"""Methods on the simulated sky: what each may know, kept answers, scores, intervals, speed and tables."""

import dataclasses
import pickle
from functools import partial

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from joblib.externals.loky.backend.reduction import dumps
from kcorrection_sample import galaxies, task, untrained_clip
from sklearn.neighbors import KNeighborsRegressor

from astro_utils.kcorrections import fast, result_tables, simulated_experiments, simulated_intervals
from astro_utils.kcorrections.fast import FastPredictor
from astro_utils.kcorrections.features import Features
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.simulated import Galaxies
from astro_utils.kcorrections.simulated_intervals import REDSHIFT_EDGES, conformal, coverage_rows
from astro_utils.kcorrections.simulated_methods import (
    HEADS,
    NONE,
    PHOTOMETRIC,
    SPECTROSCOPIC,
    TRACKS,
    Method,
    methods,
)
from astro_utils.kcorrections.simulated_runs import (
    KEPT,
    filled,
    gain_rows,
    prediction_table,
    run_methods,
    score_rows,
)
from astro_utils.kcorrections.simulated_task import Task, ask_others
from astro_utils.metrics import wilson_interval
from astro_utils.results import anchors, read_metrics, write_metrics
from astro_utils.sample_writer import one_thread
from astro_utils.splits import hold_out

CHOSEN = methods(1)
RUN = {"profile": "smoke", "sky": "a sky"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Folder of answers, filled by :func:`answers`."""
    return tmp_path_factory.mktemp("answers")


@pytest.fixture(scope="module")
def answers(kept):
    """Answers of all methods."""
    return run_methods(task(), CHOSEN, n_seeds=1, folder=kept)


# ------------------------------------------------------------------------------------------ what methods are


def test_every_method_answers_for_every_galaxy(answers):
    assert len(answers) == len(CHOSEN)  # no two have one name
    for (track, name), k in answers.items():
        assert k.shape == (1, len(task().test)), name
        lost = ~np.isfinite(k).all(0)
        # Only templates alone can fail, and they seldom do.
        assert lost.mean() < (0.1 if name.startswith(("kcorrect", "templates")) else 1e-9), (track, name)
        assert np.nanstd(k) > 0.005 or name == "mean", (track, name)


def test_each_track_has_its_methods():
    for track in TRACKS:
        named = {m.name: m.source for m in CHOSEN if m.track == track}
        assert [name for name, source in named.items() if source == "ours"] == ["ours"]
        assert {f"{head}, image embedding" for head in HEADS} <= named.keys()
        assert {"baseline", "benchmark", "published", "ours"} <= set(named.values())


def test_simple_answers_by_hand(answers):
    one, k, z = task(), task().k, task().galaxies.z
    for track in TRACKS:
        np.testing.assert_allclose(answers[track, "mean"], k[one.train].mean())
    np.testing.assert_array_equal(answers[SPECTROSCOPIC, "kcorrect"][0], one.known.k_templates[one.test])
    x = one.features.values[:, 1:3] / one.features.values[one.train, 1:3].std(0)
    distance = np.linalg.norm(x[one.test, None] - x[one.train], axis=2)
    nearest = np.argsort(distance, axis=1)[:, :30]
    np.testing.assert_allclose(answers[NONE, "colours"][0], k[one.train][nearest].mean(1))
    line = np.polynomial.Polynomial.fit(z[one.train], k[one.train], 7)
    np.testing.assert_allclose(answers[SPECTROSCOPIC, "redshift"][0], line(z[one.test]), atol=2e-3)


def test_a_redshift_helps(answers):
    one = task()

    def rmse(track, name):
        return k_scores(filled(answers[track, name][0], one), one.k[one.test])["rmse"]

    assert rmse(SPECTROSCOPIC, "ours") < 0.5 * rmse(NONE, "ours") < 0.25 * rmse(NONE, "mean")
    assert rmse(SPECTROSCOPIC, "redshift") < rmse(PHOTOMETRIC, "redshift") < rmse(NONE, "mean")
    assert rmse(SPECTROSCOPIC, "ours") < rmse(SPECTROSCOPIC, "kcorrect")


# ----------------------------------------------------------------------------------------- what they may see


def poisoned(one, *, k=False, z=False, z_phot=False, spectra=False):
    """The task with wrong numbers for its test galaxies."""
    rng, test = np.random.default_rng(0), one.test

    def wrong(values):
        out = values.copy()
        out[test] = rng.permutation(out[test]) + 0.05
        return out

    part, known = one.galaxies, one.known
    if k:
        part = dataclasses.replace(part, k={band: wrong(values) for band, values in part.k.items()})
    if z:  # and with it what comes from it
        part = dataclasses.replace(part, catalogue=part.catalogue.assign(z=wrong(part.z)))
        known = dataclasses.replace(known, z=wrong(known.z), k_templates=wrong(known.k_templates))
    return dataclasses.replace(
        one,
        galaxies=part,
        known=known,
        z_phot=wrong(one.z_phot) if z_phot else one.z_phot,
        spectra=wrong(one.spectra) if spectra else one.spectra,
    )


@one_thread()  # as answers are made: with more threads, sums differ in the last digits
def changed(one, track, answers, *, networks=True):
    """Names of the methods of a track, perhaps without the published networks, whose answers are others."""
    out = set()
    for method in CHOSEN:
        if method.track == track and (networks or not is_network(method)):
            k = method.predict(one, 0)
            if not np.array_equal(k, answers[track, method.name][0], equal_nan=True):
                out.add(method.name)
    return out


def is_network(method):
    return method.source == "published" and method.random


def test_without_redshift_nothing_but_image_and_catalogue_is_seen(answers):
    blind = poisoned(task(), k=True, z=True, z_phot=True, spectra=True)
    assert not np.array_equal(blind.galaxies.z, task().galaxies.z)
    assert changed(blind, NONE, answers) == set()


def test_with_a_photometric_redshift_no_other_is_seen(answers):
    assert changed(poisoned(task(), k=True, z=True, spectra=True), PHOTOMETRIC, answers) == set()
    # Ours and kcorrect make their own densities; the others take this one.
    misled = changed(poisoned(task(), z_phot=True), PHOTOMETRIC, answers, networks=False)
    of_image = {f"{kind}, image embedding" for kind in ("nearest neighbours", "gradient boosting")}
    assert misled == {"redshift", "redshift, g - r", *of_image}


def test_with_the_redshift_no_method_sees_k(answers):
    assert changed(poisoned(task(), k=True, z_phot=True), SPECTROSCOPIC, answers) == set()
    misled = changed(poisoned(task(), z=True), SPECTROSCOPIC, answers, networks=False)
    names = {m.name for m in CHOSEN if m.track == SPECTROSCOPIC and not is_network(m)}
    assert misled == names - {"mean", "nearest neighbours, spectrum embedding"}
    spectra = next(m for m in CHOSEN if m.name == "nearest neighbours, spectrum embedding")
    other = spectra.predict(poisoned(task(), spectra=True), 0)
    assert (other != answers[SPECTROSCOPIC, spectra.name][0]).mean() > 0.9


# ---------------------------------------------------------------------------------------------- kept answers


def _fail(*arguments, **keywords):
    raise AssertionError("computed again")


def _unable(method):
    """The method, that can no longer answer: only a kept answer is left."""
    keywords = getattr(method.predict, "keywords", {})
    return dataclasses.replace(method, predict=partial(_fail, **keywords))


def test_what_is_done_is_not_done_again(answers, kept):
    again = run_methods(task(), [_unable(m) for m in CHOSEN], n_seeds=1, folder=kept)
    assert list(again) == list(answers) == [(m.track, m.name) for m in CHOSEN]
    for key, k in again.items():
        np.testing.assert_array_equal(k, answers[key])


def _other_values(one, name):
    """The task with one of the things that decide an answer changed by a little."""
    known, grid = one.known, one.known.grid
    if name in ("images", "spectra", "z_phot"):
        return dataclasses.replace(one, **{name: getattr(one, name) + np.float32(0.01)})
    if name in ("train", "test"):
        return dataclasses.replace(one, **{name: getattr(one, name)[1:]})
    if name == "max_redshift":
        return dataclasses.replace(one, max_redshift=one.max_redshift - 0.05)
    if name == "k":
        k = {band: values + 0.01 for band, values in one.galaxies.k.items()}
        return dataclasses.replace(one, galaxies=dataclasses.replace(one.galaxies, k=k))
    if name == "redshifts":
        part = dataclasses.replace(
            one.galaxies, catalogue=one.galaxies.catalogue.assign(z=one.known.z + 0.01)
        )
        return dataclasses.replace(one, galaxies=part, known=dataclasses.replace(known, z=part.z))
    known = {
        "features": lambda: dataclasses.replace(
            known, features=Features(known.features.values + 0.01, known.features.kinds)
        ),
        "templates": lambda: dataclasses.replace(known, k_templates=known.k_templates + 0.01),
        "grid": lambda: dataclasses.replace(known, grid=dataclasses.replace(grid, k=grid.k + 0.01)),
    }[name]()
    return dataclasses.replace(one, known=known)


@pytest.mark.parametrize(
    "name",
    [
        *("images", "spectra", "train", "test", "k", "features"),
        *("z_phot", "max_redshift", "redshifts", "templates", "grid"),
    ],
)
def test_another_task_is_another_answer(tmp_path, name):
    calls = []

    def predict(one, seed):
        calls.append(one)
        return np.zeros(len(one.test))

    method = Method(NONE, "zero", "baseline", predict)
    for one in (task(), task(), _other_values(task(), name)):
        run_methods(one, [method], n_seeds=1, folder=tmp_path)
    assert len(calls) == 2


def test_another_method_or_seed_is_another_answer(tmp_path):
    def predict(one, seed, power=1):
        return np.full(len(one.test), 10.0 * seed**power)

    noisy = Method(NONE, "noisy", "ours", predict, random=True)
    several = run_methods(task(), [noisy], n_seeds=3, folder=tmp_path)
    assert several[NONE, "noisy"][:, 0].tolist() == [0, 10, 20]
    squared = dataclasses.replace(noisy, predict=partial(predict, power=2))
    assert run_methods(task(), [squared], n_seeds=3, folder=tmp_path)[NONE, "noisy"][:, 0].tolist() == [
        0,
        10,
        40,
    ]
    for other in (dataclasses.replace(noisy, name="n"), dataclasses.replace(noisy, track=PHOTOMETRIC)):
        found = run_methods(task(), [other], n_seeds=1, folder=tmp_path)
        assert found.keys() == {(other.track, other.name)}
    assert len(list(tmp_path.iterdir())) == 3 + 3 + 1 + 1
    fixed = run_methods(task(), [dataclasses.replace(noisy, random=False)], n_seeds=3, folder=tmp_path)
    assert fixed[NONE, "noisy"].shape == (1, len(task().test))


def test_two_workers_give_the_answers_of_one(answers, tmp_path):
    some = [m for m in CHOSEN if m.track == NONE and m.name in ("three numbers", "ours", "mean")]
    # What a process is sent; here threads stand for processes, which would take seconds to start.
    sent = [pickle.loads(dumps(thing)) for thing in (task(), some)]
    with joblib.parallel_config(backend="threading"):
        found = run_methods(*sent, n_seeds=2, folder=tmp_path, workers=2)
    assert list(found) == [(m.track, m.name) for m in some]
    assert [len(found[NONE, m.name]) for m in some] == [1 + m.random for m in some]
    for key, k in found.items():
        np.testing.assert_array_equal(k[0], answers[key][0])
    assert not np.array_equal(*found[NONE, "ours"])


# ---------------------------------------------------------------------------------------------------- scores


def test_scores_of_all_galaxies_with_failures_counted():
    one = task()
    true, mean = one.k[one.test], one.k[one.train].mean()
    seeds = np.stack([true + 0.01, true - 0.03])
    seeds[0, :3] = np.nan
    rows = score_rows(one, {(NONE, "a"): seeds, (PHOTOMETRIC, "b"): true[None]}, n_bootstrap=20, **RUN)
    first, second = rows
    assert (first["experiment"], first["model"], first["seeds"]) == ("a sky, no redshift", "a", 2)
    assert (first["n_train"], first["n_test"]) == (len(one.train), len(one.test))
    assert first["failures"] == 1.5  # three and none
    whole = np.where(np.isnan(seeds), mean, seeds)
    np.testing.assert_array_equal(filled(seeds, one), whole)
    expected = [k_scores(k, true) for k in whole]
    for name in ("r2", "mae", "rmse", "bias"):
        assert first[name] == pytest.approx(np.mean([s[name] for s in expected]))
        assert first[f"{name}_sd"] == pytest.approx(np.std([s[name] for s in expected], ddof=1))
    assert first["rmse_lo"] <= first["rmse"] <= first["rmse_hi"]
    assert second["experiment"] == "a sky, photometric redshift"
    assert (second["r2"], second["rmse"], second["failures"]) == (1, 0, 0)


def test_gains_are_ratios_of_errors_of_the_same_galaxies():
    one = task()
    true, error = one.k[one.test], np.random.default_rng(0).normal(0, 0.02, (2, len(one.test)))
    of = {"copy": true + error, "worse": true + 2 * error, "ours": true + error, "better": true - 0.5 * error}
    rows = gain_rows(one, {(NONE, name): k for name, k in of.items()}, n_bootstrap=30, **RUN)
    assert {row["experiment"] for row in rows} == {"a sky, no redshift, against ours"}
    found = {row["model"]: row for row in rows}
    assert found.keys() == {"copy", "worse", "better"}
    for name, ratio in (("copy", 1), ("worse", 2), ("better", 0.5)):
        for suffix in ("", "_lo", "_hi"):  # in each draw of the sky
            assert found[name][f"rmse_ratio{suffix}"] == pytest.approx(ratio)
    # Who fails is given the mean, and is the worse for it.
    lost = {(NONE, "ours"): true + error, (NONE, "lost"): np.full((1, len(true)), np.nan)}
    (row,) = gain_rows(one, lost, n_bootstrap=30, **RUN)
    rmse = np.sqrt(np.square(one.k[one.train].mean() - true).mean() / np.square(error).mean())
    assert row["rmse_ratio"] == pytest.approx(rmse)
    assert row["rmse_ratio_lo"] < row["rmse_ratio"] < row["rmse_ratio_hi"]


def test_the_table_of_predictions(answers):
    one = task()
    intervals = {track: np.stack([answers[track, "ours"][0] + d for d in (-0.1, 0.2)], 1) for track in TRACKS}
    table = prediction_table({"a sky": one}, {"a sky": answers}, {"a sky": intervals})
    assert set(table["method"]) == set(KEPT)
    for (track, name), part in table.groupby(["track", "method"], observed=True):
        assert len(part) == len(one.test)
        np.testing.assert_allclose(part["true"], one.k[one.test], rtol=1e-6)
        np.testing.assert_allclose(part["z"], one.galaxies.z[one.test], rtol=1e-6)
        np.testing.assert_allclose(part["g_r"], one.features.values[one.test, 1], rtol=1e-6)
        np.testing.assert_allclose(part["predicted"], filled(answers[track, name][0], one), rtol=1e-6)
        if name == "ours":
            np.testing.assert_allclose(part["high"] - part["low"], 0.3, rtol=1e-5)
        else:
            assert part[["low", "high"]].isna().all().all()


# ------------------------------------------------------------------------------------------------- intervals


def exchangeable(n=2400, seed=0):
    """A task of galaxies that differ by chance alone; the noise of K grows with redshift."""
    rng = np.random.default_rng(seed)
    z = rng.uniform(0.02, 0.38, n)
    seen = z + rng.normal(0, 0.03, n)
    k = -0.2 + z + rng.normal(0, 1, n) * (0.01 + 0.1 * z)
    pixel = rng.integers(60, size=n)
    places = {"ra": 9.0 + 20 * (pixel % 12), "dec": -40.0 + 20 * (pixel // 12)}
    table = pd.DataFrame({"object_id": np.arange(n), "z": z, **places})
    part = Galaxies(table, np.empty((n, 0)), np.empty((n, 0)), {"r": k}, np.full(n, "kcorrect", dtype=object))
    known = Knowledge(Features(seen[:, None], ("colour",)), part.pixels, z)
    held = hold_out(part.pixels, 0.4, 1)
    nothing = np.empty((n, 0))
    return Task(part, known, nothing, nothing, seen, np.flatnonzero(~held), np.flatnonzero(held))


def _remembering(one, seed, redshift):
    """Two parts of the nearest training galaxy's K, which is its own where it was in the training set."""
    x = np.column_stack([one.features.values, one.galaxies.z if redshift else one.z_phot])
    near = KNeighborsRegressor(1).fit(x[one.train], one.k[one.train])
    return near.predict(x[one.test])


@pytest.fixture
def remembering(monkeypatch):
    """Ours replaced by a method that knows its training galaxies by heart."""
    found = [
        Method(track, "ours", "ours", partial(_remembering, redshift=track == SPECTROSCOPIC))
        for track in TRACKS
    ]
    monkeypatch.setattr(simulated_intervals, "methods", lambda epochs: found)
    return {method.track: method for method in found}


def split_in_two(one):
    """The galaxies of a task's test parted: those of the test, and others to calibrate and judge."""
    asked = hold_out(one.galaxies.pixels[one.test], 0.8, 5)
    return (dataclasses.replace(one, test=one.test[rows]) for rows in (~asked, asked))


@pytest.mark.parametrize("track", TRACKS)
def test_intervals_hold_the_truth_as_often_as_they_say(remembering, track):
    one, asked = split_in_two(exchangeable(6000))
    k, predicted, before = one.k[one.test], remembering[track].predict(one, 0), None
    for level in (0.6, 0.9):
        interval, judged, others = conformal(one, asked, track, predicted, level=level)
        low, high = interval.T
        assert low.shape == k.shape
        assert (high >= low).all()
        assert len(others) == len(judged.test) < len(asked.test)
        truth = judged.k[judged.test]
        assert abs(((others[:, 0] <= truth) & (truth <= others[:, 1])).mean() - level) < 0.06
        assert level - 0.05 < ((low <= k) & (k <= high)).mean() < level + 0.05
        if before is not None:  # a higher level is a wider interval
            assert (low <= before[0]).all()
            assert (high >= before[1]).all()
        before = low, high
    # Noisy galaxies have wide intervals.
    z = one.galaxies.z[one.test]
    assert (high - low)[z > 0.3].mean() > 1.5 * (high - low)[z < 0.1].mean()


def test_belts_that_cover_too_much_are_asked_for_less(monkeypatch):
    one, rng = exchangeable(5000), np.random.default_rng(3)
    k = rng.uniform(0, 1, 5000)
    # Badly predicted in the middle of either half of K, which no feature shows.
    known_by_heart = k + rng.normal(size=5000) * (0.02 + 0.25 * np.sin(2 * np.pi * k) ** 2)
    one = dataclasses.replace(one, galaxies=dataclasses.replace(one.galaxies, k={"r": k}))
    ours = Method(NONE, "ours", "ours", lambda task, seed: known_by_heart[task.test])
    monkeypatch.setattr(simulated_intervals, "methods", lambda epochs: [ours])
    one, asked = split_in_two(dataclasses.replace(one, test=np.arange(5000)))
    low, high = conformal(one, asked, NONE, known_by_heart[one.test])[0].T
    assert abs(((low <= k[one.test]) & (k[one.test] <= high)).mean() - 0.9) < 0.03  # 0.95 when asked for 0.9


@pytest.mark.parametrize("track", TRACKS)
def test_intervals_know_neither_the_test_nor_those_that_judge(remembering, track):
    one, asked = split_in_two(exchangeable(3000))
    predicted = remembering[track].predict(one, 0)
    plain, judged, others = conformal(one, asked, track, predicted)
    k = one.k.copy()
    k[np.concatenate([one.test, judged.test])] += 100
    blind = dataclasses.replace(one.galaxies, k={"r": k})
    again = (dataclasses.replace(part, galaxies=blind) for part in (one, asked))
    other, _, blind_others = conformal(*again, track, predicted)
    np.testing.assert_array_equal(plain, other)
    np.testing.assert_array_equal(others, blind_others)


@pytest.mark.parametrize("track", TRACKS)
def test_other_galaxies_are_asked_for_as_the_test_is(track):
    one, clip = task(), untrained_clip()
    asked = ask_others(one, clip, [one.galaxies.select(part) for part in np.array_split(one.test, 3)])
    np.testing.assert_array_equal(asked.k[asked.test], one.k[one.test])
    np.testing.assert_array_equal(asked.galaxies.pixels[asked.train], one.galaxies.pixels[one.train])
    np.testing.assert_allclose(asked.z_phot[asked.train], one.z_phot[one.train])
    assert np.isnan(asked.spectra[asked.test]).all()
    ours = next(m for m in CHOSEN if (m.track, m.name) == (track, "ours"))
    with one_thread():
        np.testing.assert_allclose(ours.predict(asked, 0), ours.predict(one, 0), atol=2e-4)


def test_others_beyond_the_limit_are_left_out_and_training_galaxies_refused():
    one, clip = task(), untrained_clip()
    part = galaxies().select(np.isin(galaxies().pixels, one.galaxies.pixels[one.test]))
    assert (part.z > one.max_redshift).any()
    asked = ask_others(one, clip, [part])
    assert len(asked.test) == len(one.test)
    assert asked.galaxies.z.max() <= one.max_redshift
    with pytest.raises(ValueError, match="sky pixels"):
        ask_others(one, clip, [galaxies()])


def test_coverage_by_hand():
    one = task()
    k, z = one.k[one.test], one.galaxies.z[one.test]
    half = np.where(z < 0.1, -0.01, 0.02)  # none of the nearest are covered
    rows = coverage_rows(one, NONE, np.stack([k - half, k + half], 1), **RUN)
    found = {row["model"]: row for row in rows}
    counts = np.histogram(z, REDSHIFT_EDGES)[0]
    assert rows[0]["model"] == "all"
    assert [row["n_test"] for row in rows[1:]] == counts[counts > 0].tolist()
    assert rows[0]["n_test"] == counts.sum() == len(z)
    assert found["all"]["coverage_90"] == pytest.approx((z >= 0.1).mean())
    lo, hi = wilson_interval(int((z >= 0.1).sum()), len(z))
    assert (found["all"]["coverage_90_lo"], found["all"]["coverage_90_hi"]) == pytest.approx((lo, hi))
    assert found["0.05 to 0.10"]["coverage_90"] == 0
    assert found["0.10 to 0.15"]["coverage_90"] == 1
    assert found["0.10 to 0.15"]["mean_width"] == pytest.approx(0.04)
    assert {row["experiment"] for row in rows} == {"a sky, no redshift, coverage"}


# ----------------------------------------------------------------------------------------------- experiments


def test_neighbours_one_and_many():
    one = task()
    rows = simulated_experiments.neighbour_rows(one, "smoke", "a sky", n_bootstrap=5)
    assert [row["model"] for row in rows] == ["1", "3", "10", "30", "64", "100"]  # 166 galaxies to learn from
    x = (one.images - one.images[one.train].mean(0)) / one.images[one.train].std(0)
    nearest = np.linalg.norm(x[one.test, None] - x[one.train], axis=2).argmin(1)
    assert rows[0]["rmse"] == pytest.approx(k_scores(one.k[one.train][nearest], one.k[one.test])["rmse"])


def test_smaller_training_sets(answers):
    one = task()
    chosen = simulated_experiments.of_names(CHOSEN, ("ours", "mean"))
    assert [(m.track, m.name) for m in chosen] == [(NONE, "ours"), (NONE, "mean")]
    assert not any(m.random for m in simulated_experiments.single_seed(chosen))
    rows = simulated_experiments.learning_rows(one, chosen, (60, 10_000), "smoke", "a sky", n_bootstrap=5)
    assert [(row["model"], row["n_train"], row["n_test"]) for row in rows] == [
        ("ours", 60, len(one.test)),
        ("mean", 60, len(one.test)),
    ]
    mean = one.k[one.fewer(60).train].mean()
    expected = k_scores(np.full(len(one.test), mean), one.k[one.test])
    assert rows[1]["rmse"] == pytest.approx(expected["rmse"])
    whole = k_scores(answers[NONE, "ours"][0], one.k[one.test])["rmse"]
    assert whole < rows[0]["rmse"] < rows[1]["rmse"]


def test_the_most_confident_are_those_with_the_narrowest_interval(answers):
    one, ours = task(), answers[NONE, "ours"][0]
    error = np.abs(ours - one.k[one.test])
    rows, spreads = simulated_experiments.confidence_rows(
        one, error, ours, "smoke", "a sky", 1, n_bootstrap=5
    )
    found = {row["model"]: row for row in rows}
    assert len(rows) == len(found) == 4
    everyone, few = found["ours, interval: all"], found["ours, interval: most confident 90 %"]
    inside = error <= np.quantile(error, 0.9)
    assert few["n_test"] == inside.sum() < everyone["n_test"] == len(error)
    assert few["rmse"] == pytest.approx(np.sqrt(np.square(error[inside]).mean()))
    assert everyone["rmse"] == pytest.approx(np.sqrt(np.square(error).mean()))
    np.testing.assert_array_equal(spreads["ours, interval"], np.stack([error, error], 1))
    dropout = spreads["MLP, dropout"]
    assert (dropout[:, 0] > 0).all()
    assert found["MLP, dropout: all"]["mae"] == pytest.approx(dropout[:, 1].mean())


def test_costs(monkeypatch):
    monkeypatch.setattr(simulated_experiments, "run_kcorrect", lambda photometry, options: len(photometry))
    rows = simulated_experiments.cost_rows(task(), untrained_clip(), "smoke", n_timed=20_000)
    found = {row["model"]: row for row in rows}
    assert [row["n_test"] for row in rows] == [20_000, len(task().galaxies), 4096, 20_000]
    assert all(row["galaxies_per_second"] > 0 for row in rows)
    assert found["ours, repeated by a network"]["r2"] > 0.5
    speed = [
        found[name]["galaxies_per_second"]
        for name in ("ours, repeated by a network", "ours, from the catalogue")
    ]
    assert speed[0] > 3 * speed[1]


# ------------------------------------------------------------------------------------------- the fast network


def teacher(x):
    return np.sin(x[:, 0]) + 0.3 * x[:, 1] * x[:, 2]


@pytest.fixture(scope="module")
def distilled():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 3)) * [1, 2, 0.5] + [0, 10, 0]
    return FastPredictor.distil(x, teacher, rng.integers(40, size=600), epochs=30)


def test_a_network_repeats_its_teacher(distilled):
    model = distilled
    new = np.random.default_rng(1).normal(size=(500, 3)) * [1, 2, 0.5] + [0, 10, 0]
    found = model.predict(new)
    assert found.dtype == np.float32
    assert k_scores(found, teacher(new))["r2"] > 0.97
    assert not model.training


def test_answers_do_not_depend_on_who_else_is_asked(distilled):
    model = distilled
    new = np.random.default_rng(2).normal(size=(3 * model.BATCH // 2, 3))
    whole = model.predict(new)
    assert whole.shape == (len(new),)
    one_by_one = np.concatenate([model.predict(new[i : i + 1]) for i in (0, 5, model.BATCH, len(new) - 1)])
    np.testing.assert_allclose(whole[[0, 5, model.BATCH, -1]], one_by_one, atol=1e-5)
    assert model.predict(new[:0]).shape == (0,)


def test_features_far_off_are_cut(distilled):
    model = distilled
    middle, side = model.mean.numpy(), model.scale.numpy() * np.array([1, 0, 0])
    at = {n: model.predict((middle + n * side)[None])[0] for n in (3, 5, 6, 5000)}
    assert at[5] == pytest.approx(at[6], rel=1e-4) == pytest.approx(at[5000], rel=1e-4)
    assert abs(at[3] - at[5]) > 1e-3
    with pytest.raises(ValueError, match="2 features; trained on 3"):
        model.predict(np.zeros((5, 2)))


def test_no_point_lies_between_training_and_validation(monkeypatch):
    rng, sets = np.random.default_rng(3), []
    groups = rng.integers(30, size=300)
    held = hold_out(groups, 0.1, 5)
    x = np.column_stack([held, rng.normal(size=300)]).astype(float)

    def fit(model, loss, train, validation, config):
        sets.extend([train, validation])

    monkeypatch.setattr(fast, "fit", fit)
    FastPredictor.distil(x, lambda values: values[:, 1] ** 2, groups, copies=4, seed=5)
    (train, train_k), (validation, validation_k) = sets
    assert (train[:, 0] == 0).all()
    assert (validation[:, 0] == 1).all()
    assert len(train) == 4 * (~held).sum()
    assert len(validation) == 4 * held.sum()
    torch.testing.assert_close(train_k, train[:, 1] ** 2)
    torch.testing.assert_close(validation_k, validation[:, 1] ** 2)
    # All galaxies are there, and points between them that are none.
    known = torch.isin(train[:, 1], torch.from_numpy(x[~held, 1]).float())
    assert (~held).sum() <= known.sum() < 0.4 * len(train)
    partners = fast._partners(held, rng)
    np.testing.assert_array_equal(held[partners], held)
    assert sorted(partners) == list(range(300))


# ---------------------------------------------------------------------------------------------------- tables


@pytest.fixture(scope="module")
def metrics(answers, tmp_path_factory):
    """Rows of all methods, as the notebooks write and read them."""
    one, rows = task(), []
    for sky in ("a sky", "a sky, z"):
        rows += score_rows(one, answers, profile="smoke", sky=sky, n_bootstrap=4)
        rows += gain_rows(one, answers, profile="smoke", sky=sky, n_bootstrap=4)
    for track in TRACKS:
        interval = answers[track, "ours"][0][:, None] + np.array([-0.05, 0.05])
        rows += coverage_rows(one, track, interval, profile="smoke", sky="a sky")
    path = write_metrics(tmp_path_factory.mktemp("rows") / "metrics.json", rows)
    return read_metrics(path)


def printed():
    return pd.DataFrame([{"experiment": NONE, "model": "ours", "r2": 0.51, "mae": 0.2, "rmse": 0.3}])


@pytest.mark.parametrize("track", TRACKS)
def test_the_table_of_a_track(metrics, track):
    table = result_tables.track_table(metrics, printed(), "a sky", track)
    part = metrics[metrics["experiment"] == f"a sky, {track}"].set_index("model")
    assert sorted(table.index) == sorted(part.index) == sorted(m.name for m in CHOSEN if m.track == track)
    assert (np.diff(part.loc[table.index, "rmse"]) >= 0).all()  # the best first
    assert table.loc["mean", "RMSE [mag]"].startswith(f"{part.loc['mean', 'rmse']:.4f} [")
    assert table.loc["ours", "RMSE over ours"] == ""
    ratio = part.loc["mean", "rmse"] / part.loc["ours", "rmse"]
    assert table.loc["mean", "RMSE over ours"].startswith(f"{ratio:.2f} [")
    assert ("failures" in table) == bool(part["failures"].any())
    assert ("printed R² (real)" in table) == (track == NONE)
    if track == NONE:
        assert table.loc["ours", "printed R² (real)"] == "0.51"
        assert table.loc["mean", "printed RMSE (real)"] == ""


def test_failures_are_shown_where_there_are_some(metrics):
    lost = metrics.assign(failures=np.where(metrics["model"] == "kcorrect", 3.0, metrics["failures"]))
    table = result_tables.track_table(lost, printed(), "a sky", SPECTROSCOPIC)
    assert table.loc["kcorrect", "failures"] == "3"
    assert table.loc["ours", "failures"] == "0"


def test_anchors_fit_the_methods():
    """What other works printed is looked up by track and name, of which no two are the same."""
    known = anchors("kcorrection").query("experiment in @TRACKS")
    assert len(known) > 0
    assert not known.duplicated(["experiment", "model"]).any()
    assert {(row.experiment, row.model) for row in known.itertuples()} & {(m.track, m.name) for m in CHOSEN}


def test_whom_ours_beats():
    rows = [
        ("mean", 3.0, 2.5, 3.5),
        ("colours", 1.2, 1.05, 1.4),
        ("MLP", 1.1, 0.95, 1.3),
        ("ours, embedding alone", 0.5, 0.4, 0.6),  # ours are no rivals
    ]
    table = pd.DataFrame(rows, columns=["model", "rmse_ratio", "rmse_ratio_lo", "rmse_ratio_hi"])
    both = pd.concat([table.assign(experiment=f"a sky, {track}, against ours") for track in TRACKS])
    found = result_tables.gain_table(both, ("a sky",))
    assert list(found.index) == [("a sky", track) for track in TRACKS]
    for _, row in found.iterrows():
        assert row["beaten beyond the interval"] == "2 of 3"
        assert row["nearest rival"] == "MLP"
        assert row["its RMSE over ours"] == "1.100 [0.950, 1.300]"


def test_other_tables(metrics):
    coverage = result_tables.coverage_table(metrics, "a sky")
    assert coverage.index[0] == "all"
    assert coverage.loc["all", "galaxies"] == len(task().test)
    row = metrics[(metrics["experiment"] == f"a sky, {NONE}, coverage") & (metrics["model"] == "all")].iloc[0]
    assert coverage.loc["all", f"{NONE} [%]"].startswith(f"{100 * row['coverage_90']:.1f} [")
    assert coverage.loc["all", f"{NONE}, width [mag]"] == "0.1000"
    bands = result_tables.other_bands_table(metrics, "a sky")
    assert set(bands.index.get_level_values("band")) == {"z"}
    assert len(bands) == len(CHOSEN)
    assert result_tables.other_bands_table(metrics, "another sky").empty
    plain = result_tables.plain(metrics[metrics["experiment"] == f"a sky, {NONE}"])
    assert (plain["galaxies"] == str(len(task().test))).all()


def test_the_table_of_costs():
    rows = pd.DataFrame({"model": ["a", "b"], "galaxies_per_second": [2000.0, 4e6], "r2": [np.nan, 0.75]})
    table = result_tables.cost_table(rows)
    assert table["galaxies a second"].tolist() == ["2,000", "4,000,000"]
    assert table["seconds for a million"].tolist() == ["500.0", "0.2"]
    assert table["R²"].tolist() == ["–", "0.750"]
