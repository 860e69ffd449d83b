"""IDX files, as MNIST is published: a magic number, dimensions, then bytes; plain or gzipped.

Format: http://yann.lecun.com/exdb/mnist (two zero bytes, 0x08 for unsigned bytes, the number of dimensions, each
dimension as a big-endian 32-bit number).
"""

from __future__ import annotations

import gzip
import math
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from autoexperiment.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 1_000_000_000  # after unpacking; MNIST's largest file has 47 MB
_CHUNK = 1024**2
_AGAIN = "Delete it and fetch it again."

Array = np.ndarray[Any, Any]


def find(folder: Path, name: str) -> Path | None:
    """The file of a standard name such as `train-images-idx3-ubyte`: plain before gzipped, also with a dotted name."""
    dotted = name.replace("-idx", ".idx")
    candidates = (folder / f"{stem}{ending}" for ending in ("", ".gz") for stem in (name, dotted))
    return next((path for path in candidates if path.is_file()), None)


def read(path: Path, *, dimensions: int) -> Array:
    """The bytes of an IDX file, uint8 of the file's own shape: memory-mapped, or in memory if it is gzipped.

    Raises: DataError: magic number, dimensions or length are wrong.
    """
    with _opened(path) as file:
        shape = _shape(path, file, dimensions)
        if path.suffix == ".gz":
            found = np.empty(math.prod(shape), np.uint8)
            _fill(path, file, found.data)
            return found.reshape(shape)
    return np.memmap(path, np.uint8, "r", offset=4 + 4 * dimensions, shape=shape)


def shape_of(path: Path, *, dimensions: int) -> tuple[int, ...]:
    """The shape of an IDX file whose length was checked too; a gzipped one is unpacked for that, and forgotten.

    Raises: DataError: as `read`.
    """
    with _opened(path) as file:
        shape = _shape(path, file, dimensions)
        if path.suffix == ".gz":
            _fill(path, file, None, n_bytes=math.prod(shape))
    return shape


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged or cut off: {error}. {_AGAIN}") from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}. Give it back its read permission.") from error


def _shape(path: Path, file: BinaryIO, dimensions: int) -> tuple[int, ...]:
    head = file.read(4 + 4 * dimensions)
    magic = bytes([0, 0, 8, dimensions])
    if head[:4] != magic:
        raise DataError(
            f"{path} starts with {head[:4].hex() or 'nothing'}, not with {magic.hex()}, the mark of an IDX file of "
            f"bytes with {dimensions} dimensions. {_AGAIN}"
        )
    if len(head) != 4 + 4 * dimensions:
        raise DataError(f"{path} ends within its header, after {len(head)} bytes. {_AGAIN}")
    shape = tuple(int(n) for n in np.frombuffer(head, ">u4", offset=4))
    _check_size(path, shape)
    return shape


def _check_size(path: Path, shape: tuple[int, ...]) -> None:
    """Raises: DataError: the dimensions are absurd, or do not fit a plain file's length."""
    needed, header = math.prod(shape), 4 + 4 * len(shape)
    if not 0 < needed <= MAX_BYTES:
        raise DataError(f"{path} says that its shape is {shape}. Allowed: 1 to {MAX_BYTES:,} bytes in all. {_AGAIN}")
    actual = path.stat().st_size - header
    if path.suffix != ".gz" and actual != needed:
        raise DataError(
            f"{path} has {actual:,} bytes after its header, and its shape {shape} needs {needed:,}. {_AGAIN}"
        )


def _fill(path: Path, file: BinaryIO, target: memoryview | None, *, n_bytes: int = 0) -> None:
    """Unpack exactly as many bytes as announced, into the target if there is one; never more than one chunk beyond.

    Raises: DataError: there are more or fewer. EOFError, gzip.BadGzipFile, zlib.error: the file is damaged.
    """
    needed = n_bytes if target is None else len(target)
    done = 0
    while chunk := file.read(min(_CHUNK, needed - done + 1)):  # one byte more: that is where the checksum is compared
        if done + len(chunk) > needed:
            raise DataError(f"{path} unpacks to more than the {needed:,} bytes that its header announces. {_AGAIN}")
        if target is not None:
            target[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done != needed:
        raise DataError(f"{path} unpacks to {done:,} bytes, and its header announces {needed:,}. {_AGAIN}")
