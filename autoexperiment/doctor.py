"""What this machine is, how fast it computes, and what to type when something is missing."""

from __future__ import annotations

import math
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path

from autoexperiment import blas, machine

DISTRIBUTION = "autoexperiment"
LOW_GB, TOO_LOW_GB = 5.0, 0.5
LOW_MEMORY_GB = 4.0
# MLX's own BLAS gives 3 to 9 on one core, OpenBLAS at least 40.
SLOW_GFLOPS = 20.0
_REQUIREMENT = re.compile(r"""(?P<name>[A-Za-z0-9._-]+).*;.*extra\s*==\s*["'](?P<extra>[^"']+)["']""")
_FOREIGN = re.compile(r"""platform_system\s*==\s*["'](?P<system>[^"']+)["']""")


class Level(StrEnum):
    """How much a finding matters."""

    OK = "ok"
    WARNING = "warning"  # runs work, but slower or with less
    PROBLEM = "problem"  # a training run or the loop cannot work


@dataclass(frozen=True)
class Finding:
    """One fact. `advice` is what to type, empty when there is nothing to do."""

    name: str
    level: Level
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they are shown. `gflops` is None when MLX cannot be imported."""

    findings: tuple[Finding, ...]
    gflops: float | None

    @property
    def has_problem(self) -> bool:
        return any(finding.level == Level.PROBLEM for finding in self.findings)


def examine(folder: Path | None = None) -> Report:
    """Look at this machine; takes under two seconds.

    Args:
        folder: the project, whose disk and git identity count. None: the current directory.
    """
    place = folder or Path.cwd()
    device, gflops = _device()
    findings = [_python(), device, *_speed(gflops), _compiler(), _memory(), *_disks(place), *_git(place), *_extras()]
    return Report(tuple(findings), gflops)


def render(report: Report) -> str:
    """The report as a table for a person; the last line says whether training can run."""
    width = max(len(finding.name) for finding in report.findings)
    lines = []
    for finding in report.findings:
        lines.append(f"{finding.level:<8} {finding.name:<{width}}  {finding.value}")
        if finding.advice:
            lines.append(f"{'':<8} {'':<{width}}  -> {finding.advice}")
    levels = [finding.level for finding in report.findings]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    verdict = f"{problems} to solve before training" if problems else "training can run"
    return "\n".join([*lines, f"{verdict}; warnings: {warnings}"])


def _python() -> Finding:
    return Finding("python", Level.OK, f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def _install(extra: str) -> str:
    return f"pip install -e '.[{extra}]'"


def _device() -> tuple[Finding, float | None]:
    """The device and its measured speed."""
    try:
        import mlx.core as mx

        gflops = matmul_gflops()
    except (ImportError, RuntimeError) as error:
        advice = "pip install mlx" if sys.platform == "darwin" else _install("cpu") + ", or [cuda13] with an NVIDIA GPU"
        return Finding("mlx", Level.PROBLEM, f"cannot be used: {str(error).splitlines()[0]}", advice), None
    device = "gpu" if mx.default_device() == mx.gpu else "cpu"
    dtype = "bfloat16" if device == "gpu" else "float32"
    return Finding("mlx", Level.OK, f"{metadata.version('mlx')} on {device}, training in {dtype}"), gflops


def matmul_gflops(*, size: int = 768, clock: Callable[[], float] = time.perf_counter) -> float:
    """Speed of a float32 matrix product on the default device: the best of those that fit into 0.4 s."""
    import mlx.core as mx

    a, best, spent = mx.ones((size, size)), math.inf, 0.0
    mx.eval(a)
    while spent < 0.4:
        began = clock()
        mx.eval(a @ a)
        took = clock() - began
        best, spent = min(best, took), spent + took
    return 2 * size**3 / best / 1e9


def _speed(gflops: float | None) -> Iterator[Finding]:
    status = blas.loaded()
    text = f"{status.name} {status.version or ''}".strip()
    text += f", {status.threads} thread{'s' if status.threads != 1 else ''}" if status.threads else ""
    is_missing = sys.platform == "linux" and machine.device_class() == "cpu" and status.path is None
    advice = status.reason if is_missing else ""
    yield Finding("blas", Level.WARNING if is_missing else Level.OK, text, advice)
    if gflops is not None:
        slow = gflops < SLOW_GFLOPS
        hint = "training will be slow: see the line above, or the machine is busy" if slow else ""
        yield Finding("speed", Level.WARNING if slow else Level.OK, f"{gflops:,.0f} GFLOP/s in float32", hint)


def _compiler() -> Finding:
    found = shutil.which("g++")
    if found or sys.platform == "darwin":
        return Finding("compiler", Level.OK, found or "not needed with Metal")
    advice = "sudo apt-get install g++   (train.py runs without it, uncompiled)"
    return Finding("compiler", Level.WARNING, "g++ not found; mx.compile calls it on Linux", advice)


def _memory() -> Finding:
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    value = f"{total_gb:.0f} GB, {os.cpu_count()} cores"
    if total_gb < LOW_MEMORY_GB:
        return Finding("memory", Level.WARNING, value, "lower DEVICE_BATCH_SIZE in train.py when a run is killed")
    return Finding("memory", Level.OK, value)


def _disks(folder: Path) -> Iterator[Finding]:
    cache = Path(os.environ.get("AUTORESEARCH_CACHE") or Path.home() / ".cache" / "autoresearch")
    for name, path in (("cache disk", cache), ("outputs disk", folder / "outputs")):
        yield disk_finding(name, path, machine.free_bytes(path) / 2**30)


def disk_finding(name: str, path: Path, free_gb: float) -> Finding:
    """Whether this much free space is enough for a night of runs."""
    level = Level.PROBLEM if free_gb < TOO_LOW_GB else Level.WARNING if free_gb < LOW_GB else Level.OK
    advice = f"free some space: du -sh {path}" if level != Level.OK else ""
    return Finding(name, level, f"{free_gb:.1f} GB free for {path}", advice)


def _git(folder: Path) -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", Level.PROBLEM, "not found; the loop stores candidates with it", "install git")
        return
    answer = subprocess.run(["git", "var", "GIT_COMMITTER_IDENT"], cwd=folder, capture_output=True, text=True)
    if answer.returncode:
        advice = "git config --global user.name NAME; git config --global user.email ADDRESS"
        yield Finding("git", Level.WARNING, "no name and address for commits", advice)
    else:
        yield Finding("git", Level.OK, answer.stdout.rpartition(">")[0] + ">")


def _extras() -> Iterator[Finding]:
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield Finding("package", Level.WARNING, f"{DISTRIBUTION} is not installed", "pip install -e .")
        return
    for extra, missing in missing_extras(requirements).items():
        # the line `mlx` tells whether the backend works; dev is ours; nothing uses search yet
        if extra.startswith(("cpu", "cuda", "dev", "search")):
            continue
        if missing:
            yield Finding(f"extra {extra}", Level.WARNING, f"without {', '.join(missing)}", _install(extra))
        else:
            yield Finding(f"extra {extra}", Level.OK, "complete")


def missing_extras(requirements: list[str]) -> dict[str, list[str]]:
    """For each extra named in these requirement lines, its packages that are not installed here."""
    found: dict[str, list[str]] = {}
    for line in requirements:
        match, foreign = _REQUIREMENT.match(line), _FOREIGN.search(line)
        if match is None or (foreign and foreign["system"] != platform.system()):
            continue
        missing = found.setdefault(match["extra"], [])
        if not _is_installed(match["name"]):
            missing.append(match["name"])
    return found


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True
