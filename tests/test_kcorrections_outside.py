"""Published polynomials as an outside check, and a reader's DESI and AstroCLIP files."""

import os

import h5py
import numpy as np
import pytest
import torch

from astro_utils.kcorrections import own_files
from astro_utils.kcorrections.outside import SURVEYS, outside_k, outside_row, polynomials, real_colour
from astro_utils.kcorrections.own_files import desi_example, embed_astroclip_file
from astro_utils.kcorrections.real_sample import wheel_photometry
from astro_utils.kcorrections.scores import k_scores
from astro_utils.kcorrections.truth import pseudo_truth
from astro_utils.models.astroclip import AstroCLIP
from astro_utils.models.astroclip_vit import VisionTransformer
from astro_utils.models.specformer import SpecFormer

DATA = os.environ.get("ASTRO_UTILS_DATA")


@pytest.mark.parametrize("survey", SURVEYS)
def test_tables_have_increasing_colours_and_say_where_they_come_from(survey):
    fitted = polynomials(survey)
    assert (np.diff(fitted.colour) > 0).all()
    assert fitted.coefficients.shape[0] == len(fitted.colour)
    z = np.linspace(0.05, 0.45, 30)
    red, blue = (outside_k(survey, z, np.full(30, colour)) for colour in (1.0, 0.35))
    assert (np.diff(red) > 0).all()  # red galaxies dim with redshift
    assert (red[z > 0.2] > blue[z > 0.2]).all()


def test_gama_is_the_band_shift_alone_where_the_bands_coincide():
    k = outside_k("gama", np.full(4, 0.1), np.array([0.2, 0.5, 0.8, 1.1]))
    np.testing.assert_allclose(k, -2.5 * np.log10(1.1), atol=2e-4)


def test_gama_agrees_with_the_truth_of_real_galaxies():
    photometry, _ = wheel_photometry()
    some = photometry.select(slice(0, 600))
    truth = pseudo_truth(some)
    k = outside_k("gama", some.z, real_colour(truth))
    good = truth.sound & np.isfinite(k) & (some.z < 0.3885)
    scores = k_scores(k[good], truth.k[good])
    assert scores["r2"] > 0.97
    assert abs(scores["bias"]) < 0.01
    row = outside_row(
        k, truth.k, np.arange(600) // 20, profile="smoke", sky="real", model="GAMA", n_bootstrap=20
    )
    assert row["n_test"] == int((np.isfinite(k) & truth.good).sum())
    assert row["rmse_lo"] <= row["rmse"] <= row["rmse_hi"]


def test_beyond_the_polynomials_there_is_no_answer():
    k = outside_k("gama", np.array([0.51, 0.2, 0.2, -0.01]), np.array([0.8, 0.8, np.nan, 0.8]))
    assert np.isfinite(k).tolist() == [False, True, False, False]
    with pytest.raises(ValueError, match=r"survey 'sdss'; expected one of gama, desi_bgs_south"):
        polynomials("sdss")


@pytest.mark.skipif(not DATA, reason="ASTRO_UTILS_DATA is not set: DESI's example files are not at hand")
def test_desi_spectra_are_joined_with_tractor():
    table = desi_example(False).set_index("targetid")
    one = table.loc[39633345008634465]
    assert one["photometry"] == "tractor"
    assert one["system"] == "BASS/MzLS"
    assert one["z"] == pytest.approx(0.36874, abs=1e-5)
    assert -0.4 < one["k_r"] < 0.4
    assert np.isnan(table.loc[39089837499744649, "k_r"])  # no photometry, no K


def test_without_the_files_and_without_leave_to_fetch_there_is_none(monkeypatch):
    monkeypatch.setattr(own_files.registry, "available", lambda name: False)
    monkeypatch.setattr(own_files.registry, "fetch", lambda name: pytest.fail("fetched without leave"))
    assert desi_example(False) is None


def test_astroclip_images_are_embedded_in_order(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "theirs.h5", "w") as file:
        for group in range(10):
            part = file.create_group(str(group))
            part["images"] = rng.normal(0.05, 0.02, (2, 152, 152, 3)).astype(np.float32)
            part["spectra"] = rng.normal(1, 0.1, (2, 7781, 1)).astype(np.float32)
            part["redshifts"] = rng.uniform(0.1, 0.5, 2).astype(np.float32)
            part["targetids"] = np.arange(2 * group, 2 * group + 2)
    torch.manual_seed(0)
    small = AstroCLIP(
        vision=VisionTransformer(dim=8, depth=1, heads=1, chunks=1),
        specformer=SpecFormer(dim=8, depth=1, heads=1),
        dim=8,
        heads=1,
    ).eval()
    monkeypatch.setattr(own_files, "published_astroclip", lambda path: small)
    counts = embed_astroclip_file(tmp_path / "theirs.h5", tmp_path / "mine.h5", "astroclip.ckpt")
    assert counts["objects"] == counts["embedded"] == 20
    with h5py.File(tmp_path / "mine_embeddings.h5") as file:
        assert file["object_id"][:].tolist() == list(range(20))
        embeddings = file["image"][:]
    assert embeddings.shape == (20, 8)
    assert len(np.unique(embeddings.round(6), axis=0)) == 20
    nothing = embed_astroclip_file(tmp_path / "theirs.h5", tmp_path / "again.h5")
    assert nothing["embedded"] == 0
    assert not (tmp_path / "again_embeddings.h5").exists()
