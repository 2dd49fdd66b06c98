"""Readers of upstream formats: what is benign comes out as NumPy has it, what is hostile does not run."""

import builtins
import codecs
import copyreg
import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from astro_utils.legacy import UnsafePickleError, read_keras_dense, read_pickled_npy
from astro_utils.paths import project_root

REAL_DATA = os.environ.get("ASTRO_UTILS_DATA")


def real_file(name):
    if not REAL_DATA:
        pytest.skip("ASTRO_UTILS_DATA names no folder with the real files")
    return project_root() / REAL_DATA / name


def object_npy(path, payload, shape=()):
    """Write a .npy file of objects of which the pickle is `payload`."""
    with path.open("wb") as file:
        header = {"descr": "|O", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(payload)
    return path


def objects(*items):
    return np.fromiter(items, object, len(items))


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        if expected.dtype == object:
            for pair in zip(found.flat, expected.flat, strict=True):
                assert_same(*pair)
        else:
            np.testing.assert_array_equal(found, expected)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair)
    else:
        assert found == expected


BENIGN = {
    "numbers": objects(1, -70_000, 10**30, 1.5, 2 - 3j, True, None),
    "strings": objects("GALAXY", "STAR", "GALAXY", "é", "", "long" * 100),
    "bytes": objects(b"", b"\x00\xff", b"x" * 2000),
    "numpy scalars": objects(np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("QSO"), np.str_("")),
    "lists": objects([1, [2, (3,)]], (), [], {"a": {"b": [1]}, 2: None}),
    "table": np.array([["a", 1, None], ["b", 2.5, "c"]], dtype=object),
    "columns": np.asfortranarray(np.array([["a", 1, None], ["b", 2.5, "c"]], dtype=object)),
    "ragged": objects(np.arange(3.0), np.arange(400).reshape(20, 20), np.zeros((0, 3)), np.array(7)),
    "strings in arrays": objects(np.array(["a", "bcd"]), np.array([b"a", b"bcd"])),
    "fortran": objects(np.asfortranarray(np.arange(6.0).reshape(2, 3))),
    "dictionary": np.array({"stars": np.ones((2, 4, 4)), "options": {"n": 2, "limits": [0, 1e3]}}),
    "shared": objects(*(2 * [np.arange(3)])),
    "none": np.empty((0, 2), dtype=object),
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", BENIGN)
def test_objects_come_out_as_numpy_has_them(tmp_path, name, protocol):
    array = BENIGN[name]
    payload = pickle.dumps(array, protocol)
    found = read_pickled_npy(object_npy(tmp_path / "a.npy", payload, array.shape))
    assert_same(found, array)
    assert_same(found, pickle.loads(payload))
    assert found.flags.f_contiguous == array.flags.f_contiguous


@pytest.mark.parametrize("name", BENIGN)
def test_files_that_numpy_saves(tmp_path, name):
    np.save(tmp_path / "a.npy", BENIGN[name])
    assert_same(read_pickled_npy(tmp_path / "a.npy"), BENIGN[name])


@pytest.mark.parametrize("spelling", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_spellings_of_numpy_1_and_2(tmp_path, spelling):
    array = objects(np.float64(1.5), np.arange(3))
    payload = pickle.dumps(array, 3).replace(b"numpy._core.multiarray", spelling)
    assert spelling in payload
    assert_same(read_pickled_npy(object_npy(tmp_path / "a.npy", payload, (2,))), array)


def test_big_endian_values(tmp_path):
    payload = pickle.dumps(objects(np.arange(5, dtype=">f4"), np.array([">"], dtype=">U3")))
    found = read_pickled_npy(object_npy(tmp_path / "a.npy", payload, (2,)))
    assert_same(found, pickle.loads(payload))


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.array(["a", "bc"]), np.zeros(2, dtype=[("ü", "f4")]), np.array(3)],
)
def test_plain_arrays(tmp_path, array):
    if array.dtype.names:  # such names need version 3 of the header, of which NumPy warns
        with pytest.warns(UserWarning, match="version 3.0"):
            np.save(tmp_path / "a.npy", array)
    else:
        np.save(tmp_path / "a.npy", array)
    assert_same(read_pickled_npy(str(tmp_path / "a.npy")), array)


def test_arrays_are_writeable(tmp_path):
    np.save(tmp_path / "a.npy", objects(np.zeros(500)))
    read_pickled_npy(tmp_path / "a.npy")[0][:] = 1


class Call:
    """Pickles to the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def runstring(code, namespace):
    """What numpy.testing once offered to every pickle."""
    exec(code, namespace)


LIVE = {  # each makes the folder `m` when NumPy unpickles it
    "os.system": (lambda m: Call(os.system, f"mkdir '{m}'"), f"{os.system.__module__}.system"),
    "os.mkdir": (lambda m: Call(os.mkdir, m), f"{os.mkdir.__module__}.mkdir"),
    "subprocess": (lambda m: Call(subprocess.check_call, ["mkdir", m]), "subprocess.check_call"),
    "eval": (lambda m: Call(eval, f"__import__('os').mkdir({m!r})"), "builtins.eval"),
    "exec": (lambda m: Call(exec, f"import os; os.mkdir({m!r})"), "builtins.exec"),
    "runstring": (lambda m: Call(runstring, f"import os; os.mkdir({m!r})", {}), r"test_legacy\.runstring"),
    "getattr": (
        lambda m: Call(Call(getattr, Call(importlib.import_module, "os"), "mkdir"), m),
        "builtins.getattr|importlib.import_module",
    ),
    "codec": (lambda m: Call(codecs.lookup, Call(os.mkdir, m)), "_codecs.lookup|mkdir"),
    "hidden in a list": (lambda m: [1, {"a": (2, [Call(os.mkdir, m)])}], "mkdir"),
}


class Nested(Call):
    """Pickles to a function that another pickle makes."""

    def __call__(self, *arguments):
        raise AssertionError("only to be pickled")


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("name", LIVE)
def test_hostile_objects_do_not_run(tmp_path, name, protocol):
    make, refused = LIVE[name]
    marker = tmp_path / "marker"
    payload = pickle.dumps(objects(make(str(marker))), protocol)
    path = object_npy(tmp_path / "hostile.npy", payload, (1,))
    if protocol in (0, 5):  # not what NumPy writes: refused for its first foreign instruction or function
        refused = ""
    with pytest.raises(UnsafePickleError, match=rf"hostile\.npy: .*({refused})"):
        read_pickled_npy(path)
    assert not marker.exists()
    try:
        pickle.loads(payload)
    except (TypeError, AttributeError):
        pass
    assert marker.exists()  # the file was hostile indeed
