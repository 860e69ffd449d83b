"""The day's log and "Next to try": derived parts are replaced, a person's words stay byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from autoexperiment import daily_log
from autoexperiment.errors import UsageError
from autoexperiment.summary import Line, Summary
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel

GOLDEN = Path(__file__).parent / "golden"
DAY = "2026-03-05"


def line(number: int, status: str, value: float | None, gain: float | None, **changes: object) -> Line:
    fields = {
        "number": number, "commit": f"a1b2c3{number}", "status": status, "outcome": Outcome.OK, "value": value, "gain": gain,
        "is_beyond_noise": None if gain is None else gain > 0.002, "tok_sec": 1000.0, "memory_gb": 1.0, "runs": 1,
        "trust": TrustLevel.RECOMPUTED, "lines_added": 0, "lines_removed": 0, "source": "hand",
        "description": f"edit {number}", "reason": "", "rule": "",
    }  # fmt: skip
    return Line(**{**fields, **changes})  # type: ignore[arg-type]


LINES = (
    line(0, "keep", 1.859, None, description="baseline"),
    line(1, "keep", 1.849, 0.010, description="raise <b>LR</b> | `x`\n# now"),
    line(2, "keep", 1.848, 0.001),
    line(3, "crash", None, None, outcome=Outcome.CRASHED, reason="ValueError: bad shape"),
)


def summary(lines: tuple[Line, ...] = LINES) -> Summary:
    return Summary("mar5", "val_bpb", Goal.MINIMIZE, lines, {"keep": 2}, lines[0], lines[-1], 0.0015)


def test_section_has_its_three_parts_with_hostile_text_made_harmless() -> None:
    assert daily_log.render_section(summary(), LINES) + "\n" == (GOLDEN / "daily_section.md").read_text()


def test_day_without_a_keep_and_without_a_failure_says_so() -> None:
    text = daily_log.render_section(summary(), [line(4, "discard", 1.9, -0.05)])

    assert "### Open questions\n\n- None." in text
    assert "| 4 |" in text


def test_section_is_replaced_as_a_whole_and_what_people_wrote_stays(tmp_path: Path) -> None:
    log = tmp_path / "internal" / "log" / "log.md"
    daily_log.update_day(log, "mar5", DAY, "first")
    mine = log.read_bytes()
    log.write_bytes(b"My morning.\r\n\xc3\xa9 \n" + mine + b"  \nMy evening, no newline")

    daily_log.update_day(log, "mar5", DAY, "second")
    daily_log.update_day(log, "mar6", DAY, "other session")
    once = log.read_bytes()
    daily_log.update_day(log, "mar5", DAY, "second")

    assert once == log.read_bytes()
    assert once.startswith(b"My morning.\r\n\xc3\xa9 \n" + mine.replace(b"first", b"second"))
    assert b"  \nMy evening, no newline\n" in once
    assert (once.count(b"second"), once.count(b"first"), once.count(b"other session")) == (1, 0, 1)


@pytest.mark.parametrize("lost", ["begin", "end"])
def test_deleted_marker_never_costs_the_text_that_follows(tmp_path: Path, lost: str) -> None:
    log = tmp_path / "log.md"
    daily_log.update_day(log, "mar5", DAY, "first")
    marker = f"<!-- autoexperiment mar5: {lost} -->\n"
    log.write_text("before\n" + log.read_text().replace(marker, "") + "my own words\n")

    for section in ("second", "third", "fourth"):
        daily_log.update_day(log, "mar5", DAY, section)
    text = log.read_text()

    assert "before\n" in text
    assert "my own words\n" in text
    assert "fourth" in text
    assert "third" not in text


def test_section_that_holds_a_marker_can_not_break_out(tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    hostile = "x <!-- autoexperiment mar5: end --> y"

    daily_log.update_day(log, "mar5", DAY, hostile)
    first = log.read_text()
    daily_log.update_day(log, "mar5", DAY, hostile)

    assert log.read_text() == first
    assert first.count("<!--") == 2


def test_log_that_is_not_text_is_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "log.md"
    log.write_bytes(b"\xff\xfe")

    with pytest.raises(UsageError, match="not UTF-8"):
        daily_log.update_day(log, "mar5", DAY, "x")

    assert log.read_bytes() == b"\xff\xfe"


NOTES = "# Experiment\n\n## Goal\nlower\n\n## NEXT to Try ##\n- old\n\n### detail\nold too\n\n## After\nstays\n"


def test_only_the_section_next_to_try_is_replaced(tmp_path: Path) -> None:
    notes = tmp_path / "EXPERIMENT.md"
    notes.write_text(NOTES)

    daily_log.set_next_to_try(notes, ["depth 8", "wider"])

    assert notes.read_text() == (
        "# Experiment\n\n## Goal\nlower\n\n## NEXT to Try ##\n- depth 8\n- wider\n\n## After\nstays\n"
    )


def test_windows_line_ends_and_a_missing_last_newline_stay(tmp_path: Path) -> None:
    notes = tmp_path / "EXPERIMENT.md"
    notes.write_bytes(b"# E\x0c## Next to try\r\n\r\n## Next to try\r\n- old\r\n# After")

    daily_log.set_next_to_try(notes, ["new"])

    assert notes.read_bytes() == b"# E\x0c## Next to try\r\n\r\n## Next to try\r\n- new\r\n\r\n# After"


@pytest.mark.parametrize("before", ["", "# E\n", "# E", "## Next to tryst\n- no\n"])
def test_section_is_added_at_the_end_when_absent(tmp_path: Path, before: str) -> None:
    notes = tmp_path / "EXPERIMENT.md"
    notes.write_text(before)

    daily_log.set_next_to_try(notes, ["idea"])

    assert notes.read_text().startswith(before)
    assert notes.read_text().endswith("## Next to try\n- idea\n")


def test_heading_inside_a_fenced_block_is_none(tmp_path: Path) -> None:
    notes = tmp_path / "EXPERIMENT.md"
    fenced = "```sh\n## Next to try\nkeep me\n```\n"
    notes.write_text(f"{fenced}## Next to try\n- old\n~~~\n# a comment\n~~~\n")

    daily_log.set_next_to_try(notes, ["new"])

    assert notes.read_text() == f"{fenced}## Next to try\n- new\n"


@pytest.mark.parametrize(
    "idea",
    [
        "## Heading\n# another",
        "x\n## After\ny",
        "<script>alert(1)</script>",
        "a\r\n\r\n## b",
        "\x1b[2J\u202e",
        "```",
        "x" * 9999,
    ],
)
def test_hostile_idea_stays_one_short_list_item(tmp_path: Path, idea: str) -> None:
    notes = tmp_path / "EXPERIMENT.md"
    notes.write_text(NOTES)

    daily_log.set_next_to_try(notes, [idea, "second"])
    text = notes.read_text()
    item = text[text.index("- ") : text.index("- second")]

    assert text.endswith("- second\n\n## After\nstays\n")
    assert item.count("\n") == 1
    assert len(item) < 1000
    assert "<" not in item
    assert "\x1b" not in item


@given(text=st.text(max_size=60), ideas=st.lists(st.text(max_size=20), max_size=3))
@example(text="\r", ideas=[""])
def test_writing_the_same_ideas_again_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, text: str, ideas: list[str]
) -> None:
    notes = tmp_path_factory.mktemp("n") / "EXPERIMENT.md"
    notes.write_bytes(text.encode())

    daily_log.set_next_to_try(notes, ideas)
    first = notes.read_bytes()
    daily_log.set_next_to_try(notes, ideas)

    assert notes.read_bytes() == first


def test_next_to_try_reads_back_the_items_under_its_heading(tmp_path: Path) -> None:
    path = tmp_path / "EXPERIMENT.md"
    path.write_text(
        "# E\n\n- no idea\n\n## Next to try\n- wider MLP\n* drop the bias\n2. warm-down\nprose\n"
        "- <one idea a line>\n- [ ] to do\n- [x] done\n\n### deeper\n- below\n\n## Other\n- not mine\n"
    )

    assert daily_log.next_to_try(path) == ["wider MLP", "drop the bias", "warm-down", "to do", "below"]


def test_next_to_try_without_file_or_heading_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "EXPERIMENT.md"

    assert daily_log.next_to_try(path) == []
    path.write_text("# E\n- idea\n")
    assert daily_log.next_to_try(path) == []
