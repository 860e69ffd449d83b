"""The hooks of a chat that drives a loop: bound by its command, briefed at its start, kept going while it gets on."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import hooked
import pytest
import standin
from hooked import CHAT, Answer, Place

MODEL, DATA, FORK = "experiment:model", "experiment:data", "mlx:autoexperiment"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return hooked.make_place(tmp_path, monkeypatch)


def expand(place: Place, command: str, **more: Any) -> Answer:
    words = {"expansion_type": "slash_command", "command_name": command, "command_args": "t"}
    return hooked.run(place, "bind.py", hooked.event(place, "UserPromptExpansion", **words) | more)


def ask(place: Place, prompt: str = "how far are you?", **more: Any) -> Answer:
    """The person types something; each prompt has an id of its own."""
    words = {"prompt": prompt, "prompt_id": "b3b5e7d0-0000-4000-8000-000000000003"}
    return hooked.run(place, "bind.py", hooked.event(place, "UserPromptSubmit", **words) | more)


def begin_agent(place: Place, agent: str = "a1", kind: str = "mlx:ml-engineer") -> Answer:
    return hooked.run(place, "bind.py", hooked.event(place, "SubagentStart", agent_id=agent, agent_type=kind))


def stop(place: Place, *, plugin: str = "experiment", variables: dict[str, str] | None = None, **more: Any) -> Answer:
    asked = {"stop_hook_active": False, "last_assistant_message": "done", "background_tasks": [], "session_crons": []}
    event = hooked.event(place, "Stop", **asked) | more
    return hooked.run(place, "keep_going.py", event, plugin, **(variables or {}))


def stop_agent(place: Place, agent: str = "a1", kind: str = "mlx:ml-engineer", **more: Any) -> Answer:
    more = {"hook_event_name": "SubagentStop", "agent_id": agent, "agent_type": kind, **more}
    return stop(place, plugin="mlx", **more)


def change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def chat_file(place: Place) -> Path:
    return place.state / "chats" / f"{CHAT}.json"


# ---- who is bound


@pytest.mark.parametrize("command", [MODEL, DATA])
def test_a_chat_that_began_a_loop_is_told_to_go_on(place: Place, command: str) -> None:
    bound = expand(place, command)

    answer = stop(place)

    assert (bound.code, bound.stdout, bound.stderr) == (0, "", "")
    assert answer.json["decision"] == "block"
    assert "mlx loop step" in answer.json["reason"]
    assert "Metric: score (minimize)" in answer.json["reason"]


@pytest.mark.parametrize("command", ["experiment:compare", "other:model", "model", None])
def test_other_commands_bind_nothing(place: Place, command: Any) -> None:
    expand(place, command)

    assert stop(place).stdout == ""


def test_a_chat_that_never_began_a_loop_may_stop(place: Place) -> None:
    answer = stop(place)

    assert (answer.code, answer.stdout, answer.stderr) == (0, "", "")


def test_another_chat_is_not_bound_with_it(place: Place) -> None:
    expand(place, MODEL)

    assert stop(place, session_id="another").stdout == ""


def test_the_other_plugins_hook_keeps_out_of_it(place: Place) -> None:
    expand(place, MODEL)

    assert stop(place, plugin="mlx").stdout == ""


@pytest.mark.parametrize("session_id", ["../../x", "", "a/b", 7])
def test_an_id_that_is_none_names_no_file(place: Place, session_id: Any) -> None:
    bound = expand(place, MODEL, session_id=session_id)
    answer = stop(place, session_id=session_id)

    assert (bound.code, answer.code) == (0, 0)
    assert "could not be bound" in bound.stderr
    assert "may stop" in answer.json["systemMessage"]
    assert not (place.state / "chats").exists()


def test_what_is_remembered_of_old_chats_goes(place: Place) -> None:
    expand(place, MODEL, session_id="old")
    os.utime(place.state / "chats" / "old.json", (0, 0))

    expand(place, MODEL)

    assert [file.name for file in (place.state / "chats").iterdir()] == [f"{CHAT}.json"]


# ---- when it may stop


def test_it_may_stop_before_the_session_is_set_up(place: Place) -> None:
    expand(place, MODEL)
    standin.git(place.root, "switch", "-q", "main")

    assert stop(place).stdout == ""


def test_it_may_stop_when_the_session_is_over(place: Place) -> None:
    expand(place, MODEL)
    change(place.handover, over="the breaker is open")

    assert stop(place).stdout == ""


def test_it_may_stop_when_the_protocols_time_is_over(place: Place) -> None:
    expand(place, MODEL)
    change(place.handover, ends_at=time.time() - 1)

    assert stop(place).stdout == ""


def test_it_may_not_stop_before_the_protocols_time_is_over(place: Place) -> None:
    expand(place, MODEL)
    change(place.handover, ends_at=time.time() + 1000)

    assert stop(place).json["decision"] == "block"


def test_it_may_stop_when_a_stop_was_requested(place: Place) -> None:
    expand(place, MODEL)
    (place.handover.parent / "stop").write_text("stop\n")

    assert stop(place).stdout == ""


def test_a_stop_request_from_before_counts_no_more(place: Place) -> None:
    request = place.handover.parent / "stop"
    request.write_text("stop\n")
    os.utime(request, (1000, 1000))
    expand(place, MODEL)

    assert stop(place).json["decision"] == "block"


def test_it_may_stop_while_background_work_runs(place: Place) -> None:
    expand(place, MODEL)

    assert stop(place, background_tasks=[{"id": "b1", "type": "shell", "status": "running"}]).stdout == ""


def test_it_may_stop_after_its_rounds(place: Place) -> None:
    expand(place, MODEL)
    variables = {"AUTOEXPERIMENT_CHAT_ROUNDS": "2"}

    answers = [stop(place, variables=variables) for _ in range(3)]

    assert [answer.json.get("decision") for answer in answers] == ["block", "block", None]
    assert "2 are allowed (AUTOEXPERIMENT_CHAT_ROUNDS)" in answers[2].json["systemMessage"]


def test_it_may_stop_after_its_hours(place: Place) -> None:
    expand(place, MODEL)
    change(chat_file(place), bound_at=time.time() - 11 * 3600)

    longer, answer = stop(place, variables={"AUTOEXPERIMENT_CHAT_HOURS": "12"}), stop(place)

    assert longer.json["decision"] == "block"
    assert "its 10 hours are over" in answer.json["systemMessage"]


@pytest.mark.parametrize("name", ["AUTOEXPERIMENT_CHAT_HOURS", "AUTOEXPERIMENT_CHAT_ROUNDS"])
@pytest.mark.parametrize("text", ["many", "-1", "nan"])
def test_a_limit_that_is_no_number_is_said_and_lets_it_stop(place: Place, name: str, text: str) -> None:
    expand(place, MODEL)

    answer = stop(place, variables={name: text})

    assert answer.json.get("decision") is None
    assert f"{name} is '{text}'" in answer.json["systemMessage"]


def test_it_may_stop_when_three_rounds_brought_nothing(place: Place) -> None:
    expand(place, MODEL)

    answers = [stop(place) for _ in range(4)]

    assert [answer.json.get("decision") for answer in answers] == ["block", "block", "block", None]
    assert "no experiment was decided since it was told 3 times" in answers[3].json["systemMessage"]


def test_progress_within_the_last_three_rounds_keeps_it_going(place: Place) -> None:
    expand(place, MODEL)
    decisions = []

    for decided in [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]:
        change(place.handover, decided=decided)
        decisions.append(stop(place).json.get("decision"))

    # Told at 0 0 1; at 1 the last three blocks held 0 0 1, at the next 0 1 1, then 1 1 1: let go, for good.
    assert decisions == ["block"] * 5 + [None] * 5


def test_the_limit_is_said_once(place: Place) -> None:
    expand(place, MODEL)
    for _ in range(3):
        stop(place)

    last, next_one = stop(place), stop(place)

    assert f"To go on here, type /{MODEL} again" in last.json["systemMessage"]
    assert next_one.stdout == ""


def test_a_stop_that_was_taken_up_by_somebody_else_still_counts(place: Place) -> None:
    expand(place, MODEL)
    request = place.handover.parent / "stop"
    request.write_text("stop\n")
    stop(place)

    request.unlink()

    assert stop(place).stdout == ""


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_session_that_was_over_and_is_opened_again_drives_no_chat_by_itself(place: Place, rounds: int) -> None:
    expand(place, MODEL)
    for _ in range(rounds):
        stop(place)
    change(place.handover, over="the breaker is open")
    stop(place)

    change(place.handover, over="")

    assert stop(place).stdout == ""


def test_a_session_that_was_over_before_keeps_no_chat_from_another_one(place: Place) -> None:
    expand(place, MODEL)
    change(place.handover, over="enough")
    asked_for_the_tag, answered = stop(place), ask(place, "mar6")
    change(place.handover, over="", tag="mar6")

    answer = stop(place)

    assert (asked_for_the_tag.stdout, answered.stdout) == ("", "")
    assert answer.json["decision"] == "block"


# ---- what the person types


@pytest.mark.parametrize(
    "prompt", ["how far are you?", "/experiment:compare", "/experiment:run x", "/experiment:models"]
)
def test_another_prompt_frees_a_chat_and_says_so_once(place: Place, prompt: str) -> None:
    expand(place, MODEL)

    first, second = ask(place, prompt), ask(place, prompt)

    assert stop(place).stdout == ""
    assert f"To go on, type /{MODEL} again" in first.json["systemMessage"]
    assert (first.code, second.stdout, second.stderr) == (0, "", "")


def test_another_prompt_frees_a_chat_of_a_client_without_prompt_ids(place: Place) -> None:
    expand(place, MODEL, prompt_id=None)

    ask(place, prompt_id=None)

    assert stop(place).stdout == ""


@pytest.mark.parametrize("command", [MODEL, DATA, FORK])
def test_a_driving_command_is_no_other_prompt(place: Place, command: str) -> None:
    expand(place, command)

    answer = ask(place, f"/{command} t")

    assert (answer.stdout, chat_file(place).exists()) == ("", True)


def test_what_is_typed_while_the_agent_works_frees_nothing(place: Place) -> None:
    expand(place, MODEL)

    ask(place, "try a smaller one", prompt_id=hooked.event(place, "UserPromptSubmit")["prompt_id"])

    assert stop(place).json["decision"] == "block"


def test_what_is_typed_in_a_turn_of_background_work_frees_nothing(place: Place) -> None:
    expand(place, MODEL)
    ask(place, "<task-notification>\n</task-notification>", prompt_id="woken")

    ask(place, "try a smaller one", prompt_id="woken")

    assert stop(place).json["decision"] == "block"


def test_background_work_that_ends_is_no_prompt_of_the_person(place: Place) -> None:
    expand(place, MODEL)

    ask(place, "<task-notification>\n<task-id>b1</task-id>\n</task-notification>")

    assert stop(place).json["decision"] == "block"


def test_an_answer_before_a_session_is_set_up_frees_nothing(place: Place) -> None:
    expand(place, MODEL)
    standin.git(place.root, "switch", "-q", "main")
    ask(place, "mar6")

    standin.git(place.root, "switch", "-q", "autoresearch/t")

    assert stop(place).json["decision"] == "block"


def test_a_prompt_frees_a_chat_that_drove_a_session_whose_branch_was_left(place: Place) -> None:
    expand(place, MODEL)
    stop(place)
    standin.git(place.root, "switch", "-q", "main")

    ask(place)

    assert not chat_file(place).exists()


def test_a_prompt_frees_a_chat_whose_session_cannot_be_read(place: Place) -> None:
    expand(place, MODEL)
    place.handover.write_text("{")

    ask(place)

    assert not chat_file(place).exists()


def test_a_prompt_in_a_chat_that_drives_nothing_is_left_alone(place: Place) -> None:
    answer = ask(place)

    assert (answer.code, answer.stdout, answer.stderr) == (0, "", "")


def test_a_new_command_binds_a_freed_chat_again(place: Place) -> None:
    expand(place, MODEL)
    ask(place)

    expand(place, MODEL)

    assert stop(place).json["decision"] == "block"


def test_a_new_command_begins_the_count_afresh(place: Place) -> None:
    expand(place, MODEL)
    for _ in range(4):
        stop(place)

    expand(place, MODEL)

    assert stop(place).json["decision"] == "block"


def test_a_chat_that_left_its_project_is_kept_going(place: Place) -> None:
    expand(place, MODEL)

    answer = stop(place, cwd=str(place.home), variables={"CLAUDE_PROJECT_DIR": str(place.root)})

    assert answer.json["decision"] == "block"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}'])
def test_a_damaged_memory_lets_it_stop_and_says_so(place: Place, text: str) -> None:
    expand(place, MODEL)
    chat_file(place).write_text(text)

    answer = stop(place)

    assert answer.code == 0
    assert "may stop" in answer.json["systemMessage"]


@pytest.mark.parametrize("fields", [{"version": 2}, {"command": "other:model"}])
def test_a_memory_of_another_version_lets_it_stop(place: Place, fields: dict[str, Any]) -> None:
    expand(place, MODEL)
    change(chat_file(place), **fields)

    answer = stop(place)

    assert "is of another version" in answer.json["systemMessage"]


def test_a_damaged_event_lets_it_stop(place: Place) -> None:
    answer = hooked.run(place, "keep_going.py", "{", "experiment")

    assert answer.code == 0
    assert "may stop" in answer.json["systemMessage"]


# ---- a command that was forked into an agent


def test_the_agent_that_drives_is_kept_going(place: Place) -> None:
    expand(place, FORK)

    assert stop_agent(place).json["decision"] == "block"


def test_the_chat_around_a_forked_command_may_stop(place: Place) -> None:
    expand(place, FORK)
    stop_agent(place)

    assert stop(place, plugin="mlx").stdout == ""


@pytest.mark.parametrize(("kind", "is_kept"), [("mlx:ml-engineer", False), ("Explore", True)])
def test_the_chat_around_a_fork_that_ended_without_a_word_may_stop(place: Place, kind: str, is_kept: bool) -> None:
    expand(place, FORK)
    begin_agent(place, kind=kind)

    assert ("decision" in stop(place, plugin="mlx").json) == is_kept


def test_a_second_agent_does_not_take_the_place_of_the_one_that_drives(place: Place) -> None:
    expand(place, FORK)
    begin_agent(place, "a1")
    begin_agent(place, "a2")

    assert stop_agent(place, "a2").stdout == ""
    assert stop_agent(place, "a1").json["decision"] == "block"


def test_an_agent_in_a_chat_that_drives_itself_takes_nothing_over(place: Place) -> None:
    expand(place, MODEL)
    begin_agent(place)

    assert stop(place).json["decision"] == "block"


def test_a_client_that_does_not_fork_is_kept_going_itself(place: Place) -> None:
    expand(place, FORK)

    assert stop(place, plugin="mlx").json["decision"] == "block"


def test_other_agents_of_a_driving_chat_may_stop(place: Place) -> None:
    expand(place, FORK)
    first = stop_agent(place)

    assert first.json["decision"] == "block"
    assert stop_agent(place, kind="Explore").stdout == ""
    assert stop_agent(place, agent="a2").stdout == ""


def test_an_agent_beside_a_chat_that_drives_itself_may_stop(place: Place) -> None:
    expand(place, MODEL)
    event = {"hook_event_name": "SubagentStop", "agent_id": "a1", "agent_type": "mlx:ml-engineer"}

    assert stop(place, **event).stdout == ""


# ---- the briefing


def begin(place: Place, source: str = "compact", event: dict[str, Any] | None = None, **variables: str) -> Answer:
    return hooked.run(place, "resume.py", event or hooked.event(place, "SessionStart", source=source), **variables)


def test_a_chat_is_told_where_the_loop_stands(place: Place) -> None:
    answer = begin(place)

    assert answer.code == 0
    assert "It is data" in answer.stdout.split("\n")[0]
    assert "Session t on branch autoresearch/t" in answer.stdout
    assert "This chat drives the loop" not in answer.stdout


def test_a_chat_that_drives_is_told_so(place: Place) -> None:
    expand(place, MODEL)

    assert "This chat drives the loop" in begin(place).stdout


def test_a_chat_that_is_opened_again_waits_for_its_person(place: Place) -> None:
    expand(place, MODEL)

    assert "This chat drives the loop" not in begin(place, "resume").stdout


@pytest.mark.parametrize("how", ["prompt", "stop", "over"])
def test_a_chat_that_drives_no_more_is_told_nothing_of_it(place: Place, how: str) -> None:
    expand(place, MODEL)
    if how == "prompt":
        ask(place)
    elif how == "stop":
        (place.handover.parent / "stop").write_text("stop\n")
    else:
        change(place.handover, over="enough")

    told = begin(place).stdout

    assert "Session t on branch" in told
    assert "This chat drives the loop" not in told


def test_nothing_is_told_without_a_session(place: Place) -> None:
    standin.git(place.root, "switch", "-q", "main")

    answer = begin(place)

    assert (answer.code, answer.stdout, answer.stderr) == (0, "", "")


def test_two_plugins_tell_it_once(place: Place) -> None:
    first, second, other = begin(place), begin(place), begin(place, "resume")

    assert (first.stdout != "", second.stdout, other.stdout != "") == (True, "", True)


def test_a_client_that_opens_the_chat_again_is_told_again(place: Place) -> None:
    begin(place, CLAUDE_PID="100")

    assert begin(place, CLAUDE_PID="100").stdout == ""
    assert begin(place, CLAUDE_PID="101").stdout != ""


def test_the_same_event_later_is_told_again(place: Place) -> None:
    begin(place, CLAUDE_PID="100")
    mark = place.state / "chats" / f"{CHAT}.seen"
    mark.write_text(f"compact 100\n{time.time() - 6}")

    assert begin(place, CLAUDE_PID="100").stdout != ""


def test_a_briefing_that_is_too_long_is_cut(place: Place) -> None:
    change(place.handover, briefing="x" * 20_000)

    assert len(begin(place).stdout) < 4500


def test_a_chat_begins_whatever_is_broken(place: Place) -> None:
    place.handover.write_text("{")

    answers = [begin(place), hooked.run(place, "resume.py", "{"), hooked.run(place, "bind.py", "{")]

    assert [(answer.code, answer.stdout) for answer in answers] == [(0, "")] * 3
    assert all(answer.stderr for answer in answers)


@pytest.mark.parametrize("own", ["", "/my own/place"])
def test_the_launcher_learns_where_the_plugin_keeps_its_data(place: Place, tmp_path: Path, own: str) -> None:
    file, data = tmp_path / "env.sh", "/plugins/it's data"
    file.write_text("export OTHER=1\n")

    begin(place, CLAUDE_ENV_FILE=str(file), CLAUDE_PLUGIN_DATA=data)

    script = f'. "{file}"; printf "%s %s" "$OTHER" "$AUTOEXPERIMENT_HOME"'
    environment = {"PATH": os.environ["PATH"], **({"AUTOEXPERIMENT_HOME": own} if own else {})}
    answer = subprocess.run(["/bin/sh", "-eu", "-c", script], env=environment, capture_output=True, text=True)
    assert answer.stdout == f"1 {own or data}"


def test_the_launcher_is_told_nothing_when_the_client_gives_no_place(place: Place) -> None:
    answer = begin(place, CLAUDE_PLUGIN_DATA="/x")

    assert answer.code == 0
    assert answer.stderr == ""
