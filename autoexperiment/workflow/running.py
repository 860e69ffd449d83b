"""Running a workflow in this process, one step after another; `state.json` says at any time how far it has come."""

from __future__ import annotations

import asyncio
import inspect
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoexperiment.errors import LabError, UsageError
from autoexperiment.failure import clean
from autoexperiment.files import dump_json, load_json, read_plain, write_json
from autoexperiment.paths import RunPaths, find_root
from autoexperiment.workflow import atoms, typed
from autoexperiment.workflow.cache import Cache, key_of
from autoexperiment.workflow.retries import is_transient
from autoexperiment.workflow.state import Status, StepState, WorkflowState
from autoexperiment.workflow.steps import Context, Outputs, Step, Workflow

STATE_BYTES = 100_000_000
OUTPUT_BYTES = 10_000_000
ERROR_LIMIT = 2000

OnChange = Callable[[WorkflowState], None]


def _say(line: str) -> None:
    print(line, flush=True)


async def run_workflow(
    workflow: Workflow,
    config: Any,
    *,
    run_dir: str | Path,
    input_atoms: Mapping[str, Any] | None = None,
    user: str = "",
    root: Path | None = None,
    use_cache: bool = True,
    on_change: OnChange | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int | None = None,
    say: Callable[[str], None] = _say,
    runner: asyncio.Runner | None = None,
) -> WorkflowState:
    """Do the steps of a workflow, up to its end or the first that fails.

    Args:
        config: a mapping by step, or an object of the workflow's `config`.
        run_dir: for `state.json` and the steps' files; relative to `root`, or absolute; made if it is not there.
        input_atoms: JSON values, and files or folders as pathlib.Path (relative to `root`), by name.
        root: the workspace; None: the top of the git working tree around the current folder, else that folder.
        use_cache: outputs of equal steps of before are taken instead of doing them again.
        on_change: told the state when a step begins, and at the end.
        params, seed: what a sweep set, for the state.
        say: takes the lines of the log.
        runner: does what is awaited; None: the loop that goes on.
    Returns: the state: finished, or failed with the step's error.
    Raises: UsageError: the configuration or an atom is not sound; nothing was written. KeyboardInterrupt,
        CancelledError: it was stopped; the state says so.
    """
    root = (root or find_root(Path.cwd())).resolve()
    folder = root / run_dir
    whole = workflow.checked(config)
    given = atoms.checked(workflow, atoms.encoded(input_atoms or {}), root=root)
    folder.mkdir(parents=True, exist_ok=True)
    state = begun(workflow.name, whole, steps=[step.name for step in workflow.steps], run_dir=_below(folder, root))
    state = replace(state, params=typed.plain(dict(params or {}), "", []), seed=seed, user=user)
    cache = Cache(root) if use_cache else None
    return await _Course(workflow, state, given, root, folder, cache, on_change, say, runner).run()


def run_alone(workflow: Workflow, config: Any, **more: Any) -> WorkflowState:
    """`run_workflow` where no event loop goes on: plain functions of steps may run one of their own.

    Steps that are awaited share a loop, which goes on only meanwhile.
    """
    with asyncio.Runner() as runner:
        course = run_workflow(workflow, config, runner=runner, **more)
        try:
            course.send(None)
        except StopIteration as end:
            state: WorkflowState = end.value
            return state
    raise AssertionError("all that is awaited is done by the runner")


async def _awaited(thing: Awaitable[Any]) -> Any:
    return await thing


def begun(workflow: str, config: Mapping[str, Any], *, steps: Sequence[str], run_dir: str) -> WorkflowState:
    """The state of a workflow of which nothing is done."""
    pending = tuple(StepState(name, config=config.get(name, {})) for name in steps)
    return WorkflowState(workflow, config, pending, Status.RUNNING, run_dir=run_dir)


def _below(folder: Path, root: Path) -> str:
    return str(folder.relative_to(root)) if folder.is_relative_to(root) else str(folder)


def save_state(run: RunPaths, state: WorkflowState) -> None:
    write_json(run.state, state.to_json())


def load_state(run: RunPaths) -> WorkflowState:
    """The state in a run directory. Raises: UsageError: there is none, or it can't be read."""
    blob = read_plain(run.state, STATE_BYTES)
    try:
        if blob is None:
            raise ValueError("it is not there")
        return WorkflowState.from_json(load_json(blob))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise UsageError(f"{run.state} is no state of a workflow: {error}.") from error


@dataclass
class _Course:
    """One workflow on its way. `cache`: None: every step is done. `runner`: as of `run_workflow`."""

    workflow: Workflow
    state: WorkflowState
    given: dict[str, Any]
    root: Path
    folder: Path
    cache: Cache | None
    on_change: OnChange | None
    say: Callable[[str], None]
    runner: asyncio.Runner | None

    async def run(self) -> WorkflowState:
        try:
            for step in self.workflow.steps:
                await self._take(step)
                if self.state.step(step.name).status is Status.FAILED:
                    break
            else:
                self.state = replace(self.state, status=Status.FINISHED)
        except (KeyboardInterrupt, asyncio.CancelledError):
            self.state = ended_early(self.state, Status.INTERRUPTED, "It was stopped.")
            raise
        finally:
            self._tell()
        return self.state

    def _tell(self) -> None:
        save_state(RunPaths(self.folder), self.state)
        if self.on_change:
            self.on_change(self.state)

    def _set(self, name: str, **changes: Any) -> None:
        self.state = self.state.with_step(replace(self.state.step(name), **changes))

    async def _take(self, step: Step) -> None:
        """Do one step, or take its outputs from an equal one."""
        self._set(step.name, status=Status.RUNNING, started_at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._tell()
        began = time.monotonic()
        try:
            inputs = {name: self.given[name] for name in step.inputs}
            key = self._key(step, inputs)
            outputs = self._known(step, key)
            if outputs is None:
                outputs = await self._tried(step, inputs)
                self._keep(step, key, outputs)
            else:
                self._set(step.name, is_cached=True)
            self._set(step.name, status=Status.FINISHED, outputs=outputs)
            self.given |= outputs
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise
        except BaseException as error:  # whatever a step raises is its own failure
            reason = reason_of(error)
            if not isinstance(error, LabError):
                self.say(traceback.format_exc())
            self._set(step.name, status=Status.FAILED, error=reason)
            self.state = replace(self.state, status=Status.FAILED, error=f"Step {step.name!r} failed: {reason}")
        finally:
            self._set(step.name, seconds=round(time.monotonic() - began, 6))

    def _key(self, step: Step, inputs: Mapping[str, Any]) -> str | None:
        return key_of(self.workflow.name, step, self._section(step), inputs, root=self.root) if self.cache else None

    def _section(self, step: Step) -> dict[str, Any]:
        section: dict[str, Any] = self.state.config.get(step.name, {})
        return section

    def _context(self, attempt: int) -> Context:
        return Context(self.root, self.folder, self.state.user, attempt, self.say)

    def _known(self, step: Step, key: str | None) -> dict[str, Any] | None:
        """Outputs of an equal step before, if they still may be used."""
        if self.cache is None or key is None:
            return None
        try:
            outputs = self.cache.get(key, is_judged=step.is_valid is not None)
            if outputs is None:
                return None
            whole = self._checked(step, outputs)
            return (
                whole if step.is_valid is None or step.is_valid(_made(step.outputs, whole), self._context(0)) else None
            )
        except Exception as error:
            self.say(f"note: what is known of step {step.name!r} can't be used: {reason_of(error)}")
            return None

    def _keep(self, step: Step, key: str | None, outputs: dict[str, Any]) -> None:
        if self.cache is None or key is None:
            return
        try:
            self.cache.put(key, outputs, is_judged=step.is_valid is not None)
        except (OSError, UsageError) as error:
            self.say(f"note: the outputs could not be kept for later: {error}")

    async def _tried(self, step: Step, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What the step gives, tried again after errors that may pass."""
        for attempt in range(1, step.retries.tries + 1):
            self._set(step.name, attempts=attempt)
            try:
                outputs = step.function(self._config(step), _made(step.inputs, inputs), self._context(attempt))
                return self._checked(step, await self._done(outputs) if inspect.isawaitable(outputs) else outputs)
            except OSError as error:
                if attempt == step.retries.tries or not is_transient(error):
                    raise
                wait_s = step.retries.wait_s * 2 ** (attempt - 1)
                self.say(f"note: step {step.name!r} failed, tried again after {wait_s:g} s: {reason_of(error)}")
            await self._done(asyncio.sleep(wait_s))
        raise AssertionError("a step is tried at least once")

    async def _done(self, thing: Awaitable[Any]) -> Any:
        return self.runner.run(_awaited(thing)) if self.runner else await thing

    def _config(self, step: Step) -> Any:
        """A fresh object of the step's configuration: a step may change what is in it."""
        return typed.make(step.config, self._section(step), step.name, []) if step.config else None

    def _checked(self, step: Step, outputs: Any) -> dict[str, Any]:
        """A step's outputs as plain JSON, with the declared names and types. Raises: UsageError."""
        if not isinstance(outputs, Mapping):
            raise UsageError(f"It gave {typed.shown(outputs)}. Needed: a mapping with {_names(step.outputs)}.")
        faults: list[str] = []
        given = typed.plain(dict(outputs), "", faults)
        faults += [
            f"{name!r} is not declared. Declared: {_names(step.outputs)}" for name in given if name not in step.outputs
        ]
        faults += [f"{name!r} is missing" for name in step.outputs if name not in outputs]
        whole = {k: typed.complete(kind, given[k], k, faults) for k, kind in step.outputs.items() if k in given}
        typed.refuse(faults, "What it gave")
        if (size := len(dump_json(whole, indent=None))) > OUTPUT_BYTES:
            raise UsageError(
                f"It gave {size} bytes of JSON. Allowed: {OUTPUT_BYTES}. Write what is large into a file in "
                "context.run_dir, and give its path."
            )
        return whole


def _names(kinds: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, kinds)) or "no outputs"


def _made(kinds: Mapping[str, Any], values: Mapping[str, Any]) -> Outputs:
    """Values by name as their types make them; copies, which a step may change."""
    return {name: typed.make(kind, values[name], name, []) for name, kind in kinds.items()}


def ended_early(state: WorkflowState, status: Status, reason: str) -> WorkflowState:
    """A state whose process has ended before its work did: so has the step that was going on."""
    for step in state.steps:
        if step.status in (Status.RUNNING, Status.INTERRUPTED):
            state = state.with_step(replace(step, status=status, error=reason))
            reason = f"Step {step.name!r} did not come to its end: {reason}"
    return replace(state, status=status, error=reason)


def reason_of(error: BaseException) -> str:
    """An error in one sentence, bounded."""
    try:
        text = str(error)
    except Exception:
        text = "an error without words"
    if isinstance(error, LabError):
        return clean(text, ERROR_LIMIT)
    return clean(f"{type(error).__name__}: {text}".rstrip(": "), ERROR_LIMIT)
