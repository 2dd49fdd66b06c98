"""A trained ensemble as a file: the same answers after a round trip, and a word on what it has not seen."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

from astro_utils.galaxies import galaxy_sample
from astro_utils.metrics import redshift_scores
from astro_utils.models.mdn import MixtureDensityNetwork, RedshiftEnsemble
from astro_utils.photoz import FEATURE_SETS, GRID, QUANTILE_COLUMNS, features
from astro_utils.predictor import Predictor

FULL = FEATURE_SETS[-1]


@pytest.fixture(scope="module")
def galaxies():
    """Galaxies with, and one without, 2MASS photometry."""
    sample = galaxy_sample()
    chosen = pd.concat([sample.iloc[::100], sample[sample["j_mag"].isna()]])
    assert chosen["j_mag"].isna().any()
    return chosen.reset_index(drop=True)


def untrained(galaxies, feature_set=FULL, members=2, hidden=16, components=3):
    x = features(galaxies, feature_set).to_numpy()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = [
            MixtureDensityNetwork(
                n_features=x.shape[1], hidden=hidden, components=components, center=0.1, scale=0.06
            )
            for _ in range(members)
        ]
    mean, std = (torch.from_numpy(f(x, axis=0)) for f in (np.nanmean, np.nanstd))
    return Predictor.of(RedshiftEnsemble(networks, mean, std).eval(), feature_set, x)


@pytest.mark.parametrize(
    ("feature_set", "shape"),
    [(FEATURE_SETS[0], (1, 8, 2)), (FEATURE_SETS[2], (2, 16, 5)), (FULL, (3, 24, 4))],
)
def test_a_predictor_answers_alike_after_a_round_trip(galaxies, tmp_path, feature_set, shape):
    before, path = untrained(galaxies, feature_set, *shape), tmp_path / "ensemble.safetensors"
    before.save(path)
    after = Predictor.load(path)
    pd.testing.assert_frame_equal(after.predict(galaxies), before.predict(galaxies), check_exact=True)
    assert after.feature_set == feature_set
    np.testing.assert_array_equal([after.low, after.high], [before.low, before.high])
    assert [p.name for p in tmp_path.iterdir()] == ["ensemble.safetensors"]


def test_dropout_is_off_after_loading(galaxies, tmp_path):
    untrained(galaxies).save(tmp_path / "a.safetensors")
    loaded = Predictor.load(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(loaded.cdf(galaxies), loaded.cdf(galaxies))


def test_the_same_predictor_makes_the_same_file(galaxies, tmp_path):
    for name in "ab":
        untrained(galaxies).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_answers_are_quantiles_of_a_density_in_the_order_of_the_galaxies(galaxies):
    predictor = untrained(galaxies)
    shuffled = galaxies.sample(frac=1, random_state=0)
    answer = predictor.predict(shuffled)
    assert list(answer) == ["z_phot", *QUANTILE_COLUMNS, "outside_training_range"]
    assert answer.index.tolist() == shuffled.index.tolist()
    pd.testing.assert_frame_equal(answer.sort_index(), predictor.predict(galaxies), rtol=1e-4)
    quantiles = answer[list(QUANTILE_COLUMNS)].to_numpy()
    assert (np.diff(quantiles, axis=1) > 0).all()
    np.testing.assert_array_equal(answer["z_phot"], answer["q500"])
    cdf = predictor.cdf(shuffled)
    assert cdf.shape == (len(shuffled), len(GRID)) and (np.diff(cdf, axis=1) > -1e-6).all()
    at_median = [np.interp(z, GRID, row) for z, row in zip(answer["z_phot"], cdf, strict=True)]
    np.testing.assert_allclose(at_median, 0.5, atol=1e-5)


def test_no_training_galaxy_is_outside_the_training_range(galaxies, tmp_path):
    untrained(galaxies).save(tmp_path / "a.safetensors")
    assert (Predictor.load(tmp_path / "a.safetensors").outside(galaxies) == "").all()


def test_the_features_outside_the_range_are_named(galaxies):
    predictor = untrained(galaxies)
    strange = galaxies.iloc[:3].copy()
    strange.loc[1, "extinction_r"] = 50.0  # is no feature
    strange.loc[2, "petro_err_g"] = 1e-9
    strange.loc[0, [f"model_mag_{b}" for b in "ugriz"]] -= 15.0  # brighter, of the same colours
    flags = predictor.outside(strange)
    assert flags[1] == "" and flags[2] == "log_petro_err_g"
    assert flags[0].split(", ") == [
        *[f"model_mag_{b}" for b in "ugriz"],
        *["r_model-petro", "model_mag_z-j_mag"],
    ]


def test_published_weights_answer_well_from_the_documented_columns_alone():
    """Once, a galaxy without 2MASS photometry was answered wrongly and not marked."""
    sample = galaxy_sample().iloc[::20].reset_index(drop=True).drop(columns=["j_mag", "h_mag", "k_mag"])
    answer = Predictor.load(ROOT / "data" / "published" / "photoz" / "ensemble.safetensors").predict(sample)
    scores = redshift_scores(answer["z_phot"].to_numpy(), sample["z"].to_numpy())
    assert scores["sigma_mad"] < 0.014 and abs(scores["bias"]) < 0.003
    assert (answer["outside_training_range"] != "").mean() < 0.02


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"w\.safetensors: no such weights; notebooks/photoz/2_train"):
        Predictor.load(tmp_path / "w.safetensors")


def test_what_is_no_predictor_is_refused(galaxies, tmp_path):
    path = tmp_path / "w.safetensors"
    untrained(galaxies).save(path)
    whole = path.read_bytes()
    tensors = load_file(path)
    expected = r"w\.safetensors: not a redshift predictor in safetensors format"
    for content in (b"", b"weights", np.arange(99).tobytes(), whole[:-100]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=expected):
            Predictor.load(path)
    for header in (None, {"format": "pt"}, {"predictor": "{not json"}):
        save_file(tensors, path, metadata=header)
        with pytest.raises(ValueError, match=expected):
            Predictor.load(path)
