"""Record an experiment's result by hand: into the ledger, from which results.tsv is written again.

Usage: python3 scripts/record_result.py --description TEXT --status keep|discard|crash
           [--metric NAME=VALUE ...] [--last-run data/last_run.json] [--log run.log]
           [--commit HASH] [--tag TAG] [--goal minimize|maximize] [--json]
       python3 scripts/record_result.py --import FILE.tsv [--tag TAG] [--goal minimize|maximize] [--json]

The first metric ever named is the session's; `val_bpb` when none is. Numbers recorded here are self-reported.
`--log` says why a crash crashed, so that the circuit breaker knows equal crashes.
Exit codes: 0 recorded, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.version_info < (3, 11):  # noqa: UP036  a bare python3 may be older than the one that the package asks for
    sys.exit("record_result: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
sys.path.insert(0, str(ROOT))

from autoexperiment import record  # noqa: E402
from autoexperiment.candidates import Repository  # noqa: E402
from autoexperiment.errors import LabError, UsageError  # noqa: E402
from autoexperiment.metrics import JSON_BYTES, parse_number  # noqa: E402
from autoexperiment.paths import ProjectPaths, find_root  # noqa: E402
from autoexperiment.vocabulary import Goal, TrustLevel, Verdict  # noqa: E402


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--description", help="what changed, in one line")
    parser.add_argument("--status", type=str.lower, choices=[str(v) for v in Verdict])
    parser.add_argument("--metric", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--last-run", type=Path, metavar="FILE", help="take the numbers from this data/last_run.json")
    parser.add_argument("--log", type=Path, metavar="FILE", help="output of the run that crashed")
    parser.add_argument("--commit", help="default: the commit that is checked out")
    parser.add_argument("--tag", help="default: that of branch autoresearch/TAG, else 'by-hand'")
    parser.add_argument("--goal", choices=[str(g) for g in Goal], help="of the metric, on first use")
    parser.add_argument("--import", dest="file", type=Path, metavar="FILE", help="take over a results.tsv")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args(argv)
    by_hand = (options.description, options.status, options.metric, options.last_run, options.log, options.commit)
    if options.file is not None and any(by_hand):
        parser.error("--import takes the rows as they are: leave the other options away, but --tag and --goal")
    if options.file is None and (options.description is None or options.status is None):
        parser.error("--description and --status are needed, for example: --description 'wider MLP' --status discard")
    return options


def named_number(text: str) -> tuple[str, float]:
    """`val_bpb=1.859` as a pair."""
    name, sign, value = text.partition("=")
    if not (name and sign):
        raise UsageError(f"{text!r} is not NAME=VALUE. For example: --metric val_bpb=1.859")
    return name, parse_number(value.strip(), has_commas=True)


def checked_out(root: Path) -> str:
    """The commit that is checked out."""
    commit = Repository(root).resolve("HEAD")
    if commit is None:
        raise UsageError("There is no commit yet to record a result for. Name one: --commit exp000")
    return commit


def entry(options: argparse.Namespace, project: ProjectPaths, tag: str) -> record.Entry:
    """What the command line says about one experiment."""
    given = dict(named_number(text) for text in options.metric)
    if options.last_run is not None:
        metric = record.primary_metric(project, tag) or next(iter(given), "val_bpb")
        with options.last_run.open("rb") as file:
            given = {**record.last_run_metrics(file.read(JSON_BYTES + 1), metric), **given}
    failure = record.failure_of(options.log, project.root) if options.log is not None else None
    commit = options.commit if options.commit is not None else checked_out(project.root)
    return record.Entry(commit, Verdict(options.status), options.description, given, failure=failure)


def run(options: argparse.Namespace) -> int:
    """Record, then say what was written and where."""
    project = ProjectPaths(find_root(Path.cwd()))
    tag = options.tag or record.default_tag(project.root)
    goal = Goal(options.goal) if options.goal else None
    if options.file is not None:
        done = record.import_file(project, tag, options.file, goal=goal)
    else:
        done = [record.record_by_hand(project, tag, entry(options, project, tag), goal=goal)]
    paths = {"ledger": str(project.session(tag).ledger), "results": str(project.results)}
    if options.json:
        numbers = [e.number for e in done]
        print(json.dumps({"tag": tag, "experiments": numbers, "trust": str(TrustLevel.SELF_REPORTED), **paths}))
    else:
        print(f"Recorded {len(done)} in session {tag}: {paths['results']}, from {paths['ledger']}")
    return 0


def main(argv: list[str]) -> int:
    """Parse, do, print; a failure is one line on stderr."""
    try:
        return run(parse(argv))
    except (LabError, OSError) as error:
        print(f"record_result: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LabError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
