"""Train, validation and test parts: which rows, in what scale, and how they are handed out."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

from autoexperiment.datasets import soundness
from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, Facts, Table
from autoexperiment.datasets.scaling import moments
from autoexperiment.datasets.splits import Part, Splits, draw, split
from autoexperiment.datasets.streams import stream
from autoexperiment.datasets.synthetic import SyntheticClassificationDataset

Array = np.ndarray[Any, Any]

FRACTIONS = st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 0.9])
SEEDS = st.integers(0, 2**63 - 1)


def splits_of(X: Array, y: Array | None = None, *, task: str = REGRESSION, normalize: bool = False,
              n_test: int = 0) -> Splits:  # fmt: skip
    y = np.arange(len(X), dtype=float) if y is None else y
    facts = Facts(task, len(X), X.shape[1:], int(y.max()) + 1 if task == CLASSIFICATION else 0)
    return split(Table(X, y, n_test), facts, val_fraction=0.2, test_fraction=0.2, seed=3, normalize=normalize)


# ---- which rows


@given(st.integers(1, 400), FRACTIONS, FRACTIONS, SEEDS, st.data())
@settings(max_examples=150, deadline=None)
def test_parts_are_disjoint_complete_and_in_the_files_order(
    n: int, val: float, test: float, seed: int, data: st.DataObject
) -> None:
    n_own_test = data.draw(st.integers(0, n - 1))
    classes = data.draw(st.none() | st.integers(1, 5))
    y = None if classes is None else np.random.default_rng(0).integers(0, classes, n)

    parts = draw(n, n_own_test=n_own_test, y=y, val_fraction=val, test_fraction=test, seed=seed)

    assert sorted(np.concatenate(parts).tolist()) == list(range(n))
    assert all((np.diff(rows) > 0).all() for rows in parts)
    assert len(parts[0]) >= 1
    if n_own_test:
        assert parts[2].tolist() == list(range(n - n_own_test, n))


@pytest.mark.parametrize(
    ("n", "val", "test", "sizes"),
    [
        (100, 0.1, 0.1, (80, 10, 10)),
        (3, 0.1, 0.1, (1, 1, 1)),
        (4, 0.1, 0.1, (2, 1, 1)),
        (25, 0.1, 0.2, (17, 3, 5)),  # 2.5 is rounded up
        (2, 0.1, 0.1, (2, 0, 0)),
        (1, 0.5, 0.4, (1, 0, 0)),
        (10, 0.0, 0.1, (9, 0, 1)),
        (10, 0.1, 0.0, (9, 1, 0)),
        (3, 0.5, 0.49, (1, 1, 1)),  # 2 + 1 would leave nothing to train on
        (10, 0.9, 0.9, (1, 4, 5)),
    ],
)
def test_sizes_are_rounded_fractions_that_leave_something_to_train_on(
    n: int, val: float, test: float, sizes: tuple[int, int, int]
) -> None:
    parts = draw(n, val_fraction=val, test_fraction=test, seed=0)

    assert tuple(map(len, parts)) == sizes


def test_with_a_test_set_of_its_own_the_validation_part_comes_from_the_rest() -> None:
    train, val, test = draw(110, n_own_test=10, val_fraction=0.2, test_fraction=0.5, seed=0)

    assert (len(train), len(val), len(test)) == (80, 20, 10)
    assert max(train.max(), val.max()) < 100


@given(st.integers(10, 200), SEEDS)
@settings(max_examples=40, deadline=None)
def test_the_test_part_does_not_depend_on_the_validation_fraction(n: int, seed: int) -> None:
    few, many = (draw(n, val_fraction=val, test_fraction=0.2, seed=seed)[2] for val in (0.1, 0.5))

    assert few.tolist() == many.tolist()


def test_the_seed_alone_decides_the_rows() -> None:
    first = draw(1000, val_fraction=0.1, test_fraction=0.1, seed=42)
    np.random.default_rng(42).random(7)
    again = draw(1000, val_fraction=0.1, test_fraction=0.1, seed=42)
    other = draw(1000, val_fraction=0.1, test_fraction=0.1, seed=43)

    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in again]
    assert first[2].tolist() != other[2].tolist()


def test_the_test_rows_are_spread_evenly_over_seeds() -> None:
    counts = np.zeros(50)

    for seed in range(400):
        counts[draw(50, val_fraction=0.0, test_fraction=0.2, seed=seed)[2]] += 1

    assert counts.min() > 50 and counts.max() < 110  # 80 expected, standard deviation 8


def test_streams_of_one_seed_are_unrelated_to_each_other_and_to_numpys_own() -> None:
    streams = [stream(42, "split"), stream(42, "synthetic_classification/order"), stream(43, "split"),
               np.random.default_rng(42)]  # fmt: skip

    numbers = np.array([random.random(2000) for random in streams])

    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 0.1


def test_classes_are_drawn_in_proportion() -> None:
    y = np.repeat([0, 1, 2], [600, 300, 100])
    np.random.default_rng(0).shuffle(y)

    parts = draw(1000, y=y, val_fraction=0.1, test_fraction=0.2, seed=5)

    assert [np.bincount(y[rows]).tolist() for rows in parts] == [[420, 210, 70], [60, 30, 10], [120, 60, 20]]


@given(st.lists(st.integers(1, 6), min_size=2, max_size=12), SEEDS)
@settings(max_examples=100, deadline=None)
def test_no_class_is_lost_from_the_train_part_while_it_has_room(counts: list[int], seed: int) -> None:
    y = np.repeat(np.arange(len(counts)), counts)

    train, _, _ = draw(len(y), y=y, val_fraction=0.3, test_fraction=0.3, seed=seed)

    if len(train) >= len(counts):
        assert set(y[train]) == set(range(len(counts)))


def test_rows_of_one_class_are_drawn_at_random() -> None:
    y = np.zeros(100, int)

    parts = {tuple(draw(100, y=y, val_fraction=0.1, test_fraction=0.1, seed=seed)[2]) for seed in range(5)}

    assert len(parts) == 5


# ---- what is handed out


def test_take_gives_the_rows_that_the_positions_name() -> None:
    X = np.arange(200.0).reshape(100, 2)

    train = splits_of(X).train
    x, y = train.take(np.array([5, 0, 5]))

    assert x.tolist() == X[train.rows[[5, 0, 5]]].tolist()
    assert y.tolist() == train.rows[[5, 0, 5]].tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["f4", "f8", ">f8", "i4", "u1", "?", "f2"])
def test_batches_are_contiguous_and_of_the_type_asked_for(kind: str, normalize: bool, dtype: Any) -> None:
    X = (np.arange(60).reshape(20, 3) % 2).astype(kind)

    x, y = splits_of(X, normalize=normalize).train.take(slice(0, 4), dtype)

    assert (x.dtype, y.dtype, x.shape) == (dtype, dtype, (4, 3))
    assert x.flags.c_contiguous


def test_class_numbers_are_int32_whatever_type_they_came_in() -> None:
    X, y = SyntheticClassificationDataset(n_samples=50, n_features=2).generate()

    _, taken = splits_of(X, y, task=CLASSIFICATION).train.take(slice(0, 5), np.float64)

    assert taken.dtype == np.int32


def test_batches_go_over_all_rows_in_order() -> None:
    X = np.random.default_rng(0).random((53, 2))

    val = splits_of(X).val
    batches = list(val.batches(4))

    assert [len(x) for x, _ in batches] == [4, 4, 3]
    assert np.concatenate([y for _, y in batches]).tolist() == val.rows.tolist()


def test_changing_a_batch_changes_neither_the_table_nor_the_next_batch() -> None:
    X, y = np.ones((30, 2)), np.ones(30)

    for dtype in (np.float32, np.float64):
        train = splits_of(X, y).train
        x, target = train.take(slice(None), dtype)
        x[:], target[:] = 7, 7

        assert X.max() == 1 and y.max() == 1
        assert train.take(slice(None), dtype)[0].max() == 1


@pytest.mark.parametrize("normalize", [False, True])
def test_a_view_of_any_layout_gives_the_same_batches_as_a_copy(normalize: bool) -> None:
    random = np.random.default_rng(0)
    pictures = random.integers(0, 256, (30, 3, 4, 5), dtype=np.uint8).transpose(0, 2, 3, 1)
    raw = np.zeros(30 * 8 * 5 + 1, np.uint8)[1:].view(np.float64).reshape(30, 5)  # at an odd address
    raw[:] = random.random((30, 5))
    views: list[Array] = [
        pictures,
        raw,
        random.random((5, 30)).T,
        random.random((30, 9))[:, 1:6],
        random.random((30, 5)).astype(">f8"),
    ]

    for view in views:
        of_view, of_copy = (
            splits_of(X, normalize=normalize).train for X in (view, np.array(view, view.dtype, order="C"))
        )

        assert of_view.take(slice(None))[0].tobytes() == of_copy.take(slice(None))[0].tobytes()


def test_only_rows_of_the_batch_are_copied_from_a_view() -> None:
    wide = np.zeros((1 << 20, 9))[:, :8]  # 64 MB if somebody copies it
    part = Part(Table(wide, np.zeros(len(wide))), np.arange(100), scaling=splits_of(np.ones((9, 2))).train.scaling,
                is_classification=False)  # fmt: skip

    tracemalloc.start()
    part.take(slice(0, 10))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20


# ---- scale


def test_pixels_are_scaled_to_0_to_1() -> None:
    X = np.zeros((10, 2, 2, 1), np.uint8)
    X[:, 0, 0, 0], X[:, 1, 1, 0] = 255, 51

    x, _ = splits_of(X).train.take(slice(0, 1))

    assert x[0, :, :, 0].tolist() == [[1.0, 0.0], [0.0, np.float32(0.2)]]


def test_small_whole_numbers_in_a_table_are_no_pixels() -> None:
    X = np.full((10, 2), 200, np.uint8)

    assert splits_of(X).train.take(slice(0, 1))[0].tolist() == [[200.0, 200.0]]


def test_normalising_is_scikit_learns_fitted_on_the_train_part_only() -> None:
    random = np.random.default_rng(1)
    X = random.normal(random.normal(size=6) * 100, random.random(6) * 10, (500, 6))

    splits = splits_of(X, normalize=True)
    scaler = StandardScaler().fit(X[splits.train.rows])

    for part in (splits.train, splits.val, splits.test):
        assert np.allclose(
            part.take(slice(None), np.float64)[0], scaler.transform(X[part.rows]), rtol=1e-12, atol=1e-12
        )


def test_other_test_rows_leave_the_train_part_as_it_is() -> None:
    X = np.random.default_rng(1).random((100, 3))
    before = splits_of(X, normalize=True)

    changed = X.copy()
    changed[before.test.rows] *= 1e6
    changed[before.val.rows] -= 1e6
    after = splits_of(changed, normalize=True)

    assert after.train.take(slice(None))[0].tobytes() == before.train.take(slice(None))[0].tobytes()


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.3, -1e-300, 3.0])
def test_a_constant_column_becomes_0(value: float) -> None:
    X = np.random.default_rng(0).random((1000, 2))
    X[:, 1] = value

    x, _ = splits_of(X, normalize=True).train.take(slice(None), np.float64)

    assert (x[:, 1] == 0).all()
    assert x[:, 0].std() == pytest.approx(1)


@pytest.mark.parametrize("value", [0.1, 7])
def test_a_constant_channel_becomes_0(value: float) -> None:
    X = np.random.default_rng(0).random((40, 5, 5, 2)) * 10
    X[..., 1] = value
    X = X.astype(np.uint8) if value == 7 else X

    x, _ = splits_of(X, normalize=True).train.take(slice(None))

    assert (x[..., 1] == 0).all()


def test_a_large_mean_costs_no_digits() -> None:
    signal = np.random.default_rng(0).choice([-0.5, 0.5], 400)
    X = np.stack([1e9 + signal, signal], axis=1)

    x, _ = splits_of(X, normalize=True).train.take(slice(None))

    assert np.allclose(x[:, 0], x[:, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["u1", "f4"])
def test_pictures_are_normalised_by_channel(kind: str) -> None:
    random = np.random.default_rng(2)
    X = (random.random((50, 6, 7, 3)) * [40, 120, 250]).astype(kind)

    splits = splits_of(X, normalize=True)
    x = X.astype(np.float64) / (255 if kind == "u1" else 1)
    train = x[splits.train.rows]
    expected = (x - train.mean(axis=(0, 1, 2))) / train.std(axis=(0, 1, 2))

    for part in (splits.train, splits.test):
        assert np.allclose(part.take(slice(None))[0], expected[part.rows], atol=1e-5)


@pytest.mark.parametrize("shape", [(257, 3), (257, 2, 2, 3)])
def test_moments_do_not_depend_on_the_size_of_the_pieces(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    X = np.random.default_rng(0).normal(5, 2, shape)
    rows = np.arange(1, 257)
    axes = tuple(range(len(shape) - 1))

    for numbers in (1, 40, 100_000):
        monkeypatch.setattr(soundness, "_NUMBERS_AT_ONCE", numbers)
        mean, deviation = moments(X, rows)

        assert np.allclose(mean, X[rows].mean(axis=axes), rtol=1e-13)
        assert np.allclose(deviation, X[rows].std(axis=axes), rtol=1e-13)
