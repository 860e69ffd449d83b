"""MNIST and CIFAR from files in their published formats, sound and not."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from file_server import Fault, FileServer
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment.datasets import cifar, idx
from autoexperiment.datasets.base import Facts, check_table
from autoexperiment.datasets.images import NAMES, SOURCES, ImageDataset, Source
from autoexperiment.errors import DataError

TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
BATCHES = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"


def write_small_mnist(folder: Path, *, zipped: bool = False, dotted: bool = False) -> None:
    pictures.write_mnist(folder, 6, 4, 0, side=8, zipped=zipped, dotted=dotted)


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        act()
    return str(caught.value)


def both_refuse(dataset: ImageDataset) -> str:
    """The message of `load`, which `facts` gives too: a dry run says what would fail."""
    message = refusal(dataset.load)
    assert refusal(dataset.facts) == message
    return message


# ---- MNIST ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_mnist_is_read_byte_for_byte_with_its_test_set_last(tmp_path: Path, zipped: bool, dotted: bool) -> None:
    write_small_mnist(tmp_path, zipped=zipped, dotted=dotted)
    files = pictures.mnist_files(6, 4, 0, side=8)

    table = ImageDataset("mnist", tmp_path).load()

    assert table.X.tobytes() == files[TRAIN_IMAGES][16:] + files[TEST_IMAGES][16:]
    assert bytes(table.y.tolist()) == files[TRAIN_LABELS][8:] + files[TEST_LABELS][8:]
    assert (table.X.shape, table.X.dtype, table.y.dtype) == ((10, 8, 8, 1), np.uint8, np.int32)
    assert table.n_test == 4


def test_an_idx_file_written_by_hand_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + b"\x01\x02\x03\x04\x05\x06")

    assert idx.read(path, dimensions=2).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_plain_files_are_memory_mapped(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)

    assert isinstance(idx.read(tmp_path / TRAIN_IMAGES, dimensions=3), np.memmap)


def test_a_plain_file_is_taken_before_a_zipped_one(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    (tmp_path / f"{TRAIN_LABELS}.gz").write_bytes(b"not gzip")

    assert ImageDataset("mnist", tmp_path).load().n_test == 4


@pytest.mark.parametrize("zipped", [False, True])
def test_facts_of_mnist_are_those_of_the_table(tmp_path: Path, zipped: bool) -> None:
    write_small_mnist(tmp_path, zipped=zipped)

    assert ImageDataset("mnist", tmp_path).facts() == Facts("classification", 10, (8, 8, 1), 10, n_test=4)


def test_facts_of_plain_mnist_read_no_pixels(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    images = tmp_path / TRAIN_IMAGES
    images.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 6, 5000, 5000))
    with images.open("ab") as file:
        file.truncate(16 + 6 * 5000 * 5000)
    tests = tmp_path / TEST_IMAGES
    tests.write_bytes(bytes([0, 0, 8, 3]) + struct.pack(">3I", 4, 5000, 5000))
    with tests.open("ab") as file:
        file.truncate(16 + 4 * 5000 * 5000)

    tracemalloc.start()
    facts = ImageDataset("mnist", tmp_path).facts()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert facts.shape == (5000, 5000, 1)
    assert peak < 2_000_000


SOUND_LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 6, 0, 1, 2, 3, 4, 5])
BROKEN_LABELS = {
    "empty": (b"", "starts with nothing"),
    "another magic": (b"\x01" + SOUND_LABELS[1:], "starts with 01000801, not with 00000801"),
    "floats": (SOUND_LABELS[:2] + b"\x0d" + SOUND_LABELS[3:], "starts with 00000d01"),
    "two dimensions": (bytes([0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + bytes(6), "starts with 00000802"),
    "cut in the header": (SOUND_LABELS[:7], "ends within its header, after 7 bytes"),
    "one byte short": (SOUND_LABELS[:-1], "5"),
    "one byte long": (SOUND_LABELS + b"\x00", "6"),
    "no rows": (bytes([0, 0, 8, 1, 0, 0, 0, 0]), "1 to 1,000,000,000 bytes"),
    "absurdly long": (bytes([0, 0, 8, 1, 255, 255, 255, 255]), "1 to 1,000,000,000 bytes"),
    "one label too few": (bytes([0, 0, 8, 1, 0, 0, 0, 5]) + SOUND_LABELS[8:13], "5 labels for 6 pictures"),
    "class 10": (SOUND_LABELS[:-1] + b"\x0a", "the label 10. Allowed: 0 to 9"),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("fault", BROKEN_LABELS)
def test_labels_that_are_not_sound_are_refused_with_their_file(tmp_path: Path, fault: str, zipped: bool) -> None:
    write_small_mnist(tmp_path, zipped=zipped)
    blob, reason = BROKEN_LABELS[fault]
    path = tmp_path / (TRAIN_LABELS + (".gz" if zipped else ""))
    path.write_bytes(gzip.compress(blob) if zipped else blob)

    message = both_refuse(ImageDataset("mnist", tmp_path))

    assert str(path) in message
    assert reason in message


@pytest.mark.parametrize("zipped", [False, True])
def test_pictures_whose_length_does_not_fit_are_refused(tmp_path: Path, zipped: bool) -> None:
    write_small_mnist(tmp_path, zipped=zipped)
    path = tmp_path / (TRAIN_IMAGES + (".gz" if zipped else ""))
    blob = pictures.mnist_files(6, 4, 0, side=8)[TRAIN_IMAGES][:-1]
    path.write_bytes(gzip.compress(blob) if zipped else blob)

    message = both_refuse(ImageDataset("mnist", tmp_path))

    assert str(path) in message
    assert "383" in message and "384" in message  # 6 x 8 x 8 = 384


def test_pictures_of_two_sizes_are_refused(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    (tmp_path / TEST_IMAGES).write_bytes(pictures.mnist_files(6, 4, 0, side=12)[TEST_IMAGES])

    message = both_refuse(ImageDataset("mnist", tmp_path))

    assert "pictures of 12 x 12" in message and "of 8 x 8" in message


@pytest.mark.parametrize("change", ["checksum", "cut", "garbage", "empty"])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, change: str) -> None:
    write_small_mnist(tmp_path, zipped=True)
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    blob = path.read_bytes()
    flipped = blob[:-8] + bytes([blob[-8] ^ 1]) + blob[-7:]  # the last 8 bytes are checksum and length (RFC 1952)
    path.write_bytes({"checksum": flipped, "cut": blob[:-20], "garbage": b"hello" * 9, "empty": b""}[change])

    assert str(path) in both_refuse(ImageDataset("mnist", tmp_path))


def test_a_gzip_bomb_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    write_small_mnist(tmp_path, zipped=True)
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 6, 8, 8)
    (tmp_path / f"{TRAIN_IMAGES}.gz").write_bytes(gzip.compress(header + bytes(30_000_000), 1))

    tracemalloc.start()
    message = both_refuse(ImageDataset("mnist", tmp_path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert "unpacks to more than the 384 bytes" in message
    assert peak < 3_000_000


def test_what_is_missing_is_named_with_where_to_get_it_and_what_to_type(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    (tmp_path / TEST_LABELS).unlink()
    (tmp_path / TRAIN_IMAGES).unlink()

    message = both_refuse(ImageDataset("mnist", tmp_path))

    assert f"mnist is not complete: {tmp_path} lacks {TRAIN_IMAGES}, {TEST_LABELS}." in message
    assert f"https://ossci-datasets.s3.amazonaws.com/mnist/{TRAIN_IMAGES}.gz" in message
    assert '"download": true in dataset.params' in message


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    assert f"{tmp_path / 'nowhere'} is not there" in both_refuse(ImageDataset(name, tmp_path / "nowhere"))


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, name: str) -> None:
    folder = tmp_path / ("x" * 300)

    assert f"Cannot look into {folder}: File name too long" in both_refuse(ImageDataset(name, folder))


# ---- CIFAR ---------------------------------------------------------------------------------------


def write_batches(folder: Path, **changes: bytes) -> None:
    """CIFAR-10 with two pictures in each batch and three to test with; `changes`: other bytes for a batch."""
    pictures.write_cifar10(folder, 2, 3, 0)
    for name, blob in changes.items():
        (folder / BATCHES / name).write_bytes(blob)


def batch(**changes: Any) -> bytes:
    sound = {"labels": [1, 2], "data": np.zeros((2, 3072), np.uint8)}
    return pictures.python2_pickle({k: v for k, v in (sound | changes).items() if v is not None})


def test_each_pixel_of_cifar_stands_where_its_authors_say(tmp_path: Path) -> None:
    row = np.zeros((1, 3072), np.uint8)
    row[0, 5 * 32 + 7] = 11  # red, row 5, column 7
    row[0, 1024 + 5 * 32 + 8] = 22  # green, one to the right
    row[0, 2048 + 6 * 32 + 7] = 33  # blue, one below
    write_batches(tmp_path, data_batch_1=batch(labels=[4], data=row))

    table = ImageDataset("cifar10", tmp_path).load()

    assert table.X.shape == (1 + 4 * 2 + 3, 32, 32, 3)
    assert table.X[0, 5, 7].tolist() == [11, 0, 0]
    assert table.X[0, 5, 8].tolist() == [0, 22, 0]
    assert table.X[0, 6, 7].tolist() == [0, 0, 33]
    assert int(table.X[0].sum()) == 66
    assert table.y[0] == 4


def test_batches_follow_each_other_with_the_test_set_last(tmp_path: Path) -> None:
    write_batches(tmp_path)
    for n, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        blob = batch(labels=[n, n], data=np.full((2, 3072), 10 * n, np.uint8))
        (tmp_path / BATCHES / name).write_bytes(blob)

    table = ImageDataset("cifar10", tmp_path).load()

    assert table.y.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert table.X[:, 0, 0, 0].tolist() == [0, 0, 10, 10, 20, 20, 30, 30, 40, 40, 50, 50]
    assert table.n_test == 2


@pytest.mark.parametrize(("labels", "n_classes"), [("fine", 100), ("coarse", 20)])
def test_cifar100_has_two_kinds_of_labels(tmp_path: Path, labels: str, n_classes: int) -> None:
    pictures.write_cifar100(tmp_path, 100, 10, 0)
    fine = ImageDataset("cifar100", tmp_path).load().y

    dataset = ImageDataset("cifar100", tmp_path, labels=labels)

    assert dataset.facts() == Facts("classification", 110, (32, 32, 3), n_classes, n_test=10)
    assert dataset.load().y.tolist() == (fine if labels == "fine" else fine // 5).tolist()
    assert dataset.load().n_test == 10


def test_batches_may_lie_in_the_folder_itself(tmp_path: Path) -> None:
    write_batches(tmp_path)

    assert ImageDataset("cifar10", tmp_path / BATCHES).load().n_test == 3


def test_batches_in_an_array_of_labels_are_read(tmp_path: Path) -> None:
    write_batches(tmp_path, test_batch=batch(labels=np.array([7, 9], np.int64)))

    assert ImageDataset("cifar10", tmp_path).load().y[-2:].tolist() == [7, 9]


FAULTY_BATCHES = {
    "no data": (batch(data=None), "has no data"),
    "no labels": (batch(labels=None), "has no labels"),
    "another width": (batch(data=np.zeros((2, 3071), np.uint8)), "uint8 of shape (2, 3071)"),
    "another type": (batch(data=np.zeros((2, 3072), np.int8)), "int8 of shape (2, 3072)"),
    "one dimension": (batch(data=np.zeros(3072, np.uint8)), "uint8 of shape (3072,)"),
    "text for pictures": (batch(data="pixels"), "Needed: uint8 of shape (n, 3072)"),
    "a label too many": (batch(labels=[1, 2, 3]), "2 pictures and 3 labels"),
    "class 10": (batch(labels=[1, 10]), "the label 10. Allowed in labels: 0 to 9"),
    "class -1": (batch(labels=[-1, 1]), "the label -1"),
    "text for labels": (batch(labels=["1", "2"]), "no list of whole numbers"),
    "a text for all labels": (batch(labels="12"), "no list of whole numbers"),
    "no pickle": (b"hello", "is not a batch"),
    "a planted call": (b"\x80\x02cos\nsystem\nU\x04true\x85R.", "asks for 'os.system'"),
}


@pytest.mark.parametrize("fault", FAULTY_BATCHES)
def test_a_batch_that_is_not_sound_is_refused_with_its_file(tmp_path: Path, fault: str) -> None:
    blob, reason = FAULTY_BATCHES[fault]
    write_batches(tmp_path, data_batch_3=blob)

    message = both_refuse(ImageDataset("cifar10", tmp_path))

    assert str(tmp_path / BATCHES / "data_batch_3") in message
    assert reason in message


def test_missing_batches_are_named(tmp_path: Path) -> None:
    write_batches(tmp_path)
    (tmp_path / BATCHES / "data_batch_4").unlink()

    message = both_refuse(ImageDataset("cifar10", tmp_path))

    assert f"{tmp_path} lacks {BATCHES}/data_batch_4." in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in message


# ---- the archive ---------------------------------------------------------------------------------


def archived(files: dict[str, bytes] | None = None) -> dict[str, bytes]:
    """CIFAR-10's files by their paths in its archive."""
    return {f"{BATCHES}/{name}": blob for name, blob in (files or pictures.cifar10_files(2, 3, 0)).items()}


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


UNPACKED = sorted([ARCHIVE, BATCHES, *archived()])


def test_an_archive_is_unpacked_once(tmp_path: Path) -> None:
    files = {f"{BATCHES}/readme.html": b"<html>"} | archived()
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(files))
    dataset = ImageDataset("cifar10", tmp_path)

    first = dataset.load()

    assert below(tmp_path) == UNPACKED
    (tmp_path / ARCHIVE).write_bytes(b"")
    assert dataset.load().X.tobytes() == first.X.tobytes()


def test_facts_of_an_archive_are_those_of_its_batches(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(archived()))

    assert ImageDataset("cifar10", tmp_path).facts() == Facts("classification", 13, (32, 32, 3), 10, n_test=3)


def test_what_a_killed_process_left_of_unpacking_is_completed(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(archived()))
    (tmp_path / BATCHES).mkdir()
    (tmp_path / BATCHES / ".data_batch_1.tmp").write_bytes(b"half of it")

    table = ImageDataset("cifar10", tmp_path).load()

    assert table.n_test == 3
    assert below(tmp_path) == UNPACKED


def test_a_batch_that_was_deleted_comes_back_from_the_archive(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(archived()))
    write_batches(tmp_path, data_batch_2=batch(labels=[9, 9]))
    (tmp_path / BATCHES / "data_batch_1").unlink()

    table = ImageDataset("cifar10", tmp_path).load()

    assert (tmp_path / BATCHES / "data_batch_1").read_bytes() == pictures.cifar10_files(2, 3, 0)["data_batch_1"]
    assert table.y[2:4].tolist() == [9, 9]


def test_a_batch_that_another_process_unpacked_meanwhile_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(archived()))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "test_batch").write_bytes(b"unpacked meanwhile")

    cifar.unpack(tmp_path / ARCHIVE, tmp_path / "out", {f"{BATCHES}/test_batch": "test_batch"})

    assert (tmp_path / "out" / "test_batch").read_bytes() == b"unpacked meanwhile"


def test_an_archive_is_unpacked_by_several_at_once(tmp_path: Path) -> None:
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(archived(pictures.cifar10_files(50, 50, 0))))
    sizes: list[int] = []

    threads = [
        threading.Thread(target=lambda: sizes.append(len(ImageDataset("cifar10", tmp_path).load().y))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sizes == [300] * 4
    assert below(tmp_path) == UNPACKED


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


def hostile(*members: tarfile.TarInfo) -> bytes:
    """An archive that has these members before the six batches; data_batch_1 is lacking."""
    buffer = io.BytesIO()
    files = archived()
    del files[f"{BATCHES}/data_batch_1"]
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for one in members:
            tar.addfile(one, io.BytesIO(b"x" * one.size) if one.size else None)
        for name, blob in files.items():
            plain = tarfile.TarInfo(name)
            plain.size = len(blob)
            tar.addfile(plain, io.BytesIO(blob))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE])
def test_a_link_or_device_with_the_name_of_a_batch_is_not_taken(tmp_path: Path, kind: bytes) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "d").mkdir()
    blob = hostile(member(f"{BATCHES}/data_batch_1", kind, str(secret)))
    (tmp_path / "d" / ARCHIVE).write_bytes(blob)

    message = both_refuse(ImageDataset("cifar10", tmp_path / "d"))

    assert f"{ARCHIVE} lacks {BATCHES}/data_batch_1" in message
    assert not (tmp_path / "d" / BATCHES / "data_batch_1").exists()


@pytest.mark.parametrize("name", ["../escaped", f"{BATCHES}/../../escaped", "ABSOLUTE", f"{BATCHES}/other", BATCHES])
def test_an_archive_writes_nothing_but_batches(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    planted = member(name.replace("ABSOLUTE", str(tmp_path / "escaped")), tarfile.REGTYPE)
    planted.size = 5
    link = member(f"{BATCHES}/test", tarfile.SYMTYPE, str(tmp_path))
    (folder / ARCHIVE).write_bytes(hostile(planted, link))

    both_refuse(ImageDataset("cifar10", folder))

    assert not (tmp_path / "escaped").exists()
    assert below(folder) == [path for path in UNPACKED if not path.endswith("data_batch_1")]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar, "MAX_UNPACKED", 1_000_000)
    large = member("large", tarfile.REGTYPE)
    large.size = 2_000_000
    (tmp_path / ARCHIVE).write_bytes(hostile(large))

    assert "unpacks to more than 1,000,000 bytes" in both_refuse(ImageDataset("cifar10", tmp_path))


def test_a_sparse_member_cannot_pretend_to_be_large(tmp_path: Path) -> None:
    huge = member(f"{BATCHES}/data_batch_1", tarfile.REGTYPE)
    huge.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}
    (tmp_path / ARCHIVE).write_bytes(hostile(huge))

    assert f"lacks {BATCHES}/data_batch_1" in both_refuse(ImageDataset("cifar10", tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 20, 5000, -1000])
def test_an_archive_that_is_cut_off_is_refused_and_leaves_no_half_batch(tmp_path: Path, keep: int) -> None:
    files = archived()
    (tmp_path / ARCHIVE).write_bytes(pictures.archive_of(files)[:keep])

    message = both_refuse(ImageDataset("cifar10", tmp_path))

    assert str(tmp_path / ARCHIVE) in message
    for path in (tmp_path / BATCHES).glob("[!.]*"):
        assert path.read_bytes() == files[f"{BATCHES}/{path.name}"]


TAR = gzip.decompress(pictures.archive_of(archived({"data_batch_1": b"abc", "test_batch": b"def"})))


@settings(deadline=None, max_examples=100)
@given(changes=st.lists(st.tuples(st.integers(0, len(TAR) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_a_changed_tar_file_is_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    blob = bytearray(TAR)
    for position, value in changes:
        blob[position] = value
    folder = tmp_path_factory.mktemp("tar")
    (folder / "f.tar.gz").write_bytes(gzip.compress(bytes(blob), 1))
    names = {f"{BATCHES}/{name}": name for name in ("data_batch_1", "test_batch")}

    try:
        cifar.unpack(folder / "f.tar.gz", folder / "out", names)
    except DataError as error:
        assert "f.tar.gz" in str(error)

    assert {path.name for path in (folder / "out").glob("[!.]*")} <= set(names.values())


# ---- all of them ---------------------------------------------------------------------------------


def write(name: str, folder: Path) -> None:
    if name == "mnist":
        pictures.write_mnist(folder, 300, 100, 0, side=12)
    elif name == "cifar10":
        pictures.write_cifar10(folder, 60, 100, 0)
    else:
        pictures.write_cifar100(folder, 500, 200, 0)


@pytest.mark.parametrize("name", NAMES)
def test_the_test_files_hold_a_pattern_that_can_be_learned(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)

    table = check_table(ImageDataset(name, tmp_path).load(), name=name, task="classification")

    X, y, n = table.X.reshape(len(table.X), -1).astype(float), table.y, table.n_test
    centres = np.array([X[:-n][y[:-n] == c].mean(axis=0) for c in range(y.max() + 1)])
    nearest = ((centres**2).sum(axis=1) - 2 * X[-n:] @ centres.T).argmin(axis=1)
    assert (nearest == y[-n:]).mean() > 0.95


@pytest.mark.parametrize("name", NAMES)
def test_facts_agree_with_the_table(tmp_path: Path, name: str) -> None:
    write(name, tmp_path)
    dataset = ImageDataset(name, tmp_path)

    facts, table = dataset.facts(), dataset.load()

    assert (facts.n_rows, facts.shape) == (len(table.X), table.X.shape[1:])
    assert facts.n_classes == table.y.max() + 1
    assert dataset.task == facts.task == "classification"


def test_facts_of_loaded_pictures_are_not_read_again(tmp_path: Path) -> None:
    write_small_mnist(tmp_path, zipped=True)
    dataset = ImageDataset("mnist", tmp_path)
    before = dataset.facts()
    dataset.load()
    for path in tmp_path.iterdir():
        path.unlink()

    assert dataset.facts() == before


def test_unknown_words_are_refused_with_the_nearest(tmp_path: Path) -> None:
    assert "Did you mean 'mnist'?" in refusal(lambda: ImageDataset("mnits", tmp_path))
    assert "Did you mean 'coarse'?" in refusal(lambda: ImageDataset("cifar100", tmp_path, labels="course"))


# ---- download ------------------------------------------------------------------------------------


def sources_of(name: str, site: FileServer) -> dict[str, tuple[Source, ...]]:
    """The table of published files, at the test's server and with its hashes."""
    return {
        name: tuple(
            Source(site.url(file), f"sha256:{hashlib.sha256(blob).hexdigest()}", len(blob))
            for file, blob in site.files.items()
        )
    }


def mnist_site() -> FileServer:
    files = pictures.mnist_files(6, 4, 0, side=8)
    return FileServer({f"{name}.gz": gzip.compress(blob) for name, blob in files.items()})


def fetching(name: str, folder: Path, site: FileServer, *, download: bool = True) -> ImageDataset:
    class Local(ImageDataset):
        sources = sources_of(name, site)

    return Local(name, folder, download=download)


def test_mnist_is_fetched_once(tmp_path: Path) -> None:
    with mnist_site() as site:
        first = fetching("mnist", tmp_path / "new", site).load()
        asked = [name for name, _ in site.requests]

        again = fetching("mnist", tmp_path / "new", site).load()

        assert sorted(asked) == sorted(site.files)
        assert len(site.requests) == 4
    assert first.X.tobytes() == again.X.tobytes()
    assert below(tmp_path / "new") == sorted(site.files)


def test_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    write_small_mnist(tmp_path)
    (tmp_path / TEST_LABELS).unlink()

    with mnist_site() as site:
        table = fetching("mnist", tmp_path, site).load()

    assert [name for name, _ in site.requests] == [f"{TEST_LABELS}.gz"]
    assert table.n_test == 4


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_archive_of_cifar_is_fetched_and_unpacked(tmp_path: Path, name: str) -> None:
    if name == "cifar10":
        files = {ARCHIVE: pictures.archive_of(archived())}
    else:
        batches = pictures.cifar100_files(10, 3, 0)
        archive = pictures.archive_of({f"cifar-100-python/{file}": blob for file, blob in batches.items()})
        files = {"cifar-100-python.tar.gz": archive}

    with FileServer(files) as site:
        dataset = fetching(name, tmp_path, site)
        tables = [dataset.load(), dataset.load()]

    assert [table.n_test for table in tables] == [3, 3]
    assert len(site.requests) == 1


def test_facts_do_not_touch_the_network(tmp_path: Path) -> None:
    with mnist_site() as site:
        facts = fetching("mnist", tmp_path, site).facts()

    assert facts == Facts("classification", 70_000, (28, 28, 1), 10, n_test=10_000)
    assert site.requests == []
    assert below(tmp_path) == []


def test_nothing_is_fetched_unless_it_is_asked_for(tmp_path: Path) -> None:
    with mnist_site() as site:
        dataset = fetching("mnist", tmp_path, site, download=False)

        assert "is not complete" in both_refuse(dataset)

    assert site.requests == []


def test_wrong_bytes_are_an_error_and_leave_nothing_under_the_name(tmp_path: Path) -> None:
    with mnist_site() as site:
        site.faults[f"{TRAIN_IMAGES}.gz"] = [Fault("corrupt"), Fault("corrupt")]

        assert "another hash" in refusal(fetching("mnist", tmp_path, site).load)

    assert below(tmp_path) == []


def test_without_a_network_the_message_names_the_file_to_put_there(tmp_path: Path) -> None:
    site = mnist_site()
    with site:
        dataset = fetching("mnist", tmp_path, site)

    message = refusal(dataset.load)

    assert "there is no network here" in message
    assert f"Put the file at {tmp_path / TRAIN_IMAGES}.gz yourself" in message


def test_the_published_files_have_https_addresses_and_whole_hashes() -> None:
    every = [source for name in NAMES for source in SOURCES[name]]

    assert [source.file for source in every] == [
        *(f"{name}.gz" for name in (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)),
        ARCHIVE,
        "cifar-100-python.tar.gz",
    ]
    assert all(source.url.startswith("https://") for source in every)
    assert all(len(bytes.fromhex(source.digest.removeprefix("sha256:"))) == 32 for source in every)
