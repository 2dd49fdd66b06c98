"""The cache of arrays: made once, remade when code or packages change, never half-written or unpickled."""

import numpy as np
import pytest

from astro_utils.sky.cache import cache_key, cached


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("a = 1\n")
    return path


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"number": np.arange(3) + self.calls, "name": np.array(["B5", "K0"])}


def test_arrays_are_made_once_and_come_back_equal(tmp_path, source):
    make = Maker()
    first = cached("stars", [source], make, folder=tmp_path / "cache")
    again = cached("stars", [source], make, folder=tmp_path / "cache")
    assert make.calls == 1
    assert list(first) == list(again) == ["number", "name"]
    for key in first:
        assert first[key].dtype == again[key].dtype
        np.testing.assert_array_equal(first[key], again[key])


def test_changed_code_makes_them_anew_and_removes_the_old_file(tmp_path, source):
    make, folder = Maker(), tmp_path / "cache"
    cached("stars", [source], make, folder=folder)
    cached("stars-of-mine", [source], make, folder=folder)
    source.write_text("a = 2\n")
    assert cached("stars", [source], make, folder=folder)["number"][0] == 3
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2 and names[0].startswith("stars-") and names[1].startswith("stars-of-mine-")


def test_the_key_depends_on_code_order_and_package_versions_alone(tmp_path, source):
    other = tmp_path / "other.py"
    other.write_text("b = 1\n")
    key = cache_key([source, other], ["numpy"])
    assert len(key) == 16 and key == cache_key([str(source), other], ["numpy"])
    assert (
        len({key, cache_key([other, source], ["numpy"]), cache_key([source, other]), cache_key([source])})
        == 4
    )
    assert cache_key([np], []) == cache_key([np.__file__], [])


def test_a_damaged_file_is_made_again(tmp_path, source):
    make = Maker()
    cached("stars", [source], make, folder=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    for damage in (b"", path.read_bytes()[:100], b"not an archive"):
        path.write_bytes(damage)
        calls = make.calls
        assert cached("stars", [source], make, folder=tmp_path / "cache")["number"][0] == calls + 1
    assert list((tmp_path / "cache").iterdir()) == [path]


def test_nothing_is_left_behind_by_a_failure(tmp_path, source):
    def fail():
        raise RuntimeError("no spectra")

    with pytest.raises(RuntimeError, match="no spectra"):
        cached("stars", [source], fail, folder=tmp_path / "cache")
    with pytest.raises(ValueError, match="array 'name' holds Python objects"):
        cached("stars", [source], lambda: {"name": np.array([None, "K0"])}, folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_pickles_are_never_opened(tmp_path, source):
    make = Maker()
    cached("stars", [source], make, folder=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    np.savez(path, number=np.array([{"a": 1}], dtype=object))
    assert cached("stars", [source], make, folder=tmp_path / "cache")["number"][0] == 2


def test_names_and_sources_are_checked(tmp_path, source):
    with pytest.raises(ValueError, match=r"'\.\./stars' cannot name a cached file"):
        cached("../stars", [source], Maker(), folder=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        cached("stars", [tmp_path / "absent.py"], Maker(), folder=tmp_path)
