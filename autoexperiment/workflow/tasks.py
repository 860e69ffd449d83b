"""Functions that a configuration names as "module:function": loaders of datasets, and tasks."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autoexperiment.errors import DataError, LabError, UsageError
from autoexperiment.workflow import loading


def call(reference: str, arguments: Mapping[str, Any], *, root: Path) -> Any:
    """What a function gives for keyword arguments.

    An OSError of it is passed on as it is: what the network or the machine did may pass, and the step is tried again.

    Raises: UsageError: there is no such function, or it does not take these arguments. DataError: it failed; the
        message has the place in its code.
    """
    function = loading.load_function(reference, root=root)
    _check_arguments(function, arguments, reference=reference)
    try:
        return function(**arguments)
    except (LabError, OSError):
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, function)
        where = f" in {place}" if place else ""
        raise DataError(f"{reference} failed{where}: {type(error).__name__}: {error}. Correct it there.") from error


def _check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], *, reference: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # a function in C that does not say
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        given = ", ".join(arguments) or "no arguments"
        raise UsageError(f"{reference} can't be called with {given}: {error}. It takes {signature}.") from None


def _place(error: BaseException, function: Callable[..., Any]) -> str:
    """File and line where it went wrong: in the function's own file if it came from there, else in code not ours."""
    steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename != __file__]
    home = getattr(sys.modules.get(function.__module__), "__file__", None)
    steps = [step for step in steps if step.filename == home] or steps
    return f"{Path(steps[-1].filename).name}, line {steps[-1].lineno}" if steps else ""
