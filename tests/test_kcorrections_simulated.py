"""Simulated galaxies with a true K: physics of K, rows that stay together, and nothing that looks ahead."""

import dataclasses
from functools import partialmethod

import numpy as np
import pandas as pd
import pytest
from kcorrection_sample import FACTOR, SIZE, N, galaxies, sample_file, task, untrained_clip
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from speclite.filters import load_filter

from astro_utils.kcorrections.kcorrect_fit import run_kcorrect
from astro_utils.kcorrections.real_sample import MAX_REDSHIFT, Photometry
from astro_utils.kcorrections.simulated import (
    BAND_SHIFT,
    FAMILIES,
    OUTPUT_BANDS,
    join,
    read_blocks,
    read_galaxies,
    rebin,
    simulation,
    true_k,
)
from astro_utils.kcorrections.simulated_features import (
    CATALOGUE_NUMBERS,
    EmbeddingSummary,
    catalogue_features,
    three_numbers,
)
from astro_utils.kcorrections.simulated_task import OPTIONS, TEST_SHARE, prepare, split
from astro_utils.kcorrections.templates import k_correction
from astro_utils.sample_reader import Sample
from astro_utils.samples import open_sample, write_sample
from astro_utils.sky.seds import load_seds
from astro_utils.sky.simulate import simulate
from astro_utils.sky.surveys import LEGACY
from astro_utils.splits import sky_pixels


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """One family after the other: tables of its fluxes are made once."""
    return request.param


# ---------------------------------------------------------------------------------------------------- true K


def mixtures(n, seed=0):
    """Coefficients of galaxies of all kinds, some of a single template."""
    c = np.random.default_rng(seed).lognormal(0, 3, (n, 5))
    c[:5] = np.eye(5)
    return pd.DataFrame(c, columns=[f"c{t}" for t in range(5)]).assign(z=0.1)


@pytest.mark.parametrize("band", OUTPUT_BANDS)
def test_to_the_own_band_at_the_band_shift_k_is_the_same_for_every_spectrum(monkeypatch, family, band):
    monkeypatch.setitem(OUTPUT_BANDS, band, LEGACY.filters[LEGACY.bands.index(band)])
    k = true_k(mixtures(40), family, z=np.full(40, BAND_SHIFT), band=band, output=band)
    np.testing.assert_allclose(k, -2.5 * np.log10(1 + BAND_SHIFT), atol=1e-12)


def test_k_does_not_depend_on_how_bright_a_galaxy_is(family):
    table, z = mixtures(40), np.linspace(0.02, 0.5, 40)
    brighter = table.drop(columns="z") * np.geomspace(1e-3, 1e3, 40)[:, None]
    np.testing.assert_allclose(true_k(brighter, family, z), true_k(table, family, z), rtol=0, atol=1e-12)


def test_k_is_an_integral_over_the_redshifted_spectrum(family):
    templates = load_seds(family).templates
    c, z = np.array([1.0, 0.4, 0.3, 0.05, 0.2]), 0.2345
    rest = c @ templates.flux

    def magnitude(name, redshift):
        """AB magnitude of photons counted in a band, on a grid of 0.25 Angstrom, with an arbitrary zero."""
        band = load_filter(name)
        wavelength = np.arange(band.wavelength[0], band.wavelength[-1], 0.25)
        response = np.interp(wavelength, band.wavelength, band.response)
        # F_lambda: photons are redshifted and spread over a wider range.
        flux = np.interp(wavelength / (1 + redshift), templates.wavelength, rest) / (1 + redshift)
        photons = np.trapezoid(flux * response * wavelength, wavelength)
        return -2.5 * np.log10(photons / np.trapezoid(response / wavelength, wavelength))

    def in_blueshifted_band(name):
        """Absolute magnitude in the band moved by 1 / (1 + band shift), by its own definition."""
        band = load_filter(name)
        wavelength = np.arange(band.wavelength[0], band.wavelength[-1], 0.25)
        response = np.interp(wavelength, band.wavelength, band.response)
        moved = wavelength / (1 + BAND_SHIFT)
        flux = np.interp(moved, templates.wavelength, rest)
        photons = np.trapezoid(flux * response * moved, moved)
        return -2.5 * np.log10(photons / np.trapezoid(response / moved, moved))

    table = pd.DataFrame([c], columns=[f"c{t}" for t in range(5)]).assign(z=z)
    for observed, output in (("r", "r"), ("g", "g"), ("z", "r")):
        expected = magnitude(LEGACY.filters[LEGACY.bands.index(observed)], z) - in_blueshifted_band(
            OUTPUT_BANDS[output]
        )
        assert true_k(table, family, band=observed, output=output)[0] == pytest.approx(expected, abs=1e-3)


def test_colours_are_differences_of_k(family):
    table = galaxies(family).catalogue
    k = {(b, o): true_k(table, family, band=b, output=o) for b in "gr" for o in "gr"}
    # From two bands to the same output: the observed colour, which the catalogue has behind dust.
    dust = table["ebv"] * (LEGACY.extinction[0] - LEGACY.extinction[1])
    colour = -2.5 * np.log10(table["true_flux_g"] / table["true_flux_r"]) - dust
    np.testing.assert_allclose(k["g", "r"] - k["r", "r"], colour, atol=1e-6)
    # To two outputs: a colour at rest, whatever the redshift.
    elsewhere = [true_k(table, family, z=np.full(len(table), 0.3), band="r", output=o) for o in "gr"]
    np.testing.assert_allclose(k["r", "g"] - k["r", "r"], elsewhere[0] - elsewhere[1], atol=1e-12)


def test_kcorrect_says_the_same_of_its_own_templates():
    part = galaxies("kcorrect").select(galaxies("kcorrect").z < MAX_REDSHIFT)
    seds, options = load_seds("kcorrect"), OPTIONS["r"]
    c = part.catalogue[[f"c{t}" for t in range(5)]].to_numpy()
    # Its templates are in other units, and its table of DECam's responses is another one.
    middle = np.abs(seds.templates.wavelength - 6000).argmin()
    unit = options.bandpasses.fitter().templates.flux[:, middle] / seds.templates.flux[:, middle]
    found = k_correction(options.bandpasses, c / unit, part.z, options.band_shift)[:, 0]
    np.testing.assert_allclose(found, part.k["r"], atol=0.008)
    assert np.abs(found - part.k["r"]).mean() < 0.003

    # From fluxes without noise, in three bands alone, it finds nearly all.
    flux = np.einsum("nt,ntb->nb", c, seds.galaxy_bands(*LEGACY.filters)(part.z))
    photometry = Photometry(LEGACY.bands, flux, 1 / (0.002 * flux) ** 2, np.zeros(flux.shape), part.z)
    fitted = run_kcorrect(photometry, dataclasses.replace(options, error_floors=False)).k
    assert np.median(np.abs(fitted - part.k["r"])) < 0.004
    # Of galaxies as they are measured it finds less.
    noisy = run_kcorrect(part.photometry, options).k
    assert np.median(np.abs(noisy - part.k["r"])) < 0.015


def test_k_of_the_reddest_galaxies_rises_with_redshift(family):
    red = pd.DataFrame([np.eye(5)[load_seds(family).templates.redness.argmax()]] * 36)
    red.columns = [f"c{t}" for t in range(5)]
    k = true_k(red, family, z=np.linspace(0.02, 0.37, 36))
    assert (np.diff(k) > 0).all()
    assert k[-1] - k[0] > 0.35


# ----------------------------------------------------------------------------------------------------- rebin


def test_rebinning_is_a_mean_weighted_with_inverse_variances():
    flux = np.array([[1.0, 2.0, 3.0, 5.0, 7.0, 9.0, 100.0]])
    ivar = np.array([[1.0, 1.0, 2.0, 0.0, 0.0, 0.0, 1.0]])
    found = rebin(flux, ivar, 3)  # the seventh pixel is left over
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[(1 + 2 + 2 * 3) / 4, 0.0]])
    flux[0, 3] = 1e9  # not measured: it has no say
    np.testing.assert_array_equal(rebin(flux, ivar, 3), found)


def test_rebinning_keeps_the_flux_where_all_pixels_are_alike():
    rng = np.random.default_rng(0)
    flux, ivar = rng.normal(3, 1, (4, 96)), np.full((4, 96), 0.37)
    found = rebin(flux, ivar, 8)
    assert found.shape == (4, 12)
    np.testing.assert_allclose(8 * found.sum(1), flux.sum(1), rtol=1e-6)
    np.testing.assert_allclose(rebin(flux, ivar, 1), flux, rtol=1e-6)
    assert rebin(flux[:0], ivar[:0], 8).shape == (0, 12)


def test_rebinned_spectra_are_less_noisy_by_the_root_of_the_number():
    noise = np.random.default_rng(1).normal(0, 2, (200, 640))
    assert rebin(noise, np.full(noise.shape, 0.25), 16).std() == pytest.approx(2 / 4, rel=0.03)


# --------------------------------------------------------------------------------------------------- reading


def test_what_is_read_is_what_was_written(family):
    found = galaxies(family)
    with open_sample(sample_file(family)) as sample:
        block = sample.block()
    assert len(found) == len(block.images) == N[family]
    np.testing.assert_array_equal(found.images, block.images)
    assert found.images.shape[1:] == (3, SIZE, SIZE)
    np.testing.assert_array_equal(found.spectra, rebin(block.spectra.flux, block.spectra.ivar, FACTOR))
    np.testing.assert_array_equal(found.z, block.catalogue["z"])
    assert set(found.family) == {family}
    for band in OUTPUT_BANDS:
        np.testing.assert_array_equal(found.k[band], true_k(block.catalogue, family, band=band, output=band))
        assert np.isfinite(found.k[band]).all()


def test_spectra_show_the_fluxes_of_the_catalogue():
    """Light through r in the spectra, which cover that band, against the image's true flux without dust."""
    part = galaxies()
    with open_sample(sample_file()) as sample:
        wavelength = rebin(sample.spectra(slice(1)).wavelength[None], np.ones((1, 7781)), FACTOR)[0]
    band = load_filter(LEGACY.filters[1])
    weight = np.interp(wavelength, band.wavelength, band.response) * wavelength
    zero = 3.631e-29 * 2.99792458e18 / 1e-17
    flux = part.spectra @ weight / (weight * zero / wavelength**2).sum()
    table = part.catalogue
    truth = table["true_flux_r"] * 10 ** (0.4 * table["ebv"] * LEGACY.extinction[1])
    np.testing.assert_allclose(np.median(flux / truth), np.median(flux) / np.median(truth), rtol=0.25)
    assert np.corrcoef(np.log(np.maximum(flux, 1e-3)), np.log(truth))[0, 1] > 0.9


def test_galaxies_beyond_a_redshift_are_dropped():
    near, everything = read_galaxies(sample_file(), factor=FACTOR, max_redshift=0.2), galaxies()
    inside = everything.z <= 0.2
    assert 0 < len(near) == inside.sum() < len(everything)
    expected = everything.select(inside)
    np.testing.assert_array_equal(near.catalogue["object_id"], expected.catalogue["object_id"])
    for name in ("images", "spectra", "pixels", "family"):
        np.testing.assert_array_equal(getattr(near, name), getattr(expected, name))
    np.testing.assert_array_equal(near.k["z"], expected.k["z"])


def rewritten(path, **changes):
    """Write the first galaxies again, with other words on where they come from."""
    with open_sample(sample_file()) as sample:
        info, block = sample.info, sample.block(slice(4))
    made = dict(info.provenance["simulation"]) | changes
    provenance = {"simulation": made} if changes else {"note": "observed"}
    return write_sample(path, [block], dataclasses.replace(info, provenance=provenance))


def test_samples_without_a_true_k_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"other\.h5: not a simulated sample; only there the true K"):
        read_galaxies(rewritten(tmp_path / "other.h5"))
    with pytest.raises(ValueError, match=r"sdss\.h5: survey 'sdss'; expected 'legacy'"):
        read_galaxies(rewritten(tmp_path / "sdss.h5", survey="sdss"))
    bare = simulate(tmp_path / "bare.h5", simulation(4, "single_age", 3, SIZE, spectra=False))
    with pytest.raises(ValueError, match=r"bare\.h5: no spectra; expected a sample with a spectrograph"):
        read_galaxies(bare)
    assert len(read_galaxies(rewritten(tmp_path / "fine.h5", size=SIZE))) == 4


def test_a_sample_is_read_in_parts_with_and_without_spectra(tmp_path, monkeypatch):
    monkeypatch.setattr(Sample, "blocks", partialmethod(Sample.blocks, size=100))
    whole, parts = galaxies(), list(read_blocks(sample_file(), factor=FACTOR))
    assert len(parts) == 4
    pd.testing.assert_frame_equal(join(*parts).catalogue, whole.catalogue)
    np.testing.assert_array_equal(np.concatenate([part.spectra for part in parts]), whole.spectra)
    bare = simulate(tmp_path / "bare.h5", simulation(40, "single_age", 3, SIZE, spectra=False))
    bare = join(*read_blocks(bare))
    assert bare.images.shape == (40, 3, SIZE, SIZE)
    assert bare.spectra.shape == (40, 0)
    light = whole.light()
    assert (light.images.size, light.spectra.size, len(light)) == (0, 0, len(whole))
    np.testing.assert_array_equal(light.k["r"], whole.k["r"])


def test_the_simulation_is_of_the_legacy_surveys_with_desi():
    made = simulation(64, "kcorrect", 7, 48)
    assert (made.survey, made.spectrograph, made.n_objects, made.seed) == ("legacy", "desi", 64, 7)
    with pytest.raises(ValueError, match="no family 'stars'; expected one of kcorrect, single_age"):
        simulation(64, "stars", 7, 48)


# ------------------------------------------------------------------------------------------------------ rows


def test_rows_stay_together_when_samples_are_joined_and_taken_apart():
    a, b = galaxies("kcorrect"), galaxies("single_age")
    both = join(a, b)
    assert len(both) == len(a) + len(b)
    rows = np.random.default_rng(3).permutation(len(both))[:150]
    some = both.select(rows)
    again = both.select(np.isin(np.arange(len(both)), rows))  # a mask keeps the order of the sample
    np.testing.assert_array_equal(again.z, both.z[np.sort(rows)])
    for number, row in enumerate(rows):
        source, at = (a, row) if row < len(a) else (b, row - len(a))
        for name in ("images", "spectra", "family", "z", "pixels"):
            np.testing.assert_array_equal(getattr(some, name)[number], getattr(source, name)[at])
        assert some.catalogue["c1"][number] == source.catalogue["c1"][at]
        assert [k[number] for k in some.k.values()] == [k[at] for k in source.k.values()]
    np.testing.assert_array_equal(some.photometry.flux, both.photometry.select(rows).flux)


def test_the_two_skies_share_no_pixel():
    a, b = galaxies("kcorrect"), galaxies("single_age")
    for part in (a, b):
        where = part.catalogue[["ra", "dec"]].to_numpy().T
        # Same groups as on the sphere.
        pairs = set(zip(part.pixels, sky_pixels(*where), strict=True))
        assert len(pairs) == len(set(part.pixels)) == len(set(sky_pixels(*where))) > 4
    assert not set(a.pixels) & set(b.pixels)
    np.testing.assert_array_equal(join(a, b).pixels, [*a.pixels, *b.pixels])


def test_photometry_is_that_of_the_catalogue():
    part = galaxies()
    photometry = part.photometry
    assert photometry.bands == ("g", "r", "z")
    np.testing.assert_array_equal(photometry.flux[:, 2], part.catalogue["model_flux_z"])
    np.testing.assert_array_equal(photometry.ivar[:, 0], part.catalogue["model_flux_ivar_g"])
    np.testing.assert_array_equal(photometry.extinction[:, 1], part.catalogue["extinction_r"])
    np.testing.assert_array_equal(photometry.z, part.z)
    flux = photometry.dereddened()[0]
    truth = part.catalogue["true_flux_r"] * 10 ** (0.4 * part.catalogue["ebv"] * LEGACY.extinction[1])
    assert abs(np.median(flux[:, 1] / truth) - 1) < 0.15


# -------------------------------------------------------------------------------------------------- features


def test_the_first_features_are_the_magnitude_and_two_colours():
    part = galaxies()
    found, table = catalogue_features(part), part.catalogue
    expected = [table["dered_r"], table["dered_g"] - table["dered_r"], table["dered_r"] - table["dered_z"]]
    assert len(CATALOGUE_NUMBERS) == 3
    assert found.kinds[:3] == ("magnitude", "colour", "colour")
    np.testing.assert_allclose(three_numbers(found), np.stack(expected, 1), atol=1e-5)
    assert np.isfinite(found.values).all()
    assert (found.values.std(0) > 0).all()


def test_features_are_made_of_measurements_alone():
    part = galaxies()
    measured = ("model_", "petro_", "psf_", "extinction_")
    hidden = part.catalogue.copy()
    for name in hidden:
        if not name.startswith(measured):
            hidden[name] = np.nan
    assert hidden[["z", "c0", "true_flux_r", "ebv"]].isna().all().all()
    blind = dataclasses.replace(
        part,
        catalogue=hidden,
        images=part.images * np.nan,
        spectra=part.spectra * np.nan,
        k={band: k * np.nan for band, k in part.k.items()},
    )
    np.testing.assert_array_equal(catalogue_features(blind).values, catalogue_features(part).values)


def test_the_summary_of_a_training_galaxy_knows_nothing_of_its_own_part_of_the_sky():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    mark = rng.normal(size=(40, 60))[groups]  # an embedding that tells the part of the sky, and nothing else
    embeddings = np.column_stack([mark, rng.normal(size=(400, 20))])
    targets = np.column_stack([rng.normal(size=40)[groups], rng.normal(size=400)])
    summary = EmbeddingSummary(seed=1)
    out = summary.fit_transform(embeddings, targets, groups)
    correlation = [np.corrcoef(out[:, i], targets[:, i])[0, 1] for i in range(2)]
    assert np.abs(correlation).max() < 0.4
    # Seen in training, the part of the sky gives it away.
    assert np.corrcoef(summary.transform(embeddings)[:, 0], targets[:, 0])[0, 1] > 0.95


def test_a_wrong_target_changes_no_summary_of_its_own_part_of_the_sky():
    rng = np.random.default_rng(1)
    groups, x = np.repeat(np.arange(12), 20), rng.normal(size=(240, 8))
    y = x @ rng.normal(size=(8, 2))
    wrong = np.where(groups[:, None] == 5, 100.0, y)
    plain, poisoned = (EmbeddingSummary().fit_transform(x, t, groups) for t in (y, wrong))
    np.testing.assert_array_equal(plain[groups == 5], poisoned[groups == 5])
    changed = np.abs(plain - poisoned)[:, 0] > 0.1
    assert changed.sum() > 100


def test_the_summary_of_others_is_a_ridge_regression_on_all():
    rng = np.random.default_rng(2)
    groups, x = np.arange(300) % 20, rng.normal(3, [[1, 10, 0.1, 5]], (300, 4))
    y = np.stack([x @ [1, 0.1, 4, -0.2], x[:, 0] ** 2], 1)
    summary, new = EmbeddingSummary(), rng.normal(3, 1, (50, 4))
    out = summary.fit_transform(x, y, groups)
    expected = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 5, 13))).fit(x, y)
    np.testing.assert_allclose(summary.transform(new), expected.predict(new))
    np.testing.assert_allclose(out[:, 0], y[:, 0], atol=0.02)  # linear: found from other groups as well
    assert summary.transform(new).shape == (50, 2)


def test_a_summary_of_one_number_is_one_column():
    rng = np.random.default_rng(3)
    groups, x = np.arange(80) % 8, rng.normal(size=(80, 3))
    summary = EmbeddingSummary()
    assert summary.fit_transform(x, x[:, :1], groups).shape == (80, 1)
    assert summary.transform(x[:5]).shape == (5, 1)


# ------------------------------------------------------------------------------------------------------ task


def test_training_and_test_lie_on_different_sky():
    part = join(galaxies("kcorrect"), galaxies())
    train, test = split(part, seed=4)
    np.testing.assert_array_equal(np.sort([*train, *test]), np.arange(len(part)))
    assert not set(part.pixels[train]) & set(part.pixels[test])
    n_pixels = len(set(part.pixels))
    assert len(set(part.pixels[test])) == round(TEST_SHARE * n_pixels)
    assert not np.array_equal(split(part, seed=5)[1], test)


def test_what_a_task_holds():
    one = task()
    inside = galaxies().select(galaxies().z <= MAX_REDSHIFT)
    np.testing.assert_array_equal(one.galaxies.catalogue["object_id"], inside.catalogue["object_id"])
    assert one.images.shape == one.spectra.shape == (len(inside), untrained_clip().dim)
    np.testing.assert_array_equal(one.k, inside.k["r"])
    np.testing.assert_array_equal(one.known.groups, inside.pixels)
    np.testing.assert_array_equal(one.known.z, inside.z)
    assert one.last_redshift > MAX_REDSHIFT
    assert ((one.z_phot > 0) & (one.z_phot <= one.last_redshift)).all()
    error = one.z_phot - inside.z
    for rows in (one.train, one.test):
        assert np.median(np.abs(error[rows])) < 0.05 < np.std(inside.z[rows])
    # Templates are near the truth, whose spectra they do not have.
    found = one.known.k_templates
    assert np.nanmedian(np.abs(found - one.k)) < 0.03
    at_truth = one.known.grid.at(inside.z[:, None])[:, 0]
    both = np.isfinite(found) & np.isfinite(at_truth)
    assert both.mean() > 0.9
    assert np.median(np.abs(found - at_truth)[both]) < 0.01


def test_templates_are_known_wherever_a_density_may_be():
    assert task().known.grid.z[-1] >= task().last_redshift


def with_redshifts(part, z):
    """Return the galaxies as if they had been observed at other redshifts, all else as it was."""
    return dataclasses.replace(part, catalogue=part.catalogue.assign(z=z))


def test_photometric_redshifts_of_a_part_of_the_sky_are_not_learned_from_it():
    one = task()
    pixel = one.galaxies.pixels[one.train[0]]
    poisoned = one.galaxies.pixels == pixel
    wrong = np.where(poisoned, MAX_REDSHIFT - one.galaxies.z, one.galaxies.z)
    assert np.abs(wrong - one.galaxies.z)[poisoned].max() > 0.1
    found = prepare(with_redshifts(one.galaxies, wrong), untrained_clip()).z_phot
    # Sums of several threads differ in their last digits; a redshift that leaked in moves the first ones.
    np.testing.assert_allclose(found[poisoned], one.z_phot[poisoned], rtol=1e-6)
    others = ~poisoned
    misled = ~np.isclose(found[others], one.z_phot[others], rtol=1e-4)
    assert misled.mean() > 0.5  # who learned from it was misled


def test_no_redshift_of_a_test_galaxy_is_used():
    one = task()
    z = one.galaxies.z.copy()
    z[one.test] = MAX_REDSHIFT - z[one.test]
    found = prepare(with_redshifts(one.galaxies, z), untrained_clip())
    np.testing.assert_allclose(found.z_phot, one.z_phot, rtol=1e-6)
    np.testing.assert_allclose(found.features.values, one.features.values, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.known.grid.k, one.known.grid.k, rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal(found.images, one.images)


def test_another_band_changes_k_and_templates_alone():
    one = task()
    other = one.of_band("z")
    np.testing.assert_array_equal(other.k, one.galaxies.k["z"])
    assert np.nanmedian(np.abs(other.known.k_templates - other.k)) < 0.03
    assert not np.allclose(other.known.grid.k, one.known.grid.k, equal_nan=True)
    np.testing.assert_array_equal(other.known.grid.chi2, one.known.grid.chi2)  # the same fit
    for name in ("images", "spectra", "z_phot", "train", "test", "max_redshift", "galaxies"):
        assert getattr(other, name) is getattr(one, name)
    assert other.features is one.features
    assert other.known.z is one.known.z


def test_fewer_training_galaxies():
    one = task()
    smaller = one.fewer(50)
    assert len(smaller.train) == len(set(smaller.train)) == 50
    assert set(smaller.train) < set(one.train)
    assert smaller.test is one.test
    np.testing.assert_array_equal(smaller.train, one.fewer(50).train)
    assert not np.array_equal(smaller.train, one.fewer(50, seed=1).train)
    assert set(smaller.train) < set(one.fewer(80).train)
