"""What a shell command line would do to a session's files, judged before it runs.

The line is taken apart as text (`shell`). For every simple command in it, also inside substitutions, `sh -c`,
`xargs`, `find -exec` and the like, the files it writes must be ones an agent may change, and what it reads must
be neither held out nor a run's log.
"""

from __future__ import annotations

import fnmatch
import glob
import itertools
import os
import re

import gitwords
import interpreters
import places
import programs
import shell
import wrappers
from programs import Denied
from shell import Command, Unparsable, Word

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from sessions import Active

_SHELLS = frozenset(("ash", "bash", "dash", "fish", "ksh", "sh", "zsh"))
# They would point git or the loop at other files than those that are judged here.
_RESERVED = re.compile(
    r"(?:GIT_(?!PAGER=(?:cat|less)?$)\w+|HOME|XDG_STATE_HOME|BASH_ENV|ENV|LD_PRELOAD|AUTOEXPERIMENT_\w+)\+?="
)
_EXPANSIONS_LIMIT = 2000
_LOGS = re.compile(r"\boutputs\b|\.log\b")


def line_fault(sessions: Sequence[Active], line: str, cwd: str) -> str:
    """Why a line may not run, or ""."""
    try:
        for session in sessions:
            _check_mentions(session, line)
            _Walk(session, line, [cwd]).script(line)
    except Unparsable as error:
        return (
            f"This command can't be judged: {error}. Allowed in a session are commands that can be taken apart as "
            "text. Type it in a simpler way, one step at a time."
        )
    except Denied as denied:
        return str(denied)
    return ""


def is_own(line: str) -> bool:
    """Whether a line is one plain call of the loop's own commands that neither starts a night nor undoes a stop."""
    try:
        found = shell.parse(line)
    except Unparsable:
        return False
    if len(found) != 1 or isinstance(found[0], str):
        return False
    command = found[0]
    is_alone = not (command.assignments or command.redirections or command.documents)
    words = [word.text for word in command.words]
    return is_alone and all(word.is_plain for word in command.words) and _is_own_call(words)


def _is_own_call(words: Sequence[str]) -> bool:
    if not words or words[0] != "mlx":
        return False
    if words[1:] in (["--version"], ["--help"]):
        return True
    group, name = words[1:2], words[2:3]
    if group == ["loop"]:
        is_reset = name == ["reset"] and not any(word.startswith("--b") for word in words)
        return is_reset or name in [[word] for word in ("step", "wait", "status", "log", "show", "stop", "report")]
    return group == ["doctor"] or (group == ["protocol"] and name in (["validate"], ["render"]))


def _check_mentions(session: Active, line: str) -> None:
    for folder in session.handover["secret"]:
        tail = "/".join(folder.rstrip("/").split("/")[-2:])
        if tail.lower() in line.lower() or os.path.realpath(folder) in line:
            raise Denied(f"{folder} is the hold-out, which stays unread. Use the verdicts: mlx loop log")


class _Walk:
    """One pass over a line. `cwds`: the folders it may be in at this point; None is one that nobody can tell."""

    def __init__(self, session: Active, line: str, cwds: Sequence[str | None]) -> None:
        self.session = session
        self.line = line
        self.cwds = list(cwds)

    def script(self, text: str) -> None:
        """Raises: Unparsable. Denied."""
        found, outer = shell.parse(text), []
        for index, item in enumerate(found):
            if item == shell.OPEN:
                outer.append(list(self.cwds))
            elif item == shell.CLOSE:
                self.cwds = outer.pop()
            elif isinstance(item, Command):
                self._command(item)
                if item.words and item.words[0].text in ("cd", "pushd", "popd"):
                    self._move(item, is_certain=index == 0 and _goes_on(found[1:2]))

    def _nested(self, text: str) -> None:
        _Walk(self.session, self.line, self.cwds).script(text)

    def _move(self, command: Command, *, is_certain: bool) -> None:
        words = [word for word in command.words[1:] if word.text not in ("--", "-P", "-L")]
        place = words[0] if words else shell.plain("~")
        known = place.is_plain and not place.text.startswith("-") and command.words[0].text != "popd"
        new = [self._path(place.text, cwd) if known else None for cwd in self.cwds]
        is_sure = is_certain and all(path and os.path.isdir(path) for path in new)
        self.cwds = new if is_sure else [*self.cwds, *(path for path in new if path not in self.cwds)]

    def _command(self, command: Command) -> None:
        for script in [script for word in command.all_words() for script in word.scripts]:
            self._nested(script)
        self._assignments(command.assignments)
        for operator, word in command.redirections:
            self._redirection(operator, word)
        if command.words:
            self._program(command.words, command)

    def _assignments(self, words: Sequence[Word]) -> None:
        for word in words:
            if _RESERVED.match(word.text):
                name = word.text.partition("=")[0]
                raise Denied(f"Setting {name} would point the command at other files. Run it without.")
            self._may_read(word, "")

    def _redirection(self, operator: str, word: Word) -> None:
        if operator in (">&", "<&") and re.fullmatch(r"\d*-?", word.text):
            return
        if operator == "<":
            self._may_read(word, "")
        elif operator != "<<<":
            self._may_write(programs.Target(word))

    # ---- programs

    def _program(self, words: Sequence[Word], command: Command) -> None:
        head, args = words[0], list(words[1:])
        if not head.is_plain or not head.text:
            raise Denied(f"Which program {head.text!r} is can't be told. Type its name.")
        name = os.path.basename(head.text)
        if name.startswith("git-"):
            name, args = "git", [shell.plain(name[4:]), *args]
        for word in args:
            self._may_read(word, name)
        rule = getattr(self, f"_run_{_kind(name)}")
        rule(name, args, command)

    def _run_wrapper(self, name: str, args: list[Word], command: Command) -> None:
        assignments, words = wrappers.inner(name, args)
        self._assignments(assignments)
        if name == "xargs":
            self._check_xargs(words)
        if words:
            self._program(words, command)

    def _check_xargs(self, words: Sequence[Word]) -> None:
        name = os.path.basename(words[0].text) if words else "echo"
        if name not in programs.READERS:
            raise Denied(f"What xargs hands to {name} can't be seen here. Type the names of the files.")
        if name not in programs.NAMERS and _LOGS.search(self.line):
            raise Denied("Runs' logs are untrusted text, and this may show one. Use: mlx loop show")

    def _run_git(self, _: str, args: list[Word], __: Command) -> None:
        call = gitwords.read(args)
        walk = self
        if call.folder is not None:
            folders = [self._path(call.folder.text, cwd) if call.folder.is_plain else None for cwd in self.cwds]
            walk = _Walk(self.session, self.line, folders)
        for word in call.args:
            walk._may_read(word, "git")
        for word in call.restored:
            walk._may_restore(word)
        if call.name == "grep":
            walk._may_search(call.args, skips_ignored=True)

    def _run_shell(self, name: str, args: list[Word], command: Command) -> None:
        operands = [word for word in args if word.text[:1] not in ("-", "+")]
        clusters = [word.text for word in args if word.text[:1] == "-" and word.text[:2] != "--"]
        if any("c" in cluster for cluster in clusters):
            if not operands or any(not word.is_plain for word in operands):
                raise Denied(f"What {name} -c would run can't be told. Type the commands themselves.")
            for word in operands:
                self._nested(word.text)
        elif not operands or any(word.scripts for word in operands) or any("s" in c for c in clusters):
            self._run_input(name, command)

    def _run_input(self, name: str, command: Command) -> None:
        texts = [*command.documents, *(word for operator, word in command.redirections if operator == "<<<")]
        if not texts or any(word.expands for word in texts):
            raise Denied(f"What {name} would read and run can't be seen here. Type the commands themselves.")
        for word in texts:
            self._nested(word.text)

    def _run_eval(self, name: str, args: list[Word], _: Command) -> None:
        if any(not word.is_plain for word in args):
            raise Denied(f"What {name} would run can't be told. Type the command itself.")
        if name == "source":
            return
        self._nested(args[0].text if name == "trap" and args else " ".join(word.text for word in args))

    def _run_python(self, name: str, args: list[Word], command: Command) -> None:
        kind, rest = interpreters.python_call(args)
        if kind == "code":
            self._code(name, rest[:1])
        elif kind == "input":
            self._code(name, [*command.documents, *(w for operator, w in command.redirections if operator == "<<<")])
        elif kind == "module" and rest[0].text == "autoexperiment":
            self._run_mlx("mlx", rest[1:], command)

    def _run_interpreter(self, name: str, args: list[Word], command: Command) -> None:
        call = interpreters.other_call(name, args)
        for word in call.edited:
            self._may_write(programs.Target(word))
        if call.is_inline:
            self._code(name, [*args, *command.documents])

    def _code(self, name: str, words: Sequence[Word]) -> None:
        """Judge a program in a word by the names in it. Raises: Denied."""
        if not words or any(word.expands for word in words):
            raise Denied(
                f"What {name} would run can't be seen here. Put it into a file that may change, or type it out."
            )
        for word in words:
            if "autoexperiment" in word.text:
                raise Denied(
                    "The loop's own modules are not for code typed on a command line. Use the command: mlx loop"
                )
            for text in interpreters.names_in(word.text):
                for cwd in self.cwds:
                    self._check_named(self._path(text, cwd), text)

    def _check_named(self, path: str | None, text: str) -> None:
        if path is None:
            raise Denied(f"Which file {text!r} is can't be told. Stay in the project's top folder.")
        fault = places.read_fault(self.session, path)
        if not fault and os.path.lexists(path):
            fault = places.write_fault(self.session, path)
        if fault:
            raise Denied(f"This code names {text}. {fault} To look at a file, use cat or the Read tool.")

    def _run_find(self, name: str, args: list[Word], command: Command) -> None:
        self._run_known(name, args, command)
        words = [word.text for word in args]
        starts = [i for i, word in enumerate(words) if word in ("-exec", "-execdir", "-ok", "-okdir")]
        for start in starts:
            ends = (i for i in range(start, len(words)) if words[i] in (";", "+"))
            inner = args[start + 1 : next(ends, len(words))]
            self._check_xargs(inner)
            self._program(inner, command)
        if starts:
            values = [words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-name", "-iname")]
            skips = any(not fnmatch.fnmatch(places.LOG, value) for value in values)
            self._may_search(args[: starts[0]], skips_ignored=skips)

    def _run_mlx(self, _: str, args: list[Word], __: Command) -> None:
        if [word.text for word in args[:2]] == ["protocol", "draft"]:
            raise Denied("A session's protocol is fixed. Draft another one when no session's branch is checked out.")

    def _run_known(self, name: str, args: list[Word], _: Command) -> None:
        for target in programs.targets(name, args):
            self._may_write(target)
        if name in programs.SEARCHERS and _is_search(name, args):
            self._may_search(args, skips_ignored=_skips_logs(name, args))
        if name in ("export", "declare", "local", "typeset", "readonly"):
            self._assignments([word for word in args if "=" in word.text])

    def _run_unknown(self, name: str, args: list[Word], command: Command) -> None:
        for word in args:
            for path in self._paths(word):
                if fault := places.leads_to_kept(self.session, path):
                    raise Denied(f"{name} is not known to read only. {fault}")
        starts = (i for i, word in enumerate(args) if os.path.basename(word.text) in programs.STARTED)
        if (start := next(starts, None)) is not None:
            self._program(args[start:], command)

    # ---- files

    def _path(self, text: str, cwd: str | None) -> str | None:
        text = os.path.expanduser(text)
        if os.path.isabs(text):
            return text
        return None if cwd is None else os.path.join(cwd, text)

    def _may_write(self, target: programs.Target) -> None:
        word = target.word
        if not word.is_plain or not word.text:
            raise Denied(f"Which file {word.text!r} becomes can't be told. Type the names of the files that change.")
        for cwd in self.cwds:
            path = self._path(word.text, cwd)
            if path is None:
                raise Denied(f"Where {word.text!r} would be written can't be told. Type its path from the top folder.")
            for written in _landing(path, target.sources):
                if fault := places.write_fault(self.session, written):
                    raise Denied(fault)

    def _may_restore(self, word: Word) -> None:
        for cwd in self.cwds:
            path = self._path(word.text, cwd) or ""
            if os.path.isdir(path) or not places.write_fault(self.session, path):
                raise Denied(
                    f"git restore would take the edit of {word.text} away. Allowed: files by name that may not change "
                    "anyway. Drop an edit with: mlx loop reset --save"
                )

    def _may_read(self, word: Word, name: str) -> None:
        for path in self._paths(word):
            if fault := places.read_fault(self.session, path, takes_logs=name in programs.NAMERS):
                raise Denied(fault)

    def _may_search(self, args: Sequence[Word], *, skips_ignored: bool) -> None:
        paths = [path for word in args if word.text[:1] != "-" for path in self._paths(word) if os.path.exists(path)]
        for path in paths or [cwd for cwd in self.cwds if cwd]:
            if fault := places.search_fault(self.session, path, skips_ignored=skips_ignored):
                raise Denied(fault)

    def _paths(self, word: Word) -> list[str]:
        """Every file that a word may name: itself, what follows an '=' or a ':', and what its wildcards match."""
        texts = {word.text, word.text.partition("=")[2], word.text.partition(":")[2]}
        if word.text[:1] == "-" and "/" in word.text:
            texts.add(word.text[2:])
        named = [self._path(text, cwd) for text in sorted(texts - {""}) for cwd in self.cwds]
        found = [path for path in named if path is not None and "\0" not in path]
        if not word.globs:
            return found
        matches = itertools.chain.from_iterable(glob.iglob(path, recursive=True) for path in found)
        return [*found, *itertools.islice(matches, _EXPANSIONS_LIMIT)]


def _goes_on(following: Sequence[Command | str]) -> bool:
    """Whether what follows a command runs in the same shell, after it."""
    return all(isinstance(item, Command) and item.before in ("&&", ";", "\n", "") for item in following)


_SPECIAL = {"git": "git", "find": "find", "gfind": "find", "mlx": "mlx"}
_SPECIAL.update(dict.fromkeys(("eval", "trap", "source", "."), "eval"))


def _kind(name: str) -> str:
    if name in _SPECIAL:
        return _SPECIAL[name]
    groups = (
        (wrappers.NAMES, "wrapper"),
        (_SHELLS, "shell"),
        (interpreters.OTHERS, "interpreter"),
        (programs.KNOWN, "known"),
    )
    found = next((kind for names, kind in groups if name in names), "")
    return found or ("python" if interpreters.PYTHON.fullmatch(name) else "unknown")


def _landing(path: str, sources: Sequence[Word]) -> list[str]:
    """The files that a program writes: a folder stands for what is put into it."""
    if sources and os.path.isdir(path):
        return [
            os.path.join(path, os.path.basename(word.text.rstrip("/")) if word.is_plain else "?") for word in sources
        ]
    return [path]


def _is_search(name: str, args: Sequence[Word]) -> bool:
    options = [word.text for word in args if word.text.startswith("-")]
    if name in programs.ALWAYS_SEARCH:
        return True
    letters = "rRa" if name in ("cp", "scp") else "rR"
    return programs.has_flag(options, letters, "--recursive", "--dereference-recursive", "--archive", "--directories")


def _skips_logs(name: str, args: Sequence[Word]) -> bool:
    options = [word.text for word in args if word.text.startswith("-")]
    if name in ("rg", "ag"):
        return not any(
            re.match(r"-[a-zA-Z]*u|--no-ignore|--unrestricted|-[a-zA-Z]*[aU]$", option) for option in options
        )
    for option in options:
        head, _, value = option.partition("=")
        value = value.strip("/")
        if head == "--exclude-dir" and value == places.OUTPUTS:
            return True
        if head == "--include" and value and not fnmatch.fnmatch(places.LOG, value):
            return True
    return False
