"""Other people's dashboards: a sweep's points shown in Trackio, Weights & Biases, MLflow or TensorBoard."""

from autoexperiment.trackers.base import TRACKERS
from autoexperiment.trackers.export import FORMATS, export
from autoexperiment.trackers.tracker import Tracker, make_tracker

__all__ = ["FORMATS", "TRACKERS", "Tracker", "export", "make_tracker"]
