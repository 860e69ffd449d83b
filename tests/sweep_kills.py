"""Kills of a sweep at its failpoints, each in a fork of one process that has imported everything (see `main`)."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [place for place in (str(HERE), str(HERE.parent)) if place not in sys.path]

from held_points import Held, sweep_of  # noqa: E402

from autoexperiment import failpoint  # noqa: E402
from autoexperiment.config.sweep_loader import load_sweep  # noqa: E402
from autoexperiment.sweep import launching, optuna_samplers, results, workflows  # noqa: E402, F401
from autoexperiment.sweep.plans import make_plan  # noqa: E402
from autoexperiment.workflow import child  # noqa: E402, F401

KILLED = -signal.SIGKILL
AFTER_THE_POINT = ("sweep.result_left", "sweep.recorded")  # from here on nothing is run again

Row = dict[str, Any]


class Place:
    """A workspace with one sweep, run in forks."""

    def __init__(self, root: Path, config: dict[str, Any]) -> None:
        root.mkdir(parents=True)
        self.held, self.root = Held(root), root
        self._config = root / "sweep.json"
        self._config.write_text(json.dumps(config))

    def run(self, *, fail_at: int = 0, is_resumed: bool = True) -> int:
        """Minus the signal that killed it, or 0."""
        (self.root / "trace").unlink(missing_ok=True)

        def work() -> None:
            failpoint._fail_at, failpoint._trace = fail_at, str(self.root / "trace")
            plan = make_plan(load_sweep(self._config), root=self.root, is_resumed=is_resumed)
            assert launching.run(plan.launch)

        code = _in_child(work)
        assert code in (0, KILLED), code
        self.held.check_gone()
        return code

    def places(self) -> list[str]:
        """The failpoints that the last run reached."""
        return (self.root / "trace").read_text().split()

    def rows(self) -> list[Row]:
        """What readers get, without what differs between two runs."""
        found = results.find(self.root, "squares") if (self.root / "outputs").exists() else None
        facts = ("number", "trial", "rung", "seed", "params", "status", "reason", "key")
        rows = results.rows(found) if found else []
        return [{**{fact: row[fact] for fact in facts}, "value": row["metrics"]["value"]} for row in rows]


def _in_child(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def at_every_place(folder: Path, config: dict[str, Any]) -> list[str]:
    """Kill a sweep at each failpoint, every second one again while it goes on; the names of the failpoints."""
    whole = Place(folder / "whole", config)
    assert whole.run(is_resumed=False) == 0
    places, expected = whole.places(), whole.rows()
    for number, name in enumerate(places, start=1):
        place = Place(folder / f"killed{number}", config)
        assert place.run(fail_at=number, is_resumed=False) == KILLED
        assert place.places()[-1] == name
        kept = place.rows()
        assert [row for row in expected if row in kept] == kept, name
        lost = 0 if name in AFTER_THE_POINT else 1
        if number % 2 and place.run(fail_at=2 + number % 9) == KILLED:
            lost += place.places()[-1] not in AFTER_THE_POINT
        assert place.run() == 0
        assert place.rows() == expected, name
        assert len(place.held.said("begun")) <= len(expected) + lost, name
    return places


def again_and_again(folder: Path, config: dict[str, Any], *, seed: int) -> int:
    """Kill a sweep at random failpoints until it ends; how often it was killed."""
    whole, killed, chance = Place(folder / "whole", config), Place(folder / "killed", config), random.Random(seed)
    assert whole.run(is_resumed=False) == 0
    kills = 0
    while killed.run(fail_at=chance.randrange(4, 40)) == KILLED:
        kills += 1
    assert killed.rows() == whole.rows()
    return kills


def main(argv: list[str]) -> int:
    """Usage: sweep_kills.py every|again FOLDER CONFIG_JSON. Prints what the function gives.

    A kill, unlike a power cut, loses nothing that was written: the disk need not be waited for.
    """
    os.fsync = lambda fd: None
    config = {**sweep_of([]), **json.loads(argv[2])}
    if argv[0] == "every":
        print(json.dumps(at_every_place(Path(argv[1]), config)))
    else:
        print(json.dumps(again_and_again(Path(argv[1]), config, seed=3)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
