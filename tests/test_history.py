"""The history: every run directory once in the index, whatever was killed, lost, damaged or planted."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import standin
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoexperiment import cli, history, loop, session
from autoexperiment.errors import HarnessError, Locked
from autoexperiment.files import Lock
from autoexperiment.paths import OutputPaths, RunPaths
from autoexperiment.vocabulary import Goal, RunStatus

BEGAN = datetime(2025, 11, 22, 14, 30, 25, 123456)
STAMP = "20251122_143025"


@pytest.fixture
def outputs(tmp_path: Path) -> OutputPaths:
    (tmp_path / "outputs").mkdir()
    return OutputPaths(tmp_path / "outputs")


def make_run(outputs: OutputPaths, experiment: str = "first", stamp: str = STAMP, **files: Any) -> RunPaths:
    """A run directory. Args: files: JSON values, or text as it is, by the name without `.json`."""
    run = RunPaths(outputs.root / experiment / stamp)
    run.folder.mkdir(parents=True)
    for name, value in files.items():
        (run.folder / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
    return run


def completed(loss: float, **more: Any) -> dict[str, Any]:
    return {"status": "completed", "final_metrics": {"epoch": 10, "loss": loss, **more}}


def record(outputs: OutputPaths, run: RunPaths, status: str = "completed", **metrics: float) -> history.Entry:
    return history.record_run(
        outputs, run, status=RunStatus(status), created_at=BEGAN, final_metrics=metrics if metrics else None
    )


def read(outputs: OutputPaths) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(outputs.index.read_text())["runs"]
    return runs


def states(outputs: OutputPaths) -> dict[str, str]:
    return {run["run_dir"]: run["status"] for run in history.list_all_runs(outputs.index)}


# ---- what is written


def test_a_run_is_entered_with_the_documented_fields(outputs: OutputPaths) -> None:
    run = make_run(outputs, "my-first-experiment")

    record(outputs, run, loss=0.124536, epoch=10)

    assert read(outputs) == [
        {
            "experiment": "my-first-experiment",
            "timestamp": "20251122_143025",
            "run_dir": "my-first-experiment/20251122_143025",
            "created_at": "2025-11-22T14:30:25.123456",
            "status": "completed",
            "final_metrics": {"loss": 0.124536, "epoch": 10},
        }
    ]


def test_a_run_has_one_entry_which_keeps_its_first_time_and_its_place(outputs: OutputPaths) -> None:
    first, second = make_run(outputs), make_run(outputs, "second")
    record(outputs, first, "running")
    record(outputs, second, "running")

    history.record_run(outputs, first, status=RunStatus.COMPLETED, final_metrics={"loss": 1.5})

    told = [(run["experiment"], run["status"], run["created_at"], run["final_metrics"]) for run in read(outputs)]
    assert told == [
        ("first", "completed", BEGAN.isoformat(), {"loss": 1.5}),
        ("second", "running", BEGAN.isoformat(), None),
    ]


def test_a_time_with_a_zone_is_entered_as_local_time(outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")  # by POSIX two hours east of Greenwich
    time.tzset()
    try:
        moment = datetime(2025, 11, 22, 14, 30, 25, 7, tzinfo=UTC)
        entry = history.record_run(outputs, make_run(outputs), status=RunStatus.RUNNING, created_at=moment)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert entry["created_at"] == "2025-11-22T16:30:25.000007"


def test_without_a_time_the_folders_name_says_it(outputs: OutputPaths) -> None:
    entry = history.record_run(outputs, make_run(outputs, stamp=f"{STAMP}_2"), status=RunStatus.RUNNING)

    assert entry["created_at"] == "2025-11-22T14:30:25.000002"


def test_numbers_that_are_none_are_null_and_the_file_is_strict_json(outputs: OutputPaths) -> None:
    metrics: dict[str, Any] = {"a": math.nan, "b": math.inf, "c": True, "d": "1", "e": 10**400, "f": 2}

    history.record_run(outputs, make_run(outputs), status=RunStatus.DIVERGED, final_metrics=metrics)

    assert read(outputs)[0]["final_metrics"] == {"a": None, "b": None, "c": None, "d": None, "e": None, "f": 2}


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
METRICS = st.none() | st.dictionaries(st.text(max_size=8), st.none() | st.floats(allow_nan=False), max_size=4)


@example(experiment='", "run_dir": "xy", ', metrics={"run_dir": 1.0})
@settings(max_examples=40, deadline=None)
@given(experiment=NAMES, metrics=METRICS)
def test_any_name_is_found_again_and_changed_in_its_one_line(
    tmp_path_factory: pytest.TempPathFactory, experiment: str, metrics: dict[str, float | None] | None
) -> None:
    outputs = OutputPaths(tmp_path_factory.mktemp("any"))
    other, run = RunPaths(outputs.root / "x" / "y"), RunPaths(outputs.root / experiment / STAMP)
    record(outputs, other, loss=1.0)
    record(outputs, run, "running")

    history.record_run(outputs, run, status=RunStatus.COMPLETED, final_metrics=metrics)

    finite = (
        None if metrics is None else {k: v if v is not None and math.isfinite(v) else None for k, v in metrics.items()}
    )
    assert [(r["experiment"], r["status"], r["final_metrics"]) for r in read(outputs)] == [
        ("x", "completed", {"loss": 1.0}),
        (experiment, "completed", finite),
    ]
    assert len(outputs.index.read_text().splitlines()) == 4


def test_an_index_in_another_layout_is_taken_over(outputs: OutputPaths) -> None:
    first = make_run(outputs)
    record(outputs, first, loss=1.0)
    outputs.index.write_text(json.dumps(json.loads(outputs.index.read_text()), indent=4))

    record(outputs, make_run(outputs, "second"), loss=2.0)
    record(outputs, first, loss=3.0)

    assert {run["experiment"]: run["final_metrics"]["loss"] for run in read(outputs)} == {"first": 3.0, "second": 2.0}
    assert sorted(item.name for item in outputs.root.iterdir()) == [".index.lock", "first", "index.json", "second"]


def test_an_entry_that_stands_there_twice_is_mended(outputs: OutputPaths) -> None:
    run = make_run(outputs)
    entry = record(outputs, run, loss=1.0)
    outputs.index.write_text(history.render([entry, entry]))
    assert len(history.list_all_runs(outputs.index)) == len(read(outputs)) == 1
    outputs.index.write_text(history.render([entry, entry]))

    record(outputs, run, loss=2.0)

    assert [found["final_metrics"] for found in read(outputs)] == [{"loss": 2.0}]


def test_an_index_that_stays_in_use_is_named_with_its_user(
    outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "WRITE_LOCK_S", 0.05)

    with (
        Lock(outputs.index_lock).acquire(),
        pytest.raises(Locked, match=rf"index\.json has been in use .* process {os.getpid()}"),
    ):
        record(outputs, make_run(outputs))


HAMMER = """
import sys
from pathlib import Path
from autoexperiment import history
from autoexperiment.paths import OutputPaths, new_run
from autoexperiment.vocabulary import RunStatus
from datetime import datetime
outputs, who, count = OutputPaths(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for n in range(count):
    now = datetime.now()
    run = new_run(outputs.experiment(f"process-{who}"), now)
    history.record_run(outputs, run, status=RunStatus.RUNNING, created_at=now)
    history.record_run(outputs, run, status=RunStatus.COMPLETED, final_metrics={"loss": float(n)})
"""


def hammer(outputs: OutputPaths, who: int, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", HAMMER, str(outputs.root), str(who), str(count)])


def test_eight_processes_enter_all_their_runs_once(outputs: OutputPaths) -> None:
    processes = [hammer(outputs, who, 25) for who in range(8)]

    assert [process.wait() for process in processes] == [0] * 8

    found = {(run["experiment"], run["status"], run["final_metrics"]["loss"]) for run in read(outputs)}
    assert len(read(outputs)) == len({run["run_dir"] for run in read(outputs)}) == 200
    assert found == {(f"process-{who}", "completed", float(n)) for who in range(8) for n in range(25)}


def test_killed_writers_leave_an_index_that_can_be_read_and_mended(outputs: OutputPaths) -> None:
    for n in range(6):
        process = hammer(outputs, n, 10_000)
        while not (outputs.root / f"process-{n}").exists():
            time.sleep(0.005)
        time.sleep(0.01 * n)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if outputs.index.exists():
            read(outputs)

    folders = {f"{path.parent.name}/{path.name}" for path in outputs.root.glob("process-*/*")}
    assert {run["run_dir"] for run in history.list_all_runs(outputs.index)} == folders
    assert {run["status"] for run in read(outputs)} <= {"completed", "interrupted"}
    assert not list(outputs.root.glob("index.damaged*"))


# ---- what is made true


def test_a_missing_index_without_runs_is_an_empty_list_and_stays_missing(outputs: OutputPaths) -> None:
    assert history.list_all_runs(outputs.index) == []
    assert history.list_all_runs(outputs.root / "never" / "index.json") == []
    assert list(outputs.root.iterdir()) == []


def test_a_lost_index_is_made_again_from_the_run_directories(outputs: OutputPaths) -> None:
    make_run(outputs, "b", "20250101_000001", summary=completed(1.0))
    make_run(outputs, "a", "20250101_000001_2", summary={"status": "diverged", "final_metrics": {"loss": None}})
    make_run(outputs, "a", "20250101_000000", config={"name": "a"})
    make_run(outputs, "autoresearch-t", "20250102_000000", run={"outcome": "ok", "metrics": {"val_bpb": 1.5}})
    make_run(outputs, "autoresearch-t", "20250102_000001", run={"outcome": "rejected", "metrics": {}})

    runs = history.list_all_runs(outputs.index)

    assert [(run["run_dir"], run["status"], run["final_metrics"]) for run in runs] == [
        ("a/20250101_000000", "interrupted", None),
        ("b/20250101_000001", "completed", {"epoch": 10, "loss": 1.0}),
        ("a/20250101_000001_2", "diverged", {"loss": None}),
        ("autoresearch-t/20250102_000000", "completed", {"val_bpb": 1.5}),
        ("autoresearch-t/20250102_000001", "failed", {}),
    ]
    assert runs == read(outputs)


def test_an_index_cut_or_changed_at_any_byte_costs_no_run(outputs: OutputPaths) -> None:
    for n in range(2):
        record(outputs, make_run(outputs, f"e{n}", summary=completed(float(n))), loss=float(n))
    whole = outputs.index.read_bytes()
    expected = {"e0/20251122_143025": "completed", "e1/20251122_143025": "completed"}

    for place in range(0, len(whole) - 1, 3):
        for blob in (whole[:place], whole[:place] + b"\x00" + whole[place + 1 :]):
            outputs.index.write_bytes(blob)
            assert states(outputs) == expected, blob
            kept = outputs.root / "index.damaged.json"
            assert kept.read_bytes() == blob
            kept.unlink()


@pytest.mark.parametrize(
    "text",
    ["", "{", "\n", "\0" * 5000, '{"runs": [7]}', '{"runs": [{}]}', '{\n  "runs" : [\n    {"expe',
     '{"version": 1, "runs": [{}]}', '{"runs": [' + "[" * 100_000, '{"runs": [' + "\0" * 5000,
     "\0" * 5000 + '\n{"experiment": "e", "timestamp": "t", "run_dir": "e/t", "cre',
     '{"runs": [{"experiment": "e", "timestamp": "t", "run_dir": "e/t", "created_at": "2025-11-22T14:30:25.123456"}]}'],
)  # fmt: skip
def test_what_is_left_of_an_index_is_kept_aside_and_made_again(outputs: OutputPaths, text: str) -> None:
    outputs.index.write_text(text)
    make_run(outputs, summary=completed(1.0))

    record(outputs, make_run(outputs, "new"), "running")

    assert {run["run_dir"]: run["status"] for run in read(outputs)} == {
        f"first/{STAMP}": "completed",
        f"new/{STAMP}": "running",
    }
    assert (outputs.root / "index.damaged.json").read_text() == text


GOOD = {
    "experiment": "first", "timestamp": STAMP, "run_dir": f"first/{STAMP}", "created_at": "2025-11-22T14:30:25.123456",
    "status": "failed", "final_metrics": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"experiment": 7, "run_dir": f"7/{STAMP}"}, {"timestamp": None, "run_dir": "first/None"},
     {"run_dir": "../other"}, {"run_dir": "/etc"}, {"created_at": "today"},
     {"created_at": 5}, {"status": "fine"}, {"status": ["failed"]}, {"final_metrics": 5}, {"final_metrics": {"loss": "1"}},
     {"final_metrics": {"loss": True}}, {"more": 1}],
)  # fmt: skip
def test_an_entry_of_another_shape_is_not_believed(outputs: OutputPaths, change: dict[str, Any]) -> None:
    make_run(outputs, summary=completed(1.0))
    outputs.index.write_text(history.render([{**GOOD, **change}]))  # type: ignore[typeddict-item]

    assert states(outputs) == {f"first/{STAMP}": "completed"}
    assert (outputs.root / "index.damaged.json").exists()


def test_an_infinite_number_in_the_index_is_not_believed(outputs: OutputPaths) -> None:
    make_run(outputs, summary=completed(1.0))
    outputs.index.write_text(history.render([{**GOOD, "final_metrics": {"loss": 1.5}}]).replace("1.5", "1e999"))  # type: ignore[typeddict-item]

    assert states(outputs) == {f"first/{STAMP}": "completed"}


def test_a_damaged_index_is_put_aside_though_there_are_no_runs(outputs: OutputPaths) -> None:
    outputs.index.write_text("{")

    assert history.list_all_runs(outputs.index) == read(outputs) == []
    assert (outputs.root / "index.damaged.json").read_text() == "{"


def test_every_damaged_index_is_kept(outputs: OutputPaths) -> None:
    make_run(outputs)
    for text in ('{"ru', '{"runs": [1'):
        outputs.index.write_text(text)
        history.list_all_runs(outputs.index)

    assert (outputs.root / "index.damaged.json").read_text() == '{"ru'
    assert (outputs.root / "index.damaged_2.json").read_text() == '{"runs": [1'


STRANGE = [
    '{"title": "My site", "pages": []}', "{}", "[]", "null", "hello", '{"runs": {}}', '{"runs": NaN}', "[" * 100_000,
    '{"data": "\0\0"}', "\ufeff{}", '{"' + " " * 300, "\0" * 300 + "text",
]  # fmt: skip


@pytest.mark.parametrize("text", STRANGE, ids=range(len(STRANGE)))
def test_a_file_of_somebody_else_is_left_as_it_is_and_the_runs_are_shown(outputs: OutputPaths, text: str) -> None:
    outputs.index.write_text(text)
    run = make_run(outputs, summary=completed(1.0))

    for write in (lambda: record(outputs, run), lambda: history.rebuild(outputs), lambda: history.check_index(outputs)):
        with pytest.raises(
            HarnessError, match=r"index\.json is not an index of runs, .* --set output\.directory=outputs"
        ):
            write()

    assert states(outputs) == {f"first/{STAMP}": "completed"}
    assert outputs.index.read_text() == text
    assert sorted(item.name for item in outputs.root.iterdir()) == ["first", "index.json"]


def test_a_folder_or_a_link_in_the_place_of_the_index_is_left_as_it_is(outputs: OutputPaths, tmp_path: Path) -> None:
    run = make_run(outputs, summary=completed(1.0))
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text('{"runs": []}')
    outputs.index.mkdir()
    first = states(outputs)
    outputs.index.rmdir()
    outputs.index.symlink_to(elsewhere)

    with pytest.raises(HarnessError, match="is not an index of runs"):
        record(outputs, run)

    assert first == states(outputs) == {f"first/{STAMP}": "completed"}
    assert outputs.index.is_symlink()
    assert elsewhere.read_text() == '{"runs": []}'


def test_a_file_that_takes_the_indexs_place_meanwhile_is_left_as_it_is(
    outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, locked = make_run(outputs, summary=completed(1.0)), history._locked

    def overtaken(*words: Any) -> Any:
        outputs.index.write_text("of somebody else")
        return locked(*words)

    monkeypatch.setattr(history, "_locked", overtaken)
    for write in (lambda: record(outputs, run), lambda: history.rebuild(outputs)):
        outputs.index.unlink(missing_ok=True)
        with pytest.raises(HarnessError, match="is not an index of runs"):
            write()

    outputs.index.unlink()
    assert states(outputs) == {f"first/{STAMP}": "completed"}
    assert outputs.index.read_text() == "of somebody else"


def test_an_index_of_no_runs_is_one(outputs: OutputPaths) -> None:
    outputs.index.write_text('{"runs": []}')

    history.check_index(outputs)
    record(outputs, make_run(outputs), loss=1.0)

    assert len(read(outputs)) == history.count_runs(outputs) == 1
    assert not (outputs.root / "index.damaged.json").exists()


def test_a_sound_index_is_not_written_when_it_is_read(outputs: OutputPaths) -> None:
    record(outputs, make_run(outputs), loss=1.0)
    before = outputs.index.stat().st_ino

    history.list_all_runs(outputs.index)

    assert outputs.index.stat().st_ino == before


def test_a_run_killed_before_its_entry_is_entered(outputs: OutputPaths) -> None:
    record(outputs, make_run(outputs), loss=1.0)
    make_run(outputs, "killed")

    assert states(outputs) == {f"first/{STAMP}": "completed", f"killed/{STAMP}": "interrupted"}
    assert len(read(outputs)) == 2


def test_a_running_entry_is_closed_when_its_lock_is_free(outputs: OutputPaths) -> None:
    killed, done, going = (make_run(outputs, name) for name in ("killed", "done", "going"))
    for run in (killed, done, going):
        run.lock.touch()
        record(outputs, run, "running")
    done.summary.write_text(json.dumps(completed(0.5)))

    with Lock(going.lock).acquire():
        found = history.list_all_runs(outputs.index)

    assert {run["experiment"]: run["status"] for run in found} == {
        "killed": "interrupted", "done": "completed", "going": "running",
    }  # fmt: skip
    assert next(r for r in found if r["experiment"] == "done")["final_metrics"] == {"epoch": 10, "loss": 0.5}
    assert {run["created_at"] for run in found} == {BEGAN.isoformat()}


def test_a_run_that_goes_on_is_running_though_an_older_summary_says_otherwise(outputs: OutputPaths) -> None:
    run = make_run(outputs, summary={"status": "interrupted", "final_metrics": {"loss": 1.0}})
    record(outputs, run, "running")

    with run.lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert states(outputs) == {f"first/{STAMP}": "running"}


def test_the_entry_of_a_removed_directory_goes(outputs: OutputPaths) -> None:
    run = make_run(outputs)
    record(outputs, run, loss=1.0)
    record(outputs, make_run(outputs, "other"), loss=1.0)
    shutil.rmtree(run.folder)

    assert states(outputs) == {f"other/{STAMP}": "completed"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_experiment_that_cannot_be_looked_into_keeps_its_entries(outputs: OutputPaths) -> None:
    record(outputs, make_run(outputs), loss=1.0)
    folder = outputs.root / "first"
    folder.chmod(0)
    try:
        assert states(outputs) == {f"first/{STAMP}": "completed"}
    finally:
        folder.chmod(0o700)


def test_an_experiment_that_fails_to_be_read_keeps_its_entries(
    outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(outputs, make_run(outputs), loss=1.0)
    scandir = os.scandir

    def failing(path: str) -> Any:
        if str(path).endswith("/first"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(history.os, "scandir", failing)

    assert states(outputs) == {f"first/{STAMP}": "completed"}


def test_a_folder_that_may_only_be_read_is_listed_as_it_is(outputs: OutputPaths) -> None:
    make_run(outputs, summary=completed(1.0))
    outputs.index_lock.mkdir()  # as if the lock could not be opened, for root as well

    assert states(outputs) == {f"first/{STAMP}": "completed"}
    assert not outputs.index.exists()


def test_a_reader_does_not_wait_for_a_writer(outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "READ_LOCK_S", 0.0)
    make_run(outputs, summary=completed(1.0))

    with Lock(outputs.index_lock).acquire():
        assert states(outputs) == {f"first/{STAMP}": "completed"}


def test_links_and_other_folders_are_no_runs(outputs: OutputPaths, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / STAMP
    elsewhere.mkdir(parents=True)
    (outputs.root / "linked").symlink_to(elsewhere.parent)
    (outputs.root / "first").mkdir()
    (outputs.root / "first" / STAMP).symlink_to(elsewhere)
    for name in ("notes", "20251122", "20259922_143025", f"{STAMP}_", f".{STAMP}", "２０２５１１２２_143025"):  # noqa: RUF001
        (outputs.root / "first" / name).mkdir()
    (outputs.root / "first" / "20251122_143026").write_text("a file")
    make_run(outputs, ".hidden")

    assert history.list_all_runs(outputs.index) == []


@pytest.mark.parametrize(
    "summary",
    [
        "", "{", "[]", "null", "7", '"completed"', '{"status": 7}', '{"status": "running"}', '{"status": "perfect"}',
        '{"status": ["completed"]}', "[" * 100_000, '{"a":' * 100_000, '{"status": "completed", "x": ' + "1" * 5000 + "}",
        json.dumps({**completed(1.0), "padding": "x" * 1_000_000}), "\udcff",
    ],
    ids=range(15),
)  # fmt: skip
def test_a_summary_that_cannot_be_understood_is_none(outputs: OutputPaths, summary: str) -> None:
    run = make_run(outputs)
    run.summary.write_bytes(summary.encode("utf-8", "surrogateescape"))

    assert states(outputs) == {f"first/{STAMP}": "interrupted"}


def test_a_summary_that_is_a_pipe_or_a_link_is_none(outputs: OutputPaths, tmp_path: Path) -> None:
    os.mkfifo(make_run(outputs, "pipe").summary)
    (tmp_path / "secret.json").write_text(json.dumps(completed(1.0)))
    make_run(outputs, "link").summary.symlink_to(tmp_path / "secret.json")
    os.mkfifo(make_run(outputs, "lock").lock)

    assert set(states(outputs).values()) == {"interrupted"}


def test_odd_metrics_of_a_summary_are_null_or_left_out(outputs: OutputPaths) -> None:
    metrics = '{"nan": NaN, "inf": 1e999, "true": true, "text": "1", "list": [1], "good": 1.5, "LONG": 1}'
    metrics = metrics.replace("LONG", "x" * 101)
    make_run(outputs, "odd", summary=f'{{"status": "completed", "final_metrics": {metrics}}}')
    make_run(outputs, "list", summary='{"status": "completed", "final_metrics": [1]}')
    make_run(outputs, "many", summary={"status": "completed", "final_metrics": {f"m{n}": n for n in range(1000)}})

    found = {run["experiment"]: run["final_metrics"] for run in history.list_all_runs(outputs.index)}

    assert found["odd"] == {"nan": None, "inf": None, "true": None, "text": None, "list": None, "good": 1.5}
    assert found["list"] is None
    assert len(found["many"] or {}) == 64
    json.loads(outputs.index.read_text(), parse_constant=pytest.fail)


def test_rebuilding_looks_at_every_run_again_and_keeps_the_known_times(outputs: OutputPaths) -> None:
    run = make_run(outputs, summary=completed(1.0))
    record(outputs, run, "failed")
    assert states(outputs) == {f"first/{STAMP}": "failed"}

    found = history.rebuild(outputs)

    assert [(r["status"], r["created_at"]) for r in found] == [("completed", BEGAN.isoformat())]
    assert read(outputs) == found


def test_asking_is_as_in_the_guide(outputs: OutputPaths) -> None:
    record(outputs, make_run(outputs, "tune-a"), loss=2.0)
    record(outputs, make_run(outputs, "tune-b"), loss=1.0)

    runs = history.get_runs_by_experiment(outputs.index, "tune-b")

    assert [(run["timestamp"], run["run_dir"]) for run in runs] == [(STAMP, f"tune-b/{STAMP}")]
    with pytest.raises(HarnessError, match=r"notes\.txt is no index"):
        history.list_all_runs(outputs.root / "notes.txt")


JQ: dict[str, Any] = {
    '.runs[] | select(.experiment == "tune-lr-0.1")': [2],
    ".runs | sort_by(.created_at) | last": [3],
    ".runs | length": 4,
    '.runs[] | select(.experiment | startswith("tune-lr")) | {experiment, final_loss: .final_metrics.loss}': [
        {"experiment": "tune-lr-0.01", "final_loss": 0.5},
        {"experiment": "tune-lr-0.1", "final_loss": None},
    ],
}


@pytest.mark.skipif(not shutil.which("jq"), reason="jq is not installed")
@pytest.mark.parametrize("question", JQ)
def test_the_guides_questions_to_jq_are_answered(outputs: OutputPaths, question: str) -> None:
    names = ("first", "tune-lr-0.01", "tune-lr-0.1", "last")
    for day, (name, loss) in enumerate(zip(names, (1.0, 0.5, math.nan, 2.0), strict=True), start=1):
        run, when = make_run(outputs, name, f"2025010{day}_000000"), datetime(2025, 1, day)
        history.record_run(outputs, run, status=RunStatus.COMPLETED, created_at=when, final_metrics={"loss": loss})
    entries = read(outputs)

    answer = subprocess.run(["jq", question, str(outputs.index)], check=True, capture_output=True)
    found = json.loads(
        subprocess.run(["jq", "--slurp", "."], input=answer.stdout, check=True, capture_output=True).stdout
    )

    expected = JQ[question]
    if isinstance(expected, int):
        assert found == [expected]
    else:
        assert found == [entries[item] if isinstance(item, int) else item for item in expected]


# ---- the best


def test_only_completed_runs_with_a_finite_number_can_be_best(outputs: OutputPaths) -> None:
    for name, status, loss in (
        ("a", "interrupted", 0.1), ("b", "completed", math.nan), ("c", "completed", 0.5), ("d", "completed", 0.9),
        ("e", "diverged", 0.2), ("f", "completed", 0.5), ("g", "completed", math.inf),
    ):  # fmt: skip
        record(outputs, make_run(outputs, name), status, loss=loss)
    record(outputs, make_run(outputs, "h"), other=0.0)
    runs = history.list_all_runs(outputs.index)

    least, most = (history.best_run(runs, "loss", goal) for goal in Goal)

    assert least is not None and least["experiment"] == "c"
    assert most is not None and most["experiment"] == "d"
    assert history.best_run(runs, "nothing", Goal.MINIMIZE) is None


# ---- the command


@pytest.fixture
def lab(outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch) -> OutputPaths:
    """A workspace with four runs in outputs/, the current folder."""
    monkeypatch.chdir(outputs.root.parent)
    for name, day, rate, loss in (("tune-a", 1, 0.1, 0.5), ("tune-b", 2, 0.2, 0.25)):
        config = {"name": name, "dataset": {"name": "d"}, "training": {"epochs": 3, "learning_rate": rate}}
        summary = completed(loss, val_accuracy=loss)
        run = make_run(outputs, name, f"2025010{day}_000000", config=config, summary=summary)
        for checkpoint in ("checkpoint_epoch_1", "checkpoint_final"):
            (run.checkpoints / checkpoint).mkdir(parents=True)
            (run.checkpoints / checkpoint / "manifest.json").write_text("{}")
        (run.checkpoints / "checkpoint_epoch_2").mkdir()
        answer = {"checkpoint": "checkpoint_final", "split": "test", "metrics": {"r2": 0.5, "confusion_matrix": [[1]]}}
        (run.checkpoints / "checkpoint_final.test.json").write_text(json.dumps(answer))
    make_run(outputs, "tune-a", "20250103_000000", summary={"status": "failed", "final_metrics": None, "reason": "why"})
    loop_run = {"outcome": "ok", "metrics": {"val_bpb": 1.25}, "trust": {"val_bpb": "self_reported"}, "seed": 7}
    make_run(outputs, "autoresearch-t", "20250104_000000", run=loop_run)
    return outputs


def mlx(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """Run the command in this process; returns stdout, or stderr when a failure is expected."""
    monkeypatch.setattr(sys, "argv", ["mlx", *words])
    found = cli.main()
    said = capsys.readouterr()
    assert found == code, said
    return said.err if code else said.out


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    return lambda *words, code=0: mlx(monkeypatch, capsys, "history", *words, code=code)


def test_runs_are_listed_newest_last(lab: OutputPaths, ask: Any) -> None:
    said = ask()

    assert said.splitlines() == [
        "experiment      run              status     when                 metrics",
        "tune-a          20250101_000000  completed  2025-01-01 00:00:00  loss 0.5, val_accuracy 0.5",
        "tune-b          20250102_000000  completed  2025-01-02 00:00:00  loss 0.25, val_accuracy 0.25",
        "tune-a          20250103_000000  failed     2025-01-03 00:00:00  -",
        "autoresearch-t  20250104_000000  completed  2025-01-04 00:00:00  val_bpb 1.25",
    ]
    assert ask("list") == said
    assert ask("list", "--last", "1").splitlines()[1:] == said.splitlines()[-1:]
    assert json.loads(ask("--json")) == json.loads(lab.index.read_text())
    assert len(json.loads(ask("--experiment", "tune-a", "--json"))["runs"]) == 2


def test_the_help_of_the_group_names_its_subcommands(lab: OutputPaths, ask: Any) -> None:
    said = ask("--help")

    for name in ("list", "show", "best", "compare", "rebuild"):
        assert f"\n  {name} " in said


def test_an_empty_history_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Any) -> None:
    monkeypatch.chdir(tmp_path)

    assert "mlx run-experiment --config FILE" in ask()
    assert json.loads(ask("list", "--json")) == {"runs": []}
    assert not (tmp_path / "outputs").exists()


def test_an_empty_history_names_the_folders_that_have_runs(
    outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.chdir(outputs.root.parent)
    for name, count in (("my runs", 1), ("runs", 3), ("b", 0), (".hidden", 2)):
        for n in range(count):
            folder = OutputPaths(outputs.root.parent / name)
            record(folder, make_run(folder, stamp=f"2025010{n + 1}_000000"))
    (outputs.root.parent / "site").mkdir()
    (outputs.root.parent / "site" / "index.json").write_text('{"pages": 7}')

    assert ask() == (
        f"There are no runs in {outputs.root}. Make one: mlx run-experiment --config FILE\n"
        "my runs/ has 1: mlx history --output-dir 'my runs'\nruns/ has 3: mlx history --output-dir runs\n"
    )
    assert len(ask("--output-dir", "runs").splitlines()) == 4
    record(outputs, make_run(outputs))
    assert "--output-dir" not in ask()


def test_an_empty_folder_whose_index_cannot_be_mended_does_not_name_itself(
    outputs: OutputPaths, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.chdir(outputs.root.parent)
    run = make_run(outputs)
    record(outputs, run)
    shutil.rmtree(run.folder)
    outputs.index_lock.unlink()
    outputs.index_lock.mkdir()

    assert ask() == f"There are no runs in {outputs.root}. Make one: mlx run-experiment --config FILE\n"


def test_output_dir_is_found_from_here_and_from_the_root(
    lab: OutputPaths, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    root = lab.root.parent
    (root / ".git").mkdir()
    (root / "below").mkdir()
    everything = ask()
    monkeypatch.chdir(root / "below")

    assert ask() == ask("--output-dir", "outputs") == ask("--output-dir", "../outputs") == everything
    assert "There is no folder nowhere." in ask("--output-dir", "nowhere", code=1)


@pytest.mark.parametrize("word", ["outputs/tune-b/20250102_000000/", "tune-b/20250102_000000", "20250102_000000"])
def test_a_run_is_shown_by_path_name_or_timestamp(lab: OutputPaths, ask: Any, word: str) -> None:
    said = ask("show", word)

    assert [line.split() for line in said.splitlines()] == [
        ["folder", str(lab.root / "tune-b" / "20250102_000000")],
        ["status", "completed"],
        ["created_at", "2025-01-02T00:00:00.000000"],
        [],
        ["final", "metrics"], ["epoch", "10"], ["loss", "0.25"], ["val_accuracy", "0.25"],
        [],
        ["configuration"], ["name", "tune-b"], ["dataset.name", "d"], ["training.epochs", "3"],
        ["training.learning_rate", "0.2"],
        [],
        ["checkpoints"], ["checkpoint_epoch_1"], ["checkpoint_final"],
        [],
        ["evaluations"], ["checkpoint_final", "on", "test", "r2", "0.5"],
    ]  # fmt: skip


def test_a_run_of_another_output_folder_is_shown_by_its_path(
    lab: OutputPaths, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    other = OutputPaths(lab.root.parent / "runs")
    run = make_run(other, "far", config={"name": "far"}, summary=completed(0.125))
    loops = make_run(other, "autoresearch-t", run={"outcome": "ok", "metrics": {"val_bpb": 1.5}})

    facts = json.loads(ask("show", f"runs/far/{STAMP}/", "--json"))

    assert (facts["folder"], facts["final_metrics"]) == (str(run.folder), {"epoch": 10, "loss": 0.125})
    assert (facts["status"], facts["created_at"]) == ("completed", "2025-11-22T14:30:25.000000")
    assert "val_bpb  1.5" in ask("show", str(loops.folder))
    monkeypatch.chdir(run.folder)
    assert json.loads(ask("show", ".", "--json")) == facts
    assert sorted(item.name for item in other.root.iterdir()) == ["autoresearch-t", "far"]


def test_the_time_of_a_run_elsewhere_is_the_one_it_was_given(lab: OutputPaths, ask: Any) -> None:
    other = OutputPaths(lab.root.parent / "runs")
    record(other, make_run(other, "known", config={}), loss=1.0)
    copy = make_run(other, "copied", "by-hand", config={}, summary=completed(1.0))
    os.utime(copy.folder, (0, datetime(2025, 1, 2, 3, 4, 5).timestamp()))

    assert BEGAN.isoformat() in ask("show", f"runs/known/{STAMP}")
    assert "2025-01-02T03:04:05.000000" in ask("show", "runs/copied/by-hand")


def test_a_folder_that_is_no_run_is_not_shown(lab: OutputPaths, ask: Any) -> None:
    (lab.root.parent / "notes" / STAMP).mkdir(parents=True)

    assert "Run directory not found" in ask("show", f"notes/{STAMP}", code=1)
    assert "Run directory not found" in ask("show", "x" * 5000, code=1)


def test_checkpoints_and_evaluations_stand_in_the_order_of_their_epochs(lab: OutputPaths, ask: Any) -> None:
    run = make_run(lab, "many", config={"name": "many"})
    names = [*(f"checkpoint_epoch_{n}" for n in range(1, 121)), "checkpoint_final"]
    for name in reversed(names):
        (run.checkpoints / name).mkdir(parents=True)
        (run.checkpoints / name / "manifest.json").write_text("{}")
    for name in (
        "checkpoint_final.test",
        "checkpoint_epoch_10.val",
        "checkpoint_epoch_9.val",
        "checkpoint_epoch_9.test",
    ):
        checkpoint, _, split = name.partition(".")
        answer = {"checkpoint": checkpoint, "split": split, "metrics": {}}
        (run.checkpoints / f"{name}.json").write_text(json.dumps(answer))

    facts = json.loads(ask("show", STAMP, "--json"))
    said = ask("show", STAMP).splitlines()

    assert facts["checkpoints"] == names
    assert [(one["checkpoint"], one["split"]) for one in facts["evaluations"]] == [
        ("checkpoint_epoch_9", "test"), ("checkpoint_epoch_9", "val"), ("checkpoint_epoch_10", "val"),
        ("checkpoint_final", "test"),
    ]  # fmt: skip
    start = said.index("checkpoints")
    assert [line.strip() for line in said[start + 1 : start + 102]] == [
        *names[:50], "… and 21 more: --json", *names[-50:],
    ]  # fmt: skip


def test_show_speaks_json_and_says_why_and_how_sure(lab: OutputPaths, ask: Any) -> None:
    failed = json.loads(ask("show", "20250103_000000", "--json"))
    done = json.loads(ask("show", "tune-b/20250102_000000", "--json"))

    assert (failed["status"], failed["reason"], failed["checkpoints"]) == ("failed", "why", [])
    assert done["evaluations"][0]["metrics"] == {"r2": 0.5, "confusion_matrix": [[1]]}
    assert done["config"]["training"] == {"epochs": 3, "learning_rate": 0.2}
    assert "val_bpb  1.25 (self_reported)" in ask("show", "20250104_000000")


def test_a_word_that_names_no_run_gets_an_answer_that_helps(lab: OutputPaths, ask: Any) -> None:
    make_run(lab, "tune-b", "20250101_000000")

    assert "Did you mean 'tune-a/20250103_000000'" in ask("show", "tune-a/20250103_000001", code=1)
    assert "Name one of them" in ask("show", "20250101_000000", code=1)
    assert "Did you mean 'tune-a'?" in ask("--experiment", "tune-aa", code=1)
    assert "Did you mean 'loss'?" in ask("best", "--metric", "los", code=1)
    assert "list" in ask("lst", code=2)
    assert "Name two or more different ones" in ask("compare", "20250102_000000", "tune-b/20250102_000000", code=1)


def test_the_best_run_is_found_by_the_metrics_goal(lab: OutputPaths, ask: Any) -> None:
    assert ask("best").startswith("tune-b/20250102_000000: loss 0.25\n")
    assert ask("best", "--metric", "val_accuracy").startswith("tune-a/20250101_000000: val_accuracy 0.5\n")
    assert ask("best", "--goal", "maximize").startswith("tune-a/20250101_000000: loss 0.5\n")
    assert ask("best", "--metric", "val_bpb").startswith("autoresearch-t/20250104_000000: val_bpb 1.25\n")
    assert json.loads(ask("best", "--experiment", "tune-a", "--json"))["value"] == 0.5


def test_without_a_completed_run_there_is_no_best_and_the_counts_are_said(
    lab: OutputPaths, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    make_run(lab, "div", summary={"status": "diverged", "final_metrics": {"loss": None}})
    make_run(lab, "div", f"{STAMP}_2", summary={"status": "failed", "final_metrics": None})
    (lab.root.parent / "empty").mkdir()

    assert ask("best", "--experiment", "div", code=1) == (
        "Error: No completed run of 'div' (1 diverged, 1 failed). See why one ended: mlx history show RUN\n"
    )
    assert ask("best", "--output-dir", "empty", code=1).startswith("Error: There are no runs in empty. Make one:")
    for name in ("tune-a", "tune-b", "autoresearch-t"):
        shutil.rmtree(lab.root / name)
    assert f"No completed run in {lab.root} (1 diverged, 1 failed)." in ask("best", code=1)


@pytest.mark.parametrize("metric", ["mse", "rmse", "mae", "r2", "log_loss", "f1", "confusion_matrix"])
def test_a_metric_of_evaluations_has_no_best_and_it_is_said_where_it_stands(
    lab: OutputPaths, ask: Any, metric: str
) -> None:
    assert ask("best", "--experiment", "tune-a", "--metric", metric, code=1) == (
        f"Error: No completed run has {metric!r}: it is a metric of evaluations, and best goes by the final metrics of "
        "runs: loss, val_accuracy. Evaluations of a run: mlx history show RUN\n"
    )
    make_run(lab, "own", summary=completed(1.0, **{metric: 3.0}))
    assert ask("best", "--metric", metric, "--goal", "minimize").startswith(f"own/{STAMP}: {metric} 3\n")


def test_a_metric_without_a_known_goal_asks_for_one(lab: OutputPaths, ask: Any) -> None:
    make_run(lab, "own", summary=completed(1.0, wonder=3.0))
    make_run(lab, "own", f"{STAMP}_2", summary=completed(1.0, wonder=4.0, nothing=None))

    assert "--goal minimize or --goal maximize" in ask("best", "--metric", "wonder", code=1)
    assert ask("best", "--metric", "wonder", "--goal", "maximize").startswith(f"own/{STAMP}_2: wonder 4\n")
    make_run(lab, "stopped", summary={"status": "interrupted", "final_metrics": {"early": 1.0}})
    assert "No completed run has it." in ask("best", "--metric", "early", "--goal", "maximize", code=1)
    assert "finite 'nothing'" in ask("best", "--metric", "nothing", "--goal", "maximize", code=1)


def test_runs_are_compared_by_what_differs(lab: OutputPaths, ask: Any) -> None:
    said = ask("compare", "20250101_000000", "20250102_000000")

    assert [line.split() for line in said.splitlines()] == [
        ["tune-a/20250101_000000", "tune-b/20250102_000000"],
        ["status", "completed", "completed"],
        ["name", "tune-a", "tune-b"],
        ["training.learning_rate", "0.1", "0.2"],
        ["epoch", "10", "10"],
        ["loss", "(minimize)", "0.5", "0.25", "*"],
        ["val_accuracy", "(maximize)", "0.5", "*", "0.25"],
    ]
    told = json.loads(ask("compare", "20250101_000000", "20250104_000000", "--json"))
    assert told["metrics"]["val_bpb"] == {
        "values": [None, 1.25], "goal": "minimize", "best": "autoresearch-t/20250104_000000",
    }  # fmt: skip
    assert told["config"]["seed"] == [None, 7]
    make_run(lab, "equal", summary=completed(0.5))
    equal = json.loads(ask("compare", "20250101_000000", STAMP, "--json"))
    assert equal["metrics"]["loss"] == {"values": [0.5, 0.5], "goal": "minimize", "best": None}


def test_runs_of_two_output_folders_are_compared(lab: OutputPaths, ask: Any) -> None:
    other = OutputPaths(lab.root.parent / "runs")
    far = make_run(other, "tune-a", "20250101_000000", config={"name": "far"}, summary=completed(0.125))
    words = ("compare", "tune-a/20250101_000000", "runs/tune-a/20250101_000000")

    said, told = ask(*words), json.loads(ask(*words, "--json"))

    assert said.split()[:2] == ["tune-a/20250101_000000", "runs/tune-a/20250101_000000"]
    assert ["loss", "(minimize)", "0.5", "0.125", "*"] in [line.split() for line in said.splitlines()]
    assert told["metrics"]["loss"]["best"] == told["runs"][1]["label"] == "runs/tune-a/20250101_000000"
    assert [run["folder"] for run in told["runs"]] == [str(lab.root / "tune-a" / "20250101_000000"), str(far.folder)]
    assert "Name two or more different ones" in ask("compare", words[2], str(far.folder), code=1)


def test_rebuild_says_what_it_found(lab: OutputPaths, ask: Any) -> None:
    assert ask("rebuild") == f"{lab.index}: 4 runs (3 completed, 1 failed)\n"
    assert json.loads(ask("rebuild", "--json"))["statuses"] == {"completed": 3, "failed": 1}
    shutil.rmtree(lab.root)
    assert "There is no folder" in ask("rebuild", code=1)


def test_hostile_text_reaches_the_terminal_as_text(lab: OutputPaths, ask: Any) -> None:
    evil = "\x1b[2Jred\n\x07\u202ebell"
    config = {evil: {evil: evil}, "deep": [evil], "big": "HUGE"}
    summary = {"status": "completed", "reason": evil, "final_metrics": {evil: 1}}
    text = json.dumps(config).replace('"HUGE"', "1e999")
    run = make_run(lab, evil, config=text, summary=summary, run={"trust": {evil: evil}})
    run.checkpoints.mkdir()
    (run.checkpoints / f"{evil}.json").write_text(json.dumps({"checkpoint": evil, "split": 7, "metrics": {evil: 1}}))

    said = [ask(), ask("show", STAMP), ask("compare", STAMP, "20250101_000000")]
    said += [ask("show", evil, code=1), ask("best", "--metric", evil, code=1), ask("show", STAMP, "--json")]

    assert not {"\x1b", "\x07", "\u202e"} & set("".join(said))
    assert len(ask("list").splitlines()) == 6


def test_a_configuration_of_any_length_is_cut_on_the_terminal(lab: OutputPaths, ask: Any) -> None:
    make_run(lab, "long", config={f"k{n}": "x" * 1000 for n in range(500)})

    said = ask("show", STAMP)

    assert "… and 400 more: --json" in said
    assert max(map(len, said.splitlines())) < 300
    assert sum("xxx" in line for line in said.splitlines()) == 100


# ---- runs of the loop


def test_a_loops_run_is_in_the_history(project: Path) -> None:
    with session.start(project, "t", standin.PLAN) as running:
        loop.measure_baseline(running)
    entered = read(OutputPaths(project / "outputs"))

    runs = history.list_all_runs(project / "outputs" / "index.json")

    assert [(run["experiment"], run["status"]) for run in runs] == [("autoresearch-t", "completed")] * len(runs)
    assert runs and all((run["final_metrics"] or {})["val_bpb"] == 2.0 for run in runs)
    assert entered == runs


def test_a_loop_goes_on_when_its_runs_cannot_be_entered(project: Path) -> None:
    (project / "outputs" / ".index.lock").mkdir(parents=True)

    with session.start(project, "t", standin.PLAN) as running:
        loop.measure_baseline(running)

    assert not (project / "outputs" / "index.json").exists()
    assert states(OutputPaths(project / "outputs")) and set(states(OutputPaths(project / "outputs")).values()) == {
        "completed"
    }


def test_a_loops_run_counts_as_running_while_it_runs(project: Path) -> None:
    seen: list[dict[str, str]] = []

    class Looking(loop.Quiet):
        def tick(self, elapsed_s: float) -> None:
            seen.append(states(OutputPaths(project / "outputs")))

    (project / "train.py").write_text("import time\ntime.sleep(0.4)\n" + standin.TRAIN)
    standin.git(project, "commit", "-qam", "slow")
    with session.start(project, "t", standin.PLAN) as running:
        loop.measure_baseline(running, observer=Looking())

    assert seen and "running" in seen[0].values()
    assert set(states(OutputPaths(project / "outputs")).values()) == {"completed"}


def test_list_shows_the_metric_that_a_loop_goes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = OutputPaths(tmp_path / "outputs").experiment("autoresearch-mar5") / "20260305_120000"
    run.mkdir(parents=True)
    metrics = {"avg_tok_sec": 35000.0, "val_bpb": 2.25}
    (run / "run.json").write_text(json.dumps({"outcome": "ok", "metrics": metrics}))

    listed = CliRunner().invoke(cli.mlx, ["history", "list"]).output

    assert "val_bpb 2.25" in listed
