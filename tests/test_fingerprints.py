"""Fingerprints of data: the same for the same data wherever it lies, another for any other data or split."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from trainings import classification, custom, regression

from autoexperiment import datasets
from autoexperiment.datasets import soundness, synthetic
from autoexperiment.datasets.fingerprints import Fingerprint, of_arrays
from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]
NUMBERS = np.random.default_rng(7).normal(size=(30, 5))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))


def fingerprint(spec: dict[str, Any], root: Path) -> Fingerprint:
    return datasets.load(spec, root=root).fingerprint


def differing(a: Fingerprint, b: Fingerprint) -> tuple[bool, bool]:
    return a.rows != b.rows, a.parts != b.parts


# ---- arrays


def test_the_hash_is_of_shape_type_and_numbers() -> None:
    expected = hashlib.sha256(b'[[30, 5], "<f8"]' + NUMBERS.tobytes() + b'[[2], "<i4"]' + b"\1\0\0\0\2\0\0\0")

    assert of_arrays(NUMBERS, np.array([1, 2], np.int32)) == expected.hexdigest()


@pytest.mark.parametrize(
    "laid_out",
    [
        np.asfortranarray,
        lambda array: np.repeat(array, 2, axis=1)[:, ::2],
        lambda array: array.astype(array.dtype.newbyteorder(">")),
    ],
    ids=["columns first", "strided", "other byte order"],
)
def test_how_an_array_lies_does_not_matter(laid_out: Callable[[Array], Array]) -> None:
    assert of_arrays(laid_out(NUMBERS)) == of_arrays(NUMBERS)


def test_in_how_many_pieces_it_is_read_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = of_arrays(NUMBERS)
    monkeypatch.setattr(soundness, "_NUMBERS_AT_ONCE", 7)

    assert of_arrays(NUMBERS) == whole


def test_another_type_shape_or_border_is_another_hash() -> None:
    zeros = np.zeros((2, 2))
    made = [(zeros,), (zeros.astype(np.int64),), (zeros.reshape(4, 1),), (zeros[:1], zeros[1:]), (zeros[:1],)]

    assert len({of_arrays(*arrays) for arrays in made}) == len(made)


def test_rows_larger_than_memory_can_be_hashed(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.float64, shape=(40_000, 200), fortran_order=True)  # type: ignore[no-untyped-call]
    X = np.load(tmp_path / "X.npy", mmap_mode="r")

    tracemalloc.start()
    of_arrays(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert X.nbytes == 64_000_000
    assert peak < 8_000_000


# ---- files


def test_the_same_numbers_have_one_fingerprint_whatever_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(repr, row)) for row in NUMBERS.tolist()))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "u.csv").write_text("\n\n".join(";".join(map(repr, row)) for row in NUMBERS.tolist()))
    os.utime(tmp_path / "t.csv", (0, 0))
    np.save(tmp_path / "t.npy", NUMBERS)

    found = {fingerprint(custom(path), tmp_path) for path in ("t.csv", "elsewhere/u.csv", "t.npy")}

    assert len(found) == 1


def changed(row: int, column: int) -> Array:
    array = NUMBERS.copy()
    array[row, column] = np.nextafter(array[row, column], 9.0)
    return array


@pytest.mark.parametrize(
    ("array", "how", "differs"),
    [
        (NUMBERS, {}, (False, False)),
        (changed(29, 0), {}, (True, True)),
        (changed(0, 4), {}, (True, True)),  # a target
        (NUMBERS[::-1], {}, (True, True)),
        (NUMBERS[:-1], {}, (True, True)),
        (NUMBERS, {"test_fraction": 0.2}, (False, True)),
        (NUMBERS, {"val_fraction": 0.2}, (False, True)),
        (NUMBERS, {"params": {"seed": 1}}, (False, True)),
        (NUMBERS, {"params": {"normalize": True}}, (False, True)),
        (NUMBERS, {"params": {"seed": 42, "normalize": False}}, (False, False)),
        (NUMBERS, {"test_fraction": 0.101}, (False, False)),  # 3 rows all the same
    ],
)
def test_rows_and_split_are_covered(
    tmp_path: Path, array: Array, how: dict[str, Any], differs: tuple[bool, bool]
) -> None:
    np.save(tmp_path / "t.npy", NUMBERS)
    before = fingerprint(custom("t.npy"), tmp_path)
    np.save(tmp_path / "t.npy", array)

    after = fingerprint({**custom("t.npy"), **how}, tmp_path)

    assert differing(before, after) == differs


def test_pixels_and_labels_of_pictures_are_covered(tmp_path: Path) -> None:
    pictures.write_mnist(tmp_path, 6, 4, 0, side=8)
    spec = {**custom("."), "name": "mnist"}
    found = [fingerprint(spec, tmp_path)]
    for name in ("t10k-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        blob = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(blob[:-1] + bytes([blob[-1] ^ 1]))
        found.append(fingerprint(spec, tmp_path))

    assert len({each.rows for each in found}) == 3


# ---- generated data


@pytest.mark.parametrize(
    ("spec", "other", "differs"),
    [
        (regression(), regression(seed=1), (True, True)),
        (regression(), regression(noise_std=0.2), (True, True)),
        (regression(), regression(n_informative=2), (True, True)),
        (regression(), regression(n_informative=4), (False, False)),  # all, as without it
        (regression(), regression(n_features=5), (True, True)),
        (regression(), regression(n_samples=41), (False, True)),  # the first 40 rows are the same
        (regression(), {**regression(), "test_fraction": 0.2}, (False, True)),
        (classification(), classification(class_sep=2.0), (True, True)),
        (classification(), classification(n_classes=3), (True, True)),
        (classification(), classification(n_samples=50), (False, True)),
        (regression(), classification(), (True, True)),
    ],
)
def test_generated_rows_are_those_of_their_parameters(
    tmp_path: Path, spec: dict[str, Any], other: dict[str, Any], differs: tuple[bool, bool]
) -> None:
    assert differing(fingerprint(spec, tmp_path), fingerprint(other, tmp_path)) == differs


def test_a_processor_that_rounds_otherwise_makes_the_same_generated_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, generate = fingerprint(regression(), tmp_path), synthetic.SyntheticRegressionDataset.generate

    def other(dataset: synthetic.SyntheticRegressionDataset) -> tuple[Array, Array]:
        X, y = generate(dataset)
        return X, np.nextafter(y, 9.0)

    monkeypatch.setattr(synthetic.SyntheticRegressionDataset, "generate", other)

    assert fingerprint(regression(), tmp_path) == usual


def test_other_rules_or_other_random_numbers_make_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = fingerprint(regression(), tmp_path)
    stream = synthetic.stream

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "GENERATOR", synthetic.GENERATOR + 1)
        other_rules = fingerprint(regression(), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "stream", lambda seed, name: stream(seed, f"{name}, later"))
        other_numbers = fingerprint(regression(), tmp_path)

    assert differing(usual, other_rules) == differing(usual, other_numbers) == (True, True)


# ---- kept in a checkpoint


def test_a_fingerprint_comes_back_from_json() -> None:
    found = Fingerprint("ab", "cd")

    assert Fingerprint.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    "value", [None, [], "ab", {}, {"rows": "ab"}, {"rows": "ab", "parts": 1}, {"rows": "", "x": ""}]
)
def test_what_is_no_fingerprint_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="does not say what data"):
        Fingerprint.from_json(value)
