"""Columns of tables: the name under which a value deep in a configuration stands beside metrics and facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeVar

PREFIX = "param."
SEED = "seed"

Path = TypeVar("Path", str, tuple[str, ...])


def short_names(paths: Iterable[Path], taken: Iterable[str] = (), *, is_short: bool = True) -> dict[Path, str]:
    """The column of each path: its last name where no other column could be meant, else the whole path.

    `learning_rate` for `training.learning_rate`. A position in a list keeps the list's name: `widths.0`. No two columns
    are called alike: where even the whole path is taken, `param.` stands before it.

    Args:
        paths: dot paths, or their names as tuples, in which a name may have a dot of its own and is then put in quotes.
        taken: names of the columns that stand beside them.
        is_short: False: whole paths throughout.
    """
    taken = set(taken)
    parts = {path: tuple(path.split(".")) if isinstance(path, str) else path for path in paths}
    short: dict[Path, str] = {path: _last(names) for path, names in parts.items()}
    whole: dict[Path, str] = {path: _dotted(names) for path, names in parts.items()}
    counts = Counter(short.values())
    wanted = {path: name if is_short and counts[name] == 1 else whole[path] for path, name in short.items()}
    return _told_apart(wanted, whole, taken)


def is_seed(path: str) -> bool:
    """Whether a parameter makes replicates and no other configuration: its last name is `seed`."""
    return path.rpartition(".")[2] == SEED


def well_formed(text: str) -> str:
    """Text as UTF-8 can hold it: JSON may have named half of a character, which becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


def free_names(names: Iterable[str], taken: Iterable[str], *, prefix: str) -> dict[str, str]:
    """The column of each name: itself where it is free, else with the prefix before it until it is. Halves of characters
    are question marks."""
    wanted, occupied = list(dict.fromkeys(names)), set(taken)
    used = occupied | set(wanted)
    columns = {}
    for name in wanted:
        column = well_formed(name)
        while column in used and (column != name or name in occupied):
            column = prefix + column
        columns[name] = column
        used.add(column)
    return columns


def _last(names: tuple[str, ...]) -> str:
    return well_formed(".".join(names[-2:]) if names[-1].isdecimal() else names[-1])


def _dotted(names: tuple[str, ...]) -> str:
    return well_formed(".".join(f'"{name}"' if "." in name else name for name in names))


def _told_apart(wanted: Mapping[Path, str], whole: Mapping[Path, str], taken: set[str]) -> dict[Path, str]:
    """Wanted names where they are free; the others are made longer until they are."""
    used = set(taken)
    names = {}
    for path, name in wanted.items():
        if name in used:
            name = whole[path]
        while name in used:
            name = PREFIX + name
        names[path] = name
        used.add(name)
    return names
