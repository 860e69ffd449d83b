"""The history: `index.json` of an output folder, with one entry for each run directory. This module is its one writer.

The index is a view, the run directories are the truth. What it misses, has too much, or says wrongly after a kill is
mended whenever it is read; a lost or damaged one is made again. What else is called `index.json` is left as it is, and
nothing is entered beside it. A run directory is a real folder (no link) `<experiment>/<timestamp>`; the entry of one
that was removed goes with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import Any, TypedDict

from autoexperiment.errors import HarnessError, Locked
from autoexperiment.files import Lock, load_json, lock_holder, read_plain, write_atomic
from autoexperiment.paths import OutputPaths, RunPaths
from autoexperiment.vocabulary import Goal, Outcome, RunStatus

WRITE_LOCK_S = 60.0
READ_LOCK_S = 2.0  # a reader that finds the index in use shows what is true, and leaves the mending to the next one
TOUCH_S = 2.0  # how long a reader of the history may have a run's lock
INDEX_BYTES = 256_000_000
FILE_BYTES = 1_000_000  # of a file in a run directory
MOST_METRICS, NAME_CHARACTERS = 64, 100
_STAMP = re.compile(r"([0-9]{8}_[0-9]{6})(?:_([0-9]{1,4}))?")
_HEAD, _FOOT = '{"runs": [', "]}"  # of the index's text, with a line for each entry between them
_BEGIN = re.sub(r"\s", "", _HEAD).encode()
_ROW = re.compile(rb'^\{"experiment": "[^\n]*"run_dir": "', re.MULTILINE)
_NUMBERS = frozenset((int, float, type(None)))
_CREATED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}")
_STATUSES = frozenset(str(status) for status in RunStatus)
_ENDED = tuple(status for status in RunStatus if status is not RunStatus.RUNNING)

Metrics = dict[str, float | None]


class Entry(TypedDict):
    """A run in the index. `created_at`: local time; `final_metrics`: None before the end, null for NaN and infinity."""

    experiment: str
    timestamp: str
    run_dir: str
    created_at: str
    status: str
    final_metrics: Metrics | None


# ---- what is read: bounded, and believed only as far as it has the right shape


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a run directory, or {} when there is none that can be understood."""
    blob = read_plain(path, FILE_BYTES)
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(blob or b"", parse_constant=lambda _: None, parse_float=lambda text: number(float(text)))
        return value if isinstance(value, dict) else {}
    return {}


def number(value: object) -> float | None:
    """A finite number as it is; None for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    with contextlib.suppress(OverflowError):
        return value if math.isfinite(value) else None
    return None


def _metrics(value: object) -> Metrics | None:
    if not isinstance(value, Mapping):
        return None
    names = [name for name in value if isinstance(name, str) and len(name) <= NAME_CHARACTERS]
    return {name: number(value[name]) for name in names[:MOST_METRICS]}


def _is_entry(value: Any) -> bool:
    """Whether this is an entry as `record_run` makes them; ten thousand are looked at for one listing."""
    if type(value) is not dict or value.keys() != Entry.__annotations__.keys():
        return False
    experiment, timestamp, created_at = value["experiment"], value["timestamp"], value["created_at"]
    return (
        type(experiment) is type(timestamp) is type(created_at) is type(value["status"]) is str
        and value["run_dir"] == f"{experiment}/{timestamp}"
        and value["status"] in _STATUSES
        and _CREATED.fullmatch(created_at) is not None
        and _is_metrics(value["final_metrics"])
    )


def _is_metrics(value: Any) -> bool:
    if type(value) is not dict:
        return value is None
    numbers = value.values()
    return _NUMBERS.issuperset(map(type, numbers)) and math.inf not in numbers and -math.inf not in numbers


@dataclass(frozen=True)
class _Index:
    """The index as it stands there.

    Attributes:
        is_damaged: a file is there, and it is not as this module writes them.
        is_foreign: it never was one of this module's, either.
    """

    entries: dict[str, Entry]
    count: int = 0
    is_damaged: bool = False
    is_foreign: bool = False

    def says(self, found: Sequence[Entry]) -> bool:
        """Whether it says this, in any order."""
        same = self.count == len(found) and all(self.entries.get(entry["run_dir"]) == entry for entry in found)
        return same and not self.is_damaged


def _read(outputs: OutputPaths) -> _Index:
    blob = read_plain(outputs.index, INDEX_BYTES)
    runs = None if blob is None else _listed_runs(blob)
    if runs is not None and all(map(_is_entry, runs)):
        return _Index({run["run_dir"]: run for run in runs}, len(runs))
    return _Index({}, is_damaged=os.path.lexists(outputs.index), is_foreign=_is_foreign(outputs))


def _listed_runs(blob: bytes) -> list[Any] | None:
    """The list of runs in an index's bytes; None when there is none."""
    with contextlib.suppress(ValueError, RecursionError, LookupError, TypeError, OverflowError):
        runs = load_json(blob)["runs"]
        return runs if isinstance(runs, list) else None
    return None


def _is_foreign(outputs: OutputPaths) -> bool:
    """Whether something is in the index's place that never was one. Of a sound one only the beginning is looked at."""
    blob = read_plain(outputs.index, INDEX_BYTES)
    if blob is None:
        return os.path.lexists(outputs.index)
    return not (_was_ours(blob) or _listed_runs(blob) is not None)


def _was_ours(blob: bytes) -> bool:
    """Whether this is what a crash may leave of an index: nothing, zero bytes, its beginning, or lines of it."""
    begin = b"".join(blob[:200].split()).rstrip(b"\0")[: len(_BEGIN)]
    is_torn = begin == _BEGIN or (_BEGIN.startswith(begin) and not blob[200:].strip(b"\0"))
    return is_torn or _ROW.search(blob) is not None


def check_index(outputs: OutputPaths) -> None:
    """Raises: HarnessError: what is called `index.json` in this folder is something else, so no run can be entered."""
    if _is_foreign(outputs):
        raise _foreign(outputs)


def _foreign(outputs: OutputPaths) -> HarnessError:
    return HarnessError(
        f"{outputs.index} is not an index of runs, and is left as it is. In a folder of runs that name is the index's. "
        "Move the file, or keep the runs in a folder of their own: --set output.directory=outputs"
    )


def count_runs(outputs: OutputPaths) -> int:
    """How many runs the index of a folder has, as it stands there; 0 without one."""
    return _read(outputs).count


# ---- what is true: the run directories


def _folders(path: str) -> list[str]:
    """Names of the real folders in a folder, hidden ones apart. Raises: OSError."""
    with os.scandir(path) as found:
        return [item.name for item in found if item.name[0] != "." and item.is_dir(follow_symlinks=False)]


def _run_folders(root: Path) -> Iterator[tuple[str, list[str] | None]]:
    """Each experiment with the folders in it; None in their place when it can't be looked into. Raises: OSError."""
    try:
        experiments = _folders(str(root))
    except FileNotFoundError:
        return
    for experiment in experiments:
        try:
            yield experiment, _folders(f"{root}/{experiment}")
        except OSError:
            yield experiment, None


def _created_at(timestamp: str) -> str | None:
    """The time that a run directory's name says; its number within the second stands in the microseconds."""
    stamp = _STAMP.fullmatch(timestamp)
    if stamp is None:
        return None
    with contextlib.suppress(ValueError):
        second = datetime.strptime(stamp[1], "%Y%m%d_%H%M%S")
        return second.replace(microsecond=int(stamp[2] or 0)).isoformat(timespec="microseconds")
    return None


def _is_held(lock: Path) -> bool:
    """Whether a process holds a run's lock; one of another user's that can't be opened counts as held."""
    try:
        fd = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def hold(run: RunPaths) -> Lock:
    """A run's lock, taken, for as long as the run is going on; a reader of the history may touch it for a moment.

    Raises: Locked: another process works on the run.
    """
    return Lock(run.lock).acquire(timeout_s=TOUCH_S)


def _state(run: RunPaths) -> tuple[RunStatus, Metrics | None]:
    """How far a run has come, by its own files. The lock comes first: the summary is written while it is held."""
    if _is_held(run.lock):
        return RunStatus.RUNNING, None
    summary = read_object(run.summary)
    if summary.get("status") in _ENDED:
        return RunStatus(summary["status"]), _metrics(summary.get("final_metrics"))
    record = read_object(run.record)
    if record.get("outcome") in tuple(Outcome):
        return RunStatus.of(Outcome(record["outcome"])), _metrics(record.get("metrics"))
    return RunStatus.INTERRUPTED, None


def _entry(run: RunPaths, created_at: str, status: RunStatus, metrics: Metrics | None) -> Entry:
    experiment, timestamp = run.folder.parent.name, run.folder.name
    return {
        "experiment": experiment,
        "timestamp": timestamp,
        "run_dir": f"{experiment}/{timestamp}",
        "created_at": created_at,
        "status": str(status),
        "final_metrics": metrics,
    }


def _true(outputs: OutputPaths, known: Mapping[str, Entry], *, is_all_new: bool = False) -> list[Entry]:
    """What the index should say, oldest first. Runs that it knows to have ended are not looked at again."""
    found = []
    for experiment, timestamps in _run_folders(outputs.root):
        if timestamps is None:
            found += [entry for entry in known.values() if entry["experiment"] == experiment]
            continue
        for timestamp in timestamps:
            entry = known.get(f"{experiment}/{timestamp}")
            if entry is not None and entry["status"] != RunStatus.RUNNING and not is_all_new:
                found.append(entry)
            elif created_at := entry["created_at"] if entry else _created_at(timestamp):
                run = RunPaths(outputs.experiment(experiment) / timestamp)
                found.append(_entry(run, created_at, *_state(run)))
    return sorted(found, key=itemgetter("created_at", "run_dir"))


# ---- what is written


@contextlib.contextmanager
def _locked(outputs: OutputPaths, timeout_s: float) -> Iterator[None]:
    lock = Lock(outputs.index_lock)
    try:
        lock.acquire(timeout_s=timeout_s)
    except Locked:
        raise Locked(
            f"The index {outputs.index} has been in use for {timeout_s:g} s, by process {lock_holder(lock.path)}. One "
            "process at a time may write it. Wait for that one or end it; what is missing then is entered by: mlx history"
        ) from None
    with lock:
        yield


_encode = json.JSONEncoder(allow_nan=False).encode


def render(entries: Sequence[Entry]) -> str:
    """The index's text: one JSON object, one line for each run."""
    return _text(list(map(_encode, entries)))


def _text(rows: Sequence[str]) -> str:
    return "\n".join([_HEAD, *([",\n".join(rows)] if rows else []), _FOOT, ""])


def _edited(text: str, entry: Entry) -> str | None:
    """The index's text with one more entry, or with one brought up to date, which keeps the time it was given first.

    Only that line is understood: a long index would take a hundred times longer. None when the text is not laid out
    as `render` does it, or has the entry twice.
    """
    head, *rows, foot, end = text.split("\n") if text.count("\n") > 1 else [""] * 3
    rows = [row.removesuffix(",") for row in rows]
    if (head, foot, end) != (_HEAD, _FOOT, "") or not all(r.startswith('{"exp') and r.endswith("}") for r in rows):
        return None
    needle = f'"run_dir": {_encode(entry["run_dir"])}, '
    places = [place for place, row in enumerate(rows) if needle in row]
    if not places:
        return _text([*rows, _encode(entry)])
    try:
        _keep_time(entry, json.loads(rows[places[0]])["created_at"])
    except (ValueError, LookupError):
        return None
    rows[places[0]] = _encode(entry)
    return _text(rows) if len(places) == 1 else None


def _keep_time(entry: Entry, known: str) -> None:
    """Let an entry have the time that it was given first, unless that was only read off its folder's name."""
    if known != _created_at(entry["timestamp"]):
        entry["created_at"] = known


def _write(outputs: OutputPaths, entries: Sequence[Entry], before: _Index) -> None:
    if before.is_foreign:
        raise _foreign(outputs)
    if before.is_damaged:
        _set_aside(outputs.index)
    write_atomic(outputs.index, render(entries))


def _set_aside(index: Path) -> None:
    """Keep a damaged index under a name that was free."""
    names = (index.with_name(f"{index.stem}.damaged{f'_{n}' if n > 1 else ''}.json") for n in range(1, 10_000))
    os.replace(index, next(name for name in names if not os.path.lexists(name)))


def record_run(
    outputs: OutputPaths,
    run: RunPaths,
    *,
    status: RunStatus,
    created_at: datetime | None = None,
    final_metrics: Mapping[str, float | None] | None = None,
) -> Entry:
    """Enter a run into the index, or bring its one entry up to date.

    Args:
        created_at: None: what the folder's name says. An entry that is there keeps the time it was given first.
        final_metrics: NaN, infinity and what is no number become null.
    Raises: HarnessError: `index.json` is not an index of runs; it is left as it is. Locked: another process has been
        writing for a minute. OSError.
    """
    check_index(outputs)  # before the lock's file is made there
    began = _local(created_at) if created_at else _created_at(run.folder.name) or _local(datetime.now())
    entry = _entry(run, began, status, _metrics(final_metrics))
    with _locked(outputs, WRITE_LOCK_S):
        blob = read_plain(outputs.index, INDEX_BYTES)
        text = _edited(blob.decode("utf-8", "replace"), entry) if blob else None
        if text is not None:
            write_atomic(outputs.index, text)
        else:
            _enter_whole(outputs, entry)
    return entry


def _enter_whole(outputs: OutputPaths, entry: Entry) -> None:
    """Enter a run into an index that is lost, damaged, or laid out by somebody else."""
    index = _read(outputs)
    entries = {found["run_dir"]: found for found in _true(outputs, index.entries)}
    if entry["run_dir"] in index.entries:
        _keep_time(entry, index.entries[entry["run_dir"]]["created_at"])
    entries[entry["run_dir"]] = entry
    _write(outputs, list(entries.values()), index)


def _local(moment: datetime) -> str:
    """Local time without its offset, to the microsecond."""
    plain = moment.astimezone().replace(tzinfo=None) if moment.tzinfo else moment
    return plain.isoformat(timespec="microseconds")


def sync(outputs: OutputPaths) -> list[Entry]:
    """Make the index true; returns what it then says, oldest first.

    Runs that it misses are entered, those whose folder is gone leave it, and one that it calls running while its lock is
    free gets the status of its summary, or "interrupted". A folder that may only be read, or whose `index.json` is
    something else, is read.
    Raises: OSError: the folder can't be read.
    """
    index = _read(outputs)
    found = _true(outputs, index.entries)
    if index.says(found) or index.is_foreign:
        return found
    with contextlib.suppress(Locked, HarnessError, OSError), _locked(outputs, READ_LOCK_S):
        index = _read(outputs)
        found = _true(outputs, index.entries)
        _write(outputs, found, index)
    return found


def rebuild(outputs: OutputPaths) -> list[Entry]:
    """Look at every run directory again and write the index anew; only the times of entries that it has are kept.

    Raises: HarnessError: there is no such folder, or its `index.json` is something else. Locked. OSError.
    """
    if not outputs.root.is_dir():
        raise HarnessError(f"There is no folder {outputs.root}. Name the one that holds runs: --output-dir outputs")
    check_index(outputs)
    with _locked(outputs, WRITE_LOCK_S):
        index = _read(outputs)
        found = _true(outputs, index.entries, is_all_new=True)
        _write(outputs, found, index)
    return found


# ---- what is asked


def list_all_runs(index: Path) -> list[Entry]:
    """Every run of the output folder that an `index.json` lies in, oldest first; the index is made true before.

    Raises: HarnessError: the path does not end in index.json. OSError.
    """
    outputs = OutputPaths(Path(index).parent)
    if Path(index).name != outputs.index.name:
        raise HarnessError(f"{index} is no index. Allowed: the index.json of an output folder, as outputs/index.json.")
    return sync(outputs)


def read_run(run: RunPaths) -> Entry:
    """The entry of one run by its own files, wherever its folder lies; no index is written.

    `created_at`: what the index beside it says, else what its folder's name says, else the time of its files.
    """
    known = _read(OutputPaths(run.folder.parent.parent)).entries.get(f"{run.folder.parent.name}/{run.folder.name}")
    created_at = known["created_at"] if known else _created_at(run.folder.name)
    changed = datetime.fromtimestamp(run.folder.stat().st_mtime)
    return _entry(run, created_at or _local(changed), *_state(run))


def get_runs_by_experiment(index: Path, experiment: str) -> list[Entry]:
    """The runs of one experiment, oldest first; as `list_all_runs`."""
    return [run for run in list_all_runs(index) if run["experiment"] == experiment]


def best_run(runs: Sequence[Entry], metric: str, goal: Goal) -> Entry | None:
    """The run with the best final value of a metric; of equal ones the older. None: no completed run has a number."""
    found = [
        (value, run)
        for run in runs
        if run["status"] == RunStatus.COMPLETED
        and (value := number((run["final_metrics"] or {}).get(metric))) is not None
    ]
    best = min if goal is Goal.MINIMIZE else max
    return best(found, key=lambda pair: pair[0])[1] if found else None
