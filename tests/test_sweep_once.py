"""A point is run once: by whoever asks first, in whichever thread or process; all others get what came out."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autoexperiment.errors import LabError
from autoexperiment.files import Lock
from autoexperiment.paths import RunPaths, SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import once, work
from autoexperiment.sweep.once import result_of, run_once
from autoexperiment.sweep.points import Order, Point, Result
from autoexperiment.vocabulary import RunStatus

Answer = Callable[[Order], Result]


def completed(order: Order) -> Result:
    return Result(RunStatus.COMPLETED, {"value": 2.0})


def failed(order: Order) -> Result:
    return Result(RunStatus.FAILED, reason="It fell over.")


@dataclass
class Machine:
    """Stands in for the work of a point: counts how often it is done."""

    answer: Answer = completed
    runs: list[RunPaths] = field(default_factory=list)

    def run_point(self, order: Order, run: RunPaths, *, signals: Signals | None = None) -> Result:
        self.runs.append(run)
        return self.answer(order)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(work, "run_point", made.run_point)
    return made


def order_in(root: Path, key: str = "k", **more: bool) -> Order:
    return Order("toy", Point(1, 1, {}, None, {}, key), str(root), "outputs/s", **more)


def paths_in(root: Path) -> SweepPaths:
    return SweepPaths(root / "outputs" / "s")


# ---- what is there already


def test_result_is_given_again_and_nothing_is_run(tmp_path: Path, machine: Machine) -> None:
    first = run_once(order_in(tmp_path))
    second = run_once(order_in(tmp_path))

    assert second == first
    assert (first.status, first.metrics, len(machine.runs)) == (RunStatus.COMPLETED, {"value": 2.0}, 1)
    assert (tmp_path / first.run_dir) == machine.runs[0].folder
    assert [file.name for file in (tmp_path / "outputs/s/.points").iterdir()] == ["k.json"]


def test_failed_point_is_run_again_for_a_retry_only(tmp_path: Path, machine: Machine) -> None:
    machine.answer = failed
    first = run_once(order_in(tmp_path))
    again = run_once(order_in(tmp_path))
    machine.answer = completed
    retried = run_once(order_in(tmp_path, is_retry=True))
    after = run_once(order_in(tmp_path, is_retry=True))

    assert again == first
    assert (first.status, first.reason) == (RunStatus.FAILED, "It fell over.")
    assert retried.status is RunStatus.COMPLETED
    assert after == retried
    assert len(machine.runs) == 2


def test_retry_that_was_given_twice_is_run_once(tmp_path: Path, machine: Machine) -> None:
    """A cluster gives an order again when it did not hear how it ended."""
    machine.answer = failed
    before = run_once(order_in(tmp_path))
    retry = order_in(tmp_path, is_retry=True)

    first = run_once(retry, retried=before.run_dir)
    second = run_once(retry, retried=before.run_dir)

    assert second == first
    assert first.run_dir != before.run_dir
    assert len(machine.runs) == 2


@pytest.mark.parametrize("left", ["", '{"status": "comp', "[]", '{"status": "excellent"}', '{"surprise": 1}'])
def test_damaged_result_is_none(tmp_path: Path, machine: Machine, left: str) -> None:
    file = paths_in(tmp_path).result("k")
    file.parent.mkdir(parents=True)
    file.write_text(left)

    found = run_once(order_in(tmp_path))

    assert (found.metrics, len(machine.runs)) == ({"value": 2.0}, 1)


# ---- what is left


def test_fault_of_the_point_is_a_result(tmp_path: Path, machine: Machine) -> None:
    def refuse(order: Order) -> Result:
        raise LabError("The data is gone.")

    machine.answer = refuse

    found = run_once(order_in(tmp_path))

    assert (found.status, found.reason) == (RunStatus.FAILED, "The data is gone.")
    assert result_of(paths_in(tmp_path), "k") == found


def test_fault_of_the_machine_leaves_nothing_and_keeps_nobody_out(tmp_path: Path, machine: Machine) -> None:
    def fail(order: Order) -> Result:
        raise OSError(28, "No space left on device")

    machine.answer = fail
    with pytest.raises(OSError, match="No space left"):
        run_once(order_in(tmp_path))
    machine.answer = completed

    found = run_once(order_in(tmp_path))

    assert found.status is RunStatus.COMPLETED
    assert len(machine.runs) == 2


def test_interrupted_point_leaves_no_result(tmp_path: Path, machine: Machine) -> None:
    machine.answer = lambda order: Result(RunStatus.INTERRUPTED)
    stopped = run_once(order_in(tmp_path))
    machine.answer = completed

    found = run_once(order_in(tmp_path))

    assert (stopped.status, found.status) == (RunStatus.INTERRUPTED, RunStatus.COMPLETED)
    assert stopped.run_dir != found.run_dir


def test_result_that_is_left_can_be_kept(tmp_path: Path, machine: Machine) -> None:
    machine.answer = lambda order: Result(RunStatus.COMPLETED, {"value": float("nan"), "loss": float("inf"), "n": 3.0})

    found = run_once(order_in(tmp_path))

    assert found.metrics == {"value": None, "loss": None, "n": 3.0}
    assert result_of(paths_in(tmp_path), "k") == found


def test_result_is_whole_or_absent(tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(os, "replace", fail)
        run_once(order_in(tmp_path))

    assert result_of(paths_in(tmp_path), "k") is None
    assert run_once(order_in(tmp_path)).status is RunStatus.COMPLETED
    assert [file.name for file in (tmp_path / "outputs/s/.points").iterdir()] == ["k.json"]


# ---- several who ask


def test_others_wait_for_who_runs_it(tmp_path: Path, machine: Machine) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(order: Order) -> Result:
        begun.set()
        go_on.wait()
        return completed(order)

    machine.answer = slow
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(run_once, order_in(tmp_path)) for _ in range(4)]
        begun.wait()
        go_on.set()
        found = [future.result() for future in asked]

    assert len(machine.runs) == 1
    assert found == [found[0]] * 4


def test_signal_ends_the_waiting(tmp_path: Path, machine: Machine) -> None:
    signals = Signals()
    with Lock(paths_in(tmp_path).point_lock("k")), ThreadPoolExecutor(1) as threads:
        asked = threads.submit(run_once, order_in(tmp_path), signals=signals)
        signals.end()

        found = asked.result()

    assert found.status is RunStatus.INTERRUPTED
    assert machine.runs == []


def test_who_waited_at_a_removed_lock_waits_for_the_next_holder(tmp_path: Path, machine: Machine) -> None:
    """An interrupted holder removes its lock's file; who waits for that file and who makes a new one must not both run."""
    path = paths_in(tmp_path).point_lock("k")
    first = Lock(path).acquire()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(run_once, order_in(tmp_path))
        _until_open_twice(path)
        path.unlink()
        second = Lock(path).acquire()
        first.release()
        time.sleep(0.1)  # in which it must not begin
        once._leave(paths_in(tmp_path).result("k"), Result(RunStatus.COMPLETED, {"value": 7.0}))
        second.release()

        found = waiting.result()

    assert found.metrics == {"value": 7.0}
    assert machine.runs == []


def _until_open_twice(path: Path) -> None:
    """Wait until a second descriptor of this process is open on a file."""
    folder = Path("/dev/fd")
    while True:
        count = 0
        for name in os.listdir(folder):
            try:
                count += os.path.samestat(os.fstat(int(name)), path.stat())
            except OSError:
                continue
        if count == 2:
            return
        time.sleep(0.005)


KEYS = [f"k{number}" for number in range(6)]


def _run_all(root: str) -> None:
    """In a process of its own: run all points, each of which writes down that it was begun."""

    def note(order: Order) -> Result:
        with open(Path(root) / "begun.txt", "a") as file:
            file.write(f"{order.point.key}\n")
        time.sleep(0.01)
        return completed(order)

    work.run_point = Machine(note).run_point
    for key in KEYS:
        run_once(order_in(Path(root), key))


def test_processes_that_ask_for_the_same_points_run_each_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_run_all, args=(str(tmp_path),)) for _ in range(4)]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 4
    assert sorted((tmp_path / "begun.txt").read_text().split()) == KEYS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_disk_that_takes_no_more_is_no_result(tmp_path: Path, machine: Machine, number: int) -> None:
    machine.answer = lambda order: Result(
        RunStatus.FAILED, reason=f"The checkpoint can't be written: {os.strerror(number)}."
    )

    with pytest.raises(OSError, match=os.strerror(number)):
        run_once(order_in(tmp_path))
    machine.answer = completed

    assert run_once(order_in(tmp_path)).is_ok
    assert len(machine.runs) == 2
