from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoexperiment.errors import Locked, UsageError
from autoexperiment.files import Lock, dump_json, lock_holder, read_json, write_atomic


def test_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.txt"
    write_atomic(target, "old")

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoexperiment.files.fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, "new")

    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_file_that_a_killed_writer_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    (tmp_path / f".a[1].txt.{gone.pid}.tmp").write_text("half")
    (tmp_path / f".a[1].txt.{os.getppid()}.tmp").write_text("somebody is writing")

    write_atomic(tmp_path / "a[1].txt", "new")

    assert sorted(p.name for p in tmp_path.iterdir()) == [f".a[1].txt.{os.getppid()}.tmp", "a[1].txt"]


def test_json_refuses_what_is_not_json_both_ways(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json({"x": float("nan")})
    (tmp_path / "x.json").write_text('{"x": NaN}')
    with pytest.raises(UsageError, match=r"x\.json is not valid JSON: NaN"):
        read_json(tmp_path / "x.json")


def test_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Cannot read .*gone\.json"):
        read_json(tmp_path / "gone.json")


def test_lock_is_exclusive_and_names_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "session" / "lock"
    with Lock(path).acquire():
        assert lock_holder(path) == os.getpid()
        with pytest.raises(Locked, match=rf"pid {os.getpid()}"):
            Lock(path).acquire()
    assert lock_holder(path) is None


def test_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = f"""
from pathlib import Path
from autoexperiment.files import Lock
import sys
lock = Lock(Path({str(path)!r})).acquire()
print("held", flush=True)
sys.stdin.read()
"""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdin is not None
    child.stdout.readline()
    assert lock_holder(path) == child.pid

    child.kill()
    child.wait()

    with Lock(path).acquire():
        assert lock_holder(path) == os.getpid()


def test_lock_that_is_not_held_has_no_holder(tmp_path: Path) -> None:
    assert lock_holder(tmp_path / "never") is None
