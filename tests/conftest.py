"""Every test gets a home, a state folder and a git identity of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import standin


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in project in a git repository, the current directory."""
    home = tmp_path / "home"
    home.mkdir()
    for name, value in standin.git_environment(home).items():
        monkeypatch.setenv(name, value)
    root = standin.make_project(tmp_path / "project")
    monkeypatch.chdir(root)
    return root
