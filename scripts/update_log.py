"""Write a session's part of the daily log again from its ledger, and the ideas to try next into EXPERIMENT.md.

Usage: python3 scripts/update_log.py [--tag TAG] [--date YYYY-MM-DD] [--next IDEA ...] [--json]

The log is internal/log/log_YYYY-MM-DD.md; text around the session's marked section stays as it is.
`--next` replaces the items under "Next to try", the most promising first, and needs no session.
Exit codes: 0 written, 1 refused, 2 usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.version_info < (3, 11):  # noqa: UP036  a bare python3 may be older than the one that the package asks for
    sys.exit("update_log: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
sys.path.insert(0, str(ROOT))

from autoexperiment import daily_log, record, session  # noqa: E402
from autoexperiment.errors import LabError, Refused  # noqa: E402
from autoexperiment.ledger import read_ledger  # noqa: E402
from autoexperiment.paths import ProjectPaths, find_root  # noqa: E402


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tag", help="default: that of branch autoresearch/TAG, else 'by-hand'")
    parser.add_argument("--date", type=date.fromisoformat, default=date.today(), help="default: today")
    parser.add_argument(
        "--next", nargs="+", metavar="IDEA", dest="ideas", help="what to try next, one idea a word group"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    """Write what there is to write, then say where."""
    project = ProjectPaths(find_root(Path.cwd()))
    tag, day = options.tag or record.default_tag(project.root), options.date.isoformat()
    written: dict[str, str] = {}
    if options.ideas is None or session.exists(project.root, tag):
        ledger = read_ledger(session.require(project.root, tag).ledger)
        if log := daily_log.write_day(project, tag, day, ledger):
            written["log"] = str(log)
    if options.ideas is not None:
        daily_log.set_next_to_try(project.experiment_notes, options.ideas)
        written["next_to_try"] = str(project.experiment_notes)
    if not written:
        raise Refused(f"Session {tag} decided nothing on {day}. Name another day: --date YYYY-MM-DD")
    print(json.dumps({"tag": tag, **written}) if options.json else "Wrote " + ", ".join(written.values()))
    return 0


def main(argv: list[str]) -> int:
    """Parse, do, print; a failure is one line on stderr."""
    try:
        return run(parse(argv))
    except (LabError, OSError) as error:
        print(f"update_log: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LabError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
