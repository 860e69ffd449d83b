"""The morning report: what happened, what was kept, and how far each number can be believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from autoexperiment.ledger import PAID, POWER, SLEPT, VISIT
from autoexperiment.recipe import Recipe
from autoexperiment.summary import NOISE_FACTOR, Summary, cell, escape, noise_word

TRUST_TEXT = {
    "self_reported": "printed by the code under test: believe it only as far as you believe that code",
    "recomputed": "computed afterwards by a process of the harness, from the model's logits or the files that the run left",
    "measured": "taken from outside the process",
}


def headline(summary: Summary) -> str:
    """One sentence that a person reads first."""
    if summary.baseline is None or summary.incumbent is None:
        return "There is no baseline yet, so nothing can be said."
    kept = [line for line in summary.judged if line.status == "keep"]
    if not kept:
        return f"No change was kept: {len(summary.judged)} were judged, and the baseline stands."
    sure = sum(line.is_beyond_noise is True and (line.gain or 0) > 0 for line in kept)
    return (
        f"{len(kept)} of {len(summary.judged)} changes were kept, {sure} of them with a gain beyond "
        f"{NOISE_FACTOR:g} baseline standard deviations: {summary.metric} went from {summary.baseline.value:.6f} "
        f"to {summary.incumbent.value:.6f}."
    )


def _table(summary: Summary) -> list[str]:
    head = (
        f"| # | commit | {summary.metric} | gain | noise | tok/s | memory GB | runs | status | what was tried | why |"
    )
    rows = [head, "|--:|---|--:|--:|---|--:|--:|--:|---|---|---|"]
    rows += [
        f"| {line.number} | `{line.commit}` | {cell(line.value, '.6f')} | {cell(line.gain, '+.6f')} | {noise_word(line)} "
        f"| {cell(line.tok_sec, ',.0f')} | {cell(line.memory_gb, '.2f')} | {line.runs} | {line.status} "
        f"| {escape(line.description)} | {escape(line.reason)} |"
        for line in summary.lines
    ]
    return rows


def _facts(summary: Summary, start: dict[str, Any]) -> list[str]:
    machine = start["machine"]
    spread = "unknown (fewer than two baseline runs)" if summary.noise is None else f"sd {summary.noise:.6f}"
    counts = ", ".join(f"{n} {word}" for word, n in summary.counts.items())
    levels = sorted({str(line.trust) for line in summary.lines if line.trust})
    return [
        f"- Judged: {len(summary.judged)} ({counts}).",
        f"- Budget for each run: {start['budget']} of training. Policy: {start['policy']}.",
        f"- Noise: {spread} over {summary.baseline.runs if summary.baseline else 0} runs of the baseline. {_bar(start)}",
        *(f"- Trust level of {summary.metric}: **{level}** ({TRUST_TEXT[level]})." for level in levels),
        "- Throughput (tok/s) is self-reported by the recipe; peak memory is the larger of what was measured and reported.",
        f"- Data: {start['dataset'] or 'the recipe brings its own'}, snapshot {start['snapshot'] or 'none'}.",
        *_protocol(start),
        f"- Machine: {machine['system']}, {machine['cores']} cores, {machine['memory_mb']} MB, "
        f"Python {machine['python']}, MLX {machine['mlx'] or 'none'}, device {machine['device']}.",
        f"- Branch `{start['branch']}` from `{start['base'][:7]}`; every candidate, kept or not, "
        f"stays under `refs/autoexperiment/{summary.tag}/`.",
    ]


def _bar(start: dict[str, Any]) -> str:
    """What a gain had to reach."""
    floor = Recipe.from_json(start["recipe"]).floor
    needed = [f"exceed {floor.standard_errors:g} standard errors of the difference"] if floor.standard_errors else []
    needed += [f"reach {floor.bips / 100:g} % of the incumbent's value"] if floor.bips else []
    if not needed:
        return "Any gain counted, so a keep within noise may be luck."
    return f"A gain had to {' and '.join(needed)} to count."


def _protocol(start: dict[str, Any]) -> list[str]:
    """Under which protocol, and what of it nobody saw to."""
    options = start["options"]
    if not options.get("protocol"):
        return []
    named = f" ({escape(options['bundle'])})" if options.get("bundle") else ""
    lines = [f"- Protocol: sha256 `{options['protocol'][:12]}`{named}."]
    if loose := options.get("unenforced"):
        lines.append(f"- Asked for by the protocol and not enforced: {', '.join(map(escape, loose))}.")
    return lines


def _besides(notes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What happened beside the experiments, one line each: the agents' visits, power, sleep."""
    paid = [note for note in notes if note["what"] == PAID]
    lines = [_visits(name, [n for n in notes if n.get("agent") == name]) for name in sorted({n["agent"] for n in paid})]
    sources = [note for note in notes if note["what"] == POWER]
    if any(note["source"] == "battery" for note in sources):
        lines.append(
            "- Power: " + ", then ".join(f"{note['source']} from {_clock(note['time'])}" for note in sources) + "."
        )
    if slept := [note["seconds"] for note in notes if note["what"] == SLEPT]:
        lines.append(
            f"- The machine slept {len(slept)} times, {sum(slept) / 60:.0f} min in all; no run of that time counts."
        )
    return ["## Besides", "", *lines, ""] if lines else []


def _visits(name: str, notes: Sequence[Mapping[str, Any]]) -> str:
    paid = [note for note in notes if note["what"] == PAID]
    results = Counter(note["result"] for note in notes if note["what"] == VISIT)
    counts = ", ".join(f"{n} {result}" for result, n in results.most_common())
    costs = [note["cost_usd"] for note in paid if note["cost_usd"] is not None]
    price = f" They say they cost ${sum(costs):.2f}." if costs else ""
    hours = sum(note["seconds"] for note in paid) / 3600
    return f"- {escape(name)}: {len(paid)} visits in {hours:.1f} h ({escape(counts)}).{price}"


def _clock(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%d %b %H:%M")


def render(
    summary: Summary, start: dict[str, Any], *, picture: str | None = None, notes: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The report as Markdown.

    Args:
        picture: the plot's file name, when there is one.
        notes: the ledger's.
    """
    parts = [f"# Night report: {summary.tag}", "", headline(summary), ""]
    if picture:
        parts += [f"![{summary.metric} by experiment]({picture})", ""]
    parts += ["## Experiments", "", *_table(summary), "", *_besides(notes)]
    parts += ["## How to read it", "", *_facts(summary, start), ""]
    if summary.baseline and summary.incumbent and summary.baseline.commit != summary.incumbent.commit:
        diff = f"git diff {summary.baseline.commit} {summary.incumbent.commit}"  # they differ in mutable files only
        parts += ["## See what changed", "", f"    {diff}", ""]
    return "\n".join(parts)
