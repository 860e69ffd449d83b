"""Keeping the machine awake with stub programs: nothing outlives its night; and what is said of power and sleep."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from autoexperiment.awake import Power, Sleep, keep_awake, power, read_pmset
from autoexperiment.clocks import Clock

ROOT = Path(__file__).resolve().parent.parent
# Like the real one: it takes the lock, then starts the command as a child and waits for it.
INHIBIT = """#!/bin/sh
echo "$$" > "$STUB_LOG.pid"
printf '%s\\n' "$@" > "$STUB_LOG"
while [ "${1#--}" != "$1" ]; do shift; done
"$@"
"""
NO_BUS = """#!/bin/sh
echo 'Failed to connect to bus: No such file' >&2
exit 1
"""
# Like the real one: it ends with the process that it is told to wait for.
CAFFEINATE = """#!/bin/sh
echo "$$" > "$STUB_LOG.pid"
printf '%s\\n' "$@" > "$STUB_LOG"
while kill -0 "$3" 2>/dev/null; do sleep 0.05; done
"""
NIGHT = """
import sys, time
from autoexperiment.awake import keep_awake
with keep_awake("a night", platform=sys.argv[1]) as fault:
    print(fault or "awake", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stubs write their words; the folder of the stubs comes first on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("STUB_LOG", str(tmp_path / "words"))
    return tmp_path / "words"


def stub(log: Path, name: str, script: str) -> None:
    file = log.parent / "bin" / name
    file.write_text(script)
    file.chmod(0o755)


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually_gone(processes: list[psutil.Process]) -> bool:
    """Whether they all end, given time."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(map(has_ended, processes)):
        time.sleep(0.01)
    return all(map(has_ended, processes))


def holder_of(log: Path) -> psutil.Process:
    """The stub that was started; it may need a moment to say who it is."""
    file = Path(f"{log}.pid")
    while not (file.exists() and file.read_text().strip()):
        time.sleep(0.01)
    return psutil.Process(int(file.read_text()))


def with_children(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def begin_night(platform: str) -> subprocess.Popen[str]:
    """A process of its own that keeps the machine awake."""
    night = subprocess.Popen(
        [sys.executable, "-c", NIGHT, platform], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert night.stdout is not None
    assert night.stdout.readline() == "awake\n"
    return night


def end_night(night: subprocess.Popen[str], number: int) -> None:
    night.send_signal(number)
    night.wait()
    assert night.stdout is not None
    night.stdout.close()


# ---- Linux


def test_linux_lock_is_held_while_the_block_runs_and_no_longer(log: Path) -> None:
    stub(log, "systemd-inhibit", INHIBIT)

    with keep_awake("experiments of mar5", platform="linux") as fault:
        processes = with_children(holder_of(log))
        running = [process.is_running() for process in processes]
        session = os.getsid(processes[0].pid)

    assert fault == ""
    assert session == processes[0].pid  # Ctrl-C in this terminal is not for it
    assert len(running) > 1 and all(running)
    assert eventually_gone(processes)
    words = log.read_text().splitlines()
    assert words[:4] == ["--what=sleep:idle", "--mode=block", "--who=autoexperiment", "--why=experiments of mar5"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_linux_lock_ends_with_the_process_that_asked_for_it(log: Path, number: int) -> None:
    stub(log, "systemd-inhibit", INHIBIT)
    night = begin_night("linux")
    processes = with_children(holder_of(log))

    end_night(night, number)

    assert len(processes) > 1
    assert eventually_gone(processes)


def test_linux_holder_that_was_killed_leaves_nobody_behind(log: Path) -> None:
    stub(log, "systemd-inhibit", INHIBIT)

    with keep_awake("a night", platform="linux") as fault:
        holder, *children = with_children(holder_of(log))
        holder.kill()

    assert fault == ""
    assert children
    assert eventually_gone([holder, *children])


def test_linux_holder_that_does_not_end_by_itself_is_killed(log: Path) -> None:
    deaf = 'echo "$$" > "$STUB_LOG.pid"; echo held; trap "" TERM; while :; do sleep 0.1; done'
    stub(log, "systemd-inhibit", f"#!/bin/sh\n{deaf}\n")

    with keep_awake("a night", platform="linux") as fault:
        processes = with_children(holder_of(log))

    assert fault == ""
    assert eventually_gone(processes)


def test_children_of_the_night_do_not_keep_the_lock(log: Path) -> None:
    """A run that outlives its loop must not keep the machine awake: it would hold the other end of the pipe."""
    stub(log, "systemd-inhibit", INHIBIT)

    with keep_awake("a night", platform="linux"):
        processes = with_children(holder_of(log))
        other = subprocess.Popen(["/bin/sleep", "600"], close_fds=False)
    is_gone = eventually_gone(processes)
    other.kill()
    other.wait()

    assert is_gone


def test_linux_without_a_bus_says_why(log: Path) -> None:
    stub(log, "systemd-inhibit", NO_BUS)

    with keep_awake("a night", platform="linux") as fault:
        pass

    assert fault == "systemd-inhibit failed (Failed to connect to bus: No such file)."


def test_linux_service_that_never_answers_costs_only_patience(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexperiment.awake.START_S", 0.2)
    stub(log, "systemd-inhibit", '#!/bin/sh\necho "$$" > "$STUB_LOG.pid"\nexec sleep 600\n')

    with keep_awake("a night", platform="linux") as fault:
        pass

    assert fault == "systemd-inhibit failed (no answer)."
    assert not psutil.pid_exists(int(Path(f"{log}.pid").read_text()))


def test_linux_without_systemd_says_so(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(log.parent / "bin"))

    with keep_awake("a night", platform="linux") as fault:
        pass

    assert fault == "systemd-inhibit is not installed."


def test_program_that_can_t_be_started_does_not_end_the_night(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(log.parent / "bin"))
    stub(log, "systemd-inhibit", "#!/no/such/interpreter\n")

    with keep_awake("a night", platform="linux") as fault:
        pass

    assert fault == "systemd-inhibit can't be started: No such file or directory."


def test_failure_inside_the_block_passes_through_and_frees_the_lock(log: Path) -> None:
    stub(log, "systemd-inhibit", INHIBIT)

    with pytest.raises(KeyError, match="planted"), keep_awake("a night", platform="linux"):
        processes = with_children(holder_of(log))
        raise KeyError("planted")

    assert eventually_gone(processes)


# ---- macOS and others


def test_macos_caffeinate_waits_for_this_process(log: Path) -> None:
    stub(log, "caffeinate", CAFFEINATE)

    with keep_awake("a night", platform="darwin") as fault:
        processes = with_children(holder_of(log))
        words = log.read_text().split()

    assert fault == ""
    assert words == ["-is", "-w", str(os.getpid())]
    assert eventually_gone(processes)


def test_macos_caffeinate_ends_with_a_killed_night(log: Path) -> None:
    stub(log, "caffeinate", CAFFEINATE)
    night = begin_night("darwin")
    holder = holder_of(log)

    end_night(night, signal.SIGKILL)

    assert eventually_gone([holder])


@pytest.mark.parametrize(
    ("script", "fault"),
    [("#!/bin/sh\nexit 64\n", "caffeinate ended at once (status 64)."), ("", "caffeinate is not there.")],
)
def test_macos_caffeinate_that_does_not_work_is_named(
    log: Path, monkeypatch: pytest.MonkeyPatch, script: str, fault: str
) -> None:
    monkeypatch.setattr("autoexperiment.awake.SETTLE_S", 20.0)
    if script:
        stub(log, "caffeinate", script)

    with keep_awake("a night", platform="darwin") as found:
        pass

    assert found == fault


def test_other_systems_are_told_that_no_way_is_known() -> None:
    with keep_awake("a night", platform="freebsd") as fault:
        pass

    assert fault == "No way is known to keep freebsd awake."


# ---- power


def supplies(root: Path, **each: dict[str, str]) -> Path:
    """A folder like /sys/class/power_supply."""
    for name, facts in each.items():
        (root / name).mkdir(parents=True)
        for fact, value in facts.items():
            (root / name / fact).write_text(f"{value}\n")
    return root


PLUGGED, UNPLUGGED = ({"type": "Mains", "online": online} for online in "10")


def battery(status: str, capacity: str, **more: str) -> dict[str, str]:
    return {"type": "Battery", "status": status, "capacity": capacity, **more}


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ({}, Power("unknown", None)),
        ({"AC": PLUGGED}, Power("mains", None)),
        ({"AC": PLUGGED, "BAT0": battery("Charging", "81")}, Power("mains", 81)),
        ({"AC": UNPLUGGED, "BAT0": battery("Discharging", "64")}, Power("battery", 64)),
        ({"AC": UNPLUGGED, "BAT0": battery("Unknown", "64")}, Power("battery", 64)),
        ({"AC": UNPLUGGED}, Power("unknown", None)),
        # a weak charger: plugged in, and losing charge all the same
        ({"AC": PLUGGED, "BAT0": battery("Discharging", "50")}, Power("mains", 50)),
        # two batteries: their mean
        ({"AC": UNPLUGGED, "BAT0": battery("Discharging", "20"), "BAT1": battery("Unknown", "81")}, Power("battery", 50)),
        # USB-C at a voltage that was agreed on
        ({"AC": UNPLUGGED, "usb": {"type": "USB", "online": "2"}, "BAT0": battery("Full", "100")}, Power("mains", 100)),
        # a machine that lists its battery only
        ({"macsmc": battery("Discharging", "7")}, Power("battery", 7)),
        ({"macsmc": battery("Not charging", "80")}, Power("mains", 80)),
        # the battery of a mouse says nothing about the machine
        ({"hid": battery("Discharging", "12", scope="Device")}, Power("unknown", None)),
        ({"AC": PLUGGED, "hid": battery("Discharging", "12", scope="Device")}, Power("mains", None)),
    ],
)  # fmt: skip
def test_linux_power_supplies_are_understood(tmp_path: Path, each: dict[str, dict[str, str]], expected: Power) -> None:
    root = supplies(tmp_path / "power_supply", **each)

    assert power(root, platform="linux") == expected


def test_supply_that_can_t_be_read_is_passed_over(tmp_path: Path) -> None:
    root = supplies(tmp_path / "power_supply", AC=PLUGGED, BAT0=battery("Charging", ""))
    (root / "BAT0" / "capacity").unlink()
    (root / "BAT0" / "capacity").mkdir()

    assert power(root, platform="linux") == Power("mains", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Now drawing from 'AC Power'\n", Power("mains", None)),
        (
            "Now drawing from 'AC Power'\n -InternalBattery-0 (id=4653155)\t100%; charged; 0:00 remaining present: true\n",
            Power("mains", 100),
        ),
        (
            "Now drawing from 'Battery Power'\n"
            " -InternalBattery-0 (id=4653155)\t83%; discharging; 5:12 remaining present: true\n",
            Power("battery", 83),
        ),
        (
            "Now drawing from 'Battery Power'\n"
            " -InternalBattery-0 (id=4653155)\t9%; discharging; (no estimate) present: true\n",
            Power("battery", 9),
        ),
        (
            "Now drawing from 'UPS Power'\n -Back-UPS ES 700 (id=1)\t95%; discharging; 0:30 remaining present: true\n",
            Power("battery", 95),
        ),
        ("", Power("unknown", None)),
        ("No batteries available\n", Power("unknown", None)),
    ],
)
def test_macos_words_on_power_are_understood(text: str, expected: Power) -> None:
    assert read_pmset(text) == expected


def test_macos_is_asked_for_its_batteries(log: Path) -> None:
    stub(log, "pmset", "#!/bin/sh\n[ \"$*\" = '-g batt' ] && printf \"Now drawing from 'AC Power'\\n\"\n")

    assert power(platform="darwin") == Power("mains", None)


def test_macos_without_an_answer_is_unknown(log: Path) -> None:
    assert power(platform="darwin") == Power("unknown", None)


# ---- sleep


class Clocks:
    """Three clocks under a test's control."""

    def __init__(self) -> None:
        self.awake = self.slept = 0.0

    def clock(self) -> Clock:
        whole = lambda: self.awake + self.slept  # noqa: E731
        return Clock(wall=lambda: 1e9 + whole(), awake=lambda: self.awake, with_sleep=whole)


def test_sleep_is_what_one_clock_missed() -> None:
    clocks = Clocks()
    sleep = Sleep(clocks.clock())

    clocks.awake, clocks.slept = 100.0, 3600.0

    assert sleep.seconds == 3600.0


def test_clocks_that_drift_apart_a_little_are_no_sleep() -> None:
    clocks = Clocks()
    sleep = Sleep(clocks.clock())

    clocks.awake, clocks.slept = 10_000.0, 6.9  # 2 s and 0.5 ms a second: 7 s

    assert sleep.seconds == 0.0


def test_sleep_before_the_beginning_does_not_count() -> None:
    clocks = Clocks()
    clocks.slept = 3600.0

    assert Sleep(clocks.clock()).seconds == 0.0


def test_this_machine_does_not_sleep_during_a_test() -> None:
    assert Sleep().seconds == 0.0
