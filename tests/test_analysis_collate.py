"""The evaluations of a sweep's points as a DataFrame: names, failures, refusals."""

from __future__ import annotations

import asyncio
import json
import math
import operator
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment.analysis import (
    best_config,
    best_of_sweep,
    collate_sweep_evals,
    compute_ci_df,
    plot_sweep_metric,
    sweep_frame,
    sweep_report_figures,
)
from autoexperiment.errors import HarnessError, UsageError
from autoexperiment.sweep.states import SweepStates
from autoexperiment.workflow.state import Status, StepState, WorkflowState

RATE, SIZE = "submit_training.hyperparameters.learning_rate", "submit_training.hyperparameters.batch_size"
HELLO = {"hello_world": {"accuracy": 0.9, "f1_score": 0.8}}


def state(
    params: dict[str, Any] | None = None,
    results: Any = HELLO,
    *,
    seed: int | None = None,
    status: Status = Status.FINISHED,
    error: str = "",
    key: str = "eval_results",
) -> WorkflowState:
    ended = status is Status.FINISHED
    steps = (
        StepState("prepare_dataset", Status.FINISHED, outputs={"dataset": {"path": "d"}}),
        StepState("evaluate_model", status, outputs={key: results} if ended else {}),
    )
    return WorkflowState("w", {}, steps, status, params or {RATE: 1e-4}, seed, error=error)


def collate(states: Any, step: str = "evaluate_model", **words: Any) -> pd.DataFrame:
    return asyncio.run(collate_sweep_evals(sweep_states=states, eval_step_name=step, **words))


def test_a_row_for_each_state_and_task() -> None:
    results = {"first": {"accuracy": 0.9}, "second": {"accuracy": 0.4}}

    df = collate([state({RATE: rate}, results) for rate in (1e-4, 5e-5)])

    assert list(df.columns) == ["learning_rate", "task", "accuracy", "status", "error"]
    assert df["learning_rate"].tolist() == [1e-4, 1e-4, 5e-5, 5e-5]
    assert df["task"].tolist() == ["first", "second"] * 2
    assert df["accuracy"].tolist() == [0.9, 0.4] * 2
    assert df["status"].tolist() == ["finished"] * 4
    assert df["error"].tolist() == [""] * 4


def test_names_are_dotted_only_where_the_last_one_could_mean_two_columns() -> None:
    params = {"prepare_dataset.loader_kwargs.seed": 1, "submit_training.hyperparameters.seed": 2, RATE: 0.1}

    columns = collate([state(params)]).columns

    assert list(columns[:3]) == [
        "prepare_dataset.loader_kwargs.seed",
        "submit_training.hyperparameters.seed",
        "learning_rate",
    ]


def test_a_parameter_never_takes_the_name_of_a_metric_or_a_fixed_column() -> None:
    df = collate([state({"a.accuracy": 1, "b.task": 2, "c.status": 3, "d.error": 4})])

    assert df[["a.accuracy", "b.task", "c.status", "d.error", "accuracy"]].iloc[0].tolist() == [1, 2, 3, 4, 0.9]


def test_a_metric_never_takes_the_name_of_a_fixed_column() -> None:
    df = collate([state(results={"t": {"status": 3.0}})], metrics="status")

    assert df["metric.status"].tolist() == [3.0]
    assert df["status"].tolist() == ["finished"]


def test_replicates_have_their_seed_and_other_sweeps_no_such_column() -> None:
    with_seeds = collate([state(seed=seed) for seed in (1, 2)])
    swept = collate([state({"submit_training.hyperparameters.seed": seed}) for seed in (1, 2)])

    assert list(with_seeds.columns[:3]) == ["learning_rate", "seed", "task"]
    assert with_seeds["seed"].tolist() == [1, 2]
    assert list(swept.columns[:2]) == ["seed", "task"]


@pytest.mark.parametrize("status", [Status.FAILED, Status.INTERRUPTED, Status.PENDING, Status.RUNNING])
def test_a_state_without_results_is_a_row_with_its_reason(status: Status) -> None:
    broken = state({RATE: 5e-5}, status=status, error="the loss became NaN")

    df = collate([state(), broken])

    assert df["learning_rate"].tolist() == [1e-4, 5e-5]
    assert math.isnan(df["accuracy"][1])
    assert pd.isna(df["task"][1])
    assert df["status"][1] == str(status)
    assert df["error"][1] == "the loss became NaN"


def test_numbers_of_a_workflow_that_failed_later_do_not_count() -> None:
    done = state()

    df = collate([replace(done, status=Status.FAILED, error="upload failed"), done])

    assert df["accuracy"].isna().tolist() == [True, False]


def test_a_row_without_results_always_says_why() -> None:
    unbegun = replace(state(), steps=(), status=Status.FAILED)
    pending = state(status=Status.PENDING)

    errors = collate([unbegun, pending])["error"].tolist()

    assert errors == [
        "The workflow is failed; its step 'evaluate_model' was not begun.",
        "The workflow is pending; its step 'evaluate_model' is pending.",
    ]


def test_a_workflow_that_went_past_its_evaluation_has_a_row_that_says_so() -> None:
    skipped = state().with_step(StepState("evaluate_model"))

    assert collate([skipped])["error"].tolist() == ["The workflow is finished; its step 'evaluate_model' is pending."]


def test_the_error_of_the_step_is_told_where_the_workflow_has_none() -> None:
    broken = state(status=Status.FAILED)
    broken = broken.with_step(replace(broken.step("evaluate_model"), error="no rows to ask"))

    assert collate([broken])["error"].tolist() == ["no rows to ask"]


def test_points_that_failed_are_taken_from_what_run_sweep_returns() -> None:
    broken = state({RATE: 5e-5}, status=Status.FAILED, error="out of memory")
    states = SweepStates([state({RATE: 1e-4})], [broken], Path("outputs/s"))

    df = collate(states)

    assert df["learning_rate"].tolist() == [1e-4, 5e-5]
    assert df["error"].tolist() == ["", "out of memory"]


@pytest.mark.parametrize(
    ("part", "finished"),
    [
        (lambda states: states[:1], 1),
        (lambda states: states[::-1], 2),
        (lambda states: operator.add(states, [state()]), 3),
        (lambda states: operator.add([state()], states), 3),
        (lambda states: states.copy(), 2),
        (lambda states: pickle.loads(pickle.dumps(states)), 2),
    ],
)
def test_parts_and_sums_of_what_run_sweep_returns_keep_the_points_that_failed(part: Any, finished: int) -> None:
    broken = state(status=Status.FAILED, error="out of memory")
    states = SweepStates([state({RATE: 1e-4}), state({RATE: 1e-3})], [broken], Path("outputs/s"))

    found = part(states)

    assert (len(found), found.failed, found.folder) == (finished, [broken], Path("outputs/s"))
    assert collate(found)["error"].tolist() == [""] * finished + ["out of memory"]
    assert isinstance(states[0], WorkflowState)


def test_two_sweeps_together_have_what_failed_in_both() -> None:
    one, two = (
        SweepStates([state()], [state(status=Status.FAILED, error=error)], Path("outputs/s")) for error in ("a", "b")
    )

    both = one + two
    one += two

    assert [broken.error for broken in both.failed] == [broken.error for broken in one.failed] == ["a", "b"]
    assert len(both) == len(one) == 2


def test_halves_of_characters_are_shown_as_utf_8_can_hold_them() -> None:
    """JSON may name them, and pandas refuses them as names and as values."""
    params: list[dict[str, Any]] = [{"m.a\udfff": "x\udfff"}, {"m.a\udfff": "x?"}]
    results = {"t\udfff": {"sc\udfff": 0.5, "sc?": 0.6, "text": "n\udfff"}}

    df = collate([*(state(found, results) for found in params), state(status=Status.FAILED, error="e\udfff")])

    assert list(df.columns) == ["a?", "learning_rate", "task", "metric.sc?", "sc?", "text", "status", "error"]
    assert df["a?"].tolist()[:2] == ['"x\\udfff"', '"x?"']
    assert df["metric.sc?"].tolist()[:2] == [0.5, 0.5]
    assert df["sc?"].tolist()[:2] == [0.6, 0.6]
    assert (df["task"][0], df["text"][0], df["error"][2]) == ("t?", "n?", "e?")


def test_a_sweep_of_which_every_point_failed_is_a_frame() -> None:
    failed = [state(status=Status.FAILED, error="x"), replace(state(), steps=(), status=Status.FAILED)]
    states = SweepStates([], failed, Path("outputs/s"))

    df = collate(states, metrics=["accuracy"])

    assert df["accuracy"].isna().all()
    assert df["accuracy"].dtype == "float64"
    assert compute_ci_df(df, "accuracy", ["learning_rate"])["missing"].tolist() == [2]


def test_metrics_are_chosen_by_name_and_kept_in_that_order() -> None:
    states = [state()]

    assert list(collate(states, metrics="f1_score").columns[2:-2]) == ["f1_score"]
    assert list(collate(states, metrics=["f1_score", "accuracy"]).columns[2:-2]) == ["f1_score", "accuracy"]
    assert list(collate(states).columns[2:-2]) == ["accuracy", "f1_score"]


def test_a_metric_that_only_some_tasks_have_is_missing_in_the_others() -> None:
    df = collate([state(results={"a": {"accuracy": 0.9}, "b": {"loss": 0.1}})], metrics=["accuracy"])

    assert df["accuracy"].notna().tolist() == [True, False]


def test_nulls_are_missing_and_statistics_of_the_evaluation_no_metric() -> None:
    results = {"t": {"loss": None, "accuracy": 0.5, "stats": {"samples": 20}}}

    df = collate([state(results=results)])

    assert math.isnan(df["loss"][0])
    assert "stats" not in df.columns


def test_metrics_are_floats_and_what_is_no_number_is_text() -> None:
    results = {"t": {"count": 3, "hit": True, "matrix": [[1, 2], [3, 4]], "note": "fine"}}

    df = collate([state(results=results)])

    assert df["count"].dtype == df["hit"].dtype == "float64"
    assert df["hit"].tolist() == [1.0]
    assert df["matrix"].tolist() == ["[[1, 2], [3, 4]]"]
    assert df["note"].tolist() == ["fine"]


def test_lists_and_objects_are_text_so_that_they_can_be_grouped() -> None:
    states = [state({"m.layers": layers}, seed=seed) for layers in ([8], [8, 4]) for seed in (1, 2)]
    states.append(state({"m.layers": {"sizes": [8]}}))

    table = compute_ci_df(collate(states), "accuracy", ["layers"])

    assert table["layers"].tolist() == ["[8]", "[8, 4]", '{"sizes": [8]}']
    assert table["count"].tolist() == [2, 2, 1]


def test_one_and_true_are_two_configurations() -> None:
    df = collate([state({"m.shuffle": value}) for value in (1, True, None)])

    assert compute_ci_df(df, "accuracy", ["shuffle"])["shuffle"].tolist()[:2] == ["1", "true"]
    assert len(compute_ci_df(df, "accuracy", ["shuffle"])) == 3


def test_a_list_and_its_text_are_two_configurations() -> None:
    df = collate([state({"m.layers": value}) for value in ([8], "[8]")])

    assert compute_ci_df(df, "accuracy", ["layers"])["layers"].tolist() == ["[8]", '"[8]"']


def test_parameters_that_a_state_lacks_are_missing() -> None:
    df = collate([state({RATE: 0.1}), state({SIZE: 4})])

    assert df["learning_rate"].isna().tolist() == [False, True]
    assert df["batch_size"].isna().tolist() == [True, False]


def test_a_seed_in_the_grid_makes_replicates_as_a_seed_beside_it_does() -> None:
    path = "submit_training.hyperparameters.seed"
    scores = {(rate, seed): rate * 10 + seed / 1000 for rate in (0.01, 0.09) for seed in (1, 2, 3)}
    swept = [state({RATE: rate, path: seed}, {"t": {"accuracy": score}}) for (rate, seed), score in scores.items()]
    beside = [state({RATE: rate}, {"t": {"accuracy": score}}, seed=seed) for (rate, seed), score in scores.items()]

    df, same = collate(swept), collate(beside)

    assert df["seed"].tolist() == [1, 2, 3, 1, 2, 3]
    assert compute_ci_df(df, "accuracy", ["learning_rate"])["count"].tolist() == [3, 3]
    assert df.attrs == same.attrs == {"params": ["learning_rate"], "metrics": ["accuracy"]}
    assert str(best_of_sweep(df, "accuracy")) == str(best_of_sweep(same, "accuracy"))
    assert "3 runs" in str(best_of_sweep(df, "accuracy").winner)
    assert list(sweep_report_figures(df, "accuracy")) == ["learning_rate"]


def test_seeds_of_the_data_are_replicates_too_and_beside_other_seeds_have_their_whole_name() -> None:
    params = {"prepare_dataset.loader_kwargs.seed": 4, RATE: 0.1}

    df = collate([state(params, seed=1)])

    assert df["seed"].tolist() == [1]
    assert df["prepare_dataset.loader_kwargs.seed"].tolist() == [4]
    assert df.attrs["params"] == ["learning_rate"]


def test_a_frame_of_several_tasks_has_no_best_and_no_picture() -> None:
    results = {"a": {"accuracy": 0.9}, "b": {"accuracy": 0.4}}
    states = [state({RATE: rate}, results) for rate in (0.1, 0.2)]
    df = collate([*states, state({RATE: 0.3}, status=Status.FAILED, error="x")])
    words = r"The DataFrame holds 2 tasks: 'a', 'b'\. .*Type: df\[df\['task'\]\.isin\(\['a', None\]\)\]"

    with pytest.raises(UsageError, match=words):
        best_of_sweep(df, "accuracy")
    with pytest.raises(UsageError, match=words):
        sweep_report_figures(df, "accuracy")
    with pytest.raises(UsageError, match=words):
        sweep_report_figures(df, "accuracy", param_cols="learning_rate")
    assert len(df[df["task"].isin(["a", None])]) == 3
    assert best_of_sweep(df[df["task"].isin(["a", None])], "accuracy").winner.count == 1
    assert list(sweep_report_figures(df, "accuracy", param_cols=["learning_rate", "task"])) == ["learning_rate_by_task"]


def test_a_parameter_called_task_is_no_task() -> None:
    df = sweep_frame(
        [
            {
                "number": n, "trial": n, "rung": 0, "seed": None, "params": {"m.task": name}, "status": "completed",
                "reason": "", "metrics": {"accuracy": n / 10}, "trust": {}, "seconds": 1.0, "run_dir": "r",
            }
            for n, name in enumerate("ab", 1)
        ]
    )  # fmt: skip

    assert best_of_sweep(df, "accuracy").params == {"task": "b"}


def test_the_frame_goes_through_the_whole_analysis() -> None:
    random = np.random.default_rng(0)
    states = [
        state({RATE: rate}, {"t": {"accuracy": rate * 10 + random.normal(0, 0.001)}}, seed=seed)
        for rate in (0.01, 0.09)
        for seed in (1, 2, 3)
    ]

    df = collate(states)

    assert len(compute_ci_df(df, value_col="accuracy", group_cols=["learning_rate"])) == 2
    assert plot_sweep_metric(df, x_col="learning_rate", y_col="accuracy").axes
    assert best_config(df, "accuracy", param_cols=["learning_rate"]).params == {"learning_rate": 0.09}
    assert df.loc[df["accuracy"].idxmax()]["learning_rate"] == 0.09


@pytest.mark.parametrize("metrics", [[], ["accuracy", "accuracy"], [1]])
def test_metrics_that_are_no_choice_are_refused(metrics: Any) -> None:
    with pytest.raises(UsageError, match=r"metrics is .*Allowed: one name, several different ones, or None"):
        collate([state()], metrics=metrics)


def test_no_states_are_refused() -> None:
    with pytest.raises(UsageError, match=r"sweep_states is empty\. Needed: one state or more"):
        collate([])


def test_what_is_no_state_is_refused_with_what_to_type() -> None:
    async def forgotten() -> list[WorkflowState]:
        return []

    coroutine = forgotten()

    with pytest.raises(UsageError, match=r"is a coroutine, not a list .*Type: sweep_states=await run_sweep"):
        collate(coroutine)
    with pytest.raises(UsageError, match=r"sweep_states\[1\] is a dict, not a WorkflowState.*WorkflowState.from_json"):
        collate([state(), {}])
    coroutine.close()


def test_an_unknown_step_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown step 'evaluate'.*Known: prepare_dataset, evaluate_model.*Did you mean"
    ):
        collate([state()], "evaluate")
    with pytest.raises(UsageError, match="Unknown step"):
        collate([state(status=Status.FAILED)], "evaluate")


def test_an_unknown_output_is_refused_with_those_that_the_step_has() -> None:
    with pytest.raises(UsageError, match=r"Unknown output 'eval_results' in step 'evaluate_model'.*Known: scores"):
        collate([state(key="scores")])


def test_an_unknown_metric_is_refused_with_those_that_the_tasks_have() -> None:
    with pytest.raises(UsageError, match=r"Unknown metric 'acuracy' in task 'hello_world'.*Did you mean 'accuracy'"):
        collate([state()], metrics=["acuracy"])


@pytest.mark.parametrize("results", [0.9, {"accuracy": 0.9}, [], {}, "text"])
def test_an_output_that_holds_no_tasks_is_refused(results: Any) -> None:
    with pytest.raises(HarnessError, match=r"Output 'eval_results' of step 'evaluate_model' is .*Needed: an object of"):
        collate([state(results=results)])


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=6)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.lists(st.integers(0, 3), max_size=2)
TASKS = st.dictionaries(
    NAMES, st.dictionaries(NAMES.filter("stats".__ne__), NUMBERS, max_size=3), min_size=1, max_size=2
)
PATHS = st.lists(st.sampled_from(["a", "b", "seed", "task", "status"]), min_size=1, max_size=3).map(".".join)


@given(st.lists(st.tuples(st.dictionaries(PATHS, VALUES, min_size=1, max_size=3), TASKS), min_size=1, max_size=4))
def test_every_number_and_every_parameter_is_found_again(points: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Whatever the names are: no column stands twice, no value is lost, and what is missing is missing."""
    df = collate([state(params, tasks) for params, tasks in points])

    assert not df.columns.duplicated().any()
    names = {path for params, _ in points for path in params}
    assert len(df.attrs["params"]) == len({path for path in names if path.split(".")[-1] != "seed"})
    fixed = {"task", "status", "error", *df.attrs["metrics"]}
    columns = [column for column in df.columns if column not in fixed]
    assert len(columns) == len(names)
    expected = [values for _, tasks in points for values in tasks.values()]
    metrics = list(dict.fromkeys(name for values in expected for name in values))
    for name, column in zip(metrics, df.attrs["metrics"], strict=True):
        wanted = [values.get(name) for values in expected]
        assert [None if math.isnan(value) else value for value in df[column]] == wanted
    rows = [params for params, tasks in points for _ in tasks]
    groups = df.groupby(columns, sort=False, dropna=False).ngroups
    assert groups == len({json.dumps({k: v for k, v in row.items() if v is not None}, sort_keys=True) for row in rows})
