"""Take numbers out of a run's log or JSON file by one strict grammar; what is not a number is refused.

Usage: python3 scripts/parse_metrics.py LOG [--metric NAME | --pattern RE | --json-pointer P] [--json]

Without an option: every known metric after the last `---` line. Only the last megabyte of a log is read.
Every number printed is self-reported: the code under test wrote it.
Exit codes: 0 found, 1 missing, twice, malformed or not finite, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.version_info < (3, 11):  # noqa: UP036  a bare python3 may be older than the one that the package asks for
    sys.exit("parse_metrics: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
sys.path.insert(0, str(ROOT))

from autoexperiment import metrics  # noqa: E402
from autoexperiment.errors import LabError, UsageError  # noqa: E402


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("log", type=Path)
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--metric", metavar="NAME", help="the one full line 'NAME: value'")
    way.add_argument("--pattern", metavar="RE", help="group 1 of the one line that matches")
    way.add_argument("--json-pointer", metavar="P", help="the file is JSON: the number at, say, /result/val_bpb")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def numbers(options: argparse.Namespace) -> dict[str, float]:
    """What was asked for, by name."""
    if not options.log.is_file():
        raise UsageError(f"There is no file {options.log}. Give the log that the run's output went to: run.log")
    if options.json_pointer is not None:
        with options.log.open("rb") as file:
            return {options.json_pointer: metrics.extract_json(file.read(metrics.JSON_BYTES + 1), options.json_pointer)}
    log = metrics.read_tail(options.log)
    if options.metric is not None:
        return {options.metric: metrics.extract_line(log, options.metric)}
    if options.pattern is not None:
        return {options.pattern: metrics.extract_pattern(log, options.pattern)}
    return metrics.parse_block(log)


def run(options: argparse.Namespace) -> int:
    """Print the numbers."""
    found = numbers(options)
    if options.json:
        print(json.dumps({"metrics": found, "trust": "self_reported", "source": str(options.log)}, allow_nan=False))
    else:
        print("\n".join(f"{name}\t{value!r}" for name, value in found.items()))
    return 0


def main(argv: list[str]) -> int:
    """Parse, do, print; a failure is one line on stderr."""
    try:
        return run(parse(argv))
    except (LabError, OSError) as error:
        print(f"parse_metrics: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LabError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
