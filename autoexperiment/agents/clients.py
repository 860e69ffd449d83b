"""The headless clients by name."""

from __future__ import annotations

from collections.abc import Callable

from autoexperiment.agents import CLIENTS, COMMAND, claude, codex, custom, gemini, opencode, pi
from autoexperiment.agents.client import Client
from autoexperiment.errors import UsageError, unknown

_MAKERS: dict[str, Callable[[str | None], Client]] = dict(
    zip(CLIENTS, (claude.make, codex.make, opencode.make, pi.make, gemini.make), strict=True)
)


def client_named(name: str, *, model: str | None = None) -> Client:
    """The client of this name.

    Args:
        name: one of the known, or "command:" and the words of a program (custom.py says how it is called).
        model: as the client names it; None: the client's own default.
    Raises: UsageError: there is none of this name; a command takes no model. Refused: its program is not installed.
    """
    if name.startswith(COMMAND):
        if model is not None:
            raise UsageError(f"A command has no --model ({model!r}). Put it into the command's own words.")
        return custom.make(name.removeprefix(COMMAND))
    if name not in _MAKERS:
        raise UsageError(unknown("agent", name, (*_MAKERS, f"{COMMAND}'…'")))
    return _MAKERS[name](model)
