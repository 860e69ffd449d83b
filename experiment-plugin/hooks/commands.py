"""What a shell command line would do to a session's files, judged before it runs.

The line is taken apart as text (`shell`). For every simple command in it, also inside substitutions, `sh -c`,
`xargs`, `find -exec` and the like, the files it writes must be ones an agent may change, and what it reads must
be neither held out nor a run's log.
"""

from __future__ import annotations

import os
import re
import shlex

import expansions
import gitwords
import interpreters
import places
import programs
import searches
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
_FOLDERS_LIMIT = 16
_FOLDER_PROGRAMS = frozenset(("mkdir", "rmdir"))
_PLAIN_TAIL = re.compile(r"\w[\w.-]*\.\w+")
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
    except expansions.TooMany as error:
        return f"{str(error)[:500]} stands for more files than can be looked at here. Name a narrower folder."
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
    """One pass over a line.

    Attributes:
        cwds: the folders it may be in at this point; None is one that nobody can tell.
        variables: every value that the line gives to a name, whether or not it got there yet.
    """

    def __init__(self, session: Active, line: str, cwds: Sequence[str | None]) -> None:
        self.session = session
        self.line = line
        self.cwds = list(cwds)
        self.variables: dict[str, list[str]] = {}

    def script(self, text: str) -> None:
        """Raises: Unparsable. Denied. expansions.TooMany."""
        found, outer = shell.parse(text), []
        for index, item in enumerate(found):
            if item == shell.OPEN:
                outer.append(list(self.cwds))
            elif item == shell.CLOSE:
                self.cwds = outer.pop()
            elif isinstance(item, Command):
                self._command(item)
                words = _without_wrapper(item.words)
                if words and words[0].text in ("cd", "pushd", "popd"):
                    self._move(words, is_certain=index == 0 and _goes_on(found[1:2]))

    def _inner(self, cwds: Sequence[str | None]) -> _Walk:
        walk = _Walk(self.session, self.line, cwds)
        walk.variables = self.variables
        return walk

    def _nested(self, text: str) -> list[str | None]:
        """Judge a script inside the line; returns the folders that it may end in."""
        walk = self._inner(self.cwds)
        walk.script(text)
        return walk.cwds

    def _move(self, words: Sequence[Word], *, is_certain: bool) -> None:
        operands = [word for word in words[1:] if word.text not in ("--", "-P", "-L")]
        place = operands[0] if operands else shell.plain("~")
        is_known = not place.text.startswith("-") and words[0].text != "popd"
        new = self._folders(place) if is_known else [None]
        is_sure = is_certain and all(path and os.path.isdir(path) for path in new)
        self._be_in(new if is_sure else [*self.cwds, *new])

    def _be_in(self, cwds: Sequence[str | None]) -> None:
        cwds = list(dict.fromkeys(cwds))
        self.cwds = cwds if len(cwds) <= _FOLDERS_LIMIT else [*cwds[:_FOLDERS_LIMIT], None]

    def _folders(self, word: Word) -> list[str | None]:
        found: list[str | None] = []
        for text in self._texts(word):
            if "$" in text and word.expands:
                return [None]
            for cwd in self.cwds:
                path = self._path(text, cwd)
                is_wild = path is not None and not word.is_plain and expansions.WILD.search(path)
                found += [match for match in self._matches(path or "") if os.path.isdir(match)] if is_wild else [path]
        return list(dict.fromkeys(found)) or [None]

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
            name, _, value = word.text.partition("=")
            self.variables.setdefault(name.rstrip("+"), []).append(value)
            self._may_read(word, "")

    def _redirection(self, operator: str, word: Word) -> None:
        if operator in (">&", "<&") and re.fullmatch(r"\d*-?", word.text):
            return
        if operator == "<":
            self._may_read(word, "")
            self._check_untold("cat", [word])
        elif operator != "<<<":
            self._may_write(programs.Target(word))

    # ---- programs

    def _program(self, words: Sequence[Word], command: Command) -> None:
        head, args = words[0], list(words[1:])
        if not head.is_plain or not head.text:
            raise Denied(f"Which program {head.text!r} is can't be told. Type its name.")
        name = os.path.basename(head.text)
        if _kind(name) == "unknown" and _kind(name.lower()) != "unknown":
            name = name.lower()  # where the file system takes no notice of case, it is the same program
        if name.startswith("git-"):
            name, args = "git", [shell.plain(name[4:]), *args]
        if name == "for" and len(args) > 2:
            self.variables.setdefault(args[0].text, []).extend(word.text for word in args[2:])
        for word in args:
            self._may_read(word, name)
        self._check_untold(name, args)
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
        if name in programs.NAMERS:
            return
        if _LOGS.search(self.line) or searches.lists_ignored(self.line):
            raise Denied("Runs' logs are untrusted text, and this may show one. Use: mlx loop show")
        if self._holds_out() and not re.search(r"\bg?find\b", self.line):
            raise Denied(f"What xargs hands to {name} may be held-out files. Type the names of the files.")

    def _holds_out(self) -> bool:
        return bool(self.session.handover["surface"]["hold_out"])

    def _run_git(self, _: str, args: list[Word], __: Command) -> None:
        call = gitwords.read(args, self.line)
        walk = self
        if call.folder is not None:
            folders = [self._path(call.folder.text, cwd) if call.folder.is_plain else None for cwd in self.cwds]
            walk = self._inner(folders)
        for word in call.args:
            walk._may_read(word, "git")
            walk._may_become_option(word)
        for word in call.restored:
            walk._may_restore(word)
        looks_everywhere = gitwords.looks_everywhere(call)
        if call.name == "grep" or looks_everywhere:
            walk._may_search(call.args, skips_ignored=not looks_everywhere)
        elif walk._holds_out() and gitwords.shows_history(call):
            walk._check_history(call)

    def _may_become_option(self, word: Word) -> None:
        if word.globs and word.text[:1] in "*?[{":
            names = [os.path.basename(path) for path in self._paths(word)]
            if any(name.startswith("-") for name in names):
                raise Denied(f"{word.text} stands for a file whose name begins with '-', an option to git. Write ./*")

    def _check_history(self, call: gitwords.Call) -> None:
        """Raises: Denied: it may print held-out files as they once were."""
        words = call.args
        start = next((i for i, word in enumerate(words) if word.text == "--"), None)
        before = [word for word in words[:start] if word.text[:1] != "-"]
        named = [word for word in before if self._is_file(word)]
        limits = words[start + 1 :] if start is not None else named
        if not limits or any(word.text[:1] == ":" for word in limits):
            raise Denied(
                f"git {call.name} may print held-out files of earlier commits. Name what you want to see: "
                f"git {call.name} … -- FILES"
            )
        self._may_search(limits, skips_ignored=True)

    def _is_file(self, word: Word) -> bool:
        paths = [path for cwd in self.cwds if (path := self._path(word.text, cwd))]
        return any(os.path.exists(path) or (word.globs and self._matches(path)) for path in paths)

    def _run_shell(self, name: str, args: list[Word], command: Command) -> None:
        operands = [word for word in args if word.text[:1] not in ("-", "+")]
        clusters = [word.text for word in args if word.text[:1] == "-" and word.text[:2] != "--"]
        if any("c" in cluster for cluster in clusters):
            if not operands or any(not word.is_plain for word in operands):
                raise Denied(f"What {name} -c would run can't be told. Type the commands themselves.")
            for word in operands:
                self._nested(word.text)
        elif [word.text for word in args] in (["--version"], ["--help"]):
            return
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
        if name == "trap":
            self._nested(args[0].text if args else "")
        else:
            self._be_in([*self.cwds, *self._nested(" ".join(word.text for word in args))])

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
        if call.codes:
            self._code(name, call.codes)
        elif call.is_input and not all(word.text in ("-v", "-V", "--version", "--help") for word in args or [Word()]):
            self._code(name, command.documents)

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
            changes = interpreters.changes_files(name, word.text)
            for text in interpreters.names_in(word.text):
                for cwd in self.cwds:
                    self._check_named(self._path(text, cwd), text, may_change=changes)
            for text in interpreters.written_in(word.text):
                self._may_write(programs.Target(shell.plain(text)))
            if interpreters.starts_programs(name, word.text):
                self._check_started(word.text)

    def _check_started(self, code: str) -> None:
        texts = interpreters.texts_in(code)
        if not texts:
            raise Denied("Which program this code starts can't be told. Type the command itself.")
        for group in texts:
            lines = [text for text in group if " " in text]
            for line in [*lines, " ".join(shlex.quote(text) for text in group)]:
                self._nested(line)

    def _check_named(self, path: str | None, text: str, *, may_change: bool) -> None:
        if path is None:
            raise Denied(f"Which file {text!r} is can't be told. Stay in the project's top folder.")
        fault = places.read_fault(self.session, path)
        if not fault and may_change and os.path.lexists(path):
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
        if starts or searches.feeds_a_reader(self.line):
            roots = args[: starts[0]] if starts else args
            self._may_search(roots, skips_ignored=searches.find_skips_logs(words))

    def _run_mlx(self, _: str, args: list[Word], __: Command) -> None:
        if [word.text for word in args[:2]] == ["protocol", "draft"]:
            raise Denied("A session's protocol is fixed. Draft another one when no session's branch is checked out.")

    def _run_known(self, name: str, args: list[Word], _: Command) -> None:
        for text in programs.script_reads(name, args):
            self._may_read(shell.plain(text), name)
        for target in programs.targets(name, args):
            self._may_write(target, is_folder=name in _FOLDER_PROGRAMS)
        if name in programs.SEARCHERS and searches.is_search(name, args):
            self._may_search(args, skips_ignored=searches.skips_logs(name, args))
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

    def _may_write(self, target: programs.Target, *, is_folder: bool = False) -> None:
        word = target.word
        if not word.is_plain or not word.text:
            raise Denied(f"Which file {word.text!r} becomes can't be told. Type the names of the files that change.")
        for cwd in self.cwds:
            path = self._path(word.text, cwd)
            if path is None:
                raise Denied(f"Where {word.text!r} would be written can't be told. Type its path from the top folder.")
            for written in _landing(path, target.sources):
                judge = places.folder_fault if is_folder else places.write_fault
                if fault := judge(self.session, written):
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

    def _check_untold(self, name: str, words: Sequence[Word]) -> None:
        """Raises: Denied: a program shows a file that nobody can tell, on a line that names what stays unread."""
        if name not in programs.SHOWERS:
            return
        operands = [word for word in words if word.text[:1] != "-"]
        for text in [text for word in operands for text in self._texts(word) if self._is_untold(word, text)]:
            folders = [folder.rstrip("/").rpartition("/")[2] for folder in self.session.handover["secret"]]
            if any(f"/{folder}" in text for folder in folders) or self._names_unread(text):
                raise Denied(
                    f"Which file {text} is can't be told, and this line names runs' logs or held-out files, which stay "
                    "unread. Type the file's name; a run's summary is shown by: mlx loop show"
                )

    def _is_untold(self, word: Word, text: str) -> bool:
        return (word.expands and "$" in text) or (None in self.cwds and not os.path.isabs(os.path.expanduser(text)))

    def _names_unread(self, text: str) -> bool:
        tail = text.rpartition("/")[2]
        is_plain = _PLAIN_TAIL.fullmatch(tail) and not tail.lower().endswith(".log")
        if _LOGS.search(self.line) and not is_plain:
            return True
        heads = [glob.split("/")[0] for glob in self.session.handover["surface"]["hold_out"]]
        return any(head and not expansions.WILD.search(head) and head in self.line for head in heads)

    def _texts(self, word: Word) -> list[str]:
        """What a word may become, its wildcards apart."""
        if word.is_plain:
            return [word.text]
        here = [cwd for cwd in self.cwds if cwd]
        texts = expansions.substituted(word.text, {**self.variables, **({"PWD": here} if here else {})})
        return [one for text in texts for one in expansions.unbraced(text)]

    def _paths(self, word: Word) -> list[str]:
        """Every file that a word may name: itself, what follows an '=', ':' or '@', and what its wildcards match."""
        texts = {part for text in [word.text, *self._texts(word)] for part in _parts(text)}
        named = [self._path(text, cwd) for text in sorted(texts - {""}) for cwd in self.cwds]
        found = [path for path in named if path is not None and "\0" not in path]
        if word.is_plain:
            return found
        return [*found, *(match for path in found if expansions.WILD.search(path) for match in self._matches(path))]

    def _matches(self, path: str) -> list[str]:
        return expansions.matches(path, self.session.root)


def _parts(text: str) -> list[str]:
    behind = [text.partition(sign)[2] for sign in "=:@"]
    return [text, *behind, text[2:]] if text[:1] == "-" and "/" in text else [text, *behind]


def _without_wrapper(words: Sequence[Word]) -> Sequence[Word]:
    start = next((i for i, word in enumerate(words) if word.text not in ("command", "builtin", "--")), len(words))
    return words[start:]


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
