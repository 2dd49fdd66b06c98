"""AstroCLIP's files in their published layouts, made here, and DESI coadds with photometry, real ones too."""

import os

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_spectra_files import arms, save, table

from astro_utils import registry
from astro_utils.astroclip_files import ASTROCLIP, astroclip_blocks, write_astroclip
from astro_utils.astroclip_inputs import file_images
from astro_utils.cutouts import Flag
from astro_utils.desi_photometry import LEGACY_EXTINCTION, desi_with_photometry
from astro_utils.samples import SampleInfo, open_sample, validate, write_sample
from astro_utils.spectra_files import DESI_WAVELENGTH

NEEDS_DATA = pytest.mark.skipif(
    not os.environ.get("ASTRO_UTILS_DATA"), reason="ASTRO_UTILS_DATA does not name a folder with desi"
)
BRICK = 607466


def galaxies(n, first=0, seed=0):
    """Rows in the published order of axes: (x, y, band)."""
    rng = np.random.default_rng(seed)
    return {
        "images": rng.normal(size=(n, 152, 152, 3)).astype(np.float32),
        "spectra": rng.normal(3, 0.5, (n, 7781, 1)).astype(np.float32),
        "redshifts": rng.uniform(0.05, 0.5, n).astype(np.float32),
        "targetids": 9011 << 42 | BRICK << 22 | (first + np.arange(n, dtype=np.int64)),
    }


def hdf5_file(path, groups):
    with h5py.File(path, "w") as file:
        for name, arrays in groups.items():
            for key, values in arrays.items():
                file.create_dataset(f"{name}/{key}", data=values)
    return path


def hub_table(rows, large=False):
    """Rows as the library of the hub stores them: nested lists."""

    def nested(values, dtype):
        if values.ndim == 1:
            return pa.array(values, dtype)
        inner = nested(values.reshape(-1, *values.shape[2:]), dtype)
        size = values.shape[1]
        if large:
            return pa.FixedSizeListArray.from_arrays(inner, size)
        offsets = pa.array(np.arange(0, len(inner) + 1, size, dtype=np.int32))
        return pa.ListArray.from_arrays(offsets, inner)

    return pa.table(
        {
            "image": nested(rows["images"], pa.float32()),
            "spectrum": nested(rows["spectra"], pa.float32()),
            "redshift": nested(rows["redshifts"], pa.float32()),
            "targetid": nested(rows["targetids"], pa.int64()),
        }
    )


def arrow_file(path, rows, new=pa.ipc.new_stream, **options):
    path.parent.mkdir(exist_ok=True, parents=True)
    with (
        pa.OSFile(str(path), "wb") as sink,
        new(sink, (found := hub_table(rows, **options)).schema) as writer,
    ):
        writer.write_table(found)
    return path


def together(blocks):
    blocks = list(blocks)
    images, flux, ivar = (
        np.concatenate([get(block) for block in blocks])
        for get in (lambda b: b.images, lambda b: b.spectra.flux, lambda b: b.spectra.ivar)
    )
    return pd.concat([block.catalogue for block in blocks], ignore_index=True), images, flux, ivar


# ------------------------------------------------------------------------------------- AstroCLIP's files


def test_hdf5_groups_become_a_sample(tmp_path):
    groups = {str(i): galaxies(3, 3 * i, seed=i) for i in range(9)} | {"9": galaxies(2, 27, seed=9)}
    groups["4"]["targetids"][2] = groups["0"]["targetids"][0]  # once for training, once for tests
    groups["5"]["spectra"] = groups["5"]["spectra"][:, :, 0]  # without the last axis
    groups["6"]["images"][1, 5, 7, 2] = np.nan
    groups["7"]["redshifts"][0] = -0.001
    source = hdf5_file(tmp_path / "astroclip_desi.1.1.5.h5", groups)
    counts = write_astroclip(source, tmp_path / "sample.h5", block_size=2)
    assert counts == {
        "objects": 29, "train": 19, "test": 10, "no split": 0, "duplicates": 1, "in both splits": 1,
        "flagged": 1, "redshift not above 0": 1,
    }  # fmt: skip
    assert validate(tmp_path / "sample.h5") == []
    missing = " ".join(validate(tmp_path / "sample.h5", deep=True))
    assert missing.count("object rows") == 2 and "ra is not" in missing and "dec is not" in missing
    with open_sample(tmp_path / "sample.h5") as sample:
        assert sample.info == ASTROCLIP and sample.info.sky == "real"
        found = sample.catalogue()
        images, spectra = sample.images(), sample.spectra()
    expected = np.concatenate([one["targetids"] for one in groups.values()])
    np.testing.assert_array_equal(found["object_id"], expected)
    np.testing.assert_array_equal(found["z"], np.concatenate([one["redshifts"] for one in groups.values()]))
    assert found["published_split"].tolist() == ["train", "train", "test"] * 9 + ["train", "test"]
    assert np.flatnonzero(found["duplicate"]).tolist() == [14]
    assert found[["ra", "dec"]].isna().all(axis=None) and (found["brickid"] == BRICK).all()
    assert np.flatnonzero(found["flags"]).tolist() == [19] and found["flags"][19] == Flag.NAN_PIXELS
    published = np.concatenate([one["images"] for one in groups.values()])
    assert images[19, 2, 7, 5] == 0, "axes x, y, band become band, y, x"
    np.testing.assert_array_equal(np.delete(images, 19, 0), np.delete(file_images(published).numpy(), 19, 0))
    np.testing.assert_array_equal(spectra.wavelength, DESI_WAVELENGTH)
    flux = np.concatenate([one["spectra"].reshape(-1, 7781) for one in groups.values()])
    np.testing.assert_array_equal(spectra.flux, flux)


def test_noise_is_that_between_pixels_and_broken_pixels_have_no_weight(tmp_path):
    rows, rng = galaxies(3), np.random.default_rng(8)
    shape = 5 * np.sin(DESI_WAVELENGTH / 300)  # slow, and much stronger than the noise
    rows["spectra"][0, :, 0] = shape + rng.normal(0, 0.25, 7781)
    rows["spectra"][1] = 0
    rows["spectra"][2, [10, 11], 0] = np.nan, np.inf
    source = hdf5_file(tmp_path / "a.hdf5", {"0": rows})
    _, _, flux, ivar = together(astroclip_blocks(source, groups=[0]))
    assert 1 / np.sqrt(ivar[0, 0]) == pytest.approx(0.25, rel=0.04)
    assert (ivar[0] == ivar[0, 0]).all() and (ivar[1] == 0).all()
    assert np.flatnonzero(ivar[2] == 0).tolist() == [10, 11] and (flux[2, [10, 11]] == 0).all()


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_files_of_the_hub_hold_the_same(tmp_path, kind):
    rows, test = galaxies(5), galaxies(2, 4, seed=1)  # the first test galaxy is the last of training
    if kind == "parquet":
        (tmp_path / "data").mkdir()
        pq.write_table(hub_table(rows), tmp_path / "data" / "train-00000-of-00001-ab.parquet")
        pq.write_table(hub_table(test), tmp_path / "data" / "test-00000-of-00001-cd.parquet")
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        arrow_file(tmp_path / "train" / "data-00000-of-00001.arrow", rows, new)
        arrow_file(tmp_path / "test" / "data-00000-of-00001.arrow", test, new, large=True)
        arrow_file(tmp_path / "train" / "cache-12ab.arrow", rows)
    found, images, flux, ivar = together(astroclip_blocks(tmp_path, block_size=2))
    order = np.argsort(found["published_split"] == "test", kind="stable")
    joined = {key: np.concatenate([rows[key], test[key]]) for key in rows}
    source = hdf5_file(tmp_path / "same.h5", {"0": joined})
    expected = together(astroclip_blocks(source, groups=[0]))
    assert found["published_split"][order].tolist() == ["train"] * 5 + ["test"] * 2
    names = ["object_id", "brickid", "z", "flags"]
    pd.testing.assert_frame_equal(found.loc[order, names].reset_index(drop=True), expected[0][names])
    assert found["duplicate"].sum() == 1
    for have, want in zip((images, flux, ivar), expected[1:], strict=True):
        np.testing.assert_array_equal(have[order], want)


def test_a_name_without_a_split_has_none(tmp_path):
    pq.write_table(hub_table(galaxies(1)), tmp_path / "latest.parquet")
    found = together(astroclip_blocks(tmp_path / "latest.parquet"))[0]
    assert found["published_split"].tolist() == [""]
    counts = write_astroclip(tmp_path / "latest.parquet", tmp_path / "out.h5")
    assert counts["no split"] == counts["objects"] == 1 and counts["train"] == 0


def changed(**arrays):
    return {"0": galaxies(2) | arrays}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"1": galaxies(2)}, r"no group 0; it has 1"),
        ({"0": {k: v for k, v in galaxies(2).items() if k != "spectra"}}, r"group 0 lacks spectra"),
        (
            changed(images=np.zeros((2, 96, 96, 3), np.float32)),
            r"images of group 0 is float32 of shape \(2, 96, 96, 3\); expected floats .*\(n, 152, 152, 3\)",
        ),
        (changed(spectra=np.zeros((2, 4000))), r"spectra of group 0 is .*\(n, 7781, 1\) or \(n, 7781\)"),
        (changed(targetids=np.zeros(2)), r"targetids of group 0 is float64 of .*expected integers"),
        (
            changed(redshifts=np.zeros(3, np.float32)),
            r"arrays of group 0 are not of one length: .*'redshifts': 3, 'targetids': 2",
        ),
    ],
)
def test_wrong_hdf5_files_are_named(tmp_path, groups, message):
    source = hdf5_file(tmp_path / "mine.h5", groups)
    with pytest.raises(ValueError, match=rf"mine\.h5: {message}"):
        list(astroclip_blocks(source, groups=[0]))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_wrong_files_of_the_hub_are_named(tmp_path, suffix):
    def written(name, found):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            pq.write_table(found, path)
        else:
            with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, found.schema) as writer:
                writer.write_table(found)
        return path

    rows = galaxies(2)
    good = hub_table(rows)
    ragged = pa.array([[1.0, 2.0], [3.0]], pa.list_(pa.float32()))
    cases = {
        r"no column spectrum; it has image, redshift, targetid": good.drop_columns("spectrum"),
        r"column image has rows of shape \(96, 96, 3\); expected \(152, 152, 3\)": hub_table(
            rows | {"images": np.zeros((2, 96, 96, 3), np.float32)}
        ),
        r"column spectrum has rows of unequal lengths or none": good.set_column(1, "spectrum", ragged),
        r"column targetid is not of whole numbers": good.set_column(3, "targetid", pa.array([1, None])),
    }
    for k, (message, found) in enumerate(cases.items()):
        with pytest.raises(ValueError, match=rf"case{k}\.{suffix}: {message}"):
            list(astroclip_blocks(written(f"case{k}", found)))


def test_foreign_and_missing_files_are_named(tmp_path):
    for suffix in ("h5", "parquet", "arrow"):
        path = tmp_path / f"not.{suffix}"
        with pytest.raises(FileNotFoundError, match=rf"not\.{suffix}: no such file"):
            list(astroclip_blocks(path))
        path.write_bytes(b"this is text, and long enough to be read as something else")
        with pytest.raises(ValueError, match=rf"not\.{suffix}: not a readable"):
            list(astroclip_blocks(path))
    with pytest.raises(ValueError, match=r"a\.csv: expected a folder, or a name that ends in"):
        list(astroclip_blocks(tmp_path / "a.csv"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no \.parquet or \.arrow files"):
        list(astroclip_blocks(tmp_path / "empty"))


# ------------------------------------------------------------------------ DESI spectra with photometry

IDS = [9011 << 42 | BRICK << 22 | number for number in range(4)]


def desi_files(folder, drop=()):
    """Four targets: fluxes in FIBERMAP, no fluxes, and two that FIBERMAP has otherwise than Tractor."""
    columns = {"TARGETID": IDS, "TARGET_RA": [10.0, 10.01, 10.02, 10.03], "TARGET_DEC": [30.0] * 4}
    for band in "GRZ":
        columns |= {f"FLUX_{band}": [2.0, 0.0, 2.0, 2.0], f"FLUX_IVAR_{band}": [100.0, 0.0, 100.0, 100.0]}
    columns |= {"EBV": [0.1, 0.1, 0.1, 0.1], "PHOTSYS": ["N", "", "S", "S"]}
    fibermap = table("FIBERMAP", **{k: v for k, v in columns.items() if k not in drop})
    found = table(
        "REDSHIFTS", TARGETID=IDS, Z=[0.1] * 4, ZERR=[1e-5] * 4, ZWARN=[0] * 4, SPECTYPE=["GALAXY"] * 4
    )
    coadd = save(folder / "coadd-1.fits", fibermap, *arms(n=4))
    return coadd, save(folder / "redrock-1.fits", found)


def tractor_file(folder, ids, ra, transmission=0.8):
    n = len(ids)
    columns = {"RELEASE": [i >> 42 for i in ids], "BRICKID": [i >> 22 & 0xFFFFF for i in ids]}
    columns |= {"OBJID": [i & 0x3FFFFF for i in ids], "TYPE": ["REX"] * n, "RA": ra, "DEC": [30.0] * n}
    for band in "GRZ":
        columns |= {f"FLUX_{band}": 5.0 + np.arange(n), f"FLUX_IVAR_{band}": [64.0] * n}
        columns[f"MW_TRANSMISSION_{band}"] = [transmission] * n
    columns |= {name: [0.1] * n for name in ("SERSIC", "SHAPE_R", "SHAPE_E1", "SHAPE_E2")}
    return save(folder / "tractor-1.fits", table("TRACTOR", **columns))


def test_photometry_is_matched_by_identifier_then_position(tmp_path):
    # The third target is found by its number though its row is far away, the fourth 0.8 arcsec away.
    other = 9010 << 42 | BRICK << 22 | 9
    ra = [40.0, 10.03 + 0.8 / 3600 / np.cos(np.radians(30))]
    block = desi_with_photometry(*desi_files(tmp_path), tractor_file(tmp_path, [IDS[2], other], ra))
    found = block.catalogue
    assert found["photometry"].tolist() == ["fibermap", "none", "tractor", "tractor"]
    assert found["system"].tolist() == ["BASS/MzLS", "", "DECam", "DECam"]
    for band, ratio in LEGACY_EXTINCTION.items():
        share = 10 ** (-0.04 * ratio)
        np.testing.assert_allclose(found[f"dered_flux_{band}"], [2 / share, np.nan, 6.25, 7.5])
        expected = [100 * share**2, 0, 64 * 0.64, 64 * 0.64]
        np.testing.assert_allclose(found[f"dered_flux_ivar_{band}"], expected)
        np.testing.assert_allclose(found[f"mw_transmission_{band}"], [share, share, 0.8, 0.8])
    assert set(block.columns) == set(found) and block.columns["dered_flux_g"].unit == "nanomaggy"
    write_sample(tmp_path / "sample.h5", [block], SampleInfo("desi", "real"))
    assert validate(tmp_path / "sample.h5", deep=True) == []


def test_beyond_an_arcsecond_is_another_source(tmp_path):
    other = 9010 << 42 | BRICK << 22 | 9
    ra = [10.03 + 1.2 / 3600 / np.cos(np.radians(30))]
    block = desi_with_photometry(*desi_files(tmp_path), tractor_file(tmp_path, [other], ra))
    assert block.catalogue["photometry"].tolist() == ["fibermap", "none", "fibermap", "fibermap"]


def test_wrong_photometry_is_named(tmp_path):
    files = desi_files(tmp_path, drop=("FLUX_G", "EBV"))
    with pytest.raises(ValueError, match=r"coadd-1\.fits: FIBERMAP lacks FLUX_G, EBV, and no Tractor file"):
        desi_with_photometry(*files)
    tractor = tractor_file(tmp_path, IDS[:1], [10.0])
    found = desi_with_photometry(*files, tractor).catalogue
    assert found["photometry"].tolist() == ["tractor", "none", "none", "none"]
    tractor.unlink()
    tractor = tractor_file(tmp_path, IDS[:1], [10.0], transmission=0.0)
    with pytest.raises(ValueError, match=r"tractor-1\.fits: mw_transmission is 0\.0; expected above 0"):
        desi_with_photometry(*files, tractor)


@NEEDS_DATA
def test_real_fibermap_and_tractor_agree():
    files = registry.fetch("desi_coadds", download=False)
    coadd, redrock = (files[f"desi/{kind}-4-80613-thru20210324.fits"] for kind in ("coadd", "redrock"))
    ours = desi_with_photometry(coadd, redrock).catalogue.iloc[0]
    theirs = desi_with_photometry(coadd, redrock, files["desi/tractor-1054p567.fits"]).catalogue.iloc[0]
    assert (ours["photometry"], theirs["photometry"]) == ("fibermap", "tractor")
    assert ours["targetid"] == 39633345008634465 and ours["system"] == "BASS/MzLS"
    for band, flux in (("g", 3.2370327), ("r", 5.947273), ("z", 8.337608)):
        assert theirs[f"dered_flux_{band}"] * theirs[f"mw_transmission_{band}"] == pytest.approx(flux)
        for name in (f"dered_flux_{band}", f"dered_flux_ivar_{band}", f"mw_transmission_{band}"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5)


@NEEDS_DATA
def test_a_real_target_from_outside_the_survey_has_no_photometry():
    files = registry.fetch("desi_coadds", download=False)
    paths = [files[f"desi/{kind}-special-dark-27247.fits"] for kind in ("coadd", "redrock")]
    row = desi_with_photometry(*paths, files["desi/tractor-1054p567.fits"]).catalogue.iloc[0]
    assert (
        row["photometry"] == "none" and row["system"] == "" and row["z"] == pytest.approx(0.00727, abs=1e-5)
    )
    assert np.isnan(row["dered_flux_r"]) and row["dered_flux_ivar_r"] == 0
