"""TensorBoard's event files, written by tensorboardX, which needs neither TensorFlow nor TensorBoard."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment.trackers.base import Run, cleaned

NAME_LIMIT = 120


class Adapter:
    """A folder of event files for each point, with its parameters for the page of hyperparameters."""

    def __init__(self, folder: Path, *, project: str, options: Mapping[str, str]) -> None:
        import tensorboardX

        self._library: Any = tensorboardX
        self._folder = folder

    def log(self, run: Run) -> None:
        folder = self._folder / _folder(run.name)
        if folder.exists():
            shutil.rmtree(folder)
        metrics = cleaned(run.metrics, _tag)
        with self._library.SummaryWriter(logdir=str(folder)) as writer:
            for summary in self._hparams(run, metrics):
                writer.file_writer.add_summary(summary)
            for step, values in run.series:
                for name, value in cleaned(values, _tag).items():
                    writer.add_scalar(name, value, step)
            for name, value in metrics.items():
                writer.add_scalar(name, value, 0)

    def _hparams(self, run: Run, metrics: Mapping[str, float]) -> tuple[Any, Any, Any]:
        values = cleaned({**run.params, **run.facts}, _tag)
        experiment, start, end = self._library.summary.hparams(values, metrics)
        if not run.is_ok:
            _set_failed(end)
        return experiment, start, end

    def close(self) -> None:
        """Nothing is kept open."""


def _set_failed(end: Any) -> None:
    """The library writes success into the summary of a session's end, whatever happened."""
    from tensorboardX.proto.api_pb2 import Status
    from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

    kept = end.value[0].metadata.plugin_data
    content = HParamsPluginData.FromString(kept.content)
    content.session_end_info.status = Status.Value("STATUS_FAILURE")
    kept.content = content.SerializeToString()


def _folder(name: str) -> str:
    return re.sub(r"[^\w.-]", "_", name)[:NAME_LIMIT].lstrip(".") or "run"


def _tag(text: str) -> str:
    """What tensorboardX takes as a name without changing it."""
    return re.sub(r"[^-/\w.]", "_", text).lstrip("/") or "unnamed"
