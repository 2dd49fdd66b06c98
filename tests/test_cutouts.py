"""Stamps cut from frames made here: which pixels, where the source is in them, and what is flagged."""

import os

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from astro_utils import registry
from astro_utils.cutouts import (
    SKY_COLUMNS,
    Flag,
    asinh_stretch,
    cut_out,
    flag_images,
    frames_to_block,
    luptitudes_to_nanomaggies,
    nanomaggies_to_luptitudes,
    rgb,
)
from astro_utils.frames import Frame, celestial_wcs, field_frames, read_frame
from astro_utils.photometry import SDSS_SOFTENING, asinh_magnitudes
from astro_utils.samples import Column, SampleInfo, open_sample, validate, write_sample
from astro_utils.star_photometry import read_calibobj

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with sdss_frames"
)
SHAPE = (60, 80)
SCALE = 0.396 / 3600


def make_frame(band, shift=(0.0, 0.0), image=None, **keys):
    """Return a frame in which each pixel holds its own number, its coordinates shifted in x and y."""
    header = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 200.0, "CRVAL2": 30.0}
    header |= {"CRPIX1": 40.0 + shift[0], "CRPIX2": 30.0 + shift[1], "CDELT1": -SCALE, "CDELT2": SCALE}
    image = 1.0 + np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE) if image is None else image
    place = {"run": 4510, "camcol": 4, "field": 30} | keys
    flat = {"calibration": np.ones(SHAPE[1], np.float32), "sky": np.zeros(SHAPE, np.float32)}
    wcs = celestial_wcs(fits.Header(header), "made here")
    return Frame(image.astype(np.float32), wcs, band=band, gain=1.0, dark_variance=1.0, **flat, **place)


def sky(frame, x, y):
    return frame.wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)


# ---------------------------------------------------------------------------------------- without the data


@pytest.mark.parametrize("size", [7, 8])
def test_the_pixel_of_the_source_is_pixel_half_the_size(size):
    frame = make_frame("r")
    x, y = np.array([40.0, 21.4, 55.5]), np.array([30.0, 33.6, 12.49])
    images, table = cut_out({"r": frame}, *sky(frame, x, y), size=size, bands="r")
    column, row = np.array([40, 21, 56]), np.array([30, 34, 12])  # halves are rounded up
    assert images.shape == (3, 1, size, size) and images.dtype == np.float32
    np.testing.assert_array_equal(images[:, 0, size // 2, size // 2], frame.image[row, column])
    left, top = column[1] - size // 2, row[1] - size // 2
    np.testing.assert_array_equal(images[1, 0], frame.image[top : top + size, left : left + size])
    np.testing.assert_allclose(table["dx_r"], x - column, atol=1e-6)
    np.testing.assert_allclose(table["dy_r"], y - row, atol=1e-6)
    assert (table["outside_r"] == 0).all() and (table["flags"] == 0).all()


def test_each_band_is_cut_by_its_own_coordinates():
    frames = {"g": make_frame("g", shift=(3.25, -2.0)), "r": make_frame("r")}
    images, table = cut_out(frames, *sky(frames["r"], [40.0], [30.0]), size=5, bands="gr")
    assert images[0, 0, 2, 2] == frames["g"].image[28, 43] and images[0, 1, 2, 2] == frames["r"].image[30, 40]
    assert table.loc[0, "dx_g"] == pytest.approx(0.25, abs=1e-6)
    assert table.loc[0, "dx_r"] == pytest.approx(0, abs=1e-6)


def test_stamps_over_the_edge_are_filled_with_zeros_and_flagged():
    frame = make_frame("r")
    corner = cut_out({"r": frame}, *sky(frame, [0.0], [0.0]), size=6, bands="r")
    np.testing.assert_array_equal(corner[0][0, 0, 3:, 3:], frame.image[:3, :3])
    assert (corner[0][0, 0, :3] == 0).all() and (corner[0][0, 0, :, :3] == 0).all()
    assert corner[1].loc[0, "outside_r"] == 0.75 and corner[1].loc[0, "flags"] == Flag.EDGE


def test_positions_off_the_frame_stay_as_flagged_rows():
    frame = make_frame("r")
    ra, dec = sky(frame, [40.0, -500.0, 40.0], [30.0, 30.0, 1000.0])
    # The other side of the sky, no position at all, and one where the projection is far from linear.
    ra, dec = np.append(ra, [20.0, np.nan, 200.0]), np.append(dec, [-30.0, 30.0, -59.0])
    images, table = cut_out({"r": frame}, ra, dec, size=8, bands="r")
    assert table["flags"].tolist() == [0] + 5 * [Flag.OUTSIDE | Flag.ALL_ZERO]
    assert (images[1:] == 0).all() and (table["outside_r"][1:] == 1).all() and table["dx_r"][1:].isna().all()


def test_missing_bands_and_bad_pixels_are_zeros_with_a_flag():
    image = np.ones(SHAPE)
    image[30, 40], image[31, 40] = np.nan, np.inf
    frames = {"r": make_frame("r", image=image)}
    images, table = cut_out(frames, *sky(frames["r"], [40.0, 10.0], [30.0, 10.0]), size=8, bands="gr")
    missing = Flag.MISSING_BAND | Flag.ALL_ZERO
    assert table["flags"].tolist() == [missing | Flag.NAN_PIXELS, missing]
    assert (images[:, 0] == 0).all() and images[0, 1].sum() == 62 and images[1, 1].sum() == 64
    assert table["dx_g"].isna().all() and (table["outside_g"] == 1).all()


def test_frames_that_do_not_belong_together_are_refused():
    one = np.array([200.0]), np.array([30.0])
    with pytest.raises(ValueError, match="given for band 'g' is in 'r'"):
        cut_out({"g": make_frame("r")}, *one)
    with pytest.raises(ValueError, match=r"\(4510, 4, 30\), \(4510, 4, 31\)\]; expected those of one field"):
        cut_out({"g": make_frame("g"), "r": make_frame("r", field=31)}, *one)
    with pytest.raises(ValueError, match=r"of \(run, camcol, field\) \[\]"):
        cut_out({}, *one)
    with pytest.raises(ValueError, match=r"ra has shape \(1,\) and dec \(2,\)"):
        cut_out({"r": make_frame("r")}, np.zeros(1), np.zeros(2))


def test_no_positions_give_no_stamps():
    images, table = cut_out({"r": make_frame("r")}, np.zeros(0), np.zeros(0), bands="r")
    assert images.shape == (0, 1, 32, 32) and len(table) == 0


def test_all_zero_stamps_are_flagged_band_by_band():
    images = np.ones((3, 2, 4, 4))
    images[1, 1], images[2, 0, 0, 0] = 0, np.nan
    clean, flags = flag_images(images)
    assert flags.tolist() == [0, Flag.ALL_ZERO, Flag.NAN_PIXELS]
    assert clean.dtype == np.float32 and np.isfinite(clean).all() and np.isnan(images[2, 0, 0, 0])


def test_block_keeps_the_catalogue_and_says_what_its_columns_are(tmp_path):
    frames = {band: make_frame(band) for band in "ri"}
    ra, dec = sky(frames["r"], [40.0, 500.0], [30.0, 30.0])
    catalogue = pd.DataFrame({"object_id": [7, 8], "ra": ra, "dec": dec, "mag": [20.0, 21.0]}, index=[5, 3])
    columns = {"object_id": Column("", "number"), "mag": Column("mag", "magnitude"), **SKY_COLUMNS}
    block = frames_to_block(frames, catalogue, columns, size=8, bands="ri")
    assert block.images.shape == (2, 2, 8, 8) and block.spectra is None
    assert set(block.catalogue) == set(block.columns)
    assert block.catalogue["object_id"].tolist() == [7, 8] and block.catalogue["mag"].tolist() == [20.0, 21.0]
    assert (block.catalogue[["run", "camcol", "field"]] == [4510, 4, 30]).all(axis=None)
    assert (block.catalogue["flags"] == [0, Flag.OUTSIDE | Flag.ALL_ZERO]).all()
    assert (block.catalogue["flags"] & Flag.OUTSIDE != 0).tolist() == [False, True]
    write_sample(tmp_path / "sample.h5", [block], SampleInfo("sdss", "real", "ri", 0.396))
    assert validate(tmp_path / "sample.h5") == []
    with open_sample(tmp_path / "sample.h5") as sample:
        np.testing.assert_array_equal(sample.images(), block.images)
    assert "2 OUTSIDE" in block.columns["flags"].description and block.columns["dx_i"].unit == "pixel"


# ---------------------------------------------------------------------------------------------- scalings


def test_luptitudes_are_those_of_the_photometry_and_come_back():
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (3, 5, 4, 6)) * 10 ** rng.uniform(-3, 3, (3, 5, 4, 6))
    magnitudes = nanomaggies_to_luptitudes(images)
    by_object, _ = asinh_magnitudes(images[:, :, 2, 3], np.ones((3, 5)))
    np.testing.assert_allclose(magnitudes[:, :, 2, 3], by_object)
    np.testing.assert_allclose(luptitudes_to_nanomaggies(magnitudes), images, rtol=1e-8, atol=1e-10)
    empty = nanomaggies_to_luptitudes(np.zeros((5, 1, 1)))[:, 0, 0]
    np.testing.assert_allclose(empty, -2.5 * np.log10(SDSS_SOFTENING))
    np.testing.assert_allclose(empty, [24.63, 25.11, 24.80, 24.36, 22.83], atol=0.01)  # Stoughton et al. 2002


def test_asinh_stretch_is_linear_below_its_softening_and_logarithmic_above():
    images = np.array([[[1e-4]], [[1e4]]])
    stretched = asinh_stretch(images, np.array([0.1, 0.5]))
    np.testing.assert_allclose(stretched[:, 0, 0], [1e-3, np.log(4e4)], rtol=1e-6)
    np.testing.assert_allclose(0.1 * np.sinh(asinh_stretch(images, 0.1)), images)


def test_colours_do_not_depend_on_brightness_and_channels_are_chosen_by_name():
    image = np.zeros((5, 1, 3))
    image[2], image[3] = [1.0, 0.1, 0.01], [2.0, 0.2, 0.02]  # r, i: one colour, three brightnesses
    picture = rgb(image, "ugriz", channels="irg")
    assert picture.shape == (1, 3, 3) and picture.dtype == np.uint8
    red, green, blue = picture[0].T.astype(float)
    assert (blue == 0).all() and red[0] > red[1] > red[2] > 0
    np.testing.assert_allclose(green / red, 0.5, atol=0.1)
    balanced = rgb(image, "ugriz", channels="irg", scale=(1.0, 2.0, 1.0))[0]
    np.testing.assert_array_equal(balanced[:, 0], balanced[:, 1])
    with pytest.raises(ValueError, match="no band y in the image; it has u, g, r, i, z"):
        rgb(image, "ugriz", channels="yrg")
    with pytest.raises(ValueError, match=r"shape \(5, 1, 3\); expected \(3, ny, nx\)"):
        rgb(image, "gri")


# ------------------------------------------------------------------------------------------- with the data


@needs_data
def test_real_stars_are_in_the_middle_of_their_stamps_in_every_band():
    files = registry.fetch("sdss_frames", download=False)
    stars = read_calibobj(files["sdss_frames/calibObj-004510-4-star.fits.gz"], field=30)
    folder = files["sdss_frames/frame-r-004510-4-0030.fits.bz2"].parent
    frames = {band: read_frame(path) for band, path in field_frames(folder, 4510, 4, 30).items()}
    stars = stars[stars["isolated"] & (stars["psf_flux_r"] > 20) & ~stars["saturated_r"]]
    catalogue = stars[["id", "ra", "dec"]].rename(columns={"id": "object_id"})
    columns = {"object_id": Column("", "number in the field"), **SKY_COLUMNS}
    block = frames_to_block(frames, catalogue, columns, size=33)
    assert len(block.catalogue) == len(stars) >= 10 and (block.catalogue["flags"] == 0).all()
    steps = np.arange(33) - 16
    for k, band in enumerate("ugriz"):
        if band == "u":  # red stars are faint there
            continue
        window = block.images[:, k] * (np.hypot(steps[:, None], steps) < 5)
        light = window.sum((1, 2))
        x, y = (window.sum(1) @ steps) / light, (window.sum(2) @ steps) / light
        # The coordinates of the frames are good to about 0.2 px; bands differ from each other by several.
        assert np.median(np.hypot(x - block.catalogue[f"dx_{band}"], y - block.catalogue[f"dy_{band}"])) < 0.4
    good = block.catalogue["outside_r"] == 0
    bright = block.images[good, 2].sum((1, 2)) / stars["psf_flux_r"].to_numpy()[good]
    assert np.median(bright) == pytest.approx(1, abs=0.1)
