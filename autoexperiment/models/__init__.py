"""The models that the experiment harness trains. A name is imported when it is first used: MLX takes a while."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoexperiment.models.base import Model
    from autoexperiment.models.linear import LinearRegression
    from autoexperiment.models.mlp import MLP
    from autoexperiment.models.network import Network
    from autoexperiment.models.registry import check, load, make
    from autoexperiment.models.resnet import ResNet

__all__ = ["MLP", "LinearRegression", "Model", "Network", "ResNet", "check", "load", "make"]

_HOME = {
    "Model": "base",
    "Network": "network",
    "LinearRegression": "linear",
    "MLP": "mlp",
    "ResNet": "resnet",
    "check": "registry",
    "load": "registry",
    "make": "registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
