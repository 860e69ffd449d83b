"""A workspace for tests of the harness: a folder of its own, and `mlx` run in it as a person does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from standin import git_environment

LINEAR: dict[str, Any] = {
    "name": "line",
    "dataset": {"name": "synthetic_regression", "params": {"n_samples": 100, "n_features": 5}},
    "model": {"name": "linear_regression"},
    "training": {"epochs": 4},
    "output": {"checkpoint_frequency": 2},
}
MLP: dict[str, Any] = {
    **LINEAR,
    "name": "net",
    "model": {"name": "mlp", "params": {"layer_sizes": [5, 8, 1]}},
}
LONG = {"epochs": 1_000_000}  # never to its end


@dataclass(frozen=True)
class Workspace:
    """`root` is no git repository, so it is the workspace as a whole."""

    root: Path
    environment: dict[str, str]
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def of(cls, folder: Path) -> Iterator[Workspace]:
        """A workspace below a folder; nothing that it started outlives it."""
        place = cls._make(folder)
        try:
            yield place
        finally:
            for process in place.started:
                if process.poll() is None:
                    process.kill()  # its warden ends the training process
                    process.communicate()

    @classmethod
    def _make(cls, folder: Path) -> Workspace:
        home = folder / "home"
        root = folder / "workspace"
        home.mkdir(parents=True)
        root.mkdir()
        bins = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return cls(root, {**git_environment(home), "PATH": bins, "LANG": "C.UTF-8"})

    def write(self, config: Any, name: str = "config.json") -> str:
        (self.root / name).write_text(config if isinstance(config, str) else json.dumps(config))
        return name

    def start(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        """Start `mlx` with these words."""
        process = subprocess.Popen(
            [sys.executable, "-m", "autoexperiment", *words], cwd=self.root, env=self.environment, text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
        )  # fmt: skip
        self.started.append(process)
        return process

    def mlx(self, *words: str, code: int = 0) -> str:
        """Run `mlx` to its end and expect an exit code; returns what it printed, errors last."""
        process = self.start(*words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, out + err
        return out + err

    def run(self, config: Any, *words: str, code: int = 0) -> dict[str, Any]:
        """Run a configuration; returns the summary that `--json` prints."""
        process = self.start("run-experiment", "--config", self.write(config), "--json", *words)
        out, err = process.communicate(timeout=120)
        assert process.returncode == code, out + err
        answer: dict[str, Any] = json.loads(out)
        return answer

    def index(self, directory: str = "outputs") -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = json.loads((self.root / directory / "index.json").read_text())["runs"]
        return runs


def wait_for(process: subprocess.Popen[str], pattern: str, root: Path) -> Path:
    """The first file of a pattern, once it is there and not empty, while a process goes on."""
    while True:
        for file in root.glob(pattern):
            if file.stat().st_size:
                return file
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def bytes_of(run_dir: str | Path) -> dict[str, bytes]:
    """Everything in a run's metrics and checkpoints, by path."""
    root = Path(run_dir)
    files = [p for part in ("metrics", "checkpoints") for p in (root / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def kill_after(process: subprocess.Popen[str], seconds: float) -> bool:
    """Kill a process at a moment, and wait until nothing that it started is left; False: it had ended before."""
    time.sleep(seconds)
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    was_running = process.poll() is None
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(below, timeout=30)
    assert not alive, "the training process outlived its supervisor"
    return was_running
