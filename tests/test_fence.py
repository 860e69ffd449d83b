"""What a command behind a fence can't write to, by which way whatever; what it can; and what no fence holds back."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoexperiment import fence

PYTHON = (sys.executable, "-I", "-S", "-u", "-c")


def landlock() -> int:
    """The version of landlock in this kernel, asked without the module; 0 for none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, libc.syscall(444, None, 0, 1)) if sys.platform == "linux" else 0


has_landlock = pytest.mark.skipif(landlock() < 1, reason="landlock is Linux's, and some systems lack it")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may try this at all")

# name -> code that tries something in the folder `at`, which `furnish` made
ATTEMPTS = {
    "create": "open(at + '/new', 'w').close()",
    "append": "open(at + '/file', 'a').close()",
    "open to read and write": "open(at + '/file', 'r+').close()",
    "truncate": "os.truncate(at + '/long', 0)",
    "remove": "os.unlink(at + '/doomed')",
    "remove a folder": "os.rmdir(at + '/empty')",
    "make a folder": "os.mkdir(at + '/folder')",
    "rename": "os.rename(at + '/moving', at + '/moved')",
    "rename into another folder": "os.rename(at + '/leaving', at + '/other/arrived')",
    "replace": "os.replace(at + '/fresh', at + '/stale')",
    "link": "os.symlink('file', at + '/link')",
    "hard link": "os.link(at + '/file', at + '/twin')",
    "pipe": "os.mkfifo(at + '/pipe')",
    "socket": "socket.socket(socket.AF_UNIX).bind(at + '/socket')",
    "temporary file without a name": "os.close(os.open(at, os.O_TMPFILE | os.O_WRONLY))",
}
TRY_ALL = """
import errno, json, os, socket, sys
answers = {}
for name, code in json.loads(sys.argv[1]).items():
    try:
        exec(code, {"at": sys.argv[2], "to": sys.argv[-1], "os": os, "socket": socket})
        answers[name] = "done"
    except OSError as error:
        answers[name] = errno.errorcode[error.errno]
print(json.dumps(answers))
"""


def furnish(folder: Path) -> Path:
    """A folder with something for each attempt."""
    folder.mkdir()
    for name in ("file", "long", "doomed", "moving", "leaving", "fresh", "stale"):
        (folder / name).write_text(name)
    for name in ("empty", "other"):
        (folder / name).mkdir()
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() if p.is_file() else "" for p in sorted(folder.rglob("*"))}


def behind(*writable: Path, code: str, arguments: tuple[str, ...] = (), **options: Any) -> str:
    """What a Python program prints that runs behind a fence around these places."""
    words = fence.words([*PYTHON, code, *arguments], writable=writable)
    answer: subprocess.CompletedProcess[str] = subprocess.run(words, capture_output=True, text=True, **options)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def attempts(at: Path, *writable: Path, which: dict[str, str] | None = None, to: Path | None = None) -> dict[str, str]:
    """What becomes of each attempt: "done" or the name of its error."""
    code = json.dumps(ATTEMPTS if which is None else which)
    found: dict[str, str] = json.loads(
        behind(*writable, code=TRY_ALL, arguments=(code, str(at), *([str(to)] if to else [])), cwd=at)
    )
    return found


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    return furnish(tmp_path / "inside")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return furnish(tmp_path / "outside")


# ---- Linux, with real children


@has_landlock
def test_a_system_with_landlock_has_fences() -> None:
    assert fence.fault() == ""


@has_landlock
def test_every_change_inside_is_possible(inside: Path) -> None:
    assert attempts(inside, inside) == dict.fromkeys(ATTEMPTS, "done")


@has_landlock
def test_no_change_outside_is_possible(inside: Path, outside: Path) -> None:
    before = contents(outside)

    found = attempts(outside, inside)

    assert found == dict.fromkeys(ATTEMPTS, "EACCES")
    assert contents(outside) == before


@has_landlock
def test_nothing_moves_across_the_fence(inside: Path, outside: Path) -> None:
    before = contents(inside), contents(outside)
    moves = {
        "in": "os.rename(to + '/moving', at + '/taken')",
        "out": "os.rename(at + '/moving', to + '/given')",
        "over": "os.replace(at + '/moving', to + '/file')",
        "a hard link in": "os.link(to + '/file', at + '/twin')",
        "a hard link out": "os.link(at + '/file', to + '/twin')",
    }

    found = attempts(inside, inside, which=moves, to=outside)
    unfenced = attempts(inside, inside, outside, which={"over": moves["over"]}, to=outside)

    assert set(found.values()) <= {"EACCES", "EXDEV"}
    assert unfenced == {"over": "done"}
    assert before[0].keys() - contents(inside).keys() == {"moving"}  # by the last one only
    assert contents(outside) == {**before[1], "file": "moving"}


@has_landlock
@pytest.mark.parametrize(
    "way", ["{inside}/../outside/new", "{inside}/door/new", "/proc/self/root{outside}/new", "/proc/{pid}/root{outside}/new"]
)  # fmt: skip
def test_no_detour_leads_outside(inside: Path, outside: Path, way: str) -> None:
    (inside / "door").symlink_to(outside)
    path = way.format(inside=inside, outside=outside, pid=os.getpid())
    create = {"create": f"open({path!r}, 'w').close()"}

    found = attempts(inside, inside, which=create)

    assert found["create"] in ("EACCES", "EPERM")
    assert not (outside / "new").exists()
    assert (
        attempts(inside, inside, outside, which={"create": f"open({str(outside / 'new')!r}, 'w')"})["create"] == "done"
    )


@has_landlock
def test_a_folder_that_was_opened_before_is_no_way_out(inside: Path, outside: Path) -> None:
    fd = os.open(outside, os.O_RDONLY)
    code = f"import os; os.close(os.open('new', os.O_CREAT | os.O_WRONLY, dir_fd={fd}))"

    answers = [
        subprocess.run(fence.words([*PYTHON, code], writable=places), pass_fds=[fd], capture_output=True, text=True)
        for places in ([inside], [inside, outside])
    ]
    os.close(fd)

    assert "PermissionError" in answers[0].stderr
    assert answers[1].returncode == 0


@has_landlock
def test_children_threads_and_orphans_stand_behind_the_fence_too(inside: Path, outside: Path) -> None:
    code = """if 1:
        import os, subprocess, sys, threading
        inside, outside = sys.argv[1:]
        def write(name):
            for folder in (inside, outside):
                try:
                    open(folder + "/" + name, "w").close()
                except PermissionError:
                    pass
        thread = threading.Thread(target=write, args=["thread"])
        thread.start()
        thread.join()
        for folder in (inside, outside):
            subprocess.run(["/bin/sh", "-c", ': > "$0"/shell', folder], stderr=subprocess.DEVNULL)
        done, told = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                write("orphan")
                os.write(told, b"x")
            os._exit(0)
        os.wait()
        os.read(done, 1)
    """
    names = {"thread", "shell", "orphan"}

    behind(inside, code=code, arguments=(str(inside), str(outside)))

    assert names <= contents(inside).keys()
    assert not names & contents(outside).keys()


@has_landlock
def test_a_single_file_may_be_overwritten_and_no_more(tmp_path: Path, inside: Path, outside: Path) -> None:
    file = outside / "file"
    which = {
        "overwrite": "open(to, 'w').write('new')",
        "truncate": "os.truncate(to, 1)",
        "replace": "os.replace(at + '/fresh', to)",
        "remove": "os.unlink(to)",
        "its neighbour": "open(to + '2', 'w')",
    }

    found = attempts(inside, inside, file, which=which, to=file)

    assert found == {
        "overwrite": "done", "truncate": "done", "replace": "EACCES", "remove": "EACCES", "its neighbour": "EACCES"
    }  # fmt: skip
    assert file.read_text() == "n"


@has_landlock
def test_a_place_that_is_not_there_is_made_as_a_folder(inside: Path, tmp_path: Path) -> None:
    missing = tmp_path / "not" / "yet"

    behind(missing, code="import sys; open(sys.argv[1] + '/new', 'w')", arguments=(str(missing),))

    assert contents(missing) == {"new": ""}


@has_landlock
def test_a_place_that_is_a_link_stands_for_what_it_leads_to(inside: Path, outside: Path, tmp_path: Path) -> None:
    (tmp_path / "name").symlink_to(inside)

    behind(tmp_path / "name", code="import sys; open(sys.argv[1] + '/new', 'w')", arguments=(str(inside),))
    found = attempts(outside, tmp_path / "name", which={"create": ATTEMPTS["create"]})

    assert (inside / "new").exists()
    assert found == {"create": "EACCES"}


@has_landlock
def test_a_relative_place_is_the_caller_s_wherever_the_command_runs(
    inside: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(inside.parent)

    behind(Path("inside"), code="import sys; open(sys.argv[1] + '/new', 'w')", arguments=(str(inside),), cwd=outside)

    assert (inside / "new").exists()


@has_landlock
def test_no_privileges_are_gained_behind_the_fence(inside: Path) -> None:
    code = "print(*[line for line in open('/proc/self/status') if line.startswith('NoNewPrivs')])"

    assert behind(inside, code=code).split() == ["NoNewPrivs:", "1"]


@has_landlock
def test_reading_stays_free(inside: Path, outside: Path) -> None:
    code = "import os, sys; print(open(sys.argv[1] + '/file').read(), sorted(os.listdir(sys.argv[1]))[0])"

    assert behind(inside, code=code, arguments=(str(outside),)) == "file doomed"


@has_landlock
def test_terminals_and_dev_null_can_be_written(inside: Path) -> None:
    code = """if 1:
        import os, pty, termios
        open("/dev/null", "w").write("gone")
        ours, theirs = pty.openpty()
        termios.tcsetattr(theirs, termios.TCSANOW, termios.tcgetattr(theirs))
        os.write(theirs, b"hello")
        print(os.read(ours, 5).decode())
    """

    assert behind(inside, code=code) == "hello"


@has_landlock
def test_other_devices_take_no_commands(inside: Path) -> None:
    code = """if 1:
        import errno, fcntl
        for device in ("/dev/zero", "/dev/null"):
            try:
                fcntl.ioctl(open(device), 0x7777)
            except OSError as error:
                print(errno.errorcode[error.errno])
    """
    if landlock() < 5:
        pytest.skip("this kernel's landlock does not know commands to devices")

    assert behind(inside, code=code).split() == ["EACCES", "ENOTTY"]


@has_landlock
def test_no_signal_gets_out(inside: Path) -> None:
    if landlock() < 6:
        pytest.skip("this kernel's landlock does not know signals")
    code = """if 1:
        import os, signal, subprocess, sys
        child = subprocess.Popen(["/bin/sleep", "600"])
        child.terminate()
        print(child.wait())
        try:
            os.kill(int(sys.argv[1]), signal.SIGTERM)
        except PermissionError:
            print("denied")
    """
    victim = subprocess.Popen(["/bin/sleep", "600"])

    said = behind(inside, code=code, arguments=(str(victim.pid),))
    is_alive = victim.poll() is None
    victim.terminate()

    assert said.split() == [str(-signal.SIGTERM), "denied"]
    assert is_alive
    assert victim.wait() == -signal.SIGTERM


@as_root
@has_landlock
def test_root_makes_no_device_nodes_and_mounts_nothing(inside: Path) -> None:
    code = """if 1:
        import ctypes, errno, os, stat, sys
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            try:
                os.mknod(sys.argv[1] + "/device", kind | 0o600, os.makedev(1, 3))
                print("made")
                os.unlink(sys.argv[1] + "/device")
            except OSError as error:
                print(errno.errorcode[error.errno])
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mount(b"none", sys.argv[1].encode(), b"tmpfs", 0, None)
        print(errno.errorcode[ctypes.get_errno()] if failed else "mounted")
    """

    assert behind(inside, code=code, arguments=(str(inside),)).split() == ["EACCES", "EACCES", "EPERM"]


@has_landlock
def test_what_landlock_lets_through_is_what_the_module_says(inside: Path, outside: Path) -> None:
    which = {
        "mode": "os.chmod(at + '/file', 0o600)",
        "times": "os.utime(at + '/file', (1, 1))",
        "lock": "import fcntl; fcntl.flock(open(at + '/file'), fcntl.LOCK_EX)",
    }

    found = attempts(outside, inside, which=which)

    assert found == dict.fromkeys(which, "done")
    assert (outside / "file").stat().st_mtime == 1
    assert all(word in (fence.__doc__ or "") for word in ("mode", "owner", "times", "locks", "attributes"))


# ---- the command itself


@has_landlock
def test_the_command_gets_its_words_folder_variables_and_streams(inside: Path) -> None:
    code = "import os, sys; print(sys.argv[1:], os.getcwd(), os.environ['MARK'], sys.stdin.read())"

    said = behind(
        inside, code=code, arguments=("--", "-w", "two words"), cwd=inside, env={"MARK": "here"}, input="typed"
    )

    assert said == f"['--', '-w', 'two words'] {inside} here typed"


@has_landlock
def test_the_command_s_exit_code_is_its_own(inside: Path) -> None:
    codes = [
        subprocess.run(fence.words(["/bin/sh", "-c", line], writable=[inside])).returncode
        for line in ("exit 7", "kill -9 $$")
    ]

    assert codes == [7, -signal.SIGKILL]


@has_landlock
def test_a_command_that_is_not_there_says_so(inside: Path) -> None:
    answer = subprocess.run(fence.words(["no-such-command"], writable=[inside]), capture_output=True, text=True)

    assert answer.returncode == 127
    assert "cannot start 'no-such-command'" in answer.stderr


@has_landlock
def test_the_command_dies_of_a_closed_pipe_like_any_other(inside: Path) -> None:
    """Python ignores SIGPIPE, and what it becomes would inherit that."""
    words = fence.words(["/bin/sh", "-c", "while echo line 2>/dev/null; do :; done; exit 9"], writable=[inside])

    with subprocess.Popen(words, stdout=subprocess.PIPE, restore_signals=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        code = process.wait()

    assert code == -signal.SIGPIPE


# ---- no fence


@has_landlock
def test_without_a_fence_the_command_is_not_started(inside: Path) -> None:
    """Landlock takes 16 fences around each other: the next one can't be had."""
    words = ["/bin/sh", "-c", "echo started"]
    for _ in range(16):
        words = fence.words(words, writable=[inside])
    enough = subprocess.run(words, capture_output=True, text=True)
    one_more = subprocess.run(fence.words(words, writable=[inside]), capture_output=True, text=True)

    assert enough.stdout == "started\n"
    assert one_more.stdout == ""
    assert one_more.returncode == fence.NO_FENCE
    assert one_more.stderr == f"fence: landlock: {os.strerror(errno.E2BIG)}\n"


@has_landlock
def test_a_place_that_went_away_is_no_reason_to_go_without(inside: Path, tmp_path: Path) -> None:
    words = fence.words(["/bin/sh", "-c", "echo started"], writable=[tmp_path / "gone"])
    (tmp_path / "gone").rmdir()

    answer = subprocess.run(words, capture_output=True, text=True)

    assert (answer.returncode, answer.stdout) == (fence.NO_FENCE, "")
    assert answer.stderr == f"fence: No such file or directory: {tmp_path / 'gone'}\n"


@pytest.mark.parametrize(
    ("wrapper", "reason"),
    [
        ([], "a file outside could be written"),
        (["/bin/sh", "-c", "echo no landlock here >&2; exit 125"], "no landlock here"),
        (["/bin/sh", "-c", "exit 9"], "status 9"),
        (["/no/such/program"], "No such file or directory"),
    ],
)
def test_a_fence_that_does_not_hold_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrapper: list[str], reason: str
) -> None:
    def no_fence(command: list[str], *, writable: list[Path]) -> list[str]:
        writable[0].mkdir()
        return [*wrapper, *command]

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(fence, "words", no_fence)

    found = fence.fault.__wrapped__()

    assert reason in found
    assert found.endswith(").")
    assert list(tmp_path.iterdir()) == []


# ---- macOS, as text


def test_macos_is_asked_with_paths_as_parameters(inside: Path, outside: Path) -> None:
    name = outside / 'a "quoted" (name'
    name.write_text("")

    words = fence.words(["run", "it"], writable=[inside, name], platform="darwin")

    assert words[:5] == ["/usr/bin/sandbox-exec", "-D", f"P0={inside.resolve()}", "-D", f"P1={name.resolve()}"]
    assert words[5] == "-p"
    assert words[7:] == ["run", "it"]


def test_macos_profile_denies_writing_before_it_allows_any(inside: Path, outside: Path) -> None:
    words = fence.words(["true"], writable=[inside, outside / "file"], platform="darwin")
    profile = words[words.index("-p") + 1]
    rules = re.findall(r"\((version|allow|deny) ?([^()]*)(?:\((\w+))?", profile)

    assert profile.count("(") == profile.count(")")
    assert [(verb, what.strip()) for verb, what, _ in rules] == [
        ("version", "1"), ("allow", "default"), ("deny", "file-write*"), ("deny", "signal"), ("allow", "signal"),
        ("allow", "file-write*"), ("allow", "file-write*"), ("allow", "file-write-data"),
    ]  # fmt: skip
    assert '(subpath (param "P0"))' in profile
    assert '(literal (param "P1"))' in profile


def test_macos_folder_that_is_missing_is_made_before_the_sandbox_is(tmp_path: Path) -> None:
    fence.words(["true"], writable=[tmp_path / "new"], platform="darwin")

    assert (tmp_path / "new").is_dir()
