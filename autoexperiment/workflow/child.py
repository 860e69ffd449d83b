"""The process that runs one workflow.

Usage: python -P -m autoexperiment.workflow.child REQUEST_FILE   (see request.py)

Exit codes: 0 finished · 1 failed or refused · 130 interrupted (SIGINT, SIGTERM). How it came about is in `state.json`.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from types import FrameType

from autoexperiment.errors import LabError, Refused
from autoexperiment.paths import RunPaths
from autoexperiment.sweep.points import key_of
from autoexperiment.workflow import atoms, loading
from autoexperiment.workflow.identity import Identity
from autoexperiment.workflow.request import Request
from autoexperiment.workflow.running import begun, ended_early, reason_of, run_alone, save_state
from autoexperiment.workflow.state import Status, WorkflowState
from autoexperiment.workflow.steps import Workflow

INTERRUPTED_EXIT = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What SIGINT and SIGTERM do: raise KeyboardInterrupt in the step, once."""

    def __init__(self) -> None:
        self.is_asked = False

    def install(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)  # what is to be written down now is written whole
        self.is_asked = True
        raise KeyboardInterrupt

    def look(self, state: WorkflowState) -> None:
        """Before each step: one that has swallowed the interrupt was the last."""
        if self.is_asked and state.status is Status.RUNNING:
            raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Do what a request asks for."""
    request, stop = Request.load(Path(argv[0])), Stop()
    run = RunPaths(Path(request.run_dir))
    try:
        stop.install()
        return act(request, stop)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        return INTERRUPTED_EXIT
    except (Exception, SystemExit) as error:
        if not isinstance(error, LabError):
            traceback.print_exc()
        print(f"error: {reason_of(error)}", flush=True)
        save_state(run, ended_early(_nothing_done(request), Status.FAILED, reason_of(error)))
        return 1


def _nothing_done(request: Request) -> WorkflowState:
    place = os.path.relpath(request.run_dir, request.root)
    state = begun(request.name or request.workflow, request.config, steps=request.steps, run_dir=place)
    return replace(state, params=request.params, seed=request.seed, user=request.user)


def act(request: Request, stop: Stop) -> int:
    """Raises: LabError: the workflow can't be imported, or its configuration is not sound here."""
    root = Path(request.root)
    own = [place for place in sys.path if place not in request.path]
    sys.path[:] = [*request.path, *own]
    workflow = loading.load_workflow(request.workflow, root=root)
    if request.key:
        _check_same(request, workflow, root)
    state = run_alone(
        workflow, request.config, input_atoms=request.atoms, user=request.user, root=root, run_dir=request.run_dir,
        use_cache=request.use_cache, on_change=stop.look, params=request.params, seed=request.seed,
    )  # fmt: skip
    return 0 if state.status is Status.FINISHED else 1


def _check_same(request: Request, workflow: Workflow, root: Path) -> None:
    """Raises: Refused: what decides is not as it was when the sweep began, so that this would be another point."""
    given = atoms.checked(workflow, request.atoms, root=root)
    if key_of("workflow", Identity(workflow, given, root).of(request.config)) != request.key:
        raise Refused(
            "Code, files or data that decide this point are not as they were when the sweep began. Put them back and run "
            "it again with retry_failed=True, or give the sweep another name. Files that a step writes belong into "
            "context.run_dir, not into the configuration."
        )


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # all is on the disk: a thread that a step has left, or what it wants done at exit, changes nothing
