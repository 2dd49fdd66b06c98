"""The command line of the queries to public archives, and archives that cannot be reached."""

import re
from urllib.parse import urlsplit

import pandas as pd
import pytest
from archive_server import FIELD, no_server, packed, random_sky, running

from astro_utils import archive


@pytest.fixture
def sky(monkeypatch):
    with running(monkeypatch, list(random_sky())) as server:
        yield server


@pytest.fixture
def nowhere(monkeypatch):
    with no_server(monkeypatch) as address:
        yield address


@pytest.mark.parametrize("what", ["objects", "crossmatch", "frames"])
def test_without_network_one_sentence_says_what_to_do(nowhere, tmp_path, what):
    with pytest.raises(archive.ArchiveError) as caught:
        if what == "objects":
            archive.fetch_objects("compact", 1, tmp_path)
        elif what == "crossmatch":
            archive.crossmatch_spectra([150.0], [2.2])
        else:
            archive.fetch_frames(FIELD, tmp_path)
    said = str(caught.value)
    assert nowhere in said and re.search(r"cannot be reached \(\[Errno \d+\] Connection refused\)", said)
    assert "the simulated sky" in said and "\n" not in said and len(said) < 320
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_objects_and_their_frames_from_the_command_line(sky, tmp_path, capsys):
    folder = str(tmp_path)
    assert archive.main(["objects", "--kind", "compact", "--per-class", "1", "--folder", folder]) == 0
    path = capsys.readouterr().out.strip()
    assert path == str(tmp_path / "compact-dr16-1.parquet")
    sky.files = {urlsplit(url).path: packed() for url in archive.frame_urls(pd.read_parquet(path), "r")}
    assert archive.main(["frames", "--table", path, "--folder", folder, "--bands", "r"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("3 of 3 frames") and len(lines) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["objects", "--kind", "compact", "--per-class", "1"], "cannot be reached"),
        (["objects", "--kind", "compact", "--per-class", "0"], "limit is 0"),
        (["frames", "--table", "absent.parquet"], "absent.parquet: cannot be read as a Parquet table"),
        (["frames", "--table", __file__], "test_archive.py: cannot be read as a Parquet table"),
    ],
)
def test_the_command_line_explains_errors(nowhere, tmp_path, capsys, arguments, message):
    assert archive.main([*arguments, "--folder", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and "Traceback" not in said


def test_a_folder_that_cannot_be_written(sky, tmp_path, capsys):
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "sub")
    assert archive.main(["objects", "--kind", "compact", "--per-class", "1", "--folder", folder]) == 1
    assert re.match(r"error: .*Not a directory: .*file/sub", capsys.readouterr().err)


def test_an_interrupted_command_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(archive, "fetch_objects", interrupt)
    command = ["objects", "--kind", "compact", "--per-class", "1", "--folder", str(tmp_path)]
    assert archive.main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
