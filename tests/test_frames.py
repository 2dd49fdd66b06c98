"""SDSS frames: files made here with known counts, sky and noise, damaged files, and one real field."""

import bz2
import gzip
import os

import numpy as np
import pytest
from astropy.io import fits

from astro_utils import registry
from astro_utils.frames import (
    SDSS_PIXEL_SCALE,
    celestial_wcs,
    dark_variance,
    field_frames,
    gain,
    load_fits,
    read_frame,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with sdss_frames"
)
SHAPE = (40, 64)
NAME = "frame-r-004510-4-0030.fits"


def frame_hdus(image=None, **cards):
    """Return the HDUs of a small frame whose sky is the plane 100 + column + 2 row, in counts."""
    ny, nx = SHAPE
    image = np.full(SHAPE, 0.5, np.float32) if image is None else image
    header = {"FILTER": "r", "RUN": 4510, "CAMCOL": 4, "FRAME": 32, "BUNIT": "nanomaggy"}
    header |= {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
    header |= {"CRPIX1": 33.0, "CRPIX2": 21.0, "CRVAL1": 200.0, "CRVAL2": 30.0}
    header |= {"CD1_1": 0.0, "CD1_2": SDSS_PIXEL_SCALE / 3600, "CD2_1": SDSS_PIXEL_SCALE / 3600, "CD2_2": 0.0}
    header["RADECSYS"] = "ICRS"  # outdated, as in the real files
    primary = fits.PrimaryHDU(image)
    primary.header.update(header | cards)
    # As in the real files: eight pixels of the frame to one of the table, centre to centre.
    x, y = (np.arange(nx) + 0.5) / 8 - 0.5, (np.arange(ny) + 0.5) / 8 - 0.5
    columns, rows = np.meshgrid(8 * np.arange(nx // 8) + 3.5, 8 * np.arange(ny // 8) + 3.5)
    table = 100 + columns + 2 * rows
    sky = fits.BinTableHDU.from_columns(
        [
            fits.Column("ALLSKY", f"{table.size}E", dim=f"({nx // 8},{ny // 8})", array=table[None]),
            fits.Column("XINTERP", f"{nx}E", array=x[None]),
            fits.Column("YINTERP", f"{ny}E", array=y[None]),
        ]
    )
    calibration = fits.ImageHDU(np.linspace(0.004, 0.006, nx, dtype=np.float32))
    astrometry = fits.BinTableHDU.from_columns([fits.Column("FIELD", "J", array=[30])])
    return fits.HDUList([primary, calibration, sky, astrometry])


def write(folder, hdus, name=NAME):
    hdus.writeto(folder / name)
    return folder / name


# ---------------------------------------------------------------------------------------- without the data


def test_a_frame_comes_back_as_written(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.02, SHAPE).astype(np.float32)
    frame = read_frame(write(tmp_path, frame_hdus(image)))
    np.testing.assert_array_equal(frame.image, image)
    assert frame.image.dtype == frame.sky.dtype == np.float32
    np.testing.assert_allclose(frame.calibration, np.linspace(0.004, 0.006, 64), rtol=1e-6)
    assert (frame.band, frame.run, frame.camcol, frame.field) == ("r", 4510, 4, 30)
    assert (frame.gain, frame.dark_variance) == (4.76, 1.3225)


@pytest.mark.parametrize(("suffix", "compress"), [(".bz2", bz2.compress), (".gz", gzip.compress)])
def test_compressed_files_are_read_alike(tmp_path, suffix, compress):
    path = write(tmp_path, frame_hdus())
    packed = path.with_name(NAME + suffix)
    packed.write_bytes(compress(path.read_bytes()))
    np.testing.assert_array_equal(read_frame(packed).sky, read_frame(path).sky)


def test_sky_is_interpolated_bilinearly_and_held_beyond_the_outermost_samples(tmp_path):
    sky = read_frame(write(tmp_path, frame_hdus())).sky
    rows, columns = np.indices(SHAPE)
    # The samples lie from column 3.5 to 59.5 and from row 3.5 to 35.5; linear between is exact for a plane.
    expected = 100 + np.clip(columns, 3.5, 59.5) + 2 * np.clip(rows, 3.5, 35.5)
    np.testing.assert_allclose(sky, expected, rtol=1e-6)


def test_pixels_are_where_the_header_puts_them(tmp_path):
    frame = read_frame(write(tmp_path, frame_hdus()))
    x, y = frame.wcs.all_world2pix([200.0, 200.0], [30.0, 30.0 + 10 * SDSS_PIXEL_SCALE / 3600], 0)
    np.testing.assert_allclose(x, [32, 42], atol=1e-4)  # columns run along the declination
    np.testing.assert_allclose(y, [20, 20], atol=1e-4)


def test_noise_is_that_of_the_electrons_and_of_the_chip(tmp_path):
    """Counts drawn with the camera's Poisson and read noise scatter as the inverse variance says."""
    rng = np.random.default_rng(1)
    hdus = frame_hdus()
    calibration = hdus[1].data
    sky = read_frame(write(tmp_path, hdus, "sky.fits")).sky
    images = []
    for _ in range(400):
        counts = rng.poisson((0.5 / calibration + sky) * 4.76) / 4.76 + rng.normal(0, np.sqrt(1.3225), SHAPE)
        images.append((counts - sky) * calibration)
    measured = np.var(images, axis=0)
    ivar = read_frame(write(tmp_path, hdus)).ivar()
    assert ivar.dtype == np.float32
    assert np.mean(measured * ivar) == pytest.approx(1, abs=0.005)
    assert np.std(measured * ivar) == pytest.approx(np.sqrt(2 / 400), rel=0.1)


def test_pixels_without_a_value_have_no_weight(tmp_path):
    image = np.zeros(SHAPE, np.float32)
    image[3, 4], image[5, 6] = np.nan, np.inf
    hdus = frame_hdus(image)
    hdus[1].data[7] = 0  # a dead column
    ivar = read_frame(write(tmp_path, hdus)).ivar()
    assert ivar[3, 4] == ivar[5, 6] == 0 and (ivar[:, 7] == 0).all()
    assert (np.delete(ivar, [4, 6, 7], axis=1) > 0).all()


def test_gain_and_dark_variance_follow_the_chip_and_the_run():
    assert gain(1, "u", 94) == 1.62 and gain(6, "z", 8162) == 4.69
    assert [gain(2, "u", run) for run in (1100, 1101)] == [1.595, 1.825]
    assert [dark_variance(4, "z", run) for run in (1500, 1501)] == [9.61, 12.6025]
    assert [dark_variance(2, "i", run) for run in (1500, 1501)] == [5.76, 6.25]
    assert dark_variance(1, "g", 4510) == 15.6025
    for camcol, band in ((0, "r"), (7, "r"), (3, "y"), (3, "ug")):
        with pytest.raises(ValueError, match=f"no chip in camera column {camcol}, band '{band}'"):
            gain(camcol, band, 4510)


def without(hdus, key):
    del hdus[0].header[key]
    return hdus


def changed(hdus, number, hdu):
    hdus[number] = hdu
    return hdus


@pytest.mark.parametrize(
    ("hdus", "message"),
    [
        (frame_hdus()[:3], "3 HDUs; expected image, calibration, sky and astrometry"),
        (changed(frame_hdus(), 0, fits.PrimaryHDU()), "HDU 0 holds no two-dimensional image"),
        (changed(frame_hdus(), 1, fits.ImageHDU(np.ones(63))), r"HDU 1 has shape \(63,\); .* \(64,\)"),
        (changed(frame_hdus(), 1, fits.ImageHDU()), "HDU 1 has shape None"),
        (changed(frame_hdus(), 2, fits.ImageHDU(np.ones((5, 8)))), "HDU 2 is no table with a column ALLSKY"),
        (changed(frame_hdus(), 3, fits.ImageHDU()), "HDU 3 is no table with a column FIELD"),
        (without(frame_hdus(), "CTYPE1"), "no WCS, the header lacks CTYPE1"),
        (without(frame_hdus(), "CD1_1"), "no WCS, the header lacks CDELT1, CDELT2"),
        (frame_hdus(CD1_2=0.0), "no valid WCS"),
        (frame_hdus(CTYPE1="RA---TAN", CTYPE2="RA---TAN"), "no valid WCS"),
        (without(frame_hdus(), "RUN"), "the header lacks RUN"),
        (frame_hdus(BUNIT="counts"), "the image is in 'counts'; expected 'nanomaggy'"),
        (frame_hdus(FILTER="y"), "no chip in camera column 4, band 'y'"),
        (frame_hdus(np.zeros((41, 64), np.float32)), r"the sky table is .* \(40, 64\) px; .* \(41, 64\) px"),
    ],
)
def test_a_wrong_frame_is_named_with_its_fault(tmp_path, hdus, message):
    path = write(tmp_path, hdus)
    with pytest.raises(ValueError, match=rf"{NAME}: .*{message}"):
        read_frame(path)


@pytest.mark.parametrize("damage", ["cut", "cut and packed", "cut pack", "overwritten", "empty", "text"])
def test_a_damaged_file_is_named(tmp_path, damage):
    rng = np.random.default_rng(2)
    whole = write(tmp_path, frame_hdus(rng.normal(0, 1, SHAPE).astype(np.float32)), "whole.fits").read_bytes()
    packed = bz2.compress(whole)
    content = {
        "cut": whole[: len(whole) // 2],
        "cut and packed": bz2.compress(whole[: len(whole) // 2]),
        "cut pack": packed[: len(packed) // 2],
        "overwritten": packed[:1000] + bytes(64) + packed[1064:],
        "empty": b"",
        "text": b"404: Not Found\n",
    }[damage]
    path = tmp_path / NAME
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{NAME}: not a whole FITS file"):
        load_fits(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{NAME}: no such file"):
        read_frame(tmp_path / NAME)


def test_scale_and_rotation_may_stand_for_the_matrix():
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -20.0})
    header.update({"CRPIX1": 1.0, "CRPIX2": 1.0, "CDELT1": -0.25 / 3600, "CDELT2": 0.25 / 3600})
    north_up = celestial_wcs(header, "x.fits")
    np.testing.assert_allclose(north_up.all_world2pix(10.0, -20.0 + 1 / 3600, 0), [0, 4], atol=1e-4)
    # A rotation by a right angle; half of the matrix in each of the two spellings.
    header.update({"PC1_1": 0.0, "PC2_2": 0.0, "PC001002": 1.0, "PC002001": 1.0})
    turned = celestial_wcs(header, "x.fits")
    np.testing.assert_allclose(turned.all_world2pix(10.0, -20.0 + 1 / 3600, 0), [4, 0], atol=1e-4)


def test_frames_of_a_field_are_found_and_missing_ones_named(tmp_path):
    for band, suffix in (("g", ".fits"), ("r", ".fits.bz2"), ("i", ".fits"), ("i", ".fits.bz2")):
        (tmp_path / f"frame-{band}-000094-1-0101{suffix}").touch()
    found = field_frames(tmp_path, 94, 1, 101, "rgi")
    assert list(found) == ["r", "g", "i"]
    assert [path.name[-4:] for path in found.values()] == [".bz2", "fits", "fits"]
    with pytest.raises(FileNotFoundError, match=r"no frame-u-000094-1-0101.*, frame-z-000094-1-0101"):
        field_frames(tmp_path, 94, 1, 101)


# ------------------------------------------------------------------------------------------- with the data


@pytest.fixture(scope="module")
def real():
    files = registry.fetch("sdss_frames", download=False)
    return read_frame(files["sdss_frames/frame-r-004510-4-0030.fits.bz2"])


@needs_data
def test_real_frames_of_a_field_agree_on_it_although_their_headers_count_by_chip():
    folder = registry.locate("sdss_frames/frame-r-004510-4-0030.fits.bz2", download=False).parent
    for band, path in field_frames(folder, 4510, 4, 30).items():
        frame = read_frame(path)
        assert (frame.band, frame.run, frame.camcol, frame.field) == (band, 4510, 4, 30)


@needs_data
def test_real_frame_has_the_documented_form(real):
    assert real.image.shape == real.sky.shape == (1489, 2048) and real.calibration.shape == (2048,)
    assert (real.band, real.run, real.camcol, real.field) == ("r", 4510, 4, 30)
    scale = np.sqrt(np.abs(np.linalg.det(real.wcs.pixel_scale_matrix))) * 3600
    assert scale == pytest.approx(SDSS_PIXEL_SCALE, abs=1e-3)


@needs_data
def test_real_sky_is_flat_and_as_bright_as_the_night_sky(real):
    magnitude = 22.5 - 2.5 * np.log10(np.median(real.sky * real.calibration) / SDSS_PIXEL_SCALE**2)
    assert 20.5 < magnitude < 21.5  # mag per square arcsecond in r, at a dark site
    assert np.ptp(real.sky) < 0.01 * np.median(real.sky)


@needs_data
def test_real_noise_is_as_the_recipe_says(real):
    """Most pixels show no source: their scatter is that of the sky, chip by chip."""
    for row, column in ((100, 100), (100, 1500), (900, 700), (1200, 1800)):
        part = np.s_[row : row + 200, column : column + 200]
        values = real.image[part]
        scatter = 1.4826 * np.median(np.abs(values - np.median(values)))
        assert scatter * np.sqrt(np.median(real.ivar()[part])) == pytest.approx(1, abs=0.06)
