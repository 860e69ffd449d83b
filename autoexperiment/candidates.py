"""Candidates as git objects, made by plumbing: the index, HEAD and every other file of the user stay as they are.

No command here reads a file through git's filters, runs a hook, or starts a program named in a
configuration: working-tree files are read and written by this module, and git sees bytes only.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from autoexperiment import failpoint
from autoexperiment.errors import Refused
from autoexperiment.files import write_atomic

MAX_FILE_BYTES = 5_000_000
INDEX_WAIT_S = 5.0
_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.fsync=all",
    "core.untrackedCache=false",
    "gc.auto=0",
)
_GIT = ["git", *(word for setting in _CONFIG for word in ("-c", setting))]
_FALLBACK_NAME, _FALLBACK_EMAIL = "autoexperiment", "autoexperiment@localhost"
_NO_COMMIT = "0" * 40


@dataclass(frozen=True)
class Candidate:
    """A commit that differs from its base in the mutable files only."""

    commit: str
    tree: str


@dataclass(frozen=True)
class _Entry:
    mode: str
    blob: str


def blob_id(content: bytes) -> str:
    """Git's name for these bytes, without any filter."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Repository:
    """The git repository around a working tree whose top folder is `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        if not (root / ".git").exists():
            raise Refused(
                f"{root} is not a git repository, and candidates are kept as commits. Make it one: "
                "git init && git add -A && git commit -m start"
            )

    # ---- running git

    def _run(
        self, *words: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None, allowed: Sequence[int] = (0,)
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            **os.environ,
            "LC_ALL": "C",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_TERMINAL_PROMPT": "0",
            **(variables or {}),
        }
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_EXTERNAL_DIFF"):
            environment.pop(name, None)
        answer = subprocess.run([*_GIT, *words], cwd=self.root, input=stdin, capture_output=True, env=environment)
        if answer.returncode not in allowed:
            complaint = answer.stderr.decode(errors="replace").strip()
            raise Refused(f"git {words[0]} failed in {self.root}: {complaint}")
        return answer

    def _text(self, *words: str, **options: object) -> str:
        return self._run(*words, **options).stdout.decode().rstrip("\n")  # type: ignore[arg-type]

    # ---- reading

    def head_branch(self) -> str | None:
        """The branch that is checked out, or None when HEAD is detached."""
        answer = self._run("symbolic-ref", "--quiet", "--short", "HEAD", allowed=(0, 1))
        return answer.stdout.decode().strip() or None

    def resolve(self, revision: str) -> str | None:
        """The commit that a revision names, or None."""
        answer = self._run(
            "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}", allowed=(0, 1, 128)
        )
        return answer.stdout.decode().strip() or None

    def branch_exists(self, name: str) -> bool:
        return self._run("show-ref", "--verify", "--quiet", f"refs/heads/{name}", allowed=(0, 1)).returncode == 0

    def pinned(self, prefix: str) -> dict[str, str]:
        """Refs below a prefix and the commits that they hold."""
        lines = self._text("for-each-ref", "--format=%(refname) %(objectname)", prefix).splitlines()
        return dict(line.rsplit(" ", 1) for line in lines)

    def _entries(self, commit: str, paths: Sequence[str]) -> dict[str, _Entry]:
        """Mode and blob of regular files in a commit. Raises: Refused: one is missing or not regular."""
        blob = (
            self._run("--literal-pathspecs", "ls-tree", "-z", "--full-tree", commit, "--", *paths).stdout
            if paths
            else b""
        )
        found = {}
        for line in blob.split(b"\0")[:-1]:
            head, _, name = line.partition(b"\t")
            mode, _, content = head.decode().split(" ")
            found[os.fsdecode(name)] = _Entry(mode, content)
        for path in paths:
            if path not in found or found[path].mode not in ("100644", "100755"):
                raise Refused(
                    f"{path} is not a regular file in commit {commit[:7]}. Add and commit it first: git add {path} && git commit"
                )
        return found

    def files_at(self, commit: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of a commit's files. Raises: Refused: one is missing or not a regular file."""
        entries = self._entries(commit, paths)
        request = "".join(f"{entries[path].blob}\n" for path in paths).encode()
        answer = self._run("cat-file", "--batch", stdin=request).stdout if paths else b""
        contents, at = {}, 0
        for path in paths:
            line_end = answer.index(b"\n", at)
            size = int(answer[at:line_end].split(b" ")[2])
            contents[path] = answer[line_end + 1 : line_end + 1 + size]
            at = line_end + size + 2
        return contents

    def read_files(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of working-tree files, never through a link.

        Raises: Refused: missing, a link (or under one), not a regular file, or above 5 MB.
        """
        return {path: self._read(path) for path in paths}

    def _read(self, path: str) -> bytes:
        file = self.root / path
        try:
            if file.parent.resolve() != self.root.resolve() / Path(path).parent:
                raise Refused(
                    f"{path} lies under a link or outside {self.root}. Only plain files of the project can change."
                )
            fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            fault = "is a link" if file.is_symlink() else f"cannot be read ({error.strerror})"
            raise Refused(f"{path} {fault}. Put the file back: git restore -- {path}") from error
        with os.fdopen(fd, "rb") as opened:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode):
                raise Refused(f"{path} is not a regular file. Put it back: git restore -- {path}")
            if facts.st_size > MAX_FILE_BYTES:
                raise Refused(f"{path} has {facts.st_size} bytes; {MAX_FILE_BYTES} are allowed. Make it smaller.")
            return opened.read()

    def read_files_if_present(self, paths: Sequence[str]) -> dict[str, bytes]:
        """As `read_files`, but {} when one of them can't be read as a plain file."""
        try:
            return self.read_files(paths)
        except Refused:
            return {}

    def _index(self) -> dict[str, _Entry]:
        entries = {}
        for line in self._run("ls-files", "-s", "-z", "--full-name").stdout.split(b"\0")[:-1]:
            head, _, name = line.partition(b"\t")
            mode, blob, _ = head.decode().split(" ")
            entries[os.fsdecode(name)] = _Entry(mode, blob)
        return entries

    def _tree(self, commit: str) -> dict[str, _Entry]:
        entries = {}
        for line in self._run("ls-tree", "-r", "-z", "--full-tree", commit).stdout.split(b"\0")[:-1]:
            head, _, name = line.partition(b"\t")
            mode, _, blob = head.decode().split(" ")
            entries[os.fsdecode(name)] = _Entry(mode, blob)
        return entries

    def dirty(self, paths: Sequence[str]) -> list[str]:
        """Those paths whose working-tree or index bytes differ from HEAD's."""
        head, index = self._entries("HEAD", paths), self._index()
        current = {path: self.read_files_if_present((path,)).get(path) for path in paths}

        def differs(path: str) -> bool:
            content = current[path]
            return content is None or blob_id(content) != head[path].blob or index.get(path) != head[path]

        return [path for path in paths if differs(path)]

    def other_changes(self, mutable: Sequence[str], *, views: Sequence[str] = ("results.tsv",)) -> list[str]:
        """Tracked files besides the mutable ones and the views that were changed, deleted or staged.

        Bytes are compared as they are, without clean filters: with an end-of-line conversion in force a
        file whose status and size git trusts is skipped. Submodules are not looked into.
        """
        index, head = self._index(), self._tree("HEAD")
        skip = {*mutable, *views}
        names = sorted((index.keys() | head.keys()) - skip)
        touched = self._touched()
        return [
            name
            for name in names
            if index.get(name) != head.get(name) or (name in touched and self._differs(name, index[name]))
        ]

    def _touched(self) -> set[str]:
        """Files whose stat differs from what the index remembers: few, and found without reading any."""
        blob = self._run(
            "diff-files", "--name-only", "-z", "--no-ext-diff", "--no-textconv", "--ignore-submodules=all"
        ).stdout
        return {os.fsdecode(name) for name in blob.split(b"\0")[:-1]}

    def _differs(self, name: str, entry: _Entry) -> bool:
        file = self.root / name
        try:
            if entry.mode == "120000":
                return blob_id(os.fsencode(file.readlink())) != entry.blob
            facts = file.lstat()
            mode = "100755" if facts.st_mode & 0o100 else "100644"
            return not stat.S_ISREG(facts.st_mode) or mode != entry.mode or blob_id(file.read_bytes()) != entry.blob
        except OSError:
            return True

    def changed_lines(self, base: str, commit: str, paths: Sequence[str]) -> tuple[int, int]:
        """Lines added and removed between two commits."""
        added = removed = 0
        for line in self._diff_lines(base, commit, paths):
            added += line.startswith("+") and not line.startswith("+++ ")
            removed += line.startswith("-") and not line.startswith("--- ")
        return added, removed

    def diff(self, base: str, commit: str, paths: Sequence[str]) -> str:
        """A unified diff of the files between two commits."""
        return "\n".join(self._diff_lines(base, commit, paths))

    def _diff_lines(self, base: str, commit: str, paths: Sequence[str]) -> list[str]:
        old, new = self.files_at(base, paths), self.files_at(commit, paths)
        lines: list[str] = []
        for path in paths:
            before, after = (text.decode(errors="replace").split("\n") for text in (old[path], new[path]))
            lines += difflib.unified_diff(before, after, path, path, lineterm="")
        return lines

    # ---- making candidates

    def take(self, files: Mapping[str, bytes], *, base: str, message: str, when: datetime) -> Candidate:
        """Commit these bytes on top of `base`, under no ref yet. The same input gives the same commit."""
        entries = self._entries(base, list(files))
        names = {
            path: self._text("hash-object", "-w", "--no-filters", "--stdin", stdin=blob) for path, blob in files.items()
        }
        failpoint.reach("candidates.blobs_written")
        with tempfile.TemporaryDirectory(prefix="autoexperiment-") as folder:
            variables = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._run("read-tree", base, variables=variables)
            lines = b"".join(
                f"{entries[p].mode} {blob}\t".encode() + os.fsencode(p) + b"\0" for p, blob in names.items()
            )
            self._run("update-index", "-z", "--index-info", stdin=lines, variables=variables)
            tree = self._text("write-tree", variables=variables)
        failpoint.reach("candidates.tree_written")
        text = message.encode("utf-8", "replace")
        commit = self._text("commit-tree", tree, "-p", base, stdin=text, variables=self._identity(when))
        failpoint.reach("candidates.commit_written")
        return Candidate(commit, tree)

    def _identity(self, when: datetime) -> dict[str, str]:
        """The user's name and address where git knows them, ours where not, and the given time."""
        name = os.environ.get("GIT_AUTHOR_NAME") or self._setting("user.name") or _FALLBACK_NAME
        email = os.environ.get("GIT_AUTHOR_EMAIL") or self._setting("user.email") or _FALLBACK_EMAIL
        stamp = f"{int(when.timestamp())} +0000"
        who = {"NAME": name, "EMAIL": email, "DATE": stamp}
        return {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()}

    def _setting(self, key: str) -> str:
        return self._run("config", "--get", key, allowed=(0, 1)).stdout.decode().strip()

    # ---- refs

    def pin(self, ref: str, commit: str) -> None:
        """Make a ref hold a commit; nothing happens when it does already. Raises: Refused: it holds another."""
        if self.resolve(ref) != commit:
            self._run("update-ref", "--no-deref", ref, commit, _NO_COMMIT)

    def replace_ref(self, ref: str, commit: str) -> None:
        """Make a ref of ours hold a commit, whatever it held."""
        self._run("update-ref", "--no-deref", ref, commit)

    def create_branch(self, name: str, commit: str) -> None:
        """Raises: Refused: the branch exists."""
        if self.branch_exists(name):
            raise Refused(f"Branch {name} exists. Choose another tag, or remove it: git branch -D {name}")
        self._run("update-ref", f"refs/heads/{name}", commit, _NO_COMMIT)

    def switch_to(self, branch: str) -> None:
        """Check out a branch that stands on HEAD's commit: only HEAD changes, no file does."""
        if self.resolve("HEAD") != self.resolve(f"refs/heads/{branch}"):
            raise Refused(f"Branch {branch} is not where HEAD is. Go there yourself: git switch {branch}")
        before = self.head_branch() or self.resolve("HEAD")
        self._run("symbolic-ref", "-m", f"checkout: moving from {before} to {branch}", "HEAD", f"refs/heads/{branch}")

    def advance(self, branch: str, new: str, old: str) -> None:
        """Move a branch from one commit to another; nothing happens when it is there already.

        Raises: Refused: somebody else moved it.
        """
        ref = f"refs/heads/{branch}"
        current = self.resolve(ref)
        if current == new:
            return
        if current != old:
            raise Refused(
                f"{branch} was moved to {(current or 'nothing')[:7]} by somebody else; the loop left it at {old[:7]}. "
                f"Put it back: git update-ref {ref} {old}"
            )
        self._run("update-ref", "-m", "autoexperiment: keep", ref, new, old)

    def remove_stale_locks(self, *refs: str) -> None:
        """Remove lock files that a killed git left on refs of ours; only under the session's lock."""
        common = Path(self._text("rev-parse", "--path-format=absolute", "--git-common-dir"))
        for ref in refs:
            folder = common / ref
            locks = folder.glob("*.lock") if ref.endswith("/") else [folder.with_name(folder.name + ".lock")]
            for lock in locks:
                lock.unlink(missing_ok=True)

    # ---- the working tree and its index

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write bytes into the working tree, whole or not at all, keeping each file's mode."""
        for path, blob in files.items():
            if self.read_files_if_present((path,)).get(path) != blob:
                self._replace(self.root / path, blob)

    def _replace(self, file: Path, blob: bytes) -> None:
        mode = 0o644
        if file.is_symlink() or file.exists():
            facts = file.lstat()
            if stat.S_ISDIR(facts.st_mode):
                raise Refused(f"{file} is a folder now, and may hold something of yours. Move it away.")
            if stat.S_ISREG(facts.st_mode):
                mode = stat.S_IMODE(facts.st_mode)
        write_atomic(file, blob, mode=mode)
        file.chmod(mode)

    def update_index(self, commit: str, paths: Sequence[str]) -> None:
        """Set the index entries of these files, and of no other, to those of a commit."""
        wanted, index = self._entries(commit, paths), self._index()
        stale = {path: entry for path, entry in wanted.items() if index.get(path) != entry}
        if not stale:
            return
        self._wait_for_index()
        lines = b"".join(
            f"{entry.mode} {entry.blob}\t".encode() + os.fsencode(path) + b"\0" for path, entry in stale.items()
        )
        self._run("update-index", "-z", "--index-info", stdin=lines)

    def _wait_for_index(self) -> None:
        lock = Path(self._text("rev-parse", "--path-format=absolute", "--git-path", "index.lock"))
        deadline = time.monotonic() + INDEX_WAIT_S
        while lock.exists():
            if time.monotonic() >= deadline:
                raise Refused(
                    f"Another git command holds {lock}, or was killed. If no git is running, remove it and go on: rm {lock}"
                )
            time.sleep(0.05)
