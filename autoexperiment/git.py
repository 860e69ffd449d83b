"""Running git so that it runs nothing else: no hook, filter, monitor, signer, helper or transport.

The working tree and its `.git` are writable by the code under test, and git starts programs that a
configuration names. Settings given here win over every file. Filters can't be switched off by a
setting, so callers never let git read or write a file of the working tree.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from autoexperiment.errors import Refused

LOCK_WAIT_S = 5.0  # git holds its lock files for milliseconds
COMPLAINT_CHARACTERS = 500
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.fsync=all",  # git's default leaves loose refs, and thereby kept candidates, to luck in a power cut
    "core.fsyncMethod=fsync",
    "gc.auto=0",
    "i18n.commitEncoding=UTF-8",
)
_COMMAND = ["git", *(word for setting in _SETTINGS for word in ("-c", setting))]
_VARIABLES = {
    "LC_ALL": "C",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_REPLACE_OBJECTS": "1",  # refs/replace/* would show other bytes under a commit's name
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_ALLOW_PROTOCOL": "none",  # a planted promisor remote would start a program for a missing object
}
# Set inside hooks and aliases, they would point git at another repository, index or object store.
_FOREIGN = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_PREFIX",
    "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_GRAFT_FILE",
    "GIT_SHALLOW_FILE", "GIT_REPLACE_REF_BASE", "GIT_EXTERNAL_DIFF", "GIT_DEFAULT_HASH",
    "GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS",
)  # fmt: skip


class Git:
    """Git on one working tree. Where its repository lies is looked up once, whatever `.git` says later.

    `folder` is this working tree's git folder, `common` the one that all worktrees share.
    """

    def __init__(self, root: Path) -> None:
        """Raises: Refused: not the top folder of a git repository, or git refuses it."""
        self.root = root
        self._place: dict[str, str] = {}
        if not (root / ".git").exists():
            raise Refused(
                f"{root} is not a git repository, and candidates are kept as commits. Make it one: "
                "git init && git add -A && git commit -m start"
            )
        places = self.text("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir").split("\n")
        self.folder, self.common = Path(places[0]), Path(places[-1])
        self._place = {"GIT_DIR": str(self.folder), "GIT_WORK_TREE": str(root)}
        if self.folder != self.common:
            self._place["GIT_COMMON_DIR"] = str(self.common)

    @property
    def own_folder(self) -> Path:
        """A folder of ours beside git's files: on the same disk, and never seen by `git status`."""
        folder = self.folder / "autoexperiment"
        folder.mkdir(exist_ok=True)
        return folder

    def run(
        self,
        *words: str,
        stdin: bytes = b"",
        variables: Mapping[str, str] | None = None,
        allowed: Sequence[int] = (0,),
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one command.

        Args: cwd: the working tree for this command, in place of the real one.
        Raises: Refused: an exit status that is not `allowed`; with git's complaint.
        """
        inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        environment = {**inherited, **_VARIABLES, **self._place, **(variables or {})}
        if cwd is not None:
            environment["GIT_WORK_TREE"] = str(cwd)
        try:
            answer = subprocess.run(
                [*_COMMAND, *words], cwd=cwd or self.root, input=stdin, capture_output=True, env=environment
            )
        except OSError as error:
            raise Refused(
                f"git could not be started in {self.root}: {error.strerror}. Needed: git 2.31 or newer, and the folder."
            ) from error
        if answer.returncode not in allowed:
            complaint = answer.stderr.decode(errors="replace").strip()[:COMPLAINT_CHARACTERS]
            raise Refused(f"git {words[0]} failed in {self.root}: {complaint}")
        return answer

    def text(
        self, *words: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)
    ) -> str:
        """As `run`; the output without its last newline."""
        answer = self.run(*words, stdin=stdin, variables=variables, allowed=allowed)
        return os.fsdecode(answer.stdout).removesuffix("\n")
