"""A tracker as a sweep sees it: it is told of each point that ends, and can never end or slow down the sweep."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from autoexperiment.errors import HarnessError, UsageError, unknown
from autoexperiment.trackers.base import TRACKERS, Row
from autoexperiment.untrusted import line
from autoexperiment.vocabulary import RunStatus

INSTALL = "pip install 'autoexperiment[track]'"
OPTIONS = {"trackio": ("project",), "wandb": ("project",), "mlflow": ("project", "uri"), "tensorboard": ()}
PATIENCE_S = 60.0  # for what is still on its way when the sweep is over
KILL_S = 5.0
FAULT_LIMIT = 300
UNENDED = (RunStatus.RUNNING, RunStatus.INTERRUPTED)  # such a point is run again


def make_tracker(
    name: str,
    *,
    folder: Path,
    options: Mapping[str, str],
    say: Callable[[str], None],
    patience_s: float | None = PATIENCE_S,
) -> Tracker:
    """A tracker of a sweep; its library is not imported here.

    Args:
        name: one of `base.TRACKERS`.
        folder: what all trackers of the sweep write goes below; made when it is needed.
        options: `project`: what the runs are listed under, by default the sweep's name (not for tensorboard);
            `uri`: an MLflow server or database of one's own.
        say: called with one line if the tracker is switched off, in the thread of whoever calls the tracker.
        patience_s: how long `close` waits for points on their way; None: until the library is done.
    Raises: UsageError: there is no such tracker or option. HarnessError: its library is missing or too old.
    """
    if name not in TRACKERS:
        raise UsageError(unknown("tracker", name, TRACKERS))
    for option, value in options.items():
        if option not in OPTIONS[name]:
            raise UsageError(unknown("option", option, OPTIONS[name] or ["none"], where=f"tracker {name!r}"))
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"Option {option!r} of tracker {name!r} is {value!r}. Allowed: text that is not empty.")
    if lack := lacking(name):
        raise HarnessError(lack)
    return Tracker(name, folder=Path(folder), options=options, say=say, patience_s=patience_s)


def lacking(name: str) -> str:
    """What a tracker lacks on this machine, as an error's message; "" if nothing."""
    library = TRACKERS[name]
    missing = [module for module in (library.module, *library.needs) if importlib.util.find_spec(module) is None]
    if missing:
        return (
            f"The tracker {name!r} needs {', '.join(missing)}, which is not installed. "
            f"It comes with the extra 'track'. Type: {INSTALL}"
        )
    version = importlib.metadata.version(library.distribution)
    if _numbers(version) >= library.oldest:
        return ""
    oldest = ".".join(map(str, library.oldest))
    return (
        f"The tracker {name!r} needs {library.distribution} {oldest} or newer; {version} is installed. "
        f"Type: {INSTALL} '{library.distribution}>={oldest}'"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


class Tracker:
    """Points go to a process of the library's own, so that its faults, its output and its pace stay there.

    The first fault is told in one line, and switches the tracker off. One run for each point: what was tracked is
    remembered in `tracked.NAME.jsonl`, and a point that is tracked again, after another attempt or after a kill,
    replaces its run.
    """

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        options: Mapping[str, str],
        say: Callable[[str], None],
        patience_s: float | None,
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.tracked = folder / f"tracked.{name}.jsonl"
        self._folder = folder
        self._options = dict(options)
        self._say = say
        self._patience_s = patience_s
        self._fault = ""
        self._is_off = False
        self._begin: dict[str, Any] = {}
        self._known: set[str] = set()
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def begin(self, sweep_name: str, facts: Mapping[str, Any]) -> None:
        """Args: facts: about the whole sweep, shown with each of its points."""
        self._begin = {
            "tracker": self.name,
            "folder": str(self._folder / self.name),
            "tracked": str(self.tracked),
            "options": self._options,
            "sweep": sweep_name,
            "place": str(self._folder.resolve()),
            "facts": dict(facts),
        }
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._known = _tracked(self.tracked)
        except OSError as error:
            self._switch_off(f"{self._folder} can't be used: {error.strerror or error}.")

    def ended(self, row: Row, curves: Iterable[Mapping[str, Any]]) -> None:
        """Track a point. Returns at once.

        Args:
            row: of the sweep's results. A point that was interrupted is left out: it is run again.
            curves: `{"epoch": 1, "loss": 0.5}` for each epoch.
        """
        self._look()
        point = row["run_dir"] or f"{row.get('key', row['number'])} {row['status']}"
        if self._is_off or row["status"] in UNENDED or point in self._known:
            return
        if self._process is None and not self._start():
            return
        self._known.add(point)
        self._orders.put(_text({"point": point, "row": dict(row), "curves": list(curves)}))

    def close(self) -> None:
        """Wait for what is on its way; safe to call twice."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join(self._patience_s)
            if self._thread.is_alive():
                self._fault = f"it was not done {self._patience_s:g} s after the sweep's end."
            self._end()
        self._thread = None
        self._look()

    def _start(self) -> bool:
        """Start the library's process, which takes the time of an import only once there is a point to be tracked."""
        try:
            with open(self.log, "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "autoexperiment.trackers.child"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    encoding="utf-8",
                    start_new_session=True,  # a Ctrl-C is the sweep's, and what is on its way is still tracked
                )
        except OSError as error:
            self._switch_off(f"its process can't be started: {error.strerror or error}.")
            return False
        self._thread = threading.Thread(target=self._feed, args=(self._process,), daemon=True)
        self._thread.start()
        return True

    def _feed(self, process: subprocess.Popen[str]) -> None:
        """Thread: hand over one order at a time, and take its answer."""
        assert process.stdin is not None and process.stdout is not None
        try:
            order: str | None = _text(self._begin)
            while order is not None and not self._fault:
                process.stdin.write(order)
                process.stdin.flush()
                self._take(process.stdout.readline())
                order = self._orders.get()
            process.stdin.close()
            self._take(process.stdout.readline())
            process.wait()
        except (OSError, ValueError) as error:
            self._fault = self._fault or f"its process can't be reached: {error}."

    def _take(self, answer: str) -> None:
        """Keep the first fault of all answers."""
        try:
            fault = json.loads(answer).get("fault")
        except ValueError:
            fault = "its process ended without an answer."
        if fault and not self._fault:
            self._fault = line(str(fault), FAULT_LIMIT)

    def _end(self) -> None:
        """End the library's process and whatever it has started."""
        process, thread = self._process, self._thread
        if process is None or thread is None:
            return
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        thread.join(KILL_S)

    def _look(self) -> None:
        if self._fault and not self._is_off:
            self._switch_off(self._fault)

    def _switch_off(self, fault: str) -> None:
        self._is_off = True
        words = ["mlx", "sweep", "export", self._begin["sweep"], "--format", self.name]
        output = self._begin["facts"].get("output", "outputs")
        words += [] if output == "outputs" else ["--output-dir", output]
        self._say(
            f"Tracker {self.name} is switched off: {fault} The sweep and its results are not affected. "
            f"Its log: {self.log}. To add what is missing there: {shlex.join(words)}"
        )


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, default=str) + "\n"


def _tracked(path: Path) -> set[str]:
    """Points that a file remembers; half a line that a kill left does not count."""
    points = set()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return set()
    for text in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            points.add(json.loads(text)["point"])
    return points
