"""A server on this machine that speaks in the archives' formats, for the tests of queries to archives.

The archive's tables are in SQLite, so every query is executed. What else the archives may say is in the
folder ``recorded``; it was constructed, not captured.
"""

import bz2
import csv
import http.server
import io
import socket
import sqlite3
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
from astropy.io import fits
from astroquery.sdss import conf

from astro_utils import archive_client, archive_cutouts, archive_objects, catalogs
from astro_utils.archive_objects import CLASSES
from astro_utils.photometry import SDSS_BANDS

RECORDED = Path(__file__).parent / "recorded"
OBJID = (2 << 59) + (301 << 48) + (4510 << 32) + (4 << 29) + (30 << 16)  # first object of one field
FIELD = pd.DataFrame({"run": [4510], "camcol": [4], "field": [30]})
SEARCH = "/dr16/en/tools/search/x_results.aspx"


def recorded(name):
    return (RECORDED / name).read_bytes()


def packed(value=0.0):
    buffer = io.BytesIO()
    fits.PrimaryHDU(np.full((8, 8), value, dtype=np.float32)).writeto(buffer)
    return bz2.compress(buffer.getvalue())


# --------------------------------------------------------------------------------------- the archive's tables


def source(
    number=0, *, redshift=0.0001, mag=21.0, extinction=0.1, radius=0.3, seeing=1.2, objid=None, **changes
):
    """Make one object with its spectrum, all five bands alike unless changed."""
    objid = OBJID + number if objid is None else objid
    parts = catalogs.decode_sdss_objid([objid]).iloc[0].to_dict()
    place = {"objID": objid, "ra": 150 + 1e-4 * number, "dec": 2.5}
    row = place | {name: parts[name] for name in ("run", "rerun", "camcol", "field")}
    for band in SDSS_BANDS:
        row |= {
            band: mag,
            f"extinction_{band}": extinction,
            f"deVRad_{band}": radius,
            f"psffwhm_{band}": seeing,
        }
    row |= {name: value for name, value in changes.items() if name in row}
    for band in SDSS_BANDS:
        magnitude, dust = row[band], row[f"extinction_{band}"]
        row[f"dered_{band}"] = None if magnitude is None else magnitude - dust
    spectrum = {
        "specObjID": 10**18 + number,
        "bestObjID": objid,
        "class": "STAR",
        "z": redshift,
        "zErr": 1e-5,
    }
    spectrum |= {"zWarning": 0, "plate": 4000 + number, "mjd": 55555, "fiberID": 7, "run2d": "v5_13_0"}
    spectrum |= {name: value for name, value in changes.items() if name in spectrum and name != "z"}
    return row, spectrum


def database(sources):
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    for name, rows in zip(("PhotoPrimary", "SpecObj"), zip(*sources, strict=True), strict=True):
        connection.execute(f"CREATE TABLE {name} ({', '.join(rows[0])})")
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"INSERT INTO {name} VALUES ({marks})", [tuple(row.values()) for row in rows])
    return connection


def execute(connection, query):
    """Run SQL of the SkyServer in SQLite, which has LIMIT at the end where the former has TOP."""
    start, _, rest = query.strip().partition("TOP ")
    limit, _, rest = rest.partition(" ")
    cursor = connection.execute(f"{start}{rest} LIMIT {limit}")
    return pd.DataFrame(cursor.fetchall(), columns=[column[0] for column in cursor.description])


def as_csv(table):
    """Write a table as the SkyServer does."""
    text = io.StringIO("#Table1\n")
    text.seek(0, io.SEEK_END)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([list(table), *table.astype(object).where(table.notna(), "null").to_numpy()])
    return text.getvalue().encode()


def random_sky(n_per_class=300, seed=0):
    """Objects of random fields, all of which belong to both selections."""
    rng = np.random.default_rng(seed)
    run, camcol = rng.integers(94, 8162, 3 * n_per_class), rng.integers(1, 7, 3 * n_per_class)
    field, number = rng.integers(11, 900, 3 * n_per_class), rng.integers(1, 2000, 3 * n_per_class)
    objids = (2 << 59) + (301 << 48) + (run << 32) + (camcol << 29) + (field << 16) + number
    assert len(set(objids)) == 3 * n_per_class
    for i, objid in enumerate(objids.tolist()):
        # Plates above 8191 have identifiers of spectra above 2^63.
        spectrum = {"class": CLASSES[i % 3], "specObjID": str((9000 << 50) + i), "redshift": i / 1000}
        yield source(objid=objid, mag=20.5 + i / 1e4, radius=rng.uniform(0, 0.6), **spectrum)


# ------------------------------------------------------------------------------------------------- the server


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer from the database or the files, or with what `server.said` holds."""

    def do_GET(self):
        self.server.requests.append(self.path)
        address = urlsplit(self.path)
        if self.server.stall_after is not None and len(self.server.requests) > self.server.stall_after:
            self.server.go_on.wait(10)
        if self.server.said:
            return self.send(*self.server.said.pop(0))
        if address.path == SEARCH:
            command = parse_qs(address.query)["cmd"][0]
            if "fDocColumns" in command:
                return self.send(200, recorded("columns.json"))
            return self.send(200, as_csv(execute(self.server.database, command)))
        if self.path in self.server.files:
            return self.send(200, self.server.files[self.path])
        return self.send(404)

    def do_POST(self):
        self.server.posted.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send(*self.server.said.pop(0))

    def send(self, status, body=b"", announced=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    # Closing waits for the requests under way: the database must not be closed under a query.
    daemon_threads = False

    def handle_error(self, *_):
        """Say nothing about clients that leave early: a test kills one."""


@contextmanager
def asked_at(address, monkeypatch):
    """Let all queries go to `address`, without waiting, in ten pages."""
    monkeypatch.setattr(archive_client, "RETRY_WAIT", 0.001)
    monkeypatch.setattr(archive_objects, "QUERY_WAIT", 0)
    monkeypatch.setattr(archive_objects, "N_PAGES", 10)
    monkeypatch.setattr(archive_cutouts, "LEGACY_VIEWER", f"{address}/viewer/fits-cutout")
    with conf.set_temp("skyserver_baseurl", address), conf.set_temp("sas_baseurl", address):
        yield address


@contextmanager
def running(monkeypatch, sources=()):
    """Start a server, to which all queries go; its tables hold the objects `sources`."""
    server = Server(("127.0.0.1", 0), Handler)
    server.requests, server.posted, server.said, server.files = [], [], [], {}
    server.stall_after, server.go_on = None, threading.Event()
    server.database = database(sources) if sources else None
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        with asked_at(server.address, monkeypatch):
            yield server
    finally:
        server.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
        if server.database:
            server.database.close()


@contextmanager
def no_server(monkeypatch):
    """Let all queries go to a port on which nothing listens any more."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
    with asked_at(address, monkeypatch):
        yield address
