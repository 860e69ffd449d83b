"""A model that is trained by gradients: named float arrays, a pure function of them, and what its outputs mean.

Nothing here imports MLX before an array is asked to run through the network.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from autoexperiment.datasets.base import Facts
from autoexperiment.datasets.scaling import Scaling
from autoexperiment.datasets.soundness import plain
from autoexperiment.errors import DataError
from autoexperiment.models import folder as folders
from autoexperiment.models.base import Array, Model
from autoexperiment.models.heads import Head, is_classification
from autoexperiment.models.parameters import MOST_PARAMETERS, Parameter, faults_of

if TYPE_CHECKING:
    import mlx.core as mx

_STREAM = int.from_bytes(b"initial", "big")  # the same seed in a dataset must not give the same numbers
_NUMBERS_AT_ONCE = 1 << 23  # what one batch of predictions may hold: 32 MB
Shapes = dict[str, tuple[int, ...]]


class Network(Model):
    """Arrays with a forward pass. Subclasses say the shapes, the first values and the pass.

    Attributes:
        facts: the data it fits; `n_rows` is 0, for a model is not bound to a number of rows.
        head: what its outputs mean.
        scaling: of the rows it is trained on, and of those that it predicts from.
        seed: of the first values.
        l2_regularization: training adds it, times the sum of squares of the `penalised` arrays and divided by the
            number of training rows, to the loss: a linear model's optimum is then ridge regression with this alpha.
    """

    rules: ClassVar[Mapping[str, Parameter]]
    dtype: ClassVar[type[np.floating[Any]]] = np.float32

    def __init__(self, facts: Facts, head: Head, *, seed: int, l2_regularization: float) -> None:
        """Raises: DataError: the parameters are not allowed or do not fit the data."""
        self.facts = replace(facts, n_rows=0)
        self.head = head
        self.scaling = Scaling()
        self.seed: int = plain(seed)
        self.l2_regularization: float = plain(l2_regularization)
        self._arrays: dict[str, Array] | None = None
        self._fixed: dict[str, Array] | None = None
        self._on_device: dict[str, mx.array] | None = None
        self._fixed_on_device: dict[str, mx.array] | None = None

    # what a subclass says

    @abstractmethod
    def params(self) -> dict[str, Any]:
        """The parameters that the constructor takes, as JSON."""

    @classmethod
    def build(cls, params: Mapping[str, Any], facts: Facts) -> Self:
        """The model that a configuration asks for. Raises: DataError: see `faults`."""
        cls.refuse_faults(params, facts)
        make: Any = cls  # the parameters of a subclass
        model: Self = make(**params, facts=facts)
        return model

    @classmethod
    @abstractmethod
    def misfits(cls, params: Mapping[str, Any], facts: Facts) -> list[str]:
        """What does not fit the data, given parameters that are allowed by themselves."""

    @abstractmethod
    def shapes(self) -> Shapes:
        """Shape of each array that is trained, by name, in the order of `arrays` and of the files."""

    @abstractmethod
    def first(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        """First values of one array, shape `shape`."""

    @abstractmethod
    def forward(self, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        """Raw outputs, shape (n, head.n_outputs), before the output activation: a pure function.

        Args: x: shape (n, *facts.shape), float32, scaled.
        """

    @abstractmethod
    def numbers_per_row(self) -> int:
        """About how many numbers the forward pass holds for one row, for the size of a batch."""

    # what follows from it

    def fixed_shapes(self) -> Shapes:
        """Shape of each array that keeps its first values from the seed; none, unless a subclass has such."""
        return {}

    @classmethod
    def faults(cls, params: Mapping[str, Any], facts: Facts) -> list[str]:
        """Why a model of these parameters cannot be made for such data, one sentence or two each."""
        return faults_of(cls.name, params, cls.rules) or cls.misfits(params, facts)

    @classmethod
    def refuse_faults(cls, params: Mapping[str, Any], facts: Facts) -> None:
        """Raises: DataError: with every fault."""
        if found := cls.faults(params, facts):
            raise DataError(f"Model {cls.name!r} cannot be made:" + "".join(f"\n  - {fault}" for fault in found))

    def n_parameters(self) -> int:
        return sum(map(prod, self.shapes().values()))

    def penalised(self) -> tuple[str, ...]:
        """Names of the arrays that the L2 penalty counts: weights, no biases and no norm's scales."""
        return tuple(name for name in self.shapes() if name.endswith("weights"))

    def initial(self) -> dict[str, Array]:
        """First values from the seed, float32: the same on every call and machine."""
        return self._first_values(self.shapes())

    def _first_values(self, shapes: Shapes) -> dict[str, Array]:
        rng = np.random.default_rng([self.seed, _STREAM])
        return {name: self.first(name, shape, rng).astype(np.float32) for name, shape in shapes.items()}

    def loss(self, raw: mx.array, y: mx.array) -> mx.array:
        """Mean over the batch of the loss that fits task and outputs, without the penalty; a scalar."""
        from autoexperiment.models import losses

        return losses.loss(self.head, raw, y)

    def correct(self, raw: mx.array, y: mx.array) -> mx.array:
        """How many rows of the batch are classified right; a scalar. For classification only."""
        from autoexperiment.models import losses

        return losses.correct(self.head, raw, y)

    # arrays

    def arrays(self) -> dict[str, Array]:
        """Of a model with fixed arrays those too, at the end: a checkpoint holds all that its predictions need."""
        if self._arrays is None:
            self._arrays = {name: first.astype(self.dtype) for name, first in self.initial().items()}
        return {**self._arrays, **self.fixed()}

    def fixed(self) -> dict[str, Array]:
        """The arrays of `fixed_shapes`."""
        if self._fixed is None:
            first = self._first_values(self.fixed_shapes())
            self._fixed = {name: array.astype(self.dtype) for name, array in first.items()}
        return dict(self._fixed)

    def set_arrays(self, arrays: Mapping[str, Array]) -> None:
        """As of `Model`; fixed arrays may be left out, all of them, and are then as they were."""
        shapes, fixed = self.shapes(), self.fixed_shapes()
        if arrays.keys() & fixed.keys():
            shapes = {**shapes, **fixed}
        if arrays.keys() != shapes.keys():
            odd = ", ".join(sorted(map(str, arrays.keys() ^ shapes.keys())))
            raise DataError(f"{self.name}: the arrays' names do not fit: {odd}. Needed: {', '.join(shapes)}.")
        for name, shape in shapes.items():
            given = np.asarray(arrays[name])
            if given.shape != shape or given.dtype.kind != "f":
                raise DataError(
                    f"{self.name}: array {name!r} has shape {given.shape} and type {given.dtype}. "
                    f"Needed: real numbers of shape {shape}."
                )
        copies = {name: np.array(arrays[name], dtype=self.dtype, order="C") for name in shapes}
        self._arrays = {name: copies[name] for name in self.shapes()}
        self._on_device = None
        if arrays.keys() & fixed.keys():
            self._fixed = {name: copies[name] for name in fixed}
            self._fixed_on_device = None

    def parameters(self) -> dict[str, mx.array]:
        """The arrays that are trained, as MLX has them, float32."""
        if self._on_device is None:
            arrays = self.arrays()
            self._on_device = _on_device({name: arrays[name] for name in self.shapes()})
        return self._on_device

    def fixed_parameters(self) -> dict[str, mx.array]:
        """The fixed arrays as MLX has them, float32: constants of the forward pass."""
        if self._fixed_on_device is None:
            self._fixed_on_device = _on_device(self.fixed())
        return self._fixed_on_device

    # predictions

    def predict(self, X: Array) -> Array:
        raw = self.raw(X)
        return self.head.classes(raw) if is_classification(self.facts) else self.head.outputs(raw)

    def predict_proba(self, X: Array) -> Array:
        return self.classify(X)[1] if is_classification(self.facts) else super().predict_proba(X)

    def classify(self, X: Array) -> tuple[Array, Array]:
        """What `predict` and `predict_proba` give, of one pass."""
        raw = self.raw(X)
        return self.head.classes(raw), self.head.outputs(raw)

    def raw(self, X: Array) -> Array:
        """Outputs before the output activation, shape (n, head.n_outputs), float32. X: as for `predict`."""
        parts = list(self._raw_parts(self.rows(X)))
        return np.concatenate(parts) if parts else np.empty((0, self.head.n_outputs), np.float32)

    def rows(self, X: Array) -> Array:
        """The argument of `predict`; pictures may also be long rows. Raises: DataError: shape or type does not fit."""
        X = np.asarray(X)
        if X.dtype.kind not in "fiub" or X.shape[1:] not in (self.facts.shape, (self.facts.n_features,)):
            wanted = ", ".join(["rows", *map(str, self.facts.shape)])
            raise DataError(f"{self.name}: X has shape {X.shape} and type {X.dtype}. Needed: numbers, ({wanted}).")
        return X

    def scaled(self, X: Array) -> Array:
        """Rows that `rows` let pass, as training has them: shape (n, *facts.shape), of the model's type."""
        copied = np.array(X).reshape(-1, *self.facts.shape)  # scaling overwrites it
        return self.scaling.of_type(X.dtype, is_picture=len(self.facts.shape) == 3)(copied, self.dtype)

    def _raw_parts(self, X: Array) -> Iterator[Array]:
        from autoexperiment.models.losses import mx

        size = max(1, _NUMBERS_AT_ONCE // self.numbers_per_row())
        for start in range(0, len(X), size):
            yield np.array(self.forward(self.parameters(), mx.array(self.scaled(X[start : start + size]))))

    # folders

    def config(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "params": self.params(),
            "task": self.facts.task,
            "row_shape": list(self.facts.shape),
            "n_classes": self.facts.n_classes,
            "classes": list(self.facts.classes),
            "scaling": self.scaling.to_json(),
        }

    def save(self, folder: str | Path) -> None:
        """Write config.json and one .npy file for each array; the same bytes for the same model.

        Raises: DataError: it has no arrays yet.
        """
        if not self.shapes():
            raise DataError(f"{self.name} has no weights yet, so there is nothing to save. First fit it.")
        folders.write(Path(folder), self.config(), self.arrays())

    def load(self, folder: str | Path) -> Self:
        """Become the model that `save` wrote to a folder, and return it.

        Raises: DataError: nothing sound is there, or it is a model of another kind or of other shapes.
        """
        other = self.saved(Path(folder))
        if self.shapes() and self.shapes() != other.shapes():
            raise DataError(f"{folder} holds a model of other shapes. Needed: {_shown(self)}. There: {_shown(other)}.")
        vars(self).update(vars(other))
        return self

    @classmethod
    def saved(cls, folder: Path) -> Self:
        """The model in a folder. Raises: DataError: as `load`."""
        found = folders.read_config(folder)
        if found.model != cls.name:
            raise DataError(
                f"{folder} holds a model {found.model!r}. Needed here: {cls.name!r}. Try models.load(folder)."
            )
        if faults := cls.faults(found.params, found.facts):
            raise DataError(f"{folder / folders.CONFIG}: {faults[0]} The file is not one that this program wrote.")
        model = cls.build(found.params, found.facts)
        model.scaling = found.scaling
        shapes = {**model.shapes(), **model.fixed_shapes()}
        model.set_arrays(folders.read_arrays(folder, shapes, dtype=cls.dtype))
        return model


def too_large(shapes: Shapes) -> list[str]:
    """The fault of a model with too many parameters, if it is one."""
    count = sum(map(prod, shapes.values()))
    if count <= MOST_PARAMETERS:
        return []
    return [f"The model would have {count:,} parameters. Allowed: up to {MOST_PARAMETERS:,}."]


def _on_device(arrays: Mapping[str, Array]) -> dict[str, mx.array]:
    from autoexperiment.models.losses import mx

    return {name: mx.array(array.astype(np.float32)) for name, array in arrays.items()}


def _shown(network: Network) -> str:
    shapes = network.shapes().items()
    text = ", ".join(f"{name} {shape}" for name, shape in shapes)
    return text if len(text) < 200 else f"{len(shapes)} arrays, {network.n_parameters()} parameters"
