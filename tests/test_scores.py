"""Evaluation metrics, against scikit-learn's and by hand, in batches of any size."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from autoexperiment.errors import DataError
from autoexperiment.goals import GOALS
from autoexperiment.training import scores
from autoexperiment.training.scores import Scores
from autoexperiment.vocabulary import Goal

Array = np.ndarray[Any, Any]
SEEDS = st.integers(0, 2**32 - 1)


def scored(task: str, y: Array, predicted: Array, *, n_classes: int = 0, batch: int = 7) -> dict[str, Any]:
    """All metrics, from batches of this size. Args: predicted: numbers, or the probabilities of the classes."""
    sums = Scores.for_task(task, n_classes)
    for start in range(0, len(y), batch):
        here = slice(start, start + batch)
        if task == "classification":
            sums.add(y[here], predicted[here].argmax(axis=1), predicted[here])
        else:
            sums.add(y[here], predicted[here])
    return sums.result()


def probabilities(rng: np.random.Generator, n: int, n_classes: int) -> Array:
    return rng.dirichlet(np.ones(n_classes), size=n)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(2, 60), batch=st.integers(1, 70), mean=st.sampled_from([0.0, 1e7]))
def test_regression_agrees_with_scikit_learn(seed: int, n: int, batch: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=n) + mean
    predicted = y + rng.normal(size=n)

    found = scored("regression", y, predicted, batch=batch)

    assert found["mse"] == pytest.approx(reference.mean_squared_error(y, predicted), rel=1e-12)
    assert found["rmse"] == pytest.approx(math.sqrt(reference.mean_squared_error(y, predicted)), rel=1e-12)
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(y, predicted), rel=1e-12)
    # 1 part in 1e7 of the mean is all that a target of 1e7 keeps of its own digits
    assert found["r2"] == pytest.approx(reference.r2_score(y - mean, predicted - mean), rel=1e-7, abs=1e-7)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, n=st.integers(1, 60), batch=st.integers(1, 70), n_classes=st.integers(3, 6))
def test_classification_agrees_with_scikit_learn(seed: int, n: int, batch: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    y, shares = rng.integers(n_classes, size=n), probabilities(rng, n, n_classes)
    labels = np.arange(n_classes)

    found = scored("classification", y, shares, n_classes=n_classes, batch=batch)

    predicted = shares.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(y, predicted))
    assert found["log_loss"] == pytest.approx(reference.log_loss(y, shares, labels=labels))
    assert found["f1"] == pytest.approx(reference.f1_score(y, predicted, average="macro"))
    assert found["confusion_matrix"] == reference.confusion_matrix(y, predicted, labels=labels).tolist()


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, n=st.integers(0, 40))
def test_f1_of_two_classes_is_that_of_class_1(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.append(rng.integers(2, size=n), 1)
    shares = probabilities(rng, n + 1, 2)

    found = scored("classification", y, shares, n_classes=2)

    assert found["f1"] == pytest.approx(reference.f1_score(y, shares.argmax(axis=1)))


def test_regression_by_hand() -> None:
    y, predicted = np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 4.0, 3.0, 2.0])

    found = scored("regression", y, predicted, batch=3)

    # errors 0 2 0 -4; the targets' mean is 3, their squared distances 4 1 0 9
    assert found == {"mse": 5.0, "rmse": math.sqrt(5), "mae": 1.5, "r2": 1 - 20 / 14}


def test_confusion_matrix_has_true_classes_as_rows() -> None:
    y, shares = np.array([0, 0, 2]), np.eye(3)[[1, 0, 1]]

    found = scored("classification", y, shares, n_classes=3)

    assert found["confusion_matrix"] == [[1, 1, 0], [0, 0, 0], [0, 1, 0]]
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 0 + 0) / 3)


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    y, shares = np.array([0, 1, 1]), np.eye(5)[[0, 1, 1]]

    found = scored("classification", y, shares, n_classes=5)

    assert found["f1"] == 1.0


def test_log_loss_of_a_sure_mistake_is_bounded() -> None:
    found = scored("classification", np.array([0]), np.array([[0.0, 1.0]]), n_classes=2)

    # scikit-learn's bound too: -log(2**-52)
    assert found["log_loss"] == pytest.approx(52 * math.log(2))


def test_r2_of_targets_with_a_large_mean_keeps_its_digits() -> None:
    y = 1e9 + np.array([0.0, 1.0, 2.0, 3.0])
    predicted = y + np.array([0.5, -0.5, 0.5, -0.5])

    found = scored("regression", y, predicted, batch=1)

    assert found["r2"] == pytest.approx(1 - 1 / 5, rel=1e-12)


@pytest.mark.parametrize("target", [0.1, 0.0, 1e300])
def test_r2_of_constant_targets_is_not_defined(target: float) -> None:
    y = np.full(11, target)

    found = scored("regression", y, y + 0.25, batch=4)

    assert found["r2"] is None
    assert found["mae"] == pytest.approx(0.25 if target < 1 else 0.0)


@pytest.mark.filterwarnings("error")
def test_nothing_is_defined_without_rows() -> None:
    numbers = Scores.for_task("regression", 0)
    numbers.add(np.empty(0), np.empty(0))
    classes = Scores.for_task("classification", 3)
    classes.add(np.empty(0, np.int32), np.empty(0, np.int32), np.empty((0, 3)))

    assert set(numbers.result().values()) == {None}
    assert classes.result() == {"accuracy": None, "log_loss": None, "f1": None, "confusion_matrix": [[0, 0, 0]] * 3}


def test_f1_is_not_defined_where_class_1_neither_is_nor_is_predicted() -> None:
    found = scored("classification", np.array([0, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]), n_classes=2)

    assert found["f1"] is None
    assert found["accuracy"] == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_none(bad: float) -> None:
    found = scored("regression", np.array([1.0, 2.0]), np.array([1.0, bad]))

    assert found == {"mse": None, "rmse": None, "mae": None, "r2": None}


def test_squares_that_overflow_are_none() -> None:
    y = np.array([1e200, -1e200, 0.0])

    found = scored("regression", y, y * 0.5)

    assert found["mse"] is None
    assert found["r2"] is None
    assert found["mae"] == pytest.approx(1e200 / 3)


def test_targets_whose_variance_overflows_have_no_r2() -> None:
    y = np.array([0.0, 1e200, -1e200])

    found = scored("regression", y, y)

    assert found == {"mse": 0.0, "rmse": 0.0, "mae": 0.0, "r2": None}


def test_probabilities_that_are_not_numbers_have_no_log_loss() -> None:
    found = scored("classification", np.array([0]), np.array([[math.nan, math.nan]]), n_classes=2)

    assert found["log_loss"] is None


@pytest.mark.parametrize(
    ("task", "y", "predicted", "shares"),
    [
        ("regression", np.zeros(2), np.zeros(3), None),
        ("regression", np.zeros((2, 1)), np.zeros((2, 1)), None),  # would broadcast against (2,) elsewhere
        ("classification", np.zeros(2, int), np.zeros(2, int), np.zeros((2, 2))),
        ("classification", np.zeros(2, int), np.zeros(2, int), None),
        ("classification", np.zeros((3, 1), int), np.zeros(3, int), np.zeros((3, 3))),
        ("classification", np.zeros(3, int), np.zeros((3, 1), int), np.zeros((3, 3))),
        ("classification", np.zeros(3, int), np.zeros(1, int), np.zeros((3, 3))),
        ("classification", np.array([0, 3]), np.zeros(2, int), np.zeros((2, 3))),
        ("classification", np.array([-1, 0]), np.zeros(2, int), np.zeros((2, 3))),
        ("classification", np.zeros(2, int), np.array([0, 3]), np.zeros((2, 3))),
        ("classification", np.zeros(2, int), np.array([-1, 0]), np.zeros((2, 3))),
    ],
)
def test_what_does_not_fit_together_is_refused(task: str, y: Array, predicted: Array, shares: Array | None) -> None:
    with pytest.raises(DataError, match=r"Needed|Allowed"):
        Scores.for_task(task, 3).add(y, predicted, shares)


def test_the_class_counts_that_was_predicted_where_probabilities_tie() -> None:
    sums = Scores.for_task("classification", 2)

    sums.add(np.array([1, 1]), np.array([1, 1]), np.full((2, 2), 0.5))

    found = sums.result()
    assert (found["accuracy"], found["confusion_matrix"]) == (1.0, [[0, 0], [0, 2]])


def test_a_batch_takes_no_memory_for_every_pair_of_classes() -> None:
    sums = Scores.for_task("classification", 2000)
    tracemalloc.start()

    sums.add(np.arange(10), np.arange(10), np.full((10, 2000), 1 / 2000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4_000_000  # the matrix itself has 32 MB


def test_known_names_are_those_of_the_result() -> None:
    assert list(scores.known("regression")) == list(Scores.for_task("regression", 0).result())
    assert list(scores.known("classification")) == list(Scores.for_task("classification", 2).result())


def test_every_metric_that_is_one_number_has_a_goal() -> None:
    numbers = {*scores.known("regression"), *scores.known("classification")} - {"confusion_matrix"}

    assert numbers <= GOALS.keys()
    assert {name for name, goal in GOALS.items() if goal == Goal.MAXIMIZE} == {
        "accuracy", "val_accuracy", "r2", "f1", "f1_score"
    }  # fmt: skip
