"""Pages whose Python goes on from block to block tell the truth: shell first, then all Python as one program."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from standin import git_environment

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path, home: Path) -> str:
    home.mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**git_environment(home), "PATH": path, "LANG": "C.UTF-8"}
    answer = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-2000:] + answer.stderr[-2000:]
    return answer.stdout


def run_page(name: str, folder: Path, *, shell: bool = True) -> str:
    """Run a page's blocks in a workspace below a folder; returns what its Python printed."""
    workspace, home = folder / "workspace", folder / "home"
    workspace.mkdir(exist_ok=True)
    blocks = BLOCK.findall((DOCS / name).read_text())
    assert {language for language, _ in blocks} == {"bash", "python"}
    if shell:
        lines = "".join(block for language, block in blocks if language == "bash")
        run(["bash", "-euo", "pipefail", "-c", lines], workspace, home)
    (workspace / "page.py").write_text("".join(block for language, block in blocks if language == "python"))
    return run([sys.executable, "page.py"], workspace, home)


def test_every_block_of_the_page_on_analysis_runs(tmp_path: Path) -> None:
    out = run_page("analysis.md", tmp_path)

    workspace = tmp_path / "workspace"
    assert out.count("completed") == 12  # eight runs of the history, four points of a sweep
    assert "[5, 32, 1]" in out
    assert "best accuracy (maximize): learning_rate=0.01, depth=4" in out
    assert "seed noise" in out
    assert (workspace / "learning_rate.png").stat().st_size > 10_000
    assert b"<svg" in (workspace / "heatmap.svg").read_bytes()


def test_every_block_of_the_page_on_workflows_runs(tmp_path: Path) -> None:
    out = run_page("workflows.md", tmp_path)

    assert "\n[6.0, 15.0]\n" in out  # 0 + 1 + 2 + 3, and 2.5 times that
    assert "\n4 0 " in out
    assert "learning_rate=0.01" in out
    assert (tmp_path / "workspace" / "accuracy.png").stat().st_size > 10_000


def test_numbers_of_the_page_on_the_gpt_sweep_are_those_of_its_table(tmp_path: Path) -> None:
    (tmp_path / "workspace").mkdir()
    shutil.copytree(DOCS, tmp_path / "workspace" / "docs")

    out = run_page("gpt_sweep.md", tmp_path, shell=False)

    assert "best val_bpb (minimize): MATRIX_LR=0.015, DEPTH=2: mean 2.359, 2.343 to 2.374, 3 runs" in out
    assert "6 of 11 others may be as good" in out
    assert "about 26 runs of each" in out
