"""The real field: what its page shows with the files, and without them."""

import os

import numpy as np
import pytest

from astro_utils import registry
from astro_utils.results import published
from astro_utils.sky import real_field
from astro_utils.sky.real_field import RealField, figure, read_field, summary

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with sdss_frames"
)


@pytest.fixture
def without_files(monkeypatch):
    monkeypatch.setattr(registry, "available", lambda name: False)


def test_without_the_files_the_published_stars_stand_in_and_say_so(without_files):
    field = read_field(allow_download=False)
    assert not field.measured_here
    assert field.images.shape[1:] == (5, 32, 32) and np.isfinite(field.images).all()
    assert (np.diff(field.r) >= 0).all()


def test_the_published_stars_meet_the_target(without_files):
    table = summary(read_field(allow_download=False).stars)
    assert (table.loc[["g", "r", "i"], "median"].abs() < 0.03).all()
    assert (table.loc[["g", "r", "i"], "scatter"] < 0.05).all()
    assert (table["n"] >= 10).all()


def test_a_field_is_kept_and_read_back(without_files, tmp_path, monkeypatch):
    field = read_field(allow_download=False)
    kept = RealField(field.stars, field.images[:3], field.r[:3], 7, True)
    kept.save(tmp_path / "real_stars.csv", tmp_path / "real_stamps.npz")
    monkeypatch.setattr(real_field, "published", lambda study, name: tmp_path / name)
    again = read_field(allow_download=False)
    np.testing.assert_array_equal(again.images, kept.images)
    assert again.flagged == 7 and not again.measured_here
    np.testing.assert_allclose(again.stars["offset"], field.stars["offset"], atol=1e-4)


@needs_data
def test_with_the_files_the_same_stars_are_measured_anew():
    here = read_field(allow_download=False)
    assert here.measured_here
    table = summary(here.stars)
    assert (table.loc[["g", "r", "i"], "median"].abs() < 0.03).all()
    assert (table.loc[["g", "r", "i"], "scatter"] < 0.05).all()
    with np.load(published("sky", "real_stamps.npz"), allow_pickle=False) as kept:
        np.testing.assert_array_equal(here.images, kept["images"])


def test_the_figure_has_a_panel_per_band(without_files):
    drawn = figure(read_field(allow_download=False).stars)
    assert [ax.get_xlabel().split("$")[1] for ax in drawn.axes] == list("ugriz")
