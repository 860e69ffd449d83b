"""Summary, report, picture and daily section of a small night that is known by heart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import standin

from autoexperiment import plots, report
from autoexperiment.ledger import Experiment, RunRecord
from autoexperiment.summary import Summary, escape, summarise
from autoexperiment.vocabulary import Outcome, Verdict

START: dict[str, Any] = {
    "tag": "mar5", "recipe": standin.RECIPE.to_json(), "options": {}, "budget": "300s",
    "policy": "greedy", "dataset": "pystdlib", "snapshot": "abc", "branch": "autoresearch/mar5", "base": "0" * 40,
    "machine": {"system": "Linux x86_64", "cores": 2, "memory_mb": 100, "python": "3.11.7", "mlx": "0.32.4", "device": "cpu"},
}  # fmt: skip


def experiment(number: int, verdict: Verdict | None, values: list[float], description: str = "idea") -> Experiment:
    runs = tuple(
        RunRecord(i, "f", i, {"outcome": "ok"}, {"val_bpb": v, "avg_tok_sec": 1e5}, "recomputed")
        for i, v in enumerate(values)
    )
    mean = sum(values) / len(values) if values else 0.0
    metrics = {"val_bpb": mean, "avg_tok_sec": 1e5, "peak_memory_mb": 2048.0} if values else {}
    return Experiment(
        number, f"{number:040x}", "b", "c", description, 1, 1, "baseline" if number == 0 else "search", "t", runs=runs,
        verdict=verdict, outcome=Outcome.OK if values else Outcome.CRASHED, reason="because", metrics=metrics,
        decided=True, decided_at="2026-03-05T00:00:00+00:00", applied=True,
    )  # fmt: skip


@pytest.fixture
def summary() -> Summary:
    night = [
        experiment(0, Verdict.KEEP, [2.0, 2.02, 1.98]),  # mean 2.00, sd 0.02
        experiment(1, Verdict.KEEP, [1.90]),  # gain 0.10: beyond 2 sd
        experiment(2, Verdict.DISCARD, [1.95]),
        experiment(3, Verdict.CRASH, []),
        experiment(4, Verdict.KEEP, [1.89], "tiny | <b>gain</b>\n# x"),  # gain 0.01: within 2 sd
        experiment(5, None, []),
    ]
    return summarise(START, night)


def test_summary_compares_each_line_with_the_incumbent_of_its_time(summary: Summary) -> None:
    assert [line.gain and round(line.gain, 3) for line in summary.lines] == [None, 0.1, -0.05, None, 0.01, None]
    assert [line.is_beyond_noise for line in summary.lines] == [None, True, True, None, False, None]
    assert summary.noise == pytest.approx(0.02)
    assert summary.counts == {"keep": 2, "discard": 1, "crash": 1, "interrupted": 1}
    assert summary.gain == pytest.approx(0.11)


def test_crash_has_no_number_and_is_never_the_incumbent(summary: Summary) -> None:
    assert summary.lines[3].value is None
    assert summary.incumbent is not None
    assert summary.incumbent.number == 4


def test_headline_says_how_many_keeps_lie_beyond_the_noise(summary: Summary) -> None:
    assert report.headline(summary) == (
        "2 of 4 changes were kept, 1 of them with a gain beyond 2 baseline standard deviations: "
        "val_bpb went from 2.000000 to 1.890000."
    )


def test_night_without_a_keep_is_shown_as_such() -> None:
    nothing = summarise(START, [experiment(0, Verdict.KEEP, [2.0, 2.1, 1.9]), experiment(1, Verdict.DISCARD, [2.2])])

    assert report.headline(nothing) == "No change was kept: 1 were judged, and the baseline stands."
    assert nothing.gain == 0.0


def test_report_names_trust_noise_and_the_way_to_the_diff(summary: Summary) -> None:
    text = report.render(summary, START, picture="progress.png")

    assert "**recomputed**" in text
    assert "sd 0.020000 over 3 runs" in text
    assert "refs/autoexperiment/mar5/" in text
    assert "git diff 0000000 0000000 -- train.py" not in text
    assert len([line for line in text.split("\n") if line.startswith("| ")]) == 1 + len(summary.lines)


def test_hostile_description_stays_one_inert_cell(summary: Summary) -> None:
    row = next(line for line in report.render(summary, START).split("\n") if line.startswith("| 4 "))

    assert "<b>" not in row
    assert row.count("|") - row.count("\\|") == 12


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31m", "`x`", "[a](javascript:x)", "<script>", "\u202e"])
def test_escaped_text_is_one_line_without_active_characters(text: str) -> None:
    escaped = escape(text)

    assert escaped.isprintable()
    assert "<" not in escaped and ">" not in escaped
    assert "`" not in escaped.replace("\\`", "")


def test_picture_is_a_png_also_for_a_session_without_experiments(summary: Summary, tmp_path: Path) -> None:
    assert plots.save_progress(summary, tmp_path / "a.png")
    assert plots.save_progress(summarise(START, []), tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_report_says_what_happened_besides(summary: Summary) -> None:
    paid = {"what": "visit paid", "agent": "claude", "seconds": 1800.0, "cost_usd": 0.5}
    visit = {"what": "visit", "agent": "claude"}
    notes = [
        {"what": "power", "source": "mains", "percent": None, "time": "2026-03-05T22:00:00+00:00"},
        paid, {**visit, "result": "edited"}, paid, {**visit, "result": "edited"},
        {**paid, "cost_usd": None}, {**visit, "result": "usage limit"},
        {"what": "power", "source": "battery", "percent": 80, "time": "2026-03-06T02:13:00+00:00"},
        {"what": "slept", "seconds": 600}, {"what": "stray edit saved", "ref": "r"},
    ]  # fmt: skip

    text = report.render(summary, START, notes=notes)

    assert "- claude: 3 visits in 1.5 h (2 edited, 1 usage limit). They say they cost $1.00." in text
    assert "Power: mains from " in text and ", then battery from " in text
    assert "slept 1 times, 10 min in all" in text


def test_report_of_a_quiet_night_has_nothing_besides(summary: Summary) -> None:
    notes = [{"what": "power", "source": "unknown", "percent": None, "time": "2026-03-05T22:00:00+00:00"}]

    assert "## Besides" not in report.render(summary, START, notes=notes)
