"""The 10,000 real galaxies, their pseudo-true K, and kcorrect with and without the published mistakes."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from astro_utils.kcorrections.features import photometric_features
from astro_utils.kcorrections.kcorrect_fit import (
    MISTAKES,
    KcorrectOptions,
    published_options,
    run_kcorrect,
)
from astro_utils.kcorrections.polynomials import box_powers, fit_polynomial, total_powers
from astro_utils.kcorrections.real_sample import (
    ALL_BANDS,
    MAX_REDSHIFT,
    OPTICAL,
    Photometry,
    wheel_photometry,
    with_error_floors,
)
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.truth import KTruth, circularity, pseudo_truth
from astro_utils.photometry import asinh_to_flux
from astro_utils.splits import group_folds


@cache
def galaxies():
    return wheel_photometry()


@cache
def truth():
    return pseudo_truth(galaxies()[0])


def test_what_is_in_the_table():
    photometry, sample = galaxies()
    assert photometry.bands == ALL_BANDS
    measured = dict(zip(ALL_BANDS, (photometry.ivar > 0).sum(0).tolist(), strict=True))
    assert measured == {
        **dict.fromkeys(OPTICAL, 10_000), "FUV": 530, "NUV": 774, "J": 9999, "H": 9285, "Ks": 9998
    }  # fmt: skip
    assert (photometry.ivar > 0).all(1).sum() == 461
    np.testing.assert_array_equal(photometry.z, sample["z"])
    assert (photometry.z <= MAX_REDSHIFT).sum() == 9998
    assert len(np.unique(sample["pixel"])) > 100


def test_fluxes_are_those_of_the_reader_of_magnitudes():
    photometry = wheel_photometry(ab_correct=False)[0].only(OPTICAL)
    sample = galaxies()[1]
    columns = [sample[[f"model_{what}_{b}" for b in OPTICAL]].to_numpy() for what in ("mag", "err")]
    for found, expected in zip(photometry.dereddened(), asinh_to_flux(*columns), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_ab_corrections_are_kcorrects():
    raw, ab = (wheel_photometry(ab_correct=flag)[0].only(OPTICAL) for flag in (False, True))
    shift = -2.5 * np.log10(ab.flux / raw.flux)
    np.testing.assert_allclose(shift, np.tile([-0.036, 0.012, 0.010, 0.028, 0.040], (10_000, 1)), atol=1e-5)
    np.testing.assert_allclose(ab.flux**2 * ab.ivar, raw.flux**2 * raw.ivar, rtol=1e-5)


def test_infrared_and_ultraviolet_join_the_optical():
    photometry, _ = galaxies()
    rows = (photometry.ivar > 0).all(1)
    flux = photometry.select(rows).dereddened()[0]
    colour = np.median(-2.5 * np.log10(flux[:, :-1] / flux[:, 1:]), axis=0)
    # AB colours of nearby galaxies that GALEX sees: FUV-NUV, NUV-u, u-g, g-r, r-i, i-z, z-J, J-H, H-Ks.
    expected = [0.4, 0.9, 1.1, 0.5, 0.25, 0.2, 0.2, 0.25, -0.05]
    np.testing.assert_allclose(colour, expected, atol=0.45)
    assert (photometry.extinction[:, 0] > photometry.extinction[:, 2]).all()
    assert (photometry.extinction[:, -1] < photometry.extinction[:, 4]).all()


def test_error_floors():
    flux, ivar = np.array([[10.0, 10.0, -10.0]]), np.array([[1e12, 0.0, 25.0]])
    found = with_error_floors(flux, ivar, ("r", "g", "u"))
    np.testing.assert_allclose(found, [[25.0, 0.0, 1 / (0.2**2 + 0.5**2)]], rtol=1e-6)
    with pytest.raises(ValueError, match="no error floor for band 'W1'"):
        with_error_floors(flux, ivar, ("r", "g", "W1"))


def test_photometry_is_checked():
    photometry, _ = galaxies()
    with pytest.raises(ValueError, match="no band 'W1'; expected some of FUV, NUV, u"):
        photometry.only(("r", "W1"))
    with pytest.raises(ValueError, match=r"ivar has shape \(3, 1\); expected \(3, 2\)"):
        Photometry(("g", "r"), np.ones((3, 2)), np.ones((3, 1)), np.ones((3, 2)), np.ones(3))
    assert photometry.only("gr").select(slice(4)).flux.shape == (4, 2)


def test_the_truth_of_all_galaxies():
    found = truth()
    assert found.fit.failures() == {}
    assert found.sound.sum() > 9900
    near = np.abs(photometry_z() - 0.1) < 5e-5
    assert near.sum() > 3
    np.testing.assert_allclose(found.k[near], -2.5 * np.log10(1.1), atol=2e-4)
    # Known of this sample: K has a standard deviation of 0.08 mag, and a third of it is not redshift.
    inside = photometry_z() <= MAX_REDSHIFT
    assert np.std(found.k[inside]) == pytest.approx(0.078, abs=0.004)


def photometry_z():
    return galaxies()[0].z


def test_the_trivial_predictors_stand_where_they_did():
    """Redshift alone, redshift and a colour, two colours, and the mean, on sky that they have not seen."""
    photometry, sample = galaxies()
    inside = (photometry.z <= MAX_REDSHIFT) & truth().sound
    z, k, pixel = photometry.z[inside], truth().k[inside], sample["pixel"].to_numpy()[inside]
    features = photometric_features(sample[inside], "grz", full=False).values  # r, g - r, r - z
    sets = {
        "redshift": (z[:, None], box_powers(7), 0.952),
        "redshift and g - r": (np.stack([z, features[:, 1]], 1), box_powers(7, 3), 0.992),
        "colours": (features[:, 1:], total_powers(2, 4), 0.814),
        "mean": (z[:, None], total_powers(1, 0), 0.0),
    }
    folds = group_folds(pixel, 5, 0)
    for name, (variables, powers, expected) in sets.items():
        found = np.empty(len(k))
        for fold in range(5):
            train = folds != fold
            found[~train] = fit_polynomial(variables[train], k[train], powers)(variables[~train])
        assert k_scores(found, k)["r2"] == pytest.approx(expected, abs=0.004), name


def test_kcorrect_on_three_bands_is_nearly_the_truth_and_on_five_is_the_truth():
    photometry = galaxies()[0].select(slice(0, 2000))
    expected = truth().k[:2000]
    five = run_kcorrect(photometry, KcorrectOptions("ugriz"))
    np.testing.assert_allclose(five.k, expected, atol=1e-6)
    three = run_kcorrect(photometry, KcorrectOptions("grz"))
    assert three.fit.failures() == {}
    assert 0.98 < k_scores(three.k, expected)["r2"] < 0.9999


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "northern responses"])
def test_each_published_mistake_changes_k_and_none_is_the_default(name):
    photometry = galaxies()[0].select(slice(0, 500))
    right = KcorrectOptions("grz")
    wrong = replace(right, **MISTAKES[name])
    assert wrong != right
    difference = run_kcorrect(photometry, wrong).k - run_kcorrect(photometry, right).k
    assert 2e-5 < np.std(difference) < 0.02


def test_northern_responses_for_the_southern_sky_change_k():
    # The photometry is SDSS's; only how kcorrect reads it differs.
    photometry = galaxies()[0].select(slice(0, 200))
    south, north = KcorrectOptions("grz", "DECam"), KcorrectOptions("grz", "BASS/MzLS")
    assert replace(south, **MISTAKES["northern responses"]) == north
    difference = run_kcorrect(photometry, north).k - run_kcorrect(photometry, south).k
    assert 0.002 < np.abs(np.median(difference)) < 0.05
    theirs = published_options("DECam")
    assert (theirs.system, theirs.redshift_decimals, theirs.deredden_ivar, theirs.error_floors) == (
        "BASS/MzLS", 3, False, False
    )  # fmt: skip


def test_other_redshifts_and_wrong_options():
    photometry = galaxies()[0].select(slice(0, 20))
    options = KcorrectOptions("grz")
    away = run_kcorrect(photometry, options, photometry.z + 0.05)
    assert np.abs(away.k - run_kcorrect(photometry, options).k).min() > 0.005
    assert run_kcorrect(photometry, options, np.full(20, -1.0)).fit.failures() == {"redshift": 20}
    with pytest.raises(ValueError, match=r"\(3,\) redshifts for 20 galaxies"):
        run_kcorrect(photometry, options, np.ones(3))
    with pytest.raises(ValueError, match="system 'HSC'; expected one of SDSS"):
        KcorrectOptions("grz", "HSC")
    with pytest.raises(ValueError, match="DECam has no band 'u'"):
        KcorrectOptions("ugr", "DECam")
    with pytest.raises(ValueError, match="K starts from band 'r', which is not fitted"):
        KcorrectOptions("gz")
    with pytest.raises(ValueError, match="K of band 'r', which is not among those fitted"):
        pseudo_truth(photometry, ("g", "i"))


def test_what_is_circular_is_named():
    found = KTruth(np.zeros(1), truth().fit, OPTICAL, "r", 0.1)
    assert circularity(found, OPTICAL, templates=True, knows_redshift=True) == "circular"
    assert circularity(found, OPTICAL, templates=False, knows_redshift=True) == "repeatable"
    assert circularity(found, ("g", "r", "z"), templates=True, knows_redshift=True) == "favoured"
    assert circularity(found, OPTICAL, templates=True, knows_redshift=False) == "favoured"
    assert circularity(found, ("g", "r", "z"), templates=False, knows_redshift=True) == "independent"


def test_features_of_a_catalogue():
    sample = galaxies()[1]
    few, many = photometric_features(sample, "grz", full=False), photometric_features(sample, OPTICAL)
    assert few.kinds == ("magnitude", "colour", "colour")
    assert len(many.kinds) == 20
    np.testing.assert_allclose(few.values[:, 2], sample["model_mag_r"] - sample["model_mag_z"])
    assert np.isfinite(many.values).all()
    with pytest.raises(ValueError, match="expected two or more with r among them"):
        photometric_features(sample, "gz")
