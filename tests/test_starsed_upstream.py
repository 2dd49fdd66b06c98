"""Readers of star files: published pickled dictionaries, hostile ones, and a user's own arrays."""

import os
import pickle
import re

import h5py
import numpy as np
import pytest

from astro_utils import registry
from astro_utils.legacy import UnsafePickleError
from astro_utils.starsed.stamps import noise_sigma, power_ratio
from astro_utils.starsed.star_samples import read_stars, save_stars
from astro_utils.starsed.templates import WAVELENGTH_NM, StellarSpectra, pickles_spectra
from astro_utils.starsed.upstream import read_own_stars, read_upstream_stars

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with wf_psf"
)
N, BINS, SIDE = 5, 3, 8


def content(**changes):
    """Make a dictionary of the published layout, of stars whose pixels tell their number."""
    rng = np.random.default_rng(0)
    stars = rng.uniform(1, 2, (N, SIDE, SIDE))
    stars /= stars.sum((1, 2), keepdims=True)
    mono = rng.uniform(1, 2, (N, BINS, SIDE, SIDE))
    slopes = np.exp(np.array([0, 1, 0, 2, 1])[:, None] * (WAVELENGTH_NM - 725) / 175)
    seds = np.stack(np.broadcast_arrays(WAVELENGTH_NM, slopes / slopes.sum(1, keepdims=True)), axis=2)
    made = {
        "stars": stars,
        "noisy_stars": stars + 1e-3 * rng.standard_normal(stars.shape),
        "mono_psfs": mono / mono.sum((2, 3), keepdims=True),
        "positions": rng.uniform(0, 1000, (N, 2)),
        "SEDs": seds,
        "zernike_coef": rng.standard_normal((N, 45, 1)),
        "C_poly": rng.standard_normal((45, 15)),
        "parameters": {"n_bins": BINS, "x_lims": [0, 1000.0], "euclid_obsc": True},
        "SED_ids": [0, 12, 3, 3, 7],
        "SNR": rng.uniform(20, 110, 3 * N),
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def write(path, made):
    np.save(path, np.array(made, dtype=object), allow_pickle=True)
    return path


# ------------------------------------------------------------------------------------------- the published


def test_a_file_of_the_published_layout_is_read(tmp_path):
    made = content()
    file = read_upstream_stars(write(tmp_path / "train_5.npy", made))
    stars = file.stars
    np.testing.assert_array_equal(stars.stamps, made["noisy_stars"].astype(np.float32))
    np.testing.assert_array_equal(stars.noiseless, made["stars"].astype(np.float32))
    np.testing.assert_array_equal(stars.positions, made["positions"])
    np.testing.assert_array_equal(file.mono, made["mono_psfs"].astype(np.float32))
    np.testing.assert_array_equal(file.zernikes, made["zernike_coef"][..., 0])
    np.testing.assert_array_equal(file.coefficients, made["C_poly"])
    np.testing.assert_array_equal(file.seds, made["SEDs"][..., 1])
    np.testing.assert_array_equal(file.wavelength_nm, WAVELENGTH_NM)
    assert stars.labels.tolist() == made["SED_ids"] and file.parameters == made["parameters"]
    # Ratios of more stars than there are, as in the published nested sets.
    np.testing.assert_array_equal(stars.snr, made["SNR"][:N])
    np.testing.assert_allclose(power_ratio(made["stars"], stars.sigma[:, None, None] ** 2), stars.snr)
    np.testing.assert_allclose(stars.flux, 1)
    assert stars.gain == np.inf and (stars.spectra == -1).all()


def test_noise_is_measured_where_the_ratio_is_not_told(tmp_path):
    made = content(SNR=None)
    stars = read_upstream_stars(write(tmp_path / "a.npy", made)).stars
    np.testing.assert_allclose(stars.sigma, (made["noisy_stars"] - made["stars"]).std((1, 2)), rtol=0.02)
    np.testing.assert_allclose(noise_sigma(made["stars"], stars.snr), stars.sigma)
    clean = read_upstream_stars(write(tmp_path / "b.npy", content(noisy_stars=None, SNR=None))).stars
    np.testing.assert_array_equal(clean.stamps, clean.noiseless)
    assert (clean.sigma == 0).all() and np.isinf(clean.snr).all()


def test_classes_follow_from_spectra_where_they_are_not_told(tmp_path):
    path = write(tmp_path / "a.npy", content(SED_ids=None))
    assert (read_upstream_stars(path).stars.labels == -1).all()
    slopes = np.exp(np.array([[0], [1], [2]]) * (WAVELENGTH_NM - 725) / 175)
    spectra = StellarSpectra(("a", "b", "c"), np.array([4, 2, 11]), slopes, "pickles")
    assert read_upstream_stars(path, spectra).stars.labels.tolist() == [4, 2, 4, 11, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stars": None}, "no key 'stars'; the file has noisy_stars, mono_psfs"),
        ({"positions": None}, "no key 'positions'"),
        ({"positions": np.zeros((N + 1, 2))}, r"key 'positions' has shape \(6, 2\); expected \(5, 2\)"),
        (
            {"noisy_stars": np.zeros((N, 8, 9))},
            r"key 'noisy_stars' has shape \(5, 8, 9\); expected \(5, 8, 8\)",
        ),
        ({"stars": np.full((N, 8, 8), np.nan)}, "key 'stars' has values that are not finite"),
        ({"stars": np.zeros((N, 8, 8), dtype=str)}, "key 'stars' holds <U1; expected numbers"),
        ({"mono_psfs": np.zeros((N, 8, 8))}, r"'mono_psfs' has shape \(5, 8, 8\); expected \(5, any, 8, 8\)"),
        ({"SED_ids": [0, 1, 2, 3, 13]}, "key 'SED_ids' has 13; expected classes 0 to 12"),
        ({"SED_ids": [0, 1, 2, 3, 0.5]}, "key 'SED_ids' has 0.5; expected classes 0 to 12"),
        ({"SNR": np.ones(4)}, "key 'SNR' has 4 values for 5 stars"),
        ({"SNR": np.array([1, 2, 3, 4, -5.0])}, "key 'SNR' has -5; expected ratios above 0"),
        ({"SNR": None, "noisy_stars": content()["stars"]}, "'noisy_stars' has no noise in star 0"),
        ({"zernike_coef": np.zeros((N, 45, 2))}, r"key 'zernike_coef' has shape \(5, 45, 2\)"),
        ({"parameters": [1]}, "key 'parameters' holds list; expected a dictionary"),
        (
            {"SEDs": content()["SEDs"] * np.arange(1, 6)[:, None, None]},
            "key 'SEDs' has stars on several grids",
        ),
    ],
)
def test_a_file_that_is_not_right_is_named_with_its_key(tmp_path, changes, message):
    path = write(tmp_path / "odd_stars.npy", content(**changes))
    with pytest.raises(ValueError, match=rf"odd_stars\.npy: .*{message}"):
        read_upstream_stars(path)


def test_an_array_is_not_a_file_of_stars(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match=r"a\.npy: holds ndarray; expected a pickled dictionary of arrays"):
        read_upstream_stars(tmp_path / "a.npy")


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("place", ["value", "top", "nested"])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, place):
    mark = tmp_path / "mark"
    bad = Hostile(mark)
    made = {"value": content(stars=bad), "top": bad, "nested": content(parameters={"n_bins": [bad]})}[place]
    with (tmp_path / "stars.npy").open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": ()}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickle.dumps(made))
    with pytest.raises(UnsafePickleError, match=r"stars\.npy: the pickle asks for posix.system"):
        read_upstream_stars(tmp_path / "stars.npy")
    assert not mark.exists()


@needs_data
def test_real_published_stars_are_read_and_have_all_classes():
    files = registry.fetch("wf_psf_stars", download=False)
    spectra = pickles_spectra()
    for name, noisy in (
        ("train_Euclid_res_200stars", False),
        ("conf_train_Euclid_res_200_stars_dim256", True),
    ):
        file = read_upstream_stars(files[f"wf_psf/{name}.npy"], spectra)
        stars = file.stars
        assert stars.stamps.shape == (160, 32, 32) and file.seds.shape == (160, 352)
        assert file.zernikes.shape == (160, 45) and file.coefficients.shape == (45, 6)
        assert file.parameters["n_bins"] == 20 and file.mono is None
        np.testing.assert_allclose(stars.flux, 1)
        assert set(stars.labels) == set(range(13))
        # Each of the 13 different spectra of the file is one class.
        different = np.unique(file.seds.round(12), axis=0, return_inverse=True)[1]
        assert len(set(zip(stars.labels.tolist(), different.tolist(), strict=True))) == 13
        if noisy:
            assert 10 < stars.snr.min() < 12 and 75 < stars.snr.max() < 80
        else:
            assert np.isinf(stars.snr).all()


def test_published_stars_become_a_sample(tmp_path):
    stars = read_upstream_stars(write(tmp_path / "a.npy", content())).stars
    path = save_stars(tmp_path / "a.h5", stars, {"file": "a.npy"})
    again = read_stars(path)
    for name in ("positions", "labels", "spectra", "snr", "flux", "sigma", "stamps", "noiseless"):
        np.testing.assert_array_equal(getattr(again, name), getattr(stars, name))
    assert again.gain == stars.gain == np.inf


# ------------------------------------------------------------------------------------------- a user's own


def own(**changes):
    rng = np.random.default_rng(1)
    mono = rng.uniform(0, 1, (N, BINS, SIDE, SIDE))
    made = {
        "stamps": rng.standard_normal((N, SIDE, SIDE)),
        "mono": mono / mono.sum((2, 3), keepdims=True),
        "positions": rng.uniform(0, 1000, (N, 2)),
        "sigma": rng.uniform(1, 2, N),
        "labels": np.array([0, -1, 12, 3, 3]),
    } | changes
    return {key: value for key, value in made.items() if value is not None}


def save_own(path, made):
    if path.suffix == ".npz":
        np.savez(path, **made)
    else:
        with h5py.File(path, "w") as file:
            for key, value in made.items():
                file[key] = value
    return path


@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
def test_own_stars_are_read(tmp_path, name):
    made = own(gain=np.array(2.0))
    file = read_own_stars(save_own(tmp_path / name, made))
    stars = file.stars
    np.testing.assert_array_equal(stars.stamps, made["stamps"].astype(np.float32))
    np.testing.assert_array_equal(file.mono, made["mono"].astype(np.float32))
    for key in ("positions", "sigma", "labels"):
        np.testing.assert_array_equal(getattr(stars, key), made[key])
    assert stars.noiseless is None and stars.gain == 2 and np.isnan(stars.flux).all()
    np.testing.assert_allclose(stars.variance(np.full((N, 1, 1), 3.0))[:, 0, 0], made["sigma"] ** 2 + 1.5)
    np.testing.assert_array_equal(stars.rows(slice(1, 3)).sigma, made["sigma"][1:3])
    assert stars.rows(slice(1, 3)).noiseless is None


def test_own_stars_need_little(tmp_path):
    made = {"stamps": own()["stamps"], "sigma": np.array(0.5), "positions": own()["positions"]}
    stars = read_own_stars(save_own(tmp_path / "mine.npz", made)).stars
    assert (stars.sigma == 0.5).all() and stars.sigma.shape == (N,) and (stars.labels == -1).all()
    assert stars.gain == np.inf and np.isnan(stars.snr).all()
    path = save_stars(tmp_path / "mine.h5", stars, {"file": "mine.npz"}, sky="real")
    assert read_stars(path).noiseless is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stamps": None}, "no key 'stamps'; the file has"),
        ({"sigma": None}, "no key 'sigma'; the file has"),
        ({"stamps": np.zeros((0, 8, 8)), "mono": None, "positions": None}, "key 'stamps' holds no star"),
        ({"sigma": np.ones(4)}, r"key 'sigma' has shape \(4,\); expected \(5,\) or \(\)"),
        ({"sigma": np.zeros(N)}, "key 'sigma' has 0; expected numbers above 0"),
        ({"sigma": np.ones((N, 1))}, r"key 'sigma' has shape \(5, 1\)"),
        ({"gain": np.array(-1.0)}, "key 'gain' has -1; expected numbers above 0"),
        ({"mono": None, "positions": None}, "neither key 'mono' nor 'positions'"),
        (
            {"mono": own()["mono"][:, :, :7]},
            r"key 'mono' has shape \(5, 3, 7, 8\); expected \(5, any, 8, 8\)",
        ),
        ({"mono": 2 * own()["mono"]}, "key 'mono' has a stamp of sum 2; expected 1"),
        ({"labels": np.array([0, 1, 2, 3, -2])}, "key 'labels' has -2; expected classes 0 to 12, or -1"),
        ({"label": np.zeros(N)}, "key 'label' is not known; expected stamps, positions"),
    ],
)
@pytest.mark.parametrize("name", ["mine.npz", "mine.h5"])
def test_own_stars_that_are_not_right_are_named_with_their_key(tmp_path, changes, message, name):
    path = save_own(tmp_path / name, own(**changes))
    with pytest.raises(ValueError, match=rf"{re.escape(name)}: .*{message}"):
        read_own_stars(path)


def test_objects_links_and_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "objects.npz", **own(labels=np.array([Hostile(tmp_path / "mark")] * N, dtype=object)))
    with pytest.raises(ValueError, match=r"objects\.npz: not a readable .npz or HDF5 file"):
        read_own_stars(tmp_path / "objects.npz")
    assert not (tmp_path / "mark").exists()
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "text.npz").write_text("no archive")
    for name in ("single.npy", "text.npz"):
        with pytest.raises(ValueError, match=rf"{name}: not a readable"):
            read_own_stars(tmp_path / name)
    save_own(tmp_path / "private.h5", {"secret": np.zeros((N, 8, 8))})
    with h5py.File(save_own(tmp_path / "linked.h5", own(stamps=None)), "a") as file:
        file["stamps"] = h5py.ExternalLink("private.h5", "secret")
    with pytest.raises(ValueError, match=r"linked\.h5: key 'stamps' is not a dataset stored in this file"):
        read_own_stars(tmp_path / "linked.h5")
    with pytest.raises(FileNotFoundError):
        read_own_stars(tmp_path / "absent.npz")
