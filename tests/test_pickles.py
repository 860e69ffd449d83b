"""Pickles read as data: what CIFAR's batches hold comes out, and nothing that a file asks for is ever run."""

from __future__ import annotations

import copyreg
import os
import pickle
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import python2_pickle

from autoexperiment.datasets import pickles
from autoexperiment.datasets.pickles import read_batch
from autoexperiment.errors import DataError

PIXELS = np.arange(24, dtype=np.uint8).reshape(4, 6)
BATCH = {"batch_label": "training batch 1 of 5", "labels": [3, 0, 9, 255, 300, -1], "data": PIXELS}


def read(tmp_path: Path, blob: bytes) -> dict[str, Any]:
    path = tmp_path / "batch"
    path.write_bytes(blob)
    return read_batch(path)


def refusal(tmp_path: Path, blob: bytes) -> str:
    """The message; it names the file."""
    with pytest.raises(DataError) as caught:
        read(tmp_path, blob)
    assert str(tmp_path / "batch") in str(caught.value)
    return str(caught.value)


# ---- what is read --------------------------------------------------------------------------------


def test_the_fixture_is_what_python_reads_from_python_2() -> None:
    found = pickle.loads(python2_pickle(BATCH), encoding="bytes")

    assert list(found) == [b"batch_label", b"labels", b"data"]
    assert found[b"labels"] == BATCH["labels"]
    assert found[b"data"].tolist() == PIXELS.tolist()


def test_a_batch_of_python_2_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, python2_pickle(BATCH))

    assert found["labels"] == [3, 0, 9, 255, 300, -1]
    assert bytes(found["batch_label"]) == b"training batch 1 of 5"
    assert found["data"].dtype == np.uint8
    assert found["data"].tolist() == PIXELS.tolist()


def test_the_exact_bytes_of_a_small_batch_of_python_2_are_read(tmp_path: Path) -> None:
    blob = (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x06K\x09eU\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05"
        b"cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87Rq\x07(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x08U\x02u1K\x00K\x01\x87R"
        b"q\x09(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x06\x00\x00\x00abcdeftbu."
    )

    found = read(tmp_path, blob)

    assert found["labels"] == [6, 9]
    assert found["data"].tolist() == [[97, 98, 99], [100, 101, 102]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_batch_that_was_saved_again_by_python_3_is_read(tmp_path: Path, protocol: int) -> None:
    labels = np.array([1, 2, -3], np.int64)
    big = np.arange(3, dtype=">i4")
    again = {b"data": PIXELS, "labels": labels, "big": big, "text": "ünïcode", "none": None, "t": (1, True), "n": 2**40}

    found = read(tmp_path, pickle.dumps(again, protocol))

    assert found["data"].tolist() == PIXELS.tolist()
    assert found["labels"].tolist() == [1, 2, -3]
    assert found["big"].tolist() == [0, 1, 2]
    assert (found["text"], found["none"], found["t"], found["n"]) == ("ünïcode", None, (1, True), 2**40)


@settings(deadline=None, max_examples=50)
@given(
    labels=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=2100),
    pixels=st.binary(min_size=1, max_size=400),
    text=st.text(st.characters(max_codepoint=255), max_size=300),
)
def test_whatever_a_batch_holds_comes_out(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int], pixels: bytes, text: str
) -> None:
    array = np.frombuffer(pixels, np.uint8).reshape(1, -1)

    found = read(tmp_path_factory.mktemp("p"), python2_pickle({"labels": labels, "data": array, "filenames": [text]}))

    assert found["labels"] == labels
    assert found["data"].tobytes() == pixels
    assert bytes(found["filenames"][0]).decode("latin-1") == text


def test_pixels_are_a_view_of_the_file(tmp_path: Path) -> None:
    found = read(tmp_path, python2_pickle(BATCH))["data"]

    assert not found.flags.writeable
    assert not found.flags.owndata


# ---- what is refused -----------------------------------------------------------------------------


class Calls:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.answer = (function, arguments)

    def __reduce__(self) -> Any:
        return self.answer


class TakesState:
    """A class whose instances do something when a pickle sets their state."""

    def __getstate__(self) -> Any:
        return {"folder": self.folder}

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["folder"]).mkdir()

    folder = ""


def with_state(folder: str, protocol: int) -> bytes:
    value = TakesState()
    value.folder = folder
    return pickle.dumps({"data": value}, protocol)


def unicode_of(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


OS = os.mkdir.__module__
ATTACKS: dict[str, Callable[[str], bytes]] = {
    "reduce, protocol 0": lambda folder: pickle.dumps(Calls(os.mkdir, folder), 0),
    "reduce, protocol 2": lambda folder: pickle.dumps({"data": Calls(os.mkdir, folder)}, 2),
    "stack_global": lambda folder: pickle.dumps({"data": Calls(os.mkdir, folder)}, 4),
    "protocol 5": lambda folder: pickle.dumps({"data": Calls(os.mkdir, folder)}, 5),
    "eval": lambda folder: pickle.dumps({"data": Calls(eval, f"__import__('os').mkdir({folder!r})")}, 2),
    "inst": lambda folder: f"(S{folder!r}\ni{OS}\nmkdir\n.".encode(),
    "obj": lambda folder: f"(c{OS}\nmkdir\n".encode() + unicode_of(folder) + b"o.",
    "build with __setstate__": lambda folder: with_state(folder, 2),
    "build with __setstate__, protocol 4": lambda folder: with_state(folder, 4),
    "a name by way of a known module": lambda folder: (
        b"\x80\x04\x8c\x05numpy\x8c\x0df2py.os.mkdir\x93" + unicode_of(folder) + b"\x85R."
    ),
    "extension registry": lambda folder: b"\x80\x02\x82\xf0" + unicode_of(folder) + b"\x85R.",
    "extension registry, 2 bytes": lambda folder: b"\x80\x02\x83\xf0\x00" + unicode_of(folder) + b"\x85R.",
    "extension registry, 4 bytes": lambda folder: b"\x80\x02\x84\xf0\x00\x00\x00" + unicode_of(folder) + b"\x85R.",
}


@pytest.fixture
def extension() -> Any:
    copyreg.add_extension(OS, "mkdir", 0xF0)
    yield
    copyreg.remove_extension(OS, "mkdir", 0xF0)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_pickle_would_run_is_refused_and_does_not_run(tmp_path: Path, attack: str, extension: Any) -> None:
    planted = tmp_path / "planted"
    blob = ATTACKS[attack](str(planted))
    if attack != "a name by way of a known module":  # which numpy happens to keep private by now
        pickle.loads(blob)
        assert planted.is_dir(), "the attack is alive"
        planted.rmdir()

    refusal(tmp_path, blob)

    assert not planted.exists()


@pytest.mark.parametrize(
    "blob",
    [
        b"\x80\x02Pname\n.",  # a persistent id
        b"\x80\x02U\x04nameQ.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
        b"\x80\x04cnumpy\nndarray\n)}\x92.",  # NEWOBJ_EX
        b"\x80\x02cbuiltins\ngetattr\n.",
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.",
        b"\x80\x02cnumpy\nload\n.",
        b"\x80\x02c_codecs\ndecode\n.",
        b"\x80\x02c" + b"a" * 500,
        b"\x80\x05\x97.",  # NEXT_BUFFER
    ],
)
def test_opcodes_and_names_that_no_batch_needs_are_refused(tmp_path: Path, blob: bytes) -> None:
    assert "nothing in them is run" in refusal(tmp_path, blob)


@pytest.mark.parametrize(
    "body",
    [
        b"cnumpy\nndarray\nK\x05\x85R",  # calls the class itself
        b"cnumpy\ndtype\nU\x02O8K\x00K\x01\x87R",  # objects
        b"cnumpy\ndtype\nU\x02V8K\x00K\x01\x87R",
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R",
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01=NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85U\x01b\x87R",
        b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00utf16\x86R",
        b"}}b",  # sets the state of a dict
        b"K\x01)R",  # calls a number
        b"K\x01]b",
        b"(K\x01K\x02e",
        b"]U\x01bNs",  # sets an entry of a list
    ],
)
def test_known_names_with_other_arguments_are_refused(tmp_path: Path, body: bytes) -> None:
    refusal(tmp_path, b"\x80\x02}U\x01a" + body + b"s.")


def array_pickle(shape: bytes, raw: bytes, *, dtype: bytes = b"u1", fortran: bytes = b"\x89") -> bytes:
    return (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\nU\x02"
        + dtype
        + b"K\x00K\x01\x87R"
        + fortran
        + b"U"
        + bytes([len(raw)])
        + raw
        + b"tbs."
    )


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (array_pickle(b"K\x02K\x03\x86", b"abcde"), "needs 6 bytes, and 5 are there"),
        (array_pickle(b"K\x02K\x03\x86", b"abcdefg"), "needs 6 bytes, and 7 are there"),
        (array_pickle(b"K\x03\x85", b"abcdef", dtype=b"u4"), "needs 12 bytes, and 6 are there"),
        (array_pickle(b"J\xff\xff\xff\xffK\x06\x86", b"abcdef"), "positive lengths"),
        (array_pickle(b"K\x00\x85", b""), "positive lengths"),
        (array_pickle(b"\x88\x85", b"a"), "positive lengths"),
        (array_pickle(b"K\x01K\x01K\x01\x87", b"a"), "positive lengths"),
        (array_pickle(b"K\x02K\x03\x86", b"abcdef", fortran=b"\x88"), "by rows"),
    ],
)
def test_an_array_that_does_not_fit_its_bytes_is_refused(tmp_path: Path, blob: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path, blob)


def test_a_sound_array_of_the_same_make_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, array_pickle(b"K\x02K\x03\x86", b"abcdef"))["data"].shape == (2, 3)


@pytest.mark.parametrize("blob", [b"", b"\x80", b".", b"\x80\x02K\x01.", b"\x80\x02].", b"not a pickle", b"\x80\x02}"])
def test_what_is_no_dict_is_refused(tmp_path: Path, blob: bytes) -> None:
    refusal(tmp_path, blob)


def test_a_tuple_of_more_than_there_is_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path, b"\x80\x02K\x01\x87}.")


def test_a_key_without_a_value_is_refused(tmp_path: Path) -> None:
    refusal(tmp_path, b"\x80\x02}(U\x01aK\x01U\x01bu.")


def test_a_name_is_short(tmp_path: Path) -> None:
    assert read(tmp_path, b"\x80\x02}U\x64" + b"a" * 100 + b"Ns.") == {"a" * 100: None}
    refusal(tmp_path, b"\x80\x02}U\x65" + b"a" * 101 + b"Ns.")


@pytest.mark.parametrize("blob", [b"cposix\nmkdir\n", b"\x8c\x05posix\x8c\x05mkdir\x93"])
def test_the_message_says_what_was_asked_for(tmp_path: Path, blob: bytes) -> None:
    assert "it asks for 'posix.mkdir'" in refusal(tmp_path, b"\x80\x04" + blob + b"}.")


def test_keys_are_text_only(tmp_path: Path) -> None:
    # Hashing tuples in tuples, a million deep, is the end of a process that uses them as keys.
    refusal(tmp_path, b"\x80\x02})" + b"\x85" * 1000 + b"K\x01s.")


def test_a_batch_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    blob = python2_pickle(BATCH)

    for n in range(len(blob)):
        refusal(tmp_path, blob[:n])


@settings(deadline=None, max_examples=300)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), protocol=st.sampled_from([2, 4, 5]))
def test_a_changed_byte_gives_a_dict_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, protocol: int
) -> None:
    blob = bytearray(python2_pickle(BATCH) if protocol == 2 else pickle.dumps(BATCH, protocol))
    blob[position % len(blob)] = value

    try:
        found = read(tmp_path_factory.mktemp("p"), bytes(blob))
    except DataError:
        return

    assert isinstance(found, dict)


CODES = [bytes([code]) for code in pickles._STEPS]


@settings(deadline=None, max_examples=500)
@given(parts=st.lists(st.sampled_from(CODES) | st.binary(max_size=3), max_size=60))
def test_opcodes_in_any_order_give_a_dict_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]
) -> None:
    try:
        found = read(tmp_path_factory.mktemp("p"), b"\x80\x02" + b"".join(parts) + b".")
    except DataError:
        return

    assert isinstance(found, dict)


# ---- bounds --------------------------------------------------------------------------------------


def test_text_that_is_encoded_again_and_again_does_not_fill_the_memory(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x01X\x06\x00\x00\x00latin1q\x02"
    blob = b"\x80\x02}]" + text + b"c_codecs\nencode\nq\x03" + b"h\x03h\x01h\x02\x86R" * 1000 + b"."

    assert "encodes more text than it holds" in refusal(tmp_path, blob)


def test_the_number_of_opcodes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_STEPS", 100)

    assert "more than 100 opcodes" in refusal(tmp_path, b"\x80\x02" + b"N" * 200 + b"}.")
    assert read(tmp_path, b"\x80\x02" + b"N" * 50 + b"}.") == {}


def test_the_depth_is_bounded(tmp_path: Path) -> None:
    assert "nested deeper than 100" in refusal(tmp_path, b"\x80\x02" + b"(" * 101 + b"}.")


def test_the_size_is_bounded_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "batch"
    with path.open("wb") as file:
        file.truncate(pickles.MAX_BYTES + 1)  # sparse: takes no room

    with pytest.raises(DataError, match="at most 536,870,912 are read"):
        read_batch(path)


def test_a_length_beyond_the_end_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    assert "ends too early" in refusal(tmp_path, b"\x80\x04}\x8e" + struct.pack("<Q", sys.maxsize) + b"a.")
    assert "ends too early" in refusal(tmp_path, b"\x80\x02}T" + struct.pack("<i", -5) + b"aaaaaaa.")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*nothing: No such file"):
        read_batch(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"Cannot read .*: Is a directory"):
        read_batch(tmp_path)
