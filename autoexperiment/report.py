"""The morning report: what happened, what was kept, and how far each number can be believed."""

from __future__ import annotations

from typing import Any

from autoexperiment.summary import NOISE_FACTOR, Summary, cell, escape, noise_word

TRUST_TEXT = {
    "self_reported": "printed by the code under test: believe it only as far as you believe that code",
    "recomputed": "computed by a separate process from the model's logits, on rows and byte counts fixed by the harness",
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
        f"- Noise: {spread} over {summary.baseline.runs if summary.baseline else 0} runs of the baseline. "
        "A keep within noise may be luck; the policy does not test for that.",
        *(f"- Trust level of {summary.metric}: **{level}** ({TRUST_TEXT[level]})." for level in levels),
        "- Throughput (tok/s) is self-reported by the recipe; peak memory is the larger of what was measured and reported.",
        f"- Data: {start['dataset'] or 'the recipe brings its own'}, snapshot {start['snapshot'] or 'none'}.",
        f"- Machine: {machine['system']}, {machine['cores']} cores, {machine['memory_mb']} MB, "
        f"Python {machine['python']}, MLX {machine['mlx'] or 'none'}, device {machine['device']}.",
        f"- Branch `{start['branch']}` from `{start['base'][:7]}`; every candidate, kept or not, "
        f"stays under `refs/autoexperiment/{summary.tag}/`.",
    ]


def render(summary: Summary, start: dict[str, Any], *, picture: str | None = None) -> str:
    """The report as Markdown. `picture`: the plot's file name, when there is one."""
    parts = [f"# Night report: {summary.tag}", "", headline(summary), ""]
    if picture:
        parts += [f"![{summary.metric} by experiment]({picture})", ""]
    parts += ["## Experiments", "", *_table(summary), "", "## How to read it", "", *_facts(summary, start), ""]
    if summary.baseline and summary.incumbent and summary.baseline.commit != summary.incumbent.commit:
        changed = " ".join(start["recipe"]["mutable"])
        diff = f"git diff {summary.baseline.commit} {summary.incumbent.commit} -- {changed}"
        parts += ["## See what changed", "", f"    {diff}", ""]
    return "\n".join(parts)
