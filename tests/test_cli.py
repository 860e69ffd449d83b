"""The command line: exit codes, JSON, messages, and what happens to a detached step."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import standin

from autoexperiment import loop, session
from autoexperiment.files import lock_holder
from autoexperiment.paths import ProjectPaths


def mlx(*words: str, code: int = 0) -> str:
    """Run the command; returns stdout, or stderr when a failure is expected."""
    answer = subprocess.run([sys.executable, "-m", "autoexperiment", *words], capture_output=True, text=True)
    assert answer.returncode == code, answer.stdout + answer.stderr
    return answer.stderr if code else answer.stdout


@pytest.fixture
def measured(project: Path) -> Path:
    """A project whose session has a baseline, and nobody in it."""
    with session.start(project, "mar5", standin.PLAN) as running:
        loop.measure_baseline(running)
    return project


def test_step_prints_the_verdict_and_its_numbers(measured: Path) -> None:
    standin.edit(measured, VALUE=1.5)

    said = mlx("loop", "step", "-m", "lower the value")

    assert "[1] lower the value" in said
    assert "val_bpb 1.500000 (self_reported), 1,000 tok/s" in said
    assert "keep" in said


def test_step_json_is_one_object(measured: Path) -> None:
    standin.edit(measured, VALUE=1.5)

    line = json.loads(mlx("loop", "step", "-m", "lower", "--json"))

    assert (line["number"], line["status"], line["value"], line["trust"]) == (1, "keep", 1.5, "self_reported")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("loop", "step", "-m", "same"), 1, "nothing to measure"),
        (("loop", "step", "-m", ""), 1, "1 to 500"),
        (("loop", "status", "nope"), 2, "Sessions: mar5"),
        (("loop", "step", "-m", "x", "--source", "baseline"), 2, "the loop's own word"),
        (("loop", "run", "mar5"), 2, "--hours 8"),
        (("loop", "run", "mar5", "--hours", "1", "--agent", "x"), 2, "command:'…', search"),
        (("loop", "run", "../x", "--hours", "1"), 2, "For example: mar5"),
        (("loop", "start", "new", "--budget", "soon"), 2, "--budget 300s"),
        (("loop", "start", "new", "--policy", "gredy"), 2, "Did you mean"),
        (("loop", "reset", "--breaker"), 1, "closed already"),
        (("loop", "stat"), 2, "status"),
    ],
)
def test_wrong_words_get_an_answer_that_helps(measured: Path, words: tuple[str, ...], code: int, said: str) -> None:
    complaint = mlx(*words, code=code)

    assert said in complaint
    assert "Traceback" not in complaint


def test_status_and_log_speak_json_and_text(measured: Path) -> None:
    state = json.loads(mlx("loop", "status", "--json"))
    lines = json.loads(mlx("loop", "log", "--json"))

    assert state["baseline"] == {
        "experiment": 0,
        "commit": lines[0]["commit"],
        "val_bpb": 2.0,
        "trust": "self_reported",
    }
    assert state["breaker"]["open"] is False
    assert "baseline" in mlx("loop", "log")
    assert "self_reported" in mlx("loop", "status")


def test_detached_step_measures_what_was_there_when_it_was_called(measured: Path) -> None:
    standin.edit(measured, VALUE=1.5)

    said = mlx("loop", "step", "-m", "lower", "--detach")
    (measured / "train.py").write_text("edited at once\n")
    waited = mlx("loop", "wait", "--timeout", "60")

    assert "mlx loop wait mar5" in said
    assert "[1]" in waited and "keep" in waited and "1.500000" in waited


def test_wait_times_out_with_124(measured: Path) -> None:
    standin.edit(measured, MODE="hang")
    mlx("loop", "step", "-m", "hang", "--detach")

    mlx("loop", "wait", "--timeout", "0.5", code=124)

    mlx("loop", "stop", "--now")
    mlx("loop", "wait", "--timeout", "60", code=1)
    assert lock_holder(ProjectPaths(measured).lock) is None


def test_detached_step_that_gives_up_tells_the_one_who_waits(measured: Path) -> None:
    standin.edit(measured, VALUE=1.5)
    log = session.require(measured, "mar5").step_log
    log.write_text("mlx: the disk is gone\n")

    assert "the disk is gone" in mlx("loop", "wait", code=1)


def test_interrupt_ends_the_run_and_is_recorded_as_neither_verdict(measured: Path) -> None:
    standin.edit(measured, MODE="hang")
    process = subprocess.Popen(
        [sys.executable, "-m", "autoexperiment", "loop", "step", "-m", "hang"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while (
        not list((measured / "outputs").glob("*/*/work/train.py"))
        or json.loads(mlx("loop", "log", "--json"))[-1]["runs"] != 1
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)

    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)

    assert process.returncode == 130
    assert b"Go on with: mlx loop run mar5" in complaint
    state = json.loads(mlx("loop", "status", "--json"))
    assert state["counts"]["interrupted"] == 1
    assert state["breaker"]["streak"] == 0
    assert "MODE = 'hang'" in (measured / "train.py").read_text()


def test_night_writes_the_report_the_picture_and_the_views(measured: Path) -> None:
    said = mlx("loop", "run", "mar5", "--experiments", "2")

    assert "2 experiments are judged" in said
    folder = measured / "outputs" / "autoresearch-mar5"
    text = (folder / "report.md").read_text()
    assert "![val_bpb by experiment](progress.png)" in text
    assert (folder / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert len((measured / "results.tsv").read_text().splitlines()) == 4
    logs = list((measured / "internal" / "log").glob("log_*.md"))
    assert len(logs) == 1
    assert "Session mar5" in logs[0].read_text()
    mlx("loop", "run", "mar5", "--experiments", "2", code=4)


def test_report_rebuilds_every_view_that_was_lost(measured: Path) -> None:
    (measured / "results.tsv").unlink()

    said = mlx("loop", "report")

    assert "report.md" in said
    assert "baseline" in (measured / "results.tsv").read_text()


def test_reset_puts_the_incumbent_back_only_when_nothing_is_lost(measured: Path) -> None:
    standin.edit(measured, VALUE=1.25)

    assert "would lose it" in mlx("loop", "reset", code=1)
    assert "refs/autoexperiment/mar5/stray-" in mlx("loop", "reset", "--save")
    assert (measured / "train.py").read_text() == standin.TRAIN


def test_session_on_another_branch_says_how_to_get_there(measured: Path) -> None:
    standin.git(measured, "switch", "-q", "main")

    assert "git switch autoresearch/mar5" in mlx("loop", "step", "--tag", "mar5", "-m", "x", code=1)
    assert "Sessions here: mar5" in mlx("loop", "status", code=2)


def test_outside_a_repository_the_first_word_is_git_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    assert "git init" in mlx("loop", "start", "mar5", code=1)


def test_hostile_description_reaches_a_terminal_without_control_characters(measured: Path) -> None:
    standin.edit(measured, VALUE=1.5)
    mlx("loop", "step", "-m", "red \x1b[31m and \x07 bell\u202e")

    for said in (mlx("loop", "log"), mlx("loop", "wait"), (measured / "results.tsv").read_text()):
        assert not {"\x1b", "\x07", "\u202e"} & set(said)


def test_closed_pipe_is_no_error(measured: Path) -> None:
    shell = f"{sys.executable} -m autoexperiment loop log --json | head -c 1"

    answer = subprocess.run(["bash", "-o", "pipefail", "-c", shell], capture_output=True, env=os.environ)

    assert b"Traceback" not in answer.stderr


def test_stop_with_nothing_running_still_tells_a_chat(measured: Path) -> None:
    said = mlx("loop", "stop")

    assert "Nothing of mar5 is running now" in said
    assert ProjectPaths(measured).session("mar5").stop_request.exists()
