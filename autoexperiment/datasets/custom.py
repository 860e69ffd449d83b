"""The custom dataset of a class: `dataset.loader: "module:Class"`, a class of one's own that derives from BaseDataset.

The module is looked for as any other one, and last in the workspace's root: the root stands at the end of the search
path, so that no file in it can take the place of numpy or of the standard library.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, TASKS, BaseDataset, Facts, Table, check_table
from autoexperiment.datasets.soundness import CheckedDataset, check_values, class_numbers
from autoexperiment.errors import DataError, LabError, unknown


class LoadedDataset(CheckedDataset):
    """A user's dataset whose every failure is a DataError that names the user's file and line."""

    def __init__(self, loader: str, params: Mapping[str, Any], *, root: Path) -> None:
        """
        Args: params: keyword arguments for the class.
        Raises: DataError: no such module or class, not a BaseDataset, or its constructor failed.
        """
        self._loader, self._root = loader, root
        cls = find_class(loader, root=root)
        with self._blaming():
            self._dataset = cls(**params)
        self.task = self._dataset.task
        if self.task not in TASKS:
            raise DataError(unknown("task", str(self.task), TASKS, where=loader))

    def load(self) -> Table:
        """The class's table, checked. Raises: DataError: it failed, or what it gave is no sound table."""
        with self._blaming():
            table = self._dataset.load()
        if not isinstance(table, Table):
            raise DataError(f"{self._loader}.load() gave a {type(table).__name__}. Needed: Table(X, y).")
        for array in (table.X, table.y):
            if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
                kind = f"{type(array).__module__}.{type(array).__name__}".removeprefix("builtins.")
                raise DataError(
                    f"{self._loader}.load(): X and y must be numpy arrays without a mask, and one is a {kind}. Write "
                    "numpy.asarray(…) around it; give masked numbers a value, or leave their rows out."
                )
        check_table(table, name=self._loader, task=self.task)
        if self.task == CLASSIFICATION:
            class_numbers(table.y, name=f"{self._loader}: y")
        return check_values(table, name=self._loader)

    def facts(self) -> Facts:
        """What the class says of its data; of its table where it has no `facts` of its own."""
        if type(self._dataset).facts is BaseDataset.facts:
            return super().facts()
        with self._blaming():
            facts = self._dataset.facts()
        if not isinstance(facts, Facts) or facts.task != self.task:
            raise DataError(f"{self._loader}.facts() gave {facts!r}. Needed: Facts of the task {self.task!r}.")
        return facts

    def facts_of(self, table: Table) -> Facts:
        """Raises: DataError: the class's own `facts` says something else than its table."""
        seen = super().facts_of(table)
        if type(self._dataset).facts is BaseDataset.facts:
            return seen
        said = self.facts()
        is_counted = said.n_classes == seen.n_classes if seen.classes else said.n_classes >= seen.n_classes
        if replace(said, n_classes=0) != replace(seen, n_classes=0) or not is_counted:
            raise DataError(f"{self._loader}.facts() gave {said}, but its table is {seen}. Make the two agree.")
        return said

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        with blaming(self._loader, self._root):
            yield


def find_class(loader: str, *, root: Path) -> type[BaseDataset]:
    """The class that "module:Class" names. Raises: DataError: there is none that derives from BaseDataset."""
    module_name, _, class_name = loader.partition(":")
    if not module_name or not class_name.isidentifier():
        raise DataError(f'Loader {loader!r} is not of the form "module:Class". For example: "my_data:Prices"')
    module = _imported(module_name, loader, root=root)
    cls = getattr(module, class_name, None)
    if cls is None:
        raise DataError(_no_class(class_name, module))
    if not (isinstance(cls, type) and issubclass(cls, BaseDataset)):
        raise DataError(
            f"{loader} ({_source_of(module)}) does not implement the BaseDataset interface. "
            f"Write: class {class_name}(autoexperiment.datasets.BaseDataset)"
        )
    return cls


def _no_class(name: str, module: ModuleType) -> str:
    """What to say of a class that is not there. Those that the module itself imports are none to offer."""
    own = [
        word
        for word, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseDataset) and value.__module__ == module.__name__
    ]
    if own:
        return unknown("class", name, own, where=_source_of(module))
    return (
        f"There is no class {name!r} in {_source_of(module)}, nor any other that derives from BaseDataset. "
        f"Write: class {name}(autoexperiment.datasets.BaseDataset)"
    )


def _imported(name: str, loader: str, *, root: Path) -> ModuleType:
    if str(root) not in sys.path:
        sys.path.append(str(root))
    importlib.invalidate_caches()  # the file may be younger than what the finder remembers of its folder
    with blaming(loader, root):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module is there; something that it imports is not
            raise DataError(
                f"There is no module {error.name!r} for the loader {loader!r}, neither installed nor in {root}. "
                "Needed: the file's path from there, with dots for slashes and without .py."
            ) from None


def _source_of(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "a module built into Python"


@contextmanager
def blaming(loader: str, root: Path) -> Iterator[None]:
    """Turn whatever the user's code raises into a DataError with its place; our own errors pass."""
    try:
        yield
    except LabError:
        raise
    except (Exception, SystemExit) as error:
        place = _place(error, root)
        raise DataError(
            f"The loader {loader!r} failed{f' in {place}' if place else ''}: {type(error).__name__}: {error}. "
            "Correct it there."
        ) from error


def _place(error: BaseException, root: Path) -> str:
    """File and line of the last step in the user's code; of any code but ours if none is under the root."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    steps = [step for step in traceback.extract_tb(error.__traceback__) if step.filename != __file__]
    steps = [step for step in steps if not step.filename.startswith("<")]
    inside = [step for step in steps if Path(step.filename).is_relative_to(root)]
    last = (inside or steps)[-1:]
    return f"{last[0].filename}, line {last[0].lineno}" if last else ""
