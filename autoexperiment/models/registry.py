"""The models by name: what a configuration asks for, and what a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError, unknown
from autoexperiment.models import folder as folders
from autoexperiment.models.linear import LinearRegression
from autoexperiment.models.mlp import MLP
from autoexperiment.models.network import Network
from autoexperiment.models.resnet import ResNet

MODELS: dict[str, type[Network]] = {model.name: model for model in (LinearRegression, MLP, ResNet)}


def check(spec: Mapping[str, Any], facts: Facts) -> list[str]:
    """Why the model of a configuration cannot be trained on such data, one sentence or two each; MLX stays out.

    Args: spec: {"name": …, "params": {…}}, the "model" of a configuration.
    """
    name = str(spec["name"])
    return MODELS[name].faults(spec["params"], facts) if name in MODELS else [unknown("model", name, MODELS)]


def make(spec: Mapping[str, Any], facts: Facts) -> Network:
    """The model of a configuration, with its first values. Raises: DataError: `check` finds a fault."""
    name = str(spec["name"])
    if name not in MODELS:
        raise DataError(unknown("model", name, MODELS))
    return MODELS[name].build(spec["params"], facts)


def load(folder: str | Path) -> Network:
    """The model that `Network.save` or a checkpoint wrote to a folder.

    Raises: DataError: nothing sound is there; the message names the file.
    """
    name = folders.read_config(Path(folder)).model
    if name not in MODELS:
        raise DataError(unknown("model", name, MODELS, where=str(Path(folder) / folders.CONFIG)))
    return MODELS[name].saved(Path(folder))
