"""The warden by itself: how quickly it is there, what it is told, and what it says."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import supervisor, warden
from autoexperiment.errors import Refused
from autoexperiment.supervisor import Limits, supervise
from autoexperiment.vocabulary import Outcome

LIMITS = Limits(60.0, grace_s=0.2)
SLOW = {"contextlib", "enum", "importlib.machinery", "json", "re", "signal", "typing"}


def run(folder: Path, command: list[str], *, limits: Limits = LIMITS, **options: Any) -> supervisor.Ending:
    return supervise(command, cwd=folder, log=folder / "run.log", limits=limits, **{"env": {}, **options})


def copied(folder: Path, confine: str = "") -> Path:
    """A warden of one's own, with a `confine.py` beside it."""
    folder.mkdir()
    shutil.copy(warden.__file__, folder / "warden.py")
    (folder / "confine.py").write_text(confine)
    return folder / "warden.py"


def test_it_imports_nothing_that_takes_long() -> None:
    """Each of these costs 1 to 8 ms, before each run."""
    code = f"import sys; sys.path.append({str(Path(warden.__file__).parent)!r}); import warden; print(*sys.modules)"

    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)

    assert not SLOW & set(answer.stdout.split())


def test_it_is_compiled_once_and_not_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_WARDEN", copied(tmp_path / "package"))

    ending = run(tmp_path, ["/bin/echo", "fine"])

    assert ending.outcome is Outcome.OK
    assert [path.name.split(".")[0] for path in (tmp_path / "package" / "__pycache__").iterdir()] == ["warden"]


def test_it_is_compiled_again_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(tmp_path / "package")
    monkeypatch.setattr(supervisor, "_WARDEN", path)
    run(tmp_path, ["/bin/echo"])
    path.write_text("import os, sys\nos.close(int(sys.argv[1]))\n")

    ending = run(tmp_path, ["/bin/echo"])

    assert "warden died without a report" in ending.reason


def test_an_environment_larger_than_a_pipe_reaches_the_run(tmp_path: Path) -> None:
    names = {f"NAME_{number}": chr(97 + number) * 60_000 for number in range(5)}
    code = "import os; print(sum(len(value) for name, value in os.environ.items() if name.startswith('NAME_')))"

    run(tmp_path, [sys.executable, "-I", "-S", "-c", code], env=names)

    assert (tmp_path / "run.log").read_text() == "300000\n"


def test_values_of_subclasses_are_told_as_what_they_are(tmp_path: Path) -> None:
    run(tmp_path, ["/usr/bin/env"], env={"WORD": Outcome.OK})

    assert "WORD=ok" in (tmp_path / "run.log").read_text().splitlines()


def test_words_that_are_no_unicode_reach_the_run_as_they_are(tmp_path: Path) -> None:
    run(tmp_path, ["/bin/echo", os.fsdecode(b"\xff\xfe")])

    assert (tmp_path / "run.log").read_bytes() == b"\xff\xfe\n"


@pytest.mark.parametrize("said", [b"", b"50", b"50\n", b"50\n{"])
def test_a_supervisor_that_dies_before_it_has_said_all_leaves_no_warden(said: bytes, tmp_path: Path) -> None:
    report, report_end = os.pipe()
    lifeline_end, lifeline = os.pipe()
    log = os.open(tmp_path / "run.log", os.O_RDWR | os.O_CREAT)
    fds = [report_end, lifeline_end, log]
    words = [sys.executable, "-I", "-S", warden.__file__, *map(str, fds)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, pass_fds=fds)
    for fd in fds:
        os.close(fd)

    os.write(lifeline, said)
    os.close(lifeline)

    with os.fdopen(report, "rb") as pipe:
        assert pipe.read() == b""
    assert (process.wait(), process.communicate()[1]) == (0, b"")


@pytest.mark.parametrize("why", ["no 'such' \"thing\"", "two\nlines", "tiếng Việt \U0001f600", "\\x41"])
def test_what_it_says_in_words_arrives_whatever_they_hold(
    why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confine = f"def bind_to_cpus(count): raise OSError(1, {why!r})"
    monkeypatch.setattr(supervisor, "_WARDEN", copied(tmp_path / "package", confine))

    with pytest.raises(Refused) as caught:
        run(tmp_path, ["/bin/echo"], limits=Limits(60.0, cpus=1))

    assert why in str(caught.value)


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_one_that_takes_its_time_to_end_is_waited_for(
    has_pidfd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "warden.py"
    slow.write_text("import os, sys, time\nos.close(int(sys.argv[1]))\ntime.sleep(0.2)\nos._exit(7)\n")
    monkeypatch.setattr(supervisor, "_WARDEN", slow)
    if not has_pidfd:  # as on macOS
        monkeypatch.delattr(os, "pidfd_open", raising=False)

    assert "warden died without a report (status 7)" in run(tmp_path, ["/bin/echo"]).reason


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_one_that_does_not_end_is_killed(has_pidfd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = tmp_path / "warden.py"
    stopped.write_text("import os, sys, signal\nos.close(int(sys.argv[1]))\nos.kill(os.getpid(), signal.SIGSTOP)\n")
    monkeypatch.setattr(supervisor, "_WARDEN", stopped)
    monkeypatch.setattr(supervisor, "BACKSTOP_S", 0.2)
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)

    ending = run(tmp_path, ["/bin/echo"])

    assert f"warden died without a report (status -{int(signal.SIGKILL)})" in ending.reason


def test_whom_a_signal_does_not_reach_is_passed_over() -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    with subprocess.Popen(["/bin/true"]) as gone:
        pass

    warden.send(os.kill, gone.pid, signal.SIGTERM)
    warden.send(refuse, 1, signal.SIGTERM)


def test_a_supervisor_that_no_longer_listens_is_no_fault() -> None:
    report, report_end = os.pipe()
    spec: dict[str, Any] = {"log_head_bytes": 0, "log_tail_bytes": 0}
    speaking = warden.Warden(spec, report_fd=report_end, lifeline_fd=-1, log_fd=-1, copy_fd=-1)

    os.close(report)
    speaking.tell(b"1\n")

    os.close(report_end)
