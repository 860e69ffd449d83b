"""A sweep's rows as CSV and Parquet: what goes in comes out, and what is missing stays missing."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import struct
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoexperiment.errors import HarnessError
from autoexperiment.naming import free_names, short_names
from autoexperiment.sweep.exports import tabulate, write_csv, write_parquet

HEAD = ["number", "trial", "rung"]
TAIL = ["status", "reason", "seconds", "run_dir"]


def a_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"number": number, "trial": number, "rung": 0, "seed": None, "params": {}, "status": "completed",
           "reason": "", "metrics": {}, "trust": {}, "seconds": 1.5, "run_dir": f"outputs/lr/20261121_00000{number}"}  # fmt: skip
    return {**row, **changes}


def a_failed_row(number: int = 2, **changes: Any) -> dict[str, Any]:
    return a_row(number, **{"status": "failed", "reason": "It broke.", "run_dir": "", **changes})


def read(path: Path) -> tuple[list[str], list[list[str]]]:
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return head, rows


def cells(path: Path, column: str) -> list[str]:
    head, rows = read(path)
    return [row[head.index(column)] for row in rows]


def csv_of(*rows: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "results.csv"
    write_csv(rows, path)
    return path


def parquet_of(*rows: dict[str, Any], tmp_path: Path) -> Any:
    from pyarrow import parquet

    path = tmp_path / "results.parquet"
    write_parquet(rows, path)
    return parquet.read_table(path)


# --- names of columns


def test_a_column_is_called_by_the_last_name_of_its_path() -> None:
    assert short_names(["training.lr", "model.depth"]) == {"training.lr": "lr", "model.depth": "depth"}


def test_two_paths_with_one_last_name_keep_their_whole_paths() -> None:
    assert short_names(["a.lr", "b.lr"]) == {"a.lr": "a.lr", "b.lr": "b.lr"}


def test_a_name_that_another_column_has_is_not_used() -> None:
    assert short_names(["training.loss"], ["loss"]) == {"training.loss": "training.loss"}


def test_a_path_that_is_itself_taken_gets_a_prefix() -> None:
    assert short_names(["seed"], ["seed"]) == {"seed": "param.seed"}
    assert short_names(["seed"], ["seed", "param.seed"]) == {"seed": "param.param.seed"}


def test_a_position_in_a_list_keeps_the_name_of_the_list() -> None:
    assert short_names(["model.widths.0", "model.widths.1"]) == {
        "model.widths.0": "widths.0",
        "model.widths.1": "widths.1",
    }


def test_whole_paths_stay_whole_where_they_are_wanted() -> None:
    assert short_names(["training.lr"], is_short=False) == {"training.lr": "training.lr"}


def test_a_name_with_a_dot_of_its_own_is_quoted_in_a_whole_path() -> None:
    assert short_names([("a", "b.c")], is_short=False) == {("a", "b.c"): 'a."b.c"'}


names = st.text("ab.", min_size=1, max_size=4)


@given(st.lists(st.lists(names, min_size=1, max_size=3).map(tuple), unique=True), st.sets(names))
def test_no_two_columns_are_called_alike(paths: list[tuple[str, ...]], taken: set[str]) -> None:
    columns = list(short_names(paths, taken).values())

    assert len({*columns, *taken}) == len(columns) + len(taken)


@example(["a", "a.a"], {"a", "a.a"})
@given(st.lists(names), st.sets(names))
def test_prefixed_names_are_like_no_other(wanted: list[str], taken: set[str]) -> None:
    columns = free_names(wanted, taken, prefix="a.")

    assert list(columns) == list(dict.fromkeys(wanted))
    assert len({*columns.values(), *taken}) == len(columns) + len(taken)


# --- the table


def test_columns_are_facts_parameters_seed_metrics_and_trust(tmp_path: Path) -> None:
    row = a_row(seed=7, params={"training.lr": 0.1}, metrics={"accuracy": 0.5}, trust={"accuracy": "recomputed"})

    head, rows = read(csv_of(row, tmp_path=tmp_path))

    assert head == [*HEAD, "lr", "seed", "accuracy", *TAIL, "trust.accuracy"]
    assert rows == [["1", "1", "0", "0.1", "7", "0.5", "completed", "", "1.5", row["run_dir"], "recomputed"]]


def test_a_failed_point_is_a_row_with_its_reason_and_without_metrics(tmp_path: Path) -> None:
    path = csv_of(a_row(metrics={"accuracy": 0.5}), a_failed_row(), tmp_path=tmp_path)

    assert cells(path, "accuracy") == ["0.5", ""]
    assert cells(path, "status") == ["completed", "failed"]
    assert cells(path, "reason") == ["", "It broke."]


@pytest.mark.parametrize("nothing", [None, math.nan, math.inf, -math.inf])
def test_what_is_missing_is_empty_and_never_zero(nothing: float | None, tmp_path: Path) -> None:
    row = a_row(params={"x": nothing}, metrics={"loss": nothing})

    path = csv_of(row, tmp_path=tmp_path)
    table = parquet_of(row, tmp_path=tmp_path)

    assert cells(path, "x") == cells(path, "loss") == cells(path, "seed") == [""]
    assert [table[name].to_pylist() for name in ("x", "loss", "seed")] == [[None]] * 3


def test_a_parameter_that_a_point_lacks_is_empty(tmp_path: Path) -> None:
    path = csv_of(a_row(1, params={"x": 1}), a_row(2, params={"y": 2}), tmp_path=tmp_path)

    assert cells(path, "x") == ["1", ""]
    assert cells(path, "y") == ["", "2"]


def test_metrics_that_are_called_like_a_fact_are_told_apart(tmp_path: Path) -> None:
    row = a_row(params={"a.seconds": 3}, metrics={"seconds": 9.0, "trust.x": 1.0, "x": 2.0}, trust={"x": "measured"})

    head, (cells_,) = read(csv_of(row, tmp_path=tmp_path))

    shown = dict(zip(head, cells_, strict=True))
    assert (shown["seconds"], shown["metric.seconds"], shown["a.seconds"]) == ("1.5", "9.0", "3")
    assert (shown["trust.x"], shown["x"], shown["trust.trust.x"]) == ("1.0", "2.0", "measured")


def test_lists_and_objects_are_json_text(tmp_path: Path) -> None:
    row = a_row(params={"widths": [16, 8], "options": {"a": [True, None]}, "pair": (1, math.nan)})

    path = csv_of(row, tmp_path=tmp_path)

    assert cells(path, "widths") == ["[16, 8]"]
    assert json.loads(cells(path, "options")[0]) == {"a": [True, None]}
    assert cells(path, "pair") == ["[1, null]"]


def test_line_ends_and_terminal_codes_in_a_reason_are_flattened(tmp_path: Path) -> None:
    path = csv_of(a_failed_row(reason="Traceback:\n  line 1\r\n\x1b[31mred\x1b[0m"), tmp_path=tmp_path)

    assert cells(path, "reason") == ["Traceback: line 1 red"]
    assert len(path.read_text().splitlines()) == 2


def test_an_endless_reason_is_cut(tmp_path: Path) -> None:
    path = csv_of(a_failed_row(reason="x" * 100_000), tmp_path=tmp_path)

    assert len(cells(path, "reason")[0]) == 1000


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@sum", "\t=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"],
)
def test_text_that_a_spreadsheet_would_calculate_is_guarded(text: str, tmp_path: Path) -> None:
    path = csv_of(a_row(params={"text": text, text: 1}), tmp_path=tmp_path)

    assert cells(path, "text") == ["'" + text]
    assert "'" + text in read(path)[0]


def test_a_reason_that_starts_like_a_formula_is_guarded(tmp_path: Path) -> None:
    path = csv_of(a_failed_row(reason='=HYPERLINK("http://x")'), tmp_path=tmp_path)

    assert cells(path, "reason") == ['\'=HYPERLINK("http://x")']


def test_what_a_terminal_acts_upon_is_escaped_and_still_told_apart(tmp_path: Path) -> None:
    red, turned, tag = "\x1b[31m", "\u202eabc", "\U000e0041"

    path = csv_of(
        a_row(params={"a": red, "b": turned, "c": tag, "d": "\r=1", "deep": ["\x9b", {turned: 1}], red: 1}),
        a_row(params={"a": "[31m", "b": "1\t2\n3"}),
        tmp_path=tmp_path,
    )

    head = read(path)[0]
    first, second = (dict(zip(head, row, strict=True)) for row in read(path)[1])
    assert [first[name] for name in "abcd"] == ["\\u001b[31m", "\\u202eabc", "\\udb40\\udc41", "\\u000d=1"]
    assert (second["a"], second["b"]) == ("[31m", "1\t2\n3")
    assert json.loads(first["deep"]) == ["\x9b", {turned: 1}]
    assert first["\\u001b[31m"] == "1"
    assert not {"\x1b", "\u202e", "\x9b", "\r", tag} & set(path.read_text())


def test_negative_numbers_are_not_guarded(tmp_path: Path) -> None:
    path = csv_of(a_row(params={"x": -1, "y": -0.5}), tmp_path=tmp_path)

    assert (cells(path, "x"), cells(path, "y")) == (["-1"], ["-0.5"])


def test_half_of_a_character_does_not_stop_an_export(tmp_path: Path) -> None:
    row = a_row(params={"text": "a\ud800b", "deep": ["\udfff"], "\ud801": 1})

    path = csv_of(row, tmp_path=tmp_path)
    table = parquet_of(row, tmp_path=tmp_path)

    assert (cells(path, "text"), cells(path, "deep"), cells(path, "?")) == (["a?b"], ['["?"]'], ["1"])
    assert table["text"].to_pylist() == ["a?b"]


def test_a_sweep_without_points_is_a_head(tmp_path: Path) -> None:
    assert read(csv_of(tmp_path=tmp_path)) == ([*HEAD, "seed", *TAIL], [])
    assert parquet_of(tmp_path=tmp_path).column_names == [*HEAD, "seed", *TAIL]


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [a_row(1, params={"x": 0.1}, metrics={"loss": 1e-9}), a_failed_row(2, params={"x": [1]})]
    first, second = tmp_path / "1", tmp_path / "2"

    for write in (write_csv, write_parquet):
        write(rows, first)
        write(iter(rows), second)

        assert first.read_bytes() == second.read_bytes()


# --- what goes in comes out

floats = st.floats(allow_nan=False, allow_infinity=False)
integers = st.integers(-(2**63), 2**63 - 1)
lists = st.lists(st.integers(0, 9) | st.text(max_size=3), max_size=3)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "float": floats,
    "int": integers,
    "bool": st.booleans(),
    "text": st.text(st.sampled_from("\r\n\t,\"'=- ") | st.characters(codec="utf-8"), max_size=8),
    "list": lists,
}
params = st.fixed_dictionaries({}, optional={f"p.{name}": values for name, values in KINDS.items()})
tables = st.lists(st.tuples(params, st.none() | floats, st.none() | integers), min_size=1, max_size=4)


def rows_of(table: list[tuple[dict[str, Any], float | None, int | None]]) -> list[dict[str, Any]]:
    return [
        a_row(n, params=given_params, metrics={"loss": loss}, seed=seed)
        for n, (given_params, loss, seed) in enumerate(table, 1)
    ]


def unguarded(text: str) -> str:
    guarded = text[:1] == "'" and text[1:2] in {*"=+-@\t\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"}
    return text[1:] if guarded else text


def escaped(text: str) -> str:
    """A text as a cell of CSV shows it."""

    def units(character: str) -> str:
        blob = character.encode("utf-16-le")
        return "".join(f"\\u{unit:04x}" for unit in struct.unpack(f"<{len(blob) // 2}H", blob))

    active = [c for c in set(text) - {"\t", "\n"} if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")]
    return text.translate({ord(c): units(c) for c in active})


BACK = {"float": float, "int": int, "bool": {"true": True, "false": False}.__getitem__, "list": json.loads}


@given(tables)
def test_the_csv_module_reads_equal_values_back(table: Any) -> None:
    rows = rows_of(table)
    path = memory_file(write_csv, rows)

    head, *found = csv.reader(io.StringIO(path.decode(), newline=""))

    for row, line in zip(rows, found, strict=True):
        shown = dict(zip(head, line, strict=True))
        assert (float(shown["loss"]) if shown["loss"] else None) == row["metrics"]["loss"]
        assert (int(shown["seed"]) if shown["seed"] else None) == row["seed"]
        for name, value in row["params"].items():
            kind = name.removeprefix("p.")
            if kind == "text":
                assert unguarded(shown[kind]) == escaped(value)
            else:
                assert BACK[kind](shown[kind]) == value


@given(tables)
def test_pandas_reads_equal_values_back(table: Any) -> None:
    pandas = pytest.importorskip("pandas")
    rows = rows_of(table)

    frame = pandas.read_csv(
        io.BytesIO(memory_file(write_csv, rows)),
        dtype={"text": str, "list": str, "int": "Int64", "seed": "Int64", "bool": "boolean"},
        keep_default_na=False,
        na_values={name: [""] for name in ("loss", "float", "int", "seed", "bool")},
    )

    assert [None if pandas.isna(value) else value for value in frame["loss"]] == [
        row["metrics"]["loss"] for row in rows
    ]
    assert [None if pandas.isna(value) else value for value in frame["seed"]] == [row["seed"] for row in rows]
    for kind in KINDS.keys() & frame.columns:
        for row, value in zip(rows, frame[kind], strict=True):
            wanted = row["params"].get(f"p.{kind}")
            if wanted is None:
                assert pandas.isna(value) or value == ""
            elif kind == "text":
                assert unguarded(value) == escaped(wanted)
            else:
                assert (json.loads(value) if kind == "list" else value) == wanted


@given(tables)
def test_pyarrow_reads_equal_values_of_the_right_types_back(table: Any) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    rows = rows_of(table)
    types = {"float": arrow.float64(), "int": arrow.int64(), "bool": arrow.bool_()}

    found = parquet.read_table(io.BytesIO(memory_file(write_parquet, rows)))

    assert found["loss"].to_pylist() == [row["metrics"]["loss"] for row in rows]
    assert found["loss"].type == arrow.float64()
    for kind in KINDS.keys() & set(found.column_names):
        wanted = [row["params"].get(f"p.{kind}") for row in rows]
        values = found[kind].to_pylist()
        assert found[kind].type == types.get(kind, arrow.string())
        assert ([None if v is None else json.loads(v) for v in values] if kind == "list" else values) == wanted


def memory_file(write: Any, rows: list[dict[str, Any]]) -> bytes:
    """What a writer leaves in a file, in a folder that is gone afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "results"
        write(rows, path)
        return path.read_bytes()


# --- Parquet's types


@pytest.mark.parametrize(
    ("values", "kind", "kept"),
    [
        ([1, 2], "int64", [1, 2]),
        ([1, 0.5], "double", [1.0, 0.5]),
        ([True, None], "bool", [True, None]),
        (["a", None], "string", ["a", None]),
        ([None, None], "string", [None, None]),
        ([1, "1"], "string", ["1", '"1"']),
        ([True, 1], "string", ["true", "1"]),
        ([2**53 + 1, 0.5], "string", ["9007199254740993", "0.5"]),
        ([2**63, 1], "string", ["9223372036854775808", "1"]),
        ([[1], "a"], "string", ["[1]", '"a"']),
    ],
)
def test_a_column_of_one_kind_keeps_its_type_and_a_mixed_one_is_json(
    values: list[Any], kind: str, kept: list[Any], tmp_path: Path
) -> None:
    rows = [a_row(n, params={"x": value}) for n, value in enumerate(values, 1)]

    column = parquet_of(*rows, tmp_path=tmp_path)["x"]

    assert str(column.type) == kind
    assert column.to_pylist() == kept


def test_a_metric_is_a_float_whatever_its_values(tmp_path: Path) -> None:
    whole = parquet_of(a_row(metrics={"errors": 3}), tmp_path=tmp_path)["errors"]
    absent = parquet_of(a_row(metrics={"errors": None}), tmp_path=tmp_path)["errors"]

    assert str(whole.type) == str(absent.type) == "double"
    assert whole.to_pylist() == [3.0]


# --- faults


@pytest.mark.parametrize("write", [write_csv, write_parquet])
def test_a_path_that_cannot_be_written_is_a_clear_error(write: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(HarnessError, match=r"can't be written to .*file/results.*--to FILE"):
        write([a_row()], tmp_path / "file" / "results")


def test_a_folder_in_the_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "results" / "inside").mkdir(parents=True)

    with pytest.raises(HarnessError, match="can't be written"):
        write_csv([a_row()], tmp_path / "results")

    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert (tmp_path / "results" / "inside").is_dir()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a limit on file sizes")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv([a_row()], path)
    before = path.read_bytes()
    code = (
        "import resource, signal, sys, pathlib\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))\n"
        "from autoexperiment.sweep.exports import write_csv\n"
        "from autoexperiment.errors import HarnessError\n"
        "try:\n    write_csv([], pathlib.Path(sys.argv[1]))\n"
        "except HarnessError as error:\n    print(error)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)

    assert "can't be written" in answer.stdout, answer.stderr
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    with pytest.raises(HarnessError, match=r"autoexperiment\[parquet\]"):
        write_parquet([a_row()], tmp_path / "results.parquet")


def test_a_broken_pyarrow_raises_its_own_error(tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("import no_such_part")
    code = "from autoexperiment.sweep.exports import write_parquet\nwrite_parquet([], 'x')"

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)}
    )

    assert "No module named 'no_such_part'" in answer.stderr.splitlines()[-1]


def test_csv_needs_no_library() -> None:
    code = (
        "import sys, pathlib, tempfile\n"
        "from autoexperiment.sweep.exports import write_csv\n"
        "write_csv([], pathlib.Path(tempfile.mkdtemp(dir=sys.argv[1])) / 'x.csv')\n"
        "print(sorted({'pandas', 'pyarrow', 'numpy'} & set(sys.modules)))\n"
    )
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)

    assert answer.stdout == "[]\n", answer.stderr


def test_rows_are_columns_of_one_length() -> None:
    columns = tabulate([a_row(1, params={"x": 1}), a_failed_row(2)])

    assert {len(column.values) for column in columns} == {2}


def test_a_swept_seed_is_the_column_of_seeds_of_a_sweep_without_replicates(tmp_path: Path) -> None:
    params = {"training.seed": 7, "training.lr": 0.1}

    alone = {column.name: column.values for column in tabulate([a_row(1, params=params)])}
    beside = {column.name: column.values for column in tabulate([a_row(1, params=params, seed=3)])}

    assert alone["seed"] == [7]
    assert "training.seed" not in alone
    assert (beside["seed"], beside["training.seed"]) == ([3], [7])


def test_names_with_half_of_a_character_stay_apart_from_those_they_look_like() -> None:
    assert free_names(["a\udfff", "a?"], (), prefix="m.") == {"a\udfff": "m.a?", "a?": "a?"}
    assert free_names(["a\udfff"], (), prefix="m.") == {"a\udfff": "a?"}
    assert short_names(["x.a\udfff", "y.a?"]) == {"x.a\udfff": "x.a?", "y.a?": "y.a?"}
    assert short_names(["a\udfff", "a?"]) == {"a\udfff": "a?", "a?": "param.a?"}
