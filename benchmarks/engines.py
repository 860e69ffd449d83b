"""The same trivial trials through a sweep and through the engines that others use, side by side on this machine.

Usage: python benchmarks/engines.py [--trials 40] [--json]

  process ms  wall time a trial where each is a process of its own that does nothing (`python -c pass`), two at a time
  inside ms   wall time a trial that is a function call in the engine's own worker; a sweep's own bookkeeping, for ours
  start s     until the engine is ready, import included where the engine is a library
  kill -9     tried: 8 trials by two workers; the third trial's worker is killed once, in mid-trial. How many were done
              without help, and what was done twice. "again": after the same call was made once more.
A sweep keeps every trial in a run directory, its result and its log, and syncs its book to the disk: what the others do
not do is part of their speed. submitit is played with fewer trials: each job takes it long. Exit code: 0.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoexperiment.paths import RunPaths
from autoexperiment.supervisor import Limits, Signals, run_environment, supervise
from autoexperiment.sweep import launching, work
from autoexperiment.sweep.book import read
from autoexperiment.sweep.engine import Job
from autoexperiment.sweep.launching import Launch, Where
from autoexperiment.sweep.points import Order, Result
from autoexperiment.sweep.samplers import GridSampler
from autoexperiment.sweep.space import Space, Values
from autoexperiment.vocabulary import RunStatus

WORKERS = 2
FRAGILE = 8  # trials of the kill
VICTIM = 2
FRAGILE_S = 0.2
SLOW_TRIALS = 6  # of submitit
PATIENCE_S = 300.0
NOTHING = [sys.executable, "-c", "pass"]
IMPORTS = os.pathsep.join(str(folder) for folder in Path(__file__).resolve().parents[:2])  # for workers
OURS, OPTUNA, JOBLIB, DASK, SUBMITIT = "mlx sweep", "optuna RDB", "joblib loky", "dask local", "submitit local"
LIBRARIES = {OPTUNA: "optuna", JOBLIB: "joblib", DASK: "distributed", SUBMITIT: "submitit"}

Task = Callable[[int], float]


@dataclass(frozen=True)
class Row:
    """One engine. None: not measured."""

    engine: str
    start_s: float | None = None
    process_ms: float | None = None
    inside_ms: float | None = None
    killed: str = "not installed"


# ---- trials: at the top of a module, so that every engine can hand them to its workers


def square(number: int) -> float:
    return float(number * number)


def in_a_process(number: int) -> float:
    subprocess.run(NOTHING, check=True)
    return square(number)


def fragile(number: int) -> float:
    """A trial that leaves a mark when it begins and when it ends; the victim kills its worker the first time."""
    folder = Path(os.environ["FRAGILE"])
    (folder / f"begun-{number}-{time.monotonic_ns()}").touch()
    if number == VICTIM and _is_first(folder):
        os.kill(int(os.environ.get("VICTIM_PID", os.getpid())), signal.SIGKILL)
    time.sleep(FRAGILE_S)
    (folder / f"done-{number}-{time.monotonic_ns()}").touch()
    return square(number)


def _is_first(folder: Path) -> bool:
    try:
        (folder / "killed").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


# ---- engines: each takes a task, plays it for 0 … count-1 with two workers, and says how long it was about to start


def play_optuna(task: Task, count: int, folder: Path) -> float:
    began = time.perf_counter()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="bench", storage=f"sqlite:///{folder / 'study.db'}", load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=1),
    )  # fmt: skip
    started = time.perf_counter() - began

    def objective(trial: Any) -> float:
        trial.suggest_float("x", 0.0, 1.0)
        return task(trial.number)

    left = count - sum(trial.state.is_finished() for trial in study.trials)
    study.optimize(objective, n_trials=left, n_jobs=WORKERS)
    return started


def play_joblib(task: Task, count: int, _: Path) -> float:
    began = time.perf_counter()
    joblib = importlib.import_module("joblib")

    with joblib.Parallel(n_jobs=WORKERS, backend="loky", batch_size=1) as pool:
        pool(joblib.delayed(square)(number) for number in range(WORKERS))
        started = time.perf_counter() - began
        pool(joblib.delayed(task)(number) for number in range(count))
    return started


def play_dask(task: Task, count: int, folder: Path) -> float:
    began = time.perf_counter()
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=str(folder), silence_logs=50
    )
    with cluster, Client(cluster) as client:
        client.gather(client.map(square, range(WORKERS), pure=False))
        started = time.perf_counter() - began
        client.gather(client.map(task, range(count), pure=False))
    return started


def play_submitit(task: Task, count: int, folder: Path) -> float:
    began = time.perf_counter()
    import submitit

    executor = submitit.AutoExecutor(folder=folder / "submitit", cluster="local")
    executor.update_parameters(timeout_min=5)
    started = time.perf_counter() - began
    failures = []
    for first in range(0, count, WORKERS):  # its local executor starts all that it is given at once
        jobs = [executor.submit(task, number) for number in range(first, min(first + WORKERS, count))]
        failures += [error for job in jobs if (error := job.exception())]
    if failures:
        raise failures[0]
    return started


class FailedRow(Exception):
    """A sweep ends well with failed points; here they are to be told."""


class Trivial:
    """A kind of work for the sweep: the points are numbers."""

    kind, metric, is_clocked = "trivial", "", False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        return dict(params)

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        return dict(config)

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        return None


def perform(order: Order, run: RunPaths, *, signals: Signals | None) -> Result:
    """How the sweep runs one of them: see `work.WORKS`."""
    number, task = order.point.config["number"], order.options["task"]
    if task == "square":
        return Result(RunStatus.COMPLETED, {"y": square(number)})
    command = [sys.executable, "-c", "pass" if task == "in_a_process" else f"import engines; engines.fragile({number})"]
    passed = {name: os.environ[name] for name in ("FRAGILE", "VICTIM_PID", "PYTHONPATH") if name in os.environ}
    ending = supervise(
        command, cwd=run.folder, log=run.log, limits=Limits(60.0), env=run_environment(run.folder, extra=passed),
        signals=signals,
    )  # fmt: skip
    is_ok = ending.exit_code == 0
    return Result(RunStatus.COMPLETED if is_ok else RunStatus.FAILED, {"y": square(number)} if is_ok else {})


def play_ours(task: Task, count: int, folder: Path) -> float:
    began = time.perf_counter()
    work.WORKS["trivial"] = "engines"
    job = Job(Trivial({"task": task.__name__}), folder, "outputs/bench", threads=1, retries_failed=True)
    definition = {"base": {}, "planned": count, "metric": "", "goal": ""}
    space = Space({"number": Values(tuple(range(count)))})
    launch = Launch(job, definition, lambda: GridSampler(space), Where(max_parallel=WORKERS), is_resumed=True)
    started = time.perf_counter() - began
    launching.run(launch)
    if any(not point.result.is_ok for point in read(launch.paths).ended.values()):
        raise FailedRow
    return started


PLAYS: dict[str, Callable[[Task, int, Path], float]] = {
    OURS: play_ours,
    OPTUNA: play_optuna,
    JOBLIB: play_joblib,
    DASK: play_dask,
    SUBMITIT: play_submitit,
}
TASKS: dict[str, Task] = {task.__name__: task for task in (square, in_a_process, fragile)}


# ---- measuring: each play in a process of its own, so that none inherits what another imported


def play(engine: str, task: str, count: int, folder: Path) -> dict[str, Any]:
    """Play in a process of its own; its answer, or `failed` with what it said last."""
    folder.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, __file__, "--play", engine, task, str(count), str(folder)]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=folder, timeout=PATIENCE_S, env={**os.environ, "PYTHONPATH": IMPORTS}
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        answer = {"failed": "killed" if done.returncode == -signal.SIGKILL else done.stderr[-200:]}
    return answer


def _played(engine: str, task: str, count: int, folder: Path) -> dict[str, Any]:
    """In that process. What engines say on stdout or when they take themselves down is not the answer."""
    warnings.filterwarnings("ignore")
    os.environ["FRAGILE"] = str(folder)
    if "KILL_ALL" in os.environ:
        os.environ["VICTIM_PID"] = str(os.getpid())
    # as another module than __main__, which is how workers find it
    module = importlib.import_module("engines")
    began = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            started = module.PLAYS[engine](module.TASKS[task], count, folder)
    except Exception as error:
        return {"failed": f"{type(error).__name__}"}
    return {"start_s": started, "each_ms": 1000 * (time.perf_counter() - began - started) / count}


def measure(folder: Path, trials: int) -> list[Row]:
    return [_row(engine, folder / engine.replace(" ", "-"), trials) for engine in PLAYS]


def _row(engine: str, folder: Path, trials: int) -> Row:
    if engine in LIBRARIES and importlib.util.find_spec(LIBRARIES[engine]) is None:
        return Row(engine)
    count = SLOW_TRIALS if engine == SUBMITIT else trials
    process, inside = (play(engine, task, count, folder / task) for task in ("in_a_process", "square"))
    for answer in (process, inside):
        if "failed" in answer:
            raise RuntimeError(f"{engine} failed: {answer['failed']}")
    start = _import_s() if engine == OURS else process["start_s"]
    return Row(engine, start, process["each_ms"], inside["each_ms"], _killed(engine, folder))


def _import_s() -> float:
    """How long a Python that imports the sweep takes more than one that does nothing."""
    took = []
    for words in ("import autoexperiment.sweep.launching", "pass"):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", words], check=True, env={**os.environ, "PYTHONPATH": IMPORTS})
        took.append(time.perf_counter() - began)
    return took[0] - took[1]


def _killed(engine: str, folder: Path) -> str:
    """What became of the trials when a worker was killed; of a sweep, its own process as well."""
    text = _after_kill(engine, folder / "kill")
    if engine == OURS:
        os.environ["KILL_ALL"] = "1"
        text += f"; the sweep itself: {_after_kill(engine, folder / 'kill-all')}"
        del os.environ["KILL_ALL"]
    return text


def _after_kill(engine: str, folder: Path) -> str:
    first = play(engine, "fragile", FRAGILE, folder)
    text = f"{_done(folder)} of {FRAGILE} done"
    if "failed" in first:
        text += f" ({first['failed']})"
        again = play(engine, "fragile", FRAGILE, folder)
        text += f"; again: {_done(folder)}" + (f" ({again['failed']})" if "failed" in again else "")
    twice = [count for number, count in _counts(folder).items() if count > 1]
    return text + (f", {len(twice)} done twice" if twice else ", none twice")


def _counts(folder: Path) -> Counter[str]:
    """How often each trial was done."""
    return Counter(mark.name.split("-")[1] for mark in folder.glob("done-*"))


def _done(folder: Path) -> int:
    return len(_counts(folder))


def render(rows: Sequence[Row]) -> str:
    lines = [f"{'engine':<15} {'start s':>8} {'process ms':>11} {'inside ms':>10}  kill -9 of a worker in mid-trial"]
    for row in rows:
        numbers = zip((row.start_s, row.process_ms, row.inside_ms), (8, 11, 10), strict=True)
        shown = " ".join(" " * width if value is None else f"{value:>{width}.2f}" for value, width in numbers)
        lines.append(f"{row.engine:<15} {shown}  {row.killed}")
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--play", nargs=4, metavar=("ENGINE", "TASK", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.play:
        engine, task, count, place = options.play
        print(json.dumps(_played(engine, task, int(count), Path(place))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        rows = measure(Path(name).resolve(), options.trials)
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else render(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
