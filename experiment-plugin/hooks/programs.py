"""What the usual programs write, read off their arguments alone.

`targets` names the files that a program would write. A program that nobody here knows writes none, as far as
can be told: `commands` then looks for the names of places that must stay as they are.
"""

from __future__ import annotations

import re

from shell import Word, plain, words_of

import scripts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Denied(Exception):
    """`args[0]`: why a command may not run, as a sentence."""


class Target:
    """A file that is written. `sources`: when it is a folder, the files that are put into it."""

    def __init__(self, word: Word, sources: Sequence[Word] = ()) -> None:
        self.word = word
        self.sources = sources


# Programs that only read, write to their output, or touch no file at all.
READERS = words_of(""": [ [[ ack ag ack-grep b2sum base64 basename bc bg break cal cat cd cksum clear cmp column comm continue cut date
    df diff dirname du echo egrep exit expand export expr false fg fgrep file fmt fold for free grep head help hexdump
    history hostname id jobs join jq kill killall lscpu less let local declare ls lsof man md5sum more mlx nl nproc
    nvidia-smi od paste pgrep pkill popd pr printenv printf ps pushd pwd read readlink realpath return rev rg seq set
    sha1sum sha256sum sha512sum shasum shift sleep stat strings tac tail test top tr tree true tsort type ulimit umask
    uname unexpand unset uptime vm_stat wait wc whereis which who whoami yes zcat zegrep zfgrep zgrep""")
# Those of them that show no file's content.
NAMERS = words_of("[ [[ basename cd du echo file find ls mlx printf readlink realpath stat test tree wc")
# Programs that show or copy what stands in the files they are given.
SHOWERS = words_of("""ack ack-grep ag awk base64 cat cmp column comm cp cut diff egrep expand fgrep fmt fold gawk grep gsed head
    hexdump jq less mawk more nawk nl od paste pr rev rg sed sort strings tac tail tr uniq xxd zcat zegrep zfgrep zgrep""")
GREPS = words_of("egrep fgrep grep zegrep zfgrep zgrep")
SEARCHERS = GREPS | words_of("ack ack-grep ag cp diff rg rsync scp")
ALWAYS_SEARCH = words_of("ack ack-grep ag rg rsync")

# Programs whose every operand is written; the letters are their options that take a value.
_WRITERS = {
    "chattr": "", "dos2unix": "", "ed": "p", "emacs": "", "ex": "c", "fallocate": "lo", "link": "", "mkdir": "m",
    "mkfifo": "m", "mknod": "m", "mv": "S", "nano": "", "nvim": "c", "ln": "S", "patch": "pFVzBY", "rm": "", "rmdir": "",
    "shred": "ns", "sponge": "", "srm": "", "tee": "", "touch": "dtr", "trash": "", "truncate": "sr", "unlink": "",
    "unix2dos": "", "vi": "c", "vim": "c", "setfacl": "mxMX",
}  # fmt: skip
_AFTER_MODE = ("chgrp", "chmod", "chown")
_COPIERS = {"cp": "S", "ditto": "", "install": "gmoS", "rsync": "efT", "scp": "cFiJloPS"}
_PACKERS = ("bunzip2", "bzip2", "gunzip", "gzip", "unxz", "unzstd", "xz", "zstd")
_ALWAYS = ("7z", "cpio", "csplit", "parallel", "rename", "script", "split", "zip")


def split(args: Sequence[Word], valued: str = "", long_valued: Sequence[str] = ()) -> tuple[list[str], list[Word]]:
    """Options (with a blank and their value, where it is a word of its own) and operands."""
    options, operands, waiting = [], [], list(args)
    while waiting:
        word = waiting.pop(0)
        if word.text == "--":
            operands += waiting
            break
        if len(word.text) < 2 or word.text[0] != "-":
            operands.append(word)
            continue
        is_long = word.text.startswith("--")
        takes = word.text in long_valued if is_long else _ends_with_valued(word.text, valued)
        options.append(f"{word.text} {waiting.pop(0).text}" if takes and waiting else word.text)
    return options, operands


def _ends_with_valued(text: str, valued: str) -> bool:
    """Whether a cluster of short options ends with the first of its letters that takes a value."""
    places = [index for index, letter in enumerate(text) if index and letter in valued]
    return bool(places) and places[0] == len(text) - 1


def has_flag(options: Sequence[str], letters: str, *names: str) -> bool:
    """Whether an option is given: one of some letters in a cluster, or a long one or its beginning."""
    for option in options:
        text = option.partition(" ")[0].partition("=")[0]
        if text.startswith("--"):
            if len(text) > 3 and any(name.startswith(text) for name in names):
                return True
        elif any(letter in text for letter in letters):
            return True
    return False


def targets(name: str, args: Sequence[Word]) -> list[Target]:
    """The files that a program would write. Raises: Denied: it writes, and where can't be told."""
    if name in _WRITERS:
        return _each(split(args, _WRITERS[name])[1], name)
    if name in _AFTER_MODE:
        options, operands = split(args)
        return _each(operands if has_flag(options, "", "--reference") else operands[1:], name)
    if name in _COPIERS:
        return _copied(name, args)
    if name in _ALWAYS:
        raise Denied(f"{name} writes files whose names can't be told from the command.")
    rule = _RULES.get(name)
    return rule(args) if rule else []


def _each(operands: Sequence[Word], name: str) -> list[Target]:
    if not operands and name in ("patch", "ed", "ex", "vi", "vim"):
        raise Denied(f"{name} without a file's name writes files that can't be told from the command.")
    return [Target(word) for word in operands]


def _copied(name: str, args: Sequence[Word]) -> list[Target]:
    options, operands = split(args, _COPIERS[name] + "t", ("--target-directory",))
    if name == "install" and has_flag(options, "d", "--directory"):
        return [Target(word) for word in operands]
    given = [option for option in options if option.startswith(("-t", "--target-directory"))]
    if given:
        folder = re.split(r"[ =]|^-t", given[-1], maxsplit=1)[-1].strip()
        return [Target(plain(folder), operands)]
    more = [Target(word) for word in operands[:-1]] if has_flag(options, "", "--remove-source-files") else []
    return [*more, Target(operands[-1], operands[:-1])] if len(operands) > 1 else []


# ---- programs with rules of their own


def _dd(args: Sequence[Word]) -> list[Target]:
    return [Target(tail(word, "of=")) for word in args if word.text.startswith("of=")]


def tail(word: Word, head: str) -> Word:
    """A word without its beginning."""
    rest = plain(word.text[len(head) :])
    rest.expands, rest.globs = word.expands, word.globs
    return rest


def _sed_words(args: Sequence[Word]) -> tuple[list[str], list[Word]]:
    """The scripts, and the files that are worked on. Raises: Denied."""
    options, operands = split(args, "efl", ("--expression", "--file", "--line-length"))
    given = [option for option in options if re.match(r"-[a-zA-Z]*e|--expr", option)]
    if has_flag(options, "", "--file") or any(re.match(r"-[a-zA-Z]*f", o) for o in options if o[:2] != "--"):
        raise Denied("sed with a script from a file may write anything.")
    if _edits_in_place(options) and operands and not operands[0].text:  # macOS: -i takes a suffix as its own word
        operands = operands[1:]
    texts = given or [word.text for word in operands[:1]]
    return [re.sub(r"^(?:-[a-zA-Z]*?e|--\w+=?) ?", "", text) for text in texts], operands if given else operands[1:]


def _edits_in_place(options: Sequence[str]) -> list[str]:
    return [option for option in options if re.match(r"-[nErszu]*i", option) or option.startswith("--in")]


def _sed(args: Sequence[Word]) -> list[Target]:
    in_place = _edits_in_place(split(args, "efl", ("--expression", "--file", "--line-length"))[0])
    if not in_place:
        return []
    suffixes = {re.sub(r"^-[nErszu]*i|^--in\S*?(?:=|$)", "", option) for option in in_place}
    return [Target(_suffixed(word, suffix)) for word in _sed_words(args)[1] for suffix in {"", *suffixes}]


def script_reads(name: str, args: Sequence[Word]) -> list[str]:
    """The files that a script among the words reads. Raises: Denied: it may do more than print."""
    try:
        if name in ("sed", "gsed"):
            return scripts.read_by_sed("\n".join(_sed_words(args)[0]))
        return scripts.read_by_awk(_awk_script(args)) if name in _AWKS else []
    except scripts.Forbidden as error:
        raise Denied(
            f"This {name} script seems to write a file or to run a command ({error}). Let it print, and nothing else."
        ) from error


def _suffixed(word: Word, suffix: str) -> Word:
    changed = tail(word, "")
    changed.text += suffix
    return changed


_AWKS = ("awk", "gawk", "mawk", "nawk")


def _awk_script(args: Sequence[Word]) -> str:
    options, operands = split(args, "vFfi", ("--file", "--include", "--assign", "--field-separator"))
    if any(option.startswith(("-f", "-i", "--file", "--include")) for option in options):
        raise Denied("awk with a script or a library from a file may write anything.")
    return operands[0].text if operands else ""


def _packer(args: Sequence[Word]) -> list[Target]:
    options, operands = split(args, "S")
    return [] if has_flag(options, "clt", "--stdout", "--to-stdout", "--list", "--test") else _each(operands, "")


def _tar(args: Sequence[Word]) -> list[Target]:
    first = args[0].text if args else ""
    is_list = re.fullmatch(r"-?[tzjJvf]*t[zjJvf]*", first) or first == "--list"
    if not is_list or any(word.text.startswith(("--to-command", "--checkpoint", "-I", "--use")) for word in args):
        raise Denied("tar writes files whose names can't be told from the command; only tar -t may run.")
    return []


def _unzip(args: Sequence[Word]) -> list[Target]:
    if not has_flag(split(args)[0], "lptvZ"):
        raise Denied("unzip writes files whose names can't be told from the command; only unzip -l may run.")
    return []


_CURL_WRITES = (
    "--remote-name", "--remote-header-name", "--cookie-jar", "--dump-header", "--config", "--trace", "--etag-save",
    "--libcurl",
)  # fmt: skip


def _curl(args: Sequence[Word]) -> list[Target]:
    options, _ = split(args, "AbdeFHKmoruUwXxcDEtTPYyzCQ", ("--output",))
    written = [o for o in options if (re.match(r"-[a-zA-Z#]*o", o) and o[:2] != "--") or o.startswith("--output")]
    others = [o for o in options if re.match(r"-[a-zA-Z#]*[OcDKJ]", o.partition(" ")[0]) and o[:2] != "--"]
    if others or any(o.startswith(_CURL_WRITES) for o in options):
        raise Denied("curl would write a file. Let it print to its output.")
    names = [re.sub(r"^(?:-[a-zA-Z#]*?o|--output(?:-dir)?)[ =]?", "", option) for option in written]
    if any(name not in ("/dev/null", "-") for name in names):
        raise Denied("curl would write a file. Let it print to its output.")
    return []


def _wget(args: Sequence[Word]) -> list[Target]:
    text = " ".join(word.text for word in args)
    if not re.search(r"(?:^| )(?:-q?O ?-|--output-document=-)(?: |$)", text):
        raise Denied("wget would write a file. Let it print to its output: wget -qO- URL")
    return []


def _sort(args: Sequence[Word]) -> list[Target]:
    options, _ = split(args, "kotST", ("--output",))
    given = [o for o in options if re.match(r"-[a-zA-Z]*o|--o", o)]
    return [Target(plain(re.sub(r"^(?:-[a-zA-Z]*?o|--\w+)[ =]?", "", option))) for option in given]


def _second(args: Sequence[Word]) -> list[Target]:
    return [Target(word) for word in split(args, "fswcgols")[1][1:2]]


def _shuf(args: Sequence[Word]) -> list[Target]:
    options, _ = split(args, "oin", ("--output", "--input-range", "--head-count"))
    given = [o for o in options if re.match(r"-[a-zA-Z]*o|--o", o)]
    return [Target(plain(re.sub(r"^(?:-[a-zA-Z]*?o|--\w+)[ =]?", "", option))) for option in given]


def _ruff(args: Sequence[Word]) -> list[Target]:
    options, operands = split(args, "", ("--config", "--select", "--ignore", "--line-length"))
    action = operands[0].text if operands else ""
    if has_flag(options, "", "--diff", "--check") or action not in ("format", "check"):
        return []
    is_fixing = action == "format" or any(
        option.startswith(("--fix", "--unsafe-f", "--add-noqa")) for option in options
    )
    return _everything(operands[1:]) if is_fixing else []


def _formatter(args: Sequence[Word]) -> list[Target]:
    options, operands = split(args, "lt", ("--line-length", "--target-version", "--config", "--profile"))
    return [] if has_flag(options, "", "--diff", "--check", "--check-only", "--version") else _everything(operands)


def _everything(operands: Sequence[Word]) -> list[Target]:
    return [Target(word) for word in operands or [plain(".")]]


def _gh(args: Sequence[Word]) -> list[Target]:
    if [word.text for word in args[1:2]] not in (["list"], ["view"], ["status"]):
        raise Denied("gh may publish the session. Allowed: gh … list, view and status.")
    return []


def _find(args: Sequence[Word]) -> list[Target]:
    words = [word.text for word in args]
    if "-delete" in words:
        raise Denied("find -delete removes files whose names can't be told from the command.")
    return [Target(args[i + 1]) for i, word in enumerate(words[:-1]) if word.startswith(("-fprint", "-fls"))]


def _alias(args: Sequence[Word]) -> list[Target]:
    if any("=" in word.text for word in args):
        raise Denied("An alias would give a command another name. Type the command itself.")
    return []


def _yq(args: Sequence[Word]) -> list[Target]:
    options, operands = split(args)
    return [Target(word) for word in operands[1:]] if has_flag(options, "i", "--inplace") else []


_RULES: dict[str, Callable[[Sequence[Word]], list[Target]]] = {
    "alias": _alias, "black": _formatter, "bsdtar": _tar, "curl": _curl, "dd": _dd, "find": _find, "gfind": _find,
    "gh": _gh, "gsed": _sed, "isort": _formatter, "ruff": _ruff, "sed": _sed, "shuf": _shuf, "sort": _sort, "tar": _tar,
    "uniq": _second, "unzip": _unzip, "wget": _wget, "xxd": _second, "yq": _yq, **dict.fromkeys(_PACKERS, _packer),
}  # fmt: skip
KNOWN = READERS | {*_WRITERS, *_AFTER_MODE, *_COPIERS, *_ALWAYS, *_AWKS, *_RULES}
# A program that nobody knows may start another one, whose name then stands among its words.
STARTED = words_of("bash chmod cp dash dd eval git ln mv rm rmdir sed sh sudo tee touch truncate xargs zsh")
