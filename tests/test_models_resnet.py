"""The residual network on tiny pictures: its shape, its parts against NumPy, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autoexperiment.datasets.base import Facts
from autoexperiment.errors import DataError
from autoexperiment.models import ResNet, layers
from autoexperiment.models.losses import mx  # after the BLAS: other tests compare bytes with other processes
from autoexperiment.models.resnet import groups_of

Array = np.ndarray[Any, Any]
TINY = Facts("classification", 0, (8, 8, 1), 2)


def pictures(facts: Facts, n: int = 4) -> Array:
    return np.random.default_rng(0).normal(size=(n, *facts.shape)).astype(np.float32)


def scrambled(model: ResNet) -> dict[str, Array]:
    """Arrays without the zeros and ones of the beginning."""
    rng = np.random.default_rng(1)
    return {name: rng.normal(0.5, 0.3, size=shape).astype(np.float32) for name, shape in model.shapes().items()}


def test_parameters_of_depth_8_are_counted() -> None:
    model = ResNet(8, 4, facts=Facts("classification", 0, (9, 11, 3), 5))

    # 3 x 3 convolutions without bias, each with a scale and a bias of the norm for every output channel
    first = 9 * 3 * 4 + 2 * 4
    stages = (9 * 4 * 4 + 9 * 4 * 4 + 4 * 4) + (9 * 4 * 8 + 9 * 8 * 8 + 4 * 8) + (9 * 8 * 16 + 9 * 16 * 16 + 4 * 16)
    assert model.n_parameters() == first + stages + 16 * 5 + 5


def test_depth_20_has_the_published_size() -> None:
    model = ResNet(facts=Facts("classification", 0, (32, 32, 3), 10))

    # He et al. 2016, table 6: 0.27M
    assert round(model.n_parameters() / 1e6, 2) == 0.27
    assert sum(len(shape) == 4 for shape in model.shapes().values()) == 20 - 1


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44, 56])
def test_depth_counts_the_layers_with_weights(depth: int) -> None:
    model = ResNet(depth, 2, facts=TINY)

    assert len(model.penalised()) == depth
    assert not any("scale" in name or "bias" in name for name in model.penalised())


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (3, 1), (6, 1), (8, 2), (10, 2), (16, 4), (32, 8), (64, 8)])
def test_groups_have_at_least_4_channels(channels: int, groups: int) -> None:
    assert groups_of(channels) == groups


def normalised(x: Array, groups: int) -> Array:
    """One picture, shape (height, width, channels), each group of channels brought to mean 0 and variance 1."""
    parts = [(part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in np.split(x, groups, axis=-1)]
    return np.concatenate(parts, axis=-1)


def convolved(x: Array, weights: Array, stride: int) -> Array:
    """One picture, shape (height, width, channels), under windows of 3 x 3."""
    padded = np.pad(x, [(1, 1), (1, 1), (0, 0)])
    corners = [range(0, size, stride) for size in x.shape[:2]]
    windows = np.array([[padded[i : i + 3, j : j + 3] for j in corners[1]] for i in corners[0]])
    answer: Array = np.einsum("ijabc,oabc->ijo", windows, weights)
    return answer


def written_again(arrays: dict[str, Array], x: Array, groups: list[int]) -> Array:
    """The network of depth 8 for one picture. `groups`: of the normalisation in each stage."""

    def step(name: str, x: Array, stage: int, stride: int = 1) -> Array:
        y = normalised(convolved(x, arrays[f"{name}_weights"], stride), groups[stage])
        answer: Array = y * arrays[f"{name}_scale"] + arrays[f"{name}_bias"]
        return answer

    x = np.maximum(step("input", x, 0), 0)
    for stage, stride in enumerate((1, 2, 2)):
        name = f"stage_{stage}_block_0"
        y = step(f"{name}_second", np.maximum(step(f"{name}_first", x, stage, stride), 0), stage)
        kept = x[::stride, ::stride]
        x = np.maximum(y + np.pad(kept, [(0, 0), (0, 0), (0, y.shape[-1] - kept.shape[-1])]), 0)
    answer: Array = x.mean(axis=(0, 1)) @ arrays["output_weights"] + arrays["output_bias"]
    return answer


def test_outputs_are_those_of_the_network_written_down_again() -> None:
    facts = Facts("classification", 0, (9, 8, 2), 3)
    model = ResNet(8, 4, facts=facts)
    model.set_arrays(scrambled(model))
    x = pictures(facts)

    raw = np.array(model.forward(model.parameters(), mx.array(x)))

    expected = [written_again(model.arrays(), picture, [1, 2, 4]) for picture in x.astype(float)]
    np.testing.assert_allclose(raw, expected, rtol=1e-3, atol=1e-3)


def test_group_norm_is_that_of_the_formula() -> None:
    x = np.random.default_rng(0).normal(3, 2, size=(2, 3, 5, 4))
    scale, bias = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.0, 1.0, 0.0, -1.0])

    answer = layers.group_norm(*(mx.array(a.astype(np.float32)) for a in (x, scale, bias)), groups=2)

    expected = np.array([normalised(picture, 2) for picture in x]) * scale + bias
    np.testing.assert_allclose(np.array(answer), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_that_of_the_formula(stride: int) -> None:
    rng = np.random.default_rng(0)
    x, weights = rng.normal(size=(1, 5, 4, 2)), rng.normal(size=(3, 3, 3, 2))

    answer = layers.convolution(mx.array(x, mx.float32), mx.array(weights, mx.float32), stride=stride)

    np.testing.assert_allclose(np.array(answer)[0], convolved(x[0], weights, stride), atol=1e-5)


def test_shortcut_keeps_every_second_pixel_and_adds_channels_of_zeros() -> None:
    x = np.arange(30.0, dtype=np.float32).reshape(1, 5, 3, 2)

    answer = np.array(layers.shortcut(mx.array(x), 3, stride=2))

    np.testing.assert_array_equal(answer[0, :, :, :2], x[0, [0, 2, 4]][:, [0, 2]])
    assert not answer[..., 2].any()
    assert answer.shape == (1, 3, 2, 3)


@pytest.mark.parametrize("shape", [(8, 8, 1), (9, 13, 3), (8, 11, 5)])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_pictures_of_any_size_get_outputs(task: str, shape: tuple[int, ...]) -> None:
    facts = Facts(task, 0, shape, 3 if task == "classification" else 0)
    model = ResNet(8, 2, facts=facts)

    answer = model.predict(pictures(facts))

    assert answer.shape == (4,)
    assert set(answer) <= {0, 1, 2} if task == "classification" else np.isfinite(answer).all()


def test_answer_for_a_picture_does_not_depend_on_its_batch() -> None:
    model = ResNet(8, 4, facts=TINY)
    model.set_arrays(scrambled(model))
    x = pictures(TINY)

    together = model.predict_proba(x)

    alone = np.concatenate([model.predict_proba(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_pictures_may_be_long_rows_but_not_of_another_shape() -> None:
    model = ResNet(8, 2, facts=TINY)
    x = pictures(TINY)

    np.testing.assert_array_equal(model.predict_proba(x.reshape(4, 64)), model.predict_proba(x))
    with pytest.raises(DataError, match=r"Needed: numbers, \(rows, 8, 8, 1\)"):
        model.predict(x.transpose(0, 3, 1, 2))


def test_every_array_has_an_effect() -> None:
    model = ResNet(8, 2, facts=TINY)
    arrays = scrambled(model)
    x = mx.array(pictures(TINY))

    def total(parameters: dict[str, mx.array]) -> mx.array:
        return mx.sum(mx.square(model.forward(parameters, x)))

    slopes = mx.grad(total)({name: mx.array(array) for name, array in arrays.items()})

    assert [name for name in model.shapes() if not np.array(slopes[name]).any()] == []


def test_gradient_agrees_with_differences_of_the_loss() -> None:
    model = ResNet(8, 2, facts=TINY)
    arrays = scrambled(model)
    rng = np.random.default_rng(2)
    way = {name: rng.normal(size=array.shape) for name, array in arrays.items()}
    x, y = mx.array(pictures(TINY)), mx.array([0, 1, 1, 0])

    def loss(step: mx.array) -> mx.array:
        moved = {name: mx.array(array) + step * mx.array(way[name], mx.float32) for name, array in arrays.items()}
        return model.loss(model.forward(moved, x), y)

    slope = mx.grad(loss)(mx.array(0.0)).item()

    step = 1e-3
    difference = (loss(mx.array(step)).item() - loss(mx.array(-step)).item()) / (2 * step)
    assert slope == pytest.approx(difference, rel=0.02)


def test_a_block_begins_as_its_shortcut() -> None:
    model = ResNet(8, 4, facts=TINY)
    arrays = model.arrays()
    other = {name: 3 * array if "_first_weights" in name else array for name, array in arrays.items()}
    x = pictures(TINY)
    before = model.predict_proba(x)

    model.set_arrays(other)

    np.testing.assert_array_equal(model.predict_proba(x), before)


def test_seed_width_and_depth_take_effect() -> None:
    first, seeded = ResNet(8, 2, facts=TINY), ResNet(8, 2, seed=1, facts=TINY)

    assert not np.array_equal(first.arrays()["input_weights"], seeded.arrays()["input_weights"])
    assert first.shapes() != ResNet(8, 3, facts=TINY).shapes() != ResNet(14, 3, facts=TINY).shapes()


def test_first_convolutions_are_spread_as_he_says() -> None:
    arrays = ResNet(8, 16, facts=TINY).arrays()

    assert arrays["stage_2_block_0_second_weights"].var() == pytest.approx(2 / (9 * 64), rel=0.05)
    assert set(arrays["input_scale"]) == {1.0}


def test_training_tells_light_pictures_from_striped_ones() -> None:
    model = ResNet(8, 2, facts=TINY)
    rng = np.random.default_rng(0)
    x = rng.normal(0, 0.3, size=(16, 8, 8, 1)).astype(np.float32)
    x[8:, ::2] += 1.0
    y = mx.array(np.repeat([0, 1], 8))

    def loss(parameters: dict[str, mx.array]) -> mx.array:
        return model.loss(model.forward(parameters, mx.array(x)), y)

    parameters = model.parameters()
    before = float(loss(parameters))
    for _ in range(80):
        slopes = mx.grad(loss)(parameters)
        parameters = {name: value - 0.3 * slopes[name] for name, value in parameters.items()}
        mx.eval(parameters)

    assert float(loss(parameters)) < before / 2
    assert model.correct(model.forward(parameters, mx.array(x)), y).item() == 16


def test_sizes_may_be_numbers_of_numpy() -> None:
    model = ResNet(np.int64(8), np.int64(2), facts=TINY)  # type: ignore[arg-type]

    assert [type(model.params()[name]) for name in ("depth", "width")] == [int, int]
