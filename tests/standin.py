"""A stand-in project for tests of the loop: a recipe without MLX whose metric is a number in its own source.

`train.py` holds `VALUE = 2.0` and does what its `MODE` says; it reports like the real recipe does.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from autoexperiment.budget import Budget
from autoexperiment.recipe import REPORTED, Recipe
from autoexperiment.session import Plan
from autoexperiment.vocabulary import Goal

if TYPE_CHECKING:
    import pytest

TRAIN = """\
import json, os, sys, time
VALUE = 2.0  # bits per byte | search: 1.0..3.0
SPEED = 1000  # tokens per second | search: 500..2000 int
MODE = "fine"
if MODE == "crash":
    raise RuntimeError("planted failure")
if MODE == "hang":
    time.sleep(600)
if MODE == "nan":
    VALUE = float("nan")
os.makedirs("data", exist_ok=True)
json.dump({"training": {"avg_tok_sec": SPEED, "peak_memory_mb": 10.0, "total_steps": 5}}, open("data/last_run.json", "w"))
print("---")
print(f"val_bpb:          {VALUE:.6f}")
"""

RECIPE = Recipe(("{python}", "-I", "-S", "train.py"), ("train.py",), (), "val_bpb", Goal.MINIMIZE, REPORTED)
PLAN = Plan(Budget("steps", 5), RECIPE)


def git(root: Path, *words: str) -> str:
    """Run git in the project; returns its stdout without the final newline."""
    answer = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return answer.stdout.rstrip("\n")


def git_environment(home: Path) -> dict[str, str]:
    """Variables that make git the same for everybody: no global configuration, no identity but ours."""
    return {
        "HOME": str(home),
        "XDG_STATE_HOME": str(home / "state"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    }  # fmt: skip


def isolate(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """A home, a state folder and a git identity of a test's own, below a folder."""
    home = folder / "home"
    home.mkdir(parents=True)
    for name, value in git_environment(home).items():
        patch.setenv(name, value)


RECIPE_FILES = ("train.py", "prepare.py", "data_sources.py", "pyproject.toml", "protocol.json", "protocol.data.json")


def make_recipe(folder: Path, prepared: Path, patch: pytest.MonkeyPatch) -> Path:
    """A repository with this project's recipe and nothing else; the dataset is the one that is prepared already."""
    isolate(folder, patch)
    patch.setenv("AUTORESEARCH_CACHE", str(prepared.parent.parent))
    root = folder / "project"
    root.mkdir()
    for name in RECIPE_FILES:
        shutil.copy(Path(__file__).resolve().parent.parent / name, root / name)
    (root / ".gitignore").write_text("outputs/\ndata/\ninternal/\nresults.tsv\n__pycache__/\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "recipe")
    return root


def make_project(root: Path, *, train: str = TRAIN) -> Path:
    """A git repository with the stand-in recipe, one commit, and an untracked file that must survive."""
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    (root / "train.py").write_text(train)
    (root / "notes.md").write_text("tracked\n")
    (root / ".gitignore").write_text("outputs/\ndata/\ninternal/\nresults.tsv\n")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "recipe")
    (root / "mine.txt").write_text("untracked and precious\n")
    return root


def edit(root: Path, **changes: object) -> None:
    """Set constants of the stand-in's train.py."""
    text = (root / "train.py").read_text()
    for name, value in changes.items():
        lines = [f"{name} = {value!r}" if line.startswith(f"{name} = ") else line for line in text.split("\n")]
        text = "\n".join(lines)
    (root / "train.py").write_text(text)
