"""What clients that have rules for files are told they may edit."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoexperiment.agents import claude, opencode
from autoexperiment.agents.client import Task


def task(root: Path, *editable: str) -> Task:
    desk = root / "desk"
    for name in (
        "train.py",
        "prepare.py",
        "src/model.py",
        "src/deep/a.py",
        "src/eval/score.py",
        "docs/a.md",
        "odd[1].py",
    ):
        file = desk / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    return Task("p", desk, editable, root, is_fenced=True)


def test_claude_is_allowed_the_globs_and_denied_what_lies_beside_them(tmp_path: Path) -> None:
    made = claude.rules(task(tmp_path, "train.py", "src/*.py"))

    desk = tmp_path / "desk"
    assert made["allow"] == [f"Edit(/{desk}/train.py)", f"Edit(/{desk}/src/*.py)"]
    assert made["deny"] == [
        f"Edit(/{desk}/docs/**)",
        rf"Edit(/{desk}/odd\[1\].py)",
        f"Edit(/{desk}/prepare.py)",
        f"Edit(/{desk}/src/deep/a.py)",
        f"Edit(/{desk}/src/eval/score.py)",
    ]


@pytest.mark.parametrize("glob", ["src", "src/", "src/**"])
def test_nothing_below_an_editable_folder_is_denied_to_claude(tmp_path: Path, glob: str) -> None:
    denied = claude.rules(task(tmp_path, glob))["deny"]

    assert not [rule for rule in denied if "/src/" in rule]
    assert any("prepare.py" in rule for rule in denied)


def test_glob_that_reaches_everywhere_closes_no_folder_to_claude(tmp_path: Path) -> None:
    denied = claude.rules(task(tmp_path, "**/*.py"))["deny"]

    assert denied == [f"Edit(/{tmp_path / 'desk'}/docs/a.md)"]


def test_link_to_a_folder_is_denied_to_claude_and_not_followed(tmp_path: Path) -> None:
    wanted = task(tmp_path, "src/**")
    (wanted.desk / "src" / "link").symlink_to("/")
    (wanted.desk / "link").symlink_to(wanted.desk / "src")

    denied = claude.rules(wanted)["deny"]

    assert f"Edit(/{wanted.desk}/link)" in denied
    assert not [rule for rule in denied if "/link/" in rule]


def test_number_of_rules_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claude, "RULES_LIMIT", 2)

    assert len(claude.rules(task(tmp_path, "train.py"))["deny"]) == 2


def test_opencode_denies_all_but_the_globs_and_everything_that_runs_or_fetches(tmp_path: Path) -> None:
    made = opencode.permissions(task(tmp_path, "train.py", "src/**/*.py"))

    assert made["edit"] == {
        "*": "deny",
        "*desk/train.py": "allow", "*desk/train.py/*": "allow",
        "*desk/src/**.py": "allow", "*desk/src/**.py/*": "allow",
    }  # fmt: skip
    assert {name for name, rule in made.items() if rule == "deny"} >= {"bash", "webfetch", "task", "external_directory"}


def test_forbidden_files_below_a_mutable_glob_are_denied(tmp_path: Path) -> None:
    made = claude.rules(Task("p", tmp_path, ("models/**",), tmp_path, is_fenced=True, protected=("models/fixed.py",)))

    assert any(rule.endswith("/models/fixed.py)") for rule in made["deny"])
    assert any(rule.endswith("/models/**)") for rule in made["allow"])
