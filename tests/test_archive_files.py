"""Frames and spectra of the SDSS, from a server on this machine."""

import bz2
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from archive_server import FIELD, packed, recorded, running
from astropy.io import fits
from astropy.table import Table
from astroquery.sdss import SDSSClass

from astro_utils import archive_files, registry
from astro_utils.archive_client import ArchiveError
from astro_utils.archive_files import crossmatch_spectra, fetch_frames, frame_urls, spectrum_urls

REAL_REGISTRY = Path(__file__).parents[1] / "data" / "registry.toml"


@pytest.fixture
def server(monkeypatch):
    with running(monkeypatch) as server:
        yield server


# ---------------------------------------------------------------------------------------------------- frames


def frame(band="r"):
    """Return the path on the server of the frame in one band of `FIELD`."""
    return f"/dr17/eboss/photoObj/frames/301/4510/4/frame-{band}-004510-4-0030.fits.bz2"


def test_frames_are_at_the_registered_addresses():
    files = registry.load_registry(REAL_REGISTRY)["sdss_frames"].files
    expected = {file.url for file in files if "/frame-" in file.url}
    assert len(expected) == 5
    assert set(frame_urls(FIELD)) == expected


def test_each_field_is_listed_once_in_order():
    rng = np.random.default_rng(0)
    fields = pd.DataFrame({"run": [94, 94, 8162, 94], "camcol": [6, 1, 3, 6], "field": [12, 900, 1000, 11]})
    table = fields.iloc[rng.integers(0, 4, 50)].assign(objID=range(50))
    names = [url.rsplit("/", 1)[1] for url in frame_urls(table, "gr")]
    assert names[:4] == [
        f"frame-{band}-000094-{place}.fits.bz2" for place in ("1-0900", "6-0011") for band in "gr"
    ]
    assert names[-1] == "frame-r-008162-3-1000.fits.bz2" and len(names) == 8


def test_addresses_are_those_of_astroquery():
    table = FIELD.assign(rerun=301)
    matches = Table.from_pandas(table)
    expected = SDSSClass().get_images_async(matches=matches, band="ugriz", data_release=17)
    assert frame_urls(table) == [container._target for container in expected]
    spectra = pd.DataFrame(
        {"plate": [751, 9001, 3000], "mjd": [52251, 57900, 54843], "fiberID": [160, 7, 1000]}
    )
    spectra["run2d"] = ["26", "v5_13_0", "104"]
    for release in (16, 17):
        expected = SDSSClass().get_spectra_async(matches=Table.from_pandas(spectra), data_release=release)
        assert spectrum_urls(spectra, release) == [container._target for container in expected]


def test_frames_arrive_whole_and_good_ones_stay(server, tmp_path, capsys):
    server.files = {frame(band): packed(i) for i, band in enumerate("ugriz")}
    paths = fetch_frames(FIELD, tmp_path)
    assert "5 of 5 frames are to be fetched, about 0.02 GB" in capsys.readouterr().out
    assert [path.name[6] for path in paths] == list("ugriz")
    assert [fits.getdata(path)[0, 0] for path in paths] == [0, 1, 2, 3, 4]
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    paths[2].unlink()
    server.requests.clear()
    assert fetch_frames(FIELD, tmp_path) == paths
    assert "1 of 5 frames" in capsys.readouterr().out
    assert server.requests == [frame("g"), frame("r")]
    assert paths[1].read_bytes() == packed(1)


BAD_FRAMES = {
    "cut off": (packed()[:-30], "not a whole bz2 file: Compressed file ended before"),
    "damaged": (packed()[:40] + b"\0\0\0\0" + packed()[44:], "not a whole bz2 file"),
    "a page": (recorded("error.html"), "not a whole bz2 file: Invalid data stream"),
    "a packed page": (bz2.compress(recorded("error.html")), "not a FITS file: it begins with b'<html><he'"),
    "nothing": (b"", "not a whole bz2 file|not a FITS file"),
}


@pytest.mark.parametrize(("body", "message"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_wrong_frame_is_refused(server, tmp_path, body, message):
    server.files = {frame(): body}
    with pytest.raises(ArchiveError, match=rf"frame-r-004510-4-0030.*sent a wrong file \(({message})"):
        fetch_frames(FIELD, tmp_path, "r")
    assert list(tmp_path.iterdir()) == [] and len(server.requests) == 3


def test_a_frame_is_asked_for_again_after_a_bad_one(server, tmp_path):
    server.said = [(200, packed()[:-30]), (200, packed()[:-30], len(packed()))]
    server.files = {frame(): packed()}
    (path,) = fetch_frames(FIELD, tmp_path, "r")
    assert path.read_bytes() == packed() and len(server.requests) == 3


def test_an_absent_frame_ends_the_fetch_and_keeps_the_others(server, tmp_path):
    server.files = {frame("u"): packed()}
    with pytest.raises(ArchiveError, match=r"frame-g-004510-4-0030.fits.bz2 answers 404 Not Found"):
        fetch_frames(FIELD, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["frame-u-004510-4-0030.fits.bz2"]
    assert len(server.requests) == 2


def test_wrong_fields_and_bands_are_explained():
    with pytest.raises(ValueError, match="the table lacks column camcol; expected run, camcol, field"):
        frame_urls(FIELD.drop(columns="camcol"))
    for bands in ("gy", ""):
        with pytest.raises(ValueError, match=f"bands are '{bands}'; expected some of ugriz"):
            frame_urls(FIELD, bands)


# --------------------------------------------------------------------------------------------------- spectra


def test_spectra_are_matched_to_their_positions(server):
    server.said = [(200, recorded("columns.json"))] * 2 + [(200, recorded("crossid.csv"))]
    ra, dec = np.array([10.0, 200.5, 150.0, 150.0]), np.array([0.0, -1.0, 2.2, 2.2])
    table = crossmatch_spectra(ra, dec)
    assert table["position"].tolist() == [1, 2, 3]
    expected = [0.18, *[0.36 * np.cos(np.radians(2.2))] * 2]
    np.testing.assert_allclose(table["separation"], expected, rtol=1e-4)
    assert table["plate"].tolist() == [339, 9001, 9001], "only the best spectrum of a place"
    assert table["run2d"].tolist() == ["26", "v5_13_0", "v5_13_0"]
    assert table["zWarning"].tolist() == [4, 0, 0]
    (posted,) = server.posted
    for part in (
        "name ra dec",
        "obj_0 10.0 0.0",
        "obj_3 150.0 2.2",
        "JOIN SpecObjAll AS s",
        "s.sciencePrimary",
    ):
        assert part in posted
    addresses = spectrum_urls(table)
    path = "/dr16/sdss/spectro/redux/v5_13_0/spectra/full/9001/spec-9001-57900-0070.fits"
    assert addresses[1] == server.address + path
    assert addresses[0].endswith("/redux/26/spectra/0339/spec-0339-51692-0622.fits")


def test_each_position_takes_the_nearest_of_two_objects(server):
    body = recorded("crossid.csv").replace(b"200.5,-1.00005", b"150.0004,2.2")
    lines = body.splitlines(keepends=True)
    server.said = [(200, recorded("columns.json"))] * 2 + [
        (200, b"".join([*lines[:2], lines[4], *lines[2:4]]))
    ]
    table = crossmatch_spectra([150.0, 150.0005], [2.2, 2.2])
    assert table["position"].tolist() == [0, 1] and table["plate"].tolist() == [9001, 339]


def test_astroquery_keeps_no_pickles(server, tmp_path):
    client = SDSSClass()
    client.cache_location = tmp_path
    server.said = [(200, recorded("columns.json"))] * 2 + [(200, recorded("crossid.csv"))]
    crossmatch_spectra([150.0], [2.2], client=client)
    assert list(tmp_path.iterdir()) == []


def test_what_is_beyond_the_radius_is_no_match(server):
    server.said = [(200, recorded("columns.json"))] * 2 + [(200, recorded("crossid.csv"))]
    table = crossmatch_spectra([150.0, 200.5], [2.2, -1.0], radius=0.3)
    assert table["position"].tolist() == [1]


@pytest.mark.parametrize(
    "body",
    [
        recorded("none.txt"),
        recorded("crossid.csv").split(b"150")[0],
        recorded("crossid.csv").replace(b",1,", b",0,"),  # none is the best of its place
    ],
)
def test_no_spectrum_at_all(server, body):
    server.said = [(200, recorded("columns.json"))] * 2 + [(200, body)]
    table = crossmatch_spectra([10.0], [0.0])
    assert len(table) == 0 and list(table)[:3] == ["position", "separation", "plate"]
    assert "sciencePrimary" not in table and spectrum_urls(table) == []


def test_many_positions_go_in_parts(server, monkeypatch):
    monkeypatch.setattr(archive_files, "MAX_POSITIONS", 2)
    server.said = [(200, recorded("columns.json"))] * 2 + [
        (200, recorded("none.txt")),
        (200, recorded("crossid.csv")),
    ]
    table = crossmatch_spectra([10.0, 11.0, 150.0], [0.0, 0.0, 2.2])
    first, second = server.posted
    assert "obj_1 11.0" in first and "150.0" not in first and "obj_0 150.0" in second
    assert table["position"].tolist() == [2]


def test_a_wrong_cross_match_is_explained(server):
    columns = [(200, recorded("columns.json"))] * 2
    server.said = [*columns, (200, recorded("crossid.csv").replace(b"fiberID", b"fibre"))]
    with pytest.raises(ArchiveError, match="cross-match of positions 0 to 0: column fiberID is missing"):
        crossmatch_spectra([10.0], [0.0])


def test_wrong_spectra_are_explained():
    with pytest.raises(ValueError, match="the table lacks column run2d; expected plate, mjd, fiberID, run2d"):
        spectrum_urls(pd.DataFrame({"plate": [1], "mjd": [2], "fiberID": [3]}))
    with pytest.raises(ValueError, match="data_release is 18; expected 16 or 17"):
        spectrum_urls(pd.DataFrame({"plate": [], "mjd": [], "fiberID": [], "run2d": []}), 18)
