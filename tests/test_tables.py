"""Custom datasets of text and Parquet: what is read, what is refused, and what the cache keeps."""

from __future__ import annotations

import csv
import os
import re
import sys
import threading
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from autoexperiment.datasets import delimited, tables
from autoexperiment.datasets import parquet as parquet_reader
from autoexperiment.datasets.base import Table
from autoexperiment.datasets.files import FileDataset
from autoexperiment.datasets.tables import number_of
from autoexperiment.errors import DataError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tables"


def load(path: Path, content: str | bytes | None = None, **options: Any) -> Table:
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileDataset(path, **options).load()


def refusal(path: Path, content: str | bytes | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, content, **options)
    return str(caught.value)


def folders(cache: Path) -> list[Path]:
    return [entry for entry in cache.iterdir() if entry.is_dir()]


# ---- text: what is read


@pytest.mark.parametrize(
    "content",
    [
        "a,b,y\n1,2,3\n4,5,6\n",
        "a;b;y\n1;2;3\n4;5;6\n",
        "a\tb\ty\n1\t2\t3\n4\t5\t6\n",
        "1,2,3\n4,5,6\n",
        "1,2,3\n4,5,6",
        "1,2,3\r\n4,5,6\r\n",
        "1,2,3\r4,5,6\r",
        "\ufeffa,b,y\n1,2,3\n4,5,6\n",
        "\ufeff1,2,3\n4,5,6\n",
        '"a","b","y"\n"1","2","3"\n"4","5","6"\n',
        "a, b, y\n1, 2 ,3\n 4,5 , 6 \n",
        "\na,b,y\n\n1,2,3\n\n4,5,6\n\n\n",
        '"a,1","b;2",y\n1,2,3\n4,5,6\n',
        '"two\nlines",b,y\n1,2,3\n4,5,6\n',
        "+1,2.0,3e0\n4.,50e-1,.6E+1\n",
        ",a,y\n1,2,3\n4,5,6\n",  # what pandas writes above an index
    ],
)
def test_the_usual_forms_of_csv_give_the_same_table(tmp_path: Path, content: str) -> None:
    table = load(tmp_path / "t.csv", content)

    assert table.X.tolist() == [[1, 2], [4, 5]] and table.y.tolist() == [3, 6]
    assert table.X.dtype == np.float64


@pytest.mark.parametrize(
    ("target", "X", "y"), [("a", [2, 3], 1), ("b", [1, 3], 2), (0, [2, 3], 1), (2, [1, 2], 3), (None, [1, 2], 3)]
)
def test_the_target_is_a_name_or_a_number_or_the_last_column(tmp_path: Path, target: Any, X: list[int], y: int) -> None:
    table = load(tmp_path / "t.csv", "a,b,c\n1,2,3\n", target=target)

    assert (table.X.tolist(), table.y.tolist()) == ([X], [y])


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back_exactly(tmp_path: Path, data: st.DataObject) -> None:
    n, k = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 4))
    numbers = st.floats(-3e38, 3e38, allow_nan=False)
    rows = data.draw(st.lists(st.lists(numbers, min_size=k, max_size=k), min_size=n, max_size=n))
    separator = data.draw(st.sampled_from(",;\t"))
    quoted = data.draw(st.booleans())
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
        if data.draw(st.booleans()):
            writer.writerow([f"name {i}" for i in range(k)])
        writer.writerows([[repr(number) for number in row] for row in rows])

    table = load(tmp_path / "t.csv")

    assert np.column_stack([table.X, table.y]).tolist() == rows


@given(st.one_of(st.text(alphabet="0123456789+-.eE ", max_size=8), st.text(max_size=6), st.floats().map(repr)))
@settings(max_examples=300, deadline=None)
def test_numbers_follow_the_grammar_and_nothing_else(text: str) -> None:
    grammar = r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)? *"

    assert (number_of(text) is not None) == bool(re.fullmatch(grammar, text))


def test_a_file_of_many_pieces_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_CELLS_AT_ONCE", 7)
    numbers = np.arange(300.0).reshape(100, 3)

    table = load(tmp_path / "t.csv", "\n".join(",".join(map(str, row)) for row in numbers))

    assert table.X.tolist() == numbers[:, :2].tolist() and table.y.tolist() == numbers[:, 2].tolist()


# ---- text: classes


def test_names_of_classes_are_sorted_and_numbered(tmp_path: Path) -> None:
    content = "5.1,setosa\n6.2,virginica\n5.9,versicolor\n5.0,setosa\n"

    table = load(tmp_path / "t.csv", content, task="classification")

    assert table.y.tolist() == [0, 2, 1, 0] and table.y.dtype == np.int32


@pytest.mark.parametrize("words", [["0", "2", "1"], ["0.0", "2.0", "1e0"], [" 0", "2 ", '"1"']])
def test_numbers_of_classes_stay_as_they_are(tmp_path: Path, words: list[str]) -> None:
    table = load(tmp_path / "t.csv", "".join(f"5,{word}\n" for word in words), task="classification")

    assert table.y.tolist() == [0, 2, 1]


def test_a_file_that_lacks_a_class_keeps_the_numbers_of_the_others(tmp_path: Path) -> None:
    table = load(tmp_path / "t.csv", "1,2\n2,2\n3,0\n", task="classification")

    assert table.y.tolist() == [2, 2, 0]


def test_labels_are_numbered_over_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "_CELLS_AT_ONCE", 2)

    table = load(tmp_path / "t.csv", "1,c\n2,b\n3,a\n4,c\n", task="classification")

    assert table.y.tolist() == [2, 1, 0, 2]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["0", "1", "nan"], "'nan' among classes that are numbers"),
        (["0", "1", "many"], "'many' among classes that are numbers"),
        (["0", "-1", "1"], "class '-1'"),
        (["0", "0.5", "1"], '"task": "regression"'),
        (["0", "3", "1"], "below the number of rows (3)"),
        (["0", "1e30", "1"], "class '1e30'"),
        (["0", "1e999", "1"], "class '1e999'"),
        (["a", "", "b"], "line 2, column 1 is empty"),
    ],
)
def test_labels_that_cannot_be_numbered_are_refused(tmp_path: Path, labels: list[str], words: str) -> None:
    message = refusal(tmp_path / "t.csv", "".join(f"7,{label}\n" for label in labels), task="classification")

    assert words in message


def test_a_column_of_measurements_is_no_target_of_a_classification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "_MOST_CLASSES", 3)

    message = refusal(tmp_path / "t.csv", "".join(f"1,name{i}\n" for i in range(4)), task="classification")

    assert "more than 3 different classes" in message


# ---- text: what is refused

HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "no rows"),
    "only empty lines": ("\n\n\n", "no rows"),
    "only names": ("a,b\n", "no rows"),
    "one column": ("a\n1\n2\n", "one column only"),
    "a binary file": (b"\x89PNG\r\n\x1a\n\x00\x00", "not text in UTF-8"),
    "UTF-16": ("1,2\n".encode("utf-16"), "not text in UTF-8"),
    "latin-1 names": ("größe,y\n1,2\n".encode("latin-1"), "not text in UTF-8"),
    "a row too short": ("1,2,3\n4,5\n", "line 2 has 2 cells. Needed: 3"),
    "a row too long": ("1,2\n3,4,5\n", "line 2 has 3 cells. Needed: 2"),
    "an empty cell": ("a,b,y\n1,,3\n", "line 2, column 'b' is empty"),
    "an empty cell at the end": ("1,2,3\n1,2,\n", "line 2, column 2 is empty"),
    "a cell of spaces": ("1,2,3\n1, ,3\n", "line 2, column 1 is empty"),
    "a word": ("a,b\n1,2\n3,x\n", "line 3, column 'b' holds 'x'"),
    "nan": ("1,2\n3,nan\n", "line 2, column 1 holds 'nan'"),
    "NA": ("1,2\nNA,4\n", "line 2, column 0 holds 'NA'"),
    "inf": ("1,2\n3,-inf\n", "line 2, column 1 holds '-inf'"),
    "too large for float64": ("1,2\n3,1e999\n", "line 2, column 1 holds '1e999'"),
    "too large for float32": ("1,2\n3,-4e38\n", "line 2, column 1 holds '-4e38'"),
    "Python's own digits": ("1,2\n3,1_000\n", "line 2, column 1 holds '1_000'"),
    "Arabic digits": ("1,2\n3,\u0663\n", "line 2, column 1 holds"),
    "hexadecimal": ("1,2\n3,0x10\n", "line 2, column 1 holds '0x10'"),
    "two numbers in a cell": ("1,2\n3,4 5\n", "line 2, column 1 holds '4 5'"),
    "a decimal comma": ("a;b\n1,5;2\n", "line 2, column 'a' holds '1,5'"),
    "a sign too many": ("1,2\n3,--4\n", "line 2, column 1 holds '--4'"),
    "a NUL": ("1,2\n3,4\x00\n", "line 2, column 1 holds"),
    "a percentage": ("1,2\n3,4%\n", "line 2, column 1 holds '4%'"),
    "a first row that lacks everything": ("nan,NA,\n1,2,3\n", "line 1, column 0 holds 'nan'"),
    "a first row that lacks one": ("1,x,3\n1,2,3\n", "line 1, column 1 holds 'x'"),
    "a quote that is not closed": ('1,2\n"3,4\n5,6\n', "not sound CSV"),
    "text after a quote": ('1,2\n"3"x,4\n', "not sound CSV"),
    "a cell without end": ("1,2\n" + '"' + "9" * 200_000 + '",1\n', "not sound CSV"),
    "a row after a name with two lines": ('"a\nb",y\n1,2\nx,4\n', "line 4, column 'a\\nb' holds 'x'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_csv_that_is_not_a_table_of_numbers_is_refused_with_its_place(tmp_path: Path, cache: Path, case: str) -> None:
    content, words = HOSTILE[case]

    message = refusal(tmp_path / "t.csv", content)

    assert words in message and str(tmp_path / "t.csv") in message
    assert folders(cache) == []


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("prices", "Unknown target column 'prices'"),
        ("prices", "Did you mean 'price'?"),
        (3, "Target column 3 is not in"),
        (-1, "Allowed: 0 to 2"),
        ("twice", "2 columns 'twice'"),
    ],
)
def test_a_target_that_is_not_there_is_refused(tmp_path: Path, target: Any, words: str) -> None:
    assert words in refusal(tmp_path / "t.csv", "price,twice,twice\n1,2,3\n", target=target)


def test_a_target_by_name_needs_names(tmp_path: Path) -> None:
    assert "no names of columns" in refusal(tmp_path / "t.csv", "1,2\n3,4\n", target="price")


@given(st.binary(max_size=60))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_table_or_refused(tmp_path: Path, content: bytes) -> None:
    try:
        table = load(tmp_path / "t.csv", content)
    except DataError:
        return

    assert np.isfinite(table.X).all() and np.isfinite(table.y).all()


# ---- the cache


def test_a_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(tmp_path / "t.csv", "1,2\n3,4\n")
    monkeypatch.setattr(tables, "write_rows", None)
    (tmp_path / "t.csv").rename(tmp_path / "other.csv")

    second = load(tmp_path / "other.csv")

    assert second.X.tolist() == first.X.tolist() and second.y.tolist() == first.y.tolist()


def test_a_changed_file_never_gives_old_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    load(path, "1,2\n3,4\n")
    before = path.stat()

    path.write_text("1,2\n3,5\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert load(path).y.tolist() == [2, 5]


def test_other_options_are_another_conversion(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    last, first = load(path, "1,0\n3,1\n"), load(path, target=0)
    classes = load(path, task="classification")

    assert (last.y.tolist(), first.y.tolist(), classes.y.tolist()) == ([0, 1], [1, 3], [0, 1])
    assert classes.y.dtype == np.int32


def test_what_a_killed_conversion_left_is_removed(tmp_path: Path, cache: Path) -> None:
    load(tmp_path / "t.csv", "1,2\n3,4\n")
    [folder] = folders(cache)
    rest = folder.rename(folder.with_name(f".{folder.name}.part"))
    (rest / "X.npy").write_bytes(b"half")
    (rest / "junk").write_bytes(b"half")

    assert load(tmp_path / "t.csv").X.tolist() == [[1], [3]]
    assert folders(cache) == [folder]
    assert sorted(file.name for file in folder.iterdir()) == ["X.npy", "classes.json", "y.npy"]


def test_a_damaged_conversion_is_made_again(tmp_path: Path, cache: Path) -> None:
    load(tmp_path / "t.csv", "1,2\n3,4\n")
    [folder] = folders(cache)
    with (folder / "X.npy").open("rb+") as file:
        file.truncate(130)

    assert load(tmp_path / "t.csv").X.tolist() == [[1], [3]]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("1,2\n")

    def write(folder: Path) -> tuple[str, ...]:
        tables.write_rows(folder, delimited.read(path, target=None, has_labels=False), name="t")
        path.write_text("1,3\n")
        return ()

    with pytest.raises(DataError, match="changed while it was read"):
        tables.converted(path, options="", write=write)
    assert folders(cache) == []


def test_two_at_once_convert_once(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("1,2\n")
    writes: list[int] = []
    tables_found: list[Any] = []

    def write(folder: Path) -> tuple[str, ...]:
        writes.append(1)
        time.sleep(0.2)  # long enough for the other one to come
        return tables.write_rows(folder, delimited.read(path, target=None, has_labels=False), name="t")

    threads = [
        threading.Thread(target=lambda: tables_found.append(tables.converted(path, options="", write=write)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(writes) == 1
    assert [X.tolist() for X, _, _ in tables_found] == [[[1]], [[1]]]


def test_a_cache_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "file"))

    message = refusal(tmp_path / "t.csv", "1,2\n")

    assert str(tmp_path / "file") in message and "AUTORESEARCH_CACHE" in message


# ---- Parquet


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    parquet.write_table(arrow.table(columns), path, **options)
    return path


def test_columns_of_any_numeric_type_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "_CELLS_AT_ONCE", 12)
    columns = {
        "whole": arrow.array(range(20), arrow.int64()),
        "small": arrow.array([n % 3 for n in range(20)], arrow.uint8()),
        "short": arrow.array([n / 4 for n in range(20)], arrow.float32()),
        "flag": arrow.array([n % 2 == 0 for n in range(20)]),
        "price": arrow.array([n * 1.5 for n in range(20)]),
    }

    table = load(write_parquet(tmp_path / "t.parquet", columns, row_group_size=7))

    assert table.X.tolist() == [[n, n % 3, n / 4, n % 2 == 0] for n in range(20)]
    assert table.y.tolist() == [n * 1.5 for n in range(20)]


@pytest.mark.parametrize(
    ("labels", "y"),
    [
        (["b", "a", "b"], [1, 0, 1]),
        (arrow.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
        (arrow.array(["b", "a", "b"], arrow.large_string()), [1, 0, 1]),
        ([2, 0, 1], [2, 0, 1]),
        ([1.0, 0.0, 2.0], [1, 0, 2]),
        ([True, False, True], [1, 0, 1]),
        (["0", "2", "1"], [0, 2, 1]),
    ],
)
def test_classes_in_parquet_are_names_or_numbers(tmp_path: Path, labels: Any, y: list[int]) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"kind": labels, "x": [1.0, 2.0, 3.0]})

    table = load(path, task="classification", target="kind")

    assert table.y.tolist() == y and table.y.dtype == np.int32
    assert table.X.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"a": [1.0, None], "y": [1.0, 2.0]}, "column 'a' has no value in row 1"),
        ({"a": [1.0, 2.0], "y": [1.0, None]}, "column 'y' has no value in row 1"),
        ({"a": [1.0, float("nan")], "y": [1.0, 2.0]}, "column 'a' holds nan in row 1"),
        ({"a": [1.0, float("inf")], "y": [1.0, 2.0]}, "column 'a' holds inf in row 1"),
        ({"a": ["x", "z"], "y": [1.0, 2.0]}, "column 'a' has the type string"),
        ({"a": [[1], [2]], "y": [1.0, 2.0]}, "column 'a' has the type list"),
        ({"a": [1.0, 2.0], "y": ["b", "c"]}, "column 'y' has the type string"),
        ({"y": [1.0, 2.0]}, "1 columns"),
        ({"a": arrow.array([], arrow.float64()), "y": arrow.array([], arrow.float64())}, "no rows"),
    ],
)
def test_parquet_that_is_not_a_table_of_numbers_is_refused(
    tmp_path: Path, cache: Path, columns: dict[str, Any], words: str
) -> None:
    message = refusal(write_parquet(tmp_path / "t.parquet", columns))

    assert words in message and "t.parquet" in message
    assert folders(cache) == []


def test_rows_of_parquet_are_counted_over_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "_CELLS_AT_ONCE", 4)
    path = write_parquet(tmp_path / "t.parquet", {"x": [1.0] * 9 + [float("nan")], "y": [1.0] * 10})

    assert "column 'x' holds nan in row 9" in refusal(path)


def test_a_missing_label_in_parquet_is_refused(tmp_path: Path) -> None:
    for label, words in ((None, "no value in row 1"), (" ", "empty in row 1")):
        path = write_parquet(tmp_path / "t.parquet", {"x": [1.0, 2.0], "kind": ["a", label]})

        assert words in refusal(path, task="classification")


def test_an_unknown_column_of_parquet_is_refused_with_the_nearest(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"x": [1.0], "price": [1.0]})

    assert "Did you mean 'price'?" in refusal(path, target="pric")


@pytest.mark.parametrize("keep", [0, 3, 4, 100, -1, -9])
def test_cut_off_parquet_is_refused(tmp_path: Path, keep: int) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"x": [1.0, 2.0], "y": [1.0, 2.0]})

    message = refusal(path, path.read_bytes()[:keep])

    assert "cannot be read as Parquet" in message and str(path) in message


def test_without_pyarrow_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "t.parquet", {"x": [1.0], "y": [1.0]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    message = refusal(path)

    assert "pip install 'autoexperiment[parquet]'" in message


def test_the_extra_that_the_message_names_has_pyarrow() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert any(requirement.startswith("pyarrow") for requirement in extras["parquet"])


# ---- names of classes


def written(path: Path, labels: list[str]) -> Path:
    """A file of any type, with these targets as text."""
    X = np.arange(float(len(labels)))[:, None]
    if path.suffix == ".csv":
        path.write_text("".join(f"{x},{label}\n" for (x,), label in zip(X, labels, strict=True)))
    elif path.suffix == ".parquet":
        write_parquet(path, {"x": X[:, 0], "y": labels})
    elif path.suffix == ".npz":
        np.savez(path, X=X, y=np.array(labels))
    elif path.suffix == ".zip":
        path = path.with_suffix(".npz")
        np.savez_compressed(path, X=X, y=np.array(labels))
    else:
        path.mkdir()
        np.save(path / "X.npy", X)
        np.save(path / "y.npy", np.array(labels))
    return path


FORMS = ["t.csv", "t.parquet", "t.npz", "t.zip", "folder"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        (["10", "2", "0"] * 4, [10, 2, 0] * 4, ()),
        (["1.0", "0.0"], [1, 0], ()),
        ([" b", "a", "b ", "Z"], [2, 1, 2, 0], ("Z", "a", "b")),
        (["é", "e"], [1, 0], ("e", "é")),
    ],
)
def test_classes_as_text_mean_the_same_in_every_type_of_file(
    tmp_path: Path, form: str, labels: list[str], numbers: list[int], names: tuple[str, ...]
) -> None:
    path = written(tmp_path / form, labels)

    for _ in "ab":  # converted, and from the cache
        table = load(path, task="classification")

        assert (table.y.tolist(), table.classes, table.y.dtype) == (numbers, names, np.int32)
    assert FileDataset(path, task="classification").facts().classes == names


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["0", "many"], "'many' among classes that are numbers"),
        (["0", "-1"], "class '-1'"),
        (["a", ""], "is empty"),
        (["a", " "], "is empty"),
    ],
)
def test_text_that_names_no_classes_is_refused_in_every_type_of_file(
    tmp_path: Path, form: str, labels: list[str], words: str
) -> None:
    assert words in refusal(written(tmp_path / form, labels), task="classification")


def test_an_empty_name_is_refused_with_its_row(tmp_path: Path) -> None:
    assert "y is empty in row 2" in refusal(written(tmp_path / "folder", ["b", "a", "", "a"]), task="classification")


def test_names_of_bytes_are_utf_8(tmp_path: Path) -> None:
    for name, labels in (("good", [b"a", "ö".encode()]), ("bad", [b"a", b"\xff"])):
        np.savez(tmp_path / f"{name}.npz", X=np.ones((2, 1)), y=np.array(labels))

    assert load(tmp_path / "good.npz", task="classification").classes == ("a", "ö")
    assert "class b'\\xff', which is not text in UTF-8" in refusal(tmp_path / "bad.npz", task="classification")


@pytest.mark.parametrize("text", ["", "{}", '["a", "a"]', "[1]", "[" * 100_000])
def test_damaged_names_of_a_conversion_are_made_again(tmp_path: Path, cache: Path, text: str) -> None:
    path = written(tmp_path / "t.csv", ["b", "a"])
    load(path, task="classification")
    (folder,) = folders(cache)

    (folder / "classes.json").write_text(text)

    assert load(path, task="classification").classes == ("a", "b")
    assert (folder / "classes.json").read_text() != text


@pytest.mark.parametrize("target", ["x", "y"])
def test_parquet_with_text_that_is_not_utf_8_is_refused(tmp_path: Path, target: str) -> None:
    bad = arrow.StringArray.from_buffers(2, arrow.py_buffer(np.array([0, 1, 2], np.int32)), arrow.py_buffer(b"a\xff"))
    write_parquet(tmp_path / "t.parquet", {"x": [1.0, 2.0], "y": bad})

    message = refusal(tmp_path / "t.parquet", task="classification", target=target)

    assert ("has text that is not UTF-8" if target == "y" else "has the type string") in message
