"""Safe readers of the formats that the original works published: pickled ``.npy`` and Keras ``.h5``.

A pickle is a program: opening one runs what its author wrote. The reader here keeps only the instructions
that build data, answers each global name with a stand-in of its own (nothing that a file names is imported),
checks whatever becomes the state of an array, and at the end lets nothing but plain data through.
"""

import io
import json
import math
import pickle
import pickletools
import re
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import nn

__all__ = ["KerasDense", "UnsafePickleError", "read_keras_dense", "read_pickled_npy"]

_SCALARS = (str, bytes, int, float, complex, type(None), np.generic)
_NDARRAY = object()  # stand-in for numpy.ndarray, which a pickle only names
_DTYPE_CODE = re.compile(r"[biufcSUO]\d{1,9}")  # bool, integers, floats, complex, strings, objects


class UnsafePickleError(ValueError):
    """A pickle asks for something other than plain arrays, scalars and built-in containers."""


class _Dtype:
    """Stand-in for a numpy.dtype: it never takes a state, from which memory could be misread."""

    def __init__(self, code: str, align: bool, copy: bool):
        if not _DTYPE_CODE.fullmatch(code):
            raise UnsafePickleError(f"numpy.dtype is asked for {code!r}, which is not a plain type")
        self.dtype = np.dtype(code)

    def build(self, state: tuple) -> None:
        match state:
            case (3, ("<" | ">" | "|" | "=") as order, None, None, None, int(), int(), int()):
                self.dtype = self.dtype.newbyteorder(order)
            case _:
                raise UnsafePickleError("numpy.dtype is given a state that is not that of a plain type")


def _check_size(shape: tuple, dtype: np.dtype, data: list | bytes) -> None:
    if dtype.hasobject != isinstance(data, list):
        raise UnsafePickleError(f"an array of {dtype} is given {type(data).__name__} as its data")
    if not all(type(size) is int and size >= 0 for size in shape):
        raise UnsafePickleError("numpy.ndarray is given a shape that is not of whole numbers")
    if len(data) != math.prod(shape) * (1 if dtype.hasobject else dtype.itemsize):
        raise ValueError(f"an array of shape {shape} and {dtype} cannot have {len(data)} items or bytes")


def _build_array(array: np.ndarray, state: tuple) -> None:
    match state:
        case (1, tuple() as shape, _Dtype(dtype=dtype), bool() as fortran, (list() | bytes()) as data):
            _check_size(shape, dtype, data)
            np.empty(shape, dtype)  # NumPy's own limits on a shape
            array.__setstate__((1, shape, dtype, fortran, data))
        case _:
            raise UnsafePickleError("numpy.ndarray is given a state that is not that of a plain array")


def _reconstruct(kind: object, shape: tuple, code: bytes) -> np.ndarray:
    if kind is not _NDARRAY:
        raise UnsafePickleError("_reconstruct is asked for something other than numpy.ndarray")
    return np.empty(0, np.int8)


def _scalar(kind: _Dtype, data: bytes) -> np.generic:
    if not isinstance(kind, _Dtype) or kind.dtype.hasobject:  # NumPy's own function would unpickle the data
        raise UnsafePickleError("numpy.core.multiarray.scalar is asked for an object, which is refused")
    _check_size((), kind.dtype, data)
    return np.ndarray((), kind.dtype, buffer=data or bytes(1))[()]


def _encode(text: str, encoding: str) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise UnsafePickleError("_codecs.encode is asked for something other than text to 'latin1'")
    return text.encode("latin1")


_GLOBALS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,  # NumPy 1
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,  # how protocol 2 spells bytes
    ("__builtin__", "bytes"): lambda: b"",  # and empty bytes
    ("__builtin__", "complex"): complex,
    ("builtins", "complex"): complex,
}

# What NumPy's files use. No extension codes, persistent ids, class instances or out-of-band buffers.
_INSTRUCTIONS = """
         PROTO FRAME MARK STOP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL STACK_GLOBAL INST REDUCE
    NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINUNICODE SHORT_BINUNICODE
    BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST
    EMPTY_DICT APPEND APPENDS
""".split()


class _Instructions(dict):
    def __missing__(self, code: int):
        raise UnsafePickleError(f"the pickle uses the instruction {pickletools.code2op[chr(code)].name}")


class _DataUnpickler(pickle._Unpickler):
    # The unpickler written in Python (the pickle module's other one is in C) finds what each instruction
    # does in this table. An instruction that is not in it cannot run.
    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for name in _INSTRUCTIONS for code in getattr(pickle, name)}
    )

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _GLOBALS:
            raise UnsafePickleError(f"the pickle asks for {module}.{name}, which is refused")
        return _GLOBALS[module, name]

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            target.build(state)
        elif isinstance(target, np.ndarray):
            _build_array(target, state)
        else:
            raise UnsafePickleError(f"the pickle sets the state of a {type(target).__name__}")

    def load_setitem(self) -> None:
        value, key, target = self.stack.pop(), self.stack.pop(), self.stack[-1]
        if not isinstance(key, _SCALARS):  # the hash of a deeply nested tuple crashes the interpreter
            raise UnsafePickleError(f"a dictionary has a {type(key).__name__} as a key")
        dict.__setitem__(target, key, value)

    def load_setitems(self) -> None:
        items = self.pop_mark()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self.stack += [key, value]
            self.load_setitem()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _check_data(value: object) -> None:
    todo, seen = [value], set()
    while todo:
        item = todo.pop()
        if isinstance(item, _SCALARS) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, list | tuple | dict):
            todo.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, np.ndarray):
            todo.extend(item.flat if item.dtype == object else ())
        else:
            raise UnsafePickleError("the pickle holds a type or a function, which is refused")


def read_pickled_npy(path: str | Path) -> np.ndarray:
    """Read a ``.npy`` file, also one of Python objects, without running anything that the file holds.

    Parameters
    ----------
    path : str or Path
        A ``.npy`` file of any plain dtype, or of objects. A pickled dictionary comes back as NumPy saves it,
        in a 0-d array: take it out with ``read_pickled_npy(path).item()``.

    Returns
    -------
    numpy.ndarray
        Equal to what NumPy itself would load.

    Raises
    ------
    UnsafePickleError
        If the pickle asks for anything but arrays, NumPy scalars and built-in data. Sets, arrays of dates or
        of records, array subclasses and pickles of Python 2 are refused too.
    ValueError
        If the file is not a ``.npy`` file, is truncated or is otherwise malformed.
    """
    with Path(path).open("rb") as file:
        try:
            return _read_npy(file)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path}: {error}") from None
        except Exception as error:  # a damaged header or pickle may fail in any way
            raise ValueError(f"{path}: not a readable .npy file: {error}") from error


def _read_npy(file: io.BufferedReader) -> np.ndarray:
    version = np.lib.format.read_magic(file)
    # NumPy gives object arrays the shortest header. Any other file numpy.load judges by itself.
    shape, _, dtype = np.lib.format.read_array_header_1_0(file) if version == (1, 0) else 3 * (None,)
    if dtype is None or dtype.kind != "O":
        file.seek(0)
        return np.load(file, allow_pickle=False)
    array = _DataUnpickler(io.BytesIO(file.read())).load()
    if not isinstance(array, np.ndarray) or array.dtype != object or array.shape != shape:
        raise ValueError(f"the pickle does not hold the objects of shape {shape} of the header")
    _check_data(array)
    return array


_ACTIVATIONS = {"linear": nn.Identity, "relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}
_ACTIVATIONS["softmax"] = lambda: nn.Softmax(dim=-1)


class KerasDense(nn.Module):
    """The dense layers of a Keras file, with weights in float32 as stored (``.double()`` for float64).

    Keras stores a kernel as (n_in, n_out), and torch as (n_out, n_in): kernels are transposed when read.

    Parameters
    ----------
    layers : list of torch.nn.Module
        Linear, activation and dropout layers in the order of the file.
    """

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class probabilities, where the last layer is a softmax: (B, n_features) -> (B, n_classes)."""
        return self.layers(x)


def _read_activation(name: object) -> nn.Module:
    if str(name) not in _ACTIVATIONS:
        raise ValueError(f"unsupported activation {name!r}")
    return _ACTIVATIONS[name]()


def _read_dense(file: h5py.File, options: dict, n_in: int | None) -> list[nn.Module]:
    weights, group = {}, file["model_weights"][options["name"]]
    for name in group.attrs["weight_names"]:  # such as b"dense_1/kernel:0"
        weight = group[name]
        if weight.external or weight.is_virtual or weight.file != file:
            raise ValueError(f"{name} is stored in another file, possibly a private one of the reader's")
        weights[weight.name.split("/")[-1].split(":")[0]] = torch.as_tensor(weight[()])
    kernel = weights.pop("kernel")
    # skip_init: weights that are about to be replaced should not use up the caller's random numbers.
    linear = nn.utils.skip_init(nn.Linear, n_in or len(kernel), options["units"], bias=options["use_bias"])
    linear.load_state_dict({"weight": kernel.T} | weights)
    return [linear, _read_activation(options["activation"])]


def read_keras_dense(path: str | Path) -> KerasDense:
    """Read a trained dense network from a Keras ``.h5`` file, without Keras.

    Parameters
    ----------
    path : str or Path
        A file written by ``model.save("name.h5")`` of Keras 2: a Sequential or functional model that is a
        plain chain of InputLayer, Dense, Activation and Dropout layers.

    Returns
    -------
    KerasDense
        In evaluation mode, so that dropout is off.

    Raises
    ------
    ValueError
        If the file is no such model. The message names the file and the layer.
    """
    layers, width, name = [], None, "model_config"
    try:
        with h5py.File(path) as file:
            for layer in json.loads(file.attrs["model_config"])["config"]["layers"]:
                options, previous, name = layer["config"], name, layer["config"]["name"]
                for sources in layer.get("inbound_nodes", []):  # functional models alone have them
                    if [source[0] for source in sources] != [previous]:
                        raise ValueError(f"does not follow {previous!r}, so this is not a plain chain")
                match layer["class_name"]:
                    case "InputLayer":
                        pass
                    case "Dense":
                        layers += _read_dense(file, options, width)
                        width = options["units"]
                    case "Activation":
                        layers.append(_read_activation(options["activation"]))
                    case "Dropout":
                        layers.append(nn.Dropout(options["rate"]))
                    case kind:
                        raise ValueError(f"unsupported layer {kind}")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: not a readable Keras dense network, at {name!r}: {error}") from error
    return KerasDense(layers).eval()
