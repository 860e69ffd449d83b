"""What trains and evaluates in the train-and-evaluate workflow: the interface of every backend."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

from autoexperiment.errors import UsageError, unknown
from autoexperiment.workflow.steps import Reads

BACKENDS = {
    "harness": "autoexperiment.workflow.backends.harness",
    "gpt": "autoexperiment.workflow.backends.gpt",
    "mlx_lm": "autoexperiment.workflow.backends.mlx_lm",
}


@dataclass(frozen=True)
class Dataset:
    """Prepared data: one file that is complete, with its content's hash.

    Attributes:
        path: relative to the workspace's root.
        kind: "text": JSON lines of objects with `prompt` and `completion`; "table": an npz file with `X` (n, features)
            and `y` (n,); "prepared": a dataset of the recipe by name, which `prepare.py` has made (path is the name).
        sha256: of the file's bytes; of a prepared dataset its snapshot.
        n_rows: rows of the file; 0 for a prepared one.
    """

    path: str
    kind: str
    sha256: str
    n_rows: int


@dataclass(frozen=True)
class EvalTask:
    """What a model is asked, and how its answers count; returned by the function that `eval_task` names.

    Attributes:
        metrics: names of the backend's metrics that are reported; () for all it has.
        split: "train", "val" or "test": the rows of the dataset that are asked, unless `samples` are given.
        samples: (prompt, wanted answer) pairs of the task's own; for backends that answer in text.
        match: "exact" or "contains": when a text answers as wanted; white space around it does not count.
    """

    name: str
    metrics: tuple[str, ...] = ()
    split: str = "test"
    samples: tuple[tuple[str, str], ...] = ()
    match: str = "exact"


@dataclass(frozen=True)
class Training:
    """What is to be trained: `submit_training` of the workflow's configuration, beside the data."""

    dataset: Dataset
    model: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class Place:
    """Where a workflow works. `root`: the workspace; `run_dir`: the folder of this workflow's files, both absolute."""

    root: Path
    run_dir: Path


class Backend(Protocol):
    """Trains and evaluates models of one kind. Jobs, models and results are plain JSON.

    Everything that takes long runs in a process of its own under the one supervisor. All methods raise LabError with a
    sentence for the user; a KeyboardInterrupt means that somebody stopped the process.
    """

    name: str

    def check(self, model: str, hyperparameters: Mapping[str, Any]) -> None:
        """Raises: LabError: it has no such model, or not with these hyperparameters."""
        ...

    def is_clocked(self, hyperparameters: Mapping[str, Any]) -> bool:
        """Whether what comes out depends on how fast the machine is meanwhile."""
        ...

    def reader(self, root: Path) -> Reads:
        """Tells what a whole configuration of the workflow points to and this backend reads: see `Workflow.reads`."""
        ...

    def submit(self, training: Training, place: Place) -> dict[str, Any]:
        """The job: everything that is to be trained, complete and checked; nothing is run. A pure function of its
        arguments' content: no times, no folder that is new each time."""
        ...

    def wait(self, job: Mapping[str, Any], place: Place, *, timeout_s: float | None) -> dict[str, Any]:
        """Train, to the end. Returns the model: at least `run_dir` (relative to the root) and `metrics` of the training."""
        ...

    def evaluate(self, model: Mapping[str, Any], task: EvalTask, place: Place) -> dict[str, dict[str, Any]]:
        """Metrics by task: {task.name: {"accuracy": 0.95, …}}; None for a metric that is not finite."""
        ...

    def is_there(self, model: Mapping[str, Any], place: Place) -> bool:
        """Whether a model that was trained before still is as it was (hash of its files), so that it may be used again."""
        ...


def backend(name: str) -> Backend:
    """The backend of a name; its module is imported now. Raises: UsageError: there is no such."""
    if name not in BACKENDS:
        raise UsageError(unknown("backend", name, BACKENDS))
    return cast(Backend, importlib.import_module(BACKENDS[name]).BACKEND)
