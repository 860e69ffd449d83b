"""Make the plugin's own environment: one at a time, never half, and saying plainly what is missing."""

from __future__ import annotations

import collections
import fcntl
import functools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

from launcher.environment import is_current, mark_used, no_source, read, read_stamp, wanted_extras, write_stamp
from launcher.problem import Problem, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OLDEST, NEWEST = 11, 14  # of Python 3
_KEEP_S = 7 * 86400.0  # a night may still run in an environment that was replaced
_SHOWN_LINES, _SHOWN_CHARACTERS = 12, 200
_PIP_OPTIONS = ("--disable-pip-version-check", "--no-input", "--progress-bar", "off")
_VERSION = re.compile(r"^__version__ = [\"']([^\"']+)", re.MULTILINE)
_PROGRESS = re.compile(r"\s*(Downloading|Building|Installing|Resolved|Prepared|Installed)\b")
_FULL = re.compile("no space left|os error 28|disk quota", re.IGNORECASE)
_UNREACHABLE = re.compile(
    "no matching distribution|name resolution|name or service|nodename nor servname|connection (refused|error|reset)"
    "|failed to establish|network is unreachable|dns error|error sending request|failed to fetch|timed out|network was disabled",
    re.IGNORECASE,
)


def set_up(home: str, source: str, digest: str) -> dict[str, Any]:
    """Make the environment while holding the lock; whoever comes second waits and finds it made. Returns its stamp."""
    if not source:
        raise no_source()
    lock = acquire(home)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is half made goes with us
    stamp = read_stamp(home)
    if not is_current(stamp, digest):
        remove_old(home, stamp.get("environment", ""))
        stamp = build(
            home, source, digest, extras=wanted_extras() or stamp.get("extras") or default_extras(), lock=lock
        )
    os.close(lock)
    return stamp


def default_extras() -> str:
    """The parts that run everywhere; which CUDA there is, only the user knows."""
    return "gpt,sweep" if sys.platform == "darwin" else "cpu,gpt,sweep"


def acquire(home: str) -> int:
    """Take the lock. The installers started under it hold it too: after a kill nobody builds beside an orphan."""
    try:
        os.makedirs(os.path.join(home, "environments"), exist_ok=True)
        lock = os.open(os.path.join(home, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise Problem(
            f"The folder {home} cannot be written ({error.strerror}). autoexperiment installs itself there, or where "
            "AUTOEXPERIMENT_HOME says. Type: export AUTOEXPERIMENT_HOME=/a/folder/of/yours"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        tell("another mlx is setting itself up at this moment; waiting for it ...")
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def remove_old(home: str, current: str) -> None:
    """Delete what a kill left half made, and environments that nobody has started for a week."""
    for entry in os.scandir(os.path.join(home, "environments")):
        used = os.path.join(entry.path, "used")
        is_recent = os.path.exists(used) and time.time() - os.stat(used).st_mtime < _KEEP_S
        if entry.name != current and not is_recent:
            shutil.rmtree(entry.path, ignore_errors=True)


def build(home: str, source: str, digest: str, *, extras: str, lock: int) -> dict[str, Any]:
    """Make a new environment under a name of its own; it counts only once the stamp names it."""
    version = _VERSION.search(read(os.path.join(source, "autoexperiment", "__init__.py")))
    name = f"{version.group(1) if version else 'unknown'}-{os.urandom(4).hex()}"
    folder = os.path.join(home, "environments", name)
    try:
        install(folder, source, extras=extras, lock=lock)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    mark_used(folder)
    stamp = {"environment": name, "source": source, "digest": digest, "extras": extras}
    write_stamp(home, stamp)
    tell("ready")
    return stamp


def install(folder: str, source: str, *, extras: str, lock: int) -> None:
    """Create the environment in `folder`, install the package with its optional parts, and see that it starts."""
    uv = shutil.which("uv")
    interpreter = find_interpreter(uv)
    tell(f"first use: installing autoexperiment [{extras}] into {folder}. This takes a few minutes, once.")
    execute = functools.partial(run, cwd=os.path.dirname(folder), lock=lock)
    python = os.path.join(folder, "bin", "python")
    constraints = os.path.join(source, "constraints.txt")
    wanted = ["--constraint", constraints] if os.path.exists(constraints) else []
    wanted.append(f"autoexperiment[{extras}] @ {pathlib.Path(source).as_uri()}")
    if uv:
        execute([uv, "venv", "--python", interpreter, folder], "create a virtual environment")
        # without a refresh uv takes its cached build for as long as pyproject.toml stays the same
        pip = [uv, "pip", "install", "--python", python, "--refresh-package", "autoexperiment"]
    else:
        execute([interpreter, "-m", "venv", folder], "create a virtual environment")
        pip = [python, "-m", "pip", "install", *_PIP_OPTIONS]
    execute([*pip, *wanted], "install autoexperiment and what it needs")
    execute([python, os.path.join(folder, "bin", "mlx"), "--version"], "start what was installed")


def find_interpreter(uv: str | None) -> str:
    """A python that autoexperiment runs on: this one, another on the PATH, or whatever uv can get.

    Raises: Problem: there is none, or it lacks what makes environments.
    """
    names = [sys.executable, *(f"python3.{minor}" for minor in range(NEWEST, OLDEST - 1, -1))]
    paths = [path for path in map(shutil.which, names) if path]
    usable = [
        path
        for path in paths
        if can(path, f"import sys; sys.exit(not (3, {OLDEST}) <= sys.version_info[:2] <= (3, {NEWEST}))")
    ]
    if uv:
        return usable[0] if usable else f">=3.{OLDEST},<3.{NEWEST + 1}"
    whole = [path for path in usable if can(path, "import ensurepip, venv")]
    if whole:
        return whole[0]
    if usable:
        raise Problem(
            f"{usable[0]} cannot make virtual environments: its parts venv and ensurepip are missing. "
            "autoexperiment installs itself into one. Type: sudo apt install python3-venv"
        )
    raise Problem(
        f"This python3 is {sys.version.split()[0]} ({sys.executable}). autoexperiment needs 3.{OLDEST} to 3.{NEWEST}, "
        "or uv, which fetches one. Type: brew install python@3.13 (macOS) or "
        "sudo apt install python3 python3-venv (Debian 12, Ubuntu 24.04 or newer), or install uv"
    )


def can(python: str, code: str) -> bool:
    """Whether the interpreter runs the code; a shim for a version that is not there does not."""
    try:
        return subprocess.run([python, "-I", "-c", code], stdin=subprocess.DEVNULL, capture_output=True).returncode == 0
    except OSError:
        return False


def clean_environment() -> dict[str, str]:
    """The environment without what would make an installer write or read elsewhere; indexes and proxies stay."""
    strays = {"VIRTUAL_ENV", "CONDA_PREFIX", "PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_REQUIREMENT"}
    return {name: value for name, value in os.environ.items() if name not in strays and not name.startswith("PYTHON")}


def run(command: list[str], purpose: str, *, cwd: str, lock: int) -> None:
    """Run one installer and show its progress, away from the project: its settings are not meant for this.

    Raises: Problem: it failed; the message carries its last lines.
    """
    last: collections.deque[str] = collections.deque(maxlen=_SHOWN_LINES)
    with subprocess.Popen(
        command, cwd=cwd, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", pass_fds=(lock,),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last.append(line.rstrip()[:_SHOWN_CHARACTERS])
                if _PROGRESS.match(line):
                    tell(last[-1].strip())
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise Problem(explain(purpose, process.returncode, "\n".join(last)))


def explain(purpose: str, code: int, said: str) -> str:
    """What went wrong in plain words, with the installer's own at the end."""
    if _FULL.search(said):
        cause = "The disk is full; about 2 GB are needed. Free some, then type the same again."
    elif _UNREACHABLE.search(said):
        cause = (
            "The package index cannot be reached, or does not have what is needed. Once installed, everything works "
            "offline. Type the same again with a network, or with PIP_NO_INDEX=1 PIP_FIND_LINKS=/folder/of/wheels "
            "(UV_ instead of PIP_ where uv is installed)."
        )
    else:
        cause = "Nothing was left behind. Mend what its last lines say, then type the same again."
    return f"Could not {purpose} (exit code {code}). {cause}\nIts last lines:\n{said}"
