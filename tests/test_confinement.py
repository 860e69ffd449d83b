"""What a run is kept from: the network, memory, processes and CPUs beyond its limits; and what can't be enforced."""

from __future__ import annotations

import errno
import json
import os
import platform
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import confine
from autoexperiment.clocks import Skew
from autoexperiment.ending import Told, judge
from autoexperiment.errors import Refused
from autoexperiment.failure import Failure
from autoexperiment.supervisor import Ending, Limits, confinement_faults, supervise
from autoexperiment.vocabulary import Outcome

ROOT = Path(__file__).resolve().parent.parent
IS_LINUX = sys.platform == "linux"
LIMITS = Limits(60.0, grace_s=0.2)
ALONE = replace(LIMITS, network=False)


def capabilities(text: str, name: str) -> int:
    """A set of capabilities from the text of /proc/PID/status."""
    return int(text.split(f"{name}:")[1].split()[0], 16)


IS_ADMIN = IS_LINUX and bool(capabilities(Path("/proc/self/status").read_text(), "CapEff") & 1 << confine.CAP_SYS_ADMIN)
linux_only = pytest.mark.skipif(not IS_LINUX, reason="Linux's own way")
needs_isolation = pytest.mark.skipif(
    not IS_LINUX or bool(confine.fault("network")), reason="this system gives no network namespace"
)
needs_proc = pytest.mark.skipif(bool(confine.fault("memory")), reason="this system does not list child processes")


def run(folder: Path, code: str, limits: Limits = ALONE) -> Ending:
    command = [sys.executable, "-I", "-S", "-u", "-c", code]
    return supervise(command, cwd=folder, log=folder / "run.log", limits=limits, env={"PATH": os.environ["PATH"]})


def said(folder: Path) -> list[str]:
    return (folder / "run.log").read_text().splitlines()


# ---- the network

TRY_TO_CONNECT = """
import socket
with socket.socket(socket.{family}, socket.{kind}) as end:
    try:
        end.connect({address!r})
        print("connected")
    except OSError as error:
        print(type(error).__name__, error.errno)
"""


def attempt(family: str, kind: str, address: Any) -> str:
    return TRY_TO_CONNECT.format(family=family, kind=kind, address=address)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@needs_isolation
def test_a_run_without_network_does_not_reach_a_server_on_the_hosts_loopback(
    tmp_path: Path, server: socket.socket
) -> None:
    code = attempt("AF_INET", "SOCK_STREAM", server.getsockname())

    run(tmp_path, code, LIMITS)
    with_network = said(tmp_path)
    run(tmp_path, code, ALONE)

    assert with_network == ["connected"]
    assert said(tmp_path) == [f"ConnectionRefusedError {errno.ECONNREFUSED}"]


@needs_isolation
def test_a_run_without_network_has_no_route_to_anywhere(tmp_path: Path) -> None:
    ending = run(tmp_path, attempt("AF_INET", "SOCK_DGRAM", ("192.0.2.1", 9)))  # RFC 5737: nobody's address

    assert ending.outcome is Outcome.OK
    assert said(tmp_path) == [f"OSError {errno.ENETUNREACH}"]


@needs_isolation
def test_a_run_without_network_talks_to_itself(tmp_path: Path) -> None:
    code = """if 1:
        import os, socket
        server = socket.create_server(("127.0.0.1", 0))
        if os.fork() == 0:
            socket.create_connection(server.getsockname()).sendall(b"hello")
            os._exit(0)
        print(server.accept()[0].recv(5))
    """

    run(tmp_path, code)

    assert said(tmp_path) == ["b'hello'"]


@needs_isolation
def test_abstract_sockets_are_cut_off_and_those_that_are_files_are_not(tmp_path: Path) -> None:
    abstract, file = f"\0witness-{uuid.uuid4().hex}", "socket"
    where = os.open(".", os.O_RDONLY)
    os.chdir(tmp_path)  # a socket's path may be 107 bytes long
    try:
        with socket.socket(socket.AF_UNIX) as one, socket.socket(socket.AF_UNIX) as other:
            for end, address in ((one, abstract), (other, file)):
                end.bind(address)
                end.listen()
            run(tmp_path, attempt("AF_UNIX", "SOCK_STREAM", abstract) + attempt("AF_UNIX", "SOCK_STREAM", file))
    finally:
        os.fchdir(where)
        os.close(where)

    assert said(tmp_path) == [f"ConnectionRefusedError {errno.ECONNREFUSED}", "connected"]


@needs_isolation
def test_a_run_without_network_is_the_same_user_with_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("secret")
    (tmp_path / "mine").chmod(0o600)

    run(tmp_path, "import os; print(os.getuid(), os.getgid(), open('mine').read()); open('new', 'w').write('x')")

    assert said(tmp_path) == [f"{os.getuid()} {os.getgid()} secret"]
    facts = (tmp_path / "new").stat()
    assert (facts.st_uid, facts.st_gid) == (os.getuid(), os.getgid())


@needs_isolation
@pytest.mark.parametrize(
    ("code", "outcome", "exit_code", "number"),
    [
        ("pass", Outcome.OK, 0, None),
        ("import sys; sys.exit(7)", Outcome.CRASHED, 7, None),
        ("import os; os.kill(os.getpid(), 11)", Outcome.CRASHED, None, 11),
    ],
)
def test_a_run_without_network_ends_as_it_does_with_one(
    tmp_path: Path, code: str, outcome: Outcome, exit_code: int | None, number: int | None
) -> None:
    ending = run(tmp_path, code)

    assert (ending.outcome, ending.exit_code, ending.signal) == (outcome, exit_code, number)


@needs_isolation
def test_the_memory_of_a_run_without_network_is_counted(tmp_path: Path) -> None:
    code = """if 1:
        import os, time
        os.fork()
        own = b'x' * (100 << 20)
        time.sleep(1.0)
    """

    assert 200 <= run(tmp_path, code).peak_memory_mb < 300


# A process in which the words of a test come first: it takes something from itself, then supervises a run.
HARNESS = """
import ctypes, json, os, sys
from pathlib import Path
from autoexperiment import confine
from autoexperiment.errors import Refused
from autoexperiment.supervisor import Limits, confinement_faults, supervise
libc = ctypes.CDLL(None, use_errno=True)
{words}
folder = Path(sys.argv[1])
said = {{"faults": confinement_faults(Limits(60.0, network=False))}}
{more}
try:
    ending = supervise(sys.argv[3:], cwd=Path(sys.argv[2]), log=folder / "run.log", env={{}},
                       limits=Limits(60.0, network=False))
    said["outcome"] = str(ending.outcome)
except Refused as error:
    said["refused"] = str(error)
print(json.dumps(said))
"""
# Every call of unshare(2) fails, as in a container with the usual seccomp profile.
NO_NAMESPACES = f"""
import struct
number = {{"x86_64": 272, "aarch64": 97}}[{platform.machine()!r}]
rules = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
blob = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(rules), ctypes.addressof(blob)))
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
"""
NO_ADMIN = "confine._give_up_capabilities(confine.CAP_SYS_ADMIN)"
# An ordinary user, who may open every file, or the interpreter under root's home would be out of reach.
ORDINARY = """
libc.prctl(8, 1, 0, 0, 0)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
open_all = 1 << 1
header, sets = (ctypes.c_uint32 * 2)(confine.CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(open_all, open_all, open_all)
assert libc.capset(header, sets) == 0 and libc.prctl(47, 2, 1, 0, 0) == 0
"""
seccomp_known = pytest.mark.skipif(
    not IS_LINUX or platform.machine() not in ("x86_64", "aarch64"), reason="the number of unshare(2) is not known"
)


def supervised_apart(
    folder: Path, code: str, words: str, more: str = "", *, command: tuple[str, ...] = (), cwd: Path | None = None
) -> dict[str, Any]:
    command = command or (sys.executable, "-I", "-S", "-u", "-c", code)
    script = [sys.executable, "-c", HARNESS.format(words=words, more=more), str(folder), str(cwd or folder), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    answer = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


@seccomp_known
def test_where_no_namespace_can_be_had_nothing_is_started(tmp_path: Path) -> None:
    found = supervised_apart(tmp_path, "open('started', 'w')", NO_NAMESPACES)

    twice = "unshare: Operation not permitted; with a user namespace: unshare: Operation not permitted"
    assert found["faults"] == {"network": f"A run can't be given a network of its own ({twice})."}
    assert twice in found["refused"]
    assert "networkPolicy 'full'" in found["refused"]
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "run.log").exists()


@seccomp_known
def test_a_namespace_that_is_refused_only_when_the_run_begins_starts_nothing_either(tmp_path: Path) -> None:
    found = supervised_apart(tmp_path, "open('started', 'w')", NO_NAMESPACES, "confine.fault = lambda name: ''")

    assert "It failed when the run began: unshare: Operation not permitted" in found["refused"]
    assert not (tmp_path / "started").exists()


def has_user_namespaces() -> bool:
    """Whether one that has no right to any other namespace gets one, found without the code under test."""
    restriction = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if not IS_LINUX or (restriction.exists() and restriction.read_text().strip() != "0"):
        return False
    trial = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x10000000))"
    return subprocess.run([sys.executable, "-I", "-S", "-c", trial], capture_output=True).returncode == 0


needs_user_namespaces = pytest.mark.skipif(
    not IS_ADMIN or not has_user_namespaces(), reason="needs root and user namespaces"
)


@needs_user_namespaces
def test_an_ordinary_user_gets_a_network_with_a_user_namespace(tmp_path: Path) -> None:
    command = ("/bin/sh", "-c", "id -u; id -g; while read -r name rest; do echo $name; done < /proc/net/dev")

    found = supervised_apart(tmp_path, "", ORDINARY, command=command, cwd=Path("/"))

    assert found == {"faults": {}, "outcome": "ok"}
    assert [*said(tmp_path)[:2], *said(tmp_path)[4:]] == ["65534", "65534", "lo:"]


@needs_user_namespaces
def test_root_without_the_right_to_namespaces_gets_one_with_a_user_namespace(tmp_path: Path) -> None:
    code = "import os; print(os.getuid(), os.getgid(), [line.split()[0] for line in open('/proc/net/dev')][2:])"

    found = supervised_apart(tmp_path, code, NO_ADMIN)

    assert found == {"faults": {}, "outcome": "ok"}
    assert said(tmp_path) == ["0 0 ['lo:']"]


GO_BACK = """
import ctypes, os
libc = ctypes.CDLL(None)
for pid in (os.getppid(), 1):
    try:
        with open(f'/proc/{pid}/ns/net') as place:
            print(libc.setns(place.fileno(), 0x40000000))
    except PermissionError:
        print(-1)
"""


@needs_isolation
def test_not_even_root_goes_back_to_the_network_of_another_process(tmp_path: Path) -> None:
    run(tmp_path, GO_BACK)

    assert said(tmp_path) == ["-1", "-1"]


@pytest.mark.skipif(not IS_ADMIN, reason="needs capabilities to inherit")
@needs_isolation
def test_root_does_not_inherit_the_way_back(tmp_path: Path) -> None:
    inherit = """
header, sets = (ctypes.c_uint32 * 2)(confine.CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
libc.capget(header, sets)
sets[2] = sets[1]
assert libc.capset(header, sets) == 0
"""

    supervised_apart(tmp_path, "print(open('/proc/self/status').read())", inherit)

    way_back = sum(1 << number for number in (confine.CAP_NET_ADMIN, confine.CAP_SYS_PTRACE, confine.CAP_SYS_ADMIN))
    status = (tmp_path / "run.log").read_text()
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd"):
        assert capabilities(status, name) & way_back == 0, name


@pytest.mark.skipif(not IS_ADMIN, reason="needs the right to namespaces")
def test_the_trial_succeeds_where_the_right_to_namespaces_is_there() -> None:
    assert confine.fault("network") == ""


def test_a_mac_puts_its_own_confinement_before_the_command() -> None:
    found = confine.words(["python", "train.py"], network=False, platform="darwin")

    assert found == ["/usr/bin/sandbox-exec", "-p", confine.SANDBOX_PROFILE, "python", "train.py"]
    assert confine.SANDBOX_PROFILE.startswith("(version 1)(allow default)(deny network*)")
    assert '(allow network-outbound (remote ip "localhost:*"))' in confine.SANDBOX_PROFILE
    assert confine.SANDBOX_PROFILE.endswith('(deny network-outbound (literal "/private/var/run/mDNSResponder"))')
    assert confine.SANDBOX_PROFILE.count("(") == confine.SANDBOX_PROFILE.count(")")


@pytest.mark.parametrize(("network", "platform"), [(True, "darwin"), (True, "linux"), (False, "linux")])
def test_elsewhere_and_with_a_network_the_command_stays_as_it_is(network: bool, platform: str) -> None:
    assert confine.words(("python", "train.py"), network=network, platform=platform) == ["python", "train.py"]


@needs_isolation
def test_what_starts_a_run_is_what_its_confinement_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "words", lambda command, *, network: ["/bin/echo", f"network: {network}"])

    run(tmp_path, "pass")

    assert said(tmp_path) == ["network: False"]


# ---- what can't be enforced


@pytest.fixture
def fresh_trials() -> Iterator[None]:
    confine.fault.cache_clear()
    yield
    confine.fault.cache_clear()


def test_what_is_not_limited_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "fault", lambda name: f"No {name}.")

    assert confinement_faults(LIMITS) == {}
    assert confinement_faults(replace(ALONE, cpus=1)) == {"network": "No network.", "cpus": "No cpus."}


@linux_only
def test_linux_enforces_memory_processes_and_cpus() -> None:
    assert confinement_faults(replace(LIMITS, memory_mb=1.0, processes=1, cpus=1)) == {}


def test_without_a_list_of_processes_neither_memory_nor_their_number_is_enforced(
    monkeypatch: pytest.MonkeyPatch, fresh_trials: None
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)

    found = confinement_faults(replace(LIMITS, memory_mb=1.0, processes=1))

    assert found == {
        "memory": "A run's memory can't be watched, since this system has no list of child processes.",
        "processes": "A run's processes can't be watched, since this system has no list of child processes.",
    }


def test_without_affinity_cpus_are_not_enforced(monkeypatch: pytest.MonkeyPatch, fresh_trials: None) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)

    assert confinement_faults(replace(LIMITS, cpus=1)) == {
        "cpus": "This system can't bind a process to some of its CPUs."
    }


def test_a_trial_is_made_once(monkeypatch: pytest.MonkeyPatch, fresh_trials: None) -> None:
    answers = iter(["No.", "Never asked for."])
    monkeypatch.setattr(confine, "_network_fault", lambda: next(answers))

    assert [confinement_faults(ALONE), confinement_faults(ALONE)] == [{"network": "No."}] * 2


def test_a_run_is_refused_where_the_network_can_not_be_kept_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_trials: None
) -> None:
    monkeypatch.setattr(confine, "_network_fault", lambda: "No namespaces here.")

    with pytest.raises(Refused, match=r"\(network\)\. No namespaces here\. Allow .*networkPolicy 'full', or use"):
        run(tmp_path, "open('started', 'w')")

    assert not (tmp_path / "started").exists()


# ---- memory

MEMORY = "Its processes used more than 80 MB of memory, the limit."


@needs_proc
def test_a_run_above_its_memory_is_killed(tmp_path: Path) -> None:
    code = "import time; block = b'x' * (120 << 20); time.sleep(600)"

    ending = run(tmp_path, code, replace(LIMITS, memory_mb=80.0))

    assert (ending.outcome, ending.reason) == (Outcome.OOM, MEMORY)
    assert ending.failure == Failure("memory limit", MEMORY)
    assert ending.peak_memory_mb > 80  # it may be seen while it still fills its block


@needs_proc
def test_the_memory_of_all_processes_counts(tmp_path: Path) -> None:
    code = "import os, time; os.fork(); block = b'x' * (60 << 20); time.sleep(600)"

    ending = run(tmp_path, code, replace(LIMITS, memory_mb=80.0))

    assert (ending.outcome, ending.reason) == (Outcome.OOM, MEMORY)


def test_a_run_within_its_memory_is_left_alone(tmp_path: Path) -> None:
    code = "import time; block = b'x' * (30 << 20); time.sleep(0.6)"

    assert run(tmp_path, code, replace(LIMITS, memory_mb=80.0)).outcome is Outcome.OK


def account(**changed: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "exit_code": 0, "signal": None, "started": 100.0, "wall_s": 5.0, "cpu_s": 5.0, "peak_bytes": 81 << 20,
        "reason": "", "survivors": [], "log_bytes": 0, "log_error": "",
    }  # fmt: skip
    return {**usual, **changed}


@pytest.mark.parametrize("reached_at", [None, 103.0])
def test_memory_that_was_held_too_shortly_to_be_seen_counts_all_the_same(reached_at: float | None) -> None:
    limits = replace(LIMITS, memory_mb=80.0)

    ending = judge(account(), limits, Skew(0.0, 0.0, 5.0), Told(b"", Path("/"), reached_at))

    assert (ending.outcome, ending.reason, ending.seconds_to_target) == (Outcome.OOM, MEMORY, None)


def test_a_crash_is_told_as_one_also_after_too_much_memory() -> None:
    limits = replace(LIMITS, memory_mb=80.0)

    ending = judge(account(exit_code=4), limits, Skew(0.0, 0.0, 5.0), Told(b"no such layer\n", Path("/"), None))

    assert (ending.outcome, ending.reason) == (Outcome.CRASHED, "exit 4: no such layer")


# ---- processes


@needs_proc
@pytest.mark.parametrize(
    "limits", [replace(LIMITS, processes=3), pytest.param(replace(ALONE, processes=3), marks=needs_isolation)]
)
def test_a_run_with_more_processes_than_allowed_is_killed(tmp_path: Path, limits: Limits) -> None:
    ending = run(tmp_path, "import os, time; os.fork(); os.fork(); time.sleep(600)", limits)

    reason = "It had more than 3 processes at a time, the limit."
    assert (ending.outcome, ending.reason) == (Outcome.REJECTED, reason)
    assert ending.failure == Failure("process limit", reason)
    assert ending.survivors == ()


@pytest.mark.parametrize(
    "code",
    [
        "import os, time; os.fork(); time.sleep(0.5)",
        "import threading, time; [threading.Thread(target=time.sleep, args=(0.5,)).start() for _ in range(8)]",
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0: os._exit(0)\n    os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)\n"
        "    time.sleep(0.1)",
    ],
    ids=["just as many", "threads", "processes that have ended"],
)
def test_neither_threads_nor_the_dead_count_as_processes(tmp_path: Path, code: str) -> None:
    assert run(tmp_path, code, replace(LIMITS, processes=2)).outcome is Outcome.OK


# ---- CPUs


@linux_only
@pytest.mark.parametrize("count", [0, 1, 2, 100_000])
def test_a_run_is_bound_to_the_last_of_the_cpus(tmp_path: Path, count: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))

    run(tmp_path, "import os; print(*sorted(os.sched_getaffinity(0)))", replace(LIMITS, cpus=count))

    assert said(tmp_path) == [" ".join(map(str, allowed[-max(1, count) :]))]  # none at all is no number of CPUs
    assert sorted(os.sched_getaffinity(0)) == allowed
