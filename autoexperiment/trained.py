"""What fixes one run, and a run whose process has ended: what training hands to evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoexperiment.budget import Budget
from autoexperiment.files import remove_folder
from autoexperiment.paths import RunPaths
from autoexperiment.recipe import Recipe
from autoexperiment.supervisor import Ending, Limits, Signals
from autoexperiment.vocabulary import Outcome


@dataclass(frozen=True)
class TrialPlan:
    """Everything that fixes one run.

    Attributes:
        candidate, harness: bytes of the mutable and of the immutable files, by path.
        reference: the mutable files as the session began with them: what the sealed evaluation goes by.
        lay_out: puts the whole project with this candidate into a folder; None: candidate and harness are all.
        place: makes the folder that runs happen in and lays the project out there; None: the run's own folder.
        data: the prepared dataset's folder, or None when the recipe brings its own data.
        links: data that is linked into the run's folder or, with a name that starts with `~/`, its home.
        startup_s: the baseline's measured time outside training, or None while that is being measured.
        kernels: compiled CPU kernels to start from; compiling them anew takes half a minute.
        batch_divisor: how many times smaller the device batch is to be, after a run ran out of memory.
        threads: of BLAS; None: as usual.
        cases: test cases of the baseline's suite, or None where none are counted.
        provenance: copied into the run's record.
    """

    recipe: Recipe
    budget: Budget
    candidate: Mapping[str, bytes]
    harness: Mapping[str, bytes]
    seed: int | None
    reference: Mapping[str, bytes] = field(default_factory=dict)
    lay_out: Callable[[Path], None] | None = None
    place: Callable[[Callable[[Path], None]], Path] | None = None
    data: Path | None = None
    links: Mapping[str, Path] = field(default_factory=dict)
    startup_s: float | None = None
    kernels: Path | None = None
    batch_divisor: int = 1
    threads: int | None = None
    cases: int | None = None
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Trained:
    """A run whose process has ended, and where its files are.

    Attributes:
        environment: what it was started with.
        signals: those that the caller watches, which end what is still to be run.
    """

    plan: TrialPlan
    paths: RunPaths
    work: Path
    ending: Ending
    environment: Mapping[str, str]
    signals: Signals | None = None

    @property
    def folder(self) -> Path:
        """Where the command ran."""
        return self.work / self.plan.recipe.cwd


class Rejected(Exception):
    """`args[0]`: the outcome, `args[1]`: why. `evaluation`: the scorer's account, where there is one."""

    evaluation: Mapping[str, Any] | None = None


class Interrupted(Exception):
    """`args[0]`: how the evaluation was stopped."""


def rejected(outcome: Outcome, reason: str, evaluation: Mapping[str, Any] | None = None) -> Rejected:
    error = Rejected(outcome, reason)
    error.evaluation = evaluation
    return error


def fresh(folder: Path) -> Path:
    """A place with nothing at it, whatever the run put there."""
    remove_folder(folder)
    return folder


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, blob in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(blob)
        if blob.startswith(b"#!"):
            file.chmod(0o755)


def limits_of(recipe: Recipe, hard_timeout_s: float) -> Limits:
    """What a process of this recipe may use."""
    may = recipe.confinement
    return Limits(hard_timeout_s, network=may.network, memory_mb=may.memory_mb, processes=may.processes, cpus=may.cpus)
