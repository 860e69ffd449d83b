"""The launcher: whatever fails, all ranks end, nobody waits, and the exit code is that of the one that failed first."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rings import job_of, processes_of

from autoexperiment import ring
from autoexperiment.cli.ring import command as ring_command
from autoexperiment.errors import Refused
from autoexperiment.supervisor import Signals
from autoexperiment.vocabulary import RunStatus

# Programs that stand for a training process: they say that they have joined, as train.py does.
JOIN = """
import os, signal, sys, time
rank = int(os.environ["MLX_RANK"])
print(f"rank {rank} of 2", flush=True)
"""
LOSE_A_PEER = "raise RuntimeError('[ring] connection to a peer was lost')\n"


@pytest.fixture(autouse=True)
def one_blas_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    for name in ("MLX_HOSTFILE", "MLX_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_a_build_without_ring_is_refused() -> None:
    with pytest.raises(Refused, match="no ring"):
        ring.check_backend(SimpleNamespace(is_available=lambda backend: backend != "ring"))


# --- the launcher, with programs that stand for a training process ---


def test_ranks_get_their_places_and_the_first_is_shown(tmp_path: Path) -> None:
    code = JOIN + "print(rank, open(os.environ['MLX_HOSTFILE']).read(), os.environ['OPENBLAS_NUM_THREADS'])"
    job, shown = job_of(tmp_path, code), list[bytes]()

    ending = ring.launch(job, on_line=shown.append)

    assert (ending.status, ending.exit_code, ending.first_failed) == (RunStatus.COMPLETED, 0, None)
    assert [member.has_joined for member in ending.members] == [True, True]
    for rank in (0, 1):
        said = job.log(rank).read_text()
        assert said.startswith(f"rank {rank} of 2\n{rank} ")
        assert [address for place in job.hosts.places for address in place if address not in said] == []
    assert b"".join(shown) == job.log(0).read_bytes()


def test_a_single_rank_gets_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_HOSTFILE", "stale")
    job = job_of(tmp_path, "import os; print([k for k in os.environ if k.startswith('MLX_')])", size=1)

    ending = ring.launch(job)

    assert ending.exit_code == 0
    assert job.log(0).read_text() == "[]\n"


def test_ranks_of_a_machine_share_its_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    monkeypatch.setattr(ring.threads, "usual", lambda: 4)
    job = job_of(tmp_path, "")

    alone = replace(job, ranks=(0,)).environment(0, {})

    assert job.environment(0, {})["OPENBLAS_NUM_THREADS"] == "2"
    assert alone["OPENBLAS_NUM_THREADS"] == "4"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    assert job.environment(0, os.environ)["OPENBLAS_NUM_THREADS"] == "3"


@pytest.mark.parametrize(("code", "status"), [(7, RunStatus.FAILED), (3, RunStatus.DIVERGED)])
def test_one_that_fails_ends_the_others_and_gives_its_code(tmp_path: Path, code: int, status: RunStatus) -> None:
    job = job_of(tmp_path, JOIN + f"if rank: print('diverged: x', flush=True); sys.exit({code})\ntime.sleep(600)")

    ending = ring.launch(job)

    assert (ending.exit_code, ending.first_failed, ending.status) == (code, 1, status)
    assert [member.is_stopped for member in ending.members] == [True, False]
    assert processes_of(job) == []


def test_the_one_that_was_killed_is_named_although_the_other_fails_before(tmp_path: Path) -> None:
    job = job_of(
        tmp_path, JOIN + "if rank == 0: " + LOSE_A_PEER + "time.sleep(0.5); os.kill(os.getpid(), signal.SIGKILL)"
    )

    ending = ring.launch(job)

    assert (ending.exit_code, ending.first_failed) == (137, 1)
    assert "SIGKILL" in ending.reason


def test_one_that_lost_a_rank_elsewhere_says_so(tmp_path: Path) -> None:
    job = replace(job_of(tmp_path, JOIN + LOSE_A_PEER), ranks=(1,))

    ending = ring.launch(job)

    assert (ending.exit_code, ending.first_failed) == (1, 1)
    assert "lost the connection to another rank" in ending.reason


def test_a_program_that_joins_nobody_has_failed(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, "import os, time; time.sleep(600 * int(os.environ['MLX_RANK']))"))

    assert (ending.exit_code, ending.first_failed, ending.status) == (1, 0, RunStatus.FAILED)
    assert "without having joined" in ending.reason
    assert ending.members[1].is_stopped


def test_programs_that_end_well_before_they_are_seen_to_join_have_not_failed(tmp_path: Path) -> None:
    """A join is looked for five times a second: a short program is over before."""
    job = job_of(tmp_path, "")

    ending = ring.launch(job)

    told = ending.to_json(job)
    assert (ending.exit_code, ending.status, ending.first_failed) == (0, RunStatus.COMPLETED, None)
    assert [member["has_joined"] for member in told["ranks"]] == [None, None]
    assert told["warning"].startswith("No rank here was seen to join the others")


def test_one_that_ends_before_it_is_seen_has_not_failed_when_the_other_has_joined(tmp_path: Path) -> None:
    code = "import os, time\nif os.environ['MLX_RANK'] == '1': time.sleep(0.5); print('rank 1 of 2'); time.sleep(3)"

    ending = ring.launch(job_of(tmp_path, code))

    assert (ending.exit_code, ending.warning) == (0, "")
    assert [member.has_joined for member in ending.members] == [None, True]


def test_of_many_ranks_the_first_are_named() -> None:
    assert ring.listed(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert ring.listed(range(256)) == "0, 1, 2, 3, 4, 5, 6, 7 and 248 more"


def test_a_program_that_says_another_size_has_not_joined(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, "print('rank 0 of 1')"))

    assert ending.exit_code == 1
    assert not any(member.has_joined for member in ending.members)


MEET = """
import json, os, pathlib, socket, time
rank = int(os.environ["MLX_RANK"])
places = [p[0].split(":") for p in json.loads(pathlib.Path(os.environ["MLX_HOSTFILE"]).read_text())]
server = socket.create_server(("127.0.0.1", int(places[rank][1])))
while True:
    try:
        link = socket.create_connection(("127.0.0.1", int(places[1 - rank][1])))
        break
    except OSError:
        time.sleep(0.05)
other, _ = server.accept()
"""


def test_a_silent_program_has_joined_when_it_was_reached(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, MEET + "time.sleep(0.9)"))

    assert [member.has_joined for member in ending.members] == [True, True]
    assert ending.exit_code == 0


def test_a_silent_program_has_joined_although_the_other_has_ended(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, MEET + "time.sleep(0.9 * rank)"))

    assert ending.members[1].has_joined
    assert (ending.exit_code, ending.warning) == (0, "")


def test_ranks_that_do_not_come_together_are_ended(tmp_path: Path) -> None:
    job = job_of(tmp_path, "import time; time.sleep(600)", join_s=0.3)

    ending = ring.launch(job)

    assert (ending.exit_code, ending.first_failed) == (1, None)
    assert "did not find the others within 0.3 s" in ending.reason
    assert processes_of(job) == []


def test_a_rank_that_has_joined_is_not_ended_for_it(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, JOIN + "time.sleep(0.8)", join_s=0.3))

    assert ending.exit_code == 0


def test_time_that_is_over_gives_124(tmp_path: Path) -> None:
    ending = ring.launch(job_of(tmp_path, JOIN + "time.sleep(600)", timeout_s=0.5))

    assert (ending.exit_code, ending.status) == (124, RunStatus.TIMED_OUT)


def test_ctrl_c_ends_all_and_gives_130(tmp_path: Path) -> None:
    signals = Signals()
    job = job_of(tmp_path, JOIN + "time.sleep(600)")

    ending = ring.launch(job, on_line=lambda _: signals.received.append(signal.SIGINT), signals=signals)

    assert (ending.exit_code, ending.status) == (130, RunStatus.INTERRUPTED)
    assert processes_of(job) == []


def test_a_log_that_cannot_be_written_leaves_nobody_waiting(tmp_path: Path) -> None:
    job = job_of(tmp_path, JOIN + "time.sleep(5); open('waited', 'w')")
    job.log(1).mkdir(parents=True)

    with pytest.raises(Refused, match=r"rank_1\.log"):
        ring.launch(job)

    assert processes_of(job) == []
    assert not (tmp_path / "waited").exists()


def test_nothing_is_started_when_a_place_is_in_use(tmp_path: Path) -> None:
    job = job_of(tmp_path, JOIN)

    with socket.create_server(("127.0.0.1", job.hosts.ports(1)[0])), pytest.raises(Refused, match="in use"):
        ring.launch(job)

    assert not job.log_dir.exists()


# --- the command ---


def invoke(*words: str) -> Result:
    return CliRunner().invoke(ring_command, words, standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--", sys.executable], "Missing option '-n'"),
        (["-n", "2", "--", "train.py"], "Type: mlx ring -n 2 -- python train.py"),
        (["-n", "0", "--", sys.executable], "0 is not in the range"),
        (["-n", "257", "--", sys.executable], "257 ranks are asked for. Allowed: 1 to 256"),
        (["--rank", "0", "--", sys.executable], "'--rank' needs the addresses"),
        (["-n", "3", "--host", "a:1", "--host", "b:1", "--", sys.executable], "'-n 3' does not fit the 2 hosts"),
        (["--host", "a:1", "--hosts", "f", "--", sys.executable], "say the same thing"),
        (["-n", "2"], "Missing argument"),
        (["-n", "2", "--timeout-s", "0", "--", sys.executable], "--timeout-s"),
        (["--host", "127.0.0.1:1024", "--rank", "1", "--", sys.executable], "Rank 1 is out of range"),
    ],
)
def test_wrong_words_are_refused_with_what_to_type(words: list[str], named: str) -> None:
    answer = invoke(*words)

    error: Any = answer.exception
    assert error.exit_code == 2
    assert named in (error.format_message() if hasattr(error, "format_message") else str(error))


def test_json_is_all_that_stdout_holds(tmp_path: Path) -> None:
    code = JOIN + "time.sleep(600 * rank); sys.exit(5)"

    answer = invoke("-n", "2", "--json", "--log-dir", str(tmp_path), "--", sys.executable, "-c", code)

    told = json.loads(answer.stdout)
    assert (answer.return_value, told["exit_code"], told["first_failed"], told["size"]) == (5, 5, 0, 2)
    assert [(member["rank"], member["is_stopped"]) for member in told["ranks"]] == [(0, False), (1, True)]
    assert told["ranks"][1]["log"] == str(tmp_path / "rank_1.log")
    assert "rank 0 of 2\n" in answer.stderr
    assert "rank 0 failed: " in answer.stderr


def test_ranks_that_were_not_seen_to_join_are_told_of(tmp_path: Path) -> None:
    answer = invoke("-n", "2", "--log-dir", str(tmp_path), "--", sys.executable, "-c", "")

    assert answer.return_value == 0
    assert "ended well. No rank here was seen to join the others" in answer.stderr


def test_many_ranks_are_announced_in_a_short_line(tmp_path: Path) -> None:
    words = [word for rank in range(100) for word in ("--host", f"127.0.0.1:{20_000 + rank}")]

    answer = invoke(*words, "--rank", "0", "--log-dir", str(tmp_path), "--", sys.executable, "-c", "")

    begun = answer.stderr.splitlines()[0]
    assert "rank 0 at 127.0.0.1:20000, of 100" in begun
    assert begun.endswith("8 at 127.0.0.1:20008 and 91 more.")


def test_the_first_rank_is_shown_and_the_words_of_the_command_are_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    answer = invoke("-n", "1", sys.executable, "-c", "import sys; print(sys.argv[1:])", "--json", "-n")

    assert answer.stdout == "['--json', '-n']\n"
    assert answer.return_value == 0
    assert [log.name for log in tmp_path.glob("data/ring/*/*.log")] == ["rank_0.log"]
