"""Say whether a session's circuit breaker is open, or close it after the cause was mended.

Usage: python3 scripts/circuit_breaker.py [--tag TAG] [--reset REASON] [--json]

It opens after three crashes in a row with the same fingerprint, or eight of any kind.
Exit codes: 0 closed, 1 refused, 2 usage, 3 open.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.version_info < (3, 11):  # noqa: UP036  a bare python3 may be older than the one that the package asks for
    sys.exit("circuit_breaker: Python 3.11 or newer is needed, this is " + sys.version.split()[0])
sys.path.insert(0, str(ROOT))

from autoexperiment import record, session  # noqa: E402
from autoexperiment.errors import BreakerOpen, LabError  # noqa: E402
from autoexperiment.ledger import read_ledger  # noqa: E402
from autoexperiment.paths import ProjectPaths, find_root  # noqa: E402


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tag", help="default: that of branch autoresearch/TAG, else 'by-hand'")
    parser.add_argument("--reset", metavar="REASON", help="close it, saying what was mended")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> int:
    """Print the state, after closing it where that was asked."""
    project = ProjectPaths(find_root(Path.cwd()))
    tag = options.tag or record.default_tag(project.root)
    ledger = session.require(project.root, tag).ledger
    if options.reset is not None:
        record.close_breaker(project, tag, options.reset)
    state = session.breaker_state(read_ledger(ledger))
    if options.json:
        facts = {"open": state.open, "streak": state.streak, "same": state.same, "fingerprint": state.fingerprint}
        print(json.dumps({"tag": tag, **facts, "reason": state.reason, "ledger": str(ledger)}))
    elif state.open:
        print(
            f"Session {tag}: open. {state.reason} Mend the cause, then: circuit_breaker.py --tag {tag} --reset REASON"
        )
    else:
        print(f"Session {tag}: closed, {state.streak} crashes in a row ({ledger})")
    return BreakerOpen.exit_code if state.open else 0


def main(argv: list[str]) -> int:
    """Parse, do, print; a failure is one line on stderr."""
    try:
        return run(parse(argv))
    except (LabError, OSError) as error:
        print(f"circuit_breaker: {error}", file=sys.stderr)
        return error.exit_code if isinstance(error, LabError) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
