"""Files that cannot be memory-mapped as they are, converted once into X.npy and y.npy in the cache.

A conversion is named by the file's content and by what was asked of it, so a changed file is converted again, whatever
its date says, and the same file under two names is converted once. It is whole or absent; a second process waits for
the first one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from autoexperiment import paths
from autoexperiment.datasets.arrays import open_npy
from autoexperiment.datasets.base import are_names
from autoexperiment.errors import DataError
from autoexperiment.files import Lock, dump_json, fsync, fsync_dir, load_json, remove_folder

Array = np.ndarray[Any, Any]

FORMAT = 2  # of the conversion's rules: another number, and every file is converted again
_MOST_CLASSES = 1 << 16
_NAMES = "classes.json"


@dataclass(frozen=True)
class Rows:
    """Some rows of a file: x, shape (n, n_features), float64; y: numbers, shape (n,), or n labels of classes."""

    x: Array
    y: Array | Sequence[str]


Columns = tuple[Array, Array, tuple[str, ...]]  # X, y, and names of classes if they have names
Write = Callable[[Path], Sequence[str]]


def converted(source: Path, *, options: str, write: Write) -> Columns:
    """X and y of a file, memory-mapped from the cache, where `write(folder)` puts them the first time.

    Args:
        options: everything but the content that the arrays depend on.
        write: gives the names of the classes.
    Raises: DataError: what `write` raises; the file changed meanwhile; the cache cannot be written.
    """
    digest = sha256_of(source)
    key = hashlib.sha256(f"{FORMAT}\n{digest}\n{options}".encode()).hexdigest()[:32]
    folder = paths.cache_home() / "tables" / key
    try:
        with Lock(folder.with_name(f".{key}.lock")).acquire(timeout_s=float("inf")):
            if (arrays := _opened(folder)) is None:
                _convert(source, folder, digest=digest, write=write)
                arrays = _opened(folder)
    except OSError as error:
        raise DataError(
            f"Cannot keep the converted {source.name} in {folder.parent}: {error.strerror}. Make room or the folder "
            "writable, or name another one in the variable AUTORESEARCH_CACHE."
        ) from error
    if arrays is None:
        raise DataError(f"The converted {source.name} in {folder} cannot be read. Remove that folder and try again.")
    return arrays


def sha256_of(path: Path) -> str:
    """Hash of a file's content. Raises: DataError: it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror}.") from error


def _opened(folder: Path) -> Columns | None:
    try:
        names = load_json((folder / _NAMES).read_bytes())
        return (open_npy(folder / "X.npy"), open_npy(folder / "y.npy"), tuple(names)) if are_names(names) else None
    except (DataError, OSError, ValueError, RecursionError):
        return None  # absent, or damaged by somebody else: made again


def _convert(source: Path, folder: Path, *, digest: str, write: Write) -> None:
    """Make the folder under another name and rename it; a killed process's rest goes first."""
    unfinished = folder.with_name(f".{folder.name}.part")
    remove_folder(unfinished)
    unfinished.mkdir(parents=True)
    try:
        names = write(unfinished)
        (unfinished / _NAMES).write_text(dump_json(list(names)))
        if sha256_of(source) != digest:
            raise DataError(f"{source} changed while it was read. Wait until whoever writes it is done, and try again.")
        for file in unfinished.iterdir():
            with file.open("rb+") as opened:
                fsync(opened.fileno())
        remove_folder(folder)
        os.replace(unfinished, folder)
        fsync_dir(folder.parent)
    except BaseException:
        remove_folder(unfinished)
        raise


def write_rows(folder: Path, rows: Iterable[Rows], *, name: str) -> tuple[str, ...]:
    """Write X.npy (float64) and y.npy (float64 numbers, or int32 class numbers of labels), a piece at a time.

    Returns: names of the classes, if they have names.
    Raises: DataError: no rows, or labels that are not class numbers or names; see `Labels`.
    """
    labels = Labels(name)
    with (folder / "X.npy").open("wb+") as x_file, (folder / "y.npy").open("wb+") as y_file:
        x_out, y_out = _Growing(x_file), _Growing(y_file)
        for piece in rows:
            x_out.add(piece.x)
            y_out.add(piece.y if isinstance(piece.y, np.ndarray) else labels.codes(piece.y))
        if x_out.n_rows == 0:
            raise DataError(f"{name} has no rows. At least one row of numbers is needed.")
        x_out.close()
        y_out.close()
    if labels:
        _number(folder / "y.npy", labels)
    return labels.names()


def _number(path: Path, labels: Labels) -> None:
    """Replace the labels' codes by class numbers; y alone fits in memory, for it is one column of many."""
    codes = np.load(path, allow_pickle=False)
    np.save(path, labels.numbers(len(codes))[codes], allow_pickle=False)


class _Growing:
    """A .npy file whose number of rows is known at its end; numpy pads its header for that."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shape: tuple[int, ...] = ()
        self._dtype = np.dtype(np.float64)
        self.n_rows = 0

    def add(self, rows: Array) -> None:
        if self.n_rows == 0:
            self._shape, self._dtype = rows.shape[1:], rows.dtype
            self._write_header()
        self._file.write(np.ascontiguousarray(rows).data)
        self.n_rows += len(rows)

    def close(self) -> None:
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        shape = (self.n_rows, *self._shape)
        header = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(self._file, header)


class Labels:
    """The distinct labels of a target column, coded in order of appearance and numbered when all have been seen.

    Whole numbers from 0 are class numbers as they are, so that a part of a dataset keeps the numbers of the whole.
    Other labels are names: sorted by their characters, and numbered from 0. The two are not mixed.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._codes: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._codes)

    def codes(self, labels: Sequence[str]) -> Array:
        """int32, shape (n,)."""
        seen = self._codes
        found = np.array([seen.setdefault(label, len(seen)) for label in labels], np.int32)
        if len(seen) > _MOST_CLASSES:
            raise DataError(
                f"{self._name} has more than {_MOST_CLASSES} different classes in its target column. "
                'For a target that is measured set "task": "regression".'
            )
        return found

    def names(self) -> tuple[str, ...]:
        """The labels by class number; () if they are class numbers themselves."""
        return tuple(sorted(self._codes)) if all(number_of(label) is None for label in self._codes) else ()

    def numbers(self, n_rows: int) -> Array:
        """The class number of each code, int32, shape (n_labels,). Raises: DataError: they cannot be numbered."""
        if names := self.names():
            rank = {label: i for i, label in enumerate(names)}
            return np.array([rank[label] for label in self._codes], np.int32)
        values = {label: number_of(label) for label in self._codes}
        if words := sorted(label for label, value in values.items() if value is None):
            raise DataError(
                f"{self._name} has the class {words[0]!r} among classes that are numbers. "
                "Allowed: whole numbers from 0, or names. Write all of them in one way."
            )
        return np.array([self._class_number(label, value, n_rows) for label, value in values.items()], np.int32)

    def _class_number(self, label: str, value: float | None, n_rows: int) -> int:
        if value is None or not 0 <= value < max(2, n_rows) or value != int(value):
            raise DataError(
                f"{self._name} has the class {label!r}. Allowed: whole numbers from 0, below the number of rows "
                f'({n_rows}), or names. For other numbers set "task": "regression".'
            )
        return int(value)


def numbered(y: Array, *, name: str) -> tuple[Array, tuple[str, ...]]:
    """Class numbers, shape (n,), int32, of an array of texts, and the names of the classes, as of a table's target.

    Raises: DataError: see `Labels`; or a text is empty, or is of bytes that are no UTF-8.
    """
    distinct, inverse = np.unique(y, return_inverse=True)
    texts = [_text(label, name).strip() for label in distinct.tolist()]
    if "" in texts:
        row = int(np.argmax(inverse == texts.index("")))
        raise DataError(f"{name} is empty in row {row}, counted from 0. Every target is needed.")
    labels = Labels(name)
    codes = labels.codes(texts)
    return labels.numbers(len(y))[codes][inverse.reshape(-1)], labels.names()


def _text(label: str | bytes, name: str) -> str:
    try:
        return label if isinstance(label, str) else label.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{name} has the class {label!r}, which is not text in UTF-8. Write it as text.") from error


def number_of(text: str) -> float | None:
    """A number written in ASCII digits, with sign, point and exponent; None for anything else, `nan` included."""
    text = text.strip(" ")
    if not text or text.encode().translate(None, NUMERIC):
        return None
    try:
        return float(text)
    except ValueError:
        return None


NUMERIC = b"0123456789+-.eE"  # of these characters alone, float() accepts exactly what a table calls a number
