"""The plugins in the real Claude Code client, offline: a scripted model follows the skills, code does the rest."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import contracts
import pytest
import standin
from e2e import client
from e2e.fakeapi import FakeAPI, Request, Step, Track, bash, call, error, say

from autoexperiment.ledger import read_ledger
from autoexperiment.paths import ProjectPaths
from autoexperiment.vocabulary import Verdict

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = ROOT / "experiment-plugin"
MODEL_SKILL = "Find a lower val_bpb by changing train.py"  # the heading of /experiment:model
ENGINEER = "You are a machine-learning engineer who runs experiments"  # how the agent's own prompt begins
RECIPE = ("train.py", "prepare.py", "data_sources.py", "pyproject.toml", "program.md", "README.md")
WAIT = bash("mlx loop wait --timeout 540", timeout=600000)


def place_for(project: Path, api: FakeAPI, **variables: str) -> client.Place:
    """The client in a project, with the program on its PATH and the project's own state folder."""
    kept = {
        n: v for n, v in os.environ.items() if n.startswith("GIT_") or n in ("XDG_STATE_HOME", "AUTORESEARCH_CACHE")
    }
    path = [Path(sys.executable).parent]
    return client.make_place(project.parent, api.url, cwd=project, variables={**kept, **variables}, path=path)


@pytest.fixture
def recipe(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The real recipe with thirty steps of training and one learning rate that is far too low."""
    standin.isolate(tmp_path, monkeypatch)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(prepared.parent.parent))
    root = tmp_path / "project"
    root.mkdir()
    for name in RECIPE:
        shutil.copy(ROOT / name, root / name)
    train = (root / "train.py").read_text()
    (root / "train.py").write_text(train.replace("\nEMBEDDING_LR = 0.2 ", "\nEMBEDDING_LR = 0.002 ", 1))
    protocol = json.loads((ROOT / "protocol.json").read_text())
    protocol["execution"]["stopCondition"] = {"type": "max_steps", "maxSteps": 30}
    (root / "protocol.json").write_text(json.dumps(protocol, indent=2))
    (root / ".gitignore").write_text("outputs/\ndata/\ninternal/\nresults.tsv\n__pycache__/\n")
    standin.git(root, "init", "-q", "-b", "main")
    standin.git(root, "add", "-A")
    standin.git(root, "commit", "-qm", "recipe")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose train.py prints a number of its own source; its protocol allows two experiments."""
    standin.isolate(tmp_path, monkeypatch)
    root = contracts.make_project(tmp_path / "project")
    (root / "protocol.json").write_text(json.dumps(contracts.document(miningLoop={"maxTrials": 2})))
    monkeypatch.chdir(root)
    return root


def experiments(root: Path, tag: str = "mar5"):  # type: ignore[no-untyped-def]
    return read_ledger(ProjectPaths(root).session(tag).ledger).experiments


def edit(root: Path, old: str, new: str) -> Step:
    return call("Edit", file_path=str(root / "train.py"), old_string=old, new_string=new)


def step(description: str) -> Step:
    return bash(f'mlx loop step --detach -m "{description}"')


@pytest.mark.parametrize("arguments", ["mar5", "mar5 pystdlib"])
def test_model_session_on_the_real_recipe(recipe: Path, arguments: str) -> None:
    tag, _, dataset = arguments.partition(" ")
    start = f"mlx loop start {tag}" + (f" --dataset {dataset}" if dataset else "")
    lr = "\nEMBEDDING_LR = "
    read = call("Read", file_path=str(recipe / "train.py"))
    script = [
        bash("mlx --version", timeout=600000), bash(start), step("baseline"), WAIT, read,
        edit(recipe, f"{lr}0.002", f"{lr}0.2"), step("raise EMBEDDING_LR to 0.2"), WAIT, read,
        edit(recipe, f"{lr}0.2", f"{lr}0.0005"), step("lower EMBEDDING_LR to 0.0005"), WAIT, read,
        edit(recipe, f"{lr}0.2", f"{lr}undefined_name"), step("EMBEDDING_LR from a name"), WAIT,
        bash("mlx loop show --json"), read,
        edit(recipe, f"{lr}0.2", f"{lr}0.15"), step("EMBEDDING_LR 0.15, the slip mended"), WAIT,
        bash("mlx loop log"), *[say("summary")] * 6,
    ]  # fmt: skip
    track = Track(script, marker=MODEL_SKILL)
    with FakeAPI(track) as api:
        run = client.claude(
            place_for(recipe, api), f"/experiment:model {arguments}", plugins=[EXPERIMENT], timeout_s=300
        )

    first = track.requests[0].all
    assert f'(tag "{tag}", dataset "{dataset}"' in first
    assert not run.denials
    rows = experiments(recipe)
    assert [e.description for e in rows] == [
        "baseline", "raise EMBEDDING_LR to 0.2", "lower EMBEDDING_LR to 0.0005", "EMBEDDING_LR from a name",
        "EMBEDDING_LR 0.15, the slip mended",
    ]  # fmt: skip
    assert [e.verdict for e in rows[:4]] == [Verdict.KEEP, Verdict.KEEP, Verdict.DISCARD, Verdict.CRASH]
    assert rows[4].verdict in (Verdict.KEEP, Verdict.DISCARD)
    shown = next(r.text for r in run.tool_results if '"last_lines"' in r.text)
    digest = json.loads(shown)["runs"][0]["log"]
    assert digest["error_class"] == "NameError" and "train.py" in digest["frame"]
    assert any("[1]" in r.text and "keep: val_bpb" in r.text for r in run.tool_results), "the verdict reaches the chat"
    [log] = (recipe / "internal" / "log").iterdir()
    assert "raise EMBEDDING\\_LR to 0.2" in log.read_text()
    table = (recipe / "results.tsv").read_text().splitlines()
    assert [line.split("\t")[4] for line in table[1:5]] == ["keep", "keep", "discard", "crash"]
    assert standin.git(recipe, "status", "--porcelain") == ""


def _chat(root: Path, script: list[Step | Callable[[Request], Step]], prompt: str, *options: str, **variables: str):  # type: ignore[no-untyped-def]
    track = Track(script)
    with FakeAPI(track) as api:
        run = client.claude(place_for(root, api, **variables), prompt, *options, plugins=[EXPERIMENT])
    return run, track


def _value(root: Path, old: str, new: str) -> list[Step | Callable[[Request], Step]]:
    read = call("Read", file_path=str(root / "train.py"))
    return [read, edit(root, f"VALUE = {old}", f"VALUE = {new}"), step(f"VALUE {new}"), WAIT]


def test_chat_that_wants_to_stop_is_sent_on_until_the_session_is_over(toy: Path) -> None:
    script = [
        bash("mlx loop start mar5"), step("baseline"), WAIT, say("Shall I go on?"),
        *_value(toy, "2.0", "1.5"), say("I am tired"), *_value(toy, "1.5", "1.2"), say("finished"), say("never asked"),
    ]  # fmt: skip
    run, track = _chat(toy, script, "/experiment:model mar5")

    assert not run.denials
    assert [e.verdict for e in experiments(toy)] == [Verdict.KEEP] * 3
    assert run.result == "finished", "the protocol's two experiments are judged: nothing holds the chat any more"
    fed_back = [request for request in track.requests if "Stop hook feedback" in request.all]
    assert fed_back and "mlx loop" in fed_back[0].all.partition("Stop hook feedback")[2]


def test_chat_without_progress_is_let_go(toy: Path) -> None:
    script = [bash("mlx loop start mar5"), step("baseline"), WAIT, *[say(f"no {n}") for n in range(20)]]

    run, _ = _chat(toy, script, "/experiment:model mar5")

    assert re.fullmatch(r"no [2-5]", run.result), run.result
    assert len(experiments(toy)) == 1


def test_ordinary_chat_in_the_same_folder_may_stop(toy: Path) -> None:
    run, _ = _chat(toy, [bash("mlx loop start mar5"), say("done"), say("held back")], "start a session, please",
                   "--allowedTools", "Bash(mlx loop *)")  # fmt: skip

    assert run.result == "done"


@pytest.mark.parametrize("prompt", ["how far are you?", "/experiment:compare 3"])
def test_chat_that_was_broken_off_answers_another_prompt_and_stops(toy: Path, prompt: str) -> None:
    session = str(uuid.uuid4())
    track = Track([bash("mlx loop start mar5"), step("baseline"), WAIT, say("an answer"), say("sent on")])
    with FakeAPI(track) as api:
        place = place_for(toy, api)
        broken_off = ("--session-id", session, "--max-turns", "3")  # as after Esc: no stop hook was asked
        client.claude(place, "/experiment:model mar5", *broken_off, plugins=[EXPERIMENT])
        run = client.claude(place, prompt, "--resume", session, plugins=[EXPERIMENT])

    assert run.result == "an answer"
    assert "type /experiment:model again" in run.hooks("UserPromptSubmit")[-1]["stdout"]


@pytest.mark.parametrize("again", ["/experiment:model mar5", "/experiment:data mar5"])
def test_chat_that_was_broken_off_is_driven_by_the_command_again(toy: Path, again: str) -> None:
    session = str(uuid.uuid4())
    track = Track([bash("mlx loop start mar5"), step("baseline"), WAIT, say("a pause"), *[say("sent on")] * 6])
    with FakeAPI(track) as api:
        place = place_for(toy, api)
        broken_off = ("--session-id", session, "--max-turns", "3")
        client.claude(place, "/experiment:model mar5", *broken_off, plugins=[EXPERIMENT])
        run = client.claude(place, again, "--resume", session, plugins=[EXPERIMENT])

    assert run.result == "sent on"
    assert not any(answer["stdout"] for answer in run.hooks("UserPromptSubmit"))


def test_chat_that_background_work_woke_is_still_driven(toy: Path) -> None:
    script = [bash("mlx loop start mar5"), step("baseline"), WAIT, bash("sleep 1", run_in_background=True),
              say("waiting"), *[say("sent on")] * 6]  # fmt: skip
    run, _ = _chat(toy, script, "/experiment:model mar5", "--allowedTools", "Bash(sleep *)")

    assert not run.denials
    assert run.result == "sent on"


def test_chat_around_a_fork_that_failed_is_not_driven(toy: Path) -> None:
    client.execute(place_for(toy, FakeAPI()), ["mlx", "loop", "start", "mar5"])
    engineer = Track([error(400, "invalid_request_error", "no")], marker=ENGINEER, where="system")
    outside = Track([say("it failed"), say("sent on"), say("sent on")])
    with FakeAPI(engineer, outside) as api:
        run = client.claude(place_for(toy, api), "/mlx:autoexperiment train.py", plugins=[ROOT])

    assert engineer.requests
    assert "sent on" not in run.stdout


def test_state_is_handed_over_after_a_compaction(toy: Path) -> None:
    session = str(uuid.uuid4())
    script = [bash("mlx loop start mar5"), step("baseline"), WAIT, *_value(toy, "2.0", "1.5"), bash("mlx loop stop"),
              *[say("pause")] * 6]  # fmt: skip
    track = Track(script)
    with FakeAPI(track) as api:
        place = place_for(toy, api)
        client.claude(place, "/experiment:model mar5", "--session-id", session, plugins=[EXPERIMENT])
        client.claude(place, "/compact", "--resume", session, plugins=[EXPERIMENT])
        before = len(api.requests)
        client.claude(place, "go on", "--resume", session, plugins=[EXPERIMENT])
        after = "\n".join(request.all for request in api.requests[before:])

    assert MODEL_SKILL not in after, "the client dropped the skill: this is what the hook is for"
    assert "mar5" in after and "1.500000" in after and "mlx loop step" in after


DENIED = [
    ("edit of the harness", lambda root: call("Write", file_path=str(root / "harness/check.py"), content="print(0)\n"), "harness"),
    ("edit of settings", lambda root: call("Write", file_path=str(root / ".claude/settings.json"), content="{}"), ".claude"),
    ("edit of another file", lambda root: call("Write", file_path=str(root / "notes.md"), content="x\n"), "notes.md"),
    ("push", lambda _: bash("git push origin HEAD"), "push"),
    ("reset", lambda _: bash("git reset --hard HEAD~1"), "reset"),
    ("clean", lambda _: bash("git clean -fdx"), "clean"),
    ("redirect into the harness", lambda root: bash(f"echo 'print(0)' > {root}/harness/check.py"), "harness"),
    ("branch left", lambda _: bash("git switch main"), "switch"),
]  # fmt: skip


def _with_remote(root: Path) -> Path:
    """A toy whose files are tracked, with a second commit and a remote to push to."""
    contracts.make_project(root)
    (root / "protocol.json").write_text(json.dumps(contracts.document()))
    standin.git(root, "commit", "-q", "--allow-empty", "-m", "second")
    remote = root.parent / "remote.git"
    standin.git(root, "init", "-q", "--bare", str(remote))
    standin.git(root, "remote", "add", "origin", str(remote))
    return root


def _state(root: Path) -> dict[str, str]:
    """What the denied calls would change."""
    files = {str(path.relative_to(root)): path.read_text() for path in root.rglob("*")
             if path.is_file() and ".git" not in path.relative_to(root).parts[:1] and "outputs" not in path.parts}  # fmt: skip
    words = (["ls-remote", "origin"], ["rev-parse", "HEAD"], ["symbolic-ref", "HEAD"])
    refs = "\n".join(standin.git(root, *line) for line in words)
    return {**files, "refs": refs}


@pytest.mark.parametrize(("name", "make", "word"), DENIED, ids=[name for name, _, _ in DENIED])
def test_guard_denies_in_a_session_what_it_allows_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, make: Callable[[Path], Step], word: str
) -> None:
    standin.isolate(tmp_path, monkeypatch)
    free_root, held_root = _with_remote(tmp_path / "free" / "project"), _with_remote(tmp_path / "held" / "project")
    (free_root / "junk.txt").write_text("x\n")
    standin.git(free_root, "branch", "other")
    options = ("--allowedTools", "Bash", "Edit", "Write", "Read", "--permission-mode", "acceptEdits")

    def calls(root: Path) -> list[Step | Callable[[Request], Step]]:
        files = [call("Read", file_path=str(root / n)) for n in ("notes.md", "harness/check.py")]
        return [*files, make(root), say("end")]

    free_before = _state(free_root)
    free, _ = _chat(free_root, calls(free_root), "go", *options)
    monkeypatch.chdir(held_root)
    client.execute(place_for(held_root, FakeAPI()), ["mlx", "loop", "start", "mar5"])
    before = _state(held_root)
    held, _ = _chat(held_root, calls(held_root), "go", *options)

    assert not free.tool_results[-1].is_error or "hook" not in free.tool_results[-1].text, free.tool_results[-1].text
    assert name in ("edit of settings", "branch left") or _state(free_root) != free_before, "the call does something"
    denied = held.tool_results[-1]
    assert denied.is_error and "hook error" in denied.text and word in denied.text and "mlx loop" in denied.text
    assert _state(held_root) == before


def test_hold_out_is_not_shown_to_a_chat(toy: Path, prepared: Path) -> None:
    hold_out = Path(os.environ["XDG_STATE_HOME"]) / "autoexperiment" / "holdout" / "pystdlib" / "x"
    hold_out.mkdir(parents=True)
    (hold_out / "rows.npy").write_text("the secret rows\n")
    options = ("--allowedTools", "Bash", "Read")
    steps = [call("Read", file_path=str(hold_out / "rows.npy")), bash(f"cat {hold_out}/rows.npy"), say("end")]

    free, _ = _chat(toy, [*steps], "go", *options)
    held, _ = _chat(toy, [bash("mlx loop start mar5"), *steps], "go", *options)

    assert any("the secret rows" in result.text for result in free.tool_results)
    assert not any("the secret rows" in result.text for result in held.tool_results)
    assert [result.is_error for result in held.tool_results] == [False, True, True]


FOREIGN = """\
import argparse

DEPTH = 3
parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=0)
parser.parse_args()
print(f"accuracy: {0.5 + 0.1 * DEPTH:.4f}")
"""


def test_autoexperiment_on_a_project_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No protocol, no MLX: a draft, one question, then the loop; all of it inside the forked agent."""
    standin.isolate(tmp_path, monkeypatch)
    root = tmp_path / "project"
    root.mkdir()
    (root / "train.py").write_text(FOREIGN)
    (root / ".gitignore").write_text("outputs/\ninternal/\nresults.tsv\n__pycache__/\n")
    standin.git(root, "init", "-q", "-b", "main")
    standin.git(root, "add", "-A")
    standin.git(root, "commit", "-qm", "toy")
    notes = (ROOT / "references" / "EXPERIMENT.md.template").read_text()
    accept = "mlx protocol draft --accept --yes --metric accuracy --direction maximize"
    script = [
        bash("mlx --version", timeout=600000), call("Read", file_path=str(root / "train.py")),
        bash("mlx protocol draft"), bash(accept),
        bash("git add protocol.json .gitignore && git commit -qm protocol"),
        call("Write", file_path=str(root / "EXPERIMENT.md"), content=notes),
        bash("mlx loop start mar5"), step("baseline"), WAIT,
        edit(root, "DEPTH = 3", "DEPTH = 4"), step("DEPTH 3 -> 4"), WAIT,
        call("Read", file_path=str(root / "train.py")),
        edit(root, "DEPTH = 4", "DEPTH = 2"), step("DEPTH 4 -> 2"), WAIT,
        call("Read", file_path=str(root / "EXPERIMENT.md")),
        call("Edit", file_path=str(root / "EXPERIMENT.md"), old_string="## Next to try\n",
             new_string="## Next to try\n- DEPTH 5\n"),
        bash("mlx loop stop"), say("summary"), say("summary"), say("summary"), say("summary"), say("summary"),
    ]  # fmt: skip
    engineer = Track(script, marker=ENGINEER, where="system")
    outside = Track([say("passed on")] * 9)
    with FakeAPI(engineer, outside) as api:
        consent = ("--allowedTools", f"Bash({accept})", "Bash(git add *)", "Bash(git commit *)")
        run = client.claude(
            place_for(root, api), "/mlx:autoexperiment train.py", *consent, plugins=[ROOT], timeout_s=240
        )

    assert engineer.requests, "the skill did not reach mlx:ml-engineer"
    assert "Arguments: train.py" in engineer.requests[0].all
    assert not run.denials, run.denials
    assert [(e.description, e.verdict) for e in experiments(root)] == [
        ("baseline", Verdict.KEEP), ("DEPTH 3 -> 4", Verdict.KEEP), ("DEPTH 4 -> 2", Verdict.DISCARD),
    ]  # fmt: skip
    assert "- DEPTH 5" in (root / "EXPERIMENT.md").read_text()
    assert experiments(root)[1].metrics["accuracy"] == 0.9
