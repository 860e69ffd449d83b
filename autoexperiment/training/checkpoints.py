"""Checkpoints of a run: each a folder that is whole or absent, and named with its files' hashes in its manifest.

A folder is written beside its place under a hidden name, made safe on the disk, and renamed. The manifest is its
last file. What doesn't match its manifest is never loaded.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from autoexperiment import failpoint, files
from autoexperiment.datasets.fingerprints import Fingerprint
from autoexperiment.errors import DataError, HarnessError, unknown
from autoexperiment.models.base import Array, Model
from autoexperiment.models.folder import Write, as_json, as_npy, contents
from autoexperiment.paths import EPOCH_CHECKPOINT, FINAL_CHECKPOINT, RunPaths
from autoexperiment.training.curves import again_command, resume_command
from autoexperiment.untrusted import CUT
from autoexperiment.vocabulary import RunStatus

MANIFEST, STATE, SLOTS = "manifest.json", "state.json", "state.npy"
SMALL_FILE = 1 << 20  # bytes; more than any JSON of a checkpoint has
MANY = 10  # names of checkpoints that a message lists all of
_CHUNK = 1 << 20
_HIDDEN = ".checkpoint_*"
_PERIODIC = re.compile(rf"{EPOCH_CHECKPOINT}([1-9][0-9]{{0,14}})")


@dataclass(frozen=True)
class State:
    """What training needs, beside the model's own arrays, to go on as if it had never stopped.

    Attributes:
        facts: JSON: how many steps were taken, the hash of the metrics so far, the fingerprint of the data.
        slots: shape (k, n), float32: what the optimizer keeps for each of the n parameters; None without an optimizer.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)
    slots: Array | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A complete and sound checkpoint."""

    folder: Path
    epoch: int

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def is_final(self) -> bool:
        return self.name == FINAL_CHECKPOINT


def save(run: RunPaths, epoch: int, *, model: Model, state: State, final: bool = False) -> Checkpoint:
    """Write the checkpoint of an epoch, in the place of one that is there.

    Raises: HarnessError: it can't be written; earlier checkpoints are untouched, and no part of this one is left.
    """
    target = run.final_checkpoint if final else run.checkpoint_of(epoch)
    making = target.with_name(f".{target.name}.tmp")
    try:
        _remove_abandoned(run)
        making.mkdir(parents=True)
        _fill(making, epoch, model=model, state=state)
        files.remove_folder(target)
        failpoint.reach("checkpoint complete")
        making.rename(target)
        files.fsync_dir(target.parent)
    except BaseException as error:
        with suppress(OSError):
            files.remove_folder(making)
        if isinstance(error, OSError):
            raise _unwritable(run, target, error) from error
        raise
    failpoint.reach("checkpoint saved")
    return Checkpoint(target, epoch)


def _unwritable(run: RunPaths, target: Path, error: OSError) -> HarnessError:
    return HarnessError(
        f"The checkpoint {target} can't be written: {error.strerror}. Earlier checkpoints are as they were. It needs a "
        f"folder that is writable and has room. Make room, then type: {resume_command(run)}"
    )


def _remove_abandoned(run: RunPaths) -> None:
    """What a killed writer left; the run's lock sees to it that there is one writer."""
    for folder in run.checkpoints.glob(_HIDDEN):
        files.remove_folder(folder)


def _fill(folder: Path, epoch: int, *, model: Model, state: State) -> None:
    entries: dict[str, Any] = {}
    for name, write in _contents(model, state):
        entries[name] = _write(folder / name, write)
        failpoint.reach(f"checkpoint {name}")
    manifest = files.dump_json({"epoch": epoch, "files": entries}) + "\n"
    _write(folder / MANIFEST, lambda file: file.write(manifest.encode()), sync=files.fsync)
    failpoint.reach("checkpoint manifest")
    files.fsync_dir(folder)


def _contents(model: Model, state: State) -> Iterator[tuple[str, Write]]:
    """File names with what writes them."""
    yield from contents(model.config(), model.arrays())
    yield STATE, as_json(dict(state.facts))
    if state.slots is not None:
        yield SLOTS, as_npy(state.slots)


class _Hashing(io.RawIOBase):
    """A file that hashes and counts what is written to it."""

    def __init__(self, fd: int) -> None:
        self.file, self.sha256, self.size = os.fdopen(fd, "wb"), hashlib.sha256(), 0

    def write(self, blob: Any) -> int:
        self.sha256.update(blob)
        self.size += len(blob)
        return self.file.write(blob)


def _write(path: Path, write: Write, *, sync: Callable[[int], object] = os.fsync) -> dict[str, Any]:
    """Write one file to the disk; its entry in the manifest.

    Args: sync: on macOS os.fsync hands the bytes to the drive only; files.fsync for the last file flushes all of them.
    """
    file = _Hashing(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    with file.file:
        write(file)
        file.file.flush()
        sync(file.file.fileno())
    return {"size": file.size, "sha256": file.sha256.hexdigest()}


def verify(folder: Path) -> Checkpoint:
    """The checkpoint in a folder, once each of its files has been compared with its manifest.

    Raises: DataError: it is not complete or not sound; the message names the file.
    """
    manifest = _manifest(folder)
    for name, entry in manifest["files"].items():
        if _entry(folder / name, limit=entry["size"]) != entry:
            raise DataError(f"{folder / name} is not the file that {MANIFEST} beside it describes: it was changed.")
    if _epoch_of(folder.name) not in (0, math.inf, manifest["epoch"]):
        raise DataError(f"{folder} holds the checkpoint of epoch {manifest['epoch']}: it was moved.")
    return Checkpoint(folder, manifest["epoch"])


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        value = files.load_json(_small(path))
        is_fine = _is_manifest(value)
    except (ValueError, RecursionError):
        is_fine = False
    if not is_fine:
        raise DataError(f"{path} is no checkpoint's manifest: it is damaged, or of another program.")
    return dict(value)


def _is_manifest(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("files"), dict):
        return False
    names = value["files"]
    is_plain = all(name and name == Path(name).name and name not in (".", "..") for name in names)
    is_number = type(value.get("epoch")) is int and value["epoch"] > 0
    return (
        is_plain
        and is_number
        and {"config.json", STATE} <= names.keys()
        and all(isinstance(entry, dict) and type(entry.get("size")) is int for entry in names.values())
    )


def _small(path: Path) -> bytes:
    """The bytes of a small regular file. Raises: DataError: it is not there, or something else."""
    with _opened(path) as file:
        if os.fstat(file.fileno()).st_size > SMALL_FILE:
            raise DataError(f"{path} is larger than {SMALL_FILE} bytes: it is damaged, or of another program.")
        return file.read(SMALL_FILE + 1)


def _opened(path: Path) -> BinaryIO:
    """Raises: DataError: there is no plain file, or it can't be read."""
    try:
        return files.open_plain(path)
    except OSError as error:
        raise DataError(
            f"{path} can't be read: {error.strerror}. A complete checkpoint has it, a plain file."
        ) from error


def _entry(path: Path, *, limit: int) -> dict[str, Any]:
    """A file's size and hash, of at most one byte more than `limit`."""
    digest, size = hashlib.sha256(), 0
    with _opened(path) as file:
        while size <= limit and (blob := file.read(min(_CHUNK, limit + 1 - size))):
            digest.update(blob)
            size += len(blob)
    return {"size": size, "sha256": digest.hexdigest()}


def load_state(checkpoint: Checkpoint) -> State:
    """Raises: DataError: the state is not what `save` wrote."""
    path = checkpoint.folder / STATE
    try:
        facts = files.load_json(_small(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(facts, dict):
        raise DataError(f"{path} is not a JSON object, as the state of a checkpoint is.")
    return State(facts, _load_slots(checkpoint.folder / SLOTS))


def data_of(state: State, *, where: Path) -> Fingerprint:
    """What a checkpoint was trained on. Raises: DataError: it does not say so."""
    try:
        return Fingerprint.from_json(state.facts.get("data"))
    except DataError as error:
        raise DataError(f"{where / STATE}: {error}") from error


def _load_slots(path: Path) -> Array | None:
    if not path.exists():
        return None
    try:
        with _opened(path) as file:
            slots = np.lib.format.read_array(file, allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{path} is not a plain array: {error}.") from error
    if slots.ndim != 2 or slots.dtype != np.float32:
        raise DataError(f"{path} has shape {slots.shape} and type {slots.dtype}. An optimizer's has 2 axes of float32.")
    return slots


def check_final(checkpoint: Checkpoint, *, n_epochs: int) -> None:
    """Raises: DataError: a final checkpoint is not one of the last of so many epochs."""
    if checkpoint.is_final and checkpoint.epoch != n_epochs:
        raise DataError(
            f"{checkpoint.folder} holds the checkpoint of epoch {checkpoint.epoch}, and the run's last is {n_epochs}: "
            f"it was put there. Name that epoch's own: {EPOCH_CHECKPOINT}{checkpoint.epoch}"
        )


def names(run: RunPaths) -> list[str]:
    """Folders with a checkpoint's name, the newest last, the final one at the very end; they may be damaged.

    A link is none: it leads to what another run, or nobody, has written.
    """
    if not run.checkpoints.is_dir():
        return []
    with os.scandir(run.checkpoints) as entries:
        found = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and _epoch_of(entry.name)]
    return sorted(found, key=_epoch_of)


def _epoch_of(name: str) -> float:
    """The epoch in a checkpoint's name, infinity for the final one; 0 for other names."""
    if name == FINAL_CHECKPOINT:
        return math.inf
    found = _PERIODIC.fullmatch(name)
    return int(found[1]) if found else 0


def latest(
    run: RunPaths, *, say: Callable[[str], object], use: Callable[[Checkpoint], object] = lambda _: None
) -> Checkpoint | None:
    """The newest complete and sound checkpoint that can be used, or None.

    Args:
        say: told about each one that is passed over, in a line that begins with "note:".
        use: given a sound one; a DataError from it passes the checkpoint over.
    """
    for name in reversed(names(run)):
        try:
            checkpoint = verify(run.checkpoints / name)
            use(checkpoint)
            return checkpoint
        except DataError as error:
            say(f"note: {name} is passed over: {error}")
    return None


def find(run: RunPaths, name: str) -> Checkpoint:
    """A sound checkpoint by name: "checkpoint_final", "checkpoint_epoch_10", "final" or "10".

    Raises: DataError: there is none of this name (the message has some that exist), or it is damaged.
    """
    known = names(run)
    if not known:
        raise DataError(_why_none(run))
    wanted = (name, f"checkpoint_{name}", f"{EPOCH_CHECKPOINT}{name}")
    found = next((known_name for known_name in known if known_name in wanted), None)
    if found is None:
        raise DataError(unknown("checkpoint", name, _some(known, name), where=str(run.checkpoints)))
    return verify(run.checkpoints / found)


def _some(known: list[str], word: str) -> list[str]:
    """Names to show: all if they are few; else the first, the last, and those nearest to a word, with gaps marked."""
    if len(known) <= MANY:
        return known
    number = re.search(r"([0-9]{1,15})\Z", word)
    near = sorted(known, key=lambda name: abs(_epoch_of(name) - int(number[1])))[:3] if number else []
    shown = sorted({0, 1, *map(known.index, near), *range(len(known) - 3, len(known))})
    marked = ([CUT, known[at]] if at - before > 1 else [known[at]] for before, at in pairwise(shown))
    return [known[0], *chain.from_iterable(marked)]


def _why_none(run: RunPaths) -> str:
    """Why a run has no checkpoints, and what can be done about it."""
    config, summary = (object_in(path) for path in (run.config, run.summary))
    start, status = f"{run.folder} has no checkpoints", summary.get("status")
    output = config.get("output")
    if isinstance(output, dict) and output.get("save_checkpoints") is False:
        return (
            f"{start}: in its configuration output.save_checkpoints is false, and a run keeps its configuration. "
            f"Start another one: {again_command(run)} --set output.save_checkpoints=true"
        )
    if status == RunStatus.DIVERGED:
        return (
            f"{start}: it diverged before the first was saved. Start another run with a smaller training.learning_rate."
        )
    if status == RunStatus.COMPLETED:
        return (
            f"{start} any more: it was completed and had one. Put them back, or start another run: {again_command(run)}"
        )
    return (
        f"{start} yet: no epoch that ends with one (output.checkpoint_frequency) was completed. "
        f"If it was stopped, go on with it: {resume_command(run)}"
    )


def object_in(path: Path) -> dict[str, Any]:
    """The JSON object of a small file; empty where there is none."""
    with suppress(DataError, ValueError, RecursionError):
        value = files.load_json(_small(path))
        return value if isinstance(value, dict) else {}
    return {}
