"""How fast a long ledger opens, and whether an append costs more at its end than at its start.

Usage: python3 benchmarks/ledger.py [--rows 100000] [--appends 1000] [--json]

Writes to a temporary folder only (--folder chooses its disk). The opening is measured in a process of
its own, so that its memory is the ledger's. Both append series alternate, so that a busy machine slows
both. Exit codes: 0 within the limits (open < 2 s, p50 ratio < 1.5) · 1 not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from autoexperiment import journal
from autoexperiment.ledger import Ledger
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict

OPEN_LIMIT_S = 2.0
RATIO_LIMIT = 1.5
RECORDS_PER_EXPERIMENT = 6
METRICS = {"val_bpb": 1.234567, "avg_tok_sec": 8416.0, "peak_memory_mb": 612.5, "num_steps": 500, "wall_s": 301.25}
ENDING = {"outcome": "ok", "returncode": 0, "wall_s": 301.25, "cpu_s": 590.5, "reason": "It ended by itself."}
_OPEN = """
import json, re, resource, sys, time
from pathlib import Path
from autoexperiment.ledger import Ledger

def peak_mb():
    # On Linux ru_maxrss keeps the parent's peak across exec; VmHWM does not.
    if sys.platform == "darwin":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e6

before = peak_mb()
start, start_cpu = time.perf_counter(), time.process_time()
ledger = Ledger.open(Path(sys.argv[1]))
wall_s, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
print(json.dumps({"open_s": wall_s, "open_cpu_s": cpu_s, "peak_rss_mb": peak_mb(), "imports_rss_mb": before,
                  "experiments": len(ledger.experiments)}))
"""


def session_record() -> dict[str, object]:
    return {
        "kind": "session", "version": 1, "tag": "b", "branch": "autoresearch/b", "base": "0" * 40, "recipe": {},
        "budget": "300s", "policy": "quality", "dataset": None, "snapshot": None, "harness": {}, "machine": {},
        "options": {},
    }  # fmt: skip


def experiment_records(number: int) -> list[dict[str, object]]:
    """The six records of one discarded experiment."""
    commit, at = f"{number:040x}", {"experiment": number, "run": 0}
    return [
        {"kind": "begin", "experiment": number, "commit": commit, "base": "0" * 40, "content": commit * 2,
         "description": f"raise MATRIX_LR to 0.{number}", "lines_added": 1, "lines_removed": 1, "source": "search"},
        {"kind": "started", **at, "folder": f"outputs/autoresearch-b/{number}", "seed": 42},
        {"kind": "ended", **at, "ending": ENDING},
        {"kind": "scored", **at, "metrics": METRICS, "trust": str(TrustLevel.RECOMPUTED)},
        {"kind": "decided", "experiment": number, "verdict": str(Verdict.DISCARD), "outcome": str(Outcome.OK),
         "reason": "not better than the noise", "evidence": {"rule": "noise", "gain": -0.001}, "metrics": METRICS},
        {"kind": "applied", "experiment": number, "head": "0" * 40},
    ]  # fmt: skip


def write_ledger(path: Path, rows: int) -> int:
    """A whole ledger of at least `rows` records, without the fsync of each; returns how many."""
    records, number = [session_record()], 0
    while len(records) < rows:
        records += experiment_records(number)
        number += 1
    stamp = "2026-01-01T00:00:00.000+00:00"
    path.write_bytes(b"".join(journal.encode({**r, "seq": n, "time": stamp}) for n, r in enumerate(records, 1)))
    return len(records)


def measure_open(path: Path, *, repeats: int = 5) -> dict[str, float]:
    """The fastest of several processes that open the ledger: other load only ever adds."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    answers = []
    for _ in range(repeats):
        answer = subprocess.run(
            [sys.executable, "-c", _OPEN, str(path)], capture_output=True, text=True, env=environment, check=True
        )
        answers.append(json.loads(answer.stdout))
    found: dict[str, float] = sorted(answers, key=lambda a: a["open_s"])[0]
    return found


def measure_appends(ledgers: list[Ledger], count: int) -> list[list[float]]:
    """Seconds of each append, one list a ledger; the ledgers take turns, experiment by experiment."""
    series: list[list[float]] = [[] for _ in ledgers]
    for _ in range(max(1, count // RECORDS_PER_EXPERIMENT)):
        for ledger, seconds in zip(ledgers, series, strict=True):
            for record in experiment_records(len(ledger.experiments)):
                kind = str(record.pop("kind"))
                start = time.perf_counter()
                ledger.append(kind, **record)
                seconds.append(time.perf_counter() - start)
    return series


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    return {"p50_ms": median(seconds) * 1e3, "p99_ms": quantiles(seconds, n=100)[98] * 1e3}


def disk_only_ms(folder: Path, count: int) -> dict[str, float]:
    """What this disk takes for one write and fsync of 400 bytes: the floor under every append."""
    seconds = []
    fd = os.open(folder / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for _ in range(count):
        start = time.perf_counter()
        os.write(fd, b"x" * 400)
        journal.files.fsync(fd)
        seconds.append(time.perf_counter() - start)
    os.close(fd)
    return percentiles_ms(seconds)


def measure(folder: Path, rows: int, appends: int) -> dict[str, object]:
    """Every figure of this benchmark."""
    long = folder / "long.jsonl"
    written = write_ledger(long, rows)
    size_mb = long.stat().st_size / 1e6
    opened = measure_open(long)
    write_ledger(folder / "short.jsonl", 1)
    ledgers = [Ledger.open(folder / "short.jsonl"), Ledger.open(long)]
    short, grown = (percentiles_ms(series) for series in measure_appends(ledgers, appends))
    return {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count(),
                    "load": os.getloadavg()[0]},
        "rows": written, "size_mb": size_mb, **opened,
        "append_at_0": short, "append_at_rows": grown, "disk_alone": disk_only_ms(folder, appends),
        "p50_ratio": grown["p50_ms"] / short["p50_ms"], "p99_ratio": grown["p99_ms"] / short["p99_ms"],
    }  # fmt: skip


def show(found: dict[str, object]) -> str:
    rows = found["rows"]
    lines = [
        f"machine     {found['machine']}",
        f"open        {found['open_s']:.2f} s ({found['open_cpu_s']:.2f} s of CPU) for {rows} rows ({found['size_mb']:.1f} MB), "
        f"peak memory {found['peak_rss_mb']:.0f} MB ({found['imports_rss_mb']:.0f} MB of it before opening)",
        f"{'':22}{'p50 ms':>9}{'p99 ms':>9}",
    ]
    for title, key in (("append at 0 rows", "append_at_0"), (f"append at {rows}", "append_at_rows"),
                       ("disk alone", "disk_alone")):  # fmt: skip
        figures: dict[str, float] = found[key]  # type: ignore[assignment]
        lines.append(f"{title:22}{figures['p50_ms']:9.3f}{figures['p99_ms']:9.3f}")
    return "\n".join([*lines, f"{'ratio':22}{found['p50_ratio']:9.2f}{found['p99_ratio']:9.2f}"])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--appends", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="where to put the temporary folder")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=words.folder) as folder:
        found = measure(Path(folder), words.rows, words.appends)
    is_fine = found["open_s"] < OPEN_LIMIT_S and found["p50_ratio"] < RATIO_LIMIT  # type: ignore[operator]
    print(json.dumps(found) if words.json else show(found))
    if not words.json:
        print(
            f"{'Within' if is_fine else 'NOT within'} the limits: open < {OPEN_LIMIT_S} s, p50 ratio < {RATIO_LIMIT}."
        )
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
