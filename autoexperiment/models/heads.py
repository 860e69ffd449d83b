"""What a network's raw outputs mean: numbers, or classes and their probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, Facts

Array = np.ndarray[Any, Any]


class Kind(StrEnum):
    """How raw outputs are compared with targets."""

    SQUARED = "squared error"  # one number
    CROSS_ENTROPY = "cross-entropy"  # a logit for each class, exactly one of which is true
    BINARY = "binary cross-entropy"  # one logit: class 1 against class 0
    ONE_VS_REST = "one against the rest"  # a logit for each class, each asked by itself whether it is true


@dataclass(frozen=True)
class Head:
    """The last step of a network.

    Attributes:
        facts: the data it must fit.
        n_outputs: raw outputs of a row.
        activation: None, "sigmoid" or "softmax". None in a classification is the one that its outputs ask for:
            softmax over n_classes outputs, sigmoid on a single one.
    """

    facts: Facts
    n_outputs: int
    activation: str | None = None

    @property
    def kind(self) -> Kind:
        if self.facts.task == REGRESSION:
            return Kind.SQUARED
        if self.n_outputs == 1:
            return Kind.BINARY
        return Kind.ONE_VS_REST if self.activation == "sigmoid" else Kind.CROSS_ENTROPY

    def faults(self) -> list[str]:
        """What does not fit the data, one sentence or two each."""
        if not allowed_outputs(self.facts):
            return [f"The dataset has {self.facts.n_classes} classes. A classification needs at least 2."]
        if self.activation == "softmax" and (self.n_outputs == 1 or self.facts.task == REGRESSION):
            return ["'output_activation' is 'softmax', which is always 1 on one output. Allowed here: null, sigmoid."]
        return []

    def outputs(self, raw: Array) -> Array:
        """Predictions, shape (n,), or probabilities, shape (n, n_classes), as float64.

        Args: raw: shape (n, n_outputs).
        """
        raw = raw.astype(np.float64)
        if self.kind == Kind.SQUARED:
            return np.exp(_log_sigmoid(raw[:, 0])) if self.activation == "sigmoid" else raw[:, 0]
        if self.kind == Kind.BINARY:
            return np.exp(_log_sigmoid(raw * np.array([[-1.0, 1.0]])))
        # One against the rest: the classes' probabilities, scaled so that they add up to 1.
        return _softmax(_log_sigmoid(raw) if self.kind == Kind.ONE_VS_REST else raw)

    def classes(self, raw: Array) -> Array:
        """The likeliest class of each row, shape (n,), int32; the lowest number where several are equally likely.

        Of the raw outputs: probabilities close to 1 are rounded to the same number.
        """
        numbers: Array = raw[:, 0] > 0 if self.kind == Kind.BINARY else raw.argmax(axis=1)
        return numbers.astype(np.int32)


def allowed_outputs(facts: Facts) -> tuple[int, ...]:
    """How many raw outputs a network for such data may have, the usual number first; () if no number will do."""
    if facts.task == REGRESSION:
        return (1,)
    if facts.n_classes < 2:
        return ()
    return (2, 1) if facts.n_classes == 2 else (facts.n_classes,)


def _log_sigmoid(z: Array) -> Array:
    answer: Array = -np.logaddexp(0.0, -z)
    return answer


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Array = powers / powers.sum(axis=1, keepdims=True)
    return shares


def is_classification(facts: Facts) -> bool:
    return facts.task == CLASSIFICATION
