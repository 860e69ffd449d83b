"""Runs as text for a terminal. What stands in run directories is data, and is shown as such."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autoexperiment import history
from autoexperiment.files import dump_json
from autoexperiment.history import Entry

HEADLINES = ("val_bpb", "loss", "val_loss", "accuracy", "val_accuracy")
TEXT_LIMIT = 200
MOST_LINES = 100  # of a configuration, of checkpoints, or of evaluations
NONE = "-"


def plain(text: str) -> str:
    """Text of unknown origin: one line, nothing that moves a cursor."""
    if len(text) <= TEXT_LIMIT and text.isascii() and text.isprintable():
        return text
    from autoexperiment import untrusted

    return untrusted.line(text, TEXT_LIMIT)


def shown(value: Any) -> str:
    """A number as people read it; other values as JSON."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if value is None:
        return NONE
    return plain(value if isinstance(value, str) else dump_json(value, indent=None))


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells under each other; the last column is not filled up. (Ten thousand rows, in a few milliseconds.)"""
    rows = list(rows)
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[:-1]]
    template = "  ".join([f"{{:<{width}}}" for width in widths] + ["{}"])
    return "\n".join(template.format(*row).rstrip() for row in rows)


def _headline(metrics: Mapping[str, float | None]) -> str:
    """The metrics that stand in a list."""
    found = [f"{name} {shown(metrics[name])}" for name in HEADLINES if name in metrics]
    others = [] if found else [name for name in metrics if name != "epoch"][:1]
    return ", ".join(found or [f"{plain(name)} {shown(metrics[name])}" for name in others]) or NONE


def row(run: Entry) -> tuple[str, ...]:
    when = run["created_at"][:19].replace("T", " ")
    metrics = run["final_metrics"] or {}
    return (plain(run["experiment"]), run["timestamp"], run["status"], when, _headline(metrics))


def told(facts: Mapping[str, Any]) -> str:
    """The same facts for a person."""
    about = [(name, shown(facts[name])) for name in ("folder", "status", "created_at", "reason") if facts[name]]
    metrics = [
        (plain(name), f"{shown(value)} {_trust(facts, name)}".rstrip())
        for name, value in (facts["final_metrics"] or {}).items()
    ]
    config = [(plain(name), shown(value)) for name, value in flat(facts["config"]).items()]
    parts = [("final metrics", metrics), ("configuration", config)]
    parts += [("checkpoints", [(plain(name), "") for name in facts["checkpoints"]])]
    parts += [("evaluations", [_evaluation(one) for one in facts["evaluations"]])]
    return "\n\n".join([columns(about), *(_part(title, rows) for title, rows in parts)])


def _trust(facts: Mapping[str, Any], metric: str) -> str:
    level = facts["trust"].get(metric)
    return f"({plain(level)})" if isinstance(level, str) else ""


def _part(title: str, rows: Sequence[tuple[str, str]]) -> str:
    lines = columns([(f"  {name}", text) for name, text in rows]).split("\n") if rows else ["  none"]
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines[half:-half] = [f"  … and {len(lines) - 2 * half} more: --json"]
    return "\n".join([title, *lines])


def _evaluation(found: Mapping[str, Any]) -> tuple[str, str]:
    numbers = [f"{plain(name)} {shown(history.number(value))}" for name, value in found["metrics"].items()]
    of = f"{shown(found.get('checkpoint'))} on {shown(found.get('split'))}"
    return of, plain(", ".join(text for text in numbers if not text.endswith(f" {NONE}")))


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """A nested object as one, with dotted names."""
    if not isinstance(value, Mapping) or not value:
        return {name: value} if name else {}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= flat(item, f"{name}.{key}" if name else str(key))
    return found


def compared(
    runs: Sequence[Entry], labels: Sequence[str], settings: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """Runs side by side.

    Args:
        labels: what each is called; `settings`, `metrics`: as `mlx history compare --json` prints them.
    """
    rows = [["", *map(plain, labels)], ["status", *(run["status"] for run in runs)]]
    rows += [[plain(name), *map(shown, values)] for name, values in settings.items()]
    for name, found in metrics.items():
        marks = [" *" if label == found["best"] else "" for label in labels]
        goal = f" ({found['goal']})" if found["goal"] else ""
        rows.append([plain(name) + goal, *(shown(v) + mark for v, mark in zip(found["values"], marks, strict=True))])
    return columns(rows)
