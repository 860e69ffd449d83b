"""Objects by "module:attribute": workflows, and the functions that a configuration names.

A module is looked for as any other one, and last in the workspace's root: the root stands at the end of the search
path, so that no file in it can take the place of an installed library.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autoexperiment.errors import LabError, UsageError, unknown
from autoexperiment.workflow.steps import Workflow

_FORM = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)")


def load(reference: str, *, root: Path) -> Any:
    """What "module:attribute" names.

    Raises: UsageError: it is not of that form, or there is no such module or attribute, or importing it fails.
    """
    match = _FORM.fullmatch(reference)
    if match is None:
        raise UsageError(f'{reference!r} is not of the form "module:name". For example: "my_tasks:greetings"')
    module = _imported(match[1], reference, root=root)
    try:
        return getattr(module, match[2])
    except AttributeError:
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == match[1]]
        raise UsageError(unknown("name", match[2], own, where=f"{reference!r} ({module.__file__})")) from None


def load_function(reference: str, *, root: Path) -> Any:
    """A function by "module:function". Raises: UsageError: as `load`, or it can't be called."""
    found = load(reference, root=root)
    if not callable(found):
        raise UsageError(f"{reference!r} is a {type(found).__name__}, not a function. Name a function of that module.")
    return found


def load_workflow(reference: str, *, root: Path) -> Workflow:
    """A workflow by "module:attribute". Raises: UsageError: as `load`, or it is something else."""
    found = load(reference, root=root)
    if not isinstance(found, Workflow):
        raise UsageError(
            f"{reference!r} is a {type(found).__name__}, not a Workflow. Name the object that Workflow(…) made."
        )
    return found


def _imported(name: str, reference: str, *, root: Path) -> ModuleType:
    extend_path([str(root)])
    importlib.invalidate_caches()  # the file may be younger than what the finder remembers of its folder
    try:
        return importlib.import_module(name)
    except LabError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(reference, error) from error  # the module is there; something that it imports is not
        raise UsageError(
            f"There is no module {error.name!r} for {reference!r}, neither installed nor in {root}. "
            "Needed: the file's path from there, with dots for slashes and without .py."
        ) from None
    except (Exception, SystemExit) as error:
        raise _failed(reference, error) from error


def _failed(reference: str, error: BaseException) -> UsageError:
    return UsageError(f"Importing {reference!r} failed: {type(error).__name__}: {error}. Correct it there.")


def extend_path(places: Sequence[str]) -> None:
    """Look for modules in these folders as well, after all others."""
    sys.path += [place for place in dict.fromkeys(places) if place not in sys.path]


def search_path() -> list[str]:
    """The folders that this process looks for modules in, absolute."""
    return [os.path.abspath(place) for place in dict.fromkeys(sys.path)]  # noqa: PTH100  # "" is the current folder


def reference_of(workflow: Workflow) -> str:
    """The "module:attribute" by which another process imports a workflow.

    Raises: UsageError: no module has it under a name; or only the program itself, which can't be imported.
    """
    if workflow.reference:
        return workflow.reference
    found = list(_names_of(workflow))
    home = workflow.steps[0].function.__module__
    for module, name in sorted(found, key=lambda place: (place[0] != home, place)):
        if module != "__main__":
            return f"{module}:{name}"
    if found:
        raise UsageError(
            f"Workflow {workflow.name!r} is made in the program itself (__main__), and a process of its own can't import "
            "that. Move the workflow and its functions into a module, my_workflow.py for example, and write: from "
            "my_workflow import …"
        )
    raise UsageError(
        f"Workflow {workflow.name!r} is no module's variable, so that a process of its own can't import it. Give it a "
        'name at the top level of a module, or name it: Workflow(…, reference="module:name")'
    )


def _names_of(workflow: Workflow) -> Iterator[tuple[str, str]]:
    for module_name, module in list(sys.modules.items()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is workflow:
                yield module_name, name


def check_importable(workflow: Workflow) -> None:
    """Raises: UsageError: a function of it lives in the program itself, which no other process can import."""
    for step in workflow.steps:
        if step.function.__module__ == "__main__":
            raise UsageError(
                f"The function of step {step.name!r} is defined in the program itself (__main__), and a process of its own "
                "can't import that. Move it into a module, and import it from there."
            )
