"""The process in which a tracker's library lives: it takes points by standard input, one JSON a line, and answers each.

A library that prints, hangs, sets variables or dies does so here, and not in the sweep.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from autoexperiment import files
from autoexperiment.trackers.base import TRACKERS, Adapter, run_of


def main() -> int:
    """Standard input: how to begin, then points. Standard output: an answer for each, and one at the end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the library prints belongs into the log
    try:
        _serve(sys.stdin, answers)
    except Exception as error:
        traceback.print_exc()
        _answer(answers, {"fault": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _serve(orders: TextIO, answers: TextIO) -> None:
    begin = json.loads(orders.readline())
    adapter = _adapter(begin)
    of = {name: begin[name] for name in ("sweep", "facts", "place")}
    _answer(answers, {"begun": begin["tracker"]})
    for text in orders:
        order = json.loads(text)
        adapter.log(run_of(order["row"], order["curves"], **of))
        _remember(Path(begin["tracked"]), order["point"])
        _answer(answers, {"tracked": order["point"]})
    adapter.close()
    _answer(answers, {"closed": begin["tracker"]})


def _adapter(begin: Mapping[str, Any]) -> Adapter:
    module, _, name = TRACKERS[begin["tracker"]].adapter.partition(":")
    options = dict(begin["options"])
    project = options.pop("project", begin["sweep"])
    folder = Path(begin["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    make: type[Adapter] = getattr(importlib.import_module(module), name)
    return make(folder, project=project, options=options)


def _remember(tracked: Path, point: str) -> None:
    """After the library has it: a kill in between lets the point be logged again, which replaces it."""
    with open(tracked, "a", encoding="utf-8") as file:
        file.write(files.dump_json({"point": point}, indent=None) + "\n")


def _answer(answers: TextIO, value: Mapping[str, str]) -> None:
    answers.write(files.dump_json(value, indent=None) + "\n")
    answers.flush()


if __name__ == "__main__":
    sys.exit(main())
