"""Which git commands an agent may run while the loop owns branch, index and commits: those that only look."""

from __future__ import annotations

import re

from programs import Denied
from shell import Word, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_LOOKING = words_of("""annotate blame cat-file check-attr check-ignore cherry count-objects describe diff diff-files diff-index
    diff-tree for-each-ref grep help log ls-files ls-tree merge-base name-rev rev-list rev-parse shortlog show
    show-branch show-ref status var version whatchanged""")
_FLAGS = ("-p", "-P", "--no-pager", "--paginate", "--no-optional-locks", "--no-replace-objects", "--literal-pathspecs")
_HARMLESS_SETTING = re.compile(
    r"(?:color\.[a-z.]+=\w*|core\.quotepath=\w*|core\.pager=(?:cat|less)?|log\.\w+=\w*)", re.I
)
# Options that write a file or start a program; git takes their beginnings for them, too.
_ACTIVE_OPTIONS = ("--output", "--open-files-in-pager", "--ext-diff", "--textconv", "--filters")
_REASONS = {
    "push": "git push would publish the session.",
    "commit": "git commit would make commits beside the loop's own.",
    "checkout": "git checkout would leave the session's branch or overwrite files.",
    "switch": "git switch would leave the session's branch.",
    "reset": "git reset would move the session's branch or throw work away.",
    "clean": "git clean would delete files that nobody has a copy of.",
    "stash": "git stash would take the edit away from the working tree.",
}
_INSTEAD = (
    "The loop makes commits, keeps and takes back. Allowed: git status, diff, log, show and others that only look. "
    "Measure an edit with 'mlx loop step -m …', drop it with: mlx loop reset --save"
)


class Call:
    """A git command that may run: the folder it runs in ("" for the current one), its words, what it restores."""

    def __init__(self, name: str, args: Sequence[Word], folder: Word | None) -> None:
        self.name = name
        self.args = args
        self.folder = folder
        self.restored: list[Word] = []


def read(args: Sequence[Word]) -> Call:
    """Take git's words apart. Raises: Denied: it does more than look."""
    folder, rest = _globals(list(args))
    if not rest:
        return Call("", [], folder)
    call = Call(rest[0].text, rest[1:], folder)
    if not rest[0].is_plain:
        raise Denied(f"Which git command {rest[0].text!r} is can't be told. {_INSTEAD}")
    if call.name == "restore":
        call.restored = _restored(call.args)
    elif not (call.name in _LOOKING or _only_lists(call)):
        raise Denied(f"{_REASONS.get(call.name, f'git {call.name} does more than look.')} {_INSTEAD}")
    _check_options(call)
    return call


def _globals(words: list[Word]) -> tuple[Word | None, list[Word]]:
    """The folder of `-C`, and what follows the options of git itself."""
    folder = None
    while words and words[0].text.startswith("-"):
        option = words.pop(0)
        if option.text == "-C" and words and folder is None:
            folder = words.pop(0)
        elif option.text == "-c" and words:
            if not _HARMLESS_SETTING.fullmatch(words.pop(0).text):
                raise Denied(f"git -c with this setting may start programs or do what is not seen here. {_INSTEAD}")
        elif option.text in ("--version", "--help", "-h", "-v"):
            return folder, []
        elif option.text not in _FLAGS:
            raise Denied(f"git {option.text} points git at something else. {_INSTEAD}")
    return folder, words


# Commands that look when their first word is one of these; "" is no word at all.
_LISTING = {
    "bisect": ("log",),
    "notes": ("", "list", "show"),
    "reflog": ("", "show"),
    "remote": ("", "-v", "show", "get-url"),
    "stash": ("list", "show"),
    "submodule": ("status",),
    "worktree": ("list",),
}
_BRANCH_LISTS = words_of("-a -r -v -vv -l --all --remotes --list --show-current --verbose --no-color")
_CONFIG_SCOPES = words_of("--local --global --system --show-origin")
_CONFIG_LOOKS = words_of("--get --get-all --get-regexp --list -l get list")


def _only_lists(call: Call) -> bool:
    words = [word.text for word in call.args]
    options, others = [w for w in words if w[:1] == "-"], [w for w in words if w[:1] != "-"]
    if call.name == "branch":
        return _BRANCH_LISTS.issuperset(options) and (not others or bool({"-l", "--list"} & set(options)))
    if call.name == "tag":
        return {"-l", "--list", "-n"}.issuperset(options) and (not others or bool(options))
    if call.name == "config":
        asked = [word for word in words if word not in _CONFIG_SCOPES]
        return bool(asked) and asked[0] in _CONFIG_LOOKS
    if call.name == "symbolic-ref":
        return len(others) == 1 and {"-q", "--short", "--quiet"}.issuperset(options)
    return (words[0] if words else "") in _LISTING.get(call.name, ())


def _check_options(call: Call) -> None:
    """Raises: Denied: an option makes a looking command write a file or start a program."""
    for word in call.args:
        if word.text == "--":
            return
        text = word.text.partition("=")[0]
        is_active = len(text) > 4 and any(option.startswith(text) for option in _ACTIVE_OPTIONS)
        is_pager = call.name == "grep" and word.text.startswith("-O")
        if is_active or is_pager or not _is_known_word(word):
            raise Denied(f"git {call.name} {word.text} may write a file or start a program. {_INSTEAD}")


def _is_known_word(word: Word) -> bool:
    """Whether it can't turn into an option when the shell expands it."""
    return word.is_plain or not word.text.startswith(("$", "`", "*", "?", "[", "{"))


def _restored(args: Sequence[Word]) -> list[Word]:
    """The files that a git restore puts back from the last commit. Raises: Denied: from elsewhere, or not by name."""
    options = [word.text for word in args if word.text.startswith("-") and word.text != "--"]
    names = [word for word in args if not word.text.startswith("-")]
    fine = all(option in ("--staged", "--worktree", "-S", "-W", "-SW", "-WS") for option in options)
    if not names or not fine or any(not word.is_plain or word.text[:1] == ":" for word in names):
        raise Denied(f"git restore would overwrite files. {_INSTEAD}")
    return names
