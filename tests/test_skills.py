"""The plugins' skills, agents, settings and evaluations: what they name exists, and the real client does with them
what their heads ask for.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from e2e import client
from e2e.fakeapi import FakeAPI, Step, Track, bash, call, say

import autoexperiment
from autoexperiment.cli import mlx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import frontmatter  # noqa: E402
import plugin_parts  # noqa: E402

EXPERIMENT = ROOT / "experiment-plugin"
SKILLS = [ROOT / "skills/autoexperiment/SKILL.md", *sorted(EXPERIMENT.glob("skills/*/SKILL.md"))]
AGENTS = [ROOT / "agents/ml-engineer.md", EXPERIMENT / "agents/experiment-reviewer.md"]
PROSE = [*SKILLS, *AGENTS, ROOT / "references/autoexperiment-guide.md", EXPERIMENT / "README.md"]
SETTINGS: dict[str, Any] = json.loads((ROOT / ".claude/settings.json").read_text())
# every step of a session that a skill approves; closing the breaker and starting a night are a person's
SESSION_WORDS = ["start", "step", "wait", "status", "log", "show"]


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def head(path: Path) -> dict[str, Any]:
    return dict(frontmatter.parse(path.read_text()).values)


# ---- what they name exists


def command_fault(line: str) -> str:
    """Why a line that starts with `mlx` can't be typed: a command or an option that does not exist; or ""."""
    words = line.split()[1:]
    found: click.Command = mlx
    while isinstance(found, click.Group) and words and not words[0].startswith("-"):
        name, words = words[0], words[1:]
        if name in ("…", "*"):
            return ""
        child = found.get_command(click.Context(found), name)
        if child is None:
            return f"no command {name!r} in {line!r}"
        found = child
    known = {option for parameter in found.params for option in parameter.opts} | {"--help", "--version"}
    unknown = [word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word) and word not in known]
    return f"no option {unknown[0]!r} in {line!r}" if unknown else ""


@pytest.mark.parametrize("page", PROSE, ids=shown)
def test_commands_in_prose_can_be_typed(page: Path) -> None:
    lines = re.findall(r"`(mlx [^`\n]+)`", page.read_text())

    faults = [fault for line in lines if (fault := command_fault(line))]

    assert faults == []


def test_the_check_of_commands_sees_planted_faults() -> None:
    assert command_fault("mlx loop fly") == "no command 'fly' in 'mlx loop fly'"
    assert command_fault("mlx loop log --lost 3") == "no option '--lost' in 'mlx loop log --lost 3'"
    assert command_fault("mlx loop log --last 3 --json") == ""


def granted(rules: list[str]) -> list[str]:
    """What is inside the brackets of each `Bash(…)`."""
    return [rule[len("Bash(") : -1] for rule in rules if rule.startswith("Bash(")]


def grants_of(skill: Path) -> list[str]:
    rules, unreadable = plugin_parts.split_tools(head(skill)["allowed-tools"])
    assert not unreadable
    return granted(rules)


@pytest.mark.parametrize("skill", SKILLS, ids=shown)
def test_skill_approves_only_commands_of_a_session(skill: Path) -> None:
    session = {f"mlx loop {word} *" for word in SESSION_WORDS} | {"mlx loop reset", "mlx loop reset --save"}
    looking = {"mlx --version", "mlx doctor", "mlx protocol validate *", "mlx protocol render *"}
    drafting = {"mlx protocol draft", "mlx protocol draft --accept"} if "autoexperiment" in skill.parts else set()

    grants = grants_of(skill)

    assert set(grants) <= session | looking | drafting
    assert [command_fault(grant) for grant in grants if command_fault(grant)] == []


@pytest.mark.parametrize("name", ["model", "data", "run"])
def test_command_that_starts_work_is_for_people_only(name: str) -> None:
    assert head(EXPERIMENT / f"skills/{name}/SKILL.md")["disable-model-invocation"] is True


def test_autoexperiment_keeps_the_head_that_its_users_know() -> None:
    values = head(SKILLS[0])

    assert {key: values[key] for key in ("name", "model", "effort", "context", "agent")} == {
        "name": "autoexperiment", "model": "opus", "effort": "max", "context": "fork", "agent": "mlx:ml-engineer",
    }  # fmt: skip
    assert values["disable-model-invocation"] is True
    assert values["argument-hint"] == "path to train.py or description of experiment goal"
    assert values["metadata"]["category"] == "model-training"


def test_bodies_are_short_and_agents_shorter() -> None:
    skills = {
        shown(page): page.read_text().count("\n") for page in [*SKILLS, ROOT / "references/autoexperiment-guide.md"]
    }
    agents = {shown(page): page.read_text().count("\n") for page in AGENTS}

    assert {name for name, count in skills.items() if count > 200} == set()
    assert {name for name, count in agents.items() if not 20 <= count <= 60} == set()


@pytest.mark.parametrize("page", [EXPERIMENT / "skills/review/SKILL.md", AGENTS[1]], ids=shown)
def test_a_review_names_its_session_in_every_command(page: Path) -> None:
    text = page.read_text()

    wanted = ("`mlx loop status TAG --json`", "`mlx loop log TAG --json`", "`mlx loop show N --tag TAG --json`")
    assert [command for command in wanted if command not in text] == []
    assert "mlx loop show N --json" not in text


def test_reviewer_has_no_tool_that_edits() -> None:
    rules, _ = plugin_parts.split_tools(head(AGENTS[1])["tools"])

    assert set(rules) == {"Read", "Glob", "Grep", "Bash"}


def test_version_is_the_same_in_package_plugins_and_changelog() -> None:
    manifests = [json.loads((folder / ".claude-plugin/plugin.json").read_text()) for folder in (ROOT, EXPERIMENT)]
    released = re.findall(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert {manifest["version"] for manifest in manifests} | set(released[:1]) == {autoexperiment.__version__}


def test_settings_approve_commands_that_exist_and_deny_what_loses_work() -> None:
    rules = SETTINGS["permissions"]

    assert [command_fault(grant) for grant in granted(rules["allow"]) if command_fault(grant)] == []
    assert not any("run" in grant or "--breaker" in grant for grant in granted(rules["allow"]))
    assert {"Bash(git push *)", "Bash(git reset --hard *)", "Bash(git clean *)", "Edit(/.claude/**)"} <= set(
        rules["deny"]
    )
    assert SETTINGS["sandbox"]["failIfUnavailable"] is False


# ---- the real client does what they ask for

MODEL = "Find a lower val_bpb by changing train.py"
EXPANSIONS = [
    ('/experiment:model mar5 "my data"', MODEL, 'Arguments: mar5 "my data"\n(tag "mar5", dataset "my data";'),
    ("/experiment:model mar5", MODEL, '(tag "mar5", dataset "";'),
    ("/experiment:data mar6", "by changing how training is fed", '(tag "mar6", dataset "";'),
    ("/experiment:run raise LR to 0.1", "# One experiment", "Arguments: raise LR to 0.1\n"),
    ("/experiment:compare 5", "# Compare experiments", '(how many of the latest: "5";'),
    ("/experiment:review mar5", "# Review a session", '(session "mar5";'),
    ("/mlx:autoexperiment sub/train.py", "# Experiments that run by themselves", "Arguments: sub/train.py\n"),
]


@pytest.fixture
def plugins(tmp_path: Path) -> list[Path]:
    """Both plugins without their `bin/`: a stand-in `mlx` on the path says what it was asked."""
    root = tmp_path / "plugins"
    for name in (".claude-plugin", "skills", "agents", "hooks", "references", "scripts", "experiment-plugin"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("bin", "__pycache__"))
    return [root, root / "experiment-plugin"]


def make_place(folder: Path, url: str) -> client.Place:
    place = client.make_place(folder, url)
    stand_in = place.home / "bin" / "mlx"
    stand_in.write_text('#!/bin/sh\necho "mlx was asked: $*"\n')
    stand_in.chmod(0o755)
    (place.cwd / "train.py").write_text("LR = 0.1\n")
    return place


@pytest.mark.parametrize(("typed", "marker", "arguments"), EXPANSIONS, ids=[entry[0] for entry in EXPANSIONS])
def test_command_expands_with_its_arguments(
    tmp_path: Path, plugins: list[Path], typed: str, marker: str, arguments: str
) -> None:
    track = Track([say("read")], marker=marker)

    with FakeAPI(track) as api:
        run = client.claude(make_place(tmp_path, api.url), typed, plugins=plugins)

    assert run.result == "read"
    assert arguments in track.requests[0].all
    assert "$ARGUMENTS" not in track.requests[0].all


def tried(tmp_path: Path, plugins: list[Path], typed: str, marker: str, steps: list[Step]) -> list[str]:
    """What a chat was refused, after it tried these calls in the default permission mode."""
    track = Track([*steps, say("end")], marker=marker)
    with FakeAPI(track) as api:
        run = client.claude(make_place(tmp_path, api.url), typed, plugins=plugins)
    assert run.result == "end"
    return [denial["tool_input"]["command"] for denial in run.denials]


LOOP_CALLS = [
    'mlx loop step -m "x"', 'mlx loop step --detach -m "a; b"', "mlx loop wait --timeout 540", "mlx loop wait",
    "mlx loop log --last 3 --json", "mlx loop show --json", "mlx loop status", "mlx loop reset", "mlx --version",
]  # fmt: skip
OTHER_CALLS = [
    "mlx loop run mar5 --hours 1", "mlx loop reset --breaker", "python3 train.py", "touch new", "git commit -am x",
    'mlx loop step -m "x" && touch new', 'mlx loop step -m "$(touch new)"', "mlx loop log > new",
]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "marker"), [("/experiment:model mar5", MODEL), (EXPANSIONS[-1][0], EXPANSIONS[-1][1])]
)
def test_session_command_may_step_and_nothing_else(
    tmp_path: Path, plugins: list[Path], typed: str, marker: str
) -> None:
    steps = [bash(line) for line in (*LOOP_CALLS, *OTHER_CALLS)]

    denied = tried(tmp_path, plugins, typed, marker, steps)

    assert denied == OTHER_CALLS
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["train.py"]


def test_accepting_a_draft_needs_a_word_of_the_person(tmp_path: Path, plugins: list[Path]) -> None:
    steps = [bash("mlx protocol draft"), bash("mlx protocol draft --accept"), bash("mlx protocol draft --accept --yes")]

    denied = tried(tmp_path, plugins, "/mlx:autoexperiment", EXPANSIONS[-1][1], steps)

    assert denied == ["mlx protocol draft --accept --yes"]


@pytest.mark.parametrize(("typed", "marker"), [(entry[0], entry[1]) for entry in EXPANSIONS[4:6]])
def test_command_that_looks_may_not_step(tmp_path: Path, plugins: list[Path], typed: str, marker: str) -> None:
    steps = [bash("mlx loop log --json"), bash("mlx loop show 1"), bash('mlx loop step -m "x"'), bash("touch new")]

    denied = tried(tmp_path, plugins, typed, marker, steps)

    assert denied == ['mlx loop step -m "x"', "touch new"]


@pytest.mark.parametrize(
    ("typed", "agent", "effort"),
    [("/mlx:autoexperiment train.py", AGENTS[0], "max"), ("/experiment:review mar5", AGENTS[1], None)],
)
def test_fork_lands_in_its_own_agent(
    tmp_path: Path, plugins: list[Path], typed: str, agent: Path, effort: str | None
) -> None:
    first_line = frontmatter.parse(agent.read_text()).body.strip().splitlines()[0]
    track = Track([say("the report")], marker=first_line, where="system")

    with FakeAPI(track) as api:
        run = client.claude(make_place(tmp_path, api.url), typed, plugins=plugins)

    assert run.result == "the report"
    assert set(track.requests[0].tools) <= {"Bash", "Read", "Edit", "Write", "Glob", "Grep"}
    assert effort is None or track.requests[0].body["output_config"]["effort"] == effort


# ---- the settings of this repository


def make_trusted(folder: Path, url: str) -> client.Place:
    """A place whose working folder has this repository's settings, and is believed."""
    place = make_place(folder, url)
    shutil.copytree(ROOT / ".claude", place.cwd / ".claude")
    client.trust(place, place.cwd)
    return place


def test_settings_hold_in_the_real_client(tmp_path: Path) -> None:
    refused = [
        "git push", "git push origin main", "git reset --hard", "git reset --hard HEAD~1", "git clean -fdx",
        "mlx loop run mar5 --hours 1", "mlx loop reset --breaker",
    ]  # fmt: skip
    allowed = ["mlx loop step -m x", "mlx loop log", "mlx protocol validate protocol.json"]
    track = Track([*(bash(line) for line in (*refused, *allowed)), say("end")], marker="MARK")

    with FakeAPI(track) as api:
        run = client.claude(make_trusted(tmp_path, api.url), "MARK", "--allowedTools", "Bash(git *)")

    assert [denial["tool_input"]["command"] for denial in run.denials] == refused
    assert [result.is_error for result in run.tool_results] == [True] * len(refused) + [False] * len(allowed)


def rewritten(tmp_path: Path, names: list[str]) -> list[str]:
    """Which of these files a headless chat could write that is free to edit but for this repository's settings."""
    tries = [step for name in names for step in (call("Read", file_path=name), overwrite(name))]
    track = Track([*tries, say("end")], marker="MARK")
    with FakeAPI(track) as api:
        place = make_trusted(tmp_path, api.url)
        for name in names:
            (place.cwd / name).parent.mkdir(parents=True, exist_ok=True)
            (place.cwd / name).write_text("old\n")
        client.claude(place, "MARK", "--allowedTools", "Edit", "Write")
    return [name for name in names if (place.cwd / name).read_text() != "old\n"]


def overwrite(name: str) -> Step:
    return call("Write", file_path=name, content="new\n")


def test_settings_keep_headless_edits_from_the_harness(tmp_path: Path) -> None:
    names = [
        ".claude/other.json", "results.tsv", "hooks/hooks.json", "experiment-plugin/hooks/guard.py", "bin/mlx",
        "autoexperiment/measure/scorer.py", "protocol.json", "skills/autoexperiment/SKILL.md", ".claude-plugin/plugin.json",
        "agents/ml-engineer.md", "scripts/check_plugin.py", "protocol.data.json",
    ]  # fmt: skip

    assert rewritten(tmp_path, names) == []


def test_settings_leave_both_sides_of_the_recipe_free(tmp_path: Path) -> None:
    names = ["train.py", "prepare.py", "data_sources.py", "EXPERIMENT.md"]

    assert rewritten(tmp_path, names) == names


@pytest.fixture
def sandbox_folders() -> list[Path]:
    """Where the programs of the client's own sandbox are; skips where there are none, or where they do not work."""
    found = [shutil.which(name) for name in ("bwrap", "socat")]
    if sys.platform != "linux" or None in found:
        pytest.skip("The client's sandbox needs bubblewrap and socat. Type: apt-get install bubblewrap socat")
    if subprocess.run([str(found[0]), "--unshare-net", "--ro-bind", "/", "/", "true"], capture_output=True).returncode:
        pytest.skip("bubblewrap can't make namespaces here.")
    return [Path(str(program)).parent for program in found]


def test_sandboxed_loop(tmp_path: Path, sandbox_folders: list[Path]) -> None:
    """The loop alone writes its state, everything else stays inside (a short name, for the sockets' sake)."""
    steps = [bash("mlx loop step -m x"), bash("mlx loop log; touch ~/a"), bash("touch ~/b"), bash("touch inside")]
    track = Track([*steps, say("end")], marker="MARK")

    with FakeAPI(track) as api:
        place = make_trusted(tmp_path, api.url)
        (place.home / "bin" / "mlx").write_text('#!/bin/sh\necho "$*" >> "$HOME/ledger"\n')
        # the sandbox makes Unix sockets there, whose names have at most 107 bytes
        short = {"TMPDIR": str(tmp_path / "t"), "CLAUDE_CODE_TMPDIR": str(tmp_path / "t")}
        (tmp_path / "t").mkdir()
        place = replace(place, path=sandbox_folders, variables=short)
        client.claude(place, "MARK", "--allowedTools", "Bash")

    assert (place.home / "ledger").read_text() == "loop step -m x\n"
    assert [name for name in ("a", "b") if (place.home / name).exists()] == []
    assert (place.cwd / "inside").exists()


# ---- the evaluations


def evaluated(tmp_path: Path, plugins: list[Path], cases: str, reply: str) -> dict[str, dict[str, bool]]:
    """Each case's graders with their answers, for an agent that says one thing and does nothing."""
    shutil.copytree(ROOT / "evals", plugins[0] / "evals")
    options = ["--trust-plugin", "--no-publish", "--runs", "1", "--ablation", "none", "--case", cases]
    out = ["--json", tmp_path / "out.json", "--output-dir", tmp_path / "out"]
    with FakeAPI(Track([say(reply)] * 8)) as api:
        client.claude_command(make_place(tmp_path, api.url), "plugin", "eval", plugins[0], *options, *out)
    report = json.loads((tmp_path / "out.json").read_text())
    runs = {case["name"]: case["arms"]["with"][0] for case in report["cases"]}
    return {name: {grade["name"]: grade["passed"] for grade in run["graders"]} for name, run in runs.items()}


def test_offline_evaluations_of_both_plugins_run_and_grade(tmp_path: Path, plugins: list[Path]) -> None:
    grades = evaluated(tmp_path, plugins, "*-no-shell", "I can't run mlx here.")

    assert grades == {
        "mlx-no-shell": {"names-the-tool": True, "claims-no-measurement": True, "writes-no-files": True},
        "model-no-shell": {"names-the-tool": True, "edits-nothing": True},
    }


def test_offline_evaluation_sees_an_invented_result(tmp_path: Path, plugins: list[Path]) -> None:
    grades = evaluated(tmp_path, plugins, "mlx-no-shell", "exp001 KEEP: val_loss 1.04, by mlx.")

    assert grades == {"mlx-no-shell": {"names-the-tool": True, "claims-no-measurement": False, "writes-no-files": True}}
