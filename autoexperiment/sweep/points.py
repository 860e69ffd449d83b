"""Points of a sweep: what is to be run, what came out, and the identity by which nothing is run twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from autoexperiment.dotpaths import canonical
from autoexperiment.failure import clean
from autoexperiment.vocabulary import RunStatus

KEY_DIGITS = 20
LONGEST_REASON = 1000
LONGEST_METRICS = 6000  # characters: a record of the book has room for twice that
LONGEST_PARAMS = 4000


def key_of(kind: str, identity: Mapping[str, Any]) -> str:
    """The identity hash of a point: 20 hex digits of the SHA-256 of all that decides what comes out.

    Raises: ValueError: a value is not JSON, or is NaN or infinite.
    """
    return hashlib.sha256(canonical([kind, identity]).encode()).hexdigest()[:KEY_DIGITS]


def finite(value: float | None) -> float | None:
    """A number that a float can hold, or None."""
    try:
        return value if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number of more than 308 digits
        return None


@dataclass(frozen=True)
class Point:
    """One process to run: the values of a trial, and one seed.

    Attributes:
        number: from 1, in the order in which points were asked for.
        trial: from 1; points of one trial differ in their seed only.
        params: value by dot path.
        seed: the replicate's; None: the configuration's own.
        config: the whole configuration: base, params and seed put together.
        key: identity hash; two points with one key are the same point.
        rung: of successive halving, from 0.
    """

    number: int
    trial: int
    params: Mapping[str, Any]
    seed: int | None
    config: Mapping[str, Any]
    key: str
    rung: int = 0


@dataclass(frozen=True)
class Order:
    """A point together with all that a process on any machine needs to run it; plain JSON.

    Attributes:
        kind: which work it is: a name in `work.WORKS`.
        root: the workspace: where relative paths start.
        folder: the sweep's folder of runs, below the root's outputs.
        timeout_s: when the point's process is killed; None: never.
        threads: BLAS threads of the point's process; None: as usual.
        is_retry: run it again if it failed before.
        options: what else the kind of work needs.
    """

    kind: str
    point: Point
    root: str
    folder: str
    timeout_s: float | None = None
    threads: int | None = None
    is_retry: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Order:
        return cls(**{**value, "point": Point(**value["point"])})


@dataclass(frozen=True)
class Result:
    """How a point ended.

    Attributes:
        metrics: numbers by name; None for one that is not finite. Empty when it failed.
        trust: how each metric was obtained: a word of `vocabulary.TrustLevel`.
        reason: why it was not completed, one sentence.
        run_dir: the run's folder, relative to the root; "" when none was made.
        seconds: wall time.
    """

    status: RunStatus
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    trust: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    run_dir: str = ""
    seconds: float = 0.0

    def sound(self) -> Result:
        """This result as it can be kept: bounded, and without NaN and infinity."""
        kept = {name: finite(value) for name, value in self.metrics.items()}
        found = replace(self, metrics=kept, reason=clean(self.reason, LONGEST_REASON))
        if len(json.dumps([kept, dict(self.trust)])) <= LONGEST_METRICS:
            return found
        reason = f"It gave {len(kept)} metrics, which are more than {LONGEST_METRICS} characters. Give fewer."
        return replace(found, status=RunStatus.FAILED, metrics={}, trust={}, reason=reason)

    @property
    def is_ok(self) -> bool:
        return self.status is RunStatus.COMPLETED

    def to_json(self) -> dict[str, Any]:
        # not asdict, which copies every value on its own: most of the time that 10,000 rows took
        return {**vars(self), "metrics": dict(self.metrics), "trust": dict(self.trust)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Result:
        return cls(**{**value, "status": RunStatus(value["status"])})
