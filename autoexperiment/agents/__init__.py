"""Whoever has the ideas: an agent proposes bytes, and nothing that it says is a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autoexperiment.errors import UsageError, unknown

if TYPE_CHECKING:
    from autoexperiment.night import Agent

NAMES = ("search",)


def agent_named(name: str) -> Agent:
    """The agent of this name. Raises: UsageError: there is none."""
    if name not in NAMES:
        raise UsageError(unknown("agent", name, NAMES))
    from autoexperiment.agents.search import SearchAgent

    return SearchAgent()
