"""The benchmark of sweeps still measures what it says: the figures themselves are the machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def test_overhead_is_the_difference_of_what_was_measured_in_pairs(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "sweep.py"), "overhead", "--trials", "3", "--json"]

    done = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )

    found = json.loads(done.stdout)
    claims = {claim["name"]: claim for claim in found["overhead"]}
    ours, bare, added = (
        claims[name] for name in ("a trial through the sweep", "the same process bare", "what the sweep adds")
    )
    assert abs(added["figure"] - (ours["figure"] - bare["figure"])) < 1e-9
    assert bare["figure"] > 0
    assert found["holds"] == (added["figure"] <= added["limit"])
    assert done.returncode == (0 if found["holds"] else 1)


def test_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    words = [sys.executable, str(BENCHMARKS / "sweep.py"), "overheads"]

    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    assert done.returncode == 2
    assert "unknown part 'overheads'; there are: overhead, parallel, large, engines" in done.stderr


def test_engine_that_is_not_installed_is_a_row_that_says_so() -> None:
    code = (
        "import sys, engines; from pathlib import Path; engines.LIBRARIES[engines.DASK] = 'no_such_library_here'; "
        "print(engines.render([engines._row(engines.DASK, Path('.'), 1)]))"
    )

    done = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True)

    assert done.stdout.splitlines()[-1].split() == ["dask", "local", "not", "installed"]
