"""Linear regression: the closed form against scikit-learn and NumPy's least squares, and gradient descent to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError
from autoexperiment.models import LinearRegression, make

Array = np.ndarray[Any, Any]


def data(seed: int, n: int, d: int) -> tuple[Array, Array]:
    """Rows with a linear target and noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, X @ rng.normal(size=d) + 0.1 * rng.normal(size=n) + 2.0


def fitted(X: Array, y: Array, *, alpha: float = 0.0, chunk: int = 50) -> LinearRegression:
    model = LinearRegression(l2_regularization=alpha)
    model.fit_closed_form((X[i : i + chunk], y[i : i + chunk]) for i in range(0, len(X), chunk))
    return model


def least_norm(X: Array, y: Array) -> Array:
    """The weights of least norm, from the singular values of the centred rows; constants are centred to 0 exactly."""
    X = X - X[0]
    weights: Array = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=1e-10)[0]
    return weights


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(30, 120),
    d=st.integers(1, 12),
    chunk=st.integers(1, 130),
    alpha=st.sampled_from([0.0, 1e-3, 1.0, 250.0]),
)
def test_closed_form_is_ridge_regression(seed: int, n: int, d: int, chunk: int, alpha: float) -> None:
    X, y = data(seed, n, d)

    model = fitted(X, y, alpha=alpha, chunk=chunk)

    expected = Ridge(alpha=alpha, solver="svd").fit(X, y)
    np.testing.assert_allclose(model.arrays()["weights"], expected.coef_, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(model.arrays()["bias"], [expected.intercept_], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-9, atol=1e-9)


def test_blocks_larger_than_the_cache_give_the_same() -> None:
    X, y = data(0, 30_000, 20)  # 600,000 numbers: three blocks

    model = fitted(X, y, chunk=len(X))

    np.testing.assert_allclose(model.arrays()["weights"], Ridge(alpha=0).fit(X, y).coef_, rtol=1e-9)


def test_large_means_cost_no_digits() -> None:
    X, y = data(1, 500, 6)
    X = np.round(X * 2**20) / 2**20  # so that adding 2**20 loses nothing

    plain, shifted = fitted(X, y), fitted(X + 2.0**20, y + 2.0**20)

    np.testing.assert_allclose(shifted.arrays()["weights"], plain.arrays()["weights"], rtol=1e-9)
    np.testing.assert_allclose(shifted.predict(X + 2.0**20) - 2.0**20, plain.predict(X), atol=1e-8)


def test_units_of_the_features_do_not_matter() -> None:
    X, y = data(2, 200, 5)
    units = np.array([1e-12, 1e12, 1.0, 1e-6, 1e7])

    model = fitted(X * units, y)

    np.testing.assert_allclose(model.arrays()["weights"] * units, fitted(X, y).arrays()["weights"], rtol=1e-8)


@pytest.mark.parametrize(
    "columns",
    [
        pytest.param(lambda X: [X[:, 0], X[:, 0], X[:, 1]], id="the same column twice"),
        pytest.param(lambda X: [X[:, 0], 3 * X[:, 0], X[:, 1]], id="a multiple"),
        pytest.param(lambda X: [X[:, 0], X[:, 1], X[:, 0] + X[:, 1] - 7], id="a sum"),
        pytest.param(lambda X: [X[:, 0], 1e5 * X[:, 0], X[:, 1], 1e-3 * X[:, 1] + 4], id="multiples in other units"),
        pytest.param(lambda X: [X[:, 0], np.full(len(X), 0.1), X[:, 1]], id="a constant"),
        pytest.param(lambda X: [np.full(len(X), 0.1), np.zeros(len(X))], id="constants alone"),
    ],
)
def test_collinear_features_get_the_weights_of_least_norm(columns: Any) -> None:
    X, y = data(3, 90, 2)
    X = np.stack(columns(X), axis=1)

    model = fitted(X, y, chunk=40)

    np.testing.assert_allclose(model.arrays()["weights"], least_norm(X, y), rtol=1e-6, atol=1e-9)


def test_constant_feature_gets_no_weight_in_any_chunk() -> None:
    X, y = data(4, 100_000, 2)
    X[:, 1] = 0.1

    model = fitted(X, y, chunk=7001)

    assert model.arrays()["weights"][1] == 0.0


def test_feature_that_varies_by_rounding_alone_gets_no_weight() -> None:
    X, y = data(5, 100, 2)
    X[:, 1] = np.where(y > 0, 0.1 + 0.2, 0.3)

    model = fitted(X, y)

    assert model.arrays()["weights"][1] == 0.0


def test_fewer_rows_than_features_are_fitted_exactly() -> None:
    X, y = data(6, 5, 12)

    model = fitted(X, y, chunk=2)

    np.testing.assert_allclose(model.predict(X), y, atol=1e-9)
    np.testing.assert_allclose(model.arrays()["weights"], least_norm(X, y), rtol=1e-7, atol=1e-10)


def test_one_row_is_predicted_by_the_bias() -> None:
    model = fitted(np.array([[4.0, 5.0]]), np.array([3.0]))

    np.testing.assert_array_equal(model.arrays()["weights"], [0.0, 0.0])
    np.testing.assert_array_equal(model.arrays()["bias"], [3.0])


def test_singular_features_with_a_penalty_are_ridge_regression() -> None:
    X, y = data(7, 60, 3)
    X = np.hstack([X, X])

    model = fitted(X, y, alpha=0.5)

    np.testing.assert_allclose(model.arrays()["weights"], Ridge(alpha=0.5, solver="svd").fit(X, y).coef_, rtol=1e-9)


def test_by_hand() -> None:
    X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([1.0, 4.0, 7.0])

    # the centred products are 2 and 6: weight 6 / (2 + 1), and the bias is the mean
    model = fitted(X, y, alpha=1.0)

    np.testing.assert_allclose(model.arrays()["weights"], [2.0], rtol=1e-15)
    np.testing.assert_allclose(model.arrays()["bias"], [4.0], rtol=1e-15)


def test_closed_form_does_not_depend_on_the_seed() -> None:
    X, y = data(8, 40, 3)
    models = [LinearRegression(seed=seed, n_features=3) for seed in (1, 2)]

    for model in models:
        model.fit_closed_form([(X, y)])

    np.testing.assert_array_equal(models[0].arrays()["weights"], models[1].arrays()["weights"])


def test_chunks_may_be_float32_and_pictures() -> None:
    X, y = data(9, 40, 12)
    pictures = X.astype(np.float32).reshape(-1, 2, 3, 2)

    model = fitted(pictures, y.astype(np.float32))

    np.testing.assert_allclose(model.arrays()["weights"], fitted(X, y).arrays()["weights"], rtol=1e-4)
    assert model.predict(pictures).shape == (40,)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([], "no rows to fit"),
        ([(np.empty((0, 3)), np.empty(0))], "no rows to fit"),
        ([(np.ones((4, 3)), np.ones(5))], r"y has shape \(5,\)"),
        ([(np.ones((4, 3)), np.ones((4, 1)))], r"y has shape \(4, 1\)"),
        ([(np.ones((4, 3)), np.ones(4)), (np.ones((4, 2)), np.ones(4))], r"X has shape \(4, 2\)"),
        ([(np.diag([1e200, 1.0]), np.ones(2))], "squares overflow"),
        ([(np.array([[0.0], [1e-160]]), np.array([0.0, 1e153]))], "squares overflow"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(chunks: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        LinearRegression().fit_closed_form(chunks)


def descend(model: LinearRegression, X: Array, y: Array, *, steps: int, rate: float) -> None:
    """Plain gradient descent over all rows, as a training loop does it."""
    import mlx.core as mx

    names = list(model.shapes())
    x, t = mx.array(X.astype(np.float32)), mx.array(y.astype(np.float32))

    def objective(values: list[Any]) -> Any:
        parameters = dict(zip(names, values, strict=True))
        squares = sum(mx.sum(mx.square(parameters[name])) for name in model.penalised())
        return model.loss(model.forward(parameters, x), t) + model.l2_regularization * squares / len(X)

    values = [mx.array(value) for value in model.initial().values()]
    for _ in range(steps):
        values = [value - rate * slope for value, slope in zip(values, mx.grad(objective)(values), strict=True)]
        mx.eval(values)
    model.set_arrays({name: np.array(value) for name, value in zip(names, values, strict=True)})


@pytest.mark.parametrize("alpha", [0.0, 20.0])
def test_gradient_descent_converges_to_the_closed_form(alpha: float) -> None:
    X, y = data(10, 60, 3)
    model = LinearRegression(use_gradient_descent=True, l2_regularization=alpha, n_features=3)

    descend(model, X, y, steps=300, rate=0.2)

    exact = fitted(X, y, alpha=alpha)
    np.testing.assert_allclose(model.arrays()["weights"], exact.arrays()["weights"], atol=1e-4)
    np.testing.assert_allclose(model.arrays()["bias"], exact.arrays()["bias"], atol=1e-4)


def test_same_seed_gives_the_same_first_weights() -> None:
    first, again, other = (LinearRegression(seed=seed, n_features=4).arrays()["weights"] for seed in (42, 42, 43))

    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_first_weights_are_not_the_numbers_of_a_dataset_of_the_same_seed() -> None:
    limit = np.sqrt(6 / 5)

    drawn = LinearRegression(seed=42, n_features=4).arrays()["weights"]

    assert not np.allclose(drawn, np.random.default_rng(42).uniform(-limit, limit, size=4), rtol=1e-6)


def test_saved_weights_are_loaded_as_the_guide_shows(tmp_path: Path) -> None:
    X, y = data(11, 40, 5)
    fitted(X, y).save(tmp_path / "checkpoint_final")

    model = LinearRegression()
    model.load(str(tmp_path / "checkpoint_final"))
    predictions = model.predict(X)

    np.testing.assert_array_equal(predictions, fitted(X, y).predict(X))
    assert predictions.shape == (40,)
    assert np.load(tmp_path / "checkpoint_final" / "weights.npy").dtype == np.float64
    assert np.load(tmp_path / "checkpoint_final" / "bias.npy").shape == (1,)


def test_predictions_go_by_blocks_of_rows() -> None:
    model = LinearRegression(n_features=400)
    X = np.ones((3000, 400))  # 1,200,000 numbers: two blocks

    np.testing.assert_allclose(model.predict(X), np.full(3000, model.arrays()["weights"].sum()), rtol=1e-12)
    assert model.predict(X[:0]).shape == (0,)


def test_model_without_weights_does_not_predict() -> None:
    with pytest.raises(DataError, match=r"no weights yet.*model\.load"):
        LinearRegression().predict(np.ones((2, 3)))


@pytest.mark.parametrize("X", [np.ones(3), np.ones((2, 4)), np.array([["a", "b", "c"]]), np.ones((2, 3), complex)])
def test_rows_of_another_shape_or_type_are_refused(X: Array) -> None:
    with pytest.raises(DataError, match=r"Needed: numbers, \(rows, 3\)"):
        LinearRegression(n_features=3).predict(X)


def test_one_feature_still_needs_rows() -> None:
    with pytest.raises(DataError, match=r"X has shape \(5,\)"):
        LinearRegression(n_features=1).predict(np.ones(5))


def test_regression_has_no_probabilities() -> None:
    with pytest.raises(DataError, match=r"Use predict\(X\)"):
        LinearRegression(n_features=3).predict_proba(np.ones((1, 3)))


def test_closed_form_of_very_many_features_is_refused_before_it_takes_the_memory() -> None:
    wide = Facts("regression", 10, (10_001,))

    with pytest.raises(DataError, match="Set 'use_gradient_descent' to true"):
        make({"name": "linear_regression", "params": {}}, wide)
    make({"name": "linear_regression", "params": {"use_gradient_descent": True}}, wide)


def test_closed_form_does_without_mlx(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from autoexperiment.models import LinearRegression, load\n"
        "model = LinearRegression()\n"
        "model.fit_closed_form([(np.eye(3), np.arange(3.0))])\n"
        "model.save('m'); load('m').predict(np.eye(3))\n"
        "sys.exit('mlx.core' in sys.modules)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["rows", "targets"])
def test_what_is_no_number_is_not_called_an_overflow(bad: float, place: str) -> None:
    X, y = np.ones((5, 2)), np.ones(5)
    (X[3] if place == "rows" else y[3:])[:1] = bad

    with pytest.raises(DataError, match="hold NaN or infinite numbers"):
        LinearRegression().fit_closed_form([(X, y)])


def test_parameters_may_be_numbers_of_numpy() -> None:
    model = LinearRegression(np.int64(5), l2_regularization=np.float32(0.5), n_features=np.int64(3))  # type: ignore[arg-type]

    assert json.loads(json.dumps(model.config())) == LinearRegression(5, l2_regularization=0.5, n_features=3).config()
