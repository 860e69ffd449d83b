"""Python's pickle format, read as data: nothing that a file names is looked up, imported or called.

What CIFAR's batches hold is enough: dicts, lists, tuples, numbers, text, bytes and numpy arrays. Arrays are views of
the memory-mapped file. Opcodes: https://docs.python.org/3/library/pickletools.html
"""

from __future__ import annotations

import mmap
import pickle
import re
import struct
from collections.abc import Callable
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment.errors import DataError

MAX_BYTES = 512 * 1024**2  # the largest real batch, cifar100's train, has 155 MB
MAX_STEPS = 5_000_000  # that batch needs about 260,000 opcodes
MAX_MARKS = 100
_MAX_NAME = 100

Step = Callable[["_Reader"], None]


class _Name(Enum):
    """The names that a batch may contain, each a word for us and never the thing it names."""

    RECONSTRUCT = "_reconstruct"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    FROMBUFFER = "_frombuffer"
    ENCODE = "encode"


_NAMES = {
    "numpy ndarray": _Name.NDARRAY,
    "numpy dtype": _Name.DTYPE,
    "numpy.core.multiarray _reconstruct": _Name.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Name.RECONSTRUCT,
    "numpy.core.numeric _frombuffer": _Name.FROMBUFFER,
    "numpy._core.numeric _frombuffer": _Name.FROMBUFFER,
    "_codecs encode": _Name.ENCODE,  # how Python 3 writes bytes in protocol 2
}


class _Array:
    """An array between its making and its BUILD."""

    value: np.ndarray[Any, Any] | None = None


class _Dtype:
    """A whole-number type, such as `u1`, between its making and its BUILD."""

    def __init__(self, code: str) -> None:
        if not re.fullmatch("[iu][1248]", code):
            raise ValueError(f"it has an array of type {code[:20]!r}, and only whole numbers are read")
        self.code, self.order = code, "|"

    @property
    def value(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


def read_batch(path: Path) -> dict[str, Any]:
    """The dict that a pickle file holds, with text as its keys.

    Arrays are read-only views of the memory-mapped file.

    Raises: DataError: the file cannot be read, is cut off or damaged, or holds anything else than plain data.
    """
    try:
        with path.open("rb") as file:
            blob = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return _checked(_Reader(blob))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Give it back its read permission.") from error
    except (ValueError, IndexError, KeyError, struct.error) as error:
        reason = str(error) if type(error) is ValueError else "its opcodes do not fit together"
        raise DataError(
            f"{path} is not a batch that can be read: {reason}. Pickles are read as data: numbers, text and numpy "
            "arrays; nothing in them is run. Delete it and fetch the dataset again."
        ) from error


def _checked(reader: _Reader) -> dict[str, Any]:
    if len(reader.blob) > MAX_BYTES:
        raise ValueError(f"it has {len(reader.blob):,} bytes, and at most {MAX_BYTES:,} are read")
    found = reader.run()
    if not isinstance(found, dict):
        raise ValueError("it holds no dict")
    return {key: value.value if isinstance(value, _Array) else value for key, value in found.items()}


class _Reader:
    """A stack machine over the opcodes of one file."""

    def __init__(self, blob: memoryview) -> None:
        self.blob = blob
        self.at = 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.encoded = 0

    def run(self) -> Any:
        """What is left on the stack at STOP.

        Raises: ValueError, IndexError, KeyError, struct.error: the file is not sound.
        """
        steps, blob = _STEPS, self.blob
        for _ in range(MAX_STEPS):
            code = blob[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.stack.pop()
            step = steps.get(code)
            if step is None:
                raise ValueError(f"opcode {bytes([code])!r} at byte {self.at - 1:,} has no place in such a file")
            step(self)
        raise ValueError(f"it has more than {MAX_STEPS:,} opcodes")

    def take(self, n: int) -> memoryview:
        if not 0 <= n <= len(self.blob) - self.at:
            raise ValueError(f"it ends too early: {n:,} bytes are announced at byte {self.at:,}")
        self.at += n
        return self.blob[self.at - n : self.at]

    def number(self, form: struct.Struct) -> int:
        (value,) = form.unpack(self.take(form.size))
        return int(value)

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items


# ---- steps -------------------------------------------------------------------------------------


def _skip(n: int, reader: _Reader) -> None:
    reader.take(n)


def _constant(value: Any, reader: _Reader) -> None:
    reader.stack.append(value)


def _empty(kind: Callable[[], Any], reader: _Reader) -> None:
    reader.stack.append(kind())


def _int(form: struct.Struct, reader: _Reader) -> None:
    reader.stack.append(reader.number(form))


def _long(reader: _Reader) -> None:
    reader.stack.append(int.from_bytes(reader.take(reader.number(_U1)), "little", signed=True))


def _bytes(form: struct.Struct, reader: _Reader) -> None:
    reader.stack.append(reader.take(reader.number(form)))


def _text(form: struct.Struct, reader: _Reader) -> None:
    reader.stack.append(str(reader.take(reader.number(form)), "utf-8"))


def _put(form: struct.Struct, reader: _Reader) -> None:
    reader.memo[reader.number(form)] = reader.stack[-1]


def _memoize(reader: _Reader) -> None:
    reader.memo[len(reader.memo)] = reader.stack[-1]


def _get(form: struct.Struct, reader: _Reader) -> None:
    reader.stack.append(reader.memo[reader.number(form)])


def _mark(reader: _Reader) -> None:
    if len(reader.marks) >= MAX_MARKS:
        raise ValueError(f"it is nested deeper than {MAX_MARKS} levels")
    reader.marks.append(reader.stack)
    reader.stack = []


def _tuple(n: int, reader: _Reader) -> None:
    if len(reader.stack) < n:
        raise IndexError
    reader.stack[-n:] = [tuple(reader.stack[-n:])]


def _marked_tuple(reader: _Reader) -> None:
    items = tuple(reader.pop_mark())
    reader.stack.append(items)


def _extend(reader: _Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if not isinstance(target, list):
        raise ValueError("it appends to something that is no list")
    target.extend(items)


def _append(reader: _Reader) -> None:
    _extend(reader, [reader.stack.pop()])


def _appends(reader: _Reader) -> None:
    _extend(reader, reader.pop_mark())


def _set(reader: _Reader, items: list[Any]) -> None:
    target = reader.stack[-1]
    if not isinstance(target, dict):
        raise ValueError("it sets entries of something that is no dict")
    # Keys are text only: hashing a tuple nested a million deep would end the process.
    target.update(zip(map(_as_text, items[::2]), items[1::2], strict=True))


def _set_item(reader: _Reader) -> None:
    value, key = reader.stack.pop(), reader.stack.pop()
    _set(reader, [key, value])


def _set_items(reader: _Reader) -> None:
    _set(reader, reader.pop_mark())


def _as_text(value: Any) -> str:
    """Text, or the bytes that Python 2 wrote for it."""
    if isinstance(value, str):
        return value
    if isinstance(value, memoryview) and len(value) <= _MAX_NAME:
        return str(value, "latin-1")
    raise ValueError("it has something other than text where text belongs")


def _global(reader: _Reader) -> None:
    rest = bytes(reader.blob[reader.at : reader.at + 2 * _MAX_NAME])
    module, name, _ = rest.split(b"\n", 2) if rest.count(b"\n") > 1 else (rest[:_MAX_NAME], b"", b"")
    reader.take(len(module) + len(name) + 2)
    _push_name(reader, module.decode("latin-1"), name.decode("latin-1"))


def _stack_global(reader: _Reader) -> None:
    name, module = reader.stack.pop(), reader.stack.pop()
    _push_name(reader, _as_text(module), _as_text(name))


def _push_name(reader: _Reader, module: str, name: str) -> None:
    known = _NAMES.get(f"{module} {name}")
    if known is None:
        raise ValueError(f"it asks for {f'{module}.{name}'[:_MAX_NAME]!r}, which no such file needs")
    reader.stack.append(known)


def _reduce(reader: _Reader) -> None:
    arguments, name = reader.stack.pop(), reader.stack.pop()
    if not isinstance(arguments, tuple) or not isinstance(name, _Name):
        raise ValueError("it calls something that is no function")
    reader.stack.append(_made(name, arguments, reader))


def _made(name: _Name, arguments: tuple[Any, ...], reader: _Reader) -> Any:
    match name, arguments:
        case _Name.RECONSTRUCT, (_Name.NDARRAY, _, _):
            return _Array()
        case _Name.DTYPE, (code, *_):
            return _Dtype(_as_text(code))
        case _Name.FROMBUFFER, (memoryview() as raw, _Dtype() as dtype, tuple() as shape, order):
            array = _Array()
            array.value = _view(raw, dtype, shape, is_fortran=_as_text(order) != "C")
            return array
        case _Name.ENCODE, (str() as text, "latin1"):
            # Text that is encoded again and again would fill the memory.
            reader.encoded += len(text)
            if reader.encoded > len(reader.blob):
                raise ValueError("it encodes more text than it holds")
            return memoryview(text.encode("latin-1"))
    raise ValueError(f"it calls {name.value} with other arguments than numpy does")


def _build(reader: _Reader) -> None:
    state = reader.stack.pop()
    match reader.stack[-1], state:
        case _Array() as array, (int(), tuple() as shape, _Dtype() as dtype, fortran, memoryview() as raw):
            array.value = _view(raw, dtype, shape, is_fortran=bool(fortran))
        case _Dtype() as dtype, (int(), order, *_) if _as_text(order) in ("<", ">", "|"):
            dtype.order = _as_text(order)
        case _:
            raise ValueError("it sets the state of something that is no array")


def _view(raw: memoryview, dtype: _Dtype, shape: tuple[Any, ...], *, is_fortran: bool) -> np.ndarray[Any, Any]:
    if is_fortran or len(shape) > 2 or not all(type(n) is int and 0 < n < 2**31 for n in shape):
        raise ValueError(f"it has an array that is not 1 or 2 positive lengths by rows: {str(shape)[:80]}")
    needed = int(np.prod([dtype.value.itemsize, *shape], dtype=object))
    if needed != len(raw):
        raise ValueError(f"an array of shape {shape} needs {needed:,} bytes, and {len(raw):,} are there")
    return np.frombuffer(raw, dtype.value).reshape(shape)


_U1, _U2, _U4, _U8, _I4 = (struct.Struct(form) for form in ("<B", "<H", "<I", "<Q", "<i"))
_BY_CODE: dict[bytes, Step] = {
    pickle.PROTO: partial(_skip, 1),
    pickle.FRAME: partial(_skip, 8),
    pickle.NONE: partial(_constant, None),
    pickle.NEWTRUE: partial(_constant, True),
    pickle.NEWFALSE: partial(_constant, False),
    pickle.EMPTY_TUPLE: partial(_constant, ()),
    pickle.EMPTY_LIST: partial(_empty, list),
    pickle.EMPTY_DICT: partial(_empty, dict),
    pickle.BININT: partial(_int, _I4),
    pickle.BININT1: partial(_int, _U1),
    pickle.BININT2: partial(_int, _U2),
    pickle.LONG1: _long,
    pickle.SHORT_BINSTRING: partial(_bytes, _U1),
    pickle.BINSTRING: partial(_bytes, _I4),
    pickle.SHORT_BINBYTES: partial(_bytes, _U1),
    pickle.BINBYTES: partial(_bytes, _U4),
    pickle.BINBYTES8: partial(_bytes, _U8),
    pickle.BYTEARRAY8: partial(_bytes, _U8),
    pickle.SHORT_BINUNICODE: partial(_text, _U1),
    pickle.BINUNICODE: partial(_text, _U4),
    pickle.BINUNICODE8: partial(_text, _U8),
    pickle.BINPUT: partial(_put, _U1),
    pickle.LONG_BINPUT: partial(_put, _U4),
    pickle.MEMOIZE: _memoize,
    pickle.BINGET: partial(_get, _U1),
    pickle.LONG_BINGET: partial(_get, _U4),
    pickle.MARK: _mark,
    pickle.TUPLE: _marked_tuple,
    pickle.TUPLE1: partial(_tuple, 1),
    pickle.TUPLE2: partial(_tuple, 2),
    pickle.TUPLE3: partial(_tuple, 3),
    pickle.APPEND: _append,
    pickle.APPENDS: _appends,
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.GLOBAL: _global,
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: _reduce,
    pickle.BUILD: _build,
}
_STEPS = {code[0]: step for code, step in _BY_CODE.items()}
