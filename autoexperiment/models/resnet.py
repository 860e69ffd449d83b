"""The residual network for small pictures, with group normalisation.

Source: He et al. 2016, section 4.2 (3 stages of n blocks of 2 convolutions, 6n + 2 layers, shortcuts of option A);
Wu & He 2018 for the normalisation, which needs no running averages: a checkpoint is the arrays and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoexperiment.datasets.base import REGRESSION, Facts
from autoexperiment.datasets.soundness import plain
from autoexperiment.models import initial
from autoexperiment.models.base import Array
from autoexperiment.models.heads import Head
from autoexperiment.models.network import Network, Shapes, too_large
from autoexperiment.models.parameters import COMMON, Parameter, one_of, whole

if TYPE_CHECKING:
    import mlx.core as mx

LEAST_PIXELS = 8  # two halvings leave 2 x 2


@dataclass(frozen=True)
class Block:
    """Two convolutions and a shortcut around them; the first convolution takes every `stride`-th pixel."""

    name: str
    inputs: int
    outputs: int
    stride: int


def groups_of(channels: int) -> int:
    """Groups of at least 4 channels, 8 groups at most: 4, 8 and 8 for the stages of width 16."""
    return next((groups for groups in (8, 4, 2) if channels % groups == 0 and channels >= 4 * groups), 1)


class ResNet(Network):
    """Arrays, float32: `…_weights` of convolutions, shape (outputs, 3, 3, inputs), each with the `…_scale` and
    `…_bias` of the normalisation after it, shape (outputs,); `output_weights` and `output_bias`.

    Classes, or one number for a regression, from pictures of any size from 8 x 8 and any number of channels.
    """

    name: ClassVar[str] = "resnet"
    rules: ClassVar[Mapping[str, Parameter]] = {
        "depth": one_of(8, 14, 20, 32, 44, 56),
        "width": whole(1, 4096),
        **COMMON,
    }

    def __init__(
        self, depth: int = 20, width: int = 16, *, seed: int = 42, l2_regularization: float = 0.0, facts: Facts
    ) -> None:
        self.depth: int = plain(depth)
        self.width: int = plain(width)
        super().__init__(facts, _head(facts), seed=seed, l2_regularization=l2_regularization)
        self.refuse_faults(self.params(), facts)

    def params(self) -> dict[str, Any]:
        return {
            "depth": self.depth,
            "width": self.width,
            "seed": self.seed,
            "l2_regularization": self.l2_regularization,
        }

    @classmethod
    def misfits(cls, params: Mapping[str, Any], facts: Facts) -> list[str]:
        if len(facts.shape) != 3:
            return [
                f"Model {cls.name!r} needs pictures, rows of shape (height, width, channels), and a row of the "
                f"dataset has shape {facts.shape}. Allowed for such rows: mlp, linear_regression."
            ]
        if min(facts.shape[:2]) < LEAST_PIXELS:
            height, width = facts.shape[:2]
            least = f"{LEAST_PIXELS} x {LEAST_PIXELS}"
            return [f"The dataset's pictures have {height} x {width} pixels. Model {cls.name!r} needs {least} or more."]
        shapes = _shapes(params.get("depth", 20), params.get("width", 16), facts)
        return _head(facts).faults() or too_large(shapes)

    def shapes(self) -> Shapes:
        return _shapes(self.depth, self.width, self.facts)

    def first(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if name == "output_weights":
            return initial.glorot(rng, shape, fan_in=shape[0], fan_out=shape[1])
        if name.endswith("weights"):
            return initial.he(rng, shape, fan_in=9 * shape[-1])
        # A block begins as its shortcut alone: Wu & He 2018, section 4.1, after Goyal et al. 2017, section 5.1.
        return np.ones(shape) if name.endswith("scale") and not name.endswith("second_scale") else np.zeros(shape)

    def forward(self, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        from autoexperiment.models import layers

        relu = layers.ACTIVATIONS["relu"]

        def step(name: str, x: mx.array, stride: int = 1) -> mx.array:
            y = layers.convolution(x, parameters[f"{name}_weights"], stride=stride)
            scale, bias = parameters[f"{name}_scale"], parameters[f"{name}_bias"]
            return layers.group_norm(y, scale, bias, groups=groups_of(y.shape[-1]))

        x = relu(step("input", x))
        for block in blocks_of(self.depth, self.width):
            y = step(f"{block.name}_second", relu(step(f"{block.name}_first", x, block.stride)))
            x = relu(y + layers.shortcut(x, block.outputs, stride=block.stride))
        return layers.dense(x.mean(axis=(1, 2)), parameters["output_weights"], parameters["output_bias"])

    def numbers_per_row(self) -> int:
        height, width, _ = self.facts.shape
        return 9 * height * width * self.width  # a convolution lays out 3 x 3 copies of its input


def _head(facts: Facts) -> Head:
    return Head(facts, 1 if facts.task == REGRESSION else facts.n_classes)


def blocks_of(depth: int, width: int) -> Iterator[Block]:
    """The residual blocks, from the first to the last."""
    inputs = width
    for stage in range(3):
        for block in range((depth - 2) // 6):
            outputs = width << stage
            yield Block(f"stage_{stage}_block_{block}", inputs, outputs, 2 if outputs > inputs else 1)
            inputs = outputs


def _shapes(depth: int, width: int, facts: Facts) -> Shapes:
    n_outputs = _head(facts).n_outputs
    shapes = _convolution_shapes("input", facts.shape[-1], width)
    for block in blocks_of(depth, width):
        shapes |= _convolution_shapes(f"{block.name}_first", block.inputs, block.outputs)
        shapes |= _convolution_shapes(f"{block.name}_second", block.outputs, block.outputs)
    return shapes | {"output_weights": (4 * width, n_outputs), "output_bias": (n_outputs,)}


def _convolution_shapes(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}_weights": (outputs, 3, 3, inputs), f"{name}_scale": (outputs,), f"{name}_bias": (outputs,)}
