"""The lines of a training process: its own as they are, and what foreign code prints behind a mark.

A dataset's class may print what it likes, also lines that look like ours, or half a line. What it prints through
Python's streams comes out as whole lines that begin with `| `. Our own go to a descriptor that it does not have.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from autoexperiment.untrusted import visible

MARK = b"| "
_STDOUT = 1


class Voice:
    """Writes whole lines, at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def take_over(cls) -> Voice:
        """The process's voice; `sys.stdout` and `sys.stderr` are marked from here on."""
        voice = cls(os.dup(_STDOUT))
        sys.stdout = _marked(_STDOUT)
        sys.stderr = _marked(2)
        return voice

    def say(self, text: str) -> None:
        """One line: line ends and what a terminal would act on become spaces, bytes that are no UTF-8 `\\udcff`."""
        whole = text.encode("utf-8", "backslashreplace").decode()
        self.write(" ".join(visible(whole).split()) + "\n")

    def write(self, text: str) -> None:
        """Text as it is. A reader that has gone away is no reason to stop training."""
        blob = text.encode("utf-8", "backslashreplace")
        try:
            while blob:
                blob = blob[os.write(self._fd, blob) :]
        except OSError:
            return


class _Marking(io.RawIOBase):
    """Puts the mark before each line, and holds a line back until it is whole."""

    def __init__(self, fd: int) -> None:
        self._fd, self._rest = fd, b""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, blob: Any) -> int:
        *whole, self._rest = (self._rest + bytes(blob)).split(b"\n")
        marked = b"".join(MARK + line + b"\n" for line in whole)
        while marked:
            marked = marked[os.write(self._fd, marked) :]
        return len(blob)


def _marked(fd: int) -> io.TextIOWrapper:
    raw: Any = _Marking(fd)  # a buffer that keeps nothing but half a line
    return io.TextIOWrapper(raw, encoding="utf-8", errors="backslashreplace", write_through=True)
