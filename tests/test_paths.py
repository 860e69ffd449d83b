from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path

import pytest
import standin

from autoexperiment.errors import UsageError
from autoexperiment.paths import ProjectPaths, SessionPaths, check_tag, find_root, repo_id


@pytest.mark.parametrize("tag", ["mar5", "a", "2026-11-21", "x_1.b-2", "a" * 64])
def test_plain_tags_are_allowed(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "-x",
        ".x",
        "x/y",
        "../x",
        "a..b",
        "x.lock",
        "x.",
        "HEAD",
        "head",
        "con",
        "A",
        "é",
        "x\n",
        "x\0",
        "a" * 65,
        "\u202ex",
    ],
)
def test_tags_that_would_break_a_branch_or_a_folder_are_refused(tag: str) -> None:
    with pytest.raises(UsageError, match="not usable as a branch"):
        check_tag(tag)


def test_root_is_the_top_of_the_working_tree(project: Path) -> None:
    (project / "a" / "b").mkdir(parents=True)

    assert find_root(project / "a" / "b") == project


def test_state_lies_outside_the_working_tree(project: Path) -> None:
    assert project not in ProjectPaths(project).state.parents


def test_identity_survives_reset_clean_and_a_move(project: Path) -> None:
    name = repo_id(project)
    standin.git(project, "reset", "-q", "--hard")
    standin.git(project, "clean", "-qfdx")
    moved = project.rename(project.with_name("moved"))

    assert repo_id(moved) == name
    assert repo_id(moved) == name


def test_copy_of_a_repository_gets_an_identity_of_its_own(project: Path) -> None:
    name = repo_id(project)
    copy = project.with_name("copy")
    shutil.copytree(project, copy)

    assert repo_id(copy) != name
    assert repo_id(copy) == repo_id(copy)
    assert repo_id(project) == name


def test_worktrees_of_one_repository_share_its_identity(project: Path) -> None:
    name = repo_id(project)
    standin.git(project, "worktree", "add", "-q", str(project.with_name("tree")), "-b", "other")

    assert repo_id(project.with_name("tree")) == name


def test_folder_without_git_has_an_identity_too(tmp_path: Path) -> None:
    assert repo_id(tmp_path) == repo_id(tmp_path)
    assert repo_id(tmp_path) != repo_id(tmp_path.parent)


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    session = SessionPaths(tmp_path / "state", tmp_path / "out")
    when = datetime(2026, 3, 5, 1, 2, 3)

    names = [session.new_run(when).folder.name for _ in range(3)]

    assert names == ["20260305_010203", "20260305_010203_2", "20260305_010203_3"]
