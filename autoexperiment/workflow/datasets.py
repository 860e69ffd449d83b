"""Prepared data of a workflow: what a loader gives, checked, and kept once in a file that is named by its content."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, Table, check_table
from autoexperiment.datasets.soundness import check_values, class_numbers
from autoexperiment.datasets.tables import numbered
from autoexperiment.errors import DataError
from autoexperiment.files import dump_json, load_json, read_plain, write_atomic
from autoexperiment.paths import cache_home
from autoexperiment.workflow.backends.base import Dataset

Array = np.ndarray[Any, Any]

FOLDER = "outputs/.cache/datasets"
TEXT, TABLE, PREPARED = "text", "table", "prepared"
PROMPT, COMPLETION = "prompt", "completion"
_KEYS = {PROMPT, COMPLETION}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_DIGITS = 32  # of the hash, in a file's name
_FORMS = (
    f'a list of {{"{PROMPT}": text, "{COMPLETION}": text}}, a tuple of two arrays (x, y), or '
    f'{{"{PREPARED}": the name of a dataset that prepare.py has made}}'
)


def keep(given: Any, *, root: Path, loader: str) -> Dataset:
    """Check what a loader gave, and write it down unless the same is there already.

    Raises: DataError: it is nothing that can be trained on; the message says where.
    """
    if isinstance(given, Mapping):
        return prepared(given, loader=loader)
    if isinstance(given, tuple) and len(given) == 2:
        return _table(*given, root=root, loader=loader)
    if isinstance(given, list):
        return _text(given, root=root, loader=loader)
    raise DataError(f"{loader} gave a {type(given).__name__}. Needed: {_FORMS}.")


def is_there(dataset: Dataset, *, root: Path) -> bool:
    """Whether its file still is as it was."""
    if dataset.kind == PREPARED:
        return _snapshot(dataset.path) == dataset.sha256
    try:
        with (root / dataset.path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == dataset.sha256
    except OSError:
        return False


def write(blob: bytes, suffix: str, *, root: Path) -> tuple[str, str]:
    """Keep a file under the name of its content; its path, relative to the root, and its SHA-256."""
    digest = hashlib.sha256(blob).hexdigest()
    path = f"{FOLDER}/{digest[:_DIGITS]}{suffix}"
    if read_plain(root / path, len(blob)) != blob:
        write_atomic(root / path, blob)
    return path, digest


def npz(x: Array, y: Array) -> bytes:
    """An uncompressed .npz file with X, shape (n, features), and y, shape (n,): what the harness reads."""
    buffer = io.BytesIO()
    np.savez(buffer, X=x, y=y)
    return buffer.getvalue()


def texts(dataset: Dataset, *, root: Path) -> list[tuple[str, str]]:
    """Prompt and completion of each row of a text dataset. Raises: DataError: its file is not as it was."""
    if not is_there(dataset, root=root):
        raise DataError(f"{dataset.path} is not there any more, or was changed. Run the workflow again to prepare it.")
    rows = map(load_json, (root / dataset.path).read_bytes().splitlines())
    return [(row[PROMPT], row[COMPLETION]) for row in rows]


# ---- text


def _text(rows: Sequence[Any], *, root: Path, loader: str) -> Dataset:
    if not rows:
        raise DataError(f"{loader} gave no rows. Needed: {_FORMS}.")
    for number, row in enumerate(rows):
        if fault := _fault_of(row):
            raise DataError(f"{loader}: row {number}, counted from 0, {fault}.")
    lines = [dump_json({PROMPT: row[PROMPT], COMPLETION: row[COMPLETION]}, indent=None) for row in rows]
    path, sha256 = write("".join(f"{line}\n" for line in lines).encode(), ".jsonl", root=root)
    return Dataset(path, TEXT, sha256, len(rows))


def _fault_of(row: Any) -> str:
    if not isinstance(row, Mapping):
        return f"is a {type(row).__name__}. Needed: {_FORMS}"
    if row.keys() != _KEYS:
        return (
            f"has the names {', '.join(map(str, row)) or 'of nothing'}. Needed: {PROMPT} and {COMPLETION}, nothing else"
        )
    for name in (PROMPT, COMPLETION):
        if fault := _fault_of_text(row[name]):
            return f"has a {name} that {fault}"
    return ""


def _fault_of_text(text: Any) -> str:
    if not isinstance(text, str):
        return f"is a {type(text).__name__}. Needed: text"
    if not text.strip():
        return "is empty. Leave the row out"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "has half a character (a lone surrogate) in it. Needed: Unicode text"
    return ""


# ---- tables


def _table(x: Any, y: Any, *, root: Path, loader: str) -> Dataset:
    X, targets = _array(x, f"{loader}: x"), _array(y, f"{loader}: y")
    targets, task = _targets(targets, loader)
    check_values(check_table(Table(X, targets), name=loader, task=task), name=loader)
    if not len(X):
        raise DataError(f"{loader} gave no rows. Needed: {_FORMS}.")
    if task == CLASSIFICATION and len(np.unique(targets)) < 2:
        raise DataError(f"{loader}: y has one class only. A classification needs at least 2. Targets of a regression are "
                        "floats.")  # fmt: skip
    path, sha256 = write(npz(X, targets), ".npz", root=root)
    return Dataset(path, TABLE, sha256, len(X))


def _array(value: Any, name: str) -> Array:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{name} is no array of numbers: its rows differ in length, or hold other things.") from error
    if isinstance(value, np.ma.MaskedArray) or array.dtype.kind not in "fiubUS":
        raise DataError(f"{name} is a {type(value).__name__} of {array.dtype}. Needed: numbers, none of them masked.")
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("=")))


def _targets(y: Array, loader: str) -> tuple[Array, str]:
    """Floats for a regression; anything else is classes, as int32 numbers."""
    if y.dtype.kind == "f":
        return y, REGRESSION
    if y.ndim == 1 and y.dtype.kind in "US":
        return numbered(y, name=f"{loader}: y")[0], CLASSIFICATION
    return (class_numbers(y.astype(np.int64), name=f"{loader}: y") if y.ndim == 1 else y), CLASSIFICATION


# ---- datasets of the recipe


def prepared(given: Any, *, loader: str) -> Dataset:
    """A dataset of the recipe that a loader names. Raises: DataError: it names none, or one that is not prepared."""
    if not isinstance(given, Mapping):
        raise DataError(
            f"{loader} gave a {type(given).__name__}, and the backend 'gpt' trains on prepared datasets. Let it give the "
            f'name of one that prepare.py has made: {{"{PREPARED}": "pystdlib"}}'
        )
    name = given.get(PREPARED)
    if given.keys() != {PREPARED} or not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(
            f"{loader} gave an object with {', '.join(map(str, given)) or 'nothing in it'}. Needed: {_FORMS}."
        )
    snapshot = _snapshot(name)
    if not snapshot:
        raise DataError(f"{loader}: the dataset {name!r} is not prepared. Type: python prepare.py --dataset {name}")
    return Dataset(name, PREPARED, snapshot, 0)


def _snapshot(name: str) -> str:
    """The snapshot that `prepare.py` last made of a dataset; "" if there is none."""
    home = cache_home() / name
    blob = read_plain(home / "current", 1000) or b""
    snapshot = blob.decode("ascii", "replace").strip()
    return snapshot if snapshot and (home / snapshot / "manifest.json").is_file() else ""
