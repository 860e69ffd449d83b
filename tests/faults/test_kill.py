"""Kill -9 anywhere: nothing lost, nothing twice, and git, ledger and files agree.

Every failpoint of a whole small night is visited, alone and followed by a second kill inside the
recovery; then random kills of the whole process group. `AUTOEXPERIMENT_KILLS` sets how many.
"""

from __future__ import annotations

import json
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import standin

from autoexperiment import history, session
from autoexperiment.ledger import read_ledger
from autoexperiment.vocabulary import Verdict

KILLS = int(os.environ.get("AUTOEXPERIMENT_KILLS", "200"))
NIGHT = """
import contextlib, json, os, sys, traceback
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import standin
from autoexperiment import failpoint, loop, night, session
from autoexperiment.errors import BudgetSpent
from autoexperiment.recipe import Floor

class Planned:
    name = "planned"
    def propose(self, going):
        running = going.session
        n = night.judged(running)
        edits = [dict(VALUE=1.5), dict(VALUE=1.9), dict(MODE="crash"), dict(VALUE=1.2)]
        lines = running.files_of(running.head)["train.py"].decode().split("\\n")
        for name, value in {**edits[n % 4], "SPEED": 1000 + n}.items():
            if name == "VALUE":
                value = value - 0.001 * n
            lines = [f"{name} = {value!r}  # {n}" if l.startswith(f"{name} = ") else l for l in lines]
        extra = {f"extra/deep/e{n}.py": b"N = 1"} if n % 2 == 0 else {}  # added by one, removed by the next
        return loop.Proposal({"train.py": "\\n".join(lines).encode(), **extra}, f"edit {n}")

setup = (("sh", "-c", "mkdir made; echo set up > made/mark"),)
recipe = replace(standin.RECIPE, mutable=("train.py", "extra/**"), setup=setup, floor=Floor(baseline_runs=2))
plan = replace(standin.PLAN, recipe=recipe)

def work(tag, count):
    root = Path.cwd()
    opened = session.open_session(root, tag) if session.exists(root, tag) else session.start(root, tag, plan)
    with opened as running, contextlib.suppress(BudgetSpent):
        night.drive(running, Planned(), night.Limit(experiments=count))

def begin(asked):
    for number, path in enumerate((os.devnull, os.devnull, asked["complaint"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["root"])
    failpoint._fail_at = int(os.environ.get("AUTOEXPERIMENT_FAIL_AT", "0"))
    work(asked["tag"], asked["count"])

if len(sys.argv) > 2:
    work(sys.argv[2], int(sys.argv[3]))
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        code = 1
        try:
            begin(json.loads(line))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.setpgid(pid, pid)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Nights:
    """Starts nights, one at a time: each a process and a process group of its own, forked from one that has imported
    the loop, so that a kill falls on the work and not on the imports."""

    def __init__(self, folder: Path) -> None:
        self.complaint = folder / "complaint"
        command = [sys.executable, "-c", NIGHT, str(Path(standin.__file__).parent)]
        self.server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, root: Path, tag: str, count: int, **variables: str) -> int:
        """Begin or go on with a night; returns the process group's number."""
        asked = {"root": str(root), "tag": tag, "count": count, "complaint": str(self.complaint)}
        environment = {**os.environ, **variables}
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps({**asked, "environment": environment}).encode() + b"\n")
        self.server.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self.server.stdout is not None
        line = self.server.stdout.readline()
        assert line, "the server of nights died"
        return int(line)

    def has_ended(self, *, within_s: float) -> bool:
        return bool(select.select([self.server.stdout], [], [], within_s)[0])

    def finish(self) -> int:
        """Wait for the night's end; 0, or -9 when it was killed."""
        code = self._answer()
        assert code in (0, -signal.SIGKILL), self.complaint.read_text()
        return code

    def run(self, root: Path, tag: str, count: int, **variables: str) -> int:
        self.start(root, tag, count, **variables)
        return self.finish()

    def close(self) -> None:
        self.server.communicate()


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nights]:
    made = Nights(tmp_path_factory.mktemp("nights"))
    yield made
    made.close()


def untouched(root: Path) -> tuple[str, str]:
    return standin.git(root, "rev-parse", "main"), (root / "mine.txt").read_text()


def check_agreement(root: Path, tag: str, count: int) -> None:
    """The invariants, read from the ledger, from git and from the files."""
    ledger = read_ledger(session.require(root, tag).ledger)
    experiments = ledger.experiments
    assert ledger.unfinished is None
    assert [e.number for e in experiments] == list(range(len(experiments)))
    judged = [e for e in experiments if e.verdict is not None]
    assert len(judged) == count + 1
    assert len({e.content for e in judged}) == len(judged)
    for experiment in experiments:
        ref = f"refs/autoexperiment/{tag}/run-{experiment.number:05d}"
        assert standin.git(root, "rev-parse", ref) == experiment.commit
        folders = [run.folder for run in experiment.runs]
        assert len(set(folders)) == len(folders)
        assert all(run.ending is not None for run in experiment.runs)
    kept = [e for e in experiments if e.verdict is Verdict.KEEP]
    assert standin.git(root, "rev-parse", f"autoresearch/{tag}") == kept[-1].commit
    assert standin.git(root, "symbolic-ref", "HEAD") == f"refs/heads/autoresearch/{tag}"
    assert standin.git(root, "status", "--porcelain") == "?? mine.txt"
    assert standin.git(root, "show", "HEAD:train.py") == (root / "train.py").read_text().rstrip("\n")
    assert standin.git(root, "fsck", "--no-dangling") == ""
    rows = (root / "results.tsv").read_text().splitlines()[1:]
    assert len(rows) == len(judged)
    check_history(root, tag)


def check_history(root: Path, tag: str) -> None:
    """Every run directory is in the index once, as what it ended as."""
    runs = history.get_runs_by_experiment(root / "outputs" / "index.json", f"autoresearch-{tag}")
    folders = {path.parent for path in (root / "outputs" / f"autoresearch-{tag}").glob("*/.lock")}
    recorded = {path.parent for path in (root / "outputs" / f"autoresearch-{tag}").glob("*/run.json")}
    assert len({run["run_dir"] for run in runs}) == len(runs)
    assert folders <= {root / "outputs" / run["run_dir"] for run in runs}
    ended = {root / "outputs" / run["run_dir"] for run in runs if run["status"] in ("completed", "failed")}
    assert ended == recorded
    assert {run["status"] for run in runs} <= {"completed", "failed", "interrupted"}


Judged = list[tuple[str, str | None, dict[str, float]]]


def reference(root: Path, tag: str) -> Judged:
    experiments = read_ledger(session.require(root, tag).ledger).experiments
    steady = ("val_bpb", "avg_tok_sec", "num_steps")
    return [
        (e.content, e.verdict, {k: v for k, v in e.metrics.items() if k in steady})
        for e in experiments
        if e.verdict is not None
    ]


COUNT = 3  # after the baseline: one that is kept, one discarded, one that crashes


@dataclass(frozen=True)
class Uninterrupted:
    """A night that nobody killed, in an interpreter of its own: the failpoints that it reached, what it judged, and how
    long it took on this machine."""

    trace: list[str]
    judged: Judged
    wall_s: float

    @property
    def places(self) -> list[int]:
        """Where each failpoint is reached first, and where last; counted from 1."""
        names = set(self.trace)
        last = {name: len(self.trace) - self.trace[::-1].index(name) for name in names}
        return sorted({self.trace.index(name) + 1 for name in names} | set(last.values()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    folder = tmp_path_factory.mktemp("trace")
    home = folder / "home"
    home.mkdir()
    file = folder / "trace.txt"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in standin.git_environment(home).items():
            patch.setenv(name, value)
        root = standin.make_project(folder / "project")
        command = [sys.executable, "-c", NIGHT, str(Path(standin.__file__).parent), "t", str(COUNT)]
        variables = {**os.environ, "AUTOEXPERIMENT_FAIL_TRACE": str(file)}
        began = time.monotonic()
        subprocess.run(command, cwd=root, env=variables, check=True, stdin=subprocess.DEVNULL)
        wall_s = time.monotonic() - began
        check_agreement(root, "t", COUNT)
        return Uninterrupted(file.read_text().split(), reference(root, "t"), wall_s)


def test_the_night_reaches_every_failpoint_that_the_code_declares(whole: Uninterrupted) -> None:
    package = Path(session.__file__).parent
    files = [file for file in package.rglob("*.py") if file.parent.name not in ("training", "sweep")]  # not a night's
    declared = {name for file in files for name in re.findall(r'reach\("([a-z_.]+)"\)', file.read_text())}
    only_in_recovery = {name for name in declared if name.startswith("recover.")} | {"journal.torn_saved"}

    assert len(declared) > 15
    assert declared - only_in_recovery <= set(whole.trace)
    assert [verdict for _, verdict, _ in whole.judged] == ["keep", "keep", "discard", "crash"]


SECONDS = (0, 1, 2, 4, 7, 11)
PARTS = 4  # of the sweep, so that they can run side by side


@pytest.mark.parametrize("part", range(PARTS))
def test_kill_at_every_failpoint_and_again_during_recovery(
    project: Path, nights: Nights, whole: Uninterrupted, part: int
) -> None:
    scenarios = list(enumerate(whole.places))[part::PARTS]
    assert len(scenarios) >= 20 // PARTS
    killed_twice = 0

    for n, place in scenarios:
        second = SECONDS[n // PARTS % len(SECONDS)]
        tag = f"k{place}-{second}"
        standin.git(project, "switch", "-q", "main")
        kept_safe = untouched(project)
        assert nights.run(project, tag, COUNT, AUTOEXPERIMENT_FAIL_AT=str(place)) == -signal.SIGKILL
        if second:
            killed_twice += nights.run(project, tag, COUNT, AUTOEXPERIMENT_FAIL_AT=str(second)) == -signal.SIGKILL
        assert nights.run(project, tag, COUNT) == 0
        check_agreement(project, tag, COUNT)
        assert untouched(project) == kept_safe
        assert reference(project, tag) == whole.judged

    assert killed_twice >= len(scenarios) // 3


def test_random_kills_lose_nothing_and_double_nothing(project: Path, nights: Nights, whole: Uninterrupted) -> None:
    seed = int(os.environ.get("AUTOEXPERIMENT_SEED", "5"))
    rng = random.Random(seed)
    kills, count, number, statuses = 0, 12, 0, Counter[str]()
    longest_s = whole.wall_s / 3  # a busy machine needs longer to get on between two kills
    while kills < KILLS:
        tag = f"r{number}"
        standin.git(project, "switch", "-q", "main")
        kept_safe = untouched(project)
        while True:
            group = nights.start(project, tag, count)
            if kills < KILLS and not nights.has_ended(within_s=rng.uniform(0.01, longest_s)):
                os.killpg(group, signal.SIGKILL)
            if nights.finish() == 0:
                break
            kills += 1
        check_agreement(project, tag, count)
        assert untouched(project) == kept_safe
        statuses.update(str(e.verdict) for e in read_ledger(session.require(project, tag).ledger).experiments)
        number += 1
    print(json.dumps({"kills": kills, "nights": number, "seed": seed, "verdicts": statuses}))
    assert statuses["keep"] and statuses["discard"] and statuses["crash"]


def test_no_process_outlives_the_killed_loop(project: Path, nights: Nights) -> None:
    standin.edit(project, MODE="hang")
    standin.git(project, "commit", "-qam", "hang")
    group = nights.start(project, "h", 1)
    paths = session.ProjectPaths(project).session("h")
    ledger, marker = paths.ledger, str(paths.place)
    deadline = time.monotonic() + 30
    while not (ledger.exists() and any(marker in line for line in commands_in(marker))):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    os.kill(group, signal.SIGKILL)  # the loop alone, not its group
    assert nights.finish() == -signal.SIGKILL

    deadline = time.monotonic() + 10
    while commands_in(marker):
        assert time.monotonic() < deadline, commands_in(marker)
        time.sleep(0.05)


def commands_in(folder: str) -> list[str]:
    """Processes whose working directory lies in a folder."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(folder):
                found.append(f"{process.pid} {process.cwd()}")
        except (psutil.Error, OSError):
            continue
    return found
