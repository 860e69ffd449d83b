"""Linear regression: in closed form with NumPy alone, or by gradient descent with MLX."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from autoexperiment.datasets.base import REGRESSION, Facts
from autoexperiment.datasets.soundness import plain
from autoexperiment.errors import DataError
from autoexperiment.models import initial
from autoexperiment.models.base import Array
from autoexperiment.models.heads import Head
from autoexperiment.models.least_squares import Moments
from autoexperiment.models.network import Network, Shapes, too_large
from autoexperiment.models.parameters import COMMON, Parameter, one_of

if TYPE_CHECKING:
    import mlx.core as mx

_MOST_FEATURES = 10_000  # of the closed form: its matrix then takes 0.8 GB, and solving it a minute
_NUMBERS_AT_ONCE = 1 << 20  # of one block of predictions


class LinearRegression(Network):
    """y = X @ weights + bias, with a penalty on the weights (ridge regression) if wanted.

    Arrays: weights, shape (n_features,), and bias, shape (1,), float64.
    The closed form has no use for the seed: its solution does not depend on first values.
    """

    name: ClassVar[str] = "linear_regression"
    dtype = np.float64
    rules: ClassVar[Mapping[str, Parameter]] = {**COMMON, "use_gradient_descent": one_of(True, False)}

    def __init__(
        self,
        seed: int = 42,
        use_gradient_descent: bool = False,
        *,
        l2_regularization: float = 0.0,
        n_features: int | None = None,
    ) -> None:
        """Args: n_features: without it, taken over from the data of `fit_closed_form` or from a loaded folder."""
        facts = Facts(REGRESSION, 0, (plain(n_features) or 0,))
        self.use_gradient_descent = use_gradient_descent
        super().__init__(facts, Head(facts, 1), seed=seed, l2_regularization=l2_regularization)
        self.refuse_faults(self.params(), facts)

    def params(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "use_gradient_descent": self.use_gradient_descent,
            "l2_regularization": self.l2_regularization,
        }

    @classmethod
    def build(cls, params: Mapping[str, Any], facts: Facts) -> Self:
        cls.refuse_faults(params, facts)
        model = cls(**params)
        model.facts = replace(facts, n_rows=0)
        return model

    @classmethod
    def misfits(cls, params: Mapping[str, Any], facts: Facts) -> list[str]:
        if facts.task != REGRESSION:
            return [
                f"Model {cls.name!r} predicts numbers, and the dataset is a {facts.task}. "
                "Allowed for classes: mlp; resnet, if the rows are pictures."
            ]
        if not params.get("use_gradient_descent") and facts.n_features > _MOST_FEATURES:
            return [
                f"The closed form would need a matrix of {facts.n_features:,} x {facts.n_features:,} numbers. "
                f"Allowed: up to {_MOST_FEATURES:,} features. Set 'use_gradient_descent' to true."
            ]
        return too_large({"weights": facts.shape})

    def shapes(self) -> Shapes:
        """Empty as long as the number of features is not known."""
        return {"weights": (self.facts.n_features,), "bias": (1,)} if self.facts.n_features else {}

    def first(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
        return initial.glorot(rng, shape, fan_in=shape[0], fan_out=1) if name == "weights" else np.zeros(shape)

    def forward(self, parameters: Mapping[str, mx.array], x: mx.array) -> mx.array:
        return x.reshape(len(x), -1) @ parameters["weights"][:, None] + parameters["bias"]

    def numbers_per_row(self) -> int:
        return self.facts.n_features

    def fit_closed_form(self, chunks: Iterable[tuple[Array, Array]]) -> None:
        """Solve for the weights in one pass over the training rows, in float64.

        The result minimises sum((X @ weights + bias - y)²) + l2_regularization * sum(weights²).

        Args: chunks: pairs of X, shape (n, *row shape), scaled already, and y, shape (n,).
        Raises: DataError: no rows, shapes that do not fit, or numbers whose squares overflow.
        """
        moments: Moments | None = None
        with np.errstate(over="ignore", invalid="ignore"):
            for X, y in chunks:
                self._take_width(X)
                moments = moments or Moments(self.facts.n_features)
                moments.add(*self._chunk(X, y))
            weights, bias = (moments or Moments(self.facts.n_features)).solve(self.l2_regularization)
        self.set_arrays({"weights": weights, "bias": np.array([bias])})

    def _take_width(self, X: Array) -> None:
        if not self.facts.n_features:
            self.facts = replace(self.facts, shape=tuple(X.shape[1:]))

    def _chunk(self, X: Array, y: Array) -> tuple[Array, Array]:
        if y.shape != (len(X),):
            raise DataError(f"{self.name}: y has shape {y.shape}. Needed: one target a row, ({len(X)},).")
        return self.rows(X).reshape(len(X), self.facts.n_features), y

    def predict(self, X: Array) -> Array:
        if not self.arrays():
            raise DataError(f"{self.name} has no weights yet. First fit it, or load a folder: model.load(FOLDER).")
        X = self.rows(X)
        return np.concatenate([np.empty(0), *(self.predict_scaled(self.scaled(X[rows])) for rows in self._blocks(X))])

    def predict_scaled(self, x: Array) -> Array:
        """Predictions, shape (n,), from rows as `fit_closed_form` has them, shape (n, *row shape)."""
        weights, bias = self.arrays().values()
        x = x.reshape(len(x), self.facts.n_features)
        return np.concatenate([np.empty(0), *(x[rows] @ weights for rows in self._blocks(x))]) + bias

    def _blocks(self, X: Array) -> Iterator[slice]:
        step = max(1, _NUMBERS_AT_ONCE // self.facts.n_features)
        return (slice(start, start + step) for start in range(0, len(X), step))
