"""Plain JSON against Python types: completed with defaults, checked, and made into dataclasses; all faults are named.

The types are str, int, float, bool, None, list, dict, tuple, Any, Literal, unions of these, and dataclasses of them. A
whole number stands for a float as well; true and false are no numbers; NaN and infinity are nothing at all.
"""

from __future__ import annotations

import math
import reprlib
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from autoexperiment.errors import LabError, UsageError, unknown

T = TypeVar("T")
SHOWN = 60
MOST_FAULTS = 20
DEEPEST = 100  # levels of JSON: a few calls for each must fit into Python's stack
_SCALARS = (str, int, float, bool)
_LISTS = (list, Sequence)
_DICTS = (dict, Mapping)
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
    tuple: "a list",
    type(None): "null",
    Path: "a path of a file or folder",
}


def build(kind: type[T], value: Any, *, where: str) -> T:
    """A dataclass made of plain JSON, or of dataclasses.

    Args: where: what the value is, for messages: it begins the places of faults.
    Raises: UsageError: it is not sound; all faults are named.
    """
    faults: list[str] = []
    whole = complete(kind, plain(value, where, faults), where, faults)
    result = None if faults else make(kind, whole, where, faults)
    refuse(faults, kind.__name__)
    return result  # type: ignore[return-value]


def refuse(faults: Sequence[str], subject: str) -> None:
    """Raises: UsageError: there are faults."""
    if len(faults) == 1:
        raise UsageError(f"{subject} is not sound: {faults[0]}")
    if faults:
        rest = [f"… and {len(faults) - MOST_FAULTS} more"] if len(faults) > MOST_FAULTS else []
        lines = "\n  - ".join([*faults[:MOST_FAULTS], *rest])
        raise UsageError(f"{subject} has {len(faults)} faults:\n  - {lines}")


# ---- anything to plain JSON


def plain(value: Any, where: str, faults: list[str], depth: int = 0) -> Any:
    """A copy as plain JSON: dataclasses and mappings as dicts, tuples as lists, numpy's single numbers as Python's.

    What is no JSON becomes None, and a fault.
    """
    if value is None or type(value) in (str, int, bool):
        return value
    if depth > DEEPEST:
        faults.append(f"{where or 'it'} is nested deeper than {DEEPEST} levels")
        return None
    if is_dataclass(value) and not isinstance(value, type):
        value = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
    if isinstance(value, Mapping):
        return _plain_object(value, where, faults, depth)
    if isinstance(value, list | tuple):
        return [plain(item, _in(where, i), faults, depth + 1) for i, item in enumerate(value)]
    return _plain_scalar(value, where, faults)


def _plain_object(value: Mapping[Any, Any], where: str, faults: list[str], depth: int) -> dict[str, Any]:
    wrong = [name for name in value if not isinstance(name, str)]
    faults += [f"{where or 'it'} has the name {shown(name)}. Allowed: names that are text" for name in wrong]
    return {str(k): plain(v, _in(where, k), faults, depth + 1) for k, v in value.items() if isinstance(k, str)}


def _plain_scalar(value: Any, where: str, faults: list[str]) -> Any:
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        faults.append(f"{where or 'it'} is {value}. Allowed: finite numbers, or null for one that is missing")
    elif isinstance(value, str):
        return str.__str__(value)
    elif isinstance(value, bool | int):
        return value if isinstance(value, bool) else int(value)
    else:
        faults.append(
            f"{where or 'it'} is {shown(value)}, a {type(value).__name__}. Allowed: what JSON has: text, numbers, "
            "true, false, null, lists and objects"
        )
    return None


# ---- plain JSON against a type


def complete(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """Plain JSON with the defaults of all that it leaves out.

    With faults, what comes back is as complete as it can be. `value`: plain JSON.
    """
    if is_dataclass(kind):
        return _complete_dataclass(kind, value, where, faults)
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return _complete_union(kind, value, where, faults)
    if origin is Literal:
        if not any(type(value) is type(word) and value == word for word in args):
            faults.append(_not(value, kind, where))
    elif origin in _LISTS or origin is tuple:
        return _complete_list(kind, value, where, faults)
    elif origin in _DICTS:
        if not isinstance(value, dict):
            faults.append(_not(value, kind, where))
        elif len(args) == 2:
            return {name: complete(args[1], item, _in(where, name), faults) for name, item in value.items()}
    elif origin in _SCALARS:
        return _scalar(origin, value, where, faults)
    elif kind in (None, type(None)) and value is not None:
        faults.append(_not(value, kind, where))
    return value


def _scalar(kind: type, value: Any, where: str, faults: list[str]) -> Any:
    if type(value) is kind:
        return value
    if kind is float and type(value) is int:
        if abs(value) < 2**1023:
            return float(value)
        faults.append(f"{where} is larger than any number that a float can hold")
    else:
        faults.append(_not(value, kind, where))
    return value


def _complete_list(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    args = get_args(kind)
    if not isinstance(value, list):
        faults.append(_not(value, kind, where))
        return value
    if get_origin(kind) is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            faults.append(f"{where} has {len(value)} items. Allowed: {len(args)}")
            return value
        kinds: Sequence[Any] = args
    else:
        kinds = [args[0] if args else Any] * len(value)
    return [complete(k, item, _in(where, i), faults) for i, (k, item) in enumerate(zip(kinds, value, strict=True))]


def _complete_union(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    member = member_of(kind, value)
    if member is not None:
        return complete(member, value, where, faults)
    rest = [one for one in get_args(kind) if one is not type(None)]
    if len(rest) == 1 and is_dataclass(rest[0]):
        return complete(rest[0], value, where, faults)
    faults.append(_not(value, kind, where))
    return value


def member_of(kind: Any, value: Any) -> Any:
    """The member of a union that a value is of: of the same type if there is one, else the first that takes it."""
    members = get_args(kind)
    for member in sorted(members, key=lambda one: one is not type(value)):
        faults: list[str] = []
        complete(member, value, "", faults)
        if not faults:
            return member
    return None


def _complete_dataclass(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    if not isinstance(value, dict):
        faults.append(_not(value, kind, where))
        return value
    hints, known = hints_of(kind), {item.name: item for item in fields(kind) if item.init}
    faults += [_unknown(name, known, where) for name in value if name not in known]
    result = {}
    for name, item in known.items():
        place = _in(where, name)
        if name in value:
            result[name] = complete(hints[name], value[name], place, faults)
        elif has_default(item):
            result[name] = complete(hints[name], plain(_default(item), place, faults), place, faults)
        else:
            faults.append(f"{place} is missing. Needed: {kind_text(hints[name])}")
    return {**result, **{name: item for name, item in value.items() if name not in known}}


def _unknown(name: str, known: Mapping[str, Any], where: str) -> str:
    if known:
        return unknown("field", name, known, where=where)
    return f"Unknown field {name!r} in {where}, which has none. Leave it out."


def has_default(item: Field[Any]) -> bool:
    return item.default is not MISSING or item.default_factory is not MISSING


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


# ---- complete JSON to objects


def make(kind: Any, value: Any, where: str, faults: list[str]) -> Any:
    """What a type makes of complete and sound JSON: dataclasses and tuples; everything else is a copy."""
    origin, args = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return _make_dataclass(kind, value, where, faults)
    if origin in (Union, types.UnionType):
        return make(member_of(kind, value), value, where, faults)
    if origin is tuple:
        kinds = [args[0] if args else Any] * len(value) if not args or args[-1] is Ellipsis else args
        return tuple(make(k, item, _in(where, i), faults) for i, (k, item) in enumerate(zip(kinds, value, strict=True)))
    if isinstance(value, list):
        return [make(args[0] if args else Any, item, _in(where, i), faults) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return {k: make(args[1] if len(args) == 2 else Any, item, _in(where, k), faults) for k, item in value.items()}
    return value


def faults_of_making(kind: Any, value: Any, where: str) -> list[str]:
    """What the dataclasses' own checks say of complete and sound JSON."""
    faults: list[str] = []
    make(kind, value, where, faults)
    return faults


def _make_dataclass(kind: Any, value: Mapping[str, Any], where: str, faults: list[str]) -> Any:
    hints, before = hints_of(kind), len(faults)
    parts = {name: make(hints[name], item, _in(where, name), faults) for name, item in value.items()}
    return call(kind, parts, where, faults) if len(faults) == before else None


def call(kind: Callable[..., T], parts: Mapping[str, Any], where: str, faults: list[str]) -> T | None:
    """What a dataclass makes of its fields; what its own check complains about is a fault."""
    try:
        return kind(**parts)
    except (LabError, ValueError, TypeError) as error:  # a check of its own
        faults.append(f"{where}: {error}" if where else str(error))
        return None


# ---- types themselves


def check_kind(kind: Any, *, where: str, paths: bool = False, outer: tuple[Any, ...] = ()) -> None:
    """Raises: UsageError: this is no type that can be checked.

    Args: paths: pathlib.Path is allowed. outer: the dataclasses that this one is a part of, which may be among them.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        for name, hint in hints_of(kind).items() if kind not in outer else ():
            check_kind(hint, where=f"{where}, field {name!r} of {kind.__name__}", outer=(*outer, kind))
        return
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin is Literal or (paths and kind is Path):
        return
    if origin not in (*_SCALARS, *_LISTS, *_DICTS, tuple, Any, object, Union, types.UnionType, None, type(None)):
        raise UsageError(
            f"{where} has the type {kind_text(kind)}, which JSON can't be checked against. Allowed: str, int, float, "
            "bool, None, list, dict, tuple, Any, Literal, unions of these, and dataclasses of them."
        )
    if origin in _DICTS and args and args[0] is not str:
        raise UsageError(f"{where} has the type {kind_text(kind)}. Allowed: objects whose names are str.")
    for one in args:
        if one is not Ellipsis:
            check_kind(one, where=where, outer=outer)


@lru_cache(maxsize=256)
def hints_of(kind: type) -> dict[str, Any]:
    """Type by name of a dataclass's fields. Raises: UsageError: an annotation names something that is not there."""
    try:
        hints = get_type_hints(kind)
    except Exception as error:
        raise UsageError(
            f"The annotations of {kind.__name__} can't be read: {error}. Its types must be names of its module."
        ) from error
    return {item.name: hints[item.name] for item in fields(kind) if item.init}  # type: ignore[arg-type]


def is_part(given: Any, wanted: Any) -> bool:
    """Whether every value of one type is of another, as far as the types themselves tell."""
    if given == wanted or wanted in (Any, object):
        return True
    if get_origin(wanted) in (Union, types.UnionType):
        parts = get_args(given) if get_origin(given) in (Union, types.UnionType) else (given,)
        return all(any(is_part(part, one) for one in get_args(wanted)) for part in parts)
    origin = dict if is_dataclass(given) else get_origin(given) or given
    if wanted in _DICTS:
        return origin in _DICTS
    if wanted in _LISTS:
        return origin in (*_LISTS, tuple)
    return given is int and wanted is float


def kind_text(kind: Any) -> str:
    """A type in words."""
    if is_dataclass(kind):
        return f"an object ({getattr(kind, '__name__', 'dataclass')})"
    origin, args = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(kind_text, args))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, args))
    word = _WORDS.get(list if origin is Sequence else dict if origin is Mapping else origin or type(None))
    return word or ("anything" if kind in (Any, object) else str(getattr(kind, "__name__", kind)))


def shown(value: Any) -> str:
    """A value for a message, bounded."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = SHOWN
    return brief.repr(value)


def _not(value: Any, kind: Any, where: str) -> str:
    return f"{where or 'it'} is {shown(value)}. Needed: {kind_text(kind)}"


def _in(where: str, name: object) -> str:
    return f"{where}.{name}" if where else str(name)
