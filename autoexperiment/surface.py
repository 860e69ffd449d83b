"""Which paths a candidate may hold, and which belong to the harness: a recipe's globs as predicates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

from autoexperiment.globs import any_matches
from autoexperiment.paths import LOOP_EXPERIMENT
from autoexperiment.recipe import Recipe

# What the loop writes into the tree; a project that does not ignore it must not lose it as part of a candidate.
_HISTORY = ("outputs/index.json", "outputs/index.damaged", "outputs/.index.")
OWN = (f"outputs/{LOOP_EXPERIMENT}", *_HISTORY, "internal/log/log_", "data/last_run.json")


@dataclass(frozen=True)
class Surface:
    """The mutable surface of a recipe. Paths are relative to the project's root, with forward slashes."""

    recipe: Recipe

    @cached_property
    def views(self) -> tuple[str, ...]:
        """Tracked or not, these files are the program's own."""
        return (self.recipe.results.path, *([self.recipe.baseline_log] if self.recipe.baseline_log else []))

    def is_immutable(self, path: str) -> bool:
        """Part of the harness: pinned, and nothing may be added to it."""
        return any_matches(self.recipe.immutable, path)

    def is_held_out(self, path: str) -> bool:
        """Kept from every run."""
        return any_matches(self.recipe.hold_out, path)

    @cached_property
    def _known(self) -> dict[str, bool]:
        """Answers by path: every step of the loop asks again about every file of the project."""
        return {}

    def is_mutable(self, path: str) -> bool:
        """Whether a candidate may change, add or remove this file."""
        if path not in self._known:
            self._known[path] = self._decide(path)
        return self._known[path]

    def _decide(self, path: str) -> bool:
        recipe = self.recipe
        inside = not recipe.prefix or path.startswith(recipe.prefix.rstrip("/") + "/") or path == recipe.prefix
        return (
            inside
            and any_matches(recipe.mutable, path)
            and not any_matches(recipe.forbidden, path)
            and not self.is_immutable(path)
            and not self.is_held_out(path)
            and path not in self.views
            and not path.startswith(OWN)
        )

    @property
    def words(self) -> str:
        """The surface for a message."""
        return ", ".join(self.recipe.mutable)


@lru_cache(maxsize=8)
def surface_of(recipe: Recipe) -> Surface:
    """The surface of a recipe; the same object for equal recipes."""
    return Surface(recipe)
