"""Weights & Biases, offline unless the user has said otherwise, and Trackio, whose functions are called alike."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment.trackers.base import Run, Scalar, cleaned

NAME_LIMIT = 128
KEY_LIMIT = 200
TRACKIO_ELSEWHERE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")
TRACKIO_RESERVED = {"project", "run", "timestamp", "step", "time", "metrics"}


def _name(text: str) -> str:
    """A project, a run or a group: none of the characters that W&B refuses, and no longer than it takes."""
    return re.sub(r"[/\\#?%:\s]+", "-", text).strip("-")[:NAME_LIMIT] or "sweep"


def _key(text: str) -> str:
    """A parameter or a metric: names with an underscore in front are the library's own."""
    return "".join(c if c.isprintable() else "_" for c in text).lstrip("_")[:KEY_LIMIT] or "unnamed"


def _config(run: Run) -> dict[str, Scalar]:
    return cleaned({**run.params, **run.facts}, _key)


class WandbAdapter:
    """One offline run for each point, as a folder that `wandb sync` can send later."""

    def __init__(self, folder: Path, *, project: str, options: Mapping[str, str]) -> None:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.update(WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
        for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
            os.environ.setdefault(name, str(folder / "cache"))
        import wandb

        self._wandb: Any = wandb
        self._folder = folder
        self._project = _name(project)
        self._settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )

    def log(self, run: Run) -> None:
        for rest in self._folder.glob(f"wandb/*run-*-{run.identity}"):
            shutil.rmtree(rest)
        kept = self._wandb.init(
            project=self._project,
            id=run.identity,
            name=_name(run.name),
            group=_name(run.sweep),
            dir=str(self._folder),
            config=_config(run),
            settings=self._settings,
        )
        for step, values in run.series:
            kept.log(cleaned(values, _key), step=step)
        kept.summary.update(cleaned(run.metrics, _key))
        kept.finish(exit_code=0 if run.is_ok else 1)

    def close(self) -> None:
        self._wandb.teardown()


class TrackioAdapter:
    """One run for each point in an SQLite file of the sweep's own. Nothing is sent to a Space or a server."""

    def __init__(self, folder: Path, *, project: str, options: Mapping[str, str]) -> None:
        for name in TRACKIO_ELSEWHERE:
            os.environ.pop(name, None)
        os.environ.update(TRACKIO_DIR=str(folder), HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
        import trackio

        self._trackio: Any = trackio
        self._project = re.sub(r"[^A-Za-z0-9_-]+", "-", project).strip("-")[:NAME_LIMIT] or "sweep"

    def log(self, run: Run) -> None:
        name = _name(run.name)
        self._remove(name)
        kept = self._trackio.init(
            project=self._project,
            name=name,
            group=_name(run.sweep),
            config=_config(run),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        for step, values in run.series:
            kept.log(cleaned(values, _key), step=step)
        last = max((step for step, _ in run.series), default=0)
        kept.log(cleaned(run.metrics, _trackio_key), step=last)
        self._trackio.finish()
        if not self._there(name):  # the library only warns of what it can't write
            raise OSError(f"Trackio did not keep the run {name}")

    def _there(self, name: str) -> list[Any]:
        try:
            return [run for run in self._trackio.Api().runs(self._project) if run.name == name]
        except ValueError:  # there is no such project yet
            return []

    def _remove(self, name: str) -> None:
        for run in self._there(name):
            run.delete()

    def close(self) -> None:
        """Nothing is kept open."""


def _trackio_key(text: str) -> str:
    key = _key(text)
    return f"{key}_" if key in TRACKIO_RESERVED else key
