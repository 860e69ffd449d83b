"""A workspace with modules of workflows, written by the tests, and importable here and in processes of their own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Each step leaves a line in `done.txt` of the workspace, so that it can be seen how often it was really done.
COUNTING = """
from dataclasses import dataclass, field
from autoexperiment.workflow import Retries, Step, Workflow

def _done(context, name):
    with (context.root / "done.txt").open("a") as file:
        file.write(name + "\\n")

@dataclass
class Draw:
    count: int = 3
    seed: int = 0
    label: str = ""
    options: dict = field(default_factory=dict)

@dataclass
class Score:
    scale: float = 1.0

def draw(config, inputs, context):
    _done(context, "draw")
    return {"numbers": [config.seed + i for i in range(config.count)]}

def add(config, inputs, context):
    _done(context, "add")
    return {"total": sum(inputs["numbers"])}

def score(config, inputs, context):
    _done(context, "score")
    return {"eval_results": {"sum": {"total": config.scale * inputs["total"]}}}

counting = Workflow(
    "counting",
    (
        Step("draw", draw, Draw, {}, {"numbers": list[int]}),
        Step("add", add, None, {"numbers": list[int]}, {"total": int}),
        Step("score", score, Score, {"total": int}, {"eval_results": dict}),
    ),
    labels=("draw.label",),
    seed_path="draw.seed",
)
"""


class Modules:
    """Modules in the root of a workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names: set[str] = set()

    def write(self, name: str, source: str) -> Path:
        """Write a module; one that was imported is forgotten, as in a program that is started again."""
        file = self.root / (name.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
        self.forget()
        self._names.add(name.partition(".")[0])
        return file

    def forget(self) -> None:
        for name in list(sys.modules):
            if name.partition(".")[0] in self._names:
                del sys.modules[name]
        importlib.invalidate_caches()

    def workflow(self, source: str = COUNTING, *, name: str = "flow", attribute: str = "counting") -> Any:
        self.write(name, source)
        return getattr(importlib.import_module(name), attribute)

    def done(self) -> list[str]:
        """The steps that were really done, in order."""
        file = self.root / "done.txt"
        return file.read_text().split() if file.exists() else []


@contextmanager
def modules(root: Path) -> Iterator[Modules]:
    """Modules below a folder, found by this process meanwhile."""
    root.mkdir(parents=True, exist_ok=True)
    made, path, writes = Modules(root), list(sys.path), sys.dont_write_bytecode
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True  # a source that is changed within a second would be taken for the old one
    try:
        yield made
    finally:
        made.forget()
        sys.path[:], sys.dont_write_bytecode = path, writes
