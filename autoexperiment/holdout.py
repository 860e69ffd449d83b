"""The hold-out rows: text that no run and no verdict has seen, read by the report's code alone.

They lie outside the working tree, the cache and the prepared folder, in a folder of mode 0700, and
nothing that `train.py` imports knows where. What this is worth: it stops an agent or a recipe from
meeting the hold-out by accident. It is no wall against code that runs as the same user and goes
looking, and the documents themselves stay on the machine: the embedded dataset is made of this
interpreter's own library, a fetched one of shards in the cache.
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

from autoexperiment import paths
from autoexperiment.errors import Refused, UsageError
from autoexperiment.files import read_json, write_atomic, write_json

_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_ROWS = "rows.npy"
_NOTE = "holdout.json"


def holdout_path(dataset: str, snapshot: str) -> Path:
    """The folder of one prepared dataset's hold-out, whether it exists or not.

    Raises: UsageError: a name that could lead out of the state folder.
    """
    for word in (dataset, snapshot):
        if not _WORD.fullmatch(word):
            raise UsageError(f"{word!r} is not a dataset or snapshot name. Allowed: 1 to 64 of a-z 0-9 _ -.")
    return paths.state_home() / "holdout" / dataset / snapshot


def write_holdout(dataset: str, snapshot: str, rows: Any) -> Path:
    """Store the rows, whole or not at all; the note with their hash comes last.

    Args:
        rows: uint16 array (N, seq_len + 1), each row beginning with BOS.
    """
    import numpy as np

    folder = holdout_path(dataset, snapshot)
    folder.mkdir(parents=True, exist_ok=True)
    for private in (folder, folder.parent, folder.parent.parent):
        private.chmod(0o700)
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows, dtype=np.uint16), allow_pickle=False)
    blob = buffer.getvalue()
    write_atomic(folder / _ROWS, blob, mode=0o600)
    write_json(folder / _NOTE, {"sha256": hashlib.sha256(blob).hexdigest(), "rows": len(rows)})
    return folder


def has_holdout(dataset: str, snapshot: str) -> bool:
    """Whether the hold-out was stored; its content is checked when it is read."""
    return (holdout_path(dataset, snapshot) / _NOTE).exists()


def read_holdout(dataset: str, snapshot: str) -> Any:
    """The rows: uint16 array (N, seq_len + 1).

    Raises: Refused: it is missing, or its content is not what was written.
    """
    import numpy as np

    again = f"Prepare the data again: python prepare.py --dataset {dataset}"
    if not has_holdout(dataset, snapshot):
        raise Refused(f"The hold-out of {dataset} {snapshot} is missing. {again}")
    folder = holdout_path(dataset, snapshot)
    note = read_json(folder / _NOTE)
    try:
        blob = (folder / _ROWS).read_bytes()
    except OSError as error:
        raise Refused(
            f"The hold-out of {dataset} {snapshot} cannot be read: {error.strerror}. Delete {folder}. {again}"
        ) from error
    if hashlib.sha256(blob).hexdigest() != note["sha256"]:
        raise Refused(
            f"The hold-out of {dataset} {snapshot} was changed after it was written. Delete {folder}. {again}"
        )
    return np.load(io.BytesIO(blob), allow_pickle=False)
