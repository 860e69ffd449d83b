"""The kinds of work that a sweep can do: a configuration of the harness, the GPT recipe, or a workflow.

Each kind is a module with `make`, which puts a point's configuration together and checks it, and `perform`, which
runs one point under the supervisor, on whichever machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from autoexperiment.errors import UsageError, unknown
from autoexperiment.paths import RunPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep.points import Order, Result

WORKS = {
    "experiment": "autoexperiment.sweep.experiments",
    "gpt": "autoexperiment.sweep.recipes",
    "workflow": "autoexperiment.sweep.workflows",
}


class Work(Protocol):
    """One kind of work on one base configuration.

    Attributes:
        metric: the one that is looked at when none is named; "" if there is no such.
        options: goes into every order; plain JSON.
    """

    kind: str
    metric: str
    options: Mapping[str, Any]

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        """The whole configuration of a point, checked; plain JSON.

        Args:
            params: values by dot path into the base configuration.
            seed: the replicate's; None: the base's own.
        Raises: LabError: it is not sound. The message names the value.
        """
        ...

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """All of a resolved configuration that decides what comes out: names and places of outputs are left out, the
        content of code and data that it points to is put in."""
        ...

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        """Whether what comes out of a point depends on how fast the machine is meanwhile, so that points that run side
        by side disturb each other."""
        ...

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        """About how long a point takes; nothing is kept. None where that can't be told beforehand."""
        ...


class _Module(Protocol):
    def make(self, base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> Work: ...
    def perform(self, order: Order, run: RunPaths, *, signals: Signals | None) -> Result: ...


def _module(kind: str) -> _Module:
    if kind not in WORKS:
        raise UsageError(unknown("kind of work", kind, WORKS))
    return cast(_Module, importlib.import_module(WORKS[kind]))


def check_options(options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raises: UsageError: one that the kind of work does not have."""
    for option in options:
        if option not in known:
            raise UsageError(unknown("option", option, known))


def make(kind: str, base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> Work:
    """The work of a kind. Raises: LabError: kind, base or options are not sound."""
    return _module(kind).make(base, root=root, options=options)


def run_point(order: Order, run: RunPaths, *, signals: Signals | None = None) -> Result:
    """Run one point to its end in `run.folder`, which is new and empty, and write its `run.json` there.

    A fault of the point is a result with a reason. Args: signals: as of `supervise`.
    Raises: OSError: the machine, not the point: nothing was measured.
    """
    return _module(order.kind).perform(order, run, signals=signals)
