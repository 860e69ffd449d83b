"""What the commands of the experiment harness share on a terminal: steps that are told, and signals that end a command."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType

import click

RULE = "=" * 60
DONE = "      ✓ "


def heading(text: str) -> str:
    return f"{RULE}\n{text}\n{RULE}"


class Teller:
    """Prints what goes on. That nobody listens any more, or the disk behind stdout is full, is no reason to stop."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdout is not None and sys.stdout.isatty()
        self._is_heard = sys.stdout is not None

    def tell(self, text: str, *, ends_line: bool = True) -> None:
        if self._is_heard:
            try:
                click.echo(text, nl=ends_line)
            except OSError:
                self._is_heard = False


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does; one that the caller ignores stays ignored."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
