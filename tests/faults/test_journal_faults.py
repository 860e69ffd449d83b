"""Kills, power cuts, full and failing disks, and other writers, on the real journal."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain, combinations
from pathlib import Path

import pytest

from autoexperiment import files, journal
from autoexperiment.errors import LabError
from autoexperiment.journal import DiskFull, Journal

TIME = "2026-01-02T03:04:05.678+00:00"
WRITERS = int(os.environ.get("AUTOEXPERIMENT_WRITERS", "8"))
RECORDS = int(os.environ.get("AUTOEXPERIMENT_RECORDS", "60"))
KILLS = int(os.environ.get("AUTOEXPERIMENT_JOURNAL_KILLS", "15"))
ROOT = Path(journal.__file__).parent.parent


def python(code: str, *words: object, **variables: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def note(log: Journal, what: str) -> None:
    log.append({"kind": "note", "what": what}, time=TIME)


def words_of(path: Path) -> list[str]:
    return [str(record["what"]) for record in journal.read(path)]


def test_cut_at_every_byte_of_the_last_three_records(tmp_path: Path) -> None:
    path = tmp_path / "l"
    log, _ = Journal.open(path)
    for n in range(5):
        note(log, f"{n}")
    log.close()
    blob = path.read_bytes()
    start = [at for at, byte in enumerate(blob) if byte == 10][1] + 1
    for cut in range(start, len(blob)):
        path.write_bytes(blob[:cut])
        kept = blob[:cut].count(b"\n")
        torn = blob[:cut].rpartition(b"\n")[2]

        log, found = Journal.open(path)
        note(log, "after")
        log.close()

        assert [record["what"] for record in found] == [str(n) for n in range(kept)]
        assert words_of(path) == [*map(str, range(kept)), "after"]
        aside = tmp_path / "l.torn"
        assert (aside.read_bytes() if aside.exists() else b"") == (torn + b"\n" if torn else b"")
        aside.unlink(missing_ok=True)


SHORT_WRITES = """
import resource, signal, sys
from pathlib import Path
from autoexperiment.journal import DiskFull, Journal, read
path = Path(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log, _ = Journal.open(path)
log.append({"kind": "note", "what": "first"}, time="t")
size, hard = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]
before, full = path.read_bytes(), 0
for limit in range(size, size + 200):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        log.append({"kind": "note", "what": "second"}, time="t")
    except DiskFull:
        full += 1
        assert path.read_bytes() == before
    else:
        break
assert full == path.stat().st_size - size, full
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
log.append({"kind": "note", "what": "third"}, time="t")
print(*(record["what"] for record in read(path)))
"""


def test_a_disk_that_takes_any_part_of_a_record_is_rolled_back(tmp_path: Path) -> None:
    child = python(SHORT_WRITES, tmp_path / "l")

    said, complaint = child.communicate()

    assert (child.returncode, said) == (0, "first second third\n"), complaint


def test_a_failed_fsync_is_never_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l"
    log, _ = Journal.open(path)
    note(log, "first")
    before = path.read_bytes()

    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(LabError, match="could not keep"):
        patch.setattr(files, "fsync", fail)
        note(log, "second")

    for _ in range(2):  # fsync works again, and proves nothing
        with pytest.raises(LabError, match="could not keep"):
            note(log, "third")
    assert path.read_bytes() == before


def test_a_disk_that_cannot_be_put_back_stops_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "l"
    log, _ = Journal.open(path)
    real = os.write

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch, pytest.raises(DiskFull):
        patch.setattr(os, "write", lambda fd, blob: real(fd, blob[:9]))
        patch.setattr(os, "ftruncate", fail)
        note(log, "torn")
    with pytest.raises(LabError, match="could not be put back"):
        note(log, "on top of it")
    log.close()

    log, found = Journal.open(path)
    note(log, "after")
    assert (found, words_of(path)) == ([], ["after"])


@pytest.mark.parametrize("call", ["fsync", "fsync_dir"])
def test_a_ledger_that_cannot_be_made_safe_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(files, call, fail)

    with pytest.raises(LabError, match="cannot be repaired"):
        Journal.open(tmp_path / "l")


# ---- power cuts: what is not fsynced may be there in part, in any set of sectors, or not at all


class Disk:
    """Watches one file's writes: what is safe, and what may be lost."""

    def __init__(self, patch: pytest.MonkeyPatch, path: Path, check: Callable[[], None]) -> None:
        self.path, self.safe, self.check = path, path.read_bytes() if path.exists() else b"", check
        for module, name in ((os, "write"), (os, "ftruncate"), (files, "fsync")):
            patch.setattr(module, name, self._watched(getattr(module, name)))

    def _watched(self, real: Callable[..., object]) -> Callable[..., object]:
        def call(fd: int, *rest: object) -> object:
            is_ours = self.path.exists() and os.path.samestat(os.fstat(fd), os.stat(self.path))
            answer = real(fd, *rest)
            if is_ours:
                if real.__name__ == "fsync":
                    self.safe = self.path.read_bytes()
                self.check()
            return answer

        return call

    def after_power_cut(self) -> Iterator[bytes]:
        now = self.path.read_bytes()
        if not now.startswith(self.safe):  # a cut-off tail that is not safe yet: it may come back
            yield from (self.safe, now)
            return
        end = len(self.safe)
        yield from (now[:cut] for cut in range(end, len(now) + 1))
        sectors = [(max(end, at), min(at + 512, len(now))) for at in range(end - end % 512, len(now), 512)]
        subsets = chain.from_iterable(combinations(sectors, n) for n in range(1, len(sectors) + 1))
        for lost in subsets:
            spoiled = bytearray(now)
            for first, last in lost:
                spoiled[first:last] = bytes(last - first)
            yield bytes(spoiled)


@pytest.mark.parametrize("torn", [b"", b'{"kind":"no'])
def test_a_power_cut_at_any_point_keeps_every_acknowledged_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torn: bytes
) -> None:
    path, copy = tmp_path / "l", tmp_path / "copy"
    acknowledged: list[str] = []
    states = 0

    def check() -> None:
        nonlocal states
        for blob in disk.after_power_cut():
            states += 1
            copy.write_bytes(blob)
            found = words_of(copy)
            assert found[: len(acknowledged)] == acknowledged
            assert len(found) <= len(acknowledged) + 1

    path.write_bytes(torn)
    disk = Disk(monkeypatch, path, check)
    log, _ = Journal.open(path)
    for n in range(6):
        text = f"{n} " + "x" * (n * 300)
        note(log, text)
        acknowledged.append(text)

    assert states > 3000


def test_what_a_killed_writer_left_is_made_safe_before_it_is_acted_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "l"
    path.write_bytes(journal.encode({"kind": "note", "what": "not synced", "seq": 1, "time": TIME}))
    disk = Disk(monkeypatch, path, lambda: None)
    disk.safe = b""

    Journal.open(path)

    assert disk.safe == path.read_bytes()


def test_a_torn_tail_is_safe_aside_before_it_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, aside = tmp_path / "l", tmp_path / "l.torn"
    path.write_bytes(b'{"torn')
    safe: list[bytes] = []
    real_sync, real_cut = files.fsync, os.ftruncate

    def sync(fd: int) -> None:
        if aside.exists() and os.path.samestat(os.fstat(fd), aside.stat()):
            safe.append(aside.read_bytes())
        real_sync(fd)

    def cut(fd: int, size: int) -> None:
        assert safe == [b'{"torn\n']
        real_cut(fd, size)

    monkeypatch.setattr(files, "fsync", sync)
    monkeypatch.setattr(os, "ftruncate", cut)
    Journal.open(path)

    assert path.read_bytes() == b""


def test_every_new_folder_is_made_safe_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(files, "fsync_dir", synced.append)

    Journal.open(tmp_path / "a" / "b" / "l")

    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


# ---- kills

WRITER = """
import sys
from pathlib import Path
from autoexperiment.journal import Journal
log, _ = Journal.open(Path(sys.argv[1]))
while True:
    record = log.append({"kind": "note", "what": "x" * int(sys.argv[2])}, time="t")
    print(record["seq"], flush=True)
"""


def test_kill_9_in_a_tight_loop_loses_no_acknowledged_record(tmp_path: Path) -> None:
    rng, path, total = random.Random(7), tmp_path / "l", 0
    for _ in range(KILLS):
        child = python(WRITER, path, 12_000)
        assert child.stdout is not None
        for _ in range(rng.randrange(1, 60)):
            child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0].split("\n")
        last = max((int(line) for line in rest[:-1] if line), default=total)

        count = len(journal.read(path))

        assert count >= last
        total = count
    log, found = Journal.open(path)
    assert [record["seq"] for record in found] == list(range(1, total + 1))
    log.close()


TWO_NOTES = """
import sys
from pathlib import Path
from autoexperiment.journal import Journal
path = Path(sys.argv[1])
log, found = Journal.open(path)
for n in range(len(found), 3):
    log.append({"kind": "note", "what": str(n)}, time="t")
"""


@pytest.mark.parametrize("second", [0, 1, 2, 3])
def test_kill_at_every_failpoint_and_again_in_the_repair(tmp_path: Path, second: int) -> None:
    places = 0
    for place in range(1, 30):
        path = tmp_path / f"l{place}"
        path.write_bytes(b'{"torn')
        first = python(TWO_NOTES, path, AUTOEXPERIMENT_FAIL_AT=str(place))
        first.communicate()
        if second:
            python(TWO_NOTES, path, AUTOEXPERIMENT_FAIL_AT=str(second)).communicate()
        python(TWO_NOTES, path).communicate()

        assert words_of(path) == ["0", "1", "2"]
        if first.returncode == 0:
            break
        places += 1
    assert places == 1 + 3 * 3  # the torn tail, then three places in each append


# ---- other writers

LOCKED_WRITER = """
import sys
from pathlib import Path
from autoexperiment.files import Lock
from autoexperiment.journal import Journal
folder, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for n in range(0, count, 10):
    with Lock(folder / "lock").acquire(timeout_s=600):
        log, _ = Journal.open(folder / "l")
        for i in range(n, min(n + 10, count)):
            log.append({"kind": "note", "what": f"{who}/{i}"}, time="t")
        log.close()
"""


def test_many_processes_through_the_lock_lose_and_double_nothing(tmp_path: Path) -> None:
    writers = [python(LOCKED_WRITER, tmp_path, who, RECORDS) for who in range(WRITERS)]

    complaints = [writer.communicate()[1] for writer in writers]

    assert [writer.returncode for writer in writers] == [0] * WRITERS, complaints
    records = journal.read(tmp_path / "l")
    assert [record["seq"] for record in records] == list(range(1, WRITERS * RECORDS + 1))
    for who in range(WRITERS):
        mine = [record["what"] for record in records if record["what"].startswith(f"{who}/")]
        assert mine == [f"{who}/{n}" for n in range(RECORDS)]


HOLDER = """
import sys
from pathlib import Path
from autoexperiment.files import Lock
from autoexperiment.journal import Journal
folder = Path(sys.argv[1])
with Lock(folder / "lock").acquire():
    log, _ = Journal.open(folder / "l")
    print("held", flush=True)
    sys.stdin.readline()
    log.append({"kind": "note", "what": "woken"}, time="t")
"""


def test_a_stopped_holder_keeps_its_lock_and_goes_on_alone(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    child.send_signal(signal.SIGSTOP)

    with pytest.raises(LabError, match=f"pid {child.pid}"):
        files.Lock(tmp_path / "lock").acquire()

    child.send_signal(signal.SIGCONT)
    child.communicate("\n")
    assert (child.returncode, words_of(tmp_path / "l")) == (0, ["woken"])
