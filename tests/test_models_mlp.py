"""The multi-layer perceptron: outputs and gradients against NumPy in float64 and scikit-learn, and what takes effect."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import workspaces
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier, MLPRegressor
from trainings import classification, config, files_of, request, train_here
from workspaces import Workspace

from autoexperiment import models
from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError
from autoexperiment.models import MLP, network
from autoexperiment.models.losses import mx  # after the BLAS: other tests compare bytes with other processes

Array = np.ndarray[Any, Any]
REGRESSION = Facts("regression", 0, (4,))
ACTIVATIONS = ("relu", "tanh", "sigmoid")


def classes(n: int) -> Facts:
    return Facts("classification", 0, (4,), n)


# Every kind of head: the facts, the number of outputs, the output activation.
HEADS = {
    "number": (REGRESSION, 1, None),
    "number from 0 to 1": (REGRESSION, 1, "sigmoid"),
    "one logit": (classes(2), 1, None),
    "one sigmoid": (classes(2), 1, "sigmoid"),
    "two logits": (classes(2), 2, None),
    "logits": (classes(3), 3, None),
    "softmax": (classes(3), 3, "softmax"),
    "one against the rest": (classes(3), 3, "sigmoid"),
}
CASES = [pytest.param(activation, head, id=f"{activation}, {head}") for activation in ACTIVATIONS for head in HEADS]


def build(activation: str, head: str) -> MLP:
    facts, n_outputs, output_activation = HEADS[head]
    return MLP([4, 5, 3, n_outputs], activation, output_activation=output_activation, seed=3, facts=facts)


def rows(facts: Facts, n: int = 9) -> tuple[Array, Array]:
    """Rows of 4 features, with a target of their own each."""
    rng = np.random.default_rng(0)
    y = rng.integers(facts.n_classes, size=n) if facts.n_classes else rng.normal(size=n)
    return rng.normal(size=(n, 4)), y


def sigmoid(z: Array) -> Array:
    answer: Array = 1 / (1 + np.exp(-z))
    return answer


def raw_outputs(model: MLP, arrays: Mapping[str, Array], x: Array) -> Array:
    """The forward pass, written down a second time in NumPy."""
    formulas: dict[str, Any] = {"relu": lambda z: np.maximum(z, 0), "tanh": np.tanh, "sigmoid": sigmoid}
    activate = formulas[model.activation]
    for i in range(3):
        x = x @ arrays[f"layer_{i}_weights"] + arrays[f"layer_{i}_bias"]
        x = activate(x) if i < 2 else x
    return x


def expected_outputs(head: str, raw: Array) -> Array:
    facts, n_outputs, activation = HEADS[head]
    if facts.task == "regression":
        return sigmoid(raw[:, 0]) if activation == "sigmoid" else raw[:, 0]
    if n_outputs == 1:
        return np.hstack([1 - sigmoid(raw), sigmoid(raw)])
    powers = sigmoid(raw) if activation == "sigmoid" else np.exp(raw)
    answer: Array = powers / powers.sum(axis=1, keepdims=True)
    return answer


def expected_loss(head: str, raw: Array, y: Array) -> float:
    facts, n_outputs, activation = HEADS[head]
    outputs = expected_outputs(head, raw)
    if facts.task == "regression":
        return float(np.mean((outputs - y) ** 2))
    if activation == "sigmoid" and n_outputs > 1:
        right = np.eye(n_outputs)[y] == 1
        return float(np.mean(-np.log(np.where(right, sigmoid(raw), 1 - sigmoid(raw)))))
    return float(np.mean(-np.log(outputs[np.arange(len(y)), y])))


def slopes(model: MLP, head: str, x: Array, y: Array) -> dict[str, Array]:
    """The loss's gradient by central differences, in float64."""
    arrays = {name: array.astype(np.float64) for name, array in model.arrays().items()}
    found = {}
    for name, array in arrays.items():
        found[name] = np.empty(array.shape)
        for place in np.ndindex(array.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = array.copy()
                moved[place] += step
                ends.append(expected_loss(head, raw_outputs(model, {**arrays, name: moved}, x), y))
            found[name][place] = (ends[0] - ends[1]) / 2e-6
    return found


@pytest.mark.parametrize(("activation", "head"), CASES)
def test_outputs_are_those_of_the_formulas(activation: str, head: str) -> None:
    model = build(activation, head)
    x, _ = rows(model.facts)

    outputs = model.predict_proba(x) if model.facts.n_classes else model.predict(x)

    expected = expected_outputs(head, raw_outputs(model, model.arrays(), x))
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    assert outputs.dtype == np.float64


@pytest.mark.parametrize(("activation", "head"), CASES)
def test_loss_and_its_gradient_are_those_of_the_formulas(activation: str, head: str) -> None:
    model = build(activation, head)
    x, y = rows(model.facts)
    target = mx.array(y.astype(np.int32) if model.facts.n_classes else y.astype(np.float32))

    def loss(parameters: dict[str, mx.array]) -> mx.array:
        return model.loss(model.forward(parameters, mx.array(x.astype(np.float32))), target)

    value, gradient = mx.value_and_grad(loss)(model.parameters())

    expected = slopes(model, head, x, y)
    assert value.item() == pytest.approx(expected_loss(head, raw_outputs(model, model.arrays(), x), y), rel=1e-5)
    for name in model.shapes():
        np.testing.assert_allclose(np.array(gradient[name]), expected[name], rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_regression_agrees_with_scikit_learn(activation: str) -> None:
    model = build(activation, "number")
    x, y = rows(model.facts)

    reference = as_in_scikit_learn(MLPRegressor, model, x, y)

    np.testing.assert_allclose(model.predict(x), reference.predict(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["logits", "one logit"])
def test_classification_agrees_with_scikit_learn(head: str) -> None:
    model = build("tanh", head)
    x, y = rows(model.facts, n=12)

    reference = as_in_scikit_learn(MLPClassifier, model, x, y)

    shares = reference.predict_proba(x)
    raw = model.forward(model.parameters(), mx.array(x.astype(np.float32)))
    np.testing.assert_allclose(model.predict_proba(x), shares, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(model.predict(x), reference.predict(x))
    assert model.loss(raw, mx.array(y)).item() == pytest.approx(log_loss(y, shares), rel=1e-4)
    assert model.correct(raw, mx.array(y)).item() == np.sum(reference.predict(x) == y)


def as_in_scikit_learn(kind: Any, model: MLP, x: Array, y: Array) -> Any:
    """scikit-learn's network with our model's weights."""
    activation = {"sigmoid": "logistic"}.get(model.activation, model.activation)
    reference = kind(hidden_layer_sizes=model.layer_sizes[1:-1], activation=activation, max_iter=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference.fit(x, y)
    arrays = model.arrays()
    reference.coefs_ = [arrays[f"layer_{i}_weights"].astype(float) for i in range(3)]
    reference.intercepts_ = [arrays[f"layer_{i}_bias"].astype(float) for i in range(3)]
    return reference


def test_every_activation_gives_outputs_of_its_own() -> None:
    x, _ = rows(REGRESSION)
    models = [MLP([4, 5, 1], activation, seed=1) for activation in ACTIVATIONS]
    for model in models[1:]:
        model.set_arrays(models[0].arrays())

    answers = [model.predict(x) for model in models]

    assert not any(np.allclose(one, other) for one, other in itertools.combinations(answers, 2))


@pytest.mark.parametrize(("n_outputs", "facts"), [(1, REGRESSION), (3, classes(3))])
def test_sigmoid_outputs_differ_from_plain_ones(n_outputs: int, facts: Facts) -> None:
    x, _ = rows(facts)
    plain, squashed = (MLP([4, n_outputs], output_activation=word, facts=facts) for word in (None, "sigmoid"))

    raw = [np.array(model.forward(model.parameters(), mx.array(x, mx.float32))) for model in (plain, squashed)]

    assert not np.allclose(plain.head.outputs(raw[0]), squashed.head.outputs(raw[1]))


@pytest.mark.parametrize("largest", [-400, 2000])
@pytest.mark.parametrize("head", ["one sigmoid", "logits", "one against the rest"])
def test_sure_outputs_stay_finite(head: str, largest: int) -> None:
    model = build("relu", head)
    n_outputs = HEADS[head][1]
    raw = np.tile(np.linspace(largest, largest - 100, n_outputs, dtype=np.float32), (2, 1))

    def loss(values: mx.array) -> mx.array:
        return model.loss(values, mx.array([1, 0]))

    value, slope = mx.value_and_grad(loss)(mx.array(raw))

    shares = model.head.outputs(raw)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    assert np.isfinite(value.item())
    assert np.isfinite(np.array(slope)).all()


def test_regression_outside_of_its_range_keeps_its_gradient() -> None:
    model = MLP([4, 1], output_activation="sigmoid", facts=REGRESSION)

    # the raw output 0 stands for 0.5; the slope of (sigmoid(z) - 1)² there is 2 * -0.5 * 0.25
    slope = mx.grad(lambda z: model.loss(z, mx.array([1.0])))(mx.array([[0.0]]))

    assert slope.item() == pytest.approx(-0.25)


def test_equally_likely_classes_count_as_the_lowest() -> None:
    model = MLP([4, 1], facts=classes(2))
    model.set_arrays({name: np.zeros_like(array) for name, array in model.arrays().items()})
    x = np.ones((3, 4))

    raw = model.forward(model.parameters(), mx.array(x, mx.float32))

    np.testing.assert_array_equal(model.predict(x), [0, 0, 0])
    assert model.correct(raw, mx.array([0, 1, 0])).item() == 2


def test_penalty_counts_weights_and_no_biases() -> None:
    assert MLP([2, 2, 1]).penalised() == ("layer_0_weights", "layer_1_weights")


def test_same_seed_gives_the_same_first_arrays() -> None:
    first, again, other = (MLP([4, 5, 1], seed=seed).arrays() for seed in (7, 7, 8))

    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert not np.array_equal(first["layer_0_weights"], other["layer_0_weights"])
    assert not np.array_equal(first["layer_1_weights"], other["layer_1_weights"])


def test_first_values_do_not_depend_on_what_mlx_drew_before() -> None:
    mx.random.seed(1)
    first = MLP([4, 5, 1]).arrays()

    mx.random.seed(2)
    again = MLP([4, 5, 1]).arrays()

    np.testing.assert_array_equal(first["layer_0_weights"], again["layer_0_weights"])


def test_first_weights_are_spread_by_the_activation() -> None:
    relu, tanh = (MLP([300, 200, 100, 1], activation).arrays() for activation in ("relu", "tanh"))

    # He: variance 2 / inputs. Glorot: 2 / (inputs + outputs), never beyond sqrt(6 / (inputs + outputs)).
    assert relu["layer_0_weights"].var() == pytest.approx(2 / 300, rel=0.05)
    assert tanh["layer_0_weights"].var() == pytest.approx(2 / 500, rel=0.05)
    assert np.abs(tanh["layer_0_weights"]).max() <= np.sqrt(6 / 500)
    assert np.abs(relu["layer_2_weights"]).max() <= np.sqrt(6 / 101)
    assert not relu["layer_0_bias"].any()


def test_parameters_are_counted() -> None:
    # 10 * 5 + 5, 5 * 1 + 1
    assert MLP([10, 5, 1]).n_parameters() == 61


def test_sizes_alone_say_regression_or_classes() -> None:
    assert MLP([10, 5, 1]).facts == Facts("regression", 0, (10,))
    assert MLP([10, 5, 4]).facts == Facts("classification", 0, (10,), 4)


def test_predictions_go_by_batches_that_fit_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("relu", "logits")
    x, _ = rows(model.facts, n=23)
    whole = model.predict_proba(x)
    sizes = []
    forward = MLP.forward

    def counting(self: MLP, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        sizes.append(len(x))
        return forward(self, parameters, x)

    monkeypatch.setattr(MLP, "forward", counting)
    monkeypatch.setattr(network, "_NUMBERS_AT_ONCE", 10 * model.numbers_per_row())

    answer = model.predict_proba(x)

    assert sizes == [10, 10, 3]
    np.testing.assert_allclose(answer, whole, rtol=1e-5)


def test_no_rows_get_no_predictions() -> None:
    assert build("relu", "number").predict(np.empty((0, 4))).shape == (0,)
    assert build("relu", "logits").predict(np.empty((0, 4))).shape == (0,)
    assert build("relu", "logits").predict_proba(np.empty((0, 4))).shape == (0, 3)


def test_rows_may_be_pictures() -> None:
    x, _ = rows(REGRESSION)
    flat, model = MLP([4, 5, 1]), MLP([4, 5, 1], facts=Facts("regression", 0, (2, 2, 1)))

    answer = model.predict(x.reshape(-1, 2, 2, 1))

    np.testing.assert_array_equal(answer, flat.predict(x))


def test_predictions_follow_new_arrays() -> None:
    model = build("relu", "number")
    x, _ = rows(REGRESSION)
    before = model.predict(x)

    model.set_arrays({name: 2 * array for name, array in model.arrays().items()})

    assert not np.allclose(model.predict(x), before)


def test_arrays_that_were_set_do_not_change_with_their_source() -> None:
    model = MLP([4, 1])
    source = {name: array.copy() for name, array in model.arrays().items()}
    model.set_arrays(source)

    source["layer_0_weights"][:] = 0

    assert model.arrays()["layer_0_weights"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("layer_0_bias"), "names do not fit: layer_0_bias"),
        (lambda arrays: arrays.update(extra=np.zeros(1)), "names do not fit: extra"),
        (lambda arrays: arrays.update(layer_0_bias=np.zeros((1, 5))), r"shape \(1, 5\).*Needed: .*\(5,\)"),
        (lambda arrays: arrays.update(layer_0_bias=np.zeros(5, int)), "type int64"),
        (lambda arrays: arrays.update(layer_0_bias=np.zeros(5, complex)), "type complex128"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change: Any, message: str) -> None:
    model = MLP([4, 5, 1])
    arrays = model.arrays()
    change(arrays)

    with pytest.raises(DataError, match=message):
        model.set_arrays(arrays)


@pytest.mark.parametrize("head", ["two logits", "logits", "one against the rest"])
def test_the_largest_output_is_predicted_where_probabilities_are_rounded_to_a_tie(head: str) -> None:
    facts, n_outputs, output_activation = HEADS[head]
    model = MLP([4, n_outputs], output_activation=output_activation, facts=facts)
    bias = np.full(n_outputs, 99.5, np.float32)
    bias[0], bias[-1] = 100.0, 100.000008  # sigmoids and the shares of both round to the same number
    model.set_arrays({"layer_0_weights": np.zeros((4, n_outputs), np.float32), "layer_0_bias": bias})

    numbers, shares = model.classify(np.ones((2, 4)))

    assert numbers.tolist() == model.predict(np.ones((2, 4))).tolist() == [n_outputs - 1] * 2
    assert model.correct(model.forward(model.parameters(), mx.ones((2, 4))), mx.array([n_outputs - 1] * 2)).item() == 2
    np.testing.assert_array_equal(shares, model.predict_proba(np.ones((2, 4))))


@pytest.mark.parametrize(("logit", "predicted"), [(1e-30, 1), (0.0, 0), (-1e-30, 0)])
def test_one_logit_is_class_1_above_zero(logit: float, predicted: int) -> None:
    model = MLP([4, 1], output_activation="sigmoid", facts=classes(2))
    model.set_arrays({"layer_0_weights": np.zeros((4, 1), np.float32), "layer_0_bias": np.array([logit], np.float32)})

    assert model.predict(np.ones((1, 4))).tolist() == [predicted]
    assert model.predict_proba(np.ones((1, 4))).tolist() == [[0.5, 0.5]]


def test_sizes_may_be_numbers_of_numpy() -> None:
    model = MLP(list(np.array([4, 2])), seed=np.int64(3), l2_regularization=np.float64(0.5))  # type: ignore[arg-type]

    assert model.params() == MLP([4, 2], seed=3, l2_regularization=0.5).params()
    assert {type(size) for size in model.params()["layer_sizes"]} == {int}


# ---- updates of low rank


def low_rank(rank: int | None = 2, **more: Any) -> MLP:
    return MLP([4, 5, 3, 3], "tanh", lora_rank=rank, seed=3, facts=classes(3), **more)


def with_updates(model: MLP) -> MLP:
    """The model with numbers of its own in every array that is trained."""
    rng = np.random.default_rng(1)
    model.set_arrays({name: rng.normal(size=shape).astype(np.float32) for name, shape in model.shapes().items()})
    return model


def trained_low_rank(folder: Path, epochs: int, **more: Any) -> dict[str, bytes]:
    """Files of a run's metrics and checkpoints."""
    what = low_rank_config(epochs)
    end, _ = train_here(request(folder, what, **more))
    assert end.exit_code == 0
    return files_of(folder / "run")


def low_rank_config(epochs: int) -> dict[str, Any]:
    model = {"name": "mlp", "params": {"layer_sizes": [4, 3, 2], "lora_rank": 2, "seed": 7}}
    return config(model, classification(), epochs=epochs)


def test_rank_is_cut_to_what_a_layer_has() -> None:
    model = low_rank(4)

    # the layers are 4 x 5, 5 x 3 and 3 x 3
    assert model.shapes() == {
        "layer_0_lora_a": (4, 4), "layer_0_lora_b": (4, 5), "layer_0_bias": (5,),
        "layer_1_lora_a": (5, 3), "layer_1_lora_b": (3, 3), "layer_1_bias": (3,),
        "layer_2_lora_a": (3, 3), "layer_2_lora_b": (3, 3), "layer_2_bias": (3,),
    }  # fmt: skip
    assert model.n_parameters() == (16 + 20 + 5) + (15 + 9 + 3) + (9 + 9 + 3)


def test_low_rank_begins_as_the_dense_network_of_the_same_seed() -> None:
    x, _ = rows(classes(3))
    dense = MLP([4, 5, 3, 3], "tanh", seed=3, facts=classes(3))

    answer = low_rank().predict_proba(x)

    np.testing.assert_array_equal(answer, dense.predict_proba(x))


def test_low_rank_gives_what_the_merged_dense_network_gives() -> None:
    x, _ = rows(classes(3))
    model = with_updates(low_rank())
    arrays = model.arrays()
    merged = MLP([4, 5, 3, 3], "tanh", facts=classes(3))
    merged.set_arrays({
        name: arrays[name] if name.endswith("bias") else
        arrays[name] + arrays[name.replace("weights", "lora_a")] @ arrays[name.replace("weights", "lora_b")]
        for name in merged.shapes()
    })  # fmt: skip

    answer = model.predict_proba(x)

    np.testing.assert_allclose(answer, merged.predict_proba(x), rtol=1e-5, atol=1e-6)


def test_first_values_of_an_update_are_spread_by_its_inputs_and_not_those_of_the_weights() -> None:
    model = MLP([400, 300, 2], lora_rank=200, seed=3)

    arrays = model.arrays()

    a, weights = arrays["layer_0_lora_a"].ravel(), arrays["layer_0_weights"].ravel()[: 400 * 200]
    assert np.std(a) == pytest.approx(400**-0.5, rel=0.02)  # 80,000 numbers: a standard error of 0.25 %
    assert abs(np.corrcoef(a, weights)[0, 1]) < 0.02  # 5.6 standard errors
    assert not np.array_equal(arrays["layer_1_lora_a"].ravel()[:200], a[:200] * np.sqrt(400 / 300))
    assert not arrays["layer_0_lora_b"].any() and not arrays["layer_0_bias"].any()


def test_only_the_updates_and_the_biases_are_trained(tmp_path: Path) -> None:
    first = MLP([4, 3, 2], lora_rank=2, seed=7).arrays()

    trained_low_rank(tmp_path, epochs=3)

    last = models.load(tmp_path / "run" / "checkpoints" / "checkpoint_final").arrays()
    moved = {name for name in first if not np.array_equal(first[name], last[name])}
    assert moved == {name for name in first if not name.endswith("weights")}
    assert len(moved) == 6


def test_low_rank_training_that_was_stopped_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    whole = trained_low_rank(tmp_path / "whole", epochs=4)
    asked = iter(range(100))
    stopped = request(tmp_path / "stopped", low_rank_config(4))
    end, _ = train_here(stopped, should_stop=lambda: next(asked) >= 7)
    assert end.exit_code == 130

    resumed = trained_low_rank(tmp_path / "stopped", epochs=4, resume=True)

    assert resumed == whole


def test_penalty_counts_the_updates() -> None:
    model = low_rank(l2_regularization=0.5)

    names = model.penalised()

    assert names == tuple(f"layer_{i}_lora_{letter}" for i in range(3) for letter in "ab")


def test_saved_low_rank_model_is_the_same_again(tmp_path: Path) -> None:
    x, _ = rows(classes(3))
    model = with_updates(low_rank())
    model.save(tmp_path)

    loaded = models.load(tmp_path)

    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
    assert isinstance(loaded, MLP) and loaded.params() == model.params()
    assert {file.stem for file in tmp_path.glob("*.npy")} == {
        *model.shapes(),
        *(f"layer_{i}_weights" for i in range(3)),
    }


def test_loaded_low_rank_model_has_the_weights_of_its_folder(tmp_path: Path) -> None:
    x, _ = rows(classes(3))
    model = low_rank()
    arrays = {name: array + 1 for name, array in model.arrays().items()}
    model.predict_proba(x)
    model.set_arrays(arrays)
    model.save(tmp_path)

    loaded = models.load(tmp_path)

    np.testing.assert_array_equal(loaded.arrays()["layer_1_weights"], arrays["layer_1_weights"])
    np.testing.assert_array_equal(loaded.predict_proba(x), model.predict_proba(x))
    assert not np.allclose(model.predict_proba(x), with_updates(low_rank()).predict_proba(x))


def test_weights_stay_when_the_updates_alone_are_set() -> None:
    model = low_rank()
    before = model.arrays()

    with_updates(model)

    np.testing.assert_array_equal(model.arrays()["layer_0_weights"], before["layer_0_weights"])


@pytest.mark.parametrize("name", ["layer_0_weights", "layer_0_lora_a"])
def test_a_part_of_the_arrays_is_refused(name: str) -> None:
    model = low_rank()
    arrays = {other: array for other, array in model.arrays().items() if other != name}

    with pytest.raises(DataError, match=f"names do not fit: {name}"):
        model.set_arrays(arrays)


def test_without_a_rank_nothing_is_said_of_one() -> None:
    model = MLP([4, 3, 1])

    assert list(model.params()) == ["layer_sizes", "activation", "output_activation", "seed", "l2_regularization"]
    assert list(model.arrays()) == ["layer_0_weights", "layer_0_bias", "layer_1_weights", "layer_1_bias"]


@pytest.mark.parametrize("rank", [0, -1, True, 2.5, "4", 2**31])
def test_what_is_no_rank_is_refused(rank: Any) -> None:
    with pytest.raises(DataError, match=r"'lora_rank' is .*Allowed: null, or a whole number from 1"):
        MLP([4, 3, 1], lora_rank=rank)


def test_updates_count_towards_the_largest_model() -> None:
    facts = Facts("regression", 0, (20_000,))
    params = {"layer_sizes": [20_000, 30_000, 1]}

    # 600,060,001 numbers fit; a rank of 10,000 adds 20,000 * 10,000 + 10,000 * 30,000, and 30,000 + 1 in the last layer
    assert MLP.misfits(params, facts) == []
    assert "1,100,090,002 parameters" in MLP.misfits({**params, "lora_rank": 10_000}, facts)[0]


def test_low_rank_runs_from_the_command_line_and_is_evaluated(tmp_path: Path) -> None:
    with Workspace.of(tmp_path) as place:
        summary = place.run(workspaces.MLP, "--set", "model.params.lora_rank=4")

        answer = json.loads(place.mlx("eval", "--run-dir", summary["run_dir"], "--json"))

    saved = json.loads(Path(summary["run_dir"], "config.json").read_text())
    assert saved["model"]["params"]["lora_rank"] == 4
    assert answer["metrics"]["mse"] > 0
