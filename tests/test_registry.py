"""The dataset registry, against a real server on this machine that misbehaves on demand."""

import collections
import gzip
import hashlib
import http.server
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from astro_utils import download, registry
from astro_utils.paths import project_root
from astro_utils.registry import DatasetError

REPOSITORY = Path(__file__).parents[1]
REAL_REGISTRY = REPOSITORY / "data" / "registry.toml"
REAL_DATA = os.environ.get("ASTRO_UTILS_DATA")

BODY = bytes(range(256)) * 1000
WRONG = BODY[::-1]
PACKED = gzip.compress(BODY, mtime=0)
FITTING = {"/packed.gz": PACKED}  # every other address promises BODY


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Behave as the first part of the address says."""

    def do_GET(self):
        kind = self.path.strip("/").split(".")[0]
        self.server.requests[kind] += 1
        if kind == "missing":
            return self.send_error(404)
        if kind == "busy" and self.server.requests[kind] < download.ATTEMPTS:
            return self.send_error(503)
        self.send_response(200)
        if kind == "packed":
            self.send_header("Content-Encoding", "x-gzip")
        body = {"wrong": WRONG, "packed": PACKED}.get(kind, BODY)
        if kind != "unannounced":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        whole = kind not in ("short", "unannounced", "stall")
        self.wfile.write(body if whole else body[: len(body) // 2])
        if kind == "stall":
            self.wfile.flush()
            self.server.go_on.wait(10)
        return None

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """Say nothing about clients that leave early: some tests kill them."""


@pytest.fixture
def server():
    server = Server(("127.0.0.1", 0), Handler)
    server.requests, server.go_on = collections.Counter(), threading.Event()
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.go_on.set()
    server.shutdown()
    thread.join()
    server.server_close()


def table(name, *urls):
    """Write a dataset with one file per address, each of which promises the right body."""
    text = f'[{name}]\ndescription = "d"\nlicence = "MIT"\ncitation = "c"\n'
    for url in urls:
        file = url.rsplit("/", 1)[1]
        body = FITTING.get(f"/{file}", BODY)
        text += f'[[{name}.files]]\npath = "{name}/{file}"\nurl = "{url}"\n'
        text += f'bytes = {len(body)}\nsha256 = "{sha256(body)}"\n'
    return text


PLACED = """
[heavy]
on_request = true
description = "d"
licence = "see there"
citation = "c"
identifier = "doi:10.1/heavy"
landing_pages = ["https://example.org/heavy"]
size = "60 GB"
[heavy.layout]
"images/*.fits" = "one image (3, 9, 9) per galaxy"
"table.csv" = "columns a, b"
"""


@pytest.fixture
def project(tmp_path, monkeypatch, server):
    """Make a project whose registry has one dataset per way of the server to behave."""
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "_config.yml").touch()
    kinds = ("good", "wrong", "short", "unannounced", "stall", "missing", "busy")
    tables = [table(kind, f"{server.address}/{kind}.npy") for kind in kinds]
    tables.append(table("packed", f"{server.address}/packed.gz"))
    with socket.socket() as closed:  # a port on which nothing listens any more
        closed.bind(("127.0.0.1", 0))
        tables.append(table("down", f"http://127.0.0.1:{closed.getsockname()[1]}/down.npy"))
    tables.append(table("pair", f"{server.address}/one.npy", f"{server.address}/two.npy"))
    (root / "data" / "registry.toml").write_text("\n".join(tables) + PLACED)
    monkeypatch.chdir(root)
    monkeypatch.delenv("ASTRO_UTILS_DATA", raising=False)
    monkeypatch.setattr(download, "RETRY_WAIT", 0.01)
    return root


def files_below(folder):
    return sorted(place.relative_to(folder).as_posix() for place in folder.rglob("*") if place.is_file())


def cached(project):
    return files_below(project / "data" / "cache")


def put(place, data=BODY):
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)
    return place


# --- downloads that succeed


def test_a_download_arrives_whole_in_the_cache(project, server):
    assert not registry.available("good")
    files = registry.fetch("good")
    assert files == {"good/good.npy": project / "data" / "cache" / "good" / "good.npy"}
    assert files["good/good.npy"].read_bytes() == BODY
    assert cached(project) == ["good/good.npy"]
    assert registry.available("good")


def test_the_second_call_needs_no_network(project, server):
    first = registry.fetch("good")
    assert registry.fetch("good") == first == registry.fetch("good", download=False)
    assert registry.locate("good/good.npy") == first["good/good.npy"]
    assert server.requests["good"] == 1


def test_another_cache_folder(project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    assert registry.fetch("good", cache=elsewhere)["good/good.npy"].read_bytes() == BODY
    assert files_below(elsewhere) == ["good/good.npy"]
    assert registry.available("good", cache=elsewhere)
    assert not registry.available("good")


def test_one_file_of_two(project, server):
    assert registry.locate("pair/two.npy").read_bytes() == BODY
    assert server.requests == {"two": 1}
    assert not registry.available("pair")


def test_a_busy_server_is_asked_again(project, server):
    assert registry.fetch("busy")["busy/busy.npy"].read_bytes() == BODY
    assert server.requests["busy"] == download.ATTEMPTS


def test_a_gz_file_is_kept_packed_where_the_server_calls_it_an_encoding(project):
    assert registry.fetch("packed")["packed/packed.gz"].read_bytes() == PACKED


def test_progress_is_shown_on_a_terminal(project, monkeypatch, capsys):
    registry.fetch("pair", progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    registry.fetch("good", progress=True)
    assert re.search(r"\r +0\.26 of 0\.26 MB  good/good\.npy\n$", capsys.readouterr().err)


# --- downloads that fail


def test_a_wrong_checksum_is_refused(project, server):
    with pytest.raises(DatasetError, match=rf"'wrong'.*{sha256(WRONG)}.*expected {sha256(BODY)}") as caught:
        registry.fetch("wrong")
    assert f"address: {server.address}/wrong.npy" in str(caught.value)
    assert server.requests["wrong"] == 1
    assert cached(project) == []


@pytest.mark.parametrize("kind", ["short", "unannounced"])
def test_a_download_cut_off_is_refused(project, server, kind):
    with pytest.raises(DatasetError, match=f"file {kind}/{kind}.npy: .*cut off: got [0-9]+ of 256000 bytes"):
        registry.fetch(kind)
    assert server.requests[kind] == download.ATTEMPTS
    assert cached(project) == []


def test_a_stalled_download_is_given_up(project, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    with pytest.raises(DatasetError, match=r"cut off: got \d+ of 256000 bytes"):
        registry.fetch("stall")
    assert cached(project) == []


def test_a_missing_file_is_not_asked_for_again(project, server):
    with pytest.raises(DatasetError, match=r"'missing'.*the server answered 404 Not Found") as caught:
        registry.fetch("missing")
    assert f"by hand: {project}/data/cache/missing/missing.npy" in str(caught.value)
    assert server.requests["missing"] == 1
    assert cached(project) == []


def test_a_server_that_is_down(project):
    with pytest.raises(DatasetError, match=r"the server does not answer \(.*refused"):
        registry.fetch("down")
    assert cached(project) == []


def test_a_folder_that_cannot_be_written(project, tmp_path, server):
    put(tmp_path / "file")
    with pytest.raises(
        DatasetError, match=r"cannot write into .*file/sub/good .*\n.*\n.*another cache folder"
    ):
        registry.fetch("good", cache=tmp_path / "file" / "sub")
    assert server.requests["good"] == 0


def test_a_folder_in_the_place_of_the_file(project):
    (project / "data" / "cache" / "good" / "good.npy").mkdir(parents=True)
    with pytest.raises(DatasetError, match="cannot write into"):
        registry.fetch("good")
    assert cached(project) == []


def test_no_download_unless_allowed(project, server):
    with pytest.raises(DatasetError, match=r"not in .*data/cache\n.*registry fetch good"):
        registry.fetch("good", download=False)
    assert not server.requests


@pytest.mark.parametrize(("ending", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_fetch(project, server, ending, status):
    # The child sets the handler itself: a background job starts with SIGINT ignored.
    script = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from astro_utils.registry import main; sys.exit(main(['fetch', 'stall']))"
    )
    cache = project / "data" / "cache"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stderr=subprocess.PIPE,
    ) as child:
        deadline = time.monotonic() + 10
        while not any(part.stat().st_size for part in cache.rglob("*.part")) and time.monotonic() < deadline:
            time.sleep(0.02)
        child.send_signal(ending)
        _, said = child.communicate(timeout=10)
    assert child.returncode == status
    assert not registry.available("stall")
    if ending == signal.SIGINT:
        assert b"interrupted; no partial file is left" in said
        assert cached(project) == []


def test_what_a_killed_fetch_left_is_ignored_and_swept(project):
    folder = project / "data" / "cache" / "good"
    old = put(folder / ".good.npy.0123.part", BODY[:99])
    running = put(folder / ".good.npy.4567.part", BODY[:99])
    other = put(folder / ".good.npy2.0123.part", BODY[:99])
    for part in (old, other):
        os.utime(part, (0, 0))
    assert not registry.available("good")
    assert registry.fetch("good")["good/good.npy"].read_bytes() == BODY
    assert cached(project) == sorted(f"good/{name}" for name in ("good.npy", running.name, other.name))


def test_a_keyboard_interrupt_is_not_swallowed(project, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(download.ProgressLine, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.fetch("good", progress=True)
    assert cached(project) == []


# --- files that are here already


@pytest.mark.parametrize("named", ["absolute", "relative"])
def test_the_data_folder_comes_first(project, tmp_path, monkeypatch, server, named):
    own = put(tmp_path / "own" / "good" / "good.npy")
    monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path / "own") if named == "absolute" else "../own")
    (project / "notebooks").mkdir()
    monkeypatch.chdir(project / "notebooks")  # a relative name counts from the root, also from here
    assert registry.available("good")
    assert registry.fetch("good")["good/good.npy"].samefile(own)
    assert not server.requests


def test_a_wrong_file_in_the_data_folder_is_ignored(project, tmp_path, monkeypatch, server):
    own = put(tmp_path / "own" / "good" / "good.npy", WRONG)
    monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path / "own"))
    assert not registry.available("good")
    sums = rf"own/good/good.npy \(data folder\).*{sha256(WRONG)}.*{sha256(BODY)}"
    with pytest.warns(UserWarning, match=sums):
        fetched = registry.locate("good/good.npy")
    assert fetched == project / "data" / "cache" / "good" / "good.npy"
    assert fetched.read_bytes() == BODY
    assert own.read_bytes() == WRONG  # the reader's own file is left alone
    with pytest.warns(UserWarning, match=sums):
        assert registry.locate("good/good.npy") == fetched
    assert server.requests["good"] == 1


def test_an_absent_data_folder_does_no_harm(project, monkeypatch):
    monkeypatch.setenv("ASTRO_UTILS_DATA", "/no/such/folder")
    assert not registry.available("good")
    assert registry.fetch("good")["good/good.npy"].read_bytes() == BODY


@pytest.mark.parametrize("damage", [BODY[:-1], b"", WRONG])
def test_a_damaged_cache_is_fetched_again(project, server, damage):
    local = put(project / "data" / "cache" / "good" / "good.npy", damage)
    with pytest.warns(UserWarning, match=rf"\(cache\) is ignored: it has SHA-256 {sha256(damage)}"):
        assert registry.fetch("good")["good/good.npy"] == local
    assert local.read_bytes() == BODY
    assert server.requests["good"] == 1


def test_a_damaged_cache_does_not_outlive_a_failed_download(project):
    put(project / "data" / "cache" / "missing" / "missing.npy", WRONG)
    with pytest.warns(UserWarning, match="is ignored"), pytest.raises(DatasetError, match="404"):
        registry.fetch("missing")
    assert cached(project) == []


# --- datasets on request


def test_a_dataset_on_request_says_where_to_get_it_and_where_to_put_it(project):
    with pytest.raises(DatasetError, match="'heavy' has to be placed by hand") as caught:
        registry.fetch("heavy")
    parts = ("60 GB", "see there", "doi:10.1/heavy", "https://example.org/heavy", "table.csv: columns a, b")
    for part in (*parts, str(project / "data" / "cache" / "heavy"), "$ASTRO_UTILS_DATA/heavy"):
        assert part in str(caught.value)
    assert not registry.available("heavy")
    with pytest.raises(DatasetError, match="placed by hand"):
        registry.checksums("heavy")


@pytest.mark.parametrize("where", ["cache", "data folder"])
def test_a_placed_dataset_is_found(project, tmp_path, monkeypatch, where):
    home = project / "data" / "cache" / "heavy"
    if where == "data folder":
        home = tmp_path / "own" / "heavy"
        monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path / "own"))
    put(home / "images" / "b.fits", b"b")
    put(home / "images" / "a.fits", b"a")
    assert not registry.available("heavy")  # the table is not there yet
    put(home / "table.csv", b"t")
    assert registry.available("heavy")
    paths = ["heavy/images/a.fits", "heavy/images/b.fits", "heavy/table.csv"]
    assert list(registry.fetch("heavy")) == paths
    assert registry.locate("heavy/table.csv") == home / "table.csv"
    assert registry.checksums("heavy") == dict(zip(paths, map(sha256, (b"a", b"b", b"t")), strict=True))


# --- names and the registry file


def test_unknown_names(project):
    with pytest.raises(DatasetError, match="no dataset is called 'god'; known: good"):
        registry.fetch("god")
    with pytest.raises(DatasetError, match=r"no dataset has a file 'good/god.npy'; similar: good/good.npy"):
        registry.locate("good/god.npy")


def test_checksums_are_the_registered_ones(project):
    assert registry.checksums("pair") == {"pair/one.npy": sha256(BODY), "pair/two.npy": sha256(BODY)}


GOOD = table("x", "https://example.org/x.npy")
SUM = f'sha256 = "{sha256(BODY)}"'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[x", "cannot be read as TOML"),
        ("x = 3", "dataset 'x': is 3; expected a table"),
        (GOOD.replace('licence = "MIT"\n', ""), "'x': key 'licence' is missing; expected a text"),
        (GOOD.replace('"MIT"', '" "'), "'x': key 'licence' is ' '; expected a text that is not empty"),
        (GOOD.replace("licence", "license"), "'x': key 'licence' is missing"),
        (
            GOOD.replace('"MIT"', '"MIT"\nversion = 1'),
            "'x': unknown key 'version'; expected only description",
        ),
        (GOOD.split("[[")[0], r"'x': key 'files' is missing; expected one or more tables \[\[NAME.files\]\]"),
        (GOOD.split("[[")[0] + "files = []", r"'x': key 'files' is \[\]"),
        (GOOD.split("[[")[0] + "files = [1]", "'x', file 1: is 1; expected a table"),
        (
            GOOD.replace("x/x.npy", "../x.npy"),
            "'x', file 1: key 'path' is '../x.npy'; expected a relative path",
        ),
        (GOOD.replace("x/x.npy", "/x.npy"), "key 'path' is '/x.npy'"),
        (GOOD.replace("https", "ftp"), "key 'url' is 'ftp.*; expected an address that starts with https"),
        (GOOD.replace(SUM, 'sha256 = "ABC"'), "key 'sha256' is 'ABC'; expected 64 lower-case hex"),
        (GOOD.replace("= 256000", "= -1"), "key 'bytes' is -1; expected a whole number above 0"),
        (GOOD.replace("= 256000", "= true"), "key 'bytes' is True"),
        (
            GOOD + GOOD.replace("[x]", "[y]").replace("x.files", "y.files"),
            "'y': path 'x/x.npy' is also in 'x'",
        ),
        (
            PLACED.replace("request = true", "request = false"),
            "'heavy': key 'on_request' is False; expected true",
        ),
        (PLACED.replace('["https://example.org/heavy"]', "[]"), r"key 'landing_pages' is \[\]"),
        (PLACED.replace('"columns a, b"', "3"), "key 'layout' is .*; expected a table of relative paths"),
    ],
)
def test_a_malformed_registry_is_explained(tmp_path, text, message):
    (tmp_path / "registry.toml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        registry.load_registry(tmp_path / "registry.toml")


def test_an_absent_registry_is_explained(tmp_path):
    with pytest.raises(DatasetError, match=r"none\.toml: cannot be read"):
        registry.load_registry(tmp_path / "none.toml")


def test_the_root_is_found_from_below_and_explained_where_absent(project, tmp_path, monkeypatch):
    (project / "notebooks" / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "notebooks" / "deep")
    assert project_root() == project
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("astro_utils.paths.__file__", str(project / "astro_utils" / "paths.py"))
    assert project_root() == project
    monkeypatch.setattr("astro_utils.paths.__file__", str(tmp_path / "site" / "paths.py"))
    with pytest.raises(FileNotFoundError, match=r"no folder with _config\.yml and data/registry\.toml"):
        project_root()


# --- the command line


def test_list_shows_where_everything_is(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path / "own"))
    put(tmp_path / "own" / "good" / "good.npy")
    put(project / "data" / "cache" / "pair" / "one.npy")
    put(project / "data" / "cache" / "busy" / "busy.npy")
    assert registry.main(["list"]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert re.fullmatch(r"good +1 +0\.3 +MIT +data folder", rows["good"])
    assert re.fullmatch(r"pair +2 +0\.5 +MIT +cache \+ not here", rows["pair"])
    assert rows["busy"].endswith("  cache")
    assert rows["wrong"].endswith("  not here")
    assert re.fullmatch(r"heavy +- +- +see there +on request", rows["heavy"])


def test_fetch_goes_on_after_an_error_and_tells_of_it(project, capsys):
    assert registry.main(["fetch", "missing", "good"]) == 1
    out, err = capsys.readouterr()
    assert "404" in err
    assert out == f"ok         {project}/data/cache/good/good.npy\n"
    assert cached(project) == ["good/good.npy"]
    assert registry.main(["fetch", "good"]) == 0
    assert registry.main(["fetch", "heavy"]) == 1
    assert "https://example.org/heavy" in capsys.readouterr().err


def test_verify_reads_every_local_file(project, tmp_path, monkeypatch, capsys):
    assert registry.main(["verify"]) == 0  # nothing is here, and nothing is wrong
    assert registry.main(["verify", "good"]) == 1
    assert "not here   good/good.npy" in capsys.readouterr().out
    registry.fetch("good")
    assert registry.main(["verify", "good"]) == 0
    put(tmp_path / "own" / "good" / "good.npy", WRONG)
    monkeypatch.setenv("ASTRO_UTILS_DATA", str(tmp_path / "own"))
    capsys.readouterr()
    assert registry.main(["verify"]) == 1
    out = capsys.readouterr().out
    assert re.search(
        rf"WRONG .*own/good/good.npy: has SHA-256 {sha256(WRONG)} .*expected {sha256(BODY)}", out
    )
    assert re.search(r"ok .*data/cache/good/good.npy", out)
    assert registry.main(["verify", "heavy"]) == 1
    put(tmp_path / "own" / "heavy" / "images" / "a.fits")
    put(tmp_path / "own" / "heavy" / "table.csv")
    assert registry.main(["verify", "heavy"]) == 0
    assert "layout complete in" in capsys.readouterr().out


def test_the_command_line_explains_errors(project, capsys):
    assert registry.main(["verify", "god"]) == 1
    assert "error: no dataset is called 'god'" in capsys.readouterr().err
    (project / "data" / "registry.toml").write_text("[x")
    assert registry.main(["list"]) == 1
    assert "cannot be read as TOML" in capsys.readouterr().err


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["list"], ["verify", "good", "god"]])
def test_a_reader_that_leaves_ends_the_command_quietly(project, arguments, unbuffered):
    read, write = os.pipe()
    os.close(read)
    ended = subprocess.run(
        [sys.executable, "-m", "astro_utils.registry", *arguments],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": unbuffered},
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert ended.returncode == 141
    assert re.fullmatch(r"(error: no dataset is called 'god'.*\n)?", ended.stderr)


# --- the project's own registry


def test_list_is_quick_and_offline(project):
    (project / "data" / "registry.toml").write_bytes(REAL_REGISTRY.read_bytes())
    command = [sys.executable, "-m", "astro_utils.registry", "list"]
    start = time.perf_counter()
    listed = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - start < 1.5
    for name in registry.load_registry(REAL_REGISTRY):
        assert f"\n{name} " in listed.stdout


def test_every_dataset_has_a_card():
    cards = (REPOSITORY / "data" / "README.md").read_text()
    for name in registry.load_registry(REAL_REGISTRY):
        assert f"`{name}`" in cards


def test_every_address_is_pinned_and_fits_its_file():
    for dataset in registry.load_registry(REAL_REGISTRY).values():
        for file in dataset.files:
            assert re.match(
                r"https://(raw\.githubusercontent\.com/[^/]+/[^/]+/[0-9a-f]{40}|data\.sdss\.org/sas/dr17)/",
                file.url,
            )
            assert Path(file.path).suffix == Path(file.url).suffix


@pytest.mark.skipif(not REAL_DATA, reason="ASTRO_UTILS_DATA names no folder with the real files")
def test_every_registered_size_and_sum_is_that_of_the_real_file():
    files = [file for dataset in registry.load_registry(REAL_REGISTRY).values() for file in dataset.files]
    here = [file for file in files if (REPOSITORY / REAL_DATA / file.path).is_file()]
    if not here:
        pytest.skip(f"no registered file is in {REAL_DATA}, which ASTRO_UTILS_DATA names")
    bodies = {file.path: (REPOSITORY / REAL_DATA / file.path).read_bytes() for file in here}
    assert {file.path: (file.bytes, file.sha256) for file in here} == {
        path: (len(body), sha256(body)) for path, body in bodies.items()
    }
