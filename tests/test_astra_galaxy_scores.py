"""Scores galaxy by galaxy: together they are those of the functions for all, on any part of them."""

import numpy as np
import pandas as pd
import pytest
from astra_sample import galaxies, model, predicted, task

from astro_utils.astra.galaxy_scores import galaxy_table, scores, shape_table
from astro_utils.astra.grid import synthetic_flux
from astro_utils.astra.methods import finder
from astro_utils.samples import Spectra
from astro_utils.spectrum_scores import (
    index_scores,
    indices,
    photometry_scores,
    r2,
    recovered_redshift_scores,
    spectrum_scores,
)


@pytest.fixture(scope="module")
def table():
    """Scores of our mean prediction."""
    return galaxy_table(task().test, predicted().mean, task().reference, finder(task(), model()))


def made(n=60, length=800, seed=0):
    """Sinusoids with known noise of unlike sizes, in part not measured: observed and without noise."""
    rng = np.random.default_rng(seed)
    wavelength = np.geomspace(3800, 9200, length)
    phase, size = rng.uniform(0, 6, (n, 1)), rng.uniform(0.5, 5, (n, 1))
    signal = size * (2 + np.sin(wavelength / 150 + phase))
    sigma = rng.uniform(0.05, 0.8, (n, 1)) * np.linspace(2, 1, length)
    ivar = np.where(rng.random((n, length)) < 0.05, 0, sigma**-2)
    flux = np.where(ivar > 0, signal + sigma * rng.normal(size=signal.shape), 1e6)
    return Spectra(wavelength, flux, ivar), signal


def told(z):
    """Stand-in for a finder, which answers what it is told."""
    return lambda prediction: np.broadcast_to(np.asarray(z, dtype=float), len(prediction)).copy()


# ------------------------------------------------------------------------------------------- the same scores


def test_scores_of_spectra_are_those_of_all_galaxies_together(table):
    expected = spectrum_scores(task().test.spectra, predicted().mean, task().reference)
    found = scores(table)
    assert set(expected) <= set(found)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert found["r2"] < found["r2_free"] and found["r2"] < found["r2_aligned"]


def test_redshifts_are_those_that_predictions_show(table):
    seek = finder(task(), model())
    recovered = seek(predicted().mean)
    np.testing.assert_array_equal(table["z_recovered"], recovered)
    np.testing.assert_array_equal(table["z"], task().test.z)
    for name, value in recovered_redshift_scores(recovered, task().test.z).items():
        assert scores(table)[name] == pytest.approx(value)


def test_indices_are_measured_at_the_redshift_that_a_spectrum_shows(table):
    test, shown = task().test, predicted().mean
    true = indices(test.spectra.wavelength, test.spectra.flux, test.z)
    for z in (table["z_recovered"].to_numpy(), test.z + 0.01):
        one = galaxy_table(test, shown, task().reference, told(z))
        other = indices(test.spectra.wavelength, shown, np.maximum(z, 0))
        for name in true:
            np.testing.assert_allclose(one[name], other[name] - true[name])
        for name, value in index_scores(true, other).items():
            assert scores(one)[name] == pytest.approx(value)
    # A redshift below 0, to which a parabola may lead, is taken for 0.
    one = galaxy_table(test, shown, task().reference, told(-0.001))
    two = galaxy_table(test, shown, task().reference, told(0.0))
    np.testing.assert_array_equal(one["ew_ha"], two["ew_ha"])
    assert (one["z_recovered"] < 0).all()


def test_a_sharp_spectrum_at_a_wrong_redshift_has_the_right_indices():
    test, pixels = task().test, 90
    shown = predicted().at_truth
    moved = np.concatenate([np.repeat(shown[:, :1], pixels, axis=1), shown[:, :-pixels]], axis=1)
    wrong_z = (1 + test.z) * 10 ** (1e-4 * pixels) - 1
    right = galaxy_table(test, shown, task().reference, told(test.z))
    found, missed = (galaxy_table(test, moved, task().reference, told(z)) for z in (wrong_z, test.z))
    for name in ("ew_ha", "ew_oiii"):
        known = np.isfinite(found[name] + right[name])
        assert known.sum() > 10
        np.testing.assert_allclose(found[name][known], right[name][known], atol=1e-3)
    inside = test.z > 0.05  # the moved break has not reached what was put in at the blue end
    np.testing.assert_allclose(found["d4000"][inside], right["d4000"][inside], atol=1e-4)
    assert np.abs(missed["d4000"] - right["d4000"])[inside].median() > 0.01


def test_photometry_is_relative_to_r_and_to_the_catalogue(table):
    test, shown = task().test, predicted().mean
    flat = Spectra(test.spectra.wavelength, shown, np.ones_like(shown))
    synthetic = synthetic_flux(flat, test.photometry.filters)
    expected = photometry_scores(
        synthetic[:, [0, 2]] / synthetic[:, [1]],
        test.photometry.flux[:, [0, 2]] / test.photometry.flux[:, [1]],
    )
    for name, value in expected.items():
        assert scores(table)[name] == pytest.approx(value, rel=1e-6)
    assert [name for name in table if name.startswith("photometry")] == ["photometry_g", "photometry_i"]
    # A prediction of another scale has the same colours, and one that is too red has too much light in i.
    twice = galaxy_table(test, 2 * shown, task().reference, told(test.z))
    np.testing.assert_allclose(twice["photometry_g"], table["photometry_g"], atol=1e-5)
    redder = galaxy_table(test, shown * (test.spectra.wavelength / 6000) ** 2, task().reference, told(test.z))
    assert (redder["photometry_i"] > table["photometry_i"] + 0.1).all()
    medians = redder[["photometry_g", "photometry_i"]].median()
    assert medians["photometry_g"] < -0.1  # and too little in g; the larger of both is the bias
    assert scores(redder)["photometry_bias"] == pytest.approx(medians[medians.abs().idxmax()])


def test_magnitudes_and_types_go_along(table):
    np.testing.assert_array_equal(table["r"], task().test.r)
    np.testing.assert_array_equal(table["red"], task().test.is_red)


# ----------------------------------------------------------------------------------------------- by extremes


def test_a_perfect_prediction():
    test = task().test
    table = galaxy_table(test, test.spectra.flux, task().reference, told(test.z))
    found = scores(table)
    for name in ("r2", "r2_level", "r2_continuum", "r2_continuum_level", "r2_aligned"):
        assert found[name] == 1
    for name in ("chi2", "z_bias", "z_sigma_mad", "d4000_bias", "d4000_mad", "ew_ha_mad", "ew_oiii_bias"):
        assert found[name] == 0
    assert found["top_1"] == found["rank"] == 1


def test_the_mean_prediction_explains_nothing():
    test, reference = task().test, task().reference
    table = galaxy_table(test, np.tile(reference, (len(test), 1)), reference, told(0.1))
    found = scores(table)
    for name in ("r2", "r2_free", "r2_continuum", "r2_continuum_free"):
        assert found[name] == pytest.approx(0, abs=1e-9)
    assert found["top_1"] == 0 and found["rank"] == (len(test) + 1) / 2  # it finds nobody


def test_the_level_of_a_galaxy_is_its_own_weighted_mean():
    truth, _ = made()
    measured = [(f[w > 0], w[w > 0]) for f, w in zip(truth.flux, truth.ivar, strict=True)]
    means = np.array([np.average(f, weights=w) for f, w in measured])
    level = np.broadcast_to(means[:, None], truth.flux.shape)
    table = shape_table(truth, level, np.full(800, 7.0))
    # Variance about the own mean; and no constant is nearer.
    expected = [np.average((f - m) ** 2, weights=w) * 800 for (f, w), m in zip(measured, means, strict=True)]
    np.testing.assert_allclose(table["level"], expected)
    found = scores(table)
    assert found["r2_level"] == pytest.approx(0, abs=1e-12)
    assert found["r2_continuum_level"] == pytest.approx(0, abs=1e-12)
    assert scores(shape_table(truth, level * 1.01, np.full(800, 7.0)))["r2_level"] < -1e-5
    assert found["r2"] > 0  # about another reference it explains something


def test_against_spectra_without_noise_the_signal_is_perfect():
    truth, signal = made(400)
    found = scores(shape_table(truth, signal, signal.mean(0)))
    assert found["r2"] < 0.99
    assert found["r2_free"] == pytest.approx(1, abs=0.002)
    assert found["r2_continuum_free"] == pytest.approx(1, abs=0.002)
    assert found["r2_level_free"] == pytest.approx(1, abs=0.005)
    assert found["chi2"] == pytest.approx(1, abs=0.02)


def test_every_galaxy_counts_alike_and_pixels_without_measurement_nowhere():
    truth, signal = made()
    before = shape_table(truth, 1.1 * signal, signal.mean(0))
    ivar = truth.ivar.copy()
    ivar[3] *= 100
    after = shape_table(Spectra(truth.wavelength, truth.flux, ivar), 1.1 * signal, signal.mean(0))
    for name in ("error", "total", "level", "c_error", "c_total", "c_level"):
        np.testing.assert_allclose(after[name], before[name])
    assert after["noise"][3] == pytest.approx(before["noise"][3] / 100)
    flux = np.where(truth.ivar > 0, truth.flux, -1e7)
    after = shape_table(Spectra(truth.wavelength, flux, truth.ivar), 1.1 * signal, signal.mean(0))
    pd.testing.assert_frame_equal(after, before)


# ---------------------------------------------------------------------------------------------- parts of them


def test_any_part_of_the_galaxies_is_scored_from_the_table(table):
    rows = np.random.default_rng(2).integers(len(table), size=len(table))
    assert len(set(rows)) < len(rows)  # some more than once, as in a bootstrap
    found = scores(table, rows)
    repeated = scores(table.iloc[rows].reset_index(drop=True))
    assert found.keys() == repeated.keys()
    for name in found:
        assert found[name] == pytest.approx(repeated[name], nan_ok=True)
    truth = task().test.spectra
    again = Spectra(truth.wavelength, truth.flux[rows], truth.ivar[rows])
    value, free = r2(again, predicted().mean[rows], task().reference)
    assert found["r2"] == pytest.approx(value, rel=1e-6)
    assert found["r2_free"] == pytest.approx(free, rel=1e-6)
    assert found["r2"] != scores(table)["r2"]
    assert scores(table, np.arange(len(table))) == scores(table)


def test_shapes_alone_are_scored_as_far_as_they_go():
    truth, signal = made()
    found = scores(shape_table(truth, signal, signal.mean(0)))
    r2_names = {f"r2{a}{b}{c}" for a in ("", "_continuum") for b in ("", "_level") for c in ("", "_free")}
    assert set(found) == r2_names | {"chi2"}
    assert all(isinstance(value, float) for value in found.values())


def test_indices_beyond_the_spectra_are_left_out(table):
    some = table.copy()
    some.loc[::2, "ew_ha"] = np.nan
    known = some["ew_ha"].dropna()
    assert scores(some)["ew_ha_bias"] == pytest.approx(known.median())
    assert scores(some)["ew_ha_mad"] == pytest.approx(1.4826 * np.abs(known - known.median()).median())
    some["ew_ha"] = np.nan
    assert np.isnan(scores(some)["ew_ha_bias"]) and np.isnan(scores(some)["ew_ha_mad"])


def test_predictions_that_do_not_fit_are_refused():
    truth, signal = made()
    with pytest.raises(ValueError, match=r"predictions of shape \(60, 799\); expected \(60, 800\)"):
        shape_table(truth, signal[:, :-1], signal.mean(0))
    signal[7, 3] = np.nan
    with pytest.raises(ValueError, match="prediction 7 is not finite"):
        shape_table(truth, signal, np.ones(800))


def test_scores_do_not_change_the_galaxies(table):
    """What is scored is what was asked for: nobody wrote into the sample."""
    test = galaxies().select(task().parts.test)
    np.testing.assert_array_equal(test.spectra.flux, task().test.spectra.flux)
    assert len(table) == len(test)
