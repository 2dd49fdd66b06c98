"""Readers of spectra: files made here with known fluxes, damaged ones, and real SDSS and DESI spectra."""

import os

import numpy as np
import pytest
from astropy.io import fits

from astro_utils import registry
from astro_utils.samples import SampleInfo, open_sample, validate, write_sample
from astro_utils.spectra_files import (
    DESI_WAVELENGTH,
    SDSS_MASK,
    decode_sdss_specobjid,
    desi_block,
    read_tractor,
    sdss_spectra_block,
)

needs_data = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"),
    reason="ASTRO_UTILS_DATA does not name a folder with sdss_spectra and desi",
)


def table(name, **columns):
    codes = {"f": "D", "i": "K", "U": "20A"}
    made = [
        fits.Column(key, codes[np.asarray(column).dtype.kind], array=np.asarray(column))
        for key, column in columns.items()
    ]
    hdu = fits.BinTableHDU.from_columns(made)
    hdu.name = name
    return hdu


def save(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


# ----------------------------------------------------------------------------------------- SDSS, made here


def sdss_spectrum(path, first=35800, n=300, name="SPECOBJ", drop=(), shift=0.0, **changes):
    """Write a spectrum whose flux is the number of the pixel on the common grid."""
    number = first + np.arange(n)
    columns = {"flux": number.astype(float), "loglam": 1e-4 * (number + shift), "ivar": np.full(n, 4.0)}
    columns["and_mask"] = np.zeros(n, int)
    columns |= {key: changes[key] for key in columns if key in changes}
    coadd = table("COADD", **{key: values for key, values in columns.items() if key not in drop})
    row = {"PLATE": [528], "MJD": [52022], "FIBERID": [137], "RUN2D": ["26"], "CLASS": ["GALAXY "]}
    row |= {"SUBCLASS": [""], "Z": [0.0175], "Z_ERR": [1e-5], "ZWARNING": [0], "SN_MEDIAN_ALL": [61.3]}
    row |= {"PLUG_RA": [203.85], "PLUG_DEC": [1.41]}
    row |= {key: [value] for key, value in changes.items() if key in row}
    return save(path, coadd, table(name, **{key: value for key, value in row.items() if key not in drop}))


def test_spectra_are_put_on_one_grid_without_interpolation(tmp_path):
    paths = [
        sdss_spectrum(tmp_path / "a.fits", 35800, 300),
        sdss_spectrum(tmp_path / "b.fits", 35900, 250, name="SPALL", CLASS="STAR", PLATE=12288),
    ]
    block = sdss_spectra_block(paths)
    number = 35800 + np.arange(350)
    np.testing.assert_allclose(block.spectra.wavelength, 10 ** (1e-4 * number), rtol=1e-12)
    np.testing.assert_array_equal(block.spectra.flux[0], np.where(number < 36100, number, 0))
    np.testing.assert_array_equal(block.spectra.flux[1], np.where(number >= 35900, number, 0))
    np.testing.assert_array_equal(block.spectra.ivar > 0, block.spectra.flux > 0)
    assert block.images is None and set(block.columns) == set(block.catalogue)
    assert block.catalogue["class"].tolist() == ["GALAXY", "STAR"]
    assert (
        block.catalogue["z"].tolist() == [0.0175, 0.0175]
        and block.catalogue["sn_median"].tolist() == [61.3] * 2
    )
    parts = decode_sdss_specobjid(block.catalogue["object_id"])
    assert parts.to_numpy().tolist() == [[528, 52022, 137], [12288, 52022, 137]]
    assert block.catalogue["object_id"][1] < 0, "plates above 8191 do not fit into int64"


def test_a_given_range_cuts_and_extends(tmp_path):
    path = sdss_spectrum(tmp_path / "a.fits", 35800, 300)
    low, high = 10**3.59, 10**3.62
    block = sdss_spectra_block([path], (low, high))
    assert block.spectra.wavelength[0] >= low * (1 - 1e-12) and block.spectra.wavelength[-1] <= high * (
        1 + 1e-12
    )
    assert len(block.spectra.wavelength) == 301
    number = np.rint(1e4 * np.log10(block.spectra.wavelength)).astype(int)
    np.testing.assert_array_equal(block.spectra.flux[0], np.where(number < 36100, number, 0))


def test_masked_and_broken_pixels_have_no_weight(tmp_path):
    mask, flux, ivar = np.zeros(300, int), np.ones(300), np.full(300, 4.0)
    mask[:4] = 1 << 24, 1 << 22, 1 << 4, 1 << 23  # NODATA, NOSKY, MANYBADCOLUMNS, BRIGHTSKY
    flux[5], ivar[6], ivar[7] = np.nan, 0, np.inf
    block = sdss_spectra_block([sdss_spectrum(tmp_path / "a.fits", and_mask=mask, flux=flux, ivar=ivar)])
    dropped = np.flatnonzero(block.spectra.ivar[0] == 0)
    assert dropped.tolist() == [0, 1, 3, 5, 6, 7]
    assert (block.spectra.flux[0, dropped] == 0).all() and np.isfinite(block.spectra.flux).all()
    assert not SDSS_MASK & (1 << 4 | 1 << 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": 0.4}, "loglam is not on the common grid"),
        ({"loglam": 1e-4 * (35800 + np.arange(300)[::-1])}, "loglam is not on the common grid"),
        ({"drop": ("ivar",)}, "table COADD lacks ivar"),
        ({"drop": ("Z", "CLASS")}, "table SPECOBJ lacks CLASS, Z"),
        ({"name": "OTHER"}, "no table SPECOBJ or SPALL"),
        ({"RUN2D": "newest"}, "RUN2D is 'newest'; expected a number or v5_M_P"),
    ],
)
def test_wrong_spectra_are_named(tmp_path, changes, message):
    path = sdss_spectrum(tmp_path / "spec-0528-52022-0137.fits", **changes)
    with pytest.raises(ValueError, match=rf"spec-0528-52022-0137\.fits: {message}"):
        sdss_spectra_block([path])


def test_damaged_and_missing_spectra_are_named(tmp_path):
    path = sdss_spectrum(tmp_path / "a.fits")
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(ValueError, match=r"a\.fits: not a whole FITS file"):
        sdss_spectra_block([path])
    with pytest.raises(FileNotFoundError, match=r"b\.fits: no such file"):
        sdss_spectra_block([tmp_path / "b.fits"])
    with pytest.raises(ValueError, match="no files of spectra"):
        sdss_spectra_block([])


def test_identifiers_of_later_reductions(tmp_path):
    """Reduction v5_13_0 counts as 1300 (the bits below the date)."""
    path = sdss_spectrum(tmp_path / "a.fits", PLATE=3588, MJD=55184, FIBERID=1, RUN2D="v5_13_0")
    identifier = int(sdss_spectra_block([path]).catalogue["object_id"][0])
    assert identifier == 3588 << 50 | 1 << 38 | 5184 << 24 | 1300 << 10


# ----------------------------------------------------------------------------------------- DESI, made here


def arms(n=2, flux=(1.0, 3.0, 5.0), ivar=(1.0, 4.0, 2.0), masked=()):
    hdus = []
    for arm, start, stop, value, weight in zip(
        "BRZ", (0, 2700, 4900), (2751, 5026, 7781), flux, ivar, strict=True
    ):
        wavelength = DESI_WAVELENGTH[start:stop]
        mask = np.zeros((n, stop - start), np.int32)
        mask[:, [pixel - start for pixel in masked if start <= pixel < stop]] = 1
        parts = {"WAVELENGTH": wavelength, "MASK": mask}
        parts |= {"FLUX": np.full(mask.shape, value), "IVAR": np.full(mask.shape, weight)}
        hdus += [fits.ImageHDU(data, name=f"{arm}_{part}") for part, data in parts.items()]
    return hdus


def desi_files(folder, hdus=None, targets=(11, 12), redshifts=(12, 13, 11)):
    fibermap = table("FIBERMAP", TARGETID=list(targets), TARGET_RA=[1.0, 2.0], TARGET_DEC=[3.0, 4.0])
    found = table(
        "REDSHIFTS",
        TARGETID=list(redshifts),
        Z=[0.01 * one for one in redshifts],
        ZERR=[1e-5] * len(redshifts),
        ZWARN=[0, 4, 0][: len(redshifts)],
        SPECTYPE=["STAR", "QSO", "GALAXY"][: len(redshifts)],
    )
    coadd = save(folder / "coadd-1.fits", fibermap, *(arms() if hdus is None else hdus))
    return coadd, save(folder / "redrock-1.fits", found)


def test_arms_are_joined_by_inverse_variance(tmp_path):
    block = desi_block(*desi_files(tmp_path, arms(masked=(100, 2720))))
    np.testing.assert_array_equal(block.spectra.wavelength, DESI_WAVELENGTH)
    assert len(DESI_WAVELENGTH) == 7781 and DESI_WAVELENGTH[-1] == pytest.approx(9824)
    pixel = np.arange(7781)
    flux = np.select([pixel < 2700, pixel < 2751, pixel < 4900, pixel < 5026], [1, 13 / 5, 3, 22 / 6], 5.0)
    ivar = np.select([pixel < 2700, pixel < 2751, pixel < 4900, pixel < 5026], [1, 5, 4, 6], 2.0)
    for values in (flux, ivar):
        values[[100, 2720]] = 0  # masked in every arm that covers them
    np.testing.assert_allclose(block.spectra.flux, [flux, flux], rtol=1e-6)
    np.testing.assert_allclose(block.spectra.ivar, [ivar, ivar], rtol=1e-6)


def test_redshifts_are_matched_by_target(tmp_path):
    block = desi_block(*desi_files(tmp_path))
    assert block.catalogue["object_id"].tolist() == block.catalogue["targetid"].tolist() == [11, 12]
    assert block.catalogue["z"].tolist() == pytest.approx([0.11, 0.12])
    assert block.catalogue["spectype"].tolist() == ["GALAXY", "STAR"]
    assert block.catalogue["dec"].tolist() == [3.0, 4.0]
    write_sample(tmp_path / "sample.h5", [block], SampleInfo("desi", "real"))
    assert validate(tmp_path / "sample.h5", deep=True) == []
    with open_sample(tmp_path / "sample.h5") as sample:
        np.testing.assert_array_equal(sample.spectra().flux, block.spectra.flux)


def replaced(index, hdu):
    hdus = arms()
    hdus[index] = hdu
    return hdus


@pytest.mark.parametrize(
    ("hdus", "redshifts", "message"),
    [
        (arms(), (12, 13), r"redrock-1\.fits: no redshift of target 11, which is in coadd-1\.fits"),
        (arms()[:-1], (11, 12, 13), r"coadd-1\.fits: no extension Z_IVAR"),
        (arms(n=3), (11, 12, 13), r"coadd-1\.fits: flux, ivar and mask of B are .*; expected \(2, 2751\)"),
        (
            replaced(0, fits.ImageHDU(DESI_WAVELENGTH[:2751] + 0.3, name="B_WAVELENGTH")),
            (11, 12, 13),
            r"coadd-1\.fits: wavelengths of B are not on the grid",
        ),
    ],
)
def test_wrong_coadds_are_named(tmp_path, hdus, redshifts, message):
    with pytest.raises(ValueError, match=message):
        desi_block(*desi_files(tmp_path, hdus, redshifts=redshifts))


def test_tractor_rows_have_the_identifier_of_desi(tmp_path):
    numbers = {f"{name}_{band}": [0.5] for name in ("FLUX", "FLUX_IVAR", "MW_TRANSMISSION") for band in "GRZ"}
    numbers |= {name: [0.1] for name in ("RA", "DEC", "SERSIC", "SHAPE_R", "SHAPE_E1", "SHAPE_E2")}
    columns = {"RELEASE": [9011], "BRICKID": [607466], "OBJID": [2657], "TYPE": ["REX"], **numbers}
    for k, name in enumerate(("", "TRACTOR")):
        rows, described = read_tractor(save(tmp_path / f"tractor-{k}.fits", table(name, **columns)))
        assert rows["object_id"].tolist() == [39633345008634465] and rows["morphology"].tolist() == ["REX"]
        assert set(rows) == set(described) and described["flux_ivar_r"].unit == "nanomaggy-2"
    columns.pop("SERSIC")
    with pytest.raises(ValueError, match=r"tractor-9\.fits: table TRACTOR lacks SERSIC"):
        read_tractor(save(tmp_path / "tractor-9.fits", table("", **columns)))


# ------------------------------------------------------------------------------------------- the real files


@pytest.fixture(scope="module")
def real_sdss():
    files = registry.fetch("sdss_spectra", download=False)
    return files, sdss_spectra_block(sorted(files.values()))


@needs_data
def test_real_sdss_spectra_keep_every_pixel(real_sdss, tmp_path):
    files, block = real_sdss
    write_sample(tmp_path / "sample.h5", [block], SampleInfo("sdss", "real"))
    assert validate(tmp_path / "sample.h5", deep=True) == []
    assert len(block) == 5 and (block.catalogue["class"] == "GALAXY").all()
    assert (
        block.catalogue["z"].between(0.011, 0.028).all()
        and block.catalogue["sn_median"].between(28, 62).all()
    )
    assert ((block.spectra.ivar > 0).mean(1) > 0.95).all()
    wavelength = block.spectra.wavelength
    for i, path in enumerate(sorted(files.values())):
        with fits.open(path) as hdus:
            coadd, identifier = hdus["COADD"].data, int(hdus["SPECOBJ"].data["SPECOBJID"][0])
        assert block.catalogue["object_id"][i] == identifier, (
            "put together from plate, date, fibre and reduction"
        )
        used = block.spectra.ivar[i] > 0
        nearest = np.abs(wavelength[used, None] - 10.0 ** coadd["loglam"][None]).argmin(1)
        np.testing.assert_array_equal(block.spectra.flux[i, used], coadd["flux"][nearest])
        np.testing.assert_array_equal(block.spectra.ivar[i, used], coadd["ivar"][nearest])
        # A pixel is 1e-4 in log10: single precision moves it by less than a five hundredth of that.
        assert np.abs(np.log10(wavelength[used]) - coadd["loglam"][nearest]).max() < 2e-7


@needs_data
def test_real_sdss_absorption_is_where_the_redshift_puts_it(real_sdss):
    """The sodium doublet of the first galaxy, 5891.58 and 5897.56 Angstrom in vacuum."""
    block = real_sdss[1]
    rest = block.spectra.wavelength / (1 + block.catalogue["z"][0])
    flux = block.spectra.flux[0]
    line, beside = np.abs(rest - 5894.6) < 4, (np.abs(rest - 5894.6) > 12) & (np.abs(rest - 5894.6) < 30)
    assert flux[line].mean() < 0.95 * np.median(flux[beside])


@needs_data
def test_real_desi_arms_agree_where_they_overlap(tmp_path):
    files = registry.fetch("desi_coadds", download=False)
    for name, z, target in (
        ("4-80613-thru20210324", 0.36874, 39633345008634465),
        ("special-dark-27247", 0.00727, 39089837499744649),
    ):
        coadd, redrock = (files[f"desi/{kind}-{name}.fits"] for kind in ("coadd", "redrock"))
        block = desi_block(coadd, redrock)
        assert block.catalogue["targetid"].tolist() == [target]
        assert block.catalogue["z"][0] == pytest.approx(z, abs=1e-5)
        assert block.catalogue["spectype"][0] == "GALAXY"
        assert block.spectra.flux.shape == (1, 7781) and (block.spectra.ivar > 0).all()
        with fits.open(coadd) as hdus:
            blue, red = hdus["B_FLUX"].data[0, -51:], hdus["R_FLUX"].data[0, :51]
            ivar = hdus["B_IVAR"].data[0, -51:], hdus["R_IVAR"].data[0, :51]
        pull = (blue - red) / np.sqrt(1 / ivar[0] + 1 / ivar[1])
        assert np.std(pull) < 1.5, "two arms measure the same light"
        joined = (blue * ivar[0] + red * ivar[1]) / (ivar[0] + ivar[1])
        np.testing.assert_allclose(block.spectra.flux[0, 2700:2751], joined, rtol=1e-4, atol=1e-5)


@needs_data
def test_real_tractor_row_belongs_to_the_real_spectrum():
    files = registry.fetch("desi_coadds", download=False)
    rows, _ = read_tractor(files["desi/tractor-1054p567.fits"])
    block = desi_block(*(files[f"desi/{k}-4-80613-thru20210324.fits"] for k in ("coadd", "redrock")))
    assert rows["object_id"].tolist() == block.catalogue["targetid"].tolist()
    np.testing.assert_allclose(rows[["ra", "dec"]], block.catalogue[["ra", "dec"]], atol=1e-6)
    assert 0 < rows["flux_g"][0] and rows["flux_r"][0] == pytest.approx(5.947273)
    assert rows["mw_transmission_g"].between(0.5, 1).all()
