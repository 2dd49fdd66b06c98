"""Stars of unknown flux between pixels, with spectra of their own: our likelihood, and published methods."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from astro_utils.models.star_likelihood import class_log_posterior, template_log_likelihood
from astro_utils.psf import FieldInterpolator, FieldPsf, PupilModel
from astro_utils.starsed import realistic
from astro_utils.starsed.classify import CNN, PCA, SVM, ClassifyBudget
from astro_utils.starsed.exposures import mono_stamps
from astro_utils.starsed.likelihoods import LIKELIHOOD, OURS
from astro_utils.starsed.realistic import (
    LIKELIHOOD_SHIFTED,
    SVM_MATCHED,
    SVM_SHIFTED,
    ShiftedPsf,
    SpectralScatter,
    member_shares,
    place_stars,
    realistic_answers,
    realistic_exposures,
    realistic_log_likelihoods,
    spectral_scatter,
)
from astro_utils.starsed.scores import paired_gain, per_star, probabilities
from astro_utils.starsed.stamps import FourierShifted, observe, power_ratio
from astro_utils.starsed.stars import draw_catalogue
from astro_utils.starsed.templates import CLASSES, templates

# Few nodes: another field than that of 22, and the same for stars and models.
NODES = 4


def exposures_of_few_nodes(field_seed, **options):
    return tuple(replace(one, nodes=NODES) for one in realistic_exposures(field_seed, **options))


@cache
def field(n_train=60, n_test=70):
    """Exposures, PSF and both parts with their catalogues."""
    known, unseen = exposures_of_few_nodes(1, n_train=n_train, n_test=n_test)
    psf = ShiftedPsf.of(known)
    parts = []
    for exposure, part in ((known, "train"), (unseen, "test")):
        catalogue = draw_catalogue(exposure.stars, exposure.star_spectra.classes)
        rows = exposure.rows(part)
        stars = observe(catalogue, exposure.stars, psf, exposure.star_spectra, rows=rows)
        parts.append((stars, catalogue.shifts[rows]))
    return known, psf, *parts


@cache
def known_scatter():
    return spectral_scatter(*member_shares(8))


@cache
def found(part):
    """Log-likelihoods of the training or the test stars, and their labels."""
    known, psf, *parts = field()
    stars = parts[part == "test"][0]
    log_l = realistic_log_likelihoods(psf, stars, known.templates.weights, known_scatter())
    return log_l, stars.labels


def nll(log_l, labels):
    return -class_log_posterior(log_l)[np.arange(len(labels)), labels].mean()


# ------------------------------------------------------------------------------------------ shifted PSFs


def test_exposures_share_the_optics_and_differ_in_spectra():
    known, unseen = realistic_exposures(3, n_train=5, n_test=7, spectra="stelib")
    assert known.key == unseen.key and known.stars == unseen.stars and known.stars.seed == 3
    assert known.star_spectra.names == CLASSES and len(unseen.star_spectra.names) > 40
    assert known.stars.max_shift == 0.5 and known.stars.detector.read_noise > 0


def test_shifts_are_those_of_a_fourier_transform():
    _, psf, (stars, shifts), _ = field()
    positions = stars.positions[:4]
    exact = FourierShifted(lambda places: mono_stamps(psf.fine, places), psf.factor)
    expected = exact(positions, shifts[:4])
    assert np.abs(psf(positions, shifts[:4]) - expected).max() < 1e-6 * expected.max()
    np.testing.assert_allclose(psf(positions, shifts[:4]).sum((2, 3)), 1, atol=1e-5)
    # Light goes to larger x for a positive first offset, to larger y for the second.
    moved = psf(positions, np.tile([0.5, 0.0], (4, 1))) - psf(positions)
    x, y = (np.arange(32)[None, None, None, :], np.arange(32)[None, None, :, None])
    assert ((moved * x).sum((2, 3)) > 0.3).all() and (np.abs((moved * y).sum((2, 3))) < 0.1).all()


def test_psfs_in_the_middle_of_a_pixel_are_those_of_the_exposure():
    known, psf, *_ = field()
    truth = mono_stamps(
        FieldInterpolator(FieldPsf(PupilModel(known.optics), known.wavefronts), NODES), [[1, 2]]
    )
    assert np.abs(psf(np.array([[1.0, 2.0]])) - truth).max() < 1e-5 * truth.max()


def test_slopes_are_derivatives():
    _, psf, (stars, _), _ = field()
    placed = place_stars(psf, stars.rows(slice(0, 3)), np.full(8, 1 / 8))
    for axis in (0, 1):
        step = np.zeros((3, 2))
        step[:, axis] = 0.02
        ends = [psf(stars.positions[:3], placed.shifts + sign * step).astype(float) for sign in (1, -1)]
        numerical = (ends[0] - ends[1]) / 0.04
        np.testing.assert_allclose(placed.slopes[:, :, axis], numerical, atol=2e-3 * np.abs(numerical).max())
    np.testing.assert_allclose(placed.psfs, psf(stars.positions[:3], placed.shifts), atol=1e-7)


# ------------------------------------------------------------------------------------- flux and place


def test_flux_and_place_are_exact_without_noise():
    known, psf, (stars, shifts), _ = field()
    weights = known.templates.weights
    for label in (0, 12):  # the bluest and the reddest, each with its own spectrum
        rows = np.flatnonzero(stars.labels == label)[:4]
        some = replace(stars.rows(rows), stamps=stars.noiseless[rows])
        placed = place_stars(psf, some, weights[label])
        np.testing.assert_allclose(placed.shifts, shifts[rows], atol=2e-4)
        np.testing.assert_allclose(placed.flux, some.flux, rtol=1e-3)


def test_place_of_noisy_stars_is_as_uncertain_as_their_noise_says():
    known, psf, (stars, shifts), _ = field()
    weights = known.templates.weights
    pulls = []
    for label in range(13):
        rows = np.flatnonzero(stars.labels == label)
        if not len(rows):
            continue
        some = stars.rows(rows)
        placed = place_stars(psf, some, weights[label])
        slopes = placed.flux[:, None, None, None] * np.einsum("b,nbkyx->nkyx", weights[label], placed.slopes)
        fisher = (slopes**2 / some.variance(some.noiseless)[:, None]).sum((2, 3))
        pulls.append((placed.shifts - shifts[rows]) * np.sqrt(fisher))
    pulls = np.concatenate(pulls)
    assert abs(pulls.mean()) < 0.35 and 0.8 < pulls.std() < 1.25


def test_the_place_is_where_the_weighted_squares_are_least():
    known, psf, (stars, _), _ = field()
    some, spectrum = stars.rows(slice(0, 30)), known.templates.weights.mean(0)
    placed = place_stars(psf, some, spectrum)
    model = placed.flux[:, None, None] * np.einsum("b,nbyx->nyx", spectrum, placed.psfs)
    slopes = placed.flux[:, None, None, None] * np.einsum("b,nbkyx->nkyx", spectrum, placed.slopes)
    variance = some.variance(model)[:, None]
    score = (slopes * (some.stamps - model)[:, None] / variance).sum((2, 3))
    assert np.abs(score / np.sqrt((slopes**2 / variance).sum((2, 3)))).max() < 0.01


def test_a_star_without_light_is_refused():
    _, psf, (stars, _), _ = field()
    dark = replace(stars.rows(slice(0, 2)), stamps=-stars.stamps[:2])
    with pytest.raises(ValueError, match=r"the pixels of the star at \(.*\) sum to -.*; expected above 0"):
        place_stars(psf, dark, np.full(8, 1 / 8))


# ------------------------------------------------------------------------------------ spectra of a class


def test_scatter_of_members_is_found_again():
    rng = np.random.default_rng(0)
    factor = rng.normal(size=(8, 3)) * np.array([0.05, 0.02, 0.01])
    counts = np.full(13, 60)
    counts[3] = 1
    classes = np.repeat(np.arange(13), counts)
    means = rng.uniform(0.5, 1.5, (13, 8))
    shares = means[classes] * (1 + rng.normal(size=(len(classes), 3)) @ factor.T)
    directions = spectral_scatter(shares, classes).directions
    covariance = directions.swapaxes(1, 2) @ directions  # (13, 8, 8)
    truth = factor @ factor.T
    assert np.abs(covariance[0] - truth * (1 + 1 / 60)).max() < 0.12 * truth.max()
    # The mean of one star is as uncertain as a star.
    np.testing.assert_allclose(covariance[3], covariance[0] * 2 / (1 + 1 / 60))


def test_scatter_counts_the_freedom_that_the_means_take():
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(200):
        classes = np.repeat(np.arange(13), 2)
        shares = 1 + 0.01 * rng.normal(size=(26, 4))
        directions = spectral_scatter(shares, classes).directions[0] / np.sqrt(1.5)
        drawn.append((directions**2).sum() / 4)
    assert np.mean(drawn) == pytest.approx(1e-4, rel=0.05)


@pytest.mark.parametrize("classes", [np.arange(13), np.repeat(np.arange(12), 2)])
def test_too_few_members(classes):
    with pytest.raises(ValueError, match="expected one or more of each, of some two"):
        spectral_scatter(np.full((len(classes), 4), 0.25), classes)


def test_members_are_those_of_the_templates_and_no_test_stars():
    shares, classes = member_shares(8)
    means = np.array([shares[classes == label].mean(0) for label in range(13)])
    np.testing.assert_allclose(means, templates("stelib").weights, atol=1e-4)
    unseen = templates("stelib", unseen=True).weights
    assert np.abs(shares[:, None] - unseen).max(2).min() > 1e-4
    # Relative deviations of some per cent: real stars of a class differ.
    spread = np.sqrt((known_scatter().directions ** 2).sum(1))  # (13, bins)
    assert 0.005 < spread.min() and spread.max() < 0.15


def test_scattered_spectra_widen_the_likelihood_as_their_covariance_says():
    rng = np.random.default_rng(2)
    psfs = rng.uniform(size=(1, 3, 4, 4))
    psfs /= psfs.sum((2, 3), keepdims=True)
    spectra = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])
    directions = 0.3 * rng.normal(size=(2, 2, 3))
    stamp = rng.normal(size=(1, 4, 4))
    log_l = template_log_likelihood(
        stamp, psfs, spectra, 0.5, flux="unit", nuisances=[SpectralScatter(directions)]
    )
    for label in (0, 1):
        image = (spectra[label] @ psfs[0].reshape(3, -1)).ravel()
        changes = (directions[label] * spectra[label]) @ psfs[0].reshape(3, -1)
        covariance = 0.25 * np.eye(16) + changes.T @ changes
        r = stamp.ravel() - image
        _, log_det = np.linalg.slogdet(2 * np.pi * covariance)
        assert log_l[0, label] == pytest.approx(-0.5 * (r @ np.linalg.solve(covariance, r) + log_det))
    with pytest.raises(ValueError, match=r"directions are of shape \(2, 2, 3\); expected \(1, 2, 3\)"):
        SpectralScatter(directions).columns(slice(0, 1), torch.ones(1, 3, 4, 4), None, torch.ones(1, 3))


# ----------------------------------------------------------------------------------------------- answers


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
    monkeypatch.setattr(realistic, "place_stars", misplaced)
    wrong = realistic_log_likelihoods(psf, some, weights, known_scatter())
    for name in (LIKELIHOOD_SHIFTED, OURS):
        p, q = (np.exp(class_log_posterior(one[name])) for one in (right, wrong))
        assert np.abs(p - q).max() < 0.1


def test_stars_without_a_detector_are_refused():
    known, psf, (stars, _), _ = field()
    white = replace(stars.rows(slice(0, 2)), gain=np.inf)
    with pytest.raises(ValueError, match="the gain is infinite, or sigmas differ"):
        realistic_log_likelihoods(psf, white, known.templates.weights, known_scatter())


def test_answers_of_all_methods_about_the_same_stars(monkeypatch):
    monkeypatch.setattr(realistic, "realistic_exposures", exposures_of_few_nodes)
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
    given = realistic._divided(stars)
    np.testing.assert_allclose(given.stamps.sum((1, 2)), 1, rtol=1e-5)
    twice = realistic._divided(replace(stars, stamps=2 * stars.stamps, flux=np.full(len(stars), np.nan)))
    np.testing.assert_array_equal(twice.stamps, given.stamps)
    assert given.psfs is None and given.sigma is None
    assert power_ratio(stars.noiseless, stars.variance(stars.noiseless)) == pytest.approx(stars.snr)
