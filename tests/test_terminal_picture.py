"""The pictures of terminals in the documents come from a command that anybody can repeat."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "terminal_picture.py"


def picture(tmp_path: Path, *command: str) -> tuple[int, str, str]:
    """Exit code, the picture's source, and its text."""
    target = tmp_path / "out.svg"
    answer = subprocess.run([sys.executable, str(SCRIPT), str(target), "--", *command], capture_output=True, text=True)
    source = target.read_text()
    text = "\n".join("".join(node.itertext()) for node in ElementTree.fromstring(source).iter() if "text" in node.tag)
    return answer.returncode, source, text.replace("\xa0", " ")


def test_picture_shows_what_stays_on_the_screen_and_fetches_nothing(tmp_path: Path) -> None:
    code, source, text = picture(tmp_path, "printf", "run 1: 3 s\\r\\033[K\\033[32mkeep\\033[0m <b>&\\nfar out\\n")

    assert code == 0
    assert "keep" in text and "<b>&" in text and "far out" in text
    assert "run 1" not in text.split("\n", 2)[2]
    assert source.count("http") == 1  # the name of SVG itself


def test_command_sees_a_terminal_and_its_failure_is_told(tmp_path: Path) -> None:
    code, _, text = picture(tmp_path, "sh", "-c", "test -t 1 && echo terminal; exit 3")

    assert code == 1
    assert "terminal" in text


def test_missing_command_is_in_the_picture(tmp_path: Path) -> None:
    code, _, text = picture(tmp_path, "no-such-program")

    assert code == 1
    assert "no-such-program: No such file" in text
