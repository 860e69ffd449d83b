"""Candidates as git objects, made by plumbing: the index, HEAD and every other file of the user stay as they are.

No command here reads a working-tree file through git's filters, runs a hook, or starts a program named
in a configuration: files are read and written by this program, and git sees bytes only.
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from autoexperiment import failpoint, git, index, trees, worktree
from autoexperiment.errors import Refused
from autoexperiment.files import write_atomic
from autoexperiment.git import Git
from autoexperiment.index import SUBMODULE, Entry, IndexEntry
from autoexperiment.worktree import blob_id

Surface = Callable[[str], bool]  # whether a path of the project, with forward slashes, is one of those meant

_FALLBACK_NAME, _FALLBACK_EMAIL = "autoexperiment", "autoexperiment@localhost"
_PLAIN, _EXECUTABLE = "100644", "100755"
_BRANCH_BYTES = 200  # a file of this name, and its lock, must fit on any disk
_DIFF = ("diff-tree", "-r", "--no-renames", "--no-ext-diff", "--no-textconv", "--text", "--no-color")
_HUNK = re.compile(rb"^@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@", re.MULTILINE)


@dataclass(frozen=True)
class Candidate:
    """A commit that differs from its base in the mutable surface only."""

    commit: str
    tree: str


def check_branch_name(name: str) -> str:
    """Why git takes no branch of this name, as a sentence, or ""."""
    is_text = not any(ord(sign) < 0x20 or 0xD800 <= ord(sign) <= 0xDFFF for sign in name)
    if not is_text or len(name.encode()) > _BRANCH_BYTES:
        return f"It holds a control character, half of a character, or more than {_BRANCH_BYTES} bytes."
    if name.startswith("-") or name == "@" or "@{" in name or not git.is_branch_name(name):
        return (
            "For git, a branch's name and its parts between slashes are not empty, start with neither '-' nor '.', end "
            "neither in '.' nor in '.lock', hold no '..', '@{', space or any of ~ ^ : ? * [ \\, and are not '@' or 'HEAD'."
        )
    return ""


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

    def tree_files(self, commit: str) -> dict[str, tuple[str, str]]:
        """Mode and blob of everything in a commit, by path: links and submodules, too."""
        return {path: (entry.mode, entry.blob) for path, entry in trees.listing(self._git, commit).items()}

    def files_at(self, commit: str, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of a commit's files. Raises: Refused: one is missing or not a regular file."""
        found = trees.listing(self._git, commit) if paths else {}
        return trees.contents(self._git, {path: _require_regular(found.get(path), path, commit) for path in paths})

    def surface_at(self, commit: str, surface: Surface) -> dict[str, bytes]:
        """The bytes of a commit's files in the surface. Raises: Refused: a link or a submodule lies in it."""
        return trees.contents(self._git, self._surface_of(trees.listing(self._git, commit), surface, commit))

    def _surface_of(self, found: Mapping[str, Entry], surface: Surface, commit: str) -> dict[str, Entry]:
        chosen = {path: entry for path, entry in found.items() if entry.mode != index.FOLDER and surface(path)}
        for path, entry in chosen.items():
            if not entry.is_regular:
                kind = "a submodule" if entry.mode == SUBMODULE else "a link"
                raise Refused(
                    f"{path} is {kind} in commit {commit[:7]}. Allowed among these files: regular ones. Commit the file "
                    "itself in its place, or leave it out by another glob."
                )
        return chosen

    def changed_files(self, base: str, commit: str) -> dict[str, str]:
        """Paths that differ between two commits: "A" added, "M" modified, "D" deleted."""
        words = ("diff-tree", "-r", "--no-renames", "--name-status", "-z", base, commit)
        fields = os.fsdecode(self._git.run(*words).stdout).split("\0")[:-1]
        return {path: "M" if what == "T" else what for what, path in zip(fields[::2], fields[1::2], strict=True)}

    def changed_lines(self, base: str, commit: str) -> tuple[int, int]:
        """Lines added and removed between two commits."""
        # Not --numstat: it counts nothing in a file that an attribute or a NUL byte makes binary.
        hunks = _HUNK.findall(self._git.run(*_DIFF, "--unified=0", base, commit).stdout)
        return sum(int(added or 1) for _, added in hunks), sum(int(removed or 1) for removed, _ in hunks)

    def diff(self, base: str, commit: str) -> str:
        """A unified diff between two commits; its text is the candidate's, so untrusted."""
        return self._git.run(*_DIFF, "--patch", base, commit).stdout.decode(errors="replace")

    def checkout(self, commit: str, folder: Path, *, skip: Surface) -> None:
        """Write a commit's files and links, but for those to `skip` and submodules, into a folder.

        What the folder holds already stays, unless it has the name of such a file.
        Raises: Refused: a link may lead out of the folder.
        """
        found = trees.listing(self._git, commit).items()
        trees.lay_out(self._git, {path: entry for path, entry in found if not skip(path)}, folder)

    # ---- reading the working tree

    def surface_in_tree(self, surface: Surface) -> dict[str, bytes]:
        """The bytes of the working tree's files in the surface, never through a link; ignored files are none.

        A file that a sparse checkout leaves out has the index's bytes.
        Raises: Refused: one is a link (or lies under one), no regular file, above 100 MB, or a repository of its own.
        """
        known, found, left_out = self._in_index(surface), {}, {}
        for path in {**known, **dict.fromkeys(self._untracked(surface))}:
            entry = known.get(path)
            if path.endswith("/") or (entry and entry.entry.mode == SUBMODULE):
                raise Refused(f"{path} is a repository of its own, and its files are out of reach. Move it away.")
            blob = worktree.read_if_present(self.root, path)
            if blob is not None:
                found[path] = blob
            elif entry and entry.is_left_out:
                left_out[path] = entry.entry
        return found | trees.contents(self._git, left_out)

    def surface_if_readable(self, surface: Surface) -> dict[str, bytes] | None:
        """As `surface_in_tree`, but None when it is refused."""
        try:
            return self.surface_in_tree(surface)
        except Refused:
            return None

    def _in_index(self, surface: Surface) -> dict[str, IndexEntry]:
        return {path: known for path, known in index.entries(self._git).items() if surface(path)}

    def _untracked(self, surface: Surface) -> list[str]:
        """As `untracked`; the folder of another repository ends in a slash."""
        return [path for path in index.untracked(self._git) if surface(path.removesuffix("/"))]

    def untracked(self, surface: Surface) -> list[str]:
        """Paths in the surface that are neither in the index nor ignored."""
        return sorted(path.removesuffix("/") for path in self._untracked(surface))

    def ignored(self, paths: Sequence[str]) -> set[str]:
        """Those of some paths that .gitignore and its like leave out, whether they exist or not."""
        words = ("check-ignore", "--no-index", "-z", "--stdin")
        given = b"".join(os.fsencode(path) + b"\0" for path in paths)
        answer = self._git.run(*words, stdin=given, allowed=(0, 1)).stdout if paths else b""
        return set(os.fsdecode(answer).split("\0")[:-1])

    def leave_out(self, patterns: Sequence[str]) -> None:
        """Have git ignore files in this clone alone, without a change of the project's own .gitignore."""
        file = self.root / self._git.text("rev-parse", "--git-path", "info/exclude")
        text = file.read_text() if file.exists() else ""
        if missing := [pattern for pattern in patterns if pattern not in text.splitlines()]:
            gap = "" if not text or text.endswith("\n") else "\n"
            write_atomic(file, text + gap + "".join(f"{pattern}\n" for pattern in missing))

    def dirty(self, surface: Surface) -> list[str]:
        """Paths in the surface whose working-tree or index bytes differ from HEAD's, new and deleted ones included."""
        head, known = self._head(), self._in_index(surface)
        committed = self._surface_of(trees.listing(self._git, head), surface, head)

        def differs(path: str) -> bool:
            staged, entry = known.get(path), committed.get(path)
            if staged is None or entry is None or staged.is_conflict or staged.entry != entry:
                return True
            return not self._holds(path, staged)

        return sorted(path for path in {*committed, *known, *self.untracked(surface)} if differs(path))

    def _holds(self, path: str, known: IndexEntry) -> bool:
        """Whether the working tree has the index's bytes, or does rightly without them."""
        try:
            blob = worktree.read_if_present(self.root, path)
        except Refused:
            return False
        return known.is_left_out if blob is None else blob_id(blob, like=known.entry.blob) == known.entry.blob

    def other_changes(self, surface: Surface, *, views: Sequence[str]) -> list[str]:
        """Tracked files outside the surface and the views that were changed, deleted or staged.

        Bytes are compared as they are. So a file of a repository with line-end conversion or another
        filter counts as changed once something touches it, even when `git status` would not list it.
        Submodules are not looked into.
        """

        def is_other(path: str) -> bool:
            return path not in views and not surface(path)

        words = ("diff-index", "--cached", "--name-only", "--no-renames", "-z", self._head(), "--")
        staged = filter(is_other, map(os.fsdecode, self._git.run(*words).stdout.split(b"\0")[:-1]))
        has_modes = self._settings.get("core.filemode") != "false"
        changed = index.changed_files(self._git, self._in_index(is_other), has_modes=has_modes)
        return sorted({*staged, *changed})

    @cached_property
    def _settings(self) -> dict[str, str]:
        """Settings of the user that matter here; read once."""
        words = ("config", "-z", "--get-regexp", r"^(user\.(name|email)|core\.filemode)$")
        pairs = self._git.run(*words, allowed=(0, 1)).stdout.decode(errors="replace").split("\0")[:-1]
        return {name: value for name, _, value in (pair.partition("\n") for pair in pairs)}

    # ---- making candidates

    def take(
        self, files: Mapping[str, bytes], *, base: str, surface: Surface, message: str, when: datetime
    ) -> Candidate:
        """Commit `base` with exactly these files as its surface, under no ref yet. The same input gives the same commit.

        A file of `base` keeps its mode; a new one is executable when it begins with `#!`.
        Raises: Refused: a file is not in the surface, or lies where `base` has a folder, a link or another file.
        """
        before = trees.listing(self._git, base, folders=True)
        old = self._surface_of(before, surface, base)
        _check_place(
            files, surface, [path for path, entry in before.items() if entry.mode != index.FOLDER and path not in old]
        )
        changes: dict[str, Entry | None] = dict.fromkeys(old)
        changes |= {path: self._stored(blob, old.get(path)) for path, blob in files.items()}
        failpoint.reach("candidates.blobs_written")
        tree = trees.replaced(self._git, before, changes)
        failpoint.reach("candidates.tree_written")
        # A NUL would end the message for git, which refuses it.
        text = message.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace")
        join = ("commit-tree", "--no-gpg-sign", tree, "-p", base)
        commit = self._git.text(*join, stdin=text, variables=self._identity(when))
        failpoint.reach("candidates.commit_written")
        return Candidate(commit, tree)

    def _stored(self, blob: bytes, old: Entry | None) -> Entry:
        """The entry of a file, whose bytes are in the repository then."""
        if old is not None and blob_id(blob, like=old.blob) == old.blob:
            return old
        name = self._git.text("hash-object", "-w", "--no-filters", "--stdin", stdin=blob)
        return Entry(old.mode if old else _new_mode(blob), name)

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

    def restore(self, files: Mapping[str, bytes], surface: Surface) -> None:
        """Make the working tree's surface exactly these files; ignored ones and other repositories stay.

        Folders that a removal leaves empty go, too. A file that the index does not know gets HEAD's mode.
        Raises: Refused: a file is not in the surface, lies under a link, or a folder with files is in its place.
        """
        _check_place(files, surface, ())
        known = self._in_index(surface)
        for path in sorted({*known, *self._untracked(surface)}.difference(files)):
            if not path.endswith("/"):
                worktree.remove(self.root, path)
        failpoint.reach("candidates.surface_removed")
        wanted = {path: blob for path, blob in files.items() if not self._is_left_out(known.get(path), path, blob)}
        self.write_files(wanted)
        self._settle_modes({path: blob for path, blob in wanted.items() if path not in known})

    def _is_left_out(self, known: IndexEntry | None, path: str, blob: bytes) -> bool:
        """Whether a sparse checkout does without this file, which has these bytes in the index."""
        if known is None or not known.is_left_out or worktree.is_present(self.root, path):
            return False
        return blob_id(blob, like=known.entry.blob) == known.entry.blob

    def _settle_modes(self, fresh: Mapping[str, bytes]) -> None:
        """Give files that the index does not know the executable bit that they have or get as a candidate's."""
        head = trees.listing(self._git, self._head()) if fresh else {}
        for path, blob in fresh.items():
            mode = head[path].mode if path in head else _new_mode(blob)
            worktree.set_executable(self.root, path, executable=mode == _EXECUTABLE)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write bytes into the working tree, whole or not at all, keeping each file's mode.

        A file that holds its bytes already is left alone; a missing one gets HEAD's mode. Raises: Refused:
        one lies under a link, or a folder with files is in its place; nothing of that file was changed.
        """
        stale = {path: blob for path, blob in files.items() if self._read(path) != blob}
        head = trees.listing(self._git, self._head()) if stale else {}
        for path, blob in stale.items():
            mode = head[path].mode if path in head else _new_mode(blob)
            new_mode = 0o755 if mode == _EXECUTABLE else 0o644
            worktree.write(self.root, path, blob, staging=self._git.own_folder / "file", new_mode=new_mode)

    def _read(self, path: str) -> bytes | None:
        try:
            return worktree.read(self.root, path)
        except Refused:
            return None

    def update_index(self, commit: str, surface: Surface) -> None:
        """Make the index's entries in the surface those of a commit; no other entry changes.

        Raises: Refused: another entry is in the way of one.
        """
        everything = index.entries(self._git)
        known = {path: entry for path, entry in everything.items() if surface(path)}
        wanted = self._surface_of(trees.listing(self._git, commit), surface, commit)
        changes = {path: index.removal(entry) for path, entry in known.items() if path not in wanted}
        changes |= {path: entry for path, entry in wanted.items() if not _has(known.get(path), entry)}
        if changes:
            _check_place(wanted, surface, everything.keys() - known.keys())
            index.set_entries(self._git, changes)


def _has(known: IndexEntry | None, entry: Entry) -> bool:
    return known is not None and known.entry == entry and not known.is_conflict


def _new_mode(blob: bytes) -> str:
    return _EXECUTABLE if blob.startswith(b"#!") else _PLAIN


def _check_place(files: Iterable[str], surface: Surface, others: Iterable[str]) -> None:
    """Raises: Refused: a file is none of the surface, or in the way of another one."""
    for path in files:
        worktree.check_path(path)
        if not surface(path):
            raise Refused(f"{path} is none of the files that may change. Leave it out, or put it where they are.")
    if stray := trees.clash(files, others):
        raise Refused(
            f"{stray} is a file where another one needs a folder, or lies below one. Allowed: a name for one of them. "
            f"Rename it, or commit the other one's removal first. See: git ls-files -- {shlex.quote(stray)}"
        )


def _require_regular(entry: Entry | None, path: str, commit: str) -> Entry:
    if entry is None or not entry.is_regular:
        quoted = shlex.quote(path)
        raise Refused(
            f"{path} is not a regular file in commit {commit.partition('^')[0][:7]}. "
            f"Add and commit it first: git add {quoted} && git commit -m {quoted}"
        )
    return entry


def _state(lock: Path) -> tuple[int, int, bytes] | None:
    """What tells one lock file from the next, or None when there is none."""
    try:
        facts = lock.stat()
        return facts.st_ino, facts.st_mtime_ns, lock.read_bytes()[:200]
    except FileNotFoundError:
        return None
