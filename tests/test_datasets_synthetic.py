"""Generated datasets: what is in them, what the parameters do, and what is refused."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression  # type: ignore[import-untyped]
from sklearn.neighbors import NearestCentroid  # type: ignore[import-untyped]

from autoexperiment.datasets import SyntheticClassificationDataset, SyntheticRegressionDataset
from autoexperiment.errors import DataError

KINDS = [SyntheticRegressionDataset, SyntheticClassificationDataset]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_the_same_data_on_every_call_and_in_any_thread(kind: Any) -> None:
    found: list[bytes] = []

    def generate() -> None:
        X, y = kind(n_samples=100).generate(seed=42)
        found.append(X.tobytes() + y.tobytes())

    threads = [threading.Thread(target=generate) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.random.default_rng(0).random(3)
    generate()

    assert len(set(found)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_given_to_generate_wins_and_other_seeds_give_other_data(kind: Any) -> None:
    own, _ = kind(seed=1).generate()
    given, _ = kind(seed=2).generate(seed=1)
    other, _ = kind(seed=2).generate()

    assert own.tobytes() == given.tobytes()
    assert not np.isclose(own, other).any()


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_those_of_the_table(kind: Any) -> None:
    dataset = kind(n_samples=37, n_features=4)
    table, facts = dataset.load(), dataset.facts()

    assert (facts.n_rows, facts.shape, facts.task) == (37, (4,), dataset.task)
    assert table.X.shape == (37, 4) and table.y.shape == (37,)
    assert facts.n_classes == (2 if facts.task == "classification" else 0)
    assert table.X.dtype == np.float64


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_are_the_documented_ones(kind: Any) -> None:
    dataset = kind()

    assert (dataset.n_samples, dataset.n_features, dataset.n_informative, dataset.seed) == (1000, 10, 10, 42)
    assert dataset.noise_std == 0.1 if kind is SyntheticRegressionDataset else dataset.class_sep == 1.0


def test_a_regression_finds_the_weights_and_the_bias() -> None:
    dataset = SyntheticRegressionDataset(n_samples=200, n_features=6, n_informative=4, noise_std=0)

    weights, bias = dataset.truth()
    model = LinearRegression().fit(*dataset.generate())

    assert np.allclose(model.coef_, weights) and model.intercept_ == pytest.approx(bias)
    assert np.count_nonzero(weights) == 4 and (weights[4:] == 0).all()
    assert bias != 0


def test_noise_has_the_deviation_asked_for_and_leaves_the_rows_alone() -> None:
    X, exact = SyntheticRegressionDataset(n_samples=20_000, n_features=3, noise_std=0).generate()
    same, noisy = SyntheticRegressionDataset(n_samples=20_000, n_features=3, noise_std=2.5).generate()

    noise = noisy - exact
    assert X.tobytes() == same.tobytes()
    assert noise.std() == pytest.approx(2.5, rel=0.03) and abs(noise.mean()) < 0.1
    assert np.abs(np.corrcoef(np.column_stack([X, noise]).T)[3, :3]).max() < 0.03
    assert not np.isclose(noise / 2.5, X.ravel()[:20_000]).any()


def test_more_samples_begin_with_the_same_rows() -> None:
    few, many = (SyntheticRegressionDataset(n_samples=n, n_features=3).generate() for n in (50, 80))

    assert many[0][:50].tobytes() == few[0].tobytes()
    assert many[1][:50].tobytes() == few[1].tobytes()


@pytest.mark.parametrize(("n", "classes"), [(1000, 2), (100, 7), (7, 7), (9, 4)])
def test_classes_are_balanced_and_none_is_missing(n: int, classes: int) -> None:
    _, y = SyntheticClassificationDataset(n_samples=n, n_classes=classes).generate()

    counts = np.bincount(y, minlength=classes)
    assert len(counts) == classes
    assert counts.min() >= 1 and counts.max() - counts.min() <= 1


def test_rows_are_shuffled() -> None:
    _, y = SyntheticClassificationDataset(n_samples=1000).generate()

    changes = int((np.diff(y) != 0).sum())
    assert 430 < changes < 570  # 500 expected, standard deviation 16


@pytest.mark.parametrize("classes", [2, 5])
def test_centres_stand_class_sep_apart_in_each_informative_column(classes: int) -> None:
    dataset = SyntheticClassificationDataset(n_classes=classes, n_features=6, n_informative=4, class_sep=1.5)

    centres = dataset.centres()

    for column in centres.T:
        assert np.allclose(np.diff(np.sort(column)), 1.5)
        assert column.mean() == pytest.approx(0)


def test_clusters_lie_around_their_centres_with_unit_variance() -> None:
    dataset = SyntheticClassificationDataset(n_samples=30_000, n_classes=3, n_features=4, n_informative=2, class_sep=2)
    X, y = dataset.generate()
    expected = np.column_stack([dataset.centres(), np.zeros((3, 2))])

    for number in range(3):
        cluster = X[y == number]
        assert np.allclose(cluster.mean(axis=0), expected[number], atol=0.05)
        assert np.allclose(cluster.std(axis=0), 1, atol=0.05)


def test_a_larger_class_sep_is_easier_by_as_much_as_theory_says() -> None:
    def accuracy(class_sep: float) -> float:
        X, y = SyntheticClassificationDataset(
            n_samples=8000, n_features=6, n_informative=4, class_sep=class_sep
        ).generate()
        return float(NearestCentroid().fit(X[:4000], y[:4000]).score(X[4000:], y[4000:]))

    found = [accuracy(class_sep) for class_sep in (0.25, 1.0, 3.0)]

    # two Gaussians at the distance d = class_sep * sqrt(4) are told apart with probability Phi(d / 2)
    best = [0.5 * (1 + math.erf(class_sep / math.sqrt(2))) for class_sep in (0.25, 1.0, 3.0)]
    assert found == pytest.approx(best, abs=0.025)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"n_samples": 0}, "Invalid value for 'n_samples': must be positive integer, got 0."),
        ({"n_samples": -5}, "'n_samples'"),
        ({"n_samples": 10.0}, "'n_samples'"),
        ({"n_samples": True}, "'n_samples'"),
        ({"n_features": 0}, "'n_features'"),
        ({"n_features": "10"}, "'n_features'"),
        ({"n_informative": 0}, "'n_informative'"),
        ({"n_informative": 11}, "'n_informative' (11) cannot exceed 'n_features' (10)."),
        ({"seed": -1}, "'seed'"),
        ({"seed": None}, "'seed'"),
        ({"seed": 1.5}, "'seed'"),
        ({"n_samples": 10_000_000, "n_features": 1000}, "estimated 80000 MB"),
        ({"n_samples": 125_000_001, "n_features": 1}, "under 1000 MB"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_parameter_is_refused_before_anything_is_allocated(kind: Any, parameters: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        kind(**parameters)

    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        (SyntheticRegressionDataset, {"noise_std": -0.1}, "'noise_std'"),
        (SyntheticRegressionDataset, {"noise_std": math.nan}, "'noise_std'"),
        (SyntheticRegressionDataset, {"noise_std": math.inf}, "'noise_std'"),
        (SyntheticRegressionDataset, {"noise_std": True}, "'noise_std'"),
        (SyntheticClassificationDataset, {"class_sep": 0}, "'class_sep'"),
        (SyntheticClassificationDataset, {"class_sep": "1"}, "'class_sep'"),
        (SyntheticClassificationDataset, {"n_classes": 1}, "'n_classes': must be integer >= 2, got 1"),
        (SyntheticClassificationDataset, {"n_classes": 2.0}, "'n_classes'"),
        (
            SyntheticClassificationDataset,
            {"n_samples": 4, "n_classes": 5},
            "'n_samples' (4) must be >= 'n_classes' (5)",
        ),
    ],
)
def test_a_bad_parameter_of_one_kind_is_refused(kind: Any, parameters: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        kind(**parameters)

    assert words in str(caught.value)


def test_the_limit_of_1000_mb_is_exact() -> None:
    assert SyntheticRegressionDataset(n_samples=125_000_000, n_features=1).n_samples == 125_000_000


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(DataError) as caught:
        SyntheticRegressionDataset(n_samples=0, n_features=-1, noise_std=-1, seed=-1)

    assert [name for name in ("n_samples", "n_features", "noise_std", "seed") if name in str(caught.value)] == [
        "n_samples", "n_features", "noise_std", "seed",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_seed_for_generate_is_refused(kind: Any) -> None:
    with pytest.raises(DataError, match="'seed'"):
        kind().generate(seed=-3)


def test_the_classes_stand_in_another_order_in_each_column() -> None:
    centres = SyntheticClassificationDataset(n_classes=6, n_features=8).centres()

    orders = {tuple(np.argsort(column)) for column in centres.T}

    # 8 random orders of 6 classes: that any two are the same has a chance of 28 in 720
    assert len(orders) == 8


@pytest.mark.parametrize("value", [10**400, 1e16, 1e308])
@pytest.mark.parametrize(
    ("kind", "name"), [(SyntheticRegressionDataset, "noise_std"), (SyntheticClassificationDataset, "class_sep")]
)
def test_numbers_that_overflow_are_refused(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(DataError, match=f"'{name}': must be .* number up to 1e\\+15, got "):
        kind(**{name: value})


@pytest.mark.filterwarnings("error")
def test_the_largest_numbers_fit_a_float32() -> None:
    X, _ = SyntheticClassificationDataset(n_samples=40, n_classes=40, n_features=2, class_sep=1e15).generate()
    _, y = SyntheticRegressionDataset(n_samples=40, noise_std=1e15).generate()

    assert np.isfinite(X.astype(np.float32)).all() and np.isfinite(y.astype(np.float32)).all()


def test_parameters_may_be_numbers_of_numpy() -> None:
    few = SyntheticRegressionDataset(np.int64(5), n_features=np.int32(2), noise_std=np.float32(0.5), seed=np.uint8(7))  # type: ignore[arg-type]
    classes = SyntheticClassificationDataset(n_samples=np.int64(9), n_classes=np.int64(3))  # type: ignore[arg-type]

    assert few.generate()[0].tolist() == SyntheticRegressionDataset(5, 2, noise_std=0.5, seed=7).generate()[0].tolist()
    assert few.generate(seed=np.int64(3))[1].shape == (5,)  # type: ignore[arg-type]
    assert [type(value) for value in (*vars(few).values(), classes.n_classes)] == [int, int, int, float, int, int]
