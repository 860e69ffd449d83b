"""Completion by the tab key: the scripts are the shells' own language, and mlx answers what they ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RUN = "tune-a/20250101_000000"


@pytest.fixture
def shell_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run in outputs/, and a PATH on which `mlx` is this source tree's."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "mlx"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m autoexperiment "$@"\n')
    program.chmod(0o755)
    (tmp_path / "outputs" / RUN).mkdir(parents=True)
    summary = {"status": "completed", "final_metrics": {"epoch": 1, "loss": 0.5, "val_loss": 0.5}}
    (tmp_path / "outputs" / RUN / "summary.json").write_text(json.dumps(summary))
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(shell: str, words: str, position: int) -> str:
    """What the script of a shell asks mlx for; returns the answer in the script's own protocol."""
    variables = {"_MLX_COMPLETE": f"{shell}_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    answer = subprocess.run(["mlx"], env={**os.environ, **variables}, capture_output=True, text=True)
    assert answer.stderr == ""
    return answer.stdout


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("mlx", "hist"), {"history"}),
        (("mlx", "history", "re"), {"rebuild"}),
        (("mlx", "history", "best", "--me"), {"--metric"}),
        (("mlx", "history", "best", "--goal", "m"), {"minimize", "maximize"}),
        (("mlx", "history", "show", ""), {RUN}),
        (("mlx", "history", "list", "--experiment", "tu"), {"tune-a"}),
        (("mlx", "history", "show", "--output-dir", "nowhere", ""), set()),
        (("mlx", "history", "best", "--metric", ""), {"loss", "val_loss"}),
        (("mlx", "history", "best", "--experiment", "tune-a", "--metric", "v"), {"val_loss"}),
        (("mlx", "history", "best", "--experiment", "other", "--metric", ""), set()),
        (("mlx", "schema", ""), {"protocol", "experiment", "sweep"}),
        (("mlx", "schema", "ex"), {"experiment"}),
        (("mlx", "completion", ""), {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_the_words(shell_home: Path, words: tuple[str, ...], expected: set[str]) -> None:
    line = " ".join(f"'{word}'" for word in words)
    script = (
        f'eval "$(mlx completion bash)"\ncomplete -p mlx >/dev/null || exit 9\nCOMP_WORDS=({line})\n'
        f'COMP_CWORD={len(words) - 1}\n_mlx_completion mlx "{words[-1]}" "{words[-2]}"\nprintf "%s\\n" "${{COMPREPLY[@]}}"\n'
    )

    answer = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True)

    assert (answer.returncode, answer.stderr) == (0, "")
    assert set(answer.stdout.split()) == expected


def test_zsh_and_fish_are_answered_in_their_own_protocols(shell_home: Path) -> None:
    zsh = asked("zsh", "mlx hist", 1)
    fish = subprocess.run(
        ["mlx"], capture_output=True, text=True,
        env={**os.environ, "_MLX_COMPLETE": "fish_complete", "COMP_WORDS": "mlx hist", "COMP_CWORD": "hist"},
    ).stdout  # fmt: skip

    assert zsh.splitlines()[:2] == ["plain", "history"]
    assert "history" in fish


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_asks_with_the_variable_that_mlx_answers_to(shell_home: Path, shell: str) -> None:
    script = subprocess.run(["mlx", "completion", shell], check=True, capture_output=True, text=True).stdout

    assert f"_MLX_COMPLETE={shell}_complete" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True).returncode == 0


def test_another_shell_is_refused_with_those_there_are(shell_home: Path) -> None:
    answer = subprocess.run(["mlx", "completion", "tcsh"], capture_output=True, text=True)

    assert answer.returncode == 2
    assert "'bash', 'zsh', 'fish'" in answer.stderr


def test_the_help_says_how_it_is_installed(shell_home: Path) -> None:
    said = subprocess.run(["mlx", "completion", "--help"], check=True, capture_output=True, text=True).stdout

    for name in (".bashrc", ".zshrc", "fish/completions"):
        assert name in said
