"""Stars of unknown flux between pixels, with spectra of their own: our likelihood, and published methods."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from realistic_star_sample import exposures_of_few_nodes, field, known_scatter

from astro_utils.models.star_likelihood import class_log_posterior
from astro_utils.starsed import realistic_likelihoods, realistic_methods
from astro_utils.starsed.classify import CNN, PCA, SVM, ClassifyBudget
from astro_utils.starsed.likelihoods import LIKELIHOOD, OURS
from astro_utils.starsed.realistic_likelihoods import LIKELIHOOD_SHIFTED, realistic_log_likelihoods
from astro_utils.starsed.realistic_methods import SVM_MATCHED, SVM_SHIFTED, realistic_answers
from astro_utils.starsed.realistic_stars import realistic_exposures
from astro_utils.starsed.scores import paired_gain, per_star, probabilities
from astro_utils.starsed.stamps import power_ratio
from astro_utils.starsed.star_places import place_stars
from astro_utils.starsed.stars import draw_catalogue
from astro_utils.starsed.templates import CLASSES


@cache
def found(part):
    """Log-likelihoods of the training or the test stars, and their labels."""
    known, psf, *parts = field()
    stars = parts[part == "test"][0]
    log_l = realistic_log_likelihoods(psf, stars, known.templates.weights, known_scatter())
    return log_l, stars.labels


def nll(log_l, labels):
    return -class_log_posterior(log_l)[np.arange(len(labels)), labels].mean()


def test_exposures_share_the_optics_and_differ_in_spectra():
    known, unseen = realistic_exposures(3, n_train=5, n_test=7, spectra="stelib")
    assert known.key == unseen.key and known.stars == unseen.stars and known.stars.seed == 3
    assert known.star_spectra.names == CLASSES and len(unseen.star_spectra.names) > 40
    assert known.stars.max_shift == 0.5 and known.stars.detector.read_noise > 0


# ------------------------------------------------------------------------------------------ likelihoods


def test_the_place_of_a_star_matters_most():
    log_l, labels = found("train")
    right = {name: (value.argmax(1) == labels).mean() for name, value in log_l.items()}
    assert right[LIKELIHOOD] < 0.3 < 0.55 < right[LIKELIHOOD_SHIFTED]
    assert abs(right[OURS] - right[LIKELIHOOD_SHIFTED]) < 0.15
    # Stars that have the spectra of the templates are told apart better by who knows it.
    assert nll(log_l[LIKELIHOOD_SHIFTED], labels) < nll(log_l[OURS], labels)


def test_scattered_spectra_are_right_about_stars_of_their_own():
    log_l, labels = found("test")
    assert nll(log_l[OURS], labels) < nll(log_l[LIKELIHOOD_SHIFTED], labels) - 0.05
    assert (np.abs(log_l[OURS].argmax(1) - labels) <= 1).mean() > 0.8


def test_what_the_fit_leaves_of_the_place_does_not_matter(monkeypatch):
    known, psf, (stars, _), _ = field()
    some, weights = stars.rows(slice(0, 20)), known.templates.weights

    def misplaced(psf, stars, spectrum):
        placed = place_stars(psf, stars, spectrum)
        shifts = placed.shifts + 0.015
        return replace(placed, shifts=shifts, psfs=psf(stars.positions, shifts))

    right = realistic_log_likelihoods(psf, some, weights, known_scatter())
    monkeypatch.setattr(realistic_likelihoods, "place_stars", misplaced)
    wrong = realistic_log_likelihoods(psf, some, weights, known_scatter())
    for name in (LIKELIHOOD_SHIFTED, OURS):
        p, q = (np.exp(class_log_posterior(one[name])) for one in (right, wrong))
        assert np.abs(p - q).max() < 0.1


def test_stars_without_a_detector_are_refused():
    known, psf, (stars, _), _ = field()
    white = replace(stars.rows(slice(0, 2)), gain=np.inf)
    with pytest.raises(ValueError, match="the gain is infinite, or sigmas differ"):
        realistic_log_likelihoods(psf, white, known.templates.weights, known_scatter())


# ----------------------------------------------------------------------------------------------- answers


def test_answers_of_all_methods_about_the_same_stars(monkeypatch):
    monkeypatch.setattr(realistic_methods, "realistic_exposures", exposures_of_few_nodes)
    budget = ClassifyBudget(cnn_epochs=2, committee_epochs=3, committee_members=2)
    answers = realistic_answers(2, n_train=240, n_test=60, budget=budget)
    columns = ["label", "snr", "predicted", *(f"p_{name}" for name in CLASSES)]
    assert list(answers) == [*columns, "field", "test", "psf", "method"]
    names = [LIKELIHOOD, LIKELIHOOD_SHIFTED, OURS, PCA, CNN, SVM, SVM_MATCHED, SVM_SHIFTED]
    assert list(answers["method"].unique()) == names and (answers.groupby("method").size() == 60).all()
    assert set(answers["test"]) == {"realistic"} and set(answers["psf"]) == {"true"}
    np.testing.assert_allclose(probabilities(answers).sum(1), 1)
    ours = answers[answers["method"] == OURS]
    for name in (LIKELIHOOD, PCA, CNN, SVM, SVM_MATCHED, SVM_SHIFTED):
        assert paired_gain(ours, answers[answers["method"] == name], 200)["lo"] > 0, name
    assert per_star(ours)["accuracy"].mean() > 0.4
    matched, shifted = (answers[answers["method"] == name] for name in (SVM_MATCHED, SVM_SHIFTED))
    assert paired_gain(shifted, matched, 200)["value"] > 0.05
    # Votes of pairs, not the most probable class.
    assert (matched["predicted"].to_numpy() != probabilities(matched).argmax(1)).any()
    # The stars are those of the exposures, as bright as a catalogue says.
    _, unseen = exposures_of_few_nodes(2, n_train=240, n_test=60)
    catalogue = draw_catalogue(unseen.stars, unseen.star_spectra.classes)
    assert (ours["label"] == catalogue.labels[240:]).all() and (ours["snr"] > 10).all()


def test_published_classifiers_get_stars_of_flux_one_and_no_truth():
    _, _, (stars, _), _ = field()
    given = realistic_methods._divided(stars)
    np.testing.assert_allclose(given.stamps.sum((1, 2)), 1, rtol=1e-5)
    twice = realistic_methods._divided(
        replace(stars, stamps=2 * stars.stamps, flux=np.full(len(stars), np.nan))
    )
    np.testing.assert_array_equal(twice.stamps, given.stamps)
    assert given.psfs is None and given.sigma is None
    assert power_ratio(stars.noiseless, stars.variance(stars.noiseless)) == pytest.approx(stars.snr)
