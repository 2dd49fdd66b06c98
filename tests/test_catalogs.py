"""Readers of real catalogues, on tables made here and on the real one."""

import os

import numpy as np
import pandas as pd
import pytest

from astro_utils.catalogs import MARGNET_FEATURES, compactness, decode_sdss_objid, read_margnet
from astro_utils.paths import project_root
from astro_utils.photometry import SDSS_BANDS

REAL_DATA = os.environ.get("ASTRO_UTILS_DATA")
NAMES = [f"margnet/{part}_sg_exp3.npy" for part in ("dnnx", "y", "objlist")]
PARTS = ["run", "rerun", "camcol", "field", "obj"]


def encode_objid(run, rerun, camcol, field, obj, sky_version=2):
    return sky_version << 59 | rerun << 48 | run << 32 | camcol << 29 | field << 16 | obj


def margnet_arrays(n=6):
    """Features, labels and identifiers of objects that obey the relations of the real table."""
    rng = np.random.default_rng(3)
    columns = {}
    for band in SDSS_BANDS:
        columns[f"dered_{band}"] = rng.uniform(19, 22, n)
        columns[f"radius_{band}"] = rng.uniform(0, 1, n)
        columns[f"psffwhm_{band}"] = rng.uniform(1, 2, n)
        columns[f"extinction_{band}"] = rng.uniform(0, 0.5, n)
    observed = {band: columns[f"dered_{band}"] + columns[f"extinction_{band}"] for band in SDSS_BANDS}
    for blue, red in ("ug", "gr", "ri", "iz"):
        columns[f"{blue}_{red}"] = observed[blue] - observed[red]
    labels = np.eye(2, dtype=np.float32)[np.arange(n) % 2]
    objid = np.array([encode_objid(4510, 301, 4, 30, k) for k in range(n)])
    return np.stack([columns[name] for name in MARGNET_FEATURES], axis=1), labels, objid


def write(folder, arrays):
    files = {name: folder / name.split("/")[1] for name in NAMES}
    for path, array in zip(files.values(), arrays, strict=True):
        np.save(path, array)
    return files


def real_margnet():
    if not REAL_DATA:
        pytest.skip("ASTRO_UTILS_DATA names no folder with the real files")
    return read_margnet({name: project_root() / REAL_DATA / name for name in NAMES})


def test_features_are_four_for_each_band_then_the_colours():
    assert len(MARGNET_FEATURES) == 24
    assert MARGNET_FEATURES[:5] == ("dered_u", "radius_u", "psffwhm_u", "extinction_u", "dered_g")
    assert MARGNET_FEATURES[19:] == ("extinction_z", "u_g", "g_r", "r_i", "i_z")


def test_margnet_table(tmp_path):
    features, labels, objid = margnet_arrays()
    table = read_margnet(write(tmp_path, (features, labels, objid)))
    assert list(table) == ["objid", "label", *MARGNET_FEATURES, "model_r", "run", "camcol", "field"]
    np.testing.assert_array_equal(table[list(MARGNET_FEATURES)], features)
    np.testing.assert_array_equal(table["objid"], objid)
    assert table["objid"].dtype == np.int64
    assert table["label"].tolist() == ["GALAXY", "STAR"] * 3
    np.testing.assert_allclose(table["model_r"], table["dered_r"] + table["extinction_r"])
    assert (table[["run", "camcol", "field"]] == [4510, 4, 30]).all(axis=None)
    units = table.attrs["units"]
    assert list(units) == list(table)
    assert (units["dered_u"], units["radius_z"], units["g_r"], units["objid"]) == ("mag", "arcsec", "mag", "")


def test_compactness_is_the_mean_over_the_bands():
    table = pd.DataFrame({f"radius_{b}": [1.0, 0.0] for b in SDSS_BANDS})
    for width, band in enumerate(SDSS_BANDS, start=1):
        table[f"psffwhm_{band}"] = float(width)
    np.testing.assert_allclose(compactness(table), [(1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5, 0])
    with pytest.raises(KeyError, match="radius_u"):
        compactness(table.drop(columns="radius_u"))


def damaged(part, row, value, column=None):
    arrays = [array.copy() for array in margnet_arrays()]
    place = row if column is None else (row, column)
    arrays[part][place] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (damaged(0, 4, np.nan, 8), r"dnnx_sg_exp3\.npy: column dered_r is nan in row 4, outside 5 to 35 mag"),
        (damaged(0, 2, -9999.0, 1), r"dnnx_sg_exp3\.npy: column radius_u is -9999\.0 in row 2"),
        (damaged(0, 1, 0.0, 6), r"dnnx_sg_exp3\.npy: column psffwhm_g is 0\.0 in row 1, .* arcsec"),
        (damaged(0, 3, np.inf, 19), r"dnnx_sg_exp3\.npy: column extinction_z is inf in row 3"),
        (damaged(0, 5, 3.0, 20), r"column u_g is 3\.0 in row 5, but the magnitudes give -?\d"),
        (damaged(1, 3, (1, 1)), r"y_sg_exp3\.npy: row 3 is \[1\.0, 1\.0\], not one-hot \[GALAXY, STAR\]"),
        (damaged(1, 0, (0.5, 0.5)), r"y_sg_exp3\.npy: row 0 is \[0\.5, 0\.5\], not one-hot"),
        (damaged(1, 2, np.nan), r"y_sg_exp3\.npy: row 2 is \[nan, nan\]"),
        (damaged(2, 1, margnet_arrays()[2][4]), r"objlist_sg_exp3\.npy: objid \d{19} occurs more than once"),
        (damaged(2, 1, 17), r"objlist_sg_exp3\.npy: 17 is not an SDSS objid"),
    ],
)
def test_damaged_values_are_named(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        read_margnet(write(tmp_path, arrays))


def test_columns_in_another_order_are_noticed(tmp_path):
    features, labels, objid = margnet_arrays()
    by_quantity = np.argsort([name.split("_")[0] for name in MARGNET_FEATURES], kind="stable")
    with pytest.raises(ValueError, match=r"dnnx_sg_exp3\.npy: column psffwhm_u is"):
        read_margnet(write(tmp_path, (features[:, by_quantity], labels, objid)))
    exchanged = features.copy()
    exchanged[:, [0, 4]] = features[:, [4, 0]]  # dered_u and dered_g: both plausible
    with pytest.raises(ValueError, match=r"column u_g is .*, but the magnitudes give"):
        read_margnet(write(tmp_path, (exchanged, labels, objid)))


def test_shapes_and_types_must_agree(tmp_path):
    features, labels, objid = margnet_arrays()
    with pytest.raises(ValueError, match=r"dnnx_sg_exp3\.npy: float64 of shape \(5, 24\), .*\(6, 24\)"):
        read_margnet(write(tmp_path, (features[:5], labels, objid)))
    with pytest.raises(ValueError, match=r"dnnx_sg_exp3\.npy: .*\(6, 23\)"):
        read_margnet(write(tmp_path, (features[:, :23], labels, objid)))
    with pytest.raises(ValueError, match=r"y_sg_exp3\.npy: float64 of shape \(6, 3\)"):
        read_margnet(write(tmp_path, (features, np.eye(6, 3), objid)))
    with pytest.raises(ValueError, match=r"y_sg_exp3\.npy: <U6"):
        read_margnet(write(tmp_path, (features, np.full((6, 2), "GALAXY"), objid)))
    with pytest.raises(ValueError, match=r"objlist_sg_exp3\.npy: objid must be \(N,\) integers, not float64"):
        read_margnet(write(tmp_path, (features, labels, np.arange(6.0))))


def test_missing_files_are_named(tmp_path):
    files = write(tmp_path, margnet_arrays())
    with pytest.raises(ValueError, match=r"files lacks margnet/y_sg_exp3\.npy: .*margnet_tables"):
        read_margnet({name: path for name, path in files.items() if "y_" not in name})
    files[NAMES[0]].write_bytes(files[NAMES[0]].read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"dnnx_sg_exp3\.npy: not a readable \.npy file"):
        read_margnet(files)


def test_objid_of_a_known_object():
    # The example in the documentation of pydl.pydlutils.sdss.sdss_objid.
    parts = decode_sdss_objid([1237661382772195474])
    assert parts.loc[0].to_dict() == {"run": 3704, "rerun": 301, "camcol": 3, "field": 91, "obj": 146}


def test_objids_at_the_ends_of_their_ranges():
    rows = [(65_535, 2047, 6, 4095, 65_535), (0, 0, 1, 0, 0)]
    parts = decode_sdss_objid(np.array([encode_objid(*row) for row in rows]))
    assert [tuple(row) for row in parts[PARTS].to_numpy()] == rows
    first_of_run = decode_sdss_objid(np.array([encode_objid(*rows[1]) | 1 << 28], dtype=np.uint64))
    assert first_of_run[PARTS].to_numpy().tolist() == [list(rows[1])]


@pytest.mark.parametrize(
    ("objid", "message"),
    [
        ([1.2e18], "not float64"),
        (["1237661382772195474"], "must be .* integers"),
        (1237661382772195474, r"of shape \(\)"),
        ([-1], "-1 is not an SDSS objid"),
        ([0], "0 is not an SDSS objid"),
        ([encode_objid(1, 301, 7, 1, 1)], "camera column from 1 to 6"),
    ],
)
def test_what_is_no_objid(objid, message):
    with pytest.raises(ValueError, match=message):
        decode_sdss_objid(objid)


def test_the_real_table():
    table = real_margnet()
    assert len(table) == 19_022
    assert table["label"].value_counts().to_dict() == {"GALAXY": 9511, "STAR": 9511}
    parts = decode_sdss_objid(table["objid"])
    np.testing.assert_array_equal(encode_objid(*parts[PARTS].to_numpy().T), table["objid"])
    assert set(parts["rerun"]) == {301}
    assert set(table["camcol"]) == {1, 2, 3, 4, 5, 6}
    assert table["run"].nunique() == 469

    # The two cuts of the sample, and the extinction curve that shows each column to be what it is called.
    assert 20 < table["model_r"].min() < 20.001
    assert 0.499 < compactness(table).max() <= 0.5
    for band, ratio in zip(SDSS_BANDS, (1.855, 1.446, 1, 0.743, 0.553), strict=True):
        np.testing.assert_allclose(table[f"extinction_{band}"] / table["extinction_r"], ratio, atol=1e-3)
    # Matched in class in each 0.1 mag of r, so that r alone says nothing.
    counts = table.groupby([(table["model_r"] * 10).astype(int), "label"]).size().unstack(fill_value=0)
    assert (counts["GALAXY"] == counts["STAR"]).all()
