"""The documents tell the truth: links resolve, commands exist, versions agree, nothing names this machine."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from autoexperiment import __version__
from autoexperiment.cli import mlx

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "references").glob("**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)")
COMMAND = re.compile(r"(?:^|[`$ ])mlx((?: [a-z][a-z-]*)+)", re.MULTILINE)


def words_of(group: click.Command, words: list[str]) -> bool:
    """Whether the words lead to a command; words after a leaf are its arguments."""
    context = click.Context(group)
    for word in words:
        if not isinstance(group, click.Group):
            return True
        found = group.get_command(context, word)
        if found is None:
            return False
        group = found
    return True


def dead_links(page: Path, text: str) -> list[str]:
    return [target for target in LINK.findall(text) if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    assert not dead_links(page, page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    blocks = re.findall(r"^(?: {4}|\$ )(.*)$|`([^`\n]+)`", page.read_text(), re.MULTILINE)
    commands = [match for pair in blocks for text in pair for match in COMMAND.findall(text)]

    unknown = [words for words in commands if not words_of(mlx, words.split())]

    assert not unknown


def test_the_checkers_see_planted_faults() -> None:
    assert dead_links(ROOT / "README.md", "[x](no/such/file.md)") == ["no/such/file.md"]
    assert not words_of(mlx, ["loop", "fly"])
    assert words_of(mlx, ["loop", "run", "mar"])


def all_commands() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []

    def walk(name: str, command: click.Command) -> None:
        found.append((name, command))
        if isinstance(command, click.Group):
            context = click.Context(command)
            for word in command.list_commands(context):
                child = command.get_command(context, word)
                assert child is not None
                walk(f"{name} {word}", child)

    walk("mlx", mlx)
    return found


def test_every_command_has_help_and_is_documented() -> None:
    guide = "\n".join(page.read_text() for page in PAGES)
    commands = all_commands()

    assert len(commands) > 8
    for name, command in commands:
        assert command.help, f"{name} has no help"
        assert name in guide, f"{name} is in no document"


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {word for page in PAGES for word in re.findall(r"(?:^ {4}|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}

    assert named
    assert named <= targets


def test_version_is_in_one_place() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "autoexperiment", "--version"], capture_output=True, text=True, cwd=ROOT
    )

    assert answer.stdout.strip() == f"mlx, version {__version__}"
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_constraints_name_no_host_and_pin_everything() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]

    assert len(lines) > 20
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+( *;.*)?", line) for line in lines)
