"""Samples of compact objects, from a server on this machine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from archive_server import OBJID, database, execute, no_server, random_sky, recorded, running, source
from astroquery.sdss import SDSSClass, conf

from astro_utils import archive_client, archive_objects, catalogs
from astro_utils.archive_client import ArchiveError
from astro_utils.archive_objects import CLASSES, compact_query, fetch_objects


@pytest.fixture
def server(monkeypatch):
    with running(monkeypatch) as server:
        yield server


@pytest.fixture
def sky(monkeypatch):
    with running(monkeypatch, list(random_sky())) as server:
        yield server


@pytest.fixture
def nowhere(monkeypatch):
    with no_server(monkeypatch) as address:
        yield address


def test_a_sample_has_equally_many_of_each_class(sky, tmp_path):
    path = fetch_objects("compact", 70, tmp_path)
    table = pd.read_parquet(path)
    assert path == tmp_path / "compact-dr16-70.parquet"
    assert table["class"].value_counts().to_dict() == dict.fromkeys(CLASSES, 70)
    for label in CLASSES:
        whole = execute(sky.database, compact_query("compact", label, 70))
        assert table["objID"][table["class"] == label].tolist() == whole["objID"].tolist()
    parts = catalogs.decode_sdss_objid(table["objID"].to_numpy())
    pd.testing.assert_frame_equal(table[["run", "camcol", "field"]], parts[["run", "camcol", "field"]])
    assert (table["specObjID"] >= 9000 << 50).all(), "identifiers above 2^63 keep all their digits"
    assert table["specObjID"].mod(3).map(dict(enumerate(CLASSES))).eq(table["class"]).all()
    renamed = table.rename(columns=lambda name: name.replace("deVRad", "radius"))
    assert catalogs.compactness(renamed).le(0.5).all()


def test_pages_do_not_change_the_sample(sky, tmp_path, monkeypatch):
    one = fetch_objects("faint-compact", 40, tmp_path / "one")
    n_pages = len(sky.requests)
    monkeypatch.setattr(archive_objects, "N_PAGES", 3)
    other = fetch_objects("faint-compact", 40, tmp_path / "other")
    assert len(sky.requests) - n_pages < n_pages
    assert one.read_bytes() == other.read_bytes()


def test_kept_pages_need_no_server(sky, tmp_path, nowhere):
    with conf.set_temp("skyserver_baseurl", sky.address):
        first = fetch_objects("compact", 40, tmp_path).read_bytes()
    assert fetch_objects("compact", 40, tmp_path).read_bytes() == first
    damaged = next((tmp_path / "pages").iterdir())
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ArchiveError, match="cannot be reached"):
        fetch_objects("compact", 40, tmp_path)
    n_asked = len(sky.requests)
    with conf.set_temp("skyserver_baseurl", sky.address):
        assert fetch_objects("compact", 40, tmp_path).read_bytes() == first
    assert len(sky.requests) == n_asked + 1


def test_another_release_is_another_page(sky, tmp_path):
    fetch_objects("compact", 1, tmp_path)
    with pytest.raises(ArchiveError, match=r"compact GALAXY of DR17, keys 0 to 999: .* answers 404"):
        fetch_objects("compact", 1, tmp_path, data_release=17)


def test_a_killed_fetch_goes_on(sky, tmp_path):
    sky.stall_after = 3
    script = (
        "from astroquery.sdss import conf; from astro_utils import archive_objects;"
        "archive_objects.QUERY_WAIT, archive_objects.N_PAGES = 0, 10;"
        f"conf.skyserver_baseurl = {sky.address!r};"
        f"archive_objects.fetch_objects('compact', 60, {str(tmp_path)!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    ) as child:
        deadline = time.monotonic() + 20
        while len(sky.requests) < 4 and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert len(list((tmp_path / "pages").glob("[!.]*.parquet"))) == 3
    sky.stall_after, asked = None, set(sky.requests[:3])
    sky.requests.clear()
    resumed = fetch_objects("compact", 60, tmp_path)
    assert asked.isdisjoint(sky.requests)
    assert resumed.read_bytes() == fetch_objects("compact", 60, tmp_path / "whole").read_bytes()


def test_the_address_is_short_enough_for_the_server(sky, tmp_path):
    client = SDSSClass()
    query = compact_query("faint-compact", "GALAXY", 500_000, first_key=9900, last_key=9999)
    client.query_sql_async(query, data_release=16, cache=False)
    assert "cmd=+SELECT+TOP+500000" in sky.requests[-1]
    assert len(sky.requests[-1]) < 2048


def test_an_object_with_two_best_spectra_is_left_out(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_objects, "N_PAGES", 1)
    objects = [source(i, **{"class": label}) for i, label in enumerate([*CLASSES * 4, "GALAXY"])]
    photo, spectrum = source(30, **{"class": "STAR"})
    twice = [(photo, spectrum), (photo | {"objID": 0}, spectrum | {"class": "QSO", "specObjID": 5})]
    server.database = database(objects + twice)
    table = pd.read_parquet(fetch_objects("compact", 5, tmp_path))
    assert OBJID + 30 not in set(table["objID"])
    assert table["class"].value_counts().to_dict() == {"GALAXY": 5, "QSO": 4, "STAR": 4}


def test_queries_leave_the_server_time(sky, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(archive_objects, "QUERY_WAIT", 1.0)
    monkeypatch.setattr(archive_objects.time, "sleep", waits.append)
    fetch_objects("compact", 1, tmp_path)
    assert waits == [1.0] * 3 == [1.0] * len(sky.requests)


def test_too_few_objects(sky, tmp_path):
    with pytest.raises(ArchiveError, match="DR16 has 300 compact GALAXY objects, not 301"):
        fetch_objects("compact", 301, tmp_path)


def test_the_recorded_answer_is_read(server, tmp_path):
    answers = [recorded("objects.csv").replace(b",STAR,", f",{label},".encode()) for label in CLASSES]
    # The same three objects in each class would be taken for objects with two spectra.
    server.said = [(200, body.replace(b"12376", f"1237{i}".encode())) for i, body in enumerate(answers)]
    table = pd.read_parquet(fetch_objects("compact", 3, tmp_path))
    assert len(table) == 9
    assert table["run2d"].tolist() == ["103", "v5_13_0", "26"] * 3
    assert table["specObjID"].tolist()[:2] == [2304000000000000001, 10141199807838420992]
    assert table["z"].tolist()[:3] == [4.5e-05, -0.00023, 0.0001]


def with_value(column, value):
    """Return the recorded answer with another value of a column in its second row."""
    lines = [line.split(",") for line in recorded("objects.csv").decode().splitlines()]
    lines[3][lines[1].index(column)] = value
    return "\n".join(",".join(line) for line in lines).encode()


HEADER = recorded("objects.csv").splitlines()[1].decode()
WRONG = {
    "empty": (recorded("objects_none.csv"), "the answer is empty"),
    "empty sentence": (recorded("none.txt"), "the answer is empty"),
    "nothing": (b"", "sent no table but: nothing"),
    "page": (
        recorded("error.html"),
        "sent no table but: Skyserver Error An error occured The query timed out",
    ),
    "json": (recorded("error.json"), r"sent no table but: .*Invalid column name 'psffwhm_u'"),
    "error": (recorded("error.csv"), r"sent no table: error_message \"Invalid column name 'psffwhm_u'"),
    "file name": (b"/etc/hostname", "sent no table but: /etc/hostname"),
    "ragged": (recorded("objects.csv") + b"1,2\n" * 3, "sent no table: "),
    "other columns": (b"#Table1\nra,dec\n1,2\n3,4\n", "column objID is missing; the answer has ra, dec"),
    "renamed": (
        recorded("objects.csv").replace(b"psffwhm_g", b"psfFWHM_g"),
        "column psffwhm_g is missing; the answer has .*psfFWHM_g",
    ),
    "sentinel": (
        with_value("deVRad_i", "-9999"),
        "column deVRad_i is -9999.* in row 1, not a measured value",
    ),
    "sentinel minus extinction": (with_value("dered_u", "-9999.3"), "column dered_u is -9999.3 in row 1"),
    "null": (with_value("zErr", "null"), "column zErr is null in row 1"),
    "blank": (with_value("psffwhm_z", ""), "column psffwhm_z is nan in row 1"),
    "class": (with_value("class", "QSO"), "column class is QSO; expected GALAXY only"),
}


@pytest.mark.parametrize(("body", "message"), WRONG.values(), ids=WRONG)
def test_a_wrong_answer_names_query_and_column(server, tmp_path, body, message):
    server.said = [(200, body.replace(b",STAR,", b",GALAXY,"))]
    with pytest.raises(ArchiveError, match=f"query for compact GALAXY of DR16, keys 0 to 999: .*{message}"):
        fetch_objects("compact", 3, tmp_path)
    assert not list(tmp_path.rglob("*.parquet")), "a wrong answer is not kept"


def test_a_busy_server_is_asked_again(sky, tmp_path):
    sky.said = [(503, recorded("unavailable.html")), (429, b"slow down")]
    assert len(pd.read_parquet(fetch_objects("compact", 1, tmp_path))) == 3
    assert len(sky.requests) == 5


def test_a_server_that_stays_busy_is_quoted(server, tmp_path):
    server.said = [(503, recorded("unavailable.html"))] * 3
    with pytest.raises(
        ArchiveError, match=r"answers 503 .*No server is available to handle this request"
    ) as caught:
        fetch_objects("compact", 1, tmp_path)
    assert server.address in str(caught.value) and not server.said


def test_a_refused_query_is_not_repeated(server, tmp_path):
    server.said = [(400, recorded("error.json"))] * 3
    with pytest.raises(ArchiveError, match=r"GALAXY.*answers 400 .*Invalid column name 'psffwhm_u'"):
        fetch_objects("compact", 1, tmp_path)
    assert len(server.said) == 2


def test_an_answer_that_breaks_off(server, tmp_path):
    server.said = [(200, recorded("objects.csv")[:-50], 99_999)] * 3
    with pytest.raises(ArchiveError, match="breaks off its answer"):
        fetch_objects("compact", 1, tmp_path)


def test_a_server_that_says_nothing(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_client, "QUERY_TIMEOUT", 0.05)
    server.stall_after = 0
    with pytest.raises(ArchiveError, match=r"cannot be reached \(.*[Rr]ead timed out"):
        fetch_objects("compact", 1, tmp_path)
