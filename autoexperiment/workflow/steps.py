"""Workflows: named steps, each a function with a typed configuration, typed inputs and typed outputs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from autoexperiment.errors import UsageError, unknown
from autoexperiment.vocabulary import TrustLevel
from autoexperiment.workflow import typed

Outputs = Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What a step knows of its surroundings.

    Attributes:
        root: the workspace, absolute: where relative paths start.
        run_dir: the folder of this workflow's files, absolute.
        attempt: from 1; 0 where outputs of before are looked at.
        say: writes one line to the run's log.
    """

    root: Path
    run_dir: Path
    user: str
    attempt: int
    say: Callable[[str], None]


Reads = Callable[[Mapping[str, Any]], dict[str, Any]]
StepFunction = Callable[[Any, Mapping[str, Any], Context], Outputs | Awaitable[Outputs]]


@dataclass(frozen=True)
class Retries:
    """How often a step is tried that fails for a reason which may pass by itself; see retries.py.

    Attributes:
        tries: in all.
        wait_s: before the second try; twice as long before each further one.
    """

    tries: int = 3
    wait_s: float = 1.0


@dataclass(frozen=True)
class Step:
    """One step. Its function is called with its configuration, its inputs by name, and a Context.

    Attributes:
        function: a function of a module, which may be a coroutine function.
        config: dataclass of its section of the configuration; None: it has no section.
        inputs: type by name: of outputs of earlier steps, or of the workflow's atoms. A dataclass is given as such.
        outputs: type by name: exactly what the function returns. Values are kept as JSON.
        is_valid: whether outputs that are known from an equal step before may be used again; None: they may, if the
            files and folders that they name hold what they held.
        is_cached: its outputs are kept, and taken instead of doing an equal step again. Not for one that looks at things
            that nobody names, such as the network.
    """

    name: str
    function: StepFunction
    config: type | None = None
    inputs: Mapping[str, Any] = field(default_factory=dict)
    outputs: Mapping[str, Any] = field(default_factory=dict)
    retries: Retries = Retries()
    is_valid: Callable[[Outputs, Context], bool] | None = None
    is_cached: bool = True

    def __post_init__(self) -> None:
        where = f"Step {self.name!r}"
        if not self.name.isidentifier():
            raise UsageError(f"{where} can't be in a dot path. Allowed: a name of letters, digits and _.")
        if not callable(self.function) or not hasattr(self.function, "__qualname__"):  # a partial hides its code
            raise UsageError(
                f"{where} has the function {self.function!r}. Needed: a function of a module, of the form "
                "function(config, inputs, context)."
            )
        if self.retries.tries < 1 or self.retries.wait_s < 0:
            raise UsageError(f"{where} has {self.retries}. Allowed: at least 1 try, and a wait of 0 s or more.")
        if self.config is not None and not is_dataclass(self.config):
            raise UsageError(f"{where} has the configuration {self.config!r}. Needed: a dataclass, or None.")
        if self.config is not None:
            typed.check_kind(self.config, where=where)
        for name, kind in self.inputs.items():
            typed.check_kind(kind, where=f"{where}, input {name!r}", paths=True)
        for name, kind in self.outputs.items():
            typed.check_kind(kind, where=f"{where}, output {name!r}")


@dataclass(frozen=True)
class Workflow:
    """Steps that are done one after another.

    Attributes:
        config: a dataclass with a field for each step that has a configuration; made of all sections together, so that
            it can refuse what does not go together. None: sections are checked one by one only.
        reference: "module:attribute" by which another process imports it; "": looked for where it is needed.
        atoms: type by name of what is given from outside: JSON, or pathlib.Path for a file or folder.
        labels: dot paths of values that decide nothing: points that differ there only are the same point.
        trust: how the numbers of its results are obtained.
        reads: makes, for a workspace, what tells all that a checked configuration points to and that decides what comes
            out, beside code, files and folders that it names; plain JSON. It remembers what it has looked at, and raises
            LabError for a configuration that can't be run there. None: there is nothing else.
        is_clocked: whether, on this configuration, they depend on how fast the machine is meanwhile; None: never.
        seed_path: where in the configuration a sweep's replicate seed goes; "": nowhere unless the sweep says so.
    """

    name: str
    steps: tuple[Step, ...]
    config: type | None = None
    reference: str = ""
    atoms: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    trust: TrustLevel = TrustLevel.SELF_REPORTED
    reads: Callable[[Path], Reads] | None = None
    is_clocked: Callable[[Mapping[str, Any]], bool] | None = None
    seed_path: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not self.steps:
            raise UsageError(f"Workflow {self.name!r} has no steps. Needed: at least one.")
        self._check_names()
        self._check_flow()
        sections = [step.name for step in self.steps if step.config]
        if self.config is not None and [item.name for item in fields(self.config)] != sections:
            raise UsageError(
                f"Workflow {self.name!r} has the configuration {self.config.__name__}, whose fields are not its steps "
                f"with a configuration. Needed, in this order: {', '.join(sections)}."
            )

    def _check_names(self) -> None:
        names = [step.name for step in self.steps]
        if twice := _twice(names):
            raise UsageError(f"Workflow {self.name!r} has two steps {twice!r}. Give each a name of its own.")
        given = [*self.atoms, *(name for step in self.steps for name in step.outputs)]
        if twice := _twice(given):
            raise UsageError(f"Workflow {self.name!r} has two outputs or atoms {twice!r}. Give each a name of its own.")

    def _check_flow(self) -> None:
        """Each input comes from an atom or an earlier step, with its type."""
        for name, kind in self.atoms.items():
            typed.check_kind(kind, where=f"Workflow {self.name!r}, atom {name!r}", paths=True)
        known = dict(self.atoms)
        for step in self.steps:
            where = f"step {step.name!r} of workflow {self.name!r}"
            for name, kind in step.inputs.items():
                if name not in known:
                    raise UsageError(
                        f"{unknown('input', name, known, where=where)} An input is an output of an earlier step, or "
                        "one of the workflow's atoms."
                    )
                if not typed.is_part(known[name], kind):
                    raise UsageError(
                        f"Input {name!r} of {where} is declared {typed.kind_text(kind)}, but what is given is "
                        f"{typed.kind_text(known[name])}. Declare the same type on both sides."
                    )
            known |= step.outputs

    def step(self, name: str) -> Step:
        """Raises: UsageError: there is no such."""
        for step in self.steps:
            if step.name == name:
                return step
        raise UsageError(unknown("step", name, [step.name for step in self.steps], where=f"workflow {self.name!r}"))

    def filled(self, config: Any) -> dict[str, Any]:
        """A configuration as plain JSON with the defaults of all that it leaves out, as far as that goes: not checked."""
        return self._sections(config, [])

    def checked(self, config: Any) -> dict[str, Any]:
        """The complete configuration as plain JSON, by step: what was given and every default.

        Args: config: a mapping by step, or an object of the workflow's `config`.
        Raises: UsageError: it is not sound; all faults are named.
        """
        faults: list[str] = []
        whole = self._sections(config, faults)
        sections = {} if faults else {name: self._made(name, whole[name], faults) for name in whole}
        if self.config is not None and not faults:
            typed.call(self.config, sections, "", faults)
        typed.refuse(faults, f"The configuration of workflow {self.name!r}")
        return whole

    def _sections(self, config: Any, faults: list[str]) -> dict[str, Any]:
        given = typed.plain(config, "", faults)
        if not isinstance(given, dict):
            faults.append(f"it is {typed.shown(given)}, not an object with a section for each step")
            given = {}
        kinds = {step.name: step.config for step in self.steps if step.config}
        faults += [unknown("section", name, kinds) for name in given if name not in kinds]
        whole = {name: typed.complete(kind, given.get(name, {}), name, faults) for name, kind in kinds.items()}
        return {**whole, **{name: value for name, value in given.items() if name not in kinds}}

    def _made(self, name: str, section: Any, faults: list[str]) -> Any:
        return typed.make(self.step(name).config, section, name, faults)


def _twice(names: Sequence[str]) -> str | None:
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
