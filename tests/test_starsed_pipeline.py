"""The stellar study from exposures to scores, with a small telescope: what is kept, compared and resumed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from astro_utils.psf import FieldInterpolator, Optics, PupilModel
from astro_utils.starsed import classify, improve, scores, tables
from astro_utils.starsed.exposures import Exposure, classifier_stars, exposures, mono_stamps
from astro_utils.starsed.likelihoods import LIKELIHOOD, LIKELIHOOD_UNIT, OURS, OURS_UNIT, log_likelihoods
from astro_utils.starsed.psf_fits import (
    JOINT,
    MENDED,
    PARAMETRIC,
    WAVEDIFF,
    FitBudget,
    FittedPsf,
    fit_psf,
    read_fit,
)
from astro_utils.starsed.psf_fits import OURS as FIT
from astro_utils.starsed.psf_jobs import PsfJob, known_stars, run_jobs
from astro_utils.starsed.psf_scores import error_table, psf_rows, size_table
from astro_utils.starsed.star_samples import read_stars
from astro_utils.starsed.stars import Detector, StarConfig
from astro_utils.starsed.templates import CLASSES

OPTICS = Optics(pupil_size=32, stamp=16, bins=4, modes=11, field_degree=1, field_grid=3)
BUDGET = FitBudget(epochs_share=0.01, coarse=1, starts=1, iterations=25)
QUICK = classify.ClassifyBudget(cnn_epochs=1, committee_epochs=1, committee_members=2)


@pytest.fixture(scope="module")
def fields():
    small = dict(optics=OPTICS, nodes=8)
    return [Exposure(seed, StarConfig(seed=seed, n_train=400, n_test=150), **small) for seed in (1, 2)]


@pytest.fixture(scope="module")
def folder(fields, tmp_path_factory):
    folder = tmp_path_factory.mktemp("starsed")
    for exposure in fields:
        exposure.write(folder / f"field_{exposure.field_seed}.h5", progress=False)
    return folder


@pytest.fixture(scope="module")
def fit(fields, folder):
    exposure = fields[0]
    stars = known_stars(read_stars(folder / "field_1.h5", exposure.rows("S1")), exposure)
    return fit_psf(FIT, stars, OPTICS, BUDGET, folder / "ours.safetensors")


@pytest.fixture(scope="module")
def answers(fields, folder, fit):
    fits = [{"method": FIT, "set": "S1", "field": 1, "file": "ours.safetensors"}]
    jobs = classify.plan(fields, fits, folder, QUICK, cnn_fields=1)
    return scores.read_answers(path for _, path in classify.run_classifiers(jobs, folder / "classify", 1))


def test_stars_are_their_spectra_through_the_true_psf(fields, folder):
    exposure = fields[0]
    stars = read_stars(folder / "field_1.h5", exposure.rows("test"))
    mono = mono_stamps(exposure.true_psf(), stars.positions)
    image = np.einsum("nb,nbyx->nyx", exposure.templates.weights[stars.labels], mono)
    assert np.abs(image - stars.noiseless).max() < 1e-6 * image.max()
    assert (read_stars(folder / "field_2.h5", exposure.rows("test")).positions != stars.positions).all()


def test_one_field_has_no_other():
    with pytest.raises(ValueError, match="expected 2 or more"):
        exposures(1, 100, 10, "stelib")


def test_shifts_apply_before_light_is_summed(fields, tmp_path):
    common = dict(seed=3, n_train=0, n_test=6, flux_limits=(1e6, 2e6), detector=Detector())
    moved = replace(fields[0], stars=StarConfig(max_shift=0.5, **common))
    still = replace(fields[0], stars=StarConfig(**common))
    one, other = (
        read_stars(e.write(tmp_path / f"{i}.h5", progress=False)) for i, e in enumerate((moved, still))
    )
    y, x = np.mgrid[:16, :16]

    def centre(stars):
        total = stars.noiseless.sum((1, 2))
        return np.stack([(stars.noiseless * axis).sum((1, 2)) / total for axis in (x, y)], 1)

    found = centre(one) - centre(other)
    assert 0.1 < np.abs(found).max() <= 0.55
    np.testing.assert_allclose(one.noiseless.sum((1, 2)), other.noiseless.sum((1, 2)), rtol=1e-3)
    assert classifier_stars(one).sigma.shape == one.stamps.shape  # photons have noise of their own


@pytest.mark.parametrize("method", [WAVEDIFF, MENDED, PARAMETRIC, FIT, JOINT])
def test_every_fit_comes_back_from_its_file(method, fields, folder, tmp_path):
    exposure = fields[0]
    stars = known_stars(read_stars(folder / "field_1.h5", exposure.rows("S1")), exposure)
    if method == JOINT:
        stars = replace(stars, sed=np.full_like(stars.sed, np.nan))
    made = fit_psf(method, stars, OPTICS, BUDGET, tmp_path / "fit.safetensors")
    again = read_fit(tmp_path / "fit.safetensors", OPTICS)
    where = np.array([[100.0, 200.0], [800.0, 500.0]])
    with torch.no_grad():
        assert torch.equal(made.psf.monochromatic(where), again.psf.monochromatic(where))
    assert again.method == method and again.fit["n_stars"] == 50 and again.fit["seconds"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fit.safetensors"]  # no checkpoint is left
    if method in (FIT, JOINT):
        covariance = again.coefficient_covariance(where)
        assert covariance.shape == (2, 10, 10) and (np.linalg.eigvalsh(covariance) > 0).all()
    else:
        with pytest.raises(ValueError, match="has no errors"):
            again.coefficient_covariance(where)


@pytest.mark.parametrize(("method", "cut"), [(WAVEDIFF, False), (PARAMETRIC, False), (MENDED, True)])
def test_only_the_mended_model_has_the_pupil_of_the_telescope(method, cut, fields, folder, tmp_path):
    stars = known_stars(read_stars(folder / "field_1.h5", slice(0, 50)), fields[0])
    made = fit_psf(method, stars, OPTICS, BUDGET, tmp_path / "fit.safetensors")
    again = read_fit(tmp_path / "fit.safetensors", OPTICS)
    telescope = PupilModel(OPTICS, coarse=BUDGET.coarse).amplitude
    for fitted in (made, again):
        assert torch.equal(fitted.psf.pupil.amplitude, telescope) == cut


def test_bad_requests_for_a_fit(fields, folder, tmp_path):
    stars = known_stars(read_stars(folder / "field_1.h5", slice(0, 50)), fields[0])
    with pytest.raises(ValueError, match="no PSF model 'PSFEx'; expected one of WaveDiff"):
        fit_psf("PSFEx", stars, OPTICS, BUDGET, tmp_path / "x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"x.safetensors: no fitted PSF here"):
        read_fit(tmp_path / "x.safetensors", OPTICS)
    with pytest.raises(ValueError, match="epochs_share is 0"):
        FitBudget(epochs_share=0)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="method is None"):
        read_fit(tmp_path / "x.safetensors", OPTICS)


def test_jobs_are_not_repeated_and_know_their_stars(fields, folder, tmp_path):
    exposure = fields[0]
    stars = known_stars(read_stars(folder / "field_1.h5", slice(0, 50)), exposure)
    test = known_stars(read_stars(folder / "field_1.h5", exposure.rows("test")), exposure).take(slice(0, 8))
    jobs = {"a": PsfJob(PARAMETRIC, stars, exposure, BUDGET, test)}
    ((_, name, result),) = run_jobs(jobs, tmp_path, 1)
    stamp = result.path.stat().st_mtime_ns
    ((_, _, again),) = run_jobs(jobs, tmp_path, 1)
    assert name == "a" and again.errors == result.errors and again.path.stat().st_mtime_ns == stamp
    assert result.errors["n"] == 8 and result.errors["relative"] > 0
    others = [
        replace(jobs["a"], method=WAVEDIFF),
        replace(jobs["a"], seed=1),
        replace(jobs["a"], budget=replace(BUDGET, epochs_share=0.02)),
        replace(jobs["a"], stars=replace(stars, sed=stars.sed[::-1])),
    ]
    assert len({job.digest() for job in [jobs["a"], *others]}) == 5
    assert replace(jobs["a"], budget=replace(BUDGET, starts=2)).digest() == jobs["a"].digest()


def test_the_published_schedule_is_the_whole_of_it():
    whole = FitBudget().schedule(2000, maps=True)
    assert whole.parametric_epochs == (20, 20) and whole.map_epochs == (120, 100)
    part = FitBudget(epochs_share=0.1).schedule(2000, maps=False)
    assert part.parametric_epochs == (2, 2) and part.map_epochs == (0, 0)


def test_errors_of_the_psf_flatten_what_is_believed(fields, folder, fit):
    exposure = fields[0]
    stars = read_stars(folder / "field_1.h5", exposure.rows("test"))
    psf = FieldInterpolator(fit.psf, exposure.nodes)
    templates = exposure.templates.weights
    found = log_likelihoods(stars, psf, templates, fit)
    assert set(found) == {LIKELIHOOD, LIKELIHOOD_UNIT, OURS, OURS_UNIT}
    assert set(log_likelihoods(stars, exposure.true_psf(), templates)) == {LIKELIHOOD, LIKELIHOOD_UNIT}
    exact = FittedPsf(fit.method, fit.psf, fit.fit, 1e-12 * fit.covariance)
    same = log_likelihoods(stars, psf, templates, exact)
    np.testing.assert_allclose(same[OURS], same[LIKELIHOOD], atol=1e-3)  # no errors, no difference

    def spread(log_l):
        return np.ptp(log_l, axis=1).mean()

    wide = FittedPsf(fit.method, fit.psf, fit.fit, 100 * fit.covariance)
    wider = log_likelihoods(stars, psf, templates, wide)
    assert spread(wider[OURS]) < spread(found[OURS]) < spread(found[LIKELIHOOD])


def test_plan_has_each_method_once_with_each_psf(fields, folder):
    fits = [{"method": m, "set": "S1", "field": f, "file": "x"} for m in (FIT, WAVEDIFF) for f in (1, 2)]
    jobs = classify.plan(fields, fits, folder, QUICK, cnn_fields=1)
    keys = [(job.exposure.field_seed, job.kind, job.psf) for job in jobs]
    assert len(keys) == len(set(keys)) == 2 * 3 + 1 + 2 * 2 * 2
    assert all(job.other.field_seed != job.exposure.field_seed for job in jobs)
    assert all((job.other_fit is None) == (job.psf == "true") for job in jobs)
    with pytest.raises(ValueError, match="no classifier 'KNN'"):
        replace(jobs[0], kind="KNN")
    with pytest.raises(ValueError, match="a fit for all but 'true'"):
        replace(jobs[0], fit="x")


def test_training_and_test_stars_are_others(fields):
    rows = classify._training_rows(fields[0], QUICK)
    assert (rows.start, rows.stop) == (200, 400) and fields[0].rows("test").start == 400
    full = Exposure(1)
    assert classify._training_rows(full, QUICK) == slice(2000, 12_000)  # as published
    assert classify.training_stars(full, replace(QUICK, n_train=100)) == 100


def test_answers_hold_every_star_once(answers, fields):
    groups = answers.groupby(["field", "test", "psf", "method"])
    assert (groups.size() == 150).all()
    assert np.allclose(scores.probabilities(answers).sum(1), 1)
    likelihood = answers[(answers["method"] == LIKELIHOOD_UNIT) & (answers["psf"] == "true")]
    assert (likelihood["predicted"] == scores.probabilities(likelihood).argmax(1)).all()
    assert (likelihood["predicted"] == likelihood["label"]).mean() > 0.3
    assert set(answers["test"]) == {classify.SAME, classify.OTHER}


def test_scores_are_those_of_the_stars(answers):
    rows = pd.DataFrame(scores.score_rows(answers, "smoke", 200, 50))
    same = rows[rows["experiment"] == classify.SAME].set_index("model")
    part = answers[(answers["method"] == LIKELIHOOD) & (answers["psf"] == "true")]
    by_field = (part["predicted"] == part["label"]).groupby(part["field"]).mean()
    row = same.loc[f"{LIKELIHOOD}, PSF true"]
    assert row["accuracy"] == pytest.approx(by_field.mean()) and row["seeds"] == 2
    assert row["accuracy_sd"] == pytest.approx(by_field.std(ddof=1))
    assert row["accuracy_lo"] < row["accuracy"] < row["accuracy_hi"]
    assert row["accuracy"] <= row["top_two"] and row["accuracy"] <= row["within_one"]
    trivial = same.loc[scores.TRIVIAL]
    assert trivial["nll"] == pytest.approx(np.log(13)) and trivial["n_train"] == 0
    from sklearn.metrics import f1_score

    expected = f1_score(part["label"], part["predicted"], average="macro", labels=range(13), zero_division=0)
    assert row["f1"] == pytest.approx(expected)


def test_paired_gain_wants_the_same_stars(answers):
    same = answers[(answers["test"] == classify.SAME) & (answers["psf"] == "true")]
    one, other = (same[same["method"] == m] for m in (LIKELIHOOD_UNIT, LIKELIHOOD))
    gain = scores.paired_gain(one, other, 200)
    difference = (one["predicted"] == one["label"]).mean() - (other["predicted"] == other["label"]).mean()
    assert gain["value"] == pytest.approx(difference) and gain["lo"] <= gain["value"] <= gain["hi"]
    nll = scores.paired_gain(one, other, 200, score="nll")
    expected = (scores.per_star(one)["nll"] - scores.per_star(other)["nll"]).mean()
    assert nll["value"] == pytest.approx(expected) and nll["value"] != pytest.approx(gain["value"])
    with pytest.raises(ValueError, match="not asked about the same stars"):
        scores.paired_gain(one, other.iloc[::-1])


def test_compact_answers_come_back(answers):
    back = scores.restored_answers(scores.compact_answers(answers))
    assert np.abs(scores.probabilities(back) - scores.probabilities(answers)).max() < 0.01
    assert (back[["field", "test", "psf", "method"]] == answers[["field", "test", "psf", "method"]]).all(
        axis=None
    )


def test_tables_of_the_results(answers, fields):
    metrics = pd.DataFrame(scores.score_rows(answers, "smoke", 200, 20))
    printed = pd.DataFrame(
        [{"model": "SVM+PSF, PSF true", "f1": 0.546, "accuracy": 0.549, "within_one": 0.91}]
    )
    table = tables.published_table(metrics, printed)
    assert table.loc["SVM+PSF, PSF true", "printed accuracy"] == "0.549"
    assert table.index[0] == scores.TRIVIAL
    by_psf = tables.psf_table(metrics)
    assert list(by_psf.index) == ["ours S1", "true"] and OURS in by_psf
    assert tables.fewest_stars(answers) == "ours S1"
    assert list(tables.exposure_table(metrics).index) == ["PCA+MLP", "CNN+MLP", "SVM+PSF, PSF true"]
    classes = tables.class_table(answers, LIKELIHOOD, "true")
    assert list(classes.index) == list(CLASSES)
    assert tables.snr_table(answers, LIKELIHOOD, "true", (20, 60, 110))["n"].sum() == 300
    assert tables.field_table(answers, {"a": (LIKELIHOOD, "true")}).shape == (2, 1)


def test_psf_rows_average_fields(fields, folder, tmp_path):
    jobs = {}
    for exposure in fields:
        stars = known_stars(read_stars(folder / f"field_{exposure.field_seed}.h5", slice(0, 50)), exposure)
        test = stars.take(slice(0, 4))
        jobs[PARAMETRIC, "S1", exposure.field_seed] = PsfJob(PARAMETRIC, stars, exposure, BUDGET, test)
    results = {name: result for _, name, result in run_jobs(jobs, tmp_path, 1)}
    (row,) = psf_rows(results, "smoke")
    errors = [result.errors["relative"] for result in results.values()]
    assert row["relative_error"] == pytest.approx(np.mean(errors)) and row["seeds"] == 2
    assert row["relative_error_sd"] == pytest.approx(np.std(errors, ddof=1))
    metrics = pd.DataFrame([row])
    assert size_table(metrics)[["method", "n_stars"]].iloc[0].tolist() == [PARAMETRIC, 50]
    printed = pd.DataFrame([{"model": "x", "relative_error": 1.0}])
    assert error_table(metrics, printed).iloc[0]["printed [%]"] == ""
    assert json.loads(next(tmp_path.glob("*.json")).read_text())["n"] == 4


def test_labels_of_added_stars(fields, folder, fit, tmp_path):
    exposure = fields[0]
    read = [read_stars(folder / "field_1.h5", rows) for rows in (slice(0, 50), slice(50, 90), slice(90, 400))]
    extras = improve.extra_stars(exposure, *read, fit, fit)
    assert extras.accuracy("true") == 1 and extras.accuracy("random") < 0.4
    assert extras.accuracy("likelihood") > 0.2 and np.isnan(extras.accuracy("mean"))
    sizes = improve.sizes_of("S1, S2", "", "", "40", "40", "30")
    hundred = replace(extras, base=read_stars(folder / "field_1.h5", slice(0, 90)))
    jobs = improve.extension_jobs(exposure, {"S1": extras, "S2": hundred}, sizes, BUDGET, None)
    mean = jobs["S1", FIT, "mean", 40].stars.sed
    assert np.allclose(mean[50:], exposure.templates.weights.mean(0)) and np.ptp(mean[:50]) > 0
    assert np.isfinite(jobs["S1", FIT, "random", 40].stars.sed).all()
    known = {n: np.isfinite(jobs["S1", JOINT, improve.NONE, n].stars.sed).all(1).sum() for n in (40, -40)}
    assert known == {40: 50, -40: 0}  # the labels of the base alone, and none at all
    other = {key[1:]: len(job.stars.sed) for key, job in jobs.items() if key[0] == "S2"}
    assert other == {(WAVEDIFF, "SVM", 30): 120, (FIT, "SVM", 30): 120}
    ((_, key, result),) = run_jobs({"j": jobs["S1", JOINT, improve.NONE, -40]}, tmp_path, 1)
    test = read_stars(folder / "field_1.h5", exposure.rows("test"))
    found = improve.class_scores(exposure, test, {"j": result.path})["j"]
    assert 0 <= found["accuracy"] <= found["top_two"] <= 1 and key == "j"
