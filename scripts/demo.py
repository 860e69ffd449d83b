"""A small real night on this machine: prepare text, measure the baseline, judge eight experiments.

Usage: python scripts/demo.py [--experiments N] [--budget 10s]

Goes on with an unfinished demo session of this repository, else starts the next one (demo-1, demo-2, …).
Exit codes: those of `mlx loop run`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MLX = [sys.executable, "-m", "autoexperiment"]


def judged(tag: str) -> int | None:
    """Judged experiments of a session, or None when there is no such session."""
    answer = subprocess.run([*MLX, "loop", "status", tag, "--json"], cwd=ROOT, capture_output=True, text=True)
    return json.loads(answer.stdout)["judged"] if answer.returncode == 0 else None


def is_taken(tag: str) -> bool:
    """Whether a branch of this tag exists, also one whose ledger is gone."""
    ref = f"refs/heads/autoresearch/{tag}"
    return subprocess.run(["git", "show-ref", "--quiet", ref], cwd=ROOT).returncode == 0


def next_tag(experiments: int) -> str:
    """The unfinished demo session, else the first free tag."""
    number = 1
    while True:
        tag = f"demo-{number}"
        count = judged(tag)
        if count is None and not is_taken(tag):
            return tag
        if count is not None and count < experiments:
            return tag
        number += 1


def main(argv: list[str]) -> int:
    """Prepare the default dataset and run the night; every command is shown before it runs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=8)
    parser.add_argument("--budget", default="10s", help="training of each run")
    options = parser.parse_args(argv)
    tag = next_tag(options.experiments)
    night = ["loop", "run", tag, "--agent", "search"]
    night += ["--experiments", str(options.experiments), "--budget", options.budget]
    for command in ([sys.executable, "prepare.py"], [*MLX, *night]):
        shown = ["python" if word == sys.executable else word for word in command]
        print("$ " + " ".join(shown).replace("python -m autoexperiment", "mlx"), flush=True)
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            return code
    print(f"\nYou are on branch autoresearch/{tag}. Go back with: git switch -", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
