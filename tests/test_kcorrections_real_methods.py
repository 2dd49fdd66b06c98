"""Methods and rows of the real galaxies: what each may see, what is counted, how the tables are made."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from astro_utils.kcorrections import real_rows as module
from astro_utils.kcorrections.features import photometric_features
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.knowledge import Knowledge
from astro_utils.kcorrections.real_methods import (
    NONE,
    PHOTOMETRIC,
    SPECTROSCOPIC,
    TRACKS,
    Fold,
    methods,
    real_sky,
)
from astro_utils.kcorrections.real_rows import RealSettings, real_rows
from astro_utils.kcorrections.real_sample import ALL_BANDS, MAX_REDSHIFT, OPTICAL
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.template_grid import k_over_redshift
from astro_utils.kcorrections.truth import KTruth
from astro_utils.results import KEYS
from astro_utils.splits import group_folds


@cache
def sky():
    return real_sky(400, seed=1)


@cache
def fold():
    galaxies, options = sky(), KcorrectOptions("grz")
    run = run_kcorrect(galaxies.photometry, options)
    grid = k_over_redshift(galaxies.photometry, options, np.arange(0.01, 0.46, 0.05))
    pixels = galaxies.sample["pixel"].to_numpy()
    known = Knowledge(
        photometric_features(galaxies.sample, "grz"), pixels, galaxies.photometry.z, run.trusted, grid
    )
    test = group_folds(pixels, 3, 0) == 0
    return Fold(known, run.k, galaxies.k, np.flatnonzero(~test), np.flatnonzero(test))


@cache
def answers():
    return {(m.track, m.name): m.predict(fold()) for m in methods("grz")}


def r2(track, name):
    return k_scores(answers()[track, name], fold().k[fold().test])["r2"]


def test_the_sky():
    galaxies = sky()
    assert len(galaxies.k) == 400 and np.isfinite(galaxies.k).all()
    assert (galaxies.photometry.z <= MAX_REDSHIFT).all()
    assert 5 < np.isfinite(galaxies.k_ten).sum() < 60
    both = np.isfinite(galaxies.k_ten)
    assert np.median(np.abs(galaxies.k_ten - galaxies.k)[both]) < 0.005
    assert 0.4 < galaxies.untouched.mean() < 0.8
    # A pixel is either one on which something was chosen or not.
    assert galaxies.sample.assign(u=galaxies.untouched).groupby("pixel")["u"].nunique().max() == 1
    with pytest.raises(ValueError, match=r"20000 galaxies; there are 9998 to redshift 0\.3885"):
        real_sky(20000)


def test_every_track_has_its_baselines_and_ours():
    for bands in ("grz", "ugriz"):
        listed = methods(bands)
        names = {track: [m.name for m in listed if m.track == track] for track in TRACKS}
        for track in TRACKS:
            assert {"mean", "colours", "gradient boosting", "ours"} <= set(names[track])
            assert ("redshift" in names[track]) == ("kcorrect" in names[track]) == (track != NONE)
        assert len({(m.track, m.name) for m in listed}) == len(listed)
    with pytest.raises(ValueError, match=r"bands \('i', 'z'\); expected g and r among them"):
        methods("iz")


def test_circularity_is_of_what_a_method_sees():
    def words(bands, truth_bands):
        truth = KTruth(np.zeros(1), None, truth_bands, "r", 0.1)
        return {(m.track, m.name): m.circularity(truth) for m in methods(bands)}

    grz, ugriz, ten = words("grz", OPTICAL), words("ugriz", OPTICAL), words("ugriz", ALL_BANDS)
    assert grz[SPECTROSCOPIC, "kcorrect"] == grz[SPECTROSCOPIC, "ours"] == "favoured"
    assert ugriz[SPECTROSCOPIC, "kcorrect"] == "circular"
    assert ten[SPECTROSCOPIC, "kcorrect"] == "favoured"
    assert ugriz[SPECTROSCOPIC, "ours"] == ugriz[SPECTROSCOPIC, "gradient boosting"] == "repeatable"
    assert grz[SPECTROSCOPIC, "ours, kcorrect left out"] == "independent"
    for table in (grz, ugriz, ten):
        assert {table[SPECTROSCOPIC, n] for n in ("mean", "colours", "redshift")} == {"independent"}
        assert table[NONE, "ours"] == "independent"
        assert table[NONE, "templates and n(z)"] == table[PHOTOMETRIC, "ours"] == "favoured"


def test_more_knowledge_is_better():
    assert all(np.isfinite(a).all() for a in answers().values())
    assert r2(NONE, "mean") == pytest.approx(0, abs=0.03)
    assert r2(NONE, "mean") + 0.5 < r2(NONE, "colours") < r2(NONE, "three numbers") < r2(NONE, "ours")
    assert r2(PHOTOMETRIC, "redshift") < r2(PHOTOMETRIC, "ours")
    assert r2(NONE, "ours") + 0.05 < r2(SPECTROSCOPIC, "redshift") < r2(SPECTROSCOPIC, "ours")
    assert r2(SPECTROSCOPIC, "ours") > max(0.985, r2(SPECTROSCOPIC, "gradient boosting"))


def test_methods_do_not_read_what_they_must_not_know():
    one = fold()
    blind = np.where(np.isin(np.arange(len(one.k)), one.test), np.nan, one.k)
    scrambled = one.known.z.copy()
    scrambled[one.test] = 0.3
    hidden = Fold(replace(one.known, z=scrambled), one.kcorrect * np.nan, blind, one.train, one.test)
    for method in methods("grz"):
        before = answers()[method.track, method.name]
        if method.track != SPECTROSCOPIC:
            np.testing.assert_array_equal(method.predict(hidden), before, err_msg=method.name)
        elif method.redshift and not method.templates:
            assert np.abs(method.predict(hidden) - before).max() > 0.05, method.name


def test_photometric_redshifts_of_training_galaxies_are_not_of_their_own_fit():
    one = fold()
    found, z = one.photometric_redshifts, one.known.z
    scatter = [np.std((found - z)[rows]) for rows in (one.train, one.test)]
    assert scatter[0] > 0.6 * scatter[1]  # a fit to so few galaxies comes much closer to its own
    assert one.redshifts(NONE) is None


def test_neighbours_on_both_sides_are_refused():
    one = fold()
    with pytest.raises(ValueError, match="sky pixels are in both training and test set"):
        Fold(one.known, one.kcorrect, one.k, one.train, one.train[:5])


@cache
def run():
    broken = module.k_over_redshift

    def one_without_templates(*args):
        grid = broken(*args)
        grid.k[7], grid.chi2[7] = np.nan, np.inf
        return grid

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "k_over_redshift", one_without_templates)
        return real_rows(RealSettings(n_galaxies=400, n_bootstrap=5, seed=1))


def pick(**keys):
    found = [row for row in run()[0] if all(row[k] == v for k, v in keys.items())]
    assert len(found) == 1, keys
    return found[0]


def test_rows_are_of_all_galaxies_and_failures_are_counted():
    rows, table = run()
    assert len({tuple(row[key] for key in KEYS) for row in rows}) == len(rows)
    assert table.groupby(["track", "model"])["row"].nunique().eq(400).all()
    main = pick(experiment=f"grz, {NONE}", model="ours")
    part = table[(table["track"] == NONE) & (table["model"] == "ours")]
    assert main["r2"] == pytest.approx(k_scores(part["k_predicted"], part["k"])["r2"])
    assert main["r2_lo"] < main["r2"] < main["r2_hi"] and main["n_test"] == 400
    inside = ((part["low"] <= part["k"]) & (part["k"] <= part["high"])).mean()
    assert main["coverage_90"] == pytest.approx(inside) and 0.83 < inside < 0.97
    assert main["mean_width"] == pytest.approx((part["high"] - part["low"]).mean())
    # The galaxy that no template fits counts as the mean of K where templates are all there is.
    lost = pick(experiment=f"grz, {PHOTOMETRIC}", model="kcorrect")
    assert lost["failures"] == 1 and main["failures"] == 0
    part = table[(table["track"] == PHOTOMETRIC) & (table["model"] == "kcorrect")]
    assert part["k_predicted"].isna().sum() == 1
    assert lost["r2"] == pytest.approx(
        k_scores(part["k_predicted"].fillna(part["k"].mean()), part["k"])["r2"]
    )


def test_rows_of_other_truths_skies_bins_and_speeds():
    rows, table = run()
    galaxies = real_sky(400, seed=1)
    ten = pick(experiment=f"grz, {SPECTROSCOPIC}, ten-band truth", model="kcorrect")
    part = table[(table["track"] == SPECTROSCOPIC) & (table["model"] == "kcorrect")]
    both = part[part["k_ten"].notna()]
    assert ten["n_test"] == len(both)
    assert ten["rmse"] == pytest.approx(k_scores(both["k_predicted"], both["k_ten"])["rmse"])
    assert pick(experiment=f"grz, {NONE}, untouched sky", model="ours")["n_test"] == galaxies.untouched.sum()
    bins = [row for row in rows if f"{NONE}, z " in row["experiment"] and row["model"] == "ours"]
    assert sum(row["n_test"] for row in bins) == 400
    assert sum(row["bias"] * row["n_test"] for row in bins) / 400 == pytest.approx(
        pick(experiment=f"grz, {NONE}", model="ours")["bias"]
    )
    covered = [
        row for row in rows if row["model"] == "ours, intervals given truth" and NONE in row["experiment"]
    ]
    assert sum(row["coverage_90"] * row["n_test"] for row in covered) / 400 == pytest.approx(
        pick(experiment=f"grz, {NONE}", model="ours")["coverage_90"]
    )
    for model in ("kcorrect", "ours"):
        assert pick(experiment="grz, speed", model=model)["galaxies_per_second"] > 100


def test_settings_that_make_no_sense():
    with pytest.raises(ValueError, match="bands 'grz'; expected a tuple of sets"):
        RealSettings(bands="grz")
    with pytest.raises(ValueError, match="100 galaxies, 2 folds, 50 resamples; expected 0 or 400"):
        RealSettings(n_galaxies=100)
