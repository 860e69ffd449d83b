"""Sweeps of a workflow whose points wait while a file is there: what is killed meanwhile was killed in mid-trial."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import psutil

# What a point brings is its parameter squared plus its seed, so that every row is known beforehand.
SOURCE = """
import os, time
from dataclasses import dataclass
from autoexperiment.workflow import Step, Workflow

@dataclass
class Square:
    x: float = 1.0
    seed: int = 0

def say(context, text):
    with (context.root / "said.txt").open("a") as file:
        file.write(text + "\\n")

def square(config, inputs, context):
    say(context, f"begun {config.x:g} {os.getpid()}")
    while (context.root / "hold").exists():
        time.sleep(0.01)
    assert not (context.root / f"fail{config.x:g}").exists(), "told to fail"
    say(context, f"done {config.x:g} {os.getpid()}")
    return {"eval_results": {"task": {"value": config.x**2 + config.seed}}}

held = Workflow("held", (Step("square", square, Square, {}, {"eval_results": dict}),), seed_path="square.seed")
"""
NAME = "squares"
PATIENCE_S = 60.0


def sweep_of(xs: list[int], **more: Any) -> dict[str, Any]:
    """A sweep of `mlx sweep run --config`; steps that were done before are done again, so that it can be counted."""
    return {
        "name": NAME, "work": "workflow:held:held", "options": {"use_cache": False}, "metric": "value", "goal": "minimize",
        "parameters": {"square.x": xs}, **more,
    }  # fmt: skip


class Held:
    """A workspace with the workflow in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "held.py").write_text(SOURCE)
        self._file = root / "hold"

    def hold(self) -> None:
        """Let points wait from now on."""
        self._file.touch()

    def release(self) -> None:
        self._file.unlink(missing_ok=True)

    def said(self, word: str) -> list[int]:
        """The x of the points that have begun, or are done, in the order in which they said so."""
        return [int(x) for what, x, _ in self._lines() if what == word]

    def pids(self) -> list[int]:
        """The processes of points that have begun."""
        return [int(pid) for what, _, pid in self._lines() if what == "begun"]

    def _lines(self) -> list[list[str]]:
        file = self.root / "said.txt"
        return [line.split() for line in file.read_text().splitlines()] if file.exists() else []

    def wait_for(self, word: str, count: int, *, of: subprocess.Popen[str] | None = None) -> None:
        """Args: of: the sweep, which must not end before."""

        def is_so() -> bool:
            assert of is None or of.poll() is None or len(self.said(word)) >= count, of.communicate()
            return len(self.said(word)) >= count

        wait_until(is_so, f"{count} points {word}")

    def check_gone(self) -> None:
        """No process of a point is left."""
        wait_until(lambda: not any(map(lives, self.pids())), "no process of a point")


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(is_so: Any, what: str) -> None:
    """Raises: AssertionError: it has not come in a time in which it surely should."""
    give_up_at = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < give_up_at, f"waited in vain for {what}"
        time.sleep(0.01)
