"""What the supervisor says about a run: class, clocks, memory, log, environment; and what the run can't reach."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from autoexperiment import supervisor, warden, watch
from autoexperiment.clocks import Clock, Skew
from autoexperiment.ending import Told, judge
from autoexperiment.errors import Refused
from autoexperiment.failure import Failure
from autoexperiment.paths import RunPaths
from autoexperiment.supervisor import MARKER, Ending, Limits, marked_processes, run_environment, supervise
from autoexperiment.vocabulary import Outcome

LIMITS = Limits(60.0, grace_s=0.2)
IS_LINUX = sys.platform == "linux"


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def run(folder: Path, code: str, *, limits: Limits = LIMITS, **options: Any) -> Ending:
    """Supervise a Python one-liner in `folder/work`, its log beside it."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    options = {"env": {"PATH": os.environ["PATH"]}, "log": folder / "run.log", "cwd": work, **options}
    return supervise(python(code), limits=limits, **options)


def log_of(folder: Path) -> str:
    return (folder / "run.log").read_text()


# ---- the exit class


def test_a_run_that_ends_well_is_ok(tmp_path: Path) -> None:
    ending = run(tmp_path, "import sys; print('out', flush=True); print('err', file=sys.stderr)")

    assert (ending.outcome, ending.exit_code, ending.signal) == (Outcome.OK, 0, None)
    assert (ending.reason, ending.failure, ending.survivors, ending.stop_signal) == ("", None, (), None)
    assert log_of(tmp_path) == "out\nerr\n"
    assert ending.log_bytes == 8


def test_a_crash_is_told_with_its_frame(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("def main():\n    raise ValueError('no such layer')\nmain()\n")

    ending = supervise(
        [sys.executable, "-I", "-S", "train.py"], cwd=work, log=tmp_path / "run.log", limits=LIMITS, env={}
    )

    assert (ending.outcome, ending.exit_code) == (Outcome.CRASHED, 1)
    assert ending.failure == Failure("ValueError", "no such layer", "train.py:2 in main")
    assert ending.reason == "ValueError at train.py:2 in main: no such layer"


def test_divergence_is_a_class_of_its_own(tmp_path: Path) -> None:
    ending = run(tmp_path, "import sys; print('diverged: loss nan'); sys.exit(3)")

    assert (ending.outcome, ending.reason) == (Outcome.DIVERGED, "diverged: loss nan")


def test_a_fatal_signal_is_named(tmp_path: Path) -> None:
    ending = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")

    assert (ending.outcome, ending.exit_code, ending.signal) == (Outcome.CRASHED, None, signal.SIGSEGV)
    assert ending.reason == "SIGSEGV"


def test_a_kill_by_someone_else_is_taken_for_want_of_memory(tmp_path: Path) -> None:
    ending = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")

    assert ending.outcome is Outcome.OOM


def test_a_memory_error_is_oom(tmp_path: Path) -> None:
    ending = run(tmp_path, "bytearray(1 << 60)")

    assert (ending.outcome, ending.failure and ending.failure.kind) == (Outcome.OOM, "MemoryError")


def test_a_run_past_the_hard_timeout_is_timed_out(tmp_path: Path) -> None:
    ending = run(tmp_path, "import time; time.sleep(600)", limits=Limits(0.3, grace_s=5))

    assert (ending.outcome, ending.reason) == (Outcome.TIMED_OUT, "Killed after 0.3 s, the hard timeout.")
    assert ending.signal == signal.SIGTERM
    assert ending.failure is not None
    assert ending.failure.kind == "timed out"


def test_a_run_that_ends_well_on_the_timeouts_term_is_timed_out_all_the_same(tmp_path: Path) -> None:
    code = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(600)"

    ending = run(tmp_path, code, limits=Limits(2.0, grace_s=30))

    assert (ending.outcome, ending.exit_code) == (Outcome.TIMED_OUT, 0)


def test_a_run_that_took_longer_than_allowed_is_rejected_whatever_it_printed(tmp_path: Path) -> None:
    code = "import time; time.sleep(0.3); print('training_seconds: 0.1')"

    ending = run(tmp_path, code, limits=replace(LIMITS, allowed_wall_s=0.2))

    assert ending.outcome is Outcome.REJECTED
    assert ending.reason.endswith("the budget and the baseline's start-up allow 0.2 s.")


def test_a_crash_that_took_longer_than_allowed_is_still_a_crash(tmp_path: Path) -> None:
    ending = run(tmp_path, "import time; time.sleep(0.3); 1 / 0", limits=replace(LIMITS, allowed_wall_s=0.2))

    assert ending.outcome is Outcome.CRASHED


def test_a_command_that_is_not_there_is_a_crash_that_names_it(tmp_path: Path) -> None:
    ending = supervise(["no-such-command"], cwd=tmp_path, log=tmp_path / "run.log", limits=LIMITS, env={"PATH": "/bin"})

    assert (ending.outcome, ending.exit_code) == (Outcome.CRASHED, 127)
    assert "cannot start 'no-such-command'" in ending.reason


def test_a_folder_that_is_not_there_is_a_crash_that_names_it(tmp_path: Path) -> None:
    ending = run(tmp_path, "pass", cwd=tmp_path / "gone")

    assert ending.exit_code == 127
    assert str(tmp_path / "gone") in ending.reason


# ---- clocks


def moving(*readings: float) -> Callable[[], float]:
    values = iter(readings)
    return lambda: next(values)


def clock(*, jumped_s: float = 0.0, slept_s: float = 0.0, awake_s: float = 10.0) -> Clock:
    """Clocks that read as if the run took `awake_s`, with a jump and a sleep in it."""
    return Clock(
        wall=moving(1000.0, 1000.0 + awake_s + slept_s + jumped_s),
        awake=moving(50.0, 50.0 + awake_s),
        with_sleep=moving(70.0, 70.0 + awake_s + slept_s),
    )


@pytest.mark.parametrize(
    ("moved", "skew_s", "reason"),
    [
        ({"jumped_s": 3600.0}, 3600.0, "The clock jumped +3600.0 s during the run."),
        ({"jumped_s": -25200.0}, -25200.0, "The clock jumped -25200.0 s during the run."),
        ({"slept_s": 60.0}, 60.0, "The machine slept 60.0 s during the run."),
        ({"slept_s": 60.0, "jumped_s": -30.0}, 60.0, "The machine slept 60.0 s during the run."),
    ],
)
def test_a_run_in_which_a_clock_moved_is_interrupted(
    tmp_path: Path, moved: dict[str, float], skew_s: float, reason: str
) -> None:
    ending = run(tmp_path, "pass", clock=clock(**moved))

    assert (ending.outcome, ending.reason, ending.clock_skew_s) == (Outcome.INTERRUPTED, reason, skew_s)


def test_a_clock_that_is_slowly_corrected_spoils_nothing(tmp_path: Path) -> None:
    two_hours = 7200.0  # 500 ppm of it is 3.6 s

    assert run(tmp_path, "pass", clock=clock(jumped_s=3.6, awake_s=two_hours)).outcome is Outcome.OK
    assert run(tmp_path, "pass", clock=clock(jumped_s=3.6)).outcome is Outcome.INTERRUPTED


def test_the_machines_own_clocks_keep_together(tmp_path: Path) -> None:
    assert abs(run(tmp_path, "pass").clock_skew_s) < 2.0


# ---- memory and CPU time


def test_peak_memory_is_that_of_the_run(tmp_path: Path) -> None:
    code = "import time; block = b'x' * (200 << 20); time.sleep(0.1)"

    assert 200 <= run(tmp_path, code).peak_memory_mb < 260


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_peak_memory_counts_the_children_and_what_they_share_once(tmp_path: Path) -> None:
    code = """if 1:
        import os, time
        shared = b'x' * (100 << 20)
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                own = b'y' * (50 << 20)
                time.sleep(1.5)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
    """

    assert 250 <= run(tmp_path, code).peak_memory_mb < 330


def test_cpu_time_counts_the_children(tmp_path: Path) -> None:
    code = """if 1:
        import os, time
        if os.fork() == 0:
            while time.process_time() < 0.3:
                pass
            os._exit(0)
        os.wait()
    """

    assert run(tmp_path, code).cpu_s >= 0.3


# ---- the log


def test_of_a_long_log_head_and_tail_are_kept(tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write('a' * 100 + 'b' * 5000 + 'c' * 50)"

    ending = run(tmp_path, code, limits=replace(LIMITS, log_head_bytes=100, log_tail_bytes=50))

    assert log_of(tmp_path) == "a" * 100 + "\n[... 5000 bytes cut ...]\n" + "c" * 50
    assert ending.log_bytes == 5150


def test_a_log_that_just_fits_is_not_cut(tmp_path: Path) -> None:
    run(tmp_path, "print('a' * 149)", limits=replace(LIMITS, log_head_bytes=100, log_tail_bytes=50))

    assert log_of(tmp_path) == "a" * 149 + "\n"


@pytest.mark.skipif(not IS_LINUX, reason="needs a pipe that holds a megabyte")
def test_what_a_run_writes_just_before_its_end_is_kept(tmp_path: Path) -> None:
    code = """if 1:
        import fcntl, os, signal, time
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 1 << 20)
        warden, me = os.getppid(), os.getpid()
        if os.fork() == 0:  # lets the warden go on when the run has ended
            while os.getppid() == me:
                time.sleep(0.01)
            os.kill(warden, signal.SIGCONT)
            os._exit(0)
        os.kill(warden, signal.SIGSTOP)
        os.write(1, b'x' * (1 << 20))
        os._exit(0)
    """

    ending = run(tmp_path, code)

    assert ending.outcome is Outcome.OK
    assert len(log_of(tmp_path)) == ending.log_bytes == 1 << 20


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_under_the_log_does_not_stop_the_run(tmp_path: Path) -> None:
    ending = run(tmp_path, "print('x' * 1_000_000); open('done', 'w')", log=Path("/dev/full"))

    assert (ending.outcome, ending.log_error) == (Outcome.OK, "No space left on device")
    assert (tmp_path / "work" / "done").exists()


def test_a_log_that_cannot_be_opened_is_refused_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"Cannot write the run's log .*gone/run\.log"):
        run(tmp_path, "open('started', 'w')", log=tmp_path / "gone" / "run.log")

    assert not (tmp_path / "work" / "started").exists()


def test_a_link_in_the_place_of_the_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run.log").symlink_to(tmp_path / "precious")

    with pytest.raises(Refused):
        run(tmp_path, "print('x')")

    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize(
    "deed",
    [
        "os.remove(log); os.mkfifo(log)",
        "os.remove(log); os.mkdir(log); open(log + '/x', 'w')",
        "os.remove(log); os.symlink('/dev/zero', log)",
        "os.rename(log, 'mine'); os.symlink('work/mine', log)",
    ],
)
def test_a_run_that_replaces_its_log_is_rejected_and_the_log_put_back(tmp_path: Path, deed: str) -> None:
    ending = run(tmp_path, f"import os; log = '../run.log'; print('said', flush=True); {deed}")

    assert (ending.outcome, ending.reason) == (Outcome.REJECTED, "The run put something else in the place of its log.")
    assert stat.S_ISREG((tmp_path / "run.log").lstat().st_mode)
    assert log_of(tmp_path) == "said\n"


# ---- what the run gets, and what it can't reach


def test_the_run_gets_the_given_environment_and_its_marker_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "secret-of-the-caller")

    run(tmp_path, "import os; print(*sorted(k for k in os.environ if k != 'LC_CTYPE'))", env={"GIVEN": "1"})

    assert log_of(tmp_path).split() == [MARKER, "GIVEN"]


def test_run_environment_passes_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTHROPIC_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PYTHONPATH", "VIRTUAL_ENV"):
        monkeypatch.setenv(name, "canary")

    assert "canary" not in run_environment(tmp_path, extra={}).values()


def test_run_environment_passes_what_a_numerical_program_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"PATH": "/bin", "LC_ALL": "C.UTF-8", "OMP_NUM_THREADS": "3", "MLX_METAL_JIT": "1", "TERM": "dumb"}
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)

    found = run_environment(tmp_path, extra={"TERM": "xterm", "SEED": "7"})

    assert found.items() >= {**wanted, "TERM": "xterm", "SEED": "7"}.items()
    assert found["PYTHONHASHSEED"] == "0"
    assert found["HF_HUB_OFFLINE"] == "1"


def test_run_environment_gives_the_run_homes_and_caches_of_its_own(tmp_path: Path) -> None:
    found = run_environment(tmp_path, extra={})

    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        place = Path(found[name])
        assert place.is_dir()
        assert place.is_relative_to(RunPaths(tmp_path).private)


def test_stdin_is_empty_whatever_the_callers_is(tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("typed by a person")
    old, ours = os.dup(0), os.open(words, os.O_RDONLY)
    os.dup2(ours, 0)
    try:
        run(tmp_path, "import os; print(os.read(0, 100))")
    finally:
        os.dup2(old, 0)
        os.close(old)
        os.close(ours)

    assert log_of(tmp_path) == "b''\n"


def test_no_core_is_dumped(tmp_path: Path) -> None:
    run(tmp_path, "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))")

    assert log_of(tmp_path) == "(0, 0)\n"


def test_signals_that_python_ignores_work_again_in_the_run(tmp_path: Path) -> None:
    ending = supervise(
        ["/bin/sh", "-c", "kill -PIPE $$"], cwd=tmp_path, log=tmp_path / "run.log", limits=LIMITS, env={}
    )

    assert ending.signal == signal.SIGPIPE


def test_the_run_inherits_no_descriptor(tmp_path: Path) -> None:
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(lock, True)
    code = """if 1:
        import os
        for fd in range(256):
            try:
                os.fstat(fd)
            except OSError:
                continue
            print(fd)
    """

    run(tmp_path, code)
    os.close(lock)

    assert log_of(tmp_path).split() == ["0", "1", "2"]


@pytest.mark.skipif(not IS_LINUX, reason="reads /proc")
def test_the_wardens_environment_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "secret-of-the-caller")
    code = """if 1:
        import os
        try:
            print(open(f'/proc/{os.getppid()}/environ', 'rb').read())
        except PermissionError:
            print('closed')
    """

    run(tmp_path, code)

    assert "CANARY" not in log_of(tmp_path)


@pytest.mark.skipif(not IS_LINUX or os.geteuid() == 0, reason="root may open everything")
def test_the_report_can_not_be_forged_through_proc(tmp_path: Path) -> None:
    code = """if 1:
        import os
        try:
            print(os.listdir(f'/proc/{os.getppid()}/fd'))
        except PermissionError:
            print('closed')
    """

    run(tmp_path, code)

    assert log_of(tmp_path) == "closed\n"


# ---- callbacks, signals, threads


def test_on_start_gets_the_pid_of_the_command(tmp_path: Path) -> None:
    pids: list[int] = []

    run(tmp_path, "import os; print(os.getpid())", on_start=pids.append)

    assert pids == [int(log_of(tmp_path))]


def test_on_tick_gets_the_seconds_that_pass(tmp_path: Path) -> None:
    ticks: list[float] = []

    run(tmp_path, "import time; time.sleep(0.5)", on_tick=ticks.append, tick_s=0.05)

    assert len(ticks) > 2
    assert ticks == sorted(ticks)


def test_what_a_callback_raises_passes_through_and_the_run_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(pid: int) -> None:
        pids.append(pid)
        raise LookupError("in the callback")

    with pytest.raises(LookupError, match="in the callback"):
        run(tmp_path, "import time; time.sleep(600)", on_start=fail)

    assert not psutil.pid_exists(pids[0])


@pytest.fixture
def kept_handlers() -> Iterator[None]:
    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_a_run_ends_it_as_interrupted(tmp_path: Path, number: int) -> None:
    handler = signal.getsignal(number)

    ending = run(tmp_path, "import time; time.sleep(600)", on_start=lambda _: os.kill(os.getpid(), number))

    assert (ending.outcome, ending.stop_signal) == (Outcome.INTERRUPTED, number)
    assert ending.reason == f"Stopped by {signal.Signals(number).name}."
    assert signal.getsignal(number) is handler


def test_a_stop_that_comes_while_the_run_starts_ends_it_by_the_gentle_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(warden.__file__, tmp_path / "warden.py")
    (tmp_path / "confine.py").write_text("import time\ndef bind_to_cpus(cpus): time.sleep(0.2)\n")
    at_once = [stopped_at_once(tmp_path) for _ in range(10)]
    monkeypatch.setattr(supervisor, "_WARDEN", tmp_path / "warden.py")  # whose runs take long to begin

    slow = stopped_at_once(tmp_path, cpus=1)

    assert {(found["reason"], found["signal"]) for found in (*at_once, slow)} == {("stopped", signal.SIGTERM)}


def stopped_at_once(folder: Path, **limits: Any) -> dict[str, Any]:
    """The account of a run whose stop is ordered before its warden has so much as read what to run."""
    command = ["/bin/sleep", "600"]
    spec = {**asdict(Limits(60.0, grace_s=5.0, **limits)), "command": command, "cwd": str(folder), "env": {}}
    unwatched, log = watch.Watch(None), os.open(folder / "run.log", os.O_RDWR | os.O_CREAT)
    started = supervisor._Warden(spec, log, unwatched)
    started.order(b"T", needs_s=60.0)
    while started.read(1.0, watch=unwatched):
        pass
    started.close()
    os.close(log)
    assert started.account is not None
    return started.account


@pytest.mark.parametrize("signals", [set(), {signal.SIGTERM, signal.SIGUSR1}])
def test_no_signal_is_blocked_in_the_run_whatever_the_caller_blocks(tmp_path: Path, signals: set[int]) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        run(tmp_path, "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    assert log_of(tmp_path) == "set()\n"


def test_the_warden_itself_goes_on_ignoring_signals_once_the_run_has_started(tmp_path: Path) -> None:
    def strike(pid: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            psutil.Process(pid).parent().send_signal(number)  # type: ignore[union-attr]

    ending = run(tmp_path, "import time; time.sleep(0.3); print('done')", on_start=strike)

    assert (ending.outcome, log_of(tmp_path)) == (Outcome.OK, "done\n")


def test_a_process_without_a_group_of_its_own_is_signalled_itself() -> None:
    with (
        subprocess.Popen(["/bin/sleep", "2"]) as alone,
        subprocess.Popen(["/bin/sleep", "2"], start_new_session=True) as leader,
    ):
        for process in (alone, leader):
            warden.signal_group(process.pid, signal.SIGTERM)

    assert [alone.returncode, leader.returncode] == [-signal.SIGTERM] * 2


def test_a_signal_at_the_very_end_of_a_run_is_not_lost(tmp_path: Path) -> None:
    def wait_then_signal(pid: int) -> None:
        while psutil.pid_exists(pid):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    ending = run(tmp_path, "pass", on_start=wait_then_signal)

    assert (ending.outcome, ending.stop_signal, ending.exit_code) == (Outcome.INTERRUPTED, signal.SIGINT, 0)


def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path: Path, kept_handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

    ending = run(tmp_path, "pass", on_start=lambda _: os.kill(os.getpid(), signal.SIGHUP))

    assert ending.outcome is Outcome.OK
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_who_can_not_be_killed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = {
        "exit_code": 0, "signal": None, "wall_s": 1.0, "cpu_s": 1.0, "peak_bytes": 1, "reason": "", "is_swept": False,
        "survivors": [4_000_001, 4_000_002], "log_bytes": 0, "log_error": "", "started": 1.0, "refused": "",
    }  # fmt: skip
    fake = tmp_path / "warden.py"
    fake.write_text(f"import os, sys\nos.write(int(sys.argv[1]), b'1\\n' + ascii({account!r}).encode() + b'\\n')")
    monkeypatch.setattr(supervisor, "_WARDEN", fake)

    assert run(tmp_path, "pass").survivors == (4_000_001, 4_000_002)


def test_it_works_outside_the_main_thread(tmp_path: Path) -> None:
    endings: list[Ending] = []
    thread = threading.Thread(target=lambda: endings.append(run(tmp_path, "print('fine')")))

    thread.start()
    thread.join()

    assert endings[0].outcome is Outcome.OK


# ---- reading along


def reaches(target: bytes, seen: list[bytes] | None = None) -> Callable[[bytes], bool]:
    """A predicate that is satisfied by one line, and keeps what it was asked."""

    def is_reached(line: bytes) -> bool:
        if seen is not None:
            seen.append(line)
        return line == target

    return is_reached


def test_a_run_is_ended_when_a_line_reaches_the_target(tmp_path: Path) -> None:
    code = "import time; print('loss 2\\nloss 1', flush=True); time.sleep(600)"

    ending = run(tmp_path, code, until=reaches(b"loss 1\n"))

    assert (ending.outcome, ending.reason, ending.failure) == (Outcome.OK, "", None)
    assert (ending.exit_code, ending.signal, ending.stop_signal) == (None, signal.SIGTERM, None)
    assert ending.seconds_to_target is not None
    assert 0 < ending.seconds_to_target <= ending.wall_s
    assert log_of(tmp_path) == "loss 2\nloss 1\n"


def test_a_run_that_reached_its_target_is_killed_when_it_does_not_heed_term(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('there', flush=True); time.sleep(600)"

    ending = run(tmp_path, code, until=reaches(b"there\n"))

    assert (ending.outcome, ending.signal) == (Outcome.OK, signal.SIGKILL)


@pytest.mark.parametrize("word", ["", "there"])
def test_a_run_that_ends_without_a_line_that_reaches_the_target_ends_as_usual(tmp_path: Path, word: str) -> None:
    well = run(tmp_path, f"print({word!r}, end='')", until=reaches(b"there\n"))
    badly = run(tmp_path, f"print({word!r}, end='', flush=True); 1 / 0", until=reaches(b"there\n"))

    assert (well.outcome, well.seconds_to_target) == (Outcome.OK, None)
    assert (badly.outcome, badly.seconds_to_target) == (Outcome.CRASHED, None)


def test_a_target_in_a_runs_last_line_is_reached_however_the_run_then_ends(tmp_path: Path) -> None:
    pids: list[int] = []

    def see_late(line: bytes) -> bool:
        while psutil.pid_exists(pids[0]):
            time.sleep(0.01)
        return line == b"there\n"

    code = "import os; os.write(1, b'almost\\nthere\\n'); os._exit(5)"
    ending = run(tmp_path, code, until=see_late, on_start=pids.append)

    assert (ending.outcome, ending.exit_code, ending.reason) == (Outcome.OK, 5, "")
    assert ending.seconds_to_target is not None
    assert ending.seconds_to_target <= ending.wall_s


AT_TERM = "import signal, time; signal.signal(15, lambda *_: (print('there', flush=True), time.sleep(600)))\n"


def test_a_timeout_before_the_target_stays_one(tmp_path: Path) -> None:
    ending = run(tmp_path, AT_TERM + "time.sleep(600)", limits=Limits(2.0, grace_s=0.5), until=reaches(b"there\n"))

    assert (ending.outcome, ending.seconds_to_target) == (Outcome.TIMED_OUT, None)
    assert log_of(tmp_path) == "there\n"


def test_a_signal_before_the_target_stays_one(tmp_path: Path, kept_handlers: None) -> None:
    def interrupt(line: bytes) -> bool:
        if line == b"ready\n":
            os.kill(os.getpid(), signal.SIGINT)
        return line == b"there\n"

    ending = run(tmp_path, AT_TERM + "print('ready', flush=True); time.sleep(600)", until=interrupt)

    assert (ending.outcome, ending.seconds_to_target) == (Outcome.INTERRUPTED, None)
    assert ending.stop_signal == signal.SIGINT
    assert log_of(tmp_path) == "ready\nthere\n"


def test_a_signal_after_the_target_is_told_but_spoils_nothing(tmp_path: Path, kept_handlers: None) -> None:
    code = f"""if 1:
        import os, signal, time
        signal.signal(15, lambda *_: os.kill({os.getpid()}, signal.SIGINT))
        print('there', flush=True)
        while True:
            time.sleep(600)
    """

    ending = run(tmp_path, code, until=reaches(b"there\n"))

    assert (ending.outcome, ending.stop_signal) == (Outcome.OK, signal.SIGINT)
    assert ending.seconds_to_target is not None


def test_every_complete_line_is_asked_about_also_those_that_the_log_cuts(tmp_path: Path) -> None:
    seen: list[bytes] = []
    lines = [b"%d\n" % i for i in range(200_000)]

    ending = run(
        tmp_path, "for i in range(200_000): print(i)", until=reaches(b"199999\n", seen),
        limits=replace(LIMITS, log_head_bytes=100, log_tail_bytes=50),
    )  # fmt: skip

    assert seen == lines
    assert ending.seconds_to_target is not None
    assert "bytes cut" in log_of(tmp_path)


def test_a_target_is_seen_while_the_log_is_long_full(tmp_path: Path) -> None:
    code = "import time; print('x' * 10_000); print('there', flush=True); time.sleep(600)"

    ending = run(
        tmp_path, code, until=reaches(b"there\n"), limits=replace(LIMITS, log_head_bytes=100, log_tail_bytes=10)
    )

    assert (ending.outcome, ending.signal) == (Outcome.OK, signal.SIGTERM)
    assert log_of(tmp_path) == "x" * 100 + "\n[... 9897 bytes cut ...]\nxxx\nthere\n"


def test_who_reads_along_slowly_does_not_keep_the_deadline_off(tmp_path: Path) -> None:
    pids: list[int] = []

    def think(line: bytes) -> bool:
        give_up_at = time.monotonic() + 60
        while psutil.pid_exists(pids[0]) and time.monotonic() < give_up_at:
            time.sleep(0.02)
        assert not psutil.pid_exists(pids[0])
        return False

    ending = run(tmp_path, "while True: print('x')", limits=Limits(1.0, grace_s=0.2), until=think, on_start=pids.append)

    assert ending.outcome is Outcome.TIMED_OUT


@pytest.mark.skipif(not IS_LINUX, reason="the arithmetic is that of Linux's pipes")
@pytest.mark.parametrize("chunk", [watch.CHUNK, 1000])
def test_who_reads_along_slowly_misses_nothing_of_a_run_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(watch, "CHUNK", chunk)
    seen: list[bytes] = []
    pids: list[int] = []

    def think(line: bytes) -> bool:
        (tmp_path / "work" / "go").touch()
        while psutil.pid_exists(pids[0]):
            time.sleep(0.01)
        seen.append(line)
        return False

    # 64 KiB fit into each of two pipes, and the warden holds as much: at the end some of it is in each of them
    code = """if 1:
        import os, time
        os.write(1, b'first\\n')
        while not os.path.exists('go'):
            time.sleep(0.01)
        os.write(1, b''.join(b'%089d\\n' % i for i in range(2000)))
    """
    ending = run(tmp_path, code, until=think, on_start=pids.append)

    assert ending.outcome is Outcome.OK
    assert seen == [b"first\n", *(b"%089d\n" % i for i in range(2000))]
    assert log_of(tmp_path).encode() == b"".join(seen)


SAVES_LOUDLY = """if 1:
    import os, signal, sys, time
    def save(*_):
        for _ in range(1000):
            os.write(1, b'x' * 999 + b'\\n')
        os._exit(0)
    signal.signal(15, save)
    os.write(1, b'there\\n')
    while True:
        time.sleep(600)
"""


@pytest.mark.parametrize("is_target", [True, False])
def test_a_run_that_is_ended_may_write_as_much_as_it_likes(
    tmp_path: Path, kept_handlers: None, is_target: bool
) -> None:
    def reach_or_stop(line: bytes) -> bool:
        if not is_target:
            os.kill(os.getpid(), signal.SIGTERM)
        return is_target

    ending = run(tmp_path, SAVES_LOUDLY, until=reach_or_stop, limits=replace(LIMITS, grace_s=20.0))

    assert ending.outcome is (Outcome.OK if is_target else Outcome.INTERRUPTED)
    assert (ending.exit_code, ending.log_bytes) == (0, 1_000_006)


def test_a_signal_beside_the_line_that_reaches_the_target_comes_first(tmp_path: Path, kept_handlers: None) -> None:
    def interrupt(pid: int) -> None:
        while not log_of(tmp_path):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    code = "import time; print('there', flush=True); time.sleep(600)"
    ending = run(tmp_path, code, until=reaches(b"there\n"), on_start=interrupt)

    assert (ending.outcome, ending.seconds_to_target) == (Outcome.INTERRUPTED, None)


def test_the_time_to_the_target_counts_from_the_start_of_the_run() -> None:
    account: dict[str, Any] = {
        "exit_code": None, "signal": 15, "started": 100.0, "wall_s": 5.0, "cpu_s": 1.0, "peak_bytes": 1, "reason": "stopped",
        "survivors": [], "log_bytes": 0, "log_error": "",
    }  # fmt: skip

    ending = judge(account, LIMITS, Skew(0.0, 0.0, 5.0), Told(b"", Path("/"), 103.25))
    asleep = judge(account, LIMITS, Skew(0.0, 60.0, 5.0), Told(b"", Path("/"), 103.25))

    assert (ending.outcome, ending.seconds_to_target) == (Outcome.OK, 3.25)
    assert (asleep.outcome, asleep.seconds_to_target) == (Outcome.INTERRUPTED, None)


def test_what_a_predicate_raises_passes_through_and_the_run_is_killed(tmp_path: Path) -> None:
    pids: list[int] = []

    def fail(line: bytes) -> bool:
        raise LookupError("in the predicate")

    with pytest.raises(LookupError, match="in the predicate"):
        run(tmp_path, "import time; print(1, flush=True); time.sleep(600)", until=fail, on_start=pids.append)

    assert not psutil.pid_exists(pids[0])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_target_is_seen_when_the_logs_disk_is_full(tmp_path: Path) -> None:
    code = "import time; print('there', flush=True); time.sleep(600)"

    assert run(tmp_path, code, until=reaches(b"there\n"), log=Path("/dev/full")).seconds_to_target is not None


# ---- the record


def test_an_ending_survives_json() -> None:
    ending = Ending(
        Outcome.CRASHED, exit_code=1, wall_s=1.25, cpu_s=0.5, peak_memory_mb=12.125, clock_skew_s=-0.001,
        failure=Failure("ValueError", "bad", "train.py:1 in f"), reason="bad", survivors=(4, 5), log_bytes=9,
        stop_signal=2, log_error="No space left on device", seconds_to_target=0.75,
    )  # fmt: skip

    assert Ending.from_json(ending.to_json()) == ending
    assert ending.to_json()["outcome"] == "crashed"


def test_an_ending_written_before_a_field_existed_is_still_read() -> None:
    value = Ending(Outcome.OK).to_json()
    del value["log_error"], value["seconds_to_target"]

    assert Ending.from_json(value) == Ending(Outcome.OK)


def test_marked_processes_are_found_by_their_environment() -> None:
    command = [sys.executable, "-I", "-S", "-c", "input()"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={MARKER: "of-this-test"})

    found = marked_processes("of-this-test")
    process.communicate(b"\n")

    assert found == [process.pid]
    assert marked_processes("of-this-test") == []
