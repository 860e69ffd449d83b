"""Prepare a dataset once; read it and score a model on it many times.

Usage: python prepare.py [--dataset NAME] [--path DIR] [--num-shards N] [--vocab-size V] [--check]

Exit codes: 0 prepared (or already so) · 1 refused or failed · 2 usage · 130 interrupted

The first half is what `train.py` uses: `load_dataset`, `batches`, `evaluate_bpb`. The second half makes the
prepared folder `~/.cache/autoresearch/<dataset>/<snapshot>/` (`AUTORESEARCH_CACHE` moves the root):

    manifest.json     written last: counts, the text's bytes, and the sha256 of every file
    tokenizer.json    byte-pair tokens as text
    token_bytes.npy   int32 (V,): how many bytes of text each token stands for; 0 for BOS
    train.bin         uint16 rows (N, seq_len + 1): documents, each begun by BOS, packed without padding
    val.bin           the same, exactly the rows that are scored
"""

from __future__ import annotations

import autoexperiment.blas  # noqa: F401  loads a fast BLAS: comes before the first import of mlx

# isort: split
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import data_sources

if TYPE_CHECKING:
    import argparse

    import mlx.core as mx

FORMAT = 1  # raise it when the same text would be prepared into other bytes
BOS = "<|bos|>"
MAX_VOCAB = 65_535  # rows are uint16
MIN_VOCAB = 257  # every byte, and BOS
# Words with their leading space, digits in pairs, runs of signs, line ends apart: the usual split for code and prose.
PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
MANIFEST, TOKENIZER, TOKEN_BYTES, CURRENT = "manifest.json", "tokenizer.json", "token_bytes.npy", "current"
TRAIN, VAL = "train.bin", "val.bin"

Rows = NDArray[np.uint16]


# ==== what a training run uses ====================================================================


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset, its rows mapped from disk.

    Attributes:
        bos: token that begins every document and every row.
        token_bytes: int32 (V,); bytes of text per token, 0 for BOS.
        train_rows, val_rows: uint16 (N, seq_len + 1), read-only; inputs are `[:, :-1]`, targets `[:, 1:]`.
        snapshot: identity of text, vocabulary and row length; equal snapshots have equal files.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    vocab_size: int
    seq_len: int
    bos: int
    token_bytes: NDArray[np.int32]
    train_rows: Rows
    val_rows: Rows
    snapshot: str


def cache_root() -> Path:
    """`AUTORESEARCH_CACHE`, or `~/.cache/autoresearch`."""
    override = os.environ.get("AUTORESEARCH_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "autoresearch"


def load_dataset(name: str | None = None) -> Dataset:
    """Open a prepared dataset; None is the default one. `AUTOEXPERIMENT_DATA`, a prepared folder, wins over the name.

    Raises:
        UsageError: no such dataset.
        Refused: it is not prepared, or a file of it is missing or has the wrong size.
    """
    folder = _prepared_folder(data_sources.spec(name or data_sources.DEFAULT).name)
    manifest = _read_manifest(folder)
    if problems := _wrong_sizes(folder, manifest):
        raise _refused(f"{folder} is damaged: {'; '.join(problems)}. {_again(folder, manifest)}")
    width = manifest["seq_len"] + 1
    return Dataset(
        name=manifest["dataset"],
        folder=folder,
        manifest=MappingProxyType(manifest),
        vocab_size=manifest["vocab_size"],
        seq_len=manifest["seq_len"],
        bos=manifest["bos"],
        token_bytes=np.load(folder / TOKEN_BYTES, allow_pickle=False),
        train_rows=np.memmap(folder / TRAIN, dtype=np.uint16, mode="r").reshape(-1, width),
        val_rows=np.memmap(folder / VAL, dtype=np.uint16, mode="r").reshape(-1, width),
        snapshot=manifest["snapshot"],
    )


def batches(rows: Rows, batch_size: int, *, seed: int) -> Iterator[tuple[mx.array, mx.array]]:
    """Inputs and targets without end, each row once per epoch, in a new order every epoch.

    Args:
        rows: (N, T + 1) with N >= 1.
        batch_size: rows per batch; may exceed N. A batch may span two epochs.
        seed: with `batch_size` it fixes every batch.
    Returns: pairs of int32 (batch_size, T).
    """
    import mlx.core as mx

    order = _epochs(len(rows), seed)
    while True:
        block = rows[[next(order) for _ in range(batch_size)]].astype(np.int32)
        yield mx.array(block[:, :-1]), mx.array(block[:, 1:])


def _epochs(count: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([seed, epoch]).permutation(count).tolist()
        epoch += 1


def nats_and_bytes(logits: mx.array, targets: mx.array, token_bytes: NDArray[np.int32]) -> tuple[float, int]:
    """Cross-entropy of the targets that stand for text, and how many bytes of text that is.

    Args:
        logits: (B, T, V), any float type. Only differences between the logits of one position count: the largest
            is subtracted first, for `logsumexp(x) - x[target]` rounds to 0 when all logits are huge.
        targets: int32 (B, T). token_bytes: (V,).
    Returns: nats, float32 per token and summed in float64; NaN or infinity stays so. Bytes.
    """
    import mlx.core as mx

    logits = logits.astype(mx.float32)
    if mx.default_device() == mx.Device(mx.cpu):  # numpy's exp is 10 times as fast as MLX's on a CPU
        with np.errstate(invalid="ignore"):  # infinite logits give NaN, which is the answer
            nats = _nats(np, np.array(logits, copy=False), np.array(targets))
    else:
        nats = np.array(_nats(mx, logits, targets))
    lengths = token_bytes[np.array(targets)]
    return float(nats[lengths > 0].sum(dtype=np.float64)), int(lengths.sum(dtype=np.int64))


def _nats(lib: Any, logits: Any, targets: Any) -> Any:
    """Cross-entropy per position (B, T), by numpy or mlx.core as `lib`."""
    shifted = logits - lib.max(logits, axis=-1, keepdims=True)
    picked = lib.take_along_axis(shifted, targets[..., None], axis=-1)[..., 0]
    return lib.log(lib.sum(lib.exp(shifted), axis=-1)) - picked


def bpb(nats: float, text_bytes: int) -> float:
    """Bits per byte of text: comparable across vocabularies, lower is better."""
    return nats / (math.log(2) * text_bytes)


def evaluate_bpb(
    model: Callable[[mx.array], mx.array],
    dataset: Dataset,
    *,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> float:
    """Bits per byte over all validation rows, whatever the batch size.

    Args:
        model: maps int32 tokens (B, T) to logits (B, T, V). It never sees the targets.
        on_progress: called with rows done and rows in all.
    Raises: Refused: logits of another shape.
    """
    import mlx.core as mx

    rows, nats, text_bytes = dataset.val_rows, 0.0, 0
    for start in range(0, len(rows), batch_size):
        block = rows[start : start + batch_size].astype(np.int32)
        logits = model(mx.array(block[:, :-1]))
        expected = (len(block), dataset.seq_len, dataset.vocab_size)
        if tuple(logits.shape) != expected:
            raise _refused(f"The model gave logits of shape {tuple(logits.shape)}. Needed: (B, T, V) = {expected}.")
        batch_nats, batch_bytes = nats_and_bytes(logits, mx.array(block[:, 1:]), dataset.token_bytes)
        nats, text_bytes = nats + batch_nats, text_bytes + batch_bytes
        if on_progress:
            on_progress(start + len(block), len(rows))
    return bpb(nats, text_bytes)


def load_tokenizer(dataset: Dataset) -> Any:
    """The dataset's `tiktoken.Encoding`, for looking at samples."""
    return _encoding(json.loads((dataset.folder / TOKENIZER).read_text(encoding="ascii")))


def verify(folder: Path) -> list[str]:
    """What is wrong with a prepared folder, file by file, every hash computed anew; empty when all is well.

    Raises: Refused: it is no prepared folder.
    """
    manifest = _read_manifest(folder)
    problems = _wrong_sizes(folder, manifest)
    if problems:
        return problems
    return [
        f"{name} does not have the sha256 in {MANIFEST}"
        for name, expected in manifest["files"].items()
        if data_sources.sha256_file(folder / name) != expected["sha256"]
    ]


def _refused(message: str) -> Exception:
    from autoexperiment.errors import Refused

    return Refused(message)


def _command(name: str) -> str:
    return "python prepare.py" + {data_sources.DEFAULT: "", "textdir": " --dataset textdir --path DIR"}.get(
        name, f" --dataset {name}"
    )


def _again(folder: Path, manifest: Mapping[str, Any]) -> str:
    return f"Type: rm -r {folder} && {_command(manifest['dataset'])}"


def _prepared_folder(name: str) -> Path:
    if override := os.environ.get("AUTOEXPERIMENT_DATA"):
        return Path(override)
    home = cache_root() / name
    try:
        return home / (home / CURRENT).read_text(encoding="ascii").strip()
    except OSError:
        raise _refused(f"Dataset {name!r} is not prepared (looked in {home}). Type: {_command(name)}") from None


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
    except OSError:
        raise _refused(
            f"{folder} is no prepared dataset: it has no {MANIFEST}. Type: {_command(folder.parent.name)}"
        ) from None
    except ValueError as error:
        raise _refused(f"{folder / MANIFEST} is damaged: {error}. Type: rm -r {folder} && python prepare.py") from None
    if manifest.get("format") != FORMAT:
        raise _refused(
            f"{folder} has format {manifest.get('format')}; this prepare.py reads format {FORMAT}. "
            f"Type: {_command(folder.parent.name)}"
        )
    return manifest


def _wrong_sizes(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    problems = []
    for name, expected in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            problems.append(f"{name} is missing")
            continue
        if size != expected["size"]:
            problems.append(f"{name} has {size:,} bytes instead of {expected['size']:,}")
    return problems


# ==== preparation =================================================================================


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> dict[str, Any]:
    """Byte-pair tokens of a text, as a JSON object: the tokens in hex, a token's place is its number; then BOS.

    The vocabulary is smaller than asked for when the text has no more pairs to merge.
    """
    import rustbpe

    trainer = rustbpe.Tokenizer()
    trainer.train_from_iterator(iter(texts), vocab_size - 1, pattern=PATTERN)
    ranks = sorted((rank, bytes(token)) for token, rank in trainer.get_mergeable_ranks())
    tokens = [token.hex() for _, token in ranks]
    return {"pattern": PATTERN, "tokens": tokens, "special_tokens": {BOS: len(tokens)}}


def _encoding(tokenizer: Mapping[str, Any]) -> Any:
    import tiktoken

    ranks = {bytes.fromhex(token): rank for rank, token in enumerate(tokenizer["tokens"])}
    return tiktoken.Encoding(
        "autoresearch",
        pat_str=tokenizer["pattern"],
        mergeable_ranks=ranks,
        special_tokens=dict(tokenizer["special_tokens"]),
    )


def byte_lengths(tokenizer: Mapping[str, Any]) -> NDArray[np.int32]:
    """Bytes of text per token (V,): those of the token itself, also when it is half a character; 0 for BOS."""
    return np.array([len(token) // 2 for token in tokenizer["tokens"]] + [0], dtype=np.int32)


def pack(documents: Iterable[NDArray[np.uint16]], *, width: int, bos: int) -> Iterator[Rows]:
    """Documents packed into full rows; nothing is padded and only what does not fill a last row is left out.

    A document is cut into pieces of at most `width - 1` tokens, each begun by BOS. A row takes the longest piece
    that fits, again and again; when none fits, the next longer piece is cut, and its rest, with a BOS of its
    own, goes into a later row.

    Args:
        documents: 1-d arrays of tokens without BOS.
        width: tokens per row, BOS included.
    Returns: rows of shape (width,), the same for the same documents in the same order.
    """
    by_length: list[list[NDArray[np.uint16]]] = [[] for _ in range(width + 1)]
    lengths = 0  # bit n is set when there are pieces of n tokens, BOS included
    start = np.array([bos], dtype=np.uint16)
    for tokens in documents:
        whole = len(tokens) // (width - 1) * (width - 1)
        for begin in range(0, whole, width - 1):
            yield np.concatenate((start, tokens[begin : begin + width - 1]))
        if rest := len(tokens) - whole:
            by_length[rest + 1].append(tokens[whole:])
            lengths |= 1 << (rest + 1)
    row: list[NDArray[np.uint16]] = []
    room = width
    while lengths:
        fitting = lengths & ((2 << room) - 1)
        size = fitting.bit_length() - 1 if fitting else (lengths & -lengths).bit_length() - 1
        piece = by_length[size].pop()
        if not by_length[size]:
            lengths &= ~(1 << size)
        row += [start, piece[: room - 1]]
        if size > room:
            rest = size - (room - 1)
            by_length[rest].append(piece[room - 1 :])
            lengths |= 1 << rest
        room -= min(size, room)
        if room == 0:
            yield np.concatenate(row)
            row, room = [], width


@dataclass(frozen=True)
class _Document:
    """Where a document's tokens lie in the scratch file; `key` is the sha256 of its text."""

    key: bytes
    start: int
    stop: int
    text_bytes: int


@dataclass(frozen=True)
class _Job:
    """One preparation: what is read, and the folder that is being filled."""

    spec: data_sources.DatasetSpec
    corpus: data_sources.Corpus
    vocab_size: int
    snapshot: str
    folder: Path


def split_of(key: bytes, *, held: bool, by_file: bool) -> str:
    """`train`, `val` or `holdout`: a property of the document's text (and its file), stable when others come or go.

    `key`: sha256 of the text. Without held files 5 % of the documents are hold-out and 5 % validation.
    """
    number = int.from_bytes(key[:8], "big")
    if by_file:
        return ("val", "holdout")[number % 2] if held else "train"
    return "holdout" if number % 1000 < 50 else "val" if number % 1000 < 100 else "train"


def _index(corpus: data_sources.Corpus, progress: Callable[[str], None]) -> tuple[dict[bytes, str], int]:
    """Split of every distinct document, by the sha256 of its text; and how many copies were dropped."""
    splits: dict[bytes, str] = {}
    copies = 0
    for file, text in corpus.documents():
        progress(text)
        key = hashlib.sha256(text.encode()).digest()
        copies += key in splits
        splits.setdefault(key, split_of(key, held=file.held, by_file=corpus.held_by_file))
    return splits, copies


def _training_texts(job: _Job, splits: Mapping[bytes, str]) -> Iterator[str]:
    left = job.spec.tokenizer_bytes
    for _, text in job.corpus.documents():
        blob = text.encode()
        if splits.get(hashlib.sha256(blob).digest()) == "train":
            yield text
            left -= len(blob)
        if left <= 0:
            return


def _tokenise(
    job: _Job, splits: Mapping[bytes, str], encoding: Any, progress: Callable[[str], None]
) -> tuple[Path, dict[str, list[_Document]]]:
    """Tokens of all distinct documents in one scratch file, and where each lies, by split, sorted by hash."""
    scratch = job.folder / "tokens.tmp"
    found: dict[str, list[_Document]] = {"train": [], "val": [], "holdout": []}
    left = dict(splits)
    position = 0
    with scratch.open("wb") as file:
        for group in _groups(text for _, text in job.corpus.documents()):
            keys = [hashlib.sha256(text.encode()).digest() for text in group]
            for key, text, tokens in zip(keys, group, encoding.encode_ordinary_batch(group), strict=True):
                progress(text)
                if (split := left.pop(key, None)) is None:
                    _check_known(key, splits)
                    continue
                file.write(np.array(tokens, dtype=np.uint16).tobytes())
                document = _Document(key, position, position + len(tokens), len(text.encode()))
                found[split].append(document)
                position = document.stop
    return scratch, {split: sorted(documents, key=lambda d: d.key) for split, documents in found.items()}


def _check_known(key: bytes, splits: Mapping[bytes, str]) -> None:
    if key not in splits:
        raise _refused("A source file changed while it was being read. Let the files rest, then type the same again.")


def _groups(texts: Iterable[str], *, count: int = 256, chars: int = 4_000_000) -> Iterator[list[str]]:
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if len(group) >= count or size >= chars:
            yield group
            group, size = [], 0
    if group:
        yield group


def _held_rows(job: _Job, documents: Sequence[_Document], tokens: Rows, bos: int) -> list[Rows]:
    """Exactly the rows of a held split, made of the first documents by hash.

    Raises: Refused: there is too little text.
    """
    spec, width = job.spec, job.spec.seq_len + 1
    available = sum(d.stop - d.start + 1 for d in documents) // width
    least = (spec.min_eval_tokens or spec.eval_tokens) // spec.seq_len
    if available < least:
        raise _too_little(job, available, least)
    count = min(spec.eval_tokens // spec.seq_len, available)
    return list(pack(_first(documents, tokens, count * width), width=width, bos=bos))[:count]


def _first(documents: Iterable[_Document], tokens: Rows, left: int) -> Iterator[Rows]:
    """The first documents until they fill `left` places, the BOS of each included; the last is cut to fit."""
    for document in documents:
        if left <= 1:
            return
        yield tokens[document.start : min(document.stop, document.start + left - 1)]
        left -= document.stop - document.start + 1


def _too_little(job: _Job, available: int, least: int) -> Exception:
    total = sum(file.size for file in job.corpus.files)
    enough = total * 1.5 * least / max(available, 1 / 3)  # half more than the share found so far says
    return _refused(
        f"{job.spec.name} has too little text ({total:,} bytes): a held split of it fills {available} rows of "
        f"{job.spec.seq_len} tokens, and {least} are needed. About {math.ceil(enough / 1e5) / 10:.1f} MB should be "
        f"enough. Add text, then type: {_command(job.spec.name)}"
    )


def _write_rows(path: Path, rows: Iterable[Rows], token_bytes: NDArray[np.int32]) -> dict[str, int]:
    """Write rows one after the other; returns how many, and the bytes of text that they stand for."""
    count = text_bytes = 0
    with path.open("wb") as file:
        for row in rows:
            file.write(row.tobytes())
            count += 1
            text_bytes += int(token_bytes[row].sum())
    return {"rows": count, "text_bytes": text_bytes}


def _build(job: _Job, say: Callable[[str], None]) -> dict[str, Any]:
    """Fill the job's folder; the manifest that is still to be written into it."""
    total = sum(file.size for file in job.corpus.files)
    with _Bar("reading", total) as advance:
        splits, copies = _index(job.corpus, advance)
    say(f"Training a tokenizer of {job.vocab_size:,} tokens")
    tokenizer = train_tokenizer(_training_texts(job, splits), job.vocab_size)
    with _Bar("tokenising", total) as advance:
        scratch, documents = _tokenise(job, splits, _encoding(tokenizer), advance)
    say("Packing rows")
    counts = _write_splits(job, tokenizer, scratch, documents)
    (job.folder / TOKENIZER).write_text(json.dumps(tokenizer, indent=0) + "\n", encoding="ascii")
    np.save(job.folder / TOKEN_BYTES, byte_lengths(tokenizer), allow_pickle=False)
    scratch.unlink()
    return _manifest(job, len(tokenizer["tokens"]), {"splits": counts, "copies_dropped": copies})


def _write_splits(
    job: _Job, tokenizer: Mapping[str, Any], scratch: Path, documents: Mapping[str, Sequence[_Document]]
) -> dict[str, dict[str, int]]:
    from autoexperiment.holdout import write_holdout

    if not documents["train"]:
        raise _too_little(job, 0, 1)
    bos, token_bytes, width = len(tokenizer["tokens"]), byte_lengths(tokenizer), job.spec.seq_len + 1
    tokens = np.memmap(scratch, dtype=np.uint16, mode="r")
    val, holdout = (_held_rows(job, documents[split], tokens, bos) for split in ("val", "holdout"))
    train = pack((tokens[d.start : d.stop] for d in documents["train"]), width=width, bos=bos)
    counts = {
        "train": _write_rows(job.folder / TRAIN, train, token_bytes),
        "val": _write_rows(job.folder / VAL, val, token_bytes),
    }
    if not counts["train"]["rows"]:
        raise _too_little(job, 0, 1)
    write_holdout(job.spec.name, job.snapshot, np.stack(holdout))
    for split, count in counts.items():
        count["documents"] = len(documents[split])
        count["document_bytes"] = sum(d.text_bytes for d in documents[split])
        count["left_out_bytes"] = count["document_bytes"] - count["text_bytes"]
    return counts


def _manifest(job: _Job, bos: int, found: Mapping[str, Any]) -> dict[str, Any]:
    from datetime import UTC, datetime

    source = job.spec.source
    hub = {"repo": source.repo, "revision": source.revision} if isinstance(source, data_sources.HubSource) else {}
    return {
        "format": FORMAT,
        "dataset": job.spec.name,
        "snapshot": job.snapshot,
        **hub,
        "vocab_size": bos + 1,
        "seq_len": job.spec.seq_len,
        "eval_tokens": job.spec.eval_tokens,
        "bos": bos,
        **found,
        "files": {
            name: {"size": (job.folder / name).stat().st_size, "sha256": data_sources.sha256_file(job.folder / name)}
            for name in (TRAIN, VAL, TOKENIZER, TOKEN_BYTES)
        },
        "sources": [
            {"name": f.name, "size": f.size, "sha256": f.sha256, "held": f.held, "origin": f.origin}
            for f in job.corpus.files
        ],
        "sources_skipped": job.corpus.skipped,
        "python": sys.version.split()[0],
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _snapshot(spec: data_sources.DatasetSpec, corpus: data_sources.Corpus, vocab_size: int) -> str:
    """Twelve hex digits that stand for all that decides the bytes of the prepared files."""
    facts = [
        FORMAT, PATTERN, spec.name, vocab_size, spec.seq_len, spec.eval_tokens, spec.min_eval_tokens,
        spec.tokenizer_bytes, corpus.held_by_file, [(f.sha256, f.held) for f in corpus.files],
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


class _Bar:
    """A bar over the bytes of text, on a terminal only."""

    def __init__(self, what: str, total: int) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=what, total=total, unit="B", unit_scale=True, disable=None, leave=False)

    def __enter__(self) -> Callable[[str], None]:
        return self._advance

    def _advance(self, text: str) -> None:
        self.bar.update(len(text))

    def __exit__(self, *_: object) -> None:
        self.bar.close()


def prepare(
    spec: data_sources.DatasetSpec, request: data_sources.Request, *, vocab_size: int | None = None
) -> tuple[Path, bool]:
    """Make a dataset ready, or find that it is; a folder appears whole or not at all.

    Returns: the prepared folder, which is now the current one of this dataset, and whether it was there already.
    Raises: UsageError, Refused: as the source says; or there is too little text.
    """
    from autoexperiment.files import write_atomic

    home, size = request.cache / spec.name, vocab_size or spec.vocab_size
    with _wait_for_lock(home / ".lock", request.say):
        corpus = spec.source.corpus(request)
        snapshot = _snapshot(spec, corpus, size)
        folder = home / snapshot
        there = _is_whole(folder, request.say)
        if not there:
            _make(_Job(spec, corpus, size, snapshot, _fresh_folder(home)), folder, request.say)
        write_atomic(home / CURRENT, snapshot + "\n")
    return folder, there


def _is_whole(folder: Path, say: Callable[[str], None]) -> bool:
    from autoexperiment.holdout import has_holdout

    if not (folder / MANIFEST).exists():
        return False
    problems = _wrong_sizes(folder, _read_manifest(folder))
    if not has_holdout(folder.parent.name, folder.name):
        problems.append("its hold-out is missing")
    if problems:
        say(f"{folder} is damaged: {'; '.join(problems)}. Making it anew.")
    return not problems


def _wait_for_lock(path: Path, say: Callable[[str], None]) -> Any:
    from autoexperiment.errors import Locked
    from autoexperiment.files import Lock, lock_holder

    try:
        return Lock(path).acquire()
    except Locked:
        say(f"Another prepare.py (pid {lock_holder(path)}) is working on {path.parent}. Waiting for it.")
        return Lock(path).acquire(timeout_s=math.inf)


def _fresh_folder(home: Path) -> Path:
    """An empty folder to build in. Whatever lies in such folders belongs to a dead process: we hold the lock."""
    import shutil

    for left in home.glob(".building-*"):
        shutil.rmtree(left)
    folder = home / f".building-{os.getpid()}"
    folder.mkdir()
    return folder


def _make(job: _Job, folder: Path, say: Callable[[str], None]) -> None:
    """Build in the job's folder, then give it its name."""
    import shutil

    from autoexperiment.failpoint import reach
    from autoexperiment.files import fsync, fsync_dir, write_json

    try:
        manifest = _build(job, say)
        for name in manifest["files"]:
            with (job.folder / name).open("rb") as file:
                fsync(file.fileno())
        reach("prepare.files_written")
        write_json(job.folder / MANIFEST, manifest)
        reach("prepare.manifest_written")
        if folder.exists():
            shutil.rmtree(folder)
        job.folder.rename(folder)
        fsync_dir(folder.parent)
        reach("prepare.folder_named")
    except BaseException:
        shutil.rmtree(job.folder, ignore_errors=True)
        raise


# ==== command line ================================================================================


def _parser() -> argparse.ArgumentParser:
    import argparse

    known = "; ".join(f"{name}: {spec.about}" for name, spec in data_sources.REGISTRY.items())
    parser = argparse.ArgumentParser(prog="prepare.py", description="Make a dataset ready for train.py.")
    parser.add_argument(
        "--dataset", default=data_sources.DEFAULT, metavar="NAME", help=f"{known}. Default: %(default)s"
    )
    parser.add_argument("--path", type=Path, metavar="DIR", help="folder of text files, for textdir")
    parser.add_argument("--num-shards", type=int, metavar="N", help="training shards to use, for datasets on the hub")
    parser.add_argument("--vocab-size", type=int, metavar="V", help="tokens, BOS included. Default: the dataset's")
    parser.add_argument("--check", action="store_true", help="compute all hashes of the prepared data and compare")
    return parser


def _check_options(args: argparse.Namespace, spec: data_sources.DatasetSpec) -> None:
    from autoexperiment.errors import UsageError

    if args.path and not isinstance(spec.source, data_sources.FolderSource):
        raise UsageError(f"--path is for --dataset textdir, not {spec.name}. Type: {_command('textdir')}")
    if args.num_shards is not None and not isinstance(spec.source, data_sources.HubSource):
        raise UsageError(f"--num-shards is for datasets on the hub; {spec.name} is none. Type: {_command(spec.name)}")
    if args.vocab_size is not None and not MIN_VOCAB <= args.vocab_size <= MAX_VOCAB:
        raise UsageError(
            f"--vocab-size {args.vocab_size} is not possible. Allowed: {MIN_VOCAB} (every byte and BOS) to {MAX_VOCAB}. "
            f"Type: {_command(spec.name)} --vocab-size {spec.vocab_size}"
        )


def _check(spec: data_sources.DatasetSpec) -> str:
    from autoexperiment.holdout import read_holdout

    folder = _prepared_folder(spec.name)
    manifest = _read_manifest(folder)
    if problems := verify(folder):
        raise _refused(f"{folder} is damaged: {'; '.join(problems)}. {_again(folder, manifest)}")
    read_holdout(manifest["dataset"], manifest["snapshot"])
    return f"All hashes agree: {folder}"


def _summary(folder: Path, *, there: bool) -> str:
    manifest = _read_manifest(folder)
    train, val = manifest["splits"]["train"], manifest["splits"]["val"]
    tokens = train["rows"] * (manifest["seq_len"] + 1)
    return (
        f"{manifest['dataset']}: {train['rows']:,} training rows, {val['rows']:,} validation rows, "
        f"{tokens:,} training tokens, {train['text_bytes'] / tokens:.2f} bytes a token, vocabulary "
        f"{manifest['vocab_size']:,}\n{'Already prepared' if there else 'Wrote'}: {folder}"
    )


def _run(args: argparse.Namespace) -> str:
    spec = data_sources.spec(args.dataset)
    _check_options(args, spec)
    if args.check:
        return _check(spec)
    request = data_sources.Request(cache_root(), _say, args.path, args.num_shards)
    folder, there = prepare(spec, request, vocab_size=args.vocab_size)
    return _summary(folder, there=there)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    from autoexperiment.errors import LabError

    args = _parser().parse_args(argv)
    try:
        print(_run(args))
        return 0
    except LabError as error:
        message, code = str(error), error.exit_code
    except ModuleNotFoundError as error:
        message, code = f"{error.name} is not installed and preparing data needs it. Type: pip install -e '.[gpt]'", 1
    except OSError as error:
        message, code = _disk_trouble(error), 1
    except KeyboardInterrupt:
        message, code = "Interrupted; nothing half made was left. Type the same again to go on.", 130
    print(f"prepare.py: {message}", file=sys.stderr)
    return code


def _say(line: str) -> None:
    print(line, flush=True)


def _disk_trouble(error: OSError) -> str:
    return (
        f"Cannot read or write {error.filename or cache_root()}: {error.strerror or error}. Nothing half made was left. "
        "Make room or give access there, or set AUTORESEARCH_CACHE to another disk, and type the same again."
    )


if __name__ == "__main__":
    sys.exit(main())
