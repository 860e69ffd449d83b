"""Candidates as git objects, made by plumbing: the index, HEAD and every other file of the user stay as they are.

No command here reads a working-tree file through git's filters, runs a hook, or starts a program named
in a configuration: files are read and written by this program, and git sees bytes only.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from autoexperiment import failpoint, git, index, worktree
from autoexperiment.errors import Refused
from autoexperiment.git import Git
from autoexperiment.index import Entry
from autoexperiment.worktree import blob_id

_FALLBACK_NAME, _FALLBACK_EMAIL = "autoexperiment", "autoexperiment@localhost"
_REGULAR = ("100644", "100755")
_FOLDER = "040000"
_DIFF = ("diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv", "--text", "--no-color")
_HUNK = re.compile(rb"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """A commit that differs from its base in the mutable files only."""

    commit: str
    tree: str


class Repository:
    """The git repository around a working tree whose top folder is `root`."""

    def __init__(self, root: Path) -> None:
        """Raises: Refused: `root` is not the top of a git working tree."""
        self.root = root
        self._git = Git(root)

    # ---- reading commits and refs

    def head_branch(self) -> str | None:
        """The branch that is checked out, or None when HEAD is detached."""
        return self._git.text("symbolic-ref", "--quiet", "--short", "HEAD", allowed=(0, 1)) or None

    def resolve(self, revision: str) -> str | None:
        """The commit that a revision names, or None."""
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        return self._git.text(*words, allowed=(0, 1, 128)) or None

    def branch_exists(self, name: str) -> bool:
        return self._git.run("show-ref", "--verify", "--quiet", f"refs/heads/{name}", allowed=(0, 1)).returncode == 0

    def pinned(self, prefix: str) -> dict[str, str]:
        """Refs below a prefix and the commits that they hold."""
        lines = self._git.text("for-each-ref", "--format=%(objectname) %(refname)", prefix).splitlines()
        return {ref: commit for commit, _, ref in (line.partition(" ") for line in lines)}

    def _head(self) -> str:
        head = self.resolve("HEAD")
        if head is None:
            raise Refused(f"{self.root} has no commit yet. Commit the recipe first: git add -A && git commit -m start")
        return head

    def _list(self, tree: str, paths: Sequence[str] = ()) -> dict[str, Entry]:
        """Entries of a tree, or those of these paths, wherever they lie."""
        found = {}
        words = ("--literal-pathspecs", "ls-tree", "-z", "--full-tree", tree, "--", *paths)
        for line in self._git.run(*words).stdout.split(b"\0")[:-1]:
            head, _, name = line.partition(b"\t")
            mode, _, blob = head.decode().split(" ")
            found[os.fsdecode(name)] = Entry(mode, blob)
        return found

    def _entries(self, commit: str, paths: Sequence[str]) -> dict[str, Entry]:
        """Mode and blob of regular files in a commit. Raises: Refused: one is missing or not regular."""
        found = self._list(commit, paths) if paths else {}
        for path in paths:
            _require_regular(found.get(path), path, commit)
        return found

    def files_at(self, commit: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of a commit's files. Raises: Refused: one is missing or not a regular file."""
        entries = self._entries(commit, paths)
        request = "".join(f"{entries[path].blob}\n" for path in paths).encode()
        answer = self._git.run("cat-file", "--batch", stdin=request).stdout if paths else b""
        contents, at = {}, 0
        for path in paths:
            line_end = answer.index(b"\n", at)
            head = answer[at:line_end].split(b" ")
            if len(head) != 3 or head[1] != b"blob":
                raise Refused(f"The bytes of {path} in commit {commit[:7]} are missing from the repository: git fsck")
            size = int(head[2])
            contents[path] = answer[line_end + 1 : line_end + 1 + size]
            at = line_end + size + 2
        return contents

    def changed_lines(self, base: str, commit: str, paths: Sequence[str]) -> tuple[int, int]:
        """Lines added and removed between two commits."""
        # Not --numstat: it counts nothing in a file that an attribute or a NUL byte makes binary.
        words = ("--literal-pathspecs", *_DIFF, "--unified=0", base, commit, "--", *paths)
        hunks = _HUNK.findall(self._git.run(*words).stdout)
        return sum(int(added or 1) for _, added in hunks), sum(int(removed or 1) for removed, _ in hunks)

    def diff(self, base: str, commit: str, paths: Sequence[str]) -> str:
        """A unified diff of the files between two commits; its text is the candidate's, so untrusted."""
        words = ("--literal-pathspecs", *_DIFF, "--patch", base, commit, "--", *paths)
        return self._git.run(*words).stdout.decode(errors="replace")

    # ---- reading the working tree

    def read_files(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of working-tree files, never through a link.

        Raises: Refused: missing, a link (or under one), not a regular file, or above 5 MB.
        """
        return {path: worktree.read(self.root, path) for path in paths}

    def read_files_if_present(self, paths: Sequence[str]) -> dict[str, bytes]:
        """As `read_files`, but {} when one of them can't be read as a plain file."""
        try:
            return self.read_files(paths)
        except Refused:
            return {}

    def dirty(self, paths: Sequence[str]) -> list[str]:
        """Those paths whose working-tree or index bytes differ from HEAD's."""
        head, staged = self._entries(self._head(), paths), index.entries(self._git, paths) if paths else {}

        def differs(path: str) -> bool:
            content = self.read_files_if_present((path,)).get(path)
            is_staged = path not in staged or staged[path].entry != head[path]
            return content is None or is_staged or blob_id(content, like=head[path].blob) != head[path].blob

        return [path for path in paths if differs(path)]

    def other_changes(self, mutable: Sequence[str], *, views: Sequence[str] = ("results.tsv",)) -> list[str]:
        """Tracked files besides the mutable ones and the views that were changed, deleted or staged.

        Bytes are compared as they are. So a file of a repository with line-end conversion or another
        filter counts as changed once something touches it, even when `git status` would not list it.
        Submodules are not looked into.
        """
        skip = {*mutable, *views}
        words = ("diff-index", "--cached", "--name-only", "--no-renames", "-z", self._head(), "--")
        staged = {os.fsdecode(name) for name in self._git.run(*words).stdout.split(b"\0")[:-1]}
        known = {name: entry for name, entry in index.entries(self._git).items() if name not in skip}
        has_modes = self._settings.get("core.filemode") != "false"
        return sorted((staged - skip).union(index.changed_files(self._git, known, has_modes=has_modes)))

    @cached_property
    def _settings(self) -> dict[str, str]:
        """Settings of the user that matter here; read once."""
        words = ("config", "-z", "--get-regexp", r"^(user\.(name|email)|core\.filemode)$")
        pairs = self._git.run(*words, allowed=(0, 1)).stdout.decode(errors="replace").split("\0")[:-1]
        return {name: value for name, _, value in (pair.partition("\n") for pair in pairs)}

    # ---- making candidates

    def take(self, files: Mapping[str, bytes], *, base: str, message: str, when: datetime) -> Candidate:
        """Commit these bytes on top of `base`, under no ref yet. The same input gives the same commit.

        Raises: Refused: one of the files is not a regular file of `base`.
        """
        store = ("hash-object", "-w", "--no-filters", "--stdin")
        blobs = {path: self._git.text(*store, stdin=blob) for path, blob in files.items()}
        failpoint.reach("candidates.blobs_written")
        tree = self._tree_with(f"{base}^{{tree}}", blobs, folder="")
        failpoint.reach("candidates.tree_written")
        # A NUL would end the message for git, which refuses it.
        text = message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
        join = ("commit-tree", "--no-gpg-sign", tree, "-p", base)
        commit = self._git.text(*join, stdin=text, variables=self._identity(when))
        failpoint.reach("candidates.commit_written")
        return Candidate(commit, tree)

    def _tree_with(self, tree: str, blobs: Mapping[str, str], *, folder: str) -> str:
        """Name of a tree like `tree` in which these files, paths from here, have other bytes."""
        entries = self._list(tree)
        groups: dict[str, dict[str, str]] = {}
        for path, blob in blobs.items():
            name, _, rest = path.partition("/")
            groups.setdefault(name, {})[rest] = blob
        for name, below in groups.items():
            entry = entries.get(name)
            if "" in below:
                entries[name] = Entry(_require_regular(entry, folder + name, tree).mode, below[""])
            elif entry is not None and entry.mode == _FOLDER:
                entries[name] = Entry(_FOLDER, self._tree_with(entry.blob, below, folder=f"{folder}{name}/"))
            else:
                _require_regular(None, f"{folder}{name}/{next(iter(below))}", tree)
        return self._git.text("mktree", "-z", "--missing", stdin=b"".join(map(_tree_line, entries.items())))

    def _identity(self, when: datetime) -> dict[str, str]:
        """The user's name and address where git knows them, ours where not, and the given time."""
        name = os.environ.get("GIT_AUTHOR_NAME") or self._settings.get("user.name", "")
        email = os.environ.get("GIT_AUTHOR_EMAIL") or self._settings.get("user.email", "")
        who = {
            "NAME": name if any(map(str.isalnum, name)) else _FALLBACK_NAME,
            "EMAIL": email if any(map(str.isalnum, email)) else _FALLBACK_EMAIL,
            "DATE": f"{int(when.timestamp())} +0000",
        }
        return {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in who.items()}

    # ---- refs

    def pin(self, ref: str, commit: str) -> None:
        """Make a ref hold a commit; nothing happens when it does already. Raises: Refused: it holds another."""
        answer = self._git.run("update-ref", "--no-deref", ref, commit, "", allowed=(0, 1, 128))
        if answer.returncode == 0:
            return
        current = self.resolve(ref)
        if current is None:
            raise Refused(f"{ref} could not be made: {answer.stderr.decode(errors='replace').strip()[:300]}")
        if current != commit:
            raise Refused(f"{ref} holds {current[:7]} and not {commit[:7]}. Look at both: git show {current} {commit}")

    def replace_ref(self, ref: str, commit: str) -> None:
        """Make a ref of ours hold a commit, whatever it held."""
        self._git.run("update-ref", "--no-deref", ref, commit)

    def create_branch(self, name: str, commit: str) -> None:
        """Raises: Refused: the branch exists, or one stands where its folder would be."""
        if self.branch_exists(name):
            raise Refused(f"Branch {name} exists. Choose another tag, or remove it: git branch -D {shlex.quote(name)}")
        above = name.rpartition("/")[0]
        if above and self.branch_exists(above):
            raise Refused(
                f"Branch {above} exists, so git can't have {name} beside it. Rename it: "
                f"git branch -m {shlex.quote(above)} {shlex.quote(above)}-old"
            )
        self._git.run("update-ref", f"refs/heads/{name}", commit, "")

    def switch_to(self, branch: str) -> None:
        """Check out a branch that stands on HEAD's commit: only HEAD changes, no file does."""
        target = self.resolve(f"refs/heads/{branch}")
        if target is None or self.resolve("HEAD") != target:
            raise Refused(f"Branch {branch} is not where HEAD is. Go there yourself: git switch {shlex.quote(branch)}")
        reason = f"checkout: moving from {self.head_branch() or target} to {branch}"
        self._git.run("symbolic-ref", "-m", reason, "HEAD", f"refs/heads/{branch}")

    def advance(self, branch: str, new: str, old: str) -> None:
        """Move a branch from one commit to another; nothing happens when it is there already.

        Raises: Refused: somebody else moved it.
        """
        ref = f"refs/heads/{branch}"
        answer = self._git.run("update-ref", "-m", "autoexperiment: keep", ref, new, old, allowed=(0, 1, 128))
        current = new if answer.returncode == 0 else self.resolve(ref)
        if current == new:
            return
        if current != old:
            raise Refused(
                f"{branch} was moved to {(current or 'nothing')[:7]} by somebody else; the loop left it at {old[:7]}. "
                f"Put it back: git update-ref {ref} {old}"
            )
        raise Refused(f"{branch} could not be moved: {answer.stderr.decode(errors='replace').strip()[:300]}")

    def remove_stale_locks(self, *refs: str) -> None:
        """Remove lock files that a killed git left on refs of ours; only under the session's lock.

        Args: refs: full names; one that ends in `/` means all refs directly below it.
        """
        for ref in refs:
            folder = self._git.common / ref
            locks = folder.glob("*.lock") if ref.endswith("/") else [folder.with_name(folder.name + ".lock")]
            for lock in locks:
                lock.unlink(missing_ok=True)
        index.remove_own_lock(self._git)
        self._remove_stale_head_lock({b"", *(f"ref: {ref}\n".encode() for ref in refs)})

    def _remove_stale_head_lock(self, ours: set[bytes]) -> None:
        """Moving the branch that is checked out locks HEAD, too: empty, or naming the branch.

        Such a lock lives for milliseconds. One that stays the same for 5 seconds has lost its owner.
        """
        lock = self._git.folder / "HEAD.lock"
        deadline, first = time.monotonic() + git.LOCK_WAIT_S, _state(lock)
        if first is None or first[-1] not in ours:
            return
        while _state(lock) == first:
            if time.monotonic() >= deadline:
                lock.unlink(missing_ok=True)
            time.sleep(0.02)

    # ---- changing the working tree and its index

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write bytes into the working tree, whole or not at all, keeping each file's mode.

        A file that holds its bytes already is left alone. Raises: Refused: one lies under a link, or a
        folder stands in its place; nothing of that file was changed.
        """
        for path, blob in files.items():
            if self.read_files_if_present((path,)).get(path) != blob:
                worktree.write(self.root, path, blob, staging=self._git.own_folder / "file")

    def update_index(self, commit: str, paths: Sequence[str]) -> None:
        """Set the index entries of these files, and of no other, to those of a commit."""
        if not paths:
            return
        wanted, known = self._entries(commit, paths), index.entries(self._git, paths)
        stale = {path: entry for path, entry in wanted.items() if path not in known or known[path].entry != entry}
        if stale:
            index.set_entries(self._git, stale)


def _require_regular(entry: Entry | None, path: str, commit: str) -> Entry:
    if entry is None or entry.mode not in _REGULAR:
        quoted = shlex.quote(path)
        raise Refused(
            f"{path} is not a regular file in commit {commit.partition('^')[0][:7]}. "
            f"Add and commit it first: git add {quoted} && git commit -m {quoted}"
        )
    return entry


def _tree_line(item: tuple[str, Entry]) -> bytes:
    name, entry = item
    kind = {_FOLDER: "tree", index.SUBMODULE: "commit"}.get(entry.mode, "blob")
    return f"{entry.mode} {kind} {entry.blob}\t".encode() + os.fsencode(name) + b"\0"


def _state(lock: Path) -> tuple[int, int, bytes] | None:
    """What tells one lock file from the next, or None when there is none."""
    try:
        facts = lock.stat()
        return facts.st_ino, facts.st_mtime_ns, lock.read_bytes()[:200]
    except FileNotFoundError:
        return None
