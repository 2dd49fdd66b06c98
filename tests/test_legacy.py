"""Readers of upstream formats: what is benign comes out as NumPy has it, what is hostile does not run."""

import collections
import copyreg
import functools
import importlib
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
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
    [np.arange(6.0).reshape(2, 3), np.array(["a", "bc"]), np.zeros(2, dtype=[("λ", "f4")]), np.array(3)],
)
def test_plain_arrays(tmp_path, array):
    if array.dtype.names:  # such names need version 3 of the header, of which NumPy warns
        with pytest.warns(UserWarning, match="format 3.0"):
            np.save(tmp_path / "a.npy", array)
    else:
        np.save(tmp_path / "a.npy", array)
    assert_same(read_pickled_npy(str(tmp_path / "a.npy")), array)


def test_arrays_are_writeable(tmp_path):
    np.save(tmp_path / "a.npy", objects(np.zeros(500)))
    read_pickled_npy(tmp_path / "a.npy")[0][:] = 1


class Call:
    """Pickles to the call of a function, which may itself be the result of a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call

    def __call__(self):
        raise AssertionError("is only pickled")


def runstring(code, namespace):  # such a function was in numpy.testing, within reach of any pickle
    exec(code, namespace)


LIVE = {  # each makes the folder m where pickle loads it
    "os.system": (lambda m: Call(os.system, f"mkdir '{m}'"), rf"{os.system.__module__}\.system"),
    "os.mkdir": (lambda m: Call(os.mkdir, m), rf"{os.mkdir.__module__}\.mkdir"),
    "subprocess": (lambda m: Call(subprocess.check_call, ["mkdir", m]), r"(subprocess|commands)\.check_call"),
    "eval": (lambda m: Call(eval, f"__import__('os').mkdir({m!r})"), r"builtin\w*\.eval"),
    "exec": (lambda m: Call(exec, f"import os; os.mkdir({m!r})"), r"builtin\w*\.exec"),
    "runstring": (lambda m: Call(runstring, f"import os; os.mkdir({m!r})", {}), r"test_legacy\.runstring"),
    "getattr": (
        lambda m: Call(Call(getattr, Call(importlib.import_module, "os"), "mkdir"), m),
        r"builtin\w*\.getattr",
    ),
    "partial": (lambda m: Call(functools.partial(os.mkdir, m)), r"functools\.partial"),
    "in a container": (lambda m: [1, {"a": (2, [Call(os.mkdir, m)])}], r"\.mkdir"),
    "in an array": (lambda m: objects("STAR", objects(Call(os.mkdir, m))), r"\.mkdir"),
}


def refusal(path, refused):
    return pytest.raises(UnsafePickleError, match=rf"{re.escape(str(path))}: .*{refused}")


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("name", LIVE)
def test_calls_do_not_run(tmp_path, name, protocol):
    make, refused = LIVE[name]
    marker = tmp_path / "marker"
    payload = pickle.dumps(objects(make(str(marker))), protocol)
    path = object_npy(tmp_path / "hostile.npy", payload, (1,))
    with refusal(path, refused):
        read_pickled_npy(path)
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists()  # so the file was hostile


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(name, *arguments):
    """Instructions that call the global `name`, "module function", with what instructions leave behind."""
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


NUMPY = "numpy._core.multiarray"


def array(shape, dtype, data):
    """Instructions of an array with the state (1, shape, dtype, C order, data)."""
    start = call(f"{NUMPY} _reconstruct", b"cnumpy\nndarray\n", b"K\x00\x85", b"C\x01b")
    return start + b"(K\x01" + shape + b"\x85" + dtype + b"\x89" + data + b"tb"


FLOAT = call("numpy dtype", text("f8"), b"\x89", b"\x88")
OBJECT = call("numpy dtype", text("O8"), b"\x89", b"\x88")
EIGHT_BYTES = b"C\x08" + bytes(8)
ONE, NINE, MINUS_ONE = b"K\x01", b"K\x09", b"J" + struct.pack("<i", -1)

FORGED = {  # instructions, and what the message says
    # other ways to a function than GLOBAL and REDUCE
    "runstring": (b"cnumpy.testing._private.utils\nrunstring\n", r"numpy\.testing\.\S*\.runstring"),
    "dotted name": (text("numpy") + text("ndarray.__class__") + b"\x93", r"numpy\.ndarray\.__class__"),
    "path to os": (text("numpy") + text("core.multiarray.os.mkdir") + b"\x93", r"numpy\.core\S*mkdir"),
    "name of no text": (ONE + ONE + b"\x93", "STACK_GLOBAL requires str"),
    "INST": (b"(" + text("MARKER") + b"ios\nmkdir\n", r"os\.mkdir"),
    "OBJ": (b"(cos\nmkdir\n" + text("MARKER") + b"o", r"os\.mkdir"),
    "NEWOBJ": (b"cnumpy\ndtype\n" + text("f8") + b"\x85\x81", "NEWOBJ"),
    "persistent id": (text("MARKER") + b"Q", "BINPERSID"),
    "buffer from outside": (b"\x97", "NEXT_BUFFER"),
    "no instruction": (b"\xff", "ÿ"),
    # admitted functions, asked for something else
    "other class": (call(f"{NUMPY} _reconstruct", b"cnumpy\ndtype\n", b")", ONE), "_reconstruct"),
    "class called": (call("numpy ndarray", ONE), "not callable"),
    "scalar that unpickles": (call(f"{NUMPY} scalar", OBJECT, EIGHT_BYTES), "scalar is asked"),
    "scalar of no dtype": (call("numpy.core.multiarray scalar", text("O"), EIGHT_BYTES), "scalar is asked"),
    "scalar too short": (call("numpy.core.multiarray scalar", FLOAT, b"C\x04abcd"), "cannot have 4"),
    "codec": (call("_codecs encode", text("x"), text("rot13")), r"_codecs\.encode"),
    "lookup of codecs": (call("_codecs lookup", text("rot13")), r"_codecs\.lookup"),
    "records": (call("numpy dtype", text("f8,O"), b"\x89", b"\x88"), "f8,O"),
    "void": (call("numpy dtype", text("V8"), b"\x89", b"\x88"), "V8"),
    # states from which memory would be misread, or which would change the reader
    "fields": (
        FLOAT + b"(K\x03" + text("|") + b"N" + text("a") + b"\x85}K\x08K\x08K\x00tb",
        "dtype is given",
    ),
    "pointers": (array(ONE, OBJECT, EIGHT_BYTES), "is given bytes"),
    "past the end": (array(NINE, FLOAT, EIGHT_BYTES), "cannot have 8"),
    "negative shape": (array(MINUS_ONE, FLOAT, EIGHT_BYTES), "shape"),
    "shape of text": (array(text("a"), FLOAT, EIGHT_BYTES), "shape"),
    "state of a function": (b"c_codecs\nencode\n}" + text("__name__") + ONE + b"sb", "sets the state of"),
    "state of a class": (b"cnumpy\ndtype\n}" + text("build") + ONE + b"sb", "sets the state of"),
    # containers
    "item of an array": (array(ONE, FLOAT, EIGHT_BYTES) + ONE + ONE + b"s", "numpy.ndarray"),
    "list as a key": (b"}]" + ONE + b"s", "a list as a key"),
    "tuples as a key": (b"})" + 1_000_000 * b"\x85" + ONE + b"s", "a tuple as a key"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_instructions_do_not_run(tmp_path, name):
    payload, message = FORGED[name]
    marker = tmp_path / "marker"
    payload = payload.replace(text("MARKER"), text(str(marker)))
    path = object_npy(tmp_path / "hostile.npy", payload + b".")
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: .*{message}"):
        read_pickled_npy(path)
    assert not marker.exists()


@pytest.mark.parametrize("value", [b"c_codecs\nencode\n", b"cnumpy\nndarray\n", FLOAT])
def test_functions_and_types_are_not_data(tmp_path, value):
    payload = pickle.dumps(objects("PLACE"), 3).replace(text("PLACE"), value)
    with refusal(object_npy(tmp_path / "a.npy", payload, (1,)), "holds a type or a function"):
        read_pickled_npy(tmp_path / "a.npy")


def test_extension_codes_are_refused_even_when_registered(tmp_path):
    marker = tmp_path / "marker"
    copyreg.add_extension(os.mkdir.__module__, "mkdir", 240)
    try:
        payload = pickle.dumps(objects(Call(os.mkdir, str(marker))), 3)
        assert b"mkdir" not in payload
        with refusal(object_npy(tmp_path / "a.npy", payload, (1,)), "EXT1"):
            read_pickled_npy(tmp_path / "a.npy")
    finally:
        copyreg.remove_extension(os.mkdir.__module__, "mkdir", 240)
    assert not marker.exists()


@pytest.mark.parametrize("value", [{1, 2}, np.ma.zeros(2), np.datetime64("2020-01-01"), Path("a"), len])
def test_other_types_are_refused(tmp_path, value):
    np.save(tmp_path / "a.npy", objects("STAR", value))
    with refusal(tmp_path / "a.npy", ""):
        read_pickled_npy(tmp_path / "a.npy")


def test_records_of_objects_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2, dtype=[("a", "f8"), ("b", "O")]))
    with pytest.raises(ValueError, match=r"a\.npy: .*Object arrays cannot be loaded"):
        read_pickled_npy(tmp_path / "a.npy")


@pytest.mark.parametrize("saved", [BENIGN["dictionary"], np.arange(30.0)], ids=["objects", "plain"])
def test_truncated_files(tmp_path, saved):
    np.save(tmp_path / "a.npy", saved)
    whole = (tmp_path / "a.npy").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "a.npy").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.npy: not a readable \.npy file"):
            read_pickled_npy(tmp_path / "a.npy")


def test_damaged_files_raise_nothing_else(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, objects("STAR", np.arange(3), {"a": (1, 2.5)}, np.float32(1), [b"x", None]))
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(whole)
        for place in rng.integers(10, len(whole), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read_pickled_npy(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 500


def test_wrong_files(tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(objects("STAR")))
    with pytest.raises(ValueError, match=r"a\.npy: not a readable .*magic string"):
        read_pickled_npy(path)
    with pytest.raises(ValueError, match=r"does not hold the objects of shape \(3,\)"):
        read_pickled_npy(object_npy(path, pickle.dumps(objects("STAR")), (3,)))
    with pytest.raises(ValueError, match="does not hold the objects"):
        read_pickled_npy(object_npy(path, pickle.dumps([1, 2])))
    with pytest.raises(FileNotFoundError, match="absent"):
        read_pickled_npy(tmp_path / "absent.npy")


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("margnet/y_exp1.npy", {"GALAXY": 79_999, "QSO": 80_000, "STAR": 80_000}),
        ("margnet/y_exp2.npy", {"GALAXY": 50_000, "QSO": 50_000, "STAR": 49_996}),
    ],
)
def test_real_labels(name, counts):
    labels = read_pickled_npy(real_file(name))
    assert labels.dtype == object
    assert dict(collections.Counter(labels)) == counts


@pytest.mark.parametrize("name", ["train_Euclid_res_200stars", "conf_train_Euclid_res_200_stars_dim256"])
def test_real_stars(name):
    stars = read_pickled_npy(real_file(f"wf_psf/{name}.npy")).item()
    shapes = {"stars": (160, 32, 32), "positions": (160, 2), "SEDs": (160, 352, 2)}
    assert {key: stars[key].shape for key in shapes} == shapes
    assert stars["parameters"]["output_dim"] == 32
    np.testing.assert_allclose(stars["stars"].sum((1, 2)), 1, rtol=0.1)  # so the pixels are in their places
    assert (np.diff(stars["SEDs"][:, :, 0]) > 0).all()


def dense(name, kernel, bias=None, activation="linear"):
    options = {"name": name, "units": kernel.shape[1], "activation": activation, "use_bias": bias is not None}
    weights = {f"{name}/kernel:0": kernel} | ({} if bias is None else {f"{name}/bias:0": bias})
    return {"class_name": "Dense", "config": options}, weights


def layer(kind, name, **options):
    return {"class_name": kind, "config": {"name": name} | options}, {}


def keras_file(path, layers, kind="Sequential"):
    with h5py.File(path, "w") as file:
        config = {"class_name": kind, "config": {"layers": [entry for entry, _ in layers]}}
        file.attrs["model_config"] = json.dumps(config)
        for entry, weights in layers:
            group = file.create_group(f"model_weights/{entry['config']['name']}")
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, values in weights.items():
                group[name] = values
    return path


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


RNG = np.random.default_rng(7)
KERNELS = [RNG.normal(size=shape).astype(np.float32) for shape in ((3, 5), (5, 4), (4, 2))]
BIASES = [RNG.normal(size=n).astype(np.float32) for n in (5, 4, 2)]
X = RNG.normal(size=(11, 3))


def small_network():
    return [
        layer("InputLayer", "input", batch_input_shape=[None, 3]),
        dense("first", KERNELS[0], BIASES[0], "sigmoid"),
        layer("Dropout", "dropout", rate=0.5),
        dense("second", KERNELS[1], BIASES[1]),
        layer("Activation", "activation", activation="relu"),
        dense("third", KERNELS[2], BIASES[2], "softmax"),
    ]


def small_output():
    hidden = 1 / (1 + np.exp(-(X @ KERNELS[0] + BIASES[0])))
    hidden = np.maximum(hidden @ KERNELS[1] + BIASES[1], 0)
    return softmax(hidden @ KERNELS[2] + BIASES[2])


def test_keras_network_gives_what_numpy_computes(tmp_path):
    state = torch.get_rng_state()
    network = read_keras_dense(keras_file(tmp_path / "a.h5", small_network()))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        single = network(torch.as_tensor(X, dtype=torch.float32))
        double = network.double()(torch.as_tensor(X))
    np.testing.assert_allclose(double.numpy(), small_output(), rtol=1e-12)
    np.testing.assert_allclose(single.numpy(), small_output(), rtol=1e-5)
    assert (network.layers[0].in_features, network.layers[0].out_features) == (3, 5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [("tanh", np.tanh), ("linear", lambda x: x), ("relu", lambda x: np.maximum(x, 0)), ("softmax", softmax)],
)
def test_activations_without_bias(tmp_path, activation, function):
    file = keras_file(tmp_path / "a.h5", [dense("only", KERNELS[0], activation=activation)])
    with torch.no_grad():
        found = read_keras_dense(file).double()(torch.as_tensor(X)).numpy()
    np.testing.assert_allclose(found, function(X @ KERNELS[0]), rtol=1e-12)


def test_functional_models(tmp_path):
    layers = small_network()
    for (before, _), (after, _) in itertools.pairwise(layers):
        after["inbound_nodes"] = [[[before["config"]["name"], 0, 0, {}]]]
    network = read_keras_dense(keras_file(tmp_path / "a.h5", layers, "Functional")).double()
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.as_tensor(X)).numpy(), small_output(), rtol=1e-12)
    layers[-1][0]["inbound_nodes"] = [[["first", 0, 0, {}]]]
    with pytest.raises(ValueError, match=r"a\.h5: .*at 'third': does not follow 'activation'"):
        read_keras_dense(keras_file(tmp_path / "a.h5", layers, "Functional"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (layer("Conv2D", "conv", filters=3), "at 'conv': unsupported layer Conv2D"),
        (layer("Lambda", "run", function="import os"), "at 'run': unsupported layer Lambda"),
        (layer("Activation", "act", activation="swish"), "at 'act': unsupported activation 'swish'"),
        (dense("d", KERNELS[0], activation={"class_name": "x"}), "at 'd': unsupported activation"),
        (layer("Dense", "d", units=4, use_bias=False, activation="relu"), "at 'd': 'kernel'"),
    ],
)
def test_unsupported_layers(tmp_path, entry, message):
    path = keras_file(tmp_path / "a.h5", [layer("InputLayer", "input"), entry])
    with pytest.raises(ValueError, match=rf"a\.h5: .*{message}"):
        read_keras_dense(path)


def test_damaged_keras_files(tmp_path):
    path = tmp_path / "a.h5"
    path.write_bytes(b"not HDF5")
    with pytest.raises(ValueError, match=r"a\.h5: not a readable Keras dense network"):
        read_keras_dense(path)
    h5py.File(path, "w").close()
    with pytest.raises(ValueError, match=r"a\.h5: .*model_config"):
        read_keras_dense(path)
    keras_file(path, small_network())
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"units": 5', '"units": 6')
    with pytest.raises(ValueError, match=r"(?s)a\.h5: .*at 'first': .*size mismatch for weight"):
        read_keras_dense(path)
    keras_file(path, small_network()[:3] + small_network()[-1:])
    with pytest.raises(ValueError, match=r"(?s)a\.h5: .*at 'third': .*size mismatch for weight"):
        read_keras_dense(path)
    with pytest.raises(FileNotFoundError, match="absent"):
        read_keras_dense(tmp_path / "absent.h5")


@pytest.mark.parametrize("how", ["external storage", "link", "linked layer", "virtual"])
def test_weights_in_other_files_are_refused(tmp_path, how):
    path, private = keras_file(tmp_path / "a.h5", small_network()), tmp_path / "private.h5"
    with h5py.File(private, "w") as other:
        other["kernel"] = KERNELS[0]
    keras_file(tmp_path / "other.h5", small_network())
    with h5py.File(path, "a") as file:
        group = file["model_weights/first/first"]
        del group["kernel:0"]
        if how == "external storage":
            group.create_dataset("kernel:0", (3, 5), "f4", external=[(str(private), 0, 60)])
        elif how == "link":
            group["kernel:0"] = h5py.ExternalLink(str(private), "kernel")
        elif how == "linked layer":
            del file["model_weights/first"]
            file["model_weights/first"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "model_weights/first")
        else:
            layout = h5py.VirtualLayout((3, 5), "f4")
            layout[:] = h5py.VirtualSource(str(private), "kernel", (3, 5))
            group.create_virtual_dataset("kernel:0", layout)
    with pytest.raises(ValueError, match=r"a\.h5: .*kernel.* is stored in another file"):
        read_keras_dense(path)


@pytest.mark.parametrize(
    ("task", "parameters", "confusion"),
    [
        ("sg_exp1", 331_298, [[9370, 141], [1460, 8051]]),  # the published matrix of Experiment 3
        ("sgq_exp1", 331_331, [[9104, 353, 54], [1029, 2481, 6001]]),  # its rows of galaxies and stars
        ("sg_exp2", 331_298, [[9176, 335], [560, 8951]]),  # not published
    ],
)
def test_published_networks_on_the_real_sky(task, parameters, confusion):
    network = read_keras_dense(real_file(f"margnet/DNNClassifier_{task}.h5")).double()
    assert sum(weights.numel() for weights in network.parameters()) == parameters
    features = read_pickled_npy(real_file("margnet/dnnx_sg_exp3.npy"))
    truth = read_pickled_npy(real_file("margnet/y_sg_exp3.npy")).argmax(1)  # GALAXY, STAR
    with torch.no_grad():
        probabilities = network(torch.as_tensor(features)).numpy()
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    found = np.zeros((2, probabilities.shape[1]), dtype=int)
    np.add.at(found, (truth, probabilities.argmax(1)), 1)
    assert found.tolist() == confusion
    if task == "sg_exp1":
        assert np.trace(found) / len(truth) == pytest.approx(0.9158342971, abs=5e-11)
