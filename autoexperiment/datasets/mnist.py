"""MNIST's four IDX files; other datasets of ten classes in the same files, such as Fashion-MNIST, work too."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoexperiment.datasets import idx
from autoexperiment.datasets.base import CLASSIFICATION, Facts, Table
from autoexperiment.datasets.idx import Array
from autoexperiment.errors import DataError

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
N_CLASSES = 10


@dataclass(frozen=True)
class MnistFiles:
    """The standard files in a folder."""

    folder: Path
    published = Facts(CLASSIFICATION, 70_000, (28, 28, 1), N_CLASSES, n_test=10_000)

    def missing(self) -> list[str]:
        """Names of the files that are there neither plain nor gzipped."""
        return [name for name in FILES if idx.find(self.folder, name) is None]

    def facts(self) -> Facts:
        """Raises: DataError: as `load`. Of plain files only the headers and the labels are read."""
        shapes = [idx.shape_of(self._path(name), dimensions=3) for name in (TRAIN_IMAGES, TEST_IMAGES)]
        self._labels(shapes)
        train, test = shapes
        return Facts(CLASSIFICATION, train[0] + test[0], (*train[1:], 1), N_CLASSES, n_test=test[0])

    def load(self) -> Table:
        """Raises: DataError: a file is not sound, or the files do not fit together."""
        images = [idx.read(self._path(name), dimensions=3) for name in (TRAIN_IMAGES, TEST_IMAGES)]
        labels = self._labels([part.shape for part in images])
        return Table(np.concatenate(images)[..., np.newaxis], labels, n_test=len(images[1]))

    def _path(self, name: str) -> Path:
        return idx.find(self.folder, name) or self.folder / name

    def _labels(self, shapes: list[tuple[int, ...]]) -> Array:
        """All labels, int32, shape (n,). Args: shapes: (n, height, width) of the pictures to train and to test with."""
        if shapes[0][1:] != shapes[1][1:]:
            raise DataError(
                f"{self._path(TEST_IMAGES)} has pictures of {shapes[1][1]} x {shapes[1][2]}, and "
                f"{self._path(TRAIN_IMAGES)} of {shapes[0][1]} x {shapes[0][2]}. Fetch both again."
            )
        names = (TRAIN_LABELS, TEST_LABELS)
        parts = [_labels(self._path(name), shape[0]) for name, shape in zip(names, shapes, strict=True)]
        return np.concatenate(parts).astype(np.int32)


def _labels(path: Path, n_pictures: int) -> Array:
    labels = idx.read(path, dimensions=1)
    if len(labels) != n_pictures:
        raise DataError(f"{path} has {len(labels):,} labels for {n_pictures:,} pictures. Fetch both files again.")
    if labels.max() >= N_CLASSES:
        raise DataError(f"{path} has the label {labels.max()}. Allowed: 0 to {N_CLASSES - 1}. Fetch it again.")
    return labels
