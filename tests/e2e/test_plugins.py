"""Both plugins as users get them, in the real client: validated, expanded, installed from a marketplace, run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import toy_package
from e2e import client
from e2e.fakeapi import FakeAPI, Request, Track, bash, say

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = [ROOT, ROOT / "experiment-plugin"]
PARTS = (".claude-plugin", "skills", "agents", "hooks", "references", "scripts", "bin", "experiment-plugin")
COMMANDS = {f"experiment:{name}" for name in ("compare", "data", "model", "review", "run")} | {"mlx:autoexperiment"}
AGENTS = {"mlx:ml-engineer", "experiment:experiment-reviewer"}
ENGINEER = "You are a machine-learning engineer who runs experiments"
REVIEWER = "You review the work of another researcher"
HELLO = bash("mlx hello", timeout=600000)


def make_market(folder: Path) -> Path:
    """A copy of what a marketplace of this repository holds; the package in it is a toy that installs in a moment."""
    folder.mkdir()
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    toy_package.make_package(folder)
    return folder


def expand(folder: Path, prompt: str) -> tuple[client.Run, Request]:
    """Type a command with both plugins loaded; returns the run and the one request that it made."""
    track = Track([say("understood")])
    with FakeAPI(track) as api:
        run = client.claude(client.make_place(folder, api.url), prompt, plugins=PLUGINS)
    assert run.rc == 0
    return run, track.requests[0]


# --- validation by the client itself


@pytest.mark.parametrize("target", [".", ".claude-plugin/plugin.json", "experiment-plugin"])
def test_client_finds_no_fault(tmp_path: Path, target: str) -> None:
    code, report = client.validate(client.make_place(tmp_path, ""), ROOT / target)

    assert (code, report["success"]) == (0, True), report
    is_second = target == "experiment-plugin"
    names = {name for name in COMMANDS | AGENTS if name.startswith("experiment:") == is_second}
    assert {*report["provides"]["skills"], *report["provides"]["agents"]} == names
    assert report["provides"]["bin"] == ["mlx"]
    assert {hook["event"] for hook in report["provides"]["hooks"]} >= {"SessionStart", "PreToolUse", "Stop"}


# --- expansion


def test_every_command_and_agent_is_there(tmp_path: Path) -> None:
    run, _ = expand(tmp_path, "hello")

    assert set(run.init["slash_commands"]) >= COMMANDS
    assert set(run.init["agents"]) >= AGENTS


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        (
            "/experiment:model mar5 pystdlib",
            [
                "# Find a lower val_bpb by changing train.py",
                "Arguments: mar5 pystdlib",
                '(tag "mar5", dataset "pystdlib"',
            ],
        ),
        ("/experiment:model mar5", ["Arguments: mar5\n", '(tag "mar5", dataset ""']),
        ("/experiment:model", ["Arguments: \n", '(tag "", dataset ""']),
        (
            '/experiment:data mar5-data "two words"',
            ["# Find a lower val_bpb by changing how training is fed", '(tag "mar5-data", dataset "two words"'],
        ),
        ("/experiment:run double the batch; rm -rf x", ["# One experiment", "Arguments: double the batch; rm -rf x"]),
        ("/experiment:compare 5", ["# Compare experiments", 'how many of the latest: "5"']),
        ("/experiment:compare", ['how many of the latest: ""']),
        ("/experiment:review mar5", ["# Review a session", 'session "mar5"', REVIEWER]),
        (
            "/mlx:autoexperiment src/train.py",
            ["# Experiments that run by themselves", "Arguments: src/train.py", ENGINEER],
        ),
    ],
)
def test_command_expands(tmp_path: Path, prompt: str, texts: list[str]) -> None:
    _, request = expand(tmp_path, prompt)

    for text in texts:
        assert text in request.all
    name = prompt.split()[0].partition(":")[2]
    body = request.all[request.all.index(texts[0]) :]
    assert "${" not in body, f"a substitution of {name} is unknown to the client"
    for word in ("$ARGUMENTS", "$tag", "$dataset", "$count"):
        assert word not in body


@pytest.mark.parametrize(
    ("prompt", "agent", "tools"),
    [
        ("/mlx:autoexperiment train.py", ENGINEER, {"Bash", "Read", "Edit", "Write", "Glob", "Grep"}),
        ("/experiment:review", REVIEWER, {"Bash", "Read", "Glob", "Grep"}),
    ],
)
def test_forked_command_runs_in_its_agent_with_its_tools(
    tmp_path: Path, prompt: str, agent: str, tools: set[str]
) -> None:
    _, request = expand(tmp_path, prompt)

    assert agent in request.system
    assert set(request.tools) <= tools
    assert {"Bash", "Read"} <= set(request.tools)


def test_files_that_a_skill_names_are_where_it_says(tmp_path: Path) -> None:
    _, request = expand(tmp_path, "/mlx:autoexperiment train.py")

    named = set(re.findall(rf"{re.escape(str(ROOT))}/[\w./-]+\.(?:py|md|template)", request.all))
    assert {Path(name).name for name in named} >= {"EXPERIMENT.md.template", "autoexperiment-guide.md"}
    assert [name for name in sorted(named) if not Path(name).is_file()] == []


def test_plain_calls_of_the_program_need_no_permission_and_others_do(tmp_path: Path) -> None:
    calls = ["mlx --version", "mlx loop status --json", "mlx loop run mar5 --agent claude", "mlx --version; touch made"]

    with FakeAPI(Track([*(bash(command) for command in calls), say("done")])) as api:
        place = client.make_place(tmp_path, api.url)
        toy_package.write_program(place.cwd / ".venv" / "bin" / "mlx", "project")
        run = client.claude(place, "/experiment:model mar5", plugins=PLUGINS)

    assert [denial["tool_input"]["command"] for denial in run.denials] == calls[2:]
    assert [result.text.split()[:2] for result in run.tool_results[:2]] == [
        ["project", "--version"],
        ["project", "loop"],
    ]
    assert not (place.cwd / "made").exists()


def test_commands_of_a_session_are_not_offered_to_the_model_and_the_others_are(tmp_path: Path) -> None:
    _, request = expand(tmp_path, "hello")

    offered = {name for name in COMMANDS if re.search(rf"^- {name}\b", request.all, re.MULTILINE)}
    assert offered == {"experiment:compare", "experiment:review"}


# --- a marketplace


@pytest.fixture
def market(tmp_path: Path) -> Path:
    return make_market(tmp_path / "market place")


def install(place: client.Place, market: Path, *plugins: str) -> None:
    commands: list[list[str | Path]] = [["marketplace", "add", market]]
    commands += [["install", f"{name}@autoexperiment"] for name in plugins]
    for words in commands:
        ended = client.claude_command(place, "plugin", *words)
        assert ended.rc == 0, ended.stdout + ended.stderr


def test_plugin_from_a_marketplace_sets_its_program_up_and_runs_it(tmp_path: Path, market: Path) -> None:
    track = Track([HELLO, HELLO, say("done")])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url, variables={"PIP_NO_INDEX": "1"})
        install(place, market, "mlx", "experiment")
        run = client.claude(place, "go", "--allowedTools", "Bash")

    first, second = run.tool_results
    data = place.home / ".claude" / "plugins" / "data"
    assert set(run.init["slash_commands"]) >= COMMANDS
    assert first.text.endswith("ready\ninstalled 1.0.0 hello")
    assert second.text == "installed 1.0.0 hello"
    assert len(list(data.glob("*/environments/1.0.0-*"))) == 1


def test_copy_that_the_client_keeps_is_whole(tmp_path: Path, market: Path) -> None:
    track = Track([HELLO, say("done")])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path / "one", api.url)
        install(place, market, "mlx")
        kept = next((place.home / ".claude" / "plugins" / "cache").glob("autoexperiment/mlx/*"))
        shutil.rmtree(market)
        other = client.make_place(tmp_path / "two", api.url, variables={"PIP_NO_INDEX": "1"})
        run = client.claude(other, "go", "--allowedTools", "Bash", plugins=[kept])

    assert run.tool_results[0].text.endswith("installed 1.0.0 hello")
    assert "mlx:autoexperiment" in run.init["slash_commands"]


def test_second_plugin_alone_says_where_the_program_comes_from(tmp_path: Path, market: Path) -> None:
    track = Track([HELLO, say("done")])
    shutil.rmtree(market / "autoexperiment")

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        install(place, market, "experiment")
        run = client.claude(place, "/experiment:model mar5", "--allowedTools", "Bash")

    assert "claude plugin install mlx@autoexperiment" in run.tool_results[0].text
    assert "# Find a lower val_bpb by changing train.py" in track.requests[0].all


def test_program_of_the_project_is_preferred_to_the_plugins_own(tmp_path: Path, market: Path) -> None:
    track = Track([HELLO, say("done")])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        install(place, market, "mlx")
        toy_package.write_program(place.cwd / ".venv" / "bin" / "mlx", "project")
        run = client.claude(place, "go", "--allowedTools", "Bash")

    assert run.tool_results[0].text.startswith("project hello ")


def test_hooks_of_an_installed_plugin_run(tmp_path: Path, market: Path) -> None:
    with FakeAPI(Track([bash("echo hi"), say("done")])) as api:
        place = client.make_place(tmp_path, api.url)
        install(place, market, "mlx")
        run = client.claude(place, "go")

    for event in ("SessionStart", "PreToolUse", "Stop"):
        answers = run.hooks(event)
        assert [answer["exit_code"] for answer in answers] == [0], event
        assert [answer["stderr"] for answer in answers] == [""], event


def test_removed_plugin_leaves_no_command(tmp_path: Path, market: Path) -> None:
    with FakeAPI() as api:
        place = client.make_place(tmp_path, api.url)
        install(place, market, "mlx", "experiment")
        for name in ("experiment", "mlx"):
            assert client.claude_command(place, "plugin", "uninstall", f"{name}@autoexperiment").rc == 0
        run = client.claude(place, "go")

    assert set(run.init["slash_commands"]) & COMMANDS == set()
