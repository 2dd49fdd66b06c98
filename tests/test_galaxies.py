"""The real galaxies, and a reader's own: what comes in must be what its column says."""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.table import Table

from astro_utils.galaxies import (
    CATALOGUE_COLUMNS,
    as_catalogue,
    galaxy_sample,
    read_catalogue,
    sdss_galaxies,
    spectroscopic_redshifts,
)
from astro_utils.splits import sky_pixels

BANDS = "ugriz"
MEASURED = [f"{kind}_{what}_{b}" for kind in ("model", "petro") for what in ("mag", "err") for b in BANDS]
SAMPLE_COLUMNS = [*MEASURED, "extinction_r"]


@pytest.fixture(scope="module")
def sample():
    return galaxy_sample()


@pytest.fixture(scope="module")
def raw():
    with fits.open(sdss_galaxies()) as hdus:
        return {name: np.array(hdus[1].data[name], dtype=float) for name in hdus[1].columns.names}


@pytest.fixture(scope="module")
def rows(sample):
    """Every fortieth galaxy, and the one that 2MASS did not see."""
    return np.unique([*range(0, len(sample), 40), *np.flatnonzero(sample["j_mag"].isna())])


def test_sample_is_the_ten_thousand_galaxies_of_the_file(sample):
    assert len(sample) == 10_000
    assert sample["z"].min() == pytest.approx(0.0101, abs=1e-4)
    assert sample["z"].max() == pytest.approx(0.5833, abs=1e-4)
    assert sample["z"].median() == pytest.approx(0.0993, abs=1e-4)
    assert (sample["n_bad"] == 0).all()
    assert sample[MEASURED].notna().all(axis=None)
    assert sample["j_mag"].isna().sum() == 1, "one galaxy has no 2MASS photometry"
    np.testing.assert_array_equal(sample["pixel"], sky_pixels(sample["ra"], sample["dec"], 8))


@pytest.mark.parametrize("kind", ["model", "petro"])
def test_magnitudes_are_of_the_dereddened_fluxes_of_the_same_row_and_band(sample, raw, kind):
    for i, band in enumerate(BANDS):
        flux, ivar = (raw[f"{kind.upper()}{name}"][:, i] for name in ("FLUX", "FLUX_IVAR"))
        bright = flux > 20  # nanomaggies: asinh and logarithm agree
        expected = 22.5 - 2.5 * np.log10(flux[bright]) - raw["EXTINCTION"][bright, i]
        np.testing.assert_allclose(sample[f"{kind}_mag_{band}"][bright], expected, atol=2e-3)
        error = 2.5 / np.log(10) / (flux * np.sqrt(ivar))[bright]
        np.testing.assert_allclose(sample[f"{kind}_err_{band}"][bright], error, rtol=5e-3)
        assert bright.sum() > (400 if band == "u" else 9000)


def test_galaxies_look_like_galaxies(sample, raw):
    """Bands in the wrong order would show at once: galaxies are red, and dust dims blue light more."""
    for blue, red, low, high in (("u", "g", 1.0, 2.2), ("g", "r", 0.5, 1.1), ("r", "i", 0.25, 0.5)):
        colour = (sample[f"model_mag_{blue}"] - sample[f"model_mag_{red}"]).median()
        assert low < colour < high, f"median {blue} - {red} is {colour:.2f}"
    assert (np.diff(raw["EXTINCTION"], axis=1) < 0).all()
    np.testing.assert_allclose(raw["EXTINCTION"][:, 0] / raw["EXTINCTION"][:, 2], 5.155 / 2.751, rtol=0.02)
    np.testing.assert_array_equal(sample["extinction_r"], raw["EXTINCTION"][:, 2])
    for name in ("j_mag", "h_mag", "k_mag"):
        source = raw[f"{name[0].upper()}_M_EXT"]
        np.testing.assert_array_equal(sample[name], np.where(source > 0, source, np.nan))
    near_infrared = (sample["j_mag"] - sample["k_mag"]).median()
    assert 0.8 < near_infrared < 1.4, "J - K of galaxies, Vega"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "fits"])
def test_a_catalogue_in_any_format_becomes_the_sample(sample, rows, tmp_path, suffix):
    catalogue, path = as_catalogue(rows), tmp_path / f"galaxies.{suffix}"
    assert {*CATALOGUE_COLUMNS, "z_spec"} == set(catalogue)
    if suffix == "csv":
        path.write_text("# observed with SDSS\n" + catalogue.to_csv(index=False, float_format="%.5f"))
    elif suffix == "parquet":
        catalogue.to_parquet(path)
    else:
        Table.from_pandas(catalogue).write(path)
    read = read_catalogue(path)
    assert list(read) == SAMPLE_COLUMNS
    expected = sample.loc[rows, SAMPLE_COLUMNS].reset_index(drop=True)
    # Magnitudes of five decimals do not hold the flux of a galaxy that is far below its noise.
    pd.testing.assert_frame_equal(read, expected, atol=1e-3, rtol=1e-3 if suffix == "csv" else 1e-9)
    np.testing.assert_allclose(spectroscopic_redshifts(path), sample.loc[rows, "z"], atol=1e-5)


def test_observed_magnitudes_are_corrected_for_extinction_once(rows, tmp_path):
    catalogue, path = as_catalogue(rows), tmp_path / "galaxies.parquet"
    catalogue.to_parquet(path)
    read = read_catalogue(path)
    np.testing.assert_allclose(
        read["model_mag_r"], catalogue["modelMag_r"] - catalogue["extinction_r"], atol=1e-3
    )
    catalogue[[f"extinction_{b}" for b in BANDS]] = 0.0
    catalogue.to_parquet(path)
    np.testing.assert_allclose(read_catalogue(path)["model_mag_r"], catalogue["modelMag_r"], atol=1e-9)


def test_other_columns_and_their_order_do_not_matter(rows, tmp_path):
    catalogue = as_catalogue(rows[:20])
    catalogue.to_csv(tmp_path / "a.csv", index=False)
    catalogue[catalogue.columns[::-1]].assign(objID=1, comment="x").to_csv(tmp_path / "b.csv", index=False)
    pd.testing.assert_frame_equal(read_catalogue(tmp_path / "a.csv"), read_catalogue(tmp_path / "b.csv"))


FLUX = "not an asinh AB magnitude between 5 and 35; is it a flux"


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("modelMag_g", "bright", "'bright': not a number"),
        ("modelMag_u", np.nan, "nan.*: NaN or infinite"),
        ("petroMagErr_z", np.inf, "inf.*: NaN or infinite"),
        ("petroMag_i", -9999.0, r"-9999\.0.*: a sentinel for 'not measured'"),
        ("modelMagErr_r", -9999.0, r"-9999\.0.*: a sentinel for 'not measured'"),
        ("modelMag_r", 0.3, rf"0\.3.*: {FLUX}"),
        ("petroMag_g", 2500.0, rf"2500\.0.*: {FLUX}"),
        ("modelMag_z", -3.0, rf"-3\.0.*: {FLUX}"),
        ("modelMagErr_g", 0.0, r"0\.0.*: an error must be above zero"),
        ("petroMagErr_u", -0.1, r"-0\.1.*: an error must be above zero"),
        ("petroMagErr_r", 250.0, r"250\.0.*: too large for an error in mag; is it in flux units"),
        ("extinction_i", -0.2, r"-0\.2.*: outside 0 to 20 mag"),
        ("extinction_u", 21.0, r"21\.0.*: outside 0 to 20 mag"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_bad_value_is_named_with_its_column_and_first_row(tmp_path, column, value, why, suffix):
    catalogue, path = as_catalogue(np.arange(9)), tmp_path / f"mine.{suffix}"
    catalogue[column] = catalogue[column].astype(object if isinstance(value, str) else float)
    catalogue.loc[[4, 7], column] = value
    if suffix == "parquet" and isinstance(value, str):
        catalogue[column] = catalogue[column].astype(str)
    catalogue.to_csv(path, index=False) if suffix == "csv" else catalogue.to_parquet(path)
    with pytest.raises(ValueError, match=rf"mine\.{suffix}: column {column}, row 4 is .*{why}"):
        read_catalogue(path)


def test_missing_columns_are_all_named(tmp_path):
    path = tmp_path / "mine.csv"
    as_catalogue(np.arange(3)).drop(columns=["petroMag_z", "extinction_g"]).to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"mine\.csv: no column petroMag_z, extinction_g; expected modelMag_u"
    ):
        read_catalogue(path)


def test_a_catalogue_without_rows_is_refused(tmp_path):
    path = tmp_path / "mine.csv"
    as_catalogue(np.arange(3)).iloc[:0].to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"mine\.csv: no rows"):
        read_catalogue(path)


def test_an_unknown_format_and_an_absent_file_are_refused(tmp_path):
    path = tmp_path / "mine.xlsx"
    with pytest.raises(FileNotFoundError, match=r"mine\.xlsx: no such catalogue"):
        read_catalogue(path)
    path.touch()
    with pytest.raises(
        ValueError, match=r"mine\.xlsx: expected a name that ends in one of \.csv, \.parquet, \.fits"
    ):
        read_catalogue(path)


def test_a_catalogue_without_spectra_has_no_redshifts(tmp_path):
    path = tmp_path / "mine.csv"
    as_catalogue(np.arange(3)).drop(columns="z_spec").to_csv(path, index=False)
    assert spectroscopic_redshifts(path) is None


def test_a_missing_value_of_a_nullable_column_is_refused(tmp_path):
    path = tmp_path / "mine.parquet"
    catalogue = as_catalogue(np.arange(5)).convert_dtypes()
    catalogue.loc[3, "modelMag_g"] = pd.NA
    catalogue.to_parquet(path)
    with pytest.raises(ValueError, match=r"column modelMag_g, row 3 is .*NaN"):
        read_catalogue(path)


@pytest.mark.parametrize("value", ["faint", np.nan])
def test_a_bad_spectroscopic_redshift_is_named(tmp_path, value):
    path = tmp_path / "mine.csv"
    catalogue = as_catalogue(np.arange(5))
    catalogue["z_spec"] = catalogue["z_spec"].astype(object)
    catalogue.loc[3, "z_spec"] = value
    catalogue.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"mine\.csv: column z_spec, row 3 is .*not a redshift"):
        spectroscopic_redshifts(path)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "fits"])
def test_a_file_that_is_no_table_is_named(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"mine\.{suffix}: not a readable \.{suffix} table"):
        read_catalogue(path)


def test_a_bad_number_is_shown_as_a_number(tmp_path):
    path = tmp_path / "mine.csv"
    catalogue = as_catalogue(np.arange(5))
    catalogue.loc[3, "modelMag_g"] = -9999.0
    catalogue.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"row 3 is -9999\.0: a sentinel"):
        read_catalogue(path)
