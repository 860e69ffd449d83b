"""Small configurations of the harness, and the training process on them; also a sweep of kills (see `main`)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from autoexperiment.training.request import DESCRIBE, EVALUATE, TRAIN, Request

ROOT = Path(__file__).resolve().parent.parent
FEATURES = 4
LINEAR: dict[str, Any] = {"name": "linear_regression", "params": {}}
DESCENT: dict[str, Any] = {"name": "linear_regression", "params": {"use_gradient_descent": True}}
MLP: dict[str, Any] = {"name": "mlp", "params": {"layer_sizes": [FEATURES, 3, 1]}}
CLASSIFIER: dict[str, Any] = {"name": "mlp", "params": {"layer_sizes": [FEATURES, 3, 2]}}


def regression(**params: Any) -> dict[str, Any]:
    return _dataset("synthetic_regression", {"n_samples": 40, "n_features": FEATURES, **params})


def classification(**params: Any) -> dict[str, Any]:
    return _dataset("synthetic_classification", {"n_samples": 40, "n_features": FEATURES, **params})


def loader(name: str, **params: Any) -> dict[str, Any]:
    return {**_dataset("custom", params), "loader": name}


def custom(path: str, **params: Any) -> dict[str, Any]:
    return {**_dataset("custom", params), "path": path}


def _dataset(name: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "path": None, "loader": None, "val_fraction": 0.1, "test_fraction": 0.1, "params": params}


def config(
    model: dict[str, Any],
    dataset: dict[str, Any] | None = None,
    *,
    output: dict[str, Any] | None = None,
    **training: Any,
) -> dict[str, Any]:
    """A whole configuration: 3 epochs of batches of 16, unless `training` says otherwise."""
    given = {"epochs": 3, "batch_size": 16, "learning_rate": 0.01, "optimizer": "adam", "seed": 1, "timeout_s": None}
    kept = {"directory": "outputs", "save_checkpoints": True, "checkpoint_frequency": 1, "save_logs": True}
    return {
        "name": "small",
        "description": None,
        "dataset": dataset or regression(),
        "model": model,
        "training": {**given, **training},
        "output": {**kept, **(output or {})},
    }


def request(folder: Path, what: dict[str, Any], *, act: str = TRAIN, **rest: Any) -> Request:
    """`folder`: the workspace; the run is in its `run`, the answer in its `answer.json`."""
    result = str(folder / "answer.json") if act in (EVALUATE, DESCRIBE) else ""
    return Request(act, str(folder), what, run_dir=str(folder / "run"), result=result, **rest)


def start(asked: Request, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """The training process, as the harness starts it. Args: cwd: instead of the workspace."""
    words = [sys.executable, "-m", "autoexperiment.training.child", asked.to_json()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        words, cwd=cwd or asked.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(asked: Request, **variables: str) -> tuple[int, list[str]]:
    """Exit code and lines of a training process."""
    process = start(asked, None, **variables)
    said, _ = process.communicate()
    return process.returncode, said.splitlines()


def files_of(run: Path) -> dict[str, bytes]:
    """Every file of metrics/ and checkpoints/, by its path in the run."""
    found = (path for part in ("metrics", "checkpoints") for path in sorted((run / part).rglob("*")))
    return {str(path.relative_to(run)): path.read_bytes() for path in found if path.is_file()}


def train_here(asked: Request, should_stop: Callable[[], bool] = lambda: False) -> tuple[Any, list[str]]:
    """Train in this process; how it ended, and its lines."""
    from autoexperiment import datasets, models
    from autoexperiment.paths import RunPaths
    from autoexperiment.training import fit

    splits = datasets.load(asked.config["dataset"], root=Path(asked.root))
    model = models.make(asked.config["model"], splits.facts)
    trainer = fit.trainer_of(model, splits, asked.config["training"], should_stop=should_stop)
    said: list[str] = []
    end = fit.train(
        trainer, RunPaths(Path(asked.run_dir)), fit.Plan.of(asked.config), data=splits.fingerprint,
        resume=asked.resume, say=said.append, should_stop=should_stop,
    )  # fmt: skip
    return end, said


def _in_child(work: Callable[[], object]) -> int:
    """Do work in a fork; minus the signal that killed it, or its exit code."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def sweep(folder: Path, what: dict[str, Any], *, first: int, stride: int) -> int:
    """Kill a run at the failpoints `first`, `first + stride`, …, resume it, kill that too, resume again; how many points there are.

    Forks, before this process evaluates anything with MLX.
    """
    from autoexperiment import failpoint
    from autoexperiment.training import descent  # noqa: F401  # imported once, not in each fork

    def run(name: str, *, fail_at: int = 0, resume: bool = False, trace: str = "") -> int:
        def work() -> None:
            failpoint._fail_at, failpoint._trace = fail_at, trace
            train_here(Request(TRAIN, str(folder), what, run_dir=str(folder / name), resume=resume))

        return _in_child(work)

    trace = folder / "trace"
    assert run("whole", trace=str(trace)) == 0
    expected, points = files_of(folder / "whole"), len(trace.read_text().splitlines())
    for point in range(first, points + 1, stride):
        name = f"killed{point}"
        assert run(name, fail_at=point) == -signal.SIGKILL, point
        files_readable(folder / name)
        again = run(name, fail_at=1 + point % 5, resume=True)
        assert again == -signal.SIGKILL or (again == 0 and point > points - 6), point
        assert run(name, resume=True) == 0, point
        assert files_of(folder / name) == expected, point
    return points


def files_readable(run: Path) -> None:
    """What a reader may rely on after any kill: whole views, whole rows, checkpoints whole or hidden."""
    from autoexperiment.errors import DataError
    from autoexperiment.paths import RunPaths
    from autoexperiment.training import checkpoints

    if (view := run / "metrics" / "metrics.json").exists():
        json.loads(view.read_text())
    if (rows := run / "metrics" / "metrics.ndjson").exists():
        for line in rows.read_text().splitlines(keepends=True):
            assert line.endswith("\n") and json.loads(line)
    for name in checkpoints.names(RunPaths(run)):
        try:
            checkpoints.verify(run / "checkpoints" / name)
        except DataError as error:
            raise AssertionError(f"{name} is neither whole nor absent") from error


def main(argv: list[str]) -> int:
    """Usage: trainings.py FOLDER CONFIG_JSON FIRST STRIDE: a sweep, in a process that has done nothing else.

    A kill, unlike a power cut, loses nothing that was written: the disk need not be waited for.
    """
    os.fsync = lambda fd: None
    print(sweep(Path(argv[0]), json.loads(argv[1]), first=int(argv[2]), stride=int(argv[3])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
