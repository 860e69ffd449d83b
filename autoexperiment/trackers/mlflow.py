"""MLflow, in an SQLite file of the sweep's own, or wherever the option `uri` points to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoexperiment.trackers.base import Run, cleaned

KEY_LIMIT = 240  # of 250: some is left for telling names apart
NAME_LIMIT = 500
METRICS_AT_ONCE = 1000  # of one call, as the three limits of mlflow.utils.validation
PARAMS_AT_ONCE = 100
POINT_TAG = "autoexperiment.point"


class Adapter:
    """One experiment for the sweep, in it one run for each point."""

    def __init__(self, folder: Path, *, project: str, options: Mapping[str, str]) -> None:
        os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", GIT_PYTHON_REFRESH="quiet")
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._client: Any = MlflowClient(tracking_uri=options.get("uri") or f"sqlite:///{folder.resolve()}/mlflow.db")
        self._experiment = self._open(
            project[:NAME_LIMIT], None if "uri" in options else folder.resolve() / "artifacts"
        )

    def _open(self, project: str, artifacts: Path | None) -> str:
        if there := self._client.get_experiment_by_name(project):
            return str(there.experiment_id)
        place = None if artifacts is None else artifacts.as_uri()
        return str(self._client.create_experiment(project, artifact_location=place))

    def log(self, run: Run) -> None:
        self._remove(run.identity)
        end = round(time.time() * 1000)
        tags = {POINT_TAG: run.identity, **cleaned(run.facts, _key)}
        made = self._client.create_run(
            self._experiment,
            start_time=end - round(run.seconds * 1000),
            run_name=run.name,
            tags={name: str(value) for name, value in tags.items()},
        )
        self._log(made.info.run_id, run, end)
        self._client.set_terminated(made.info.run_id, "FINISHED" if run.is_ok else "FAILED", end_time=end)

    def _log(self, run_id: str, run: Run, end: int) -> None:
        params = [self._param(name, str(value)) for name, value in cleaned(run.params, _key).items()]
        for start in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_AT_ONCE])
        metrics = [self._metric(name, value, end, 0) for name, value in cleaned(run.metrics, _key).items()]
        metrics += [
            self._metric(name, value, end, step)
            for step, values in run.series
            for name, value in cleaned(values, _key).items()
        ]
        for start in range(0, len(metrics), METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=metrics[start : start + METRICS_AT_ONCE])

    def _remove(self, identity: str) -> None:
        for rest in self._client.search_runs([self._experiment], f"tags.`{POINT_TAG}` = '{identity}'"):
            self._client.delete_run(rest.info.run_id)

    def close(self) -> None:
        """Nothing is kept open."""


def _key(text: str) -> str:
    """What MLflow takes as a name: a path in normal form of letters, digits and a few signs."""
    parts = re.sub(r"[^/\w.\- :]", "_", text).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))[:KEY_LIMIT].rstrip("/") or "unnamed"
