"""Trackers: each with its real library, without a network; and whatever a library does, the sweep goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from workspaces import LINEAR, Workspace

from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.trackers import TRACKERS, Tracker, export, make_tracker
from autoexperiment.trackers.base import Library, cleaned, run_of
from autoexperiment.trackers.tracker import lacking

LONG = "n" * 600
CURVES = [{"epoch": 1, "loss": 0.5, "lr": None}, {"epoch": 2, "loss": 0.25}]

MANY_STEPS = [{"epoch": n, "loss": float(n)} for n in range(1, 1002)]  # one more than MLflow takes in one call


def a_row(number: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"number": number, "trial": number, "rung": 0, "seed": 7, "params": {"training.lr": 0.1}, "status": "completed",
           "reason": "", "metrics": {"accuracy": 0.75}, "trust": {"accuracy": "recomputed"}, "seconds": 1.5,
           "run_dir": f"outputs/lr/20261121_00000{number}"}  # fmt: skip
    return {**row, **changes}


def a_failed_row(number: int, **changes: Any) -> dict[str, Any]:
    return a_row(number, **{"status": "failed", "reason": "It broke.", "metrics": {}, "trust": {}, **changes})


def tell(tracker: Tracker, *rows: dict[str, Any], sweep: str = "lr") -> None:
    """A whole sweep, as far as a tracker sees it."""
    tracker.begin(sweep, {"metric": "accuracy"})
    for row in rows:
        tracker.ended(row, MANY_STEPS if row["number"] == 4 else CURVES)
    tracker.close()


def remembered(tracker: Tracker) -> list[str]:
    return [json.loads(line)["point"] for line in tracker.tracked.read_text().splitlines()]


# --- the real libraries: four points, one of which failed at both of its attempts

# Names that one library or another refuses, and values that none of them keeps.
NASTY = a_row(
    2,
    params={"a b=c?": "x\n\x1b[31my", "a b=c!": [1, 2], "_x": None, "ä/../x//": True, LONG: 1, LONG + "2": 2},
    metrics={"step": 1.0, "top 1 (%)": 2.0, "bad": None, "worse": float("nan"), "/m/": 3.0},
    trust={},
    seed=None,
)
POINTS = [a_row(1), NASTY, a_failed_row(3, run_dir="outputs/lr/first"), a_failed_row(3, run_dir="outputs/lr/second"),
          a_row(4, params={f"p{n}": n for n in range(101)})]  # fmt: skip


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tracker]:
    """The sweep in a tracker; made once for each library, in an environment without a home and without a network."""
    done: dict[str, Tracker] = {}

    def make(name: str) -> Tracker:
        if name not in done:
            if (lack := lacking(name)) and os.environ.get("REQUIRE_ENGINES") != "1":
                pytest.skip(lack)
            done[name] = track_without_network(name, tmp_path_factory.mktemp(name))
        return done[name]

    return make


def track_without_network(name: str, folder: Path) -> Tracker:
    faults: list[str] = []
    with pytest.MonkeyPatch.context() as patch, socket.create_server(("127.0.0.1", 0)) as proxy:
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        for variable in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(variable, address)
        for variable in ("HOME", "WANDB_MODE", "WANDB_API_KEY", "NO_PROXY", "no_proxy"):
            patch.delenv(variable, raising=False)
        tracker = make_tracker(name, folder=folder / "trackers", options={}, say=faults.append)

        tell(tracker, *POINTS)

        assert faults == [], tracker.log.read_text()
        proxy.settimeout(0)
        with pytest.raises(BlockingIOError):  # nobody has called
            proxy.accept()
    return tracker


@pytest.mark.parametrize("name", TRACKERS)
def test_each_point_is_tracked_once_and_remembered(name: str, tracked: Callable[[str], Tracker]) -> None:
    tracker = tracked(name)

    assert remembered(tracker) == [row["run_dir"] for row in POINTS]


def python(code: str, *arguments: object, **environment: str) -> Any:
    """What a library's own reader prints as JSON, in a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout.splitlines()[-1])


MLFLOW_READER = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
(experiment,) = [e for e in client.search_experiments() if e.name == "lr"]
runs = client.search_runs([experiment.experiment_id])
print(json.dumps({run.info.run_name: {
    "status": run.info.status, "params": run.data.params, "metrics": run.data.metrics, "tags": run.data.tags,
    "seconds": (run.info.end_time - run.info.start_time) / 1000,
    "curve": [[m.step, m.value] for m in client.get_metric_history(run.info.run_id, "curves/loss")],
} for run in runs}))
"""


def test_mlflow_has_the_points_as_its_client_reads_them(tracked: Callable[[str], Tracker]) -> None:
    folder = tracked("mlflow").tracked.parent / "mlflow"

    runs = python(MLFLOW_READER, f"sqlite:///{folder}/mlflow.db", MLFLOW_DISABLE_TELEMETRY="true")

    assert runs.keys() == {"lr-1", "lr-2", "lr-3", "lr-4"}
    first, nasty, failed = (runs[f"lr-{n}"] for n in (1, 2, 3))
    assert first["params"] == {"training.lr": "0.1", "seed": "7"}
    assert first["metrics"] == {"accuracy": 0.75, "seconds": 1.5, "curves/loss": 0.25}
    assert (first["status"], first["seconds"], first["curve"]) == ("FINISHED", 1.5, [[1, 0.5], [2, 0.25]])
    assert first["tags"]["sweep.trust.accuracy"] == "recomputed"
    assert nasty["params"] == {"a b_c_": "x y", "a b_c__2": "[1, 2]", "_x": "null", "ä/x": "True", "n" * 240: "1",
                               "n" * 240 + "_2": "2"}  # fmt: skip
    assert nasty["metrics"] == {"step": 1.0, "top 1 ___": 2.0, "m": 3.0, "seconds": 1.5, "curves/loss": 0.25}
    assert (failed["status"], failed["tags"]["sweep.reason"]) == ("FAILED", "It broke.")
    assert failed["tags"]["sweep.run_dir"] == "outputs/lr/second"
    assert (len(runs["lr-4"]["params"]), len(runs["lr-4"]["curve"])) == (102, 1001)


TRACKIO_READER = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
runs = list(trackio.Api().runs("lr"))
print(json.dumps([[run.name, run.config, SQLiteStorage.get_logs("lr", run.name)] for run in runs]))
"""


def test_trackio_has_the_points_as_its_api_reads_them(tracked: Callable[[str], Tracker]) -> None:
    folder = tracked("trackio").tracked.parent / "trackio"

    runs = python(TRACKIO_READER, TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1")

    assert [name for name, _, _ in runs] == ["lr-1", "lr-2", "lr-3", "lr-4"]
    (_, config, log), (_, nasty, nasty_log), (_, failed, failed_log), (_, many, many_log) = runs
    assert (config["training.lr"], config["seed"], config["sweep.trust.accuracy"]) == (0.1, 7, "recomputed")
    assert [(entry["step"], entry["curves/loss"]) for entry in log[:2]] == [(1, 0.5), (2, 0.25)]
    assert (log[2]["accuracy"], log[2]["seconds"]) == (0.75, 1.5)
    assert (nasty["a b=c?"], nasty["a b=c!"], nasty["x"]) == ("x y", "[1, 2]", "null")
    assert (nasty_log[2]["step_"], nasty_log[2]["top 1 (%)"]) == (1.0, 2.0)
    assert not {"bad", "worse"} & nasty_log[2].keys()
    assert (failed["sweep.status"], failed["sweep.reason"]) == ("failed", "It broke.")
    assert failed["sweep.run_dir"] == "outputs/lr/second"
    assert len(failed_log) == 3
    assert (many["p100"], len(many_log)) == (100, 1002)


def test_wandb_has_the_points_in_offline_runs(tracked: Callable[[str], Tracker]) -> None:
    folder = tracked("wandb").tracked.parent / "wandb" / "wandb"

    found = [wandb_run(path) for path in folder.glob("offline-run-*/run-*.wandb")]

    runs = dict(found)
    assert len(found) == 4
    assert runs.keys() == {"lr-1", "lr-2", "lr-3", "lr-4"}
    first, nasty, failed = (runs[f"lr-{n}"] for n in (1, 2, 3))
    assert (first["config"]["training.lr"], first["config"]["seed"], first["exit"]) == (0.1, 7, 0)
    assert [(line["_step"], line["curves/loss"]) for line in first["history"]] == [(1, 0.5), (2, 0.25)]
    assert (first["summary"]["accuracy"], first["summary"]["seconds"]) == (0.75, 1.5)
    assert (first["project"], first["group"]) == ("lr", "lr")
    assert (nasty["config"]["a b=c!"], nasty["summary"]["step"]) == ("[1, 2]", 1.0)
    assert not {"bad", "worse"} & nasty["summary"].keys()
    assert (failed["exit"], failed["config"]["sweep.reason"]) == (1, "It broke.")
    assert failed["config"]["sweep.run_dir"] == "outputs/lr/second"
    assert (runs["lr-4"]["config"]["p100"], len(runs["lr-4"]["history"])) == (100, 1001)


def wandb_run(path: Path) -> tuple[str, dict[str, Any]]:
    """A run in W&B's own records."""
    from wandb.proto import wandb_internal_pb2

    found: dict[str, Any] = {"history": [], "summary": {}, "config": {}}
    for blob in wandb_records(path.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(blob)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"name": record.run.display_name, "project": record.run.project, "group": record.run.run_group}
            found["config"] |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "history":
            found["history"].append(wandb_items(record.history.item))
        elif kind == "summary":
            found["summary"] |= wandb_items(record.summary.update)
        elif kind == "exit":
            found["exit"] = record.exit.exit_code
    return found["name"], found


def wandb_items(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_records(blob: bytes) -> Iterator[bytes]:
    """The format of LevelDB's log, after a head of 7 bytes: blocks of 32 KiB, pieces with checksum, length and type."""
    at, record = 7, b""
    while at + 7 <= len(blob):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", blob, at)
        record += blob[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def test_tensorboard_has_the_points_in_event_files(tracked: Callable[[str], Tracker]) -> None:
    folder = tracked("tensorboard").tracked.parent / "tensorboard"

    found = list(folder.glob("*/events.*"))

    runs = {path.parent.name: tensorboard_run(path) for path in found}
    assert len(found) == 4
    assert runs.keys() == {"lr-1", "lr-2", "lr-3", "lr-4"}
    first, nasty, failed = (runs[f"lr-{n}"] for n in (1, 2, 3))
    assert first["scalars"]["curves/loss"] == [(1, 0.5), (2, 0.25)]
    assert (first["scalars"]["accuracy"], first["scalars"]["seconds"]) == ([(0, 0.75)], [(0, 1.5)])
    assert (first["hparams"]["training.lr"], first["hparams"]["seed"]) == (0.1, 7.0)
    assert (first["status"], failed["status"]) == ("STATUS_SUCCESS", "STATUS_FAILURE")
    assert (nasty["hparams"]["a_b_c_"], nasty["hparams"]["a_b_c__2"]) == ("x y", "[1, 2]")
    assert nasty["scalars"].keys() == {"step", "top_1____", "m/", "seconds", "curves/loss"}
    assert failed["hparams"]["sweep.run_dir"] == "outputs/lr/second"
    assert (runs["lr-4"]["hparams"]["p100"], len(runs["lr-4"]["scalars"]["curves/loss"])) == (100, 1001)


def tensorboard_run(path: Path) -> dict[str, Any]:
    """A run in tensorboardX's own protocol buffers."""
    from tensorboardX.proto import api_pb2, event_pb2, plugin_hparams_pb2

    found: dict[str, Any] = {"scalars": {}}
    for blob in tensorboard_records(path.read_bytes()):
        event = event_pb2.Event.FromString(blob)
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name != "hparams":
                found["scalars"].setdefault(value.tag, []).append((event.step, round(scalar(value), 6)))
                continue
            content = plugin_hparams_pb2.HParamsPluginData.FromString(value.metadata.plugin_data.content)
            if content.HasField("session_start_info"):
                kinds = content.session_start_info.hparams.items()
                found["hparams"] = {name: getattr(item, item.WhichOneof("kind")) for name, item in kinds}
            if content.HasField("session_end_info"):
                found["status"] = api_pb2.Status.Name(content.session_end_info.status)
    return found


def scalar(value: Any) -> float:
    return value.simple_value if value.WhichOneof("value") == "simple_value" else value.tensor.float_val[0]


def tensorboard_records(blob: bytes) -> Iterator[bytes]:
    """The format of TFRecord: length, its checksum, bytes, their checksum."""
    at = 0
    while at < len(blob):
        (length,) = struct.unpack_from("<Q", blob, at)
        yield blob[at + 12 : at + 12 + length]
        at += 12 + length + 4


# --- libraries that misbehave


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a module of one's own in the place of a tracker's library, in the processes that are started from now on."""

    def put(name: str, code: str) -> None:
        folder = tmp_path / "libraries"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return put


class Line(list[str]):
    """What a tracker says, and in which thread."""

    def __call__(self, text: str) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.append(text)


def a_tracker(
    folder: Path, say: Callable[[str], None], *, name: str = "tensorboard", patience_s: float | None = 60
) -> Tracker:
    return Tracker(name, folder=folder / "trackers", options={}, say=say, patience_s=patience_s)


WRITER = """
class SummaryWriter:
    def __init__(self, logdir):
        {fault}
"""


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (WRITER.format(fault="raise OSError(28, 'No space left on device')"), "No space left on device"),
        (WRITER.format(fault="import os; os._exit(3)"), "ended without an answer"),
        (WRITER.format(fault="import os; os.kill(os.getpid(), 9)"), "ended without an answer"),
        (WRITER.format(fault="raise OSError('one' + chr(10) + 'two' + 'x' * 1000)"), "OSError: one two"),
        ("raise ImportError('libfoo.so is missing')", "libfoo.so is missing"),
        ("import sys; sys.exit(0)", "ended without an answer"),
    ],
)
def test_a_fault_of_the_library_is_told_once_and_switches_the_tracker_off(
    code: str, told: str, library: Callable[..., None], tmp_path: Path
) -> None:
    library("tensorboardX", code)
    said = Line()
    tracker = a_tracker(tmp_path, said)

    tell(tracker, a_row(1), a_row(2), a_row(3))
    tracker.ended(a_row(4), [])
    tracker.close()

    (text,) = said
    assert told in text and "\n" not in text and len(text) < 1000
    assert text.startswith("Tracker tensorboard is switched off: ")
    assert text.endswith("mlx sweep export lr --format tensorboard")
    assert not tracker.tracked.exists()


def test_a_library_that_hangs_is_ended_with_all_it_started(library: Callable[..., None], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    library(
        "tensorboardX",
        "import os, pathlib, subprocess, time\nchild = subprocess.Popen(['sleep', '60'])\n"
        f"pathlib.Path({str(tmp_path / 'part')!r}).write_text(str(child.pid))\n"
        f"os.rename({str(tmp_path / 'part')!r}, {str(pid)!r})\ntime.sleep(60)\n",
    )
    said = Line()
    tracker = a_tracker(tmp_path, said, patience_s=0.1)
    tracker.begin("lr", {})
    tracker.ended(a_row(1), [])
    while not pid.exists():
        time.sleep(0.01)

    tracker.close()

    assert len(said) == 1 and "not done 0.1 s after" in said[0]
    assert not is_alive(int(pid.read_text()))


def test_a_library_that_dies_between_two_points_is_told(library: Callable[..., None], tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    code = f"import os\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\n"
    library("tensorboardX", KEEPS.format(place=str(tmp_path / "kept")) + code)
    said = Line()
    tracker = a_tracker(tmp_path, said)
    tracker.begin("lr", {})
    tracker.ended(a_row(1), [])
    while not tracker.tracked.exists() or not remembered(tracker):
        time.sleep(0.01)
    os.kill(int(pid.read_text()), signal.SIGKILL)
    while is_alive(int(pid.read_text())):
        time.sleep(0.01)

    tracker.ended(a_row(2), [])
    tracker.close()

    assert len(said) == 1


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_library_that_prints_does_so_in_the_log(
    library: Callable[..., None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    library("tensorboardX", "import os\nprint('loud')\nos.system('echo louder')\n" + WRITER.format(fault="1 / 0"))
    tracker = a_tracker(tmp_path, Line())

    tell(tracker, a_row(1))

    assert capfd.readouterr() == ("", "")
    assert {"loud", "louder"} <= set(tracker.log.read_text().splitlines())


def test_the_library_is_out_of_reach_of_the_terminals_interrupt(library: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "session"
    library("tensorboardX", f"import os, pathlib\npathlib.Path({str(place)!r}).write_text(str(os.getsid(0)))\n")

    tell(a_tracker(tmp_path, Line()), a_row(1))

    assert int(place.read_text()) != os.getsid(0)


def test_modules_of_the_users_folder_are_not_taken_for_libraries(
    kept: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "tensorboardX.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path / "project")
    said = Line()

    tell(a_tracker(tmp_path, said), a_row(1))

    assert (kept(), said) == (["lr-1"], [])


MLFLOW = """
class MlflowClient:
    def __init__(self, tracking_uri): self.uri = tracking_uri
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name, artifact_location): return "1"
    def search_runs(self, experiments, query): return []
    def create_run(self, *given, **how):
        self.info, self.run_id = self, "1"
        return self
    def set_terminated(self, *given, **how): pass
    def log_batch(self, run_id, metrics=(), params=()):
        with open({place!r}, "a") as file: print(self.uri, len(metrics), len(params), file=file)
"""


def test_mlflow_gets_no_more_at_once_than_a_server_takes(library: Callable[..., None], tmp_path: Path) -> None:
    place = tmp_path / "calls"
    library("mlflow/__init__", MLFLOW.format(place=str(place)))
    library("mlflow/entities", "Metric = Param = RunTag = lambda *given: given")
    options = {"uri": "http://server"}
    tracker = Tracker("mlflow", folder=tmp_path / "trackers", options=options, say=Line(), patience_s=60)

    tell(tracker, a_row(4, params={f"p{n}": n for n in range(101)}))  # 102 with the seed; 1003 metrics in 1001 steps

    calls = ["0 100", "0 2", "1000 0", "3 0"]
    assert place.read_text().splitlines() == [f"http://server {sizes}" for sizes in calls]


TRACKIO = """
class Run:
    def log(self, values, step): pass
class Api:
    def runs(self, project): raise ValueError("no such project")
def init(**how): return Run()
def finish(): pass
"""


def test_a_run_that_trackio_did_not_keep_is_a_fault(library: Callable[..., None], tmp_path: Path) -> None:
    library("trackio", TRACKIO)
    said = Line()

    tell(a_tracker(tmp_path, said, name="trackio"), a_row(1))

    assert len(said) == 1 and "did not keep the run lr-1" in said[0]


def test_a_folder_that_cannot_be_used_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    (tmp_path / "trackers").write_text("in the way")
    said = Line()

    tell(a_tracker(tmp_path, said), a_row(1))

    assert len(said) == 1 and "can't be used" in said[0]


def test_a_log_that_cannot_be_written_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    (tmp_path / "trackers" / "tensorboard.log").mkdir(parents=True)
    said = Line()

    tell(a_tracker(tmp_path, said), a_row(1), a_row(2))

    assert len(said) == 1 and "can't be started" in said[0]


def test_a_tracker_that_was_told_of_nothing_starts_no_process(tmp_path: Path) -> None:
    tracker = a_tracker(tmp_path, Line())

    tell(tracker)

    assert not tracker.log.exists()


# --- resumption

KEEPS = """
import pathlib
class FileWriter:
    def add_summary(self, summary): pass
class SummaryWriter:
    file_writer = FileWriter()
    def __init__(self, logdir):
        with open({place!r}, "a") as file: file.write(pathlib.Path(logdir).name + "\\n")
    def __enter__(self): return self
    def __exit__(self, *fault): pass
    def add_scalar(self, name, value, step): pass
class summary:
    def hparams(values, metrics): return (0, 0, 0)
"""


@pytest.fixture
def kept(library: Callable[..., None], tmp_path: Path) -> Callable[[], list[str]]:
    """Names of the runs that a library was given, in order."""
    place = tmp_path / "kept"
    library("tensorboardX", KEEPS.format(place=str(place)))
    return lambda: place.read_text().splitlines() if place.exists() else []


def test_a_point_that_was_tracked_is_not_tracked_again(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    tell(a_tracker(tmp_path, Line()), a_row(1), a_row(2))

    tell(a_tracker(tmp_path, Line()), a_row(1), a_row(2), a_row(3))

    assert kept() == ["lr-1", "lr-2", "lr-3"]


def test_a_point_that_is_told_twice_is_tracked_once(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    tell(a_tracker(tmp_path, Line()), a_row(1), a_row(1))

    assert kept() == ["lr-1"]


def test_half_a_line_that_a_kill_left_does_not_count(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    tracker = a_tracker(tmp_path, Line())
    tell(tracker, a_row(1), a_row(2))
    tracker.tracked.write_text(tracker.tracked.read_text()[:-20])

    tell(a_tracker(tmp_path, Line()), a_row(1), a_row(2))

    assert kept() == ["lr-1", "lr-2", "lr-2"]


def test_half_a_run_that_a_kill_left_is_replaced(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    half = tmp_path / "trackers" / "tensorboard" / "lr-1" / "events.half"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")

    tell(a_tracker(tmp_path, Line()), a_row(1))

    assert kept() == ["lr-1"] and not half.exists()


def test_a_damaged_memory_is_none(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    tracker = a_tracker(tmp_path, Line())
    tracker.tracked.parent.mkdir()
    tracker.tracked.write_bytes(b"\xff\xfe\n[]\n{}\n1\n")

    tell(tracker, a_row(1))

    assert kept() == ["lr-1"]


def test_a_point_that_failed_to_be_tracked_is_tracked_next_time(
    library: Callable[..., None], kept: Callable[[], list[str]], tmp_path: Path
) -> None:
    library("tensorboardX", WRITER.format(fault="raise OSError('full')"))
    tell(a_tracker(tmp_path, Line()), a_row(1))
    library("tensorboardX", KEEPS.format(place=str(tmp_path / "kept")))

    tell(a_tracker(tmp_path, Line()), a_row(1))

    assert kept() == ["lr-1"]


@pytest.mark.parametrize("status", ["interrupted", "running"])
def test_a_point_that_will_be_run_again_is_not_tracked(
    status: str, kept: Callable[[], list[str]], tmp_path: Path
) -> None:
    tell(a_tracker(tmp_path, Line()), a_row(1, status=status), a_row(2))

    assert kept() == ["lr-2"]


def test_a_point_that_never_had_a_run_directory_is_tracked_again_when_it_has_one(
    kept: Callable[[], list[str]], tmp_path: Path
) -> None:
    nothing = a_row(1, run_dir="", key="0123")

    tell(a_tracker(tmp_path, Line()), nothing, nothing, a_row(1))

    assert kept() == ["lr-1", "lr-1"]


def test_sweeps_of_one_name_are_told_apart_where_they_are_sent_to_one_place(
    library: Callable[..., None], tmp_path: Path
) -> None:
    place = tmp_path / "identities"
    library("mlflow/__init__", IDENTITIES.format(place=str(place)))
    library("mlflow/entities", "Metric = Param = RunTag = lambda *given: given")

    for folder, row in (
        ("here", a_row(1, key="a")),
        ("there", a_row(1, key="a")),  # another workspace
        ("here", a_row(1, key="b", run_dir="outputs/lr/later")),  # begun anew from another base
        ("here", a_row(7, key="a", run_dir="outputs/lr/again")),  # another attempt
    ):
        tell(Tracker("mlflow", folder=tmp_path / folder, options={}, say=Line(), patience_s=60), row)

    first, elsewhere, anew, again = place.read_text().split()
    assert len({first, elsewhere, anew}) == 3
    assert again == first


IDENTITIES = """
class MlflowClient:
    def __init__(self, tracking_uri): pass
    def get_experiment_by_name(self, name): return None
    def create_experiment(self, name, artifact_location): return "1"
    def search_runs(self, experiments, query): return []
    def create_run(self, *given, tags, **how):
        with open({place!r}, "a") as file: print(tags["autoexperiment.point"], file=file)
        self.info, self.run_id = self, "1"
        return self
    def set_terminated(self, *given, **how): pass
    def log_batch(self, *given, **how): pass
"""


# --- the environment of a library


TELLS = "import json, os, pathlib\npathlib.Path({place!r}).write_text(json.dumps(dict(os.environ)))\n"


@pytest.mark.parametrize(("given_mode", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_is_offline_unless_the_user_has_said_otherwise(
    given_mode: str | None, mode: str, library: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if given_mode:
        monkeypatch.setenv("WANDB_MODE", given_mode)
    library("wandb", TELLS.format(place=str(tmp_path / "environment")))

    tell(a_tracker(tmp_path, Line(), name="wandb"), a_row(1))

    assert json.loads((tmp_path / "environment").read_text())["WANDB_MODE"] == mode


def test_trackio_keeps_everything_below_the_sweeps_folder(
    library: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/somewhere")
    monkeypatch.setenv("TRACKIO_DIR", "/elsewhere")
    library("trackio", TELLS.format(place=str(tmp_path / "environment")))

    tell(a_tracker(tmp_path, Line(), name="trackio"), a_row(1))

    found = json.loads((tmp_path / "environment").read_text())
    assert (found["TRACKIO_DIR"], found["HF_HUB_OFFLINE"]) == (str(tmp_path / "trackers" / "trackio"), "1")
    assert "TRACKIO_SPACE_ID" not in found


def test_mlflow_reports_nothing_about_its_use(library: Callable[..., None], tmp_path: Path) -> None:
    library("mlflow", TELLS.format(place=str(tmp_path / "environment")))

    tell(a_tracker(tmp_path, Line(), name="mlflow"), a_row(1))

    assert json.loads((tmp_path / "environment").read_text())["MLFLOW_DISABLE_TELEMETRY"] == "true"


# --- how a tracker is asked for


def test_an_unknown_tracker_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Did you mean 'mlflow'"):
        make_tracker("mlflw", folder=tmp_path, options={}, say=print)


@pytest.mark.parametrize(
    ("options", "told"), [({"projct": "x"}, "Unknown option 'projct'"), ({"project": " "}, "not empty")]
)
def test_an_option_that_a_tracker_lacks_is_refused(options: Mapping[str, str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        make_tracker("wandb", folder=tmp_path, options=options, say=print)


def test_a_tracker_that_is_named_twice_is_told_once(tmp_path: Path) -> None:
    if lack := lacking("tensorboard"):
        pytest.skip(lack)
    sweep = {"name": "lr", "base": {**LINEAR, "training": {"epochs": 1}}, "parameters": {"training.seed": [1]},
             "metric": "val_loss"}  # fmt: skip

    with Workspace.of(tmp_path) as place:
        twice = ("--track", "tensorboard", "--track", "tensorboard")
        place.mlx("sweep", "run", "--config", place.write(sweep), *twice)

    (tracked,) = tmp_path.rglob("tracked.tensorboard.jsonl")
    assert len(tracked.read_text().splitlines()) == 1


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "wandb", Library("no_such_module", "wandb", (1,), ""))

    with pytest.raises(HarnessError, match=r"no_such_module, which is not installed.*autoexperiment\[track\]"):
        make_tracker("wandb", folder=tmp_path, options={}, say=print)


def test_a_part_that_a_library_does_not_bring_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "mlflow", Library("pytest", "pytest", (1,), "", ("no_such_module",)))

    assert "needs no_such_module" in lacking("mlflow")


def test_an_old_library_is_refused_before_it_can_break(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "trackio", Library("pytest", "pytest", (9999, 1), ""))

    assert "pytest 9999.1 or newer" in lacking("trackio")


def test_asking_for_a_tracker_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom autoexperiment.trackers import make_tracker, TRACKERS\n"
        "from autoexperiment.trackers.tracker import lacking\n"
        "[lacking(name) for name in TRACKERS]\n"
        "print(sorted({'trackio', 'wandb', 'mlflow', 'tensorboardX', 'pandas', 'numpy'} & set(sys.modules)))\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.stdout == "[]\n", answer.stderr


# --- exports


def test_an_export_is_a_file_or_a_tracker(kept: Callable[[], list[str]], tmp_path: Path) -> None:
    rows = [a_row(1), a_failed_row(2)]

    export(rows, "csv", tmp_path / "results.csv")
    export(rows, "parquet", tmp_path / "results.parquet")

    assert len((tmp_path / "results.csv").read_text().splitlines()) == 3
    assert (tmp_path / "results.parquet").read_bytes()[:4] == b"PAR1"


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown format 'xlsx'\. Known: csv, parquet, trackio, wandb"):
        export([], "xlsx", tmp_path / "x")


def test_an_export_adds_what_a_tracker_lacks(
    kept: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", Library("pytest", "pytest", (1,), TRACKERS["tensorboard"].adapter))
    folder = tmp_path / "trackers"
    tell(a_tracker(tmp_path, Line()), a_row(1))

    export([a_row(1), a_row(2)], "tensorboard", folder, sweep_name="lr", curves_of=lambda row: CURVES)

    assert kept() == ["lr-1", "lr-2"]


def test_an_export_that_fails_says_so(
    library: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", Library("pytest", "pytest", (1,), TRACKERS["tensorboard"].adapter))
    library("tensorboardX", WRITER.format(fault="raise OSError('full')"))

    with pytest.raises(HarnessError, match="OSError: full"):
        export([a_row(1)], "tensorboard", tmp_path / "trackers", sweep_name="lr")


# --- a point as trackers see it


def test_numbers_that_are_not_finite_are_left_out() -> None:
    row = a_row(metrics={"a": 1, "b": None, "c": float("nan"), "d": float("inf"), "e": True})

    run = run_of(row, [{"epoch": 1, "x": float("nan")}, {"epoch": 2, "x": 3}], sweep="lr", facts={})

    assert run.metrics == {"a": 1.0, "seconds": 1.5}
    assert run.series == [(2, {"curves/x": 3.0})]


def test_steps_are_the_curves_own_or_counted() -> None:
    run = run_of(a_row(), [{"step": 10, "x": 1}, {"epoch": 20, "x": 2}, {"x": 3}], sweep="lr", facts={})

    assert [step for step, _ in run.series] == [10, 20, 3]


def test_a_parameter_or_metric_of_our_own_name_stays_beside_ours() -> None:
    row = a_row(params={"seed": 1}, metrics={"seconds": 9.0})

    run = run_of(row, [], sweep="lr", facts={})

    assert run.params == {"seed": 1, "sweep.seed": 7}
    assert run.metrics == {"seconds": 9.0, "sweep.seconds": 1.5}


def test_facts_say_what_the_point_is_and_how_its_numbers_were_obtained() -> None:
    run = run_of(a_failed_row(3, trust={"loss": "measured"}), [], sweep="lr", facts={"sampler": "tpe"})

    assert run.facts == {
        "sweep.name": "lr",
        "sweep.sampler": "tpe",
        "sweep.number": 3,
        "sweep.trial": 3,
        "sweep.rung": 0,
        "sweep.status": "failed",
        "sweep.reason": "It broke.",
        "sweep.run_dir": "outputs/lr/20261121_000003",
        "sweep.trust.loss": "measured",
    }
    assert (run.name, run.is_ok) == ("lr-3", False)


@given(st.dictionaries(st.text(max_size=3), st.integers()))
def test_cleaning_names_loses_no_value(values: dict[str, int]) -> None:
    found = cleaned(values, lambda name: name[:1])

    assert list(found.values()) == list(values.values())
