"""`--set a.b=v`: values from the command line in place of those in the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from autoexperiment.config.source import Malformed, plain_scalar, printable

_YAML_ONLY = tuple("[{\"'&*!|>%@`?#-,")  # what a value cannot begin with and yet be plain text or a number


@dataclass(frozen=True)
class Override:
    """One `--set`. `text`: as it was typed."""

    text: str
    path: tuple[str, ...]
    value: Any

    @property
    def place(self) -> str:
        return f"--set {printable(self.text, 100)}"

    def concerns(self, place: Sequence[str | int]) -> bool:
        """Whether a place is what was set, part of it, or around it."""
        count = min(len(place), len(self.path))
        return count > 0 and tuple(map(str, place[:count])) == self.path[:count]


def read_override(text: str) -> Override:
    """`training.epochs=3`. The value is read as YAML is: `1e-3`, `true`, `null`, `[10, 5, 1]`, or text.

    Raises: Malformed: there is no `=`, no name before it, or the value is not YAML.
    """
    name, equals, value = text.partition("=")
    path = tuple(name.strip().split("."))
    if not equals or not all(path):
        raise Malformed("is not of the form name=value. For example: --set training.epochs=3")
    return Override(text, path, _value(value.strip()))


def _value(text: str) -> Any:
    number = plain_scalar(text)
    is_plain = not text.startswith(_YAML_ONLY) and ": " not in text and " #" not in text and not text.endswith(":")
    if not isinstance(number, str) or (is_plain and text.isprintable()):
        return number
    from autoexperiment.config.yaml_source import read_yaml

    node, faults = read_yaml(text)
    if faults:
        raise Malformed(faults[0][1])
    return node.value


def apply(override: Override, value: Any) -> Any:
    """A copy of a configuration in which one value is set; objects that are missing on the way to it are made.

    Raises: Malformed: the way leads through something that is no object and no list, or past a list's end.
    """
    if not isinstance(value, dict):
        return value  # no configuration at all: that is said of it elsewhere
    return _set(value, override.path, override.value)


def _set(inside: Any, path: tuple[str, ...], value: Any) -> Any:
    if not path:
        return value
    name, rest = path[0], path[1:]
    if inside is None or isinstance(inside, dict):
        inside = inside or {}
        return {**inside, name: _set(inside.get(name), rest, value)}
    if not isinstance(inside, list):
        raise Malformed(f"sets {name!r} inside of {printable(repr(inside), 60)}, which is no object and no list")
    if not name.isdecimal() or not name.isascii() or len(name) > 9 or int(name) >= len(inside):
        raise Malformed(f"names {name!r} in a list of {len(inside)} items. Allowed: 0 to {len(inside) - 1}")
    at = int(name)
    return [*inside[:at], _set(inside[at], rest, value), *inside[at + 1 :]]
