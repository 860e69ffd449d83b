"""A recipe: what is run, which of its files may change, and which number says how good it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from autoexperiment.errors import UsageError, unknown
from autoexperiment.vocabulary import Goal

PYTHON = "{python}"
SEALED = "sealed"  # a separate process computes the metric from the checkpoint's logits
REPORTED = "reported"  # the recipe's own `data/last_run.json` or output block is taken at its word


@dataclass(frozen=True)
class Recipe:
    """A command that trains something within a budget.

    Paths are relative to the project's root. `{python}` in the command is the running interpreter.
    """

    command: tuple[str, ...] = (PYTHON, "train.py")
    mutable: tuple[str, ...] = ("train.py",)
    immutable: tuple[str, ...] = ("prepare.py", "data_sources.py")
    metric: str = "val_bpb"
    goal: Goal = Goal.MINIMIZE
    scoring: str = SEALED

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads back to an equal recipe."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Recipe:
        """Raises: UsageError: an unknown field or scoring method."""
        known = [f.name for f in fields(cls)]
        for key in value:
            if key not in known:
                raise UsageError(unknown("recipe field", key, known))
        if value.get("scoring", SEALED) not in (SEALED, REPORTED):
            raise UsageError(unknown("scoring method", value["scoring"], (SEALED, REPORTED)))
        ready: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        return cls(**{**ready, "goal": Goal(value.get("goal", Goal.MINIMIZE))})
