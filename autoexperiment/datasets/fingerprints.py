"""Fingerprints of data: whether a checkpoint was trained on these rows, and on this part of them.

They depend on the data and its configuration only: not on the machine, the file's name or date, or the byte order and
layout of an array. A 1 GB array takes 0.7 s (sha256 at 1.4 GB/s on one core).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from autoexperiment.datasets.soundness import slices
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Fingerprint:
    """Two hashes in hexadecimal.

    Attributes:
        rows: of the rows and their targets; of generated ones: of what they are made from.
        parts: of these, of how many there are and which part each is in, and of whether they are normalised.
    """

    rows: str
    parts: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Fingerprint:
        """Raises: DataError: this is not what `to_json` gave."""
        if not isinstance(value, dict) or value.keys() != {"rows", "parts"} or not all(map(_is_text, value.values())):
            raise DataError("it does not say what data it was trained on.")
        return cls(**value)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def of_arrays(*arrays: Array) -> str:
    """Hash of shapes, types and numbers; nothing is held in memory whole. Arrays: shape (n, ...)."""
    digest = hashlib.sha256()
    for array in arrays:
        little = array.dtype.newbyteorder("<")
        digest.update(json.dumps([list(array.shape), little.str]).encode())
        for rows in slices(len(array), math.prod(array.shape[1:])):
            digest.update(np.ascontiguousarray(array[rows], little).data)
    return digest.hexdigest()


def of_parts(identity: str, parts: Iterable[Array], *, normalize: bool) -> Fingerprint:
    """The fingerprint of rows that are split.

    Args:
        identity: what stands for all rows and targets: `of_arrays` of them, or what they are made from.
        parts: row numbers of train, val and test, shape (n,) each.
    """
    rows = hashlib.sha256(identity.encode()).hexdigest()
    return Fingerprint(rows, hashlib.sha256(f"{rows}/{normalize}/{of_arrays(*_as_int64(parts))}".encode()).hexdigest())


def _as_int64(parts: Iterable[Array]) -> list[Array]:
    return [rows.astype(np.int64, copy=False) for rows in parts]
