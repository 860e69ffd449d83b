"""The workflow that prepares data, trains a model on them and evaluates it, on any of the backends.

Outputs by name: `dataset` (prepare_dataset), `job` (submit_training), `model` (wait_for_training) and `eval_results`
(evaluate_model): {task: {metric: number, or null where it is not defined}}.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from autoexperiment.errors import UsageError, unknown
from autoexperiment.vocabulary import TrustLevel
from autoexperiment.workflow import datasets, sources, tasks, typed
from autoexperiment.workflow.backends.base import BACKENDS, Dataset, EvalTask, Place, Training, backend
from autoexperiment.workflow.steps import Context, Outputs, Reads, Step, Workflow

T = TypeVar("T")
MOST_SUFFIX = 100
_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class PrepareDataset:
    """Attributes: dataset_loader: "module:function"; loader_kwargs: its keyword arguments."""

    dataset_loader: str
    loader_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_reference("dataset_loader", self.dataset_loader)


@dataclass(frozen=True)
class SubmitTraining:
    """What is trained.

    Attributes:
        model: what the backend calls a model: "mlp", "gpt", the folder of one.
        hyperparameters: of the backend; what is left out has the backend's defaults.
        suffix: a label for people; it decides nothing.
    """

    model: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    backend_name: str = "harness"

    def __post_init__(self) -> None:
        _check_backend(self.backend_name)
        if len(self.suffix) > MOST_SUFFIX or not self.suffix.isprintable():
            raise UsageError(f"suffix is {self.suffix[:40]!r}. Allowed: up to {MOST_SUFFIX} printable characters.")


@dataclass(frozen=True)
class WaitForTraining:
    """Attributes: timeout_s: after so many seconds the training is ended, and the step fails; None: never."""

    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.timeout_s is not None and not 0 < self.timeout_s < math.inf:
            raise UsageError(f"timeout_s is {self.timeout_s}. Allowed: seconds above 0, or null for no limit.")


@dataclass(frozen=True)
class EvaluateModel:
    """Attributes: eval_task: "module:function" of what gives an EvalTask; eval_kwargs: its keyword arguments;
    backend_name: the one that trained the model."""

    eval_task: str
    eval_kwargs: Mapping[str, Any] = field(default_factory=dict)
    backend_name: str = "harness"

    def __post_init__(self) -> None:
        _check_reference("eval_task", self.eval_task)
        _check_backend(self.backend_name)


@dataclass(frozen=True, init=False)
class TrainAndEvaluateConfig:
    """The whole configuration, a section for each step; each as a mapping or as the section's class.

    Raises: UsageError: it is not sound; all faults are named.
    """

    prepare_dataset: PrepareDataset
    submit_training: SubmitTraining
    wait_for_training: WaitForTraining
    evaluate_model: EvaluateModel

    def __init__(
        self,
        prepare_dataset: PrepareDataset | Mapping[str, Any],
        submit_training: SubmitTraining | Mapping[str, Any],
        wait_for_training: WaitForTraining | Mapping[str, Any],
        evaluate_model: EvaluateModel | Mapping[str, Any],
    ) -> None:
        faults: list[str] = []
        self._take("prepare_dataset", PrepareDataset, prepare_dataset, faults)
        self._take("submit_training", SubmitTraining, submit_training, faults)
        self._take("wait_for_training", WaitForTraining, wait_for_training, faults)
        self._take("evaluate_model", EvaluateModel, evaluate_model, faults)
        typed.refuse(faults, type(self).__name__)
        self._check_backend()

    def _take(self, name: str, kind: type[T], given: T | Mapping[str, Any], faults: list[str]) -> None:
        found: list[str] = []
        whole = typed.complete(kind, typed.plain(given, name, found), name, found)
        object.__setattr__(self, name, None if found else typed.make(kind, whole, name, found))
        faults += found

    def _check_backend(self) -> None:
        """Raises: UsageError: the sections do not go together, or the backend does not know what one of them says."""
        train, evaluate = self.submit_training, self.evaluate_model
        if train.backend_name != evaluate.backend_name:
            raise UsageError(
                f"evaluate_model.backend_name is {evaluate.backend_name!r}, and the model is trained by "
                f"{train.backend_name!r}. A model is evaluated by the backend that trained it. "
                f"Set evaluate_model.backend_name to {train.backend_name!r}."
            )
        backend(train.backend_name).check(train.model, train.hyperparameters)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, with every default; `TrainAndEvaluateConfig(**value)` is the same configuration again."""
        return asdict(self)


def _check_reference(name: str, text: str) -> None:
    if not _REFERENCE.fullmatch(text):
        raise UsageError(
            f"{name} is {text[:80]!r}. Needed: a function as module:function. For example: my_rows:greetings"
        )


def _check_backend(name: str) -> None:
    if name not in BACKENDS:
        raise UsageError(unknown("backend", name, BACKENDS))


# ---- the steps


def _prepare_dataset(config: PrepareDataset, _: Mapping[str, Any], context: Context) -> Outputs:
    given = tasks.call(config.dataset_loader, config.loader_kwargs, root=context.root)
    dataset = datasets.keep(given, root=context.root, loader=config.dataset_loader)
    context.say(f"dataset: {dataset.n_rows} rows, {dataset.kind}, {dataset.path}")
    return {"dataset": dataset}


def _submit_training(config: SubmitTraining, inputs: Mapping[str, Any], context: Context) -> Outputs:
    training = Training(inputs["dataset"], config.model, config.hyperparameters, config.suffix)
    job = backend(config.backend_name).submit(training, _place(context))
    return {"job": {**job, "backend": config.backend_name}}


def _wait_for_training(config: WaitForTraining, inputs: Mapping[str, Any], context: Context) -> Outputs:
    job = inputs["job"]
    model = backend(job["backend"]).wait(job, _place(context), timeout_s=config.timeout_s)
    context.say(f"model: {model['run_dir']}")
    return {"model": {**model, "backend": job["backend"]}}


def _is_trained(outputs: Outputs, context: Context) -> bool:
    model = outputs["model"]
    return backend(model["backend"]).is_there(model, _place(context))


def _evaluate_model(config: EvaluateModel, inputs: Mapping[str, Any], context: Context) -> Outputs:
    task = tasks.call(config.eval_task, config.eval_kwargs, root=context.root)
    if not isinstance(task, EvalTask):
        raise UsageError(f"{config.eval_task} gave a {type(task).__name__}. Needed: an EvalTask.")
    results = backend(config.backend_name).evaluate(inputs["model"], task, _place(context))
    for name, metrics in results.items():
        context.say(f"{name}: " + ", ".join(f"{metric} {value}" for metric, value in metrics.items()))
    return {"eval_results": results}


def _place(context: Context) -> Place:
    return Place(Path(context.root), Path(context.run_dir))


def _is_clocked(config: Mapping[str, Any]) -> bool:
    """Of a configuration that may be unsound: then it is refused elsewhere, with words."""
    training = config["submit_training"]
    if not isinstance(training, Mapping) or not isinstance(training.get("hyperparameters"), Mapping):
        return False
    return backend(str(training.get("backend_name"))).is_clocked(training["hyperparameters"])


def _reads(root: Path) -> Reads:
    readers: dict[str, Reads] = {}

    def look(config: Mapping[str, Any]) -> dict[str, Any]:
        _check_module("prepare_dataset.dataset_loader", config["prepare_dataset"]["dataset_loader"], root)
        _check_module("evaluate_model.eval_task", config["evaluate_model"]["eval_task"], root)
        name = config["submit_training"]["backend_name"]
        if name not in readers:
            readers[name] = backend(name).reader(root)
        return readers[name](config)

    return look


def _check_module(path: str, reference: str, root: Path) -> None:
    """Raises: UsageError: there is no such module; it is not imported."""
    module = reference.partition(":")[0]
    if sources.file_of(module) is None:
        raise UsageError(
            f"{path} is {reference!r}, and there is no module {module!r}, neither installed nor in {root}. Needed: the "
            "file's path from there, with dots for slashes and without .py, and after a colon the function."
        )


train_and_evaluate_workflow = Workflow(
    "train_and_evaluate",
    (
        # These two are quick, and look at what no configuration names; what follows is known by what they give.
        Step("prepare_dataset", _prepare_dataset, PrepareDataset, outputs={"dataset": Dataset}, is_cached=False),
        Step(
            "submit_training", _submit_training, SubmitTraining,
            {"dataset": Dataset}, {"job": dict[str, Any]}, is_cached=False,
        ),
        Step(
            "wait_for_training", _wait_for_training, WaitForTraining,
            {"job": dict[str, Any]}, {"model": dict[str, Any]}, is_valid=_is_trained,
        ),
        Step(
            "evaluate_model", _evaluate_model, EvaluateModel,
            {"model": dict[str, Any]}, {"eval_results": dict[str, dict[str, float | None]]},
        ),
    ),
    config=TrainAndEvaluateConfig,
    reference="autoexperiment.workflow.train_and_evaluate:train_and_evaluate_workflow",
    labels=("submit_training.suffix",),
    trust=TrustLevel.RECOMPUTED,
    reads=_reads,
    is_clocked=_is_clocked,
    seed_path="submit_training.hyperparameters.seed",
)  # fmt: skip
