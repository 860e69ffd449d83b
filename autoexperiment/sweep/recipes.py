"""Points that are the GPT recipe: `train.py` under other constants, trained within a budget and scored from outside.

A sweep reads the recipe's files once, when it begins: what is edited meanwhile changes none of its points.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from autoexperiment import constants, dotpaths, history, machine
from autoexperiment.budget import Budget, parse_budget
from autoexperiment.constants import Constant
from autoexperiment.errors import DataError, LabError, UsageError, unknown
from autoexperiment.files import load_json, read_plain, remove_folder, write_json
from autoexperiment.paths import PROTOCOL, RunPaths, cache_home
from autoexperiment.recipe import SEALED, Quantity, Recipe, SeedRule, Stop
from autoexperiment.run import Run
from autoexperiment.supervisor import Signals
from autoexperiment.surroundings import check_confinement
from autoexperiment.sweep.points import Order, Result
from autoexperiment.sweep.work import check_options
from autoexperiment.trained import TrialPlan
from autoexperiment.trial import copy_kernels, discard_weights, run_trial
from autoexperiment.vocabulary import Goal, Outcome, RunStatus

METRIC = "val_bpb"
SCRIPT, HARNESS = "train.py", ("prepare.py", "data_sources.py")
FIELDS = ("recipe", "dataset", "budget", "seed", "constants", "snapshot")
OPTIONS = ("name", "directory", "keep_checkpoints")
# Constants that a run's environment overrides, and the field of the configuration that stands for each.
GIVEN = {"SEED": "seed", "TIME_BUDGET": "budget", "DATASET": "dataset"}
BUDGETS = ("seconds", "tokens", "steps")
USUAL_BUDGET = Budget("seconds", 300.0)
SOURCE_BYTES = 5_000_000
SEED_LIMIT = 2**63
KERNELS = Path("outputs", ".cache", "kernels")

_ASK_PREPARE = """
import json, sys, prepare
from autoexperiment.errors import LabError
try:
    dataset = prepare.load_dataset(sys.argv[1] or None)
except LabError as error:
    sys.exit(str(error))
print(json.dumps({"name": dataset.name, "snapshot": dataset.snapshot, "folder": str(dataset.folder)}))
"""


# ---- what is read once: the recipe's files, the rules it is measured under, its data


@dataclass(frozen=True)
class Source:
    """A recipe as it is on disk.

    Attributes:
        files: texts of train.py, prepare.py and data_sources.py, by name.
        device: "cpu" or "gpu". `constants`: those of train.py that can be set, as they are on this device.
        rules: how it is run and measured. `budget`: the one of its protocol.
    """

    folder: Path
    files: Mapping[str, str]
    device: str
    constants: Sequence[Constant]
    rules: Recipe
    budget: Budget

    @classmethod
    def read(cls, folder: Path) -> Source:
        """Raises: UsageError: a file is missing or no text, or the protocol has faults."""
        files = {name: _text(folder / name) for name in (SCRIPT, *HARNESS)}
        device = machine.device_class()
        return cls(folder, files, device, constants.plain(files[SCRIPT], device=device), *_rules(folder))


def _text(file: Path) -> str:
    blob = read_plain(file, SOURCE_BYTES)
    if blob is None:
        raise UsageError(
            f"There is no file {file.name} in {file.parent}. A recipe is a folder with "
            f"{', '.join((SCRIPT, *HARNESS))}. Name it with 'recipe', relative to the workspace."
        )
    try:
        return blob.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is no UTF-8 text: {error}. Mend the file.") from error


def _rules(folder: Path) -> tuple[Recipe, Budget]:
    """Recipe and budget of the folder's protocol, where that is for these files and has the sealed evaluation."""
    file = folder / PROTOCOL
    if not file.is_file():
        return _usual_rules(), USUAL_BUDGET
    from autoexperiment.launch import checked
    from autoexperiment.protocol import resolve

    document, additions, _ = checked(_text(file), name=str(file), repo=None)
    rules, usual = resolve.recipe_of(document, additions), _usual_rules()
    same = ("command", "metric", "goal", "scoring", "cwd", "setup", "guard", "data")
    if any(getattr(rules, name) != getattr(usual, name) for name in same):
        return usual, USUAL_BUDGET
    return rules, resolve.budget_of(document)


def _usual_rules() -> Recipe:
    """What a recipe is measured under that has no protocol, or one for something else."""
    names = (("num_steps", Goal.MAXIMIZE), ("mfu_percent", Goal.MAXIMIZE))
    return Recipe(
        command=("{python}", SCRIPT), mutable=(SCRIPT,), immutable=HARNESS, metric=METRIC, goal=Goal.MINIMIZE,
        scoring=SEALED, secondary=tuple(Quantity(name, goal) for name, goal in names),
    )  # fmt: skip


def ask_prepare(folder: Path, dataset: str | None) -> dict[str, str]:
    """Name, snapshot and folder of a prepared dataset, by the recipe's own prepare.py in a process of its own.

    Raises: DataError: it is not there; the message is prepare.py's, which says what to type.
    """
    env = {name: value for name, value in os.environ.items() if name != "AUTOEXPERIMENT_DATA"}
    answer = subprocess.run(
        [sys.executable, "-c", _ASK_PREPARE, dataset or ""], cwd=folder, capture_output=True, text=True,
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},  # nothing is to appear in the user's tree
    )  # fmt: skip
    if answer.returncode != 0:
        raise DataError((answer.stderr.strip().splitlines() or ["prepare.py gave no answer."])[-1])
    found: dict[str, str] = load_json(answer.stdout)
    return found


# ---- a point's configuration


@dataclass
class RecipeWork:
    """Runs of a recipe that differ from a base in some values. `base`: every field but `snapshot`, checked."""

    kind: ClassVar[str] = "gpt"
    metric: ClassVar[str] = METRIC

    base: Mapping[str, Any]
    source: Source
    options: Mapping[str, Any]
    _asked: dict[str | None, dict[str, str]] = field(default_factory=dict)

    def is_clocked(self, config: Mapping[str, Any]) -> bool:
        return parse_budget(config["budget"]).kind == "seconds"

    def resolve(self, params: Mapping[str, Any], seed: int | None) -> dict[str, Any]:
        replicate = {} if seed is None else {"seed": seed}
        config = self.check(dotpaths.replaced(self.base, {**params, **replicate}))
        return {**config, **self._data(config)}

    def check(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration with its budget in its usual spelling; its data is not looked at. Raises: UsageError."""
        self._check_names(config)
        self._rewritten(config["constants"])
        return {**config, "budget": str(budget_of(config["budget"])), "seed": seed_of(config["seed"])}

    def _check_names(self, config: Mapping[str, Any]) -> None:
        known = {constant.name for constant in self.source.constants}
        for name in config:
            if name not in FIELDS:
                near = f" Did you mean 'constants.{name.upper()}'?" if name.upper() in known else ""
                raise UsageError(unknown("field", name, FIELDS, where="a point of kind 'gpt'") + near)
        if config["recipe"] != self.base["recipe"]:
            raise UsageError(
                f"'recipe' is {config['recipe']!r} in a sweep of {self.base['recipe']!r}. A sweep is of one recipe: "
                "start one for each."
            )

    def _rewritten(self, values: Any) -> str:
        """The script with its constants set. Raises: UsageError."""
        if not isinstance(values, Mapping):
            raise UsageError(f"'constants' is {values!r}. Allowed: values by name, such as {{\"DEPTH\": 2}}.")
        for name in values:
            if instead := GIVEN.get(str(name).upper()):
                raise UsageError(
                    f"The constant {name} is overridden when the recipe is run, so a value of it would change nothing. "
                    f"Set '{instead}' instead."
                )
        return constants.rewritten(self.source.files[SCRIPT], self.source.constants, values, where=SCRIPT)

    def _data(self, config: Mapping[str, Any]) -> dict[str, str]:
        """Name and snapshot of the prepared data."""
        name = config["dataset"]
        if name is not None and not isinstance(name, str):
            raise UsageError(f"'dataset' is {name!r}. Allowed: the name of a prepared dataset, such as 'pystdlib'.")
        if name not in self._asked:
            self._asked[name] = ask_prepare(self.source.folder, name)
        found = self._asked[name]
        if config.get("snapshot") not in (None, found["snapshot"]):
            raise DataError(
                f"Dataset {found['name']!r} is {found['snapshot']} here, and the configuration was made for "
                f"{config['snapshot']}. Leave 'snapshot' out to take the data as they are."
            )
        return {"dataset": found["name"], "snapshot": found["snapshot"]}

    def identity(self, config: Mapping[str, Any]) -> dict[str, Any]:
        files = {**self.source.files, SCRIPT: self._rewritten(config["constants"])}
        return {
            "files": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
            "command": list(self.source.rules.command),
            "device": self.source.device,
            **{name: config[name] for name in ("budget", "seed", "snapshot")},
        }

    def expected_s(self, config: Mapping[str, Any]) -> float | None:
        return parse_budget(config["budget"]).seconds


def budget_of(value: Any) -> Budget:
    """Raises: UsageError: it is none that the recipe has."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UsageError(f"'budget' is {value!r}. Allowed: for example '20s', 'steps:200' or 'tokens:2M'.")
    budget = parse_budget(str(value))
    if budget.kind not in BUDGETS:
        raise UsageError(
            f"The recipe has no budget such as {value!r}. Allowed: for example '20s', 'steps:200', 'tokens:2M'."
        )
    return budget


def seed_of(value: Any) -> int:
    """Raises: UsageError: it is none."""
    if type(value) is not int or not 0 <= value < SEED_LIMIT:
        raise UsageError(f"'seed' is {value!r}. Allowed: a whole number from 0 to 2**63 - 1.")
    return value


def make(base: Mapping[str, Any], *, root: Path, options: Mapping[str, Any]) -> RecipeWork:
    """The work on a base configuration.

    Args:
        base: `recipe` (the folder, "." if not given), `dataset`, `budget`, `seed` and `constants` (values by name);
            what is not given is as in the recipe and its protocol.
        options: `keep_checkpoints`: whether the trained models are kept. `name` and `directory` mean nothing here.
    """
    check_options(options, OPTIONS)
    place = base.get("recipe", ".")
    if not isinstance(place, str):
        raise UsageError(f"'recipe' is {place!r}. Allowed: a folder, relative to the workspace.")
    source = Source.read(root / place)
    check_confinement(source.rules)
    known = {constant.name: constant.value for constant in source.constants}
    usual = {
        "recipe": place,
        "dataset": known.get("DATASET"),
        "budget": str(source.budget),
        "seed": known.get("SEED", 1),
        "constants": {},
    }
    told = {
        **options, "files": dict(source.files), "rules": source.rules.to_json(), "budget": str(source.budget)
    }  # fmt: skip
    whole = {**usual, **base}
    return RecipeWork(RecipeWork(whole, source, told).check(whole), source, told)


# ---- a point's run


def perform(order: Order, run: RunPaths, *, signals: Signals | None) -> Result:
    """Train in a copy of the recipe, and have the model scored by a process that the recipe's code never enters."""
    signals = signals or Signals()
    write_json(run.config, dict(order.point.config))
    with history.hold(run):
        try:
            made = _made(_plan(order), run, signals)
        except LabError as error:  # it was sound when the sweep began
            made = Run(Outcome.CRASHED, str(error), order.point.config["seed"])
            made.save(run)
        finally:
            remove_folder(run.private)
        if not order.options.get("keep_checkpoints"):
            discard_weights(run)
    status = RunStatus.of(made.outcome)
    if status is not RunStatus.COMPLETED:
        return Result(status, reason=made.reason)
    return Result(status, dict(made.metrics), {name: str(level) for name, level in made.trust.items()})


def _plan(order: Order) -> TrialPlan:
    """Raises: LabError: this machine lacks the data."""
    config, files = order.point.config, order.options["files"]
    found = constants.plain(files[SCRIPT], device=machine.device_class())
    script = constants.rewritten(files[SCRIPT], found, config["constants"], where=SCRIPT)
    budget = parse_budget(config["budget"])
    return TrialPlan(
        recipe=_rules_of(order, budget),
        budget=budget,
        candidate={SCRIPT: script.encode()},
        harness={name: files[name].encode() for name in HARNESS},
        seed=config["seed"],
        threads=order.threads,
        data=_data_folder(Path(order.root) / config["recipe"], config["dataset"], config["snapshot"]),
        kernels=_kernels(order, script),
        provenance={
            "sweep": order.folder, "point": order.point.number, "key": order.point.key,
            "constants": dict(config["constants"]), "snapshot": config["snapshot"], "machine": machine.facts(),
        },
    )  # fmt: skip


def _rules_of(order: Order, budget: Budget) -> Recipe:
    """The recipe's rules for this budget. Without a timeout of the sweep's own, the protocol's goes with its budget."""
    rules = Recipe.from_json(order.options["rules"])
    is_usual = str(budget) == order.options["budget"]
    return replace(
        rules,
        seeds=SeedRule(),
        hard_timeout_s=order.timeout_s or (rules.hard_timeout_s if is_usual else None),
        stop=rules.stop if is_usual else Stop("wall_clock" if budget.kind == "seconds" else "max_steps"),
    )


def _data_folder(recipe: Path, dataset: str, snapshot: str) -> Path:
    """Where the prepared data lie on this machine. Raises: DataError: they are not there, or are others by now."""
    usual = cache_home() / dataset / snapshot
    if usual.is_dir():
        return usual
    found = ask_prepare(recipe, dataset)
    if found["snapshot"] != snapshot:
        raise DataError(
            f"Dataset {dataset!r} is {found['snapshot']} on this machine, and the sweep began with {snapshot}. "
            "Prepare it as it was, or start the sweep again."
        )
    return Path(found["folder"])


def _made(plan: TrialPlan, run: RunPaths, signals: Signals) -> Run:
    """The run of a plan. Raises: OSError: the machine kept it from being made."""
    made = run_trial(plan, run, signals=signals)
    _keep_kernels(run, plan.kernels)
    return made


# ---- kernels that MLX compiles for a CPU, where a recipe has it so


def _kernels(order: Order, script: str) -> Path:
    """Where the kernels of the same code on the same kind of machine are kept: its replicates need not compile them."""
    content = hashlib.sha256(f"{script}\0{machine.facts()}".encode()).hexdigest()
    return Path(order.root) / KERNELS / content[:20]


def _keep_kernels(run: RunPaths, kept: Path | None) -> None:
    """Keep what a run compiled, whole or not at all, unless another one did before."""
    if kept is None or kept.exists() or not run.kernels.is_dir():
        return
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, ignore_cleanup_errors=True) as name:
        fresh = Path(name, "kernels")
        if copy_kernels(run.kernels, fresh):
            try:
                os.replace(fresh, kept)
            except OSError:  # another run was first
                return
