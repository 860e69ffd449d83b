"""The book of a sweep as a file: who may read it, and what is said when it can't be used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from autoexperiment.errors import LedgerCorrupt
from autoexperiment.paths import SweepPaths
from autoexperiment.sweep import book
from autoexperiment.sweep.book import Book


@pytest.fixture
def paths(tmp_path: Path) -> SweepPaths:
    return SweepPaths(tmp_path / "outputs" / "rates")


def test_others_may_look_at_a_sweep_as_at_any_run(paths: SweepPaths) -> None:
    before = os.umask(0o022)

    try:
        Book.open(paths).close()
    finally:
        os.umask(before)

    modes = [stat.S_IMODE(path.stat().st_mode) for path in (paths.folder.parent, paths.folder, paths.book)]
    assert modes == [0o755, 0o755, 0o644]


def test_damage_of_a_book_is_told_in_the_words_of_a_sweep(paths: SweepPaths) -> None:
    with Book.open(paths) as opened:
        for rate in (0.1, 0.2):
            opened.ask({"rate": rate})
    paths.book.write_bytes(paths.book.read_bytes().replace(b"0.1", b"0.3"))

    with pytest.raises(LedgerCorrupt, match="move it away and start the sweep again"):
        book.read(paths)
    with pytest.raises(LedgerCorrupt, match="move it away and start the sweep again"):
        Book.open(paths)
