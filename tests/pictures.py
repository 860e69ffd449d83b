"""Small files in the formats of MNIST and CIFAR, with a pattern in them that a model can learn.

A picture is dark noise with one bright square, whose place tells the class.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def labels_of(n: int, n_classes: int, rng: np.random.Generator) -> Array:
    """Every class about as often, shuffled; uint8, shape (n,)."""
    labels = (np.arange(n) % n_classes).astype(np.uint8)
    rng.shuffle(labels)
    return labels


def squares(labels: Array, side: int, per_row: int, rng: np.random.Generator) -> Array:
    """uint8, shape (n, side, side): the square of class c stands in column c % per_row and row c // per_row."""
    step = side // per_row
    found = rng.integers(0, 60, (len(labels), side, side), dtype=np.uint8)
    for picture, label in zip(found, labels.tolist(), strict=True):
        top, left = label // per_row * step, label % per_row * step
        picture[top : top + step, left : left + step] += 180
    return found


# ---- MNIST -------------------------------------------------------------------------------------


def idx_bytes(values: Array) -> bytes:
    """An IDX file of unsigned bytes."""
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def mnist_files(n_train: int, n_test: int, seed: int, *, side: int = 28) -> dict[str, bytes]:
    """The four standard files by name, not compressed."""
    rng = np.random.default_rng(seed)
    files = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        labels = labels_of(n, 10, rng)
        files[f"{part}-images-idx3-ubyte"] = idx_bytes(squares(labels, side, 4, rng))
        files[f"{part}-labels-idx1-ubyte"] = idx_bytes(labels)
    return files


def write_mnist(
    folder: Path, n_train: int, n_test: int, seed: int, *, side: int = 28, zipped: bool = False, dotted: bool = False
) -> None:
    """Write the four files. `dotted`: named as in `train-images.idx3-ubyte`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in mnist_files(n_train, n_test, seed, side=side).items():
        target = folder / (name.replace("-idx", ".idx") if dotted else name)
        if zipped:
            target.with_name(f"{target.name}.gz").write_bytes(gzip.compress(blob, 1))
        else:
            target.write_bytes(blob)


# ---- CIFAR -------------------------------------------------------------------------------------


def python2_pickle(batch: Mapping[str, Any]) -> bytes:
    """A dict as Python 2's cPickle wrote it in protocol 2: text as byte strings, arrays with their raw bytes."""
    writer = _Python2Writer()
    writer.dict(batch)
    return b"\x80\x02" + bytes(writer.out) + b"."


class _Python2Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self.memo = 0

    def put(self) -> None:
        self.memo += 1
        self.out += b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)

    def value(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            self.array(value)
        elif isinstance(value, str):
            self.string(value.encode("latin-1"))
        elif isinstance(value, list):
            self.list(value)
        else:
            self.int(int(value))

    def int(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += b"K" + bytes([value])
        elif 0 <= value < 65536:
            self.out += b"M" + struct.pack("<H", value)
        else:
            self.out += b"J" + struct.pack("<i", value)

    def string(self, raw: bytes, *, is_shared: bool = True) -> None:
        self.out += b"U" + bytes([len(raw)]) if len(raw) < 256 else b"T" + struct.pack("<i", len(raw))
        self.out += raw
        if is_shared:
            self.put()

    def list(self, items: Sequence[Any]) -> None:
        self.out += b"]"
        self.put()
        for start in range(0, len(items), 1000):  # cPickle's batch size
            self.out += b"("
            for item in items[start : start + 1000]:
                self.value(item)
            self.out += b"e"

    def dict(self, entries: Mapping[str, Any]) -> None:
        self.out += b"}"
        self.put()
        self.out += b"("
        for key, value in entries.items():
            self.string(key.encode())
            self.value(value)
        self.out += b"u"

    def array(self, array: Array) -> None:
        self.out += b"cnumpy.core.multiarray\n_reconstruct\n"
        self.put()
        self.out += b"cnumpy\nndarray\n"
        self.put()
        self.out += b"K\x00\x85U\x01b\x87R"
        self.put()
        self.out += b"(K\x01"
        for n in array.shape:
            self.int(n)
        self.out += {1: b"\x85", 2: b"\x86"}[array.ndim]
        self.out += b"cnumpy\ndtype\n"
        self.put()
        self.out += b"U\x02" + array.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
        self.put()
        self.out += b"(K\x03U\x01" + array.dtype.str[:1].encode() + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.string(array.tobytes(), is_shared=False)
        self.out += b"tb"


def colour_rows(labels: Array, per_row: int, rng: np.random.Generator) -> Array:
    """CIFAR's rows, uint8, shape (n, 3072): the red plane, then the green, then the blue."""
    planes = [squares(labels, 32, per_row, rng) for _ in range(3)]
    return np.stack(planes, axis=1).reshape(len(labels), 3072)


def cifar10_files(n_per_batch: int, n_test: int, seed: int) -> dict[str, bytes]:
    """The six batches by name."""
    rng = np.random.default_rng(seed)
    sizes = {f"data_batch_{n}": n_per_batch for n in range(1, 6)} | {"test_batch": n_test}
    files = {}
    for name, n in sizes.items():
        labels = labels_of(n, 10, rng)
        files[name] = python2_pickle({
            "batch_label": f"batch {name}",
            "labels": labels.tolist(),
            "data": colour_rows(labels, 4, rng),
            "filenames": [f"picture_s_{i:06d}.png" for i in range(n)],
        })  # fmt: skip
    return files


def cifar100_files(n_train: int, n_test: int, seed: int) -> dict[str, bytes]:
    """`train` and `test`: 100 fine classes; coarse class c holds the fine classes 5c to 5c + 4."""
    rng = np.random.default_rng(seed)
    files = {}
    for name, n in (("train", n_train), ("test", n_test)):
        labels = labels_of(n, 100, rng)
        files[name] = python2_pickle({
            "filenames": [f"picture_s_{i:06d}.png" for i in range(n)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": colour_rows(labels, 10, rng),
        })  # fmt: skip
    return files


def write_cifar10(folder: Path, n_per_batch: int, n_test: int, seed: int) -> None:
    """Write `cifar-10-batches-py/` with its six batches below the folder."""
    _write(folder / "cifar-10-batches-py", cifar10_files(n_per_batch, n_test, seed))


def write_cifar100(folder: Path, n_train: int, n_test: int, seed: int) -> None:
    """Write `cifar-100-python/` with `train` and `test` below the folder."""
    _write(folder / "cifar-100-python", cifar100_files(n_train, n_test, seed))


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, blob in files.items():
        (folder / name).write_bytes(blob)


def archive_of(files: Mapping[str, bytes]) -> bytes:
    """A .tar.gz of plain files, by their paths in it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, blob in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(blob)
            tar.addfile(member, io.BytesIO(blob))
    return buffer.getvalue()
