"""Visits of headless agents, played by small programs: how each of them may end, and that nothing of it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
import stub_agent

from autoexperiment import fence
from autoexperiment.agents.clients import client_named
from autoexperiment.agents.visit import Outcome, Visit, VisitLimits, pay
from autoexperiment.errors import Refused, UsageError

ROOT = Path(__file__).resolve().parent.parent
PATIENT = VisitLimits(idle_s=60.0, wall_s=60.0)
needs_fence = pytest.mark.skipif(bool(fence.fault()), reason=fence.fault())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files to edit; programs are looked for in tmp_path/bin first."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for name in ("CLAUDE_CONFIG_DIR", "CODEX_HOME", "PI_CODING_AGENT_DIR", "GEMINI_CLI_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "state" / "desk"
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("VALUE = 2.0\n")
    return folder


def visit(desk: Path, body: str, *, name: str = "claude", limits: VisitLimits = PATIENT) -> Visit:
    """One visit of a client of this name that does what the body says."""
    root = desk.parent.parent
    stub_agent.install(root / "bin", name, body)
    return pay(client_named(name), "the prompt", desk, log=root / "visit.log", limits=limits, editable=["train.py"])


def command(desk: Path, body: str, words: str = "", *, limits: VisitLimits = PATIENT) -> Visit:
    """One visit of a program of the user's own."""
    root = desk.parent.parent
    stub_agent.install(root / "bin", "own", body)
    client = client_named(f"command:own {words}")
    return pay(client, "the prompt", desk, log=root / "visit.log", limits=limits, editable=["train.py"])


def processes_with(mark: str) -> list[int]:
    """Live processes that have this word among theirs."""
    found = []
    for process in psutil.process_iter():
        try:
            if mark in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


# ---- a visit that goes well


def test_agent_edits_the_desk_and_says_what_it_did(desk: Path) -> None:
    body = """
        open("train.py", "w").write("VALUE = 1.5\\n")
        out({"type": "system", "subtype": "init"}, text("working"))
        usage = {"input_tokens": 100, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 3, "output_tokens": 7}
        out(result("IDEA: a lower value\\nNEXT: lower still", total_cost_usd=0.25, usage=usage))
    """

    paid = visit(desk, body)

    assert (paid.outcome, paid.reason) == (Outcome.ENDED, "")
    assert paid.said == "IDEA: a lower value\nNEXT: lower still"
    assert (paid.cost_usd, paid.tokens) == (0.25, 130)
    assert (desk / "train.py").read_text() == "VALUE = 1.5\n"
    assert paid.seconds > 0


def test_events_are_found_between_garbage_half_lines_and_a_flood_of_text(desk: Path) -> None:
    body = """
        sys.stdout.write('\\x00\\xff{"type": "resu\\n[1, 2]\\nnull\\n{"a": 1}\\n"just text"\\n')
        sys.stdout.write('{"type":"assistant","message":{"content":[{"type":"text","text":"cut ')
        out({"type": "rate_limit_event", "rate_limit_info": {"status": "allowed", "resetsAt": 1}})
        sys.stdout.write("x" * 3_000_000 + "\\n")
        out({"type": "assistant", "message": None}, {"type": "assistant", "message": {"content": "deep"}})
        out({"type": "result", "usage": "none"}, failed(""))
        out(result("done", total_cost_usd="free", usage={"input_tokens": "many", "output_tokens": -1}))
    """

    paid = visit(desk, body)

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "done")
    assert (paid.cost_usd, paid.tokens) == (None, None)


def test_event_behind_the_half_of_another_one_is_found(desk: Path) -> None:
    body = """
        sys.stdout.write('{"type":"assistant","message":{"content":[{"type":"text","text":"cut ')
        out(result("glued"))
    """

    paid = visit(desk, body)

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "glued")


def test_result_is_read_from_a_last_line_that_has_no_end(desk: Path) -> None:
    paid = visit(desk, 'sys.stdout.write(json.dumps(result("last words")))')

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "last words")


def test_result_at_the_end_of_a_hundred_megabytes_is_found_and_the_log_stays_small(desk: Path) -> None:
    body = """
        line = "y" * 999 + "\\n"
        for _ in range(100):
            sys.stdout.write(line * 1000)
        out(result("after the flood"))
    """

    paid = visit(desk, body)

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "after the flood")
    assert (desk.parent.parent / "visit.log").stat().st_size < 3_000_000


def test_last_words_are_bounded_and_without_control_characters(desk: Path) -> None:
    paid = visit(desk, 'out(result("x" * 9000 + "\\x1b[31mIDEA:\\x07 red\\x1b[0m\\u0000\\nNEXT: more"))')

    assert paid.said.endswith("IDEA: red\nNEXT: more")
    assert len(paid.said) <= 4_000
    assert all(c.isprintable() or c == "\n" for c in paid.said)


def test_client_that_never_leaves_after_its_result_has_ended(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoexperiment.agents.visit.LINGER_S", 0.2)

    paid = visit(desk, 'out(result("done"))\ntime.sleep(10)\nout(result("too late"))')

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "done")


# ---- limits, log-in, load


def test_usage_limit_has_the_time_that_its_event_names_to_the_second(desk: Path) -> None:
    reset = int(time.time()) + 7243
    body = f"""
        out({{"type": "rate_limit_event", "rate_limit_info": {{"status": "rejected", "resetsAt": {reset}}}}})
        out(failed("You've hit your 5-hour limit · resets 3pm (UTC)", 429))
        sys.exit(1)
    """

    paid = visit(desk, body)

    assert paid.outcome is Outcome.USAGE_LIMIT
    assert paid.reset_at == datetime.fromtimestamp(reset, UTC)
    assert paid.reason == "You've hit your 5-hour limit · resets 3pm (UTC)"


def test_limit_event_that_still_allows_is_no_limit(desk: Path) -> None:
    body = """
        out({"type": "rate_limit_event", "rate_limit_info": {"status": "allowed_warning", "resetsAt": 1}})
        sys.exit(1)
    """

    assert visit(desk, body).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    ("event", "outcome"),
    [
        ('failed("Claude AI usage limit reached|%d" % (time.time() + 600))', Outcome.USAGE_LIMIT),
        ('failed("Credit balance is too low", 400)', Outcome.USAGE_LIMIT),
        ('failed("Invalid API key · Fix external API key", 401)', Outcome.AUTH),
        ('failed("Not logged in · Please run /login")', Outcome.AUTH),
        ('failed("Failed to authenticate. API Error: 403 forbidden", 403)', Outcome.AUTH),
        ('failed("API Error: 529 Overloaded.", 529)', Outcome.OVERLOADED),
        ('failed("API Error: 500 Internal server error.", 500)', Outcome.OVERLOADED),
        (
            'failed("API Error: Server is temporarily limiting requests (not your usage limit)", 429)',
            Outcome.OVERLOADED,
        ),
        ('failed("API Error: Connection refused (ECONNREFUSED)")', Outcome.OVERLOADED),
        ('failed("There is an issue with the selected model (x).", 404)', Outcome.FAILED),
        ('{"type": "result", "subtype": "error_max_turns", "is_error": True}', Outcome.FAILED),
    ],
)
def test_errors_of_claude_are_told_apart(desk: Path, event: str, outcome: Outcome) -> None:
    paid = visit(desk, f"out({event})\nsys.exit(1)")

    assert paid.outcome is outcome
    assert paid.reason
    assert (paid.reset_at is not None) == ("usage limit reached" in event)


def test_agent_that_only_talks_about_limits_has_met_none(desk: Path) -> None:
    body = """
        out(text("The API answers 429: usage limit reached|1795273015, please run /login"))
        print("agent: 401 unauthorized is handled in client.py")
        out(result("Handled HTTP 429 and 529 in train.py; rate limit and quota are covered"))
    """

    assert visit(desk, body).outcome is Outcome.ENDED


def test_stall_while_the_client_tries_again_is_what_it_tries_again_after(desk: Path) -> None:
    body = """
        out({"type": "system", "subtype": "api_retry", "attempt": 3, "error_status": 529, "error": "overloaded"})
        time.sleep(600)
    """

    paid = visit(desk, body, limits=VisitLimits(idle_s=0.5, wall_s=60))

    assert paid.outcome is Outcome.OVERLOADED


def test_retries_that_were_overcome_do_not_explain_a_later_stall(desk: Path) -> None:
    body = """
        out({"type": "system", "subtype": "api_retry", "attempt": 3, "error_status": 529, "error": "overloaded"})
        out(text("getting on"))
        time.sleep(600)
    """

    assert visit(desk, body, limits=VisitLimits(idle_s=0.5, wall_s=60)).outcome is Outcome.STALLED


# ---- stalls, kills, other ends


def test_silent_agent_is_ended_with_all_it_started(desk: Path) -> None:
    mark = f"grandchild-{os.getpid()}-{time.monotonic_ns()}"
    body = f"""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        for own_session in (False, True):
            subprocess.Popen([sys.executable, "-IS", "-c", code, "{mark}"], start_new_session=own_session)
        out(text("started"))
        time.sleep(600)
    """

    paid = visit(desk, body, limits=VisitLimits(idle_s=1.0, wall_s=60))

    assert paid.outcome is Outcome.STALLED
    assert paid.reason == "It wrote nothing for 1 s."
    assert processes_with(mark) == []


def test_agent_that_writes_for_ever_is_ended_after_its_time(desk: Path) -> None:
    body = """
        for _ in range(200):
            out(text("still thinking"))
            time.sleep(0.05)
        out(result("too late"))
    """

    paid = visit(desk, body, limits=VisitLimits(idle_s=60, wall_s=1.0))

    assert (paid.outcome, paid.reason) == (Outcome.STALLED, "It was not done after 1 s.")


def test_grandchild_that_holds_the_output_open_does_not_hold_the_visit(desk: Path) -> None:
    mark = f"holder-{os.getpid()}-{time.monotonic_ns()}"
    body = f"""
        code = "import time; time.sleep(600)"
        subprocess.Popen([sys.executable, "-IS", "-c", code, "{mark}"], start_new_session=True)
        out(result("done"))
    """

    paid = visit(desk, body)

    assert paid.outcome is Outcome.ENDED
    assert processes_with(mark) == []


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGSEGV"])
def test_agent_that_dies_of_a_signal_was_killed(desk: Path, number: str) -> None:
    paid = visit(desk, f'out(text("half way"))\nos.kill(os.getpid(), signal.{number})\ntime.sleep(60)')

    assert paid.outcome is Outcome.KILLED
    assert "killed" in paid.reason


def test_wrapper_that_reports_the_kill_of_its_child_was_killed(desk: Path) -> None:
    paid = visit(desk, "sys.exit(137)")

    assert (paid.outcome, paid.reason) == (Outcome.KILLED, "It was killed by SIGKILL.")


def test_end_without_a_result_is_a_failure_with_the_last_line(desk: Path) -> None:
    quiet = visit(desk, 'out(text("I will now edit"))')
    loud = visit(desk, "print(\"error: unknown option '--safe-mode'\")\nsys.exit(1)")

    assert quiet.outcome is loud.outcome is Outcome.FAILED
    assert quiet.reason == "It ended without saying that it is done: it wrote nothing about it."
    assert loud.reason == "Exit code 1: error: unknown option '--safe-mode'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_driver_stops_the_visit_and_the_agent(desk: Path, number: signal.Signals) -> None:
    mark = f"stopped-{os.getpid()}-{time.monotonic_ns()}"
    stub_agent.install(
        desk.parent.parent / "bin", "claude",
        f'subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)", "{mark}"])\n'
        'out(text("up"))\ntime.sleep(600)',
    )  # fmt: skip
    driver = f"""\
        import sys
        from pathlib import Path
        from autoexperiment.agents.clients import client_named
        from autoexperiment.agents.visit import VisitLimits, pay
        def tick(elapsed):
            print("tick", flush=True)
        root = Path({str(desk.parent.parent)!r})
        paid = pay(client_named("claude"), "p", root / "state" / "desk", log=root / "visit.log",
                   limits=VisitLimits(), editable=["train.py"], on_tick=tick)
        print("outcome:", paid.outcome, paid.reason, flush=True)
    """
    words = [sys.executable, "-c", textwrap.dedent(driver)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    while not processes_with(mark):
        assert process.stdout.readline() == "tick\n"

    process.send_signal(number)
    output, _ = process.communicate(timeout=60)

    assert f"outcome: stopped Stopped by {number.name}." in output
    assert processes_with(mark) == []


def test_what_a_tick_raises_passes_through_once_the_agent_is_dead(desk: Path) -> None:
    mark = f"ticked-{os.getpid()}-{time.monotonic_ns()}"
    program = stub_agent.install(desk.parent.parent / "bin", "own", "time.sleep(600)")

    def tick(elapsed_s: float) -> None:
        if processes_with(mark):
            raise Refused("no more")

    with pytest.raises(Refused, match="no more"):
        pay(client_named(f"command:{program} {mark}"), "p", desk, log=desk.parent / "visit.log", limits=PATIENT,
            editable=[], on_tick=tick)  # fmt: skip

    assert processes_with(mark) == []


# ---- what it may see and write


def test_what_an_outer_agent_left_in_the_environment_does_not_reach_it(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLAUDECODE", "CLAUDE_CODE_SESSION_ID", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_PLUGIN_ROOT",
                 "CLAUDE_PROJECT_DIR", "GIT_DIR", "AUTOEXPERIMENT_HOME"):  # fmt: skip
        monkeypatch.setenv(name, "left-behind")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the user's")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", "the user's")

    paid = visit(desk, "out(result(json.dumps(dict(os.environ))))")

    assert "left-behind" not in paid.said
    assert paid.said.count("the user's") == 2
    assert '"DISABLE_AUTOUPDATER": "1"' in paid.said
    assert f'"GIT_CEILING_DIRECTORIES": "{desk.parent}"' in paid.said


def test_scratch_folder_is_its_own_and_goes_with_it(desk: Path) -> None:
    body = """
        import os
        open(os.path.join(os.environ["TMPDIR"], "x"), "w").write("scratch")
        print(os.environ["TMPDIR"])
    """

    paid = command(desk, body)

    assert paid.outcome is Outcome.ENDED
    assert paid.said and not Path(paid.said).exists()
    assert not Path(paid.said).is_relative_to(desk)


@needs_fence
def test_agent_writes_below_its_desk_and_nowhere_else(desk: Path, tmp_path: Path) -> None:
    outside = tmp_path / "state" / "ledger.jsonl"
    outside.write_text("kept\n")
    body = f"""
        open("new.py", "w").write("yes")
        for path in ({str(outside)!r}, os.path.expanduser("~/evil"), {str(tmp_path / "visit.log")!r}):
            try:
                open(path, "a").write("evil")
            except PermissionError:
                print("denied")
    """

    paid = command(desk, body)

    assert paid.said == "denied\ndenied\ndenied"
    assert (desk / "new.py").read_text() == "yes"
    assert outside.read_text() == "kept\n"
    assert not (tmp_path / "home" / "evil").exists()


@needs_fence
def test_codex_can_write_its_log_in_but_not_its_settings(desk: Path, tmp_path: Path) -> None:
    own = tmp_path / "home" / ".codex"
    own.mkdir()
    (own / "auth.json").write_text("old")
    (own / "config.toml").write_text("mine")
    body = """
        own = os.path.expanduser("~/.codex/")
        open(own + "auth.json", "w").write("new")
        denied = 0
        for name in ("config.toml", "AGENTS.md", "hooks.json"):
            try:
                open(own + name, "w").write("evil")
            except PermissionError:
                denied += 1
        out({"type": "item.completed", "item": {"type": "agent_message", "text": "%d denied" % denied}},
            {"type": "turn.completed", "usage": {"input_tokens": 4, "output_tokens": 2}})
    """

    paid = visit(desk, body, name="codex")

    assert (paid.outcome, paid.said, paid.tokens) == (Outcome.ENDED, "3 denied", 6)
    assert (own / "auth.json").read_text() == "new"
    assert (own / "config.toml").read_text() == "mine"
    assert not (own / "AGENTS.md").exists()


# ---- the other clients' words


_ERROR = '{"type": "error", "message": "%s"}, {"type": "turn.failed", "error": {"message": "%s"}}'


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        ("You've hit your usage limit. Upgrade to Pro or try again at 3:32 PM.", Outcome.USAGE_LIMIT),
        ("unexpected status 401 Unauthorized: invalid x-api-key, url: u", Outcome.AUTH),
        ("unexpected status 529 <unknown status code>: Overloaded, url: u", Outcome.OVERLOADED),
        ("stream disconnected before completion: error sending request for url (u)", Outcome.OVERLOADED),
        ("unexpected status 404 Not Found: model: foo, url: u", Outcome.FAILED),
    ],
)
def test_errors_of_codex_are_told_apart(desk: Path, said: str, outcome: Outcome) -> None:
    paid = visit(desk, f"out({_ERROR % (said, said)})\nsys.exit(1)", name="codex")

    assert (paid.outcome, paid.reason) == (outcome, said)
    assert (paid.reset_at is not None) == (outcome is Outcome.USAGE_LIMIT)


def test_codex_that_reconnects_and_goes_on_has_ended(desk: Path) -> None:
    body = """
        out({"type": "error", "message": "Reconnecting... 1/5 (unexpected status 529)"},
            {"type": "item.completed", "item": {"type": "error", "message": "metadata not found"}},
            {"type": "item.completed", "item": {"type": "agent_message", "text": "IDEA: x"}},
            {"type": "turn.completed", "usage": {"input_tokens": 10, "output_tokens": 5}})
    """

    paid = visit(desk, body, name="codex")

    assert (paid.outcome, paid.said, paid.tokens) == (Outcome.ENDED, "IDEA: x", 15)


def test_what_codex_has_overcome_does_not_explain_its_end(desk: Path) -> None:
    body = """
        out({"type": "error", "message": "Reconnecting... 1/5 (unexpected status 529)"},
            {"type": "item.completed", "item": {"type": "agent_message", "text": "going on"}})
        os.kill(os.getpid(), signal.SIGKILL)
    """

    assert visit(desk, body, name="codex").outcome is Outcome.KILLED


def test_warning_of_codex_is_no_sign_that_it_got_on(desk: Path) -> None:
    body = """
        out({"type": "error", "message": "Reconnecting... 1/5 (unexpected status 529)"},
            {"type": "item.completed", "item": {"type": "error", "message": "metadata not found"}})
        time.sleep(600)
    """

    paid = visit(desk, body, name="codex", limits=VisitLimits(idle_s=0.5, wall_s=60))

    assert paid.outcome is Outcome.OVERLOADED


PI = """
def message(reason, said="", error=None, cost=0.5):
    usage = {"totalTokens": 20, "cost": {"total": cost}}
    return {"type": "message_end", "message": {"role": "assistant", "content": [{"type": "text", "text": said}],
            "usage": usage, "stopReason": reason, "errorMessage": error}}
"""


def test_pi_says_errors_with_exit_code_zero(desk: Path) -> None:
    error = '429 {"type":"error","error":{"type":"rate_limit_error","message":"too many"}}'

    paid = visit(desk, f"{PI}\nout(message('error', error={error!r}))", name="pi")

    assert (paid.outcome, paid.reason) == (Outcome.OVERLOADED, error)


def test_pi_that_overcomes_an_error_has_ended_with_the_cost_of_all_turns(desk: Path) -> None:
    body = f"""{PI}
out(message("error", error="529 overloaded"), {{"type": "auto_retry_start", "errorMessage": "529 overloaded"}},
    message("toolUse"), message("stop", "IDEA: x"))
"""

    paid = visit(desk, body, name="pi")

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "IDEA: x")
    assert (paid.cost_usd, paid.tokens) == (1.5, 60)


def test_opencode_ends_with_a_step_that_stops(desk: Path) -> None:
    body = """
        step = {"type": "step_finish", "part": {"reason": "tool-calls", "cost": 0.25, "tokens": {"total": 20}}}
        out(step, {"type": "text", "part": {"text": "IDEA: x"}})
        out({"type": "step_finish", "part": {"reason": "stop", "cost": 0.25, "tokens": {"total": 30}}})
    """

    paid = visit(desk, body, name="opencode")

    assert (paid.outcome, paid.said, paid.cost_usd, paid.tokens) == (Outcome.ENDED, "IDEA: x", 0.5, 50)


def test_opencode_that_tries_again_for_ever_is_overloaded_and_not_stalled(desk: Path) -> None:
    line = 'level=ERROR message=\\"stream error\\" error.error=\\"AI_APICallError: Overloaded\\"'

    paid = visit(desk, f'print("{line}", file=sys.stderr, flush=True)\ntime.sleep(600)', name="opencode",
                 limits=VisitLimits(idle_s=0.5, wall_s=60))  # fmt: skip

    assert paid.outcome is Outcome.OVERLOADED


def test_opencode_error_event_carries_its_status(desk: Path) -> None:
    body = """
        out({"type": "error", "error": {"name": "APIError", "data": {"message": "no", "statusCode": 401}}})
        sys.exit(1)
    """

    assert visit(desk, body, name="opencode").outcome is Outcome.AUTH


def test_gemini_joins_the_pieces_of_its_last_answer(desk: Path) -> None:
    body = """
        out({"type": "message", "role": "assistant", "content": "I will edit", "delta": True}, {"type": "tool_use"},
            {"type": "message", "role": "assistant", "content": "IDEA: ", "delta": True},
            {"type": "message", "role": "assistant", "content": "x", "delta": True},
            {"type": "result", "status": "success", "stats": {"total_tokens": 40}})
    """

    paid = visit(desk, body, name="gemini")

    assert (paid.outcome, paid.said, paid.tokens) == (Outcome.ENDED, "IDEA: x", 40)


def test_gemini_quota_and_missing_log_in_are_told_apart(desk: Path) -> None:
    quota = "[API Error: You have exhausted your daily quota on this model.]"
    error = {"type": "result", "status": "error", "error": {"message": quota}}

    limited = visit(desk, f"out({error!r})\nsys.exit(173)", name="gemini")
    unknown = visit(desk, 'print("Invalid auth method selected.", file=sys.stderr)\nsys.exit(41)', name="gemini")

    assert (limited.outcome, limited.reason) == (Outcome.USAGE_LIMIT, quota)
    assert (unknown.outcome, unknown.reason) == (Outcome.AUTH, "Invalid auth method selected.")


# ---- a program of the user's own


def test_command_reads_the_prompt_from_the_file_that_is_its_last_word(desk: Path) -> None:
    paid = command(desk, "print(sys.argv[1:-1], open(sys.argv[-1]).read())", "--fast")

    assert (paid.outcome, paid.said) == (Outcome.ENDED, "['--fast'] the prompt")


def test_placeholders_of_a_command_are_filled_once(desk: Path) -> None:
    root = desk.parent.parent
    stub_agent.install(root / "bin", "own", "print(sys.argv[1], open(sys.argv[2]).read(), len(sys.argv))")
    client = client_named("command:own '--say={prompt}' {prompt_file}")

    paid = pay(client, "a {prompt_file} b", desk, log=root / "visit.log", limits=PATIENT, editable=[])

    assert paid.said == "--say=a {prompt_file} b a {prompt_file} b 3"


@pytest.mark.parametrize(
    ("code", "outcome"), [(75, Outcome.USAGE_LIMIT), (77, Outcome.AUTH), (1, Outcome.FAILED), (3, Outcome.FAILED)]
)
def test_exit_code_of_a_command_says_how_it_ended(desk: Path, code: int, outcome: Outcome) -> None:
    paid = command(desk, f'print("401 unauthorized, retry after 90 s")\nsys.exit({code})')

    assert paid.outcome is outcome
    assert "401 unauthorized" in paid.reason
    assert (paid.reset_at is not None) == (outcome is Outcome.USAGE_LIMIT)


def test_missing_programs_and_odd_names_are_refused_with_what_to_type(desk: Path) -> None:
    os.environ["PATH"] = str(desk)  # put back by the fixture's monkeypatch

    with pytest.raises(Refused, match=r"'claude' is not on the PATH.*npm install -g @anthropic-ai/claude-code"):
        client_named("claude")
    with pytest.raises(UsageError, match="Did you mean 'codex'"):
        client_named("codx")
    with pytest.raises(UsageError, match=r"can't be split into words"):
        client_named("command:own 'half")
    with pytest.raises(UsageError, match="names no program"):
        client_named("command: ")
    with pytest.raises(UsageError, match="has no --model"):
        client_named("command:own", model="big")


def test_model_reaches_the_client(desk: Path) -> None:
    stub_agent.install(desk.parent.parent / "bin", "claude", "out(result(' '.join(sys.argv)))")

    paid = pay(client_named("claude", model="opus"), "-the prompt", desk, log=desk.parent / "log", limits=PATIENT,
               editable=[])  # fmt: skip

    assert "--model opus" in paid.said
    assert paid.said.endswith("-- -the prompt")
