"""The page on comparing runs tells the truth: its blocks are run in their order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from standin import git_environment

PAGE = Path(__file__).resolve().parent.parent / "docs" / "analysis.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, home: Path) -> str:
    home.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**git_environment(home), "PATH": path, "LANG": "C.UTF-8"}
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def test_every_block_of_the_page_runs(tmp_path: Path) -> None:
    workspace, home = tmp_path / "workspace", tmp_path / "home"
    workspace.mkdir()
    blocks = BLOCK.findall(PAGE.read_text())
    assert {language for language, _ in blocks} == {"bash", "python"}
    shell = "".join(block for language, block in blocks if language == "bash")
    python = "".join(block for language, block in blocks if language == "python")

    run(["bash", "-euo", "pipefail", "-c", shell], workspace, home)
    out = run([sys.executable, "-c", python], workspace, home)

    assert out.count("completed") == 8
    assert "[5, 32, 1]" in out
    assert "best accuracy (maximize): learning_rate=0.01, depth=4" in out
    assert "seed noise" in out
    assert (workspace / "learning_rate.png").stat().st_size > 10_000
    assert b"<svg" in (workspace / "heatmap.svg").read_bytes()
