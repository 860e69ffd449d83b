"""The closed word lists: what can happen to a run, what can be decided, how a number was obtained."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What happened to a run: a fact, measured by the supervisor or the scorer."""

    OK = "ok"
    CRASHED = "crashed"  # the process ended with an error of its own
    OOM = "oom"  # it ran out of memory
    DIVERGED = "diverged"  # the loss became NaN, infinite or absurd
    TIMED_OUT = "timed_out"  # the hard timeout killed it
    INTERRUPTED = "interrupted"  # we, the user or the machine stopped it: says nothing about the candidate
    REJECTED = "rejected"  # it ended, but its number cannot be believed


class RunStatus(StrEnum):
    """How far a run has come, in `summary.json` and the history's index."""

    RUNNING = "running"
    COMPLETED = "completed"
    INTERRUPTED = "interrupted"  # stopped or killed; it may be resumed
    DIVERGED = "diverged"  # its loss became NaN or infinite
    TIMED_OUT = "timed_out"
    FAILED = "failed"

    @classmethod
    def of(cls, outcome: Outcome) -> RunStatus:
        """The status of a run that has ended."""
        same = {
            Outcome.OK: cls.COMPLETED,
            Outcome.INTERRUPTED: cls.INTERRUPTED,
            Outcome.DIVERGED: cls.DIVERGED,
            Outcome.TIMED_OUT: cls.TIMED_OUT,
        }
        return same.get(outcome, cls.FAILED)


class Verdict(StrEnum):
    """What was decided about a candidate: a judgement, computed by code."""

    KEEP = "keep"
    DISCARD = "discard"
    CRASH = "crash"


class Goal(StrEnum):
    """Which direction of a metric is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"


class TrustLevel(StrEnum):
    """How a number was obtained, weakest first; printed next to every number."""

    SELF_REPORTED = "self_reported"  # printed or written by the code under test
    RECOMPUTED = "recomputed"  # a separate process computed it from the candidate's logits
    MEASURED = "measured"  # taken from outside the process: clocks, memory, CPU time
