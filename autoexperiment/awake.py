"""Keep the machine awake through a night, and know what it runs on and whether it slept all the same."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from autoexperiment import clocks
from autoexperiment.clocks import SKEW_S, SLEW, Clock, Skew

START_S = 10.0  # patience with systemd-inhibit, which asks a service
SETTLE_S = 0.5  # a caffeinate that fails has ended by then
END_S = 2.0
POWER_SUPPLIES = Path("/sys/class/power_supply")
Source = Literal["mains", "battery", "unknown"]


# ---- staying awake


@contextlib.contextmanager
def keep_awake(reason: str, *, platform: str = sys.platform) -> Iterator[str]:
    """Keep the machine from falling asleep while the block runs, or this process; yields why it can't be kept, or "".

    It ends with this process, also after `kill -9`. The display may go dark, and a closed lid may still win.
    """
    holder, fault = _held(reason, platform)
    try:
        yield fault
    finally:
        if holder is not None:
            _end(holder)


def _held(reason: str, platform: str) -> tuple[subprocess.Popen[bytes] | None, str]:
    """The process that keeps the machine awake, or None and why there is none."""
    hold = {"linux": _inhibit, "darwin": _caffeinate}.get(platform)
    if hold is None:
        return None, f"No way is known to keep {platform} awake."
    try:
        return hold(reason)
    except OSError as error:
        return None, f"{error.filename or 'The program'} can't be started: {error.strerror}."


def _inhibit(reason: str) -> tuple[subprocess.Popen[bytes] | None, str]:
    """The lock is held while a child reads a pipe that only this process can write to: it ends when we do."""
    if shutil.which("systemd-inhibit") is None:
        return None, "systemd-inhibit is not installed."
    command = ["systemd-inhibit", "--what=sleep:idle", "--mode=block", "--who=autoexperiment", f"--why={reason}"]
    child = ["/bin/sh", "-c", "echo held; exec cat >/dev/null"]  # started once the lock is taken
    holder = subprocess.Popen(
        [*command, *child], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C is not for it, and nobody can be asked for a password
    )  # fmt: skip
    said = _heard(holder)
    if said.endswith(b"held\n"):
        return holder, ""
    _end(holder)
    told = " ".join(said.decode("utf-8", "replace").split())[-200:]
    return None, f"systemd-inhibit failed ({told or 'no answer'})."


def _heard(holder: subprocess.Popen[bytes]) -> bytes:
    """What it says until the lock is held, it ends, or patience does."""
    assert holder.stdout is not None
    said, deadline = b"", time.monotonic() + START_S
    while not said.endswith(b"held\n") and (left := deadline - time.monotonic()) > 0:
        if not select.select([holder.stdout], [], [], left)[0]:
            break
        if not (blob := os.read(holder.stdout.fileno(), 4096)):
            break
        said += blob
    return said


def _caffeinate(_: str) -> tuple[subprocess.Popen[bytes] | None, str]:
    """`-is`, never `-d`: with the display on, Metal's watchdog kills long runs (ml-explore/mlx #3267)."""
    command = ["caffeinate", "-is", "-w", str(os.getpid())]
    if shutil.which("caffeinate") is None:
        return None, "caffeinate is not there."
    silent = subprocess.DEVNULL
    holder = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent, start_new_session=True)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return None, f"caffeinate ended at once (status {holder.wait(SETTLE_S)})."
    return holder, ""


def _end(holder: subprocess.Popen[bytes]) -> None:
    """End a holder and its children. A holder that was killed has left its child, which ends with the pipe."""
    if holder.stdin is not None:
        holder.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            holder.wait(END_S)
    if holder.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(holder.pid, signal.SIGKILL)
        holder.wait()
    if holder.stdout is not None:
        holder.stdout.close()


# ---- what it runs on


@dataclass(frozen=True)
class Power:
    """Where the power comes from, and how full the batteries are on average, if there are any."""

    source: Source = "unknown"
    percent: int | None = None


def power(root: Path = POWER_SUPPLIES, *, platform: str = sys.platform) -> Power:
    """What this machine runs on now. `root`: Linux's list of power supplies."""
    if platform == "darwin":
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            answer = subprocess.run(["pmset", "-g", "batt"], capture_output=True, text=True, timeout=START_S)
            return read_pmset(answer.stdout)
        return Power()
    supplies = [_facts(folder) for folder in sorted(root.glob("*"))]
    own = [supply for supply in supplies if supply["scope"] != "Device"]  # a mouse has a battery too
    batteries = [supply for supply in own if supply["type"] == "Battery"]
    feeds = [supply for supply in own if supply not in batteries and supply["online"]]
    levels = [int(battery["capacity"]) for battery in batteries if battery["capacity"].isdigit()]
    return Power(_source(feeds, batteries), round(sum(levels) / len(levels)) if levels else None)


def _facts(supply: Path) -> dict[str, str]:
    """What a power supply says of itself; "" for what it does not say."""
    found = dict.fromkeys(("type", "scope", "online", "status", "capacity"), "")
    for name in found:
        with contextlib.suppress(OSError):  # a driver may refuse any of them at any time
            found[name] = (supply / name).read_text().strip()
    return found


def _source(feeds: list[dict[str, str]], batteries: list[dict[str, str]]) -> Source:
    if any(feed["online"] != "0" for feed in feeds):  # 1: plugged in; 2: at a voltage of its own
        return "mains"
    states = {battery["status"] for battery in batteries}
    if "Discharging" in states or (feeds and batteries):
        return "battery"
    return "mains" if states & {"Charging", "Full", "Not charging"} else "unknown"


def read_pmset(text: str) -> Power:
    """What `pmset -g batt` says. A UPS that feeds the machine is a battery."""
    named = re.search(r"drawing from '([A-Z]\w+) Power'", text)
    sources: dict[str, Source] = {"AC": "mains", "Battery": "battery", "UPS": "battery"}
    levels = [int(level) for level in re.findall(r"\t(\d{1,3})%;", text)]
    source = sources.get(named[1], "unknown") if named else "unknown"
    return Power(source, round(sum(levels) / len(levels)) if levels else None)


# ---- whether it slept


@dataclass(frozen=True)
class Sleep:
    """How long the machine has slept since this was made, by the clock that stands still meanwhile."""

    clock: Clock = clocks.SYSTEM
    began: tuple[float, float, float] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "began", self.clock.read())

    @property
    def seconds(self) -> float:
        """0.0 as long as the clocks lie no further apart than clocks do."""
        skew = Skew.since(self.began, self.clock)
        return skew.slept_s if skew.slept_s > SKEW_S + SLEW * skew.awake_s else 0.0
