"""Libraries that come with the package's extras, imported when a function first needs one."""

from __future__ import annotations

import importlib
from types import ModuleType

from autoexperiment.errors import HarnessError

# library -> the extra that brings it
EXTRAS = {
    "alembic": "track",
    "cmaes": "search",
    "distributed": "dask",
    "matplotlib": "sweep",
    "mlflow": "track",
    "mlx_lm": "lora",
    "optuna": "search",
    "pandas": "sweep",
    "pyarrow": "parquet",
    "scipy": "sweep",
    "sqlalchemy": "track",
    "tensorboardX": "track",
    "trackio": "track",
    "wandb": "track",
}


def need(name: str) -> ModuleType:
    """A module of a library in EXTRAS, or of NumPy.

    Raises: HarnessError: its library is not installed. A library that is there and broken raises its own error.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        library = name.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library or library not in EXTRAS:
            raise
        extra = EXTRAS[library]
        raise HarnessError(
            f"This needs {library}, which is not installed. It comes with the extra {extra!r}. "
            f"Type: pip install 'autoexperiment[{extra}]'"
        ) from error
