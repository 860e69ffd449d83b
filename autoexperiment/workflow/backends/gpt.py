"""The backend of the GPT recipe: a job is a configuration of it, a model the checkpoint that its run left.

The run lies in `<run_dir>/training/`. Its val_bpb comes from the sealed evaluation at its end, and is not computed anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoexperiment import snapshot
from autoexperiment.dotpaths import canonical
from autoexperiment.errors import DataError, HarnessError, Refused, UsageError, unknown
from autoexperiment.files import remove_folder
from autoexperiment.paths import RunPaths
from autoexperiment.run import Run
from autoexperiment.sweep import recipes
from autoexperiment.sweep.points import Order, Point, Result, key_of
from autoexperiment.vocabulary import RunStatus
from autoexperiment.workflow.asking import prepared
from autoexperiment.workflow.backends.base import EvalTask, Place, Training
from autoexperiment.workflow.steps import Reads

MODEL, PREPARED = "gpt", "prepared"
PLAIN = ("budget", "seed")  # hyperparameters that are no constants of train.py
KEPT = {"keep_checkpoints": True}


class Gpt:
    """Trains `train.py` of the workspace on a prepared dataset, within a fixed budget."""

    name = "gpt"

    def check(self, model: str, hyperparameters: Mapping[str, Any]) -> None:
        """All that can be said without the recipe. Raises: UsageError."""
        if model != MODEL:
            raise UsageError(unknown("model of the backend 'gpt'", model, [MODEL]))
        if "budget" in hyperparameters:
            recipes.budget_of(hyperparameters["budget"])
        if "seed" in hyperparameters:
            recipes.seed_of(hyperparameters["seed"])

    def is_clocked(self, hyperparameters: Mapping[str, Any]) -> bool:
        return "budget" not in hyperparameters or recipes.budget_of(hyperparameters["budget"]).kind == "seconds"

    def reader(self, root: Path) -> Reads:
        return _Reader(root)

    def submit(self, training: Training, place: Place) -> dict[str, Any]:
        self.check(training.model, training.hyperparameters)
        dataset = training.dataset
        if dataset.kind != PREPARED:
            raise DataError(
                f"The backend 'gpt' trains on prepared datasets, and {dataset.path} is of the kind {dataset.kind!r}. "
                'Let the loader give the name of one that prepare.py has made: {"prepared": "pystdlib"}'
            )
        base = {**_plain(training.hyperparameters), "dataset": dataset.path, "snapshot": dataset.sha256}
        work = recipes.make(base, root=place.root, options=KEPT)
        config = work.resolve(_constants(training.hyperparameters, work), None)
        return {
            "backend": self.name,
            "model": training.model,
            "dataset": asdict(dataset),
            "config": config,
            "identity": work.identity(config),
        }

    def wait(self, job: Mapping[str, Any], place: Place, *, timeout_s: float | None) -> dict[str, Any]:
        config, identity = job["config"], job["identity"]
        work = recipes.make(config, root=place.root, options=KEPT)
        if work.identity(work.resolve({}, None)) != identity:
            raise Refused(
                "The recipe is not as it was when the job was made: train.py, prepare.py, data_sources.py or the device "
                "differ. Run the workflow again, in a sweep with retry_failed=True."
            )
        run = RunPaths(place.run_dir / "training")
        remove_folder(run.folder)  # what an attempt before left
        run.folder.mkdir(parents=True)
        point = Point(1, 1, {}, None, config, key_of(work.kind, identity))
        folder = _below(place.run_dir, place.root)
        order = Order(work.kind, point, str(place.root), folder, timeout_s, options=work.options)
        found = _finished(recipes.perform(order, run, signals=None))
        return {
            **{name: job[name] for name in ("backend", "model", "dataset", "config")},
            "run_dir": _below(run.folder, place.root),
            "sha256": _identity(run),
            "metrics": dict(found.metrics),
            "trust": dict(found.trust),
        }

    def evaluate(self, model: Mapping[str, Any], task: EvalTask, place: Place) -> dict[str, dict[str, Any]]:
        if task.samples:
            raise UsageError(
                f"The task {task.name!r} asks {len(task.samples)} prompts, and the backend 'gpt' answers none: it scores "
                "the validation text. Name a task without samples."
            )
        metrics = Run.load(RunPaths(place.root / model["run_dir"])).metrics
        for name in task.metrics:
            if name not in metrics:
                raise UsageError(unknown("metric", name, metrics, where=f"task {task.name!r}"))
        return {task.name: {name: metrics[name] for name in task.metrics or (recipes.METRIC,)}}

    def is_there(self, model: Mapping[str, Any], place: Place) -> bool:
        try:
            return _identity(RunPaths(place.root / model["run_dir"])) == str(model["sha256"])
        except OSError:
            return False


BACKEND = Gpt()


class _Reader:
    """Recipe, device and prepared data of configurations; the recipe's files are read once, each loader asked once."""

    def __init__(self, root: Path) -> None:
        self._root, self._datasets = root, dict[str, str]()
        self._work: recipes.RecipeWork | None = None

    def __call__(self, config: Mapping[str, Any]) -> dict[str, Any]:
        given = config["submit_training"]["hyperparameters"]
        if self._work is None:
            self._work = recipes.make({}, root=self._root, options=KEPT)
        values = {**_plain(given), **_constants(given, self._work), "dataset": self._dataset(config["prepare_dataset"])}
        return self._work.identity(self._work.resolve(values, None))

    def _dataset(self, section: Mapping[str, Any]) -> str:
        key = canonical(section)
        if key not in self._datasets:
            self._datasets[key] = prepared(section["dataset_loader"], section["loader_kwargs"], root=self._root)
        return self._datasets[key]


def _plain(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in hyperparameters.items() if name in PLAIN}


def _constants(hyperparameters: Mapping[str, Any], work: recipes.RecipeWork) -> dict[str, Any]:
    """The hyperparameters that are constants of train.py, in lower or upper case, by dot path. Raises: UsageError."""
    known = {constant.name: f"constants.{constant.name}" for constant in work.source.constants}
    found: dict[str, Any] = {}
    for name, value in hyperparameters.items():
        if name in PLAIN:
            continue
        path = known.get(name.upper()) if name in (name.upper(), name.lower()) else None
        if path is None:
            usable = [*PLAIN, *(constant.lower() for constant in known if constant not in recipes.GIVEN)]
            raise UsageError(unknown("hyperparameter", name, usable, where="model 'gpt'"))
        if path in found:
            raise UsageError(f"The hyperparameter {name!r} is given twice, in lower and in upper case. Leave one out.")
        found[path] = value
    return found


_ENDED = {RunStatus.DIVERGED: "diverged", RunStatus.TIMED_OUT: "took too long"}


def _finished(result: Result) -> Result:
    """Raises: HarnessError: it did not come to a good end. KeyboardInterrupt: somebody stopped it."""
    if result.status is RunStatus.INTERRUPTED:
        raise KeyboardInterrupt
    if not result.is_ok:
        raise HarnessError(f"The training {_ENDED.get(result.status, 'failed')}: {result.reason}")
    return result


def _below(folder: Path, root: Path) -> str:
    return Path(os.path.relpath(folder, root)).as_posix()


def _identity(run: RunPaths) -> str:
    """One hash over what the run measured and the model that it left. Raises: OSError."""
    parts = [snapshot.content(place) for place in (run.record, run.checkpoint)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
