"""Whoever has the ideas: an agent proposes bytes, and nothing that it says is a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoexperiment.errors import UsageError, unknown

if TYPE_CHECKING:
    from autoexperiment.night import Agent

SEARCH = "search"
COMMAND = "command:"
CLIENTS = ("claude", "codex", "opencode", "pi", "gemini")  # each made by the module of its name


def agent_named(name: str, *, model: str | None = None, idle_s: float = 900.0, wall_s: float = 3600.0) -> Agent:
    """The agent of this name.

    Args:
        name: "search", one of CLIENTS, or "command:" and the words of a program.
        model: for the client; its own default when None.
        idle_s: how long a headless agent may be silent.
        wall_s: how long it may take in all.
    Raises: UsageError: there is none of this name. Refused: its program is not installed.
    """
    if name == SEARCH:
        if model is not None:
            raise UsageError(f"The search agent has no --model ({model!r}). Leave it out, or choose another --agent.")
        from autoexperiment.agents.search import SearchAgent

        return SearchAgent()
    if name not in CLIENTS and not name.startswith(COMMAND):
        raise UsageError(unknown("agent", name, (*CLIENTS, f"{COMMAND}'…'", SEARCH)))
    from autoexperiment.agents.clients import client_named
    from autoexperiment.agents.coder import Coder
    from autoexperiment.agents.visit import VisitLimits

    return Coder(client_named(name, model=model), VisitLimits(idle_s=idle_s, wall_s=wall_s))
