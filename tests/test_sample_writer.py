"""Large samples: the same bytes with any number of workers and after any interruption, in bounded memory."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from threadpoolctl import threadpool_info, threadpool_limits

from astro_utils.sample_writer import write_sharded
from astro_utils.samples import Block, Column, SampleError, SampleInfo, open_sample, validate, write_sample

INFO = SampleInfo("sdss", "simulated", ("g", "r"), 0.396, seed=1, provenance={"made": "by a test"})
COLUMNS = {name: Column("", name) for name in ("object_id", "ra", "dec", "class")}


@dataclass(frozen=True)
class Maker:
    """Makes shards of known numbers of objects; notes in a folder which were asked for, and by which process.

    Shard `fails` raises an error, and shard `dies` ends its process, if they are asked for.
    """

    sizes: tuple[int, ...] = (64,) * 5 + (40,)
    notes: str | None = None
    seconds: float = 0.0
    fails: int = -1
    dies: int = -1
    offset: int = 0

    def __call__(self, shard: int) -> Block:
        if self.notes:
            Path(self.notes, f"{shard}-{os.getpid()}-{time.monotonic_ns()}").touch()
        if shard == self.fails:
            raise ZeroDivisionError("no such galaxy")
        if shard == self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        rng, n = np.random.default_rng([shard, self.offset]), self.sizes[shard]
        table = pd.DataFrame(
            {
                "object_id": sum(self.sizes[:shard]) + np.arange(n),
                "ra": rng.uniform(0, 360, n),
                "dec": rng.uniform(-90, 90, n),
                "class": rng.choice(["GALAXY", "étoile"], n),
            }
        )
        noise = rng.normal(0, 1, (2 * n, 64)) @ rng.normal(0, 1, (64, 64))  # a sum that threads would share
        return Block(table, COLUMNS, noise.reshape(n, 2, 8, 8).astype(np.float32))

    def noted(self) -> list[int]:
        """Shards that were asked for, each as often as it was."""
        return sorted(int(path.name.split("-")[0]) for path in Path(self.notes).iterdir())


@pytest.fixture
def noting(tmp_path):
    """Return a maker that takes notes."""
    (tmp_path / "notes").mkdir()
    return Maker(notes=str(tmp_path / "notes"))


def write(path, make, **options):
    return write_sharded(path, make, len(make.sizes), INFO, **{"progress": False, **options})


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def interrupted(path, make, shard, **options):
    """Write until `shard` fails, so that those before it are left."""
    with pytest.raises(SampleError, match=f"shard {shard}: ZeroDivisionError"):
        write(path, replace(make, fails=shard), **options)
    return path.with_name(path.name + ".shards")


def assert_holds(path, make):
    """Assert that the sample is what the shards are, one after the other."""
    blocks = [replace(make, notes=None, fails=-1)(shard) for shard in range(len(make.sizes))]
    assert validate(path, deep=True) == []
    with open_sample(path) as sample:
        assert sample.info == INFO
        everything = pd.concat([block.catalogue for block in blocks], ignore_index=True)
        assert_frame_equal(sample.catalogue(), everything)
        np.testing.assert_array_equal(sample.images(), np.concatenate([block.images for block in blocks]))


def environment():
    """Environment of a process that may import this module, with one thread."""
    places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, places))}


def run_script(code, *arguments):
    """Run Python code in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------------------------- the same bytes


def test_bytes_do_not_depend_on_the_number_of_workers(tmp_path):
    make = Maker()
    one, two = (write(tmp_path / f"{n}.h5", make, workers=n) for n in (1, 2))
    assert sha256(one) == sha256(two)
    assert_holds(one, make)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5", "2.h5"], "no folder is left"


@pytest.mark.parametrize(
    "sizes", [(1,), (50, 1, 0, 70, 130, 64), (128, 64, 64), (0, 0), (4096, 100)], ids=str
)
def test_shards_of_any_size_are_joined(tmp_path, sizes):
    make = Maker(sizes)
    assert_holds(write(tmp_path / "a.h5", make), make)


def test_a_joined_sample_has_the_chunks_of_one_written_at_once(tmp_path):
    make = Maker((128, 64, 30))
    joined = write(tmp_path / "a.h5", make)
    whole = write_sample(tmp_path / "b.h5", map(make, range(3)), INFO)
    with open_sample(joined) as a, open_sample(whole) as b:
        for name in ("images", "catalogue/ra"):
            chunks = [
                [
                    file[name].id.read_direct_chunk(file[name].id.get_chunk_info(k).chunk_offset)
                    for k in range(n)
                ]
                for file in (a.file, b.file)
                for n in [file[name].id.get_num_chunks()]
            ]
            assert len(chunks[0]) == (4 if name == "images" else 1)
            assert chunks[0] == chunks[1]


def test_one_thread_makes_the_numbers(tmp_path):
    import torch  # here, as the processes that import this module start sooner without it

    seen = []

    def make(shard):
        seen.append({pool["num_threads"] for pool in threadpool_info()} | {torch.get_num_threads()})
        return Maker()(shard)

    torch_before = torch.get_num_threads()
    with threadpool_limits(limits=2):
        torch.set_num_threads(2)
        before = threadpool_info()
        write_sharded(tmp_path / "a.h5", make, 2, INFO, progress=False)
        assert threadpool_info() == before and {pool["num_threads"] for pool in before} == {2}
        assert torch.get_num_threads() == 2
    torch.set_num_threads(torch_before)
    assert seen == [{1}, {1}]


# ------------------------------------------------------------------------------------------ interruptions

KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from test_sample_writer import Maker, sha256, write

path, undisturbed = map(Path, sys.argv[1:])
make = Maker(seconds=0.01, sizes=(64,) * 9 + (40,))
start = time.monotonic()
write(undisturbed, make)
duration = time.monotonic() - start
draw, kills, finished = random.Random(0), 0, 0
while True:
    child = os.fork()
    if child == 0:
        write(path, make)
        os._exit(0)
    if kills < 10:
        time.sleep(draw.uniform(0, duration))
        os.kill(child, signal.SIGKILL)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        kills += 1
        continue
    assert sha256(path) == sha256(undisturbed)
    if kills == 10:
        break
    path.unlink()
    finished += 1
print(kills, finished)
"""


def test_ten_kills_at_random_moments_change_no_byte(tmp_path):
    path, undisturbed = tmp_path / "killed.h5", tmp_path / "undisturbed.h5"
    kills = run_script(KILLS, path, undisturbed).split()[0]
    assert kills == "10"
    assert sha256(path) == sha256(undisturbed)
    assert sorted(tmp_path.iterdir()) == [path, undisturbed], "nothing half-written is left"


POOL = """
import sys
from test_sample_writer import Maker, write

if __name__ == "__main__":
    write(sys.argv[1], Maker(notes=sys.argv[2], seconds=20.0), workers=2)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")
def test_workers_end_with_the_process_that_is_killed(tmp_path, noting):
    script, path = tmp_path / "script.py", tmp_path / "a.h5"
    script.write_text(POOL)
    parent = subprocess.Popen([sys.executable, script, path, noting.notes], env=environment())
    deadline = time.monotonic() + 30
    while len(noting.noted()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    workers = {int(note.name.split("-")[1]) for note in Path(noting.notes).iterdir()}
    assert workers and parent.pid not in workers
    deadline = time.monotonic() + 10  # a shard takes 20 s: they do not finish what they are at
    while any(map(is_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(is_alive, workers))
    assert not path.exists()
    write(path, noting)
    assert_holds(path, noting)


def test_a_second_run_makes_what_the_first_did_not(tmp_path, noting):
    folder = interrupted(tmp_path / "a.h5", noting, 4)
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{shard:06d}.h5" for shard in range(4)),
        "request.json",
    ]
    assert json.loads((folder / "request.json").read_text())["n_shards"] == 6
    write(tmp_path / "a.h5", noting)
    assert noting.noted() == [0, 1, 2, 3, 4, 4, 5]
    assert sha256(tmp_path / "a.h5") == sha256(write(tmp_path / "b.h5", Maker()))


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: os.truncate(path, path.stat().st_size // 2),
        lambda path: os.truncate(path, 0),
        lambda path: path.write_text("not HDF5"),
        lambda path: write_sample(path, [Maker()(1)], INFO),
        flip,
    ],
    ids=["truncated", "empty", "text", "without a request", "one byte"],
)
def test_a_damaged_shard_is_made_again(tmp_path, noting, damage):
    folder = interrupted(tmp_path / "a.h5", noting, 4)
    damage(folder / "000001.h5")
    write(tmp_path / "a.h5", noting)
    assert noting.noted() == [0, 1, 1, 2, 3, 4, 4, 5]
    assert_holds(tmp_path / "a.h5", noting)


@pytest.mark.parametrize("leftover", ["joined.h5", ".joined.abc.h5", ".000005.xyz.h5", ".request.q.json"])
def test_what_a_killed_run_half_wrote_is_removed(tmp_path, leftover):
    folder = interrupted(tmp_path / "a.h5", Maker(), 4)
    (folder / leftover).write_bytes(b"half")
    assert_holds(write(tmp_path / "a.h5", Maker()), Maker())
    assert not folder.exists()


@pytest.mark.parametrize(
    "options",
    [{"key": {"limit": 23}}, {"info": replace(INFO, seed=2)}, {"info": replace(INFO, provenance={})}],
    ids=str,
)
def test_shards_of_another_request_are_never_used(tmp_path, options):
    path = tmp_path / "a.h5"
    interrupted(path, Maker(), 4, key={"limit": 22})
    other = Maker(offset=1)
    options = {"info": INFO, "key": {"limit": 22}, **options}
    with pytest.raises(SampleError, match="shard 0"):
        write_sharded(path, replace(other, fails=0), 6, progress=False, **options)
    assert [file.name for file in (tmp_path / "a.h5.shards").iterdir()] == ["request.json"]
    write_sharded(path, other, 6, progress=False, **options)
    fresh = write_sharded(tmp_path / "b.h5", other, 6, progress=False, **options)
    assert sha256(path) == sha256(fresh)


def test_the_key_of_a_folder_is_the_last_to_go(tmp_path, monkeypatch):
    """So that what a killed removal leaves is still known for a folder of shards."""
    folder = interrupted(tmp_path / "a.h5", Maker(), 4)
    unlink, removed = Path.unlink, []

    def noted(path, **options):
        if path.parent == folder and path.suffix == ".h5" and not path.name.startswith("."):
            assert (folder / "request.json").exists()
            removed.append(path.name)
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", noted)
    write(tmp_path / "a.h5", Maker())
    assert len(removed) == 6 and not folder.exists()


def test_a_shard_of_another_request_in_the_folder_is_not_used(tmp_path):
    """As a worker leaves it that outlives its run by a moment."""
    stale = interrupted(tmp_path / "old.h5", Maker(offset=1), 4, key={"limit": 22}) / "000002.h5"
    folder = interrupted(tmp_path / "a.h5", Maker(), 4)
    (folder / "000002.h5").write_bytes(stale.read_bytes())
    assert_holds(write(tmp_path / "a.h5", Maker()), Maker())


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "a.h5.shards").mkdir()
    thesis = tmp_path / "a.h5.shards" / "thesis.tex"
    thesis.write_text("Chapter 1")
    with pytest.raises(SampleError, match=r"a\.h5\.shards: not a folder of shards, having no request\.json"):
        write(tmp_path / "a.h5", Maker())
    assert thesis.read_text() == "Chapter 1"


# ----------------------------------------------------------------------------------------- existing files


def test_a_finished_sample_is_not_made_again(tmp_path, noting):
    path = write(tmp_path / "a.h5", noting, key={"limit": 22})
    before = path.stat().st_mtime_ns
    leftover = interrupted(tmp_path / "b.h5", Maker(), 4, key={"limit": 22})
    leftover.rename(tmp_path / "a.h5.shards")  # as after a kill just before the folder's removal
    for overwrite in (False, True):
        assert write(path, noting, key={"limit": 22}, overwrite=overwrite) == path
    assert noting.noted() == [0, 1, 2, 3, 4, 5]
    assert path.stat().st_mtime_ns == before
    assert not (tmp_path / "a.h5.shards").exists()


@pytest.mark.parametrize(
    "there",
    [
        lambda path: write(path, Maker(), key={"limit": 22}),
        lambda path: write_sample(path, [Maker()(0)], INFO),
        lambda path: os.truncate(write(path, Maker()), 5000),
        lambda path: path.write_text("my notes"),
    ],
    ids=["another key", "no key", "truncated", "text"],
)
def test_another_file_is_replaced_only_if_asked(tmp_path, there):
    path = tmp_path / "a.h5"
    there(path)
    before = path.read_bytes()
    with pytest.raises(SampleError, match=r"a\.h5: the file is there, but is not the sample asked for"):
        write(path, Maker())
    assert path.read_bytes() == before
    with pytest.raises(SampleError, match="shard 5: ZeroDivisionError"):
        write(path, Maker(fails=5), overwrite=True)
    assert path.read_bytes() == before, "the old file stays until the new one is whole"
    assert_holds(write(path, Maker(), overwrite=True), Maker())


# ------------------------------------------------------------------------------------------------ failures


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_names_its_shard(tmp_path, workers):
    with pytest.raises(SampleError, match="shard 3: ZeroDivisionError: no such galaxy") as caught:
        write(tmp_path / "a.h5", Maker(fails=3), workers=workers)
    chain = caught.value.__cause__
    assert "no such galaxy" in str(chain) and not (tmp_path / "a.h5").exists()


def test_a_killed_worker_is_reported_and_its_shard_can_be_made_later(tmp_path):
    with pytest.raises(SampleError, match=r"a\.h5\.shards: a worker was killed, perhaps for want of memory"):
        write(tmp_path / "a.h5", Maker(dies=3), workers=2)
    assert_holds(write(tmp_path / "a.h5", Maker()), Maker())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda shard: Maker()(shard).catalogue, "shard 0: .* returned a DataFrame; expected a Block"),
        (lambda shard: replace(Maker()(shard), images=None), "shard 0: SampleError: the block has no images"),
        (
            lambda shard: replace(Maker()(shard), images=np.zeros(((64, 2, 8, 8 + shard)), np.float32)),
            r"shard 1 is unlike shard 0: images is float32 \(2, 8, 9\) in this block",
        ),
    ],
)
def test_wrong_shards_are_refused(tmp_path, make, words):
    with pytest.raises(SampleError, match=words):
        write_sharded(tmp_path / "a.h5", make, 3, INFO, progress=False)
    assert not (tmp_path / "a.h5").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"n_shards": 0}, r"a\.h5: n_shards is 0 and workers is 1; expected at least 1"),
        ({"workers": 0}, "workers is 0; expected at least 1"),
        ({"key": {"limit": float("nan")}}, r"a\.h5: key cannot be written as JSON"),
        ({"key": {"survey": object()}}, r"a\.h5: key cannot be written as JSON"),
    ],
)
def test_wrong_requests_are_refused(tmp_path, options, words):
    options = {"n_shards": 6, "progress": False, **options}
    with pytest.raises(SampleError, match=words):
        write_sharded(tmp_path / "a.h5", Maker(), info=INFO, **options)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_shown_on_request(tmp_path, capsys):
    write(tmp_path / "a.h5", Maker())
    assert capsys.readouterr() == ("", "")
    write(tmp_path / "b.h5", Maker(), progress=True)
    assert "b.h5: 100%" in (err := capsys.readouterr().err) and "6/6" in err


# ------------------------------------------------------------------------------------------------- memory

MEMORY = """
import re, sys
from pathlib import Path
from test_sample_writer import INFO, Block, COLUMNS, np, pd, write_sharded

def make(shard):
    n = 256
    table = pd.DataFrame({"object_id": shard * n + np.arange(n), "ra": 1.0, "dec": 2.0, "class": "GALAXY"})
    return Block(table, COLUMNS, np.full((n, 2, 50, 50), shard, np.float32))

write_sharded(sys.argv[1], make, int(sys.argv[2]), INFO, progress=False)
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


# Not resource.getrusage, whose peak starts at that of the process which started this one.
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_memory_does_not_grow_with_the_sample(tmp_path):
    ten, forty = (int(run_script(MEMORY, tmp_path / f"{n}.h5", n)) for n in (10, 40))
    assert forty < 1.1 * ten, "the thirty further shards alone are 150 MB, against a process of 180 MB"
