"""The custom dataset of a file: CSV, .npy, .npz, Parquet, or a folder with X.npy and y.npy.

| path | rows and targets |
|---|---|
| .csv | as delimited.py says; converted once into the cache |
| .parquet | one numeric column for each feature; converted once into the cache |
| .npy | one array (rows, columns); memory-mapped, converted once only if the target is a column in the middle |
| .npz | the arrays X and y; memory-mapped, extracted once into the cache if it is compressed |
| a folder | X.npy and y.npy; memory-mapped |

X may also be pictures (rows, height, width, channels) where it is an array of its own. Whatever the file's type, class
numbers stay as they are, also those that are written as text ("10", "2"); names of classes are sorted and numbered.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment.datasets import arrays, tables
from autoexperiment.datasets.base import CLASSIFICATION, REGRESSION, TASKS, Table, check_table, say
from autoexperiment.datasets.soundness import CheckedDataset, check_values, class_numbers, slices
from autoexperiment.errors import DataError, unknown

Array = np.ndarray[Any, Any]

SUFFIXES = (".csv", ".npy", ".npz", ".parquet")


class FileDataset(CheckedDataset):
    """Rows and targets of one's own."""

    def __init__(
        self,
        path: Path,
        *,
        task: str = REGRESSION,
        target: str | int | None = None,
        download: bool = False,
        url: str | None = None,
        sha256: str | None = None,
    ) -> None:
        """
        Args:
            target: the target column's name, or its number from 0; None: the last. Only where X and y are not apart.
            download: fetch `url` when there is no file; its content must have the hash `sha256` then and later.
        Raises: DataError: a word or a combination that is not allowed; no file is looked at yet.
        """
        if task not in TASKS:
            raise DataError(unknown("task", task, TASKS))
        if url and not sha256:
            raise DataError('"url" needs "sha256" beside it, so that the right bytes are fetched.')
        self.path, self.task, self.target = path, task, target
        self.download, self.url, self.sha256 = download, url, sha256

    def load(self) -> Table:
        """Raises: DataError: the file is not there, not what its name says, or holds what is not a finite number."""
        self.fetch(say)
        X, y, classes = self._arrays()
        if y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        name = str(self.path)
        if self.task == CLASSIFICATION and y.ndim == 1:
            if y.dtype.kind in "US":
                y, classes = tables.numbered(y, name=f"{name}: y")
            y = class_numbers(y, name=f"{name}: y")
        return check_values(check_table(Table(X, y, classes=classes), name=name, task=self.task), name=name)

    def fetch(self, say: Callable[[str], None]) -> None:
        """Raises: DataError: the file is not there and can't be fetched, or has another hash than the one demanded."""
        if self.path.is_dir() and (self.sha256 or self.url or self.download):
            raise DataError(
                f'{self.path} is a folder: "sha256", "url" and "download" in dataset.params are for a single file. '
                "Leave them out, or name a file."
            )
        if self.path.exists():
            if self.sha256 and tables.sha256_of(self.path) != self.sha256.lower():
                raise DataError(
                    f"{self.path} does not have the SHA-256 {self.sha256} that the configuration demands. "
                    'Give the hash of this file, or move it away and set "download": true.'
                )
        elif self.download and self.url and self.sha256:
            self._fetch(self.url, self.sha256, say)
        else:
            raise DataError(
                f"There is no {self.path}. Put the data there, correct dataset.path (it starts at the workspace's root), "
                'or set "download": true with "url" and "sha256" in dataset.params.'
            )

    def must_fetch(self) -> list[str]:
        is_fetched = self.download and self.url and self.sha256 and not self.path.exists()
        return [self.path.name] if is_fetched else []

    def _fetch(self, url: str, sha256: str, say: Callable[[str], None]) -> None:
        from autoexperiment.datasets.download import fetch

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            room = shutil.disk_usage(self.path.parent).free
        except OSError as error:
            raise DataError(f"Cannot make the folder {self.path.parent}: {error.strerror}.") from error
        fetch(url, self.path, digest=f"sha256:{sha256.lower()}", limit_bytes=room, say=say)

    def _arrays(self) -> tables.Columns:
        """Rows and targets as they stand in the file, not in memory."""
        if self.path.is_dir():
            self._refuse_target("y.npy")
            return arrays.open_npy(self.path / "X.npy"), arrays.open_npy(self.path / "y.npy"), ()
        readers: dict[str, Callable[[], tables.Columns]] = {
            ".csv": self._text_table,
            ".npy": self._one_array,
            ".npz": self._archive,
            ".parquet": self._parquet,
        }
        if (reader := readers.get(self.path.suffix.lower())) is None:
            raise DataError(
                f"{self.path} is of no type that is read. Supported: {', '.join(SUFFIXES)}, or a folder with X.npy and "
                'y.npy. For anything else give a "loader".'
            )
        return reader()

    def _text_table(self) -> tables.Columns:
        from autoexperiment.datasets import delimited

        rows = delimited.read(self.path, target=self.target, has_labels=self.task == CLASSIFICATION)
        return self._converted(rows)

    def _parquet(self) -> tables.Columns:
        from autoexperiment.datasets import parquet

        rows = parquet.read(self.path, target=self.target, has_labels=self.task == CLASSIFICATION)
        return self._converted(rows)

    def _converted(self, rows: Iterator[tables.Rows]) -> tables.Columns:
        options = json.dumps([self.path.suffix.lower(), self.task, self.target])
        return tables.converted(
            self.path, options=options, write=lambda folder: tables.write_rows(folder, rows, name=str(self.path))
        )

    def _one_array(self) -> tables.Columns:
        array = arrays.open_npy(self.path)
        if array.ndim != 2 or array.shape[1] < 2:
            raise DataError(
                f"{self.path} has the shape {array.shape}. Needed: (rows, columns), at least one feature and the target. "
                "For rows and targets apart give an .npz with X and y, or a folder with X.npy and y.npy."
            )
        from autoexperiment.datasets.delimited import target_column

        column = target_column(self.target, names=(), width=array.shape[1], where=str(self.path))
        if column == array.shape[1] - 1:
            return array[:, :-1], array[:, -1], ()
        if column == 0:
            return array[:, 1:], array[:, 0], ()
        return self._converted(_without(array, column))

    def _archive(self) -> tables.Columns:
        self._refuse_target("the array y")
        if found := arrays.open_npz(self.path):
            return found["X"], found["y"], ()
        return tables.converted(self.path, options=".npz", write=self._extracted)

    def _extracted(self, folder: Path) -> tuple[str, ...]:
        arrays.extract_npz(self.path, folder)
        return ()

    def _refuse_target(self, source: str) -> None:
        if self.target is not None:
            raise DataError(
                f"{self.path}: the targets come from {source}, so a target column ({self.target!r}) has no meaning. "
                "Leave 'target' out."
            )


def _without(array: Array, column: int) -> Iterator[tables.Rows]:
    """The rows without a column, which becomes the targets."""
    for rows in slices(len(array), array.shape[1]):
        piece = array[rows].astype(np.float64)
        yield tables.Rows(np.delete(piece, column, axis=1), np.ascontiguousarray(piece[:, column]))
