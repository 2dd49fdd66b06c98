"""A reader's own folders: the example as files, reading with errors, split, training, weights, answers."""

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from astropy.io import fits

from astro_utils.astra import own
from astro_utils.astra.folders import INPUTS_V2, AstraInputs
from astro_utils.astra.own_folders import OwnGalaxies, aperture_norm, example_folders, read_own, split_own
from astro_utils.astra.simulated import Parts
from astro_utils.astra.targets import log_grid, own_grid
from astro_utils.models.astra import ASTRA_V1, ASTRA_V2_SMALL, without_quirks
from astro_utils.samples import Spectra, open_sample, validate
from astro_utils.sky.degrade import border_noise
from astro_utils.sky.simulate import Simulation
from astro_utils.training import TrainingConfig

N = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return example_folders(tmp_path_factory.mktemp("example"), N, size=32)


@pytest.fixture(scope="module")
def galaxies(folder, tmp_path_factory):
    return read_own(folder, tmp_path_factory.mktemp("sample") / "own.h5", 32)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def homes(folder):
    return sorted(folder.glob("Galaxy_*"))


PARTS = Parts(np.array([0, 1, 2]), np.array([3]), np.array([4, 5]))


# ------------------------------------------------------------------------------------- folders and split


def test_the_example_comes_back_as_it_was_simulated(folder, galaxies):
    made = Simulation(
        n_objects=N,
        survey="panstarrs",
        population="main_galaxies",
        size=32,
        spectrograph="sdss",
        objects_per_field=2,
        objects_per_shard=2 * N,
    )(0)
    assert [home.name for home in homes(folder)] == [f"Galaxy_{name}" for name in galaxies.names]
    assert len(galaxies) == N and len(galaxies.left_out) == 0
    np.testing.assert_allclose(galaxies.block.images, made.images, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        galaxies.block.catalogue[["ra", "dec"]], made.catalogue[["ra", "dec"]], atol=1e-6
    )
    known = (made.spectra.ivar > 0)[:, None, :]
    grid, own_wave = galaxies.block.spectra.wavelength, made.spectra.wavelength
    for i in range(N):
        flux = np.interp(own_wave[known[i, 0]], grid, galaxies.block.spectra.flux[i])
        difference = np.abs(flux - made.spectra.flux[i, known[i, 0]])
        assert np.percentile(difference, 99) < 0.02 * made.spectra.flux[i].mean()
    assert galaxies.block.catalogue[["mjd", "plate", "fiberid"]].to_numpy()[2].tolist() == [53_000, 1, 3]


def test_stored_pixels_stay_beside_calibrated_ones(folder, galaxies):
    path = next((homes(folder)[2] / "images").glob("*.i.*"))
    np.testing.assert_allclose(galaxies.pixels[2, 2], fits.getdata(path), rtol=1e-6)
    assert np.abs(galaxies.pixels[2, 2] - galaxies.block.images[2, 2]).max() > 0.1


def test_images_are_cut_to_their_middle_and_the_sample_keeps_all(folder, galaxies, tmp_path):
    small = read_own(folder, tmp_path / "own.h5", 16)
    np.testing.assert_array_equal(small.block.images, galaxies.block.images[..., 8:24, 8:24])
    np.testing.assert_array_equal(small.pixels, galaxies.pixels[..., 8:24, 8:24])
    np.testing.assert_allclose(small.norm, galaxies.norm)
    assert validate(tmp_path / "own.h5") == [] and [p.name for p in tmp_path.iterdir()] == ["own.h5"]
    with open_sample(tmp_path / "own.h5") as sample:
        assert sample.images(slice(None)).shape == (N, 5, 32, 32)
    with pytest.raises(ValueError, match=r"images of 32 x 32 px; expected at least size, 48 x 48 px"):
        read_own(folder, tmp_path / "own.h5", 48)
    assert [p.name for p in tmp_path.iterdir()] == ["own.h5"]


def test_the_norm_is_r_flux_within_a_fibre_and_near_that_of_the_spectrum(galaxies):
    images = np.zeros((1, 5, 32, 32))
    images[0, 1], images[0, 2] = 1e-3, 9.0
    # pi 1.5^2 arcsec^2 in pixels of 0.25 arcsec; one nanomaggy at 6170 Angstrom is 0.286e-17.
    expected = 1e-3 * np.pi * 36 * 3.631e-29 * 2.99792458e18 / 6170**2 * 1e17
    assert aperture_norm(images)[0] == pytest.approx(expected, rel=0.03)
    inside = np.abs(galaxies.block.spectra.wavelength - 6170) < 300
    ratio = galaxies.block.spectra.flux[:, inside].mean(1) / galaxies.norm
    assert (ratio > 1.0).all() and (ratio < 1.6).all()


def test_galaxies_that_cannot_be_used_are_left_out_by_name(copied, tmp_path):
    first = homes(copied)[0]
    next((first / "images").glob("*.y.*")).unlink()
    found = read_own(copied, tmp_path / "own.h5", 32)
    assert len(found) == N - 1 and found.left_out["why"].tolist() == ["no image in a band"]
    assert str(found.left_out["object_id"].iloc[0]) == first.name.removeprefix("Galaxy_")
    assert first.name.removeprefix("Galaxy_") not in found.names
    path = homes(copied)[1] / "spectrum" / "spec.csv"
    pd.read_csv(path).iloc[:1200].to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"copy: 4 galaxies that can be used; expected at least 5.*less than half"
    ):
        read_own(copied, tmp_path / "own.h5", 32)


def test_wrong_folders_and_files_are_named(copied, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; expected one that holds Galaxy_"):
        read_own(tmp_path / "nowhere", tmp_path / "own.h5", 32)
    path = homes(copied)[0] / "spectrum" / "spec.csv"
    pd.read_csv(path).rename(columns={"flux": "f"}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"spec\.csv: expected numbers in the columns wavelength, flux"):
        read_own(copied, tmp_path / "own.h5", 32)


def test_neighbours_on_the_sky_are_on_one_side_of_the_split():
    rng = np.random.default_rng(0)
    fields = rng.uniform([0, -60], [360, 60], (40, 2))
    where = np.repeat(fields, 3, axis=0) + rng.normal(0, 0.01, (120, 2))
    table = pd.DataFrame({"object_id": np.arange(120), "ra": where[:, 0], "dec": where[:, 1]})
    parts, how = split_own(table, seed=1)
    rows = [parts.train, parts.calibration, parts.test]
    np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(120))
    fields_of = [set(part // 3) for part in rows]
    assert sum(len(one) for one in fields_of) <= 43, "fields straddle pixels now and then"
    assert "pixels of the sky of 7.3 deg" in how and 12 <= len(parts.test) <= 36
    # All within a degree: smaller pixels.
    close = table.assign(ra=10 + table["ra"] / 360, dec=table["dec"] / 60)
    parts, how = split_own(close, seed=1)
    assert min(map(len, (parts.train, parts.calibration, parts.test))) > 0 and "7.3" not in how
    with pytest.raises(ValueError, match="all galaxies lie in 1 places; expected 5"):
        split_own(table.assign(ra=10.0, dec=10.01))
    unknown = table.assign(ra=np.nan)
    parts, how = split_own(unknown)
    assert how.startswith("objects") and len(parts.test) == 24


# ---------------------------------------------------------------------------------- training and answers


def test_networks_are_the_named_ones_at_other_sizes():
    assert own.own_network("published", 1, False, 288, 4000) == ASTRA_V1
    config = own.own_network("small", 2, True, 32, 300)
    assert (config.size, config.points, config.depth) == (32, 300, ASTRA_V2_SMALL.depth)
    assert config == without_quirks(config)
    with pytest.raises(
        ValueError, match=r"architecture is 'big', version 1; expected one of small, published"
    ):
        own.own_network("big", 1, True, 32, 300)
    with pytest.raises(ValueError, match="size is 40; expected a multiple of 16"):
        own.own_network("small", 1, True, 40, 300)


def test_inputs_know_the_noise_of_the_training_galaxies_alone(galaxies):
    noise = np.median(border_noise(galaxies.block.images[PARTS.train]))
    inputs = own.own_inputs(galaxies, PARTS, 1, True, 300)
    assert inputs == AstraInputs("noise", softening=noise, target="fixed", points=300, error_floor=0.05)
    assert own.own_inputs(galaxies, PARTS, 2, False, 4000) == INPUTS_V2


@pytest.mark.parametrize(("version", "mended"), [(1, True), (2, False)])
def test_weights_that_were_kept_predict_the_same(galaxies, tmp_path, version, mended):
    config = own.own_network("small", version, mended, 32, 300)
    inputs = own.own_inputs(galaxies, PARTS, version, mended, 300)
    training = TrainingConfig(epochs=8, batch_size=2, learning_rate=1e-3)
    model, history = own.train_own(galaxies, PARTS, config, inputs, training)
    assert history.best_loss < history.validation_loss[0]
    path = own.save_astra(tmp_path / "own.safetensors", model, inputs)
    loaded, known = own.load_astra(path)
    assert loaded.config == config and known == inputs and not loaded.training
    flux = own.predict_own(model, inputs, galaxies)
    assert flux.shape == (N, 300)
    np.testing.assert_array_equal(own.predict_own(loaded, known, galaxies), flux)
    with pytest.raises(FileNotFoundError, match="none: no such file of weights"):
        own.load_astra(tmp_path / "none")


def test_only_the_right_rows_are_trained_on_and_stopped_on(galaxies, monkeypatch):
    seen = []

    def spy(model, loss, train, stop, *rest):
        seen.append((train[1], stop[1]))

    monkeypatch.setattr(own, "fit", spy)
    inputs = AstraInputs(points=200)
    own.train_own(galaxies, PARTS, own.own_network("small", 1, False, 32, 200), inputs, TrainingConfig())
    values = own_grid(galaxies.block.spectra, 1, 200).values
    for tensor, rows in zip(seen[0], (PARTS.train, PARTS.calibration), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), values[rows])


class Constant(torch.nn.Module):
    def forward(self, images):
        return torch.full((len(images), 300), 0.5)


def test_predictions_have_the_level_of_the_image_and_published_ones_that_of_the_truth(galaxies):
    inputs = own.own_inputs(galaxies, PARTS, 1, True, 300)
    flux = own.predict_own(Constant(), inputs, galaxies)
    np.testing.assert_allclose(flux, 0.5 * np.tile(galaxies.norm[:, None], 300), rtol=1e-6)
    published = own.predict_own(Constant(), AstraInputs(target="own 2", points=300), galaxies)
    target = own_grid(galaxies.block.spectra, 2, 300)
    level = np.expm1(0.75 * (target.high - target.low + 1e-6) + target.low)
    np.testing.assert_allclose(np.nanmedian(published, axis=1), level, rtol=1e-6)


def test_scores_are_those_of_test_galaxies_beside_the_mean(galaxies):
    grid = log_grid(300)
    norm = galaxies.norm.copy()
    shape = 1 + np.linspace(0, 1, 300) * np.arange(N)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.01, shape.shape)
    spectra = Spectra(
        grid.wavelength, (shape + noise) * norm[:, None], (0.01 * norm[:, None]) ** -2.0 + 0 * shape
    )
    block = type(galaxies.block)(
        galaxies.block.catalogue, galaxies.block.columns, galaxies.block.images, spectra
    )
    known = OwnGalaxies(block, galaxies.pixels, norm, galaxies.left_out)
    truth = (shape * norm[:, None])[PARTS.test]
    scores = own.own_scores(known, PARTS, truth)
    assert scores.index.tolist() == ["ASTRA", "mean spectrum"]
    assert scores.loc["ASTRA", "r2"] > 0.999 and scores.loc["ASTRA", "chi2"] == pytest.approx(1, abs=0.15)
    assert scores.loc["mean spectrum", "r2"] == 0 and scores.loc["mean spectrum", "chi2"] > 100
    # The mean is that of training galaxies: with it as the answer, nothing is explained.
    mean = shape[PARTS.train].mean(0) * norm[PARTS.test][:, None]
    assert abs(own.own_scores(known, PARTS, mean).loc["ASTRA", "r2"]) < 1e-3
    # Beyond the ends of a spectrum a published prediction is not there, and does not count.
    truth[:, :20] = np.nan
    assert own.own_scores(known, PARTS, truth).loc["ASTRA", "r2"] > 0.999


def test_files_that_are_no_weights_are_refused(tmp_path):
    from safetensors.torch import save_file

    for name, content in (("text", None), ("other", {}), ("wrong", {"astra": '{"network": {"depth": "x"}}'})):
        path = tmp_path / f"{name}.safetensors"
        if content is None:
            path.write_text("weights")
        else:
            save_file({"a": torch.zeros(1)}, path, metadata=content or None)
        with pytest.raises(
            ValueError, match=rf"{name}\.safetensors: not the weights of an ASTRA of this page"
        ):
            own.load_astra(path)


def test_spectra_are_written_as_csv_and_hdf5(tmp_path):
    names, flux = ["594512843009714176", "10000000000000000001"], np.array([[1.0, 2, 3], [4, np.nan, 6]])
    table = pd.read_csv(own.write_spectra(tmp_path / "a.csv", names, flux), dtype={"object_id": str})
    assert table["object_id"].tolist() == names and list(table.columns[1:]) == [
        "3800.000",
        "5912.698",
        "9200.000",
    ]
    np.testing.assert_allclose(table.iloc[:, 1:].to_numpy(), flux)
    with h5py.File(own.write_spectra(tmp_path / "a.h5", names, flux)) as file:
        assert [str(one) for one in file["object_id"][:]] == names
        np.testing.assert_allclose(file["flux"][:], flux)
        np.testing.assert_allclose(file["wavelength"][:], log_grid(3).wavelength)
        assert file["flux"].attrs["unit"] == "1e-17 erg / (s cm2 Angstrom)"
    with pytest.raises(ValueError, match=r"a\.txt: expected a name that ends in \.csv, \.h5 or \.hdf5"):
        own.write_spectra(tmp_path / "a.txt", names, flux)
    assert len(list(tmp_path.iterdir())) == 2
