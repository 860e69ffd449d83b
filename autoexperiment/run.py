"""One run: one process, one seed, immutable once written. `run.json` has this one writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoexperiment.files import read_json, write_json
from autoexperiment.paths import RunPaths
from autoexperiment.vocabulary import Outcome, TrustLevel

VERSION = 1


@dataclass(frozen=True)
class Run:
    """What happened when a candidate was trained once and scored.

    Attributes:
        metrics: finite numbers by name; a number that could not be measured has no entry.
        trust: how each metric was obtained, by the same names.
        ending: the supervisor's account of the process (`supervisor.Ending.to_json`).
        evaluation: the sealed evaluation's account; empty when there was none.
        provenance: commit, hashes, budget, device and data snapshot.
    """

    outcome: Outcome
    reason: str
    seed: int | None
    metrics: dict[str, float] = field(default_factory=dict)
    trust: dict[str, TrustLevel] = field(default_factory=dict)
    ending: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def save(self, paths: RunPaths) -> None:
        write_json(paths.record, {"version": VERSION, **vars(self)})

    @classmethod
    def load(cls, paths: RunPaths) -> Run:
        value = read_json(paths.record)
        value.pop("version")
        trust = {name: TrustLevel(level) for name, level in value.pop("trust").items()}
        return cls(**{**value, "outcome": Outcome(value["outcome"]), "trust": trust})
