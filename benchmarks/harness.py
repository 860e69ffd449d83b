"""The experiment harness against scikit-learn, and its commands against their limits, side by side on this machine.

Usage: python benchmarks/harness.py [--pairs 5] [--json]

Each pair runs both sides one after the other, so that a busy machine slows both; the ratio is that of the medians.
  linear    closed-form linear regression on 200,000 x 200, float64, against Ridge(solver="cholesky")
  mlp       epochs of the training loop at batch 128 against MLPRegressor: same rows, layers, optimizer, float32 and
            float64 (scikit-learn trains in the type of its data; ours is float32, the quicker of the two is compared)
  commands  from start to exit
  history   `mlx history list` of 10,000 runs
Exit codes: 0 every claim holds · 1 one does not.
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
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 5
SIZES = ((20_000, 20, (100,)), (20_000, 50, (64, 64)), (20_000, 10, (32,)))
RUNS = 10_000


@dataclass(frozen=True)
class Claim:
    """`ours_s`, `theirs_s`: medians. `limit`: the most that ours/theirs or, without theirs, ours may be."""

    name: str
    ours_s: float
    theirs_s: float | None
    limit: float

    @property
    def figure(self) -> float:
        return self.ours_s / self.theirs_s if self.theirs_s else self.ours_s

    @property
    def holds(self) -> bool:
        return self.figure <= self.limit


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(pairs: int, *works: Callable[[], object]) -> list[float]:
    """Median seconds of each, after one turn that is not counted."""
    turns = [[seconds(work) for work in works] for _ in range(pairs + 1)]
    return [median(values) for values in zip(*turns[1:], strict=True)]


def linear(pairs: int) -> list[Claim]:
    import numpy as np
    from sklearn.linear_model import Ridge

    from autoexperiment.models import LinearRegression

    random = np.random.default_rng(0)
    X = random.normal(size=(200_000, 200))
    y = X @ random.normal(size=200) + 0.1 * random.normal(size=len(X))
    ours, theirs = in_turns(
        pairs,
        lambda: LinearRegression(l2_regularization=1.0).fit_closed_form([(X, y)]),
        lambda: Ridge(alpha=1.0, solver="cholesky").fit(X, y),
    )
    return [Claim("linear 200000x200", ours, theirs, 1.0)]


def mlp(pairs: int) -> list[Claim]:
    return [_mlp(pairs, *size) for size in SIZES]


def _mlp(pairs: int, n_rows: int, n_features: int, hidden: tuple[int, ...]) -> Claim:
    import numpy as np
    from sklearn.neural_network import MLPRegressor

    from autoexperiment import models
    from autoexperiment.datasets.base import Facts, Table
    from autoexperiment.datasets.splits import split
    from autoexperiment.training.descent import Descent

    random = np.random.default_rng(0)
    X = random.normal(size=(n_rows, n_features))
    y = X @ random.normal(size=n_features) + 0.1 * random.normal(size=n_rows)
    facts = Facts("regression", n_rows, (n_features,))
    parts = split(Table(X, y), facts, val_fraction=0.0, test_fraction=0.0, seed=0, normalize=False)
    spec = {
        "name": "mlp",
        "params": {"layer_sizes": [n_features, *hidden, 1], "activation": "relu", "output_activation": None, "seed": 0,
                   "l2_regularization": 0.0},
    }  # fmt: skip
    training = {"batch_size": 128, "learning_rate": 0.001, "optimizer": "adam", "seed": 0}

    def ours() -> None:
        descent = Descent(models.make(spec, facts), parts, training, should_stop=lambda: False)
        for epoch in range(1, EPOCHS + 1):
            descent.epoch(epoch)
        descent.state()

    def theirs(kind: type) -> None:
        net = MLPRegressor(
            hidden_layer_sizes=hidden, batch_size=128, max_iter=EPOCHS, alpha=0.0, tol=0.0, n_iter_no_change=10**6
        )
        net.fit(X.astype(kind), y.astype(kind))

    mine, single, double = in_turns(pairs, ours, lambda: theirs(np.float32), lambda: theirs(np.float64))
    return Claim(f"mlp {n_rows}x{n_features} {hidden}", mine, min(single, double), 1.0)


def commands(folder: Path, pairs: int) -> list[Claim]:
    environment = {**os.environ, "HOME": str(folder)}
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    config = str(ROOT / "experiments" / "example.json")
    mlx = [sys.executable, "-m", "autoexperiment"]
    kinds = {
        "mlx --help": ([*mlx, "--help"], 0.15),
        "dry run": ([*mlx, "run-experiment", "--dry-run", "--config", config], 0.5),
        "first experiment": ([*mlx, "run-experiment", "--config", config], 0.7),
    }
    runs = [run_in(folder, words, environment) for words, _ in kinds.values()]
    found = in_turns(pairs, *runs)
    return [Claim(name, ours, None, limit) for (name, (_, limit)), ours in zip(kinds.items(), found, strict=True)]


def run_in(folder: Path, words: Sequence[str], environment: dict[str, str]) -> Callable[[], object]:
    return lambda: subprocess.run(words, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def history(folder: Path, pairs: int) -> list[Claim]:
    """Ten thousand run directories with their summaries, and their index."""
    from autoexperiment import history as runs_of
    from autoexperiment.paths import OutputPaths

    outputs = OutputPaths(folder / "outputs")
    for n in range(RUNS):
        run = outputs.experiment(f"experiment-{n % 100}") / f"20260305_{n // 3600:02}{n // 60 % 60:02}{n % 60:02}"
        run.mkdir(parents=True)
        summary = {"status": "completed", "final_metrics": {"epoch": 10, "loss": 1 / (n + 1), "val_loss": 1 / (n + 2)}}
        (run / "summary.json").write_text(json.dumps(summary))
    runs_of.rebuild(outputs)
    listing = [sys.executable, "-m", "autoexperiment", "history", "list"]
    ours = in_turns(pairs, run_in(folder, listing, dict(os.environ)))[0]
    return [Claim(f"history list of {RUNS} runs", ours, None, 0.3)]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for part in ("commands", "history"):
            (folder / part).mkdir()
        claims = [
            *linear(options.pairs),
            *mlp(options.pairs),
            *commands(folder / "commands", options.pairs),
            *history(folder / "history", options.pairs),
        ]
    say(claims, options)
    return 0 if all(claim.holds for claim in claims) else 1


def say(claims: Sequence[Claim], options: argparse.Namespace) -> None:
    machine = f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        print(json.dumps({"machine": machine, "pairs": options.pairs, "claims": [asdict(claim) for claim in claims]}))
        return
    print(f"{machine}, load {os.getloadavg()[0]:.1f}, medians of {options.pairs} pairs")
    for claim in claims:
        against = f"  theirs {claim.theirs_s:7.4f} s   ours/theirs {claim.figure:4.2f}" if claim.theirs_s else " " * 34
        print(
            f"{claim.name:<28} ours {claim.ours_s:7.4f} s{against}   limit {claim.limit:g}   {'ok' if claim.holds else 'NOT HELD'}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
