"""Every test gets a home, a state folder and a git identity of its own."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

# A shell that starts the tests in its background lets them ignore Ctrl-C, and every child of theirs too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT))

import standin  # noqa: E402

import autoexperiment.blas  # noqa: E402, F401  (before any test imports MLX: numbers are compared with other processes')


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in project in a git repository, the current directory."""
    standin.isolate(tmp_path, monkeypatch)
    root = standin.make_project(tmp_path / "project")
    monkeypatch.chdir(root)
    return root


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the embedded dataset, prepared once for all tests of a worker."""
    import os
    import subprocess

    home = tmp_path_factory.mktemp("data")
    variables = {"AUTORESEARCH_CACHE": str(home / "cache"), "XDG_STATE_HOME": str(home / "state")}
    command = [sys.executable, str(ROOT / "prepare.py")]
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **variables})
    return next((home / "cache" / "pystdlib").glob("*/manifest.json")).parent


@pytest.fixture
def contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project for protocols (`contracts.py`) in a git repository, the current directory."""
    import contracts

    standin.isolate(tmp_path, monkeypatch)
    root = contracts.make_project(tmp_path / "project")
    monkeypatch.chdir(root)
    return root
