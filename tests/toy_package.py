"""A toy of this repository that installs in a moment and without an index, for tests of the launcher."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = Path(getattr(sys, "_base_executable", sys.executable))
# its build backend lies beside it and needs nothing
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "autoexperiment"
"""
BACKEND = '''\
import zipfile
from pathlib import Path

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    files = {f"autoexperiment/{name}.py": Path("autoexperiment", name + ".py").read_text() for name in ("__init__", "cli")}
    info = "autoexperiment-1.0.0.dist-info/"
    files[info + "METADATA"] = """Metadata-Version: 2.1
Name: autoexperiment
Version: 1.0.0
Provides-Extra: cpu
Provides-Extra: gpt
Provides-Extra: sweep
Provides-Extra: far
Requires-Dist: a-package-that-is-nowhere; extra == "far"
"""
    files[info + "WHEEL"] = "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[info + "entry_points.txt"] = "[console_scripts]\\nmlx = autoexperiment.cli:main\\n"
    files[info + "RECORD"] = "".join(f"{name},,\\n" for name in [*files, info + "RECORD"])
    name = "autoexperiment-1.0.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(wheel_directory, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name
'''
CLI = """\
import subprocess, sys
from autoexperiment import __version__

def main():
    words = sys.argv[1:]
    if words[:1] == ["nested"]:
        return subprocess.run(["mlx", *words[1:]]).returncode
    print("installed", __version__, *words)
    return 7 if words[:1] == ["fail"] else 0
"""
PROGRAM = '''\
#!{python}
"""
from autoexperiment.cli import main
"""
import os, sys
print({name!r}, *sys.argv[1:], os.getcwd())
sys.exit(5 if "fail" in sys.argv else 0)
'''


def make_source(folder: Path, *, version: str = "1.0.0") -> Path:
    """The toy repository with the real launchers. Its `mlx` prints its version and its arguments."""
    make_package(folder, version=version)
    copy_plugin(folder / "experiment-plugin")
    shutil.copytree(ROOT / "bin", folder / "bin")
    return folder


def make_package(folder: Path, *, version: str = "1.0.0") -> None:
    """The part of the toy repository that is installed."""
    (folder / "autoexperiment").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "autoexperiment" / "__init__.py").write_text(f'__version__ = "{version}"\n')
    (folder / "autoexperiment" / "cli.py").write_text(CLI)


def copy_plugin(folder: Path) -> Path:
    """The launcher of the plugin `experiment` alone."""
    for part in ("bin", "launcher"):
        shutil.copytree(ROOT / "experiment-plugin" / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def write_program(path: Path, name: str, *, python: Path | str = PYTHON, text: str = PROGRAM) -> Path:
    """Something that looks like pip's script of autoexperiment and prints its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(python=python, name=name))
    path.chmod(0o755)
    return path
