"""The libraries of the extra `sweep`, imported when a function first needs one."""

from __future__ import annotations

import importlib
from types import ModuleType

from autoexperiment.errors import HarnessError

INSTALL = "pip install 'autoexperiment[sweep]'"


def need(name: str) -> ModuleType:
    """A module of pandas, scipy, numpy or matplotlib.

    Raises: HarnessError: its library is not installed. A library that is there and broken raises its own error.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise HarnessError(
            f"Statistics and pictures of runs need {library}, which is not installed. "
            f"It comes with the extra 'sweep'. Type: {INSTALL}"
        ) from error
