"""The harness itself, with the real clients: what the other tests rely on."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e import client
from e2e.fakeapi import (
    FakeAPI,
    Request,
    Step,
    Track,
    bash,
    call,
    costing,
    error,
    half,
    hang,
    limit,
    say,
    slow,
    stall,
    together,
)

RESETS_AT = 1795269797


def echo(request: Request) -> Step:
    return say("saw " + request.results[-1].text)


def make_plugin(folder: Path, hooks: object) -> Path:
    """A plugin called `toy` with these hooks and the skill `/toy:hello`."""
    (folder / ".claude-plugin").mkdir(parents=True)
    manifest = {"name": "toy", "version": "1.0.0", "description": "A toy.", "author": {"name": "t"}}
    (folder / ".claude-plugin" / "plugin.json").write_text(json.dumps(manifest))
    (folder / "skills" / "hello").mkdir(parents=True)
    (folder / "skills" / "hello" / "SKILL.md").write_text("---\nname: hello\ndescription: Hello.\n---\nHELLO BODY $0\n")
    (folder / "hooks").mkdir()
    (folder / "hooks" / "hooks.json").write_text(json.dumps({"hooks": hooks}))
    return folder


def test_tool_really_runs_and_its_result_reaches_the_script(tmp_path: Path) -> None:
    track = Track([bash("echo one-$((1+1))"), echo], marker="MARK")

    with FakeAPI(track) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "MARK do it", "--allowedTools", "Bash")

    assert (run.rc, run.result) == (0, "saw one-2")
    assert [result.text for result in run.tool_results] == ["one-2"]
    assert [request.turn for request in track.requests] == [0, 1]


def test_several_calls_of_one_turn_all_run(tmp_path: Path) -> None:
    both = together(bash("echo first"), bash("echo second"))
    track = Track([both, lambda request: say(" and ".join(result.text for result in request.results))])

    with FakeAPI(track) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "go")

    assert run.result == "first and second"


def test_client_inherits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER_SECRET", "leaked")
    track = Track([bash("env"), say("done")])

    with FakeAPI(track) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "go", "--allowedTools", "Bash")

    assert "OUTER_SECRET" not in run.tool_results[0].text
    assert f"HOME={tmp_path}" in run.tool_results[0].text


def test_tool_that_was_not_allowed_is_denied_and_did_not_run(tmp_path: Path) -> None:
    track = Track([bash("touch made"), say("done")])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        run = client.claude(place, "go")

    assert [denial["tool_input"]["command"] for denial in run.denials] == ["touch made"]
    assert run.tool_results[0].is_error
    assert not (place.cwd / "made").exists()


def test_requests_go_to_the_track_whose_marker_they_hold(tmp_path: Path) -> None:
    by_system = Track([say("from the system prompt")], marker="ROLE", where="system")
    by_text = Track([say("from the message")], marker="ROLE")

    with FakeAPI(by_system, by_text) as api:
        first = client.claude(client.make_place(tmp_path, api.url), "hi", "--append-system-prompt", "ROLE of a tester")
        second = client.claude(client.make_place(tmp_path, api.url), "ROLE play")
        third = client.claude(client.make_place(tmp_path, api.url), "nothing of it")

    assert [run.result for run in (first, second, third)] == ["from the system prompt", "from the message", "ok"]
    assert [len(track.requests) for track in (by_system, by_text)] == [1, 1]
    assert [request.all.count("nothing of it") for request in api.others] == [1]


def test_clients_in_parallel_each_get_a_step(tmp_path: Path) -> None:
    track = Track((say(f"answer {number}") for number in itertools.count()), marker="MARK")

    with FakeAPI(track) as api, ThreadPoolExecutor() as pool:
        places = [client.make_place(tmp_path / str(number), api.url) for number in range(3)]
        runs = list(pool.map(lambda place: client.claude(place, "MARK"), places))

    assert sorted(run.result for run in runs) == ["answer 0", "answer 1", "answer 2"]


@pytest.mark.parametrize(
    ("step", "status", "kind"),
    [
        (error(401, "authentication_error", "invalid x-api-key"), 401, "authentication_failed"),
        (error(429, "rate_limit_error", "slow down", headers={"retry-after": "1"}), 429, "rate_limit"),
        (error(529, "overloaded_error"), 529, "server_error"),
    ],
)
def test_failure_of_the_server_is_an_error_of_the_run(tmp_path: Path, step: Step, status: int, kind: str) -> None:
    with FakeAPI(Track(itertools.repeat(step))) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "go")

    assert (run.rc, run.results[-1]["is_error"], run.results[-1]["api_error_status"]) == (1, True, status)
    assert [event["error"] for event in run.events if event["type"] == "assistant"] == [kind]


def test_usage_limit_of_a_subscriber_names_its_end(tmp_path: Path) -> None:
    with FakeAPI(Track(itertools.repeat(limit(RESETS_AT)))) as api:
        run = client.claude(client.make_place(tmp_path, api.url, variables=client.SUBSCRIBER), "go")

    told = next(event["rate_limit_info"] for event in run.events if event["type"] == "rate_limit_event")
    assert (told["status"], told["resetsAt"]) == ("rejected", RESETS_AT)
    assert run.results[-1]["is_error"]


def test_answer_cut_in_half_is_asked_for_again(tmp_path: Path) -> None:
    track = Track([half(say("lost words")), slow(say("whole words"), 0.1)])

    with FakeAPI(track) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "go")

    assert run.result == "whole words"
    assert len(track.requests) == 2


def test_answers_that_are_always_cut_in_half_fail_the_run(tmp_path: Path) -> None:
    with FakeAPI(Track(itertools.repeat(half(say("lost words"))))) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "go")

    assert run.results[-1]["is_error"]


@pytest.mark.parametrize("step", [hang(), stall(say("some words"))])
def test_client_that_waits_for_ever_is_killed(tmp_path: Path, step: Step) -> None:
    track = Track([bash("echo $PPID > pid"), step])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        with pytest.raises(subprocess.TimeoutExpired):
            client.claude(place, "go", "--allowedTools", "Bash", timeout_s=5.0)

    assert len(track.requests) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int((place.cwd / "pid").read_text()), 0)


def test_request_without_tools_takes_no_step_of_a_script() -> None:
    content = json.dumps({"model": "m", "messages": [{"role": "user", "content": "a title for MARK, please"}]})
    track = Track([say("step")], marker="MARK")

    with FakeAPI(track) as api:
        connection = http.client.HTTPConnection(api.url.removeprefix("http://"))
        connection.request("POST", "/v1/messages", content)
        document = json.load(connection.getresponse())

    assert document["content"] == [{"type": "text", "text": "ok"}]
    assert (len(track.requests), len(api.others)) == (0, 1)


def test_cost_follows_the_tokens(tmp_path: Path) -> None:
    with FakeAPI(Track([say("cheap"), costing(say("dear"), read=1000, written=1000)])) as api:
        cheap = client.claude(client.make_place(tmp_path, api.url), "go")
        dear = client.claude(client.make_place(tmp_path, api.url), "go")

    ratio = dear.results[-1]["total_cost_usd"] / cheap.results[-1]["total_cost_usd"]
    assert ratio == pytest.approx(100.0)  # 1,000 tokens in and out instead of 10 and 10


def test_mistake_in_a_script_is_the_tests_own_error(tmp_path: Path) -> None:
    def wrong(request: Request) -> Step:
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"), FakeAPI(Track([wrong])) as api:
        client.claude(client.make_place(tmp_path, api.url), "go")


def test_hook_denies_and_is_seen_to(tmp_path: Path) -> None:
    hook = {"type": "command", "command": "echo 'no such thing' >&2; exit 2"}
    plugin = make_plugin(tmp_path / "toy", {"PreToolUse": [{"matcher": "Bash", "hooks": [hook]}]})
    track = Track([bash("echo ran"), say("done")], marker="HELLO BODY mar5")

    with FakeAPI(track) as api:
        run = client.claude(client.make_place(tmp_path, api.url), "/toy:hello mar5", plugins=[plugin])

    assert [entry["exit_code"] for entry in run.hooks("PreToolUse")] == [2]
    assert "no such thing" in track.requests[1].results[0].text
    assert "toy:hello" in run.init["slash_commands"]


def test_plugin_that_does_not_load_fails_the_test(tmp_path: Path) -> None:
    plugin = make_plugin(tmp_path / "toy", {"PreToolUse": [{"matcher": "Bash"}]})

    with FakeAPI() as api:
        place = client.make_place(tmp_path, api.url)
        with pytest.raises(AssertionError, match="toy"):
            client.claude(place, "hi", plugins=[plugin])
        code, report = client.validate(place, plugin)

    assert (code, report["success"]) == (1, False)


def test_settings_of_a_folder_count_only_when_it_is_trusted(tmp_path: Path) -> None:
    track = Track([bash("touch first"), say("done"), bash("touch second"), say("done")])

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        (place.cwd / ".claude").mkdir()
        (place.cwd / ".claude" / "settings.json").write_text('{"permissions": {"allow": ["Bash(touch:*)"]}}')
        client.claude(place, "go")
        client.trust(place, place.cwd)
        client.claude(place, "go")

    assert [(place.cwd / name).exists() for name in ("first", "second")] == [False, True]


def test_codex_runs_a_tool_too(tmp_path: Path) -> None:
    track = Track([call("exec_command", cmd="echo one-$((1+1)) | tee made"), echo], marker="MARK")

    with FakeAPI(track) as api:
        place = client.make_place(tmp_path, api.url)
        ended = client.codex(place, "MARK do it")

    assert ended.rc == 0
    assert (place.cwd / "made").read_text() == "one-2\n"
    assert "one-2" in track.requests[1].results[0].text
    assert [request.turn for request in track.requests] == [0, 1]
    assert ended.events[-1]["usage"]["output_tokens"] == 20


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (error(401, "authentication_error", "bad key"), "401 Unauthorized"),
        (error(429, "usage_limit_reached", "limit", resets_at=RESETS_AT, plan_type="plus"), "usage limit"),
        (half(say("words")), "stream disconnected"),
    ],
)
def test_codex_reports_a_failure_of_its_server(tmp_path: Path, step: Step, words: str) -> None:
    with FakeAPI(Track(itertools.repeat(step))) as api:
        ended = client.codex(client.make_place(tmp_path, api.url), "go")

    assert (ended.rc, ended.events[-1]["type"]) == (1, "turn.failed")
    assert words in ended.events[-1]["error"]["message"]


def test_missing_client_skips_unless_it_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_BIN", str(tmp_path / "nothing"))

    monkeypatch.delenv("REQUIRE_CLIENTS", raising=False)
    with pytest.raises(BaseException, match="install_clients") as optional:
        client.claude_binary()
    monkeypatch.setenv("REQUIRE_CLIENTS", "1")
    with pytest.raises(BaseException, match="install_clients") as required:
        client.claude_binary()

    assert (optional.type, required.type) == (pytest.skip.Exception, pytest.fail.Exception)
