"""Any program as a headless agent: `command:'words'`.

The words are split as a shell does, and no shell is started. `{prompt}` in a word becomes the prompt, `{prompt_file}`
the path of a file with it; without either, that path is the last word. The program runs in the folder that it may
edit. What it prints at the end is taken as its last words. Exit codes: 0 done, 75 a usage limit, 77 not logged in,
anything else failed; a time in the last line, such as "resets 3pm" or "retry after 90 s", says when a limit ends.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autoexperiment.agents.client import Account, Start, Task, program
from autoexperiment.agents.trouble import Outcome
from autoexperiment.errors import UsageError

_PLACE = re.compile(r"\{prompt(?:_file)?\}")
FORM = "command:'my-agent --file {prompt_file}'"


@dataclass(frozen=True)
class Custom:
    """A program of the user's own.

    Attributes:
        words: the program's path, and its words with their placeholders.
    """

    words: Sequence[str]
    name: str
    login_hint: str = "Log in with the program itself."
    # 75 and 77: EX_TEMPFAIL and EX_NOPERM of sysexits.h
    exits: ClassVar[Mapping[int, Outcome]] = {0: Outcome.ENDED, 75: Outcome.USAGE_LIMIT, 77: Outcome.AUTH}

    def start(self, task: Task) -> Start:
        file = task.private / "prompt.md"
        file.write_text(task.prompt, encoding="utf-8")
        if not any(_PLACE.search(word) for word in self.words):
            return Start([*self.words, str(file)])
        return Start([_filled(word, task, file) for word in self.words])

    def read(self, line: bytes, account: Account) -> None:
        """Plain text: the last lines are kept."""
        account.hear(line, is_speech=True)


def make(text: str) -> Custom:
    """The agent that these words start. Raises: UsageError: they are no command. Refused: there is no such program."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"The agent's command {text!r} can't be split into words: {error}. Type: {FORM}") from error
    if not words:
        raise UsageError(f"The agent 'command:' names no program. Type: {FORM}")
    path = program(words[0], install="it is a program of your own; or give its path.")
    return Custom((path, *words[1:]), f"command:{words[0]}")


def _filled(word: str, task: Task, file: Path) -> str:
    """A word with its placeholders filled, once: what a prompt holds is not filled again."""
    return _PLACE.sub(lambda match: task.prompt if match[0] == "{prompt}" else str(file), word)
