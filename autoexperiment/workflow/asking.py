"""Which prepared dataset a loader names, asked in a process of its own: its code may be newer than what is imported here.

Usage: python -P -m autoexperiment.workflow.asking < REQUEST   (one JSON object; the answer is the last line, JSON too)

Exit codes: 0 answered, also with what the loader failed at.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment.errors import DataError, LabError
from autoexperiment.files import dump_json, load_json
from autoexperiment.workflow import datasets, loading, tasks
from autoexperiment.workflow.running import reason_of

LONGEST_S = 300.0


def prepared(loader: str, arguments: Mapping[str, Any], *, root: Path) -> str:
    """The name of the prepared dataset that a loader gives. Raises: DataError: it gives none, or fails."""
    asked = {"loader": loader, "arguments": arguments, "root": str(root), "path": loading.search_path()}
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "autoexperiment.workflow.asking"], input=dump_json(asked), cwd=root,
            capture_output=True, text=True, timeout=LONGEST_S, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DataError(
            f"{loader} took more than {LONGEST_S:g} s. Let it give the name of a dataset, and prepare that beforehand."
        ) from None
    if answer.returncode != 0 or not answer.stdout.strip():
        said = (answer.stderr.strip().splitlines() or ["it gave no answer"])[-1]
        raise DataError(f"{loader} can't be asked for its dataset: {said}")
    found = load_json(answer.stdout.splitlines()[-1])
    if found["error"]:
        raise DataError(found["error"])
    return str(found["name"])


def main() -> int:
    """Answer what stands in the standard input."""
    asked = load_json(sys.stdin.read())
    sys.path[:] = [*asked["path"], *(place for place in sys.path if place not in asked["path"])]
    answer = {"name": "", "error": ""}
    try:
        given = tasks.call(asked["loader"], asked["arguments"], root=Path(asked["root"]))
        answer["name"] = datasets.prepared(given, loader=asked["loader"]).path
    except (LabError, OSError) as error:
        answer["error"] = reason_of(error)
    print(f"\n{dump_json(answer, indent=None)}", flush=True)
    return 0


if __name__ == "__main__":
    code = main()
    os._exit(code)  # what the loader has left running has nothing more to say
