"""Models of K as files, and k-corrections of a reader's own catalogue in every format that is read."""

import json
import os
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table
from safetensors.numpy import load_file, save_file

from astro_utils import registry
from astro_utils.desi_photometry import desi_with_photometry
from astro_utils.kcorrections.kcorrect_fit import KcorrectOptions, run_kcorrect
from astro_utils.kcorrections.model_file import catalogue_features, load_k_model, save_k_model
from astro_utils.kcorrections.model_fit import fit_k_model, half_widths
from astro_utils.kcorrections.own import output_columns, own_k_corrections
from astro_utils.kcorrections.own_catalogue import REDDENING, example_catalogue, read_photometry
from astro_utils.kcorrections.real_sample import Photometry, wheel_photometry
from astro_utils.kcorrections.scores import k_scores
from astro_utils.photometry import SDSS_SOFTENING, asinh_magnitudes
from astro_utils.samples import Block, Column, SampleInfo, write_sample

NEEDS_DATA = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with desi"
)


@cache
def galaxies():
    """Real galaxies in grz with kcorrect's K, and their parts of the sky: training set and others."""
    photometry, sample = wheel_photometry()
    rows = np.flatnonzero(photometry.z < 0.3)[:1500]
    chosen = photometry.only("grz").select(rows)
    k = run_kcorrect(chosen, KcorrectOptions("grz", "SDSS")).trusted
    good = np.flatnonzero(np.isfinite(k))
    groups = sample["pixel"].to_numpy()[rows]
    return [(chosen.select(part), k[part], groups[part]) for part in (good[:900], good[900:])]


@cache
def fitted(track, errors=False):
    options = {"system": "SDSS", "truth": "kcorrect, grz", "sky": "real", "members": 2, "n_folds": 3}
    return fit_k_model(*galaxies()[0], track=track, errors=errors, n_bins=4, **options)


# ------------------------------------------------------------------------------------------ models as files


@pytest.mark.parametrize(("track", "errors"), [("no redshift", True), ("redshift", False)])
def test_a_model_read_again_is_the_same(tmp_path, track, errors):
    model, others = fitted(track, errors), galaxies()[1][0]
    save_k_model(tmp_path / "k.safetensors", model)
    again = load_k_model(tmp_path / "k.safetensors")
    k = model.predict(others)
    np.testing.assert_allclose(again.predict(others), k, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(again.half_width(others, k), model.half_width(others, k))
    assert again.outside(others) == model.outside(others)
    facts = ("system", "bands", "track", "band", "band_shift", "errors", "names", "level", "truth", "sky")
    assert [getattr(again, name) for name in facts] == [getattr(model, name) for name in facts]
    assert again.n_train == 900 and again.sky == "real" and again.truth == "kcorrect, grz"


def test_a_redshift_helps_and_intervals_cover():
    others, k, _ = galaxies()[1]
    scores = {}
    for track in ("no redshift", "redshift"):
        model = fitted(track)
        found = model.predict(others)
        scores[track] = k_scores(found, k)
        assert 0.84 < (np.abs(found - k) <= model.half_width(others, found)).mean() < 0.96
    assert scores["no redshift"]["r2"] > 0.75
    assert scores["redshift"]["rmse"] < 0.3 * scores["no redshift"]["rmse"]


def test_a_galaxy_takes_the_width_of_its_bin():
    model, others = fitted("redshift"), galaxies()[1][0].select(slice(0, 6))
    below = model.edges - 1e-9
    for z, bins in ((model.edges, [1, 2, 3]), (below, [0, 1, 2])):
        here = replace(others, z=np.concatenate([z, [-0.5, 5.0, 0.0]]))
        np.testing.assert_array_equal(model.half_width(here, np.zeros(6)), model.widths[[*bins, 0, 3, 0]])
    model = fitted("no redshift")
    k = np.concatenate([model.edges, [-9.0, 9.0, model.edges[0] - 1e-9]])
    np.testing.assert_array_equal(model.half_width(others, k), model.widths[[1, 2, 3, 0, 3, 0]])


def test_a_model_without_redshift_does_not_read_it():
    others = galaxies()[1][0]
    hidden = replace(others, z=np.full(len(others), np.nan))
    np.testing.assert_array_equal(
        fitted("no redshift").predict(hidden), fitted("no redshift").predict(others)
    )
    with pytest.raises(ValueError, match="features of galaxy 0 are not all finite"):
        fitted("redshift").predict(hidden)


def test_what_lies_outside_the_training_range_is_named():
    others = galaxies()[1][0].select(slice(0, 3))
    flux = others.flux.copy()
    flux[1] *= 1e-3  # 7.5 mag fainter, of the same colours
    moved = replace(others, flux=flux, z=np.array([0.1, 0.1, 0.9]))
    found = fitted("redshift").outside(moved)
    assert found[0] == "" and found[2] == "redshift" and found[1].split(", ")[0] == "r"


def test_features_of_a_catalogue():
    flux = np.array([[10.0, 20.0, 40.0]])
    one = Photometry(("g", "r", "z"), flux, np.full((1, 3), 100.0), np.full((1, 3), 0.1), np.array([0.2]))
    features, names = catalogue_features(one, "DECam", ("g", "r", "z"), errors=True)
    assert names == ("r", "g-r", "r-z", "log error g", "log error r", "log error z")
    assert features.kinds == ("magnitude", "colour", "colour", "error", "error", "error")
    # Far above the softening these are ordinary magnitudes; dust makes no difference to equal extinctions.
    step = 2.5 * np.log10(2)
    np.testing.assert_allclose(features.values[0, :3], [22.5 - 2.5 - step - 0.1, step, step], atol=2e-4)
    error = 2.5 / np.log(10) * 0.1 / flux[0]
    np.testing.assert_allclose(np.exp(features.values[0, 3:]), error, rtol=1e-3)


def test_half_widths_are_the_order_statistics_of_their_bins():
    by = np.arange(38.0)
    error = np.where(by < 18.5, by + 1, 100 + by)
    edges, widths = half_widths(error, by, 2, 0.9)
    assert edges.tolist() == [18.5] and widths.tolist() == [18.0, 136.0]  # the 18th of 19: ceil(20 x 0.9)
    with pytest.raises(ValueError, match=r"8 galaxies in bin 0 of 1: too few for intervals of 90%"):
        half_widths(error[:8], by[:8], 1, 0.9)
    with pytest.raises(ValueError, match="level must be between 0 and 1, not 90"):
        half_widths(error, by, 2, 90)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "Pan-STARRS"}, "system 'Pan-STARRS'; expected one of SDSS"),
        ({"track": "photo-z"}, "track 'photo-z'; expected one of no redshift, redshift"),
        ({"band": "i"}, "bands g, r, z for K of i in SDSS; expected two or more of u, g, r, i, z"),
        ({"n_bins": 400}, "too few for intervals"),
    ],
)
def test_wrong_requests_for_a_model_are_refused(changes, message):
    options = {
        "system": "SDSS",
        "track": "no redshift",
        "truth": "",
        "sky": "real",
        "members": 1,
        "n_folds": 2,
    }
    photometry, k, groups = galaxies()[0]
    few = slice(0, 300)
    with pytest.raises(ValueError, match=message):
        fit_k_model(photometry.select(few), k[few], groups[few], **(options | changes))


def test_damaged_models_are_named(tmp_path):
    path = tmp_path / "k.safetensors"
    with pytest.raises(FileNotFoundError, match=r"k\.safetensors: no such model"):
        load_k_model(path)
    path.write_bytes(b"text")
    with pytest.raises(ValueError, match=r"k\.safetensors: not a model of k-corrections"):
        load_k_model(path)
    save_k_model(path, fitted("redshift"))
    tensors = load_file(path)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    facts = json.loads(header["__metadata__"]["k_model"])

    def rewritten(drop=(), change=None, **more):
        parts = {name: values for name, values in tensors.items() if name not in drop} | (change or {})
        save_file(parts, path, metadata={"k_model": json.dumps(facts | more)})

    cases = [
        (
            {"format": "something else"},
            r"something else of version 1; expected astro_utils k-correction model",
        ),
        ({"version": 2}, "of version 2; expected .* of version 1"),
        ({"drop": ("kernel.1.weights",)}, r"parts missing or wrong .*kernel\.1\.weights"),
        ({"change": {"low": np.zeros(2)}}, r"low has shape \(2,\); expected \(4,\)"),
        ({"change": {"widths": np.full(4, np.nan)}}, "widths is not finite"),
        ({"change": {"kernel.0.lengths": np.zeros(4)}}, r"kernel\.0\.lengths is not finite, or a length"),
        ({"system": "Gaia"}, "system 'Gaia', track 'redshift'"),
        ({"bands": ["g", "Y"]}, "bands g, Y for K of r in SDSS"),
    ]
    for options, message in cases:
        rewritten(**options)
        with pytest.raises(ValueError, match=rf"k\.safetensors: .*{message}"):
            load_k_model(path)
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not a model of k-corrections"):
        load_k_model(path)


# --------------------------------------------------------------------------------------------- catalogues


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    return example_catalogue(tmp_path_factory.mktemp("example") / "mine.csv", 40, seed=3)


def test_the_example_is_read_as_the_galaxies_that_it_is_of(example):
    rows = pd.read_csv(example)["source_row"].to_numpy()
    assert len(np.unique(rows)) == 40
    expected = wheel_photometry()[0].only("grz").select(rows)
    found = read_photometry(example, "grz", "SDSS")
    for name in ("flux", "ivar", "extinction", "z"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=2e-6)


@pytest.mark.parametrize("suffix", [".parquet", ".fits", ".h5"])
def test_formats_hold_the_same(tmp_path, example, suffix):
    table = pd.read_csv(example)
    path = tmp_path / f"mine{suffix}"
    if suffix == ".parquet":
        table.to_parquet(path)
    elif suffix == ".fits":
        upper = Table.from_pandas(table.rename(columns=str.upper))
        upper["APFLUX_G"] = np.zeros((len(table), 8))  # as Tractor has it
        upper.write(path)
    else:
        rows = table.assign(object_id=table["source_row"])
        sample_of(path, rows)
    expected, found = (read_photometry(one, "grz", "SDSS") for one in (example, path))
    for name in ("flux", "ivar", "extinction", "z"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12)


def sample_of(path, rows):
    write_sample(path, [Block(rows, {name: Column("", name) for name in rows})], SampleInfo("mine", "real"))


def test_magnitudes_and_dust_come_in_several_forms(tmp_path, example):
    table = pd.read_csv(example)
    observed = read_photometry(example, "grz", "SDSS")
    flux = table[[f"flux_{b}" for b in "grz"]].to_numpy()
    ivar = table[[f"flux_ivar_{b}" for b in "grz"]].to_numpy()
    magnitude, error = asinh_magnitudes(flux, ivar, SDSS_SOFTENING[[1, 2, 4]])
    decam = 22.5 - 2.5 * np.log10(flux), 2.5 / np.log(10) / (flux * np.sqrt(ivar))
    for system, (mags, errs) in {"SDSS": (magnitude, error), "DECam": decam}.items():
        mine = {f"mag_{b}": mags[:, k] for k, b in enumerate("grz")}
        mine |= {f"err_{b}": errs[:, k] for k, b in enumerate("grz")} | {"ebv": 0.05}
        pd.DataFrame(mine).to_csv(tmp_path / "mags.csv")
        found = read_photometry(tmp_path / "mags.csv", "grz", system)
        factor = observed.flux / flux if system == "SDSS" else 1
        np.testing.assert_allclose(found.flux, flux * factor, rtol=1e-6)
        np.testing.assert_allclose(found.ivar, ivar / np.square(factor), rtol=1e-6)
        np.testing.assert_allclose(found.extinction[0], [0.05 * REDDENING[system][b] for b in "grz"])
        assert np.isnan(found.z).all()
    corrected = read_photometry(tmp_path / "mags.csv", "grz", "DECam", dereddened=True)
    np.testing.assert_allclose(corrected.dereddened()[0], flux, rtol=1e-6)
    share = {f"mw_transmission_{b}": 0.5 for b in "grz"}
    columns = [f"flux{part}_{b}" for part in ("", "_ivar") for b in "grz"]
    table[columns].assign(**share).to_csv(tmp_path / "share.csv")
    found = read_photometry(tmp_path / "share.csv", "grz", "DECam")
    np.testing.assert_allclose(found.dereddened()[0], 2 * flux, rtol=1e-6)
    found = read_photometry(example, "grz", "DECam")
    np.testing.assert_allclose(found.flux, flux)  # what is AB already is not moved


def damaged(**changes):
    def change(table):
        for name, values in changes.items():
            if values is None:
                table = table.drop(columns=name)
            elif isinstance(values, dict):
                column = table[name].astype(object)
                for row, value in values.items():
                    column[row] = value
                table = table.assign(**{name: column})
            else:
                table = table.assign(**{name: values(table)})
        return table

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damaged(flux_ivar_z=None), r"no column flux_ivar_z; expected for each of g, r, z .*nanomaggies"),
        (damaged(extinction_r=None), r"no columns of Galactic extinction in g, r, z; expected .*ebv"),
        (damaged(flux_r={4: np.nan, 9: np.nan}), r"flux_r, row 4 is nan: not finite; .*\(2 of 40 rows\)"),
        (damaged(flux_ivar_r={7: np.nan}), r"flux_ivar_r, row 7 is nan: not finite"),
        (damaged(flux_g={2: np.inf}), r"flux_g, row 2 is inf: not finite"),
        (damaged(flux_g={2: "faint"}), r"flux_g, row 2 is 'faint': not a number \(1 of 40 rows\)"),
        (damaged(flux_g={5: -9999}), r"flux_g, row 5 is -9999: a sentinel"),
        (damaged(flux_ivar_g={1: -1}), r"flux_ivar_g, row 1 is -1: an inverse variance is not negative"),
        (damaged(flux_g=lambda t: 1e-9 * t["flux_g"]), r"flux_g has a median of .*; expected nanomaggies"),
        (damaged(extinction_g={0: -1}), r"extinction_g, row 0 is -1: outside 0 to 20, mag"),
        (damaged(z={3: -99}), r"z, row 3 is -99: not a redshift; leave it empty"),
        (damaged(Z=lambda t: t["z"]), r"more than one column z"),
        (lambda table: table[:0], r"no rows"),
    ],
)
def test_wrong_catalogues_are_named(tmp_path, example, change, message):
    path = tmp_path / "wrong.csv"
    change(pd.read_csv(example)).to_csv(path, index=False)
    with pytest.raises(ValueError, match=rf"wrong\.csv: .*{message}"):
        read_photometry(path, "grz", "SDSS")


def test_magnitudes_that_are_none_are_named(tmp_path):
    table = pd.DataFrame({f"{part}_{b}": [18.0, 19.0] for part in ("mag", "err") for b in "gr"})
    table[["err_g", "err_r"]] = 0.02
    for name, value, message in (
        ("mag_r", 4500.0, r"mag_r, row 1 is 4500: not an AB magnitude between 5 and 35; is it a flux"),
        ("err_g", 0.0, r"err_g, row 1 is 0: not an error in magnitudes"),
        ("ebv", 50.0, r"ebv, row 1 is 50: outside 0 to 10 mag"),
    ):
        table.assign(ebv=0.1).assign(**{name: lambda t, n=name, v=value: [t[n][0], v]}).to_csv(
            tmp_path / "a.csv"
        )
        with pytest.raises(ValueError, match=rf"a\.csv: column {message}"):
            read_photometry(tmp_path / "a.csv", "gr", "BASS/MzLS")


def test_foreign_files_systems_and_bands_are_named(tmp_path, example):
    with pytest.raises(FileNotFoundError, match=r"b\.csv: no such catalogue"):
        read_photometry(tmp_path / "b.csv", "grz", "SDSS")
    (tmp_path / "b.txt").touch()
    with pytest.raises(ValueError, match=r"b\.txt: expected a name that ends in one of \.csv"):
        read_photometry(tmp_path / "b.txt", "grz", "SDSS")
    for suffix in ("csv", "parquet", "fits", "h5"):
        (tmp_path / f"b.{suffix}").touch()
        with pytest.raises(ValueError, match=rf"b\.{suffix}: not a readable \.{suffix} table"):
            read_photometry(tmp_path / f"b.{suffix}", "grz", "SDSS")
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(tmp_path / "image.fits")
    with pytest.raises(ValueError, match=r"image\.fits: not a readable \.fits table \(no table"):
        read_photometry(tmp_path / "image.fits", "grz", "SDSS")
    with pytest.raises(ValueError, match="system 'HSC'; expected one of SDSS, BASS/MzLS, DECam"):
        read_photometry(example, "grz", "HSC")
    with pytest.raises(ValueError, match="BASS/MzLS has no band 'i'; expected some of g, r, z"):
        read_photometry(example, "gri", "BASS/MzLS")


# -------------------------------------------------------------------------------------------- predictions


def test_each_galaxy_gets_the_answer_of_what_is_known_of_it(tmp_path, example):
    table = pd.read_csv(example)
    table.loc[:9, "z"] = np.nan
    table.loc[10, "flux_ivar_z"] = 0
    table.loc[11, "z"] = -0.01
    table.loc[12, "flux_g"] *= 30  # a broken band
    table.to_csv(tmp_path / "mine.csv", index=False)
    photometry = read_photometry(tmp_path / "mine.csv", "ugriz", "SDSS")
    both = [fitted("redshift"), fitted("no redshift")]
    found = own_k_corrections(photometry, both, "SDSS")
    assert list(found) == list(output_columns("r")) and len(found) == 40
    assert found["track"].tolist() == ["no redshift"] * 10 + [""] + ["redshift"] * 29
    answered = np.arange(40) != 10
    for model in both:
        rows = np.flatnonzero(found["track"] == model.track)
        some = photometry.select(rows)
        k = found["k_r"].to_numpy()[rows]
        np.testing.assert_allclose(k, model.predict(some), rtol=0, atol=1e-10)
        half = model.half_width(some, k)
        np.testing.assert_allclose(found["k_r_hi"][rows] - k, half)
        np.testing.assert_allclose(k - found["k_r_lo"][rows], half)
    assert found[["k_r", "k_r_lo", "k_r_hi"]].notna().all(axis=1).tolist() == answered.tolist()
    assert found["not_measured"][10] == "z" and (found["not_measured"][answered] == "").all()
    assert "redshift" in found["outside_training_range"][11] and "g-r" in found["outside_training_range"][12]
    assert (found["kcorrect_failure"][:10] == "no redshift").all()
    assert found["kcorrect_failure"][[10, 11, 12]].tolist() == ["", "redshift", "misfit"]
    known = np.arange(40) > 12
    direct = run_kcorrect(photometry.only("grz"), KcorrectOptions("grz", "SDSS")).k
    np.testing.assert_allclose(found["k_r_kcorrect"][known], direct[known])
    assert found["k_r_kcorrect"].isna().tolist() == [True] * 10 + [False, True] + [False] * 28
    # The training K are kcorrect's, so the two agree.
    gap = (found["k_r"] - found["k_r_kcorrect"])[known]
    assert gap.abs().median() < 0.01


def test_without_the_model_for_it_there_is_no_answer(example):
    photometry = replace(read_photometry(example, "grz", "SDSS"), z=np.full(40, np.nan))
    found = own_k_corrections(photometry, [fitted("redshift")], "SDSS")
    assert found["k_r"].isna().all() and (found["track"] == "").all()
    found = own_k_corrections(photometry, [fitted("no redshift")], "SDSS")
    assert found["k_r"].notna().all() and found["k_r_kcorrect"].isna().all()
    assert found.attrs["units"]["k_r_kcorrect"] == "mag" and found.attrs["units"]["track"] == ""


def test_models_that_do_not_fit_are_refused(example):
    photometry = read_photometry(example, "grz", "SDSS")
    model = fitted("no redshift")
    with pytest.raises(ValueError, match="the model is of SDSS, the photometry of DECam: their bands differ"):
        own_k_corrections(photometry, [model], "DECam")
    with pytest.raises(ValueError, match="the model wants g, r, z; the photometry has no z"):
        own_k_corrections(photometry.only("gr"), [model], "SDSS")
    with pytest.raises(ValueError, match="expected different tracks of the same bands and the same K"):
        own_k_corrections(photometry, [model, model], "SDSS")
    shifted = replace(fitted("redshift"), band_shift=0.0)
    with pytest.raises(ValueError, match="expected different tracks of the same bands and the same K"):
        own_k_corrections(photometry, [model, shifted], "SDSS")
    with pytest.raises(ValueError, match="no model of k-corrections is given"):
        own_k_corrections(photometry, [], "SDSS")


@NEEDS_DATA
def test_real_legacy_survey_photometry_is_read(tmp_path):
    files = registry.fetch("desi_coadds", download=False)
    tractor = files["desi/tractor-1054p567.fits"]
    found = read_photometry(tractor, "grz", "BASS/MzLS")
    names = ("4-80613-thru20210324", "special-dark-27247")
    pairs = [[files[f"desi/{kind}-{name}.fits"] for kind in ("coadd", "redrock")] for name in names]
    blocks = [desi_with_photometry(*paths) for paths in pairs]
    write_sample(tmp_path / "desi.h5", blocks, SampleInfo("desi", "real"))
    sample = read_photometry(tmp_path / "desi.h5", "grz", "BASS/MzLS")
    for mine, theirs in zip(found.dereddened(), sample.dereddened(), strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5)
    assert np.isnan(found.z[0]) and sample.z[0] == pytest.approx(0.36874, abs=1e-5)
    assert (sample.ivar[1] == 0).all(), "a target from outside the survey"
