"""What the commands of the experiment harness share on a terminal: steps that are told, and signals that end a command."""

from __future__ import annotations

import contextlib
import signal
import sys
from typing import Any

import click

RULE = "=" * 60
DONE = "      ✓ "


def heading(text: str) -> str:
    return f"{RULE}\n{text}\n{RULE}"


def print_json(value: Any) -> None:
    from autoexperiment.files import dump_json

    click.echo(dump_json(value))


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


def interruptible() -> contextlib.AbstractContextManager[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does."""
    from autoexperiment.supervisor import signals_raise

    return signals_raise((signal.SIGTERM, signal.SIGHUP), lambda _: KeyboardInterrupt())
