"""Where the training text comes from: the registry of datasets, and how each one is read.

Adding a dataset is one entry in `REGISTRY`. Nothing here is imported by a training run beyond the
specifications: the readers load their libraries when they are called.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

MAX_FILE_BYTES = 32 * 1024 * 1024  # a longer "text file" is nearly always a dump, and would be one split by itself
PIECE_CHARS = 4096  # a book in one file still has documents to split into train, val and hold-out


@dataclass(frozen=True)
class SourceFile:
    """One file of a corpus. `held`: all of it is kept for validation and hold-out, none for training."""

    name: str
    path: Path
    sha256: str
    size: int
    held: bool = False
    origin: str = "local"


@dataclass(frozen=True)
class Corpus:
    """A fixed list of files and the way to read them.

    `held_by_file`: the split is by file (`SourceFile.held`); otherwise it is by document.
    `skipped`: files that were found but are not text, too long or unreadable.
    """

    files: tuple[SourceFile, ...]
    read: Callable[[Path], Iterator[str]]
    held_by_file: bool = False
    skipped: int = 0

    def documents(self) -> Iterator[tuple[SourceFile, str]]:
        """Every non-empty document, files in order; held files come first, so a copy of a held document is seen."""
        for file in sorted(self.files, key=lambda f: not f.held):
            for text in self.read(file.path):
                if text:
                    yield file, text


@dataclass(frozen=True)
class Request:
    """What the user asked for. `cache` is the root of `~/.cache/autoresearch`; `say` prints one line."""

    cache: Path
    say: Callable[[str], None]
    path: Path | None = None
    num_shards: int | None = None


def sha256_file(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- text files ----------------------------------------------------------------------------------


def _as_text(blob: bytes) -> str | None:
    """The text, or None when it is not UTF-8 or holds a NUL."""
    try:
        return None if b"\0" in blob else blob.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _text_corpus(root: Path, paths: Iterable[Path], read: Callable[[Path], Iterator[str]]) -> Corpus:
    files, skipped = [], 0
    for path in paths:
        try:
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):  # asked before opening: a FIFO would block for ever
                continue
            blob = path.read_bytes() if info.st_size <= MAX_FILE_BYTES else b"\0"
        except OSError:
            skipped += 1
            continue
        if _as_text(blob) is None:
            skipped += 1
        elif blob:
            name = path.relative_to(root).as_posix()
            files.append(SourceFile(name, path, hashlib.sha256(blob).hexdigest(), len(blob)))
    files.sort(key=lambda file: file.sha256)  # so that a renamed file changes nothing
    return Corpus(tuple(files), read, skipped=skipped)


def _whole_file(path: Path) -> Iterator[str]:
    yield _as_text(path.read_bytes()) or ""


def pieces(text: str, *, chars: int = PIECE_CHARS) -> Iterator[str]:
    """Cut a text at line ends into documents of at least `chars` characters (the last may be shorter).

    Joined they are the text again. A line is never cut, however long.
    """
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= chars:
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)


def _file_in_pieces(path: Path) -> Iterator[str]:
    yield from pieces(_as_text(path.read_bytes()) or "")


@dataclass(frozen=True)
class StdlibSource:
    """The `.py` files of the running interpreter's standard library, one document each.

    Left out: its tests (different installations ship different parts of them), installed packages, and the
    files that describe the build of this interpreter.
    """

    not_folders: frozenset[str] = frozenset(
        {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    )

    def corpus(self, request: Request) -> Corpus:
        """Raises: Refused: this interpreter has no readable standard library (a zipped or frozen one)."""
        import sysconfig

        root = Path(sysconfig.get_path("stdlib"))
        found = _text_corpus(root, self._paths(root), _whole_file)
        if not found.files:
            from autoexperiment.errors import Refused

            raise Refused(
                f"The standard library in {root} holds no .py files. 'pystdlib' needs an interpreter with source "
                "files. Type: python prepare.py --dataset textdir --path FOLDER_WITH_TEXT"
            )
        return found

    def _paths(self, root: Path) -> Iterator[Path]:
        for folder, below, names in os.walk(root):
            below[:] = sorted(n for n in below if n not in self.not_folders and not n.startswith("config-"))
            for name in sorted(names):
                if name.endswith(".py") and not name.startswith(("_sysconfig", "sitecustomize")):
                    yield Path(folder, name)


@dataclass(frozen=True)
class FolderSource:
    """Every UTF-8 file below `--path`, cut into documents of a few thousand characters at line ends.

    Symbolic links are not followed, hidden files and folders are not read. Files that are not text or are
    longer than 32 MiB are skipped and counted.
    """

    def corpus(self, request: Request) -> Corpus:
        """Raises: UsageError: no folder was given, or there is no text in it."""
        from autoexperiment.errors import UsageError

        example = "Type: python prepare.py --dataset textdir --path FOLDER"
        if request.path is None:
            raise UsageError(f"Dataset 'textdir' needs a folder of text files. {example}")
        root = request.path.expanduser()
        if not root.is_dir():
            raise UsageError(f"{root} is not a folder. 'textdir' reads every UTF-8 file below a folder. {example}")
        found = _text_corpus(root, self._paths(root), _file_in_pieces)
        if not found.files:
            raise UsageError(
                f"{root} holds no UTF-8 text file ({found.skipped} skipped). Allowed: text files of at most "
                f"{MAX_FILE_BYTES // 2**20} MiB, not hidden. {example}"
            )
        return found

    def _paths(self, root: Path) -> Iterator[Path]:
        for folder, below, names in os.walk(root, followlinks=False):
            below[:] = sorted(n for n in below if not n.startswith("."))
            for name in sorted(names):
                if not name.startswith(".") and not (path := Path(folder, name)).is_symlink():
                    yield path


# ---- parquet shards on the hub -------------------------------------------------------------------


@dataclass(frozen=True)
class HubSource:
    """Parquet shards of a dataset repository, one document per row.

    Attributes:
        revision: full commit hash. Nothing is ever read from a moving branch.
        pattern: file name with `{:05d}` for the shard's number, or a plain name for a single file.
        shards: how many training shards exist; `default_shards` are taken unless `--num-shards` says otherwise.
        held_shard: number of the shard that gives validation and hold-out, whatever `--num-shards` is.
        folder: below the cache root. Shards found there are used without asking the network.
    """

    repo: str
    revision: str
    pattern: str
    folder: str
    shards: int = 1
    default_shards: int = 1
    held_shard: int | None = None
    column: str = "text"

    def corpus(self, request: Request) -> Corpus:
        """Find, check and where needed fetch the shards.

        Raises:
            UsageError: a number of shards that does not exist.
            Refused: a shard that can be neither found nor fetched whole.
        """
        folder = request.cache / self.folder
        notes = _Notes(folder)
        files = []
        for name, held in self._names(request.num_shards):
            sha256, origin = self._obtain(folder / name, notes, request.say)
            files.append(SourceFile(name, folder / name, sha256, (folder / name).stat().st_size, held, origin))
        return Corpus(tuple(files), self._texts, held_by_file=self.held_shard is not None)

    def _names(self, wanted: int | None) -> list[tuple[str, bool]]:
        number = self.default_shards if wanted is None else wanted
        if not 1 <= number <= self.shards:
            from autoexperiment.errors import UsageError

            raise UsageError(
                f"--num-shards {number} is not possible: {self.repo} has {self.shards} training shards. Allowed: 1 to "
                f"{self.shards}. For example: --num-shards {self.default_shards}"
            )
        held = [] if self.held_shard is None else [(self.pattern.format(self.held_shard), True)]
        return held + [(self.pattern.format(i), False) for i in range(number)]

    def _obtain(self, path: Path, notes: _Notes, say: Callable[[str], None]) -> tuple[str, str]:
        """sha256 and origin of a shard that is in place and readable."""
        if path.exists():
            if note := notes.current(path):
                return note["sha256"], note["origin"]
            sha256 = sha256_file(path)
            problem = notes.contradicts(path, sha256) or _parquet_problem(path, self.column)
            if not problem:
                return notes.write(path, sha256, notes.origin(path))
            say(f"{path} is damaged ({problem}). Fetching it again.")
        say(f"Fetching {self.repo}/{path.name}")
        sha256 = fetch(self.repo, self.revision, path.name, target=path)
        if problem := _parquet_problem(path, self.column):
            from autoexperiment.errors import Refused

            raise Refused(f"{self.repo}/{path.name} arrived as published but cannot be used: {problem}.")
        return notes.write(path, sha256, f"{self.repo}@{self.revision}")

    def _texts(self, path: Path) -> Iterator[str]:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    yield from filter(None, file.read_row_group(group, [self.column]).column(0).to_pylist())
        except (OSError, ValueError) as error:
            from autoexperiment.errors import Refused

            raise Refused(f"{path} cannot be read to its end: {error}. Delete it and type the same again.") from error


def _parquet_problem(path: Path, column: str) -> str:
    """Why a file is no parquet file with a text column, or ""."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (OSError, ValueError) as error:
        return f"not a whole parquet file: {str(error).splitlines()[0]}"
    if column not in schema.names:
        return f"it has no column {column!r}, only {', '.join(schema.names)}"
    kind = schema.field(column).type
    return (
        "" if pa.types.is_string(kind) or pa.types.is_large_string(kind) else f"column {column!r} is {kind}, not text"
    )


class _Notes:
    """What is known about the shards in a folder, so that hashing gigabytes happens once.

    A note counts while size and modification time are the noted ones. It also remembers the hash that the hub
    published, so that a shard damaged after its download is told from one that was put there by hand.
    """

    def __init__(self, folder: Path) -> None:
        from autoexperiment.files import load_json

        self.file = folder / "shards.json"
        try:
            self.notes: dict[str, dict[str, Any]] = load_json(self.file.read_bytes())
        except (OSError, ValueError):
            self.notes = {}

    def current(self, path: Path) -> dict[str, Any] | None:
        note, info = self.notes.get(path.name), path.stat()
        return note if note and (note["size"], note["mtime_ns"]) == (info.st_size, info.st_mtime_ns) else None

    def contradicts(self, path: Path, sha256: str) -> str:
        note = self.notes.get(path.name)
        return "its content changed after it was checked" if note and note["sha256"] != sha256 else ""

    def origin(self, path: Path) -> str:
        return str(self.notes.get(path.name, {}).get("origin", "found in the cache"))

    def write(self, path: Path, sha256: str, origin: str) -> tuple[str, str]:
        from autoexperiment.files import write_json

        info = path.stat()
        self.notes[path.name] = {
            "sha256": sha256, "size": info.st_size, "mtime_ns": info.st_mtime_ns, "origin": origin
        }  # fmt: skip
        write_json(self.file, self.notes)
        return sha256, origin


def fetch(repo: str, revision: str, name: str, *, target: Path) -> str:
    """Download one file of a dataset repository at a commit, and return its sha256.

    The bytes gather in a hidden `.part` file beside the target, which a later call continues, and are moved into
    place only when their sha256 is the one that the hub publishes. `HF_ENDPOINT` chooses the server.

    Raises: Refused: no server, no such file, no published sha256, or wrong bytes twice.
    """
    from autoexperiment.errors import Refused

    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    try:
        return _fetch(repo, revision, name, target)
    except (Refused, ModuleNotFoundError):
        raise
    except Exception as error:  # the hub's client raises dozens of classes of two HTTP libraries
        if isinstance(error, OSError) and error.errno:
            raise  # the disk, not the network
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise Refused(
            f"Cannot fetch {name} of {repo} at {revision[:12]}: {type(error).__name__}: {reason}. What arrived is "
            "kept. Check the connection (or HF_ENDPOINT) and type the same again."
        ) from error


def _fetch(repo: str, revision: str, name: str, target: Path) -> str:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    from autoexperiment.errors import Refused
    from autoexperiment.files import fsync_dir

    url = hf_hub_url(repo, name, repo_type="dataset", revision=revision)
    published = get_hf_file_metadata(url)
    expected = published.etag or ""
    if not re.fullmatch("[0-9a-f]{64}", expected):
        raise Refused(
            f"The server gave no sha256 for {name} of {repo} (ETag {expected!r}), so its content could not be checked. "
            "Use a server that does: unset HF_ENDPOINT"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{expected[:12]}.part")
    for attempt in (1, 2):
        try:
            actual = _continue(url, part, published.size)
        except OSError as error:
            if error.errno or attempt == 2:  # without an errno it is the client's "Consistency check failed": too short
                raise
            continue
        if actual == expected:
            os.replace(part, target)
            fsync_dir(target.parent)
            return expected
        part.unlink()
    raise Refused(
        f"{name} of {repo} arrived with a wrong sha256, also when fetched again: expected {expected}, got {actual}. "
        "The bytes were thrown away. Try another network or server (HF_ENDPOINT), then type the same again."
    )


def _continue(url: str, part: Path, size: int | None) -> str:
    """Bring a part file to its full size, from where it ends; returns its sha256."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    from autoexperiment.files import fsync

    with part.open("ab") as file:
        if size is not None and file.tell() > size:
            file.truncate(0)
        http_get(url, file, resume_size=file.seek(0, os.SEEK_END), headers=build_hf_headers(), expected_size=size)
        file.flush()
        fsync(file.fileno())
    return sha256_file(part)


# ---- the registry --------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetSpec:
    """A dataset and the shape it is prepared in.

    Attributes:
        vocab_size: default number of tokens, the document start (BOS) included.
        seq_len: targets per row; a row has one token more.
        eval_tokens: targets in the validation rows, fixed: `eval_tokens // seq_len` rows are scored.
        min_eval_tokens: a smaller corpus may have as few; 0 means no fewer than `eval_tokens`.
        tokenizer_bytes: how much training text the tokenizer sees.
    """

    name: str
    about: str
    source: StdlibSource | FolderSource | HubSource
    vocab_size: int
    seq_len: int
    eval_tokens: int
    min_eval_tokens: int = 0
    tokenizer_bytes: int = 200_000_000


_SPECS = (
    DatasetSpec(
        name="pystdlib",
        about="source text of this Python's standard library; needs no network",
        source=StdlibSource(),
        vocab_size=1024,
        seq_len=256,
        eval_tokens=65_536,
    ),
    DatasetSpec(
        name="textdir",
        about="any folder of text files: --path DIR",
        source=FolderSource(),
        vocab_size=1024,
        seq_len=256,
        eval_tokens=65_536,
        min_eval_tokens=8_192,
    ),
    # Neither commit was fetched when this was written (no network); each is the one that several independent public
    # projects pin and report hashes for. A commit that does not exist gives an error, never other data.
    DatasetSpec(
        name="tinystories",
        about="short stories in simple English, cleaned (641 MB)",
        source=HubSource(
            repo="karpathy/tinystories-gpt4-clean",
            revision="0397e27157956705a0260709da3095bb9c43d6a7",
            pattern="tinystories_gpt4_clean.parquet",
            folder="tinystories/data",
        ),
        vocab_size=4096,
        seq_len=512,
        eval_tokens=524_288,
    ),
    DatasetSpec(
        name="climbmix",
        about="filtered web text (about 90 MB a shard)",
        source=HubSource(
            repo="karpathy/climbmix-400b-shuffle",
            revision="915333b4f8b8684f39aeaafea600fea6f43fb703",
            pattern="shard_{:05d}.parquet",
            folder="data",
            shards=6542,
            default_shards=10,
            held_shard=6542,
        ),
        vocab_size=8192,
        seq_len=2048,
        eval_tokens=1_572_864,
    ),
)
REGISTRY: Mapping[str, DatasetSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
DEFAULT = "pystdlib"


def spec(name: str) -> DatasetSpec:
    """The dataset of that name.

    Raises: UsageError: no such dataset; the message lists them.
    """
    if name not in REGISTRY:
        from autoexperiment.errors import UsageError, unknown

        raise UsageError(unknown("dataset", name, REGISTRY))
    return REGISTRY[name]
