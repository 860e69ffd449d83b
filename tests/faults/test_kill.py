"""Kill -9 anywhere: nothing lost, nothing twice, and git, ledger and files agree.

Every failpoint of a whole small night is visited, alone and followed by a second kill inside the
recovery; then random kills of the whole process group. `AUTOEXPERIMENT_KILLS` sets how many.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import standin

from autoexperiment import session
from autoexperiment.ledger import read_ledger
from autoexperiment.vocabulary import Verdict

KILLS = int(os.environ.get("AUTOEXPERIMENT_KILLS", "200"))
NIGHT = """
import contextlib, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
import standin
from autoexperiment import loop, night, session
from autoexperiment.errors import BudgetSpent
from autoexperiment.recipe import Floor
root, tag, count = Path.cwd(), sys.argv[1], int(sys.argv[2])

class Planned:
    name = "planned"
    def propose(self, going):
        running = going.session
        n = night.judged(running)
        edits = [dict(VALUE=1.5), dict(VALUE=1.9), dict(MODE="crash"), dict(VALUE=1.2)]
        lines = running.files_of(running.head)["train.py"].decode().split("\\n")
        for name, value in {{**edits[n % 4], "SPEED": 1000 + n}}.items():
            if name == "VALUE":
                value = value - 0.001 * n
            lines = [f"{{name}} = {{value!r}}  # {{n}}" if l.startswith(f"{{name}} = ") else l for l in lines]
        extra = {{f"extra/deep/e{{n}}.py": b"N = 1"}} if n % 2 == 0 else {{}}  # added by one, removed by the next
        return loop.Proposal({{"train.py": "\\n".join(lines).encode(), **extra}}, f"edit {{n}}")

setup = (("sh", "-c", "mkdir made; echo set up > made/mark"),)
recipe = replace(standin.RECIPE, mutable=("train.py", "extra/**"), setup=setup, floor=Floor(baseline_runs=2))
plan = replace(standin.PLAN, recipe=recipe)

if session.exists(root, tag):
    opened = session.open_session(root, tag)
else:
    opened = session.start(root, tag, plan)
with opened as running, contextlib.suppress(BudgetSpent):
    night.drive(running, Planned(), night.Limit(experiments=count))
"""


def night(root: Path, tag: str, count: int, **variables: str) -> subprocess.Popen[bytes]:
    code = NIGHT.format(tests=str(Path(standin.__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", code, tag, str(count)], cwd=root, env={**os.environ, **variables},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[bytes]) -> int:
    _, complaint = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), complaint.decode()
    return process.returncode


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


def reference(root: Path, tag: str) -> list[tuple[str, str | None, dict[str, float]]]:
    experiments = read_ledger(session.require(root, tag).ledger).experiments
    steady = ("val_bpb", "avg_tok_sec", "num_steps")
    return [
        (e.content, e.verdict, {k: v for k, v in e.metrics.items() if k in steady})
        for e in experiments
        if e.verdict is not None
    ]


COUNT = 4


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names of the failpoints that one uninterrupted night reaches, in order."""
    folder = tmp_path_factory.mktemp("trace")
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in standin.git_environment(home).items():
            patch.setenv(name, value)
        root = standin.make_project(folder / "project")
        file = folder / "trace.txt"
        assert finish(night(root, "t", COUNT, AUTOEXPERIMENT_FAIL_TRACE=str(file))) == 0
        check_agreement(root, "t", COUNT)
    return file.read_text().split()


def test_the_night_reaches_every_failpoint_that_the_code_declares(trace: list[str]) -> None:
    package = Path(session.__file__).parent
    import re

    declared = {
        name for file in package.rglob("*.py") for name in re.findall(r'reach\("([a-z_.]+)"\)', file.read_text())
    }
    only_in_recovery = {name for name in declared if name.startswith("recover.")} | {"journal.torn_saved"}

    assert len(declared) > 15
    assert declared - only_in_recovery <= set(trace)


def test_kill_at_every_failpoint_and_again_during_recovery(project: Path, trace: list[str]) -> None:
    expected: list[tuple[str, str | None, dict[str, float]]] | None = None
    scenarios, killed_twice = 0, 0
    # The first experiments of each kind contain every failpoint; the rest of the night repeats them.
    first_places = sorted(
        {trace.index(name) + 1 for name in set(trace)} | {len(trace) - trace[::-1].index(n) for n in set(trace)}
    )
    seconds = (0, 1, 2, 4, 7, 11)
    for n, place in enumerate(first_places):
        second = seconds[n % len(seconds)]
        tag = f"k{place}-{second}"
        standin.git(project, "switch", "-q", "main")
        kept_safe = untouched(project)
        assert finish(night(project, tag, COUNT, AUTOEXPERIMENT_FAIL_AT=str(place))) == -signal.SIGKILL
        if second:
            code = finish(night(project, tag, COUNT, AUTOEXPERIMENT_FAIL_AT=str(second)))
            killed_twice += code == -signal.SIGKILL
        assert finish(night(project, tag, COUNT)) == 0
        check_agreement(project, tag, COUNT)
        assert untouched(project) == kept_safe
        found = reference(project, tag)
        expected = expected or found
        assert found == expected
        scenarios += 1
    assert scenarios >= 20
    assert killed_twice >= scenarios // 3


def test_random_kills_lose_nothing_and_double_nothing(project: Path) -> None:
    seed = int(os.environ.get("AUTOEXPERIMENT_SEED", "5"))
    rng = random.Random(seed)
    kills, nights, statuses = 0, 0, Counter[str]()
    while kills < KILLS:
        tag, count = f"r{nights}", 12
        standin.git(project, "switch", "-q", "main")
        kept_safe = untouched(project)
        while True:
            process = night(project, tag, count)
            try:
                process.wait(timeout=rng.uniform(0.15, 1.2))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            if finish(process) == 0:
                break
            kills += 1
        check_agreement(project, tag, count)
        assert untouched(project) == kept_safe
        statuses.update(str(e.verdict) for e in read_ledger(session.require(project, tag).ledger).experiments)
        nights += 1
    print(json.dumps({"kills": kills, "nights": nights, "seed": seed, "verdicts": statuses}))
    assert statuses["keep"] and statuses["discard"] and statuses["crash"]


def test_no_process_outlives_the_killed_loop(project: Path) -> None:
    standin.edit(project, MODE="hang")
    standin.git(project, "commit", "-qam", "hang")
    process = night(project, "h", 1)
    paths = session.ProjectPaths(project).session("h")
    ledger, marker = paths.ledger, str(paths.place)
    deadline = time.monotonic() + 30
    while not (ledger.exists() and any(marker in line for line in commands_in(marker))):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process.kill()
    process.wait()

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
