"""The journal's file format: frames, torn tails, damage, and what one append promises."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment import files, journal
from autoexperiment.errors import LabError, LedgerCorrupt, UsageError
from autoexperiment.journal import Journal, Record, decode, encode, scan

TIME = "2026-01-02T03:04:05.678+00:00"


def crc32_by_hand(data: bytes) -> int:
    """CRC-32 of IEEE 802.3, bit by bit, as its definition says."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0xEDB88320 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def frames(count: int, *, text: str = "some words") -> list[bytes]:
    return [encode({"kind": "note", "what": f"{text} {n}", "seq": n, "time": TIME}) for n in range(1, count + 1)]


def opened(path: Path, blob: bytes) -> tuple[Journal, list[Record]]:
    path.write_bytes(blob)
    return Journal.open(path)


# ---- one frame


def test_a_frame_is_canonical_json_a_tab_and_its_crc32() -> None:
    text = b'{"a":[1,2.5,null],"b":"\\u00e9"}'

    assert encode({"b": "é", "a": [1, 2.5, None]}) == text + b"\t%08x\n" % crc32_by_hand(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), {1, 2}, b"bytes", object()])
def test_what_is_not_strict_json_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="of kind 'note' is not strict JSON"):
        encode({"kind": "note", "what": value})


def test_a_frame_has_at_most_16384_bytes_and_the_refusal_names_its_size() -> None:
    empty = len(encode({"what": ""}))

    assert len(encode({"what": "x" * (16384 - empty)})) == 16384
    with pytest.raises(UsageError, match=r"16385 bytes; 16384 are allowed"):
        encode({"what": "x" * (16385 - empty)})


@pytest.mark.parametrize("text", [b"[1]", b'"a"', b'{"a":NaN}', b"{", b"", b"[" * 8000 + b"]" * 8000])
def test_a_checksum_alone_does_not_make_a_record(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text + b"\t%08x\n" % crc32_by_hand(text))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
records = st.dictionaries(st.text(max_size=10), json_values, max_size=5)


@given(records)
def test_decode_gives_back_what_encode_took(record: Record) -> None:
    frame = encode(record)

    assert decode(frame) == record
    assert frame.count(b"\n") == 1 and frame.endswith(b"\n")


# ---- torn tails and damage


@given(st.lists(records, max_size=4), st.data())
@settings(max_examples=300)
def test_a_cut_anywhere_loses_only_the_frame_that_it_cuts(bodies: list[Record], data: st.DataObject) -> None:
    made = [encode({**body, "seq": n}) for n, body in enumerate(bodies, 1)]
    blob = b"".join(made)
    cut = data.draw(st.integers(0, len(blob)))

    found = scan(blob[:cut])

    ends = [sum(map(len, made[:n])) for n in range(len(made) + 1)]
    whole = max(n for n, end in enumerate(ends) if end <= cut)
    assert found.records == [decode(frame) for frame in made[:whole]]
    assert (found.good_bytes, found.torn) == (ends[whole], blob[ends[whole] : cut])


@given(st.lists(records, min_size=1, max_size=3), st.data())
@settings(max_examples=300)
def test_no_change_of_one_byte_invents_or_drops_a_record(bodies: list[Record], data: st.DataObject) -> None:
    blob = b"".join(encode({**body, "seq": n}) for n, body in enumerate(bodies, 1))
    at = data.draw(st.integers(0, len(blob) - 1))
    value = data.draw(st.integers(1, 255).filter(lambda byte: byte != blob[at]))

    with pytest.raises(LedgerCorrupt):
        scan(blob[:at] + bytes([value]) + blob[at + 1 :])


def test_every_flipped_byte_of_three_records_stops_with_file_line_and_offset(tmp_path: Path) -> None:
    made = frames(3)
    starts = [0, len(made[0]), len(made[0]) + len(made[1])]
    blob, path = b"".join(made), tmp_path / "l"
    for at in range(len(blob)):
        for flip in (0x01, 0x20, 0x80):
            spoiled = blob[:at] + bytes([blob[at] ^ flip]) + blob[at + 1 :]
            path.write_bytes(spoiled)
            line = max(n for n, start in enumerate(starts) if start <= at)

            with pytest.raises(LedgerCorrupt) as refused:
                Journal.open(path)

            assert str(refused.value).startswith(f"{path}:{line + 1}:{starts[line]} (byte {starts[line]}) is damaged")
            assert path.read_bytes() == spoiled
    assert os.listdir(tmp_path) == ["l"]


def test_sectors_that_a_power_cut_left_unwritten_are_a_torn_tail() -> None:
    good, last = frames(1)[0], encode({"what": "y" * 1500, "seq": 2})
    for first, end in (
        (0, len(last)),
        (0, 512 - len(good)),
        (1024 - len(good), len(last)),
        (512 - len(good), 1024 - len(good)),
    ):
        spoiled = last[:first] + bytes(end - first) + last[end:]

        found = scan(good + spoiled)

        assert [record["seq"] for record in found.records] == [1]
        assert found.torn == spoiled


def test_zeros_that_no_sector_border_explains_are_damage() -> None:
    good, last = frames(1)[0], encode({"what": "y" * 1500, "seq": 2})

    for spoiled in (
        last[:700] + b"\0" + last[701:],
        bytes(100) + last[100:],
        last[:-1] + b"\0",
        last[:-5] + bytes(4) + b"\n",
        bytes(20000),
    ):
        with pytest.raises(LedgerCorrupt):
            scan(good + spoiled)


def test_a_whole_text_with_another_checksum_is_damage_even_without_its_newline() -> None:
    whole = frames(1)[0]

    assert scan(whole[:-1]).torn == whole[:-1]
    with pytest.raises(LedgerCorrupt):
        scan(whole.replace(b"words", b"wordz")[:-1])


def test_damage_of_the_last_record_names_the_command_that_goes_on_without_it(tmp_path: Path) -> None:
    first, last = frames(2)
    path = tmp_path / "a ledger"
    path.write_bytes(first + last.replace(b"words", b"wordz"))

    with pytest.raises(LedgerCorrupt) as refused:
        Journal.open(path)
    command = str(refused.value).split("without this last record: ")[1]
    assert os.system(command) == 0

    assert path.read_bytes() == first


@pytest.mark.parametrize("numbers", [[2], [1, 3], [1, 1], [1, 2, 2], [1, None]])
def test_a_gap_or_a_repeat_in_the_numbers_is_damage(numbers: list[Any]) -> None:
    with pytest.raises(LedgerCorrupt, match="its number is"):
        scan(b"".join(encode({"seq": n}) for n in numbers))


# ---- opening


def test_a_new_journal_is_private_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "l"

    log, found = Journal.open(path)

    assert (log.count, found, path.read_bytes()) == (0, [], b"")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (path.parent, path.parent.parent)] == [0o700, 0o700]


BOOK = journal.Kind("book", "sweep", again="go on", look="look", anew="begin again", is_private=False)


def test_a_journal_that_is_not_private_has_the_modes_of_any_file(tmp_path: Path) -> None:
    path = tmp_path / "l"
    before = os.umask(0o022)

    try:
        Journal.open(path, kind=BOOK)[0].close()
        path.write_bytes(b'{"half')
        Journal.open(path, kind=BOOK)[0].close()
    finally:
        os.umask(before)

    assert [stat.S_IMODE(file.stat().st_mode) for file in (path, tmp_path / "l.torn")] == [0o644, 0o644]


def test_messages_call_a_journal_by_its_own_words(tmp_path: Path) -> None:
    path, made = tmp_path / "l", frames(2)
    path.write_bytes(made[0].replace(b"words", b"wordz") + made[1])
    (tmp_path / "file").write_text("")

    with pytest.raises(LedgerCorrupt, match=r"move it away and begin again\.$"):
        Journal.open(path, kind=BOOK)
    with pytest.raises(LedgerCorrupt, match=r"move it away and begin again\.$"):
        journal.read(path, kind=BOOK)
    with pytest.raises(UsageError, match="Cannot read the book"):
        journal.read(tmp_path / "none", kind=BOOK)
    with pytest.raises(LabError, match=r"The book .* cannot be opened"):
        Journal.open(tmp_path / "file" / "l", kind=BOOK)


def test_an_open_journal_tells_how_to_go_on_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened_book(name: str) -> Journal:
        return Journal.open(tmp_path / name, kind=BOOK)[0]

    closed, deleted, doubled, faulty, full = map(opened_book, "abcde")
    closed.close()
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_bytes(b"more")

    with pytest.raises(UsageError, match="A book record of kind"):
        full.append({"kind": math.nan}, time=TIME)
    with pytest.raises(UsageError, match=r"A book record of kind .* has"):
        full.append({"kind": "x", "what": "x" * 20_000}, time=TIME)
    with pytest.raises(LabError, match="Open the sweep again"):
        closed.append({}, time=TIME)
    with pytest.raises(LabError, match="Restart the sweep from a backup"):
        deleted.append({}, time=TIME)
    with pytest.raises(LabError, match="Restart the sweep when no other runs: look"):
        doubled.append({}, time=TIME)
    with monkeypatch.context() as patch, pytest.raises(LabError, match="then restart the sweep"):
        patch.setattr(files, "fsync", fails)
        faulty.append({}, time=TIME)
    with monkeypatch.context() as patch, pytest.raises(LabError, match="go on: go on"):
        patch.setattr(os, "write", fails)
        full.append({}, time=TIME)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fails)
        patch.setattr(os, "ftruncate", fails)
        with pytest.raises(LabError):
            full.append({}, time=TIME)
        with pytest.raises(LabError, match=r"put back .* Restart the sweep"):
            full.append({}, time=TIME)


def fails(*given: object) -> None:
    raise OSError(5, "Input/output error")


def test_a_torn_tail_is_kept_aside_and_the_next_record_is_readable(tmp_path: Path) -> None:
    path, made = tmp_path / "l", frames(3)
    log, found = opened(path, made[0] + made[1] + made[2][:-7])

    log.append({"kind": "note", "what": "after"}, time=TIME)

    assert [record["seq"] for record in found] == [1, 2]
    assert (tmp_path / "l.torn").read_bytes() == made[2][:-7] + b"\n"
    assert [record["what"] for record in journal.read(path)] == ["some words 1", "some words 2", "after"]
    assert path.read_bytes().startswith(made[0] + made[1])


def test_a_second_torn_tail_is_added_to_the_first(tmp_path: Path) -> None:
    for piece in (b'{"one', b'{"two'):
        opened(tmp_path / "l", piece)[0].close()

    assert (tmp_path / "l.torn").read_bytes() == b'{"one\n{"two\n'


def test_a_reader_leaves_a_torn_tail_alone(tmp_path: Path) -> None:
    path, made = tmp_path / "l", frames(2)
    path.write_bytes(made[0] + made[1][:20])

    found = journal.read(path)

    assert [record["seq"] for record in found] == [1]
    assert path.read_bytes() == made[0] + made[1][:20]
    assert os.listdir(tmp_path) == ["l"]


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="none"):
        journal.read(tmp_path / "none")
    with pytest.raises(LabError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "l")


# ---- appending


def test_append_numbers_and_stamps_and_returns_what_a_reader_sees(tmp_path: Path) -> None:
    log, _ = Journal.open(tmp_path / "l")

    first = log.append({"kind": "note", "what": ("a", "tuple")}, time=TIME)
    log.append({"kind": "note"}, time=TIME)

    assert first == {"kind": "note", "what": ["a", "tuple"], "seq": 1, "time": TIME}
    assert journal.read(tmp_path / "l")[0] == first
    assert log.count == 2


def test_nothing_is_written_when_the_record_is_not_accepted(tmp_path: Path) -> None:
    log, _ = Journal.open(tmp_path / "l")

    def refuse(record: Record) -> None:
        raise LabError(f"no {record['seq']}")

    with pytest.raises(LabError, match="no 1"):
        log.append({"kind": "note"}, time=TIME, accept=refuse)
    log.append({"kind": "note"}, time=TIME)

    assert [record["seq"] for record in journal.read(tmp_path / "l")] == [1]


def test_a_second_writer_is_noticed_before_numbers_repeat(tmp_path: Path) -> None:
    one, _ = Journal.open(tmp_path / "l")
    two, _ = Journal.open(tmp_path / "l")
    one.append({"kind": "note"}, time=TIME)

    for _ in range(2):
        with pytest.raises(LabError, match="another process writes"):
            two.append({"kind": "note"}, time=TIME)

    assert len(journal.read(tmp_path / "l")) == 1


def test_a_deleted_journal_does_not_swallow_records(tmp_path: Path) -> None:
    log, _ = Journal.open(tmp_path / "l")
    (tmp_path / "l").unlink()

    with pytest.raises(LabError, match="was deleted"):
        log.append({"kind": "note"}, time=TIME)


def test_an_append_cut_short_by_an_interrupt_closes_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going on would give the next record the number of the one that may be on the disk."""
    log, _ = Journal.open(tmp_path / "l", kind=BOOK)

    def interrupt(fd: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(files, "fsync", interrupt)
        log.append({"kind": "note"}, time=TIME)

    with pytest.raises(LabError, match=r"was interrupted.*Restart the sweep"):
        log.append({"kind": "note"}, time=TIME)
    log.close()
    again, found = Journal.open(tmp_path / "l")
    again.append({"kind": "note"}, time=TIME)
    assert (len(found), again.count) == (1, 2)


def test_a_closed_journal_takes_no_records_and_closes_twice(tmp_path: Path) -> None:
    log, _ = Journal.open(tmp_path / "l")
    log.close()
    log.close()

    with pytest.raises(LabError, match="is closed"):
        log.append({"kind": "note"}, time=TIME)
