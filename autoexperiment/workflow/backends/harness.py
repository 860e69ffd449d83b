"""The backend of the experiment harness: a job is a configuration of `mlx run-experiment`, a model one of its runs.

A run lies in `<run_dir>/training/<timestamp>/`, a run directory like any other: `mlx eval --run-dir` takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoexperiment import dotpaths
from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, Facts
from autoexperiment.errors import ConfigError, DataError, HarnessError, LabError, UsageError, unknown
from autoexperiment.paths import RunPaths
from autoexperiment.vocabulary import RunStatus
from autoexperiment.workflow import datasets
from autoexperiment.workflow.backends.base import Dataset, EvalTask, Place, Training
from autoexperiment.workflow.steps import Reads

if TYPE_CHECKING:
    from autoexperiment.config import ExperimentConfig

NAME = "training"  # of the experiment, and so of the folder of its runs
FINAL_ONLY = 1_000_000_000  # epochs between two checkpoints: more than any run has, so that there is the last one only
MOST_CLASSES = 1000
MOST_FEATURES = 1_000_000
N_FEATURES, HIDDEN_SIZES = 64, (32,)

# hyperparameter: where it stands in the configuration
_COMMON: Mapping[str, tuple[str, ...]] = {
    "n_epochs": ("training.epochs",),
    "batch_size": ("training.batch_size",),
    "learning_rate": ("training.learning_rate",),
    "optimizer": ("training.optimizer",),
    "seed": ("training.seed", "model.params.seed"),
    "l2_regularization": ("model.params.l2_regularization",),
    "val_fraction": ("dataset.val_fraction",),
    "test_fraction": ("dataset.test_fraction",),
    "normalize": ("dataset.params.normalize",),
    "n_features": (),
}
MODELS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "mlp": {
        **_COMMON,
        "hidden_sizes": (),
        "activation": ("model.params.activation",),
        "lora_rank": ("model.params.lora_rank",),
    },
    "linear_regression": {**_COMMON, "use_gradient_descent": ("model.params.use_gradient_descent",)},
}
METRICS: Mapping[str, Mapping[str, str]] = {  # by task: the name here, and the harness's
    "classification": {"accuracy": "accuracy", "f1_score": "f1", "log_loss": "log_loss"},
    "regression": {"mse": "mse", "rmse": "rmse", "mae": "mae", "r2": "r2"},
}


class Harness:
    """Trains an MLP or a linear regression on rows of numbers, or on prompts hashed into such rows."""

    name = "harness"

    def check(self, model: str, hyperparameters: Mapping[str, Any]) -> None:
        """All that can be said without data. Raises: UsageError: with the faults."""
        if model not in MODELS:
            raise UsageError(unknown("model of the backend 'harness'", model, MODELS))
        for name in hyperparameters:
            if name not in MODELS[model]:
                raise UsageError(unknown("hyperparameter", name, MODELS[model], where=f"model {model!r}"))
        any_rows = Dataset("rows.npz", datasets.TABLE, "0" * 64, 0)
        facts = Facts(CLASSIFICATION, 0, (_n_features(hyperparameters),), 2)
        _config(any_rows, facts, Training(any_rows, model, hyperparameters))

    def is_clocked(self, hyperparameters: Mapping[str, Any]) -> bool:
        return False

    def reader(self, root: Path) -> Reads:
        return lambda _: {}  # its data come from the loader, its code is this package's

    def submit(self, training: Training, place: Place) -> dict[str, Any]:
        from autoexperiment.planning import look, refuse

        self.check(training.model, training.hyperparameters)
        rows, text, facts = _rows(training, place.root)
        config = _config(rows, facts, training).to_json()
        found, faults = look(config, place.root)
        if found is None or faults:
            raise refuse(faults)
        return {
            "backend": self.name,
            "model": training.model,
            "task": facts.task,
            "dataset": asdict(training.dataset),
            "rows": asdict(rows),
            "text": text,
            "config": config,
        }

    def wait(self, job: Mapping[str, Any], place: Place, *, timeout_s: float | None) -> dict[str, Any]:
        from autoexperiment.planning import make_plan
        from autoexperiment.runner import run_plan

        _restore(job, place.root)
        summary = run_plan(make_plan(_placed(job["config"], place, timeout_s), root=place.root))
        status = RunStatus(summary["status"])
        if status is RunStatus.INTERRUPTED:
            raise KeyboardInterrupt
        if status is not RunStatus.COMPLETED:
            raise HarnessError(f"The training {_ENDED.get(status, 'failed')}: {summary.get('reason', '')}")
        folder = Path(summary["run_dir"])
        return {
            **{name: job[name] for name in ("backend", "model", "task", "dataset", "rows", "text")},
            "run_dir": folder.relative_to(place.root).as_posix(),
            "sha256": _identity(folder),
            "metrics": {name: value for name, value in summary["final_metrics"].items() if name != "epoch"},
        }

    def evaluate(self, model: Mapping[str, Any], task: EvalTask, place: Place) -> dict[str, dict[str, Any]]:
        from autoexperiment.evaluations import run_evaluation

        wanted = _metrics(task, model["task"])
        _restore(model, place.root)
        run_dir = place.root / model["run_dir"]
        if task.samples:
            config = _on_samples(task, model, run_dir=run_dir, root=place.root)
            try:
                found = run_evaluation(run_dir, config=config, split="train")["metrics"]
            except LabError as error:
                if not _are_own_rows(task, model, place.root):
                    raise
                raise UsageError(
                    f"The {len(task.samples)} samples of task {task.name!r} are the rows of the dataset, some of which the "
                    "model was trained on. Allowed: other samples. Without any, the part held out of the dataset is asked."
                ) from error
        else:
            found = run_evaluation(run_dir, split=task.split)["metrics"]
        return {task.name: {name: found[METRICS[model["task"]][name]] for name in wanted}}

    def is_there(self, model: Mapping[str, Any], place: Place) -> bool:
        try:
            return bool(_identity(place.root / model["run_dir"]) == model["sha256"])
        except (LabError, OSError):
            return False


BACKEND = Harness()


# ---- the rows


def _n_features(hyperparameters: Mapping[str, Any]) -> int:
    n_features = hyperparameters.get("n_features", N_FEATURES)
    if type(n_features) is not int or not 1 <= n_features <= MOST_FEATURES:
        raise UsageError(
            f"The hyperparameter 'n_features' is {n_features!r}. Allowed: whole numbers from 1 to {MOST_FEATURES}."
        )
    return n_features


def _rows(training: Training, root: Path) -> tuple[Dataset, dict[str, Any] | None, Facts]:
    """The rows of numbers to train on; how text was made into them, None for a table; and what they are."""
    given = training.dataset
    if given.kind == datasets.PREPARED:
        raise DataError(
            f"The backend 'harness' can't train on {given.path!r}, a prepared dataset of the recipe. "
            "Allowed: rows of text, and tables. For this one: backend_name 'gpt'."
        )
    if given.kind == datasets.TABLE:
        if "n_features" in training.hyperparameters:
            raise UsageError(
                "The hyperparameter 'n_features' is for text: a table has columns of its own. Leave it out."
            )
        return given, None, _facts(given, root)
    rows = datasets.texts(given, root=root)
    text: dict[str, Any] = {"n_features": _n_features(training.hyperparameters), "classes": _classes(rows)}
    facts = Facts(CLASSIFICATION, len(rows), (text["n_features"],), len(text["classes"]))
    return _hashed(rows, text, root=root), text, facts


def _facts(table: Dataset, root: Path) -> Facts:
    """Targets that are floats are a regression's; whole numbers are classes."""
    from autoexperiment.datasets.arrays import open_npz

    arrays = open_npz(root / table.path)
    if arrays is None:
        raise DataError(f"{table.path} was changed: it is compressed now. Run the workflow again to prepare it.")
    X, y = arrays["X"], arrays["y"]
    task = REGRESSION if y.dtype.kind == "f" else CLASSIFICATION
    return Facts(task, len(X), X.shape[1:], int(y.max()) + 1 if task == CLASSIFICATION else 0)


def _classes(rows: Sequence[tuple[str, str]]) -> list[str]:
    classes = sorted({completion.strip() for _, completion in rows})
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise DataError(
            f"The rows have {len(classes)} different completions. The backend 'harness' chooses one of 2 to "
            f"{MOST_CLASSES}. For free text: backend_name 'mlx_lm'."
        )
    return classes


def _hashed(rows: Sequence[tuple[str, str]], text: Mapping[str, Any], *, root: Path) -> Dataset:
    """Prompts as features, completions as class numbers. Args: text: `n_features` and the `classes` by number."""
    import numpy as np

    from autoexperiment.workflow.backends.hashing import features

    numbers = {name: number for number, name in enumerate(text["classes"])}
    y = np.array([numbers[completion.strip()] for _, completion in rows], np.int32)
    x = features([prompt for prompt, _ in rows], text["n_features"])
    path, sha256 = datasets.write(datasets.npz(x, y), ".npz", root=root)
    return Dataset(path, datasets.TABLE, sha256, len(rows))


def _restore(made: Mapping[str, Any], root: Path) -> None:
    """Hash the text of a job or a model again if its rows were removed meanwhile."""
    if made["text"] and not datasets.is_there(Dataset(**made["rows"]), root=root):
        _hashed(datasets.texts(Dataset(**made["dataset"]), root=root), made["text"], root=root)


# ---- the configuration


def _config(rows: Dataset, facts: Facts, training: Training) -> ExperimentConfig:
    """Raises: UsageError: the hyperparameters are not sound; all faults of them are named."""
    from autoexperiment.config import ConfigLoader

    given = training.hyperparameters
    base = {
        "name": NAME,
        "dataset": {"name": "custom", "path": rows.path, "params": {"task": facts.task, "sha256": rows.sha256}},
        "model": {"name": training.model, "params": _sizes(training, facts)},
        "training": {},
        "output": {"checkpoint_frequency": FINAL_ONLY},
    }
    paths = MODELS[training.model]
    values = {path: value for name, value in given.items() for path in paths[name]}
    try:
        return ConfigLoader.load_from_dict(dotpaths.replaced(base, values))
    except ConfigError as error:
        raise UsageError(_in_our_words(str(error), paths)) from error


def _sizes(training: Training, facts: Facts) -> dict[str, Any]:
    if training.model != "mlp":
        return {}
    hidden = training.hyperparameters.get("hidden_sizes", list(HIDDEN_SIZES))
    if not isinstance(hidden, list | tuple) or not all(
        type(size) is int and 0 < size <= MOST_FEATURES for size in hidden
    ):
        raise UsageError(
            f"The hyperparameter 'hidden_sizes' is {hidden!r}. Allowed: a list of whole numbers from 1 to {MOST_FEATURES}, "
            "one for each hidden layer; [] for none."
        )
    return {"layer_sizes": [facts.n_features, *hidden, facts.n_classes or 1]}


def _in_our_words(message: str, paths: Mapping[str, Sequence[str]]) -> str:
    """A refused configuration as the hyperparameters that make it."""
    _, _, faults = message.partition("\n")
    for name, places in paths.items():
        for place in places:
            if f"({place})" in faults:
                faults = faults.replace(f"({place})", f"(hyperparameters.{name})")
                faults = faults.replace(f"'{place.rpartition('.')[2]}'", f"'{name}'")
    return f"The hyperparameters are not sound:\n{faults}"


def _placed(config: Mapping[str, Any], place: Place, timeout_s: float | None) -> ExperimentConfig:
    """The configuration of a job with its place and its limit."""
    from autoexperiment.config import ConfigLoader

    if not place.run_dir.is_relative_to(place.root):
        raise HarnessError(f"{place.run_dir} is outside of {place.root}. A run's folder lies in the workspace.")
    directory = place.run_dir.relative_to(place.root).as_posix()
    return ConfigLoader.load_from_dict(
        dotpaths.replaced(config, {"output.directory": directory, "training.timeout_s": timeout_s})
    )


# ---- the model


_ENDED = {RunStatus.DIVERGED: "diverged", RunStatus.TIMED_OUT: "took too long"}


def _identity(run_dir: Path) -> str:
    """The hash of a run's last checkpoint, every file of which is compared with its manifest.

    Raises: LabError, OSError: it is not there or not sound.
    """
    from autoexperiment.datasets.tables import sha256_of
    from autoexperiment.training.checkpoints import MANIFEST, verify

    checkpoint = verify(RunPaths(run_dir).final_checkpoint)
    return sha256_of(checkpoint.folder / MANIFEST)


def _metrics(task: EvalTask, kind: str) -> tuple[str, ...]:
    """Raises: UsageError: an unknown metric, or a task that a choice among classes can't do."""
    known = METRICS[kind]
    for name in task.metrics:
        if name not in known:
            raise UsageError(unknown(f"metric of a {kind}", name, known, where=f"task {task.name!r}"))
    if task.samples and task.match != "exact":
        raise UsageError(
            f"Task {task.name!r} has match {task.match!r}. The backend 'harness' answers with one of the completions it "
            "was trained on, so an answer is right or wrong. Allowed: exact."
        )
    return task.metrics or tuple(known)


def _are_own_rows(task: EvalTask, model: Mapping[str, Any], root: Path) -> bool:
    """Whether a task's samples are the dataset that a model was trained on."""
    own = datasets.texts(Dataset(**model["dataset"]), root=root)
    asked, known = ([(prompt, answer.strip()) for prompt, answer in rows] for rows in (task.samples, own))
    return asked == known


def _on_samples(task: EvalTask, model: Mapping[str, Any], *, run_dir: Path, root: Path) -> ExperimentConfig:
    """The model's configuration with the task's own samples as its data, all of them in one part."""
    from autoexperiment.config import ConfigLoader
    from autoexperiment.kept import open_run

    text = model["text"]
    if not text:
        raise UsageError(
            f"Task {task.name!r} has samples of text, and the model was trained on a table. Leave them out."
        )
    if strange := [wanted for _, wanted in task.samples if wanted.strip() not in text["classes"]]:
        known = ", ".join(repr(name[:60]) for name in text["classes"][:10])
        raise UsageError(
            f"Task {task.name!r} wants the answer {strange[0][:60]!r}, which no row of the dataset has. Known: {known}."
        )
    rows = _hashed(task.samples, text, root=root)
    changed = {"path": rows.path, "val_fraction": 0.0, "test_fraction": 0.0, "params.sha256": rows.sha256}
    own = open_run(run_dir).config.to_json()
    return ConfigLoader.load_from_dict(dotpaths.replaced(own, {f"dataset.{k}": v for k, v in changed.items()}))
