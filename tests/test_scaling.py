"""The scaling that a model was trained with: kept in its folder to the last bit, and applied to whatever it predicts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoexperiment import models
from autoexperiment.datasets.base import Facts
from autoexperiment.datasets.scaling import Scaling
from autoexperiment.errors import DataError
from autoexperiment.files import dump_json, load_json
from autoexperiment.models import MLP, LinearRegression, Network, ResNet

Array = np.ndarray[Any, Any]
PICTURES = Facts("classification", 0, (8, 8, 2), 3)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)


def normalising(width: int, divisor: float = 1.0) -> Scaling:
    rng = np.random.default_rng(3)
    return Scaling(divisor, rng.normal(size=width), rng.uniform(0.5, 2, size=width))


def linear() -> Network:
    model = LinearRegression(n_features=3)
    model.set_arrays({"weights": np.array([1.0, -2.0, 0.5]), "bias": np.array([4.0])})
    return model


def built(name: str) -> Network:
    if name == "linear_regression":
        return linear()
    return MLP([3, 4, 2], seed=1) if name == "mlp" else ResNet(8, 2, seed=1, facts=PICTURES)


def answer(model: Network, X: Array) -> Array:
    return model.predict_proba(X) if model.facts.n_classes else model.predict(X)


@settings(max_examples=60, deadline=None)
@given(
    divisor=POSITIVE,
    numbers=st.none()
    | st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False), POSITIVE), min_size=1, max_size=5),
)
def test_a_scaling_comes_back_from_json_to_the_last_bit(divisor: float, numbers: Any) -> None:
    mean, deviation = (None, None) if numbers is None else np.array(numbers).T
    scaling = Scaling(divisor, mean, deviation)

    again = Scaling.from_json(load_json(dump_json(scaling.to_json())), width=len(numbers or [0]))

    assert again.divisor == divisor
    for kept, given_ in ((again.mean, mean), (again.deviation, deviation)):
        assert (None if kept is None else kept.tobytes()) == (None if given_ is None else given_.tobytes())


def test_a_scaling_that_changes_nothing_is_null() -> None:
    assert Scaling().to_json() is None
    assert Scaling(255.0).to_json() == {"divisor": 255.0, "mean": None, "deviation": None}


@pytest.mark.parametrize(
    "value",
    [
        [],
        "no",
        {},
        {"divisor": 1.0},
        {"divisor": 0.0, "mean": None, "deviation": None},
        {"divisor": True, "mean": None, "deviation": None},
        {"divisor": 1.0, "mean": None, "deviation": [1.0, 1.0]},
        {"divisor": 1.0, "mean": [0.0, 0.0], "deviation": None},
        {"divisor": 1.0, "mean": [0.0], "deviation": [1.0]},
        {"divisor": 1.0, "mean": [0.0, 0.0], "deviation": [1.0, 0.0]},
        {"divisor": 1.0, "mean": [0.0, 0.0], "deviation": [1.0, -1.0]},
        {"divisor": 1.0, "mean": [0.0, "0"], "deviation": [1.0, 1.0]},
        {"divisor": 1.0, "mean": [0.0, None], "deviation": [1.0, 1.0]},
        {"divisor": 1.0, "mean": None, "deviation": None, "more": 1},
    ],
)
def test_what_is_no_scaling_is_refused(value: object) -> None:
    with pytest.raises(DataError, match="'scaling'"):
        Scaling.from_json(value, width=2)


def test_a_damaged_scaling_is_named_with_its_file(tmp_path: Path) -> None:
    linear().save(tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"scaling": null', '"scaling": {"divisor": 0}'))

    with pytest.raises(DataError, match=r"config\.json: 'scaling' is no scaling"):
        models.load(tmp_path)


# ---- what a model predicts from


@pytest.mark.parametrize("name", ["linear_regression", "mlp", "resnet"])
def test_a_saved_model_scales_the_rows_that_it_predicts_from(tmp_path: Path, name: str) -> None:
    plain, model = built(name), built(name)
    X = np.random.default_rng(0).normal(5, 3, size=(20, *model.facts.shape))
    model.scaling = normalising(model.facts.shape[-1])
    assert model.scaling.mean is not None and model.scaling.deviation is not None
    by_hand = (X - model.scaling.mean) / model.scaling.deviation

    model.save(tmp_path)
    again = models.load(tmp_path)

    np.testing.assert_array_equal(answer(again, X), answer(plain, by_hand))
    assert not np.allclose(answer(again, X), answer(plain, X))


@pytest.mark.parametrize("name", ["linear_regression", "mlp", "resnet"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_rows_that_are_predicted_from_stay_as_they_are(name: str, dtype: Any) -> None:
    model = built(name)
    model.scaling = normalising(model.facts.shape[-1], divisor=255.0)
    X = np.random.default_rng(0).normal(size=(4, *model.facts.shape)).astype(dtype)
    before = X.copy()

    answer(model, X)

    np.testing.assert_array_equal(X, before)


def pixels() -> Array:
    return np.random.default_rng(0).integers(0, 256, size=(5, *PICTURES.shape), dtype=np.uint8)


@pytest.mark.parametrize("is_normalised", [False, True])
@pytest.mark.parametrize("divisor", [1.0, 255.0])
def test_pictures_of_type_uint8_are_pixels(is_normalised: bool, divisor: float) -> None:
    # no ResNet: to its normalisation a divisor makes little difference
    plain, model = (MLP([128, 4, 3], "tanh", seed=1, facts=PICTURES) for _ in "ab")
    scaling = normalising(2, divisor) if is_normalised else Scaling(divisor)
    model.scaling = scaling
    by_hand = pixels().astype(np.float32) / np.float32(255)
    if scaling.mean is not None and scaling.deviation is not None:
        by_hand = (by_hand - scaling.mean) / scaling.deviation

    found = model.predict_proba(pixels())

    np.testing.assert_allclose(found, plain.predict_proba(by_hand), rtol=1e-4)
    np.testing.assert_array_equal(model.predict_proba(pixels().reshape(5, -1)), found)


def test_pixels_of_another_type_are_pixels_for_a_model_that_was_trained_on_them() -> None:
    model = built("resnet")
    model.scaling = normalising(2, divisor=255.0)

    np.testing.assert_array_equal(model.predict_proba(pixels().astype(np.float64)), model.predict_proba(pixels()))


def test_small_whole_numbers_of_a_table_are_no_pixels() -> None:
    X = np.array([[200, 50, 10]], np.uint8)

    assert linear().predict(X).tolist() == [200 - 2 * 50 + 0.5 * 10 + 4]


def test_loading_into_a_model_takes_its_scaling_over(tmp_path: Path) -> None:
    saved = linear()
    saved.scaling = Scaling(1.0, np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0]))
    saved.save(tmp_path)

    model = LinearRegression().load(tmp_path)

    # (3 - 1) / 2 = 1; (4 - 2) / 2 = 1; (3 - 3) / 2 = 0
    assert model.predict(np.array([[3.0, 4.0, 3.0]])).tolist() == [1 - 2 + 4]
