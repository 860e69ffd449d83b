"""Sessions as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from autoexperiment import breaker
from autoexperiment.files import lock_holder
from autoexperiment.ledger import PAID, VISIT, LedgerView, read_ledger
from autoexperiment.paths import ProjectPaths, SessionPaths
from autoexperiment.report import headline
from autoexperiment.session import breaker_state, require
from autoexperiment.summary import Line, Summary, cell, noise_word, summarise

STEP_LOG_TAIL = 2000


def load(root: Path, tag: str) -> tuple[Summary, LedgerView]:
    """A session's summary and ledger, read without its lock."""
    ledger = read_ledger(require(root, tag).ledger)
    return summarise(ledger.session, ledger.experiments), ledger


def plain(text: str) -> str:
    """Text of unknown origin for a terminal: one line, nothing that moves a cursor."""
    return "".join(c if c.isprintable() else " " for c in click.unstyle(text))


def step_fault(root: Path, tag: str) -> str:
    """Why the last background step gave up, or ""."""
    log = require(root, tag).step_log
    lines = log.read_bytes()[-STEP_LOG_TAIL:].decode(errors="replace").splitlines() if log.exists() else []
    faults = [line for line in lines if line.startswith("mlx: ")]
    return plain(faults[-1].removeprefix("mlx: ")) if faults else ""


def table(summary: Summary, lines: Sequence[Line]) -> str:
    """Some of a session's experiments, one line each."""
    from tabulate import tabulate

    rows = [
        (
            line.number, line.commit, cell(line.value, ".6f"), cell(line.gain, "+.6f"), noise_word(line),
            cell(line.tok_sec, ",.0f"), cell(line.memory_gb, ".2f"), line.runs, line.status, plain(line.description),
        )
        for line in lines
    ]  # fmt: skip
    heads = ("#", "commit", summary.metric, "gain", "noise", "tok/s", "GB", "runs", "status", "what was tried")
    levels = sorted({str(line.trust) for line in lines if line.trust})
    foot = f"\n{summary.metric} is {' or '.join(levels)}; tok/s is self_reported." if levels else ""
    return tabulate(rows, headers=heads, disable_numparse=True) + foot


def night(root: Path, tag: str) -> str:
    """What a night ends with: the table, then the sentence that sums it up."""
    summary, _ = load(root, tag)
    return f"{table(summary, summary.lines)}\n\n{headline(summary)}"


def one(line: Line, metric: str) -> str:
    """One experiment in one or two lines."""
    value = "no number" if line.value is None else f"{metric} {line.value:.6f} ({line.trust})"
    return f"[{line.number}] {line.commit} {line.status}: {value}, {plain(line.description)}\n    {plain(line.reason)}"


def status(root: Path, tag: str) -> dict[str, Any]:
    """A session's state as JSON-able facts."""
    summary, ledger = load(root, tag)
    project, start = ProjectPaths(root), ledger.session
    pid = lock_holder(project.lock)
    state: breaker.BreakerState = breaker_state(ledger)
    running = summary.lines[-1] if summary.lines and summary.lines[-1].status == "running" else None

    def number(line: Line | None) -> dict[str, Any] | None:
        if line is None:
            return None
        return {
            "experiment": line.number,
            "commit": line.commit,
            summary.metric: line.value,
            "trust": line.trust,
        }

    return {
        "tag": tag,
        "branch": start["branch"],
        "budget": start["budget"],
        "policy": start["policy"],
        "dataset": start["dataset"],
        "snapshot": start["snapshot"],
        "pid": pid,
        "activity": _activity(project.session(tag)) if pid is not None else None,
        "running": None
        if running is None or pid is None
        else {"experiment": running.number, "description": running.description},
        "is_recovery_due": running is not None and pid is None,
        "counts": summary.counts,
        "judged": len(summary.judged),
        "baseline": number(summary.baseline),
        "incumbent": number(summary.incumbent),
        "gain": summary.gain,
        "noise_sd": summary.noise,
        "agent": _agent(ledger),
        "breaker": {"open": state.open, "streak": state.streak, "reason": state.reason},
        "ledger": str(project.session(tag).ledger),
    }


def _activity(paths: SessionPaths) -> str | None:
    """What the night does between two experiments, in its own words."""
    try:
        return plain(paths.activity.read_text().strip()) or None
    except OSError:
        return None


def _agent(ledger: LedgerView) -> dict[str, Any] | None:
    """What the headless agents did so far, or None when there was none."""
    paid = [note for note in ledger.notes if note["what"] == PAID]
    if not paid:
        return None
    results = [note for note in ledger.notes if note["what"] == VISIT]
    costs = [note["cost_usd"] for note in paid if note["cost_usd"] is not None]
    last = {name: results[-1][name] for name in ("result", "reason", "time")} if results else None
    return {"name": paid[-1]["agent"], "visits": len(paid), "cost_usd": sum(costs) if costs else None, "last": last}


def _agent_text(agent: dict[str, Any] | None) -> str:
    if agent is None:
        return "none yet"
    price = "" if agent["cost_usd"] is None else f", ${agent['cost_usd']:.2f}"
    said = agent["last"] or {"result": "not looked at yet", "reason": ""}
    last = ". ".join(filter(None, (said["result"], plain(said["reason"]))))
    return f"{plain(agent['name'])}, {agent['visits']} visits{price}; the last: {last}"


def _budget(text: str) -> str:
    return "each until it ends by itself" if text == "whole" else f"{text} of training each"


def _data(state: dict[str, Any]) -> str:
    named = " ".join(filter(None, (state["dataset"], state["snapshot"])))
    return f"data {named}" if named else "data of the recipe's own"


def status_text(state: dict[str, Any]) -> str:
    """The same facts for a person."""
    running = state["running"]
    now = f"experiment {running['experiment']}: {plain(running['description'])}" if running else "nothing"
    if running is None and state["pid"]:
        now = state["activity"] or f"process {state['pid']} holds the session"
    if state["is_recovery_due"]:
        now = "nothing; the last process was killed, and the next command will mend that"
    counts = ", ".join(f"{n} {word}" for word, n in state["counts"].items())
    rows = [
        ("session", f"{state['tag']} on {state['branch']}"),
        (
            "runs",
            f"{_budget(state['budget'])}, policy {state['policy']}, {_data(state)}",
        ),
        ("now", now),
        ("judged", f"{state['judged']} ({counts})"),
        ("baseline", _point(state["baseline"])),
        ("incumbent", _point(state["incumbent"])),
        ("gain", cell(state["gain"], "+.6f")),
        ("noise", "" if state["noise_sd"] is None else f"sd {state['noise_sd']:.6f} over the baseline's runs"),
        ("agent", _agent_text(state["agent"])),
        ("breaker", f"open: {state['breaker']['reason']}" if state["breaker"]["open"] else "closed"),
        ("ledger", state["ledger"]),
    ]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _point(point: dict[str, Any] | None) -> str:
    if point is None:
        return "not measured yet"
    return ", ".join(f"{name} {value}" for name, value in point.items() if value is not None)
