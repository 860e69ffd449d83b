"""The multi-layer perceptron: layers of sums with an activation between them."""

from __future__ import annotations

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


class MLP(Network):
    """Layers of `layer_sizes` numbers: the inputs, the hidden ones, the outputs.

    Arrays: layer_<i>_weights, shape (inputs, outputs), and layer_<i>_bias, shape (outputs,), from 0, float32.
    A row of more than one dimension is taken as one long row.
    """

    name: ClassVar[str] = "mlp"
    rules: ClassVar[Mapping[str, Parameter]] = {
        "layer_sizes": Parameter(_are_sizes, "a list of at least 2 whole numbers from 1", is_required=True),
        "activation": one_of("relu", "tanh", "sigmoid"),
        "output_activation": one_of(None, "sigmoid", "softmax"),
        **COMMON,
    }

    def __init__(
        self,
        layer_sizes: Sequence[int],
        activation: str = "relu",
        *,
        output_activation: str | None = None,
        seed: int = 42,
        l2_regularization: float = 0.0,
        facts: Facts | None = None,
    ) -> None:
        """Args: facts: the data to fit. Without it: a regression if there is one output, else a class for each."""
        self.layer_sizes = tuple(map(plain, layer_sizes))
        self.activation = activation
        self.output_activation = output_activation
        facts = facts or _facts_of(self.layer_sizes)
        head = Head(facts, self.layer_sizes[-1] if self.layer_sizes else 0, output_activation)
        super().__init__(facts, head, seed=seed, l2_regularization=l2_regularization)
        self.refuse_faults(self.params(), facts)

    def params(self) -> dict[str, Any]:
        return {
            "layer_sizes": list(self.layer_sizes),
            "activation": self.activation,
            "output_activation": self.output_activation,
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
        return found + Head(facts, sizes[-1], params.get("output_activation")).faults() + too_large(_shapes(sizes))

    def shapes(self) -> Shapes:
        return _shapes(self.layer_sizes)

    def first(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        if name.endswith("bias"):
            return np.zeros(shape)
        is_last = name == f"layer_{len(self.layer_sizes) - 2}_weights"
        if self.activation == "relu" and not is_last:
            return initial.he(rng, shape, fan_in=shape[0])
        return initial.glorot(rng, shape, fan_in=shape[0], fan_out=shape[1])

    def forward(self, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        from autoexperiment.models import layers

        activate = layers.ACTIVATIONS[self.activation]
        x = x.reshape(len(x), -1)
        last = len(self.layer_sizes) - 2
        for i in range(last + 1):
            x = layers.dense(x, parameters[f"layer_{i}_weights"], parameters[f"layer_{i}_bias"])
            x = activate(x) if i < last else x
        return x

    def numbers_per_row(self) -> int:
        return sum(self.layer_sizes)


def _shapes(sizes: Sequence[int]) -> Shapes:
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes[f"layer_{i}_weights"] = (inputs, outputs)
        shapes[f"layer_{i}_bias"] = (outputs,)
    return shapes


def _facts_of(sizes: Sequence[int]) -> Facts:
    n_outputs = sizes[-1] if sizes else 0
    task = REGRESSION if n_outputs == 1 else CLASSIFICATION
    return Facts(task, 0, tuple(sizes[:1]), n_outputs if task == CLASSIFICATION else 0)
