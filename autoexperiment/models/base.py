"""What a model is: named arrays that can be saved, loaded, and asked for predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from autoexperiment.errors import DataError

Array = np.ndarray[Any, Any]


class Model(ABC):
    """A model of a registered name. A folder that `save` writes is whole only through training/checkpoints.py."""

    name: ClassVar[str]

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What rebuilds the model: JSON with "model" (its name), its parameters, and what data it fits."""

    @abstractmethod
    def arrays(self) -> dict[str, Array]:
        """The learned arrays, by file name without `.npy`."""

    @abstractmethod
    def set_arrays(self, arrays: Mapping[str, Array]) -> None:
        """Take over what `arrays` gave. Raises: DataError: a name is missing or a shape differs."""

    @abstractmethod
    def predict(self, X: Array) -> Array:
        """Regression: predictions, shape (n,). Classification: class numbers, shape (n,).

        Args: X: shape (n, *row shape), as the file or the dataset has them: the model itself scales and normalises
            them, as it did the rows that it was trained on. Pictures of type uint8 are pixels from 0 to 255.
        """

    def predict_proba(self, X: Array) -> Array:
        """Probabilities of the classes, shape (n, n_classes), float64.

        Args: X: as for `predict`.
        Raises: DataError: this is no classifier.
        """
        raise DataError(f"{self.name} was trained for regression: it has no class probabilities. Use predict(X).")
