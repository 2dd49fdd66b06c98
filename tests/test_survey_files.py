"""Readers of published stamps: files made here in every format, damaged ones, and the real ones."""

import os

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from astro_utils import registry
from astro_utils.astropixel import PANSTARRS, astropixel_blocks, panstarrs_nanomaggies
from astro_utils.catalogs import MARGNET_FEATURES
from astro_utils.cutouts import Flag, nanomaggies_to_luptitudes
from astro_utils.samples import open_sample, validate, write_sample
from astro_utils.survey_files import (
    DL4ASTRO,
    LEGACY_SURVEY,
    legacysurvey_block,
    margnet_blocks,
    margnet_info,
    read_dl4astro,
    read_legacysurvey,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with sdss_stamps, legacysurvey and margnet",
)


def stored(path, blocks, info):
    """Write a sample, have it checked, and read it again."""
    write_sample(path, blocks, info)
    assert validate(path) == []
    with open_sample(path) as sample:
        return sample.info, sample.block()


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return path


# ------------------------------------------------------------------------------------------ dl4astro


def test_luptitudes_become_fluxes_and_labels_classes(tmp_path):
    rng = np.random.default_rng(0)
    flux = rng.normal(0, 1, (4, 5, 6, 6))
    flux[1, 2] = 0
    stamps = nanomaggies_to_luptitudes(flux).astype(np.float32)
    stamps[3, 0, 0, 0] = np.nan
    images = save(tmp_path / "images.npy", stamps)
    block = read_dl4astro(images, save(tmp_path / "labels.npy", np.array([1.0, -1.0, -1.0, 1.0])))
    flux[3, 0, 0, 0] = 0
    np.testing.assert_allclose(block.images, flux, atol=1e-5)
    assert block.images.dtype == np.float32
    assert block.catalogue["class"].tolist() == ["STAR", "GALAXY", "GALAXY", "STAR"]
    # The stamp of zeros has been through magnitudes in single precision, and is not exactly zero any more.
    assert block.catalogue["flags"].tolist() == [0, 0, 0, Flag.NAN_PIXELS]
    assert block.catalogue["ra"].isna().all() and "NaN" in block.columns["ra"].description


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        ((4, 3, 6, 6), [1, 1, 1, 1], r"images.npy: float64 of shape \(4, 3, 6, 6\); expected floats"),
        ((4, 5, 6), [1, 1, 1, 1], r"images.npy: .*expected floats, \(N, 5, ny, nx\)"),
        ((4, 5, 6, 6), [1, 1, 1], r"labels.npy: shape \(3,\); expected one label per image, \(4,\)"),
        ((4, 5, 6, 6), [1, 0, -1, 1], "labels.npy: label 0 is neither 1"),
    ],
)
def test_other_arrays_are_refused(tmp_path, shape, labels, message):
    images = save(tmp_path / "images.npy", np.full(shape, 24.0))
    with pytest.raises(ValueError, match=message):
        read_dl4astro(images, save(tmp_path / "labels.npy", np.array(labels)))


# ------------------------------------------------------------------------------------------- MargNet


def margnet_arrays(n=10, classes=3):
    rng = np.random.default_rng(1)
    objid = 2 << 59 | 301 << 48 | 4510 << 32 | 4 << 29 | (30 + np.arange(n) // 4) << 16 | np.arange(n)
    return {
        "X": rng.normal(0, 1, (n, 32, 32, 5)),
        "dnnx": rng.uniform(0, 20, (n, 24)),
        "objlist": objid,
        "y": np.eye(classes, dtype=np.float32)[np.arange(n) % classes],
    }


def margnet_folder(folder, arrays, experiment="sg_exp3"):
    for part, array in arrays.items():
        save(folder / f"{part}_{experiment}.npy", array)
    return folder


def test_margnet_comes_in_blocks_that_join_to_the_whole(tmp_path):
    arrays = margnet_arrays()
    blocks = list(margnet_blocks(margnet_folder(tmp_path, arrays), "sg_exp3", block_size=4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    images = np.concatenate([block.images for block in blocks])
    np.testing.assert_array_equal(images, arrays["X"].transpose(0, 3, 1, 2).astype(np.float32))
    table = pd.concat([block.catalogue for block in blocks], ignore_index=True)
    np.testing.assert_array_equal(table[list(MARGNET_FEATURES)], arrays["dnnx"])
    np.testing.assert_array_equal(table["object_id"], arrays["objlist"])
    assert table["class"].tolist() == (["GALAXY", "QSO", "STAR"] * 4)[:10]
    assert table["field"].tolist() == [30] * 4 + [31] * 4 + [32] * 2
    assert (table[["run", "camcol"]] == [4510, 4]).all(axis=None) and table["ra"].isna().all()
    columns = blocks[0].columns
    assert set(columns) == set(table)
    assert (columns["radius_u"].unit, columns["g_r"].unit) == ("arcsec", "mag")


def test_margnet_goes_into_a_sample_and_comes_back(tmp_path):
    arrays = margnet_arrays()
    arrays["X"][2, 3, 4, 1] = np.nan
    arrays["X"][5, :, :, 0] = 0
    folder = margnet_folder(tmp_path / "margnet", arrays)
    blocks = margnet_blocks(folder, "sg_exp3", block_size=3)
    info, block = stored(tmp_path / "sample.h5", blocks, margnet_info())
    assert info.provenance["assumed"].startswith("pixels are in nanomaggy")
    assert info.bands == tuple("ugriz") and info.pixel_scale == 0.396
    assert len(block) == 10 and block.catalogue["class"][4] == "QSO"
    flags = block.catalogue["flags"]
    assert flags[2] == Flag.NAN_PIXELS and flags[5] == Flag.ALL_ZERO and (flags != 0).sum() == 2


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.eye(2)[[0, 1, 1]], ["GALAXY", "STAR", "STAR"]),
        (np.array(["QSO", "STAR", "GALAXY"], dtype=object), ["QSO", "STAR", "GALAXY"]),
        (np.array(["QSO", "STAR", "GALAXY"]), ["QSO", "STAR", "GALAXY"]),
    ],
)
def test_margnet_labels_are_onehot_or_words(tmp_path, labels, expected):
    folder = margnet_folder(tmp_path, margnet_arrays(3) | {"y": labels})
    (block,) = margnet_blocks(folder, "sg_exp3")
    assert block.catalogue["class"].tolist() == expected


def test_margnet_pixels_may_be_magnitudes(tmp_path):
    arrays = margnet_arrays(3)
    flux = np.moveaxis(arrays["X"], -1, 1)
    arrays["X"] = np.moveaxis(nanomaggies_to_luptitudes(flux), 1, -1)
    folder = margnet_folder(tmp_path, arrays)
    (block,) = margnet_blocks(folder, "sg_exp3", unit="asinh magnitude")
    np.testing.assert_allclose(block.images, flux, atol=1e-5)
    assert "asinh magnitude" in margnet_info("asinh magnitude").provenance["assumed"]
    with pytest.raises(ValueError, match="unit is 'count'; expected one of 'nanomaggy', 'asinh magnitude'"):
        next(margnet_blocks(folder, "sg_exp3", unit="count"))
    with pytest.raises(ValueError, match="unit is 'count'"):
        margnet_info("count")


@pytest.mark.parametrize(
    ("part", "array", "message"),
    [
        ("X", np.zeros((10, 32, 32, 3)), r"X_sg_exp3.npy: .*\(10, 32, 32, 3\); expected \(10, ny, nx, 5\)"),
        ("X", np.zeros((9, 32, 32, 5)), r"X_sg_exp3.npy: .*expected \(10, ny, nx, 5\)"),
        ("X", np.zeros((10, 5)), r"X_sg_exp3.npy: .*expected \(10, ny, nx, 5\)"),
        ("X", np.full((10, 2, 2, 5), None), "X_sg_exp3.npy: not a readable .npy file"),
        ("dnnx", np.zeros((10, 23)), r"dnnx_sg_exp3.npy: .*expected \(10, 24\)"),
        ("y", np.zeros((9, 2)), r"y_sg_exp3.npy: shape \(9, 2\)"),
        ("y", np.zeros((10, 4)), r"y_sg_exp3.npy: .*one-hot \(N, 2\) or \(N, 3\)"),
        ("y", np.zeros((10, 2)), r"y_sg_exp3.npy: row 0 is \[0.0, 0.0\], not one-hot"),
        ("y", np.full(10, "galaxy"), "y_sg_exp3.npy: label 'galaxy' is none of GALAXY, QSO, STAR"),
        ("objlist", np.arange(10) + 1, "objlist_sg_exp3.npy: 1 is not an SDSS objid"),
    ],
)
def test_wrong_margnet_files_are_named(tmp_path, part, array, message):
    folder = margnet_folder(tmp_path, margnet_arrays() | {part: array})
    with pytest.raises(ValueError, match=message):
        next(margnet_blocks(folder, "sg_exp3"))


def test_missing_margnet_files_are_named(tmp_path):
    folder = margnet_folder(tmp_path, {"y": np.zeros(3)})
    with pytest.raises(FileNotFoundError, match=r"no X_sg_exp3.npy, dnnx_sg_exp3.npy, objlist_sg_exp3.npy"):
        next(margnet_blocks(folder, "sg_exp3"))


# ------------------------------------------------------------------------------------ Legacy Survey


def legacy_header(**cards):
    scale = 0.262 / 3600
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 2.0})
    header.update(
        {"CRPIX1": 20.5, "CRPIX2": 15.5, "CD1_1": -scale, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": scale}
    )
    header.update(cards)
    return header


def legacy_cube(path, bands="grz", ivar=False):
    cube = np.arange(len(bands) * 30 * 40, dtype=np.float32).reshape(len(bands), 30, 40)
    hdus = [fits.PrimaryHDU(cube, legacy_header(BANDS=bands, IMAGETYP="IMAGE"))]
    if ivar:
        hdus.append(fits.ImageHDU(cube + 1, legacy_header(BANDS=bands, IMAGETYP="INVVAR")))
    fits.HDUList(hdus).writeto(path)
    return cube


def legacy_planes(path, bands="grz"):
    hdus = [fits.PrimaryHDU()]
    for k, band in enumerate(bands):
        for kind, value in (("image", k), ("invvar", 10 + k)):
            header = legacy_header(BAND=band, IMAGETYP=kind)
            hdus.append(fits.ImageHDU(np.full((30, 40), value, np.float32), header))
    fits.HDUList(hdus).writeto(path)


def test_both_forms_of_legacy_survey_files_are_read(tmp_path):
    cube = legacy_cube(tmp_path / "cube.fits")
    image, ivar, wcs = read_legacysurvey(tmp_path / "cube.fits")
    np.testing.assert_array_equal(image, cube)
    assert ivar is None and image.dtype == np.float32
    np.testing.assert_allclose(wcs.all_world2pix(150.0, 2.0, 0), [19.5, 14.5], atol=1e-6)
    legacy_cube(tmp_path / "ivar.fits", bands="zrg", ivar=True)
    image, ivar, _ = read_legacysurvey(tmp_path / "ivar.fits")
    np.testing.assert_array_equal(image, cube[::-1])  # always in the order g, r, z
    np.testing.assert_array_equal(ivar, cube[::-1] + 1)
    legacy_planes(tmp_path / "planes.fits", bands="grzi")  # an additional band is left aside
    image, ivar, _ = read_legacysurvey(tmp_path / "planes.fits")
    assert image[:, 0, 0].tolist() == [0, 1, 2] and ivar[:, 5, 6].tolist() == [10, 11, 12]


def test_legacy_survey_stamps_are_cut_and_flagged(tmp_path):
    cube = legacy_cube(tmp_path / "a.fits")
    legacy_planes(tmp_path / "b.fits")
    wcs = read_legacysurvey(tmp_path / "a.fits")[2]
    ra, dec = wcs.all_pix2world([20.3, 20.0, 0.0, 500.0], [14.8, 15.0, 15.0, 15.0], 0)
    paths = [tmp_path / name for name in ("a.fits", "b.fits", "b.fits", "a.fits")]
    block = legacysurvey_block(paths, np.arange(4) + 70, ra, dec, size=8)
    np.testing.assert_array_equal(block.images[0], cube[:, 11:19, 16:24])
    table = block.catalogue
    assert table["object_id"].tolist() == [70, 71, 72, 73]
    empty = int(Flag.ALL_ZERO)
    assert table["flags"].tolist() == [0, empty, Flag.EDGE | empty, Flag.OUTSIDE | empty]  # b is zero in g
    assert table["outside"].tolist() == [0, 0, 0.5, 1]
    np.testing.assert_allclose(table.loc[0, ["dx", "dy"]].astype(float), [0.3, -0.2], atol=1e-6)
    assert np.isnan(table.loc[0, "ivar_g"]) and table.loc[1, "ivar_z"] == 12
    _, again = stored(tmp_path / "sample.h5", [block], LEGACY_SURVEY)
    np.testing.assert_array_equal(again.images, block.images)
    with pytest.raises(ValueError, match=r"\(4, 3, 4, 4\) files, identifiers, ra and dec"):
        legacysurvey_block(paths, np.arange(3), ra, dec, size=8)


@pytest.mark.parametrize(
    ("bands", "planes", "message"),
    [
        ("gr", 2, "x.fits: no image in z; expected g, r and z"),
        ("grz", 2, "x.fits: 2 planes for the bands 'grz'"),
        ("grzg", 4, "x.fits: more than one image in g"),
    ],
)
def test_wrong_bands_are_named(tmp_path, bands, planes, message):
    hdus = [fits.PrimaryHDU(np.zeros((planes, 4, 4)), legacy_header(BANDS=bands))]
    if bands == "grzg":
        hdus = [
            fits.PrimaryHDU(),
            *(fits.ImageHDU(np.zeros((4, 4)), legacy_header(BAND=band)) for band in bands),
        ]
    fits.HDUList(hdus).writeto(tmp_path / "x.fits")
    with pytest.raises(ValueError, match=message):
        read_legacysurvey(tmp_path / "x.fits")


def test_a_cutout_without_coordinates_or_cut_short_is_named(tmp_path):
    fits.PrimaryHDU(np.zeros((3, 4, 4)), fits.Header({"BANDS": "grz"})).writeto(tmp_path / "x.fits")
    with pytest.raises(ValueError, match=r"x\.fits: no WCS"):
        read_legacysurvey(tmp_path / "x.fits")
    legacy_cube(tmp_path / "y.fits")
    (tmp_path / "y.fits").write_bytes((tmp_path / "y.fits").read_bytes()[:4000])
    with pytest.raises(ValueError, match=r"y\.fits: not a whole FITS file"):
        read_legacysurvey(tmp_path / "y.fits")


# ---------------------------------------------------------------------------------------- ASTROPIXEL


def panstarrs_image(path, value, shape=(12, 12), **cards):
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.PrimaryHDU(np.full(shape, value, np.float32), legacy_header(EXPTIME=100.0, **cards)).writeto(path)


def galaxy(folder, identifier=594512843009714176, bands="grizy", wavelength=None, flux=None, shape=(12, 12)):
    home = folder / f"Galaxy_{identifier}"
    for k, band in enumerate(bands):
        panstarrs_image(home / "images" / f"ps1_{band}.fits", 1000.0 * (k + 1), shape)
    wavelength = 10 ** (3.6 + 1e-4 * np.arange(2000)) if wavelength is None else wavelength
    flux = np.random.default_rng(3).normal(10, 2, len(wavelength)) if flux is None else flux
    (home / "spectrum").mkdir(parents=True)
    pd.DataFrame({"wavelength": wavelength, "flux": flux}).to_csv(home / "spectrum" / "spec.csv", index=False)
    return wavelength, flux


def test_panstarrs_counts_become_nanomaggies():
    """One count per second is magnitude 25, that is a tenth of a nanomaggy."""
    image = np.array([[0.0, 100.0, -50.0]])
    header = fits.Header({"EXPTIME": 100.0})
    np.testing.assert_allclose(panstarrs_nanomaggies(image, header, "x.fits"), [[0, 0.1, -0.05]])
    header.update({"BSOFTEN": 30.0, "BOFFSET": 7.0})
    stored = 2.5 / np.log(10) * np.arcsinh((image - 7.0) / 60.0)
    np.testing.assert_allclose(panstarrs_nanomaggies(stored, header, "x.fits"), [[0, 0.1, -0.05]], atol=1e-12)
    with pytest.raises(ValueError, match=r"x\.fits: no EXPTIME in the header"):
        panstarrs_nanomaggies(image, fits.Header(), "x.fits")


def test_astropixel_galaxies_have_images_and_spectra(tmp_path):
    wavelength, flux = galaxy(tmp_path / "in")
    galaxy(
        tmp_path / "in", 13835058055282163712, bands="gry", flux=0.5 * flux
    )  # beyond int64; two bands missing
    blocks = list(astropixel_blocks(tmp_path / "in", block_size=1))
    assert [len(block) for block in blocks] == [1, 1]
    second, first = blocks  # in the order of the names
    np.testing.assert_allclose(first.images[0, :, 0, 0], [1, 2, 3, 4, 5])
    assert first.catalogue.loc[0, ["plate", "mjd", "fiberid"]].tolist() == [528, 52022, 137]
    assert first.catalogue.loc[0, "ra"] == pytest.approx(150.0, abs=0.01)
    assert second.catalogue["object_id"].tolist() == [13835058055282163712 - 2**64]
    assert second.catalogue["plate"].tolist() == [12288]
    assert second.catalogue["flags"].tolist() == [Flag.MISSING_BAND | Flag.ALL_ZERO]
    assert (second.images[0, [2, 3]] == 0).all() and (second.images[0, [0, 1, 4]] != 0).all()
    np.testing.assert_allclose(first.spectra.wavelength, wavelength)
    np.testing.assert_allclose(first.spectra.flux[0], flux, rtol=1e-6)
    np.testing.assert_allclose(second.spectra.flux[0], 0.5 * flux, rtol=1e-6)
    assert first.spectra.ivar[0, 0] ** -0.5 == pytest.approx(2, rel=0.05), (
        "the scatter of the made-up spectrum"
    )
    _, both = stored(tmp_path / "sample.h5", blocks, PANSTARRS)
    np.testing.assert_array_equal(both.spectra.flux[1], first.spectra.flux[0])


def test_astropixel_spectra_are_interpolated_where_there_are_data_and_only_there(tmp_path):
    rng = np.random.default_rng(4)
    measured = np.arange(4000.0, 5000.0)
    flux = 1e-3 * measured + rng.normal(0, 1e-4, 1000)
    flux[500] = np.nan
    galaxy(tmp_path, wavelength=measured, flux=flux)
    grid = np.arange(3900.5, 5100.0)
    (block,) = astropixel_blocks(tmp_path, wavelength=grid)
    covered = block.spectra.ivar[0] > 0
    expected = (grid > 4000) & (grid < 4999) & (np.abs(grid - 4500) > 1)
    np.testing.assert_array_equal(covered, expected)
    np.testing.assert_allclose(block.spectra.flux[0, covered], 1e-3 * grid[covered], atol=5e-4)
    assert (block.spectra.flux[0, ~covered] == 0).all()


def test_astropixel_images_of_another_unit_need_a_factor(tmp_path):
    galaxy(tmp_path, bands="")
    home = next(tmp_path.glob("Galaxy_*"))
    (home / "images").mkdir()
    fits.PrimaryHDU(np.full((8, 8), 3.0)).writeto(home / "images" / "i.fits")
    with pytest.raises(ValueError, match=r"i\.fits: no EXPTIME .* give nanomaggies_per_unit"):
        next(astropixel_blocks(tmp_path))
    (block,) = astropixel_blocks(tmp_path, nanomaggies_per_unit=0.5)
    assert (block.images[0, 2] == 1.5).all() and np.isnan(block.catalogue.loc[0, "ra"])


def test_wrong_astropixel_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folders Galaxy_<specObjID>"):
        next(astropixel_blocks(tmp_path))
    galaxy(tmp_path / "name", "NGC1")
    with pytest.raises(ValueError, match="Galaxy_NGC1: the name is not Galaxy_<specObjID>"):
        next(astropixel_blocks(tmp_path / "name"))
    galaxy(tmp_path / "none", bands="")
    with pytest.raises(FileNotFoundError, match="images: no images"):
        next(astropixel_blocks(tmp_path / "none"))
    galaxy(tmp_path / "size")
    panstarrs_image(tmp_path / "size/Galaxy_9/images/g.fits", 1.0, shape=(9, 9))
    with pytest.raises(ValueError, match=r"g\.fits: \(9, 9\) px; the images before have \(12, 12\) px"):
        next(astropixel_blocks(tmp_path / "size"))
    galaxy(tmp_path / "band")
    panstarrs_image(next((tmp_path / "band").iterdir()) / "images" / "warp.fits", 1.0)
    with pytest.raises(ValueError, match=r"warp\.fits: 0 filters in the name"):
        next(astropixel_blocks(tmp_path / "band"))
    galaxy(tmp_path / "twice")
    panstarrs_image(next((tmp_path / "twice").iterdir()) / "images" / "b-g.fits", 1.0)
    with pytest.raises(ValueError, match=r"ps1_g\.fits: a second image in g"):
        next(astropixel_blocks(tmp_path / "twice"))
    galaxy(tmp_path / "cube", shape=(2, 12, 12))
    with pytest.raises(ValueError, match="no two-dimensional image"):
        next(astropixel_blocks(tmp_path / "cube"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lambda,flux\n1,2\n", r"spec\.csv: expected numbers in the columns wavelength, flux"),
        ("wavelength,flux\n1,2\n2,x\n", r"spec\.csv: expected numbers"),
        ("", r"spec\.csv: expected numbers"),
        ("wavelength,flux\n5,1\n4,1\n3,1\n2,1\n1,1\n", r"spec\.csv: .*at least five wavelengths, increasing"),
        ("wavelength,flux\n1,1\n2,1\n", r"spec\.csv: .*at least five"),
    ],
)
def test_wrong_astropixel_spectra_are_named(tmp_path, text, message):
    galaxy(tmp_path)
    next(tmp_path.rglob("spec.csv")).write_text(text)
    with pytest.raises(ValueError, match=message):
        next(astropixel_blocks(tmp_path))


def test_a_galaxy_has_one_spectrum(tmp_path):
    galaxy(tmp_path)
    next(tmp_path.rglob("spec.csv")).unlink()
    with pytest.raises(ValueError, match="spectrum: 0 spectra; expected one"):
        next(astropixel_blocks(tmp_path))


# ------------------------------------------------------------------------------------- the real files


@needs_data
def test_real_sdss_stamps_hold_sources_on_an_empty_sky(tmp_path):
    files = registry.fetch("sdss_stamps", download=False)
    block = read_dl4astro(*(files[f"sdss_stamps/sdss_test_{part}.npy"] for part in ("images", "labels")))
    assert block.images.shape == (20, 5, 48, 48)
    assert block.catalogue["class"].value_counts().to_dict() == {"GALAXY": 15, "STAR": 5}
    sky = np.median(block.images, axis=(0, 2, 3))
    assert (np.abs(sky) < 0.15).all(), "nanomaggies per pixel, with the softening of SDSS"
    centre = block.images[:, 2, 20:28, 20:28].sum((1, 2))
    assert (22.5 - 2.5 * np.log10(centre)).max() < 23 and (centre > 0).all()
    info, again = stored(tmp_path / "stamps.h5", [block], DL4ASTRO)
    assert info.survey == "sdss" and again.catalogue["class"].tolist() == block.catalogue["class"].tolist()


@needs_data
def test_real_legacy_survey_image_has_its_scale_and_colours():
    path = registry.locate("legacysurvey/test_image.fits", download=False)
    image, ivar, wcs = read_legacysurvey(path)
    assert image.shape == (3, 256, 256) and ivar is None
    scale = np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix))) * 3600
    assert scale == pytest.approx(LEGACY_SURVEY.pixel_scale, abs=1e-3)
    block = legacysurvey_block([path], np.array([1]), np.array([357.9087]), np.array([-54.8817]), size=152)
    assert block.catalogue.loc[0, "flags"] == 0
    g, r, z = block.images[0, :, 60:92, 60:92].sum((1, 2))
    assert 0 < g < r < z, "galaxies are red"


@needs_data
def test_real_margnet_tables_fit_images_of_the_published_shape(tmp_path):
    """The published images are too large to carry; zeros in their place show that all else fits."""
    for part in ("dnnx", "objlist", "y"):
        path = registry.locate(f"margnet/{part}_sg_exp3.npy", download=False)
        (tmp_path / path.name).symlink_to(path.resolve())
    images = np.lib.format.open_memmap(tmp_path / "X_sg_exp3.npy", "w+", np.uint8, (19022, 32, 32, 5))
    del images
    block = next(margnet_blocks(tmp_path, "sg_exp3", block_size=1000))
    assert block.images.shape == (1000, 5, 32, 32) and (block.catalogue["flags"] == Flag.ALL_ZERO).all()
    assert set(block.catalogue["class"]) <= {"GALAXY", "STAR"}
    assert block.catalogue["dered_r"].between(15, 25).all()
