"""The recipe with one process and with two that share each step, side by side on this machine.

Usage: python benchmarks/ring.py [--pairs 5] [--steps 100] [--json]

Each pair trains both one after the other, with the same seed, steps and BLAS threads, so that a busy machine slows both.
  tok/s   of the whole group, without start-up and evaluation; medians
  loss    the average of the last steps, as `train.py` reports it; `bpb` on the validation rows
Exit codes: 0 the losses agree to 1e-5 · 1 they do not, or a run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1, 2)
LIMIT = 1e-5


@dataclass(frozen=True)
class Run:
    """What one run reported. `loss` in nats a token, `val_bpb` in bits a byte."""

    size: int
    tok_sec: float
    loss: float
    val_bpb: float


@dataclass(frozen=True)
class Comparison:
    """Medians of tokens/s, and the largest differences between the runs of one process and of two."""

    one_tok_sec: float
    two_tok_sec: float
    loss_difference: float
    bpb_difference: float

    @property
    def holds(self) -> bool:
        return max(self.loss_difference, self.bpb_difference) <= LIMIT


def train(size: int, folder: Path, environment: Mapping[str, str]) -> Run:
    """One run of the recipe, started by the launcher whatever its size."""
    launcher = [sys.executable, "-m", "autoexperiment", "ring", "-n", str(size), "--log-dir", str(folder / "logs")]
    words = [*launcher, "--", sys.executable, str(ROOT / "train.py")]
    answer = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if answer.returncode:
        raise SystemExit(f"A run of {size} failed: {answer.stderr}")
    told = json.loads((folder / "data" / "last_run.json").read_text())
    training = told["training"]
    return Run(size, training["avg_tok_sec"], training["final_loss"], told["result"]["val_bpb"])


def prepared(folder: Path, steps: int) -> dict[str, str]:
    """The environment of the runs: the default dataset, made anew, and one BLAS thread for each process."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "1")
    own = {"AUTORESEARCH_CACHE": str(folder / "cache"), "XDG_STATE_HOME": str(folder / "state")}
    environment = {**os.environ, **own, "OPENBLAS_NUM_THREADS": threads, "STEP_BUDGET": str(steps)}
    words = [sys.executable, str(ROOT / "prepare.py")]
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    return environment


def compare(runs: Sequence[Run]) -> Comparison:
    one, two = ([run for run in runs if run.size == size] for size in SIZES)
    pairs = list(zip(one, two, strict=True))
    return Comparison(
        median(run.tok_sec for run in one),
        median(run.tok_sec for run in two),
        max(abs(a.loss - b.loss) for a, b in pairs),
        max(abs(a.val_bpb - b.val_bpb) for a, b in pairs),
    )


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        environment = prepared(folder, options.steps)
        found = compare([train(size, folder, environment) for _ in range(options.pairs) for size in SIZES])
    say(found, options)
    return 0 if found.holds else 1


def say(found: Comparison, options: argparse.Namespace) -> None:
    machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        told = {"machine": machine, "pairs": options.pairs, "steps": options.steps, **asdict(found)}
        print(json.dumps({**told, "holds": found.holds}))
        return
    load = os.getloadavg()[0]
    print(f"{machine}, load {load:.1f}, medians of {options.pairs} pairs of {options.steps} steps")
    ratio = found.two_tok_sec / found.one_tok_sec
    print(f"1 process {found.one_tok_sec:9,.0f} tok/s   2 processes {found.two_tok_sec:9,.0f} tok/s   x {ratio:.2f}")
    verdict = "ok" if found.holds else "NOT HELD"
    differences = f"loss {found.loss_difference:.1e}   val_bpb {found.bpb_difference:.1e}"
    print(f"largest difference: {differences}   limit {LIMIT:g}   {verdict}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
