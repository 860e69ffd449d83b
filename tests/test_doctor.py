"""The doctor: each lack is named with what to type, and measured speed is the clock's."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autoexperiment import doctor
from autoexperiment.doctor import Finding, Level, Report
from autoexperiment.files import dump_json, load_json


def find(report: Report, name: str) -> Finding:
    return next(finding for finding in report.findings if finding.name == name)


@pytest.fixture
def no_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A git that knows nobody and does not guess from the host name."""
    for name in list(os.environ):
        if name.startswith(("GIT_", "EMAIL")):
            monkeypatch.delenv(name)
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "HOME": str(tmp_path)}
    settings |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.useConfigOnly", "GIT_CONFIG_VALUE_0": "true"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)


def test_report_is_strict_json(tmp_path: Path) -> None:
    report = doctor.examine(tmp_path)

    found = load_json(dump_json(dataclasses.asdict(report)))
    assert {"python", "mlx", "blas", "speed", "compiler", "memory", "cache disk", "outputs disk"} <= {
        finding["name"] for finding in found["findings"]
    }
    assert found["gflops"] > 0


def test_every_finding_that_is_not_ok_says_what_to_do(tmp_path: Path, no_identity: None) -> None:
    report = doctor.examine(tmp_path)

    assert all(finding.advice for finding in report.findings if finding.level != Level.OK)


def test_speed_is_work_over_the_best_time() -> None:
    ticks = iter([0.0, 0.3, 1.0, 1.1, 2.0, 2.2])  # 0.3 s, then 0.1 s: 0.4 s are spent

    gflops = doctor.matmul_gflops(size=100, clock=lambda: next(ticks))

    assert gflops == pytest.approx(2 * 100**3 / 0.1 / 1e9)


def test_missing_mlx_is_a_problem(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)

    report = doctor.examine(tmp_path)

    assert find(report, "mlx").level == Level.PROBLEM
    assert "pip install" in find(report, "mlx").advice
    assert report.has_problem
    assert report.gflops is None


def test_missing_programs_are_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    report = doctor.examine(tmp_path)

    assert find(report, "git").level == Level.PROBLEM
    if sys.platform == "linux":
        assert find(report, "compiler").level == Level.WARNING


def test_missing_git_identity_is_a_warning(no_identity: None, tmp_path: Path) -> None:
    finding = find(doctor.examine(tmp_path), "git")

    assert finding.level == Level.WARNING
    assert "user.email" in finding.advice


def test_git_identity_is_shown(no_identity: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIT_COMMITTER_NAME", "Ada")
    monkeypatch.setenv("GIT_COMMITTER_EMAIL", "ada@example.org")

    assert find(doctor.examine(tmp_path), "git") == Finding("git", Level.OK, "Ada <ada@example.org>")


@pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
def test_slow_blas_is_a_warning(tmp_path: Path) -> None:
    source = "from autoexperiment import doctor; print(doctor.render(doctor.examine()))"
    variables = {**os.environ, "AUTOEXPERIMENT_BLAS": "off"}

    answer = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, env=variables, capture_output=True, text=True)

    line = next(line for line in answer.stdout.splitlines() if " blas " in line)
    assert line.startswith("warning") and "MLX's own" in line


@pytest.mark.parametrize(
    ("free_gb", "level"), [(0.49, Level.PROBLEM), (0.5, Level.WARNING), (4.9, Level.WARNING), (5.0, Level.OK)]
)
def test_disk_levels(free_gb: float, level: Level, tmp_path: Path) -> None:
    assert doctor.disk_finding("disk", tmp_path, free_gb).level == level


def test_cache_disk_follows_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "elsewhere"))

    assert "elsewhere" in find(doctor.examine(tmp_path), "cache disk").value


def test_extras_list_what_is_not_installed_here() -> None:
    requirements = [
        "click>=8",
        "pytest>=8 ; extra == 'dev'",
        "surely-not-installed-here>=1 ; extra == 'gpt'",
        'numpy>=2; extra == "gpt"',
        "surely-not-installed-either; (platform_system == 'Plan9') and extra == 'gpt'",
    ]

    assert doctor.missing_extras(requirements) == {"dev": [], "gpt": ["surely-not-installed-here"]}


def test_last_line_tells_whether_training_can_run() -> None:
    good = Finding("disk", Level.OK, "10 GB")
    bad = Finding("mlx", Level.PROBLEM, "cannot be used", "pip install mlx")

    assert doctor.render(Report((good,), 1.0)).splitlines()[-1] == "training can run; warnings: 0"
    assert doctor.render(Report((good, bad), None)).splitlines()[-1] == "1 to solve before training; warnings: 0"
    assert "-> pip install mlx" in doctor.render(Report((good, bad), None))
