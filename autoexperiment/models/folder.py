"""A model's folder: config.json and one .npy file for each array. What is read is not trusted."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from autoexperiment.datasets.base import TASKS, Facts, are_names
from autoexperiment.datasets.scaling import Scaling
from autoexperiment.errors import DataError
from autoexperiment.files import dump_json, load_json, open_plain
from autoexperiment.models.base import Array
from autoexperiment.models.parameters import is_whole

CONFIG = "config.json"
Write = Callable[[Any], object]  # to an open binary file
_KEYS = {"model", "params", "task", "row_shape", "n_classes", "classes", "scaling"}
_CONFIG_BYTES = 100_000_000  # means and deviations of a million features
_HEADER_BYTES = 1_000
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(rb"\{'descr': '([<>|=]?\w{1,4})', 'fortran_order': (False|True), 'shape': \(([0-9, ]*)\), \} *\n")


@dataclass(frozen=True)
class Saved:
    """What a model's config.json says. The parameters are not looked at yet."""

    model: str
    params: dict[str, Any]
    facts: Facts
    scaling: Scaling


def contents(config: Mapping[str, Any], arrays: Mapping[str, Array]) -> Iterator[tuple[str, Write]]:
    """A model's files: their names, with what writes each to an open binary file."""
    yield CONFIG, as_json(config)
    for name, array in arrays.items():
        yield f"{name}.npy", as_npy(array)


def as_json(value: Any) -> Write:
    return lambda file: file.write((dump_json(value) + "\n").encode())


def as_npy(array: Array) -> Write:
    return lambda file: np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)


def write(folder: Path, config: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write a model's files, config.json last. Not atomic: training/checkpoints.py makes folders whole or absent."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, write_to in reversed([*contents(config, arrays)]):
        with open(folder / name, "wb") as file:
            write_to(file)


def _open(path: Path) -> BinaryIO:
    try:
        return open_plain(path)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: this folder holds no whole model. Name a complete checkpoint.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. Needed: a plain file.") from error


def _load_config(path: Path) -> Any:
    with _open(path) as file:
        blob = file.read(_CONFIG_BYTES + 1)
    if len(blob) > _CONFIG_BYTES:
        raise DataError(f"{path} is longer than {_CONFIG_BYTES:,} bytes: it is no model's configuration.")
    try:
        return load_json(blob)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}. Name a complete checkpoint.") from error


def read_config(folder: Path) -> Saved:
    """
    Raises: DataError: the file is missing, or is not a model's configuration.
    """
    path = folder / CONFIG
    config = _load_config(path)
    if not isinstance(config, dict) or config.keys() != _KEYS:
        raise DataError(f"{path} is no model's configuration. Needed: {', '.join(sorted(_KEYS))}, and nothing else.")
    shape, n_classes, names = config["row_shape"], config["n_classes"], config["classes"]
    are_numbers = isinstance(shape, list) and len(shape) in (1, 3) and all(_is_size(size) for size in shape)
    are_words = isinstance(config["model"], str) and config["task"] in TASKS and isinstance(config["params"], dict)
    is_counted = is_whole(n_classes, least=0, most=2**31 - 1) and are_names(names) and len(names) in (0, n_classes)
    if not are_numbers or not are_words or not is_counted:
        raise DataError(f"{path} has a value of the wrong kind. The file is not one that this program wrote.")
    facts = Facts(config["task"], 0, tuple(shape), n_classes, classes=tuple(names))
    try:
        return Saved(config["model"], config["params"], facts, Scaling.from_json(config["scaling"], width=shape[-1]))
    except DataError as error:
        raise DataError(f"{path}: {error} The file is not one that this program wrote.") from error


def _is_size(value: object) -> bool:
    return is_whole(value, least=1, most=2**31 - 1)


def read_arrays(folder: Path, shapes: Mapping[str, tuple[int, ...]], *, dtype: Any) -> dict[str, Array]:
    """The arrays of these names.

    Raises: DataError: a file is missing, or is not exactly an array of its shape and of `dtype`, all finite.
    """
    return {name: _read_array(folder / f"{name}.npy", shape, np.dtype(dtype)) for name, shape in shapes.items()}


def _read_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    count = math.prod(shape)
    with _open(path) as file:
        _check_header(path, file, shape, dtype)
        size = os.fstat(file.fileno()).st_size - file.tell()
        if size != count * dtype.itemsize:
            raise DataError(f"{path} has {size} bytes of numbers. Needed: {count * dtype.itemsize}. It is damaged.")
        array = np.fromfile(file, dtype=dtype, count=count).reshape(shape)
    if not np.isfinite(array).all():
        raise DataError(f"{path} holds NaN or infinite numbers: the training diverged. Name an earlier checkpoint.")
    return array


def _check_header(path: Path, file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Read the header by a pattern: NumPy's reader evaluates it, and unpickles what it calls objects.

    Source: numpy.lib.format, version 1.0 of the format.
    """
    start = file.read(len(_MAGIC) + 2)
    length = int.from_bytes(start[-2:], "little")
    text = file.read(min(length, _HEADER_BYTES)) if start.startswith(_MAGIC) else b""
    match = _HEADER.fullmatch(text)
    if match is None or len(text) != length:
        raise DataError(f"{path} is no array of numbers in NumPy's format 1.0. It is damaged, or not ours.")
    descr, order, sizes = (part.decode() for part in match.groups())
    found = tuple(int(size) for size in sizes.split(",") if size.strip())
    if found != shape or descr != dtype.newbyteorder("<").str or (order == "True" and len(shape) > 1):
        raise DataError(f"{path} holds {descr} of shape {found}. Needed: {dtype.name} of shape {shape}, in C order.")
