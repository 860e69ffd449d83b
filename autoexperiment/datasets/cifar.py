"""CIFAR-10 and CIFAR-100 in their "python version": pickled batches in a folder, or the archive that holds them.

Format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import fcntl
import gzip
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, Facts, Table
from autoexperiment.datasets.pickles import read_batch
from autoexperiment.errors import DataError
from autoexperiment.files import fsync, fsync_dir

SIDE, CHANNELS = 32, 3
SHAPE = (SIDE, SIDE, CHANNELS)
N_PIXELS = SIDE * SIDE * CHANNELS
MAX_UNPACKED = 400_000_000  # the real archives unpack to 186 MB
_CHUNK = 1024**2

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Layout:
    """How one of the two datasets is laid out.

    Attributes:
        folder: of the batches; they may lie in `dataset.path` itself too.
        n_classes: by the name of the labels in the batches.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    n_classes: Mapping[str, int]

    @property
    def batches(self) -> tuple[str, ...]:
        return (*self.train, self.test)


CIFAR10 = Layout(
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    train=tuple(f"data_batch_{n}" for n in range(1, 6)),
    test="test_batch",
    n_classes={"labels": 10},
)
CIFAR100 = Layout(
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    train=("train",),
    test="test",
    n_classes={"fine_labels": 100, "coarse_labels": 20},
)


@dataclass(frozen=True)
class Batch:
    """Pictures of one file.

    Attributes:
        pixels: uint8, shape (n, 3072): a picture is 1024 red, 1024 green, 1024 blue bytes, each by rows.
        labels: int32, shape (n,).
    """

    pixels: Array
    labels: Array


@dataclass(frozen=True)
class CifarFiles:
    """The standard files in a folder.

    Attributes:
        folder: of the batches, or with the layout's folder or archive in it.
        labels: one of the layout's `n_classes`.
    """

    folder: Path
    layout: Layout
    labels: str

    @property
    def n_classes(self) -> int:
        return self.layout.n_classes[self.labels]

    @property
    def published(self) -> Facts:
        return Facts(CLASSIFICATION, 60_000, SHAPE, self.n_classes, n_test=10_000)

    def missing(self) -> list[str]:
        """Batches that are neither there nor to be had from an archive that is, by their names below the folder."""
        if (self.folder / self.layout.archive).is_file():
            return []
        return [str((self._place / name).relative_to(self.folder)) for name in self._absent()]

    def facts(self) -> Facts:
        """Raises: DataError: as `load`. Pixels are not read."""
        counts = [len(batch.labels) for batch in self._batches()]
        return Facts(CLASSIFICATION, sum(counts), SHAPE, self.n_classes, n_test=counts[-1])

    def load(self) -> Table:
        """Raises: DataError: a batch is damaged, has pictures of another size, or a label out of range."""
        batches = self._batches()
        labels = np.concatenate([batch.labels for batch in batches])
        return Table(_pictures(batches), labels, n_test=len(batches[-1].labels))

    @property
    def _place(self) -> Path:
        """The folder with the batches: the one named as in the archive, or the given one if some lie there."""
        below = self.folder / self.layout.folder
        is_here = not below.is_dir() and any((self.folder / name).is_file() for name in self.layout.batches)
        return self.folder if is_here else below

    def _absent(self) -> list[str]:
        return [name for name in self.layout.batches if not (self._place / name).is_file()]

    def _batches(self) -> list[Batch]:
        """All batches, the standard test set last; those that only the archive has are unpacked first."""
        place = self._place
        if self._absent():
            unpack(self.folder / self.layout.archive, place, {f"{self.layout.folder}/{n}": n for n in self._absent()})
        return [_batch(place / name, self.labels, self.n_classes) for name in self.layout.batches]


def _pictures(batches: list[Batch]) -> Array:
    """The pictures of all batches as uint8, shape (n, 32, 32, 3).

    Copied once, channels last: taking 128 rows of a view of the planes takes 8 times as long, in every step.
    """
    found = np.empty((sum(len(batch.labels) for batch in batches), *SHAPE), np.uint8)
    start = 0
    for batch in batches:
        n = len(batch.labels)
        planes = batch.pixels.reshape(n, CHANNELS, SIDE, SIDE)
        for channel in range(CHANNELS):  # 3 times as fast as one transposed copy
            found[start : start + n, ..., channel] = planes[:, channel]
        start += n
    return found


def _batch(path: Path, key: str, n_classes: int) -> Batch:
    content = read_batch(path)
    absent = [name for name in ("data", key) if name not in content]
    if absent:
        raise DataError(f"{path} has no {' and no '.join(absent)}, only {', '.join(content)[:200]}. {_again(path)}")
    pixels, labels = content["data"], _labels(path, content[key])
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (N_PIXELS,):
        form = f"{pixels.dtype} of shape {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{path}: data is {form}. Needed: uint8 of shape (n, {N_PIXELS}). {_again(path)}")
    if len(pixels) != len(labels):
        raise DataError(f"{path} has {len(pixels):,} pictures and {len(labels):,} {key}. {_again(path)}")
    wrong = labels[(labels < 0) | (labels >= n_classes)]
    if len(wrong):
        raise DataError(f"{path} has the label {wrong[0]}. Allowed in {key}: 0 to {n_classes - 1}. {_again(path)}")
    return Batch(pixels, labels.astype(np.int32))


def _labels(path: Path, found: Any) -> Array:
    """Labels as int64, shape (n,). Raises: DataError: they are no list of whole numbers that fit."""
    if isinstance(found, np.ndarray) and found.ndim == 1:
        return found.astype(np.int64)
    if isinstance(found, list) and all(type(label) is int and abs(label) < 2**31 for label in found):
        return np.array(found, np.int64)
    raise DataError(f"{path}: its labels are no list of whole numbers. {_again(path)}")


def _again(path: Path) -> str:
    return f"Delete {path.name} and fetch the dataset again."


# ---- the archive ---------------------------------------------------------------------------------


def unpack(archive: Path, place: Path, names: Mapping[str, str]) -> None:
    """Files of an archive in a folder, each complete or absent.

    Only plain files are taken, by names of ours: a path, link or device in the archive has no effect. Two processes may
    do this at once.

    Args: names: of the files in the archive, each with its name in the folder.
    Raises: DataError: the archive is damaged, lacks a file, unpacks to too much, or the folder cannot be written.
    """
    try:
        with archive.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            place.mkdir(exist_ok=True)
            wanted = {member: name for member, name in names.items() if not (place / name).is_file()}
            if wanted:  # another process may have had the lock before
                _unpack(file, place, wanted)
                fsync_dir(place)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, ValueError, RecursionError) as error:
        raise DataError(f"{archive} is damaged or cut off: {error}. {_again(archive)}") from error
    except OSError as error:
        raise DataError(
            f"Cannot unpack {archive}: {error.strerror}. Make room, or unpack it yourself: tar xf {archive.name}"
        ) from error


def _unpack(file: IO[bytes], place: Path, wanted: dict[str, str]) -> None:
    bounded = cast(IO[bytes], _Bounded(gzip.GzipFile(fileobj=file)))
    with tarfile.open(fileobj=bounded, mode="r|") as tar:
        for member in tar:
            is_plain = member.isreg() and not member.issparse()
            name = wanted.pop(member.name.removeprefix("./"), None) if is_plain else None
            content = tar.extractfile(member) if name else None
            if name and content:
                _copy(content, place / name)
            if not wanted:
                return
    raise DataError(f"{file.name} lacks {', '.join(wanted)}. {_again(Path(file.name))}")


def _copy(content: IO[bytes], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")  # one name: we hold the archive's lock
    with temporary.open("wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        file.flush()
        fsync(file.fileno())
    temporary.replace(path)


class _Bounded:
    """A file to read from that ends with an error when it gives too much: an archive may unpack to any size."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self.file, self.given = file, 0

    def read(self, n: int) -> bytes:
        chunk = self.file.read(n)
        self.given += len(chunk)
        if self.given > MAX_UNPACKED:
            raise tarfile.ReadError(f"it unpacks to more than {MAX_UNPACKED:,} bytes")
        return chunk
