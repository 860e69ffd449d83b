"""Which code and which files a step's configuration names, as hashes of what they hold: code is read, but not run.

A module counts with all that it imports, directly or not, of the code that is not installed: a changed helper of one's
own makes a step another one. Installed libraries, and this one, do not count.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import os
import re
import stat
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from autoexperiment import snapshot
from autoexperiment.files import open_plain
from autoexperiment.paths import RunPaths
from autoexperiment.workflow import folders
from autoexperiment.workflow.steps import Step

_WORD = re.compile(r"([^\W\d]\w*(?:\.[^\W\d]\w*)*):[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_OURS = "autoexperiment"
_INSTALLED = tuple({os.path.realpath(sysconfig.get_path(n)) for n in ("stdlib", "platstdlib", "purelib", "platlib")})
MOST_MODULES = 500


def of_step(step: Step, config: Any) -> dict[str, str]:
    """SHA-256 by module name of the step's function, and of every "module:function" word in its configuration.

    Args: config: the step's section as plain JSON.
    """
    return of_modules([step.function.__module__, *words(config)])


def of_modules(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 by name of modules and of what they import. A name that leads to no file has no entry."""
    importlib.invalidate_caches()
    todo, found = list(dict.fromkeys(names)), dict[str, str]()
    tried = set(todo)
    while todo and len(found) < MOST_MODULES:
        name = todo.pop()
        file = file_of(name)
        if file is None:
            continue
        try:
            stamp = file.stat()
            found[name], imported = _read(str(file), name, (stamp.st_mtime_ns, stamp.st_size, stamp.st_ino))
        except OSError:  # it can't be imported either
            continue
        further = [other for other in imported if other not in tried and _is_own(other)]
        tried |= {*further}
        todo += further
    return dict(sorted(found.items()))


def words(config: Any) -> Iterator[str]:
    """The modules of all "module:function" words in plain JSON."""
    for text in texts(config):
        if match := _WORD.fullmatch(text):
            yield match[1]


def of_files(config: Any, *, root: Path) -> dict[str, str]:
    """SHA-256 by name of every file and folder that a text in plain JSON names, relative to the root or absolute.

    What stands in a file decides as much as what stands in the configuration.
    Raises: UsageError: a folder holds too much, or can't be gone through.
    """
    found = {text: of_file(text, root=root) for text in texts(config)}
    return {text: digest for text, digest in sorted(found.items()) if digest}


def of_outputs(outputs: Any, *, root: Path) -> dict[str, str]:
    """`of_files` for what steps gave. Run directories, which get more files by and by, count by their names only:
    a step that makes one gives the hash of what counts in it."""
    return of_files([text for text in texts(outputs) if not _is_run(text, root)], root=root)


def _is_run(text: str, root: Path) -> bool:
    try:
        return RunPaths(root / text).record.is_file()
    except (OSError, ValueError):
        return False


def of_file(text: str, *, root: Path) -> str:
    """SHA-256 of the file or folder that a text names; "" if it names none that can be read.

    Folders that hold the workspace, or all of its outputs, do not count.
    Raises: UsageError: a folder holds too much, or can't be gone through.
    """
    place = root / text
    try:
        facts = place.stat()
        if stat.S_ISREG(facts.st_mode):
            return _content(str(place), folders.stamp(facts))
    except (OSError, ValueError):  # no name of a file, or none that can be read
        return ""
    is_counted = stat.S_ISDIR(facts.st_mode) and folders.is_looked_into(place, root=root)
    return folders.content(place, root=root, digest=_content) if is_counted else ""


@lru_cache(maxsize=16384)
def _content(file: str, stamp: tuple[int, ...]) -> str:  # noqa: ARG001
    return snapshot.content(Path(file))


def texts(config: Any) -> Iterator[str]:
    """Every text in plain JSON that is a value."""
    if isinstance(config, dict):
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            yield from texts(item)
    elif isinstance(config, str):
        yield config


def file_of(name: str) -> Path | None:
    """The file that a module is or would be imported from; neither it nor the packages that it lies in are imported."""
    if name in sys.modules:
        loaded = getattr(sys.modules[name], "__file__", None)
        return Path(loaded) if loaded and Path(loaded).is_file() else None
    path: Any = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for depth in range(len(parts)):
        spec = _found(".".join(parts[: depth + 1]), path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
        if path is None and depth < len(parts) - 1:
            return None
    file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return file if file and file.is_file() else None


def _found(name: str, path: Any) -> ModuleSpec | None:
    for finder in sys.meta_path:
        try:
            spec = finder.find_spec(name, path)
        except KeyError:  # a folder without __init__.py in another one, which the finder looks up where it is imported
            places = [str(Path(place) / name.rpartition(".")[2]) for place in path or ()]
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [place for place in places if Path(place).is_dir()]
        except (ImportError, ValueError, AttributeError, OSError):
            continue
        if spec is not None:
            return spec
    return None


def _is_own(name: str) -> bool:
    """Whether a module is code of the user: neither installed nor of this package."""
    if name.partition(".")[0] in {_OURS, *sys.stdlib_module_names}:
        return False
    file = file_of(name)
    return file is not None and not os.path.realpath(file).startswith(tuple(f"{place}{os.sep}" for place in _INSTALLED))


@lru_cache(maxsize=4096)
def _read(file: str, name: str, stamp: tuple[int, ...]) -> tuple[str, tuple[str, ...]]:  # noqa: ARG001
    """Hash and imports of a source. `stamp`: of the file, so that a changed one is read again."""
    with open_plain(Path(os.path.realpath(file))) as opened:
        blob = opened.read()
    is_package = Path(file).name == "__init__.py"
    return hashlib.sha256(blob).hexdigest(), tuple(_imports(blob, name, is_package=is_package))


def _imports(blob: bytes, name: str, *, is_package: bool) -> Iterator[str]:
    """Every module that a source may import, by name; what is no Python imports nothing."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(blob)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    around = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = around[: len(around) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
