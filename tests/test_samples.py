"""Samples: what is written is read, what is wrong is named, and nothing is on two sides of a split."""

import subprocess
import sys
import time
from dataclasses import replace

import astropy.units as u
import h5py
import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from astro_utils.sample_format import IMAGE_UNIT, SPECTRA_UNITS
from astro_utils.samples import (
    Block,
    Column,
    SampleError,
    SampleInfo,
    Spectra,
    concat,
    main,
    open_sample,
    require_valid,
    split,
    take,
    validate,
    write_sample,
)
from astro_utils.splits import sky_pixels

BANDS = ("u", "g", "r", "i", "z")
INFO = SampleInfo("sdss", "simulated", BANDS, 0.396, seed=3, provenance={"limits": (1, 2.5), "name": "é"})
COLUMNS = {
    "object_id": Column("", "identifier"),
    "ra": Column("deg", "right ascension, ICRS"),
    "dec": Column("deg", "declination, ICRS"),
    "z": Column("", "redshift"),
    "r_mag": Column("mag", "magnitude"),
    "class": Column("", "GALAXY, QSO or étoile"),
    "flags": Column("", "bits"),
    "good": Column("", "whether it is"),
}
WAVELENGTH = np.geomspace(3800, 9200, 37)


def block_of(n, start=0, size=6):
    """Objects whose every number tells its row, so that a shift or a swap shows."""
    rng = np.random.default_rng([start, n])
    row = start + np.arange(n)
    table = pd.DataFrame(
        {
            "object_id": 1237648720000000000 + row,
            "ra": rng.uniform(0, 360, n),
            "dec": np.degrees(np.arcsin(rng.uniform(-1, 1, n))),
            "z": np.where(row % 7 == 0, np.nan, rng.random(n)),
            "r_mag": rng.normal(20, 1, n).astype(np.float32),
            "class": [("GALAXY", "QSO", "étoile")[r % 3] for r in row],
            "flags": (row % 100).astype(np.uint8),
            "good": row % 2 == 0,
        }
    )
    images = rng.normal(0, 1, (n, len(BANDS), size, size)).astype(np.float32)
    images[:, :, 0, 0] = row[:, None] + np.arange(len(BANDS)) / 8
    flux = rng.normal(0, 1, (n, len(WAVELENGTH))).astype(np.float32)
    spectra = Spectra(WAVELENGTH, flux, (flux**2).astype(np.float32))
    return Block(table, COLUMNS, images, spectra)


def assert_blocks_equal(block, expected):
    assert_frame_equal(block.catalogue, expected.catalogue.reset_index(drop=True))
    assert dict(block.columns) == dict(expected.columns)
    np.testing.assert_array_equal(block.images, expected.images, strict=True)
    for name in ("wavelength", "flux", "ivar"):
        np.testing.assert_array_equal(
            getattr(block.spectra, name), getattr(expected.spectra, name), strict=True
        )


def rows_of(block, rows):
    spectra = Spectra(block.spectra.wavelength, block.spectra.flux[rows], block.spectra.ivar[rows])
    return Block(block.catalogue.iloc[rows], block.columns, block.images[rows], spectra)


@pytest.fixture(scope="module")
def whole():
    return block_of(330)


@pytest.fixture(scope="module")
def written(whole, tmp_path_factory):
    """A sample written in blocks that share no boundary with the chunks of 64 objects."""
    ends = np.cumsum([100, 1, 0, 63, 166])
    blocks = [
        rows_of(whole, np.arange(end - n, end)) for n, end in zip([100, 1, 0, 63, 166], ends, strict=True)
    ]
    return write_sample(tmp_path_factory.mktemp("samples") / "sample.h5", blocks, INFO)


@pytest.fixture
def damaged(written, tmp_path):
    """Return a function that damages a copy of the sample and returns its path."""

    def damage(change):
        path = tmp_path / "damaged.h5"
        path.write_bytes(written.read_bytes())
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    return damage


# ---------------------------------------------------------------------------------------- what is written


def test_units_are_what_they_say():
    magnitude = u.Magnitude((1 * u.Unit(IMAGE_UNIT)).to(u.AB, u.zero_point_flux(1 * u.AB)))
    assert magnitude.value == pytest.approx(22.5)
    assert u.Unit(SPECTRA_UNITS["flux"]) ** -2 == u.Unit(SPECTRA_UNITS["ivar"])


def test_what_is_read_is_what_was_written(written, whole):
    with open_sample(written) as sample:
        assert sample.info == INFO
        assert len(sample) == 330
        assert list(sample.columns) == list(COLUMNS) and dict(sample.columns) == COLUMNS
        np.testing.assert_array_equal(sample.wavelength, WAVELENGTH)
        assert_blocks_equal(sample.block(), whole)
        blocks = list(sample.blocks(128))
    assert [len(block) for block in blocks] == [128, 128, 74]
    assert_blocks_equal(blocks[1], rows_of(whole, np.arange(128, 256)))


@pytest.mark.parametrize(
    "rows",
    [
        slice(60, 70),
        slice(None, None, 50),
        slice(300, 1000),
        slice(200, 100),
        [5],
        [329, 0, 64, 63, 0, 200, 64],
        np.array([], dtype=int),
        [],
        np.arange(330) % 9 == 0,
        pd.Series(np.arange(330) > 325),
        np.random.default_rng(0).permutation(330),
    ],
    ids=str,
)
def test_any_selection_of_rows(written, whole, rows):
    chosen = np.arange(330)[rows]
    with open_sample(written) as sample:
        assert_blocks_equal(sample.block(rows), rows_of(whole, chosen))
        np.testing.assert_array_equal(sample.images(rows, ["z", "g"]), whole.images[chosen][:, [4, 1]])
        np.testing.assert_array_equal(sample.images(rows, "r"), whole.images[chosen][:, [2]])
        table = sample.catalogue(["r_mag", "class"], rows)
    assert_frame_equal(table, whole.catalogue[["r_mag", "class"]].iloc[chosen].reset_index(drop=True))


def test_damage_is_noticed_and_only_the_rows_asked_for_are_read(damaged, whole):
    chunks = []
    path = damaged(lambda file: chunks.append(file["images"].id.get_chunk_info_by_coord((128, 0, 0, 0))))
    with path.open("r+b") as file:
        file.seek(chunks[0].byte_offset + chunks[0].size // 2)
        file.write(b"dust" * 8)
    assert validate(path) == []
    with open_sample(path) as sample:
        around = [0, 127, 192, 329]
        np.testing.assert_array_equal(sample.images(around), whole.images[around])
        with pytest.raises(OSError, match="read"):
            sample.images([150])
    (problem,) = validate(path, deep=True)
    assert problem.startswith("images: rows 128 to 191 are damaged (")


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda s: s.images(bands=["u", "y"]), "no band 'y'; the sample has u, g, r, i, z"),
        (lambda s: s.catalogue(["z", "radius"]), "no column 'radius'; the sample has object_id, ra"),
        (lambda s: s.images([0, 330]), "rows 0 to 330 of a sample of 330 rows"),
        (lambda s: s.images([-1]), "rows -1 to -1 of a sample of 330 rows"),
        (
            lambda s: s.images(np.ones(329, bool)),
            r"rows are bool of shape \(329,\); expected .* a mask of 330",
        ),
        (lambda s: s.images([1.0]), "rows are float64"),
        (lambda s: next(s.blocks(0)), "a block of 0 objects"),
    ],
)
def test_what_is_not_there_cannot_be_read(written, ask, words):
    with open_sample(written) as sample, pytest.raises(SampleError, match=words):
        ask(sample)


def test_a_sample_may_hold_a_catalogue_alone(tmp_path, whole):
    block, info = Block(whole.catalogue, COLUMNS), SampleInfo("sdss", "real")
    path = write_sample(tmp_path / "a.h5", [block], info)
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        assert sample.info == info and sample.info.seed is None and sample.wavelength is None
        read = sample.block(slice(3, 5))
        assert read.images is None and read.spectra is None
        assert_frame_equal(read.catalogue, whole.catalogue.iloc[3:5].reset_index(drop=True))
        with pytest.raises(SampleError, match=r"a\.h5: the sample has no images"):
            sample.images()
        with pytest.raises(SampleError, match=r"a\.h5: the sample has no spectra"):
            sample.spectra()


def test_the_same_objects_make_the_same_bytes(tmp_path):
    info = replace(INFO, provenance={"b": 1, "a": 2})
    first = write_sample(tmp_path / "1.h5", [block_of(70)], info).read_bytes()
    time.sleep(1.1)  # HDF5 counts seconds
    again = replace(info, provenance={"a": 2, "b": 1})
    assert write_sample(tmp_path / "2.h5", [block_of(70)], again).read_bytes() == first
    assert write_sample(tmp_path / "3.h5", [block_of(70, start=1)], info).read_bytes() != first


def test_large_provenance_and_extreme_identifiers_survive(tmp_path):
    block = block_of(2)
    block.catalogue["object_id"] = [np.iinfo(np.int64).max, np.iinfo(np.int64).min]
    info = replace(INFO, provenance={"text": "x" * 200_000})  # HDF5 stores attributes above 64 kB elsewhere
    with open_sample(write_sample(tmp_path / "a.h5", [block], info)) as sample:
        assert sample.info == info
        assert_blocks_equal(sample.block(), block)


# ---------------------------------------------------------------------------------------- what is refused


def column(name, values):
    return lambda b: replace(b, catalogue=b.catalogue.assign(**{name: values}))


def described(name, unit, text):
    return lambda b: replace(b, columns={**b.columns, name: Column(unit, text)})


def images(change):
    return lambda b: replace(b, images=change(b.images.copy()))


def spectra(name, change):
    return lambda b: replace(b, spectra=replace(b.spectra, **{name: change(getattr(b.spectra, name))}))


def with_nan(array):
    array[3, 2, 1, 1] = array[5, 0, 1, 1] = np.nan
    return array


def without_position(block):
    columns = {name: text for name, text in block.columns.items() if name not in ("ra", "dec")}
    return replace(block, catalogue=block.catalogue[list(columns)], columns=columns)


REFUSED = {
    r"images have 4 bands, expected 5 \(u, g, r, i, z\)": images(lambda a: a[:, :4]),
    r"images have shape \(9, 6, 6\); expected 4 dim": images(lambda a: a[:, 0]),
    "images are float64; expected float32": images(lambda a: a.astype(float)),
    "lengths disagree: 8 images, 9 rows of the catalogue": images(lambda a: a[:8]),
    r"row 3 .* \(object_id 1237648720000000003\) has pixels in band r that are not finite, as have 2": (
        images(with_nan)
    ),
    "the block has no images, though the sample has the bands u, g": lambda b: replace(b, images=None),
    "catalogue and columns do not describe the same: radius is in one only": column("radius", 1.0),
    "column 'object_id' is float64; expected int64": column("object_id", 1.0),
    "column 'object_id' is int32; expected int64": column("object_id", np.arange(9, dtype=np.int32)),
    "column 'dec' is int64; expected floating": column("dec", 1),
    r"column 'class' \(\w+\) holds (None|nan) in row 1; expected a column of float": column(
        "class", np.array(["a", None] * 4 + ["b"], dtype=object)
    ),
    r"column 'z' \(Int64\) holds 1 in row 0": column("z", pd.array([1] * 9, dtype="Int64")),
    "the catalogue lacks ra, dec": without_position,
    "column 'z': unit 'magnitudes' is not one that astropy knows": described("z", "magnitudes", ""),
    "column 'a/b' has a name that HDF5 does not allow": lambda b: described("a/b", "", "")(
        column("a/b", 1.0)(b)
    ),
    "wavelength of the spectra does not increase": spectra("wavelength", lambda w: w[::-1]),
    r"flux of the spectra is float32 of shape \(8, 37\); expected float32 of shape \(9, 37\)": (
        spectra("flux", lambda f: f[1:])
    ),
    "has a spectrum with flux that is NaN, infinite or negative, as have 9": (
        spectra("flux", lambda f: np.full_like(f, np.inf))
    ),
    r"row 0 .* has a spectrum with ivar that is NaN": spectra("ivar", lambda v: -1 - v),
}


@pytest.mark.parametrize(("words", "change"), REFUSED.items(), ids=list(REFUSED))
def test_a_wrong_block_is_refused_and_nothing_is_written(tmp_path, words, change):
    with pytest.raises(SampleError, match=words):
        write_sample(tmp_path / "a.h5", [change(block_of(9))], INFO)
    assert list(tmp_path.iterdir()) == []


DIFFERENT = {
    r"images is float32 \(5, 7, 7\) in this block, but float32 \(5, 6, 6\) in the first": (
        images(lambda a: np.ones((9, 5, 7, 7), np.float32))
    ),
    "catalogue/z is float32.* in this block, but float64": column("z", np.float32(1)),
    "catalogue/z is float64.*'redder' in this block, but .*'redshift'": described("z", "", "redder"),
    "spectra/flux is absent in this block": lambda b: replace(b, spectra=None),
    "another wavelength grid": spectra("wavelength", lambda w: w + 1),
}


@pytest.mark.parametrize(("words", "change"), DIFFERENT.items(), ids=list(DIFFERENT))
def test_a_block_unlike_the_first_leaves_the_old_file(tmp_path, words, change):
    path = write_sample(tmp_path / "a.h5", [block_of(3)], INFO)
    before = path.read_bytes()
    with pytest.raises(SampleError, match=words):
        write_sample(path, [block_of(9), change(block_of(9))], INFO)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_sample_without_blocks_is_refused(tmp_path):
    with pytest.raises(SampleError, match="no block to write"):
        write_sample(tmp_path / "a.h5", [], INFO)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"survey": ""}, "survey is ''; expected a name"),
        ({"sky": "cloudy"}, r"sky is 'cloudy'; expected one of \('real', 'simulated'\)"),
        ({"bands": ("u", "u")}, "expected names that differ"),
        ({"bands": ()}, "expected both or neither"),
        ({"pixel_scale": None}, "expected both or neither"),
        ({"pixel_scale": -0.4}, r"pixel_scale is -0\.4; expected arcsec"),
        ({"seed": 1.5}, r"seed is 1\.5; expected an integer"),
        ({"provenance": {"x": float("nan")}}, "provenance cannot be written as JSON"),
        ({"provenance": {"x": {1, 2}}}, "provenance cannot be written as JSON"),
    ],
)
def test_wrong_information_is_refused(change, words):
    with pytest.raises(SampleError, match=words):
        replace(INFO, **change)


# ----------------------------------------------------------------------------------------------- checking


def without(path):
    return lambda file: file.__delitem__(path)


def attribute(path, name, value=None):
    def change(file):
        del file[path].attrs[name]
        if value is not None:
            file[path].attrs[name] = value

    return change


def rewritten(path, change):
    def apply(file):
        old, attributes = file[path][()], dict(file[path].attrs)
        del file[path]
        file[path] = change(old)
        file[path].attrs.update(attributes)

    return apply


def linked_elsewhere(file):
    with h5py.File(f"{file.filename}.private", "w") as private:
        private["secret"] = np.arange(330.0)
    del file["catalogue/z"]
    file["catalogue/z"] = h5py.ExternalLink(f"{file.filename}.private", "secret")


LAYOUT = {
    "not an astro_utils sample: attribute format is None; expected": attribute("/", "format"),
    "version 2 is newer than 1, the newest": attribute("/", "version", 2),
    "attribute version is '1'; expected an integer": attribute("/", "version", "1"),
    "missing attribute survey": attribute("/", "survey"),
    "attribute sky is 'cloudy'; expected one of": attribute("/", "sky", "cloudy"),
    "attribute seed is 'one'; expected an integer": attribute("/", "seed", "one"),
    "attribute provenance is not a JSON object": attribute("/", "provenance", "{"),
    "attribute pixel_scale is None; expected arcsec": attribute("/", "pixel_scale"),
    r"images have 5 bands, expected 4 \(u, g, r, i\)": attribute("/", "bands", ["u", "g", "r", "i"]),
    "missing group catalogue": without("catalogue"),
    "missing dataset catalogue/dec": without("catalogue/dec"),
    "missing dataset images, though bands are u, g, r, i, z": without("images"),
    "missing dataset spectra/ivar": without("spectra/ivar"),
    "catalogue/z: missing unit": attribute("catalogue/z", "unit"),
    "catalogue/z: missing description": attribute("catalogue/z", "description"),
    "catalogue/z: unit 'mags' is not one that astropy": attribute("catalogue/z", "unit", "mags"),
    "images: missing unit": attribute("images", "unit"),
    "spectra/flux: unit is 'Jy'; expected '1e-17 erg": attribute("spectra/flux", "unit", "Jy"),
    "images are float64; expected float32": rewritten("images", lambda a: a.astype(float)),
    "lengths disagree: images has 329 rows, catalogue/object_id 330": rewritten("images", lambda a: a[1:]),
    "lengths disagree: catalogue/class has 3 rows": rewritten("catalogue/class", lambda a: a[:3]),
    "catalogue/object_id is float64; expected int64": rewritten("catalogue/object_id", lambda a: a * 1.0),
    "catalogue/z is complex128; expected float": rewritten("catalogue/z", lambda a: a * 1j),
    r"catalogue/z has shape \(330, 1\); expected one dim": rewritten("catalogue/z", lambda a: a[:, None]),
    "spectra/flux is float64; expected float32": rewritten("spectra/flux", lambda a: a.astype(float)),
    r"spectra/ivar has shape \(330, 36\), the wav": rewritten("spectra/ivar", lambda a: a[:, 1:]),
    "spectra/wavelength does not increase": rewritten("spectra/wavelength", lambda a: a[::-1]),
    "catalogue/z is not a dataset stored in this file": linked_elsewhere,
}


@pytest.mark.parametrize(("words", "change"), LAYOUT.items(), ids=list(LAYOUT))
def test_a_wrong_layout_is_named_and_not_opened(damaged, words, change):
    path = damaged(change)
    assert len(validate(path)) == 1
    with pytest.raises(SampleError, match=rf"damaged\.h5: {words}"), open_sample(path):
        pass


def test_all_problems_are_listed(damaged):
    def change(file):
        del file["catalogue/dec"], file["catalogue/z"].attrs["unit"], file.attrs["survey"]

    path = damaged(change)
    assert len(validate(path)) == 3
    with pytest.raises(
        SampleError, match=r"missing attribute survey; missing dataset catalogue/dec; .*missing unit"
    ):
        require_valid(path)


def test_impossible_numbers_are_found_by_the_deep_check_alone(damaged):
    def change(file):
        for row in (5, 9):
            file["images"][row, 0] = 0
        for row in range(100, 112):
            file["images"][row, 3, 2, 2] = np.nan
        file["catalogue/ra"][[7, 8]] = [np.nan, 361]
        file["catalogue/dec"][329] = -90.1
        file["spectra/ivar"][17, 4], file["spectra/ivar"][18, 4] = np.nan, -1
        file["spectra/flux"][200, 0] = np.inf

    path = damaged(change)
    assert validate(path) == []
    assert sorted(validate(path, deep=True)) == [
        "object row 200: spectrum has flux that is not finite",
        "object row 329: dec is not between -90 and 90",
        "object rows 100, 101, 102, 103, 104, 105, 106, 107, 108, 109, ... (12 in all): "
        "pixels that are not finite in band i",
        "object rows 17, 18: spectrum has ivar that is negative or not finite",
        "object rows 5, 9: all pixels zero in band u",
        "object rows 7, 8: ra is not between 0 and 360",
    ]
    require_valid(path)
    with pytest.raises(SampleError, match=r"damaged\.h5: .*all pixels zero"):
        require_valid(path, deep=True)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_truncated_file_is_said_to_be_truncated(written, tmp_path, share):
    path = tmp_path / "short.h5"
    whole = written.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    (problem,) = validate(path)
    assert problem.startswith("truncated HDF5 file (")
    with pytest.raises(SampleError, match=r"short\.h5: truncated HDF5"), open_sample(path):
        pass


def test_files_that_are_no_samples_are_refused(tmp_path):
    text, foreign, absent = (tmp_path / name for name in ("text.h5", "foreign.h5", "absent.h5"))
    text.write_text("object_id,ra,dec\n1,2,3\n")
    with h5py.File(foreign, "w") as file:
        file["catalogue/ra"] = [1.0]
    assert validate(text) == ["not an HDF5 file"]
    assert validate(absent) == ["no such file"]
    (problem,) = validate(foreign)
    assert problem.startswith("not an astro_utils sample: attribute format is None")
    for path, words in (
        (text, "not an HDF5 file"),
        (absent, "no such file"),
        (foreign, "not an astro_utils"),
    ):
        with pytest.raises(SampleError, match=rf"{path.name}: {words}"), open_sample(path):
            pass


@pytest.mark.parametrize("seed", range(40))
def test_bytes_overwritten_anywhere_never_crash_the_check(written, tmp_path, seed):
    rng, content = np.random.default_rng(seed), bytearray(written.read_bytes())
    start = rng.integers(len(content) if seed % 2 else 4096)
    content[start : start + 64] = rng.bytes(64)
    path = tmp_path / "dust.h5"
    path.write_bytes(content)
    assert all(isinstance(problem, str) for problem in validate(path, deep=True))


# ------------------------------------------------------------------------------------- samples of samples


def test_concatenated_samples_follow_one_another(tmp_path, whole):
    parts = [np.arange(0, 128), np.arange(128, 130), np.arange(130, 330)]
    paths = [
        write_sample(tmp_path / f"{k}.h5", [rows_of(whole, rows)], replace(INFO, seed=k))
        for k, rows in enumerate(parts)
    ]
    out = concat(paths, tmp_path / "all.h5")
    assert validate(out, deep=True) == []
    with open_sample(out) as sample:
        assert_blocks_equal(sample.block(), whole)
        assert sample.info.seed is None
        parents = sample.info.provenance["concat"]
    assert [(p["name"], p["seed"]) for p in parents] == [("0.h5", 0), ("1.h5", 1), ("2.h5", 2)]
    assert len({p["sha256"] for p in parents}) == 3
    assert parents[0]["provenance"] == INFO.provenance
    assert str(tmp_path) not in str(parents)


@pytest.mark.parametrize(
    ("info", "change", "words"),
    [
        ({"survey": "decals"}, None, r"b\.h5: survey is 'decals', but 'sdss' in .*a\.h5"),
        ({"sky": "real"}, None, r"b\.h5: sky is 'real', but 'simulated' in"),
        ({"bands": ("u", "g", "r", "i", "y")}, None, r"b\.h5: bands is .*, 'y'\), but .*, 'z'\) in"),
        ({"pixel_scale": 0.262}, None, r"b\.h5: pixel_scale is 0\.262, but 0\.396 in"),
        ({}, column("z", np.float32(1)), r"b\.h5: catalogue/z is float32"),
        ({}, spectra("wavelength", lambda w: w + 1), r"b\.h5: .*another wavelength grid"),
        ({}, images(lambda a: a[..., :5].copy()), r"b\.h5: images is float32 \(5, 6, 5\)"),
    ],
)
def test_samples_of_different_kinds_are_not_concatenated(tmp_path, info, change, words):
    block = block_of(4)
    a = write_sample(tmp_path / "a.h5", [block], INFO)
    b = write_sample(tmp_path / "b.h5", [change(block) if change else block], replace(INFO, **info))
    with pytest.raises(SampleError, match=words):
        concat([a, b], tmp_path / "all.h5")
    assert not (tmp_path / "all.h5").exists()


def test_a_subset_is_a_sample_that_names_its_parent(written, whole, tmp_path):
    rows = np.random.default_rng(1).permutation(330)[:150]
    path = take(written, rows, tmp_path / "some.h5")
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        assert_blocks_equal(sample.block(), rows_of(whole, rows))
        source = sample.info.provenance["take"]
        assert replace(sample.info, provenance=INFO.provenance) == INFO
    assert source["parent"]["name"] == "sample.h5" and source["n_rows"] == 150
    other = take(written, rows[::-1], tmp_path / "other.h5")
    with open_sample(other) as sample:
        assert sample.info.provenance["take"]["rows_sha256"] != source["rows_sha256"]
    with open_sample(take(written, slice(0, 0), tmp_path / "none.h5")) as sample:
        assert len(sample) == 0 and list(sample.columns) == list(COLUMNS)


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """Objects in four copies each, scattered over the rows."""
    block = block_of(500)
    copies = np.random.default_rng(5).permutation(np.repeat(np.arange(500), 4))
    table = block.catalogue.iloc[copies]
    return write_sample(
        tmp_path_factory.mktemp("crowded") / "a.h5", [Block(table, COLUMNS)], SampleInfo("sdss", "simulated")
    )


@pytest.mark.parametrize("by", ["object", "sky"])
@pytest.mark.parametrize("seed", range(5))
def test_no_object_and_no_pixel_is_on_two_sides(crowded, by, seed):
    fractions = {"train": 0.6, "valid": 0.1, "test": 0.2}
    parts = split(crowded, fractions, by=by, seed=seed, nside=4)
    with open_sample(crowded) as sample:
        table = sample.catalogue()
    groups = table["object_id"] if by == "object" else sky_pixels(table["ra"], table["dec"], 4)
    sides = [set(np.asarray(groups)[rows]) for rows in parts.values()]
    assert list(parts) == list(fractions)
    assert len(set.union(*sides)) == sum(map(len, sides)), "each group is in one part"
    everything = np.concatenate(list(parts.values()))
    assert len(np.unique(everything)) == len(everything)
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    for name, rows in parts.items():
        assert len(rows) == pytest.approx(2000 * fractions[name], abs=0 if by == "object" else 40)


def test_splits_depend_on_the_seed_and_on_nothing_else(crowded):
    halves = {"a": 0.5, "b": 0.5}
    first, again, other = (split(crowded, halves, by="object", seed=seed) for seed in (1, 1, 2))
    assert sorted(np.concatenate(list(first.values()))) == list(range(2000)), "shares of 1 leave no row out"
    np.testing.assert_array_equal(first["a"], again["a"])
    assert 0.4 < np.isin(first["a"], other["a"]).mean() < 0.6


@pytest.mark.parametrize(
    ("fractions", "options", "words"),
    [
        ({"train": 0.8, "test": 0.3}, {}, r"fractions are .*; expected positive shares of at most 1 in sum"),
        ({"train": 0.8, "test": 0}, {}, "expected positive shares"),
        ({"train": float("nan")}, {}, "expected positive shares"),
        ({}, {}, "expected positive shares"),
        ({"train": 0.5}, {"by": "band"}, "by is 'band'; expected 'object' or 'sky'"),
        (
            {"train": 0.98, "valid": 0.01, "test": 0.01},
            {"by": "sky", "nside": 1},
            r"a\.h5: 12 sky pixels of nside 1 are too few to fill train, valid, test: .* would be empty",
        ),
    ],
)
def test_impossible_splits_are_refused(crowded, fractions, options, words):
    with pytest.raises(SampleError, match=words):
        split(crowded, fractions, **{"by": "object", "seed": 0, **options})


def test_a_position_off_the_sky_cannot_be_split_by_sky(tmp_path):
    table = block_of(20).catalogue.assign(dec=[np.nan] * 2 + [0.0] * 18)
    path = write_sample(tmp_path / "a.h5", [Block(table, COLUMNS)], SampleInfo("sdss", "real"))
    with pytest.raises(SampleError, match=r"a\.h5: row 0 has no position on the sky \(2 rows in all\)"):
        split(path, {"train": 0.5}, by="sky", seed=0)


# ------------------------------------------------------------------------------------------- command line


def test_the_command_line_checks_and_describes(written, damaged, capsys):
    bad = str(damaged(lambda file: file["images"].__setitem__((5, 0), 0)))
    assert main(["check", str(written), bad]) == 0
    assert capsys.readouterr().out == f"{written}: valid\n{bad}: valid\n"
    assert main(["check", "--deep", str(written), bad]) == 1
    assert capsys.readouterr().out == f"{written}: valid\n{bad}: object row 5: all pixels zero in band u\n"
    assert main(["info", str(written)]) == 0
    out = capsys.readouterr().out
    for words in (
        "330 objects, simulated sky, survey sdss, seed 3",
        "images: u, g, r, i, z, 6 x 6 pixels of 0.396 arcsec",
        "spectra: 37 wavelengths, 3800.0 to 9200.0 Angstrom",
        "r_mag [mag]: magnitude",
        'provenance: {"limits": [1, 2.5]',
    ):
        assert words in out


def test_the_module_runs_and_its_status_says_whether_all_is_well(tmp_path):
    path = tmp_path / "text.h5"
    path.write_text("no")
    for command in ("check", "info"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "astro_utils.samples", command, str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout, done.stderr) == (1, f"{path}: not an HDF5 file\n", "")
