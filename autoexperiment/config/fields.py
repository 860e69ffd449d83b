"""The types of a configuration's fields: strict, bounded, and each with the words that say what it needs."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WrapValidator
from pydantic_core import PydanticCustomError

from autoexperiment.paths import LOOP_EXPERIMENT, OutputPaths

NEEDS, RULE = "needs", "rule"  # kinds of fault of our own, beside pydantic's; see faults.py
MOST = 1_000_000_000
MOST_SEED = 2**63 - 1
LEAST_NUMBER, MOST_NUMBER = 1e-30, 1e30  # what float32 holds with room for its squares' roots
MOST_SPREAD = 1e15  # of generated data: times a billion classes, or 10 deviations, it still fits a float32
MOST_TEXT = 10_000
MOST_PATH = 1024
TABLE_SUFFIXES = (".csv", ".npy", ".npz", ".parquet")

# `$(?!\n)`: in Python's own reading `$` stands before a last newline as well; a schema has no other end mark.
NAME = rf"^(?!{LOOP_EXPERIMENT})[A-Za-z0-9](?:[A-Za-z0-9._-]{{0,98}}[A-Za-z0-9_-])?$(?!\n)"
LOADER = r"^[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*$(?!\n)"
URL = r"^https?://[!-~]+$(?!\n)"
SHA256 = r"^[0-9A-Fa-f]{64}$(?!\n)"
_DEVICES = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)  # Windows opens them as devices
_UNPORTABLE = re.compile(r'[\\:*?"<>|]')
_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
_INDEX = OutputPaths(Path()).index.name
# what a terminal acts on, half characters, and what turns the direction of writing
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@contextmanager
def without_plugins() -> Iterator[None]:
    """While pydantic builds its validators, let it not look for plugins: that reads every installed package (30 ms)."""
    before = os.environ.get(_PLUGINS)
    os.environ[_PLUGINS] = "__all__"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PLUGINS]
        else:
            os.environ[_PLUGINS] = before


class Section(BaseModel):
    """A closed object: an unknown key is a fault, nothing is converted, and nothing changes afterwards."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, validate_default=True,
        hide_input_in_errors=True, defer_build=True,
    )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The whole section as JSON: what was given, and every default."""
        with without_plugins():
            return self.model_dump(mode="json")

    def given(self) -> dict[str, Any]:
        """What was written, without the defaults."""
        with without_plugins():
            return self.model_dump(mode="json", exclude_unset=True)


def needs(text: str, allowed: str = "", *, is_number: bool = False) -> WrapValidator:
    """Whatever is wrong with a value, the fault says: must be `text`; and, if given, what is allowed."""

    def validator(value: Any, check: Callable[[Any], Any]) -> Any:
        try:
            return check(value)
        except ValidationError as error:
            found = error.errors(include_url=False)
            if any(fault["type"] == RULE or isinstance((*fault["loc"], "")[0], int) for fault in found):
                raise  # a rule, or an item of a list: these have words of their own
            raise PydanticCustomError(
                NEEDS, "{text}", {"text": text, "allowed": allowed, "is_number": is_number}
            ) from None

    return WrapValidator(validator)


needs_number = partial(needs, is_number=True)


def broken(rule: str) -> PydanticCustomError:
    """The fault of a value that fits its type and breaks a rule; `rule` is the whole sentence."""
    return PydanticCustomError(RULE, "{text}", {"text": rule})


def _whole(value: Any) -> Any:
    """10.0 and 1e3 are whole numbers, as they are for JSON Schema; above 2^53 a float has lost digits."""
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value


def _schema(**keys: str) -> Any:
    return Field(json_schema_extra=dict(keys))


def _shaped(pattern: str) -> AfterValidator:
    def validator(text: str) -> str:
        if not re.match(pattern, text):
            raise ValueError("not of the right form")  # `needs` around it has the words
        return text

    return AfterValidator(validator)


def check_name(name: str) -> str:
    """An experiment's name, safe as a folder on every file system."""
    if name.lower().startswith(LOOP_EXPERIMENT):
        raise broken(f"Invalid value for 'name': {LOOP_EXPERIMENT!r} begins the names of the loop's own runs")
    if not re.match(NAME, name):
        raise ValueError("not a name")
    if _DEVICES.fullmatch(name):
        raise broken(f"Invalid value for 'name': {name!r} is a device on Windows, and no folder can have its name")
    if name.lower().startswith(_INDEX):
        raise broken(f"Invalid value for 'name': {name!r}: {_INDEX} is the history's file beside the experiments")
    return name


def check_directory(directory: str) -> str:
    """`output.directory`: relative, inside the workspace as far as its text tells; see output.py for links."""
    if fault := _fault_of_directory(directory):
        raise broken(f"Invalid value for 'directory': {fault}")
    return directory


def _fault_of_directory(directory: str) -> str:
    shown = repr(directory[:60])
    if not directory or len(directory) > MOST_PATH or _HIDDEN.search(directory):
        return f"must be a folder's path of 1 to {MOST_PATH} printable characters. For example: outputs"
    if directory.startswith(("/", "~")) or _UNPORTABLE.search(directory):
        return (
            f"{shown} is not a path relative to the workspace's root that every system allows. "
            "Absolute paths, '~', backslashes and : * ? \" < > | are refused. For example: outputs"
        )
    depth = 0
    for part in PurePosixPath(directory).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return (
                f"{shown} resolves outside the workspace. Output paths must lie within its root. For example: outputs"
            )
        if part != ".." and (part.lower() == ".git" or part[-1] in " ." or _DEVICES.fullmatch(part)):
            return f"{shown} has the part {part!r}, which is no name for a folder of outputs. For example: outputs"
    return ""


def check_path(path: str) -> str:
    """`dataset.path`: relative to the workspace's root, or absolute; whether it is there is the dataset's question."""
    if not path or len(path) > MOST_PATH or _HIDDEN.search(path):
        raise ValueError("not a path")
    if path.startswith("~"):
        raise broken(f"Invalid value for 'path': {path[:60]!r} begins with '~', which only a shell replaces. Write the "
                     "whole path, or one relative to the workspace's root")  # fmt: skip
    return path


def check_table_path(path: str) -> str:
    """The path of a file that the custom dataset reads, or of a folder: no suffix, or a slash at the end."""
    suffix = PurePosixPath(path).suffix
    if not is_folder(path) and suffix.lower() not in TABLE_SUFFIXES:
        raise broken(
            f"Invalid value for 'path': files of type {suffix[:20]!r} are not read. Supported: {', '.join(TABLE_SUFFIXES)}, "
            "or a folder. For anything else give a 'loader'"
        )
    return path


def is_folder(path: str) -> bool:
    """Whether the path of a table is one of a folder, as far as its text tells."""
    return path.endswith("/") or not PurePosixPath(path).suffix


def check_text(text: str) -> str:
    """Text for people, of several lines: nothing in it that a terminal acts on."""
    if _HIDDEN.search(text.replace("\n", "").replace("\t", "")):
        raise ValueError("not printable")
    return text


def check_json(value: Any, depth: int = 64) -> Any:
    """What a custom dataset's class is given: JSON at every depth, so without NaN and infinity."""
    if isinstance(value, (dict, list)) and depth:
        for item in value.values() if isinstance(value, dict) else value:
            check_json(item, depth - 1)
        if all(isinstance(key, str) for key in value) or isinstance(value, list):
            return value
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError("not JSON")


PositiveInteger = Annotated[
    int, Field(ge=1, le=MOST), BeforeValidator(_whole), needs_number("positive integer", f"1 to {MOST}")
]  # fmt: skip
ClassCount = Annotated[int, Field(ge=2, le=MOST), BeforeValidator(_whole), needs_number("integer >= 2", f"2 to {MOST}")]
Informative = Annotated[
    Annotated[int, Field(ge=1, le=MOST), BeforeValidator(_whole)] | None,
    needs_number("positive integer", f"1 to {MOST}, or null for all features"),
]
Seed = Annotated[
    int, Field(ge=0, le=MOST_SEED), BeforeValidator(_whole), needs_number("non-negative integer", f"0 to {MOST_SEED}")
]
LayerSize = Annotated[
    int, Field(ge=1, le=1_000_000), BeforeValidator(_whole), needs_number("positive integer", "1 to 1000000")
]  # fmt: skip
Width = Annotated[int, Field(ge=1, le=4096), BeforeValidator(_whole), needs_number("positive integer", "1 to 4096")]
PositiveNumber = Annotated[
    float,
    Field(ge=LEAST_NUMBER, le=MOST_NUMBER),
    needs_number("positive number", f"{LEAST_NUMBER:g} to {MOST_NUMBER:g}"),
]
NonNegative = Annotated[
    float, Field(ge=0, le=MOST_NUMBER), needs_number("non-negative number", f"0 to {MOST_NUMBER:g}")
]  # fmt: skip
Deviation = Annotated[
    float, Field(ge=0, le=MOST_SPREAD), needs_number("non-negative number", f"0 to {MOST_SPREAD:g}")
]  # fmt: skip
Distance = Annotated[
    float,
    Field(ge=LEAST_NUMBER, le=MOST_SPREAD),
    needs_number("positive number", f"{LEAST_NUMBER:g} to {MOST_SPREAD:g}"),
]
Fraction = Annotated[float, Field(ge=0, lt=1), needs_number("number from 0 to below 1", "for example 0.1")]
Seconds = Annotated[
    Annotated[float, Field(gt=0, le=MOST)] | None,
    needs_number("positive number of seconds", f"above 0 to {MOST}, or null for no limit"),
]
Name = Annotated[
    str, AfterValidator(check_name), _schema(pattern=NAME),
    needs("usable as a folder's name",
          "1 to 100 letters, digits, '.', '_' and '-'; a letter or digit first, no '.' last"),
]  # fmt: skip
Text = Annotated[
    str, Field(max_length=MOST_TEXT), AfterValidator(check_text), needs(f"text of at most {MOST_TEXT} printable characters")
]  # fmt: skip
Directory = Annotated[
    str, AfterValidator(check_directory), _schema(pattern=r'^(?![/~])[^\\:*?"<>|\u0000-\u001f]+$(?!\n)')
]  # fmt: skip
DataPath = Annotated[
    str, Field(min_length=1), AfterValidator(check_path), needs(f"a path of 1 to {MOST_PATH} printable characters")
]  # fmt: skip
TablePath = Annotated[DataPath, AfterValidator(check_table_path)]
Loader = Annotated[
    str, _shaped(LOADER), _schema(pattern=LOADER),
    needs("module:Class", "the name of an importable module and of a class in it, for example my_data:Prices"),
]  # fmt: skip
Url = Annotated[
    str, Field(max_length=2048), _shaped(URL), _schema(pattern=URL), needs("an http or https address", "")
]  # fmt: skip
Sha256 = Annotated[
    str, _shaped(SHA256), AfterValidator(str.lower), _schema(pattern=SHA256),
    needs("a SHA-256: 64 digits 0-9 a-f", "what `sha256sum FILE` prints"),
]  # fmt: skip
Column = Annotated[
    Annotated[int, Field(ge=0, le=MOST)] | Annotated[str, Field(min_length=1, max_length=MOST_TEXT)] | None,
    needs("a column's name or number", "text, a number from 0, or null for the last column"),
]
