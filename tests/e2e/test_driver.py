"""`mlx loop run --agent …` with real clients, a scripted model on loopback, and processes that die at random."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import contracts
import psutil
import pytest
import standin
from e2e import client, fakeapi
from e2e.fakeapi import FakeAPI, Request, Step, Track, call, error, say

from autoexperiment.ledger import read_ledger
from autoexperiment.paths import ProjectPaths
from autoexperiment.vocabulary import Verdict

EXPERIMENTS = 20
KILLS = int(os.environ.get("AUTOEXPERIMENT_AGENT_KILLS", "12"))
MARK = "TRAIN_OF_THE_TEST"
BREAKER_OPEN = 3


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose train.py prints a number of its own source, with a protocol; nothing of it needs MLX."""
    standin.isolate(tmp_path, monkeypatch)
    root = contracts.make_project(tmp_path / "project")
    (root / "train.py").write_text(f"# {MARK}\n" + (root / "train.py").read_text())
    (root / "protocol.json").write_text(json.dumps(contracts.document()))
    standin.git(root, "add", "-A")
    standin.git(root, "commit", "-qm", "protocol")
    monkeypatch.chdir(root)
    return root


class Researcher:
    """A model that reads train.py, sets VALUE to the next number, and says what it did; one visit is three turns."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def __call__(self, request: Request) -> Step:
        desk = re.search(r"(/\S*/desk)\b", request.all)
        assert desk, "the client does not tell its model where it works"
        file = f"{desk[1]}/train.py"
        if request.turn == 0:
            return call("Read", file_path=file)
        if request.turn == 1:
            old = re.search(r"VALUE = [\d.]+", "\n".join(result.text for result in request.results))
            assert old, "train.py was not read"
            value = next(self.values)
            return call("Edit", file_path=file, old_string=old[0], new_string=f"VALUE = {value:.3f}")
        return say("Done.\nIDEA: a new VALUE\nNEXT: try another one")


def night(place: client.Place, *words: str) -> subprocess.Popen[str]:
    """The driver, in the client's environment and a process group of its own."""
    command = [sys.executable, "-m", "autoexperiment", "loop", "run", "mar5", *words]
    return subprocess.Popen(
        command, cwd=place.cwd, env=_environment(place), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip


def _environment(place: client.Place) -> dict[str, str]:
    state = {"XDG_STATE_HOME": os.environ["XDG_STATE_HOME"]}
    git = {name: value for name, value in os.environ.items() if name.startswith("GIT_")}
    return {**place.environment, **git, **state}


def claude_place(folder: Path, api: FakeAPI, project: Path, **variables: str) -> client.Place:
    place = client.make_place(folder, api.url, cwd=project, variables=variables)
    (place.home / "bin" / "claude").symlink_to(client.claude_binary())
    return place


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def ledger(project: Path):  # type: ignore[no-untyped-def]
    return read_ledger(ProjectPaths(project).session("mar5").ledger)


def visits(project: Path) -> list[str]:
    return [note["result"] for note in ledger(project).notes if note["what"] == "visit"]


def test_claude_edits_and_code_measures_decides_and_records(project: Path, tmp_path: Path) -> None:
    track = Track(itertools.repeat(Researcher([1.5, 1.9, 1.2])))
    with FakeAPI(track) as api:
        code, output = finish(night(claude_place(tmp_path, api, project), "--agent", "claude", "--experiments", "3"))

    assert code == 0, output
    rows = ledger(project).experiments
    assert [e.verdict for e in rows] == [Verdict.KEEP, Verdict.KEEP, Verdict.DISCARD, Verdict.KEEP]
    assert [e.metrics["score"] for e in rows] == [2.0, 1.5, 1.9, 1.2]
    assert {e.source for e in rows[1:]} == {"claude"}
    assert {e.description for e in rows[1:]} == {"a new VALUE"}
    assert "VALUE = 1.200" in (project / "train.py").read_text()
    assert standin.git(project, "log", "--format=%s", "-1") == "a new VALUE"
    # the third visit's prompt knows what the first two brought, and the idea that they left
    last = track.requests[-3].all
    assert "1.900000" in last and "1.500000" in last and "try another one" in last
    assert "Bash" not in track.requests[0].tools


def test_forbidden_edit_is_denied_to_claude_and_its_file_stays(project: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def naughty(request: Request) -> Step:
        desk = re.search(r"(/\S*/desk)\b", request.all)
        assert desk
        if request.turn == 0:
            return call("Read", file_path=f"{desk[1]}/harness/check.py")
        if request.turn == 1:
            return call("Write", file_path=f"{desk[1]}/harness/check.py", content="cheat\n")
        seen.extend(result.text for result in request.results if result.is_error)
        return say("nothing worked")

    with FakeAPI(Track(itertools.repeat(naughty))) as api:
        code, output = finish(night(claude_place(tmp_path, api, project), "--agent", "claude", "--experiments", "2"))

    assert code == 1, output
    assert len(seen) == 3, "each of three visits had its write denied"
    assert visits(project) == ["no change"] * 3
    assert len(ledger(project).experiments) == 1, "only the baseline: nothing of it counts as an experiment"
    assert "3 times in a row" in output


def test_broken_edit_is_mended_by_a_second_visit_and_costs_no_run(project: Path, tmp_path: Path) -> None:
    def careless(request: Request) -> Step:
        desk = re.search(r"(/\S*/desk)\b", request.all)
        assert desk
        file = f"{desk[1]}/train.py"
        if request.turn == 0:
            return call("Read", file_path=file)
        text = "\n".join(result.text for result in request.results)
        if request.turn == 1 and "VALUE = 1.5(" in text:
            return call("Edit", file_path=file, old_string="VALUE = 1.5(", new_string="VALUE = 1.5")
        if request.turn == 1:
            return call("Edit", file_path=file, old_string="VALUE = 2.0", new_string="VALUE = 1.5(")
        return say("IDEA: lower VALUE")

    with FakeAPI(track := Track(itertools.repeat(careless))) as api:
        code, output = finish(night(claude_place(tmp_path, api, project), "--agent", "claude", "--experiments", "1"))

    assert code == 0, output
    assert visits(project) == ["broken edit", "edited"]
    rows = ledger(project).experiments
    assert [(e.verdict, len(e.runs)) for e in rows[1:]] == [(Verdict.KEEP, 1)]
    assert re.search(r"train\.py:\d+: ", track.requests[3].all)


def test_usage_limit_beyond_the_night_ends_it_and_counts_nothing(project: Path, tmp_path: Path) -> None:
    limited = fakeapi.limit(int(time.time()) + 5 * 3600)
    with FakeAPI(Track(itertools.repeat(limited))) as api:
        place = claude_place(tmp_path, api, project, **client.SUBSCRIBER)
        code, output = finish(night(place, "--agent", "claude", "--experiments", "2", "--hours", "1"))

    assert code == 0, output
    assert visits(project) == ["usage limit"]
    assert "only after the night's end" in output
    assert len(ledger(project).experiments) == 1


def test_wrong_key_ends_the_night_with_what_to_type(project: Path, tmp_path: Path) -> None:
    with FakeAPI(Track(itertools.repeat(error(401, "authentication_error", "invalid x-api-key")))) as api:
        code, output = finish(night(claude_place(tmp_path, api, project), "--agent", "claude", "--experiments", "2"))

    assert code == 1, output
    assert "claude is not logged in" in output
    assert visits(project) == ["not logged in"]
    assert len(ledger(project).experiments) == 1


def test_silent_agent_is_ended_and_not_held_against_a_candidate(project: Path, tmp_path: Path) -> None:
    with FakeAPI(Track(itertools.chain([fakeapi.hang()], itertools.repeat(Researcher([1.5]))))) as api:
        words = ("--agent", "claude", "--experiments", "1", "--idle-minutes", "0.1")
        code, output = finish(night(claude_place(tmp_path, api, project), *words))

    assert code == 0, output
    assert visits(project) == ["stalled", "edited"]
    assert [e.verdict for e in ledger(project).experiments] == [Verdict.KEEP, Verdict.KEEP]


def test_codex_does_an_experiment_through_the_same_driver(project: Path, tmp_path: Path) -> None:
    def codex(request: Request) -> Step:
        if request.turn == 0:
            script = "sed -i 's/VALUE = 2.0/VALUE = 1.25/' train.py"
            return call("exec_command", cmd=script)
        return say("IDEA: VALUE 2.0 -> 1.25")

    with FakeAPI(Track(itertools.repeat(codex))) as api:
        place = client.make_place(tmp_path, api.url, cwd=project)
        (place.home / "bin" / "codex").symlink_to(client.codex_binary())
        code, output = finish(night(place, "--agent", "codex", "--experiments", "1"))

    assert code == 0, output
    rows = ledger(project).experiments
    assert [(e.verdict, e.source, e.description) for e in rows[1:]] == [
        (Verdict.KEEP, "codex", "VALUE 2.0 -> 1.25")
    ]  # fmt: skip


def _victims(driver: int) -> dict[str, list[psutil.Process]]:
    """The living processes below a driver, by what they are."""
    found: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(driver)], "agent": [], "trainer": []}
    for process in psutil.Process(driver).children(recursive=True):
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if any(word.endswith("/claude") or word == "claude" for word in words[:1]):
            found["agent"].append(process)
        elif words[-1:] == ["train.py"]:
            found["trainer"].append(process)
    return found


def _kill_one(process: subprocess.Popen[str], wanted: str, rng: random.Random) -> str:
    """Kill the wanted kind of process as soon as there is one; returns what was killed, or "" when the night ended."""
    time.sleep(rng.uniform(0.2, 2.0))
    deadline = time.monotonic() + 20
    while process.poll() is None and time.monotonic() < deadline:
        try:
            candidates = _victims(process.pid)[wanted]
        except psutil.Error:
            return ""
        if candidates:
            time.sleep(rng.uniform(0.0, 0.3))
            try:
                os.kill(rng.choice(candidates).pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            if wanted == "driver":
                process.wait()
            return wanted
        time.sleep(0.01)
    return ""


def test_twenty_experiments_while_driver_agent_and_trainer_are_killed_at_random(project: Path, tmp_path: Path) -> None:
    """Twenty rows, none lost and none twice, whatever dies; git, ledger and files agree at the end."""
    rng = random.Random(7)
    kinds = ["driver", "agent", "trainer"] * (KILLS // 3)
    killed: list[str] = []
    values = [2.5 + 0.001 * n if n % 3 else 1.9 - 0.001 * n for n in range(1000)]
    (project / "train.py").write_text((project / "train.py").read_text() + "time.sleep(0.5)\n")
    standin.git(project, "commit", "-qam", "long enough to be killed")
    with FakeAPI(Track(itertools.repeat(Researcher(values)))) as api:
        place = claude_place(tmp_path, api, project)
        words = ("--agent", "claude", "--experiments", str(EXPERIMENTS))
        code = -signal.SIGKILL
        while code == -signal.SIGKILL:
            process = night(place, *words)
            while kinds and process.poll() is None:
                killed.append(_kill_one(process, kinds.pop(0), rng))
            code, output = finish(process)
            if code == BREAKER_OPEN:  # three trainers in a row that the system killed: a person looks, and goes on
                command = [sys.executable, "-m", "autoexperiment", "loop", "reset", "mar5", "--breaker"]
                subprocess.run(command, cwd=project, env=_environment(place), check=True, capture_output=True)
                code = -signal.SIGKILL

    assert code == 0, output
    print("killed:", sorted(filter(None, killed)))
    rows = ledger(project).experiments
    judged = [e for e in rows if e.verdict is not None and e.source != "baseline"]
    assert len(judged) == EXPERIMENTS
    assert len({e.content for e in judged}) == EXPERIMENTS, "a candidate was measured twice"
    assert [e.number for e in rows] == list(range(len(rows)))
    refs = standin.git(project, "for-each-ref", "--format=%(refname)", "refs/autoexperiment/mar5").splitlines()
    assert {f"refs/autoexperiment/mar5/run-{e.number:05d}" for e in rows} <= set(refs)
    incumbent = [e for e in rows if e.verdict is Verdict.KEEP][-1]
    assert standin.git(project, "rev-parse", "HEAD") == incumbent.commit
    assert standin.git(project, "show", "HEAD:train.py") == (project / "train.py").read_text().rstrip("\n")
    assert {"driver", "agent", "trainer"} <= set(killed)
    table = (project / "results.tsv").read_text().splitlines()
    assert len(table) == 1 + len([e for e in rows if e.verdict is not None])
