"""Tokens per second of train.py with the fast BLAS and with MLX's own, side by side on this machine.

Usage: python benchmarks/blas.py [--steps N] [--pairs N] [--json]

Each pair trains the same steps twice, in fresh processes, one after the other. The ratio is that of
the medians. The recipe is train.py with the size in SHAPE: matrix products are most of the work there,
as on a GPU-sized model; at the CPU's small default size the ratio is about 10. It only says something
on Linux without a GPU.

Exit: 0 ok, 1 a run failed or no fast BLAS is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoexperiment import blas, constants, machine
from autoexperiment.errors import LabError, Refused

ROOT = Path(__file__).resolve().parent.parent
SHAPE = {"DEPTH": 2, "HEADS": 8, "HEAD_DIM": 64, "DEVICE_BATCH_SIZE": 2, "TOTAL_BATCH_SIZE": 512}


@dataclass(frozen=True)
class Comparison:
    """Tokens/s of every run, and the ratio of the medians."""

    machine: dict[str, Any]
    shape: dict[str, int]
    steps: int
    fast_tok_sec: tuple[float, ...]
    own_tok_sec: tuple[float, ...]
    ratio: float


def sized_recipe() -> str:
    """The source of train.py with the constants of SHAPE."""
    source = (ROOT / "train.py").read_text()
    for name, value in SHAPE.items():
        found = constants.find(source, device=machine.device_class())
        source = constants.replace(source, next(c for c in found if c.name == name), value)
    return source


def tokens_per_second(*, steps: int, switch: str) -> float:
    """Train in a process and folder of their own, without evaluation. Raises: Refused: the run failed."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("prepare.py", "data_sources.py"):
            shutil.copy(ROOT / name, folder)
        (Path(folder) / "train.py").write_text(sized_recipe())
        settings = {"STEP_BUDGET": str(steps), blas.SWITCH: switch, "AUTOEXPERIMENT_SKIP_EVAL": "1"}
        command = [sys.executable, "train.py"]
        answer = subprocess.run(command, cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True)
        if answer.returncode:
            raise Refused(f"train.py ended with {answer.returncode}: {answer.stderr.strip()[-500:]}")
        record = json.loads((Path(folder) / "data" / "last_run.json").read_text())
    return float(record["training"]["avg_tok_sec"])


def compare(*, steps: int, pairs: int) -> Comparison:
    """Run the pairs. Raises: Refused: there is nothing to compare with, or a run failed."""
    status = blas.loaded()
    if status.path is None:
        raise Refused(f"No fast BLAS is loaded: {status.reason}.")
    fast, own = [], []
    for _ in range(pairs):
        fast.append(tokens_per_second(steps=steps, switch="on"))
        own.append(tokens_per_second(steps=steps, switch="off"))
    facts = {**machine.facts(), "blas": f"{status.name} {status.version}", "blas_threads": status.threads}
    return Comparison(facts, SHAPE, steps, tuple(fast), tuple(own), statistics.median(fast) / statistics.median(own))


def render(comparison: Comparison) -> str:
    """The comparison for a person."""
    facts = ", ".join(f"{name} {value}" for name, value in comparison.machine.items())
    speeds = (("fast BLAS", comparison.fast_tok_sec), ("MLX's own", comparison.own_tok_sec))
    lines = [f"{name:<10} {' '.join(f'{speed:>9,.0f}' for speed in runs)} tok/s" for name, runs in speeds]
    shape = ", ".join(f"{name}={value}" for name, value in comparison.shape.items())
    return "\n".join(
        [facts, shape, *lines, f"ratio      {comparison.ratio:.1f} x (steps in a run: {comparison.steps})"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1, help="steps in each run (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    try:
        comparison = compare(steps=options.steps, pairs=options.pairs)
    except LabError as error:
        print(f"benchmarks/blas.py: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(comparison), indent=2) if options.json else render(comparison))
    return 0


if __name__ == "__main__":
    sys.exit(main())
