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


def read(args: Sequence[Word], line: str) -> Call:
    """Take git's words apart. Raises: Denied: it does more than look.

    Args: line: the whole command line, in which a word's value may stand.
    """
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
    _check_options(call, line)
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
_BRANCH_QUESTIONS = words_of("--merged --no-merged --contains --no-contains --sort --points-at --format")
_CONFIG_SCOPES = words_of("--local --global --system --show-origin")
_CONFIG_LOOKS = words_of("--get --get-all --get-regexp --list -l get list")


def _only_lists(call: Call) -> bool:
    words = [word.text for word in call.args]
    options, others = [w for w in words if w[:1] == "-"], [w for w in words if w[:1] != "-"]
    if call.name == "branch":
        looks = [w for w in options if w.partition("=")[0] in _BRANCH_QUESTIONS]
        rest = _BRANCH_LISTS.issuperset(set(options) - set(looks))
        return rest and (not others or bool(looks) or bool({"-l", "--list"} & set(options)))
    if call.name == "tag":
        return {"-l", "--list", "-n"}.issuperset(options) and (not others or bool(options))
    if call.name == "config":
        asked = [word for word in words if word not in _CONFIG_SCOPES]
        is_one_name = len(asked) == 1 and re.fullmatch(r"[a-zA-Z][\w-]*(?:\.[\w-]+)+", asked[0])
        return bool(asked) and (asked[0] in _CONFIG_LOOKS or bool(is_one_name))
    if call.name == "symbolic-ref":
        return len(others) == 1 and {"-q", "--short", "--quiet"}.issuperset(options)
    return (words[0] if words else "") in _LISTING.get(call.name, ())


def _check_options(call: Call, line: str) -> None:
    """Raises: Denied: an option makes a looking command write a file or start a program."""
    for word in call.args:
        if word.text == "--":
            return
        text = word.text.partition("=")[0]
        is_active = len(text) > 4 and any(option.startswith(text) for option in _ACTIVE_OPTIONS)
        is_pager = call.name == "grep" and word.text.startswith("-O")
        if is_active or is_pager or not _is_known_word(word, line):
            raise Denied(f"git {call.name} {word.text} may write a file or start a program. {_INSTEAD}")


_NAMES_AN_OPTION = re.compile(r"--(?:ou|op|ext|textc|filt)|(?<![\w-])-O", re.I)


def _is_known_word(word: Word, line: str) -> bool:
    """Whether it can't turn into an option of that kind when the shell expands it."""
    return not word.expands or word.text[:1] not in ("$", "`") or not _NAMES_AN_OPTION.search(line)


_PATCH = re.compile(
    r"-(?:[a-zA-Z]*[puWLc]|U\d*|L.*)|--(?:patch\S*|unified\S*|function-context|cc|word-diff\S*|color-words\S*)"
)
_NO_PATCH = re.compile(
    r"-s|--(?:no-patch|stat\S*|numstat|shortstat|summary|name-only|name-status|raw|quiet|dirstat\S*|check|compact-summary)"
)
_PATCHED = words_of("diff show")
_PATCHED_IF_ASKED = words_of("diff-files diff-index diff-tree log reflog stash whatchanged")
_OWN_REVISIONS = words_of("HEAD @ --cached --staged")


def shows_history(call: Call) -> bool:
    """Whether it prints the content of changes between commits, or of an object that has no name."""
    words = [word.text for word in call.args if word.text != "--"]
    is_asked = any(_PATCH.fullmatch(word) for word in words)
    if call.name == "cat-file":
        return not any(":" in word for word in words) and any(word in ("-p", "blob", "--batch") for word in words)
    if call.name in _PATCHED_IF_ASKED:
        return is_asked
    if call.name not in _PATCHED or (not is_asked and any(_NO_PATCH.fullmatch(word) for word in words)):
        return False
    named = [word for word in words if word[:1] != "-" and word not in _OWN_REVISIONS]
    return bool([word for word in named if ":" not in word[1:]]) or (call.name == "show" and not named)


def looks_everywhere(call: Call) -> bool:
    """Whether it looks into files that git does not know or leaves out."""
    return any(re.match(r"--no-in|--no-ex", word.text) for word in call.args)


def _restored(args: Sequence[Word]) -> list[Word]:
    """The files that a git restore puts back from the last commit. Raises: Denied: from elsewhere, or not by name."""
    options = [word.text for word in args if word.text.startswith("-") and word.text != "--"]
    names = [word for word in args if not word.text.startswith("-")]
    fine = all(option in ("--staged", "--worktree", "-S", "-W", "-SW", "-WS") for option in options)
    if not names or not fine or any(not word.is_plain or word.text[:1] == ":" for word in names):
        raise Denied(f"git restore would overwrite files. {_INSTEAD}")
    return names
