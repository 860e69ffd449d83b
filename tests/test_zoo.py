"""The hello-world pair: what its rows are, and that a model can learn them from little, and does not without learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autoexperiment.errors import UsageError
from autoexperiment.workflow import datasets
from autoexperiment.workflow.backends.base import EvalTask, Place, Training
from autoexperiment.workflow.backends.harness import BACKEND
from autoexperiment.zoo.hello_world import generate_hello_world_dataset, hello_world

MOST = 2560


def test_half_of_the_rows_are_greetings() -> None:
    rows = generate_hello_world_dataset(100)

    answers = [row["completion"] for row in rows]
    assert {answer: answers.count(answer) for answer in answers} == {"Hello, World!": 50, "Goodbye.": 50}
    assert all(row.keys() == {"prompt", "completion"} for row in rows)


def test_no_prompt_comes_twice() -> None:
    rows = generate_hello_world_dataset(MOST)

    assert len({row["prompt"] for row in rows}) == MOST == len(rows)


def test_a_seed_fixes_the_rows_and_fewer_are_the_first_of_more() -> None:
    rows = generate_hello_world_dataset(200, seed=3)

    assert generate_hello_world_dataset(num_samples=51, seed=3) == rows[:51]
    assert generate_hello_world_dataset(200, seed=4) != rows


@pytest.mark.parametrize("num_samples", [1, 0, -5, MOST + 1, 2.0, "100", True, None])
def test_a_number_of_rows_that_there_is_not_is_refused(num_samples: Any) -> None:
    with pytest.raises(UsageError, match=f"num_samples .* Allowed: whole numbers from 2 to {MOST}"):
        generate_hello_world_dataset(num_samples)


@pytest.mark.parametrize("seed", [-1, 1.5, None, 2**63])
def test_a_seed_that_is_none_is_refused(seed: Any) -> None:
    with pytest.raises(UsageError, match=r"seed .* Allowed: whole numbers from 0 to"):
        generate_hello_world_dataset(10, seed)


def test_the_task_reports_accuracy_and_f1_of_the_test_part() -> None:
    assert hello_world() == EvalTask("hello_world", metrics=("accuracy", "f1_score"), split="test")
    assert hello_world(split="val").split == "val"


@pytest.mark.parametrize(("learning_rate", "least", "most"), [(1e-2, 0.8, 1.0), (1e-5, 0.0, 0.7)])
def test_a_large_learning_rate_learns_it_from_100_rows_and_a_small_one_does_not(
    tmp_path: Path, learning_rate: float, least: float, most: float
) -> None:
    place = Place(tmp_path, tmp_path / "outputs" / "hello")
    rows = generate_hello_world_dataset(600)
    dataset = datasets.keep(rows[:100], root=tmp_path, loader="hello_world")
    hyperparameters = {"n_epochs": 2, "lora_rank": 8, "batch_size": 4, "learning_rate": learning_rate, "seed": 1}
    unseen = tuple((row["prompt"], row["completion"]) for row in rows[100:])

    job = BACKEND.submit(Training(dataset, "mlp", hyperparameters), place)
    model = BACKEND.wait(job, place, timeout_s=None)
    results = BACKEND.evaluate(model, EvalTask("unseen", samples=unseen), place)

    assert least < results["unseen"]["accuracy"] <= most
