"""The guide tells the truth: its commands and its Python are run in their order, in a workspace of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from standin import git_environment

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(shutil.which("jq") is None, reason="the guide's commands use jq")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    root = tmp_path / "workspace"
    shutil.copytree(ROOT / "experiments", root / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    return root


def script(page: str) -> str:
    """All blocks of a page as one bash script; those of `text` are only shown."""
    lines = ["set -euo pipefail"]
    for language, block in BLOCK.findall((DOCS / page).read_text()):
        if language == "text":
            continue
        assert language in ("bash", "python")
        lines.append(block if language == "bash" else f"python - <<'PYTHON'\n{block}PYTHON")
    return "\n".join(lines)


def run(page: str, workspace: Path, home: Path) -> subprocess.CompletedProcess[str]:
    home.mkdir()
    environment = {
        **git_environment(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "LANG": "C.UTF-8",
    }
    answer = subprocess.run(
        ["bash", "-c", script(page)], cwd=workspace, env=environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-3000:]
    return answer


def test_every_block_of_the_guide_runs(workspace: Path, tmp_path: Path) -> None:
    answer = run("guide.md", workspace, tmp_path / "home")

    assert "exit code 1" in answer.stdout
    assert "Did you mean 'optimizer'?" in answer.stderr
    assert "completed already" in answer.stdout + answer.stderr
    assert re.search(r"^R² 0\.99\d\d on 100 rows$", answer.stdout, re.MULTILINE)


def test_every_block_of_the_page_on_sweeps_runs(workspace: Path, tmp_path: Path) -> None:
    answer = run("sweeps.md", workspace, tmp_path / "home")

    assert "18 of 18 points have ended: 18 completed" in answer.stdout
    assert "Rung 3 of 3" in answer.stdout
    assert "left to run: 2" in answer.stdout
    assert (workspace / "outputs" / "rates" / "learning_rate_by_epochs.png").stat().st_size > 10_000
