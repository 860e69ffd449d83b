"""What a sweep costs beyond its trials, what a second worker gains, and how it does with 10,000 points.

Usage: python benchmarks/sweep.py [overhead] [parallel] [large] [engines] [--rounds 5] [--trials 40] [--json]

Without a name, all of them:
  overhead  trials of a small configuration, one at a time, through a sweep; after each the same training process is started
            bare, without supervisor, run directory and book. What a sweep adds to a trial: at most 30 ms.
  parallel  CPU-bound trials with one worker and with two: at least 1.8 times as fast. Two bare processes side by side
            say what the machine itself gives; where that is less than 1.9, 95 % of it are asked for.
  large     10,000 points: planning a grid, the book as rows and as a DataFrame (less than 2 s), the commands, memory.
  engines   the same trivial trials through Optuna's loop, joblib, dask and submitit: a table without limits (engines.py).
Other load only ever adds to a time: the best and the median are shown, and a claim holds if the best does.
Exit codes: 0 every claim holds · 1 one does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import collate
import engines

from autoexperiment import journal
from autoexperiment.analysis import sweep_frame
from autoexperiment.config.sweep_loader import load_sweep_dict
from autoexperiment.supervisor import Limits, run_environment, supervise
from autoexperiment.sweep import launching, plans, results
from autoexperiment.sweep.engine import Quiet
from autoexperiment.sweep.launching import Where
from autoexperiment.training.request import TRAIN, Request

OVERHEAD_MS, SPEED_UP, COLLATE_S = 30.0, 1.8, 2.0
POINTS = 10_000
CROWD = 4  # trials of a round of `parallel`
SMALL = {
    "dataset": {"name": "synthetic_classification", "params": {"n_samples": 60, "n_features": 4}},
    "model": {"name": "mlp", "params": {"layer_sizes": [4, 4, 2]}},
    "training": {"epochs": 1, "batch_size": 16},
}
BUSY = {
    "dataset": {"name": "custom", "loader": "busy:Busy"},
    "model": {"name": "linear_regression"},
    "training": {"epochs": 1},
}
BUSY_CODE = """
import numpy as np

from autoexperiment.datasets import BaseDataset, Table


class Busy(BaseDataset):
    task = "regression"

    def load(self):
        total = 0
        for number in range(20_000_000):  # one core's work: no BLAS, no threads, no memory to speak of
            total += number & 7
        return Table(np.arange(80.0).reshape(40, 2), np.arange(40.0) + total)
"""


@dataclass(frozen=True)
class Claim:
    """`figure` is to be at most `limit`, or at least, or there is none. `usual`: the median beside the best."""

    name: str
    figure: float
    unit: str
    usual: float | None = None
    limit: float | None = None
    is_least: bool = False

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.figure >= self.limit if self.is_least else self.figure <= self.limit


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def plan_of(root: Path, base: Mapping[str, Any], parameters: Mapping[str, Any], *, workers: int) -> plans.SweepPlan:
    """A grid over `base`; its training processes use one BLAS thread each, however many run side by side."""
    config = load_sweep_dict({"name": "bench", "base": dict(base), "parameters": dict(parameters)})
    plan = plans.make_plan(config, root=root, where=Where(max_parallel=workers))
    job = dataclasses.replace(plan.launch.job, threads=1)
    return dataclasses.replace(plan, launch=dataclasses.replace(plan.launch, job=job))


def bare(root: Path, configs: Sequence[Mapping[str, Any]]) -> list[subprocess.Popen[bytes]]:
    """The training processes of these configurations, started side by side as the sweep starts them."""
    started = []
    for number, config in enumerate(configs):
        place = root / "bare" / f"{time.monotonic_ns()}-{number}"
        place.mkdir(parents=True)
        request = Request(TRAIN, str(root), config, str(place))
        words = [sys.executable, "-P", "-m", "autoexperiment.training.child", request.to_json()]
        env = run_environment(place, extra={"OPENBLAS_NUM_THREADS": "1"})
        with open(place / "run.log", "wb") as log:
            started.append(
                subprocess.Popen(words, cwd=place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
    return started


def waited(started: Sequence[subprocess.Popen[bytes]]) -> None:
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError("A training process failed; nothing was measured.")


@dataclass
class Pairs(Quiet):
    """Times each trial of a sweep, and the same process bare right after it, while the sweep waits."""

    folder: Path
    config: Mapping[str, Any]
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    since: float = 0.0

    def ended(self, row: Mapping[str, Any]) -> None:
        self.ours.append(time.perf_counter() - self.since)
        if row["status"] != "completed":
            raise RuntimeError(row["reason"])
        config = {**self.config, "training": {**self.config["training"], "seed": row["params"]["training.seed"]}}
        self.theirs.append(timed(lambda: waited(bare(self.folder, [config]))))
        self.since = time.perf_counter()


def overhead(folder: Path, options: argparse.Namespace) -> Iterator[Claim]:
    plan = plan_of(folder, SMALL, {"training.seed": list(range(options.trials))}, workers=1)
    pairs = Pairs(folder, plan.first.config, since=time.perf_counter())
    launching.run(plan.launch, observer=pairs)
    ours, theirs = pairs.ours[1:], pairs.theirs[1:]  # the first one imports what the others use
    usual = median(one - other for one, other in zip(ours, theirs, strict=True))
    yield Claim("a trial through the sweep", 1000 * min(ours), "ms", 1000 * median(ours))
    yield Claim("the same process bare", 1000 * min(theirs), "ms", 1000 * median(theirs))
    yield Claim("what the sweep adds", 1000 * (min(ours) - min(theirs)), "ms", 1000 * usual, OVERHEAD_MS)
    yield from _parts(folder, options)


def _parts(folder: Path, options: argparse.Namespace) -> Iterator[Claim]:
    """What is most of it: the supervisor with its warden, whose floor is the start of a Python."""
    env = run_environment(folder, extra={})
    works: dict[str, Callable[[], object]] = {
        "  of it: the supervisor": lambda: supervise(
            ["true"], cwd=folder, log=folder / "log", limits=Limits(60.0), env=env
        ),
        "  of that: a Python's start": lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True),
    }
    for name, work in works.items():
        seconds = [timed(work) for _ in range(options.trials)]
        yield Claim(name, 1000 * min(seconds), "ms", 1000 * median(seconds))


def parallel(folder: Path, options: argparse.Namespace) -> Iterator[Claim]:
    """Rounds of four measurements in turns; gains are of the best times, and of the median ones, never of one round:
    the luckiest ratio would say more than two cores can give."""
    config = _busy_plan(folder, 1).first.config
    rounds = [
        (
            _bare_s(folder, [config]),
            _bare_s(folder, [config, config]),
            *(_crowd(folder / f"{number}-{workers}", workers) for workers in (1, 2)),
        )
        for number in range(options.rounds)
    ]
    (alone, *bests), (usual_alone, *usuals) = (
        [choose(times) for times in zip(*rounds, strict=True)] for choose in (min, median)
    )
    yield Claim("a trial's process alone", alone, "s", usual_alone)
    machine = 2 * alone / bests[0]
    limit = min(SPEED_UP, machine * SPEED_UP / 1.9)
    yield Claim("two bare processes at once", machine, "x", 2 * usual_alone / usuals[0])
    yield Claim("two workers of a sweep", bests[1] / bests[2], "x", usuals[1] / usuals[2], limit, is_least=True)


def _bare_s(folder: Path, configs: Sequence[Mapping[str, Any]]) -> float:
    return timed(lambda: waited(bare(folder, configs)))


def _busy_plan(root: Path, workers: int) -> plans.SweepPlan:
    (root / "busy.py").write_text(BUSY_CODE)
    return plan_of(root, BUSY, {"training.seed": list(range(CROWD))}, workers=workers)


def _crowd(folder: Path, workers: int) -> float:
    """Seconds that a sweep takes for its trials."""
    folder.mkdir(parents=True)
    plan = _busy_plan(folder, workers)
    seconds = timed(lambda: launching.run(plan.launch))
    if results.status(plan.launch.paths)["by_status"] != {"completed": CROWD}:
        raise RuntimeError("A trial failed; nothing was measured.")
    return seconds


def large(folder: Path, options: argparse.Namespace) -> Iterator[Claim]:
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    rates = [round(0.0001 * (step + 1), 6) for step in range(POINTS // 10)]
    grid = {"training.learning_rate": rates, "training.batch_size": [8, 16], "training.seed": [1, 2, 3, 4, 5]}
    made: list[plans.SweepPlan] = []
    planning = best(1, lambda: made.append(plan_of(folder, SMALL, grid, workers=1)))
    write_book(made[0])
    paths = made[0].launch.paths
    found = collate.measure(POINTS, options.rounds)
    works = {
        "book as rows": lambda: results.rows(paths),
        "book as a DataFrame": lambda: sweep_frame(paths.folder),
    }
    limits = {"book as a DataFrame": COLLATE_S}
    yield Claim("planning a grid", *planning)
    for name, work in works.items():
        yield Claim(name, *best(options.rounds, work), limits.get(name))
    yield Claim("collate_sweep_evals", found["collate_s"], "s", limit=COLLATE_S)
    mlx = [sys.executable, "-m", "autoexperiment", "sweep"]
    for words in (("status", "bench"), ("results", "bench", "--json"), ("results", "bench")):
        yield Claim(f"mlx sweep {' '.join(words)}", *best(options.rounds, lambda: _quietly([*mlx, *words], folder)))  # noqa: B023
    yield Claim("memory of 'results --json'", _memory_mb([*mlx, "results", "bench", "--json"], folder), "MiB")
    yield Claim("memory of all this in one process", _mb(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss), "MiB")


def best(rounds: int, work: Callable[[], object]) -> tuple[float, str, float]:
    seconds = [timed(work) for _ in range(rounds)]
    return min(seconds), "s", median(seconds)


def _quietly(command: Sequence[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _memory_mb(command: Sequence[str], folder: Path) -> float:
    """Peak of a command, by way of a small process: a child begins with the peak of the process that forked it."""
    words = (
        "import os, sys; os.spawnv(os.P_WAIT, sys.argv[1], sys.argv[1:]); import resource; "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", words, *command], cwd=folder, check=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return _mb(int(done.stderr))


def _mb(maxrss: int) -> float:
    return maxrss * (1 if sys.platform == "darwin" else 1024) / 2**20


def write_book(plan: plans.SweepPlan) -> None:
    """The sweep's folder as it is when all points have ended, without running any and without a wait for the disk."""
    job, paths = plan.launch.job, plan.launch.paths
    paths.folder.mkdir(parents=True)
    sampler = plan.launch.new_sampler()
    records: list[dict[str, Any]] = [{"kind": "opened", "base": plan.launch.base}]
    while (params := sampler.ask()) is not None:
        records += [_ended(len(records), point) for point in job.points(len(records), params)]
    stamped = (
        {**record, "seq": seq, "time": "2026-01-02T03:04:05+00:00"} for seq, record in enumerate(records, start=1)
    )
    paths.book.write_bytes(b"".join(map(journal.encode, stamped)))
    paths.definition.write_text(json.dumps({**plan.launch.definition, "slots": 1}))


def _ended(number: int, point: Any) -> dict[str, Any]:
    names = ("loss", "accuracy", "val_loss", "val_accuracy", "epoch_s", "wall_s", "cpu_s", "peak_memory_mb")
    metrics = {name: 1 / (number + place + 2) for place, name in enumerate(names)}
    result = {
        "status": "completed", "metrics": metrics, "trust": dict.fromkeys(metrics, "measured"), "reason": "",
        "run_dir": f"outputs/bench/20260102_030405_{number}", "seconds": 1.2,
    }  # fmt: skip
    return {
        "kind": "ended", "number": number, "trial": number, "rung": 0, "seed": None, "key": point.key,
        "params": [list(pair) for pair in point.params.items()], "result": result,
    }  # fmt: skip


PARTS: dict[str, Callable[[Path, argparse.Namespace], Iterator[Claim]]] = {
    "overhead": overhead,
    "parallel": parallel,
    "large": large,
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join((*PARTS, 'engines'))}; otherwise all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=40, help="of overhead and engines")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    chosen = options.parts or [*PARTS, "engines"]
    if unknown := set(chosen) - {*PARTS, "engines"}:
        parser.error(f"unknown part {min(unknown)!r}; there are: {', '.join((*PARTS, 'engines'))}")
    say = Sayer(as_json=options.json)
    with tempfile.TemporaryDirectory() as name:
        for part in chosen:
            folder = Path(name).resolve() / part
            folder.mkdir(exist_ok=True)
            if part == "engines":
                say.table(engines.measure(folder, options.trials))
            else:
                say.claims(part, PARTS[part](folder, options))
    return say.end()


class Sayer:
    """Prints figures as they come, or everything at the end as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.found: dict[str, Any] = {"machine": f"{platform.platform()}, {os.cpu_count()} cores"}
        self.is_fine = True
        if not as_json:
            print(
                f"{self.found['machine']}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )

    def claims(self, part: str, claims: Iterator[Claim]) -> None:
        self.found[part] = []
        for claim in claims:
            self.is_fine = self.is_fine and claim.holds
            self.found[part].append(dataclasses.asdict(claim))
            if not self.as_json:
                print(line_of(part, claim), flush=True)

    def table(self, rows: Sequence[engines.Row]) -> None:
        self.found["engines"] = [dataclasses.asdict(row) for row in rows]
        if not self.as_json:
            print(engines.render(rows))

    def end(self) -> int:
        if self.as_json:
            print(json.dumps({**self.found, "holds": self.is_fine}, indent=2))
        return 0 if self.is_fine else 1


def line_of(part: str, claim: Claim) -> str:
    usual = f"median {claim.usual:8.2f}" if claim.usual is not None else " " * 15
    word = "at least" if claim.is_least else "at most"
    limit = "" if claim.limit is None else f"   {word} {claim.limit:.3g}: {'ok' if claim.holds else 'NOT HELD'}"
    return f"{part:<9} {claim.name:<31} best {claim.figure:8.2f}  {usual}  {claim.unit}{limit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
