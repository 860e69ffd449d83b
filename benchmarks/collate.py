"""How fast the results of a large sweep become a DataFrame.

Usage: python3 benchmarks/collate.py [--points 10000] [--repeats 5] [--json]

The states are made in memory: five swept parameters, three seeds of each trial, four steps, two tasks with four metrics
each, one point in twenty failed. Measured are `collate_sweep_evals` of the states, `sweep_frame` of as many result rows, and
the table of intervals on top. The best of the repeats counts: other load only ever adds.
Exit codes: 0 collating takes less than 2 s · 1 not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoexperiment.analysis import collate_sweep_evals, compute_ci_df, sweep_frame
from autoexperiment.workflow.state import Status, StepState, WorkflowState

LIMIT_S = 2.0
SEEDS = 3
FAILED_EVERY = 20
TASKS, METRICS = ("first", "second"), ("accuracy", "f1_score", "loss", "r2")
STEPS = ("prepare_dataset", "submit_training", "wait_for_training", "evaluate_model")


def params_of(trial: int) -> dict[str, Any]:
    return {
        "submit_training.hyperparameters.learning_rate": [1e-4, 5e-5, 1e-5][trial % 3] * (1 + trial // 60),
        "submit_training.hyperparameters.batch_size": [4, 8, 16, 32][trial % 4],
        "submit_training.hyperparameters.hidden_sizes": [[32], [64, 32]][trial % 2],
        "submit_training.hyperparameters.optimizer": ["adam", "sgd"][trial // 2 % 2],
        "submit_training.suffix": f"trial-{trial}",
    }


def state_of(point: int, random_: random.Random) -> WorkflowState:
    config = {name: {"kwargs": {"num_samples": 100}, "backend_name": "harness"} for name in STEPS}
    has_failed = point % FAILED_EVERY == 0
    results = {task: {**{name: random_.random() for name in METRICS}, "stats": {"n": 100}} for task in TASKS}
    ends = [*[Status.FINISHED] * (len(STEPS) - 1), Status.FAILED if has_failed else Status.FINISHED]
    steps = [StepState(name, end, config[name], {"out": {"path": name}}) for name, end in zip(STEPS, ends, strict=True)]
    steps[-1] = StepState(STEPS[-1], ends[-1], config[STEPS[-1]], {} if has_failed else {"eval_results": results})
    return WorkflowState(
        "bench", config, tuple(steps), ends[-1], params_of(point // SEEDS), point % SEEDS + 1, run_dir=f"outputs/{point}",
        error="the loss became NaN" if has_failed else "",
    )  # fmt: skip


def row_of(number: int, state: WorkflowState) -> dict[str, Any]:
    """The state as a row of `mlx sweep results --json`."""
    tasks = state.outputs.get("eval_results", {})
    metrics = {f"{task}.{name}": values[name] for task, values in tasks.items() for name in METRICS}
    status = "completed" if metrics else "failed"
    return {
        "number": number, "trial": (number - 1) // SEEDS + 1, "rung": 0, "seed": state.seed, "params": state.params,
        "status": status, "reason": state.error, "metrics": metrics, "trust": dict.fromkeys(metrics, "recomputed"),
        "seconds": 1.2, "run_dir": state.run_dir,
    }  # fmt: skip


def best_s(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(points: int, repeats: int) -> dict[str, Any]:
    """Every figure of this benchmark, in seconds."""
    random_ = random.Random(0)
    states = [state_of(point, random_) for point in range(points)]
    rows = [row_of(number, state) for number, state in enumerate(states, 1)]
    frame = asyncio.run(collate_sweep_evals(states, "evaluate_model"))
    by = [*frame.attrs["params"], "task"]
    return {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
        "points": points,
        "rows": len(frame),
        "columns": len(frame.columns),
        "collate_s": best_s(lambda: asyncio.run(collate_sweep_evals(states, "evaluate_model")), repeats),
        "sweep_frame_s": best_s(lambda: sweep_frame(rows), repeats),
        "compute_ci_df_s": best_s(lambda: compute_ci_df(frame, "accuracy", by), repeats),
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    found = measure(words.points, words.repeats)
    is_fine = bool(found["collate_s"] < LIMIT_S)
    if words.json:
        print(json.dumps(found))
        return 0 if is_fine else 1
    print(f"{found['points']} points: {found['rows']} rows of {found['columns']} columns; best of {words.repeats}")
    for name in ("collate_s", "sweep_frame_s", "compute_ci_df_s"):
        print(f"{name.removesuffix('_s'):14}{found[name]:8.3f} s")
    print(f"{'Within' if is_fine else 'NOT within'} the limit: collate < {LIMIT_S:g} s.")
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
