"""Reads the published weights of AstroCLIP, and of its backbones, without running what the files hold.

A checkpoint of torch is a zip archive with a pickle, which says which tensors there are, and the bytes of
the tensors. A pickle is a program. That of ``astroclip.ckpt`` holds, beside the weights, whole objects of the
authors' code (its hyperparameters), and so torch's own reader of weights refuses it. The reader here answers
every name in it with a stand-in that takes anything and does nothing (no module is imported, no function of
the file is called), notes which tensors there are, and then reads those of the weights alone.

    model = published_astroclip("astroclip.ckpt")  # all, or one backbone after the other:
    load_weights(model.image_encoder.backbone, "astrodino.ckpt")
    load_weights(model.spectrum_encoder.backbone, "specformer.ckpt")
"""

from __future__ import annotations

import io
import pickle
import pickletools
import types
import zipfile
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from astro_utils.legacy import UnsafePickleError
from astro_utils.models.astroclip import AstroCLIP

__all__ = ["load_weights", "published_astroclip", "read_weights"]


@dataclass(frozen=True)
class _Unknown:
    """Stand-in for what a file names and weights do not need."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """Bytes in the archive, as yet unread."""

    key: str
    dtype: torch.dtype
    length: int


@dataclass(frozen=True)
class _Stored:
    """A tensor in a storage, as yet unread."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(storage: object, offset: object, shape: object, stride: object, *_: object) -> object:
    if not isinstance(storage, _Storage):
        return storage if isinstance(storage, _Unknown) else _Unknown("a tensor without a storage")
    whole = type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride)
    if not whole or not all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)):
        raise UnsafePickleError(
            f"the tensor in storage {storage.key} has a shape that is not of whole numbers"
        )
    return _Stored(storage, offset, shape, stride)


def _first(value: object, *_: object) -> object:
    return value


def _tensor_of_type(function: object, kind: object, arguments: object, state: object) -> object:
    return _tensor(*arguments) if function is _tensor else _Unknown("a tensor of another type")


_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}

_GLOBALS = {
    ("collections", "OrderedDict"): lambda: {},
    ("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}

# What torch.save writes. No extension codes, old class instances, text ids or out-of-band buffers.
_INSTRUCTIONS = """
         PROTO FRAME MARK STOP POP POP_MARK DUP MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET
    GLOBAL STACK_GLOBAL NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT
    BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST EMPTY_DICT BINPERSID
""".split()


class _Instructions(dict):
    def __missing__(self, code: int):
        raise UnsafePickleError(f"the pickle uses the instruction {pickletools.code2op[chr(code)].name}")


class _TensorUnpickler(pickle._Unpickler):
    # The unpickler written in Python finds what each instruction does in this table. An instruction that is
    # not in it cannot run, and those that could call something are replaced below.
    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for name in _INSTRUCTIONS for code in getattr(pickle, name)}
    )

    def find_class(self, module: str, name: str) -> object:
        return _GLOBALS.get((module, name), _Unknown(f"{module}.{name}"))

    def persistent_load(self, pid: object) -> object:
        match pid:
            case ("storage", torch.dtype() as dtype, str() as key, _, int() as length) if length >= 0:
                return _Storage(key, dtype, length)
            case ("storage", _Unknown() as kind, *_):
                return kind
        raise UnsafePickleError("the pickle asks for something other than the storage of a tensor")

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if isinstance(function, types.FunctionType):  # one of those above: a pickle cannot name another
            function = function(*arguments)
        elif not isinstance(function, _Unknown):
            raise UnsafePickleError(f"the pickle calls a {type(function).__name__}")
        self.append(function)

    def load_new(self, operands: int) -> None:
        del self.stack[len(self.stack) - operands :]
        if not isinstance(self.stack[-1], _Unknown):
            raise UnsafePickleError(f"the pickle makes an object of a {type(self.stack[-1]).__name__}")

    def load_build(self) -> None:
        self.stack.pop()  # the state of a stand-in, or attributes of a dictionary

    def load_items(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, dict):
            # Weights have names. The hash of a deeply nested tuple would crash the interpreter.
            target.update((k, v) for k, v in zip(items[::2], items[1::2], strict=True) if type(k) is str)
        elif not isinstance(target, _Unknown):
            raise UnsafePickleError(f"the pickle sets items of a {type(target).__name__}")

    def load_more(self, items: list) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(items)
        elif not isinstance(target, _Unknown):
            raise UnsafePickleError(f"the pickle appends to a {type(target).__name__}")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.load_items([key, value])

    def load_set(self) -> None:
        self.append(_Unknown("a set"))

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.load_set()

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = lambda self: self.load_new(1)
    dispatch[pickle.NEWOBJ_EX[0]] = lambda self: self.load_new(2)
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = lambda self: self.load_items(self.pop_mark())
    dispatch[pickle.APPEND[0]] = lambda self: self.load_more([self.stack.pop()])
    dispatch[pickle.APPENDS[0]] = lambda self: self.load_more(self.pop_mark())
    dispatch[pickle.EMPTY_SET[0]] = load_set
    dispatch[pickle.ADDITEMS[0]] = lambda self: self.load_more(self.pop_mark())
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a network from a file, without running anything that the file holds.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or a checkpoint of torch (a zip archive, as torch writes since version 1.6):
        of Lightning (weights under "state_dict"), of DINOv2 (the backbone of "teacher"; its projection heads
        are left out), or a plain dictionary of tensors.

    Returns
    -------
    dict of str to torch.Tensor
        On the CPU, in the dtype of the file, under their names in the network that the file is of.

    Raises
    ------
    UnsafePickleError
        If the pickle holds something that stand-ins cannot take. It is a ValueError.
    ValueError
        If the file is of another format or damaged, or a weight is not a tensor. The message names the file.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("expected a zip archive, as torch.save writes them")
            with zipfile.ZipFile(file) as archive:
                return _read_archive(archive)
    except FileNotFoundError:
        raise
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{path}: {error}") from None
    except Exception as error:  # a damaged archive or pickle may fail in any way
        raise ValueError(f"{path}: not a readable checkpoint: {error}") from error


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise ValueError("expected one data.pkl in the archive")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in archive.namelist() and _read_bytes(archive, f"{root}byteorder") != b"little":
        raise ValueError("expected little-endian numbers")
    top = _TensorUnpickler(io.BytesIO(_read_bytes(archive, pickles[0]))).load()
    read: dict[_Storage, Tensor] = {}  # tensors may share a storage
    return {name: _read_tensor(archive, root, name, value, read) for name, value in _weights_of(top).items()}


def _weights_of(top: object) -> dict[str, object]:
    """Find the weights in what a checkpoint holds, and give them their names in their own network."""
    weights, of_teacher = top, False
    if isinstance(top, dict):
        weights = top.get("state_dict", top.get("teacher", top))
        of_teacher = "teacher" in top and "state_dict" not in top
    if of_teacher and isinstance(weights, dict):
        start = "backbone."
        short = {name.removeprefix("module."): value for name, value in weights.items()}
        weights = {name.removeprefix(start): short[name] for name in short if name.startswith(start)}
    if not isinstance(weights, dict) or not weights:
        raise ValueError(
            'expected a dictionary of weights, or one under "state_dict" or "teacher" (backbone)'
        )
    return weights


def _read_tensor(archive: zipfile.ZipFile, root: str, name: str, value: object, read: dict) -> Tensor:
    if not isinstance(value, _Stored):
        what = value.name if isinstance(value, _Unknown) else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {what}; expected a tensor")
    storage = value.storage
    last = value.offset + sum((n - 1) * step for n, step in zip(value.shape, value.stride, strict=True))
    if 0 in value.shape:
        return torch.empty(value.shape, dtype=storage.dtype)
    if last >= storage.length:
        raise ValueError(f"{name} of shape {value.shape} reaches past the end of its storage")
    if storage not in read:
        size = storage.length * storage.dtype.itemsize
        data = _read_bytes(archive, f"{root}data/{storage.key}", size)
        read[storage] = torch.frombuffer(data, dtype=storage.dtype)
    return read[storage].as_strided(value.shape, value.stride, value.offset)


def _read_bytes(archive: zipfile.ZipFile, name: str, size: int | None = None) -> bytearray:
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:  # never so in files of torch; a small one might fill memory
        raise ValueError(f"{name} is compressed")
    if size is not None and entry.file_size != size:
        raise ValueError(f"{name} has {entry.file_size} bytes; expected {size}")
    return bytearray(archive.read(entry))


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Give a network the weights of a file, all of them and no others.

    Parameters
    ----------
    model : torch.nn.Module
        For example an AstroCLIP or one of its backbones; on its device, or on "meta", from which it comes to
        the CPU. Weights are converted to the dtype that it has.
    path : str or Path
        See :func:`read_weights`.

    Returns
    -------
    torch.nn.Module
        `model`, in evaluation mode.

    Raises
    ------
    ValueError
        If names or shapes differ: the message names the file, how many do, and the first with its shape. The
        model is then as it was.
    """
    weights, expected = read_weights(path), model.state_dict()
    _check_names(path, weights, expected)
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} is of {tensor.dtype}; expected floating-point numbers")
    weights = {name: tensor.to(expected[name].dtype) for name, tensor in weights.items()}
    on_meta = any(tensor.is_meta for tensor in expected.values())
    model.load_state_dict(weights, strict=True, assign=on_meta)
    return model.eval()


def _check_names(path: str | Path, weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    other = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    faults = []
    for kind, names, source in (("missing", missing, expected), ("unexpected", unexpected, weights)):
        if names:
            faults.append(f"{len(names)} {kind}, first {names[0]} {tuple(source[names[0]].shape)}")
    if other:
        found, wanted = (tuple(source[other[0]].shape) for source in (weights, expected))
        faults.append(f"{len(other)} of another shape, first {other[0]} {found}, expected {wanted}")
    if faults:
        raise ValueError(f"{path}: weights do not fit the network: {'; '.join(faults)}")


def published_astroclip(path: str | Path) -> AstroCLIP:
    """Read the published AstroCLIP.

    Parameters
    ----------
    path : str or Path
        ``astroclip.ckpt``, 446 tensors of 370,798,358 numbers.

    Returns
    -------
    AstroCLIP
        On the CPU, in evaluation mode.

    Raises
    ------
    ValueError
        See :func:`read_weights` and :func:`load_weights`.
    """
    with torch.device("meta"):  # which takes neither memory nor time for weights that are replaced
        model = AstroCLIP()
    return load_weights(model, path)
