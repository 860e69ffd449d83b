"""The metrics files: their formats, what they say of numbers that are none, and what survives what."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment.paths import RunPaths
from autoexperiment.training import curves
from autoexperiment.training.curves import Curves, Past, Row

ROOT = Path(curves.__file__).parent.parent.parent
ROWS: list[Row] = [{"epoch": 1, "loss": 4.668918}, {"epoch": 2, "loss": 4.40299}, {"epoch": 3, "loss": 0.1245361}]


def written(folder: Path, rows: list[Row], *, name: str = "my-first") -> Path:
    """The metrics folder of a run with these rows."""
    run = RunPaths(folder)
    log = Curves.begin(run, name)
    for row in rows:
        log.add(row)
    log.close()
    return run.metrics


def test_the_three_formats(tmp_path: Path) -> None:
    metrics = written(tmp_path, ROWS)

    assert (metrics / "metrics.ndjson").read_text() == (
        '{"epoch": 1, "loss": 4.668918}\n{"epoch": 2, "loss": 4.40299}\n{"epoch": 3, "loss": 0.1245361}\n'
    )
    assert (metrics / "metrics.json").read_text() == (
        '{\n  "experiment": "my-first",\n  "metrics": [\n    {"epoch": 1, "loss": 4.668918},\n'
        '    {"epoch": 2, "loss": 4.40299},\n    {"epoch": 3, "loss": 0.1245361}\n  ]\n}\n'
    )
    assert (metrics / "metrics.md").read_text() == (
        "# Metrics Summary: my-first\n\n| Epoch | loss |\n|---|---|\n| 1 | 4.668918 |\n| 2 | 4.402990 |\n"
        "| 3 | 0.124536 |\n\n## Final Metrics\n\n- **loss**: 0.124536\n"
    )


def test_several_metrics_are_columns_in_their_order(tmp_path: Path) -> None:
    row: Row = {"epoch": 1, "loss": 0.5, "accuracy": 0.75, "val_loss": 0.25, "val_accuracy": 1.0}

    text = (written(tmp_path, [row]) / "metrics.md").read_text()

    assert "| Epoch | loss | accuracy | val_loss | val_accuracy |\n|---|---|---|---|---|\n" in text
    assert "| 1 | 0.500000 | 0.750000 | 0.250000 | 1.000000 |\n" in text
    assert text.endswith(
        "- **loss**: 0.500000\n- **accuracy**: 0.750000\n- **val_loss**: 0.250000\n- **val_accuracy**: 1.000000\n"
    )


def test_a_number_that_is_none_is_null_everywhere(tmp_path: Path) -> None:
    row = curves.row_of(1, {"loss": math.nan, "val_loss": -math.inf})

    metrics = written(tmp_path, [row])

    assert (metrics / "metrics.ndjson").read_text() == '{"epoch": 1, "loss": null, "val_loss": null}\n'
    assert json.loads((metrics / "metrics.json").read_text())["metrics"] == [
        {"epoch": 1, "loss": None, "val_loss": None}
    ]
    assert "| 1 | null | null |" in (metrics / "metrics.md").read_text()
    assert "- **loss**: null\n" in (metrics / "metrics.md").read_text()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0.000000"), (-2.5, "-2.500000"), (2e-9, "2.000000e-09"), (123456789.0, "123456789.000000"),
     (-1e300, "-1.000000e+300"), (None, "null")],
)  # fmt: skip
def test_a_number_in_a_table_says_something(value: float | None, shown: str) -> None:
    assert curves.number(value) == shown


@given(st.lists(st.tuples(st.floats(), st.floats(allow_nan=False, allow_infinity=False)), max_size=20))
def test_both_json_files_hold_the_same_rows_at_full_precision(values: list[tuple[float, float]]) -> None:
    rows = [curves.row_of(n, {"loss": a, "val_loss": b}) for n, (a, b) in enumerate(values, 1)]

    found = json.loads(curves.as_json("x", rows), parse_constant=pytest.fail)["metrics"]

    assert [row["val_loss"] for row in found] == [b for _, b in values]
    assert [row["loss"] for row in found] == [a if math.isfinite(a) else None for a, _ in values]
    assert curves.as_markdown("x", rows).count("\n| ") == len(rows) + bool(rows)


def test_the_views_say_that_nothing_is_there_yet(tmp_path: Path) -> None:
    metrics = written(tmp_path, [])

    assert json.loads((metrics / "metrics.json").read_text()) == {"experiment": "my-first", "metrics": []}
    assert (metrics / "metrics.md").read_text() == "# Metrics Summary: my-first\n\nNo epoch was completed.\n"


def test_an_untrusted_name_stays_text(tmp_path: Path) -> None:
    name = "x\n# <img src=y> [a](b) `c` **d** | \x1b[31m"

    title = (written(tmp_path, [], name=name) / "metrics.md").read_text().split("\n")[0]

    assert title == r"# Metrics Summary: x \# \<img src=y\> \[a\](b) \`c\` \*\*d\*\* \|"


def test_a_row_is_in_the_file_before_the_next_epoch(tmp_path: Path) -> None:
    log = Curves.begin(RunPaths(tmp_path), "x")

    log.add(ROWS[0])

    assert (tmp_path / "metrics" / "metrics.ndjson").read_text() == '{"epoch": 1, "loss": 4.668918}\n'
    log.close()


class Counting(Curves):
    """Counts how often the views are written, and does not write them."""

    written = 0

    def publish(self) -> None:
        self.written += 1
        self._shown, self._shown_at = len(self.rows), self.clock()


def counted(folder: Path, *, n_rows: int, seconds_each: float) -> int:
    ticks: Iterator[int] = iter(range(1 << 30))
    log = Counting.begin(RunPaths(folder), "x", clock=lambda: next(ticks) * seconds_each)
    assert isinstance(log, Counting)
    for epoch in range(1, n_rows + 1):
        log.add({"epoch": epoch, "loss": 1.0})
        log.refresh()
    return log.written


def test_the_views_are_written_as_the_rows_grow_and_not_each_epoch(tmp_path: Path) -> None:
    often = counted(tmp_path, n_rows=2000, seconds_each=5)

    # every row up to 10, then each time they are a tenth more: log(2000 / 10) / log(1.1) = 56 times
    assert 50 < often < 75


def test_the_views_are_written_at_most_once_a_second(tmp_path: Path) -> None:
    assert counted(tmp_path, n_rows=50, seconds_each=0.001) == 1


def test_the_past_is_given_back_when_its_hash_is_right(tmp_path: Path) -> None:
    metrics = written(tmp_path, ROWS)
    lines = (metrics / "metrics.ndjson").read_bytes().splitlines(keepends=True)
    two = hashlib.sha256(b"".join(lines[:2])).hexdigest()

    past = curves.past(RunPaths(tmp_path), epoch=2, sha256=two)

    assert past is not None
    assert past.rows == ROWS[:2]
    assert curves.past(RunPaths(tmp_path), epoch=3, sha256=two) is None
    assert curves.past(RunPaths(tmp_path), epoch=2, sha256=None) is None


@pytest.mark.parametrize(
    "blob", [b"", b'{"epoch": 1, "loss": 4.668918}\n', b'{"epoch": 1, "loss": 4.668919}\n{"epo', None]
)
def test_a_past_that_is_not_there_any_more_is_none(tmp_path: Path, blob: bytes | None) -> None:
    file = written(tmp_path, ROWS[:2]) / "metrics.ndjson"
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    file.unlink()
    if blob is not None:
        file.write_bytes(blob)

    assert curves.past(RunPaths(tmp_path), epoch=2, sha256=sha256) is None


def test_rows_go_on_after_the_past_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole", ROWS)
    torn = written(tmp_path / "torn", ROWS[:2])
    past = Past((torn / "metrics.ndjson").read_bytes())
    with open(torn / "metrics.ndjson", "ab") as file:
        file.write(b'{"epoch": 3, "lo')

    log = Curves.begin(RunPaths(tmp_path / "torn"), "my-first", after=past)
    log.add(ROWS[2])
    sha256 = log.sha256
    log.close()

    for name in ("metrics.ndjson", "metrics.json", "metrics.md"):
        assert (torn / name).read_bytes() == (whole / name).read_bytes()
    assert sha256 == hashlib.sha256((whole / "metrics.ndjson").read_bytes()).hexdigest()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from autoexperiment.errors import HarnessError
from autoexperiment.paths import RunPaths
from autoexperiment.training.curves import Curves
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Curves.begin(RunPaths(Path(sys.argv[1])), "x")
file = Path(sys.argv[1], "metrics", "metrics.ndjson")
log.add({"epoch": 1, "loss": 1.0})
before = file.read_bytes()
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
for act in (lambda: log.add({"epoch": 2, "loss": 1.0}), log.publish):
    try:
        act()
    except HarnessError as error:
        print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert file.read_bytes() == before
log.add({"epoch": 2, "loss": 2.0})
log.close()
"""


def test_a_full_disk_is_said_and_leaves_whole_rows(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.count("can't be written: File too large.") == 2
    assert f"mlx run-experiment --resume {tmp_path}" in answer.stdout
    assert sorted(os.listdir(tmp_path / "metrics")) == ["metrics.json", "metrics.md", "metrics.ndjson"]
    assert (tmp_path / "metrics" / "metrics.ndjson").read_text().endswith('}\n{"epoch": 2, "loss": 2.0}\n')
