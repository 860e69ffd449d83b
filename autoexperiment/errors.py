"""Every failure that a caller can act on, one class each.

A message says what is wrong (with the value and where), what is allowed, and what to type next.

    LabError
      UsageError          wrong words on a command line or in a file     exit 2
      HarnessError        a configuration, a dataset or a run directory  exit 1
        ConfigError       a configuration has faults, all named at once
        DataError         a dataset is not there, not sound, or does not fit
        TookTooLong       a process was ended because its time was over
      Refused             the request would break an invariant           exit 1
        LedgerCorrupt     a record in the middle of a ledger is damaged
        Locked            another process holds the session
      BreakerOpen         the circuit breaker stopped the session        exit 3
      BudgetSpent         the session's own limit is reached             exit 4
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(Exception):
    """A failure with a message meant for the user; never shown with a traceback."""

    exit_code = 1
    label = "mlx"  # what stands before the message on a terminal


class UsageError(LabError):
    """The words typed, or a value in a file, are not allowed."""

    exit_code = 2


class HarnessError(LabError):
    """A configuration, a dataset or a run directory is not what `run-experiment` or `eval` needs."""

    label = "Error"


class ConfigError(HarnessError):
    """A configuration has faults; the message names all of them."""


class DataError(HarnessError):
    """A dataset is not there, not sound, or does not fit what is asked of it."""


class TookTooLong(HarnessError):
    """A process of the harness was ended because its time was over."""


class Refused(LabError):
    """Doing what was asked would break an invariant or lose something."""


class LedgerCorrupt(Refused):
    """A ledger record before the last one fails its check; nothing was rewritten."""


class Locked(Refused):
    """Another live process holds the lock."""


class BreakerOpen(LabError):
    """The circuit breaker is open: going on would repeat the same failure."""

    exit_code = 3


class BudgetSpent(LabError):
    """The session's limit (experiments, hours) is reached."""

    exit_code = 4


def unknown(kind: str, word: str, known: Iterable[str], *, where: str = "") -> str:
    """Message for a word that is not in a closed list, with the list and the nearest match."""
    words = [str(k) for k in known]
    place = f" in {where}" if where else ""
    message = f"Unknown {kind} {word!r}{place}. Known: {', '.join(words)}."
    near = difflib.get_close_matches(word, words, n=1)
    return f"{message} Did you mean {near[0]!r}?" if near else message
