"""Custom datasets in numpy's formats: memory-mapped, never executed, larger than memory."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoexperiment.datasets import arrays
from autoexperiment.datasets.base import Table
from autoexperiment.datasets.files import FileDataset
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


def load(path: Path, **options: Any) -> Table:
    return FileDataset(path, **options).load()


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **options)
    return str(caught.value)


def save(path: Path, array: Any, **options: Any) -> Path:
    np.save(path, np.asarray(array), **options)
    return path


def save_folder(path: Path, X: Any, y: Any) -> Path:
    path.mkdir()
    save(path / "X.npy", X)
    save(path / "y.npy", y)
    return path


def npy_bytes(array: Array, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def is_mapped(array: Array) -> bool:
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base  # type: ignore[assignment]
    return False


# ---- what is read


@pytest.mark.parametrize(
    ("target", "X", "y"),
    [(None, [[1, 2], [4, 5]], [3, 6]), (2, [[1, 2], [4, 5]], [3, 6]), (0, [[2, 3], [5, 6]], [1, 4]),
     (1, [[1, 3], [4, 6]], [2, 5])],
)  # fmt: skip
def test_one_array_holds_rows_and_a_target_column(tmp_path: Path, target: Any, X: Any, y: Any) -> None:
    path = save(tmp_path / "t.npy", [[1.0, 2, 3], [4, 5, 6]])

    table = load(path, target=target)

    assert (table.X.tolist(), table.y.tolist()) == (X, y)
    assert is_mapped(table.X)


@pytest.mark.parametrize("kind", ["f4", "f8", ">f8", "i8", "u1", "?", "f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_real_type_and_layout_is_mapped_as_it_is(tmp_path: Path, kind: str, order: Any) -> None:
    X = np.array(np.arange(12).reshape(4, 3) % 2, dtype=kind, order=order)
    path = save_folder(tmp_path / "data", X, np.arange(4.0))

    table = load(path)

    assert table.X.dtype == np.dtype(kind) and table.X.tolist() == X.tolist()
    assert is_mapped(table.X) and is_mapped(table.y)


def test_an_uncompressed_npz_is_mapped_where_it_lies(tmp_path: Path, cache: Path) -> None:
    X, y = np.random.default_rng(0).random((30, 4)), np.arange(30.0)
    np.savez(tmp_path / "t.npz", comment=np.arange(3), y=y, X=X)

    table = load(tmp_path / "t.npz")

    assert table.X.tolist() == X.tolist() and table.y.tolist() == y.tolist()
    assert is_mapped(table.X) and is_mapped(table.y)
    assert not cache.exists()


def test_a_member_whose_local_header_is_longer_than_the_directory_says_is_found(tmp_path: Path) -> None:
    X, y = np.arange(6.0).reshape(3, 2), np.arange(3.0)
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        for name, array in (("X.npy", X), ("y.npy", y)):
            with archive.open(name, "w", force_zip64=True) as member:  # an extra field that only stands there
                member.write(npy_bytes(array))

    table = load(tmp_path / "t.npz")

    assert table.X.tolist() == X.tolist() and table.y.tolist() == y.tolist()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_npz_is_extracted_once(
    tmp_path: Path, cache: Path, method: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).random((30, 4))
    with zipfile.ZipFile(tmp_path / "t.npz", "w", method) as archive:
        archive.writestr("X.npy", npy_bytes(X))
        archive.writestr("y.npy", npy_bytes(np.arange(30.0)))

    first = load(tmp_path / "t.npz")
    monkeypatch.setattr(arrays, "extract_npz", None)
    second = load(tmp_path / "t.npz")

    assert first.X.tolist() == second.X.tolist() == X.tolist()
    assert is_mapped(second.X)


def test_pictures_may_be_rows(tmp_path: Path) -> None:
    X = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), dtype=np.uint8)
    path = save_folder(tmp_path / "data", X, [0, 1, 2, 1, 0])

    table = load(path, task="classification")

    assert table.X.shape == (5, 4, 3, 2) and table.y.tolist() == [0, 1, 2, 1, 0]


@pytest.mark.parametrize(
    ("y", "numbers"),
    [
        ([2, 0, 1], [2, 0, 1]),
        ([2.0, 0.0, 1.0], [2, 0, 1]),
        ([[2.0], [0.0], [1.0]], [2, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        (["b", "a", "c"], [1, 0, 2]),
        ([b"b", b"a", b"c"], [1, 0, 2]),
    ],
)
def test_classes_are_whole_numbers_or_names(tmp_path: Path, y: Any, numbers: list[int]) -> None:
    path = save_folder(tmp_path / "data", np.ones((3, 2)), y)

    table = load(path, task="classification")

    assert table.y.tolist() == numbers and table.y.dtype == np.int32


# ---- what is refused


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([0.0, 0.5, 1.0], "class 0.5 in row 1"),
        ([0.0, np.nan, 1.0], "class nan in row 1"),
        ([0, -1, 1], "class -1 in row 1"),
        ([0, 1, 3], "class 3 in row 2"),
        ([0, 1, 2**40], "class 1099511627776 in row 2"),
        ([0, 1], "y has shape (2,)"),
        ([[0, 1], [1, 0], [1, 1]], "y has shape (3, 2)"),
    ],
)
def test_targets_that_are_no_classes_are_refused(tmp_path: Path, y: Any, words: str) -> None:
    path = save_folder(tmp_path / "data", np.ones((3, 2)), y)

    assert words in refusal(path, task="classification")


@pytest.mark.filterwarnings("error")
def test_short_floats_are_class_numbers_of_any_number_of_rows(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "data", np.ones((70_000, 1)), (np.arange(70_000) % 3).astype(np.float16))

    assert load(path, task="classification").y.tolist() == [0, 1, 2] * 23_333 + [0]


@pytest.mark.parametrize("shape", [(20, 0), (0, 3), (20, 0, 4, 1)])
def test_an_array_without_numbers_is_refused_as_what_it_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save_folder(tmp_path / "data", np.ones(shape), np.ones(len(np.ones(shape))))

    assert f"its shape is {shape}. At least one row with one number is needed." in refusal(path)


def test_names_are_no_targets_of_a_regression(tmp_path: Path) -> None:
    path = save_folder(tmp_path / "data", np.ones((2, 2)), ["a", "b"])

    assert "Text is a target of classifications only" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39, -1e39])
def test_a_number_that_is_not_finite_is_refused_with_its_place(
    tmp_path: Path, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autoexperiment.datasets.soundness._NUMBERS_AT_ONCE", 10)
    X, y = np.ones((20, 3)), np.ones(20)
    X[17, 2], bad_y = value, y.copy()
    bad_y[13] = value

    in_rows = refusal(save_folder(tmp_path / "rows", X, y))
    in_targets = refusal(save_folder(tmp_path / "targets", np.ones((20, 3)), bad_y))

    assert "in row 17, column 2" in in_rows and "rows: X" in in_rows
    assert "in row 13, counted" in in_targets and "targets: y" in in_targets


@pytest.mark.parametrize("kind", ["f2", "f4", ">f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_of_every_float_type_are_looked_at(tmp_path: Path, kind: str, value: float) -> None:
    X = np.ones((4, 2), kind)
    X[3, 1] = value

    assert "in row 3, column 1" in refusal(save_folder(tmp_path / "rows", X, np.ones(4)))


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones(4), "has the shape (4,)"),
        (np.ones((4, 1)), "has the shape (4, 1)"),
        (np.ones((4, 2, 2)), "has the shape (4, 2, 2)"),
        (np.ones((0, 3)), "is empty"),
        (np.ones((4, 2), complex), "holds complex128"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.zeros(3, "f8,i4"), "not numbers"),
        (np.array([["2020-01-01", "2020-01-02"]], "M8[D]"), "not numbers"),
    ],
)
def test_an_array_that_is_no_table_is_refused(tmp_path: Path, array: Array, words: str) -> None:
    assert words in refusal(save(tmp_path / "t.npy", array))


class Planted:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("form", ["npy", "bare pickle", "folder", "npz", "compressed npz"])
def test_a_pickle_is_refused_and_never_executed(tmp_path: Path, form: str) -> None:
    mark = tmp_path / "executed"
    planted = np.array([Planted(mark), 1], dtype=object)
    path = tmp_path / ("t.npz" if "npz" in form else "t.npy")
    if form == "npy":
        save(path, planted, allow_pickle=True)
    elif form == "bare pickle":
        path.write_bytes(pickle.dumps(Planted(mark)))
    elif form == "folder":
        path = save_folder(tmp_path / "data", np.ones((2, 2)), np.ones(2))
        np.save(path / "y.npy", planted, allow_pickle=True)
    else:
        (np.savez_compressed if "compressed" in form else np.savez)(
            path, X=np.ones((2, 2)), y=planted, allow_pickle=True
        )

    message = refusal(path)

    assert not mark.exists()
    assert "never read" in message or "cannot be read" in message


@pytest.mark.parametrize("keep", [0, 5, 9, 60, 127, 128, 140, -1])
def test_a_cut_off_array_is_refused(tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "t.npy", np.ones((4, 3)))
    path.write_bytes(path.read_bytes()[:keep])

    assert str(path) in refusal(path)


def test_bytes_after_an_array_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "t.npy", np.ones((4, 3)))
    with path.open("ab") as file:
        file.write(b"more")

    assert "should hold 96 bytes" in refusal(path)


def test_a_member_that_does_not_begin_where_the_directory_says_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, X=np.ones((4, 3)), y=np.ones(4))
    path.write_bytes(path.read_bytes().replace(b"PK\x03\x04", b"PK\x03\x05", 1))

    assert "no member begins at byte 0" in refusal(path)


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("keep", [0, 4, 100, 300, -1, -30])
def test_a_cut_off_npz_is_refused(tmp_path: Path, write: Any, keep: int) -> None:
    path = tmp_path / "t.npz"
    write(path, X=np.ones((4, 3)), y=np.ones(4))
    path.write_bytes(path.read_bytes()[:keep])

    assert f"{path} is not a sound .npz file" in refusal(path)


def test_a_compressed_npz_with_a_wrong_checksum_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.npz"
    X = np.random.default_rng(0).random((400, 3))
    np.savez_compressed(path, X=X, y=np.ones(400))
    blob = bytearray(path.read_bytes())
    blob[len(blob) // 2] ^= 1
    path.write_bytes(blob)

    assert "not a sound .npz file" in refusal(path)
    assert not [entry for entry in cache.iterdir() if entry.is_dir()]


def test_an_npz_without_the_two_arrays_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", data=np.ones((2, 2)), y=np.ones(2))

    message = refusal(tmp_path / "t.npz")

    assert "has no array X" in message and "data, y" in message


@given(st.integers(0, 1 << 20), st.integers(0, 255), st.sampled_from(["npy", "npz", "compressed"]))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_gives_a_table_or_a_refusal(tmp_path: Path, at: int, byte: int, form: str) -> None:
    path = tmp_path / ("t.npy" if form == "npy" else "t.npz")
    X, y = np.ones((4, 3)), np.ones(4)
    if form == "npy":
        save(path, X)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(path, X=X, y=y)
    blob = bytearray(path.read_bytes())
    blob[at % len(blob)] = byte
    path.write_bytes(blob)

    try:
        table = load(path)
    except DataError:
        return

    assert len(table.X) == len(table.y) and np.isfinite(table.X).all()


# ---- larger than memory

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from autoexperiment.datasets import load
from autoexperiment.datasets import delimited, tables  # imported before the limit is set

def data_bytes():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmData"))
    return int(line.split()[1]) * 1024

limit = data_bytes() + (int(sys.argv[2]) << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    np.ones(int(sys.argv[2]) << 18)
    sys.exit(77)
except MemoryError:
    pass
spec = {"name": "custom", "path": sys.argv[1], "loader": None, "val_fraction": 0.1, "test_fraction": 0.1,
        "params": {"normalize": True}}
splits = load(spec, root=Path("/"))
rows, total = np.random.default_rng(0).permutation(len(splits.train)), 0.0
for start in range(0, 2000, 100):
    x, y = splits.train.take(rows[start : start + 100])
    total += float(y.sum())
n = sum(len(x) for x, _ in splits.test.batches(1000))
print(len(splits.train), n, bool(np.isfinite(total)))
"""


def run_limited(path: Path, mebibytes: int) -> list[str]:
    """Load, split, normalise and take batches with so much memory for data; files that are mapped do not count."""
    answer = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(mebibytes)],
        capture_output=True,
        text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    if answer.returncode == 77:
        pytest.skip("this system does not enforce RLIMIT_DATA")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.split()


linux = pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")


def write_sparse(path: Path, shape: tuple[int, ...]) -> None:
    """A .npy file of zeros that takes no room on the disk."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).flush()


@linux
@pytest.mark.parametrize("form", ["folder", "one array"])
def test_arrays_larger_than_memory_train(tmp_path: Path, form: str) -> None:
    n = 250_000
    if form == "folder":
        write_sparse(tmp_path / "X.npy", (n, 128))
        write_sparse(tmp_path / "y.npy", (n,))
    else:
        write_sparse(tmp_path / "t.npy", (n, 128))

    answer = run_limited(tmp_path if form == "folder" else tmp_path / "t.npy", 48)  # of 128 MB

    assert answer == ["200000", "25000", "True"]


@linux
def test_a_stored_npz_larger_than_memory_trains(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        for name, array in (("X", np.zeros((400_000, 64), np.float32)), ("y", np.zeros(400_000, np.float32))):
            archive.writestr(f"{name}.npy", npy_bytes(array))

    assert run_limited(tmp_path / "t.npz", 40) == ["320000", "40000", "True"]  # of 100 MB


@linux
def test_a_csv_larger_than_memory_is_converted_and_trains(tmp_path: Path) -> None:
    with (tmp_path / "t.csv").open("w") as file:
        for _ in range(50):
            file.write("".join(f"{n},1.5,-2,{n / 7},3,4,5,6,7,8\n" for n in range(2000)))

    answer = run_limited(tmp_path / "t.csv", 24)  # a million cells: 8 MB as numbers, 80 MB as text in a list

    assert answer == ["80000", "10000", "True"]
