"""Dot paths into nested configurations: `training.learning_rate` names a value, however deep it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autoexperiment.errors import UsageError, unknown


def replaced(config: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration with other values at some dot paths; what is not on a path is shared with it.

    The last name of a path may be new where an object stands; every name before it must be there. In a list, a name is
    a position from 0.
    Raises: UsageError: a path leads nowhere.
    """
    result = dict(config)
    for path, value in values.items():
        names = path.split(".")
        if not all(names):
            raise UsageError(f"{path!r} is no dot path. Allowed: names with dots between. For example: training.epochs")
        result = _set(result, names, value, path, 0)
    return result


def _set(inside: Any, names: Sequence[str], value: Any, path: str, depth: int) -> Any:
    name, is_last = names[depth], depth == len(names) - 1
    where = ".".join(names[:depth]) or "the configuration"
    if isinstance(inside, Mapping):
        if name not in inside and not is_last:
            raise UsageError(f"Path {path!r} leads nowhere. {unknown('name', name, map(str, inside), where=where)}")
        return {**inside, name: value if is_last else _set(inside[name], names, value, path, depth + 1)}
    if isinstance(inside, list | tuple):
        if not (name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(inside)):
            raise UsageError(
                f"Path {path!r} names {name!r} in a list of {len(inside)} items. Allowed: 0 to {len(inside) - 1}."
            )
        at = int(name)
        new = value if is_last else _set(inside[at], names, value, path, depth + 1)
        return [*inside[:at], new, *inside[at + 1 :]]
    shown = repr(inside)[:60]
    raise UsageError(f"Path {path!r} names {name!r} inside of {where}, which is {shown}: no object and no list.")


def same(value: Any) -> Any:
    """A JSON value in the form that equal ones share: 1 for 1.0; true and "1" stay what they are."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): same(item) for key, item in value.items()}
    return [same(item) for item in value] if isinstance(value, list | tuple) else value


def canonical(value: Any) -> str:
    """A JSON value's identity: 1 and 1.0 are the same, true and 1 and "1" are not.

    Raises: ValueError: it is not JSON, or NaN or infinite.
    """
    return json.dumps(same(value), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
