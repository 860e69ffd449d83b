"""`bin/mlx` of the plugins: which program it becomes, and how it makes one where there is none."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from toy_package import PROGRAM, PYPROJECT, PYTHON, copy_plugin, make_source, write_program

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = ROOT / "experiment-plugin"
WEEK_S = 7 * 86400
# Stands in for uv: as fast as a test needs, waits while a file `wait` exists, fails with what `fail` holds.
UV = """\
#!{python} -I
import os, pathlib, sys, time
here = pathlib.Path(__file__).resolve().parent
with open(here / "calls", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
(here / "environment").write_text("\\n".join(os.environ))
if sys.argv[1] == "venv":
    folder = pathlib.Path(sys.argv[-1])
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to({python!r})
else:
    end = time.monotonic() + 60
    while (here / "wait").exists() and time.monotonic() < end:
        time.sleep(0.02)
    with open(here / "calls", "a") as log:
        log.write("the install ended\\n")
    if (here / "fail").exists():
        sys.exit((here / "fail").read_text())
    extras = sys.argv[-1].partition("[")[2].partition("]")[0]
    program = pathlib.Path(sys.argv[sys.argv.index("--python") + 1]).with_name("mlx")
    program.write_text("import sys; print('made with', " + repr(extras) + ", *sys.argv[1:])")
"""


@dataclass
class Machine:
    """A machine with `python3` and, if wanted, a stand-in for uv; `home` is the plugin's data folder."""

    folder: Path
    launcher: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def tools(self) -> Path:
        return self.folder / "tools"

    @property
    def home(self) -> Path:
        return self.folder / "the data"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def environments(self) -> list[Path]:
        return sorted((self.home / "environments").glob("*"))

    @property
    def environment(self) -> dict[str, str]:
        fixed = {"HOME": str(self.folder), "AUTOEXPERIMENT_HOME": str(self.home), "PIP_NO_INDEX": "1"}
        return {"PATH": str(self.tools), **fixed, **self.variables}

    def lend_uv(self) -> Path:
        """A stand-in for uv; returns the folder of its control files."""
        folder = self.folder / "uv"
        folder.mkdir()
        (folder / "uv").write_text(UV.format(python=str(PYTHON)))
        (folder / "uv").chmod(0o755)
        (self.tools / "uv").symlink_to(folder / "uv")
        return folder

    def start(self, *words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.launcher), *words], cwd=cwd or self.work, env=self.environment, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        command = [str(self.launcher), *words]
        return subprocess.run(command, cwd=cwd or self.work, env=self.environment, capture_output=True, text=True)

    def run_as_python(self, version: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run the launcher in an interpreter that says it is another version."""
        numbers = tuple(int(part) for part in version.split("."))
        posing = f"sys.version_info = {numbers}; sys.version = {version!r}; sys.executable = '/none/python3'"
        running = f"sys.path.insert(0, ''); runpy.run_path({str(self.launcher)!r}, run_name='__main__')"
        code = f"import runpy, sys; {posing}; sys.argv = ['mlx', *{list(words)!r}]; {running}"
        command = [str(self.tools / "python3"), "-c", code]
        return subprocess.run(command, cwd=self.work, env=self.environment, capture_output=True, text=True)


def make_machine(folder: Path, launcher: Path) -> Machine:
    machine = Machine(folder, launcher)
    machine.work.mkdir(parents=True)
    machine.tools.mkdir()
    (machine.tools / "python3").symlink_to(PYTHON)
    return machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """The plugin comes with its source, as from a marketplace."""
    return make_machine(tmp_path, make_source(tmp_path / "market place") / "experiment-plugin" / "bin" / "mlx")


@pytest.fixture
def lone(tmp_path: Path) -> Machine:
    """The plugin `experiment` alone: no source beside it."""
    return make_machine(tmp_path, copy_plugin(tmp_path / "cache" / "experiment") / "bin" / "mlx")


def wait_for(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, f"did not happen: {what}"
        time.sleep(0.02)


# --- which program


def test_program_of_the_project_comes_before_the_one_on_the_path(lone: Machine) -> None:
    write_program(lone.tools / "mlx", "path")
    write_program(lone.work / ".venv" / "bin" / "mlx", "project")

    answer = lone.run("loop", "a b")

    assert answer.stdout == f"project loop a b {lone.work}\n"
    assert answer.stderr == ""


def test_project_is_the_git_working_tree_around_the_current_folder(lone: Machine) -> None:
    (lone.work / ".git").mkdir()
    (lone.work / "deep" / "er").mkdir(parents=True)
    write_program(lone.work / ".venv" / "bin" / "mlx", "project")

    answer = lone.run("x", cwd=lone.work / "deep" / "er")

    assert answer.stdout == f"project x {lone.work / 'deep' / 'er'}\n"


def test_exit_code_is_the_programs(lone: Machine) -> None:
    write_program(lone.tools / "mlx", "path")

    assert lone.run("fail").returncode == 5


def test_launchers_and_strangers_on_the_path_are_passed_over(lone: Machine) -> None:
    folders = [lone.folder / name for name in ("older plugin", "root", "stranger", "folder", "plain", "dead", "right")]
    shutil.copytree(lone.launcher.parent, folders[0])
    shutil.copytree(ROOT / "bin", folders[1])
    write_program(folders[2] / "mlx", "stranger", text="#!{python}\nprint({name!r})\n")
    (folders[3] / "mlx").mkdir(parents=True)
    write_program(folders[4] / "mlx", "not executable").chmod(0o644)
    write_program(folders[5] / "mlx", "dead", python="/none/python3")
    write_program(folders[6] / "mlx", "right")
    lone.variables["PATH"] = os.pathsep.join(map(str, [lone.launcher.parent, *folders, lone.tools]))

    answer = lone.run()

    assert answer.stdout == f"right {lone.work}\n"


def test_relative_entries_of_the_path_are_never_run(lone: Machine) -> None:
    write_program(lone.work / "mlx", "planted")
    lone.variables["PATH"] = os.pathsep.join([".", "", str(lone.tools)])

    answer = lone.run()

    assert answer.returncode == 1
    assert "planted" not in answer.stdout


def test_script_whose_interpreter_has_a_blank_in_its_path_is_recognised(lone: Machine) -> None:
    (lone.folder / "a blank").mkdir()
    (lone.folder / "a blank" / "python").symlink_to(PYTHON)
    long_form = "#!/bin/sh\n'''exec' \"{python}\" \"$0\" \"$@\"\n' '''\n" + PROGRAM.partition("\n")[2]
    write_program(lone.tools / "mlx", "blank", python=lone.folder / "a blank" / "python", text=long_form)

    assert lone.run().stdout == f"blank {lone.work}\n"

    (lone.folder / "a blank" / "python").unlink()
    assert lone.run().returncode == 1


def test_launcher_of_the_repository_is_the_same_program(machine: Machine) -> None:
    for name in ("sh", "dirname", "realpath"):
        (machine.tools / name).symlink_to(str(shutil.which(name)))
    write_program(machine.work / ".venv" / "bin" / "mlx", "project")
    (machine.folder / "linked").symlink_to(machine.launcher.parents[2] / "bin" / "mlx")

    answer = Machine(machine.folder, machine.folder / "linked").run("a b")

    assert answer.stdout == f"project a b {machine.work}\n"


def test_without_a_source_the_message_says_where_one_comes_from(lone: Machine) -> None:
    answer = lone.run("loop")

    assert answer.returncode == 1
    assert answer.stdout == ""
    assert "claude plugin install mlx@autoexperiment" in answer.stderr
    assert not lone.home.exists()


def test_current_folder_that_is_gone_is_named(lone: Machine) -> None:
    gone = lone.folder / "gone"
    gone.mkdir()
    command = f'cd "{gone}" && /bin/rmdir "{gone}" && "{lone.launcher}" loop'

    answer = subprocess.run(["/bin/sh", "-c", command], env=lone.environment, capture_output=True, text=True)

    assert answer.returncode == 1
    assert "current folder is gone" in answer.stderr


# --- the plugin's own environment, for real


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Machine, subprocess.CompletedProcess[str]]]:
    """A machine with nothing but python3, after the first use; its folders have blanks in their names."""
    folder = tmp_path_factory.mktemp("built")
    machine = make_machine(folder, make_source(folder / "market place") / "experiment-plugin" / "bin" / "mlx")
    for name in ("ensurepip.py", "venv.py", "pip.py"):
        (machine.work / name).write_text("raise SystemExit('planted')\n")
    yield machine, machine.run("hello")


def test_first_use_installs_and_becomes_the_program(built: tuple[Machine, subprocess.CompletedProcess[str]]) -> None:
    machine, first = built

    assert first.stdout == "installed 1.0.0 hello\n", first.stderr
    assert "first use: installing autoexperiment" in first.stderr
    assert [path.name.rpartition("-")[0] for path in machine.environments] == ["1.0.0"]


def test_second_use_says_nothing_of_its_own(built: tuple[Machine, subprocess.CompletedProcess[str]]) -> None:
    machine, _ = built

    again = machine.run("fail")

    assert (again.returncode, again.stdout, again.stderr) == (7, "installed 1.0.0 fail\n", "")
    assert len(machine.environments) == 1


def test_program_that_calls_mlx_reaches_itself_and_not_the_launcher_again_and_again(
    built: tuple[Machine, subprocess.CompletedProcess[str]],
) -> None:
    machine, _ = built
    path = f"{machine.launcher.parent}{os.pathsep}{machine.tools}"

    answer = Machine(machine.folder, machine.launcher, {"PATH": path}).run("nested", "nested", "in")

    assert (answer.stdout, answer.stderr) == ("installed 1.0.0 in\n", "")


def test_code_of_the_current_folder_does_not_get_in(built: tuple[Machine, subprocess.CompletedProcess[str]]) -> None:
    machine, _ = built
    (machine.work / "autoexperiment").mkdir()
    for name in ("autoexperiment/__init__.py", "subprocess.py", "launcher.py", "json.py"):
        (machine.work / name).write_text("raise SystemExit('planted')\n")

    answer = machine.run("hello")

    assert (answer.stdout, answer.stderr) == ("installed 1.0.0 hello\n", "")


def test_without_what_it_needs_nothing_is_left_and_the_message_says_so(machine: Machine) -> None:
    machine.variables["AUTOEXPERIMENT_EXTRAS"] = "far"

    answer = machine.run("hello")

    assert answer.returncode == 1
    assert "a-package-that-is-nowhere" in answer.stderr
    assert "The package index cannot be reached" in answer.stderr
    assert "PIP_FIND_LINKS" in answer.stderr
    assert (machine.environments, (machine.home / "current.json").exists()) == ([], False)


# --- the plugin's own environment, its installer played


def test_uv_is_used_where_it_is(machine: Machine) -> None:
    uv = machine.lend_uv()
    (machine.launcher.parents[2] / "constraints.txt").write_text("numpy==2.4.6\n")

    answer = machine.run("hello")

    calls = (uv / "calls").read_text().splitlines()
    extras = "gpt,sweep" if sys.platform == "darwin" else "cpu,gpt,sweep"
    assert answer.stdout == f"made with {extras} hello\n"
    assert [call.split()[0] for call in calls] == ["venv", "pip", "the"]
    assert "--refresh-package autoexperiment" in calls[1]
    assert "constraints.txt" in calls[1]
    assert calls[1].endswith("/market%20place")


def test_project_that_is_the_repository_is_a_source_too(lone: Machine) -> None:
    lone.lend_uv()
    make_source(lone.work / "checkout")
    (lone.work / "checkout" / ".git").mkdir()

    answer = lone.run("hello", cwd=lone.work / "checkout" / "autoexperiment")

    assert answer.stdout.endswith(" hello\n"), answer.stderr


def test_project_that_only_looks_like_the_repository_is_none(lone: Machine) -> None:
    uv = lone.lend_uv()
    checkout = make_source(lone.work / "checkout")
    (checkout / "pyproject.toml").write_text(PYPROJECT.replace('name = "autoexperiment"', 'name = "other"'))

    answer = lone.run("hello", cwd=checkout)

    assert answer.returncode == 1
    assert not (uv / "calls").exists()


def test_newer_source_is_installed_anew_and_the_old_environment_stays_for_a_week(machine: Machine) -> None:
    uv = machine.lend_uv()
    machine.run("hello")
    old = machine.environments[0]
    package = machine.launcher.parents[2] / "autoexperiment"

    (package / "__init__.py").write_text('__version__ = "1.1.0"\n')
    machine.run("hello")
    both = machine.environments
    os.utime(old / "used", (time.time() - WEEK_S - 60, time.time() - WEEK_S - 60))
    (package / "__init__.py").write_text('__version__ = "1.2.0"\n')
    machine.run("hello")

    assert [path.name.rpartition("-")[0] for path in both] == ["1.0.0", "1.1.0"]
    assert [path.name.rpartition("-")[0] for path in machine.environments] == ["1.1.0", "1.2.0"]
    assert (uv / "calls").read_text().count("venv ") == 3


def test_same_source_in_another_place_is_not_installed_again(machine: Machine) -> None:
    uv = machine.lend_uv()
    machine.run("hello")
    copy = machine.folder / "elsewhere"
    shutil.copytree(machine.launcher.parents[2], copy)
    (copy / "autoexperiment" / "__pycache__").mkdir()
    (copy / "autoexperiment" / "__pycache__" / "cli.pyc").write_text("left behind")

    answer = Machine(machine.folder, copy / "experiment-plugin" / "bin" / "mlx").run("again")

    assert answer.stdout.endswith(" again\n")
    assert (uv / "calls").read_text().count("venv ") == 1


def test_environment_serves_on_when_its_source_is_gone(machine: Machine) -> None:
    machine.lend_uv()
    machine.run("hello")
    lone = copy_plugin(machine.folder / "alone") / "bin" / "mlx"

    answer = Machine(machine.folder, lone).run("again")

    assert answer.stdout.endswith(" again\n"), answer.stderr


def test_extras_are_the_users_choice_and_stay(machine: Machine) -> None:
    machine.lend_uv()
    machine.run("hello")

    machine.variables["AUTOEXPERIMENT_EXTRAS"] = "cuda13, gpt"
    chosen = machine.run("hello")
    del machine.variables["AUTOEXPERIMENT_EXTRAS"]
    later = machine.run("hello")
    (machine.launcher.parents[2] / "autoexperiment" / "new.py").write_text("")
    renewed = machine.run("hello")

    assert [answer.stdout for answer in (chosen, later, renewed)] == ["made with cuda13,gpt hello\n"] * 3
    assert later.stderr == ""


@pytest.mark.parametrize("damage", ["python", "program", "stamp"])
def test_damaged_environment_is_made_again(machine: Machine, damage: str) -> None:
    machine.lend_uv()
    machine.run("hello")
    paths = {"python": "bin/python", "program": "bin/mlx"}
    if damage == "stamp":
        (machine.home / "current.json").write_text('{"environment": ')
    else:
        (machine.environments[0] / paths[damage]).unlink()

    answer = machine.run("again")

    assert answer.stdout.endswith(" again\n"), answer.stderr
    assert "ready" in answer.stderr


@pytest.mark.parametrize("key", ["digest", "extras"])
@pytest.mark.parametrize("wanted", ["", "gpt"])
def test_stamp_that_lacks_a_part_is_no_reason_to_fail(machine: Machine, key: str, wanted: str) -> None:
    machine.lend_uv()
    machine.run("hello")
    stamp = json.loads((machine.home / "current.json").read_text())
    del stamp[key]
    (machine.home / "current.json").write_text(json.dumps(stamp))
    machine.variables["AUTOEXPERIMENT_EXTRAS"] = wanted

    answer = machine.run("again")

    assert (answer.returncode, answer.stdout.endswith(" again\n")) == (0, True), answer.stderr
    assert "Traceback" not in answer.stderr


def test_killed_set_up_never_counts_and_its_installer_is_waited_for(machine: Machine) -> None:
    uv = machine.lend_uv()
    (uv / "wait").touch()
    first = machine.start("first")
    wait_for(lambda: "pip install" in (uv / "calls").read_text() if (uv / "calls").exists() else False, "the install")

    first.send_signal(signal.SIGKILL)
    first.wait()
    second = machine.start("second")
    assert second.stderr is not None
    told = second.stderr.readline()
    (uv / "wait").unlink()
    out, _ = second.communicate()

    assert "waiting for it" in told
    assert out.endswith(" second\n")
    assert len(machine.environments) == 1
    assert (uv / "calls").read_text().count("venv ") == 2


def test_second_of_two_at_once_waits_and_installs_nothing(machine: Machine) -> None:
    uv = machine.lend_uv()
    (uv / "wait").touch()
    first = machine.start("first")
    wait_for(lambda: "pip install" in (uv / "calls").read_text() if (uv / "calls").exists() else False, "the install")

    second = machine.start("second")
    assert second.stderr is not None
    told = second.stderr.readline()
    (uv / "wait").unlink()
    outs = [process.communicate()[0].split()[-1] for process in (first, second)]

    assert "waiting for it" in told
    assert outs == ["first", "second"]
    assert (uv / "calls").read_text().count("venv ") == 1


def test_stopped_set_up_takes_its_half_environment_with_it(machine: Machine) -> None:
    uv = machine.lend_uv()
    (uv / "wait").touch()
    process = machine.start("hello")
    wait_for(lambda: "pip install" in (uv / "calls").read_text() if (uv / "calls").exists() else False, "the install")

    process.terminate()
    process.communicate()

    assert process.returncode == 143
    assert machine.environments == []
    assert "the install ended" not in (uv / "calls").read_text()


def test_failure_shows_the_last_lines_bounded(machine: Machine) -> None:
    uv = machine.lend_uv()
    (uv / "fail").write_text("\n".join(f"line {number} " + "x" * 5000 for number in range(500)))

    answer = machine.run("hello")

    lines = answer.stderr.splitlines()
    assert answer.returncode == 1
    assert "line 499" in lines[-1]
    assert len(lines) <= 16
    assert max(map(len, lines)) <= 500
    assert machine.environments == []


def test_installer_is_kept_from_writing_elsewhere_but_keeps_its_index(machine: Machine) -> None:
    uv = machine.lend_uv()
    strays = {"VIRTUAL_ENV": "/none", "PIP_TARGET": "/none", "PIP_USER": "1", "PYTHONNOUSERSITE": "1"}
    machine.variables |= {**strays, "PIP_INDEX_URL": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}

    machine.run("hello")

    seen = set((uv / "environment").read_text().splitlines())
    assert seen & set(machine.variables) == {"PIP_INDEX_URL", "HTTPS_PROXY"}


def test_full_disk_is_named(machine: Machine) -> None:
    uv = machine.lend_uv()
    (uv / "fail").write_text("error: No space left on device (os error 28)")

    assert "The disk is full" in machine.run("hello").stderr


def test_program_that_does_not_start_is_not_installed(machine: Machine) -> None:
    uv = machine.lend_uv()
    text = (uv / "uv").read_text()
    (uv / "uv").write_text(text.replace("import sys; print(", "import sys, nothing_of_this_name; print("))

    answer = machine.run("hello")

    assert "Could not start what was installed" in answer.stderr
    assert machine.environments == []


def test_data_folder_that_cannot_be_written_is_named(machine: Machine) -> None:
    (machine.folder / "file").write_text("")
    machine.variables["AUTOEXPERIMENT_HOME"] = str(machine.folder / "file" / "below")

    answer = machine.run("hello")

    assert answer.returncode == 1
    assert "export AUTOEXPERIMENT_HOME=" in answer.stderr


def test_without_the_variable_the_users_data_folder_is_taken(machine: Machine) -> None:
    machine.lend_uv()
    machine.variables |= {"AUTOEXPERIMENT_HOME": "", "XDG_DATA_HOME": str(machine.folder / "share")}

    machine.run("hello")

    mac = machine.folder / "Library" / "Application Support" / "autoexperiment" / "plugin"
    expected = mac if sys.platform == "darwin" else machine.folder / "share" / "autoexperiment"
    assert (expected / "current.json").exists()


# --- interpreters


def write_shim(path: Path, *, refuses: str) -> None:
    """An interpreter that fails on code which holds the text."""
    path.write_text(f'#!/bin/sh\ncase "$*" in *"{refuses}"*) exit 127;; esac\nexec "{PYTHON}" "$@"\n')
    path.chmod(0o755)


def test_newer_python_on_the_path_is_taken_where_this_one_is_too_old(machine: Machine) -> None:
    uv = machine.lend_uv()
    write_shim(machine.tools / "python3.14", refuses="")  # a version manager's shim for what it has not
    write_shim(machine.tools / "python3.13", refuses="never")

    answer = machine.run_as_python("3.9.18", "hello")

    assert answer.stdout.endswith(" hello\n"), answer.stderr
    assert f"--python {machine.tools / 'python3.13'} " in (uv / "calls").read_text()


def test_uv_fetches_a_python_where_there_is_none(machine: Machine) -> None:
    uv = machine.lend_uv()

    machine.run_as_python("3.9.18", "hello")

    assert "--python >=3.11,<3.15 " in (uv / "calls").read_text()


def test_without_uv_and_a_new_enough_python_the_message_says_what_to_install(machine: Machine) -> None:
    answer = machine.run_as_python("3.9.18", "hello")

    assert answer.returncode == 1
    assert "This python3 is 3.9.18" in answer.stderr
    assert "brew install python@3.13" in answer.stderr
    assert machine.environments == []


def test_python_that_cannot_make_environments_is_named(machine: Machine) -> None:
    write_shim(machine.tools / "python3.12", refuses="ensurepip")

    answer = machine.run_as_python("3.9.18", "hello")

    assert answer.returncode == 1
    assert "sudo apt install python3-venv" in answer.stderr


# --- the files themselves


@pytest.mark.parametrize(
    "path", [PLUGIN / "bin" / "mlx", *sorted((PLUGIN / "launcher").glob("*.py"))], ids=lambda p: p.name
)
def test_launcher_runs_on_a_bare_python_of_3_9(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 9))

    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    strangers = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - {"launcher"}
    assert strangers == set()


@pytest.mark.parametrize("path", [ROOT / "bin" / "mlx", PLUGIN / "bin" / "mlx"], ids=["root", "experiment"])
def test_launchers_are_executable(path: Path) -> None:
    assert os.access(path, os.X_OK)
