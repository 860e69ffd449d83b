"""A fence around what a command writes: it and all it starts change files only below the places it is given.

Usage: python -I -S fence.py PLACE… -- COMMAND…   (becomes the command; exit 125: no fence, so it was not started)

Linux has landlock for this, for root and everybody else, also in most containers; macOS has sandbox-exec. Reading
stays free. A fence can't be left: children, threads and programs that are started later stand behind the same one.
Nobody behind it gains privileges (sudo fails), mounts anything or traces a process outside; from Linux 6.12 on
(landlock's version 6), and on macOS, no signal gets out either.

What Linux lets through all the same: a change of mode, owner, times, locks and extended attributes of files that
exist; what an open file descriptor from before can do; what a service behind a unix socket does when it is asked to
(Docker, systemd); and before Linux 6.2 (version 3), truncate(2) of any file. It stops accidents and short cuts. It
is no prison for a program that attacks the kernel.

The package's own modules are not imported, so that the file can be run by its path.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
import stat
import struct
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

NO_FENCE = 125  # the exit code, as timeout(1) and env(1) have it for a failure of their own
TRIAL_TIMEOUT_S = 20.0
# Linux, from <linux/prctl.h>, <linux/landlock.h>; the numbers of the calls are the same on every processor
PR_SET_NO_NEW_PRIVS = 38
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, PATH_BENEATH = 1, 1
WRITE_FILE, REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 1 << 1, 1 << 4, 1 << 5, 1 << 6, 1 << 7
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = 1 << 8, 1 << 9, 1 << 10, 1 << 11, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
SCOPE_SIGNAL = 1 << 1
# Device nodes are left out of what folders allow: root could make one of a disk, and write to that.
IN_FOLDERS = (
    WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER | TRUNCATE
)
ON_FILES = WRITE_FILE | TRUNCATE
ON_DEVICES = WRITE_FILE | TRUNCATE | IOCTL_DEV
DEVICES = ("/dev/null", "/dev/tty", "/dev/ptmx", "/dev/pts")
_SINCE = {2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}  # landlock's version -> what it can hold back from then on
_SCOPES_SINCE = 6
# macOS: later rules win. `param` spares us quoting the paths.
_PROFILE = (
    "(version 1)(allow default)(deny file-write*)(deny signal)(allow signal (target same-sandbox))"
    '(allow file-write* (literal "/dev/null")(literal "/dev/tty")(literal "/dev/ptmx")(regex #"^/dev/ttys[0-9]+$"))'
)
_TRIAL = """
import sys
open(sys.argv[1] + "/inside", "w").close()
try:
    open(sys.argv[1] + "/../outside", "w").close()
except OSError:
    sys.exit(0)
sys.exit("a file outside could be written")
"""


# ---- for whoever starts the command


def words(command: Sequence[str], *, writable: Sequence[Path], platform: str = sys.platform) -> list[str]:
    """The words that run a command which can write below these places only, and to /dev/null and terminals.

    Args:
        writable: folders, and single files that may be overwritten but not replaced. One that is not there is made,
            as a folder. A link stands for what it leads to, so name nothing that an earlier command behind a fence
            could have put a link to. /dev/shm, which semaphores need, is a place like any other.
    """
    places = [_made(place) for place in writable]
    if platform == "darwin":
        return _words_for_macos(command, places)
    return [sys.executable, "-I", "-S", __file__, *map(str, places), "--", *command]


def _made(place: Path) -> Path:
    if not place.exists():
        place.mkdir(parents=True)
    return place.resolve()


def _words_for_macos(command: Sequence[str], places: Sequence[Path]) -> list[str]:
    rules, values = "", []
    for number, place in enumerate(places):
        what = "(allow file-write* (subpath" if place.is_dir() else "(allow file-write-data (literal"
        rules += f'{what} (param "P{number}")))'
        values += ["-D", f"P{number}={place}"]
    return ["/usr/bin/sandbox-exec", *values, "-p", _PROFILE + rules, *command]


@functools.cache
def fault() -> str:
    """Why no fence can be had on this system, in one sentence; "" when it can.

    Found by trying, once in a process's life.
    """
    import subprocess
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fence-") as folder:
        inside = Path(folder, "in")
        trial = words([sys.executable, "-I", "-S", "-c", _TRIAL, str(inside)], writable=[inside])
        try:
            answer = subprocess.run(
                trial, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=TRIAL_TIMEOUT_S,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"The trial of a fence failed ({error})."
    if answer.returncode == 0:
        return ""
    said = " ".join((answer.stdout + answer.stderr).split())[-200:]
    return f"A command can't be kept from writing where it may not ({said or f'status {answer.returncode}'})."


# ---- in the process that becomes the command


def put_up(places: Iterable[str]) -> None:
    """Keep this thread, and all it starts, from writing anywhere else; for good. Linux only.

    Raises: OSError: the system does not permit it, or a place is not there.
    """
    version = _call(CREATE_RULESET, None, 0, ASK_VERSION)
    handled = IN_FOLDERS & ~(REFER | TRUNCATE) | MAKE_CHAR | MAKE_BLOCK
    handled |= sum(right for since, right in _SINCE.items() if version >= since)
    asked = struct.pack("=QQQ", handled, 0, SCOPE_SIGNAL) if version >= _SCOPES_SINCE else struct.pack("=Q", handled)
    rules = _call(CREATE_RULESET, asked, len(asked), 0)
    for place in places:
        _allow(rules, place, IN_FOLDERS & handled, ON_FILES & handled)
    for device in filter(os.path.exists, DEVICES):
        _allow(rules, device, ON_DEVICES & handled, ON_DEVICES & handled)
    _c_library().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)  # or only root may do the next step, which says so
    _call(RESTRICT_SELF, rules, 0)
    os.close(rules)


def _allow(rules: int, place: str, in_folder: int, on_file: int) -> None:
    fd = os.open(place, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = in_folder if stat.S_ISDIR(os.fstat(fd).st_mode) else on_file
        _call(ADD_RULE, rules, PATH_BENEATH, struct.pack("=Qi", rights, fd), 0)
    finally:
        os.close(fd)


def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """One of landlock's system calls, which the C library has no functions for. Raises: OSError."""
    wide = (ctypes.c_long(word) if isinstance(word, int) else word for word in arguments)
    result: int = _c_library().syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock: {os.strerror(ctypes.get_errno())}")
    return result


def _become(command: Sequence[str]) -> None:
    """Turn into the command. Raises: OSError: it can't be started."""
    for name in ("SIGPIPE", "SIGXFSZ", "SIGXFZ"):  # Python ignores them, and programs inherit that
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execvp(command[0], list(command))


def main(argv: Sequence[str]) -> int:
    """Put up the fence, then become the command; never the one without the other."""
    split = list(argv).index("--")
    places, command = argv[:split], argv[split + 1 :]
    try:
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, f"no way is known on {sys.platform}")
        put_up(places)
    except OSError as error:
        print(f"fence: {error.strerror}{f': {error.filename}' if error.filename else ''}", file=sys.stderr)
        return NO_FENCE
    try:
        _become(command)
    except OSError as error:
        print(f"fence: cannot start {command[0]!r}: {error.strerror}", file=sys.stderr)
        return 127 if error.errno == errno.ENOENT else 126
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
