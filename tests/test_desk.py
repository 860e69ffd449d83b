"""The desk: a copy to work in, of which only a candidate's bytes come back."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import standin

from autoexperiment import desk, session
from autoexperiment.session import Session


@pytest.fixture
def running(project: Path):  # type: ignore[no-untyped-def]
    """A session whose candidates hold train.py and extra/**, with a harness, a hold-out and an ignored folder."""
    (project / "score.py").write_text("HARNESS = 1\n")
    (project / "answers.csv").write_text("secret\n")
    (project / "link.md").symlink_to("notes.md")
    standin.git(project, "add", "score.py", "answers.csv", "link.md")
    standin.git(project, "commit", "-qm", "harness")
    recipe = replace(
        standin.RECIPE, mutable=("train.py", "extra/**"), immutable=("score.py",), hold_out=("answers.csv",)
    )
    with session.start(project, "mar5", replace(standin.PLAN, recipe=recipe)) as opened:
        yield opened


def test_desk_holds_what_is_committed_and_no_hold_out(running: Session) -> None:
    place = desk.lay_out(running)

    names = {str(path.relative_to(place)) for path in place.rglob("*")}
    assert names == {"train.py", "score.py", "notes.md", "link.md", ".gitignore"}
    assert not place.is_relative_to(running.project.root)


def test_untouched_desk_holds_the_incumbent(running: Session) -> None:
    desk.lay_out(running)

    found = desk.look(running)

    assert found == desk.Found({"train.py": standin.TRAIN.encode()})


def test_edit_and_new_file_of_the_surface_come_back(running: Session) -> None:
    place = desk.lay_out(running)
    (place / "train.py").write_text("VALUE = 1\n")
    (place / "extra/deep").mkdir(parents=True)
    (place / "extra/deep/a.py").write_text("A = 1\n")

    found = desk.look(running)

    assert found == desk.Found({"train.py": b"VALUE = 1\n", "extra/deep/a.py": b"A = 1\n"})
    assert (running.project.root / "train.py").read_text() == standin.TRAIN


def test_removed_mutable_file_is_no_longer_in_the_candidate(running: Session) -> None:
    place = desk.lay_out(running)
    (place / "train.py").unlink()

    assert desk.look(running) == desk.Found({})


def _change(place: Path) -> None:
    (place / "score.py").write_text("HARNESS = 2\n")


def _remove(place: Path) -> None:
    (place / "notes.md").unlink()


def _add(place: Path) -> None:
    (place / "helper.py").write_text("x = 1\n")


def _restore_hold_out(place: Path) -> None:
    (place / "answers.csv").write_text("guess\n")


def _retarget(place: Path) -> None:
    (place / "link.md").unlink()
    (place / "link.md").symlink_to("train.py")


def _link_train(place: Path) -> None:
    (place / "train.py").unlink()
    (place / "train.py").symlink_to("/etc/passwd")


def _pipe(place: Path) -> None:
    (place / "train.py").unlink()
    os.mkfifo(place / "train.py")


def _link_folder(place: Path) -> None:
    (place / "extra").symlink_to("/etc")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (_change, "score.py (changed)"),
        (_remove, "notes.md (removed)"),
        (_add, "helper.py (added)"),
        (_restore_hold_out, "answers.csv (added)"),
        (_retarget, "link.md (changed)"),
        (_link_train, "train.py is a link"),
        (_pipe, "train.py is not a regular file"),
        (_link_folder, "extra (added)"),
    ],
)
def test_anything_else_is_forbidden(running: Session, act, words: str) -> None:  # type: ignore[no-untyped-def]
    act(desk.lay_out(running))

    found = desk.look(running)

    assert found.forbidden == (words,)
    assert b"root:" not in b"".join(found.files.values())


def test_what_tools_drop_is_passed_over(running: Session) -> None:
    place = desk.lay_out(running)
    for name in (".cache/x", "__pycache__/train.cpython-311.pyc", "data/last_run.json", ".claude/settings.local.json"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("droppings\n")

    assert desk.look(running).forbidden == ()


def test_locked_folders_are_read_and_removed(running: Session) -> None:
    """Needs a user who is not root to turn red; root may do all."""
    place = desk.lay_out(running)
    (place / "extra").mkdir()
    (place / "extra/a.py").write_text("A = 1\n")
    (place / "extra").chmod(0o500)
    place.chmod(0o000)

    found = desk.look(running)
    desk.clear(running)

    assert found.files["extra/a.py"] == b"A = 1\n"
    assert not place.exists()


def test_desk_that_became_a_link_is_no_way_out(running: Session) -> None:
    place = desk.lay_out(running)
    place.rename(place.with_name("elsewhere"))
    place.symlink_to(running.project.root)

    found = desk.look(running)
    desk.clear(running)

    assert found == desk.Found({}, ("the folder itself (removed)",))
    assert (running.project.root / "train.py").exists() and not place.is_symlink()


def test_compiled_files_of_the_surface_are_no_candidate(running: Session) -> None:
    place = desk.lay_out(running)
    (place / "extra/__pycache__").mkdir(parents=True)
    (place / "extra/__pycache__/a.cpython-311.pyc").write_bytes(b"\0")

    assert desk.look(running) == desk.Found({"train.py": standin.TRAIN.encode()})


def test_names_reach_no_terminal_raw(running: Session) -> None:
    place = desk.lay_out(running)
    (place / "a\x1b]0;PWNED\x07\nmlx: all is well.txt").write_text("x")

    words = desk.describe(desk.look(running).forbidden)

    assert words.isprintable() and "all is well" in words


def test_new_desk_forgets_the_last_one(running: Session) -> None:
    place = desk.lay_out(running)
    (place / "train.py").write_text("broken(\n")
    (place / "left.py").write_text("x\n")

    desk.lay_out(running)

    assert desk.look(running) == desk.Found({"train.py": standin.TRAIN.encode()})


def test_many_forbidden_changes_are_named_in_part() -> None:
    words = desk.describe(tuple(f"f{i} (changed)" for i in range(10)))

    assert words.count("(changed)") == 8
    assert words.endswith("and 2 more")
