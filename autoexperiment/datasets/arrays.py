"""Numpy's files, memory-mapped: .npy, and the members of an uncompressed .npz. Nothing in them is ever executed."""

from __future__ import annotations

import errno
import lzma
import math
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]

MEMBERS = ("X", "y")
_KINDS = "fiubUS"  # real numbers; text only as class labels
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
_LOCAL_HEADER_BYTES = 30  # of a zip's member, before its name; PKWARE APPNOTE 4.3.7
_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


def open_npy(path: Path) -> Array:
    """The array of a .npy file, read-only, not in memory.

    Raises: DataError: not there, not a .npy file, cut off, or an array of Python objects.
    """
    try:
        with path.open("rb") as file:
            return _mapped(file, path, name=str(path), size=path.stat().st_size)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def open_npz(path: Path) -> dict[str, Array] | None:
    """X and y of an .npz file, not in memory; None if it is compressed: see `extract_npz`.

    Raises: DataError: not a sound .npz file, or one without the two arrays.
    """
    with _blaming(path), zipfile.ZipFile(path) as archive, path.open("rb") as file:
        infos = {name: archive.getinfo(f"{name}.npy") for name in _check_members(archive, path)}
        if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos.values()):
            return None
        return {name: _stored(file, path, info) for name, info in infos.items()}


def extract_npz(path: Path, folder: Path) -> None:
    """Write X.npy and y.npy of a compressed .npz file into a folder, in pieces; checksums are verified."""
    with _blaming(path), zipfile.ZipFile(path) as archive:
        for name in _check_members(archive, path):
            with archive.open(f"{name}.npy") as member, (folder / f"{name}.npy").open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever a damaged archive makes Python's readers raise. A full disk is not the archive's fault."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise DataError(f"Cannot read {path}: {error}.") from error
    except _BROKEN as error:
        raise DataError(
            f"{path} is not a sound .npz file: {error}. Write it again with numpy.savez(path, X=X, y=y)."
        ) from error


def _check_members(archive: zipfile.ZipFile, path: Path) -> tuple[str, ...]:
    names = archive.namelist()
    if missing := [name for name in MEMBERS if f"{name}.npy" not in names]:
        held = ", ".join(name.removesuffix(".npy") for name in names[:10]) or "nothing"
        raise DataError(
            f"{path} has no array {' and no array '.join(missing)}; it holds {held}. "
            "Needed: X (the rows) and y (the targets). Write it with numpy.savez(path, X=X, y=y)."
        )
    return MEMBERS


def _stored(file: BinaryIO, path: Path, info: zipfile.ZipInfo) -> Array:
    """A member that lies uncompressed in the archive. Its name's length there may differ from the directory's."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL_HEADER_BYTES)
    if len(header) < _LOCAL_HEADER_BYTES or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no member begins at byte {info.header_offset}")
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    return _mapped(file, path, name=f"{info.filename} in {path}", size=info.file_size)


def _mapped(file: BinaryIO, path: Path, *, name: str, size: int) -> Array:
    """The array whose .npy bytes, `size` of them, begin where `file` stands."""
    start = file.tell()
    try:
        shape, is_fortran, dtype = _HEADERS[npy.read_magic(file)](file)
    except Exception as error:  # numpy's parser of a text header raises many kinds for damaged ones
        raise DataError(
            f"{name} is not a .npy file that numpy.save wrote: {error}. Pickles are never read. "
            "Write it again with numpy.save."
        ) from error
    if dtype.hasobject or dtype.kind not in _KINDS:
        raise DataError(
            f"{name} holds {dtype}, not numbers. Python objects are never read, for they could run code. "
            "Write it again as a numeric array."
        )
    offset, n_bytes = file.tell(), math.prod(shape) * dtype.itemsize
    held = min(size, path.stat().st_size - start) - (offset - start)
    if n_bytes != held:
        raise DataError(
            f"{name} should hold {n_bytes} bytes of numbers of shape {shape}, and holds {held}: it is cut off or "
            "damaged. Write it again."
        )
    if n_bytes == 0:
        raise DataError(f"{name} is empty: its shape is {shape}. At least one row with one number is needed.")
    if is_fortran:
        return np.asarray(np.memmap(path, dtype, "r", offset, shape[::-1])).T
    return np.asarray(np.memmap(path, dtype, "r", offset, shape))
