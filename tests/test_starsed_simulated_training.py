"""What is learned on simulated fields of the worth of likelihoods."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from erring_field_sample import ERROR_NM, OPTICS, erring, made, nll
from safetensors.torch import save_file

from astro_utils.models.star_likelihood import fit_temperature
from astro_utils.starsed.classify import _rows
from astro_utils.starsed.exposures import exposures
from astro_utils.starsed.psf_fits import FitBudget
from astro_utils.starsed.relinearised import relinearised_likelihoods
from astro_utils.starsed.simulated_answers import simulated_answers
from astro_utils.starsed.simulated_correction import METHODS, SimulatedCorrection
from astro_utils.starsed.simulated_fields import SimulatedField, simulated_fields
from astro_utils.starsed.simulated_jobs import FIRST_SEED, SimulatedJob, run_simulated, simulated_plan
from astro_utils.starsed.simulated_training import SimulatedConfig, fit_simulated
from astro_utils.starsed.star_samples import read_stars
from astro_utils.training import TrainingConfig

QUICK = SimulatedConfig(steps=2, folds=2, hidden=8, training=TrainingConfig(epochs=12, learning_rate=1e-2))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Four fields whose errors are thrice what their fits claim, which makes likelihoods too sure."""
    folder, out = tmp_path_factory.mktemp("fields"), []
    for seed in range(11, 15):
        exposure = made(seed, 80)
        stars = read_stars(exposure.write(folder / f"{seed}.h5", progress=False))
        fitted = erring(exposure, 3 * ERROR_NM, ERROR_NM)
        out.append(SimulatedField(fitted, stars, exposure.templates.weights))
    return out


@pytest.fixture(scope="module")
def unseen(tmp_path_factory):
    exposure = made(3, 1, 150)
    path = exposure.write(tmp_path_factory.mktemp("unseen") / "field_3.h5", progress=False)
    return exposure, path, read_stars(path, exposure.rows("test"))


@pytest.fixture(scope="module")
def correction(fields):
    return fit_simulated(fields, QUICK)


# ------------------------------------------------------------------------------------- learning


def test_what_is_learned_elsewhere_makes_likelihoods_honest_here(correction, unseen):
    """In a field that nothing was learned from, likelihoods lose most of what they are too sure."""
    exposure, _, stars = unseen
    fitted, templates = erring(exposure, 3 * ERROR_NM, ERROR_NM), exposure.templates.weights
    found = correction.log_posterior(stars, fitted, templates)
    seen = relinearised_likelihoods(stars, fitted, templates, steps=2)
    assert list(found) == ["free", "unit"]
    for flux, log_p in found.items():
        np.testing.assert_allclose(np.exp(log_p).sum(1), 1, atol=1e-6)
        before = seen.log_likelihood[flux]
        assert nll(log_p, stars.labels) < nll(before, stars.labels) - 0.05
        too_sure, now = (np.log(fit_temperature(one, stars.labels)) for one in (before, log_p))
        assert too_sure > 0.15 and abs(now) < 0.6 * too_sure


def test_learning_is_repeatable_and_knows_its_facts(correction, fields):
    again = fit_simulated(fields, QUICK)
    assert again.facts == correction.facts
    assert correction.facts["n_psf"] == [50, 50] and correction.facts["stars"] == 320
    for one, two in zip(correction.networks["unit"], again.networks["unit"], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    first, second = correction.networks["free"]
    assert not torch.equal(first.factor.weight, second.factor.weight), "folds see other fields"


def test_saved_corrections_come_back(correction, unseen, tmp_path):
    exposure, _, stars = unseen
    stars, fitted = stars.rows(slice(0, 20)), erring(exposure)
    path = correction.save(tmp_path / "learned.safetensors")
    back = SimulatedCorrection.load(path)
    assert back.facts == correction.facts
    templates = exposure.templates.weights
    for flux, log_p in correction.log_posterior(stars, fitted, templates).items():
        np.testing.assert_array_equal(back.log_posterior(stars, fitted, templates)[flux], log_p)


# ------------------------------------------------------------------------------------- whole


def test_from_fields_to_answers(unseen, tmp_path):
    """The whole way with real fits, on a small telescope, and answers as all other classifiers give them."""
    exposure, path, stars = unseen
    training = [replace(one, optics=OPTICS, nodes=5) for one in exposures(2, 40, 0, "stelib", first_seed=101)]
    budget = FitBudget(coarse=1, starts=1, iterations=3)
    seen = simulated_fields(training, 20, tmp_path, budget=budget)
    assert [len(one.stars) for one in seen] == [20, 20] and seen[0].fitted.fit["n_stars"] == 20
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    simulated_fields(training, 20, tmp_path, budget=budget)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == kept, "kept, not repeated"
    learned = fit_simulated(seen, QUICK)
    fitted = replace(seen[0].fitted, psf=erring(exposure).psf)

    answers = simulated_answers(exposure, path, fitted, learned)
    assert len(answers) == 2 * len(stars) and list(answers["method"].unique()) == list(METHODS.values())
    assert set(answers["psf"]) == {"ours 20"} and set(answers["field"]) == {3}
    job = type("Job", (), {"exposure": exposure, "psf": "ours 20"})
    shape = _rows(stars, job, "same field", "any", np.full((len(stars), 13), 1 / 13))
    assert answers.dtypes.to_dict() == shape.dtypes.to_dict()
    np.testing.assert_array_equal(answers["label"][: len(stars)], stars.labels)
    few = simulated_answers(exposure, stars.rows(slice(0, 5)), fitted, learned, psf="mine")
    assert set(few["psf"]) == {"mine"} and len(few) == 10
    pair = few.iloc[:5].filter(like="p_").to_numpy(), answers.iloc[:5].filter(like="p_").to_numpy()
    np.testing.assert_allclose(*pair, atol=1e-6)


def test_jobs_are_kept_and_know_what_they_are_made_of(tmp_path):
    """A job of real fits on a small telescope; the second time its answers are read, others are made anew."""
    small = [replace(e, optics=OPTICS, nodes=5) for e in exposures(3, 40, 30, "stelib")]
    budget = FitBudget(coarse=1, starts=1, iterations=2, rounds=1)
    asked = simulated_fields([replace(small[2], field_seed=9)], 20, tmp_path, budget=budget)[0]
    sample = small[2].write(tmp_path / "field_3.h5", progress=False)
    fit = str(next(tmp_path.glob("*.safetensors")))
    job = SimulatedJob(20, budget, tuple(small[:2]), ((small[2], str(sample), fit),), QUICK)
    ((done, path),) = run_simulated([job], tmp_path / "kept", workers=1)
    answers, when = pd.read_parquet(path), path.stat().st_mtime_ns
    assert done == 1 and len(answers) == 2 * 30 and set(answers["method"]) == set(METHODS.values())
    assert asked.fitted.fit["n_stars"] == 20 and set(answers["field"]) == {3}
    ((_, again),) = run_simulated([job], tmp_path / "kept", workers=1)
    assert again == path and path.stat().st_mtime_ns == when
    others = [replace(job, n_psf=10), replace(job, learned=job.learned[::-1])]
    others += [replace(job, config=replace(QUICK, steps=1)), replace(job, budget=FitBudget())]
    assert len({one.digest() for one in [job, *others]}) == 5


def test_planned_fields_to_learn_from_are_others_and_fitted_alike(tmp_path):
    fields = exposures(3, 500, 100, "stelib")
    common = {"file": "psf/a.safetensors", "budget": {"coarse": 8, "iterations": 2}}
    fits = [{"method": "ours", "set": "S2", "field": f, **common} for f in (1, 3)]
    (job,) = simulated_plan(fields, fits, tmp_path, ["S2"], n_fields=4, n_stars=30)
    assert [e.field_seed for e in job.learned] == list(range(FIRST_SEED, FIRST_SEED + 4))
    assert {e.stars.n_train for e in job.learned} == {130} and job.n_psf == 100
    assert [e.field_seed for e, _, _ in job.asked] == [1, 3]
    assert job.budget == FitBudget(coarse=8, iterations=2)
    with pytest.raises(ValueError, match="no PSF of ours was fitted to 'S1'"):
        simulated_plan(fields, fits, tmp_path, ["S1"], n_fields=4, n_stars=30)
    with pytest.raises(ValueError, match=r"fields \[1\] are both learned from and classified"):
        replace(job, learned=tuple(fields[:1]))


def test_names_of_published_sets(unseen, correction):
    exposure, _, stars = unseen
    answers = simulated_answers(exposure, stars.rows(slice(0, 3)), erring(exposure), correction)
    assert set(answers["psf"]) == {"ours S1"}


# ------------------------------------------------------------------------------------- bad input


def test_bad_input(fields, unseen, correction, tmp_path):
    exposure, _, stars = unseen
    templates, fitted = exposure.templates.weights, erring(exposure)
    few = stars.rows(slice(0, 3))
    with pytest.raises(ValueError, match="1 simulated fields; expected two or more"):
        fit_simulated(fields[:1], QUICK)
    with pytest.raises(ValueError, match="fitted to 200 stars; expected 50 to 50"):
        correction.log_posterior(few, erring(exposure, n_stars=200), templates)
    with pytest.raises(ValueError, match="12 templates; expected 13"):
        correction.log_posterior(few, fitted, templates[:12])
    with pytest.raises(ValueError, match="field 3 has 1 training stars; expected more than 50"):
        simulated_fields([exposure], 50, tmp_path)


def test_files_that_are_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing learned"):
        SimulatedCorrection.load(tmp_path / "no.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(ValueError, match=r"text\.safetensors: not in safetensors format"):
        SimulatedCorrection.load(tmp_path / "text.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", metadata={"kind": "other"})
    with pytest.raises(ValueError, match="holds 'other'; expected 'SimulatedCorrection'"):
        SimulatedCorrection.load(tmp_path / "other.safetensors")
