"""The throughput profile: one JSON object, shares of a whole, and the recipe's own step."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import pytest

bench = importlib.import_module("bench")


def test_profile_of_the_prepared_data(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(prepared))
    monkeypatch.setattr(bench.train, "COMPILE", bench.train.COMPILE)  # restored after the test

    assert bench.main(["--json", "--seconds", "0.01"]) == 0

    profile = json.loads(capsys.readouterr().out)
    assert [part["name"] for part in profile["parts"]] == ["data", "forward", "backward", "optimiser"]
    assert sum(part["share"] for part in profile["parts"]) == pytest.approx(1)
    assert all(profile[name] > 0 for name in ("peak_gflops", "plain_tok_sec", "eval_tok_sec", "mfu_percent"))
    assert (profile["compiled_tok_sec"] is None) == (shutil.which("g++") is None and not bench.train.IS_GPU)


def test_table_names_every_part() -> None:
    parts = (bench.Part("data", 1.0, 0.25), bench.Part("forward", 3.0, 0.75))
    profile = bench.Profile("cpu", "OpenBLAS 1", 100.0, 2000.0, None, 4000.0, 12.34, parts)

    table = bench.render(profile)

    assert "2,000 tok/s" in table and "no compiler found" in table and "12.3 %" in table
    assert table.splitlines()[-1].split() == ["forward", "3.0", "75.0%"]


def test_missing_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(tmp_path))

    assert bench.main([]) == 1

    assert "prepare.py" in capsys.readouterr().err


def test_median_ignores_the_first_call() -> None:
    calls: list[int] = []

    bench.median_s(lambda: calls.append(1), seconds=0.0, least=3)

    assert len(calls) == 4
