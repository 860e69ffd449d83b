"""What a hook adds to a tool call of a chat: the guard against a bare python3 that only starts.

Usage: python3 benchmarks/hooks.py [--calls 40] [--json]

Makes a small project with a session in a temporary folder; its hooks run as the client runs them. The kinds of call
alternate, so that a busy machine slows all of them. Exit codes: 0 within the limit (a guarded call within 4 times a
bare start, p50) · 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

GUARD = ROOT / "experiment-plugin" / "hooks" / "guard.py"
RATIO_LIMIT = 4.0
PROTOCOL = {
    "schemaKind": "protocol", "protocolVersion": "1.1",
    "meta": {"archetype": "ml_train", "eligibility": "eligible", "purposeStatement": "Lower the score."},
    "environment": {"setupCommands": [], "constraints": {"noNewDependencies": True, "networkPolicy": "full"}},
    "mutableSurface": {"allowedGlobs": ["train.py"], "forbiddenGlobs": [], "allowedKinds": ["code_edit"]},
    "immutableHarness": {"paths": ["score.py"], "rationale": "It measures."},
    "execution": {"command": "{python} train.py", "cwd": ".", "stopCondition": {"type": "fixed_suite"}, "hardTimeoutSeconds": 60},
    "measurement": {
        "primaryMetric": {
            "name": "score", "direction": "minimize",
            "extract": {"kind": "regex", "pattern": r"^score: ([0-9.]+)$", "exampleStdout": "score: 2.0"},
        },
        "baselinePolicy": {"establishOnHardware": True, "sameDataSnapshot": False},
    },
    "provenance": {"resultsLog": {"format": "tsv", "path": "results.tsv", "columns": ["commit", "score"]}},
    "safety": {}, "agentRules": {},
}  # fmt: skip


def make_project(folder: Path, environment: dict[str, str], *, with_session: bool) -> Path:
    """A git repository with a protocol, and a session whose branch is checked out when asked for."""
    folder.mkdir()
    (folder / "train.py").write_text('print("score: 2.0")\n')
    (folder / "score.py").write_text("SCORE = 1\n")
    (folder / "protocol.json").write_text(json.dumps(PROTOCOL))
    commands = [["git", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "project"]]
    if with_session:
        commands.append([sys.executable, "-m", "autoexperiment", "loop", "start", "bench"])
    for command in commands:
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


def call(cwd: Path, tool: str, **arguments: str) -> str:
    """What the client writes to a hook's stdin before a tool call."""
    event = {"hook_event_name": "PreToolUse", "session_id": "bench", "cwd": str(cwd), "tool_name": tool}
    return json.dumps({**event, "tool_input": arguments})


def timed(command: list[str], stdin: str, environment: dict[str, str]) -> float:
    """Milliseconds from start to exit."""
    start = time.perf_counter()
    subprocess.run(command, input=stdin, env=environment, capture_output=True, text=True, check=True)
    return (time.perf_counter() - start) * 1e3


def measure(folder: Path, calls: int) -> dict[str, list[float]]:
    """Milliseconds of each kind of call, in turns."""
    names = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "PYTHONPATH": str(ROOT),
        **dict.fromkeys(names, "b"),
    }
    free = make_project(folder / "free", environment, with_session=False)
    held = make_project(folder / "held", environment, with_session=True)
    bare, guard = ["python3", "-ES", "-c", "import json"], ["python3", "-ES", str(GUARD)]
    kinds = {
        "bare python3": (bare, ""),
        "no session": (guard, call(free, "Bash", command="git status")),
        "Edit in a session": (guard, call(held, "Edit", file_path=str(held / "train.py"))),
        "Bash in a session": (guard, call(held, "Bash", command="git diff HEAD -- train.py | head -40")),
    }
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(calls + 3):
        for kind, (command, stdin) in kinds.items():
            found[kind].append(timed(command, stdin, environment))
    return {kind: values[3:] for kind, values in found.items()}  # the first ones compile


def main(argv: list[str]) -> int:
    """Measure, then say it as a table with ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder).resolve(), options.calls)
    bare = median(found["bare python3"])
    rows = {
        kind: {"p50_ms": median(values), "p95_ms": quantiles(values, n=20)[-1], "ratio": median(values) / bare}
        for kind, values in found.items()
    }
    if options.json:
        print(json.dumps({"machine": platform.platform(), "cores": os.cpu_count(), "calls": options.calls, **rows}))
    else:
        print(
            f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, {options.calls} calls each"
        )
        for kind, row in rows.items():
            print(
                f"{kind:<20} p50 {row['p50_ms']:6.1f} ms   p95 {row['p95_ms']:6.1f} ms   {row['ratio']:4.1f} times bare"
            )
    return 0 if max(row["ratio"] for row in rows.values()) <= RATIO_LIMIT else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
