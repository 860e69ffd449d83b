"""Points that are configurations of the experiment harness: each is one training process, and one run of the history."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autoexperiment import dotpaths, evaluations, history, planning, runner, snapshot
from autoexperiment.clocks import duration
from autoexperiment.errors import LabError, TookTooLong, UsageError
from autoexperiment.files import dump_json
from autoexperiment.paths import RunPaths
from autoexperiment.run import Run
from autoexperiment.supervisor import Signals
from autoexperiment.sweep.points import Order, Result
from autoexperiment.sweep.work import check_options
from autoexperiment.trainer import Quiet
from autoexperiment.vocabulary import Outcome, RunStatus

if TYPE_CHECKING:
    from autoexperiment.datasets import Facts

SEED_PATHS = ("training.seed", "model.params.seed")  # not the dataset's: replicates are trained on the same rows
OPTIONS = ("name", "directory", "evaluate", "seed_paths")
PROBE_S = 20.0
NOT_IDENTITY = ("name", "description", "output")


@dataclass
class ExperimentWork:
    """Configurations that differ from a base in some values. `base`: complete, as config.json holds it."""

    kind: ClassVar[str] = "experiment"
    metric: ClassVar[str] = "val_loss"

    base: Mapping[str, Any]
    root: Path
    seed_paths: Sequence[str]
    options: Mapping[str, Any]
    _looks: dict[str, tuple[Facts | None, list[str]]] = field(default_factory=dict)
    _contents: dict[Path, str] = field(default_factory=dict)
    _paces: list[_Pace | None] = field(default_factory=list)

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        for path in (*params, *self.seed_paths):
            if path.partition(".")[0] in NOT_IDENTITY:
                raise UsageError(
                    f"{path!r} changes nothing about what is trained, so it can't be varied. Leave it out."
                )
        from autoexperiment.config import ConfigLoader

        seeds = {} if seed is None else dict.fromkeys(self.seed_paths, seed)
        config = ConfigLoader.load_from_dict(dotpaths.replaced(self.base, {**params, **seeds})).to_json()
        if faults := self._misfits(config):
            raise planning.refuse(faults)
        return config

    def _misfits(self, config: Mapping[str, Any]) -> list[str]:
        """What is wrong with the data, which are looked at once, or with the model for them."""
        from autoexperiment import models

        dataset = dump_json(config["dataset"], indent=None)
        if dataset not in self._looks:
            self._looks[dataset] = planning.look(dict(config), self.root, with_model=False)
        facts, faults = self._looks[dataset]
        return faults + (models.check(config["model"], facts) if facts else [])

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        facts = {name: value for name, value in config.items() if name not in NOT_IDENTITY}
        content = {name: self._content(file) for name, file in self._files(config["dataset"]).items()}
        return {**facts, "evaluate": self.options.get("evaluate"), "content": content}

    def _files(self, dataset: Mapping[str, Any]) -> dict[str, Path]:
        """Files that the dataset is made of: its data, and the code of its loader."""
        files = {}
        if dataset["path"]:
            files["path"] = self.root / dataset["path"]
        if dataset["loader"]:
            source = self.root / Path(*dataset["loader"].partition(":")[0].split("."))
            found = [file for file in (source.with_suffix(".py"), source / "__init__.py") if file.is_file()]
            files |= dict(zip(("loader",), found, strict=False))
        return files

    def _content(self, file: Path) -> str:
        if file not in self._contents:
            self._contents[file] = snapshot.content(file) if file.exists() else ""
        return self._contents[file]

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        return False

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        """By start-up and one epoch of the first that is asked about, which is trained in a folder that is thrown away;
        of others by their epochs and rows. None when that takes longer than PROBE_S."""
        if not self._paces:
            self._paces.append(_pace(config, self.root))
        pace = self._paces[0]
        return None if pace is None else pace.start_s + pace.row_s * _rows(config)


@dataclass(frozen=True)
class _Pace:
    """What a training takes: start-up, and each row in each epoch."""

    start_s: float
    row_s: float


def _rows(config: Mapping[str, Any]) -> float:
    """How many rows a training goes through; of data that are not made here, in units of all of them."""
    made = config["dataset"]["params"].get("n_samples")
    return float(config["training"]["epochs"]) * (made if isinstance(made, int) else 1)


def _pace(config: Mapping[str, Any], root: Path) -> _Pace | None:
    with tempfile.TemporaryDirectory(prefix="autoexperiment-") as name:
        short = dotpaths.replaced(config, {"training.epochs": 1, "output.save_checkpoints": False})
        clock = _Clock()
        record = _train_once(short, root, RunPaths(Path(name)), clock)
    if record.outcome is not Outcome.OK:
        return None
    return _Pace(float(record.ending["wall_s"]) - clock.epoch_s, clock.epoch_s / _rows(short))


@dataclass
class _Clock(Quiet):
    """Hears how long the first epoch takes."""

    began: float = 0.0
    epoch_s: float = 0.0

    def heard(self, word: str, text: str) -> None:
        if word == "metrics":
            self.began = time.monotonic()
        elif word == "epoch" and self.began:
            self.epoch_s = time.monotonic() - self.began


def _train_once(config: Mapping[str, Any], root: Path, run: RunPaths, clock: _Clock) -> Run:
    from autoexperiment.config import ConfigLoader

    plan = planning.make_plan(ConfigLoader.load_from_dict(config), root=root)
    with Signals().watched() as signals:
        record, _ = runner.train(plan, run, signals=signals, observer=clock, timeout_s=PROBE_S)
    if signals.received:
        raise KeyboardInterrupt
    return record


def make(base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> ExperimentWork:
    """The work on a base configuration.

    Args: options: `name` and `directory`: where the runs are put; `evaluate`: None, "val" or "test": the part that the
        last checkpoint is evaluated on besides; `seed_paths`: the values that a replicate's seed is set at.
    """
    from autoexperiment.config import ConfigLoader

    check_options(options, OPTIONS)
    directory = options.get("directory") or "outputs"
    output = {**(base.get("output") or {}), "directory": directory}
    if options.get("evaluate") and not output.get("save_checkpoints", True):
        raise UsageError("'evaluate' needs a checkpoint, and output.save_checkpoints is false. Leave one of them out.")
    named = {**base, "name": options["name"], "output": output}
    config = ConfigLoader.load_from_dict(named).to_json()
    return ExperimentWork(config, root, options.get("seed_paths") or SEED_PATHS, options)


def perform(order: Order, run: RunPaths, *, signals: Signals | None) -> Result:
    """Train, and evaluate where that is asked for."""
    from autoexperiment.config import ConfigLoader

    # that the data are there, and that the model fits them, was looked at when the sweep began: the process will say
    plan = planning.PlacedConfig(ConfigLoader.load_from_dict(order.point.config), Path(order.root))
    runner.write_config(plan, run)
    with history.hold(run):
        return _train(plan, run, order, signals or Signals())


def _train(plan: planning.PlacedConfig, run: RunPaths, order: Order, signals: Signals) -> Result:
    began, limit = time.monotonic(), order.timeout_s
    record, summary = runner.train(plan, run, signals=signals, threads=order.threads, timeout_s=limit)
    status = RunStatus(summary["status"])
    if status is RunStatus.TIMED_OUT and limit:
        return _too_long(limit)
    if status is not RunStatus.COMPLETED:
        return Result(status, reason=summary["reason"])
    final = {name: value for name, value in summary["final_metrics"].items() if name != "epoch"}
    result = Result(status, {**final, **record.metrics}, {name: str(level) for name, level in record.trust.items()})
    part = order.options.get("evaluate")
    left = limit - (time.monotonic() - began) if limit else None
    return _evaluated(result, run, part, signals=signals, left_s=left, limit=limit) if part else result


def _too_long(limit: float) -> Result:
    return Result(RunStatus.TIMED_OUT, reason=f"It took longer than {duration(limit)}, which timeout_s allows.")


def _evaluated(
    result: Result, run: RunPaths, part: str, *, signals: Signals, left_s: float | None, limit: float | None
) -> Result:
    """The result with the metrics of one part of the data, which another process computes from the checkpoint."""
    try:
        if left_s is not None and left_s <= 0:
            raise TookTooLong
        found = evaluations.run_evaluation(run.folder, split=part, signals=signals, timeout_s=left_s)
    except TookTooLong:
        return _too_long(limit or 0.0)
    except LabError as error:
        return Result(RunStatus.FAILED, reason=str(error))
    except KeyboardInterrupt:
        return Result(RunStatus.INTERRUPTED, reason="Its evaluation was stopped.")
    scores = {f"{part}_{name}": value for name, value in found["metrics"].items() if not isinstance(value, list)}
    trust = {**result.trust, **dict.fromkeys(scores, found["trust"])}
    return replace(result, metrics={**result.metrics, **scores}, trust=trust)
