"""A reader's own stars: with PSFs, without, and bad files."""

import numpy as np
import pytest

from astro_utils.psf import Optics
from astro_utils.starsed.exposures import Exposure, mono_stamps
from astro_utils.starsed.own import classify_own, example_file, read_stars_file
from astro_utils.starsed.psf_fits import FitBudget
from astro_utils.starsed.stamps import observe
from astro_utils.starsed.stars import StarConfig, draw_catalogue
from astro_utils.starsed.templates import CLASSES

OPTICS = Optics(pupil_size=32, stamp=16, bins=4, modes=11, field_degree=1, field_grid=3)
BUDGET = FitBudget(coarse=1, starts=1, iterations=25)


@pytest.fixture(scope="module")
def seen():
    exposure = Exposure(5, StarConfig(seed=5, n_train=150, n_test=0), optics=OPTICS, nodes=8)
    psf = exposure.true_psf()

    def stamps(positions, shifts=None):
        return mono_stamps(psf, positions)

    catalogue = draw_catalogue(exposure.stars, exposure.templates.classes)
    stars = observe(catalogue, exposure.stars, stamps, exposure.templates)
    return stars, mono_stamps(psf, stars.positions)


def test_types_with_given_psfs_do_not_depend_on_the_unit(seen, tmp_path):
    stars, mono = seen
    tables = []
    for unit in (1.0, 700.0):
        path = tmp_path / f"{unit}.npz"
        np.savez(path, stamps=unit * stars.stamps, sigma=unit * stars.sigma, mono=mono)
        tables.append(
            classify_own(read_stars_file(path), "stelib", OPTICS, tmp_path / "f.safetensors", BUDGET)
        )
    one, other = tables
    assert (one["type"] == other["type"]).all()
    np.testing.assert_allclose(one["probability"], other["probability"], atol=1e-3)
    truth = np.array(CLASSES)[stars.labels]
    assert (one["type"] == truth).mean() > 0.2  # by lot: 0.08
    assert (one["probability_within_one"] >= one["probability"]).all()
    assert not (tmp_path / "f.safetensors").exists()  # nothing was fitted


def test_without_psfs_one_is_fitted(seen, tmp_path):
    stars, _ = seen
    path = example_file(tmp_path / "mine.npz", 9 * stars.stamps, stars.positions, 9 * stars.sigma)
    types = classify_own(read_stars_file(path), "stelib", OPTICS, tmp_path / "f.safetensors", BUDGET)
    near = np.abs(types["type"].map(CLASSES.index).to_numpy() - stars.labels) <= 1
    assert (tmp_path / "f.safetensors").exists()
    assert near.mean() > 0.5  # by lot: 0.22
    np.testing.assert_allclose(types.filter(regex="^p_").sum(axis=1), 1)


def test_what_cannot_be_done_is_said(seen, tmp_path):
    stars, _ = seen
    with pytest.raises(FileNotFoundError, match=r"no.npz: no such file; expected stars as"):
        read_stars_file(tmp_path / "no.npz")
    path = example_file(tmp_path / "x.npz", stars.stamps[:, 2:-2, 2:-2], stars.positions, stars.sigma)
    with pytest.raises(ValueError, match=r"\(12, 12\) pixels and no PSFs; a PSF can be fitted to \(16, 16\)"):
        classify_own(read_stars_file(path), "stelib", OPTICS, tmp_path / "f.safetensors", BUDGET)
    path = example_file(tmp_path / "y.npz", -stars.stamps, stars.positions, stars.sigma)
    with pytest.raises(ValueError, match="star 0 has a flux of"):
        classify_own(read_stars_file(path), "stelib", OPTICS, tmp_path / "f.safetensors", BUDGET)
