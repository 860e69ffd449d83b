"""Preparing a dataset, reading it, and scoring a model on it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

for needed in ("mlx.core", "rustbpe", "tiktoken", "tqdm"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mlx.core as mx  # noqa: E402

import data_sources  # noqa: E402
import prepare  # noqa: E402
from autoexperiment import holdout  # noqa: E402
from autoexperiment.errors import Refused, UsageError  # noqa: E402
from autoexperiment.files import Lock  # noqa: E402

# The machine may be busy: a slow example is no failure.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMALL = data_sources.DatasetSpec(
    name="textdir",
    about="small",
    source=data_sources.FolderSource(),
    vocab_size=300,
    seq_len=16,
    eval_tokens=320,  # 20 rows
)


def write_corpus(folder: Path, *, files: int = 300, seed: int = 0) -> Path:
    """Small files of words, some of them with characters of several bytes."""
    rng = random.Random(seed)
    words = ["the", "cat", "sat", "naïve", "日本語", "🙂", "on", "mat", "running", "12345", "<|bos|>", "\n"]
    folder.mkdir(parents=True)
    for i in range(files):
        (folder / f"{i:04d}.txt").write_text(" ".join(rng.choices(words, k=rng.randint(5, 120))) + f" {seed} {i}")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "texts")


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("AUTOEXPERIMENT_DATA", raising=False)


def make(corpus: Path, spec: data_sources.DatasetSpec = SMALL, **options: Any) -> prepare.Dataset:
    request = data_sources.Request(prepare.cache_root(), lambda line: None, path=corpus)
    prepare.prepare(spec, request, **options)
    return prepare.load_dataset("textdir")


def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "prepare.py"), *map(str, words)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def prepared_folders(name: str = "textdir") -> list[Path]:
    return sorted(p for p in (prepare.cache_root() / name).iterdir() if p.is_dir())


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the real `textdir` entry accepts."""
    return write_corpus(tmp_path_factory.mktemp("texts") / "texts", files=2500)


# ---- tokenizer -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> dict[str, Any]:
    text = "naïve 日本語 日本 🙂🙃 the cat " * 40 + "".join(chr(c) for c in range(0x3040, 0x30FF))
    return prepare.train_tokenizer([text], 290)


@pytest.fixture(scope="module")
def encoding(tokenizer: dict[str, Any]) -> Any:
    return prepare._encoding(tokenizer)


@PATIENT
@given(st.binary(max_size=300))
def test_arbitrary_bytes_survive_a_round_trip_and_are_counted(
    tokenizer: dict[str, Any], encoding: Any, blob: bytes
) -> None:
    tokens = encoding._encode_bytes(blob)

    assert encoding.decode_bytes(tokens) == blob
    assert prepare.byte_lengths(tokenizer)[tokens].sum() == len(blob)


@PATIENT
@given(st.text(max_size=200))
def test_text_survives_a_round_trip_and_is_counted(tokenizer: dict[str, Any], encoding: Any, text: str) -> None:
    tokens = encoding.encode_ordinary(text)

    assert encoding.decode(tokens) == text
    assert prepare.byte_lengths(tokenizer)[tokens].sum() == len(text.encode())


@PATIENT
@given(st.data())
def test_any_tokens_have_the_length_of_their_bytes(
    tokenizer: dict[str, Any], encoding: Any, data: st.DataObject
) -> None:
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer["tokens"]) - 1), max_size=50))

    assert prepare.byte_lengths(tokenizer)[tokens].sum() == len(encoding.decode_bytes(tokens))


def test_a_token_that_is_half_a_character_counts_its_own_bytes(tokenizer: dict[str, Any]) -> None:
    lengths = prepare.byte_lengths(tokenizer)
    halves = [i for i, token in enumerate(tokenizer["tokens"]) if not is_text(bytes.fromhex(token))]

    longer = [i for i in halves if i >= 256]
    assert longer, "the test needs a learned token that splits a character"
    assert lengths[0xE3] == 1  # decoded and encoded again it would be U+FFFD: 3 bytes
    assert all(lengths[i] == len(bytes.fromhex(tokenizer["tokens"][i])) for i in halves)


def is_text(blob: bytes) -> bool:
    try:
        blob.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_bos_stands_for_no_text_and_is_never_made_from_text(tokenizer: dict[str, Any], encoding: Any) -> None:
    bos = tokenizer["special_tokens"][prepare.BOS]

    assert prepare.byte_lengths(tokenizer)[bos] == 0
    assert bos not in encoding.encode_ordinary("a <|bos|> b")


def test_a_text_with_few_pairs_gives_a_smaller_vocabulary() -> None:
    small = prepare.train_tokenizer(["ab"], 1000)

    assert len(small["tokens"]) == 257  # 256 bytes and "ab"
    assert prepare.byte_lengths(small).shape == (258,)
    assert prepare._encoding(small).n_vocab == 258


def test_the_tokenizer_does_not_depend_on_the_order_of_the_documents() -> None:
    documents = ["the cat", "a naïve cat", "the mat", "cat on mat"] * 3

    assert prepare.train_tokenizer(documents, 280) == prepare.train_tokenizer(reversed(documents), 280)


# ---- packing -------------------------------------------------------------------------------------


def packed(documents: list[list[int]], width: int) -> list[list[int]]:
    arrays = (np.array(d, dtype=np.uint16) for d in documents)
    return [row.tolist() for row in prepare.pack(arrays, width=width, bos=0)]


def test_a_long_document_becomes_whole_rows_and_a_rest() -> None:
    rows = packed([[1, 2, 3, 4, 5, 6, 7, 8, 9]], 4)

    assert rows == [[0, 1, 2, 3], [0, 4, 5, 6], [0, 7, 8, 9]]


def test_the_longest_piece_that_fits_comes_next() -> None:
    rows = packed([[7], [5, 6], [8, 9]], 5)

    assert rows == [[0, 8, 9, 0, 7]]  # 3 + 2 places; [5, 6] alone does not fill a row


def test_when_nothing_fits_a_piece_is_cut_and_its_rest_begins_with_bos() -> None:
    rows = packed([[1, 2, 3], [4, 5, 6], [7, 8]], 6)

    # [4 5 6] takes 4 places and leaves 2: [1 2 3] is too long and so is [7 8], the shorter: it gives 7 and keeps 8
    assert rows == [[0, 4, 5, 6, 0, 7], [0, 1, 2, 3, 0, 8]]


def test_one_place_left_is_a_bos_and_loses_no_text() -> None:
    rows = packed([[1, 2, 3], [4, 5, 6]], 5)

    assert rows == [[0, 4, 5, 6, 0]]


@PATIENT
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), max_size=30), st.integers(2, 12))
def test_rows_are_full_begin_with_bos_and_keep_every_token_but_those_of_one_row(
    documents: list[list[int]], width: int
) -> None:
    rows = packed(documents, width)

    assert all(len(row) == width and row[0] == 0 for row in rows)
    given_tokens = Counter(token for document in documents for token in document)
    kept = Counter(token for row in rows for token in row if token != 0)
    assert not kept - given_tokens
    assert (given_tokens - kept).total() < width - 1 or width == 2
    assert rows == packed(documents, width)


@PATIENT
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=40), max_size=30), st.integers(2, 12))
def test_what_stands_between_two_bos_is_a_part_of_one_document(documents: list[list[int]], width: int) -> None:
    for row in packed(documents, width):
        for part in " ".join(map(str, row)).split("0"):
            assert any(part.strip() in " ".join(map(str, document)) for document in documents)


# ---- the prepared folder -------------------------------------------------------------------------


def test_split_is_five_percent_holdout_and_five_percent_validation() -> None:
    def split(number: int) -> str:
        return prepare.split_of(number.to_bytes(8, "big") + b"rest", held=False, by_file=False)

    assert [split(n) for n in (0, 49, 50, 99, 100, 999, 1000)] == [
        "holdout", "holdout", "val", "val", "train", "train", "holdout"
    ]  # fmt: skip


def test_a_held_file_gives_validation_and_holdout_and_other_files_training() -> None:
    keys = [n.to_bytes(8, "big") for n in (0, 1)]

    assert [prepare.split_of(key, held=True, by_file=True) for key in keys] == ["val", "holdout"]
    assert [prepare.split_of(key, held=False, by_file=True) for key in keys] == ["train", "train"]


def test_rows_have_the_declared_shape_and_begin_with_bos(corpus: Path) -> None:
    dataset = make(corpus)

    assert dataset.val_rows.shape == (20, 17)  # 320 targets in rows of 16
    assert dataset.train_rows.shape[1] == 17
    assert (dataset.train_rows[:, 0] == dataset.bos).all() and (dataset.val_rows[:, 0] == dataset.bos).all()
    assert (dataset.vocab_size, dataset.bos, dataset.token_bytes.shape) == (300, 299, (300,))


def test_bytes_in_the_manifest_are_those_of_the_rows_and_the_rest_is_declared(corpus: Path) -> None:
    dataset = make(corpus)

    for name, rows in (("train", dataset.train_rows), ("val", dataset.val_rows)):
        split = dataset.manifest["splits"][name]
        assert split["text_bytes"] == dataset.token_bytes[rows].sum()
        assert split["rows"] == len(rows)
        assert split["left_out_bytes"] == split["document_bytes"] - split["text_bytes"]
    longest = dataset.token_bytes.max()
    assert 0 <= dataset.manifest["splits"]["train"]["left_out_bytes"] <= 16 * longest  # less than one row


def test_rows_of_a_split_hold_nothing_but_parts_of_its_documents(corpus: Path) -> None:
    dataset = make(corpus)
    rows = {
        "train": dataset.train_rows,
        "val": dataset.val_rows,
        "holdout": holdout.read_holdout("textdir", dataset.snapshot),
    }

    for split, expected in tokens_by_split(corpus, dataset).items():
        whole = [as_words(document) for document in expected]
        assert all(any(as_words(part) in document for document in whole) for part in parts(rows[split], dataset.bos))


def test_training_rows_hold_every_token_of_the_training_text_but_the_last_partial_row(corpus: Path) -> None:
    dataset = make(corpus)

    expected = Counter(itertools.chain.from_iterable(tokens_by_split(corpus, dataset)["train"]))
    found = Counter(itertools.chain.from_iterable(parts(dataset.train_rows, dataset.bos)))
    assert not found - expected
    left_out = expected - found
    assert left_out.total() < 16
    left_out_bytes = sum(int(dataset.token_bytes[token]) * times for token, times in left_out.items())
    assert left_out_bytes == dataset.manifest["splits"]["train"]["left_out_bytes"]


def test_validation_rows_come_from_the_documents_with_the_smallest_hashes(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "book").write_text("".join(f"line {i} of a book about {i % 7} cats\n" for i in range(30_000)))
    dataset = make(folder)
    encoding = prepare.load_tokenizer(dataset)

    keys = {hashlib.sha256(d.encode()).digest(): d for d in data_sources.pieces((folder / "book").read_text())}
    first = keys[min(key for key in keys if prepare.split_of(key, held=False, by_file=False) == "val")]

    assert encoding.decode(next(parts(dataset.val_rows, dataset.bos))) in first  # it is longer than all 20 rows
    assert all(encoding.decode(part) in first for part in parts(dataset.val_rows, dataset.bos))


def tokens_by_split(corpus: Path, dataset: prepare.Dataset) -> dict[str, list[list[int]]]:
    """The tokens of every document, worked out from the files alone (each is one document)."""
    encoding = prepare.load_tokenizer(dataset)
    found: dict[str, list[list[int]]] = {"train": [], "val": [], "holdout": []}
    for path in corpus.iterdir():
        number = int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:8], "big") % 1000
        split = "holdout" if number < 50 else "val" if number < 100 else "train"
        found[split].append(encoding.encode_ordinary(path.read_text()))
    return found


def parts(rows: Any, bos: int) -> Iterator[list[int]]:
    """What stands between two BOS in a row."""
    for row in rows.tolist():
        for is_bos, group in itertools.groupby(row, lambda token: token == bos):
            if not is_bos:
                yield list(group)


def as_words(tokens: list[int]) -> str:
    return "".join(f" {token} " for token in tokens)


def test_equal_inputs_give_equal_bytes(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(corpus)
    held = holdout.read_holdout("textdir", first.snapshot)
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "other"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other state"))
    second = make(corpus)

    assert first.folder != second.folder and first.snapshot == second.snapshot
    assert {n: f["sha256"] for n, f in first.manifest["files"].items()} == {
        n: f["sha256"] for n, f in second.manifest["files"].items()
    }
    assert (held == holdout.read_holdout("textdir", second.snapshot)).all()


def test_a_renamed_source_changes_nothing(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "texts")
    before = make(folder)
    (folder / "0000.txt").rename(folder / "zzzz.txt")

    assert make(folder).folder == before.folder


def test_changed_text_vocabulary_or_row_length_is_another_snapshot(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "texts")
    snapshots = [make(folder).snapshot, make(folder, vocab_size=280).snapshot]
    snapshots.append(make(folder, replace(SMALL, seq_len=8)).snapshot)
    (folder / "0000.txt").write_text("changed")
    snapshots.append(make(folder).snapshot)

    assert len(set(snapshots)) == 4


def test_copies_of_a_document_are_dropped(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "texts")
    (folder / "copy.txt").write_bytes((folder / "0001.txt").read_bytes())

    dataset = make(folder)

    assert dataset.manifest["copies_dropped"] == 1
    assert sum(s["documents"] for s in dataset.manifest["splits"].values()) < 300  # 300 with the hold-out's


def test_a_second_preparation_finds_the_first(corpus: Path) -> None:
    dataset = make(corpus)
    written = (dataset.folder / "manifest.json").stat().st_mtime_ns
    lines: list[str] = []

    folder, there = prepare.prepare(SMALL, data_sources.Request(prepare.cache_root(), lines.append, path=corpus))

    assert (folder, there, lines) == (dataset.folder, True, [])
    assert (folder / "manifest.json").stat().st_mtime_ns == written


def test_too_little_text_says_how_much_is_needed(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path / "texts", files=8)

    with pytest.raises(Refused, match=r"too little text .* 20 are needed. About \d+\.\d MB should be enough"):
        make(folder)
    assert prepared_folders() == []


def test_a_smaller_corpus_may_have_fewer_rows_down_to_the_least(corpus: Path) -> None:
    dataset = make(corpus, replace(SMALL, eval_tokens=16 * 10_000, min_eval_tokens=320))

    assert 20 <= len(dataset.val_rows) < 10_000


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_corpus(tmp_path / "texts")
    train = prepare.train_tokenizer

    def change_then_train(*words: Any) -> Any:
        (folder / "0000.txt").write_text("other words")
        return train(*words)

    monkeypatch.setattr(prepare, "train_tokenizer", change_then_train)
    with pytest.raises(Refused, match="changed while it was being read"):
        make(folder)
    assert prepared_folders() == []


# ---- kills, disks, neighbours --------------------------------------------------------------------


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_kill_leaves_no_half_folder_and_the_next_run_finishes(texts: Path, place: int) -> None:
    killed = run("--dataset", "textdir", "--path", texts, AUTOEXPERIMENT_FAIL_AT=str(place))
    named = [p.name for p in prepared_folders() if not p.name.startswith(".")]
    usable = [name for name in named if (prepare.cache_root() / "textdir" / name / "manifest.json").exists()]

    again = run("--dataset", "textdir", "--path", texts)

    assert killed.returncode == -9
    assert named == usable and len(named) == (1 if place == 3 else 0)
    assert again.returncode == 0, again.stderr
    assert [p.name for p in prepared_folders()] == [prepare.load_dataset("textdir").snapshot]


def test_a_killed_preparation_is_not_loaded(texts: Path) -> None:
    run("--dataset", "textdir", "--path", texts, AUTOEXPERIMENT_FAIL_AT="2")

    with pytest.raises(Refused, match="not prepared"):
        prepare.load_dataset("textdir")


def test_a_full_disk_is_reported_and_nothing_is_left(texts: Path) -> None:
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        f"sys.path.insert(0, {str(ROOT)!r}); import prepare\n"
        f"sys.exit(prepare.main(['--dataset', 'textdir', '--path', {str(texts)!r}]))"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.returncode == 1
    assert "Cannot read or write" in answer.stderr and "Traceback" not in answer.stderr
    assert prepared_folders() == []


def test_a_second_prepare_waits_for_the_first_and_goes_on(texts: Path) -> None:
    lock = Lock(prepare.cache_root() / "textdir" / ".lock").acquire()
    command = [sys.executable, str(ROOT / "prepare.py"), "--dataset", "textdir", "--path", str(texts)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None

    said = process.stdout.readline()
    nothing_yet = prepared_folders()
    lock.release()
    rest, _ = process.communicate()

    assert f"(pid {os.getpid()})" in said and "Waiting" in said
    assert nothing_yet == []
    assert process.returncode == 0 and "Wrote" in rest


# ---- what --check and load_dataset notice --------------------------------------------------------


def flip_a_bit(path: Path) -> None:
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "tokenizer.json", "token_bytes.npy"])
def test_check_finds_one_wrong_bit(texts: Path, name: str) -> None:
    run("--dataset", "textdir", "--path", texts)
    healthy = run("--dataset", "textdir", "--check")
    folder = prepared_folders()[0]
    flip_a_bit(folder / name)

    damaged = run("--dataset", "textdir", "--check")

    assert (healthy.returncode, damaged.returncode) == (0, 1)
    assert name in damaged.stderr and f"Type: rm -r {folder} && python prepare.py" in damaged.stderr


def test_check_finds_a_changed_holdout(corpus: Path) -> None:
    dataset = make(corpus)
    flip_a_bit(holdout.holdout_path("textdir", dataset.snapshot) / "rows.npy")

    answer = run("--dataset", "textdir", "--check")

    assert answer.returncode == 1
    assert "hold-out" in answer.stderr and "was changed" in answer.stderr


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 34)])
def test_a_missing_or_short_file_is_not_loaded(corpus: Path, damage: Callable[[Path], None]) -> None:
    dataset = make(corpus)
    damage(dataset.folder / "train.bin")

    with pytest.raises(Refused, match=r"is damaged: train\.bin .*Type: rm -r"):
        prepare.load_dataset("textdir")


def test_a_damaged_folder_is_made_anew(corpus: Path) -> None:
    dataset = make(corpus)
    (dataset.folder / "val.bin").unlink()

    assert make(corpus).val_rows.shape == (20, 17)


def test_a_missing_holdout_is_made_anew(corpus: Path) -> None:
    dataset = make(corpus)
    before = holdout.read_holdout("textdir", dataset.snapshot)
    shutil.rmtree(holdout.holdout_path("textdir", dataset.snapshot))

    make(corpus)

    assert (holdout.read_holdout("textdir", dataset.snapshot) == before).all()


def test_an_unprepared_dataset_says_what_to_type() -> None:
    with pytest.raises(Refused, match=r"'pystdlib' is not prepared .*Type: python prepare\.py$"):
        prepare.load_dataset()
    with pytest.raises(Refused, match=r"Type: python prepare\.py --dataset climbmix$"):
        prepare.load_dataset("climbmix")
    with pytest.raises(UsageError, match="Did you mean 'climbmix'"):
        prepare.load_dataset("climbmx")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "has no manifest"), ("{", "is damaged"), ("{}", "format None")]
)
def test_a_folder_with_a_wrong_manifest_is_refused(corpus: Path, content: str | None, message: str) -> None:
    file = make(corpus).folder / "manifest.json"
    file.unlink() if content is None else file.write_text(content)

    with pytest.raises(Refused, match=message):
        prepare.load_dataset("textdir")


def test_the_harness_chooses_the_folder_by_environment(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(corpus)
    make(corpus, vocab_size=280)

    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(first.folder))

    assert prepare.load_dataset().snapshot == first.snapshot
    assert prepare.load_dataset("textdir").vocab_size == 300


# ---- the hold-out --------------------------------------------------------------------------------


def test_nothing_that_a_training_run_imports_leads_to_the_holdout(corpus: Path) -> None:
    make(corpus)
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import prepare\n"
        "dataset = prepare.load_dataset('textdir')\n"
        "next(prepare.batches(dataset.train_rows, 2, seed=0)); prepare.load_tokenizer(dataset); prepare.verify(dataset.folder)\n"
        "import mlx.core as mx\n"
        "prepare.evaluate_bpb(lambda x: mx.zeros((*x.shape, dataset.vocab_size)), dataset)\n"
        "assert 'autoexperiment.holdout' not in sys.modules and 'autoexperiment.paths' not in sys.modules\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_a_training_import_loads_no_preparation_library() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import prepare\n"
        "heavy = {'mlx', 'mlx.core', 'rustbpe', 'tiktoken', 'pyarrow', 'huggingface_hub', 'tqdm', 'argparse'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_no_file_of_the_prepared_folder_names_the_holdout(corpus: Path) -> None:
    dataset = make(corpus)

    path = holdout.holdout_path("textdir", dataset.snapshot)
    assert path.exists()
    for file in dataset.folder.iterdir():
        blob = file.read_bytes()
        assert str(path).encode() not in blob and str(path.parent.parent).encode() not in blob
    assert prepare.cache_root() not in path.parents


def test_the_holdout_is_readable_by_this_user_alone(corpus: Path) -> None:
    dataset = make(corpus)

    path = holdout.holdout_path("textdir", dataset.snapshot)
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "rows.npy").stat().st_mode & 0o777 == 0o600
    rows = holdout.read_holdout("textdir", dataset.snapshot)
    assert rows.shape == (20, 17) and (rows[:, 0] == dataset.bos).all()


def test_a_missing_holdout_is_an_error() -> None:
    with pytest.raises(Refused, match=r"is missing\. Prepare the data again"):
        holdout.read_holdout("textdir", "0123456789ab")


@pytest.mark.parametrize("word", ["..", "a/b", "", "."])
def test_a_holdout_name_cannot_lead_out_of_its_folder(word: str) -> None:
    with pytest.raises(UsageError):
        holdout.holdout_path(word, "0123456789ab")


# ---- batches -------------------------------------------------------------------------------------


ROWS = np.arange(60, dtype=np.uint16).reshape(10, 6)


def first_columns(batch_size: int, count: int, *, seed: int = 0) -> list[int]:
    stream = prepare.batches(ROWS, batch_size, seed=seed)
    return [value for x, _ in itertools.islice(stream, count) for value in np.array(x)[:, 0].tolist()]


def test_targets_are_the_inputs_one_place_on() -> None:
    x, y = next(prepare.batches(ROWS, 4, seed=0))

    assert x.shape == y.shape == (4, 5)
    assert x.dtype == y.dtype == mx.int32
    assert (np.array(y) == np.array(x) + 1).all()


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 25])
def test_every_row_comes_once_per_epoch(batch_size: int) -> None:
    seen = first_columns(batch_size, 30)

    for epoch in range(len(seen) // 10):
        assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(0, 60, 6))


def test_batches_follow_from_the_seed_and_epochs_differ() -> None:
    assert first_columns(5, 8, seed=1) == first_columns(5, 8, seed=1)
    assert first_columns(5, 2, seed=1) != first_columns(5, 2, seed=2)
    seen = first_columns(5, 4, seed=1)
    assert seen[:10] != seen[10:]


# ---- bits per byte -------------------------------------------------------------------------------


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary_per_token(corpus: Path) -> None:
    dataset = make(corpus)

    score = prepare.evaluate_bpb(lambda x: mx.zeros((*x.shape, 300)), dataset)

    targets = dataset.val_rows[:, 1:]
    counted = int((targets != dataset.bos).sum())
    text_bytes = dataset.manifest["splits"]["val"]["text_bytes"]
    assert score == pytest.approx(math.log2(300) * counted / text_bytes, rel=1e-6)


def test_bits_per_byte_by_hand() -> None:
    # Two positions, three tokens of 0, 2 and 3 bytes; probabilities 1/2 and 1/4 for the targets.
    logits = mx.log(mx.array([[[0.25, 0.5, 0.25], [0.5, 0.25, 0.25]]]))
    lengths = np.array([0, 2, 3], dtype=np.int32)

    nats, text_bytes = prepare.nats_and_bytes(logits, mx.array([[1, 2]]), lengths)

    assert nats == pytest.approx(3 * math.log(2), rel=1e-6)  # 1 bit + 2 bits
    assert text_bytes == 5
    assert prepare.bpb(nats, text_bytes) == pytest.approx(0.6)


def test_a_target_without_bytes_costs_nothing() -> None:
    logits, lengths = mx.array([[[0.0, 9.0, 0.0]]]), np.array([0, 2, 3], dtype=np.int32)

    assert prepare.nats_and_bytes(logits, mx.array([[0]]), lengths) == (0.0, 0)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16, 19, 20, 64])
def test_the_batch_size_changes_nothing(corpus: Path, batch_size: int) -> None:
    dataset = make(corpus)
    table = mx.array(np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32))

    score = prepare.evaluate_bpb(lambda x: table[x], dataset, batch_size=batch_size)

    assert score == pytest.approx(prepare.evaluate_bpb(lambda x: table[x], dataset, batch_size=20), abs=1e-6)


def test_the_model_sees_inputs_and_never_targets(corpus: Path) -> None:
    dataset = make(corpus)
    seen = []

    def model(*words: Any) -> mx.array:
        (x,) = words
        seen.append(np.array(x))
        return mx.zeros((*x.shape, 300))

    prepare.evaluate_bpb(model, dataset, batch_size=8)

    assert [len(x) for x in seen] == [8, 8, 4]
    assert (np.concatenate(seen) == dataset.val_rows[:, :-1]).all()


def test_progress_counts_rows(corpus: Path) -> None:
    steps: list[tuple[int, int]] = []

    prepare.evaluate_bpb(
        lambda x: mx.zeros((*x.shape, 300)), make(corpus), batch_size=8, on_progress=lambda *step: steps.append(step)
    )

    assert steps == [(8, 20), (16, 20), (20, 20)]


def test_logits_of_another_shape_are_refused(corpus: Path) -> None:
    with pytest.raises(Refused, match=r"shape \(16, 16, 299\). Needed"):
        prepare.evaluate_bpb(lambda x: mx.zeros((*x.shape, 299)), make(corpus))


@pytest.mark.parametrize("offset", [1e4, 1e9, 1e30])
def test_huge_equal_logits_are_still_a_uniform_guess(offset: float) -> None:
    logits, lengths = mx.full((1, 4, 64), offset), np.ones(64, dtype=np.int32)

    nats, _ = prepare.nats_and_bytes(logits, mx.zeros((1, 4), dtype=mx.int32), lengths)

    assert nats == pytest.approx(4 * math.log(64), rel=1e-6)  # logsumexp(x) - x[0] in float32 would be 0 at 1e9


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_never_score(value: float) -> None:
    logits = np.zeros((1, 2, 4), dtype=np.float32)
    logits[0, 1, 2] = value

    nats, _ = prepare.nats_and_bytes(mx.array(logits), mx.array([[1, 2]]), np.ones(4, dtype=np.int32))

    assert not math.isfinite(nats)


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_logits_are_scored_in_float32(dtype: mx.Dtype) -> None:
    logits, targets, lengths = (
        mx.zeros((8, 64, 512)).astype(dtype),
        mx.zeros((8, 64), dtype=mx.int32),
        np.ones(512, dtype=np.int32),
    )

    nats, text_bytes = prepare.nats_and_bytes(logits, targets, lengths)

    assert nats / text_bytes == pytest.approx(math.log(512), rel=1e-6)


@settings(PATIENT, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_numpy_and_mlx_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = (10 * rng.standard_normal((2, 3, 50))).astype(np.float32)
    targets = rng.integers(0, 50, (2, 3)).astype(np.int32)

    by_mlx = np.array(prepare._nats(mx, mx.array(logits), mx.array(targets)))

    assert by_mlx == pytest.approx(prepare._nats(np, logits, targets), abs=1e-4)


# ---- command line --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "pystdlb"], "Did you mean 'pystdlib'"),
        (["--dataset", "textdir"], "needs a folder"),
        (["--path", "x"], "--path is for --dataset textdir"),
        (["--num-shards", "2"], "--num-shards is for datasets on the hub"),
        (["--vocab-size", "256"], "Allowed: 257"),
        (["--vocab-size", "65536"], "to 65535"),
    ],
)
def test_wrong_words_exit_2_with_what_is_allowed(words: list[str], message: str) -> None:
    answer = run(*words)

    assert answer.returncode == 2
    assert message in answer.stderr and "Traceback" not in answer.stderr


def test_a_missing_library_is_named_with_the_command_that_installs_it(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "rustbpe.py").write_text("raise ModuleNotFoundError(\"No module named 'rustbpe'\", name='rustbpe')")

    answer = run("--dataset", "textdir", "--path", texts, PYTHONPATH=str(tmp_path))

    assert answer.returncode == 1
    assert "rustbpe is not installed" in answer.stderr and "pip install" in answer.stderr
    assert prepared_folders() == []


def test_the_standard_library_is_prepared_checked_and_found_again() -> None:
    first, second, check = run(), run(), run("--check")

    assert (first.returncode, second.returncode, check.returncode) == (0, 0, 0), first.stderr
    dataset = prepare.load_dataset()
    assert first.stdout.splitlines()[-1] == f"Wrote: {dataset.folder}"
    assert second.stdout.splitlines()[-1] == f"Already prepared: {dataset.folder}"
    assert dataset.val_rows.shape == (256, 257)
    assert json.loads((dataset.folder / "manifest.json").read_text())["python"] == sys.version.split()[0]
    assert "import" in prepare.load_tokenizer(dataset).decode(dataset.train_rows[:200].reshape(-1).tolist())
