"""An experiment's configuration: JSON or YAML, checked whole, with every default in one place."""

from __future__ import annotations

from autoexperiment.config.document import ExperimentConfig
from autoexperiment.config.loader import ConfigLoader

__all__ = ["ConfigLoader", "ExperimentConfig"]
