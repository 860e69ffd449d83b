"""The day's log and EXPERIMENT.md: each session owns one marked section, everything else is the person's.

A section is derived and replaced as a whole; what somebody wrote around it stays byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from autoexperiment.errors import UsageError
from autoexperiment.files import write_atomic
from autoexperiment.ledger import LedgerView
from autoexperiment.paths import ProjectPaths
from autoexperiment.summary import Line, Summary, cell, escape, noise_word, summarise

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
NEXT_TO_TRY = "next to try"
IDEA_CHARACTERS = 300


def _markers(tag: str) -> tuple[str, str]:
    return f"<!-- autoexperiment {tag}: begin -->", f"<!-- autoexperiment {tag}: end -->"


def render_section(summary: Summary, lines: Sequence[Line]) -> str:
    """A session's part of one day: what changed, key findings, open questions.

    Args: lines: the experiments that were decided on this day.
    """
    parts = [f"## Session {summary.tag}", "", "### What changed", ""]
    parts += [f"| # | commit | {summary.metric} | gain | status | what was tried |", "|--:|---|--:|--:|---|---|"]
    parts += [
        f"| {line.number} | `{line.commit}` | {cell(line.value, '.6f')} | {cell(line.gain, '+.6f')} "
        f"| {line.status} | {escape(line.description)} |"
        for line in lines
    ]
    parts += ["", "### Key findings", "", *_findings(summary, lines), "", "### Open questions", "", *_questions(lines)]
    return "\n".join(parts)


def _findings(summary: Summary, lines: Sequence[Line]) -> list[str]:
    kept = [line for line in lines if line.status == "keep" and line.gain is not None]
    found = [
        f"- Kept {escape(line.description)}: gain {cell(line.gain, '+.6f')} ({noise_word(line) or 'noise unknown'})."
        for line in kept
    ]
    if summary.noise is not None:
        found.append(f"- The baseline's runs spread with sd {summary.noise:.6f}.")
    return found or ["- Nothing was kept."]


def _questions(lines: Sequence[Line]) -> list[str]:
    unsure = [line for line in lines if line.status == "keep" and line.is_beyond_noise is False]
    failed = [line for line in lines if line.value is None and line.reason]
    asked = [f"- Is the gain of {escape(line.description)} real? It lies within the noise." for line in unsure]
    asked += [f"- Why did {escape(line.description)} end without a number? {escape(line.reason)}" for line in failed]
    return asked or ["- None."]


def _read(path: Path) -> str:
    """The file's text with its line ends as they are, "" when there is none."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text, so nothing was changed in it: {error}.") from error


def update_day(path: Path, tag: str, day: str, section: str) -> None:
    """Put a session's section into the day's log, in place of the one it had."""
    begin, end = _markers(tag)
    text = _read(path)
    block = f"{begin}\n{section.replace('<!--', '&lt;!--')}\n{end}"
    # The last begin and the first end behind it: a marker whose other half somebody deleted encloses nothing.
    start = text.rfind(begin)
    stop = text.find(end, start) if start >= 0 else -1
    if stop >= 0:
        whole = text[:start] + block + text[stop + len(end) :]
    else:
        head = text or f"# Log of {day}\n"
        whole = head + ("" if head.endswith("\n") else "\n") + "\n" + block + "\n"
    if whole != text:
        write_atomic(path, whole)


def write_day(project: ProjectPaths, tag: str, day: str, ledger: LedgerView) -> Path | None:
    """Write a session's section of one local day's log again from its ledger; None when nothing was decided then."""
    decided = [e for e in ledger.experiments if e.decided and local_day(e.decided_at) == day]
    if not decided:
        return None
    summary = summarise(ledger.session, ledger.experiments)
    section = render_section(summary, [summary.lines[e.number] for e in decided])
    update_day(project.daily_log(day), tag, day, section)
    return project.daily_log(day)


def local_day(time: str) -> str:
    """The local calendar day, YYYY-MM-DD, of a ledger's time."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d")


_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,3}[.)])\s+(?:\[ \]\s+)?(?!\[[xX]\])(.+)")


def next_to_try(path: Path) -> list[str]:
    """The list items under the heading "Next to try"; those that are ticked or still the template's are left out."""
    lines = _read(path).splitlines() if path.is_file() else []  # not a pipe, which would keep us waiting
    levels = _heading_levels(lines)
    start = next((i for i in levels if _title(lines[i]) == NEXT_TO_TRY), None)
    if start is None:
        return []
    stop = next((i for i in levels if i > start and levels[i] <= levels[start]), len(lines))
    items = [match[1].strip() for line in lines[start + 1 : stop] if (match := _ITEM.match(line))]
    return [item[:IDEA_CHARACTERS] for item in items if not (item.startswith("<") and item.endswith(">"))]


def set_next_to_try(path: Path, ideas: Sequence[str]) -> None:
    """Replace the items under the heading "Next to try", adding it at the end when there is none.

    An idea becomes one list item of one line, whatever it holds.
    """
    text = _read(path)
    newline = "\r\n" if "\r\n" in text or text.endswith("\r") else "\n"
    items = "".join(f"- {escape(' '.join(idea.split())[:IDEA_CHARACTERS])}{newline}" for idea in ideas)
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)  # not splitlines, which also splits at U+2028 and form feeds
    levels = _heading_levels(lines)
    start = next((i for i in levels if _title(lines[i]) == NEXT_TO_TRY), None)
    if start is None:
        gap = "" if not text else newline if text.endswith(newline) else 2 * newline
        whole = f"{text}{gap}## Next to try{newline}{items}"
    else:
        stop = next((i for i in levels if i > start and levels[i] <= levels[start]), len(lines))
        gap = newline if stop < len(lines) else ""
        head = lines[start] if lines[start].endswith(("\r", "\n")) else lines[start] + newline
        whole = "".join(lines[:start]) + head + items + gap + "".join(lines[stop:])
    if whole != text:
        write_atomic(path, whole)


def _title(line: str) -> str:
    match = _HEADING.match(line.rstrip("\r\n"))
    return match[2].casefold() if match else ""


def _heading_levels(lines: Sequence[str]) -> dict[int, int]:
    """Level of each heading by its line's index; a `#` inside a fenced block is none."""
    levels, fence = {}, ""
    for index, line in enumerate(lines):
        if mark := _FENCE.match(line):
            is_end = mark[1].startswith(fence) and not line.strip().strip(mark[1][0])
            fence = mark[1] if not fence else "" if is_end else fence
        elif not fence and (match := _HEADING.match(line.rstrip("\r\n"))):
            levels[index] = len(match[1])
    return levels
