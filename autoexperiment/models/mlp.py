"""The multi-layer perceptron: layers of sums with an activation between them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, Facts
from autoexperiment.datasets.soundness import plain
from autoexperiment.models import initial
from autoexperiment.models.base import Array
from autoexperiment.models.heads import Head, allowed_outputs
from autoexperiment.models.network import Network, Shapes, too_large
from autoexperiment.models.parameters import COMMON, Parameter, is_whole, one_of

if TYPE_CHECKING:
    import mlx.core as mx


def _are_sizes(value: object) -> bool:
    is_list = isinstance(value, list | tuple) and len(value) >= 2
    return is_list and all(is_whole(size, least=1, most=2**31 - 1) for size in value)  # type: ignore[attr-defined]


def _is_rank(value: object) -> bool:
    return value is None or is_whole(value, least=1, most=2**31 - 1)


class MLP(Network):
    """Layers of `layer_sizes` numbers: the inputs, the hidden ones, the outputs.

    Arrays: layer_<i>_weights, shape (inputs, outputs), and layer_<i>_bias, shape (outputs,), from 0, float32.
    A row of more than one dimension is taken as one long row.

    With `lora_rank` r the weights keep their first values, and what is trained, beside the biases, is an update of low
    rank: a layer computes x @ (weights + lora_a @ lora_b) + bias, with layer_<i>_lora_a, shape (inputs, k), from a
    normal distribution of variance 1 / inputs, and layer_<i>_lora_b, shape (k, outputs), from 0; k is r, or the smaller
    of inputs and outputs where that is less. The L2 penalty counts lora_a and lora_b. Source: Hu et al. 2021, section
    4.1; the update is not scaled, which is their alpha = r.
    """

    name: ClassVar[str] = "mlp"
    rules: ClassVar[Mapping[str, Parameter]] = {
        "layer_sizes": Parameter(_are_sizes, "a list of at least 2 whole numbers from 1", is_required=True),
        "activation": one_of("relu", "tanh", "sigmoid"),
        "output_activation": one_of(None, "sigmoid", "softmax"),
        "lora_rank": Parameter(_is_rank, "null, or a whole number from 1"),
        **COMMON,
    }

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation: str = "relu",
        *,
        output_activation: str | None = None,
        lora_rank: int | None = None,
        seed: int = 42,
        l2_regularization: float = 0.0,
        facts: Facts | None = None,
    ) -> None:
        """Args: facts: the data to fit. Without it: a regression if there is one output, else a class for each."""
        self.layer_sizes: tuple[int, ...] = tuple(map(plain, layer_sizes))
        self.activation = activation
        self.output_activation = output_activation
        self.lora_rank: int | None = plain(lora_rank)
        facts = facts or _facts_of(self.layer_sizes)
        head = Head(facts, self.layer_sizes[-1] if self.layer_sizes else 0, output_activation)
        super().__init__(facts, head, seed=seed, l2_regularization=l2_regularization)
        self.refuse_faults(self.params(), facts)

    def params(self) -> dict[str, Any]:
        """`lora_rank` only if there is one: the files of a model without it are those of before there was such."""
        return {
            "layer_sizes": list(self.layer_sizes),
            "activation": self.activation,
            "output_activation": self.output_activation,
            **({} if self.lora_rank is None else {"lora_rank": self.lora_rank}),
            "seed": self.seed,
            "l2_regularization": self.l2_regularization,
        }

    @classmethod
    def misfits(cls, params: Mapping[str, Any], facts: Facts) -> list[str]:
        sizes = params["layer_sizes"]
        found = []
        if sizes[0] != facts.n_features:
            found.append(
                f"'layer_sizes' begins with {sizes[0]}, and a row of the dataset has {facts.n_features} features. "
                f"Set its first number to {facts.n_features}."
            )
        if (allowed := allowed_outputs(facts)) and sizes[-1] not in allowed:
            what = "a regression" if facts.task == REGRESSION else f"{facts.n_classes} classes"
            wanted = " or ".join(map(str, allowed))
            found.append(f"'layer_sizes' ends with {sizes[-1]}, for {what}. Set its last number to {wanted}.")
        shapes = {**_shapes(sizes, params.get("lora_rank")), **_fixed_shapes(sizes, params.get("lora_rank"))}
        return found + Head(facts, sizes[-1], params.get("output_activation")).faults() + too_large(shapes)

    def shapes(self) -> Shapes:
        return _shapes(self.layer_sizes, self.lora_rank)

    def fixed_shapes(self) -> Shapes:
        return _fixed_shapes(self.layer_sizes, self.lora_rank)

    def penalised(self) -> tuple[str, ...]:
        return tuple(name for name in self.shapes() if not name.endswith("bias"))

    def first(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if name.endswith(("bias", "lora_b")):
            return np.zeros(shape)
        if name.endswith("lora_a"):  # from a stream of its own: the fixed weights begin with this one's numbers
            return rng.spawn(1)[0].normal(scale=1 / math.sqrt(shape[0]), size=shape)
        is_last = name == f"layer_{len(self.layer_sizes) - 2}_weights"
        if self.activation == "relu" and not is_last:
            return initial.he(rng, shape, fan_in=shape[0])
        return initial.glorot(rng, shape, fan_in=shape[0], fan_out=shape[1])

    def forward(self, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        from autoexperiment.models import layers

        arrays = {**self.fixed_parameters(), **parameters}
        activate = layers.ACTIVATIONS[self.activation]
        x = x.reshape(len(x), -1)
        last = len(self.layer_sizes) - 2
        for i in range(last + 1):
            sums = layers.dense(x, arrays[f"layer_{i}_weights"], arrays[f"layer_{i}_bias"])
            if self.lora_rank is not None:
                sums = sums + (x @ arrays[f"layer_{i}_lora_a"]) @ arrays[f"layer_{i}_lora_b"]
            x = activate(sums) if i < last else sums
        return x

    def numbers_per_row(self) -> int:
        low = [shape[1] for name, shape in self.shapes().items() if name.endswith("lora_a")]
        return sum(self.layer_sizes) + sum(low)


def _shapes(sizes: Sequence[int], lora_rank: int | None) -> Shapes:
    """Of what is trained."""
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        if lora_rank is None:
            shapes[f"layer_{i}_weights"] = (inputs, outputs)
        else:
            rank = min(lora_rank, inputs, outputs)
            shapes[f"layer_{i}_lora_a"] = (inputs, rank)
            shapes[f"layer_{i}_lora_b"] = (rank, outputs)
        shapes[f"layer_{i}_bias"] = (outputs,)
    return shapes


def _fixed_shapes(sizes: Sequence[int], lora_rank: int | None) -> Shapes:
    return {} if lora_rank is None else {f"layer_{i}_weights": pair for i, pair in enumerate(pairwise(sizes))}


def _facts_of(sizes: Sequence[int]) -> Facts:
    n_outputs = sizes[-1] if sizes else 0
    task = REGRESSION if n_outputs == 1 else CLASSIFICATION
    return Facts(task, 0, tuple(sizes[:1]), n_outputs if task == CLASSIFICATION else 0)
